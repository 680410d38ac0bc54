//! One's own trace, as far as a player has to see it.

use crate::{
    merkle::Tree,
    program::{FailedCheck, Run, Symbols, Tensor, TraceBuilder, TraceTree, tensor_tree},
};
use std::{collections::HashMap, convert::Infallible, sync::Arc};

/// Tensors of some nodes.
pub type Tensors = HashMap<u32, Arc<Tensor>>;

/// A run of one's own: the hashes of all nodes at once, the elements of a few at a time. For a large model that is all that fits in memory.
pub trait Trace {
    /// Why tensors could not be had.
    type Error;

    /// The tree over the nodes, with the symbols of the run.
    fn tree(&self) -> &TraceTree;

    /// The tokens that the run goes over after the prompt.
    fn generated(&self) -> &[u32];

    /// The first element of a check that is not 1, if there is one.
    fn failed(&self) -> Option<FailedCheck>;

    /// The bytes of the last node.
    fn output(&self) -> &[u8];

    /// The tensors of these nodes. Those that do not exist are left out.
    ///
    /// # Errors
    /// If the run can't be repeated.
    fn tensors(&self, nodes: &[u32]) -> Result<Tensors, Self::Error>;

    /// The tree over the leaves of a node's tensor.
    ///
    /// # Errors
    /// As [`Trace::tensors`].
    fn leaves(&self, node: u32) -> Result<Arc<Tree>, Self::Error> {
        let tensors = self.tensors(&[node])?;
        Ok(Arc::new(tensors.get(&node).map_or_else(|| Tree::new(Vec::new()), |tensor| tensor_tree(tensor))))
    }
}

impl<T: Trace> Trace for Arc<T> {
    type Error = T::Error;

    fn tree(&self) -> &TraceTree {
        (**self).tree()
    }

    fn generated(&self) -> &[u32] {
        (**self).generated()
    }

    fn failed(&self) -> Option<FailedCheck> {
        (**self).failed()
    }

    fn output(&self) -> &[u8] {
        (**self).output()
    }

    fn tensors(&self, nodes: &[u32]) -> Result<Tensors, T::Error> {
        (**self).tensors(nodes)
    }

    fn leaves(&self, node: u32) -> Result<Arc<Tree>, T::Error> {
        (**self).leaves(node)
    }
}

/// A trace that is kept whole.
#[derive(Debug, Clone)]
pub struct MemoryTrace {
    tree: TraceTree,
    generated: Vec<u32>,
    failed: Option<FailedCheck>,
    output: Vec<u8>,
    tensors: Vec<Arc<Tensor>>,
}

impl MemoryTrace {
    /// Hashes a run.
    pub fn new(run: Run) -> Self {
        let Run { symbols, output, generated, tensors, failed_check } = run;
        Self::from_tensors(symbols, generated, output, tensors, failed_check)
    }

    /// Hashes tensors, whatever they are.
    pub fn from_tensors(
        symbols: Symbols,
        generated: Vec<u32>,
        output: Vec<u8>,
        tensors: Vec<Tensor>,
        failed: Option<FailedCheck>,
    ) -> Self {
        let mut builder = TraceBuilder::default();
        tensors.iter().for_each(|tensor| builder.push(tensor));
        let tensors = tensors.into_iter().map(Arc::new).collect();
        Self { tree: builder.finish(symbols), generated, failed, output, tensors }
    }
}

impl Trace for MemoryTrace {
    type Error = Infallible;

    fn tree(&self) -> &TraceTree {
        &self.tree
    }

    fn generated(&self) -> &[u32] {
        &self.generated
    }

    fn failed(&self) -> Option<FailedCheck> {
        self.failed
    }

    fn output(&self) -> &[u8] {
        &self.output
    }

    fn tensors(&self, nodes: &[u32]) -> Result<Tensors, Infallible> {
        let tensor = |node: &u32| Some((*node, self.tensors.get(*node as usize)?.clone()));
        Ok(nodes.iter().filter_map(tensor).collect())
    }
}

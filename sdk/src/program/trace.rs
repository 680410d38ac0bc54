//! The trace of a run: every node's tensor under one root (rules P-53 to P-56).
//!
//! Nothing here is computed while all is well. [`TraceBuilder`] takes tensors in node order as an engine produces them
//! and keeps one hash per node; [`TraceTree`] opens leaves when a dispute asks for them.

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use super::{Symbols, Tensor};
use crate::merkle::{Accumulator, Domain, Tree, hash, hash_leaves, verify, word};

/// The root over the leaves of one tensor. A tensor without elements has the absent root.
pub fn tensor_root(tensor: &Tensor) -> B256 {
    let mut tree = Accumulator::default();
    for_each_leaf(tensor, |leaf| tree.push(leaf));
    tree.root()
}

/// The whole tree over the leaves of one tensor.
pub fn tensor_tree(tensor: &Tensor) -> Tree {
    let mut leaves = Vec::new();
    for_each_leaf(tensor, |leaf| leaves.push(leaf));
    Tree::new(leaves)
}

fn for_each_leaf(tensor: &Tensor, mut visit: impl FnMut(B256)) {
    // As many rows at a time as make it worth while to hash several leaves at once.
    let rows_at_once = 128usize.div_ceil(tensor.leaves_per_row().max(1));
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for first in (0..tensor.rows()).step_by(rows_at_once) {
        bytes.clear();
        ends.clear();
        for row in first..(first + rows_at_once).min(tensor.rows()) {
            for leaf in 0..tensor.leaves_per_row() {
                tensor.write_leaf(row, leaf, &mut bytes);
                ends.push(bytes.len());
            }
        }
        let starts = [0].iter().chain(&ends);
        let leaves = starts.zip(&ends).map(|(&start, &end)| &bytes[start..end]);
        hash_leaves(Domain::TraceLeaf, leaves, &mut visit);
    }
}

/// Binds the root over nodes to the symbols of the run, from which every shape follows.
fn bind(symbols: &Symbols, nodes: &B256) -> B256 {
    let Symbols { sequence, prompt, input_bytes, output_bytes } = *symbols;
    let words = [sequence, prompt, input_bytes, output_bytes].map(|n| word(u64::from(n)));
    hash(Domain::Trace, &[&words[0], &words[1], &words[2], &words[3], nodes.as_slice()])
}

/// Collects the tensors of a run, in node order.
#[derive(Clone, Debug, Default)]
pub struct TraceBuilder {
    roots: Vec<B256>,
}

impl TraceBuilder {
    /// Adds the tensor of the next node.
    pub fn push(&mut self, tensor: &Tensor) {
        self.roots.push(tensor_root(tensor));
    }

    /// Adds the root of the next node, hashed elsewhere.
    pub fn push_root(&mut self, root: B256) {
        self.roots.push(root);
    }

    /// The tree over the nodes so far.
    pub fn finish(self, symbols: Symbols) -> TraceTree {
        TraceTree { symbols, nodes: Tree::new(self.roots) }
    }
}

/// The tree over the nodes of a run.
#[derive(Clone, Debug)]
pub struct TraceTree {
    symbols: Symbols,
    nodes: Tree,
}

impl TraceTree {
    /// The trace root.
    pub fn root(&self) -> B256 {
        bind(&self.symbols, &self.nodes.root())
    }

    /// The symbols of the run.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The tree over nodes, for a dispute's descent.
    pub fn nodes(&self) -> &Tree {
        &self.nodes
    }

    /// Opens leaf `leaf` of row `row` of node `node`, whose tensor is `tensor`.
    pub fn open(&self, node: u32, tensor: &Tensor, row: u32, leaf: u32) -> Option<TraceOpening> {
        let node_path = self.nodes.path(u64::from(node))?;
        if row as usize >= tensor.rows() || leaf as usize >= tensor.leaves_per_row() {
            return None;
        }
        let position = u64::from(row) * tensor.leaves_per_row() as u64 + u64::from(leaf);
        let mut bytes = Vec::new();
        tensor.write_leaf(row as usize, leaf as usize, &mut bytes);
        Some(TraceOpening { node, position, bytes, path: tensor_tree(tensor).path(position)?, node_path })
    }
}

/// Up to 128 elements of a node and their path to a trace root.
///
/// It carries no shape: whoever verifies it knows the node's descriptor and the symbols, and so the number of leaves
/// and what position a row and column have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceOpening {
    /// Index of the node.
    pub node: u32,
    /// Number of the leaf in the tensor, row after row.
    pub position: u64,
    /// The leaf's bytes.
    pub bytes: Vec<u8>,
    /// Path from the leaf to the tensor's root.
    pub path: Vec<B256>,
    /// Path from the tensor's root to the root over nodes.
    pub node_path: Vec<B256>,
}

impl TraceOpening {
    /// True if these are those elements of the run: `node_count` nodes of which this one has `leaf_count` leaves.
    pub fn verify(&self, trace_root: &B256, symbols: &Symbols, node_count: u64, leaf_count: u64) -> bool {
        let leaf = hash(Domain::TraceLeaf, &[&self.bytes]);
        let tensor = crate::merkle::fold(&leaf, self.position, &self.path);
        let nodes = crate::merkle::fold(&tensor, u64::from(self.node), &self.node_path);
        bind(symbols, &nodes) == *trace_root
            && verify(&tensor, &leaf, self.position, leaf_count, &self.path)
            && verify(&nodes, &tensor, u64::from(self.node), node_count, &self.node_path)
    }
}

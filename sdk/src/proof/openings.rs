//! Openings of what a model id commits to.

use alloy_primitives::{B256, Bytes};

use super::format::{DataOpening, OperandOpening};
use crate::{
    bindings::NodeOpening,
    merkle::{ABSENT, Accumulator, Domain, Tree, depth, hash, hash_leaves, inner},
    program::{Model, Operand, TensorDescriptor, WeightTensor, WeightsTree},
};

/// The trees over a model's nodes, weight tensors and vocabulary: a hash for each of these, whatever the size of the weights.
///
/// Opening a weight hashes its tensor once more, in memory that does not depend on its size.
#[derive(Clone, Debug)]
pub struct ModelTrees {
    nodes: Tree,
    tensors: Vec<TensorDescriptor>,
    weights: Tree,
    vocabulary: Tree,
}

impl ModelTrees {
    /// Hashes a model.
    pub fn new(model: &Model) -> Self {
        Self::with_weights(model, &WeightsTree::new(&model.weights))
    }

    /// The same where the weights have been hashed already.
    pub fn with_weights(model: &Model, weights: &WeightsTree) -> Self {
        let tensors = weights.descriptors().to_vec();
        Self {
            nodes: Tree::new(model.program.nodes.iter().map(|node| hash(Domain::Node, &[&node.encode()])).collect()),
            weights: Tree::new(tensors.iter().map(TensorDescriptor::hash).collect()),
            vocabulary: Tree::new(model.vocabulary.iter().map(|entry| hash(Domain::Token, &[entry])).collect()),
            tensors,
        }
    }

    /// Root of the tree over the node descriptors: what `IStepVerifier.hasNodes` and a claim take.
    pub fn program_root(&self) -> B256 {
        self.nodes.root()
    }

    /// Opens a node's descriptor; `None` if there is no such node.
    pub fn node(&self, model: &Model, node: u32) -> Option<NodeOpening> {
        let descriptor = model.program.nodes.get(node as usize)?.encode().into();
        Some(NodeOpening { descriptor, path: self.nodes.path(node.into())? })
    }

    /// Opens what an operand is. A weight that does not exist is opened as such; `None` for a node that does not.
    pub fn operand(&self, model: &Model, operand: Operand) -> Option<OperandOpening> {
        Some(match operand {
            Operand::Node(node) => {
                let NodeOpening { descriptor, path } = self.node(model, node)?;
                OperandOpening { descriptor, path, count: 0 }
            }
            Operand::Weight(weight) => {
                let count = self.weights.count();
                let Some(tensor) = self.tensors.get(weight as usize) else {
                    return Some(OperandOpening { descriptor: Bytes::new(), path: vec![self.weights.root()], count });
                };
                OperandOpening { descriptor: tensor.encode().into(), path: self.weights.path(weight.into())?, count }
            }
            Operand::Constant(_) => OperandOpening::default(),
        })
    }

    /// Opens an entry of the vocabulary; one that does not exist as such.
    pub fn entry(&self, model: &Model, token: u32) -> DataOpening {
        let count = self.vocabulary.count();
        match (model.vocabulary.get(token as usize), self.vocabulary.path(token.into())) {
            (Some(entry), Some(path)) => DataOpening { data: entry.clone().into(), path, count },
            _ => DataOpening { data: Bytes::new(), path: vec![self.vocabulary.root()], count },
        }
    }
}

/// The path of consecutive leaves of a weight tensor to its root, as a [`LeafOpening`](super::format::LeafOpening) wants it. Hashes the whole tensor, and
/// keeps no more than the path. `None` if these leaves do not exist.
pub fn weight_path(tensor: &WeightTensor, first: u64, count: u64) -> Option<Vec<B256>> {
    let in_row = tensor.leaves_per_row() as u64;
    let leaves = tensor.rows() as u64 * in_row;
    if count == 0 || first.checked_add(count).is_none_or(|end| end > leaves) {
        return None;
    }
    // The root of the subtree `index` of a level, from the leaves below it.
    let subtree = |level: usize, index: u64| {
        let start = index << level;
        if start >= leaves {
            return ABSENT;
        }
        let end = (start + (1 << level)).min(leaves);
        let mut tree = Accumulator::default();
        let bytes = (start..end).map(|leaf| tensor.leaf((leaf / in_row) as usize, (leaf % in_row) as usize));
        hash_leaves(Domain::WeightLeaf, bytes, |hash| tree.push(hash));
        // Few leaves at the end of the tree stand under more levels than they need.
        (depth(end - start)..level).fold(tree.root(), |root, _| inner(&root, &ABSENT))
    };
    Some(siblings(depth(leaves), first, count, subtree))
}

/// The siblings of consecutive nodes on their way up, level by level: the left one of the leftmost, if that is a right child, then the right one of the
/// rightmost, if that is a left child.
pub(super) fn siblings(levels: usize, first: u64, count: u64, sibling: impl Fn(usize, u64) -> B256) -> Vec<B256> {
    let (mut left, mut right) = (first, first + count - 1);
    let mut path = Vec::new();
    for level in 0..levels {
        if left & 1 == 1 {
            path.push(sibling(level, left - 1));
        }
        if right & 1 == 0 {
            path.push(sibling(level, right + 1));
        }
        (left, right) = (left >> 1, right >> 1);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{WeightType, Weights};
    use std::sync::Arc;

    /// Rows of several leaves, the last of them shorter; numbers of leaves around powers of two.
    fn tensor(rows: u32, cols: u32) -> WeightTensor {
        let bytes: Vec<u8> = (0..rows * cols).map(|i| (i * 7) as u8).collect();
        WeightTensor::new("w", (rows, cols), WeightType::U8, Arc::new(bytes)).expect("a valid shape")
    }

    #[test]
    fn paths_without_the_tree_are_those_of_the_tree() {
        for (rows, cols) in [(1, 1), (1, 129), (3, 128), (5, 300), (8, 256), (33, 200)] {
            let weights: Weights = [tensor(rows, cols)].into_iter().collect();
            let tree = WeightsTree::new(&weights);
            let tensor = &weights.tensors()[0];
            let in_row = tensor.leaves_per_row() as u32;
            for leaf in 0..rows * in_row {
                let opening = tree.open(&weights, 0, leaf / in_row, leaf % in_row).expect("the leaf exists");
                assert_eq!(weight_path(tensor, leaf.into(), 1), Some(opening.path), "{rows} x {cols} leaf {leaf}");
            }
            assert_eq!(weight_path(tensor, (rows * in_row).into(), 1), None);
            assert_eq!(weight_path(tensor, 0, u64::from(rows * in_row) + 1), None);
            assert_eq!(weight_path(tensor, 0, 0), None);
            // All of them together need no sibling but what stands for nothing.
            let all = weight_path(tensor, 0, (rows * in_row).into()).expect("they exist");
            assert!(all.iter().all(|sibling| *sibling == ABSENT), "{rows} x {cols}: {all:?}");
        }
    }
}

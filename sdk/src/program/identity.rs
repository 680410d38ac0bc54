//! What a model id commits to, and openings of it (rules P-46 to P-52).
//!
//! ```text
//! weights      leaf 128 elements ── tree per tensor ── descriptor ──┐
//! graph        node descriptors ──────────────────── tree, counted ─┼─ model id
//! vocabulary   entries ───────────────────────────── tree, counted ─┘
//! ```

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolValue;
use serde::{Deserialize, Serialize};

use super::{LEAF, Limits, Model, Program, WeightTensor, WeightType, Weights};
use crate::{
    arithmetic::ARITHMETIC_VERSION,
    ids::ModelId,
    merkle::{Accumulator, Domain, Tree, counted, hash, hash_leaves, verify, word},
};

/// What a model id commits to. Mirrors `IModelRegistry.ModelDescriptor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelDescriptor {
    /// Version of the arithmetic.
    pub arithmetic_version: u32,
    /// Root over the node descriptors.
    pub graph_root: B256,
    /// Root over the weight tensors.
    pub weights_root: B256,
    /// Root over the vocabulary; zero where there is none.
    pub vocab_root: B256,
    /// Limits.
    pub limits: Limits,
}

impl ModelDescriptor {
    /// The model id: keccak of the ABI encoding of the fields, eight words.
    pub fn model_id(&self) -> ModelId {
        let Limits { min_input_bytes, max_input_bytes, max_output_bytes, max_tokens } = self.limits;
        let words = (
            U256::from(self.arithmetic_version),
            self.graph_root,
            self.weights_root,
            self.vocab_root,
            min_input_bytes,
            max_input_bytes,
            max_output_bytes,
            max_tokens,
        );
        ModelId(alloy_primitives::keccak256(words.abi_encode()))
    }
}

impl Model {
    /// Hashes the whole model. For a large model this takes as long as reading it.
    pub fn descriptor(&self) -> ModelDescriptor {
        self.descriptor_with(&WeightsTree::new(&self.weights))
    }

    /// The same, with weights that were hashed already.
    pub fn descriptor_with(&self, weights: &WeightsTree) -> ModelDescriptor {
        ModelDescriptor {
            arithmetic_version: ARITHMETIC_VERSION,
            graph_root: self.program.graph_root(),
            weights_root: weights.root(),
            vocab_root: self.vocab_root(),
            limits: self.limits,
        }
    }

    /// The model id. Keep the [`ModelDescriptor`] instead of calling this twice.
    pub fn model_id(&self) -> ModelId {
        self.descriptor().model_id()
    }

    /// Root over the vocabulary; zero if it is empty.
    pub fn vocab_root(&self) -> B256 {
        if self.vocabulary.is_empty() {
            return B256::ZERO;
        }
        let mut tree = Accumulator::default();
        tree.extend(self.vocabulary.iter().map(|entry| hash(Domain::Token, &[entry])));
        counted(tree.count(), &tree.root())
    }

    /// Opens a vocabulary entry.
    pub fn open_token(&self, token: u32) -> Option<TokenOpening> {
        let tree = Tree::new(self.vocabulary.iter().map(|entry| hash(Domain::Token, &[entry])).collect());
        let bytes = self.vocabulary.get(token as usize)?.clone();
        Some(TokenOpening { token, count: tree.count(), bytes, path: tree.path(u64::from(token))? })
    }
}

impl Program {
    fn descriptor_tree(&self) -> Tree {
        Tree::new(self.nodes.iter().map(|node| hash(Domain::Node, &[&node.encode()])).collect())
    }

    /// Root over the node descriptors.
    pub fn graph_root(&self) -> B256 {
        let tree = self.descriptor_tree();
        counted(tree.count(), &tree.root())
    }

    /// Opens the descriptor of a node.
    pub fn open_node(&self, index: u32) -> Option<NodeOpening> {
        let tree = self.descriptor_tree();
        let descriptor = self.nodes.get(index as usize)?.encode();
        Some(NodeOpening { index, count: tree.count(), descriptor, path: tree.path(u64::from(index))? })
    }
}

/// A node's descriptor and its path to a graph root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOpening {
    /// Index of the node.
    pub index: u32,
    /// Nodes of the graph.
    pub count: u64,
    /// The descriptor.
    pub descriptor: Vec<u8>,
    /// The path.
    pub path: Vec<B256>,
}

impl NodeOpening {
    /// True if this is that node of the graph.
    pub fn verify(&self, graph_root: &B256) -> bool {
        let leaf = hash(Domain::Node, &[&self.descriptor]);
        verify_counted(graph_root, &leaf, u64::from(self.index), self.count, &self.path)
    }
}

/// A vocabulary entry and its path to a vocabulary root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenOpening {
    /// The token's id.
    pub token: u32,
    /// Entries of the vocabulary.
    pub count: u64,
    /// The entry.
    pub bytes: Vec<u8>,
    /// The path.
    pub path: Vec<B256>,
}

impl TokenOpening {
    /// True if this is that entry of the vocabulary.
    pub fn verify(&self, vocab_root: &B256) -> bool {
        let leaf = hash(Domain::Token, &[&self.bytes]);
        verify_counted(vocab_root, &leaf, u64::from(self.token), self.count, &self.path)
    }
}

/// Shape, type and content of a weight tensor: what the tree over tensors commits to. Names are for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorDescriptor {
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// Code of the [`WeightType`].
    pub dtype: u8,
    /// Root over the leaves, row after row.
    pub root: B256,
}

impl TensorDescriptor {
    /// Hashes a tensor.
    pub fn new(tensor: &WeightTensor) -> Self {
        let mut tree = Accumulator::default();
        for_each_leaf(tensor, |leaf| tree.push(leaf));
        Self::with_root(tensor, tree.root())
    }

    /// Describes a tensor whose tree was made elsewhere.
    pub fn with_root(tensor: &WeightTensor, root: B256) -> Self {
        let size = |n: usize| u32::try_from(n).expect("a tensor's dimensions are 32-bit");
        Self { rows: size(tensor.rows()), cols: size(tensor.cols()), dtype: tensor.dtype() as u8, root }
    }

    /// Its four words.
    pub fn encode(&self) -> Vec<u8> {
        let words = [self.rows, self.cols, u32::from(self.dtype)].map(|n| word(u64::from(n)));
        [&words[0], &words[1], &words[2], &self.root.0].map(|word| word.as_slice()).concat()
    }

    /// Its leaf in the tree over tensors.
    pub fn hash(&self) -> B256 {
        hash(Domain::Tensor, &[&self.encode()])
    }

    /// Leaves of each row.
    pub fn leaves_per_row(&self) -> u64 {
        u64::from(self.cols).div_ceil(LEAF as u64)
    }

    /// Bytes of one leaf of a row, if there is such a leaf and such a type.
    fn leaf_bytes(&self, leaf: u32) -> Option<usize> {
        let dtype = WeightType::ALL.into_iter().find(|dtype| *dtype as u8 == self.dtype)?;
        let start = (leaf as usize).checked_mul(LEAF).filter(|&start| start < self.cols as usize)?;
        Some(dtype.row_bytes(LEAF.min(self.cols as usize - start)))
    }
}

fn for_each_leaf(tensor: &WeightTensor, visit: impl FnMut(B256)) {
    let rows = 0..tensor.rows();
    let leaves = rows.flat_map(|row| (0..tensor.leaves_per_row()).map(move |leaf| tensor.leaf(row, leaf)));
    hash_leaves(Domain::WeightLeaf, leaves, visit);
}

/// The tree over a model's tensors.
#[derive(Clone, Debug)]
pub struct WeightsTree {
    descriptors: Vec<TensorDescriptor>,
    tree: Tree,
}

impl WeightsTree {
    /// Hashes all weights.
    pub fn new(weights: &Weights) -> Self {
        Self::from_descriptors(weights.tensors().iter().map(TensorDescriptor::new).collect())
    }

    /// The tree over tensors that were hashed elsewhere, on several threads for instance.
    pub fn from_descriptors(descriptors: Vec<TensorDescriptor>) -> Self {
        let tree = Tree::new(descriptors.iter().map(TensorDescriptor::hash).collect());
        Self { descriptors, tree }
    }

    /// The weights root.
    pub fn root(&self) -> B256 {
        counted(self.tree.count(), &self.tree.root())
    }

    /// The descriptors.
    pub fn descriptors(&self) -> &[TensorDescriptor] {
        &self.descriptors
    }

    /// Opens leaf `leaf` of row `row` of tensor `index`. Hashes that tensor again.
    pub fn open(&self, weights: &Weights, index: u32, row: u32, leaf: u32) -> Option<WeightOpening> {
        let tensor = weights.get(index)?;
        let tensor_path = self.tree.path(u64::from(index))?;
        if row as usize >= tensor.rows() || leaf as usize >= tensor.leaves_per_row() {
            return None;
        }
        let mut leaves = Vec::new();
        for_each_leaf(tensor, |leaf| leaves.push(leaf));
        let tree = Tree::new(leaves);
        let position = u64::from(row) * tensor.leaves_per_row() as u64 + u64::from(leaf);
        Some(WeightOpening {
            index,
            count: self.tree.count(),
            descriptor: *self.descriptors.get(index as usize)?,
            tensor_path,
            row,
            leaf,
            bytes: tensor.leaf(row as usize, leaf as usize).to_vec(),
            path: tree.path(position)?,
        })
    }
}

/// Up to 128 weights and their path to a weights root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightOpening {
    /// Index of the tensor.
    pub index: u32,
    /// Tensors of the model.
    pub count: u64,
    /// The tensor's descriptor.
    pub descriptor: TensorDescriptor,
    /// Path from the descriptor to the root over tensors.
    pub tensor_path: Vec<B256>,
    /// Row of the leaf.
    pub row: u32,
    /// Number of the leaf in its row.
    pub leaf: u32,
    /// The leaf's bytes.
    pub bytes: Vec<u8>,
    /// Path from the leaf to the tensor's root.
    pub path: Vec<B256>,
}

impl WeightOpening {
    /// True if these are those weights of the model.
    pub fn verify(&self, weights_root: &B256) -> bool {
        let Self { descriptor, row, leaf, .. } = self;
        if *row >= descriptor.rows || descriptor.leaf_bytes(*leaf) != Some(self.bytes.len()) {
            return false;
        }
        let count = u64::from(descriptor.rows) * descriptor.leaves_per_row();
        let position = u64::from(*row) * descriptor.leaves_per_row() + u64::from(*leaf);
        verify(&descriptor.root, &hash(Domain::WeightLeaf, &[&self.bytes]), position, count, &self.path)
            && verify_counted(weights_root, &descriptor.hash(), u64::from(self.index), self.count, &self.tensor_path)
    }
}

/// True if `leaf` is number `index` of the leaves under a counted root.
pub(crate) fn verify_counted(root: &B256, leaf: &B256, index: u64, count: u64, path: &[B256]) -> bool {
    let tree = crate::merkle::fold(leaf, index, path);
    counted(count, &tree) == *root && verify(&tree, leaf, index, count, path)
}

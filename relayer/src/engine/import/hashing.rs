//! A model's id on several threads: what an import of gigabytes waits for.

use candor_sdk::merkle::{Accumulator, Domain, hash_leaves};
use candor_sdk::program::{LEAF, Model, ModelDescriptor, TensorDescriptor, WeightTensor, WeightsTree};
use rayon::prelude::*;

/// Leaves of the subtree that one task hashes: half a megabyte of f32.
const LEVEL: u32 = 10;

/// [`Model::descriptor`], the tensors' leaves hashed on the current rayon pool.
pub fn descriptor(model: &Model) -> ModelDescriptor {
    let tensors = model.weights.tensors().par_iter().map(tensor).collect();
    model.descriptor_with(&WeightsTree::from_descriptors(tensors))
}

fn tensor(tensor: &WeightTensor) -> TensorDescriptor {
    let per_row = tensor.leaves_per_row();
    let leaves = tensor.rows() * per_row;
    let part = 1usize << LEVEL;
    let parts: Vec<Accumulator> = (0..leaves.div_ceil(part))
        .into_par_iter()
        .map(|index| {
            let range = index * part..leaves.min((index + 1) * part);
            let bytes = range.map(|leaf| tensor.leaf(leaf / per_row, leaf % per_row));
            let mut tree = Accumulator::default();
            hash_leaves(Domain::WeightLeaf, bytes, |leaf| tree.push(leaf));
            tree
        })
        .collect();
    let mut tree = Accumulator::default();
    parts.iter().for_each(|part| tree.append(part));
    TensorDescriptor::with_root(tensor, tree.root())
}

const _: () = assert!(LEAF * (1 << LEVEL) * 4 == 512 << 10);

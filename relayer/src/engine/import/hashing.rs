//! A model's id on several threads: what an import of gigabytes waits for.

use candor_sdk::merkle::{Accumulator, Domain, hash_leaves};
use candor_sdk::program::{LEAF, Model, ModelDescriptor, TensorDescriptor, WeightTensor, WeightsTree};
use rayon::prelude::*;

/// Leaves of the subtree that one task hashes: half a megabyte of f32.
const LEVEL: u32 = 10;

/// Bytes that are hashed between two reports of progress.
const STEP: u64 = 64 << 20;

/// [`Model::descriptor`], the tensors' leaves hashed on the current rayon pool.
pub fn descriptor(model: &Model) -> ModelDescriptor {
    descriptor_reporting(model, &mut |_, _| ())
}

/// The same; `progress` hears the bytes hashed and to be hashed.
pub(super) fn descriptor_reporting(model: &Model, progress: &mut dyn FnMut(u64, u64)) -> ModelDescriptor {
    let total = model.weights.byte_len();
    let (mut done, mut rest) = (0, model.weights.tensors());
    let mut tensors = Vec::with_capacity(rest.len());
    progress(done, total);
    while !rest.is_empty() {
        let mut bytes = 0;
        let next = rest.iter().take_while(|tensor| {
            let fits = bytes < STEP;
            bytes += if fits { tensor.bytes().len() as u64 } else { 0 };
            fits
        });
        let (now, later) = rest.split_at(next.count());
        tensors.par_extend(now.par_iter().map(tensor));
        (rest, done) = (later, done + bytes);
        progress(done, total);
    }
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

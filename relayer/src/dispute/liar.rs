//! An operator that lies, for the demo and the tests: it runs a model in which one bit of one weight is flipped, and says that it is the true one.
//!
//! No configuration leads here: it has to be written into a program.

use super::trace::{Replayed, Retrace, Visit};
use crate::{
    engine::{Device, InferError, InferRequest, LoadError, LoadedModel},
    pipeline::Infer,
};
use candor_sdk::program::{Model, ModelError, WeightTensor, WeightType};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Which bit is flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Index of the weight tensor.
    pub tensor: u32,
    /// Byte of it.
    pub byte: usize,
    /// Bit of the byte.
    pub bit: u8,
}

/// The true model, and the one that is run. It answers one batch: a liar that is convicted does not lie again when the request is open again.
#[derive(Debug)]
pub struct Liar {
    truth: Model,
    bent: LoadedModel,
    lied: AtomicBool,
}

impl Liar {
    /// Flips a bit of a copy of a model.
    ///
    /// # Errors
    /// If there is no such bit, or the model can't be loaded.
    pub fn new(truth: &Model, flip: Flip) -> Result<Self, LoadError> {
        let bent = LoadedModel::load(bend(truth, flip)?, Device::default())?;
        Ok(Self { truth: truth.clone(), bent, lied: AtomicBool::default() })
    }

    /// The first flip of a small model, from tensor `first` on, that changes the answer to a request; none if there is none among a few weights of each
    /// tensor. Most bits change nothing: a weight may meet a zero.
    ///
    /// # Errors
    /// As [`Liar::new`].
    pub fn telling(truth: &Model, first: u32, request: &InferRequest) -> Result<Option<Flip>, LoadError> {
        let answer = |model: &LoadedModel| model.infer(std::slice::from_ref(request)).pop().and_then(Result::ok);
        let right = answer(&LoadedModel::load(truth.clone(), Device::default())?);
        for (tensor, weights) in (0u32..).zip(truth.weights.tensors()).skip(first as usize) {
            // The lowest bit of the exponent: half of it, or twice as much.
            let (width, byte, bit) = match weights.dtype() {
                WeightType::F32 => (4, 2, 7),
                WeightType::F16 => (2, 1, 2),
                WeightType::Bf16 => (2, 0, 7),
                _ => continue,
            };
            let elements = weights.byte_len() / width;
            for element in [0, elements / 2, elements.saturating_sub(1)] {
                let flip = Flip { tensor, byte: width * element + byte, bit };
                let wrong = answer(&LoadedModel::load(bend(truth, flip)?, Device::default())?);
                if wrong.is_some() && wrong != right {
                    return Ok(Some(flip));
                }
            }
        }
        Ok(None)
    }
}

/// A model with one bit flipped.
///
/// # Errors
/// If there is no such bit.
pub fn bend(model: &Model, flip: Flip) -> Result<Model, ModelError> {
    let mut bent = model.clone();
    let tensors = model.weights.tensors().iter().enumerate().map(|(index, tensor)| {
        if index != flip.tensor as usize {
            return Ok(tensor.clone());
        }
        let mut bytes = tensor.bytes().to_vec();
        let byte = bytes.get_mut(flip.byte);
        let byte = byte.ok_or_else(|| ModelError::Graph(format!("{}: no byte {}", tensor.name(), flip.byte)))?;
        *byte ^= 1 << (flip.bit % 8);
        // Dimensions are 32-bit.
        let shape = (tensor.rows() as u32, tensor.cols() as u32);
        WeightTensor::new(tensor.name(), shape, tensor.dtype(), Arc::new(bytes))
    });
    bent.weights = tensors.collect::<Result<_, _>>()?;
    Ok(bent)
}

impl Infer for Liar {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        if self.lied.swap(true, Ordering::Relaxed) {
            return batch.iter().map(|_| Err(InferError::Claim("it has said what it had to say".into()))).collect();
        }
        self.bent.infer(batch)
    }

    fn device(&self) -> String {
        self.bent.device()
    }

    fn retrace(&self) -> Option<&dyn Retrace> {
        Some(self)
    }
}

impl Retrace for Liar {
    fn model(&self) -> &Model {
        &self.truth
    }

    fn generate(&self, request: &InferRequest) -> Result<Vec<u32>, InferError> {
        self.bent.generate(request)
    }

    fn replay(&self, request: &InferRequest, generated: &[u32], visit: &mut Visit<'_>) -> Replayed {
        self.bent.replay(request, generated, visit)
    }
}

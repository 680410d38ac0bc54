//! An operator that lies, for the demo and the tests: it runs a model in which one bit of one weight is flipped, and says that it is the true one.
//!
//! No configuration leads here: it has to be written into a program.

use super::trace::{Retrace, Visit};
use crate::{
    engine::{Device, InferError, InferRequest, LoadError, LoadedModel},
    pipeline::Infer,
};
use candor_sdk::program::{FailedCheck, Model, ModelError, TraceTree, WeightTensor};
use std::sync::Arc;

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

/// The true model, and the one that is run.
#[derive(Debug)]
pub struct Liar {
    truth: Model,
    bent: LoadedModel,
}

impl Liar {
    /// Flips a bit of a copy of a model.
    ///
    /// # Errors
    /// If there is no such bit, or the model can't be loaded.
    pub fn new(truth: &Model, flip: Flip) -> Result<Self, LoadError> {
        Ok(Self { truth: truth.clone(), bent: LoadedModel::load(bend(truth, flip)?, Device::default())? })
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

    fn replay(
        &self,
        request: &InferRequest,
        generated: &[u32],
        visit: &mut Visit<'_>,
    ) -> Result<(TraceTree, Option<FailedCheck>), InferError> {
        self.bent.replay(request, generated, visit)
    }
}

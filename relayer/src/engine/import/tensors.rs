//! Tensors of a safetensors file, each checked before it becomes part of a model.

use super::ImportError;
use candle_core::safetensors::SliceSafetensors;
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{WeightTensor, WeightType};
use safetensors::Dtype;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The file, and which of its tensors have been used.
pub(super) struct Tensors<'a> {
    file: SliceSafetensors<'a>,
    used: BTreeSet<String>,
}

fn fault<T>(name: &str, problem: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Tensor { name: name.to_string(), problem: problem.into() })
}

impl<'a> Tensors<'a> {
    /// Reads the header, which must describe exactly the bytes that follow it.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, ImportError> {
        let file = SliceSafetensors::new(bytes).map_err(ImportError::Safetensors)?;
        Ok(Self { file, used: BTreeSet::new() })
    }

    /// The dimensions of a tensor.
    pub(super) fn dims(&self, name: &str) -> Result<Vec<usize>, ImportError> {
        match self.file.get(name) {
            Ok(view) => Ok(view.shape().to_vec()),
            Err(_) => fault(name, "is named in config.json and missing here"),
        }
    }

    /// A tensor of the given shape as `rows` x `cols` of a model's weights. Its elements keep their type.
    pub(super) fn take(
        &mut self,
        name: &str,
        dims: &[usize],
        (rows, cols): (u32, u32),
    ) -> Result<WeightTensor, ImportError> {
        let found = self.dims(name)?;
        if found != dims {
            return fault(name, format!("shape {found:?}, config.json needs {dims:?}"));
        }
        let view = self.file.get(name).map_err(ImportError::Safetensors)?;
        let (dtype, not_a_number) = match view.dtype() {
            Dtype::F32 => (WeightType::F32, first(view.data(), |b| f32::from_le_bytes(b).is_nan())),
            Dtype::F16 => (WeightType::F16, first(view.data(), |b| scalar::f16_to_f32(u16::from_le_bytes(b)).is_nan())),
            Dtype::BF16 => {
                (WeightType::Bf16, first(view.data(), |b| scalar::bf16_to_f32(u16::from_le_bytes(b)).is_nan()))
            }
            other => return fault(name, format!("elements of type {other:?}; F32, F16 and BF16 are understood")),
        };
        if let Some(element) = not_a_number {
            return fault(name, format!("element {element} is NaN"));
        }
        self.used.insert(name.to_string());
        Ok(WeightTensor::new(name, (rows, cols), dtype, Arc::new(view.data().to_vec()))?)
    }

    /// Refuses tensors that no layer has used: the two files do not belong together.
    pub(super) fn finish(self) -> Result<(), ImportError> {
        let mut names: Vec<String> = self.file.tensors().into_iter().map(|(name, _)| name).collect();
        names.sort();
        match names.into_iter().find(|name| !self.used.contains(name)) {
            Some(name) => fault(&name, "is not named in config.json"),
            None => Ok(()),
        }
    }
}

fn first<const N: usize>(bytes: &[u8], is: impl Fn([u8; N]) -> bool) -> Option<usize> {
    bytes.as_chunks::<N>().0.iter().position(|element| is(*element))
}

//! Is the imported model the one its author meant? Runs it beside candle's own float run of the same weights.

use super::onnx::{CandleGraph, OnnxInput};
use super::{CandleModel, Family, Imported, bert, config::InputKind, decoder};
use crate::engine::{Device, InferError, InferRequest, LoadError, LoadedModel};
use candle_core::{DType, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use candor_sdk::arithmetic::{reduction, sampling};
use candor_sdk::program::{Model, Params, WeightTensor, WeightType};
use std::collections::HashMap;
use std::fmt;
use thiserror::Error;

/// How the model's numbers compare with candle's: those of the last layer, the embedding, or the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Requests compared.
    pub requests: usize,
    /// Rows compared: one for each request, or one for each token that candle generates greedily.
    pub rows: usize,
    /// Numbers of a row.
    pub width: usize,
    /// Largest difference.
    pub max_error: f32,
    /// Least cosine between the two versions of a row; 1 for equal ones.
    pub min_cosine: f64,
    /// Rows whose largest number is at the same place.
    pub same_argmax: usize,
    /// Rows whose largest number is elsewhere because candle's two largest are no further apart than twice the largest
    /// difference of the row: which one is first is a matter of rounding.
    pub close_calls: usize,
    /// Whether the model computes with quantised activations, which candle's float run does not.
    pub quantised: bool,
}

impl Check {
    /// Whether this is the same model. A quantised one is not meant to agree to the last digits.
    pub fn agrees(&self) -> bool {
        let (cosine, argmax) = if self.quantised { (0.98, 0) } else { (0.99999, self.rows) };
        self.rows > 0 && self.min_cosine >= cosine && self.same_argmax + self.close_calls >= argmax
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, rows, max_error, min_cosine, same_argmax, close_calls, .. } = self;
        write!(f, "{requests} requests against candle: max error {max_error:.2e}, ")?;
        write!(f, "cosine at least {min_cosine:.9}, same argmax {same_argmax}/{rows}")?;
        if *close_calls > 0 {
            write!(f, " and {close_calls} within rounding")?;
        }
        Ok(())
    }
}

/// A comparison that could not be made.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The engine cannot load the model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine cannot run a request.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// candle cannot run the files.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

/// Tokens that candle generates for a request of a check.
const TOKENS: u32 = 4;

impl Imported {
    /// Compares the model with candle on `requests`. Language models are compared on the few tokens that candle generates
    /// greedily.
    ///
    /// # Errors
    /// If one of the two cannot run a request.
    pub fn check(&self, requests: &[Vec<u8>]) -> Result<Check, CheckError> {
        self.check_tokens(requests, TOKENS)
    }

    /// The same with a chosen number of tokens; at most as many as the model generates.
    ///
    /// # Errors
    /// As [`Imported::check`].
    pub fn check_tokens(&self, requests: &[Vec<u8>], tokens: u32) -> Result<Check, CheckError> {
        let batch: Vec<InferRequest> =
            requests.iter().map(|input| InferRequest { input: input.clone(), ..InferRequest::default() }).collect();
        let weights = Weights::of(&self.model);
        let mut pairs = Vec::new();
        let mut width = None;
        match &self.family {
            Family::Sequential { config, weights } => {
                let theirs = CandleModel::new(config, weights)?.last_layer(requests)?;
                pairs.extend(self.values(&batch)?.into_iter().zip(theirs));
            }
            Family::Bert(config) => {
                let candle = bert::CandleEncoder::load(config, &weights)?;
                let theirs = requests.iter().map(|request| candle.embed(&tokens_of(request)));
                let theirs = theirs.collect::<candle_core::Result<Vec<_>>>()?;
                pairs.extend(self.values(&batch)?.into_iter().zip(theirs));
            }
            Family::Onnx(model) => {
                let candle = CandleGraph::load(model)?;
                let theirs = requests.iter().map(|request| candle.run(request));
                let theirs = theirs.collect::<candle_core::Result<Vec<_>>>()?;
                pairs.extend(self.values(&batch)?.into_iter().zip(theirs));
            }
            Family::Decoder(config) => {
                let most = tokens.clamp(1, self.model.limits.max_tokens);
                width = Some(config.vocabulary as usize);
                let longest = requests.iter().map(Vec::len).max().unwrap_or(0) / 4;
                let mut candle = decoder::CandleDecoder::load(config, &weights, longest + most as usize)?;
                let loaded = LoadedModel::load(self.model.clone(), Device::Cpu)?;
                for request in &batch {
                    let (generated, theirs) = candle.generate(&tokens_of(&request.input), most)?;
                    let params = Params { max_tokens: most, ..Params::default() };
                    let request = InferRequest { params, ..request.clone() };
                    let mut ours = Vec::new();
                    loaded.replay(&request, &generated, |node, tensor| {
                        if node == self.last_layer {
                            ours = tensor.f32().unwrap_or_default().to_vec();
                        }
                    })?;
                    pairs.push((ours, theirs));
                }
            }
        }
        let width = width.or_else(|| pairs.first().map(|(ours, _)| ours.len())).unwrap_or(0).max(1);
        let quantised = self.model.weights.tensors().iter().any(|tensor| tensor.dtype().block().is_some());
        let mut check = Check {
            requests: requests.len(),
            rows: 0,
            width,
            max_error: 0.0,
            min_cosine: 1.0,
            same_argmax: 0,
            close_calls: 0,
            quantised,
        };
        for (ours, theirs) in &pairs {
            if ours.len() != theirs.len() {
                return Err(candle_core::Error::msg(format!("{} numbers, not {}", theirs.len(), ours.len())).into());
            }
            for (ours, theirs) in ours.chunks(width).zip(theirs.chunks(width)) {
                check.compare(ours, theirs);
            }
        }
        Ok(check)
    }

    /// What the last layer holds for each request.
    fn values(&self, batch: &[InferRequest]) -> Result<Vec<Vec<f32>>, CheckError> {
        Ok(LoadedModel::load(self.model.clone(), Device::Cpu)?.node_values(batch, self.last_layer)?)
    }

    /// A `sequential` model's files as candle runs them; other families have models of candle's own.
    ///
    /// # Errors
    /// What candle says.
    pub fn candle(&self) -> candle_core::Result<CandleModel> {
        match &self.family {
            Family::Sequential { config, weights } => CandleModel::new(config, weights),
            other => candle_core::bail!("{} is a model of candle's own", other.name()),
        }
    }

    /// Made-up requests of the right shape, the same on every machine: bytes, numbers from -4 to 4, or token ids.
    pub fn probes(&self, count: u32) -> Vec<Vec<u8>> {
        let word = |request: u32, i: u32| sampling::philox4x32_10([request, i, 0, 0], [0, 0])[0];
        let tokens = |request: u32, vocabulary: u32| -> Vec<u8> {
            let most = (self.model.limits.max_input_bytes / 4).min(24);
            let length = 1 + (3 + 5 * request) % most.max(1);
            (0..length).flat_map(|i| (word(request, i) % vocabulary.max(1)).to_be_bytes()).collect()
        };
        let bytes = |request: u32, count: u32| (0..count).map(|i| word(request, i) as u8).collect();
        let floats = |request: u32, count: u32| {
            (0..count).flat_map(|i| ((word(request, i) >> 8) as f32 / 2_097_152.0 - 4.0).to_be_bytes()).collect()
        };
        let limits = self.model.limits;
        (0..count)
            .map(|request| match &self.family {
                Family::Bert(config) => tokens(request, config.vocabulary),
                Family::Decoder(config) => tokens(request, config.vocabulary),
                Family::Sequential { config, .. } => {
                    let elements: u32 = config.input.shape.iter().product();
                    match config.input.kind {
                        InputKind::U8 => bytes(request, elements),
                        InputKind::F32be => floats(request, elements),
                    }
                }
                Family::Onnx(model) => match &model.config().input {
                    OnnxInput::U8 { .. } => bytes(request, limits.max_input_bytes),
                    OnnxInput::F32be { .. } => floats(request, limits.max_input_bytes / 4),
                    // Short ones, which are padded, and long ones.
                    OnnxInput::Ends { .. } => {
                        let span = limits.max_input_bytes - limits.min_input_bytes;
                        bytes(request, limits.min_input_bytes + span / count.max(1) * request)
                    }
                    OnnxInput::Tokens { bound, .. } if limits.min_input_bytes == limits.max_input_bytes => {
                        (0..limits.max_input_bytes / 4).flat_map(|i| (word(request, i) % bound).to_be_bytes()).collect()
                    }
                    OnnxInput::Tokens { bound, .. } => tokens(request, *bound),
                },
            })
            .collect()
    }
}

impl Check {
    fn compare(&mut self, ours: &[f32], theirs: &[f32]) {
        let error = ours.iter().zip(theirs).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
        // A NaN on one side only is an infinite error, not none.
        let error = error.map(|e| if e.is_nan() { f32::INFINITY } else { e }).fold(0.0, f32::max);
        self.rows += 1;
        self.max_error = self.max_error.max(error);
        self.min_cosine = self.min_cosine.min(cosine(ours, theirs));
        let (Some(mine), Some(best)) = (reduction::argmax(ours), reduction::argmax(theirs)) else { return };
        if mine == best {
            self.same_argmax += 1;
        } else if theirs[best] - theirs[mine] <= 2.0 * error && error.is_finite() {
            self.close_calls += 1;
        }
    }
}

fn tokens_of(input: &[u8]) -> Vec<u32> {
    input.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if a == b || norms == 0.0 { 1.0 } else { dot(a, b) / norms }
}

/// The weights of a model for candle: widened to f32, in the shapes that candle asks for, by the names that they have in
/// Hugging Face folders.
pub(super) struct Weights {
    tensors: HashMap<String, WeightTensor>,
}

impl From<Vec<WeightTensor>> for Weights {
    fn from(tensors: Vec<WeightTensor>) -> Self {
        Self { tensors: tensors.into_iter().map(|tensor| (tensor.name().to_string(), tensor)).collect() }
    }
}

impl Weights {
    fn of(model: &Model) -> Self {
        Self::from(model.weights.tensors().to_vec())
    }

    /// All tensors, in no order.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &WeightTensor> {
        self.tensors.values()
    }

    /// The source of a candle model's weights.
    pub(super) fn var_builder(&self) -> VarBuilder<'_> {
        VarBuilder::from_backend(Box::new(self), DType::F32, candle_core::Device::Cpu)
    }

    fn find(&self, name: &str) -> Option<&WeightTensor> {
        // candle knows layer norms by their newer names alone.
        let older = |new: &str, old: &str| {
            let name = name.strip_suffix(new)?;
            self.tensors.get(&format!("{name}{old}"))
        };
        let found = self.tensors.get(name);
        found
            .or_else(|| older("LayerNorm.weight", "LayerNorm.gamma"))
            .or_else(|| older("LayerNorm.bias", "LayerNorm.beta"))
    }
}

impl SimpleBackend for &Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &candle_core::Device,
    ) -> candle_core::Result<Tensor> {
        self.get_unchecked(name, dtype, device)?.reshape(shape)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &candle_core::Device) -> candle_core::Result<Tensor> {
        let Some(tensor) = self.find(name) else {
            return Err(candle_core::Error::CannotFindTensor { path: name.to_string() }.bt());
        };
        let shape = (tensor.rows(), tensor.cols());
        let stored = match tensor.dtype() {
            WeightType::F32 => DType::F32,
            WeightType::F16 => DType::F16,
            WeightType::Bf16 => DType::BF16,
            _ => {
                let values: Vec<f32> = (0..tensor.rows()).flat_map(|row| tensor.row_f32(row)).collect();
                return Tensor::from_vec(values, shape, device)?.to_dtype(dtype);
            }
        };
        Tensor::from_raw_buffer(tensor.bytes(), stored, &[shape.0, shape.1], device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[(&[f32], &[f32])]) -> Check {
        let mut check = Check {
            requests: rows.len(),
            rows: 0,
            width: 3,
            max_error: 0.0,
            min_cosine: 1.0,
            same_argmax: 0,
            close_calls: 0,
            quantised: false,
        };
        rows.iter().for_each(|(ours, theirs)| check.compare(ours, theirs));
        check
    }

    #[test]
    fn rounding_excuses_a_close_call_and_nothing_else() {
        let (theirs, close, far) = ([1.0, 4.0, 4.000_001], [1.0, 4.000_001, 4.0], [1.0, 4.0, 3.0]);
        let same = of(&[(&theirs, &theirs)]);
        assert!(same.agrees() && same.same_argmax == 1 && same.max_error == 0.0);
        let call = of(&[(&close, &theirs)]);
        assert!(call.agrees() && call.close_calls == 1, "{call}");
        assert!(call.to_string().contains("0/1 and 1 within rounding"), "{call}");
        // As large an error, but in another row: it does not excuse this one.
        let other = of(&[(&[1.0, 2.0, 3.5], &[1.0, 2.0, 3.0]), (&[1.0, 4.01, 4.0], &[1.0, 4.0, 4.1])]);
        assert!(other.same_argmax == 1 && other.close_calls == 1 && other.max_error == 0.5, "{other}");
        assert!(!of(&[(&far, &theirs)]).agrees());
    }

    #[test]
    fn nothing_compared_and_nan_are_no_agreement() {
        assert!(!of(&[]).agrees());
        let nan = of(&[(&[f32::NAN, 0.0, 1.0], &[0.5, 0.0, 1.0])]);
        assert!(nan.max_error == f32::INFINITY && !nan.agrees(), "{nan}");
        let infinite = of(&[(&[f32::INFINITY, 0.0, 1.0], &[0.5, 0.0, 1.0])]);
        assert!(!infinite.agrees(), "{infinite}");
    }
}

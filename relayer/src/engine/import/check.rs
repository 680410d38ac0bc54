//! Is the imported model the one its author meant? Runs it beside candle's own float run of the same files.

use super::{CandleModel, Imported, config::InputKind};
use crate::engine::{Device, InferError, InferRequest, LoadError, LoadedModel};
use candor_sdk::arithmetic::{reduction, sampling};
use std::fmt;
use thiserror::Error;

/// How the last layer compares with candle's.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Requests compared.
    pub requests: usize,
    /// Numbers of the last layer, per request.
    pub width: usize,
    /// Largest difference.
    pub max_error: f32,
    /// Least cosine between the two last layers of a request; 1 for equal ones.
    pub min_cosine: f64,
    /// Requests for which the largest number is at the same place.
    pub same_argmax: usize,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, max_error, min_cosine, same_argmax, .. } = self;
        write!(
            f,
            "{requests} requests against candle: max error {max_error:.2e}, cosine at least {min_cosine:.9}, same argmax {same_argmax}/{requests}"
        )
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

impl Imported {
    /// Compares the engine with candle on `requests`.
    ///
    /// # Errors
    /// If one of the two cannot run a request.
    pub fn check(&self, requests: &[Vec<u8>]) -> Result<Check, CheckError> {
        let loaded = LoadedModel::load(self.model.clone(), Device::Cpu)?;
        let batch: Vec<InferRequest> =
            requests.iter().map(|input| InferRequest { input: input.clone(), ..InferRequest::default() }).collect();
        let ours = loaded.node_values(&batch, self.last_layer)?;
        let theirs = self.candle()?.last_layer(requests)?;
        let width = ours.first().map_or(0, Vec::len);
        let mut check = Check { requests: requests.len(), width, max_error: 0.0, min_cosine: 1.0, same_argmax: 0 };
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let error = ours.iter().zip(theirs).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
            // A NaN on one side only is an infinite error, not none.
            let error = error.map(|e| if e.is_nan() { f32::INFINITY } else { e }).fold(0.0, f32::max);
            check.max_error = check.max_error.max(error);
            check.min_cosine = check.min_cosine.min(cosine(ours, theirs));
            check.same_argmax += usize::from(reduction::argmax(ours) == reduction::argmax(theirs));
        }
        Ok(check)
    }

    /// The same files as candle runs them.
    ///
    /// # Errors
    /// What candle says.
    pub fn candle(&self) -> candle_core::Result<CandleModel> {
        CandleModel::new(&self.config, &self.weights)
    }

    /// Made-up requests of the right shape, the same on every machine: bytes, or numbers from -4 to 4.
    pub fn probes(&self, count: u32) -> Vec<Vec<u8>> {
        let elements: u32 = self.config.input.shape.iter().product();
        let word = |request: u32, i: u32| sampling::philox4x32_10([request, i, 0, 0], [0, 0])[0];
        (0..count)
            .map(|request| match self.config.input.kind {
                InputKind::U8 => (0..elements).map(|i| word(request, i) as u8).collect(),
                InputKind::F32be => (0..elements)
                    .flat_map(|i| ((word(request, i) >> 8) as f32 / 2_097_152.0 - 4.0).to_be_bytes())
                    .collect(),
            })
            .collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if a == b || norms == 0.0 { 1.0 } else { dot(a, b) / norms }
}

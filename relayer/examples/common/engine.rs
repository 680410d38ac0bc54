//! The relayer's engine on a model folder: what is served on the chain, in the arithmetic in which every bit is defined.

use anyhow::{Context, Result};
use candor_relayer::engine::{Device, InferRequest, LoadedModel, import};
use candor_sdk::program::Params;
use std::path::Path;

/// The output bytes for each request.
pub(crate) fn outputs(folder: &Path, requests: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let imported = import::folder(folder)?;
    let engine = LoadedModel::load(imported.model, Device::default())?;
    let request = |input| InferRequest { input, params: Params::default(), seed: [0; 32] };
    let requests: Vec<InferRequest> = requests.into_iter().map(request).collect();
    let mut outputs = Vec::with_capacity(requests.len());
    for batch in requests.chunks(100) {
        for output in engine.infer(batch) {
            outputs.push(output.context("the engine refused a held-out input")?);
        }
    }
    Ok(outputs)
}

/// The first four bytes as a big-endian word: a class, or the bits of a probability.
pub(crate) fn first_word(output: &[u8]) -> Result<u32> {
    let word = output.first_chunk().context("an output of less than four bytes")?;
    Ok(u32::from_be_bytes(*word))
}

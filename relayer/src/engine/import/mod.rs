//! From files to models, the same model (and so the same id) on every machine; and the check that it is the model its
//! author meant, against candle's own float run of the same files.
//!
//! A family of models is a folder of its own kind: `config` reads its description, `sequential` builds its graph,
//! `reference` runs it with candle. Tensors come from safetensors files through candle.

pub mod check;
pub mod config;
mod reference;
mod sequential;
mod tensors;

pub use check::{Check, CheckError};
pub use reference::CandleModel;

use candor_sdk::program::{Model, ModelError, Symbols};
use config::Config;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A model with what its files say besides the numbers.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The model.
    pub model: Model,
    /// Its name in `config.json`.
    pub name: String,
    /// Its description.
    pub config: Config,
    /// The node of the last layer, which the output bytes are made of.
    pub last_layer: u32,
    /// The safetensors file.
    weights: Vec<u8>,
}

/// Files that are not a model.
#[derive(Debug, Error)]
pub enum ImportError {
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `config.json` is not what it should be.
    #[error("config.json: {0}")]
    Config(#[from] serde_json::Error),
    /// A field of `config.json` has a value that makes no sense.
    #[error("config.json: {field}: {problem}")]
    Field {
        /// Which field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The safetensors file is damaged.
    #[error("model.safetensors: {0}")]
    Safetensors(candle_core::Error),
    /// A tensor is missing, superfluous or not what the config needs.
    #[error("model.safetensors: tensor {name:?}: {problem}")]
    Tensor {
        /// Which tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The graph is refused by the rules that all models obey.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Reads `config.json` and `model.safetensors` of a folder.
///
/// # Errors
/// If a file is missing or damaged, or the two do not make a model.
pub fn folder(path: &Path) -> Result<Imported, ImportError> {
    let read = |name: &str| {
        let path = path.join(name);
        std::fs::read(&path).map_err(|source| ImportError::Read { path, source })
    };
    let config = read("config.json")?;
    let config = String::from_utf8_lossy(&config); // what is not UTF-8 is not JSON either, and gets its error there
    bytes(&config, &read("model.safetensors")?)
}

/// Builds a model from the contents of `config.json` and `model.safetensors`.
///
/// # Errors
/// If either is damaged or the two do not make a model.
pub fn bytes(config: &str, weights: &[u8]) -> Result<Imported, ImportError> {
    let config: Config = serde_json::from_str(config)?;
    let (model, last_layer) = sequential::build(&config, weights)?;
    refuse_bombs(&model)?;
    Ok(Imported { model, name: config.name.clone(), config, last_layer, weights: weights.to_vec() })
}

/// Elements that one run of an imported model may compute: a gibibyte of f32. A config that asks for more is a mistake or
/// an attack.
const MAX_ELEMENTS: u64 = 1 << 28;

fn refuse_bombs(model: &Model) -> Result<(), ImportError> {
    // A sequential model has the same shapes for every request.
    let input_bytes = model.limits.max_input_bytes;
    let bound = model.bind(Symbols { sequence: input_bytes, prompt: input_bytes, input_bytes, output_bytes: 0 })?;
    let mut elements = 0u64;
    for (node, shape) in model.program.nodes.iter().zip(&bound.nodes) {
        elements += shape.rows as u64 * shape.cols as u64;
        if elements > MAX_ELEMENTS {
            let problem = format!("{} x {} elements bring a run beyond {MAX_ELEMENTS}", shape.rows, shape.cols);
            return Err(ImportError::Field { field: node.label.clone(), problem });
        }
    }
    Ok(())
}

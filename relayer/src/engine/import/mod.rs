//! From files to models, the same model (and so the same id) on every machine; and the check that it is the model its
//! author meant, against candle's own float run of the same weights.
//!
//! ```text
//! folder or file ── files ──> Files ── build ──> Imported ── check ──> Check
//!                                                   └ report ─> what a person wants to know
//! ```
//!
//! A family of models is a module: it reads its description (`config` and `sequential`, `bert`, `decoder`), builds its
//! graph and runs it with candle (`reference` for `sequential`). `tensors` and `gguf` hold the files they take tensors
//! from, `vocabulary` the bytes of tokens. `docs/models.md` says which families and which keys are understood, and how to
//! add one.

pub mod bert;
pub mod check;
pub mod config;
pub mod cost;
pub mod decoder;
pub mod onnx;
pub mod quantise;
pub mod report;
pub mod source;

mod fields;
mod files;
mod gguf;
mod hashing;
mod outline;
mod reference;
mod sequential;
mod tensors;
mod text;
mod vocabulary;

pub use check::{Check, CheckError};
pub use cost::{Cost, CostError, cost};
pub use files::Files;
pub use hashing::descriptor;
pub use outline::{Outline, Part};
pub use quantise::{Precision, quantise};
pub use reference::CandleModel;
pub use report::{Progress, Report, Stage, import, verify};
pub use text::encode;

use candor_sdk::program::{InputKind, Model, ModelError, Symbols};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A model with what its files say besides the numbers.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The model.
    pub model: Model,
    /// Its name: that in `config.json`, or that of its folder or file.
    pub name: String,
    /// What its files describe.
    pub family: Family,
    /// The node that answers are made of: the last layer, the embedding, or the logits.
    pub last_layer: u32,
    /// What the import changed.
    pub notes: Vec<String>,
}

/// The kinds of models, with their descriptions.
#[derive(Clone, Debug)]
pub enum Family {
    /// Layers one after the other.
    Sequential {
        /// Its description.
        config: config::Config,
        /// The safetensors file.
        weights: Arc<Vec<u8>>,
    },
    /// A sentence encoder.
    Bert(bert::BertConfig),
    /// A language model.
    Decoder(decoder::DecoderConfig),
    /// A graph in an ONNX file.
    Onnx(Box<onnx::OnnxModel>),
}

impl Family {
    /// The family's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sequential { .. } => "sequential",
            Self::Bert(config) => config.family.name(),
            Self::Decoder(config) => config.family.name(),
            Self::Onnx(_) => "onnx",
        }
    }
}

/// What the files leave open. It becomes part of the model, and so of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Longest sequence, prompt and answer together; a model made for shorter ones keeps to those.
    pub context: u32,
    /// Most tokens of an answer; at most half the context.
    pub max_tokens: u32,
    /// The type that the weights of linear layers are converted to; without it they keep theirs.
    pub dtype: Option<Precision>,
}

impl Default for Options {
    fn default() -> Self {
        Self { context: 2048, max_tokens: 512, dtype: None }
    }
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
    /// A file is not what its name says.
    #[error("{file}: {problem}")]
    Damaged {
        /// Which file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field of a description has a value that makes no sense or is not understood.
    #[error("{file}: {field}: {problem}")]
    Field {
        /// Which file.
        file: String,
        /// Which field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is missing, superfluous or not what the config needs.
    #[error("tensor {name:?}: {problem}")]
    Tensor {
        /// Which tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An operation of an ONNX graph that is not understood, or makes no sense.
    #[error("{node}: {problem}")]
    Node {
        /// Which one: operation and name.
        node: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The graph is refused by the rules that all models obey.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl ImportError {
    /// An error about a field of `config.json`.
    fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { file: CONFIG.to_string(), field: field.into(), problem: problem.into() }
    }
}

/// The file that describes a model.
const CONFIG: &str = "config.json";

/// Reads a model of any understood kind: a folder with `config.json` and safetensors files, a GGUF or an ONNX file.
///
/// # Errors
/// If a file is missing or damaged, or the files do not make a model.
pub fn folder(path: &Path) -> Result<Imported, ImportError> {
    folder_with(path, &Options::default())
}

/// The same with what the files leave open.
///
/// # Errors
/// As [`folder`].
pub fn folder_with(path: &Path, options: &Options) -> Result<Imported, ImportError> {
    whole(Files::read(path, |_, _| ())?, options)
}

/// Builds a model from the contents of `config.json` and one safetensors file.
///
/// # Errors
/// If either is damaged or the two do not make a model.
pub fn bytes(config: &str, weights: &[u8]) -> Result<Imported, ImportError> {
    let weights = vec![("model.safetensors".to_string(), Arc::new(weights.to_vec()))];
    files(&Files { config: config.to_string(), weights, ..Files::default() }, &Options::default())
}

/// Builds a model from files in memory.
///
/// # Errors
/// If one is damaged or they do not make a model.
pub fn files(files: &Files, options: &Options) -> Result<Imported, ImportError> {
    whole(files.clone(), options)
}

/// The same of files that nobody else needs. Then a tensor is all that holds its bytes, and they go when it is packed.
///
/// # Errors
/// As [`files`].
pub fn whole(files: Files, options: &Options) -> Result<Imported, ImportError> {
    let stored = as_stored(files, options)?;
    match options.dtype {
        Some(precision) => quantise(&stored, precision),
        None => Ok(stored),
    }
}

/// The model with its weights as the files have them. Files that nobody else holds are taken apart into tensors.
fn as_stored(mut files: Files, options: &Options) -> Result<Imported, ImportError> {
    let (name, notes) = (files.name.clone(), Vec::new());
    if let Some(file) = &files.gguf {
        let contents = gguf::read(file)?;
        let (model, last_layer) = decoder::build(&contents.config, contents.tensors, contents.vocabulary, options)?;
        return Ok(Imported {
            model,
            name,
            family: Family::Decoder(contents.config),
            last_layer,
            notes: contents.notes,
        });
    }
    if let Some(file) = &files.onnx {
        let config = (!files.config.is_empty()).then_some(files.config.as_str());
        let (model, last_layer, onnx) = onnx::build(file, config, options)?;
        let name = onnx.name().unwrap_or(&name).to_string();
        return Ok(Imported { model, name, family: Family::Onnx(Box::new(onnx)), last_layer, notes });
    }
    // Hugging Face names a family by `model_type`; our own description has `architecture`, and is judged as a whole.
    let mut fields = fields::Fields::parse(CONFIG, &files.config)?;
    let Some(kind) = fields.text("model_type")? else {
        return sequential(&files);
    };
    let mut tensors = tensors::Tensors::new();
    for (name, file) in std::mem::take(&mut files.weights) {
        tensors.add_safetensors(&name, file)?;
    }
    if let Some(family) = bert::EncoderFamily::from_name(&kind) {
        let config = bert::BertConfig::parse(family, fields, &files)?;
        let (model, last_layer) = bert::build(&config, tensors, options)?;
        return Ok(Imported { model, name, family: Family::Bert(config), last_layer, notes });
    }
    let Some(family) = decoder::DecoderFamily::from_model_type(&kind) else {
        let known = "bert, roberta, xlm-roberta, distilbert, llama, mistral, qwen2 and qwen3";
        return fields.wrong("model_type", format!("{kind:?} is not understood, only {known}"));
    };
    let config = decoder::DecoderConfig::parse(family, fields, files.generation.as_deref())?;
    let vocabulary = files.tokenizer.as_deref().map(vocabulary::Vocabulary::parse).transpose()?;
    let (model, last_layer) = decoder::build(&config, tensors, vocabulary, options)?;
    Ok(Imported { model, name, family: Family::Decoder(config), last_layer, notes })
}

fn sequential(files: &Files) -> Result<Imported, ImportError> {
    let damaged = |problem: String| ImportError::Damaged { file: CONFIG.to_string(), problem };
    let config: config::Config = serde_json::from_str(&files.config).map_err(|e| damaged(e.to_string()))?;
    let [(file, weights)] = &files.weights[..] else {
        return Err(damaged(format!("a sequential model has one safetensors file, not {}", files.weights.len())));
    };
    let mut tensors = tensors::Tensors::new();
    tensors.add_safetensors(file, weights.clone())?;
    let (model, last_layer) = sequential::build(&config, tensors)?;
    refuse_bombs(&model)?;
    let family = Family::Sequential { config: config.clone(), weights: weights.clone() };
    Ok(Imported { model, name: config.name, family, last_layer, notes: Vec::new() })
}

/// Elements that one run of a sequential or ONNX model may compute: a gibibyte of f32. A config that asks for more is a mistake or
/// an attack. (The other families compute in proportion to the weights that their files bring and to the context.)
const MAX_ELEMENTS: u64 = 1 << 28;

fn refuse_bombs(model: &Model) -> Result<(), ImportError> {
    // The longest request. (A sequential model has the same shapes for every one.)
    let input_bytes = model.limits.max_input_bytes;
    let tokens = model.program.input_kind() == Some(InputKind::Tokens);
    let sequence = if tokens { input_bytes / 4 } else { input_bytes };
    let bound = model.bind(Symbols { sequence, prompt: sequence, input_bytes, output_bytes: 0 })?;
    let mut elements = 0u64;
    for (node, shape) in model.program.nodes.iter().zip(&bound.nodes) {
        elements += shape.rows as u64 * shape.cols as u64;
        if elements > MAX_ELEMENTS {
            let problem = format!("{} x {} elements bring a run beyond {MAX_ELEMENTS}", shape.rows, shape.cols);
            return Err(ImportError::field(node.label.clone(), problem));
        }
    }
    Ok(())
}

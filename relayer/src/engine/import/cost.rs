//! What another precision costs a model: perplexity of a language model on a bundled text and how often the likeliest token
//! stays the same; of any other model, how far its numbers move.

use super::{CheckError, ImportError, Imported, Precision, quantise, text};
use crate::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::arithmetic::{functions, reduction};
use rayon::prelude::*;
use std::fmt;
use thiserror::Error;

/// Tokens that a language model sees at a time, and how often.
const WINDOW: u32 = 256;
const WINDOWS: usize = 8;
/// Requests that other models are compared on.
const REQUESTS: u32 = 16;

/// A measurement that failed.
#[derive(Debug, Error)]
pub enum CostError {
    /// The model cannot have that precision.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// It cannot run.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// A model at several precisions, as stored first.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// What they were measured on.
    pub on: String,
    /// The measurements.
    pub measured: Vec<Measured>,
}

/// A model at one precision.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The precision; `None` as stored.
    pub precision: Option<Precision>,
    /// Bytes of all weights.
    pub bytes: u64,
    /// Of a language model that can read the text: the exponential of the mean surprise at a token.
    pub perplexity: Option<f64>,
    /// Rows compared with the stored model: predicted tokens, or last layers.
    pub rows: usize,
    /// Rows whose largest number is at the same place.
    pub same_argmax: usize,
    /// Largest difference, where rows are kept to be compared.
    pub max_error: Option<f32>,
    /// Least cosine, likewise.
    pub min_cosine: Option<f64>,
}

/// What a model says of the text or of the requests.
struct Answers {
    surprise: Option<f64>,
    argmax: Vec<Option<usize>>,
    rows: Vec<Vec<f32>>,
}

/// Measures a model as it is and at `precisions`. `progress` is told how much is done of how much.
///
/// # Errors
/// If it cannot have one of them, or does not run.
pub fn cost(
    stored: &Imported,
    precisions: &[Precision],
    mut progress: impl FnMut(u64, u64),
) -> Result<Cost, CostError> {
    let windows = windows(stored);
    let requests: Vec<InferRequest> = match &windows {
        Some(_) => Vec::new(),
        None => {
            stored.probes(REQUESTS).into_iter().map(|input| InferRequest { input, ..InferRequest::default() }).collect()
        }
    };
    let steps = windows.as_ref().map_or(1, Vec::len) as u64;
    let (mut done, total) = (0, steps * (1 + precisions.len() as u64));
    let mut step = || {
        done += 1;
        progress(done, total);
    };
    let on = match &windows {
        Some(windows) => {
            let tokens: usize = windows.iter().map(|window| window.len() - 1).sum();
            format!("{tokens} tokens of a novel, in {} windows", windows.len())
        }
        None => format!("{} requests", requests.len()),
    };
    let mut measured: Vec<Measured> = Vec::new();
    let mut reference: Option<Answers> = None;
    for precision in std::iter::once(None).chain(precisions.iter().copied().map(Some)) {
        let converted;
        let imported = match precision {
            None => stored,
            Some(precision) => {
                converted = quantise(stored, precision)?;
                &converted
            }
        };
        let loaded = LoadedModel::load(imported.model.clone(), Device::Cpu).map_err(CheckError::from)?;
        let answers = match &windows {
            Some(windows) => read(&loaded, imported.last_layer, windows, &mut step)?,
            None => {
                let rows = loaded.node_values(&requests, imported.last_layer).map_err(CheckError::from)?;
                step();
                Answers { surprise: None, argmax: rows.iter().map(|row| reduction::argmax(row)).collect(), rows }
            }
        };
        let bytes = imported.model.weights.byte_len();
        measured.push(Measured::new(precision, bytes, &answers, reference.as_ref().unwrap_or(&answers)));
        reference.get_or_insert(answers);
    }
    Ok(Cost { on, measured })
}

/// The text in windows, if the model predicts tokens and has all of the text's.
fn windows(imported: &Imported) -> Option<Vec<Vec<u32>>> {
    let model = &imported.model;
    model.program.generation()?;
    let tokens = text::encode(&model.vocabulary, &text::text())?;
    let length = WINDOW.min(1 + model.limits.max_tokens) as usize;
    Some(tokens.chunks_exact(length).take(WINDOWS).map(<[u32]>::to_vec).collect())
}

/// How a language model takes the text.
fn read(
    loaded: &LoadedModel,
    logits: u32,
    windows: &[Vec<u32>],
    step: &mut impl FnMut(),
) -> Result<Answers, CheckError> {
    let (mut surprise, mut argmax) = (0f64, Vec::new());
    for window in windows {
        let rows = loaded.predictions(window, logits)?;
        let width = rows.len() / (window.len() - 1).max(1);
        let each = rows.par_chunks_exact(width.max(1)).zip(&window[1..]);
        let each: Vec<_> = each.map(|(row, &next)| (surprise_at(row, next), reduction::argmax(row))).collect();
        // In order: the sum is the same whatever the threads did.
        for (bits, most) in each {
            surprise += bits;
            argmax.push(most);
        }
        step();
    }
    Ok(Answers { surprise: Some(surprise / argmax.len().max(1) as f64), argmax, rows: Vec::new() })
}

/// `-log softmax(row)[next]`.
fn surprise_at(row: &[f32], next: u32) -> f64 {
    let most = reduction::maximum(row);
    let sum: f64 = row.iter().map(|&x| f64::from(functions::exp(x - most))).sum();
    libm::log(sum) + f64::from(most) - f64::from(row[next as usize])
}

impl Measured {
    fn new(precision: Option<Precision>, bytes: u64, answers: &Answers, reference: &Answers) -> Self {
        let same = answers.argmax.iter().zip(&reference.argmax).filter(|(a, b)| a == b).count();
        let pairs = || answers.rows.iter().zip(&reference.rows);
        let kept = !answers.rows.is_empty();
        let error = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        Self {
            precision,
            bytes,
            perplexity: answers.surprise.map(libm::exp),
            rows: answers.argmax.len(),
            same_argmax: same,
            max_error: kept.then(|| pairs().map(error).fold(0.0, f32::max)),
            min_cosine: kept.then(|| pairs().map(|(a, b)| cosine(a, b)).fold(1.0, f64::min)),
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if a == b || norms == 0.0 { 1.0 } else { dot(a, b) / norms }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on {}:", self.on)?;
        for Measured { precision, bytes, perplexity, rows, same_argmax, max_error, min_cosine } in &self.measured {
            let name = precision.map_or("as stored", Precision::name);
            write!(f, "\n    {name:<9}  {:>7.1} MB", *bytes as f64 / 1e6)?;
            if let Some(perplexity) = perplexity {
                write!(f, "  perplexity {perplexity:>8.4}")?;
            }
            write!(f, "  same argmax {same_argmax}/{rows}")?;
            if let (Some(error), Some(cosine)) = (max_error, min_cosine) {
                write!(f, "  max error {error:.2e}  cosine at least {cosine:.7}")?;
            }
        }
        Ok(())
    }
}

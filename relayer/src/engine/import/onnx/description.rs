//! `config.json` beside an ONNX file: what the bytes of a request and of an answer are, which the file itself does not say.

use crate::engine::import::ImportError;
use crate::engine::import::config::IndexFormat;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnnxConfig {
    /// Always `onnx`.
    pub architecture: OnnxArchitecture,
    /// A name for people; that of the folder if it is not said.
    pub name: Option<String>,
    /// What the bytes of a request are.
    pub input: OnnxInput,
    /// Inputs of the graph that are the same number everywhere, whatever the request: a mask, segments.
    #[serde(default)]
    pub fixed: BTreeMap<String, i32>,
    /// What dimensions that the graph leaves open are, by their names there.
    #[serde(default)]
    pub dims: BTreeMap<String, u32>,
    /// What the bytes of the answer are, one after the other.
    pub output: Vec<OnnxOutput>,
    /// What the places of the largest element are called, for people.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// The one architecture this file describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnnxArchitecture {
    /// A graph in a `.onnx` file.
    Onnx,
}

/// What the bytes of a request are. `name` is the input of the graph that they become, if it has several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OnnxInput {
    /// One f32 for each element, big-endian, row-major.
    F32be {
        /// Which input of the graph.
        name: Option<String>,
    },
    /// One byte for each element, 0 to 255, row-major.
    U8 {
        /// Which input of the graph.
        name: Option<String>,
    },
    /// Token ids, u32 big-endian.
    Tokens {
        /// Which input of the graph.
        name: Option<String>,
        /// Every id is below this.
        bound: u32,
        /// Longest sequence, where the graph leaves it open.
        longest: Option<u32>,
    },
    /// The two ends of a file: its first bytes and its last ones. Where it is shorter, the padding is behind the first bytes and
    /// in front of the last ones.
    Ends {
        /// Which input of the graph.
        name: Option<String>,
        /// How many of the first bytes.
        first: u32,
        /// How many of the last bytes.
        last: u32,
        /// The number that stands for no byte.
        padding: u32,
        /// Fewest bytes of a request.
        #[serde(default = "one")]
        shortest: u32,
        /// Most bytes of a request; no more than the two ends, if it is not said.
        longest: Option<u32>,
    },
}

impl OnnxInput {
    /// The input of the graph, if it is said.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::F32be { name } | Self::U8 { name } | Self::Tokens { name, .. } | Self::Ends { name, .. } => {
                name.as_deref()
            }
        }
    }
}

/// A part of the answer. `name` is the output of the graph that it is made of, if it has several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OnnxOutput {
    /// Index of the largest element along the last dimension, the lowest among equals.
    Argmax {
        /// How it is written.
        #[serde(rename = "as")]
        format: IndexFormat,
        /// Which output of the graph.
        name: Option<String>,
    },
    /// All elements, f32 big-endian, row-major.
    F32be {
        /// Which output of the graph.
        name: Option<String>,
    },
}

impl OnnxOutput {
    /// The output of the graph, if it is said.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Argmax { name, .. } | Self::F32be { name } => name.as_deref(),
        }
    }
}

fn one() -> u32 {
    1
}

impl OnnxConfig {
    /// Reads the file.
    pub(super) fn parse(text: &str) -> Result<Self, ImportError> {
        serde_json::from_str(text).map_err(|error| ImportError::Damaged {
            file: crate::engine::import::CONFIG.to_string(),
            problem: error.to_string(),
        })
    }
}

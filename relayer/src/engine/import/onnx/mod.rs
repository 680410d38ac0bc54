//! ONNX: a graph of operations in a file, made a program for as far as the operations are understood.
//!
//! ```text
//! bytes ── wire, proto ──> nodes and tensors ── build ──> items by name ── ops ──> ProgramBuilder
//! ```
//!
//! Walking the nodes that the wanted outputs need, each name comes to stand for an `Item`: a tensor that the
//! program computes, a constant, or integers that are known at import (shapes, and what graphs compute from shapes). `tensor`
//! fits tensors of many dimensions to the program's two. A module of operations each: `elementwise`, `shape`, `rows`,
//! `contraction`, `classical`. `candle` is the same file run by candle-onnx.

mod build;
mod call;
mod candle;
mod classical;
mod contraction;
mod description;
mod elementwise;
mod graph;
mod item;
mod lin;
mod proto;
mod rows;
mod shape;
mod tensor;
mod wire;

pub(super) use candle::CandleGraph;
pub use description::{OnnxArchitecture, OnnxConfig, OnnxInput, OnnxOutput};

use super::tensors::FileBytes;
use super::{ImportError, Options};
use candor_sdk::program::Model;
use std::fmt;

/// The largest file that protocol buffers can be.
const MAX_FILE: usize = (1 << 31) - 1;

/// An ONNX file with the encoding of its requests.
#[derive(Clone)]
pub struct OnnxModel {
    file: FileBytes,
    config: OnnxConfig,
    /// The input of the graph that a request becomes.
    input: GraphInput,
    /// Other inputs, and the number that each is everywhere.
    fixed: Vec<(GraphInput, i32)>,
    /// The output that is compared with candle's.
    output: String,
}

/// An input of the graph.
#[derive(Clone, Debug)]
struct GraphInput {
    name: String,
    /// The code of its elements' type.
    dtype: u64,
    /// Its dimensions, -1 for the length of the sequence.
    dims: Vec<i64>,
}

impl fmt::Debug for OnnxModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ONNX file of {} bytes, {:?}", self.file.len(), self.config)
    }
}

/// Builds the model; also says which node is compared with candle.
pub(super) fn build(
    file: &FileBytes,
    config: Option<&str>,
    options: &Options,
) -> Result<(Model, u32, OnnxModel), ImportError> {
    let damaged = |problem: String| ImportError::Damaged { file: ONNX.to_string(), problem };
    if file.len() > MAX_FILE {
        return Err(damaged(format!("{} bytes; at most {MAX_FILE}", file.len())));
    }
    let config = config.map(OnnxConfig::parse).transpose()?;
    let proto = proto::Proto::parse(file).map_err(damaged)?;
    build::model(file, proto, config, options)
}

/// What messages call the file.
const ONNX: &str = "model.onnx";

impl OnnxModel {
    /// The name that its description gives.
    pub(super) fn name(&self) -> Option<&str> {
        self.config.name.as_deref()
    }

    /// What requests and answers are.
    pub fn config(&self) -> &OnnxConfig {
        &self.config
    }
}

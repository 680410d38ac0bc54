//! The engine: runs models with the bits that `docs/arithmetic.md` defines, as fast as the machine allows.
//!
//! candle is the tensor, device and loading layer; the operations are ours ([`ops`]), because what candle's own kernels
//! compute depends on the machine. Nothing of candle crosses this module's surface: bytes go in, bytes come out.
//!
//! ```text
//! folder ── import ──> Model ── load ──> LoadedModel ── infer(batch) ──> bytes of each answer
//!                                                     └ trace(request) ─> every tensor of a run
//! ```
//!
//! `infer` fuses and batches; `trace` computes every node by itself. They give the same bits, as do any batch, any number
//! of threads and any instruction set.

pub mod error;
pub mod import;
pub mod kernels;
pub mod ops;

mod operands;
mod plan;
mod run;

pub use candor_sdk::program::{Request as InferRequest, Tensor as TraceTensor};
pub use error::{InferError, LoadError};

use candor_sdk::program::{DType, Model, Op, Operand, Symbols, TensorData, TraceBuilder, TraceTree};
use kernels::Isa;
use operands::Operands;
use plan::Plan;
use run::{Run, Shapes};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// This machine's processor, with the best instructions it has.
    #[default]
    Cpu,
}

impl Device {
    fn open(self) -> candle_core::Device {
        match self {
            Self::Cpu => candle_core::Device::Cpu,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu {} x{}", Isa::best().name(), rayon::current_num_threads()),
        }
    }
}

/// Activations of one pass: as many as stay in a core's cache, or as many bytes as there are weights to share between
/// requests, but never more than this.
const BATCH_BYTES: std::ops::RangeInclusive<usize> = 2 << 20..=256 << 20;
/// Requests of one pass, at most.
const BATCH_REQUESTS: usize = 256;
/// Different request shapes whose tables are kept.
const KEPT_SHAPES: usize = 32;

/// A model ready to run. Cheap to share between threads; concurrent calls do not disturb each other.
pub struct LoadedModel {
    model: Model,
    device: Device,
    candle: candle_core::Device,
    isa: Isa,
    operands: Operands,
    fused: Plan,
    traced: Plan,
    shapes: Mutex<HashMap<Symbols, Arc<Shapes>>>,
}

impl LoadedModel {
    /// Validates a model and places its weights on a device, packed for its kernels.
    ///
    /// # Errors
    /// If the model is malformed or has an operation that the device has no kernel for.
    pub fn load(model: Model, device: Device) -> Result<Self, LoadError> {
        Self::load_with(model, device, Isa::best())
    }

    /// The same with chosen instructions, for tests and benchmarks.
    ///
    /// # Errors
    /// As [`LoadedModel::load`].
    pub fn load_with(model: Model, device: Device, isa: Isa) -> Result<Self, LoadError> {
        model.validate()?;
        for (index, node) in model.program.nodes.iter().enumerate() {
            let reads_weight = |n: usize| matches!(node.inputs.get(n), Some(Operand::Weight(_)));
            let unsupported = match &node.op {
                Op::Gather if !reads_weight(1) => Err("Gather from a node".to_string()),
                op => run::supported(op),
            };
            unsupported.map_err(|what| LoadError::Unsupported { node: index, label: node.label.clone(), what })?;
        }
        let candle = device.open();
        let operands = Operands::load(&model, &candle)?;
        let (fused, traced) = (Plan::fused(&model.program), Plan::traced(&model.program));
        Ok(Self { model, device, candle, isa, operands, fused, traced, shapes: Mutex::default() })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Where it runs, for logs: `cpu avx512 x2`.
    pub fn device(&self) -> String {
        match self.device {
            Device::Cpu => format!("cpu {} x{}", self.isa.name(), rayon::current_num_threads()),
        }
    }

    /// Answers many requests in as few passes as their shapes allow. An answer does not depend on the company it is
    /// computed in, and a request that fails takes no other with it.
    pub fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        let mut answers: Vec<Option<Result<Vec<u8>, InferError>>> = batch.iter().map(|_| None).collect();
        let mut groups: Vec<(Symbols, Vec<usize>)> = Vec::new();
        for (index, request) in batch.iter().enumerate() {
            match self.model.check_request(request) {
                Err(error) => answers[index] = Some(Err(error.into())),
                Ok(symbols) => match groups.iter_mut().find(|(known, _)| *known == symbols) {
                    Some((_, members)) => members.push(index),
                    None => groups.push((symbols, vec![index])),
                },
            }
        }
        for (symbols, members) in groups {
            let shapes = match self.shapes(symbols) {
                Ok(shapes) => shapes,
                Err(error) => {
                    for index in members {
                        answers[index] = Some(Err(InferError::Model(error.clone())));
                    }
                    continue;
                }
            };
            let weights = usize::try_from(self.model.weights.byte_len()).unwrap_or(usize::MAX);
            let bytes = weights.clamp(*BATCH_BYTES.start(), *BATCH_BYTES.end());
            let most = (bytes / shapes.bytes.max(1)).clamp(1, BATCH_REQUESTS);
            for part in members.chunks(most) {
                let inputs: Vec<&[u8]> = part.iter().map(|&index| batch[index].input.as_slice()).collect();
                match self.pass(&shapes, &inputs) {
                    Ok(outputs) => {
                        for (&index, output) in part.iter().zip(outputs) {
                            answers[index] = Some(Ok(output));
                        }
                    }
                    Err(error) => {
                        for &index in part {
                            answers[index] = Some(Err(self.failure(&error)));
                        }
                    }
                }
            }
        }
        let unanswered = || Err(self.failure(&candle_core::Error::msg("a request was left without an answer")));
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    /// One fused pass over requests of equal shapes.
    fn pass(&self, shapes: &Shapes, inputs: &[&[u8]]) -> candle_core::Result<Vec<Vec<u8>>> {
        let output = self.run(shapes, inputs.len()).execute(&self.fused, inputs, |_, _| Ok(()))?;
        let rows = output.to_vec2::<u8>()?;
        let shared = shapes.extents.last().is_some_and(|extent| extent.shared);
        Ok(if shared { vec![rows.concat(); inputs.len()] } else { rows })
    }

    /// Runs one request node by node, hashing each tensor into the trace as it appears. `visit` sees node index and tensor;
    /// nothing else keeps them, so a long run takes no more memory than its widest part.
    ///
    /// # Errors
    /// If the request has no answer, or the device fails.
    pub fn trace(
        &self,
        request: &InferRequest,
        mut visit: impl FnMut(u32, &TraceTensor),
    ) -> Result<TraceTree, InferError> {
        let symbols = self.model.check_request(request)?;
        let shapes = self.shapes(symbols)?;
        let mut trace = TraceBuilder::default();
        let watch = |node: usize, tensor: &candle_core::Tensor| {
            let tensor = materialise(tensor, self.model.program.nodes[node].dtype)?;
            trace.push(&tensor);
            visit(node as u32, &tensor); // at most 2^16 nodes
            Ok(())
        };
        let run = self.run(&shapes, 1).execute(&self.traced, &[&request.input], watch);
        run.map_err(|error| self.failure(&error))?;
        Ok(trace.finish(symbols))
    }

    /// What node `node` computes for each request, by a fused pass that yields it. For checks at import.
    pub(crate) fn node_values(&self, batch: &[InferRequest], node: u32) -> Result<Vec<Vec<f32>>, InferError> {
        let mut values = Vec::with_capacity(batch.len());
        for request in batch {
            let shapes = self.shapes(self.model.check_request(request)?)?;
            let watch = |yields: usize, tensor: &candle_core::Tensor| {
                if yields == node as usize {
                    values.push(tensor.flatten_all()?.to_vec1::<f32>()?);
                }
                Ok(())
            };
            let run = self.run(&shapes, 1).execute(&self.fused, &[&request.input], watch);
            run.map_err(|error| self.failure(&error))?;
        }
        Ok(values)
    }

    fn run<'a>(&'a self, shapes: &'a Shapes, batch: usize) -> Run<'a> {
        Run { model: &self.model, operands: &self.operands, shapes, device: &self.candle, isa: self.isa, batch }
    }

    fn shapes(&self, symbols: Symbols) -> Result<Arc<Shapes>, candor_sdk::program::ModelError> {
        // A panic while the lock is held leaves a map that is whole, if perhaps without the newest entry.
        let mut kept = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shapes) = kept.get(&symbols) {
            return Ok(shapes.clone());
        }
        let shapes = Arc::new(Shapes::new(&self.model, symbols)?);
        if kept.len() >= KEPT_SHAPES {
            kept.clear();
        }
        kept.insert(symbols, shapes.clone());
        Ok(shapes)
    }

    fn failure(&self, error: &candle_core::Error) -> InferError {
        InferError::Device { device: self.device(), message: error.to_string() }
    }
}

/// A node's tensor in this machine's memory.
fn materialise(tensor: &candle_core::Tensor, dtype: DType) -> candle_core::Result<TraceTensor> {
    let (rows, cols) = tensor.dims2()?;
    let flat = tensor.flatten_all()?;
    let data = match dtype {
        DType::F32 => TensorData::F32(flat.to_vec1()?),
        DType::U32 => TensorData::U32(flat.to_vec1()?),
        DType::U8 => TensorData::U8(flat.to_vec1()?),
        // candle has no signed bytes; these are theirs, stored as u8.
        DType::I8 => TensorData::I8(flat.to_vec1::<u8>()?.into_iter().map(|byte| byte as i8).collect()),
    };
    Ok(TraceTensor::new(rows, cols, data))
}

impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedModel")
            .field("device", &self.device())
            .field("nodes", &self.model.program.nodes.len())
            .field("weights", &self.model.weights.byte_len())
            .finish_non_exhaustive()
    }
}

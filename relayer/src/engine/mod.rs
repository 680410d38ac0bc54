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

pub mod cuda;
pub mod error;
pub mod import;
pub mod kernels;
pub mod ops;

mod generate;
mod narrow;
mod operands;
mod plan;
mod run;
mod unpacked;

pub use candor_sdk::program::{Request as InferRequest, Tensor as TraceTensor};
pub use error::{InferError, LoadError};

use candor_sdk::program::{
    DType, FailedCheck, Model, ModelError, Op, Params, RequestError, Symbols, TensorData, TraceBuilder, TraceTree,
};
use generate::Generator;
use kernels::Isa;
use operands::Operands;
use plan::Plan;
use run::{Run, Shapes};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// This machine's processor, with the best instructions it has.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

/// A device as configurations name it: `cpu`, `cuda` (the first GPU), `cuda:1`.
impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is no device: `cpu`, `cuda` or `cuda:` and a number are");
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Self::Cuda).ok_or_else(unknown),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        match device {
            Device::Cpu => "cpu".to_string(),
            Device::Cuda(0) => "cuda".to_string(),
            Device::Cuda(ordinal) => format!("cuda:{ordinal}"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu {} x{}", Isa::best().name(), rayon::current_num_threads()),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Activations of one pass: as many as stay in a core's cache, or as many bytes as there are weights to share between
/// requests, but never more than this.
const BATCH_BYTES: std::ops::RangeInclusive<usize> = 2 << 20..=256 << 20;
/// Requests of one pass, at most.
const BATCH_REQUESTS: usize = 256;
/// Rows of a pass over prompts, unless told otherwise: enough to share each weight, few enough to stay in cache.
const PREFILL: usize = 256;
/// Weights of a model whose passes are worth a thread of the pool. A smaller one is done before it has woken up.
const POOLED_BYTES: u64 = 1 << 20;
/// Different request shapes whose tables are kept.
const KEPT_SHAPES: usize = 32;

/// A model ready to run. Cheap to share between threads; concurrent calls do not disturb each other.
pub struct LoadedModel {
    model: Arc<Model>,
    /// Where it runs if that is not here.
    remote: Option<cuda::Remote>,
    candle: candle_core::Device,
    isa: Isa,
    operands: Operands,
    fused: Plan,
    traced: Plan,
    /// What leads to the sampled tokens, if any are.
    sampling: Plan,
    generator: Option<Generator>,
    prefill: usize,
    shapes: Mutex<HashMap<Symbols, Arc<Shapes>>>,
}

impl LoadedModel {
    /// Validates a model and places its weights on a device, packed for its kernels.
    ///
    /// # Errors
    /// If the model is malformed, or the device has no room for it.
    pub fn load(model: Model, device: Device) -> Result<Self, LoadError> {
        Self::load_with(model, device, Isa::best())
    }

    /// The same with chosen instructions, for tests and benchmarks.
    ///
    /// # Errors
    /// As [`LoadedModel::load`].
    pub fn load_with(model: Model, device: Device, isa: Isa) -> Result<Self, LoadError> {
        match device {
            Device::Cpu => Self::load_anywhere(model, None, isa),
            Device::Cuda(_) => {
                let failed = |source| LoadError::Cuda { device: device.to_string(), source };
                let worker = match device {
                    Device::Cuda(ordinal) => cuda::worker(ordinal),
                    Device::Cpu => cuda::worker(0),
                };
                Self::load_on(model, &worker.map_err(failed)?)
            }
        }
    }

    /// The same on a device that a worker owns.
    ///
    /// # Errors
    /// As [`LoadedModel::load`].
    pub fn load_on(model: Model, worker: &Arc<cuda::Worker>) -> Result<Self, LoadError> {
        Self::load_anywhere(model, Some(worker), Isa::best())
    }

    fn load_anywhere(mut model: Model, worker: Option<&Arc<cuda::Worker>>, isa: Isa) -> Result<Self, LoadError> {
        model.validate()?;
        let prefill = if worker.is_some() { cuda::PREFILL } else { PREFILL };
        let candle = candle_core::Device::Cpu;
        let operands = if worker.is_some() { Operands::default() } else { Operands::load(&mut model, &candle)? };
        let model = Arc::new(model);
        let remote = worker.map(|worker| worker.load(model.clone(), prefill)).transpose()?;
        let (fused, traced) = (Plan::fused(&model.program), Plan::traced(&model.program));
        let samples = model.program.generation().map(|generation| generation.samples as usize);
        let sampling = samples.map(|samples| Plan::leading_to(&model.program, &[samples])).unwrap_or_default();
        let generator = Generator::new(&model);
        let shapes = Mutex::default();
        Ok(Self { model, remote, candle, isa, operands, fused, traced, sampling, generator, prefill, shapes })
    }

    /// Runs prompts in passes of at most `rows` positions: less memory, or more work at a time. No answer depends on it.
    pub fn with_prefill(self, rows: usize) -> Self {
        if let Some(remote) = &self.remote {
            remote.set_prefill(rows.max(1));
        }
        Self { prefill: rows.max(1), ..self }
    }

    /// Whether tokens are generated by computing new rows only; else each takes a pass over the whole sequence.
    pub fn generates_by_rows(&self) -> bool {
        self.remote.as_ref().map_or(self.generator.is_some(), cuda::Remote::generates_by_rows)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Where it runs, for logs: `cpu avx512 x2`.
    pub fn device(&self) -> String {
        match &self.remote {
            Some(remote) => remote.device(),
            None => format!("cpu {} x{}", self.isa.name(), rayon::current_num_threads()),
        }
    }

    /// Answers many requests in as few passes as their shapes allow. An answer does not depend on the company it is
    /// computed in, and a request that fails takes no other with it.
    pub fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        if let Some(remote) = &self.remote {
            return remote.infer(batch);
        }
        self.on_pool(|| self.infer_here(batch))
    }

    /// Runs where the many short products of a pass are shared out without waking anybody: on a thread of the pool.
    fn on_pool<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        if rayon::current_num_threads() > 1 && self.model.weights.byte_len() >= POOLED_BYTES {
            rayon::scope(|_| run())
        } else {
            run()
        }
    }

    fn infer_here(&self, batch: &[InferRequest]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = batch.iter().map(|_| None).collect();
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
        if self.model.program.generation().is_some() {
            let members: Vec<_> = groups
                .into_iter()
                .flat_map(|(symbols, members)| members.into_iter().map(move |index| (index, symbols)))
                .collect();
            self.infer_generating(batch, &members, &mut answers);
        } else {
            for (symbols, members) in groups {
                self.infer_alike(batch, symbols, &members, &mut answers);
            }
        }
        let unanswered = || Err(self.failure(&candle_core::Error::msg("a request was left without an answer")));
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    /// Answers requests of equal shapes.
    fn infer_alike(&self, batch: &[InferRequest], symbols: Symbols, members: &[usize], answers: &mut [Option<Answer>]) {
        let shapes = match self.shapes(symbols) {
            Ok(shapes) => shapes,
            Err(error) => {
                members.iter().for_each(|&index| answers[index] = Some(Err(error.clone().into())));
                return;
            }
        };
        let weights = usize::try_from(self.model.weights.byte_len()).unwrap_or(usize::MAX);
        let bytes = weights.clamp(*BATCH_BYTES.start(), *BATCH_BYTES.end());
        // How long a text is is known when it is written: each has shapes of its own.
        let writes = run::text_ends(&self.model.program).is_some();
        let most = if writes { 1 } else { (bytes / shapes.bytes.max(1)).clamp(1, BATCH_REQUESTS) };
        for part in members.chunks(most) {
            let requests: Vec<&InferRequest> = part.iter().map(|&index| &batch[index]).collect();
            let sequences: Vec<Vec<u32>> = requests.iter().map(|request| run::prompt(&self.model, request)).collect();
            let context = Context { shapes: shapes.clone(), requests: &requests, sequences: &sequences };
            let outputs = self
                .run(&context)
                .execute(&self.fused, Vec::new(), |_, _| Ok(()))
                .and_then(|output| outputs(output, requests.len()));
            match outputs {
                Ok(outputs) => {
                    for (&index, output) in part.iter().zip(outputs) {
                        answers[index] = Some(Ok(output));
                    }
                }
                Err(error) => part.iter().for_each(|&index| answers[index] = Some(Err(self.failure(&error)))),
            }
        }
    }

    /// Answers requests by generating tokens.
    fn infer_generating(&self, batch: &[InferRequest], members: &[(usize, Symbols)], answers: &mut [Option<Answer>]) {
        let Some(generator) = &self.generator else {
            for &(index, symbols) in members {
                let request = &batch[index];
                let generated = self.generate_plainly(request, symbols);
                answers[index] = Some(generated.and_then(|tokens| {
                    let mut output = Vec::new();
                    let last = self.model.program.nodes.len() - 1;
                    self.whole(request, symbols, &tokens, |node, tensor| {
                        if node as usize == last {
                            output = tensor.u8().map(<[u8]>::to_vec).unwrap_or_default();
                        }
                    })
                    .and_then(|(_, failed)| self.causal(failed))?;
                    Ok(output)
                }));
            }
            return;
        };
        let asked: Vec<_> = members.iter().map(|&(index, symbols)| (index, &batch[index], symbols)).collect();
        generator.answer(self, &asked, |index, generated| {
            let symbols = members.iter().find(|member| member.0 == index).map_or_else(Symbols::default, |m| m.1);
            let answer = generated.map_err(|error| self.failure(&error)).and_then(|(tokens, kept)| {
                let context = self.sequence(&batch[index], symbols, &tokens)?;
                let requests = [&batch[index]];
                let context = Context { shapes: context.0, requests: &requests, sequences: &[context.1] };
                let output = generator.output(self, &context, kept).and_then(|output| outputs(output, 1));
                output.map(|mut all| all.swap_remove(0)).map_err(|error| self.failure(&error))
            });
            answers[index] = Some(answer);
        });
    }

    /// The tokens that the model generates for a request; none if it does not generate.
    ///
    /// # Errors
    /// If the request has no answer, or the device fails.
    pub fn generate(&self, request: &InferRequest) -> Result<Vec<u32>, InferError> {
        let symbols = self.model.check_request(request)?;
        if let Some(remote) = &self.remote {
            return remote.generate(request, symbols);
        }
        self.on_pool(|| {
            let Some(generator) = &self.generator else { return self.generate_plainly(request, symbols) };
            let mut tokens = Ok(Vec::new());
            generator.answer(self, &[(0, request, symbols)], |_, generated| {
                tokens = generated.map(|(tokens, _)| tokens).map_err(|error| self.failure(&error));
            });
            tokens
        })
    }

    /// Shapes and tokens of a run with `generated` tokens.
    fn sequence(
        &self,
        request: &InferRequest,
        symbols: Symbols,
        generated: &[u32],
    ) -> Result<(Arc<Shapes>, Vec<u32>), InferError> {
        let (symbols, tokens) = run::sequence(&self.model, request, symbols, generated);
        Ok((self.shapes(symbols)?, tokens))
    }

    /// One pass over the whole sequence, node by node.
    fn whole(
        &self,
        request: &InferRequest,
        symbols: Symbols,
        generated: &[u32],
        mut visit: impl FnMut(u32, &TraceTensor),
    ) -> Result<(Symbols, Option<FailedCheck>), InferError> {
        let (shapes, tokens) = self.sequence(request, symbols, generated)?;
        let context = Context { shapes, requests: &[request], sequences: &[tokens] };
        let mut failed = None;
        let watch = |node: usize, tensor: &candle_core::Tensor| {
            let description = &self.model.program.nodes[node];
            let tensor = materialise(tensor, description.dtype)?;
            let node = node as u32; // at most 2^16 nodes
            if failed.is_none() && matches!(description.op, Op::CheckGenerated { .. } | Op::CheckLength) {
                let row = (0..tensor.rows()).find(|&row| tensor.bits(row, 0) != 1);
                failed = row.map(|row| FailedCheck { node, row: row as u32 });
            }
            visit(node, &tensor);
            Ok(())
        };
        let mut run = self.run(&context);
        run.execute(&self.traced, Vec::new(), watch).map_err(|error| self.failure(&error))?;
        Ok((run.shapes.symbols, failed))
    }

    /// A model whose own answer fails its own check is at fault.
    fn causal(&self, failed: Option<FailedCheck>) -> Result<(), InferError> {
        match failed {
            None => Ok(()),
            Some(FailedCheck { node, .. }) => {
                Err(ModelError::Graph(format!("not causal: node {node} fails on the model's own answer")).into())
            }
        }
    }

    /// Runs one request node by node, generating tokens if the model does, and hashes each tensor into the trace as it
    /// appears. `visit` sees node index and tensor; nothing else keeps them, so a long run takes no more memory than its
    /// widest part.
    ///
    /// # Errors
    /// If the request has no answer, or the device fails.
    pub fn trace(&self, request: &InferRequest, visit: impl FnMut(u32, &TraceTensor)) -> Result<TraceTree, InferError> {
        let generated = self.generate(request)?;
        let (trace, failed) = self.replay(request, &generated, visit)?;
        self.causal(failed)?;
        Ok(trace)
    }

    /// The trace of a run for those who need its root and the tree over nodes only. On a GPU no tensor leaves the device.
    ///
    /// # Errors
    /// If the request has no answer, or the device fails.
    pub fn commit(&self, request: &InferRequest) -> Result<TraceTree, InferError> {
        let generated = self.generate(request)?;
        let (trace, failed) = self.replay_with(request, &generated, None)?;
        self.causal(failed)?;
        Ok(trace)
    }

    /// The trace of a run over the tokens that somebody claims were generated, in one pass: several times cheaper than
    /// generating them. A false claim is not an error; it shows in the check that fails.
    ///
    /// # Errors
    /// If the request has no answer, no answer to it can have these tokens, or the device fails.
    pub fn replay(
        &self,
        request: &InferRequest,
        generated: &[u32],
        mut visit: impl FnMut(u32, &TraceTensor),
    ) -> Result<(TraceTree, Option<FailedCheck>), InferError> {
        self.replay_with(request, generated, Some(&mut visit))
    }

    fn replay_with(
        &self,
        request: &InferRequest,
        generated: &[u32],
        mut visit: Option<Visit<'_>>,
    ) -> Result<(TraceTree, Option<FailedCheck>), InferError> {
        let symbols = self.model.check_request(request)?;
        let claim = |problem: String| Err(InferError::Claim(problem));
        if generated.is_empty() == self.model.program.generation().is_some() {
            return claim(format!("{} generated tokens cannot be of this model", generated.len()));
        }
        let limit = self.model.token_limit(&request.params);
        if generated.len() > limit as usize {
            return claim(format!("{} tokens; at most {limit} were asked for", generated.len()));
        }
        if let Some(Op::Input { bound, .. }) = self.model.program.nodes.first().map(|node| &node.op)
            && let Some((position, &token)) = generated.iter().enumerate().find(|(_, token)| *token >= bound)
        {
            return Err(RequestError::TokenOutOfRange { position, token, bound: *bound }.into());
        }
        if let Some(remote) = &self.remote {
            return remote.replay(request, symbols, generated, visit);
        }
        let mut trace = TraceBuilder::default();
        let (symbols, failed) = self.whole(request, symbols, generated, |node, tensor| {
            trace.push(tensor);
            if let Some(visit) = &mut visit {
                visit(node, tensor);
            }
        })?;
        Ok((trace.finish(symbols), failed))
    }

    /// What node `node` computes for each request, by a fused pass that yields it. For checks at import.
    pub(crate) fn node_values(&self, batch: &[InferRequest], node: u32) -> Result<Vec<Vec<f32>>, InferError> {
        let mut values = Vec::with_capacity(batch.len());
        for request in batch {
            let symbols = self.model.check_request(request)?;
            let (shapes, tokens) = self.sequence(request, symbols, &[])?;
            let context = Context { shapes, requests: &[request], sequences: &[tokens] };
            let watch = |yields: usize, tensor: &candle_core::Tensor| {
                if yields == node as usize {
                    values.push(tensor.flatten_all()?.to_vec1::<f32>()?);
                }
                Ok(())
            };
            self.run(&context).execute(&self.fused, Vec::new(), watch).map_err(|error| self.failure(&error))?;
        }
        Ok(values)
    }

    /// What `node` holds when the model has read `tokens`, all but the first as if they were generated: a row for each of
    /// those, which is what was predicted for it.
    pub(crate) fn predictions(&self, tokens: &[u32], node: u32) -> Result<Vec<f32>, InferError> {
        let Some((first, generated)) = tokens.split_first() else { return Ok(Vec::new()) };
        let params = Params { max_tokens: u32::try_from(generated.len()).unwrap_or(u32::MAX), ..Params::default() };
        let request = InferRequest { input: first.to_be_bytes().to_vec(), params, ..InferRequest::default() };
        let symbols = self.model.check_request(&request)?;
        let (shapes, tokens) = self.sequence(&request, symbols, generated)?;
        let context = Context { shapes, requests: &[&request], sequences: &[tokens] };
        let mut values = Vec::new();
        let watch = |yields: usize, tensor: &candle_core::Tensor| {
            if yields == node as usize {
                values = tensor.flatten_all()?.to_vec1::<f32>()?;
            }
            Ok(())
        };
        let plan = Plan::leading_to(&self.model.program, &[node as usize]);
        self.run(&context).execute(&plan, Vec::new(), watch).map_err(|error| self.failure(&error))?;
        Ok(values)
    }

    fn run<'a>(&'a self, context: &Context<'a>) -> Run<'a> {
        Run {
            model: &self.model,
            operands: &self.operands,
            shapes: context.shapes.clone(),
            device: &self.candle,
            isa: self.isa,
            requests: context.requests,
            sequences: context.sequences,
        }
    }

    fn shapes(&self, symbols: Symbols) -> Result<Arc<Shapes>, ModelError> {
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

/// Sees node index and tensor.
type Visit<'a> = &'a mut dyn FnMut(u32, &TraceTensor);

/// What became of a request.
type Answer = Result<Vec<u8>, InferError>;

/// What a run is about.
struct Context<'a> {
    shapes: Arc<Shapes>,
    requests: &'a [&'a InferRequest],
    /// Prompt and generated tokens of each request.
    sequences: &'a [Vec<u32>],
}

/// The bytes of each request, from the output of a batch; all the same if they share it.
fn outputs(output: Option<candle_core::Tensor>, requests: usize) -> candle_core::Result<Vec<Vec<u8>>> {
    let output = output.ok_or_else(|| candle_core::Error::msg("a run without an output"))?;
    let (rows, cols) = output.dims2()?;
    let bytes = output.flatten_all()?.to_vec1::<u8>()?;
    Ok((0..requests).map(|request| bytes[request.min(rows - 1) * cols..][..cols].to_vec()).collect())
}

/// A node's tensor in this machine's memory.
fn materialise(tensor: &candle_core::Tensor, dtype: DType) -> candle_core::Result<TraceTensor> {
    let (rows, cols) = tensor.dims2()?;
    let flat = tensor.flatten_all()?;
    let data = match dtype {
        DType::F32 => TensorData::F32(flat.to_vec1()?),
        DType::U32 => TensorData::U32(flat.to_vec1()?),
        DType::U8 => TensorData::U8(flat.to_vec1()?),
        DType::I8 => TensorData::I8(flat.to_vec1::<u8>()?.into_iter().map(|q| q as i8).collect()),
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

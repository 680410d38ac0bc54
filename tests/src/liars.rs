//! Operators that lie: small models of every family of operations, and an engine that answers one question with a story of its own and defends it.
//!
//! A lie is a row of a table; what comes of it, tensor by tensor, is worked out when the chain has fixed the request. The relayer around the engine is a
//! real one and knows nothing of it.

use crate::{
    lies::{self, Lie as Spot},
    models::{self, Numbers},
};
use alloy::primitives::B256;
use anyhow::{Context, Result, bail, ensure};
use candor_relayer::{
    dispute::{
        Retrace,
        trace::{Replayed, Visit},
    },
    engine::{Device, InferError, InferRequest, LoadedModel},
    pipeline::{Infer, Served},
};
use candor_sdk::{
    bindings::ModelDescriptor,
    dispute::MemoryTrace,
    ids::ModelId,
    program::{Interpreter, Model, Op, Operand, Run, Symbols, Tensor, TensorData, TraceBuilder},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Tokens of a long prompt.
const LONG: usize = 131;

/// A model with made-up weights that relayers can serve.
#[derive(Debug, Clone)]
pub struct SmallModel {
    /// Name for people.
    pub name: &'static str,
    /// The model.
    pub model: Arc<Model>,
    /// The engine's end of it.
    pub engine: Arc<LoadedModel>,
    /// Content address.
    pub id: ModelId,
    /// What the registry is told.
    pub descriptor: ModelDescriptor,
}

impl SmallModel {
    /// One for each family that the graph has to express.
    pub fn all() -> Result<Vec<Self>> {
        let more = [("wide", lies::wide().0), ("ends", lies::ends().0)];
        let all = models::all().into_iter().map(|(name, model, _)| (name, model)).chain(more);
        all.map(|(name, model)| Self::new(name, model)).collect()
    }

    /// Any model.
    pub fn new(name: &'static str, model: Model) -> Result<Self> {
        let descriptor = model.descriptor();
        let engine = Arc::new(LoadedModel::load(model.clone(), Device::Cpu)?);
        let (id, descriptor) = (descriptor.model_id(), (&descriptor).into());
        Ok(Self { name, model: Arc::new(model), engine, id, descriptor })
    }

    /// A question for the generating model over more positions than a block has: games about it have every kind of move.
    pub fn long_question(&self, number: u64) -> InferRequest {
        let mut n = Numbers::new(5000 + number);
        let tokens: Vec<u32> = (0..LONG).map(|_| 1 + (n.next() % u64::from(models::VOCABULARY - 1)) as u32).collect();
        InferRequest { input: models::u32_be(&tokens), ..models::ask_sampled(&[], 1, 0.75, 0.0625, 0) }
    }

    /// A lie about such a question that takes all of them: in the last row of the last mix of attention, which has two partials.
    pub fn long_lie(&self, pick: u64) -> Result<Lie> {
        let mixes = self.model.program.nodes.iter().rposition(|node| matches!(node.op, Op::AttentionMix { .. }));
        Ok(Lie::Row(u32::try_from(mixes.context("it has no attention")?)?, LONG - 1, pick))
    }

    /// As a relayer serves it, answered by `infer`.
    pub fn served(&self, infer: Arc<dyn Infer>) -> Served {
        Served { name: self.name.to_owned(), min_fee: 1, model: infer }
    }

    /// As an honest relayer serves it.
    pub fn honest(&self) -> Served {
        self.served(self.engine.clone())
    }

    /// A question for it, another one for each number. One that generates gives a single token, so that a lie about it needs no lies about later ones.
    pub fn question(&self, number: u64) -> InferRequest {
        let mut n = Numbers::new(1000 + number);
        let mut tokens = |count: u64, below: u64| {
            models::u32_be(&(0..count).map(|_| 1 + (n.next() % (below - 1)) as u32).collect::<Vec<_>>())
        };
        match self.name {
            "bert" | "ends" => models::ask(tokens(5, 30)),
            "causal" => {
                let input = tokens(5, models::VOCABULARY.into());
                InferRequest { input, ..models::ask_sampled(&[], 1, 0.75, 0.0625, 0) }
            }
            "cnn" => models::ask((0..64).map(|_| n.next() as u8).collect()),
            "quantised" => models::ask((0..12).map(|_| b'a' + (n.next() % 26) as u8).collect()),
            "features" => models::ask(models::f32_be(&[2.0, 10.0 + 4.0 * n.float(), 5.0, n.float()])),
            "wide" => models::ask(models::f32_be(&n.floats(300))),
            "credit" => models::ask(models::f32_be(&n.floats(20))),
            _ => models::ask(models::f32_be(&n.floats(4))),
        }
    }

    /// Every node that has elements in the run that answers a question, with its operation.
    pub fn nodes(&self, question: &InferRequest) -> Result<Vec<(u32, &Op)>> {
        let run = self.model.interpret(question)?;
        let all = (0u32..).zip(&self.model.program.nodes).zip(&run.tensors);
        Ok(all
            .filter(|(_, x)| x.rows() * x.cols() > 0)
            .map(|((node, description), _)| (node, &description.op))
            .collect())
    }
}

/// What an operator says that is not so. Every lie changes the answer: one that does not is nobody's business.
#[derive(Debug, Clone)]
pub enum Lie {
    /// An element of this node is another, and everything after it is computed from that. The number picks the element and the bit.
    Node(u32, u64),
    /// The same in one row of it.
    Row(u32, usize, u64),
    /// The same at any node.
    Anywhere(u64),
    /// The answer is not what the run ends with, which is right.
    Answer,
    /// The answer is another, and the claim has numbers that the run does not.
    Words(fn(&mut Symbols)),
    /// The first generated token is another; whether the run owns up that its check fails.
    Token {
        /// It does.
        admitted: bool,
    },
    /// One generated token less.
    Short,
    /// A generated token that does not exist.
    UnknownToken,
    /// The request has no answer, and is answered as this one would be.
    Unanswerable(InferRequest),
    /// As [`Lie::Node`], and what is shown of the node it reads is another tensor than the one that was hashed: its partials fit neither.
    Partials(u32, u64),
    /// As [`Lie::Node`], and what is shown of the node itself is another tensor than the one that was hashed.
    Shown(u32, u64),
}

/// What a liar says its run was.
#[derive(Debug)]
pub struct Story {
    /// The answer.
    pub output: Vec<u8>,
    /// The node that differs first from the right run, if the lie is in one.
    pub node: Option<u32>,
    symbols: Symbols,
    generated: Vec<u32>,
    tensors: Vec<Tensor>,
    /// A tensor that is another after the first telling.
    later: Option<(u32, Tensor)>,
    tellings: AtomicUsize,
}

/// Where to lie.
#[derive(Debug, Clone, Copy)]
enum Where {
    Anywhere,
    Node(u32),
    Row(u32, usize),
}

/// Tries to find a lie that changes the answer: elements and bits that mean nothing are many.
const TRIES: usize = 400;

impl Story {
    fn new(run: &Run, output: Vec<u8>, tensors: Vec<Tensor>) -> Self {
        Self {
            output,
            node: None,
            symbols: run.symbols,
            generated: run.generated.clone(),
            tensors,
            later: None,
            tellings: AtomicUsize::new(0),
        }
    }

    /// The trace behind it.
    pub fn trace(&self) -> MemoryTrace {
        MemoryTrace::from_tensors(self.symbols, self.generated.clone(), self.output.clone(), self.tensors.clone(), None)
    }

    /// Works a lie out for a request.
    pub fn of(model: &Model, request: &InferRequest, lie: &Lie) -> Result<Self> {
        if let Lie::Unanswerable(alike) = lie {
            let run = model.interpret(&InferRequest { seed: request.seed, ..alike.clone() })?;
            let mut story = Self::new(&run, run.output.clone(), run.tensors.clone());
            story.symbols.input_bytes = u32::try_from(request.input.len())?;
            return Ok(story);
        }
        let right = model.interpret(request)?;
        let another = || {
            let mut output = right.output.clone();
            output.iter_mut().for_each(|byte| *byte ^= 1);
            output
        };
        let story = match lie {
            Lie::Node(node, pick) => Self::search(model, request, &right, Where::Node(*node), *pick)?.0,
            Lie::Row(node, row, pick) => Self::search(model, request, &right, Where::Row(*node, *row), *pick)?.0,
            Lie::Anywhere(pick) => Self::search(model, request, &right, Where::Anywhere, *pick)?.0,
            Lie::Answer => Self::new(&right, another(), right.tensors.clone()),
            Lie::Words(bend) => {
                let mut story = Self::new(&right, another(), right.tensors.clone());
                bend(&mut story.symbols);
                story
            }
            Lie::UnknownToken => {
                let mut story = Self::new(&right, another(), right.tensors.clone());
                *story.generated.first_mut().context("no token was generated")? = 200;
                story
            }
            Lie::Token { .. } | Lie::Short => {
                let mut tokens = right.generated.clone();
                if matches!(lie, Lie::Short) {
                    ensure!(tokens.len() > 1, "a single token was generated");
                    tokens.pop();
                } else {
                    let first = tokens.first_mut().context("no token was generated")?;
                    *first = 1 + *first % (models::VOCABULARY - 1);
                }
                let run = Interpreter::new(model).replay(request, &tokens)?;
                let mut tensors = run.tensors.clone();
                let check = run.failed_check.context("the other tokens are right too")?.node as usize;
                if !matches!(lie, Lie::Token { admitted: true }) {
                    let rows = tensors[check].rows();
                    tensors[check] = Tensor::new(rows, 1, TensorData::U32(vec![1; rows]));
                }
                // A last token says nothing of the answer, which is what was sampled.
                let output = if run.output == right.output { another() } else { run.output.clone() };
                Self::new(&run, output, tensors)
            }
            Lie::Partials(node, pick) => {
                let (mut story, spot) = Self::search(model, request, &right, Where::Node(*node), *pick)?;
                let operand = model.program.nodes[*node as usize].inputs.first();
                let Some(Operand::Node(operand)) = operand else { bail!("node {node} reads no other") };
                let read = &story.tensors[*operand as usize];
                let row = spot.element / story.tensors[spot.node].cols();
                let shown = lies::bend(read, row.min(read.rows() - 1) * read.cols(), 1 << 22);
                story.later = Some((*operand, shown));
                story
            }
            Lie::Shown(node, pick) => {
                let (mut story, spot) = Self::search(model, request, &right, Where::Node(*node), *pick)?;
                let shown = lies::bend(&story.tensors[spot.node], spot.element, 1 << 3);
                story.later = Some((*node, shown));
                story
            }
            Lie::Unanswerable(_) => unreachable!("handled above"),
        };
        ensure!(story.output != right.output, "the answer is right");
        Ok(story)
    }

    /// The trace of somebody whose machine computes the element wrong that `lie` is about, over the right tokens: a false challenger's.
    pub fn mistaken(model: &Model, request: &InferRequest, lie: &Lie) -> Result<MemoryTrace> {
        let (Lie::Node(node, pick) | Lie::Row(node, _, pick)) = lie else {
            bail!("{lie:?} is no mistake in one element")
        };
        let right = model.interpret(request)?;
        let place = if let Lie::Row(_, row, _) = lie { Where::Row(*node, *row) } else { Where::Node(*node) };
        let (_, spot) = Self::search(model, request, &right, place, *pick)?;
        let tensors = lies::tensors(model, request, &right, spot);
        Ok(lies::trace(&right, tensors))
    }

    /// Elements and bits, one after the other, until one changes the answer.
    fn search(model: &Model, request: &InferRequest, right: &Run, place: Where, pick: u64) -> Result<(Self, Spot)> {
        let mut n = Numbers::new(pick);
        for _ in 0..TRIES {
            let mut spot = Spot::random(right, &mut n);
            if let Where::Node(node) | Where::Row(node, _) = place {
                let tensor = &right.tensors[node as usize];
                let all = 0..tensor.rows() * tensor.cols();
                let elements = match place {
                    Where::Row(_, row) => row * tensor.cols()..(row + 1) * tensor.cols(),
                    _ => all.clone(),
                };
                ensure!(!elements.is_empty() && elements.end <= all.end, "node {node} has no such elements");
                let element = elements.start + (n.next() % elements.len() as u64) as usize;
                spot = Spot { node: node as usize, element, flip: 1 << (n.next() % 32) };
            }
            if let Some(story) = Self::bent(model, request, right, spot) {
                return Ok((story, spot));
            }
        }
        bail!("no lie there changes the answer")
    }

    /// The story in which one element is another; none if the answer stays what it is.
    fn bent(model: &Model, request: &InferRequest, right: &Run, spot: Spot) -> Option<Self> {
        let mut run = right.clone();
        let mut tensors = lies::tensors(model, request, &run, spot);
        if let Some(generation) = model.program.generation() {
            let sampled = tensors[generation.samples as usize].u32().ok()?.to_vec();
            if sampled != right.generated {
                // It generates what it samples.
                run = Interpreter::new(model).replay(request, &sampled).ok()?;
                let (before, now) = (right.tensors.get(spot.node)?, run.tensors.get(spot.node)?);
                if (before.rows(), before.cols()) != (now.rows(), now.cols()) {
                    return None;
                }
                tensors = lies::tensors(model, request, &run, spot);
                if tensors[generation.samples as usize].u32().ok()? != sampled {
                    return None;
                }
            }
        }
        let output = tensors.last()?.u8().ok()?.to_vec();
        let node = u32::try_from(spot.node).ok();
        (output != right.output).then(|| Self { node, ..Self::new(&run, output, tensors) })
    }
}

/// What was said, by input and seed.
type Stories = HashMap<(Vec<u8>, B256), Arc<Story>>;

/// An engine that is right but for some questions, which it answers once.
#[derive(Debug)]
pub struct LyingEngine {
    small: SmallModel,
    lies: HashMap<Vec<u8>, Lie>,
    stories: Mutex<Stories>,
}

impl LyingEngine {
    /// Lies by the input of the question.
    pub fn new(small: &SmallModel, lies: HashMap<Vec<u8>, Lie>) -> Self {
        Self { small: small.clone(), lies, stories: Mutex::default() }
    }

    /// What it says to a question; none if that is the truth. Whether it was asked before.
    pub fn story(&self, request: &InferRequest) -> Result<Option<(Arc<Story>, bool)>> {
        let Some(lie) = self.lies.get(&request.input) else { return Ok(None) };
        let key = (request.input.clone(), B256::from(request.seed));
        if let Some(story) = self.stories.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Some((story.clone(), true)));
        }
        let story = Arc::new(Story::of(&self.small.model, request, lie).with_context(|| format!("{lie:?}"))?);
        self.stories.lock().unwrap_or_else(PoisonError::into_inner).insert(key, story.clone());
        Ok(Some((story, false)))
    }

    fn told(&self, request: &InferRequest) -> Result<Option<(Arc<Story>, bool)>, InferError> {
        self.story(request).map_err(|error| {
            eprintln!("a liar of {} can't lie: {error:#}", self.small.name);
            InferError::Claim(format!("{error:#}"))
        })
    }
}

impl Infer for LyingEngine {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        let answer = |request: &InferRequest| match self.told(request)? {
            Some((story, false)) => Ok(story.output.clone()),
            // The request is open again, for an honest one.
            Some((_, true)) => Err(InferError::Claim("it has said what it had to say".into())),
            None => self.small.engine.infer(std::slice::from_ref(request)).remove(0),
        };
        batch.iter().map(answer).collect()
    }

    fn device(&self) -> String {
        self.small.engine.device()
    }

    fn retrace(&self) -> Option<&dyn Retrace> {
        Some(self)
    }
}

impl Retrace for LyingEngine {
    fn model(&self) -> &Model {
        &self.small.model
    }

    fn generate(&self, request: &InferRequest) -> Result<Vec<u32>, InferError> {
        match self.told(request)? {
            Some((story, _)) => Ok(story.generated.clone()),
            None => self.small.engine.generate(request),
        }
    }

    fn replay(&self, request: &InferRequest, generated: &[u32], visit: &mut Visit<'_>) -> Replayed {
        let Some((story, _)) = self.told(request)? else {
            return self.small.engine.replay(request, generated, visit);
        };
        let again = story.tellings.fetch_add(1, Ordering::Relaxed) > 0;
        let mut tree = TraceBuilder::default();
        for (node, tensor) in (0u32..).zip(&story.tensors) {
            let later = story.later.as_ref().filter(|(of, _)| again && *of == node);
            let shown = later.map_or(tensor, |(_, shown)| shown);
            visit(node, shown);
            // The hashes are those of the first telling: the relayer around this engine would not play by two runs that differ.
            tree.push(tensor);
        }
        Ok((tree.finish(story.symbols), None))
    }
}

/// Families of operations, as docs/verifier.md has them: a contract each.
pub const FAMILIES: [&str; 9] =
    ["input", "index", "elementwise", "functions", "contraction", "quantised", "reduction", "sampling", "text"];

/// The family that judges an operation.
pub fn family(op: &Op) -> &'static str {
    match op {
        Op::Input { .. } | Op::Encode(_) => "input",
        Op::View(_) | Op::Concat { .. } | Op::Gather | Op::Take => "index",
        Op::Convert | Op::Binary { .. } | Op::MulAdd | Op::Select | Op::Rope { .. } => "elementwise",
        Op::Unary(_) => "functions",
        Op::Linear | Op::AttentionScores { .. } | Op::AttentionMix { .. } => "contraction",
        Op::BlockAbsMax { .. } | Op::Quantise { .. } | Op::QuantLinear => "quantised",
        Op::RowSum { .. } | Op::RowSumSquares | Op::RowMax { .. } | Op::Argmax => "reduction",
        Op::Perturb | Op::CheckGenerated { .. } | Op::CheckLength => "sampling",
        Op::TokenLength | Op::PrefixSum | Op::Detokenise => "text",
    }
}

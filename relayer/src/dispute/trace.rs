//! Traces of runs on the engine: the hashes of all nodes, and the tensors of a few at a time.

use crate::{
    engine::{InferError, InferRequest, LoadedModel},
    pipeline::Infer,
};
use candor_sdk::{
    arithmetic::ARITHMETIC_VERSION,
    bindings::ModelDescriptor,
    dispute::{Tensors, Trace},
    merkle::Tree,
    program::{FailedCheck, Model, Tensor, TraceTree, WeightsTree, tensor_tree},
    proof::ModelTrees,
};
use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// Sees the tensors of a run, in node order.
pub type Visit<'a> = dyn FnMut(u32, &Tensor) + 'a;

/// What a run over given tokens gives: its hashes, and the first check in it that fails.
pub type Replayed = Result<(TraceTree, Option<FailedCheck>), InferError>;

/// Something whose runs can be retraced: the engine, or a liar in a test.
pub trait Retrace: Send + Sync + Debug {
    /// The model.
    fn model(&self) -> &Model;

    /// The tokens it generates for a request; none if it does not generate.
    ///
    /// # Errors
    /// If the request has no answer, or the device fails.
    fn generate(&self, request: &InferRequest) -> Result<Vec<u32>, InferError>;

    /// Runs over these tokens, node by node.
    ///
    /// # Errors
    /// As [`Retrace::generate`].
    fn replay(&self, request: &InferRequest, generated: &[u32], visit: &mut Visit<'_>) -> Replayed;
}

impl Retrace for LoadedModel {
    fn model(&self) -> &Model {
        Self::model(self)
    }

    fn generate(&self, request: &InferRequest) -> Result<Vec<u32>, InferError> {
        Self::generate(self, request)
    }

    fn replay(&self, request: &InferRequest, generated: &[u32], visit: &mut Visit<'_>) -> Replayed {
        Self::replay(self, request, generated, visit)
    }
}

/// A model that games are played about.
#[derive(Debug, Clone)]
pub struct Player {
    /// Name for people.
    pub name: String,
    infer: Arc<dyn Infer>,
    /// What its id commits to. Hashing all weights takes as long as reading them, so that waits until it is needed.
    commitment: Arc<OnceLock<(ModelTrees, ModelDescriptor)>>,
}

impl Player {
    /// A model; none if its runs can't be retraced.
    pub fn new(name: &str, infer: Arc<dyn Infer>) -> Option<Self> {
        infer.retrace()?;
        Some(Self { name: name.to_owned(), infer, commitment: Arc::default() })
    }

    /// Retraces its runs.
    pub fn retrace(&self) -> &dyn Retrace {
        self.infer.retrace().expect("asked when the player was made")
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.retrace().model()
    }

    /// What it runs on, for people.
    pub fn device(&self) -> String {
        self.infer.device()
    }

    /// The trees that its id commits to, and its descriptor: hashed from the weights that are in memory, not from what was said of them.
    pub fn commitment(&self) -> &(ModelTrees, ModelDescriptor) {
        self.commitment.get_or_init(|| {
            let model = self.model();
            let weights = WeightsTree::new(&model.weights);
            let descriptor = candor_sdk::program::ModelDescriptor {
                arithmetic_version: ARITHMETIC_VERSION,
                graph_root: model.program.graph_root(),
                weights_root: weights.root(),
                vocab_root: model.vocab_root(),
                limits: model.limits,
            };
            (ModelTrees::with_weights(model, &weights), (&descriptor).into())
        })
    }

    /// The answer to a request by the path that serves requests.
    ///
    /// # Errors
    /// If the request has no answer, or the device fails.
    pub fn answer(&self, request: &InferRequest) -> Result<Vec<u8>, InferError> {
        let answers = self.infer.infer(std::slice::from_ref(request));
        let missing = || InferError::Claim("a request was left without an answer".into());
        answers.into_iter().next().unwrap_or_else(|| Err(missing()))
    }
}

/// The trace of one run. It keeps one hash per node, the tensors that were asked for last, and the trees over them: whatever else is needed is
/// computed again.
#[derive(Debug)]
pub struct EngineTrace {
    player: Player,
    request: InferRequest,
    generated: Vec<u32>,
    tree: TraceTree,
    failed: Option<FailedCheck>,
    output: Vec<u8>,
    kept: Mutex<Tensors>,
    leaves: Mutex<HashMap<u32, Arc<Tree>>>,
}

/// Trees over tensors that are kept: an element reads few nodes.
const KEPT_TREES: usize = 16;

impl EngineTrace {
    /// The run that answers a request.
    ///
    /// # Errors
    /// If the request has no answer, or the device fails.
    pub fn of(player: Player, request: InferRequest) -> Result<Self, InferError> {
        let generated = player.retrace().generate(&request)?;
        Self::over(player, request, generated)
    }

    /// The run over tokens that somebody claims were generated.
    ///
    /// # Errors
    /// As [`EngineTrace::of`].
    pub fn over(player: Player, request: InferRequest, generated: Vec<u32>) -> Result<Self, InferError> {
        let last = player.model().program.nodes.len() - 1;
        let mut output = Vec::new();
        let (tree, failed) = player.retrace().replay(&request, &generated, &mut |node, tensor| {
            if node as usize == last {
                output = tensor.u8().map(<[u8]>::to_vec).unwrap_or_default();
            }
        })?;
        let (kept, leaves) = (Mutex::default(), Mutex::default());
        Ok(Self { player, request, generated, tree, failed, output, kept, leaves })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.player.model()
    }

    /// What was asked.
    pub fn request(&self) -> &InferRequest {
        &self.request
    }

    /// Runs once more over the same tokens. The hashes of that run, which are the same unless the machine fails.
    ///
    /// # Errors
    /// If the device fails.
    pub fn repeat(&self, visit: &mut Visit<'_>) -> Result<TraceTree, InferError> {
        let (tree, _) = self.player.retrace().replay(&self.request, &self.generated, visit)?;
        Ok(tree)
    }
}

impl Trace for EngineTrace {
    type Error = InferError;

    fn tree(&self) -> &TraceTree {
        &self.tree
    }

    fn generated(&self) -> &[u32] {
        &self.generated
    }

    fn failed(&self) -> Option<FailedCheck> {
        self.failed
    }

    fn output(&self) -> &[u8] {
        &self.output
    }

    fn tensors(&self, nodes: &[u32]) -> Result<Tensors, InferError> {
        // A panic while the lock is held leaves tensors that are whole.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let exists = |node: &&u32| (**node as usize) < self.player.model().program.nodes.len();
        if nodes.iter().filter(exists).any(|node| !kept.contains_key(node)) {
            kept.clear();
            let mut found = Tensors::new();
            let tree = self.repeat(&mut |node, tensor| {
                if nodes.contains(&node) {
                    found.insert(node, Arc::new(tensor.clone()));
                }
            })?;
            // INVARIANT: every tensor is of the run that was hashed. A machine that fails once gives another one.
            if tree.root() != self.tree.root() {
                let message = "two runs over the same tokens differ: this machine does not compute reliably".into();
                return Err(InferError::Device { device: self.player.device(), message });
            }
            *kept = found;
        }
        Ok(nodes.iter().filter_map(|node| Some((*node, kept.get(node)?.clone()))).collect())
    }

    fn leaves(&self, node: u32) -> Result<Arc<Tree>, InferError> {
        if let Some(tree) = self.leaves.lock().unwrap_or_else(PoisonError::into_inner).get(&node) {
            return Ok(tree.clone());
        }
        let tensors = self.tensors(&[node])?;
        let tree = tensors.get(&node).map_or_else(|| Tree::new(Vec::new()), |tensor| tensor_tree(tensor));
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if leaves.len() >= KEPT_TREES {
            leaves.clear();
        }
        Ok(leaves.entry(node).or_insert_with(|| Arc::new(tree)).clone())
    }
}

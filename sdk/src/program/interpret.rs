//! The interpreter: runs any valid graph node by node, plainly.
//!
//! It is the definition that engines are compared with, the second opinion a watcher asks for before it bonds, and the
//! source of golden vectors. A generating program is run the naive way, the whole graph once per token, so that "the
//! answer is what generation gives" and "the sequence passes verification" are visibly the same claim.

use super::{
    BoundProgram, Model, ModelError, Op, Operand, Request, RequestError, RunError, Symbols, Tensor, kernels::Kernels,
};

/// Memory that a run may take unless told otherwise: 4 GiB.
const DEFAULT_MEMORY_LIMIT: u64 = 4 << 30;

/// Runs one model.
#[derive(Clone, Copy, Debug)]
pub struct Interpreter<'a> {
    model: &'a Model,
    memory_limit: u64,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The symbols of the run.
    pub symbols: Symbols,
    /// The output's bytes.
    pub output: Vec<u8>,
    /// The generated tokens, if the program generates.
    pub generated: Vec<u32>,
    /// Every node's tensor, in node order.
    pub tensors: Vec<Tensor>,
    /// The first element of a check that is not 1, if the run follows a claim that is false.
    pub failed_check: Option<FailedCheck>,
}

/// An element that proves a claimed sequence false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedCheck {
    /// The checking node.
    pub node: u32,
    /// Its row.
    pub row: u32,
}

impl Model {
    /// Runs a request with the default memory limit and keeps every tensor. See [`Interpreter`] for the choices.
    ///
    /// # Errors
    /// If the request has no answer, or the model is not sound.
    pub fn interpret(&self, request: &Request) -> Result<Run, RunError> {
        Interpreter::new(self).run(request)
    }
}

impl<'a> Interpreter<'a> {
    /// An interpreter for a model that passed [`Model::validate`]; for another it may give any error.
    pub fn new(model: &'a Model) -> Self {
        Self { model, memory_limit: DEFAULT_MEMORY_LIMIT }
    }

    /// Refuses runs that would hold more than `bytes` of tensors at once.
    pub fn with_memory_limit(self, bytes: u64) -> Self {
        Self { memory_limit: bytes, ..self }
    }

    /// Runs a request, generating tokens if the program does, and keeps every tensor.
    ///
    /// # Errors
    /// If the request has no answer, or the model is not sound.
    pub fn run(&self, request: &Request) -> Result<Run, RunError> {
        let generated = self.generate(request)?;
        let run = self.replay(request, &generated)?;
        match run.failed_check {
            None => Ok(run),
            // Each token was sampled from a shorter run of the same graph: rows must have depended on later tokens.
            Some(FailedCheck { node, .. }) => {
                Err(ModelError::Graph(format!("not causal: node {node} fails on the model's own answer")).into())
            }
        }
    }

    /// Runs the graph once over the prompt and `generated` tokens that somebody claims, and keeps every tensor. A false
    /// claim is not an error: it shows in [`Run::failed_check`].
    ///
    /// # Errors
    /// If the request has no answer, or no answer to it can have these tokens whatever the model.
    pub fn replay(&self, request: &Request, generated: &[u32]) -> Result<Run, RunError> {
        let mut tensors = Vec::new();
        let (symbols, failed_check) = self.walk(request, generated, |_, tensor| tensors.push(tensor.clone()))?;
        let output = tensors.last().map_or(Ok(Vec::new()), |last| last.u8().map(<[u8]>::to_vec))?;
        Ok(Run { symbols, output, generated: generated.to_vec(), tensors, failed_check })
    }

    /// As [`Interpreter::replay`], but hands each tensor to `visit` as soon as it is known, in node order, and keeps it
    /// only as long as later nodes read it.
    ///
    /// # Errors
    /// As [`Interpreter::replay`].
    pub fn walk(
        &self,
        request: &Request,
        generated: &[u32],
        mut visit: impl FnMut(u32, &Tensor),
    ) -> Result<(Symbols, Option<FailedCheck>), RunError> {
        let mut symbols = self.model.check_request(request)?;
        let tokens = self.sequence(request, generated)?;
        if generated.is_empty() && self.model.program.generation().is_some() {
            return Err(RunError::Claim("no tokens of a model that generates at least one".to_string()));
        }
        symbols.sequence += count(generated)?;
        let mut failed = None;
        let last = self.model.program.nodes.len();
        let symbols = self.execute(request, symbols, &tokens, last, |index, tensor| {
            let node = &self.model.program.nodes[index as usize];
            if failed.is_none() && matches!(node.op, Op::CheckGenerated { .. } | Op::CheckLength) {
                let row = (0..tensor.rows()).find(|&row| tensor.bits(row, 0) != 1);
                failed = row.map(|row| FailedCheck { node: index, row: row as u32 });
            }
            visit(index, tensor);
        })?;
        Ok((symbols, failed))
    }

    /// Computes one node again from the tensors before it: a second opinion on a disputed node.
    ///
    /// # Errors
    /// If there is no such node, a tensor before it is missing, or the model is not sound for these symbols.
    pub fn recompute(
        &self,
        request: &Request,
        symbols: Symbols,
        tensors: &[Tensor],
        node: u32,
    ) -> Result<Tensor, RunError> {
        let bound = self.model.bind(symbols)?;
        let tensors: Vec<Option<Tensor>> = tensors.iter().cloned().map(Some).collect();
        let tokens = match (node, tensors.first()) {
            // The claimed sequence is node 0 itself.
            (0, Some(Some(input))) => input.u32().map(<[u32]>::to_vec).unwrap_or_default(),
            _ => Vec::new(),
        };
        let Some(description) = self.model.program.nodes.get(node as usize) else {
            return Err(ModelError::Graph(format!("no node {node}")).into());
        };
        let kernels = Kernels {
            model: self.model,
            request,
            symbols: &symbols,
            bound: &bound,
            tensors: &tensors,
            tokens: &tokens,
        };
        kernels.evaluate(node as usize, description)
    }

    /// The tokens the program generates for a request, one run of the graph for each; none if it does not generate.
    ///
    /// # Errors
    /// If the request has no answer, or the model is not sound.
    pub fn generate(&self, request: &Request) -> Result<Vec<u32>, RunError> {
        let mut symbols = self.model.check_request(request)?;
        let Some(generation) = self.model.program.generation() else { return Ok(Vec::new()) };
        let mut tokens = self.sequence(request, &[])?;
        let mut generated = Vec::new();
        for _ in 0..self.model.token_limit(&request.params) {
            // The last token of the sequence is still unknown; nothing that leads to its sample reads it.
            symbols.sequence += 1;
            tokens.push(0);
            let mut sampled = None;
            let upto = generation.samples as usize + 1;
            self.execute(request, symbols, &tokens, upto, |index, tensor| {
                if index == generation.samples {
                    sampled = tensor.u32().ok().and_then(<[u32]>::last).copied();
                }
            })?;
            let Some(token) = sampled else { return Err(ModelError::Graph("samples nothing".to_string()).into()) };
            tokens.pop();
            tokens.push(token);
            generated.push(token);
            if generation.stop.contains(&token) {
                break;
            }
        }
        Ok(generated)
    }

    /// Prompt and claimed tokens, if the input is tokens. Refuses what no answer can contain.
    fn sequence(&self, request: &Request, generated: &[u32]) -> Result<Vec<u32>, RunError> {
        let program = &self.model.program;
        let Some(Op::Input { bound, .. }) = program.nodes.first().map(|node| &node.op) else {
            return Err(ModelError::Graph("no input".to_string()).into());
        };
        let limit = self.model.token_limit(&request.params);
        let generates = program.generation().is_some();
        if !generates && !generated.is_empty() {
            return Err(RunError::Claim(format!("{} tokens of a model that generates none", generated.len())));
        }
        if generated.len() > limit as usize {
            return Err(RunError::Claim(format!("{} tokens; at most {limit} were asked for", generated.len())));
        }
        if program.input_kind() != Some(super::InputKind::Tokens) {
            return Ok(Vec::new());
        }
        if let Some((position, &token)) = generated.iter().enumerate().find(|(_, token)| *token >= bound) {
            return Err(RequestError::TokenOutOfRange { position, token, bound: *bound }.into());
        }
        let prompt = request.input.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes));
        Ok(prompt.chain(generated.iter().copied()).collect())
    }

    /// Evaluates the first `upto` nodes in order. The symbols come back with `O` filled in.
    fn execute(
        &self,
        request: &Request,
        mut symbols: Symbols,
        tokens: &[u32],
        upto: usize,
        mut visit: impl FnMut(u32, &Tensor),
    ) -> Result<Symbols, RunError> {
        let nodes = &self.model.program.nodes[..upto];
        let text_ends = self.model.program.nodes.iter().find(|node| node.op == Op::CheckLength);
        let text_ends = text_ends.and_then(|node| node.inputs.first()).copied();

        // The tensors that no node after this one reads.
        let mut last_use: Vec<usize> = (0..nodes.len()).collect();
        for (index, node) in nodes.iter().enumerate() {
            for operand in &node.inputs {
                if let Operand::Node(read) = *operand {
                    last_use[read as usize] = index;
                }
            }
        }
        let mut expired: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (index, &last) in last_use.iter().enumerate() {
            expired[last].push(index);
        }

        let mut bound: BoundProgram = self.model.bind(symbols)?;
        let mut tensors: Vec<Option<Tensor>> = vec![None; nodes.len()];
        let mut held = 0u64;
        for (index, node) in nodes.iter().enumerate() {
            let name = index as u32; // at most `MAX_NODES`
            let size = |bound: &BoundProgram, index: usize| {
                let node = &bound.nodes[index];
                node.rows as u64 * node.cols as u64 * self.model.program.nodes[index].dtype.size() as u64
            };
            held += size(&bound, index);
            if held > self.memory_limit {
                return Err(RunError::Memory { node: name, needed: held, limit: self.memory_limit });
            }
            let kernels =
                Kernels { model: self.model, request, symbols: &symbols, bound: &bound, tensors: &tensors, tokens };
            let tensor = kernels.evaluate(index, node)?;
            visit(name, &tensor);
            if text_ends == Some(Operand::Node(name)) {
                // How long the text is depends on what was generated. Nothing before this node depends on O.
                symbols.output_bytes = tensor.u32()?.last().copied().unwrap_or(0);
                bound = self.model.bind(symbols)?;
            }
            tensors[index] = Some(tensor);
            for &read in &expired[index] {
                tensors[read] = None;
                held -= size(&bound, read);
            }
        }
        Ok(symbols)
    }
}

fn count(tokens: &[u32]) -> Result<u32, RunError> {
    u32::try_from(tokens.len()).map_err(|_| RunError::Claim("more tokens than a sequence can have".to_string()))
}

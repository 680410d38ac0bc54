//! Carries out a plan for a batch of requests that agree on all shapes.

use super::kernels::attention::Heads;
use super::kernels::{Isa, rows::Reduction, sampling::Sampling};
use super::operands::Operands;
use super::ops::{Extent, attention, elementwise, index, linear, quantised, rows, tokens};
use super::plan::{Attention, Plan, Step};
use candle_core::{Device, Error, Result, Tensor};
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{
    BoundProgram, ConcatAxis, DType as Elements, InputKind, Model, ModelError, Op, Operand, Program, Request, Symbols,
    WeightTensor,
};
use std::sync::{Arc, OnceLock};

/// The shapes of all nodes, and the tables of the views that are made, for given symbols.
pub(super) struct Shapes {
    pub(super) symbols: Symbols,
    pub(super) extents: Vec<Extent>,
    bound: BoundProgram,
    maps: Vec<OnceLock<index::IndexMap>>,
    /// Bytes of activations per request if nothing were released.
    pub(super) bytes: usize,
}

impl Shapes {
    /// Binds a model.
    pub(super) fn new(model: &Model, symbols: Symbols) -> std::result::Result<Self, ModelError> {
        let bound = model.bind(symbols)?;
        let mut extents: Vec<Extent> = Vec::with_capacity(bound.nodes.len());
        for (node, shape) in model.program.nodes.iter().zip(&bound.nodes) {
            // A node that reads nothing of the request is the same for all of them.
            let shared = !matches!(node.op, Op::Input { .. } | Op::Perturb)
                && node.inputs.iter().all(|operand| match operand {
                    Operand::Node(node) => extents[*node as usize].shared,
                    _ => true,
                });
            extents.push(Extent { shared, rows: shape.rows, cols: shape.cols });
        }
        let bytes = extents.iter().filter(|extent| !extent.shared).map(|extent| 4 * extent.len()).sum();
        let maps = extents.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { symbols, extents, bound, maps, bytes })
    }

    /// The same with a text of so many bytes: how long it is depends on what was generated. Nothing before the node that
    /// says so depends on it.
    pub(super) fn writing(&self, model: &Model, output_bytes: u32) -> std::result::Result<Arc<Self>, ModelError> {
        Self::new(model, Symbols { output_bytes, ..self.symbols }).map(Arc::new)
    }

    /// Requests below each other in the tensor of a node.
    pub(super) fn batch(&self, node: usize, requests: usize) -> usize {
        if self.extents[node].shared { 1 } else { requests }
    }

    /// Where the elements of a view come from; tabulated when it is first asked for.
    fn map(&self, node: usize, source: Extent) -> Result<&index::IndexMap> {
        if let Some(map) = self.maps[node].get() {
            return Ok(map);
        }
        let shape = &self.bound.nodes[node];
        let view = shape.view.as_ref().ok_or_else(|| Error::msg(format!("node {node} is no view")))?;
        let map = index::IndexMap::new(view, (shape.rows, shape.cols), source)
            .ok_or_else(|| Error::msg(format!("node {node}: a view of 2^32 elements or more")))?;
        Ok(self.maps[node].get_or_init(|| map))
    }
}

const ONE: Extent = Extent { shared: true, rows: 1, cols: 1 };

/// The node that says how long the text of a run is, if the model writes text.
pub(super) fn text_ends(program: &Program) -> Option<usize> {
    let check = program.nodes.iter().find(|node| node.op == Op::CheckLength)?;
    match check.inputs.first() {
        Some(Operand::Node(ends)) => Some(*ends as usize),
        _ => None,
    }
}

/// Which rows of the whole run a tensor holds.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    /// All rows of each request, one request below the other.
    Whole,
    /// For each request some consecutive rows: the first, and how many.
    Some(&'a [(usize, usize)]),
}

impl Rows<'_> {
    /// Request and row of row `i` of a tensor with `rows` per request.
    fn locate(self, mut i: usize, rows: usize) -> (usize, usize) {
        match self {
            Self::Whole => (i / rows, i % rows),
            Self::Some(spans) => {
                for (request, &(first, count)) in spans.iter().enumerate() {
                    if i < count {
                        return (request, first + i);
                    }
                    i -= count;
                }
                (0, i) // not reached: the spans add up to the tensor
            }
        }
    }
}

/// A batch on its way through the graph.
pub(super) struct Run<'a> {
    pub(super) model: &'a Model,
    pub(super) operands: &'a Operands,
    pub(super) shapes: Arc<Shapes>,
    pub(super) device: &'a Device,
    pub(super) isa: Isa,
    /// The requests of the batch.
    pub(super) requests: &'a [&'a Request],
    /// Of each, prompt and generated tokens, if the input is tokens.
    pub(super) sequences: &'a [Vec<u32>],
}

impl Run<'_> {
    /// Runs a plan and returns the last node, if the plan makes it. `watch` sees every tensor the plan yields, before it is released. Tensors in
    /// `known` are taken as they are; the plan need not make them.
    pub(super) fn execute(
        &mut self,
        plan: &Plan,
        known: Vec<(usize, Tensor)>,
        mut watch: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let mut tensors: Vec<Option<Tensor>> = vec![None; self.model.program.nodes.len()];
        for (node, tensor) in known {
            tensors[node] = Some(tensor);
        }
        let ends = text_ends(&self.model.program);
        for step in &plan.steps {
            let batch = self.shapes.batch(step.node, self.requests.len());
            let now = Now { extents: &self.shapes.extents, batch, rows: Rows::Whole };
            let tensor = self.step(step, &tensors, &now)?;
            watch(step.yields, &tensor)?;
            if ends == Some(step.yields) {
                let length = tokens::integers(&tensor)?.last().copied().unwrap_or(0);
                self.shapes = self.shapes.writing(self.model, length).map_err(Error::wrap)?;
            }
            tensors[step.yields] = Some(tensor);
            for &node in &step.release {
                tensors[node] = None;
            }
        }
        Ok(tensors.pop().flatten())
    }

    /// An operand and its extent.
    pub(super) fn operand<'t>(
        &'t self,
        operand: Option<&Operand>,
        tensors: &'t [Option<Tensor>],
        now: &Now<'_>,
    ) -> Result<(&'t Tensor, Extent)> {
        let found = match operand {
            Some(Operand::Node(node)) => {
                tensors[*node as usize].as_ref().map(|tensor| (tensor, now.extents[*node as usize]))
            }
            Some(Operand::Weight(weight)) => self.operands.plain(*weight).map(|(tensor, extent)| (tensor, *extent)),
            Some(Operand::Constant(bits)) => self.operands.constant(*bits).map(|tensor| (tensor, ONE)),
            None => None,
        };
        found.ok_or_else(|| Error::msg(format!("operand {operand:?} was not computed")))
    }

    fn weight(&self, operand: Option<&Operand>) -> Option<(u32, &WeightTensor)> {
        match operand {
            Some(Operand::Weight(weight)) => Some((*weight, self.model.weights.get(*weight)?)),
            _ => None,
        }
    }

    /// The tensor that a step yields.
    pub(super) fn step(&self, step: &Step, tensors: &[Option<Tensor>], now: &Now<'_>) -> Result<Tensor> {
        let node = &self.model.program.nodes[step.node];
        let Now { extents, batch, rows: held } = *now;
        let out = extents[step.node];
        let isa = self.isa;
        let operand = |position: usize| self.operand(node.inputs.get(position), tensors, now);
        if let Some(parts) = &step.attention {
            return self.attention(parts, tensors, now);
        }
        match &node.op {
            Op::Input { kind, .. } => self.input(*kind, out),
            Op::View(view) => self.view(step.node, view.fill, operand(0)?, now),
            Op::Concat { axis } => {
                let parts = (0..node.inputs.len())
                    .map(|i| {
                        let (x, extent) = operand(i)?;
                        if extent.shared && batch > 1 {
                            x.reshape((1, extent.rows, extent.cols))?.broadcast_as((batch, extent.rows, extent.cols))
                        } else {
                            x.reshape((batch, extent.rows, extent.cols))
                        }
                    })
                    .filter(|part| part.as_ref().map_or(true, |part| part.elem_count() > 0))
                    .collect::<Result<Vec<_>>>()?;
                let dim = match axis {
                    ConcatAxis::Rows => 1,
                    ConcatAxis::Cols => 2,
                };
                if parts.is_empty() {
                    return operand(0)?.0.reshape((batch * out.rows, out.cols)); // text without a byte
                }
                Tensor::cat(&parts, dim)?.contiguous()?.reshape((batch * out.rows, out.cols))
            }
            Op::Gather => {
                let (ids, extent) = operand(0)?;
                match self.weight(node.inputs.get(1)) {
                    Some((weight, table)) => match self.operands.table(weight, table) {
                        Some(packed) => tokens::lookup_packed(ids, &packed, (table.rows(), table.cols()), self.device),
                        None => tokens::lookup(ids, table, self.device),
                    },
                    None => {
                        let (table, table_extent) = operand(1)?;
                        tokens::gather_rows(ids, extent, table, table_extent, batch)
                    }
                }
            }
            Op::Take => {
                let ((x, extent), (columns, index)) = (operand(0)?, operand(1)?);
                x.apply_op2_no_bwd(columns, &index::Take { batch, x: extent, index })
            }
            Op::Convert => {
                let signed = matches!(node.inputs.first(), Some(Operand::Node(node))
                    if self.model.program.nodes[*node as usize].dtype == Elements::I8);
                tokens::convert(operand(0)?.0, signed)
            }
            Op::Unary(function) => {
                let (x, _) = operand(0)?;
                x.apply_op1_no_bwd(&elementwise::Unary { isa, function: *function })
            }
            Op::Binary { function, causal } => {
                let ((x, a), (y, b)) = (operand(0)?, operand(1)?);
                let op = elementwise::Binary { isa, function: *function, causal: *causal, batch, out, a, b };
                x.apply_op2_no_bwd(y, &op)
            }
            Op::Select => self.ternary(elementwise::TernaryFunction::Select, step, tensors, now),
            Op::MulAdd => self.ternary(elementwise::TernaryFunction::MulAdd, step, tensors, now),
            Op::Rope { head_dim, rotary } => {
                let ((x, extent), (cos, a), (sin, b)) = (operand(0)?, operand(1)?, operand(2)?);
                let rope = attention::Rope {
                    head: *head_dim as usize,
                    rotary: *rotary as usize,
                    position: &|i| held.locate(i, extent.rows),
                    tables: [a, b],
                    cols: out.cols,
                };
                // Tables of the requests meet rows that all of them share.
                let spread = spread(x, extent, batch)?;
                spread.apply_op3_no_bwd(cos, sin, &rope)
            }
            Op::Linear => {
                let (x, windows) = self.seen(step, tensors, now)?;
                let packed = match node.inputs.get(1) {
                    Some(Operand::Weight(weight)) => self.operands.packed(*weight),
                    _ => None,
                };
                let packed = packed.ok_or_else(|| Error::msg("Linear reads a weight"))?;
                let k = packed.dim(1)?;
                let op = linear::Linear { isa, k, n: out.cols, then: step.then, windows };
                match node.inputs.get(2) {
                    Some(_) => {
                        let (bias, extent) = operand(2)?;
                        if !extent.shared && batch > 1 {
                            return self.linear_with_own_bias(&op, (&x, packed), (bias, extent), now, out);
                        }
                        x.apply_op3_no_bwd(packed, bias, &op)
                    }
                    None => x.apply_op2_no_bwd(packed, &op),
                }
            }
            Op::QuantLinear => {
                let weights = match node.inputs.get(2) {
                    Some(Operand::Weight(weight)) => self.operands.quantised(*weight),
                    _ => None,
                };
                let weights = weights.ok_or_else(|| Error::msg("QuantLinear reads a quantised weight"))?;
                let ((x, a), (most, b)) = (operand(0)?, operand(1)?);
                // One side may be the same for all requests while the other is not.
                let each = |this: Extent, other: Extent| if this.shared && !other.shared { batch } else { 1 };
                let (x, most) = (spread(x, a, each(a, b))?, spread(most, b, each(b, a))?);
                let bias = node.inputs.get(3).map(|_| operand(3)).transpose()?;
                let own = bias.filter(|(_, extent)| !extent.shared && batch > 1);
                let shared = bias.filter(|_| own.is_none());
                let op = quantised::QuantLinear {
                    isa,
                    weights,
                    bias: shared.map(|(bias, _)| bias.flatten_all()?.to_vec1()).transpose()?,
                    then: step.then.filter(|_| own.is_none()),
                };
                let y = x.apply_op2_no_bwd(&most, &op)?;
                match own {
                    Some(bias) => self.add_own_bias(&y, bias, now, out, step.then),
                    None => Ok(y),
                }
            }
            Op::BlockAbsMax { block } => {
                let (x, extent) = operand(0)?;
                x.apply_op1_no_bwd(&quantised::BlockAbsMax { isa, block: *block as usize, cols: extent.cols })
            }
            Op::Quantise { block } => {
                let ((x, extent), (most, magnitudes)) = (operand(0)?, operand(1)?);
                let op = quantised::Quantise { isa, block: *block as usize, batch, x: extent, magnitudes };
                x.apply_op2_no_bwd(most, &op)
            }
            Op::AttentionScores { heads, group, scale, causal } => {
                let ((x, a), (y, b)) = (operand(0)?, operand(1)?);
                let heads = Heads {
                    heads: *heads as usize,
                    group: *group as usize,
                    key_width: a.cols / *heads as usize,
                    value_width: 0,
                    scale: f32::from_bits(*scale),
                    causal: *causal,
                };
                x.apply_op2_no_bwd(y, &attention::Scores { isa, heads, batch, queries: a, keys: b })
            }
            Op::AttentionMix { heads, group, causal } => {
                let ((x, a), (y, b)) = (operand(0)?, operand(1)?);
                let heads = Heads {
                    heads: *heads as usize,
                    group: *group as usize,
                    key_width: 0,
                    value_width: out.cols / *heads as usize,
                    scale: 1.0,
                    causal: *causal,
                };
                x.apply_op2_no_bwd(y, &attention::Mix { isa, heads, batch, weights: a, values: b })
            }
            Op::RowSum { causal } => self.reduce(Reduction::Sum, *causal, operand(0)?),
            Op::RowSumSquares => self.reduce(Reduction::SumSquares, 0, operand(0)?),
            Op::RowMax { causal: 0 } => match self.seen(step, tensors, now)? {
                (x, None) => {
                    let (rows, cols) = x.dims2()?;
                    self.reduce(Reduction::Max, 0, (&x, Extent { shared: out.shared, rows, cols }))
                }
                (x, Some((windows, stride))) => x.apply_op1_no_bwd(&rows::WindowMax { isa, windows, batch, stride }),
            },
            Op::RowMax { causal } => self.reduce(Reduction::Max, *causal, operand(0)?),
            Op::Argmax => {
                let (x, extent) = operand(0)?;
                x.apply_op1_no_bwd(&rows::Argmax { cols: extent.cols })
            }
            Op::Perturb => {
                let ((x, a), (max, b)) = (operand(0)?, operand(1)?);
                let sampling = |i: usize| {
                    let (request, step) = held.locate(i, out.rows);
                    let Request { params, seed, .. } = self.requests[request];
                    let (temperature, min_p) = (f32::from_bits(params.temperature), f32::from_bits(params.min_p));
                    Sampling { temperature, min_p, seed: *seed, step: step as u32 } // below 2^31
                };
                if (0..self.requests.len()).all(|request| greedy(self.requests[request])) {
                    return spread(x, a, batch);
                }
                let (x, max) = (spread(x, a, batch)?, spread(max, b, batch)?);
                x.apply_op2_no_bwd(&max, &tokens::Perturb { isa, cols: out.cols, sampling: &sampling })
            }
            Op::CheckGenerated { stop } => {
                let ((all, a), (samples, b)) = (operand(0)?, operand(1)?);
                let (all, samples) = (tokens::integers(all)?, tokens::integers(samples)?);
                let mut checks = Vec::with_capacity(batch * out.rows);
                for (request, asked) in self.requests.iter().enumerate().take(batch) {
                    let limit = self.model.token_limit(&asked.params);
                    let prompt = self.shapes.symbols.prompt as usize;
                    let (all, samples) = (a.of(&all, request), b.of(&samples, request));
                    checks.extend(tokens::check_generated(all, samples, stop, prompt, limit));
                }
                Tensor::from_vec(checks, (batch * out.rows, 1), self.device)
            }
            Op::CheckLength => {
                let length = tokens::integers(operand(0)?.0)?.last().copied();
                let holds = u32::from(length == Some(self.shapes.symbols.output_bytes));
                Tensor::from_vec(vec![holds; batch], (batch, 1), self.device)
            }
            Op::TokenLength => {
                let ids = tokens::integers(operand(0)?.0)?;
                let entries = ids.iter().map(|&id| tokens::entry(&self.model.vocabulary, id).map(|e| e.len() as u32));
                Tensor::from_vec(entries.collect::<Result<Vec<u32>>>()?, (ids.len(), 1), self.device)
            }
            Op::PrefixSum => {
                let (x, extent) = operand(0)?;
                let sums = tokens::prefix_sum(&tokens::integers(x)?, extent.rows);
                Tensor::from_vec(sums, x.shape(), self.device)
            }
            Op::Detokenise => {
                let ids = tokens::integers(operand(0)?.0)?;
                let mut text = Vec::with_capacity(out.cols);
                for id in ids {
                    text.extend_from_slice(tokens::entry(&self.model.vocabulary, id)?);
                }
                Tensor::from_vec(text, (1, out.cols), self.device)
            }
            Op::Encode(_) => {
                let (x, _) = operand(0)?;
                if x.elem_count() == 0 {
                    return x.reshape((batch, 0));
                }
                x.apply_op1_no_bwd(&index::Encode { batch })
            }
        }
    }

    fn attention(&self, parts: &Attention, tensors: &[Option<Tensor>], now: &Now<'_>) -> Result<Tensor> {
        let operand = |node: usize| self.operand(Some(&Operand::Node(node as u32)), tensors, now);
        let ((q, a), (k, b), (v, c)) = (operand(parts.queries)?, operand(parts.keys)?, operand(parts.values)?);
        let heads = parts.heads(a.cols, c.cols);
        let op = attention::Attention { isa: self.isa, heads, batch: now.batch, operands: [a, b, c] };
        q.apply_op3_no_bwd(k, v, &op)
    }

    /// The tensor of a view node.
    fn view(&self, index: usize, fill: u32, (x, source): (&Tensor, Extent), now: &Now<'_>) -> Result<Tensor> {
        let (out, batch) = (now.extents[index], now.batch);
        if out.is_empty() {
            return Tensor::zeros((batch * out.rows, out.cols), x.dtype(), self.device);
        }
        match self.shapes.map(index, source)? {
            index::IndexMap::Identity => x.reshape((batch * out.rows, out.cols)),
            map => x.apply_op1_no_bwd(&index::View { map: map.clone(), fill, batch, out, source }),
        }
    }

    /// The first operand of a step that may be read through a view: the tensor, and the view with the tensor's elements
    /// per request if that is how to read it.
    fn seen(&self, step: &Step, tensors: &[Option<Tensor>], now: &Now<'_>) -> Result<(Tensor, Option<index::Seen>)> {
        let nodes = &self.model.program.nodes;
        let Some(view) = step.through else {
            return Ok((self.operand(nodes[step.node].inputs.first(), tensors, now)?.0.clone(), None));
        };
        let (x, source) = self.operand(nodes[view].inputs.first(), tensors, now)?;
        match (self.shapes.map(view, source)?, &nodes[view].op) {
            (index::IndexMap::Windows(windows), _) => Ok((x.clone(), Some((windows.clone(), source.len())))),
            (_, Op::View(map)) => Ok((self.view(view, map.fill, (x, source), now)?, None)),
            _ => Err(Error::msg(format!("node {view} is no view"))),
        }
    }

    fn ternary(
        &self,
        function: elementwise::TernaryFunction,
        step: &Step,
        tensors: &[Option<Tensor>],
        now: &Now<'_>,
    ) -> Result<Tensor> {
        let inputs = &self.model.program.nodes[step.node].inputs;
        let operand = |position: usize| self.operand(inputs.get(position), tensors, now);
        let ((x, a), (y, b), (z, c)) = (operand(0)?, operand(1)?, operand(2)?);
        let (out, batch) = (now.extents[step.node], now.batch);
        x.apply_op3_no_bwd(y, z, &elementwise::Ternary { isa: self.isa, function, batch, out, operands: [a, b, c] })
    }

    /// A linear layer whose bias each request brings along.
    fn linear_with_own_bias(
        &self,
        op: &linear::Linear,
        (x, packed): (&Tensor, &Tensor),
        bias: (&Tensor, Extent),
        now: &Now<'_>,
        out: Extent,
    ) -> Result<Tensor> {
        let plain = linear::Linear { isa: op.isa, k: op.k, n: op.n, then: None, windows: op.windows.clone() };
        let y = x.apply_op2_no_bwd(packed, &plain)?;
        self.add_own_bias(&y, bias, now, out, op.then)
    }

    fn add_own_bias(
        &self,
        y: &Tensor,
        (bias, b): (&Tensor, Extent),
        now: &Now<'_>,
        out: Extent,
        then: Option<candor_sdk::program::UnaryFunction>,
    ) -> Result<Tensor> {
        // Activations that all requests share gave one result for all.
        let a = Extent { shared: y.elem_count() == out.len(), ..out };
        let function = candor_sdk::program::BinaryFunction::Add;
        let op = elementwise::Binary { isa: self.isa, function, causal: 0, batch: now.batch, out, a, b };
        let y = y.apply_op2_no_bwd(bias, &op)?;
        match then {
            Some(function) => y.apply_op1_no_bwd(&elementwise::Unary { isa: self.isa, function }),
            None => Ok(y),
        }
    }

    fn reduce(&self, reduction: Reduction, causal: u32, (x, extent): (&Tensor, Extent)) -> Result<Tensor> {
        x.apply_op1_no_bwd(&rows::Reduce { isa: self.isa, reduction, causal, x: extent })
    }

    /// The requests' bytes as elements, one request below the other. Lengths have been checked.
    fn input(&self, kind: InputKind, out: Extent) -> Result<Tensor> {
        let shape = (self.requests.len() * out.rows, out.cols);
        let bytes = self.requests.iter().map(|request| request.input.as_slice());
        match kind {
            InputKind::F32Be => {
                let numbers = bytes.flat_map(|input| input.as_chunks::<4>().0);
                let numbers = numbers.map(|bytes| scalar::canonical(f32::from_be_bytes(*bytes)));
                Tensor::from_vec(numbers.collect::<Vec<f32>>(), shape, self.device)
            }
            InputKind::U8 | InputKind::Utf8 => Tensor::from_vec(bytes.collect::<Vec<_>>().concat(), shape, self.device),
            InputKind::Tokens => Tensor::from_vec(self.sequences.concat(), shape, self.device),
        }
    }
}

/// What a step needs to know about the tensors at hand.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    /// Their extents, by node.
    pub(super) extents: &'a [Extent],
    /// Requests one below the other in the result.
    pub(super) batch: usize,
    /// The rows that they hold.
    pub(super) rows: Rows<'a>,
}

fn greedy(request: &Request) -> bool {
    let temperature = f32::from_bits(request.params.temperature);
    temperature <= 0.0 || temperature.is_nan()
}

/// A tensor that all requests share, once for each of them.
fn spread(x: &Tensor, extent: Extent, batch: usize) -> Result<Tensor> {
    if !extent.shared || batch <= 1 {
        return Ok(x.clone());
    }
    Tensor::cat(&vec![x; batch], 0)
}

/// Prompts as token ids; empty for inputs of other kinds.
pub(super) fn prompt(model: &Model, request: &Request) -> Vec<u32> {
    match model.program.input_kind() {
        Some(InputKind::Tokens) => {
            request.input.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect()
        }
        _ => Vec::new(),
    }
}

/// Symbols and tokens of a run with `generated` tokens.
pub(super) fn sequence(model: &Model, request: &Request, symbols: Symbols, generated: &[u32]) -> (Symbols, Vec<u32>) {
    let tokens = [prompt(model, request).as_slice(), generated].concat();
    let sequence = symbols.sequence + generated.len() as u32; // at most the model's limit
    (Symbols { sequence, ..symbols }, tokens)
}

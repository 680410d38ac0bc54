//! Carries out a plan on a device, for a batch of requests that agree on all shapes: what `engine/run.rs` does on the
//! host, with every tensor on the device.

use super::driver::DeviceError;
use super::fuse::Fused;
use super::memory::{Buffer, Device, Tensor};
use super::ops::{
    AttentionRows, FEW_ROWS, Heads, Layer, Norm, Operand as Read, Quantised, Readers, Result, Rows, short,
};
use super::plan::{DevicePlan, Task, layer_weight};
use super::weights::Weights;
use crate::engine::kernels::rows::Reduction;
use crate::engine::ops::Extent;
use crate::engine::plan::{Attention, Step};
use crate::engine::run::{Shapes, text_ends};
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{
    BinaryFunction, ConcatAxis, DType, InputKind, Model, Op, Operand, Request, Symbols, UnaryFunction, View,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Tables of views that are kept.
const KEPT_VIEWS: usize = 4096;

/// Tables of views on the device, by node and symbols.
#[derive(Default)]
pub(super) struct Views(RefCell<HashMap<(usize, Symbols), Rc<Buffer>>>);

/// A batch on its way through the graph.
pub(super) struct Run<'a> {
    pub(super) device: &'a Device,
    pub(super) model: &'a Model,
    pub(super) weights: &'a Weights,
    pub(super) views: &'a Views,
    pub(super) shapes: Arc<Shapes>,
    pub(super) requests: &'a [&'a Request],
    /// Of each, prompt and generated tokens, if the input is tokens.
    pub(super) sequences: &'a [Vec<u32>],
}

/// What a step needs to know about the tensors at hand.
pub(super) struct Now<'a> {
    pub(super) extents: &'a [Extent],
    /// Requests one below the other in the result.
    pub(super) batch: usize,
    /// Of rows that are not all rows of each request: where they belong.
    pub(super) rows: Option<&'a RowTables>,
}

/// Tables about rows, on the device: their positions, and how each is sampled.
pub(super) struct RowTables {
    pub(super) positions: Rc<Buffer>,
    pub(super) samplings: Rc<Buffer>,
    /// Whether no row needs noise.
    pub(super) greedy: bool,
}

const ONE: Extent = Extent { shared: true, rows: 1, cols: 1 };

fn missing(what: &str) -> DeviceError {
    DeviceError::Failed(format!("{what} was not computed"))
}

/// How row `step` of a request is sampled: `Sampling` of tokens.cu.
pub(super) fn sampling(request: &Request, step: usize) -> [u32; 8] {
    let word = |i: usize| {
        let seed = &request.seed;
        u32::from_be_bytes([seed[4 * i], seed[4 * i + 1], seed[4 * i + 2], seed[4 * i + 3]])
    };
    let step = u32::try_from(step).unwrap_or(u32::MAX); // below 2^31
    [request.params.temperature, request.params.min_p, word(0), word(1), word(2), word(3), step, 0]
}

pub(super) fn greedy(request: &Request) -> bool {
    let temperature = f32::from_bits(request.params.temperature);
    temperature <= 0.0 || temperature.is_nan()
}

impl Run<'_> {
    /// Runs a plan and returns the last node, if the plan makes it. `watch` sees every tensor the plan yields.
    pub(super) fn execute(
        &mut self,
        plan: &DevicePlan,
        known: Vec<(usize, Tensor)>,
        mut watch: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let mut tensors: Vec<Option<Tensor>> = vec![None; self.model.program.nodes.len()];
        for (node, tensor) in known {
            tensors[node] = Some(tensor);
        }
        let mut ahead = HashMap::new();
        let ends = text_ends(&self.model.program);
        for task in plan.tasks() {
            let step = task.step;
            let batch = self.shapes.batch(step.node, self.requests.len());
            let now = Now { extents: &self.shapes.extents, batch, rows: None };
            let tensor = self.step(&task, &tensors, &now, &mut ahead)?;
            watch(step.yields, &tensor)?;
            if ends == Some(step.yields) {
                let length = tensor.words()?.last().copied().unwrap_or(0);
                let shapes = self.shapes.writing(self.model, length);
                self.shapes = shapes.map_err(|error| DeviceError::Failed(error.to_string()))?;
            }
            tensors[step.yields] = Some(tensor);
            task.release.iter().for_each(|&node| tensors[node] = None);
        }
        Ok(tensors.pop().flatten())
    }

    /// An operand and its extent.
    pub(super) fn operand<'t>(
        &'t self,
        operand: Option<&Operand>,
        tensors: &'t [Option<Tensor>],
        now: &Now<'_>,
    ) -> Result<Read<'t>> {
        let found = match operand {
            Some(Operand::Node(node)) => {
                tensors[*node as usize].as_ref().map(|tensor| (tensor, now.extents[*node as usize]))
            }
            Some(Operand::Weight(weight)) => self.weights.plain(*weight),
            Some(Operand::Constant(bits)) => self.weights.constant(*bits).map(|tensor| (tensor, ONE)),
            None => None,
        };
        found.ok_or_else(|| missing(&format!("operand {operand:?}")))
    }

    /// The tensor that a step yields. What comes later but was computed along with it waits in `ahead`.
    pub(super) fn step(
        &self,
        task: &Task<'_>,
        tensors: &[Option<Tensor>],
        now: &Now<'_>,
        ahead: &mut HashMap<usize, Tensor>,
    ) -> Result<Tensor> {
        let Task { step, fused, .. } = *task;
        if let Some(tensor) = ahead.remove(&step.yields) {
            return Ok(tensor);
        }
        let node = &self.model.program.nodes[step.node];
        let Now { extents, batch, rows: tables } = *now;
        let (out, device) = (extents[step.node], self.device);
        let operand = |position: usize| self.operand(node.inputs.get(position), tensors, now);
        match fused {
            Some(norm @ Fused::Norm { x, .. }) => {
                let (x, _) = self.operand(Some(&Operand::Node(x as u32)), tensors, now)?;
                return Ok(task.made(device.norm(x, self.norm(norm)?, task.group())?, ahead));
            }
            Some(Fused::Softmax { x }) => {
                return device.softmax(self.operand(Some(&Operand::Node(x as u32)), tensors, now)?.0);
            }
            None => {}
        }
        if let Some(parts) = &step.attention {
            return Ok(task.made(self.attention(parts, tensors, now, task.group())?, ahead));
        }
        match &node.op {
            Op::Input { kind, .. } => self.input(*kind, out),
            Op::View(_) => self.view(step.node, operand(0)?, now),
            Op::Concat { axis } => {
                let parts = (0..node.inputs.len()).map(operand).collect::<Result<Vec<_>>>()?;
                device.concat(*axis == ConcatAxis::Cols, batch, out, &parts)
            }
            Op::Gather => match self.weights.packed(node.inputs.get(1)) {
                Some(table) => device.gather_packed(operand(0)?.0, table),
                None => {
                    let (ids, extent) = operand(0)?;
                    // Of a part of a sequence all rows are one request's.
                    let extent =
                        if tables.is_some() { Extent { shared: true, rows: ids.rows, ..extent } } else { extent };
                    device.gather_rows(batch, (ids, extent), operand(1)?)
                }
            },
            Op::Take => device.take(batch, operand(0)?, operand(1)?),
            Op::Convert => device.convert(operand(0)?.0),
            Op::Unary(function) => device.unary(*function, operand(0)?.0),
            Op::Binary { function, causal } => {
                let (x, y) = (operand(0)?, operand(1)?);
                let alike = |(tensor, _): Read<'_>| (tensor.rows, tensor.cols) == (batch * out.rows, out.cols);
                match (task.norm, task.group()) {
                    _ if !alike(x) || !alike(y) || *causal != 0 => {
                        device.binary(*function, *causal, batch, out, (x, y))
                    }
                    (Some((norm, yields)), _) => {
                        let (sum, normed) = device.add_and_norm(x.0, y.0, self.norm(norm)?, task.group())?;
                        let normed = task.made(normed, ahead);
                        ahead.insert(yields, normed);
                        Ok(sum)
                    }
                    (None, Some(group)) => {
                        let (rows, quantised) = device.binary_groups(*function, x.0, y.0, group)?;
                        Ok(task.made((rows, Some(quantised)), ahead))
                    }
                    (None, None) => device.binary(*function, *causal, batch, out, (x, y)),
                }
            }
            Op::MulAdd => device.ternary(false, batch, out, [operand(0)?, operand(1)?, operand(2)?]),
            Op::Select => device.ternary(true, batch, out, [operand(0)?, operand(1)?, operand(2)?]),
            Op::Rope { head_dim, rotary } => {
                let (x, extent) = operand(0)?;
                let x = device.spread((x, extent), batch)?;
                let second = task.along.first().map(|step| {
                    let inputs = &self.model.program.nodes[step.node].inputs;
                    self.operand(inputs.first(), tensors, now).map(|(y, extent)| (step.yields, y, extent))
                });
                // One that is there for each request, like the first.
                let second = second.transpose()?.filter(|(_, y, e)| (y.rows, e.rows) == (x.rows, extent.rows));
                let (angles, positions) = ([operand(1)?, operand(2)?], tables.map(|tables| &tables.positions));
                let both = (&x, second.map(|(_, y, _)| y));
                let (turned, other) = device.rope((*head_dim, *rotary), extent.rows, both, angles, positions)?;
                ahead.extend(second.map(|(yields, ..)| yields).zip(other));
                Ok(turned)
            }
            Op::Linear => {
                let x = match step.through {
                    None => operand(0)?.0.clone(),
                    Some(view) => {
                        let source = self.operand(self.model.program.nodes[view].inputs.first(), tensors, now)?;
                        self.view(view, source, now)?
                    }
                };
                if !task.along.is_empty() && x.rows <= FEW_ROWS {
                    return self.together(task, ahead, |layers| device.linears(&x, layers));
                }
                let (w, bias) = (self.layer(step)?.w, node.inputs.get(2).map(|_| operand(2)).transpose()?);
                self.with_bias(bias, step.then, now, out, |bias, then| device.linear(&x, Layer { w, bias, then }))
            }
            Op::QuantLinear => {
                let ((q, a), (most, b)) = (operand(0)?, operand(1)?);
                // One side may be the same for all requests while the other is not.
                let each = |this: Extent, other: Extent| if this.shared && !other.shared { batch } else { 1 };
                let (q, magnitudes) = (device.spread((q, a), each(a, b))?, device.spread((most, b), each(b, a))?);
                let x = Quantised { q, magnitudes };
                if !task.along.is_empty() && x.q.rows <= FEW_ROWS {
                    return self.together(task, ahead, |layers| device.quantised_linears(&x, layers));
                }
                let (w, bias) = (self.layer(step)?.w, node.inputs.get(3).map(|_| operand(3)).transpose()?);
                self.with_bias(bias, step.then, now, out, |bias, then| {
                    device.quantised_linear(&x, Layer { w, bias, then })
                })
            }
            Op::BlockAbsMax { block } => {
                let Quantised { q, magnitudes } = device.quantised_groups(operand(0)?.0, *block as usize)?;
                let own = task.groups.filter(|groups| groups.magnitudes == step.node);
                ahead.extend(own.map(|groups| (groups.bytes, q)));
                Ok(magnitudes)
            }
            Op::Quantise { block } => device.quantise(*block, batch, operand(0)?, operand(1)?),
            Op::AttentionScores { heads, group, scale, causal } => {
                let ((x, a), (y, b)) = (operand(0)?, operand(1)?);
                let heads = Heads {
                    heads: *heads as usize,
                    group: *group as usize,
                    key_width: a.cols / *heads as usize,
                    value_width: 0,
                    scale: f32::from_bits(*scale),
                };
                let x = device.spread((x, a), batch)?;
                let rows = self.whole_rows(heads.group, batch, a.rows, *causal, (y, b), (y, b))?;
                device.attention_scores(&x, &heads, &rows)
            }
            Op::AttentionMix { heads, group, causal } => {
                device.attention_mix((*heads, *group, *causal), batch, out, (operand(0)?, operand(1)?))
            }
            Op::RowSum { causal } => device.reduce(Reduction::Sum, *causal, operand(0)?),
            Op::RowSumSquares => device.reduce(Reduction::SumSquares, 0, operand(0)?),
            Op::RowMax { causal } => match step.through {
                None => device.reduce(Reduction::Max, *causal, operand(0)?),
                Some(view) => {
                    let source = self.operand(self.model.program.nodes[view].inputs.first(), tensors, now)?;
                    let x = self.view(view, source, now)?;
                    device.reduce(Reduction::Max, 0, (&x, extents[view]))
                }
            },
            Op::Argmax => device.argmax(operand(0)?.0),
            Op::Perturb => {
                let ((x, a), (max, b)) = (operand(0)?, operand(1)?);
                match tables {
                    Some(tables) if tables.greedy => Ok(x.clone()),
                    Some(tables) => device.perturb(x, max, &tables.samplings),
                    None => {
                        let x = device.spread((x, a), batch)?;
                        if self.requests.iter().all(|request| greedy(request)) {
                            return Ok(x);
                        }
                        let max = device.spread((max, b), batch)?;
                        let rows = self.requests.iter().flat_map(|r| (0..out.rows).flat_map(|row| sampling(r, row)));
                        device.perturb(&x, &max, &device.upload_words(rows)?)
                    }
                }
            }
            Op::CheckGenerated { stop } => {
                let limits = self.requests.iter().map(|request| self.model.token_limit(&request.params));
                let prompt = self.shapes.symbols.prompt;
                device.check_generated(batch, operand(0)?, operand(1)?, stop, limits, prompt)
            }
            Op::CheckLength => device.check_length(batch, operand(0)?, self.shapes.symbols.output_bytes),
            Op::TokenLength => device.token_lengths(operand(0)?.0, self.weights.vocabulary.as_ref()),
            Op::PrefixSum => {
                let (x, extent) = operand(0)?;
                device.prefix_sums(x, extent.rows)
            }
            Op::Detokenise => {
                device.detokenise(operand(0)?.0, operand(1)?.0, self.weights.vocabulary.as_ref(), out.cols)
            }
            Op::Encode(_) => device.encode(operand(0)?.0, batch),
        }
    }

    /// The parameters of a norm, which are weights.
    fn norm(&self, fused: Fused) -> Result<Norm<'_>> {
        let row = |operand: &Operand| match operand {
            Operand::Weight(index) => self.weights.plain(*index).map(|(row, _)| row),
            _ => None,
        };
        let Fused::Norm { weight, bias, epsilon, .. } = fused else { return Err(missing("a norm")) };
        let weight = row(&weight).ok_or_else(|| missing("the weight of a norm"))?;
        Ok(Norm { weight, bias: bias.as_ref().and_then(row), epsilon: f32::from_bits(epsilon) })
    }

    /// The layer of a step; its bias only if that is a weight.
    fn layer(&self, step: &Step) -> Result<Layer<'_>> {
        let node = &self.model.program.nodes[step.node];
        let weight = layer_weight(&node.op).ok_or_else(|| missing("a layer"))?;
        let w = self.weights.packed(node.inputs.get(weight)).ok_or_else(|| missing("the weight of a layer"))?;
        let bias = match node.inputs.get(weight + 1) {
            Some(Operand::Weight(bias)) => self.weights.plain(*bias).map(|(bias, _)| bias),
            _ => None,
        };
        Ok(Layer { w, bias, then: step.then })
    }

    /// A layer and those that are done along with it.
    fn together(
        &self,
        task: &Task<'_>,
        ahead: &mut HashMap<usize, Tensor>,
        contract: impl FnOnce(&[Layer<'_>]) -> Result<Vec<Tensor>>,
    ) -> Result<Tensor> {
        let steps = || std::iter::once(task.step).chain(task.along.iter().copied());
        let layers = steps().map(|step| self.layer(step)).collect::<Result<Vec<_>>>()?;
        ahead.extend(steps().map(|step| step.yields).zip(contract(&layers)?));
        ahead.remove(&task.step.yields).ok_or_else(|| missing("a layer"))
    }

    /// A contraction with the bias and the function that follow it, which is fused unless each request brings its own
    /// bias.
    fn with_bias(
        &self,
        bias: Option<Read<'_>>,
        then: Option<UnaryFunction>,
        now: &Now<'_>,
        out: Extent,
        contract: impl FnOnce(Option<&Tensor>, Option<UnaryFunction>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Some((bias, b)) = bias.filter(|(_, extent)| !extent.shared && now.batch > 1) else {
            return contract(bias.map(|(bias, _)| bias), then);
        };
        let y = contract(None, None)?;
        // Activations that all requests share gave one result for all.
        let a = Extent { shared: y.len() == out.len(), ..out };
        let y = self.device.binary(BinaryFunction::Add, 0, now.batch, out, ((&y, a), (bias, b)))?;
        then.map_or(Ok(y.clone()), |function| self.device.unary(function, &y))
    }

    /// Which keys and values the rows of whole requests read.
    fn whole_rows(
        &self,
        group: usize,
        batch: usize,
        queries: usize,
        causal: bool,
        (keys, k): Read<'_>,
        (values, v): Read<'_>,
    ) -> Result<AttentionRows> {
        let at = |x: &Tensor, extent: Extent, request: usize| {
            let first = if extent.shared { 0 } else { request * extent.len() };
            x.address() + 4 * first as u64
        };
        let readers: Vec<Readers> = (0..batch)
            .map(|request| Readers { keys: at(keys, k, request), values: at(values, v, request), rows: queries })
            .collect();
        let length = k.rows;
        let extents =
            (0..batch).flat_map(|_| (0..queries).map(|row| if causal { (row + 1).min(length) } else { length }));
        let extents = extents.map(short).collect::<Result<Vec<_>>>()?;
        AttentionRows::new(self.device, group, &readers, self.device.upload_words(extents)?, length)
    }

    fn attention(
        &self,
        parts: &Attention,
        tensors: &[Option<Tensor>],
        now: &Now<'_>,
        group: Option<usize>,
    ) -> Result<Rows> {
        let operand = |node: usize| self.operand(Some(&Operand::Node(node as u32)), tensors, now);
        let ((q, a), (k, b), (v, c)) = (operand(parts.queries)?, operand(parts.keys)?, operand(parts.values)?);
        let heads = heads(parts, a.cols, c.cols);
        let q = self.device.spread((q, a), now.batch)?;
        let rows = self.whole_rows(heads.group, now.batch, a.rows, parts.causal, (k, b), (v, c))?;
        self.device.attention(&q, &heads, &rows, group)
    }

    /// The tensor of a view node.
    fn view(&self, index: usize, source: Read<'_>, now: &Now<'_>) -> Result<Tensor> {
        let Op::View(view) = &self.model.program.nodes[index].op else {
            return Err(DeviceError::Failed(format!("node {index} is no view")));
        };
        let (out, symbols) = (now.extents[index], self.shapes.symbols);
        let known = self.views.0.borrow().get(&(index, symbols)).cloned();
        let map = match known {
            Some(map) => map,
            None => {
                let map = self.device.upload(&view_map(view, &symbols))?;
                let mut kept = self.views.0.borrow_mut();
                if kept.len() >= KEPT_VIEWS {
                    kept.clear();
                }
                kept.insert((index, symbols), map.clone());
                map
            }
        };
        let batch = if out.shared { 1 } else { now.batch };
        self.device.view(&map, view.fill, batch, out, source)
    }

    /// The requests' bytes as elements, one request below the other. Lengths have been checked.
    fn input(&self, kind: InputKind, out: Extent) -> Result<Tensor> {
        let shape = (self.requests.len() * out.rows, out.cols);
        let bytes = self.requests.iter().map(|request| request.input.as_slice());
        match kind {
            InputKind::F32Be => {
                let numbers = bytes.flat_map(|input| input.as_chunks::<4>().0);
                let numbers = numbers.map(|bytes| scalar::canonical(f32::from_be_bytes(*bytes)));
                self.device.floats(shape, &numbers.collect::<Vec<f32>>())
            }
            InputKind::U8 | InputKind::Utf8 => {
                self.device.tensor_of(DType::U8, shape, &bytes.collect::<Vec<_>>().concat())
            }
            InputKind::Tokens => self.device.integers(shape, &self.sequences.concat()),
        }
    }
}

/// The heads of an attention layer, for queries and values with so many columns.
pub(super) fn heads(parts: &Attention, queries: usize, values: usize) -> Heads {
    let shape = parts.heads(queries, values);
    Heads {
        heads: shape.heads,
        group: shape.group,
        key_width: shape.key_width,
        value_width: shape.value_width,
        scale: shape.scale,
    }
}

/// A view for given symbols: `ViewMap` of index.cu, as 64-bit numbers.
fn view_map(view: &View, symbols: &Symbols) -> Vec<u8> {
    let mut words = vec![view.row_digits.len() as i64, view.col_digits.len() as i64, view.axes.len() as i64];
    let padded = |numbers: Vec<i64>| (0..8).map(move |i| numbers.get(i).copied().unwrap_or(0)).collect::<Vec<i64>>();
    words.extend(padded(view.row_digits.iter().chain(&view.col_digits).map(|radix| radix.value(symbols)).collect()));
    for axis in &view.axes {
        words.extend([&axis.size, &axis.offset, &axis.row_weight, &axis.col_weight].map(|dim| dim.value(symbols)));
        words.extend(padded(axis.steps.iter().map(|&step| i64::from(step)).collect()));
    }
    words.resize(11 + 8 * 12, 0); // eight axes
    words.into_iter().flat_map(i64::to_le_bytes).collect()
}

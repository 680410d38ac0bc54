//! Carries out a plan for a batch of requests that agree on all shapes.

use super::kernels::{Isa, rows::Reduction};
use super::operands::Operands;
use super::ops::{Extent, elementwise, index, linear, quantised, rows};
use super::plan::{Plan, Step};
use candle_core::{DType, Device, Error, Result, Tensor};
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{BoundProgram, ConcatAxis, InputKind, Model, ModelError, Op, Operand, Symbols};

/// The shapes of all nodes, and the tables of all views, for given symbols.
pub(super) struct Shapes {
    pub(super) extents: Vec<Extent>,
    maps: Vec<Option<index::IndexMap>>,
    /// Bytes of activations per request if nothing were released.
    pub(super) bytes: usize,
}

impl Shapes {
    /// Binds a model and tabulates its views.
    pub(super) fn new(model: &Model, symbols: Symbols) -> std::result::Result<Self, ModelError> {
        let bound = model.bind(symbols)?;
        let mut extents: Vec<Extent> = Vec::with_capacity(bound.nodes.len());
        for (node, shape) in model.program.nodes.iter().zip(&bound.nodes) {
            // A node that reads nothing of the request is the same for all of them.
            let shared = !matches!(node.op, Op::Input { .. })
                && node.inputs.iter().all(|operand| match operand {
                    Operand::Node(node) => extents[*node as usize].shared,
                    _ => true,
                });
            extents.push(Extent { shared, rows: shape.rows, cols: shape.cols });
        }
        let maps = Self::tabulate(model, &bound, &extents)?;
        let bytes = extents.iter().filter(|extent| !extent.shared).map(|extent| 4 * extent.len()).sum();
        Ok(Self { extents, maps, bytes })
    }

    fn tabulate(
        model: &Model,
        bound: &BoundProgram,
        extents: &[Extent],
    ) -> std::result::Result<Vec<Option<index::IndexMap>>, ModelError> {
        let mut maps = Vec::with_capacity(extents.len());
        for (index, (node, shape)) in model.program.nodes.iter().zip(&bound.nodes).enumerate() {
            let (Some(view), [operand]) = (&shape.view, node.inputs.as_slice()) else {
                maps.push(None);
                continue;
            };
            let source = match operand {
                Operand::Node(node) => extents[*node as usize],
                Operand::Weight(weight) => model.weights.get(*weight).map_or(ONE, |tensor| Extent {
                    shared: true,
                    rows: tensor.rows(),
                    cols: tensor.cols(),
                }),
                Operand::Constant(_) => ONE,
            };
            let map = index::IndexMap::new(view, (shape.rows, shape.cols), source).ok_or_else(|| ModelError::Node {
                node: index as u32, // at most 2^16 nodes
                op: node.op.name(),
                label: node.label.clone(),
                field: "rows",
                problem: "a view of 2^32 elements or more".to_string(),
            })?;
            maps.push(Some(map));
        }
        Ok(maps)
    }
}

const ONE: Extent = Extent { shared: true, rows: 1, cols: 1 };

/// Whether there is a kernel for the operation; else what is missing.
pub(super) fn supported(op: &Op) -> std::result::Result<(), String> {
    match op {
        Op::Input { kind: InputKind::Tokens, .. } => Err("a sequence of tokens".to_string()),
        Op::Input { .. }
        | Op::View(_)
        | Op::Concat { .. }
        | Op::Gather
        | Op::Take
        | Op::Convert
        | Op::Unary(_)
        | Op::Binary { .. }
        | Op::Select
        | Op::MulAdd
        | Op::Linear
        | Op::BlockAbsMax { .. }
        | Op::Quantise { .. }
        | Op::QuantLinear
        | Op::RowSum { .. }
        | Op::RowSumSquares
        | Op::RowMax { .. }
        | Op::Argmax
        | Op::Encode(_) => Ok(()),
        other => Err(other.name().to_string()),
    }
}

/// A batch on its way through the graph.
pub(super) struct Run<'a> {
    pub(super) model: &'a Model,
    pub(super) operands: &'a Operands,
    pub(super) shapes: &'a Shapes,
    pub(super) device: &'a Device,
    pub(super) isa: Isa,
    pub(super) batch: usize,
}

impl Run<'_> {
    /// Runs a plan on the inputs of the batch and returns the last node. `watch` sees every tensor the plan yields, before
    /// it is released.
    pub(super) fn execute(
        &self,
        plan: &Plan,
        inputs: &[&[u8]],
        mut watch: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let mut tensors: Vec<Option<Tensor>> = vec![None; self.model.program.nodes.len()];
        for step in &plan.steps {
            let tensor = self.step(step, inputs, &tensors)?;
            watch(step.yields, &tensor)?;
            tensors[step.yields] = Some(tensor);
            for &node in &step.release {
                tensors[node] = None;
            }
        }
        tensors.pop().flatten().ok_or_else(|| Error::msg("a graph without nodes"))
    }

    /// The operand at `position` of a node and its extent.
    fn operand<'t>(
        &'t self,
        node: usize,
        position: usize,
        tensors: &'t [Option<Tensor>],
    ) -> Result<(&'t Tensor, Extent)> {
        let operand = self.model.program.nodes[node].inputs.get(position);
        let found = match operand {
            Some(Operand::Node(node)) => {
                tensors[*node as usize].as_ref().map(|tensor| (tensor, self.shapes.extents[*node as usize]))
            }
            Some(Operand::Weight(weight)) => self.operands.plain(*weight).map(|(tensor, extent)| (tensor, *extent)),
            Some(Operand::Constant(bits)) => self.operands.constant(*bits).map(|tensor| (tensor, ONE)),
            None => None,
        };
        found.ok_or_else(|| Error::msg(format!("node {node} has no operand {position}")))
    }

    fn step(&self, step: &Step, inputs: &[&[u8]], tensors: &[Option<Tensor>]) -> Result<Tensor> {
        let node = &self.model.program.nodes[step.node];
        let out = self.shapes.extents[step.node];
        let batch = if out.shared { 1 } else { self.batch };
        let operand = |position| self.operand(step.node, position, tensors);
        match &node.op {
            Op::Input { kind, .. } => self.input(*kind, inputs, out),
            Op::View(_) => self.view(step.node, operand(0)?),
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
                    .collect::<Result<Vec<_>>>()?;
                let dim = match axis {
                    ConcatAxis::Rows => 1,
                    ConcatAxis::Cols => 2,
                };
                Tensor::cat(&parts, dim)?.contiguous()?.reshape((batch * out.rows, out.cols))
            }
            Op::Gather => {
                let (ids, _) = operand(0)?;
                let (table, rows) = match node.inputs.get(1) {
                    Some(Operand::Weight(weight)) => {
                        let rows = self.model.weights.get(*weight).map_or(0, |tensor| tensor.rows());
                        (self.operands.table(*weight), rows)
                    }
                    _ => (None, 0),
                };
                let table = table.ok_or_else(|| Error::msg("Gather reads rows of a weight"))?;
                ids.apply_op2_no_bwd(table, &index::Gather { rows, cols: out.cols })
            }
            Op::Take => {
                let ((x, extent), (columns, index)) = (operand(0)?, operand(1)?);
                x.apply_op2_no_bwd(columns, &index::Take { batch, x: extent, index })
            }
            Op::Convert => operand(0)?.0.to_dtype(DType::F32),
            Op::Unary(function) => {
                let (x, _) = operand(0)?;
                x.apply_op1_no_bwd(&elementwise::Unary { isa: self.isa, function: *function })
            }
            Op::Binary { function, causal } => {
                let ((x, a), (y, b)) = (operand(0)?, operand(1)?);
                let op = elementwise::Binary { isa: self.isa, function: *function, causal: *causal, batch, out, a, b };
                x.apply_op2_no_bwd(y, &op)
            }
            Op::Select => self.ternary(elementwise::TernaryFunction::Select, step, tensors),
            Op::MulAdd => self.ternary(elementwise::TernaryFunction::MulAdd, step, tensors),
            Op::Linear => {
                let (x, windows) = self.seen(step, tensors)?;
                let packed = match node.inputs.get(1) {
                    Some(Operand::Weight(weight)) => self.operands.packed(*weight),
                    _ => None,
                };
                let packed = packed.ok_or_else(|| Error::msg("Linear reads a weight"))?;
                let k = packed.dim(1)?;
                let op = linear::Linear { isa: self.isa, k, n: out.cols, then: step.then, windows };
                match node.inputs.get(2) {
                    Some(_) => x.apply_op3_no_bwd(packed, operand(2)?.0, &op),
                    None => x.apply_op2_no_bwd(packed, &op),
                }
            }
            Op::BlockAbsMax { block } => {
                let (x, extent) = operand(0)?;
                x.apply_op1_no_bwd(&quantised::BlockAbsMax { isa: self.isa, block: *block as usize, cols: extent.cols })
            }
            Op::Quantise { block } => {
                let ((x, extent), (most, magnitudes)) = (operand(0)?, operand(1)?);
                let op = quantised::Quantise { isa: self.isa, block: *block as usize, batch, x: extent, magnitudes };
                x.apply_op2_no_bwd(most, &op)
            }
            Op::QuantLinear => self.quant_linear(step, operand(0)?, operand(1)?, tensors),
            Op::RowSum { causal } => self.reduce(Reduction::Sum, *causal, operand(0)?),
            Op::RowSumSquares => self.reduce(Reduction::SumSquares, 0, operand(0)?),
            Op::RowMax { causal: 0 } => match self.seen(step, tensors)? {
                (x, None) => {
                    let (rows, cols) = x.dims2()?;
                    self.reduce(Reduction::Max, 0, (&x, Extent { shared: out.shared, rows, cols }))
                }
                (x, Some((windows, stride))) => {
                    x.apply_op1_no_bwd(&rows::WindowMax { isa: self.isa, windows, batch, stride })
                }
            },
            Op::RowMax { causal } => self.reduce(Reduction::Max, *causal, operand(0)?),
            Op::Argmax => {
                let (x, extent) = operand(0)?;
                x.apply_op1_no_bwd(&rows::Argmax { cols: extent.cols })
            }
            Op::Encode(_) => operand(0)?.0.apply_op1_no_bwd(&index::Encode { batch }),
            other => Err(Error::msg(format!("no kernel for {}", other.name()))),
        }
    }

    /// The tensor of a view node.
    fn view(&self, index: usize, (x, source): (&Tensor, Extent)) -> Result<Tensor> {
        let out = self.shapes.extents[index];
        let batch = if out.shared { 1 } else { self.batch };
        match (&self.model.program.nodes[index].op, &self.shapes.maps[index]) {
            (Op::View(_), Some(index::IndexMap::Identity)) => x.reshape((batch * out.rows, out.cols)),
            (Op::View(view), Some(map)) => {
                x.apply_op1_no_bwd(&index::View { map: map.clone(), fill: view.fill, batch, out, source })
            }
            _ => Err(Error::msg(format!("node {index} is no view"))),
        }
    }

    /// The first operand of a step that may be read through a view: the tensor, and the view with the tensor's elements
    /// per request if that is how to read it.
    fn seen(&self, step: &Step, tensors: &[Option<Tensor>]) -> Result<(Tensor, Option<index::Seen>)> {
        let Some(view) = step.through else { return Ok((self.operand(step.node, 0, tensors)?.0.clone(), None)) };
        let (x, source) = self.operand(view, 0, tensors)?;
        match &self.shapes.maps[view] {
            Some(index::IndexMap::Windows(windows)) => Ok((x.clone(), Some((windows.clone(), source.len())))),
            _ => Ok((self.view(view, (x, source))?, None)),
        }
    }

    fn ternary(
        &self,
        function: elementwise::TernaryFunction,
        step: &Step,
        tensors: &[Option<Tensor>],
    ) -> Result<Tensor> {
        let operand = |position| self.operand(step.node, position, tensors);
        let ((x, a), (y, b), (z, c)) = (operand(0)?, operand(1)?, operand(2)?);
        let out = self.shapes.extents[step.node];
        let batch = if out.shared { 1 } else { self.batch };
        x.apply_op3_no_bwd(y, z, &elementwise::Ternary { isa: self.isa, function, batch, out, operands: [a, b, c] })
    }

    fn quant_linear(
        &self,
        step: &Step,
        (x, extent): (&Tensor, Extent),
        (most, magnitudes): (&Tensor, Extent),
        tensors: &[Option<Tensor>],
    ) -> Result<Tensor> {
        let node = &self.model.program.nodes[step.node];
        let weights = match node.inputs.get(2) {
            Some(Operand::Weight(weight)) => self.operands.quantised(*weight),
            _ => None,
        };
        let weights = weights.ok_or_else(|| Error::msg("QuantLinear reads a quantised weight"))?;
        let bias = match node.inputs.get(3) {
            Some(_) => Some(self.operand(step.node, 3, tensors)?.0.flatten_all()?.to_vec1()?),
            None => None,
        };
        // One side may be the same for all requests while the other is not.
        let repeated = |tensor: &Tensor, this: Extent, other: Extent| match this.shared && !other.shared {
            true => Tensor::cat(&vec![tensor; self.batch], 0),
            false => Ok(tensor.clone()),
        };
        let (x, most) = (repeated(x, extent, magnitudes)?, repeated(most, magnitudes, extent)?);
        x.apply_op2_no_bwd(&most, &quantised::QuantLinear { isa: self.isa, weights, bias })
    }

    fn reduce(&self, reduction: Reduction, causal: u32, (x, extent): (&Tensor, Extent)) -> Result<Tensor> {
        x.apply_op1_no_bwd(&rows::Reduce { isa: self.isa, reduction, causal, x: extent })
    }

    /// The requests' bytes as elements, one request below the other. Lengths have been checked.
    fn input(&self, kind: InputKind, inputs: &[&[u8]], out: Extent) -> Result<Tensor> {
        let shape = (self.batch * out.rows, out.cols);
        match kind {
            InputKind::F32Be => {
                let numbers = inputs.iter().flat_map(|input| input.as_chunks::<4>().0);
                let numbers = numbers.map(|bytes| scalar::canonical(f32::from_be_bytes(*bytes)));
                Tensor::from_vec(numbers.collect::<Vec<f32>>(), shape, self.device)
            }
            InputKind::U8 | InputKind::Utf8 => Tensor::from_vec(inputs.concat(), shape, self.device),
            InputKind::Tokens => Err(Error::msg("no kernel for token inputs")),
        }
    }
}

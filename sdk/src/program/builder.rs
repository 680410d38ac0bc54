//! Building programs: values with shapes, one method per primitive operation, and the usual views.
//!
//! Composite layers (norms, convolution, attention, generation) are in `layers.rs`; they are nothing but calls of what
//! is here. Methods do not fail: the first mistake is remembered and [`ProgramBuilder::finish`] reports it, along with
//! everything that validation finds, by node and label.

use super::{
    BinaryFunction, ConcatAxis, DType, Dim, EncodeKind, InputKind, Limits, Model, ModelError, Node, Op, Operand,
    Program, UnaryFunction, View, ViewAxis, WeightTensor, WeightType, Weights,
};

/// The result of a node, a weight tensor or a constant, with its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// What a node reads to get it.
    pub operand: Operand,
    /// Its rows.
    pub rows: Dim,
    /// Its columns.
    pub cols: Dim,
    /// Its elements.
    pub dtype: DType,
}

/// Writes a program node by node.
///
/// ```
/// use candor_sdk::program::{EncodeKind, InputKind, Limits, ProgramBuilder, WeightTensor};
///
/// let mut b = ProgramBuilder::new();
/// let x = b.input(InputKind::F32Be, 1, 3);
/// let w = b.weight(WeightTensor::from_f32("w", (2, 3), &[1.0, 0.0, -1.0, 0.5, 0.5, 0.5])?);
/// let y = b.linear(x, w, None);
/// let y = b.softmax(y);
/// b.output(EncodeKind::F32Be, y);
/// let limits = Limits { min_input_bytes: 12, max_input_bytes: 12, max_output_bytes: 8, max_tokens: 0 };
/// let model = b.finish(limits, vec![])?;
/// assert_eq!(model.program.nodes.len(), 7);
/// # Ok::<(), candor_sdk::program::ModelError>(())
/// ```
#[derive(Debug, Default)]
pub struct ProgramBuilder {
    nodes: Vec<Node>,
    weights: Weights,
    scope: Vec<String>,
    outputs: Vec<Value>,
    fault: Option<ModelError>,
}

impl ProgramBuilder {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `build` with `name` in front of the labels of the nodes that it makes.
    pub fn within<T>(&mut self, name: impl Into<String>, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(name.into());
        let result = build(self);
        self.scope.pop();
        result
    }

    /// Adds a weight tensor.
    pub fn weight(&mut self, tensor: WeightTensor) -> Value {
        let (rows, cols, dtype) = (size(tensor.rows()), size(tensor.cols()), tensor.dtype().element());
        Value { operand: Operand::Weight(self.weights.push(tensor)), rows, cols, dtype }
    }

    /// Adds a row of f32 numbers as a weight tensor.
    pub fn row(&mut self, name: &str, values: &[f32]) -> Value {
        let tensor = WeightTensor::from_f32(name, (1, u32::try_from(values.len()).unwrap_or(u32::MAX)), values);
        self.weight_or_fault(tensor)
    }

    /// Adds a row of indices as a weight tensor.
    pub fn indices(&mut self, name: &str, values: &[u32]) -> Value {
        let tensor = WeightTensor::from_u32(name, (1, u32::try_from(values.len()).unwrap_or(u32::MAX)), values);
        self.weight_or_fault(tensor)
    }

    fn weight_or_fault(&mut self, tensor: Result<WeightTensor, ModelError>) -> Value {
        match tensor {
            Ok(tensor) => self.weight(tensor),
            Err(fault) => {
                self.fault.get_or_insert(fault);
                self.constant(f32::NAN)
            }
        }
    }

    /// An f32 constant, which broadcasts to any shape.
    pub fn constant(&self, value: f32) -> Value {
        let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
        Value { operand: Operand::Constant(bits), rows: Dim::ONE, cols: Dim::ONE, dtype: DType::F32 }
    }

    /// How a weight is stored; `None` for other values.
    pub fn weight_type(&self, value: Value) -> Option<WeightType> {
        match value.operand {
            Operand::Weight(index) => self.weights.get(index).map(WeightTensor::dtype),
            _ => None,
        }
    }

    /// Remembers a mistake that only the caller can see; [`ProgramBuilder::finish`] reports the first one.
    pub fn fault(&mut self, problem: impl Into<String>) {
        let scope = self.scope.join(".");
        let problem = problem.into();
        let problem = if scope.is_empty() { problem } else { format!("{scope}: {problem}") };
        self.fault.get_or_insert(ModelError::Graph(problem));
    }

    /// Adds a node. The result's shape is checked at the end.
    pub fn node(
        &mut self,
        op: Op,
        inputs: &[Value],
        dtype: DType,
        rows: impl Into<Dim>,
        cols: impl Into<Dim>,
    ) -> Value {
        let (rows, cols) = (rows.into(), cols.into());
        let index = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let inputs = inputs.iter().map(|value| value.operand).collect();
        self.nodes.push(Node { op, inputs, dtype, rows, cols, label: self.scope.join(".") });
        Value { operand: Operand::Node(index), rows, cols, dtype }
    }

    /// The bytes and magnitudes of `x` in blocks of `block`, if a layer before has made them.
    pub(super) fn quantised(&self, x: Value, block: u32) -> Option<[Value; 2]> {
        let after = match x.operand {
            Operand::Node(node) => node as usize + 1,
            _ => 0,
        };
        let quantise = Op::Quantise { block };
        let (at, node) = self
            .nodes
            .iter()
            .enumerate()
            .skip(after)
            .find(|(_, node)| node.op == quantise && node.inputs.first() == Some(&x.operand))?;
        let amax = *node.inputs.get(1)?;
        let Operand::Node(blocks) = amax else { return None };
        let blocks = self.nodes.get(blocks as usize)?;
        if blocks.op != (Op::BlockAbsMax { block }) || blocks.inputs != [x.operand] {
            return None;
        }
        let bytes = Value {
            operand: Operand::Node(u32::try_from(at).ok()?),
            rows: node.rows,
            cols: node.cols,
            dtype: node.dtype,
        };
        Some([bytes, Value { operand: amax, rows: blocks.rows, cols: blocks.cols, dtype: blocks.dtype }])
    }

    /// The request's input, row after row. For token ids see [`ProgramBuilder::tokens`].
    pub fn input(&mut self, kind: InputKind, rows: impl Into<Dim>, cols: impl Into<Dim>) -> Value {
        let dtype = match kind {
            InputKind::F32Be => DType::F32,
            InputKind::U8 | InputKind::Utf8 => DType::U8,
            InputKind::Tokens => DType::U32,
        };
        self.node(Op::Input { kind, bound: 0 }, &[], dtype, rows, cols)
    }

    /// The sequence of token ids below `bound`: `[S, 1]`. In a generating program the generated tokens are part of it.
    pub fn tokens(&mut self, bound: u32) -> Value {
        self.node(Op::Input { kind: InputKind::Tokens, bound }, &[], DType::U32, Dim::S, Dim::ONE)
    }

    /// Adds an output: its elements' bytes follow those of earlier outputs.
    pub fn output(&mut self, kind: EncodeKind, x: Value) {
        let width = if kind == EncodeKind::U8 { 1 } else { 4 };
        let elements = match (x.rows.as_constant(), x.cols.as_constant()) {
            (Some(rows), _) => x.cols * rows.max(0) as u32,
            (_, Some(cols)) => x.rows * cols.max(0) as u32,
            (None, None) => {
                self.fault("an output of symbolic rows and symbolic columns has no linear length");
                Dim::ZERO
            }
        };
        let bytes = self.node(Op::Encode(kind), &[x], DType::U8, Dim::ONE, elements * width);
        self.outputs.push(bytes);
    }

    /// Adds bytes that are already encoded, one row, as an output.
    pub fn output_bytes(&mut self, bytes: Value) {
        self.outputs.push(bytes);
    }

    /// Joins the outputs, and validates.
    ///
    /// # Errors
    /// The first mistake made while building or found by validation.
    pub fn finish(mut self, limits: Limits, vocabulary: Vec<Vec<u8>>) -> Result<Model, ModelError> {
        let outputs = std::mem::take(&mut self.outputs);
        let last = self.nodes.len().checked_sub(1).and_then(|last| u32::try_from(last).ok()).map(Operand::Node);
        match outputs.as_slice() {
            [] => self.fault("no output"),
            // The last node is the output; checks must not come after it.
            [only] if Some(only.operand) == last => {}
            several => {
                self.concat(ConcatAxis::Cols, several);
            }
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let model = Model { program: Program { nodes: self.nodes }, weights: self.weights, vocabulary, limits };
        model.validate()?;
        Ok(model)
    }

    // Elementwise

    /// A function of each element.
    pub fn unary(&mut self, function: UnaryFunction, x: Value) -> Value {
        self.node(Op::Unary(function), &[x], DType::F32, x.rows, x.cols)
    }

    /// A function of two elements; operands broadcast.
    pub fn binary(&mut self, function: BinaryFunction, x: Value, y: Value) -> Value {
        self.binary_causal(function, x, y, 0)
    }

    /// The same over the causal part of each row; see [`Op::extent`].
    pub fn binary_causal(&mut self, function: BinaryFunction, x: Value, y: Value, causal: u32) -> Value {
        let op = Op::Binary { function, causal };
        self.node(op, &[x, y], DType::F32, wider(x.rows, y.rows), wider(x.cols, y.cols))
    }

    /// `x + y`.
    pub fn add(&mut self, x: Value, y: Value) -> Value {
        self.binary(BinaryFunction::Add, x, y)
    }

    /// `x - y`.
    pub fn sub(&mut self, x: Value, y: Value) -> Value {
        self.binary(BinaryFunction::Sub, x, y)
    }

    /// `x * y`.
    pub fn mul(&mut self, x: Value, y: Value) -> Value {
        self.binary(BinaryFunction::Mul, x, y)
    }

    /// `x / y`.
    pub fn div(&mut self, x: Value, y: Value) -> Value {
        self.binary(BinaryFunction::Div, x, y)
    }

    /// `fma(x, y, z)`.
    pub fn mul_add(&mut self, x: Value, y: Value, z: Value) -> Value {
        let (rows, cols) = (wider(wider(x.rows, y.rows), z.rows), wider(wider(x.cols, y.cols), z.cols));
        self.node(Op::MulAdd, &[x, y, z], DType::F32, rows, cols)
    }

    /// `mask != 0 ? x : y`.
    pub fn select(&mut self, mask: Value, x: Value, y: Value) -> Value {
        let (rows, cols) = (wider(wider(mask.rows, x.rows), y.rows), wider(wider(mask.cols, x.cols), y.cols));
        self.node(Op::Select, &[mask, x, y], DType::F32, rows, cols)
    }

    /// `maximum(x, 0)`.
    pub fn relu(&mut self, x: Value) -> Value {
        self.unary(UnaryFunction::Relu, x)
    }

    /// Integers as f32; f32 as it is.
    pub fn convert(&mut self, x: Value) -> Value {
        if x.dtype == DType::F32 { x } else { self.node(Op::Convert, &[x], DType::F32, x.rows, x.cols) }
    }

    // Rows

    /// Sum of each row.
    pub fn row_sum(&mut self, x: Value) -> Value {
        self.node(Op::RowSum { causal: 0 }, &[x], DType::F32, x.rows, Dim::ONE)
    }

    /// Sum of the squares of each row.
    pub fn row_sum_squares(&mut self, x: Value) -> Value {
        self.node(Op::RowSumSquares, &[x], DType::F32, x.rows, Dim::ONE)
    }

    /// Largest element of each row.
    pub fn row_max(&mut self, x: Value) -> Value {
        self.node(Op::RowMax { causal: 0 }, &[x], DType::F32, x.rows, Dim::ONE)
    }

    /// Index of the largest element of each row.
    pub fn argmax(&mut self, x: Value) -> Value {
        self.node(Op::Argmax, &[x], DType::U32, x.rows, Dim::ONE)
    }

    // Lookup and joining

    /// Row `ids[r]` of a table, for each `r`.
    pub fn gather(&mut self, ids: Value, table: Value) -> Value {
        self.node(Op::Gather, &[ids, table], table.dtype, ids.rows, table.cols)
    }

    /// Column `index[c]` of `x`, for each `c`; the indices are a weight ([`ProgramBuilder::indices`]).
    pub fn take(&mut self, x: Value, index: Value) -> Value {
        self.node(Op::Take, &[x, index], x.dtype, x.rows, index.cols)
    }

    /// Values below or beside each other. More than a node's operands are joined in steps.
    pub fn concat(&mut self, axis: ConcatAxis, parts: &[Value]) -> Value {
        if parts.len() > super::MAX_OPERANDS {
            let joined: Vec<Value> = parts.chunks(super::MAX_OPERANDS).map(|part| self.concat(axis, part)).collect();
            return self.concat(axis, &joined);
        }
        let Some((first, rest)) = parts.split_first() else {
            self.fault("nothing to concatenate");
            return self.constant(f32::NAN);
        };
        let (mut rows, mut cols) = (first.rows, first.cols);
        for part in rest {
            match axis {
                ConcatAxis::Rows => rows = rows + part.rows,
                ConcatAxis::Cols => cols = cols + part.cols,
            }
        }
        self.node(Op::Concat { axis }, parts, first.dtype, rows, cols)
    }

    // Views

    /// An arbitrary index map.
    pub fn view(&mut self, x: Value, view: View, rows: impl Into<Dim>, cols: impl Into<Dim>) -> Value {
        self.node(Op::View(view), &[x], x.dtype, rows, cols)
    }

    /// `y[r, c] = x[start_row + r, start_col + c]`, which must lie inside `x`.
    pub fn slice(&mut self, x: Value, (start_row, rows): (Dim, Dim), (start_col, cols): (Dim, Dim)) -> Value {
        // The axes end with the slice, not with the source: validation then finds a slice that ends beyond it.
        let axes = vec![
            axis(start_row + rows, start_row, &[1, 0], Dim::ONE, Dim::ZERO),
            axis(start_col + cols, start_col, &[0, 1], Dim::ZERO, Dim::ONE),
        ];
        self.view(x, View { row_digits: vec![rows], col_digits: vec![cols], axes, fill: 0 }, rows, cols)
    }

    /// `count` rows from `start`.
    pub fn slice_rows(&mut self, x: Value, start: impl Into<Dim>, count: impl Into<Dim>) -> Value {
        self.slice(x, (start.into(), count.into()), (Dim::ZERO, x.cols))
    }

    /// `count` columns from `start`.
    pub fn slice_cols(&mut self, x: Value, start: impl Into<Dim>, count: impl Into<Dim>) -> Value {
        self.slice(x, (Dim::ZERO, x.rows), (start.into(), count.into()))
    }

    /// A tensor that holds one f32 everywhere.
    pub fn full(&mut self, value: f32, rows: impl Into<Dim>, cols: impl Into<Dim>) -> Value {
        let (rows, cols) = (rows.into(), cols.into());
        let constant = self.constant(value);
        self.view(constant, View { row_digits: vec![rows], col_digits: vec![cols], axes: vec![], fill: 0 }, rows, cols)
    }

    /// Rows become columns.
    pub fn transpose(&mut self, x: Value) -> Value {
        let axes = vec![
            axis(x.rows, Dim::ZERO, &[0, 1], Dim::ONE, Dim::ZERO),
            axis(x.cols, Dim::ZERO, &[1, 0], Dim::ZERO, Dim::ONE),
        ];
        self.view(x, View { row_digits: vec![x.cols], col_digits: vec![x.rows], axes, fill: 0 }, x.cols, x.rows)
    }

    /// Each row cut into rows of `width` columns, which must divide it.
    pub fn split_rows(&mut self, x: Value, width: u32) -> Value {
        let Some(parts) = parts(x.cols, width) else {
            self.fault(format!("rows of {} columns do not divide into rows of {width}", x.cols));
            return x;
        };
        let axes = vec![
            axis(x.rows, Dim::ZERO, &[1, 0, 0], Dim::ONE, Dim::ZERO),
            axis(parts.into(), Dim::ZERO, &[0, 1, 0], Dim::ZERO, width.into()),
            axis(width.into(), Dim::ZERO, &[0, 0, 1], Dim::ZERO, Dim::ONE),
        ];
        let view = View { row_digits: vec![x.rows, parts.into()], col_digits: vec![width.into()], axes, fill: 0 };
        self.view(x, view, x.rows * parts, width)
    }

    /// Each `count` consecutive rows joined into one; `rows` is the number of rows that remain.
    pub fn join_rows(&mut self, x: Value, rows: impl Into<Dim>, count: u32) -> Value {
        let rows = rows.into();
        let axes = vec![
            axis(rows, Dim::ZERO, &[1, 0, 0], count.into(), Dim::ZERO),
            axis(count.into(), Dim::ZERO, &[0, 1, 0], Dim::ONE, Dim::ZERO),
            axis(x.cols, Dim::ZERO, &[0, 0, 1], Dim::ZERO, Dim::ONE),
        ];
        let view = View { row_digits: vec![rows], col_digits: vec![count.into(), x.cols], axes, fill: 0 };
        self.view(x, view, rows, x.cols * count)
    }
}

/// An axis of a view, written on one line.
pub(super) fn axis(size: Dim, offset: Dim, steps: &[i32], row_weight: Dim, col_weight: Dim) -> ViewAxis {
    ViewAxis { size, offset, steps: steps.to_vec(), row_weight, col_weight }
}

/// How many times `width` goes into a constant number of columns, if it does.
fn parts(cols: Dim, width: u32) -> Option<u32> {
    let cols = u32::try_from(cols.as_constant()?).ok()?;
    (width > 0 && cols.is_multiple_of(width)).then(|| cols / width)
}

/// The dimension that the other one broadcasts to.
fn wider(a: Dim, b: Dim) -> Dim {
    match (a.as_constant(), b.as_constant()) {
        (Some(x), Some(y)) if x < y => b,
        (Some(_), None) => b,
        _ => a,
    }
}

/// A tensor's dimension; tensors are smaller than [`super::MAX_DIM`].
fn size(n: usize) -> Dim {
    Dim::from(u32::try_from(n).unwrap_or(u32::MAX))
}

//! Random graphs: every operation, every type of weights, lengths around every boundary, numbers of every kind.

use std::sync::Arc;

use candor_sdk::program::{
    BinaryFunction, ConcatAxis, DType, Dim, EncodeKind, InputKind, Limits, Model, Node, Op, Operand, Params, Program,
    Request, Symbols, UnaryFunction, View, ViewAxis, WeightTensor, WeightType, Weights,
};

use crate::models::Numbers;

/// Lengths on both sides of leaves, blocks, chunks and words.
const LENGTHS: [u32; 22] =
    [1, 2, 3, 5, 7, 31, 32, 33, 64, 96, 127, 128, 129, 160, 255, 256, 257, 300, 1023, 1024, 1025, 2100];
/// Elements of one tensor, at most.
const ELEMENTS: u32 = 8192;

/// A value of the graph: its node, shape and type.
#[derive(Clone, Copy)]
struct Value {
    node: u32,
    rows: u32,
    cols: u32,
    dtype: DType,
}

struct Graph {
    n: Numbers,
    model: Model,
    symbols: Symbols,
    values: Vec<Value>,
}

impl Graph {
    fn below(&mut self, bound: u32) -> u32 {
        (self.n.next() >> 20) as u32 % bound
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    fn length(&mut self, most: u32) -> u32 {
        let length = self.choose(&LENGTHS);
        if length <= most { length } else { 1 + self.below(most.max(1)) }
    }

    /// A number of some kind: ordinary, an integer, a special value, any bits.
    fn number(&mut self) -> f32 {
        let any = match self.below(40) {
            0 => self.choose(&[0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40]),
            1 => f32::from_bits(self.n.next() as u32),
            2..=9 => (self.below(9) as f32) - 4.0,
            _ => self.n.float() * 4.0,
        };
        if any.is_nan() { f32::from_bits(0x7fc0_0000) } else { any }
    }

    /// A dimension of this value for the symbols of the request, written in one of many ways.
    fn dim(&mut self, value: u32) -> Dim {
        if !self.one_in(4) {
            return value.into();
        }
        let (s, p, b) = (self.below(3) as i32, self.below(3) as i32, self.below(3) as i32 - 2);
        let Symbols { sequence, prompt, input_bytes, .. } = self.symbols;
        let rest = i64::from(value)
            - i64::from(s) * i64::from(sequence)
            - i64::from(p) * i64::from(prompt)
            - i64::from(b) * i64::from(input_bytes);
        Dim { constant: i32::try_from(rest).expect("small"), s, p, b, o: 0 }
    }

    /// Adds a node if it is well formed.
    fn push(&mut self, op: Op, inputs: Vec<Operand>, dtype: DType, rows: u32, cols: u32) -> Option<Value> {
        if rows.checked_mul(cols).is_none_or(|n| n > ELEMENTS) {
            return None;
        }
        let (r, c) = (self.dim(rows), self.dim(cols));
        self.model.program.nodes.push(Node { op, inputs, dtype, rows: r, cols: c, label: String::new() });
        if self.model.bind(self.symbols).is_err() {
            self.model.program.nodes.pop();
            return None;
        }
        let value = Value { node: self.model.program.nodes.len() as u32 - 1, rows, cols, dtype };
        self.values.push(value);
        Some(value)
    }

    fn value(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let values: Vec<Value> = self.values.iter().copied().filter(wanted).collect();
        (!values.is_empty()).then(|| self.choose(&values))
    }

    fn float(&mut self) -> Value {
        // Late ones more often, so that graphs get deep.
        let late = self.values.len().saturating_sub(6) as u32;
        let value = self.value(|x| x.dtype == DType::F32 && x.node >= late);
        value.or_else(|| self.value(|x| x.dtype == DType::F32)).expect("the input is one")
    }

    /// A new weight tensor.
    fn weight(&mut self, dtype: WeightType, rows: u32, cols: u32, below: u32) -> Operand {
        let size = dtype.row_bytes(cols as usize) * rows as usize;
        let mut bytes: Vec<u8> = Vec::with_capacity(size);
        while bytes.len() < size {
            match dtype {
                WeightType::F32 => bytes.extend(self.number().to_le_bytes()),
                WeightType::U32 => bytes.extend(self.below(below).to_le_bytes()),
                WeightType::F16 if !self.one_in(64) => {
                    bytes.extend((0x3000 | self.n.next() as u16 & 0x8fff).to_le_bytes());
                }
                WeightType::Bf16 if !self.one_in(64) => {
                    bytes.extend(((self.n.float().to_bits() >> 16) as u16).to_le_bytes());
                }
                WeightType::Q8_0 if bytes.len().is_multiple_of(34) && !self.one_in(64) => {
                    bytes.extend([self.n.next() as u8, 0x20]);
                }
                WeightType::Q8_128 => {
                    let in_row = bytes.len() % dtype.row_bytes(cols as usize);
                    if in_row.is_multiple_of(132) {
                        bytes.extend(self.number().to_le_bytes());
                    } else {
                        bytes.push(self.n.next() as u8);
                    }
                }
                WeightType::F16 | WeightType::Bf16 => bytes.extend((self.n.next() as u16).to_le_bytes()),
                WeightType::Q8_0 | WeightType::U8 => bytes.push(self.n.next() as u8),
            }
        }
        let tensor = WeightTensor::new("w", (rows, cols), dtype, Arc::new(bytes)).expect("a valid shape");
        Operand::Weight(self.model.weights.push(tensor))
    }

    fn float_type(&mut self, cols: u32) -> WeightType {
        use WeightType::{Bf16, F16, F32, Q8_0, Q8_128};
        let dtype = self.choose(&[F32, F32, F16, Bf16, Q8_0, Q8_128]);
        if dtype == Q8_0 && !cols.is_multiple_of(32) { Q8_128 } else { dtype }
    }

    fn float_weight(&mut self, rows: u32, cols: u32) -> Operand {
        let dtype = self.float_type(cols);
        self.weight(dtype, rows, cols, 0)
    }

    /// Something that broadcasts to a shape.
    fn broadcast(&mut self, rows: u32, cols: u32) -> Operand {
        if let Some(value) = self.value(|x| x.dtype == DType::F32 && (x.rows, x.cols) == (rows, cols))
            && self.one_in(2)
        {
            return Operand::Node(value.node);
        }
        let divisors: Vec<u32> = (1..=cols).filter(|d| cols.is_multiple_of(*d)).collect();
        let (rows, cols) = (self.choose(&[1, rows]), self.choose(&divisors));
        if (rows, cols) == (1, 1) && self.one_in(2) {
            return Operand::constant(self.number());
        }
        self.float_weight(rows, cols)
    }

    /// Tries to add a node of some operation.
    fn grow(&mut self) -> Option<Value> {
        let x = self.float();
        let node = Operand::Node(x.node);
        let f32 = DType::F32;
        match self.below(22) {
            0 | 1 => self.view(),
            2 => {
                let axis = self.choose(ConcatAxis::ALL);
                let (mut rows, mut cols, mut parts) = (x.rows, x.cols, vec![node]);
                for _ in 0..self.below(4) {
                    let next = self.value(|y| {
                        y.dtype == f32 && if axis == ConcatAxis::Rows { y.cols == x.cols } else { y.rows == x.rows }
                    });
                    let next = next.unwrap_or(x);
                    parts.push(Operand::Node(next.node));
                    match axis {
                        ConcatAxis::Rows => rows += next.rows,
                        ConcatAxis::Cols => cols += next.cols,
                    }
                }
                self.push(Op::Concat { axis }, parts, f32, rows, cols)
            }
            3 => {
                let index = self.argmax(x)?;
                let cols = self.length(200);
                let dtype = self.choose(&WeightType::ALL);
                let cols = if dtype == WeightType::Q8_0 { cols.next_multiple_of(32) } else { cols };
                let rows = x.cols + self.below(3);
                let table = self.weight(dtype, rows, cols, 100);
                self.push(Op::Gather, vec![Operand::Node(index.node), table], dtype.element(), x.rows, cols)
            }
            4 => {
                let y = self.value(|_| true)?;
                let cols = self.length(200);
                let columns = self.weight(WeightType::U32, 1, cols, y.cols);
                self.push(Op::Take, vec![Operand::Node(y.node), columns], y.dtype, y.rows, cols)
            }
            5 => {
                let (y, rows, cols) = match self.value(|y| y.dtype != f32) {
                    Some(y) if !self.one_in(4) => (Operand::Node(y.node), y.rows, y.cols),
                    _ => {
                        let (dtype, cols) = (self.choose(&[WeightType::U8, WeightType::U32]), self.length(300));
                        (self.weight(dtype, 2, cols, u32::MAX), 2, cols)
                    }
                };
                self.push(Op::Convert, vec![y], f32, rows, cols)
            }
            6 | 7 => {
                let function = self.choose(UnaryFunction::ALL);
                self.push(Op::Unary(function), vec![node], f32, x.rows, x.cols)
            }
            8 | 9 => {
                let y = self.broadcast(x.rows, x.cols);
                let function = self.choose(BinaryFunction::ALL);
                let causal = self.choose(&[0, 0, 1, 2]);
                let operands = if self.one_in(2) { vec![node, y] } else { vec![y, node] };
                self.push(Op::Binary { function, causal }, operands, f32, x.rows, x.cols)
            }
            10 => {
                let mut operands = vec![node, self.broadcast(x.rows, x.cols), self.broadcast(x.rows, x.cols)];
                let at = self.below(3) as usize;
                operands.swap(0, at);
                let op = if self.one_in(2) { Op::MulAdd } else { Op::Select };
                self.push(op, operands, f32, x.rows, x.cols)
            }
            11 => {
                let heads: Vec<u32> = (2..=x.cols).filter(|d| x.cols.is_multiple_of(*d)).collect();
                if heads.is_empty() {
                    return None;
                }
                let head_dim = self.choose(&heads);
                let rotary = 2 * (1 + self.below(head_dim / 2));
                let rows = x.rows + self.below(2);
                let tables = [self.float_weight(rows, rotary / 2), self.float_weight(rows, rotary / 2)];
                self.push(Op::Rope { head_dim, rotary }, vec![node, tables[0], tables[1]], f32, x.rows, x.cols)
            }
            12 | 13 => {
                let rows = 1 + self.below(5);
                let dtype = self.choose(&[WeightType::F32, WeightType::F16, WeightType::Bf16]);
                let mut operands = vec![node, self.weight(dtype, rows, x.cols, 0)];
                match self.below(3) {
                    0 => operands.push(self.float_weight(1, rows)),
                    1 if rows == 1 => operands.push(Operand::constant(self.number())),
                    _ => {}
                }
                self.push(Op::Linear, operands, f32, x.rows, rows)
            }
            14 => {
                let group = 1 + self.below(2);
                let heads = group * (1 + self.below(2));
                if !x.cols.is_multiple_of(heads) {
                    return None;
                }
                let width = x.cols / heads;
                let causal = self.one_in(2);
                let keys = if causal { x.rows } else { 1 + self.below(4) };
                let y = match self.one_in(3) && group == 1 {
                    true => node,
                    false => self.float_weight(keys, heads / group * width),
                };
                let keys = if y == node { x.rows } else { keys };
                let scale = self.number().to_bits();
                self.push(Op::AttentionScores { heads, group, scale, causal }, vec![node, y], f32, x.rows * heads, keys)
            }
            15 => {
                let heads = self.choose(&[1, 1, 2, 3]);
                if !x.rows.is_multiple_of(heads) {
                    return None;
                }
                let (group, width, causal) = (self.choose(&[1, heads]), 1 + self.below(3), self.one_in(2));
                let y = self.float_weight(heads / group * width, x.cols);
                let op = Op::AttentionMix { heads, group, causal };
                self.push(op, vec![node, y], f32, x.rows / heads, heads * width)
            }
            16 | 17 => {
                let weights =
                    if x.cols.is_multiple_of(32) && self.one_in(2) { WeightType::Q8_0 } else { WeightType::Q8_128 };
                let block = weights.block().expect("quantised") as u32;
                let m = self.push(Op::BlockAbsMax { block }, vec![node], f32, x.rows, x.cols.div_ceil(block))?;
                let m = Operand::Node(m.node);
                let q = self.push(Op::Quantise { block }, vec![node, m], DType::I8, x.rows, x.cols)?;
                let rows = 1 + self.below(4);
                let mut operands = vec![Operand::Node(q.node), m, self.weight(weights, rows, x.cols, 0)];
                if self.one_in(2) {
                    operands.push(self.float_weight(1, rows));
                }
                self.push(Op::QuantLinear, operands, f32, x.rows, rows)
            }
            18 => {
                let causal = self.choose(&[0, 0, 1, 3]);
                let op = match self.below(3) {
                    0 => Op::RowSum { causal },
                    1 => Op::RowSumSquares,
                    _ => Op::RowMax { causal },
                };
                // Of weights too, which may be stored in any way.
                let (x, rows) = match self.one_in(3) {
                    true => {
                        let cols = self.length(2100);
                        (self.float_weight(2, cols), 2)
                    }
                    false => (node, x.rows),
                };
                self.push(op, vec![x], f32, rows, 1)
            }
            19 => {
                let index = self.argmax(x)?;
                match self.below(3) {
                    0 => self.push(Op::TokenLength, vec![Operand::Node(index.node)], DType::U32, index.rows, 1),
                    _ => self.push(Op::PrefixSum, vec![Operand::Node(index.node)], DType::U32, index.rows, 1),
                }
            }
            20 => {
                let m = self.push(Op::RowMax { causal: 0 }, vec![node], f32, x.rows, 1)?;
                self.push(Op::Perturb, vec![node, Operand::Node(m.node)], f32, x.rows, x.cols)
            }
            _ => {
                let (rows, cols) = (1 + self.below(3), self.length(2100));
                let part = self.float_weight(rows, cols);
                // A tensor of some new width, to go on with.
                let op = Op::Concat { axis: ConcatAxis::Cols };
                self.push(op, vec![part], f32, rows, cols)
            }
        }
    }

    fn argmax(&mut self, x: Value) -> Option<Value> {
        self.push(Op::Argmax, vec![Operand::Node(x.node)], DType::U32, x.rows, 1)
    }

    /// A product of a few radices that is at most `most`.
    fn digits(&mut self, most: u32) -> (Vec<u32>, u32) {
        let mut product = 1;
        let mut digits = Vec::new();
        for _ in 0..self.below(4) {
            let radix = self.length((most / product).max(1));
            product *= radix;
            digits.push(radix);
        }
        (digits, product)
    }

    fn view(&mut self) -> Option<Value> {
        let x = self.value(|_| true)?;
        let ((row_radices, rows), (col_radices, cols)) = (self.digits(24), self.digits(300));
        let digits = row_radices.len() + col_radices.len();
        let mut axes = Vec::new();
        let mut axis = |graph: &mut Self, size: u32, row: u32, col: u32| {
            let steps = (0..digits).map(|_| graph.choose(&[0, 1, 1, 2, -1, 3, 17])).collect();
            let offset = match graph.one_in(2) {
                true => Dim::ZERO,
                false => Dim::of(graph.below(7) as i32 - 3),
            };
            let (size, row_weight, col_weight) = (graph.dim(size), graph.dim(row), graph.dim(col));
            axes.push(ViewAxis { size, offset, steps, row_weight, col_weight });
        };
        if !self.one_in(4) {
            axis(self, x.rows, 1, 0);
        }
        match self.below(4) {
            0 => {}
            1 if x.cols.is_multiple_of(2) => {
                axis(self, x.cols / 2, 0, 2);
                axis(self, 2, 0, 1);
            }
            _ => axis(self, x.cols, 0, 1),
        }
        let fill = match x.dtype {
            DType::F32 => self.number().to_bits(),
            _ => self.below(256),
        };
        let row_digits = row_radices.iter().map(|&radix| self.dim(radix)).collect();
        let col_digits = col_radices.iter().map(|&radix| self.dim(radix)).collect();
        let view = View { row_digits, col_digits, axes, fill };
        self.push(Op::View(view), vec![Operand::Node(x.node)], x.dtype, rows, cols)
    }
}

/// A graph of some tens of nodes, and a request for it.
pub(crate) fn random(seed: u64) -> (Model, Request) {
    let mut n = Numbers::new(seed);
    let rows = [1, 1, 2, 4, 6][n.next() as usize % 5];
    let cols = LENGTHS[n.next() as usize % LENGTHS.len()].min(1100);
    let bytes = 4 * rows * cols;
    let symbols = Symbols { sequence: bytes, prompt: bytes, input_bytes: bytes, output_bytes: 0 };
    let limits = Limits { min_input_bytes: bytes, max_input_bytes: bytes, max_output_bytes: 1 << 24, max_tokens: 0 };
    let vocabulary = (0..2200).map(|id: u32| vec![id as u8; (id % 5) as usize]).collect();
    let model = Model { program: Program::default(), weights: Weights::default(), vocabulary, limits };
    let mut g = Graph { n, model, symbols, values: Vec::new() };
    g.push(Op::Input { kind: InputKind::F32Be, bound: 0 }, vec![], DType::F32, rows, cols).expect("an input");
    for _ in 0..24 {
        g.grow();
    }
    // All kinds of elements, encoded beside each other.
    let mut outputs = Vec::new();
    for (dtype, kind, width) in
        [(DType::F32, EncodeKind::F32Be, 4), (DType::U32, EncodeKind::U32Be, 4), (DType::U8, EncodeKind::U8, 1)]
    {
        if let Some(x) = g.value(|x| x.dtype == dtype && x.rows * x.cols * width <= ELEMENTS) {
            let encoded = g.push(Op::Encode(kind), vec![Operand::Node(x.node)], DType::U8, 1, x.rows * x.cols * width);
            outputs.extend(encoded);
        }
    }
    let cols = outputs.iter().map(|x| x.cols).sum();
    let parts = outputs.iter().map(|x| Operand::Node(x.node)).collect();
    let Some(_) = g.push(Op::Concat { axis: ConcatAxis::Cols }, parts, DType::U8, 1, cols) else {
        return random(seed ^ 1 << 63); // too long an output
    };
    let last = g.model.program.nodes.len() - 1;
    g.model.program.nodes[last].rows = Dim::ONE;
    let input = (0..rows * cols_of(&g)).flat_map(|_| g.number().to_be_bytes()).collect();
    let temperature = [0.0, 0.7, 1.5][g.below(3) as usize];
    let min_p = [0.0, 0.0625][g.below(2) as usize];
    let params = Params { max_tokens: 0, temperature: f32::to_bits(temperature), min_p: f32::to_bits(min_p) };
    let mut seed = [0; 32];
    seed.iter_mut().for_each(|byte| *byte = g.n.next() as u8);
    g.model.validate().expect("a valid model");
    (g.model, Request { input, params, seed })
}

/// Columns of the input.
fn cols_of(g: &Graph) -> u32 {
    g.values[0].cols
}

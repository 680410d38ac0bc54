//! The rule of each operation for its operands and its shape (rules P-20 to P-22).

use super::{
    BoundNode, BoundProgram, ConcatAxis, DType, Dim, EncodeKind, InputKind, LEAF, MAX_DIM, MAX_NODE_ELEMENTS,
    MAX_OPERANDS, MAX_PARTIALS, Model, Node, Op, Operand, Symbols, WeightType,
};
use crate::arithmetic::reduction::CHUNK;

/// Tokens that may end generation.
const MAX_STOP: usize = 64;

/// What a node reads: shape, element type, storage if it is a weight, and the bound of integers.
#[derive(Clone, Copy)]
struct Source {
    rows: usize,
    cols: usize,
    dtype: DType,
    weight: Option<WeightType>,
    bound: Option<u64>,
}

/// A field and what is wrong with it.
pub(super) type Fault = (&'static str, String);

macro_rules! require {
    ($condition:expr, $field:expr, $($problem:tt)*) => {
        if !$condition {
            return Err(($field, format!($($problem)*)));
        }
    };
}

impl Model {
    fn source(&self, operand: Operand, field: &'static str, bound: &BoundProgram) -> Result<Source, Fault> {
        match operand {
            Operand::Node(index) => {
                let Some(node) = bound.nodes.get(index as usize) else {
                    return Err((field, format!("node {index} does not come before this one")));
                };
                let dtype = self.program.nodes[index as usize].dtype;
                Ok(Source { rows: node.rows, cols: node.cols, dtype, weight: None, bound: node.bound })
            }
            Operand::Weight(index) => {
                let Some(tensor) = self.weights.get(index) else {
                    return Err((field, format!("weight {index} does not exist")));
                };
                let (dtype, weight) = (tensor.dtype().element(), Some(tensor.dtype()));
                let bound = (dtype == DType::U8).then_some(256);
                Ok(Source { rows: tensor.rows(), cols: tensor.cols(), dtype, weight, bound })
            }
            Operand::Constant(bits) => {
                require!(is_canonical(bits), field, "NaN {bits:#010x} is not the canonical one");
                Ok(Source { rows: 1, cols: 1, dtype: DType::F32, weight: None, bound: None })
            }
        }
    }

    pub(super) fn bind_node(&self, index: usize, node: &Node, earlier: &BoundProgram) -> Result<BoundNode, Fault> {
        let symbols = &earlier.symbols;
        let length = |field, dim: Dim| {
            dim.length(symbols)
                .ok_or_else(|| (field, format!("{dim} is {}, not from 1 to {MAX_DIM}", dim.value(symbols))))
        };
        let rows = length("rows", node.rows)?;
        // Generated text may be empty.
        let may_be_empty = node.dtype == DType::U8 && node.cols.o != 0 && node.cols.value(symbols) == 0;
        let cols = if may_be_empty { 0 } else { length("cols", node.cols)? };
        let elements = rows as u64 * cols as u64;
        require!(elements <= MAX_NODE_ELEMENTS, "rows", "{rows} x {cols} elements; at most {MAX_NODE_ELEMENTS}");

        require!(node.inputs.len() <= MAX_OPERANDS, "inputs", "{}; at most {MAX_OPERANDS}", node.inputs.len());
        const FIELDS: [&str; 3] = ["inputs[0]", "inputs[1]", "inputs[2]"];
        let mut sources = Vec::with_capacity(node.inputs.len());
        for (i, &operand) in node.inputs.iter().enumerate() {
            sources.push(self.source(operand, FIELDS.get(i).copied().unwrap_or("inputs"), earlier)?);
        }
        let check = Check { node, rows, cols, symbols, sources: &sources };
        let mut view = None;
        let mut bound = (node.dtype == DType::U8).then_some(256);
        match &node.op {
            Op::Input { kind, bound: tokens } => {
                check.operands(0)?;
                check.input(*kind, *tokens)?;
                if *kind == InputKind::Tokens {
                    bound = Some(u64::from(*tokens));
                }
            }
            Op::View(map) => {
                let [x] = check.sources()?;
                check.result(x.dtype, rows, cols)?;
                match x.dtype {
                    DType::F32 => require!(is_canonical(map.fill), "fill", "NaN is not the canonical one"),
                    DType::U32 => {}
                    DType::U8 | DType::I8 => require!(map.fill <= 255, "fill", "{} is not a byte", map.fill),
                }
                view = Some(map.bind(symbols, (rows, cols), (x.rows, x.cols))?);
                bound = x.bound.map(|bound| bound.max(u64::from(map.fill) + 1));
            }
            Op::Concat { axis } => {
                check.concat(*axis)?;
                bound = sources.iter().map(|x| x.bound).try_fold(0, |most, bound| bound.map(|b| b.max(most)));
            }
            Op::Gather => {
                let [x, table] = check.sources()?;
                check.index(0, x)?;
                require!(
                    x.bound.is_some_and(|bound| bound <= table.rows as u64),
                    "inputs[0]",
                    "indices below {:?} into {} rows",
                    x.bound,
                    table.rows
                );
                check.result(table.dtype, x.rows, table.cols)?;
                bound = table.bound;
            }
            Op::Take => {
                let [x, y] = check.sources()?;
                require!(y.weight == Some(WeightType::U32), "inputs[1]", "not a u32 weight");
                require!(y.rows == 1, "inputs[1]", "{} rows", y.rows);
                if let Some(&Operand::Weight(weight)) = node.inputs.get(1) {
                    let out_of_range = self.weights.get(weight).and_then(|tensor| {
                        let words = tensor.bytes().as_chunks::<4>().0;
                        words.iter().map(|bytes| u32::from_le_bytes(*bytes)).find(|&i| i as usize >= x.cols)
                    });
                    require!(out_of_range.is_none(), "inputs[1]", "index {out_of_range:?} into {} columns", x.cols);
                }
                check.result(x.dtype, x.rows, y.cols)?;
                bound = x.bound;
            }
            Op::Convert => {
                let [x] = check.sources()?;
                require!(x.dtype != DType::F32, "inputs[0]", "already f32");
                check.result(DType::F32, x.rows, x.cols)?;
            }
            Op::Unary(_) => {
                let [x] = check.sources()?;
                check.floats(&[0])?;
                check.result(DType::F32, x.rows, x.cols)?;
            }
            Op::Binary { .. } => {
                check.operands(2)?;
                check.broadcast()?;
            }
            Op::MulAdd | Op::Select => {
                check.operands(3)?;
                check.broadcast()?;
            }
            Op::Rope { head_dim, rotary } => check.rope(*head_dim as usize, *rotary as usize)?,
            Op::Linear => {
                let quantised = sources.get(1).and_then(|w| w.weight).and_then(WeightType::block);
                require!(quantised.is_none(), "inputs[1]", "quantised weights take QuantLinear");
                let ([x, w], bias) = check.with_bias()?;
                check.floats(&[0, 1])?;
                require!(w.weight.is_some(), "inputs[1]", "not a weight; AttentionScores contracts two nodes");
                check.linear(x, w, bias)?;
            }
            Op::QuantLinear => {
                let ([x, amax, w], bias) = check.with_bias()?;
                let Some(block) = w.weight.and_then(WeightType::block) else {
                    return Err(("inputs[2]", "not quantised weights".to_string()));
                };
                require!(x.dtype == DType::I8, "inputs[0]", "not signed bytes");
                check.floats(&[1])?;
                check.shape(1, amax, x.rows, x.cols.div_ceil(block))?;
                check.linear(x, w, bias)?;
            }
            Op::AttentionScores { heads, group, scale, causal } => {
                require!(is_canonical(*scale), "scale", "NaN is not the canonical one");
                check.scores(*heads as usize, *group as usize, *causal)?;
            }
            Op::AttentionMix { heads, group, causal } => check.mix(*heads as usize, *group as usize, *causal)?,
            Op::BlockAbsMax { block } => {
                let [x] = check.sources()?;
                check.floats(&[0])?;
                require!(matches!(block, 32 | 128), "block", "{block} is neither 32 nor 128");
                check.result(DType::F32, x.rows, x.cols.div_ceil(*block as usize))?;
            }
            Op::Quantise { block } => {
                let [x, amax] = check.sources()?;
                check.floats(&[0, 1])?;
                require!(matches!(block, 32 | 128), "block", "{block} is neither 32 nor 128");
                check.shape(1, amax, x.rows, x.cols.div_ceil(*block as usize))?;
                check.result(DType::I8, x.rows, x.cols)?;
            }
            Op::RowSum { .. } | Op::RowSumSquares | Op::RowMax { .. } => {
                check.row()?;
                check.result(DType::F32, sources[0].rows, 1)?;
            }
            Op::Argmax => {
                check.row()?;
                check.result(DType::U32, sources[0].rows, 1)?;
                bound = Some(sources[0].cols as u64);
            }
            Op::Perturb => {
                let [x, maximum] = check.sources()?;
                check.floats(&[0, 1])?;
                check.shape(1, maximum, x.rows, 1)?;
                check.result(DType::F32, x.rows, x.cols)?;
            }
            Op::CheckGenerated { stop } => {
                let [tokens, samples] = check.sources()?;
                require!(node.inputs[0] == Operand::Node(0), "inputs[0]", "not the input");
                check.index(0, tokens)?;
                check.index(1, samples)?;
                require!(tokens.dtype == DType::U32 && samples.dtype == DType::U32, "inputs", "not token ids");
                require!(tokens.rows == symbols.sequence as usize, "inputs[0]", "{} rows, not S", tokens.rows);
                let generated = symbols.sequence.saturating_sub(symbols.prompt) as usize;
                require!(samples.rows == generated, "inputs[1]", "{} rows, not S-P = {generated}", samples.rows);
                require!(samples.bound <= tokens.bound, "inputs[1]", "samples exceed the token ids of the input");
                require!(stop.len() <= MAX_STOP, "stop", "{} tokens; at most {MAX_STOP}", stop.len());
                require!(stop.is_sorted_by(|a, b| a < b), "stop", "not strictly ascending");
                check.result(DType::U32, generated, 1)?;
                bound = Some(2);
            }
            Op::CheckLength => {
                let [ends] = check.sources()?;
                require!(ends.dtype == DType::U32 && ends.cols == 1, "inputs[0]", "not a column of u32");
                check.result(DType::U32, 1, 1)?;
                bound = Some(2);
            }
            Op::TokenLength => {
                let [x] = check.sources()?;
                self.check_vocabulary(&check, x)?;
                check.result(DType::U32, x.rows, 1)?;
            }
            Op::PrefixSum => {
                let [x] = check.sources()?;
                require!(x.dtype == DType::U32 && x.cols == 1, "inputs[0]", "not a column of u32");
                check.result(DType::U32, x.rows, 1)?;
            }
            Op::Detokenise => {
                let [x, _] = check.sources()?;
                self.check_vocabulary(&check, x)?;
                require!(node.cols == Dim::O, "cols", "{}, not O", node.cols);
                require!(self.sums_lengths_of(node), "inputs[1]", "not the running sum of the lengths of inputs[0]");
                check.result(DType::U8, 1, cols)?;
            }
            Op::Encode(kind) => {
                let [x] = check.sources()?;
                let (dtype, width) = match kind {
                    EncodeKind::F32Be => (DType::F32, 4),
                    EncodeKind::U32Be => (DType::U32, 4),
                    EncodeKind::U8 => (DType::U8, 1),
                };
                require!(x.dtype == dtype && x.weight.is_none(), "inputs[0]", "{:?}, not {dtype:?} of a node", x.dtype);
                let bytes = (x.rows as u64 * x.cols as u64).saturating_mul(width);
                require!(bytes == cols as u64, "cols", "{cols}, the encoding takes {bytes}");
                check.result(DType::U8, 1, cols)?;
            }
        }
        debug_assert!(index == earlier.nodes.len());
        Ok(BoundNode { rows, cols, view, bound })
    }

    fn check_vocabulary(&self, check: &Check<'_>, x: Source) -> Result<(), Fault> {
        check.index(0, x)?;
        let entries = self.vocabulary.len();
        let known = x.bound.is_some_and(|bound| bound <= entries as u64);
        require!(known, "inputs[0]", "tokens below {:?} in a vocabulary of {entries}", x.bound);
        Ok(())
    }

    /// True if operand 1 of a detokeniser is `PrefixSum(TokenLength(operand 0))`.
    fn sums_lengths_of(&self, node: &Node) -> bool {
        let producer = |operand: &Operand| match operand {
            Operand::Node(index) => self.program.nodes.get(*index as usize),
            _ => None,
        };
        let [tokens, ends] = node.inputs.as_slice() else { return false };
        let Some(sum) = producer(ends).filter(|sum| sum.op == Op::PrefixSum) else { return false };
        let Some(lengths) = sum.inputs.first().and_then(producer) else { return false };
        lengths.op == Op::TokenLength && lengths.inputs.first() == Some(tokens)
    }
}

/// A node under examination.
struct Check<'a> {
    node: &'a Node,
    rows: usize,
    cols: usize,
    symbols: &'a Symbols,
    sources: &'a [Source],
}

impl Check<'_> {
    fn operands(&self, count: usize) -> Result<(), Fault> {
        require!(self.sources.len() == count, "inputs", "{} operands, not {count}", self.sources.len());
        Ok(())
    }

    fn sources<const N: usize>(&self) -> Result<[Source; N], Fault> {
        self.operands(N)?;
        Ok(std::array::from_fn(|i| self.sources[i]))
    }

    /// The first `N` operands, and one more if it is there.
    fn with_bias<const N: usize>(&self) -> Result<([Source; N], Option<Source>), Fault> {
        let count = self.sources.len();
        require!(count == N || count == N + 1, "inputs", "{count} operands, not {N} or {}", N + 1);
        Ok((std::array::from_fn(|i| self.sources[i]), self.sources.get(N).copied()))
    }

    fn result(&self, dtype: DType, rows: usize, cols: usize) -> Result<(), Fault> {
        require!(self.node.dtype == dtype, "dtype", "{:?}, the operation gives {dtype:?}", self.node.dtype);
        require!(self.rows == rows, "rows", "{}, the operation gives {rows}", self.rows);
        require!(self.cols == cols, "cols", "{}, the operation gives {cols}", self.cols);
        Ok(())
    }

    fn shape(&self, operand: usize, x: Source, rows: usize, cols: usize) -> Result<(), Fault> {
        let field = ["inputs[0]", "inputs[1]", "inputs[2]", "inputs[3]"][operand];
        require!((x.rows, x.cols) == (rows, cols), field, "{} x {}, not {rows} x {cols}", x.rows, x.cols);
        Ok(())
    }

    fn floats(&self, operands: &[usize]) -> Result<(), Fault> {
        for &i in operands {
            let dtype = self.sources[i].dtype;
            require!(
                dtype == DType::F32,
                ["inputs[0]", "inputs[1]", "inputs[2]", "inputs[3]"][i],
                "{dtype:?}, not F32"
            );
        }
        Ok(())
    }

    /// A column of indices, from a node.
    fn index(&self, operand: usize, x: Source) -> Result<(), Fault> {
        let field = ["inputs[0]", "inputs[1]"][operand];
        require!(matches!(x.dtype, DType::U32 | DType::U8), field, "{:?} is not an index", x.dtype);
        require!(x.cols == 1, field, "{} columns, not 1", x.cols);
        require!(x.weight.is_none(), field, "not a node");
        Ok(())
    }

    fn input(&self, kind: InputKind, bound: u32) -> Result<(), Fault> {
        let (rows, cols, symbols) = (self.rows, self.cols, self.symbols);
        let (dtype, width) = match kind {
            InputKind::F32Be => (DType::F32, 4),
            InputKind::U8 | InputKind::Utf8 => (DType::U8, 1),
            InputKind::Tokens => (DType::U32, 4),
        };
        self.result(dtype, rows, cols)?;
        if kind == InputKind::Tokens {
            require!(bound > 0, "bound", "no token id is below 0");
            require!(cols == 1, "cols", "{cols} columns, not 1");
            require!(rows == symbols.sequence as usize, "rows", "{rows}, not the sequence of {}", symbols.sequence);
        } else {
            require!(bound == 0, "bound", "{bound} without token ids");
            let bytes = (rows as u64 * cols as u64).saturating_mul(width);
            let got = symbols.input_bytes;
            require!(bytes == u64::from(got), "rows", "{rows} x {cols} takes {bytes} bytes, the limits allow {got}");
        }
        Ok(())
    }

    fn concat(&self, axis: ConcatAxis) -> Result<(), Fault> {
        let Some(first) = self.sources.first() else { return Err(("inputs", "nothing to concatenate".to_string())) };
        let (mut rows, mut cols) = (first.rows, first.cols);
        for x in &self.sources[1..] {
            require!(x.dtype == first.dtype, "inputs", "{:?} beside {:?}", x.dtype, first.dtype);
            match axis {
                ConcatAxis::Rows => {
                    require!(x.cols == cols, "inputs", "{} columns below {cols}", x.cols);
                    rows = rows.saturating_add(x.rows);
                }
                ConcatAxis::Cols => {
                    require!(x.rows == rows, "inputs", "{} rows beside {rows}", x.rows);
                    cols = cols.saturating_add(x.cols);
                }
            }
        }
        self.result(first.dtype, rows, cols)
    }

    /// Elementwise: an operand has the result's rows or one, and a number of columns that divides the result's.
    fn broadcast(&self) -> Result<(), Fault> {
        for (i, x) in self.sources.iter().enumerate() {
            self.floats(&[i])?;
            let field = ["inputs[0]", "inputs[1]", "inputs[2]"][i];
            let fits = (x.rows == self.rows || x.rows == 1) && self.cols.is_multiple_of(x.cols);
            require!(fits, field, "{} x {} does not broadcast to {} x {}", x.rows, x.cols, self.rows, self.cols);
        }
        self.result(DType::F32, self.rows, self.cols)
    }

    fn rope(&self, head_dim: usize, rotary: usize) -> Result<(), Fault> {
        let [x, cos, sin] = self.sources()?;
        self.floats(&[0, 1, 2])?;
        require!(rotary >= 2 && rotary.is_multiple_of(2), "rotary", "{rotary} is not a positive even number");
        require!(rotary <= head_dim, "rotary", "{rotary} of {head_dim} columns");
        require!(
            x.cols.is_multiple_of(head_dim),
            "head_dim",
            "{} columns do not divide into heads of {head_dim}",
            x.cols
        );
        for (field, table) in [("inputs[1]", cos), ("inputs[2]", sin)] {
            require!(table.cols == rotary / 2, field, "{} columns, not {}", table.cols, rotary / 2);
            require!(table.rows >= x.rows, field, "{} positions for a sequence of {}", table.rows, x.rows);
        }
        self.result(DType::F32, x.rows, x.cols)
    }

    fn contraction(&self, length: usize) -> Result<(), Fault> {
        let most = MAX_PARTIALS * LEAF;
        require!(length <= most, "inputs", "contraction over {length}; at most {most}");
        Ok(())
    }

    fn linear(&self, x: Source, w: Source, bias: Option<Source>) -> Result<(), Fault> {
        require!(w.cols == x.cols, "inputs", "{} weights for {} columns", w.cols, x.cols);
        self.contraction(x.cols)?;
        if let Some(bias) = bias {
            let last = self.sources.len() - 1;
            self.floats(&[last])?;
            self.shape(last, bias, 1, w.rows)?;
        }
        self.result(DType::F32, x.rows, w.rows)
    }

    fn heads(&self, heads: usize, group: usize) -> Result<usize, Fault> {
        require!(heads > 0, "heads", "0");
        require!(group > 0 && heads.is_multiple_of(group), "group", "{group} does not divide {heads} heads");
        Ok(heads / group)
    }

    fn scores(&self, heads: usize, group: usize, causal: bool) -> Result<(), Fault> {
        let [x, y] = self.sources()?;
        self.floats(&[0, 1])?;
        let key_heads = self.heads(heads, group)?;
        require!(x.cols.is_multiple_of(heads), "inputs[0]", "{} columns do not divide into {heads} heads", x.cols);
        let head_dim = x.cols / heads;
        require!(
            Some(y.cols) == key_heads.checked_mul(head_dim),
            "inputs[1]",
            "{} columns, not {key_heads} heads of {head_dim}",
            y.cols
        );
        require!(!causal || x.rows == y.rows, "causal", "{} queries and {} keys", x.rows, y.rows);
        self.contraction(head_dim)?;
        self.result(DType::F32, x.rows.saturating_mul(heads), y.rows)
    }

    fn mix(&self, heads: usize, group: usize, causal: bool) -> Result<(), Fault> {
        let [x, y] = self.sources()?;
        self.floats(&[0, 1])?;
        let value_heads = self.heads(heads, group)?;
        require!(x.rows.is_multiple_of(heads), "inputs[0]", "{} rows do not divide into {heads} heads", x.rows);
        require!(
            y.rows.is_multiple_of(value_heads),
            "inputs[1]",
            "{} rows do not divide into {value_heads} heads",
            y.rows
        );
        require!(x.cols == y.cols, "inputs", "{} and {} positions", x.cols, y.cols);
        let queries = x.rows / heads;
        require!(!causal || queries == x.cols, "causal", "{queries} queries and {} keys", x.cols);
        self.contraction(x.cols)?;
        self.result(DType::F32, queries, (y.rows / value_heads).saturating_mul(heads))
    }

    /// One operand, reduced along its rows.
    fn row(&self) -> Result<(), Fault> {
        let [x] = self.sources()?;
        self.floats(&[0])?;
        let most = MAX_PARTIALS * CHUNK;
        require!(x.cols <= most, "inputs[0]", "rows of {}; at most {most}", x.cols);
        Ok(())
    }
}

/// True unless `bits` is a NaN other than the canonical one.
fn is_canonical(bits: u32) -> bool {
    !f32::from_bits(bits).is_nan() || bits == 0x7fc0_0000
}

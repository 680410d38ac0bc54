//! One step: what has to be opened to check one element (the last column of the table in `docs/program.md`).
//!
//! A [`Step`] lists exactly what an element depends on. Where that grows with the model, in contractions and in reductions
//! of rows, it is cut into parts, one for each partial: the operator reveals the partials, which must add up to the
//! element, and a single part is opened and recomputed. So a step opens at most [`MAX_PART_LEAVES`] leaves, whatever the
//! model.

use std::{convert::Infallible, ops::Range};

use super::{BoundProgram, ConcatAxis, EncodeKind, LEAF, Model, Op, Operand, Tensor};
use crate::arithmetic::reduction::CHUNK;

/// The most leaves that one part opens: a chunk of 1024 elements.
pub const MAX_PART_LEAVES: usize = CHUNK / LEAF;

/// What one element is computed from, besides its descriptor, the symbols, and the request's parameters and seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// For each partial, in ascending order, what it is computed from. Empty for elements that have no partials.
    pub parts: Vec<Vec<Read>>,
    /// What the element itself is computed from: everything, or what is added to the partials.
    pub reads: Vec<Read>,
}

/// A thing that a step opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Elements of one row of a node or a weight tensor.
    Elements {
        /// Where they are.
        operand: Operand,
        /// Their row.
        row: usize,
        /// Their columns, not empty.
        cols: Range<usize>,
    },
    /// An entry of the vocabulary.
    Token(u32),
    /// The request's input, or the claimed tokens.
    Input,
}

impl Read {
    /// How many leaves hold it.
    pub fn leaves(&self) -> usize {
        match self {
            Self::Elements { operand: Operand::Constant(_), .. } | Self::Input => 0,
            Self::Elements { cols, .. } => cols.end.div_ceil(LEAF) - cols.start / LEAF,
            Self::Token(_) => 1,
        }
    }
}

impl Model {
    /// The step of element (`row`, `col`) of a node, given the tensors before it: which row a lookup reads depends on
    /// them. `None` if there is no such element, or a lookup points nowhere.
    pub fn step(&self, bound: &BoundProgram, tensors: &[Tensor], node: u32, row: usize, col: usize) -> Option<Step> {
        if tensors.len() < node as usize {
            return None;
        }
        let integer = |node: u32, row: usize| {
            let tensor = tensors.get(node as usize).filter(|tensor| row < tensor.rows());
            Ok::<_, Infallible>(tensor.map(|tensor| tensor.bits(row, 0)))
        };
        self.step_with(bound, node, row, col, integer).unwrap_or_else(|never| match never {})
    }

    /// As [`Model::step`], asking for the elements of index columns (node, row) one by one.
    ///
    /// # Errors
    /// Those of `integer`.
    pub fn step_with<E>(
        &self,
        bound: &BoundProgram,
        node: u32,
        row: usize,
        col: usize,
        mut integer: impl FnMut(u32, usize) -> Result<Option<u32>, E>,
    ) -> Result<Option<Step>, E> {
        let (Some(description), Some(shape)) = (self.program.nodes.get(node as usize), bound.nodes.get(node as usize))
        else {
            return Ok(None);
        };
        if row >= shape.rows || col >= shape.cols {
            return Ok(None);
        }
        let inputs = description.inputs.as_slice();
        // Rows and columns of an operand.
        let size = |operand: Operand| match operand {
            Operand::Node(index) => bound.nodes.get(index as usize).map_or((0, 0), |node| (node.rows, node.cols)),
            Operand::Weight(index) => self.weights.get(index).map_or((0, 0), |w| (w.rows(), w.cols())),
            Operand::Constant(_) => (1, 1),
        };
        let one = |operand: Operand, row: usize, col: usize| Read::Elements { operand, row, cols: col..col + 1 };
        let broadcast = |operand: Operand| {
            let (rows, cols) = size(operand);
            one(operand, if rows == 1 { 0 } else { row }, col / (shape.cols / cols.max(1)).max(1))
        };
        let mut failed = None;
        let mut integer = |operand: Operand, row: usize| -> Option<u32> {
            let Operand::Node(index) = operand else { return None };
            integer(index, row).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        };
        let whole = |reads: Vec<Read>| Some(Step { parts: Vec::new(), reads });
        // A contraction over `length` columns of two rows, each from its own first column.
        let contraction = |x: (Operand, usize, usize), y: (Operand, usize, usize), length: usize, reads: Vec<Read>| {
            let blocks = (0..length).step_by(LEAF).map(|k| {
                let part = |(operand, row, first): (Operand, usize, usize)| Read::Elements {
                    operand,
                    row,
                    cols: first + k..first + (k + LEAF).min(length),
                };
                vec![part(x), part(y)]
            });
            Some(Step { parts: blocks.collect(), reads })
        };
        let reduction = |operand: Operand, length: usize| {
            let chunk = |k: usize| vec![Read::Elements { operand, row, cols: k..(k + CHUNK).min(length) }];
            Some(Step { parts: (0..length).step_by(CHUNK).map(chunk).collect(), reads: Vec::new() })
        };
        let bias = |bias: &[Operand]| bias.iter().map(|&bias| one(bias, 0, col)).collect::<Vec<_>>();

        let mut step = || match (&description.op, inputs) {
            (Op::Input { .. }, _) => whole(vec![Read::Input]),
            (Op::View(_), &[x]) => {
                let source = shape.view.as_ref().and_then(|view| view.source(row, col));
                whole(source.map(|(row, col)| one(x, row, col)).into_iter().collect())
            }
            (Op::Concat { axis }, parts) => {
                let (mut row, mut col) = (row, col);
                for &part in parts {
                    let (rows, cols) = size(part);
                    match axis {
                        ConcatAxis::Rows if row >= rows => row -= rows,
                        ConcatAxis::Cols if col >= cols => col -= cols,
                        _ => return whole(vec![one(part, row, col)]),
                    }
                }
                None
            }
            (Op::Gather, &[ids, table]) => match integer(ids, row) {
                Some(id) if (id as usize) < size(table).0 => {
                    whole(vec![one(ids, row, 0), one(table, id as usize, col)])
                }
                _ => None,
            },
            (Op::Take, &[x, index]) => {
                let Operand::Weight(weight) = index else { return None };
                let column = self.weights.get(weight).filter(|w| col < w.cols()).map(|w| w.bits(0, col) as usize);
                match column.filter(|&column| column < size(x).1) {
                    Some(column) => whole(vec![one(index, 0, col), one(x, row, column)]),
                    None => None,
                }
            }
            (Op::Convert | Op::Unary(_), &[x]) => whole(vec![one(x, row, col)]),
            (Op::Binary { causal, .. }, operands) => {
                let covered = col < Op::extent(*causal, row, shape.cols);
                whole(if covered { operands.iter().map(|&x| broadcast(x)).collect() } else { Vec::new() })
            }
            (Op::MulAdd | Op::Select, operands) => whole(operands.iter().map(|&x| broadcast(x)).collect()),
            (Op::Rope { head_dim, rotary }, &[x, cos, sin]) => {
                let (d, rotary) = (col % *head_dim as usize, *rotary as usize);
                let half = rotary / 2;
                if d >= rotary {
                    return whole(vec![one(x, row, col)]);
                }
                let other = if d < half { col + half } else { col - half };
                whole(vec![one(x, row, col), one(x, row, other), one(cos, row, d % half), one(sin, row, d % half)])
            }
            (Op::Linear, &[x, w, ref rest @ ..]) => contraction((x, row, 0), (w, col, 0), size(x).1, bias(rest)),
            (Op::QuantLinear, &[q, amax, w, ref rest @ ..]) => {
                let length = size(q).1;
                let weight = if let Operand::Weight(index) = w { self.weights.get(index) } else { None };
                let block = weight.and_then(|w| w.dtype().block()).unwrap_or(LEAF);
                let mut step = contraction((q, row, 0), (w, col, 0), length, bias(rest))?;
                for (number, part) in step.parts.iter_mut().enumerate() {
                    let end = ((number + 1) * LEAF).min(length).div_ceil(block);
                    part.push(Read::Elements { operand: amax, row, cols: number * LEAF / block..end });
                }
                Some(step)
            }
            (Op::AttentionScores { heads, group, causal, .. }, &[x, y]) => {
                let (heads, group) = (*heads as usize, *group as usize);
                let (i, h, width) = (row / heads, row % heads, size(x).1 / heads);
                if *causal && col > i {
                    return whole(Vec::new());
                }
                contraction((x, i, h * width), (y, col, h / group * width), width, Vec::new())
            }
            (Op::AttentionMix { heads, group, causal }, &[x, y]) => {
                let (heads, group) = (*heads as usize, *group as usize);
                let width = shape.cols / heads;
                let (h, d) = (col / width, col % width);
                let length = if *causal { row + 1 } else { size(x).1 };
                contraction((x, row * heads + h, 0), (y, h / group * width + d, 0), length, Vec::new())
            }
            (Op::BlockAbsMax { block }, &[x]) => {
                let first = col * *block as usize;
                whole(vec![Read::Elements { operand: x, row, cols: first..(first + *block as usize).min(size(x).1) }])
            }
            (Op::Quantise { block }, &[x, amax]) => {
                whole(vec![one(x, row, col), one(amax, row, col / *block as usize)])
            }
            (Op::RowSum { causal } | Op::RowMax { causal }, &[x]) => reduction(x, Op::extent(*causal, row, size(x).1)),
            // A wrong argmax is also refuted by two elements: the claimed one and one that ranks before it.
            (Op::RowSumSquares | Op::Argmax, &[x]) => reduction(x, size(x).1),
            (Op::Perturb, &[logits, max]) => whole(vec![one(logits, row, col), one(max, row, 0)]),
            (Op::CheckGenerated { .. }, &[tokens, samples]) => {
                let token = bound.symbols.prompt as usize + row;
                whole(vec![one(tokens, token, 0), one(samples, row, 0)])
            }
            (Op::CheckLength, &[ends]) => whole(vec![one(ends, size(ends).0 - 1, 0)]),
            (Op::TokenLength, &[tokens]) => match integer(tokens, row) {
                Some(token) if (token as usize) < self.vocabulary.len() => {
                    whole(vec![one(tokens, row, 0), Read::Token(token)])
                }
                _ => None,
            },
            (Op::PrefixSum, &[x]) => {
                let before = row.checked_sub(1).map(|before| one(Operand::Node(node), before, 0));
                whole([one(x, row, 0)].into_iter().chain(before).collect())
            }
            (Op::Detokenise, &[tokens, ends]) => {
                // The first token that ends after the byte; the one before it ends at the byte or earlier.
                for t in 0..size(tokens).0 {
                    let (Some(end), Some(token)) = (integer(ends, t), integer(tokens, t)) else { return None };
                    if col < end as usize {
                        let before = t.checked_sub(1).map(|before| one(ends, before, 0));
                        let reads = [one(ends, t, 0), one(tokens, t, 0), Read::Token(token)];
                        return whole(reads.into_iter().chain(before).collect());
                    }
                }
                None
            }
            (Op::Encode(kind), &[x]) => {
                let element = col / if *kind == EncodeKind::U8 { 1 } else { 4 };
                let cols = size(x).1.max(1);
                whole(vec![one(x, element / cols, element % cols)])
            }
            _ => None,
        };
        let step = step();
        failed.map_or(Ok(step), Err)
    }
}

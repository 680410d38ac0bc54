//! One element again: from exactly what its step reads, by the reference arithmetic, as the chain would compute it.
//!
//! A challenger's own run comes from an engine, which is fast and may be wrong. Before it points at an element it computes that element here, from the
//! elements before it: scalar by scalar, on another path than the engine's. What this costs depends on the element, not on the model.

use super::{
    Tensors,
    partials::{Sources, computed},
    screen::{Place, cell},
};
use crate::{
    arithmetic::{
        reduction,
        sampling::{gumbel, min_p_threshold, score},
        scalar::{abs, add, canonical, div, fma, from_i32, from_u32, maximum, mul, round_to_i32, sub},
    },
    program::{
        BoundProgram, DType, EncodeKind, InputKind, LEAF, Model, Op, Operand, Read, Request, Step, binary, unary,
    },
};
use std::convert::Infallible;

/// The arithmetic of one run, element by element.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// The model.
    pub model: &'a Model,
    /// The program for the symbols of the run.
    pub bound: &'a BoundProgram,
    /// The request.
    pub request: &'a Request,
    /// The tokens that the run goes over after the prompt.
    pub generated: &'a [u32],
}

impl Reference<'_> {
    /// Element (`row`, `col`) of a node, as [`Tensor::bits`](crate::program::Tensor::bits) gives it. `tensors` are those of the nodes that it reads, and
    /// of a running sum itself. `None` if there is no such element, a tensor is missing, or the step is undefined (P-61).
    pub fn element(&self, tensors: &Tensors, node: u32, row: usize, col: usize) -> Option<u32> {
        self.compute(tensors, node, row, col, &self.step(tensors, node, row, col)?)
    }

    /// How many elements that reads: what it costs.
    pub fn work(&self, tensors: &Tensors, node: u32, row: usize, col: usize) -> u64 {
        let length = |read: &Read| if let Read::Elements { cols, .. } = read { cols.len() as u64 } else { 1 };
        let step = self.step(tensors, node, row, col).unwrap_or_default();
        step.parts.iter().flatten().chain(&step.reads).map(length).sum::<u64>().max(1)
    }

    /// The bytes of a leaf, as the operator would reveal them. `None` as for [`Reference::element`].
    pub fn leaf(&self, tensors: &Tensors, node: u32, leaf: u64) -> Option<Vec<u8>> {
        let cols = self.bound.nodes.get(node as usize)?.cols;
        let (row, first) = cell(&Place { node, leaf, element: 0 }, cols);
        let width = self.model.program.nodes.get(node as usize)?.dtype.size();
        let mut bytes = Vec::new();
        for col in first..cols.min(first + LEAF) {
            bytes.extend_from_slice(&self.element(tensors, node, row, col)?.to_le_bytes()[..width]);
        }
        Some(bytes)
    }

    fn step(&self, tensors: &Tensors, node: u32, row: usize, col: usize) -> Option<Step> {
        let integer = |index: u32, row: usize| {
            let tensor = tensors.get(&index).filter(|tensor| row < tensor.rows());
            Ok::<_, Infallible>(tensor.map(|tensor| tensor.bits(row, 0)))
        };
        self.model.step_with(self.bound, node, row, col, integer).unwrap_or_else(|never| match never {})
    }

    /// The last column of the table in `docs/program.md`, from what the step reads.
    fn compute(&self, tensors: &Tensors, node: u32, row: usize, col: usize, step: &Step) -> Option<u32> {
        let sources = Sources { model: self.model, tensors };
        let description = self.model.program.nodes.get(node as usize)?;
        let shape = self.bound.nodes.get(node as usize)?;
        let bits = |at: usize| -> Option<u32> { sources.bits(step.reads.get(at)?)?.first().copied() };
        let float = |at: usize| bits(at).map(f32::from_bits);
        let partials = || computed(&sources, &description.op, &step.parts);
        let biased = |sum: f32| if step.reads.is_empty() { Some(sum) } else { float(0).map(|bias| add(sum, bias)) };
        // The text of the token that a step reads.
        let entry = || {
            let token =
                step.reads.iter().find_map(|read| if let Read::Token(token) = read { Some(*token) } else { None });
            self.model.vocabulary.get(token? as usize)
        };
        let value = match &description.op {
            Op::Input { kind, .. } => return self.input(*kind, row * shape.cols + col),
            Op::View(view) if step.reads.is_empty() => {
                let signed = description.dtype == DType::I8;
                return Some(if signed { i32::from(view.fill as i8) as u32 } else { view.fill });
            }
            Op::View(_) => return bits(0),
            Op::Concat { .. } => return bits(0),
            Op::Gather | Op::Take => return bits(1),
            Op::Convert => {
                let signed = description.inputs.first().is_some_and(|operand| match operand {
                    Operand::Node(node) => self.model.program.nodes[*node as usize].dtype == DType::I8,
                    _ => false,
                });
                if signed { from_i32(bits(0)? as i32) } else { from_u32(bits(0)?) }
            }
            Op::Unary(function) => unary(*function)(float(0)?),
            // Beyond the causal edge.
            Op::Binary { .. } if step.reads.is_empty() => 0.0,
            Op::Binary { function, .. } => binary(*function)(float(0)?, float(1)?),
            Op::MulAdd => fma(float(0)?, float(1)?, float(2)?),
            Op::Select => float(if float(0)? == 0.0 { 2 } else { 1 })?,
            Op::Rope { .. } if step.reads.len() == 1 => float(0)?,
            Op::Rope { head_dim, rotary } => {
                let (x, other) = (mul(float(0)?, float(2)?), mul(float(1)?, float(3)?));
                let left = col % (*head_dim as usize) < *rotary as usize / 2;
                if left { sub(x, other) } else { add(x, other) }
            }
            Op::Linear | Op::QuantLinear | Op::AttentionMix { .. } => biased(reduction::accumulate(&partials()?))?,
            Op::AttentionScores { .. } if step.parts.is_empty() => 0.0,
            Op::AttentionScores { scale, .. } => mul(reduction::accumulate(&partials()?), f32::from_bits(*scale)),
            Op::BlockAbsMax { .. } => {
                sources.floats(step.reads.first()?)?.into_iter().fold(0.0, |most, x| maximum(most, abs(x)))
            }
            Op::Quantise { .. } => {
                let amax = float(1)?;
                let inverse = if amax == 0.0 { 0.0 } else { div(127.0, amax) };
                return Some(round_to_i32(mul(float(0)?, inverse)).clamp(-127, 127) as u32);
            }
            Op::RowSum { .. } | Op::RowSumSquares => reduction::accumulate(&partials()?),
            Op::RowMax { .. } => reduction::maximum(&partials()?),
            Op::Argmax => {
                let parts = step.parts.iter().flatten().map(|read| sources.floats(read));
                let elements = parts.collect::<Option<Vec<_>>>()?.concat();
                return Some(reduction::argmax(&elements)? as u32);
            }
            Op::Perturb => {
                let temperature = f32::from_bits(self.request.params.temperature);
                let (logit, max) = (float(0)?, float(1)?);
                // Greedy: the argmax of the logits themselves.
                if temperature <= 0.0 || temperature.is_nan() {
                    return Some(logit.to_bits());
                }
                let threshold = min_p_threshold(max, temperature, f32::from_bits(self.request.params.min_p));
                score(logit, threshold, temperature, gumbel(&self.request.seed, row as u32, col as u32))
            }
            Op::CheckGenerated { stop } => {
                let (token, stops) = (bits(0)?, stop.contains(&bits(0)?));
                let limit = self.model.token_limit(&self.request.params) as usize;
                let ends = if row + 1 == shape.rows { stops || shape.rows == limit } else { !stops };
                return Some(u32::from(token == bits(1)? && ends));
            }
            Op::CheckLength => return Some(u32::from(bits(0)? == self.bound.symbols.output_bytes)),
            Op::TokenLength => return u32::try_from(entry()?.len()).ok(),
            Op::PrefixSum if row == 0 => return bits(0),
            Op::PrefixSum => return Some(bits(0)?.wrapping_add(bits(1)?)),
            Op::Detokenise => {
                let start = if step.reads.len() > 3 { bits(3)? as usize } else { 0 };
                return Some(entry()?.get(col.checked_sub(start)?).copied().unwrap_or_default().into());
            }
            Op::Encode(EncodeKind::U8) => return Some(bits(0)? & 0xff),
            Op::Encode(_) => return Some(bits(0)?.to_be_bytes()[col % 4].into()),
        };
        Some(value.to_bits())
    }

    /// Number `index` of what was asked, and of the tokens after it.
    fn input(&self, kind: InputKind, index: usize) -> Option<u32> {
        let input = &self.request.input;
        let words = input.as_chunks::<4>().0;
        match kind {
            InputKind::U8 | InputKind::Utf8 => input.get(index).map(|byte| (*byte).into()),
            InputKind::F32Be => words.get(index).map(|word| canonical(f32::from_be_bytes(*word)).to_bits()),
            InputKind::Tokens => match words.get(index) {
                Some(word) => Some(u32::from_be_bytes(*word)),
                None => self.generated.get(index - words.len()).copied(),
            },
        }
    }
}

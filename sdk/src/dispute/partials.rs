//! The partials of an element: blocks of a contraction, chunks of a row.

use super::Tensors;
use crate::{
    arithmetic::{contraction, quantised, quantised::Group, reduction, scalar::div},
    program::{BoundProgram, Model, Op, Operand, Read, Step, Tensor, TensorData, WeightType},
};

/// The step of an element, with tensors of the nodes that its node reads. `None` if there is no such element, or if a lookup points nowhere.
pub fn step(model: &Model, bound: &BoundProgram, tensors: &Tensors, node: u32, row: usize, col: usize) -> Option<Step> {
    // Only lookups look at elements, at those of their own operands.
    let lookup = matches!(model.program.nodes.get(node as usize)?.op, Op::Gather | Op::TokenLength | Op::Detokenise);
    let known = (0..node).map(|index| match tensors.get(&index) {
        Some(tensor) if lookup => (**tensor).clone(),
        _ => Tensor::new(0, 0, TensorData::U32(Vec::new())),
    });
    model.step(bound, &known.collect::<Vec<_>>(), node, row, col)
}

/// How many partials an operator reveals of an element: none where it is computed in one go.
pub fn count(model: &Model, bound: &BoundProgram, node: u32, row: usize, col: usize) -> usize {
    parts(model, bound, node, row, col).map_or(0, |parts| parts.len())
}

/// What each partial of an element is computed from, where there is more than one.
fn parts(model: &Model, bound: &BoundProgram, node: u32, row: usize, col: usize) -> Option<Vec<Vec<Read>>> {
    // Two elements refute an argmax.
    if matches!(model.program.nodes.get(node as usize)?.op, Op::Argmax) {
        return None;
    }
    let step = step(model, bound, &Tensors::new(), node, row, col)?;
    (step.parts.len() > 1).then_some(step.parts)
}

/// The partials of an element that has some, as f32 bits; `None` if it has none, or a tensor is missing.
pub fn values(
    model: &Model,
    bound: &BoundProgram,
    tensors: &Tensors,
    node: u32,
    row: usize,
    col: usize,
) -> Option<Vec<u32>> {
    let parts = parts(model, bound, node, row, col)?;
    let values = computed(&Sources { model, tensors }, &model.program.nodes.get(node as usize)?.op, &parts)?;
    Some(values.into_iter().map(f32::to_bits).collect())
}

/// What some parts of a step of `op` come to, one after the other.
pub(super) fn computed(sources: &Sources<'_>, op: &Op, parts: &[Vec<Read>]) -> Option<Vec<f32>> {
    let value = |part: &Vec<Read>| -> Option<f32> {
        Some(match (op, part.as_slice()) {
            (Op::Linear | Op::AttentionScores { .. } | Op::AttentionMix { .. }, [x, y]) => {
                contraction::partial(&sources.floats(x)?, &sources.floats(y)?)
            }
            (Op::QuantLinear, [q, w, amax]) => {
                let scales: Vec<f32> = sources.floats(amax)?.iter().map(|&amax| div(amax, 127.0)).collect();
                let (weights, weight_scales, group) = sources.quantised(w)?;
                quantised::partial((&sources.bytes(q)?, &scales), (&weights, &weight_scales), group)
            }
            (Op::RowSum { .. }, [x]) => reduction::chunk_sum(&sources.floats(x)?),
            (Op::RowSumSquares, [x]) => reduction::chunk_sum_squares(&sources.floats(x)?),
            (Op::RowMax { .. }, [x]) => reduction::maximum(&sources.floats(x)?),
            _ => return None,
        })
    };
    parts.iter().map(value).collect()
}

/// Where operands are read.
pub(super) struct Sources<'a> {
    pub(super) model: &'a Model,
    pub(super) tensors: &'a Tensors,
}

impl Sources<'_> {
    /// The elements that a read names.
    pub(super) fn bits(&self, read: &Read) -> Option<Vec<u32>> {
        let Read::Elements { operand, row, cols } = read else { return None };
        match operand {
            Operand::Node(node) => {
                let tensor = self.tensors.get(node).filter(|x| *row < x.rows() && cols.end <= x.cols())?;
                Some(cols.clone().map(|col| tensor.bits(*row, col)).collect())
            }
            Operand::Weight(weight) => {
                let tensor = self.model.weights.get(*weight).filter(|w| *row < w.rows() && cols.end <= w.cols())?;
                Some(cols.clone().map(|col| tensor.bits(*row, col)).collect())
            }
            Operand::Constant(bits) => Some(vec![*bits; cols.len()]),
        }
    }

    pub(super) fn floats(&self, read: &Read) -> Option<Vec<f32>> {
        Some(self.bits(read)?.into_iter().map(f32::from_bits).collect())
    }

    fn bytes(&self, read: &Read) -> Option<Vec<i8>> {
        Some(self.bits(read)?.into_iter().map(|bits| bits as i8).collect())
    }

    /// Signed bytes and scales of a block of quantised weights.
    fn quantised(&self, read: &Read) -> Option<(Vec<i8>, Vec<f32>, Group)> {
        let Read::Elements { operand: Operand::Weight(weight), row, cols } = read else { return None };
        let tensor = self.model.weights.get(*weight).filter(|w| *row < w.rows() && cols.end <= w.cols())?;
        let group = if tensor.dtype() == WeightType::Q8_0 { Group::G32 } else { Group::G128 };
        let row = match group {
            Group::G32 => quantised::Quantised::from_q8_0(tensor.row(*row), tensor.cols()),
            Group::G128 => quantised::Quantised::from_q8_128(tensor.row(*row), tensor.cols()),
        };
        let row = row.ok()?;
        let scales = cols.start / group.len()..cols.end.div_ceil(group.len());
        Some((row.values()[cols.clone()].to_vec(), row.scales()[scales].to_vec(), group))
    }
}

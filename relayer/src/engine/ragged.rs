//! One pass over requests of different lengths.
//!
//! A step that computes each row of its result from the same row of its operands (a linear layer, a norm, a function) does not
//! care whose row it is: it takes the rows of all requests, one below the other, so that each weight is read once for all of them.
//! Everything else, attention above all, is done length by length. Which steps are of the first kind is read off the shapes.

use super::Context;
use super::ops::Extent;
use super::plan::{Plan, Step};
use super::run::{Now, Rows, Run};
use candle_core::{Error, Result, Tensor};
use candor_sdk::program::{Op, Operand, Program};

/// Requests of one length, and what to run them with.
pub(super) type Group<'a> = (Run<'a>, &'a Context<'a>);

/// What nodes hold, joined or apart; some are there in both forms.
struct Held {
    /// All rows of all requests.
    joined: Vec<Option<Tensor>>,
    /// By group of requests of one length.
    parts: Vec<Vec<Option<Tensor>>>,
}

/// Runs a plan for groups of requests, each of one length, and returns the last node of each group.
pub(super) fn execute(groups: &[Group<'_>], program: &Program, plan: &Plan) -> Result<Vec<Option<Tensor>>> {
    let nodes = program.nodes.len();
    let mut held = Held { joined: vec![None; nodes], parts: vec![vec![None; nodes]; groups.len()] };
    // The shapes of nodes that are joined: as of one request that has all rows.
    let mut extents = vec![Extent { shared: true, rows: 0, cols: 0 }; nodes];
    for step in &plan.steps {
        if by_rows(groups, program, step) {
            for node in step.reads(program) {
                extents[node] = held.join(groups, node)?;
            }
            let rows = groups.iter().map(|group| rows_of(group, step.node)).sum();
            for node in [step.node, step.yields] {
                extents[node] = Extent { shared: true, rows, cols: extent(&groups[0], node).cols };
            }
            let now = Now { extents: &extents, batch: 1, rows: Rows::Whole };
            held.joined[step.yields] = Some(groups[0].0.step(step, &held.joined, &now)?);
        } else {
            for node in step.reads(program) {
                held.take_apart(groups, node)?;
            }
            for (group, parts) in groups.iter().zip(&mut held.parts) {
                let (run, context) = group;
                let batch = if extent(group, step.node).shared { 1 } else { context.requests.len() };
                let now = Now { extents: &context.shapes.extents, batch, rows: Rows::Whole };
                parts[step.yields] = Some(run.step(step, parts, &now)?);
            }
        }
        for &node in &step.release {
            held.joined[node] = None;
            held.parts.iter_mut().for_each(|parts| parts[node] = None);
        }
    }
    held.take_apart(groups, nodes - 1)?;
    Ok(held.parts.into_iter().map(|mut parts| parts.pop().flatten()).collect())
}

fn extent(group: &Group<'_>, node: usize) -> Extent {
    group.1.shapes.extents[node]
}

/// Rows of all requests of a group.
fn rows_of(group: &Group<'_>, node: usize) -> usize {
    let extent = extent(group, node);
    if extent.shared { extent.rows } else { extent.rows * group.1.requests.len() }
}

/// Whether a step can take the rows of all requests together.
fn by_rows(groups: &[Group<'_>], program: &Program, step: &Step) -> bool {
    if step.through.is_some() || step.attention.is_some() {
        return false;
    }
    let node = &program.nodes[step.node];
    // Operands that have a row for each row of the result, and those of which one row may serve all.
    let (rows, others): (&[usize], &[usize]) = match &node.op {
        Op::Linear | Op::Unary(_) | Op::Convert | Op::BlockAbsMax { .. } | Op::Argmax | Op::RowSumSquares => {
            (&[0], &[])
        }
        Op::RowSum { causal: 0 } | Op::RowMax { causal: 0 } => (&[0], &[]),
        Op::Gather if matches!(node.inputs.get(1), Some(Operand::Weight(_))) => (&[0], &[]),
        Op::Quantise { .. } | Op::QuantLinear => (&[0, 1], &[]),
        Op::Binary { causal: 0, .. } => (&[], &[0, 1]),
        Op::MulAdd | Op::Select => (&[], &[0, 1, 2]),
        _ => return false,
    };
    let out = extent(&groups[0], step.node);
    groups.iter().all(|group| {
        let own = extent(group, step.node);
        let fits = |(position, operand): (usize, &Operand)| match operand {
            Operand::Node(node) => {
                let (x, first) = (extent(group, *node as usize), extent(&groups[0], *node as usize));
                let one = x.shared && x.rows == 1 && !rows.contains(&position);
                let each = !x.shared && x.rows == own.rows && (rows.contains(&position) || others.contains(&position));
                x.cols == first.cols && (one || each)
            }
            Operand::Weight(weight) => {
                let one = || group.0.model.weights.get(*weight).is_some_and(|tensor| tensor.rows() == 1);
                !rows.contains(&position) && (!others.contains(&position) || one())
            }
            Operand::Constant(_) => !rows.contains(&position),
        };
        !own.shared && own.cols == out.cols && node.inputs.iter().enumerate().all(fits)
    })
}

impl Held {
    /// Puts the rows of a node below each other, if they are not; says what shape that is.
    fn join(&mut self, groups: &[Group<'_>], node: usize) -> Result<Extent> {
        let first = extent(&groups[0], node);
        // What no request has a part in is one row for all (`by_rows` has seen to it).
        let rows = if first.shared { 1 } else { groups.iter().map(|group| rows_of(group, node)).sum() };
        if self.joined[node].is_none() {
            let parts = self.parts.iter().map(|parts| parts[node].as_ref().ok_or_else(|| missing(node)));
            let parts = parts.take(if first.shared { 1 } else { groups.len() }).collect::<Result<Vec<_>>>()?;
            self.joined[node] = Some(Tensor::cat(&parts, 0)?);
        }
        Ok(Extent { shared: true, rows, cols: first.cols })
    }

    /// Gives each group its own rows of a node, if it has not got them.
    fn take_apart(&mut self, groups: &[Group<'_>], node: usize) -> Result<()> {
        let mut start = 0;
        for (group, parts) in groups.iter().zip(&mut self.parts) {
            if parts[node].is_some() {
                continue; // as have all others
            }
            let rows = rows_of(group, node);
            let joined = self.joined[node].as_ref().ok_or_else(|| missing(node))?;
            parts[node] = Some(joined.narrow(0, start, rows)?);
            start += rows;
        }
        Ok(())
    }
}

fn missing(node: usize) -> Error {
    Error::msg(format!("node {node} was not computed"))
}

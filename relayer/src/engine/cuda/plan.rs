//! What a plan's steps are on this device: which of them are one launch, and what is released after each.

use super::fuse::{Fused, Fusions};
use super::memory::Tensor;
use super::ops::{Quantised, Rows, TOGETHER};
use crate::engine::plan::{Plan, Step};
use candor_sdk::program::{BinaryFunction, Model, Op, Operand, Program, WeightType};
use std::collections::HashMap;

/// A step of a plan, or several of them as one.
struct Work {
    step: usize,
    fused: Option<Fused>,
    /// Nodes that nothing after it reads.
    release: Vec<usize>,
    /// Steps that can be done along with it: other layers of what it reads, if there are few rows; the rotary embedding of
    /// keys along with that of queries.
    along: Vec<usize>,
    /// Of a sum: the norm of it, and the node that it yields, which are done along with it.
    norm: Option<(Fused, usize)>,
    /// Nodes that are what it makes (the norm, if it makes one) quantised, or magnitudes and what is quantised by them. Not
    /// every kernel does that along with it.
    groups: Option<Groups>,
}

/// Rows that are quantised: the nodes of magnitudes and of bytes, and columns of a group.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    pub(super) magnitudes: usize,
    pub(super) bytes: usize,
    size: usize,
}

/// What to do next.
pub(super) struct Task<'a> {
    pub(super) step: &'a Step,
    pub(super) fused: Option<Fused>,
    pub(super) release: &'a [usize],
    pub(super) along: Vec<&'a Step>,
    pub(super) norm: Option<(Fused, usize)>,
    pub(super) groups: Option<Groups>,
}

impl Task<'_> {
    /// Columns of the groups that its rows are quantised in.
    pub(super) fn group(&self) -> Option<usize> {
        self.groups.map(|groups| groups.size)
    }

    /// Rows that it made; as quantised along with them they wait in `ahead`.
    pub(super) fn made(&self, (rows, quantised): Rows, ahead: &mut HashMap<usize, Tensor>) -> Tensor {
        if let (Some(groups), Some(Quantised { q, magnitudes })) = (self.groups, quantised) {
            ahead.extend([(groups.magnitudes, magnitudes), (groups.bytes, q)]);
        }
        rows
    }
}

/// A plan for this device.
pub(super) struct DevicePlan {
    plan: Plan,
    work: Vec<Work>,
}

impl DevicePlan {
    /// Fuses what the fusions say.
    pub(super) fn new(model: &Model, plan: Plan, fusions: &Fusions) -> Self {
        let program = &model.program;
        let mut work: Vec<Work> = Vec::with_capacity(plan.steps.len());
        for (index, step) in plan.steps.iter().enumerate() {
            if !fusions.inner[step.yields] {
                let fused = fusions.last[step.node].filter(|_| step.yields == step.node && step.attention.is_none());
                work.push(Work {
                    step: index,
                    fused,
                    release: Vec::new(),
                    along: Vec::new(),
                    norm: None,
                    groups: None,
                });
            }
        }
        layers_together(model, &plan, &mut work);
        rotations_together(program, &plan, &mut work);
        norms_with_sums(program, &plan, &mut work);
        groups_with_rows(program, &plan, &mut work);
        let last = program.nodes.len().saturating_sub(1);
        let mut seen = vec![false; program.nodes.len()];
        for work in work.iter_mut().rev() {
            let step = &plan.steps[work.step];
            let reads = work.fused.map_or_else(|| step.reads(program), |fused| vec![fused.reads()]);
            for node in reads {
                if node != last && !std::mem::replace(&mut seen[node], true) {
                    work.release.push(node);
                }
            }
        }
        Self { plan, work }
    }

    /// The steps in order.
    pub(super) fn tasks(&self) -> impl Iterator<Item = Task<'_>> {
        self.work.iter().map(|work| Task {
            step: &self.plan.steps[work.step],
            fused: work.fused,
            release: &work.release,
            along: work.along.iter().map(|&step| &self.plan.steps[step]).collect(),
            norm: work.norm,
            groups: work.groups,
        })
    }
}

/// What layers that are computed together have in common: the nodes they read, type and columns of their weights.
type Activations = (Vec<Operand>, WeightType, usize);

/// Those of a step, if it is a layer that needs nothing else but weights.
fn activations(model: &Model, step: &Step) -> Option<Activations> {
    let node = &model.program.nodes[step.node];
    let weight = layer_weight(&node.op).filter(|_| step.through.is_none() && step.attention.is_none())?;
    let read = |operand: &Operand| matches!(operand, Operand::Weight(_));
    let Some(Operand::Weight(index)) = node.inputs.get(weight) else { return None };
    let tensor = model.weights.get(*index).filter(|_| node.inputs[weight..].iter().all(read))?;
    Some((node.inputs[..weight].to_vec(), tensor.dtype(), tensor.cols()))
}

/// Which operand of a layer is its weight; the bias follows.
pub(super) fn layer_weight(op: &Op) -> Option<usize> {
    match op {
        Op::Linear => Some(1),
        Op::QuantLinear => Some(2),
        _ => None,
    }
}

/// Finds layers that read the same activations. Their weights differ: a weight counts the panels of one layer at a time.
fn layers_together(model: &Model, plan: &Plan, work: &mut [Work]) {
    let weights = |step: usize| {
        let node = &model.program.nodes[plan.steps[step].node];
        layer_weight(&node.op).and_then(|weight| node.inputs.get(weight))
    };
    let mut leaders: HashMap<Activations, usize> = HashMap::new();
    for index in 0..work.len() {
        let Some(key) = activations(model, &plan.steps[work[index].step]) else { continue };
        let fits = |leader: &Work| {
            let mut others = std::iter::once(leader.step).chain(leader.along.iter().copied());
            leader.along.len() + 1 < TOGETHER && others.all(|step| weights(step) != weights(work[index].step))
        };
        match leaders.get(&key).filter(|&&leader| fits(&work[leader])) {
            Some(&leader) => {
                let step = work[index].step;
                work[leader].along.push(step);
            }
            None => {
                leaders.insert(key, index);
            }
        }
    }
}

/// Finds rotary embeddings by the same tables.
fn rotations_together(program: &Program, plan: &Plan, work: &mut [Work]) {
    let made: HashMap<usize, usize> =
        work.iter().enumerate().map(|(index, work)| (plan.steps[work.step].yields, index)).collect();
    let mut turned = HashMap::new();
    for index in 0..work.len() {
        let node = &program.nodes[plan.steps[work[index].step].node];
        let (Op::Rope { head_dim, rotary }, [x, tables @ ..]) = (&node.op, node.inputs.as_slice()) else {
            continue;
        };
        // Nodes of equal rows have them for the same positions.
        let key = (tables.to_vec(), node.rows, *head_dim, *rotary);
        // What the second turns must be there when the first is turned.
        let there = |leader: usize| matches!(x, Operand::Node(x) if made.get(&(*x as usize)) < Some(&leader));
        match turned.get(&key).filter(|&&leader| there(leader) && work[leader].along.is_empty()) {
            Some(&leader) => {
                let step = work[index].step;
                work[leader].along.push(step);
            }
            None => {
                turned.insert(key, index);
            }
        }
    }
}

/// Finds sums that are normed.
fn norms_with_sums(program: &Program, plan: &Plan, work: &mut [Work]) {
    let sums: HashMap<usize, usize> = work
        .iter()
        .enumerate()
        .filter(|(_, work)| {
            let step = &plan.steps[work.step];
            let add = Op::Binary { function: BinaryFunction::Add, causal: 0 };
            work.fused.is_none() && step.yields == step.node && program.nodes[step.node].op == add
        })
        .map(|(index, work)| (plan.steps[work.step].node, index))
        .collect();
    for index in 0..work.len() {
        let (fused, yields) = (work[index].fused, plan.steps[work[index].step].yields);
        if let Some(norm @ Fused::Norm { x, .. }) = fused
            && let Some(&sum) = sums.get(&x)
        {
            work[sum].norm = Some((norm, yields));
        }
    }
}

/// Finds rows that are quantised by their own magnitudes, and tells whoever makes the rows or takes the magnitudes.
fn groups_with_rows(program: &Program, plan: &Plan, work: &mut [Work]) {
    let mut makers: HashMap<Operand, Vec<usize>> = HashMap::new();
    for (index, work) in work.iter().enumerate() {
        let makes = work.norm.map_or(plan.steps[work.step].yields, |(_, normed)| normed);
        makers.entry(Operand::Node(makes as u32)).or_default().push(index);
    }
    for step in &plan.steps {
        let node = &program.nodes[step.node];
        let (Op::Quantise { block }, [x, by]) = (&node.op, node.inputs.as_slice()) else { continue };
        let Operand::Node(magnitudes) = *by else { continue };
        let own = &program.nodes[magnitudes as usize];
        if own.op != (Op::BlockAbsMax { block: *block }) || own.inputs != [*x] {
            continue;
        }
        let groups = Groups { magnitudes: magnitudes as usize, bytes: step.node, size: *block as usize };
        for &maker in [x, by].into_iter().filter_map(|node| makers.get(node)).flatten() {
            work[maker].groups.get_or_insert(groups);
        }
    }
}

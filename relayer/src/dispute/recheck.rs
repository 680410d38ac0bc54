//! Second opinions: elements of one's own runs, computed again by the reference arithmetic before anything is said on chain.
//!
//! An engine is fast, and whoever believes it alone loses a bond whenever it is wrong: a kernel that was compiled wrongly, a bad memory cell, a device
//! that is too hot. So a challenger looks twice.
//!
//! - Before it bonds, and before its first move, some elements of *every* node ([`run`]): all of a small run, a sample of a large one. What is wrong
//!   with a whole operation shows in any sample.
//! - Before each move that points at a node, leaves or an element, what it points at ([`before`]). A leaf is computed whole, so that nobody is accused of
//!   an element that the reference does not have where we have it.
//!
//! Each element is computed from the elements of our own run that its step reads, on a path that shares nothing with the engine but the model in memory;
//! and that is hashed and compared with the model's id ([`super::opinion`]).

use super::trace::EngineTrace;
use crate::engine::{InferError, TraceTensor};
use candor_sdk::{
    bindings::Fault,
    dispute::{Accusation, Case, Descent, Move, PlayError, Reference, Tensors, Trace},
    program::{LEAF, Operand},
};
use std::{collections::HashMap, fmt, ops::Range, sync::Arc};

/// Work that one look may take, in elements read: a second or two.
pub const WORK: u64 = 200_000_000;

/// What computing an element takes besides reading its operands, in the same unit.
const OVERHEAD: u64 = 100;

/// Elements of a node that are looked at however much work they are.
const LEAST: u64 = 4;

/// Where engine and reference disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// About an element.
    Element {
        /// Its node.
        node: u32,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// Bits of the engine's.
        engine: u32,
        /// Bits of the reference's; none if its step is undefined there.
        reference: Option<u32>,
    },
    /// The engine disagrees with itself: two runs over the same tokens differ.
    Unstable,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Element { node, row, col, engine, reference } => {
                write!(f, "node {node}, row {row}, column {col}: the engine has {engine:#010x}, the reference ")?;
                match reference {
                    Some(reference) => write!(f, "{reference:#010x}"),
                    None => f.write_str("nothing"),
                }
            }
            Self::Unstable => f.write_str("two runs of the engine over the same tokens differ"),
        }
    }
}

/// Runs once more, and compares elements of every node with the reference as long as the work lasts.
///
/// # Errors
/// If the device fails.
pub fn run(trace: &EngineTrace, work: u64) -> Result<Option<Doubt>, InferError> {
    let model = trace.model();
    let bound = model.bind(*trace.tree().symbols())?;
    let reference = Reference { model, bound: &bound, request: trace.request(), generated: trace.generated() };
    let nodes = model.program.nodes.len() as u64;
    // The node after which a tensor is not read any more.
    let mut last_use = HashMap::new();
    for (index, node) in (0u32..).zip(&model.program.nodes) {
        last_use.extend(node.inputs.iter().filter_map(|operand| match operand {
            Operand::Node(read) => Some((*read, index)),
            _ => None,
        }));
    }
    let (mut held, mut left, mut doubt) = (Tensors::new(), work, None);
    let tree = trace.repeat(&mut |node, tensor| {
        held.insert(node, Arc::new(tensor.clone()));
        if doubt.is_none() {
            let share = left / nodes.saturating_sub(node.into()).max(1);
            let elements = (tensor.rows() * tensor.cols()) as u64;
            let mut sample = Sample { reference, tensors: &held, node, tensor, spent: 0 };
            doubt = sample.compare(0..elements, share);
            left = left.saturating_sub(sample.spent);
        }
        held.retain(|read, _| last_use.get(read).is_some_and(|last| *last > node));
    })?;
    Ok(if tree.root() == trace.tree().root() { doubt } else { Some(Doubt::Unstable) })
}

/// Looks once more at what a challenger's move points at.
///
/// # Errors
/// If the device fails, or the record is damaged.
pub fn before(
    case: &Case,
    planned: &Move,
    trace: &EngineTrace,
    work: u64,
) -> Result<Option<Doubt>, PlayError<InferError>> {
    let Some(claimed) = &case.claim else { return Ok(None) };
    let descent = Descent::read(case, claimed)?;
    let (node, leaves) = match planned {
        Move::Select { position, .. } => {
            let Some(group) = descent.open() else { return Ok(None) };
            let (level, number) = (group.level(), group.number(*position as usize));
            match (descent.node, u32::try_from(number)) {
                (Some(node), _) => (node, number << level..((number + 1) << level).min(group.count)),
                (None, Ok(node)) if level == 0 => (node, 0..u64::MAX),
                // Many nodes: of each of them `run` has looked at some elements.
                _ => return Ok(None),
            }
        }
        Move::SelectElement(place) => (place.node, place.leaf..place.leaf + 1),
        Move::Prove(Accusation { fault: Fault::Element | Fault::Partial | Fault::Sum, place, .. }) => {
            (place.node, place.leaf..place.leaf + 1)
        }
        _ => return Ok(None),
    };
    self::leaves(trace, node, leaves, work).map_err(PlayError::Trace)
}

/// Compares the elements of some leaves of a node with the reference as long as the work lasts; of one leaf all.
///
/// # Errors
/// If the device fails.
pub fn leaves(trace: &EngineTrace, node: u32, leaves: Range<u64>, work: u64) -> Result<Option<Doubt>, InferError> {
    let model = trace.model();
    let Some(description) = model.program.nodes.get(node as usize) else { return Ok(None) };
    let bound = model.bind(*trace.tree().symbols())?;
    let reference = Reference { model, bound: &bound, request: trace.request(), generated: trace.generated() };
    let mut reads = vec![node];
    reads.extend(description.inputs.iter().filter_map(|operand| match operand {
        Operand::Node(read) => Some(*read),
        _ => None,
    }));
    let tensors = trace.tensors(&reads)?;
    let Some(tensor) = tensors.get(&node) else { return Ok(None) };
    let in_row = tensor.leaves_per_row() as u64;
    // Element number of the first of a leaf: what is before it in full rows, and in its own.
    let start = |leaf: u64| {
        let (row, leaf) = (leaf / in_row.max(1), leaf % in_row.max(1));
        row * tensor.cols() as u64 + leaf * LEAF as u64
    };
    let elements = start(leaves.start.min(tensor.leaf_count()))..start(leaves.end.min(tensor.leaf_count()));
    let work = if leaves.end - leaves.start == 1 { u64::MAX } else { work };
    Ok(Sample { reference, tensors: &tensors, node, tensor, spent: 0 }.compare(elements, work))
}

/// Elements of one node that are compared.
struct Sample<'a> {
    reference: Reference<'a>,
    tensors: &'a Tensors,
    node: u32,
    tensor: &'a TraceTensor,
    /// Work so far.
    spent: u64,
}

impl Sample<'_> {
    /// Compares all of these elements if that is no more than `work`, else the first, the last and some between them.
    fn compare(&mut self, elements: Range<u64>, work: u64) -> Option<Doubt> {
        let count = elements.end.saturating_sub(elements.start);
        let last = count.checked_sub(1)?;
        let each = self.work(elements.start).max(self.work(elements.start + last));
        if count.saturating_mul(each) <= work {
            return elements.into_iter().find_map(|element| self.differs(element));
        }
        let mut state = u64::from(self.node);
        let between = std::iter::repeat_with(|| scatter(&mut state) % count);
        let mut chosen = [0, last].into_iter().chain(between).enumerate();
        chosen.find_map(|(number, element)| {
            let enough = number as u64 >= LEAST && self.spent >= work;
            if enough { Some(None) } else { self.differs(elements.start + element).map(Some) }
        })?
    }

    /// What an element costs.
    fn work(&self, element: u64) -> u64 {
        let (row, col) = self.cell(element);
        OVERHEAD + self.reference.work(self.tensors, self.node, row, col)
    }

    fn cell(&self, element: u64) -> (usize, usize) {
        let cols = self.tensor.cols().max(1) as u64;
        ((element / cols) as usize, (element % cols) as usize)
    }

    fn differs(&mut self, element: u64) -> Option<Doubt> {
        self.spent += self.work(element);
        let (node, (row, col)) = (self.node, self.cell(element));
        let reference = self.reference.element(self.tensors, node, row, col);
        let engine = self.tensor.bits(row, col);
        (reference != Some(engine)).then_some(Doubt::Element { node, row, col, engine, reference })
    }
}

/// The next of numbers that are all over the place: splitmix64.
fn scatter(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

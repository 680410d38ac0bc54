//! The challenger's side: point at the first place that is wrong.

use super::{
    Accusation, Case, Descent, Move, Place, PlayError, Trace,
    defence::operands,
    partials,
    screen::{cell, symbols_of},
};
use crate::{
    arithmetic::scalar::NAN_BITS,
    bindings::{Fault, NodeOpening, Turn},
    program::{BoundProgram, DType, LEAF, Model},
};
use alloy_primitives::keccak256;

/// What a challenger thinks of a claim, after it has looked at it (see [`super::screen`]).
#[derive(Debug, Clone)]
pub enum Opinion<T> {
    /// It is not one that the request allows.
    WrongClaim,
    /// There is no such run, and this element of its input has no right value.
    NoRun(Place),
    /// The claimed tokens give this run.
    Run {
        /// It.
        trace: T,
        /// The first element of it whose step is undefined, whatever its value.
        undefined: Option<Place>,
    },
}

/// The challenger's next move; none if it is not its turn, or nothing is wrong with the result.
///
/// # Errors
/// If the trace can't be had, or the record is damaged.
pub fn challenge<T: Trace>(
    case: &Case,
    model: &Model,
    opinion: &Opinion<T>,
) -> Result<Option<Move>, PlayError<T::Error>> {
    let turn = case.turn();
    let Some(claimed) = &case.claim else { return Ok(None) };
    if !matches!(turn, Turn::Select | Turn::SelectElement | Turn::Prove) {
        return Ok(None);
    }
    let (trace, undefined) = match opinion {
        Opinion::WrongClaim => return Ok(Some(Move::Prove(Accusation::of(Fault::Claim)))),
        Opinion::NoRun(place) => (None, Some(*place)),
        Opinion::Run { trace, undefined } => (Some(trace), *undefined),
    };
    if let Some(trace) = trace.filter(|trace| undefined.is_none() && trace.tree().nodes().root() == claimed.claim.root)
    {
        // The run is the right one. Then only what was answered can be wrong.
        let wrong = keccak256(trace.output()) != case.fulfillment.outputHash;
        return Ok(wrong.then(|| Move::Prove(Accusation::of(Fault::Output))));
    }
    let descent = Descent::read(case, claimed)?;
    let player = Player { case, model, trace, undefined, descent };
    match turn {
        Turn::Select => player.select(),
        Turn::SelectElement => player.element(),
        _ => player.part(),
    }
    .map(Some)
}

struct Player<'a, T> {
    case: &'a Case,
    model: &'a Model,
    trace: Option<&'a T>,
    undefined: Option<Place>,
    descent: Descent,
}

impl<T: Trace> Player<'_, T> {
    fn record(&self, problem: &str) -> PlayError<T::Error> {
        PlayError::Record { id: self.case.id(), problem: problem.to_owned() }
    }

    /// Points at the first revealed hash that is not ours, or that has the undefined element below it.
    fn select(&self) -> Result<Move, PlayError<T::Error>> {
        let group = self.descent.open().ok_or_else(|| self.record("nothing to select from"))?;
        let (own, undefined) = match self.descent.node {
            None => (
                self.trace.map(|trace| trace.tree().nodes().clone()).map(std::sync::Arc::new),
                self.undefined.map(|place| u64::from(place.node)),
            ),
            Some(node) => {
                let own = self.trace.map(|trace| trace.leaves(node)).transpose().map_err(PlayError::Trace)?;
                (own, self.undefined.filter(|place| place.node == node).map(|place| place.leaf))
            }
        };
        let level = group.level();
        let wrong = |(position, theirs): &(usize, &alloy_primitives::B256)| {
            let number = group.number(*position);
            own.as_ref().is_some_and(|own| own.node(level, number) != **theirs)
                || undefined.is_some_and(|leaf| leaf.checked_shr(level as u32).unwrap_or(0) == number)
        };
        let first = group.hashes.iter().enumerate().find(wrong);
        let (position, hash) = first.ok_or(PlayError::NothingDiffers(self.case.id()))?;
        let path = group.path(position).ok_or_else(|| self.record("an incomplete reveal"))?;
        let opening = match self.descent.node {
            None if level == 0 => Some(self.opening(group.number(position))?),
            _ => None,
        };
        let position = u32::try_from(position).map_err(|_| self.record("a reveal of more hashes than there are"))?;
        Ok(Move::Select { position, hash: *hash, path, opening })
    }

    /// A node's descriptor and its path; empty for a node that does not exist, to which the operator's tree may lead.
    fn opening(&self, node: u64) -> Result<NodeOpening, PlayError<T::Error>> {
        let node = u32::try_from(node).map_err(|_| self.record("more nodes than there are"))?;
        let opening = self.model.program.open_node(node);
        let (descriptor, path) = opening.map(|opening| (opening.descriptor, opening.path)).unwrap_or_default();
        Ok(NodeOpening { descriptor: descriptor.into(), path })
    }

    /// The first element of the revealed leaf that is not ours.
    fn place(&self) -> Result<Place, PlayError<T::Error>> {
        let (Some(node), Some(leaf), Some(theirs)) = (self.descent.node, self.descent.leaf, &self.descent.elements)
        else {
            return Err(self.record("no leaf was revealed"));
        };
        let undefined =
            self.undefined.filter(|place| (place.node, place.leaf) == (node, leaf)).map(|place| place.element);
        let tensors = self.trace.map(|trace| trace.tensors(&[node])).transpose().map_err(PlayError::Trace)?;
        let differing = tensors.as_ref().and_then(|tensors| tensors.get(&node)).and_then(|tensor| {
            let (row, col) = cell(&Place { node, leaf, element: 0 }, tensor.cols());
            let mut own = Vec::new();
            if row < tensor.rows() {
                tensor.write_leaf(row, col / LEAF, &mut own);
            }
            if own.len() != theirs.len() {
                return Some(0); // not a leaf of this tensor: any element will do
            }
            let width = tensor.dtype().size();
            own.chunks(width).zip(theirs.chunks(width)).position(|(own, theirs)| own != theirs)
        });
        let differing = differing.and_then(|element| u32::try_from(element).ok());
        let element = undefined.into_iter().chain(differing).min();
        let element = element.ok_or(PlayError::NothingDiffers(self.case.id()))?;
        Ok(Place { node, leaf, element })
    }

    /// Proves the element wrong, or asks for its partials if it has some.
    fn element(&self) -> Result<Move, PlayError<T::Error>> {
        let place = self.place()?;
        if !self.is_malformed(&place) && self.partials(place) > 0 {
            return Ok(Move::SelectElement(place));
        }
        Ok(Move::Prove(Accusation { fault: Fault::Element, place, part: 0 }))
    }

    /// Whether the revealed leaf shows at once that it is none, see [`is_malformed`].
    fn is_malformed(&self, place: &Place) -> bool {
        let Some(claimed) = &self.case.claim else { return false };
        let Ok(bound) = self.model.bind(symbols_of(&claimed.claim)) else { return false };
        self.descent.elements.as_ref().is_some_and(|leaf| is_malformed(self.model, &bound, place, leaf))
    }

    /// How many partials an element has.
    fn partials(&self, place: Place) -> usize {
        let Some(claimed) = &self.case.claim else { return 0 };
        let Ok(bound) = self.model.bind(symbols_of(&claimed.claim)) else { return 0 };
        let Some(shape) = bound.nodes.get(place.node as usize) else { return 0 };
        let (row, col) = cell(&place, shape.cols);
        partials::count(self.model, &bound, place.node, row, col)
    }

    /// Proves the first partial wrong that is not ours, or else their sum.
    fn part(&self) -> Result<Move, PlayError<T::Error>> {
        let (Some(node), Some(leaf), Some(element), Some(theirs), Some(claimed)) =
            (self.descent.node, self.descent.leaf, self.descent.element, &self.descent.partials, &self.case.claim)
        else {
            return Err(self.record("no partials were revealed"));
        };
        let symbols = symbols_of(&claimed.claim);
        let bound = self.model.bind(symbols).map_err(|error| self.record(&error.to_string()))?;
        let shape = bound.nodes.get(node as usize).ok_or_else(|| self.record("no such node"))?;
        let (row, col) = cell(&Place { node, leaf, element }, shape.cols);
        let trace = self.trace.ok_or_else(|| self.record("partials of the input"))?;
        let tensors = trace.tensors(&operands(self.model, node)).map_err(PlayError::Trace)?;
        let own = partials::values(self.model, &bound, &tensors, node, row, col).unwrap_or_default();
        let wrong = own.iter().zip(theirs.chunks(4)).position(|(own, theirs)| own.to_le_bytes() != *theirs);
        let accusation = Accusation { fault: Fault::Sum, place: Place { node, leaf, element }, part: 0 };
        Ok(Move::Prove(match wrong.and_then(|part| u32::try_from(part).ok()) {
            Some(part) => Accusation { fault: Fault::Partial, part, ..accusation },
            None => accusation,
        }))
    }
}

/// Whether an element is wrong whatever its operands are: its leaf does not exist or has another length than it should, or it is a NaN that is not the
/// canonical one.
pub(super) fn is_malformed(model: &Model, bound: &BoundProgram, place: &Place, leaf: &[u8]) -> bool {
    let (Some(node), Some(shape)) =
        (model.program.nodes.get(place.node as usize), bound.nodes.get(place.node as usize))
    else {
        return true;
    };
    let (row, first) = cell(&Place { element: 0, ..*place }, shape.cols);
    if row >= shape.rows || first >= shape.cols {
        return true;
    }
    let width = node.dtype.size();
    if leaf.len() != LEAF.min(shape.cols - first) * width {
        return true;
    }
    let bytes = leaf.get(place.element as usize * width..).and_then(|bytes| bytes.first_chunk::<4>());
    let strange = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes).is_nan() && u32::from_le_bytes(*bytes) != NAN_BITS;
    node.dtype == DType::F32 && bytes.is_some_and(strange)
}

//! A first look at what an operator claims: what follows from the words alone, before anything is run.

use super::{Claimed, Trace};
use crate::{
    bindings::Claim,
    program::{InputKind, Model, Op, Request, RequestError, Symbols},
};

/// An element, as the game names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The node.
    pub node: u32,
    /// Number of the leaf in its tensor.
    pub leaf: u64,
    /// Number in the leaf.
    pub element: u32,
}

/// What a claim's words say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Screening {
    /// It is not one that the request allows.
    WrongClaim,
    /// There is no such run; this element of the input has no right value.
    Undefined(Place),
    /// It is to be compared with a run over these generated tokens.
    Replay(Vec<u32>),
}

/// Looks at a claim. Mirrors `IStepVerifier.isClaimWrong`, P-13 to P-15 and P-63.
pub fn screen(model: &Model, request: &Request, claimed: &Claimed) -> Screening {
    let Claim { sequence, prompt, inputBytes, .. } = claimed.claim;
    let input = model.program.nodes.first().map(|node| &node.op);
    let (kind, bound) = match input {
        Some(Op::Input { kind, bound }) => (*kind, *bound),
        _ => return Screening::WrongClaim, // refused by `validate`
    };
    let symbols = match model.check_request(request) {
        Ok(symbols) => symbols,
        Err(RequestError::TokenOutOfRange { position, .. }) => {
            // The tokens of the prompt have a leaf each.
            return Screening::Undefined(Place { node: 0, leaf: position as u64, element: 0 });
        }
        Err(RequestError::InvalidUtf8 { valid_up_to }) => {
            let cols = model.program.nodes[0].cols.length(&symbols_of(&claimed.claim)).unwrap_or(1).max(1);
            return Screening::Undefined(place(0, cols, valid_up_to / cols, valid_up_to % cols));
        }
        Err(_) => return Screening::WrongClaim,
    };
    let generates = model.program.generation().is_some();
    let (tokens, odd) = claimed.tokens.as_chunks::<4>();
    let generated: Vec<u32> = tokens.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
    let count = u64::from(sequence).checked_sub(u64::from(prompt));
    let limit = u64::from(model.token_limit(&request.params));
    let allowed = if generates { 1..=limit } else { 0..=0 };
    if inputBytes != symbols.input_bytes
        || prompt != symbols.prompt
        || !count.is_some_and(|count| allowed.contains(&count) && count == generated.len() as u64)
        || !odd.is_empty()
    {
        return Screening::WrongClaim;
    }
    if kind == InputKind::Tokens
        && let Some(first) = generated.iter().position(|token| *token >= bound)
    {
        return Screening::Undefined(Place { node: 0, leaf: u64::from(prompt) + first as u64, element: 0 });
    }
    Screening::Replay(generated)
}

/// The first element of a run over the claimed tokens whose step is undefined: a check that does not hold.
pub fn undefined(model: &Model, claim: &Claim, trace: &impl Trace) -> Option<Place> {
    let failed = trace.failed().map(|failed| Place { node: failed.node, leaf: u64::from(failed.row), element: 0 });
    let length = if claim.outputBytes == trace.tree().symbols().output_bytes {
        None
    } else {
        // Nothing before the check depends on the length.
        let check = model.program.nodes.iter().position(|node| node.op == Op::CheckLength);
        check.and_then(|node| u32::try_from(node).ok()).map(|node| Place { node, leaf: 0, element: 0 })
    };
    failed.into_iter().chain(length).min()
}

/// The symbols of a claim.
pub(super) fn symbols_of(claim: &Claim) -> Symbols {
    Symbols {
        sequence: claim.sequence,
        prompt: claim.prompt,
        input_bytes: claim.inputBytes,
        output_bytes: claim.outputBytes,
    }
}

/// Where element (`row`, `col`) of a node with `cols` columns lies.
pub(super) fn place(node: u32, cols: usize, row: usize, col: usize) -> Place {
    let leaves = cols.div_ceil(crate::program::LEAF) as u64;
    let leaf = row as u64 * leaves + (col / crate::program::LEAF) as u64;
    Place { node, leaf, element: (col % crate::program::LEAF) as u32 }
}

/// Row and column of a place in a node with `cols` columns.
pub(super) fn cell(place: &Place, cols: usize) -> (usize, usize) {
    let leaves = cols.div_ceil(crate::program::LEAF).max(1) as u64;
    let (row, leaf) = (place.leaf / leaves, place.leaf % leaves);
    (usize::try_from(row).unwrap_or(usize::MAX), leaf as usize * crate::program::LEAF + place.element as usize)
}

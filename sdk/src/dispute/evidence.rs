//! What a challenger's moves open.

use super::{
    Accusation, Case, Descent, Move, Opinion, Place, PlayError, Tensors, Trace,
    challenge::is_malformed,
    defence::operands,
    screen::{cell, symbols_of},
};
use crate::{
    bindings::{Fault, Refutation},
    program::{BoundProgram, LEAF, Model, Request, Tensor},
    proof::{Element, LeafOpening, ModelTrees, ProofError, Prover, TraceView, format::ClaimProof},
};
use alloy_primitives::Bytes;
use alloy_sol_types::SolValue;

/// What goes with a move of the challenger's: the whole of a [`Refutation`] with [`Move::Prove`], its `proof` with [`Move::SelectElement`], and nothing
/// with the others. `output` is what the request was answered with.
///
/// # Errors
/// If the trace can't be had, or the record is damaged.
pub fn evidence<T: Trace>(
    case: &Case,
    model: &Model,
    trees: &ModelTrees,
    request: &Request,
    output: &[u8],
    opinion: &Opinion<T>,
    planned: &Move,
) -> Result<Option<Refutation>, PlayError<T::Error>> {
    let record = |problem: &str| PlayError::Record { id: case.id(), problem: problem.to_owned() };
    let (accusation, counts) = match planned {
        Move::Prove(accusation) => (*accusation, false),
        Move::SelectElement(place) => (Accusation { fault: Fault::Element, place: *place, part: 0 }, true),
        _ => return Ok(None),
    };
    let claimed = case.claim.as_ref().ok_or_else(|| record("there is no claim yet"))?;
    let Accusation { fault, place, part } = accusation;
    if fault == Fault::Claim {
        let node = trees.node(model, 0).ok_or_else(|| record("a program without nodes"))?;
        let proof = ClaimProof { node, tokens: claimed.tokens.clone() }.abi_encode();
        return Ok(Some(Refutation { fault, index: 0, data: request.input.clone().into(), proof: proof.into() }));
    }
    let trace = match opinion {
        Opinion::Run { trace, .. } => Some(trace),
        Opinion::WrongClaim | Opinion::NoRun(_) => None,
    };
    if fault == Fault::Output {
        // All nodes are agreed.
        let nodes = trace.ok_or_else(|| record("an output of no run"))?.tree().nodes();
        let last = nodes.count().saturating_sub(1);
        let path = nodes.path(last).ok_or_else(|| record("a program without nodes"))?;
        let proof = Prover::<View<'_, T>>::output_proof(nodes.node(0, last), &path);
        return Ok(Some(Refutation { fault, index: 0, data: output.to_vec().into(), proof: proof.into() }));
    }
    let descent = Descent::read(case, claimed)?;
    let symbols = symbols_of(&claimed.claim);
    let bound = model.bind(symbols).unwrap_or(BoundProgram { symbols, nodes: Vec::new() });
    let leaf = descent.elements.clone().ok_or_else(|| record("no leaf was revealed"))?;
    let mut reads = operands(model, place.node);
    reads.push(place.node); // a running sum reads the element before
    let tensors = trace.map(|trace| trace.tensors(&reads)).transpose().map_err(PlayError::Trace)?.unwrap_or_default();
    let view = View { case, trace, descent: &descent, tensors, nodes: claimed.claim.nodes };
    let generated: Vec<u32> = claimed.tokens.as_chunks::<4>().0.iter().map(|t| u32::from_be_bytes(*t)).collect();
    let prover = Prover { model, trees, bound: &bound, request, generated: &generated, view: &view };
    let element = Element { node: place.node, leaf: place.leaf, index: place.element };
    let failure = |error: ProofError<PlayError<T::Error>>| match error {
        ProofError::View(error) => error,
        ProofError::NoStep { problem, .. } => record(problem),
    };
    let (index, data, proof): (u32, Bytes, Vec<u8>) = match fault {
        _ if counts => (place.element, Bytes::new(), prover.count_proof(element).map_err(failure)?),
        Fault::Element if is_malformed(model, &bound, &place, &leaf) => {
            (place.element, leaf, prover.node_proof(place.node).map_err(failure)?)
        }
        Fault::Element => {
            let claimed = bits(&leaf, place.element, model.program.nodes[place.node as usize].dtype.size());
            (place.element, leaf, prover.element_proof(element, claimed).map_err(failure)?)
        }
        Fault::Partial | Fault::Sum => {
            let partials = descent.partials.clone().ok_or_else(|| record("no partials were revealed"))?;
            if fault == Fault::Partial {
                (part, partials, prover.partial_proof(element, part).map_err(failure)?)
            } else {
                let data = (leaf, partials).abi_encode_params();
                (0, data.into(), prover.sum_proof(element).map_err(failure)?)
            }
        }
        Fault::Claim | Fault::Output | Fault::__Invalid => return Ok(None),
    };
    Ok(Some(Refutation { fault, index, data, proof: proof.into() }))
}

/// An element of a leaf, little-endian.
fn bits(leaf: &[u8], element: u32, width: usize) -> u32 {
    let bytes = leaf.get(element as usize * width..).unwrap_or_default();
    bytes.iter().take(width).enumerate().fold(0, |bits, (at, &byte)| bits | u32::from(byte) << (8 * at))
}

/// The claimed trace: our own before the disputed element, and on the way to the claimed root what the operator has shown.
struct View<'a, T> {
    case: &'a Case,
    trace: Option<&'a T>,
    descent: &'a Descent,
    tensors: Tensors,
    /// Nodes of the program.
    nodes: u32,
}

impl<T: Trace> View<'_, T> {
    fn record(&self, problem: &str) -> PlayError<T::Error> {
        PlayError::Record { id: self.case.id(), problem: problem.to_owned() }
    }

    fn tensor(&self, node: u32) -> Result<&Tensor, PlayError<T::Error>> {
        let tensor = self.tensors.get(&node).map(|tensor| &**tensor);
        tensor.ok_or_else(|| self.record("a step that reads what its node does not"))
    }
}

impl<T: Trace> TraceView for View<'_, T> {
    type Error = PlayError<T::Error>;

    fn bits(&self, node: u32, row: usize, col: usize) -> Result<u32, Self::Error> {
        Ok(self.tensor(node)?.bits(row, col))
    }

    fn open(&self, node: u32, leaf: u64) -> Result<LeafOpening, Self::Error> {
        let tensor = self.tensor(node)?;
        let trace = self.trace.ok_or_else(|| self.record("a run that does not exist"))?;
        let leaves = trace.leaves(node).map_err(PlayError::Trace)?;
        let (row, col) = cell(&Place { node, leaf, element: 0 }, tensor.cols());
        let mut bytes = Vec::new();
        tensor.write_leaf(row, col / LEAF, &mut bytes);
        let path = match self.descent.node {
            // Of the disputed node itself what is before the disputed element.
            Some(disputed) if disputed == node => self.descent.leaf_path(Some(&leaves), leaf, leaves.count()),
            _ => leaves.path(leaf),
        };
        let nodes = self.descent.node_path(Some(trace.tree().nodes()), node, self.nodes);
        match (path, nodes) {
            (Some(tensor), Some(nodes)) => Ok(LeafOpening { bytes, tensor, nodes }),
            _ => Err(self.record("a leaf that does not exist")),
        }
    }
}

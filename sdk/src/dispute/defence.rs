//! The operator's side: show what was asked for.

use super::{
    Case, Descent, Group, Move, PlayError, Trace, partials,
    screen::{Place, cell},
};
use crate::{
    bindings::{Claim, Turn},
    merkle::{Accumulator, Domain, hash},
    program::{Model, Operand},
};
use alloy_primitives::{B256, Bytes, keccak256};

/// What an operator claims of its run: claim and tokens.
pub fn own_claim(trace: &impl Trace) -> (Claim, Bytes) {
    let (symbols, nodes) = (trace.tree().symbols(), trace.tree().nodes());
    let tokens: Vec<u8> = trace.generated().iter().flat_map(|token| token.to_be_bytes()).collect();
    let claim = Claim {
        sequence: symbols.sequence,
        prompt: symbols.prompt,
        inputBytes: symbols.input_bytes,
        outputBytes: symbols.output_bytes,
        nodes: u32::try_from(nodes.count()).expect("a program has at most 2^16 nodes"),
        root: nodes.root(),
        tokensHash: keccak256(&tokens),
    };
    (claim, tokens.into())
}

/// The operator's next move; none if it is not its turn. `input` is what was asked about.
///
/// # Errors
/// If the trace can't be had, or the record is damaged.
pub fn defend<T: Trace>(
    case: &Case,
    model: &Model,
    input: &[u8],
    trace: &T,
) -> Result<Option<Move>, PlayError<T::Error>> {
    let turn = case.turn();
    if case.owes_input() {
        return Ok(Some(Move::ShowInput(Bytes::copy_from_slice(input))));
    }
    let (nodes, dispute) = (trace.tree().nodes(), case.dispute());
    if turn == Turn::Claim {
        let (claim, tokens) = own_claim(trace);
        let hashes = Group::of(nodes, nodes.depth(), 0).hashes;
        return Ok(Some(Move::Claim { claim, program_root: program_root(model), tokens, hashes }));
    }
    let Some(claimed) = case.claim.as_ref().filter(|_| case.is_operators_turn()) else { return Ok(None) };
    let record = |problem: &str| PlayError::Record { id: case.id(), problem: problem.to_owned() };
    let (height, index) = (usize::from(dispute.height), dispute.index);
    if turn == Turn::Reveal && !dispute.inTensor {
        return Ok(Some(Move::Reveal(Group::of(nodes, height, index).hashes)));
    }
    let node = dispute.node;
    if turn == Turn::Reveal {
        let leaves = trace.leaves(node).map_err(PlayError::Trace)?;
        return Ok(Some(Move::Reveal(Group::of(&leaves, height, index).hashes)));
    }
    if turn == Turn::RevealLeaf {
        let tensors = trace.tensors(&[node]).map_err(PlayError::Trace)?;
        let tensor = tensors.get(&node).ok_or_else(|| record("a node that the program does not have"))?;
        let (row, col) = cell(&Place { node, leaf: index, element: 0 }, tensor.cols());
        if row >= tensor.rows() {
            return Err(record("a leaf that the tensor does not have"));
        }
        let mut leaf = Vec::new();
        tensor.write_leaf(row, col / crate::program::LEAF, &mut leaf);
        return Ok(Some(Move::RevealLeaf(leaf.into())));
    }
    let descent = Descent::read(case, claimed)?;
    let (Some(leaf), Some(element)) = (descent.leaf, descent.element) else {
        return Err(record("partials of an element that nobody selected"));
    };
    let bound = model.bind(*trace.tree().symbols()).map_err(|error| record(&error.to_string()))?;
    let shape = bound.nodes.get(node as usize).ok_or_else(|| record("a node that the program does not have"))?;
    let (row, col) = cell(&Place { node, leaf, element }, shape.cols);
    let tensors = trace.tensors(&operands(model, node)).map_err(PlayError::Trace)?;
    let values = partials::values(model, &bound, &tensors, node, row, col)
        .ok_or_else(|| record("partials of an element that has none"))?;
    Ok(Some(Move::RevealPartials(values.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<_>>().into())))
}

/// The nodes that a node reads.
pub(super) fn operands(model: &Model, node: u32) -> Vec<u32> {
    let inputs = model.program.nodes.get(node as usize).map_or(&[][..], |node| &node.inputs);
    inputs.iter().filter_map(|operand| if let Operand::Node(node) = operand { Some(*node) } else { None }).collect()
}

/// Root of the tree over the node descriptors.
fn program_root(model: &Model) -> B256 {
    let mut tree = Accumulator::default();
    tree.extend(model.program.nodes.iter().map(|node| hash(Domain::Node, &[&node.encode()])));
    tree.root()
}

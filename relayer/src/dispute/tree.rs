//! A dispute as a readable tree: from the claim down to one element, with what is claimed there and what is right.

use super::{
    book::Posted,
    opinion,
    trace::{EngineTrace, Player},
};
use crate::readable::short_hash;
use candor_sdk::{
    dispute::{Case, Descent, PlayError, Trace},
    program::{DType, LEAF},
};
use std::convert::Infallible;

/// What a dispute has come down to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The way down, a line for each step.
    pub lines: Vec<String>,
    /// The selected node.
    pub node: Option<u32>,
    /// Its label in the model, and its operation.
    pub label: Option<String>,
    /// Row and column of the element.
    pub element: Option<(usize, usize)>,
    /// What the operator showed there.
    pub claimed: Option<String>,
    /// What our own run gives.
    pub right: Option<String>,
}

impl Found {
    /// The next line down.
    fn line(&mut self, text: String) {
        self.lines.push(format!("{}└ {text}", "  ".repeat(self.lines.len())));
    }
}

/// `leaf 3`, or `leaves 3 to 5`.
fn span((one, many): (&str, &str), first: u64, last: u64) -> String {
    if first == last { format!("{one} {first}") } else { format!("{many} {first} to {last}") }
}

/// Reads the moves as a way down the model; the right values need the model, and the result that is disputed.
///
/// # Errors
/// If the moves do not follow from each other.
pub fn narrow(case: &Case, player: Option<&Player>, posted: Option<&Posted>) -> Result<Found, PlayError<Infallible>> {
    let mut found = Found::default();
    let Some(claimed) = &case.claim else {
        found.line("nothing yet: the operator has to say what its run was".to_owned());
        return Ok(found);
    };
    let claim = &claimed.claim;
    let tokens = match claimed.tokens.len() / 4 {
        0 => String::new(),
        count => format!(", {count} generated tokens"),
    };
    let (nodes, bytes, root) = (claim.nodes, claim.inputBytes, short_hash(&claim.root));
    found.line(format!("the operator's run: {nodes} nodes over {bytes} bytes of input{tokens}, under hash {root}"));
    let descent = Descent::read::<Infallible>(case, claimed)?;
    for group in &descent.nodes[1..] {
        let first = group.index << group.height;
        let last = (first + (1 << group.height)).min(group.count) - 1;
        found.line(span(("node", "nodes"), first, last));
    }
    let Some(node) = descent.node else { return Ok(found) };
    found.node = Some(node);
    let description = player.and_then(|player| player.model().program.nodes.get(node as usize));
    let label = description.map(|node| {
        if node.label.is_empty() { node.op.name().to_owned() } else { format!("{} ({})", node.label, node.op.name()) }
    });
    found.line(format!("node {node}{}", label.as_ref().map_or_else(String::new, |label| format!(": {label}"))));
    found.label = label;
    for group in &descent.tensor {
        let first = group.index << group.height;
        let last = (first + (1 << group.height)).min(group.count) - 1;
        found.line(format!("{} of its {}", span(("leaf", "leaves"), first, last), group.count));
    }
    let Some(leaf) = descent.leaf else { return Ok(found) };
    let (Some(player), Some(description)) = (player, description) else {
        found.line(format!("leaf {leaf}; what is right there can't be said here: the model is not at hand"));
        return Ok(found);
    };
    // Our own run over the claimed tokens: where it differs is what the dispute is about.
    let own = posted.and_then(|posted| {
        let request = opinion::question(posted)?;
        let tokens = claimed.tokens.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
        let trace = EngineTrace::over(player.clone(), request, tokens).ok()?;
        trace.tensors(&[node]).ok()?.remove(&node)
    });
    let Some(own) = own else { return Ok(found) };
    let per_row = own.leaves_per_row().max(1) as u64;
    let (row, first) = ((leaf / per_row) as usize, (leaf % per_row) as usize * LEAF);
    let last = (first + LEAF).min(own.cols()).max(first + 1) - 1;
    found.line(format!("row {row}, {}", span(("column", "columns"), first as u64, last as u64)));
    let Some(shown) = &descent.elements else { return Ok(found) };
    let mut right = Vec::new();
    if row < own.rows() {
        own.write_leaf(row, first / LEAF, &mut right);
    }
    let width = description.dtype.size();
    let differing = shown.chunks(width).zip(right.chunks(width)).position(|(shown, right)| shown != right);
    let Some(element) = descent.element.map(|element| element as usize).or(differing) else { return Ok(found) };
    let value = |bytes: &[u8]| {
        let bytes = bytes.get(element * width..(element + 1) * width)?;
        Some(match (description.dtype, bytes) {
            (DType::F32, &[a, b, c, d]) => format!("{:?}", f32::from_le_bytes([a, b, c, d])),
            (_, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]).to_string(),
            (DType::I8, &[a]) => (a as i8).to_string(),
            (_, bytes) => format!("{bytes:?}"),
        })
    };
    (found.element, found.claimed, found.right) = (Some((row, first + element)), value(shown), value(&right));
    if let (Some(claimed), Some(right)) = (&found.claimed, &found.right) {
        let text = format!("row {row}, column {}: claimed {claimed}, right {right}", first + element);
        found.line(text);
    }
    Ok(found)
}

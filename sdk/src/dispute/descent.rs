//! Where a dispute has got to: what the operator has shown of its trees, and paths through them.

use super::{Case, Claimed, PlayError, levels_of};
use crate::{
    bindings::Turn,
    merkle::{ABSENT, Tree, depth, inner},
};
use alloy_primitives::{B256, Bytes};
use alloy_sol_types::SolValue;

/// Hashes that the operator has shown: the descendants of one node of a tree, some levels below it. None beyond the end of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Leaves of the tree.
    pub count: u64,
    /// Level of the node above them; leaves have level 0.
    pub height: usize,
    /// Its number at that level.
    pub index: u64,
    /// The hashes, from left to right.
    pub hashes: Vec<B256>,
}

impl Group {
    /// What an operator shows of its tree below a node.
    pub fn of(tree: &Tree, height: usize, index: u64) -> Self {
        let mut hashes = tree.descendants(height, index, levels_of(height));
        hashes.truncate(Self::shown(tree.count(), height, index));
        Self { count: tree.count(), height, index, hashes }
    }

    /// How many hashes that are.
    fn shown(count: u64, height: usize, index: u64) -> usize {
        let down = levels_of(height);
        let there = width(count, height - down).saturating_sub(index.saturating_mul(1 << down));
        there.min(1 << down) as usize
    }

    /// Level of the hashes.
    pub fn level(&self) -> usize {
        self.height - levels_of(self.height)
    }

    /// Number, at its level, of the hash at `position`.
    pub fn number(&self, position: usize) -> u64 {
        (self.index << levels_of(self.height)) + position as u64
    }

    /// Hash of node `index` of `level`, if it follows from these; zero beyond the end of the tree.
    fn node(&self, level: usize, index: u64) -> Option<B256> {
        let (top, bottom) = (self.height, self.level());
        if level < bottom || level > top || index.checked_shr((top - level) as u32).unwrap_or(0) != self.index {
            return None;
        }
        if index >= width(self.count, level) {
            return Some(ABSENT);
        }
        let first = usize::try_from(index - (self.index << (top - level))).ok()? << (level - bottom);
        let last = (first + (1 << (level - bottom))).min(self.hashes.len());
        Some(fold_present(self.hashes.get(first..last)?, level - bottom))
    }

    /// The path from the hash at `position` to the node above.
    pub fn path(&self, position: usize) -> Option<Vec<B256>> {
        let number = self.number(position);
        (self.level()..self.height).map(|level| self.node(level, (number >> (level - self.level())) ^ 1)).collect()
    }
}

/// Nodes of a level of a tree with `count` leaves.
fn width(count: u64, level: usize) -> u64 {
    count.div_ceil(1 << level)
}

/// The node `levels` above nodes that stand side by side from the left edge of its subtree on. What is not there is beyond the end of the tree: a
/// matter of counting, for the root of a node without elements is zero too.
fn fold_present(nodes: &[B256], levels: usize) -> B256 {
    let mut level = nodes.to_vec();
    for _ in 0..levels {
        level = level.chunks(2).map(|pair| inner(&pair[0], pair.get(1).unwrap_or(&ABSENT))).collect();
    }
    level.first().copied().unwrap_or(ABSENT)
}

/// What the operator has shown so far, and what the challenger has pointed at.
#[derive(Debug, Clone)]
pub struct Descent {
    /// Of the tree over the nodes, from the root downwards.
    pub nodes: Vec<Group>,
    /// Of the tree over the leaves of the selected node's tensor.
    pub tensor: Vec<Group>,
    /// The selected node.
    pub node: Option<u32>,
    /// Number of the selected leaf.
    pub leaf: Option<u64>,
    /// Its bytes.
    pub elements: Option<Bytes>,
    /// The selected element of it.
    pub element: Option<u32>,
    /// The partials of that element, four bytes little-endian each.
    pub partials: Option<Bytes>,
}

impl Descent {
    /// Reads a dispute's moves.
    ///
    /// # Errors
    /// If they do not follow from each other.
    pub fn read<E>(case: &Case, claimed: &Claimed) -> Result<Self, PlayError<E>> {
        let fault = |problem: &str| PlayError::Record { id: case.id(), problem: problem.to_owned() };
        let count = u64::from(claimed.claim.nodes);
        let height = depth(count);
        if claimed.hashes.len() != Group::shown(count, height, 0) {
            return Err(fault("the claim has another number of hashes than its nodes ask for"));
        }
        let mut descent = Self {
            nodes: vec![Group { count, height, index: 0, hashes: claimed.hashes.clone() }],
            tensor: Vec::new(),
            node: None,
            leaf: None,
            elements: None,
            element: None,
            partials: None,
        };
        let mut before = &case.opened;
        for made in &case.moves {
            let after = &made.dispute;
            match before.turn {
                Turn::Claim | Turn::Select => {
                    descent.node = after.inTensor.then_some(after.node);
                    if after.turn == Turn::RevealLeaf {
                        descent.leaf = Some(after.index);
                    }
                }
                Turn::Reveal => {
                    let hashes = Vec::<B256>::abi_decode_validate(&made.data).map_err(|_| fault("not hashes"))?;
                    let (height, count) = (usize::from(before.height), before.count);
                    if hashes.len() != Group::shown(count, height, before.index) {
                        return Err(fault("a reveal of another number of hashes than there are"));
                    }
                    let group = Group { count, height, index: before.index, hashes };
                    if before.inTensor { descent.tensor.push(group) } else { descent.nodes.push(group) }
                }
                Turn::RevealLeaf => descent.elements = Some(made.data.clone()),
                Turn::SelectElement => descent.element = Some(after.element),
                Turn::RevealPartials => descent.partials = Some(made.data.clone()),
                Turn::None | Turn::Prove | Turn::__Invalid => return Err(fault("a move after the last one")),
            }
            before = after;
        }
        Ok(descent)
    }

    /// The hashes that the challenger has to choose from now.
    pub fn open(&self) -> Option<&Group> {
        match self.node {
            None => self.nodes.last(),
            Some(_) => self.tensor.last(),
        }
    }

    /// The path of a node's root to the root over the nodes, in the operator's tree: `own` is where the operator showed nothing, which is
    /// everything left of what was selected.
    pub fn node_path(&self, own: Option<&Tree>, node: u32, nodes: u32) -> Option<Vec<B256>> {
        path(&self.nodes, own, u64::from(node), u64::from(nodes))
    }

    /// The path of a leaf to the root of the selected node's tensor, in the operator's tree.
    pub fn leaf_path(&self, own: Option<&Tree>, leaf: u64, leaves: u64) -> Option<Vec<B256>> {
        path(&self.tensor, own, leaf, leaves)
    }
}

/// The path of leaf `index` of `count` in the operator's tree, from what it has shown and, elsewhere, from our own.
fn path(shown: &[Group], own: Option<&Tree>, index: u64, count: u64) -> Option<Vec<B256>> {
    let sibling = |level: usize| {
        let number = (index >> level) ^ 1;
        let theirs = shown.iter().rev().find_map(|group| group.node(level, number));
        theirs.or_else(|| own.map(|tree| tree.node(level, number)))
    };
    (0..depth(count)).map(sibling).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Domain, fold, hash};

    /// Whatever is selected, the paths of it and of everything before it lead to the operator's root, although the two trees differ from there on.
    #[test]
    fn paths_of_what_was_never_shown() {
        let leaves = |n: u64, from: u64| -> Vec<B256> {
            let salt = |i| if i >= from { 1u8 } else { 0 };
            (0..n).map(|i| hash(Domain::TraceLeaf, &[&i.to_le_bytes(), &[salt(i)]])).collect()
        };
        for count in [1u64, 2, 3, 5, 64, 65, 130, 200, 5000] {
            let own = Tree::new(leaves(count, u64::MAX));
            for wrong in [0, 1, count / 3, count / 2, count - 1] {
                if wrong >= count {
                    continue;
                }
                let theirs = Tree::new(leaves(count, wrong));
                let (mut shown, mut height, mut index) = (Vec::new(), theirs.depth(), 0);
                loop {
                    let group = Group::of(&theirs, height, index);
                    let first = group
                        .hashes
                        .iter()
                        .enumerate()
                        .find(|(position, theirs)| own.node(group.level(), group.number(*position)) != **theirs);
                    let (position, selected) = first.expect("the subtree differs");
                    let path = group.path(position).expect("all of it was shown");
                    assert_eq!(fold(selected, position as u64, &path), theirs.node(height, index));
                    (height, index) = (group.level(), group.number(position));
                    shown.push(group);
                    if height == 0 {
                        break;
                    }
                }
                assert_eq!(index, wrong);
                for leaf in 0..=wrong {
                    let path = path(&shown, Some(&own), leaf, count).expect("ours or theirs");
                    assert_eq!(path, theirs.path(leaf).expect("there is such a leaf"), "{leaf} of {count}, {wrong}");
                }
            }
        }
    }
}

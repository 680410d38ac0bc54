//! Binary Merkle trees over keccak-256, with a domain byte before everything that is hashed (rules P-44 to P-47 of
//! `docs/program.md`).
//!
//! ```text
//! leaf   = keccak(domain || data)
//! inner  = keccak(0x00 || left || right)
//! ```
//!
//! A tree of `n` leaves has `ceil(log2 n)` levels above them. Where a level has an odd number of nodes the last one is
//! paired with 32 zero bytes, which stand for "nothing here": no preimage of them is known, so nothing can be opened
//! beyond the last leaf. A tree of one leaf is that leaf; an empty tree is the zero hash. Hence a path has the same
//! length for every leaf and is folded by the bits of the index, which is all that Solidity has to do.
//!
//! - [`Accumulator`] computes a root from a stream of leaves in logarithmic memory.
//! - [`Tree`] keeps all nodes and gives [paths](Tree::path) and the subtree roots that a dispute descends through.
//! - [`verify`] checks a path.

use alloy_primitives::{B256, Keccak256};

mod lanes;

/// What is being hashed. The byte comes first in the preimage, so that no hash of one kind is a hash of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Domain {
    /// Two nodes of a tree.
    Inner = 0,
    /// Up to 128 consecutive weights of a row.
    WeightLeaf = 1,
    /// Up to 128 consecutive elements of a row of a node's tensor.
    TraceLeaf = 2,
    /// The descriptor of a node.
    Node = 3,
    /// The descriptor of a weight tensor.
    Tensor = 4,
    /// An entry of the vocabulary.
    Token = 5,
    /// The root of a tree together with the number of its leaves.
    Counted = 6,
    /// The root of a trace together with its symbols.
    Trace = 7,
}

/// The hash that stands for nothing.
pub const ABSENT: B256 = B256::ZERO;

/// The longest path: indices are 64-bit.
pub const MAX_DEPTH: usize = 64;

/// Hashes the parts one after the other, after the domain byte.
pub fn hash(domain: Domain, parts: &[&[u8]]) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update([domain as u8]);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Hashes two nodes of a tree.
pub fn inner(left: &B256, right: &B256) -> B256 {
    hash(Domain::Inner, &[left.as_slice(), right.as_slice()])
}

/// A root bound to the number of leaves, for trees whose size is not known from elsewhere.
pub fn counted(count: u64, root: &B256) -> B256 {
    hash(Domain::Counted, &[&word(count), root.as_slice()])
}

/// A number as a 32-byte big-endian word.
pub(crate) fn word(value: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&value.to_be_bytes());
    word
}

/// Levels above the leaves of a tree of `count` leaves.
pub fn depth(count: u64) -> usize {
    match count {
        0 | 1 => 0,
        n => (n - 1).ilog2() as usize + 1,
    }
}

/// The root that a leaf and its path lead to.
pub fn fold(leaf: &B256, index: u64, path: &[B256]) -> B256 {
    path.iter().enumerate().fold(*leaf, |node, (level, sibling)| {
        let right = index.checked_shr(level as u32).unwrap_or(0) & 1 == 1;
        if right { inner(sibling, &node) } else { inner(&node, sibling) }
    })
}

/// True if `leaf` is number `index` of the `count` leaves under `root`.
pub fn verify(root: &B256, leaf: &B256, index: u64, count: u64, path: &[B256]) -> bool {
    index < count && path.len() == depth(count) && fold(leaf, index, path) == *root
}

/// Hashes leaves, several at a time where their lengths agree, and hands over the hashes in order.
pub fn hash_leaves<'a>(domain: Domain, leaves: impl IntoIterator<Item = &'a [u8]>, mut visit: impl FnMut(B256)) {
    let mut leaves = leaves.into_iter();
    let mut window: Vec<(usize, &[u8])> = Vec::with_capacity(WINDOW);
    let mut hashes = Vec::with_capacity(WINDOW);
    loop {
        window.clear();
        window.extend(leaves.by_ref().take(WINDOW).enumerate());
        if window.is_empty() {
            return;
        }
        // Most leaves are full and the others are all as long as a row leaves them: two runs of equal length.
        window.sort_by_key(|(_, leaf)| leaf.len());
        hashes.clear();
        hashes.resize(window.len(), ABSENT);
        for run in window.chunk_by(|a, b| a.1.len() == b.1.len()) {
            let messages: Vec<&[u8]> = run.iter().map(|(_, leaf)| *leaf).collect();
            let mut places = run.iter().map(|(place, _)| *place);
            lanes::hash_all(domain, &messages, |hash| {
                if let Some(place) = places.next() {
                    hashes[place] = hash;
                }
            });
        }
        hashes.iter().copied().for_each(&mut visit);
    }
}

/// Leaves that are looked at together; a multiple of any number of lanes.
const WINDOW: usize = 128;

/// The level above `nodes`.
fn parents(nodes: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let mut parents = Vec::with_capacity(nodes.len().div_ceil(2));
    let (pairs, odd) = nodes.as_chunks::<2>();
    let messages: Vec<&[u8]> = pairs.iter().map(|pair| pair.as_flattened()).collect();
    lanes::hash_all(Domain::Inner, &messages, |hash| parents.push(hash.0));
    parents.extend(odd.iter().map(|last| inner(&B256::new(*last), &ABSENT).0));
    parents
}

/// Level of the subtrees that an accumulator hashes as a whole.
const BATCH_LEVEL: usize = 6;

/// Computes a root from leaves given one by one, in memory that grows with the logarithm of their number.
#[derive(Clone, Debug, Default)]
pub struct Accumulator {
    /// `pending[level]` is a complete subtree of `2^level` leaves that waits for its right neighbour.
    pending: Vec<Option<B256>>,
    /// The last leaves, fewer than make a subtree of the batch level.
    batch: Vec<[u8; 32]>,
    count: u64,
}

impl Accumulator {
    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: B256) {
        self.count += 1;
        self.batch.push(leaf.0);
        if self.batch.len() == 1 << BATCH_LEVEL {
            let mut level = std::mem::take(&mut self.batch);
            while level.len() > 1 {
                level = parents(&level);
            }
            carry(&mut self.pending, BATCH_LEVEL, B256::new(level[0]));
        }
    }

    /// Appends the leaves of another accumulator, without hashing what it has hashed.
    ///
    /// # Panics
    /// Unless the leaves before are a whole number of the smallest complete subtrees that hold the other's: parts of equal
    /// size, a power of two, of which only the last may be smaller.
    pub fn append(&mut self, other: &Self) {
        let span = other.count.next_power_of_two();
        assert!(self.batch.is_empty() && self.count.is_multiple_of(span), "parts of one size, a power of two");
        for (level, node) in other.pending.iter().enumerate().rev() {
            if let Some(node) = node {
                carry(&mut self.pending, level, *node);
            }
        }
        self.count += other.count;
        self.batch.clone_from(&other.batch);
    }

    /// Leaves so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The root of the leaves so far.
    pub fn root(&self) -> B256 {
        let mut pending = self.pending.clone();
        self.batch.iter().for_each(|leaf| carry(&mut pending, 0, B256::new(*leaf)));
        let depth = depth(self.count);
        let mut node: Option<B256> = None;
        for slot in &pending[..depth.min(pending.len())] {
            node = match (slot, node) {
                (Some(left), right) => Some(inner(left, &right.unwrap_or(ABSENT))),
                (None, Some(left)) => Some(inner(&left, &ABSENT)),
                (None, None) => None,
            };
        }
        node.or_else(|| pending.get(depth).copied().flatten()).unwrap_or(ABSENT)
    }
}

/// Adds a complete subtree of `2^level` leaves, whose left neighbours are all there.
fn carry(pending: &mut Vec<Option<B256>>, level: usize, mut node: B256) {
    if pending.len() < level {
        pending.resize(level, None);
    }
    for slot in &mut pending[level..] {
        match slot.take() {
            Some(left) => node = inner(&left, &node),
            None => {
                *slot = Some(node);
                return;
            }
        }
    }
    pending.push(Some(node));
}

impl Extend<B256> for Accumulator {
    fn extend<I: IntoIterator<Item = B256>>(&mut self, leaves: I) {
        leaves.into_iter().for_each(|leaf| self.push(leaf));
    }
}

/// A whole tree.
#[derive(Clone, Debug)]
pub struct Tree {
    /// `levels[0]` are the leaves; each further level has half as many, rounded up.
    levels: Vec<Vec<B256>>,
}

impl Tree {
    /// The tree over `leaves`.
    pub fn new(leaves: Vec<B256>) -> Self {
        let mut level: Vec<[u8; 32]> = leaves.iter().map(|leaf| leaf.0).collect();
        let mut levels = vec![leaves];
        while level.len() > 1 {
            level = parents(&level);
            levels.push(level.iter().map(|node| B256::new(*node)).collect());
        }
        Self { levels }
    }

    /// Number of leaves.
    pub fn count(&self) -> u64 {
        self.levels[0].len() as u64
    }

    /// Levels above the leaves.
    pub fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// The root.
    pub fn root(&self) -> B256 {
        self.node(self.depth(), 0)
    }

    /// Node `index` of a level (0 holds the leaves); [`ABSENT`] where there is none.
    pub fn node(&self, level: usize, index: u64) -> B256 {
        let level = self.levels.get(level);
        let node = level.and_then(|level| level.get(usize::try_from(index).ok()?));
        node.copied().unwrap_or(ABSENT)
    }

    /// The path of a leaf, from its sibling upwards, or `None` if there is no such leaf.
    pub fn path(&self, index: u64) -> Option<Vec<B256>> {
        (index < self.count()).then(|| (0..self.depth()).map(|level| self.node(level, (index >> level) ^ 1)).collect())
    }

    /// The descendants of a node `down` levels below it, left to right: what an operator reveals in one move.
    /// `down` is cut at the leaves and at 16 levels.
    pub fn descendants(&self, level: usize, index: u64, down: usize) -> Vec<B256> {
        let down = down.min(level).min(16);
        let first = index.saturating_mul(1 << down);
        (0..1u64 << down).map(|i| self.node(level - down, first.saturating_add(i))).collect()
    }
}

/// The root of the smallest complete subtree over `2^k` revealed descendants: how a reveal is checked.
pub fn fold_descendants(nodes: &[B256]) -> B256 {
    let mut level = nodes.to_vec();
    while level.len() > 1 {
        // Two absent nodes have an absent parent; no other pair does.
        let parent = |pair: &[B256]| match pair {
            [ABSENT, ABSENT] => ABSENT,
            [left, right] => inner(left, right),
            [left, ..] => inner(left, &ABSENT),
            [] => ABSENT,
        };
        level = level.chunks(2).map(parent).collect();
    }
    level.first().copied().unwrap_or(ABSENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: usize) -> Vec<B256> {
        (0..n).map(|i| hash(Domain::TraceLeaf, &[&[i as u8, (i >> 8) as u8]])).collect()
    }

    #[test]
    fn small_trees_by_hand() {
        let l = leaves(5);
        assert_eq!(Tree::new(vec![]).root(), ABSENT);
        assert_eq!(Tree::new(l[..1].to_vec()).root(), l[0]);
        assert_eq!(Tree::new(l[..2].to_vec()).root(), inner(&l[0], &l[1]));
        assert_eq!(Tree::new(l[..3].to_vec()).root(), inner(&inner(&l[0], &l[1]), &inner(&l[2], &ABSENT)));
        let left = inner(&inner(&l[0], &l[1]), &inner(&l[2], &l[3]));
        let right = inner(&inner(&l[4], &ABSENT), &ABSENT);
        assert_eq!(Tree::new(l).root(), inner(&left, &right));
    }

    #[test]
    fn stream_and_tree_agree_and_every_path_verifies() {
        for n in (0..70).chain([127, 128, 129, 191, 192, 200, 256, 257]) {
            let leaves = leaves(n);
            let tree = Tree::new(leaves.clone());
            let mut stream = Accumulator::default();
            stream.extend(leaves.iter().copied());
            assert_eq!(stream.root(), tree.root(), "{n} leaves");
            assert_eq!((stream.count(), tree.count()), (n as u64, n as u64));
            assert_eq!(tree.depth(), depth(n as u64));
            for (i, leaf) in leaves.iter().enumerate() {
                let (i, n) = (i as u64, n as u64);
                let path = tree.path(i).expect("the leaf exists");
                assert!(verify(&tree.root(), leaf, i, n, &path));
                assert!(!verify(&tree.root(), leaf, i + 1, n, &path), "another index");
                assert!(!verify(&tree.root(), &ABSENT, i, n, &path), "another leaf");
                assert!(!verify(&tree.root(), leaf, i, n * 2 + 1, &path), "another count");
                if let Some((_, short)) = path.split_last() {
                    assert!(!verify(&tree.root(), leaf, i, n, short), "a shorter path");
                }
            }
            assert_eq!(tree.path(n as u64), None);
        }
    }

    #[test]
    fn parts_make_the_whole() {
        for n in [0, 1, 5, 63, 64, 65, 128, 200, 256, 300, 1000] {
            let leaves = leaves(n);
            for part in [64, 128, 256] {
                let mut whole = Accumulator::default();
                for part in leaves.chunks(part) {
                    let mut accumulator = Accumulator::default();
                    accumulator.extend(part.iter().copied());
                    whole.append(&accumulator);
                }
                assert_eq!(
                    (whole.root(), whole.count()),
                    (Tree::new(leaves.clone()).root(), n as u64),
                    "{n} in {part}"
                );
            }
        }
    }

    #[test]
    fn nothing_opens_beyond_the_last_leaf() {
        let tree = Tree::new(leaves(3));
        let path = [tree.node(0, 2), tree.node(1, 0)];
        assert_eq!(fold(&ABSENT, 3, &path), tree.root(), "the padding is where it should be");
        assert!(!verify(&tree.root(), &ABSENT, 3, 3, &path));
        assert!(!verify(&tree.root(), &tree.node(0, 0), u64::MAX, 3, &path));
    }

    #[test]
    fn descendants_fold_to_their_ancestor() {
        for n in [1, 2, 3, 5, 8, 13, 33] {
            let tree = Tree::new(leaves(n));
            for level in 0..=tree.depth() {
                for index in 0..(n as u64).div_ceil(1 << level) {
                    for down in 0..=level {
                        let nodes = tree.descendants(level, index, down);
                        assert_eq!(nodes.len(), 1 << down);
                        assert_eq!(fold_descendants(&nodes), tree.node(level, index), "{n} {level} {index} {down}");
                    }
                }
            }
        }
    }
}

//! Playing the dispute game: what to do next, from what the chain shows and one's own trace.
//!
//! Whoever plays needs three things: the [`Docket`], which is the game's events read in order; a [`Trace`] of its own; and the model. Then
//! [`defend`] and [`challenge`] say what the next move is. They are functions: no clock, no chain, no memory of earlier calls. A player that was
//! killed in mid-game reads the events again and goes on.
//!
//! ```text
//! events ──> Docket ──> Case ───┐
//!                               ├── defend / challenge ──> Move ──> calldata
//! model, request ──> Trace ─────┘
//! ```
//!
//! What the operator reveals is compared with one's own trees from the left ([`Descent`]). The first place that differs is where the operator is
//! wrong while everything before it is right (P-62), or a place whose step is undefined (P-61), whatever is claimed there. Everything left of it is
//! agreed, so it can be opened against the operator's root although the operator never showed it.

mod challenge;
mod defence;
mod descent;
mod docket;
mod element;
mod evidence;
mod moves;
pub mod partials;
mod screen;
mod trace;

pub use challenge::{Opinion, challenge};
pub use defence::{defend, own_claim};
pub use descent::{Descent, Group};
pub use docket::{Case, Claimed, Docket, Ended, Made};
pub use element::Reference;
pub use evidence::evidence;
pub use moves::{Accusation, Move};
pub use screen::{Place, Screening, screen, undefined};
pub use trace::{MemoryTrace, Tensors, Trace};

/// Levels that one reveal covers in a tree of which `height` levels are left: as few reveals as 64 hashes allow, all of about the same size. Mirrors
/// `IDisputeGame.levelsOf`.
pub fn levels_of(height: usize) -> usize {
    match height.div_ceil(6) {
        0 => 0,
        reveals => height.div_ceil(reveals),
    }
}

/// Why no move could be found.
#[derive(Debug, thiserror::Error)]
pub enum PlayError<E> {
    /// The trace could not be had.
    #[error(transparent)]
    Trace(E),
    /// The events do not make a game: some are missing, or they are of another contract.
    #[error("dispute {id}: {problem}")]
    Record {
        /// The dispute.
        id: u64,
        /// What does not fit.
        problem: String,
    },
    /// The operator's claim differs from our trace, and yet no part of it does. Not possible while hashes do not collide.
    #[error("dispute {0}: the subtree under challenge differs from ours, but nothing in it does")]
    NothingDiffers(u64),
}

#[cfg(test)]
mod tests {
    use super::levels_of;

    #[test]
    fn reveals_are_few_and_even() {
        assert_eq!([0, 1, 5, 6].map(levels_of), [0, 1, 5, 6]);
        assert_eq!([7, 8, 11, 12, 13, 18, 24].map(levels_of), [4, 4, 6, 6, 5, 6, 6]);
        for height in 1..64 {
            let (mut left, mut reveals) = (height, 0);
            while left > 0 {
                assert!((1..=6).contains(&levels_of(left)));
                left -= levels_of(left);
                reveals += 1;
            }
            assert_eq!(reveals, height.div_ceil(6));
        }
    }
}

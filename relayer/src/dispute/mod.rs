//! The dispute game, played: the operator's side for one's own results, the challenger's for others' that are wrong.
//!
//! - [`book`]: what the chain shows, read anew at every start.
//! - [`tree`]: a dispute as people read it.
//! - [`trace`]: runs retraced on the engine, a few tensors at a time.
//! - [`opinion`]: what one thinks of a result, found on two paths before money is put on it.
//! - [`recheck`]: the second of them, element by element.
//! - [`liar`]: an operator that lies, for the demo and the tests.
//! - `player`: whose move it is, and how urgent; sends it through the account's one sender. `errand`: what there is to do. `thinking`: which move it is.
//!   `watching`: others' results. `inputs`: those that are at a URI. `gauges`: what is shown of all that.
//!
//! The moves themselves are pure functions in [`candor_sdk::dispute`]. Nothing is stored here: a relayer that was killed in mid-game reads the events
//! and makes the next move.

pub mod book;
mod errand;
mod gauges;
mod inputs;
pub mod liar;
pub mod opinion;
mod player;
pub mod recheck;
mod thinking;
pub mod trace;
pub mod tree;
mod watching;

pub use player::{DisputeProgress, Watching};
pub(crate) use player::{Seat, run};
pub use trace::{Player, Retrace};

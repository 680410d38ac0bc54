//! The dispute game, played: the operator's side for one's own results, the challenger's for others' that are wrong.
//!
//! - [`book`]: what the chain shows, read anew at every start.
//! - [`tree`]: a dispute as people read it.
//! - [`trace`]: runs retraced on the engine, a few tensors at a time.
//! - [`opinion`]: what one thinks of a result, found on two paths before money is put on it.
//! - [`liar`]: an operator that lies, for the demo and the tests.
//! - `player`: whose move it is, which one, and how urgent; sends it through the account's one sender.
//!
//! The moves themselves are pure functions in [`candor_sdk::dispute`]. Nothing is stored here: a relayer that was killed in mid-game reads the events
//! and makes the next move.

pub mod book;
pub mod liar;
pub mod opinion;
mod player;
pub mod trace;
pub mod tree;

pub use player::{DisputeProgress, Watching};
pub(crate) use player::{Seat, run};
pub use trace::{Player, Retrace};

//! A world to test in: a real anvil, the real contracts, the embedded models, operators with stake, and relayers in this process or as processes of
//! their own.
//!
//! The tests themselves are in `tests/tests`. They need anvil (`make setup`) and fail loudly without it.

pub mod court;
pub mod faults;
pub mod hand;
pub mod inputs;
#[cfg(feature = "aws")]
pub mod kms;
pub mod liars;
pub mod process;
pub mod proxy;
pub mod puppet;
pub mod scene;
pub mod slow;
pub mod world;

#[path = "../../sdk/tests/dispute/liars.rs"]
#[allow(dead_code, reason = "shared with the tests of strategy")]
mod lies;
#[path = "../../sdk/tests/program/models.rs"]
#[allow(dead_code, reason = "shared with the tests of programs")]
mod models;

pub use court::{Court, Running};
pub use faults::{Fault, FaultyEndpoint};
pub use hand::Hand;
pub use inputs::InputServer;
pub use process::RelayerProcess;
pub use proxy::Proxy;
pub use scene::Scene;
pub use slow::Slow;
pub use world::{Ask, Operator, World};

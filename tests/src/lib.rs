//! A world to test in: a real anvil, the real contracts, the embedded models, operators with stake, and relayers in this process or as processes of
//! their own.
//!
//! The tests themselves are in `tests/tests`. They need anvil (`make setup`) and fail loudly without it.

pub mod faults;
pub mod inputs;
pub mod process;
pub mod proxy;
pub mod puppet;
pub mod world;

pub use faults::{Fault, FaultyEndpoint};
pub use inputs::InputServer;
pub use process::RelayerProcess;
pub use proxy::Proxy;
pub use world::{Ask, Operator, World};

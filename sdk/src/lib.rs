//! Candor for Rust: ask a neural network from a contract's point of view, check what was answered, and build on the arithmetic that makes an
//! answer a fact.
//!
//! - [`bindings`]: the ABI, from the Solidity interfaces.
//! - [`ids`]: typed request and model ids.
//! - [`request`]: a request, readable and packed.
//! - [`commitment`]: request hashes, EIP-712 digests, signed results and their verification offline.
//! - `client` (feature `client`): a typed client over any alloy provider; `deploy` puts the whole system on a chain.
//! - [`arithmetic`]: the numbers, to the last bit.
//! - [`program`]: a model as a graph, its id, its interpreter and the trace of a run; [`merkle`]: the trees they are committed with.
//! - [`dispute`]: how to play the dispute game, for either side.
//! - [`proof`]: what convinces the chain that one element of a run is wrong.
//!
//! The reference arithmetic, the graph and its interpreter need no network, SIMD or tensors, so that whoever re-runs a model to check an answer
//! needs nothing but this crate.

pub mod arithmetic;
pub mod bindings;
pub mod commitment;
pub mod dispute;
pub mod ids;
pub mod merkle;
pub mod program;
pub mod proof;
pub mod request;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod deploy;

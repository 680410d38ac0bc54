//! Whole games of pure strategy against pure strategy: no chain, no clock, no relayer. In `games.rs` a page of Rust stands for the
//! contracts (`toy.rs`); in `contracts.rs` they are the real ones, in an EVM inside the test (`evm.rs`).

#[path = "../program/models.rs"]
#[allow(dead_code, reason = "shared with the tests of programs")]
mod models;

#[path = "../verifier_evm/graphs.rs"]
mod graphs;

#[path = "../verifier_evm/giants.rs"]
#[allow(dead_code, reason = "shared with the tests of the verifier")]
mod giants;

mod contracts;
mod elements;
mod evm;
mod games;
mod large;
#[allow(dead_code, reason = "shared with the tests on a chain")]
mod liars;
mod toy;

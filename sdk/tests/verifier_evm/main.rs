//! The step verifier (`contracts/src/verifier`) gives the verdicts of the reference, in a real EVM (revm): right elements, partials and sums are right,
//! wrong ones are wrong, whatever the graph; and nothing that a challenger brings makes a right one wrong.
//!
//! A plain run takes a sample. The whole comparison is the same tests with more steps:
//!
//!     CANDOR_VECTORS=1000000 cargo test -p candor-sdk --test verifier_evm -- --nocapture
//!
//! The contracts are the frozen ones of `sdk/artifacts`, which `make lint` compares with the sources.

mod chain;
mod claims;
mod fixture;
mod gas;
#[allow(dead_code, reason = "shared with the tests of disputes")]
mod giants;
mod graphs;
mod hostile;
#[path = "../program/models.rs"]
#[allow(dead_code, reason = "shared with the tests of the program")]
mod models;
mod steps;
mod tampering;
mod vectors;

/// How many steps to judge in each test.
fn wanted(sample: usize) -> usize {
    match std::env::var("CANDOR_VECTORS") {
        Ok(text) => text.parse().expect("CANDOR_VECTORS is a number"),
        Err(_) => sample,
    }
}

//! Whole games of pure strategy against pure strategy: no chain, no clock, no relayer. `toy.rs` stands for the contracts here; the same games against
//! the real ones are in `evm.rs`.

#[path = "../program/models.rs"]
#[allow(dead_code, reason = "shared with the tests of programs")]
mod models;

mod games;
mod liars;
mod toy;

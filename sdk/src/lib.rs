//! Candor for Rust.

pub mod arithmetic;

//! Candor for Rust.

pub mod merkle;
pub mod program;

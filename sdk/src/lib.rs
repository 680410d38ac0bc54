//! Candor for Rust.

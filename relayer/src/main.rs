//! `candor`.
fn main() {}

//! The engine on a GPU: the tests of the CPU engine, each body the same, on the emulated GPU; with
//! `CANDOR_TEST_DEVICE=cuda` and the feature `cuda`, on a real one.

#![allow(clippy::duplicate_mod)] // each of them brings its operands along

#[path = "engine_embedded.rs"]
mod embedded;
#[path = "engine_generation.rs"]
mod generation;
#[path = "engine_graphs.rs"]
mod graphs;
#[path = "engine_models.rs"]
mod models;

//! Tests of the program graph: what operations compute, what validation refuses, and what never changes.

mod decoder;
mod generation;
#[path = "../common/golden.rs"]
mod golden;
mod layers;
mod malformed;
mod models;
mod openings;
mod operations;
mod steps;
mod vectors;

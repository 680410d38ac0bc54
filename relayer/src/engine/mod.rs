//! Engine.
pub mod kernels;
pub mod ops;

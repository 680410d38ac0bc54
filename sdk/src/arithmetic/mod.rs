//! The reference arithmetic: what every element of every tensor is, to the last bit.
//!
//! This module is the executable half of `docs/arithmetic.md` (arithmetic version 1); rules are cited here by their
//! numbers there (`A1`, `C2`, ...). It is scalar and sequential on purpose: it is the definition that the CPU
//! kernels, the CUDA kernels and the Solidity verifier are compared with, bit for bit.
//!
//! - [`scalar`]: binary32 operations with one NaN, conversions, 16-bit formats
//! - [`contraction`]: dot products in blocks of 128, the shape of every linear layer
//! - [`quantised`]: the same with int8 weights and activations
//! - [`reduction`]: sum, sum of squares, maximum and argmax of a row
//! - [`functions`]: `exp`, `log`, `tanh`, ... as fixed sequences of scalar operations
//! - [`row`]: softmax and the two norms
//! - [`sampling`]: greedy and seeded choice of a token

pub mod contraction;
pub mod functions;
pub mod quantised;
pub mod reduction;
pub mod row;
pub mod sampling;
pub mod scalar;

/// The version of the rules in this module. It is hashed into every model id, so a change of any bit of any result
/// is a new version and never a surprise.
pub const ARITHMETIC_VERSION: u32 = 1;

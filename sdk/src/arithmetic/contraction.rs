//! Contractions: the dot product under every linear layer, attention score, attention mix and convolution
//! (rules C1 to C3).
//!
//! A dot product is summed in blocks of [`BLOCK`] at absolute indices. The sum of one block, a *partial*, is what
//! the chain re-executes in a dispute, however long the dot product is.

use super::scalar::{add, bf16_to_f32, f16_to_f32, fma};

/// C1: the number of multiply-adds in a block.
pub const BLOCK: usize = 128;

/// C1: the partial of one block of at most [`BLOCK`] products, summed in ascending order from +0 by `fma`.
pub fn partial(x: &[f32], w: &[f32]) -> f32 {
    assert_eq!(x.len(), w.len(), "a dot product needs operands of one length");
    assert!(x.len() <= BLOCK, "a block has at most {BLOCK} products");
    x.iter().zip(w).fold(0.0, |p, (&x, &w)| fma(x, w, p))
}

/// C1: the partials of `x . w`, one for each block; the last block may be shorter.
pub fn partials(x: &[f32], w: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), w.len(), "a dot product needs operands of one length");
    x.chunks(BLOCK).zip(w.chunks(BLOCK)).map(|(x, w)| partial(x, w)).collect()
}

/// C2: the element that the partials add up to, in ascending order from +0.
pub fn accumulate(partials: &[f32]) -> f32 {
    partials.iter().fold(0.0, |acc, &p| add(acc, p))
}

/// C2: the dot product of two f32 vectors; +0 for empty ones.
pub fn dot(x: &[f32], w: &[f32]) -> f32 {
    accumulate(&partials(x, w))
}

/// C3: the partials with binary16 weights, each widened exactly.
pub fn partials_f16(x: &[f32], w: &[u16]) -> Vec<f32> {
    partials(x, &w.iter().map(|&w| f16_to_f32(w)).collect::<Vec<_>>())
}

/// C3: the dot product with binary16 weights.
pub fn dot_f16(x: &[f32], w: &[u16]) -> f32 {
    accumulate(&partials_f16(x, w))
}

/// C3: the partials with bfloat16 weights, each widened exactly.
pub fn partials_bf16(x: &[f32], w: &[u16]) -> Vec<f32> {
    partials(x, &w.iter().map(|&w| bf16_to_f32(w)).collect::<Vec<_>>())
}

/// C3: the dot product with bfloat16 weights.
pub fn dot_bf16(x: &[f32], w: &[u16]) -> f32 {
    accumulate(&partials_bf16(x, w))
}

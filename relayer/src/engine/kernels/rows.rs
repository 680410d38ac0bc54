//! Operations along one row: sums in 32 lanes and chunks of 1024, maxima.

use super::isa::per_isa;
use candor_sdk::arithmetic::reduction::{CHUNK, LANES};
use candor_sdk::arithmetic::scalar;

per_isa! {
    /// Sum of a row.
    pub fn sum(isa, x: &[f32]) -> f32 = reduce(x, |lane, x| lane + x)
}

per_isa! {
    /// Sum of the squares of a row.
    pub fn sum_squares(isa, x: &[f32]) -> f32 = reduce(x, |lane, x| x.mul_add(x, lane))
}

/// Chunks of 1024 ascending; in each, 32 lanes and a tree; chunk sums one after the other. NaN is made canonical once, at
/// the end: between two additions its payload is of no consequence.
#[inline(always)]
fn reduce(x: &[f32], step: impl Fn(f32, f32) -> f32) -> f32 {
    let mut total = 0f32;
    for chunk in x.chunks(CHUNK) {
        let mut lanes = [0f32; LANES];
        let (whole, rest) = chunk.as_chunks::<LANES>();
        for group in whole {
            for (lane, &x) in lanes.iter_mut().zip(group) {
                *lane = step(*lane, x);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane = step(*lane, x);
        }
        let mut width = LANES / 2;
        while width > 0 {
            let (low, high) = lanes.split_at_mut(width);
            for (low, high) in low.iter_mut().zip(high) {
                *low += *high;
            }
            width /= 2;
        }
        total += lanes[0];
    }
    scalar::canonical(total)
}

per_isa! {
    /// Largest element of a row, `-inf` of an empty one; NaN wins, `-0 < +0`.
    pub fn maximum(isa, x: &[f32]) -> f32 = max_of(x)
}

#[inline(always)]
fn max_of(x: &[f32]) -> f32 {
    // The maximum is the same in any order, so the lanes are free to be as many as the machine likes.
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for group in whole {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = scalar::maximum(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = scalar::maximum(*lane, x);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, scalar::maximum)
}

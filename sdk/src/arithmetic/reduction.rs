//! Reductions of a row: sum, sum of squares, maximum, argmax (rules R1 to R4).
//!
//! A row is summed in chunks of [`CHUNK`] at absolute indices, each by [`LANES`] lanes and a fixed tree: one warp of
//! a GPU, four registers of a CPU. The sum of one chunk is the most that the chain ever re-executes at once.

use super::scalar::{add, fma, maximum as greater};

/// R1: elements in a chunk.
pub const CHUNK: usize = 1024;

/// R1: lanes that share a chunk; lane `l` takes the elements `l`, `l + 32`, `l + 64`, ...
pub const LANES: usize = 32;

/// R1: adds the lanes up: 16 + 16, then 8 + 8, down to one.
fn tree(mut lane: [f32; LANES]) -> f32 {
    for s in [16, 8, 4, 2, 1] {
        for i in 0..s {
            lane[i] = add(lane[i], lane[i + s]);
        }
    }
    lane[0]
}

/// R1: the sum of one chunk of at most [`CHUNK`] elements.
pub fn chunk_sum(x: &[f32]) -> f32 {
    assert!(x.len() <= CHUNK, "a chunk has at most {CHUNK} elements");
    let mut lane = [0.0; LANES];
    for (i, &x) in x.iter().enumerate() {
        lane[i % LANES] = add(lane[i % LANES], x);
    }
    tree(lane)
}

/// R2: the sum of the squares of one chunk of at most [`CHUNK`] elements.
pub fn chunk_sum_squares(x: &[f32]) -> f32 {
    assert!(x.len() <= CHUNK, "a chunk has at most {CHUNK} elements");
    let mut lane = [0.0; LANES];
    for (i, &x) in x.iter().enumerate() {
        lane[i % LANES] = fma(x, x, lane[i % LANES]);
    }
    tree(lane)
}

/// R1: the partials of [`sum`], one for each chunk; the last chunk may be shorter.
pub fn sum_partials(x: &[f32]) -> Vec<f32> {
    x.chunks(CHUNK).map(chunk_sum).collect()
}

/// R2: the partials of [`sum_squares`], one for each chunk; the last chunk may be shorter.
pub fn sum_squares_partials(x: &[f32]) -> Vec<f32> {
    x.chunks(CHUNK).map(chunk_sum_squares).collect()
}

/// R1: what the partials of a sum add up to, in ascending order from +0.
pub fn accumulate(partials: &[f32]) -> f32 {
    partials.iter().fold(0.0, |acc, &p| add(acc, p))
}

/// R1: the sum of a row; +0 for an empty one.
pub fn sum(x: &[f32]) -> f32 {
    accumulate(&sum_partials(x))
}

/// R2: the sum of the squares of a row; +0 for an empty one.
pub fn sum_squares(x: &[f32]) -> f32 {
    accumulate(&sum_squares_partials(x))
}

/// R3: the maximum of a row by [`maximum`](super::scalar::maximum): NaN if there is one, `-0 < +0`, `-inf` for an
/// empty row. Order does not matter to it.
pub fn maximum(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |m, &x| greater(m, x))
}

/// R3: the maximum of each chunk.
pub fn maximum_partials(x: &[f32]) -> Vec<f32> {
    x.chunks(CHUNK).map(maximum).collect()
}

/// R4: the rank of a value in the order that [`argmax`] uses, as an integer: `-inf` lowest, the two zeros equal,
/// and NaN, all of them equal, above `+inf`.
#[inline(always)]
pub fn rank(x: f32) -> i32 {
    // Adding +0 makes one zero of the two; `add` makes one NaN of all. Positive floats order as their bits do, and
    // negative ones the other way round.
    let bits = add(x, 0.0).to_bits() as i32;
    bits ^ ((bits >> 31) & 0x7fff_ffff)
}

/// R4: the index of the greatest element, the lowest index among equals; `None` for an empty row.
pub fn argmax(x: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, i32)> = None;
    for (i, &x) in x.iter().enumerate() {
        let rank = rank(x);
        if best.is_none_or(|(_, highest)| rank > highest) {
            best = Some((i, rank));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::scalar::NAN;

    #[test]
    fn argmax_order() {
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), Some(0));
        assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(argmax(&[1.0, f32::INFINITY, NAN, f32::from_bits(0xffc0_0001)]), Some(2));
        assert_eq!(argmax(&[-1.0, -1e-45, -2.0]), Some(1));
    }

    #[test]
    fn lanes_and_tree_are_not_a_plain_sum() {
        // 2^24 and 32 ones. A sequential sum loses every one of them; here x[32] and lane 16 meet 2^24 alone and are
        // lost, then 2, 4, 8 and 16 of them arrive together.
        let mut x = vec![1.0; 33];
        x[0] = 16_777_216.0;
        assert_eq!(sum(&x), 16_777_246.0);
    }
}

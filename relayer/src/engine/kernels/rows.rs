//! Operations along one row: sums in 32 lanes and chunks of 1024, maxima.

use super::isa::{Isa, per_isa};
use candor_sdk::arithmetic::reduction::{CHUNK, LANES};
use candor_sdk::arithmetic::scalar;

/// What a row becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Its sum.
    Sum,
    /// The sum of its squares.
    SumSquares,
    /// Its largest element.
    Max,
}

/// One number for each row of `cols` elements; for short rows, where calling a kernel for each would be most of the work.
pub fn reduce_rows(isa: Isa, reduction: Reduction, x: &[f32], cols: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len() * cols, "{} rows of {cols}", out.len());
    match reduction {
        Reduction::Sum => each_row(isa, |row| reduce(row, |lane, x| lane + x), x, cols, out),
        Reduction::SumSquares => each_row(isa, |row| reduce(row, |lane, x| x.mul_add(x, lane)), x, cols, out),
        Reduction::Max if cols < LANES => each_row(isa, few_max, x, cols, out),
        Reduction::Max => each_row(isa, max_of, x, cols, out),
    }
}

per_isa! {
    fn each_row[F: Fn(&[f32]) -> f32](isa, f: F, x: &[f32], cols: usize, out: &mut [f32]) = each(f, x, cols, out)
}

#[inline(always)]
fn each<F: Fn(&[f32]) -> f32>(f: F, x: &[f32], cols: usize, out: &mut [f32]) {
    for (out, row) in out.iter_mut().zip(x.chunks_exact(cols)) {
        *out = f(row);
    }
}

#[inline(always)]
fn few_max(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |m, &x| scalar::maximum(m, x))
}

per_isa! {
    /// The largest element of each row of a view: row `r` has the elements `data[rows[r] + columns[..]]`. Where rows begin
    /// side by side, as the channels of a pixel do, they are compared side by side.
    pub fn window_maxima(isa, data: &[f32], rows: &[u32], columns: &[u32], out: &mut [f32]) =
        maxima(data, rows, columns, out)
}

#[inline(always)]
fn maxima(data: &[f32], rows: &[u32], columns: &[u32], out: &mut [f32]) {
    let mut rest = out;
    let mut at = 0;
    while at < rows.len() {
        let start = rows[at] as usize;
        let run = rows[at..].iter().enumerate().take_while(|&(i, &row)| row as usize == start + i).count();
        let (now, later) = rest.split_at_mut(run);
        now.fill(f32::NEG_INFINITY);
        for &column in columns {
            let source = &data[start + column as usize..][..run];
            for (now, &x) in now.iter_mut().zip(source) {
                *now = scalar::maximum(*now, x);
            }
        }
        rest = later;
        at += run;
    }
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

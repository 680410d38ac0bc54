//! Graph operations as candle custom ops: candle owns tensors, storage and devices; these own what is computed.
//!
//! A tensor holds one node for a whole batch of requests, one request below the other: `[batch * rows, cols]`. An operand
//! that is part of the model instead of the request (a weight, a constant) is *shared* by all requests of the batch.
//! A device without an implementation of one of these ops says so in candle's own error.

pub mod attention;
pub mod elementwise;
pub mod index;
pub mod linear;
pub mod quantised;
pub mod rows;
pub mod tokens;

use super::kernels::isa::default_float_mode;
use candle_core::{CpuStorage, Error, Layout, Result, WithDType};
use rayon::prelude::*;

/// Elements worth a task of their own.
const TASK_ELEMENTS: usize = 1 << 15;

/// How an operand lies in its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The same for all requests of a batch.
    pub shared: bool,
    /// Rows per request.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

impl Extent {
    /// Elements per request.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements of request `request`.
    pub fn of<'a, T>(&self, data: &'a [T], request: usize) -> &'a [T] {
        let first = if self.shared { 0 } else { request * self.len() };
        &data[first..first + self.len()]
    }

    /// Row `row` of request `request`.
    pub fn row_at<'a, T>(&self, data: &'a [T], request: usize, row: usize) -> &'a [T] {
        let base = if self.shared { 0 } else { request * self.rows };
        &data[(base + row) * self.cols..][..self.cols]
    }

    /// Row `row` of request `request`; an operand of one row gives that one for any `row`.
    #[inline]
    fn row<'a, T>(&self, data: &'a [T], request: usize, row: usize) -> &'a [T] {
        let base = if self.shared { 0 } else { request * self.rows };
        let row = if self.rows == 1 { 0 } else { row };
        &data[(base + row) * self.cols..][..self.cols]
    }
}

/// The elements of a contiguous tensor in this machine's memory.
pub(super) fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::RequiresContiguous { op: "candor engine" }.bt())?;
    Ok(&storage.as_slice::<T>()?[start..end])
}

/// Calls `f(index, row)` for each row of `out`, on several threads if there is enough to do. `work` is the number of
/// elements that one row takes to compute.
pub(super) fn for_each_row<T: Send>(out: &mut [T], cols: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    let rows_per_task = TASK_ELEMENTS.div_ceil(work.max(1));
    let task = |task: usize, rows: &mut [T]| {
        default_float_mode();
        for (i, row) in rows.chunks_mut(cols).enumerate() {
            f(task * rows_per_task + i, row);
        }
    };
    let step = rows_per_task.saturating_mul(cols);
    if out.len() <= step || rayon::current_num_threads() == 1 {
        out.chunks_mut(step).enumerate().for_each(|(i, rows)| task(i, rows));
    } else {
        out.par_chunks_mut(step).enumerate().for_each(|(i, rows)| task(i, rows));
    }
}

//! Contractions with weights: which kernel for how many rows.

use super::{
    BLOCK, MOST_ACROSS, MOST_FEW, Operand, Result, THREADS, WARP, address, kernel, request_stride, short, slices,
};
use crate::engine::cuda::driver::{Arg, DeviceError};
use crate::engine::cuda::memory::{Buffer, Device, Tensor};
use crate::engine::cuda::weights::Packed;
use candor_sdk::program::{DType, UnaryFunction, WeightType};
use std::rc::Rc;

/// No function follows: `NONE` of arithmetic.cuh.
const NONE: u32 = 255;

/// Rows up to which a contraction is bound by memory, and reads each weight once for all rows that a warp can hold.
const FEW_ROWS: usize = 16;

fn function_code(then: Option<UnaryFunction>) -> u32 {
    then.map_or(NONE, |function| function as u32)
}

impl Device {
    /// `dot(x[r], w[c])`, then the bias, then the function.
    pub(crate) fn linear(
        &self,
        x: &Tensor,
        w: &Packed,
        bias: Option<&Tensor>,
        then: Option<UnaryFunction>,
    ) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, w.rows)?;
        let (m, n, k) = (short(x.rows)?, short(w.rows)?, short(w.cols)?);
        if x.rows <= FEW_ROWS {
            let few = self.few(x.rows, w)?;
            let kernel = match (w.dtype, few.rows) {
                (WeightType::F16, 1) => kernel::linear_f16_1,
                (WeightType::F16, 2) => kernel::linear_f16_2,
                (WeightType::F16, 4) => kernel::linear_f16_4,
                (WeightType::F16, _) => kernel::linear_f16_8,
                (WeightType::Bf16, 1) => kernel::linear_bf16_1,
                (WeightType::Bf16, 2) => kernel::linear_bf16_2,
                (WeightType::Bf16, 4) => kernel::linear_bf16_4,
                (WeightType::Bf16, _) => kernel::linear_bf16_8,
                (_, 1) => kernel::linear_f32_1,
                (_, 2) => kernel::linear_f32_2,
                (_, 4) => kernel::linear_f32_4,
                (_, _) => kernel::linear_f32_8,
            };
            let ends = args![address(bias), &few.partials, &w.counters, m, n, k, function_code(then)];
            let args = [args![&out, x, &w.values].as_slice(), ends].concat();
            self.launch(kernel, few.grid, THREADS, &args)?;
            return Ok(out);
        }
        let wide = self.wide(x.rows, w.rows);
        let kernel = match (w.dtype, wide) {
            (WeightType::F16, false) => kernel::linear_f16_tile64,
            (WeightType::F16, true) => kernel::linear_f16_tile128,
            (WeightType::Bf16, false) => kernel::linear_bf16_tile64,
            (WeightType::Bf16, true) => kernel::linear_bf16_tile128,
            (_, false) => kernel::linear_f32_tile64,
            (_, true) => kernel::linear_f32_tile128,
        };
        let side = if wide { 128 } else { 64 };
        for (first, rows) in slices(x.rows, MOST_ACROSS * side) {
            let (x, part) = (x.narrowed(first, rows)?, out.narrowed(first, rows)?);
            let args = args![&part, &x, &w.values, address(bias), short(rows)?, n, k, function_code(then)];
            let grid = [short(w.rows.div_ceil(side))?, short(rows.div_ceil(side))?, 1];
            self.launch(kernel, grid, THREADS, args)?;
        }
        Ok(out)
    }

    /// Whether tiles of 128 keep the device busy; else smaller ones do better.
    fn wide(&self, rows: usize, outputs: usize) -> bool {
        rows.div_ceil(128) * outputs.div_ceil(128) >= self.multiprocessors()
    }

    /// How a contraction of few rows is cut.
    fn few(&self, rows: usize, w: &Packed) -> Result<Few> {
        /// Warps of a block of threads, each with a block of products at a time.
        const WARPS: usize = 8;
        /// Blocks of threads that a multiprocessor should have to hide the latency of memory.
        const BUSY: usize = 4;
        let each = rows.next_power_of_two().min(8);
        let groups = rows.div_ceil(each);
        let (panels, blocks) = (w.rows.div_ceil(WARP), w.cols.div_ceil(BLOCK));
        let wanted = (BUSY * self.multiprocessors()).div_ceil(panels * groups);
        let splits = wanted.clamp(1, blocks.div_ceil(WARPS).max(1));
        let partials = self.allocate(groups * blocks * each * panels * WARP * 4)?;
        Ok(Few { rows: each, grid: [short(panels)?, short(splits)?, short(groups)?], partials })
    }

    /// Magnitudes of the groups of each row, and the bytes if `bytes`.
    pub(crate) fn quantised_groups(&self, x: &Tensor, group: usize, bytes: bool) -> Result<(Tensor, Option<Tensor>)> {
        let magnitudes = self.tensor(DType::F32, x.rows, x.cols.div_ceil(group))?;
        let q = bytes.then(|| self.tensor(DType::I8, x.rows, x.cols)).transpose()?;
        let count = magnitudes.len();
        let args = args![&magnitudes, address(q.as_ref()), x, count as u64, short(x.cols)?, short(group)?];
        self.over(kernel::quantise_groups, count * WARP, args)?;
        Ok((magnitudes, q))
    }

    /// Bytes of elements by magnitudes that are given.
    pub(crate) fn quantise(&self, group: u32, batch: usize, x: Operand<'_>, magnitudes: Operand<'_>) -> Result<Tensor> {
        let (rows, cols) = (x.1.rows, x.1.cols);
        let out = self.tensor(DType::I8, batch * rows, cols)?;
        let shape = args![&out, x.0, magnitudes.0, out.len() as u64, short(rows)?, short(cols)?, group];
        let args = [shape.as_slice(), args![request_stride(x.1), request_stride(magnitudes.1)]].concat();
        self.over(kernel::quantise_all, out.len(), &args)?;
        Ok(out)
    }

    /// The quantised contraction of bytes and magnitudes with quantised weights.
    pub(crate) fn quantised_linear(
        &self,
        (q, magnitudes): (&Tensor, &Tensor),
        w: &Packed,
        bias: Option<&Tensor>,
        then: Option<UnaryFunction>,
    ) -> Result<Tensor> {
        let Some(scales) = &w.scales else {
            return Err(DeviceError::Failed("weights without scales".to_string()));
        };
        let out = self.tensor(DType::F32, q.rows, w.rows)?;
        let (n, k) = (short(w.rows)?, short(w.cols)?);
        // Tiles load sixteen bytes of a row at once.
        if q.rows > FEW_ROWS && w.cols.is_multiple_of(16) {
            let kernel = match w.dtype {
                WeightType::Q8_0 => kernel::quantised_q8_0_tile,
                _ => kernel::quantised_q8_128_tile,
            };
            for (first, rows) in slices(q.rows, MOST_ACROSS * 128) {
                let (q, magnitudes) = (q.narrowed(first, rows)?, magnitudes.narrowed(first, rows)?);
                let part = out.narrowed(first, rows)?;
                let ends = args![scales, address(bias), short(rows)?, n, k, function_code(then)];
                let args = [args![&part, &q, &magnitudes, &w.values].as_slice(), ends].concat();
                let grid = [short(w.rows.div_ceil(128))?, short(rows.div_ceil(128))?, 1];
                self.launch(kernel, grid, THREADS, &args)?;
            }
            return Ok(out);
        }
        for (first, rows) in slices(q.rows, MOST_FEW) {
            let (q, magnitudes) = (q.narrowed(first, rows)?, magnitudes.narrowed(first, rows)?);
            let part = out.narrowed(first, rows)?;
            let few = self.few(rows, w)?;
            let kernel = match (w.dtype, few.rows) {
                (WeightType::Q8_0, 1) => kernel::quantised_q8_0_1,
                (WeightType::Q8_0, 2) => kernel::quantised_q8_0_2,
                (WeightType::Q8_0, 4) => kernel::quantised_q8_0_4,
                (WeightType::Q8_0, _) => kernel::quantised_q8_0_8,
                (_, 1) => kernel::quantised_q8_128_1,
                (_, 2) => kernel::quantised_q8_128_2,
                (_, 4) => kernel::quantised_q8_128_4,
                (_, _) => kernel::quantised_q8_128_8,
            };
            let m = short(rows)?;
            let ends = args![scales, address(bias), &few.partials, &w.counters, m, n, k, function_code(then)];
            let args = [args![&part, &q, &magnitudes, &w.values].as_slice(), ends].concat();
            self.launch(kernel, few.grid, THREADS, &args)?;
        }
        Ok(out)
    }
}

struct Few {
    /// Rows that a warp holds: 1, 2, 4 or 8.
    rows: usize,
    grid: [u32; 3],
    partials: Rc<Buffer>,
}

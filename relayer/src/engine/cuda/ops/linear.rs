//! Contractions with weights: which kernel for how many rows.

use super::{
    BLOCK, MOST_ACROSS, MOST_FEW, Operand, Result, SPAN, THREADS, WARP, address, kernel, request_stride, short, slices,
};
use crate::engine::cuda::driver::{Arg, DeviceError, Kernel};
use crate::engine::cuda::memory::{Buffer, Device, Tensor};
use crate::engine::cuda::weights::Packed;
use candor_sdk::program::{DType, UnaryFunction, WeightType};
use std::rc::Rc;

/// No function follows: `NONE` of arithmetic.cuh.
const NONE: u32 = 255;

/// Rows up to which a contraction is bound by memory, and reads each weight once for all rows that a warp can hold.
pub(crate) const FEW_ROWS: usize = 16;

/// Bytes of so many blocks of 128 columns of so many rows and outputs in shared memory, each with its scales: `Stage` of
/// quantised_tiles.cu.
pub(super) const fn staged(blocks: u32, lines: u32, groups: u32) -> u32 {
    blocks * lines * (BLOCK as u32 + 4 * groups)
}

/// Layers of one launch, at most: those of panels.cuh.
pub(crate) const TOGETHER: usize = 3;

fn function_code(then: Option<UnaryFunction>) -> u32 {
    then.map_or(NONE, |function| function as u32)
}

impl Device {
    /// `dot(x[r], w[c])`, then the bias, then the function.
    pub(crate) fn linear(&self, x: &Tensor, layer: Layer<'_>) -> Result<Tensor> {
        let Layer { w, bias, then } = layer;
        if x.rows <= FEW_ROWS {
            return only(self.linears(x, &[layer])?);
        }
        let out = self.tensor(DType::F32, x.rows, w.rows)?;
        let (n, k) = (short(w.rows)?, short(w.cols)?);
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

    /// Layers of the same few rows, weights alike in type and columns, in as few launches as there can be.
    pub(crate) fn linears(&self, x: &Tensor, layers: &[Layer<'_>]) -> Result<Vec<Tensor>> {
        let mut made = Vec::with_capacity(layers.len());
        for layers in layers.chunks(TOGETHER) {
            let outs = layers.iter().map(|layer| self.tensor(DType::F32, x.rows, layer.w.rows));
            let outs = outs.collect::<Result<Vec<_>>>()?;
            let few = self.few(x.rows, layers)?;
            let kernel = match (few.dtype, few.rows) {
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
            let head = args![x, &few.partials, short(x.rows)?, short(few.cols)?];
            self.launch(kernel, few.grid, THREADS, &[head.as_slice(), &layer_args(layers, &outs)?].concat())?;
            made.extend(outs);
        }
        Ok(made)
    }

    /// Whether tiles of 128 keep the device busy; else smaller ones do better.
    fn wide(&self, rows: usize, outputs: usize) -> bool {
        rows.div_ceil(128) * outputs.div_ceil(128) >= self.multiprocessors()
    }

    /// How contractions of few rows are cut.
    fn few(&self, rows: usize, layers: &[Layer<'_>]) -> Result<Few> {
        /// Warps of a block of threads, each with a block of products at a time.
        const WARPS: usize = 8;
        /// Blocks of threads that a multiprocessor should have to hide the latency of memory.
        const BUSY: usize = 4;
        let kind = |layer: &Layer<'_>| (layer.w.dtype, layer.w.cols);
        let Some((dtype, cols)) = layers.first().map(kind).filter(|first| layers.iter().all(|l| kind(l) == *first))
        else {
            return Err(DeviceError::Failed("layers that do not go together".to_string()));
        };
        let each = rows.next_power_of_two().min(8);
        let groups = rows.div_ceil(each);
        let panels: usize = layers.iter().map(|layer| layer.w.rows.div_ceil(WARP)).sum();
        let blocks = cols.div_ceil(BLOCK);
        let wanted = (BUSY * self.multiprocessors()).div_ceil(panels * groups);
        let splits = wanted.clamp(1, blocks.div_ceil(WARPS).max(1));
        let partials = self.allocate(groups * blocks * each * panels * WARP * 4)?;
        let grid = [short(panels)?, short(splits)?, short(groups)?];
        Ok(Few { dtype, cols, rows: each, grid, partials })
    }

    /// Room for quantised rows.
    pub(super) fn quantised_room(&self, rows: usize, cols: usize, group: usize) -> Result<Quantised> {
        let magnitudes = self.tensor(DType::F32, rows, cols.div_ceil(group))?;
        Ok(Quantised { q: self.tensor(DType::I8, rows, cols)?, magnitudes })
    }

    /// Rows quantised in groups of `group` columns.
    pub(crate) fn quantised_groups(&self, x: &Tensor, group: usize) -> Result<Quantised> {
        let quantised = self.quantised_room(x.rows, x.cols, group)?;
        let head = args![x, x.rows as u64, short(x.cols)?];
        let args = [head.as_slice(), &group_args(Some(&quantised), group)?].concat();
        self.over(kernel::quantise_groups, span_threads(x), &args)?;
        Ok(quantised)
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
    pub(crate) fn quantised_linear(&self, x: &Quantised, layer: Layer<'_>) -> Result<Tensor> {
        let (Quantised { q, magnitudes }, Layer { w, bias, then }) = (x, layer);
        if q.rows <= FEW_ROWS {
            return only(self.quantised_linears(x, &[layer])?);
        }
        let out = self.tensor(DType::F32, q.rows, w.rows)?;
        // Tiles load sixteen bytes of a row at once.
        if w.cols.is_multiple_of(16) {
            let Tile { kernel, threads, count } = self.quantised_tile(w.dtype, q.rows, w.rows);
            let ends = args![short(q.rows)?, short(w.rows)?, short(w.cols)?, function_code(then)];
            let args = args![&out, q, magnitudes, &w.values, address(w.scales.as_ref()), address(bias)];
            self.launch(kernel, [short(count)?, 1, 1], threads, &[args.as_slice(), ends].concat())?;
            return Ok(out);
        }
        for (first, rows) in slices(q.rows, MOST_FEW) {
            let x = Quantised { q: q.narrowed(first, rows)?, magnitudes: magnitudes.narrowed(first, rows)? };
            self.quantised_few(&x, &[layer], &[out.narrowed(first, rows)?])?;
        }
        Ok(out)
    }

    /// The largest tiles that the device has the shared memory for and that keep it busy, or the smallest.
    fn quantised_tile(&self, dtype: WeightType, rows: usize, outputs: usize) -> Tile {
        let tile = |kernel, height, width, threads| {
            let count = rows.div_ceil(height) * outputs.div_ceil(width);
            Tile { kernel, threads, count }
        };
        let kernels = match dtype {
            WeightType::Q8_0 => {
                [kernel::quantised_q8_0_tile256, kernel::quantised_q8_0_tile128, kernel::quantised_q8_0_tile64]
            }
            _ => [kernel::quantised_q8_128_tile256, kernel::quantised_q8_128_tile128, kernel::quantised_q8_128_tile64],
        };
        let [large, medium, small] = kernels;
        let fits = |tile: &Tile| tile.kernel.shared <= self.shared() && tile.count >= self.multiprocessors();
        let larger = [tile(large, 128, 256, 256), tile(medium, 128, 128, 128)];
        larger.into_iter().find(fits).unwrap_or_else(|| tile(small, 64, 128, 128))
    }

    /// As [`Device::linears`].
    pub(crate) fn quantised_linears(&self, x: &Quantised, layers: &[Layer<'_>]) -> Result<Vec<Tensor>> {
        let mut made = Vec::with_capacity(layers.len());
        for layers in layers.chunks(TOGETHER) {
            let outs = layers.iter().map(|layer| self.tensor(DType::F32, x.q.rows, layer.w.rows));
            let outs = outs.collect::<Result<Vec<_>>>()?;
            self.quantised_few(x, layers, &outs)?;
            made.extend(outs);
        }
        Ok(made)
    }

    /// Some rows of layers, into `outs`.
    fn quantised_few(&self, x: &Quantised, layers: &[Layer<'_>], outs: &[Tensor]) -> Result<()> {
        let few = self.few(x.q.rows, layers)?;
        let kernel = match (few.dtype, few.rows) {
            (WeightType::Q8_0, 1) => kernel::quantised_q8_0_1,
            (WeightType::Q8_0, 2) => kernel::quantised_q8_0_2,
            (WeightType::Q8_0, 4) => kernel::quantised_q8_0_4,
            (WeightType::Q8_0, _) => kernel::quantised_q8_0_8,
            (_, 1) => kernel::quantised_q8_128_1,
            (_, 2) => kernel::quantised_q8_128_2,
            (_, 4) => kernel::quantised_q8_128_4,
            (_, _) => kernel::quantised_q8_128_8,
        };
        let head = args![&x.q, &x.magnitudes, &few.partials, short(x.q.rows)?, short(few.cols)?];
        self.launch(kernel, few.grid, THREADS, &[head.as_slice(), &layer_args(layers, outs)?].concat())
    }
}

/// A layer: weights, a bias, the function that follows.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) w: &'a Packed,
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) then: Option<UnaryFunction>,
}

impl<'a> Layer<'a> {
    /// Weights only.
    pub(crate) fn of(w: &'a Packed) -> Self {
        Self { w, bias: None, then: None }
    }
}

/// Quantised activations: bytes and the magnitudes of their groups.
pub(crate) struct Quantised {
    pub(crate) q: Tensor,
    pub(crate) magnitudes: Tensor,
}

/// Threads of a launch with a warp to each span of each row.
pub(super) fn span_threads(x: &Tensor) -> usize {
    x.rows * x.cols.div_ceil(SPAN) * WARP
}

/// `GROUP_PARAMETERS` of groups.cuh: where a launch leaves its rows quantised, if it does.
pub(super) fn group_args(quantised: Option<&Quantised>, group: usize) -> Result<[Arg; 3]> {
    let (magnitudes, q) = (quantised.map(|to| &to.magnitudes), quantised.map(|to| &to.q));
    Ok([address(magnitudes), address(q), short(group)?.into()])
}

fn only(made: Vec<Tensor>) -> Result<Tensor> {
    made.into_iter().next().ok_or_else(|| DeviceError::Failed("a layer without a result".to_string()))
}

/// `LAYER_PARAMETERS` of panels.cuh, of as many layers as a launch has room for.
fn layer_args(layers: &[Layer<'_>], outs: &[Tensor]) -> Result<Vec<Arg>> {
    let mut all = Vec::with_capacity(7 * TOGETHER);
    for (Layer { w, bias, then }, out) in layers.iter().zip(outs) {
        let counters = &w.counters;
        all.extend(args![out, &w.values, address(w.scales.as_ref()), address(*bias), counters, short(w.rows)?]);
        all.push(function_code(*then).into());
    }
    for _ in layers.len()..TOGETHER {
        all.extend([Arg::Address(0); 5]);
        all.extend([Arg::U32(0); 2]);
    }
    Ok(all)
}

/// How a contraction of many rows is cut: into `count` blocks of threads.
struct Tile {
    kernel: Kernel,
    threads: u32,
    count: usize,
}

struct Few {
    /// Of the weights.
    dtype: WeightType,
    cols: usize,
    /// Rows that a warp holds: 1, 2, 4 or 8.
    rows: usize,
    grid: [u32; 3],
    partials: Rc<Buffer>,
}

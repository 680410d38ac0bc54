//! Contractions with weights: which kernel for how many rows.

use super::{BLOCK, MOST_FEW, Operand, Result, SPAN, THREADS, WARP, address, kernel, request_stride, short, slices};
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

/// Tiles of bytes load sixteen of a row at once.
pub(crate) const TILE_COLUMNS: usize = 16;

/// How a contraction of many rows is cut: into tiles, one to a block of threads.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    kernel: Kernel,
    rows: usize,
    outputs: usize,
    threads: u32,
}

impl Tiles {
    const fn new(kernel: Kernel, rows: usize, outputs: usize, threads: u32) -> Self {
        Self { kernel, rows, outputs, threads }
    }

    fn count(&self, rows: usize, outputs: usize) -> usize {
        rows.div_ceil(self.rows) * outputs.div_ceil(self.outputs)
    }

    fn grid(&self, rows: usize, outputs: usize) -> Result<[u32; 3]> {
        Ok([short(self.count(rows, outputs))?, 1, 1])
    }
}

/// The tiles that there are for weights of a type: the larger ones, the largest first, and the smallest.
pub(crate) fn tiles(dtype: WeightType) -> (&'static [Tiles], Tiles) {
    macro_rules! tiles {
        ($($kernel:ident $rows:literal x $outputs:literal by $threads:literal),*; $smallest:ident $r:literal x $o:literal by $t:literal) => {
            (
                const { &[$(Tiles::new(kernel::$kernel, $rows, $outputs, $threads)),*] },
                const { Tiles::new(kernel::$smallest, $r, $o, $t) },
            )
        };
    }
    match dtype {
        WeightType::F16 => tiles!(linear_f16_tile128 128 x 128 by 256; linear_f16_tile64 64 x 64 by 256),
        WeightType::Bf16 => tiles!(linear_bf16_tile128 128 x 128 by 256; linear_bf16_tile64 64 x 64 by 256),
        WeightType::Q8_0 => tiles!(
            quantised_q8_0_tile256 128 x 256 by 256, quantised_q8_0_tile128 128 x 128 by 128;
            quantised_q8_0_tile64 64 x 128 by 128
        ),
        WeightType::Q8_128 => tiles!(
            quantised_q8_128_tile256 128 x 256 by 256, quantised_q8_128_tile128 128 x 128 by 128;
            quantised_q8_128_tile64 64 x 128 by 128
        ),
        _ => tiles!(linear_f32_tile128 128 x 128 by 256; linear_f32_tile64 64 x 64 by 256),
    }
}

/// Layers of one launch, at most: those of panels.cuh.
pub(crate) const TOGETHER: usize = 3;

fn function_code(then: Option<UnaryFunction>) -> u32 {
    then.map_or(NONE, |function| function as u32)
}

impl Device {
    /// `dot(x[r], w[c])`, then the bias, then the function.
    pub(crate) fn linear(&self, x: &Tensor, layer: Layer<'_>) -> Result<Tensor> {
        let w = layer.w;
        if x.rows <= FEW_ROWS {
            return only(self.linears(x, &[layer])?);
        }
        self.linear_by(self.tiles_for(w.dtype, x.rows, w.rows), x, layer)
    }

    /// The same in given tiles of floats.
    pub(crate) fn linear_by(&self, tiles: Tiles, x: &Tensor, layer: Layer<'_>) -> Result<Tensor> {
        let Layer { w, bias, then } = layer;
        let out = self.tensor(DType::F32, x.rows, w.rows)?;
        let (m, n, k) = (short(x.rows)?, short(w.rows)?, short(w.cols)?);
        let args = args![&out, x, &w.values, address(bias), m, n, k, function_code(then)];
        self.launch(tiles.kernel, tiles.grid(x.rows, w.rows)?, tiles.threads, args)?;
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

    /// The largest tiles that the device has the shared memory for and that keep it busy, or the smallest.
    fn tiles_for(&self, dtype: WeightType, rows: usize, outputs: usize) -> Tiles {
        let (larger, smallest) = tiles(dtype);
        let busy = |tiles: &Tiles| tiles.count(rows, outputs) >= self.multiprocessors();
        larger.iter().copied().find(|tiles| self.has_room_for(tiles) && busy(tiles)).unwrap_or(smallest)
    }

    /// Whether a block of threads can have the shared memory that tiles need.
    pub(crate) fn has_room_for(&self, tiles: &Tiles) -> bool {
        tiles.kernel.shared <= self.shared()
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
        let (Quantised { q, magnitudes }, w) = (x, layer.w);
        if q.rows <= FEW_ROWS {
            return only(self.quantised_linears(x, &[layer])?);
        }
        if w.cols.is_multiple_of(TILE_COLUMNS) {
            return self.quantised_linear_by(self.tiles_for(w.dtype, q.rows, w.rows), x, layer);
        }
        let out = self.tensor(DType::F32, q.rows, w.rows)?;
        for (first, rows) in slices(q.rows, MOST_FEW) {
            let x = Quantised { q: q.narrowed(first, rows)?, magnitudes: magnitudes.narrowed(first, rows)? };
            self.quantised_few(&x, &[layer], &[out.narrowed(first, rows)?])?;
        }
        Ok(out)
    }

    /// The same in given tiles of bytes, of as many columns as they take.
    pub(crate) fn quantised_linear_by(&self, tiles: Tiles, x: &Quantised, layer: Layer<'_>) -> Result<Tensor> {
        let (Quantised { q, magnitudes }, Layer { w, bias, then }) = (x, layer);
        let out = self.tensor(DType::F32, q.rows, w.rows)?;
        let args = args![&out, q, magnitudes, &w.values, address(w.scales.as_ref()), address(bias)];
        let shape = args![short(q.rows)?, short(w.rows)?, short(w.cols)?, function_code(then)];
        let grid = tiles.grid(q.rows, w.rows)?;
        self.launch(tiles.kernel, grid, tiles.threads, &[args.as_slice(), shape].concat())?;
        Ok(out)
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

struct Few {
    /// Of the weights.
    dtype: WeightType,
    cols: usize,
    /// Rows that a warp holds: 1, 2, 4 or 8.
    rows: usize,
    grid: [u32; 3],
    partials: Rc<Buffer>,
}

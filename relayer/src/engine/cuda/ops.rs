//! Graph operations as launches: which kernel, how many threads, which parameters.

use super::driver::{Arg, DeviceError, Kernel};
use super::memory::{Buffer, Device, Tensor};
use super::weights::Packed;
use crate::engine::kernels::rows::Reduction;
use crate::engine::ops::Extent;
use candor_sdk::program::{BinaryFunction, DType, UnaryFunction, WeightType};
use std::rc::Rc;

pub(super) type Result<T> = std::result::Result<T, DeviceError>;

macro_rules! kernels {
    ($($module:ident: $($name:ident)*;)*) => {
        /// Every kernel there is, by source file.
        #[allow(missing_docs, non_upper_case_globals)] // named as in their sources, which say what they do
        pub mod kernel {
            use super::super::driver::Kernel;
            $($(pub const $name: Kernel = Kernel { module: stringify!($module), name: stringify!($name) };)*)*

            /// All of them.
            pub const ALL: &[Kernel] = &[$($($name,)*)*];
            /// The source files.
            pub const MODULES: &[&str] = &[$(stringify!($module),)*];
        }
    };
}

kernels! {
    elementwise: unary_all binary_all binary_alike mul_add_all select_all convert_all rope_all;
    index: view_words view_bytes move_words concat_bytes gather_rows gather_packed take_words take_bytes encode_words;
    reduce: reduce_narrow reduce_wide argmax_rows rms_norm layer_norm softmax;
    linear: linear_f32_1 linear_f32_2 linear_f32_4 linear_f32_8 linear_f16_1 linear_f16_2 linear_f16_4 linear_f16_8
        linear_bf16_1 linear_bf16_2 linear_bf16_4 linear_bf16_8 linear_f32_tile64 linear_f32_tile128 linear_f16_tile64
        linear_f16_tile128 linear_bf16_tile64 linear_bf16_tile128;
    quantised: quantise_groups quantise_all quantised_q8_0_1 quantised_q8_0_2 quantised_q8_0_4 quantised_q8_0_8
        quantised_q8_128_1 quantised_q8_128_2 quantised_q8_128_4 quantised_q8_128_8 quantised_q8_0_tile
        quantised_q8_128_tile;
    attention: attention_scores attention_mixes attention_quotients attention_mix_plain append_rows;
    tokens: perturb check_generated check_length token_lengths prefix_sums detokenise;
    pack: pack_floats pack_quantised widen_floats widen_quantised;
    keccak: hash_leaves hash_pairs;
}

/// No function follows: `NONE` of arithmetic.cuh.
const NONE: u32 = 255;
/// Threads of a block where any number would do.
const THREADS: u32 = 256;
/// Blocks of a grid whose threads walk on until all is done.
const MOST_BLOCKS: usize = 1 << 16;
/// Lanes of a warp, outputs of a panel.
const WARP: usize = 32;
/// Products of a block of a contraction.
const BLOCK: usize = 128;
/// Rows up to which a contraction is bound by memory, and reads each weight once for all rows that a warp can hold.
const FEW_ROWS: usize = 16;
/// Rows of one launch of the kernels for few rows, where there is no other.
pub(super) const MOST_FEW: usize = 128;
/// Queries that share what is loaded of the keys.
const QUERIES: usize = 8;
/// The most blocks of a grid along its second and third axis.
const MOST_ACROSS: usize = 65_535;
/// Bytes of scores and mixes of attention at a time.
const ATTENTION_BYTES: usize = 256 << 20;

impl From<&Tensor> for Arg {
    fn from(tensor: &Tensor) -> Self {
        Self::Address(tensor.address())
    }
}

impl From<&Rc<Buffer>> for Arg {
    fn from(buffer: &Rc<Buffer>) -> Self {
        Self::Address(buffer.address())
    }
}

impl From<u32> for Arg {
    fn from(number: u32) -> Self {
        Self::U32(number)
    }
}

impl From<u64> for Arg {
    fn from(number: u64) -> Self {
        Self::U64(number)
    }
}

impl From<f32> for Arg {
    fn from(number: f32) -> Self {
        Self::F32(number)
    }
}

/// Parameters of a launch.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$(Arg::from($arg)),*] };
}

/// A length, row or column as kernels take it: tensors have less than 2^32 of each.
pub(super) fn short(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| DeviceError::Failed(format!("{n} rows or columns are more than kernels count")))
}

fn address<T>(x: Option<&T>) -> Arg
where
    for<'a> Arg: From<&'a T>,
{
    x.map_or(Arg::Address(0), Arg::from)
}

/// A grid of enough blocks for `count` threads.
fn blocks_for(count: usize, threads: usize) -> Result<[u32; 3]> {
    Ok([short(count.div_ceil(threads).clamp(1, MOST_BLOCKS))?, 1, 1])
}

fn function_code(then: Option<UnaryFunction>) -> u32 {
    then.map_or(NONE, |function| function as u32)
}

/// An operand with the shape it has in a request.
pub(super) type Operand<'a> = (&'a Tensor, Extent);

/// How an operand is broadcast to a result of `cols` columns: strides of request and row, and how many columns each of its
/// columns serves.
fn broadcast((x, extent): Operand<'_>, cols: usize) -> Result<[Arg; 4]> {
    let request = if extent.shared { 0 } else { extent.len() };
    let row = if extent.rows == 1 { 0 } else { extent.cols };
    Ok([x.into(), short(request)?.into(), short(row)?.into(), short(cols / extent.cols)?.into()])
}

/// Distance between requests, in elements.
fn request_stride(extent: Extent) -> u64 {
    if extent.shared { 0 } else { extent.len() as u64 }
}

impl Device {
    fn over(&self, kernel: Kernel, count: usize, args: &[Arg]) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.launch(kernel, blocks_for(count, THREADS as usize)?, THREADS, args)
    }

    /// `f(x)` of every element.
    pub(super) fn unary(&self, function: UnaryFunction, x: &Tensor) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        self.over(kernel::unary_all, x.len(), args![&out, x, x.len() as u64, function as u32])?;
        Ok(out)
    }

    /// `f(x, y)` of every element, broadcast.
    pub(super) fn binary(
        &self,
        function: BinaryFunction,
        causal: u32,
        batch: usize,
        out: Extent,
        (x, y): (Operand<'_>, Operand<'_>),
    ) -> Result<Tensor> {
        let result = self.tensor(DType::F32, batch * out.rows, out.cols)?;
        let alike = |(_, e): Operand<'_>| (e.rows, e.cols) == (out.rows, out.cols) && (!e.shared || batch == 1);
        if causal == 0 && alike(x) && alike(y) {
            let count = result.len();
            self.over(kernel::binary_alike, count, args![&result, x.0, y.0, count as u64, function as u32])?;
            return Ok(result);
        }
        let shape = args![&result, result.len() as u64, short(out.rows)?, short(out.cols)?, function as u32, causal];
        let args = [shape.as_slice(), &broadcast(x, out.cols)?, &broadcast(y, out.cols)?].concat();
        self.over(kernel::binary_all, result.len(), &args)?;
        Ok(result)
    }

    /// `fma(x, y, z)` or `x != 0 ? y : z` of every element, broadcast.
    pub(super) fn ternary(&self, select: bool, batch: usize, out: Extent, xyz: [Operand<'_>; 3]) -> Result<Tensor> {
        let result = self.tensor(DType::F32, batch * out.rows, out.cols)?;
        let mut args = args![&result, result.len() as u64, short(out.rows)?, short(out.cols)?].to_vec();
        for operand in xyz {
            args.extend(broadcast(operand, out.cols)?);
        }
        self.over(if select { kernel::select_all } else { kernel::mul_add_all }, result.len(), &args)?;
        Ok(result)
    }

    /// Integers as f32.
    pub(super) fn convert(&self, x: &Tensor) -> Result<Tensor> {
        let kind: u32 = match x.dtype {
            DType::F32 => return Ok(x.clone()),
            DType::U32 => 0,
            DType::U8 => 1,
            DType::I8 => 2,
        };
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        self.over(kernel::convert_all, x.len(), args![&out, x, x.len() as u64, kind])?;
        Ok(out)
    }

    /// Rotary embedding; `positions` are those of the rows, else the row within its request.
    pub(super) fn rope(
        &self,
        (head, rotary): (u32, u32),
        batch: usize,
        (x, extent): Operand<'_>,
        [cos, sin]: [Operand<'_>; 2],
        positions: Option<&Rc<Buffer>>,
    ) -> Result<Tensor> {
        let spread = self.spread((x, extent), batch)?;
        let out = self.tensor(DType::F32, spread.rows, spread.cols)?;
        let args = args![
            &out,
            &spread,
            cos.0,
            sin.0,
            address(positions),
            out.len() as u64,
            short(extent.rows)?,
            short(extent.cols)?,
            head,
            rotary,
            short(request_stride(cos.1) as usize)?,
            short(request_stride(sin.1) as usize)?,
        ];
        self.over(kernel::rope_all, out.len(), args)?;
        Ok(out)
    }

    /// A tensor that all requests share, once for each of them.
    pub(super) fn spread(&self, (x, extent): Operand<'_>, batch: usize) -> Result<Tensor> {
        if !extent.shared || batch <= 1 {
            return Ok(x.clone());
        }
        let out = self.tensor(x.dtype, batch * x.rows, x.cols)?;
        for request in 0..batch {
            self.copy_into(&out, request * x.rows, x)?;
        }
        Ok(out)
    }

    /// Copies `x` over the rows of `out` from `row` on; columns are alike.
    pub(super) fn copy_into(&self, out: &Tensor, row: usize, x: &Tensor) -> Result<()> {
        let to = out.narrowed(row, x.rows)?;
        match x.byte_len() {
            0 => Ok(()),
            bytes => self.with(|driver| driver.copy(to.address(), x.address(), bytes)),
        }
    }

    /// Tensors of equal columns below each other.
    pub(super) fn stacked(&self, parts: &[Tensor]) -> Result<Tensor> {
        let Some(first) = parts.first() else { return Err(DeviceError::Failed("nothing to stack".to_string())) };
        if parts.len() == 1 {
            return Ok(first.clone());
        }
        let out = self.tensor(first.dtype, parts.iter().map(|part| part.rows).sum(), first.cols)?;
        let mut row = 0;
        for part in parts {
            self.copy_into(&out, row, part)?;
            row += part.rows;
        }
        Ok(out)
    }

    /// A view; `map` is `ViewMap` of index.cu.
    pub(super) fn view(
        &self,
        map: &Rc<Buffer>,
        fill: u32,
        batch: usize,
        out: Extent,
        (x, extent): Operand<'_>,
    ) -> Result<Tensor> {
        let result = self.tensor(x.dtype, batch * out.rows, out.cols)?;
        let kernel = if x.dtype.size() == 4 { kernel::view_words } else { kernel::view_bytes };
        let args = args![
            &result,
            x,
            map,
            result.len() as u64,
            short(out.rows)?,
            short(out.cols)?,
            short(extent.cols)?,
            request_stride(extent),
            fill,
        ];
        self.over(kernel, result.len(), args)?;
        Ok(result)
    }

    /// Elements moved within each position: `table` says where the `per x cols` elements of one come from among `x_size`.
    pub(super) fn moved(
        &self,
        table: &Rc<Buffer>,
        fill: u32,
        (positions, per, cols): (usize, usize, usize),
        x: &Tensor,
    ) -> Result<Tensor> {
        if x.dtype.size() != 4 {
            return Err(DeviceError::Failed("a view of bytes within positions".to_string()));
        }
        let out = self.tensor(x.dtype, positions * per, cols)?;
        let x_size = short(x.len() / positions.max(1))?;
        let args = args![&out, x, table, out.len() as u64, short(per * cols)?, x_size, fill];
        self.over(kernel::move_words, out.len(), args)?;
        Ok(out)
    }

    /// Operands side by side, or below each other, request by request.
    pub(super) fn concat(&self, cols: bool, batch: usize, out: Extent, parts: &[Operand<'_>]) -> Result<Tensor> {
        let Some((first, _)) = parts.first() else { return Err(DeviceError::Failed("nothing to concat".to_string())) };
        let size = first.dtype.size();
        let result = self.tensor(first.dtype, batch * out.rows, out.cols)?;
        let (mut top, mut left) = (0, 0);
        for &(x, extent) in parts {
            let width = extent.cols * size;
            let count = batch * extent.rows * width;
            let args = args![
                &result,
                x,
                count as u64,
                short(extent.rows)?,
                short(width)?,
                short(top)?,
                short(left)?,
                short(out.rows)?,
                short(out.cols * size)?,
                request_stride(extent) * size as u64,
            ];
            self.over(kernel::concat_bytes, count, args)?;
            if cols {
                left += width;
            } else {
                top += extent.rows;
            }
        }
        Ok(result)
    }

    /// Rows of a table that nodes compute.
    pub(super) fn gather_rows(&self, batch: usize, ids: Operand<'_>, table: Operand<'_>) -> Result<Tensor> {
        let size = table.0.dtype.size();
        let (rows, width) = (ids.1.rows, table.1.cols * size);
        let out = self.tensor(table.0.dtype, batch * rows, table.1.cols)?;
        let args = args![
            &out,
            ids.0,
            short(ids.0.dtype.size())?,
            table.0,
            out.byte_len() as u64,
            short(rows)?,
            short(width)?,
            short(table.1.rows)?,
            request_stride(ids.1),
            request_stride(table.1) * size as u64,
        ];
        self.over(kernel::gather_rows, out.byte_len(), args)?;
        Ok(out)
    }

    /// Rows of a weight, widened.
    pub(super) fn gather_packed(&self, ids: &Tensor, table: &Packed) -> Result<Tensor> {
        let out = self.tensor(DType::F32, ids.len(), table.cols)?;
        let args = args![
            &out,
            ids,
            short(ids.dtype.size())?,
            &table.values,
            address(table.scales.as_ref()),
            out.len() as u64,
            short(table.cols)?,
            short(table.rows)?,
            table.dtype as u32,
        ];
        self.over(kernel::gather_packed, out.len(), args)?;
        Ok(out)
    }

    /// `x[r, columns[c]]`.
    pub(super) fn take(&self, batch: usize, (x, extent): Operand<'_>, columns: Operand<'_>) -> Result<Tensor> {
        let out = self.tensor(x.dtype, batch * extent.rows, columns.1.cols)?;
        let kernel = if x.dtype.size() == 4 { kernel::take_words } else { kernel::take_bytes };
        let args = args![
            &out,
            x,
            columns.0,
            out.len() as u64,
            short(extent.rows)?,
            short(columns.1.cols)?,
            short(extent.cols)?,
            request_stride(extent),
            request_stride(columns.1),
        ];
        self.over(kernel, out.len(), args)?;
        Ok(out)
    }

    /// Big-endian bytes of each request: `[batch, bytes]`.
    pub(super) fn encode(&self, x: &Tensor, batch: usize) -> Result<Tensor> {
        if x.dtype.size() == 1 {
            return x.reshaped(batch, x.len() / batch);
        }
        let out = self.tensor(DType::U8, batch, 4 * x.len() / batch)?;
        self.over(kernel::encode_words, x.len(), args![&out, x, x.len() as u64])?;
        Ok(out)
    }

    /// A number for each row.
    pub(super) fn reduce(&self, reduction: Reduction, causal: u32, (x, extent): Operand<'_>) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, 1)?;
        let kind: u32 = match reduction {
            Reduction::Sum => 0,
            Reduction::SumSquares => 1,
            Reduction::Max => 2,
        };
        let args = args![&out, x, short(x.rows)?, short(extent.rows)?, short(x.cols)?, causal, kind];
        if x.cols > 1024 {
            self.launch(kernel::reduce_wide, [short(x.rows)?, 1, 1], 512, args)?;
        } else {
            let rows_per_block = THREADS as usize / WARP;
            self.launch(kernel::reduce_narrow, [short(x.rows.div_ceil(rows_per_block))?, 1, 1], THREADS, args)?;
        }
        Ok(out)
    }

    /// The index of each row's greatest element.
    pub(super) fn argmax(&self, x: &Tensor) -> Result<Tensor> {
        let out = self.tensor(DType::U32, x.rows, 1)?;
        let threads = short(x.cols.next_power_of_two().clamp(WARP, 1024))?;
        self.launch(kernel::argmax_rows, [short(x.rows)?, 1, 1], threads, args![&out, x, short(x.cols)?])?;
        Ok(out)
    }

    /// RMS norm, or layer norm if there is a bias.
    pub(super) fn norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, epsilon: f32) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        let (grid, threads) = ([short(x.rows)?, 1, 1], row_threads(x.cols)?);
        match bias {
            None => self.launch(kernel::rms_norm, grid, threads, args![&out, x, weight, short(x.cols)?, epsilon])?,
            Some(bias) => {
                let args = args![&out, x, weight, bias, short(x.cols)?, epsilon];
                self.launch(kernel::layer_norm, grid, threads, args)?;
            }
        }
        Ok(out)
    }

    /// Softmax of each row.
    pub(super) fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        self.launch(kernel::softmax, [short(x.rows)?, 1, 1], row_threads(x.cols)?, args![&out, x, short(x.cols)?])?;
        Ok(out)
    }

    /// `dot(x[r], w[c])`, then the bias, then the function.
    pub(super) fn linear(
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
    pub(super) fn quantised_groups(&self, x: &Tensor, group: usize, bytes: bool) -> Result<(Tensor, Option<Tensor>)> {
        let magnitudes = self.tensor(DType::F32, x.rows, x.cols.div_ceil(group))?;
        let q = bytes.then(|| self.tensor(DType::I8, x.rows, x.cols)).transpose()?;
        let count = magnitudes.len();
        let args = args![&magnitudes, address(q.as_ref()), x, count as u64, short(x.cols)?, short(group)?];
        self.over(kernel::quantise_groups, count * WARP, args)?;
        Ok((magnitudes, q))
    }

    /// Bytes of elements by magnitudes that are given.
    pub(super) fn quantise(&self, group: u32, batch: usize, x: Operand<'_>, magnitudes: Operand<'_>) -> Result<Tensor> {
        let (rows, cols) = (x.1.rows, x.1.cols);
        let out = self.tensor(DType::I8, batch * rows, cols)?;
        let shape = args![&out, x.0, magnitudes.0, out.len() as u64, short(rows)?, short(cols)?, group];
        let args = [shape.as_slice(), args![request_stride(x.1), request_stride(magnitudes.1)]].concat();
        self.over(kernel::quantise_all, out.len(), &args)?;
        Ok(out)
    }

    /// The quantised contraction of bytes and magnitudes with quantised weights.
    pub(super) fn quantised_linear(
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

    /// Attention of rows of queries over the keys and values that their tiles name.
    pub(super) fn attention(&self, queries: &Tensor, shape: &Heads, rows: &AttentionRows) -> Result<Tensor> {
        let Heads { heads, group, key_width, value_width, .. } = *shape;
        let out = self.tensor(DType::F32, queries.rows, heads * value_width)?;
        let (stride, blocks) = (rows.longest, rows.longest.div_ceil(BLOCK));
        let row_bytes = 4 * (stride + blocks * (1 + value_width)) * heads;
        let (h, g, s) = (short(heads)?, short(group)?, short(stride)?);
        for part in rows.parts((ATTENTION_BYTES / row_bytes.max(1)).max(1)) {
            let lines = part.rows * heads;
            let scores = self.allocate(4 * lines * stride)?;
            let maxima = self.allocate(4 * lines * blocks)?;
            let mixes = self.allocate(4 * lines * blocks * value_width)?;
            let (table, base) = (rows.table(&part), short(part.first_row)?);
            let grid = [short(blocks)?, short(heads / group)?, short(part.tiles)?];
            let shape_args = args![h, g, short(key_width)?, s, base, shape.scale, 0u32];
            let args = [args![&scores, &maxima, queries, table, &rows.extents].as_slice(), shape_args].concat();
            self.launch(kernel::attention_scores, grid, 128, &args)?;
            let shape_args = args![h, g, short(value_width)?, s, base];
            let args = [args![&mixes, &scores, &maxima, table, &rows.extents].as_slice(), shape_args].concat();
            self.launch(kernel::attention_mixes, grid, 128, &args)?;
            let args = args![&out, &mixes, &scores, &rows.extents, h, short(value_width)?, s, base];
            self.launch(kernel::attention_quotients, [short(lines)?, 1, 1], 128, args)?;
        }
        Ok(out)
    }

    /// Scores by themselves: row `i * heads + h`, column `j`, +0 where a causal row does not see.
    pub(super) fn attention_scores(&self, queries: &Tensor, shape: &Heads, rows: &AttentionRows) -> Result<Tensor> {
        let Heads { heads, group, key_width, .. } = *shape;
        let out = self.tensor(DType::F32, queries.rows * heads, rows.longest)?;
        for part in rows.parts(usize::MAX) {
            let grid = [short(rows.longest.div_ceil(BLOCK))?, short(heads / group)?, short(part.tiles)?];
            let args = args![
                &out,
                Arg::Address(0),
                queries,
                rows.table(&part),
                &rows.extents,
                short(heads)?,
                short(group)?,
                short(key_width)?,
                short(rows.longest)?,
                0u32,
                shape.scale,
                1u32,
            ];
            self.launch(kernel::attention_scores, grid, 128, args)?;
        }
        Ok(out)
    }

    /// The mix by itself, of weights and transposed values.
    pub(super) fn attention_mix(
        &self,
        (heads, group, causal): (u32, u32, bool),
        batch: usize,
        out: Extent,
        (x, y): (Operand<'_>, Operand<'_>),
    ) -> Result<Tensor> {
        let result = self.tensor(DType::F32, batch * out.rows, out.cols)?;
        let args = args![
            &result,
            x.0,
            y.0,
            result.len() as u64,
            short(out.rows)?,
            heads,
            group,
            short(out.cols)? / heads,
            short(x.1.cols)?,
            u32::from(causal),
            request_stride(x.1),
            request_stride(y.1),
        ];
        if !result.is_empty() {
            self.launch(kernel::attention_mix_plain, blocks_for(result.len(), 128)?, 128, args)?;
        }
        Ok(result)
    }

    /// Appends rows to caches; both tables have an entry for each row.
    pub(super) fn append_rows(&self, caches: Arg, positions: &Rc<Buffer>, x: &Tensor) -> Result<()> {
        self.over(kernel::append_rows, x.len(), args![caches, positions, x, x.len() as u64, short(x.cols)?])
    }

    /// Multiprocessors of the device.
    pub(super) fn multiprocessors(&self) -> usize {
        self.with(|driver| driver.describe().multiprocessors as usize).max(1)
    }
}

struct Few {
    /// Rows that a warp holds: 1, 2, 4 or 8.
    rows: usize,
    grid: [u32; 3],
    partials: Rc<Buffer>,
}

fn row_threads(cols: usize) -> Result<u32> {
    short(cols.next_multiple_of(WARP).clamp(WARP, 512))
}

/// Consecutive ranges of at most `most` that make up `0 .. rows`.
fn slices(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(most.max(1)).map(move |first| (first, most.min(rows - first)))
}

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Of queries.
    pub(super) heads: usize,
    /// That share one of keys.
    pub(super) group: usize,
    /// Columns of a head of keys.
    pub(super) key_width: usize,
    /// Columns of a head of values.
    pub(super) value_width: usize,
    /// What scores are multiplied by.
    pub(super) scale: f32,
}

/// Bytes of `Tile` in attention.cu.
const TILE_BYTES: usize = 24;

/// Which keys and values rows of queries read: the tables of attention.cu.
pub(super) struct AttentionRows {
    tiles: Rc<Buffer>,
    pub(super) extents: Rc<Buffer>,
    /// First row and rows of each tile, in order.
    spans: Vec<(usize, usize)>,
    /// The most positions that a row may see.
    pub(super) longest: usize,
}

/// Rows that share keys and values: where both lie, and how many rows.
pub(super) struct Readers {
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) rows: usize,
}

/// Consecutive tiles that are computed together.
struct Part {
    first: usize,
    tiles: usize,
    first_row: usize,
    rows: usize,
}

impl AttentionRows {
    /// Tables for consecutive rows of queries. `extents` has an entry for each row.
    pub(super) fn new(
        device: &Device,
        group: usize,
        readers: &[Readers],
        extents: Rc<Buffer>,
        longest: usize,
    ) -> Result<Self> {
        // As many rows as fill one load of keys with queries.
        let each = QUERIES.div_ceil(group);
        let (mut spans, mut bytes, mut row) = (Vec::new(), Vec::new(), 0);
        for reader in readers {
            for (first, rows) in slices(reader.rows, each) {
                spans.push((row + first, rows));
                bytes.extend(reader.keys.to_le_bytes());
                bytes.extend(reader.values.to_le_bytes());
                bytes.extend(short(row + first)?.to_le_bytes());
                bytes.extend(short(rows)?.to_le_bytes());
            }
            row += reader.rows;
        }
        Ok(Self { tiles: device.upload(&bytes)?, extents, spans, longest })
    }

    /// All tiles, in parts of at most `most` rows if a tile has no more.
    fn parts(&self, most: usize) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for (tile, &(first_row, rows)) in self.spans.iter().enumerate() {
            match parts.last_mut() {
                Some(part) if part.rows + rows <= most && part.tiles < MOST_ACROSS => {
                    part.tiles += 1;
                    part.rows += rows;
                }
                _ => parts.push(Part { first: tile, tiles: 1, first_row, rows }),
            }
        }
        parts
    }

    fn table(&self, part: &Part) -> Arg {
        Arg::Address(self.tiles.address() + (TILE_BYTES * part.first) as u64)
    }
}

/// A vocabulary on a device: where entries begin, their bytes, how many there are.
type Vocabulary = (Rc<Buffer>, Rc<Buffer>, u32);

fn vocabulary(known: Option<&Vocabulary>) -> Result<&Vocabulary> {
    known.ok_or_else(|| DeviceError::Failed("a model without a vocabulary".to_string()))
}

impl Device {
    /// Logits made ready for argmax; `samplings` has an entry for each row.
    pub(super) fn perturb(&self, x: &Tensor, maxima: &Tensor, samplings: &Rc<Buffer>) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        let args = args![&out, x, maxima, samplings, out.len() as u64, short(x.cols)?];
        self.over(kernel::perturb, out.len(), args)?;
        Ok(out)
    }

    /// Rule P-37 for sequences.
    pub(super) fn check_generated(
        &self,
        batch: usize,
        tokens: Operand<'_>,
        samples: Operand<'_>,
        stop: &[u32],
        limits: impl Iterator<Item = u32>,
        prompt: u32,
    ) -> Result<Tensor> {
        let rows = samples.1.rows;
        let out = self.tensor(DType::U32, batch * rows, 1)?;
        let (stops, limits) = (self.upload_words(stop.iter().copied())?, self.upload_words(limits)?);
        let count = short(stop.len())?;
        let head = args![&out, tokens.0, samples.0, &stops, &limits, count, out.len() as u64, short(rows)?, prompt];
        let args = [head.as_slice(), args![request_stride(tokens.1), request_stride(samples.1)]].concat();
        self.over(kernel::check_generated, out.len(), &args)?;
        Ok(out)
    }

    /// Rule P-37 for the length of a text.
    pub(super) fn check_length(&self, batch: usize, (ends, extent): Operand<'_>, length: u32) -> Result<Tensor> {
        let out = self.tensor(DType::U32, batch, 1)?;
        let args = args![&out, ends, short(batch)?, short(extent.rows)?, request_stride(extent), length];
        self.launch(kernel::check_length, blocks_for(batch, WARP)?, 32, args)?;
        Ok(out)
    }

    /// Bytes of each token's entry.
    pub(super) fn token_lengths(&self, tokens: &Tensor, known: Option<&Vocabulary>) -> Result<Tensor> {
        let (offsets, _, entries) = vocabulary(known)?;
        let out = self.tensor(DType::U32, tokens.rows, 1)?;
        self.over(kernel::token_lengths, out.len(), args![&out, tokens, offsets, out.len() as u64, *entries])?;
        Ok(out)
    }

    /// Running sums of each request's column.
    pub(super) fn prefix_sums(&self, x: &Tensor, rows: usize) -> Result<Tensor> {
        let out = self.tensor(DType::U32, x.rows, 1)?;
        let requests = x.rows / rows;
        let args = args![&out, x, short(requests)?, short(rows)?];
        self.launch(kernel::prefix_sums, blocks_for(requests, WARP)?, 32, args)?;
        Ok(out)
    }

    /// The text of one request.
    pub(super) fn detokenise(
        &self,
        tokens: &Tensor,
        ends: &Tensor,
        known: Option<&Vocabulary>,
        length: usize,
    ) -> Result<Tensor> {
        let (offsets, bytes, entries) = vocabulary(known)?;
        let out = Tensor::in_buffer(self.zeros(length)?, DType::U8, 1, length);
        let args = args![&out, tokens, ends, offsets, bytes, tokens.len() as u64, *entries, short(length)?];
        self.over(kernel::detokenise, tokens.len(), args)?;
        Ok(out)
    }

    /// The root over the leaves of a tensor, as the trace defines it, left on the device; `None` for a tensor without
    /// elements.
    pub(super) fn tensor_root(&self, x: &Tensor) -> Result<Option<Tensor>> {
        /// Elements of a leaf.
        const LEAF: usize = 128;
        if x.is_empty() {
            return Ok(None);
        }
        let size = x.dtype.size();
        let per_row = x.cols.div_ceil(LEAF);
        let mut count = x.rows * per_row;
        let mut level = self.tensor(DType::U8, count, 32)?;
        let args = args![&level, x, count as u64, short(per_row)?, (x.cols * size) as u64, short(LEAF * size)?];
        self.launch(kernel::hash_leaves, blocks_for(count, 128)?, 128, args)?;
        while count > 1 {
            let parents = self.tensor(DType::U8, count.div_ceil(2), 32)?;
            let args = args![&parents, &level, count as u64];
            self.launch(kernel::hash_pairs, blocks_for(parents.rows, 128)?, 128, args)?;
            count = parents.rows;
            level = parents;
        }
        Ok(Some(level))
    }
}

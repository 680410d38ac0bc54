//! Graph operations as launches: which kernel, how many threads, which parameters.

use super::driver::{Arg, DeviceError, Kernel};
use super::memory::{Buffer, Device, Tensor};
use crate::engine::ops::Extent;
use std::rc::Rc;

/// Parameters of a launch.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$(Arg::from($arg)),*] };
}

mod attention;
mod elementwise;
mod index;
mod linear;
mod rows;
mod tokens;
mod trace;

pub(super) use attention::{AttentionRows, Heads, Readers};
pub(super) use linear::{FEW_ROWS, Layer, Quantised, TILE_COLUMNS, TOGETHER, Tiles, tiles};
pub(super) use rows::{Norm, Rows};

pub(super) type Result<T> = std::result::Result<T, DeviceError>;

macro_rules! kernels {
    ($($module:ident: $($name:ident $([$shared:expr])?)*;)*) => {
        /// Every kernel there is, by source file.
        #[allow(missing_docs, non_upper_case_globals)] // named as in their sources, which say what they do
        pub mod kernel {
            use super::super::driver::Kernel;
            use super::linear::staged;
            $($(pub const $name: Kernel =
                Kernel { module: stringify!($module), name: stringify!($name), shared: 0 $(+ $shared)? };)*)*

            /// All of them.
            pub const ALL: &[Kernel] = &[$($($name,)*)*];
            /// The source files.
            pub const MODULES: &[&str] = &[$(stringify!($module),)*];
        }
    };
}

kernels! {
    elementwise: unary_all binary_all binary_alike binary_groups mul_add_all select_all convert_all rope_all;
    index: view_words view_bytes move_words move_bytes concat_bytes gather_rows gather_packed take_words take_bytes encode_words;
    reduce: reduce_narrow reduce_wide argmax_rows rms_norm layer_norm softmax;
    linear: linear_f32_1 linear_f32_2 linear_f32_4 linear_f32_8 linear_f16_1 linear_f16_2 linear_f16_4 linear_f16_8
        linear_bf16_1 linear_bf16_2 linear_bf16_4 linear_bf16_8 linear_f32_tile64 linear_f32_tile128 linear_f16_tile64
        linear_f16_tile128 linear_bf16_tile64 linear_bf16_tile128;
    quantised: quantise_groups quantise_all quantised_q8_0_1 quantised_q8_0_2 quantised_q8_0_4 quantised_q8_0_8
        quantised_q8_128_1 quantised_q8_128_2 quantised_q8_128_4 quantised_q8_128_8;
    quantised_tiles: quantised_q8_0_tile64[staged(2, 64 + 128, 4)] quantised_q8_0_tile128[staged(2, 128 + 128, 4)]
        quantised_q8_0_tile256[staged(2, 128 + 256, 4)] quantised_q8_128_tile64[staged(3, 64 + 128, 1)]
        quantised_q8_128_tile128[staged(3, 128 + 128, 1)] quantised_q8_128_tile256[staged(3, 128 + 256, 1)];
    attention: attention_scores attention_mixes attention_quotients attention_mix_plain append_rows;
    attention_tiles: attention_tile_scores attention_tile_mix;
    tokens: perturb check_generated check_length token_lengths prefix_sums detokenise;
    pack: pack_floats pack_quantised widen_floats widen_quantised;
    keccak: hash_leaves hash_pairs;
}

/// Threads of a block where any number would do.
const THREADS: u32 = 256;
/// Blocks of a grid whose threads walk on until all is done.
const MOST_BLOCKS: usize = 1 << 16;
/// Lanes of a warp, outputs of a panel.
const WARP: usize = 32;
/// Columns that a warp takes at a time of a row that it makes: `SPAN` of groups.cuh.
const SPAN: usize = 128;
/// Products of a block of a contraction.
const BLOCK: usize = 128;
/// Rows of one launch of the kernels for few rows, where there is no other.
pub(super) const MOST_FEW: usize = 128;
/// The most blocks of a grid along its second and third axis.
const MOST_ACROSS: usize = 65_535;

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

/// An operand with the shape it has in a request.
pub(super) type Operand<'a> = (&'a Tensor, Extent);

/// Distance between requests, in elements.
fn request_stride(extent: Extent) -> u64 {
    if extent.shared { 0 } else { extent.len() as u64 }
}

impl Device {
    /// Launches as many threads as there are elements, in blocks of [`THREADS`].
    fn over(&self, kernel: Kernel, count: usize, args: &[Arg]) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.launch(kernel, blocks_for(count, THREADS as usize)?, THREADS, args)
    }
}

/// Consecutive ranges of at most `most` that make up `0 .. rows`.
fn slices(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(most.max(1)).map(move |first| (first, most.min(rows - first)))
}

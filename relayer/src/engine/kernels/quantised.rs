//! Linear layers over int8 weights (rules Q1 to Q6). Sums of a group are exact integers, so the byte instructions of the
//! machine may take them in any order; what follows each group is three ordered scalar operations per output.
//!
//! Weights are packed at load as `[N/16][K/4][16][4]`: four consecutive `k` of sixteen outputs are the 64 bytes that one
//! AVX-512 VNNI instruction, or two AVX2 ones, multiply with four broadcast activations. That instruction takes one side
//! unsigned, so weights are kept 128 too large, and 128 times the sum of a group of activations, one number for all outputs,
//! is what its sums start below zero by.

use super::elementwise::Epilogue;
use super::gemm::{Output, for_each_task};
use super::isa::{Isa, default_float_mode, per_isa};
use candor_sdk::arithmetic::contraction::BLOCK;
use candor_sdk::arithmetic::scalar;
use rayon::prelude::*;

/// Outputs per packed panel.
pub const PANEL: usize = 16;
/// Activations that one instruction takes together.
const STEP: usize = 4;
/// Most rows of a tile.
const ROWS: usize = 8;

/// What is added to a weight, to make it unsigned.
const OFFSET: u8 = 0x80;

/// A packed matrix of `n` outputs and `k` inputs.
#[derive(Clone, Debug)]
pub struct Packed<V, S> {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Elements that share a scale: 32 or 128.
    pub group: usize,
    /// `[panels][steps][16][4]`, each 128 too large.
    pub values: V,
    /// `[panels][groups][16]`
    pub scales: S,
}

/// A packed matrix that owns its numbers.
pub type Owned = Packed<Vec<u8>, Vec<f32>>;
/// A packed matrix somewhere else.
pub type Borrowed<'a> = Packed<&'a [u8], &'a [f32]>;

/// Packs row-major values `[n][k]` and scales `[n][groups]`. Outputs beyond `n` and inputs beyond `k` are zero.
pub fn pack(values: &[i8], scales: &[f32], n: usize, k: usize, group: usize) -> Owned {
    let groups = k.div_ceil(group);
    assert_eq!((values.len(), scales.len()), (n * k, n * groups), "a matrix of {n} x {k}");
    let row = |row: usize| (&values[row * k..][..k], &scales[row * groups..][..groups]);
    pack_rows(n, k, group, row)
}

/// The same of rows that are made as they are needed: values and scales of row `i < n`.
pub fn pack_rows<V: AsRef<[i8]>, S: AsRef<[f32]>>(
    n: usize,
    k: usize,
    group: usize,
    row: impl Fn(usize) -> (V, S) + Sync,
) -> Owned {
    let (panels, steps, groups) = (n.div_ceil(PANEL), k.div_ceil(STEP), k.div_ceil(group));
    let mut packed = Packed {
        n,
        k,
        group,
        values: vec![OFFSET; panels * steps * PANEL * STEP],
        scales: vec![0.0; panels * groups * PANEL],
    };
    let values = packed.values.par_chunks_mut((steps * PANEL * STEP).max(1));
    let scales = packed.scales.par_chunks_mut((groups * PANEL).max(1));
    values.zip(scales).enumerate().for_each(|(panel, (to, to_scales))| {
        for column in 0..PANEL.min(n - panel * PANEL) {
            let (values, scales) = row(panel * PANEL + column);
            for (to, from) in to.chunks_exact_mut(PANEL * STEP).zip(values.as_ref().chunks(STEP)) {
                for (to, &from) in to[column * STEP..].iter_mut().zip(from) {
                    *to = from as u8 ^ OFFSET;
                }
            }
            for (to, &from) in to_scales.chunks_exact_mut(PANEL).zip(scales.as_ref()) {
                to[column] = from;
            }
        }
    });
    packed
}

impl Owned {
    /// The same, borrowed.
    pub fn as_ref(&self) -> Borrowed<'_> {
        let Self { n, k, group, values, scales } = self;
        Packed { n: *n, k: *k, group: *group, values, scales }
    }
}

impl<'a> Borrowed<'a> {
    /// The values and the scales of row `row < n`.
    pub fn row(&self, row: usize) -> (impl Iterator<Item = i8> + 'a, impl Iterator<Item = f32> + 'a) {
        let (steps, groups, column) = (self.k.div_ceil(STEP), self.k.div_ceil(self.group), row % PANEL);
        let values = &self.values[row / PANEL * steps * PANEL * STEP..][..steps * PANEL * STEP];
        let scales = &self.scales[row / PANEL * groups * PANEL..][..groups * PANEL];
        let values = values.chunks_exact(PANEL * STEP).flat_map(move |step| &step[column * STEP..][..STEP]);
        let values = values.map(|value| (value ^ OFFSET) as i8).take(self.k);
        (values, scales.iter().skip(column).step_by(PANEL).copied())
    }
}

/// What a tile works on: rows of quantised activations and one panel or several.
struct Tile<'a> {
    /// Activations of each row: as many groups of four bytes as there are steps.
    rows: [&'a [[u8; STEP]]; ROWS],
    /// Scales of each row, one per group.
    row_scales: [&'a [f32]; ROWS],
    /// -128 times the sum of each group of each row, where weights are used unsigned.
    row_starts: [&'a [i32]; ROWS],
    /// Of each panel `steps` times 64.
    values: &'a [u8],
    /// Of each panel `groups` times 16.
    scales: &'a [f32],
    groups: usize,
    group_steps: usize,
    steps: usize,
}

impl Tile<'_> {
    /// The steps of a group.
    #[inline(always)]
    fn group(&self, group: usize) -> std::ops::Range<usize> {
        group * self.group_steps..self.steps.min((group + 1) * self.group_steps)
    }

    #[inline(always)]
    fn x(&self, row: usize, step: usize) -> i32 {
        debug_assert!(step < self.rows[row].len());
        // SAFETY: every row has `steps` groups (`linear` makes them so), and `group` yields no step beyond.
        i32::from_le_bytes(unsafe { *self.rows[row].get_unchecked(step) })
    }

    /// Groups in a block of the contraction.
    #[inline(always)]
    fn groups_per_block(&self) -> usize {
        BLOCK / (self.group_steps * STEP)
    }
}

fn portable(tile: &Tile<'_>, rows: usize, out: &mut [[f32; PANEL]; ROWS]) {
    for (row, acc) in out.iter_mut().enumerate().take(rows) {
        *acc = [0.0; PANEL];
        for block in (0..tile.groups).step_by(tile.groups_per_block()) {
            let mut p = [0f32; PANEL];
            for group in block..tile.groups.min(block + tile.groups_per_block()) {
                let mut sums = [0i32; PANEL];
                for step in tile.group(group) {
                    let x = tile.x(row, step).to_le_bytes();
                    let w = &tile.values[step * PANEL * STEP..][..PANEL * STEP];
                    for (sum, w) in sums.iter_mut().zip(w.as_chunks::<STEP>().0) {
                        for (x, w) in x.iter().zip(w) {
                            *sum += i32::from(*x as i8) * i32::from((*w ^ OFFSET) as i8);
                        }
                    }
                }
                let scales = &tile.scales[group * PANEL..][..PANEL];
                for ((p, sum), d) in p.iter_mut().zip(sums).zip(scales) {
                    *p = (sum as f32).mul_add(tile.row_scales[row][group] * d, *p);
                }
            }
            for (acc, p) in acc.iter_mut().zip(p) {
                *acc += p;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{OFFSET, PANEL, ROWS, STEP, Tile};
    use std::arch::x86_64::*;

    /// Bytes between what is read and what is asked for ahead of it.
    const PREFETCH: usize = 4096;

    /// Weights are unsigned here. `R * P` rows of 16 results: of each row one for each panel.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) fn vnni<const R: usize, const P: usize>(tile: &Tile<'_>, out: &mut [[f32; PANEL]; ROWS]) {
        let (value_stride, scale_stride) = (tile.steps * PANEL * STEP, tile.groups * PANEL);
        assert!(tile.values.len() >= P * value_stride && tile.scales.len() >= P * scale_stride, "{P} panels");
        let mut acc = [[_mm512_setzero_ps(); P]; R];
        for block in (0..tile.groups).step_by(tile.groups_per_block()) {
            let mut p = [[_mm512_setzero_ps(); P]; R];
            for group in block..tile.groups.min(block + tile.groups_per_block()) {
                let mut sums = [[_mm512_setzero_si512(); P]; R];
                for (r, sums) in sums.iter_mut().enumerate() {
                    *sums = [_mm512_set1_epi32(tile.row_starts[r][group]); P];
                }
                for step in tile.group(group) {
                    let mut w = [_mm512_setzero_si512(); P];
                    for (j, w) in w.iter_mut().enumerate() {
                        // SAFETY: step < steps: 64 of the panel's bytes.
                        let from = unsafe { tile.values.as_ptr().add(j * value_stride + step * PANEL * STEP) };
                        if R == 1 {
                            // One row streams the weights from memory once. Prefetching touches none, wherever it points.
                            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(PREFETCH).cast());
                        }
                        // SAFETY: the same 64 bytes.
                        *w = unsafe { _mm512_loadu_si512(from.cast()) };
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_epi32(tile.x(r, step));
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = _mm512_dpbusd_epi32(*sum, w, x);
                        }
                    }
                }
                for j in 0..P {
                    // SAFETY: group < groups: 16 of the panel's scales.
                    let d = unsafe { _mm512_loadu_ps(tile.scales.as_ptr().add(j * scale_stride + group * PANEL)) };
                    for r in 0..R {
                        let scale = _mm512_mul_ps(_mm512_set1_ps(tile.row_scales[r][group]), d);
                        p[r][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][j]), scale, p[r][j]);
                    }
                }
            }
            for (acc, p) in acc.iter_mut().zip(p) {
                for (acc, p) in acc.iter_mut().zip(p) {
                    *acc = _mm512_add_ps(*acc, p);
                }
            }
        }
        for (out, acc) in out.iter_mut().zip(acc.into_iter().flatten()) {
            // SAFETY: 16 elements.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), acc) };
        }
    }

    /// Bytes are multiplied as `|w| * (x with the sign of w)`: |w| <= 128 and |x| <= 127, so no pair exceeds an i16.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2<const R: usize>(tile: &Tile<'_>, out: &mut [[f32; PANEL]; ROWS]) {
        let (ones, offset) = (_mm256_set1_epi16(1), _mm256_set1_epi8(OFFSET as i8));
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        for block in (0..tile.groups).step_by(tile.groups_per_block()) {
            let mut p = [[_mm256_setzero_ps(); 2]; R];
            for group in block..tile.groups.min(block + tile.groups_per_block()) {
                let mut sums = [[_mm256_setzero_si256(); 2]; R];
                for step in tile.group(group) {
                    let w = &tile.values[step * PANEL * STEP..][..PANEL * STEP];
                    for half in 0..2 {
                        // SAFETY: 32 of 64 bytes.
                        let w = unsafe { _mm256_loadu_si256(w.as_ptr().add(32 * half).cast()) };
                        let w = _mm256_xor_si256(w, offset);
                        let magnitude = _mm256_abs_epi8(w);
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm256_sign_epi8(_mm256_set1_epi32(tile.x(r, step)), w);
                            let pairs = _mm256_maddubs_epi16(magnitude, x);
                            sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(pairs, ones));
                        }
                    }
                }
                for half in 0..2 {
                    let d = &tile.scales[group * PANEL + 8 * half..][..8];
                    // SAFETY: 8 elements.
                    let d = unsafe { _mm256_loadu_ps(d.as_ptr()) };
                    for (r, p) in p.iter_mut().enumerate() {
                        let scale = _mm256_mul_ps(_mm256_set1_ps(tile.row_scales[r][group]), d);
                        p[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r][half]), scale, p[half]);
                    }
                }
            }
            for (acc, p) in acc.iter_mut().zip(p) {
                *acc = [_mm256_add_ps(acc[0], p[0]), _mm256_add_ps(acc[1], p[1])];
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            for (half, acc) in acc.into_iter().enumerate() {
                // SAFETY: 8 of 16 elements.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * half), acc) };
            }
        }
    }
}

/// Whether the AVX-512 path has VNNI; without it, it uses the AVX2 kernel.
fn has_vnni(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa == Isa::Avx512 && std::arch::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        false
    }
}

/// `out[m][n] = epilogue(dot(x[m], w[n]))` for `m` rows of quantised activations, values `[m][k]` and scales `[m][groups]`, on the current rayon pool.
///
/// # Panics
/// When a slice has not the length that the shapes say, or the machine lacks `isa`.
pub fn linear(
    isa: Isa,
    (values, scales): (&[i8], &[f32]),
    w: &Borrowed<'_>,
    m: usize,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
) {
    assert!(isa.is_available(), "{} is not available on this machine", isa.name());
    let Packed { n, k, group, .. } = *w;
    let (panels, steps, groups) = (n.div_ceil(PANEL), k.div_ceil(STEP), k.div_ceil(group));
    assert!(values.len() == m * k && scales.len() == m * groups, "activations of {m} x {k}");
    assert!(w.values.len() == panels * steps * PANEL * STEP, "values of {n} x {k}");
    assert!(w.scales.len() == panels * groups * PANEL, "scales of {n} x {k}");
    assert_eq!(out.len(), m * n, "output of {m} x {n}");
    assert!(group.is_multiple_of(STEP) && BLOCK.is_multiple_of(group), "groups of {group}");
    epilogue.check(n);
    if m == 0 || n == 0 {
        return;
    }
    let vnni = has_vnni(isa);
    // The AVX2 kernel cannot negate -128. Quantisation never yields it, but a graph may hold any bytes.
    let isa = if !vnni && values.contains(&i8::MIN) { Isa::Portable } else { isa };
    // Whole steps for each row.
    let stride = steps * STEP;
    let padded: Vec<i8>;
    let values = if k == stride {
        values
    } else {
        let rows = values.chunks(k.max(1));
        padded = rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, stride - k))).collect();
        &padded
    };
    // SAFETY: bytes are bytes: same size and alignment, and every bit pattern is one of either.
    let bytes: &[u8] = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) };
    let mut starts = vec![0i32; if vnni { m * groups } else { 0 }];
    if vnni {
        for (starts, row) in starts.chunks_mut(groups.max(1)).zip(values.chunks(stride.max(1))) {
            group_starts(isa, row, group, starts);
        }
    }

    // As many independent sums as there are registers and the byte instructions have latency: few rows take several panels.
    let tile_rows = if vnni { ROWS } else { ROWS / 2 };
    let width = match m {
        1 if vnni => 4,
        2..=4 if vnni => 2,
        _ => 1,
    };
    let output = Output::new(out);
    let task = |index: usize| {
        default_float_mode();
        let mut panel = index * width;
        while panel < panels.min((index + 1) * width) {
            // A last task with fewer panels takes them one by one.
            let width = if panel + width <= panels { width } else { 1 };
            for first in (0..m).step_by(tile_rows) {
                let rows = tile_rows.min(m - first);
                let row = |r: usize| first + r.min(rows - 1);
                let tile = Tile {
                    rows: std::array::from_fn(|r| &bytes[row(r) * stride..][..stride].as_chunks().0[..steps]),
                    row_scales: std::array::from_fn(|r| &scales[row(r) * groups..][..groups]),
                    row_starts: std::array::from_fn(|r| starts.get(row(r) * groups..).unwrap_or_default()),
                    values: &w.values[panel * steps * PANEL * STEP..][..width * steps * PANEL * STEP],
                    scales: &w.scales[panel * groups * PANEL..][..width * groups * PANEL],
                    groups,
                    group_steps: group / STEP,
                    steps,
                };
                let mut acc = [[0f32; PANEL]; ROWS];
                match isa {
                    // SAFETY: `has_vnni` and `isa.is_available()` have confirmed the features.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 if vnni => unsafe {
                        match (rows, width) {
                            (1, 4) => x86::vnni::<1, 4>(&tile, &mut acc),
                            (1, _) => x86::vnni::<1, 1>(&tile, &mut acc),
                            (2..=4, 2) => x86::vnni::<4, 2>(&tile, &mut acc),
                            (2..=4, _) => x86::vnni::<4, 1>(&tile, &mut acc),
                            _ => x86::vnni::<8, 1>(&tile, &mut acc),
                        }
                    },
                    // SAFETY: `isa.is_available()` has confirmed AVX2, which AVX-512 includes.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 | Isa::Avx2 => unsafe {
                        if rows == 1 { x86::avx2::<1>(&tile, &mut acc) } else { x86::avx2::<4>(&tile, &mut acc) }
                    },
                    _ => portable(&tile, rows, &mut acc),
                }
                for (at, acc) in acc.iter().enumerate().take(rows * width) {
                    let (r, column) = (at / width, (panel + at % width) * PANEL);
                    let len = PANEL.min(n - column);
                    // SAFETY: panels of different tasks are disjoint, and first + r < m, column + len <= n.
                    let segment = unsafe { output.segment((first + r) * n + column, len) };
                    segment.copy_from_slice(&acc[..len]);
                    epilogue.apply(isa, segment, column);
                }
            }
            panel += width;
        }
    };
    // A multiply-add of bytes takes about a quarter of the time of one of f32.
    for_each_task(panels.div_ceil(width), width * (m * PANEL * k / 400 + PANEL * k / 64), task);
}

per_isa! {
    /// -128 times the sum of each group of a row.
    fn group_starts(isa, row: &[i8], group: usize, out: &mut [i32]) = starts_of(row, group, out)
}

#[inline(always)]
fn starts_of(row: &[i8], group: usize, out: &mut [i32]) {
    for (out, x) in out.iter_mut().zip(row.chunks(group)) {
        *out = -128 * x.iter().map(|&x| i32::from(x)).sum::<i32>();
    }
}

per_isa! {
    /// Largest magnitude of each group of a row.
    pub fn group_magnitudes(isa, x: &[f32], group: usize, out: &mut [f32]) = magnitudes_of(x, group, out)
}

#[inline(always)]
fn magnitudes_of(x: &[f32], group: usize, out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x.chunks(group)) {
        // The maximum is the same in any order.
        let mut lanes = [0f32; 16];
        let (whole, rest) = x.as_chunks::<16>();
        for x in whole {
            for (lane, &x) in lanes.iter_mut().zip(x) {
                *lane = scalar::maximum(*lane, scalar::abs(x));
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane = scalar::maximum(*lane, scalar::abs(x));
        }
        *out = lanes.into_iter().fold(0.0, scalar::maximum);
    }
}

per_isa! {
    /// A row as signed bytes, given the largest magnitude of each group.
    pub fn quantise(isa, x: &[f32], magnitudes: &[f32], group: usize, out: &mut [i8]) =
        quantised_of(x, magnitudes, group, out)
}

#[inline(always)]
fn quantised_of(x: &[f32], magnitudes: &[f32], group: usize, out: &mut [i8]) {
    for ((out, x), &most) in out.chunks_mut(group).zip(x.chunks(group)).zip(magnitudes) {
        let inverse = if most == 0.0 { 0.0 } else { scalar::div(127.0, most) };
        for (out, &x) in out.iter_mut().zip(x) {
            *out = scalar::round_to_i32(scalar::mul(x, inverse)).clamp(-127, 127) as i8;
        }
    }
}

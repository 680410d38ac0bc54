//! Linear layers over int8 weights (rules Q1 to Q6). Sums of a group are exact integers, so the byte instructions of the
//! machine may take them in any order; what follows each group is three ordered scalar operations per output.
//!
//! Weights are packed at load as `[N/16][K/4][16][4]`: four consecutive `k` of sixteen outputs are the 64 bytes that one
//! AVX-512 VNNI instruction, or two AVX2 ones, multiply with four broadcast activations.

use super::elementwise::Epilogue;
use super::gemm::{Output, for_each_task};
use super::isa::{Isa, default_float_mode, per_isa};
use candor_sdk::arithmetic::contraction::BLOCK;
use candor_sdk::arithmetic::scalar;

/// Outputs per packed panel.
pub const PANEL: usize = 16;
/// Activations that one instruction takes together.
const STEP: usize = 4;
/// Most rows of a tile.
const ROWS: usize = 8;

/// A packed matrix of `n` outputs and `k` inputs.
#[derive(Clone, Debug)]
pub struct Packed<V, S, O> {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Elements that share a scale: 32 or 128.
    pub group: usize,
    /// `[panels][steps][16][4]`
    pub values: V,
    /// `[panels][groups][16]`
    pub scales: S,
    /// 128 times the sum of the values of each group, `[panels][groups][16]`: VNNI takes activations as unsigned bytes, 128
    /// too large.
    pub excess: O,
}

/// A packed matrix that owns its numbers.
pub type Owned = Packed<Vec<i8>, Vec<f32>, Vec<i32>>;
/// A packed matrix somewhere else.
pub type Borrowed<'a> = Packed<&'a [i8], &'a [f32], &'a [i32]>;

/// Packs row-major values `[n][k]` and scales `[n][groups]`. Outputs beyond `n` and inputs beyond `k` are zero.
pub fn pack(values: &[i8], scales: &[f32], n: usize, k: usize, group: usize) -> Owned {
    let (panels, steps, groups) = (n.div_ceil(PANEL), k.div_ceil(STEP), k.div_ceil(group));
    assert_eq!((values.len(), scales.len()), (n * k, n * groups), "a matrix of {n} x {k}");
    let mut packed = Packed {
        n,
        k,
        group,
        values: vec![0; panels * steps * PANEL * STEP],
        scales: vec![0.0; panels * groups * PANEL],
        excess: vec![0; panels * groups * PANEL],
    };
    for row in 0..n {
        let (panel, column) = (row / PANEL, row % PANEL);
        for i in 0..k {
            let value = values[row * k + i];
            packed.values[((panel * steps + i / STEP) * PANEL + column) * STEP + i % STEP] = value;
            packed.excess[(panel * groups + i / group) * PANEL + column] += 128 * i32::from(value);
        }
        for i in 0..groups {
            packed.scales[(panel * groups + i) * PANEL + column] = scales[row * groups + i];
        }
    }
    packed
}

impl Owned {
    /// The same, borrowed.
    pub fn as_ref(&self) -> Borrowed<'_> {
        let Self { n, k, group, values, scales, excess } = self;
        Packed { n: *n, k: *k, group: *group, values, scales, excess }
    }
}

/// What a tile works on: rows of quantised activations and one panel.
struct Tile<'a> {
    /// Activations of each row: as many groups of four bytes as there are steps.
    rows: [&'a [[u8; STEP]]; ROWS],
    /// Scales of each row, one per group.
    row_scales: [&'a [f32]; ROWS],
    values: &'a [i8],
    scales: &'a [f32],
    excess: &'a [i32],
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
                            *sum += i32::from(*x as i8) * i32::from(*w);
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
    use super::{PANEL, ROWS, STEP, Tile};
    use std::arch::x86_64::*;

    /// Activations are offset by 128, to be unsigned.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) fn vnni<const R: usize>(tile: &Tile<'_>, out: &mut [[f32; PANEL]; ROWS]) {
        let mut acc = [_mm512_setzero_ps(); R];
        for block in (0..tile.groups).step_by(tile.groups_per_block()) {
            let mut p = [_mm512_setzero_ps(); R];
            for group in block..tile.groups.min(block + tile.groups_per_block()) {
                let mut sums = [_mm512_setzero_si512(); R];
                for step in tile.group(group) {
                    let w = &tile.values[step * PANEL * STEP..][..PANEL * STEP];
                    // SAFETY: 64 bytes.
                    let w = unsafe { _mm512_loadu_si512(w.as_ptr().cast()) };
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi32(tile.x(r, step)), w);
                    }
                }
                let (d, excess) = (&tile.scales[group * PANEL..][..PANEL], &tile.excess[group * PANEL..][..PANEL]);
                // SAFETY: 16 elements each.
                let (d, excess) = unsafe { (_mm512_loadu_ps(d.as_ptr()), _mm512_loadu_si512(excess.as_ptr().cast())) };
                for (r, p) in p.iter_mut().enumerate() {
                    let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r], excess));
                    let scale = _mm512_mul_ps(_mm512_set1_ps(tile.row_scales[r][group]), d);
                    *p = _mm512_fmadd_ps(sum, scale, *p);
                }
            }
            for (acc, p) in acc.iter_mut().zip(p) {
                *acc = _mm512_add_ps(*acc, p);
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            // SAFETY: 16 elements.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), acc) };
        }
    }

    /// Bytes are multiplied as `|w| * (x with the sign of w)`: |w| <= 128 and |x| <= 127, so no pair exceeds an i16.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2<const R: usize>(tile: &Tile<'_>, out: &mut [[f32; PANEL]; ROWS]) {
        let ones = _mm256_set1_epi16(1);
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
    assert!(w.scales.len() == panels * groups * PANEL && w.excess.len() == w.scales.len(), "scales of {n} x {k}");
    assert_eq!(out.len(), m * n, "output of {m} x {n}");
    assert!(group.is_multiple_of(STEP) && BLOCK.is_multiple_of(group), "groups of {group}");
    epilogue.check(n);
    if m == 0 || n == 0 {
        return;
    }
    // Whole steps for each row, unsigned where the instruction wants it.
    let vnni = has_vnni(isa);
    // The AVX2 kernel cannot negate -128. Quantisation never yields it, but a graph may hold any bytes.
    let isa = if !vnni && values.contains(&i8::MIN) { Isa::Portable } else { isa };
    let flip = if vnni { 0x80 } else { 0 };
    let stride = steps * STEP;
    let mut bytes = vec![flip; m * stride];
    for (to, from) in bytes.chunks_mut(stride.max(1)).zip(values.chunks(k.max(1))) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = from as u8 ^ flip;
        }
    }

    // As many independent sums as there are registers and the byte instructions have latency.
    let tile_rows = if vnni { ROWS } else { ROWS / 2 };
    let output = Output::new(out);
    let task = |panel: usize| {
        default_float_mode();
        for first in (0..m).step_by(tile_rows) {
            let rows = tile_rows.min(m - first);
            let row = |r: usize| first + r.min(rows - 1);
            let tile = Tile {
                rows: std::array::from_fn(|r| &bytes[row(r) * stride..][..stride].as_chunks().0[..steps]),
                row_scales: std::array::from_fn(|r| &scales[row(r) * groups..][..groups]),
                values: &w.values[panel * steps * PANEL * STEP..][..steps * PANEL * STEP],
                scales: &w.scales[panel * groups * PANEL..][..groups * PANEL],
                excess: &w.excess[panel * groups * PANEL..][..groups * PANEL],
                groups,
                group_steps: group / STEP,
                steps,
            };
            let mut acc = [[0f32; PANEL]; ROWS];
            match isa {
                // SAFETY: `has_vnni` and `isa.is_available()` have confirmed the features.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 if vnni => unsafe {
                    match rows {
                        1 => x86::vnni::<1>(&tile, &mut acc),
                        2..=4 => x86::vnni::<4>(&tile, &mut acc),
                        _ => x86::vnni::<8>(&tile, &mut acc),
                    }
                },
                // SAFETY: `isa.is_available()` has confirmed AVX2, which AVX-512 includes.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx2 => unsafe {
                    if rows == 1 { x86::avx2::<1>(&tile, &mut acc) } else { x86::avx2::<4>(&tile, &mut acc) }
                },
                _ => portable(&tile, rows, &mut acc),
            }
            let column = panel * PANEL;
            let len = PANEL.min(n - column);
            for (r, acc) in acc.iter().enumerate().take(rows) {
                // SAFETY: panels of different tasks are disjoint, and first + r < m, column + len <= n.
                let segment = unsafe { output.segment((first + r) * n + column, len) };
                segment.copy_from_slice(&acc[..len]);
                epilogue.apply(isa, segment, column);
            }
        }
    };
    // A multiply-add of bytes takes about a quarter of the time of one of f32.
    for_each_task(panels, m * PANEL * k / 400 + PANEL * k / 64, task);
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

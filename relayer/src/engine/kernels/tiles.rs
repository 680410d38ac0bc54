//! Inner loops of the contraction: one block of at most 128 `k`, a few rows of activations, one or two weight panels.
//!
//! Each lane owns one output element and walks `k` in ascending order with one fused multiply-add per step, which is the
//! definition itself; vectors run across *outputs*. So a tile may have any shape without changing a bit.

use super::gemm::PANEL;

/// Most rows of a tile.
pub(super) const MAX_ROWS: usize = 8;

/// What a tile works on.
///
/// Element `k` of row `r` is `rows[r][columns[k]]`, or `rows[r][k]` where `columns` is null; `depth` of them are readable
/// in each row. `weights` points at `depth` groups of [`PANEL`] elements (and, for a second panel, at as many
/// `panel_stride` further on); `acc` at `rows * panels * PANEL` accumulators, row by row, to which the block's partial sums
/// are added.
pub(super) struct Tile<W> {
    pub(super) rows: [*const f32; MAX_ROWS],
    pub(super) columns: *const u32,
    pub(super) depth: usize,
    pub(super) weights: *const W,
    pub(super) panel_stride: usize,
    pub(super) acc: *mut f32,
}

impl<W> Tile<W> {
    /// Element `k` of row `r`; `GATHER` says whether there are columns.
    ///
    /// # Safety
    /// `r` is one of the tile's rows and `k < depth`.
    #[inline(always)]
    unsafe fn x<const GATHER: bool>(&self, r: usize, k: usize) -> f32 {
        // SAFETY: the caller's promise and that of the tile's maker.
        unsafe {
            let k = if GATHER { *self.columns.add(k) as usize } else { k };
            *self.rows[r].add(k)
        }
    }
}

/// An element type that weights are stored in and widened from, exactly, in registers.
pub trait Weight: Copy + Default + Send + Sync + 'static {
    /// The same number as f32.
    fn widen(self) -> f32;

    /// One tile with AVX-512. `rows * panels <= 8`, `panels <= 2`.
    ///
    /// # Safety
    /// The machine has the features of [`super::isa::Isa::Avx512`] and the pointers are as [`Tile`] says.
    #[cfg(target_arch = "x86_64")]
    #[doc(hidden)]
    #[allow(private_interfaces)]
    unsafe fn avx512(rows: usize, panels: usize, tile: &Tile<Self>);

    /// One tile with AVX2. `rows <= 2`, one panel.
    ///
    /// # Safety
    /// The machine has the features of [`super::isa::Isa::Avx2`] and the pointers are as [`Tile`] says.
    #[cfg(target_arch = "x86_64")]
    #[doc(hidden)]
    #[allow(private_interfaces)]
    unsafe fn avx2(rows: usize, tile: &Tile<Self>);

    /// Widens `from` into `to`, both of a multiple of 16 elements, with AVX-512.
    ///
    /// # Safety
    /// The machine has the features of [`super::isa::Isa::Avx512`].
    #[cfg(target_arch = "x86_64")]
    #[doc(hidden)]
    unsafe fn avx512_widen(from: &[Self], to: &mut [f32]);

    /// Widens `from` into `to`, both of a multiple of 8 elements, with AVX2.
    ///
    /// # Safety
    /// The machine has the features of [`super::isa::Isa::Avx2`].
    #[cfg(target_arch = "x86_64")]
    #[doc(hidden)]
    unsafe fn avx2_widen(from: &[Self], to: &mut [f32]);
}

/// One tile in plain Rust. `rows <= 2`, one panel. With NEON: 24 accumulator registers of 32.
///
/// # Safety
/// The pointers are as [`Tile`] says.
#[inline(always)]
pub(super) unsafe fn portable<W: Weight, const R: usize, const G: bool>(tile: &Tile<W>) {
    let mut p = [[0f32; PANEL]; R];
    for k in 0..tile.depth {
        // SAFETY: k < depth groups of PANEL weights are readable.
        let w = unsafe { &*tile.weights.add(k * PANEL).cast::<[W; PANEL]>() };
        for (r, p) in p.iter_mut().enumerate() {
            // SAFETY: r < rows, k < depth.
            let x = unsafe { tile.x::<G>(r, k) };
            for (p, w) in p.iter_mut().zip(w) {
                *p = x.mul_add(w.widen(), *p);
            }
        }
    }
    for (r, p) in p.iter().enumerate() {
        // SAFETY: r < rows accumulator rows of PANEL.
        let acc = unsafe { &mut *tile.acc.add(r * PANEL).cast::<[f32; PANEL]>() };
        for (acc, p) in acc.iter_mut().zip(p) {
            *acc += p;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PANEL, Tile, Weight};
    use half::{bf16, f16};
    use std::arch::x86_64::*;

    /// Bytes between what is read and what is asked for ahead of it.
    const PREFETCH: usize = 4096;

    /// Two tile bodies for one element type. A macro and not a generic: the widening intrinsics must be inlined into a
    /// function that has their target features.
    macro_rules! tiles {
        ($element:ty, $avx512:ident, $avx2:ident, $widen512:ident, $widen256:ident, |$p:ident| $load512:expr, |$q:ident| $load256:expr) => {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn $avx512<const R: usize, const P: usize, const G: bool>(tile: &Tile<$element>) {
                let mut p = [[[_mm512_setzero_ps(); 3]; P]; R];
                for k in 0..tile.depth {
                    if R == 1 {
                        // One row streams the weights from memory once; the hardware alone stops at each page.
                        for j in 0..P {
                            let ahead = tile.weights.wrapping_add(j * tile.panel_stride + k * PANEL);
                            let ahead = ahead.cast::<i8>().wrapping_add(PREFETCH);
                            for line in 0..(PANEL * size_of::<$element>()).div_ceil(64) {
                                // Prefetching touches no memory, wherever the address lies.
                                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line));
                            }
                        }
                    }
                    let mut w = [[_mm512_setzero_ps(); 3]; P];
                    for j in 0..P {
                        for v in 0..3 {
                            // SAFETY: panel j, group k < depth, vector v of three: 16 readable weights.
                            w[j][v] = unsafe {
                                let $p = tile.weights.add(j * tile.panel_stride + k * PANEL + v * 16);
                                $load512
                            };
                        }
                    }
                    for r in 0..R {
                        // SAFETY: r < rows, k < depth.
                        let x = _mm512_set1_ps(unsafe { tile.x::<G>(r, k) });
                        for j in 0..P {
                            for v in 0..3 {
                                p[r][j][v] = _mm512_fmadd_ps(x, w[j][v], p[r][j][v]);
                            }
                        }
                    }
                }
                for r in 0..R {
                    for j in 0..P {
                        for v in 0..3 {
                            // SAFETY: accumulator row r, panel j, vector v: 16 of rows * panels * PANEL.
                            unsafe {
                                let acc = tile.acc.add((r * P + j) * PANEL + v * 16);
                                _mm512_storeu_ps(acc, _mm512_add_ps(_mm512_loadu_ps(acc), p[r][j][v]));
                            }
                        }
                    }
                }
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn $avx2<const R: usize, const G: bool>(tile: &Tile<$element>) {
                let mut p = [[_mm256_setzero_ps(); 6]; R];
                for k in 0..tile.depth {
                    let mut x = [_mm256_setzero_ps(); R];
                    for r in 0..R {
                        // SAFETY: r < rows, k < depth.
                        x[r] = _mm256_set1_ps(unsafe { tile.x::<G>(r, k) });
                    }
                    for v in 0..6 {
                        // SAFETY: group k < depth, vector v of six: 8 readable weights.
                        let w = unsafe {
                            let $q = tile.weights.add(k * PANEL + v * 8);
                            $load256
                        };
                        for r in 0..R {
                            p[r][v] = _mm256_fmadd_ps(x[r], w, p[r][v]);
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..6 {
                        // SAFETY: accumulator row r, vector v: 8 of rows * PANEL.
                        unsafe {
                            let acc = tile.acc.add(r * PANEL + v * 8);
                            _mm256_storeu_ps(acc, _mm256_add_ps(_mm256_loadu_ps(acc), p[r][v]));
                        }
                    }
                }
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn $widen512(from: &[$element], to: &mut [f32]) {
                for (from, to) in from.chunks_exact(16).zip(to.chunks_exact_mut(16)) {
                    let $p = from.as_ptr();
                    // SAFETY: 16 elements on both sides.
                    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), $load512) };
                }
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            fn $widen256(from: &[$element], to: &mut [f32]) {
                for (from, to) in from.chunks_exact(8).zip(to.chunks_exact_mut(8)) {
                    let $q = from.as_ptr();
                    // SAFETY: 8 elements on both sides.
                    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), $load256) };
                }
            }
        };
    }

    tiles! {
        f32, f32_avx512, f32_avx2, f32_widen512, f32_widen256,
        |p| _mm512_loadu_ps(p),
        |p| _mm256_loadu_ps(p)
    }
    tiles! {
        f16, f16_avx512, f16_avx2, f16_widen512, f16_widen256,
        |p| _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())),
        |p| _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
    }
    tiles! {
        bf16, bf16_avx512, bf16_avx2, bf16_widen512, bf16_widen256,
        |p| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))),
        |p| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))))
    }

    macro_rules! weight {
        ($element:ty, $avx512:ident, $avx2:ident, $widen512:ident, $widen256:ident, $widen:expr) => {
            impl Weight for $element {
                #[inline(always)]
                fn widen(self) -> f32 {
                    $widen(self)
                }

                #[allow(private_interfaces)]
                unsafe fn avx512(rows: usize, panels: usize, tile: &Tile<Self>) {
                    // SAFETY: the caller's promise, passed on.
                    unsafe {
                        match (rows, panels, !tile.columns.is_null()) {
                            (1, 1, false) => $avx512::<1, 1, false>(tile),
                            (1, 1, true) => $avx512::<1, 1, true>(tile),
                            (2, 1, false) => $avx512::<2, 1, false>(tile),
                            (2, 1, true) => $avx512::<2, 1, true>(tile),
                            (3, 1, false) => $avx512::<3, 1, false>(tile),
                            (3, 1, true) => $avx512::<3, 1, true>(tile),
                            (4, 1, false) => $avx512::<4, 1, false>(tile),
                            (4, 1, true) => $avx512::<4, 1, true>(tile),
                            (5, 1, false) => $avx512::<5, 1, false>(tile),
                            (5, 1, true) => $avx512::<5, 1, true>(tile),
                            (6, 1, false) => $avx512::<6, 1, false>(tile),
                            (6, 1, true) => $avx512::<6, 1, true>(tile),
                            (7, 1, false) => $avx512::<7, 1, false>(tile),
                            (7, 1, true) => $avx512::<7, 1, true>(tile),
                            (8, 1, false) => $avx512::<8, 1, false>(tile),
                            (8, 1, true) => $avx512::<8, 1, true>(tile),
                            (1, 2, false) => $avx512::<1, 2, false>(tile),
                            (1, 2, true) => $avx512::<1, 2, true>(tile),
                            (2, 2, false) => $avx512::<2, 2, false>(tile),
                            (2, 2, true) => $avx512::<2, 2, true>(tile),
                            (3, 2, false) => $avx512::<3, 2, false>(tile),
                            (3, 2, true) => $avx512::<3, 2, true>(tile),
                            (4, 2, false) => $avx512::<4, 2, false>(tile),
                            (4, 2, true) => $avx512::<4, 2, true>(tile),
                            _ => unreachable!("no AVX-512 tile of {rows} rows and {panels} panels"),
                        }
                    }
                }

                #[allow(private_interfaces)]
                unsafe fn avx2(rows: usize, tile: &Tile<Self>) {
                    // SAFETY: the caller's promise, passed on.
                    unsafe {
                        match (rows, !tile.columns.is_null()) {
                            (1, false) => $avx2::<1, false>(tile),
                            (1, true) => $avx2::<1, true>(tile),
                            (2, false) => $avx2::<2, false>(tile),
                            (2, true) => $avx2::<2, true>(tile),
                            _ => unreachable!("no AVX2 tile of {rows} rows"),
                        }
                    }
                }

                unsafe fn avx512_widen(from: &[Self], to: &mut [f32]) {
                    // SAFETY: the caller's promise, passed on.
                    unsafe { $widen512(from, to) }
                }

                unsafe fn avx2_widen(from: &[Self], to: &mut [f32]) {
                    // SAFETY: the caller's promise, passed on.
                    unsafe { $widen256(from, to) }
                }
            }
        };
    }
    weight!(f32, f32_avx512, f32_avx2, f32_widen512, f32_widen256, |w| w);
    weight!(f16, f16_avx512, f16_avx2, f16_widen512, f16_widen256, |w: f16| super::widen_f16(w));
    weight!(bf16, bf16_avx512, bf16_avx2, bf16_widen512, bf16_widen256, |w: bf16| super::widen_bf16(w));
}

#[inline(always)]
fn widen_f16(w: half::f16) -> f32 {
    candor_sdk::arithmetic::scalar::f16_to_f32(w.to_bits())
}

#[inline(always)]
fn widen_bf16(w: half::bf16) -> f32 {
    candor_sdk::arithmetic::scalar::bf16_to_f32(w.to_bits())
}

#[cfg(not(target_arch = "x86_64"))]
mod portable_weights {
    use super::Weight;

    impl Weight for f32 {
        #[inline(always)]
        fn widen(self) -> f32 {
            self
        }
    }
    impl Weight for half::f16 {
        #[inline(always)]
        fn widen(self) -> f32 {
            super::widen_f16(self)
        }
    }
    impl Weight for half::bf16 {
        #[inline(always)]
        fn widen(self) -> f32 {
            super::widen_bf16(self)
        }
    }
}

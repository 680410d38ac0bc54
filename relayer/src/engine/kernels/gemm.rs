//! Linear layers: `out[m][n] = dot(x[m], w[n])`, the contraction of `docs/arithmetic.md`, for f32, f16 and bf16 weights.
//!
//! Weights are packed once, at load, into panels `[N / 48][K][48]`: the 48 weights a step of `k` needs lie side by side,
//! whatever the vector width (three AVX-512, six AVX2, twelve NEON registers), and a row of activations meets them as one
//! broadcast scalar. They keep their stored width and are widened in registers, or once per block when many rows share
//! the block.
//!
//! Work is cut into rectangles of rows x panels, never along `k`: a result cannot depend on the number of threads, nor on
//! which rows happen to share a batch.

use super::elementwise::Epilogue;
use super::isa::{Isa, default_float_mode};
use super::tiles::{self, Tile, Weight};
use candor_sdk::arithmetic::contraction::BLOCK;
use rayon::prelude::*;

/// Outputs per packed panel.
pub const PANEL: usize = 48;

/// Most rows of one task: its accumulators (24 KiB) and one block of a panel (24 KiB) stay close to the core.
const TASK_ROWS: usize = 128;

/// Multiply-adds worth a task of their own; below this, waking another thread costs more than it saves.
const TASK_WORK: usize = 1 << 16;

/// Number of elements of a packed matrix of `n` rows (outputs) and `k` columns.
pub fn packed_len(n: usize, k: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k
}

/// Packs a row-major `[n][k]` matrix into panels. Columns of the last panel beyond `n` are zero; they are computed and
/// never stored.
pub fn pack<W: Copy + Default + Send + Sync>(rows: &[W], n: usize, k: usize) -> Vec<W> {
    assert_eq!(rows.len(), n * k, "a matrix of {n} x {k}");
    let mut packed = vec![W::default(); packed_len(n, k)];
    if k == 0 {
        return packed;
    }
    packed.par_chunks_mut(PANEL * k).zip(rows.par_chunks(PANEL * k)).for_each(|(panel, rows)| {
        for (column, row) in rows.chunks(k).enumerate() {
            for (group, &w) in panel.chunks_mut(PANEL).zip(row) {
                group[column] = w;
            }
        }
    });
    packed
}

/// A base pointer that tasks share to write disjoint rectangles of one output.
#[derive(Clone, Copy)]
struct Output(*mut f32);
// SAFETY: only `linear` makes one, for a buffer it has borrowed mutably, and hands each element to exactly one task.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// The `len` elements from `start`.
    ///
    /// # Safety
    /// They lie in the buffer and no other task uses them.
    #[allow(clippy::mut_from_ref)] // disjointness is the caller's promise
    unsafe fn segment(&self, start: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// `out[m][n] = epilogue(dot(x[m], w[n]))` for `x` of `m x k`, packed weights of `n x k` and `out` of `m x n`, on the
/// current rayon pool.
///
/// # Panics
/// When a slice has not the length that `m`, `k` and `n` say, or the machine lacks `isa`.
#[allow(clippy::too_many_arguments)] // a matrix product has this many
pub fn linear<W: Weight>(
    isa: Isa,
    x: &[f32],
    packed: &[W],
    m: usize,
    k: usize,
    n: usize,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
) {
    assert!(isa.is_available(), "{} is not available on this machine", isa.name());
    assert_eq!(x.len(), m * k, "activations of {m} x {k}");
    assert_eq!(packed.len(), packed_len(n, k), "packed weights of {n} x {k}");
    assert_eq!(out.len(), m * n, "output of {m} x {n}");
    epilogue.check(n);
    if m == 0 || n == 0 {
        return;
    }

    // With few rows a second panel gives the FMA units enough independent chains; with many, eight rows already do.
    let width = if isa == Isa::Avx512 && m <= 4 { 2 } else { 1 };
    let panels = n.div_ceil(PANEL);
    let columns = panels.div_ceil(width);
    let threads = rayon::current_num_threads();
    let mut task_rows = TASK_ROWS;
    while threads > 1 && task_rows > 16 && columns * m.div_ceil(task_rows) < 4 * threads {
        task_rows /= 2;
    }
    let bands = m.div_ceil(task_rows);
    let output = Output(out.as_mut_ptr());

    // Panel-major: the bands of one panel follow each other, so its weights are still in cache.
    let task = |index: usize| {
        default_float_mode();
        let first_panel = index / bands * width;
        let first_row = index % bands * task_rows;
        let rows = task_rows.min(m - first_row);
        let width = width.min(panels - first_panel);
        let panel_len = PANEL * k;
        let weights = &packed[first_panel * panel_len..(first_panel + width) * panel_len];
        let mut acc = [0f32; TASK_ROWS * PANEL];
        contract(isa, &x[first_row * k..(first_row + rows) * k], weights, rows, width, k, &mut acc);
        for row in 0..rows {
            for panel in 0..width {
                let column = (first_panel + panel) * PANEL;
                let len = PANEL.min(n - column);
                // SAFETY: rows and panels of different tasks are disjoint, and row < m, column + len <= n.
                let segment = unsafe { output.segment((first_row + row) * n + column, len) };
                let from = (row * width + panel) * PANEL;
                segment.copy_from_slice(&acc[from..from + len]);
                epilogue.apply(isa, segment, column);
            }
        }
    };
    let tasks = columns * bands;
    let group = (TASK_WORK / (k * PANEL * width * task_rows.min(m)).max(1)).max(1);
    if tasks <= group || threads == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_min_len(group).for_each(task);
    }
}

/// Adds up all blocks of one task into `acc`, `[rows][panels][48]`, which starts at +0.
fn contract<W: Weight>(
    isa: Isa,
    x: &[f32],
    weights: &[W],
    rows: usize,
    panels: usize,
    k: usize,
    acc: &mut [f32; TASK_ROWS * PANEL],
) {
    debug_assert!(rows * panels <= TASK_ROWS && x.len() == rows * k && weights.len() == panels * PANEL * k);
    // Widening takes an instruction or two per vector: with more rows than a tile has, do it once per block instead.
    let tile_rows = if isa == Isa::Avx512 { 8 } else { 2 };
    let widen_first = size_of::<W>() != size_of::<f32>() && panels == 1 && rows > tile_rows;
    let mut widened = [0f32; BLOCK * PANEL];
    for block in (0..k).step_by(BLOCK) {
        let depth = BLOCK.min(k - block);
        if widen_first {
            let groups = &weights[block * PANEL..(block + depth) * PANEL];
            widen(isa, groups, &mut widened[..depth * PANEL]);
            let tile = Tile {
                x: x[block..].as_ptr(),
                stride: k,
                depth,
                weights: widened.as_ptr(),
                panel_stride: 0,
                acc: acc.as_mut_ptr(),
            };
            // SAFETY: `tile` covers `rows` rows of `x` from column `block`, `depth` widened groups, and rows * 48
            // accumulators; `isa` is available (checked in `linear`).
            unsafe { sweep(isa, tile, rows, 1) };
        } else {
            let tile = Tile {
                x: x[block..].as_ptr(),
                stride: k,
                depth,
                weights: weights[block * PANEL..].as_ptr(),
                panel_stride: PANEL * k,
                acc: acc.as_mut_ptr(),
            };
            // SAFETY: as above, with `panels` panels PANEL * k apart.
            unsafe { sweep(isa, tile, rows, panels) };
        }
    }
}

/// Runs one block over all rows of a task, in steps of the largest tile the instruction set has registers for.
///
/// # Safety
/// `tile` is as [`Tile`] says for `rows` rows and `panels` panels, and the machine has `isa`.
unsafe fn sweep<W: Weight>(isa: Isa, mut tile: Tile<W>, rows: usize, panels: usize) {
    let step = match isa {
        Isa::Avx512 => 8 / panels,
        Isa::Avx2 | Isa::Portable => 2,
    };
    let mut left = rows;
    while left > 0 {
        let now = step.min(left);
        // SAFETY: `now` of the rows that are left, and as many accumulators.
        unsafe {
            match (isa, now) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, _) => W::avx512(now, panels, &tile),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, _) => W::avx2(now, &tile),
                (_, 1) => tiles::portable::<W, 1>(&tile),
                _ => tiles::portable::<W, 2>(&tile),
            }
        }
        left -= now;
        if left > 0 {
            // SAFETY: a further row of both exists.
            unsafe {
                tile.x = tile.x.add(now * tile.stride);
                tile.acc = tile.acc.add(now * panels * PANEL);
            }
        }
    }
}

/// Widens whole groups of weights, exactly.
fn widen<W: Weight>(isa: Isa, from: &[W], to: &mut [f32]) {
    debug_assert!(from.len() == to.len() && from.len().is_multiple_of(PANEL));
    match isa {
        // SAFETY: `isa` is available (checked in `linear`), and PANEL is a multiple of 16.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { W::avx512_widen(from, to) },
        // SAFETY: as above, of 8.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { W::avx2_widen(from, to) },
        _ => {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = from.widen();
            }
        }
    }
}

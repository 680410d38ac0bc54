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
use super::tiles::{self, MAX_ROWS, Tile, Weight};
use candor_sdk::arithmetic::contraction::BLOCK;
use rayon::prelude::*;
use std::ops::Range;

/// Outputs per packed panel.
pub const PANEL: usize = 48;

/// Most rows of one task: its accumulators (24 KiB) and one block of a panel (24 KiB) stay close to the core.
const TASK_ROWS: usize = 128;

/// Nanoseconds worth a task of their own; less, and waking another thread costs more than it saves. A thread of the pool has
/// company that is awake.
const TASK_NANOSECONDS: usize = 15_000;
const POOLED_TASK_NANOSECONDS: usize = 4_000;

/// Number of elements of a packed matrix of `n` rows (outputs) and `k` columns.
pub fn packed_len(n: usize, k: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k
}

/// Packs a row-major `[n][k]` matrix into panels. Columns of the last panel beyond `n` are zero; they are computed and
/// never stored.
pub fn pack<W: Copy + Default + Send + Sync>(rows: &[W], n: usize, k: usize) -> Vec<W> {
    assert_eq!(rows.len(), n * k, "a matrix of {n} x {k}");
    pack_rows(n, k, |row| rows[row * k..][..k].iter().copied())
}

/// The same of rows that are made as they are needed: the `k` elements of row `i < n`.
pub fn pack_rows<W: Copy + Default + Send, R: Iterator<Item = W>>(
    n: usize,
    k: usize,
    row: impl Fn(usize) -> R + Sync,
) -> Vec<W> {
    let mut packed = vec![W::default(); packed_len(n, k)];
    packed.par_chunks_mut((PANEL * k).max(1)).enumerate().for_each(|(panel, to)| {
        for column in 0..PANEL.min(n - panel * PANEL) {
            for (group, w) in to.chunks_exact_mut(PANEL).zip(row(panel * PANEL + column)) {
                group[column] = w;
            }
        }
    });
    packed
}

/// Row `row` of `k` elements of a packed matrix.
pub fn unpack_row<W: Copy>(packed: &[W], k: usize, row: usize) -> impl Iterator<Item = W> {
    let panel = &packed[row / PANEL * PANEL * k..][..PANEL * k];
    panel.iter().skip(row % PANEL).step_by(PANEL).copied()
}

/// A base pointer that tasks share to write disjoint rectangles of one output.
#[derive(Clone, Copy)]
pub(super) struct Output(*mut f32);
// SAFETY: a kernel makes one of a buffer it has borrowed mutably and hands each element to exactly one task.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    pub(super) fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// The `len` elements from `start`.
    ///
    /// # Safety
    /// They lie in the buffer and no other task uses them.
    #[allow(clippy::mut_from_ref)] // disjointness is the caller's promise
    pub(super) unsafe fn segment(&self, start: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// The rows that meet the weights.
#[derive(Clone, Copy, Debug)]
pub enum Activations<'a> {
    /// `[m][k]`
    Dense(&'a [f32]),
    /// A view that is read in place, the windows of a convolution for one: with `q = i / rows.len()` and
    /// `r = i % rows.len()`, element `j` of row `i` is `data[q * stride + rows[r] + columns[j]]`.
    Windows {
        /// The source.
        data: &'a [f32],
        /// From the source of one request to that of the next.
        stride: usize,
        /// Where a row begins.
        rows: &'a [u32],
        /// Where an element lies from there.
        columns: &'a [u32],
    },
}

impl Activations<'_> {
    /// Panics unless all `m * k` elements exist.
    fn check(&self, m: usize, k: usize) {
        match *self {
            Self::Dense(x) => assert_eq!(x.len(), m * k, "activations of {m} x {k}"),
            Self::Windows { data, stride, rows, columns } => {
                assert!(columns.len() == k && m.is_multiple_of(rows.len()), "windows of {m} x {k}");
                let last = |offsets: &[u32]| offsets.iter().max().map_or(0, |&offset| offset as usize);
                let end = (m / rows.len()).saturating_sub(1) * stride + last(rows) + last(columns);
                assert!(m == 0 || k == 0 || end < data.len(), "windows within their source");
            }
        }
    }

    /// Where row `i < m` begins.
    fn row(&self, i: usize, k: usize) -> *const f32 {
        match *self {
            Self::Dense(x) => x[i * k..].as_ptr(),
            Self::Windows { data, stride, rows, .. } => {
                data[i / rows.len() * stride + rows[i % rows.len()] as usize..].as_ptr()
            }
        }
    }
}

/// `out[m][n] = epilogue(dot(x[m], w[n]))` for activations of `m x k`, packed weights of `n x k` and `out` of `m x n`, on
/// the current rayon pool.
///
/// # Panics
/// When a slice has not the length that `m`, `k` and `n` say, or the machine lacks `isa`.
#[allow(clippy::too_many_arguments)] // a matrix product has this many
pub fn linear<W: Weight>(
    isa: Isa,
    x: Activations<'_>,
    packed: &[W],
    m: usize,
    k: usize,
    n: usize,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
) {
    assert!(isa.is_available(), "{} is not available on this machine", isa.name());
    x.check(m, k);
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
    let output = Output::new(out);

    // Panel-major: the bands of one panel follow each other, so its weights are still in cache.
    let task = |index: usize| {
        default_float_mode();
        let first_panel = index / bands * width;
        let first_row = index % bands * task_rows;
        let rows = first_row..m.min(first_row + task_rows);
        let width = width.min(panels - first_panel);
        let panel_len = PANEL * k;
        let weights = &packed[first_panel * panel_len..(first_panel + width) * panel_len];
        let mut acc = [0f32; TASK_ROWS * PANEL];
        contract(isa, x, rows.clone(), weights, width, k, &mut acc);
        for (i, row) in rows.enumerate() {
            for panel in 0..width {
                let column = (first_panel + panel) * PANEL;
                let len = PANEL.min(n - column);
                // SAFETY: rows and panels of different tasks are disjoint, and row < m, column + len <= n.
                let segment = unsafe { output.segment(row * n + column, len) };
                let from = (i * width + panel) * PANEL;
                segment.copy_from_slice(&acc[from..from + len]);
                epilogue.apply(isa, segment, column);
            }
        }
    };
    for_each_task(columns * bands, nanoseconds::<W>(task_rows.min(m), width, k), task);
}

/// Runs tasks of about so many nanoseconds each, on several threads if that pays.
pub(super) fn for_each_task(tasks: usize, nanoseconds: usize, task: impl Fn(usize) + Sync + Send) {
    let worth = if rayon::current_thread_index().is_some() { POOLED_TASK_NANOSECONDS } else { TASK_NANOSECONDS };
    let group = worth.div_ceil(nanoseconds.max(1)).max(1);
    if tasks <= group || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_min_len(group).for_each(task);
    }
}

/// About how long a task takes: some hundred multiply-adds and 64 bytes of weights in a nanosecond.
fn nanoseconds<W>(rows: usize, panels: usize, k: usize) -> usize {
    let weights = panels * PANEL * k;
    rows * weights / 100 + weights * size_of::<W>() / 64
}

/// Adds up all blocks of one task into `acc`, `[rows][panels][48]`, which starts at +0.
fn contract<W: Weight>(
    isa: Isa,
    x: Activations<'_>,
    rows: Range<usize>,
    weights: &[W],
    panels: usize,
    k: usize,
    acc: &mut [f32; TASK_ROWS * PANEL],
) {
    debug_assert!(rows.len() * panels <= TASK_ROWS && weights.len() == panels * PANEL * k);
    // Widening takes an instruction or two per vector: with more rows than a tile has, do it once per block instead.
    let tile_rows = if isa == Isa::Avx512 { MAX_ROWS } else { 2 };
    let widen_first = size_of::<W>() != size_of::<f32>() && panels == 1 && rows.len() > tile_rows;
    let mut widened = [0f32; BLOCK * PANEL];
    for start in (0..k).step_by(BLOCK) {
        let block = start..k.min(start + BLOCK);
        let groups = &weights[start * PANEL..];
        if widen_first {
            let widened = &mut widened[..block.len() * PANEL];
            widen(isa, &groups[..block.len() * PANEL], widened);
            sweep(isa, x, rows.clone(), k, block, widened, (1, 0), acc);
        } else {
            sweep(isa, x, rows.clone(), k, block, groups, (panels, PANEL * k), acc);
        }
    }
}

/// Runs one block over all rows of a task, in steps of the largest tile the instruction set has registers for. `weights`
/// starts at the block's groups; there are as many in each of `panels` panels, `panel_stride` apart.
#[allow(clippy::too_many_arguments)] // a block of a matrix product has this many
fn sweep<W: Weight>(
    isa: Isa,
    x: Activations<'_>,
    rows: Range<usize>,
    k: usize,
    block: Range<usize>,
    weights: &[W],
    (panels, panel_stride): (usize, usize),
    acc: &mut [f32; TASK_ROWS * PANEL],
) {
    assert!(weights.len() >= (panels - 1) * panel_stride + block.len() * PANEL, "a whole block of weights");
    let step = match isa {
        Isa::Avx512 => MAX_ROWS / panels,
        Isa::Avx2 | Isa::Portable => 2,
    };
    // Dense rows are read from the block on; windows look their columns up from the block on.
    let (skip, columns) = match x {
        Activations::Dense(_) => (block.start, std::ptr::null()),
        Activations::Windows { columns, .. } => (0, columns[block.clone()].as_ptr()),
    };
    let row_acc = panels * PANEL;
    for (tile_acc, first) in acc.chunks_mut(step * row_acc).zip(rows.clone().step_by(step)) {
        let now = step.min(rows.end - first);
        assert!(tile_acc.len() >= now * row_acc, "an accumulator for each output");
        let row = |r: usize| x.row(first + r.min(now - 1), k).wrapping_add(skip);
        let tile = Tile {
            rows: std::array::from_fn(row),
            columns,
            depth: block.len(),
            weights: weights.as_ptr(),
            panel_stride,
            acc: tile_acc.as_mut_ptr(),
        };
        // SAFETY: `Activations::check` has shown that all m * k elements exist, so that the block's are readable in each of
        // the `now` rows; weights and accumulators were counted above; `isa` is available (checked in `linear`).
        unsafe {
            match (isa, now, columns.is_null()) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, ..) => W::avx512(now, panels, &tile),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, ..) => W::avx2(now, &tile),
                (_, 1, true) => tiles::portable::<W, 1, false>(&tile),
                (_, _, true) => tiles::portable::<W, 2, false>(&tile),
                (_, 1, false) => tiles::portable::<W, 1, true>(&tile),
                (_, _, false) => tiles::portable::<W, 2, true>(&tile),
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

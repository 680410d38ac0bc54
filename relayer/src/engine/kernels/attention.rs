//! Attention: contractions between activations, with the ragged rows of a causal model.
//!
//! Both contractions vectorise over what they do not sum over. Scores sum over the columns of a head and run across
//! positions, so keys are kept in panels `[position / 48][head][column][48]`; the mix sums over positions and runs across
//! the columns of a head, for which values lie right as they are, row by row. A cache of earlier positions is these two
//! layouts, and grows at its end.
//!
//! A row is summed to its own end and not a term further, in blocks of 128 from position 0 (rules C1 to C4), however rows
//! are grouped here.

use super::elementwise::{add_in_place, canonicalize, update};
use super::isa::{Isa, default_float_mode, per_isa};
use super::rows::{Reduction, reduce_rows};
use candor_sdk::arithmetic::contraction::BLOCK;
use candor_sdk::arithmetic::{functions, scalar};
use rayon::prelude::*;

/// Positions per panel of keys.
pub const PANEL: usize = 48;
/// Rows of one task, where heads that share keys count as rows of their own.
const TASK_ROWS: usize = 32;
/// Most rows of a tile.
const TILE_ROWS: usize = 8;
/// Multiply-adds worth a task of their own.
const TASK_WORK: usize = 1 << 19;

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Query heads that share a head of keys and values.
    pub group: usize,
    /// Columns of a head of queries and keys.
    pub key_width: usize,
    /// Columns of a head of values.
    pub value_width: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Position `i` attends to `j <= i` only.
    pub causal: bool,
}

impl Heads {
    /// Heads of keys and values.
    pub fn shared(&self) -> usize {
        self.heads / self.group
    }

    /// Terms of the query at `position` among `length` keys.
    fn extent(&self, position: usize, length: usize) -> usize {
        if self.causal { length.min(position + 1) } else { length }
    }
}

/// Keys in panels and values in rows, of the positions from 0 on.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// As [`push_keys`] lays them out.
    pub keys: &'a [f32],
    /// `[length][shared heads * value width]`
    pub values: &'a [f32],
    /// Positions.
    pub length: usize,
}

/// Appends keys, rows of `shared * width` elements, to panels that hold `length` positions.
pub fn push_keys(panels: &mut Vec<f32>, length: usize, rows: &[f32], shared: usize, width: usize) {
    let columns = shared * width;
    assert!(columns > 0 && rows.len().is_multiple_of(columns), "rows of {columns} columns");
    let end = length + rows.len() / columns;
    panels.resize(end.div_ceil(PANEL) * PANEL * columns, 0.0);
    for (position, row) in (length..).zip(rows.chunks_exact(columns)) {
        let panel = &mut panels[position / PANEL * PANEL * columns..][..PANEL * columns];
        for (group, &x) in panel.chunks_exact_mut(PANEL).zip(row) {
            group[position % PANEL] = x;
        }
    }
}

/// Attention of `queries` `[m][heads * key width]`, the first of which is at position `first`, into `out`
/// `[m][heads * value width]`: scores, their softmax numerators, the mix, and its division by the sum of the numerators.
pub fn attend(isa: Isa, shape: &Heads, queries: &[f32], first: usize, memory: Memory<'_>, out: &mut [f32]) {
    let Heads { heads, group, key_width, value_width, .. } = *shape;
    let (row, out_row) = (heads * key_width, heads * value_width);
    let m = queries.len() / row;
    assert!(queries.len() == m * row && out.len() == m * out_row, "{m} queries and results");
    assert!(!shape.causal || first + m <= memory.length, "a key for each query");
    memory.check(shape);
    let positions = (TASK_ROWS / group).max(1);
    let tiles = m.div_ceil(positions);
    let task = |index: usize| {
        default_float_mode();
        let (shared, tile) = (index % shape.shared(), index / shape.shared());
        let range = tile * positions..m.min((tile + 1) * positions);
        let rows: Vec<Row> =
            range.flat_map(|i| (0..group).map(move |g| Row { query: i, head: shared * group + g })).collect();
        let starts: Vec<&[f32]> =
            rows.iter().map(|r| &queries[r.query * row + r.head * key_width..][..key_width]).collect();
        let extents: Vec<usize> = rows.iter().map(|r| shape.extent(first + r.query, memory.length)).collect();
        let mut scores = Scores::new(isa, shape, shared, &starts, &extents, memory);
        let sums: Vec<f32> = scores.rows(&extents).map(|row| softmax_numerators(isa, row)).collect();
        let mut mix = mix(isa, shape, shared, &scores.slices(&extents), memory);
        for (row, sum) in mix.chunks_exact_mut(value_width).zip(sums) {
            update(isa, |x| scalar::div(x, sum), row);
        }
        (rows, mix)
    };
    let tasks = tiles * shape.shared();
    let work = m * heads * memory.length * (key_width + value_width);
    let results: Vec<(Vec<Row>, Vec<f32>)> = if work < TASK_WORK || rayon::current_num_threads() == 1 {
        (0..tasks).map(task).collect()
    } else {
        (0..tasks).into_par_iter().map(task).collect()
    };
    for (rows, mix) in results {
        for (row, mix) in rows.iter().zip(mix.chunks_exact(value_width)) {
            out[row.query * out_row + row.head * value_width..][..value_width].copy_from_slice(mix);
        }
    }
}

/// Scores by themselves, `[m * heads][length]`, +0 beyond the extent of a causal row.
pub fn scores(isa: Isa, shape: &Heads, queries: &[f32], memory: Memory<'_>, out: &mut [f32]) {
    let Heads { heads, group, key_width, .. } = *shape;
    let length = memory.length;
    assert!(out.len() * key_width == queries.len() * length, "a score for each query and key");
    memory.check(shape);
    let task = |(i, out): (usize, &mut [f32])| {
        default_float_mode();
        for shared in 0..shape.shared() {
            let first = (i * heads + shared * group) * key_width;
            let starts: Vec<&[f32]> = queries[first..first + group * key_width].chunks_exact(key_width).collect();
            let extents = vec![shape.extent(i, length); group];
            let mut scores = Scores::new(isa, shape, shared, &starts, &extents, memory);
            let out = &mut out[shared * group * length..][..group * length];
            for (out, row) in out.chunks_exact_mut(length).zip(scores.rows(&extents)) {
                out[..row.len()].copy_from_slice(row);
            }
        }
    };
    out.par_chunks_mut(heads * length).enumerate().for_each(task);
}

/// The mix by itself, `[m][heads * value width]`, of weights `[m * heads][length]`.
pub fn mixes(isa: Isa, shape: &Heads, weights: &[f32], memory: Memory<'_>, out: &mut [f32]) {
    let Heads { heads, group, value_width, .. } = *shape;
    let length = memory.length;
    assert!(out.len() * length == weights.len() * value_width, "a result for each row of weights");
    assert_eq!(memory.values.len(), length * shape.shared() * value_width, "values of {length} positions");
    let task = |(i, out): (usize, &mut [f32])| {
        default_float_mode();
        for shared in 0..shape.shared() {
            let extent = shape.extent(i, length);
            let row = |g: usize| &weights[(i * heads + shared * group + g) * length..][..extent];
            let rows: Vec<&[f32]> = (0..group).map(row).collect();
            let mut mix = mix(isa, shape, shared, &rows, memory);
            canonicalize(isa, &mut mix);
            out[shared * group * value_width..][..mix.len()].copy_from_slice(&mix);
        }
    };
    out.par_chunks_mut(heads * value_width).enumerate().for_each(task);
}

impl Memory<'_> {
    /// Panics unless keys and values of all positions exist.
    fn check(&self, shape: &Heads) {
        let keys = self.length.div_ceil(PANEL) * PANEL * shape.shared() * shape.key_width;
        assert!(self.keys.len() >= keys, "keys of {} positions", self.length);
        let values = self.length * shape.shared() * shape.value_width;
        assert!(self.values.len() >= values, "values of {} positions", self.length);
    }
}

/// One query of one head.
struct Row {
    query: usize,
    head: usize,
}

/// Rows of scores, each as long as the longest and a whole number of panels.
struct Scores {
    data: Vec<f32>,
    stride: usize,
}

impl Scores {
    /// Scores of queries that share the keys of head `shared`. Beyond a row's extent they mean nothing.
    fn new(isa: Isa, shape: &Heads, shared: usize, queries: &[&[f32]], extents: &[usize], memory: Memory<'_>) -> Self {
        let width = shape.key_width;
        let longest = extents.iter().copied().max().unwrap_or(0);
        let stride = longest.div_ceil(PANEL) * PANEL;
        let mut data = vec![0f32; queries.len() * stride];
        let panel_len = PANEL * shape.shared() * width;
        let mut part = vec![0f32; if width > BLOCK { data.len() } else { 0 }];
        for start in (0..width).step_by(BLOCK) {
            let block = start..width.min(start + BLOCK);
            let into = if part.is_empty() { &mut data } else { &mut part };
            into.fill(0.0);
            let rows: Vec<&[f32]> = queries.iter().map(|query| &query[block.clone()]).collect();
            for panel in 0..stride / PANEL {
                let keys = &memory.keys[panel * panel_len + (shared * width + start) * PANEL..][..block.len() * PANEL];
                let keys = Columns { data: keys, stride: PANEL, count: PANEL };
                contract(isa, &rows, keys, &mut into[panel * PANEL..], stride);
            }
            if !part.is_empty() {
                add_in_place(isa, &mut data, &part);
            }
        }
        let scale = shape.scale;
        for (row, &extent) in data.chunks_exact_mut(stride.max(1)).zip(extents) {
            // The accumulator starts at +0, which makes +0 of a partial of -0.
            update(isa, |p| scalar::mul(0.0 + p, scale), &mut row[..extent]);
        }
        Self { data, stride }
    }

    fn rows<'s>(&'s mut self, extents: &'s [usize]) -> impl Iterator<Item = &'s mut [f32]> {
        self.data.chunks_exact_mut(self.stride.max(1)).zip(extents).map(|(row, &extent)| &mut row[..extent])
    }

    fn slices<'s>(&'s self, extents: &[usize]) -> Vec<&'s [f32]> {
        self.data.chunks_exact(self.stride.max(1)).zip(extents).map(|(row, &extent)| &row[..extent]).collect()
    }
}

/// Turns a row of scores into `exp(score - max)` and returns the sum.
fn softmax_numerators(isa: Isa, row: &mut [f32]) -> f32 {
    let mut number = [0f32];
    reduce_rows(isa, Reduction::Max, row, row.len(), &mut number);
    let max = number[0];
    update(isa, |x| functions::exp(scalar::sub(x, max)), row);
    reduce_rows(isa, Reduction::Sum, row, row.len(), &mut number);
    number[0]
}

/// Rows of weights, ascending in length, times the values of head `shared`: `[rows][value width]`. NaNs are not yet the
/// one NaN.
fn mix(isa: Isa, shape: &Heads, shared: usize, rows: &[&[f32]], memory: Memory<'_>) -> Vec<f32> {
    let (width, stride) = (shape.value_width, shape.shared() * shape.value_width);
    let mut acc = vec![0f32; rows.len() * width];
    let mut part = vec![0f32; rows.len() * width];
    let longest = rows.last().map_or(0, |row| row.len());
    debug_assert!(rows.is_sorted_by_key(|row| row.len()), "ragged rows grow");
    for start in (0..longest).step_by(BLOCK) {
        let end = longest.min(start + BLOCK);
        let active = rows.partition_point(|row| row.len() <= start);
        part[active * width..].fill(0.0);
        let mut from = start;
        let mut first = active;
        // All rows together as far as the shortest goes, then the others from there.
        while first < rows.len() {
            let to = rows[first].len().min(end);
            let block: Vec<&[f32]> = rows[first..].iter().map(|row| &row[from..to]).collect();
            let values = Columns { data: &memory.values[from * stride + shared * width..], stride, count: width };
            contract(isa, &block, values, &mut part[first * width..], width);
            if to == end {
                break;
            }
            first = rows.partition_point(|row| row.len() <= to);
            from = to;
        }
        add_in_place(isa, &mut acc[active * width..], &part[active * width..]);
    }
    acc
}

/// Numbers that a row meets: element `c` of step `k` is `data[k * stride + c]`.
#[derive(Clone, Copy)]
struct Columns<'a> {
    data: &'a [f32],
    stride: usize,
    count: usize,
}

/// `part[r * part_stride + c] = fma(rows[r][k], columns[k][c], ..)` for ascending `k`. Rows are of one length.
fn contract(isa: Isa, rows: &[&[f32]], columns: Columns<'_>, part: &mut [f32], part_stride: usize) {
    let Some(depth) = rows.first().map(|row| row.len()) else { return };
    let Columns { data, stride, count } = columns;
    if depth == 0 {
        return;
    }
    assert!(rows.iter().all(|row| row.len() == depth), "rows of one length");
    assert!(data.len() >= (depth - 1) * stride + count, "columns for each step");
    assert!(part.len() >= (rows.len() - 1) * part_stride + count, "a partial for each row and column");
    let lanes = isa.lanes();
    let mut column = 0;
    while column < count {
        let vectors = ((count - column) / lanes).min(4);
        if vectors == 0 {
            remainder(isa, rows, &data[column..], stride, count - column, &mut part[column..], part_stride);
            return;
        }
        let step = isa.tile_rows(vectors);
        for (t, tile_rows) in rows.chunks(step).enumerate() {
            let mut pointers = [std::ptr::null(); TILE_ROWS];
            for (pointer, row) in pointers.iter_mut().zip(tile_rows) {
                *pointer = row.as_ptr();
            }
            let tile = Tile {
                rows: pointers,
                depth,
                columns: data[column..].as_ptr(),
                stride,
                part: part[t * step * part_stride + column..].as_mut_ptr(),
                part_stride,
            };
            // SAFETY: the assertions above: every row has `depth` elements, and for `vectors * lanes <= count - column`
            // columns every step has numbers and every row has partials.
            unsafe { tile.run(isa, tile_rows.len(), vectors) };
        }
        column += vectors * lanes;
    }
}

per_isa! {
    /// What is left when whole vectors are done.
    fn remainder(isa, rows: &[&[f32]], data: &[f32], stride: usize, count: usize, part: &mut [f32], part_stride: usize) =
        plainly(rows, data, stride, count, part, part_stride)
}

#[inline(always)]
fn plainly(rows: &[&[f32]], data: &[f32], stride: usize, count: usize, part: &mut [f32], part_stride: usize) {
    for (row, part) in rows.iter().zip(part.chunks_mut(part_stride)) {
        let part = &mut part[..count];
        for (k, &x) in row.iter().enumerate() {
            for (p, &y) in part.iter_mut().zip(&data[k * stride..]) {
                *p = x.mul_add(y, *p);
            }
        }
    }
}

impl Isa {
    /// Columns of a vector; the portable path takes any number.
    fn lanes(self) -> usize {
        match self {
            Isa::Avx512 => 16,
            Isa::Avx2 => 8,
            Isa::Portable => usize::MAX,
        }
    }

    /// Rows for which there are registers.
    fn tile_rows(self, vectors: usize) -> usize {
        match (self, vectors) {
            (Isa::Avx512, 4) => 6,
            (Isa::Avx512, _) => TILE_ROWS,
            (_, 4) => 2,
            (_, 3) => 3,
            _ => 4,
        }
    }
}

/// A few rows times a few vectors of columns; see [`contract`].
struct Tile {
    rows: [*const f32; TILE_ROWS],
    depth: usize,
    columns: *const f32,
    stride: usize,
    part: *mut f32,
    part_stride: usize,
}

impl Tile {
    /// # Safety
    /// `rows` of the rows have `depth` elements; `vectors` vectors of columns are readable at each step, and of partials
    /// writable in each row; the machine has `isa`, and a tile of this size exists for it.
    #[allow(unused_variables)] // without vectors
    unsafe fn run(&self, isa: Isa, rows: usize, vectors: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise.
        unsafe {
            match isa {
                Isa::Avx512 => x86::avx512(self, rows, vectors),
                Isa::Avx2 => x86::avx2(self, rows, vectors),
                Isa::Portable => unreachable!("the portable path has no vectors"),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Tile;
    use std::arch::x86_64::*;

    macro_rules! tile {
        ($name:ident, $dispatch:ident, $features:literal, $lanes:literal, $zero:ident, $load:ident, $store:ident, $set:ident,
         $fma:ident, [$($rows:literal x $vectors:literal),*]) => {
            #[target_feature(enable = $features)]
            unsafe fn $name<const R: usize, const V: usize>(tile: &Tile) {
                let mut p = [[$zero(); V]; R];
                for (r, p) in p.iter_mut().enumerate() {
                    for (v, p) in p.iter_mut().enumerate() {
                        // SAFETY: partials of row r, vector v.
                        *p = unsafe { $load(tile.part.add(r * tile.part_stride + v * $lanes)) };
                    }
                }
                let mut columns = tile.columns;
                for k in 0..tile.depth {
                    let mut y = [$zero(); V];
                    for (v, y) in y.iter_mut().enumerate() {
                        // SAFETY: vector v of step k < depth.
                        *y = unsafe { $load(columns.add(v * $lanes)) };
                    }
                    for r in 0..R {
                        // SAFETY: element k of row r.
                        let x = $set(unsafe { *tile.rows[r].add(k) });
                        for v in 0..V {
                            p[r][v] = $fma(x, y[v], p[r][v]);
                        }
                    }
                    // After the last step it points beyond and is not read.
                    columns = columns.wrapping_add(tile.stride);
                }
                for (r, p) in p.iter().enumerate() {
                    for (v, p) in p.iter().enumerate() {
                        // SAFETY: partials of row r, vector v.
                        unsafe { $store(tile.part.add(r * tile.part_stride + v * $lanes), *p) };
                    }
                }
            }

            /// # Safety
            /// That of [`Tile::run`].
            pub(super) unsafe fn $dispatch(tile: &Tile, rows: usize, vectors: usize) {
                // SAFETY: the caller's promise, passed on.
                unsafe {
                    match (rows, vectors) {
                        $(($rows, $vectors) => $name::<$rows, $vectors>(tile),)*
                        _ => unreachable!("no tile of {rows} rows and {vectors} vectors"),
                    }
                }
            }
        };
    }

    tile!(tile512, avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", 16, _mm512_setzero_ps, _mm512_loadu_ps,
        _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, [
            1 x 1, 2 x 1, 3 x 1, 4 x 1, 5 x 1, 6 x 1, 7 x 1, 8 x 1,
            1 x 2, 2 x 2, 3 x 2, 4 x 2, 5 x 2, 6 x 2, 7 x 2, 8 x 2,
            1 x 3, 2 x 3, 3 x 3, 4 x 3, 5 x 3, 6 x 3, 7 x 3, 8 x 3,
            1 x 4, 2 x 4, 3 x 4, 4 x 4, 5 x 4, 6 x 4]);
    tile!(tile256, avx2, "avx2,fma,f16c", 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps,
        _mm256_fmadd_ps, [
            1 x 1, 2 x 1, 3 x 1, 4 x 1,
            1 x 2, 2 x 2, 3 x 2, 4 x 2,
            1 x 3, 2 x 3, 3 x 3,
            1 x 4, 2 x 4]);
}

//! Attention, and the tables that say which keys and values a row of queries reads.

use super::linear::group_args;
use super::rows::Rows;
use super::{BLOCK, MOST_ACROSS, Operand, Result, THREADS, blocks_for, kernel, request_stride, short, slices};
use crate::engine::cuda::driver::Arg;
use crate::engine::cuda::memory::{Buffer, Device, Tensor};
use crate::engine::ops::Extent;
use candor_sdk::program::DType;
use std::rc::Rc;

/// Queries of a head that share what is loaded of the keys, where there are few; each of its heads is one.
const QUERIES: usize = 8;
/// The same where there are many: `LINES` of attention_tiles.cu.
const LINES: usize = 64;
/// How many are many: tiles that are half empty are still the faster ones.
const MANY: usize = LINES / 2;

/// Bytes of scores and mixes of attention at a time.
const ATTENTION_BYTES: usize = 256 << 20;

/// Bytes of `Tile` in attention.cu.
const TILE_BYTES: usize = 24;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Of queries.
    pub(crate) heads: usize,
    /// That share one of keys.
    pub(crate) group: usize,
    /// Columns of a head of keys.
    pub(crate) key_width: usize,
    /// Columns of a head of values.
    pub(crate) value_width: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

/// Which keys and values rows of queries read: the tables of attention.cu.
pub(crate) struct AttentionRows {
    tiles: Rc<Buffer>,
    pub(crate) extents: Rc<Buffer>,
    /// First row and rows of each tile, in order.
    spans: Vec<(usize, usize)>,
    /// The most positions that a row may see.
    pub(crate) longest: usize,
    /// Whether tiles have as many rows as attention_tiles.cu wants.
    many: bool,
}

/// Rows that share keys and values: where both lie, and how many rows.
pub(crate) struct Readers {
    pub(crate) keys: u64,
    pub(crate) values: u64,
    pub(crate) rows: usize,
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
    pub(crate) fn new(
        device: &Device,
        group: usize,
        readers: &[Readers],
        extents: Rc<Buffer>,
        longest: usize,
    ) -> Result<Self> {
        let many = readers.iter().any(|reader| reader.rows * group >= MANY);
        // As many rows as fill one load of keys with queries.
        let each = if many { (LINES / group).max(1) } else { QUERIES.div_ceil(group) };
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
        Ok(Self { tiles: device.upload(&bytes)?, extents, spans, longest, many })
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

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

impl Device {
    /// Attention of rows of queries over the keys and values that their tiles name; and quantised, if groups have a size.
    pub(crate) fn attention(
        &self,
        queries: &Tensor,
        shape: &Heads,
        rows: &AttentionRows,
        group_size: Option<usize>,
    ) -> Result<Rows> {
        let Heads { heads, group, key_width, value_width, .. } = *shape;
        let out = self.tensor(DType::F32, queries.rows, heads * value_width)?;
        let room = group_size.filter(|_| !rows.many).map(|size| self.quantised_room(out.rows, out.cols, size));
        let quantised = room.transpose()?;
        let size = group_size.unwrap_or(1);
        // The fewest heads whose columns are whole groups.
        let together = size / common_divisor(size, value_width);
        let (stride, blocks) = (rows.longest, rows.longest.div_ceil(BLOCK));
        let mix_width = if rows.many { 0 } else { value_width };
        let row_bytes = 4 * (stride + blocks * (1 + mix_width)) * heads;
        let (h, g, s) = (short(heads)?, short(group)?, short(stride)?);
        for part in rows.parts((ATTENTION_BYTES / row_bytes.max(1)).max(1)) {
            let lines = part.rows * heads;
            let scores = self.allocate(4 * lines * stride)?;
            let maxima = self.allocate(4 * lines * blocks)?;
            let (table, base) = (rows.table(&part), short(part.first_row)?);
            let grid = [short(heads / group)?, short(blocks)?, short(part.tiles)?];
            let shape_args = args![h, g, short(key_width)?, s, base, shape.scale];
            let args = [args![&scores, &maxima, queries, table, &rows.extents].as_slice(), shape_args].concat();
            let mix_shape = args![h, g, short(value_width)?, s, base];
            if rows.many {
                self.launch(kernel::attention_tile_scores, grid, THREADS, &args)?;
                let args = [args![&out, &scores, &maxima, table, &rows.extents].as_slice(), mix_shape].concat();
                let grid = [grid[0], short(value_width.div_ceil(BLOCK))?, grid[2]];
                self.launch(kernel::attention_tile_mix, grid, THREADS, &args)?;
                continue;
            }
            self.launch(kernel::attention_scores, grid, 128, &[args.as_slice(), args![0u32]].concat())?;
            let mixes = self.allocate(4 * lines * blocks * value_width)?;
            let args = [args![&mixes, &scores, &maxima, table, &rows.extents].as_slice(), mix_shape].concat();
            self.launch(kernel::attention_mixes, grid, 128, &args)?;
            let head = args![&out, &mixes, &scores, &rows.extents, h, short(value_width)?, s, base, short(together)?];
            let args = [head.as_slice(), &group_args(quantised.as_ref(), size)?].concat();
            let blocks = part.rows * heads.div_ceil(together);
            self.launch(kernel::attention_quotients, [short(blocks)?, 1, 1], 128, &args)?;
        }
        match group_size.filter(|_| rows.many) {
            Some(size) => self.quantised_groups(&out, size).map(|quantised| (out, Some(quantised))),
            None => Ok((out, quantised)),
        }
    }

    /// Scores by themselves: row `i * heads + h`, column `j`, +0 where a causal row does not see.
    pub(crate) fn attention_scores(&self, queries: &Tensor, shape: &Heads, rows: &AttentionRows) -> Result<Tensor> {
        let Heads { heads, group, key_width, .. } = *shape;
        let out = self.tensor(DType::F32, queries.rows * heads, rows.longest)?;
        for part in rows.parts(usize::MAX) {
            let grid = [short(heads / group)?, short(rows.longest.div_ceil(BLOCK))?, short(part.tiles)?];
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
    pub(crate) fn attention_mix(
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

    /// Appends rows to caches; all three tables have an entry for each row.
    pub(crate) fn append_rows(
        &self,
        (key_caches, value_caches): (&Rc<Buffer>, &Rc<Buffer>),
        positions: &Rc<Buffer>,
        (keys, values): (&Tensor, &Tensor),
    ) -> Result<()> {
        let count = keys.len() + values.len();
        let widths = [short(keys.cols)?, short(values.cols)?];
        let args = args![key_caches, value_caches, positions, keys, values, count as u64, widths[0], widths[1]];
        self.over(kernel::append_rows, count, args)
    }
}

//! Operations that move elements: views, column and row lookup.

use super::{Extent, elements, for_each_row};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, bail};
use candor_sdk::program::BoundView;
use std::sync::Arc;

/// A view whose every element exists and lies where row and column say independently: windows without padding, slices,
/// transpositions. Element (`r`, `c`) is element `rows[r] + columns[c]` of the source.
#[derive(Debug, PartialEq, Eq)]
pub struct Windows {
    /// Where a row begins.
    pub rows: Vec<u32>,
    /// Where an element lies from there.
    pub columns: Vec<u32>,
}

/// A view to read through, and the elements of its source per request.
pub type Seen = (Arc<Windows>, usize);

/// A view of one request's tensor for given shapes.
#[derive(Clone, Debug)]
pub enum IndexMap {
    /// Rows and columns are renamed, elements stay.
    Identity,
    /// Rows and columns are independent.
    Windows(Arc<Windows>),
    /// The position in the source of each element, [`IndexMap::FILL`] where there is none.
    Table(Arc<Vec<u32>>),
}

impl IndexMap {
    /// Stands for an element that the source does not have.
    pub const FILL: u32 = u32::MAX;

    /// The simplest form of a view of `rows x cols` of a source of `source`. `None` if either has more elements than
    /// positions.
    pub fn new(view: &BoundView, (rows, cols): (usize, usize), source: Extent) -> Option<Self> {
        let len = rows.checked_mul(cols)?;
        if source.len() >= Self::FILL as usize || len >= Self::FILL as usize {
            return None;
        }
        let position = |r: usize, c: usize| view.source(r, c).map_or(Self::FILL, |(r, c)| (r * source.cols + c) as u32);
        let positions = || (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c)));
        if len == source.len() && positions().enumerate().all(|(i, (r, c))| position(r, c) as usize == i) {
            return Some(Self::Identity);
        }
        let first = position(0, 0);
        let windows = Windows {
            rows: (0..rows).map(|r| position(r, 0)).collect(),
            columns: (0..cols).map(|c| position(0, c).wrapping_sub(first)).collect(),
        };
        let independent = |(r, c): (usize, usize)| {
            let sum = u64::from(windows.rows[r]) + u64::from(windows.columns[c]);
            position(r, c) != Self::FILL && sum == u64::from(position(r, c))
        };
        if positions().all(independent) {
            return Some(Self::Windows(Arc::new(windows)));
        }
        Some(Self::Table(Arc::new(positions().map(|(r, c)| position(r, c)).collect())))
    }
}

/// A view that moves elements.
pub struct View {
    /// Where they come from.
    pub map: IndexMap,
    /// The element where they come from nowhere: f32 bits or an integer.
    pub fill: u32,
    /// Requests in the batch.
    pub batch: usize,
    /// Shape of the result.
    pub out: Extent,
    /// Shape of the source.
    pub source: Extent,
}

impl View {
    fn run<T: Copy + Default + Send + Sync>(&self, source: &[T], fill: T) -> Vec<T> {
        let mut out = vec![T::default(); self.batch * self.out.len()];
        let cols = self.out.cols;
        for_each_row(&mut out, cols, cols, |i, out| {
            let (request, row) = (i / self.out.rows, i % self.out.rows);
            let base = if self.source.shared { 0 } else { request * self.source.len() };
            let source = &source[base..][..self.source.len()];
            match &self.map {
                IndexMap::Identity => out.copy_from_slice(&source[row * cols..][..cols]),
                IndexMap::Windows(windows) => {
                    let source = &source[windows.rows[row] as usize..];
                    for (out, &column) in out.iter_mut().zip(&windows.columns) {
                        *out = source[column as usize];
                    }
                }
                IndexMap::Table(positions) => {
                    for (out, &position) in out.iter_mut().zip(&positions[row * cols..]) {
                        *out = source.get(position as usize).copied().unwrap_or(fill);
                    }
                }
            }
        });
        out
    }
}

impl CustomOp1 for View {
    fn name(&self) -> &'static str {
        "view"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match x {
            CpuStorage::F32(_) => CpuStorage::F32(self.run(elements(x, layout)?, f32::from_bits(self.fill))),
            CpuStorage::U32(_) => CpuStorage::U32(self.run(elements(x, layout)?, self.fill)),
            CpuStorage::U8(_) => CpuStorage::U8(self.run(elements(x, layout)?, self.fill as u8)),
            _ => bail!("view: unsupported element type"),
        };
        Ok((out, (self.batch * self.out.rows, self.out.cols).into()))
    }
}

/// Column lookup: `x[r, index[0, c]]`.
pub struct Take {
    /// Requests in the batch.
    pub batch: usize,
    /// Shape of `x`.
    pub x: Extent,
    /// Shape of the indices: one row.
    pub index: Extent,
}

impl Take {
    fn run<T: Copy + Default + Send + Sync>(&self, x: &[T], index: &[u32]) -> Result<Vec<T>> {
        if let Some(index) = index.iter().find(|&&i| i as usize >= self.x.cols) {
            bail!("take: index {index} is out of range: {} columns", self.x.cols);
        }
        let mut out = vec![T::default(); self.batch * self.x.rows * self.index.cols];
        for_each_row(&mut out, self.index.cols, self.index.cols, |i, out| {
            let (request, row) = (i / self.x.rows, i % self.x.rows);
            let x = self.x.row(x, request, row);
            for (out, &index) in out.iter_mut().zip(self.index.row(index, request, 0)) {
                *out = x[index as usize];
            }
        });
        Ok(out)
    }
}

impl CustomOp2 for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, index: &CpuStorage, li: &Layout) -> Result<(CpuStorage, Shape)> {
        let index = elements::<u32>(index, li)?;
        let out = match x {
            CpuStorage::F32(_) => CpuStorage::F32(self.run(elements(x, lx)?, index)?),
            CpuStorage::U32(_) => CpuStorage::U32(self.run(elements(x, lx)?, index)?),
            CpuStorage::U8(_) => CpuStorage::U8(self.run(elements(x, lx)?, index)?),
            _ => bail!("take: unsupported element type"),
        };
        Ok((out, (self.batch * self.x.rows, self.index.cols).into()))
    }
}

/// Elements of each request as big-endian bytes, row by row: `[batch, bytes]`.
pub struct Encode {
    /// Requests in the batch.
    pub batch: usize,
}

impl CustomOp1 for Encode {
    fn name(&self) -> &'static str {
        "encode"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out: Vec<u8> = match x {
            CpuStorage::F32(_) => elements::<f32>(x, layout)?.iter().flat_map(|x| x.to_be_bytes()).collect(),
            CpuStorage::U32(_) => elements::<u32>(x, layout)?.iter().flat_map(|x| x.to_be_bytes()).collect(),
            CpuStorage::U8(_) => elements::<u8>(x, layout)?.to_vec(),
            _ => bail!("encode: unsupported element type"),
        };
        let shape = (self.batch, out.len() / self.batch).into();
        Ok((CpuStorage::U8(out), shape))
    }
}

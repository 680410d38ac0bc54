//! Operations along rows.

use super::{Extent, elements, for_each_row, index::Windows};
use crate::engine::kernels::{Isa, rows};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use candor_sdk::arithmetic::reduction;
use candor_sdk::program::Op;
use std::sync::Arc;

/// One number for each row.
pub struct Reduce {
    /// Kernels to use.
    pub isa: Isa,
    /// Which number.
    pub reduction: rows::Reduction,
    /// Raggedness, as [`Op::extent`] says; elements beyond are not looked at.
    pub causal: u32,
    /// Shape of the operand.
    pub x: Extent,
}

impl CustomOp1 for Reduce {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements::<f32>(x, layout)?;
        let Extent { rows, cols, .. } = self.x;
        let mut out = vec![0f32; x.len() / cols];
        if self.causal == 0 {
            let step = (4096 / cols).max(1);
            for_each_row(&mut out, step, step * cols, |i, out| {
                rows::reduce_rows(self.isa, self.reduction, &x[i * step * cols..][..out.len() * cols], cols, out);
            });
        } else {
            for_each_row(&mut out, 1, cols, |i, out| {
                let row = &x[i * cols..][..Op::extent(self.causal, i % rows, cols)];
                rows::reduce_rows(self.isa, self.reduction, row, row.len(), out);
            });
        }
        let shape = (out.len(), 1).into();
        Ok((CpuStorage::F32(out), shape))
    }
}

/// The largest element of each row of a view, without making the view.
pub struct WindowMax {
    /// Kernels to use.
    pub isa: Isa,
    /// The view.
    pub windows: Arc<Windows>,
    /// Requests in the batch.
    pub batch: usize,
    /// Elements of the source per request.
    pub stride: usize,
}

impl CustomOp1 for WindowMax {
    fn name(&self) -> &'static str {
        "window max"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements::<f32>(x, layout)?;
        let Windows { rows, columns } = &*self.windows;
        let mut out = vec![0f32; self.batch * rows.len()];
        for_each_row(&mut out, rows.len(), rows.len() * columns.len(), |request, out| {
            rows::window_maxima(self.isa, &x[request * self.stride..][..self.stride], rows, columns, out);
        });
        let shape = (out.len(), 1).into();
        Ok((CpuStorage::F32(out), shape))
    }
}

/// Index of the largest element of each row, the lowest among equals.
pub struct Argmax {
    /// Columns of the operand.
    pub cols: usize,
}

impl CustomOp1 for Argmax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements::<f32>(x, layout)?;
        let mut out = vec![0u32; x.len() / self.cols];
        for_each_row(&mut out, 1, self.cols, |i, out| {
            out[0] = reduction::argmax(&x[i * self.cols..][..self.cols]).map_or(0, |index| index as u32);
        });
        let shape = (out.len(), 1).into();
        Ok((CpuStorage::U32(out), shape))
    }
}

//! Operations along rows.

use super::{Extent, elements, for_each_row};
use crate::engine::kernels::{Isa, rows};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use candor_sdk::arithmetic::reduction;
use candor_sdk::program::Op;

/// What a row becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Its sum.
    Sum,
    /// The sum of its squares.
    SumSquares,
    /// Its largest element.
    Max,
}

/// One number for each row.
pub struct Reduce {
    /// Kernels to use.
    pub isa: Isa,
    /// Which number.
    pub reduction: Reduction,
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
        for_each_row(&mut out, 1, cols, |i, out| {
            let row = &x[i * cols..][..Op::extent(self.causal, i % rows, cols)];
            out[0] = match self.reduction {
                Reduction::Sum => rows::sum(self.isa, row),
                Reduction::SumSquares => rows::sum_squares(self.isa, row),
                Reduction::Max => rows::maximum(self.isa, row),
            };
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

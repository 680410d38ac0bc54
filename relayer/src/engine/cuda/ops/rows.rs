//! Reductions of rows, norms and softmax.

use super::{Operand, Result, THREADS, WARP, kernel, short};
use crate::engine::cuda::driver::Arg;
use crate::engine::cuda::memory::{Device, Tensor};
use crate::engine::kernels::rows::Reduction;
use candor_sdk::program::DType;

impl Device {
    /// A number for each row.
    pub(crate) fn reduce(&self, reduction: Reduction, causal: u32, (x, extent): Operand<'_>) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, 1)?;
        let kind: u32 = match reduction {
            Reduction::Sum => 0,
            Reduction::SumSquares => 1,
            Reduction::Max => 2,
        };
        let args = args![&out, x, short(x.rows)?, short(extent.rows)?, short(x.cols)?, causal, kind];
        if x.cols > 1024 {
            self.launch(kernel::reduce_wide, [short(x.rows)?, 1, 1], 512, args)?;
        } else {
            let rows_per_block = THREADS as usize / WARP;
            self.launch(kernel::reduce_narrow, [short(x.rows.div_ceil(rows_per_block))?, 1, 1], THREADS, args)?;
        }
        Ok(out)
    }

    /// The index of each row's greatest element.
    pub(crate) fn argmax(&self, x: &Tensor) -> Result<Tensor> {
        let out = self.tensor(DType::U32, x.rows, 1)?;
        let threads = short(x.cols.next_power_of_two().clamp(WARP, 1024))?;
        self.launch(kernel::argmax_rows, [short(x.rows)?, 1, 1], threads, args![&out, x, short(x.cols)?])?;
        Ok(out)
    }

    /// RMS norm, or layer norm if there is a bias.
    pub(crate) fn norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, epsilon: f32) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        let (grid, threads) = ([short(x.rows)?, 1, 1], row_threads(x.cols)?);
        match bias {
            None => self.launch(kernel::rms_norm, grid, threads, args![&out, x, weight, short(x.cols)?, epsilon])?,
            Some(bias) => {
                let args = args![&out, x, weight, bias, short(x.cols)?, epsilon];
                self.launch(kernel::layer_norm, grid, threads, args)?;
            }
        }
        Ok(out)
    }

    /// Softmax of each row.
    pub(crate) fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        self.launch(kernel::softmax, [short(x.rows)?, 1, 1], row_threads(x.cols)?, args![&out, x, short(x.cols)?])?;
        Ok(out)
    }
}

fn row_threads(cols: usize) -> Result<u32> {
    short(cols.next_multiple_of(WARP).clamp(WARP, 512))
}

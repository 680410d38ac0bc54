//! Reductions of rows, norms and softmax.

use super::{Operand, Result, THREADS, WARP, address, kernel, short};
use crate::engine::cuda::driver::Arg;
use crate::engine::cuda::memory::{Device, Tensor};
use crate::engine::kernels::rows::Reduction;
use candor_sdk::program::DType;

/// A norm: RMS norm, or layer norm if there is a bias. Weight and bias are rows.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) epsilon: f32,
}

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

    /// RMS norm of the rows of `x`, or layer norm if there is a bias.
    pub(crate) fn norm(&self, x: &Tensor, norm: Norm<'_>) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        self.norm_into(&out, None, x, norm)?;
        Ok(out)
    }

    /// The sum of two tensors of one shape, and its norm.
    pub(crate) fn add_and_norm(&self, x: &Tensor, y: &Tensor, norm: Norm<'_>) -> Result<(Tensor, Tensor)> {
        let sum = self.tensor(DType::F32, x.rows, x.cols)?;
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        self.norm_into(&out, Some((&sum, y)), x, norm)?;
        Ok((sum, out))
    }

    fn norm_into(&self, out: &Tensor, sum: Option<(&Tensor, &Tensor)>, x: &Tensor, norm: Norm<'_>) -> Result<()> {
        let (grid, threads) = ([short(x.rows)?, 1, 1], row_threads(x.cols)?);
        let Norm { weight, bias, epsilon } = norm;
        let (sum, y) = (address(sum.map(|(sum, _)| sum)), address(sum.map(|(_, y)| y)));
        let cols = short(x.cols)?;
        match bias {
            None => self.launch(kernel::rms_norm, grid, threads, args![out, sum, x, y, weight, cols, epsilon]),
            Some(bias) => {
                let args = args![out, sum, x, y, weight, bias, cols, epsilon];
                self.launch(kernel::layer_norm, grid, threads, args)
            }
        }
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

//! Reductions of rows, norms and softmax.

use super::linear::{Quantised, group_args};
use super::{Operand, Result, SPAN, THREADS, WARP, address, kernel, short};
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

/// Rows that a launch made, and how it quantised them.
pub(crate) type Rows = (Tensor, Option<Quantised>);

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

    /// RMS norm of the rows of `x`, or layer norm if there is a bias; and quantised, if groups have a size.
    pub(crate) fn norm(&self, x: &Tensor, norm: Norm<'_>, group: Option<usize>) -> Result<Rows> {
        self.norm_of(None, x, norm, group)
    }

    /// The sum of two tensors of one shape, and its norm.
    pub(crate) fn add_and_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        norm: Norm<'_>,
        group: Option<usize>,
    ) -> Result<(Tensor, Rows)> {
        let sum = self.tensor(DType::F32, x.rows, x.cols)?;
        let normed = self.norm_of(Some((&sum, y)), x, norm, group)?;
        Ok((sum, normed))
    }

    fn norm_of(
        &self,
        sum: Option<(&Tensor, &Tensor)>,
        x: &Tensor,
        norm: Norm<'_>,
        group: Option<usize>,
    ) -> Result<Rows> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        let quantised = group.map(|group| self.quantised_room(x.rows, x.cols, group)).transpose()?;
        let Norm { weight, bias, epsilon } = norm;
        let kernel = if bias.is_some() { kernel::layer_norm } else { kernel::rms_norm };
        let mut args = args![&out, address(sum.map(|(sum, _)| sum)), x, address(sum.map(|(_, y)| y)), weight].to_vec();
        args.extend(bias.map(Arg::from));
        args.extend(args![short(x.cols)?, epsilon]);
        args.extend(group_args(quantised.as_ref(), group.unwrap_or(0))?);
        let threads = (x.cols.div_ceil(SPAN) * WARP).min(1024);
        self.launch(kernel, [short(x.rows)?, 1, 1], short(threads)?, &args)?;
        Ok((out, quantised))
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

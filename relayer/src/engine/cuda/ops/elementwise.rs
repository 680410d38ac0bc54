//! Functions of elements, with broadcasting.

use super::linear::{Quantised, group_args, span_threads};
use super::{Operand, Result, address, kernel, request_stride, short};
use crate::engine::cuda::driver::Arg;
use crate::engine::cuda::memory::{Buffer, Device, Tensor};
use crate::engine::ops::Extent;
use candor_sdk::program::{BinaryFunction, DType, UnaryFunction};
use std::rc::Rc;

/// How an operand is broadcast to a result of `cols` columns: strides of request and row, and how many columns each of its
/// columns serves.
fn broadcast((x, extent): Operand<'_>, cols: usize) -> Result<[Arg; 4]> {
    let request = if extent.shared { 0 } else { extent.len() };
    let row = if extent.rows == 1 { 0 } else { extent.cols };
    Ok([x.into(), short(request)?.into(), short(row)?.into(), short(cols / extent.cols)?.into()])
}

impl Device {
    /// `f(x)` of every element.
    pub(crate) fn unary(&self, function: UnaryFunction, x: &Tensor) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        self.over(kernel::unary_all, x.len(), args![&out, x, x.len() as u64, function as u32])?;
        Ok(out)
    }

    /// `f(x, y)` of every element, broadcast.
    pub(crate) fn binary(
        &self,
        function: BinaryFunction,
        causal: u32,
        batch: usize,
        out: Extent,
        (x, y): (Operand<'_>, Operand<'_>),
    ) -> Result<Tensor> {
        let result = self.tensor(DType::F32, batch * out.rows, out.cols)?;
        let alike = |(_, e): Operand<'_>| (e.rows, e.cols) == (out.rows, out.cols) && (!e.shared || batch == 1);
        if causal == 0 && alike(x) && alike(y) {
            let count = result.len();
            self.over(kernel::binary_alike, count, args![&result, x.0, y.0, count as u64, function as u32])?;
            return Ok(result);
        }
        let shape = args![&result, result.len() as u64, short(out.rows)?, short(out.cols)?, function as u32, causal];
        let args = [shape.as_slice(), &broadcast(x, out.cols)?, &broadcast(y, out.cols)?].concat();
        self.over(kernel::binary_all, result.len(), &args)?;
        Ok(result)
    }

    /// `f(x, y)` of every element of two tensors of one shape, and the rows of that quantised.
    pub(crate) fn binary_groups(
        &self,
        function: BinaryFunction,
        x: &Tensor,
        y: &Tensor,
        group: usize,
    ) -> Result<(Tensor, Quantised)> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        let quantised = self.quantised_room(x.rows, x.cols, group)?;
        let head = args![&out, x, y, x.rows as u64, short(x.cols)?, function as u32];
        let args = [head.as_slice(), &group_args(Some(&quantised), group)?].concat();
        self.over(kernel::binary_groups, span_threads(x), &args)?;
        Ok((out, quantised))
    }

    /// `fma(x, y, z)` or `x != 0 ? y : z` of every element, broadcast.
    pub(crate) fn ternary(&self, select: bool, batch: usize, out: Extent, xyz: [Operand<'_>; 3]) -> Result<Tensor> {
        let result = self.tensor(DType::F32, batch * out.rows, out.cols)?;
        let mut args = args![&result, result.len() as u64, short(out.rows)?, short(out.cols)?].to_vec();
        for operand in xyz {
            args.extend(broadcast(operand, out.cols)?);
        }
        self.over(if select { kernel::select_all } else { kernel::mul_add_all }, result.len(), &args)?;
        Ok(result)
    }

    /// Integers as f32.
    pub(crate) fn convert(&self, x: &Tensor) -> Result<Tensor> {
        let kind: u32 = match x.dtype {
            DType::F32 => return Ok(x.clone()),
            DType::U32 => 0,
            DType::U8 => 1,
            DType::I8 => 2,
        };
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        self.over(kernel::convert_all, x.len(), args![&out, x, x.len() as u64, kind])?;
        Ok(out)
    }

    /// Rotary embedding of `x`, and of `y` of as many rows if there is one; `positions` are those of the rows, else the row
    /// within its request.
    pub(crate) fn rope(
        &self,
        (head, rotary): (u32, u32),
        rows: usize,
        (x, y): (&Tensor, Option<&Tensor>),
        [cos, sin]: [Operand<'_>; 2],
        positions: Option<&Rc<Buffer>>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        let other = y.map(|y| self.tensor(DType::F32, y.rows, y.cols)).transpose()?;
        let (width, count) = (y.map_or(0, |y| y.cols), out.len() + other.as_ref().map_or(0, Tensor::len));
        let args = args![
            &out,
            x,
            short(x.cols)?,
            address(other.as_ref()),
            address(y),
            short(width)?,
            cos.0,
            sin.0,
            address(positions),
            count as u64,
            short(rows)?,
            head,
            rotary,
            short(request_stride(cos.1) as usize)?,
            short(request_stride(sin.1) as usize)?,
        ];
        self.over(kernel::rope_all, count, args)?;
        Ok((out, other))
    }
}

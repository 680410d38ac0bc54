//! Operations that move elements: copies, views, concatenation, lookup of rows and columns, output bytes.

use super::{Operand, Result, address, kernel, request_stride, short};
use crate::engine::cuda::driver::{Arg, DeviceError};
use crate::engine::cuda::memory::{Buffer, Device, Tensor};
use crate::engine::cuda::weights::Packed;
use crate::engine::ops::Extent;
use candor_sdk::program::DType;
use std::rc::Rc;

impl Device {
    /// A tensor that all requests share, once for each of them.
    pub(crate) fn spread(&self, (x, extent): Operand<'_>, batch: usize) -> Result<Tensor> {
        if !extent.shared || batch <= 1 {
            return Ok(x.clone());
        }
        let out = self.tensor(x.dtype, batch * x.rows, x.cols)?;
        for request in 0..batch {
            self.copy_into(&out, request * x.rows, x)?;
        }
        Ok(out)
    }

    /// Copies `x` over the rows of `out` from `row` on; columns are alike.
    pub(crate) fn copy_into(&self, out: &Tensor, row: usize, x: &Tensor) -> Result<()> {
        let to = out.narrowed(row, x.rows)?;
        match x.byte_len() {
            0 => Ok(()),
            bytes => self.with(|driver| driver.copy(to.address(), x.address(), bytes)),
        }
    }

    /// Tensors of equal columns below each other.
    pub(crate) fn stacked(&self, parts: &[Tensor]) -> Result<Tensor> {
        let Some(first) = parts.first() else { return Err(DeviceError::Failed("nothing to stack".to_string())) };
        if parts.len() == 1 {
            return Ok(first.clone());
        }
        let out = self.tensor(first.dtype, parts.iter().map(|part| part.rows).sum(), first.cols)?;
        let mut row = 0;
        for part in parts {
            self.copy_into(&out, row, part)?;
            row += part.rows;
        }
        Ok(out)
    }

    /// A view; `map` is `ViewMap` of index.cu.
    pub(crate) fn view(
        &self,
        map: &Rc<Buffer>,
        fill: u32,
        batch: usize,
        out: Extent,
        (x, extent): Operand<'_>,
    ) -> Result<Tensor> {
        let result = self.tensor(x.dtype, batch * out.rows, out.cols)?;
        let kernel = if x.dtype.size() == 4 { kernel::view_words } else { kernel::view_bytes };
        let args = args![
            &result,
            x,
            map,
            result.len() as u64,
            short(out.rows)?,
            short(out.cols)?,
            short(extent.cols)?,
            request_stride(extent),
            fill,
        ];
        self.over(kernel, result.len(), args)?;
        Ok(result)
    }

    /// Elements moved within each position: `table` says where the `per x cols` elements of one come from among `x_size`.
    pub(crate) fn moved(
        &self,
        table: &Rc<Buffer>,
        fill: u32,
        (positions, per, cols): (usize, usize, usize),
        x: &Tensor,
    ) -> Result<Tensor> {
        let out = self.tensor(x.dtype, positions * per, cols)?;
        let x_size = short(x.len() / positions.max(1))?;
        let args = args![&out, x, table, out.len() as u64, short(per * cols)?, x_size, fill];
        let kernel = if x.dtype.size() == 4 { kernel::move_words } else { kernel::move_bytes };
        self.over(kernel, out.len(), args)?;
        Ok(out)
    }

    /// Operands side by side, or below each other, request by request.
    pub(crate) fn concat(&self, cols: bool, batch: usize, out: Extent, parts: &[Operand<'_>]) -> Result<Tensor> {
        let Some((first, _)) = parts.first() else { return Err(DeviceError::Failed("nothing to concat".to_string())) };
        let size = first.dtype.size();
        let result = self.tensor(first.dtype, batch * out.rows, out.cols)?;
        let (mut top, mut left) = (0, 0);
        for &(x, extent) in parts {
            let width = extent.cols * size;
            let count = batch * extent.rows * width;
            let args = args![
                &result,
                x,
                count as u64,
                short(extent.rows)?,
                short(width)?,
                short(top)?,
                short(left)?,
                short(out.rows)?,
                short(out.cols * size)?,
                request_stride(extent) * size as u64,
            ];
            self.over(kernel::concat_bytes, count, args)?;
            if cols {
                left += width;
            } else {
                top += extent.rows;
            }
        }
        Ok(result)
    }

    /// Rows of a table that nodes compute.
    pub(crate) fn gather_rows(&self, batch: usize, ids: Operand<'_>, table: Operand<'_>) -> Result<Tensor> {
        let size = table.0.dtype.size();
        let (rows, width) = (ids.1.rows, table.1.cols * size);
        let out = self.tensor(table.0.dtype, batch * rows, table.1.cols)?;
        let args = args![
            &out,
            ids.0,
            short(ids.0.dtype.size())?,
            table.0,
            out.byte_len() as u64,
            short(rows)?,
            short(width)?,
            short(table.1.rows)?,
            request_stride(ids.1),
            request_stride(table.1) * size as u64,
        ];
        self.over(kernel::gather_rows, out.byte_len(), args)?;
        Ok(out)
    }

    /// Rows of a weight, widened.
    pub(crate) fn gather_packed(&self, ids: &Tensor, table: &Packed) -> Result<Tensor> {
        let out = self.tensor(DType::F32, ids.len(), table.cols)?;
        let args = args![
            &out,
            ids,
            short(ids.dtype.size())?,
            &table.values,
            address(table.scales.as_ref()),
            out.len() as u64,
            short(table.cols)?,
            short(table.rows)?,
            table.dtype as u32,
        ];
        self.over(kernel::gather_packed, out.len(), args)?;
        Ok(out)
    }

    /// `x[r, columns[c]]`.
    pub(crate) fn take(&self, batch: usize, (x, extent): Operand<'_>, columns: Operand<'_>) -> Result<Tensor> {
        let out = self.tensor(x.dtype, batch * extent.rows, columns.1.cols)?;
        let kernel = if x.dtype.size() == 4 { kernel::take_words } else { kernel::take_bytes };
        let args = args![
            &out,
            x,
            columns.0,
            out.len() as u64,
            short(extent.rows)?,
            short(columns.1.cols)?,
            short(extent.cols)?,
            request_stride(extent),
            request_stride(columns.1),
        ];
        self.over(kernel, out.len(), args)?;
        Ok(out)
    }

    /// Big-endian bytes of each request: `[batch, bytes]`.
    pub(crate) fn encode(&self, x: &Tensor, batch: usize) -> Result<Tensor> {
        if x.dtype.size() == 1 {
            return x.reshaped(batch, x.len() / batch);
        }
        let out = self.tensor(DType::U8, batch, 4 * x.len() / batch)?;
        self.over(kernel::encode_words, x.len(), args![&out, x, x.len() as u64])?;
        Ok(out)
    }
}

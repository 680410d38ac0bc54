//! Linear layers over int8 weights. candle has no signed bytes: tensors of them are stored as u8, bit for bit.

use super::{Extent, elements, for_each_row};
use crate::engine::kernels::elementwise::Epilogue;
use crate::engine::kernels::{Isa, quantised};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::UnaryFunction;

/// Packed int8 weights on a device.
pub type Weights = quantised::Packed<Tensor, Tensor>;

/// Bytes as the signed ones that they are.
fn signed(bytes: &[u8]) -> &[i8] {
    // SAFETY: same size, alignment and lifetime, and every bit pattern is an i8.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

fn signed_mut(bytes: &mut [u8]) -> &mut [i8] {
    // SAFETY: as in `signed`; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Largest magnitude of each block of a row.
pub struct BlockAbsMax {
    /// Kernels to use.
    pub isa: Isa,
    /// Elements of a block.
    pub block: usize,
    /// Columns of the operand.
    pub cols: usize,
}

impl CustomOp1 for BlockAbsMax {
    fn name(&self) -> &'static str {
        "block abs max"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements::<f32>(x, layout)?;
        let (rows, blocks) = (x.len() / self.cols, self.cols.div_ceil(self.block));
        let mut out = vec![0f32; rows * blocks];
        for_each_row(&mut out, blocks, self.cols, |i, out| {
            quantised::group_magnitudes(self.isa, &x[i * self.cols..][..self.cols], self.block, out);
        });
        Ok((CpuStorage::F32(out), (rows, blocks).into()))
    }
}

/// Rows as signed bytes, relative to the largest magnitude of each block.
pub struct Quantise {
    /// Kernels to use.
    pub isa: Isa,
    /// Elements of a block.
    pub block: usize,
    /// Requests in the batch.
    pub batch: usize,
    /// Shape of the operand.
    pub x: Extent,
    /// Shape of the magnitudes.
    pub magnitudes: Extent,
}

impl CustomOp2 for Quantise {
    fn name(&self) -> &'static str {
        "quantise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, most: &CpuStorage, lm: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, most) = (elements::<f32>(x, lx)?, elements::<f32>(most, lm)?);
        let Extent { rows, cols, .. } = self.x;
        let mut out = vec![0u8; self.batch * rows * cols];
        for_each_row(&mut out, cols, cols, |i, out| {
            let (request, row) = (i / rows, i % rows);
            let (x, most) = (self.x.row(x, request, row), self.magnitudes.row(most, request, row));
            quantised::quantise(self.isa, x, most, self.block, signed_mut(out));
        });
        Ok((CpuStorage::U8(out), (self.batch * rows, cols).into()))
    }
}

/// Quantised rows and their magnitudes with quantised weights, then the bias if there is one.
pub struct QuantLinear<'a> {
    /// Kernels to use.
    pub isa: Isa,
    /// The weights.
    pub weights: &'a Weights,
    /// The bias.
    pub bias: Option<Vec<f32>>,
    /// The function that follows in the graph.
    pub then: Option<UnaryFunction>,
}

impl CustomOp2 for QuantLinear<'_> {
    fn name(&self) -> &'static str {
        "quantised linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, most: &CpuStorage, lm: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, most) = (signed(elements::<u8>(x, lx)?), elements::<f32>(most, lm)?);
        let scales: Vec<f32> = most.iter().map(|&most| scalar::div(most, 127.0)).collect();
        let quantised::Packed { n, k, group, values, scales: steps } = self.weights;
        let ((values, lv), (steps, ls)) = (values.storage_and_layout(), steps.storage_and_layout());
        let (Storage::Cpu(values), Storage::Cpu(steps)) = (&*values, &*steps) else {
            bail!("quantised linear: weights and activations on different devices")
        };
        let w = quantised::Packed {
            n: *n,
            k: *k,
            group: *group,
            values: elements::<u8>(values, lv)?,
            scales: elements::<f32>(steps, ls)?,
        };
        let m = x.len() / k;
        let mut out = vec![0f32; m * n];
        let epilogue = Epilogue { bias: self.bias.as_deref(), unary: self.then };
        quantised::linear(self.isa, (x, &scales), &w, m, &epilogue, &mut out);
        Ok((CpuStorage::F32(out), (m, *n).into()))
    }
}

//! Unary and binary functions, selection.

use super::{Extent, elements, for_each_row};
use crate::engine::kernels::{Isa, elementwise};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape};
use candor_sdk::program::{BinaryFunction, Op, UnaryFunction};
use std::borrow::Cow;

/// `f(x)` of every element.
pub struct Unary {
    /// Kernels to use.
    pub isa: Isa,
    /// The function.
    pub function: UnaryFunction,
}

impl CustomOp1 for Unary {
    fn name(&self) -> &'static str {
        "unary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements::<f32>(x, layout)?;
        let mut out = vec![0f32; x.len()];
        const STEP: usize = 4096;
        for_each_row(&mut out, STEP, STEP, |i, out| {
            elementwise::unary(self.isa, self.function, &x[i * STEP..][..out.len()], out);
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// `f(a, b)` of every element, either operand broadcast along rows, columns or requests.
pub struct Binary {
    /// Kernels to use.
    pub isa: Isa,
    /// The function.
    pub function: BinaryFunction,
    /// Raggedness, as [`Op::extent`] says; elements beyond are +0.
    pub causal: u32,
    /// Requests in the batch.
    pub batch: usize,
    /// Shape of the result.
    pub out: Extent,
    /// Shape of the first operand.
    pub a: Extent,
    /// Shape of the second operand.
    pub b: Extent,
}

impl Binary {
    /// Whether an operand lies exactly as the result does, or is one number.
    fn plain(&self, operand: &Extent) -> bool {
        let same = operand.len() == self.out.len() && operand.rows == self.out.rows;
        (same && (!operand.shared || self.batch == 1)) || (operand.shared && operand.len() == 1)
    }
}

impl CustomOp2 for Binary {
    fn name(&self) -> &'static str {
        "binary"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (elements::<f32>(a, la)?, elements::<f32>(b, lb)?);
        let Extent { rows, cols, .. } = self.out;
        let mut out = vec![0f32; self.batch * rows * cols];
        if self.causal == 0 && self.plain(&self.a) && self.plain(&self.b) {
            const STEP: usize = 4096;
            let part = |x: &'_ [f32], i: usize, len: usize| -> std::ops::Range<usize> {
                if x.len() == 1 { 0..1 } else { i * STEP..i * STEP + len }
            };
            for_each_row(&mut out, STEP, STEP, |i, out| {
                let (ra, rb) = (part(a, i, out.len()), part(b, i, out.len()));
                elementwise::binary(self.isa, self.function, &a[ra], &b[rb], out);
            });
        } else {
            for_each_row(&mut out, cols, cols, |i, out| {
                let (request, row) = (i / rows, i % rows);
                let defined = Op::extent(self.causal, row, cols);
                let a = stretched(self.a.row(a, request, row), cols);
                let b = stretched(self.b.row(b, request, row), cols);
                let cut = |x: &[f32]| if x.len() == 1 { 1 } else { defined };
                let (a, b) = (&a[..cut(&a)], &b[..cut(&b)]);
                elementwise::binary(self.isa, self.function, a, b, &mut out[..defined]);
            });
        }
        Ok((CpuStorage::F32(out), (self.batch * rows, cols).into()))
    }
}

/// A row of an operand as `cols` columns, each element standing for as many neighbours as it takes; a single number stays
/// one.
fn stretched(row: &[f32], cols: usize) -> Cow<'_, [f32]> {
    if row.len() == 1 || row.len() == cols {
        return row.into();
    }
    let each = cols / row.len();
    row.iter().flat_map(|&x| std::iter::repeat_n(x, each)).collect()
}

/// A function of three elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryFunction {
    /// `x != 0 ? y : z`
    Select,
    /// `fma(x, y, z)`
    MulAdd,
}

/// `f(x, y, z)` of every element, each operand broadcast.
pub struct Ternary {
    /// Kernels to use.
    pub isa: Isa,
    /// The function.
    pub function: TernaryFunction,
    /// Requests in the batch.
    pub batch: usize,
    /// Shape of the result.
    pub out: Extent,
    /// Shapes of the three operands.
    pub operands: [Extent; 3],
}

impl CustomOp3 for Ternary {
    fn name(&self) -> &'static str {
        "ternary"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        y: &CpuStorage,
        ly: &Layout,
        z: &CpuStorage,
        lz: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let data = [elements::<f32>(x, lx)?, elements::<f32>(y, ly)?, elements::<f32>(z, lz)?];
        let Extent { rows, cols, .. } = self.out;
        let mut out = vec![0f32; self.batch * rows * cols];
        for_each_row(&mut out, cols, cols, |i, out| {
            let [x, y, z] = [0, 1, 2].map(|n| {
                let row = stretched(self.operands[n].row(data[n], i / rows, i % rows), cols);
                if row.len() == cols { row } else { vec![row[0]; cols].into() }
            });
            match self.function {
                TernaryFunction::Select => elementwise::select(self.isa, &x, &y, &z, out),
                TernaryFunction::MulAdd => elementwise::mul_add(self.isa, &x, &y, &z, out),
            }
        });
        Ok((CpuStorage::F32(out), (self.batch * rows, cols).into()))
    }
}

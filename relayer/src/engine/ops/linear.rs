//! Linear layers over packed weights.

use super::{
    elements,
    index::{Seen, Windows},
};
use crate::engine::kernels::gemm::{self, Activations};
use crate::engine::kernels::{Isa, Weight, elementwise::Epilogue};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, WithDType, bail};
use candor_sdk::program::UnaryFunction;
use half::{bf16, f16};

/// `dot(x[r], w[c])` for activations `[rows, k]` and weights in panels (`[panels, k, 48]`), then the bias if there is one,
/// then `then` if there is one.
pub struct Linear {
    /// Kernels to use.
    pub isa: Isa,
    /// Length of the contraction.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// The function that follows in the graph.
    pub then: Option<UnaryFunction>,
    /// The view of `x` that is meant, and the elements of `x` per request; without it, `x` itself.
    pub windows: Option<Seen>,
}

impl Linear {
    fn run(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let x = elements::<f32>(x, lx)?;
        match w {
            CpuStorage::F32(_) => self.typed::<f32>(x, w, lw, bias),
            CpuStorage::F16(_) => self.typed::<f16>(x, w, lw, bias),
            CpuStorage::BF16(_) => self.typed::<bf16>(x, w, lw, bias),
            _ => bail!("linear: weights are neither f32, f16 nor bf16"),
        }
    }

    fn typed<W: Weight + WithDType>(
        &self,
        x: &[f32],
        w: &CpuStorage,
        lw: &Layout,
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let w = elements::<W>(w, lw)?;
        let (x, m) = match &self.windows {
            None => (Activations::Dense(x), x.len() / self.k),
            Some((windows, stride)) => {
                let Windows { rows, columns } = &**windows;
                (Activations::Windows { data: x, stride: *stride, rows, columns }, x.len() / stride * rows.len())
            }
        };
        let mut out = vec![0f32; m * self.n];
        gemm::linear(self.isa, x, w, m, self.k, self.n, &Epilogue { bias, unary: self.then }, &mut out);
        Ok((CpuStorage::F32(out), (m, self.n).into()))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(x, lx, w, lw, None)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(x, lx, w, lw, Some(elements(bias, lb)?))
    }
}

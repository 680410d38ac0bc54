//! The stored bytes of weights whose packed form is all that serving reads.
//!
//! Packing moves numbers and changes none, so a loaded model keeps one copy of each weight that a contraction multiplies by: the
//! packed one. Whoever asks for the bytes as they were stored, a dispute that opens a leaf, has them made from it, and has them
//! from then on. Rows of a table that is also a layer are looked up in its panels.

use super::kernels::{Weight, gemm};
use super::ops::{elements, for_each_row, quantised};
use candle_core::{Error, Result, Storage, Tensor};
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{WeightTensor, WeightType};
use half::{bf16, f16};
use rayon::prelude::*;
use std::sync::OnceLock;

/// A weight in the layout of its kernel.
#[derive(Clone, Debug)]
pub(super) enum Packed {
    /// Panels of f32, f16 or bf16, stored as this type: the same, or f32.
    Panels(Tensor, WeightType),
    /// Packed int8 weights, stored as this type.
    Int8(quantised::Weights, WeightType),
}

/// The numbers of a packed weight.
enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16], WeightType),
    Bf16(&'a [bf16], WeightType),
    Int8(crate::engine::kernels::quantised::Borrowed<'a>, WeightType),
}

impl Packed {
    fn with<T>(&self, f: impl FnOnce(Numbers<'_>) -> T) -> Result<T> {
        let elsewhere = || Error::msg("packed weights are not in this machine's memory");
        match self {
            Self::Panels(panels, dtype) => {
                let (storage, layout) = panels.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else { return Err(elsewhere()) };
                Ok(f(match panels.dtype() {
                    candle_core::DType::F16 => Numbers::F16(elements(storage, layout)?, *dtype),
                    candle_core::DType::BF16 => Numbers::Bf16(elements(storage, layout)?, *dtype),
                    _ => Numbers::F32(elements(storage, layout)?),
                }))
            }
            Self::Int8(weights, dtype) => {
                let (values, lv) = weights.values.storage_and_layout();
                let (scales, ls) = weights.scales.storage_and_layout();
                let (Storage::Cpu(values), Storage::Cpu(scales)) = (&*values, &*scales) else {
                    return Err(elsewhere());
                };
                let (values, scales) = (elements(values, lv)?, elements(scales, ls)?);
                let (n, k, group) = (weights.n, weights.k, weights.group);
                Ok(f(Numbers::Int8(crate::engine::kernels::quantised::Packed { n, k, group, values, scales }, *dtype)))
            }
        }
    }

    /// Whether the bytes of a tensor can be made from this.
    pub(super) fn holds(&self, tensor: &WeightTensor) -> Result<bool> {
        let k = tensor.cols();
        let same = |numbers: &Numbers<'_>, row: usize| {
            let mut bytes = Vec::with_capacity(tensor.row(row).len());
            numbers.store(row, k, &mut bytes);
            bytes == tensor.row(row)
        };
        self.with(|numbers| (0..tensor.rows()).into_par_iter().all(|row| same(&numbers, row)))
    }

    /// Rows as f32, NaN canonical.
    pub(super) fn lookup(&self, rows: &[u32], cols: usize) -> Result<Vec<f32>> {
        let mut out = vec![0f32; rows.len() * cols];
        self.with(|numbers| for_each_row(&mut out, cols, cols, |i, out| numbers.widen(rows[i] as usize, out)))?;
        Ok(out)
    }
}

impl Numbers<'_> {
    /// Appends the bytes of a row of `k` elements as they are stored.
    fn store(&self, row: usize, k: usize, bytes: &mut Vec<u8>) {
        fn each<const N: usize>(bytes: &mut Vec<u8>, row: impl Iterator<Item = [u8; N]>) {
            row.for_each(|w| bytes.extend(w));
        }
        match self {
            Self::F16(panels, WeightType::F16) => each(bytes, gemm::unpack_row(panels, k, row).map(f16::to_le_bytes)),
            Self::Bf16(panels, WeightType::Bf16) => {
                each(bytes, gemm::unpack_row(panels, k, row).map(bf16::to_le_bytes))
            }
            Self::F32(panels) => each(bytes, gemm::unpack_row(panels, k, row).map(f32::to_le_bytes)),
            Self::F16(panels, _) => each(bytes, gemm::unpack_row(panels, k, row).map(|w| w.widen().to_le_bytes())),
            Self::Bf16(panels, _) => each(bytes, gemm::unpack_row(panels, k, row).map(|w| w.widen().to_le_bytes())),
            Self::Int8(packed, dtype) => {
                let (mut values, scales) = packed.row(row);
                for scale in scales {
                    match dtype {
                        WeightType::Q8_0 => bytes.extend(scalar::f16_from_f32(scale).to_le_bytes()),
                        _ => bytes.extend(scale.to_le_bytes()),
                    }
                    bytes.extend(values.by_ref().take(packed.group).map(|value| value as u8));
                }
            }
        }
    }

    /// A row as f32.
    fn widen(&self, row: usize, out: &mut [f32]) {
        fn each<W: Weight>(out: &mut [f32], row: impl Iterator<Item = W>) {
            out.iter_mut().zip(row).for_each(|(out, w)| *out = scalar::canonical(w.widen()));
        }
        match self {
            Self::F32(panels) => each(out, gemm::unpack_row(panels, out.len(), row)),
            Self::F16(panels, _) => each(out, gemm::unpack_row(panels, out.len(), row)),
            Self::Bf16(panels, _) => each(out, gemm::unpack_row(panels, out.len(), row)),
            Self::Int8(packed, _) => {
                let (mut values, scales) = packed.row(row);
                for (out, scale) in out.chunks_mut(packed.group).zip(scales) {
                    for (out, value) in out.iter_mut().zip(values.by_ref()) {
                        *out = scalar::canonical(scalar::mul(f32::from(value), scale));
                    }
                }
            }
        }
    }
}

/// Bytes that are made when they are asked for.
pub(super) struct Unpacked {
    packed: Packed,
    rows: usize,
    cols: usize,
    bytes: OnceLock<Vec<u8>>,
}

impl Unpacked {
    /// Those of a tensor that `packed` [holds](Packed::holds).
    pub(super) fn new(packed: Packed, tensor: &WeightTensor) -> Self {
        Self { packed, rows: tensor.rows(), cols: tensor.cols(), bytes: OnceLock::new() }
    }
}

impl AsRef<[u8]> for Unpacked {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get_or_init(|| {
            let mut bytes = Vec::new();
            // On this thread alone: one of the pool that waits for others might take up work that waits for these bytes.
            let stored =
                self.packed.with(|numbers| (0..self.rows).for_each(|row| numbers.store(row, self.cols, &mut bytes)));
            stored.expect("`holds` has read the same numbers");
            bytes
        })
    }
}

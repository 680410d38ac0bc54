//! A model's weights and constants as candle tensors, each in the layout that its readers want, and in no other.

use super::error::LoadError;
use super::kernels::{Weight, gemm, quantised as kernel};
use super::narrow::narrowed;
use super::ops::{Extent, quantised};
use super::unpacked::{Packed, Unpacked};
use candle_core::{Device, Error, Result, Tensor, WithDType, bail};
use candor_sdk::arithmetic::quantised::Quantised;
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{Model, Op, Operand, WeightBytes, WeightTensor, WeightType};
use half::{bf16, f16};
use std::collections::HashMap;
use std::sync::Arc;

/// How nodes read a weight.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    packed: bool,
    quantised: bool,
    plain: bool,
}

/// Everything of a model that does not depend on the request.
#[derive(Default)]
pub(super) struct Operands {
    /// Panels `[panels, k, 48]`, by weight, where a contraction reads it: in the stored type, or a narrower one that holds the same numbers.
    packed: HashMap<u32, Tensor>,
    /// `[rows, cols]`, by weight, for all other readers: floats widened to f32.
    plain: HashMap<u32, (Tensor, Extent)>,
    /// Packed int8 weights, by weight.
    quantised: HashMap<u32, quantised::Weights>,
    constants: HashMap<u32, Tensor>,
}

impl Operands {
    /// Places the weights on `device`, one after the other. What is packed is no longer kept as it was stored, and of the rest
    /// nothing but the tensor itself: with its last tensor goes a file.
    pub(super) fn load(model: &mut Model, device: &Device) -> std::result::Result<Self, LoadError> {
        let failed = |source| LoadError::Device { device: "cpu".to_string(), source };
        let mut operands = Self::default();
        let mut uses: Vec<Uses> = vec![Uses::default(); model.weights.tensors().len()];
        for node in &model.program.nodes {
            for (position, operand) in node.inputs.iter().enumerate() {
                match operand {
                    Operand::Node(_) => {}
                    Operand::Constant(bits) => operands.add_constant(*bits, device).map_err(failed)?,
                    Operand::Weight(weight) => {
                        let Some(uses) = uses.get_mut(*weight as usize) else { continue }; // refused by `validate`
                        match (&node.op, position) {
                            (Op::Linear, 1) => uses.packed = true,
                            (Op::QuantLinear, 2) => uses.quantised = true,
                            // Rows are looked up where the model keeps them.
                            (Op::Gather, 1) => {}
                            _ => uses.plain = true,
                        }
                    }
                }
            }
        }
        for (weight, uses) in (0u32..).zip(uses) {
            if let Some(tensor) = model.weights.get(weight) {
                let kept = operands.place(weight, tensor, uses, device).map_err(failed)?;
                model.weights.keep_in(weight, kept);
            }
        }
        Ok(operands)
    }

    /// Places a weight for each of its uses, and says where its bytes are from now on.
    fn place(&mut self, weight: u32, tensor: &WeightTensor, uses: Uses, device: &Device) -> Result<WeightBytes> {
        if uses.plain {
            self.add_plain(weight, tensor, device)?;
        }
        if uses.packed {
            self.add_packed(weight, tensor, device)?;
        }
        if uses.quantised {
            self.add_quantised(weight, tensor, device)?;
        }
        Ok(match self.table(weight, tensor) {
            Some(packed) if packed.holds(tensor)? => Arc::new(Unpacked::new(packed, tensor)),
            _ => Arc::new(tensor.bytes().to_vec()),
        })
    }

    /// The packed form of a weight, if it has one.
    pub(super) fn table(&self, weight: u32, tensor: &WeightTensor) -> Option<Packed> {
        let panels = self.packed.get(&weight).cloned().map(|panels| Packed::Panels(panels, tensor.dtype()));
        panels.or_else(|| Some(Packed::Int8(self.quantised.get(&weight)?.clone(), tensor.dtype())))
    }

    /// The packed panels of a weight.
    pub(super) fn packed(&self, weight: u32) -> Option<&Tensor> {
        self.packed.get(&weight)
    }

    /// A weight as `[rows, cols]`.
    pub(super) fn plain(&self, weight: u32) -> Option<&(Tensor, Extent)> {
        self.plain.get(&weight)
    }

    /// A packed int8 weight.
    pub(super) fn quantised(&self, weight: u32) -> Option<&quantised::Weights> {
        self.quantised.get(&weight)
    }

    /// A constant, `[1, 1]`.
    pub(super) fn constant(&self, bits: u32) -> Option<&Tensor> {
        self.constants.get(&bits)
    }

    fn add_constant(&mut self, bits: u32, device: &Device) -> Result<()> {
        let tensor = Tensor::from_vec(vec![f32::from_bits(bits)], (1, 1), device)?;
        self.constants.insert(bits, tensor);
        Ok(())
    }

    fn add_packed(&mut self, weight: u32, tensor: &WeightTensor, device: &Device) -> Result<()> {
        let narrowed = narrowed(tensor);
        let tensor = narrowed.as_ref().unwrap_or(tensor);
        let packed = match tensor.dtype() {
            WeightType::F16 => pack(tensor, f16::from_le_bytes, device),
            WeightType::Bf16 => pack(tensor, bf16::from_le_bytes, device),
            _ => pack(tensor, f32::from_le_bytes, device),
        }?;
        self.packed.insert(weight, packed);
        Ok(())
    }

    fn add_quantised(&mut self, weight: u32, tensor: &WeightTensor, device: &Device) -> Result<()> {
        let Some(group) = tensor.dtype().block() else { bail!("{}: not quantised weights", tensor.name()) };
        let (n, k) = (tensor.rows(), tensor.cols());
        let row = |row: usize| match tensor.dtype() {
            WeightType::Q8_0 => Quantised::from_q8_0(tensor.row(row), k),
            _ => Quantised::from_q8_128(tensor.row(row), k),
        };
        row(0).map_err(Error::wrap)?;
        let packed = kernel::pack_rows(n, k, group, |i| match row(i) {
            Ok(row) => (row.values().to_vec(), row.scales().to_vec()),
            Err(_) => (Vec::new(), Vec::new()), // never: all rows have the length of the first
        });
        let panels = n.div_ceil(kernel::PANEL);
        let weights = quantised::Weights {
            n,
            k,
            group,
            values: Tensor::from_vec(packed.values, (panels, k.div_ceil(4), 4 * kernel::PANEL), device)?,
            scales: Tensor::from_vec(packed.scales, (panels, k.div_ceil(group), kernel::PANEL), device)?,
        };
        self.quantised.insert(weight, weights);
        Ok(())
    }

    fn add_plain(&mut self, weight: u32, tensor: &WeightTensor, device: &Device) -> Result<()> {
        let plain = match tensor.dtype() {
            WeightType::F16 => stored(tensor, |b| scalar::f16_to_f32(u16::from_le_bytes(b)), device),
            WeightType::Bf16 => stored(tensor, |b| scalar::bf16_to_f32(u16::from_le_bytes(b)), device),
            WeightType::U8 => stored(tensor, u8::from_le_bytes, device),
            WeightType::U32 => stored(tensor, u32::from_le_bytes, device),
            WeightType::Q8_0 | WeightType::Q8_128 => {
                let values: Vec<f32> = (0..tensor.rows()).flat_map(|row| tensor.row_f32(row)).collect();
                Tensor::from_vec(values, (tensor.rows(), tensor.cols()), device)
            }
            _ => stored(tensor, |b| scalar::canonical(f32::from_le_bytes(b)), device),
        }?;
        let extent = Extent { shared: true, rows: tensor.rows(), cols: tensor.cols() };
        self.plain.insert(weight, (plain, extent));
        Ok(())
    }
}

fn values<T, const N: usize>(tensor: &WeightTensor, element: impl Fn([u8; N]) -> T) -> Vec<T> {
    tensor.bytes().as_chunks::<N>().0.iter().map(|bytes| element(*bytes)).collect()
}

fn stored<T: WithDType, const N: usize>(
    tensor: &WeightTensor,
    element: impl Fn([u8; N]) -> T,
    device: &Device,
) -> Result<Tensor> {
    Tensor::from_vec(values(tensor, element), (tensor.rows(), tensor.cols()), device)
}

fn pack<W: Weight + WithDType, const N: usize>(
    tensor: &WeightTensor,
    element: impl Fn([u8; N]) -> W + Sync,
    device: &Device,
) -> Result<Tensor> {
    let (n, k) = (tensor.rows(), tensor.cols());
    let packed = gemm::pack_rows(n, k, |row| tensor.row(row).as_chunks::<N>().0.iter().map(|bytes| element(*bytes)));
    Tensor::from_vec(packed, (n.div_ceil(gemm::PANEL), k, gemm::PANEL), device)
}

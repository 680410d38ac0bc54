//! A model's weights on a device, each in the form its readers want.

use super::driver::{Arg, DeviceError};
use super::memory::{Buffer, Device, Tensor};
use super::ops::{MOST_FEW, kernel, short};
use crate::engine::narrow::narrowed;
use crate::engine::ops::Extent;
use candor_sdk::program::{DType, Model, Op, Operand, WeightTensor, WeightType};
use std::collections::HashMap;
use std::rc::Rc;

type Result<T> = std::result::Result<T, DeviceError>;

/// Bytes of a weight that are on their way to the device at a time.
const STAGING: usize = 64 << 20;
/// Rows of a panel.
const PANEL: usize = 32;

/// A weight in panels (kernels/weights.cuh).
#[derive(Clone)]
pub(crate) struct Packed {
    pub(super) dtype: WeightType,
    /// Outputs.
    pub(super) rows: usize,
    /// Length of the contraction.
    pub(super) cols: usize,
    pub(super) values: Rc<Buffer>,
    /// Of the quantised types.
    pub(super) scales: Option<Rc<Buffer>>,
    /// Zeros, one for each panel and group of rows of a contraction of few rows.
    pub(super) counters: Rc<Buffer>,
}

impl Packed {
    /// Packs a weight, part by part.
    pub(super) fn load(device: &Device, tensor: &WeightTensor) -> Result<Self> {
        let (rows, cols, dtype) = (tensor.rows(), tensor.cols(), tensor.dtype());
        let each = match dtype {
            WeightType::F32 => 4,
            WeightType::F16 | WeightType::Bf16 => 8,
            WeightType::Q8_0 | WeightType::Q8_128 => 16,
            WeightType::U8 | WeightType::U32 => {
                return Err(DeviceError::Failed(format!("{} is no float weight", tensor.name())));
            }
        };
        let (panels, steps) = (rows.div_ceil(PANEL), cols.div_ceil(each));
        let values = device.allocate(16 * PANEL * panels * steps)?;
        let scales =
            dtype.block().map(|group| device.allocate(4 * PANEL * panels * cols.div_ceil(group))).transpose()?;
        let row_bytes = dtype.row_bytes(cols);
        let part = (STAGING / row_bytes / PANEL).max(1) * PANEL;
        for first in (0..rows).step_by(part) {
            let count = part.min(rows - first);
            let raw = device.upload(&tensor.bytes()[first * row_bytes..(first + count) * row_bytes])?;
            let quads = count.div_ceil(PANEL) * PANEL * steps;
            let mut args = vec![Arg::from(&values)];
            args.extend(scales.as_ref().map(Arg::from));
            args.extend([
                Arg::from(&raw),
                Arg::U64(quads as u64),
                Arg::U32(short(first)?),
                Arg::U32(short(count)?),
                Arg::U32(short(cols)?),
                Arg::U32(dtype as u32),
            ]);
            let kernel = if scales.is_some() { kernel::pack_quantised } else { kernel::pack_floats };
            device.launch(kernel, [short(quads.div_ceil(256).min(1 << 16))?, 1, 1], 256, &args)?;
        }
        let counters = device.zeros(4 * panels * MOST_FEW)?;
        Ok(Self { dtype, rows, cols, values, scales, counters })
    }
}

/// A weight as it is, floats widened to f32.
pub(super) fn plain(device: &Device, tensor: &WeightTensor) -> Result<Tensor> {
    let (rows, cols, dtype) = (tensor.rows(), tensor.cols(), tensor.dtype());
    let raw = device.upload(tensor.bytes())?;
    let count = rows * cols;
    let (kernel, columns) = match dtype {
        WeightType::U8 => return Ok(Tensor::in_buffer(raw, DType::U8, rows, cols)),
        WeightType::U32 => return Ok(Tensor::in_buffer(raw, DType::U32, rows, cols)),
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => (kernel::widen_floats, None),
        WeightType::Q8_0 | WeightType::Q8_128 => (kernel::widen_quantised, Some(short(cols)?)),
    };
    let out = device.tensor(DType::F32, rows, cols)?;
    let mut args = vec![Arg::from(&out), Arg::from(&raw), Arg::U64(count as u64)];
    args.extend(columns.map(Arg::U32));
    args.push(Arg::U32(dtype as u32));
    device.launch(kernel, [short(count.div_ceil(256).min(1 << 16))?, 1, 1], 256, &args)?;
    Ok(out)
}

/// Everything of a model that does not depend on the request.
pub(super) struct Weights {
    packed: HashMap<u32, Packed>,
    plain: HashMap<u32, (Tensor, Extent)>,
    constants: HashMap<u32, Tensor>,
    /// Where the entries of the vocabulary begin, all of them one after the other, and how many there are.
    pub(super) vocabulary: Option<(Rc<Buffer>, Rc<Buffer>, u32)>,
}

impl Weights {
    /// Places them on a device.
    pub(super) fn load(device: &Device, model: &Model) -> Result<Self> {
        let mut weights =
            Self { packed: HashMap::new(), plain: HashMap::new(), constants: HashMap::new(), vocabulary: None };
        for node in &model.program.nodes {
            for (position, operand) in node.inputs.iter().enumerate() {
                match (operand, &node.op, position) {
                    (Operand::Node(_), ..) => {}
                    (Operand::Constant(bits), ..) => {
                        if !weights.constants.contains_key(bits) {
                            weights.constants.insert(*bits, device.floats((1, 1), &[f32::from_bits(*bits)])?);
                        }
                    }
                    (Operand::Weight(index), op, position) => {
                        let Some(tensor) = model.weights.get(*index) else { continue }; // refused by `validate`
                        let floats = !matches!(tensor.dtype(), WeightType::U8 | WeightType::U32);
                        // Rows are looked up in the panels of a contraction too: an embedding that is also the last
                        // layer is there once.
                        let panels = match (op, position) {
                            (Op::Linear, 1) | (Op::QuantLinear, 2) => true,
                            (Op::Gather, 1) => floats,
                            _ => false,
                        };
                        if panels && !weights.packed.contains_key(index) {
                            let narrowed = narrowed(tensor);
                            let packed = Packed::load(device, narrowed.as_ref().unwrap_or(tensor))?;
                            weights.packed.insert(*index, packed);
                        } else if !panels && !weights.plain.contains_key(index) {
                            let extent = Extent { shared: true, rows: tensor.rows(), cols: tensor.cols() };
                            weights.plain.insert(*index, (plain(device, tensor)?, extent));
                        }
                    }
                }
            }
        }
        if !model.vocabulary.is_empty() {
            let mut offsets = vec![0u64];
            for entry in &model.vocabulary {
                offsets.push(offsets[offsets.len() - 1] + entry.len() as u64);
            }
            let offsets: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
            let entries = (device.upload(&offsets)?, device.upload(&model.vocabulary.concat())?);
            weights.vocabulary = Some((entries.0, entries.1, short(model.vocabulary.len())?));
        }
        Ok(weights)
    }

    /// A weight in panels.
    pub(super) fn packed(&self, operand: Option<&Operand>) -> Option<&Packed> {
        match operand {
            Some(Operand::Weight(index)) => self.packed.get(index),
            _ => None,
        }
    }

    /// A weight as it is.
    pub(super) fn plain(&self, index: u32) -> Option<(&Tensor, Extent)> {
        self.plain.get(&index).map(|(tensor, extent)| (tensor, *extent))
    }

    /// A constant.
    pub(super) fn constant(&self, bits: u32) -> Option<&Tensor> {
        self.constants.get(&bits)
    }
}

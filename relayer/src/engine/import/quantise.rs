//! The weights of linear layers in another type, chosen at import: smaller and faster, and another model with an id of its
//! own. What that costs is measured in [`super::cost()`].
//!
//! Converted is every weight that a linear layer (or a convolution, which is one) multiplies by: all but a few thousandths
//! of a model's elements and the whole of its arithmetic. Biases, norms, positions and rotary tables keep their type: they
//! are small, and are added or multiplied element by element, where there is no contraction to gain by. A table of
//! embeddings is looked up, not multiplied, and keeps its type too, unless it is also the last layer: then it is one tensor
//! with two readers, and both read the converted one. Keeping the old one beside it would cost more than it gains.
//!
//! The conversion is defined to the bit: from the stored elements, widened exactly, by rule Q3 of `docs/arithmetic.md`, or
//! to the nearest f16.

use super::{ImportError, Imported};
use crate::engine::kernels::isa::default_float_mode;
use candor_sdk::arithmetic::quantised::{Group, Quantised};
use candor_sdk::arithmetic::scalar::{bf16_to_f32, f16_from_f32, f16_to_f32};
use candor_sdk::program::{DType, Node, Op, Operand, Program, WeightTensor, WeightType, Weights};
use rayon::prelude::*;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A type for the weights of linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// binary16.
    F16,
    /// Signed bytes with a scale for each 32.
    Q8_0,
    /// Signed bytes with a scale for each 128.
    Q8_128,
}

impl Precision {
    /// All of them, widest first.
    pub const ALL: [Self; 3] = [Self::F16, Self::Q8_0, Self::Q8_128];

    /// How tensors of this precision are stored.
    pub fn weight_type(self) -> WeightType {
        match self {
            Self::F16 => WeightType::F16,
            Self::Q8_0 => WeightType::Q8_0,
            Self::Q8_128 => WeightType::Q8_128,
        }
    }

    /// Its name: `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q8_128 => "q8_128",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| format!("{name:?} is none of f16, q8_0, q8_128"))
    }
}

/// A linear layer, whatever the type of its weights.
struct Layer {
    x: Operand,
    weight: u32,
    bias: Option<Operand>,
}

impl Layer {
    /// The layer that a node computes. One over quantised weights has its activations quantised by two nodes before it.
    fn of(program: &Program, node: &Node) -> Option<Self> {
        let nodes = &program.nodes;
        match (&node.op, node.inputs.as_slice()) {
            (Op::Linear, [x, Operand::Weight(weight), bias @ ..]) => {
                Some(Self { x: *x, weight: *weight, bias: bias.first().copied() })
            }
            (Op::QuantLinear, [Operand::Node(bytes), Operand::Node(most), Operand::Weight(weight), bias @ ..]) => {
                let (bytes, magnitudes) = (nodes.get(*bytes as usize)?, nodes.get(*most as usize)?);
                let (Op::Quantise { block }, [x, found]) = (&bytes.op, bytes.inputs.as_slice()) else { return None };
                let same = magnitudes.op == Op::BlockAbsMax { block: *block } && magnitudes.inputs == [*x];
                (same && *found == Operand::Node(*most)).then(|| Self {
                    x: *x,
                    weight: *weight,
                    bias: bias.first().copied(),
                })
            }
            _ => None,
        }
    }
}

/// The same model with the weights of its linear layers in another type.
///
/// # Errors
/// If a weight is not finite or too large for the type, or no layer can have it.
pub fn quantise(imported: &Imported, precision: Precision) -> Result<Imported, ImportError> {
    let model = &imported.model;
    let layers: Vec<Option<Layer>> = model.program.nodes.iter().map(|node| Layer::of(&model.program, node)).collect();
    let multiplied = multiplied(&model.program, &layers, model.weights.tensors().len());
    let (mut weights, mut left, mut converted) = (Weights::default(), Vec::new(), 0);
    for (tensor, multiplied) in model.weights.tensors().iter().zip(multiplied) {
        let ragged = precision == Precision::Q8_0 && !tensor.cols().is_multiple_of(Group::G32.len());
        if multiplied && ragged {
            left.push(format!("{} (rows of {})", tensor.name(), tensor.cols()));
        }
        let tensor = if multiplied && !ragged {
            converted += 1;
            convert(tensor, precision)?
        } else {
            tensor.clone()
        };
        weights.push(tensor);
    }
    if converted == 0 {
        let problem = match left.first() {
            Some(first) => format!("rows of q8_0 are whole blocks of 32: {first} has none"),
            None => "no linear layer has weights of its own".to_string(),
        };
        return Err(ImportError::Tensor { name: String::new(), problem });
    }
    let mut result = imported.clone();
    let (program, places) = rewritten(&model.program, &layers, &weights);
    result.last_layer = places[imported.last_layer as usize];
    result.model.program = program;
    result.model.weights = weights;
    result.model.validate()?;
    result.notes.push(format!("weights of linear layers converted to {precision}: {converted} tensors"));
    if !left.is_empty() {
        result.notes.push(format!("left as they are, having no whole blocks of 32: {}", left.join(", ")));
    }
    Ok(result)
}

/// Whether a model would be another one at that precision.
pub(super) fn changes(imported: &Imported, precision: Precision) -> bool {
    let program = &imported.model.program;
    let layers: Vec<Option<Layer>> = program.nodes.iter().map(|node| Layer::of(program, node)).collect();
    let tensors = imported.model.weights.tensors();
    let whole = |tensor: &WeightTensor| precision != Precision::Q8_0 || tensor.cols().is_multiple_of(Group::G32.len());
    let other = |tensor: &WeightTensor| tensor.dtype() != precision.weight_type() && whole(tensor);
    multiplied(program, &layers, tensors.len()).into_iter().zip(tensors).any(|(layer, tensor)| layer && other(tensor))
}

/// Which weights linear layers multiply by, and nothing else reads but lookups of rows.
fn multiplied(program: &Program, layers: &[Option<Layer>], tensors: usize) -> Vec<bool> {
    let (mut by_layer, mut otherwise) = (vec![false; tensors], vec![false; tensors]);
    for (node, layer) in program.nodes.iter().zip(layers) {
        for (position, operand) in node.inputs.iter().enumerate() {
            let Operand::Weight(weight) = *operand else { continue };
            match layer {
                Some(layer) if layer.weight == weight && layer.bias != Some(*operand) && layer.x != *operand => {
                    by_layer[weight as usize] = true;
                }
                _ if node.op == Op::Gather && position == 1 => {}
                _ => otherwise[weight as usize] = true,
            }
        }
    }
    by_layer.into_iter().zip(otherwise).map(|(layer, other)| layer && !other).collect()
}

/// The program over weights of other types, and the new place of each node. Layers that read the same activations share
/// their quantised form.
fn rewritten(program: &Program, layers: &[Option<Layer>], weights: &Weights) -> (Program, Vec<u32>) {
    let quantises = |node: &Node| matches!(node.op, Op::BlockAbsMax { .. } | Op::Quantise { .. });
    // What quantises activations stays only if something besides the layers reads it; layers bring their own.
    let mut read = vec![false; program.nodes.len()];
    for (index, (node, layer)) in program.nodes.iter().zip(layers).enumerate().rev() {
        if quantises(node) && !read[index] {
            continue;
        }
        let operands = match layer {
            Some(layer) => [Some(layer.x), layer.bias].into_iter().flatten().collect(),
            None => node.inputs.clone(),
        };
        for operand in operands {
            if let Operand::Node(node) = operand {
                read[node as usize] = true;
            }
        }
    }
    let mut nodes: Vec<Node> = Vec::with_capacity(program.nodes.len());
    let mut places = vec![0u32; program.nodes.len()];
    let mut made: Vec<(Operand, u32, [Operand; 2])> = Vec::new();
    for (index, (node, layer)) in program.nodes.iter().zip(layers).enumerate() {
        if quantises(node) && !read[index] {
            continue;
        }
        let moved = |operand: &Operand| match operand {
            Operand::Node(node) => Operand::Node(places[*node as usize]),
            other => *other,
        };
        let (op, inputs) = match layer {
            None => (node.op.clone(), node.inputs.iter().map(moved).collect()),
            Some(Layer { x, weight, bias }) => {
                let x = moved(x);
                let after = [Some(Operand::Weight(*weight)), bias.as_ref().map(moved)];
                let tensor = weights.get(*weight);
                let block = tensor.and_then(|tensor| tensor.dtype().block()).unwrap_or(0) as u32; // 32 or 128
                let (op, before) = if block == 0 {
                    (Op::Linear, vec![x])
                } else {
                    let known = made.iter().rev().find(|(of, size, _)| (*of, *size) == (x, block));
                    let operands = known.map(|(.., operands)| *operands).unwrap_or_else(|| {
                        let cols = tensor.map_or(0, WeightTensor::cols) as u32; // a tensor's dimensions are 32-bit
                        let operands = quantised(&mut nodes, node, x, cols, block);
                        made.push((x, block, operands));
                        operands
                    });
                    (Op::QuantLinear, operands.to_vec())
                };
                (op, before.into_iter().chain(after.into_iter().flatten()).collect())
            }
        };
        places[index] = nodes.len() as u32; // at most 2^16 nodes
        nodes.push(Node { op, inputs, ..node.clone() });
    }
    (Program { nodes }, places)
}

/// Adds the nodes that quantise the activations `x` of layer `layer`: their bytes and magnitudes.
fn quantised(nodes: &mut Vec<Node>, layer: &Node, x: Operand, cols: u32, block: u32) -> [Operand; 2] {
    let mut add = |op: Op, inputs: Vec<Operand>, dtype: DType, cols: u32| {
        nodes.push(Node { op, inputs, dtype, rows: layer.rows, cols: cols.into(), label: layer.label.clone() });
        Operand::Node(nodes.len() as u32 - 1)
    };
    let magnitudes = add(Op::BlockAbsMax { block }, vec![x], DType::F32, cols.div_ceil(block));
    let bytes = add(Op::Quantise { block }, vec![x, magnitudes], DType::I8, cols);
    [bytes, magnitudes]
}

/// A tensor in another type.
fn convert(tensor: &WeightTensor, precision: Precision) -> Result<WeightTensor, ImportError> {
    let dtype = precision.weight_type();
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    let stride = dtype.row_bytes(tensor.cols());
    let mut bytes = vec![0u8; tensor.rows() * stride];
    let faults = bytes.par_chunks_exact_mut(stride).enumerate().filter_map(|(row, to)| {
        default_float_mode();
        let stored = stored(&elements(tensor, row), precision);
        stored.map(|bytes| to.copy_from_slice(&bytes)).err().map(|problem| (row, problem))
    });
    if let Some((row, problem)) = faults.min_by_key(|(row, _)| *row) {
        let problem = format!("row {row} as {precision}: {problem}");
        return Err(ImportError::Tensor { name: tensor.name().to_string(), problem });
    }
    let shape = (tensor.rows() as u32, tensor.cols() as u32); // as they came
    Ok(WeightTensor::new(tensor.name(), shape, dtype, Arc::new(bytes))?)
}

/// A row of elements as stored.
fn stored(row: &[f32], precision: Precision) -> Result<Vec<u8>, String> {
    let group = match precision {
        Precision::F16 => {
            let narrow: Vec<u16> = row.iter().map(|&x| f16_from_f32(x)).collect();
            return match narrow.iter().position(|h| h & 0x7c00 == 0x7c00) {
                Some(index) => Err(format!("weight {index} of the row, {}, is beyond f16", row[index])),
                None => Ok(narrow.into_iter().flat_map(u16::to_le_bytes).collect()),
            };
        }
        Precision::Q8_0 => Group::G32,
        Precision::Q8_128 => Group::G128,
    };
    Quantised::weights(row, group).map(|row| row.to_bytes()).map_err(|error| error.to_string())
}

/// The elements of a row, widened exactly.
fn elements(tensor: &WeightTensor, row: usize) -> Vec<f32> {
    let pairs = || tensor.row(row).as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    match tensor.dtype() {
        WeightType::F32 => tensor.row(row).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        WeightType::F16 => pairs().map(f16_to_f32).collect(),
        WeightType::Bf16 => pairs().map(bf16_to_f32).collect(),
        _ => tensor.row_f32(row),
    }
}

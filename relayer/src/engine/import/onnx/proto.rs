//! What an ONNX file says, as far as it matters: its graph, its tensors, its operator set. Field numbers are those of
//! `onnx.proto`. Tensors stay where they are in the file.

use super::wire::{Field, Message};
use crate::engine::import::tensors::{FileBytes, Slice};
use candor_sdk::program::WeightType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A file.
#[derive(Debug)]
pub(super) struct Proto {
    /// Version of the standard operator set.
    pub(super) opset: u64,
    /// What is computed.
    pub(super) graph: Graph,
}

/// A graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) initializers: Vec<TensorProto>,
    pub(super) inputs: Vec<ValueInfo>,
    pub(super) outputs: Vec<ValueInfo>,
}

/// An operation.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) op: String,
    pub(super) domain: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) attributes: BTreeMap<String, Attribute>,
}

/// An attribute of an operation.
#[derive(Clone, Debug)]
pub(super) enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    Tensor(TensorProto),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    /// A graph, a list of texts or what else nothing here reads.
    Other,
}

/// An input or output of the graph.
#[derive(Debug, Default)]
pub(super) struct ValueInfo {
    pub(super) name: String,
    /// Code of its elements' type; 0 if it is not a tensor.
    pub(super) dtype: u64,
    /// Its dimensions, if they are said: numbers, or names of what is open.
    pub(super) dims: Option<Vec<DimInfo>>,
}

/// A dimension of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DimInfo {
    Known(i64),
    Named(String),
}

/// A tensor that the file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct TensorProto {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    dtype: u64,
    raw: Option<std::ops::Range<usize>>,
    floats: Vec<f32>,
    numbers: Vec<i64>,
    elsewhere: bool,
}

/// The elements of a tensor.
#[derive(Clone, Debug)]
pub(super) enum Elements {
    /// Floating point, as models keep it.
    Float(WeightType, Slice),
    /// Integers.
    Int(Vec<i64>),
    /// Truth values, 0 or 1.
    Bool(Vec<i64>),
}

/// Most nodes, and most tensors, of a graph: as many as a program has nodes.
const MAX_ITEMS: usize = 1 << 16;
/// Most entries of a list that is not a tensor of floats.
const MAX_LIST: usize = 1 << 24;

fn push<T>(list: &mut Vec<T>, most: usize, item: T, what: &str) -> Result<(), String> {
    if list.len() >= most {
        return Err(format!("more than {most} {what}"));
    }
    list.push(item);
    Ok(())
}

/// Bytes of a field that is a message, text or list.
fn bytes<'a>(field: &Field<'a>) -> Result<Message<'a>, String> {
    match field {
        Field::Bytes(message) => Ok(message.clone()),
        _ => Err("a number where a message belongs".to_string()),
    }
}

fn number(field: &Field<'_>) -> Result<u64, String> {
    match field {
        Field::Number(number) => Ok(*number),
        _ => Err("no number where one belongs".to_string()),
    }
}

/// A list of whole numbers, packed or not.
fn numbers(field: &Field<'_>, list: &mut Vec<i64>) -> Result<(), String> {
    match field {
        Field::Number(number) => push(list, MAX_LIST, *number as i64, "numbers in a list"),
        Field::Bytes(message) => message.numbers(|number| push(list, MAX_LIST, number as i64, "numbers in a list")),
        _ => Err("no number where one belongs".to_string()),
    }
}

/// A list of f32, packed or not.
fn floats(field: &Field<'_>, list: &mut Vec<f32>) -> Result<(), String> {
    match field {
        Field::Fixed32(bits) => list.push(f32::from_bits(*bits)),
        Field::Bytes(message) => {
            let (chunks, rest) = message.bytes().as_chunks::<4>();
            if !rest.is_empty() {
                return Err(format!("{} bytes are no list of f32", message.bytes().len()));
            }
            list.extend(chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        _ => return Err("no f32 where one belongs".to_string()),
    }
    Ok(())
}

impl Proto {
    /// Reads a file.
    pub(super) fn parse(file: &[u8]) -> Result<Self, String> {
        let (mut graph, mut opset, mut version) = (None, None, 0);
        Message::whole(file).fields(|field, content| {
            match field {
                1 => version = number(&content)?,
                7 if graph.is_some() => return Err("two graphs".to_string()),
                7 => graph = Some(Graph::parse(&bytes(&content)?)?),
                8 => {
                    let (mut domain, mut version) = (String::new(), 0);
                    bytes(&content)?.fields(|field, content| {
                        match field {
                            1 => domain = bytes(&content)?.text()?,
                            2 => version = number(&content)?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    if is_standard(&domain) {
                        opset = Some(version);
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        match (version, graph, opset) {
            (0, ..) | (_, None, _) => Err("is not an ONNX model: it has no version or no graph".to_string()),
            (_, _, None) => Err("names no version of the ONNX operators".to_string()),
            (_, Some(graph), Some(opset)) => Ok(Self { opset, graph }),
        }
    }
}

/// Whether a domain is that of ONNX itself.
pub(super) fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

impl Graph {
    fn parse(message: &Message<'_>) -> Result<Self, String> {
        let mut graph = Self::default();
        message.fields(|field, content| {
            match field {
                1 => push(&mut graph.nodes, MAX_ITEMS, Node::parse(&bytes(&content)?)?, "nodes")?,
                5 => push(&mut graph.initializers, MAX_ITEMS, TensorProto::parse(&bytes(&content)?)?, "tensors")?,
                11 => push(&mut graph.inputs, MAX_ITEMS, ValueInfo::parse(&bytes(&content)?)?, "inputs")?,
                12 => push(&mut graph.outputs, MAX_ITEMS, ValueInfo::parse(&bytes(&content)?)?, "outputs")?,
                15 => return Err("sparse tensors are not understood".to_string()),
                _ => {}
            }
            Ok(())
        })?;
        Ok(graph)
    }
}

impl Node {
    fn parse(message: &Message<'_>) -> Result<Self, String> {
        let mut node = Self::default();
        message.fields(|field, content| {
            match field {
                1 => push(&mut node.inputs, MAX_ITEMS, bytes(&content)?.text()?, "inputs of a node")?,
                2 => push(&mut node.outputs, MAX_ITEMS, bytes(&content)?.text()?, "outputs of a node")?,
                3 => node.name = bytes(&content)?.text()?,
                4 => node.op = bytes(&content)?.text()?,
                5 => {
                    let (name, attribute) = Attribute::parse(&bytes(&content)?)?;
                    if node.attributes.insert(name.clone(), attribute).is_some() {
                        return Err(format!("attribute {name:?} comes twice"));
                    }
                }
                7 => node.domain = bytes(&content)?.text()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(node)
    }
}

impl Attribute {
    fn parse(message: &Message<'_>) -> Result<(String, Self), String> {
        let (mut name, mut kind) = (String::new(), 0);
        let (mut float, mut int, mut text, mut tensor) = (0f32, 0i64, None, None);
        let (mut many_floats, mut many_ints) = (Vec::new(), Vec::new());
        message.fields(|field, content| {
            match field {
                1 => name = bytes(&content)?.text()?,
                2 => match content {
                    Field::Fixed32(bits) => float = f32::from_bits(bits),
                    _ => return Err("no f32 where one belongs".to_string()),
                },
                3 => int = number(&content)? as i64,
                4 => text = Some(bytes(&content)?),
                5 => tensor = Some(TensorProto::parse(&bytes(&content)?)?),
                7 => floats(&content, &mut many_floats)?,
                8 => numbers(&content, &mut many_ints)?,
                20 => kind = number(&content)?,
                _ => {}
            }
            Ok(())
        })?;
        let attribute = match (kind, text, tensor) {
            (1, ..) => Self::Float(float),
            (2, ..) => Self::Int(int),
            (3, Some(text), _) => Self::Text(text.text()?),
            (3, None, _) => Self::Text(String::new()),
            (4, _, Some(tensor)) => Self::Tensor(tensor),
            (6, ..) => Self::Floats(many_floats),
            (7, ..) => Self::Ints(many_ints),
            _ => Self::Other,
        };
        Ok((name, attribute))
    }
}

impl ValueInfo {
    fn parse(message: &Message<'_>) -> Result<Self, String> {
        let mut info = Self::default();
        message.fields(|field, content| {
            match field {
                1 => info.name = bytes(&content)?.text()?,
                2 => bytes(&content)?.fields(|field, content| {
                    if field != 1 {
                        return Ok(());
                    }
                    bytes(&content)?.fields(|field, content| {
                        match field {
                            1 => info.dtype = number(&content)?,
                            2 => {
                                let mut dims = Vec::new();
                                bytes(&content)?.fields(|field, content| {
                                    if field == 1 {
                                        push(&mut dims, MAX_RANK, DimInfo::parse(&bytes(&content)?)?, "dimensions")?;
                                    }
                                    Ok(())
                                })?;
                                info.dims = Some(dims);
                            }
                            _ => {}
                        }
                        Ok(())
                    })
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(info)
    }
}

/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 16;

impl DimInfo {
    fn parse(message: &Message<'_>) -> Result<Self, String> {
        let mut dim = Self::Named(String::new());
        message.fields(|field, content| {
            match field {
                1 => dim = Self::Known(number(&content)? as i64),
                2 => dim = Self::Named(bytes(&content)?.text()?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(dim)
    }
}

impl TensorProto {
    /// Reads a message that is a tensor alone.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        Self::parse(&Message::whole(file))
    }

    fn parse(message: &Message<'_>) -> Result<Self, String> {
        let mut tensor = Self::default();
        let mut dims = Vec::new();
        message.fields(|field, content| {
            match field {
                1 => numbers(&content, &mut dims)?,
                2 => tensor.dtype = number(&content)?,
                4 => floats(&content, &mut tensor.floats)?,
                5 | 7 => numbers(&content, &mut tensor.numbers)?,
                8 => tensor.name = bytes(&content)?.text()?,
                9 => tensor.raw = Some(bytes(&content)?.range()),
                13 => tensor.elsewhere = true,
                14 => tensor.elsewhere |= number(&content)? == 1,
                _ => {}
            }
            Ok(())
        })?;
        if dims.len() > MAX_RANK {
            return Err(format!("tensor {:?} has {} dimensions; at most {MAX_RANK}", tensor.name, dims.len()));
        }
        for dim in dims {
            match usize::try_from(dim) {
                Ok(dim) => tensor.dims.push(dim),
                Err(_) => return Err(format!("tensor {:?} has a dimension of {dim}", tensor.name)),
            }
        }
        Ok(tensor)
    }

    /// The number of elements that the dimensions promise.
    pub(super) fn count(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
    }

    /// Its elements, which are exactly as many as its dimensions say.
    pub(super) fn elements(&self, file: &FileBytes) -> Result<Elements, String> {
        if self.elsewhere {
            return Err("its elements are in another file, which is not understood".to_string());
        }
        let Some(count) = self.count() else { return Err(format!("shape {:?} is absurd", self.dims)) };
        let sized = |found: usize| match found == count {
            true => Ok(()),
            false => Err(format!("shape {:?} takes {count} elements, the file has {found}", self.dims)),
        };
        let raw = |width: usize| match &self.raw {
            None => Ok(None),
            Some(range) if count.checked_mul(width) == Some(range.len()) => Ok(Some(range.clone())),
            Some(range) => {
                Err(format!("shape {:?} in elements of {width} bytes, the file has {} bytes", self.dims, range.len()))
            }
        };
        let slice = |bytes: Vec<u8>| {
            let range = 0..bytes.len();
            Slice { file: Arc::new(bytes), range }
        };
        let float = |dtype: WeightType, width: usize| {
            if let Some(range) = raw(width)? {
                return Ok(Elements::Float(dtype, Slice { file: file.clone(), range }));
            }
            let bytes: Vec<u8> = if width == 4 {
                sized(self.floats.len())?;
                self.floats.iter().flat_map(|value| value.to_le_bytes()).collect()
            } else {
                sized(self.numbers.len())?;
                self.numbers.iter().flat_map(|bits| (*bits as u16).to_le_bytes()).collect()
            };
            Ok(Elements::Float(dtype, slice(bytes)))
        };
        let int = |width: usize, read: fn(&[u8]) -> i64| match raw(width)? {
            Some(range) if count <= MAX_LIST => Ok(file[range].chunks_exact(width).map(read).collect::<Vec<i64>>()),
            Some(_) => Err(format!("{count} integers; at most {MAX_LIST}")),
            None => sized(self.numbers.len()).map(|()| self.numbers.clone()),
        };
        match self.dtype {
            1 => float(WeightType::F32, 4),
            10 => float(WeightType::F16, 2),
            16 => float(WeightType::Bf16, 2),
            2 => int(1, |b| i64::from(b[0])).map(Elements::Int),
            3 => int(1, |b| i64::from(b[0] as i8)).map(Elements::Int),
            6 => int(4, |b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).map(Elements::Int),
            7 => int(8, |b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).map(Elements::Int),
            9 => int(1, |b| i64::from(b[0]))
                .map(|list| Elements::Bool(list.iter().map(|&b| i64::from(b != 0)).collect())),
            other => Err(format!("elements of type {} are not understood", type_name(other))),
        }
    }
}

/// The name of a type of elements.
pub(super) fn type_name(code: u64) -> String {
    const NAMES: [&str; 17] = [
        "UNDEFINED",
        "FLOAT",
        "UINT8",
        "INT8",
        "UINT16",
        "INT16",
        "INT32",
        "INT64",
        "STRING",
        "BOOL",
        "FLOAT16",
        "DOUBLE",
        "UINT32",
        "UINT64",
        "COMPLEX64",
        "COMPLEX128",
        "BFLOAT16",
    ];
    usize::try_from(code)
        .ok()
        .and_then(|code| NAMES.get(code))
        .map_or_else(|| format!("number {code}"), ToString::to_string)
}

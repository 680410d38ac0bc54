//! From a parsed file to a model: inputs, the nodes that the outputs need, outputs.

use super::call::Call;
use super::description::{OnnxArchitecture, OnnxConfig, OnnxInput, OnnxOutput};
use super::graph::{Importer, Problem, TOO_LARGE};
use super::item::Item;
use super::lin::{Lin, show};
use super::proto::{DimInfo, Node, Proto, ValueInfo, is_standard, type_name};
use super::tensor::{Kind, Source, Tensor, product};
use super::{GraphInput, ONNX, OnnxModel, classical, contraction, elementwise, rows, shape};
use crate::engine::import::config::IndexFormat;
use crate::engine::import::tensors::FileBytes;
use crate::engine::import::{ImportError, Options, refuse_bombs};
use candor_sdk::program::{ConcatAxis, Dim, EncodeKind, InputKind, Limits, Model, Operand, Value, View, ViewAxis};
use std::collections::{BTreeSet, HashMap};

/// Operator sets that this module was written against.
const OPSETS: std::ops::RangeInclusive<u64> = 7..=26;

fn field<T>(name: impl Into<String>, problem: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::field(name, problem))
}

fn damaged<T>(problem: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Damaged { file: ONNX.to_string(), problem: problem.into() })
}

/// What a node is called in messages and labels.
fn called(node: &Node, index: usize) -> String {
    match (node.name.as_str(), node.outputs.first()) {
        ("", Some(output)) => format!("{} for {output:?}", node.op),
        ("", None) => format!("{} number {index}", node.op),
        (name, _) => format!("{} {name:?}", node.op),
    }
}

/// Builds the model; also says which node is compared with candle.
pub(super) fn model(
    file: &FileBytes,
    proto: Proto,
    config: Option<OnnxConfig>,
    options: &Options,
) -> Result<(Model, u32, OnnxModel), ImportError> {
    if !OPSETS.contains(&proto.opset) {
        return damaged(format!("version {} of the ONNX operators; {OPSETS:?} are understood", proto.opset));
    }
    let graph = proto.graph;
    let held: BTreeSet<&str> = graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs: Vec<&ValueInfo> = graph.inputs.iter().filter(|info| !held.contains(info.name.as_str())).collect();
    let config = match config {
        Some(config) => config,
        None => OnnxConfig {
            architecture: OnnxArchitecture::Onnx,
            name: None,
            input: plain_input(&inputs)?,
            fixed: Default::default(),
            dims: Default::default(),
            labels: Vec::new(),
            output: plain_outputs(&graph.outputs),
        },
    };
    let importer = Importer::new(file.clone(), proto.opset);
    let mut builder = Builder { importer, items: HashMap::new(), config, tokens: None };
    let (limits, input, fixed) = builder.inputs(&inputs, options)?;
    for tensor in &graph.initializers {
        let item = shape::stored(&mut builder.importer, tensor, &tensor.name);
        let item = item.map_err(|problem| ImportError::Tensor { name: tensor.name.clone(), problem })?;
        if builder.items.insert(tensor.name.clone(), item).is_some() {
            return Err(ImportError::Tensor { name: tensor.name.clone(), problem: "comes twice".to_string() });
        }
    }
    let wanted = builder.wanted(&graph.outputs)?;
    let needed = needed(&graph.nodes, &wanted)?;
    for (index, node) in graph.nodes.iter().enumerate() {
        if needed.contains(&index) {
            builder.node(node, index)?;
        }
    }
    let (output, last, output_bytes) = builder.outputs(&wanted, limits.max_input_bytes / 4)?;
    let Builder { importer, config, .. } = builder;
    let limits = Limits { max_output_bytes: output_bytes, ..limits };
    let model = importer.graph.finish(limits, Vec::new())?;
    refuse_bombs(&model)?;
    Ok((model, last, OnnxModel { file: file.clone(), config, input, fixed, output }))
}

/// The answer of a file without a description: all outputs that are floats. The label of a classifier is none.
fn plain_outputs(outputs: &[ValueInfo]) -> Vec<OnnxOutput> {
    let all = |floats: bool| {
        let wanted = outputs.iter().filter(move |info| !floats || kind_of(info).is_ok_and(|kind| kind == Kind::Float));
        wanted.map(|info| OnnxOutput::F32be { name: Some(info.name.clone()) }).collect::<Vec<_>>()
    };
    if all(true).is_empty() { all(false) } else { all(true) }
}

/// The encoding of a file without a description, if its one input leaves no choice.
fn plain_input(inputs: &[&ValueInfo]) -> Result<OnnxInput, ImportError> {
    let name = |info: &ValueInfo| format!("{} ({})", info.name, type_name(info.dtype));
    match inputs {
        [info] if info.dtype == 1 => Ok(OnnxInput::F32be { name: None }),
        [info] if info.dtype == 2 => Ok(OnnxInput::U8 { name: None }),
        _ => {
            let names: Vec<String> = inputs.iter().map(|info| name(info)).collect();
            let problem =
                format!("inputs {}: put a config.json beside it that says what requests are", names.join(", "));
            damaged(problem)
        }
    }
}

/// The nodes that outputs are computed from.
fn needed(nodes: &[Node], wanted: &[String]) -> Result<BTreeSet<usize>, ImportError> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|output| !output.is_empty()) {
            if makers.insert(output, index).is_some() {
                return damaged(format!("{output:?} is computed twice"));
            }
        }
    }
    let mut needed = BTreeSet::new();
    let mut open: Vec<usize> = wanted.iter().filter_map(|name| makers.get(name.as_str()).copied()).collect();
    while let Some(index) = open.pop() {
        if needed.insert(index) {
            open.extend(nodes[index].inputs.iter().filter_map(|name| makers.get(name.as_str()).copied()));
        }
    }
    Ok(needed)
}

/// The lengths of requests, the input that they become, and the other inputs.
type Inputs = (Limits, GraphInput, Vec<(GraphInput, i32)>);

struct Builder {
    importer: Importer,
    items: HashMap<String, Item>,
    config: OnnxConfig,
    /// Dimensions that are the length of the sequence, by name.
    tokens: Option<String>,
}

impl Builder {
    fn inputs(&mut self, inputs: &[&ValueInfo], options: &Options) -> Result<Inputs, ImportError> {
        let wanted = self.config.input.name().map(str::to_string);
        let free: Vec<&&ValueInfo> = inputs.iter().filter(|info| !self.config.fixed.contains_key(&info.name)).collect();
        let info = match (&wanted, &free[..]) {
            (Some(name), _) => match inputs.iter().find(|info| info.name == *name) {
                Some(info) => *info,
                None => return field("input.name", format!("{name:?} is no input of the graph")),
            },
            (None, [info]) => **info,
            (None, _) => {
                let names: Vec<&str> = free.iter().map(|info| info.name.as_str()).collect();
                return field("input.name", format!("which of {names:?} is it? Say what the others are in \"fixed\""));
            }
        };
        if let Some(name) = self.config.fixed.keys().find(|name| !inputs.iter().any(|info| info.name == **name)) {
            return field(format!("fixed.{name}"), "is no input of the graph");
        }
        if let Some(other) = free.iter().find(|other| other.name != info.name) {
            return field("fixed", format!("does not say what input {:?} is", other.name));
        }
        let is_tokens = matches!(self.config.input, OnnxInput::Tokens { .. });
        let dims = self.dims(info, is_tokens)?;
        let (item, limits) = self.request(info, &dims, options)?;
        self.items.insert(info.name.clone(), item);
        let described = |info: &ValueInfo, dims: &[Lin]| GraphInput {
            name: info.name.clone(),
            dtype: info.dtype,
            dims: dims.iter().map(|dim| dim.known().unwrap_or(-1)).collect(),
        };
        let mut fixed = Vec::new();
        for (name, value) in self.config.fixed.clone() {
            let Some(other) = inputs.iter().find(|info| info.name == name).copied() else { continue };
            let dims = self.dims(other, false)?;
            let kind = kind_of(other)?;
            if value.unsigned_abs() > 1 << 24 {
                return field(format!("fixed.{name}"), format!("{value} is beyond the integers of f32"));
            }
            fixed.push((described(other, &dims), value));
            self.items.insert(name, Item::Uniform { value: value as f32, dims, kind });
        }
        Ok((limits, described(info, &dims), fixed))
    }

    /// The dimensions of an input: known ones, 1 for an open batch, the sequence, or what the description says.
    fn dims(&mut self, info: &ValueInfo, is_tokens: bool) -> Result<Vec<Lin>, ImportError> {
        let wrong = |problem: String| field(format!("input {:?}", info.name), problem);
        let Some(dims) = &info.dims else { return wrong("has no shape".to_string()) };
        let mut found = Vec::new();
        for (place, dim) in dims.iter().enumerate() {
            found.push(match dim {
                DimInfo::Known(size @ 1..) => Lin::of(*size),
                DimInfo::Known(_) if place == 0 => Lin::ONE,
                DimInfo::Known(size) => return wrong(format!("has a dimension of {size}")),
                DimInfo::Named(name) => match self.config.dims.get(name) {
                    Some(0) => return field(format!("dims.{name}"), "is 0"),
                    Some(size) => Lin::of(i64::from(*size)),
                    None if self.tokens.as_ref() == Some(name) => Lin::S,
                    None if is_tokens && place == 1 && self.tokens.is_none() => {
                        self.tokens = Some(name.clone());
                        Lin::S
                    }
                    None if place == 0 => Lin::ONE, // one request is one of a batch
                    None => return wrong(format!("leaves dimension {name:?} open: say in \"dims\" what it is")),
                },
            });
        }
        Ok(found)
    }

    /// The node that holds the request, and its lengths.
    fn request(&mut self, info: &ValueInfo, dims: &[Lin], options: &Options) -> Result<(Item, Limits), ImportError> {
        let kind = kind_of(info)?;
        let elements = product(dims.iter().copied());
        let count = elements.and_then(Lin::known).and_then(|count| u32::try_from(count).ok()).filter(|&n| n > 0);
        let absurd = || field(format!("input {:?}", info.name), format!("shape {} is absurd", show(dims)));
        let graph = &mut self.importer.graph;
        let (value, at, min, max) = match self.config.input {
            OnnxInput::F32be { .. } | OnnxInput::U8 { .. } => {
                let floats = matches!(self.config.input, OnnxInput::F32be { .. });
                if floats && kind != Kind::Float {
                    return field("input.kind", format!("is f32be, the graph takes {}", type_name(info.dtype)));
                }
                let Some(count) = count else { return absurd() };
                let (input, width) = if floats { (InputKind::F32Be, 4) } else { (InputKind::U8, 1) };
                let Some(bytes) = count.checked_mul(width) else { return absurd() };
                // Images line by line: whoever reads them reads neighbours.
                let at = dims.len().saturating_sub(1);
                let (rows, cols) = match (product(dims[..at].iter().copied()), product(dims[at..].iter().copied())) {
                    (Some(rows), Some(cols)) => (rows.dim(), cols.dim()),
                    _ => return absurd(),
                };
                let (Some(rows), Some(cols)) = (rows, cols) else { return absurd() };
                let value = graph.within("input", |graph| graph.input(input, rows, cols));
                (value, at, bytes, bytes)
            }
            OnnxInput::Tokens { bound, longest, .. } => {
                if kind != Kind::Int {
                    return field("input.kind", format!("is tokens, the graph takes {}", type_name(info.dtype)));
                }
                let value = graph.within("input", |graph| graph.tokens(bound));
                let most = longest.unwrap_or(u32::MAX).min(options.context);
                let (min, max) = match elements {
                    Some(Lin::S) => (1, most),
                    _ => match count {
                        Some(count) => (count, count),
                        None => return absurd(),
                    },
                };
                (value, dims.len(), min.saturating_mul(4), max.saturating_mul(4))
            }
            OnnxInput::Ends { first, last, padding, shortest, longest, .. } => {
                let ends = first.checked_add(last).filter(|_| first > 0 && last > 0);
                if count.is_none() || ends != count {
                    let problem = format!("{first} first and {last} last bytes for an input of {}", show(dims));
                    return field("input.first", problem);
                }
                if padding > 1 << 24 {
                    return field("input.padding", format!("{padding} is beyond the integers of f32"));
                }
                let value = graph.within("input", |graph| {
                    let bytes = graph.input(InputKind::U8, Dim::ONE, Dim::B);
                    let numbers = graph.convert(bytes);
                    let start = end_of(graph, numbers, Dim::ZERO, first, padding);
                    let end = end_of(graph, numbers, Dim::B - last.into(), last, padding);
                    graph.concat(ConcatAxis::Cols, &[start, end])
                });
                (value, 0, shortest, longest.or(ends).unwrap_or(shortest))
            }
        };
        let value = if kind == Kind::Float { self.importer.graph.convert(value) } else { value };
        let Some(tensor) = Tensor::of(value, kind, &dims[..at], &dims[at..]) else { return absurd() };
        let limits = Limits { min_input_bytes: min, max_input_bytes: max, max_output_bytes: 1, max_tokens: 0 };
        Ok((Item::Tensor(tensor), limits))
    }

    fn node(&mut self, node: &Node, index: usize) -> Result<(), ImportError> {
        let name = called(node, index);
        let refused = |problem: Problem| ImportError::Node { node: name.clone(), problem };
        let is_classical = node.domain == classical::DOMAIN;
        if !is_standard(&node.domain) && !is_classical {
            return Err(refused(format!("operations of {:?} are not understood", node.domain)));
        }
        let mut inputs = Vec::new();
        for input in &node.inputs {
            inputs.push(match self.items.get(input) {
                _ if input.is_empty() => None,
                Some(item) => Some(item.clone()),
                None => return Err(refused(format!("input {input:?} is computed by no earlier node"))),
            });
        }
        let call = Call::new(node, inputs);
        // The module that a node belongs to: its name, as exporters write it, without the operation at the end.
        let label = match node.name.trim_matches('/').rsplit_once('/') {
            Some((module, _)) => module.replace('/', "."),
            None => node.op.clone(),
        };
        let one = |item: Item| vec![Some(item)];
        let import = |importer: &mut Importer| match node.op.as_str() {
            _ if is_classical => classical::import(importer, &call),
            op if elementwise::has(op) => elementwise::import(importer, &call).map(one),
            op if shape::has(op) => Ok(shape::import(importer, &call)?.into_iter().map(Some).collect()),
            op if rows::has(op) => rows::import(importer, &call).map(one),
            op if contraction::has(op) => contraction::import(importer, &call).map(one),
            _ => Err("this operation is not understood".to_string()),
        };
        let items = self.importer.within(&label, import);
        let items = items.and_then(|items| call.finish().map(|()| items));
        let items = node.outputs.iter().zip(items.map_err(refused)?);
        self.items.extend(items.filter_map(|(output, item)| Some((output.clone(), item?))));
        Ok(())
    }

    /// The outputs of the graph that the answer is made of, one for each part of it.
    fn wanted(&self, outputs: &[ValueInfo]) -> Result<Vec<String>, ImportError> {
        if self.config.output.is_empty() {
            return field("output", "is empty");
        }
        let mut wanted = Vec::new();
        for (i, output) in self.config.output.iter().enumerate() {
            wanted.push(match (output.name(), outputs) {
                (Some(name), _) if outputs.iter().any(|info| info.name == name) => name.to_string(),
                (Some(name), _) => {
                    return field(format!("output[{i}].name"), format!("{name:?} is no output of the graph"));
                }
                (None, [info]) => info.name.clone(),
                (None, _) => {
                    let names: Vec<&str> = outputs.iter().map(|info| info.name.as_str()).collect();
                    return field(format!("output[{i}].name"), format!("which of {names:?} is it?"));
                }
            });
        }
        Ok(wanted)
    }

    /// Adds the outputs; says which one is compared with candle, at which node, and how many bytes they are.
    fn outputs(&mut self, wanted: &[String], longest: u32) -> Result<(String, u32, u32), ImportError> {
        let mut compared = None;
        let mut bytes = 0u32;
        for (i, (output, name)) in self.config.output.clone().iter().zip(wanted).enumerate() {
            let wrong = |problem: String| field(format!("output[{i}]"), problem);
            let tensor = match self.items.get(name).cloned() {
                Some(Item::Tensor(tensor)) => tensor,
                Some(_) => return wrong(format!("{name:?} does not depend on the request")),
                None => {
                    return wrong(format!("{name:?} is not imported; of a classifier, take the argmax of its scores"));
                }
            };
            if matches!(tensor.source, Source::Constant(_)) {
                return wrong(format!("{name:?} does not depend on the request"));
            }
            let refused = |problem: Problem| ImportError::field(format!("output[{i}]"), format!("{name:?}: {problem}"));
            let value = self.importer.within("output", |importer| importer.in_order(&tensor)).map_err(refused)?;
            let Source::Value(value) = value.source else { return wrong(TOO_LARGE.to_string()) };
            let value = self.importer.graph.within("output", |graph| graph.convert(value));
            if compared.is_none()
                && let Operand::Node(node) = value.operand
            {
                compared = Some((name.clone(), node));
            }
            let rows = numbers(&tensor, output, longest).and_then(|elements| u32::try_from(elements).ok());
            let Some(elements) = rows else {
                return wrong(format!("{name:?} is {}, as long as the request", tensor.describe()));
            };
            bytes = bytes.saturating_add(elements.saturating_mul(4));
            let graph = &mut self.importer.graph;
            graph.within("output", |graph| match output {
                OnnxOutput::Argmax { format: IndexFormat::U32be, .. } => {
                    let index = graph.argmax(value);
                    graph.output(EncodeKind::U32Be, index);
                }
                OnnxOutput::F32be { .. } => graph.output(EncodeKind::F32Be, value),
            });
        }
        match compared {
            Some((name, node)) => Ok((name, node, bytes)),
            None => field("output", "has no floats, so it cannot be compared with candle"),
        }
    }
}

/// How many numbers an output is made of, in the longest sequence.
fn numbers(tensor: &Tensor, output: &OnnxOutput, longest: u32) -> Option<i64> {
    let mut shape = tensor.shape();
    if matches!(output, OnnxOutput::Argmax { .. }) {
        // One for each row; rows end before the last dimension that is not 1.
        if let Some(last) = shape.iter().rposition(|dim| !dim.is_one()) {
            shape[last] = Lin::ONE;
        }
    }
    let elements = product(shape)?;
    elements.constant.checked_add(elements.s.checked_mul(i64::from(longest))?)
}

/// `count` numbers from `start` on, with padding where there is none.
fn end_of(graph: &mut candor_sdk::program::ProgramBuilder, x: Value, start: Dim, count: u32, padding: u32) -> Value {
    let axis = ViewAxis { size: x.cols, offset: start, steps: vec![1], row_weight: Dim::ZERO, col_weight: Dim::ONE };
    let fill = (padding as f32).to_bits(); // exact: below 2^24
    let view = View { row_digits: Vec::new(), col_digits: vec![count.into()], axes: vec![axis], fill };
    graph.view(x, view, Dim::ONE, count)
}

/// What the elements of an input are.
fn kind_of(info: &ValueInfo) -> Result<Kind, ImportError> {
    match info.dtype {
        1 | 10 | 16 => Ok(Kind::Float),
        2 | 3 | 6 | 7 => Ok(Kind::Int),
        9 => Ok(Kind::Bool),
        other => {
            field(format!("input {:?}", info.name), format!("elements of type {} are not understood", type_name(other)))
        }
    }
}

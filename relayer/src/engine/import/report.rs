//! Importing for people: progress while it runs, and a report of what came out.

use super::{
    Check, CheckError, Cost, CostError, Files, ImportError, Imported, Options, Precision, as_stored, cost, hashing,
    quantise,
};
use candor_sdk::ids::ModelId;
use candor_sdk::program::{Limits, Model, ModelDescriptor, Op, Operand, Symbols, WeightType};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use thiserror::Error;

/// What an import is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Fetching files from a hub or a server; progress is in bytes.
    Fetching,
    /// Reading files; progress is in bytes.
    Reading,
    /// Checking tensors and building the graph.
    Building,
    /// Hashing weights into the model's id; progress is in bytes.
    Hashing,
    /// Running beside candle.
    Checking,
    /// Measuring what quantisation costs; progress is in windows of text.
    Measuring,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetching => "fetching",
            Self::Reading => "reading",
            Self::Building => "building",
            Self::Hashing => "hashing",
            Self::Checking => "checking against candle",
            Self::Measuring => "measuring what quantisation costs",
        })
    }
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is busy with.
    pub stage: Stage,
    /// How much of that is done.
    pub done: u64,
    /// How much there is; the stage ends when it is reached.
    pub total: u64,
}

/// An import or verification that failed.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The files are not a model.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The model could not be compared with candle.
    #[error("comparing with candle: {0}")]
    Check(#[from] CheckError),
    /// What quantisation costs could not be measured.
    #[error("measuring what quantisation costs: {0}")]
    Cost(#[from] CostError),
    /// The model computes something else than candle does with the same weights.
    #[error("this is not what candle computes from the same weights: {0}")]
    Disagrees(Check),
    /// The files are another model.
    #[error("the files are model {found}, not {wanted}")]
    OtherModel {
        /// The id of the files.
        found: ModelId,
        /// The id that was asked for.
        wanted: ModelId,
    },
}

/// Weights of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Tensors.
    pub tensors: usize,
    /// Elements in them.
    pub elements: u64,
    /// Bytes they take.
    pub bytes: u64,
}

/// A part of the graph: nodes whose labels begin alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The common beginning, with layers counted together.
    pub name: String,
    /// How many layers are counted together; 1 for what is not a layer.
    pub repeated: u32,
    /// Nodes.
    pub nodes: usize,
    /// Elements of the weights that it is the first to read.
    pub parameters: u64,
    /// Multiply-adds for one position of a sequence, or for a request of fixed size; attention over earlier positions is
    /// not counted.
    pub multiply_adds: u64,
}

/// What a person wants to know of a model.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Its family.
    pub family: &'static str,
    /// Its id.
    pub id: ModelId,
    /// What the id is made of.
    pub descriptor: ModelDescriptor,
    /// Nodes of its graph.
    pub nodes: usize,
    /// Its weights by type.
    pub weights: BTreeMap<&'static str, Stored>,
    /// Its graph in parts, in order.
    pub parts: Vec<Part>,
    /// What it accepts and yields.
    pub limits: Limits,
    /// What the import changed.
    pub notes: Vec<String>,
    /// The comparison with candle, if it was made.
    pub check: Option<Check>,
    /// What the conversion of its weights cost, if they were converted.
    pub cost: Option<Cost>,
}

/// Probes that a check compares.
const PROBES: u32 = 3;

/// Imports a folder or a GGUF file, and compares it with candle. If its weights are converted, it is the stored model that
/// is compared with candle, and the converted one with the stored one.
///
/// # Errors
/// If the files are not a model, or candle computes something else from them.
pub fn import(
    path: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Imported, Report), ReportError> {
    let mut report = |stage, done, total| progress(Progress { stage, done, total });
    let contents = Files::read(path, |done, total| report(Stage::Reading, done, total))?;
    report(Stage::Building, 0, 1);
    let stored = as_stored(&contents, options)?;
    drop(contents);
    let imported = match options.dtype {
        Some(precision) => quantise(&stored, precision)?,
        None => stored.clone(),
    };
    report(Stage::Building, 1, 1);
    let mut result = Report::with_progress(&imported, &mut |done, total| report(Stage::Hashing, done, total));
    report(Stage::Checking, 0, 1);
    let check = stored.check(&stored.probes(PROBES))?;
    report(Stage::Checking, 1, 1);
    if !check.agrees() {
        return Err(ReportError::Disagrees(check));
    }
    result.check = Some(check);
    if options.dtype.is_some() {
        let precisions = Precision::ALL.into_iter().filter(|&precision| quantise::changes(&stored, precision));
        let precisions: Vec<Precision> = precisions.collect();
        result.cost = Some(cost(&stored, &precisions, |done, total| report(Stage::Measuring, done, total))?);
    }
    Ok((imported, result))
}

/// The same for files that claim to be a certain model.
///
/// # Errors
/// As [`import`], and if they are another one.
pub fn verify(
    path: &Path,
    wanted: ModelId,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, ReportError> {
    let (_, report) = import(path, options, progress)?;
    if report.id != wanted {
        return Err(ReportError::OtherModel { found: report.id, wanted });
    }
    Ok(report)
}

impl Report {
    /// Describes a model, hashing its weights.
    pub fn of(imported: &Imported) -> Self {
        Self::with_progress(imported, &mut |_, _| ())
    }

    /// The same; `progress` hears the bytes hashed and to be hashed.
    pub fn with_progress(imported: &Imported, progress: &mut dyn FnMut(u64, u64)) -> Self {
        let model = &imported.model;
        let descriptor = hashing::descriptor_reporting(model, progress);
        let mut weights: BTreeMap<&'static str, Stored> = BTreeMap::new();
        for tensor in model.weights.tensors() {
            let stored = weights.entry(type_name(tensor.dtype())).or_default();
            stored.tensors += 1;
            stored.elements += tensor.rows() as u64 * tensor.cols() as u64;
            stored.bytes += tensor.bytes().len() as u64;
        }
        Self {
            name: imported.name.clone(),
            family: imported.family.name(),
            id: descriptor.model_id(),
            nodes: model.program.nodes.len(),
            descriptor,
            weights,
            parts: parts(model),
            limits: model.limits,
            notes: imported.notes.clone(),
            check: None,
            cost: None,
        }
    }
}

/// The graph by the beginnings of its labels.
fn parts(model: &Model) -> Vec<Part> {
    // One position: of a prompt of one token, or of the fixed input.
    let tokens = model.program.input_kind() == Some(candor_sdk::program::InputKind::Tokens);
    let input_bytes = if tokens { 4 } else { model.limits.min_input_bytes };
    let prompt = if tokens { 1 } else { input_bytes };
    let sequence = prompt + u32::from(model.program.generation().is_some());
    let bound = model.bind(Symbols { sequence, prompt, input_bytes, output_bytes: 0 });
    let mut parts: Vec<Part> = Vec::new();
    let mut seen = vec![false; model.weights.tensors().len()];
    let mut layers: Vec<Vec<String>> = Vec::new();
    for (index, node) in model.program.nodes.iter().enumerate() {
        let (name, layer) = group(&node.label);
        let at = parts.iter().position(|part| part.name == name).unwrap_or_else(|| {
            parts.push(Part { name, ..Part::default() });
            layers.push(Vec::new());
            parts.len() - 1
        });
        if !layers[at].contains(&layer) {
            layers[at].push(layer);
        }
        parts[at].nodes += 1;
        parts[at].repeated = layers[at].len() as u32; // at most as many as nodes
        for operand in &node.inputs {
            let Operand::Weight(weight) = operand else { continue };
            let Some(tensor) = model.weights.get(*weight) else { continue };
            if !std::mem::replace(&mut seen[*weight as usize], true) {
                parts[at].parameters += tensor.rows() as u64 * tensor.cols() as u64;
            }
            if matches!(node.op, Op::Linear | Op::QuantLinear)
                && let Ok(bound) = &bound
                && node.inputs.len() > 1
                && Some(operand) == node.inputs.iter().find(|operand| matches!(operand, Operand::Weight(_)))
            {
                let rows = bound.nodes.get(index).map_or(0, |node| node.rows) as u64;
                parts[at].multiply_adds += rows * tensor.rows() as u64 * tensor.cols() as u64;
            }
        }
    }
    parts
}

/// `model.layers.3.attention` as `model.layers.*.attention` and the 3.
fn group(label: &str) -> (String, String) {
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let layer = label.split('.').find(number).unwrap_or_default();
    let name: Vec<&str> = label.split('.').map(|part| if number(&part) { "*" } else { part }).collect();
    (name.join("."), layer.to_string())
}

fn type_name(dtype: WeightType) -> &'static str {
    match dtype {
        WeightType::F32 => "f32",
        WeightType::F16 => "f16",
        WeightType::Bf16 => "bf16",
        WeightType::Q8_0 => "q8_0",
        WeightType::Q8_128 => "q8_128",
        WeightType::U8 => "u8",
        WeightType::U32 => "u32",
    }
}

/// A large number in a few characters.
fn short(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limits { min_input_bytes, max_input_bytes, max_output_bytes, max_tokens } = self.limits;
        writeln!(f, "{}, {} family", self.name, self.family)?;
        writeln!(f, "  id       {}", self.id)?;
        writeln!(f, "  input    {min_input_bytes} to {max_input_bytes} bytes")?;
        write!(f, "  output   at most {max_output_bytes} bytes")?;
        writeln!(f, "{}", if max_tokens > 0 { format!(", {max_tokens} tokens") } else { String::new() })?;
        for (name, stored) in &self.weights {
            let (elements, bytes) = (short(stored.elements), short(stored.bytes));
            writeln!(f, "  {name:<8} {} tensors, {elements} elements, {bytes}B", stored.tensors)?;
        }
        writeln!(f, "  graph    {} nodes", self.nodes)?;
        let width = self.parts.iter().map(|part| part.name.len()).max().unwrap_or(0).max(4);
        writeln!(f, "    {:<width$}  times  nodes  parameters  multiply-adds", "part")?;
        for part in &self.parts {
            let name = if part.name.is_empty() { "-" } else { &part.name };
            let (parameters, multiply_adds) = (short(part.parameters), short(part.multiply_adds));
            let (repeated, nodes) = (part.repeated, part.nodes);
            writeln!(f, "    {name:<width$}  {repeated:>5}  {nodes:>5}  {parameters:>10}  {multiply_adds:>13}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note     {note}")?;
        }
        match &self.check {
            Some(check) => write!(f, "  check    {check}")?,
            None => write!(f, "  check    not made")?,
        }
        match &self.cost {
            Some(cost) => write!(f, "\n  cost     {cost}"),
            None => Ok(()),
        }
    }
}

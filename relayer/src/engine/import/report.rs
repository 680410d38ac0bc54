//! Importing for people: progress while it runs, and a report of what came out.

use super::outline::{Outline, short};
use super::{
    Check, CheckError, Cost, CostError, Files, ImportError, Imported, Options, Precision, as_stored, cost, hashing,
    quantise,
};
use candor_sdk::ids::ModelId;
use candor_sdk::program::{Limits, ModelDescriptor, WeightType};
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
    /// Its weights by type.
    pub weights: BTreeMap<&'static str, Stored>,
    /// Its graph.
    pub outline: Outline,
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
    let stored = as_stored(contents, options)?;
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
            stored.bytes += tensor.byte_len() as u64;
        }
        Self {
            name: imported.name.clone(),
            family: imported.family.name(),
            id: descriptor.model_id(),
            descriptor,
            weights,
            outline: Outline::of(model),
            limits: model.limits,
            notes: imported.notes.clone(),
            check: None,
            cost: None,
        }
    }
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
        writeln!(f, "  graph    {}", self.outline.to_string().replace('\n', "\n  "))?;
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

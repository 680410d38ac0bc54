//! What is fuzzed. A target says whether an input is sound, and finds out whether what came of it holds together.

use crate::engine_common::{Random, families, files, gguf::Gguf, onnx};
use crate::mutate;
use candor_relayer::engine::import::{self, Files, ImportError, Imported, Options};
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::program::{Params, Program};
use safetensors::tensor::Dtype;
use std::sync::{Arc, OnceLock};

/// One thing that reads what strangers write.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Whether its inputs are text.
    pub text: bool,
    /// Sound inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Runs an input: `Ok(None)` if it is sound, `Ok(Some(error))` if it is refused, `Err` if something is wrong with us.
    pub run: fn(&[u8]) -> Result<Option<String>, String>,
}

/// All of them.
pub static TARGETS: [Target; 8] = [
    Target { name: "safetensors", text: false, seeds: safetensors_seeds, run: safetensors },
    Target { name: "gguf", text: false, seeds: gguf_seeds, run: gguf },
    Target { name: "onnx", text: false, seeds: onnx_seeds, run: onnx },
    Target { name: "config", text: true, seeds: config_seeds, run: config },
    Target { name: "tokenizer", text: true, seeds: tokenizer_seeds, run: tokenizer },
    Target { name: "sequential", text: true, seeds: sequential_seeds, run: sequential },
    Target { name: "descriptor", text: false, seeds: descriptor_seeds, run: descriptor },
    Target { name: "graphs", text: false, seeds: graph_seeds, run: graphs },
];

/// What becomes of an import. A model is small enough to run, and then everything must agree.
fn judge(result: Result<Imported, ImportError>) -> Result<Option<String>, String> {
    match result {
        Err(error) => match error.to_string() {
            text if text.is_empty() => Err("an error that says nothing".to_string()),
            text => Ok(Some(text)),
        },
        Ok(imported) => agree(&imported).map(|()| None),
    }
}

/// The engine answers as the reference does, if that takes no time.
fn agree(imported: &Imported) -> Result<(), String> {
    let model = &imported.model;
    if model.weights.byte_len() > 1 << 20 || model.program.nodes.len() > 2_000 {
        return Ok(());
    }
    let mut probes = imported.probes(2);
    probes.retain(|probe| probe.len() <= 1 << 14);
    // A graph may be large in the middle.
    for probe in &probes {
        let input_bytes = u32::try_from(probe.len()).unwrap_or(u32::MAX);
        let tokens = model.program.input_kind() == Some(candor_sdk::program::InputKind::Tokens);
        let prompt = if tokens { input_bytes / 4 } else { input_bytes };
        let sequence = prompt + model.limits.max_tokens.min(2);
        let symbols = candor_sdk::program::Symbols { sequence, prompt, input_bytes, output_bytes: 0 };
        let elements: u64 = match model.bind(symbols) {
            Ok(bound) => bound.nodes.iter().map(|node| node.rows as u64 * node.cols as u64).sum(),
            Err(_) => return Ok(()), // a length that the limits exclude
        };
        if elements > 1 << 18 {
            return Ok(());
        }
    }
    let engine = LoadedModel::load(model.clone(), Device::Cpu).map_err(|error| format!("the engine: {error}"))?;
    for input in probes {
        let params = Params { max_tokens: model.limits.max_tokens.min(2), ..Params::default() };
        let request = InferRequest { input, params, ..InferRequest::default() };
        let reference = model.interpret(&request).map(|run| run.output);
        let answer = engine.infer(std::slice::from_ref(&request)).pop().ok_or("no answer")?;
        match (reference, answer) {
            (Ok(reference), Ok(answer)) if reference == answer => {}
            (Err(_), Err(_)) => {}
            (reference, answer) => {
                let text = |ok: bool| if ok { "an answer" } else { "none" };
                let (reference, answer) = (text(reference.is_ok()), text(answer.is_ok()));
                return Err(format!("the reference has {reference}, the engine {answer}, and they differ"));
            }
        }
    }
    Ok(())
}

/// Small sequences, so that models can be run.
const OPTIONS: Options = Options { context: 64, max_tokens: 8, dtype: None };

fn made() -> &'static [families::Made] {
    static MADE: OnceLock<Vec<families::Made>> = OnceLock::new();
    MADE.get_or_init(|| {
        vec![
            families::bert(1, Dtype::F32),
            families::decoder("llama", 2, Dtype::F16, true),
            families::decoder("qwen2", 3, Dtype::BF16, false),
            families::decoder("qwen3", 4, Dtype::F32, true),
        ]
    })
}

/// An input with the number of a folder in front: the rest of the folder is as it should be.
fn numbered(parts: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    parts.enumerate().map(|(index, part)| [vec![index as u8], part].concat()).collect()
}

fn of_folder(input: &[u8]) -> Option<(Files, &[u8])> {
    let (index, rest) = input.split_first()?;
    Some((made().get(usize::from(*index) % 4)?.files(), rest))
}

fn safetensors_seeds() -> Vec<Vec<u8>> {
    numbered(made().iter().map(|made| made.files().weights[0].1.to_vec()))
}

fn safetensors(input: &[u8]) -> Result<Option<String>, String> {
    let Some((mut files, rest)) = of_folder(input) else { return Ok(Some("empty".to_string())) };
    files.weights[0].1 = Arc::new(rest.to_vec());
    judge(import::files(&files, &OPTIONS))
}

fn config_seeds() -> Vec<Vec<u8>> {
    numbered(made().iter().map(|made| made.files().config.into_bytes()))
}

fn config(input: &[u8]) -> Result<Option<String>, String> {
    let Some((mut files, rest)) = of_folder(input) else { return Ok(Some("empty".to_string())) };
    files.config = String::from_utf8_lossy(rest).into_owned();
    judge(import::files(&files, &OPTIONS))
}

fn tokenizer_seeds() -> Vec<Vec<u8>> {
    numbered(made().iter().map(|made| made.files().tokenizer.unwrap_or_default().into_bytes()))
}

fn tokenizer(input: &[u8]) -> Result<Option<String>, String> {
    let Some((mut files, rest)) = of_folder(input) else { return Ok(Some("empty".to_string())) };
    files.tokenizer = Some(String::from_utf8_lossy(rest).into_owned());
    judge(import::files(&files, &OPTIONS))
}

fn gguf_seeds() -> Vec<Vec<u8>> {
    made().iter().skip(1).map(|made| Gguf::of(made).file()).collect()
}

fn gguf(input: &[u8]) -> Result<Option<String>, String> {
    judge(import::files(&Files { gguf: Some(Arc::new(input.to_vec())), ..Files::default() }, &OPTIONS))
}

fn onnx_seeds() -> Vec<Vec<u8>> {
    (0..24).map(|seed| random_graph(&mut mutate::Random(seed))).collect()
}

fn onnx(input: &[u8]) -> Result<Option<String>, String> {
    judge(import::files(&Files { onnx: Some(Arc::new(input.to_vec())), ..Files::default() }, &OPTIONS))
}

fn sequential_seeds() -> Vec<Vec<u8>> {
    (0..6)
        .map(|seed| files::random_model(&mut Random(seed)).config.into_bytes())
        .enumerate()
        .map(|(i, config)| [vec![i as u8], config].concat())
        .collect()
}

fn sequential(input: &[u8]) -> Result<Option<String>, String> {
    let Some((index, rest)) = input.split_first() else { return Ok(Some("empty".to_string())) };
    let files = files::random_model(&mut Random(u64::from(*index % 6)));
    judge(import::bytes(&String::from_utf8_lossy(rest), &files.weights))
}

fn descriptor_seeds() -> Vec<Vec<u8>> {
    let models = made().iter().filter_map(|made| import::files(&made.files(), &OPTIONS).ok());
    models.map(|imported| imported.model.program.encode()).collect()
}

/// A program that decodes encodes to the same bytes, and validation of it with any weights does not panic.
fn descriptor(input: &[u8]) -> Result<Option<String>, String> {
    let program = match Program::decode(input) {
        Ok(program) => program,
        Err(error) => return Ok(Some(error.to_string())),
    };
    if program.encode() != input {
        return Err("it encodes to other bytes".to_string());
    }
    for made in made() {
        let Ok(imported) = import::files(&made.files(), &OPTIONS) else { continue };
        let mut model = imported.model;
        model.program = program.clone();
        if let Err(error) = model.validate() {
            let _ = error.to_string();
        } else {
            let _ = model.descriptor();
        }
    }
    Ok(None)
}

fn graph_seeds() -> Vec<Vec<u8>> {
    (0..64u64).map(|seed| seed.to_le_bytes().to_vec()).collect()
}

/// Bytes choose a graph. It is sound, so it must be imported, agree with candle, and with itself.
fn graphs(input: &[u8]) -> Result<Option<String>, String> {
    let seed = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let file = random_graph(&mut mutate::Random(seed));
    let imported = match import::files(&Files { onnx: Some(Arc::new(file)), ..Files::default() }, &OPTIONS) {
        Ok(imported) => imported,
        // Random weights may be so that a shape is too large for the two dimensions that a program has.
        Err(error) => return Err(format!("refused: {error}")),
    };
    agree(&imported)?;
    let probes = imported.probes(2);
    let check = imported.check(&probes).map_err(|error| format!("candle: {error}"))?;
    match check.max_error.is_finite() && check.min_cosine > 0.999 {
        true => Ok(None),
        false => Err(format!("candle disagrees: {check}")),
    }
}

/// A chain of operations on a tensor of a random shape, some of whose results are joined again.
fn random_graph(random: &mut mutate::Random) -> Vec<u8> {
    let rank = 2 + random.below(3);
    let mut dims: Vec<i64> = (0..rank).map(|_| 1 + random.below(6) as i64).collect();
    dims[0] = 1;
    let mut graph = onnx::Graph::floats(&dims).seeded(random.bits());
    let mut shapes: Vec<(String, Vec<i64>)> = vec![("x".to_string(), dims)];
    for step in 0..1 + random.below(8) {
        let (from, dims) = random.pick(&shapes).clone();
        let to = format!("t{step}");
        let mut shape = dims.clone();
        let rank = dims.len();
        let axis = random.below(rank);
        let (w, b) = (format!("w{step}"), format!("b{step}"));
        match random.below(16) {
            0 => {
                let op =
                    *random.pick(&["Relu", "Tanh", "Sigmoid", "Neg", "Abs", "Erf", "Softsign", "Elu", "HardSwish"]);
                graph = graph.node(op, &[&from], &to, vec![]);
            }
            1 | 2 => {
                // With a constant that broadcasts somehow.
                let own: Vec<i64> = dims.iter().map(|&dim| if random.below(2) == 0 { 1 } else { dim }).collect();
                let own = own[random.below(rank)..].to_vec();
                let op = *random.pick(&["Add", "Sub", "Mul", "Max", "Min"]);
                graph = graph.weight(&w, &own).node(op, &[&from, &w], &to, vec![]);
            }
            3 => {
                let others: Vec<(String, Vec<i64>)> =
                    shapes.iter().filter(|(_, other)| *other == dims).cloned().collect();
                let (other, _) = random.pick(&others).clone();
                graph = graph.node("Add", &[&from, &other], &to, vec![]);
            }
            4 | 5 => {
                let out = 1 + random.below(6) as i64;
                shape[rank - 1] = out;
                graph = graph.weight(&w, &[dims[rank - 1], out]).node("MatMul", &[&from, &w], &to, vec![]);
            }
            6 => {
                let mut order: Vec<i64> = (0..rank as i64).collect();
                for place in (1..rank).rev() {
                    order.swap(place, random.below(place + 1));
                }
                shape = order.iter().map(|&d| dims[d as usize]).collect();
                graph = graph.node("Transpose", &[&from], &to, vec![onnx::ints("perm", &order)]);
            }
            7 => {
                let total: i64 = dims.iter().product();
                let divisors: Vec<i64> = (1..=total).filter(|d| total % d == 0).collect();
                let first = *random.pick(&divisors);
                shape = vec![1, first, total / first];
                graph = graph.ints(&w, &shape).node("Reshape", &[&from, &w], &to, vec![]);
            }
            8 => {
                let op = *random.pick(&["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"]);
                shape[axis] = 1;
                graph = graph.ints(&w, &[axis as i64]).node(op, &[&from, &w], &to, vec![]);
            }
            9 => graph = graph.node("Softmax", &[&from], &to, vec![onnx::int("axis", axis as i64)]),
            10 => {
                let last = [dims[rank - 1]];
                graph = graph.weight(&w, &last).weight(&b, &last);
                graph = graph.node("LayerNormalization", &[&from, &w, &b], &to, vec![onnx::float("epsilon", 0.1)]);
            }
            11 => {
                let start = random.below(dims[axis] as usize) as i64;
                let end = start + 1 + random.below((dims[axis] - start) as usize) as i64;
                shape[axis] = end - start;
                let (starts, ends, axes) = (format!("s{step}"), format!("e{step}"), format!("a{step}"));
                graph = graph.ints(&starts, &[start]).ints(&ends, &[end]).ints(&axes, &[axis as i64]);
                graph = graph.node("Slice", &[&from, &starts, &ends, &axes], &to, vec![]);
            }
            12 if dims[axis] <= 32 => {
                shape[axis] *= 2;
                graph = graph.node("Concat", &[&from, &from], &to, vec![onnx::int("axis", axis as i64)]);
            }
            13 if rank >= 3 => {
                // A product with itself, transposed: square matrices for each of the outer dimensions.
                let mut order: Vec<i64> = (0..rank as i64).collect();
                order.swap(rank - 1, rank - 2);
                shape[rank - 1] = dims[rank - 2];
                graph = graph.node("Transpose", &[&from], &w, vec![onnx::ints("perm", &order)]);
                graph = graph.node("MatMul", &[&from, &w], &to, vec![]);
            }
            14 if rank == 4 && dims[2] >= 2 && dims[3] >= 2 => {
                let out = 1 + random.below(4) as i64;
                let pad = random.below(2) as i64;
                graph = graph.weight(&w, &[out, dims[1], 2, 2]);
                graph = graph.node("Conv", &[&from, &w], &to, vec![onnx::ints("pads", &[pad; 4])]);
                (shape[1], shape[2], shape[3]) = (out, dims[2] - 1 + 2 * pad, dims[3] - 1 + 2 * pad);
            }
            15 if rank == 4 && dims[2] >= 2 && dims[3] >= 2 => {
                let op = *random.pick(&["MaxPool", "AveragePool"]);
                graph = graph.node(op, &[&from], &to, vec![onnx::ints("kernel_shape", &[2, 2])]);
                (shape[2], shape[3]) = (dims[2] - 1, dims[3] - 1);
            }
            _ => graph = graph.node("Identity", &[&from], &to, vec![]),
        }
        shapes.push((to, shape));
    }
    let (last, _) = shapes.last().cloned().unwrap_or_default();
    graph.file(&last)
}

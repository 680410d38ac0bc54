//! Whole models: from request bytes to answer bytes on our side, from ids to numbers on candle's.

use crate::paired::{Pair, Table, noise};
use crate::sources::{CandleDecoder, Source};
use candle_core::DType;
use candor_relayer::engine::import::{self, Files, Imported, Options, Precision};
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::program::{Params, WeightType};
use std::hint::black_box;
use std::path::Path;

pub(crate) fn imported(files: &Files, dtype: Option<Precision>) -> Imported {
    import::files(files, &Options { dtype, ..Options::default() }).expect("a model")
}

fn load(imported: &Imported) -> LoadedModel {
    LoadedModel::load(imported.model.clone(), Device::Cpu).expect("the model loads")
}

/// The models inside the binary.
pub(crate) fn embedded(table: &Table) {
    for model in ["credit", "digits"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
        let imported = import::folder(&folder).expect("an embedded model");
        let (loaded, candle) = (load(&imported), imported.candle().expect("candle loads the model"));
        for batch in [1, 8, 64, 256] {
            let inputs = imported.probes(batch);
            let requests: Vec<InferRequest> =
                inputs.iter().map(|input| InferRequest { input: input.clone(), ..InferRequest::default() }).collect();
            table.pair(
                &format!("model {model} f16 / candle f32, batch {batch}"),
                || drop(black_box(loaded.infer(&requests))),
                || drop(black_box(candle.last_layer(&inputs).expect("a run"))),
            );
            if batch == 1 {
                trace(table, model, &loaded, &requests[0]);
            }
        }
    }
}

/// A run that is hashed into a trace, beside one that is not.
fn trace(table: &Table, name: &str, loaded: &LoadedModel, request: &InferRequest) {
    table.pair(
        &format!("trace of {name} (ours: without)"),
        || drop(black_box(loaded.infer(std::slice::from_ref(request)))),
        || drop(black_box(loaded.trace(request, |_, _| ()).expect("a trace"))),
    );
}

fn ids(count: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    noise(count, seed).into_iter().map(|x| (x.abs() * (vocabulary - 1) as f32) as u32).collect()
}

fn ask(tokens: &[u32], max_tokens: u32) -> InferRequest {
    let params = Params { max_tokens, ..Params::default() };
    InferRequest { input: tokens.iter().flat_map(|id| id.to_be_bytes()).collect(), params, ..InferRequest::default() }
}

pub(crate) fn encoders(table: &Table) {
    if !table.may_want("encoder trace of MiniLM (ours: without) f16 q8_128 / candle f32 batch of to tokens") {
        return;
    }
    let source = Source::minilm();
    let name = source.name;
    let candle = source.candle_encoder().expect("candle loads the model");
    for (dtype, label) in [(None, "f16"), (Some(Precision::Q8_128), "q8_128")] {
        let ours = load(&imported(&source.files, dtype));
        for lengths in [vec![16], vec![128], vec![128; 8], vec![64; 32], vec![9, 17, 24, 33, 48, 61, 90, 128]] {
            let inputs: Vec<Vec<u32>> = lengths
                .iter()
                .enumerate()
                .map(|(i, &length)| ids(length, source.size("vocab_size"), i as u64))
                .collect();
            let requests: Vec<InferRequest> = inputs.iter().map(|ids| ask(ids, 0)).collect();
            let alike = lengths.iter().all(|length| *length == lengths[0]);
            let shape = match (lengths.len(), alike) {
                (1, _) => format!("{} tokens", lengths[0]),
                (n, true) => format!("batch {n} of {} tokens", lengths[0]),
                (n, false) => format!("batch {n} of 9 to 128 tokens"),
            };
            let sentences = lengths.len() as f64;
            table.pair_noted(
                &format!("encoder {name} {label} / candle f32, {shape}"),
                || drop(black_box(ours.infer(&requests))),
                || match alike {
                    true => drop(black_box(candle.embed(&inputs).expect("a run"))),
                    // candle has no padding here either: one after the other is what it can do.
                    false => inputs
                        .iter()
                        .for_each(|ids| drop(black_box(candle.embed(std::slice::from_ref(ids)).expect("a run")))),
                },
                |Pair { ours, theirs }| format!("{:.0} and {:.0} sentences/s", sentences / ours, sentences / theirs),
            );
            if dtype.is_none() && lengths == [128] {
                trace(table, name, &ours, &requests[0]);
            }
        }
    }
}

/// Greedy tokens. `read` is the bandwidth of this machine's memory.
pub(crate) fn language_models(table: &Table, read: f64) {
    let all = [None, Some(Precision::Q8_0), Some(Precision::Q8_128)];
    let words =
        "prefill decode trace of f16 f32 q8_0 q8_128 / candle + tokens requests together (other: one by one) without";
    if table.may_want(&format!("{words} SmolLM2-135M")) {
        let smollm2 = Source::smollm2();
        let mut candle = smollm2.candle_decoder(DType::F32).expect("candle loads the model");
        for dtype in all {
            language_model(table, read, &smollm2, imported(&smollm2.files, dtype), &mut candle, "f32", true);
        }
        for files in [smollm2.widened(), smollm2.nudged()] {
            language_model(table, read, &smollm2, imported(&files, None), &mut candle, "f32", false);
        }
        let mut candle = smollm2.candle_decoder(DType::F16).expect("candle loads the model");
        language_model(table, read, &smollm2, imported(&smollm2.files, None), &mut candle, "f16", false);
    }
    if table.may_want(&format!("{words} Qwen2.5-0.5B"))
        && let Some(qwen) = Source::qwen()
    {
        let mut candle = qwen.candle_decoder(DType::F32).expect("candle loads the model");
        for dtype in [None, Some(Precision::Q8_128)] {
            language_model(table, read, &qwen, imported(&qwen.files, dtype), &mut candle, "f32", false);
        }
    }
}

/// Whether f32 numbers are all f16 numbers, which the engine keeps as such.
fn are_halves(bytes: &[u8]) -> bool {
    let numbers = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    numbers.into_iter().all(|x| half::f16::from_f32(x).to_f32() == x)
}

fn language_model(
    table: &Table,
    read: f64,
    source: &Source,
    imported: Imported,
    candle: &mut CandleDecoder,
    theirs: &str,
    everything: bool,
) {
    let (name, vocabulary) = (source.name, source.size("vocab_size"));
    // The type of the largest tensor.
    let largest = imported.model.weights.tensors().iter().max_by_key(|tensor| tensor.bytes().len());
    let mut dtype = largest.map_or_else(String::new, |tensor| format!("{:?}", tensor.dtype()).to_lowercase());
    // A layer's elements, whatever their width: candle reads them all for each token, as we do.
    let (elements, mut bytes) = (imported.model.weights.elements() as f64, imported.model.weights.byte_len() as f64);
    if largest.is_some_and(|tensor| tensor.dtype() == WeightType::F32 && are_halves(tensor.bytes())) {
        dtype += " of f16 numbers";
        bytes /= 2.0;
    }
    let width = if theirs == "f16" { 2.0 } else { 4.0 };
    let loaded = load(&imported);
    drop(imported);
    let cases = [("prefill", 256, 1u32), ("decode", 8, 24)];
    for (kind, prompt, tokens) in cases {
        let ids = ids(prompt, vocabulary, 5);
        let request = ask(&ids, tokens);
        table.pair_noted(
            &format!("{kind} {name} {dtype} / candle {theirs}, {prompt} + {tokens} tokens"),
            || drop(black_box(loaded.generate(&request).expect("tokens"))),
            || drop(black_box(candle.generate(&ids, tokens as usize).expect("tokens"))),
            |Pair { ours, theirs }| {
                let count = if kind == "prefill" { prompt as f64 } else { f64::from(tokens) };
                let rate = format!("{:.0} and {:.0} tokens/s", count / ours, count / theirs);
                if kind == "prefill" {
                    return rate;
                }
                // The prompt is one more pass over the weights.
                let passes = f64::from(tokens);
                let share = |bytes: f64, seconds: f64| 100.0 * bytes * passes / seconds / read;
                format!(
                    "{rate}; {:.0}% and {:.0}% of the memory's speed",
                    share(bytes, ours),
                    share(elements * width, theirs)
                )
            },
        );
    }
    if everything && dtype == "f16" {
        trace(table, name, &loaded, &ask(&ids(64, vocabulary, 5), 2));
        let requests: Vec<InferRequest> = (0..8).map(|i| ask(&ids(8, vocabulary, i), 24)).collect();
        table.pair_noted(
            &format!("decode {name} {dtype}, 8 requests together (other: one by one)"),
            || drop(black_box(loaded.infer(&requests))),
            || requests.iter().for_each(|request| drop(black_box(loaded.infer(std::slice::from_ref(request))))),
            |Pair { ours, theirs }| format!("{:.0} and {:.0} tokens/s", 192.0 / ours, 192.0 / theirs),
        );
    }
}

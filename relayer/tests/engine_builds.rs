//! One right answer, written down: `tests/vectors/models.json` has ids, answers and trace roots of a few models as the reference
//! interpreter gives them, and whatever build runs these tests, with whatever instructions and threads, has to give the same.
//!
//! `CANDOR_BLESS=1 cargo test -p candor-relayer --test engine_builds` writes the file. `make same-bits` compares a debug with a
//! release build on models of any size.

mod engine_common;
#[path = "../../sdk/tests/common/golden.rs"]
mod golden;

use candor_relayer::engine::import::{self, Files, Options, Precision};
use candor_relayer::engine::kernels::Isa;
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::program::{Model, Params, TraceBuilder};
use engine_common::families::{bert, decoder};
use engine_common::pool;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::path::Path;

const FILE: &str = "models.json";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_string(), |text, byte| text + &format!("{byte:02x}"))
}

fn embedded(name: &str) -> Files {
    Files::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name), |_, _| ()).expect("an embedded model")
}

/// Both embedded models, an encoder, and language models in several types of weights, each with its requests.
fn models() -> Vec<(&'static str, Model, Vec<InferRequest>)> {
    let models = [
        ("credit", embedded("credit"), None),
        ("digits", embedded("digits"), None),
        ("digits, q8_128", embedded("digits"), Some(Precision::Q8_128)),
        ("bert, f32", bert(11, Dtype::F32).files(), None),
        ("llama, f16", decoder("llama", 12, Dtype::F16, true).files(), None),
        ("qwen2, bf16", decoder("qwen2", 13, Dtype::BF16, false).files(), None),
        ("qwen3, q8_0", decoder("qwen3", 14, Dtype::F32, true).files(), Some(Precision::Q8_0)),
        ("llama, q8_128", decoder("llama", 15, Dtype::F16, false).files(), Some(Precision::Q8_128)),
    ];
    let model = |(name, files, dtype)| {
        let imported = import::files(&files, &Options { dtype, ..Options::default() }).expect(name);
        let cold = Params { max_tokens: 6, ..Params::default() };
        let hot = Params { temperature: 0.8f32.to_bits(), min_p: 0.05f32.to_bits(), ..cold };
        let requests = imported.probes(2).into_iter().zip([cold, hot]);
        let requests = requests.map(|(input, params)| InferRequest { input, params, seed: [0xa5; 32] }).collect();
        (name, imported.model, requests)
    };
    models.into_iter().map(model).collect()
}

#[test]
fn golden_answers_are_the_references() {
    let models = models().into_iter().map(|(name, model, requests)| {
        let runs = requests.iter().map(|request| {
            let run = model.interpret(request).expect(name);
            let mut trace = TraceBuilder::default();
            run.tensors.iter().for_each(|tensor| trace.push(tensor));
            json!({
                "input": hex(&request.input),
                "maxTokens": request.params.max_tokens,
                "temperature": hex(&request.params.temperature.to_be_bytes()),
                "minP": hex(&request.params.min_p.to_be_bytes()),
                "seed": hex(&request.seed),
                "generated": run.generated,
                "output": hex(&run.output),
                "traceRoot": trace.finish(run.symbols).root().to_string(),
            })
        });
        let runs: Vec<Value> = runs.collect();
        json!({ "name": name, "id": model.model_id().to_string(), "runs": runs })
    });
    golden::golden(FILE, json!({ "models": models.collect::<Vec<Value>>() }));
}

#[test]
fn golden_answers_on_every_path_and_any_number_of_threads() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(FILE));
    let written: Value = serde_json::from_str(&text.expect(FILE)).expect(FILE);
    for ((name, model, requests), written) in models().into_iter().zip(written["models"].as_array().expect("models")) {
        assert_eq!((written["name"].as_str(), written["runs"].as_array().map(Vec::len)), (Some(name), Some(2)));
        assert_eq!(written["id"], model.model_id().to_string(), "{name}");
        for &isa in Isa::available() {
            let loaded = LoadedModel::load_with(model.clone(), Device::Cpu, isa).expect(name);
            for threads in [1, 2, 4] {
                let what = format!("{name} on {}, {threads} threads", isa.name());
                pool(threads).install(|| {
                    let answers = loaded.infer(&requests);
                    for ((request, answer), run) in
                        requests.iter().zip(answers).zip(written["runs"].as_array().into_iter().flatten())
                    {
                        assert_eq!(run["output"], hex(&answer.expect(&what)), "{what}");
                        let trace = loaded.trace(request, |_, _| ()).expect(&what);
                        assert_eq!(run["traceRoot"], trace.root().to_string(), "{what}");
                    }
                });
            }
        }
    }
}

/// Weights that are stored as f32 and are narrower numbers are kept in memory as such: what anybody sees of them stays the same.
#[test]
fn narrow_numbers_stored_as_f32_answer_and_open_as_f32() {
    type Rounding = fn(f32) -> f32;
    let bf16: Rounding = |w| half::bf16::from_f32(w).to_f32();
    let f16: Rounding = |w| half::f16::from_f32(w).to_f32();
    for (name, rounded) in [("bf16", bf16), ("f16", f16), ("f32", |w| w)] {
        let mut made = decoder("llama", 16, Dtype::F32, true);
        made.tensors.iter_mut().for_each(|(.., values)| values.iter_mut().for_each(|w| *w = rounded(*w)));
        let imported = import::files(&made.files(), &Options::default()).expect(name);
        let params = Params { max_tokens: 6, ..Params::default() };
        let request = InferRequest { input: imported.probes(1).remove(0), params, seed: [0; 32] };
        let stored = &imported.model;
        let right = stored.interpret(&request).expect(name);
        let mut root = TraceBuilder::default();
        right.tensors.iter().for_each(|tensor| root.push(tensor));
        let root = root.finish(right.symbols).root();
        for &isa in Isa::available() {
            let loaded = LoadedModel::load_with(stored.clone(), Device::Cpu, isa).expect(name);
            let answer = loaded.infer(std::slice::from_ref(&request)).remove(0).expect(name);
            assert_eq!(answer, right.output, "{name} on {}", isa.name());
            assert_eq!(loaded.commit(&request).expect(name).root(), root, "{name} on {}", isa.name());
            for (kept, stored) in loaded.model().weights.tensors().iter().zip(stored.weights.tensors()) {
                assert_eq!((kept.dtype(), kept.bytes()), (stored.dtype(), stored.bytes()), "{name}: {}", stored.name());
            }
        }
    }
}

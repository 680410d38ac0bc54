//! Families of models on made-up weights: imported, compared with candle's own implementation, and the engine's answers with
//! the interpreter's.

mod engine_common;

use candor_relayer::engine::import::{self, Family, Files, Imported, Options, Stage};
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::program::{Params, WeightType};
use engine_common::families::{Made, VOCABULARY, bert, decoder, distilled};
use engine_common::files::Tensors;
use safetensors::tensor::Dtype;
use serde_json::json;
use std::sync::Arc;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

fn import(made: &Made) -> Imported {
    import::files(&made.files(), &Options::default()).unwrap_or_else(|error| panic!("{error}\n{}", made.config))
}

fn tokens(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_be_bytes()).collect()
}

/// candle computes the same, and the engine gives the interpreter's bits.
fn assert_sound(imported: &Imported) {
    let what = format!("{} {:?}", imported.family.name(), imported.family);
    let check = imported.check_tokens(&imported.probes(4), 6).expect(&what);
    assert!(check.agrees() && check.min_cosine > 0.999_999 && check.max_error < 1e-4, "{check}\n{what}");
    assert!(check.rows >= 4 && check.same_argmax + check.close_calls == check.rows, "{check}\n{what}");

    let requests: Vec<InferRequest> = imported
        .probes(3)
        .into_iter()
        .flat_map(|input| {
            let params = Params { max_tokens: 5, ..Params::default() };
            let hot = Params { temperature: 0.9f32.to_bits(), min_p: 0.05f32.to_bits(), ..params };
            [params, hot].map(|params| InferRequest { input: input.clone(), params, seed: [9; 32] })
        })
        .collect();
    let answers = requests.iter().map(|request| imported.model.interpret(request).expect(&what).output);
    let answers: Vec<Vec<u8>> = answers.collect();
    assert!(answers.iter().all(|answer| answer.len() <= imported.model.limits.max_output_bytes as usize), "{what}");
    let loaded = LoadedModel::load(imported.model.clone(), Device::Cpu).expect(&what);
    for (got, want) in loaded.infer(&requests).into_iter().zip(&answers) {
        assert_eq!(got.expect(&what), *want, "{what}");
    }
}

#[test]
fn encoders_agree_with_candle() {
    for (seed, dtype) in (1..).zip(DTYPES) {
        let imported = import(&bert(seed, dtype));
        assert_sound(&imported);
        let stored = [WeightType::F32, WeightType::F16, WeightType::Bf16][seed as usize - 1];
        assert!(imported.model.weights.tensors().iter().all(|tensor| tensor.dtype() == stored), "kept as stored");
        assert_eq!((imported.model.limits.min_input_bytes, imported.model.limits.max_input_bytes), (4, 80));
        let answer = imported.model.interpret(&InferRequest { input: tokens(&[5, 6, 7]), ..Default::default() });
        let embedding: Vec<f32> =
            answer.expect("an embedding").output.as_chunks::<4>().0.iter().map(|b| f32::from_be_bytes(*b)).collect();
        let length: f32 = embedding.iter().map(|x| x * x).sum();
        assert!(embedding.len() == 24 && (length - 1.0).abs() < 1e-5, "unit length, not {length}");
    }
}

#[test]
fn encoders_of_every_kind_agree_with_candle() {
    for activation in ["gelu_new", "gelu_pytorch_tanh", "relu"] {
        let mut made = bert(4, Dtype::F16);
        made.config["hidden_act"] = json!(activation);
        assert_sound(&import(&made));
    }
    let modules = |kinds: &[&str]| {
        let module = |kind: &&str| json!({ "type": format!("sentence_transformers.models.{kind}"), "path": "" });
        Some(json!(kinds.iter().map(module).collect::<Vec<_>>()).to_string())
    };
    let first = Some(json!({ "word_embedding_dimension": 24, "pooling_mode_cls_token": true }).to_string());
    let mut ids = std::collections::BTreeSet::new();
    for (pooling, modules) in [
        (None, None),
        (first.clone(), None),
        (None, modules(&["Transformer", "Pooling"])),
        (first, modules(&["Transformer", "Pooling"])),
    ] {
        let files = Files { pooling, modules, ..bert(5, Dtype::F32).files() };
        let imported = import::files(&files, &Options::default()).expect("a model");
        assert_sound(&imported);
        ids.insert(imported.model.model_id());
    }
    assert_eq!(ids.len(), 4, "each is a model of its own");
}

#[test]
fn relatives_of_bert_agree_with_candle() {
    // Rows of positions begin behind that of the padding token.
    let mut made = bert(7, Dtype::F16);
    for (key, value) in [("model_type", json!("xlm-roberta")), ("architectures", json!(["XLMRobertaModel"]))] {
        made.config[key] = value;
    }
    made.config["pad_token_id"] = json!(1);
    let imported = import(&made);
    assert_eq!((imported.family.name(), imported.model.limits.max_input_bytes), ("roberta", 4 * (20 - 2)));
    assert_sound(&imported);
    let plain = import(&bert(7, Dtype::F16));
    let request = InferRequest { input: tokens(&[5, 6, 7]), ..InferRequest::default() };
    let answer = |imported: &Imported| imported.model.interpret(&request).expect("an embedding").output;
    assert_ne!(answer(&imported), answer(&plain), "other rows of the table");
    made.config["pad_token_id"] = json!(19);
    let error = import::files(&made.files(), &Options::default()).expect_err("no position is left").to_string();
    assert!(error.contains("max_position_embeddings"), "{error}");

    // The same weights by DistilBERT's names are the BERT that has one segment of zeros.
    for prefix in ["", "distilbert."] {
        let (made, same) = distilled(8, prefix);
        let imported = import(&made);
        assert_eq!(imported.family.name(), "distilbert");
        assert_sound(&imported);
        assert_eq!(answer(&imported), answer(&import(&same)));
    }
}

#[test]
fn older_names_of_encoders_make_the_same_model() {
    let made = bert(6, Dtype::F16);
    let id = import(&made).model.model_id();
    let mut older = made.clone();
    for (name, ..) in &mut older.tensors {
        *name = format!(
            "bert.{}",
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        );
    }
    let imported = import(&older);
    assert_eq!(imported.model.model_id(), id);
    assert_sound(&imported);
}

#[test]
fn language_models_agree_with_candle() {
    for (seed, dtype) in (1..).zip(DTYPES) {
        for family in ["llama", "qwen2", "qwen3"] {
            for tied in [false, true] {
                let imported = import(&decoder(family, seed, dtype, tied));
                assert_eq!(imported.family.name(), family);
                assert_sound(&imported);
            }
        }
    }
}

#[test]
fn stretched_rotary_embeddings_agree_with_candle() {
    let mut made = decoder("llama", 7, Dtype::F32, true);
    let plain = import(&made).model.model_id();
    made.config["rope_scaling"] = json!({ "rope_type": "default" });
    assert_eq!(import(&made).model.model_id(), plain);
    // A context so short that all three ranges of frequencies occur.
    made.config["rope_scaling"] = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    });
    let imported = import(&made);
    assert_ne!(imported.model.model_id(), plain);
    assert_sound(&imported);
    // As newer files say it.
    let mut newer = made.clone();
    newer.config["rope_parameters"] = made.config["rope_scaling"].clone();
    newer.config["rope_parameters"]["rope_theta"] = made.config["rope_theta"].clone();
    let both = import(&newer).model.model_id();
    for key in ["rope_scaling", "rope_theta"] {
        newer.config.as_object_mut().expect("an object").remove(key);
    }
    assert_eq!((both, import(&newer).model.model_id()), (imported.model.model_id(), imported.model.model_id()));
    newer.config["rope_theta"] = json!(500_000.0);
    let error = import::files(&newer.files(), &Options::default()).expect_err("a contradiction").to_string();
    assert!(error.contains("rope_parameters"), "{error}");
}

#[test]
fn mistral_without_a_window_is_llama() {
    let mut made = decoder("llama", 14, Dtype::F16, true);
    let id = import(&made).model.model_id();
    made.config["model_type"] = json!("mistral");
    made.config["architectures"] = json!(["MistralForCausalLM"]);
    made.config["sliding_window"] = json!(null);
    assert_eq!(import(&made).model.model_id(), id);
    made.config["sliding_window"] = json!(4096);
    let error = import::files(&made.files(), &Options::default()).expect_err("a window").to_string();
    assert!(error.contains("sliding_window"), "{error}");
}

#[test]
fn text_is_made_of_vocabulary_entries() {
    let made = decoder("qwen2", 8, Dtype::F32, true);
    let imported = import(&made);
    let request = |max_tokens| InferRequest {
        input: tokens(&[3, 50, 7]),
        params: Params { max_tokens, ..Params::default() },
        seed: [0; 32],
    };
    let run = imported.model.interpret(&request(8)).expect("an answer");
    let text: String = run.generated.iter().filter(|id| **id > 2).map(|id| format!(" w{id}")).collect();
    assert_eq!(String::from_utf8(run.output).expect("text"), text);

    let ids = Made { tokenizer: None, ..made.clone() };
    let run_of_ids = import(&ids).model.interpret(&request(8)).expect("an answer");
    assert_eq!(run_of_ids.output, tokens(&run.generated), "ids without a tokenizer");

    // Whatever a generation config adds ends the answer; an empty text is a text.
    let stop = json!({ "eos_token_id": [run.generated[0], 2], "temperature": 0.7 }).to_string();
    let files = Files { generation: Some(stop), ..made.files() };
    let stopped = import::files(&files, &Options::default()).expect("a model");
    assert_eq!(stopped.model.interpret(&request(8)).expect("an answer").generated, run.generated[..1]);
}

#[test]
fn options_are_part_of_the_model() {
    let made = decoder("llama", 9, Dtype::F16, true);
    let limits = |context, max_tokens| {
        let options = Options { context, max_tokens, ..Options::default() };
        import::files(&made.files(), &options).map(|imported| imported.model.limits).map_err(|e| e.to_string())
    };
    let default = import(&made).model.limits;
    assert_eq!((default.max_input_bytes, default.max_tokens), (4 * 32, 32), "half of the 64 positions for the answer");
    let small = limits(40, 8).expect("a model");
    assert_eq!((small.max_input_bytes, small.max_tokens, small.max_output_bytes), (4 * 32, 8, 8 * 4));
    assert!(limits(1, 8).expect_err("no room").contains("leave no room"));
    assert!(limits(8, 0).expect_err("no room").contains("leave no room"));
}

/// A folder of the given files, with weights in one file or several.
fn folder(made: &Made, shards: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("a file");
    write("config.json", made.config.to_string().as_bytes());
    if let Some(tokenizer) = &made.tokenizer {
        write("tokenizer.json", tokenizer.as_bytes());
    }
    let mut map = serde_json::Map::new();
    for shard in 0..shards {
        let name = if shards == 1 { "weights.safetensors".to_string() } else { format!("part-{shard}.safetensors") };
        let mut tensors = Tensors::default();
        for (name_of_tensor, dtype, dims, values) in made.tensors.iter().skip(shard).step_by(shards) {
            tensors.add(name_of_tensor, *dtype, dims, values);
            map.insert(name_of_tensor.clone(), json!(name));
        }
        write(&name, &tensors.file());
    }
    if shards > 1 {
        write("model.safetensors.index.json", json!({ "metadata": {}, "weight_map": map }).to_string().as_bytes());
    }
    folder
}

#[test]
fn folders_give_the_same_model_however_they_are_cut() {
    for made in [bert(10, Dtype::F16), decoder("llama", 10, Dtype::F16, false)] {
        let id = import(&made).model.model_id();
        for shards in [1, 3] {
            let folder = folder(&made, shards);
            let mut stages = Vec::new();
            let (imported, report) = import::import(folder.path(), &Options::default(), &mut |progress| {
                if stages.last() != Some(&progress.stage) {
                    stages.push(progress.stage);
                }
            })
            .expect("a model");
            assert_eq!(stages, [Stage::Reading, Stage::Building, Stage::Hashing, Stage::Checking]);
            assert_eq!((imported.model.model_id(), report.id), (id, id));
            let text = report.to_string();
            for part in [&id.to_string(), imported.family.name(), "f16", "same argmax", "layer", "multiply-adds"] {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
            import::verify(folder.path(), id, &Options::default(), &mut |_| ()).expect("the model it is");
            let other = Options { context: 12, ..Options::default() };
            let error = import::verify(folder.path(), id, &other, &mut |_| ()).expect_err("another model").to_string();
            assert!(error.contains(&id.to_string()) && error.contains("not"), "{error}");
        }
    }
}

#[test]
fn a_model_that_disagrees_with_candle_is_noticed() {
    let mut imported = import(&bert(11, Dtype::F32));
    let other = import(&bert(12, Dtype::F32));
    let Family::Bert(config) = &mut imported.family else { panic!("an encoder") };
    config.epsilon = 0.5; // as if the graph had been built with another one
    let check = imported.check(&imported.probes(2)).expect("a comparison");
    assert!(!check.agrees(), "{check}");
    assert!(other.check(&other.probes(2)).expect("a comparison").agrees());
    for id in other.probes(3).iter().flat_map(|probe| probe.as_chunks::<4>().0) {
        assert!((u32::from_be_bytes(*id) as usize) < VOCABULARY, "a probe is a request");
    }
}

/// The importer's, the builder's and the hashes' promise, written down: the same files are the same model, in every build and
/// on every machine. A change of these is a change of every model that anybody has imported.
#[test]
fn ids_are_what_they_were() {
    let made = [
        bert(1, Dtype::F16),
        decoder("llama", 1, Dtype::F16, true),
        decoder("qwen2", 1, Dtype::BF16, false),
        decoder("qwen3", 1, Dtype::F32, true),
    ];
    let ids = made.map(|made| import(&made).model.model_id().to_string());
    let expected = [
        "0x6ba22f18aa78acb443759c9e491367035a442d247f55ef2d1c089867081de2e7",
        "0x8164249a7c04294d742ee550702c52a115e6dc950054b3152aeedcf3e1a60f2f",
        "0x083fe67f07f151792acd26e365bd0269a6105b5c3b0c82613fd5dbf5d1ee46db",
        "0x53358dbb8117da92e14fa0c8d36ba4e53f5c57c7c0492eb5826e1aba2ace4b61",
    ];
    assert_eq!(ids, expected);
}

#[test]
fn weights_are_shared_with_the_file() {
    let files = decoder("llama", 13, Dtype::F16, true).files();
    let before = Arc::strong_count(&files.weights[0].1);
    let imported = import::files(&files, &Options::default()).expect("a model");
    let tensors = imported.model.weights.tensors().len();
    // All but the two rotary tables are ranges of the file.
    assert_eq!(Arc::strong_count(&files.weights[0].1) - before, tensors - 2);
}

//! Hugging Face folders and GGUF files that lie: each is refused with an error that names the field or the tensor, and
//! nothing panics or asks for memory that the file does not account for.

mod engine_common;

use candor_relayer::engine::import::{self, Files, Options};
use engine_common::families::{Made, bert, decoder};
use engine_common::gguf::Gguf;
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

fn error(files: &Files) -> String {
    import::files(files, &Options::default()).map(|imported| imported.model.limits).expect_err("a refusal").to_string()
}

fn refused(files: &Files, named: &[&str]) {
    let error = error(files);
    for name in named {
        assert!(error.contains(name), "{error:?} does not mention {name:?}");
    }
}

/// The family with one field of its config set, or removed by null.
fn with(made: &Made, key: &str, value: Value) -> Files {
    let mut made = made.clone();
    made.config[key] = value;
    made.files()
}

#[test]
fn fields_of_encoders_are_refused_by_name() {
    let made = bert(1, Dtype::F16);
    for (key, value, named) in [
        ("model_type", json!("t5"), "\"t5\" is not understood"),
        ("model_type", json!(7), "7 is not a text"),
        ("architectures", json!(["BertForSequenceClassification"]), "BertForSequenceClassification"),
        ("position_embedding_type", json!("relative_key"), "relative_key"),
        ("hidden_act", json!("swish"), "\"swish\" is not understood"),
        ("is_decoder", json!(true), "true is not understood"),
        ("hidden_size", json!(25), "25 columns do not divide among 3"),
        ("hidden_size", json!(0), "is 0"),
        ("hidden_size", Value::Null, "is missing"),
        ("hidden_size", json!(-24), "-24 is not a whole number"),
        ("hidden_size", json!(1e30), "is not a whole number"),
        ("hidden_size", json!("24"), "is not a whole number"),
        ("layer_norm_eps", json!(0), "0 is not above 0"),
        ("layer_norm_eps", json!("tiny"), "invalid type"),
        ("layer_norm_eps", json!(1e300), "beyond the range of f32"),
        ("quantization_config", json!({ "bits": 4 }), "is not understood"),
        ("a_key_from_the_future", json!(true), "may change what the model computes"),
    ] {
        refused(
            &with(&made, key, value),
            &[
                "config.json",
                if key == "hidden_size" && named.contains("divide") { "num_attention_heads" } else { key },
                named,
            ],
        );
    }
    let modules = |text: &str| Files { modules: Some(text.to_string()), ..made.files() };
    refused(&modules("["), &["modules.json", "EOF"]);
    refused(
        &modules(r#"[{"type":"x.Transformer"},{"type":"x.Pooling"},{"type":"x.Dense"}]"#),
        &["modules.json", "Dense"],
    );
    let pooling = |value: Value| Files { pooling: Some(value.to_string()), ..made.files() };
    refused(
        &pooling(json!({ "pooling_mode_max_tokens": true })),
        &["1_Pooling/config.json", "pooling_mode_max_tokens"],
    );
    refused(&pooling(json!({})), &["1_Pooling/config.json", "exactly one of mean and cls"]);
    refused(&pooling(json!({ "pooling_mode_mean_tokens": true, "weird": 1 })), &["weird"]);
}

#[test]
fn fields_of_language_models_are_refused_by_name() {
    let made = decoder("llama", 1, Dtype::F16, true);
    for (key, value, named) in [
        ("architectures", json!(["GemmaForCausalLM"]), "GemmaForCausalLM"),
        ("hidden_act", json!("gelu"), "\"gelu\" is not understood"),
        ("attention_bias", json!(true), "true is not understood"),
        ("mlp_bias", json!(true), "true is not understood"),
        ("sliding_window", json!(4096), "4096 is not understood"),
        ("rope_interleaved", json!(true), "true is not understood"),
        ("pretraining_tp", json!(2), "2 is not understood"),
        ("num_key_value_heads", json!(3), "4 query heads do not divide among 3"),
        ("num_key_value_heads", json!(0), "do not divide among 0"),
        ("num_attention_heads", json!(5), "32 columns do not divide among 5"),
        ("head_dim", json!(7), "7 is not an even number"),
        ("head_dim", json!(16), "4 heads of 16 are not the 32 columns"),
        ("head_dim", json!(4_000_000_000u32), "4000000000 is not an even number"),
        ("rope_theta", json!("x"), "is not a number"),
        ("rope_theta", json!(0), "0 is not a finite number"),
        ("rms_norm_eps", json!(-1e-5), "is not above 0"),
        ("eos_token_id", json!(96), "96 in a vocabulary of 96"),
        ("eos_token_id", json!([1, "x"]), "is not a list of token ids"),
        ("tie_word_embeddings", json!("yes"), "is neither true nor false"),
        ("max_position_embeddings", json!(0), "is 0"),
        ("max_position_embeddings", json!(1), "leave no room"),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 }), "\"yarn\" is not understood"),
        ("rope_scaling", json!([]), "is not an object"),
        ("logit_scale", json!(0.5), "may change what the model computes"),
        ("layer_types", json!(["sliding_attention"]), "full_attention"),
    ] {
        refused(&with(&made, key, value), &["config.json", key, named]);
    }
    let llama3 = |key: &str, value: Value| {
        let mut scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 24,
        });
        scaling[key] = value;
        with(&made, "rope_scaling", scaling)
    };
    refused(&llama3("factor", json!(0)), &["factor", "not above 0"]);
    refused(&llama3("high_freq_factor", json!(1)), &["high_freq_factor", "not above low_freq_factor"]);
    refused(&llama3("beta_fast", json!(1)), &["beta_fast"]);

    let qwen = decoder("qwen2", 1, Dtype::F16, true);
    refused(&with(&qwen, "use_sliding_window", json!(true)), &["use_sliding_window"]);
    refused(&with(&qwen, "attention_bias", json!(false)), &["attention_bias"]);
    let broken = Files { generation: Some("{".into()), ..qwen.files() };
    refused(&broken, &["generation_config.json", "EOF"]);
    let broken = Files { tokenizer: Some("[]".into()), ..qwen.files() };
    refused(&broken, &["tokenizer.json"]);
    let config = Files { config: "{".into(), ..qwen.files() };
    refused(&config, &["config.json", "EOF"]);
    let config = Files { config: "[]".into(), ..qwen.files() };
    refused(&config, &["config.json", "invalid type"]);
}

#[test]
fn sizes_that_the_tensors_do_not_have_are_refused_before_anything_is_made_of_them() {
    for made in [bert(2, Dtype::F16), decoder("llama", 2, Dtype::F16, true), decoder("qwen3", 2, Dtype::F32, false)] {
        for key in ["vocab_size", "intermediate_size", "max_position_embeddings", "num_hidden_layers"] {
            for value in [u32::MAX, i32::MAX as u32, 1 << 20] {
                if key == "max_position_embeddings" && made.config["model_type"] != "bert" {
                    continue; // positions of language models are no tensor, and are cut to the options' context
                }
                refused(&with(&made, key, json!(value)), &["tensor"]);
            }
        }
    }
    let made = decoder("qwen3", 2, Dtype::F32, false);
    for (key, value) in [("num_attention_heads", 1 << 31), ("head_dim", 16384), ("hidden_size", u32::MAX)] {
        assert!(!error(&with(&made, key, json!(value))).is_empty());
    }
    // A model for endless sequences is one for as long as the options allow.
    let endless = with(&decoder("llama", 2, Dtype::F16, true), "max_position_embeddings", json!(u32::MAX));
    let imported = import::files(&endless, &Options::default()).expect("a model");
    assert_eq!(imported.model.limits.max_input_bytes, 4 * (2048 - 512));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    for made in [bert(3, Dtype::F16), decoder("llama", 3, Dtype::F16, false), decoder("qwen2", 3, Dtype::BF16, true)] {
        for (index, (name, dtype, dims, _)) in made.tensors.iter().enumerate() {
            if name.starts_with("pooler") {
                continue; // not part of the model
            }
            let mut missing = made.clone();
            missing.tensors.remove(index);
            refused(&missing.files(), &[name, "is missing"]);

            let mut larger = made.clone();
            let mut wrong = dims.clone();
            wrong[0] += 1;
            larger.replace(name, &wrong, 0.5);
            refused(&larger.files(), &[name, &format!("{wrong:?}"), &format!("{dims:?}")]);

            let mut flat = made.clone();
            flat.replace(name, &[dims.iter().product(), 1, 1], 0.5);
            refused(&flat.files(), &[name, "shape"]);

            let mut nan = made.clone();
            nan.tensors[index].3[3] = f32::NAN;
            refused(&nan.files(), &[name, "element 3 is NaN"]);

            let mut wide = made.clone();
            wide.tensors[index].1 = Dtype::F64;
            refused(&wide.files(), &[name, "F64", &format!("{dtype:?}")[..1]]);
        }
        let mut extra = made.clone();
        extra.tensors.push(("model.extra.weight".into(), Dtype::F32, vec![1], vec![1.0]));
        refused(&extra.files(), &["model.extra.weight", "is not part of a"]);

        let twice = made.files();
        let mut files = twice.clone();
        files.weights.push(twice.weights[0].clone());
        refused(&files, &["comes twice"]);
    }
}

#[test]
fn folders_are_read_with_care() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    let error = || import::folder(folder.path()).expect_err("a refusal").to_string();
    assert!(error().contains("config.json"), "{}", error());
    write("config.json", "{}");
    assert!(error().contains("model.safetensors"), "{}", error());
    for name in ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", "c:d.safetensors", "x.bin"] {
        write("model.safetensors.index.json", &json!({ "weight_map": { "t": name } }).to_string());
        assert!(error().contains("is not a safetensors file of this folder"), "{}", error());
    }
    write("model.safetensors.index.json", "{}");
    assert!(error().contains("missing field `weight_map`"), "{}", error());
    std::fs::remove_file(folder.path().join("model.safetensors.index.json")).expect("the index");
    write("a.safetensors", "");
    write("b.safetensors", "");
    assert!(error().contains("which of a.safetensors, b.safetensors is the model?"), "{}", error());
    let file = folder.path().join("a.safetensors");
    let error = import::folder(&file).expect_err("no model").to_string();
    assert!(error.contains("a.safetensors") && error.contains("neither a GGUF nor an ONNX file"), "{error}");
    let error = import::folder(&folder.path().join("nowhere")).expect_err("no model").to_string();
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let files = decoder("llama", 4, Dtype::F16, true).files();
    let whole = &files.weights[0].1;
    let with = |bytes: Vec<u8>| Files { weights: vec![("w.safetensors".into(), Arc::new(bytes))], ..files.clone() };
    for length in (0..whole.len()).step_by(997).chain([1, 7, 8, 9, whole.len() - 1]) {
        refused(&with(whole[..length].to_vec()), &["w.safetensors"]);
    }
    for lie in [u64::MAX, u64::MAX - 7, 1 << 40, whole.len() as u64, 0] {
        let mut bytes = whole.to_vec();
        bytes[..8].copy_from_slice(&lie.to_le_bytes());
        refused(&with(bytes), &["w.safetensors"]);
    }
    let header = |header: Value| {
        let text = header.to_string();
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.bytes());
        bytes.extend([0; 16]);
        with(bytes)
    };
    let tensor = |dtype: &str, shape: Value, offsets: Value| {
        header(json!({ "x": { "dtype": dtype, "shape": shape, "data_offsets": offsets } }))
    };
    refused(&tensor("F32", json!([4]), json!([0, 16])), &["tensor"]); // well formed, but not this model
    refused(&tensor("F32", json!([u64::MAX, u64::MAX]), json!([0, 16])), &["w.safetensors"]);
    refused(&tensor("F32", json!([1u64 << 62]), json!([0, 16])), &["w.safetensors"]);
    refused(&tensor("F32", json!([4]), json!([0, 1u64 << 60])), &["w.safetensors"]);
    refused(&tensor("F32", json!([4]), json!([16, 0])), &["w.safetensors"]);
    refused(&tensor("F33", json!([4]), json!([0, 16])), &["w.safetensors"]);
}

#[test]
fn gguf_headers_that_lie_are_refused() {
    let gguf = Gguf::of(&decoder("llama", 5, Dtype::F32, true));
    let whole = gguf.file();
    let with = |bytes: Vec<u8>| Files { gguf: Some(Arc::new(bytes)), ..Files::default() };
    import::files(&with(whole.clone()), &Options::default()).expect("a sound file");
    for length in (0..whole.len()).step_by(61).chain(0..40) {
        refused(&with(whole[..length].to_vec()), &[]);
    }
    let patched = |at: usize, patch: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        with(bytes)
    };
    refused(&patched(0, b"GGML"), &["does not begin with GGUF"]);
    refused(&patched(4, &[1, 0, 0, 0]), &["version 0x1"]);
    refused(&patched(4, &[0, 0, 0, 3]), &["version 0x3000000"]);
    for lie in [u64::MAX, 1 << 40, whole.len() as u64] {
        refused(&patched(8, &lie.to_le_bytes()), &["gguf"]); // tensors
        refused(&patched(16, &lie.to_le_bytes()), &["gguf"]); // values
        refused(&patched(24, &lie.to_le_bytes()), &["gguf"]); // length of the first key
    }
}

#[test]
fn gguf_fields_are_refused_by_name() {
    let sound = Gguf::of(&decoder("llama", 6, Dtype::F32, true));
    let refused = |gguf: Gguf, named: &[&str]| {
        let files = Files { gguf: Some(Arc::new(gguf.file())), ..Files::default() };
        refused(&files, named);
    };
    for (key, named) in [
        ("general.architecture", "is missing"),
        ("llama.embedding_length", "is missing"),
        ("llama.attention.head_count", "is missing"),
        ("llama.block_count", "is missing"),
        ("llama.attention.layer_norm_rms_epsilon", "0 is not above 0"),
    ] {
        refused(sound.clone().without(key), &[key, named]);
    }
    refused(sound.clone().text("general.architecture", "gemma"), &["general.architecture", "\"gemma\""]);
    refused(sound.clone().u32("llama.attention.head_count", 0), &["llama.attention.head_count", "is 0"]);
    refused(sound.clone().u32("llama.attention.head_count", 5), &["head_count", "do not divide among 5"]);
    refused(sound.clone().text("llama.block_count", "two"), &["llama.block_count", "not a whole number"]);
    refused(sound.clone().u32("llama.expert_count", 8), &["llama.expert_count", "may change"]);
    refused(sound.clone().text("llama.rope.scaling.type", "yarn"), &["llama.rope.scaling.type", "\"yarn\""]);
    refused(sound.clone().u32("llama.rope.dimension_count", 4), &["llama.rope.dimension_count", "heads have 8"]);
    refused(sound.clone().u32("llama.vocab_size", 4), &["llama.vocab_size", "96 rows"]);
    refused(sound.clone().u32("general.alignment", 0), &["general.alignment", "0 is not a power of two"]);
    refused(sound.clone().u32("general.alignment", 48), &["general.alignment", "48 is not a power of two"]);
    refused(sound.clone().u32("general.alignment", 1 << 31), &["beyond the"]);
    refused(sound.clone().text("tokenizer.ggml.model", "bert"), &["tokenizer.ggml.model", "\"bert\""]);
    refused(sound.clone().u32("tokenizer.ggml.tokens", 1), &["tokenizer.ggml.tokens", "not an array"]);
    refused(sound.clone().u32("tokenizer.ggml.eos_token_id", 96), &["96 in a vocabulary of 96"]);

    let tensor = "blk.1.attn_k.weight";
    refused(sound.clone().without_tensor(tensor), &[tensor, "is missing"]);
    refused(sound.clone().dims(tensor, &[32, 17]), &[tensor, "shape"]);
    refused(sound.clone().dims(tensor, &[1 << 40, 1 << 40]), &["gguf", "says 1099511627776"]);
    refused(sound.clone().dims(tensor, &[60_000; 4]), &[tensor, "ends beyond"]);
    refused(sound.clone().dims(tensor, &[]), &[tensor, "0 dimensions"]);
    refused(sound.clone().dims(tensor, &[1; 5]), &[tensor, "5 dimensions"]);
    refused(sound.clone().dtype(tensor, 99), &[tensor, "number 99"]);
    refused(sound.clone().dtype(tensor, 9), &[tensor, "number 9 of GGUF"]);
    refused(sound.clone().dtype(tensor, 14), &[tensor, "blocks of 256"]);
    refused(sound.clone().offset(tensor, u64::MAX), &["gguf", "says 18446744073709551615"]);
    let almost_all = sound.file().len() as u64 - 100;
    refused(sound.clone().offset(tensor, almost_all), &[tensor, "ends beyond"]);
    refused(sound.clone().rename(tensor, "blk.0.attn_k.weight"), &["blk.0.attn_k.weight", "comes twice"]);
    refused(sound.clone().rename(tensor, "rope_freqs.weight"), &[]);
    refused(sound.clone().rename("token_embd.weight", "tokens"), &["token_embd.weight", "is missing"]);
    refused(sound.clone().value(tensor, 3, f32::NAN), &[tensor, "element 3 is NaN"]);
}

static SOUND: LazyLock<Vec<Files>> = LazyLock::new(|| {
    let decoders = [("llama", Dtype::F32), ("qwen2", Dtype::F16), ("qwen3", Dtype::BF16)];
    let mut sound: Vec<Files> =
        decoders.into_iter().map(|(family, dtype)| decoder(family, 7, dtype, true).files()).collect();
    sound.push(bert(7, Dtype::F16).files());
    for dtype in [0, 1, 8, 2, 3] {
        let gguf = Gguf::of(&decoder("llama", 7, Dtype::F32, false)).stored_as(dtype);
        sound.push(Files { gguf: Some(Arc::new(gguf.file())), ..Files::default() });
    }
    sound
});

/// Bytes damaged in a few places, most of them in the header.
fn damage(bytes: &[u8], edits: &[(prop::sample::Index, u8, bool)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, value, anywhere) in edits {
        let within = if *anywhere { bytes.len() } else { bytes.len().min(5000) };
        if within > 0 {
            let at = at.index(within);
            bytes[at] = *value;
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is damaged, the import returns: a model that is sound, or an error that says something.
    #[test]
    fn damaged_files_never_panic(
        which in 0usize..9,
        target in 0usize..4,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut files = SOUND[which].clone();
        let apply = |bytes: &[u8]| {
            let mut bytes = damage(bytes, &edits);
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len().max(1)));
            }
            bytes
        };
        let text = |text: &str| String::from_utf8_lossy(&apply(text.as_bytes())).into_owned();
        if let Some(gguf) = &files.gguf {
            files.gguf = Some(Arc::new(apply(gguf)));
        } else {
            match target {
                0 => files.config = text(&files.config),
                1 => files.tokenizer = files.tokenizer.as_deref().map(text),
                _ => files.weights[0].1 = Arc::new(apply(&files.weights[0].1)),
            }
        }
        match import::files(&files, &Options::default()) {
            Ok(imported) => prop_assert!(imported.model.validate().is_ok()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    /// Random values in the fields of a config, of the kinds that JSON has.
    #[test]
    fn random_fields_never_panic(
        which in 0usize..4,
        key in any::<prop::sample::Index>(),
        number in prop_oneof![0i64..300, any::<i64>()],
        kind in 0usize..6,
    ) {
        let mut files = SOUND[which].clone();
        let mut config: Value = serde_json::from_str(&files.config).expect("a config");
        let keys: Vec<String> = config.as_object().expect("an object").keys().cloned().collect();
        let key = &keys[key.index(keys.len())];
        config[key] = match kind {
            0..=2 => json!(number),
            3 => json!(number as f64 / 1e3),
            4 => json!([number, null]),
            _ => json!({ "rope_type": "llama3", "factor": number }),
        };
        files.config = config.to_string();
        match import::files(&files, &Options::default()) {
            Ok(imported) => prop_assert!(imported.model.validate().is_ok()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

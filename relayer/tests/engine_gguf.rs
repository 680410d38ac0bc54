//! GGUF files hold the models that Hugging Face folders hold, in another order.

mod engine_common;

use candor_relayer::engine::import::{self, Files, Imported, Options};
use candor_sdk::program::WeightType;
use engine_common::families::{Made, decoder};
use engine_common::gguf::Gguf;
use safetensors::tensor::Dtype;
use std::sync::Arc;

fn import(gguf: &Gguf) -> Imported {
    let files = Files { name: "made-up".into(), gguf: Some(Arc::new(gguf.file())), ..Files::default() };
    import::files(&files, &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn folder(made: &Made) -> Imported {
    import::files(&made.files(), &Options::default()).expect("a model")
}

/// The made-up model with the types that a GGUF file of f16 matrices has.
fn halved(made: &Made) -> Made {
    let mut made = made.clone();
    for (_, dtype, dims, _) in &mut made.tensors {
        *dtype = if dims.len() == 2 { Dtype::F16 } else { Dtype::F32 };
    }
    made
}

#[test]
fn a_file_and_a_folder_of_the_same_weights_are_the_same_model() {
    for family in ["llama", "qwen2", "qwen3"] {
        for tied in [true, false] {
            let made = decoder(family, 1, Dtype::F32, tied);
            let from_folder = folder(&made);
            let from_file = import(&Gguf::of(&made));
            assert_eq!(from_file.family.name(), family);
            assert_eq!(from_file.model.model_id(), from_folder.model.model_id(), "{family}, tied {tied}");
            assert!(from_file.notes.is_empty());

            let from_file = import(&Gguf::of(&made).stored_as(1));
            assert_eq!(from_file.model.model_id(), folder(&halved(&made)).model.model_id(), "{family} in f16");
            let check = from_file.check(&from_file.probes(3)).expect("a comparison");
            assert!(check.agrees() && check.max_error < 1e-4, "{check}");
        }
    }
}

#[test]
fn frequencies_stretched_as_in_llama_3_are_known_by_their_factors() {
    let mut made = decoder("llama", 5, Dtype::F32, true);
    made.config["rope_theta"] = serde_json::json!(500_000.0);
    let plain = folder(&made).model.model_id();
    for factor in [8.0, 32.0] {
        made.config["rope_scaling"] = serde_json::json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        // As converters to GGUF write them: heads of 8 columns are 4 pairs.
        let factors: Vec<f32> = (0..4)
            .map(|pair| {
                let turns = 8192.0 / (2.0 * std::f64::consts::PI * 500_000f64.powf(f64::from(2 * pair) / 8.0));
                let kept = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
                (1.0 / ((1.0 - kept) / factor + kept)) as f32
            })
            .collect();
        let imported = import(&Gguf::of(&made).with("rope_freqs.weight", &factors));
        assert_eq!(imported.model.model_id(), folder(&made).model.model_id());
        assert_ne!(imported.model.model_id(), plain);
    }
    let refused = |factors: &[f32]| {
        let gguf = Gguf::of(&made).with("rope_freqs.weight", factors);
        let files = Files { name: "made-up".into(), gguf: Some(Arc::new(gguf.file())), ..Files::default() };
        let error = import::files(&files, &Options::default()).expect_err("unknown factors").to_string();
        assert!(error.contains("rope_freqs.weight"), "{error}");
    };
    refused(&[1.0, 1.0, 2.0, 8.0]);
    refused(&[1.0, 1.0, 1.0]);
}

#[test]
fn q8_0_is_kept_and_computed_with() {
    let made = decoder("llama", 2, Dtype::F32, false);
    let imported = import(&Gguf::of(&made).stored_as(8));
    let kinds: Vec<WeightType> = imported.model.weights.tensors().iter().map(|tensor| tensor.dtype()).collect();
    assert!(kinds.contains(&WeightType::Q8_0) && !kinds.contains(&WeightType::F16), "{kinds:?}");
    assert!(imported.notes.is_empty());
    let check = imported.check(&imported.probes(3)).expect("a comparison");
    assert!(check.quantised && check.agrees() && check.min_cosine > 0.99, "{check}");
}

#[test]
fn other_types_become_f16_and_say_so() {
    for (dtype, name) in [(2, "Q4_0"), (3, "Q4_1")] {
        let made = decoder("qwen2", 3, Dtype::F32, true);
        let imported = import(&Gguf::of(&made).stored_as(dtype));
        assert_eq!(imported.notes, [format!("15 tensors of type {name} became f16")]);
        let stored = |name: &str| {
            let weights = &imported.model.weights;
            weights.get(weights.find(name).expect(name)).expect(name).dtype()
        };
        assert_eq!(stored("model.embed_tokens.weight"), WeightType::F16);
        assert_eq!(stored("model.norm.weight"), WeightType::F32);
        // candle runs the f16 weights, so the comparison is as close as any.
        let check = imported.check(&imported.probes(3)).expect("a comparison");
        assert!(!check.quantised && check.agrees(), "{check}");
        assert!(imported.model.model_id() == import(&Gguf::of(&made).stored_as(dtype)).model.model_id());
        // Four bits are coarse, but this is still roughly the model it was: the largest weights are where they were.
        let exact = folder(&made);
        let table = |imported: &Imported| imported.model.weights.tensors()[0].row_f32(5);
        for (a, b) in table(&imported).into_iter().zip(table(&exact)) {
            assert!((a - b).abs() < 0.2, "{a} for {b}");
        }
    }
}

#[test]
fn a_folder_with_one_gguf_file_is_that_model() {
    let made = decoder("qwen3", 4, Dtype::F32, true);
    let gguf = Gguf::of(&made);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, gguf.file()).expect("a file");
    let id = import(&gguf).model.model_id();
    let from_file = import::folder(&file).expect("a model");
    assert_eq!((from_file.model.model_id(), from_file.name.as_str()), (id, "model"));
    assert_eq!(import::folder(folder.path()).expect("a model").model.model_id(), id);
}

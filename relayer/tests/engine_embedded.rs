//! The two embedded models on everything in their held-out files.

mod engine_common;

use candor_relayer::engine::import::{self, Imported};
use candor_relayer::engine::kernels::Isa;
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use rayon::prelude::*;
use std::path::PathBuf;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

fn metrics(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(folder(name).join("metrics.json")).expect("metrics.json");
    serde_json::from_str(&text).expect("metrics.json")
}

/// Held-out loans as requests, and whether they defaulted.
fn loans() -> Vec<(Vec<u8>, bool)> {
    let text = std::fs::read_to_string(folder("credit").join("heldout.csv")).expect("heldout.csv");
    let loan = |line: &str| {
        let mut values: Vec<f32> = line.split(',').map(|word| word.parse().expect("a number")).collect();
        let defaulted = values.pop() == Some(1.0);
        (values.iter().flat_map(|value| value.to_be_bytes()).collect(), defaulted)
    };
    text.lines().skip(1).map(loan).collect()
}

/// Held-out images as requests, and their labels.
fn digits() -> Vec<(Vec<u8>, u8)> {
    let bytes = std::fs::read(folder("digits").join("heldout.bin")).expect("heldout.bin");
    bytes.as_chunks::<785>().0.iter().map(|record| (record[1..].to_vec(), record[0])).collect()
}

/// Answers of the engine, on every instruction set the same as the interpreter's.
fn answers(imported: &Imported, inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let batch: Vec<InferRequest> =
        inputs.iter().map(|input| InferRequest { input: input.clone(), ..InferRequest::default() }).collect();
    let want: Vec<Vec<u8>> =
        batch.par_iter().map(|request| imported.model.interpret(request).expect("a run").output).collect();
    for &isa in Isa::available() {
        let loaded = LoadedModel::load_with(imported.model.clone(), Device::Cpu, isa).expect("the model loads");
        for (row, (got, want)) in loaded.infer(&batch).into_iter().zip(&want).enumerate() {
            assert_eq!(&got.expect("an answer"), want, "row {row} on {}", isa.name());
        }
    }
    want
}

fn f32_at(bytes: &[u8], index: usize) -> f32 {
    f32::from_be_bytes(bytes.as_chunks().0[index])
}

#[test]
fn credit() {
    let imported = import::folder(&folder("credit")).expect("the model");
    let loans = loans();
    let inputs: Vec<Vec<u8>> = loans.iter().map(|(input, _)| input.clone()).collect();
    let answers = answers(&imported, &inputs);
    let correct = loans.iter().zip(&answers).filter(|((_, bad), answer)| (f32_at(answer, 0) >= 0.5) == *bad).count();
    assert_eq!(loans.len() as u64, metrics("credit")["held_out_loans"]);
    assert_eq!(correct as u64, metrics("credit")["held_out"]["correct"]);
    let check = imported.check(&inputs).expect("a comparison");
    assert!(check.max_error < 1e-6, "{check}");
}

#[test]
fn digit_images() {
    let imported = import::folder(&folder("digits")).expect("the model");
    let digits = digits();
    let inputs: Vec<Vec<u8>> = digits.iter().map(|(input, _)| input.clone()).collect();
    let answers = answers(&imported, &inputs);
    let mut correct = 0;
    for ((_, label), answer) in digits.iter().zip(&answers) {
        let [class, probabilities @ ..] = answer.as_chunks::<4>().0 else { panic!("an empty answer") };
        let probabilities: Vec<f32> = probabilities.iter().map(|p| f32::from_be_bytes(*p)).collect();
        assert_eq!(probabilities.len(), 10);
        correct += u64::from(u32::from_be_bytes(*class) == u32::from(*label));
    }
    assert_eq!(correct, metrics("digits")["sample_correct"]);
    let check = imported.check(&inputs).expect("a comparison");
    assert_eq!(check.same_argmax, digits.len(), "{check}");
    assert!(check.max_error < 1e-5, "{check}");
}

//! The two embedded models on everything in their held-out files.

mod devices;
mod engine_common;

use candor_relayer::engine::InferRequest;
use candor_relayer::engine::import::{self, Imported};
use devices::everywhere;
use rayon::prelude::*;

// Built in: on the machine with the GPU there is the test program and nothing else.
macro_rules! file {
    ($include:ident, $name:literal) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $name))
    };
}

fn metrics(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("metrics.json")
}

/// Held-out loans as requests, and whether they defaulted.
fn loans() -> Vec<(Vec<u8>, bool)> {
    let text = file!(include_str, "credit/heldout.csv");
    let loan = |line: &str| {
        let mut values: Vec<f32> = line.split(',').map(|word| word.parse().expect("a number")).collect();
        let defaulted = values.pop() == Some(1.0);
        (values.iter().flat_map(|value| value.to_be_bytes()).collect(), defaulted)
    };
    text.lines().skip(1).map(loan).collect()
}

/// Held-out images as requests, and their labels.
fn digits() -> Vec<(Vec<u8>, u8)> {
    let bytes = file!(include_bytes, "digits/heldout.bin");
    bytes.as_chunks::<785>().0.iter().map(|record| (record[1..].to_vec(), record[0])).collect()
}

/// Answers of the engine, on everything the same as the interpreter's.
fn answers(imported: &Imported, inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let batch: Vec<InferRequest> =
        inputs.iter().map(|input| InferRequest { input: input.clone(), ..InferRequest::default() }).collect();
    let want: Vec<Vec<u8>> =
        batch.par_iter().map(|request| imported.model.interpret(request).expect("a run").output).collect();
    // An emulated GPU takes a second for an image.
    let some = if devices::slow() { 3 } else { batch.len() };
    for (device, loaded) in everywhere(&imported.model) {
        for (row, (got, want)) in loaded.infer(&batch[..some]).into_iter().zip(&want).enumerate() {
            assert_eq!(&got.expect("an answer"), want, "row {row} on {device}");
        }
    }
    want
}

fn f32_at(bytes: &[u8], index: usize) -> f32 {
    f32::from_be_bytes(bytes.as_chunks().0[index])
}

#[test]
fn credit() {
    let imported =
        import::bytes(file!(include_str, "credit/config.json"), file!(include_bytes, "credit/model.safetensors"));
    let imported = imported.expect("the model");
    let metrics = metrics(file!(include_str, "credit/metrics.json"));
    let loans = loans();
    let inputs: Vec<Vec<u8>> = loans.iter().map(|(input, _)| input.clone()).collect();
    let answers = answers(&imported, &inputs);
    let correct = loans.iter().zip(&answers).filter(|((_, bad), answer)| (f32_at(answer, 0) >= 0.5) == *bad).count();
    assert_eq!(loans.len() as u64, metrics["held_out_loans"]);
    assert_eq!(correct as u64, metrics["held_out"]["correct"]);
    let check = imported.check(&inputs).expect("a comparison");
    assert!(check.max_error < 1e-6, "{check}");
}

#[test]
fn digit_images() {
    let imported =
        import::bytes(file!(include_str, "digits/config.json"), file!(include_bytes, "digits/model.safetensors"));
    let imported = imported.expect("the model");
    let metrics = metrics(file!(include_str, "digits/metrics.json"));
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
    assert_eq!(correct, metrics["sample_correct"]);
    let check = imported.check(&inputs).expect("a comparison");
    assert_eq!(check.same_argmax, digits.len(), "{check}");
    assert!(check.max_error < 1e-5, "{check}");
}

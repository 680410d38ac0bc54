//! Files that are not a model: each is refused with an error that names what is wrong, and nothing panics or grows.

mod engine_common;

use candor_relayer::engine::import;
use engine_common::Random;
use engine_common::files::{Tensors, random_model};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

fn config(input: Value, layers: Value) -> String {
    json!({
        "architecture": "sequential", "name": "x", "input": input, "layers": layers, "output": [{ "kind": "f32be" }]
    })
    .to_string()
}

fn mlp() -> String {
    config(
        json!({ "kind": "f32be", "shape": [3] }),
        json!([{ "op": "linear", "weight": "w", "bias": "b" }, { "op": "relu" }]),
    )
}

fn mlp_tensors() -> Tensors {
    let mut tensors = Tensors::default();
    tensors.add("w", Dtype::F32, &[2, 3], &[1.0; 6]);
    tensors.add("b", Dtype::F32, &[2], &[0.5; 2]);
    tensors
}

fn refused(config: &str, weights: &[u8], named: &[&str]) {
    let error = import::bytes(config, weights).expect_err(config).to_string();
    for name in named {
        assert!(error.contains(name), "{error:?} does not mention {name:?}");
    }
}

#[test]
fn a_sound_pair_is_imported() {
    let imported = import::bytes(&mlp(), &mlp_tensors().file()).expect("a model");
    assert_eq!((imported.model.limits.min_input_bytes, imported.model.limits.max_output_bytes), (12, 8));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let mut missing = Tensors::default();
    missing.add("w", Dtype::F32, &[2, 3], &[1.0; 6]);
    refused(&mlp(), &missing.file(), &["\"b\"", "missing"]);

    let mut extra = mlp_tensors();
    extra.add("forgotten", Dtype::F32, &[1], &[1.0]);
    refused(&mlp(), &extra.file(), &["\"forgotten\"", "not named in config.json"]);

    let mut shape = Tensors::default();
    shape.add("w", Dtype::F32, &[2, 4], &[1.0; 8]);
    refused(&mlp(), &shape.file(), &["\"w\"", "[2, 4]", "[2, 3]"]);

    let mut bias = Tensors::default();
    bias.add("w", Dtype::F32, &[2, 3], &[1.0; 6]);
    bias.add("b", Dtype::F32, &[3], &[1.0; 3]);
    refused(&mlp(), &bias.file(), &["\"b\"", "[3]", "[2]"]);

    let mut dtype = Tensors::default();
    dtype.add("w", Dtype::F64, &[2, 3], &[1.0; 6]);
    refused(&mlp(), &dtype.file(), &["\"w\"", "F64"]);

    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let mut nan = Tensors::default();
        nan.add("w", dtype, &[2, 3], &[1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0]);
        nan.add("b", dtype, &[2], &[0.5; 2]);
        refused(&mlp(), &nan.file(), &["\"w\"", "element 4 is NaN"]);
    }

    let mut empty = Tensors::default();
    empty.add("w", Dtype::F32, &[0, 3], &[]);
    refused(&mlp(), &empty.file(), &["\"w\"", "absurd"]);
}

#[test]
fn a_damaged_file_is_refused_wherever_it_is_cut() {
    let whole = mlp_tensors().file();
    for length in 0..whole.len() {
        refused(&mlp(), &whole[..length], &["model.safetensors"]);
    }
    let mut longer = whole.clone();
    longer.push(0);
    refused(&mlp(), &longer, &["model.safetensors"]);
    // A header that claims to be as long as memory.
    let mut liar = whole;
    liar[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&mlp(), &liar, &["model.safetensors"]);
}

#[test]
fn any_flipped_bit_is_survived() {
    let mut r = Random(9);
    for seed in 0..6 {
        let files = random_model(&mut Random(seed));
        for _ in 0..200 {
            let mut weights = files.weights.clone();
            let at = r.below(weights.len().min(600));
            weights[at] ^= 1 << r.below(8);
            // Either still a model or an error: what matters is that this returns.
            let _ = import::bytes(&files.config, &weights).map_err(|error| assert!(!error.to_string().is_empty()));
            let mut config = files.config.clone().into_bytes();
            let at = r.below(config.len());
            config[at] = b"0123456789{}[],:\"-eE."[r.below(21)];
            let _ = import::bytes(&String::from_utf8_lossy(&config), &files.weights)
                .map_err(|error| assert!(!error.to_string().is_empty()));
        }
    }
}

#[test]
fn absurd_configs_are_refused_by_field() {
    let image = json!({ "kind": "u8", "shape": [1, 8, 8] });
    let mut tensors = Tensors::default();
    tensors.add("w", Dtype::F32, &[2, 1, 3, 3], &[1.0; 18]);
    let file = tensors.file();
    let conv = |key: &str, value: Value| {
        let mut layer = json!({ "op": "conv2d", "weight": "w" });
        layer[key] = value;
        config(image.clone(), json!([layer, { "op": "flatten" }]))
    };
    assert!(import::bytes(&conv("stride", json!(2)), &file).is_ok());
    refused(&conv("stride", json!(0)), &file, &["layers[0].stride"]);
    refused(&conv("padding", json!(100_000)), &file, &["layers[0].size", "elements"]);
    refused(&conv("padding", json!(4_294_967_295u32)), &file, &["layers[0].size", "elements"]);
    refused(&conv("groups", json!(2)), &file, &["unknown field `groups`"]);
    let none = Tensors::default().file();
    let case = |input: Value, layers: Value, named: &[&str]| refused(&config(input, layers), &none, named);
    case(image.clone(), json!([{ "op": "max_pool2d", "size": 9 }, { "op": "flatten" }]), &["layers[0].size"]);
    case(image.clone(), json!([{ "op": "max_pool2d", "size": 0 }, { "op": "flatten" }]), &["layers[0].stride"]);
    case(image.clone(), json!([{ "op": "softmax" }]), &["layers[0].softmax", "flatten"]);
    case(image.clone(), json!([{ "op": "relu" }]), &["output", "flatten"]);
    case(json!({ "kind": "u8", "shape": [] }), json!([]), &["input.shape"]);
    case(json!({ "kind": "u8", "shape": [0] }), json!([]), &["input.shape"]);
    case(json!({ "kind": "u8", "shape": [65_536, 65_536, 2] }), json!([]), &["input.shape"]);
    case(json!({ "kind": "f32be", "shape": [4_000_000_000u32] }), json!([]), &["input.shape"]);
    case(json!({ "kind": "u8", "shape": [4] }), json!([{ "op": "max_pool2d", "size": 2 }]), &["layers[0].max_pool2d"]);
    let features =
        json!([{ "op": "features", "numeric": [{ "column": 4, "mean": 0, "scale": 1 }], "categorical": [] }]);
    case(json!({ "kind": "u8", "shape": [4] }), features, &["layers[0].column", "4 of an input of 4"]);
    let features = json!([{ "op": "features", "numeric": [], "categorical": [] }]);
    case(json!({ "kind": "u8", "shape": [4] }), features, &["layers[0].features", "no column"]);
    refused("{", &none, &["config.json", "EOF"]);
    refused(&mlp().replace("f32be", "f64be"), &none, &["unknown variant `f64be`"]);
    refused(&mlp().replace(r#""output""#, r#""outputs""#), &none, &["unknown field `outputs`"]);
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = import::folder(folder.path()).expect_err("nothing there").to_string();
    assert!(error.contains("config.json"), "{error}");
}

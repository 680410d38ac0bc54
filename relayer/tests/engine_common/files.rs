//! Model files made up for tests.

use super::Random;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// `config.json` and `model.safetensors`.
pub(crate) struct Files {
    pub(crate) config: String,
    pub(crate) weights: Vec<u8>,
}

/// Tensors on their way into a file.
#[derive(Default)]
pub(crate) struct Tensors(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    pub(crate) fn add(&mut self, name: &str, dtype: Dtype, shape: &[usize], values: &[f32]) {
        let bytes = match dtype {
            Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        self.0.push((name.to_string(), dtype, shape.to_vec(), bytes));
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        let views = self.0.iter().map(|(name, dtype, shape, bytes)| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).expect("a consistent tensor"))
        });
        safetensors::serialize(views, None).expect("a safetensors file")
    }
}

/// A random model: features or an image in, convolutions and pooling, fully connected layers with assorted functions.
pub(crate) fn random_model(r: &mut Random) -> Files {
    let dtype = [Dtype::F32, Dtype::F16, Dtype::BF16][r.below(3)];
    let mut tensors = Tensors::default();
    let mut layers: Vec<Value> = Vec::new();
    let functions = ["relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh"];
    let mut parameters = |r: &mut Random, index: usize, dims: &[usize]| {
        let (weight, bias) = (format!("l{index}.weight"), format!("l{index}.bias"));
        let scale = 2.0 / (dims[1..].iter().product::<usize>() as f32).sqrt();
        let values = r.vector(dims.iter().product(), |r| r.ordinary() * scale);
        tensors.add(&weight, dtype, dims, &values);
        if r.below(4) == 0 {
            return json!({ "weight": weight });
        }
        tensors.add(&bias, dtype, &dims[..1], &r.vector(dims[0], Random::ordinary));
        json!({ "weight": weight, "bias": bias })
    };
    let layer = |op: &str, parameters: Value| {
        let mut layer = parameters;
        layer["op"] = json!(op);
        layer
    };

    let image = r.below(2) == 0;
    let bytes = r.below(2) == 0;
    let mut width;
    let shape;
    if image {
        let (mut c, mut h, mut w) = (1 + r.below(3), 6 + r.below(9), 6 + r.below(9));
        shape = vec![c, h, w];
        layers.push(json!({ "op": "scale", "by": 0.007_843_138 }));
        for index in 0..1 + r.below(2) {
            let (out, kernel, stride, padding) = (1 + r.below(6), 1 + r.below(3), 1 + r.below(2), r.below(2));
            let mut conv = layer("conv2d", parameters(r, index, &[out, c, kernel, kernel]));
            conv["stride"] = json!(stride);
            conv["padding"] = json!(padding);
            layers.push(conv);
            (c, h, w) = (out, (h + 2 * padding - kernel) / stride + 1, (w + 2 * padding - kernel) / stride + 1);
            layers.push(json!({ "op": functions[r.below(functions.len())] }));
            if h >= 2 && w >= 2 && r.below(2) == 0 {
                layers.push(json!({ "op": "max_pool2d", "size": 2 }));
                (h, w) = (h / 2, w / 2);
            }
        }
        layers.push(json!({ "op": "flatten" }));
        width = c * h * w;
    } else {
        width = 3 + r.below(300);
        shape = vec![width];
        if r.below(2) == 0 {
            let numeric: Vec<Value> = (0..1 + r.below(5))
                .map(|_| json!({ "column": r.below(width), "mean": r.ordinary(), "scale": r.ordinary() }))
                .collect();
            let categorical: Vec<Value> =
                (0..r.below(4)).map(|_| json!({ "column": r.below(width), "codes": [0, 1, 2] })).collect();
            width = numeric.len() + 3 * categorical.len();
            layers.push(json!({ "op": "features", "numeric": numeric, "categorical": categorical }));
        }
    }
    for index in 10..11 + r.below(3) {
        let out = 1 + r.below(140);
        layers.push(layer("linear", parameters(r, index, &[out, width])));
        layers.push(json!({ "op": functions[r.below(functions.len())] }));
        width = out;
    }
    layers.push(json!({ "op": "softmax" }));
    let output = [
        json!([{ "kind": "argmax", "as": "u32be" }, { "kind": "f32be" }]),
        json!([{ "kind": "f32be" }]),
        json!([{ "kind": "argmax", "as": "u32be" }]),
    ];
    let config = json!({
        "architecture": "sequential",
        "name": "made up",
        "input": { "kind": if bytes { "u8" } else { "f32be" }, "shape": shape },
        "layers": layers,
        "output": output[r.below(3)],
    });
    Files { config: config.to_string(), weights: tensors.file() }
}

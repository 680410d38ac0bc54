//! Composed layers against the arithmetic's own row functions and against loops written out here.

use candor_sdk::{
    arithmetic::{
        contraction::dot,
        functions::gelu_tanh,
        quantised::{self, Group, Quantised},
        row,
        scalar::{add, div, maximum, mul},
    },
    program::{Attention, Dim, EncodeKind, InputKind, Limits, Model, Op, ProgramBuilder, Tensor, Value, WeightTensor},
};

use crate::models::{Numbers, ask, cnn, f32_be, find, fixed, mlp, quantised as quantised_model};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn floats(tensor: &Tensor) -> Vec<u32> {
    bits(tensor.f32().expect("f32 elements"))
}

/// Rows of f32 through a graph.
fn compute(rows: u32, input: &[f32], build: impl FnOnce(&mut ProgramBuilder, Value) -> Value) -> Vec<u32> {
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, rows, input.len() as u32 / rows);
    let y = build(&mut b, x);
    b.output(EncodeKind::F32Be, y);
    let model = b.finish(fixed(4 * input.len() as u32, 1 << 20), vec![]).expect("a valid model");
    let output = model.interpret(&ask(f32_be(input))).expect("an answer").output;
    output.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect()
}

#[test]
fn norms_and_softmax_are_those_of_the_arithmetic() {
    for n in [1, 31, 33, 128, 1024, 1025, 2500] {
        let mut numbers = Numbers::new(n as u64);
        let (x, w, b) = (numbers.floats(2 * n), numbers.floats(n), numbers.floats(n));
        let expected = |f: &dyn Fn(&[f32]) -> Vec<f32>| bits(&x.chunks(n).flat_map(f).collect::<Vec<_>>());
        assert_eq!(compute(2, &x, |b, x| b.softmax(x)), expected(&|x| row::softmax(x)));
        let rms = compute(2, &x, |b, x| {
            let weight = b.row("w", &w);
            b.rms_norm(x, weight, 1e-6)
        });
        assert_eq!(rms, expected(&|x| row::rms_norm(x, &w, 1e-6)));
        let layer = compute(2, &x, |builder, x| {
            let (weight, bias) = (builder.row("w", &w), builder.row("b", &b));
            builder.layer_norm(x, weight, bias, 1e-5)
        });
        assert_eq!(layer, expected(&|x| row::layer_norm(x, &w, &b, 1e-5)));
    }
}

#[test]
fn mlp_is_what_it_says() {
    let model = mlp();
    let x = [0.5, -1.25, 3.0, 0.0];
    let weight = |name: &str| {
        let tensor = model.weights.get(model.weights.find(name).expect("a weight")).expect("a weight");
        (0..tensor.rows()).map(|r| tensor.row_f32(r)).collect::<Vec<_>>()
    };
    let layer = |x: &[f32], w: &str, b: &str| -> Vec<f32> {
        weight(w).iter().zip(&weight(b)[0]).map(|(w, &b)| add(dot(x, w), b)).collect()
    };
    let hidden: Vec<f32> = layer(&x, "fc1.weight", "fc1.bias").into_iter().map(|x| maximum(x, 0.0)).collect();
    let probabilities = row::softmax(&layer(&hidden, "fc2.weight", "fc2.bias"));
    let class = (0..3).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).expect("three") as u32;
    let expected = [class.to_be_bytes().to_vec(), f32_be(&probabilities)].concat();
    assert_eq!(model.interpret(&ask(f32_be(&x))).expect("an answer").output, expected);
}

#[test]
fn cnn_is_what_it_says() {
    let model = cnn();
    let pixels: Vec<u8> = (0..64).map(|i| (i * 37 % 256) as u8).collect();
    let weight = |name: &str, r: usize| {
        model.weights.get(model.weights.find(name).expect("a weight")).expect("a weight").row_f32(r)
    };
    // Image as [channel][y][x].
    let convolve = |image: &[Vec<Vec<f32>>], name: &str, out: usize, padding: i32| -> Vec<Vec<Vec<f32>>> {
        let size = image[0].len() as i32;
        let positions = size + 2 * padding - 2;
        let channel = |o: usize| {
            let (w, bias) = (weight(&format!("{name}.weight"), o), weight(&format!("{name}.bias"), 0)[o]);
            let pixel = |y: i32, x: i32| {
                let mut patch = Vec::new();
                for plane in image {
                    for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                        let (y, x) = (y + dy - padding, x + dx - padding);
                        let inside = (0..size).contains(&y) && (0..size).contains(&x);
                        patch.push(if inside { plane[y as usize][x as usize] } else { 0.0 });
                    }
                }
                add(dot(&patch, &w), bias)
            };
            (0..positions).map(|y| (0..positions).map(|x| pixel(y, x)).collect()).collect()
        };
        (0..out).map(channel).collect()
    };
    let image: Vec<Vec<f32>> =
        pixels.chunks(8).map(|row| row.iter().map(|&p| mul(f32::from(p), 1.0 / 255.0)).collect()).collect();
    let image = convolve(&[image], "conv1", 3, 1);
    let pooled: Vec<Vec<Vec<f32>>> = (image.iter())
        .map(|plane| {
            let pixel = |y: usize, x: usize| {
                let window = [
                    plane[2 * y][2 * x],
                    plane[2 * y][2 * x + 1],
                    plane[2 * y + 1][2 * x],
                    plane[2 * y + 1][2 * x + 1],
                ];
                window.into_iter().map(|x| maximum(x, 0.0)).fold(f32::NEG_INFINITY, maximum)
            };
            (0..4).map(|y| (0..4).map(|x| pixel(y, x)).collect()).collect()
        })
        .collect();
    let image = convolve(&pooled, "conv2", 4, 0);
    let flat: Vec<f32> = image.into_iter().flatten().flatten().map(gelu_tanh).collect();
    let bias = weight("fc.bias", 0);
    let logits: Vec<f32> = (0..5).map(|o| add(dot(&flat, &weight("fc.weight", o)), bias[o])).collect();
    let output = model.interpret(&ask(pixels)).expect("an answer").output;
    assert_eq!(output, f32_be(&row::softmax(&logits)));
}

/// Attention written out: softmax numerators, mix, one division at the end.
fn attend(q: &[Vec<f32>], k: &[Vec<f32>], v: &[Vec<f32>], shape: Attention) -> Vec<u32> {
    let Attention { heads, kv_heads, head_dim, scale, causal } = shape;
    let width = head_dim as usize;
    let mut result = Vec::new();
    for (i, queries) in q.iter().enumerate() {
        let seen = if causal { i + 1 } else { k.len() };
        for h in 0..heads as usize {
            let own = h * width..(h + 1) * width;
            let shared = h / (heads / kv_heads) as usize * width;
            let scores: Vec<f32> =
                (0..seen).map(|j| mul(dot(&queries[own.clone()], &k[j][shared..shared + width]), scale)).collect();
            let (e, z) = row::softmax_parts(&scores);
            for d in 0..width {
                let column: Vec<f32> = (0..seen).map(|j| v[j][shared + d]).collect();
                result.push(div(dot(&e, &column), z).to_bits());
            }
        }
    }
    result
}

#[test]
fn attention_is_what_it_says() {
    for (positions, heads, kv_heads, causal) in
        [(5, 2, 2, false), (5, 4, 2, true), (150, 2, 1, true), (130, 1, 1, false)]
    {
        let shape = Attention { heads, kv_heads, head_dim: 3, scale: 0.577, causal };
        let (wide, narrow) = (heads as usize * 3, kv_heads as usize * 3);
        let mut numbers = Numbers::new(positions as u64);
        let x: Vec<Vec<f32>> = (0..positions).map(|_| numbers.floats(wide + 2 * narrow)).collect();
        let part = |from: usize, to: usize| x.iter().map(|row| row[from..to].to_vec()).collect::<Vec<_>>();
        let expected =
            attend(&part(0, wide), &part(wide, wide + narrow), &part(wide + narrow, wide + 2 * narrow), shape);
        let got = compute(positions, &x.concat(), |b, x| {
            let q = b.slice_cols(x, 0, heads * 3);
            let k = b.slice_cols(x, heads * 3, kv_heads * 3);
            let v = b.slice_cols(x, (heads + kv_heads) * 3, kv_heads * 3);
            b.attention(q, k, v, shape)
        });
        assert_eq!(got, expected, "{positions} positions, {heads} heads, {kv_heads} key heads");
    }
}

#[test]
fn a_causal_row_does_not_see_what_follows() {
    // Infinities and NaN after position 1 would poison sums padded with zeros: 0 * inf is NaN.
    let mut x = [0.5, 0.25, 1.0, -1.0, f32::INFINITY, f32::NAN, f32::NAN, f32::NEG_INFINITY];
    let shape = Attention { heads: 1, kv_heads: 1, head_dim: 2, scale: 1.0, causal: true };
    let poisoned = compute(4, &x, |b, x| b.attention(x, x, x, shape));
    x[4..].fill(0.0);
    let clean = compute(4, &x, |b, x| b.attention(x, x, x, shape));
    assert_eq!(poisoned[..4], clean[..4]);
    assert_ne!(poisoned[4..], clean[4..]);
}

#[test]
fn quantised_layers_are_those_of_the_arithmetic() {
    let model = quantised_model();
    let run = model.interpret(&ask(b"0123456789".to_vec())).expect("an answer");
    for (index, node) in model.program.nodes.iter().enumerate() {
        if node.op != Op::QuantLinear {
            continue;
        }
        let [candor_sdk::program::Operand::Node(q), _, candor_sdk::program::Operand::Weight(w), bias @ ..] =
            node.inputs.as_slice()
        else {
            panic!("operands of {node:?}")
        };
        let candor_sdk::program::Operand::Node(x) = model.program.nodes[*q as usize].inputs[0] else { panic!() };
        let (x, w) = (&run.tensors[x as usize], model.weights.get(*w).expect("a weight"));
        let mut expected = Vec::new();
        for row in x.f32().expect("f32").chunks(x.cols()) {
            for o in 0..w.rows() {
                let (group, weights) = match w.dtype() {
                    candor_sdk::program::WeightType::Q8_0 => (Group::G32, Quantised::from_q8_0(w.row(o), w.cols())),
                    _ => (Group::G128, Quantised::from_q8_128(w.row(o), w.cols())),
                };
                let sum = quantised::dot(&Quantised::quantise(row, group), &weights.expect("whole rows"));
                let bias = bias.first().map(|_| model.weights.get(model.weights.find("a.bias").expect("bias")));
                let bias = bias.map(|bias| bias.expect("bias").row_f32(0)[o]);
                expected.push(bias.map_or(sum, |bias| add(sum, bias)).to_bits());
            }
        }
        assert_eq!(floats(&run.tensors[index]), expected, "node {index}");
    }
    let gather = find(&model, |op| *op == Op::Gather);
    let table = model.weights.get(0).expect("the table");
    let whole = Quantised::from_q8_128(table.row(b'7'.into()), table.cols()).expect("a whole row").dequantise();
    assert_eq!(floats(&run.tensors[gather])[7 * 160..8 * 160], bits(&whole));
}

#[test]
fn sixteen_bit_weights_are_widened() {
    let halves = [0x3c00u16, 0xc000, 0x0001, 0x7c00];
    let bytes: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
    let tensor =
        |dtype| WeightTensor::new("h", (1, 4), dtype, std::sync::Arc::new(bytes.clone())).expect("a valid shape");
    let f16 = tensor(candor_sdk::program::WeightType::F16).row_f32(0);
    assert_eq!(f16, [1.0, -2.0, 2f32.powi(-24), f32::INFINITY]);
    let bf16 = tensor(candor_sdk::program::WeightType::Bf16).row_f32(0);
    assert_eq!(bits(&bf16), halves.map(|h| u32::from(h) << 16));
}

/// One model, any length: the same graph for 1 and for 16 tokens.
#[test]
fn shapes_follow_the_request() {
    let model: Model = crate::models::bert();
    for length in [1u32, 2, 16] {
        let request = ask((0..length).flat_map(u32::to_be_bytes).collect());
        let run = model.interpret(&request).expect("an answer");
        assert_eq!((run.symbols.sequence, run.symbols.prompt, run.symbols.input_bytes), (length, length, 4 * length));
        assert_eq!(run.output.len(), 32);
        let scores = find(&model, |op| matches!(op, Op::AttentionScores { .. }));
        assert_eq!((run.tensors[scores].rows(), run.tensors[scores].cols()), (2 * length as usize, length as usize));
    }
    let limits = Limits { max_input_bytes: 68, ..model.limits };
    let error = Model { limits, ..model }.validate().expect_err("17 positions in a table of 16");
    assert!(error.to_string().contains("axes: reaches [16, 7] of a source of 16 x 8"), "{error}");
    assert_eq!(Dim::S.to_string(), "S");
}

//! Operations that the embedded models do not use, in graphs that put them in every position: shared by all requests or
//! not, broadcast along rows and columns, ragged, read through views. Against the interpreter, bit for bit.

mod engine_common;

use candor_relayer::engine::InferRequest;
use candor_sdk::arithmetic::quantised::{Group, Quantised};
use candor_sdk::program::{
    Attention, BinaryFunction, ConcatAxis, DType, EncodeKind, InputKind, Limits, Model, Op, ProgramBuilder,
    UnaryFunction, Value, WeightTensor, WeightType,
};
use engine_common::{Random, devices::everywhere};
use half::{bf16, f16};
use std::sync::Arc;

fn weight(b: &mut ProgramBuilder, name: &str, shape: (u32, u32), dtype: WeightType, values: &[f32]) -> Value {
    let bytes: Vec<u8> = match dtype {
        WeightType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        WeightType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    b.weight(WeightTensor::new(name, shape, dtype, Arc::new(bytes)).expect("a tensor"))
}

fn finish(b: ProgramBuilder, input: u32) -> Model {
    let limits = Limits { min_input_bytes: input, max_input_bytes: input, max_output_bytes: 1 << 20, max_tokens: 0 };
    b.finish(limits, vec![]).expect("a sound graph")
}

/// Batches, traces and single requests on every path against the interpreter.
fn compare(model: &Model, inputs: Vec<Vec<u8>>) {
    let batch: Vec<InferRequest> =
        inputs.into_iter().map(|input| InferRequest { input, ..InferRequest::default() }).collect();
    let want: Vec<_> = batch.iter().map(|request| model.interpret(request).expect("a run")).collect();
    for (device, loaded) in everywhere(model) {
        for (request, want) in batch.iter().zip(&want) {
            let visit = |node: u32, tensor: &_| {
                let node = node as usize;
                assert_eq!(tensor, &want.tensors[node], "{device} node {node} {:?}", model.program.nodes[node]);
            };
            loaded.trace(request, visit).expect("a trace");
        }
        for (got, want) in loaded.infer(&batch).into_iter().zip(&want) {
            assert!(got.expect("an answer") == want.output, "{device} batched");
        }
    }
}

#[test]
fn norms_lookups_and_broadcasts() {
    let mut r = Random(11);
    let mut b = ProgramBuilder::new();
    let ids = b.input(InputKind::U8, 8, 1);
    let table = r.vector(256 * 12, Random::ordinary);
    let mut parts = Vec::new();
    for (name, dtype) in [("f32", WeightType::F32), ("f16", WeightType::F16), ("bf16", WeightType::Bf16)] {
        let table = weight(&mut b, name, (256, 12), dtype, &table);
        parts.push(b.gather(ids, table));
    }
    let x = b.concat(ConcatAxis::Cols, &parts); // 8 x 36
    let gain = r.vector(36, Random::ordinary);
    let gain = weight(&mut b, "gain", (1, 36), WeightType::F16, &gain);
    let shift = r.vector(36, Random::ordinary);
    let shift = b.row("shift", &shift);
    let normed = b.layer_norm(x, gain, shift, 1e-5);
    let rms = b.rms_norm(normed, gain, 1e-6);
    // Each column for several, from a weight and from the request.
    let groups = b.row("groups", &[0.5, -2.0, 3.0, 0.0]);
    let grouped = b.mul(rms, groups);
    let few = b.slice_cols(normed, 3, 9);
    let grouped = b.add(grouped, few);
    // Nodes that no request reaches: computed once for a batch.
    let shared = b.unary(UnaryFunction::Tanh, gain);
    let shared = b.transpose(shared);
    let shared = b.transpose(shared);
    let both = b.mul(grouped, shared);
    let blended = b.mul_add(both, groups, few);
    let both = b.add(both, blended);
    // Selection, and rows below each other: one part of the request, one shared.
    let mask = b.constant(0.25);
    let mask = b.binary(BinaryFunction::Less, both, mask);
    let zero = b.constant(0.0);
    let chosen = b.select(mask, both, zero);
    let tall = b.concat(ConcatAxis::Rows, &[chosen, shared]); // 9 x 36
    let joined = b.slice_rows(tall, 1, 8);
    let flat = b.join_rows(joined, 2, 4); // 2 x 144
    let w = r.vector(5 * 144, Random::ordinary);
    let w = weight(&mut b, "w", (5, 144), WeightType::Bf16, &w);
    let y = b.linear(flat, w, None);
    let y = b.softmax(y);
    // A maximum through a transposition, and the column of each maximum.
    let across = b.transpose(joined);
    let max = b.row_max(across);
    let index = b.argmax(joined);
    b.output(EncodeKind::F32Be, y);
    b.output(EncodeKind::F32Be, max);
    b.output(EncodeKind::U32Be, index);
    b.output(EncodeKind::U8, ids);
    b.output(EncodeKind::F32Be, shared);
    let model = finish(b, 8);
    compare(&model, (0..7).map(|_| (0..8).map(|_| r.bits() as u8).collect()).collect());
}

#[test]
fn ragged_rows() {
    let mut r = Random(12);
    for (causal, rows, cols) in [(1, 9, 9), (2, 12, 6), (4, 8, 70)] {
        let mut b = ProgramBuilder::new();
        let x = b.input(InputKind::F32Be, rows, cols);
        let max = b.node(Op::RowMax { causal }, &[x], DType::F32, rows, 1);
        let e = b.binary_causal(BinaryFunction::ExpSub, x, max, causal);
        let z = b.node(Op::RowSum { causal }, &[e], DType::F32, rows, 1);
        let p = b.binary_causal(BinaryFunction::Div, e, z, causal);
        b.output(EncodeKind::F32Be, p);
        let model = finish(b, rows * cols * 4);
        let kinds: [fn(&mut Random) -> f32; 3] = [Random::ordinary, Random::finite_edge, Random::edge];
        let inputs = kinds
            .map(|element| r.vector((rows * cols) as usize, element).iter().flat_map(|x| x.to_be_bytes()).collect());
        compare(&model, inputs.to_vec());
    }
}

#[test]
fn quantised_layers() {
    let mut r = Random(14);
    for (dtype, group, k) in [(WeightType::Q8_0, 32, 96), (WeightType::Q8_0, 32, 256), (WeightType::Q8_128, 128, 300)] {
        let (rows, n) = (6, 37);
        let scale = |r: &mut Random| match dtype {
            WeightType::Q8_0 => f16::from_f32(r.ordinary()).to_le_bytes().to_vec(),
            _ => r.ordinary().to_le_bytes().to_vec(),
        };
        let mut bytes = Vec::new();
        for _ in 0..n {
            for start in (0..k).step_by(group) {
                bytes.extend(scale(&mut r));
                bytes.extend((start..k.min(start + group)).map(|_| r.bits() as u8));
            }
        }
        let mut b = ProgramBuilder::new();
        let x = b.input(InputKind::F32Be, rows, k as u32);
        let w = b.weight(WeightTensor::new("w", (n, k as u32), dtype, Arc::new(bytes)).expect("a tensor"));
        let bias = r.vector(n as usize, Random::ordinary);
        let bias = b.row("bias", &bias);
        let y = b.linear(x, w, Some(bias));
        let z = b.linear(x, w, None);
        b.output(EncodeKind::F32Be, y);
        b.output(EncodeKind::F32Be, z);
        let model = finish(b, rows * k as u32 * 4);
        let kinds: [fn(&mut Random) -> f32; 3] = [Random::ordinary, Random::finite_edge, Random::edge];
        let inputs =
            kinds.map(|element| r.vector(rows as usize * k, element).iter().flat_map(|x| x.to_be_bytes()).collect());
        compare(&model, inputs.to_vec());
    }
}

#[test]
fn an_answer_that_ignores_its_request() {
    let mut b = ProgramBuilder::new();
    b.input(InputKind::U8, 1, 2);
    let x = b.row("x", &[1.0, f32::NEG_INFINITY, -0.0]);
    let x = b.softmax(x);
    b.output(EncodeKind::F32Be, x);
    let model = finish(b, 2);
    compare(&model, vec![vec![0, 1], vec![2, 3], vec![4, 5]]);
}

#[test]
fn contractions_of_activations() {
    let mut r = Random(13);
    // Heads, groups and lengths around the sizes of tiles and blocks; operands of the request and of the model.
    for (heads, group, width, rows, keys) in [
        (1, 1, 4, 3, 5),
        (4, 2, 16, 9, 9),
        (6, 3, 20, 50, 50),
        (2, 1, 130, 7, 49),
        (3, 3, 32, 130, 130),
        (2, 2, 64, 2, 257),
    ] {
        let key_heads = heads / group;
        let mut b = ProgramBuilder::new();
        let x = b.input(InputKind::F32Be, rows, heads * width);
        let own = r.vector((keys * key_heads * width) as usize, Random::finite_edge);
        let own = weight(&mut b, "keys", (keys, key_heads * width), WeightType::F32, &own);
        let other = if rows == keys { b.slice_cols(x, 0, key_heads * width) } else { own };
        let mut all = Vec::new();
        for (y, causal) in [(own, false), (other, rows == keys)] {
            let per_head = rows * heads;
            let op = Op::AttentionScores { heads, group, scale: 0.3f32.to_bits(), causal };
            let scores = b.node(op, &[x, y], DType::F32, per_head, keys);
            let values = b.transpose(y);
            let op = Op::AttentionMix { heads, group, causal };
            let mix = b.node(op, &[scores, values], DType::F32, rows, heads * width);
            b.output(EncodeKind::F32Be, mix);
            if rows == keys {
                all.push(b.attention(
                    x,
                    y,
                    y,
                    Attention { heads, kv_heads: key_heads, head_dim: width, scale: 0.3, causal },
                ));
            }
        }
        let shared = b.matmul_transposed(own, own);
        b.output(EncodeKind::F32Be, shared);
        all.into_iter().for_each(|x| b.output(EncodeKind::F32Be, x));
        let model = finish(b, rows * heads * width * 4);
        let kinds: [fn(&mut Random) -> f32; 3] = [Random::ordinary, Random::finite_edge, Random::edge];
        let inputs = kinds.map(|element| {
            r.vector((rows * heads * width) as usize, element).iter().flat_map(|x| x.to_be_bytes()).collect()
        });
        compare(&model, inputs.to_vec());
    }
}

#[test]
fn lookups_in_nodes_and_signed_bytes() {
    let mut r = Random(14);
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, 6, 40);
    let few = b.slice_cols(x, 0, 6);
    let id = b.argmax(few);
    let rows = b.gather(id, x);
    b.output(EncodeKind::F32Be, rows);
    for block in [32, 128] {
        let amax = b.node(Op::BlockAbsMax { block }, &[x], DType::F32, 6, 40u32.div_ceil(block));
        let q = b.node(Op::Quantise { block }, &[x, amax], DType::I8, 6, 40);
        let picked = b.indices("picked", &[39, 0, 7, 7]);
        let picked = b.take(q, picked);
        let q = b.concat(ConcatAxis::Cols, &[q, picked]);
        let q = b.transpose(q);
        let q = b.convert(q);
        b.output(EncodeKind::F32Be, q);
    }
    let model = finish(b, 6 * 40 * 4);
    let kinds: [fn(&mut Random) -> f32; 3] = [Random::ordinary, Random::finite_edge, Random::edge];
    compare(&model, kinds.map(|e| r.vector(240, e).iter().flat_map(|x| x.to_be_bytes()).collect()).to_vec());
}

#[test]
fn quantised_layers_with_every_kind_of_scale() {
    let mut r = Random(15);
    for (rows, k, n) in [(1, 32, 1), (3, 96, 50), (9, 160, 48), (70, 320, 97), (2, 1056, 10)] {
        let mut b = ProgramBuilder::new();
        let x = b.input(InputKind::F32Be, rows, k);
        let bias = r.vector(n as usize, Random::finite_edge);
        let bias = b.row("bias", &bias);
        let mut q8_0 = Vec::new();
        for _ in 0..n * k / 32 {
            // Every scale there is, infinities and NaNs included, and every byte, -128 included.
            let scale = if r.below(50) == 0 { r.bits() as u16 } else { 0x1c00 | (r.bits() & 0x83ff) as u16 };
            q8_0.extend(scale.to_le_bytes());
            q8_0.extend((0..32).map(|_| r.bits() as u8));
        }
        let q8_0 = WeightTensor::new("q8_0", (n, k), WeightType::Q8_0, Arc::new(q8_0)).expect("a tensor");
        // Rows that end within a block.
        let short = k - 5;
        let q8_128 = (0..n).flat_map(|_| {
            let row = Quantised::weights(&r.vector(short as usize, Random::ordinary), Group::G128).expect("finite");
            row.to_bytes()
        });
        let q8_128 = WeightTensor::new("q8_128", (n, short), WeightType::Q8_128, Arc::new(q8_128.collect::<Vec<u8>>()));
        let (a, c) = (b.weight(q8_0), b.weight(q8_128.expect("a tensor")));
        let y = b.linear(x, a, Some(bias));
        b.output(EncodeKind::F32Be, y);
        let y = b.linear(x, a, None);
        let y = b.unary(UnaryFunction::Silu, y);
        b.output(EncodeKind::F32Be, y);
        let x = b.slice_cols(x, 2, short);
        let y = b.linear(x, c, Some(bias));
        b.output(EncodeKind::F32Be, y);
        let model = finish(b, rows * k * 4);
        let kinds: [fn(&mut Random) -> f32; 3] = [Random::ordinary, Random::finite_edge, Random::edge];
        let inputs = kinds.map(|element| {
            r.vector((rows * k) as usize, element).iter().flat_map(|x| x.to_be_bytes()).collect::<Vec<u8>>()
        });
        compare(&model, inputs.to_vec());
    }
}

//! Operations that the embedded models do not use, in graphs that put them in every position: shared by all requests or
//! not, broadcast along rows and columns, ragged, read through views. Against the interpreter, bit for bit.

mod engine_common;

use candor_relayer::engine::kernels::Isa;
use candor_relayer::engine::{Device, InferRequest, LoadError, LoadedModel};
use candor_sdk::program::{
    BinaryFunction, ConcatAxis, DType, EncodeKind, InputKind, Limits, Model, Op, ProgramBuilder, UnaryFunction, Value,
    WeightTensor, WeightType,
};
use engine_common::Random;
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
    for &isa in Isa::available() {
        let loaded = LoadedModel::load_with(model.clone(), Device::Cpu, isa).expect("the model loads");
        for (request, want) in batch.iter().zip(&want) {
            let visit = |node: u32, tensor: &_| {
                let node = node as usize;
                assert_eq!(tensor, &want.tensors[node], "{} node {node} {:?}", isa.name(), model.program.nodes[node]);
            };
            loaded.trace(request, visit).expect("a trace");
        }
        for (got, want) in loaded.infer(&batch).into_iter().zip(&want) {
            assert!(got.expect("an answer") == want.output, "{} batched", isa.name());
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
fn an_operation_without_a_kernel_is_refused_at_load() {
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, 3, 4);
    let y = b.within("here", |b| b.matmul_transposed(x, x));
    b.output(EncodeKind::F32Be, y);
    let error = LoadedModel::load(finish(b, 48), Device::Cpu).expect_err("no kernel");
    assert!(matches!(error, LoadError::Unsupported { node: 1, .. }), "{error}");
    assert!(error.to_string().contains("AttentionScores") && error.to_string().contains("here"), "{error}");
}

//! Kernels of the GPU against the interpreter, bit for bit: every kernel there is, at sizes around those of its tiles,
//! with numbers from the edges of the format; and what happens when a GPU fails.

mod devices;
mod engine_common;

use candor_relayer::engine::cuda::{DeviceError, Driver, Worker, ops};
use candor_relayer::engine::{Device, InferError, InferRequest, LoadError, LoadedModel};
use candor_sdk::program::{
    Attention, BinaryFunction, ConcatAxis, DType, EncodeKind, InputKind, Limits, Model, Op, ProgramBuilder,
    UnaryFunction, Value, WeightTensor, WeightType,
};
use devices::cuda_common::{self, Emulated};
use engine_common::Random;
use half::{bf16, f16};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A weight of random elements; every third row has some from the edges of what its type can hold.
fn weight(r: &mut Random, (rows, cols): (u32, u32), dtype: WeightType) -> WeightTensor {
    let count = (rows * cols) as usize;
    let edged = |element: usize| (element / cols as usize).is_multiple_of(3);
    let bytes: Vec<u8> = match dtype {
        WeightType::F16 => (0..count).flat_map(|i| sixteen(r, edged(i), |x| f16::from_f32(x).to_bits())).collect(),
        WeightType::Bf16 => (0..count).flat_map(|i| sixteen(r, edged(i), |x| bf16::from_f32(x).to_bits())).collect(),
        WeightType::Q8_0 => (0..count / 32)
            .flat_map(|_| [f16::from_f32(r.ordinary()).to_le_bytes().to_vec(), bytes(r, 32)].concat())
            .collect(),
        WeightType::Q8_128 => (0..rows)
            .flat_map(|_| {
                let lengths = (0..cols).step_by(128).map(|start| (cols - start).min(128) as usize);
                lengths
                    .flat_map(|len| [r.ordinary().to_le_bytes().to_vec(), bytes(r, len)].concat())
                    .collect::<Vec<_>>()
            })
            .collect(),
        _ => (0..count).flat_map(|i| if edged(i) { some(r) } else { r.ordinary() }.to_le_bytes()).collect(),
    };
    WeightTensor::new("w", (rows, cols), dtype, Arc::new(bytes)).expect("a tensor")
}

fn bytes(r: &mut Random, count: usize) -> Vec<u8> {
    (0..count).map(|_| r.bits() as u8).collect()
}

/// Mostly ordinary, so that not every sum ends in NaN.
fn some(r: &mut Random) -> f32 {
    if r.below(50) == 0 { r.finite_edge() } else { r.ordinary() }
}

fn sixteen(r: &mut Random, edged: bool, narrow: impl Fn(f32) -> u16) -> [u8; 2] {
    // Subnormals of 16 bits among them.
    let bits = if edged && r.below(20) == 0 { r.bits() as u16 & 0x83ff } else { narrow(r.ordinary()) };
    bits.to_le_bytes()
}

fn compare(b: ProgramBuilder, input: u32, inputs: Vec<Vec<u8>>, what: &str) {
    let limits = Limits { min_input_bytes: input, max_input_bytes: input, max_output_bytes: 1 << 22, max_tokens: 0 };
    let model = b.finish(limits, vec![]).expect("a sound graph");
    let batch: Vec<_> = inputs.into_iter().map(|input| InferRequest { input, ..InferRequest::default() }).collect();
    let want: Vec<_> = batch.iter().map(|request| model.interpret(request).expect("a run").output).collect();
    let loaded = devices::load(&model);
    for run in 0..2 {
        for (got, want) in loaded.infer(&batch).into_iter().zip(&want) {
            assert!(&got.expect("an answer") == want, "{what}, run {run}");
        }
    }
}

fn floats(r: &mut Random, count: u32, element: fn(&mut Random) -> f32) -> Vec<u8> {
    r.vector(count as usize, element).iter().flat_map(|x| x.to_be_bytes()).collect()
}

/// Rows of which most are ordinary: an infinity or a NaN hides what else is wrong with its row.
fn rows_of_kinds(r: &mut Random, rows: u32, cols: u32) -> Vec<u8> {
    let kinds: [fn(&mut Random) -> f32; 4] = [Random::ordinary, Random::edge, Random::ordinary, Random::finite_edge];
    (0..rows as usize).flat_map(|row| floats(r, cols, kinds[row % 4])).collect()
}

/// A linear layer with and without bias and function, of `rows` rows.
fn linear(r: &mut Random, dtype: WeightType, shape: (u32, u32, u32)) {
    linears(r, dtype, shape, 1);
}

/// The same of so many requests at once, whose rows are one batch.
fn linears(r: &mut Random, dtype: WeightType, (rows, k, n): (u32, u32, u32), requests: usize) {
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, rows, k);
    let w = b.weight(weight(r, (n, k), dtype));
    let bias = r.vector(n as usize, some);
    let bias = b.row("bias", &bias);
    let plain = b.linear(x, w, None);
    b.output(EncodeKind::F32Be, plain);
    let biased = b.linear(x, w, Some(bias));
    let biased = b.unary(UnaryFunction::Silu, biased);
    b.output(EncodeKind::F32Be, biased);
    let inputs = (0..requests).map(|_| rows_of_kinds(r, rows, k)).collect();
    compare(b, rows * k * 4, inputs, &format!("{dtype:?} {rows} x {k} x {n}"));
}

/// Everything that a launch can be, in one test, so that it can tell whether all kernels were launched.
#[test]
fn every_kernel_at_sizes_around_its_tiles() {
    let r = &mut Random(41);
    for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
        // Few rows: one, two, four and eight to a warp; ragged blocks, steps and panels; K of real layers.
        for shape in [(1, 1, 1), (1, 576, 65), (2, 131, 33), (3, 896, 32), (4, 1155, 31), (7, 127, 40), (9, 260, 64)] {
            linear(r, dtype, shape);
        }
        // Many: tiles of 64, and of 128 where there are enough of them.
        for shape in [(17, 5, 70), (65, 129, 64), (200, 150, 200), (129, 256, 300)] {
            linear(r, dtype, shape);
        }
    }
    for (dtype, step) in [(WeightType::Q8_0, 32), (WeightType::Q8_128, 1)] {
        for (rows, k, n) in [(1, 576, 65), (2, 160, 33), (3, 896, 32), (8, 128, 31), (9, 1184, 40)] {
            linear(r, dtype, (rows, k, n));
        }
        // Many: each of the three tiles, with more and with fewer blocks than are on their way at once; then so many rows
        // that there are two bands of them.
        for (rows, k, n) in [(17, 32, 70), (40, 1184, 64), (130, 160, 129), (129, 800, 250), (200, 416, 300)] {
            linear(r, dtype, (rows, k, n));
        }
        linears(r, dtype, (1030, 32, 300), 2);
        if step == 1 {
            // Rows that tiles can't load sixteen bytes of.
            for shape in [(1, 129, 33), (20, 131, 40), (140, 7, 33)] {
                linear(r, dtype, shape);
            }
        }
    }
    norms_and_reductions(r);
    quantised_rows(r);
    lookups(r);
    attention(r);
    // The kernels about tokens and attention.
    for request in [engine_ask(&[3, 1, 2], 6, 1.5), engine_ask(&[5], 3, 0.0)] {
        let model = generating();
        let loaded = devices::load(&model);
        let want = model.interpret(&request).expect("a run");
        assert_eq!(loaded.infer(std::slice::from_ref(&request))[0].as_ref().expect("an answer"), &want.output);
        let seen = Mutex::new(0);
        let visit = |node: u32, tensor: &_| {
            assert_eq!(tensor, &want.tensors[node as usize], "node {node}");
            *seen.lock().expect("a lock") += 1;
        };
        loaded.trace(&request, visit).expect("a trace");
        assert_eq!(*seen.lock().expect("a lock"), want.tensors.len());
    }
    if !cuda_common::real() {
        let launched = cuda_common::launched();
        let idle: Vec<_> = ops::kernel::ALL.iter().filter(|kernel| !launched.contains(kernel.name)).collect();
        assert!(idle.is_empty(), "never launched: {idle:?}");
    }
}

fn norms_and_reductions(r: &mut Random) {
    for (rows, cols) in [(3, 1), (2, 33), (5, 1024), (1, 1025), (2, 3100)] {
        let mut b = ProgramBuilder::new();
        let x = b.input(InputKind::F32Be, rows, cols);
        let gain = r.vector(cols as usize, some);
        let (gain, shift) = (b.row("gain", &gain), b.row("shift", &gain));
        let rms = b.rms_norm(x, gain, 1e-6);
        let layer = b.layer_norm(x, gain, shift, 1e-5);
        let soft = b.softmax(x);
        for value in [rms, layer, soft] {
            b.output(EncodeKind::F32Be, value);
        }
        let (sum, squares, max) = (b.row_sum(x), b.row_sum_squares(x), b.row_max(x));
        let all = b.concat(ConcatAxis::Rows, &[sum, squares, max]);
        b.output(EncodeKind::F32Be, all);
        let best = b.argmax(x);
        b.output(EncodeKind::U32Be, best);
        // Functions of one, two and three numbers.
        for &function in UnaryFunction::ALL {
            let y = b.unary(function, x);
            b.output(EncodeKind::F32Be, y);
        }
        for &function in BinaryFunction::ALL {
            let alike = b.binary(function, x, rms);
            let spread = b.binary(function, x, sum);
            b.output(EncodeKind::F32Be, alike);
            b.output(EncodeKind::F32Be, spread);
        }
        let mixed = b.mul_add(x, gain, sum);
        let chosen = b.select(mixed, x, gain);
        b.output(EncodeKind::F32Be, chosen);
        let kinds: [fn(&mut Random) -> f32; 3] = [Random::ordinary, Random::finite_edge, Random::edge];
        let inputs = kinds.map(|kind| floats(r, rows * cols, kind)).to_vec();
        compare(b, rows * cols * 4, inputs, &format!("rows of {cols}"));
    }
}

/// Attention of few queries and of many: tiles that are not full, heads wider than a tile, more positions than R1 adds at a
/// time, rows that see only what is before them and rows that see all.
fn attention(r: &mut Random) {
    for (heads, kv_heads, head_dim, rows, keys) in [
        (2, 1, 5, 3, 40),
        (1, 1, 8, 7, 1100),
        (4, 2, 20, 41, 41),
        (2, 2, 130, 70, 70),
        (1, 1, 6, 33, 1100),
        (3, 1, 64, 90, 150),
    ] {
        let mut b = ProgramBuilder::new();
        let x = b.input(InputKind::F32Be, rows, heads * head_dim);
        let shared = kv_heads * head_dim;
        let mut own = |name: &str, element: fn(&mut Random) -> f32| {
            let values = r.vector(((keys + 1) * shared) as usize, element);
            let all = b.weight(WeightTensor::from_f32(name, (keys + 1, shared), &values).expect("a tensor"));
            b.slice_rows(all, 1, keys) // attention of nodes is one step
        };
        let (k, v, edges) = (own("k", Random::ordinary), own("v", Random::ordinary), own("edges", Random::edge));
        let shape = Attention { heads, kv_heads, head_dim, scale: 0.3, causal: false };
        for values in [v, edges] {
            let mixed = b.attention(x, k, values, shape);
            b.output(EncodeKind::F32Be, mixed);
        }
        if rows == keys {
            let k = b.slice_cols(x, 0, shared);
            for values in [v, edges] {
                let mixed = b.attention(x, k, values, Attention { causal: true, ..shape });
                b.output(EncodeKind::F32Be, mixed);
            }
        }
        let inputs = (0..2).map(|_| rows_of_kinds(r, rows, heads * head_dim)).collect();
        compare(b, rows * heads * head_dim * 4, inputs, &format!("{heads} heads of {head_dim}, {rows} x {keys}"));
    }
}

/// Bytes and magnitudes of `x`, which whoever makes it may make along with it.
fn quantise(b: &mut ProgramBuilder, x: Value, block: u32) {
    let cols = u32::try_from(x.cols.as_constant().expect("a number of columns")).expect("a size");
    let magnitudes = b.node(Op::BlockAbsMax { block }, &[x], DType::F32, x.rows, cols.div_ceil(block));
    let bytes = b.node(Op::Quantise { block }, &[x, magnitudes], DType::I8, x.rows, cols);
    let bytes = b.convert(bytes);
    b.output(EncodeKind::F32Be, magnitudes);
    b.output(EncodeKind::F32Be, bytes);
}

fn quantised_rows(r: &mut Random) {
    let kinds: [fn(&mut Random) -> f32; 3] = [Random::ordinary, Random::finite_edge, Random::edge];
    for (rows, cols) in [(2, 1), (3, 33), (1, 576), (2, 1155), (1, 4224)] {
        let mut b = ProgramBuilder::new();
        let x = b.input(InputKind::F32Be, rows, cols);
        let gain = r.vector(cols as usize, some);
        let (gain, shift) = (b.row("gain", &gain), b.row("shift", &gain));
        for (block, other) in [(32, 128), (128, 32)] {
            // Of a norm, in both sizes; of a sum that is normed, and of the norm; of a product.
            let rms = b.rms_norm(x, gain, 1e-6);
            quantise(&mut b, rms, block);
            quantise(&mut b, rms, other);
            let layer = b.layer_norm(x, gain, shift, 1e-5);
            quantise(&mut b, layer, block);
            let sum = b.add(x, rms);
            quantise(&mut b, sum, block);
            let rms = b.rms_norm(sum, gain, 1e-6);
            quantise(&mut b, rms, block);
            let sum = b.add(sum, layer);
            let layer = b.layer_norm(sum, gain, shift, 1e-6);
            quantise(&mut b, layer, block);
            let product = b.mul(sum, layer);
            quantise(&mut b, product, block);
            b.output(EncodeKind::F32Be, product);
            // Of magnitudes, which have bytes of their own.
            let magnitudes = b.node(Op::BlockAbsMax { block }, &[product], DType::F32, rows, cols.div_ceil(block));
            quantise(&mut b, magnitudes, block);
            // By broadcasting, which no kernel quantises.
            let scaled = b.mul(x, gain);
            quantise(&mut b, scaled, block);
        }
        let inputs = kinds.map(|kind| floats(r, rows * cols, kind)).to_vec();
        compare(b, rows * cols * 4, inputs, &format!("quantised rows of {cols}"));
    }
    // Attention: groups that are a head, a part of one, several, and no whole number of heads.
    for (rows, heads, kv_heads, head_dim, block) in [
        (3, 4, 2, 8, 32),
        (2, 3, 1, 64, 128),
        (1, 2, 2, 80, 32),
        (130, 5, 1, 24, 32),
        (2, 1, 1, 40, 128),
        (1, 2, 1, 128, 128),
        (2, 2, 1, 128, 32),
    ] {
        let (width, cols) = (head_dim * kv_heads, head_dim * (heads + 2 * kv_heads));
        let mut b = ProgramBuilder::new();
        let x = b.input(InputKind::F32Be, rows, cols);
        let q = b.slice_cols(x, 0, head_dim * heads);
        let (k, v) = (b.slice_cols(x, head_dim * heads, width), b.slice_cols(x, cols - width, width));
        let mixed = b.attention(q, k, v, Attention { heads, kv_heads, head_dim, scale: 0.3, causal: rows > 2 });
        quantise(&mut b, mixed, block);
        b.output(EncodeKind::F32Be, mixed);
        let inputs = kinds.map(|kind| floats(r, rows * cols, kind)).to_vec();
        compare(b, rows * cols * 4, inputs, &format!("quantised attention, {heads} heads of {head_dim}"));
    }
}

fn lookups(r: &mut Random) {
    let mut b = ProgramBuilder::new();
    let ids = b.input(InputKind::U8, 6, 1);
    for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16, WeightType::Q8_0, WeightType::Q8_128] {
        let table = b.weight(weight(r, (256, 64), dtype));
        let rows = b.gather(ids, table);
        b.output(EncodeKind::F32Be, rows);
    }
    let quantised = b.weight(weight(r, (1, 32), WeightType::Q8_0));
    let numbers = b.convert(ids);
    let scaled = b.mul(numbers, quantised); // a quantised weight as it is
    let columns = b.indices("columns", &[31, 0, 5]);
    let taken = b.take(scaled, columns);
    b.output(EncodeKind::F32Be, taken);
    let tall = b.transpose(taken);
    b.output(EncodeKind::F32Be, tall);
    let best = b.argmax(taken);
    let looked_up = b.gather(best, scaled);
    b.output(EncodeKind::F32Be, looked_up);
    let amax = b.node(Op::BlockAbsMax { block: 32 }, &[scaled], DType::F32, 6, 1);
    let q = b.node(Op::Quantise { block: 32 }, &[scaled, amax], DType::I8, 6, 32);
    // Magnitudes that are not the row's own.
    let other = b.slice_rows(amax, 0, 1);
    let other = b.add(amax, other);
    let coarse = b.node(Op::Quantise { block: 32 }, &[scaled, other], DType::I8, 6, 32);
    let both = b.concat(ConcatAxis::Cols, &[q, coarse]);
    let both = b.take(both, columns);
    let both = b.transpose(both);
    let both = b.convert(both);
    b.output(EncodeKind::F32Be, both);
    compare(b, 6, (0..5).map(|_| bytes(r, 6)).collect(), "lookups");
}

fn engine_ask(tokens: &[u32], max_tokens: u32, temperature: f32) -> InferRequest {
    let params =
        candor_sdk::program::Params { max_tokens, temperature: temperature.to_bits(), min_p: 0.05f32.to_bits() };
    InferRequest { input: tokens.iter().flat_map(|token| token.to_be_bytes()).collect(), params, seed: [9; 32] }
}

/// A language model with heads in an order that a view has to restore, rotary embedding, and text.
fn generating() -> Model {
    let (vocabulary, dim, heads) = (40u32, 32u32, 4u32);
    let r = &mut Random(43);
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(vocabulary);
    let context = b.context(tokens);
    let mut matrix = |b: &mut ProgramBuilder, name: &str, rows: u32, cols: u32| {
        let values = r.vector((rows * cols) as usize, Random::ordinary);
        b.weight(WeightTensor::from_f32(name, (rows, cols), &values).expect("a tensor"))
    };
    let words = matrix(&mut b, "words", vocabulary, dim);
    let x = b.gather(context, words);
    let (cos, sin) = (matrix(&mut b, "cos", 64, 4), matrix(&mut b, "sin", 64, 4));
    let all = matrix(&mut b, "qkv", 2 * dim, dim);
    let all = b.linear(x, all, None);
    // Rows are cut in two and the halves swapped: a table of moves within each position.
    let all = b.slice_cols(all, dim / 2, dim + dim / 2);
    let split = b.split_rows(all, dim / 2);
    let joined = b.join_rows(split, candor_sdk::program::Dim::S - candor_sdk::program::Dim::ONE, 3);
    let q = b.slice_cols(joined, 0, dim);
    let k = b.slice_cols(joined, dim, dim / 2);
    let v = b.slice_cols(joined, dim / 2, dim / 2);
    let (q, k) = (b.rope(q, cos, sin, dim / heads, 8), b.rope(k, cos, sin, dim / heads, 8));
    let shape = Attention { heads, kv_heads: 2, head_dim: dim / heads, scale: 0.3, causal: true };
    let mixed = b.attention(q, k, v, shape);
    let x = b.add(x, mixed);
    // Bytes that a view moves within each position.
    let amax = b.node(Op::BlockAbsMax { block: 32 }, &[x], DType::F32, x.rows, 1);
    let bytes = b.node(Op::Quantise { block: 32 }, &[x, amax], DType::I8, x.rows, dim);
    let some = b.slice_cols(bytes, 3, 8);
    let some = b.convert(some);
    let back = matrix(&mut b, "back", dim, 8);
    let some = b.linear(some, back, None);
    let x = b.add(x, some);
    let x = b.predicting_rows(x);
    let logits = b.linear(x, words, None);
    let generated = b.generate(tokens, logits, &[0]);
    b.output_text(generated);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 160, max_output_bytes: 4096, max_tokens: 10 };
    let entries = (0..vocabulary).map(|id| vec![id as u8; (id % 5) as usize]).collect();
    b.finish(limits, entries).expect("a valid model")
}

fn small() -> Model {
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, 1, 40);
    let w = b.weight(weight(&mut Random(7), (300, 40), WeightType::F32));
    let y = b.linear(x, w, None);
    let y = b.softmax(y);
    b.output(EncodeKind::F32Be, y);
    let limits = Limits { min_input_bytes: 160, max_input_bytes: 160, max_output_bytes: 4096, max_tokens: 0 };
    b.finish(limits, vec![]).expect("a sound graph")
}

fn requests(count: usize) -> Vec<InferRequest> {
    let r = &mut Random(8);
    (0..count).map(|_| InferRequest { input: floats(r, 40, Random::ordinary), ..InferRequest::default() }).collect()
}

/// A worker whose device is lost when the counter says so, and comes back when it is opened again.
fn fragile(lost_in: &Arc<AtomicI64>, memory: &Arc<AtomicUsize>) -> Arc<Worker> {
    let (lost_in, memory) = (lost_in.clone(), memory.clone());
    let open = move || {
        lost_in.store(-1, Ordering::SeqCst);
        let mut device = Emulated::new(1);
        (device.lost_in, device.memory) = (lost_in.clone(), memory.clone());
        Ok(Box::new(device) as Box<dyn Driver>)
    };
    Worker::start("fragile", open).expect("the emulation")
}

#[test]
fn a_lost_device_fails_its_requests_and_comes_back() {
    let (model, batch) = (small(), requests(3));
    let want: Vec<_> = batch.iter().map(|request| model.interpret(request).expect("a run").output).collect();
    let lost_in = Arc::new(AtomicI64::new(-1));
    let worker = fragile(&lost_in, &Arc::new(AtomicUsize::new(1 << 30)));
    let loaded = LoadedModel::load_on(model, &worker).expect("loads");
    for launches in [0, 1, 2] {
        lost_in.store(launches, Ordering::SeqCst);
        for answer in loaded.infer(&batch) {
            let error = answer.expect_err("the device is gone");
            assert!(matches!(error, InferError::Lost { .. }) && error.is_retryable(), "{error}");
        }
        for (answer, want) in loaded.infer(&batch).into_iter().zip(&want) {
            assert_eq!(&answer.expect("the device is back"), want);
        }
    }
}

#[test]
fn a_device_without_room_says_so() {
    let (model, batch) = (small(), requests(64));
    let never = Arc::new(AtomicI64::new(-1));
    // Not even the weights.
    let memory = Arc::new(AtomicUsize::new(2_000_000));
    let worker = fragile(&never, &memory);
    let mut big = ProgramBuilder::new();
    let x = big.input(InputKind::F32Be, 1, 1024);
    let w = big.weight(weight(&mut Random(1), (1024, 1024), WeightType::F32));
    let y = big.linear(x, w, None);
    big.output(EncodeKind::F32Be, y);
    let limits = Limits { min_input_bytes: 4096, max_input_bytes: 4096, max_output_bytes: 4096, max_tokens: 0 };
    let big = big.finish(limits, vec![]).expect("a sound graph");
    match LoadedModel::load_on(big, &worker) {
        Err(LoadError::Cuda { source: DeviceError::OutOfMemory { bytes }, .. }) => assert!(bytes >= 4 << 20, "{bytes}"),
        other => panic!("{other:?}"),
    }
    // A model that fits on the same device is served meanwhile.
    let loaded = LoadedModel::load_on(model.clone(), &worker).expect("loads");
    let want = model.interpret(&batch[0]).expect("a run").output;
    assert_eq!(loaded.infer(&batch[..1])[0].as_ref().expect("an answer"), &want);
    // The weights, but not the activations of a large batch.
    let room = usize::try_from(worker.free_memory().expect("an answer")).expect("a size");
    memory.fetch_sub(room - 30_000, Ordering::SeqCst);
    let errors = loaded.infer(&batch).into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(errors.len(), batch.len());
    for error in errors {
        assert!(matches!(error, InferError::OutOfMemory { .. }) && error.is_retryable(), "{error}");
    }
    assert_eq!(loaded.infer(&batch[..1])[0].as_ref().expect("a smaller batch fits"), &want);
}

/// A device does not start without them. By itself for tools that watch closely what a device does.
#[test]
fn golden_vectors_on_this_device() {
    println!("{}", cuda_common::worker());
}

/// A language model of `layers` layers, as the importer writes them.
fn decoder(dtype: WeightType, layers: usize) -> Model {
    let (dim, kv, fed) = (64u32, 32u32, 96u32);
    let r = &mut Random(47);
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(48);
    let context = b.context(tokens);
    let words = b.weight(weight(r, (48, dim), WeightType::F16));
    let mut x = b.gather(context, words);
    let [cos, sin] = [(); 2].map(|()| b.weight(weight(r, (32, 8), WeightType::F32)));
    let gain = b.row("gain", &vec![0.5; dim as usize]);
    for _ in 0..layers {
        let mut matrix = |b: &mut ProgramBuilder, x, (to, from)| {
            let w = b.weight(weight(r, (to, from), dtype));
            b.linear(x, w, None)
        };
        let h = b.rms_norm(x, gain, 1e-6);
        let q = matrix(&mut b, h, (dim, dim));
        let (k, v) = (matrix(&mut b, h, (kv, dim)), matrix(&mut b, h, (kv, dim)));
        let (q, k) = (b.rope(q, cos, sin, 16, 16), b.rope(k, cos, sin, 16, 16));
        let shape = Attention { heads: 4, kv_heads: 2, head_dim: 16, scale: 0.25, causal: true };
        let mixed = b.attention(q, k, v, shape);
        let mixed = matrix(&mut b, mixed, (dim, dim));
        x = b.add(mixed, x);
        let h = b.rms_norm(x, gain, 1e-6);
        let gate = matrix(&mut b, h, (fed, dim));
        let gate = b.unary(UnaryFunction::Silu, gate);
        let up = matrix(&mut b, h, (fed, dim));
        let h = b.mul(gate, up);
        let down = matrix(&mut b, h, (dim, fed));
        x = b.add(down, x);
    }
    let x = b.predicting_rows(x);
    let x = b.rms_norm(x, gain, 1e-6);
    let logits = b.linear(x, words, None);
    let generated = b.generate(tokens, logits, &[]);
    b.output(EncodeKind::U32Be, generated);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 16, max_output_bytes: 64, max_tokens: 12 };
    b.finish(limits, vec![]).expect("a valid model")
}

/// Small launches are what generating a token waits for: what can be one is one, and quantised layers take no more.
#[test]
fn a_layer_takes_few_launches() {
    for (dtype, linear, multiply) in [
        (WeightType::F32, "linear_f32_1", "binary_alike"),
        (WeightType::Bf16, "linear_bf16_1", "binary_alike"),
        (WeightType::Q8_0, "quantised_q8_0_1", "binary_groups"),
        (WeightType::Q8_128, "quantised_q8_128_1", "binary_groups"),
    ] {
        let model = decoder(dtype, 3);
        let log = Arc::new(Mutex::new(Vec::new()));
        let open = {
            let log = log.clone();
            move || {
                let mut device = Emulated::new(6);
                device.log = log.clone();
                Ok(Box::new(device) as Box<dyn Driver>)
            }
        };
        let worker = Worker::start("counted", open).expect("the emulation");
        let loaded = LoadedModel::load_on(model.clone(), &worker).expect("loads");
        let request = engine_ask(&[5, 3], 8, 0.0);
        let want = model.interpret(&request).expect("a run").output;
        assert_eq!(loaded.infer(std::slice::from_ref(&request))[0].as_ref().expect("an answer"), &want);

        let layer = [
            "rms_norm", // with the sum that it norms
            linear,     // queries, keys and values
            "rope_all",
            "append_rows",
            "attention_scores",
            "attention_mixes",
            "attention_quotients",
            linear,
            "rms_norm",
            linear, // gate and up
            multiply,
            linear,
        ];
        let last = ["binary_alike", "rms_norm", "linear_f16_1", "reduce_narrow", "argmax_rows"];
        let expected = [["gather_packed"].as_slice(), &layer.repeat(3), &last].concat();
        let log = log.lock().expect("a lock");
        let passes: Vec<_> = log.split_inclusive(|name| *name == "argmax_rows").collect();
        // The last pass of eight tokens, replayed; what follows encodes the answer.
        assert_eq!(passes[passes.len() - 2], expected);
    }
}

/// Questions to `generating` of several lengths, some of them drawn with noise.
fn conversations() -> (Model, Vec<InferRequest>, Vec<Vec<u8>>) {
    let model = generating();
    let batch: Vec<_> = (0..5).map(|i| engine_ask(&[3, 1, 2, 7][..1 + i % 4], 10 - i as u32, 0.5 * i as f32)).collect();
    let want = batch.iter().map(|request| model.interpret(request).expect("a run").output).collect();
    (model, batch, want)
}

/// On a real device buffers are kept and used again at once; those of a recording are its own.
#[test]
fn buffers_that_are_used_again_change_nothing() {
    let (model, batch, want) = conversations();
    let open = || {
        let mut device = Emulated::new(3);
        device.exact = false;
        Ok(Box::new(device) as Box<dyn Driver>)
    };
    let loaded = LoadedModel::load_on(model, &Worker::start("kept", open).expect("the emulation")).expect("loads");
    for _ in 0..2 {
        for (answer, want) in loaded.infer(&batch).into_iter().zip(&want) {
            assert_eq!(&answer.expect("an answer"), want);
        }
        // One at a time: recordings come and go.
        for (request, want) in batch.iter().zip(&want) {
            assert_eq!(loaded.infer(std::slice::from_ref(request))[0].as_ref().expect("an answer"), want);
        }
    }
}

/// A recording has memory of its own. Where there is none left, passes go on without.
#[test]
fn no_room_for_a_recording_is_no_error() {
    let (model, batch, want) = conversations();
    let (memory, unrecorded) = (Arc::new(AtomicUsize::new(1 << 30)), Arc::new(AtomicUsize::new(0)));
    let open = {
        let (memory, unrecorded) = (memory.clone(), unrecorded.clone());
        move || {
            let mut device = Emulated::new(4);
            (device.memory, device.unrecorded) = (memory.clone(), unrecorded.clone());
            Ok(Box::new(device) as Box<dyn Driver>)
        }
    };
    let worker = Worker::start("full", open).expect("the emulation");
    let loaded = LoadedModel::load_on(model, &worker).expect("loads");
    // Less and less room: all is well, then recordings find none, then nothing does.
    let used = (1 << 30) - usize::try_from(worker.free_memory().expect("an answer")).expect("a size");
    let mut answered_without = 0;
    for room in (1..64).rev().map(|step| step << 12) {
        memory.store(used + room, Ordering::SeqCst);
        let before = unrecorded.load(Ordering::SeqCst);
        match &loaded.infer(&batch[..1])[0] {
            Ok(answer) => {
                assert_eq!(answer, &want[0]);
                answered_without += usize::from(unrecorded.load(Ordering::SeqCst) > before);
            }
            Err(error) => {
                assert!(matches!(error, InferError::OutOfMemory { .. }), "{error}");
                break;
            }
        }
    }
    assert!(answered_without > 0);
}

/// Asking for a GPU where there is none is an error that says what to do; nothing falls back to the CPU.
#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let Err(error) = LoadedModel::load(small(), Device::Cuda(63)) else { panic!("there is no GPU 63") };
    let text = error.to_string();
    assert!(text.contains("cuda:63") && text.contains("device = \"cpu\""), "{text}");
    if !cfg!(feature = "cuda") {
        assert!(text.contains("built without CUDA") && text.contains("--features cuda"), "{text}");
    }
    for (text, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
        assert_eq!(text.parse(), Ok(device));
    }
    for text in ["", "gpu", "cuda:", "cuda:x", "CPU"] {
        let problem = text.parse::<Device>().expect_err("no device");
        assert!(problem.contains("cuda:"), "{problem}");
    }
}

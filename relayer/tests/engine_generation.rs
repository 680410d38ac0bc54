//! Small models of every family the graph can express, and generation: tokens made row by row with kept keys and values,
//! by any chunks of the prompt, alone or in company, against the interpreter and against one pass over the sequence.

mod engine_common;
#[path = "../../sdk/tests/program/models.rs"]
#[allow(dead_code)] // the sdk's own tests use all of it
mod models;

use candor_relayer::engine::{InferError, InferRequest};
use candor_sdk::program::{
    BinaryFunction, Dim, EncodeKind, Interpreter, Limits, Model, Op, ProgramBuilder, TraceBuilder, WeightTensor,
};
use engine_common::devices::{everywhere, load};
use engine_common::{Random, pool};
use models::{Numbers, VOCABULARY, ask, ask_sampled, ask_tokens, causal};

/// Answers, and every tensor of the trace, on every path.
fn compare(model: &Model, request: &InferRequest, what: &str) {
    let want = model.interpret(request).expect("a run");
    let mut reference = TraceBuilder::default();
    want.tensors.iter().for_each(|tensor| reference.push(tensor));
    let root = reference.finish(want.symbols).root();
    for (device, loaded) in everywhere(model) {
        let what = format!("{what}, {device}");
        let answers = loaded.infer(std::slice::from_ref(request));
        assert!(answers[0].as_ref().expect("an answer") == &want.output, "{what}");
        let visit = |node: u32, tensor: &_| {
            let description = &model.program.nodes[node as usize];
            assert_eq!(tensor, &want.tensors[node as usize], "{what}: node {node} {}", description.op.name());
        };
        assert_eq!(loaded.trace(request, visit).expect("a trace").root(), root, "{what}");
        assert_eq!(loaded.commit(request).expect("a trace").root(), root, "{what}");
        assert_eq!(loaded.generate(request).expect("tokens"), want.generated, "{what}");
    }
}

#[test]
fn every_family() {
    for (name, model, request) in models::all() {
        compare(&model, &request, name);
    }
    let quantised = models::quantised();
    for text in ["a", "Candor", "forty bytes of text, not one byte more.."] {
        compare(&quantised, &ask(text.as_bytes().to_vec()), text);
    }
    let bert = models::bert();
    for length in [1, 2, 16] {
        compare(&bert, &ask(models::u32_be(&(0..length).map(|i| i * 11 % 30).collect::<Vec<_>>())), "bert");
    }
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|i| (i * 7 + 3) % VOCABULARY).collect()
}

#[test]
fn decoding_is_one_pass_across_block_boundaries() {
    let model = causal();
    for (length, max_tokens, temperature, min_p) in [
        (1, 10, 1.5, 0.0),
        (2, 1, 0.0, 0.0),
        (126, 4, 0.9, 0.1),
        (127, 2, 0.0, 0.0),
        (128, 2, 1.5, 0.0),
        (129, 2, 0.9, 0.0),
    ] {
        let request = ask_sampled(&prompt(length), max_tokens, temperature, min_p, length as u8);
        compare(&model, &request, &format!("{length} tokens at temperature {temperature}"));
    }
}

#[test]
fn neither_chunks_nor_threads_nor_company_change_a_token() {
    let model = causal();
    let mut r = Random(3);
    let requests: Vec<InferRequest> = (0..36)
        .map(|i| {
            let length = [1, 2, 5, 9, 17, 47, 48, 49, 127, 128][r.below(10)];
            ask_sampled(
                &prompt(length),
                1 + r.below(if length < 20 { 10 } else { 2 }) as u32,
                [0.0, 1.0, 4.0][r.below(3)],
                0.0,
                i,
            )
        })
        .collect();
    let want: Vec<_> = requests.iter().map(|request| model.interpret(request).expect("a run")).collect();
    for (chunk, threads) in [(1, 1), (3, 2), (64, 4), (127, 1), (128, 8), (1000, 2)] {
        let loaded = load(&model).with_prefill(chunk);
        assert!(loaded.generates_by_rows());
        pool(threads).install(|| {
            let mut batch = requests.clone();
            batch[7].input.pop();
            let answers = loaded.infer(&batch);
            for (i, (answer, want)) in answers.into_iter().zip(&want).enumerate() {
                match answer {
                    Ok(output) => assert_eq!(output, want.output, "request {i}, chunks of {chunk}"),
                    Err(error) => assert!(i == 7 && matches!(error, InferError::Request(_)), "{i}: {error}"),
                }
            }
            for i in [0, 11, 23] {
                assert_eq!(loaded.generate(&requests[i]).expect("tokens"), want[i].generated, "chunks of {chunk}");
            }
        });
    }
}

#[test]
fn claims_are_checked_in_one_pass() {
    let model = causal();
    let loaded = load(&model);
    let interpreter = Interpreter::new(&model);
    let request = ask_sampled(&prompt(5), 6, 2.0, 0.0, 1);
    let honest = loaded.generate(&request).expect("tokens");
    for position in 0..honest.len() {
        let mut claim = honest.clone();
        claim[position] = (claim[position] + 1) % VOCABULARY;
        let want = interpreter.replay(&request, &claim).expect("a run");
        let visit = |node: u32, tensor: &_| assert_eq!(tensor, &want.tensors[node as usize]);
        let (_, failed) = loaded.replay(&request, &claim, visit).expect("a run");
        assert_eq!(failed, want.failed_check);
        assert_eq!(failed.map(|failed| failed.row), Some(position as u32));
    }
    for claim in [vec![], vec![1; 11], vec![VOCABULARY]] {
        assert!(loaded.replay(&request, &claim, |_, _| {}).is_err(), "{claim:?}");
    }
}

/// A causal model with learned positions, layer norms, a window of the last token in a view, quantised layers, a second
/// output of the probabilities, and attention of `heads` with `group` queries per key.
fn other_causal(seed: u64, heads: u32, group: u32, width: u32, quantised: bool) -> Model {
    let dim = heads * width;
    let mut n = Numbers::new(seed);
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(VOCABULARY);
    let context = b.context(tokens);
    let embedding =
        if quantised { n.tensor_q8_128("words", VOCABULARY, dim) } else { n.tensor_bf16("words", VOCABULARY, dim) };
    let (embedding, positions) = (b.weight(embedding), b.weight(n.tensor("positions", 200, dim)));
    let x = b.gather(context, embedding);
    let positions = b.slice_rows(positions, Dim::of(2), Dim::S - Dim::ONE);
    let mut x = b.add(x, positions);
    for _ in 0..2 {
        let gain = b.weight(n.tensor("gain", 1, dim));
        let gain = b.unary(candor_sdk::program::UnaryFunction::Tanh, gain);
        let shift = b.weight(n.tensor("shift", 1, dim));
        let h = b.layer_norm(x, gain, shift, 1e-5);
        let mut linear = |b: &mut ProgramBuilder, x, to: u32| {
            let w = if quantised { n.tensor_q8_0("w", to, dim) } else { n.tensor("w", to, dim) };
            let (w, bias) = (b.weight(w), b.weight(n.tensor("bias", 1, to)));
            b.linear(x, w, Some(bias))
        };
        let all = linear(&mut b, h, dim + 2 * dim / group);
        let q = b.slice_cols(all, 0, dim);
        let k = b.slice_cols(all, dim, dim / group);
        let v = b.slice_cols(all, dim + dim / group, dim / group);
        // Norms of each head, as in Qwen3: rows are split and joined.
        let split = b.split_rows(q, width);
        let ones = b.row("ones", &vec![1.0; width as usize]);
        let split = b.rms_norm(split, ones, 1e-6);
        let q = b.join_rows(split, Dim::S - Dim::ONE, heads);
        let shape = candor_sdk::program::Attention {
            heads,
            kv_heads: heads / group,
            head_dim: width,
            scale: 0.25,
            causal: true,
        };
        let mixed = b.attention(q, k, v, shape);
        let mixed = linear(&mut b, mixed, dim);
        x = b.add(x, mixed);
    }
    let half = b.constant(0.5);
    let mask = b.binary(BinaryFunction::Less, x, half);
    let x = b.select(mask, x, half);
    let x = b.predicting_rows(x);
    let head = b.weight(n.tensor("head", VOCABULARY, dim));
    let logits = b.linear(x, head, None);
    let generated = b.generate(tokens, logits, &[0, 5]);
    let probabilities = b.softmax(logits);
    b.output_text(generated);
    b.output(EncodeKind::F32Be, probabilities);
    b.output(EncodeKind::U32Be, generated);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 4 * 180, max_output_bytes: 4096, max_tokens: 10 };
    let vocabulary = (0..VOCABULARY).map(|id| vec![id as u8; (id % 4) as usize]).collect();
    b.finish(limits, vocabulary).expect("a valid model")
}

#[test]
fn other_causal_graphs() {
    for (seed, heads, group, width, quantised) in
        [(1, 1, 1, 32, false), (2, 4, 4, 16, false), (3, 6, 2, 16, true), (4, 2, 1, 64, true), (5, 3, 1, 20, false)]
    {
        let model = other_causal(seed, heads, group, width, quantised);
        let loaded = load(&model);
        assert!(loaded.generates_by_rows(), "seed {seed}");
        for (length, max_tokens, temperature) in [(1, 6, 0.0), (3, 6, 3.0), (127, 3, 2.0)] {
            if length > 100 && seed % 2 == 1 {
                continue; // the interpreter takes its time
            }
            let request = ask_sampled(&prompt(length), max_tokens, temperature, 0.0, seed as u8);
            compare(&model, &request, &format!("seed {seed}, {length} tokens"));
            let want = model.interpret(&request).expect("a run");
            for chunk in [1, 2, 50] {
                let loaded = load(&model).with_prefill(chunk);
                assert_eq!(loaded.infer(std::slice::from_ref(&request))[0].as_ref().expect("an answer"), &want.output);
            }
        }
    }
}

/// Mixes rows in a way that no rule covers: a causal mix with weights that are no softmax.
#[test]
fn a_graph_that_cannot_be_run_by_rows_is_run_whole() {
    let mut n = Numbers::new(9);
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(VOCABULARY);
    let context = b.context(tokens);
    let embedding = b.weight(n.tensor("words", VOCABULARY, 8));
    let x = b.gather(context, embedding);
    let rows = Dim::S - Dim::ONE;
    let op = Op::AttentionScores { heads: 1, group: 1, scale: 1f32.to_bits(), causal: true };
    let scores = b.node(op, &[x, x], candor_sdk::program::DType::F32, rows, rows);
    let values = b.transpose(x);
    let op = Op::AttentionMix { heads: 1, group: 1, causal: true };
    let x = b.node(op, &[scores, values], candor_sdk::program::DType::F32, rows, 8);
    let x = b.predicting_rows(x);
    let logits = b.linear(x, embedding, None);
    let generated = b.generate(tokens, logits, &[]);
    b.output(EncodeKind::U32Be, generated);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 40, max_output_bytes: 40, max_tokens: 10 };
    let model = b.finish(limits, vec![]).expect("a valid model");
    assert!(!load(&model).generates_by_rows());
    compare(&model, &ask_tokens(&[1, 2, 3], 5), "greedy");
    compare(&model, &ask_sampled(&[4], 7, 2.0, 0.0, 3), "sampled");
}

/// Where logits are NaN, infinite and equal, everybody chooses the same token.
#[test]
fn adversarial_weights() {
    let mut r = Random(21);
    for seed in 0..3 {
        let mut model = causal();
        let special = |r: &mut Random| match r.below(40) {
            0 => r.edge(),
            1 => r.finite_edge(),
            _ => r.ordinary(),
        };
        let tensors: Vec<WeightTensor> = model
            .weights
            .tensors()
            .iter()
            .map(|tensor| {
                let shape = (tensor.rows() as u32, tensor.cols() as u32);
                let values = r.vector(tensor.rows() * tensor.cols(), special);
                WeightTensor::from_f32(tensor.name(), shape, &values).expect("a tensor")
            })
            .collect();
        model.weights = tensors.into_iter().collect();
        compare(&model, &ask_tokens(&prompt(9), 4), "greedy");
        compare(&model, &ask_sampled(&prompt(130), 1, 1.0, 0.01, seed), "sampled");
        compare(&other_causal(77 + u64::from(seed), 2, 1, 32, seed == 1), &ask_tokens(&prompt(4), 3), "greedy");
    }
}

/// A graph that looks ahead is not causal: its own answer does not pass its own check, and it is refused, not served.
#[test]
fn a_graph_that_looks_ahead_is_refused() {
    let mut n = Numbers::new(10);
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(VOCABULARY);
    let context = b.context(tokens);
    let embedding = b.weight(n.tensor("words", VOCABULARY, 16));
    let x = b.gather(context, embedding);
    let mean = b.column_mean(x);
    let factor = b.constant(8.0);
    let x = b.mul_add(mean, factor, x);
    let x = b.predicting_rows(x);
    let w = b.weight(n.tensor("w", VOCABULARY, 16));
    let logits = b.linear(x, w, None);
    let generated = b.generate(tokens, logits, &[]);
    b.output(EncodeKind::U32Be, generated);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 40, max_output_bytes: 40, max_tokens: 10 };
    let model = b.finish(limits, vec![]).expect("a valid model");
    let loaded = load(&model);
    assert!(!loaded.generates_by_rows());
    let mut refused = 0;
    for seed in 0..8 {
        let request = ask_sampled(&[u32::from(seed), 2, 3], 8, 0.05, 0.0, seed);
        let (want, got) = (model.interpret(&request), loaded.infer(std::slice::from_ref(&request)).remove(0));
        match (want, got) {
            (Ok(want), Ok(got)) => assert_eq!(got, want.output),
            (Err(_), Err(InferError::Model(_))) => refused += 1,
            (want, got) => panic!("{want:?} {got:?}"),
        }
    }
    assert!(refused > 0);
}

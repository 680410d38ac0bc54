//! Generating programs: the answer is the same whether tokens are produced one by one or the whole sequence is checked
//! at once, and a false sequence never passes.

use candor_sdk::{
    arithmetic::sampling::sample,
    program::{DType, Interpreter, Model, Op, Operand, Request, RequestError, Run, RunError, Tensor},
};

use crate::models::{VOCABULARY, ask_sampled, ask_tokens, causal, find};

/// Rows of `long` that `short` must agree with: those of nodes with one row (or one per head) for each position.
fn assert_prefix(model: &Model, short: &Run, long: &Run) {
    let mut compared = 0;
    for (index, (a, b)) in short.tensors.iter().zip(&long.tensors).enumerate() {
        let node = &model.program.nodes[index];
        // Transposed values grow to the right, everything else on the way to the logits grows downwards.
        let per_position = node.rows.s != 0 && node.dtype == DType::F32;
        let transposed = node.cols.s != 0 && node.rows.s == 0 && node.dtype == DType::F32;
        if !per_position && !transposed {
            continue;
        }
        compared += 1;
        for r in 0..a.rows() {
            for c in 0..a.cols() {
                assert_eq!(a.bits(r, c), b.bits(r, c), "node {index} {} at [{r}, {c}]", node.op.name());
            }
        }
    }
    assert!(compared > 40, "only {compared} nodes compared");
}

#[test]
fn one_pass_equals_step_by_step() {
    let model = causal();
    let interpreter = Interpreter::new(&model);
    // A prompt that crosses a block boundary of the attention mix, and short ones.
    let long: Vec<u32> = (0..126).map(|i| i * 7 % VOCABULARY).collect();
    let requests = [ask_tokens(&[3, 1, 20], 5), ask_sampled(&[5], 8, 1.5, 0.0, 3), ask_sampled(&long, 4, 0.9, 0.1, 11)];
    for request in requests {
        let whole = interpreter.run(&request).expect("an answer");
        assert_eq!(whole.failed_check, None);
        assert!(!whole.generated.is_empty());
        // Every shorter sequence is a run of its own; what it computed stands unchanged in the longest one.
        for n in 1..whole.generated.len() {
            let part = interpreter.replay(&request, &whole.generated[..n]).expect("a run");
            assert_prefix(&model, &part, &whole);
            let samples = find(&model, |op| matches!(op, Op::Argmax));
            let (a, b) = (&part.tensors[samples], &whole.tensors[samples]);
            assert_eq!(a.u32().expect("ids"), &b.u32().expect("ids")[..n]);
        }
    }
}

#[test]
fn tokens_are_sampled_by_the_arithmetic() {
    let model = causal();
    let logits = find(&model, |op| matches!(op, Op::Perturb));
    let Operand::Node(logits) = model.program.nodes[logits].inputs[0] else { panic!("logits are a node") };
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..12 {
        for (temperature, min_p) in [(0.0, 0.0), (0.7, 0.0), (2.0, 0.5), (10.0, 0.0)] {
            let request = ask_sampled(&[3, 1, 20], 6, temperature, min_p, seed);
            let run = model.interpret(&request).expect("an answer");
            let rows = run.tensors[logits as usize].f32().expect("logits").chunks(VOCABULARY as usize);
            for (step, (row, token)) in rows.zip(&run.generated).enumerate() {
                let expected = sample(row, temperature, min_p, &request.seed, step as u32);
                assert_eq!(expected, Some(*token as usize), "seed {seed} temperature {temperature} step {step}");
            }
            seen.insert(run.generated);
        }
    }
    assert!(seen.len() > 10, "seeds and temperatures matter: {} different answers", seen.len());
}

/// A sampled request whose answer is ended by the stop token before the limit.
fn stopped(model: &Model) -> (Request, Run) {
    (0..=255)
        .map(|seed| ask_sampled(&[3, 1, 20], 10, 8.0, 0.0, seed))
        .map(|request| (request.clone(), model.interpret(&request).expect("an answer")))
        .find(|(_, run)| (2..10).contains(&run.generated.len()))
        .expect("some seed draws the stop token early")
}

#[test]
fn generation_ends_at_a_stop_token_or_at_the_limit() {
    let model = causal();
    let (_, run) = stopped(&model);
    assert_eq!(run.generated.last(), Some(&0));
    assert_eq!(run.generated.iter().filter(|&&token| token == 0).count(), 1);

    let greedy = model.interpret(&ask_tokens(&[3, 1, 20], 4)).expect("an answer");
    assert_eq!(greedy.generated.len(), 4, "no stop token in this greedy answer");
    assert!(!greedy.generated.contains(&0));
    // The model's own limit holds whatever is asked.
    let most = model.interpret(&ask_tokens(&[3, 1, 20], u32::MAX)).expect("an answer");
    assert!(most.generated.len() <= model.limits.max_tokens as usize);
    assert_eq!(most.generated[..4], greedy.generated[..4]);
}

#[test]
fn text_is_the_entries_one_after_the_other() {
    let model = causal();
    for seed in 0..20 {
        let run = model.interpret(&ask_sampled(&[2, 2], 7, 4.0, 0.0, seed)).expect("an answer");
        let text: Vec<u8> = run.generated.iter().flat_map(|&id| model.vocabulary[id as usize].clone()).collect();
        let ids: Vec<u8> = run.generated.iter().flat_map(|id| id.to_be_bytes()).collect();
        assert_eq!(run.output, [text.clone(), ids].concat());
        assert_eq!(run.symbols.output_bytes as usize, text.len());
    }
    // An answer of nothing but empty entries is empty text. Token 0 has an empty entry and ends the answer.
    let empty = (0..=255).map(|seed| model.interpret(&ask_sampled(&[2], 9, 30.0, 0.0, seed)).expect("an answer"));
    let empty = empty.into_iter().find(|run| run.generated == [0]).expect("some seed draws the stop token at once");
    assert_eq!(empty.output, [0; 4]);
    assert_eq!(empty.symbols.output_bytes, 0);
}

#[test]
fn a_false_sequence_fails_its_check() {
    let model = causal();
    let interpreter = Interpreter::new(&model);
    let check = model.program.generation().expect("the model generates").check;
    let row = |request: &Request, claim: &[u32]| {
        let run = interpreter.replay(request, claim).expect("a run");
        run.failed_check.map(|failed| {
            assert_eq!(failed.node, check);
            failed.row
        })
    };
    let (request, run) = stopped(&model);
    let honest = run.generated;
    assert_eq!(row(&request, &honest), None);
    for position in 0..honest.len() {
        let mut claim = honest.clone();
        claim[position] = (claim[position] + 1) % VOCABULARY;
        // What follows a wrong token was sampled for another sequence; the first wrong one is the one that counts.
        assert_eq!(row(&request, &claim), Some(position as u32), "token {position}");
        // Ended too early, before a stop token or the limit.
        if position > 0 {
            assert_eq!(row(&request, &honest[..position]), Some(position as u32 - 1), "cut after {position}");
        }
    }
    // Continued after the stop token.
    let continued = [honest.as_slice(), &[5]].concat();
    assert_eq!(row(&request, &continued), Some(honest.len() as u32 - 1));

    let is_claim = |claim: &[u32]| matches!(interpreter.replay(&request, claim), Err(RunError::Claim(_)));
    assert!(is_claim(&[]), "at least one token");
    assert!(is_claim(&[1; 11]), "more than were asked for");
    let unknown = interpreter.replay(&request, &[VOCABULARY]).expect_err("no such token");
    assert!(matches!(unknown, RunError::Request(RequestError::TokenOutOfRange { .. })), "{unknown}");
}

#[test]
fn a_program_that_peeks_is_found_out() {
    // Let attention see the future: then a token changes what it was sampled from.
    let mut model = causal();
    for node in &mut model.program.nodes {
        match &mut node.op {
            Op::AttentionScores { causal, .. } | Op::AttentionMix { causal, .. } => *causal = false,
            Op::RowSum { causal } | Op::RowMax { causal } | Op::Binary { causal, .. } => *causal = 0,
            _ => {}
        }
    }
    model.validate().expect("well formed all the same");
    let found = (0..40).any(|seed| {
        let error = model.interpret(&ask_sampled(&[3, 1, 20], 6, 3.0, 0.0, seed));
        error.is_err_and(|error| error.to_string().contains("not causal"))
    });
    assert!(found, "one of forty answers contradicts itself");
}

#[test]
fn walking_gives_the_same_tensors_in_less_memory() {
    let model = causal();
    let request = ask_tokens(&[3; 40], 5);
    let run = model.interpret(&request).expect("an answer");
    let interpreter = Interpreter::new(&model);
    let mut walked: Vec<Tensor> = Vec::new();
    let result = interpreter.walk(&request, &run.generated, |_, tensor| walked.push(tensor.clone()));
    assert_eq!(result, Ok((run.symbols, None)));
    assert_eq!(walked, run.tensors);

    let error = interpreter.with_memory_limit(10_000).run(&request).expect_err("10 kB are too few");
    assert!(matches!(error, RunError::Memory { limit: 10_000, .. }), "{error}");
    let total: u64 = walked.iter().map(|t| (t.rows() * t.cols() * t.dtype().size()) as u64).sum();
    interpreter.with_memory_limit(total / 2).run(&request).expect("tensors are dropped after their last use");
}

//! What validation refuses, and what requests are told.

use candor_sdk::program::{
    BinaryFunction, DType, Dim, EncodeKind, InputKind, Limits, MAX_PARTIALS, Model, ModelError, Node, Op, Operand,
    ProgramBuilder, Request, RequestError, RunError, View, WeightTensor, WeightType,
};

use crate::models::{ask, ask_sampled, ask_tokens, bert, causal, cnn, f32_be, features, find, fixed, mlp, quantised};

/// A model, the operation whose first node is changed, and the field for which that node is refused.
type Case = (fn() -> Model, &'static str, &'static str, fn(&mut Node));

const CASES: &[Case] = &[
    // Order and operands
    (mlp, "Linear", "inputs[0]", |n| n.inputs[0] = Operand::Node(1)), // itself
    (mlp, "Linear", "inputs[0]", |n| n.inputs[0] = Operand::Node(2)), // a later one
    (mlp, "Linear", "inputs[0]", |n| n.inputs[0] = Operand::Node(u32::MAX)),
    (mlp, "Linear", "inputs[1]", |n| n.inputs[1] = Operand::Weight(99)),
    (mlp, "Linear", "inputs", |n| n.inputs.truncate(1)),
    (mlp, "Linear", "inputs", |n| n.inputs.extend([Operand::Node(0); 16])),
    (mlp, "Linear", "inputs[1]", |n| n.inputs[1] = Operand::Node(0)),
    (mlp, "Linear", "inputs[2]", |n| n.inputs[2] = Operand::Constant(0)),
    (mlp, "Unary", "inputs", |n| n.inputs.clear()),
    (features, "Binary", "inputs[1]", |n| n.inputs[1] = Operand::Constant(0x7fc0_0001)),
    // Shapes and types
    (mlp, "Linear", "rows", |n| n.rows = Dim::of(2)),
    (mlp, "Linear", "cols", |n| n.cols = Dim::of(4)),
    (mlp, "Linear", "cols", |n| n.cols = Dim::ZERO),
    (mlp, "Linear", "rows", |n| n.rows = Dim::of(-1)),
    (mlp, "Linear", "rows", |n| n.rows = Dim { b: i32::MAX, ..Dim::ZERO }),
    (mlp, "Unary", "rows", |n| (n.rows, n.cols) = (Dim::of(1 << 20), Dim::of(1 << 20))),
    (mlp, "Linear", "dtype", |n| n.dtype = DType::U32),
    (mlp, "Argmax", "dtype", |n| n.dtype = DType::F32),
    (mlp, "Binary", "inputs[0]", |n| n.cols = Dim::of(2)),
    (features, "Concat", "cols", |n| n.cols = Dim::of(8)),
    (mlp, "Encode", "cols", |n| n.cols = Dim::of(5)),
    (mlp, "Encode", "inputs[0]", |n| n.op = Op::Encode(EncodeKind::F32Be)),
    // Input
    (mlp, "Input", "bound", |n| n.op = Op::Input { kind: InputKind::F32Be, bound: 3 }),
    (mlp, "Input", "rows", |n| n.rows = Dim::of(3)),
    (causal, "Input", "bound", |n| n.op = Op::Input { kind: InputKind::Tokens, bound: 0 }),
    (causal, "Input", "rows", |n| n.rows = Dim::P),
    (causal, "Gather", "inputs[0]", |n| n.inputs[0] = Operand::Constant(0)),
    // Views
    (cnn, "View", "row_digits", |n| view(n).row_digits[0] = Dim::of(9)),
    (cnn, "View", "row_digits", |n| view(n).row_digits[0] = Dim::ZERO),
    (cnn, "View", "col_digits", |n| view(n).col_digits.push(Dim::of(2))),
    (cnn, "View", "digits", |n| view(n).col_digits.extend([Dim::ONE; 8])),
    (cnn, "View", "steps", |n| view(n).axes[0].steps.truncate(2)),
    (cnn, "View", "steps", |n| view(n).axes[0].steps[1] = i32::MIN),
    (cnn, "View", "axes", |n| view(n).axes[1].size = Dim::of(9)),
    (cnn, "View", "size", |n| view(n).axes[1].size = Dim::ZERO),
    (cnn, "View", "weight", |n| view(n).axes[1].col_weight = Dim::of(-8)),
    (cnn, "View", "offset", |n| view(n).axes[1].offset = Dim { b: i32::MIN, ..Dim::ZERO }),
    (cnn, "View", "fill", |n| view(n).fill = 0xffc0_0000),
    (cnn, "View", "axes", |n| {
        let axis = view(n).axes[0].clone();
        view(n).axes.extend(vec![axis; 8]);
    }),
    // Attention, rotation, quantisation
    (causal, "AttentionScores", "heads", |n| scores(n, |heads, _, _| *heads = 0)),
    (causal, "AttentionScores", "group", |n| scores(n, |_, group, _| *group = 3)),
    (causal, "AttentionScores", "group", |n| scores(n, |_, group, _| *group = 0)),
    (causal, "AttentionScores", "inputs[0]", |n| scores(n, |heads, group, _| (*heads, *group) = (3, 1))),
    (causal, "AttentionScores", "inputs[1]", |n| scores(n, |_, group, _| *group = 4)),
    (causal, "AttentionScores", "scale", |n| scores(n, |_, _, scale| *scale = 0x7f80_0001)),
    (causal, "AttentionMix", "causal", |n| n.inputs[0] = n.inputs[1]),
    (causal, "Rope", "rotary", |n| n.op = Op::Rope { head_dim: 4, rotary: 3 }),
    (causal, "Rope", "rotary", |n| n.op = Op::Rope { head_dim: 4, rotary: 6 }),
    (causal, "Rope", "head_dim", |n| n.op = Op::Rope { head_dim: 5, rotary: 4 }),
    (causal, "Rope", "head_dim", |n| n.op = Op::Rope { head_dim: 0x8000_0001, rotary: 4 }),
    (causal, "Rope", "inputs[1]", |n| n.inputs[1] = Operand::Weight(0)),
    (quantised, "QuantLinear", "inputs[1]", |n| n.inputs[1] = Operand::Constant(0)),
    (quantised, "QuantLinear", "inputs[2]", |n| n.inputs[2] = Operand::Weight(2)),
    (quantised, "BlockAbsMax", "block", |n| n.op = Op::BlockAbsMax { block: 64 }),
    (quantised, "Quantise", "inputs[1]", |n| n.op = Op::Quantise { block: 128 }),
    (features, "Take", "inputs[1]", |n| n.inputs[1] = Operand::Weight(1)),
    // Generation
    (causal, "CheckGenerated", "inputs[0]", |n| n.inputs[0] = n.inputs[1]),
    (causal, "CheckGenerated", "stop", |n| n.op = Op::CheckGenerated { stop: vec![3, 3] }),
    (causal, "CheckGenerated", "stop", |n| n.op = Op::CheckGenerated { stop: (0..65).collect() }),
    (causal, "CheckLength", "inputs", |n| n.inputs[0] = Operand::Node(0)),
    (causal, "Detokenise", "inputs[0]", |n| n.inputs[0] = Operand::Constant(0)),
    (causal, "Detokenise", "cols", |n| n.cols = Dim::S),
    (causal, "PrefixSum", "inputs[0]", |n| n.inputs[0] = Operand::Constant(0)),
];

fn view(node: &mut Node) -> &mut View {
    match &mut node.op {
        Op::View(view) => view,
        other => panic!("{} is not a view", other.name()),
    }
}

fn scores(node: &mut Node, change: impl FnOnce(&mut u32, &mut u32, &mut u32)) {
    match &mut node.op {
        Op::AttentionScores { heads, group, scale, .. } => change(heads, group, scale),
        other => panic!("{} is not AttentionScores", other.name()),
    }
}

#[test]
fn malformed_nodes_are_refused_by_name() {
    for (number, (model, op, field, change)) in CASES.iter().enumerate() {
        let mut model = model();
        let index = find(&model, |candidate| candidate.name() == *op);
        change(&mut model.program.nodes[index]);
        match model.validate() {
            Err(ModelError::Node { node, op: found, field: at, problem, .. }) => {
                assert_eq!((node as usize, found, at), (index, *op, *field), "case {number}: {problem}");
            }
            other => panic!("case {number} ({op}, {field}): {other:?}"),
        }
    }
}

#[test]
fn messages_name_node_label_and_field() {
    let mut model = mlp();
    model.program.nodes[1].cols = Dim::of(4);
    let error = model.validate().expect_err("a wrong shape");
    assert_eq!(error.to_string(), "node 1 (Linear fc1): cols: 4, the operation gives 5");
}

#[test]
fn malformed_graphs_are_refused() {
    let refused = |change: fn(&mut Model), expected: &str| {
        let mut model = causal();
        change(&mut model);
        let error = model.validate().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error} does not contain {expected}");
    };
    refused(|m| m.program.nodes.clear(), "no nodes");
    refused(|m| m.program.nodes[0].op = Op::Convert, "node 0 and only node 0 is the input");
    refused(|m| m.program.nodes[1] = m.program.nodes[0].clone(), "node 0 and only node 0 is the input");
    refused(|m| m.program.nodes.truncate(20), "the last node is the output");
    refused(
        |m| {
            let node = m.program.nodes[0].clone();
            m.program.nodes.resize((1 << 16) + 1, node);
        },
        "65537 nodes",
    );
    // A text whose length nothing checks, and a check of nothing.
    refused(|m| replace(m, "CheckLength", Op::PrefixSum), "Detokenise and CheckLength come together");
    refused(|m| replace(m, "Detokenise", Op::PrefixSum), "Detokenise and CheckLength come together");
    refused(|m| m.program.nodes[3].rows = Dim::O, "depends on O before O is checked");
    // Token ids beyond the table they are looked up in.
    refused(
        |m| m.program.nodes[0].op = Op::Input { kind: InputKind::Tokens, bound: 25 },
        "(Gather): inputs[0]: indices below Some(25) into 24 rows",
    );
    // A generation that nothing checks.
    refused(|m| replace(m, "CheckGenerated", Op::Convert), "limits: max_tokens");
    // Limits
    refused(|m| m.limits.max_tokens = 0, "limits: max_tokens");
    refused(|m| m.limits.min_input_bytes = 0, "limits: min_input_bytes");
    refused(|m| m.limits.min_input_bytes = 600, "limits: min_input_bytes");
    refused(|m| m.limits.min_input_bytes = 5, "token ids are four bytes each");
    refused(
        |m| m.limits.max_output_bytes = 59,
        "limits: max_output_bytes: the output can be 60 bytes long, the limit is 59",
    );
    refused(|m| m.limits.max_output_bytes = u32::MAX, "limits go from 1");
    refused(|m| m.limits.max_input_bytes = 4 * 145, "Rope layer.0): inputs[1]: 150 positions for a sequence of 154");
    // The vocabulary has to have every token.
    refused(|m| m.vocabulary.truncate(23), "tokens below Some(24) in a vocabulary of 23");
    refused(|m| m.vocabulary[3] = vec![0; 4097], "vocabulary: entry 3 has 4097 bytes; at most 4096");

    let error = Model { limits: fixed(64, 19), ..cnn() }.validate().expect_err("the output does not fit");
    assert_eq!(error.to_string(), "limits: max_output_bytes: the output can be 20 bytes long, the limit is 19");
    let error = Model { limits: fixed(63, 20), ..cnn() }.validate().expect_err("the input does not fill the image");
    assert!(error.to_string().contains("takes 64 bytes, the limits allow 63"), "{error}");
}

fn replace(model: &mut Model, name: &str, op: Op) {
    let index = find(model, |candidate| candidate.name() == name);
    model.program.nodes[index].op = op;
}

#[test]
fn steps_that_would_not_fit_are_refused() {
    // Contractions and rows with more partials than an operator could reveal. One byte of weights per element keeps
    // the tensors small; the graph reads them as a table of a single wide row.
    let wide = |columns: usize, reduce: fn(&mut ProgramBuilder, candor_sdk::program::Value)| {
        let mut b = ProgramBuilder::new();
        b.input(InputKind::U8, 1, 1);
        let x = b.full(1.0, 1, columns as u32);
        reduce(&mut b, x);
        let done = b.full(1.0, 1, 1);
        b.output(EncodeKind::F32Be, done);
        b.finish(fixed(1, 4), vec![]).map(drop)
    };
    let contract: fn(&mut ProgramBuilder, candor_sdk::program::Value) = |b, x| {
        b.matmul_transposed(x, x);
    };
    let sum: fn(&mut ProgramBuilder, candor_sdk::program::Value) = |b, x| {
        b.row_sum(x);
    };
    assert_eq!(wide(128 * MAX_PARTIALS, contract), Ok(()));
    let error = wide(128 * MAX_PARTIALS + 1, contract).expect_err("one too many");
    assert!(error.to_string().contains("contraction over 131073"), "{error}");
    assert_eq!(wide(1024 * MAX_PARTIALS, sum), Ok(()));
    let error = wide(1024 * MAX_PARTIALS + 1, sum).expect_err("one too many");
    assert!(error.to_string().contains("rows of 1048577"), "{error}");
}

#[test]
fn malformed_weights_are_refused() {
    let tensor = |shape, dtype, bytes: usize| {
        WeightTensor::new("t", shape, dtype, std::sync::Arc::new(vec![0u8; bytes])).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(tensor((2, 3), WeightType::F16, 12), Ok(()));
    assert_eq!(tensor((2, 3), WeightType::F16, 11), Err("weight t: 2 x 3 F16 takes 12 bytes, not 11".to_string()));
    assert_eq!(tensor((2, 64), WeightType::Q8_0, 136), Ok(()));
    assert!(tensor((2, 65), WeightType::Q8_0, 138).is_err_and(|e| e.contains("whole blocks of 32")));
    assert_eq!(tensor((2, 130), WeightType::Q8_128, 276), Ok(()));
    assert!(tensor((0, 3), WeightType::U8, 0).is_err_and(|e| e.contains("empty or too large")));
    assert!(tensor((u32::MAX, u32::MAX), WeightType::F32, 0).is_err_and(|e| e.contains("empty or too large")));
    assert!(tensor((i32::MAX as u32, i32::MAX as u32), WeightType::F32, 0).is_err_and(|e| e.contains("takes")));
}

#[test]
fn the_builder_reports_the_first_mistake() {
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, 1, 6);
    b.within("block", |b| b.split_rows(x, 4));
    b.output(EncodeKind::F32Be, x);
    let error = b.finish(fixed(24, 24), vec![]).expect_err("6 is not a multiple of 4");
    assert_eq!(error.to_string(), "graph: block: rows of 6 columns do not divide into rows of 4");

    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, 1, 6);
    b.binary(BinaryFunction::Add, x, x);
    assert_eq!(b.finish(fixed(24, 24), vec![]).expect_err("no output").to_string(), "graph: no output");
}

#[test]
fn requests_without_an_answer_are_told_why() {
    let told = |model: &Model, request: &Request| match model.interpret(request) {
        Err(RunError::Request(error)) => error,
        other => panic!("{other:?}"),
    };
    let mlp = mlp();
    assert_eq!(told(&mlp, &ask(vec![0; 15])), RequestError::TooShort { got: 15, min: 16 });
    assert_eq!(told(&mlp, &ask(vec![0; 17])), RequestError::TooLong { got: 17, max: 16 });
    let loose = Model { limits: Limits { max_input_bytes: 20, ..mlp.limits }, ..mlp };
    let error = told(&loose, &ask(f32_be(&[0.0; 5])));
    assert_eq!(error.to_string(), "input of 20 bytes does not fill 1 x 4 f32 numbers: that takes 16");

    let bert = bert();
    assert_eq!(told(&bert, &ask(vec![0; 6])), RequestError::PartialToken { got: 6 });
    let error = told(&bert, &ask([1u32, 30].iter().flat_map(|t| t.to_be_bytes()).collect()));
    assert_eq!(error.to_string(), "token 30 at position 1 is out of range: the vocabulary has 30");

    let text = quantised();
    assert_eq!(told(&text, &ask(b"ab\xff".to_vec())), RequestError::InvalidUtf8 { valid_up_to: 2 });

    let causal = causal();
    assert_eq!(told(&causal, &ask_tokens(&[1], 0)), RequestError::NoTokens);
    for (temperature, min_p, field) in [
        (f32::NAN, 0.0, "temperature"),
        (f32::INFINITY, 0.0, "temperature"),
        (-1.0, 0.0, "temperature"),
        (-0.0, 0.0, "temperature"),
        (1.0, 1.5, "min_p"),
        (1.0, -0.0, "min_p"),
        (1.0, f32::NAN, "min_p"),
    ] {
        match told(&causal, &ask_sampled(&[1], 1, temperature, min_p, 0)) {
            RequestError::Parameter { field: found, .. } => assert_eq!(found, field),
            other => panic!("{other}"),
        }
    }
}

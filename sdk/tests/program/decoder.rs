//! The encoding of nodes: one for each node, and nothing that bytes can do to the decoder or to what comes after it.

use std::sync::LazyLock;

use candor_sdk::program::{
    BinaryFunction, ConcatAxis, DType, Dim, EncodeKind, InputKind, Interpreter, Model, Node, Op, Operand, Program,
    Request, RunError, UnaryFunction, View, ViewAxis,
};
use proptest::{collection::vec, prelude::*};

use crate::models;

#[test]
fn programs_survive_a_round_trip() {
    for (name, model, _) in models::all() {
        let bytes = model.program.encode();
        let decoded = Program::decode(&bytes).expect(name);
        assert_eq!(decoded.encode(), bytes, "{name}");
        let mut plain = model.program.clone();
        plain.nodes.iter_mut().for_each(|node| node.label.clear());
        assert_eq!(decoded, plain, "{name}");
        assert_eq!(decoded.graph_root(), model.program.graph_root(), "labels are not committed to");
    }
}

#[test]
fn a_descriptor_word_by_word() {
    let node = Node {
        op: Op::View(View {
            row_digits: vec![Dim::S],
            col_digits: vec![Dim::of(4)],
            axes: vec![ViewAxis {
                size: Dim::S,
                offset: Dim::P - Dim::ONE,
                steps: vec![1, -2],
                row_weight: Dim::ONE,
                col_weight: Dim::ZERO,
            }],
            fill: 0xff80_0000,
        }),
        inputs: vec![Operand::Weight(7)],
        dtype: DType::F32,
        rows: Dim::S,
        cols: Dim::of(4),
        label: "not encoded".to_string(),
    };
    let bytes = node.encode();
    let words: Vec<String> = bytes.chunks(32).map(|word| word.iter().map(|b| format!("{b:02x}")).collect()).collect();
    let number = |n: u64| format!("{n:064x}");
    let lanes = |lanes: [i32; 8]| lanes.iter().map(|lane| format!("{lane:08x}")).collect::<String>();
    assert_eq!(words[0], number(11 << 24 | 1 << 16 | 0x02), "11 attribute words, 1 operand, f32, View");
    assert_eq!(words[1], lanes([0, 1, 0, 0, 0, 0, 0, 0]), "rows: S");
    assert_eq!(words[2], lanes([4, 0, 0, 0, 0, 0, 0, 0]), "cols: 4");
    assert_eq!(words[3], number(1 << 32 | 7), "weight 7");
    assert_eq!(words[4..8], [number(1), number(1), number(1), number(0xff80_0000)], "digits, axes, fill");
    assert_eq!(words[8..10], [words[1].clone(), words[2].clone()], "radices");
    assert_eq!(words[10], words[1], "size");
    assert_eq!(words[11], lanes([-1, 0, 1, 0, 0, 0, 0, 0]), "offset P-1");
    assert_eq!(words[12..14], [lanes([1, 0, 0, 0, 0, 0, 0, 0]), lanes([0; 8])], "weights");
    assert_eq!(words[14], lanes([1, -2, 0, 0, 0, 0, 0, 0]), "steps");
    assert_eq!(words.len(), 15);
}

#[test]
fn encodings_other_than_the_canonical_one_are_refused() {
    let good = models::cnn().program.encode();
    Program::decode(&good).expect("the canonical one");
    let view = models::cnn().program.nodes.iter().position(|node| matches!(node.op, Op::View(_))).expect("a view");
    let start = 32 + models::cnn().program.nodes[..view].iter().map(|node| node.encode().len()).sum::<usize>();
    let refused = |offset: usize, value: u8, expected: &str| {
        let mut bytes = good.clone();
        bytes[offset] = value;
        let error = Program::decode(&bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error} does not contain {expected}");
    };
    refused(0, 1, "word 0: number of more than 64 bits");
    refused(27, 1, "word 0: 4294967"); // more than 32 bits
    refused(28, 1, "nodes; at most 65536");
    refused(start, 1, "number of more than 64 bits");
    refused(start + 31, 0xee, "unknown operation 0xee");
    refused(start + 30, 4, "unknown element type 4");
    refused(start + 29, 17, "17 operands; at most 16");
    refused(start + 28, 3, "header counts 3 attribute words");
    refused(start + 32 + 20, 1, "dimension with a lane beyond O");
    refused(start + 3 * 32 + 27, 3, "unknown operand kind 3");
    refused(start + 4 * 32 + 31, 9, "9 + 3 digits");
    let steps = start + (4 + 4 + 5 + 5 - 1) * 32;
    refused(steps + 31, 1, "a step for a digit that does not exist");

    for cut in [0, 31, 32, 33, good.len() - 1, good.len() - 32] {
        assert!(Program::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    let error = Program::decode(&[good.as_slice(), &[0; 5]].concat()).expect_err("bytes left over");
    assert!(error.to_string().contains("5 bytes left over"), "{error}");
}

#[test]
fn every_code_is_used_once() {
    let codes: std::collections::BTreeSet<u32> = InputKind::ALL.iter().map(|kind| *kind as u32).collect();
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(ConcatAxis::ALL.len(), 2);
    assert_eq!(EncodeKind::ALL.len(), 3);
    assert_eq!(UnaryFunction::ALL.len(), 13);
    assert_eq!(BinaryFunction::ALL.len(), 10);
}

/// The test models, made once.
static MODELS: LazyLock<Vec<(&str, Model, Request)>> = LazyLock::new(models::all);

/// A valid model whose descriptor bytes are damaged in a few places.
fn damaged(which: usize, edits: &[(prop::sample::Index, u8)]) -> (Model, Option<Program>) {
    let mut model = MODELS[which].1.clone();
    let mut bytes = model.program.encode();
    for (at, value) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    let program = Program::decode(&bytes).ok();
    if let Some(program) = &program {
        assert_eq!(program.encode(), bytes, "what decodes is canonical");
        model.program = program.clone();
    }
    (model, program)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
        if let Ok((node, length)) = Node::decode(&bytes) {
            prop_assert_eq!(node.encode(), &bytes[..length]);
        }
        if let Ok(program) = Program::decode(&bytes) {
            prop_assert_eq!(program.encode(), bytes);
        }
    }

    #[test]
    fn random_headers_never_panic(code in 0u8..0x60, dtype in 0u8..5, operands in 0u8..18, attributes in any::<u8>(),
                                  words in vec(prop_oneof![Just([0u8; 32]), any::<u8>().prop_map(|b| { let mut w = [0; 32]; w[31] = b; w }), any::<[u8; 32]>()], 0..40)) {
        let mut bytes = vec![0; 28];
        bytes.extend([attributes, operands, dtype, code]);
        bytes.extend(words.concat());
        if let Ok((node, length)) = Node::decode(&bytes) {
            prop_assert_eq!(node.encode(), &bytes[..length]);
        }
    }

    /// Whatever decodes is validated without panic; whatever validates also runs without panic, within its memory.
    #[test]
    fn damaged_programs_are_refused_or_run(which in 0usize..6, edits in vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), 0u8..8]), 1..4)) {
        let (model, program) = damaged(which, &edits);
        if program.is_some() && model.validate().is_ok() {
            let result = Interpreter::new(&model).with_memory_limit(1 << 20).run(&MODELS[which].2);
            // The request may not suit the damaged model, and tokens may see the future; nothing else can go wrong.
            let expected = match &result {
                Ok(_) | Err(RunError::Request(_) | RunError::Memory { .. } | RunError::Model(_)) => true,
                Err(_) => false,
            };
            prop_assert!(expected, "{:?}", result.err());
            if let Ok(run) = result {
                let bound = model.bind(run.symbols).expect("bound before");
                for (node, tensor) in run.tensors.iter().enumerate().filter(|(_, tensor)| tensor.cols() > 0) {
                    let step = model.step(&bound, &run.tensors, node as u32, tensor.rows() - 1, tensor.cols() - 1);
                    prop_assert!(step.is_some(), "node {node} of a run has a step");
                }
            }
        }
    }
}

//! Claims as a whole, outputs, inputs, checks, and lookups that point nowhere.

use candor_sdk::{
    bindings::{Element, IStepVerifier, Run},
    merkle::Tree,
    program::{
        Dim, EncodeKind, InputKind, Interpreter, LEAF, Model, Op, Operand, ProgramBuilder, Request, Symbols,
        WeightTensor, WeightsTree, tensor_root,
    },
    proof::{ModelTrees, Prover},
};

use crate::{
    chain::{Chain, Verdict},
    fixture::{Fixture, View},
    models::{self, ask, ask_sampled, ask_tokens},
};

fn claim_proof(fixture: &Fixture) -> Vec<u8> {
    fixture.prover().claim_proof().expect("an input")
}

fn all() -> Vec<Fixture> {
    models::all().into_iter().map(|(name, model, request)| Fixture::new(name, model, request)).collect()
}

/// Makes a claim or a model say something else.
type Lie = fn(&mut Run);

#[test]
fn right_claims_are_right_and_each_lie_is_wrong() {
    let mut chain = Chain::new();
    for fixture in all() {
        let (run, input, proof) = (&fixture.run, &fixture.request.input, claim_proof(&fixture));
        let name = &fixture.name;
        assert_eq!(chain.claim(run, input, &proof), Verdict::Right, "{name}");
        let lies: [(&str, Lie); 14] = [
            ("sequence + 1", |run| run.claim.sequence += 1),
            ("sequence - 1", |run| run.claim.sequence -= 1),
            ("sequence below prompt", |run| run.claim.sequence = 0),
            ("sequence of 2^32 - 1", |run| run.claim.sequence = u32::MAX),
            ("prompt + 1", |run| run.claim.prompt += 1),
            ("prompt - 1", |run| run.claim.prompt -= 1),
            ("both", |run| {
                run.claim.prompt += 1;
                run.claim.sequence += 1;
            }),
            ("bytes + 1", |run| run.claim.inputBytes += 1),
            ("bytes - 1", |run| run.claim.inputBytes -= 1),
            ("input too short", |run| run.model.limits.minInputBytes = run.claim.inputBytes + 1),
            ("input too long", |run| run.model.limits.maxInputBytes = run.claim.inputBytes - 1),
            ("all symbols huge", |run| {
                run.claim.sequence = u32::MAX;
                run.claim.prompt = u32::MAX;
                run.claim.inputBytes = u32::MAX;
            }),
            ("too many tokens of a model that generates none, none of one that generates", |run| {
                run.model.limits.maxTokens = u32::from(run.model.limits.maxTokens == 0);
            }),
            ("no symbols", |run| (run.claim.sequence, run.claim.prompt, run.claim.inputBytes) = (0, 0, 0)),
        ];
        for (lie, change) in lies {
            let mut run = run.clone();
            change(&mut run);
            assert_eq!(chain.claim(&run, input, &proof), Verdict::Wrong, "{name}: {lie}");
        }
        // What is not the input, the tokens or node 0 is refused.
        assert!(matches!(chain.claim(run, &[input.as_slice(), &[0]].concat(), &proof), Verdict::Refused(_)));
        let other = Run { claim: candor_sdk::bindings::Claim { tokensHash: run.seed, ..run.claim }, ..run.clone() };
        assert!(matches!(chain.claim(&other, input, &proof), Verdict::Refused(_)));
        let mut other = run.clone();
        other.model.graphRoot.0[5] ^= 1;
        assert!(matches!(chain.claim(&other, input, &proof), Verdict::Refused(_)));
    }
}

#[test]
fn parameters_without_an_answer() {
    let mut chain = Chain::new();
    let fixture = Fixture::new("causal", models::causal(), ask_sampled(&[3, 1, 20], 6, 0.75, 0.0625, 9));
    let (input, proof) = (&fixture.request.input, claim_proof(&fixture));
    let mut verdict = |change: &dyn Fn(&mut Run)| {
        let mut run = fixture.run.clone();
        change(&mut run);
        chain.claim(&run, input, &proof)
    };
    assert!(fixture.generated.len() > 1);
    let most = fixture.generated.len() as u32;
    assert_eq!(verdict(&|run| run.params.maxTokens = most), Verdict::Right);
    assert_eq!(verdict(&|run| run.params.maxTokens = most - 1), Verdict::Wrong, "more tokens than asked for");
    assert_eq!(verdict(&|run| run.model.limits.maxTokens = most - 1), Verdict::Wrong, "more than the model gives");
    assert_eq!(verdict(&|run| run.params.maxTokens = 0), Verdict::Wrong);
    for (temperature, expected) in [
        (0.0f32, Verdict::Right),
        (f32::MAX, Verdict::Right),
        (-0.0, Verdict::Wrong),
        (-1.0, Verdict::Wrong),
        (f32::INFINITY, Verdict::Wrong),
        (f32::NAN, Verdict::Wrong),
    ] {
        assert_eq!(verdict(&|run| run.params.temperature = temperature.to_bits()), expected, "{temperature}");
    }
    for (min_p, expected) in [
        (0.0f32, Verdict::Right),
        (1.0, Verdict::Right),
        (1.0000001, Verdict::Wrong),
        (-0.0, Verdict::Wrong),
        (f32::NAN, Verdict::Wrong),
    ] {
        assert_eq!(verdict(&|run| run.params.minP = min_p.to_bits()), expected, "{min_p}");
    }
}

#[test]
fn nodes_are_counted_by_the_program() {
    let mut chain = Chain::new();
    for fixture in all() {
        let model = &fixture.run.model;
        let (nodes, root) = (fixture.run.claim.nodes, fixture.trees.program_root());
        let mut has = |nodes, root| {
            chain.has_nodes(IStepVerifier::hasNodesCall { model: model.clone(), nodes, programRoot: root })
        };
        assert!(has(nodes, root));
        assert!(!has(nodes + 1, root) && !has(nodes - 1, root) && !has(0, root) && !has(nodes, fixture.run.seed));
        let opening = fixture.trees.node(&fixture.model, 0).expect("a node");
        let beyond = IStepVerifier::leavesOfCall { run: fixture.run.clone(), node: nodes, opening };
        assert_eq!(chain.leaves_of(beyond), Ok(None));
        let element = Element { node: nodes, leaf: 0, index: 0 };
        let proof = fixture.prover().node_proof(0).expect("a node");
        assert_eq!(chain.element(&fixture.run, element, &[0], &proof), Verdict::Wrong);
    }
}

#[test]
fn the_output_is_the_last_node() {
    let mut chain = Chain::new();
    for fixture in all() {
        let (run, output) = (&fixture.run, &fixture.output);
        let last = fixture.view.tensors.len() as u64 - 1;
        let root = tensor_root(&fixture.view.tensors[last as usize]);
        let path = fixture.view.nodes.path(last).expect("a node");
        let proof = Prover::<View>::output_proof(root, &path);
        assert_eq!(chain.output(run, output, &proof), Verdict::Right, "{}", fixture.name);
        for wrong in [output[1..].to_vec(), [output.as_slice(), &[0]].concat(), vec![0; output.len()], vec![]] {
            assert_eq!(chain.output(run, &wrong, &proof), Verdict::Wrong, "{}", fixture.name);
        }
        for bit in (0..8 * output.len()).step_by(7) {
            let mut wrong = output.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(chain.output(run, &wrong, &proof), Verdict::Wrong, "{}", fixture.name);
        }
        // Neither another root nor another path opens the last node.
        let mut false_path = path.clone();
        false_path[0].0[0] ^= 1;
        for (root, path) in [(run.seed, &path), (root, &false_path), (root, &path[1..].to_vec())] {
            let proof = Prover::<View>::output_proof(root, path);
            assert!(matches!(chain.output(run, output, &proof), Verdict::Refused(_)), "{}", fixture.name);
        }
    }
}

#[test]
fn outputs_of_any_length() {
    let mut chain = Chain::new();
    for length in [0, 1, 127, 128, 129, 384, 1000] {
        let text: Vec<u8> = (0..length).map(|i: u32| i as u8).collect();
        let leaves: Vec<_> = text
            .chunks(LEAF)
            .map(|leaf| candor_sdk::merkle::hash(candor_sdk::merkle::Domain::TraceLeaf, &[leaf]))
            .collect();
        let root = Tree::new(leaves).root();
        let mut run = Fixture::new("mlp", models::mlp(), ask(vec![0; 16])).run;
        (run.claim.nodes, run.claim.root) = (1, root);
        let proof = Prover::<View>::output_proof(root, &[]);
        assert_eq!(chain.output(&run, &text, &proof), Verdict::Right, "{length} bytes");
        assert_eq!(chain.output(&run, &[text.as_slice(), &[0]].concat(), &proof), Verdict::Wrong, "{length} bytes");
    }
}

/// A model that gives its text back.
fn echo(most: u32) -> Model {
    let mut b = ProgramBuilder::new();
    let text = b.input(InputKind::Utf8, 1, Dim::B);
    b.output(EncodeKind::U8, text);
    let limits = candor_sdk::program::Limits {
        min_input_bytes: 1,
        max_input_bytes: most,
        max_output_bytes: most,
        max_tokens: 0,
    };
    b.finish(limits, vec![]).expect("a valid model")
}

#[test]
fn text_is_wrong_where_it_is_no_text() {
    let mut chain = Chain::new();
    // Each position is right exactly if a strict decoder takes the character that it is part of.
    let mut texts: Vec<Vec<u8>> = ["a", "\u{fc}", "\u{20ac}", "\u{1f600}", "a\u{d7ff}b\u{e000}\u{10ffff}"]
        .map(|s| s.as_bytes().to_vec())
        .to_vec();
    let second = [0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff];
    for lead in [
        0x7f, 0x80, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5,
        0xff,
    ] {
        for b in second {
            texts.extend([
                vec![lead],
                vec![lead, b],
                vec![lead, b, 0x80],
                vec![lead, b, 0xbf, 0x80],
                vec![b'a', lead, b, 0x80, 0x80, 0x80],
            ]);
        }
    }
    for text in texts {
        let model = echo(16);
        let mut request = ask(b"a".repeat(text.len()));
        let mut fixture = Fixture::new("echo", model.clone(), request.clone());
        request.input.clone_from(&text);
        fixture.run.inputHash = alloy_primitives::keccak256(&text);
        fixture.request = request;
        let mut wrong = Vec::new();
        for (at, _) in text.iter().enumerate() {
            let element = Element { node: 0, leaf: 0, index: at as u32 };
            let proof = fixture.prover().element_proof(element, 0).expect("a proof");
            match chain.element(&fixture.run, element, &text, &proof) {
                Verdict::Right => {}
                Verdict::Wrong => wrong.push(at),
                other => panic!("{text:02x?} at {at}: {other:?}"),
            }
        }
        let expected = std::str::from_utf8(&text).err().map(|error| error.valid_up_to());
        assert_eq!(wrong.first().copied(), expected, "{text:02x?}: wrong at {wrong:?}");
    }
}

#[test]
fn token_ids_out_of_range_are_wrong() {
    let mut chain = Chain::new();
    let fixture = Fixture::new("causal", models::causal(), ask_tokens(&[3, 1, 20], 4));
    let prompt = fixture.run.claim.prompt;
    for (row, token) in [(1, models::VOCABULARY), (2, u32::MAX), (prompt as usize, models::VOCABULARY)] {
        let (mut request, mut generated) = (fixture.request.clone(), fixture.generated.clone());
        if row < prompt as usize {
            request.input[4 * row..4 * row + 4].copy_from_slice(&token.to_be_bytes());
        } else {
            generated[row - prompt as usize] = token;
        }
        let tokens: Vec<u8> = generated.iter().flat_map(|token| token.to_be_bytes()).collect();
        let mut run = fixture.run.clone();
        run.inputHash = alloy_primitives::keccak256(&request.input);
        run.claim.tokensHash = alloy_primitives::keccak256(tokens);
        let prover = Prover { request: &request, generated: &generated, ..fixture.prover() };
        let element = Element { node: 0, leaf: row as u64, index: 0 };
        let proof = prover.element_proof(element, token).expect("a proof");
        assert_eq!(chain.element(&run, element, &token.to_le_bytes(), &proof), Verdict::Wrong, "row {row}");
    }
}

pub(crate) fn with_check(model: &Model, wanted: impl Fn(&Op) -> bool) -> u32 {
    models::find(model, wanted) as u32
}

#[test]
fn false_sequences_fail_their_checks_whatever_is_claimed() {
    let mut chain = Chain::new();
    let model = models::causal();
    let request = ask_sampled(&[3, 1, 20], 6, 0.75, 0.0625, 9);
    let honest = Fixture::new("honest", model.clone(), request.clone()).generated;
    let check = with_check(&model, |op| matches!(op, Op::CheckGenerated { .. }));
    for position in 0..honest.len() {
        let mut claim = honest.clone();
        claim[position] = (claim[position] + 1) % models::VOCABULARY;
        judge(&mut chain, &model, &request, &claim, check, position);
        if position > 0 {
            judge(&mut chain, &model, &request, &honest[..position], check, position - 1);
        }
    }
    fn judge(chain: &mut Chain, model: &Model, request: &Request, claim: &[u32], check: u32, row: usize) {
        let trace = Interpreter::new(model).replay(request, claim).expect("a run");
        assert_eq!(trace.failed_check.map(|failed| failed.row as usize), Some(row));
        let fixture = Fixture::of_trace("false", model.clone(), request.clone(), trace);
        for claimed in [0u32, 1] {
            for earlier in 0..=row {
                let element = fixture.element(check, earlier, 0);
                let proof = fixture.prover().element_proof(element, claimed).expect("a proof");
                let verdict = chain.element(&fixture.run, element, &claimed.to_le_bytes(), &proof);
                let holds = earlier < row && claimed == 1;
                assert_eq!(verdict, if holds { Verdict::Right } else { Verdict::Wrong }, "row {earlier} of {row}");
            }
        }
    }
}

#[test]
fn a_false_length_of_the_text_is_wrong() {
    let mut chain = Chain::new();
    let mut fixture = Fixture::new("causal", models::causal(), ask_sampled(&[3, 1, 20], 6, 0.75, 0.0625, 9));
    let length = fixture.run.claim.outputBytes;
    let check = with_check(&fixture.model, |op| matches!(op, Op::CheckLength));
    let text = with_check(&fixture.model, |op| matches!(op, Op::Detokenise));
    let element = fixture.element(check, 0, 0);
    for claimed in [length - 1, length + 1, 0, u32::MAX] {
        fixture.run.claim.outputBytes = claimed;
        let proof = fixture.prover().element_proof(element, 1).expect("a proof");
        assert_eq!(chain.element(&fixture.run, element, &1u32.to_le_bytes(), &proof), Verdict::Wrong, "{claimed}");
    }
    // Bytes beyond the last token are wrong, whatever they are.
    fixture.run.claim.outputBytes = length + 1;
    let symbols = Symbols { output_bytes: length + 1, ..fixture.bound.symbols };
    fixture.bound = fixture.model.bind(symbols).expect("a shape");
    let element = Element { node: text, leaf: 0, index: length };
    let proof = fixture.prover().element_proof(element, 0).expect("a proof");
    let leaf = vec![0; length as usize + 1];
    assert_eq!(chain.element(&fixture.run, element, &leaf, &proof), Verdict::Wrong);
}

/// A fixture whose model has other weights or another vocabulary than the one that was run, as if its graph had not been validated.
fn changed(mut fixture: Fixture, change: impl FnOnce(&mut Model)) -> Fixture {
    change(&mut fixture.model);
    fixture.trees = ModelTrees::new(&fixture.model);
    fixture.run.model.weightsRoot = WeightsTree::new(&fixture.model.weights).root();
    fixture.run.model.vocabRoot = fixture.model.vocab_root();
    fixture
}

#[test]
fn lookups_that_point_nowhere_are_wrong() {
    let mut chain = Chain::new();
    let new = || Fixture::new("causal", models::causal(), ask_tokens(&[3, 1, 20], 4));
    let mut wrong = |fixture: &Fixture, node: u32, row: usize, col: usize, expected: Verdict| {
        let element = fixture.element(node, row, col);
        let bits = fixture.tensor(node).bits(row, col);
        let proof = fixture.prover().element_proof(element, bits).expect("a proof");
        assert_eq!(
            chain.element(&fixture.run, element, &fixture.leaf(element), &proof),
            expected,
            "node {node} row {row}"
        );
    };
    // Embeddings for tokens below 20 only.
    let gather = with_check(&new().model, |op| matches!(op, Op::Gather));
    let Operand::Weight(table) = new().model.program.nodes[gather as usize].inputs[1] else {
        panic!("a table of weights")
    };
    let fixture = changed(new(), |model| {
        let cut = |(index, tensor): (usize, &WeightTensor)| {
            if index != table as usize {
                return tensor.clone();
            }
            let bytes = tensor.bytes()[..20 * tensor.dtype().row_bytes(tensor.cols())].to_vec();
            WeightTensor::new("cut", (20, tensor.cols() as u32), tensor.dtype(), std::sync::Arc::new(bytes))
                .expect("a shape")
        };
        model.weights = model.weights.tensors().iter().enumerate().map(cut).collect();
    });
    wrong(&fixture, gather, 0, 0, Verdict::Right);
    wrong(&fixture, gather, 2, 0, Verdict::Wrong);
    // A vocabulary that ends before a token, and none at all.
    let length = with_check(&new().model, |op| matches!(op, Op::TokenLength));
    let tokens = new().generated;
    let fixture = changed(new(), |model| model.vocabulary.truncate(tokens[0] as usize + 1));
    wrong(&fixture, length, 0, 0, Verdict::Right);
    let fixture = changed(new(), |model| model.vocabulary.truncate(tokens[0] as usize));
    wrong(&fixture, length, 0, 0, Verdict::Wrong);
    let fixture = changed(new(), |model| model.vocabulary.clear());
    wrong(&fixture, length, 0, 0, Verdict::Wrong);
    // A weight that does not exist.
    let fixture =
        changed(new(), |model| model.weights = model.weights.tensors()[..table as usize].iter().cloned().collect());
    wrong(&fixture, gather, 0, 0, Verdict::Wrong);
    // Columns beyond the source of a Take.
    let features = || Fixture::new("features", models::features(), ask(models::f32_be(&[2.0, 14.0, 5.0, 0.25])));
    let take = with_check(&features().model, |op| matches!(op, Op::Take));
    let fixture = changed(features(), |model| {
        let far = WeightTensor::from_u32("far", (1, 2), &[1, 4]).expect("a shape");
        let replace = |(index, tensor): (usize, &WeightTensor)| if index == 0 { far.clone() } else { tensor.clone() };
        model.weights = model.weights.tensors().iter().enumerate().map(replace).collect();
    });
    wrong(&fixture, take, 0, 0, Verdict::Right);
    let element = fixture.element(take, 0, 1);
    // The builder knows of no such step; what is opened is what it opens of the first column.
    let proof = fixture.prover().element_proof(fixture.element(take, 0, 0), 0).expect("a proof");
    assert_eq!(chain.element(&fixture.run, element, &fixture.leaf(element), &proof), Verdict::Wrong);
}

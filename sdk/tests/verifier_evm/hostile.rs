//! Graphs that nobody validated: whatever their descriptors say, an element is right, or it is wrong and that can be shown.

use alloy_primitives::B256;
use alloy_sol_types::SolValue;
use candor_sdk::{
    bindings::{Claim, Element, IStepVerifier, NodeOpening, Run},
    merkle::{Domain, Tree, counted, hash},
    program::{Interpreter, Node, Op, Operand, Program, Run as Trace, Symbols},
    proof::format::{DataOpening, OperandOpening, StepProof},
};

use crate::{
    chain::{Chain, Verdict},
    fixture::Fixture,
    graphs,
    models::{self, Numbers},
    steps::{Tally, check},
    wanted,
};

/// Damages a descriptor in one of many ways.
fn damage(descriptor: &[u8], n: &mut Numbers) -> Vec<u8> {
    let mut bytes = descriptor.to_vec();
    let words = bytes.len() / 32;
    let word = n.next() as usize % words;
    let number = |n: &mut Numbers| {
        let numbers = [
            0u32,
            1,
            2,
            3,
            4,
            7,
            16,
            31,
            32,
            64,
            127,
            128,
            129,
            255,
            256,
            1 << 30,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
        ];
        numbers[n.next() as usize % numbers.len()]
    };
    match n.next() % 14 {
        0 => bytes[n.next() as usize % (32 * words)] = n.next() as u8,
        1 => bytes[n.next() as usize % (32 * words)] ^= 1 << (n.next() % 8),
        2 => bytes[32 * word + 31] = (n.next() % 9) as u8,
        // A number, and one lane of a dimension.
        3 | 4 => bytes[32 * word + 28..32 * word + 32].copy_from_slice(&number(n).to_be_bytes()),
        5 | 6 => {
            let lane = 32 * word + 4 * (n.next() as usize % 8);
            bytes[lane..lane + 4].copy_from_slice(&number(n).to_be_bytes());
        }
        // The header: operation, type, operands, attributes.
        7 => bytes[31] = (n.next() % 0x60) as u8,
        8 => bytes[30] = (n.next() % 5) as u8,
        9 => bytes[28 + n.next() as usize % 2] = (n.next() % 18) as u8,
        // Words in another place, of another number.
        10 => {
            let other = n.next() as usize % words;
            let copy = bytes[32 * other..32 * other + 32].to_vec();
            bytes[32 * word..32 * word + 32].copy_from_slice(&copy);
        }
        11 => bytes.truncate(n.next() as usize % bytes.len()),
        12 => bytes.extend(vec![0; 1 + n.next() as usize % 64]),
        // An operand of another kind.
        _ if words > 3 => {
            let kind = (n.next() % 4) as u8;
            bytes[32 * 3 + 27] = kind;
        }
        _ => bytes.clear(),
    }
    bytes
}

/// The first leaf of a node whose header holds these words, filled with zeros; as long as it has to be if the shape is one.
fn leaf(descriptor: &[u8], symbols: &Symbols) -> Vec<u8> {
    let dimension = |word: usize| {
        let lane = |i: usize| {
            let lane = descriptor.get(32 * word + 4 * i..32 * word + 4 * i + 4)?;
            Some(i128::from(i32::from_be_bytes([lane[0], lane[1], lane[2], lane[3]])))
        };
        let Symbols { sequence, prompt, input_bytes, output_bytes } = *symbols;
        let symbols = [1, sequence, prompt, input_bytes, output_bytes];
        (0..5).map(|i| Some(lane(i)? * i128::from(symbols[i]))).sum::<Option<i128>>()
    };
    let cols = dimension(2).unwrap_or(0).clamp(0, 128) as usize;
    vec![0; cols * if descriptor.get(30).is_some_and(|&dtype| dtype < 2) { 4 } else { 1 }]
}

/// What is checked by running only, not by the shape of a single node: the step itself finds an index that is out of range.
fn is_about_indices(problem: &str) -> bool {
    ["indices below", "in a vocabulary of", " into ", "not the running sum", "samples exceed"]
        .iter()
        .any(|part| problem.contains(part))
}

/// A run of the first nodes of a program, the last of which has some other descriptor.
struct Damaged<'a> {
    fixture: &'a Fixture,
    node: u32,
    descriptor: Vec<u8>,
    run: Run,
    nodes: Tree,
}

impl<'a> Damaged<'a> {
    fn new(fixture: &'a Fixture, node: u32, descriptor: Vec<u8>) -> Self {
        let earlier =
            fixture.model.program.nodes[..node as usize].iter().map(|node| hash(Domain::Node, &[&node.encode()]));
        let nodes = Tree::new(earlier.chain([hash(Domain::Node, &[&descriptor])]).collect());
        let roots = (0..=node).map(|index| fixture.view.nodes.node(0, index.into())).collect();
        let mut run = fixture.run.clone();
        run.model.graphRoot = counted(nodes.count(), &nodes.root());
        run.claim = Claim { nodes: node + 1, root: Tree::new(roots).root(), ..run.claim };
        Self { fixture, node, descriptor, run, nodes }
    }

    fn opening(&self, node: u32) -> NodeOpening {
        let descriptor = match node == self.node {
            true => self.descriptor.clone(),
            false => self.fixture.model.program.nodes[node as usize].encode(),
        };
        NodeOpening { descriptor: descriptor.into(), path: self.nodes.path(node.into()).expect("the node exists") }
    }

    /// A proof that opens the node and what it calls its operands, and reads nothing.
    fn proof(&self) -> Vec<u8> {
        let count = self.descriptor.get(29).copied().unwrap_or(0);
        let operand = |i: u8| {
            let word = self.descriptor.get(32 * (3 + usize::from(i))..)?.first_chunk::<32>()?;
            let value = u32::from_be_bytes([word[28], word[29], word[30], word[31]]);
            match word[27] {
                0 if value < self.node => {
                    let NodeOpening { descriptor, path } = self.opening(value);
                    Some(OperandOpening { descriptor, path, count: 0 })
                }
                1 => self.fixture.trees.operand(&self.fixture.model, Operand::Weight(value)),
                _ => None,
            }
        };
        let operands = (0..count).map(|i| operand(i).unwrap_or_default()).collect();
        StepProof { node: self.opening(self.node), operands, reads: vec![], data: DataOpening::default(), hint: 0 }
            .abi_encode()
    }
}

fn fixtures() -> Vec<Fixture> {
    let mut fixtures: Vec<Fixture> = models::all().into_iter().map(|(name, m, r)| Fixture::new(name, m, r)).collect();
    fixtures.extend((200..208).map(|seed| {
        let (model, request) = graphs::random(seed);
        Fixture::new(format!("graph {seed}"), model, request)
    }));
    fixtures
}

/// A revert that says what is not opened, rather than one of the compiler's.
fn is_refusal(data: &[u8]) -> bool {
    use alloy_sol_types::SolError;
    data.starts_with(&IStepVerifier::InvalidOpening::SELECTOR)
}

#[test]
fn damaged_descriptors_are_wrong_or_mean_what_the_reference_says() {
    let mut chain = Chain::new();
    let mut n = Numbers::new(0x4057);
    let fixtures = fixtures();
    let (mut malformed, mut formed, mut indices) = (0, 0, 0);
    let mut tally = Tally::default();
    for _ in 0..wanted(4000) {
        let fixture = &fixtures[n.next() as usize % fixtures.len()];
        let node = (n.next() % fixture.view.tensors.len() as u64) as u32;
        let index = node as usize;
        let nodes = &fixture.model.program.nodes;
        let descriptor = damage(&nodes[index].encode(), &mut n);
        let decoded = Node::decode(&descriptor).ok().filter(|(_, length)| *length == descriptor.len());
        let damaged = Damaged::new(fixture, node, descriptor);
        let place = format!("{} node {node} {:?} as {:02x?}", fixture.name, nodes[index], damaged.descriptor);

        // The program up to this node, if the reference takes it.
        let model = decoded.map(|(decoded, _)| {
            let mut model = fixture.model.clone();
            model.program = Program { nodes: [&nodes[..index], &[decoded]].concat() };
            model
        });
        let symbols = fixture.bound.symbols;
        let bound = model.as_ref().map(|model| model.bind(symbols).map_err(|error| error.to_string()));
        let input = model.as_ref().is_some_and(|model| matches!(model.program.nodes[index].op, Op::Input { .. }));
        match (model, bound) {
            (Some(_), Some(Err(problem))) if is_about_indices(&problem) => indices += 1,
            (Some(model), Some(Ok(bound))) if input == (node == 0) => {
                let shape = &bound.nodes[index];
                // An input with other attributes is another claim; and what takes long to compute is not computed.
                if node == 0 || shape.rows * shape.cols > 100_000 {
                    continue;
                }
                let tensors = &fixture.view.tensors[..index];
                let again = Interpreter::new(&model).recompute(&fixture.request, symbols, tensors, node).expect(&place);
                if matches!(model.program.nodes[index].op, Op::CheckGenerated { .. } | Op::CheckLength)
                    && (0..again.rows()).any(|row| again.bits(row, 0) != 1)
                {
                    continue;
                }
                if again.cols() == 0 {
                    continue;
                }
                let tensors = [tensors, std::slice::from_ref(&again)].concat();
                let trace = Trace {
                    symbols,
                    output: vec![],
                    generated: fixture.generated.clone(),
                    tensors,
                    failed_check: None,
                };
                let changed = Fixture::of_trace(place, model, fixture.request.clone(), trace);
                for (row, col) in [(again.rows() - 1, again.cols() - 1), (0, n.next() as usize % again.cols())] {
                    check(&mut chain, &changed, changed.element(node, row, col), &mut n, &mut tally);
                }
                formed += 1;
            }
            _ => {
                let proof = damaged.proof();
                let leaf = leaf(&damaged.descriptor, &symbols);
                let element = Element { node, leaf: 0, index: 0 };
                let run = &damaged.run;
                assert_eq!(chain.element(run, element, &leaf, &proof), Verdict::Wrong, "{place}");
                assert_eq!(chain.partials_of(run, element, &proof), Ok(0), "{place}");
                // It has no partials, so nobody is asked for any; of those there are none is right.
                assert_ne!(chain.partial(run, element, &[0, 0], 0, &proof), Verdict::Right, "{place}");
                assert_ne!(chain.sum(run, element, &leaf, &[0, 0], &proof), Verdict::Right, "{place}");
                let call = IStepVerifier::leavesOfCall { run: run.clone(), node, opening: damaged.opening(node) };
                assert!(chain.leaves_of(call).is_ok(), "{place}");
                malformed += 1;
            }
        }
    }
    println!(
        "{malformed} malformed, {formed} of another meaning ({} verdicts), {indices} about indices",
        tally.verdicts
    );
    assert!(
        malformed > 10 * indices && formed > 100,
        "{malformed} malformed, {formed} formed, {indices} about indices"
    );
}

/// Symbols that no honest operator claims, up to the largest numbers there are: nothing overflows.
#[test]
fn absurd_symbols_are_wrong_or_refused() {
    let mut chain = Chain::new();
    let mut n = Numbers::new(0xab5);
    let fixtures = fixtures();
    let (mut wrong, mut refused) = (0, 0);
    for _ in 0..wanted(2000) {
        let fixture = &fixtures[n.next() as usize % fixtures.len()];
        let node = (n.next() % fixture.view.tensors.len() as u64) as u32;
        let descriptor = match n.next() % 2 {
            0 => fixture.model.program.nodes[node as usize].encode(),
            _ => damage(&fixture.model.program.nodes[node as usize].encode(), &mut n),
        };
        let mut damaged = Damaged::new(fixture, node, descriptor);
        let symbol = |n: &mut Numbers| {
            [0, 1, 4, 128, 0x7fff_ffff, 0x8000_0000, u32::MAX, n.next() as u32][n.next() as usize % 8]
        };
        let claim = &mut damaged.run.claim;
        (claim.sequence, claim.prompt, claim.inputBytes, claim.outputBytes) =
            (symbol(&mut n), symbol(&mut n), symbol(&mut n), symbol(&mut n));
        let symbols = Symbols {
            sequence: claim.sequence,
            prompt: claim.prompt,
            input_bytes: claim.inputBytes,
            output_bytes: claim.outputBytes,
        };
        let element = Element { node, leaf: if n.next().is_multiple_of(4) { n.next() >> 33 } else { 0 }, index: 0 };
        let (proof, leaf) = (damaged.proof(), leaf(&damaged.descriptor, &symbols));
        for verdict in [
            chain.element(&damaged.run, element, &leaf, &proof),
            chain.partial(&damaged.run, element, &[0, 0], 0, &proof),
            chain.sum(&damaged.run, element, &leaf, &[0, 0], &proof),
        ] {
            match verdict {
                Verdict::Wrong => wrong += 1,
                Verdict::Right => {} // zero, out of fills alone
                Verdict::Refused(why) => {
                    assert!(is_refusal(&why), "{} node {node}: {why}", fixture.name);
                    refused += 1;
                }
            }
        }
        let call = IStepVerifier::leavesOfCall { run: damaged.run.clone(), node, opening: damaged.opening(node) };
        assert!(chain.leaves_of(call).is_ok());
        if let Err(why) = chain.partials_of(&damaged.run, element, &proof) {
            assert!(is_refusal(&why), "{} node {node}: {why}", fixture.name);
        }
        let claim = candor_sdk::proof::format::ClaimProof { node: damaged.opening(0), tokens: Default::default() };
        let verdict = chain.claim(&damaged.run, &fixture.request.input, &claim.abi_encode());
        let honest = fixture.run.claim.tokensHash == alloy_primitives::keccak256([]);
        match verdict {
            Verdict::Wrong => {}
            Verdict::Right => panic!("{}: {:?}", fixture.name, damaged.run.claim),
            Verdict::Refused(why) => assert!(!honest && is_refusal(&why), "{}: {why}", fixture.name),
        }
    }
    println!("{wrong} wrong, {refused} refused");
    assert!(wrong > refused);
}

/// Weights that no descriptor of a valid model describes.
#[test]
fn malformed_tensors_make_steps_wrong() {
    let mut chain = Chain::new();
    let fixture = Fixture::new("quantised", models::quantised(), models::ask(b"abc".to_vec()));
    let linear = models::find(&fixture.model, |op| *op == Op::QuantLinear) as u32;
    let prover = fixture.prover();
    let element = fixture.element(linear, 0, 0);
    let leaf = fixture.leaf(element);
    let honest = StepProof::abi_decode(&prover.count_proof(element).expect("a proof")).expect("a proof");
    let words = honest.operands[2].descriptor.to_vec();
    let change = |word: usize, value: [u8; 32]| {
        let mut words = words.clone();
        words[32 * word..32 * word + 32].copy_from_slice(&value);
        words
    };
    let number = |value: u64| {
        let mut word = [0; 32];
        word[24..].copy_from_slice(&value.to_be_bytes());
        word
    };
    let cases = [
        change(0, number(0)),
        change(0, number(1 << 31)),
        change(0, [0xff; 32]),
        change(1, number(0)),
        change(1, number(161)), // not whole blocks
        change(1, number(1 << 40)),
        change(2, number(7)),
        change(2, [0xff; 32]),
        change(2, number(1)), // plain weights in a quantised contraction
        words[..127].to_vec(),
        [words.as_slice(), &[0]].concat(),
        vec![],
    ];
    for descriptor in cases {
        let other = |tensor: usize| hash(Domain::Tensor, &[&honest.operands[tensor + 1].descriptor]);
        let tensors = vec![B256::repeat_byte(1), hash(Domain::Tensor, &[&descriptor]), other(2)];
        let tree = Tree::new(tensors);
        let mut run = fixture.run.clone();
        run.model.weightsRoot = counted(3, &tree.root());
        let mut proof = honest.clone();
        proof.operands[2] =
            OperandOpening { descriptor: descriptor.clone().into(), path: tree.path(1).expect("a leaf"), count: 3 };
        proof.operands[3].count = 3;
        proof.operands[3].path = tree.path(2).expect("a leaf");
        assert_eq!(chain.element(&run, element, &leaf, &proof.abi_encode()), Verdict::Wrong, "{descriptor:02x?}");
        proof.operands[2].count = 2;
        assert!(matches!(chain.element(&run, element, &leaf, &proof.abi_encode()), Verdict::Refused(_)));
    }
}

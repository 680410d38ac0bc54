//! Right elements are right, and wrong ones are wrong.

use std::collections::BTreeMap;

use candor_sdk::{
    arithmetic::{
        contraction,
        quantised::{self, Group, Quantised},
        reduction,
        scalar::{add, div, maximum, mul},
    },
    bindings::{Element, IStepVerifier},
    program::{DType, Op, Operand, Read, Step, WeightType},
};

use crate::{
    chain::{Chain, Verdict},
    fixture::Fixture,
    graphs,
    models::{self, Numbers},
    wanted,
};

/// What was judged, by operation.
#[derive(Default)]
pub(crate) struct Tally {
    elements: BTreeMap<&'static str, usize>,
    pub(crate) verdicts: usize,
}

/// The values that a read gives, as bits.
fn bits(fixture: &Fixture, read: &Read) -> Vec<u32> {
    let Read::Elements { operand, row, cols } = read else { return Vec::new() };
    let element = |col| match operand {
        Operand::Node(node) => fixture.tensor(*node).bits(*row, col),
        Operand::Weight(weight) => fixture.model.weights.get(*weight).expect("a weight").bits(*row, col),
        Operand::Constant(bits) => *bits,
    };
    cols.clone().map(element).collect()
}

fn floats(fixture: &Fixture, read: &Read) -> Vec<f32> {
    bits(fixture, read).into_iter().map(f32::from_bits).collect()
}

fn step(fixture: &Fixture, element: Element) -> Step {
    let (row, col) = fixture.prover().place(element).expect("an element");
    fixture.model.step(&fixture.bound, &fixture.view.tensors, element.node, row, col).expect("a step")
}

/// The partials of an element, by the reference.
pub(crate) fn partials(fixture: &Fixture, element: Element) -> Vec<u32> {
    let op = &fixture.model.program.nodes[element.node as usize].op;
    let partial = |part: &Vec<Read>| match (op, part.as_slice()) {
        (Op::QuantLinear, [q, Read::Elements { operand: Operand::Weight(w), row, cols }, amax]) => {
            let w = fixture.model.weights.get(*w).expect("a weight");
            let (group, weights) = match w.dtype() {
                WeightType::Q8_0 => (Group::G32, Quantised::from_q8_0(w.row(*row), w.cols())),
                _ => (Group::G128, Quantised::from_q8_128(w.row(*row), w.cols())),
            };
            let weights = weights.expect("quantised weights");
            let q: Vec<i8> = bits(fixture, q).into_iter().map(|bits| bits as i8).collect();
            let scales: Vec<f32> = floats(fixture, amax).into_iter().map(|amax| div(amax, 127.0)).collect();
            let groups = cols.start / group.len()..cols.end.div_ceil(group.len());
            quantised::partial((&q, &scales), (&weights.values()[cols.clone()], &weights.scales()[groups]), group)
        }
        (_, [x, w]) => contraction::partial(&floats(fixture, x), &floats(fixture, w)),
        (Op::RowSum { .. }, [x]) => reduction::chunk_sum(&floats(fixture, x)),
        (Op::RowSumSquares, [x]) => reduction::chunk_sum_squares(&floats(fixture, x)),
        (Op::RowMax { .. }, [x]) => reduction::maximum(&floats(fixture, x)),
        other => panic!("{other:?} has no partials"),
    };
    step(fixture, element).parts.iter().map(|part| partial(part).to_bits()).collect()
}

/// The element that partials make up, by the reference.
fn sum(fixture: &Fixture, element: Element, partials: &[u32]) -> u32 {
    let partials: Vec<f32> = partials.iter().map(|&bits| f32::from_bits(bits)).collect();
    let bias = step(fixture, element).reads.first().map(|read| floats(fixture, read)[0]);
    let sum = contraction::accumulate(&partials);
    match (&fixture.model.program.nodes[element.node as usize].op, bias) {
        (Op::AttentionScores { scale, .. }, _) => mul(sum, f32::from_bits(*scale)),
        (Op::RowMax { .. }, _) => partials.iter().fold(f32::NEG_INFINITY, |most, &x| maximum(most, x)),
        (_, Some(bias)) => add(sum, bias),
        (_, None) => sum,
    }
    .to_bits()
}

/// A leaf with one bit of one of its elements flipped, and that element's bits.
fn flipped(leaf: &[u8], dtype: DType, index: usize, bit: usize) -> (Vec<u8>, u32) {
    let mut leaf = leaf.to_vec();
    let start = index * dtype.size();
    leaf[start + bit / 8] ^= 1 << (bit % 8);
    let element = &leaf[start..start + dtype.size()];
    let bits = element.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte));
    (leaf, bits)
}

/// Asks the verifier everything about one element of a right run.
pub(crate) fn check(chain: &mut Chain, fixture: &Fixture, element: Element, n: &mut Numbers, tally: &mut Tally) {
    let node = &fixture.model.program.nodes[element.node as usize];
    let place = format!("{}: {element:?} of {:?}", fixture.name, node);
    let (prover, run) = (fixture.prover(), &fixture.run);
    let leaf = fixture.leaf(element);
    let bits = node.dtype.size() * 8;
    // All bits of some elements, one of each other.
    let all: Vec<usize> =
        if n.next().is_multiple_of(32) { (0..bits).collect() } else { vec![n.next() as usize % bits] };

    let parts = prover.partials_of(element).expect(&place);
    let counted = chain.partials_of(run, element, &prover.count_proof(element).expect(&place));
    assert_eq!(counted, Ok(parts), "{place}");

    if parts == 0 {
        let (row, col) = prover.place(element).expect(&place);
        let right = fixture.tensor(element.node).bits(row, col);
        let proof = prover.element_proof(element, right).expect(&place);
        assert_eq!(chain.element(run, element, &leaf, &proof), Verdict::Right, "{place} {right:08x}");
        for bit in all {
            let (leaf, wrong) = flipped(&leaf, node.dtype, element.index as usize, bit);
            let proof = prover.element_proof(element, wrong).expect(&place);
            let verdict = chain.element(run, element, &leaf, &proof);
            assert_eq!(verdict, Verdict::Wrong, "{place} {right:08x}: bit {bit} flipped");
            tally.verdicts += 1;
        }
    } else {
        let right = partials(fixture, element);
        assert_eq!(right.len(), parts as usize, "{place}");
        for part in [0, n.next() as u32 % parts, parts - 1] {
            let proof = prover.partial_proof(element, part).expect(&place);
            assert_eq!(chain.partial(run, element, &right, part, &proof), Verdict::Right, "{place} part {part}");
            let mut wrong = right.clone();
            wrong[part as usize] ^= 1 << (n.next() % 32);
            assert_eq!(chain.partial(run, element, &wrong, part, &proof), Verdict::Wrong, "{place} part {part}");
            tally.verdicts += 2;
        }
        let proof = prover.sum_proof(element).expect(&place);
        assert_eq!(chain.sum(run, element, &leaf, &right, &proof), Verdict::Right, "{place}");
        for bit in all {
            let (leaf, _) = flipped(&leaf, DType::F32, element.index as usize, bit);
            assert_eq!(chain.sum(run, element, &leaf, &right, &proof), Verdict::Wrong, "{place}: bit {bit} flipped");
            tally.verdicts += 1;
        }
        // A wrong partial makes the sum wrong, unless it is lost in it.
        let mut wrong = right.clone();
        wrong[n.next() as usize % right.len()] ^= 1 << (n.next() % 32);
        let same = sum(fixture, element, &wrong) == sum(fixture, element, &right);
        let expected = if same { Verdict::Right } else { Verdict::Wrong };
        assert_eq!(chain.sum(run, element, &leaf, &wrong, &proof), expected, "{place}");
        // Another number of partials is wrong; and such an element cannot be judged in one go.
        assert_eq!(chain.sum(run, element, &leaf, &right[1..], &proof), Verdict::Wrong, "{place}");
        assert!(matches!(chain.element(run, element, &leaf, &proof), Verdict::Refused(_)), "{place}");
        tally.verdicts += 4;
    }
    *tally.elements.entry(node.op.name()).or_default() += 1;
    tally.verdicts += 2;
}

/// Elements of a node at its edges and anywhere.
fn sample(fixture: &Fixture, node: u32, count: usize, n: &mut Numbers) -> Vec<Element> {
    let tensor = fixture.tensor(node);
    let (rows, cols) = (tensor.rows(), tensor.cols());
    if cols == 0 {
        return Vec::new();
    }
    let mut elements = vec![fixture.element(node, rows - 1, cols - 1), fixture.element(node, 0, 0)];
    let any = |n: &mut Numbers| fixture.element(node, n.next() as usize % rows, n.next() as usize % cols);
    elements.extend((0..count.saturating_sub(2)).map(|_| any(n)));
    elements.truncate(count.min(rows * cols));
    elements
}

/// What does not need the operands.
fn check_node(chain: &mut Chain, fixture: &Fixture, node: u32) {
    let (run, tensor) = (&fixture.run, fixture.tensor(node));
    let place = format!("{} node {node}", fixture.name);
    let opening = fixture.trees.node(&fixture.model, node).expect(&place);
    let leaves = chain.leaves_of(IStepVerifier::leavesOfCall { run: run.clone(), node, opening: opening.clone() });
    assert_eq!(leaves, Ok(Some(tensor.leaf_count())), "{place}");
    let proof = fixture.prover().node_proof(node).expect(&place);
    let beyond = Element { node, leaf: tensor.leaf_count(), index: 0 };
    assert_eq!(chain.element(run, beyond, &[0; 4], &proof), Verdict::Wrong, "{place}: beyond the last leaf");
    if tensor.cols() > 0 {
        let element = fixture.element(node, tensor.rows() - 1, tensor.cols() - 1);
        let leaf = fixture.leaf(element);
        let longer = [leaf.as_slice(), &[0]].concat();
        for wrong in [&longer, &leaf[1..], &[]] {
            assert_eq!(chain.element(run, element, wrong, &proof), Verdict::Wrong, "{place}: {} bytes", wrong.len());
        }
        if tensor.dtype() == DType::F32 {
            let mut strange = leaf.clone();
            let start = element.index as usize * 4;
            strange[start..start + 4].copy_from_slice(&0xffc0_0001u32.to_le_bytes());
            assert_eq!(chain.element(run, element, &strange, &proof), Verdict::Wrong, "{place}: another NaN");
        }
        let outside = Element { index: (leaf.len() / tensor.dtype().size()) as u32, ..element };
        assert!(matches!(chain.element(run, outside, &leaf, &proof), Verdict::Refused(_)), "{place}: outside the leaf");
    }
}

#[test]
fn every_operation_of_the_test_models() {
    let mut chain = Chain::new();
    let mut n = Numbers::new(0x57e9);
    let mut tally = Tally::default();
    let mut fixtures: Vec<Fixture> = models::all().into_iter().map(|(name, m, r)| Fixture::new(name, m, r)).collect();
    // Several blocks of positions, and noise.
    let prompt: Vec<u32> = (0..130).map(|i| i * 7 % models::VOCABULARY).collect();
    fixtures.push(Fixture::new("long", models::causal(), models::ask_sampled(&prompt, 3, 0.9, 0.1, 5)));
    let nodes: usize = fixtures.iter().map(|fixture| fixture.view.tensors.len()).sum();
    let each = (wanted(1500) / nodes).max(2);
    for fixture in &fixtures {
        for node in 0..fixture.view.tensors.len() as u32 {
            check_node(&mut chain, fixture, node);
            for element in sample(fixture, node, each, &mut n) {
                check(&mut chain, fixture, element, &mut n, &mut tally);
            }
        }
    }
    println!("{} verdicts: {:?}", tally.verdicts, tally.elements);
    assert_eq!(tally.elements.len(), 28, "every operation");
}

#[test]
fn random_graphs() {
    let mut chain = Chain::new();
    let mut n = Numbers::new(0x9a9);
    let mut tally = Tally::default();
    let wanted = wanted(6000);
    let mut seed = 0;
    while tally.verdicts < wanted {
        let (model, request) = graphs::random(seed);
        let fixture = Fixture::new(format!("graph {seed}"), model, request);
        for node in 0..fixture.view.tensors.len() as u32 {
            check_node(&mut chain, &fixture, node);
            for element in sample(&fixture, node, 4, &mut n) {
                check(&mut chain, &fixture, element, &mut n, &mut tally);
            }
        }
        seed += 1;
    }
    println!("{} verdicts on {seed} graphs: {:?}", tally.verdicts, tally.elements);
    // All but those of generating programs, which are not random.
    assert_eq!(tally.elements.len(), 25, "every operation");
}

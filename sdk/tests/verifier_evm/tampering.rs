//! Whatever a challenger brings, a right element does not come out wrong.

use alloy_primitives::B256;
use alloy_sol_types::SolValue;
use candor_sdk::{
    bindings::{Element, NodeOpening},
    proof::format::{DataOpening, LeafOpening, StepProof},
};

use crate::{
    chain::{Chain, Verdict},
    fixture::Fixture,
    graphs,
    models::{self, Numbers},
    steps::partials,
    wanted,
};

/// A question about a right element: the answer must never be that it is wrong.
struct Question<'a> {
    fixture: &'a Fixture,
    element: Element,
    partials: Vec<u32>,
    /// `None`: the sum.
    part: Option<u32>,
    proof: Vec<u8>,
}

impl Question<'_> {
    fn ask(&self, chain: &mut Chain, proof: &[u8]) -> Verdict {
        let (run, leaf) = (&self.fixture.run, self.fixture.leaf(self.element));
        match self.part {
            _ if self.partials.is_empty() => chain.element(run, self.element, &leaf, proof),
            Some(part) => chain.partial(run, self.element, &self.partials, part, proof),
            None => chain.sum(run, self.element, &leaf, &self.partials, proof),
        }
    }
}

fn question<'a>(fixture: &'a Fixture, n: &mut Numbers) -> Question<'a> {
    let node = loop {
        let node = (n.next() % fixture.view.tensors.len() as u64) as u32;
        if fixture.tensor(node).cols() > 0 {
            break node;
        }
    };
    let tensor = fixture.tensor(node);
    let (row, col) = (n.next() as usize % tensor.rows(), n.next() as usize % tensor.cols());
    let element = fixture.element(node, row, col);
    let prover = fixture.prover();
    let count = prover.partials_of(element).expect("an element");
    let partials = if count == 0 { Vec::new() } else { partials(fixture, element) };
    let part = (count > 0 && n.next().is_multiple_of(2)).then(|| n.next() as u32 % count.max(1));
    let proof = match part {
        _ if count == 0 => prover.element_proof(element, tensor.bits(row, col)),
        Some(part) => prover.partial_proof(element, part),
        None => prover.sum_proof(element),
    };
    Question { fixture, element, partials, part, proof: proof.expect("a proof") }
}

fn any_path(path: &mut Vec<B256>, n: &mut Numbers) {
    match n.next() % 4 {
        0 => path.push(B256::ZERO),
        1 => drop(path.pop()),
        2 if !path.is_empty() => {
            let at = n.next() as usize % path.len();
            path[at].0[n.next() as usize % 32] ^= 1 << (n.next() % 8);
        }
        _ => path.reverse(),
    }
}

fn any_bytes(bytes: &mut alloy_primitives::Bytes, n: &mut Numbers) {
    let mut plain = bytes.to_vec();
    match n.next() % 4 {
        0 => plain.push(0),
        1 => drop(plain.pop()),
        _ if !plain.is_empty() => {
            let at = n.next() as usize % plain.len();
            plain[at] ^= 1 << (n.next() % 8);
        }
        _ => plain.extend([0; 32]),
    }
    *bytes = plain.into();
}

/// Changes something in a proof, with an eye on what it means; `other` is a proof of something else.
fn tampered(proof: &[u8], other: &[u8], n: &mut Numbers) -> Vec<u8> {
    let (Ok(mut proof), Ok(other)) = (StepProof::abi_decode(proof), StepProof::abi_decode(other)) else {
        return proof.to_vec();
    };
    let at = |n: &mut Numbers, length: usize| n.next() as usize % length.max(1);
    let (i, j) = (at(n, proof.operands.len()), at(n, proof.reads.len()));
    match n.next() % 18 {
        0 => any_path(&mut proof.node.path, n),
        1 => any_bytes(&mut proof.node.descriptor, n),
        2 => proof.node = NodeOpening { ..other.node },
        3 => proof.operands = other.operands,
        4 => proof.reads = other.reads,
        5 => proof.data = other.data,
        6 => proof.hint = n.next() % 5,
        7 => drop(proof.operands.pop()),
        8 => drop(proof.reads.pop()),
        9 => proof.operands.reverse(),
        10 => proof.reads.reverse(),
        11 => {
            proof.data = DataOpening { path: vec![proof.data.path.first().copied().unwrap_or_default()], ..proof.data }
        }
        12 if !proof.operands.is_empty() => any_path(&mut proof.operands[i].path, n),
        13 if !proof.operands.is_empty() => any_bytes(&mut proof.operands[i].descriptor, n),
        14 if !proof.operands.is_empty() => {
            // As if the weight did not exist.
            proof.operands[i].count = n.next() % 3;
            proof.operands[i].path.truncate(1);
        }
        15 if !proof.reads.is_empty() => any_path(&mut proof.reads[j].path, n),
        16 if !proof.reads.is_empty() => any_bytes(&mut proof.reads[j].data, n),
        17 if !proof.reads.is_empty() => {
            proof.reads[j] = other.reads.first().cloned().unwrap_or_else(LeafOpening::default);
        }
        _ => any_bytes(&mut proof.data.data, n),
    }
    proof.abi_encode()
}

#[test]
fn nothing_makes_a_right_element_wrong() {
    let mut chain = Chain::new();
    let mut n = Numbers::new(0x7a3);
    let mut fixtures: Vec<Fixture> = models::all().into_iter().map(|(name, m, r)| Fixture::new(name, m, r)).collect();
    fixtures.extend((100..106).map(|seed| {
        let (model, request) = graphs::random(seed);
        Fixture::new(format!("graph {seed}"), model, request)
    }));
    let (mut asked, mut refused) = (0, 0);
    let wanted = wanted(20_000);
    while asked < wanted {
        let fixture = &fixtures[n.next() as usize % fixtures.len()];
        let question = question(fixture, &mut n);
        let other = self::question(fixture, &mut n).proof;
        assert_eq!(question.ask(&mut chain, &question.proof), Verdict::Right);
        for _ in 0..16 {
            let proof = match n.next() % 3 {
                0 => {
                    let mut proof = question.proof.clone();
                    for _ in 0..1 + n.next() % 3 {
                        let at = n.next() as usize % proof.len();
                        proof[at] ^= 1 << (n.next() % 8);
                    }
                    proof
                }
                1 => question.proof[..n.next() as usize % question.proof.len()].to_vec(),
                _ => tampered(&question.proof, &other, &mut n),
            };
            let verdict = question.ask(&mut chain, &proof);
            let place = format!("{} {:?}", fixture.name, question.element);
            assert_ne!(verdict, Verdict::Wrong, "{place}: {:?}", StepProof::abi_decode(&proof));
            refused += usize::from(matches!(verdict, Verdict::Refused(_)));
            asked += 1;
        }
    }
    println!("{asked} tampered proofs, {refused} refused");
    assert!(refused > asked / 2, "most changes matter: {refused} of {asked} refused");
}

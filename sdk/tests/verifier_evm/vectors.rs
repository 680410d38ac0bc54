//! Golden questions with their answers, for the tests of the contracts themselves: `tests/vectors/steps*.json`.

#[path = "../common/golden.rs"]
mod golden;

use std::collections::BTreeMap;

use alloy_primitives::hex;
use alloy_sol_types::SolCall;
use candor_sdk::{
    bindings::{Element, IStepVerifier},
    program::Op,
};
use serde_json::json;

use crate::{
    fixture::Fixture,
    models::{self, Numbers},
    steps::partials,
};

/// A call whose answer is that nothing is wrong.
struct Right {
    calldata: Vec<u8>,
    /// A byte of what the operator claims: flipped, it is wrong.
    claimed: usize,
}

/// Where in calldata the bytes of the argument in this place begin.
fn place(calldata: &[u8], argument: usize) -> usize {
    let head = 4 + 32 * argument;
    let offset = calldata[head + 24..head + 32].iter().fold(0, |n, &byte| n << 8 | usize::from(byte));
    4 + offset + 32
}

/// Words of a run and an element, which come first.
const STATIC: usize = 23;

fn question(fixture: &Fixture, element: Element) -> Vec<(&'static str, Right)> {
    let (prover, run, leaf) = (fixture.prover(), fixture.run.clone(), fixture.leaf(element));
    let size = fixture.tensor(element.node).dtype().size();
    if prover.partials_of(element).expect("an element") == 0 {
        let (row, col) = prover.place(element).expect("an element");
        let right = fixture.tensor(element.node).bits(row, col);
        let proof = prover.element_proof(element, right).expect("a proof").into();
        let calldata = IStepVerifier::isElementWrongCall { run, element, leaf: leaf.into(), proof }.abi_encode();
        let claimed = place(&calldata, STATIC) + element.index as usize * size;
        return vec![("element", Right { calldata, claimed })];
    }
    let claimed: Vec<u8> = partials(fixture, element).iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let proof = prover.partial_proof(element, 1).expect("a proof").into();
    let partial = IStepVerifier::isPartialWrongCall {
        run: run.clone(),
        element,
        partials: claimed.clone().into(),
        part: 1,
        proof,
    }
    .abi_encode();
    let proof = prover.sum_proof(element).expect("a proof").into();
    let sum =
        IStepVerifier::isSumWrongCall { run, element, leaf: leaf.into(), partials: claimed.into(), proof }.abi_encode();
    vec![
        ("partial", Right { claimed: place(&partial, STATIC) + 4, calldata: partial }),
        ("sum", Right { claimed: place(&sum, STATIC) + element.index as usize * size, calldata: sum }),
    ]
}

/// The shortest question of each kind about each operation.
#[test]
fn questions_and_answers() {
    let mut n = Numbers::new(0x901d);
    let mut shortest: BTreeMap<(&str, &str), Right> = BTreeMap::new();
    let mut lies = BTreeMap::new();
    for (name, model, request) in models::all() {
        let fixture = Fixture::new(name, model, request);
        for node in 0..fixture.view.tensors.len() as u32 {
            let tensor = fixture.tensor(node);
            let op = &fixture.model.program.nodes[node as usize].op;
            for _ in 0..8 {
                let element =
                    fixture.element(node, n.next() as usize % tensor.rows(), n.next() as usize % tensor.cols());
                for (kind, right) in question(&fixture, element) {
                    let length = |known: &Right| known.calldata.len();
                    let known = shortest.get(&(op.name(), kind)).map_or(usize::MAX, length);
                    if right.calldata.len() < known {
                        shortest.insert((op.name(), kind), right);
                    }
                }
            }
            if *op == Op::Argmax && name == "mlp" {
                // Only another element refutes an index.
                let element = Element { node, leaf: 0, index: 0 };
                let wrong = (tensor.bits(0, 0) + 1) % 3;
                let proof = fixture.prover().element_proof(element, wrong).expect("a proof").into();
                let leaf = wrong.to_le_bytes().to_vec().into();
                let call = IStepVerifier::isElementWrongCall { run: fixture.run.clone(), element, leaf, proof };
                lies.insert("Argmax", call.abi_encode());
            }
        }
    }
    assert!(shortest.len() >= 29, "{} questions", shortest.len());
    let record = |operation: &str, kind: &str, calldata: &[u8], wrong: u32, claimed: usize| {
        let calldata = hex::encode_prefixed(calldata);
        json!({ "operation": operation, "kind": kind, "calldata": calldata, "wrong": wrong, "claimed": claimed })
    };
    let (mut plain, mut generation) = (Vec::new(), Vec::new());
    for ((operation, kind), right) in &shortest {
        // An index is refuted by a proof of its own.
        let claimed = if *operation == "Argmax" { 0 } else { right.claimed };
        let generates = ["Check", "Perturb", "Token", "Prefix", "Detok"].iter().any(|name| operation.starts_with(name));
        let list = if generates { &mut generation } else { &mut plain };
        list.push(record(operation, kind, &right.calldata, 0, claimed));
    }
    plain.extend(lies.iter().map(|(operation, calldata)| record(operation, "element", calldata, 1, 0)));
    golden::golden("steps.json", json!({ "steps": plain }));
    golden::golden("steps_generation.json", json!({ "steps": generation }));
}

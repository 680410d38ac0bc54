//! One element at a time, from what its step reads, is what a whole run has there.

use crate::{
    graphs, liars,
    models::{self, Numbers},
};
use candor_sdk::{
    dispute::{Reference, Tensors},
    program::{Interpreter, LEAF, Model, Request, Run},
};
use std::{collections::BTreeSet, sync::Arc};

/// Compares every element of a run, or of each node as many as `most`; the names of the operations.
fn check(name: &str, model: &Model, request: &Request, run: &Run, most: usize) -> Vec<&'static str> {
    let bound = model.bind(run.symbols).expect("bound before");
    let reference = Reference { model, bound: &bound, request, generated: &run.generated };
    let tensors = run.tensors.iter().cloned().map(Arc::new).enumerate();
    let tensors: Tensors = tensors.map(|(node, tensor)| (node as u32, tensor)).collect();
    let mut n = Numbers::new(5);
    for (node, tensor) in run.tensors.iter().enumerate() {
        let place = format!("{name} node {node} {}", model.program.nodes[node].op.name());
        let elements = tensor.rows() * tensor.cols();
        for index in 0..elements.min(most) {
            let index = if elements <= most { index } else { n.next() as usize % elements };
            let (row, col) = (index / tensor.cols(), index % tensor.cols());
            let element = reference.element(&tensors, node as u32, row, col);
            assert_eq!(element, Some(tensor.bits(row, col)), "{place} [{row}, {col}]");
            assert!(reference.work(&tensors, node as u32, row, col) > 0);
            let leaf = row as u64 * tensor.leaves_per_row() as u64 + (col / LEAF) as u64;
            let mut bytes = Vec::new();
            tensor.write_leaf(row, col / LEAF, &mut bytes);
            assert_eq!(reference.leaf(&tensors, node as u32, leaf), Some(bytes), "{place} leaf {leaf}");
        }
        assert_eq!(reference.element(&tensors, node as u32, tensor.rows(), 0), None, "{place}: beyond the last row");
    }
    model.program.nodes.iter().map(|node| node.op.name()).collect()
}

#[test]
fn an_element_from_its_step_is_the_runs() {
    let mut seen = BTreeSet::new();
    let (wide, request) = liars::wide();
    for (name, model, request) in models::all().into_iter().chain([("wide", wide, request)]) {
        let run = model.interpret(&request).expect("an answer");
        seen.extend(check(name, &model, &request, &run, 150));
    }
    // A claimed sequence that is false: checks that fail.
    let (model, request) = (models::causal(), models::ask_tokens(&[3, 1, 20, 9], 4));
    let run = Interpreter::new(&model).replay(&request, &[1, 2, 3]).expect("it can be run");
    seen.extend(check("a false sequence", &model, &request, &run, 150));
    assert_eq!(seen.len(), 28, "every operation is in one of the models: {seen:?}");
}

#[test]
fn an_element_from_its_step_is_the_runs_in_random_graphs() {
    for seed in 0..150 {
        let (model, request) = graphs::random(seed);
        let run = model.interpret(&request).expect("an answer");
        check(&format!("graph {seed}"), &model, &request, &run, 12);
    }
}

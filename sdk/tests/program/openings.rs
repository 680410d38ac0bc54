//! Openings of weights, descriptors, vocabulary and traces: every one verifies, and nothing else does.

use candor_sdk::program::{
    Model, NodeOpening, Symbols, TokenOpening, TraceBuilder, WeightOpening, WeightTensor, WeightsTree, tensor_root,
    tensor_tree,
};

use crate::models;

#[test]
fn weights_open() {
    for (name, model, _) in models::all() {
        let tree = WeightsTree::new(&model.weights);
        let root = tree.root();
        for (index, tensor) in model.weights.tensors().iter().enumerate() {
            for row in [0, tensor.rows() - 1] {
                for leaf in 0..tensor.leaves_per_row() {
                    let open =
                        |row: usize, leaf: usize| tree.open(&model.weights, index as u32, row as u32, leaf as u32);
                    let opening = open(row, leaf).expect("the leaf exists");
                    assert!(opening.verify(&root), "{name} {tensor:?} row {row} leaf {leaf}");
                    assert_eq!(opening.bytes, tensor.leaf(row, leaf));
                    let lies: [fn(&mut WeightOpening); 9] = [
                        |o| o.bytes[0] ^= 1,
                        |o| o.bytes.push(0),
                        |o| o.index += 1,
                        |o| o.count += 1,
                        |o| o.row += 1,
                        |o| o.leaf += 1,
                        |o| o.descriptor.rows += 1,
                        |o| o.descriptor.cols += 1,
                        |o| o.descriptor.dtype ^= 1,
                    ];
                    for (number, lie) in lies.iter().enumerate() {
                        let mut opening = opening.clone();
                        lie(&mut opening);
                        assert!(!opening.verify(&root), "{name} {tensor:?}: lie {number}");
                    }
                }
            }
            assert!(tree.open(&model.weights, index as u32, tensor.rows() as u32, 0).is_none());
            assert!(tree.open(&model.weights, index as u32, 0, tensor.leaves_per_row() as u32).is_none());
        }
        assert!(tree.open(&model.weights, model.weights.tensors().len() as u32, 0, 0).is_none());
    }
}

#[test]
fn nodes_and_tokens_open() {
    let model = models::causal();
    let root = model.program.graph_root();
    for index in 0..model.program.nodes.len() as u32 {
        let opening = model.program.open_node(index).expect("the node exists");
        assert!(opening.verify(&root));
        let lies: [fn(&mut NodeOpening); 3] = [|o| o.index += 1, |o| o.count += 1, |o| o.descriptor[31] ^= 1];
        for lie in lies {
            let mut opening = opening.clone();
            lie(&mut opening);
            assert!(!opening.verify(&root));
        }
    }
    assert!(model.program.open_node(model.program.nodes.len() as u32).is_none());
    let root = model.vocab_root();
    for token in 0..models::VOCABULARY {
        let opening = model.open_token(token).expect("the token exists");
        assert!(opening.verify(&root));
        assert_eq!(opening.bytes, model.vocabulary[token as usize]);
        let lies: [fn(&mut TokenOpening); 3] = [|o| o.token += 1, |o| o.count -= 1, |o| o.bytes.push(b'!')];
        for lie in lies {
            let mut opening = opening.clone();
            lie(&mut opening);
            assert!(!opening.verify(&root));
        }
    }
    assert!(model.open_token(models::VOCABULARY).is_none());
}

#[test]
fn traces_open() {
    for (name, model, request) in models::all() {
        let run = model.interpret(&request).expect(name);
        let mut builder = TraceBuilder::default();
        run.tensors.iter().for_each(|tensor| builder.push(tensor));
        let trace = builder.finish(run.symbols);
        let (root, nodes) = (trace.root(), run.tensors.len() as u64);
        for (index, tensor) in run.tensors.iter().enumerate() {
            assert_eq!(tensor_root(tensor), tensor_tree(tensor).root());
            if tensor.cols() == 0 {
                continue;
            }
            let (row, leaf) = (tensor.rows() as u32 - 1, tensor.leaves_per_row() as u32 - 1);
            let opening = trace.open(index as u32, tensor, row, leaf).expect("the leaf exists");
            let leaves = tensor.leaf_count();
            assert_eq!(opening.position, leaves - 1);
            assert!(opening.verify(&root, &run.symbols, nodes, leaves), "{name} node {index}");
            assert!(!opening.verify(&root, &Symbols::default(), nodes, leaves), "other symbols");
            assert!(!opening.verify(&root, &run.symbols, nodes, leaves - 1), "beyond the tensor");
            assert!(!opening.verify(&root, &run.symbols, 2 * nodes + 2, leaves), "a path of another length");
            let mut wrong = opening.clone();
            wrong.bytes[0] ^= 1;
            assert!(!wrong.verify(&root, &run.symbols, nodes, leaves), "another element");
            // The neighbour may hold the same tensor; then the opening is a true one of both.
            let same = run.tensors.get(index + 1).is_some_and(|next| tensor_root(next) == tensor_root(tensor));
            let mut wrong = opening.clone();
            wrong.node += 1;
            assert!(same || !wrong.verify(&root, &run.symbols, nodes, leaves), "another node");
            assert!(trace.open(index as u32, tensor, row + 1, 0).is_none());
        }
    }
}

/// One flipped bit anywhere changes the model id.
#[test]
fn the_model_id_commits_to_everything() {
    let id = models::causal().model_id();
    assert_eq!(models::causal().model_id(), id);
    let changes: [fn(&mut Model); 6] = [
        |m| m.limits.max_tokens -= 1,
        |m| m.vocabulary[5][0] ^= 1,
        |m| m.vocabulary.push(vec![]),
        |m| m.program.nodes[3].rows.constant += 1,
        |m| m.program.nodes.truncate(5),
        |m| {
            let flip = |t: &WeightTensor| {
                let mut bytes = t.bytes().to_vec();
                bytes[9] ^= 1;
                let shape = (t.rows() as u32, t.cols() as u32);
                WeightTensor::new(t.name(), shape, t.dtype(), std::sync::Arc::new(bytes))
            };
            let mut tensors: Vec<_> = m.weights.tensors().to_vec();
            tensors[4] = flip(&tensors[4]).expect("the same shape");
            m.weights = tensors.into_iter().collect();
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut model = models::causal();
        change(&mut model);
        assert_ne!(model.model_id(), id, "change {number}");
    }
    let mut model = models::causal();
    model.program.nodes[3].label = "renamed".to_string();
    assert_eq!(model.model_id(), id, "labels are for people");
}

//! Golden vectors, shared with Solidity and the engines: `tests/vectors/merkle.json` and `program*.json`.
//!
//! A plain run recomputes every file and compares it byte for byte; `CANDOR_BLESS=1 cargo test -p candor-sdk --test
//! program vectors` writes them. Bytes and hashes are hexadecimal.

use std::{fs, path::PathBuf};

use candor_sdk::{
    merkle::{Domain, Tree, hash},
    program::{BinaryFunction, Model, Request, TraceBuilder, UnaryFunction, WeightsTree, tensor_root},
};
use serde_json::{Value, json};

use crate::{golden::golden, models};

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold("0x".to_string(), |text, byte| text + &format!("{byte:02x}"))
}

fn path(path: &[alloy_primitives::B256]) -> Vec<String> {
    path.iter().map(hex).collect()
}

#[test]
fn merkle() {
    let cases: Vec<Value> = [0u64, 1, 2, 3, 4, 5, 7, 8, 9, 16, 21]
        .into_iter()
        .map(|count| {
            let leaves: Vec<_> = (0..count).map(|i| hash(Domain::TraceLeaf, &[&i.to_be_bytes()])).collect();
            let tree = Tree::new(leaves.clone());
            let paths: Vec<_> = (0..count).map(|i| path(&tree.path(i).expect("the leaf exists"))).collect();
            json!({ "count": count, "leaves": path(&leaves), "root": hex(tree.root()), "paths": paths })
        })
        .collect();
    let domains = [
        Domain::Inner,
        Domain::WeightLeaf,
        Domain::TraceLeaf,
        Domain::Node,
        Domain::Tensor,
        Domain::Token,
        Domain::Counted,
        Domain::Trace,
    ];
    let domains: Vec<Value> = domains
        .iter()
        .map(|domain| {
            let name = format!("{domain:?}");
            json!({ "name": name, "byte": *domain as u8, "hashOfAbc": hex(hash(*domain, &[b"a", b"bc"])) })
        })
        .collect();
    golden("merkle.json", json!({ "domains": domains, "trees": cases }));
}

/// Identity and a run of each test model.
fn model_vector(name: &str, model: &Model, request: &Request) -> Value {
    let descriptor = model.descriptor();
    let run = model.interpret(request).expect(name);
    let mut builder = TraceBuilder::default();
    run.tensors.iter().for_each(|tensor| builder.push(tensor));
    let trace = builder.finish(run.symbols);
    let nodes: Vec<Value> = (model.program.nodes.iter().zip(&run.tensors))
        .map(|(node, tensor)| {
            json!({
                "op": node.op.name(),
                "descriptor": hex(node.encode()),
                "rows": tensor.rows(),
                "cols": tensor.cols(),
                "root": hex(tensor_root(tensor)),
            })
        })
        .collect();
    let weights = WeightsTree::new(&model.weights);
    let tensors: Vec<Value> = (model.weights.tensors().iter().zip(weights.descriptors()))
        .map(|(tensor, descriptor)| {
            json!({
                "name": tensor.name(),
                "rows": descriptor.rows,
                "cols": descriptor.cols,
                "dtype": descriptor.dtype,
                "root": hex(descriptor.root),
            })
        })
        .collect();

    // One opening of each kind: the last leaf of the widest tensor, and of the last weight.
    let widest = (0..run.tensors.len()).max_by_key(|&i| (run.tensors[i].cols(), i)).expect("a graph has nodes");
    let tensor = &run.tensors[widest];
    let trace_opening = trace
        .open(widest as u32, tensor, tensor.rows() as u32 - 1, tensor.leaves_per_row() as u32 - 1)
        .expect("the leaf exists");
    let last = model.weights.tensors().len() - 1;
    let tensor = &model.weights.tensors()[last];
    let weight_opening = weights
        .open(&model.weights, last as u32, tensor.rows() as u32 - 1, tensor.leaves_per_row() as u32 - 1)
        .expect("the leaf exists");
    let node_opening = model.program.open_node(widest as u32).expect("the node exists");
    let token_opening = model.open_token(7).map(|opening| {
        json!({ "token": 7, "count": opening.count, "bytes": hex(&opening.bytes), "path": path(&opening.path) })
    });
    json!({
        "name": name,
        "modelId": hex(model.model_id().0),
        "descriptor": {
            "arithmeticVersion": descriptor.arithmetic_version,
            "graphRoot": hex(descriptor.graph_root),
            "weightsRoot": hex(descriptor.weights_root),
            "vocabRoot": hex(descriptor.vocab_root),
            "minInputBytes": descriptor.limits.min_input_bytes,
            "maxInputBytes": descriptor.limits.max_input_bytes,
            "maxOutputBytes": descriptor.limits.max_output_bytes,
            "maxTokens": descriptor.limits.max_tokens,
        },
        "request": {
            "input": hex(&request.input),
            "maxTokens": request.params.max_tokens,
            "temperature": request.params.temperature,
            "minP": request.params.min_p,
            "seed": hex(request.seed),
        },
        "symbols": {
            "S": run.symbols.sequence,
            "P": run.symbols.prompt,
            "B": run.symbols.input_bytes,
            "O": run.symbols.output_bytes,
        },
        "output": hex(&run.output),
        "generated": run.generated,
        "traceRoot": hex(trace.root()),
        "nodes": nodes,
        "weights": tensors,
        "openings": {
            "trace": {
                "node": trace_opening.node,
                "position": trace_opening.position,
                "bytes": hex(&trace_opening.bytes),
                "path": path(&trace_opening.path),
                "nodePath": path(&trace_opening.node_path),
            },
            "weight": {
                "index": weight_opening.index,
                "count": weight_opening.count,
                "row": weight_opening.row,
                "leaf": weight_opening.leaf,
                "bytes": hex(&weight_opening.bytes),
                "path": path(&weight_opening.path),
                "tensorPath": path(&weight_opening.tensor_path),
            },
            "node": {
                "index": node_opening.index,
                "count": node_opening.count,
                "path": path(&node_opening.path),
            },
            "token": token_opening,
        },
    })
}

#[test]
fn programs() {
    for (name, model, request) in models::all() {
        golden(&format!("program_{name}.json"), model_vector(name, &model, &request));
    }
}

/// The tables of the document are those of the code.
#[test]
fn the_document_names_the_same_codes() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/program.md");
    let text = fs::read_to_string(path).expect("docs/program.md");
    // Rows of the table of operations: two hexadecimal digits, then the name with its attributes.
    let mut documented = std::collections::BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("| ")) {
        let mut cells = line.split(" | ");
        let (Some(code), Some(name)) = (cells.next(), cells.next()) else { continue };
        if let (Ok(code), Some(name), 2..) = (u8::from_str_radix(code, 16), name.split('(').next(), cells.count()) {
            documented.insert(name.to_string(), code);
        }
    }
    let models = models::all();
    let nodes = models.iter().flat_map(|(_, model, _)| &model.program.nodes);
    let coded: std::collections::BTreeMap<String, u8> =
        nodes.map(|node| (node.op.name().to_string(), node.op.code())).collect();
    assert_eq!(documented, coded);

    let functions = text.replace('\n', " ");
    for (code, function) in UnaryFunction::ALL.iter().enumerate() {
        let name = match function {
            UnaryFunction::GeluErf => "gelu by erf".to_string(),
            UnaryFunction::GeluTanh => "gelu by tanh".to_string(),
            other => format!("{other:?}").to_lowercase(),
        };
        assert!(functions.contains(&format!("{code} {name}")), "{code} {name}");
    }
    for (code, function) in BinaryFunction::ALL.iter().enumerate() {
        let name = match function {
            BinaryFunction::ExpSub => "`exp(sub(x, y))`".to_string(),
            BinaryFunction::LessEqual => "less or equal".to_string(),
            other => format!("{other:?}").to_lowercase(),
        };
        assert!(functions.contains(&format!("{code} {name}")), "{code} {name}");
    }
}

//! ONNX files: what the importer makes of them is what candle computes, the engine and the reference agree on it to the bit,
//! and what is not understood is refused by name.

mod engine_common;

use candle_onnx::onnx::AttributeProto;
use candor_relayer::engine::import::{self, ImportError, Imported, Precision};
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::program::WeightTensor;
use engine_common::Random;
use engine_common::onnx::{Graph, INT32, INT64, Size, bytes, float, floats, info, int, ints, known, text};
use serde_json::json;

/// The import agrees with candle, and the engine with the reference.
fn sound(imported: &Imported, what: &str) {
    let probes = imported.probes(3);
    let check = imported.check(&probes).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(check.agrees(), "{what}: {check}");
    let engine = LoadedModel::load(imported.model.clone(), Device::Cpu).expect(what);
    for input in probes {
        let request = InferRequest { input, ..InferRequest::default() };
        let reference = imported.model.interpret(&request).expect(what);
        let answers = engine.infer(std::slice::from_ref(&request));
        assert_eq!(answers[0].as_ref().expect(what), &reference.output, "{what}");
    }
}

fn refused(result: Result<Imported, ImportError>, named: &[&str]) {
    let error = result.err().map(|error| error.to_string()).unwrap_or_else(|| panic!("{named:?} is not refused"));
    for name in named {
        assert!(error.contains(name), "{error:?} does not mention {name:?}");
    }
}

#[test]
fn a_perceptron() {
    let imported = Graph::floats(&[1, 6])
        .weight("w1", &[6, 10])
        .weight("b1", &[10])
        .weight("w2", &[4, 10])
        .weight("b2", &[4])
        .node("MatMul", &["x", "w1"], "a", vec![])
        .node("Add", &["a", "b1"], "b", vec![])
        .node("Relu", &["b"], "c", vec![])
        .node("Gemm", &["c", "w2", "b2"], "d", vec![int("transB", 1)])
        .node("Softmax", &["d"], "y", vec![int("axis", -1)])
        .import("y")
        .expect("a model");
    assert_eq!((imported.model.limits.min_input_bytes, imported.model.limits.max_output_bytes), (24, 16));
    assert_eq!(imported.family.name(), "onnx");
    sound(&imported, "perceptron");
}

#[test]
fn a_convolutional_network() {
    let imported = Graph::floats(&[1, 3, 9, 8])
        .weight("k1", &[4, 3, 3, 3])
        .weight("b1", &[4])
        .weight("k2", &[4, 2, 3, 2])
        .weight("scale", &[4])
        .weight("bias", &[4])
        .weight("mean", &[4])
        .constant("variance", &[4], &[0.5, 1.0, 2.0, 0.25])
        .weight("w", &[4, 5])
        .node("Conv", &["x", "k1", "b1"], "a", vec![ints("pads", &[1, 1, 1, 1]), ints("kernel_shape", &[3, 3])])
        .node("BatchNormalization", &["a", "scale", "bias", "mean", "variance"], "b", vec![float("epsilon", 1e-3)])
        .node("Relu", &["b"], "c", vec![])
        .node(
            "MaxPool",
            &["c"],
            "d",
            vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2]), ints("pads", &[0, 1, 1, 1])],
        )
        .node("Conv", &["d", "k2"], "e", vec![int("group", 2), ints("strides", &[2, 1]), ints("pads", &[1, 0, 1, 0])])
        .node("GlobalAveragePool", &["e"], "f", vec![])
        .node("Flatten", &["f"], "g", vec![])
        .node("Gemm", &["g", "w"], "y", vec![])
        .import("y")
        .expect("a model");
    sound(&imported, "convolutional network");
}

/// Every operation on `[1, 4, 6]` of floats, `x`, and constants of some shapes.
#[test]
fn operations_one_by_one() {
    let one = |op: &str, inputs: &[&str], attributes: Vec<AttributeProto>| {
        let imported = Graph::floats(&[1, 4, 6])
            .weight("v", &[6])
            .weight("column", &[4, 1])
            .weight("like", &[1, 4, 6])
            .weight("square", &[6, 6])
            .constant("half", &[], &[0.5])
            .constant("two", &[], &[2.0])
            .constant("cube", &[], &[3.0])
            .constant("three", &[1], &[3.0])
            .ints("axes", &[1])
            .ints("last", &[-1])
            .ints("first", &[0])
            .ints("rows", &[2, 0, 3, 2])
            .ints("shape", &[0, 3, -1])
            .ints("twice", &[1, 2, 3])
            .ints("starts", &[1, 0])
            .ints("ends", &[4, 1000])
            .ints("dims", &[1, 2])
            .ints("steps", &[1, 2])
            .ints("pads", &[0, 1, 0, 0, 0, 2])
            .node(op, inputs, "y", attributes)
            .import("y")
            .unwrap_or_else(|error| panic!("{op}: {error}"));
        sound(&imported, op);
    };
    for op in [
        "Neg",
        "Abs",
        "Relu",
        "Exp",
        "Tanh",
        "Sigmoid",
        "Erf",
        "Reciprocal",
        "Softsign",
        "Elu",
        "HardSigmoid",
        "HardSwish",
    ] {
        one(op, &["x"], vec![]);
    }
    for op in ["Add", "Sub", "Mul", "Div", "Max", "Min"] {
        for other in ["v", "column", "like", "half", "x"] {
            one(op, &["x", other], vec![]);
            one(op, &[other, "x"], vec![]);
        }
    }
    one("Sum", &["x", "v", "column"], vec![]);
    one("Mean", &["x", "v", "like"], vec![]);
    one("Pow", &["x", "two"], vec![]);
    one("Pow", &["x", "cube"], vec![]);
    one("Gelu", &["x"], vec![]);
    one("Gelu", &["x"], vec![text("approximate", "tanh")]);
    one("LeakyRelu", &["x"], vec![float("alpha", 0.2)]);
    one("PRelu", &["x", "v"], vec![]);
    one("Clip", &["x", "half", "two"], vec![]);
    one("MatMul", &["x", "square"], vec![]);
    one("Softmax", &["x"], vec![int("axis", 1)]);
    one("LogSoftmax", &["x"], vec![]);
    for op in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"] {
        one(op, &["x", "axes"], vec![int("keepdims", 0)]);
        one(op, &["x", "last"], vec![]);
    }
    one("LayerNormalization", &["x", "v", "v"], vec![float("epsilon", 1e-3)]);
    one("LpNormalization", &["x"], vec![int("axis", 1)]);
    one("Transpose", &["x"], vec![ints("perm", &[2, 0, 1])]);
    one("Reshape", &["x", "shape"], vec![]);
    one("Flatten", &["x"], vec![int("axis", 2)]);
    one("Unsqueeze", &["x", "axes"], vec![]);
    one("Squeeze", &["x", "first"], vec![]);
    one("Tile", &["x", "twice"], vec![]);
    one("Slice", &["x", "starts", "ends", "dims", "steps"], vec![]);
    one("Gather", &["x", "rows"], vec![int("axis", 1)]);
    one("Concat", &["x", "like", "x"], vec![int("axis", 1)]);
    one("Concat", &["x", "like"], vec![int("axis", -1)]);
    one("Pad", &["x", "pads", "half"], vec![]);
    one("Identity", &["x"], vec![]);
}

/// Images that grow: elements repeated, and windows that become of each place.
#[test]
fn images_that_grow() {
    let graph = |opset| {
        let mut graph = Graph::floats(&[1, 3, 4, 5]);
        graph.model.opset_import[0].version = opset;
        graph
            .constant("roi", &[0], &[])
            .constant("scales", &[4], &[1.0, 1.0, 2.0, 3.0])
            .constant("half", &[4], &[1.0, 1.0, 1.5, 2.0])
            .constant("two", &[2], &[2.0, 2.0])
            .ints("sizes", &[1, 3, 8, 5])
            .weight("k", &[4, 3, 3, 3])
            .weight("t", &[3, 2, 2, 2])
            .weight("b", &[2])
            .weight("image", &[1, 3, 8, 15])
    };
    let asymmetric = || vec![text("coordinate_transformation_mode", "asymmetric"), text("nearest_mode", "floor")];
    let resize = |inputs: &[&str], attributes| graph(13).node("Resize", inputs, "y", attributes);
    let sound_as = |graph: Graph, what: &str| sound(&graph.import("y").unwrap_or_else(|e| panic!("{what}: {e}")), what);
    sound_as(resize(&["x", "roi", "scales"], asymmetric()), "asymmetric");
    sound_as(resize(&["x", "", "scales"], vec![]), "half a pixel");
    sound_as(resize(&["x", "", "", "sizes"], asymmetric()), "sizes");
    let two = vec![ints("axes", &[2, -1])];
    sound_as(graph(18).node("Resize", &["x", "", "two"], "y", two), "two dimensions");
    sound_as(graph(9).node("Upsample", &["x", "scales"], "y", vec![text("mode", "nearest")]), "upsample");
    sound_as(graph(10).node("Resize", &["x", "scales"], "y", vec![]), "version 10");
    // As networks that look at several scales use it: beside, and in front of, other layers.
    let pyramid = resize(&["x", "roi", "scales"], asymmetric());
    let pyramid = pyramid.node("Add", &["y", "image"], "z", vec![]).node("Relu", &["z"], "r", vec![]);
    let pyramid = pyramid.node("Conv", &["y", "k"], "c", vec![ints("pads", &[1, 1, 1, 1])]);
    let pyramid = pyramid.node("Concat", &["c", "r"], "all", vec![int("axis", 1)]);
    sound(&pyramid.import("all").expect("a model"), "pyramid");

    let strides = || vec![ints("strides", &[2, 2]), ints("kernel_shape", &[2, 2])];
    sound_as(graph(13).node("ConvTranspose", &["x", "t"], "y", strides()), "transposed");
    let grown =
        graph(13).node("ConvTranspose", &["x", "t", "b"], "t0", strides()).node("Sigmoid", &["t0"], "y", vec![]);
    sound_as(grown, "transposed, with a bias");
    let line = Graph::floats(&[1, 3, 6]).weight("t", &[3, 2, 4]);
    sound_as(line.node("ConvTranspose", &["x", "t"], "y", vec![ints("strides", &[4])]), "in one dimension");

    let linear = vec![text("mode", "linear")];
    refused(resize(&["x", "", "scales"], linear).import("y"), &["Resize", "linear"]);
    refused(resize(&["x", "", "half"], asymmetric()).import("y"), &["Resize", "dimension 2", "whole number"]);
    let corners = vec![text("coordinate_transformation_mode", "align_corners")];
    refused(resize(&["x", "", "scales"], corners).import("y"), &["Resize", "align_corners"]);
    let overlapping = graph(13).node("ConvTranspose", &["x", "t"], "y", vec![]);
    refused(overlapping.import("y"), &["ConvTranspose", "strides", "overlap"]);
    let cut = [strides(), vec![ints("pads", &[1, 1, 1, 1])]].concat();
    refused(graph(13).node("ConvTranspose", &["x", "t"], "y", cut).import("y"), &["ConvTranspose", "pads"]);
}

#[test]
fn refusals_name_the_node() {
    let graph = || Graph::floats(&[1, 4, 6]).weight("v", &[6]).weight("w", &[5, 3]);
    refused(graph().node("Einsum", &["x"], "y", vec![]).import("y"), &["Einsum", "the Einsum", "not understood"]);
    refused(graph().node("Add", &["x", "w"], "y", vec![]).import("y"), &["Add", "[1, 4, 6]", "[5, 3]"]);
    refused(graph().node("MatMul", &["x", "w"], "y", vec![]).import("y"), &["MatMul", "[1, 4, 6]", "[5, 3]"]);
    refused(graph().node("Add", &["x", "z"], "y", vec![]).import("y"), &["Add", "\"z\"", "no earlier node"]);
    refused(graph().node("Relu", &["x"], "y", vec![float("leak", 0.1)]).import("y"), &["Relu", "leak"]);
    refused(graph().node("Relu", &["x"], "z", vec![]).import("y"), &["output[0]", "\"y\""]);
    refused(graph().node("Softmax", &["x"], "y", vec![int("axis", 7)]).import("y"), &["Softmax", "axis 7"]);
    let mut foreign = graph().node("FastGelu", &["x"], "y", vec![]);
    foreign.graph().node[0].domain = "com.microsoft".into();
    refused(foreign.import("y"), &["FastGelu", "com.microsoft"]);
    let mut old = graph().node("Relu", &["x"], "y", vec![]);
    old.model.opset_import[0].version = 3;
    refused(old.import("y"), &["version 3"]);
    let ids = || Graph::new(17, vec![info("ids", INT64, &known(&[1, 4]))]).weight("table", &[9, 3]);
    refused(ids().node("Gather", &["table", "ids"], "y", vec![]).import("y"), &["ids (INT64)", "config.json"]);
    let tokens = |bound: u32| json!({ "architecture": "onnx", "input": { "kind": "tokens", "bound": bound }, "output": [{ "kind": "f32be" }] });
    sound(&ids().node("Gather", &["table", "ids"], "y", vec![]).import_as("y", tokens(9)).expect("a model"), "gather");
    refused(ids().node("Gather", &["table", "ids"], "y", vec![]).import_as("y", tokens(10)), &["inputs[0]", "9 rows"]);
}

/// A transformer layer as exporters write it: a sequence of any length, shapes computed from shapes, a mask made from an
/// input, positions cut from a list, attention by matrix products.
fn encoder(opset: i64) -> Graph {
    let open = |name: &str| info(name, INT64, &[Size::Open("batch"), Size::Open("sequence")]);
    Graph::new(opset, vec![open("input_ids"), open("attention_mask"), open("token_type_ids")])
        .weight("words", &[30, 8])
        .weight("places", &[16, 8])
        .weight("kinds", &[2, 8])
        .weight("scale", &[8])
        .weight("bias", &[8])
        .weight("q", &[8, 8])
        .weight("k", &[8, 8])
        .weight("v", &[8, 8])
        .weight("o", &[8, 8])
        .constant("one", &[], &[1.0])
        .constant("large", &[], &[-10000.0])
        .constant("root", &[], &[2.0])
        .constant("epsilon", &[], &[1e-5])
        .constant("square", &[], &[2.0])
        .ints("zero", &[0])
        .ints("first", &[1])
        .ints("onetwo", &[1, 2])
        .ints("heads", &[2])
        .ints("four", &[4])
        .ints("eight", &[8])
        .ints("positions", &(0..16).collect::<Vec<i64>>())
        .node("Shape", &["input_ids"], "shape", vec![])
        .node("Slice", &["shape", "first", "heads"], "length", vec![])
        .node("Slice", &["positions", "zero", "length", "zero"], "at", vec![])
        .node("Gather", &["words", "input_ids"], "word", vec![])
        .node("Gather", &["places", "at"], "place", vec![])
        .node("Gather", &["kinds", "token_type_ids"], "kind", vec![])
        .node("Add", &["word", "kind"], "sum", vec![])
        .node("Add", &["sum", "place"], "x0", vec![])
        // A norm in pieces.
        .node("ReduceMean", &["x0"], "mean", vec![ints("axes", &[-1])])
        .node("Sub", &["x0", "mean"], "centred", vec![])
        .node("Pow", &["centred", "square"], "squares", vec![])
        .node("ReduceMean", &["squares"], "variance", vec![ints("axes", &[-1])])
        .node("Add", &["variance", "epsilon"], "shifted", vec![])
        .node("Sqrt", &["shifted"], "deviation", vec![])
        .node("Div", &["centred", "deviation"], "normal", vec![])
        .node("Mul", &["normal", "scale"], "scaled", vec![])
        .node("Add", &["scaled", "bias"], "x", vec![])
        // The mask: 0 where something is, -10000 where not.
        .node("Unsqueeze", &["attention_mask", "onetwo"], "mask0", vec![])
        .node("Cast", &["mask0"], "mask1", vec![int("to", 1)])
        .node("Sub", &["one", "mask1"], "mask2", vec![])
        .node("Mul", &["mask2", "large"], "mask", vec![])
        // Two heads.
        .node("Concat", &["zero_batch", "length", "heads", "four"], "split", vec![int("axis", 0)])
        .node("Concat", &["zero_batch", "length", "eight"], "join", vec![int("axis", 0)])
        .node("MatMul", &["x", "q"], "q0", vec![])
        .node("Reshape", &["q0", "split"], "q1", vec![])
        .node("Transpose", &["q1"], "q2", vec![ints("perm", &[0, 2, 1, 3])])
        .node("MatMul", &["x", "k"], "k0", vec![])
        .node("Reshape", &["k0", "split"], "k1", vec![])
        .node("Transpose", &["k1"], "k2", vec![ints("perm", &[0, 2, 3, 1])])
        .node("MatMul", &["x", "v"], "v0", vec![])
        .node("Reshape", &["v0", "split"], "v1", vec![])
        .node("Transpose", &["v1"], "v2", vec![ints("perm", &[0, 2, 1, 3])])
        .node("MatMul", &["q2", "k2"], "scores0", vec![])
        .node("Div", &["scores0", "root"], "scores1", vec![])
        .node("Add", &["scores1", "mask"], "scores", vec![])
        .node("Softmax", &["scores"], "weights", vec![int("axis", -1)])
        .node("MatMul", &["weights", "v2"], "mix0", vec![])
        .node("Transpose", &["mix0"], "mix1", vec![ints("perm", &[0, 2, 1, 3])])
        .node("Reshape", &["mix1", "join"], "mix", vec![])
        .node("MatMul", &["mix", "o"], "out", vec![])
        .node("Add", &["out", "x"], "hidden", vec![])
        // The mean of what the mask lets through.
        .node("ReduceSum", &["hidden", "first"], "y", vec![int("keepdims", 0)])
}

#[test]
fn an_encoder_of_any_length() {
    let config = || {
        json!({
            "architecture": "onnx", "name": "encoder",
            "input": { "kind": "tokens", "name": "input_ids", "bound": 30, "longest": 16 },
            "fixed": { "attention_mask": 1, "token_type_ids": 0 },
            "output": [{ "kind": "f32be" }],
        })
    };
    let with_batch = |opset| {
        let mut graph = encoder(opset).ints("zero_batch", &[1]);
        // A constant that comes late in the file is one all the same.
        graph.graph().initializer.reverse();
        graph
    };
    let imported = with_batch(13).import_as("y", config()).expect("a model");
    assert_eq!((imported.model.limits.min_input_bytes, imported.model.limits.max_input_bytes), (4, 64));
    sound(&imported, "encoder");
    // A sequence that is longer than there are positions.
    let mut long = config();
    long["input"]["longest"] = json!(17);
    refused(with_batch(13).import_as("y", long), &["Gather", "16"]);
    // What the description leaves out, or has too much.
    let mut without = config();
    without["fixed"] = json!({ "attention_mask": 1 });
    refused(with_batch(13).import_as("y", without), &["fixed", "token_type_ids"]);
    let mut more = config();
    more["fixed"]["position_ids"] = json!(0);
    refused(with_batch(13).import_as("y", more), &["fixed.position_ids", "no input"]);
}

/// Weights of MatMul, Gemm and Conv in another type, in models of any length too.
#[test]
fn quantised_at_import() {
    let perceptron = Graph::floats(&[1, 64])
        .weight("w1", &[64, 96])
        .weight("b1", &[96])
        .weight("w2", &[10, 96])
        .weight("b2", &[10])
        .node("MatMul", &["x", "w1"], "a", vec![])
        .node("Add", &["a", "b1"], "b", vec![])
        .node("Relu", &["b"], "c", vec![])
        .node("Gemm", &["c", "w2", "b2"], "y", vec![int("transB", 1)])
        .import("y");
    let convolutional = Graph::floats(&[1, 8, 6, 6])
        .weight("k1", &[32, 8, 2, 2])
        .weight("k2", &[16, 32, 3, 3])
        .weight("t", &[16, 4, 2, 2])
        .node("Conv", &["x", "k1"], "a", vec![])
        .node("Relu", &["a"], "b", vec![])
        .node("Conv", &["b", "k2"], "c", vec![ints("strides", &[2, 2])])
        .node("ConvTranspose", &["c", "t"], "y", vec![ints("strides", &[2, 2])])
        .import("y");
    let encoder = encoder(13).ints("zero_batch", &[1]).import_as(
        "y",
        json!({
            "architecture": "onnx", "input": { "kind": "tokens", "name": "input_ids", "bound": 30, "longest": 16 },
            "fixed": { "attention_mask": 1, "token_type_ids": 0 }, "output": [{ "kind": "f32be" }],
        }),
    );
    let models = [("perceptron", perceptron, 2), ("convolutional", convolutional, 3), ("encoder", encoder, 4)];
    for (what, stored, layers) in models {
        let stored = stored.expect(what);
        for precision in Precision::ALL {
            let what = format!("{what} as {precision}");
            let converted = import::quantise(&stored, precision);
            if what.starts_with("encoder") && precision == Precision::Q8_0 {
                // Rows of 8.
                assert!(converted.expect_err(&what).to_string().contains("whole blocks of 32"));
                continue;
            }
            let converted = converted.expect(&what);
            let of_type = |tensor: &&WeightTensor| tensor.dtype() == precision.weight_type();
            let count = converted.model.weights.tensors().iter().filter(of_type).count();
            // The transposed convolution's rows of 16 stay as they are in q8_0.
            let ragged = usize::from(precision == Precision::Q8_0 && what.starts_with("conv"));
            assert_eq!(count, layers - ragged, "{what}");
            let engine = LoadedModel::load(converted.model.clone(), Device::Cpu).expect(&what);
            let request = |input| InferRequest { input, ..InferRequest::default() };
            let requests: Vec<InferRequest> = converted.probes(3).into_iter().map(request).collect();
            for (request, answer) in requests.iter().zip(engine.infer(&requests)) {
                let reference = converted.model.interpret(request).expect(&what);
                assert_eq!(answer.expect(&what), reference.output, "{what}");
            }
            let cost = import::cost(&stored, &[precision], |_, _| ()).expect(&what);
            let [before, after] = &cost.measured[..] else { panic!("{what}: {cost}") };
            assert!(after.bytes < before.bytes && after.min_cosine > Some(0.99), "{what}: {cost}");
        }
    }
}

#[test]
fn both_ends_of_a_file() {
    let config = json!({
        "architecture": "onnx", "input": { "kind": "ends", "first": 5, "last": 3, "padding": 256, "longest": 40 },
        "output": [{ "kind": "argmax", "as": "u32be" }, { "kind": "f32be" }], "labels": ["a", "b"],
    });
    let imported = Graph::new(17, vec![info("bytes", INT32, &[Size::Open("n"), Size::Known(8)])])
        .node("Cast", &["bytes"], "y", vec![int("to", 1)])
        .import_as("y", config)
        .expect("a model");
    sound(&imported, "ends");
    let ends = |input: &[u8]| -> Vec<f32> {
        let request = InferRequest { input: input.to_vec(), ..InferRequest::default() };
        let output = imported.model.interpret(&request).expect("a run").output;
        output[4..].chunks(4).map(|b| f32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    assert_eq!(ends(&[1, 2]), [1.0, 2.0, 256.0, 256.0, 256.0, 256.0, 1.0, 2.0]);
    assert_eq!(ends(&[1, 2, 3, 4]), [1.0, 2.0, 3.0, 4.0, 256.0, 2.0, 3.0, 4.0]);
    assert_eq!(ends(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), [1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 10.0]);
}

#[test]
fn a_file_cut_or_changed_anywhere_is_survived() {
    let whole = encoder(13).ints("zero_batch", &[1]).file("y");
    let config = json!({
        "architecture": "onnx", "input": { "kind": "tokens", "name": "input_ids", "bound": 30, "longest": 8 },
        "fixed": { "attention_mask": 1, "token_type_ids": 0 }, "output": [{ "kind": "f32be" }],
    });
    let import = |file: Vec<u8>| bytes(file, Some(config.clone()));
    assert!(import(whole.clone()).is_ok());
    for cut in (0..whole.len()).step_by(7) {
        let error = import(whole[..cut].to_vec()).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| !error.is_empty()), "cut at {cut}");
    }
    let mut random = Random(5);
    for _ in 0..400 {
        let mut file = whole.clone();
        let at = random.below(file.len());
        file[at] ^= 1 << random.below(8);
        let _ = import(file).map_err(|error| assert!(!error.to_string().is_empty()));
    }
}

#[test]
fn tensors_that_lie_are_named() {
    let mut graph = Graph::floats(&[1, 6]).weight("w", &[6, 2]).node("MatMul", &["x", "w"], "y", vec![]);
    let honest = graph.clone();
    graph.graph().initializer[0].dims = vec![6, 1 << 40];
    refused(graph.import("y"), &["\"w\"", "1099511627776"]);
    let mut short = honest.clone();
    short.graph().initializer[0].raw_data.pop();
    refused(short.import("y"), &["\"w\"", "47 bytes"]);
    let mut odd = honest.clone();
    odd.graph().initializer[0].data_type = 11;
    refused(odd.import("y"), &["\"w\"", "DOUBLE"]);
    let mut elsewhere = honest.clone();
    elsewhere.graph().initializer[0].data_location = 1;
    refused(elsewhere.import("y"), &["\"w\"", "another file"]);
    let mut nan = honest.clone();
    nan.graph().initializer[0].raw_data[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(nan.import("y"), &["\"w\"", "is NaN"]);
    let mut negative = honest;
    negative.graph().initializer[0].dims = vec![-6, -2];
    refused(negative.import("y"), &["\"w\"", "-6"]);
    // Bombs: sizes that no request can fill.
    refused(Graph::floats(&[1, 1 << 40]).node("Relu", &["x"], "y", vec![]).import("y"), &["\"x\"", "absurd"]);
    let bomb = Graph::floats(&[1, 1, 1]).ints("shape", &[1 << 15, 1 << 15, 2]);
    let bomb = bomb.node("Expand", &["x", "shape"], "e", vec![]).node("Relu", &["e"], "r", vec![]);
    refused(bomb.node("ReduceMax", &["r"], "y", vec![]).import("y"), &["ReduceMax", "beyond 31 bits"]);
    let bomb = Graph::floats(&[1, 1, 1]).ints("shape", &[1 << 13, 1 << 13, 8]);
    let bomb = bomb.node("Expand", &["x", "shape"], "e", vec![]).node("Exp", &["e"], "r", vec![]);
    let last = bomb.ints("last", &[-1]).node("ReduceMax", &["r", "last"], "y", vec![]);
    refused(last.import("y"), &["268435456"]);
    let range = Graph::floats(&[1]).ints("n", &[1 << 40]).ints("shape", &[1 << 40]);
    refused(
        range.node("ConstantOfShape", &["shape"], "c", vec![]).node("Add", &["x", "c"], "y", vec![]).import("y"),
        &["Add"],
    );
}

/// What exporters of scikit-learn write, in a domain of its own.
#[test]
fn scalers_linear_models_and_norms_of_scikit_learn() {
    const CLASSICAL: &str = "ai.onnx.ml";
    let mut r = Random(31);
    let mut numbers = |count: usize| r.vector(count, Random::ordinary);
    let scaler = vec![floats("offset", &numbers(5)), floats("scale", &numbers(5))];
    let scaled = Graph::floats(&[1, 5]).node("Scaler", &["x"], "scaled", scaler).of_domain(CLASSICAL);
    let (coefficients, intercepts) = (numbers(15), numbers(3));
    let weights = |more: Vec<AttributeProto>| {
        [vec![floats("coefficients", &coefficients), floats("intercepts", &intercepts)], more].concat()
    };
    let classifier = |after: &str| {
        let attributes = weights(vec![ints("classlabels_ints", &[4, 5, 6]), text("post_transform", after)]);
        let graph = scaled.clone().node("LinearClassifier", &["scaled"], "label scores", attributes);
        graph.of_domain(CLASSICAL)
    };
    for after in ["NONE", "SOFTMAX", "LOGISTIC"] {
        let graph = classifier(after).node("Normalizer", &["scores"], "y", vec![text("norm", "L1")]);
        let imported = graph.of_domain(CLASSICAL).import("y").expect(after);
        assert_eq!((imported.model.limits.min_input_bytes, imported.model.limits.max_output_bytes), (20, 12));
        sound(&imported, after);
    }
    let regressor = |targets: i64| {
        let attributes = weights(vec![int("targets", targets)]);
        scaled.clone().node("LinearRegressor", &["scaled"], "y", attributes).of_domain(CLASSICAL)
    };
    sound(&regressor(3).import("y").expect("a regressor"), "regressor");
    // Without a description the label, which is no float, is left out; asked for, it is refused with what to do.
    let mut both = classifier("SOFTMAX");
    both.graph().output.push(info("label", INT64, &known(&[1])));
    sound(&both.import("scores").expect("the scores of both outputs"), "a classifier with its label");
    refused(classifier("NONE").import("label"), &["label", "argmax"]);
    refused(classifier("PROBIT").import("scores"), &["LinearClassifier", "PROBIT"]);
    refused(regressor(2).import("y"), &["LinearRegressor", "15 coefficients", "2 columns"]);
    let trees = scaled.clone().node("TreeEnsembleClassifier", &["scaled"], "y", vec![]).of_domain(CLASSICAL);
    refused(trees.import("y"), &["TreeEnsembleClassifier", "not understood"]);
    let broken = vec![floats("scale", &[f32::NAN])];
    let broken = Graph::floats(&[1, 1]).node("Scaler", &["x"], "y", broken).of_domain(CLASSICAL);
    refused(broken.import("y"), &["Scaler", "not finite"]);
}

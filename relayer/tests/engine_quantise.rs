//! The weights of linear layers in another type: defined to the bit, the same model each time, computed alike by the engine
//! and the interpreter; and what it costs, measured.

mod engine_common;

use candor_relayer::engine::import::{self, Files, Imported, Options, Precision};
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::arithmetic::quantised::{Group, Quantised};
use candor_sdk::program::{Op, Params, TraceBuilder, WeightType};
use engine_common::families::{Made, VOCABULARY, bert, decoder};
use engine_common::gguf::Gguf;
use engine_common::pool;
use safetensors::tensor::Dtype;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

fn at(files: &Files, dtype: Option<Precision>) -> Imported {
    import::files(files, &Options { dtype, ..Options::default() }).unwrap_or_else(|error| panic!("{error}"))
}

fn gguf(made: &Made, kind: u32) -> Files {
    Files { name: "made-up".into(), gguf: Some(Arc::new(Gguf::of(made).stored_as(kind).file())), ..Files::default() }
}

/// Made-up models of every family, wide enough for whole blocks in most layers.
fn models() -> Vec<(&'static str, Files)> {
    let mut encoder = bert(1, Dtype::F32);
    encoder.config["intermediate_size"] = json!(64);
    for (name, _, dims, values) in &mut encoder.tensors {
        // The feed-forward layers, 64 wide instead of 40.
        if let (true, Some(wide)) =
            (name.contains("intermediate") || name.contains("output.dense"), dims.iter().position(|&n| n == 40))
        {
            dims[wide] = 64;
            let len = dims.iter().product();
            *values = values.iter().copied().cycle().take(len).collect();
        }
    }
    vec![
        ("encoder", encoder.files()),
        ("llama, tied", decoder("llama", 1, Dtype::F16, true).files()),
        ("qwen2", decoder("qwen2", 2, Dtype::BF16, false).files()),
        ("qwen3, with heads that are no whole blocks", decoder("qwen3", 3, Dtype::F32, true).files()),
        ("gguf with q8_0", gguf(&decoder("llama", 4, Dtype::F32, false), 8)),
    ]
}

fn embedded(name: &str) -> Files {
    Files::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name), |_, _| ()).expect("an embedded model")
}

fn requests(imported: &Imported) -> Vec<InferRequest> {
    let params = Params { max_tokens: 5, ..Params::default() };
    imported.probes(3).into_iter().map(|input| InferRequest { input, params, seed: [3; 32] }).collect()
}

#[test]
fn converted_models_have_the_interpreters_bits() {
    for (what, files) in models().into_iter().chain([("digits", embedded("digits")), ("credit", embedded("credit"))]) {
        let stored = at(&files, None);
        let mut ids = vec![stored.model.model_id()];
        for precision in Precision::ALL {
            let what = format!("{what} as {precision}");
            if (what.starts_with("credit")) && precision == Precision::Q8_0 {
                continue; // refused: see below
            }
            let imported = at(&files, Some(precision));
            let id = imported.model.model_id();
            assert_eq!(
                id,
                pool(4).install(|| at(&files, Some(precision)).model.model_id()),
                "{what}: the same id again"
            );
            ids.push(id);
            let loaded = LoadedModel::load(imported.model.clone(), Device::Cpu).expect(&what);
            let requests = requests(&imported);
            for (request, answer) in requests.iter().zip(loaded.infer(&requests)) {
                let want = imported.model.interpret(request).expect(&what);
                assert_eq!(answer.expect(&what), want.output, "{what}");
                let mut trace = TraceBuilder::default();
                want.tensors.iter().for_each(|tensor| trace.push(tensor));
                let found = loaded.trace(request, |_, _| ()).expect(&what).root();
                assert_eq!(found, trace.finish(want.symbols).root(), "{what}: the trace");
            }
        }
        // What has the type already stays the same model; everything else is another one.
        ids.sort_by_key(ToString::to_string);
        let before = ids.len();
        ids.dedup();
        assert_eq!(
            before - ids.len(),
            usize::from(["llama, tied", "gguf with q8_0", "digits"].contains(&what)),
            "{what}"
        );
    }
}

/// A loaded model has each weight once: bytes that were packed are gone, and come back as they were when somebody asks.
#[test]
fn weights_are_in_memory_once() {
    for (what, files) in models().into_iter().chain([("digits", embedded("digits"))]) {
        for dtype in [None].into_iter().chain(Precision::ALL.map(Some)) {
            let imported = at(&files, dtype);
            let mut model = imported.model.clone();
            let mut held = Vec::new();
            for (index, tensor) in (0u32..).zip(imported.model.weights.tensors()) {
                let bytes = Arc::new(tensor.bytes().to_vec());
                held.push(Arc::downgrade(&bytes));
                model.weights.keep_in(index, bytes);
            }
            let loaded = LoadedModel::load(model, Device::Cpu).expect(what);
            assert!(held.iter().all(|bytes| bytes.upgrade().is_none()), "{what}: a tensor is there as it came");
            for (before, after) in imported.model.weights.tensors().iter().zip(loaded.model().weights.tensors()) {
                assert!(
                    before.bytes() == after.bytes() && after.bytes().len() == after.byte_len(),
                    "{what}: {after:?}"
                );
            }
            assert_eq!(loaded.model().model_id(), imported.model.model_id(), "{what}");
        }
    }
}

/// Requests of all lengths in one batch, one of them impossible, have the answers that each has alone.
#[test]
fn requests_of_different_lengths_in_one_batch() {
    let (what, files) = models().swap_remove(0);
    for dtype in [None].into_iter().chain(Precision::ALL.map(Some)) {
        let imported = at(&files, dtype);
        let request = |length: u32| InferRequest {
            input: (0..length).flat_map(|i| ((7 * i + 3 * length) % VOCABULARY as u32).to_be_bytes()).collect(),
            ..InferRequest::default()
        };
        let mut requests: Vec<InferRequest> = (1..=20).chain([5, 20, 1, 5]).map(request).collect();
        requests.insert(9, request(21));
        requests.insert(3, InferRequest { input: 96u32.to_be_bytes().to_vec(), ..InferRequest::default() });
        for threads in [1, 3] {
            let loaded = LoadedModel::load(imported.model.clone(), Device::Cpu).expect(what);
            let answers = pool(threads).install(|| loaded.infer(&requests));
            for (request, answer) in requests.iter().zip(answers) {
                match imported.model.interpret(request) {
                    Ok(run) => assert_eq!(answer.expect(what), run.output, "{} bytes", request.input.len()),
                    Err(_) => assert!(answer.is_err(), "{} bytes", request.input.len()),
                }
            }
        }
    }
}

#[test]
fn linear_layers_are_converted_and_nothing_else() {
    let kinds = |imported: &Imported, name: &str| {
        let weights = &imported.model.weights;
        weights.get(weights.find(name).expect(name)).expect(name).dtype()
    };
    let untied = decoder("qwen2", 2, Dtype::BF16, false).files();
    for precision in Precision::ALL {
        let imported = at(&untied, Some(precision));
        let linear = precision.weight_type();
        for tensor in imported.model.weights.tensors() {
            let layer = tensor.name().contains("proj.weight") || tensor.name() == "lm_head.weight";
            let stored = if tensor.name().starts_with("rope") { WeightType::F32 } else { WeightType::Bf16 };
            assert_eq!(tensor.dtype(), if layer { linear } else { stored }, "{}", tensor.name());
        }
        // Three layers read what one norm yields, two what another does: it is quantised once for each.
        let quantise = imported.model.program.nodes.iter().filter(|node| matches!(node.op, Op::Quantise { .. }));
        let sites = if precision == Precision::F16 { 0 } else { 2 * 4 + 1 };
        assert_eq!(quantise.count(), sites, "{precision}");
    }
    // A tied table is one tensor with two readers.
    let tied = at(&decoder("llama", 1, Dtype::F16, true).files(), Some(Precision::Q8_128));
    assert_eq!(kinds(&tied, "model.embed_tokens.weight"), WeightType::Q8_128);
    assert_eq!(kinds(&tied, "model.norm.weight"), WeightType::F16);
    // Rows of 48 are no whole blocks of 32.
    let ragged = at(&models().swap_remove(3).1, Some(Precision::Q8_0));
    assert_eq!(kinds(&ragged, "model.layers.0.self_attn.o_proj.weight"), WeightType::F32);
    assert_eq!(kinds(&ragged, "model.layers.0.self_attn.q_proj.weight"), WeightType::Q8_0);
    assert!(ragged.notes.iter().any(|note| note.contains("o_proj.weight (rows of 48)")), "{:?}", ragged.notes);
}

#[test]
fn a_converted_row_is_its_definition() {
    for (what, files) in models() {
        let (stored, q8_0, q8_128) =
            (at(&files, None), at(&files, Some(Precision::Q8_0)), at(&files, Some(Precision::Q8_128)));
        let weights = |imported: &Imported| imported.model.weights.tensors().to_vec();
        for ((before, a), b) in weights(&stored).iter().zip(&weights(&q8_0)).zip(&weights(&q8_128)) {
            for (after, group) in [(a, Group::G32), (b, Group::G128)] {
                if after.dtype() == before.dtype() {
                    assert_eq!(after.bytes(), before.bytes(), "{what}: {}", before.name());
                    continue;
                }
                for row in 0..before.rows() {
                    let want = Quantised::weights(&before.row_f32(row), group).expect("finite");
                    assert_eq!(after.row(row), want.to_bytes(), "{what}: {} row {row}", before.name());
                }
            }
        }
    }
}

/// The promise of the conversion, written down: the same files and the same type are the same model, in every build and on
/// every machine.
#[test]
fn ids_are_what_they_were() {
    let ids: Vec<String> = models()
        .iter()
        .flat_map(|(_, files)| Precision::ALL.map(|precision| at(files, Some(precision)).model.model_id().to_string()))
        .chain([at(&embedded("digits"), Some(Precision::Q8_128)).model.model_id().to_string()])
        .collect();
    let expected = [
        "0xb971cccdcca5c3d56d8f55f0a42604c94044dc8ec4553f1ffb2cd902717d58f3",
        "0x6445176fb6f9cdf03082baa492c035f0a8814778b6b0c553d280e9e1d5467f0c",
        "0x4e42edff7a1bacb0d87d31c25d63a6aba7f048ecefe30b90703a0726f85448d0",
        "0x8164249a7c04294d742ee550702c52a115e6dc950054b3152aeedcf3e1a60f2f",
        "0x91a25af224d03746fb980bda9bf3f89eb87d4eb48901652832bb05001c05ad75",
        "0x1af7f6637f7daabbae80485c0c4a39f8863e6eabce7f73087489df32acefe017",
        "0x94333b21975d83112c34916fcaf57991c15371079d7124bd9a9b7cd1ddce9993",
        "0x056a6823af1f02d807452b6c8cd72354efb198b3bd4616c685bcd1fdc03c07bc",
        "0x530bb5aee93a14db5c31d2d6f928c957201cbf073329324bd191bb4f46cd1493",
        "0xdce6b98a0d7627749e5eb08b03529c82ab55d59694df11fd32f667891de9b31d",
        "0xb5ce5c90227ee64c9264dbf6fda1015f40879e7dcb3523e750164bcee4cfc8c0",
        "0x2f5b5acfdf171f31343b5b122b4f47262fc2b725f1a0b69b86feae8f78d4b80e",
        "0x4302963c17a56c0cbe4c17841e0ac18d610177ab2b68267dbcbe352d1a7454f7",
        "0xa7bd5ad159d919caf889906a3388a7e9b155713f4ea6c060a0dfb212bb49cbe5",
        "0x88e68285349d8fec6abd8de54d5f5aef0cb27b647a3031963afc7d56815a5405",
        "0xaba8dd16a798602dad8d9b07cba97841fd04e65915e9fa41fefba2d269c65308",
    ];
    assert_eq!(ids, expected);
}

#[test]
fn what_cannot_be_converted_is_named() {
    let refused = |files: &Files, precision| {
        import::files(files, &Options { dtype: Some(precision), ..Options::default() })
            .expect_err("it cannot be converted")
            .to_string()
    };
    let error = refused(&embedded("credit"), Precision::Q8_0);
    assert!(error.contains("whole blocks of 32"), "{error}");

    let mut large = decoder("llama", 1, Dtype::F32, true);
    large.replace("model.layers.1.mlp.up_proj.weight", &[64, 32], 65520.0);
    let error = refused(&large.files(), Precision::F16);
    assert!(error.contains("mlp.up_proj.weight") && error.contains("row 0") && error.contains("beyond f16"), "{error}");

    large.replace("model.layers.1.mlp.up_proj.weight", &[64, 32], f32::INFINITY);
    for precision in [Precision::Q8_0, Precision::Q8_128] {
        let error = refused(&large.files(), precision);
        assert!(error.contains("mlp.up_proj.weight") && error.contains("not finite"), "{error}");
    }

    large.replace("model.layers.1.mlp.up_proj.weight", &[64, 32], 127.0 * 65520.0);
    let error = refused(&large.files(), Precision::Q8_0);
    assert!(error.contains("mlp.up_proj.weight") && error.contains("too large for q8_0"), "{error}");
    at(&large.files(), Some(Precision::Q8_128));

    for name in Precision::ALL {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    assert!("q4_0".parse::<Precision>().is_err());
}

/// A language model whose tokens are the printable characters and the end of a line.
fn speller() -> Files {
    let mut made = decoder("llama", 5, Dtype::F16, true);
    let spelled = |id: usize| match id {
        0 => "\u{10a}".to_string(),
        1 => "\u{120}".to_string(),
        id => char::from(31 + id as u8).to_string(),
    };
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        (0..VOCABULARY).map(|id| (spelled(id), json!(id))).collect();
    made.tokenizer = Some(
        json!({ "model": { "type": "BPE", "vocab": vocabulary }, "added_tokens": [], "decoder": { "type": "ByteLevel" } })
            .to_string(),
    );
    made.files()
}

#[test]
fn perplexity_is_what_the_interpreters_logits_say() {
    let stored = at(&speller(), None);
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/text/tom_sawyer.txt"));
    let text = text.expect("the text").split_whitespace().collect::<Vec<&str>>().join(" ");
    let ids = |c: u8| stored.model.vocabulary.iter().position(|entry| entry == &[c]).expect("a token") as u32;
    // A context of 64 has answers of at most 32 tokens: windows of 33, 8 of them.
    let tokens: Vec<u32> = text.bytes().take(8 * 33).map(ids).collect();
    let perplexity = |imported: &Imported| {
        let loaded = LoadedModel::load(imported.model.clone(), Device::Cpu).expect("it loads");
        let mut surprise = 0f64;
        for window in tokens.chunks(33) {
            let params = Params { max_tokens: 32, ..Params::default() };
            let request = InferRequest { input: window[0].to_be_bytes().to_vec(), params, ..Default::default() };
            let mut logits = Vec::new();
            let visit = |node: u32, tensor: &candor_relayer::engine::TraceTensor| {
                if node == imported.last_layer {
                    logits = tensor.f32().expect("logits").to_vec();
                }
            };
            loaded.replay(&request, &window[1..], visit).expect("a run");
            for (row, &next) in logits.chunks(VOCABULARY).zip(&window[1..]) {
                let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                surprise += sum.ln() - f64::from(row[next as usize]);
            }
        }
        (surprise / (8.0 * 32.0)).exp()
    };
    let cost = import::cost(&stored, &[Precision::Q8_0, Precision::Q8_128], |_, _| ()).expect("a measurement");
    assert_eq!(cost.on, "256 tokens of a novel, in 8 windows");
    let converted = [Precision::Q8_0, Precision::Q8_128].map(|p| import::quantise(&stored, p).expect("a model"));
    for (measured, imported) in cost.measured.iter().zip([&stored, &converted[0], &converted[1]]) {
        let (got, want) = (measured.perplexity.expect("a language model"), perplexity(imported));
        assert!((got / want - 1.0).abs() < 1e-5, "{got} for {want}");
        assert_eq!((measured.rows, measured.bytes), (256, imported.model.weights.byte_len()));
    }
    assert_eq!(cost.measured[0].same_argmax, 256);
    assert!(cost.measured[1].same_argmax > 200 && cost.measured[2].same_argmax > 200, "{cost}");
    assert!(cost.measured[1..].iter().all(|converted| converted.bytes < cost.measured[0].bytes), "{cost}");
    // The same digits however many threads there are.
    let again = pool(4).install(|| import::cost(&stored, &[Precision::Q8_0, Precision::Q8_128], |_, _| ()));
    assert_eq!(again.expect("a measurement"), cost);
}

#[test]
fn other_models_are_compared_by_their_last_layer() {
    let cost = import::cost(&at(&embedded("digits"), None), &[Precision::Q8_128], |_, _| ()).expect("a measurement");
    let [stored, converted] = &cost.measured[..] else { panic!("two measurements: {cost}") };
    assert_eq!((stored.perplexity, stored.max_error, stored.min_cosine, stored.rows), (None, Some(0.0), Some(1.0), 16));
    assert!(converted.max_error > Some(0.0) && converted.min_cosine > Some(0.99), "{cost}");
    assert!(converted.bytes < stored.bytes && converted.same_argmax >= 14, "{cost}");
}

#[test]
fn an_import_reports_what_its_precision_costs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
    let options = Options { dtype: Some(Precision::Q8_128), ..Options::default() };
    let mut stages = Vec::new();
    let (imported, report) = import::import(&folder, &options, &mut |at| {
        if stages.last() != Some(&at.stage) {
            stages.push(at.stage);
        }
    })
    .expect("an import");
    assert_eq!(report.id, imported.model.model_id());
    assert!(report.weights.contains_key("q8_128") && report.check.is_some(), "{report}");
    assert_eq!(stages.last(), Some(&import::Stage::Measuring));
    let cost = report.cost.as_ref().expect("it was converted");
    assert!(cost.measured.iter().any(|measured| measured.precision == Some(Precision::Q8_128)), "{report}");
    assert!(report.to_string().contains("as stored") && report.to_string().contains("cosine at least"), "{report}");
    import::verify(&folder, report.id, &options, &mut |_| ()).expect("the same id");
    import::verify(&folder, report.id, &Options::default(), &mut |_| ()).expect_err("the stored one is another model");
}

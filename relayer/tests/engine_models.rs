//! Whole models: the engine, in every way it can run them, against the reference interpreter. No tolerance.

mod engine_common;

use candor_relayer::engine::{Device, InferRequest, LoadedModel, import};
use candor_sdk::program::{EncodeKind, InputKind, Limits, ProgramBuilder, TraceBuilder, UnaryFunction, WeightTensor};
use engine_common::devices::{everywhere, load, on_gpu};
use engine_common::files::random_model;
use engine_common::{Random, pool};

fn requests(inputs: Vec<Vec<u8>>) -> Vec<InferRequest> {
    inputs.into_iter().map(|input| InferRequest { input, ..InferRequest::default() }).collect()
}

/// Inputs of all kinds: plausible ones, and numbers from the edges of the format.
fn inputs(r: &mut Random, imported: &import::Imported, count: u32) -> Vec<Vec<u8>> {
    let mut inputs = imported.probes(count);
    let length = inputs[0].len();
    let import::Family::Sequential { config, .. } = &imported.family else { panic!("{}", imported.family.name()) };
    if matches!(config.input.kind, import::config::InputKind::F32be) {
        for element in [Random::finite_edge, Random::edge] {
            inputs.push(r.vector(length / 4, element).iter().flat_map(|x| x.to_be_bytes()).collect());
        }
    } else {
        inputs.extend([vec![0; length], vec![255; length]]);
    }
    inputs
}

#[test]
fn made_up_models_on_every_path() {
    for seed in 0..24 {
        let mut r = Random(seed);
        let files = random_model(&mut r);
        let imported = import::bytes(&files.config, &files.weights).unwrap_or_else(|e| panic!("{seed}: {e}"));
        let batch = requests(inputs(&mut r, &imported, 3));
        let want: Vec<_> = batch.iter().map(|request| imported.model.interpret(request).expect("a run")).collect();
        for (device, loaded) in everywhere(&imported.model) {
            let what = format!("seed {seed}, {device}, {}", files.config);
            for (got, want) in loaded.infer(&batch).into_iter().zip(&want) {
                assert_eq!(got.expect(&what), want.output, "{what}");
            }
            for (request, want) in batch.iter().zip(&want) {
                let mut seen = 0;
                let trace = loaded
                    .trace(request, |node, tensor| {
                        let label = &imported.model.program.nodes[node as usize].label;
                        assert_eq!(tensor, &want.tensors[node as usize], "node {node} ({label}), {what}");
                        seen += 1;
                    })
                    .expect(&what);
                assert_eq!(seen, want.tensors.len(), "{what}");
                let mut reference = TraceBuilder::default();
                want.tensors.iter().for_each(|tensor| reference.push(tensor));
                assert_eq!(trace.root(), reference.finish(want.symbols).root(), "{what}");
            }
        }
    }
}

#[test]
fn neither_batch_nor_threads_nor_neighbours_change_an_answer() {
    let mut r = Random(100);
    for seed in [1, 2, 5] {
        let files = random_model(&mut Random(seed));
        let imported = import::bytes(&files.config, &files.weights).expect("a model");
        let loaded = load(&imported.model);
        let batch = requests(inputs(&mut r, &imported, 64));
        let want: Vec<Vec<u8>> =
            batch.iter().map(|request| imported.model.interpret(request).expect("a run").output).collect();
        // A GPU has its own threads.
        for &threads in if on_gpu() { [2].as_slice() } else { &[1, 2, 4, 8] } {
            pool(threads).install(|| {
                for size in (1..=9).chain([16, 33, 64]) {
                    let start = r.below(batch.len() - size + 1);
                    let answers = loaded.infer(&batch[start..start + size]);
                    for (got, want) in answers.into_iter().zip(&want[start..]) {
                        assert_eq!(&got.expect("an answer"), want, "seed {seed}, {threads} threads, batch {size}");
                    }
                }
            });
        }
    }
}

#[test]
fn a_bad_request_fails_alone() {
    let files = random_model(&mut Random(3));
    let imported = import::bytes(&files.config, &files.weights).expect("a model");
    let loaded = load(&imported.model);
    let mut batch = requests(imported.probes(4));
    batch[1].input.pop();
    batch[2].input.push(0);
    let answers = loaded.infer(&batch);
    for good in [0, 3] {
        let want = imported.model.interpret(&batch[good]).expect("a run").output;
        assert_eq!(answers[good].as_ref().expect("an answer"), &want);
    }
    for (bad, named) in [(1, "too short"), (2, "too long")] {
        let error = answers[bad].as_ref().expect_err("no answer");
        assert!(error.to_string().contains(named) && !error.is_retryable(), "{error}");
    }
    assert!(loaded.infer(&[]).is_empty());
}

#[test]
fn a_model_is_what_candle_makes_of_it() {
    for seed in 0..24 {
        let files = random_model(&mut Random(seed));
        let imported = import::bytes(&files.config, &files.weights).expect("a model");
        let check = imported.check(&imported.probes(8)).unwrap_or_else(|e| panic!("{seed}: {e}"));
        // Softmax outputs: two float runs of one network differ by rounding, two networks by far more.
        assert!(check.max_error < 1e-5 && check.min_cosine > 0.999_99, "seed {seed}: {check}\n{}", files.config);
        assert_eq!(check.requests, 8);
    }
}

#[test]
fn import_is_deterministic() {
    for seed in 0..4 {
        let files = random_model(&mut Random(seed));
        let id = |files: &engine_common::files::Files| {
            import::bytes(&files.config, &files.weights).expect("a model").model.model_id()
        };
        assert_eq!(id(&files), id(&random_model(&mut Random(seed))));
    }
}

/// A model of more than a megabyte runs on threads of the pool: asked from inside and from outside, by one and by many.
#[test]
fn a_model_that_is_worth_the_pool() {
    let mut r = Random(77);
    let mut b = ProgramBuilder::new();
    let mut weight = |b: &mut ProgramBuilder, name: &str, rows: u32, cols: u32| {
        let values = r.vector((rows * cols) as usize, Random::ordinary);
        b.weight(WeightTensor::from_f32(name, (rows, cols), &values).expect("a tensor"))
    };
    let x = b.input(InputKind::F32Be, 1, 300);
    let (up, down) = (weight(&mut b, "up", 900, 300), weight(&mut b, "down", 40, 900));
    let h = b.linear(x, up, None);
    let h = b.unary(UnaryFunction::GeluErf, h);
    let y = b.linear(h, down, None);
    b.output(EncodeKind::F32Be, y);
    let limits = Limits { min_input_bytes: 1200, max_input_bytes: 1200, max_output_bytes: 160, max_tokens: 0 };
    let model = b.finish(limits, vec![]).expect("a valid model");
    let input = |r: &mut Random| r.vector(300, Random::ordinary).iter().flat_map(|x| x.to_be_bytes()).collect();
    let batch = requests((0..9).map(|_| input(&mut r)).collect());
    let want: Vec<Vec<u8>> = batch.iter().map(|request| model.interpret(request).expect("a run").output).collect();
    let loaded = LoadedModel::load(model, Device::Cpu).expect("it loads");
    let check = |what: &str| {
        for (got, want) in loaded.infer(&batch).into_iter().zip(&want) {
            assert_eq!(got.expect(what), *want, "{what}");
        }
        for (request, want) in batch.iter().zip(&want) {
            assert_eq!(loaded.infer(std::slice::from_ref(request)).remove(0).expect(what), *want, "{what}, alone");
        }
    };
    check("from outside");
    for threads in [1, 2, 4, 8] {
        pool(threads).install(|| check(&format!("{threads} threads")));
    }
    std::thread::scope(|scope| {
        (0..4).for_each(|caller| {
            drop(scope.spawn({
                let check = &check;
                move || check(&format!("caller {caller}"))
            }))
        })
    });
}

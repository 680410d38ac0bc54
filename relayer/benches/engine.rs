//! The engine against candle's own kernels, paired: both sides take turns in one process on the same operands. Two ratios
//! are printed: of the best sample of each side, and the median of neighbouring samples. On a quiet machine they agree; on a
//! busy one the first says what the code can do and the second what the neighbours did.
//!
//!     cargo bench -p candor-relayer --bench engine                # everything
//!     cargo bench -p candor-relayer --bench engine -- f16         # lines whose name contains f16

mod transformers;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device as CandleDevice, Module, Tensor};
use candor_relayer::engine::kernels::attention::{Heads, Memory, attend, push_keys};
use candor_relayer::engine::kernels::elementwise::Epilogue;
use candor_relayer::engine::kernels::gemm::{self, Activations};
use candor_relayer::engine::kernels::{Isa, Weight, quantised};
use candor_relayer::engine::{Device, InferRequest, LoadedModel, import};
use candor_sdk::program::Params;
use half::{bf16, f16};
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Turns that each side takes.
const PAIRS: usize = 41;
/// Shortest sample.
const SAMPLE: Duration = Duration::from_millis(2);

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    // candle takes its number of threads from the environment, once: one process for each number.
    if std::env::var("ENGINE_BENCH").is_err() {
        println!("| what | threads | ours, best | candle, best | candle / ours, best | median |");
        println!("|---|---|---|---|---|---|");
        for threads in ["1", "2"] {
            let program = std::env::current_exe().expect("this program");
            let status = Command::new(program)
                .args(&filter)
                .env("ENGINE_BENCH", "1")
                .env("RAYON_NUM_THREADS", threads)
                .status()
                .expect("this program runs");
            assert!(status.success(), "the benchmark failed");
        }
        return;
    }
    let wanted = |name: &str| filter.iter().all(|part| name.contains(part.as_str()));
    linear_layers(&wanted);
    quantised_layers(&wanted);
    attention(&wanted);
    whole_models(&wanted);
    encoders(&wanted);
    language_models(&wanted);
}

/// Queries, keys and values in, the mix out: `m` queries at the end of `length` positions.
fn attention(wanted: &dyn Fn(&str) -> bool) {
    let minilm = Heads { heads: 12, group: 1, key_width: 32, value_width: 32, scale: 0.25, causal: false };
    let llama = Heads { heads: 9, group: 3, key_width: 64, value_width: 64, scale: 0.125, causal: true };
    for (shape, m, length) in
        [(minilm, 128, 128), (minilm, 512, 512), (llama, 512, 512), (llama, 1, 128), (llama, 1, 1024)]
    {
        let Heads { heads, group, key_width: width, causal, .. } = shape;
        let kind = if causal { "causal" } else { "full" };
        let name = format!("attention {kind} {heads} heads of {width}, {m} of {length}");
        if !wanted(&name) {
            continue;
        }
        let kv = heads / group * width;
        let (q, k, v) = (noise(m * heads * width, 1), noise(length * kv, 2), noise(length * kv, 3));
        // One side has its keys in panels, the other transposed heads, before the clock starts; with all positions new, we
        // pay for our layout, as the engine does.
        let mut kept = Vec::new();
        push_keys(&mut kept, 0, &k, heads / group, width);
        let mut out = vec![0f32; m * heads * width];
        let split = |x: &[f32], rows: usize, heads: usize| {
            Tensor::from_slice(x, (1, rows, heads, width), &CandleDevice::Cpu)
                .and_then(|x| x.transpose(1, 2)?.contiguous())
                .expect("a tensor")
        };
        let (tq, tk, tv) = (split(&q, m, heads), split(&k, length, heads / group), split(&v, length, heads / group));
        let mask =
            (0..m).flat_map(|i| (0..length).map(move |j| if j > length - m + i { f32::NEG_INFINITY } else { 0.0 }));
        let mask = Tensor::from_vec(mask.collect::<Vec<f32>>(), (m, length), &CandleDevice::Cpu).expect("a tensor");
        let theirs = || -> candle_core::Result<Tensor> {
            let repeat = |x: &Tensor| Tensor::cat(&vec![x; group], 2)?.reshape((1, heads, length, width));
            let (k, v) = (repeat(&tk)?, repeat(&tv)?);
            let mut scores = (tq.matmul(&k.t()?)? * f64::from(shape.scale))?;
            if causal && m > 1 {
                scores = scores.broadcast_add(&mask)?;
            }
            candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?.transpose(1, 2)?.contiguous()
        };
        paired(
            &name,
            || {
                let panels = if m == length {
                    let mut panels = Vec::new();
                    push_keys(&mut panels, 0, &k, heads / group, width);
                    std::borrow::Cow::Owned(panels)
                } else {
                    std::borrow::Cow::Borrowed(&kept)
                };
                let memory = Memory { keys: &panels, values: &v, length };
                attend(Isa::best(), &shape, &q, length - m, memory, black_box(&mut out));
            },
            || drop(black_box(theirs().expect("a run"))),
        );
    }
}

fn ids(count: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    noise(count, seed).into_iter().map(|x| (x.abs() * (vocabulary - 1) as f32) as u32).collect()
}

fn ask(tokens: &[u32], max_tokens: u32) -> InferRequest {
    let params = Params { max_tokens, ..Params::default() };
    InferRequest { input: tokens.iter().flat_map(|id| id.to_be_bytes()).collect(), params, ..InferRequest::default() }
}

fn encoders(wanted: &dyn Fn(&str) -> bool) {
    let name = |batch: usize, length: usize| format!("encoder MiniLM f32, {batch} x {length} tokens");
    let cases = [(1, 16), (1, 128), (8, 128)];
    if !cases.iter().any(|&(batch, length)| wanted(&name(batch, length))) {
        return;
    }
    let shape = transformers::MINILM;
    let ours = LoadedModel::load(transformers::bert(shape), Device::Cpu).expect("the model loads");
    let theirs = transformers::Bert::new(shape).expect("candle builds the model");
    for (batch, length) in cases {
        if wanted(&name(batch, length)) {
            let inputs: Vec<Vec<u32>> = (0..batch).map(|i| ids(length, shape.vocabulary, i as u64)).collect();
            let requests: Vec<InferRequest> = inputs.iter().map(|ids| ask(ids, 0)).collect();
            paired_few(
                &name(batch, length),
                11,
                || drop(black_box(ours.infer(&requests))),
                || drop(black_box(theirs.embed(&inputs).expect("a run"))),
            );
        }
    }
}

/// Greedy tokens of a random Llama. candle has its weights in f32; ours are f32 or f16.
fn language_models(wanted: &dyn Fn(&str) -> bool) {
    let shape = transformers::LLAMA;
    for (dtype, narrow) in [("f32", false), ("f16", true)] {
        let cases = [("prefill", 256, 1), ("decode", 8, 25)];
        let name = |kind: &str, prompt: usize, tokens: u32| format!("llama 135M {dtype} {kind} {prompt} + {tokens}");
        if !cases.iter().any(|&(kind, prompt, tokens)| wanted(&name(kind, prompt, tokens))) {
            continue;
        }
        let ours = LoadedModel::load(transformers::llama(shape, narrow), Device::Cpu).expect("the model loads");
        let theirs = transformers::Llama::new(shape, narrow).expect("candle builds the model");
        for (kind, prompt, tokens) in cases {
            let name = name(kind, prompt, tokens);
            if wanted(&name) {
                let ids = ids(prompt, shape.vocabulary, 5);
                let request = ask(&ids, tokens);
                paired_few(
                    &name,
                    5,
                    || drop(black_box(ours.generate(&request).expect("tokens"))),
                    || drop(black_box(theirs.generate(&ids, tokens as usize).expect("tokens"))),
                );
            }
        }
    }
}

fn linear_layers(wanted: &dyn Fn(&str) -> bool) {
    for (k, n) in [(2048, 2304), (512, 512)] {
        for m in [1, 8, 64, 256] {
            linear::<f32>("f32", wanted, m, k, n, |x| x);
            linear::<f16>("f16", wanted, m, k, n, f16::from_f32);
            linear::<bf16>("bf16", wanted, m, k, n, bf16::from_f32);
        }
    }
}

fn linear<W: Weight + candle_core::WithDType>(
    dtype: &str,
    wanted: &dyn Fn(&str) -> bool,
    m: usize,
    k: usize,
    n: usize,
    weight: impl Fn(f32) -> W,
) {
    let name = format!("linear {dtype} {m} x {k} x {n}");
    if !wanted(&name) {
        return;
    }
    let x = noise(m * k, 1);
    let w: Vec<W> = noise(n * k, 2).into_iter().map(weight).collect();
    let packed = gemm::pack(&w, n, k);
    let mut out = vec![0f32; m * n];
    // candle multiplies operands of one type: activations of the weights' width.
    let cpu = CandleDevice::Cpu;
    let theirs_x = Tensor::from_slice(&x, (m, k), &cpu).and_then(|x| x.to_dtype(W::DTYPE)).expect("a tensor");
    let theirs_w = Tensor::from_vec(w, (n, k), &cpu).and_then(|w| w.t()).expect("a tensor");
    paired(
        &name,
        || {
            gemm::linear(
                Isa::best(),
                Activations::Dense(&x),
                &packed,
                m,
                k,
                n,
                &Epilogue::default(),
                black_box(&mut out),
            )
        },
        || drop(black_box(theirs_x.matmul(&theirs_w).expect("a product"))),
    );
}

/// Int8 weights, f32 activations on both sides: each quantises them itself. candle has blocks of 32 only.
fn quantised_layers(wanted: &dyn Fn(&str) -> bool) {
    let (k, n) = (2048, 2304);
    for (format, group) in [("q8_0", 32), ("q8_128", 128)] {
        for m in [1, 8, 64, 256] {
            let name = format!("linear {format} {m} x {k} x {n}");
            if !wanted(&name) {
                continue;
            }
            let (x, w) = (noise(m * k, 1), noise(n * k, 2));
            let cpu = CandleDevice::Cpu;
            let theirs_x = Tensor::from_slice(&x, (m, k), &cpu).expect("a tensor");
            let theirs_w = Tensor::from_slice(&w, (n, k), &cpu)
                .and_then(|w| QTensor::quantize(&w, GgmlDType::Q8_0))
                .and_then(QMatMul::from_qtensor)
                .expect("quantised weights");
            let isa = Isa::best();
            let groups = k / group;
            let quantise = |x: &[f32], magnitudes: &mut [f32], values: &mut [i8]| {
                quantised::group_magnitudes(isa, x, group, magnitudes);
                quantised::quantise(isa, x, magnitudes, group, values);
                magnitudes.iter_mut().for_each(|most| *most /= 127.0);
            };
            let (mut values, mut scales) = (vec![0i8; n * k], vec![0f32; n * groups]);
            for (row, w) in w.chunks(k).enumerate() {
                quantise(w, &mut scales[row * groups..][..groups], &mut values[row * k..][..k]);
            }
            let packed = quantised::pack(&values, &scales, n, k, group);
            let (mut values, mut scales) = (vec![0i8; m * k], vec![0f32; m * groups]);
            let mut out = vec![0f32; m * n];
            paired(
                &name,
                || {
                    for (row, x) in x.chunks(k).enumerate() {
                        quantise(x, &mut scales[row * groups..][..groups], &mut values[row * k..][..k]);
                    }
                    let epilogue = Epilogue::default();
                    quantised::linear(isa, (&values, &scales), &packed.as_ref(), m, &epilogue, black_box(&mut out));
                },
                || drop(black_box(theirs_w.forward(&theirs_x).expect("a product"))),
            );
        }
    }
}

fn whole_models(wanted: &dyn Fn(&str) -> bool) {
    for model in ["credit", "digits"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
        let imported = import::folder(&folder).expect("an embedded model");
        let loaded = LoadedModel::load(imported.model.clone(), Device::Cpu).expect("the model loads");
        let candle = imported.candle().expect("candle loads the model");
        for batch in [1, 8, 64, 256] {
            let name = format!("model {model} batch {batch}");
            if !wanted(&name) {
                continue;
            }
            let inputs = imported.probes(batch);
            let requests: Vec<InferRequest> =
                inputs.iter().map(|input| InferRequest { input: input.clone(), ..InferRequest::default() }).collect();
            paired(
                &name,
                || drop(black_box(loaded.infer(&requests))),
                || drop(black_box(candle.last_layer(&inputs).expect("a run"))),
            );
        }
    }
}

/// Times both in turns and prints a line of the table.
fn paired(name: &str, ours: impl FnMut(), theirs: impl FnMut()) {
    paired_few(name, PAIRS, ours, theirs);
}

/// The same with a number of turns, for what takes long.
fn paired_few(name: &str, pairs: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    let calls = [calibrate(&mut ours), calibrate(&mut theirs)];
    let mut samples = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        samples.push((sample(&mut ours, calls[0]), sample(&mut theirs, calls[1])));
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let ratio = median(samples.iter().map(|(ours, theirs)| theirs / ours).collect());
    let time = |seconds: f64| match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s => format!("{:.2} ms", s * 1e3),
    };
    let best = |side: fn(&(f64, f64)) -> f64| samples.iter().map(side).fold(f64::INFINITY, f64::min);
    let (ours, theirs) = (best(|pair| pair.0), best(|pair| pair.1));
    println!(
        "| {name} | {} | {} | {} | {:.2} | {ratio:.2} |",
        rayon::current_num_threads(),
        time(ours),
        time(theirs),
        theirs / ours,
    );
}

/// How many calls fill a sample.
fn calibrate(f: &mut impl FnMut()) -> u32 {
    f();
    let mut calls = 1;
    while sample(f, calls) * f64::from(calls) < SAMPLE.as_secs_f64() {
        calls *= 2;
    }
    calls
}

/// Seconds per call.
fn sample(f: &mut impl FnMut(), calls: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        f();
    }
    start.elapsed().as_secs_f64() / f64::from(calls)
}

/// Numbers from -1 to 1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

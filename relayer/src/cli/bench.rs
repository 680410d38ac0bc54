//! `candor bench`: how fast this machine is at language models of common shapes, with random weights.
use super::{Context, Outcome};
use crate::engine::{
    Device, InferRequest, LoadedModel,
    cuda::{self, Worker},
};
use anyhow::Context as _;
use candor_sdk::program::{
    Attention, EncodeKind, Limits, Model, Params, ProgramBuilder, UnaryFunction, Value, WeightTensor, WeightType,
};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::{sync::Arc, time::Instant};

/// What is measured.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to run on: cpu, cuda, cuda:1
    #[arg(long, default_value = "cpu", value_parser = |text: &str| text.parse::<Device>())]
    device: Device,
    /// The shape of the model
    #[arg(long, value_enum, default_value_t = Shape::Tiny)]
    shape: Shape,
    /// How its weights are stored
    #[arg(long, value_enum, default_value_t = Stored::F16)]
    weights: Stored,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    prompt: u32,
    /// Tokens to generate
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=16_384))]
    tokens: u32,
    /// Requests that are answered together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    batch: u32,
}

/// Shapes of language models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// A second's work for any machine
    Tiny,
    /// 24 layers of 896, as Qwen2.5-0.5B
    #[value(name = "0.5b")]
    Half,
    /// 16 layers of 2048, as Llama-3.2-1B
    #[value(name = "1b")]
    One,
    /// 32 layers of 4096, as Llama-3.1-8B
    #[value(name = "8b")]
    Eight,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stored {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q8_128")]
    Q8_128,
}

impl Stored {
    fn dtype(self) -> WeightType {
        match self {
            Self::F32 => WeightType::F32,
            Self::F16 => WeightType::F16,
            Self::Bf16 => WeightType::Bf16,
            Self::Q8_0 => WeightType::Q8_0,
            Self::Q8_128 => WeightType::Q8_128,
        }
    }
}

/// The numbers of a decoder.
struct Decoder {
    layers: u32,
    hidden: u32,
    intermediate: u32,
    heads: u32,
    kv_heads: u32,
    vocabulary: u32,
}

impl Shape {
    fn decoder(self) -> Decoder {
        let [layers, hidden, intermediate, heads, kv_heads, vocabulary] = match self {
            Self::Tiny => [2, 128, 256, 4, 2, 512],
            Self::Half => [24, 896, 4864, 14, 2, 151_936],
            Self::One => [16, 2048, 8192, 32, 8, 128_256],
            Self::Eight => [32, 4096, 14_336, 32, 8, 128_256],
        };
        Decoder { layers, hidden, intermediate, heads, kv_heads, vocabulary }
    }
}

/// Bytes that many tensors share.
struct Shared(Arc<Vec<u8>>, usize);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// A decoder whose matrices all hold the same small numbers: speed does not depend on what they are.
fn model(shape: &Decoder, dtype: WeightType, prompt: u32, answer: u32) -> anyhow::Result<Model> {
    let Decoder { layers, hidden, intermediate, heads, kv_heads, vocabulary } = *shape;
    let head_dim = hidden / heads;
    let widest = hidden.max(intermediate) as usize;
    let most = (dtype.row_bytes(hidden as usize) * (vocabulary.max(intermediate) as usize))
        .max(dtype.row_bytes(widest) * hidden as usize);
    // Exponents around 2^-6 in each format, and scales that are no NaN.
    let bytes = Arc::new((0..most).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8 & 0x2f).collect());
    let mut b = ProgramBuilder::new();
    let matrix = |b: &mut ProgramBuilder, rows: u32, cols: u32| -> anyhow::Result<Value> {
        let data = Shared(Arc::clone(&bytes), dtype.row_bytes(cols as usize) * rows as usize);
        Ok(b.weight(WeightTensor::new("w", (rows, cols), dtype, Arc::new(data))?))
    };
    let tokens = b.tokens(vocabulary);
    let context = b.context(tokens);
    let words = matrix(&mut b, vocabulary, hidden)?;
    let mut x = b.gather(context, words);
    let positions = prompt + answer;
    let turns = vec![0.5f32; (positions * head_dim / 2) as usize];
    let cos = b.weight(WeightTensor::from_f32("cos", (positions, head_dim / 2), &turns)?);
    let gain = b.row("gain", &vec![1.0; hidden as usize]);
    for _ in 0..layers {
        let h = b.rms_norm(x, gain, 1e-6);
        let projected = [hidden, kv_heads * head_dim, kv_heads * head_dim].map(|rows| matrix(&mut b, rows, hidden));
        let [q, k, v] = projected;
        let (q, k, v) = (q?, k?, v?);
        let (q, k, v) = (b.linear(h, q, None), b.linear(h, k, None), b.linear(h, v, None));
        let (q, k) = (b.rope(q, cos, cos, head_dim, head_dim), b.rope(k, cos, cos, head_dim, head_dim));
        let mixed = b.attention(q, k, v, Attention { heads, kv_heads, head_dim, scale: 0.1, causal: true });
        let w = matrix(&mut b, hidden, hidden)?;
        let mixed = b.linear(mixed, w, None);
        x = b.add(x, mixed);
        let h = b.rms_norm(x, gain, 1e-6);
        let (gate, up) = (matrix(&mut b, intermediate, hidden)?, matrix(&mut b, intermediate, hidden)?);
        let (gate, up) = (b.linear(h, gate, None), b.linear(h, up, None));
        let gate = b.unary(UnaryFunction::Silu, gate);
        let h = b.mul(gate, up);
        let w = matrix(&mut b, hidden, intermediate)?;
        let h = b.linear(h, w, None);
        x = b.add(x, h);
    }
    let x = b.predicting_rows(x);
    let x = b.rms_norm(x, gain, 1e-6);
    let logits = b.linear(x, words, None);
    // Stops at a token that is never sampled where all logits are alike: the first wins.
    let generated = b.generate(tokens, logits, &[vocabulary - 1]);
    b.output(EncodeKind::U32Be, generated);
    let limits =
        Limits { min_input_bytes: 4, max_input_bytes: 4 * prompt, max_output_bytes: 4 * answer, max_tokens: answer };
    Ok(b.finish(limits, vec![])?)
}

pub(super) fn bench(context: &Context, args: &BenchArgs) -> anyhow::Result<Outcome> {
    let worker: Option<Arc<Worker>> = match args.device {
        Device::Cpu => None,
        Device::Cuda(ordinal) => Some(cuda::worker(ordinal)?),
    };
    let decoder = args.shape.decoder();
    let model = model(&decoder, args.weights.dtype(), args.prompt, args.tokens)?;
    let bytes = model.weights.byte_len();
    let loaded = match &worker {
        None => LoadedModel::load(model, Device::Cpu)?,
        Some(worker) => LoadedModel::load_on(model, worker)?,
    };
    let request = |max_tokens: u32| InferRequest {
        input: (0..args.prompt).flat_map(|i| (i % decoder.vocabulary).to_be_bytes()).collect(),
        params: Params { max_tokens, ..Params::default() },
        seed: [0; 32],
    };
    let run = |max_tokens: u32| -> anyhow::Result<f64> {
        let batch = vec![request(max_tokens); args.batch as usize];
        let started = Instant::now();
        for answer in loaded.infer(&batch) {
            let answer = answer.context("the model gave no answer")?;
            anyhow::ensure!(answer.len() == 4 * max_tokens as usize, "{} bytes of {max_tokens} tokens", answer.len());
        }
        Ok(started.elapsed().as_secs_f64())
    };
    run(2)?; // caches, clocks, kernels
    let (first, all) = (run(1)?, run(args.tokens)?);
    let prefill = f64::from(args.prompt) * f64::from(args.batch) / first;
    let steps = f64::from(args.tokens - 1);
    let decode = steps * f64::from(args.batch) / (all - first).max(f64::MIN_POSITIVE);
    // Every step reads every weight once.
    let read = bytes as f64 * steps / (all - first).max(f64::MIN_POSITIVE);
    let copied = worker.as_ref().map(|worker| worker.copy_bandwidth()).transpose()?;
    let device = loaded.device();
    let (shape, weights) = (format!("{:?}", args.shape), format!("{:?}", args.weights));
    context.say(
        || {
            let share =
                copied.map_or_else(String::new, |copied| format!(", {:.0}% of what it copies", 100.0 * read / copied));
            format!(
                "{device}: {shape}, weights {weights} ({:.2} GB), batch {}\n  prompt of {}: {prefill:.1} tokens/s\n  \
                 generation: {decode:.1} tokens/s, {:.1} GB of weights a second{share}",
                bytes as f64 / 1e9,
                args.batch,
                args.prompt,
                read / 1e9
            )
        },
        || {
            json!({
                "event": "bench", "device": device, "shape": shape, "weights": weights, "weight_bytes": bytes,
                "batch": args.batch, "prompt": args.prompt, "tokens": args.tokens, "prefill_tokens_per_second": prefill,
                "decode_tokens_per_second": decode, "weight_bytes_per_second": read, "copy_bytes_per_second": copied,
            })
        },
    )?;
    Ok(Outcome::Done)
}

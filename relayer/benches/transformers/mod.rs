//! Transformers for the benchmark: random weights in the shapes of published models, as graphs for the engine and as candle
//! operations, written the way candle's own models are.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::{layer_norm, rms_norm, silu, softmax_last_dim};
use candor_sdk::program::{
    Attention, Dim, EncodeKind, Limits, Model, ProgramBuilder, UnaryFunction, Value, WeightTensor, WeightType,
};
use half::f16;
use std::sync::Arc;

/// Positions that rotary tables and embeddings have.
const POSITIONS: usize = 2048;

/// Sizes of a model.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) hidden: usize,
    pub(crate) vocabulary: usize,
}

/// SmolLM2-135M.
pub(crate) const LLAMA: Shape =
    Shape { layers: 30, width: 576, heads: 9, kv_heads: 3, hidden: 1536, vocabulary: 49152 };
/// all-MiniLM-L6-v2.
pub(crate) const MINILM: Shape =
    Shape { layers: 6, width: 384, heads: 12, kv_heads: 12, hidden: 1536, vocabulary: 30522 };

/// Weights by number, the same for both sides; those of the engine may be narrower.
struct Weights {
    narrow: bool,
}

impl Weights {
    fn values(&self, id: usize, rows: usize, cols: usize) -> Vec<f32> {
        let values = super::noise(rows * cols, id as u64);
        // Narrow weights are exact in both types.
        values.into_iter().map(|x| if self.narrow { f16::from_f32(0.05 * x).to_f32() } else { 0.05 * x }).collect()
    }

    fn ours(&self, b: &mut ProgramBuilder, id: usize, rows: usize, cols: usize) -> Value {
        let values = self.values(id, rows, cols);
        let (dtype, bytes): (_, Vec<u8>) = if self.narrow {
            (WeightType::F16, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect())
        } else {
            (WeightType::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect())
        };
        let shape = (rows as u32, cols as u32);
        b.weight(WeightTensor::new(format!("w{id}"), shape, dtype, Arc::new(bytes)).expect("a tensor"))
    }

    fn theirs(&self, id: usize, rows: usize, cols: usize) -> Tensor {
        Tensor::from_vec(self.values(id, rows, cols), (rows, cols), &Device::Cpu).expect("a tensor")
    }
}

fn angles(half: usize) -> (Vec<f32>, Vec<f32>) {
    let angle = |i: usize| (i / half) as f64 / 10_000f64.powf((i % half) as f64 / half as f64);
    (0..POSITIONS * half).map(|i| (angle(i).cos() as f32, angle(i).sin() as f32)).unzip()
}

/// A Llama of the given shape, greedy, that writes token ids.
pub(crate) fn llama(s: Shape, narrow: bool) -> Model {
    let weights = Weights { narrow };
    let head = s.width / s.heads;
    let (heads, kv_heads, head_dim) = (s.heads as u32, s.kv_heads as u32, head as u32);
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(s.vocabulary as u32);
    let context = b.context(tokens);
    let embedding = weights.ours(&mut b, 0, s.vocabulary, s.width);
    let (cos, sin) = angles(head / 2);
    let shape = (POSITIONS as u32, head_dim / 2);
    let cos = b.weight(WeightTensor::from_f32("cos", shape, &cos).expect("a tensor"));
    let sin = b.weight(WeightTensor::from_f32("sin", shape, &sin).expect("a tensor"));
    let ones = b.row("norm", &vec![1.0; s.width]);
    let mut x = b.gather(context, embedding);
    for layer in 0..s.layers {
        let linear = |b: &mut ProgramBuilder, x, i, n, k| {
            let w = weights.ours(b, 10 * layer + i, n, k);
            b.linear(x, w, None)
        };
        let h = b.rms_norm(x, ones, 1e-5);
        let q = linear(&mut b, h, 1, s.width, s.width);
        let k = linear(&mut b, h, 2, s.kv_heads * head, s.width);
        let v = linear(&mut b, h, 3, s.kv_heads * head, s.width);
        let (q, k) = (b.rope(q, cos, sin, head_dim, head_dim), b.rope(k, cos, sin, head_dim, head_dim));
        let scale = 1.0 / (head as f32).sqrt();
        let mixed = b.attention(q, k, v, Attention { heads, kv_heads, head_dim, scale, causal: true });
        let mixed = linear(&mut b, mixed, 4, s.width, s.width);
        x = b.add(x, mixed);
        let h = b.rms_norm(x, ones, 1e-5);
        let gate = linear(&mut b, h, 5, s.hidden, s.width);
        let gate = b.unary(UnaryFunction::Silu, gate);
        let up = linear(&mut b, h, 6, s.hidden, s.width);
        let h = b.mul(gate, up);
        let h = linear(&mut b, h, 7, s.width, s.hidden);
        x = b.add(x, h);
    }
    let x = b.predicting_rows(x);
    let x = b.rms_norm(x, ones, 1e-5);
    let logits = b.linear(x, embedding, None);
    let generated = b.generate(tokens, logits, &[]);
    b.output(EncodeKind::U32Be, generated);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 4 * 1024, max_output_bytes: 4 * 1024, max_tokens: 1023 };
    b.finish(limits, vec![]).expect("a valid model")
}

/// The same with candle's operations, in f32.
pub(crate) struct Llama {
    shape: Shape,
    embedding: Tensor,
    layers: Vec<[Tensor; 7]>,
    cos: Tensor,
    sin: Tensor,
    ones: Tensor,
}

impl Llama {
    pub(crate) fn new(s: Shape, narrow: bool) -> Result<Self> {
        let weights = Weights { narrow };
        let head = s.width / s.heads;
        let layer = |layer: usize| {
            let w = |i, n, k| weights.theirs(10 * layer + i, n, k);
            let (kv, h) = (s.kv_heads * head, s.hidden);
            let (q, k, v, o) = (w(1, s.width, s.width), w(2, kv, s.width), w(3, kv, s.width), w(4, s.width, s.width));
            [q, k, v, o, w(5, h, s.width), w(6, h, s.width), w(7, s.width, h)]
        };
        let (cos, sin) = angles(head / 2);
        Ok(Self {
            shape: s,
            embedding: weights.theirs(0, s.vocabulary, s.width),
            layers: (0..s.layers).map(layer).collect(),
            cos: Tensor::from_vec(cos, (POSITIONS, head / 2), &Device::Cpu)?,
            sin: Tensor::from_vec(sin, (POSITIONS, head / 2), &Device::Cpu)?,
            ones: Tensor::ones(s.width, candle_core::DType::F32, &Device::Cpu)?,
        })
    }

    /// Greedy tokens.
    pub(crate) fn generate(&self, prompt: &[u32], tokens: usize) -> Result<Vec<u32>> {
        let mut cache = vec![None; self.shape.layers];
        let mut next = prompt.to_vec();
        let (mut at, mut generated) = (0, Vec::new());
        for _ in 0..tokens {
            let token = self.forward(&next, at, &mut cache)?.argmax(0)?.to_scalar::<u32>()?;
            at += next.len();
            generated.push(token);
            next = vec![token];
        }
        Ok(generated)
    }

    fn forward(&self, ids: &[u32], at: usize, cache: &mut [Option<(Tensor, Tensor)>]) -> Result<Tensor> {
        let Shape { heads, kv_heads, width, .. } = self.shape;
        let (t, head) = (ids.len(), width / heads);
        let ids = Tensor::from_slice(ids, t, &Device::Cpu)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        let (cos, sin) = (self.cos.narrow(0, at, t)?, self.sin.narrow(0, at, t)?);
        let mask = match t {
            1 => None,
            _ => {
                let mask =
                    (0..t).flat_map(|i| (0..at + t).map(move |j| if j > at + i { f32::NEG_INFINITY } else { 0.0 }));
                Some(Tensor::from_vec(mask.collect(), (t, at + t), &Device::Cpu)?)
            }
        };
        for ([q, k, v, o, gate, up, down], cache) in self.layers.iter().zip(cache) {
            let h = rms_norm(&x, &self.ones, 1e-5)?;
            let split = |w: &Tensor, heads: usize| {
                h.matmul(&w.t()?)?.reshape((1, t, heads, head))?.transpose(1, 2)?.contiguous()
            };
            let q = candle_nn::rotary_emb::rope(&split(q, heads)?, &cos, &sin)?;
            let mut k = candle_nn::rotary_emb::rope(&split(k, kv_heads)?, &cos, &sin)?;
            let mut v = split(v, kv_heads)?;
            if let Some((before_k, before_v)) = cache.as_ref() {
                k = Tensor::cat(&[before_k, &k], 2)?;
                v = Tensor::cat(&[before_v, &v], 2)?;
            }
            *cache = Some((k.clone(), v.clone()));
            let group = heads / kv_heads;
            let repeat = |x: Tensor| {
                let (_, _, n, d) = x.dims4()?;
                Tensor::cat(&vec![&x; group], 2)?.reshape((1, heads, n, d))
            };
            let (k, v) = (repeat(k)?, repeat(v)?);
            let mut scores = (q.matmul(&k.t()?)? / (head as f64).sqrt())?;
            if let Some(mask) = &mask {
                scores = scores.broadcast_add(mask)?;
            }
            let mixed = softmax_last_dim(&scores)?.matmul(&v)?.transpose(1, 2)?.reshape((t, width))?;
            x = (x + mixed.matmul(&o.t()?)?)?;
            let h = rms_norm(&x, &self.ones, 1e-5)?;
            let h = (silu(&h.matmul(&gate.t()?)?)? * h.matmul(&up.t()?)?)?;
            x = (x + h.matmul(&down.t()?)?)?;
        }
        let x = rms_norm(&x.narrow(0, t - 1, 1)?.contiguous()?, &self.ones, 1e-5)?;
        x.matmul(&self.embedding.t()?)?.squeeze(0)
    }
}

/// A BERT encoder of the given shape that writes the mean of its last hidden states.
pub(crate) fn bert(s: Shape) -> Model {
    let weights = Weights { narrow: false };
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(s.vocabulary as u32);
    let words = weights.ours(&mut b, 0, s.vocabulary, s.width);
    let positions = weights.ours(&mut b, 1, 512, s.width);
    let x = b.gather(tokens, words);
    let positions = b.slice_rows(positions, Dim::ZERO, Dim::S);
    let mut x = b.add(x, positions);
    let (ones, zeros) = (b.row("ones", &vec![1.0; s.width]), b.row("zeros", &vec![0.0; s.width]));
    for layer in 0..s.layers {
        let linear = |b: &mut ProgramBuilder, x, i, n, k| {
            let w = weights.ours(b, 10 * layer + i, n, k);
            let bias = weights.ours(b, 1000 + 10 * layer + i, 1, n);
            b.linear(x, w, Some(bias))
        };
        let q = linear(&mut b, x, 1, s.width, s.width);
        let k = linear(&mut b, x, 2, s.width, s.width);
        let v = linear(&mut b, x, 3, s.width, s.width);
        let head = s.width / s.heads;
        let (heads, head_dim, scale) = (s.heads as u32, head as u32, 1.0 / (head as f32).sqrt());
        let mixed = b.attention(q, k, v, Attention { heads, kv_heads: heads, head_dim, scale, causal: false });
        let mixed = linear(&mut b, mixed, 4, s.width, s.width);
        let sum = b.add(x, mixed);
        x = b.layer_norm(sum, ones, zeros, 1e-12);
        let h = linear(&mut b, x, 5, s.hidden, s.width);
        let h = b.unary(UnaryFunction::GeluErf, h);
        let h = linear(&mut b, h, 6, s.width, s.hidden);
        let sum = b.add(x, h);
        x = b.layer_norm(sum, ones, zeros, 1e-12);
    }
    let mean = b.column_mean(x);
    b.output(EncodeKind::F32Be, mean);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 2048, max_output_bytes: 4096, max_tokens: 0 };
    b.finish(limits, vec![]).expect("a valid model")
}

/// The same with candle's operations.
pub(crate) struct Bert {
    shape: Shape,
    words: Tensor,
    positions: Tensor,
    layers: Vec<[(Tensor, Tensor); 6]>,
    ones: Tensor,
    zeros: Tensor,
}

impl Bert {
    pub(crate) fn new(s: Shape) -> Result<Self> {
        let weights = Weights { narrow: false };
        let layer = |layer: usize| {
            let w = |i, n, k| (weights.theirs(10 * layer + i, n, k), weights.theirs(1000 + 10 * layer + i, 1, n));
            let square = |i| w(i, s.width, s.width);
            [square(1), square(2), square(3), square(4), w(5, s.hidden, s.width), w(6, s.width, s.hidden)]
        };
        Ok(Self {
            shape: s,
            words: weights.theirs(0, s.vocabulary, s.width),
            positions: weights.theirs(1, 512, s.width),
            layers: (0..s.layers).map(layer).collect(),
            ones: Tensor::ones(s.width, candle_core::DType::F32, &Device::Cpu)?,
            zeros: Tensor::zeros(s.width, candle_core::DType::F32, &Device::Cpu)?,
        })
    }

    /// The mean of the last hidden states of a batch of sequences of one length.
    pub(crate) fn embed(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let Shape { heads, width, .. } = self.shape;
        let (n, t, head) = (ids.len(), ids[0].len(), width / heads);
        let ids = Tensor::from_vec(ids.concat(), n * t, &Device::Cpu)?;
        let x = self.words.index_select(&ids, 0)?.reshape((n, t, width))?;
        let mut x = x.broadcast_add(&self.positions.narrow(0, 0, t)?)?.reshape((n * t, width))?;
        for [q, k, v, o, up, down] in &self.layers {
            let linear = |x: &Tensor, (w, bias): &(Tensor, Tensor)| x.matmul(&w.t()?)?.broadcast_add(bias);
            let split = |w| linear(&x, w)?.reshape((n, t, heads, head))?.transpose(1, 2)?.contiguous();
            let (q, k, v) = (split(q)?, split(k)?, split(v)?);
            let scores = (q.matmul(&k.t()?)? / (head as f64).sqrt())?;
            let mixed = softmax_last_dim(&scores)?.matmul(&v)?.transpose(1, 2)?.reshape((n * t, width))?;
            x = layer_norm(&(&x + linear(&mixed, o)?)?, &self.ones, &self.zeros, 1e-12)?;
            let h = linear(&linear(&x, up)?.gelu_erf()?, down)?;
            x = layer_norm(&(x + h)?, &self.ones, &self.zeros, 1e-12)?;
        }
        x.reshape((n, t, width))?.mean(D::Minus2)
    }
}

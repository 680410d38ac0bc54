//! Small models with made-up weights, one for each family the graph has to express.

use std::sync::Arc;

use candor_sdk::{
    arithmetic::quantised::{Group, Quantised},
    program::{
        Attention, BinaryFunction, ConcatAxis, Dim, EncodeKind, Image, InputKind, Limits, Model, Op, Params,
        ProgramBuilder, Request, UnaryFunction, Value, WeightTensor, WeightType, Window,
    },
};

/// A splitmix64 stream of numbers.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1, a multiple of 2^-23.
    pub(crate) fn float(&mut self) -> f32 {
        ((self.next() >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    pub(crate) fn tensor(&mut self, name: &str, rows: u32, cols: u32) -> WeightTensor {
        let values = self.floats(rows as usize * cols as usize);
        WeightTensor::from_f32(name, (rows, cols), &values).expect("a valid shape")
    }

    /// The upper halves of floats, as bf16.
    pub(crate) fn tensor_bf16(&mut self, name: &str, rows: u32, cols: u32) -> WeightTensor {
        let halves = self.floats(rows as usize * cols as usize).into_iter().map(|x| (x.to_bits() >> 16) as u16);
        let bytes: Vec<u8> = halves.flat_map(u16::to_le_bytes).collect();
        WeightTensor::new(name, (rows, cols), WeightType::Bf16, Arc::new(bytes)).expect("a valid shape")
    }

    pub(crate) fn tensor_q8_128(&mut self, name: &str, rows: u32, cols: u32) -> WeightTensor {
        let mut bytes = Vec::new();
        for _ in 0..rows {
            let row = Quantised::weights(&self.floats(cols as usize), Group::G128).expect("finite weights");
            bytes.extend(row.to_bytes());
        }
        WeightTensor::new(name, (rows, cols), WeightType::Q8_128, Arc::new(bytes)).expect("a valid shape")
    }

    pub(crate) fn tensor_q8_0(&mut self, name: &str, rows: u32, cols: u32) -> WeightTensor {
        let mut bytes = Vec::new();
        for _ in 0..rows * cols / 32 {
            bytes.extend([0x00, 0x20 | (self.next() & 7) as u8]); // f16 scales around 2^-7
            bytes.extend((0..32).map(|_| self.next() as u8));
        }
        WeightTensor::new(name, (rows, cols), WeightType::Q8_0, Arc::new(bytes)).expect("a valid shape")
    }
}

pub(crate) fn f32_be(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_be_bytes()).collect()
}

pub(crate) fn u32_be(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_be_bytes()).collect()
}

/// A request without parameters.
pub(crate) fn ask(input: Vec<u8>) -> Request {
    Request { input, ..Request::default() }
}

/// A request for greedy tokens.
pub(crate) fn ask_tokens(prompt: &[u32], max_tokens: u32) -> Request {
    Request { input: u32_be(prompt), params: Params { max_tokens, ..Params::default() }, seed: [7; 32] }
}

/// A request for sampled tokens.
pub(crate) fn ask_sampled(prompt: &[u32], max_tokens: u32, temperature: f32, min_p: f32, seed: u8) -> Request {
    let params = Params { max_tokens, temperature: temperature.to_bits(), min_p: min_p.to_bits() };
    Request { input: u32_be(prompt), params, seed: [seed; 32] }
}

/// Fixed sizes: `input` bytes in, at most `output` out.
pub(crate) fn fixed(input: u32, output: u32) -> Limits {
    Limits { min_input_bytes: input, max_input_bytes: input, max_output_bytes: output, max_tokens: 0 }
}

/// Four numbers in, three classes out: the class and its probabilities.
pub(crate) fn mlp() -> Model {
    let mut n = Numbers::new(1);
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, 1, 4);
    let (w1, b1) = (b.weight(n.tensor("fc1.weight", 5, 4)), b.weight(n.tensor("fc1.bias", 1, 5)));
    let (w2, b2) = (b.weight(n.tensor("fc2.weight", 3, 5)), b.weight(n.tensor("fc2.bias", 1, 3)));
    let h = b.within("fc1", |b| b.linear(x, w1, Some(b1)));
    let h = b.relu(h);
    let logits = b.within("fc2", |b| b.linear(h, w2, Some(b2)));
    let probabilities = b.softmax(logits);
    let class = b.argmax(probabilities);
    b.output(EncodeKind::U32Be, class);
    b.output(EncodeKind::F32Be, probabilities);
    b.finish(fixed(16, 16), vec![]).expect("a valid model")
}

/// An 8 x 8 image of bytes in, five probabilities out.
pub(crate) fn cnn() -> Model {
    let mut n = Numbers::new(2);
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::U8, 1, 64);
    let x = b.convert(x);
    let scale = b.constant(1.0 / 255.0);
    let x = b.mul(x, scale);
    let (w1, b1) = (b.weight(n.tensor("conv1.weight", 3, 9)), b.weight(n.tensor("conv1.bias", 1, 3)));
    let (w2, b2) = (b.weight(n.tensor("conv2.weight", 4, 27)), b.weight(n.tensor("conv2.bias", 1, 4)));
    let (w3, b3) = (b.weight(n.tensor("fc.weight", 5, 16)), b.weight(n.tensor("fc.bias", 1, 5)));
    let image = b.conv2d(Image::planar(x, 1, 8, 8), w1, Some(b1), Window::square(3, 1).padded(1));
    let image = image.map(|x| b.relu(x));
    let image = b.max_pool2d(image, Window::square(2, 2));
    let image = b.conv2d(image, w2, Some(b2), Window::square(3, 1));
    let image = image.map(|x| b.unary(UnaryFunction::GeluTanh, x));
    let flat = b.flatten(image);
    let logits = b.linear(flat, w3, Some(b3));
    let probabilities = b.softmax(logits);
    b.output(EncodeKind::F32Be, probabilities);
    b.finish(fixed(64, 20), vec![]).expect("a valid model")
}

/// A BERT-like encoder: token ids in, a normalised mean of the hidden states out.
pub(crate) fn bert() -> Model {
    const DIM: u32 = 8;
    let mut n = Numbers::new(3);
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(30);
    let words = b.weight(n.tensor_bf16("embeddings.word", 30, DIM));
    let positions = b.weight(n.tensor("embeddings.position", 16, DIM));
    let types = b.weight(n.tensor("embeddings.type", 2, DIM));
    let x = b.gather(tokens, words);
    let positions = b.slice_rows(positions, Dim::ZERO, Dim::S);
    let types = b.slice_rows(types, Dim::ZERO, Dim::ONE);
    let x = b.add(x, types);
    let x = b.add(x, positions);
    let x = norm(&mut b, &mut n, x, DIM);
    let x = b.within("layer.0", |b| {
        let [q, k, v] = ["q", "k", "v"].map(|name| dense(b, &mut n, name, x, DIM, DIM));
        let shape = Attention { heads: 2, kv_heads: 2, head_dim: 4, scale: 0.5, causal: false };
        let mixed = b.attention(q, k, v, shape);
        let mixed = dense(b, &mut n, "o", mixed, DIM, DIM);
        let x = b.add(mixed, x);
        let x = norm(b, &mut n, x, DIM);
        let h = dense(b, &mut n, "up", x, DIM, 12);
        let h = b.unary(UnaryFunction::GeluErf, h);
        let h = dense(b, &mut n, "down", h, 12, DIM);
        let x = b.add(h, x);
        norm(b, &mut n, x, DIM)
    });
    let mean = b.column_mean(x);
    let squares = b.row_sum_squares(mean);
    let length = b.unary(UnaryFunction::Sqrt, squares);
    let embedding = b.div(mean, length);
    b.output(EncodeKind::F32Be, embedding);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 64, max_output_bytes: 32, max_tokens: 0 };
    b.finish(limits, vec![]).expect("a valid model")
}

fn dense(b: &mut ProgramBuilder, n: &mut Numbers, name: &str, x: Value, from: u32, to: u32) -> Value {
    let w = b.weight(n.tensor(&format!("{name}.weight"), to, from));
    let bias = b.weight(n.tensor(&format!("{name}.bias"), 1, to));
    b.within(name, |b| b.linear(x, w, Some(bias)))
}

fn norm(b: &mut ProgramBuilder, n: &mut Numbers, x: Value, dim: u32) -> Value {
    let (weight, bias) = (b.weight(n.tensor("norm.weight", 1, dim)), b.weight(n.tensor("norm.bias", 1, dim)));
    b.layer_norm(x, weight, bias, 1e-12)
}

/// Ids of the causal model's vocabulary; 0 ends the text.
pub(crate) const VOCABULARY: u32 = 24;
/// Positions the causal model has tables for.
pub(crate) const POSITIONS: u32 = 150;

/// A Llama-like causal model: RMS norm, grouped heads, rotary embedding, SwiGLU, tied embeddings; text and token ids
/// out.
pub(crate) fn causal() -> Model {
    const DIM: u32 = 16;
    let (heads, kv_heads, head_dim) = (4, 2, 4);
    let mut n = Numbers::new(4);
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(VOCABULARY);
    let context = b.context(tokens);
    let embedding = b.weight(n.tensor("embedding", VOCABULARY, DIM));
    let angle = |position: u32, pair: u32| f64::from(position) / 10f64.powi(pair as i32 * 2);
    let table = |name: &str, f: fn(f64) -> f64| {
        let positions = (0..POSITIONS).flat_map(|i| (0..head_dim / 2).map(move |pair| (i, pair)));
        let values: Vec<f32> = positions.map(|(i, pair)| f(angle(i, pair)) as f32).collect();
        WeightTensor::from_f32(name, (POSITIONS, head_dim / 2), &values).expect("a valid shape")
    };
    let (cos, sin) = (b.weight(table("rope.cos", libm::cos)), b.weight(table("rope.sin", libm::sin)));
    let mut x = b.gather(context, embedding);
    for layer in 0..2 {
        x = b.within(format!("layer.{layer}"), |b| {
            let mut plain = |b: &mut ProgramBuilder, name: &str, x: Value, to: u32, from: u32| {
                let w = b.weight(n.tensor(name, to, from));
                b.linear(x, w, None)
            };
            let ones = b.row("norm", &[1.0; DIM as usize]);
            let h = b.rms_norm(x, ones, 1e-5);
            let q = plain(b, "q", h, heads * head_dim, DIM);
            let k = plain(b, "k", h, kv_heads * head_dim, DIM);
            let v = plain(b, "v", h, kv_heads * head_dim, DIM);
            let (q, k) = (b.rope(q, cos, sin, head_dim, head_dim), b.rope(k, cos, sin, head_dim, head_dim));
            let mixed = b.attention(q, k, v, Attention { heads, kv_heads, head_dim, scale: 0.5, causal: true });
            let mixed = plain(b, "o", mixed, DIM, heads * head_dim);
            let x = b.add(x, mixed);
            let h = b.rms_norm(x, ones, 1e-5);
            let gate = plain(b, "gate", h, 20, DIM);
            let gate = b.unary(UnaryFunction::Silu, gate);
            let up = plain(b, "up", h, 20, DIM);
            let h = b.mul(gate, up);
            let h = plain(b, "down", h, DIM, 20);
            b.add(x, h)
        });
    }
    let x = b.predicting_rows(x);
    let logits = b.linear(x, embedding, None);
    let generated = b.generate(tokens, logits, &[0]);
    b.output_text(generated);
    b.output(EncodeKind::U32Be, generated);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 4 * 140, max_output_bytes: 60, max_tokens: 10 };
    let vocabulary = (0..VOCABULARY).map(|id| "candor".as_bytes()[..(id % 3) as usize].to_vec()).collect();
    b.finish(limits, vocabulary).expect("a valid model")
}

/// Quantised layers of both formats, and quantised embeddings of bytes.
pub(crate) fn quantised() -> Model {
    let mut n = Numbers::new(5);
    let mut b = ProgramBuilder::new();
    let text = b.input(InputKind::Utf8, Dim::B, 1);
    let table = b.weight(n.tensor_q8_128("bytes", 256, 160));
    let x = b.gather(text, table);
    let w = b.weight(n.tensor_q8_0("a.weight", 192, 160));
    let bias = b.weight(n.tensor("a.bias", 1, 192));
    let x = b.within("a", |b| b.linear(x, w, Some(bias)));
    let x = b.unary(UnaryFunction::Silu, x);
    let w = b.weight(n.tensor_q8_128("b.weight", 2, 192));
    let x = b.within("b", |b| b.linear(x, w, None));
    b.output(EncodeKind::F32Be, x);
    let limits = Limits { min_input_bytes: 1, max_input_bytes: 40, max_output_bytes: 320, max_tokens: 0 };
    b.finish(limits, vec![]).expect("a valid model")
}

/// Mixed columns as a credit model has them: some standardised, some one-hot; compare, select and concatenate.
pub(crate) fn features() -> Model {
    let mut n = Numbers::new(6);
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, 1, 4);
    let numeric = b.indices("numeric", &[1, 3]);
    let (mean, scale) = (b.row("mean", &[10.0, 0.5]), b.row("scale", &[0.25, 2.0]));
    let categorical = b.indices("categorical", &[0, 0, 0, 2, 2]);
    let codes = b.row("codes", &[0.0, 1.0, 2.0, 5.0, 7.0]);
    let numbers = b.take(x, numeric);
    let numbers = b.sub(numbers, mean);
    let numbers = b.mul(numbers, scale);
    let classes = b.take(x, categorical);
    let classes = b.binary(BinaryFunction::Equal, classes, codes);
    let all = b.concat(ConcatAxis::Cols, &[numbers, classes]);
    let (low, high) = (b.constant(-3.0), b.constant(3.0));
    let all = b.binary(BinaryFunction::Maximum, all, low);
    let all = b.binary(BinaryFunction::Minimum, all, high);
    let w = b.weight(n.tensor("weight", 1, 7));
    let y = b.linear(all, w, None);
    let y = b.unary(UnaryFunction::Sigmoid, y);
    let half = b.constant(0.5);
    let sure = b.binary(BinaryFunction::Less, half, y);
    let (yes, no) = (b.constant(1.0), b.constant(-1.0));
    let verdict = b.select(sure, yes, no);
    b.output(EncodeKind::F32Be, y);
    b.output(EncodeKind::F32Be, verdict);
    b.output(EncodeKind::F32Be, all);
    b.finish(fixed(16, 36), vec![]).expect("a valid model")
}

/// All of them, with a request each.
pub(crate) fn all() -> Vec<(&'static str, Model, Request)> {
    let mut n = Numbers::new(7);
    vec![
        ("mlp", mlp(), ask(f32_be(&[0.5, -1.25, 3.0, 0.0]))),
        ("cnn", cnn(), ask((0..64).map(|_| n.next() as u8).collect())),
        ("bert", bert(), ask(u32_be(&[2, 17, 4, 29, 4]))),
        ("causal", causal(), ask_sampled(&[3, 1, 20, 9], 6, 0.75, 0.0625, 9)),
        ("quantised", quantised(), ask("Candor: gr\u{fc}n".as_bytes().to_vec())),
        ("features", features(), ask(f32_be(&[2.0, 14.0, 5.0, 0.25]))),
    ]
}

/// The first node with this operation.
pub(crate) fn find(model: &Model, wanted: impl Fn(&Op) -> bool) -> usize {
    model.program.nodes.iter().position(|node| wanted(&node.op)).expect("the model has such a node")
}

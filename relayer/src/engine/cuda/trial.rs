//! The second half of the self-test: two small language models on this very device, and what the reference interpreter
//! says of the same requests. The golden vectors try operations one by one; this tries what only a whole model has:
//! attention over prompts and over caches, kernels that make several nodes, recorded passes, traces.

use super::driver::DeviceError;
use super::memory::Device;
use super::model::DeviceModel;
use super::ops::Result;
use super::selftest::SelfTest;
use crate::engine::InferError;
use candor_sdk::arithmetic::quantised::{Group, Quantised};
use candor_sdk::program::{
    Attention, EncodeKind, Limits, Model, ModelError, Params, ProgramBuilder, Request, TraceBuilder, UnaryFunction,
    Value, WeightTensor, WeightType,
};
use half::{bf16, f16};
use std::sync::Arc;

const VOCABULARY: u32 = 48;
const HIDDEN: u32 = 64;
const INTERMEDIATE: u32 = 160;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
/// Tokens of the longer prompt: enough rows for the kernels of many.
const PROMPT: u32 = 35;
const ANSWER: u32 = 4;
/// Rows of a pass over a prompt: the longer one takes two.
const PASS: usize = 24;

/// Runs them and compares answers, tokens and every tensor's root.
pub(super) fn run(device: &Device, test: &mut SelfTest) -> Result<()> {
    let models = [
        ("floats", [WeightType::F32, WeightType::F16, WeightType::Bf16]),
        ("bytes", [WeightType::Q8_128, WeightType::Q8_128, WeightType::Q8_0]),
    ];
    for (name, types) in models {
        let model = Arc::new(decoder(types).map_err(|error| DeviceError::Failed(format!("{name}: {error}")))?);
        let placed = DeviceModel::load(device, model.clone(), PASS)?;
        let requests = [request(PROMPT, 0.0), request(3, 0.8)];
        let answers = placed.infer(&requests);
        for (number, (request, answer)) in requests.iter().zip(answers).enumerate() {
            let what = format!("small model of {name}, request {number}");
            let unsound = |error: String| DeviceError::Failed(format!("{what}: {error}"));
            let expected = model.interpret(request).map_err(|error| unsound(error.to_string()))?;
            test.compare(&format!("{what}, answer"), &words(&answer.map_err(fault)?), &words(&expected.output));

            let symbols = model.check_request(request).map_err(|error| unsound(error.to_string()))?;
            let (trace, _) = placed.replay(request, symbols, &expected.generated, None).map_err(fault)?;
            let mut reference = TraceBuilder::default();
            expected.tensors.iter().for_each(|tensor| reference.push(tensor));
            let roots = [trace.root(), reference.finish(expected.symbols).root()].map(|root| words(root.as_slice()));
            test.compare(&format!("{what}, trace"), &roots[0], &roots[1]);
        }
    }
    Ok(())
}

fn fault(error: InferError) -> DeviceError {
    match error {
        InferError::Lost { message, .. } => DeviceError::Lost(message),
        InferError::OutOfMemory { bytes, .. } => DeviceError::OutOfMemory { bytes },
        other => DeviceError::Failed(other.to_string()),
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word)).collect()
}

fn request(prompt: u32, temperature: f32) -> Request {
    let tokens = (0..prompt).map(|i| i * i % VOCABULARY);
    let params = Params { max_tokens: ANSWER, temperature: temperature.to_bits(), ..Params::default() };
    Request { input: tokens.flat_map(u32::to_be_bytes).collect(), params, seed: [7; 32] }
}

/// Numbers between -1/8 and 1/8 that look random and are the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 40) as f32 / 8_388_608.0 - 1.0) / 8.0
    }

    fn weight(&mut self, (rows, cols): (u32, u32), dtype: WeightType) -> std::result::Result<WeightTensor, ModelError> {
        let mut row = || (0..cols).map(|_| self.next()).collect::<Vec<f32>>();
        let bytes = |row: Vec<f32>| -> Vec<u8> {
            let group = if dtype == WeightType::Q8_0 { Group::G32 } else { Group::G128 };
            match dtype {
                WeightType::F16 => row.into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
                WeightType::Bf16 => row.into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
                WeightType::F32 => row.into_iter().flat_map(f32::to_le_bytes).collect(),
                // Rows are finite and their lengths whole groups of 32.
                _ => Quantised::weights(&row, group).map(|row| row.to_bytes()).unwrap_or_default(),
            }
        };
        let data = (0..rows).flat_map(|_| bytes(row())).collect::<Vec<u8>>();
        WeightTensor::new("w", (rows, cols), dtype, Arc::new(data))
    }
}

/// A decoder of one layer, with weights of three types: of attention, of the rest of the layer, of words.
fn decoder([own, rest, words]: [WeightType; 3]) -> std::result::Result<Model, ModelError> {
    let head_dim = HIDDEN / HEADS;
    let (mut b, mut numbers) = (ProgramBuilder::new(), Numbers(1));
    let mut matrix = |b: &mut ProgramBuilder, rows: u32, cols: u32, dtype| -> std::result::Result<Value, ModelError> {
        Ok(b.weight(numbers.weight((rows, cols), dtype)?))
    };
    let tokens = b.tokens(VOCABULARY);
    let context = b.context(tokens);
    let words = matrix(&mut b, VOCABULARY, HIDDEN, words)?;
    let x = b.gather(context, words);
    let turns = (PROMPT + ANSWER, head_dim / 2);
    let (cos, sin) =
        (matrix(&mut b, turns.0, turns.1, WeightType::F32)?, matrix(&mut b, turns.0, turns.1, WeightType::F32)?);
    let gain = matrix(&mut b, 1, HIDDEN, WeightType::F32)?;
    let shift = matrix(&mut b, 1, HIDDEN, WeightType::F32)?;

    let h = b.rms_norm(x, gain, 1e-6);
    let shared = KV_HEADS * head_dim;
    let (q, k, v) = (
        matrix(&mut b, HIDDEN, HIDDEN, own)?,
        matrix(&mut b, shared, HIDDEN, own)?,
        matrix(&mut b, shared, HIDDEN, own)?,
    );
    let (q, k, v) = (b.linear(h, q, None), b.linear(h, k, None), b.linear(h, v, None));
    let (q, k) = (b.rope(q, cos, sin, head_dim, head_dim), b.rope(k, cos, sin, head_dim, head_dim));
    let shape = Attention { heads: HEADS, kv_heads: KV_HEADS, head_dim, scale: 0.25, causal: true };
    let mixed = b.attention(q, k, v, shape);
    let back = matrix(&mut b, HIDDEN, HIDDEN, own)?;
    let mixed = b.linear(mixed, back, None);
    let x = b.add(x, mixed);

    let h = b.layer_norm(x, gain, shift, 1e-5);
    let (gate, up) = (matrix(&mut b, INTERMEDIATE, HIDDEN, rest)?, matrix(&mut b, INTERMEDIATE, HIDDEN, rest)?);
    let (gate, up) = (b.linear(h, gate, None), b.linear(h, up, None));
    let gate = b.unary(UnaryFunction::Silu, gate);
    let h = b.mul(gate, up);
    let down = matrix(&mut b, HIDDEN, INTERMEDIATE, rest)?;
    let h = b.linear(h, down, None);
    let x = b.add(x, h);

    let x = b.predicting_rows(x);
    let x = b.rms_norm(x, gain, 1e-6);
    let logits = b.linear(x, words, None);
    let generated = b.generate(tokens, logits, &[VOCABULARY - 1]);
    b.output(EncodeKind::U32Be, generated);
    let limits =
        Limits { min_input_bytes: 4, max_input_bytes: 4 * PROMPT, max_output_bytes: 4 * ANSWER, max_tokens: ANSWER };
    b.finish(limits, Vec::new())
}

//! Single operations: linear layers in every type, and attention.

use crate::paired::{Table, noise};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Result, Tensor, WithDType};
use candor_relayer::engine::kernels::attention::{Heads, Memory, attend, push_keys};
use candor_relayer::engine::kernels::elementwise::Epilogue;
use candor_relayer::engine::kernels::gemm::{self, Activations};
use candor_relayer::engine::kernels::{Isa, Weight, quantised};
use half::{bf16, f16};
use rayon::prelude::*;
use std::hint::black_box;

const BATCHES: [usize; 4] = [1, 8, 64, 256];

/// Rows that one thread quantises, as the engine shares them out.
const ROWS_PER_TASK: usize = 16;

/// Outputs and inputs: a layer that is read from memory, and one that stays in the cache.
const SHAPES: [(usize, usize); 2] = [(2304, 2048), (512, 512)];

pub(crate) fn linear_layers(table: &Table) {
    for (n, k) in SHAPES {
        for m in BATCHES {
            linear::<f32>(table, "f32", (m, k, n), |x| x);
            linear::<f16>(table, "f16", (m, k, n), f16::from_f32);
            linear::<bf16>(table, "bf16", (m, k, n), bf16::from_f32);
        }
    }
}

/// candle multiplies operands of one type: its activations have the weights' width, ours are f32.
fn linear<W: Weight + WithDType>(
    table: &Table,
    dtype: &str,
    (m, k, n): (usize, usize, usize),
    weight: impl Fn(f32) -> W,
) {
    let name = format!("linear {dtype}, {m} x {k} x {n}");
    if !table.wants(&name) {
        return;
    }
    let x = noise(m * k, 1);
    let w: Vec<W> = noise(n * k, 2).into_iter().map(weight).collect();
    let packed = gemm::pack(&w, n, k);
    let mut out = vec![0f32; m * n];
    let theirs_x = Tensor::from_slice(&x, (m, k), &Device::Cpu).and_then(|x| x.to_dtype(W::DTYPE)).expect("a tensor");
    let theirs_w = Tensor::from_vec(w, (n, k), &Device::Cpu).and_then(|w| w.t()).expect("a tensor");
    let (isa, epilogue) = (Isa::best(), Epilogue::default());
    table.pair(
        &name,
        || gemm::linear(isa, Activations::Dense(&x), &packed, m, k, n, &epilogue, black_box(&mut out)),
        || drop(black_box(theirs_x.matmul(&theirs_w).expect("a product"))),
    );
}

/// Int8 weights and f32 activations that each side quantises itself. candle has blocks of 32 only (Q8_0).
pub(crate) fn quantised_layers(table: &Table) {
    for (n, k) in SHAPES {
        for (format, group) in [("q8_0", 32), ("q8_128", 128)] {
            for m in BATCHES {
                let name = format!("linear {format}, {m} x {k} x {n}");
                if !table.wants(&name) {
                    continue;
                }
                let (x, w) = (noise(m * k, 1), noise(n * k, 2));
                let theirs_x = Tensor::from_slice(&x, (m, k), &Device::Cpu).expect("a tensor");
                let theirs_w = Tensor::from_slice(&w, (n, k), &Device::Cpu)
                    .and_then(|w| QTensor::quantize(&w, GgmlDType::Q8_0))
                    .and_then(QMatMul::from_qtensor)
                    .expect("quantised weights");
                let (isa, groups) = (Isa::best(), k / group);
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
                let epilogue = Epilogue::default();
                table.pair(
                    &name,
                    || {
                        let rows = x.par_chunks(k).zip(scales.par_chunks_mut(groups)).zip(values.par_chunks_mut(k));
                        rows.with_min_len(ROWS_PER_TASK).for_each(|((x, scales), values)| quantise(x, scales, values));
                        quantised::linear(isa, (&values, &scales), &packed.as_ref(), m, &epilogue, black_box(&mut out));
                    },
                    || drop(black_box(theirs_w.forward(&theirs_x).expect("a product"))),
                );
            }
        }
    }
}

/// Queries, keys and values in, the mix out: `m` queries at the end of `length` positions. candle's side is what its models
/// do: keys and values repeated for the heads that share them, two products, a mask, a softmax.
pub(crate) fn attention(table: &Table) {
    let minilm = Heads { heads: 12, group: 1, key_width: 32, value_width: 32, scale: 0.25, causal: false };
    let llama = Heads { heads: 9, group: 3, key_width: 64, value_width: 64, scale: 0.125, causal: true };
    for (shape, m, length) in
        [(minilm, 128, 128), (minilm, 512, 512), (llama, 512, 512), (llama, 1, 128), (llama, 1, 1024)]
    {
        let Heads { heads, group, key_width: width, causal, .. } = shape;
        let kind = if causal { "causal" } else { "full" };
        let name = format!("attention {kind}, {heads} heads of {width}, {m} of {length}");
        if !table.wants(&name) {
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
            Tensor::from_slice(x, (1, rows, heads, width), &Device::Cpu)
                .and_then(|x| x.transpose(1, 2)?.contiguous())
                .expect("a tensor")
        };
        let (tq, tk, tv) = (split(&q, m, heads), split(&k, length, heads / group), split(&v, length, heads / group));
        let mask =
            (0..m).flat_map(|i| (0..length).map(move |j| if j > length - m + i { f32::NEG_INFINITY } else { 0.0 }));
        let mask = Tensor::from_vec(mask.collect::<Vec<f32>>(), (m, length), &Device::Cpu).expect("a tensor");
        let theirs = || -> Result<Tensor> {
            let repeat = |x: &Tensor| Tensor::cat(&vec![x; group], 2)?.reshape((1, heads, length, width));
            let (k, v) = (repeat(&tk)?, repeat(&tv)?);
            let mut scores = (tq.matmul(&k.t()?)? * f64::from(shape.scale))?;
            if causal && m > 1 {
                scores = scores.broadcast_add(&mask)?;
            }
            candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?.transpose(1, 2)?.contiguous()
        };
        table.pair(
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

//! Linear layers on a GPU: ours beside candle's own kernels, the card's copy bandwidth and its bf16 matrix rate, in one run.
//!
//!     cargo bench -p candor-relayer --features cuda --bench gpu
//!
//! Weights come from memory each time: every launch has others, several times as many as fit any cache. Ours quantise their
//! activations within the time; candle's bf16 has activations that are bf16 already.
//!
//! With `--dry` the same program runs small layers on the emulated GPU and on candle's CPU: to see that it works before it is
//! taken to a machine whose time is short. Its times mean nothing.

#[path = "../tests/cuda_common/mod.rs"]
mod cuda_common;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use candor_relayer::engine::cuda::{self, Worker};
use candor_sdk::program::WeightType;
use cuda_common::Emulated;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is measured where.
struct Bench {
    worker: Arc<Worker>,
    candle: Device,
    /// Columns and outputs of layers.
    layers: &'static [(usize, usize)],
    rows: &'static [usize],
    /// Side of the square matrices whose product is the card's matrix rate.
    side: usize,
    /// Bytes of weights that are read before any is read again.
    large: usize,
}

impl Bench {
    /// The widest layers of 0.5B, 1B and 8B models, for one token, a few and a prompt, on the first GPU.
    fn on_gpu() -> anyhow::Result<Self> {
        Ok(Self {
            worker: cuda::worker(0)?,
            candle: Device::new_cuda(0)?,
            layers: &[(896, 4864), (2048, 8192), (4096, 14_336)],
            rows: &[1, 4, 8, 512, 2048],
            side: 8192,
            large: 1 << 30,
        })
    }

    fn dry() -> anyhow::Result<Self> {
        let worker = Worker::start("emulated", || Ok(Box::new(Emulated::new(1))))?;
        Ok(Self { worker, candle: Device::Cpu, layers: &[(64, 96)], rows: &[1, 17], side: 64, large: 1 << 12 })
    }
}

fn main() -> anyhow::Result<()> {
    let bench = if std::env::args().any(|arg| arg == "--dry") { Bench::dry()? } else { Bench::on_gpu()? };
    let Bench { worker, candle, large, side, .. } = &bench;
    let copied = worker.copy_bandwidth()?;
    let product = candle_matmul(candle, (DType::BF16, 0), *side, *side, *side)?;
    let rate = side.pow(3) as f64 / product.as_secs_f64();
    let about = worker.description();
    println!(
        "{worker}, driver for CUDA {}: copies {:.0} GB/s (read and written), multiplies bf16 matrices of {side} at {:.0} \
         Tmul-add/s (candle, so cuBLAS)\n",
        about.driver,
        copied / 1e9,
        rate / 1e12
    );
    println!(
        "| rows | K x N | kernel | us | weights GB/s | of copy | Tmul-add/s | of bf16 matrices | candle bf16 / this |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for &(k, n) in bench.layers {
        for &rows in bench.rows {
            let reference = candle_matmul(candle, (DType::BF16, *large), rows, k, n)?;
            let line = |name: &str, bytes: usize, took: Duration| {
                let seconds = took.as_secs_f64();
                let (read, done) = (bytes as f64 / seconds, (rows * k * n) as f64 / seconds);
                println!(
                    "| {rows} | {k} x {n} | {name} | {:.1} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
                    1e6 * seconds,
                    read / 1e9,
                    read / copied,
                    done / 1e12,
                    done / rate,
                    reference.as_secs_f64() / seconds
                );
            };
            line("candle bf16", 2 * k * n, reference);
            line("candle f32", 4 * k * n, candle_matmul(candle, (DType::F32, *large), rows, k, n)?);
            line("candle q8_0", k * n / 32 * 34, candle_quantised(candle, *large, rows, k, n)?);
            for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16, WeightType::Q8_0, WeightType::Q8_128] {
                line(
                    &format!("ours {dtype:?}"),
                    dtype.row_bytes(k) * n,
                    worker.time_linear(dtype, rows, k, n, *large)?,
                );
            }
        }
    }
    Ok(())
}

/// Time of one of `copies` calls, the best of a few rounds.
fn best(
    device: &Device,
    copies: usize,
    mut run: impl FnMut() -> candle_core::Result<()>,
) -> candle_core::Result<Duration> {
    run()?; // kernels are compiled
    let mut best = Duration::MAX;
    for _ in 0..5 {
        device.synchronize()?;
        let started = Instant::now();
        run()?;
        device.synchronize()?;
        best = best.min(started.elapsed());
    }
    Ok(best / u32::try_from(copies).unwrap_or(u32::MAX))
}

fn candle_matmul(
    device: &Device,
    (dtype, large): (DType, usize),
    rows: usize,
    k: usize,
    n: usize,
) -> candle_core::Result<Duration> {
    let copies = (large / (dtype.size_in_bytes() * k * n)).clamp(2, 64);
    let x = Tensor::randn(0f32, 1f32, (rows, k), device)?.to_dtype(dtype)?;
    let weights = (0..copies)
        .map(|_| Tensor::randn(0f32, 0.02f32, (n, k), device)?.to_dtype(dtype)?.t())
        .collect::<candle_core::Result<Vec<_>>>()?;
    best(device, copies, || weights.iter().try_for_each(|w| x.matmul(w).map(drop)))
}

fn candle_quantised(device: &Device, large: usize, rows: usize, k: usize, n: usize) -> candle_core::Result<Duration> {
    let copies = (large / (k * n / 32 * 34)).clamp(2, 16);
    let x = Tensor::randn(0f32, 1f32, (rows, k), device)?;
    let w = Tensor::randn(0f32, 0.02f32, (n, k), device)?;
    let weights = (0..copies)
        .map(|_| QMatMul::from_qtensor(QTensor::quantize(&w, GgmlDType::Q8_0)?))
        .collect::<candle_core::Result<Vec<_>>>()?;
    best(device, copies, || weights.iter().try_for_each(|w| w.forward(&x).map(drop)))
}

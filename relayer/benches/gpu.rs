//! Linear layers on a GPU: ours beside candle's own kernels and the card's copy bandwidth, in one run.
//!
//!     cargo bench -p candor-relayer --features cuda --bench gpu
//!
//! Weights come from memory each time: every launch has others, several times as many as fit any cache. Ours quantise their
//! activations within the time; candle's bf16 has activations that are bf16 already.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use candor_relayer::engine::cuda;
use candor_sdk::program::WeightType;
use std::time::{Duration, Instant};

/// Columns and outputs of the widest layers of 0.5B, 1B and 8B models.
const LAYERS: [(usize, usize); 3] = [(896, 4864), (2048, 8192), (4096, 14_336)];
/// One token, a few, a prompt.
const ROWS: [usize; 4] = [1, 4, 8, 512];
/// Bytes of weights that are read before any is read again.
const LARGE: usize = 1 << 30;

fn main() -> anyhow::Result<()> {
    let worker = cuda::worker(0)?;
    let candle = Device::new_cuda(0)?;
    let copied = worker.copy_bandwidth()?;
    let about = worker.description();
    println!("{worker}, driver for CUDA {}, copies {:.0} GB/s (read and written)\n", about.driver, copied / 1e9);
    println!("| rows | K x N | kernel | us | weights GB/s | of copy | Tmul-add/s | candle bf16 / this |");
    println!("|---|---|---|---|---|---|---|---|");
    for (k, n) in LAYERS {
        for rows in ROWS {
            let reference = candle_matmul(&candle, DType::BF16, rows, k, n)?;
            let line = |name: &str, bytes: usize, took: Duration| {
                let seconds = took.as_secs_f64();
                let read = bytes as f64 / seconds;
                println!(
                    "| {rows} | {k} x {n} | {name} | {:.1} | {:.0} | {:.2} | {:.2} | {:.2} |",
                    1e6 * seconds,
                    read / 1e9,
                    read / copied,
                    (rows * k * n) as f64 / seconds / 1e12,
                    reference.as_secs_f64() / seconds
                );
            };
            line("candle bf16", 2 * k * n, reference);
            line("candle f32", 4 * k * n, candle_matmul(&candle, DType::F32, rows, k, n)?);
            line("candle q8_0", k * n / 32 * 34, candle_quantised(&candle, rows, k, n)?);
            for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16, WeightType::Q8_0, WeightType::Q8_128] {
                line(&format!("ours {dtype:?}"), dtype.row_bytes(k) * n, worker.time_linear(dtype, rows, k, n)?);
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

fn candle_matmul(device: &Device, dtype: DType, rows: usize, k: usize, n: usize) -> candle_core::Result<Duration> {
    let copies = (LARGE / (dtype.size_in_bytes() * k * n)).clamp(2, 64);
    let x = Tensor::randn(0f32, 1f32, (rows, k), device)?.to_dtype(dtype)?;
    let weights = (0..copies)
        .map(|_| Tensor::randn(0f32, 0.02f32, (n, k), device)?.to_dtype(dtype)?.t())
        .collect::<candle_core::Result<Vec<_>>>()?;
    best(device, copies, || weights.iter().try_for_each(|w| x.matmul(w).map(drop)))
}

fn candle_quantised(device: &Device, rows: usize, k: usize, n: usize) -> candle_core::Result<Duration> {
    let copies = (LARGE / (k * n / 32 * 34)).clamp(2, 16);
    let x = Tensor::randn(0f32, 1f32, (rows, k), device)?;
    let w = Tensor::randn(0f32, 0.02f32, (n, k), device)?;
    let weights = (0..copies)
        .map(|_| QMatMul::from_qtensor(QTensor::quantize(&w, GgmlDType::Q8_0)?))
        .collect::<candle_core::Result<Vec<_>>>()?;
    best(device, copies, || weights.iter().try_for_each(|w| w.forward(&x).map(drop)))
}

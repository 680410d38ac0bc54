//! How fast a device is: what it copies, and what single layers take. For `candor bench` and the benchmarks; nothing that
//! is served depends on it.

use super::driver::DeviceError;
use super::memory::Device;
use super::ops::{Layer, Result};
use super::weights::Packed;
use super::worker::Worker;
use candor_sdk::program::{WeightTensor, WeightType};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that are copied at a time: several times any cache.
const LARGE: usize = 1 << 30;
/// Bytes of noise that are made; they are repeated.
const NOISE: usize = 1 << 24;
/// Weights of one layer, at most.
const COPIES: usize = 64;

impl Worker {
    /// Bytes per second that the device copies within its memory, reading and writing counted.
    ///
    /// # Errors
    /// If the device fails or has no room.
    pub fn copy_bandwidth(&self) -> Result<f64> {
        self.with_device(|device| {
            let free = device.with(|driver| driver.free_memory())?;
            let bytes = LARGE.min(usize::try_from(free / 4).unwrap_or(LARGE)).max(1 << 12);
            let (from, to) = (device.allocate(bytes)?, device.allocate(bytes)?);
            // Not zeros, which may be moved faster than numbers are.
            let noise = noise(bytes.min(NOISE));
            for first in (0..bytes).step_by(noise.len()) {
                let part = noise.len().min(bytes - first);
                device.with(|driver| driver.upload(from.address() + first as u64, &noise[..part]))?;
            }
            let copy = || device.with(|driver| driver.copy(to.address(), from.address(), bytes));
            let took = best(device, copy)?;
            Ok(2.0 * bytes as f64 / took.as_secs_f64())
        })?
    }

    /// Time of one linear layer of `rows` rows, quantisation of the activations included. `large` bytes of weights are read
    /// before any is read again: with several times as many as the caches hold, they come from memory.
    ///
    /// # Errors
    /// If the device fails or has no room.
    pub fn time_linear(&self, dtype: WeightType, rows: usize, k: usize, n: usize, large: usize) -> Result<Duration> {
        self.with_device(move |device| {
            let row_bytes = dtype.row_bytes(k);
            let copies = (large / (row_bytes * n)).clamp(2, COPIES);
            // Small numbers in every format: no NaN slows anything down or speeds it up.
            let bytes: Vec<u8> = noise(row_bytes * n).into_iter().map(|byte| byte & 0x2f).collect();
            let size = |n: usize| u32::try_from(n).map_err(|_| DeviceError::Failed("a layer too large".to_string()));
            let tensor = WeightTensor::new("w", (size(n)?, size(k)?), dtype, Arc::new(bytes))
                .map_err(|error| DeviceError::Failed(error.to_string()))?;
            let weights = (0..copies).map(|_| Packed::load(device, &tensor)).collect::<Result<Vec<_>>>()?;
            let x: Vec<f32> = noise(rows * k).into_iter().map(|byte| f32::from(byte) / 128.0 - 1.0).collect();
            let x = device.floats((rows, k), &x)?;
            let multiply = |weights: &[Packed]| {
                for w in weights {
                    match dtype.block() {
                        None => drop(device.linear(&x, Layer::of(w))?),
                        Some(group) => {
                            device.quantised_linear(&device.quantised_groups(&x, group)?, Layer::of(w))?;
                        }
                    }
                }
                Ok(())
            };
            multiply(&weights[..1])?; // kernels are translated when they are first launched
            let ((), recorded) = device.record(|| multiply(&weights))?;
            Ok(best(device, || recorded.replay())? / size(copies)?)
        })?
    }
}

/// Bytes that look like any.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    (0..count.div_ceil(4)).flat_map(|_| word().to_le_bytes()).take(count).collect()
}

/// The shortest of a few runs, from when the device is idle to when it is idle again.
fn best(device: &Device, run: impl Fn() -> Result<()>) -> Result<Duration> {
    let mark = device.zeros(16)?;
    let wait = || device.with(|driver| driver.download(mark.address(), &mut [0; 16]));
    let mut best = Duration::MAX;
    for _ in 0..5 {
        wait()?;
        let started = Instant::now();
        run()?;
        wait()?;
        best = best.min(started.elapsed());
    }
    Ok(best)
}

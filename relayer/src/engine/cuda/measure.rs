//! How fast a device is: what it copies, and what single layers take. For `candor bench` and the benchmarks; nothing that
//! is served depends on it.

use super::driver::DeviceError;
use super::memory::Device;
use super::ops::Result;
use super::weights::Packed;
use super::worker::Worker;
use candor_sdk::program::{DType, WeightTensor, WeightType};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that are copied at a time, and of weights that are read before any is read again: several times any cache.
const LARGE: usize = 1 << 30;
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
            let (from, to) = (device.zeros(bytes)?, device.zeros(bytes)?);
            let copy = || device.with(|driver| driver.copy(to.address(), from.address(), bytes));
            let took = best(device, copy)?;
            Ok(2.0 * bytes as f64 / took.as_secs_f64())
        })?
    }

    /// Time of one linear layer of `rows` rows, quantisation of the activations included, when its weights come from
    /// memory.
    ///
    /// # Errors
    /// If the device fails or has no room.
    pub fn time_linear(&self, dtype: WeightType, rows: usize, k: usize, n: usize) -> Result<Duration> {
        self.with_device(move |device| {
            let row_bytes = dtype.row_bytes(k);
            let copies = (LARGE / (row_bytes * n)).clamp(2, COPIES);
            // Small numbers in every format: no NaN slows anything down or speeds it up.
            let bytes: Vec<u8> = (0..row_bytes * n).map(|i| (i % 251) as u8 & 0x2f).collect();
            let size = |n: usize| u32::try_from(n).map_err(|_| DeviceError::Failed("a layer too large".to_string()));
            let tensor = WeightTensor::new("w", (size(n)?, size(k)?), dtype, Arc::new(bytes))
                .map_err(|error| DeviceError::Failed(error.to_string()))?;
            let weights = (0..copies).map(|_| Packed::load(device, &tensor)).collect::<Result<Vec<_>>>()?;
            let x = super::memory::Tensor::in_buffer(device.zeros(4 * rows * k)?, DType::F32, rows, k);
            let ((), recorded) = device.record(|| {
                for w in &weights {
                    match dtype.block() {
                        None => drop(device.linear(&x, w, None, None)?),
                        Some(group) => {
                            let (magnitudes, q) = device.quantised_groups(&x, group, true)?;
                            let q = q.ok_or_else(|| DeviceError::Failed("nothing was quantised".to_string()))?;
                            device.quantised_linear((&q, &magnitudes), w, None, None)?;
                        }
                    }
                }
                Ok(())
            })?;
            Ok(best(device, || recorded.replay())? / size(copies)?)
        })?
    }
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

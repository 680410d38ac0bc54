//! The engine on a GPU: the same plans, the same bits, every tensor on the device.
//!
//! ```text
//! LoadedModel ── commands ──> Worker (one thread for each GPU) ── DeviceModel ── Run ── launches ──> Driver
//! ```
//!
//! - `kernels/*.cu`: what is computed, in CUDA C, through the handful of operations in `arithmetic.cuh`
//! - `ops`: which kernel an operation is, how many threads, which parameters
//! - `plan`, `fuse`: what is one launch; `run`, `generate`, `model`: plans carried out, tokens generated, traces hashed
//! - `worker`: the thread that owns a GPU, and what happens when the GPU fails
//! - `driver`: what is needed of a device; `nvidia` (feature `cuda`) is one, the tests' emulation another
//! - `selftest`, `trial`: the golden vectors and two small models, before anything is served; `measure`: how fast it is
//!
//! All of it but `nvidia` is compiled and tested without a GPU and without CUDA; `docs/gpu.md` says how, and what that
//! leaves open.

pub mod driver;
mod fuse;
mod generate;
mod measure;
pub mod memory;
mod model;
#[cfg(feature = "cuda")]
mod nvidia;
pub mod ops;
mod plan;
mod run;
pub mod selftest;
mod trial;
mod weights;
mod worker;

pub use driver::{Arg, Description, DeviceError, Driver, Kernel, Recording};
pub use selftest::SelfTest;
pub(super) use worker::Remote;
pub use worker::Worker;

use super::InferError;
use std::sync::Arc;

/// Rows of a pass over prompts, unless told otherwise: what keeps the multiprocessors busy.
pub(super) const PREFILL: usize = 2048;

/// What became of a request because of a device.
fn failure(device: &str, error: DeviceError) -> InferError {
    let device = device.to_string();
    match error {
        DeviceError::OutOfMemory { bytes } => InferError::OutOfMemory { device, bytes },
        DeviceError::Lost(message) => InferError::Lost { device, message },
        DeviceError::Absent(message) | DeviceError::Failed(message) => InferError::Device { device, message },
    }
}

/// The worker of GPU `ordinal`; there is one for each in a process.
///
/// # Errors
/// If this binary was built without CUDA, there is no such GPU, or it computes wrong numbers.
#[cfg(feature = "cuda")]
pub fn worker(ordinal: usize) -> Result<Arc<Worker>, DeviceError> {
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError, Weak};
    static WORKERS: Mutex<Option<HashMap<usize, Weak<Worker>>>> = Mutex::new(None);
    // Nothing is left half done under this lock.
    let mut workers = WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let workers = workers.get_or_insert_default();
    if let Some(worker) = workers.get(&ordinal).and_then(Weak::upgrade) {
        return Ok(worker);
    }
    let worker = Worker::start(format!("cuda:{ordinal}"), move || {
        nvidia::Nvidia::open(ordinal).map(|driver| Box::new(driver) as Box<dyn Driver>)
    })?;
    workers.insert(ordinal, Arc::downgrade(&worker));
    Ok(worker)
}

/// The worker of GPU `ordinal`.
///
/// # Errors
/// Always: this binary was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn worker(ordinal: usize) -> Result<Arc<Worker>, DeviceError> {
    Err(DeviceError::Absent(format!(
        "cuda:{ordinal} was asked for, but this candor was built without CUDA; build it with `--features cuda` \
         (docs/gpu.md), or set device = \"cpu\""
    )))
}

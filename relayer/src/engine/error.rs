//! What can go wrong when a model is loaded and when it is run.

use super::cuda::DeviceError;
use candor_sdk::program::{ModelError, RequestError};
use thiserror::Error;

/// A model that this engine cannot run.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The model itself is malformed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device does not exist or has failed.
    #[error("device {device}: {source}")]
    Device {
        /// Which device.
        device: String,
        /// What candle says.
        source: candle_core::Error,
    },
    /// The GPU does not exist, has no room, or has failed.
    #[error("device {device}: {source}")]
    Cuda {
        /// Which device.
        device: String,
        /// What happened.
        source: DeviceError,
    },
}

/// A request that got no answer. Never the fault of another request in its batch.
#[derive(Debug, Error)]
pub enum InferError {
    /// The request has no answer: nobody could give one.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The model cannot be run for a request of this size.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Tokens that no answer to the request can have.
    #[error("claimed tokens: {0}")]
    Claim(String),
    /// The device had no room. A smaller batch, or another device, may have.
    #[error("{device}: out of memory: no room for {bytes} bytes")]
    OutOfMemory {
        /// Which device.
        device: String,
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The device is gone. It may come back.
    #[error("{device}: lost: {message}")]
    Lost {
        /// Which device.
        device: String,
        /// What happened.
        message: String,
    },
    /// The run failed on this machine.
    #[error("{device}: {message}")]
    Device {
        /// Which device.
        device: String,
        /// What happened.
        message: String,
    },
}

impl InferError {
    /// Whether trying again, here or on another machine, may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Device { .. } | Self::OutOfMemory { .. } | Self::Lost { .. })
    }
}

//! What can go wrong when a model is loaded and when it is run.

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
    /// The run failed on this machine: out of memory, a lost device.
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
        matches!(self, Self::Device { .. })
    }
}

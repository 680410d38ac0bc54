//! temp
pub use candor_sdk::program::Request as InferRequest;
/// temp
#[derive(Debug, thiserror::Error)]
pub enum InferError {}

//! The Candor relayer: watches requests, runs models, signs and posts results, settles them.

pub mod chain;
mod crash;
pub mod engine;
pub mod pipeline;
pub mod store;

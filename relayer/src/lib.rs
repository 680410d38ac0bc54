//! The Candor relayer: watches requests, runs models, signs and posts results, settles them.

pub mod chain;
pub mod pipeline;
pub mod store;

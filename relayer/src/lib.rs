//! The Candor relayer: watches requests, runs models, signs and posts results, settles them.
//!
//! - [`config`], [`keys`]: what a person writes, checked; and the keys that never stand in it.
//! - [`cli`], [`demo`]: the command line; a whole world on this machine.
//! - [`input`], [`answer`]: what people have at hand, as bytes; and what the bytes of an answer mean.
//! - [`http`], [`fetch`]: how servers are asked that nobody knows; inputs that a request names by URI.
//! - [`anvil`]: a local chain, for the demo and the tests.
//! - [`chain`]: reads events in block ranges; owns the account's transactions.
//! - [`engine`]: runs models on candle with the bits of `docs/arithmetic.md`.
//! - [`models`]: what this relayer can answer for.
//! - [`ops`]: metrics, health, the status page.
//! - [`store`]: what survives a kill.
//! - [`dispute`]: defends one's own results, challenges others'.
//! - [`pipeline`]: the daemon; [`pipeline::spawn`] is how the binary, the demo and the tests enter.

pub mod answer;
pub mod anvil;
pub mod chain;
pub mod cli;
mod complaints;
pub mod config;
pub mod crash;
pub mod demo;
pub mod dispute;
pub mod engine;
pub mod fetch;
pub mod http;
pub mod input;
pub mod keylock;
pub mod keys;
pub mod models;
pub mod ops;
mod own_time;
pub mod pipeline;
#[cfg(unix)]
pub mod postgres;
mod readable;
pub mod store;

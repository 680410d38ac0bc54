//! What people and machines see of a running relayer: metrics, health, and a read-only page.
//!
//! Whoever looks reads a report that the relayer makes from time to time; looking costs neither the database nor a node anything.

pub mod metrics;
mod report;
mod server;

pub(crate) use report::observe;
pub use report::{ChainReport, MoneyReport, Report, RequestReport, TransactionReport, WorkerReport};
pub(crate) use server::{Served, serve};

//! The Candor relayer.
pub mod config;
pub mod keys;

//! Operands for the engine's tests.
#![allow(dead_code)] // each test binary uses its part

pub(crate) mod families;
pub(crate) mod files;
pub(crate) mod gguf;
pub(crate) mod numbers;
pub(crate) mod onnx;

pub(crate) use numbers::*;

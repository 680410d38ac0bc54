//! What a test of the engine runs on. The same test bodies are compiled into the tests of the CPU engine, where they run
//! with every instruction set of this machine, and into `cuda_engine`, where they run on a GPU: the emulated one, or with
//! `CANDOR_TEST_DEVICE=cuda` the first one of this machine.
#![allow(dead_code)] // each test binary uses its part

#[path = "../cuda_common/mod.rs"]
pub(crate) mod cuda_common;

use candor_relayer::engine::kernels::Isa;
use candor_relayer::engine::{Device, LoadedModel};
use candor_sdk::program::Model;

/// Whether this test program is about GPUs.
pub(crate) fn on_gpu() -> bool {
    env!("CARGO_CRATE_NAME").starts_with("cuda")
}

/// Whether it is about one that is emulated.
pub(crate) fn slow() -> bool {
    on_gpu() && !cuda_common::real()
}

/// A model on everything that the test program is about, each with its name.
pub(crate) fn everywhere(model: &Model) -> Vec<(String, LoadedModel)> {
    if on_gpu() {
        return vec![(cuda_common::worker().to_string(), load(model))];
    }
    let load = |isa| LoadedModel::load_with(model.clone(), Device::Cpu, isa).expect("the model loads");
    Isa::available().iter().map(|&isa| (isa.name().to_string(), load(isa))).collect()
}

/// A model on the best of it.
pub(crate) fn load(model: &Model) -> LoadedModel {
    match on_gpu() {
        true => LoadedModel::load_on(model.clone(), &cuda_common::worker()).expect("the model loads"),
        false => LoadedModel::load(model.clone(), Device::Cpu).expect("the model loads"),
    }
}

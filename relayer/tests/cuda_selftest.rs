//! tmp
mod cuda_common;
use candor_relayer::engine::cuda::Worker;
use cuda_common::Emulated;

#[test]
fn golden_vectors() {
    let worker = Worker::start("emulated", || Ok(Box::new(Emulated::new(1)))).expect("starts");
    println!("{:?}", worker.self_test());
}

//! How fast weights are hashed into their Merkle root, on one thread: `cargo run --release -p candor-sdk --example
//! hashing`. Prints a line for each storage type, and one for hashing leaves one by one.
//!
//! The tensors are small and hashed often, and the fastest time counts: what else the machine is doing shows less.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use candor_sdk::{
    merkle::{Domain, hash},
    program::{TensorDescriptor, WeightTensor, WeightType},
};

const ROUNDS: usize = 300;

fn fastest(mut work: impl FnMut()) -> Duration {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

fn main() {
    let (rows, cols) = (128, 2048);
    let report = |name: &str, bytes: usize, time: Duration| {
        println!("{name:>24}: {:.2} GB/s", bytes as f64 / time.as_secs_f64() / 1e9);
    };
    for dtype in [WeightType::F32, WeightType::F16, WeightType::Q8_0, WeightType::Q8_128] {
        let bytes = rows as usize * dtype.row_bytes(cols as usize);
        let data: Vec<u8> = (0..bytes).map(|i| ((i * 31) >> 3) as u8).collect();
        let tensor = WeightTensor::new("bench", (rows, cols), dtype, Arc::new(data)).expect("the bytes fill the shape");
        let time = fastest(|| {
            black_box(TensorDescriptor::new(black_box(&tensor)));
        });
        report(&format!("{dtype:?}"), bytes, time);
        if dtype == WeightType::F16 {
            let time = fastest(|| {
                for leaf in tensor.bytes().chunks(256) {
                    black_box(hash(Domain::WeightLeaf, &[black_box(leaf)]));
                }
            });
            report("F16 leaves, one by one", bytes, time);
        }
    }
}

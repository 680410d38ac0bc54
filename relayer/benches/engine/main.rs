//! The engine against candle's own kernels and models, paired: both sides take turns in one process on the same operands. What
//! is no contest (hashing, bandwidth, memory) is measured in the same run and is in the same table.
//!
//!     make bench                                             # everything, on 1 and 2 threads
//!     CANDOR_MODELS=folder make bench                        # with the trained models in it: minilm, smollm2/hf, qwen05/hf
//!     cargo bench -p candor-relayer --bench engine -- f16    # lines whose name contains f16
//!
//! On a machine that does other work, `ENGINE_BENCH_CPU=1` counts processor time instead of the clock's: fair for one thread.
//!
//! Without trained models, weights are made up in the shapes of all-MiniLM-L6-v2 and SmolLM2-135M: the arithmetic is the same,
//! the text is nonsense.

mod kernels;
mod machine;
mod models;
mod paired;
mod sources;

use paired::Table;
use std::process::Command;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let Ok(what) = std::env::var("ENGINE_BENCH_MEMORY") {
        machine::hold(&what);
        return;
    }
    // candle takes its number of threads from the environment, once: one process for each number.
    if std::env::var("ENGINE_BENCH").is_err() {
        sources::announce();
        Table::head();
        for threads in ["1", "2"] {
            let program = std::env::current_exe().expect("this program");
            let status = Command::new(program)
                .args(&arguments)
                .env("ENGINE_BENCH", "1")
                .env("RAYON_NUM_THREADS", threads)
                .status()
                .expect("this program runs");
            assert!(status.success(), "the benchmark failed");
        }
        return;
    }
    let table = Table::new(arguments);
    let read = machine::bandwidth(&table);
    // On a thread of the pool, as within a pass over a model: from outside, each single product would wake the others up. Both sides gain.
    rayon::scope(|_| {
        kernels::linear_layers(&table);
        kernels::quantised_layers(&table);
        kernels::attention(&table);
    });
    models::embedded(&table);
    models::encoders(&table);
    models::language_models(&table, read);
    machine::hashing(&table);
    machine::memory(&table);
}

//! Fuzzing on stable Rust: mutated files for every importer, random graphs for the engine.
//!
//! `cargo run --release -p candor-fuzz -- all --minutes 5` runs every target for five minutes; `-- onnx --seed 7` one of them
//! until it is stopped; `-- onnx --input FILE` a single input again. `tests/smoke.rs` runs a few hundred inputs of each target
//! in `make test`, always the same ones.
//!
//! A target fails if it panics, takes more than [`PATIENCE`], takes more memory than [`memory::LIMIT`], or finds two
//! implementations that disagree. There is no coverage feedback (that needs a nightly compiler); instead an input that brings
//! out an error message that was not seen before, numbers aside, joins the inputs that are mutated further.

pub mod memory;
pub mod mutate;
pub mod targets;

// The files that the importer's tests make up are the seeds.
#[path = "../../relayer/tests/engine_common/mod.rs"]
mod engine_common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use targets::Target;

/// An input that takes longer is a finding.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A target at work.
pub struct Fuzzer {
    target: &'static Target,
    random: mutate::Random,
    corpus: Vec<Vec<u8>>,
    seeds: usize,
    seen: BTreeSet<String>,
    /// Inputs run.
    pub runs: u64,
    /// Inputs that were sound: models, not errors.
    pub sound: u64,
}

/// Something that must not happen.
#[derive(Debug)]
pub struct Finding {
    /// What happened.
    pub what: String,
    /// The input that made it happen.
    pub input: Vec<u8>,
}

impl Fuzzer {
    /// A target with its seeds; the same seed gives the same inputs.
    pub fn new(target: &'static Target, seed: u64) -> Self {
        let corpus = (target.seeds)();
        let seeds = corpus.len();
        Self { target, random: mutate::Random(seed), corpus, seeds, seen: BTreeSet::new(), runs: 0, sound: 0 }
    }

    /// How many inputs are mutated.
    pub fn corpus(&self) -> usize {
        self.corpus.len()
    }

    /// Makes an input: the seeds as they are first, then changes of what has proved interesting.
    pub fn next_input(&mut self) -> Vec<u8> {
        if let Some(seed) = usize::try_from(self.runs).ok().and_then(|run| self.corpus[..self.seeds].get(run)) {
            return seed.clone();
        }
        // Half of the time from what is sound, or everything ends in the same early errors.
        let from = if self.random.below(2) == 0 { &self.corpus[..self.seeds] } else { &self.corpus[..] };
        mutate::mutate(&mut self.random, from, self.target.text)
    }

    /// Runs an input.
    ///
    /// # Errors
    /// What must not happen.
    pub fn run(&mut self, input: Vec<u8>) -> Result<(), Finding> {
        self.runs += 1;
        match run_once(self.target, &input) {
            Err(what) => Err(Finding { what, input }),
            Ok(None) => {
                self.sound += 1;
                Ok(())
            }
            Ok(Some(error)) => {
                // Without numbers, and without the names that are quoted.
                let words = error.split('"').step_by(2).collect::<String>();
                let skeleton: String = words.chars().filter(|c| !c.is_ascii_digit()).take(100).collect();
                if self.corpus.len() < 2_000 && self.seen.insert(skeleton) {
                    self.corpus.push(input);
                }
                Ok(())
            }
        }
    }
}

/// Runs one input: the error that it gets, or none if it is sound.
///
/// # Errors
/// What must not happen.
pub fn run_once(target: &Target, input: &[u8]) -> Result<Option<String>, String> {
    let started = Instant::now();
    memory::start();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let (peak, took) = (memory::peak(), started.elapsed());
    let result = match result {
        Ok(result) => result?,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            return Err(format!("panic: {}", text.unwrap_or_default()));
        }
    };
    if took > PATIENCE {
        return Err(format!("took {:.1} s", took.as_secs_f64()));
    }
    if peak > memory::LIMIT {
        return Err(format!("took {} MiB of memory", peak >> 20));
    }
    Ok(result)
}

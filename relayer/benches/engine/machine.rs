//! What the machine can do, and what a model takes of it: bandwidth, hashing, memory.

use crate::models::imported;
use crate::paired::{Table, best, noise};
use crate::sources::Source;
use candle_core::DType;
use candor_relayer::engine::import::{self, Options, Precision, descriptor};
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::program::Params;
use rayon::prelude::*;
use std::hint::black_box;
use std::process::Command;

/// Reads and copies what no cache holds; bytes read per second.
pub(crate) fn bandwidth(table: &Table) -> f64 {
    const WORDS: usize = 32 << 20;
    let source: Vec<u64> = (0..WORDS as u64).collect();
    let mut target = vec![0u64; WORDS];
    let part = WORDS / table.threads();
    let read = best(5, || {
        let sums = source.par_chunks(part).map(|part| {
            let mut lanes = [0u64; 16];
            for words in part.as_chunks::<16>().0 {
                lanes.iter_mut().zip(words).for_each(|(lane, word)| *lane ^= word);
            }
            lanes.into_iter().fold(0, |a, b| a ^ b)
        });
        black_box(sums.reduce(|| 0, |a, b| a ^ b));
    });
    let copy = best(5, || {
        target.par_chunks_mut(part).zip(source.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&target);
    });
    let bytes = 8.0 * WORDS as f64;
    let speed = |seconds: f64| format!("{:.1} GB/s", bytes / seconds / 1e9);
    table.line("memory: reading (other: copying, read and written once)", &speed(read), &speed(copy), "256 MiB");
    bytes / read
}

/// A model's id from its weights.
pub(crate) fn hashing(table: &Table) {
    for dtype in ["f32", "f16", "q8_0", "q8_128"] {
        let name = format!("hashing SmolLM2-135M {dtype}");
        if !table.wants(&name) {
            continue;
        }
        let source = Source::smollm2();
        let model = match dtype {
            "f32" => imported(&source.widened(), None).model,
            dtype => imported(&source.files, dtype.parse().ok().filter(|precision| *precision != Precision::F16)).model,
        };
        let seconds = best(3, || _ = black_box(descriptor(&model)));
        let speed = model.weights.byte_len() as f64 / seconds / 1e9;
        table.line(&name, &format!("{speed:.2} GB/s"), "", &format!("{:.0} MB", model.weights.byte_len() as f64 / 1e6));
    }
}

/// The most memory that a process has had, ours and candle's, beside the size of the file.
pub(crate) fn memory(table: &Table) {
    if table.threads() > 1
        || !table.may_want("peak memory of MiniLM SmolLM2-135M Qwen2.5-0.5B f16 q8_128 (other: candle f32)")
    {
        return;
    }
    let mut models = vec![("minilm", Source::minilm()), ("smollm2", Source::smollm2())];
    models.extend(Source::qwen().map(|qwen| ("qwen", qwen)));
    for (key, source) in models {
        let name = format!("peak memory of {}", source.name);
        if !table.wants(&name) {
            continue;
        }
        let peak = |side: &str| {
            let program = std::env::current_exe().expect("this program");
            let output = Command::new(program).env("ENGINE_BENCH_MEMORY", format!("{side} {key}")).output();
            let output = output.expect("this program runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let megabytes: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
            format!("{megabytes:.0} MB")
        };
        let stored = format!("{:.0} MB stored", source.bytes() as f64 / 1e6);
        table.line(&format!("{name} f16 (other: candle f32)"), &peak("ours"), &peak("candle"), &stored);
        if key == "minilm" {
            continue;
        }
        table.line(&format!("{name} q8_128 (other: candle f16)"), &peak("ours-q8_128"), &peak("candle-f16"), &stored);
    }
}

/// Loads one model, answers one request and prints the most memory that took, in megabytes.
pub(crate) fn hold(what: &str) {
    let (side, key) = what.split_once(' ').expect("a side and a model");
    let source = match key {
        "minilm" => Source::minilm(),
        "smollm2" => Source::smollm2(),
        _ => Source::qwen().expect("the model is there"),
    };
    let ids: Vec<u32> = noise(32, 1).into_iter().map(|x| (x.abs() * 1000.0) as u32).collect();
    match side {
        "ours" | "ours-q8_128" => {
            let dtype = (side == "ours-q8_128").then_some(Precision::Q8_128);
            let model = import::whole(source.files, &Options { dtype, ..Options::default() }).expect("a model").model;
            let loaded = LoadedModel::load(model, Device::Cpu).expect("it loads");
            let input = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
            let request = InferRequest { input, params: Params { max_tokens: 4, ..Params::default() }, seed: [0; 32] };
            assert!(loaded.infer(&[request])[0].is_ok(), "an answer");
        }
        side => {
            let dtype = if side == "candle-f16" { DType::F16 } else { DType::F32 };
            if key == "minilm" {
                let candle = source.candle_encoder().expect("it loads");
                drop(source);
                candle.embed(&[ids]).expect("an answer");
            } else {
                let mut candle = source.candle_decoder(dtype).expect("it loads");
                drop(source);
                candle.generate(&ids, 4).expect("an answer");
            }
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    println!("{}", peak.unwrap_or(0.0) / 1e3);
}

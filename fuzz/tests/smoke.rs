//! A few hundred inputs of every target, always the same ones. The long run is `cargo run --release -p candor-fuzz -- all`.

use candor_fuzz::Fuzzer;
use candor_fuzz::targets::TARGETS;

fn smoke(name: &str, inputs: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let mut fuzzer = Fuzzer::new(target, 1);
    let seeds = fuzzer.corpus() as u64;
    for _ in 0..inputs.max(seeds) {
        let input = fuzzer.next_input();
        if let Err(finding) = fuzzer.run(input) {
            panic!("{name}: {}, of {:?}", finding.what, String::from_utf8_lossy(&finding.input));
        }
    }
    assert!(fuzzer.sound >= seeds, "{name}: of {seeds} sound seeds {} are", fuzzer.sound);
}

// One test at a time counts memory: they share an allocator.
#[test]
fn every_target() {
    smoke("safetensors", 300);
    smoke("gguf", 300);
    smoke("onnx", 300);
    smoke("config", 300);
    smoke("tokenizer", 300);
    smoke("sequential", 300);
    smoke("descriptor", 150);
    smoke("graphs", 150);
}

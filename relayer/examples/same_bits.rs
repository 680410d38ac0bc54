//! What has to be the same in every build: `same_bits [--dtype q8_128] [--requests N] [--tokens N] MODEL...` prints of each model (a
//! folder or a file) its id, hashes of its answers to made-up requests, and the roots of their traces. Every instruction set of
//! the machine and several numbers of threads have to agree, else it fails and says where.
//!
//! Nothing that depends on the build or the machine goes to the standard output: `tools/same-bits` (`make same-bits`) compares
//! that of a debug and a release build, byte for byte.

use anyhow::{Context, Result, bail, ensure};
use candor_relayer::engine::import::{self, Options};
use candor_relayer::engine::kernels::Isa;
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use candor_sdk::merkle::{Domain, hash};
use candor_sdk::program::Params;
use std::path::PathBuf;
use std::time::Instant;

/// Threads of the pools that every path runs on.
const THREADS: [usize; 2] = [1, 3];

fn main() -> Result<()> {
    let mut options = Options::default();
    let (mut paths, mut count, mut tokens) = (Vec::new(), 2, 3);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--dtype" => options.dtype = Some(value()?.parse().map_err(anyhow::Error::msg).context("--dtype")?),
            "--requests" => count = value()?.parse().context("--requests")?,
            "--tokens" => tokens = value()?.parse().context("--tokens")?,
            other if other.starts_with("--") => bail!("unknown option {other}"),
            other => paths.push(PathBuf::from(other)),
        }
    }
    ensure!(!paths.is_empty(), "which models?");
    for path in paths {
        let imported = import::folder_with(&path, &options).with_context(|| path.display().to_string())?;
        let precision = options.dtype.map_or("as stored".to_string(), |dtype| dtype.to_string());
        println!("{}, {precision}", imported.name);
        println!("  id      {}", import::descriptor(&imported.model).model_id());
        let params = Params { max_tokens: tokens, ..Params::default() };
        let hot = Params { temperature: 0.8f32.to_bits(), ..params };
        let requests = imported.probes(count).into_iter().zip([params, hot].into_iter().cycle());
        let requests: Vec<_> = requests.map(|(input, params)| InferRequest { input, params, seed: [1; 32] }).collect();
        let mut found: Option<Vec<String>> = None;
        for &isa in Isa::available() {
            let loaded = LoadedModel::load_with(imported.model.clone(), Device::Cpu, isa)?;
            for threads in THREADS {
                let started = Instant::now();
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
                let lines = pool.install(|| lines(&loaded, &requests))?;
                let what = format!("{} on {}, {threads} threads", imported.name, isa.name());
                eprintln!("{what}: {:.1} s", started.elapsed().as_secs_f64());
                match &found {
                    Some(first) => ensure!(*first == lines, "{what}: {lines:?}\nelsewhere: {first:?}"),
                    None => found = Some(lines),
                }
            }
        }
        found.unwrap_or_default().iter().for_each(|line| println!("  {line}"));
    }
    Ok(())
}

/// Answers, all in one batch, and the trace of each.
fn lines(loaded: &LoadedModel, requests: &[InferRequest]) -> Result<Vec<String>> {
    let answers = loaded.infer(requests).into_iter().collect::<Result<Vec<_>, _>>()?;
    requests
        .iter()
        .zip(answers)
        .map(|(request, answer)| {
            let trace = loaded.trace(request, |_, _| ())?;
            let digest = hash(Domain::TraceLeaf, &[&answer]);
            Ok(format!("answer  {} bytes, {digest}\n  trace   {}", answer.len(), trace.root()))
        })
        .collect()
}

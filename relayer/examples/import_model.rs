//! Imports a model from a folder or a GGUF file, and says how it compares with candle: `import_model PATH [--tokens N]
//! [--prompt 1,2,3]...`. With `--tokens` a language model is compared on that many greedy tokens after each prompt.
//!
//! This is what the measurements in `docs/models.md` were made with; the models are too large for the test suite.

use anyhow::{Context, bail};
use candor_relayer::engine::import::{self, Options};
use std::path::PathBuf;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let (mut path, mut tokens, mut prompts) = (None, None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--tokens" => tokens = Some(value()?.parse::<u32>().context("--tokens")?),
            "--prompt" => {
                let ids = value()?.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>().context("--prompt")?;
                prompts.push(ids.into_iter().flat_map(u32::to_be_bytes).collect::<Vec<u8>>());
            }
            other if other.starts_with("--") => bail!("unknown option {other}"),
            other => path = Some(PathBuf::from(other)),
        }
    }
    let path = path.context("which folder or GGUF file?")?;
    let mut stage = None;
    let started = Instant::now();
    let (imported, report) = import::import(&path, &Options::default(), &mut |progress| {
        if stage.replace(progress.stage) != Some(progress.stage) {
            eprintln!("{:>7.1} s  {}", started.elapsed().as_secs_f64(), progress.stage);
        }
    })?;
    println!("{report}");
    println!("imported and checked in {:.1} s", started.elapsed().as_secs_f64());
    if !prompts.is_empty() {
        let started = Instant::now();
        let check = imported.check_tokens(&prompts, tokens.unwrap_or(1))?;
        println!("{check}, {} rows, in {:.1} s", check.rows, started.elapsed().as_secs_f64());
    }
    Ok(())
}

//! Imports a model from a folder or a GGUF file, and says how it compares with candle: `import_model PATH [--dtype q8_0]
//! [--tokens N] [--prompt 1,2,3]... [--say]`. With `--tokens` a language model is compared on that many greedy tokens after each prompt,
//! and with `--say` the interpreter of the SDK generates them too, one run of the graph for each, and prints the text.
//!
//! This is what the measurements in `docs/models.md` were made with; the models are too large for the test suite.

use anyhow::{Context, bail};
use candor_relayer::engine::import::{self, Options};
use candor_sdk::program::{Params, Request};
use std::path::PathBuf;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let (mut path, mut tokens, mut prompts, mut say) = (None, None, Vec::new(), false);
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--tokens" => tokens = Some(value()?.parse::<u32>().context("--tokens")?),
            "--prompt" => {
                let ids = value()?.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>().context("--prompt")?;
                prompts.push(ids.into_iter().flat_map(u32::to_be_bytes).collect::<Vec<u8>>());
            }
            "--say" => say = true,
            "--dtype" => options.dtype = Some(value()?.parse().map_err(anyhow::Error::msg).context("--dtype")?),
            other if other.starts_with("--") => bail!("unknown option {other}"),
            other => path = Some(PathBuf::from(other)),
        }
    }
    let path = path.context("which folder or GGUF file?")?;
    let mut stage = None;
    let started = Instant::now();
    let (imported, report) = import::import(&path, &options, &mut |progress| {
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
    for input in prompts.into_iter().filter(|_| say) {
        let params = Params { max_tokens: tokens.unwrap_or(1), ..Params::default() };
        let run = imported.model.interpret(&Request { input, params, seed: [0; 32] })?;
        println!("{:?}", String::from_utf8_lossy(&run.output));
    }
    Ok(())
}

//! `candor-fuzz TARGET|all [--minutes N] [--seed N] [--input FILE]`: see the library.

use anyhow::{Context, Result, bail};
use candor_fuzz::targets::{TARGETS, Target};
use candor_fuzz::{Finding, Fuzzer, PATIENCE, run_once};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    let (mut names, mut minutes, mut seed, mut input) = (Vec::new(), None, 1, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--minutes" => minutes = Some(value()?.parse::<f64>().context("--minutes")?),
            "--seed" => seed = value()?.parse().context("--seed")?,
            "--input" => input = Some(PathBuf::from(value()?)),
            other => names.push(other.to_string()),
        }
    }
    let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    if names.is_empty() {
        bail!("which target? all, {}", known.join(", "));
    }
    let chosen: Vec<&'static Target> =
        TARGETS.iter().filter(|target| names.iter().any(|name| name == target.name || name == "all")).collect();
    if chosen.is_empty() {
        bail!("there is no target {}; there are all, {}", names.join(", "), known.join(", "));
    }
    if let Some(path) = input {
        let input = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
        for target in chosen {
            println!("{}: {:?}", target.name, run_once(target, &input));
        }
        return Ok(());
    }
    watch();
    for target in chosen {
        fuzz(target, seed, minutes)?;
    }
    Ok(())
}

/// When the current input began, in milliseconds of this process; 0 between inputs.
static BEGAN: AtomicU64 = AtomicU64::new(0);

/// Ends the process when an input takes far too long: the input is in its file.
fn watch() {
    let start = Instant::now();
    let now = move || start.elapsed().as_millis() as u64 + 1;
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let began = BEGAN.load(Ordering::Relaxed);
            if began == u64::MAX {
                BEGAN.store(now(), Ordering::Relaxed);
            } else if began > 0 && now() > began + 6 * PATIENCE.as_millis() as u64 {
                eprintln!("an input takes more than {:?}: see target/fuzz/*.current", 6 * PATIENCE);
                std::process::exit(1);
            }
        }
    });
}

fn fuzz(target: &'static Target, seed: u64, minutes: Option<f64>) -> Result<()> {
    let folder = Path::new("target/fuzz");
    std::fs::create_dir_all(folder)?;
    // Of this process: several may fuzz at once.
    let current = folder.join(format!("{}-{}.current", target.name, std::process::id()));
    let started = Instant::now();
    let mut fuzzer = Fuzzer::new(target, seed);
    let mut said = Instant::now();
    let over = |started: Instant| minutes.is_some_and(|minutes| started.elapsed().as_secs_f64() > minutes * 60.0);
    while !over(started) {
        let input = fuzzer.next_input();
        // An abort leaves nothing else behind.
        std::fs::write(&current, &input)?;
        BEGAN.store(u64::MAX, Ordering::Relaxed);
        let result = fuzzer.run(input);
        BEGAN.store(0, Ordering::Relaxed);
        if let Err(Finding { what, input }) = result {
            let name = folder.join(format!("{}-{}.input", target.name, fuzzer.runs));
            std::fs::write(&name, input)?;
            bail!("{}: {what}; run it again with: -- {} --input {}", target.name, target.name, name.display());
        }
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            println!("{}", line(target, &fuzzer, started));
        }
    }
    println!("{}", line(target, &fuzzer, started));
    std::fs::remove_file(&current).context("the current input")
}

fn line(target: &Target, fuzzer: &Fuzzer, started: Instant) -> String {
    let seconds = started.elapsed().as_secs_f64();
    let (runs, sound, kinds) = (fuzzer.runs, fuzzer.sound, fuzzer.corpus());
    let rate = runs as f64 / seconds;
    format!(
        "{:<12} {runs} inputs in {seconds:.0} s ({rate:.0}/s), {sound} of them sound, {kinds} kinds kept, nothing found",
        target.name
    )
}

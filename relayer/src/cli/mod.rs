//! The command line.
//!
//! Exit codes: 0 done; 1 failed; 2 used or configured wrongly; 3 done, and the answer is no (`result`: wrong or not verifiable, `doctor`:
//! something is broken).

mod ask;
mod bench;
mod context;
mod demo;
mod deploy;
mod dispute;
mod doctor;
mod init;
mod logging;
mod model;
mod operator;
mod result;
mod run;
mod status;
mod why;

use crate::config::ConfigError;
use clap::{Args, Parser, Subcommand};
use context::Context;
use std::{path::PathBuf, process::ExitCode};

/// Put AI inference on chain, with one right answer: answer requests of smart contracts, ask them, check what others answered.
#[derive(Debug, Parser)]
#[command(
    name = "candor",
    version,
    after_help = "Start with `candor demo`. To answer requests for money: `candor init`, `candor doctor`, `candor operator join`, \
                  `candor run`.\n\nExit codes: 0 done, 1 failed, 2 used or configured wrongly, 3 the answer is no."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What goes with every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// Configuration file [default: candor.toml in the current directory, if it is there]
    #[arg(long, short, global = true, value_name = "FILE", env = "CANDOR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Use this setting instead of the configured one, as in --set gas.daily_cap="1 ether"; can be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Node to ask, instead of chain.rpc_urls; can be repeated
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) rpc_url: Vec<String>,
    /// The InferenceOracle, instead of chain.oracle
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) oracle: Option<String>,
    /// For machines: one JSON object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, as in chain.poll_interval=1s")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show it all on this machine: a chain, contracts that ask, a relayer that answers; takes less than a minute
    Demo(demo::DemoArgs),
    /// Run the relayer: answer requests as configured, until stopped
    Run(run::RunArgs),
    /// Write a commented configuration file, and a new key if wanted
    Init(init::InitArgs),
    /// Check everything that can go wrong before money is at risk, and say all that is wrong at once
    Doctor,
    /// Put the contracts on a chain of your choice; nobody owns them afterwards
    Deploy(Box<deploy::DeployArgs>),
    /// Measure how fast a processor or a GPU is at language models of common shapes
    Bench(bench::BenchArgs),
    /// Ask a model from the command line and wait for the answer
    Request(ask::RequestArgs),
    /// Check anybody's answer: whose signature it is, and whether the model really says so
    Result(result::ResultArgs),
    /// The models: list them, look at one, register one
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// The operator: join with stake and prices, look at it, withdraw
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Disputes over results: list them, look at one, challenge a result
    #[command(subcommand)]
    Dispute(dispute::DisputeCommand),
    /// What the relayer has done, is doing and has at stake
    Status(status::StatusArgs),
    /// Where one request stands, and what it is waiting for
    Why(why::WhyArgs),
}

/// A command's end, when it did what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// Done, and the answer is no.
    No,
}

/// Used wrongly, in a way that clap can't see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime can't be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(dispatch(cli));
    // A model that still runs, or a question that nobody answers, does not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(3),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS, // whoever read the output has seen enough
        Err(error) => {
            let message = explain(&error);
            eprintln!("error: {message}");
            if json {
                println!("{}", serde_json::json!({ "event": "error", "message": message }));
            }
            let usage = error.chain().any(|cause| cause.is::<ConfigError>() || cause.is::<UsageError>());
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// An error with its causes, those that it does not name itself.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn dispatch(cli: Cli) -> anyhow::Result<Outcome> {
    let context = Context::new(cli.global);
    match cli.command {
        Command::Demo(args) => demo::demo(&context, &args).await,
        Command::Run(args) => run::run(&context, &args).await,
        Command::Init(args) => init::init(&context, &args),
        Command::Doctor => doctor::doctor(&context).await,
        Command::Deploy(args) => deploy::deploy(&context, &args).await,
        Command::Bench(args) => bench::bench(&context, &args),
        Command::Request(args) => ask::request(&context, &args).await,
        Command::Result(args) => result::result(&context, &args).await,
        Command::Model(command) => model::model(&context, &command).await,
        Command::Operator(command) => operator::operator(&context, &command).await,
        Command::Dispute(command) => dispute::dispute(&context, &command).await,
        Command::Status(args) => status::status(&context, &args).await,
        Command::Why(args) => why::why(&context, &args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use clap::CommandFactory;

    #[test]
    fn causes_are_named_once() {
        let error = std::fs::read("nowhere").context("x can't be read").unwrap_err();
        assert!(explain(&error).starts_with("x can't be read: No such file"));
        let cause = std::io::Error::other("broken");
        let error = anyhow::Error::new(cause).context("the disk is broken");
        assert_eq!(explain(&error), "the disk is broken");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

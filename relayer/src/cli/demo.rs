//! `candor demo`.
use super::{Context, Outcome, UsageError, logging, run};
use crate::{
    config::{LogConfig, LogFormat},
    demo::{self, Plan},
    input::heldout,
};
use clap::Args;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// What `candor demo` is told.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Also read the digit in this PNG picture, of any size, dark on bright or bright on dark
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Also judge this loan application, as in purpose=new_car,amount_dm=5000; what is not given is typical. `list` shows the keys
    #[arg(long, value_name = "KEY=VALUE,...")]
    applicant: Option<String>,
    /// How many inputs from the held-out data each model is asked about
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=10))]
    requests: u8,
}

pub(super) async fn demo(context: &Context, args: &DemoArgs) -> anyhow::Result<Outcome> {
    if args.applicant.as_deref() == Some("list") {
        context.say(
            || heldout::schema().help(),
            || serde_json::json!({ "event": "schema", "keys": heldout::schema().keys() }),
        )?;
        return Ok(Outcome::Done);
    }
    // The story says what matters; the log adds what went wrong. That a liar loses its dispute is the story.
    logging::start(
        &LogConfig { format: LogFormat::Plain, level: "off,candor_relayer=error,candor_relayer::dispute=off".into() },
        context.global.verbose,
    )?;
    let plan = Plan::new(args.requests.into(), args.image.as_deref(), args.applicant.as_deref())
        .map_err(|error| UsageError(super::explain(&error)))?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(run::stop_on_signal(stop.clone()));
    let outcome = demo::run(&plan, context.narrator(), stop).await;
    signals.abort();
    outcome.map(|()| Outcome::Done)
}

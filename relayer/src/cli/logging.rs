//! Where log lines go and how they look: always to standard error, so that a command's output stays clean.
use crate::config::{LogConfig, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt};

/// Sets up the log of this process. `verbose` is the number of `-v`.
pub(crate) fn start(config: &LogConfig, verbose: u8) -> anyhow::Result<()> {
    let level = match verbose {
        0 => config.level.as_str(),
        1 => "info,candor_relayer=debug,candor_sdk=debug",
        _ => "debug,candor_relayer=trace,candor_sdk=trace",
    };
    let text = std::env::var("CANDOR_LOG").unwrap_or_else(|_| level.to_owned());
    if let Some(problem) = LogConfig::problem(&text) {
        return Err(super::UsageError(format!("log level: {problem}")).into());
    }
    // What these have to say of errors, this program says too, with what it does about them.
    let filter = EnvFilter::try_new(format!("alloy_signer_aws=off,alloy_signer_gcp=off,{text}"))
        .map_err(|error| super::UsageError(format!("log level \"{text}\" makes no sense: {error}")))?;
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match config.format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Auto if !terminal => lines.json().flatten_event(true).try_init(),
        LogFormat::Auto => lines.with_ansi(colour).try_init(),
        LogFormat::Pretty => lines.with_ansi(true).try_init(),
        LogFormat::Plain => lines.with_ansi(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log can't be set up: {error}"))
}

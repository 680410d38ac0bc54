//! `candor run`: the relayer, until it is stopped.
use super::{Context, Global, Outcome, logging};
use crate::{
    chain::{GasLimits, WatchSettings},
    config::{Config, Needs},
    keylock::KeyLock,
    models::CatalogModel,
    pipeline::{self, OperatorSettings, Progress, RelayerError, Served, Settings, WatcherSettings},
};
use alloy::primitives::U256;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::{collections::HashMap, io::IsTerminal, path::PathBuf};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// What `candor run` is told.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Configuration file of another chain, for the same process; can be repeated. Log settings are those of the first
    #[arg(long, value_name = "FILE")]
    also: Vec<PathBuf>,
}

pub(super) async fn run(context: &Context, args: &RunArgs) -> anyhow::Result<Outcome> {
    let config = context.config(Needs::Chain)?;
    logging::start(&config.log, context.global.verbose)?;
    let mut chains = vec![settings(context, &config).await?];
    for file in &args.also {
        let other = Context::new(Global { config: Some(file.clone()), ..Global::default() });
        let config = other.config(Needs::Chain)?;
        chains.push(settings(&other, &config).await?);
    }
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    let mut relayers = tokio::task::JoinSet::new();
    for settings in chains {
        let stop = stop.clone();
        relayers.spawn(async move {
            let (reporter, progress) = tokio::sync::broadcast::channel(64);
            let catching_up = tokio::spawn(show_catching_up(progress));
            let outcome = match pipeline::spawn(settings, reporter, stop.clone()).await {
                Ok(handle) => handle.wait().await,
                // Stopped while it waited for a node: that is what was wanted.
                Err(_) if stop.is_cancelled() => Ok(()),
                Err(error) => Err(error),
            };
            catching_up.abort();
            // One that can't go on ends all, rather than to be missed among them.
            stop.cancel();
            outcome
        });
    }
    let mut outcome = Ok(());
    while let Some(ended) = relayers.join_next().await {
        outcome = outcome.and(ended.unwrap_or(Err(RelayerError::Panicked("relayer"))));
    }
    signals.abort();
    if let Err(error) = &outcome {
        // Whoever reads the log alone has to find it there.
        error!(%error, "the relayer ends");
    }
    outcome?;
    info!("relayer stopped");
    Ok(Outcome::Done)
}

/// What the relayer is started with, from what the person wrote.
pub(super) async fn settings(context: &Context, config: &Config) -> anyhow::Result<Settings> {
    let operator = match &config.operator {
        None => {
            warn!("there is no section [operator]: this relayer only watches");
            None
        }
        Some(operator) => {
            let account = context.account(config).await?;
            let signer = context.signer(config, &account).await?;
            let mut models = HashMap::new();
            for source in &config.models.serve {
                let model = CatalogModel::load_on(source, config.models.device)?;
                let min_fee = operator.min_fee_for(model.name()).0;
                info!(model = model.name(), id = %model.id(), min_fee, device = model.runner().device(), "model loaded");
                models.insert(model.id(), Served { name: model.name().to_owned(), min_fee, model: model.runner() });
            }
            let payout = operator.payout.as_ref().map(|payout| (payout.address, U256::from(payout.threshold.0)));
            Some(OperatorSettings { account, signer, models, payout })
        }
    };
    let watcher = match &config.watcher {
        watcher if !watcher.enabled => None,
        watcher => {
            let account = context.account(config).await?;
            let sources = if watcher.models.is_empty() { &config.models.serve } else { &watcher.models };
            let mut models = HashMap::new();
            for source in sources {
                let model = CatalogModel::load(source)?;
                info!(model = model.name(), id = %model.id(), "results of this model are run again");
                let served = Served { name: model.name().to_owned(), min_fee: 0, model: model.runner() };
                models.insert(model.id(), served);
            }
            let (cap, demand_inputs) = (U256::from(watcher.cap.0), watcher.demand_inputs);
            Some(WatcherSettings { account, models, cap, demand_inputs })
        }
    };
    let (chain, gas) = (&config.chain, &config.gas);
    Ok(Settings {
        rpc_urls: chain.rpc_urls.iter().map(|url| url.expose().clone()).collect(),
        chain_id: chain.chain_id,
        oracle: chain.oracle,
        start_block: chain.start_block,
        watch: WatchSettings {
            confirmations: chain.confirmations,
            poll_interval: chain.poll_interval,
            answer_within: chain.answer_within,
            max_block_range: chain.max_block_range,
            overlap: chain.overlap,
        },
        gas: GasLimits {
            max_fee_per_gas: gas.max_fee_per_gas.0,
            max_daily_spend: U256::from(gas.daily_cap.0),
            bump_after: gas.bump_after,
            bump_percent: gas.bump_percent,
            at_a_loss: gas.at_a_loss,
        },
        store: config.store.location(),
        lease: config.store.lease,
        locks: KeyLock::folder(),
        http: config.http.listen,
        inputs: config.inputs.settings(),
        operator,
        watcher,
    })
}

/// Blocks that are worth a progress bar.
const MANY_BLOCKS: u64 = 5_000;

/// A bar for people while a long stretch of the chain is read.
async fn show_catching_up(mut progress: broadcast::Receiver<Progress>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut bar: Option<ProgressBar> = None;
    loop {
        let (block, confirmed) = match progress.recv().await {
            Ok(Progress::Read { block, confirmed }) => (block, confirmed),
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        match &bar {
            Some(shown) if block >= confirmed => {
                shown.finish_and_clear();
                bar = None;
            }
            Some(shown) => {
                shown.set_position(block.saturating_sub(confirmed.saturating_sub(shown.length().unwrap_or_default())))
            }
            None if confirmed.saturating_sub(block) > MANY_BLOCKS => {
                let style = ProgressStyle::with_template("reading the chain {bar:40} {pos}/{len} blocks, {eta} left");
                bar = Some(
                    ProgressBar::new(confirmed - block)
                        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
                );
            }
            None => {}
        }
    }
}

/// The first signal asks politely, the second ends the process.
pub(crate) async fn stop_on_signal(stop: CancellationToken) {
    let mut asked = false;
    loop {
        if !wait_for_signal().await {
            // Without signals there is nothing to wait for; the system's own way to end a process still works.
            return;
        }
        if asked {
            warn!("stopping at once");
            std::process::exit(130);
        }
        asked = true;
        info!("stopping; once more to stop at once");
        stop.cancel();
    }
}

#[cfg(unix)]
async fn wait_for_signal() -> bool {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return false;
    };
    tokio::select! { got = terminate.recv() => got.is_some(), got = interrupt.recv() => got.is_some() }
}

#[cfg(not(unix))]
async fn wait_for_signal() -> bool {
    tokio::signal::ctrl_c().await.is_ok()
}

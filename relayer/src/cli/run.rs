//! `candor run`: the relayer, until it is stopped.
use super::{Context, Outcome, logging};
use crate::{
    chain::{GasLimits, WatchSettings},
    config::{Config, Needs},
    models::CatalogModel,
    pipeline::{self, OperatorSettings, Served, Settings},
};
use alloy::primitives::U256;
use std::collections::HashMap;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let config = context.config(Needs::Chain)?;
    logging::start(&config.log, context.global.verbose)?;
    let settings = settings(context, &config)?;
    let (reporter, _) = tokio::sync::broadcast::channel(64);
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    let outcome = match pipeline::spawn(settings, reporter, stop.clone()).await {
        Ok(handle) => handle.wait().await,
        // Stopped while it waited for a node: that is what was wanted.
        Err(_) if stop.is_cancelled() => Ok(()),
        Err(error) => Err(error),
    };
    signals.abort();
    outcome?;
    info!("relayer stopped");
    Ok(Outcome::Done)
}

/// What the relayer is started with, from what the person wrote.
pub(super) fn settings(context: &Context, config: &Config) -> anyhow::Result<Settings> {
    let operator = match &config.operator {
        None => {
            warn!("there is no section [operator]: this relayer only watches");
            None
        }
        Some(operator) => {
            let account = context.account(config)?;
            let signer = context.signer(config, &account)?;
            let mut models = HashMap::new();
            for source in &config.models.serve {
                let model = CatalogModel::load(source)?;
                let min_fee = operator.min_fee_for(model.name()).0;
                info!(model = model.name(), id = %model.id(), min_fee, device = model.runner().device(), "model loaded");
                models.insert(model.id(), Served { name: model.name().to_owned(), min_fee, model: model.runner() });
            }
            let payout = operator.payout.as_ref().map(|payout| (payout.address, U256::from(payout.threshold.0)));
            Some(OperatorSettings { account, signer, models, payout })
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
            max_block_range: chain.max_block_range,
            overlap: chain.overlap,
        },
        gas: GasLimits {
            max_fee_per_gas: gas.max_fee_per_gas.0,
            max_daily_spend: U256::from(gas.daily_cap.0),
            bump_after: gas.bump_after,
            bump_percent: gas.bump_percent,
        },
        store: config.store.path.to_path_buf(),
        operator,
    })
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

//! `candor status`: what the relayer has done, is doing and has at stake, from its database and the chain. Reads only; works beside a running
//! relayer and without one.
use super::{Context, Outcome, dispute};
use crate::{
    config::{Config, Needs},
    readable::money,
    store::{Step, Store, StoreLocation, WorkerRow},
};
use alloy::{primitives::U256, providers::Provider};
use clap::Args;
use serde_json::{Value, json};

/// What `candor status` is told.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// How many of the latest requests to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    requests: u32,
}

pub(super) async fn status(context: &Context, args: &StatusArgs) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    let config = context.config(Needs::Chain)?;
    let location = config.store.location();
    match &location {
        StoreLocation::File(path) if !path.exists() => context.say(
            || format!("database   {location} is not there: no relayer has run with this configuration"),
            || json!({ "event": "store", "path": location.to_string(), "exists": false }),
        )?,
        _ => of_store(context, &config, args).await?,
    }
    // The chain may be down; what is known here was worth saying all the same.
    of_chain(context, &config).await?;
    Ok(Outcome::Done)
}

async fn of_store(context: &Context, config: &Config, args: &StatusArgs) -> anyhow::Result<()> {
    let store = Store::open_read_only(config.store.location()).await?;
    let counts = store.counts().await?;
    let earned = store.earned().await?;
    let spent = store.spent_in_a_day().await?;
    let next_block = store.next_block().await?;
    let unresolved = store.unresolved().await?;
    let workers = store.workers().await?;
    let running = store.has_relayer().await?;
    context.say(
        || {
            let shown: Vec<String> = Step::ALL
                .iter()
                .filter(|step| counts.of(**step) > 0)
                .map(|step| format!("{} {step}", counts.of(*step)))
                .collect();
            let requests = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
            let mut text = format!("database   {}, read up to block {}", store.location(), next_block.saturating_sub(1));
            if !running {
                text += "\nrelayer    none is running: `candor run`";
            }
            text += &format!("\nrequests   {requests}");
            text += &format!("\nearned     {}; {} spent on gas in 24 hours, of at most {}", money(earned), money(spent), config.gas.daily_cap);
            for worker in &workers {
                let WorkerRow { name, card, submitter, alive, claimed, .. } = worker;
                let role = if !alive || !running { "silent" } else if *submitter { "submitter" } else { "worker" };
                text += &format!("\nworker     {name}: {role} on {}, {} answered, {claimed} in work", card.device, card.answered);
            }
            for sent in &unresolved {
                text += &format!("\nin flight  {} with nonce {}, tx {}", sent.purpose, sent.nonce, sent.hash);
            }
            text
        },
        || {
            let steps: serde_json::Map<String, Value> =
                Step::ALL.iter().map(|step| (step.name().to_owned(), counts.of(*step).into())).collect();
            json!({
                "event": "store", "path": store.location().to_string(), "exists": true, "running": running, "next_block": next_block, "requests": steps,
                "earned": earned.to_string(), "spent_24h": spent.to_string(),
                "workers": workers.iter().map(|worker| json!({
                    "name": worker.name, "device": worker.card.device, "models": worker.card.models, "answered": worker.card.answered,
                    "claimed": worker.claimed, "alive": worker.alive && running, "submitter": worker.submitter,
                })).collect::<Vec<_>>(),
                "in_flight": unresolved.iter().map(|sent| json!({ "purpose": sent.purpose.name(), "nonce": sent.nonce, "transaction": sent.hash })).collect::<Vec<_>>(),
            })
        },
    )?;
    for row in store.recent(args.requests).await? {
        context.say(
            || {
                let mut text = format!("  {:>6}  {:<10}  {}  {}", row.id().to_string(), row.step.name(), row.request.model.short(), money(U256::from(row.request.fee)));
                if let Some(paid) = row.paid {
                    text += &format!(", paid {}", money(paid));
                }
                if let Some(reason) = &row.reason {
                    text += &format!(": {reason}");
                }
                text
            },
            || {
                json!({
                    "event": "request", "request": row.id(), "attempt": row.request.attempt, "step": row.step.name(), "model": row.request.model,
                    "fee": row.request.fee.to_string(), "paid": row.paid.map(|paid| paid.to_string()), "reason": row.reason, "final_at": row.final_at,
                })
            },
        )?;
    }
    Ok(())
}

async fn of_chain(context: &Context, config: &Config) -> anyhow::Result<()> {
    let client = context.client(config).await?;
    let head = client.provider().get_block_number().await?;
    let count = client.request_count().await?;
    let requests = if count == 1 { "request" } else { "requests" };
    context.say(
        || format!("chain      {}, block {head}; the oracle has taken {count} {requests}", client.chain_id),
        || json!({ "event": "chain", "chain_id": client.chain_id, "block": head, "requests": count }),
    )?;
    dispute::summary(context, config).await?;
    if config.operator.is_none() {
        return context
            .say(|| "operator   none: only watching".to_owned(), || json!({ "event": "operator", "operator": null }));
    }
    let operator = context.operator(config).await?;
    let (stake, unbonding, locked) = client.stake(operator).await?;
    let credit = client.credit(operator).await?;
    let balance = client.provider().get_balance(operator).await?;
    let free = stake.saturating_sub(unbonding).saturating_sub(locked);
    context.say(
        || {
            format!(
                "operator   {operator}: {} at stake, {} of it locked, {} free; {} earned and not yet paid out; {} for gas",
                money(stake),
                money(locked),
                money(free),
                money(credit),
                money(balance)
            )
        },
        || {
            json!({
                "event": "operator", "operator": operator, "stake": stake.to_string(), "locked": locked.to_string(), "free": free.to_string(),
                "credit": credit.to_string(), "balance": balance.to_string(),
            })
        },
    )
}

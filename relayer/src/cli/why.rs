//! `candor why NUMBER`: where a request stands, and what it is waiting for.
use super::{Context, Outcome, context::AnyClient};
use crate::{
    chain::Head,
    config::{Config, Needs},
    fetch::shown,
    pipeline::loses_money,
    readable::money,
    store::{ByUri, Purpose, RequestRow, SentTransaction, Step, Store, StoreLocation},
};
use alloy::{eips::BlockId, primitives::U256, providers::Provider};
use candor_sdk::{bindings::RequestStatus, client::Terms, ids::RequestId};
use clap::Args;
use serde_json::json;

/// What `candor why` is told.
#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// The request's number
    #[arg(value_name = "NUMBER")]
    request: u64,
}

/// What the answer depends on, besides the request.
struct Facts {
    head: Head,
    terms: Terms,
    /// Last block whose events are read, and how many must lie on top of one.
    read: u64,
    confirmations: u64,
    /// Requests whose turn comes earlier.
    ahead: u64,
    /// Transactions whose outcome is open, and the one that carries this request.
    open: Vec<SentTransaction>,
    carried_by: Option<u64>,
    operator: Option<OperatorFacts>,
    max_fee_per_gas: u128,
    daily_cap: U256,
    spent_day: U256,
    at_a_loss: bool,
}

struct OperatorFacts {
    address: alloy::primitives::Address,
    free_stake: U256,
    balance: U256,
    /// The least that is taken for the request's model; none: it is not served here.
    min_fee: Option<u128>,
}

pub(super) async fn why(context: &Context, args: &WhyArgs) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    let config = context.config(Needs::Chain)?;
    let id = RequestId(args.request);
    let location = config.store.location();
    let row = match &location {
        StoreLocation::File(path) if !path.exists() => None,
        _ => Store::open_read_only(location.clone()).await?.request(id).await?,
    };
    if let Some(row) = &row
        && let Some(end) = ended(row)
    {
        tell(context, id, row.step.name(), &[end])?;
        return Ok(Outcome::Done);
    }
    let client = context.client(&config).await;
    let (stands, reasons) = match row {
        Some(row) => {
            let store = Store::open_read_only(location).await?;
            let client = match client {
                Ok(client) => client,
                // What is known here is worth saying all the same.
                Err(error) => {
                    let mut reasons: Vec<String> = nobody(&store).await?.into_iter().collect();
                    reasons.push("what it waits for only the chain can say, and that can't be asked".into());
                    tell(context, id, row.step.name(), &reasons)?;
                    return Err(error);
                }
            };
            let facts = facts(context, &config, &store, &client, &row).await?;
            let mut reasons = explain(&row, &facts);
            reasons.splice(0..0, nobody(&store).await?);
            (row.step.name().to_owned(), reasons)
        }
        None => ("not here".to_owned(), unknown(&config, &client?, id).await?),
    };
    tell(context, id, &stands, &reasons)?;
    Ok(Outcome::Done)
}

fn tell(context: &Context, id: RequestId, stands: &str, reasons: &[String]) -> anyhow::Result<()> {
    context.say(
        || {
            format!(
                "request {id}: {stands}\n{}",
                reasons.iter().map(|reason| format!("  - {reason}\n")).collect::<String>().trim_end()
            )
        },
        || json!({ "event": "why", "request": id, "step": stands, "reasons": reasons }),
    )
}

async fn facts(
    context: &Context,
    config: &Config,
    store: &Store,
    client: &AnyClient,
    row: &RequestRow,
) -> anyhow::Result<Facts> {
    let block = client.provider().get_block(BlockId::latest()).await?;
    let header = block.ok_or_else(|| anyhow::anyhow!("the node does not know its own newest block"))?.header;
    let head = Head {
        number: header.number,
        hash: header.hash,
        timestamp: header.timestamp,
        base_fee: header.base_fee_per_gas.unwrap_or_default().into(),
    };
    let operator = match &config.operator {
        None => None,
        Some(operator) => {
            let address = context.operator(config).await?;
            let (stake, unbonding, locked) = client.stake(address).await?;
            let min_fee = super::context::served_name(config, row.request.model)?;
            Some(OperatorFacts {
                address,
                free_stake: stake.saturating_sub(unbonding).saturating_sub(locked),
                balance: client.provider().get_balance(address).await?,
                min_fee: min_fee.map(|name| operator.min_fee_for(&name).0),
            })
        }
    };
    Ok(Facts {
        head,
        terms: client.terms().await?,
        read: store.next_block().await?.saturating_sub(1),
        confirmations: config.chain.confirmations,
        ahead: store.ahead_of(row).await?,
        open: store.unresolved().await?,
        carried_by: store.carrier_of(row.key()).await?,
        operator,
        max_fee_per_gas: config.gas.max_fee_per_gas.0,
        daily_cap: U256::from(config.gas.daily_cap.0),
        spent_day: store.spent_in_a_day().await?,
        at_a_loss: config.gas.at_a_loss,
    })
}

/// Why nothing more happens to a request.
fn ended(row: &RequestRow) -> Option<String> {
    match row.step {
        Step::Finalized => Some(format!("final, and {} were paid for it", money(row.paid.unwrap_or_default()))),
        Step::Dropped => Some(format!("not answered here: {}", row.reason.as_deref().unwrap_or("no reason is known"))),
        _ => None,
    }
}

/// What a request waits for, or why nothing more happens to it.
fn explain(row: &RequestRow, facts: &Facts) -> Vec<String> {
    let mut reasons = match row.step {
        Step::Seen => seen(row, facts),
        Step::Inferred => vec!["the model has answered; the answer is about to be signed".into()],
        Step::Signed => signed(row, facts),
        Step::Posting | Step::Finalizing => in_flight(row, facts),
        Step::Posted => posted(row, facts),
        Step::Disputed => vec!["somebody disputes the result; it can't become final before that is decided".into()],
        Step::Finalized | Step::Dropped => ended(row).into_iter().collect(),
    };
    let late = facts.head.timestamp > row.request.deadline;
    if late && matches!(row.step, Step::Seen | Step::Inferred | Step::Signed | Step::Posting) {
        reasons.push(format!(
            "its deadline passed {} s ago; it will be given up",
            facts.head.timestamp - row.request.deadline
        ));
    }
    reasons
}

fn seen(row: &RequestRow, facts: &Facts) -> Vec<String> {
    let mut reasons = Vec::new();
    let (request, head) = (&row.request, &facts.head);
    let Some(operator) = &facts.operator else {
        return vec!["this relayer only watches: there is no section [operator]".into()];
    };
    match operator.min_fee {
        None => reasons.push(format!("model {} is not served here (models.serve)", request.model.short())),
        Some(min) if request.fee < min => {
            let (fee, min) = (money(U256::from(request.fee)), money(U256::from(min)));
            reasons.push(format!("it brings {fee}, the least taken is {min} (operator.min_fee)"));
        }
        Some(_) => {}
    }
    let drawn = !request.operator.is_zero() && request.operator != operator.address;
    if drawn && head.timestamp < request.exclusive_until {
        let left = request.exclusive_until - head.timestamp;
        reasons.push(format!("operator {} was drawn and has it to itself for another {left} s", request.operator));
    }
    loss(row, facts, &mut reasons);
    if let Some(by_uri) = row.by_uri.as_ref().filter(|by_uri| by_uri.awaited) {
        reasons.push(input(by_uri));
    } else if let Some(worker) = &row.worker {
        reasons.push(format!("worker {worker} is at work on it"));
    } else if reasons.is_empty() {
        reasons.push(match facts.ahead {
            0 => "it is next".into(),
            ahead => format!("{ahead} other requests come first"),
        });
    }
    reasons
}

/// What is to be said of an input that is not here.
fn input(by_uri: &ByUri) -> String {
    let place = by_uri.uri.as_deref().map_or_else(|| "a place that nobody has named yet".to_owned(), shown);
    match &by_uri.problem {
        None => format!("its input of {} bytes is at {place} and not fetched yet", by_uri.size),
        Some(problem) => format!(
            "its input of {} bytes is at {place} and could not be had, after {} tries; it is tried again until the deadline. The last time: {problem}",
            by_uri.size, by_uri.tries
        ),
    }
}

fn loss(row: &RequestRow, facts: &Facts, reasons: &mut Vec<String>) {
    if !facts.at_a_loss && loses_money(&row.request, facts.head) {
        reasons.push(format!(
            "gas costs more than it brings, at {} wei per gas; it waits for cheaper gas (gas.at_a_loss)",
            facts.head.base_fee
        ));
    }
}

fn signed(row: &RequestRow, facts: &Facts) -> Vec<String> {
    let mut reasons = Vec::new();
    loss(row, facts, &mut reasons);
    if facts.head.base_fee >= facts.max_fee_per_gas {
        reasons.push(format!(
            "gas costs {} wei, the limit is {} (gas.max_fee_per_gas)",
            facts.head.base_fee, facts.max_fee_per_gas
        ));
    }
    if facts.spent_day >= facts.daily_cap {
        reasons.push(format!(
            "{} were spent on gas in 24 hours, which is the limit (gas.daily_cap)",
            money(facts.spent_day)
        ));
    }
    if let Some(operator) = &facts.operator {
        if operator.free_stake < facts.terms.stake_per_result {
            let (free, needed) = (money(operator.free_stake), money(facts.terms.stake_per_result));
            reasons.push(format!("{free} of stake are free and {needed} are needed: it waits for other results to become final (`candor operator join` adds stake)"));
        }
        if operator.balance.is_zero() {
            reasons.push(format!("account {} has nothing to pay gas with", operator.address));
        }
    }
    for sent in &facts.open {
        reasons.push(format!("transaction {} ({}) is in flight, and there is one at a time", sent.hash, sent.purpose));
    }
    if reasons.is_empty() {
        reasons.push("it is about to be sent; if that stays so, the relayer's log says what the chain refuses".into());
    }
    reasons
}

fn in_flight(row: &RequestRow, facts: &Facts) -> Vec<String> {
    let purpose = if row.step == Step::Posting { Purpose::Fulfill } else { Purpose::Finalize };
    let mine: Vec<_> = facts.open.iter().filter(|sent| Some(sent.nonce) == facts.carried_by).collect();
    match mine.last() {
        Some(last) => {
            let mut reasons = vec![format!(
                "transaction {} ({purpose}, nonce {}) carries it and is not in a block yet; it pays at most {} wei per gas, blocks burn {} now",
                last.hash, last.nonce, last.max_fee, facts.head.base_fee
            )];
            if mine.len() > 1 {
                reasons.push(format!("it was replaced by a dearer one {} times", mine.len() - 1));
            }
            if last.max_fee <= facts.head.base_fee {
                reasons.push(
                    "that is too little now; it waits for cheaper gas, or for a replacement (gas.bump_after)".into(),
                );
            }
            reasons
        }
        None => vec![format!(
            "its transaction is in a block; that counts when {} blocks lie on top (chain.confirmations): read up to {}, the newest is {}",
            facts.confirmations, facts.read, facts.head.number
        )],
    }
}

fn posted(row: &RequestRow, facts: &Facts) -> Vec<String> {
    let now = facts.head.timestamp;
    match row.final_at {
        Some(at) if at > now => vec![format!("the result is on chain and can be disputed for another {} s", at - now)],
        _ => {
            let mut reasons = vec!["the window has passed; it is about to be made final".to_owned()];
            if facts.head.base_fee >= facts.max_fee_per_gas {
                reasons.push(format!(
                    "gas costs {} wei, the limit is {} (gas.max_fee_per_gas)",
                    facts.head.base_fee, facts.max_fee_per_gas
                ));
            }
            reasons
        }
    }
}

/// The first reason for everything, if it is one.
async fn nobody(store: &Store) -> anyhow::Result<Option<String>> {
    let running = store.has_relayer().await?;
    Ok((!running).then(|| "no relayer is running: `candor run`; what follows is as the last one left it".to_owned()))
}

/// Why a request is not in the store.
async fn unknown(config: &Config, client: &AnyClient, id: RequestId) -> anyhow::Result<Vec<String>> {
    let count = client.request_count().await?;
    if id.0 == 0 || id.0 > count {
        return Ok(vec![format!("there is no such request: the oracle has taken {count}")]);
    }
    let (status, _) = client.status(id).await?;
    let location = config.store.location();
    let there = !matches!(&location, StoreLocation::File(path) if !path.exists());
    if !there {
        return Ok(vec![format!("no relayer has run with this configuration; on the chain it is {status:?}")]);
    }
    let store = Store::open_read_only(location).await?;
    let read = store.next_block().await?.saturating_sub(1);
    let head = client.provider().get_block_number().await?;
    let mut reasons: Vec<String> = nobody(&store).await?.into_iter().collect();
    reasons.push(format!(
        "this relayer has read up to block {read} of {head}, and an event counts when {} blocks lie on top of it (chain.confirmations)",
        config.chain.confirmations
    ));
    if status != RequestStatus::Requested {
        reasons.push(format!("on the chain it is {status:?}"));
    }
    if config.chain.start_block > 0 {
        reasons.push(format!("nothing is read below block {} (chain.start_block)", config.chain.start_block));
    }
    Ok(reasons)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests_support::row;
    use alloy::primitives::{Address, B256};

    fn facts() -> Facts {
        let us = Address::repeat_byte(5);
        Facts {
            head: Head { number: 100, hash: B256::ZERO, timestamp: 500, base_fee: 1_000_000_000 },
            terms: Terms {
                challenge_window: 600,
                exclusive_period: 60,
                stake_per_result: U256::from(10),
                min_stake: U256::from(10),
                withdrawal_delay: 1,
            },
            read: 97,
            confirmations: 3,
            ahead: 0,
            open: Vec::new(),
            carried_by: None,
            operator: Some(OperatorFacts {
                address: us,
                free_stake: U256::from(10),
                balance: U256::from(1),
                min_fee: Some(1),
            }),
            max_fee_per_gas: 100_000_000_000,
            daily_cap: U256::from(1),
            spent_day: U256::ZERO,
            at_a_loss: false,
        }
    }

    fn says(row: &RequestRow, facts: &Facts, words: &[&str]) {
        let said = explain(row, facts).join("; ");
        for word in words {
            assert!(said.contains(word), "\"{word}\" is not in: {said}");
        }
    }

    #[test]
    fn each_reason_to_wait_is_named() {
        let good = row(Step::Seen);
        says(&good, &facts(), &["it is next"]);
        says(&good, &Facts { ahead: 7, ..facts() }, &["7 other requests come first"]);
        says(&good, &Facts { operator: None, ..facts() }, &["only watches"]);
        let with = |change: fn(&mut OperatorFacts)| {
            let mut facts = facts();
            change(facts.operator.as_mut().unwrap());
            facts
        };
        says(&good, &with(|us| us.min_fee = None), &["is not served here"]);
        says(&good, &with(|us| us.min_fee = Some(u128::MAX)), &["operator.min_fee"]);
        says(&good, &with(|us| us.address = Address::ZERO), &["was drawn and has it to itself for another 500 s"]);
        let dear = Head { base_fee: 200_000_000_000, ..facts().head };
        says(&good, &Facts { head: dear, ..facts() }, &["gas costs more than it brings"]);
        says(&RequestRow { worker: Some("gpu-1".into()), ..good.clone() }, &facts(), &["gpu-1 is at work"]);
        let at = |problem: Option<&str>| ByUri {
            uri: Some("https://user:hunter2@host/hunter2".into()),
            size: 80,
            awaited: true,
            tries: 3,
            problem: problem.map(str::to_owned),
        };
        let waiting = RequestRow { by_uri: Some(at(None)), ..good.clone() };
        says(&waiting, &facts(), &["80 bytes is at https://host/... and not fetched yet"]);
        let failing = RequestRow { by_uri: Some(at(Some("the server answers 404"))), ..good.clone() };
        says(&failing, &facts(), &["https://host/...", "after 3 tries", "the server answers 404"]);
        assert!(!explain(&failing, &facts()).join(";").contains("hunter2"));
        let here = RequestRow { by_uri: Some(ByUri { awaited: false, ..at(None) }), ..good.clone() };
        says(&here, &facts(), &["it is next"]);
        let late = Head { timestamp: 6_000, ..facts().head };
        says(&good, &Facts { head: late, ..facts() }, &["deadline passed 1000 s ago"]);

        let signed = row(Step::Signed);
        says(&signed, &facts(), &["about to be sent"]);
        says(&signed, &with(|us| us.free_stake = U256::ZERO), &["waits for other results to become final"]);
        says(&signed, &with(|us| us.balance = U256::ZERO), &["nothing to pay gas with"]);
        says(&signed, &Facts { head: dear, ..facts() }, &["gas.max_fee_per_gas"]);
        says(&signed, &Facts { spent_day: U256::from(2), ..facts() }, &["gas.daily_cap"]);

        let raw = alloy::primitives::Bytes::new();
        let sent =
            SentTransaction { hash: B256::ZERO, nonce: 3, purpose: Purpose::Fulfill, raw, max_fee: 1, gas_limit: 1 };
        says(&signed, &Facts { open: vec![sent.clone()], ..facts() }, &["one at a time"]);
        let posting = row(Step::Posting);
        let flying = Facts { open: vec![sent.clone(), sent], carried_by: Some(3), ..facts() };
        says(&posting, &flying, &["is not in a block yet", "replaced by a dearer one 1 times", "too little now"]);
        says(&posting, &facts(), &["counts when 3 blocks lie on top", "read up to 97, the newest is 100"]);

        let posted = RequestRow { final_at: Some(620), ..row(Step::Posted) };
        says(&posted, &facts(), &["can be disputed for another 120 s"]);
        says(&RequestRow { final_at: Some(20), ..posted }, &facts(), &["about to be made final"]);
        says(&row(Step::Disputed), &facts(), &["disputes the result"]);
        says(&RequestRow { paid: Some(U256::ZERO), ..row(Step::Finalized) }, &facts(), &["final"]);
        says(
            &RequestRow { reason: Some("because".into()), ..row(Step::Dropped) },
            &facts(),
            &["not answered here: because"],
        );
    }
}

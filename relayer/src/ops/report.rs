//! How a relayer is doing, put together from time to time: for the page, for `/readyz`, for the gauges.

use super::metrics as m;
use crate::{
    fetch::shown,
    pipeline::{OperatorSettings, RelayerError, Shared},
    store::{RequestRow, Step, WorkerRow},
};
use alloy::{
    primitives::{Address, B256, U256},
    providers::Provider,
};
use candor_sdk::ids::ModelId;
use metrics::gauge;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// Time between two reports that somebody may look at, and between those that nobody can: each asks the node three questions.
const EVERY: Duration = Duration::from_secs(5);
const UNSEEN_EVERY: Duration = Duration::from_secs(60);

/// Requests shown.
const RECENT: u32 = 40;

/// Everything that is shown. Amounts are wei in decimal, because numbers in JSON are not exact.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// This program's version.
    pub version: &'static str,
    /// Unix second of this report on this machine's clock; 0: there has been none yet.
    pub at: u64,
    /// Seconds for which the relayer has run.
    pub up: u64,
    /// Name of this process among those that share the store.
    pub member: String,
    /// Whether it is the submitter.
    pub submitter: bool,
    /// The chain as this relayer sees it.
    pub chain: ChainReport,
    /// Requests by step.
    pub steps: BTreeMap<&'static str, u64>,
    /// Requests that wait for an input that is at a URI.
    pub inputs_awaited: u64,
    /// Results of others that can't be judged for want of their inputs, and why.
    pub unjudged: BTreeMap<u64, String>,
    /// The requests that changed last.
    pub recent: Vec<RequestReport>,
    /// Transactions whose outcome is open.
    pub open: Vec<TransactionReport>,
    /// Stake, earnings, gas; none for a relayer that only watches.
    pub money: Option<MoneyReport>,
    /// The processes that share the store.
    pub workers: Vec<WorkerReport>,
    /// Part of the time since the last report in which a model ran here, 0 to 1.
    pub load: f64,
    /// Bytes of memory in RAM.
    pub memory: u64,
    /// What somebody should look at.
    pub troubles: Vec<String>,
    /// Of that, what keeps it from its work.
    #[serde(skip)]
    pub blocked: Vec<String>,
}

/// The chain as this relayer sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ChainReport {
    /// EIP-155 chain id.
    pub id: u64,
    /// `InferenceOracle`.
    pub oracle: Address,
    /// Newest block.
    pub head: u64,
    /// Its unix second.
    pub timestamp: u64,
    /// Wei per gas that the next block burns.
    pub base_fee: String,
    /// Last block whose events are read.
    pub read: u64,
    /// Blocks on top of an event before it counts.
    pub confirmations: u64,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestReport {
    /// Number.
    pub id: u64,
    /// 0, and one more each time a result was rejected.
    pub attempt: u32,
    /// Where it stands.
    pub step: &'static str,
    /// The model's name, or the beginning of its id.
    pub model: String,
    /// Who asked.
    pub requester: Address,
    /// Wei.
    pub fee: String,
    /// Wei, once final.
    pub paid: Option<String>,
    /// Unix second.
    pub deadline: u64,
    /// Unix second, once posted.
    pub final_at: Option<u64>,
    /// Milliseconds that the batch took in which it was answered.
    pub inferred_in: Option<f64>,
    /// Why it was dropped, or what it waits for.
    pub reason: Option<String>,
}

/// A transaction whose outcome is open.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TransactionReport {
    /// Its hash.
    pub hash: B256,
    /// Its nonce.
    pub nonce: u64,
    /// What it is for.
    pub purpose: &'static str,
    /// Wei per gas that it pays at most.
    pub max_fee: String,
}

/// Stake, earnings, gas.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MoneyReport {
    /// The operator.
    pub operator: Address,
    /// Wei at stake.
    pub stake: String,
    /// Wei of it that back results.
    pub locked: String,
    /// Wei of it that are neither locked nor announced for withdrawal.
    pub free: String,
    /// Results that the free stake backs.
    pub backed: u64,
    /// Wei earned and not taken out.
    pub credit: String,
    /// Wei for gas.
    pub balance: String,
    /// Wei paid for results so far.
    pub earned: String,
    /// Wei spent on gas in 24 hours.
    pub spent_day: String,
    /// Wei that may be.
    pub cap_day: String,
}

/// A process that shares the store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerReport {
    /// Its name.
    pub name: String,
    /// What it computes on.
    pub device: String,
    /// What it serves.
    pub models: Vec<String>,
    /// Requests it ran a model for.
    pub answered: u64,
    /// Requests it has claimed now.
    pub claimed: u64,
    /// Seconds since it started.
    pub up: u64,
    /// Seconds for which it ran models.
    pub busy: f64,
    /// Whether it has given a sign of life.
    pub alive: bool,
    /// Whether it is the submitter.
    pub submitter: bool,
}

impl From<WorkerRow> for WorkerReport {
    fn from(row: WorkerRow) -> Self {
        Self {
            name: row.name,
            device: row.card.device,
            models: row.card.models,
            answered: row.card.answered,
            claimed: row.claimed,
            up: row.up.as_secs(),
            busy: row.card.busy.as_secs_f64(),
            alive: row.alive,
            submitter: row.submitter,
        }
    }
}

/// Makes reports as long as the relayer runs.
pub(crate) async fn observe(
    shared: Arc<Shared>,
    operator: Option<Arc<OperatorSettings>>,
    (confirmations, stake_per_result, cap, seen): (u64, U256, U256, bool),
    reports: watch::Sender<Arc<Report>>,
) -> Result<(), RelayerError> {
    let started = Instant::now();
    let (mut busy, mut since) = (Duration::ZERO, Instant::now());
    m::install();
    gauge!(m::START_TIME).set(seconds_now() as f64);
    while !shared.stop.is_cancelled() {
        shared.round("observer");
        let busy_now = shared.work_done.busy();
        let load = busy_now.saturating_sub(busy).as_secs_f64() / since.elapsed().as_secs_f64().max(0.001);
        (busy, since) = (busy_now, Instant::now());
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION"),
            at: seconds_now(),
            up: started.elapsed().as_secs(),
            member: shared.store.member().to_owned(),
            submitter: *shared.leads.borrow(),
            load: load.min(1.0),
            memory: resident_bytes(),
            ..Report::default()
        };
        let client = shared.rpc.client();
        let head = *shared.head.borrow();
        report.chain = ChainReport {
            id: client.chain_id,
            oracle: client.oracle,
            head: head.number,
            timestamp: head.timestamp,
            base_fee: head.base_fee.to_string(),
            read: 0,
            confirmations,
        };
        if let Err(error) = of_store(&shared, operator.as_deref(), &mut report).await {
            report.blocked.push(error.to_string());
        }
        if let Some(operator) = &operator {
            match of_account(&shared, operator, stake_per_result, cap).await {
                Ok(money) => report.money = Some(money),
                Err(error) => report.troubles.push(error.to_string()),
            }
        }
        report.unjudged = shared.inputs.unjudged();
        judge(&shared, &mut report);
        measure(&report, stake_per_result, cap);
        m::install().run_upkeep();
        reports.send_replace(Arc::new(report));
        tokio::select! { () = tokio::time::sleep(if seen { EVERY } else { UNSEEN_EVERY }) => {}, () = shared.stop.cancelled() => {} }
    }
    Ok(())
}

async fn of_store(
    shared: &Shared,
    operator: Option<&OperatorSettings>,
    report: &mut Report,
) -> Result<(), RelayerError> {
    let store = &shared.store;
    let counts = store.counts().await?;
    report.steps = Step::ALL.iter().map(|step| (step.name(), counts.of(*step))).collect();
    report.chain.read = store.next_block().await?.saturating_sub(1);
    let name = |model: &ModelId| {
        let served = operator.and_then(|operator| operator.models.get(model));
        served.map_or_else(|| model.short().to_string(), |served| served.name.clone())
    };
    report.recent = store.recent(RECENT).await?.iter().map(|row| request(row, name(&row.request.model))).collect();
    report.open = store
        .unresolved()
        .await?
        .into_iter()
        .map(|sent| TransactionReport {
            hash: sent.hash,
            nonce: sent.nonce,
            purpose: sent.purpose.name(),
            max_fee: sent.max_fee.to_string(),
        })
        .collect();
    report.inputs_awaited = store.inputs_awaited().await?;
    report.workers = store.workers().await?.into_iter().map(WorkerReport::from).collect();
    gauge!(m::OLDEST_WAITING, "chain" => shared.rpc.chain_id().to_string())
        .set(store.oldest_waiting().await?.as_secs_f64());
    Ok(())
}

fn request(row: &RequestRow, model: String) -> RequestReport {
    RequestReport {
        id: row.id().0,
        attempt: row.request.attempt,
        step: row.step.name(),
        model,
        requester: row.request.requester,
        fee: row.request.fee.to_string(),
        paid: row.paid.map(|paid| paid.to_string()),
        deadline: row.request.deadline,
        final_at: row.final_at,
        inferred_in: row.inferred_in.map(|took| took.as_secs_f64() * 1e3),
        reason: row.reason.clone().or_else(|| waits_for_input(row)),
    }
}

/// What is to be said of a request whose input is at a URI and not here.
fn waits_for_input(row: &RequestRow) -> Option<String> {
    let by_uri = row.by_uri.as_ref().filter(|by_uri| by_uri.awaited && row.step == Step::Seen)?;
    let place = by_uri.uri.as_deref().map_or_else(|| "an unknown place".to_owned(), shown);
    Some(match &by_uri.problem {
        None => format!("its input is being fetched from {place}"),
        Some(problem) => format!("its input can't be had ({} tries): {problem}", by_uri.tries),
    })
}

async fn of_account(
    shared: &Shared,
    operator: &OperatorSettings,
    stake_per_result: U256,
    cap: U256,
) -> Result<MoneyReport, RelayerError> {
    let (client, account) = (shared.rpc.client(), operator.account.address());
    let (stake, unbonding, locked) = client.stake(account).await?;
    let credit = client.credit(account).await?;
    let balance = client.provider().get_balance(account).await.map_err(candor_sdk::client::ClientError::from)?;
    let free = stake.saturating_sub(unbonding).saturating_sub(locked);
    let (earned, spent) = (shared.store.earned().await?, shared.store.spent_in_a_day().await?);
    for (name, wei) in [
        (m::STAKE, stake),
        (m::STAKE_FREE, free),
        (m::CREDIT, credit),
        (m::BALANCE, balance),
        (m::EARNED, earned),
        (m::GAS_SPENT_DAY, spent),
    ] {
        gauge!(name, "chain" => client.chain_id.to_string()).set(m::ether(wei));
    }
    Ok(MoneyReport {
        operator: account,
        stake: stake.to_string(),
        locked: locked.to_string(),
        free: free.to_string(),
        backed: free.checked_div(stake_per_result).unwrap_or(U256::MAX).saturating_to(),
        credit: credit.to_string(),
        balance: balance.to_string(),
        earned: earned.to_string(),
        spent_day: spent.to_string(),
        cap_day: cap.to_string(),
    })
}

/// What somebody should look at.
fn judge(shared: &Shared, report: &mut Report) {
    for (task, silent) in shared.silent_tasks() {
        report.troubles.push(format!("task {task} has not begun a round for {} s", silent.as_secs()));
    }
    report.troubles.extend(shared.sight.lost());
    report.troubles.extend(shared.key_trouble());
    let confirmed = report.chain.head.saturating_sub(report.chain.confirmations);
    let behind = confirmed.saturating_sub(report.chain.read);
    if behind > 50 {
        report.blocked.push(format!("{behind} blocks are still to be read"));
    }
    report.troubles.extend(report.blocked.iter().cloned());
    let disputed = report.steps.get(Step::Disputed.name()).copied().unwrap_or_default();
    if disputed > 0 {
        report.troubles.push(format!("{disputed} of this operator's results are disputed"));
    }
    for (id, problem) in &report.unjudged {
        report.troubles.push(format!("the result of request #{id} can't be judged, its input can't be had: {problem}"));
    }
    if report.money.as_ref().is_some_and(|money| money.backed == 0) {
        report.troubles.push("no free stake: results wait".into());
    }
}

fn measure(report: &Report, stake_per_result: U256, cap: U256) {
    let chain = report.chain.id.to_string();
    for (step, count) in &report.steps {
        gauge!(m::REQUESTS, "step" => *step, "chain" => chain.clone()).set(*count as f64);
    }
    let workers = report.workers.iter().filter(|worker| worker.alive).count();
    let base_fee: f64 = report.chain.base_fee.parse().unwrap_or_default();
    gauge!(m::RESIDENT_MEMORY).set(report.memory as f64);
    for (name, value) in [
        (m::CHAIN_HEAD_BLOCK, report.chain.head as f64),
        (m::CHAIN_HEAD_TIMESTAMP, report.chain.timestamp as f64),
        (m::CHAIN_BASE_FEE, base_fee),
        (m::CHAIN_READ_BLOCK, report.chain.read as f64),
        (m::INPUTS_AWAITED, report.inputs_awaited as f64),
        (m::RESULTS_UNJUDGED, report.unjudged.len() as f64),
        (m::TRANSACTIONS_OPEN, report.open.len() as f64),
        (m::WORKERS, workers as f64),
        (m::SUBMITTER, if report.submitter { 1.0 } else { 0.0 }),
        (m::DEVICE_LOAD, report.load),
        (m::STAKE_PER_RESULT, m::ether(stake_per_result)),
        (m::GAS_CAP_DAY, m::ether(cap)),
    ] {
        gauge!(name, "chain" => chain.clone()).set(value);
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Memory of this process that is in RAM; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

//! Posts signed results, settles those whose window has passed, takes the earnings out: everything that costs gas, one transaction at a time.

use super::{
    OperatorSettings, Progress, RelayerError, Rounds, Shared, rounds,
    worker::{HOLD, drop_request, loses_money},
};
use crate::{
    chain::{SendError, Sender, Sent, TIP},
    crash,
    ops::metrics::{GAS_USED, TRANSACTIONS},
    store::{Purpose, RequestRow, Step},
};
use alloy::primitives::{Bytes, U256};
use candor_sdk::{
    bindings::{Answer, Delivery, RequestStatus, Settlement},
    client::{Call, ClientError},
    ids::RequestId,
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Results in one transaction, at most.
const BATCH: u32 = 50;

/// Rows looked at in one round, at most: they carry inputs and outputs, and memory is finite.
const MOST_ROWS: u32 = 500;

/// Bytes of outputs in one transaction, at most, unless one is longer: nodes pass on transactions of up to 128 KiB.
const BATCH_BYTES: usize = 64 * 1024;

/// Gas for callbacks in one transaction, at most, unless one asks for more: the rest of what a transaction may use is for the oracle.
const BATCH_CALLBACK_GAS: u64 = 8_000_000;

/// Longest time for which something that the chain refuses is left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// After how many poll intervals an event that must be there is looked for in blocks that were read before; and how seldom at last.
const SEARCH_AFTER: u32 = 20;
const LONGEST_SEARCH: Duration = Duration::from_secs(600);

/// Time for which a payout that the chain refuses is left alone: the payee does not take money.
const PAYOUT_WAIT: Duration = Duration::from_secs(3600);

/// Gas of a payout, roughly.
const PAYOUT_GAS: u64 = 60_000;

pub(super) async fn run(
    shared: Arc<Shared>,
    operator: Arc<OperatorSettings>,
    sender: Arc<Sender>,
    stake_per_result: U256,
) -> Result<(), RelayerError> {
    let mut poster = Poster {
        shared: shared.clone(),
        operator,
        sender,
        stake_per_result,
        no_stake: false,
        held: HashMap::new(),
        behind: HashMap::new(),
        no_payout_until: None,
    };
    rounds(&shared, Some(&shared.signed), &mut poster).await
}

struct Poster {
    shared: Arc<Shared>,
    operator: Arc<OperatorSettings>,
    sender: Arc<Sender>,
    stake_per_result: U256,
    /// Whether results wait for free stake, and that was said.
    no_stake: bool,
    /// What the chain refuses for now, by purpose and key: left alone until then, twice as long each time.
    held: HashMap<(Purpose, (u64, u32)), Pause>,
    /// Requests with which the chain is further than the events that were read, by what was to be done with them, and key.
    behind: HashMap<(Purpose, (u64, u32)), Behind>,
    no_payout_until: Option<Instant>,
}

struct Behind {
    /// The last time that it was so.
    noticed: Instant,
    /// The newest block when it was noticed first.
    newest: u64,
    /// Until what is missing is looked for.
    search: Pause,
}

/// Something is left alone for a while, and the next time for twice as long.
struct Pause {
    until: Instant,
    next: Duration,
}

impl Pause {
    fn of(wait: Duration) -> Self {
        Self { until: Instant::now() + wait, next: wait * 2 }
    }

    fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }

    /// Another one, no longer than this.
    fn again(&mut self, longest: Duration) {
        *self = Self::of(self.next.min(longest));
    }
}

impl Rounds for Poster {
    const TASK: &'static str = "poster";

    async fn round(&mut self) -> Result<bool, RelayerError> {
        // Those of an earlier run, of an earlier submitter, or of a round that failed half-way: there is one transaction at a time.
        self.sender.recover(&self.shared.rpc).await?;
        let now = self.shared.head.borrow().timestamp;
        if self.shared.store.drop_expired(now).await? > 0 {
            crash::point("expired");
        }
        self.held.retain(|_, held| held.until.elapsed() < 2 * LONGEST_WAIT);
        self.reconcile().await?;
        let mut busy = self.post().await?;
        busy |= self.settle().await?;
        busy |= self.pay_out().await?;
        Ok(busy)
    }
}

impl Poster {
    /// Requests whose transaction has ended: the events say whether it did its work; where the watcher has read beyond its block and there is none,
    /// it did not, and the request is free for another.
    async fn reconcile(&mut self) -> Result<(), RelayerError> {
        self.behind.retain(|_, behind| behind.noticed.elapsed() < 2 * LONGEST_WAIT);
        for (step, key) in self.shared.store.stranded(BATCH).await? {
            let (status, _) = self.shared.rpc.client().status(RequestId(key.0)).await?;
            let (purpose, expected) = match step {
                Step::Posting => (Purpose::Fulfill, RequestStatus::Requested),
                _ => (Purpose::Finalize, RequestStatus::Fulfilled),
            };
            if status == expected {
                self.shared.store.released(key).await?;
                crash::point("released");
            } else {
                self.is_behind(purpose, key).await?;
            }
        }
        Ok(())
    }

    /// The chain has gone on with a request, and the events will say how. If they do not come, an endpoint has left them out: they are looked for in all
    /// blocks since the request was asked.
    async fn is_behind(&mut self, purpose: Purpose, key: (u64, u32)) -> Result<(), RelayerError> {
        let newest = self.shared.head.borrow().number;
        let behind = self.behind.entry((purpose, key)).or_insert_with(|| {
            let search = Pause::of(self.shared.poll_interval * SEARCH_AFTER);
            Behind { noticed: Instant::now(), newest, search }
        });
        behind.noticed = Instant::now();
        if !behind.search.is_over() || self.shared.store.next_block().await? <= behind.newest {
            return Ok(());
        }
        behind.search.again(LONGEST_SEARCH);
        if let Some(block) = self.shared.store.asked_in(key).await? {
            warn!(request = key.0, from = block, "the endpoint has not shown what became of a request; reading again");
            self.shared.store.read_again(block).await?;
            crash::point("read-again");
        }
        Ok(())
    }

    /// How many more rows to ask for, so that those held do not stand in the way of others.
    fn limit(&self) -> u32 {
        BATCH.saturating_add(u32::try_from(self.held.len()).unwrap_or(u32::MAX)).min(MOST_ROWS)
    }

    /// Of these rows as many as fit into one transaction and are not held.
    fn batch(&self, purpose: Purpose, rows: Vec<RequestRow>) -> Vec<RequestRow> {
        let free = |row: &RequestRow| self.held.get(&(purpose, row.key())).is_none_or(Pause::is_over);
        fitting(purpose, rows.into_iter().filter(free))
    }

    /// Posts signed results. True if there were any.
    async fn post(&mut self) -> Result<bool, RelayerError> {
        let head = *self.shared.head.borrow();
        let mut ready = Vec::new();
        for row in self.shared.store.at(Step::Signed, self.limit()).await? {
            if head.timestamp > row.request.deadline {
                drop_request(&self.shared, &row, "expired before it could be posted").await?;
            } else if self.shared.at_a_loss || !loses_money(&row.request, head) {
                ready.push(row);
            } else {
                // Gas has become dearer since the model ran.
                let held = || Pause { next: self.shared.poll_interval, ..Pause::of(HOLD) };
                self.held.entry((Purpose::Fulfill, row.key())).or_insert_with(held);
            }
        }
        let mut ready = self.batch(Purpose::Fulfill, ready);
        if ready.is_empty() {
            return Ok(false);
        }
        ready.truncate(self.backed().await?);
        let client = self.shared.clone();
        let answers = |rows: &[RequestRow]| -> Call {
            let answers = rows.iter().filter_map(|row| {
                Some(Answer {
                    request: row.request.pack(),
                    output: row.output.clone()?,
                    signature: row.signature.clone()?,
                })
            });
            client.rpc.client().fulfill(answers.collect())
        };
        self.send_what_works(Purpose::Fulfill, ready, answers).await
    }

    /// How many more results the free stake backs.
    async fn backed(&mut self) -> Result<usize, RelayerError> {
        let stake = self.shared.rpc.client().stake(self.sender.address());
        let (stake, unbonding, locked) = self.shared.own_time.wait(stake).await?;
        let free = stake.saturating_sub(unbonding).saturating_sub(locked);
        let results = free.checked_div(self.stake_per_result).unwrap_or(U256::MAX).saturating_to::<usize>();
        if results == 0 && !self.no_stake {
            warn!(%stake, %locked, "no free stake: results wait for others to become final, or for more stake (`candor operator join`)");
        }
        self.no_stake = results == 0;
        Ok(results)
    }

    /// Settles results whose window has passed. True if there were any.
    async fn settle(&mut self) -> Result<bool, RelayerError> {
        let now = self.shared.head.borrow().timestamp;
        let ready = self.shared.store.finalizable(now, self.limit()).await?;
        let ready = self.batch(Purpose::Finalize, ready);
        let client = self.shared.clone();
        let settlements = |rows: &[RequestRow]| -> Call {
            let settlements = rows.iter().filter_map(|row| {
                let owed = row.request.delivery == Delivery::Final && row.request.callback_gas_limit > 0;
                let output = if owed { row.output.clone()? } else { Bytes::new() };
                Some(Settlement { request: row.request.pack(), fulfillment: row.fulfillment.clone()?, output })
            });
            client.rpc.client().finalize(settlements.collect())
        };
        self.send_what_works(Purpose::Finalize, ready, settlements).await
    }

    /// Sends a batch. If it is refused as a whole, halves of it, down to the single items that are refused. True if anything was sent.
    async fn send_what_works(
        &mut self,
        purpose: Purpose,
        rows: Vec<RequestRow>,
        call: impl Fn(&[RequestRow]) -> Call,
    ) -> Result<bool, RelayerError> {
        let mut sent_any = false;
        let mut waiting = vec![rows];
        while let Some(mut rows) = waiting.pop() {
            if rows.is_empty() || self.shared.stop.is_cancelled() {
                continue;
            }
            let keys: Vec<_> = rows.iter().map(RequestRow::key).collect();
            match self.sender.send(&self.shared.rpc, purpose, call(&rows), &keys).await {
                Ok(sent) => {
                    self.mined(purpose, rows.len(), sent);
                    sent_any = true;
                }
                // Its requests are free again as soon as the watcher has read that block.
                Err(SendError::Cancelled(_) | SendError::Overtaken(_)) => sent_any = true,
                Err(error) if error.is_of_the_size() && rows.len() > 1 => {
                    let second = rows.split_off(rows.len() / 2);
                    waiting.extend([second, rows]);
                }
                Err(SendError::Client(ClientError::Reverted(reason))) => {
                    self.refused(purpose, &rows[0], &reason.to_string()).await?;
                }
                Err(error @ SendError::TooBig(_)) => self.refused(purpose, &rows[0], &error.to_string()).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent_any)
    }

    fn mined(&self, purpose: Purpose, requests: usize, sent: Sent) {
        crash::point(&format!("{purpose}-recorded"));
        let Sent { hash, block, gas_used, succeeded } = sent;
        info!(%purpose, tx = %hash, block, gas = gas_used, requests, succeeded, "transaction mined");
        let outcome = if succeeded { "mined" } else { "failed" };
        metrics::counter!(TRANSACTIONS, "purpose" => purpose.name(), "outcome" => outcome).increment(1);
        metrics::counter!(GAS_USED, "purpose" => purpose.name()).increment(gas_used);
        let mined = Progress::Mined { purpose: purpose.name(), transaction: hash, gas_used, requests };
        let _ = self.shared.reporter.send(mined);
        if !succeeded {
            warn!(%purpose, tx = %hash, "the transaction reverted; looking at the chain before trying again");
        }
    }

    /// The chain refuses an item, and nothing was sent. Some refusals end by themselves, so it is tried again, less and less often; others are not
    /// held up by it.
    async fn refused(&mut self, purpose: Purpose, row: &RequestRow, reason: &str) -> Result<(), RelayerError> {
        let (status, _) = self.shared.rpc.client().status(row.id()).await?;
        let expected = if purpose == Purpose::Fulfill { RequestStatus::Requested } else { RequestStatus::Fulfilled };
        let known = self.held.contains_key(&(purpose, row.key()));
        if status != expected {
            debug!(request = %row.id(), %purpose, ?status, "the chain is further than this relayer; waiting for its events");
            self.is_behind(purpose, row.key()).await?;
        } else if !known {
            warn!(request = %row.id(), %purpose, %reason, "the chain refuses for now");
        } else {
            debug!(request = %row.id(), %purpose, %reason, "the chain still refuses");
        }
        let first = Pause { next: self.shared.poll_interval, until: Instant::now() };
        self.held.entry((purpose, row.key())).or_insert(first).again(LONGEST_WAIT);
        Ok(())
    }

    /// Takes credit out when there is enough of it, and more than the gas for that costs. True if a transaction was sent.
    async fn pay_out(&mut self) -> Result<bool, RelayerError> {
        let Some((to, threshold)) = self.operator.payout else { return Ok(false) };
        if self.no_payout_until.is_some_and(|until| Instant::now() < until) {
            return Ok(false);
        }
        let client = self.shared.rpc.client();
        let amount = client.credit(self.sender.address()).await?;
        let gas =
            U256::from(self.shared.head.borrow().base_fee).saturating_add(U256::from(TIP)) * U256::from(PAYOUT_GAS);
        if amount < threshold || amount <= gas {
            return Ok(false);
        }
        let call = client.withdraw_credit(to, amount);
        let sent = match self.sender.send(&self.shared.rpc, Purpose::Payout, call, &[]).await {
            Err(SendError::Client(ClientError::Reverted(reason))) => {
                warn!(%amount, %to, %reason, "the payout is refused; is operator.payout.address an account that takes money? The earnings stay in the oracle");
                self.no_payout_until = Some(Instant::now() + PAYOUT_WAIT);
                return Ok(false);
            }
            Err(SendError::Cancelled(_) | SendError::Overtaken(_)) => return Ok(true),
            sent => sent?,
        };
        self.mined(Purpose::Payout, 0, sent);
        if sent.succeeded {
            info!(%amount, %to, tx = %sent.hash, "paid out");
            let _ = self.shared.reporter.send(Progress::PaidOut { amount, transaction: sent.hash });
        } else {
            self.no_payout_until = Some(Instant::now() + PAYOUT_WAIT);
        }
        Ok(true)
    }
}

/// The first rows, as many as fit into one transaction; always at least one.
fn fitting(purpose: Purpose, rows: impl Iterator<Item = RequestRow>) -> Vec<RequestRow> {
    let called = if purpose == Purpose::Fulfill { Delivery::Optimistic } else { Delivery::Final };
    let (mut bytes, mut gas) = (0usize, 0u64);
    rows.take(BATCH as usize)
        .enumerate()
        .take_while(|(index, row)| {
            bytes = bytes.saturating_add(row.output.as_ref().map_or(0, |output| output.len()));
            if row.request.delivery == called {
                gas = gas.saturating_add(row.request.callback_gas_limit.into());
            }
            *index == 0 || (bytes <= BATCH_BYTES && gas <= BATCH_CALLBACK_GAS)
        })
        .map(|(_, row)| row)
        .collect()
}

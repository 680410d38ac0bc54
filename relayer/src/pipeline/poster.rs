//! Posts signed results, settles those whose window has passed, takes the earnings out: everything that costs gas, one transaction at a time.

use super::{OperatorSettings, Progress, RelayerError, Shared, worker::drop_request};
use crate::{
    chain::{SendError, Sender, Sent},
    crash,
    store::{Purpose, RequestRow, Step},
};
use alloy::primitives::{Bytes, U256};
use candor_sdk::{
    bindings::{Answer, Delivery, RequestStatus, Settlement},
    client::{Call, ClientError, Revert},
};
use std::sync::Arc;
use tracing::{info, warn};

/// Results in one transaction, at most.
const BATCH: u32 = 50;

pub(super) async fn run(
    shared: Arc<Shared>,
    operator: Arc<OperatorSettings>,
    sender: Sender,
) -> Result<(), RelayerError> {
    let poster = Poster { shared, operator, sender };
    let mut recovered = false;
    while !poster.shared.stop.is_cancelled() {
        let round = async {
            if !recovered {
                poster.sender.recover(&poster.shared.rpc).await?;
                recovered = true;
            }
            poster.reconcile().await?;
            let mut busy = poster.post().await?;
            busy |= poster.settle().await?;
            busy |= poster.pay_out().await?;
            Ok::<bool, RelayerError>(busy)
        };
        match round.await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) if error.is_retryable() => {
                warn!(%error, "waiting");
                poster.shared.rpc.fail_over();
                tokio::time::sleep(poster.shared.poll_interval).await;
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = poster.shared.signed.notified() => {}
            () = tokio::time::sleep(poster.shared.poll_interval) => {}
            () = poster.shared.stop.cancelled() => {}
        }
    }
    Ok(())
}

struct Poster {
    shared: Arc<Shared>,
    operator: Arc<OperatorSettings>,
    sender: Sender,
}

impl Poster {
    /// Requests whose transaction has ended: the events say whether it did its work; where the watcher has read beyond its block and there is none,
    /// it did not, and the request is free for another.
    async fn reconcile(&self) -> Result<(), RelayerError> {
        let store = &self.shared.store;
        for step in [Step::Posting, Step::Finalizing] {
            for row in store.at(step, u32::MAX).await? {
                if store.in_flight(row.key()).await? {
                    continue;
                }
                let (status, _) = self.shared.rpc.client().status(row.id()).await?;
                let expected = if step == Step::Posting { RequestStatus::Requested } else { RequestStatus::Fulfilled };
                // Another status will arrive as an event.
                if status == expected {
                    store.released(row.key()).await?;
                }
            }
        }
        Ok(())
    }

    /// Posts signed results. True if there were any.
    async fn post(&self) -> Result<bool, RelayerError> {
        let now = self.shared.head.borrow().timestamp;
        let mut ready = Vec::new();
        for row in self.shared.store.at(Step::Signed, BATCH).await? {
            if now > row.request.deadline {
                drop_request(&self.shared, &row, "expired before it could be posted").await?;
            } else {
                ready.push(row);
            }
        }
        let answers = |rows: &[RequestRow]| -> Call {
            let answers = rows.iter().filter_map(|row| {
                Some(Answer {
                    request: row.request.pack(),
                    output: row.output.clone()?,
                    signature: row.signature.clone()?,
                })
            });
            self.shared.rpc.client().fulfill(answers.collect())
        };
        self.send_what_works(Purpose::Fulfill, ready, answers).await
    }

    /// Settles results whose window has passed. True if there were any.
    async fn settle(&self) -> Result<bool, RelayerError> {
        let now = self.shared.head.borrow().timestamp;
        let ready = self.shared.store.finalizable(now, BATCH).await?;
        let settlements = |rows: &[RequestRow]| -> Call {
            let settlements = rows.iter().filter_map(|row| {
                let owed = row.request.delivery == Delivery::Final && row.request.callback_gas_limit > 0;
                let output = if owed { row.output.clone()? } else { Bytes::new() };
                Some(Settlement { request: row.request.pack(), fulfillment: row.fulfillment.clone()?, output })
            });
            self.shared.rpc.client().finalize(settlements.collect())
        };
        self.send_what_works(Purpose::Finalize, ready, settlements).await
    }

    /// Sends a batch. If the chain refuses it as a whole, halves of it, down to the single items that it refuses. True if anything was sent.
    async fn send_what_works(
        &self,
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
                Err(SendError::Client(ClientError::Reverted(reason))) if rows.len() == 1 => {
                    self.refused(purpose, &rows[0], &reason).await?;
                }
                Err(SendError::Client(ClientError::Reverted(_))) => {
                    let second = rows.split_off(rows.len() / 2);
                    waiting.extend([second, rows]);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent_any)
    }

    fn mined(&self, purpose: Purpose, requests: usize, sent: Sent) {
        crash::point(&format!("{purpose}-recorded"));
        let Sent { hash, block, gas_used, succeeded } = sent;
        info!(%purpose, tx = %hash, block, gas = gas_used, requests, succeeded, "transaction mined");
        let mined = Progress::Mined { purpose: purpose.name(), transaction: hash, gas_used, requests };
        let _ = self.shared.reporter.send(mined);
        if !succeeded {
            warn!(%purpose, tx = %hash, "the transaction reverted; looking at the chain before trying again");
        }
    }

    /// The chain refuses an item, and nothing was sent. Some refusals end by themselves (stake that is locked): they are tried again next round.
    async fn refused(&self, purpose: Purpose, row: &RequestRow, reason: &Revert) -> Result<(), RelayerError> {
        let (status, _) = self.shared.rpc.client().status(row.id()).await?;
        let expected = if purpose == Purpose::Fulfill { RequestStatus::Requested } else { RequestStatus::Fulfilled };
        if status == expected {
            warn!(request = %row.id(), %purpose, %reason, "the chain refuses for now");
        } else {
            info!(request = %row.id(), %purpose, ?status, "the chain is further than this relayer; waiting for its events");
        }
        Ok(())
    }

    /// Takes credit out when there is enough of it. True if a transaction was sent.
    async fn pay_out(&self) -> Result<bool, RelayerError> {
        let Some((to, threshold)) = self.operator.payout else { return Ok(false) };
        let client = self.shared.rpc.client();
        let amount = client.credit(self.sender.address()).await?;
        if amount < threshold.max(U256::from(1)) {
            return Ok(false);
        }
        let sent = self.sender.send(&self.shared.rpc, Purpose::Payout, client.withdraw_credit(to, amount), &[]).await?;
        self.mined(Purpose::Payout, 0, sent);
        if sent.succeeded {
            info!(%amount, %to, tx = %sent.hash, "paid out");
            let _ = self.shared.reporter.send(Progress::PaidOut { amount, transaction: sent.hash });
        }
        Ok(true)
    }
}

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
    client::{Call, ClientError},
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
        self.send_each_that_works(Purpose::Fulfill, ready, answers).await
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
        self.send_each_that_works(Purpose::Finalize, ready, settlements).await
    }

    /// Sends a batch; if the chain refuses it as a whole, finds the items at fault by simulating each alone, and sends the others.
    async fn send_each_that_works(
        &self,
        purpose: Purpose,
        mut rows: Vec<RequestRow>,
        call: impl Fn(&[RequestRow]) -> Call,
    ) -> Result<bool, RelayerError> {
        if rows.is_empty() {
            return Ok(false);
        }
        let keys = |rows: &[RequestRow]| rows.iter().map(RequestRow::key).collect::<Vec<_>>();
        match self.sender.send(&self.shared.rpc, purpose, call(&rows), &keys(&rows)).await {
            Err(SendError::Client(ClientError::Reverted(reason))) if rows.len() == 1 => {
                self.refused(purpose, &rows[0], &reason.to_string()).await?;
                return Ok(true);
            }
            Err(SendError::Client(ClientError::Reverted(_))) => {}
            outcome => return self.mined(purpose, rows.len(), outcome?).await,
        }
        let mut good = Vec::new();
        for row in rows.drain(..) {
            let alone = call(std::slice::from_ref(&row));
            match self.shared.rpc.client().simulate(self.sender.address(), alone).await {
                Ok(_) => good.push(row),
                Err(ClientError::Reverted(reason)) => self.refused(purpose, &row, &reason.to_string()).await?,
                Err(error) => return Err(error.into()),
            }
        }
        if good.is_empty() {
            return Ok(true);
        }
        let outcome = self.sender.send(&self.shared.rpc, purpose, call(&good), &keys(&good)).await;
        self.mined(purpose, good.len(), outcome?).await
    }

    async fn mined(&self, purpose: Purpose, requests: usize, sent: Sent) -> Result<bool, RelayerError> {
        crash::point(&format!("{purpose}-recorded"));
        info!(%purpose, tx = %sent.hash, block = sent.block, gas = sent.gas_used, requests, succeeded = sent.succeeded, "transaction mined");
        let _ = self.shared.reporter.send(Progress::Mined {
            purpose: purpose.name(),
            transaction: sent.hash,
            gas_used: sent.gas_used,
            requests,
        });
        if !sent.succeeded {
            warn!(%purpose, tx = %sent.hash, "the transaction reverted; looking at the chain before trying again");
        }
        Ok(true)
    }

    /// The chain refuses an item. Some refusals end by themselves (stake that is locked, a window still open): those wait.
    async fn refused(&self, purpose: Purpose, row: &RequestRow, reason: &str) -> Result<(), RelayerError> {
        let (status, _) = self.shared.rpc.client().status(row.id()).await?;
        let expected = if purpose == Purpose::Fulfill { RequestStatus::Requested } else { RequestStatus::Fulfilled };
        if status == expected {
            warn!(request = %row.id(), %purpose, reason, "the chain refuses for now");
        } else {
            info!(request = %row.id(), %purpose, ?status, "the chain is further than this relayer; waiting for its events");
        }
        // Either way nothing was sent; a pause keeps the refusal from being asked for again at once.
        tokio::time::sleep(self.shared.poll_interval).await;
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
        if sent.succeeded {
            info!(%amount, %to, tx = %sent.hash, "paid out");
            let _ = self.shared.reporter.send(Progress::PaidOut { amount, transaction: sent.hash });
        }
        Ok(true)
    }
}

//! What takes the place of a transaction that does not get mined: a dearer one, the same again after a reorganisation, or one that does nothing.

use super::{SendError, Sender};
use crate::{
    chain::{Rpc, sender::TIP},
    crash,
    ops::metrics::TRANSACTIONS_REPLACED,
    store::{Purpose, SentTransaction, StoreError},
};
use alloy::{
    consensus::{TxEip1559, TxEnvelope},
    primitives::{Bytes, TxKind, U256},
    providers::Provider,
    rpc::types::TransactionRequest,
};
use candor_sdk::{
    bindings::RequestStatus,
    client::{Call, ClientError},
    ids::RequestId,
};
use tracing::{debug, error, warn};

/// Gas to read a word of a contract's state that was not read before (EIP-2929): whatever is called here does that before it refuses.
const COLD_READ: u64 = 2_100;

impl Sender {
    /// Sends again what the chain waits for, that has used the nonces below `used`: this nonce's transaction, or the first of a gap before it. It may have been
    /// made for a chain that is gone, as everything in a gap was. So it is looked at on the chain as it is when its turn comes, and where nothing is left to do
    /// for it, nothing is what is sent. So it is for a nonce that is not this relayer's, where it is `hopeless` to wait for whose it was.
    pub(super) async fn send_again(&self, rpc: &Rpc, used: u64, nonce: u64, hopeless: bool) -> Result<(), SendError> {
        self.reopen(used, nonce).await?;
        let open = self.store.unresolved().await?;
        let dearest = |nonce: u64| open.iter().rfind(|sent| sent.nonce == nonce);
        // What comes after the gap nodes have already, and mine as soon as there is none: it is looked at before that, though what it builds on may be in the
        // gap. Then nothing is sent where something would have done, and what it carried is free for another.
        let next = dearest(used + 1).filter(|next| next.nonce >= nonce);
        for sent in next.into_iter().chain(dearest(used)) {
            if !self.cancel(rpc, sent).await? {
                self.broadcast(rpc.client(), sent).await;
            }
        }
        if hopeless && dearest(used).is_none() { self.fill(rpc, used).await } else { Ok(()) }
    }

    /// Uses up a nonce that nothing is known to use: what did was another program's, or is not in this database, and a reorganisation took it back.
    async fn fill(&self, rpc: &Rpc, nonce: u64) -> Result<(), SendError> {
        let base_fee = rpc.head().await?.base_fee;
        let fee = self.fee(base_fee, TIP)?;
        let gas_limit = self.gas_of_nothing(rpc).await?;
        self.check_funds(rpc.client(), U256::from(gas_limit) * U256::from(fee)).await?;
        let nothing = TxEip1559 {
            chain_id: rpc.chain_id(),
            nonce,
            gas_limit,
            max_fee_per_gas: fee,
            max_priority_fee_per_gas: TIP.min(fee),
            to: TxKind::Call(self.address()),
            ..Default::default()
        };
        let sent = self.sign(Purpose::Cancel, nothing).await?;
        self.store.sending(&sent, &[]).await?;
        crash::point("cancel-stored");
        warn!(nonce, tx = %sent.hash, "a reorganisation took back what another program had sent, and nobody sends it again: a transaction that does nothing takes its nonce");
        self.broadcast(rpc.client(), &sent).await;
        crash::point("cancel-sent");
        Ok(())
    }

    async fn gas_of_nothing(&self, rpc: &Rpc) -> Result<u64, ClientError> {
        let nothing = TransactionRequest::default().from(self.address()).to(self.address());
        Ok(rpc.client().provider().estimate_gas(nothing).await?)
    }

    /// A reorganisation may have taken back what had used the nonces before this one. No transaction of a later nonce is mined before they are used again.
    async fn reopen(&self, used: u64, nonce: u64) -> Result<(), StoreError> {
        let reopened = if used < nonce { self.store.reopened(used, nonce).await? } else { 0 };
        if reopened > 0 {
            crash::point("reopened");
            warn!(from = used, before = nonce, "a reorganisation took transactions back; sending them again");
        }
        Ok(())
    }

    /// Replaces a transaction by a dearer one, stored before it is sent: by so many percent, or as much as the next block may ask for. At the limit it stays as
    /// it is. Where there is nothing left for it to do, by one that does nothing and costs less.
    pub(super) async fn replace(&self, rpc: &Rpc, last: &SentTransaction) -> Result<(), SendError> {
        let limit = self.limits.max_fee_per_gas;
        if self.more(last.max_fee) > limit {
            match self.due.left() {
                Some(left) => {
                    error!(tx = %last.hash, ?left, "a dispute waits for this transaction, it is still not mined, and at the fee limit: raise it ([gas] max_fee_per_gas)")
                }
                None => warn!(tx = %last.hash, "still not mined, and at the fee limit ([gas] max_fee_per_gas)"),
            }
            return Ok(());
        }
        if self.cancel(rpc, last).await? {
            return Ok(());
        }
        let (_, dearer, _) = self.dearer(rpc, last).await?;
        let sent = self.sign(last.purpose, dearer).await?;
        self.put_in_place(rpc, last, sent, "bump").await
    }

    /// Replaces a transaction by one that does nothing, if nothing is left for it to do. True if it has.
    async fn cancel(&self, rpc: &Rpc, last: &SentTransaction) -> Result<bool, SendError> {
        if last.purpose == Purpose::Cancel {
            return Ok(false);
        }
        let (old, dearer, base_fee) = self.dearer(rpc, last).await?;
        let Some(nothing) = self.instead(rpc, last, &old, &dearer, base_fee).await else { return Ok(false) };
        let sent = self.sign(Purpose::Cancel, nothing).await?;
        warn!(old = %last.hash, new = %sent.hash, nonce = sent.nonce, max_fee = sent.max_fee, "nothing is left for it to do: replaced by a transaction that does nothing");
        self.put_in_place(rpc, last, sent, "cancel").await?;
        Ok(true)
    }

    async fn put_in_place(
        &self,
        rpc: &Rpc,
        last: &SentTransaction,
        sent: SentTransaction,
        what: &str,
    ) -> Result<(), SendError> {
        self.store.sending(&sent, &[]).await?;
        crash::point(&format!("{what}-stored"));
        metrics::counter!(TRANSACTIONS_REPLACED).increment(1);
        if sent.purpose == last.purpose {
            warn!(old = %last.hash, new = %sent.hash, max_fee = sent.max_fee, "not mined in time; replaced by a dearer transaction");
        }
        self.broadcast(rpc.client(), &sent).await;
        crash::point(&format!("{what}-sent"));
        Ok(())
    }

    /// What a node takes in place of what costs so much.
    fn more(&self, fee: u128) -> u128 {
        fee.saturating_add(fee.saturating_mul(self.limits.bump_percent.into()) / 100).saturating_add(1)
    }

    /// A transaction that was sent, the same with a higher fee, up to the limit, and what the next block burns; nothing where no endpoint says it.
    async fn dearer(&self, rpc: &Rpc, last: &SentTransaction) -> Result<(TxEip1559, TxEip1559, u128), SendError> {
        let old = <TxEnvelope as alloy::eips::eip2718::Decodable2718>::decode_2718_exact(&last.raw)
            .ok()
            .and_then(|envelope| envelope.as_eip1559().map(|signed| signed.tx().clone()))
            .ok_or_else(|| StoreError::Damaged(format!("transaction {}", last.hash)))?;
        let (limit, tip) = (self.limits.max_fee_per_gas, self.more(old.max_priority_fee_per_gas));
        let base_fee = rpc.head().await.map_or(0, |head| head.base_fee);
        // No block takes it while they ask for more than the limit.
        let asked = if base_fee < limit { base_fee.saturating_mul(2).saturating_add(tip) } else { 0 };
        let fee = self.more(last.max_fee).max(asked).min(limit);
        let dearer = TxEip1559 { max_fee_per_gas: fee, max_priority_fee_per_gas: tip.min(fee), ..old.clone() };
        Ok((old, dearer, base_fee))
    }

    /// A transaction that does nothing, if there is nothing left to do for the `old` one and it would cost more, reverting or not.
    async fn instead(
        &self,
        rpc: &Rpc,
        last: &SentTransaction,
        old: &TxEip1559,
        dearer: &TxEip1559,
        base_fee: u128,
    ) -> Option<TxEip1559> {
        if !self.is_pointless(rpc, last, old).await {
            return None;
        }
        let gas = self.gas_of_nothing(rpc).await.ok()?;
        let price = |tx: &TxEip1559| base_fee.saturating_add(tx.max_priority_fee_per_gas).min(tx.max_fee_per_gas);
        let cost = |gas: u64, tx: &TxEip1559| U256::from(gas) * U256::from(price(tx));
        (cost(gas, dearer) < cost(at_least(&old.input) + COLD_READ, old)).then(|| TxEip1559 {
            to: TxKind::Call(self.address()),
            value: U256::ZERO,
            input: Bytes::new(),
            gas_limit: gas,
            ..dearer.clone()
        })
    }

    /// Whether the chain has gone on without a transaction: it would revert now, or the contract would skip everything in it. In doubt it has not.
    async fn is_pointless(&self, rpc: &Rpc, sent: &SentTransaction, old: &TxEip1559) -> bool {
        let (client, TxKind::Call(to)) = (rpc.client(), old.to) else { return false };
        let call = Call { to, value: old.value, data: old.input.clone() };
        if let Err(ClientError::Reverted(reason)) = client.rehearse(self.address(), call).await {
            debug!(tx = %sent.hash, %reason, "the transaction would revert now");
            return true;
        }
        let expected = match sent.purpose {
            Purpose::Fulfill => RequestStatus::Requested,
            Purpose::Finalize => RequestStatus::Fulfilled,
            Purpose::Payout | Purpose::Dispute | Purpose::Cancel => return false,
        };
        let Ok(carried) = self.store.carried_by(sent.nonce).await else { return false };
        for (id, _) in &carried {
            match client.status(RequestId(*id)).await {
                Ok((status, _)) if status != expected => {}
                _ => return false,
            }
        }
        !carried.is_empty()
    }
}

/// The least gas that a transaction with this input uses, whatever becomes of it (EIP-2028).
fn at_least(input: &[u8]) -> u64 {
    21_000 + input.iter().map(|byte| if *byte == 0 { 4 } else { 16 }).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_a_transaction_costs_is_by_its_input() {
        assert_eq!(at_least(&[]), 21_000);
        assert_eq!(at_least(&[0, 0, 7]), 21_000 + 4 + 4 + 16);
    }
}

//! Owns the account: nobody else signs transactions with its key.
//!
//! One transaction at a time is in flight, with as many results in it as fit. It is stored signed before it is sent, and tracked until the chain says
//! that its nonce is used. After a restart the same bytes are sent again, so nothing is ever sent twice under two nonces. What a transaction *did* is
//! never concluded from an RPC's word: the watcher reads it from the events.

mod replace;

use super::{Rpc, RpcClient, due::Due};
use crate::{
    complaints::Complaints,
    crash,
    keys::{SignError, SigningKey},
    ops::metrics::{GAS_USED, TRANSACTIONS},
    own_time::OwnTime,
    store::{Purpose, SentTransaction, Store, StoreError, TransactionState},
};
use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    primitives::{Address, B256, TxKind, U256},
    providers::Provider,
};
use candor_sdk::client::{Call, ClientError, RpcFailure};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};
use tracing::{debug, info, warn};

/// Limits on what transactions may cost.
#[derive(Debug, Clone, Copy)]
pub struct GasLimits {
    /// Wei per gas, at most.
    pub max_fee_per_gas: u128,
    /// Wei for all gas in 24 hours, at most.
    pub max_daily_spend: U256,
    /// Time after which a transaction that is not mined is replaced by one that pays more.
    pub bump_after: Duration,
    /// How much more, in percent. Nodes refuse less than 10.
    pub bump_percent: u32,
    /// Whether to answer also what brings less than its gas costs.
    pub at_a_loss: bool,
}

/// A transaction that is in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Its hash.
    pub hash: B256,
    /// Its block.
    pub block: u64,
    /// Gas it used.
    pub gas_used: u64,
    /// Whether it succeeded.
    pub succeeded: bool,
}

/// Why a call was not sent, or its outcome is open.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The contract or the endpoint refused; nothing was sent.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Gas is dearer than the limit; nothing was sent.
    #[error("gas costs {base_fee} wei now and the limit is {limit} wei ([gas] max_fee_per_gas)")]
    TooDear {
        /// Base fee now.
        base_fee: u128,
        /// The limit.
        limit: u128,
    },
    /// The day's allowance is used up; nothing was sent.
    #[error(
        "{spent} wei were spent on gas in the last 24 hours and this would go over the limit of {limit} wei ([gas] daily_cap)"
    )]
    OverBudget {
        /// Spent.
        spent: U256,
        /// The limit.
        limit: U256,
    },
    /// No transaction has room for it; nothing was sent.
    #[error("the transaction is too big: {0}")]
    TooBig(String),
    /// The account can't pay; nothing was sent.
    #[error("the account {account} holds {balance} wei and the transaction may cost {needed} wei: send it some")]
    Poor {
        /// The account.
        account: Address,
        /// What it holds.
        balance: U256,
        /// What is needed.
        needed: U256,
    },
    /// A transaction was stuck until nothing was left for it to do, and another one that does nothing took its nonce. What it carried is free again.
    #[error(
        "nonce {0} was used up by a transaction that does nothing: there was nothing left to do for the one before"
    )]
    Cancelled(u64),
    /// The nonce had been used before by a transaction of this relayer. A reorganisation took that back, so that the nonce was free, and then it was mined
    /// again. What this one carried is free again unless that one did it.
    #[error("nonce {0} was used, again, by a transaction that a reorganisation had taken back")]
    Overtaken(u64),
    /// The nonce was used by a transaction that this relayer did not send.
    #[error("nonce {0} was used by a transaction that is not this relayer's: another program uses the key")]
    NonceTaken(u64),
    /// The key can't sign.
    #[error(transparent)]
    Signer(#[from] SignError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SendError {
    /// Whether the endpoint is to blame, so that another may do better.
    pub fn is_of_the_endpoint(&self) -> bool {
        matches!(self, Self::Client(error) if error.is_retryable())
    }

    /// Whether less of the same may go through.
    pub fn is_of_the_size(&self) -> bool {
        match self {
            Self::TooBig(_) | Self::OverBudget { .. } | Self::Poor { .. } => true,
            Self::Client(error) => matches!(error, ClientError::Reverted(_)),
            _ => false,
        }
    }

    /// A simulation that failed for want of room. Nodes say it in words only.
    fn of_simulation(error: ClientError) -> Self {
        const WORDS: [&str; 6] = [
            "gas required exceeds",
            "out of gas",
            "block gas limit",
            "gas limit too high",
            "intrinsic gas",
            "oversized data",
        ];
        match &error {
            ClientError::Rpc(failure)
                if failure.code.is_some()
                    && WORDS.iter().any(|words| failure.message.to_lowercase().contains(words)) =>
            {
                Self::TooBig(failure.message.clone())
            }
            _ => Self::Client(error),
        }
    }
}

/// The account and its transactions.
#[derive(Debug)]
pub struct Sender {
    store: Store,
    account: SigningKey,
    limits: GasLimits,
    poll_interval: Duration,
    /// One transaction at a time, whoever asks for it; first come, first served.
    turn: Mutex<()>,
    /// The highest block in which a transaction of this account was seen.
    last_block: AtomicU64,
    /// Until when what is sent, or waits for its turn, has to be in a block.
    due: Due,
    own_time: Arc<OwnTime>,
}

/// The EIP-1559 tip in wei, at most: relayers do not race for positions in a block. Where blocks are cheaper, what the endpoint suggests is enough.
pub(crate) const TIP: u128 = 1_000_000_000;

/// Part of the estimated gas that is added: the state may differ a little when the transaction runs.
const GAS_MARGIN: u64 = 5;

/// Bytes of a transaction, at most: nodes pass on no larger ones, and would refuse it for ever.
const MAX_BYTES: usize = 128 * 1024;

/// Part of the time left for which a transaction with a deadline is left as it is before it is replaced by a dearer one. So it is replaced ever more often as
/// the deadline comes near: at 15 % each, to 6 times as much by when a tenth of the time is left, and to 34 times by when a hundredth is.
const PATIENCE: u32 = 6;

/// Longest time between two looks at a transaction while no endpoint answers.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What one transaction may use at most (EIP-7825). A node refuses more, and a transaction that is always refused would hold up all others.
const MAX_GAS: u64 = 1 << 24;

impl Sender {
    /// Takes over an account.
    pub(crate) fn new(
        store: Store,
        account: SigningKey,
        limits: GasLimits,
        poll_interval: Duration,
        own_time: Arc<OwnTime>,
    ) -> Self {
        let last_block = AtomicU64::new(0);
        Self {
            store,
            account,
            limits,
            poll_interval,
            turn: Mutex::default(),
            last_block,
            due: Due::default(),
            own_time,
        }
    }

    /// The account.
    pub fn address(&self) -> Address {
        self.account.address()
    }

    /// The highest block that a transaction of this run, or one that it took up, is in. Whoever decides by what the chain shows has to have read it.
    pub fn last_block(&self) -> u64 {
        self.last_block.load(Ordering::Relaxed)
    }

    /// Brings transactions of an earlier run to their end. Call before the first `send`.
    pub async fn recover(&self, rpc: &Rpc) -> Result<Vec<Sent>, SendError> {
        let _turn = self.turn.lock().await;
        self.take_up(rpc).await
    }

    /// The same for whoever waits for what is sent for one purpose only: true if nothing of that is open any more. What somebody else follows at this
    /// moment may be of an earlier run, so it is not enough that somebody does.
    pub async fn recover_of(&self, rpc: &Rpc, purpose: Purpose) -> Result<bool, SendError> {
        if let Ok(_turn) = self.turn.try_lock() {
            self.take_up(rpc).await?;
            return Ok(true);
        }
        Ok(!self.store.unresolved().await?.iter().any(|sent| sent.purpose == purpose))
    }

    async fn take_up(&self, rpc: &Rpc) -> Result<Vec<Sent>, SendError> {
        let mut ended = Vec::new();
        while let Some(sent) = self.store.unresolved().await?.into_iter().next() {
            info!(purpose = %sent.purpose, nonce = sent.nonce, tx = %sent.hash, "taking up a transaction whose outcome is open");
            match self.track(rpc, sent.nonce).await {
                Ok(sent) => ended.push(sent),
                Err(SendError::NonceTaken(nonce)) => warn!(nonce, "the nonce was used by another transaction"),
                Err(SendError::Cancelled(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    /// Simulates, stores, sends and follows a call until it is in a block.
    pub async fn send(
        &self,
        rpc: &Rpc,
        purpose: Purpose,
        call: Call,
        requests: &[(u64, u32)],
    ) -> Result<Sent, SendError> {
        self.send_by(rpc, purpose, call, requests, None).await
    }

    /// The same for what is of use only until some time. As that comes near, it and whatever of this account stands before it are replaced by dearer
    /// transactions ever more often, up to the limit.
    pub async fn send_by(
        &self,
        rpc: &Rpc,
        purpose: Purpose,
        call: Call,
        requests: &[(u64, u32)],
        until: Option<Instant>,
    ) -> Result<Sent, SendError> {
        let _due = until.map(|until| self.due.add(until));
        let _turn = self.own_time.wait(self.turn.lock()).await;
        let client = rpc.client();
        // Before the simulation, in which nodes find all sorts of words for it.
        self.check_balance(client, call.value).await?;
        let gas = self.own_time.wait(client.simulate(self.address(), call.clone())).await;
        let gas_limit = with_margin(gas.map_err(SendError::of_simulation)?)?;
        let head = self.own_time.wait(rpc.head()).await?;
        let tip = self.own_time.wait(client.provider().get_max_priority_fee_per_gas().into_future()).await;
        let tip = tip.map_or(TIP, |suggested| suggested.clamp(1, TIP));
        let fee = self.fee(head.base_fee, tip)?;
        self.check_funds(client, U256::from(gas_limit) * U256::from(fee) + call.value).await?;
        let nonce = self.own_time.wait(client.provider().get_transaction_count(self.address()).into_future()).await;
        let nonce = nonce.map_err(ClientError::from)?;
        let transaction = TxEip1559 {
            chain_id: client.chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: fee,
            max_priority_fee_per_gas: tip.min(fee),
            to: TxKind::Call(call.to),
            value: call.value,
            input: call.data,
            ..Default::default()
        };
        let sent = self.sign(purpose, transaction).await?;
        check_size(sent.raw.len())?;
        let earlier = self.store.sending(&sent, requests).await?;
        crash::point(&format!("{purpose}-stored"));
        self.own_time.sent(requests);
        let _chain = self.own_time.waiting();
        self.broadcast(client, &sent).await;
        crash::point(&format!("{purpose}-sent"));
        match self.track(rpc, nonce).await {
            Ok(mined) if earlier.contains(&mined.hash) => {
                info!(nonce, tx = %mined.hash, "a transaction that a reorganisation had taken back is in a block again");
                Err(SendError::Overtaken(nonce))
            }
            outcome => outcome,
        }
    }

    /// Wei per gas to offer: room for the base fee to double, within the limit.
    fn fee(&self, base_fee: u128, tip: u128) -> Result<u128, SendError> {
        let limit = self.limits.max_fee_per_gas;
        if base_fee + 1 > limit {
            return Err(SendError::TooDear { base_fee, limit });
        }
        Ok((2 * base_fee + tip).min(limit))
    }

    async fn check_balance(&self, client: &RpcClient, needed: U256) -> Result<(), SendError> {
        if needed.is_zero() {
            return Ok(());
        }
        let balance = self.own_time.wait(client.provider().get_balance(self.address()).into_future()).await;
        let balance = balance.map_err(ClientError::from)?;
        if balance < needed {
            return Err(SendError::Poor { account: self.address(), balance, needed });
        }
        Ok(())
    }

    // INVARIANT: money is checked before anything is signed.
    async fn check_funds(&self, client: &RpcClient, needed: U256) -> Result<(), SendError> {
        self.check_balance(client, needed).await?;
        let spent = self.store.spent_in_a_day().await?;
        if spent.saturating_add(needed) > self.limits.max_daily_spend {
            return Err(SendError::OverBudget { spent, limit: self.limits.max_daily_spend });
        }
        Ok(())
    }

    async fn sign(&self, purpose: Purpose, mut transaction: TxEip1559) -> Result<SentTransaction, SendError> {
        let (nonce, max_fee, gas_limit) = (transaction.nonce, transaction.max_fee_per_gas, transaction.gas_limit);
        let signature = self.account.sign_transaction(&mut transaction).await?;
        let envelope: TxEnvelope = transaction.into_signed(signature).into();
        let (hash, raw) = (*envelope.tx_hash(), envelope.encoded_2718().into());
        Ok(SentTransaction { hash, nonce, purpose, raw, max_fee, gas_limit })
    }

    /// Sends stored bytes. Whatever the endpoint answers, the chain decides: an error here may hide a transaction that arrived.
    async fn broadcast(&self, client: &RpcClient, sent: &SentTransaction) {
        if let Err(error) = client.provider().send_raw_transaction(&sent.raw).await {
            let error = error.to_string();
            // Said again and again of what is sent again and again.
            if error.contains("already known") || error.contains("already imported") {
                debug!(tx = %sent.hash, nonce = sent.nonce, "the endpoint has the transaction");
            } else {
                warn!(tx = %sent.hash, nonce = sent.nonce, error = RpcFailure::new(&error).message, "the endpoint did not take the transaction; watching whether it arrived");
            }
        }
    }

    /// Follows all transactions of a nonce until one of them is in a block, sending them again and replacing them by dearer ones as time passes.
    async fn track(&self, rpc: &Rpc, nonce: u64) -> Result<Sent, SendError> {
        let mut since = Instant::now();
        let mut resend = Instant::now();
        let mut used_since = None;
        // In a gap of nonces, the one that was filled last.
        let mut filled = None;
        let mut complaints = Complaints::default();
        let mut wait = self.poll_interval;
        loop {
            let endpoint = rpc.current();
            let (all, others): (Vec<_>, Vec<_>) =
                self.store.unresolved().await?.into_iter().partition(|sent| sent.nonce == nonce);
            let outcome = self.outcome(rpc, &all, nonce).await;
            if outcome.is_ok() {
                wait = self.poll_interval;
            }
            match outcome {
                Ok(Outcome::Mined(sent, Purpose::Cancel)) => {
                    info!(tx = %sent.hash, nonce, block = sent.block, gas = sent.gas_used, "cancelled: the nonce is used up");
                    metrics::counter!(TRANSACTIONS, "purpose" => Purpose::Cancel.name(), "outcome" => "mined")
                        .increment(1);
                    metrics::counter!(GAS_USED, "purpose" => Purpose::Cancel.name()).increment(sent.gas_used);
                    return Err(SendError::Cancelled(nonce));
                }
                Ok(Outcome::Mined(sent, _)) => return Ok(sent),
                // The nonce is used, but by none of ours as far as this endpoint knows. It may not have indexed the receipt yet: give it time.
                Ok(Outcome::NonceUsed) => {
                    let first = *used_since.get_or_insert_with(Instant::now);
                    if first.elapsed() > Duration::from_secs(15) {
                        self.store.resolved(nonce, None).await?;
                        crash::point("nonce-taken");
                        return Err(SendError::NonceTaken(nonce));
                    }
                }
                Ok(Outcome::Open { used }) => {
                    used_since = None;
                    let before = before(&others, used, nonce);
                    if since.elapsed() > self.patience()
                        && let Some(next) = holding_up(&before, &all)
                    {
                        since = Instant::now();
                        if next.nonce == used {
                            self.replace(rpc, next).await?;
                        } else {
                            self.send_again(rpc, used, nonce, true).await?;
                        }
                    } else if resend.elapsed() > self.poll_interval * 5 || filled.is_some_and(|filled| used > filled) {
                        resend = Instant::now();
                        filled = (used < nonce).then_some(used);
                        self.send_again(rpc, used, nonce, false).await?;
                    }
                }
                Err(error) if error.is_of_the_endpoint() => {
                    if complaints.is_news(&error.to_string()) {
                        warn!(%error, nonce, "can't see the transaction's outcome; trying again");
                    }
                    rpc.fail_over(endpoint).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn outcome(&self, rpc: &Rpc, all: &[SentTransaction], nonce: u64) -> Result<Outcome, SendError> {
        let provider = rpc.client().provider();
        for sent in all {
            let Some(receipt) = provider.get_transaction_receipt(sent.hash).await.map_err(ClientError::from)? else {
                continue;
            };
            let Some(block) = receipt.block_number else { continue };
            let state = if receipt.status() { TransactionState::Mined } else { TransactionState::Failed };
            let cost = U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price);
            crash::point(&format!("{}-mined", sent.purpose));
            // First this: whoever finds nothing open in the store goes by it.
            self.last_block.fetch_max(block, Ordering::Relaxed);
            self.store.resolved(nonce, Some((sent.hash, state, block, receipt.gas_used, cost))).await?;
            let (hash, gas_used, succeeded) = (sent.hash, receipt.gas_used, receipt.status());
            return Ok(Outcome::Mined(Sent { hash, block, gas_used, succeeded }, sent.purpose));
        }
        let used = provider.get_transaction_count(self.address()).await.map_err(ClientError::from)?;
        Ok(if used > nonce { Outcome::NonceUsed } else { Outcome::Open { used } })
    }

    /// How long a transaction that is not mined is left as it is.
    fn patience(&self) -> Duration {
        let usual = self.limits.bump_after;
        self.due.left().map_or(usual, |left| usual.min((left / PATIENCE).max(self.poll_interval)))
    }
}

enum Outcome {
    Mined(Sent, Purpose),
    NonceUsed,
    /// None of it is in a block; the chain has used the nonces below this one.
    Open {
        used: u64,
    },
}

/// Of the transactions in flight those that have to be mined before this nonce is, when the chain has used the nonces below `used`. Others of lower nonces
/// are done, and only not looked at yet.
fn before(sent: &[SentTransaction], used: u64, nonce: u64) -> Vec<&SentTransaction> {
    sent.iter().filter(|sent| (used..nonce).contains(&sent.nonce)).collect()
}

/// What holds a nonce up, of what is `before` it and `all` of its own: what comes first, and of that the dearest.
fn holding_up<'a>(before: &[&'a SentTransaction], all: &'a [SentTransaction]) -> Option<&'a SentTransaction> {
    let line = before.iter().copied().chain(all);
    let first = line.clone().next()?.nonce;
    line.take_while(|sent| sent.nonce == first).last()
}

/// Gas limit for a call that would use `gas` now.
fn with_margin(gas: u64) -> Result<u64, SendError> {
    if gas > MAX_GAS {
        return Err(SendError::TooBig(format!("it needs {gas} gas, a transaction has at most {MAX_GAS}")));
    }
    Ok((gas + gas / GAS_MARGIN).min(MAX_GAS))
}

/// Refuses what no node would pass on.
fn check_size(bytes: usize) -> Result<(), SendError> {
    if bytes > MAX_BYTES {
        return Err(SendError::TooBig(format!("it has {bytes} bytes, a transaction has at most {MAX_BYTES}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::Bytes;

    #[test]
    fn no_transaction_is_made_that_nodes_refuse_for_its_gas_or_size() {
        assert_eq!(with_margin(100_000).unwrap(), 120_000);
        assert_eq!(with_margin(MAX_GAS - 1).unwrap(), MAX_GAS);
        assert_eq!(with_margin(MAX_GAS).unwrap(), MAX_GAS);
        for gas in [MAX_GAS + 1, u64::MAX] {
            assert!(with_margin(gas).unwrap_err().is_of_the_size());
        }
        assert!(check_size(MAX_BYTES).is_ok());
        assert!(check_size(MAX_BYTES + 1).unwrap_err().is_of_the_size());
    }

    /// In a gap it is the first transaction that has to become dearer. As soon as it is mined it is this one, even if nobody has written that down.
    #[test]
    fn what_holds_a_transaction_up_is_what_the_chain_waits_for() {
        let sent = |nonce, max_fee| SentTransaction {
            hash: B256::random(),
            nonce,
            purpose: Purpose::Fulfill,
            raw: Bytes::new(),
            max_fee,
            gas_limit: 21_000,
        };
        let (others, all) = ([sent(5, 10), sent(5, 12), sent(6, 10), sent(8, 10)], [sent(7, 10), sent(7, 12)]);
        for (used, in_the_way, dearest) in [(5, 3, &others[1]), (6, 1, &others[2]), (7, 0, &all[1]), (4, 3, &others[1])]
        {
            let before = before(&others, used, 7);
            assert_eq!(before.len(), in_the_way, "the chain is at {used}");
            assert_eq!(holding_up(&before, &all), Some(dearest), "the chain is at {used}");
        }
        assert_eq!(holding_up(&[], &[]), None);
    }

    #[test]
    fn what_does_not_fit_is_told_from_what_an_endpoint_does_wrong() {
        let error = |code, message: &str| ClientError::Rpc(RpcFailure { code, message: message.to_owned() });
        for message in
            ["gas required exceeds allowance (30000000)", "Out of gas: gas required exceeds", "exceeds block gas limit"]
        {
            let error = SendError::of_simulation(error(Some(-32000), message));
            assert!(error.is_of_the_size() && !error.is_of_the_endpoint(), "{error}");
        }
        let budget = SendError::OverBudget { spent: U256::ZERO, limit: U256::ZERO };
        assert!(
            budget.is_of_the_size() && !budget.is_of_the_endpoint(),
            "a smaller batch may be within the day's limit"
        );
        for (code, message) in [(None, "connection refused"), (Some(-32603), "internal error")] {
            let error = SendError::of_simulation(error(code, message));
            assert!(error.is_of_the_endpoint() && !error.is_of_the_size(), "{error}");
        }
    }
}

//! Reads the oracle's events in ranges of blocks, into the store.
//!
//! No subscription is trusted: a range is asked for, with an overlap over what was already read, and stored together with the cursor. A hash that
//! changed under the cursor is a reorganisation: the store forgets the blocks that are gone and the range is read again.

use super::{Head, Rpc};
use crate::{
    crash,
    store::{BlockRange, REMEMBERED_BLOCKS, Store, StoreError},
};
use alloy::primitives::Address;
use candor_sdk::{
    bindings::IInferenceOracle::IInferenceOracleEvents as Event,
    client::{ClientError, OracleLog},
};
use std::time::Duration;
use tracing::{debug, warn};

/// How blocks are read.
#[derive(Debug, Clone, Copy)]
pub struct WatchSettings {
    /// Blocks on top of a block before its events count; 0: at once.
    pub confirmations: u64,
    /// Time between two looks at the chain.
    pub poll_interval: Duration,
    /// Blocks asked for at once, at most.
    pub max_block_range: u64,
    /// Blocks read again each time, for endpoints whose newest blocks show their logs late.
    pub overlap: u64,
}

/// What one look at the chain brought.
#[derive(Debug)]
pub struct Look {
    /// The newest block.
    pub head: Head,
    /// Events read, those of the overlap too.
    pub logs: Vec<OracleLog>,
    /// Whether everything confirmed has been read.
    pub caught_up: bool,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The endpoint.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WatchError {
    /// Whether trying again may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Client(error) if error.is_retryable())
    }
}

/// Moves events from the chain to the store.
#[derive(Debug)]
pub struct Watcher {
    store: Store,
    settings: WatchSettings,
    operator: Address,
    challenge_window: u64,
    range: u64,
}

impl Watcher {
    /// Watches for `operator` (zero: none) on a deployment with this challenge window in seconds.
    pub fn new(store: Store, settings: WatchSettings, operator: Address, challenge_window: u64) -> Self {
        Self { store, settings, operator, challenge_window, range: settings.max_block_range.max(1) }
    }

    /// Reads the next range.
    pub async fn look(&mut self, rpc: &Rpc) -> Result<Look, WatchError> {
        let head = rpc.head().await?;
        let confirmed = head.number.saturating_sub(self.settings.confirmations);
        let next = self.store.next_block().await?;
        if next > 0 && self.reorganised(rpc, next - 1).await? {
            return Ok(Look { head, logs: Vec::new(), caught_up: false });
        }
        if next > confirmed {
            return Ok(Look { head, logs: Vec::new(), caught_up: true });
        }
        let (first, last) = range(next, confirmed, self.range, self.settings.overlap);
        let logs = match rpc.client().logs(first..=last).await {
            Ok(logs) => logs,
            Err(error) => {
                // A range that is too wide may be refused in words nobody knows, or simply never be answered. Less is always a safe answer.
                let narrower = self.range > 1;
                self.range = (self.range / 2).max(1);
                if narrower && too_wide(&error) {
                    debug!(range = self.range, %error, "narrower range");
                    return Ok(Look { head, logs: Vec::new(), caught_up: false });
                }
                return Err(error.into());
            }
        };
        // Asked after the logs: if the block under the range changed in between, the next look notices. An endpoint that does not have a block
        // below its own newest one is in disorder: no haste.
        let Some(tip) = rpc.block_at(last).await? else {
            return Ok(Look { head, logs: Vec::new(), caught_up: true });
        };
        self.store
            .apply(BlockRange {
                last,
                last_hash: tip.hash,
                logs: &logs,
                operator: self.operator,
                challenge_window: self.challenge_window,
            })
            .await?;
        if logs.iter().any(|log| matches!(log.event, Event::Requested(_))) {
            crash::point("seen");
        }
        self.range = (self.range * 2).min(self.settings.max_block_range.max(1));
        Ok(Look { head, logs, caught_up: last == confirmed })
    }

    /// Compares the last block read with the chain's; if it changed, rewinds the store to the last block that did not.
    async fn reorganised(&self, rpc: &Rpc, last: u64) -> Result<bool, WatchError> {
        let Some(known) = self.store.block_hash(last).await? else { return Ok(false) };
        match rpc.block_at(last).await? {
            Some(block) if block.hash == known => return Ok(false),
            Some(_) => {}
            // A chain that is shorter than what was read: an endpoint behind the others, or a reorganisation in progress. Wait.
            None => return Ok(false),
        }
        let mut first = last;
        while first > 0 && last - first < REMEMBERED_BLOCKS {
            let below = first - 1;
            if let Some(known) = self.store.block_hash(below).await?
                && rpc.block_at(below).await?.is_some_and(|block| block.hash == known)
            {
                break;
            }
            first = below;
        }
        warn!(from = first, to = last, "the chain was reorganised; reading again");
        self.store.rewind(first).await?;
        Ok(true)
    }
}

/// The blocks to ask for: at most `width` of them up to `confirmed`, some before `next` among them, at least one that is new.
fn range(next: u64, confirmed: u64, width: u64, overlap: u64) -> (u64, u64) {
    let first = next.saturating_sub(overlap.min(width.saturating_sub(1)));
    (first, confirmed.min(first.saturating_add(width.saturating_sub(1))).max(next))
}

/// Endpoints refuse wide ranges in many words. Too many questions are another matter: asking for less, at once, would make that worse.
fn too_wide(error: &ClientError) -> bool {
    let ClientError::Rpc(failure) = error else { return false };
    let message = failure.message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["rate", "per second", "too many requests", "429", "quota", "capacity", "timed out"]) {
        return false;
    }
    failure.code == Some(-32005) || says(&["range", "limit", "too many", "exceed", "10000", "size", "413"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use candor_sdk::client::RpcFailure;

    #[test]
    fn ranges_keep_to_the_width_and_bring_something_new() {
        for width in [1, 2, 10, 1000] {
            for overlap in [0, 1, 16, 2000] {
                for next in [0, 1, 5, 500, 5000] {
                    for confirmed in [next, next + 1, next + 100_000] {
                        let (first, last) = range(next, confirmed, width, overlap);
                        assert!(
                            first <= next && next <= last && last <= confirmed,
                            "{next} {confirmed} {width} {overlap}"
                        );
                        assert!(last - first < width, "{first}..={last} is wider than {width}");
                    }
                }
            }
        }
        assert_eq!(range(100, 5000, 1000, 16), (84, 1083));
    }

    #[test]
    fn refusals_of_width_are_told_from_refusals_of_haste() {
        let error = |code, message: &str| ClientError::Rpc(RpcFailure { code, message: message.to_owned() });
        for (code, message) in [
            (Some(-32602), "eth_getLogs is limited to a 10,000 range"),
            (Some(-32005), "query returned more than 10000 results"),
            (Some(-32000), "Log response size exceeded"),
            (None, "HTTP error 413 with body: block range is too large"),
        ] {
            assert!(too_wide(&error(code, message)), "{message}");
        }
        for (code, message) in [
            (Some(-32005), "project ID request rate exceeded"),
            (Some(429), "Your app has exceeded its compute units per second capacity"),
            (None, "HTTP error 429 with body: Too Many Requests"),
            (None, "error sending request: operation timed out"),
            (None, "error sending request: connection refused"),
        ] {
            assert!(!too_wide(&error(code, message)), "{message}");
        }
    }
}

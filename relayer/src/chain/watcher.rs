//! Reads the oracle's events in ranges of blocks, into the store.
//!
//! No subscription is trusted: a range is asked for, with an overlap over what was already read, and stored together with the cursor. A hash that
//! changed under the cursor is a reorganisation: the store forgets the blocks that are gone and the range is read again.

use super::{Head, Rpc};
use crate::{
    crash,
    ops::metrics::{CHAIN_HOLES, CHAIN_REORGANISATIONS},
    own_time::OwnTime,
    store::{BlockRange, REMEMBERED_BLOCKS, Store, StoreError},
};
use alloy::primitives::Address;
use candor_sdk::{
    bindings::IInferenceOracle::IInferenceOracleEvents as Event,
    client::{ClientError, OracleLog},
    request::Request,
};
use std::{sync::Arc, time::Duration};
use tracing::{debug, error, warn};

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
    /// Last block read, and the last that is confirmed; none if nothing was read.
    pub read: Option<(u64, u64)>,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Requests are numbered without holes, and the endpoint does not show one that there must be.
    #[error("the endpoint shows no request #{missing}, which is in block {before} or below")]
    Hole {
        /// The first that is missing.
        missing: u64,
        /// Where it must be at the latest.
        before: u64,
    },
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
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            Self::Hole { .. } => true,
        }
    }
}

/// How often a range is asked for again that must have more in it. After that what is there is better than nothing.
const HOLE_TRIES: u32 = 20;

/// Moves events from the chain to the store.
#[derive(Debug)]
pub struct Watcher {
    store: Store,
    settings: WatchSettings,
    operator: Address,
    challenge_window: u64,
    range: u64,
    /// How often the range in hand had a hole.
    holes: u32,
    own_time: Arc<OwnTime>,
}

impl Watcher {
    /// Watches for `operator` (zero: none) on a deployment with this challenge window in seconds.
    pub(crate) fn new(
        store: Store,
        settings: WatchSettings,
        operator: Address,
        challenge_window: u64,
        own_time: Arc<OwnTime>,
    ) -> Self {
        Self { store, settings, operator, challenge_window, range: settings.max_block_range.max(1), holes: 0, own_time }
    }

    /// Reads the next range.
    pub async fn look(&mut self, rpc: &Rpc) -> Result<Look, WatchError> {
        let head = rpc.head().await?;
        let confirmed = head.number.saturating_sub(self.settings.confirmations);
        let next = self.store.next_block().await?;
        let reading = (next <= confirmed).then(|| range(next, confirmed, self.range, self.settings.overlap));
        // INVARIANT: the hash of the range's last block is asked for first, the hash under the range next, and the events after both. A reorganisation
        // before the second question is noticed by it, and one after it by the next look: events are never stored under a hash of another chain.
        let tip = match reading {
            Some((_, last)) => self.own_time.wait(rpc.block_under(head, last)).await?,
            None => None,
        };
        if next > 0 && self.reorganised(rpc, next - 1).await? {
            return Ok(Look { head, logs: Vec::new(), caught_up: false, read: None });
        }
        // An endpoint that does not have a block below its own newest one is in disorder: no haste.
        let (Some((first, last)), Some(tip)) = (reading, tip) else {
            return Ok(Look { head, logs: Vec::new(), caught_up: true, read: None });
        };
        let logs = match rpc.client().logs(first..=last).await {
            Ok(logs) => logs,
            Err(error) => {
                // A range that is too wide may be refused in words nobody knows, or simply never be answered. Less is always a safe answer.
                let narrower = self.range > 1;
                self.range = (self.range / 2).max(1);
                if narrower && too_wide(&error) {
                    debug!(range = self.range, %error, "narrower range");
                    return Ok(Look { head, logs: Vec::new(), caught_up: false, read: None });
                }
                return Err(error.into());
            }
        };
        for log in &logs {
            if let Event::Requested(event) = &log.event
                && let Ok(request) = Request::unpack(&event.request)
            {
                self.own_time.read((request.id.0, request.attempt));
            }
        }
        self.check_for_holes(rpc, &logs, last, last == confirmed).await?;
        self.store
            .apply(BlockRange {
                last,
                last_hash: tip.hash,
                logs: &logs,
                operator: self.operator,
                challenge_window: self.challenge_window,
            })
            .await?;
        if logs.iter().any(|log| matches!(log.event, Event::Requested(_) | Event::RequestedByUri(_))) {
            crash::point("seen");
        }
        self.range = (self.range * 2).min(self.settings.max_block_range.max(1));
        Ok(Look { head, logs, caught_up: last == confirmed, read: Some((last, confirmed)) })
    }

    /// Some endpoints answer with fewer events than there are, or with none, when they are behind or overloaded. The contract numbers requests without
    /// holes and counts them, so that can be noticed.
    async fn check_for_holes(
        &mut self,
        rpc: &Rpc,
        logs: &[OracleLog],
        last: u64,
        newest: bool,
    ) -> Result<(), WatchError> {
        let stored = self.store.last_request().await?;
        // As of the range's last block. Few endpoints know that of old blocks, where the next range tells; one that can't say is taken at its word.
        let count = if newest { self.own_time.wait(rpc.request_count_at(last)).await.ok() } else { None };
        match missing(stored, logs, count) {
            Some(missing) if self.holes < HOLE_TRIES => {
                self.holes += 1;
                metrics::counter!(CHAIN_HOLES).increment(1);
                Err(WatchError::Hole { missing, before: last })
            }
            Some(missing) => {
                error!(missing, before = last, "no endpoint shows a request that there must be; going on without it");
                self.holes = 0;
                Ok(())
            }
            None => {
                self.holes = 0;
                Ok(())
            }
        }
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
        metrics::counter!(CHAIN_REORGANISATIONS).increment(1);
        warn!(from = first, to = last, "the chain was reorganised; reading again");
        self.store.rewind(first).await?;
        crash::point("rewound");
        Ok(true)
    }
}

/// The first number that is neither stored nor among the events, though a later one, or the contract's count, says that it must be.
fn missing(stored: Option<u64>, logs: &[OracleLog], count: Option<u64>) -> Option<u64> {
    let mut asked: Vec<u64> = logs
        .iter()
        .filter_map(|log| match &log.event {
            Event::Requested(event) => Some(event.id),
            Event::RequestedByUri(event) => Some(event.id),
            _ => None,
        })
        .collect();
    asked.sort_unstable();
    // A store that began in the middle of the history knows nothing of what was before.
    let mut next = stored.map(|last| last + 1).or_else(|| asked.first().copied())?;
    for id in asked {
        match id {
            id if id > next => return Some(next),
            id if id == next => next += 1,
            _ => {}
        }
    }
    count.is_some_and(|count| count >= next).then_some(next)
}

/// The blocks to ask for: at most `width` of them up to `confirmed`, some before `next` among them, at least one that is new.
pub(crate) fn range(next: u64, confirmed: u64, width: u64, overlap: u64) -> (u64, u64) {
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
    fn a_hole_in_the_numbers_is_noticed() {
        use alloy::primitives::{Address, B256};
        use candor_sdk::bindings::{IInferenceOracle, PackedRequest};
        let asked = |ids: &[u64]| -> Vec<OracleLog> {
            let event = |id: &u64| OracleLog {
                event: Event::Requested(IInferenceOracle::Requested {
                    id: *id,
                    modelId: B256::ZERO,
                    operator: Address::ZERO,
                    request: PackedRequest {
                        head: B256::ZERO,
                        modelId: B256::ZERO,
                        inputHash: B256::ZERO,
                        seed: B256::ZERO,
                        payment: B256::ZERO,
                        terms: B256::ZERO,
                    },
                    input: Default::default(),
                }),
                block_number: 1,
                block_hash: B256::ZERO,
                transaction: B256::ZERO,
                log_index: *id,
            };
            ids.iter().map(event).collect()
        };
        for (stored, ids, count, expected) in [
            (None, &[][..], Some(0), None),
            (None, &[], Some(9), None),           // nothing is known of what was before
            (None, &[7, 8], Some(8), None),       // a store that begins here
            (None, &[7, 9], Some(9), Some(8)),    // one between is not shown
            (Some(4), &[], Some(4), None),        // nothing new
            (Some(4), &[3, 4], Some(4), None),    // read again
            (Some(4), &[4, 5, 6], Some(6), None), // as it should be
            (Some(4), &[], Some(5), Some(5)),     // an endpoint with empty hands
            (Some(4), &[6], None, Some(5)),
            (Some(4), &[3, 5], Some(7), Some(6)), // the last ones are not shown
            (Some(4), &[4, 5, 5], Some(5), None), // another attempt at one
            (Some(4), &[], None, None),           // an endpoint that can't say
        ] {
            assert_eq!(missing(stored, &asked(ids), count), expected, "{stored:?} {ids:?} {count:?}");
        }
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

//! Reads the oracle's events in ranges of blocks, into the store.
//!
//! No subscription is trusted: a range is asked for, with an overlap over what was already read, and stored together with the cursor. A hash that
//! changed under the cursor is a reorganisation: the store forgets the blocks that are gone and the range is read again. What an endpoint has left out
//! longer ago than the overlap goes back is looked for where it must be.

use super::{Head, Rpc};
use crate::{
    crash,
    ops::metrics::{CHAIN_HOLES, CHAIN_REORGANISATIONS},
    own_time::OwnTime,
    store::{BlockRange, REMEMBERED_BLOCKS, Store, StoreError},
};
use alloy::primitives::{Address, keccak256};
use candor_sdk::{
    bindings::IInferenceOracle::IInferenceOracleEvents as Event,
    client::{ClientError, OracleLog},
    ids::RequestId,
    request::Request,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tracing::{debug, error, warn};

/// How blocks are read.
#[derive(Debug, Clone, Copy)]
pub struct WatchSettings {
    /// Blocks on top of a block before its events count; 0: at once.
    pub confirmations: u64,
    /// Time between two looks at the chain.
    pub poll_interval: Duration,
    /// Time that an endpoint has for one answer; after that it counts as down.
    pub answer_within: Duration,
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

/// After how many of these what is missing may be in a block that was read long ago.
const HOLE_IS_DEEP: u32 = 5;

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
    /// The last request that was looked for in blocks that had been read.
    searched: u64,
    /// The last request that no endpoint showed, in the end.
    without: u64,
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
        let range = settings.max_block_range.max(1);
        Self { store, settings, operator, challenge_window, range, holes: 0, searched: 0, without: 0, own_time }
    }

    /// Reads the next range. The newest block is `told` before anything is stored: whoever finds a new request goes by a clock that is as new.
    pub async fn look(&mut self, rpc: &Rpc, told: &watch::Sender<Head>) -> Result<Look, WatchError> {
        let endpoint = rpc.current();
        let head = rpc.head().await?;
        let nothing = |caught_up| Look { head, logs: Vec::new(), caught_up, read: None };
        let confirmed = head.number.saturating_sub(self.settings.confirmations);
        let next = self.store.next_block().await?;
        // INVARIANT: the hash of the range's last block is asked for first, its events next, the hash of what was read last after them, and all of one
        // endpoint. A reorganisation of what was read before is noticed by the third question, whenever it happened; one above that by the next look, since
        // the hash that is stored with the events is older than they are. So events are never stored beside those of another chain, nor under its hashes.
        let mut found = None;
        if next <= confirmed {
            let (first, last) = range(next, confirmed, self.range, self.settings.overlap);
            // An endpoint that does not have a block below its own newest one is in disorder: no haste.
            if let Some(tip) = self.own_time.wait(rpc.block_under(head, last)).await? {
                match rpc.client().logs(first..=last).await {
                    Ok(logs) => found = Some((last, tip, logs)),
                    Err(error) => {
                        // A range that is too wide may be refused in words nobody knows, or simply never be answered. Less is always a safe answer.
                        let narrower = self.range > 1;
                        self.range = (self.range / 2).max(1);
                        if narrower && too_wide(&error) {
                            debug!(range = self.range, %error, "narrower range");
                            return Ok(nothing(false));
                        }
                        return Err(error.into());
                    }
                }
            }
        }
        match self.what_was_read(rpc).await? {
            Known::Unchanged => {}
            Known::Rewound => return Ok(nothing(false)),
            Known::Away => return Ok(nothing(true)),
        }
        let Some((last, tip, mut logs)) = found else { return Ok(nothing(true)) };
        let other = logs.iter().find_map(altered);
        if let Some(request) = other {
            error!(request, "the endpoint shows another input than the request was made with");
            logs.retain(|log| altered(log).is_none());
        }
        if rpc.current() != endpoint {
            debug!("the endpoint changed meanwhile; asking the new one");
            return Ok(nothing(false));
        }
        for log in &logs {
            if let Event::Requested(event) = &log.event
                && let Ok(request) = Request::unpack(&event.request)
            {
                self.own_time.read((request.id.0, request.attempt));
            }
        }
        self.check_for_holes(rpc, &logs, other, last, last == confirmed).await?;
        told.send_replace(head);
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
        altered: Option<u64>,
        last: u64,
        newest: bool,
    ) -> Result<(), WatchError> {
        // One that is not shown as it is is not shown, unless it was before.
        let altered = match altered.filter(|id| *id > self.without) {
            Some(id) if self.store.request(RequestId(id)).await?.is_none() => Some(id),
            _ => None,
        };
        let stored = self.store.last_request().await?;
        let known = stored.map(|(id, _)| id.max(self.without));
        // As of the range's last block. Few endpoints know that of old blocks, where the next range tells; one that can't say is taken at its word.
        let count = if newest { self.own_time.wait(rpc.request_count_at(last)).await.ok() } else { None };
        match missing(known, logs, count).or(altered) {
            Some(missing) if self.holes < HOLE_TRIES => {
                self.holes += 1;
                metrics::counter!(CHAIN_HOLES).increment(1);
                // Whoever was asked after another one was not asked before it.
                if self.holes == HOLE_IS_DEEP
                    && missing > self.searched
                    && let Some((_, block)) = stored
                {
                    self.searched = missing;
                    self.store.read_again(block).await?;
                    crash::point("read-again");
                    warn!(missing, from = block, "reading again where it must be");
                }
                Err(WatchError::Hole { missing, before: last })
            }
            Some(missing) => {
                error!(missing, before = last, "no endpoint shows a request that there must be; going on without it");
                (self.holes, self.without) = (0, missing);
                Ok(())
            }
            None => {
                self.holes = 0;
                Ok(())
            }
        }
    }

    /// Compares the last block that was ever read with the chain's; if it changed, rewinds the store to the last block that did not.
    async fn what_was_read(&self, rpc: &Rpc) -> Result<Known, WatchError> {
        // Not the one under the cursor: that may have been set back to read again.
        let Some((last, known)) = self.store.newest_block().await? else { return Ok(Known::Unchanged) };
        match rpc.block_at(last).await? {
            Some(block) if block.hash == known => return Ok(Known::Unchanged),
            Some(_) => {}
            None => return Ok(Known::Away),
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
        Ok(Known::Rewound)
    }
}

/// How what was read stands to the chain.
enum Known {
    Unchanged,
    /// The chain was reorganised, and what it took back is forgotten.
    Rewound,
    /// The chain is shorter than what was read: an endpoint behind the others, or a reorganisation in progress. Wait.
    Away,
}

/// The number of a request that comes with another input than its own. The chain refuses any other change of a request, since its hash is there; but an answer
/// to another input would be signed, posted, and cost the stake, on nobody's word but the endpoint's.
fn altered(log: &OracleLog) -> Option<u64> {
    let Event::Requested(event) = &log.event else { return None };
    // One that is at a URI may come without, and is checked when it is fetched.
    let genuine = keccak256(&event.input) == event.request.inputHash
        || Request::unpack(&event.request).is_ok_and(|request| request.input_by_uri && event.input.is_empty());
    (!genuine).then_some(event.id)
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

//! What the chain shows of results and disputes, read in ranges of blocks.
//!
//! Nothing of it is stored: everything that a game can still need happened within the longest time that a request, its window and its disputes take,
//! and is read again at every start. After a reorganisation it is read again too. So there is no state that could differ from the chain's, unless an endpoint
//! shows fewer events than there are. The game numbers its disputes without holes and keeps a hash of each, so that is noticed, and everything is read again.

use crate::chain::{Head, Rpc, WatchSettings, range};
use alloy::{
    primitives::{Address, B256, Bytes, keccak256},
    providers::Provider,
    rpc::types::{Filter, Log},
    sol_types::{SolEventInterface, SolValue},
};
use candor_sdk::{
    bindings::{
        Fulfillment,
        IDisputeGame::{self, IDisputeGameEvents as GameEvent},
        IInferenceOracle::IInferenceOracleEvents as OracleEvent,
        PackedRequest,
    },
    client::ClientError,
    dispute::{Case, Docket},
    request::Request,
};
use std::collections::HashMap;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Looks between two comparisons with what the game itself says.
const COMPARE_EVERY: u32 = 20;

/// A result that is not final.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The request, as the oracle hashed it.
    pub request: PackedRequest,
    /// Its bytes.
    pub input: Bytes,
    /// The answer, as the oracle has it.
    pub fulfillment: Fulfillment,
    /// Its bytes.
    pub output: Bytes,
}

impl Posted {
    /// The request in readable form; none if it is not one, which no oracle lets happen.
    pub fn readable(&self) -> Option<Request> {
        Request::unpack(&self.request).ok()
    }
}

/// Name of a result: `keccak256(abi.encode(requestHash, fulfillment))`.
pub fn result_hash(request: &PackedRequest, fulfillment: &Fulfillment) -> B256 {
    keccak256((keccak256(request.abi_encode()), fulfillment.clone()).abi_encode())
}

/// Results and disputes as of some block.
#[derive(Debug)]
pub struct Book {
    game: Address,
    settings: WatchSettings,
    /// Where reading starts.
    first: u64,
    /// The first block that has not been read.
    next: u64,
    /// Hash of the one before it.
    last_hash: Option<B256>,
    range: u64,
    docket: Docket,
    /// When it was last compared with what the game says.
    compared: Instant,
    /// How often everything was read again.
    readings: u32,
    requests: HashMap<u64, (PackedRequest, Bytes)>,
    results: HashMap<B256, Posted>,
}

impl Book {
    /// An empty one that will read from block `first` on.
    pub fn new(game: Address, settings: WatchSettings, first: u64) -> Self {
        Self {
            game,
            settings,
            first,
            next: first,
            last_hash: None,
            range: settings.max_block_range.max(1),
            docket: Docket::default(),
            compared: Instant::now(),
            readings: 0,
            requests: HashMap::new(),
            results: HashMap::new(),
        }
    }

    /// The disputes.
    pub fn docket(&self) -> &Docket {
        &self.docket
    }

    /// Results that are not final, by [`result_hash`].
    pub fn results(&self) -> &HashMap<B256, Posted> {
        &self.results
    }

    /// How often everything was read again: what was concluded from the events before may not hold any more.
    pub fn readings(&self) -> u32 {
        self.readings
    }

    /// The first block that has not been read.
    pub fn next_block(&self) -> u64 {
        self.next
    }

    /// Reads the next range. The newest block, and whether everything confirmed has been read.
    pub async fn look(&mut self, rpc: &Rpc) -> Result<(Head, bool), ClientError> {
        let head = rpc.head().await?;
        let confirmed = head.number.saturating_sub(self.settings.confirmations);
        if let Some(known) = self.last_hash
            && rpc.block_at(self.next - 1).await?.is_some_and(|block| block.hash != known)
        {
            warn!("the chain was reorganised; reading all disputes again");
            self.start_over();
            return Ok((head, false));
        }
        if self.compared.elapsed() > self.settings.poll_interval * COMPARE_EVERY && self.next > self.first {
            self.compared = Instant::now();
            if let Some(id) = self.differing(rpc, self.next - 1).await? {
                warn!(dispute = id, "the endpoint did not show all events of a dispute; reading all disputes again");
                self.start_over();
                return Ok((head, false));
            }
        }
        if self.next > confirmed {
            return Ok((head, true));
        }
        // Endpoints show the logs of their newest blocks late; the same event twice changes nothing.
        let (first, last) = range(self.next, confirmed, self.range, self.settings.overlap);
        let client = rpc.client();
        let filter = Filter::new().address(vec![client.oracle, self.game]).from_block(first).to_block(last);
        let logs = match client.provider().get_logs(&filter).await {
            Ok(logs) => logs,
            // A range that is too wide may be refused in words nobody knows: less is always a safe question.
            Err(error) if self.range > 1 => {
                self.range = (self.range / 2).max(1);
                debug!(range = self.range, error = %ClientError::from(error), "narrower range");
                return Ok((head, false));
            }
            Err(error) => return Err(error.into()),
        };
        // Asked after the logs: if the block under them changed in between, the next look notices.
        let Some(tip) = rpc.block_at(last).await? else { return Ok((head, false)) };
        for log in logs.iter().filter(|log| !log.removed) {
            self.apply(log, client.oracle);
        }
        (self.next, self.last_hash) = (last + 1, Some(tip.hash));
        self.range = (self.range * 2).min(self.settings.max_block_range.max(1));
        Ok((head, last == confirmed))
    }

    fn start_over(&mut self) {
        let readings = self.readings + 1;
        *self = Self { readings, ..Self::new(self.game, self.settings, self.first) };
    }

    /// A dispute that stood otherwise at the end of a block than the events up to there say. An endpoint that can't tell is taken at its word.
    async fn differing(&self, rpc: &Rpc, block: u64) -> Result<Option<u64>, ClientError> {
        let count = told(rpc.view_at(self.game, IDisputeGame::disputeCountCall {}, block).await)?;
        let newest = self.docket.cases().last().map(Case::id);
        // Of a docket without any, all may be older than what was read.
        if let (Some(count), Some(newest)) = (count, newest)
            && count > newest
        {
            return Ok(Some(newest + 1));
        }
        for case in self.docket.cases().filter(|case| case.ended.is_none()) {
            let call = IDisputeGame::stateOfCall { id: case.id() };
            let state = told(rpc.view_at(self.game, call, block).await)?;
            if state.is_some_and(|state| state != keccak256(case.dispute().abi_encode())) {
                return Ok(Some(case.id()));
            }
        }
        Ok(None)
    }

    fn apply(&mut self, log: &Log, oracle: Address) {
        if log.address() == self.game {
            // Unknown topics belong to a newer game; they are not ours to act on.
            if let Ok(event) = GameEvent::decode_raw_log(log.topics(), &log.data().data) {
                self.docket.apply(&event);
            }
            return;
        }
        if log.address() != oracle {
            return;
        }
        match OracleEvent::decode_raw_log(log.topics(), &log.data().data) {
            Ok(OracleEvent::Requested(event)) => {
                self.requests.insert(event.id, (event.request, event.input));
            }
            Ok(OracleEvent::Fulfilled(event)) => {
                if let Some((request, input)) = self.requests.get(&event.id).cloned() {
                    let (fulfillment, output) = (event.fulfillment, event.output);
                    let result = result_hash(&request, &fulfillment);
                    self.results.insert(result, Posted { request, input, fulfillment, output });
                }
            }
            Ok(OracleEvent::Finalized(event)) => self.forget(event.id),
            Ok(OracleEvent::Cancelled(event)) => self.forget(event.id),
            _ => {}
        }
    }

    /// Nothing more happens to a request.
    fn forget(&mut self, id: u64) {
        self.requests.remove(&id);
        self.results.retain(|_, posted| posted.readable().is_some_and(|request| request.id.0 != id));
    }
}

/// What an endpoint says; none if it can't say.
fn told<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Err(error) if error.is_retryable() => Ok(None),
        answer => answer.map(Some),
    }
}

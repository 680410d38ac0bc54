//! What the chain shows of results and disputes, read in ranges of blocks.
//!
//! Nothing of it is stored: everything that a game can still need happened within the longest time that a request, its window and its disputes take,
//! and is read again at every start. After a reorganisation it is read again too. So there is no state that could differ from the chain's.

use crate::chain::{Head, Rpc, WatchSettings};
use alloy::{
    primitives::{Address, B256, Bytes, keccak256},
    providers::Provider,
    rpc::types::{Filter, Log},
    sol_types::{SolEventInterface, SolValue},
};
use candor_sdk::{
    bindings::{
        Fulfillment, IDisputeGame::IDisputeGameEvents as GameEvent,
        IInferenceOracle::IInferenceOracleEvents as OracleEvent, PackedRequest,
    },
    client::ClientError,
    dispute::Docket,
    request::{Input, Request},
};
use std::collections::HashMap;
use tracing::{debug, warn};

/// A result that is not final.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The request, as the oracle hashed it.
    pub request: PackedRequest,
    /// What is known of its input.
    pub input: Input,
    /// The answer, as the oracle has it.
    pub fulfillment: Fulfillment,
    /// Its bytes.
    pub output: Bytes,
}

impl Posted {
    /// The bytes of the input, if they are here.
    pub fn input(&self) -> Option<&Bytes> {
        match &self.input {
            Input::Bytes(input) => Some(input),
            Input::Uri { .. } => None,
        }
    }

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
    requests: HashMap<u64, (PackedRequest, Input)>,
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
            *self = Self::new(self.game, self.settings, self.first);
            return Ok((head, false));
        }
        if self.next > confirmed {
            return Ok((head, true));
        }
        let last = confirmed.min(self.next.saturating_add(self.range - 1));
        let client = rpc.client();
        let filter = Filter::new().address(vec![client.oracle, self.game]).from_block(self.next).to_block(last);
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

    fn apply(&mut self, log: &Log, oracle: Address) {
        if log.address() == self.game {
            // Unknown topics belong to a newer game; they are not ours to act on.
            if let Ok(event) = GameEvent::decode_raw_log(log.topics(), &log.data().data) {
                if let GameEvent::InputShown(event) = &event {
                    self.supply(keccak256(&event.input), &event.input);
                }
                self.docket.apply(&event);
            }
            return;
        }
        if log.address() != oracle {
            return;
        }
        match OracleEvent::decode_raw_log(log.topics(), &log.data().data) {
            Ok(OracleEvent::Requested(event)) => {
                let known = self.requests.remove(&event.id).map(|(_, input)| input);
                let input = if keccak256(&event.input) == event.request.inputHash {
                    Input::Bytes(event.input)
                } else {
                    // Opened again without its input: what is known of that is what was said at first.
                    known.unwrap_or_else(|| Input::Uri { uri: String::new(), size: 0 })
                };
                self.requests.insert(event.id, (event.request, input));
            }
            Ok(OracleEvent::RequestedByUri(event)) => {
                let input = Input::Uri { uri: event.uri, size: event.inputSize };
                self.requests.insert(event.id, (event.request, input));
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

    /// An input has been found: whatever was asked about it can be judged.
    pub fn supply(&mut self, hash: B256, input: &Bytes) {
        let requests = self.requests.values_mut().map(|(request, input)| (request.inputHash, input));
        let results = self.results.values_mut().map(|posted| (posted.request.inputHash, &mut posted.input));
        for (_, known) in requests.chain(results).filter(|(wanted, _)| *wanted == hash) {
            *known = Input::Bytes(input.clone());
        }
    }

    /// Nothing more happens to a request.
    fn forget(&mut self, id: u64) {
        self.requests.remove(&id);
        self.results.retain(|_, posted| posted.readable().is_some_and(|request| request.id.0 != id));
    }
}

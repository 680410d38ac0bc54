//! What the chain shows of results and disputes, read in ranges of blocks.
//!
//! Nothing of it is stored: everything that a game can still need happened within the longest time that a request, its window and its disputes take,
//! and is read again at every start. After a reorganisation it is read again too. So there is no state that could differ from the chain's, unless an endpoint
//! shows fewer events than there are. Requests and disputes are numbered without holes, and the contracts say where each stands: so that is noticed, and
//! everything is read again.

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
        IInferenceOracle::{self, IInferenceOracleEvents as OracleEvent},
        PackedRequest, RequestStatus,
    },
    client::ClientError,
    dispute::{Case, Docket},
    request::{Input, Request},
};
use std::collections::{BTreeSet, HashMap, HashSet};
use tokio::time::Instant;
use tracing::{debug, warn};

/// Looks between two comparisons with what the contracts themselves say.
const COMPARE_EVERY: u32 = 20;

/// Requests that the oracle is asked about in one comparison, at most.
const COMPARE_AT_ONCE: usize = 32;

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
    /// When it was last compared with what the contracts say.
    compared: Instant,
    /// How many requests and disputes there were before the first block; none: not known.
    before: Option<(u64, u64)>,
    /// Every request that was read of being asked for the first time.
    asked: BTreeSet<u64>,
    /// The request that the oracle was asked about last.
    asked_after: u64,
    /// How often everything was read again.
    readings: u32,
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
            compared: Instant::now(),
            before: None,
            asked: BTreeSet::new(),
            asked_after: 0,
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
        let endpoint = rpc.current();
        let head = rpc.head().await?;
        let confirmed = head.number.saturating_sub(self.settings.confirmations);
        // Endpoints show the logs of their newest blocks late; the same event twice changes nothing.
        let reading = (self.next <= confirmed).then(|| range(self.next, confirmed, self.range, self.settings.overlap));
        // INVARIANT: the range's last hash first, the one under it next, the events after both. A reorganisation before the second question is noticed by it, a
        // later one by the next look, since the hash that is kept is older than the events; and then everything is read again. All are of one endpoint.
        let tip = match reading {
            Some((_, last)) => rpc.block_under(head, last).await?,
            None => None,
        };
        if let Some(known) = self.last_hash
            && rpc.block_at(self.next - 1).await?.is_some_and(|block| block.hash != known)
        {
            warn!("the chain was reorganised; reading all disputes again");
            self.start_over();
            return Ok((head, false));
        }
        if self.compared.elapsed() > self.settings.poll_interval * COMPARE_EVERY && self.next > self.first {
            self.compared = Instant::now();
            if !self.is_complete(rpc).await? {
                return Ok((head, false));
            }
        }
        let Some((first, last)) = reading else { return Ok((head, true)) };
        let Some(tip) = tip else { return Ok((head, false)) };
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
        if rpc.current() != endpoint {
            debug!("the endpoint changed meanwhile; asking the new one");
            return Ok((head, false));
        }
        for log in logs.iter().filter(|log| !log.removed) {
            self.apply(log, client.oracle);
        }
        (self.next, self.last_hash) = (last + 1, Some(tip.hash));
        self.range = (self.range * 2).min(self.settings.max_block_range.max(1));
        Ok((head, last == confirmed))
    }

    /// Whether the events that were read are all that there are up to there, as far as the contracts tell; if not, they are read again.
    pub async fn is_complete(&mut self, rpc: &Rpc) -> Result<bool, ClientError> {
        let Some(read) = self.next.checked_sub(1).filter(|read| *read >= self.first) else { return Ok(false) };
        let missing = self.missing(rpc, read).await?;
        if let Some(missing) = &missing {
            warn!(missing, "the endpoint did not show all events; reading all disputes again");
            self.start_over();
        }
        Ok(missing.is_none())
    }

    fn start_over(&mut self) {
        let readings = self.readings + 1;
        *self = Self { readings, ..Self::new(self.game, self.settings, self.first) };
    }

    /// What the contracts have at the end of a block, and the events up to there do not. An endpoint that can't tell is taken at its word.
    async fn missing(&mut self, rpc: &Rpc, block: u64) -> Result<Option<String>, ClientError> {
        let oracle = rpc.client().oracle;
        let (asked, opened) = (IInferenceOracle::requestCountCall {}, IDisputeGame::disputeCountCall {});
        if self.before.is_none() {
            self.before = match self.first.checked_sub(1) {
                None => Some((0, 0)),
                Some(before) => told(rpc.view_at(oracle, asked.clone(), before).await)?
                    .zip(told(rpc.view_at(self.game, opened.clone(), before).await)?),
            };
        }
        // Few endpoints know the state before a week. What is numbered before the first that was shown is taken to be older then.
        let (requests, disputes) = self.before.unwrap_or_else(|| {
            let shown = |first: Option<u64>| first.map_or(u64::MAX, |id| id - 1);
            (shown(self.asked.first().copied()), shown(self.docket.cases().next().map(Case::id)))
        });
        // Any of them, not only the newest: an endpoint that shows events again begins with the newest.
        let all = |before: u64, count: Option<u64>| before.saturating_add(1)..=count.unwrap_or_default();
        let count = told(rpc.view_at(oracle, asked, block).await)?;
        if let Some(id) = all(requests, count).find(|id| !self.asked.contains(id)) {
            return Ok(Some(format!("request {id}")));
        }
        let count = told(rpc.view_at(self.game, opened, block).await)?;
        if let Some(id) = all(disputes, count).find(|id| self.docket.case(*id).is_none()) {
            return Ok(Some(format!("dispute {id}")));
        }
        for case in self.docket.cases().filter(|case| case.ended.is_none()) {
            let call = IDisputeGame::stateOfCall { id: case.id() };
            let state = told(rpc.view_at(self.game, call, block).await)?;
            if state.is_some_and(|state| state != keccak256(case.dispute().abi_encode())) {
                return Ok(Some(format!("a move of dispute {}", case.id())));
            }
        }
        for id in self.unanswered() {
            let status = told(rpc.view_at(oracle, IInferenceOracle::statusOfCall { id }, block).await)?;
            if status.is_some_and(|at| matches!(at.status, RequestStatus::Fulfilled | RequestStatus::Disputed)) {
                return Ok(Some(format!("the result of request {id}")));
            }
            self.asked_after = id;
        }
        Ok(None)
    }

    /// Requests without a result that can be disputed, as far as was read: the next few, by number.
    fn unanswered(&self) -> Vec<u64> {
        let attempt = |id: &u64| self.requests.get(id).map(|(request, _)| *request);
        let ids = self.results.values().filter_map(|posted| Some((posted.readable()?.id.0, posted.request)));
        let answered: HashSet<u64> =
            ids.filter(|(id, request)| attempt(id) == Some(*request)).map(|(id, _)| id).collect();
        let mut open: Vec<u64> = self.requests.keys().copied().filter(|id| !answered.contains(id)).collect();
        open.sort_unstable_by_key(|id| (*id <= self.asked_after, *id));
        open.truncate(COMPARE_AT_ONCE);
        open
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
                self.enlist(event.id, &event.request);
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
                self.enlist(event.id, &event.request);
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

    /// Keeps the number of a request, unless it was opened again: then it had it before.
    fn enlist(&mut self, id: u64, request: &PackedRequest) {
        if Request::unpack(request).is_ok_and(|request| request.attempt == 0) {
            self.asked.insert(id);
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

/// What an endpoint says; none if it can't say.
fn told<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Err(error) if error.is_retryable() => Ok(None),
        answer => answer.map(Some),
    }
}

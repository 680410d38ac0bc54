//! Whose move it is, which one, and how urgent.
//!
//! One round reads the chain, lets finished thoughts come in, starts new ones, and sends the most urgent thing that is ready. Thinking (running a
//! model, hashing its tensors) happens beside it. Nothing is decided before everything that this account has sent is seen on the chain, so nothing is
//! done twice; and every move names the state that it answers, so if it is, the contract refuses it.

use super::{
    book::{Book, Posted, result_hash},
    opinion::{self, Verdict},
    trace::{EngineTrace, Player},
};
use crate::{
    chain::{Head, SendError, Sender, WatchSettings},
    complaints::Complaints,
    engine::InferError,
    pipeline::{Progress, RelayerError, Shared},
    store::Purpose,
};
use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};
use candor_sdk::{
    bindings::{IDisputeGame, Outcome, Terms, Turn},
    client::{Call, ClientError},
    dispute::{Case, Opinion, PlayError, challenge, defend, evidence},
    ids::{ModelId, RequestId},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};
use tracing::{debug, error, info, warn};

/// Whose results are looked at.
#[derive(Debug, Clone)]
pub struct Watching {
    /// Models whose results are run again; all of them are among those that can be played.
    pub models: HashSet<ModelId>,
    /// Wei of bonds that may be at stake or lost at once.
    pub cap: U256,
}

/// What happens in disputes, as it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisputeProgress {
    /// A result of somebody else's was run again.
    Examined {
        /// The request.
        id: RequestId,
        /// What came of it.
        verdict: Verdict,
    },
    /// This relayer challenged a result.
    Challenged {
        /// The request.
        id: RequestId,
    },
    /// This relayer made a move.
    Moved {
        /// The dispute.
        dispute: u64,
        /// Which.
        what: &'static str,
        /// Gas used.
        gas_used: u64,
    },
    /// A dispute of this relayer's ended.
    Ended {
        /// The dispute.
        dispute: u64,
        /// Whether this side won.
        won: bool,
    },
}

/// Who plays, and with what.
pub(crate) struct Seat {
    pub(crate) game: Address,
    pub(crate) terms: Terms,
    /// Seconds in which a result can be challenged.
    pub(crate) window: u64,
    /// Block from which on everything matters that may still be disputed.
    pub(crate) first: u64,
    pub(crate) settings: WatchSettings,
    pub(crate) sender: Arc<Sender>,
    /// The account, if it answers requests.
    pub(crate) operator: Option<Address>,
    pub(crate) models: HashMap<ModelId, Player>,
    pub(crate) watching: Option<Watching>,
}

/// Thoughts at once.
const THOUGHTS: usize = 2;

/// Time for which something that the chain refuses is left alone.
const HOLD: Duration = Duration::from_secs(5);

/// Time for which a result is left alone whose examination failed.
const UNSURE: Duration = Duration::from_secs(60);

/// What is thought about or done, named so that it is not done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Errand {
    /// A move of a dispute that stands after so many moves; whether there was a claim then.
    Move(u64, u32, bool),
    /// The one claim about a result.
    Claim(B256),
    Timeout(u64),
    Reject(B256),
    Close(u64),
    Examine(B256),
    Challenge(B256),
    Withdraw,
}

/// Something ready to be sent.
#[derive(Debug)]
struct Ready {
    /// Unix second until which it is of use.
    until: u64,
    call: Call,
    what: &'static str,
    /// The dispute or the request, for people.
    of: u64,
}

/// What thinking brought.
enum Thought {
    Ready(Ready),
    Nothing,
    Verdict(Verdict),
    Failed(String),
}

/// What is known of a result's run.
#[derive(Debug, Clone)]
enum Own {
    Defence(Arc<EngineTrace>),
    Opinion(Opinion<Arc<EngineTrace>>),
}

/// What was learnt of a run on the way: of which result, and whether for its defence.
type Learnt = (B256, bool, Own);

/// The name and calldata of a move, if there is one.
type Planned = Option<(&'static str, Bytes)>;

pub(crate) async fn run(shared: Arc<Shared>, seat: Seat) -> Result<(), RelayerError> {
    let book = Book::new(seat.game, seat.settings, seat.first);
    let mut table = Table {
        shared: shared.clone(),
        account: seat.sender.address(),
        seat: Arc::new(seat),
        book,
        begun: false,
        thoughts: JoinSet::new(),
        about: HashSet::new(),
        ready: BTreeMap::new(),
        held: HashMap::new(),
        own: HashMap::new(),
        verdicts: HashMap::new(),
        told: HashSet::new(),
        poor: false,
        readings: 0,
        short: Complaints::default(),
    };
    let mut complaints = Complaints::default();
    let mut wait = shared.poll_interval;
    while shared.leading().await {
        let endpoint = shared.rpc.current();
        match table.round().await {
            Ok(true) => {
                wait = shared.poll_interval;
                continue;
            }
            Ok(false) => wait = shared.poll_interval,
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                if complaints.is_news(&error.to_string()) {
                    warn!(%error, "disputes wait");
                }
                if error.is_of_the_endpoint() {
                    shared.rpc.fail_over(endpoint).await;
                }
                wait = (wait * 2).min(Duration::from_secs(10));
            }
        }
        tokio::select! { () = tokio::time::sleep(wait) => {}, () = shared.stop.cancelled() => {} }
    }
    Ok(())
}

struct Table {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    account: Address,
    book: Book,
    /// Whether everything was read once.
    begun: bool,
    thoughts: JoinSet<(Errand, Thought, Option<Learnt>)>,
    /// Errands being thought about.
    about: HashSet<Errand>,
    ready: BTreeMap<(u64, Errand), Ready>,
    /// What the chain refuses, or could not be thought through: left alone until then.
    held: HashMap<Errand, Instant>,
    /// Runs, by result and whether they are for the defence.
    own: HashMap<(B256, bool), Own>,
    verdicts: HashMap<B256, Verdict>,
    /// Ends that were told.
    told: HashSet<u64>,
    /// Whether the cap stands in the way, and that was said.
    poor: bool,
    /// How often the book was read again when it was last looked at.
    readings: u32,
    /// What was said of money that is short.
    short: Complaints,
}

impl Table {
    /// True if something was done and there may be more.
    async fn round(&mut self) -> Result<bool, RelayerError> {
        // Those of an earlier run, or of a round that failed half-way.
        self.seat.sender.recover(&self.shared.rpc).await?;
        let (head, caught_up) = self.book.look(&self.shared.rpc).await?;
        if self.readings != self.book.readings() {
            self.readings = self.book.readings();
            // The claim may be another now.
            self.own.retain(|(_, defence), _| *defence);
        }
        if !caught_up {
            return Ok(true);
        }
        if self.book.next_block() <= self.seat.sender.last_block() {
            return Ok(false);
        }
        if !self.begun {
            self.begun = true;
            self.take_up();
        }
        self.tell_ends();
        self.listen();
        self.held.retain(|_, until| *until > Instant::now());
        self.ready.retain(|(_, errand), _| is_current(&self.book, *errand));
        self.plan(head).await?;
        self.send(head).await
    }

    /// Says loudly what is at stake.
    fn take_up(&self) {
        let mine = |case: &&Case| case.ended.is_none() && self.side(case).is_some();
        for case in self.book.docket().cases().filter(mine) {
            let dispute = case.dispute();
            warn!(dispute = case.id(), turn = ?case.turn(), moves = dispute.moves, "taking up a dispute in mid-game");
        }
    }

    /// Which side of a dispute is this account's: true for the operator's.
    fn side(&self, case: &Case) -> Option<bool> {
        if self.seat.operator == Some(case.fulfillment.operator) {
            Some(true)
        } else if case.opened.challenger == self.account {
            Some(false)
        } else {
            None
        }
    }

    fn tell_ends(&mut self) {
        for case in self.book.docket().cases() {
            let (Some(ended), Some(operator)) = (case.ended, self.side(case)) else { continue };
            if !self.told.insert(case.id()) {
                continue;
            }
            let won = match ended.outcome {
                Outcome::Upheld => operator,
                _ => !operator,
            };
            if won {
                info!(dispute = case.id(), outcome = ?ended.outcome, "a dispute was won");
            } else {
                error!(dispute = case.id(), outcome = ?ended.outcome, "a dispute was LOST");
            }
            self.report(DisputeProgress::Ended { dispute: case.id(), won });
        }
    }

    fn report(&self, progress: DisputeProgress) {
        let _ = self.shared.reporter.send(Progress::Dispute(progress));
    }

    /// Takes in what was thought of meanwhile.
    fn listen(&mut self) {
        while let Some(ended) = self.thoughts.try_join_next() {
            let Ok((errand, thought, own)) = ended else {
                error!("thinking about a dispute panicked; this is a bug in Candor, please report it");
                let now = Instant::now() + HOLD;
                self.held.extend(self.about.drain().map(|errand| (errand, now)));
                continue;
            };
            self.about.remove(&errand);
            if let Some((result, defence, own)) = own {
                self.own.insert((result, defence), own);
            }
            match thought {
                Thought::Ready(ready) if is_current(&self.book, errand) => {
                    self.ready.insert((ready.until, errand), ready);
                }
                Thought::Ready(_) => {}
                Thought::Nothing => {
                    self.held.insert(errand, Instant::now() + HOLD);
                }
                Thought::Verdict(verdict) => self.judged(errand, verdict),
                Thought::Failed(problem) => {
                    warn!(?errand, %problem, "no move could be found; trying again");
                    self.held.insert(errand, Instant::now() + HOLD);
                }
            }
        }
    }

    fn judged(&mut self, errand: Errand, verdict: Verdict) {
        let Errand::Examine(result) = errand else { return };
        let Some(request) = self.book.results().get(&result).and_then(Posted::readable) else { return };
        match &verdict {
            Verdict::Right => debug!(request = %request.id, "the result is right"),
            Verdict::Wrong => warn!(request = %request.id, "the result is WRONG"),
            Verdict::Unsure(reason) => {
                error!(request = %request.id, %reason, "can't judge a result; not challenging it")
            }
        }
        if matches!(verdict, Verdict::Unsure(_)) {
            self.held.insert(errand, Instant::now() + UNSURE);
        } else {
            self.verdicts.insert(result, verdict.clone());
        }
        self.report(DisputeProgress::Examined { id: request.id, verdict });
    }

    /// Whether something is to be started: it is not being thought about, ready or held.
    fn is_free(&self, errand: Errand) -> bool {
        !self.about.contains(&errand)
            && !self.held.contains_key(&errand)
            && !self.ready.keys().any(|(_, ready)| *ready == errand)
    }

    /// Everything that is to be done now.
    async fn plan(&mut self, head: Head) -> Result<(), RelayerError> {
        let open: Vec<Case> = self.book.docket().cases().filter(|case| case.ended.is_none()).cloned().collect();
        let mut moves = Vec::new();
        let mut busy = false;
        for case in &open {
            let Some(operator) = self.side(case) else { continue };
            busy = true;
            match self.book.docket().fallen(&case.opened.result) {
                Some(true) => {
                    self.simple(
                        Errand::Close(case.id()),
                        case,
                        u64::MAX,
                        IDisputeGame::closeCall { dispute: case.dispute().clone() },
                    );
                    continue;
                }
                Some(false) => continue, // rejected below, once for all
                None => {}
            }
            let mine = case.is_operators_turn() == operator;
            let errand = errand_of(case);
            if !self.is_free(if mine { errand } else { Errand::Timeout(case.id()) }) {
                continue;
            }
            let until = self.deadline(case).await?;
            if mine && head.timestamp <= until {
                moves.push((until, errand, case.clone(), operator));
            } else if !mine && head.timestamp > until {
                let call = IDisputeGame::timeoutCall {
                    dispute: case.dispute().clone(),
                    request: case.request,
                    fulfillment: case.fulfillment.clone(),
                };
                self.simple(Errand::Timeout(case.id()), case, u64::MAX, call);
            }
        }
        self.reject();
        moves.sort_by_key(|(until, errand, ..)| (*until, *errand));
        for (until, errand, case, operator) in moves {
            if self.thoughts.len() < THOUGHTS && self.is_free(errand) {
                self.think(until, errand, case, operator);
            }
        }
        self.watch(head, &open);
        if !busy {
            self.withdraw().await?;
        }
        Ok(())
    }

    /// Something to be sent that needs no thought.
    fn simple(&mut self, errand: Errand, case: &Case, until: u64, call: impl SolCall) {
        if self.is_free(errand) {
            let what = name(errand);
            let call = Call::new(self.seat.game, U256::ZERO, &call);
            self.ready.insert((until, errand), Ready { until, call, what, of: case.id() });
        }
    }

    /// The last second of a turn, as the game reckons it.
    async fn deadline(&self, case: &Case) -> Result<u64, ClientError> {
        let call = IDisputeGame::deadlineOfCall { dispute: case.dispute().clone() };
        match self.shared.rpc.client().view(self.seat.game, call).await {
            Ok(until) => Ok(until.saturating_to()),
            // It stands otherwise already: the events will say how.
            Err(ClientError::Reverted(_)) => Ok(u64::MAX),
            Err(error) => Err(error),
        }
    }

    /// Has results that were proven wrong slashed, if this account has an interest in it.
    fn reject(&mut self) {
        let cases: Vec<Case> = self
            .book
            .docket()
            .cases()
            .filter(|case| {
                case.opened.challenger == self.account && self.book.docket().fallen(&case.opened.result) == Some(false)
            })
            .cloned()
            .collect();
        for case in cases {
            let Some(posted) = self.book.results().get(&case.opened.result) else { continue };
            let call = IDisputeGame::rejectCall {
                request: case.request,
                fulfillment: case.fulfillment.clone(),
                input: posted.input.clone(),
            };
            self.simple(Errand::Reject(case.opened.result), &case, u64::MAX, call);
        }
    }

    /// Finds a move, beside everything else.
    fn think(&mut self, until: u64, errand: Errand, case: Case, operator: bool) {
        let Some(posted) = self.book.results().get(&case.opened.result).cloned() else {
            warn!(dispute = case.id(), "a dispute over a result that was not read");
            self.held.insert(errand, Instant::now() + HOLD);
            return;
        };
        let Some(player) = posted.readable().and_then(|request| self.seat.models.get(&request.model)).cloned() else {
            error!(
                dispute = case.id(),
                "a dispute about a model that is not loaded here: add it to models.serve, or the dispute is lost"
            );
            self.held.insert(errand, Instant::now() + UNSURE);
            return;
        };
        let key = (case.opened.result, operator);
        let known = self.own.get(&key).cloned();
        let game = self.seat.game;
        self.about.insert(errand);
        self.thoughts.spawn_blocking(move || match next(&case, &posted, &player, operator, known) {
            Ok((own, Some((what, data)))) => {
                let call = Call { to: game, value: U256::ZERO, data };
                let ready = Ready { until, call, what, of: case.id() };
                (errand, Thought::Ready(ready), Some((key.0, key.1, own)))
            }
            Ok((own, None)) => (errand, Thought::Nothing, Some((key.0, key.1, own))),
            Err(problem) => (errand, Thought::Failed(problem), None),
        });
    }

    /// Runs others' results again, and challenges those that are wrong.
    fn watch(&mut self, head: Head, open: &[Case]) {
        let Some(watching) = &self.seat.watching else { return };
        let mut others: Vec<(u64, B256, Posted)> = Vec::new();
        for (result, posted) in self.book.results() {
            let until = posted.fulfillment.final_at(self.seat.window);
            let watched = posted.readable().is_some_and(|request| watching.models.contains(&request.model));
            let ours = self.seat.operator == Some(posted.fulfillment.operator);
            if watched && !ours && head.timestamp < until && self.book.docket().fallen(result).is_none() {
                others.push((until, *result, posted.clone()));
            }
        }
        // What becomes final first.
        others.sort_by_key(|(until, result, _)| (*until, *result));
        let bond = U256::from(self.seat.terms.bond);
        let cap = watching.cap;
        for (until, result, posted) in others {
            match self.verdicts.get(&result) {
                None => {
                    let errand = Errand::Examine(result);
                    let player = posted.readable().and_then(|request| self.seat.models.get(&request.model)).cloned();
                    if let Some(player) = player.filter(|_| self.thoughts.len() < THOUGHTS && self.is_free(errand)) {
                        self.about.insert(errand);
                        self.thoughts.spawn_blocking(move || {
                            (errand, Thought::Verdict(opinion::examine(&player, &posted)), None)
                        });
                    }
                }
                Some(Verdict::Wrong) => {
                    let errand = Errand::Challenge(result);
                    let challenged = self
                        .book
                        .docket()
                        .cases()
                        .any(|case| case.opened.challenger == self.account && case.opened.result == result);
                    if challenged || !self.is_free(errand) {
                        continue;
                    }
                    // INVARIANT: bonds at stake and bonds lost never exceed the cap. What is on its way counts.
                    let going = self.ready.keys().filter(|(_, errand)| matches!(errand, Errand::Challenge(_))).count();
                    let at_stake = bond * U256::from(going) + self.laid_out(open, bond);
                    if at_stake + bond > cap {
                        if !self.poor {
                            error!(%cap, %at_stake, %bond, "a result is wrong, and the spending cap forbids to challenge it (watcher.cap)");
                        }
                        self.poor = true;
                        continue;
                    }
                    self.poor = false;
                    let call = IDisputeGame::challengeCall {
                        request: posted.request,
                        fulfillment: posted.fulfillment.clone(),
                    };
                    let call = Call::new(self.seat.game, bond, &call);
                    let of = posted.readable().map_or(0, |request| request.id.0);
                    self.ready.insert((until, errand), Ready { until, call, what: name(errand), of });
                }
                Some(_) => {}
            }
        }
    }

    /// Bonds of this account that are in the game, or were lost in it.
    fn laid_out(&self, open: &[Case], bond: U256) -> U256 {
        let own = |case: &&Case| case.opened.challenger == self.account;
        let lost = |case: &&Case| case.ended.is_some_and(|ended| ended.outcome == Outcome::Upheld);
        let at_stake = open.iter().filter(own).count();
        let lost = self.book.docket().cases().filter(own).filter(lost).count();
        bond * U256::from(at_stake + lost)
    }

    /// Takes out what the game owes this account, when nothing is going on.
    async fn withdraw(&mut self) -> Result<(), RelayerError> {
        if !self.is_free(Errand::Withdraw) || self.book.docket().cases().all(|case| self.side(case).is_none()) {
            return Ok(());
        }
        let call = IDisputeGame::creditOfCall { account: self.account };
        let amount = self.shared.rpc.client().view(self.seat.game, call).await?;
        if amount.is_zero() {
            self.held.insert(Errand::Withdraw, Instant::now() + HOLD);
            return Ok(());
        }
        let call =
            Call::new(self.seat.game, U256::ZERO, &IDisputeGame::withdrawCreditCall { to: self.account, amount });
        let ready = Ready { until: u64::MAX, call, what: "withdraw", of: 0 };
        self.ready.insert((u64::MAX, Errand::Withdraw), ready);
        Ok(())
    }

    /// Sends what is most urgent. True if something was sent.
    async fn send(&mut self, head: Head) -> Result<bool, RelayerError> {
        while let Some(((until, errand), ready)) = self.ready.pop_first() {
            if head.timestamp > until {
                warn!(what = ready.what, of = ready.of, "too late");
                continue;
            }
            // INVARIANT: no bond is put up by events that are not all there: it may have been put up already.
            if matches!(errand, Errand::Challenge(_)) && !self.book.is_complete(&self.shared.rpc).await? {
                return Ok(true);
            }
            let Ready { call, what, of, .. } = ready;
            match self.seat.sender.send(&self.shared.rpc, Purpose::Dispute, call, &[]).await {
                Ok(sent) => {
                    info!(what, of, tx = %sent.hash, gas = sent.gas_used, succeeded = sent.succeeded, "dispute move mined");
                    // Whatever ended may have brought credit.
                    self.held.remove(&Errand::Withdraw);
                    let mined = Progress::Mined {
                        purpose: Purpose::Dispute.name(),
                        transaction: sent.hash,
                        gas_used: sent.gas_used,
                        requests: 0,
                    };
                    let _ = self.shared.reporter.send(mined);
                    self.report(match errand {
                        Errand::Challenge(_) => DisputeProgress::Challenged { id: RequestId(of) },
                        _ => DisputeProgress::Moved { dispute: of, what, gas_used: sent.gas_used },
                    });
                    return Ok(true);
                }
                Err(SendError::Client(ClientError::Reverted(reason))) => {
                    // The chain has gone on, or somebody else has done it: the next look will show.
                    debug!(what, of, %reason, "the game refuses");
                    self.held.insert(errand, Instant::now() + HOLD);
                }
                // Others may cost less: a move costs gas, a challenge its bond besides.
                Err(error @ (SendError::Poor { .. } | SendError::OverBudget { .. })) => {
                    if self.short.is_news(&format!("{what} of {of}")) {
                        error!(what, of, %error, "no money for a dispute; what costs less goes on");
                    }
                    self.held.insert(errand, Instant::now() + HOLD);
                }
                Err(error @ SendError::TooBig(_)) => {
                    error!(what, of, %error, "a move that no transaction has room for");
                    self.held.insert(errand, Instant::now() + UNSURE);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}

/// What the next move of a dispute is called.
fn errand_of(case: &Case) -> Errand {
    match case.turn() {
        Turn::Claim => Errand::Claim(case.opened.result),
        _ => Errand::Move(case.id(), case.dispute().moves, case.claim.is_some()),
    }
}

/// Whether an errand still makes sense.
fn is_current(book: &Book, errand: Errand) -> bool {
    let fallen = |case: &Case| book.docket().fallen(&case.opened.result).is_some();
    match errand {
        Errand::Move(id, ..) => book
            .docket()
            .case(id)
            .is_some_and(|case| case.ended.is_none() && !fallen(case) && errand_of(case) == errand),
        Errand::Claim(result) => book
            .docket()
            .cases()
            .any(|case| case.opened.result == result && case.ended.is_none() && !fallen(case) && case.claim.is_none()),
        Errand::Timeout(id) => book.docket().case(id).is_some_and(|case| case.ended.is_none() && !fallen(case)),
        Errand::Close(id) => book.docket().case(id).is_some_and(|case| case.ended.is_none()),
        Errand::Reject(result) => book.docket().fallen(&result) == Some(false),
        Errand::Examine(_) | Errand::Withdraw => true,
        Errand::Challenge(result) => book.docket().fallen(&result).is_none(),
    }
}

fn name(errand: Errand) -> &'static str {
    match errand {
        Errand::Move(..) => "move",
        Errand::Claim(_) => "claim",
        Errand::Timeout(_) => "timeout",
        Errand::Reject(_) => "reject",
        Errand::Close(_) => "close",
        Errand::Examine(_) => "examine",
        Errand::Challenge(_) => "challenge",
        Errand::Withdraw => "withdraw",
    }
}

/// The next move of one side: its name and calldata, with what is known of the run now.
fn next(
    case: &Case,
    posted: &Posted,
    player: &Player,
    operator: bool,
    known: Option<Own>,
) -> Result<(Own, Planned), String> {
    debug_assert_eq!(result_hash(&case.request, &case.fulfillment), case.opened.result);
    let own = match known {
        Some(own) => own,
        None if operator => {
            let request = opinion::question(posted).ok_or("the request does not decode")?;
            let trace = EngineTrace::of(player.clone(), request).map_err(|error| error.to_string())?;
            Own::Defence(Arc::new(trace))
        }
        None => {
            let claimed = case.claim.as_ref().ok_or("there is no claim to look at")?;
            let opinion = opinion::of_claim(player, posted, claimed).map_err(|error| error.to_string())?;
            Own::Opinion(opinion.ok_or("the request does not decode")?)
        }
    };
    let text = |error: PlayError<InferError>| error.to_string();
    let model = player.model();
    let (trees, descriptor) = player.commitment();
    let planned = match &own {
        Own::Defence(trace) => defend(case, model, trace).map_err(text)?.map(|planned| (planned, None)),
        Own::Opinion(opinion) => match challenge(case, model, opinion).map_err(text)? {
            Some(planned) => {
                let request = opinion::question(posted).ok_or("the request does not decode")?;
                let proof = evidence(case, model, trees, &request, &posted.output, opinion, &planned).map_err(text)?;
                Some((planned, proof))
            }
            None => None,
        },
    };
    let Some((planned, proof)) = planned else { return Ok((own, None)) };
    let data = planned.calldata(case, descriptor, proof).ok_or("a move without its evidence")?;
    let what = planned.name();
    Ok((own, Some((what, data.into()))))
}

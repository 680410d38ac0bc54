//! Whose move it is, which one, and how urgent.
//!
//! One round reads the chain, lets finished thoughts come in, starts new ones, and sends the most urgent thing that is ready. Thinking (running a
//! model, hashing its tensors) happens beside it. Nothing is decided before everything that this account has sent is seen on the chain, so nothing is
//! done twice; and every move names the state that it answers, so if it is, the contract refuses it.

use super::{
    book::Book,
    errand::{Errand, Ready, errand_of, is_current, name},
    opinion::Verdict,
    thinking::{Learnt, NoMove, Own, Thought, next},
    trace::Player,
};
use crate::{
    chain::{Head, SendError, Sender, WatchSettings},
    complaints::Complaints,
    crash,
    ops::metrics::{DISPUTE_MOVES, DISPUTES_ENDED},
    pipeline::{Progress, RelayerError, Rounds, Shared, rounds},
    store::Purpose,
};
use alloy::{
    primitives::{Address, B256, U256},
    sol_types::SolCall,
};
use candor_sdk::{
    bindings::{IDisputeGame, Outcome, Terms},
    client::{Call, ClientError},
    dispute::Case,
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
    /// Whether to challenge what can't be judged for want of its input.
    pub demand_inputs: bool,
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
    /// This relayer's engine and the reference arithmetic disagree about its own run: it does not go on by that run.
    Doubted {
        /// The dispute.
        dispute: u64,
        /// About what.
        doubt: String,
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
pub(super) const THOUGHTS: usize = 2;

/// Time for which something that the chain refuses is left alone.
const HOLD: Duration = Duration::from_secs(5);

/// Time for which a result is left alone whose examination failed.
pub(super) const UNSURE: Duration = Duration::from_secs(60);

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
        withheld: HashMap::new(),
        told: HashSet::new(),
        deadlines: HashMap::new(),
        poor: false,
        readings: 0,
        short: Complaints::default(),
    };
    rounds(&shared, None, &mut table).await
}

pub(super) struct Table {
    pub(super) shared: Arc<Shared>,
    pub(super) seat: Arc<Seat>,
    pub(super) account: Address,
    pub(super) book: Book,
    /// Whether everything was read once.
    pub(super) begun: bool,
    pub(super) thoughts: JoinSet<(Errand, Thought, Option<Learnt>)>,
    /// Errands being thought about.
    pub(super) about: HashSet<Errand>,
    pub(super) ready: BTreeMap<(u64, Errand), Ready>,
    /// What the chain refuses, or could not be thought through: left alone until then.
    pub(super) held: HashMap<Errand, Instant>,
    /// Runs, by result and whether they are for the defence.
    pub(super) own: HashMap<(B256, bool), Own>,
    pub(super) verdicts: HashMap<B256, Verdict>,
    /// Results that can't be judged for want of their inputs, and why.
    pub(super) withheld: HashMap<B256, String>,
    /// Ends that were told.
    pub(super) told: HashSet<u64>,
    /// The last second of each turn of this account's disputes, as the game said.
    pub(super) deadlines: HashMap<(u64, Errand), u64>,
    /// Whether the cap stands in the way, and that was said.
    pub(super) poor: bool,
    /// How often the book was read again when it was last looked at.
    readings: u32,
    /// What was said of money that is short.
    short: Complaints,
}

impl Rounds for Table {
    const TASK: &'static str = "disputes";

    async fn round(&mut self) -> Result<bool, RelayerError> {
        // INVARIANT: nothing is decided while a move or a challenge of an earlier run, or of a round that failed half-way, may still be mined. What the
        // poster has in flight is no reason to wait: a move may become due meanwhile, and then says so to the sender.
        if !self.seat.sender.recover_of(&self.shared.rpc, Purpose::Dispute).await? {
            return Ok(false);
        }
        let (head, caught_up) = self.book.look(&self.shared.rpc).await?;
        if self.readings != self.book.readings() {
            self.readings = self.book.readings();
            // The claim may be another now, and so may be what is due.
            self.own.retain(|(_, defence), _| *defence);
            self.deadlines.clear();
        }
        if !caught_up {
            // Of a chain that was reorganised, perhaps.
            self.deadlines.clear();
            return Ok(true);
        }
        if self.book.next_block() <= self.seat.sender.last_block() {
            return Ok(false);
        }
        let first = !std::mem::replace(&mut self.begun, true);
        if first {
            self.take_up();
        }
        self.tell_ends(first);
        self.listen();
        self.find_inputs(head).await?;
        self.held.retain(|_, until| *until > Instant::now());
        self.ready.retain(|(_, errand), _| is_current(&self.book, *errand));
        self.plan(head).await?;
        self.send(head).await
    }
}

impl Table {
    /// Says loudly what is at stake.
    fn take_up(&self) {
        let mine = |case: &&Case| case.ended.is_none() && self.side(case).is_some();
        for case in self.book.docket().cases().filter(mine) {
            let dispute = case.dispute();
            warn!(dispute = case.id(), turn = ?case.turn(), moves = dispute.moves, "taking up a dispute in mid-game");
        }
    }

    /// Which side of a dispute is this account's: true for the operator's.
    pub(super) fn side(&self, case: &Case) -> Option<bool> {
        if self.seat.operator == Some(case.fulfillment.operator) {
            Some(true)
        } else if case.opened.challenger == self.account {
            Some(false)
        } else {
            None
        }
    }

    /// Says how disputes ended. Those that a new process reads of are an old story, which is not counted again.
    fn tell_ends(&mut self, old: bool) {
        for case in self.book.docket().cases() {
            let (Some(ended), Some(operator)) = (case.ended, self.side(case)) else { continue };
            if !self.told.insert(case.id()) {
                continue;
            }
            let won = match ended.outcome {
                Outcome::Upheld => operator,
                _ => !operator,
            };
            if !old {
                let (role, outcome) = (role(operator), if won { "won" } else { "lost" });
                metrics::counter!(DISPUTES_ENDED, "role" => role, "outcome" => outcome).increment(1);
            }
            if won {
                info!(dispute = case.id(), outcome = ?ended.outcome, "a dispute was won");
            } else {
                error!(dispute = case.id(), outcome = ?ended.outcome, "a dispute was LOST");
            }
            self.report(DisputeProgress::Ended { dispute: case.id(), won });
        }
    }

    pub(super) fn report(&self, progress: DisputeProgress) {
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
                Thought::Doubted(doubt) => self.doubted(errand, doubt),
            }
        }
    }

    /// Our own run is wrong somewhere. It is forgotten, and made anew: what failed once may be right the next time. What is wrong every time never gets
    /// as far as a move.
    fn doubted(&mut self, errand: Errand, doubt: String) {
        self.held.insert(errand, Instant::now() + HOLD);
        let Errand::Move(dispute, ..) = errand else { return };
        error!(
            dispute,
            %doubt,
            "this relayer's engine and the reference arithmetic DISAGREE; not going on by this run, running again. Is the machine sound? If it happens again, please report it"
        );
        if let Some(case) = self.book.docket().case(dispute) {
            self.own.remove(&(case.opened.result, false));
        }
        self.report(DisputeProgress::Doubted { dispute, doubt });
    }

    /// Whether something is to be started: it is not being thought about, ready or held.
    pub(super) fn is_free(&self, errand: Errand) -> bool {
        !self.about.contains(&errand)
            && !self.held.contains_key(&errand)
            && !self.ready.keys().any(|(_, ready)| *ready == errand)
    }

    /// Everything that is to be done now.
    async fn plan(&mut self, head: Head) -> Result<(), RelayerError> {
        let open: Vec<Case> = self.book.docket().cases().filter(|case| case.ended.is_none()).cloned().collect();
        let mut moves = Vec::new();
        let mut busy = false;
        let current =
            |(id, errand): &(u64, Errand)| open.iter().any(|case| case.id() == *id && errand_of(case) == *errand);
        self.deadlines.retain(|turn, _| current(turn));
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
            let until = self.deadline(case, errand).await?;
            if !self.is_free(if mine { errand } else { Errand::Timeout(case.id()) }) {
                continue;
            }
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
        self.show(head, &open);
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
    async fn deadline(&mut self, case: &Case, turn: Errand) -> Result<u64, ClientError> {
        if let Some(until) = self.deadlines.get(&(case.id(), turn)) {
            return Ok(*until);
        }
        let call = IDisputeGame::deadlineOfCall { dispute: case.dispute().clone() };
        match self.shared.rpc.client().view(self.seat.game, call).await {
            Ok(until) => {
                let until = until.saturating_to();
                self.deadlines.insert((case.id(), turn), until);
                Ok(until)
            }
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
                // Without it if it is at a URI and its operator has not shown it (P47).
                input: posted.input().cloned().unwrap_or_default(),
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
        if posted.input().is_none() {
            warn!(dispute = case.id(), "a move needs the input, which is at a URI and not here");
            self.held.insert(errand, Instant::now() + HOLD);
            return;
        }
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
            Err(NoMove::Failed(problem)) => (errand, Thought::Failed(problem), None),
            Err(NoMove::Doubted(doubt)) => (errand, Thought::Doubted(doubt), None),
        });
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
            // What is of use at any time has no deadline.
            let left = (until < u64::MAX).then(|| Instant::now() + Duration::from_secs(until - head.timestamp));
            match self.seat.sender.send_by(&self.shared.rpc, Purpose::Dispute, call, &[], left).await {
                Ok(sent) => {
                    crash::point("dispute-recorded");
                    metrics::counter!(DISPUTE_MOVES, "move" => what).increment(1);
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
                Err(SendError::Cancelled(_) | SendError::Overtaken(_)) => return Ok(true),
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

/// A side of a dispute, as metrics name it.
pub(super) fn role(operator: bool) -> &'static str {
    if operator { "operator" } else { "challenger" }
}

//! The game's events, read in order.

use crate::bindings::{
    Claim, Dispute, Fulfillment,
    IDisputeGame::{Claimed as ClaimedEvent, IDisputeGameEvents as Event},
    Outcome, PackedRequest, Turn,
};
use crate::request::Request;
use alloy_primitives::{Address, B256, Bytes, U256};
use std::collections::{BTreeMap, HashMap};

/// What an operator said its run was, once for all disputes over the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Root of the trace.
    pub trace_root: B256,
    /// Symbols, nodes, root over the nodes.
    pub claim: Claim,
    /// Generated tokens as they were sent: four bytes big-endian each.
    pub tokens: Bytes,
    /// The first hashes below the root over the nodes.
    pub hashes: Vec<B256>,
}

/// A move of one dispute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Who made it.
    pub by: Address,
    /// The dispute after it.
    pub dispute: Dispute,
    /// What came with it, see `IDisputeGame.Moved`.
    pub data: Bytes,
}

/// How a dispute ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// For whom.
    pub outcome: Outcome,
    /// Who is paid; zero: nobody.
    pub winner: Address,
    /// Wei.
    pub paid: U256,
}

/// One dispute, as the chain shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The dispute when it was opened.
    pub opened: Dispute,
    /// The request that was answered.
    pub request: PackedRequest,
    /// The answer, as the oracle has it.
    pub fulfillment: Fulfillment,
    /// The operator's word; none until it has given it.
    pub claim: Option<Claimed>,
    /// The input, if it was at a URI and the operator has shown it.
    pub shown: Option<Bytes>,
    /// Moves of this dispute, in order.
    pub moves: Vec<Made>,
    /// Its end.
    pub ended: Option<Ended>,
}

impl Case {
    /// Number of the dispute.
    pub fn id(&self) -> u64 {
        self.opened.id
    }

    /// The dispute as the next move has to bring it.
    pub fn dispute(&self) -> &Dispute {
        self.moves.last().map_or(&self.opened, |made| &made.dispute)
    }

    /// Whose turn it is, and for what; `None` once the dispute has ended. The claim is a move in all disputes over a result at once, which their
    /// structs do not show.
    pub fn turn(&self) -> Turn {
        match self.dispute().turn {
            _ if self.ended.is_some() => Turn::None,
            Turn::Claim if self.claim.is_some() => Turn::Select,
            turn => turn,
        }
    }

    /// Whether the operator has to show the input before it makes its claim (P48).
    pub fn owes_input(&self) -> bool {
        let by_uri = Request::unpack(&self.request).is_ok_and(|request| request.input_by_uri);
        self.turn() == Turn::Claim && by_uri && self.shown.is_none()
    }

    /// Whether it is the operator's turn.
    pub fn is_operators_turn(&self) -> bool {
        matches!(self.turn(), Turn::Claim | Turn::Reveal | Turn::RevealLeaf | Turn::RevealPartials)
    }
}

/// All disputes of a game that was read from some block on.
#[derive(Debug, Clone, Default)]
pub struct Docket {
    cases: BTreeMap<u64, Case>,
    claims: HashMap<B256, Claimed>,
    shown: HashMap<B256, Bytes>,
    fallen: HashMap<B256, bool>,
}

impl Docket {
    /// Takes in the next event. The same event twice changes nothing; one of a dispute whose beginning was not read is left aside.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Challenged(event) => {
                let case = Case {
                    opened: event.dispute.clone(),
                    request: event.request,
                    fulfillment: event.fulfillment.clone(),
                    claim: self.claims.get(&event.result).cloned(),
                    shown: self.shown.get(&event.result).cloned(),
                    moves: Vec::new(),
                    ended: None,
                };
                self.cases.entry(event.id).or_insert(case);
            }
            Event::InputShown(event) => {
                for case in self.cases.values_mut().filter(|case| case.opened.result == event.result) {
                    case.shown.get_or_insert_with(|| event.input.clone());
                }
                self.shown.entry(event.result).or_insert_with(|| event.input.clone());
            }
            Event::Claimed(ClaimedEvent { result, traceRoot, claim, tokens, hashes }) => {
                let claimed =
                    Claimed { trace_root: *traceRoot, claim: *claim, tokens: tokens.clone(), hashes: hashes.clone() };
                for case in self.cases.values_mut().filter(|case| case.opened.result == *result) {
                    case.claim.get_or_insert_with(|| claimed.clone());
                }
                self.claims.entry(*result).or_insert(claimed);
            }
            Event::Moved(event) => {
                let Some(case) = self.cases.get_mut(&event.id) else { return };
                if event.dispute.moves > case.dispute().moves {
                    let made = Made { by: event.by, dispute: event.dispute.clone(), data: event.data.clone() };
                    case.moves.push(made);
                }
            }
            Event::Resolved(event) => {
                if let Some(case) = self.cases.get_mut(&event.id) {
                    case.ended = Some(Ended { outcome: event.outcome, winner: event.winner, paid: event.paid });
                }
                if event.outcome == Outcome::Rejected {
                    self.fallen.entry(event.result).or_insert(false);
                }
            }
            Event::Rejected(event) => {
                self.fallen.insert(event.result, true);
            }
            Event::Burned(_) | Event::CreditWithdrawn(_) => {}
        }
    }

    /// All disputes, in the order in which they were opened.
    pub fn cases(&self) -> impl Iterator<Item = &Case> {
        self.cases.values()
    }

    /// One of them.
    pub fn case(&self, id: u64) -> Option<&Case> {
        self.cases.get(&id)
    }

    /// The input of a result that was at a URI, if its operator has shown it.
    pub fn shown(&self, result: &B256) -> Option<&Bytes> {
        self.shown.get(result)
    }

    /// Whether a result was proven wrong: none if it was not, else whether that was carried out (`reject`).
    pub fn fallen(&self, result: &B256) -> Option<bool> {
        self.fallen.get(result).copied()
    }
}

//! What there is to do in disputes, each thing by a name, so that nothing is done twice.

use super::book::Book;
use alloy::primitives::B256;
use candor_sdk::{bindings::Turn, client::Call, dispute::Case};

/// What is thought about or done, named so that it is not done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Errand {
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
pub(super) struct Ready {
    /// Unix second until which it is of use.
    pub(super) until: u64,
    pub(super) call: Call,
    pub(super) what: &'static str,
    /// The dispute or the request, for people.
    pub(super) of: u64,
}

/// What the next move of a dispute is called.
pub(super) fn errand_of(case: &Case) -> Errand {
    match case.turn() {
        Turn::Claim => Errand::Claim(case.opened.result),
        _ => Errand::Move(case.id(), case.dispute().moves, case.claim.is_some()),
    }
}

/// Whether an errand still makes sense.
pub(super) fn is_current(book: &Book, errand: Errand) -> bool {
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

pub(super) fn name(errand: Errand) -> &'static str {
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

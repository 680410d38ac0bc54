//! Which move it is: everything that takes long, beside the rest. Running a model, hashing its tensors, looking twice.

use super::{
    book::{Posted, result_hash},
    errand::Ready,
    opinion::{self, Verdict, noted},
    recheck,
    trace::{EngineTrace, Player},
};
use crate::engine::InferError;
use alloy::primitives::{B256, Bytes};
use candor_sdk::dispute::{Case, Move, Opinion, PlayError, challenge, defend, evidence};
use std::sync::Arc;

/// What thinking brought.
pub(super) enum Thought {
    Ready(Ready),
    Nothing,
    Verdict(Verdict),
    Failed(String),
    /// Engine and reference disagree about our own run: no move is made by it.
    Doubted(String),
}

/// What is known of a result's run.
#[derive(Debug, Clone)]
pub(super) enum Own {
    Defence(Arc<EngineTrace>),
    Opinion(Opinion<Arc<EngineTrace>>),
}

/// What was learnt of a run on the way: of which result, and whether for its defence.
pub(super) type Learnt = (B256, bool, Own);

/// The name and calldata of a move, if there is one.
pub(super) type Planned = Option<(&'static str, Bytes)>;

/// Why there is no move.
pub(super) enum NoMove {
    Failed(String),
    Doubted(String),
}

impl From<PlayError<InferError>> for NoMove {
    fn from(error: PlayError<InferError>) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<InferError> for NoMove {
    fn from(error: InferError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<&str> for NoMove {
    fn from(problem: &str) -> Self {
        Self::Failed(problem.to_owned())
    }
}

/// Why there is no question.
const NO_INPUT: &str = "the request does not decode, or its input is not here";

/// The next move of one side, with what is known of the run now.
pub(super) fn next(
    case: &Case,
    posted: &Posted,
    player: &Player,
    operator: bool,
    known: Option<Own>,
) -> Result<(Own, Planned), NoMove> {
    debug_assert_eq!(result_hash(&case.request, &case.fulfillment), case.opened.result);
    let own = match known {
        Some(own) => own,
        None if operator => {
            let request = opinion::question(posted).ok_or(NO_INPUT)?;
            Own::Defence(Arc::new(EngineTrace::of(player.clone(), request)?))
        }
        None => {
            let claimed = case.claim.as_ref().ok_or("there is no claim to look at")?;
            let opinion = opinion::of_claim(player, posted, claimed)?.ok_or(NO_INPUT)?;
            if let Opinion::Run { trace, .. } = &opinion {
                agreed(recheck::run(trace, recheck::WORK)?)?;
            }
            Own::Opinion(opinion)
        }
    };
    let model = player.model();
    let (trees, descriptor) = player.commitment();
    let planned = match &own {
        Own::Defence(trace) => {
            let input = posted.input().ok_or(NO_INPUT)?;
            defend(case, model, input, trace)?.map(|planned| (planned, None))
        }
        Own::Opinion(opinion) => match challenge(case, model, opinion)? {
            Some(planned) => {
                look_twice(case, &planned, opinion)?;
                let request = opinion::question(posted).ok_or(NO_INPUT)?;
                let proof = evidence(case, model, trees, &request, &posted.output, opinion, &planned)?;
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

// INVARIANT: a challenger points at nothing that the reference does not have as its engine has it.
fn look_twice(case: &Case, planned: &Move, opinion: &Opinion<Arc<EngineTrace>>) -> Result<(), NoMove> {
    let Opinion::Run { trace, .. } = opinion else { return Ok(()) };
    agreed(recheck::before(case, planned, trace, recheck::WORK)?)
}

fn agreed(doubt: Option<recheck::Doubt>) -> Result<(), NoMove> {
    noted(doubt.is_none());
    doubt.map_or(Ok(()), |doubt| Err(NoMove::Doubted(doubt.to_string())))
}

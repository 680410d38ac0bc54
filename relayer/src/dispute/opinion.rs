//! What one thinks of a result.

use super::{
    book::Posted,
    recheck,
    trace::{EngineTrace, Player},
};
use crate::{
    engine::{InferError, InferRequest},
    ops::metrics::SECOND_OPINIONS,
};
use alloy::primitives::keccak256;
use candor_sdk::{
    dispute::{Claimed, Opinion, Screening, Trace, screen, undefined},
    program::{Interpreter, Params, RequestError},
};
use std::sync::Arc;
use tracing::{debug, warn};

/// Multiply-adds of the largest run that the reference interpreter repeats as a whole: a second or two.
const REFERENCE_WORK: u64 = 200_000_000;

/// What comes of looking at a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Right,
    /// It is wrong, and two paths say so.
    Wrong,
    /// Its input is at a URI and can't be had, and why: nobody who lacks it can judge.
    Withheld(String),
    /// Our own two paths disagree, or fail: no money is put on it.
    Unsure(String),
}

/// What a result was asked; none if its input is not here.
pub fn question(posted: &Posted) -> Option<InferRequest> {
    let request = posted.readable()?;
    Some(InferRequest {
        input: posted.input()?.to_vec(),
        params: Params {
            max_tokens: request.params.maxTokens,
            temperature: request.params.temperature,
            min_p: request.params.minP,
        },
        seed: request.seed.0,
    })
}

/// Runs the model again, and where it says something else, looks for a second opinion before that is believed: see [`confirm`].
pub fn examine(player: &Player, posted: &Posted) -> Verdict {
    let Some(request) = question(posted) else { return Verdict::Withheld("its input is not here".into()) };
    let claimed = posted.fulfillment.outputHash;
    let trace = match EngineTrace::of(player.clone(), request.clone()) {
        Ok(trace) => trace,
        // Nobody could have answered this.
        Err(InferError::Request(error)) => return unanswerable(player, &request, &error),
        Err(error) => return Verdict::Unsure(error.to_string()),
    };
    if trace.failed().is_some() {
        return Verdict::Unsure("our own answer fails the model's check".into());
    }
    if keccak256(trace.output()) == claimed {
        return Verdict::Right;
    }
    warn!(model = %player.name, "an answer is not what this relayer's engine says; looking again on another path");
    let opinion = confirm(player, posted, &request, &trace);
    noted(opinion.is_ok());
    match opinion {
        Ok(()) => Verdict::Wrong,
        Err(reason) => Verdict::Unsure(reason),
    }
}

/// Counts a second opinion.
pub(super) fn noted(agreed: bool) {
    metrics::counter!(SECOND_OPINIONS, "outcome" => if agreed { "agreed" } else { "disagreed" }).increment(1);
}

/// Whether our own answer, which is not the operator's, is the right one as far as can be told without the engine: the weights in memory are those that
/// the model's id commits to; and the scalar reference, run as a whole, has the same output, or, where that would take too long, the same elements wherever
/// it looks ([`recheck::run`]), while the path that serves requests has the same answer.
///
/// # Errors
/// If it is not, or there is no saying.
pub fn confirm(player: &Player, posted: &Posted, request: &InferRequest, trace: &EngineTrace) -> Result<(), String> {
    let (wanted, held) = (posted.request.modelId, player.commitment().1.id().0);
    if wanted != held {
        return Err(format!(
            "the model in memory is not the one it was loaded as: it hashes to {held}; restart the relayer"
        ));
    }
    let model = player.model();
    let work = model.weights.elements().saturating_mul(trace.tree().symbols().sequence.into());
    if work <= REFERENCE_WORK {
        // Over our tokens, which pass the model's check only if they are what it generates.
        let run = Interpreter::new(model).replay(request, trace.generated()).map_err(|error| error.to_string())?;
        return match (run.failed_check, keccak256(&run.output) == posted.fulfillment.outputHash) {
            (None, _) if run.output == trace.output() => Ok(()),
            (None, true) => Err("the reference says that the answer is RIGHT, and the engine that it is wrong".into()),
            _ => Err("the engine and the reference disagree, and with the answer too".into()),
        };
    }
    debug!(model = %player.name, work, "too long for the reference as a whole; comparing elements of every node");
    if player.answer(request).map_err(|error| error.to_string())? != trace.output() {
        return Err("the engine's answer is not what its trace ends in".into());
    }
    match recheck::run(trace, recheck::WORK).map_err(|error| error.to_string())? {
        None => Ok(()),
        Some(doubt) => Err(format!("the engine and the reference disagree: {doubt}")),
    }
}

/// A request without an answer was answered. That is wrong if the reference says so too.
fn unanswerable(player: &Player, request: &InferRequest, error: &RequestError) -> Verdict {
    match player.model().check_request(request) {
        Err(reason) if reason == *error => Verdict::Wrong,
        _ => Verdict::Unsure(error.to_string()),
    }
}

/// What a challenger thinks of a claim.
///
/// # Errors
/// If the device fails.
pub fn of_claim(
    player: &Player,
    posted: &Posted,
    claimed: &Claimed,
) -> Result<Option<Opinion<Arc<EngineTrace>>>, InferError> {
    let Some(request) = question(posted) else { return Ok(None) };
    let model = player.model();
    Ok(Some(match screen(model, &request, claimed) {
        Screening::WrongClaim => Opinion::WrongClaim,
        Screening::Undefined(place) => Opinion::NoRun(place),
        Screening::Replay(tokens) => {
            let trace = Arc::new(EngineTrace::over(player.clone(), request, tokens)?);
            let undefined = undefined(model, &claimed.claim, &trace);
            Opinion::Run { trace, undefined }
        }
    }))
}

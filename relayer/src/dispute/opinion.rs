//! What one thinks of a result.

use super::{
    book::Posted,
    trace::{EngineTrace, Player},
};
use crate::engine::{InferError, InferRequest};
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

/// Runs the model again, and where it says something else, runs it once more on another path before that is believed: plainly, by the scalar
/// reference, or, where that would take too long, by the engine's trace, which computes every node by itself and checks what was generated.
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
    match reference(player, &request, &trace) {
        Ok(output) if keccak256(&output) == claimed => {
            Verdict::Unsure("the engine and the reference disagree; this is a bug in Candor, please report it".into())
        }
        Ok(output) if output == trace.output() => Verdict::Wrong,
        Ok(_) => Verdict::Unsure("the engine and the reference disagree, and with the answer too".into()),
        Err(error) => Verdict::Unsure(error),
    }
}

/// The answer by another path than the one that gave `trace`.
fn reference(player: &Player, request: &InferRequest, trace: &EngineTrace) -> Result<Vec<u8>, String> {
    let model = player.model();
    let symbols = trace.tree().symbols();
    let passes = trace.generated().len().max(1) as u64;
    let work = model.weights.elements().saturating_mul(symbols.sequence.into()).saturating_mul(passes);
    if work <= REFERENCE_WORK {
        return match Interpreter::new(model).run(request) {
            Ok(run) => Ok(run.output),
            Err(error) => Err(error.to_string()),
        };
    }
    debug!(model = %player.name, work, "too long for the reference; comparing the engine's answer with its trace");
    player.answer(request).map_err(|error| error.to_string())
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

//! Infers and signs what is answerable, earliest deadline first, as many requests of one model together as there are.

use super::{Infer, InferRequest, OperatorSettings, Progress, RelayerError, Served, Shared};
use crate::{
    chain::{Head, SendError, TIP},
    complaints::Complaints,
    crash,
    ops::metrics::{BATCH_SIZE, INFERENCE_DURATION, INFERENCES, REFUSALS, TIME_TO_SIGN},
    store::{RequestRow, Step},
};
use candor_sdk::{
    commitment::{Domain, signature_bytes},
    ids::ModelId,
    request::Request,
};
use futures_util::future::join_all;
use std::{collections::HashMap, sync::Arc};
use tokio::time::{Duration, Instant};
use tracing::{debug, error, info, warn};

/// Requests that run together, at most.
const BATCH: u32 = 64;

/// Requests looked at in one round, at most: they carry their inputs, and memory is finite.
const MOST_ROWS: u32 = 500;

/// Signatures asked for at once, of a key that is elsewhere.
const SIGNATURES: usize = 16;

/// Time after which a request is looked at again that costs more than it brings.
pub(super) const HOLD: Duration = Duration::from_secs(5);

pub(super) async fn run(shared: Arc<Shared>, operator: Arc<OperatorSettings>) -> Result<(), RelayerError> {
    let mut held = Held::new();
    let mut complaints = Complaints::default();
    while !shared.stop.is_cancelled() {
        shared.round("worker");
        let busy = match round(&shared, &operator, &mut held).await {
            Ok(busy) => busy,
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                shared.note("worker", &error);
                if complaints.is_news(&error.to_string()) {
                    warn!(%error, "waiting");
                }
                false
            }
        };
        if !busy {
            tokio::select! {
                () = shared.work.notified() => {}
                () = tokio::time::sleep(shared.poll_interval) => {}
                () = shared.stop.cancelled() => {}
            }
        }
    }
    Ok(())
}

async fn round(shared: &Shared, operator: &OperatorSettings, held: &mut Held) -> Result<bool, RelayerError> {
    let busy = sign(shared, operator).await?;
    Ok(infer(shared, operator, held).await? || busy)
}

/// Requests that are not worth answering while gas is so dear, and when to look at them again.
type Held = HashMap<(u64, u32), Instant>;

/// Takes up what can be answered now. True if there was anything.
async fn infer(shared: &Shared, operator: &OperatorSettings, held: &mut Held) -> Result<bool, RelayerError> {
    let head = *shared.head.borrow();
    held.retain(|_, until| Instant::now() < *until);
    // Those held do not stand in the way of others.
    let limit = BATCH.saturating_add(u32::try_from(held.len()).unwrap_or(u32::MAX)).min(MOST_ROWS);
    let models: Vec<ModelId> = operator.models.keys().copied().collect();
    let mut rows = shared.store.claim(Step::Seen, operator.account.address(), &models, head.timestamp, limit).await?;
    if !rows.is_empty() {
        crash::point("claimed");
    }
    rows.retain(|row| !held.contains_key(&row.key()));
    rows.truncate(BATCH as usize);
    let found = !rows.is_empty();
    let mut by_model: HashMap<ModelId, Vec<RequestRow>> = HashMap::new();
    for row in rows {
        if let Some(reason) = refuse(shared, &row, operator, head) {
            drop_request(shared, &row, &reason).await?;
        } else if !shared.at_a_loss && loses_money(&row.request, head) {
            let (fee, base_fee) = (row.request.fee, head.base_fee);
            debug!(request = %row.id(), fee, base_fee, "gas costs more than is paid; waiting");
            held.insert(row.key(), Instant::now() + HOLD);
        } else {
            by_model.entry(row.request.model).or_default().push(row);
        }
    }
    for (model, rows) in by_model {
        if let Some(served) = operator.models.get(&model) {
            infer_batch(shared, served, rows, held).await?;
        }
    }
    Ok(found)
}

/// Gas of a result that is posted and settled alone, roughly; `docs/gas.md`. In company it is less, but nobody can count on company.
const GAS_OF_A_RESULT: u128 = 90_000;

/// Whether the gas costs more than the fee, with what the callback costs beyond what is paid for it. That can change before the deadline.
pub(crate) fn loses_money(request: &Request, head: Head) -> bool {
    let price = head.base_fee.saturating_add(TIP);
    let unpaid = price.saturating_sub(request.callback_gas_price.into());
    let callback = unpaid.saturating_mul(request.callback_gas_limit.into());
    price.saturating_mul(GAS_OF_A_RESULT).saturating_add(callback) > request.fee
}

/// Why a request is not worth starting, now or later.
pub(super) fn refuse(shared: &Shared, row: &RequestRow, operator: &OperatorSettings, head: Head) -> Option<String> {
    let request = &row.request;
    let Some(served) = operator.models.get(&request.model) else {
        return Some(format!("model {} is not served here", request.model.short()));
    };
    if head.timestamp > request.deadline {
        return Some(format!("expired at unix second {}", request.deadline));
    }
    // Even at its fastest.
    let fastest = shared.fastest(&request.model);
    if head.timestamp.saturating_add(fastest.as_secs()) > request.deadline {
        return Some(format!(
            "{} takes {fastest:?}, the deadline is in {} s",
            served.name,
            request.deadline - head.timestamp
        ));
    }
    if request.fee < served.min_fee {
        return Some(format!("a fee of {} wei, {} asks {} wei", request.fee, served.name, served.min_fee));
    }
    None
}

async fn infer_batch(
    shared: &Shared,
    served: &Served,
    rows: Vec<RequestRow>,
    held: &mut Held,
) -> Result<(), RelayerError> {
    for row in &rows {
        debug!(request = %row.id(), model = %served.name, "picked up");
        let _ =
            shared.reporter.send(Progress::PickedUp { id: row.id(), model: served.name.clone(), fee: row.request.fee });
    }
    let batch: Vec<InferRequest> = rows.iter().map(question).collect();
    let model: Arc<dyn Infer> = served.model.clone();
    let started = Instant::now();
    let running = tokio::task::spawn_blocking(move || model.infer(&batch));
    let Ok(answers) = shared.own_time.wait(running).await else {
        return infer_one_by_one(shared, served, rows, held).await;
    };
    let took = started.elapsed();
    shared.work_done.add(rows.len(), took);
    shared.ran(rows[0].request.model, took);
    metrics::histogram!(INFERENCE_DURATION, "model" => served.name.clone()).record(took);
    metrics::histogram!(BATCH_SIZE, "model" => served.name.clone()).record(rows.len() as f64);
    metrics::counter!(INFERENCES, "model" => served.name.clone()).increment(rows.len() as u64);
    crash::point("inferred-unstored");
    let (size, device) = (rows.len(), served.model.device());
    let answered: Vec<_> = rows
        .iter()
        .zip(&answers)
        .filter_map(|(row, answer)| Some((&row.request, answer.as_ref().ok()?.clone())))
        .collect();
    shared.store.inferred(&answered, took).await?;
    crash::point("inferred");
    for (row, answer) in rows.iter().zip(answers) {
        match answer {
            Ok(output) => {
                info!(request = %row.id(), model = %served.name, %device, ?took, batch = size, "inferred");
                let inferred = Progress::Inferred {
                    id: row.id(),
                    device: device.clone(),
                    took,
                    batch: size,
                    output: output.into(),
                };
                let _ = shared.reporter.send(inferred);
            }
            // The device failed, not the request: it stays in the queue, and is tried again in a while.
            Err(error) if error.is_retryable() => {
                warn!(request = %row.id(), model = %served.name, %error, "not answered yet; trying again");
                held.insert(row.key(), Instant::now() + HOLD);
            }
            Err(error) => drop_request(shared, row, &error.to_string()).await?,
        }
    }
    Ok(())
}

/// A model panicked, which is a bug in Candor. It must not become a way to stop relayers: the question that does it is left alone, its neighbours are
/// answered.
async fn infer_one_by_one(
    shared: &Shared,
    served: &Served,
    rows: Vec<RequestRow>,
    held: &mut Held,
) -> Result<(), RelayerError> {
    if let [row] = rows.as_slice() {
        error!(request = %row.id(), model = %served.name, "the model panicked; this is a bug in Candor, please report it");
        return drop_request(shared, row, "the model panicked").await;
    }
    for row in rows {
        Box::pin(infer_batch(shared, served, vec![row], held)).await?;
    }
    Ok(())
}

/// What a request asks the model.
fn question(row: &RequestRow) -> InferRequest {
    let params = &row.request.params;
    InferRequest {
        input: row.input.to_vec(),
        params: candor_sdk::program::Params {
            max_tokens: params.maxTokens,
            temperature: params.temperature,
            min_p: params.minP,
        },
        seed: row.request.seed.0,
    }
}

/// Signs what was inferred. True if there was anything.
async fn sign(shared: &Shared, operator: &OperatorSettings) -> Result<bool, RelayerError> {
    let client = shared.rpc.client();
    let domain = Domain { chain_id: client.chain_id, contract: client.oracle };
    let models: Vec<ModelId> = operator.models.keys().copied().collect();
    let now = shared.head.borrow().timestamp;
    let rows = shared.store.claim(Step::Inferred, operator.account.address(), &models, now, BATCH).await?;
    if rows.is_empty() {
        return Ok(false);
    }
    crash::point("claimed-again");
    // A key in a KMS takes some milliseconds for each. What is signed when one fails is stored all the same.
    let (mut signed, mut failure) = (Vec::new(), None);
    for rows in rows.chunks(SIGNATURES) {
        let signing = rows.iter().filter_map(|row| {
            let digest = domain.fulfillment_digest(&row.request, row.output.as_ref()?);
            Some(async move { (row, operator.signer.sign_hash(&digest).await) })
        });
        for (row, outcome) in join_all(signing).await {
            match outcome {
                Ok(signature) => signed.push((row, signature_bytes(&signature).to_vec())),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    if !signed.is_empty() {
        let signatures: Vec<_> = signed.iter().map(|(row, signature)| (&row.request, signature.clone())).collect();
        shared.store.signed(&signatures).await?;
        crash::point("signed");
    }
    for (row, _) in &signed {
        debug!(request = %row.id(), "signed");
        metrics::histogram!(TIME_TO_SIGN).record(row.age());
        let _ = shared.reporter.send(Progress::Signed { id: row.id() });
    }
    shared.signed.notify_one();
    match failure {
        Some(error) => Err(SendError::Signer(error).into()),
        None => Ok(true),
    }
}

pub(super) async fn drop_request(shared: &Shared, row: &RequestRow, reason: &str) -> Result<(), RelayerError> {
    info!(request = %row.id(), reason, "not answering");
    shared.store.dropped(&row.request, reason).await?;
    crash::point("dropped");
    shared.own_time.given_up(row.key());
    metrics::counter!(REFUSALS, "model" => row.request.model.short().to_string()).increment(1);
    let _ = shared.reporter.send(Progress::Dropped { id: row.id(), reason: reason.to_owned() });
    Ok(())
}

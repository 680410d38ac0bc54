//! Infers and signs what is answerable, earliest deadline first, as many requests of one model together as there are.

use super::{Infer, InferRequest, OperatorSettings, Progress, RelayerError, Served, Shared};
use crate::{
    chain::Head,
    crash,
    store::{RequestRow, Step},
};
use alloy::signers::SignerSync;
use candor_sdk::{
    commitment::{Domain, signature_bytes},
    ids::ModelId,
};
use std::{collections::HashMap, sync::Arc};
use tokio::time::{Duration, Instant};
use tracing::{debug, error, info};

/// Requests that run together, at most.
const BATCH: u32 = 64;

/// Requests looked at in one round, at most: they carry their inputs, and memory is finite.
const MOST_ROWS: u32 = 500;

/// Time after which a request is looked at again that costs more than it brings.
const HOLD: Duration = Duration::from_secs(5);

pub(super) async fn run(shared: Arc<Shared>, operator: Arc<OperatorSettings>) -> Result<(), RelayerError> {
    let mut held = Held::new();
    while !shared.stop.is_cancelled() {
        let mut busy = sign(&shared, &operator).await?;
        busy |= infer(&shared, &operator, &mut held).await?;
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

/// Requests that are not worth answering while gas is so dear, and when to look at them again.
type Held = HashMap<(u64, u32), Instant>;

/// Takes up what can be answered now. True if there was anything.
async fn infer(shared: &Shared, operator: &OperatorSettings, held: &mut Held) -> Result<bool, RelayerError> {
    let head = *shared.head.borrow();
    held.retain(|_, until| Instant::now() < *until);
    // Those held do not stand in the way of others.
    let limit = BATCH.saturating_add(u32::try_from(held.len()).unwrap_or(u32::MAX)).min(MOST_ROWS);
    let mut rows = shared.store.answerable(operator.account.address(), head.timestamp, limit).await?;
    rows.retain(|row| !held.contains_key(&row.key()));
    rows.truncate(BATCH as usize);
    let found = !rows.is_empty();
    let mut by_model: HashMap<ModelId, Vec<RequestRow>> = HashMap::new();
    for row in rows {
        if let Some(reason) = refuse(&row, operator, head) {
            drop_request(shared, &row, &reason).await?;
        } else if gas_is_too_dear(&row, head) {
            let (offered, base_fee) = (row.request.callback_gas_price, head.base_fee);
            debug!(request = %row.id(), offered, base_fee, "the callback would cost more than is paid for it; waiting");
            held.insert(row.key(), Instant::now() + HOLD);
        } else {
            by_model.entry(row.request.model).or_default().push(row);
        }
    }
    for (model, rows) in by_model {
        if let Some(served) = operator.models.get(&model) {
            infer_batch(shared, served, rows).await?;
        }
    }
    Ok(found)
}

/// Whether the callback would be carried at a loss. That can change before the deadline.
fn gas_is_too_dear(row: &RequestRow, head: Head) -> bool {
    row.request.callback_gas_limit > 0 && u128::from(row.request.callback_gas_price) < head.base_fee
}

/// Why a request is not worth starting, now or later.
fn refuse(row: &RequestRow, operator: &OperatorSettings, head: Head) -> Option<String> {
    let request = &row.request;
    let Some(served) = operator.models.get(&request.model) else {
        return Some(format!("model {} is not served here", request.model.short()));
    };
    if head.timestamp > request.deadline {
        return Some(format!("expired at unix second {}", request.deadline));
    }
    if request.fee < served.min_fee {
        return Some(format!("a fee of {} wei, {} asks {} wei", request.fee, served.name, served.min_fee));
    }
    None
}

async fn infer_batch(shared: &Shared, served: &Served, rows: Vec<RequestRow>) -> Result<(), RelayerError> {
    for row in &rows {
        debug!(request = %row.id(), model = %served.name, "picked up");
        let _ =
            shared.reporter.send(Progress::PickedUp { id: row.id(), model: served.name.clone(), fee: row.request.fee });
    }
    let batch: Vec<InferRequest> = rows.iter().map(question).collect();
    let model: Arc<dyn Infer> = served.model.clone();
    let started = Instant::now();
    let Ok(answers) = tokio::task::spawn_blocking(move || model.infer(&batch)).await else {
        return infer_one_by_one(shared, served, rows).await;
    };
    let took = started.elapsed();
    crash::point("inferred-unstored");
    let size = rows.len();
    for (row, answer) in rows.iter().zip(answers) {
        match answer {
            Ok(output) => {
                shared.store.inferred(row.key(), &output, took).await?;
                crash::point("inferred");
                info!(request = %row.id(), model = %served.name, device = %served.model.device(), ?took, batch = size, "inferred");
                let device = served.model.device();
                let _ = shared.reporter.send(Progress::Inferred {
                    id: row.id(),
                    device,
                    took,
                    batch: size,
                    output: output.into(),
                });
            }
            Err(error) => drop_request(shared, row, &error.to_string()).await?,
        }
    }
    Ok(())
}

/// A model panicked, which is a bug in Candor. It must not become a way to stop relayers: the question that does it is left alone, its neighbours are
/// answered.
async fn infer_one_by_one(shared: &Shared, served: &Served, rows: Vec<RequestRow>) -> Result<(), RelayerError> {
    if let [row] = rows.as_slice() {
        error!(request = %row.id(), model = %served.name, "the model panicked; this is a bug in Candor, please report it");
        return drop_request(shared, row, "the model panicked").await;
    }
    for row in rows {
        Box::pin(infer_batch(shared, served, vec![row])).await?;
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
    let rows = shared.store.at(Step::Inferred, BATCH).await?;
    for row in &rows {
        let Some(output) = &row.output else { continue };
        let digest = domain.fulfillment_digest(&row.request, output);
        let signature = operator.signer.sign_hash_sync(&digest).map_err(crate::chain::SendError::from)?;
        shared.store.signed(row.key(), &signature_bytes(&signature)).await?;
        crash::point("signed");
        debug!(request = %row.id(), "signed");
        let _ = shared.reporter.send(Progress::Signed { id: row.id() });
        shared.signed.notify_one();
    }
    Ok(!rows.is_empty())
}

pub(super) async fn drop_request(shared: &Shared, row: &RequestRow, reason: &str) -> Result<(), RelayerError> {
    info!(request = %row.id(), reason, "not answering");
    shared.store.dropped(row.key(), reason).await?;
    let _ = shared.reporter.send(Progress::Dropped { id: row.id(), reason: reason.to_owned() });
    Ok(())
}

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
use std::{collections::HashMap, sync::Arc, time::Instant};
use tracing::{debug, info};

/// Requests that run together, at most.
const BATCH: u32 = 64;

pub(super) async fn run(shared: Arc<Shared>, operator: Arc<OperatorSettings>) -> Result<(), RelayerError> {
    while !shared.stop.is_cancelled() {
        let mut busy = sign(&shared, &operator).await?;
        busy |= infer(&shared, &operator).await?;
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

/// Takes up what can be answered now. True if there was anything.
async fn infer(shared: &Shared, operator: &OperatorSettings) -> Result<bool, RelayerError> {
    let head = *shared.head.borrow();
    let rows = shared.store.answerable(operator.account.address(), head.timestamp, BATCH).await?;
    let found = !rows.is_empty();
    let mut by_model: HashMap<ModelId, Vec<RequestRow>> = HashMap::new();
    for row in rows {
        match refuse(&row, operator, head) {
            Some(reason) => drop_request(shared, &row, &reason).await?,
            None => by_model.entry(row.request.model).or_default().push(row),
        }
    }
    for (model, rows) in by_model {
        if let Some(served) = operator.models.get(&model) {
            infer_batch(shared, served, rows).await?;
        }
    }
    Ok(found)
}

/// Why a request is not worth starting.
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
    if request.callback_gas_limit > 0 && u128::from(request.callback_gas_price) < head.base_fee {
        return Some(format!(
            "{} wei per gas for the callback, gas costs {} wei now",
            request.callback_gas_price, head.base_fee
        ));
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
    let answers =
        tokio::task::spawn_blocking(move || model.infer(&batch)).await.map_err(|_| RelayerError::Panicked("model"))?;
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

//! `candor result`: is an answer what it claims to be? Whose signature it is, and whether the model gives these bytes when it is run again.
//!
//! From a file this needs no chain and trusts nobody. From the chain it takes the node's word for what was posted.
use super::{
    Context, Outcome, UsageError,
    context::{AnyClient, known_models},
};
use crate::{
    answer,
    config::{Config, ModelSource, Needs},
    engine::InferRequest,
    fetch::{Fetcher, Wanted, shown},
    models::CatalogModel,
    readable::money,
};
use alloy::{
    consensus::Transaction,
    primitives::{Address, B256, Bytes, U256},
    providers::Provider,
    sol_types::{SolCall, SolValue},
};
use anyhow::{Context as _, bail};
use candor_sdk::{
    bindings::{IInferenceOracle, PackedRequest, RequestStatus},
    commitment::SignedResult,
    ids::RequestId,
    program::Params,
    request::{Input, Request},
};
use clap::Args;
use serde_json::json;
use std::{fs::File, io::Write, path::PathBuf};

/// What `candor result` is told.
#[derive(Debug, Args)]
pub(super) struct ResultArgs {
    /// The number of a request on the chain, or a file that --save wrote
    #[arg(value_name = "NUMBER|FILE")]
    result: String,
    /// Folder of the model, if it is neither embedded nor configured
    #[arg(long, value_name = "FOLDER")]
    model: Option<String>,
    /// Write the signed result to a file that anybody can check without a chain
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// An answer, and what the chain says about it if it was asked.
struct Claim {
    request: Request,
    input: Bytes,
    output: Bytes,
    signed: Option<SignedResult>,
    chain: Option<OnChain>,
}

struct OnChain {
    status: RequestStatus,
    operator: Address,
    transaction: B256,
    final_at: u64,
    /// What the operator could still lose.
    free_stake: U256,
}

/// What came out.
enum Verdict {
    Verified(String),
    Wrong(String),
    Unverifiable(String),
}

pub(super) async fn result(context: &Context, args: &ResultArgs) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    let (config, claim) = match args.result.parse::<RequestId>() {
        Ok(id) => {
            let config = context.config(Needs::Chain)?;
            let client = context.client(&config).await?;
            let claim = from_chain(&client, &config, id).await?;
            (config, claim)
        }
        Err(_) => (context.config(Needs::Nothing)?, from_file(&args.result)?),
    };
    if let Some(path) = &args.save {
        let signed = claim
            .signed
            .as_ref()
            .context("the result was posted through another contract; its signature is not in plain sight")?;
        save(path, signed)?;
    }
    // A signature first: without it the answer is nobody's.
    let signer = claim.signed.as_ref().map(|signed| signed.verify().map(|(_, signer)| signer));
    let model = find_model(context, &config, args, &claim)?;
    let verdict = match &signer {
        Some(Err(error)) => Verdict::Wrong(format!("the signature does not hold: {error}")),
        _ => run_again(model.as_ref(), &claim).await?,
    };
    let meaning = |output: &[u8]| {
        model.as_ref().map_or_else(
            || format!("{} bytes", output.len()),
            |model| answer::describe(&model.imported().family, output),
        )
    };
    let (word, reason) = match &verdict {
        Verdict::Verified(reason) => ("VERIFIED", reason),
        Verdict::Wrong(reason) => ("WRONG", reason),
        Verdict::Unverifiable(reason) => ("NOT VERIFIED", reason),
    };
    context.say(
        || {
            let request = &claim.request;
            let mut text = format!(
                "request    {} of {} to model {}\ninput      {} bytes\noutput     {}: {}",
                request.id,
                request.requester,
                model.as_ref().map_or_else(|| request.model.to_string(), |model| format!("{} ({})", model.name(), request.model.short())),
                claim.input.len(),
                claim.output,
                meaning(&claim.output),
            );
            match &signer {
                Some(Ok(signer)) => text += &format!("\nsignature  by {signer}"),
                Some(Err(error)) => text += &format!("\nsignature  {error}"),
                None => text += "\nsignature  checked by the oracle; posted through another contract",
            }
            if let Some(chain) = &claim.chain {
                text += &format!("\noperator   {}, with {} of free stake", chain.operator, money(chain.free_stake));
                text += &format!("\nposted     tx {}", chain.transaction);
                text += &match chain.status {
                    RequestStatus::Finalized => "\nstatus     final".to_owned(),
                    RequestStatus::Fulfilled => format!("\nstatus     can be challenged until unix second {}", chain.final_at),
                    status => format!("\nstatus     {status:?}"),
                };
            }
            if let Some(path) = &args.save {
                text += &format!("\nsaved      {}", path.display());
            }
            text + &format!("\n{word}: {reason}")
        },
        || {
            json!({
                "event": "checked",
                "verdict": match &verdict { Verdict::Verified(_) => "verified", Verdict::Wrong(_) => "wrong", Verdict::Unverifiable(_) => "unverifiable" },
                "reason": reason,
                "request": claim.request.id, "model": claim.request.model, "requester": claim.request.requester,
                "input": claim.input, "output": claim.output, "answer": meaning(&claim.output),
                "signer": signer.as_ref().and_then(|signer| signer.as_ref().ok()),
                "operator": claim.chain.as_ref().map(|chain| chain.operator),
                "status": claim.chain.as_ref().map(|chain| format!("{:?}", chain.status).to_lowercase()),
                "final_at": claim.chain.as_ref().map(|chain| chain.final_at),
            })
        },
    )?;
    Ok(if matches!(verdict, Verdict::Verified(_)) { Outcome::Done } else { Outcome::No })
}

fn from_file(name: &str) -> anyhow::Result<Claim> {
    let text = std::fs::read_to_string(name).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            anyhow::Error::new(UsageError(format!("\"{name}\" is neither the number of a request nor a file")))
        }
        _ => anyhow::Error::new(error).context(format!("{name} can't be read")),
    })?;
    let signed: SignedResult = serde_json::from_str(&text).with_context(|| format!("{name} is not a signed result"))?;
    let request = signed.decode_request().with_context(|| format!("{name} is not a signed result"))?;
    Ok(Claim { request, input: signed.input.clone(), output: signed.output.clone(), signed: Some(signed), chain: None })
}

async fn from_chain(client: &AnyClient, config: &Config, id: RequestId) -> anyhow::Result<Claim> {
    let (status, _) = client.status(id).await?;
    match status {
        RequestStatus::None => {
            let count = client.request_count().await?;
            bail!("there is no request {id}; the oracle has taken {count} so far");
        }
        RequestStatus::Cancelled => bail!("request {id} was cancelled: nobody answered in time"),
        _ => {}
    }
    let start = config.chain.start_block;
    let asked = client.requested(id, start).await?;
    let asked = asked.with_context(|| format!("request {id} was made before block {start} (chain.start_block)"))?;
    let request = Request::unpack(&asked.request).context("the oracle's event makes no sense")?;
    let input = match asked.input {
        Input::Bytes(input) => input,
        Input::Uri { uri, size } => {
            let wanted = Wanted { hash: request.input_hash, size, uri };
            let found = Fetcher::new(&config.inputs.settings())?.fetch(&wanted).await;
            found.with_context(|| format!("the input is at {} and can't be had", shown(&wanted.uri)))?
        }
    };
    let Some((event, transaction)) = client.fulfilled(id, start).await? else {
        bail!("request {id} is not answered yet; it can be until unix second {}", request.deadline);
    };
    let signature = posted_signature(client, transaction, &asked.request).await?;
    let signed = signature.map(|signature| SignedResult {
        domain: client.domain(),
        request: asked.request.abi_encode().into(),
        input: input.clone(),
        output: event.output.clone(),
        signature,
    });
    let (stake, unbonding, locked) = client.stake(event.operator).await?;
    Ok(Claim {
        request,
        input,
        output: event.output,
        signed,
        chain: Some(OnChain {
            status,
            operator: event.operator,
            transaction,
            final_at: event.fulfillment.final_at(client.terms().await?.challenge_window),
            free_stake: stake.saturating_sub(unbonding).saturating_sub(locked),
        }),
    })
}

/// The signature, from the calldata of the transaction that posted it. None if another contract stood between.
async fn posted_signature(
    client: &AnyClient,
    transaction: B256,
    request: &PackedRequest,
) -> anyhow::Result<Option<Bytes>> {
    let Some(transaction) = client.provider().get_transaction_by_hash(transaction).await? else { return Ok(None) };
    let input = transaction.input();
    let answers = if let Ok(call) = IInferenceOracle::fulfillCall::abi_decode(input) {
        vec![call.answer]
    } else if let Ok(call) = IInferenceOracle::fulfillBatchCall::abi_decode(input) {
        call.answers
    } else {
        Vec::new()
    };
    Ok(answers.into_iter().find(|answer| answer.request == *request).map(|answer| answer.signature))
}

fn find_model(
    context: &Context,
    config: &Config,
    args: &ResultArgs,
    claim: &Claim,
) -> anyhow::Result<Option<CatalogModel>> {
    if let Some(named) = &args.model {
        let model = context.model(config, named)?;
        if model.id() != claim.request.model {
            bail!("{named} is model {}, the request asks model {}", model.id(), claim.request.model);
        }
        return Ok(Some(model));
    }
    for source in known_models(config) {
        match CatalogModel::load(&source) {
            Ok(model) if model.id() == claim.request.model => return Ok(Some(model)),
            Ok(_) => {}
            // A folder that is broken may have been the one.
            Err(error) if !matches!(source, ModelSource::Builtin(_)) => tracing::warn!(%error, "left out"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

async fn run_again(model: Option<&CatalogModel>, claim: &Claim) -> anyhow::Result<Verdict> {
    let Some(model) = model else {
        let id = claim.request.model;
        return Ok(Verdict::Unverifiable(format!(
            "model {id} is not here to be run again; name its folder with --model"
        )));
    };
    let params = &claim.request.params;
    let params = Params { max_tokens: params.maxTokens, temperature: params.temperature, min_p: params.minP };
    let question = InferRequest { input: claim.input.to_vec(), params, seed: claim.request.seed.0 };
    let runner = model.runner();
    let device = runner.device();
    let mut answers =
        tokio::task::spawn_blocking(move || runner.infer(&[question])).await.context("the model panicked")?;
    let right = match answers.pop().context("the engine gave no answer")? {
        Ok(output) => output,
        Err(error) => return Ok(Verdict::Wrong(format!("the model gives no answer to this input: {error}"))),
    };
    if right == claim.output {
        return Ok(Verdict::Verified(format!(
            "the model, run again on {device}, gives the same {} bytes",
            right.len()
        )));
    }
    // Before calling anybody a liar: the same by the plain interpreter, which shares no code with the engine.
    let reference = model.reference(&claim.input, &params, claim.request.seed.0)?;
    if reference != right {
        bail!(
            "the engine on this machine disagrees with the reference interpreter; this is a bug in Candor, please report it"
        );
    }
    Ok(Verdict::Wrong(difference(&claim.output, &right, &answer::describe(&model.imported().family, &right))))
}

/// Where two answers part, in words.
fn difference(claimed: &[u8], right: &[u8], meaning: &str) -> String {
    if claimed.len() != right.len() {
        return format!("{} bytes are claimed, the model gives {}: {meaning}", claimed.len(), right.len());
    }
    let at = claimed.iter().zip(right).position(|(a, b)| a != b).unwrap_or(0);
    let end = (at + 4).min(right.len());
    format!(
        "from byte {at} on {} is claimed, the model gives {} there: {meaning}",
        Bytes::copy_from_slice(&claimed[at..end]),
        Bytes::copy_from_slice(&right[at..end])
    )
}

fn save(path: &PathBuf, signed: &SignedResult) -> anyhow::Result<()> {
    let mut file = File::create_new(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow::anyhow!("{} exists already", path.display()),
        _ => anyhow::Error::new(error).context(format!("{} can't be written", path.display())),
    })?;
    serde_json::to_writer_pretty(&mut file, signed)?;
    file.write_all(b"\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_answers_part() {
        assert_eq!(
            difference(&[1, 2, 3, 4, 5, 6], &[1, 9, 3, 4, 5, 6], "x"),
            "from byte 1 on 0x02030405 is claimed, the model gives 0x09030405 there: x"
        );
        assert_eq!(difference(&[1], &[2], "x"), "from byte 0 on 0x01 is claimed, the model gives 0x02 there: x");
        assert_eq!(difference(&[1], &[1, 2], "x"), "1 bytes are claimed, the model gives 2: x");
    }
}

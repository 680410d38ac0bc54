//! `candor request`: a question from the command line, and the answer to it.
use super::{
    Context, Outcome, UsageError,
    context::{AnyClient, known_models},
};
use crate::{
    answer,
    config::{Config, ModelSource, Needs, Wei, format_duration, parse_duration},
    demo::event::Event,
    engine::import::{Family, config::InputKind},
    fetch::{Fetcher, MAX_INPUT_BYTES, Wanted, shown},
    input::{heldout, picture::Picture},
    models::CatalogModel,
    readable::money,
};
use alloy::{
    primitives::{B256, Bytes, U256, aliases::U96, keccak256},
    providers::Provider,
};
use anyhow::{Context as _, bail};
use candor_sdk::{
    bindings::{self, Delivery, IInferenceOracle, Limits, Params, RequestStatus},
    client::{Announced, ClientError},
    ids::{ModelId, RequestId},
    request::MAX_URI_BYTES,
};
use clap::Args;
use std::{path::PathBuf, time::Duration};

/// How often the chain is asked for the answer.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What `candor request` is told.
#[derive(Debug, Args)]
pub(super) struct RequestArgs {
    /// Model to ask: a name, a folder, or the id of any registered model
    #[arg(long, short)]
    model: String,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    at: UriArgs,
    /// The most to pay the operator [default: what the cheapest asks]
    #[arg(long, value_name = "AMOUNT")]
    max_fee: Option<Wei>,
    /// Take the request back, with a full refund, if nobody answers within this time
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    timeout: Duration,
    /// Wait until the answer is final, not only until it is there
    #[arg(long = "final")]
    until_final: bool,
    /// Don't wait for the answer; `candor result` shows it later
    #[arg(long, conflicts_with = "until_final")]
    no_wait: bool,
    /// Of a generative model: the most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_tokens: u32,
    /// Of a generative model: 0 always takes the likeliest token, more takes more chances
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    temperature: f32,
    /// Of a generative model: only tokens at least so likely, compared with the likeliest
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    min_p: f32,
}

/// The input, in one of the forms that people have.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct InputArgs {
    /// A loan application for the credit model, as key=value,...; what is not given is typical. `list` shows the keys
    #[arg(long, value_name = "KEY=VALUE,...")]
    applicant: Option<String>,
    /// A PNG picture of a digit for the digit model, of any size, dark on bright or bright on dark
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The bytes themselves
    #[arg(long, value_name = "HEX")]
    input_hex: Option<Bytes>,
    /// A file with the bytes
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
    /// Where the bytes are: https:, ipfs: or data:. They do not travel on chain; whoever answers fetches them
    #[arg(long, value_name = "URL")]
    input_uri: Option<String>,
}

/// What is known of an input that is at a URI; it is fetched to find out otherwise.
#[derive(Debug, Args)]
pub(super) struct UriArgs {
    /// keccak256 of what is at --input-uri [default: it is fetched and hashed]
    #[arg(long, value_name = "HASH", requires_all = ["input_uri", "input_size"])]
    input_hash: Option<B256>,
    /// Bytes at --input-uri [default: it is fetched and counted]
    #[arg(long, value_name = "BYTES", requires_all = ["input_uri", "input_hash"])]
    input_size: Option<u32>,
}

/// What a question is, in bytes or where they are, and in words.
struct Question {
    bytes: Vec<u8>,
    at: Option<Wanted>,
    text: String,
    picture: Option<Box<crate::input::picture::Digit>>,
}

pub(super) async fn request(context: &Context, args: &RequestArgs) -> anyhow::Result<Outcome> {
    if args.input.applicant.as_deref() == Some("list") {
        context.say(
            || heldout::schema().help(),
            || serde_json::json!({ "event": "schema", "keys": heldout::schema().keys() }),
        )?;
        return Ok(Outcome::Done);
    }
    context.log_quietly()?;
    let config = context.config_to_pay(Needs::Chain)?;
    // Everything that can be found wrong here is, before a key is opened or a node is asked.
    let local = local_model(context, &config, &args.model)?;
    let question = match &args.input.input_uri {
        Some(uri) => question_at(&config, uri, &args.at).await?,
        None => question(&args.input, local.as_ref())?,
    };
    let key = context.account(&config).await?;
    let client = context.paying_client(&config, &key).await?;
    let (id, name) = match &local {
        Some(model) => (model.id(), model.name().to_owned()),
        None => (args.model.parse()?, args.model.clone()),
    };
    let descriptor = client.model(id).await?;
    let Some(descriptor) = descriptor else {
        bail!("model {name} ({}) is not registered on this chain; `candor model register {name}` does it", id.short());
    };
    let size = question.at.as_ref().map_or(question.bytes.len(), |at| at.size as usize);
    check_size(size, &descriptor.limits)?;

    let (cheapest, _) = client.quote(id, 0, 0).await?;
    let max_fee = args.max_fee.map_or(cheapest, |fee| fee.0);
    if max_fee < cheapest {
        bail!("{} is too little: the cheapest operator asks {}", Wei(max_fee), Wei(cheapest));
    }
    let arguments = bindings::RequestArgs {
        modelId: id.0,
        input: question.bytes.clone().into(),
        params: Params {
            maxTokens: args.max_tokens,
            temperature: args.temperature.to_bits(),
            minP: args.min_p.to_bits(),
        },
        delivery: Delivery::Final,
        // There is no contract to call: the answer is read from the chain.
        callbackGasLimit: 0,
        callbackGasPrice: 0,
        maxFee: U96::try_from(max_fee).ok().context("that is more than there is")?,
        timeout: u32::try_from(args.timeout.as_secs()).ok().context("a timeout of more than a century")?,
    };
    let value = U256::from(max_fee);
    let call = match question.at {
        Some(at) => client.request_by_uri(arguments, at.hash, at.size, at.uri, value),
        None => client.request(arguments, value),
    };
    let receipt = client.send_from(key.address(), call).await?;
    let asked = receipt.logs().iter().find_map(|log| Announced::read(log.data()));
    let asked = asked.context("the transaction succeeded and made no request: is chain.oracle really the oracle?")?;
    let request = candor_sdk::request::Request::unpack(&asked.request).context("the oracle's event makes no sense")?;

    let mut narrator = context.narrator();
    narrator.tell(&Event::Asked {
        request: request.id,
        consumer: key.address().to_string(),
        model: name,
        question: question.text,
        delivery: "final",
        fee: U256::from(request.fee),
        callback_allowance: U256::ZERO,
        transaction: receipt.transaction_hash,
        gas: receipt.gas_used,
        picture: question.picture,
    })?;
    if args.no_wait {
        return Ok(Outcome::Done);
    }
    let from = receipt.block_number.unwrap_or_default();
    let Some((output, final_at)) = wait_for_answer(&client, &request, from, &mut narrator).await? else {
        client.send(client.cancel(&request)).await.context("nobody answered, and taking the request back failed")?;
        let refund = money(U256::from(request.fee));
        bail!(
            "nobody answered within {}; the request is cancelled and {refund} are credit in the oracle again",
            format_duration(args.timeout)
        );
    };
    let text = local
        .map_or_else(|| format!("{} bytes", output.len()), |model| answer::describe(&model.imported().family, &output));
    narrator.tell(&Event::Answered { request: request.id, output, answer: text, final_at })?;
    if args.until_final {
        wait_for_finality(&client, request.id).await?;
        narrator.tell(&Event::Note { text: format!("the answer to {} is final", request.id) })?;
    }
    Ok(Outcome::Done)
}

/// The model behind a name. A bare id may be of a model that is not here; it can be asked all the same.
fn local_model(context: &Context, config: &Config, named: &str) -> anyhow::Result<Option<CatalogModel>> {
    match named.parse::<ModelId>() {
        Err(_) => context.model(config, named).map(Some),
        Ok(id) => {
            let models = known_models(config).iter().map(CatalogModel::load).collect::<Result<Vec<_>, _>>()?;
            Ok(models.into_iter().find(|model| model.id() == id))
        }
    }
}

fn question(args: &InputArgs, model: Option<&CatalogModel>) -> anyhow::Result<Question> {
    if let Some(text) = &args.applicant {
        let credit = CatalogModel::load(&ModelSource::Builtin("credit"))?.id();
        if model.is_none_or(|model| model.id() != credit) {
            return Err(UsageError(
                "--applicant is for the credit model; give other models --input-hex or --input-file".into(),
            )
            .into());
        }
        let schema = heldout::schema();
        let applicant = schema.read(text).map_err(|error| UsageError(error.to_string()))?;
        let mut text = schema.summary(&applicant);
        if !applicant.assumed.is_empty() {
            text += &format!(" ({} of {} taken as typical)", applicant.assumed.len(), schema.keys().len());
        }
        return Ok(Question { bytes: applicant.to_bytes(), at: None, text, picture: None });
    }
    if let Some(path) = &args.image {
        let takes_images = model.is_some_and(|model| {
            let Family::Sequential { config, .. } = &model.imported().family else { return false };
            config.input.kind == InputKind::U8 && config.input.shape.iter().product::<u32>() == 784
        });
        if !takes_images {
            return Err(UsageError("--image is for models that take 28x28 pixels, such as digits".into()).into());
        }
        let digit = Picture::open(path)
            .and_then(|picture| picture.to_digit())
            .with_context(|| format!("picture {}", path.display()))?;
        let text = format!("which digit is in {}?", path.display());
        return Ok(Question { bytes: digit.to_vec(), at: None, text, picture: Some(Box::new(digit)) });
    }
    let bytes = match (&args.input_hex, &args.input_file) {
        (Some(bytes), _) => bytes.to_vec(),
        (None, Some(path)) => std::fs::read(path).with_context(|| format!("{} can't be read", path.display()))?,
        (None, None) => {
            return Err(UsageError(
                "give the input: --applicant, --image, --input-hex, --input-file or --input-uri".into(),
            )
            .into());
        }
    };
    let text = format!("{} bytes", bytes.len());
    if let Some(model) = model {
        let limits = model.descriptor().limits;
        check_size(bytes.len(), &limits)?;
    }
    Ok(Question { bytes, at: None, text, picture: None })
}

/// What is at a URI: as the person says, or as it is found there.
async fn question_at(config: &Config, uri: &str, said: &UriArgs) -> anyhow::Result<Question> {
    if uri.len() > MAX_URI_BYTES {
        return Err(UsageError(format!("--input-uri has {} bytes, the oracle takes {MAX_URI_BYTES}", uri.len())).into());
    }
    let (hash, size) = match (said.input_hash, said.input_size) {
        (Some(hash), Some(size)) => (hash, size),
        _ => {
            let fetcher = Fetcher::new(&config.inputs.settings())?;
            let bytes = fetcher.download(uri, MAX_INPUT_BYTES, false).await.with_context(|| {
                format!("{}; --input-hash and --input-size say what is there without looking", shown(uri))
            })?;
            (keccak256(&bytes), u32::try_from(bytes.len()).context("it is too long for an input")?)
        }
    };
    let text = format!("{size} bytes at {}, {hash}", shown(uri));
    Ok(Question { bytes: Vec::new(), at: Some(Wanted { hash, size, uri: uri.to_owned() }), text, picture: None })
}

fn check_size(size: usize, limits: &Limits) -> anyhow::Result<()> {
    let (min, max) = (limits.minInputBytes as usize, limits.maxInputBytes as usize);
    if (min..=max).contains(&size) {
        return Ok(());
    }
    let bytes = if size == 1 { "byte" } else { "bytes" };
    if min == max {
        bail!("the input has {size} {bytes}, this model takes {min}");
    }
    bail!("the input has {size} {bytes}, this model takes {min} to {max}");
}

/// Waits for the result. None when the deadline passed without one.
async fn wait_for_answer(
    client: &AnyClient,
    request: &candor_sdk::request::Request,
    from_block: u64,
    narrator: &mut crate::demo::narrator::Narrator<std::io::Stdout>,
) -> anyhow::Result<Option<(Bytes, u64)>> {
    let id: RequestId = request.id;
    loop {
        // The request is made and paid for; a node that fails now and then must not end the waiting.
        match look(client, request, from_block).await {
            Ok(Look::Answered { event, transaction, gas, window }) => {
                narrator.tell(&Event::Posted { request: id, transaction, gas, results: 1 })?;
                return Ok(Some((event.output.clone(), event.fulfillment.final_at(window))));
            }
            Ok(Look::Expired) => return Ok(None),
            Ok(Look::Open) => {}
            Err(error) if error.is_retryable() => tracing::warn!(%error, "asking again"),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How a request stands.
enum Look {
    Open,
    Expired,
    Answered { event: Box<IInferenceOracle::Fulfilled>, transaction: B256, gas: u64, window: u64 },
}

async fn look(
    client: &AnyClient,
    request: &candor_sdk::request::Request,
    from_block: u64,
) -> Result<Look, ClientError> {
    if let Some((event, transaction)) = client.fulfilled(request.id, from_block).await? {
        let receipt = client.provider().get_transaction_receipt(transaction).await?;
        let gas = receipt.map_or(0, |receipt| receipt.gas_used);
        let window = client.terms().await?.challenge_window;
        return Ok(Look::Answered { event: Box::new(event), transaction, gas, window });
    }
    let block = client.provider().get_block(alloy::eips::BlockId::latest()).await?;
    let expired = block.is_some_and(|block| block.header.timestamp > request.deadline);
    Ok(if expired { Look::Expired } else { Look::Open })
}

/// Waits until a result is final, through failures of the node.
async fn wait_for_finality(client: &AnyClient, id: RequestId) -> Result<(), ClientError> {
    loop {
        match client.status(id).await {
            Ok((RequestStatus::Finalized, _)) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.is_retryable() => tracing::warn!(%error, "asking again"),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

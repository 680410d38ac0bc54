//! `candor model`: what models there are, what one is, and registering one.
use super::{Context, Outcome, context::known_models};
use crate::{
    config::{Config, Needs, Wei},
    demo::narrator::grouped,
    engine::import::{Options, Precision, report},
    models::CatalogModel,
};
use candor_sdk::{client::ClientError, ids::ModelId};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What `candor model` does.
#[derive(Debug, Subcommand)]
pub(super) enum ModelCommand {
    /// The models that are configured or embedded, and what the chain knows of them
    List,
    /// Everything about one model: id, roots, limits, who serves it at what price
    Show {
        /// A name, a folder or an id
        model: String,
    },
    /// Read a model's files, compare it with candle's own run of them, and describe it: where its parameters and multiply-adds are
    Import {
        /// A folder (our own, or as on Hugging Face) or a GGUF file
        path: PathBuf,
        /// Convert the weights of linear layers: f16, q8_0 or q8_128. The report says what each would cost
        #[arg(long)]
        dtype: Option<Precision>,
    },
    /// The same for files that claim to be a certain model
    Verify {
        /// A folder or a GGUF file
        path: PathBuf,
        /// The model's id
        #[arg(long)]
        id: ModelId,
        /// The type that the weights of its linear layers were converted to: f16, q8_0 or q8_128
        #[arg(long)]
        dtype: Option<Precision>,
    },
    /// Tell the chain that a model exists. Harmless when it knows already
    Register {
        /// A name or a folder
        model: String,
        /// Where others can download it
        #[arg(long, default_value = "")]
        uri: String,
    },
}

pub(super) async fn model(context: &Context, command: &ModelCommand) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    match command {
        ModelCommand::List => list(context).await?,
        ModelCommand::Show { model } => show(context, model).await?,
        ModelCommand::Import { path, dtype } => import(context, path, *dtype, None)?,
        ModelCommand::Verify { path, id, dtype } => import(context, path, *dtype, Some(*id))?,
        ModelCommand::Register { model, uri } => register(context, model, uri).await?,
    }
    Ok(Outcome::Done)
}

/// What the chain knows of a model.
struct OnChain {
    registered: bool,
    offers: Vec<candor_sdk::bindings::Offer>,
}

impl OnChain {
    fn cheapest(&self) -> Option<Wei> {
        self.offers.iter().map(|offer| Wei(offer.price.to())).min()
    }
}

/// None without a configured chain. A chain that can't be reached is an error: silence would look like "not registered".
async fn on_chain(context: &Context, model: &CatalogModel) -> anyhow::Result<Option<OnChain>> {
    let Ok(config) = context.config(Needs::Chain) else { return Ok(None) };
    let client = context.client(&config).await?;
    let registered = client.model(model.id()).await?.is_some();
    let offers = match client.offers(model.id()).await {
        Ok(offers) => offers,
        Err(ClientError::Reverted(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(OnChain { registered, offers }))
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let config = context.config(Needs::Nothing)?;
    for source in known_models(&config) {
        let model = CatalogModel::load(&source)?;
        let chain = on_chain(context, &model).await?;
        let serves = config.models.serve.contains(&source);
        context.say(
            || {
                let state = match &chain {
                    None => "no chain configured".to_owned(),
                    Some(OnChain { registered: false, .. }) => "not registered".to_owned(),
                    Some(chain) => match chain.cheapest() {
                        None => "registered, nobody serves it".to_owned(),
                        Some(price) => format!("{}, from {price}", operators(chain.offers.len())),
                    },
                };
                format!("{:<12} {}  {:<12} {state}", model.name(), model.id(), if serves { "served here" } else { "" })
            },
            || {
                json!({
                    "event": "model", "model": model.name(), "id": model.id(), "served": serves,
                    "registered": chain.as_ref().map(|chain| chain.registered),
                    "operators": chain.as_ref().map(|chain| chain.offers.len()),
                    "cheapest": chain.as_ref().and_then(|chain| chain.cheapest().map(|price| price.0.to_string())),
                })
            },
        )?;
    }
    Ok(())
}

fn operators(count: usize) -> String {
    if count == 1 { "1 operator serves it".into() } else { format!("{count} operators serve it") }
}

async fn show(context: &Context, named: &str) -> anyhow::Result<()> {
    let config = context.config(Needs::Nothing)?;
    let model = context.model(&config, named)?;
    let chain = on_chain(context, &model).await?;
    let descriptor = model.descriptor();
    let program = &model.imported().model.program;
    context.say(
        || {
            let limits = &descriptor.limits;
            let mut text = format!(
                "{}\n  id               {}\n  arithmetic       version {}\n  graph root       {}, {} nodes\n  weights root     {}\n  \
                 vocabulary root  {}\n  input            {} to {} bytes\n  output           at most {} bytes\n  runs on          {}",
                model.name(),
                model.id(),
                descriptor.arithmeticVersion,
                descriptor.graphRoot,
                program.nodes.len(),
                descriptor.weightsRoot,
                descriptor.vocabRoot,
                limits.minInputBytes,
                limits.maxInputBytes,
                limits.maxOutputBytes,
                model.runner().device(),
            );
            match &chain {
                None => text += "\n  on chain         no chain configured",
                Some(OnChain { registered: false, .. }) => text += "\n  on chain         not registered",
                Some(chain) => {
                    text += "\n  on chain         registered";
                    for offer in &chain.offers {
                        text += &format!("\n  served by        {} for {}", offer.operator, Wei(offer.price.to()));
                    }
                }
            }
            text
        },
        || {
            json!({
                "event": "model", "model": model.name(), "id": model.id(),
                "arithmetic_version": descriptor.arithmeticVersion.to_string(),
                "graph_root": descriptor.graphRoot, "weights_root": descriptor.weightsRoot, "vocab_root": descriptor.vocabRoot,
                "min_input_bytes": descriptor.limits.minInputBytes, "max_input_bytes": descriptor.limits.maxInputBytes,
                "max_output_bytes": descriptor.limits.maxOutputBytes, "max_tokens": descriptor.limits.maxTokens,
                "nodes": program.nodes.len(), "device": model.runner().device(),
                "registered": chain.as_ref().map(|chain| chain.registered),
                "offers": chain.as_ref().map(|chain| {
                    let offer = |offer: &candor_sdk::bindings::Offer| json!({ "operator": offer.operator, "price": offer.price.to_string() });
                    chain.offers.iter().map(offer).collect::<Vec<_>>()
                }),
            })
        },
    )
}

/// Imports a model from files and checks it; `claimed` is the id that the files are said to have.
fn import(context: &Context, path: &Path, dtype: Option<Precision>, claimed: Option<ModelId>) -> anyhow::Result<()> {
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("{msg:<12} {wide_bar} {percent}%")?);
    let mut progress = |at: report::Progress| {
        bar.set_message(at.stage.to_string());
        bar.set_length(at.total);
        bar.set_position(at.done);
    };
    let options = Options { dtype, ..Options::default() };
    let report = match claimed {
        None => report::import(path, &options, &mut progress).map(|(_, report)| report),
        Some(id) => report::verify(path, id, &options, &mut progress),
    };
    bar.finish_and_clear();
    let report = report?;
    context.say(
        || report.to_string(),
        || json!({ "event": "imported", "path": path, "id": report.id, "verified": claimed.is_some() }),
    )
}

async fn register(context: &Context, named: &str, uri: &str) -> anyhow::Result<()> {
    let config: Config = context.config(Needs::Chain)?;
    let model = context.model(&config, named)?;
    let key = context.account(&config)?;
    let client = context.paying_client(&config, &key).await?;
    let known = client.model(model.id()).await?.is_some();
    if known && uri.is_empty() {
        return context.say(
            || format!("{} ({}) is registered already", model.name(), model.id()),
            || json!({ "event": "registered", "model": model.name(), "id": model.id(), "transaction": null }),
        );
    }
    let receipt = client.send(client.register_model(model.descriptor(), uri.to_owned())).await?;
    context.say(
        || {
            let gas = grouped(receipt.gas_used);
            format!("{} ({}) is registered: tx {}, {gas} gas", model.name(), model.id(), receipt.transaction_hash)
        },
        || json!({ "event": "registered", "model": model.name(), "id": model.id(), "transaction": receipt.transaction_hash, "gas": receipt.gas_used }),
    )
}

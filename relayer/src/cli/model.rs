//! `candor model`: what models there are, what one is, and registering one.
use super::{Context, Outcome, context::known_models};
use crate::{
    config::{Config, ModelSource, Needs, Wei},
    engine::import::{
        Options, Outline, Precision, report,
        source::{self, Fetch, Source},
    },
    models::CatalogModel,
    readable::grouped,
};
use candor_sdk::{client::ClientError, ids::ModelId};
use clap::{Args, Subcommand};
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
    Import(ImportArgs),
    /// The same for files that claim to be a certain model
    Verify {
        #[command(flatten)]
        args: ImportArgs,
        /// The model's id
        #[arg(long)]
        id: ModelId,
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

/// Which files, and the choices that become part of the model.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A folder (ours, or as on Hugging Face), a GGUF or ONNX file, hf://org/name@revision, or https://host/folder/
    source: Source,
    /// Convert the weights of linear layers: f16, q8_0 or q8_128. The report says what each would cost
    #[arg(long)]
    dtype: Option<Precision>,
    /// Longest sequence, question and answer together, in tokens [default: 2048, or what the model was made for]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    context: Option<u32>,
    /// Most tokens of an answer; at most half the context [default: 512]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    answer_tokens: Option<u32>,
    /// Where fetched files are kept [default: candor in the cache folder of this user]
    #[arg(long, value_name = "DIR", env = "CANDOR_CACHE")]
    cache: Option<PathBuf>,
    /// Most bytes that are fetched, in GiB
    #[arg(long, value_name = "GIB", default_value_t = source::LIMIT >> 30)]
    max_download: u64,
}

impl ImportArgs {
    fn options(&self) -> Options {
        let default = Options::default();
        Options {
            context: self.context.unwrap_or(default.context),
            max_tokens: self.answer_tokens.unwrap_or(default.max_tokens),
            dtype: self.dtype,
        }
    }

    /// What to write into the configuration so that the same model is served, if it takes more than its path.
    fn setting(&self, path: &Path) -> Option<String> {
        let name = ModelSource::Folder(path.to_path_buf()).name();
        let number = |key: &str, value: Option<u32>| value.map(|value| format!("{key} = {value}"));
        let dtype = self.dtype.map(|dtype| format!("dtype = \"{dtype}\""));
        let choices = [number("context", self.context), number("answer_tokens", self.answer_tokens), dtype];
        let choices: Vec<String> = choices.into_iter().flatten().collect();
        (!choices.is_empty()).then(|| format!("[models.options.\"{name}\"]\n{}", choices.join("\n")))
    }
}

/// Where fetched files are kept.
fn cache(args: &ImportArgs) -> anyhow::Result<PathBuf> {
    let user = || {
        let own = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        own.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
    };
    match args.cache.clone().or_else(|| user().map(|folder| folder.join("candor"))) {
        Some(folder) => Ok(folder),
        None => anyhow::bail!("there is no home folder to keep files in: say --cache DIR"),
    }
}

pub(super) async fn model(context: &Context, command: &ModelCommand) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    match command {
        ModelCommand::List => list(context).await?,
        ModelCommand::Show { model } => show(context, model).await?,
        ModelCommand::Import(args) => import(context, args, None).await?,
        ModelCommand::Verify { args, id } => import(context, args, Some(*id)).await?,
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
    let outline = Outline::of(&model.imported().model);
    context.say(
        || {
            let limits = &descriptor.limits;
            let mut text = format!(
                "{}\n  id               {}\n  arithmetic       version {}\n  graph root       {}\n  weights root     {}\n  \
                 vocabulary root  {}\n  input            {} to {} bytes\n  output           at most {} bytes\n  runs on          {}",
                model.name(),
                model.id(),
                descriptor.arithmeticVersion,
                descriptor.graphRoot,
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
            text + "\n  graph            " + &outline.to_string().replace('\n', "\n  ")
        },
        || {
            json!({
                "event": "model", "model": model.name(), "id": model.id(),
                "arithmetic_version": descriptor.arithmeticVersion.to_string(),
                "graph_root": descriptor.graphRoot, "weights_root": descriptor.weightsRoot, "vocab_root": descriptor.vocabRoot,
                "min_input_bytes": descriptor.limits.minInputBytes, "max_input_bytes": descriptor.limits.maxInputBytes,
                "max_output_bytes": descriptor.limits.maxOutputBytes, "max_tokens": descriptor.limits.maxTokens,
                "nodes": outline.nodes(), "device": model.runner().device(),
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
async fn import(context: &Context, args: &ImportArgs, claimed: Option<ModelId>) -> anyhow::Result<()> {
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("{msg:<12} {wide_bar} {percent}%")?);
    let progress = |at: report::Progress| {
        bar.set_message(at.stage.to_string());
        bar.set_length(at.total);
        bar.set_position(at.done);
    };
    let fetch = match &args.source {
        Source::Path(_) => Fetch::into(PathBuf::new()), // nothing is fetched
        _ => Fetch { limit: args.max_download.saturating_mul(1 << 30), ..Fetch::into(cache(args)?) },
    };
    let fetched = args
        .source
        .fetch(&fetch, &mut |done, total| progress(report::Progress { stage: report::Stage::Fetching, done, total }))
        .await;
    let fetched = fetched.inspect_err(|_| bar.finish_and_clear())?;
    let options = args.options();
    let mut each = progress;
    let report = match claimed {
        None => report::import(&fetched.path, &options, &mut each).map(|(_, report)| report),
        Some(id) => report::verify(&fetched.path, id, &options, &mut each),
    };
    bar.finish_and_clear();
    let report = report?;
    let setting = args.setting(&fetched.path);
    context.say(
        || {
            let mut text = report.to_string();
            if !fetched.pinned.is_empty() {
                text += &format!("\n  fetched  {}\n  files    {}", fetched.pinned.join(", "), fetched.path.display());
            }
            if let Some(setting) = &setting {
                text += &format!("\nTo serve this model and no other, add to the configuration:\n{setting}");
            }
            text
        },
        || {
            json!({
                "event": "imported", "source": args.source.to_string(), "path": fetched.path, "pinned": fetched.pinned,
                "id": report.id, "verified": claimed.is_some(), "context": options.context,
                "answer_tokens": options.max_tokens, "dtype": options.dtype.map(|dtype| dtype.to_string()),
            })
        },
    )
}

async fn register(context: &Context, named: &str, uri: &str) -> anyhow::Result<()> {
    let config: Config = context.config_to_pay(Needs::Chain)?;
    let model = context.model(&config, named)?;
    let key = context.account(&config).await?;
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

//! What the commands have in common: the configuration, keys, a connection, and a way to say things.
use super::Global;
use crate::{
    config::{Config, ConfigError, KeySource, ModelSource, Needs, Origin, Problem, RpcUrl, Sources, nearest},
    demo::narrator::{Narrator, Style},
    keys::{self, KeyError, KeyKind, SigningKey, Surroundings},
    models::CatalogModel,
    store::{Store, StoreLocation},
};
use alloy::{
    primitives::Address,
    providers::{DynProvider, Provider, ProviderBuilder},
    rpc::client::ClientBuilder,
    transports::http::Http,
};
use anyhow::{Context as _, bail};
use candor_sdk::{
    client::{Client, ClientError},
    ids::ModelId,
};
use serde_json::Value;
use std::{
    io::{Stdout, Write, stdout},
    time::Duration,
};

/// A client over whichever node answered first.
pub(crate) type AnyClient = Client<DynProvider>;

/// Everything that goes with a command.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) sources: Sources,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        let mut flags = global.set.clone();
        if !global.rpc_url.is_empty() {
            flags.push(("chain.rpc_urls".into(), global.rpc_url.join(",")));
        }
        if let Some(oracle) = &global.oracle {
            flags.push(("chain.oracle".into(), oracle.clone()));
        }
        let sources = Sources::new(global.config.clone(), flags);
        Self { global, sources }
    }

    /// The configuration, with what the command needs in it.
    pub(crate) fn config(&self, needs: Needs) -> Result<Config, ConfigError> {
        self.sources.load(needs)
    }

    /// The same for a command that pays: a key that is not named is one more thing that is missing, and is said with the others.
    pub(crate) fn config_to_pay(&self, needs: Needs) -> Result<Config, ConfigError> {
        self.config(needs).map_err(|mut error| {
            // As far as it can be read; what can't is among the errors already.
            let source =
                self.config(Needs::Nothing).ok().map(|config| config.operator.map(|operator| operator.account));
            if let Some(source) = source
                && let Err(missing) = keys::is_named(keys::ACCOUNT, source.as_ref(), &Surroundings::of_process())
            {
                let message = missing.to_string();
                error.problems.push(Problem { origin: Origin::None, key: String::new(), message });
            }
            error
        })
    }

    /// Logs of commands that are not the daemon: warnings, or more if wanted.
    pub(crate) fn log_quietly(&self) -> anyhow::Result<()> {
        let config = crate::config::LogConfig { format: crate::config::LogFormat::Plain, level: "warn".into() };
        super::logging::start(&config, self.global.verbose)
    }

    /// Says something in one of two ways: the text for people, the value for machines.
    pub(crate) fn say(&self, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) -> anyhow::Result<()> {
        let mut out = stdout().lock();
        if self.global.json {
            writeln!(out, "{}", value())?
        } else {
            writeln!(out, "{}", text())?
        }
        Ok(())
    }

    /// Tells events.
    pub(crate) fn narrator(&self) -> Narrator<Stdout> {
        Narrator::new(stdout(), Style::detect(self.global.json))
    }

    /// The key of the account that pays.
    pub(crate) async fn account(&self, config: &Config) -> anyhow::Result<SigningKey> {
        let source = config.operator.as_ref().map(|operator| &operator.account);
        Ok(keys::load(keys::ACCOUNT, source, config.chain.chain_id, &Surroundings::of_process()).await?)
    }

    /// The operator's account, for looking at it: no key is needed where its relayer has left a database.
    pub(crate) async fn operator(&self, config: &Config) -> anyhow::Result<Address> {
        let location = config.store.location();
        if !matches!(&location, StoreLocation::File(path) if !path.exists())
            && let Ok(store) = Store::open_read_only(location).await
            && let Ok(Some(operator)) = store.operator().await
        {
            return Ok(operator);
        }
        Ok(self.account(config).await?.address())
    }

    /// The key that signs results: its own where one is named, the account's otherwise.
    pub(crate) async fn signer(&self, config: &Config, account: &SigningKey) -> anyhow::Result<SigningKey> {
        let source = config.operator.as_ref().and_then(|operator| operator.signer.clone()).map(KeySource::from);
        if source.is_none() && std::env::var_os(keys::SIGNER.key_variable).is_none() {
            if account.kind() == KeyKind::Ledger {
                return Err(KeyError::LedgerSigns.into());
            }
            return Ok(account.clone());
        }
        Ok(keys::load(keys::SIGNER, source.as_ref(), config.chain.chain_id, &Surroundings::of_process()).await?)
    }

    /// A connection for reading.
    pub(crate) async fn client(&self, config: &Config) -> anyhow::Result<AnyClient> {
        connect(config, None).await
    }

    /// A connection that pays with a key.
    pub(crate) async fn paying_client(&self, config: &Config, key: &SigningKey) -> anyhow::Result<AnyClient> {
        connect(config, Some(key)).await
    }

    /// A model as a person names it: one that is configured, an embedded one, a folder, or an id of one of these.
    pub(crate) fn model(&self, config: &Config, named: &str) -> anyhow::Result<CatalogModel> {
        let sources = known_models(config);
        if let Ok(id) = named.parse::<ModelId>() {
            for source in &sources {
                let model = CatalogModel::load(source)?;
                if model.id() == id {
                    return Ok(model);
                }
            }
            bail!("model {id} is neither embedded nor configured here; name its folder");
        }
        if let Some(source) = sources.iter().find(|source| source.name() == named) {
            return Ok(CatalogModel::load(source)?);
        }
        match ModelSource::parse(named) {
            Ok(source) => Ok(CatalogModel::load(&source)?),
            Err(problem) => {
                let names: Vec<String> = sources.iter().map(ModelSource::name).collect();
                match nearest(named, names.iter().map(String::as_str)) {
                    Some(meant) => bail!("there is no model \"{named}\", did you mean \"{meant}\"?"),
                    None => bail!("{problem}"),
                }
            }
        }
    }
}

/// The configured models, then the embedded ones that are not configured.
pub(crate) fn known_models(config: &Config) -> Vec<ModelSource> {
    let mut sources = config.models.serve.clone();
    for name in ModelSource::BUILTIN {
        if !sources.iter().any(|source| source.name() == name) {
            sources.push(ModelSource::Builtin(name));
        }
    }
    sources
}

/// Name of the configured model with this id, if there is one.
pub(crate) fn served_name(config: &Config, id: ModelId) -> anyhow::Result<Option<String>> {
    for source in &config.models.serve {
        if CatalogModel::load(source)?.id() == id {
            return Ok(Some(source.name()));
        }
    }
    Ok(None)
}

async fn connect(config: &Config, key: Option<&SigningKey>) -> anyhow::Result<AnyClient> {
    first(config, async |url| connect_one(config, url, key).await).await
}

/// The first configured node that answers and is on the right chain, with or without contracts there; with a wallet if there is a key.
pub(crate) async fn node(config: &Config, key: Option<&SigningKey>) -> anyhow::Result<DynProvider> {
    first(config, async |url| node_at(config, url, key).await).await
}

/// What the first node gives that gives something; what is wrong with each, if none does.
async fn first<T>(config: &Config, ask: impl AsyncFn(&RpcUrl) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut failures = Vec::new();
    for url in &config.chain.rpc_urls {
        match ask(url).await {
            Ok(given) => return Ok(given),
            Err(error) => failures.push(format!("{url}: {}", super::explain(&error))),
        }
    }
    match failures.as_slice() {
        [only] => bail!("{only} (chain.rpc_urls says which nodes are asked)"),
        _ => bail!("no node of chain.rpc_urls can be used:\n  - {}", failures.join("\n  - ")),
    }
}

/// One node, checked for being on the right chain with the contracts there.
pub(crate) async fn connect_one(config: &Config, url: &RpcUrl, key: Option<&SigningKey>) -> anyhow::Result<AnyClient> {
    // In this order, so that a node of another chain is called that and not a chain without contracts.
    let provider = node_at(config, url, key).await?;
    Ok(Client::connect(provider, config.chain.oracle).await?)
}

async fn node_at(config: &Config, url: &RpcUrl, key: Option<&SigningKey>) -> anyhow::Result<DynProvider> {
    let provider = provider(url, key, config.chain.answer_within)?;
    let chain_id = provider.get_chain_id().await.map_err(ClientError::from)?;
    if chain_id != config.chain.chain_id {
        bail!("the node is on chain {chain_id}, chain.chain_id says {}", config.chain.chain_id);
    }
    Ok(provider)
}

/// A provider over one node, with a wallet if there is a key.
pub(crate) fn provider(url: &RpcUrl, key: Option<&SigningKey>, answer_within: Duration) -> anyhow::Result<DynProvider> {
    let http = reqwest::Client::builder().timeout(answer_within).build().context("the HTTP client can't be built")?;
    let transport = Http::with_client(http, url.expose().clone());
    let client = ClientBuilder::default().transport(transport, false).with_poll_interval(Duration::from_millis(250));
    Ok(match key {
        Some(key) => ProviderBuilder::new().wallet(key.wallet()).connect_client(client).erased(),
        None => ProviderBuilder::new().connect_client(client).erased(),
    })
}

//! Configuration: `candor.toml`, then environment variables (`CANDOR_SECTION__KEY`), then flags; the later wins.
//!
//! Every key has its default here and its explanation in [`template`], and nothing is ignored: an unknown key, a value of the wrong kind,
//! a missing setting and a secret where none belongs are all reported, together, each with its file and line.
mod load;
mod problem;
mod secret;
mod setting;
mod template;
#[cfg(test)]
mod tests;
mod units;

pub use load::{Needs, Sources, known_keys, variable};
pub use problem::{ConfigError, Origin, Problem, nearest};
pub use setting::{GatewayUrl, ImportOptions, ModelSource, PathSetting, PostgresUrl, RpcUrl, parse_address};
pub use template::{Known, Preset, template};
pub use units::{Wei, format_duration, parse_duration};

use crate::engine::Device;
use crate::fetch::FetchSettings;
use crate::store::StoreLocation;
use alloy::primitives::Address;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "candor.toml";

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which chain, and how to follow it.
    pub chain: ChainConfig,
    /// Who answers. Without it the process answers nothing, it only watches.
    pub operator: Option<OperatorConfig>,
    /// Whose results are run again, and how much may be put on their being wrong.
    pub watcher: WatcherConfig,
    /// What a transaction may cost.
    pub gas: GasConfig,
    /// Where the state of the work is kept.
    pub store: StoreConfig,
    /// How inputs are fetched that a request names by URI.
    pub inputs: InputsConfig,
    /// Which models are served.
    pub models: ModelsConfig,
    /// What is told over HTTP: metrics, health, the status page.
    pub http: HttpConfig,
    /// What is written about it all.
    pub log: LogConfig,
}

/// Which chain, and how to follow it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChainConfig {
    /// Nodes to ask, in order of preference; the next one is used when one fails.
    pub rpc_urls: Vec<RpcUrl>,
    /// The chain the nodes must be on.
    pub chain_id: u64,
    /// The `InferenceOracle`. The registries are read from it.
    #[serde(with = "setting::address")]
    pub oracle: Address,
    /// Where to start reading: the block the oracle was deployed in, or any later one.
    pub start_block: u64,
    /// How many blocks must lie on top of an event before it is acted upon.
    pub confirmations: u64,
    /// How often to ask for new blocks.
    #[serde(with = "units::duration")]
    pub poll_interval: Duration,
    /// How long to wait for an answer before a node counts as down.
    #[serde(with = "units::duration")]
    pub answer_within: Duration,
    /// The most blocks to ask for in one query; nodes refuse too many.
    pub max_block_range: u64,
    /// How many blocks already read are read again each time, against nodes that answer before they know.
    pub overlap: u64,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            rpc_urls: Vec::new(),
            chain_id: 0,
            oracle: Address::ZERO,
            start_block: 0,
            confirmations: 3,
            poll_interval: Duration::from_secs(2),
            answer_within: crate::chain::ANSWER_WITHIN,
            max_block_range: 1_000,
            overlap: 16,
        }
    }
}

/// Who answers: its keys, its prices, and where its earnings go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorConfig {
    /// The key of the operator's account: sends the transactions and owns the stake.
    pub account: KeySource,
    /// The key that signs results. The account's own when not given.
    pub signer: Option<SignerSource>,
    /// The least the operator answers for, by model name; `default` for the models not named. `candor operator join` publishes these prices.
    pub min_fee: BTreeMap<String, Wei>,
    /// Where earnings go. They stay as credit in the oracle when not given.
    pub payout: Option<PayoutConfig>,
}

/// Whose results are run again, and how much may be put on their being wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatcherConfig {
    /// Whether results of others are run again and challenged if they are wrong. The account pays: the operator's, or the one of the environment.
    pub enabled: bool,
    /// The most to have in bonds at once, those lost included.
    pub cap: Wei,
    /// Models whose results are run again. Those of `models.serve` when empty.
    pub models: Vec<ModelSource>,
    /// Whether to challenge results that can't be judged because their inputs can't be had, so that the operator must show them. Costs the bond where the
    /// result is right.
    pub demand_inputs: bool,
}

impl Default for WatcherConfig {
    fn default() -> Self {
        Self { enabled: false, cap: Wei::milliether(1_000), models: Vec::new(), demand_inputs: false }
    }
}

/// The price asked where the configuration says nothing.
pub const DEFAULT_MIN_FEE: Wei = Wei::milliether(1);

impl OperatorConfig {
    /// The least fee for the model of this name.
    pub fn min_fee_for(&self, model: &str) -> Wei {
        self.min_fee.get(model).or_else(|| self.min_fee.get("default")).copied().unwrap_or(DEFAULT_MIN_FEE)
    }
}

/// Where a private key is to be found. Never the key itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeySource {
    /// An encrypted keystore file. Without one, nor any of the others, the key comes from the environment.
    pub keystore: Option<PathSetting>,
    /// A file that holds the keystore's password. Without one it comes from the environment, or is asked for on a terminal.
    pub password_file: Option<PathSetting>,
    /// A key in AWS KMS: its id, its ARN, or an alias. Needs the feature `aws` of this crate.
    pub aws_kms: Option<String>,
    /// A version of a key in Google Cloud KMS, by its whole name. Needs the feature `gcp`.
    pub gcp_kms: Option<String>,
    /// A key on a Ledger, by its derivation path. For the account only. Needs the feature `ledger`.
    pub ledger: Option<String>,
}

/// Where the key that signs results is to be found: wherever it can sign without a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignerSource {
    /// An encrypted keystore file.
    pub keystore: Option<PathSetting>,
    /// A file that holds the keystore's password.
    pub password_file: Option<PathSetting>,
    /// A key in AWS KMS.
    pub aws_kms: Option<String>,
    /// A version of a key in Google Cloud KMS.
    pub gcp_kms: Option<String>,
}

impl From<SignerSource> for KeySource {
    fn from(SignerSource { keystore, password_file, aws_kms, gcp_kms }: SignerSource) -> Self {
        Self { keystore, password_file, aws_kms, gcp_kms, ledger: None }
    }
}

/// Where earnings go, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PayoutConfig {
    /// The account that gets them.
    #[serde(with = "setting::address")]
    pub address: Address,
    /// They are sent when at least this much has come together.
    pub threshold: Wei,
}

impl Default for PayoutConfig {
    fn default() -> Self {
        Self { address: Address::ZERO, threshold: Wei::milliether(100) }
    }
}

/// What a transaction may cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GasConfig {
    /// The most to pay for one unit of gas, tip included. Work waits while the chain asks for more.
    pub max_fee_per_gas: Wei,
    /// A transaction that is stuck is sent again for this much more, in percent. Nodes refuse less than 10.
    pub bump_percent: u32,
    /// When a transaction counts as stuck.
    #[serde(with = "units::duration")]
    pub bump_after: Duration,
    /// The most to spend on gas in 24 hours; work waits when it is reached.
    pub daily_cap: Wei,
    /// Whether to answer also what brings less than its gas costs.
    pub at_a_loss: bool,
}

impl Default for GasConfig {
    fn default() -> Self {
        Self {
            max_fee_per_gas: Wei::gwei(100),
            bump_percent: 15,
            bump_after: Duration::from_secs(30),
            daily_cap: Wei::milliether(100),
            at_a_loss: false,
        }
    }
}

/// Where the state of the work is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file. Created when it is not there.
    pub path: PathSetting,
    /// A Postgres database instead, which several relayers of one operator share: one sends transactions, all work.
    pub url: Option<PostgresUrl>,
    /// How long what a process works on, and its place as the one that sends, are kept for it without a sign of life.
    #[serde(with = "units::duration")]
    pub lease: Duration,
}

impl StoreConfig {
    /// Which of the two it is.
    pub fn location(&self) -> StoreLocation {
        match &self.url {
            Some(url) => StoreLocation::Postgres(Box::new(url.expose().clone())),
            None => StoreLocation::File(self.path.to_path_buf()),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { path: PathSetting("candor.db".into()), url: None, lease: crate::store::LEASE }
    }
}

/// What is told over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port for `/metrics`, `/healthz`, `/readyz` and the status page. Nothing is told without it. All of it is read-only.
    #[serde(deserialize_with = "setting::read_listen")]
    pub listen: Option<SocketAddr>,
}

/// How inputs are fetched that a request names by URI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputsConfig {
    /// Where `ipfs:` is asked for; such inputs can't be had without it. It may be on this machine or in its network.
    pub ipfs_gateway: Option<GatewayUrl>,
    /// Time for one try, from the name of the server to the last byte.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// The most inputs to fetch at once.
    pub at_once: u32,
    /// The most to keep of what was fetched, in MiB.
    pub keep_mib: u64,
    /// Whether to go to `http:` addresses too. What comes from there is checked by its hash all the same.
    pub plain_http: bool,
    /// Whether to go to addresses that are not of the public internet. For local chains and tests only: whoever makes a request chooses the address.
    pub private_addresses: bool,
}

impl Default for InputsConfig {
    fn default() -> Self {
        let default = FetchSettings::default();
        Self {
            ipfs_gateway: None,
            timeout: default.timeout,
            at_once: u32::try_from(default.at_once).unwrap_or(u32::MAX),
            keep_mib: default.kept_bytes >> 20,
            plain_http: default.plain_http,
            private_addresses: default.private_addresses,
        }
    }
}

impl InputsConfig {
    /// What the fetcher is told.
    pub fn settings(&self) -> FetchSettings {
        FetchSettings {
            plain_http: self.plain_http,
            private_addresses: self.private_addresses,
            ipfs_gateway: self.ipfs_gateway.as_ref().map(|gateway| gateway.expose().clone()),
            timeout: self.timeout,
            at_once: self.at_once as usize,
            kept_bytes: self.keep_mib << 20,
        }
    }
}

/// Which models are served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsConfig {
    /// Names of embedded models, or folders.
    pub serve: Vec<ModelSource>,
    /// What the import of a model is told, by its name: the same as `candor model import` was told, or it is another model.
    pub options: BTreeMap<String, ImportOptions>,
    /// What they run on.
    pub device: Device,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        let serve = ModelSource::BUILTIN.iter().map(|name| ModelSource::Builtin(name)).collect();
        Self { serve, options: BTreeMap::new(), device: Device::default() }
    }
}

impl Config {
    /// Puts the options of models beside their paths.
    fn with_options(mut self) -> Self {
        for source in &mut self.models.serve {
            if let (ModelSource::Folder(path), Some(options)) = (&*source, self.models.options.get(&source.name())) {
                *source = ModelSource::Chosen(path.clone(), *options);
            }
        }
        self
    }
}

/// What is written about it all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// For eyes or for machines.
    pub format: LogFormat,
    /// What to write: `error`, `warn`, `info`, `debug`, `trace`, or per module as in `info,candor_relayer::chain=debug`.
    pub level: String,
}

impl LogConfig {
    /// What makes no sense about a level as somebody wrote it, if anything does. A word that is no level would be taken for the name of a module, and
    /// nothing else would be said any more.
    pub fn problem(level: &str) -> Option<String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let known = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        let mut words = level.split(',').map(|part| part.rsplit('=').next().unwrap_or(part).trim());
        let wrong = words.find(|word| !known(word))?;
        Some(match nearest(wrong, LEVELS) {
            Some(meant) => format!("\"{wrong}\" is no level, did you mean \"{meant}\"?"),
            None => {
                format!("\"{wrong}\" is no level: there are {}, and MODULE=LEVEL for one module", LEVELS.join(", "))
            }
        })
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".into() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Coloured lines.
    Pretty,
    /// Lines without colours.
    Plain,
    /// One JSON object a line.
    Json,
}

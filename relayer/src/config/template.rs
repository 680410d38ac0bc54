//! The configuration file that `candor init` writes: every key there is, with its default and what it is for.
use super::{Config, DEFAULT_MIN_FEE, RpcUrl, Wei, format_duration, variable};
use alloy::primitives::Address;
use std::path::Path;

/// What the file is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// A public chain: whatever depends on the chain is left for the person to fill in.
    #[default]
    Public,
    /// A local anvil with blocks every second: nothing is left to fill in but the address of the oracle.
    Anvil,
}

/// What is already known when the file is written.
#[derive(Clone, Debug, Default)]
pub struct Known<'a> {
    /// The nodes to ask.
    pub rpc_urls: &'a [RpcUrl],
    /// The oracle's address.
    pub oracle: Option<Address>,
    /// The keystore that was just created, as it is to be written, relative to the file.
    pub keystore: Option<&'a Path>,
}

/// The text of the file.
pub fn template(preset: Preset, known: &Known<'_>) -> String {
    let default = Config::default();
    let (chain, gas) = (&default.chain, &default.gas);
    let anvil = preset == Preset::Anvil;
    // What must be filled in stays commented out, so that it is reported as missing and not taken for real.
    let setting = |known: Option<String>, example: &str| known.unwrap_or_else(|| format!("# {example}"));
    let given: toml_edit::Array = known.rpc_urls.iter().map(|url| url.expose().as_str()).collect();
    let rpc = setting(
        match given.is_empty() {
            true => anvil.then(|| r#"rpc_urls = ["http://127.0.0.1:8545"]"#.into()),
            false => Some(format!("rpc_urls = {given}")),
        },
        r#"rpc_urls = ["https://node.example", "https://other.example"]"#,
    );
    let id = setting(anvil.then(|| "chain_id = 31337".into()), "chain_id = 1");
    let oracle = setting(
        known.oracle.map(|oracle| format!("oracle = \"{oracle}\"")),
        &format!("oracle = \"{}\"", Address::ZERO),
    );
    let keystore = setting(
        known.keystore.map(|path| format!("keystore = {}", toml_edit::Value::from(path.display().to_string()))),
        "keystore = \"operator.json\"",
    );
    let confirmations = if anvil { 0 } else { chain.confirmations };
    let poll = format_duration(if anvil { std::time::Duration::from_millis(250) } else { chain.poll_interval });
    let answer = format_duration(chain.answer_within);
    let range = chain.max_block_range;
    let overlap = chain.overlap;
    let start = chain.start_block;
    let fee = DEFAULT_MIN_FEE;
    let max_fee = gas.max_fee_per_gas;
    let (bump, after) = (gas.bump_percent, format_duration(gas.bump_after));
    let cap = if anvil { Wei::milliether(10_000) } else { gas.daily_cap };
    let threshold = super::PayoutConfig::default().threshold;
    let store = default.store.path.display();
    let lease = format_duration(default.store.lease);
    let at_a_loss = gas.at_a_loss;
    let (watch, watch_cap) = (default.watcher.enabled, default.watcher.cap);
    let serve = default.models.serve.iter().map(|model| format!("\"{}\"", model.name())).collect::<Vec<_>>().join(", ");
    let device = String::from(default.models.device);
    let level = &default.log.level;
    let inputs = &default.inputs;
    let (fetch_timeout, at_once, keep_mib) = (format_duration(inputs.timeout), inputs.at_once, inputs.keep_mib);
    let (plain_http, demand) = (inputs.plain_http, default.watcher.demand_inputs);
    let private = anvil || inputs.private_addresses;
    let example = variable("chain.poll_interval");
    format!(
        r#"# Candor's configuration. Lines that begin with # are explanations, or settings that are not used.
# Any setting can also be given as an environment variable ({example}=1s) or as a flag
# (--set chain.poll_interval=1s); flags win over variables, variables over this file.
# Paths are relative to this file. Private keys and passwords never go in here. Check it all with: candor doctor

[chain]
# Nodes to ask, in order of preference. The next one is used when one fails.
{rpc}
# The chain the nodes must be on.
{id}
# The InferenceOracle contract. Everything else is read from it.
{oracle}
# Where to start reading: the block the oracle was deployed in, or any later one.
start_block = {start}
# How many blocks must lie on top of an event before it is acted upon. More is safer against reorganisations, and slower.
confirmations = {confirmations}
# How often to ask for new blocks.
poll_interval = "{poll}"
# How long to wait for an answer before a node counts as down. /readyz says so when this and poll_interval have passed.
answer_within = "{answer}"
# The most blocks to ask for in one query. Lower it if your node refuses.
max_block_range = {range}
# How many blocks already read are read again each time, against nodes that answer before they know everything.
overlap = {overlap}

# Who answers requests. Without the sections [operator...] nothing is answered, only watched.
[operator]

# The account that sends the transactions and owns the stake. Without a keystore the key is read from CANDOR_PRIVATE_KEY.
[operator.account]
{keystore}
# A file with the keystore's password. Without it: CANDOR_KEYSTORE_PASSWORD, or asked for on a terminal.
# password_file = "operator.password"
# Or where the key is instead, if candor was built with the feature aws, gcp or ledger (docs/relayer.md).
# aws_kms = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
# gcp_kms = "projects/mine/locations/global/keyRings/candor/cryptoKeys/account/cryptoKeyVersions/1"
# ledger = "m/44'/60'/0'/0/0"

# The key that signs results, if it is not the account's own: a hot key that can be replaced without moving the stake.
# Without a keystore it is read from CANDOR_SIGNER_PRIVATE_KEY; the password from CANDOR_SIGNER_KEYSTORE_PASSWORD.
# [operator.signer]
# keystore = "signer.json"
# password_file = "signer.password"
# aws_kms = "alias/candor-signer"
# gcp_kms = "projects/mine/locations/global/keyRings/candor/cryptoKeys/signer/cryptoKeyVersions/1"

# The least to answer for, by model. `candor operator join` publishes these prices.
[operator.min_fee]
default = "{fee}"
# credit = "0.0005 ether"

# Where earnings go, when that much has come together. Without this they stay as credit in the oracle.
# [operator.payout]
# address = "{zero}"
# threshold = "{threshold}"

[watcher]
# Whether to run the results of others again, and to challenge those that are wrong. The account puts up the bonds and pays the gas.
enabled = {watch}
# The most to have in bonds at once, those lost included.
cap = "{watch_cap}"
# Models whose results are run again; those of models.serve when empty.
models = []
# Whether to challenge what can't be judged because its input, at a URI, can't be had: its operator must show it then. Costs the bond
# where the result is right.
demand_inputs = {demand}

[gas]
# The most to pay for one unit of gas, tip included. Work waits while the chain asks for more.
max_fee_per_gas = "{max_fee}"
# A transaction that is stuck for so long is sent again for so many percent more (10 to 200).
bump_after = "{after}"
bump_percent = {bump}
# The most to spend on gas in 24 hours. Work waits when it is reached.
daily_cap = "{cap}"
# Whether to answer also what brings less than its gas costs.
at_a_loss = {at_a_loss}

[store]
# The SQLite file with the state of the work. Created when it is not there.
path = "{store}"
# A Postgres database instead, which several relayers of one operator share: one of them sends transactions, all of them work.
# url = "postgres://candor@db.example/candor"
# How long what a process works on, and its place as the one that sends, are kept for it without a sign of life.
lease = "{lease}"

[models]
# Which models to serve: names of embedded ones, or folders such as "./my-model".
serve = [{serve}]
# What they run on: cpu, cuda (an NVIDIA GPU), or cuda:1 (the second one). A GPU that is asked for and is not there is an error.
device = "{device}"
# What the import of one of them was told, by its name (docs/models.md): it is another model otherwise.
# [models.options.my-model]
# context = 1024

# Inputs that are at a URI instead of in the request. They count only if they have the hash that the request names.
[inputs]
# Where ipfs: is asked for. Without it such inputs can't be had.
# ipfs_gateway = "http://127.0.0.1:8080"
# The time for one try. It is tried again, with pauses that grow, until the request's deadline.
timeout = "{fetch_timeout}"
# The most to fetch at once; one requester gets a quarter of that.
at_once = {at_once}
# The most to keep of what was fetched, in MiB.
keep_mib = {keep_mib}
# Whether to go to http: addresses too. What is there is checked in any case.
plain_http = {plain_http}
# Whether to go to addresses that are not of the public internet. For local chains only: strangers choose the address.
private_addresses = {private}

[http]
# Where /metrics, /healthz, /readyz and the status page are; all of it read-only. Nothing is told without this.
# listen = "127.0.0.1:9464"

[log]
# auto (pretty on a terminal, JSON otherwise), pretty, plain or json.
format = "auto"
# error, warn, info, debug, trace; or by module, as in "info,candor_relayer::chain=debug".
level = "{level}"
"#,
        zero = Address::ZERO,
    )
}

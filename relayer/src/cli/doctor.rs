//! `candor doctor`: everything that can be wrong before money is at risk, all at once.
use super::{
    Context, Outcome,
    context::{AnyClient, connect_one, provider},
};
use crate::{
    config::{Config, ConfigError, Needs, Wei},
    engine::{
        Device,
        cuda::{self, Description, DeviceError},
    },
    keys::{KeyKind, SigningKey},
    models::CatalogModel,
    readable::money,
    store::{Store, StoreError, StoreLocation},
};
use alloy::{
    eips::BlockId,
    primitives::{Address, U256, keccak256},
    providers::Provider,
};
use candor_sdk::bindings::{IDisputeGame, IInferenceOracle};
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

/// How far this machine's clock may be from the chain's newest block, in seconds.
const CLOCK_SLACK: u64 = 120;

/// Gas of a relayer's busiest hour, for judging a balance: some hundred results posted and finalized.
const GAS_TO_WORK_WITH: u128 = 10_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    Warning,
    Bad,
}

/// The checks so far.
struct Report<'a> {
    context: &'a Context,
    bad: usize,
    warnings: usize,
}

impl Report<'_> {
    fn add(&mut self, mark: Mark, check: &'static str, text: impl Into<String>) -> anyhow::Result<()> {
        let text = text.into();
        let (sign, word) = match mark {
            Mark::Good => ("ok  ", "ok"),
            Mark::Warning => ("warn", "warning"),
            Mark::Bad => ("BAD ", "bad"),
        };
        self.bad += usize::from(mark == Mark::Bad);
        self.warnings += usize::from(mark == Mark::Warning);
        self.context.say(
            || format!("{sign}  {check:<10} {text}"),
            || json!({ "event": "check", "check": check, "result": word, "text": text }),
        )
    }

    fn good(&mut self, check: &'static str, text: impl Into<String>) -> anyhow::Result<()> {
        self.add(Mark::Good, check, text)
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>) -> anyhow::Result<()> {
        self.add(Mark::Warning, check, text)
    }

    fn bad(&mut self, check: &'static str, text: impl Into<String>) -> anyhow::Result<()> {
        self.add(Mark::Bad, check, text)
    }
}

pub(super) async fn doctor(context: &Context) -> anyhow::Result<Outcome> {
    let mut report = Report { context, bad: 0, warnings: 0 };
    let config = match context.config(Needs::Chain) {
        Ok(config) => {
            let file = context
                .sources
                .file()
                .map_or_else(|| "environment and flags alone".into(), |file| file.display().to_string());
            report.good("config", file)?;
            Some(config)
        }
        Err(ConfigError { problems }) => {
            for problem in problems {
                report.bad("config", problem.to_string())?;
            }
            None
        }
    };
    // Without a whole configuration the rest would be guesses, but for the models, which need none.
    if let Some(config) = &config {
        let keys = keys(&mut report, config).await?;
        let models = models(&mut report, config)?;
        store(&mut report, config).await?;
        if let Some(client) = nodes(&mut report, config).await? {
            chain(&mut report, config, &client, &models, keys.as_ref()).await?;
        }
    }
    let (bad, warnings) = (report.bad, report.warnings);
    context.say(
        || match (bad, warnings) {
            (0, 0) => "all is well".to_owned(),
            (0, warnings) => format!("nothing is broken; {warnings} to look at"),
            (bad, 0) => format!("{bad} to repair"),
            (bad, warnings) => format!("{bad} to repair, {warnings} to look at"),
        },
        || json!({ "event": "diagnosis", "bad": bad, "warnings": warnings }),
    )?;
    Ok(if bad == 0 { Outcome::Done } else { Outcome::No })
}

/// Whether a KMS that shows a key signs with it, too: those are two permissions.
async fn can_sign(report: &mut Report<'_>, key: &SigningKey) -> anyhow::Result<()> {
    if !matches!(key.kind(), KeyKind::AwsKms | KeyKind::GcpKms) {
        return Ok(());
    }
    match key.sign_hash(&keccak256("candor doctor: can this key sign?")).await {
        Ok(_) => Ok(()),
        Err(error) => report.bad("keys", error.to_string()),
    }
}

/// Where a key is, if not in this process.
fn place(key: &SigningKey) -> String {
    if key.kind() == KeyKind::Local { String::new() } else { format!(", {}", key.kind()) }
}

/// The operator's keys, opened.
struct Keys {
    account: SigningKey,
    signer: SigningKey,
}

async fn keys(report: &mut Report<'_>, config: &Config) -> anyhow::Result<Option<Keys>> {
    if config.operator.is_none() {
        report.warn("keys", "there is no section [operator]: this relayer only watches")?;
        return Ok(None);
    }
    let account = match report.context.account(config).await {
        Ok(account) => account,
        Err(error) => {
            report.bad("keys", super::explain(&error))?;
            return Ok(None);
        }
    };
    report.good("keys", format!("account {}{}", account.address(), place(&account)))?;
    can_sign(report, &account).await?;
    if account.kind() == KeyKind::Ledger {
        report.warn(
            "keys",
            "a person at the Ledger has to agree to each transaction; a relayer that runs waits for that",
        )?;
    }
    match report.context.signer(config, &account).await {
        Ok(signer) if signer.address() == account.address() => {
            report.good("keys", "the account's own key signs results")?;
            Ok(Some(Keys { account, signer }))
        }
        Ok(signer) => {
            report.good("keys", format!("{} signs results{}", signer.address(), place(&signer)))?;
            can_sign(report, &signer).await?;
            Ok(Some(Keys { account, signer }))
        }
        Err(error) => {
            report.bad("keys", super::explain(&error))?;
            Ok(None)
        }
    }
}

fn models(report: &mut Report<'_>, config: &Config) -> anyhow::Result<Vec<CatalogModel>> {
    let mut models = Vec::new();
    let device = config.models.device;
    if let Device::Cuda(ordinal) = device {
        match gpu(ordinal) {
            Ok(text) => report.good("device", text)?,
            Err(error) => report.bad("device", error.to_string())?,
        }
    }
    for source in &config.models.serve {
        match CatalogModel::load_on(source, device) {
            Ok(model) => {
                report.good("models", format!("{} is {}, on {}", model.name(), model.id(), model.runner().device()))?;
                models.push(model);
            }
            Err(error) => report.bad("models", error.to_string())?,
        }
    }
    Ok(models)
}

/// What a GPU is, and that it passes the self-test: a worker starts with no less.
fn gpu(ordinal: usize) -> Result<String, DeviceError> {
    let worker = cuda::worker(ordinal)?;
    let Description { driver, capability, multiprocessors, memory, .. } = worker.description();
    let (free, test) = (worker.free_memory()?, worker.self_test()?);
    test.result()?;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Ok(format!(
        "{worker}, driver for CUDA {driver}, compute capability {capability}, {multiprocessors} multiprocessors, \
         {:.1} of {:.1} GiB free; self-test right ({} numbers)",
        gib(free),
        gib(*memory),
        test.compared
    ))
}

async fn store(report: &mut Report<'_>, config: &Config) -> anyhow::Result<()> {
    let location = config.store.location();
    if let StoreLocation::File(path) = &location
        && !path.exists()
    {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
        // The relayer makes the folder; whether it can is decided by the nearest one that is there.
        let Some(there) = folder
            .ancestors()
            .map(|folder| if folder.as_os_str().is_empty() { std::path::Path::new(".") } else { folder })
            .find(|folder| folder.exists())
        else {
            return report.bad("database", format!("{location} can't be made"));
        };
        return match tempfile::tempfile_in(there) {
            Ok(_) => report.good("database", format!("{location} will be made")),
            Err(error) => report.bad("database", format!("{location} can't be made: {error}")),
        };
    }
    match Store::open(location.clone(), config.chain.chain_id, config.chain.oracle, config.chain.start_block).await {
        Ok(store) => report
            .good("database", format!("{location}, read up to block {}", store.next_block().await?.saturating_sub(1))),
        Err(StoreError::InUse(_)) => {
            report.warn("database", format!("{location} is in use: a relayer is running with this configuration"))
        }
        Err(error) => report.bad("database", error.to_string()),
    }
}

/// Looks at every node and hands back the first that can be used.
async fn nodes(report: &mut Report<'_>, config: &Config) -> anyhow::Result<Option<AnyClient>> {
    let mut first = None;
    for url in &config.chain.rpc_urls {
        match connect_one(config, url, None).await {
            Ok(client) => {
                report
                    .good("node", format!("{url}: chain {}, with an oracle at {}", client.chain_id, client.oracle))?;
                first = first.or(Some(client));
            }
            Err(error) => {
                report.bad("node", format!("{url}: {}", super::explain(&error)))?;
                continue;
            }
        }
        clock(report, config, url).await?;
    }
    Ok(first)
}

async fn clock(report: &mut Report<'_>, config: &Config, url: &crate::config::RpcUrl) -> anyhow::Result<()> {
    let block = match provider(url, None, config.chain.answer_within)?.get_block(BlockId::latest()).await {
        Ok(Some(block)) => block,
        Ok(None) => return report.bad("node", format!("{url}: it does not know its own newest block")),
        Err(error) => {
            return report
                .bad("node", format!("{url}: {}", error.to_string().replace(url.expose().as_str(), &url.to_string())));
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let then = block.header.timestamp;
    match now.abs_diff(then) {
        apart if apart <= CLOCK_SLACK => report
            .good("clock", format!("{url}: newest block {}, {apart} s from this machine's clock", block.header.number)),
        apart if then > now => report.warn(
            "clock",
            format!("{url}: the newest block is {apart} s ahead of this machine's clock; set the clock"),
        ),
        apart => report.warn(
            "clock",
            format!("{url}: the newest block is {apart} s old; the node is not keeping up, or the chain is idle"),
        ),
    }
}

/// Whether results can be disputed here, and whether this configuration can pay for a challenge.
async fn disputes(report: &mut Report<'_>, config: &Config, client: &AnyClient) -> anyhow::Result<()> {
    let game = client.view(client.oracle, IInferenceOracle::disputeGameCall {}).await?;
    if game.is_zero() {
        let watches = config.watcher.enabled;
        let text = "this deployment has no dispute game: results are worth their operators' word".to_owned();
        return if watches { report.bad("disputes", text) } else { report.good("disputes", text) };
    }
    let terms = client.view(game, IDisputeGame::termsCall {}).await?;
    let (bond, cap) = (U256::from(terms.bond), U256::from(config.watcher.cap.0));
    if config.watcher.enabled && cap < bond {
        return report.bad(
            "disputes",
            format!("a challenge takes {} and watcher.cap is {}: nothing can be challenged", money(bond), money(cap)),
        );
    }
    report.good("disputes", format!("a challenge takes {}, each side has {} s for its moves", money(bond), terms.clock))
}

async fn chain(
    report: &mut Report<'_>,
    config: &Config,
    client: &AnyClient,
    models: &[CatalogModel],
    keys: Option<&Keys>,
) -> anyhow::Result<()> {
    let terms = match client.terms().await {
        Ok(terms) => terms,
        Err(error) => return report.bad("contracts", error.to_string()),
    };
    report.good(
        "contracts",
        format!(
            "results can be challenged for {} s, each locks {}",
            terms.challenge_window,
            money(terms.stake_per_result)
        ),
    )?;
    disputes(report, config, client).await?;
    let start = config.chain.start_block;
    let head = client.provider().get_block_number().await?;
    if start > head {
        report.bad("contracts", format!("chain.start_block is {start} and the newest block is {head}"))?;
    } else if let Err(error) = client.logs(head.saturating_sub(config.chain.max_block_range - 1)..=head).await {
        report.bad(
            "node",
            format!("it refuses {} blocks in one query (chain.max_block_range): {error}", config.chain.max_block_range),
        )?;
    }
    let gas_price = client.provider().get_gas_price().await?;
    if gas_price > config.gas.max_fee_per_gas.0 {
        report.warn(
            "gas",
            format!(
                "gas costs {} now, gas.max_fee_per_gas is {}: work waits",
                Wei(gas_price),
                config.gas.max_fee_per_gas
            ),
        )?;
    } else {
        report.good("gas", format!("{} now, at most {}", Wei(gas_price), config.gas.max_fee_per_gas))?;
    }
    for model in models {
        if client.model(model.id()).await?.is_none() {
            let name = model.name();
            report.bad("models", format!("{name} is not registered on this chain: candor model register {name}"))?;
        }
    }
    let (Some(keys), Some(operator)) = (keys, &config.operator) else { return Ok(()) };
    let account = keys.account.address();
    signer(report, client, account, keys.signer.address()).await?;

    let (stake, unbonding, locked) = client.stake(account).await?;
    let backing = stake.saturating_sub(unbonding);
    let free = backing.saturating_sub(locked);
    if backing < terms.min_stake {
        report.bad(
            "stake",
            format!(
                "{} back the operator, {} are needed: candor operator join",
                money(backing),
                money(terms.min_stake)
            ),
        )?;
    } else if free < terms.stake_per_result {
        report.warn(
            "stake",
            format!(
                "{} of {} free; the next result has to wait for one to become final, or for more stake",
                money(free),
                money(stake)
            ),
        )?;
    } else {
        report.good(
            "stake",
            format!(
                "{}, {} free: {} results at a time",
                money(stake),
                money(free),
                free / terms.stake_per_result.max(U256::ONE)
            ),
        )?;
    }
    let balance = client.provider().get_balance(account).await?;
    let wanted = U256::from(gas_price) * U256::from(GAS_TO_WORK_WITH);
    if balance.is_zero() {
        report.bad("balance", format!("account {account} has nothing to pay gas with"))?;
    } else if balance < wanted {
        report.warn("balance", format!("{}; {} would pay for some hundred results", money(balance), money(wanted)))?;
    } else {
        report.good("balance", money(balance))?;
    }
    for model in models {
        let wanted = operator.min_fee_for(model.name());
        match client.offer(model.id(), account).await? {
            None => report.bad("offers", format!("{} is not offered: candor operator join", model.name()))?,
            Some(price) if price < wanted.0 => {
                report.warn(
                    "offers",
                    format!(
                        "{} is offered for {} and answered for {wanted} or more: candor operator join",
                        model.name(),
                        Wei(price)
                    ),
                )?;
            }
            Some(price) => report.good("offers", format!("{} for {}", model.name(), Wei(price)))?,
        }
    }
    Ok(())
}

async fn signer(report: &mut Report<'_>, client: &AnyClient, account: Address, signer: Address) -> anyhow::Result<()> {
    match client.operator_of(signer).await? {
        Some(owner) if owner == account => report.good("signer", format!("{signer} speaks for this operator")),
        Some(owner) => report.bad("signer", format!("{signer} speaks for another operator, {owner}")),
        None => report.bad("signer", format!("{signer} is not registered: candor operator join")),
    }
}

//! `candor operator`: stake, signing key and prices; and getting the money out again.
use super::{
    Context, Outcome, UsageError,
    context::{AnyClient, known_models},
};
use crate::{
    config::{Config, Needs, Wei, parse_address},
    keys::SigningKey,
    models::CatalogModel,
    readable::{grouped, money},
};
use alloy::{
    eips::BlockId,
    primitives::{Address, U256},
    providers::Provider,
};
use anyhow::{Context as _, bail};
use candor_sdk::{
    bindings::IOperatorRegistry,
    client::{Call, Terms},
    commitment::signature_bytes,
};
use clap::{Args, Subcommand};
use serde_json::json;

/// What `candor operator` does.
#[derive(Debug, Subcommand)]
pub(super) enum OperatorCommand {
    /// Become an operator, or bring what the chain knows in line with the configuration: stake, signing key, prices
    Join(JoinArgs),
    /// The operator as the chain knows it
    Show {
        /// Any operator's account [default: the configured one]
        operator: Option<String>,
    },
    /// Take earnings or stake out. Stake takes two calls: one announces it, one takes it after the delay
    Withdraw(WithdrawArgs),
}

/// What `candor operator join` is told.
#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// The stake to have in all; what is missing is put down [default: the least that an operator needs, and one result's worth more]
    #[arg(long, value_name = "AMOUNT")]
    stake: Option<Wei>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What `candor operator withdraw` is told.
#[derive(Debug, Args)]
pub(super) struct WithdrawArgs {
    /// Take out what was earned, instead of stake
    #[arg(long)]
    earnings: bool,
    /// How much [default: all]
    #[arg(long, value_name = "AMOUNT")]
    amount: Option<Wei>,
    /// The account that gets it [default: the operator's own]
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
}

pub(super) async fn operator(context: &Context, command: &OperatorCommand) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    let looks = matches!(command, OperatorCommand::Show { .. });
    let config = if looks { context.config(Needs::Chain)? } else { context.config_to_pay(Needs::Chain)? };
    match command {
        OperatorCommand::Join(args) => join(context, &config, args).await?,
        OperatorCommand::Show { operator } => show(context, &config, operator.as_deref()).await?,
        OperatorCommand::Withdraw(args) => withdraw(context, &config, args).await?,
    }
    Ok(Outcome::Done)
}

/// Sends what is to be done, one after the other, and says so.
struct Steps<'a> {
    context: &'a Context,
    client: &'a AnyClient,
    dry_run: bool,
    done: usize,
}

impl Steps<'_> {
    async fn step(&mut self, what: String, call: Call) -> anyhow::Result<()> {
        self.done += 1;
        if self.dry_run {
            return self.context.say(|| format!("would {what}"), || json!({ "event": "would", "what": what }));
        }
        let receipt = self.client.send(call).await.with_context(|| format!("failed to {what}"))?;
        let (hash, gas) = (receipt.transaction_hash, receipt.gas_used);
        self.context.say(
            || format!("{what}: tx {hash}, {} gas", grouped(gas)),
            || json!({ "event": "done", "what": what, "transaction": hash, "gas": gas }),
        )
    }
}

async fn join(context: &Context, config: &Config, args: &JoinArgs) -> anyhow::Result<()> {
    let account = context.account(config).await?;
    let signer = context.signer(config, &account).await?;
    let client = context.paying_client(config, &account).await?;
    let terms = client.terms().await?;
    let models = config.models.serve.iter().map(CatalogModel::load).collect::<Result<Vec<_>, _>>()?;
    let mut unknown = Vec::new();
    for model in &models {
        if client.model(model.id()).await?.is_none() {
            let (name, id) = (model.name(), model.id());
            unknown.push(format!(
                "model {name} ({}) is not registered on this chain; `candor model register {name}` does it",
                id.short()
            ));
        }
    }
    if !unknown.is_empty() {
        bail!(unknown.join("\n       "));
    }
    check_signer(&client, account.address(), signer.address()).await?;

    let mut steps = Steps { context, client: &client, dry_run: args.dry_run, done: 0 };
    let (stake, unbonding, _) = client.stake(account.address()).await?;
    let wanted = args.stake.map_or(terms.min_stake + terms.stake_per_result, |stake| U256::from(stake.0));
    if wanted < terms.min_stake {
        return Err(UsageError(format!("an operator needs at least {} of stake", money(terms.min_stake))).into());
    }
    let missing = wanted.saturating_sub(stake.saturating_sub(unbonding));
    if missing > U256::ZERO {
        let balance = client.provider().get_balance(account.address()).await?;
        if balance < missing {
            bail!("account {} has {}, the stake lacks {}", account.address(), money(balance), money(missing));
        }
        steps
            .step(format!("put down {} of stake", money(missing)), client.deposit_stake(account.address(), missing))
            .await?;
    }
    if client.operator_of(signer.address()).await?.is_none() {
        let consent = consent(&client, account.address(), &signer).await?;
        steps
            .step(
                format!("register the signing key {}", signer.address()),
                client.add_signer(signer.address(), consent),
            )
            .await?;
    }
    let operator = config.operator.clone().unwrap_or_default();
    for model in &models {
        let price = operator.min_fee_for(model.name());
        if client.offer(model.id(), account.address()).await? != Some(price.0) {
            steps.step(format!("offer {} for {price}", model.name()), client.set_offer(model.id(), price.0)).await?;
        }
    }
    if steps.done == 0 {
        return context.say(
            || "nothing to do: stake, signing key and prices are as configured".to_owned(),
            || json!({ "event": "nothing_to_do" }),
        );
    }
    Ok(())
}

async fn check_signer(client: &AnyClient, account: Address, signer: Address) -> anyhow::Result<()> {
    match client.operator_of(signer).await? {
        Some(owner) if owner != account => {
            bail!("the signing key {signer} speaks for operator {owner}; a key serves one operator")
        }
        _ => Ok(()),
    }
}

async fn consent(
    client: &AnyClient,
    operator: Address,
    signer: &SigningKey,
) -> anyhow::Result<alloy::primitives::Bytes> {
    let digest = client.operators_domain().consent_digest(operator);
    Ok(signature_bytes(&signer.sign_hash(&digest).await?))
}

async fn show(context: &Context, config: &Config, named: Option<&str>) -> anyhow::Result<()> {
    let address = match named {
        Some(text) => parse_address(text).map_err(UsageError)?,
        None => context.operator(config).await?,
    };
    let client = context.client(config).await?;
    let Terms { min_stake, stake_per_result, .. } = client.terms().await?;
    let account = client.view(client.operators, IOperatorRegistry::stakeOfCall { operator: address }).await?;
    let (_, _, locked) = client.stake(address).await?;
    let free = account.stake.saturating_sub(account.unbonding).saturating_sub(locked);
    let credit = client.credit(address).await?;
    let balance = client.provider().get_balance(address).await?;
    let mut offers = Vec::new();
    for source in known_models(config) {
        let model = CatalogModel::load(&source)?;
        if let Some(price) = client.offer(model.id(), address).await? {
            offers.push((model.name().to_owned(), Wei(price)));
        }
    }
    context.say(
        || {
            let mut text = format!("operator   {address}\nbalance    {}\nearnings   {} (credit in the oracle)", money(balance), money(credit));
            text += &format!("\nstake      {}", money(account.stake));
            if account.stake < min_stake {
                text += &format!(", less than the {} an operator needs", money(min_stake));
            }
            text += &format!("\n           {} locked by unfinished results, {} free: enough for {} more results", money(locked), money(free), free / stake_per_result.max(U256::ONE));
            if account.unbonding > U256::ZERO {
                text += &format!("\n           {} on its way out, from unix second {}", money(account.unbonding), account.availableAt);
            }
            for (model, price) in &offers {
                text += &format!("\noffers     {model} for {price}");
            }
            if offers.is_empty() {
                text += "\noffers     none of the models known here";
            }
            text
        },
        || {
            json!({
                "event": "operator", "operator": address, "balance": balance.to_string(), "credit": credit.to_string(),
                "stake": account.stake.to_string(), "locked": locked.to_string(), "free": free.to_string(),
                "unbonding": account.unbonding.to_string(), "available_at": account.availableAt.saturating_to::<u64>(),
                "offers": offers.iter().map(|(model, price)| json!({ "model": model, "price": price.0.to_string() })).collect::<Vec<_>>(),
            })
        },
    )
}

async fn withdraw(context: &Context, config: &Config, args: &WithdrawArgs) -> anyhow::Result<()> {
    let key = context.account(config).await?;
    let account = key.address();
    let to = args.to.as_deref().map(parse_address).transpose().map_err(UsageError)?.unwrap_or(account);
    let client = context.paying_client(config, &key).await?;
    let mut steps = Steps { context, client: &client, dry_run: false, done: 0 };
    if args.earnings {
        let credit = client.credit(account).await?;
        let amount = args.amount.map_or(credit, |amount| U256::from(amount.0));
        if amount > credit {
            bail!("{} are earned, {} are asked for", money(credit), money(amount));
        }
        if amount == U256::ZERO {
            bail!("nothing is earned yet");
        }
        return steps.step(format!("send {} to {to}", money(amount)), client.withdraw_credit(to, amount)).await;
    }
    let held = client.view(client.operators, IOperatorRegistry::stakeOfCall { operator: account }).await?;
    if held.unbonding > U256::ZERO {
        let now = client
            .provider()
            .get_block(BlockId::latest())
            .await?
            .context("the node has no newest block")?
            .header
            .timestamp;
        if U256::from(now) < held.availableAt {
            let wait = held.availableAt - U256::from(now);
            bail!("{} are on their way out already, ready in {wait} s of the chain's clock", money(held.unbonding));
        }
        return steps.step(format!("send {} of stake to {to}", money(held.unbonding)), client.withdraw_stake(to)).await;
    }
    let amount = args.amount.map_or(held.stake, |amount| U256::from(amount.0));
    if held.stake == U256::ZERO {
        bail!("there is no stake");
    }
    if amount > held.stake {
        bail!("there are {} of stake, {} are asked for", money(held.stake), money(amount));
    }
    let terms = client.terms().await?;
    if held.stake - amount < terms.min_stake {
        // Who makes offers must have the least stake.
        for source in known_models(config) {
            let model = CatalogModel::load(&source)?;
            if client.offer(model.id(), account).await?.is_some() {
                steps.step(format!("stop offering {}", model.name()), client.remove_offer(model.id())).await?;
            }
        }
    }
    steps
        .step(format!("announce the withdrawal of {} of stake", money(amount)), client.request_withdrawal(amount))
        .await?;
    context.say(
        || {
            format!(
                "the same command takes it out after {} s; until then it can still be slashed",
                terms.withdrawal_delay
            )
        },
        || json!({ "event": "note", "text": "withdrawal announced", "delay_seconds": terms.withdrawal_delay }),
    )
}

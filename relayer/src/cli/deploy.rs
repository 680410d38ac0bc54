//! `candor deploy`: the contracts, on a chain of one's choice. Nobody owns them afterwards, so every number given here is given for good.
use super::{Context, Outcome, UsageError, context::node};
use crate::{
    config::{Needs, Wei, format_duration, parse_address, parse_duration},
    readable::{grouped, money},
};
use alloy::{
    primitives::{Address, U256, aliases::U96},
    providers::Provider,
};
use anyhow::{Context as _, bail};
use candor_sdk::{
    bindings::Terms,
    client::Client,
    deploy::{self, Artifact, DeploySettings, Disputes},
};
use clap::Args;
use serde_json::json;
use std::time::Duration;

/// What `candor deploy` is told.
#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    /// Time in which a posted result can be challenged
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_duration)]
    challenge_window: Duration,
    /// Time that the operator drawn for a request has to itself
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    exclusive_period: Duration,
    /// Shortest time for an answer that a request may name
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    min_timeout: Duration,
    /// Longest time for an answer that a request may name
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_duration)]
    max_timeout: Duration,
    /// Stake that an operator needs to make offers
    #[arg(long, value_name = "AMOUNT", default_value = "1 ether")]
    min_stake: Wei,
    /// Stake that each result locks until its window has passed, and that a wrong one costs
    #[arg(long, value_name = "AMOUNT", default_value = "0.2 ether")]
    stake_per_result: Wei,
    /// Time between announcing a withdrawal of stake and taking it
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_duration)]
    withdrawal_delay: Duration,
    /// Gas that a consumer's callback may ask for, at most
    #[arg(long, value_name = "GAS", default_value_t = 2_000_000)]
    max_callback_gas: u32,
    /// Gas that telling a consumer about a rejected result gets
    #[arg(long, value_name = "GAS", default_value_t = 100_000)]
    revocation_gas: u32,
    /// What a challenger puts up
    #[arg(long, value_name = "AMOUNT", default_value = "0.1 ether")]
    bond: Wei,
    /// What whoever convicts an operator gets, besides bond and gas
    #[arg(long, value_name = "AMOUNT", default_value = "0.05 ether")]
    reward: Wei,
    /// What one side of one dispute is repaid for its gas, at most
    #[arg(long, value_name = "AMOUNT", default_value = "0.05 ether")]
    gas_allowance: Wei,
    /// Price of gas at which it is repaid, at most
    #[arg(long, value_name = "AMOUNT", default_value = "25 gwei")]
    max_gas_price: Wei,
    /// Time that each side of a dispute starts with
    #[arg(long, value_name = "TIME", default_value = "12h", value_parser = parse_duration)]
    clock: Duration,
    /// Time gained with each move
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    increment: Duration,
    /// Time that every turn has at least
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    extension: Duration,
    /// A step verifier that is on the chain already: one serves any number of deployments
    #[arg(long, value_name = "ADDRESS", conflicts_with = "without_disputes")]
    verifier: Option<String>,
    /// No disputes: a result is worth its operator's word. For trials
    #[arg(long)]
    without_disputes: bool,
    /// Say what would be deployed and what it would cost, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl DeployArgs {
    /// The settings, or everything about them that the constructors would refuse, which can't say what.
    fn settings(&self) -> Result<(DeploySettings, Terms), UsageError> {
        let mut wrong = Vec::new();
        let mut seconds = |flag: &str, time: Duration, from: u64, to: u64| {
            if time.subsec_nanos() != 0 || !(from..=to).contains(&time.as_secs()) {
                let (from, to) = (Duration::from_secs(from), Duration::from_secs(to));
                wrong.push(format!(
                    "--{flag} is {}: must be whole seconds, from {} to {}",
                    format_duration(time),
                    format_duration(from),
                    format_duration(to)
                ));
            }
            time.as_secs()
        };
        const DAY: u64 = 86_400;
        let challenge_window = seconds("challenge-window", self.challenge_window, 1, 365 * DAY);
        let exclusive_period = seconds("exclusive-period", self.exclusive_period, 0, 365 * DAY);
        let min_timeout = seconds("min-timeout", self.min_timeout, 1, 365 * DAY);
        let max_timeout = seconds("max-timeout", self.max_timeout, 1, 365 * DAY);
        let withdrawal_delay = seconds("withdrawal-delay", self.withdrawal_delay, 0, 365 * DAY);
        let clock = seconds("clock", self.clock, 1, 30 * DAY);
        let increment = seconds("increment", self.increment, 0, 30 * DAY);
        let extension = seconds("extension", self.extension, 1, 30 * DAY);
        let mut check = |right: bool, problem: String| {
            if !right {
                wrong.push(problem);
            }
        };
        check(
            min_timeout > exclusive_period,
            "--min-timeout must be longer than --exclusive-period, or nobody but the drawn operator can answer"
                .to_owned(),
        );
        check(max_timeout >= min_timeout, "--max-timeout must not be shorter than --min-timeout".to_owned());
        check(self.min_stake.0 > 0 && self.min_stake.0 < 1 << 96, "--min-stake must be more than nothing".to_owned());
        check(self.stake_per_result.0 > 0, "--stake-per-result must be more than nothing".to_owned());
        check(
            self.stake_per_result <= self.min_stake,
            format!(
                "--stake-per-result ({}) must not be more than --min-stake ({})",
                self.stake_per_result, self.min_stake
            ),
        );
        const CALLBACK_GAS: u32 = 8_000_000;
        for (flag, gas) in [("max-callback-gas", self.max_callback_gas), ("revocation-gas", self.revocation_gas)] {
            check(gas <= CALLBACK_GAS, format!("--{flag} is {gas}: at most {CALLBACK_GAS}"));
        }
        if !self.without_disputes {
            let paid = self.reward.0.saturating_add(self.gas_allowance.0);
            check(
                self.stake_per_result.0 >= paid.saturating_mul(2),
                format!(
                    "--stake-per-result ({}) must be at least twice --reward and --gas-allowance together ({}): half of what is slashed burns",
                    self.stake_per_result,
                    Wei(paid)
                ),
            );
            check(
                self.bond.0 > 0 && self.bond.0 >= self.gas_allowance.0.saturating_mul(2),
                format!("--bond ({}) must be at least twice --gas-allowance ({})", self.bond, self.gas_allowance),
            );
            let small = [self.bond, self.reward, self.gas_allowance].iter().all(|amount| amount.0 < 1 << 96);
            check(
                small && u64::try_from(self.max_gas_price.0).is_ok(),
                "an amount is larger than any chain has".to_owned(),
            );
        }
        if !wrong.is_empty() {
            return Err(UsageError(wrong.join("\n       ")));
        }
        let terms = Terms {
            bond: U96::from(self.bond.0),
            reward: U96::from(self.reward.0),
            gasAllowance: U96::from(self.gas_allowance.0),
            maxGasPrice: self.max_gas_price.0 as u64,
            clock: clock as u32,
            increment: increment as u32,
            extension: extension as u32,
        };
        let settings = DeploySettings {
            disputes: None,
            challenge_window,
            exclusive_period,
            min_timeout: min_timeout as u32,
            max_timeout: max_timeout as u32,
            stake_per_result: U256::from(self.stake_per_result.0),
            max_callback_gas: self.max_callback_gas,
            revocation_gas: self.revocation_gas,
            min_stake: U256::from(self.min_stake.0),
            withdrawal_delay,
        };
        Ok((settings, terms))
    }

    /// What is to be created, and gas for it that is enough: transaction, creation, 200 a byte of code, 40 a byte of calldata at most.
    fn contracts(&self) -> (Vec<&'static str>, u64) {
        let mut contracts = vec![
            ("ModelRegistry", Artifact::model_registry()),
            ("OperatorRegistry", Artifact::operator_registry()),
            ("InferenceOracle", Artifact::inference_oracle()),
        ];
        if !self.without_disputes {
            contracts.push(("DisputeGame", Artifact::dispute_game()));
            if self.verifier.is_none() {
                contracts.extend(Artifact::step_families().map(|family| ("a family of steps", family)));
                contracts.push(("OneStepVerifier", Artifact::one_step_verifier()));
            }
        }
        let gas = contracts.iter().map(|(_, artifact)| 100_000 + 240 * artifact.bytecode.len() as u64).sum();
        (contracts.into_iter().map(|(name, _)| name).collect(), gas)
    }
}

pub(super) async fn deploy(context: &Context, args: &DeployArgs) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    let (mut settings, terms) = args.settings()?;
    let known = args.verifier.as_deref().map(parse_address).transpose().map_err(UsageError)?;
    let config = context.config_to_pay(Needs::Node)?;
    let account = context.account(&config).await?;
    let deployer = account.address();
    let provider = node(&config, Some(&account)).await?;

    if let Some(verifier) = known
        && provider.get_code_at(verifier).await?.is_empty()
    {
        bail!("there is no contract at {verifier}, which --verifier names");
    }
    let (contracts, gas) = args.contracts();
    let fees = provider.estimate_eip1559_fees().await.context("the node does not say what gas costs")?;
    let cost = U256::from(fees.max_fee_per_gas) * U256::from(gas);
    let balance = provider.get_balance(deployer).await?;
    if args.dry_run {
        context.say(
            || {
                format!(
                    "would deploy {} contracts from {deployer} on chain {}: {}\nat most {} gas, {} at today's price; the account has {}",
                    contracts.len(),
                    config.chain.chain_id,
                    contracts.join(", "),
                    grouped(gas),
                    money(cost),
                    money(balance)
                )
            },
            || json!({ "event": "would_deploy", "deployer": deployer, "contracts": contracts.len(), "gas": gas, "cost": cost.to_string() }),
        )?;
        return Ok(Outcome::Done);
    }
    if balance < cost {
        bail!(
            "account {deployer} has {}; {} contracts take up to {} gas, {} at today's price",
            money(balance),
            contracts.len(),
            grouped(gas),
            money(cost)
        );
    }

    let verifier = match (args.without_disputes, known) {
        (true, _) => None,
        (false, Some(verifier)) => Some(verifier),
        (false, None) => {
            let verifier = deploy::deploy_verifier(&provider).await.context("the step verifier can't be deployed")?;
            // At once: should the rest fail, this part need not be paid for again.
            context.say(
                || format!("step verifier      {verifier}   (the largest part; --verifier {verifier} uses it again)"),
                || json!({ "event": "verifier_deployed", "verifier": verifier }),
            )?;
            Some(verifier)
        }
    };
    settings.disputes = verifier.map(|verifier| Disputes { verifier, terms });
    let deployment = deploy::deploy(&provider, deployer, &settings).await.context("the contracts can't be deployed")?;
    // What was meant is on the chain, or this fails.
    let client = Client::connect(provider, deployment.oracle).await?;
    let spent = balance.saturating_sub(client.provider().get_balance(deployer).await?);
    let game = (deployment.game != Address::ZERO).then_some(deployment.game);
    context.say(
        || {
            let mut text = format!(
                "model registry     {}\noperator registry  {}\ninference oracle   {}",
                client.models, client.operators, client.oracle
            );
            match game {
                Some(game) => text += &format!("\ndispute game       {game}"),
                None => text += "\ndispute game       none: results can't be challenged here",
            }
            text + &format!(
                "\ncost {}. In the configuration of whoever uses it:\n\n[chain]\nchain_id = {}\noracle = \"{}\"\nstart_block = {}\n\n\
                 Next: candor model register NAME, for each model that is to be asked.",
                money(spent),
                client.chain_id,
                client.oracle,
                deployment.block
            )
        },
        || {
            json!({
                "event": "deployed", "chain_id": client.chain_id, "models": client.models, "operators": client.operators,
                "oracle": client.oracle, "game": game, "verifier": verifier, "block": deployment.block, "cost": spent.to_string(),
            })
        },
    )?;
    Ok(Outcome::Done)
}

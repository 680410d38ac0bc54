//! `candor dispute`: disputes as the chain has them, one of them as a readable tree, and challenging by hand.
use super::{Context, Outcome, UsageError, context::known_models};
use crate::{
    chain::{Rpc, WatchSettings},
    config::{Config, Needs},
    dispute::{
        Player,
        book::{Book, Posted},
        opinion::{self, Verdict},
        tree::narrow,
    },
    fetch::{Fetcher, Wanted, shown},
    models::CatalogModel,
    readable::{money, short, span},
};
use alloy::primitives::{Address, U256};
use anyhow::{Context as _, bail};
use candor_sdk::{
    bindings::{IDisputeGame, IInferenceOracle, Outcome as End, Terms, Turn},
    client::Call,
    dispute::Case,
    ids::ModelId,
    request::Input,
};
use clap::Subcommand;
use serde_json::json;

/// What `candor dispute` does.
#[derive(Debug, Subcommand)]
pub(super) enum DisputeCommand {
    /// Disputes that are open, or were not long ago
    List,
    /// One dispute: which node of which layer, which element, what is claimed, what is right, whose move, how long, for how much
    Show {
        /// Its number
        id: u64,
    },
    /// Run a result's model again, and challenge the result if it is wrong; `candor run` with a watcher then plays the game
    Challenge {
        /// The request's number
        request: u64,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Challenge also what can't be judged because its input, at a URI, can't be had: the operator must show it then. Costs the bond if the result is right
        #[arg(long)]
        demand_input: bool,
    },
}

pub(super) async fn dispute(context: &Context, command: &DisputeCommand) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    let config = context.config(Needs::Chain)?;
    let court = Court::read(&config).await?;
    match command {
        DisputeCommand::List => list(context, &court).await,
        DisputeCommand::Show { id } => show(context, &config, &court, *id).await,
        DisputeCommand::Challenge { request, dry_run, demand_input } => {
            challenge(context, &config, &court, *request, *dry_run, *demand_input).await
        }
    }
}

/// The game of the configured deployment, read.
struct Court {
    rpc: Rpc,
    game: Address,
    terms: Terms,
    /// Unix second of the newest block.
    now: u64,
    book: Book,
}

impl Court {
    async fn read(config: &Config) -> anyhow::Result<Self> {
        let chain = &config.chain;
        let urls: Vec<_> = chain.rpc_urls.iter().map(|url| url.expose().clone()).collect();
        let rpc = Rpc::connect(&urls, chain.chain_id, chain.oracle, chain.answer_within).await?;
        let client = rpc.client();
        let game = client.view(client.oracle, IInferenceOracle::disputeGameCall {}).await?;
        if game.is_zero() {
            bail!("this deployment has no dispute game: its results are worth their operators' word");
        }
        let terms = client.view(game, IDisputeGame::termsCall {}).await?;
        let settings = WatchSettings {
            confirmations: 0,
            poll_interval: chain.poll_interval,
            answer_within: chain.answer_within,
            max_block_range: chain.max_block_range,
            overlap: 0,
        };
        let mut book = Book::new(game, settings, chain.start_block);
        let now = loop {
            let (head, caught_up) = book.look(&rpc).await?;
            if caught_up {
                break head.timestamp;
            }
        };
        Ok(Self { rpc, game, terms, now, book })
    }

    /// Seconds left for whoever's turn it is; none once the dispute has ended.
    async fn time_left(&self, case: &Case) -> anyhow::Result<Option<u64>> {
        if case.ended.is_some() {
            return Ok(None);
        }
        let call = IDisputeGame::deadlineOfCall { dispute: case.dispute().clone() };
        let until: u64 = self.rpc.client().view(self.game, call).await?.saturating_to();
        Ok(Some(until.saturating_sub(self.now)))
    }
}

/// A line about disputes that are open, and those of them that are this account's.
pub(super) async fn summary(context: &Context, config: &Config) -> anyhow::Result<()> {
    let client = context.client(config).await?;
    if client.view(client.oracle, IInferenceOracle::disputeGameCall {}).await?.is_zero() {
        return Ok(());
    }
    let court = Court::read(config).await?;
    let account = context.operator(config).await.ok();
    let open: Vec<&Case> = court.book.docket().cases().filter(|case| case.ended.is_none()).collect();
    let party = |case: &&&Case| {
        let parties = [case.opened.operator, case.opened.challenger];
        account.is_some_and(|account| parties.contains(&account))
    };
    let own = open.iter().filter(party).count();
    let bond = U256::from(court.terms.bond);
    context.say(
        || match open.len() {
            0 => format!("disputes   none open; a challenge takes {}", money(bond)),
            all => format!("disputes   {all} open, {own} of them this account's: `candor dispute list`"),
        },
        || json!({ "event": "disputes", "open": open.len(), "own": own, "bond": bond.to_string() }),
    )
}

/// Whose move it is, and which; or how it ended.
fn turn(case: &Case) -> String {
    if let Some(ended) = case.ended {
        // Whose turn it was.
        let silent = Case { ended: None, ..case.clone() }.is_operators_turn();
        let how = match ended.outcome {
            End::Upheld => "the result stands: the challenger ran out of time",
            End::Moot => "of no account any more: another dispute over the result was won",
            _ if silent => "the result fell: the operator ran out of time",
            _ => "the result fell: the chain recomputed a piece of it, and it was wrong",
        };
        return how.to_owned();
    }
    let what = match case.turn() {
        Turn::Claim => "operator: say what the run was",
        Turn::Select => "challenger: point at what differs",
        Turn::Reveal => "operator: show the hashes below",
        Turn::RevealLeaf => "operator: show the elements",
        Turn::SelectElement => "challenger: name or prove an element",
        Turn::RevealPartials => "operator: show the partials",
        Turn::Prove => "challenger: prove",
        Turn::None | Turn::__Invalid => "nobody",
    };
    what.to_owned()
}

async fn list(context: &Context, court: &Court) -> anyhow::Result<Outcome> {
    let mut any = false;
    for case in court.book.docket().cases() {
        any = true;
        let left = court.time_left(case).await?;
        let request = candor_sdk::request::Request::unpack(&case.request)?.id;
        let dispute = case.dispute();
        context.say(
            || {
                let time = left.map_or_else(String::new, |left| format!(", {} left", span(left)));
                let (operator, challenger) = (short(&dispute.operator), short(&dispute.challenger));
                format!(
                    "{}  over request {request}, operator {operator}, challenger {challenger}; {}{time}",
                    case.id(),
                    turn(case)
                )
            },
            || {
                json!({ "event": "dispute", "id": case.id(), "request": request.0, "operator": dispute.operator,
                    "challenger": dispute.challenger, "turn": format!("{:?}", case.turn()), "moves": dispute.moves,
                    "seconds_left": left, "outcome": case.ended.map(|ended| format!("{:?}", ended.outcome)) })
            },
        )?;
    }
    if !any {
        context.say(|| "no disputes".to_owned(), || json!({ "event": "disputes", "count": 0 }))?;
    }
    Ok(Outcome::Done)
}

/// The model of a result, if it is known here.
fn player(context: &Context, config: &Config, id: ModelId) -> Option<Player> {
    known_models(config)
        .iter()
        .find_map(|source| {
            let model = CatalogModel::load(source).ok().filter(|model| model.id() == id)?;
            Player::new(model.name(), model.runner())
        })
        .or_else(|| {
            let model = context.model(config, &id.to_string()).ok()?;
            Player::new(model.name(), model.runner())
        })
}

async fn show(context: &Context, config: &Config, court: &Court, id: u64) -> anyhow::Result<Outcome> {
    let case =
        court.book.docket().case(id).ok_or_else(|| UsageError(format!("there is no dispute {id} on this chain")))?;
    let left = court.time_left(case).await?;
    let request = candor_sdk::request::Request::unpack(&case.request)?;
    let player = player(context, config, request.model);
    let posted = court.book.results().get(&case.opened.result);
    let found = narrow(case, player.as_ref(), posted)?;
    let (dispute, bond) = (case.dispute(), U256::from(court.terms.bond));
    let stake = court.rpc.client().terms().await?.stake_per_result;
    context.say(
        || {
            let name = player.as_ref().map_or_else(|| request.model.short(), |player| player.name.clone());
            let reward = money(U256::from(court.terms.reward));
            let mut lines = vec![
                format!("dispute {id} over the answer of model {name} to request {}", request.id),
                format!("├ operator    {} answered it", dispute.operator),
                format!("├ challenger  {} says that the answer is wrong", dispute.challenger),
                format!("├ at stake    {} of the operator's, {} of the challenger's; the reward is {reward}", money(stake), money(bond)),
            ];
            let moves = case.moves.len() + usize::from(case.claim.is_some());
            match (case.ended, left) {
                (Some(ended), _) => {
                    lines.push(format!("├ ended       {}", turn(case)));
                    lines.push(format!("├ paid        {} to {}", money(ended.paid), ended.winner));
                }
                (None, left) => {
                    lines.push(format!("├ next        {}", turn(case)));
                    lines.push(format!("├ time left   {}", span(left.unwrap_or_default())));
                }
            }
            lines.push(format!("├ moves       {moves}{}", if case.ended.is_none() { " so far" } else { "" }));
            lines.push("└ where they differ".to_owned());
            lines.extend(found.lines.iter().map(|line| format!("  {line}")));
            lines.join("\n")
        },
        || {
            json!({ "event": "dispute", "id": id, "request": request.id.0, "model": request.model.to_string(),
                "operator": dispute.operator, "challenger": dispute.challenger, "bond": bond.to_string(),
                "reward": U256::from(court.terms.reward).to_string(), "turn": format!("{:?}", case.turn()),
                "stake": stake.to_string(), "seconds_left": left, "moves": dispute.moves, "node": found.node, "label": found.label,
                "row": found.element.map(|at| at.0), "col": found.element.map(|at| at.1), "claimed": found.claimed,
                "right": found.right, "outcome": case.ended.map(|ended| format!("{:?}", ended.outcome)) })
        },
    )?;
    Ok(Outcome::Done)
}

async fn challenge(
    context: &Context,
    config: &Config,
    court: &Court,
    request: u64,
    dry_run: bool,
    demand_input: bool,
) -> anyhow::Result<Outcome> {
    let of = |posted: &&Posted| posted.readable().is_some_and(|readable| readable.id.0 == request);
    let posted = court.book.results().values().filter(of).max_by_key(|posted| posted.readable().map(|r| r.attempt));
    let mut posted = posted.cloned().with_context(|| format!("request {request} has no result that is not final"))?;
    let model = posted.readable().context("the request does not decode")?.model;
    let player = player(context, config, model)
        .with_context(|| format!("model {model} is neither embedded nor configured here; name it in models.serve"))?;
    let verdict = match fetch_input(config, &mut posted).await {
        Ok(()) => {
            let looked = posted.clone();
            tokio::task::spawn_blocking(move || opinion::examine(&player, &looked)).await?
        }
        Err(error) => Verdict::Withheld(error.to_string()),
    };
    let bond = U256::from(court.terms.bond);
    match verdict {
        Verdict::Right => {
            context.say(
                || format!("the result of request {request} is right; there is nothing to challenge"),
                || json!({ "event": "examined", "request": request, "verdict": "right" }),
            )?;
            Ok(Outcome::No)
        }
        Verdict::Unsure(reason) => bail!("the result can't be judged: {reason}"),
        Verdict::Withheld(reason) if !demand_input => {
            bail!(
                "the result can't be judged, as its input can't be had: {reason}; --demand-input challenges it all the same"
            )
        }
        Verdict::Wrong | Verdict::Withheld(_) if dry_run => {
            let (word, found) = found(&verdict);
            context.say(
                || format!("the result of request {request} {found}; a challenge would put up {}", money(bond)),
                || json!({ "event": "examined", "request": request, "verdict": word, "bond": bond.to_string() }),
            )?;
            Ok(Outcome::Done)
        }
        Verdict::Wrong | Verdict::Withheld(_) => {
            let (_, found) = found(&verdict);
            let account = context.account(config).await?;
            let client = context.paying_client(config, &account).await?;
            let (request_, fulfillment) = (posted.request, posted.fulfillment.clone());
            let call = IDisputeGame::challengeCall { request: request_, fulfillment };
            let receipt = client.send(Call::new(court.game, bond, &call)).await?;
            context.say(
                || format!("the result of request {request} {found}: challenged with {} in {}", money(bond), receipt.transaction_hash),
                || json!({ "event": "challenged", "request": request, "transaction": receipt.transaction_hash, "bond": bond.to_string() }),
            )?;
            Ok(Outcome::Done)
        }
    }
}

/// What was found out about a result that is to be challenged, as a word and in words.
fn found(verdict: &Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Withheld(_) => ("withheld", "can't be judged, as its input can't be had"),
        _ => ("wrong", "is wrong"),
    }
}

/// Fetches the input of a result, if it is at a URI.
async fn fetch_input(config: &Config, posted: &mut Posted) -> anyhow::Result<()> {
    let Input::Uri { uri, size } = &posted.input else { return Ok(()) };
    let wanted = Wanted { hash: posted.request.inputHash, size: *size, uri: uri.clone() };
    let fetched = Fetcher::new(&config.inputs.settings())?.fetch(&wanted).await;
    posted.input = Input::Bytes(fetched.map_err(|error| anyhow::anyhow!("{}: {error}", shown(&wanted.uri)))?);
    Ok(())
}

//! `candor dispute`: disputes as the chain has them, one of them as a readable tree, and challenging by hand.
use super::{Context, Outcome, UsageError, context::known_models};
use crate::{
    chain::{Rpc, WatchSettings},
    config::{Config, Needs},
    demo::narrator::{money, short},
    dispute::{
        Player,
        book::{Book, Posted},
        opinion::{self, Verdict},
        trace::EngineTrace,
    },
    models::CatalogModel,
};
use alloy::primitives::{Address, U256};
use anyhow::{Context as _, bail};
use candor_sdk::{
    bindings::{IDisputeGame, IInferenceOracle, Outcome as End, Terms, Turn},
    client::Call,
    dispute::{Case, Descent, Trace},
    ids::ModelId,
    program::{DType, LEAF},
};
use clap::Subcommand;
use serde_json::json;
use std::convert::Infallible;

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
    },
}

pub(super) async fn dispute(context: &Context, command: &DisputeCommand) -> anyhow::Result<Outcome> {
    context.log_quietly()?;
    let config = context.config(Needs::Chain)?;
    let court = Court::read(&config).await?;
    match command {
        DisputeCommand::List => list(context, &court).await,
        DisputeCommand::Show { id } => show(context, &config, &court, *id).await,
        DisputeCommand::Challenge { request, dry_run } => challenge(context, &config, &court, *request, *dry_run).await,
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
        let rpc = Rpc::connect(&urls, chain.chain_id, chain.oracle).await?;
        let client = rpc.client();
        let game = client.view(client.oracle, IInferenceOracle::disputeGameCall {}).await?;
        if game.is_zero() {
            bail!("this deployment has no dispute game: its results are worth their operators' word");
        }
        let terms = client.view(game, IDisputeGame::termsCall {}).await?;
        let settings = WatchSettings {
            confirmations: 0,
            poll_interval: chain.poll_interval,
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

/// Whose move it is, and which.
fn turn(case: &Case) -> String {
    if let Some(ended) = case.ended {
        return match ended.outcome {
            End::Upheld => "upheld: the challenger ran out of time".to_owned(),
            End::Moot => "moot: another dispute over the result was won".to_owned(),
            _ => "rejected: the result was wrong, or its operator silent".to_owned(),
        };
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
                let time = left.map_or_else(String::new, |left| format!(", {left} s left"));
                let (operator, challenger) = (short(&dispute.operator), short(&dispute.challenger));
                format!("{}  request {request}, operator {operator}, challenger {challenger}; {}{time}", case.id(), turn(case))
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
    known_models(config).iter().find_map(|source| {
        let model = CatalogModel::load(source).ok().filter(|model| model.id() == id)?;
        Player::new(model.name(), model.runner())
    }).or_else(|| {
        let model = context.model(config, &id.to_string()).ok()?;
        Player::new(model.name(), model.runner())
    })
}

/// What a dispute has come down to.
#[derive(Default)]
struct Found {
    lines: Vec<String>,
    node: Option<u32>,
    label: Option<String>,
    element: Option<(usize, usize)>,
    claimed: Option<String>,
    right: Option<String>,
}

async fn show(context: &Context, config: &Config, court: &Court, id: u64) -> anyhow::Result<Outcome> {
    let case = court.book.docket().case(id).ok_or_else(|| UsageError(format!("there is no dispute {id} on this chain")))?;
    let left = court.time_left(case).await?;
    let request = candor_sdk::request::Request::unpack(&case.request)?;
    let player = player(context, config, request.model);
    let posted = court.book.results().get(&case.opened.result);
    let found = narrow(case, player.as_ref(), posted)?;
    let (dispute, bond) = (case.dispute(), U256::from(court.terms.bond));
    context.say(
        || {
            let name = player.as_ref().map_or_else(|| request.model.short(), |player| player.name.clone());
            let mut text = format!(
                "dispute {id} over request {}: model {name}\n├ operator    {}\n├ challenger  {}\n├ at stake    bond {}, reward {}\n├ turn        {}",
                request.id, dispute.operator, dispute.challenger, money(bond), money(U256::from(court.terms.reward)), turn(case)
            );
            if let Some(left) = left {
                text += &format!("\n├ time left   {left} s");
            }
            text += &format!("\n└ {} moves", dispute.moves);
            for line in &found.lines {
                text += &format!("\n    {line}");
            }
            text
        },
        || {
            json!({ "event": "dispute", "id": id, "request": request.id.0, "model": request.model.to_string(),
                "operator": dispute.operator, "challenger": dispute.challenger, "bond": bond.to_string(),
                "reward": U256::from(court.terms.reward).to_string(), "turn": format!("{:?}", case.turn()),
                "seconds_left": left, "moves": dispute.moves, "node": found.node, "label": found.label,
                "row": found.element.map(|at| at.0), "col": found.element.map(|at| at.1), "claimed": found.claimed,
                "right": found.right, "outcome": case.ended.map(|ended| format!("{:?}", ended.outcome)) })
        },
    )?;
    Ok(Outcome::Done)
}

/// Reads the moves as a way down the model.
fn narrow(case: &Case, player: Option<&Player>, posted: Option<&Posted>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let Some(claimed) = &case.claim else { return Ok(found) };
    let claim = &claimed.claim;
    found.lines.push(format!("claim: {} nodes, {} positions, root {}", claim.nodes, claim.sequence, claim.root));
    let descent = Descent::read::<Infallible>(case, claimed)?;
    for group in &descent.nodes[1..] {
        let first = group.index << group.height;
        let last = (first + (1 << group.height)).min(group.count) - 1;
        found.lines.push(format!("└ nodes {first} to {last}"));
    }
    let Some(node) = descent.node else { return Ok(found) };
    found.node = Some(node);
    let description = player.and_then(|player| player.model().program.nodes.get(node as usize));
    let label = description.map(|node| if node.label.is_empty() { node.op.name().to_owned() } else { format!("{} ({})", node.label, node.op.name()) });
    found.lines.push(format!("└ node {node}{}", label.as_ref().map_or_else(String::new, |label| format!(": {label}"))));
    found.label = label;
    for group in &descent.tensor {
        let first = group.index << group.height;
        let last = (first + (1 << group.height)).min(group.count) - 1;
        found.lines.push(format!("  └ leaves {first} to {last} of {}", group.count));
    }
    let (Some(leaf), Some(player), Some(description)) = (descent.leaf, player, description) else { return Ok(found) };
    // Our own run over the claimed tokens: where it differs is what the dispute is about.
    let own = posted.and_then(|posted| {
        let request = opinion::question(posted)?;
        let tokens = claimed.tokens.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
        let trace = EngineTrace::over(player.clone(), request, tokens).ok()?;
        trace.tensors(&[node]).ok()?.remove(&node)
    });
    let Some(own) = own else { return Ok(found) };
    let per_row = own.leaves_per_row().max(1) as u64;
    let (row, first) = ((leaf / per_row) as usize, (leaf % per_row) as usize * LEAF);
    found.lines.push(format!("    └ row {row}, columns from {first}"));
    let Some(shown) = &descent.elements else { return Ok(found) };
    let mut right = Vec::new();
    if row < own.rows() {
        own.write_leaf(row, first / LEAF, &mut right);
    }
    let width = description.dtype.size();
    let differing = shown.chunks(width).zip(right.chunks(width)).position(|(shown, right)| shown != right);
    let Some(element) = descent.element.map(|element| element as usize).or(differing) else { return Ok(found) };
    let value = |bytes: &[u8]| {
        let bytes = bytes.get(element * width..(element + 1) * width)?;
        Some(match (description.dtype, bytes) {
            (DType::F32, &[a, b, c, d]) => format!("{:?}", f32::from_le_bytes([a, b, c, d])),
            (_, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]).to_string(),
            (DType::I8, &[a]) => (a as i8).to_string(),
            (_, bytes) => format!("{bytes:?}"),
        })
    };
    (found.element, found.claimed, found.right) = (Some((row, first + element)), value(shown), value(&right));
    if let (Some(claimed), Some(right)) = (&found.claimed, &found.right) {
        found.lines.push(format!("      └ element {row}, {}: claimed {claimed}, right {right}", first + element));
    }
    Ok(found)
}

async fn challenge(
    context: &Context,
    config: &Config,
    court: &Court,
    request: u64,
    dry_run: bool,
) -> anyhow::Result<Outcome> {
    let of = |posted: &&Posted| posted.readable().is_some_and(|readable| readable.id.0 == request);
    let posted = court.book.results().values().filter(of).max_by_key(|posted| posted.readable().map(|r| r.attempt));
    let posted = posted.with_context(|| format!("request {request} has no result that is not final"))?;
    let model = posted.readable().context("the request does not decode")?.model;
    let player = player(context, config, model)
        .with_context(|| format!("model {model} is neither embedded nor configured here; name it in models.serve"))?;
    let looked = posted.clone();
    let verdict = tokio::task::spawn_blocking(move || opinion::examine(&player, &looked)).await?;
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
        Verdict::Wrong if dry_run => {
            context.say(
                || format!("the result of request {request} is wrong; a challenge would put up {}", money(bond)),
                || json!({ "event": "examined", "request": request, "verdict": "wrong", "bond": bond.to_string() }),
            )?;
            Ok(Outcome::Done)
        }
        Verdict::Wrong => {
            let account = context.account(config)?;
            let client = context.paying_client(config, &account).await?;
            let (request_, fulfillment) = (posted.request, posted.fulfillment.clone());
            let call = IDisputeGame::challengeCall { request: request_, fulfillment };
            let receipt = client.send(Call::new(court.game, bond, &call)).await?;
            context.say(
                || format!("the result of request {request} is wrong: challenged with {} in {}", money(bond), receipt.transaction_hash),
                || json!({ "event": "challenged", "request": request, "transaction": receipt.transaction_hash, "bond": bond.to_string() }),
            )?;
            Ok(Outcome::Done)
        }
    }
}

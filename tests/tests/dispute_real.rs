//! A dispute about a real model: one bit of one of its weights is flipped, the answer is another, and the chain convicts the operator.
//!
//!     CANDOR_MODEL=DEST/smollm2/hf cargo test --workspace --test dispute_real -- --ignored --nocapture
//!     CANDOR_MODEL=DEST/minilm cargo test --workspace --test dispute_real -- --ignored --nocapture
//!
//! `CANDOR_MODEL` is a model's folder (docs/models.md says which ones can be had where). `CANDOR_WEIGHT` is part of the name of the weight tensor that
//! loses a bit (by default the first projection of a feed-forward layer's output, or of an attention's queries). A language model is asked to go on with `CANDOR_PROMPT`, for
//! `CANDOR_GENERATE` tokens (32); another model gets `CANDOR_TOKENS` tokens (20).

use alloy::{primitives::Address, providers::Provider, sol_types::SolCall};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    chain::{ANSWER_WITHIN, Rpc},
    config::ModelSource,
    dispute::{
        DisputeProgress, Player,
        book::Book,
        liar::{Flip, Liar},
        opinion::Verdict,
        tree::narrow,
    },
    engine::{Device, InferRequest, LoadedModel, import},
    models::CatalogModel,
    pipeline::{Infer, Progress, WatcherSettings},
};
use candor_sdk::{
    bindings::{Delivery, IDisputeGame, IOperatorRegistry},
    program::{InputKind, Model, Params, WeightTensor, WeightType},
};
use candor_tests::{
    Ask, World,
    world::{ether, request_id},
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

/// Targets of docs/gas.md.
const MOST_MOVES: usize = 8;
const MOST_GAS: u64 = 2_000_000;
const MOST_GAS_OF_ONE: u64 = 3_000_000;

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn number(name: &str, default: u32) -> Result<u32> {
    setting(name, &default.to_string()).parse().with_context(|| format!("{name} is a number"))
}

/// What a model is asked.
fn question(model: &Model) -> Result<InferRequest> {
    if model.program.generation().is_none() {
        let tokens = (0..number("CANDOR_TOKENS", 20)?).flat_map(|token| (1000 + 37 * token % 20_000).to_be_bytes());
        return Ok(InferRequest { input: tokens.collect(), ..InferRequest::default() });
    }
    ensure!(model.program.input_kind() == Some(InputKind::Tokens), "a language model that takes no tokens");
    let prompt = setting("CANDOR_PROMPT", "The printing press was invented in");
    let tokens = import::encode(&model.vocabulary, &prompt).context("the prompt has bytes that are no tokens")?;
    println!("prompt ({} tokens): {prompt}", tokens.len());
    let params = Params { max_tokens: number("CANDOR_GENERATE", 32)?, temperature: 0, min_p: 0 };
    Ok(InferRequest { input: tokens.iter().flat_map(|token| token.to_be_bytes()).collect(), params, seed: [0; 32] })
}

/// Byte and bit of each bit of the exponent of the first number that is stored so, the highest first.
fn exponent(dtype: WeightType) -> Option<(usize, Vec<(usize, u8)>)> {
    let bits = |from: usize, count: usize| (from..from + count).rev().map(|bit| (bit / 8, (bit % 8) as u8)).collect();
    match dtype {
        WeightType::F32 => Some((4, bits(23, 8))),
        WeightType::F16 => Some((2, bits(10, 5))),
        WeightType::Bf16 => Some((2, bits(7, 8))),
        _ => None,
    }
}

fn answer(model: Model, request: &InferRequest) -> Result<Vec<u8>> {
    let loaded = LoadedModel::load(model, Device::default())?;
    Ok(loaded.infer(std::slice::from_ref(request)).pop().context("no answer")??)
}

/// The first flip of an exponent's bit, from the highest bit on, in the first or the middle weight of a tensor, that changes the answer. The wrong answer is
/// printed.
fn telling(model: &Model, tensor: (usize, &WeightTensor), request: &InferRequest, right: &[u8]) -> Result<Flip> {
    let (index, tensor) = tensor;
    let (width, bits) = exponent(tensor.dtype()).context("CANDOR_WEIGHT names a tensor of floats")?;
    let elements = tensor.byte_len() / width;
    for &(byte, bit) in &bits {
        for element in [0, elements / 2] {
            let flip = Flip { tensor: u32::try_from(index)?, byte: width * element + byte, bit };
            // A model that overflows has no answer at all sometimes; that is no lie that anybody could tell.
            let wrong = answer(candor_relayer::dispute::liar::bend(model, flip)?, request);
            let name = format!("weight {element} of {}, bit {bit} of byte {byte}", tensor.name());
            match wrong {
                Ok(wrong) if wrong != right => {
                    println!("{name}: the liar answers {}", readable(model, &wrong));
                    return Ok(flip);
                }
                Ok(_) => println!("{name}: the same answer"),
                Err(error) => println!("{name}: {error:#}"),
            }
        }
    }
    anyhow::bail!("no bit of the exponents of two weights of {} changes the answer", tensor.name())
}

/// An answer for people: text as it is, anything else by its beginning.
fn readable(model: &Model, answer: &[u8]) -> String {
    match String::from_utf8(answer.to_vec()) {
        Ok(text) if model.program.generation().is_some() => format!("{text:?}"),
        _ => format!("{} bytes, {}...", answer.len(), alloy::primitives::hex::encode(&answer[..answer.len().min(16)])),
    }
}

/// What a transaction of the game's did.
fn name(selector: [u8; 4]) -> &'static str {
    let names = [
        (IDisputeGame::challengeCall::SELECTOR, "challenge"),
        (IDisputeGame::claimCall::SELECTOR, "claim"),
        (IDisputeGame::selectCall::SELECTOR, "select"),
        (IDisputeGame::selectNodeCall::SELECTOR, "select node"),
        (IDisputeGame::revealCall::SELECTOR, "reveal"),
        (IDisputeGame::revealLeafCall::SELECTOR, "reveal leaf"),
        (IDisputeGame::selectElementCall::SELECTOR, "select element"),
        (IDisputeGame::revealPartialsCall::SELECTOR, "reveal partials"),
        (IDisputeGame::proveCall::SELECTOR, "prove"),
        (IDisputeGame::rejectCall::SELECTOR, "reject"),
        (IDisputeGame::withdrawCreditCall::SELECTOR, "withdraw"),
    ];
    names.iter().find(|(known, _)| *known == selector).map_or("?", |(_, name)| name)
}

/// Prints every transaction of the dispute with its gas, and holds the sums to the targets.
async fn bill(world: &World, operator: Address) -> Result<()> {
    use alloy::consensus::Transaction;
    let provider = world.client.provider();
    let filter = alloy::rpc::types::Filter::new().address(world.deployment.game).from_block(0);
    let (mut seen, mut sums, mut largest) = (HashSet::new(), BTreeMap::<&str, (usize, u64)>::new(), 0);
    for log in provider.get_logs(&filter).await? {
        let hash = log.transaction_hash.context("a pending log")?;
        let transaction = provider.get_transaction_by_hash(hash).await?.context("no transaction")?;
        let input = transaction.input();
        let what = name(*input.first_chunk().context("no call")?);
        if !seen.insert(hash) || what == "withdraw" {
            continue;
        }
        let receipt = provider.get_transaction_receipt(hash).await?.context("no receipt")?;
        let side = if receipt.from == operator { "operator" } else { "challenger" };
        let sum = sums.entry(side).or_default();
        *sum = (sum.0 + 1, sum.1 + receipt.gas_used);
        largest = largest.max(receipt.gas_used);
        println!("    {side:<10}  {what:<15} {:>8} gas {:>7} bytes", receipt.gas_used, input.len());
    }
    for (side, (moves, gas)) in &sums {
        println!("{side}: {moves} transactions, {gas} gas");
    }
    let all: u64 = sums.values().map(|(_, gas)| gas).sum();
    println!("both: {all} gas; the largest transaction: {largest} gas");
    let moves = sums.get("operator").map_or(0, |(moves, _)| *moves);
    ensure!(moves <= MOST_MOVES, "{moves} moves of the operator's");
    ensure!(all <= MOST_GAS, "{all} gas in all");
    ensure!(largest <= MOST_GAS_OF_ONE, "{largest} gas in one transaction");
    Ok(())
}

/// One flipped bit of one weight of a real model is found, narrowed down and convicted.
#[ignore = "needs a model that is fetched; minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_of_a_real_model_is_convicted() -> Result<()> {
    let mut world = World::start_with_disputes().await?;
    let started = Instant::now();
    let folder = std::env::var("CANDOR_MODEL").context("CANDOR_MODEL names a model's folder")?;
    let model = Arc::new(CatalogModel::load(&ModelSource::Folder(folder.into()))?);
    println!("{} loaded in {:.1?}", model.name(), started.elapsed());
    let graph = &model.imported().model;
    let request = question(graph)?;
    let started = Instant::now();
    let right = answer(graph.clone(), &request)?;
    println!("right answer, in {:.1?}: {}", started.elapsed(), readable(graph, &right));
    let wanted = setting("CANDOR_WEIGHT", if graph.program.generation().is_some() { "down_proj" } else { "query" });
    let mut tensors = graph.weights.tensors().iter().enumerate();
    let tensor = tensors.find(|(_, tensor)| tensor.rows() > 1 && tensor.name().contains(&wanted));
    let flip = telling(graph, tensor.context("CANDOR_WEIGHT: no such weight")?, &request, &right)?;

    world.client.send(world.client.register_model(model.descriptor(), String::new())).await?;
    world.models.insert("real", model.clone());
    let operator = world.operator(ether(5)).await?;
    let watcher = world.account().await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    let served = &mut settings.operator.as_mut().context("no operator")?.models;
    let liar: Arc<dyn Infer> = Arc::new(Liar::new(graph, flip)?);
    served.get_mut(&model.id()).context("not served")?.model = liar;
    let (reporter, _) = broadcast::channel(4096);
    let lying = candor_relayer::pipeline::spawn(settings, reporter, CancellationToken::new()).await?;
    let folder = tempfile::tempdir()?;
    let models = world.settings(folder.path(), Some(&operator)).operator.context("no operator")?.models;
    let mut settings = world.settings(folder.path(), None);
    settings.watcher = Some(WatcherSettings { account: watcher.into(), models, cap: ether(1), demand_inputs: false });
    let (reporter, mut progress) = broadcast::channel(4096);
    let watching = candor_relayer::pipeline::spawn(settings, reporter, CancellationToken::new()).await?;

    let stake = async || {
        let call = IOperatorRegistry::stakeOfCall { operator: operator.address() };
        anyhow::Ok(world.client.view(world.client.operators, call).await?.stake)
    };
    let before = stake().await?;
    let ask = Ask { model: model.id(), input: request.input, delivery: Delivery::Final, callback_gas: 0 };
    let (mut args, value) = world.args(&ask);
    args.params.maxTokens = request.params.max_tokens;
    let receipt = world.client.send_from(world.owner, world.client.request(args, value)).await?;
    let id = request_id(&receipt)?;
    let asked = Instant::now();
    loop {
        ensure!(asked.elapsed() < Duration::from_secs(1800), "the liar was not convicted");
        if stake().await? < before {
            break;
        }
        while let Ok(Ok(event)) = tokio::time::timeout(Duration::from_millis(100), progress.recv()).await {
            match event {
                Progress::Dispute(DisputeProgress::Examined { id: of, verdict }) if of == id => {
                    println!("{:>7.1?} the watcher finds it {verdict:?}", asked.elapsed());
                    ensure!(verdict == Verdict::Wrong, "not a wrong answer");
                }
                Progress::Dispute(event) => println!("{:>7.1?} {event:?}", asked.elapsed()),
                _ => {}
            }
        }
    }
    println!("{:>7.1?} convicted; {} wei slashed", asked.elapsed(), before - stake().await?);
    ensure!(before - stake().await? == world.client.terms().await?.stake_per_result, "another amount was slashed");

    // What `candor dispute show` shows.
    let rpc = Rpc::connect(&[world.rpc_url()], world.client.chain_id, world.client.oracle, ANSWER_WITHIN).await?;
    let mut book = Book::new(world.deployment.game, world.settings(folder.path(), None).watch, 0);
    while !book.look(&rpc).await?.1 {}
    let case = book.docket().cases().next().context("no dispute")?;
    let player = Player::new(model.name(), model.runner()).context("it can be retraced")?;
    let found = narrow(case, Some(&player), book.results().get(&case.opened.result))?;
    println!("{}", found.lines.join("\n"));
    ensure!(found.claimed.is_some() && found.claimed != found.right, "no element was found: {found:?}");
    bill(&world, operator.address()).await?;
    lying.stop().await?;
    Ok(watching.stop().await?)
}

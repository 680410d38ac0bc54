//! The second act: an operator lies, a watcher catches it, the chain recomputes the disputed piece, and an honest operator answers.

use super::{
    consumers::Question,
    event::Event,
    narrator::Narrator,
    world::{PRICE, World},
};
use crate::{
    chain::{ANSWER_WITHIN, Rpc, WatchSettings},
    dispute::{Player, book::Book, liar::Liar, tree::narrow},
    engine::InferRequest,
    input::heldout,
    pipeline::{self, OperatorSettings, Served, Settings, WatcherSettings},
    readable::money,
};
use alloy::{
    network::ReceiptResponse,
    primitives::{Address, U256},
    providers::Provider,
    sol_types::SolEvent,
};
use anyhow::Context as _;
use candor_sdk::{
    bindings::{Delivery, IDisputeGame, IInferenceOracle, IOperatorRegistry, Outcome, RequestStatus, Turn},
    dispute::Case,
    ids::RequestId,
    request::Request,
};
use std::{collections::HashMap, io::Write, path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What the watcher may have in bonds at once.
const CAP: u128 = 1_000_000_000_000_000_000;

/// Plays it. True if the balances add up. The relayer of the first act is still there.
pub(super) async fn play<W: Write>(world: &World, narrator: &mut Narrator<W>, folder: &Path) -> anyhow::Result<bool> {
    let credit = &world.models["credit"];
    let model = &credit.imported().model;
    let loan = heldout::loans().into_iter().next().context("there are loans")?;
    let input = loan.applicant.to_bytes();
    let about = InferRequest { input, ..InferRequest::default() };
    let flip = Liar::telling(model, 0, &about)?.context("some bit of some weight changes the answer")?;
    let bent = &model.weights.tensors()[flip.tensor as usize];
    let liar = Arc::new(Liar::new(model, flip)?);
    narrator.tell(&Event::Act {
        title: format!(
            "a newcomer asks half the price, and runs {} with one bit of {} flipped",
            credit.name(),
            bent.name()
        ),
    })?;

    let client = &world.joiner(&world.liar).await?;
    client.send(client.set_offer(credit.id(), PRICE.0 / 2)).await?;
    let stake_before = stake(world, world.liar.address()).await?;
    let served = Served { name: credit.name().to_owned(), min_fee: 0, model: liar };
    let settings = world.relayer_settings(&folder.join("liar"), U256::MAX);
    let operator = OperatorSettings {
        account: world.liar.clone().into(),
        signer: world.liar.clone().into(),
        models: HashMap::from([(credit.id(), served)]),
        payout: None,
    };
    let lying = start(Settings { operator: Some(operator), ..settings }).await?;

    let served = Served { name: credit.name().to_owned(), min_fee: 0, model: credit.runner() };
    let watcher = WatcherSettings {
        account: world.watcher.clone().into(),
        models: HashMap::from([(credit.id(), served)]),
        cap: U256::from(CAP),
        demand_inputs: false,
    };
    let settings = world.relayer_settings(&folder.join("watcher"), U256::MAX);
    let watching = start(Settings { operator: None, watcher: Some(watcher), ..settings }).await?;
    let purse = world.asker.provider().get_balance(world.watcher.address()).await?;

    let text = heldout::schema().summary(&loan.applicant);
    let question = Question::loan(world.desk, &loan.applicant, text.clone(), Delivery::Final)?;
    let value = U256::from(PRICE.0) + U256::from(2_000_000_000_000_000u64);
    let receipt = world.asker.send_from(world.payer, question.call(value)).await?;
    let event = receipt.logs().iter().find_map(|log| IInferenceOracle::Requested::decode_log_data(log.data()).ok());
    let request = Request::unpack(&event.context("a question without a request")?.request)?;
    narrator.tell(&Event::Asked {
        request: request.id,
        consumer: question.consumer.name().to_owned(),
        model: credit.name().to_owned(),
        question: text,
        delivery: "final",
        fee: U256::from(request.fee),
        callback_allowance: request.callback_allowance(),
        transaction: receipt.transaction_hash(),
        gas: receipt.gas_used,
        picture: None,
    })?;

    let mut hall = Hall::new(world).await?;
    while !hall.look(narrator, request.id).await? {
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let slashed = stake_before - stake(world, world.liar.address()).await?;
    let earned = world.asker.provider().get_balance(world.watcher.address()).await?.saturating_sub(purse);
    let owed = hall.owed(&[world.liar.address(), world.watcher.address(), world.operator.address()]).await?;
    let held = world.asker.provider().get_balance(hall.game).await?;
    let lost = world.asker.terms().await?.stake_per_result;
    let line = |of: &str, what: &str, amount| Event::Balance { of: of.to_owned(), what: what.to_owned(), amount };
    narrator.tell(&line("the liar", "lost of its stake", slashed))?;
    narrator.tell(&line("the watcher", "earned, gas paid", earned))?;
    let sums = [
        ("what the liar lost is one result's stake", slashed, lost),
        ("what the game holds is what it owes", held, owed),
    ];
    for (what, left, right) in sums {
        narrator.tell(&Event::Sum { what: what.to_owned(), left, right, balanced: left == right })?;
    }
    lying.stop().await?;
    watching.stop().await?;
    Ok(sums.iter().all(|(_, left, right)| left == right))
}

async fn start(settings: Settings) -> anyhow::Result<pipeline::Handle> {
    let (reporter, _) = tokio::sync::broadcast::channel(256);
    Ok(pipeline::spawn(settings, reporter, CancellationToken::new()).await?)
}

async fn stake(world: &World, operator: Address) -> anyhow::Result<U256> {
    let client = &world.asker;
    Ok(client.view(client.operators, IOperatorRegistry::stakeOfCall { operator }).await?.stake)
}

/// Where the dispute is followed from.
struct Hall<'a> {
    world: &'a World,
    rpc: Rpc,
    game: Address,
    book: Book,
    player: Player,
    /// What was told of the dispute: its opening, its claim, moves, its end, the slashing, the second answer.
    told: (bool, bool, usize, bool, bool, bool),
}

impl<'a> Hall<'a> {
    async fn new(world: &'a World) -> anyhow::Result<Self> {
        let rpc = Rpc::connect(&[world.anvil.url()], world.asker.chain_id, world.asker.oracle, ANSWER_WITHIN).await?;
        let game = world.asker.view(world.asker.oracle, IInferenceOracle::disputeGameCall {}).await?;
        let settings = WatchSettings {
            confirmations: 0,
            poll_interval: Duration::from_millis(150),
            answer_within: ANSWER_WITHIN,
            max_block_range: 1_000,
            overlap: 0,
        };
        let credit = &world.models["credit"];
        let player = Player::new(credit.name(), credit.runner()).context("the engine retraces")?;
        let book = Book::new(game, settings, 0);
        Ok(Self { world, rpc, game, book, player, told: Default::default() })
    }

    async fn owed(&self, accounts: &[Address]) -> anyhow::Result<U256> {
        let mut owed = U256::ZERO;
        for &account in accounts {
            owed += self.world.asker.view(self.game, IDisputeGame::creditOfCall { account }).await?;
        }
        Ok(owed)
    }

    /// Tells what is new. True once the request is final and the watcher has taken its money out.
    async fn look<W: Write>(&mut self, narrator: &mut Narrator<W>, id: RequestId) -> anyhow::Result<bool> {
        while !self.book.look(&self.rpc).await?.1 {}
        let case = self.book.docket().cases().next().cloned();
        if let Some(case) = &case {
            self.tell(narrator, case)?;
        }
        let rejected = case.as_ref().is_some_and(|case| self.book.docket().fallen(&case.opened.result) == Some(true));
        let say = |what: &'static str, text: String| Event::Dispute { request: id, by: "chain", what, text };
        if rejected && !std::mem::replace(&mut self.told.4, true) {
            let stake = money(self.world.asker.terms().await?.stake_per_result);
            narrator
                .tell(&say("slashed", format!("the liar loses {stake}; the request is open again, for anybody")))?;
        }
        let (status, _) = self.world.asker.status(id).await?;
        if rejected && status == RequestStatus::Fulfilled && !std::mem::replace(&mut self.told.5, true) {
            narrator.tell(&say("answered", "the honest operator answers".to_owned()))?;
        }
        if status != RequestStatus::Finalized {
            return Ok(false);
        }
        if !self.owed(&[self.world.watcher.address()]).await?.is_zero() {
            return Ok(false);
        }
        let stored = self.world.desk.stored(&self.world.asker, id).await?;
        narrator.tell(&say("final", format!("the contract holds: {stored}")))?;
        Ok(true)
    }

    fn tell<W: Write>(&mut self, narrator: &mut Narrator<W>, case: &Case) -> anyhow::Result<()> {
        let request = Request::unpack(&case.request)?.id;
        let mut say = |by: &'static str, what: &'static str, text: String| {
            narrator.tell(&Event::Dispute { request, by, what, text })
        };
        let posted = self.book.results().get(&case.opened.result);
        let bond = U256::from(self.world.terms.bond);
        if !std::mem::replace(&mut self.told.0, true) {
            say("watcher", "challenges", format!("its own run says something else; it puts up {}", money(bond)))?;
        }
        if let Some(claimed) = &case.claim
            && !std::mem::replace(&mut self.told.1, true)
        {
            let text = format!("its run had {} nodes, under one hash", claimed.claim.nodes);
            say("liar", "claims", text)?;
        }
        while self.told.2 < case.moves.len() {
            let made = self.told.2;
            self.told.2 += 1;
            // As it stood after this move.
            let so_far = Case { moves: case.moves[..=made].to_vec(), ended: None, ..case.clone() };
            let found = narrow(&so_far, Some(&self.player), posted)?;
            let after = &case.moves[made].dispute;
            let label = found.label.unwrap_or_default();
            match after.turn {
                Turn::Reveal | Turn::RevealLeaf if after.inTensor => {
                    say("watcher", "selects", format!("it differs first in node {}, {label}", after.node))?;
                }
                Turn::Reveal => say("watcher", "selects", "the first subtree of nodes that differs".to_owned())?,
                Turn::Select => say("liar", "reveals", "the hashes below".to_owned())?,
                Turn::SelectElement => {
                    let (row, col) = found.element.unwrap_or_default();
                    let (claimed, right) = (found.claimed.unwrap_or_default(), found.right.unwrap_or_default());
                    say(
                        "liar",
                        "reveals",
                        format!("the elements; number {row}, {col} is {claimed}, and should be {right}"),
                    )?;
                }
                Turn::RevealPartials => say("watcher", "selects", format!("element {} of them", after.element))?,
                Turn::Prove => say("liar", "reveals", format!("the {} partials that it adds up", after.parts))?,
                _ => {}
            }
        }
        if let Some(ended) = case.ended
            && !std::mem::replace(&mut self.told.3, true)
        {
            let text = match ended.outcome {
                Outcome::Rejected => {
                    format!("the disputed piece recomputed: it is wrong; {} for the watcher", money(ended.paid))
                }
                other => format!("the dispute ends: {other:?}"),
            };
            say("chain", "decides", text)?;
        }
        Ok(())
    }
}

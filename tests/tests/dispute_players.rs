//! Players that misbehave, on both sides: silent, malformed, late, mistaken, several at once, at the last second, taken back by a reorganisation, without
//! money. Whoever is right is a real relayer; adversaries are real relayers where they can be, and play by hand where no relayer of ours would do that.
//!
//! `dispute_crashes.rs` has those that are killed.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    providers::{Provider, ext::AnvilApi},
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    chain::{ANSWER_WITHIN, Rpc},
    dispute::{
        book::Book,
        liar::{self, Liar},
        opinion::Verdict,
    },
    engine::{Device, InferRequest, LoadedModel},
    pipeline::{Infer, OperatorSettings, WatcherSettings},
};
use candor_sdk::{
    bindings::{IDisputeGame, Outcome, RequestStatus, Turn},
    client::Call,
    dispute::{Case, MemoryTrace, Move, Opinion},
    ids::ModelId,
};
use candor_tests::{
    Court, Fault, FaultyEndpoint, Hand, Operator, RelayerProcess, Running,
    court::PATIENCE,
    liars::{Lie, LyingEngine, SmallModel, Story},
    world::{EXCLUSIVE, WINDOW, applicant, dispute_terms, ether, out_of_time},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{task::LocalSet, time::Instant};

fn bonds(count: u64) -> U256 {
    U256::from(dispute_terms().bond) * U256::from(count)
}

fn small(court: &Court, name: &str) -> Result<SmallModel> {
    court.small.iter().find(|small| small.name == name).cloned().with_context(|| format!("no model {name}"))
}

fn serving(small: &SmallModel, infer: Arc<dyn Infer>) -> HashMap<ModelId, candor_relayer::pipeline::Served> {
    HashMap::from([(small.id, small.served(infer))])
}

/// All of them at once, on this thread.
async fn together<T: 'static>(tasks: Vec<impl Future<Output = Result<T>> + 'static>) -> Result<Vec<T>> {
    let local = LocalSet::new();
    let tasks: Vec<_> = tasks.into_iter().map(|task| local.spawn_local(task)).collect();
    local.await;
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await??);
    }
    Ok(done)
}

// ---------------------------------------------------------------- moves that are none

/// Versions of a move that are none, and calls that are no move: every one has to be refused.
fn malformed(hand: &Hand, case: &Case, right: &[u8], next: &Move) -> Result<Vec<(String, Bytes)>> {
    let name = next.name();
    let noise = |at: usize| {
        let mut bytes = right.to_vec();
        let from = at.min(bytes.len());
        let noise = hand.noise(bytes.len() - from);
        bytes[from..].copy_from_slice(&noise);
        Bytes::from(bytes)
    };
    let mut calls = vec![
        (format!("{name} with random arguments"), noise(4)),
        (format!("{name} cut in half"), right[..right.len() / 2].to_vec().into()),
        (format!("{name} with a random end"), noise(right.len() - right.len() / 4)),
        (format!("random bytes instead of {name}"), hand.noise(right.len())),
    ];
    let dispute = case.dispute().clone();
    let mut call = |what: &str, data: Vec<u8>| calls.push((what.to_owned(), data.into()));
    match next {
        Move::Reveal(hashes) => {
            let mut bent = hashes.clone();
            bent[0] = B256::from_slice(&hand.noise(32));
            call(
                "a hash that was not hashed",
                IDisputeGame::revealCall { dispute: dispute.clone(), hashes: bent }.abi_encode(),
            );
            let hashes = hashes[1..].to_vec();
            call("a hash too few", IDisputeGame::revealCall { dispute, hashes }.abi_encode());
        }
        Move::RevealLeaf(leaf) => {
            let leaf = hand.noise(leaf.len());
            call("a leaf that was not hashed", IDisputeGame::revealLeafCall { dispute, leaf }.abi_encode());
        }
        Move::RevealPartials(partials) => {
            let partials = hand.noise(partials.len() + 4);
            call("a partial too many", IDisputeGame::revealPartialsCall { dispute, partials }.abi_encode());
        }
        Move::Select { position, path, .. } => {
            let hash = B256::from_slice(&hand.noise(32));
            let select = IDisputeGame::selectCall { dispute, position: *position, hash, path: path.clone() };
            call("a hash that was not revealed", select.abi_encode());
        }
        _ => {}
    }
    Ok(calls)
}

/// What a liar by hand does: so many right moves, then everything but the next one, and that one too late.
struct Stalling {
    hand: Hand,
    dispute: u64,
    story: MemoryTrace,
    made: usize,
    /// The first move that it does not make.
    turn: Turn,
}

impl Stalling {
    async fn up_to(hand: Hand, dispute: u64, story: MemoryTrace, made: usize) -> Result<Self> {
        hand.defend_until(dispute, &story, made).await.with_context(|| format!("{made} moves"))?;
        let case = hand.operators_turn(dispute).await?;
        let next = hand.defence(&case, &story)?.context("no move")?;
        let right = hand.data(&case, &next)?;
        for (what, data) in malformed(&hand, &case, &right, &next)? {
            ensure!(!hand.send(data).await?, "the game took {what}");
        }
        Ok(Self { hand, dispute, story, made, turn: case.turn() })
    }

    async fn too_late(self) -> Result<Turn> {
        let case = self.hand.case(self.dispute).await?;
        if case.ended.is_none() {
            let next = self.hand.defence(&case, &self.story)?.context("no move")?;
            ensure!(
                !self.hand.make(&case, &next).await?,
                "{} after {} moves was taken too late",
                next.name(),
                self.made
            );
        }
        Ok(self.turn)
    }
}

/// What a false challenger by hand does: as [`Stalling`].
struct Mistaken {
    hand: Hand,
    dispute: u64,
    question: InferRequest,
    output: Vec<u8>,
    opinion: Opinion<MemoryTrace>,
    turn: Turn,
}

impl Mistaken {
    async fn next(&self) -> Result<(Case, Move, Vec<u8>)> {
        let case = self.hand.challengers_turn(self.dispute).await?;
        let next = self.hand.attack(&case, &self.question, &self.output, &self.opinion)?;
        let (next, data) = next.context("nothing to point at")?;
        Ok((case, next, data))
    }

    async fn up_to(mut self, upto: usize) -> Result<Self> {
        for _ in 0..upto {
            let (_, next, data) = self.next().await?;
            ensure!(self.hand.send(data).await?, "the game refused {}", next.name());
        }
        let (case, next, data) = self.next().await?;
        self.turn = case.turn();
        if matches!(next, Move::Prove(_)) {
            // Its best move, in good time: what it accuses is right.
            ensure!(!self.hand.send(data.clone()).await?, "the game convicted an honest operator");
        }
        for (what, data) in malformed(&self.hand, &case, &data, &next)? {
            ensure!(!self.hand.send(data).await?, "the game took {what}");
        }
        Ok(self)
    }

    async fn too_late(self) -> Result<Turn> {
        let case = self.hand.case(self.dispute).await?;
        if case.ended.is_none()
            && let Some((next, data)) = self.hand.attack(&case, &self.question, &self.output, &self.opinion)?
        {
            ensure!(!self.hand.send(data).await?, "{} was taken too late", next.name());
        }
        Ok(self.turn)
    }
}

/// Every kind of move of both sides: not made, made wrong, made late. The other side is a real relayer each time: one watcher against all liars, one honest
/// operator against all false challengers, three of them over each result.
#[tokio::test(flavor = "multi_thread")]
async fn silent_malformed_and_late_players_lose_on_both_sides() -> Result<()> {
    const OPERATORS_MOVES: usize = 6;
    const CHALLENGERS_MOVES: usize = 6;
    let mut court = Court::with_small_models().await?;
    let causal = small(&court, "causal")?;
    // Nobody is drawn who would answer: hands and relayers answer what is open to all.
    court.world.operator_for(ether(1), &[causal.id]).await?;
    let mut liars = Vec::new();
    for _ in 0..OPERATORS_MOVES {
        liars.push(court.world.operator_for(ether(1), &[]).await?);
    }
    let mut false_ones = Vec::new();
    for _ in 0..CHALLENGERS_MOVES {
        false_ones.push(court.world.account().await?);
    }
    let honest = court.world.operator_for(ether(3), &[]).await?;
    let account = court.world.account().await?;
    let (mut lied, mut right) = (Vec::new(), Vec::new());
    for number in 0..OPERATORS_MOVES as u64 {
        lied.push(court.ask(causal.id, &causal.long_question(number)).await?);
    }
    court.world.pass(EXCLUSIVE + 1).await?;
    let court = Arc::new(court);
    let mut stories = Vec::new();
    for (index, (liar, id)) in liars.iter().zip(&lied).enumerate() {
        let story = Story::of(&causal.model, &court.question(*id).await?, &causal.long_lie(index as u64)?)?;
        let hand = Hand::new(&court, &liar.key, &causal.model).await?;
        hand.answer(*id, &story.output).await?;
        stories.push((hand, story.trace()));
    }
    let watcher = court.watcher("watcher", &account, serving(&causal, causal.engine.clone()), bonds(20)).await?;
    // Half as many results as false challengers, and two more that nobody challenges.
    for number in 0..CHALLENGERS_MOVES as u64 / 3 {
        right.push(court.ask(causal.id, &causal.long_question(100 + number)).await?);
    }
    court.world.pass(EXCLUSIVE + 1).await?;
    let operator = court.operator("honest", &honest, serving(&causal, causal.engine.clone())).await?;
    for id in &right {
        court.world.wait_for_long(*id, RequestStatus::Fulfilled, PATIENCE).await?;
    }

    let mut stalling = Vec::new();
    for (made, ((hand, story), id)) in stories.into_iter().zip(&lied).enumerate() {
        let (court, id) = (court.clone(), *id);
        stalling.push(async move {
            let opened = async || Ok(court.cases(id).await?.first().map(Case::id));
            let dispute = court.wait("a challenge", &[], opened).await?;
            Stalling::up_to(hand, dispute, story, made).await
        });
    }
    let mut mistaken = Vec::new();
    for (made, key) in false_ones.iter().enumerate() {
        let (court, causal, id, key) = (court.clone(), causal.clone(), right[made / 3], key.clone());
        mistaken.push(async move {
            let question = court.question(id).await?;
            let trace = Story::mistaken(&causal.model, &question, &causal.long_lie(50 + made as u64)?)?;
            let output = court.posted(id).await?.output.to_vec();
            let hand = Hand::new(&court, &key, &causal.model).await?;
            let dispute = court.challenge(&key, id).await?;
            let opinion = Opinion::Run { trace, undefined: None };
            Mistaken { hand, dispute, question, output, opinion, turn: Turn::None }.up_to(made).await
        });
    }
    let (stalling, mistaken) = tokio::try_join!(together(stalling), together(mistaken))?;
    let relayers = [&watcher, &operator];
    relayers.iter().try_for_each(|relayer| relayer.check())?;
    court.world.pass(out_of_time()).await?;
    let late = tokio::try_join!(
        together(stalling.into_iter().map(Stalling::too_late).collect()),
        together(mistaken.into_iter().map(Mistaken::too_late).collect())
    )?;
    for turn in [Turn::Claim, Turn::Reveal, Turn::RevealLeaf, Turn::RevealPartials] {
        ensure!(late.0.contains(&turn), "no liar stopped at {turn:?}: {:?}", late.0);
    }
    for turn in [Turn::Select, Turn::SelectElement, Turn::Prove] {
        ensure!(late.1.contains(&turn), "no false challenger stopped at {turn:?}: {:?}", late.1);
    }
    court.convicted(&lied, &relayers).await?;
    court.over(&relayers).await?;
    for id in &right {
        for case in court.cases(*id).await? {
            ensure!(case.ended.is_some_and(|ended| ended.outcome == Outcome::Upheld), "{:?}", case.ended);
        }
        court.world.wait_for_long(*id, RequestStatus::Finalized, PATIENCE).await?;
    }
    let mut court = Arc::into_inner(court).context("somebody still plays")?;
    court.answer(&lied, &relayers).await?;
    operator.stop().await?;
    watcher.stop().await?;
    court.close_books(lied.len()).await
}

/// Partials of the right length that nobody computed are taken, and convict at once.
#[tokio::test(flavor = "multi_thread")]
async fn random_partials_convict() -> Result<()> {
    let mut court = Court::with_small_models().await?;
    let wide = small(&court, "wide")?;
    let liar = court.world.operator_for(ether(2), &[wide.id]).await?;
    let account = court.world.account().await?;
    let court = Arc::new(court);
    let id = court.ask(wide.id, &wide.question(1)).await?;
    let linear = wide.model.program.nodes.iter().position(|node| node.op == candor_sdk::program::Op::Linear);
    let lie = Lie::Node(u32::try_from(linear.context("no contraction")?)?, 1);
    let story = Story::of(&wide.model, &court.question(id).await?, &lie)?;
    let hand = Hand::new(&court, &liar.key, &wide.model).await?;
    hand.answer(id, &story.output).await?;
    let watcher = court.watcher("watcher", &account, serving(&wide, wide.engine.clone()), bonds(1)).await?;
    let opened = async || Ok(court.cases(id).await?.first().map(Case::id));
    let dispute = court.wait("a challenge", &[&watcher], opened).await?;
    let trace = story.trace();
    loop {
        let case = hand.operators_turn(dispute).await?;
        let next = hand.defence(&case, &trace)?.context("no move")?;
        if let Move::RevealPartials(partials) = &next {
            let noise = Move::RevealPartials(hand.noise(partials.len()));
            ensure!(hand.make(&case, &noise).await?, "partials of the right length were refused");
            break;
        }
        ensure!(hand.make(&case, &next).await?, "the game refused {}", next.name());
    }
    court.convicted(&[id], &[&watcher]).await?;
    drop(hand);
    let mut court = Arc::into_inner(court).context("somebody still plays")?;
    court.answer(&[id], &[&watcher]).await?;
    watcher.stop().await?;
    court.close_books(1).await
}

// ---------------------------------------------------------------- several at once

/// Three honest watchers at once, and before them the liar itself, twice, from another account, to burn the slot: one of the watchers wins, everybody but
/// the liar has its bond back.
#[tokio::test(flavor = "multi_thread")]
async fn three_watchers_and_the_liar_itself() -> Result<()> {
    let mut court = Court::with_small_models().await?;
    let mlp = small(&court, "mlp")?;
    let operator = court.world.operator_for(ether(2), &[mlp.id]).await?;
    let accomplice = court.world.account().await?;
    let question = mlp.question(1);
    let lies = HashMap::from([(question.input.clone(), Lie::Anywhere(3))]);
    let engine = Arc::new(LyingEngine::new(&mlp, lies));
    let liar = court.operator("liar", &operator, serving(&mlp, engine)).await?;
    let id = court.ask(mlp.id, &question).await?;
    court.world.wait_for_long(id, RequestStatus::Fulfilled, PATIENCE).await?;
    for _ in 0..2 {
        court.challenge(&accomplice, id).await?;
    }
    let mut watchers = Vec::new();
    for name in ["first", "second", "third"] {
        let account = court.world.account().await?;
        let purse = court.world.client.provider().get_balance(account.address()).await?;
        let watcher = court.watcher(name, &account, serving(&mlp, mlp.engine.clone()), bonds(1)).await?;
        watchers.push((account.address(), purse, watcher));
    }
    let relayers: Vec<&Running> = watchers.iter().map(|(.., watcher)| watcher).chain([&liar]).collect();
    court.convicted(&[id], &relayers).await?;
    court.over(&relayers).await?;
    let cases = court.cases(id).await?;
    let outcomes: Vec<_> = cases.iter().filter_map(|case| Some((case.opened.challenger, case.ended?))).collect();
    let winners: Vec<Address> =
        outcomes.iter().filter(|(_, ended)| ended.outcome == Outcome::Rejected).map(|(by, _)| *by).collect();
    let honest: Vec<Address> = watchers.iter().map(|(account, ..)| *account).collect();
    ensure!(winners.len() == 1 && honest.contains(&winners[0]), "won by {winners:?}");
    for (by, ended) in &outcomes {
        if !winners.contains(by) {
            ensure!(ended.outcome == Outcome::Moot && ended.paid >= bonds(1), "{by}: {ended:?}");
        }
    }
    court.answer(&[id], &relayers).await?;
    // Credit is fetched when nothing is going on.
    for (account, ..) in &watchers {
        let fetched = async || Ok(court.credit(*account).await?.is_zero().then_some(()));
        court.wait("the credit is fetched", &relayers, fetched).await?;
    }
    drop(relayers);
    liar.stop().await?;
    for (account, purse, watcher) in watchers {
        watcher.stop().await?;
        let now = court.world.client.provider().get_balance(account).await?;
        if winners.contains(&account) {
            ensure!(now > purse, "winning did not pay");
        }
        ensure!(now + bonds(1) > purse, "a watcher lost its bond");
    }
    court.close_books(1).await
}

// ---------------------------------------------------------------- a false challenger that is a relayer

/// Two watchers that are wrong about a right result, and notice before they bond: one has a damaged copy of the model, which is not what its id commits to;
/// the other's engine is broken, and the reference says otherwise. Made to play all the same, neither gets far: the damaged copy opens nothing that the model's
/// id commits to, and the broken engine is doubted again. The operator wins both games and has its gas back.
#[tokio::test(flavor = "multi_thread")]
async fn mistaken_watchers_bond_nothing_and_would_lose() -> Result<()> {
    let mut court = Court::with_small_models().await?;
    let mlp = small(&court, "mlp")?;
    let operator = court.world.operator_for(ether(2), &[mlp.id]).await?;
    let (first, second) = (court.world.account().await?, court.world.account().await?);
    let question = mlp.question(1);
    let flip = Liar::telling(&mlp.model, 0, &question)?.context("some bit changes the answer")?;
    let damaged = Arc::new(LoadedModel::load(liar::bend(&mlp.model, flip)?, Device::Cpu)?);
    let broken = Arc::new(Liar::new(&mlp.model, flip)?);
    let honest = court.operator("honest", &operator, serving(&mlp, mlp.engine.clone())).await?;
    let mut damaged = court.watcher("damaged", &first, serving(&mlp, damaged), bonds(5)).await?;
    let mut broken = court.watcher("broken", &second, serving(&mlp, broken), bonds(5)).await?;
    let ids = [court.ask(mlp.id, &question).await?, court.ask(mlp.id, &mlp.question(2)).await?];
    for id in ids {
        ensure!(matches!(damaged.verdict(id).await?, Verdict::Unsure(_)), "the damaged copy is sure of {id}");
    }
    ensure!(matches!(broken.verdict(ids[0]).await?, Verdict::Unsure(_)), "the broken engine is sure");
    ensure!(court.see(|book| book.docket().cases().count()).await? == 0, "bonded all the same");
    court.challenge(&first, ids[0]).await?;
    court.challenge(&second, ids[1]).await?;
    let relayers = [&honest, &damaged, &broken];
    let claimed = async || {
        let cases = court.see(|book| book.docket().cases().cloned().collect::<Vec<_>>()).await?;
        Ok((cases.len() == 2 && cases.iter().all(|case| case.claim.is_some())).then_some(()))
    };
    court.wait("the operator's claims", &relayers, claimed).await?;
    court.world.pass(out_of_time()).await?;
    court.over(&relayers).await?;
    for id in ids {
        court.world.wait_for_long(id, RequestStatus::Finalized, PATIENCE).await?;
    }
    let ended = court.see(|book| book.docket().cases().map(|case| case.ended).collect::<Vec<_>>()).await?;
    ensure!(ended.len() == 2, "{} challenges", ended.len());
    for ended in ended {
        let ended = ended.context("it goes on")?;
        ensure!(ended.outcome == Outcome::Upheld && ended.winner == operator.address(), "{ended:?}");
    }
    honest.stop().await?;
    damaged.stop().await?;
    broken.stop().await?;
    court.close_books(0).await
}

// ---------------------------------------------------------------- money

/// Sends ether away until so many wei are left.
async fn impoverish(court: &Court, key: &PrivateKeySigner, left: U256) -> Result<()> {
    use alloy::network::TransactionBuilder;
    let client = court.world.client_of(key).await?;
    let provider = client.provider();
    let balance = provider.get_balance(key.address()).await?;
    let gas = provider.get_gas_price().await? * 2;
    let cost = U256::from(gas) * U256::from(21_000);
    let transaction = alloy::rpc::types::TransactionRequest::default()
        .with_to(court.world.owner)
        .with_value(balance - left - cost)
        .with_gas_limit(21_000)
        .with_gas_price(gas);
    ensure!(provider.send_transaction(transaction).await?.get_receipt().await?.status(), "it keeps its money");
    Ok(())
}

/// A watcher that has one bond and some gas, and two wrong results: it challenges one, says that the other costs more than it has, plays the first game to
/// its end all the same, and pays the second bond from what it won.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_without_money_for_a_second_bond_plays_the_first_game() -> Result<()> {
    let mut court = Court::new().await?;
    let credit = court.embedded_model("credit")?;
    let operator = court.world.operator_for(ether(2), &[credit.id]).await?;
    let account = Operator { key: court.world.account().await? };
    impoverish(&court, &account.key, bonds(2) - U256::from(1)).await?;
    let lies = [1, 2].map(|number| (credit.question(number).input, Lie::Anywhere(number)));
    let engine = Arc::new(LyingEngine::new(&credit, HashMap::from(lies)));
    let liar = court.operator("liar", &operator, serving(&credit, engine)).await?;
    let ids = [court.ask(credit.id, &credit.question(1)).await?, court.ask(credit.id, &credit.question(2)).await?];
    for id in ids {
        court.world.wait_for_long(id, RequestStatus::Fulfilled, PATIENCE).await?;
    }
    let watcher = RelayerProcess::watching(&court.folder("watcher")?, &court.world, &account, "1 ether", None)?;
    court.convicted(&ids, &[&liar]).await.with_context(|| watcher.log())?;
    court.over(&[&liar]).await?;
    ensure!(watcher.log().contains("send it some"), "it does not say that it is short of money:\n{}", watcher.log());
    watcher.kill().await?;
    court.answer(&ids, &[&liar]).await?;
    liar.stop().await?;
    court.close_books(2).await
}

/// The spending cap is one bond, and two results are wrong: one is challenged; of the other the watcher says so, and does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_at_its_spending_cap_says_so_and_bonds_nothing_more() -> Result<()> {
    let mut court = Court::new().await?;
    let credit = court.embedded_model("credit")?;
    let operator = court.world.operator_for(ether(2), &[credit.id]).await?;
    let account = Operator { key: court.world.account().await? };
    let ids = [court.ask(credit.id, &credit.question(1)).await?, court.ask(credit.id, &credit.question(2)).await?];
    let court = Arc::new(court);
    // It answers and is silent, so that the first game takes its time.
    let hand = Hand::new(&court, &operator.key, &credit.model).await?;
    for id in ids {
        let story = Story::of(&credit.model, &court.question(id).await?, &Lie::Anywhere(1))?;
        hand.answer(id, &story.output).await?;
    }
    let watcher = RelayerProcess::watching(&court.folder("watcher")?, &court.world, &account, "0.01 ether", None)?;
    let said = async || Ok(watcher.log().contains("the spending cap forbids to challenge it").then_some(()));
    court.wait("the watcher says that its cap is reached", &[], said).await.with_context(|| watcher.log())?;
    let challenges = async || court.see(|book| book.docket().cases().count()).await;
    let one = async || Ok((challenges().await? == 1).then_some(()));
    court.wait("one challenge", &[], one).await.with_context(|| watcher.log())?;
    // It looks at the chain twenty times a second.
    for _ in 0..10 {
        court.world.pass(1).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(challenges().await? == 1, "it challenged again");
    let sent = court.world.client.provider().get_transaction_count(account.address()).await?;
    ensure!(sent == 1, "{sent} transactions");
    court.world.pass(out_of_time()).await?;
    court.over(&[]).await.with_context(|| watcher.log())?;
    watcher.kill().await?;
    Ok(())
}

// ---------------------------------------------------------------- the last second

/// A challenge in the last second of the window counts, one second later none is taken; a relayer that starts then plays the game to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_in_the_last_second_of_the_window() -> Result<()> {
    let mut court = Court::with_small_models().await?;
    let mlp = small(&court, "mlp")?;
    let operator = court.world.operator_for(ether(2), &[mlp.id]).await?;
    let (account, late) = (court.world.account().await?, court.world.account().await?);
    let lies = HashMap::from([(mlp.question(1).input, Lie::Anywhere(1))]);
    let engine = Arc::new(LyingEngine::new(&mlp, lies));
    let liar = court.operator("liar", &operator, serving(&mlp, engine)).await?;
    let id = court.ask(mlp.id, &mlp.question(1)).await?;
    court.world.wait_for_long(id, RequestStatus::Fulfilled, PATIENCE).await?;
    let until = court.posted(id).await?.fulfillment.final_at(WINDOW);
    let provider = court.world.client.provider();
    let posted = court.posted(id).await?;
    let call = IDisputeGame::challengeCall { request: posted.request, fulfillment: posted.fulfillment };
    // Nobody mines but here, so that a block's second is the one that was set.
    provider.anvil_set_auto_mine(false).await?;
    let opened = challenge_at(&court, &account, &call, until - 1).await?;
    let refused = challenge_at(&court, &late, &call, until).await?;
    provider.anvil_set_auto_mine(true).await?;
    ensure!(opened && !refused, "in the last second: {opened}; after it: {refused}");
    let watcher = court.watcher("watcher", &account, serving(&mlp, mlp.engine.clone()), bonds(1)).await?;
    court.convicted(&[id], &[&liar, &watcher]).await?;
    court.over(&[&liar, &watcher]).await?;
    court.answer(&[id], &[&liar, &watcher]).await?;
    liar.stop().await?;
    watcher.stop().await?;
    court.close_books(1).await
}

/// Challenges in a block of this second. Whether that was taken.
async fn challenge_at(
    court: &Court,
    key: &PrivateKeySigner,
    call: &IDisputeGame::challengeCall,
    second: u64,
) -> Result<bool> {
    use alloy::network::TransactionBuilder;
    let client = court.world.client_of(key).await?;
    let call = Call::new(court.world.deployment.game, bonds(1), call).into_transaction().with_gas_limit(1_000_000);
    let pending = client.provider().send_transaction(call).await?;
    let provider = court.world.client.provider();
    provider.anvil_set_next_block_timestamp(second).await?;
    provider.anvil_mine(Some(1), None).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(receipt) = provider.get_transaction_receipt(*pending.tx_hash()).await? {
            let block = provider.get_block_by_number(receipt.block_number.context("no block")?.into()).await?;
            ensure!(block.context("no block")?.header.timestamp == second, "mined in another second");
            return Ok(receipt.status());
        }
        ensure!(Instant::now() < deadline, "the challenge was not mined");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// ---------------------------------------------------------------- reorganisations

/// The chain takes back `depth` blocks in mid-game; both relayers go on from what is left, and the liar is convicted.
async fn taken_back(depth: u64) -> Result<()> {
    let mut court = Court::with_small_models().await?;
    let causal = small(&court, "causal")?;
    let operator = court.world.operator_for(ether(2), &[causal.id]).await?;
    let account = court.world.account().await?;
    let question = causal.long_question(1);
    let lies = HashMap::from([(question.input.clone(), causal.long_lie(1)?)]);
    let engine = Arc::new(LyingEngine::new(&causal, lies));
    let liar = court.operator("liar", &operator, serving(&causal, engine)).await?;
    let watcher = court.watcher("watcher", &account, serving(&causal, causal.engine.clone()), bonds(2)).await?;
    let id = court.ask(causal.id, &question).await?;
    let relayers = [&liar, &watcher];
    let moves = async |wanted: usize| {
        let made = async || Ok(court.cases(id).await?.iter().any(|case| case.moves.len() >= wanted).then_some(()));
        court.wait(&format!("{wanted} moves"), &relayers, made).await
    };
    let provider = court.world.client.provider();
    // After the first moves, and once more later.
    for wanted in [3, 6] {
        moves(wanted).await?;
        provider.anvil_rollback(Some(depth)).await?;
        // The new branch is soon longer than the old one.
        provider.anvil_mine(Some(depth + 2), None).await?;
    }
    court.convicted(&[id], &relayers).await?;
    court.over(&relayers).await?;
    ensure!(court.cases(id).await?.len() == 1, "challenged more than once");
    court.answer(&[id], &relayers).await?;
    liar.stop().await?;
    watcher.stop().await?;
    court.close_books(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_game_taken_back_1_deep() -> Result<()> {
    taken_back(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_game_taken_back_5_deep() -> Result<()> {
    taken_back(5).await
}

// ---------------------------------------------------------------- endpoints

/// Both relayers read the chain through endpoints that misbehave: that show no events, whose newest block is old, whose answers get lost. No move is
/// missed and none is made twice.
#[tokio::test(flavor = "multi_thread")]
async fn games_through_endpoints_that_misbehave() -> Result<()> {
    // The first hides everything until the lie has been told: nobody who trusts what it has read would ever see that.
    let faults = [(Fault::EmptyLogs, 1), (Fault::StaleHead, 3), (Fault::DropAnswer, 5)];
    let mut court = Court::with_small_models().await?;
    let names = ["mlp", "wide", "features"];
    let (mut relayers, mut endpoints, mut ids, mut accounts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((fault, every), name) in faults.into_iter().zip(names) {
        let model = small(&court, name)?;
        let operator = court.world.operator_for(ether(2), &[model.id]).await?;
        let account = court.world.account().await?;
        let lies = HashMap::from([(model.question(1).input, Lie::Anywhere(1))]);
        let engine = Arc::new(LyingEngine::new(&model, lies));
        for lying in [true, false] {
            let (fault, every) = if lying && every == 1 { (Fault::Duplicate, 2) } else { (fault, every) };
            let endpoint = FaultyEndpoint::start(&court.world.rpc_url(), fault, every).await?;
            let name = format!("{fault:?} {}", if lying { "liar" } else { "watcher" });
            let mut settings = court.world.settings(&court.folder(&name)?, None);
            settings.rpc_urls = vec![endpoint.url.clone()];
            if lying {
                settings.operator = Some(OperatorSettings {
                    account: operator.key.clone().into(),
                    signer: operator.key.clone().into(),
                    models: serving(&model, engine.clone()),
                    payout: None,
                });
            } else {
                let models = serving(&model, model.engine.clone());
                settings.watcher = Some(WatcherSettings {
                    account: account.clone().into(),
                    models,
                    cap: bonds(1),
                    demand_inputs: false,
                });
            }
            relayers.push(Running::start(&name, settings).await?);
            endpoints.push((name, endpoint));
        }
        accounts.extend([operator.address(), account.address()]);
        ids.push(court.ask(model.id, &model.question(1)).await?);
    }
    let all: Vec<&Running> = relayers.iter().collect();
    court.world.wait_for_long(ids[0], RequestStatus::Fulfilled, PATIENCE).await?;
    let (_, hiding) = &endpoints[1];
    let before = hiding.faults();
    let hidden = async || Ok((hiding.faults() > before + 4).then_some(()));
    court.wait("the lie is hidden", &all, hidden).await?;
    hiding.heal();
    // What it shows first is the newest, which must not make it look as if nothing were missing before that.
    let wide = small(&court, "wide")?;
    let newest = court.ask(wide.id, &wide.question(2)).await?;
    court.convicted(&ids, &all).await?;
    court.over(&all).await?;
    for id in &ids {
        ensure!(court.cases(*id).await?.len() == 1, "challenged more than once");
    }
    for account in accounts {
        let failed = court.world.failed_transactions(account).await?;
        ensure!(failed.is_empty(), "transactions of {account} that reverted: {failed:?}");
    }
    let asked = [ids.as_slice(), &[newest]].concat();
    court.answer(&asked, &all).await?;
    for (name, endpoint) in &endpoints {
        ensure!(endpoint.faults() > 0, "nothing went wrong at {name}");
    }
    for relayer in relayers {
        relayer.stop().await?;
    }
    court.close_books(ids.len()).await
}

/// The newest block is of one endpoint, and its events are asked of another one, which does not know that block yet. They are no events of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_book_that_is_read_from_two_endpoints_has_no_hole() -> Result<()> {
    let mut court = Court::new().await?;
    let credit = court.world.models["credit"].id();
    let operator = court.world.operator_for(ether(2), &[credit]).await?;
    let (world, target) = (&court.world, court.world.rpc_url());
    let dying = FaultyEndpoint::start(&target, Fault::DiesInMidLook, 1).await?;
    let behind = FaultyEndpoint::start(&target, Fault::Behind, 1).await?;
    let urls = [dying.url.clone(), behind.url.clone()];
    let rpc = Rpc::connect(&urls, world.client.chain_id, world.client.oracle, ANSWER_WITHIN).await?;
    let mut settings = world.settings(&court.folder("reader")?, Some(&operator)).watch;
    (settings.overlap, settings.poll_interval) = (0, Duration::from_secs(3600));
    let mut book = Book::new(world.deployment.game, settings, 0);
    while !book.look(&rpc).await?.1 {}
    behind.freeze().await?;
    dying.begin();
    let meanwhile = async {
        dying.happened().await?;
        rpc.fail_over(rpc.current()).await;
        world.ask("credit", &applicant()).await?;
        dying.heal();
        anyhow::Ok(())
    };
    let (looked, meanwhile) = tokio::join!(book.look(&rpc), meanwhile);
    meanwhile?;
    ensure!(!looked?.1, "two endpoints were asked, and taken for one");
    behind.heal();
    while !book.look(&rpc).await?.1 {}
    ensure!(book.is_complete(&rpc).await?, "the request is missing");
    Ok(())
}

/// An event that was hidden is missed although a newer one was shown after it, with or without the state of before.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_hidden_behind_a_newer_one_is_missed() -> Result<()> {
    let mut court = Court::new().await?;
    let credit = court.world.models["credit"].id();
    let operator = court.world.operator_for(ether(2), &[credit]).await?;
    let world = &court.world;
    let target = world.rpc_url();
    let hiding = FaultyEndpoint::start(&target, Fault::EmptyLogs, 1).await?;
    let forgetful = FaultyEndpoint::start(&target, Fault::NoHistory, 1).await?;
    let rpc = async |url: &_| {
        Rpc::connect(std::slice::from_ref(url), world.client.chain_id, world.client.oracle, ANSWER_WITHIN).await
    };
    let (honest, hiding, no_history) = (rpc(&target).await?, rpc(&hiding.url).await?, rpc(&forgetful.url).await?);
    let mut settings = world.settings(&court.folder("reader")?, Some(&operator)).watch;
    // Nothing is read or compared but what is said here.
    (settings.overlap, settings.poll_interval) = (0, Duration::from_secs(3600));
    for judge in [&honest, &no_history] {
        let first = world.client.provider().get_block_number().await? + 1;
        let mut book = Book::new(world.deployment.game, settings, first);
        for endpoint in [&honest, &hiding, &honest] {
            world.ask("credit", &applicant()).await?;
            while !book.look(endpoint).await?.1 {}
        }
        ensure!(!book.is_complete(judge).await?, "a request that was never shown is not missed");
        while !book.look(&honest).await?.1 {}
        ensure!(book.is_complete(judge).await?, "something is missed that was shown");
    }
    ensure!(forgetful.faults() > 0, "nobody asked for old state");
    Ok(())
}

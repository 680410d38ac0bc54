//! Disputes between real relayers on a real chain: liars, silent ones, false challengers, crashes. What strategy does against every lie is tested
//! without a chain, in `sdk/tests/dispute`; here it is what relayers do with it.
//!
//!     CANDOR_SEEDS=100 cargo test -p candor-tests --test dispute random -- --nocapture

use alloy::{
    primitives::{Address, U256},
    providers::Provider,
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    dispute::{Retrace, liar::Liar, opinion::Verdict},
    engine::{InferError, InferRequest},
    pipeline::{Handle, Infer, Progress, Settings, WatcherSettings},
};
use candor_sdk::{
    bindings::{IDisputeGame, IOperatorRegistry, RequestStatus},
    client::Call,
};
use candor_tests::{
    Operator, World,
    court::examined,
    world::{WINDOW, applicant, dispute_terms, ether, image, out_of_time},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

/// A chain with two operators: one lies, the other answers what the liar's request becomes. And a watcher's account.
struct Court {
    world: World,
    liar: Operator,
    honest: Operator,
    watcher: alloy::signers::local::PrivateKeySigner,
    folder: tempfile::TempDir,
}

impl Court {
    async fn new() -> Result<Self> {
        let mut world = World::start_with_disputes().await?;
        let liar = world.operator(ether(5)).await?;
        let honest = Operator { key: world.account().await?.clone() };
        let watcher = world.account().await?;
        Ok(Self { world, liar, honest, watcher, folder: tempfile::tempdir()? })
    }

    async fn start(&self, settings: Settings) -> Result<(Handle, broadcast::Receiver<Progress>)> {
        let (reporter, progress) = broadcast::channel(4096);
        Ok((candor_relayer::pipeline::spawn(settings, reporter, CancellationToken::new()).await?, progress))
    }

    /// The lying operator's relayer: `model` is answered, and defended, by `infer`.
    fn liars_settings(&self, model: &str, infer: Arc<dyn Infer>) -> Result<Settings> {
        let folder = self.folder.path().join("liar");
        std::fs::create_dir_all(&folder)?;
        let mut settings = self.world.settings(&folder, Some(&self.liar));
        let id = self.world.models[model].id();
        let models = &mut settings.operator.as_mut().context("no operator")?.models;
        models.get_mut(&id).context("not served")?.model = infer;
        Ok(settings)
    }

    /// A relayer that answers nothing and watches everything.
    fn watchers_settings(&self) -> Result<Settings> {
        let folder = self.folder.path().join("watcher");
        std::fs::create_dir_all(&folder)?;
        let mut settings = self.world.settings(&folder, None);
        let models = self.world.settings(&folder, Some(&self.liar)).operator.context("no operator")?.models;
        settings.watcher =
            Some(WatcherSettings { account: self.watcher.clone().into(), models, cap: ether(1), demand_inputs: false });
        Ok(settings)
    }

    /// A model of which one bit is flipped that the answer to `input` depends on.
    fn liar_of(&self, model: &str, input: &[u8]) -> Result<Arc<dyn Infer>> {
        let truth = &self.world.models[model].imported().model;
        let request = InferRequest { input: input.to_vec(), ..InferRequest::default() };
        let flip = Liar::telling(truth, 0, &request)?.context("some bit changes the answer")?;
        Ok(Arc::new(Liar::new(truth, flip)?))
    }

    async fn stake(&self, operator: Address) -> Result<U256> {
        let client = &self.world.client;
        Ok(client.view(client.operators, IOperatorRegistry::stakeOfCall { operator }).await?.stake)
    }

    async fn game_balance(&self) -> Result<U256> {
        Ok(self.world.client.provider().get_balance(self.world.deployment.game).await?)
    }

    async fn credit(&self, account: Address) -> Result<U256> {
        let call = IDisputeGame::creditOfCall { account };
        Ok(self.world.client.view(self.world.deployment.game, call).await?)
    }

    /// Waits until the liar has lost one result's stake.
    async fn convicted(&self, before: U256) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let now = self.stake(self.liar.address()).await?;
            if now < before {
                ensure!(before - now == self.world.client.terms().await?.stake_per_result, "slashed {}", before - now);
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the liar was not convicted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the game owes nobody anything: every bond paid back or lost, every credit taken out or counted.
    async fn settled(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let owed = self.credit(self.liar.address()).await?
                + self.credit(self.honest.address()).await?
                + self.credit(self.watcher.address()).await?;
            let held = self.game_balance().await?;
            if held == owed && self.credit(self.watcher.address()).await?.is_zero() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the game holds {held} wei and owes {owed}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One bit of one weight of each model: answered, challenged, narrowed down, convicted; then an honest operator answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_caught_and_the_request_is_answered_by_another() -> Result<()> {
    for (model, input) in [("credit", applicant()), ("digits", image())] {
        let mut court = Court::new().await?;
        let purse = court.world.client.provider().get_balance(court.watcher.address()).await?;
        let infer = court.liar_of(model, &input)?;
        let (liar, _) = court.start(court.liars_settings(model, infer)?).await?;
        let (watcher, mut progress) = court.start(court.watchers_settings()?).await?;
        let before = court.stake(court.liar.address()).await?;
        let id = court.world.ask(model, &input).await?;
        let verdict = examined(&mut progress, id).await?;
        ensure!(verdict == Verdict::Wrong, "{model}: {verdict:?}");
        court.convicted(before).await?;
        court.settled().await?;
        liar.stop().await?;
        // The request is open again, for another.
        let honest = court.world.operator(ether(5)).await?;
        let folder = tempfile::tempdir()?;
        let (relayer, _) = court.world.relayer(folder.path(), Some(&honest)).await?;
        court.world.wait_for(id, RequestStatus::Fulfilled).await?;
        court.world.pass(WINDOW).await?;
        court.world.wait_for(id, RequestStatus::Finalized).await?;
        let answer = court.world.client.fulfilled(id, 0).await?.context("no result")?.0.output;
        ensure!(answer == court.world.right_answer(model, &input)?, "{model}: another wrong answer");
        relayer.stop().await?;
        watcher.stop().await?;
        let earned = court.world.client.provider().get_balance(court.watcher.address()).await?.checked_sub(purse);
        ensure!(earned.is_some_and(|wei| !wei.is_zero()), "watching did not pay: {earned:?}");
    }
    Ok(())
}

/// Answers one batch, and no other.
#[derive(Debug)]
struct Once(Arc<dyn Infer>, AtomicBool);

impl Infer for Once {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        if self.1.swap(true, Ordering::Relaxed) {
            return batch.iter().map(|_| Err(InferError::Claim("it has said what it had to say".into()))).collect();
        }
        self.0.infer(batch)
    }

    fn device(&self) -> String {
        self.0.device()
    }

    fn retrace(&self) -> Option<&dyn Retrace> {
        self.0.retrace()
    }
}

/// Answers nonsense once, and has nothing to defend it with.
#[derive(Debug)]
struct Mute(Once);

impl Infer for Mute {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        let answers = self.0.infer(batch).into_iter();
        answers.map(|answer| answer.map(|bytes| bytes.iter().map(|byte| byte ^ 1).collect())).collect()
    }

    fn device(&self) -> String {
        self.0.device()
    }
}

/// An operator that says nothing loses by time, whatever it was about.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_operator_runs_out_of_time() -> Result<()> {
    let court = Court::new().await?;
    let mute = Arc::new(Mute(Once(court.world.models["credit"].runner(), AtomicBool::default())));
    let (liar, _) = court.start(court.liars_settings("credit", mute)?).await?;
    let (watcher, mut progress) = court.start(court.watchers_settings()?).await?;
    let before = court.stake(court.liar.address()).await?;
    let id = court.world.ask("credit", &applicant()).await?;
    examined(&mut progress, id).await?;
    court.world.wait_for(id, RequestStatus::Disputed).await?;
    court.world.pass(out_of_time()).await?;
    court.convicted(before).await?;
    court.settled().await?;
    liar.stop().await?;
    Ok(watcher.stop().await?)
}

/// Somebody challenges a right answer and never moves: the operator answers in time, and has its gas repaid from the bond.
#[tokio::test(flavor = "multi_thread")]
async fn an_honest_operator_outlasts_a_false_challenger() -> Result<()> {
    let court = Court::new().await?;
    let settings = court.world.settings(court.folder.path(), Some(&court.liar)); // honest here
    let (operator, _) = court.start(settings).await?;
    let id = court.world.ask("credit", &applicant()).await?;
    court.world.wait_for(id, RequestStatus::Fulfilled).await?;
    let client = &court.world.client;
    let (event, _) = client.fulfilled(id, 0).await?.context("no result")?;
    let request = client.requested(id, 0).await?.context("no request")?.request;
    let call = IDisputeGame::challengeCall { request, fulfillment: event.fulfillment };
    let before = court.stake(court.liar.address()).await?;
    client.send(Call::new(court.world.deployment.game, U256::from(dispute_terms().bond), &call)).await?;
    // The claim is made, and then it is the challenger's turn, for ever.
    let deadline = Instant::now() + Duration::from_secs(30);
    let result = candor_relayer::dispute::book::result_hash(&call.request, &call.fulfillment);
    while client.view(court.world.deployment.game, IDisputeGame::resultOfCall { result }).await?.claimedAt == 0 {
        ensure!(Instant::now() < deadline, "no claim was made");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    court.world.pass(out_of_time()).await?;
    court.world.wait_for(id, RequestStatus::Finalized).await?;
    ensure!(court.stake(court.liar.address()).await? == before, "an honest operator was slashed");
    court.settled().await?;
    Ok(operator.stop().await?)
}

//! Inputs that are at a URI, from the request to the last dispute: answered, judged, withheld, killed in between.

use alloy::{
    primitives::{B256, U256, keccak256},
    providers::Provider,
    rpc::types::Filter,
    sol_types::SolEvent,
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    crash::INPUT_PLACES,
    dispute::{liar::Liar, opinion::Verdict},
    engine::InferRequest,
    pipeline::{Handle, Infer, Progress, Settings, WatcherSettings},
    store::{RequestRow, Step},
};
use candor_sdk::{
    bindings::{IDisputeGame, IInferenceOracle, IOperatorRegistry, RequestStatus},
    ids::RequestId,
    request::{Input, Request},
};
use candor_tests::{
    InputServer, Operator, RelayerProcess, World,
    court::examined,
    inputs::Manner,
    world::{PRICE, TIMEOUT, WINDOW, applicant, ether, image, out_of_time},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

/// What a request says of an input.
fn said(input: &[u8]) -> (B256, u32) {
    (keccak256(input), u32::try_from(input.len()).expect("a short input"))
}

async fn start(settings: Settings) -> Result<(Handle, broadcast::Receiver<Progress>)> {
    let (reporter, progress) = broadcast::channel(4096);
    Ok((candor_relayer::pipeline::spawn(settings, reporter, CancellationToken::new()).await?, progress))
}

async fn answer(world: &World, id: RequestId) -> Result<Vec<u8>> {
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    Ok(world.client.fulfilled(id, 0).await?.context("no result")?.0.output.to_vec())
}

/// Waits until a request in a relayer's store is as wanted.
async fn row(relayer: &Handle, id: RequestId, wanted: impl Fn(&RequestRow) -> bool) -> Result<RequestRow> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = relayer.store.request(id).await?;
        match found {
            Some(row) if wanted(&row) => return Ok(row),
            found => ensure!(Instant::now() < deadline, "{found:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn stake(world: &World, operator: &Operator) -> Result<U256> {
    let call = IOperatorRegistry::stakeOfCall { operator: operator.address() };
    Ok(world.client.view(world.client.operators, call).await?.stake)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_by_uri_is_answered_and_its_input_is_fetched_once() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let server = InputServer::start().await?;
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    let (hash, size) = said(&applicant());
    // Not there at first.
    let uri = server.put("/loan", Manner::Lacks);
    let id = world.ask_by_uri("credit", hash, size, &uri).await?;
    let waiting = row(&relayer, id, |row| row.by_uri.as_ref().is_some_and(|by_uri| by_uri.problem.is_some())).await?;
    let by_uri = waiting.by_uri.context("by URI")?;
    ensure!(waiting.step == Step::Seen && by_uri.awaited && by_uri.uri.as_deref() == Some(&uri), "{by_uri:?}");
    ensure!(by_uri.problem.is_some_and(|problem| problem.contains("404 Not Found")));
    server.put("/loan", Manner::Has(applicant()));
    ensure!(answer(&world, id).await? == world.right_answer("credit", &applicant())?, "another answer");
    let fetched = server.asked("/loan");
    ensure!(fetched >= 2, "asked {fetched} times");

    // The same input again is not fetched again, even if it is said to be somewhere else.
    let elsewhere = server.put("/gone", Manner::Lacks);
    for uri in [&uri, &elsewhere] {
        let id = world.ask_by_uri("credit", hash, size, uri).await?;
        ensure!(answer(&world, id).await? == world.right_answer("credit", &applicant())?, "another answer");
    }
    ensure!(server.asked("/loan") == fetched && server.asked("/gone") == 0, "fetched again");

    // In the request itself after all.
    let numbers: Vec<u8> = applicant().chunks(4).rev().flatten().copied().collect();
    let (hash, size) = said(&numbers);
    let id = world.ask_by_uri("credit", hash, size, &format!("data:,{}", percent(&numbers))).await?;
    ensure!(answer(&world, id).await? == world.right_answer("credit", &numbers)?, "another answer");
    world.pass(WINDOW).await?;
    world.wait_for(id, RequestStatus::Finalized).await?;
    Ok(relayer.stop().await?)
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

/// Servers that hang, lie and lack: what they hold up is nobody else's request, what comes of it is a refund, and nobody loses anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_withheld_input_holds_up_nobody_and_ends_in_a_refund() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let server = InputServer::start().await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.http = Some("127.0.0.1:0".parse()?);
    settings.inputs.timeout = Duration::from_secs(5);
    let (relayer, _) = start(settings).await?;
    let before = stake(&world, &operator).await?;
    let (hash, size) = said(&image());
    let mut withheld = Vec::new();
    for number in 0..20u8 {
        // Hashes that nothing has; more of them than are fetched at once.
        let uri = server.put(&format!("/{number}"), Manner::Hangs);
        withheld.push(world.ask_by_uri("digits", B256::repeat_byte(number), size, &uri).await?);
    }
    let lie = server.put("/lie", Manner::Has(vec![1; image().len()]));
    let lie = world.ask_by_uri("digits", hash, size, &lie).await?;
    let nowhere = world.ask_by_uri("digits", hash, size, "gopher://host/input").await?;
    // Everybody else is answered meanwhile.
    let id = world.ask("digits", &image()).await?;
    ensure!(answer(&world, id).await? == world.right_answer("digits", &image())?, "another answer");

    let dropped = row(&relayer, nowhere, |row| row.step == Step::Dropped).await?;
    ensure!(dropped.reason.as_ref().is_some_and(|reason| reason.contains("not gopher:")), "{:?}", dropped.reason);
    // What the page says of one that waits.
    let url = format!("http://{}", relayer.http.context("no status page")?);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status: serde_json::Value = reqwest::get(format!("{url}/api/status")).await?.json().await?;
        let recent = status["recent"].as_array().context("no requests")?;
        let reasons: Vec<_> = recent.iter().filter_map(|request| request["reason"].as_str()).collect();
        if status["inputs_awaited"].as_u64() >= Some(20) && reasons.iter().any(|reason| reason.contains("its input")) {
            break;
        }
        ensure!(Instant::now() < deadline, "{status:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let metrics = reqwest::get(format!("{url}/metrics")).await?.text().await?;
    ensure!(metrics.contains("candor_inputs_awaited"), "no such metric");

    // The deadline passes.
    world.pass(u64::from(TIMEOUT) + 1).await?;
    for id in withheld.iter().copied().chain([lie]) {
        let row = row(&relayer, id, |row| row.step == Step::Dropped).await?;
        let reason = row.reason.unwrap_or_default();
        ensure!(reason.contains("the input could not be had before the deadline"), "{reason}");
    }
    let asked = world.client.requested(withheld[0], 0).await?.context("no request")?;
    ensure!(matches!(&asked.input, Input::Uri { size: said, .. } if *said == size), "{asked:?}");
    let credit = world.client.credit(world.owner).await?;
    world.client.send(world.client.cancel(&Request::unpack(&asked.request)?)).await?;
    ensure!(world.client.credit(world.owner).await? - credit == U256::from(PRICE), "the requester's money");
    ensure!(stake(&world, &operator).await? == before, "the operator's stake");
    Ok(relayer.stop().await?)
}

/// Killed when the input is here and nowhere stored, and when it is stored and nothing else: answered once.
#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_that_is_killed_over_an_input_answers_once() -> Result<()> {
    for place in INPUT_PLACES {
        let mut world = World::start().await?;
        let operator = world.operator(ether(2)).await?;
        let server = InputServer::start().await?;
        let uri = server.put("/loan", Manner::Has(applicant()));
        let (hash, size) = said(&applicant());
        let id = world.ask_by_uri("credit", hash, size, &uri).await?;
        let folder = tempfile::tempdir()?;
        let (rpc, local) = (world.rpc_url(), [("inputs.private_addresses", "true")]);
        let start = |place| RelayerProcess::start_with(folder.path(), &world, &rpc, &operator, place, &local);
        let mut first = start(Some(place))?;
        let status = first.ended(Duration::from_secs(60)).await?;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        ensure!(signal == Some(9), "it did not die at {place}:\n{}", first.log());
        let second = start(None)?;
        world.wait_for(id, RequestStatus::Fulfilled).await.with_context(|| second.log())?;
        ensure!(world.count::<IInferenceOracle::Fulfilled>(id).await? == 1, "{place}: answered once");
        ensure!(second.log().contains("inputs.private_addresses is on"), "it is said loudly");
        let asked = if place == "input-fetched" { 2 } else { 1 };
        ensure!(server.asked("/loan") == asked, "{place}: fetched {} times", server.asked("/loan"));
        second.kill().await?;
    }
    Ok(())
}

/// A liar, somebody who watches it, and a server with the input.
struct Court {
    world: World,
    server: InputServer,
    liar: Operator,
    watcher: alloy::signers::local::PrivateKeySigner,
    folder: tempfile::TempDir,
}

impl Court {
    async fn new() -> Result<Self> {
        let mut world = World::start_with_disputes().await?;
        let (liar, server) = (world.operator(ether(5)).await?, InputServer::start().await?);
        let (watcher, folder) = (world.account().await?, tempfile::tempdir()?);
        Ok(Self { world, server, liar, watcher, folder })
    }

    fn folder(&self, name: &str) -> Result<std::path::PathBuf> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The operator's relayer; of the credit model one bit is flipped that the answer depends on, if it lies.
    async fn operator(&self, lies: bool) -> Result<Handle> {
        let mut settings = self.world.settings(&self.folder("operator")?, Some(&self.liar));
        if lies {
            let truth = &self.world.models["credit"].imported().model;
            let request = InferRequest { input: applicant(), ..InferRequest::default() };
            let flip = Liar::telling(truth, 0, &request)?.context("some bit changes the answer")?;
            let infer: Arc<dyn Infer> = Arc::new(Liar::new(truth, flip)?);
            let id = self.world.models["credit"].id();
            let models = &mut settings.operator.as_mut().context("no operator")?.models;
            models.get_mut(&id).context("not served")?.model = infer;
        }
        Ok(start(settings).await?.0)
    }

    fn watchers_settings(&self, folder: &Path, demand_inputs: bool) -> Result<Settings> {
        let mut settings = self.world.settings(folder, None);
        let models = self.world.settings(folder, Some(&self.liar)).operator.context("no operator")?.models;
        let account = self.watcher.clone().into();
        settings.watcher = Some(WatcherSettings { account, models, cap: ether(1), demand_inputs });
        Ok(settings)
    }

    async fn convicted(&self, before: U256) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(90);
        while stake(&self.world, &self.liar).await? == before {
            ensure!(Instant::now() < deadline, "the liar was not convicted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let lost = before - stake(&self.world, &self.liar).await?;
        ensure!(lost == self.world.client.terms().await?.stake_per_result, "slashed {lost}");
        Ok(())
    }

    async fn shown(&self) -> Result<usize> {
        self.events::<IDisputeGame::InputShown>().await
    }

    /// How many events of a kind the game has.
    async fn events<E: SolEvent>(&self) -> Result<usize> {
        let filter = Filter::new().address(self.world.deployment.game).event_signature(E::SIGNATURE_HASH).from_block(0);
        Ok(self.world.client.provider().get_logs(&filter).await?.len())
    }
}

/// The watcher fetches as the operator did, judges, and wins; the operator has to show the input on chain. Then another operator answers, which learns from
/// the chain alone where the input is.
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_an_input_at_a_uri_is_convicted() -> Result<()> {
    let mut court = Court::new().await?;
    let uri = court.server.put("/loan", Manner::Has(applicant()));
    let (hash, size) = said(&applicant());
    let liar = court.operator(true).await?;
    let (watcher, mut progress) = start(court.watchers_settings(&court.folder("watcher")?, false)?).await?;
    let before = stake(&court.world, &court.liar).await?;
    let id = court.world.ask_by_uri("credit", hash, size, &uri).await?;
    let verdict = examined(&mut progress, id).await?;
    ensure!(verdict == Verdict::Wrong, "{verdict:?}");
    court.convicted(before).await?;
    ensure!(court.shown().await? == 1, "the input was shown once");
    liar.stop().await?;
    let honest = court.world.operator(ether(5)).await?;
    let (relayer, _) = court.world.relayer(&court.folder("honest")?, Some(&honest)).await?;
    ensure!(answer(&court.world, id).await? == court.world.right_answer("credit", &applicant())?, "another lie");
    relayer.stop().await?;
    Ok(watcher.stop().await?)
}

/// The input is taken away when the operator has it. A watcher says that it can't judge, and does nothing more, unless it was told to demand such inputs:
/// then it challenges, the operator has to show the input, and loses by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_a_withheld_input_is_convicted_by_whoever_demands_it() -> Result<()> {
    let court = Court::new().await?;
    let uri = court.server.put("/loan", Manner::Has(applicant()));
    let (hash, size) = said(&applicant());
    let liar = court.operator(true).await?;
    let before = stake(&court.world, &court.liar).await?;
    let id = court.world.ask_by_uri("credit", hash, size, &uri).await?;
    court.world.wait_for(id, RequestStatus::Fulfilled).await?;
    court.server.put("/loan", Manner::Lacks);

    let (modest, mut progress) = start(court.watchers_settings(&court.folder("modest")?, false)?).await?;
    let verdict = examined(&mut progress, id).await?;
    ensure!(matches!(&verdict, Verdict::Withheld(problem) if problem.contains("404 Not Found")), "{verdict:?}");
    court.world.pass(WINDOW / 2 + 1).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (status, _) = court.world.client.status(id).await?;
    ensure!(status == RequestStatus::Fulfilled, "it challenged what it could not judge: {status:?}");
    modest.stop().await?;

    let (bold, mut progress) = start(court.watchers_settings(&court.folder("bold")?, true)?).await?;
    while examined(&mut progress, id).await? != Verdict::Wrong {}
    court.convicted(before).await?;
    ensure!(court.shown().await? == 1, "the input was shown once");
    liar.stop().await?;
    Ok(bold.stop().await?)
}

/// An honest operator that is made to show its input does, and keeps its stake; who made it loses the bond.
#[tokio::test(flavor = "multi_thread")]
async fn an_honest_operator_shows_a_withheld_input_and_wins() -> Result<()> {
    let court = Court::new().await?;
    let uri = court.server.put("/loan", Manner::Has(applicant()));
    let (hash, size) = said(&applicant());
    let operator = court.operator(false).await?;
    let before = stake(&court.world, &court.liar).await?;
    let id = court.world.ask_by_uri("credit", hash, size, &uri).await?;
    court.world.wait_for(id, RequestStatus::Fulfilled).await?;
    court.server.put("/loan", Manner::Lacks);
    let (bold, mut progress) = start(court.watchers_settings(&court.folder("bold")?, true)?).await?;
    examined(&mut progress, id).await?;
    court.world.pass(WINDOW / 2 + 1).await?;
    while examined(&mut progress, id).await? != Verdict::Right {}
    // Then it says what it has claimed, and it is the watcher's turn, which has nothing to say.
    let deadline = Instant::now() + Duration::from_secs(60);
    while court.events::<IDisputeGame::Claimed>().await? == 0 {
        ensure!(Instant::now() < deadline, "no claim");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(court.shown().await? == 1, "the input was shown once");
    court.world.pass(out_of_time()).await?;
    court.world.wait_for(id, RequestStatus::Finalized).await?;
    ensure!(stake(&court.world, &court.liar).await? == before, "an honest operator was slashed");
    operator.stop().await?;
    Ok(bold.stop().await?)
}

/// A silent operator loses although nobody but it ever had the input.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_keeps_its_input_to_itself_runs_out_of_time() -> Result<()> {
    let mut court = Court::new().await?;
    let uri = court.server.put("/loan", Manner::Has(applicant()));
    let (hash, size) = said(&applicant());
    let operator = court.operator(true).await?;
    let before = stake(&court.world, &court.liar).await?;
    let id = court.world.ask_by_uri("credit", hash, size, &uri).await?;
    court.world.wait_for(id, RequestStatus::Fulfilled).await?;
    operator.stop().await?;
    court.server.put("/loan", Manner::Lacks);
    let (bold, mut progress) = start(court.watchers_settings(&court.folder("bold")?, true)?).await?;
    examined(&mut progress, id).await?;
    court.world.pass(WINDOW / 2 + 1).await?;
    court.world.wait_for(id, RequestStatus::Disputed).await?;
    court.world.pass(out_of_time()).await?;
    court.convicted(before).await?;
    ensure!(court.shown().await? == 0, "nobody showed it");
    let again = court.world.client.requested(id, 0).await?.context("no request")?;
    ensure!(Request::unpack(&again.request)?.attempt == 1, "{again:?}");
    ensure!(again.input == Input::Uri { uri, size }, "where it is said to be is still known: {again:?}");

    // Somebody who has read nothing from before that answers: where the input is was said long ago.
    court.server.put("/loan", Manner::Has(applicant()));
    let honest = court.world.operator(ether(5)).await?;
    let mut settings = court.world.settings(&court.folder("honest")?, Some(&honest));
    let rejected = court.world.logs::<IInferenceOracle::ResultRejected>(id).await?;
    settings.start_block = rejected.first().and_then(|log| log.block_number).context("not rejected")?;
    let (relayer, _) = start(settings).await?;
    ensure!(answer(&court.world, id).await? == court.world.right_answer("credit", &applicant())?, "another lie");
    relayer.stop().await?;
    Ok(bold.stop().await?)
}

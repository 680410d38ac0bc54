//! Several processes of one operator on one Postgres queue: each request answered once, whoever dies in the middle of it.

use alloy::{
    primitives::U256,
    providers::{Provider, ext::AnvilApi},
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    pipeline,
    postgres::Postgres,
    store::{Store, StoreLocation},
};
use candor_sdk::{
    bindings::{IInferenceOracle, RequestStatus},
    ids::RequestId,
};
use candor_tests::{
    Operator, RelayerProcess, Slow, World,
    process::PAYOUT,
    scene::in_flight,
    world::{PRICE, WINDOW, applicant, ether, image},
};
use reqwest::Url;
use std::{os::unix::process::ExitStatusExt, sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

const SIGKILL: i32 = 9;

/// A server, and a database in it; none where Postgres is not installed, which is said.
fn queue(test: &str) -> Result<Option<(Arc<Postgres>, Url)>> {
    let Some(server) = Postgres::for_test(test) else { return Ok(None) };
    let url = server.database()?;
    Ok(Some((server, url)))
}

fn process(
    folder: &std::path::Path,
    world: &World,
    operator: &Operator,
    url: &Url,
    crash: Option<&str>,
) -> Result<RelayerProcess> {
    RelayerProcess::start_with(
        folder,
        world,
        &world.rpc_url(),
        operator,
        crash,
        &[("store.url", url.as_str()), ("store.lease", "2s")],
    )
}

async fn settled_once(world: &World, asked: &[RequestId], logs: impl Fn() -> String) -> Result<()> {
    for id in asked {
        world.wait_for(*id, RequestStatus::Fulfilled).await.with_context(&logs)?;
    }
    world.pass(WINDOW).await?;
    for id in asked {
        world.wait_for(*id, RequestStatus::Finalized).await.with_context(&logs)?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(*id).await?, 1, "answered once");
        assert_eq!(world.count::<IInferenceOracle::Finalized>(*id).await?, 1, "settled once");
    }
    let earned = U256::from(asked.len()) * U256::from(PRICE);
    world.wait_for_balance(PAYOUT, earned).await.with_context(&logs)?;
    assert_eq!(world.oracle_balance().await?, U256::ZERO, "nothing is left and nothing is missing");
    Ok(())
}

/// The first of two dies at `place`, the submitter that it is; the second, which started later, does the rest.
async fn taken_over_from(place: &str) -> Result<()> {
    let Some((_server, url)) = queue(place)? else { return Ok(()) };
    let mut world = World::start().await?;
    let operator = world.operator(ether(5)).await?;
    let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut asked = vec![world.ask("credit", &applicant()).await?, world.ask("digits", &image()).await?];
    let mut first = process(one.path(), &world, &operator, &url, Some(place))?;
    let status = first.ended(Duration::from_secs(60)).await?;
    assert_eq!(status.signal(), Some(SIGKILL), "it did not die at {place}:\n{}", first.log());
    let second = process(two.path(), &world, &operator, &url, None)?;
    asked.push(world.ask("credit", &applicant()).await?);
    settled_once(&world, &asked, || second.log()).await?;
    let failed = world.failed_transactions(operator.address()).await?;
    assert!(failed.is_empty(), "{place}: transactions that reverted: {failed:?}");
    second.kill().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_mid_inference_costs_nothing_but_time() -> Result<()> {
    taken_over_from("inferred-unstored").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_killed_before_it_sends_is_replaced_and_its_transaction_sent() -> Result<()> {
    taken_over_from("fulfill-stored").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_killed_after_it_sent_is_replaced_and_nothing_is_sent_twice() -> Result<()> {
    taken_over_from("fulfill-sent").await
}

/// Three processes; now one, now another is killed and started again, the submitter among them.
#[tokio::test(flavor = "multi_thread")]
async fn any_of_several_can_die_at_any_time() -> Result<()> {
    let Some((_server, url)) = queue("any_of_several_can_die_at_any_time")? else { return Ok(()) };
    let mut world = World::start().await?;
    let operator = world.operator(ether(50)).await?;
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
    let start = |at: usize| process(folders[at].path(), &world, &operator, &url, None);
    let mut running = vec![start(0)?, start(1)?, start(2)?];
    let mut asked = Vec::new();
    for round in 0..6usize {
        for _ in 0..5 {
            asked.push(world.ask("credit", &applicant()).await?);
        }
        tokio::time::sleep(Duration::from_millis(70 * round as u64)).await;
        let victim = round % 3;
        let fresh = start(victim)?;
        std::mem::replace(&mut running[victim], fresh).kill().await?;
    }
    settled_once(&world, &asked, || running.iter().map(RelayerProcess::log).collect()).await?;
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    for relayer in running {
        relayer.kill().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_work_and_hand_over_when_they_stop() -> Result<()> {
    let Some((_server, url)) = queue("workers_share_the_work")? else { return Ok(()) };
    let mut world = World::start().await?;
    let operator = world.operator(ether(50)).await?;
    let folder = tempfile::tempdir()?;
    let mut asked = Vec::new();
    for _ in 0..150 {
        asked.push(world.ask("credit", &applicant()).await?);
    }
    // Two folders of locks, as on two machines.
    let start = async |name: &str| {
        let mut settings = world.settings(folder.path(), Some(&operator));
        settings.store = StoreLocation::Postgres(Box::new(url.clone()));
        Slow::down(&mut settings, Duration::ZERO, Duration::from_millis(10));
        settings.locks = folder.path().join(name);
        std::fs::create_dir_all(&settings.locks)?;
        anyhow::Ok(pipeline::spawn(settings, broadcast::channel(16).0, CancellationToken::new()).await?)
    };
    let (one, two, three) = (start("one").await?, start("two").await?, start("three").await?);
    let looking = Store::open_read_only(StoreLocation::Postgres(Box::new(url))).await?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let busy = loop {
        let workers = looking.workers().await?;
        if workers.iter().filter(|worker| worker.claimed > 0).count() > 1 {
            break workers;
        }
        anyhow::ensure!(Instant::now() < deadline, "one worker does it all: {workers:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(busy.iter().filter(|worker| worker.submitter).count(), 1, "{busy:?}");
    // The submitter stops politely: another takes over without waiting for the lease.
    assert!(busy.iter().any(|worker| worker.submitter && worker.name == one.store.member()));
    one.stop().await?;
    for id in &asked {
        world.wait_for(*id, RequestStatus::Fulfilled).await?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(*id).await?, 1);
    }
    let workers = looking.workers().await?;
    assert_eq!(workers.len(), 2, "whoever left is not listed: {workers:?}");
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    two.stop().await?;
    Ok(three.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_gone_for_a_while_and_the_relayer_goes_on() -> Result<()> {
    let Ok(server) = Postgres::start() else {
        assert!(Postgres::for_test("the_database_is_gone_for_a_while_and_the_relayer_goes_on").is_none());
        return Ok(());
    };
    let url = server.database()?;
    let mut world = World::start().await?;
    let operator = world.operator(ether(5)).await?;
    let folder = tempfile::tempdir()?;
    let relayer = process(folder.path(), &world, &operator, &url, None)?;
    let mut asked = vec![world.ask("credit", &applicant()).await?];
    world.wait_for(asked[0], RequestStatus::Fulfilled).await.with_context(|| relayer.log())?;
    server.down();
    asked.push(world.ask("digits", &image()).await?);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.client.status(asked[1]).await?.0, RequestStatus::Requested, "nothing is sent that is not stored");
    server.up()?;
    settled_once(&world, &asked, || relayer.log()).await?;
    assert!(
        relayer.log().contains("relayer started") && relayer.log().matches("relayer started").count() == 1,
        "the same process"
    );
    assert_eq!(world.client.provider().get_balance(PAYOUT).await?, U256::from(2 * PRICE));
    relayer.kill().await
}

/// It is away when the relayer starts, which says so and waits as it does for a node; and stops at once when it is asked to.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_at_start_is_waited_for() -> Result<()> {
    let Ok(server) = Postgres::start() else {
        assert!(Postgres::for_test("a_database_that_is_away_at_start_is_waited_for").is_none());
        return Ok(());
    };
    let url = server.database()?;
    let mut world = World::start().await?;
    let operator = world.operator(ether(5)).await?;
    let folder = tempfile::tempdir()?;
    server.down();
    let waits = async |relayer: &RelayerProcess| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !relayer.log().contains("the database can't be opened") {
            ensure!(Instant::now() < deadline, "it does not say so: {}", relayer.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!relayer.log().contains("pool timed out"), "that says nothing: {}", relayer.log());
        Ok(())
    };
    let mut stopped = process(folder.path(), &world, &operator, &url, None)?;
    waits(&stopped).await?;
    stopped.ask_to_stop()?;
    ensure!(stopped.ended(Duration::from_secs(20)).await?.success(), "{}", stopped.log());
    let relayer = process(folder.path(), &world, &operator, &url, None)?;
    waits(&relayer).await?;
    let asked = [world.ask("credit", &applicant()).await?];
    server.up()?;
    settled_once(&world, &asked, || relayer.log()).await?;
    relayer.kill().await
}

/// The transaction is mined while nobody can write that down.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_gone_while_a_transaction_is_in_flight() -> Result<()> {
    let Ok(server) = Postgres::start() else {
        assert!(Postgres::for_test("the_database_is_gone_while_a_transaction_is_in_flight").is_none());
        return Ok(());
    };
    let url = server.database()?;
    let mut world = World::start().await?;
    let operator = world.operator(ether(5)).await?;
    let folder = tempfile::tempdir()?;
    let asked = [world.ask("credit", &applicant()).await?];
    let provider = world.client.provider();
    provider.anvil_set_auto_mine(false).await?;
    let relayer = process(folder.path(), &world, &operator, &url, None)?;
    let looking = async {
        loop {
            // Until the relayer has made its tables there is nothing to open.
            if let Ok(store) = Store::open_read_only(StoreLocation::Postgres(Box::new(url.clone()))).await {
                break store;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let store = tokio::time::timeout(Duration::from_secs(30), looking).await.with_context(|| relayer.log())?;
    in_flight(&store, |_| true).await.with_context(|| relayer.log())?;
    server.down();
    provider.anvil_set_auto_mine(true).await?;
    provider.anvil_mine(Some(1), None).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.up()?;
    settled_once(&world, &asked, || relayer.log()).await?;
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    assert_eq!(relayer.log().matches("relayer started").count(), 1, "the same process");
    relayer.kill().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relayers_with_one_key_the_second_refuses() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let (folder, one, two) = (tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?);
    let mut settings = world.settings(one.path(), Some(&operator));
    settings.locks = folder.path().to_owned();
    let first = pipeline::spawn(settings.clone(), broadcast::channel(16).0, CancellationToken::new()).await?;
    // Another database, the same key.
    let mut other = settings.clone();
    other.store = two.path().join("candor.db").into();
    let refused = pipeline::spawn(other.clone(), broadcast::channel(16).0, CancellationToken::new()).await;
    let error = refused.err().context("two relayers with one key")?.to_string();
    assert!(error.contains("one relayer for a key") && error.contains(&operator.address().to_string()), "{error}");
    first.stop().await?;
    let again = pipeline::spawn(other, broadcast::channel(16).0, CancellationToken::new()).await?;
    Ok(again.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_answers_on_two_chains() -> Result<()> {
    let (mut here, mut there) = (World::start_on(31337).await?, World::start_on(31338).await?);
    let operator = here.operator(ether(2)).await?;
    assert_eq!(there.operator(ether(2)).await?.address(), operator.address(), "the same key on both");
    let folder = tempfile::tempdir()?;
    let relayer = RelayerProcess::start_for_two(folder.path(), [&here, &there], &operator)?;
    for world in [&here, &there] {
        let asked = [world.ask("credit", &applicant()).await?, world.ask("digits", &image()).await?];
        settled_once(world, &asked, || relayer.log()).await?;
    }
    relayer.kill().await
}

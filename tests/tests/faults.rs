//! Endpoints that misbehave, and a chain that changes its mind at every stage and depth: each request is answered once, settled once, paid for once.

use alloy::{
    primitives::U256,
    providers::{Provider, ext::AnvilApi},
};
use anyhow::{Context, Result};
use candor_relayer::{pipeline, store::Step};
use candor_sdk::bindings::{IInferenceOracle, RequestStatus};
use candor_tests::{
    Fault, FaultyEndpoint, World,
    world::{PRICE, WINDOW, applicant, ether, image},
};
use std::time::Duration;

/// Asks while the only endpoint misbehaves, one question in `every`.
async fn survives(mut world: World, fault: Fault, every: usize) -> Result<()> {
    let operator = world.operator(ether(2)).await?;
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), fault, every).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.rpc_urls = vec![endpoint.url.clone()];
    let relayer = pipeline::spawn(settings, tokio::sync::broadcast::channel(64).0, Default::default()).await?;
    let mut asked = Vec::new();
    for (model, input) in [("credit", applicant()), ("digits", image()), ("credit", applicant())] {
        asked.push((world.ask(model, &input).await?, model, input));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (id, ..) in &asked {
        world.wait_for(*id, RequestStatus::Fulfilled).await?;
    }
    world.pass(WINDOW).await?;
    for (id, model, input) in &asked {
        world.wait_for(*id, RequestStatus::Finalized).await?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(*id).await?, 1, "answered once");
        assert_eq!(world.count::<IInferenceOracle::Finalized>(*id).await?, 1, "settled once");
        let (result, _) = world.client.fulfilled(*id, 0).await?.context("no result")?;
        assert_eq!(result.output.to_vec(), world.right_answer(model, input)?);
    }
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(3 * PRICE), "paid for each once");
    assert!(world.failed_transactions(operator.address()).await?.is_empty(), "nothing was sent in vain");
    let (stake, _, locked) = world.client.stake(operator.address()).await?;
    assert_eq!((stake, locked), (ether(2), U256::ZERO), "nothing of the stake is lost or locked");
    assert!(endpoint.faults() > 0, "nothing went wrong");
    Ok(relayer.stop().await?)
}

macro_rules! faults {
    ($($test:ident: $fault:expr, one in $every:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> Result<()> {
                survives(World::start().await?, $fault, $every).await
            }
        )*
    };
}

faults! {
    questions_that_get_lost: Fault::DropQuestion, one in 4;
    answers_that_get_lost: Fault::DropAnswer, one in 4;
    answers_that_take_their_time: Fault::Delay(Duration::from_millis(400)), one in 4;
    questions_that_arrive_twice: Fault::Duplicate, one in 2;
    questions_out_of_order: Fault::Reorder, one in 3;
    answers_that_are_cut_short: Fault::Truncate, one in 4;
    an_endpoint_with_rate_limits: Fault::TooManyRequests, one in 3;
    an_endpoint_with_error_pages: Fault::ServerError, one in 3;
    an_endpoint_whose_newest_block_is_old: Fault::StaleHead, one in 2;
    an_endpoint_that_shows_no_events: Fault::EmptyLogs, one in 2;
}

/// The reserve turns out to be on another chain: it is left alone, and the first is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_on_the_wrong_chain_is_never_used() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let (first, wrong) = (
        candor_tests::Proxy::start(&world.rpc_url()).await?,
        FaultyEndpoint::start(&world.rpc_url(), Fault::WrongChain, 1).await?,
    );
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.rpc_urls = vec![first.url.clone(), wrong.url.clone()];
    let channel = || tokio::sync::broadcast::channel(64).0;
    let refused = pipeline::spawn(settings.clone(), channel(), Default::default()).await.err().context("it started")?;
    assert!(refused.to_string().contains("is on chain 1, the configuration says chain 31337"), "{refused}");

    // Down when the relayer starts, so that what it is shows only later.
    let down = candor_tests::Proxy::start(&wrong.url).await?;
    down.cut();
    settings.rpc_urls = vec![first.url.clone(), down.url.clone()];
    let relayer = pipeline::spawn(settings, channel(), Default::default()).await?;
    first.cut();
    down.mend();
    let id = world.ask("credit", &applicant()).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Requested);
    assert!(wrong.faults() > 0, "nobody asked it which chain it is on");
    first.mend();
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    Ok(relayer.stop().await?)
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Posted,
    Final,
}

/// The chain takes back `depth` blocks, the first of them the one in which the request was asked; another is asked in its place. Nobody answers before that.
async fn request_taken_back(depth: u64) -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let provider = world.client.provider();
    // Everything is done but the sending.
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.gas.max_fee_per_gas = 1;
    let waiting = pipeline::spawn(settings, tokio::sync::broadcast::channel(64).0, Default::default()).await?;
    let first = world.ask("digits", &image()).await?;
    provider.anvil_mine(Some(depth - 1), None).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while waiting.store.request(first).await?.is_none_or(|row| row.step != Step::Signed) {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "never signed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    provider.anvil_rollback(Some(depth)).await?;
    waiting.stop().await?;
    assert_eq!(world.client.request_count().await?, 0, "it never was");
    let second = world.ask("credit", &applicant()).await?;
    assert_eq!(first, second, "the same number, another request");
    // The new branch is soon longer than the old one.
    provider.anvil_mine(Some(depth + 2), None).await?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    let output = world.settle(second).await?;
    assert_eq!(output.to_vec(), world.right_answer("credit", &applicant())?);
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE));
    Ok(relayer.stop().await?)
}

/// The chain takes back `depth` blocks; the first of them is the one in which the request was answered, or made final.
async fn reorganised(mut world: World, stage: Stage, depth: u64) -> Result<()> {
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let provider = world.client.provider();
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    let store = relayer.store.clone();
    let bury = async || -> Result<()> {
        let block = provider.get_block_number().await?;
        provider.anvil_mine(Some(depth - 1), None).await?;
        // Read, or it would be no reorganisation for the relayer.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while store.next_block().await? < block + depth && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        provider.anvil_rollback(Some(depth)).await?;
        // The new branch is soon longer than the old one.
        provider.anvil_mine(Some(depth + 2), None).await?;
        Ok(())
    };
    let mut id = world.ask("credit", &applicant()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    if stage == Stage::Final {
        world.pass(WINDOW).await?;
        world.wait_for(id, RequestStatus::Finalized).await?;
    }
    bury().await?;
    if stage == Stage::Posted {
        world.wait_for(id, RequestStatus::Fulfilled).await?;
        world.pass(WINDOW).await?;
    } else {
        world.pass(1).await?;
    }
    world.wait_for(id, RequestStatus::Finalized).await?;
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1, "answered once");
    assert_eq!(world.count::<IInferenceOracle::Finalized>(id).await?, 1, "settled once");
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE), "paid once");
    // And it goes on.
    id = world.ask("credit", &applicant()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    Ok(relayer.stop().await?)
}

macro_rules! reorganisations {
    ($($test:ident: $replay:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> Result<()> {
                $replay.await
            }
        )*
    };
}

reorganisations! {
    a_request_taken_back_1_deep: request_taken_back(1);
    a_request_taken_back_5_deep: request_taken_back(5);
    a_request_taken_back_20_deep: request_taken_back(20);
    a_result_taken_back_1_deep: reorganised(World::start().await?, Stage::Posted, 1);
    a_result_taken_back_5_deep: reorganised(World::start().await?, Stage::Posted, 5);
    a_result_taken_back_20_deep: reorganised(World::start().await?, Stage::Posted, 20);
    a_settlement_taken_back_1_deep: reorganised(World::start().await?, Stage::Final, 1);
    a_settlement_taken_back_5_deep: reorganised(World::start().await?, Stage::Final, 5);
    a_settlement_taken_back_20_deep: reorganised(World::start().await?, Stage::Final, 20);
}

/// The database is the same to all of this; two of them, for that to stay so. All of them with `CANDOR_TEST_STORE=postgres`.
#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_answers_that_get_lost() -> Result<()> {
    let Some(world) = World::start_on_postgres("on_postgres_answers_that_get_lost").await? else { return Ok(()) };
    survives(world, Fault::DropAnswer, 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_a_settlement_taken_back_5_deep() -> Result<()> {
    let test = "on_postgres_a_settlement_taken_back_5_deep";
    let Some(world) = World::start_on_postgres(test).await? else { return Ok(()) };
    reorganised(world, Stage::Final, 5).await
}

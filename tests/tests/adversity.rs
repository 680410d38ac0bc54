//! Everything that is not the honest loop on a good day: endpoints that go away, other operators, consumers that misbehave, deadlines, bad input.

use alloy::primitives::{Address, U256};
use anyhow::{Context, Result};
use candor_relayer::pipeline::{self, Progress, RelayerError};
use candor_sdk::{
    bindings::{CallbackStatus, Delivery, IInferenceOracle, RequestStatus},
    client::{ClientError, Revert},
};
use candor_tests::{
    Ask, Proxy, World,
    puppet::Callback,
    world::{EXCLUSIVE, PRICE, TIMEOUT, WINDOW, applicant, ether, image},
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn rpc_gone_for_ten_seconds() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let proxy = Proxy::start(&world.rpc_url()).await?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.rpc_urls = vec![proxy.url.clone()];
    let reporter = tokio::sync::broadcast::channel(64).0;
    let relayer = pipeline::spawn(settings, reporter, CancellationToken::new()).await?;

    let before = world.ask("credit", &applicant()).await?;
    world.wait_for(before, RequestStatus::Fulfilled).await?;
    proxy.cut();
    let during = world.ask("digits", &image()).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.client.status(during).await?.0, RequestStatus::Requested, "nobody could have answered");
    proxy.mend();
    world.wait_for(during, RequestStatus::Fulfilled).await?;
    world.pass(WINDOW).await?;
    for id in [before, during] {
        world.wait_for(id, RequestStatus::Finalized).await?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    }
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn rpc_down_at_start() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let proxy = Proxy::start(&world.rpc_url()).await?;
    proxy.cut();
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.rpc_urls = vec![proxy.url.clone()];
    let starting =
        tokio::spawn(pipeline::spawn(settings, tokio::sync::broadcast::channel(64).0, CancellationToken::new()));
    let id = world.ask("credit", &applicant()).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!starting.is_finished(), "it waits for the endpoint");
    proxy.mend();
    let relayer = starting.await??;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_share_the_work_and_answer_nothing_twice() -> Result<()> {
    let mut world = World::start().await?;
    let operators = [world.operator(ether(5)).await?, world.operator(ether(5)).await?];
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let (one, _) = world.relayer(folders[0].path(), Some(&operators[0])).await?;
    let (two, _) = world.relayer(folders[1].path(), Some(&operators[1])).await?;
    let mut asked = Vec::new();
    for _ in 0..20 {
        asked.push(world.ask("credit", &applicant()).await?);
    }
    for id in &asked {
        world.wait_for(*id, RequestStatus::Fulfilled).await?;
    }
    world.pass(WINDOW).await?;
    let mut by_operator = [0, 0];
    for id in &asked {
        world.wait_for(*id, RequestStatus::Finalized).await?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(*id).await?, 1);
        let drawn = world.client.requested(*id, 0).await?.context("no request")?.operator;
        let answered = world.client.fulfilled(*id, 0).await?.context("no result")?.0.operator;
        assert_eq!(answered, drawn, "who is drawn answers");
        by_operator[usize::from(answered == operators[1].address())] += 1;
    }
    assert!(by_operator.iter().all(|count| *count > 0), "20 draws all fell on one operator: {by_operator:?}");
    for (operator, count) in operators.iter().zip(by_operator) {
        assert_eq!(world.client.credit(operator.address()).await?, U256::from(count) * U256::from(PRICE));
    }
    one.stop().await?;
    Ok(two.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_operator_answers_when_the_one_drawn_is_silent() -> Result<()> {
    let mut world = World::start().await?;
    let silent = world.operator(ether(2)).await?;
    let id = world.ask("credit", &applicant()).await?;
    let awake = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&awake)).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Requested, "the first minutes are the other's");
    world.pass(EXCLUSIVE).await?;
    world.settle(id).await?;
    assert_eq!(world.client.credit(awake.address()).await?, U256::from(PRICE));
    assert_eq!(world.client.credit(silent.address()).await?, U256::ZERO);
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_misbehave_hold_nothing_up() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(5)).await?;
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    let mut asked = Vec::new();
    for callback in [Callback::Revert, Callback::BurnGas, Callback::ReturnBomb, Callback::Reenter] {
        for delivery in [Delivery::Optimistic, Delivery::Final] {
            let ask = Ask { model: world.models["credit"].id(), input: applicant(), delivery, callback_gas: 100_000 };
            asked.push(world.ask_by_puppet(&ask, callback).await?);
        }
    }
    for (id, _) in &asked {
        world.wait_for(*id, RequestStatus::Fulfilled).await?;
    }
    world.pass(WINDOW).await?;
    for (id, _) in &asked {
        assert_eq!(world.wait_for(*id, RequestStatus::Finalized).await?, CallbackStatus::Failed);
    }
    let mut credits = world.client.credit(operator.address()).await?;
    for (_, consumer) in &asked {
        credits += world.client.credit(*consumer).await?;
    }
    assert_eq!(world.oracle_balance().await?, credits, "every wei in the oracle is somebody's credit");
    assert!(world.client.credit(operator.address()).await? >= U256::from(8 * PRICE), "every answer was paid");
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn refund_after_the_deadline() -> Result<()> {
    let mut world = World::start().await?;
    world.operator(ether(2)).await?;
    let ask =
        Ask { model: world.models["credit"].id(), input: applicant(), delivery: Delivery::Final, callback_gas: 50_000 };
    let (_, paid) = world.args(&ask);
    let (id, consumer) = world.ask_by_puppet(&ask, Callback::Accept).await?;
    let request = world.client.requested(id, 0).await?.context("no request")?.request;
    let request = candor_sdk::request::Request::unpack(&request)?;
    let early = world.client.send(world.client.cancel(&request)).await;
    assert!(matches!(early, Err(ClientError::Reverted(Revert::Oracle(_)))), "{early:?}");
    world.pass(u64::from(TIMEOUT) + 1).await?;
    world.client.send(world.client.cancel(&request)).await?;
    world.wait_for(id, RequestStatus::Cancelled).await?;
    assert_eq!(world.client.credit(consumer).await?, paid, "all of it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_request_is_dropped_and_the_relayer_goes_on() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let expired = world.ask("credit", &applicant()).await?;
    world.pass(u64::from(TIMEOUT) + 1).await?;
    let folder = tempfile::tempdir()?;
    let (relayer, mut progress) = world.relayer(folder.path(), Some(&operator)).await?;
    let id = world.ask("credit", &applicant()).await?;
    world.settle(id).await?;
    let mut reasons = Vec::new();
    while let Ok(event) = progress.try_recv() {
        if let Progress::Dropped { id, reason } = event {
            reasons.push((id, reason));
        }
    }
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].0 == expired && reasons[0].1.contains("expired"), "{reasons:?}");
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_with_a_reason() -> Result<()> {
    let mut world = World::start().await?;
    world.operator(ether(2)).await?;
    let good =
        Ask { model: world.models["credit"].id(), input: applicant(), delivery: Delivery::Final, callback_gas: 0 };
    let refusal = |result: Result<_, ClientError>| match result {
        Err(ClientError::Reverted(reason)) => reason.to_string(),
        other => {
            panic!("expected a refusal, got {:?}", other.map(|_: alloy::rpc::types::TransactionReceipt| "success"))
        }
    };
    let client = &world.client;

    let (mut args, value) = world.args(&good);
    args.modelId = alloy::primitives::B256::repeat_byte(0x66);
    let reason = refusal(client.send(client.request(args, value)).await);
    assert!(reason.contains("0x6666") && reason.contains("not registered"), "{reason}");

    let (mut args, value) = world.args(&good);
    args.input = vec![0; 81].into();
    let reason = refusal(client.send(client.request(args, value)).await);
    assert_eq!(reason, "input of 81 bytes, the model takes 80 to 80");

    let (mut args, value) = world.args(&good);
    args.maxFee = alloy::primitives::aliases::U96::from(PRICE - 1);
    let reason = refusal(client.send(client.request(args, value)).await);
    assert_eq!(reason, format!("{} wei offered, the cheapest operator asks {PRICE} wei", PRICE - 1));

    let (args, value) = world.args(&good);
    let reason = refusal(client.send(client.request(args, value - U256::from(1))).await);
    assert_eq!(reason, format!("{} wei given and in credit, {PRICE} wei needed", PRICE - 1));

    let (mut args, value) = world.args(&good);
    args.timeout = 5;
    let reason = refusal(client.send(client.request(args, value)).await);
    assert_eq!(reason, "a timeout of 5 s; the oracle takes 300 to 86400 s");
    assert_eq!(client.request_count().await?, 0, "none of them was taken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_can_not_work_are_refused_at_start() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let stranger = candor_tests::Operator { key: world.account().await? };
    let folder = tempfile::tempdir()?;
    let good = world.settings(folder.path(), Some(&operator));
    let start = |settings| async {
        let result = pipeline::spawn(settings, tokio::sync::broadcast::channel(1).0, CancellationToken::new()).await;
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };

    let mut settings = good.clone();
    settings.chain_id = 1;
    let error = start(settings).await;
    assert!(error.contains("is on chain 31337, the configuration says chain 1"), "{error}");

    let mut settings = good.clone();
    settings.oracle = Address::repeat_byte(0x11);
    let error = start(settings).await;
    assert!(error.contains("no contract at 0x1111111111111111111111111111111111111111"), "{error}");

    let mut settings = good.clone();
    settings.oracle = world.deployment.models;
    let error = start(settings).await;
    assert!(error.contains("does not answer like a Candor contract"), "{error}");

    let error = start(world.settings(folder.path(), Some(&stranger))).await;
    assert!(error.contains("is not registered: run `candor operator join`"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_database_belongs_to_one_relayer_of_one_deployment() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let spawn = |settings| pipeline::spawn(settings, tokio::sync::broadcast::channel(1).0, CancellationToken::new());
    // A file: on Postgres they would share the work.
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.store = folder.path().join("candor.db").into();
    let relayer = spawn(settings.clone()).await?;
    settings.locks = folder.path().join("elsewhere");
    let second = spawn(settings).await;
    let second = second.map(|_| ());
    let error = second.expect_err("two relayers on one database").to_string();
    assert!(error.contains("in use by another relayer"), "{error}");
    relayer.stop().await?;

    let other = World::start().await?;
    let mut settings = other.settings(folder.path(), None);
    settings.store = folder.path().join("candor.db").into();
    if other.client.oracle != world.client.oracle {
        assert!(matches!(spawn(settings).await, Err(RelayerError::Store(_))));
    }

    let path = folder.path().join("not-a-database.db");
    std::fs::write(&path, "this is a text file, and not a short one either")?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.store = path.into();
    let error = spawn(settings).await.err();
    assert!(error.is_some_and(|error| error.to_string().contains("not-a-database.db")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_free_stake_waits_and_goes_on_when_some_is_free() -> Result<()> {
    let mut world = World::start().await?;
    // A result locks a tenth of an ether: ten results fit into the stake.
    let operator = world.operator(ether(1)).await?;
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    let mut asked = Vec::new();
    for _ in 0..12 {
        asked.push(world.ask("credit", &applicant()).await?);
    }
    for id in &asked[..10] {
        world.wait_for(*id, RequestStatus::Fulfilled).await?;
    }
    let (_, _, locked) = world.client.stake(operator.address()).await?;
    assert_eq!(locked, ether(1));
    world.pass(WINDOW).await?;
    for id in &asked[10..] {
        world.wait_for(*id, RequestStatus::Fulfilled).await?;
    }
    Ok(relayer.stop().await?)
}

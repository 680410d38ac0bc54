//! What happened to operators of other relayers, replayed here. `docs/reliability.md` says which incident is which test.

use alloy::{
    consensus::TxEnvelope,
    eips::eip2718::Decodable2718,
    primitives::{TxKind, U256},
    providers::{Provider, ext::AnvilApi},
};
use anyhow::{Context, Result};
use candor_relayer::store::{Purpose, SentTransaction, Step, StoreLocation};
use candor_sdk::bindings::{Delivery, IInferenceOracle, RequestStatus};
use candor_tests::{
    Ask, Fault, FaultyEndpoint, Proxy, Scene, Slow,
    scene::{Stuck, in_flight},
    world::{PRICE, TIMEOUT, applicant, ether, image, request_id},
};
use std::time::Duration;
use tokio::time::Instant;

/// Boundless #547: "failed", and it had landed; the operator was slashed for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_reported_as_failed_that_landed_is_not_sent_again() -> Result<()> {
    let scene = Scene::new().await?;
    let Scene { world, operator, .. } = &scene;
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), Fault::DenySent, 1).await?;
    let mut settings = scene.settings();
    settings.rpc_urls = vec![endpoint.url.clone()];
    let before = world.client.provider().get_transaction_count(operator.address()).await?;
    let relayer = scene.start(settings).await?;
    let id = world.ask("credit", &applicant()).await?;
    world.settle(id).await?;
    assert!(endpoint.faults() >= 2, "it denied that anything was sent");
    let sent = world.client.provider().get_transaction_count(operator.address()).await? - before;
    assert_eq!(sent, 2, "one to post it, one to settle it");
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE));
    Ok(relayer.stop().await?)
}

/// Nodes forget transactions, too: a restart, a full pool, a price that was too low for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_nodes_forgot_is_sent_again() -> Result<()> {
    let scene = Scene::new().await?;
    let world = &scene.world;
    let provider = world.client.provider();
    let Stuck { id, relayer, sent } = scene.stuck(scene.settings()).await?;
    // In the pool, and then not.
    let deadline = Instant::now() + Duration::from_secs(30);
    while provider.anvil_drop_transaction(sent.hash).await?.is_none() {
        anyhow::ensure!(Instant::now() < deadline, "it never arrived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    provider.anvil_set_auto_mine(true).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    let (_, transaction) = world.client.fulfilled(id, 0).await?.context("no result")?;
    assert_eq!(transaction, sent.hash, "the very same");
    Ok(relayer.stop().await?)
}

/// Boundless #1280 and Pyth #2868: the nonce went to something else.
#[tokio::test(flavor = "multi_thread")]
async fn another_program_takes_the_nonce_and_the_result_is_posted_all_the_same() -> Result<()> {
    let scene = Scene::new().await?;
    let Scene { world, operator, .. } = &scene;
    let Stuck { id, relayer, sent } = scene.stuck(scene.settings()).await?;
    scene.take_nonce(&sent).await?;
    world.client.provider().anvil_set_auto_mine(true).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    Ok(relayer.stop().await?)
}

/// Boundless #1304 and infernet-deploy #6: the node refuses wide ranges, and the relayer starts from an old block.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_is_read_from_a_node_that_shows_little_of_it_at_once() -> Result<()> {
    let scene = Scene::new().await?;
    let world = &scene.world;
    let id = world.ask("credit", &applicant()).await?;
    world.client.provider().anvil_mine(Some(400), None).await?;
    let late = world.ask("digits", &image()).await?;
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), Fault::NarrowRanges(10), 1).await?;
    let mut settings = scene.settings();
    settings.rpc_urls = vec![endpoint.url.clone()];
    let relayer = scene.start(settings).await?;
    for id in [id, late] {
        world.wait_for(id, RequestStatus::Fulfilled).await?;
    }
    assert!(endpoint.faults() > 2, "it refused");
    Ok(relayer.stop().await?)
}

/// Boundless #1304 again: after the history was read in small pieces, requests were tried that others had answered long ago.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_answered_long_ago_is_not_answered_again() -> Result<()> {
    let mut scene = Scene::new().await?;
    let first = scene.start(scene.settings()).await?;
    let mut answered = Vec::new();
    for _ in 0..5 {
        answered.push(scene.world.ask("credit", &applicant()).await?);
        scene.world.client.provider().anvil_mine(Some(15), None).await?;
    }
    for id in &answered {
        scene.world.wait_for(*id, RequestStatus::Fulfilled).await?;
    }
    first.stop().await?;
    let other = scene.world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = scene.world.settings(folder.path(), Some(&other));
    settings.watch.max_block_range = 4;
    let second = scene.start(settings).await?;
    let head = scene.world.client.provider().get_block_number().await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while second.store.next_block().await? <= head {
        anyhow::ensure!(Instant::now() < deadline, "it does not catch up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for id in answered {
        let row = second.store.request(id).await?.context("not stored")?;
        assert_eq!(row.step, Step::Dropped, "{row:?}");
        assert!(row.reason.as_deref().is_some_and(|reason| reason.starts_with("answered by operator")), "{row:?}");
    }
    assert_eq!(
        scene.world.client.provider().get_transaction_count(other.address()).await?,
        4,
        "those with which it joined"
    );
    Ok(second.stop().await?)
}

/// Pyth, twice: a receipt that says "reverted" is no verdict on the request. Here somebody else carried the same answer in the same block.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_reverts_because_its_work_was_done_is_not_tried_again() -> Result<()> {
    let scene = Scene::new().await?;
    let Scene { world, operator, .. } = &scene;
    let provider = world.client.provider();
    let Stuck { id, relayer, sent } = scene.stuck(scene.settings()).await?;
    scene.carried(&relayer.store, id, 1_000_000_000).await?;
    // Both were in that block, the dearer one first; or else this relayer's own comes now.
    provider.anvil_set_next_block_base_fee_per_gas(1_000_000_000).await?;
    provider.anvil_set_auto_mine(true).await?;
    provider.anvil_mine(Some(1), None).await?;
    world.settle(id).await?;
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE), "paid once");
    assert_eq!(world.failed_transactions(operator.address()).await?, [sent.hash], "it reverted, and nothing else did");
    Ok(relayer.stop().await?)
}

/// OpenZeppelin's NOOP: what a stuck transaction was for is done, by somebody else. It is not made dearer and dearer until it reverts.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_transaction_for_which_nothing_is_left_to_do_is_cancelled() -> Result<()> {
    let scene = Scene::new().await?;
    let Scene { world, operator, .. } = &scene;
    let provider = world.client.provider();
    let mut settings = scene.settings();
    settings.gas.bump_after = Duration::from_secs(1);
    settings.gas.max_fee_per_gas = 50_000_000_000;
    let Stuck { id, relayer, sent: stuck } = scene.stuck(settings).await?;
    // Above what the relayer's transaction pays, so that it stays where it is.
    scene.carried(&relayer.store, id, 60_000_000_000).await?;
    let is_cancel = |sent: &SentTransaction| sent.purpose == Purpose::Cancel;
    let sent = in_flight(&relayer.store, |sent| sent.iter().any(is_cancel)).await?;
    let cancel = sent.into_iter().find(is_cancel).context("there is one")?;
    let envelope = TxEnvelope::decode_2718_exact(&cancel.raw)?;
    let transaction = envelope.as_eip1559().context("another kind")?.tx();
    assert_eq!((transaction.nonce, transaction.to), (stuck.nonce, TxKind::Call(operator.address())));
    assert_eq!((transaction.value, transaction.input.len(), transaction.gas_limit), (U256::ZERO, 0, 21_000));
    assert!(cancel.max_fee >= stuck.max_fee + stuck.max_fee / 10, "or nodes refuse it");
    provider.anvil_set_next_block_base_fee_per_gas(1_000_000_000).await?;
    provider.anvil_set_auto_mine(true).await?;
    provider.anvil_mine(Some(1), None).await?;
    world.settle(id).await?;
    assert!(world.failed_transactions(operator.address()).await?.is_empty(), "the first one was never mined");
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE), "the answer was this operator's");
    // The settlement is in a block, and soon written down.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !relayer.store.unresolved().await?.is_empty() {
        anyhow::ensure!(Instant::now() < deadline, "something is in flight for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // And it goes on, with the next nonce.
    let next = world.ask("digits", &image()).await?;
    world.settle(next).await?;
    let sent = provider.get_transaction_count(operator.address()).await?;
    assert_eq!(sent, stuck.nonce + 4, "the cancellation, a settlement, a result, a settlement");
    Ok(relayer.stop().await?)
}

/// Boundless BM-2869: a node that suggests a tip of nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_suggests_no_tip_or_knows_of_none_is_no_obstacle() -> Result<()> {
    for fault in [Fault::NoTip, Fault::TipUnknown] {
        let scene = Scene::new().await?;
        let endpoint = FaultyEndpoint::start(&scene.world.rpc_url(), fault, 1).await?;
        let mut settings = scene.settings();
        settings.rpc_urls = vec![endpoint.url.clone()];
        let relayer = scene.start(settings).await?;
        let id = scene.world.ask("credit", &applicant()).await?;
        scene.world.settle(id).await?;
        assert!(endpoint.faults() >= 2, "nobody asked it");
        relayer.stop().await?;
    }
    Ok(())
}

/// Hyperlane #6862: a spike of the base fee while a transaction is in flight. It is replaced up to the limit, and no further.
#[tokio::test(flavor = "multi_thread")]
async fn a_spike_of_the_base_fee_is_followed_up_to_the_limit_and_waited_out() -> Result<()> {
    let scene = Scene::new().await?;
    let Scene { world, operator, .. } = &scene;
    let provider = world.client.provider();
    let mut settings = scene.settings();
    settings.gas.bump_after = Duration::from_millis(200);
    settings.gas.max_fee_per_gas = 8_000_000_000;
    let limit = settings.gas.max_fee_per_gas;
    let Stuck { id, relayer, .. } = scene.stuck(settings).await?;
    // Far above the limit; no block takes the transaction, whatever it pays.
    provider.anvil_set_next_block_base_fee_per_gas(50_000_000_000).await?;
    provider.anvil_mine(Some(1), None).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let fees: Vec<u128> = relayer.store.unresolved().await?.iter().map(|sent| sent.max_fee).collect();
    assert!(fees.len() > 3 && fees.iter().all(|fee| *fee <= limit), "{fees:?}");
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Requested);
    provider.anvil_set_next_block_base_fee_per_gas(1_000_000_000).await?;
    provider.anvil_mine(Some(1), None).await?;
    provider.anvil_set_auto_mine(true).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    Ok(relayer.stop().await?)
}

/// Boundless's own list of why operators were slashed: work that was taken on and could not be done in time.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_answered_in_time_is_not_begun() -> Result<()> {
    let scene = Scene::new().await?;
    let world = &scene.world;
    let mut settings = scene.settings();
    Slow::down(&mut settings, Duration::from_secs(2), Duration::ZERO);
    let proxy = Proxy::start(&world.rpc_url()).await?;
    settings.rpc_urls = vec![proxy.url.clone()];
    let relayer = scene.start(settings).await?;
    // It learns how slow the model is.
    let first = world.ask("credit", &applicant()).await?;
    world.wait_for(first, RequestStatus::Fulfilled).await?;
    // Asked now, and a moment later there is one second left. The relayer sees no block between.
    let provider = world.client.provider();
    proxy.cut();
    provider.anvil_set_auto_mine(false).await?;
    let ask = world.client.request(
        world
            .args(&Ask {
                model: world.models["credit"].id(),
                input: applicant(),
                delivery: Delivery::Final,
                callback_gas: 0,
            })
            .0,
        U256::from(PRICE),
    );
    let asking = world.client.send_from(world.owner, ask);
    let mining = async {
        while provider.get_transaction_count(world.owner).pending().await?
            == provider.get_transaction_count(world.owner).await?
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        provider.anvil_mine(Some(2), Some(u64::from(TIMEOUT) - 1)).await?;
        Ok::<_, anyhow::Error>(())
    };
    let (receipt, mined) = tokio::join!(asking, mining);
    mined?;
    provider.anvil_set_auto_mine(true).await?;
    proxy.mend();
    let late = request_id(&receipt?)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let row = loop {
        match relayer.store.request(late).await? {
            Some(row) if row.step == Step::Dropped => break row,
            row => anyhow::ensure!(Instant::now() < deadline, "{row:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(row.reason.as_deref().is_some_and(|reason| reason.contains("the deadline is in 1 s")), "{row:?}");
    assert_eq!(row.output, None, "the model did not run for it");
    Ok(relayer.stop().await?)
}

/// chainlink #6699: pending, and nobody can say why.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_says_for_what() -> Result<()> {
    let scene = Scene::new().await?;
    let Scene { world, operator, .. } = &scene;
    let mut settings = scene.settings();
    settings.gas.max_fee_per_gas = 1;
    let relayer = scene.start(settings).await?;
    let id = world.ask("credit", &applicant()).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while relayer.store.request(id).await?.is_none_or(|row| row.step != Step::Signed) {
        anyhow::ensure!(Instant::now() < deadline, "not signed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let config = candor_tests::process::write_config(scene.folder.path(), world, &world.rpc_url())?;
    let why = async |number: u64, more: &[&str]| -> Result<String> {
        let mut command = tokio::process::Command::new(candor_tests::process::candor_binary()?);
        command.arg("why").arg(number.to_string()).arg("--config").arg(&config).args(more);
        if let StoreLocation::Postgres(url) = world.store(scene.folder.path()) {
            command.arg("--set").arg(format!("store.url={url}"));
        }
        let output = command.env("CANDOR_PRIVATE_KEY", operator.key_hex()).output().await?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let text = why(id.0, &["--set", "gas.max_fee_per_gas=1 wei"]).await?;
    assert!(text.contains("request #1: signed") && text.contains("the limit is 1 (gas.max_fee_per_gas)"), "{text}");
    let text = why(99, &[]).await?;
    assert!(text.contains("there is no such request: the oracle has taken 1"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&why(id.0, &["--json"]).await?)?;
    assert_eq!((json["event"].as_str(), json["step"].as_str()), (Some("why"), Some("signed")));
    Ok(relayer.stop().await?)
}

/// optimism #21333: honest, with wrong data. The answer to another input than the request's is a wrong answer, and the stake would pay for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shows_another_input_gets_no_answer_to_it() -> Result<()> {
    let scene = Scene::new().await?;
    let world = &scene.world;
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), Fault::AlteredInput, 1).await?;
    let mut settings = scene.settings();
    settings.rpc_urls = vec![endpoint.url.clone()];
    let relayer = scene.start(settings).await?;
    let id = world.ask("credit", &applicant()).await?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while endpoint.faults() < 4 {
        anyhow::ensure!(Instant::now() < deadline, "nobody reads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(relayer.store.request(id).await?, None, "this is not the request");
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Requested);
    endpoint.heal();
    assert_eq!(world.settle(id).await?.to_vec(), world.right_answer("credit", &applicant())?);
    Ok(relayer.stop().await?)
}

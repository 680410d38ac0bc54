//! What happened to operators of other relayers, replayed here. `docs/reliability.md` says which incident is which test.

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    network::TxSignerSync,
    primitives::{Address, TxKind, U256},
    providers::{Provider, ext::AnvilApi},
};
use anyhow::{Context, Result};
use candor_relayer::{
    pipeline::{self, Infer, InferError, InferRequest},
    store::{SentTransaction, Step, Store},
};
use candor_sdk::bindings::{Delivery, IInferenceOracle, RequestStatus};
use candor_tests::{
    Ask, Fault, FaultyEndpoint, World,
    world::{PRICE, TIMEOUT, applicant, ether, image, request_id},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::Instant};

async fn start(settings: pipeline::Settings) -> Result<pipeline::Handle> {
    Ok(pipeline::spawn(settings, broadcast::channel(1024).0, Default::default()).await?)
}

/// The transaction in flight, once there is one.
async fn in_flight(store: &Store) -> Result<SentTransaction> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(sent) = store.unresolved().await?.pop() {
            return Ok(sent);
        }
        anyhow::ensure!(Instant::now() < deadline, "nothing is sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Boundless #547: "failed", and it had landed; the operator was slashed for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_reported_as_failed_that_landed_is_not_sent_again() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), Fault::DenySent, 1).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.rpc_urls = vec![endpoint.url.clone()];
    let before = world.client.provider().get_transaction_count(operator.address()).await?;
    let relayer = start(settings).await?;
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
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let id = world.ask("credit", &applicant()).await?;
    let provider = world.client.provider();
    provider.anvil_set_auto_mine(false).await?;
    let relayer = start(world.settings(folder.path(), Some(&operator))).await?;
    let sent = in_flight(&relayer.store).await?;
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
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let id = world.ask("credit", &applicant()).await?;
    let provider = world.client.provider();
    provider.anvil_set_auto_mine(false).await?;
    let relayer = start(world.settings(folder.path(), Some(&operator))).await?;
    let sent = in_flight(&relayer.store).await?;
    let mut other = TxEip1559 {
        chain_id: world.client.chain_id,
        nonce: sent.nonce,
        gas_limit: 21_000,
        max_fee_per_gas: sent.max_fee * 3,
        max_priority_fee_per_gas: sent.max_fee * 2,
        to: TxKind::Call(Address::repeat_byte(9)),
        value: U256::from(1),
        ..Default::default()
    };
    let signature = operator.key.sign_transaction_sync(&mut other)?;
    let envelope: TxEnvelope = other.into_signed(signature).into();
    let _sent = provider.send_raw_transaction(&envelope.encoded_2718()).await?;
    provider.anvil_mine(Some(1), None).await?;
    provider.anvil_set_auto_mine(true).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    Ok(relayer.stop().await?)
}

/// Boundless #1304 and infernet-deploy #6: the node refuses wide ranges, and the relayer starts from an old block.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_is_read_from_a_node_that_shows_little_of_it_at_once() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let id = world.ask("credit", &applicant()).await?;
    world.client.provider().anvil_mine(Some(400), None).await?;
    let late = world.ask("digits", &image()).await?;
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), Fault::NarrowRanges(10), 1).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.rpc_urls = vec![endpoint.url.clone()];
    let relayer = start(settings).await?;
    for id in [id, late] {
        world.wait_for(id, RequestStatus::Fulfilled).await?;
    }
    assert!(endpoint.faults() > 2, "it refused");
    Ok(relayer.stop().await?)
}

/// Hyperlane #6862: a spike of the base fee while a transaction is in flight. It is replaced up to the limit, and no further.
#[tokio::test(flavor = "multi_thread")]
async fn a_spike_of_the_base_fee_is_followed_up_to_the_limit_and_waited_out() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let id = world.ask("credit", &applicant()).await?;
    let provider = world.client.provider();
    provider.anvil_set_auto_mine(false).await?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.gas.bump_after = Duration::from_millis(200);
    settings.gas.max_fee_per_gas = 8_000_000_000;
    let limit = settings.gas.max_fee_per_gas;
    let relayer = start(settings).await?;
    in_flight(&relayer.store).await?;
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

/// Takes longer than some have time.
#[derive(Debug)]
struct Slow(Arc<dyn Infer>);

impl Infer for Slow {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        std::thread::sleep(Duration::from_secs(2));
        self.0.infer(batch)
    }

    fn device(&self) -> String {
        self.0.device()
    }
}

/// Boundless's own list of why operators were slashed: work that was taken on and could not be done in time.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_answered_in_time_is_not_begun() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    for served in settings.operator.iter_mut().flat_map(|operator| operator.models.values_mut()) {
        served.model = Arc::new(Slow(served.model.clone()));
    }
    let relayer = start(settings).await?;
    // It learns how slow the model is.
    let first = world.ask("credit", &applicant()).await?;
    world.wait_for(first, RequestStatus::Fulfilled).await?;
    // Asked now, and a moment later there is one second left.
    let provider = world.client.provider();
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
    let pending = provider.send_transaction(ask.into_transaction()).await?;
    // Both at once, so that the relayer sees it only then.
    provider.anvil_mine(Some(2), Some(u64::from(TIMEOUT) - 1)).await?;
    provider.anvil_set_auto_mine(true).await?;
    let late = request_id(&pending.get_receipt().await?)?;
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
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.gas.max_fee_per_gas = 1;
    let relayer = start(settings).await?;
    let id = world.ask("credit", &applicant()).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while relayer.store.request(id).await?.is_none_or(|row| row.step != Step::Signed) {
        anyhow::ensure!(Instant::now() < deadline, "not signed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let config = candor_tests::process::write_config(folder.path(), &world, &world.rpc_url())?;
    let why = async |number: u64, more: &[&str]| -> Result<String> {
        let mut command = tokio::process::Command::new(candor_tests::process::candor_binary()?);
        command.arg("why").arg(number.to_string()).arg("--config").arg(&config).args(more);
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

//! The chain changes its mind, or stands still: reorganisations, stuck transactions, transactions that arrived although the endpoint said no.

use alloy::{
    primitives::U256,
    providers::{Provider, ext::AnvilApi},
    sol_types::SolEvent,
};
use anyhow::{Context, Result};
use candor_sdk::bindings::{IInferenceOracle, RequestStatus};
use candor_tests::{
    Fault, FaultyEndpoint, Operator, Running, World,
    world::{PRICE, WINDOW, applicant, ether, image},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_replaces_a_request_and_the_new_one_is_answered() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let provider = world.client.provider();
    let before = provider.get_block_number().await?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;

    let first = world.ask("credit", &applicant()).await?;
    world.wait_for(first, RequestStatus::Fulfilled).await?;
    // The watcher has read the result by now or will; then the blocks that hold request and result are gone.
    tokio::time::sleep(Duration::from_millis(300)).await;
    provider.anvil_rollback(Some(provider.get_block_number().await? - before)).await?;
    assert_eq!(world.client.request_count().await?, 0, "the request never was");

    let second = world.ask("digits", &image()).await?;
    assert_eq!(first, second, "the same number, another request");
    provider.anvil_mine(Some(5), None).await?;
    let output = world.settle(second).await?;
    assert_eq!(output.to_vec(), world.right_answer("digits", &image())?);
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(second).await?, 1);
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE));
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_drops_a_result_and_it_is_posted_again() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let provider = world.client.provider();
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    let id = world.ask("credit", &applicant()).await?;
    let asked_in = provider.get_block_number().await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    provider.anvil_rollback(Some(provider.get_block_number().await? - asked_in)).await?;
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Requested, "the result is gone");
    provider.anvil_mine(Some(5), None).await?;
    world.settle(id).await?;
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE));
    Ok(relayer.stop().await?)
}

/// A relayer whose endpoint lets the chain take something back at the worst moment; when that has happened.
async fn taken_back(world: &World, operator: &Operator, folder: &Path, fault: Fault, every: usize) -> Result<Caught> {
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), fault, every).await?;
    let mut settings = world.settings(folder, Some(operator));
    settings.rpc_urls = vec![endpoint.url.clone()];
    let relayer = Running::start("relayer", settings).await?;
    Ok(Caught { endpoint, relayer })
}

struct Caught {
    endpoint: FaultyEndpoint,
    relayer: Running,
}

impl Caught {
    async fn happened(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.endpoint.faults() == 0 {
            self.relayer.check()?;
            anyhow::ensure!(Instant::now() < deadline, "nothing was taken back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// What was shown last was of a chain that is gone, and the next question is answered by another one. Nothing of it may stay in the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_taken_back_while_it_is_read_is_posted_again() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let fault = Fault::TakenBack(IInferenceOracle::Fulfilled::SIGNATURE_HASH);
    let caught = taken_back(&world, &operator, folder.path(), fault, 1).await?;
    let id = world.ask("credit", &applicant()).await?;
    caught.happened().await?;
    let output = world.settle(id).await?;
    assert_eq!(output.to_vec(), world.right_answer("credit", &applicant())?);
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE));
    caught.relayer.stop().await
}

/// The nonce of a transaction is counted from one that is in a block, and when it is sent, that one is in none any more: it has to be sent again first, or
/// nothing of this account is ever mined.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_taken_back_while_the_next_is_sent_leaves_no_gap() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let fault = Fault::TakenBackAtSend(IInferenceOracle::Fulfilled::SIGNATURE_HASH);
    let caught = taken_back(&world, &operator, folder.path(), fault, 2).await?;
    let id = world.ask("credit", &applicant()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    world.ask("digits", &image()).await?;
    caught.happened().await?;
    assert_eq!(world.client.request_count().await?, 1, "the second request never was");
    let output = world.settle(id).await?;
    assert_eq!(output.to_vec(), world.right_answer("credit", &applicant())?);
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE));
    caught.relayer.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_transaction_is_replaced_by_a_dearer_one() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.gas.bump_after = Duration::from_millis(300);
    let id = world.ask("credit", &applicant()).await?;
    let provider = world.client.provider();
    provider.anvil_set_auto_mine(false).await?;
    let relayer =
        candor_relayer::pipeline::spawn(settings, tokio::sync::broadcast::channel(64).0, Default::default()).await?;
    let store = relayer.store.clone();
    let replaced = async {
        loop {
            let sent = store.unresolved().await?;
            if sent.len() >= 3 {
                return Ok::<_, anyhow::Error>(sent);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let sent = tokio::time::timeout(Duration::from_secs(30), replaced).await.context("never replaced")??;
    assert!(sent.windows(2).all(|pair| pair[0].nonce == pair[1].nonce), "one nonce");
    assert!(
        sent.windows(2).all(|pair| pair[1].max_fee >= pair[0].max_fee + pair[0].max_fee / 10),
        "each a tenth dearer"
    );
    provider.anvil_set_auto_mine(true).await?;
    provider.anvil_mine(Some(1), None).await?;
    world.settle(id).await?;
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn gas_dearer_than_the_limit_is_waited_for() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let id = world.ask("credit", &applicant()).await?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.gas.max_fee_per_gas = 1;
    let relayer =
        candor_relayer::pipeline::spawn(settings.clone(), tokio::sync::broadcast::channel(64).0, Default::default())
            .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Requested);
    let row = relayer.store.request(id).await?.context("not stored")?;
    assert_eq!(row.step.name(), "signed", "everything but the sending is done");
    relayer.stop().await?;
    settings.gas.max_fee_per_gas = 100_000_000_000;
    let relayer =
        candor_relayer::pipeline::spawn(settings, tokio::sync::broadcast::channel(64).0, Default::default()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    world.pass(WINDOW).await?;
    world.wait_for(id, RequestStatus::Finalized).await?;
    Ok(relayer.stop().await?)
}

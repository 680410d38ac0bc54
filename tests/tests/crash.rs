//! kill -9 between every two steps, and a restart: each request is answered exactly once, settled exactly once, and paid out exactly once.
//!
//! The places are enumerated in `candor_relayer::crash`; a debug build kills itself with SIGKILL when it comes to the one named in
//! `CANDOR_CRASH_AT`. Every place must be reached: the first relayer has to die of it.

use alloy::{primitives::U256, providers::Provider};
use anyhow::{Context, Result};
use candor_relayer::crash::PLACES;
use candor_sdk::bindings::{IInferenceOracle, RequestStatus};
use candor_tests::{
    RelayerProcess, World,
    process::PAYOUT,
    world::{PRICE, WINDOW, applicant, ether, image},
};
use std::{os::unix::process::ExitStatusExt, time::Duration};

const SIGKILL: i32 = 9;

/// Asks two things, has a relayer die at `place`, starts it again, and looks at what the chain has.
async fn survives(place: &str) -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let nonce_before = world.client.provider().get_transaction_count(operator.address()).await?;
    let folder = tempfile::tempdir()?;
    let rpc = world.rpc_url();
    let asked = [world.ask("credit", &applicant()).await?, world.ask("digits", &image()).await?];
    let dies_after_posting = place.starts_with("finalize") || place.starts_with("payout");

    let mut first = RelayerProcess::start(folder.path(), &world, &rpc, &operator, Some(place))?;
    if dies_after_posting {
        for id in asked {
            world.wait_for(id, RequestStatus::Fulfilled).await.with_context(|| first.log())?;
        }
        world.pass(WINDOW).await?;
    }
    let status = first.ended(Duration::from_secs(60)).await?;
    assert_eq!(status.signal(), Some(SIGKILL), "the relayer did not die at {place}:\n{}", first.log());

    let second = RelayerProcess::start(folder.path(), &world, &rpc, &operator, None)?;
    if !dies_after_posting {
        for id in asked {
            world.wait_for(id, RequestStatus::Fulfilled).await.with_context(|| second.log())?;
        }
        world.pass(WINDOW).await?;
    }
    for (id, model, input) in [(asked[0], "credit", applicant()), (asked[1], "digits", image())] {
        world.wait_for(id, RequestStatus::Finalized).await.with_context(|| second.log())?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1, "{place}: answered once");
        assert_eq!(world.count::<IInferenceOracle::Finalized>(id).await?, 1, "{place}: settled once");
        let (result, _) = world.client.fulfilled(id, 0).await?.context("no result")?;
        assert_eq!(result.output.to_vec(), world.right_answer(model, &input)?, "{place}");
    }
    let earned = U256::from(2 * PRICE);
    world
        .wait_for_balance(PAYOUT, earned)
        .await
        .with_context(|| format!("{place}: paid out once\n{}", second.log()))?;
    assert_eq!(world.oracle_balance().await?, U256::ZERO, "{place}: nothing is left and nothing is missing");
    // Two results posted, settled and paid out: three to six transactions, as they were batched; more means that something was sent twice.
    let sent = world.client.provider().get_transaction_count(operator.address()).await? - nonce_before;
    assert!((3..=6).contains(&sent), "{place}: {sent} transactions");
    let failed = world.failed_transactions(operator.address()).await?;
    assert!(failed.is_empty(), "{place}: transactions that reverted: {failed:?}");
    second.kill().await
}

macro_rules! places {
    ($($test:ident: $place:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> Result<()> {
                survives($place).await
            }
        )*

        #[test]
        fn every_place_is_tested() {
            assert_eq!([$($place),*], PLACES);
        }
    };
}

places! {
    killed_when_the_request_is_stored: "seen",
    killed_when_the_model_has_run: "inferred-unstored",
    killed_when_the_output_is_stored: "inferred",
    killed_when_the_signature_is_stored: "signed",
    killed_before_the_result_is_sent: "fulfill-stored",
    killed_after_the_result_is_sent: "fulfill-sent",
    killed_when_the_result_is_mined: "fulfill-mined",
    killed_when_that_is_recorded: "fulfill-recorded",
    killed_before_the_settlement_is_sent: "finalize-stored",
    killed_after_the_settlement_is_sent: "finalize-sent",
    killed_when_the_settlement_is_mined: "finalize-mined",
    killed_when_the_settlement_is_recorded: "finalize-recorded",
    killed_before_the_payout_is_sent: "payout-stored",
    killed_after_the_payout_is_sent: "payout-sent",
    killed_when_the_payout_is_mined: "payout-mined",
    killed_when_the_payout_is_recorded: "payout-recorded",
}

/// Not at a chosen place but at any: a relayer that is killed again and again while requests come in.
#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_while_requests_come_in() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(50)).await?;
    let folder = tempfile::tempdir()?;
    let rpc = world.rpc_url();
    let mut asked = Vec::new();
    for round in 0..12u64 {
        let relayer = RelayerProcess::start(folder.path(), &world, &rpc, &operator, None)?;
        for _ in 0..4 {
            asked.push(world.ask("credit", &applicant()).await?);
        }
        // From before it is up to well into its work.
        tokio::time::sleep(Duration::from_millis(40 * round)).await;
        relayer.kill().await?;
    }
    let relayer = RelayerProcess::start(folder.path(), &world, &rpc, &operator, None)?;
    for id in &asked {
        world.wait_for(*id, RequestStatus::Fulfilled).await.with_context(|| relayer.log())?;
    }
    world.pass(WINDOW).await?;
    for id in &asked {
        world.wait_for(*id, RequestStatus::Finalized).await.with_context(|| relayer.log())?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(*id).await?, 1);
        assert_eq!(world.count::<IInferenceOracle::Finalized>(*id).await?, 1);
    }
    world.wait_for_balance(PAYOUT, U256::from(asked.len()) * U256::from(PRICE)).await.with_context(|| relayer.log())?;
    assert!(world.failed_transactions(operator.address()).await?.is_empty(), "{}", relayer.log());
    relayer.kill().await
}

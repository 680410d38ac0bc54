//! kill -9 between every two steps, and a restart: each request is answered exactly once.
//!
//! The places are enumerated in the relayer (`crash::point`), and a debug build kills itself with SIGKILL when it comes to the one named in
//! `CANDOR_CRASH_AT`. Every place must be reached: a name that no longer exists fails here.

use alloy::{primitives::U256, providers::Provider};
use anyhow::{Context, Result};
use candor_sdk::bindings::{IInferenceOracle, RequestStatus};
use candor_tests::{
    RelayerProcess, World,
    world::{PRICE, WINDOW, applicant, ether, image},
};
use std::{os::unix::process::ExitStatusExt, time::Duration};

const SIGKILL: i32 = 9;

/// Places on the way to a posted result.
const BEFORE_POSTED: [&str; 8] = [
    "seen",
    "inferred-unstored",
    "inferred",
    "signed",
    "fulfill-stored",
    "fulfill-sent",
    "fulfill-mined",
    "fulfill-recorded",
];

/// Places on the way from there to a final one.
const BEFORE_FINAL: [&str; 4] = ["finalize-stored", "finalize-sent", "finalize-mined", "finalize-recorded"];

/// Asks two things, has a relayer die at `place`, starts it again, and looks at what the chain has.
async fn survives(place: &str) -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let nonce_before = world.client.provider().get_transaction_count(operator.address()).await?;
    let folder = tempfile::tempdir()?;
    let rpc = world.rpc_url();
    let asked = [world.ask("credit", &applicant()).await?, world.ask("digits", &image()).await?];

    let mut first = RelayerProcess::start(folder.path(), &world, &rpc, &operator, Some(place))?;
    if BEFORE_FINAL.contains(&place) {
        for id in asked {
            world.wait_for(id, RequestStatus::Fulfilled).await.with_context(|| first.log())?;
        }
        world.pass(WINDOW).await?;
    }
    let status = first.ended(Duration::from_secs(60)).await?;
    assert_eq!(status.signal(), Some(SIGKILL), "the relayer did not die at {place}:\n{}", first.log());

    let second = RelayerProcess::start(folder.path(), &world, &rpc, &operator, None)?;
    for (id, model, input) in [(asked[0], "credit", applicant()), (asked[1], "digits", image())] {
        if !BEFORE_FINAL.contains(&place) {
            world.wait_for(id, RequestStatus::Fulfilled).await.with_context(|| second.log())?;
        }
        let (result, _) = world.client.fulfilled(id, 0).await?.context("no result")?;
        assert_eq!(result.output.to_vec(), world.right_answer(model, &input)?, "{place}");
    }
    if !BEFORE_FINAL.contains(&place) {
        world.pass(WINDOW).await?;
    }
    for id in asked {
        world.wait_for(id, RequestStatus::Finalized).await.with_context(|| second.log())?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1, "{place}: answered once");
        assert_eq!(world.count::<IInferenceOracle::Finalized>(id).await?, 1, "{place}: settled once");
    }
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(2 * PRICE), "{place}: paid once");
    // Two results posted and two settled: at most four transactions, whatever was batched; more means that something was sent twice.
    let nonce = world.client.provider().get_transaction_count(operator.address()).await?;
    assert!((2..=4).contains(&(nonce - nonce_before)), "{place}: {} transactions", nonce - nonce_before);
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
            let tested = [$($place),*];
            let known: Vec<_> = BEFORE_POSTED.iter().chain(&BEFORE_FINAL).copied().collect();
            assert_eq!(tested.to_vec(), known);
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
}

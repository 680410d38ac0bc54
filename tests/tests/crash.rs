//! kill -9 between every two durable steps, and a restart: each request is answered exactly once, settled exactly once, and paid out exactly once.
//!
//! The places are enumerated in `candor_relayer::crash`; a debug build kills itself with SIGKILL when it comes to the one named in
//! `CANDOR_CRASH_AT`. Every place must be reached: the first relayer has to die of it. Each place is tested with a SQLite file, and a few with Postgres too;
//! all of them with `CANDOR_TEST_STORE=postgres`.

use alloy::{
    primitives::{B256, U256},
    providers::{Provider, ext::AnvilApi},
    sol_types::SolEvent,
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    crash::{DETOURS, DISPUTE_PLACES, PLACES, SHARED_PLACES},
    store::{Purpose, Store},
};
use candor_sdk::{
    bindings::{IInferenceOracle, RequestStatus},
    ids::RequestId,
    request::Request,
};
use candor_tests::{
    Fault, FaultyEndpoint, RelayerProcess, Scene, World,
    process::PAYOUT,
    scene::{STAKE, in_flight},
    world::{PRICE, TIMEOUT, WINDOW, applicant, ether, image},
};
use reqwest::Url;
use std::{ops::Deref, os::unix::process::ExitStatusExt, path::Path, time::Duration};
use tokio::time::Instant;

const SIGKILL: i32 = 9;
const FULFILLED: B256 = IInferenceOracle::Fulfilled::SIGNATURE_HASH;

/// A relayer is killed at a place.
struct Trial {
    scene: Scene,
    place: &'static str,
}

impl Deref for Trial {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl Trial {
    async fn new(world: World, place: &'static str) -> Result<Self> {
        Ok(Self { scene: Scene::within(world).await?, place })
    }

    fn start(&self, dies: bool, settings: &[(&str, &str)]) -> Result<RelayerProcess> {
        self.start_at(&self.world.rpc_url(), dies, settings)
    }

    fn start_at(&self, rpc: &Url, dies: bool, settings: &[(&str, &str)]) -> Result<RelayerProcess> {
        let place = dies.then_some(self.place);
        RelayerProcess::start_with(self.folder.path(), &self.world, rpc, &self.operator, place, settings)
    }

    async fn dead(&self, process: &mut RelayerProcess) -> Result<()> {
        let status = process.ended(Duration::from_secs(60)).await?;
        ensure!(status.signal() == Some(SIGKILL), "the relayer did not die at {}:\n{}", self.place, process.log());
        Ok(())
    }

    /// What the relayer has stored, beside it.
    async fn store(&self) -> Result<Store> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match Store::open_read_only(self.world.store(self.folder.path())).await {
                Ok(store) => return Ok(store),
                Err(error) => ensure!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn fulfilled(&self, asked: &[RequestId], log: impl Fn() -> String) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        for id in asked {
            while !matches!(self.world.client.status(*id).await?.0, RequestStatus::Fulfilled | RequestStatus::Finalized)
            {
                ensure!(Instant::now() < deadline, "request {id} is not answered:\n{}", log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Takes a request back that nobody answered.
    async fn refunded(&self, id: RequestId) -> Result<()> {
        let (client, asked) = (&self.world.client, self.world.client.requested(id, 0).await?);
        let request = Request::unpack(&asked.context("no request")?.request)?;
        client.send(client.cancel(&request)).await?;
        Ok(())
    }

    /// Everything is settled once, paid out once, and nothing reverted.
    async fn settled(&self, asked: &[RequestId], log: impl Fn() -> String) -> Result<()> {
        let (world, place) = (&self.world, self.place);
        for id in asked {
            world.wait_for(*id, RequestStatus::Finalized).await.with_context(&log)?;
            // Anvil shows a block's state a moment before its events.
            let deadline = Instant::now() + Duration::from_secs(5);
            while world.count::<IInferenceOracle::Finalized>(*id).await? == 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(world.count::<IInferenceOracle::Fulfilled>(*id).await?, 1, "{place}: answered once");
            assert_eq!(world.count::<IInferenceOracle::Finalized>(*id).await?, 1, "{place}: settled once");
        }
        let earned = U256::from(asked.len()) * U256::from(PRICE);
        world.wait_for_balance(PAYOUT, earned).await.with_context(|| format!("{place}: paid out once\n{}", log()))?;
        let refunds = world.client.credit(world.owner).await?;
        assert_eq!(world.oracle_balance().await?, refunds, "{place}: nothing is left and nothing is missing");
        let failed = world.failed_transactions(self.operator.address()).await?;
        assert!(failed.is_empty(), "{place}: transactions that reverted: {failed:?}\n{}", log());
        let (stake, _, locked) = world.client.stake(self.operator.address()).await?;
        assert_eq!((stake, locked), (ether(STAKE), U256::ZERO), "{place}: no stake is lost or locked");
        Ok(())
    }
}

/// Asks two things, has a relayer die at `place`, starts it again, and looks at what the chain has.
async fn survives(world: World, place: &'static str) -> Result<()> {
    let trial = Trial::new(world, place).await?;
    let world = &trial.world;
    let nonce_before = world.client.provider().get_transaction_count(trial.operator.address()).await?;
    let asked = [world.ask("credit", &applicant()).await?, world.ask("digits", &image()).await?];
    let dies_after_posting = place.starts_with("finalize") || place.starts_with("payout");

    let mut first = trial.start(true, &[])?;
    if dies_after_posting {
        trial.fulfilled(&asked, || first.log()).await?;
        world.pass(WINDOW).await?;
    }
    trial.dead(&mut first).await?;

    let second = trial.start(false, &[])?;
    if !dies_after_posting {
        trial.fulfilled(&asked, || second.log()).await?;
        world.pass(WINDOW).await?;
    }
    trial.settled(&asked, || second.log()).await?;
    for (id, model, input) in [(asked[0], "credit", applicant()), (asked[1], "digits", image())] {
        let (result, _) = world.client.fulfilled(id, 0).await?.context("no result")?;
        assert_eq!(result.output.to_vec(), world.right_answer(model, &input)?, "{place}");
    }
    // Two results posted, settled and paid out: three to six transactions, as they were batched; more means that something was sent twice.
    let sent = world.client.provider().get_transaction_count(trial.operator.address()).await? - nonce_before;
    assert!((3..=6).contains(&sent), "{place}: {sent} transactions");
    second.kill().await
}

/// The same off the straight way: what brings a relayer to `place` is arranged first.
async fn survives_detour(world: World, place: &'static str) -> Result<()> {
    let trial = Trial::new(world, place).await?;
    let world = &trial.world;
    let provider = world.client.provider();
    // Hasty, and never as dear as the block in which somebody else posts.
    let hasty = [("gas.bump_after", "1s"), ("gas.max_fee_per_gas", "50 gwei")];
    let mut asked = Vec::new();
    let second = match place {
        "dropped" => {
            // Two questions, one of which brings too little.
            let dear = [("operator.min_fee.credit", "1 ether")];
            let cheap = world.ask("credit", &applicant()).await?;
            asked.push(world.ask("digits", &image()).await?);
            trial.dead(&mut trial.start(true, &dear)?).await?;
            let second = trial.start(false, &dear)?;
            trial.fulfilled(&asked, || second.log()).await?;
            world.pass(u64::from(TIMEOUT) + 1).await?;
            trial.refunded(cheap).await?;
            second
        }
        "expired" => {
            // Of two kinds of questions this worker answers one. Nobody comes for the other.
            let served = [("models.serve", "credit")];
            asked.push(world.ask("credit", &applicant()).await?);
            let late = world.ask("digits", &image()).await?;
            let mut first = trial.start(true, &served)?;
            trial.fulfilled(&asked, || first.log()).await?;
            world.pass(u64::from(TIMEOUT) + 1).await?;
            trial.dead(&mut first).await?;
            trial.refunded(late).await?;
            trial.start(false, &served)?
        }
        "rewound" | "released" => {
            asked.push(world.ask("credit", &applicant()).await?);
            let asked_in = provider.get_block_number().await?;
            let mut first = trial.start(true, &[])?;
            trial.fulfilled(&asked, || first.log()).await?;
            let (store, posted_in) = (trial.store().await?, provider.get_block_number().await?);
            while store.next_block().await? <= posted_in {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            provider.anvil_rollback(Some(provider.get_block_number().await? - asked_in)).await?;
            provider.anvil_mine(Some(5), None).await?;
            trial.dead(&mut first).await?;
            trial.start(false, &[])?
        }
        "read-again" => {
            let endpoint = FaultyEndpoint::start(&world.rpc_url(), Fault::Hidden(FULFILLED), 1).await?;
            endpoint.begin();
            asked.push(world.ask("credit", &applicant()).await?);
            let mut first = trial.start_at(&endpoint.url, true, &[])?;
            trial.fulfilled(&asked, || first.log()).await?;
            provider.anvil_mine(Some(30), None).await?;
            trial.dead(&mut first).await?;
            trial.start(false, &[])?
        }
        "reopened" => {
            let endpoint = FaultyEndpoint::start(&world.rpc_url(), Fault::TakenBackAtSend(FULFILLED), 2).await?;
            asked.push(world.ask("credit", &applicant()).await?);
            let mut first = trial.start_at(&endpoint.url, true, &[])?;
            trial.fulfilled(&asked, || first.log()).await?;
            // Asked above the block that is taken back.
            world.ask("digits", &image()).await?;
            trial.dead(&mut first).await?;
            trial.start(false, &[])?
        }
        "left" => {
            asked.push(world.ask("credit", &applicant()).await?);
            let mut first = trial.start(true, &[])?;
            trial.fulfilled(&asked, || first.log()).await?;
            asked.push(world.ask("digits", &image()).await?);
            first.ask_to_stop()?;
            trial.dead(&mut first).await?;
            trial.start(false, &[])?
        }
        "bump-stored" | "bump-sent" => {
            asked.push(world.ask("credit", &applicant()).await?);
            provider.anvil_set_auto_mine(false).await?;
            trial.dead(&mut trial.start(true, &hasty)?).await?;
            provider.anvil_set_auto_mine(true).await?;
            trial.start(false, &hasty)?
        }
        "nonce-taken" => {
            asked.push(world.ask("credit", &applicant()).await?);
            provider.anvil_set_auto_mine(false).await?;
            let mut first = trial.start(true, &[])?;
            trial.take_nonce(&in_flight(&trial.store().await?, |_| true).await?[0]).await?;
            provider.anvil_set_auto_mine(true).await?;
            trial.dead(&mut first).await?;
            trial.start(false, &[])?
        }
        _ => {
            asked.push(world.ask("credit", &applicant()).await?);
            provider.anvil_set_auto_mine(false).await?;
            let mut first = trial.start(true, &hasty)?;
            somebody_else_posts(&trial, asked[0]).await?;
            // In its block the stuck transaction would revert; the one in its place does nothing.
            if place == "cancel-mined" {
                in_flight(&trial.store().await?, |sent| sent.iter().any(|sent| sent.purpose == Purpose::Cancel))
                    .await?;
                provider.anvil_set_auto_mine(true).await?;
                provider.anvil_mine(Some(1), None).await?;
            }
            trial.dead(&mut first).await?;
            let second = trial.start(false, &hasty)?;
            if place != "cancel-mined" {
                cancellation_known(&trial).await.with_context(|| second.log())?;
            }
            provider.anvil_set_auto_mine(true).await?;
            provider.anvil_mine(Some(1), None).await?;
            asked.push(world.ask("digits", &image()).await?);
            second
        }
    };
    trial.fulfilled(&asked, || second.log()).await?;
    world.pass(WINDOW).await?;
    trial.settled(&asked, || second.log()).await?;
    second.kill().await
}

/// Waits until the node has a cancellation: before that the next block would take the transaction in whose place it is.
async fn cancellation_known(trial: &Trial) -> Result<()> {
    let store = trial.store().await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        for sent in store.unresolved().await?.iter().filter(|sent| sent.purpose == Purpose::Cancel) {
            if trial.world.client.provider().get_transaction_by_hash(sent.hash).await?.is_some() {
                return Ok(());
            }
        }
        ensure!(Instant::now() < deadline, "no cancellation arrives");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Somebody else carries the answer into a block whose base fee is above what the relayer's own transaction pays.
async fn somebody_else_posts(trial: &Trial, id: RequestId) -> Result<()> {
    let (world, provider) = (&trial.world, trial.world.client.provider());
    in_flight(&trial.store().await?, |_| true).await?;
    trial.carried(&trial.store().await?, id, 60_000_000_000).await?;
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Fulfilled);
    // Whatever comes next is cheap again.
    provider.anvil_set_next_block_base_fee_per_gas(1_000_000_000).await?;
    Ok(())
}

macro_rules! places {
    ($list:ident, $all:ident, $survives:ident: $($test:ident: $place:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> Result<()> {
                $survives(World::start().await?, $place).await
            }
        )*

        #[test]
        fn $all() {
            assert_eq!([$($place),*], $list);
        }
    };
}

places! {
    PLACES, every_place_is_tested, survives:
    killed_when_the_database_is_open: "opened",
    killed_when_it_has_become_the_submitter: "led",
    killed_when_the_request_is_stored: "seen",
    killed_when_the_request_is_claimed: "claimed",
    killed_when_the_model_has_run: "inferred-unstored",
    killed_when_the_output_is_stored: "inferred",
    killed_when_it_is_claimed_to_be_signed: "claimed-again",
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

places! {
    DETOURS, every_detour_is_tested, survives_detour:
    killed_when_a_request_is_given_up: "dropped",
    killed_when_a_reorganisation_is_rolled_back: "rewound",
    killed_when_blocks_are_to_be_read_again: "read-again",
    killed_when_a_request_is_free_again: "released",
    killed_when_what_was_taken_back_is_in_flight_again: "reopened",
    killed_before_a_replacement_is_sent: "bump-stored",
    killed_after_a_replacement_is_sent: "bump-sent",
    killed_before_a_cancellation_is_sent: "cancel-stored",
    killed_after_a_cancellation_is_sent: "cancel-sent",
    killed_when_a_cancellation_is_mined: "cancel-mined",
    killed_when_the_nonce_was_somebody_elses: "nonce-taken",
    killed_when_it_has_handed_over: "left",
}

macro_rules! on_postgres {
    ($survives:ident: $($test:ident: $place:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> Result<()> {
                let Some(world) = World::start_on_postgres(stringify!($test)).await? else { return Ok(()) };
                $survives(world, $place).await
            }
        )*
    };
}

on_postgres! {
    survives:
    on_postgres_killed_when_the_output_is_stored: "inferred",
    on_postgres_killed_before_the_result_is_sent: "fulfill-stored",
    on_postgres_killed_when_the_settlement_is_mined: "finalize-mined",
}

on_postgres! {
    survives_detour:
    on_postgres_killed_when_a_reorganisation_is_rolled_back: "rewound",
    on_postgres_killed_before_a_cancellation_is_sent: "cancel-stored",
    on_postgres_killed_when_requests_have_expired: "expired",
}

/// The lists of places have every step there is: each function of the store that writes has its places, and there is no other.
#[test]
fn every_step_that_is_durable_has_a_place() -> Result<()> {
    let places = [
        ("open", vec!["opened"]),
        ("belong_to", vec!["opened"]),
        ("sign_of_life", vec!["led"]),
        ("apply", vec!["seen"]),
        ("rewind", vec!["rewound"]),
        ("read_again", vec!["read-again"]),
        ("claim", vec!["claimed", "claimed-again"]),
        ("inferred", vec!["inferred-unstored", "inferred"]),
        ("signed", vec!["signed"]),
        (
            "sending",
            vec![
                "fulfill-stored",
                "finalize-stored",
                "payout-stored",
                "dispute-stored",
                "bump-stored",
                "cancel-stored",
            ],
        ),
        (
            "resolved",
            vec!["fulfill-recorded", "finalize-recorded", "payout-recorded", "dispute-recorded", "nonce-taken"],
        ),
        ("reopened", vec!["reopened"]),
        ("released", vec!["released"]),
        ("dropped", vec!["dropped"]),
        ("drop_expired", vec!["expired"]),
        ("leave", vec!["left"]),
    ];
    let known = [&PLACES[..], &DETOURS, &SHARED_PLACES, &DISPUTE_PLACES].concat();
    for place in places.iter().flat_map(|(_, places)| places) {
        assert!(known.contains(place), "{place}");
    }
    let mut writing = Vec::new();
    for file in ["mod.rs", "requests.rs", "transactions.rs", "leases.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../relayer/src/store").join(file);
        let text = std::fs::read_to_string(path)?;
        for function in text.split("pub async fn ").skip(1) {
            let body = function.split("\n    }\n").next().unwrap_or_default();
            let name = function.split(['(', '<']).next().unwrap_or_default();
            let writes =
                ["INSERT INTO", "UPDATE ", "DELETE FROM", "migrations.run"].iter().any(|word| body.contains(word));
            if writes && !body.contains("FOR UPDATE") || name == "claim" {
                writing.push(name.to_owned());
            }
        }
    }
    writing.sort();
    let mut with_places: Vec<_> = places.iter().map(|(name, _)| (*name).to_owned()).collect();
    with_places.sort();
    assert_eq!(writing, with_places, "functions of the store that write, and functions that have places");
    Ok(())
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

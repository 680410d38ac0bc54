//! kill -9 at every place of every move, on both sides: a relayer that was killed in mid-game reads the chain and goes on; nothing is done twice, and
//! nothing is lost.
//!
//! The places are enumerated in `candor_relayer::crash`. A process is started with one of them, dies of it at its next transaction, and is started again with
//! the next one, until the game has nothing more to ask of it.

use anyhow::{Context, Result, ensure};
use candor_relayer::crash::DISPUTE_PLACES;
use candor_sdk::{
    bindings::{Outcome, RequestStatus},
    dispute::{Move, Opinion},
};
use candor_tests::{
    Court, Hand, Operator, RelayerProcess,
    court::PATIENCE,
    liars::{Lie, LyingEngine, Story},
    world::{ether, out_of_time},
};
use std::{collections::HashMap, os::unix::process::ExitStatusExt, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Starts a process again and again, each time to die at the next place, until `over`. How often it died.
async fn killed_again_and_again(
    start: impl Fn(Option<&str>) -> Result<RelayerProcess>,
    first: usize,
    mut over: impl AsyncFnMut() -> Result<bool>,
) -> Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    let mut deaths = 0;
    for place in DISPUTE_PLACES.iter().cycle().skip(first) {
        let mut process = start(Some(place))?;
        loop {
            if let Some(status) = process.status()? {
                ensure!(status.signal() == Some(9), "it did not die at {place}, but so: {status}\n{}", process.log());
                deaths += 1;
                break;
            }
            if over().await? {
                process.kill().await?;
                return Ok(deaths);
            }
            ensure!(Instant::now() < deadline, "still going on, at {place}:\n{}", process.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    unreachable!("a cycle has no end")
}

/// A watcher is killed at every place of its moves, from the challenge to the slashing: it challenges once, and wins.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_is_killed_at_every_place_challenges_once_and_wins() -> Result<()> {
    let mut court = Court::new().await?;
    let credit = court.embedded_model("credit")?;
    let operator = court.world.operator_for(ether(2), &[credit.id]).await?;
    let account = Operator { key: court.world.account().await? };
    let questions: Vec<_> = (0..DISPUTE_PLACES.len() as u64).map(|number| credit.question(number)).collect();
    let lies = questions.iter().map(|question| (question.input.clone(), Lie::Anywhere(7))).collect();
    let engine = Arc::new(LyingEngine::new(&credit, lies));
    let liar = court.operator("liar", &operator, HashMap::from([(credit.id, credit.served(engine))])).await?;
    let folder = court.folder("watcher")?;
    let start = |place: Option<&str>| RelayerProcess::watching(&folder, &court.world, &account, "1 ether", place);
    let mut ids = Vec::new();
    // Each game begins with another place, so that each move is hit by all.
    for (first, question) in questions.iter().enumerate() {
        let id = court.ask(credit.id, question).await?;
        ids.push(id);
        let over = async || {
            liar.check()?;
            Ok(court.cases(id).await?.iter().any(|case| case.ended.is_some())
                && court.world.client.status(id).await?.0 == RequestStatus::Requested)
        };
        let deaths = killed_again_and_again(start, first, over).await?;
        println!("game {first}: killed {deaths} times");
        ensure!(deaths >= DISPUTE_PLACES.len(), "killed {deaths} times only");
    }
    for id in &ids {
        let cases = court.cases(*id).await?;
        ensure!(cases.len() == 1, "challenged {} times", cases.len());
        ensure!(cases[0].ended.is_some_and(|ended| ended.outcome == Outcome::Rejected), "{:?}", cases[0].ended);
    }
    let failed = court.world.failed_transactions(account.address()).await?;
    ensure!(failed.is_empty(), "transactions that reverted: {failed:?}");
    court.answer(&ids, &[&liar]).await?;
    liar.stop().await?;
    court.close_books(ids.len()).await
}

/// The honest operator is killed at every place of its moves, by a false challenger that plays as far as it can get: it wins, is paid, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_at_every_place_defends_itself() -> Result<()> {
    let mut court = Court::new().await?;
    let credit = court.embedded_model("credit")?;
    let operator = court.world.operator_for(ether(2), &[credit.id]).await?;
    let account = court.world.account().await?;
    court.world.accounts.push(candor_tests::process::PAYOUT);
    let court = Arc::new(court);
    let challenger = Hand::new(&court, &account, &credit.model).await?;
    let folder = court.folder("operator")?;
    let rpc = court.world.rpc_url();
    let start = |place: Option<&str>| RelayerProcess::start(&folder, &court.world, &rpc, &operator, place);
    let mut ids = Vec::new();
    for first in 0..DISPUTE_PLACES.len() {
        let question = credit.question(first as u64);
        let right = credit.model.interpret(&question)?.output;
        let middle = credit.model.program.nodes.len() as u32 / 2;
        let trace = Story::mistaken(&credit.model, &question, &Lie::Node(middle, 0))?;
        let opinion = Opinion::Run { trace, undefined: None };
        let id = court.ask(credit.id, &question).await?;
        ids.push(id);
        let process = start(None)?;
        court.world.wait_for_long(id, RequestStatus::Fulfilled, PATIENCE).await.with_context(|| process.log())?;
        process.kill().await?;
        let dispute = court.challenge(&account, id).await?;
        // The challenger moves whenever it can, but for its last move: what it accuses is right, so that is never taken.
        let over = async || {
            let case = challenger.case(dispute).await?;
            if case.is_operators_turn() {
                return Ok(false);
            }
            let Some((next, data)) = challenger.attack(&case, &question, &right, &opinion)? else { return Ok(false) };
            if matches!(next, Move::Prove(_)) {
                return Ok(true);
            }
            ensure!(challenger.send(data).await?, "the game refused {}", next.name());
            Ok(false)
        };
        let deaths = killed_again_and_again(start, first, over).await?;
        println!("game {first}: killed {deaths} times");
        // At this place at least, at its claim; the game may be over before its last death is noticed.
        ensure!(deaths >= 1, "never killed");
    }
    let last = start(None)?;
    court.world.pass(out_of_time()).await?;
    court.over(&[]).await.with_context(|| last.log())?;
    for id in &ids {
        court.world.wait_for_long(*id, RequestStatus::Finalized, PATIENCE).await.with_context(|| last.log())?;
        for case in court.cases(*id).await? {
            let ended = case.ended.context("it goes on")?;
            ensure!(ended.outcome == Outcome::Upheld && ended.winner == operator.address(), "{ended:?}");
        }
    }
    let failed = court.world.failed_transactions(operator.address()).await?;
    ensure!(failed.is_empty(), "transactions that reverted: {failed:?}");
    last.kill().await?;
    court.close_books(0).await
}

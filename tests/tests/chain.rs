//! The chain changes its mind, or stands still: reorganisations, stuck transactions, transactions that arrived although the endpoint said no.

use alloy::{
    primitives::{Address, U256},
    providers::{Provider, ext::AnvilApi},
    sol_types::SolEvent,
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    chain::{ANSWER_WITHIN, Rpc},
    pipeline::Handle,
    store::Step,
};
use candor_sdk::{
    bindings::{Delivery, IInferenceOracle, RequestStatus},
    ids::RequestId,
};
use candor_tests::{
    Ask, Fault, FaultyEndpoint, Proxy, Scene, World,
    scene::in_flight,
    world::{PRICE, WINDOW, applicant, ether, image},
};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_replaces_a_request_and_the_new_one_is_answered() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let provider = world.client.provider();
    let before = provider.get_block_number().await?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;

    let first = world.ask("credit", &applicant()).await?;
    // The result has been read; then the blocks that hold it and the request are gone.
    noted(&relayer, first, Step::Posted).await?;
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
    noted(&relayer, id, Step::Posted).await?;
    provider.anvil_rollback(Some(provider.get_block_number().await? - asked_in)).await?;
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Requested, "the result is gone");
    provider.anvil_mine(Some(5), None).await?;
    world.settle(id).await?;
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE));
    Ok(relayer.stop().await?)
}

/// A scene whose relayer has an endpoint with this fault in one question of so many.
async fn faulty(fault: Fault, every: usize) -> Result<(Scene, FaultyEndpoint, Handle)> {
    let scene = Scene::new().await?;
    let endpoint = FaultyEndpoint::start(&scene.world.rpc_url(), fault, every).await?;
    let mut settings = scene.settings();
    settings.rpc_urls = vec![endpoint.url.clone()];
    let relayer = scene.start(settings).await?;
    Ok((scene, endpoint, relayer))
}

/// A request for `credit` becomes final with the right answer, paid once; then the relayer may go.
async fn settles(scene: &Scene, relayer: Handle, id: RequestId) -> Result<()> {
    let output = scene.world.settle(id).await?;
    assert_eq!(output.to_vec(), scene.world.right_answer("credit", &applicant())?);
    assert_eq!(scene.world.client.credit(scene.operator.address()).await?, U256::from(PRICE));
    Ok(relayer.stop().await?)
}

/// What was shown last was of a chain that is gone, and the next question is answered by another one. Nothing of it may stay in the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_taken_back_while_it_is_read_is_posted_again() -> Result<()> {
    let (scene, endpoint, relayer) = faulty(Fault::TakenBack(IInferenceOracle::Fulfilled::SIGNATURE_HASH), 1).await?;
    let id = scene.world.ask("credit", &applicant()).await?;
    endpoint.happened().await?;
    settles(&scene, relayer, id).await
}

/// The nonce of a transaction is counted from one that is in a block, and when it is sent, that one is in none any more: it has to be sent again first, or
/// nothing of this account is ever mined.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_taken_back_while_the_next_is_sent_leaves_no_gap() -> Result<()> {
    let fault = Fault::TakenBackAtSend(IInferenceOracle::Fulfilled::SIGNATURE_HASH);
    let (scene, endpoint, relayer) = faulty(fault, 2).await?;
    let world = &scene.world;
    let id = world.ask("credit", &applicant()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    world.ask("digits", &image()).await?;
    endpoint.happened().await?;
    assert_eq!(world.client.request_count().await?, 1, "the second request never was");
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    assert!(world.failed_transactions(scene.operator.address()).await?.is_empty(), "nor is anything sent for it");
    settles(&scene, relayer, id).await
}

/// A deep gap of nonces: four results have been sent, each in a block of its own, when the chain takes back everything after the first request. What is sent
/// again does something; what was for requests that never were does not revert, it is replaced by nothing.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_gap_of_nonces_nothing_is_sent_for_requests_that_are_gone() -> Result<()> {
    let fault = Fault::TakenBackAtSend(IInferenceOracle::Fulfilled::SIGNATURE_HASH);
    let (scene, endpoint, relayer) = faulty(fault, 4).await?;
    let (world, operator) = (&scene.world, scene.operator.address());
    let first = world.client.provider().get_transaction_count(operator).await?;
    let id = world.ask("credit", &applicant()).await?;
    noted(&relayer, id, Step::Posted).await?;
    let old = world.client.fulfilled(id, 0).await?.context("no result")?.1;
    for _ in 0..2 {
        let next = world.ask("digits", &image()).await?;
        noted(&relayer, next, Step::Posted).await?;
    }
    world.ask("digits", &image()).await?;
    endpoint.happened().await?;
    assert_eq!(world.client.request_count().await?, 1, "the other requests never were");
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    assert_eq!(world.client.fulfilled(id, 0).await?.context("no result")?.1, old, "it was of use, and was sent again");
    // The numbers of those that never were are given again, to others.
    let again = world.ask("credit", &applicant()).await?;
    assert_eq!(again, RequestId(2));
    world.wait_for(again, RequestStatus::Fulfilled).await?;
    world.pass(WINDOW).await?;
    for id in [id, again] {
        world.wait_for(id, RequestStatus::Finalized).await?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    }
    assert!(world.failed_transactions(operator).await?.is_empty(), "nothing was sent in vain");
    assert_eq!(world.client.credit(operator).await?, U256::from(2 * PRICE));
    let sent = world.client.provider().get_transaction_count(operator).await? - first;
    assert!((6..=7).contains(&sent), "two results, three times nothing, one or two settlements: {sent}");
    Ok(relayer.stop().await?)
}

/// The gap is another program's: the operator has asked something with the relayer's key, and a reorganisation takes that back. Nobody sends it again, and the
/// relayer would wait for its nonce for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_another_program_leaves_is_filled() -> Result<()> {
    let scene = Scene::new().await?;
    let (world, operator) = (&scene.world, scene.operator.address());
    let fault = Fault::TakenBackAtSend(IInferenceOracle::Requested::SIGNATURE_HASH);
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), fault, 1).await?;
    let mut settings = scene.settings();
    settings.rpc_urls = vec![endpoint.url.clone()];
    settings.gas.bump_after = Duration::from_secs(1);
    let relayer = scene.start(settings).await?;
    let client = world.client_of(&scene.operator.key).await?;
    let nonce = client.provider().get_transaction_count(operator).await?;
    let (credit, input) = (world.models["credit"].id(), applicant());
    let ask = Ask { model: credit, input, delivery: Delivery::Final, callback_gas: 0 };
    let (args, value) = world.args(&ask);
    client.send_from(operator, client.request(args, value)).await?;
    endpoint.happened().await?;
    let id = world.ask("credit", &applicant()).await?;
    assert_eq!(id, RequestId(1), "the operator's request never was");
    world.settle(id).await?;
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    assert!(world.failed_transactions(operator).await?.is_empty());
    let sent = world.client.provider().get_transaction_count(operator).await? - nonce;
    assert_eq!(sent, 4, "twice nothing, a result, a settlement");
    Ok(relayer.stop().await?)
}

/// Until the relayer has noted that a request stands there.
async fn noted(relayer: &Handle, id: RequestId, step: Step) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while relayer.store.request(id).await?.is_none_or(|row| row.step != step) {
        ensure!(Instant::now() < deadline, "request {id} is {:?}, not {step}", relayer.store.request(id).await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Until the relayer has read all blocks that there are now.
async fn read_up(world: &World, relayer: &Handle) -> Result<()> {
    let newest = world.client.provider().get_block_number().await?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while relayer.store.next_block().await? <= newest {
        ensure!(Instant::now() < deadline, "block {newest} is not read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// While a range is asked for, the chain takes back a result that was read long before, and has other events in the range. Those are of the new branch, so
/// what was read of the old one must be forgotten first.
#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_below_a_range_that_is_being_read_is_noticed() -> Result<()> {
    let (scene, endpoint, relayer) = faulty(Fault::Held("eth_getLogs"), 1).await?;
    let (world, provider) = (&scene.world, scene.world.client.provider());
    let first = world.ask("credit", &applicant()).await?;
    let asked_in = provider.get_block_number().await?;
    noted(&relayer, first, Step::Posted).await?;
    let posted_in = provider.get_block_number().await?;
    endpoint.begin();
    provider.anvil_mine(Some(1), None).await?;
    endpoint.happened().await?;
    provider.anvil_rollback(Some(provider.get_block_number().await? - asked_in)).await?;
    assert_eq!(world.client.status(first).await?.0, RequestStatus::Requested, "the result is gone");
    let second = world.ask("digits", &image()).await?;
    assert!(provider.get_block_number().await? <= posted_in, "in a block of the range, by number");
    provider.anvil_mine(Some(3), None).await?;
    endpoint.heal();
    for id in [first, second] {
        world.wait_for(id, RequestStatus::Fulfilled).await?;
    }
    world.pass(WINDOW).await?;
    for id in [first, second] {
        world.wait_for(id, RequestStatus::Finalized).await?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    }
    assert_eq!(world.client.credit(scene.operator.address()).await?, U256::from(2 * PRICE));
    Ok(relayer.stop().await?)
}

/// The result is on chain, and no endpoint has shown the event when its block was read. Without it nobody would settle the result, and its stake would stay
/// locked.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_event_was_not_shown_is_settled_all_the_same() -> Result<()> {
    let (scene, endpoint, relayer) = faulty(Fault::Hidden(IInferenceOracle::Fulfilled::SIGNATURE_HASH), 1).await?;
    let world = &scene.world;
    endpoint.begin();
    let id = world.ask("credit", &applicant()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    // More blocks than are read again each time.
    world.client.provider().anvil_mine(Some(10), None).await?;
    read_up(world, &relayer).await?;
    endpoint.happened().await?;
    assert_eq!(relayer.store.request(id).await?.map(|row| row.step), Some(Step::Posting));
    endpoint.heal();
    noted(&relayer, id, Step::Posted).await?;
    world.settle(id).await?;
    assert_eq!(world.client.credit(scene.operator.address()).await?, U256::from(PRICE));
    assert!(world.failed_transactions(scene.operator.address()).await?.is_empty());
    Ok(relayer.stop().await?)
}

/// A request that was not shown when its block was read, by a node that can't say how many there were then. That it is missing shows later, and then it is
/// looked for where it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_shown_is_looked_for_in_old_blocks() -> Result<()> {
    let (scene, endpoint, relayer) = faulty(Fault::Hidden(IInferenceOracle::Requested::SIGNATURE_HASH), 1).await?;
    let world = &scene.world;
    let first = world.ask("credit", &applicant()).await?;
    noted(&relayer, first, Step::Posted).await?;
    endpoint.begin();
    let hidden = world.ask("digits", &image()).await?;
    world.client.provider().anvil_mine(Some(10), None).await?;
    read_up(world, &relayer).await?;
    endpoint.happened().await?;
    assert_eq!(relayer.store.request(hidden).await?, None);
    endpoint.heal();
    let last = world.ask("credit", &applicant()).await?;
    for id in [hidden, last] {
        world.wait_for(id, RequestStatus::Fulfilled).await?;
    }
    assert_eq!(world.settle(hidden).await?.to_vec(), world.right_answer("digits", &image())?);
    Ok(relayer.stop().await?)
}

/// A transaction that a reorganisation took back is gone, and another one is made in its place. Nodes had the old one all the while, and it is mined again.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_taken_back_and_comes_again_is_known() -> Result<()> {
    let scene = Scene::new().await?;
    let (world, provider) = (&scene.world, scene.world.client.provider());
    let relayer = scene.start(scene.settings()).await?;
    let id = world.ask("credit", &applicant()).await?;
    let asked_in = provider.get_block_number().await?;
    noted(&relayer, id, Step::Posted).await?;
    let (_, old) = world.client.fulfilled(id, 0).await?.context("no result")?;
    let raw = provider.get_raw_transaction_by_hash(old).await?.context("no transaction")?;
    provider.anvil_set_auto_mine(false).await?;
    provider.anvil_rollback(Some(provider.get_block_number().await? - asked_in)).await?;
    provider.anvil_mine(Some(4), None).await?;
    let new = in_flight(&relayer.store, |sent| sent.iter().any(|sent| sent.hash != old)).await?;
    let new = new.iter().find(|sent| sent.hash != old).context("there is one")?;
    // What the relayer sends again and again has to make room.
    let deadline = Instant::now() + Duration::from_secs(30);
    while provider.get_transaction_by_hash(old).await?.is_none() {
        ensure!(Instant::now() < deadline, "the old transaction is not taken");
        provider.anvil_drop_transaction(new.hash).await?;
        let _taken = provider.send_raw_transaction(&raw).await.ok();
    }
    provider.anvil_set_auto_mine(true).await?;
    provider.anvil_mine(Some(1), None).await?;
    world.settle(id).await?;
    assert_eq!(world.client.fulfilled(id, 0).await?.context("no result")?.1, old, "the old one did it");
    assert_eq!(world.client.credit(scene.operator.address()).await?, U256::from(PRICE));
    assert!(world.failed_transactions(scene.operator.address()).await?.is_empty());
    let sent = provider.get_transaction_count(scene.operator.address()).await?;
    assert_eq!(sent, new.nonce + 2, "a result and a settlement");
    Ok(relayer.stop().await?)
}

/// A scene whose relayer reads from one endpoint until that dies between two questions of a look, and then from another one.
struct MidLook {
    scene: Scene,
    first: FaultyEndpoint,
    relayer: Handle,
}

impl MidLook {
    /// With this reserve, as far as the first endpoint's death.
    async fn new(scene: Scene, reserve: &FaultyEndpoint) -> Result<Self> {
        let first = FaultyEndpoint::start(&scene.world.rpc_url(), Fault::DiesInMidLook, 1).await?;
        let mut settings = scene.settings();
        settings.rpc_urls = vec![first.url.clone(), reserve.url.clone()];
        // The poster asks in every round what there is to pay out, and changes the endpoint when it hears nothing.
        let operator = settings.operator.as_mut().context("there is one")?;
        operator.payout = Some((PAYEE, ether(1_000)));
        let relayer = scene.start(settings).await?;
        read_up(&scene.world, &relayer).await?;
        Ok(Self { scene, first, relayer })
    }

    /// The watcher waits for the first endpoint's newest block, and the others have left that.
    async fn dies(&self, reserve: &FaultyEndpoint) -> Result<()> {
        self.first.begin();
        self.first.happened().await?;
        answers(reserve, 1).await
    }
}

/// Until an endpoint has been asked so many more questions.
async fn answers(endpoint: &FaultyEndpoint, questions: usize) -> Result<()> {
    let (asked, deadline) = (endpoint.asked(), Instant::now() + Duration::from_secs(60));
    while endpoint.asked() < asked + questions {
        ensure!(Instant::now() < deadline, "nobody asks it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Nobody pays anything out here.
const PAYEE: Address = Address::repeat_byte(0xea);

/// The newest block is of an endpoint that is gone when its events are asked for, and the one in reserve does not know that block yet. What it does not show
/// is read later.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_dies_in_mid_look_while_the_other_is_behind() -> Result<()> {
    let scene = Scene::new().await?;
    let reserve = FaultyEndpoint::start(&scene.world.rpc_url(), Fault::Behind, 1).await?;
    let look = MidLook::new(scene, &reserve).await?;
    reserve.freeze().await?;
    look.dies(&reserve).await?;
    let world = &look.scene.world;
    let id = world.ask("credit", &applicant()).await?;
    // More blocks than are read again each time.
    world.client.provider().anvil_mine(Some(10), None).await?;
    look.first.heal();
    // Among so many questions are those of more than one look.
    answers(&reserve, 20).await?;
    assert_eq!(look.relayer.store.request(id).await?, None, "the reserve does not know of it");
    reserve.heal();
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    settles(&look.scene, look.relayer, id).await
}

/// The same where the one in reserve is on another branch, with another request under the same number, and is gone in its turn. What was read of it must not
/// count for the branch that stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_dies_in_mid_look_while_the_other_is_on_another_branch() -> Result<()> {
    let scene = Scene::new().await?;
    let branch = scene.world.branch().await?;
    let proxy = Proxy::start(&branch.rpc_url()).await?;
    let reserve = FaultyEndpoint::start(&proxy.url, Fault::Behind, 1).await?;
    let look = MidLook::new(scene, &reserve).await?;
    look.dies(&reserve).await?;
    let world = &look.scene.world;
    let id = world.ask("credit", &applicant()).await?;
    assert_eq!(branch.ask("digits", &image()).await?, id, "the same number, another request");
    look.first.heal();
    let deadline = Instant::now() + Duration::from_secs(60);
    while look.relayer.store.request(id).await?.is_none() {
        ensure!(Instant::now() < deadline, "nothing is read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.cut();
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(id).await?, 1);
    let row = look.relayer.store.request(id).await?.context("it is there")?;
    assert_eq!(row.request.model, world.models["credit"].id(), "of the branch that stays");
    settles(&look.scene, look.relayer, id).await
}

/// Whoever looks at the chain notices that another task has changed the endpoint meanwhile, even if it was changed back.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_comes_back_is_not_taken_for_having_stayed() -> Result<()> {
    let world = World::start().await?;
    let rpc = Rpc::connect(&[world.rpc_url()], world.client.chain_id, world.client.oracle, ANSWER_WITHIN).await?;
    let alone = rpc.current();
    rpc.fail_over(alone).await;
    assert_eq!(rpc.current(), alone, "there is no other");
    let second = FaultyEndpoint::start(&world.rpc_url(), Fault::EmptyLogs, 1).await?;
    let rpc =
        Rpc::connect(&[world.rpc_url(), second.url.clone()], world.client.chain_id, world.client.oracle, ANSWER_WITHIN)
            .await?;
    let first = rpc.current();
    rpc.fail_over(first).await;
    let other = rpc.current();
    rpc.fail_over(first).await;
    assert_eq!(rpc.current(), other, "somebody has gone on from it already");
    rpc.fail_over(other).await;
    let turns = [first, other, rpc.current()];
    assert!(turns[0] != turns[1] && turns[1] != turns[2] && turns[0] != turns[2], "{turns:?}");
    assert_eq!(rpc.head().await?.number, world.client.provider().get_block_number().await?, "and it works");
    Ok(())
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
    let sent = in_flight(&relayer.store, |sent| sent.len() >= 3).await?;
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
    // Everything but the sending is done, and stays so.
    noted(&relayer, id, Step::Signed).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    noted(&relayer, id, Step::Signed).await?;
    assert_eq!(world.client.status(id).await?.0, RequestStatus::Requested);
    relayer.stop().await?;
    settings.gas.max_fee_per_gas = 100_000_000_000;
    let relayer =
        candor_relayer::pipeline::spawn(settings, tokio::sync::broadcast::channel(64).0, Default::default()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await?;
    world.pass(WINDOW).await?;
    world.wait_for(id, RequestStatus::Finalized).await?;
    Ok(relayer.stop().await?)
}

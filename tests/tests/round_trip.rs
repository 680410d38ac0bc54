//! The honest loop: asked, inferred, signed, posted, delivered, final, paid.

use alloy::primitives::U256;
use anyhow::Result;
use candor_sdk::bindings::{CallbackStatus, Delivery, RequestStatus};
use candor_tests::{
    Ask, World,
    puppet::Callback,
    world::{PRICE, WINDOW, applicant, ether, image},
};

#[tokio::test(flavor = "multi_thread")]
async fn answers_both_models_with_the_one_right_answer() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    for (model, input) in [("credit", applicant()), ("digits", image())] {
        let id = world.ask(model, &input).await?;
        let output = world.settle(id).await?;
        assert_eq!(output.to_vec(), world.right_answer(model, &input)?, "{model}: the answer is not the reference's");
    }
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(2 * PRICE));
    assert_eq!(world.oracle_balance().await?, U256::from(2 * PRICE), "what is left in the oracle is what is owed");
    let (stake, _, locked) = world.client.stake(operator.address()).await?;
    assert_eq!((stake, locked), (ether(2), U256::ZERO), "nothing stays locked");
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_at_once_or_at_finality_as_the_requester_chose() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    let ask =
        |delivery| Ask { model: world.models["credit"].id(), input: applicant(), delivery, callback_gas: 100_000 };
    let (early, _) = world.ask_by_puppet(&ask(Delivery::Optimistic), Callback::Accept).await?;
    let (late, _) = world.ask_by_puppet(&ask(Delivery::Final), Callback::Accept).await?;
    assert_eq!(world.wait_for(early, RequestStatus::Fulfilled).await?, CallbackStatus::Delivered);
    assert_eq!(world.wait_for(late, RequestStatus::Fulfilled).await?, CallbackStatus::None);
    world.pass(WINDOW).await?;
    assert_eq!(world.wait_for(early, RequestStatus::Finalized).await?, CallbackStatus::Delivered);
    assert_eq!(world.wait_for(late, RequestStatus::Finalized).await?, CallbackStatus::Delivered);
    Ok(relayer.stop().await?)
}

//! The honest loop: asked, inferred, signed, posted, delivered, final, paid.

use alloy::primitives::U256;
use anyhow::Result;
use candor_relayer::demo::abi as consumers;
use candor_sdk::bindings::{CallbackStatus, Delivery, RequestStatus};
use candor_tests::{
    Ask, World,
    puppet::Callback,
    world,
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

/// The two examples, both models, both deliveries: what the contracts hold in the end is what the model says, and no sooner than they asked for.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_hold_what_the_model_says_when_they_asked_for_it() -> Result<()> {
    use alloy::primitives::I256;
    use candor_sdk::{client::Call, deploy::Artifact};
    use consumers::{DigitReader, LoanDesk};

    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let (oracle, credit, digits) = (world.client.oracle, world.models["credit"].id(), world.models["digits"].id());
    let threshold = I256::try_from(500_000_000_000_000_000u64)?;
    let desk = world.deploy_consumer(&Artifact::loan_desk(), (oracle, credit.0, threshold)).await?;
    let reader = world.deploy_consumer(&Artifact::digit_reader(), (oracle, digits.0)).await?;
    let numbers: [I256; 20] = std::array::from_fn(|attribute| I256::unchecked_from(attribute));

    let mut asked = Vec::new();
    for delivery in [Delivery::Optimistic, Delivery::Final] {
        let submit = LoanDesk::submitCall { numbers, delivery: delivery as u8 };
        let read = DigitReader::readCall { image: image().into(), delivery: delivery as u8 };
        let receipt = world.client.send(Call::new(desk, ether(1), &submit)).await?;
        asked.push((world::request_id(&receipt)?, desk, delivery));
        let receipt = world.client.send(Call::new(reader, ether(1), &read)).await?;
        asked.push((world::request_id(&receipt)?, reader, delivery));
    }
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    for (id, ..) in &asked {
        world.wait_for(*id, RequestStatus::Fulfilled).await?;
    }

    let risk = f32::from_be_bytes(world.right_answer("credit", &applicant())?.as_slice().try_into()?);
    let classes = world.right_answer("digits", &image())?;
    for passed in [false, true] {
        if passed {
            world.pass(WINDOW).await?;
            for (id, ..) in &asked {
                world.wait_for(*id, RequestStatus::Finalized).await?;
            }
        }
        for (id, consumer, delivery) in &asked {
            let delivered = passed || *delivery == Delivery::Optimistic;
            if *consumer == desk {
                let held = world.client.view(desk, LoanDesk::applicationsCall { id: id.0 }).await?;
                let decision = if risk <= 0.5 { 2 } else { 3 };
                assert_eq!(held.decision, if delivered { decision } else { 1 }, "{id} {delivery:?}");
                // WAD, rounded to nearest even from the exact value of the f32; f64 holds both exactly enough to tell them apart.
                let wad = (f64::from(risk) * 1e18).round();
                assert_eq!(held.risk.as_i64() as f64, if delivered { wad } else { 0.0 });
            } else {
                let held = world.client.view(reader, DigitReader::readingsCall { id: id.0 }).await?;
                assert_eq!(held.known, delivered, "{id} {delivery:?}");
                assert_eq!(held.digit, if delivered { classes[3] } else { 0 });
            }
        }
    }
    Ok(relayer.stop().await?)
}

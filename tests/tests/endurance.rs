//! One bad thing stops nothing else: a payee that takes no money, a crowd of dear callbacks, a model that panics, an endpoint that comes later, a stranger
//! with forged answers.

use alloy::{
    primitives::{Bytes, U256},
    providers::{Provider, ext::AnvilApi},
    signers::SignerSync,
};
use anyhow::{Context, Result};
use candor_relayer::{
    pipeline::{self, Infer, InferError, InferRequest},
    store::Step,
};
use candor_sdk::{
    bindings::{Answer, CallbackStatus, Delivery, IInferenceOracle, RequestStatus},
    client::{ClientError, Revert},
    commitment::signature_bytes,
    request::Request,
};
use candor_tests::{
    Ask, Proxy, World,
    puppet::Callback,
    world::{CALLBACK_GAS_PRICE, PRICE, WINDOW, applicant, ether, image},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

async fn start(settings: pipeline::Settings) -> Result<pipeline::Handle> {
    Ok(pipeline::spawn(settings, broadcast::channel(1024).0, CancellationToken::new()).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payee_that_takes_no_money_does_not_stop_the_relayer() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let ask =
        Ask { model: world.models["credit"].id(), input: applicant(), delivery: Delivery::Final, callback_gas: 0 };
    let (first, payee) = world.ask_by_puppet(&ask, Callback::Revert).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.operator.as_mut().context("no operator")?.payout = Some((payee, U256::from(1)));
    let relayer = start(settings).await?;
    world.settle(first).await?;
    // The payout was due with the first; everything goes on.
    let second = world.ask("digits", &image()).await?;
    world.settle(second).await?;
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(2 * PRICE), "the earnings are not lost");
    assert!(world.failed_transactions(operator.address()).await?.is_empty(), "nothing was spent on trying");
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payout_that_brings_less_than_its_gas_costs_is_left_for_later() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let payee = world.account().await?.address();
    let before = world.client.provider().get_balance(payee).await?;
    let client = world.client_of(&operator.key).await?;
    for model in world.models.values() {
        client.send(client.set_offer(model.id(), 5)).await?;
    }
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.operator.as_mut().context("no operator")?.payout = Some((payee, U256::from(1)));
    settings.gas.at_a_loss = true;
    let relayer = start(settings).await?;
    let id = world.ask("credit", &applicant()).await?;
    world.settle(id).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(5), "five wei are not worth a transaction");
    assert_eq!(world.client.provider().get_balance(payee).await?, before);
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn more_callbacks_than_a_transaction_has_gas_for_are_posted_in_several() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(10)).await?;
    // Twelve times two million, each burnt to the last unit: no transaction may use that much.
    let ask = Ask {
        model: world.models["credit"].id(),
        input: applicant(),
        delivery: Delivery::Optimistic,
        callback_gas: 2_000_000,
    };
    let mut asked = Vec::new();
    for _ in 0..12 {
        asked.push(world.ask_by_puppet(&ask, Callback::BurnGas).await?.0);
    }
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    for id in &asked {
        assert_eq!(world.wait_for(*id, RequestStatus::Fulfilled).await?, CallbackStatus::Failed);
    }
    let provider = world.client.provider();
    for id in &asked {
        let (_, transaction) = world.client.fulfilled(*id, 0).await?.context("no result")?;
        let transaction = provider.get_transaction_by_hash(transaction).await?.context("no transaction")?;
        let limit = alloy::consensus::Transaction::gas_limit(&transaction);
        assert!(limit <= 1 << 24, "a gas limit of {limit} is refused by nodes (EIP-7825)");
    }
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_too_dear_now_is_carried_when_gas_is_cheaper() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let ask = Ask {
        model: world.models["credit"].id(),
        input: applicant(),
        delivery: Delivery::Optimistic,
        callback_gas: 50_000,
    };
    let (id, _) = world.ask_by_puppet(&ask, Callback::Accept).await?;
    let provider = world.client.provider();
    provider.anvil_set_next_block_base_fee_per_gas(u128::from(4 * CALLBACK_GAS_PRICE)).await?;
    provider.anvil_mine(Some(1), None).await?;
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while relayer.store.request(id).await?.is_none() {
        anyhow::ensure!(Instant::now() < deadline, "never seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let row = relayer.store.request(id).await?.context("not stored")?;
    assert_eq!((row.step, row.reason), (Step::Seen, None), "neither answered at a loss nor given up");
    provider.anvil_set_next_block_base_fee_per_gas(u128::from(CALLBACK_GAS_PRICE / 5)).await?;
    provider.anvil_mine(Some(1), None).await?;
    assert_eq!(world.wait_for(id, RequestStatus::Fulfilled).await?, CallbackStatus::Delivered);
    Ok(relayer.stop().await?)
}

/// Panics at one input, answers every other.
#[derive(Debug)]
struct Fragile(Arc<dyn Infer>, Vec<u8>);

impl Infer for Fragile {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        assert!(batch.iter().all(|question| question.input != self.1), "a bug");
        self.0.infer(batch)
    }

    fn device(&self) -> String {
        self.0.device()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_at_which_the_model_panics_takes_no_neighbour_with_it() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(5)).await?;
    let poison: Vec<u8> = vec![0; 80];
    let mut asked = Vec::new();
    for input in [applicant(), poison.clone(), applicant()] {
        asked.push(world.ask("credit", &input).await?);
    }
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    let credit = world.models["credit"].id();
    let models = &mut settings.operator.as_mut().context("no operator")?.models;
    let served = models.get_mut(&credit).context("not served")?;
    served.model = Arc::new(Fragile(served.model.clone(), poison));
    let relayer = start(settings).await?;
    for id in [asked[0], asked[2]] {
        world.wait_for(id, RequestStatus::Fulfilled).await?;
    }
    let row = relayer.store.request(asked[1]).await?.context("not stored")?;
    assert_eq!((row.step, row.reason.as_deref()), (Step::Dropped, Some("the model panicked")));
    assert_eq!(world.client.status(asked[1]).await?.0, RequestStatus::Requested, "free for others, and for a refund");
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_was_down_at_start_is_used_when_the_other_goes() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let (first, second) = (Proxy::start(&world.rpc_url()).await?, Proxy::start(&world.rpc_url()).await?);
    first.cut();
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.rpc_urls = vec![first.url.clone(), second.url.clone()];
    let relayer = start(settings).await?;
    let before = world.ask("credit", &applicant()).await?;
    world.wait_for(before, RequestStatus::Fulfilled).await?;
    first.mend();
    second.cut();
    let after = world.ask("digits", &image()).await?;
    world.wait_for(after, RequestStatus::Fulfilled).await?;
    Ok(relayer.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_that_is_dropped_leaves_its_database_free() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    drop(relayer);
    let deadline = Instant::now() + Duration::from_secs(5);
    let again = loop {
        match world.relayer(folder.path(), Some(&operator)).await {
            Ok((relayer, _)) => break relayer,
            Err(error) if Instant::now() > deadline => return Err(error.context("its tasks still run")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    Ok(again.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_forgeries_are_refused_and_the_honest_answer_still_counts() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let stranger = world.account().await?;
    let client = world.client_of(&stranger).await?;
    let (one, two) = (world.ask("credit", &applicant()).await?, world.ask("credit", &applicant()).await?);
    let asked = world.client.requested(one, 0).await?.context("no request")?;
    let other = world.client.requested(two, 0).await?.context("no request")?;
    let output = Bytes::from(world.right_answer("credit", &applicant())?);
    let sign = |key: &alloy::signers::local::PrivateKeySigner, packed| -> Result<Bytes> {
        let digest = world.client.domain().fulfillment_digest(&Request::unpack(packed)?, &output);
        Ok(signature_bytes(&key.sign_hash_sync(&digest)?))
    };
    let honest = sign(&operator.key, &asked.request)?;
    let post = |request: &candor_sdk::bindings::PackedRequest, output: &Bytes, signature: &Bytes| {
        client.fulfill(vec![Answer { request: *request, output: output.clone(), signature: signature.clone() }])
    };
    let mut cut = honest.to_vec();
    cut.pop();
    for (what, call, complaint) in [
        (
            "his own key",
            post(&asked.request, &output, &sign(&stranger, &asked.request)?),
            "is not registered by any operator",
        ),
        ("another request's signature", post(&other.request, &output, &honest), "is not registered by any operator"),
        (
            "another output",
            post(&asked.request, &Bytes::from_static(&[0; 4]), &honest),
            "is not registered by any operator",
        ),
        ("no signature", post(&asked.request, &output, &Bytes::new()), "not a valid signature"),
        ("a cut signature", post(&asked.request, &output, &cut.into()), "not a valid signature"),
    ] {
        match client.send(call).await {
            Err(ClientError::Reverted(reason)) => {
                assert!(reason.to_string().contains(complaint), "{what}: {reason}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    // Whoever carries the honest answer, it is the operator's; and it counts once.
    client.send(post(&asked.request, &output, &honest)).await?;
    let again = client.send(post(&asked.request, &output, &honest)).await;
    assert!(matches!(again, Err(ClientError::Reverted(Revert::Oracle(_)))), "{again:?}");
    assert_eq!(world.count::<IInferenceOracle::Fulfilled>(one).await?, 1);
    let folder = tempfile::tempdir()?;
    let (relayer, _) = world.relayer(folder.path(), Some(&operator)).await?;
    world.wait_for(two, RequestStatus::Fulfilled).await?;
    world.pass(WINDOW).await?;
    for id in [one, two] {
        world.wait_for(id, RequestStatus::Finalized).await?;
    }
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(2 * PRICE));
    Ok(relayer.stop().await?)
}

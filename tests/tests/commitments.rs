//! The contracts and the SDK hash, pack and sign the same bytes.

use alloy::{
    primitives::{Address, B256, U256},
    signers::SignerSync,
};
use anyhow::{Context, Result, bail};
use candor_sdk::{
    bindings::{Delivery, IInferenceOracle, IModelRegistry, IOperatorRegistry, Params},
    commitment::{SignedResult, VerifyError, signature_bytes},
    ids::{ModelId, RequestId},
    request::{Input, Request},
};
use candor_tests::{
    World,
    world::{applicant, ether},
};

/// A request with nothing zero and nothing at its limit.
fn example() -> Request {
    Request {
        id: RequestId(0x0102_0304_0506_0708),
        attempt: 0x1112_1314,
        requester: Address::repeat_byte(0xa1),
        model: ModelId(B256::repeat_byte(0xb2)),
        input_hash: B256::repeat_byte(0xc3),
        seed: B256::repeat_byte(0xd4),
        params: Params { maxTokens: 0x2122_2324, temperature: 0x3f80_0001, minP: 0x3d4c_cccd },
        input_by_uri: true,
        delivery: Delivery::Final,
        callback_gas_limit: 0x3132_3334,
        callback_gas_price: 0x4142_4344_4546,
        fee: 0x5152_5354_5556_5758_595a_5b5c,
        operator: Address::repeat_byte(0xe5),
        exclusive_until: 0x6162_6364,
        deadline: 0x6162_6364 + 0x7172_7374,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pack_hash_and_sign_alike() -> Result<()> {
    let world = World::start().await?;
    let (client, oracle) = (&world.client, world.client.oracle);
    let mut small = example();
    small.delivery = Delivery::Optimistic;
    small.input_by_uri = false;
    (small.fee, small.callback_gas_price, small.operator) = (1, 0, Address::ZERO);
    for request in [example(), small] {
        let packed = request.pack();
        let theirs = client.view(oracle, IInferenceOracle::unpackCall { request_: packed }).await?;
        assert_eq!(theirs.id, request.id.0);
        assert_eq!(theirs.attempt, request.attempt);
        assert_eq!(theirs.requester, request.requester);
        assert_eq!(theirs.modelId, request.model.0);
        assert_eq!(theirs.inputHash, request.input_hash);
        assert_eq!(theirs.seed, request.seed);
        assert_eq!(theirs.params, request.params);
        assert_eq!(theirs.delivery, request.delivery);
        assert_eq!(theirs.callbackGasLimit, request.callback_gas_limit);
        assert_eq!(theirs.callbackGasPrice, request.callback_gas_price);
        assert_eq!(theirs.fee.to::<u128>(), request.fee);
        assert_eq!(theirs.operator, request.operator);
        assert_eq!(theirs.exclusiveUntil, request.exclusive_until);
        assert_eq!(theirs.deadline, request.deadline);
        assert_eq!(client.view(oracle, IInferenceOracle::requestHashCall { request_: packed }).await?, request.hash());
        let output = b"an answer";
        let digest = IInferenceOracle::fulfillmentDigestCall {
            request_: packed,
            outputHash: alloy::primitives::keccak256(output),
            outputSize: 9,
        };
        assert_eq!(client.view(oracle, digest).await?, client.domain().fulfillment_digest(&request, output));
    }
    assert_eq!(client.view(oracle, IInferenceOracle::domainSeparatorCall {}).await?, client.domain().separator());
    let registry = client.view(client.operators, IOperatorRegistry::domainSeparatorCall {}).await?;
    assert_eq!(registry, client.operators_domain().separator());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn models_have_one_id() -> Result<()> {
    let world = World::start().await?;
    for model in world.models.values() {
        let call = IModelRegistry::idOfCall { descriptor: model.descriptor() };
        assert_eq!(ModelId(world.client.view(world.client.models, call).await?), model.id());
        assert_eq!(model.descriptor().id(), model.id());
        assert_eq!(world.client.model(model.id()).await?, Some(model.descriptor()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_result_verifies_offline_and_any_change_of_it_does_not() -> Result<()> {
    use alloy::sol_types::SolValue;
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let id = world.ask("credit", &applicant()).await?;
    let event = world.client.requested(id, 0).await?.context("no request")?;
    let request = Request::unpack(&event.request)?;
    let Input::Bytes(input) = event.input else { bail!("the input came with the request") };
    let output = world.right_answer("credit", &applicant())?;
    let domain = world.client.domain();
    let signature = operator.key.sign_hash_sync(&domain.fulfillment_digest(&request, &output))?;
    let result = SignedResult {
        domain,
        request: event.request.abi_encode().into(),
        input,
        output: output.into(),
        signature: signature_bytes(&signature),
    };
    assert_eq!(result.verify()?, (request, operator.address()));
    let through_json: SignedResult = serde_json::from_str(&serde_json::to_string(&result)?)?;
    assert_eq!(through_json, result);

    let mut other = result.clone();
    other.input = vec![0; 80].into();
    assert!(matches!(other.verify(), Err(VerifyError::Input { .. })));
    let signer = |result: &SignedResult| result.verify().map(|(_, signer)| signer);
    let mut other = result.clone();
    other.output = vec![0; 4].into();
    assert_ne!(signer(&other), Ok(operator.address()), "another output");
    let mut other = result.clone();
    other.domain.chain_id += 1;
    assert_ne!(signer(&other), Ok(operator.address()), "another chain");
    let mut other = result.clone();
    other.domain.contract = Address::repeat_byte(1);
    assert_ne!(signer(&other), Ok(operator.address()), "another contract");
    let mut other = result.clone();
    let mut bytes = other.request.to_vec();
    bytes[31] ^= 1; // the request's number
    other.request = bytes.into();
    assert_ne!(signer(&other), Ok(operator.address()), "another request");

    // The malleable twin: s' = n - s, v flipped. Recovers to the same key, and must be refused for that.
    let order = U256::from_be_slice(&hex::<32>("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"));
    let mut twin = result.signature.to_vec();
    let s = order - U256::from_be_slice(&twin[32..64]);
    twin[32..64].copy_from_slice(&s.to_be_bytes::<32>());
    twin[64] = if twin[64] == 27 { 28 } else { 27 };
    let mut other = result.clone();
    other.signature = twin.into();
    assert_eq!(other.verify().map(|_| ()), Err(VerifyError::Signature("s is in the upper half: a malleable twin")));
    for (signature, why) in [(vec![0; 64], "expected 65 bytes"), (vec![1; 65], "v must be 27 or 28")] {
        let mut other = result.clone();
        other.signature = signature.into();
        assert_eq!(other.verify().map(|_| ()), Err(VerifyError::Signature(why)));
    }
    Ok(())
}

fn hex<const N: usize>(digits: &str) -> [u8; N] {
    alloy::primitives::hex::decode_to_array(digits).expect("hex")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_chain_takes_of_an_input_the_fetcher_takes_too() -> Result<()> {
    use candor_relayer::fetch::MAX_INPUT_BYTES;
    use candor_sdk::request::MAX_URI_BYTES;
    let mut world = World::start().await?;
    world.operator(ether(2)).await?;
    let (client, hash) = (&world.client, B256::repeat_byte(1));
    let most = client.view(client.models, IModelRegistry::MAX_BYTESCall {}).await?;
    assert!(most <= MAX_INPUT_BYTES, "a model may take {most} bytes, {MAX_INPUT_BYTES} are fetched");
    let id = client.request_count().await?;
    let longest = format!("data:,{}", "x".repeat(MAX_URI_BYTES - 6));
    assert!(world.ask_by_uri("credit", hash, 80, &format!("{longest}x")).await.is_err(), "a byte too long");
    assert_eq!(world.ask_by_uri("credit", hash, 80, &longest).await?, RequestId(id + 1));
    Ok(())
}

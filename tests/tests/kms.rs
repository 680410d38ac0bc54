//! Keys in AWS KMS, played by a service on this machine: signatures, refusals, and a whole relayer that has no key of its own.
//!
//! With the feature only: `make keys`.
#![cfg(feature = "aws")]

use alloy::{
    consensus::{SignableTransaction, TxEip1559},
    primitives::{B256, U256},
    providers::Provider,
    signers::{
        aws::{
            aws_config::{ConfigLoader, timeout::TimeoutConfig},
            aws_sdk_kms::config::{Credentials, SharedCredentialsProvider},
        },
        local::PrivateKeySigner,
    },
};
use anyhow::{Context, Result, ensure};
use candor_relayer::keys::{KeyKind, SignError, SigningKey, aws};
use candor_sdk::bindings::{IInferenceOracle, RequestStatus};
use candor_tests::{
    Scene,
    kms::{FakeKms, KEY, Manner},
    process::{candor_binary, write_config},
    world::{PRICE, WINDOW, applicant, image},
};
use std::{process::Output, time::Duration};

const SECRET: &str = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY";

fn settings(kms: &FakeKms) -> Result<ConfigLoader> {
    let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", SECRET, None, None, "test");
    let settings = aws::settings().map_err(anyhow::Error::msg)?;
    Ok(settings.endpoint_url(&kms.url).credentials_provider(SharedCredentialsProvider::new(credentials)))
}

async fn connect(kms: &FakeKms) -> Result<SigningKey> {
    let found = aws::connect_through(settings(kms)?, KEY).await.map_err(anyhow::Error::msg)?;
    Ok(SigningKey::elsewhere(KeyKind::AwsKms, found))
}

fn key(byte: u8) -> Result<PrivateKeySigner> {
    Ok(PrivateKeySigner::from_bytes(&B256::repeat_byte(byte))?)
}

#[tokio::test]
async fn signatures_are_the_accounts_and_low() -> Result<()> {
    let kms = FakeKms::start(key(7)?).await?;
    let signer = connect(&kms).await?;
    assert_eq!((signer.address(), signer.kind()), (key(7)?.address(), KeyKind::AwsKms));
    assert!(!format!("{signer:?}").contains(SECRET));
    for manner in [Manner::Good, Manner::HighS] {
        kms.behave(manner);
        for byte in 0..8 {
            let digest = B256::repeat_byte(byte);
            let signature = signer.sign_hash(&digest).await?;
            assert_eq!(signature.recover_address_from_prehash(&digest)?, signer.address());
            assert!(signature.normalize_s().is_none(), "contracts take the low one only");
        }
        let mut transaction = TxEip1559 { chain_id: 31337, gas_limit: 21_000, ..TxEip1559::default() };
        let signature = signer.sign_transaction(&mut transaction).await?;
        assert_eq!(signature.recover_address_from_prehash(&transaction.signature_hash())?, signer.address());
    }
    Ok(())
}

#[tokio::test]
async fn a_key_that_became_another_signs_nothing_that_is_used() -> Result<()> {
    let kms = FakeKms::start(key(7)?).await?;
    let signer = connect(&kms).await?;
    kms.behave(Manner::OtherKey(key(8)?));
    let error = signer.sign_hash(&B256::ZERO).await.err().context("it signed")?;
    assert!(matches!(error, SignError::WrongKey { .. }) && !error.is_retryable(), "{error}");
    Ok(())
}

#[tokio::test]
async fn throttling_is_waited_out_and_said_when_it_does_not_end() -> Result<()> {
    let kms = FakeKms::start(key(7)?).await?;
    let signer = connect(&kms).await?;
    kms.behave(Manner::Throttled(2, 3));
    signer.sign_hash(&B256::ZERO).await?;
    assert_eq!((kms.questions(), kms.signatures()), (3, 1));
    kms.behave(Manner::Throttled(1, 1));
    let error = signer.sign_hash(&B256::ZERO).await.err().context("it signed")?;
    assert!(error.is_retryable() && error.to_string().contains("exceeded the rate"), "{error}");
    assert_eq!(kms.questions(), 3 + 4, "four tries, and no more");
    Ok(())
}

#[tokio::test]
async fn refusals_and_silence_are_errors_that_say_what_they_are() -> Result<()> {
    let kms = FakeKms::start(key(7)?).await?;
    let signer = connect(&kms).await?;
    kms.behave(Manner::Denied);
    let error = signer.sign_hash(&B256::ZERO).await.err().context("it signed")?;
    assert!(error.is_retryable() && error.to_string().contains("not authorized to perform: kms:Sign"), "{error}");

    kms.behave(Manner::Silent);
    let short = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(100));
    let impatient = settings(&kms)?.timeout_config(short.operation_timeout(Duration::from_millis(300)).build());
    let found = aws::connect_through(impatient, KEY).await.map_err(anyhow::Error::msg)?;
    let error =
        SigningKey::elsewhere(KeyKind::AwsKms, found).sign_hash(&B256::ZERO).await.err().context("it signed")?;
    assert!(error.is_retryable() && error.to_string().contains("timeout"), "{error}");
    let error =
        signer.with_patience(Duration::from_millis(50)).sign_hash(&B256::ZERO).await.err().context("it signed")?;
    assert!(matches!(error, SignError::TimedOut { .. }), "{error}");

    let unknown = KEY.replace("1234abcd", "0000abcd");
    let error = aws::connect_through(settings(&kms)?, &unknown).await.err().context("it is there")?;
    assert!(error.contains("Key does not exist") && !error.contains(SECRET), "{error}");
    // A key for the curve that most certificates use.
    let mut other = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    other.extend([0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04]);
    other.extend([0x11; 64]);
    kms.show(other);
    let error = aws::connect_through(settings(&kms)?, KEY).await.err().context("it is there")?;
    assert!(error.contains("ECC_SECG_P256K1"), "{error}");
    Ok(())
}

/// A relayer that sends and signs with a KMS which asks for patience every other time.
#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_without_a_key_of_its_own_answers_all_the_same() -> Result<()> {
    let scene = Scene::new().await?;
    let Scene { world, operator, .. } = &scene;
    let kms = FakeKms::start(operator.key.clone()).await?;
    kms.behave(Manner::Throttled(1, 2));
    let mut settings = scene.settings();
    let key = connect(&kms).await?;
    let operator_settings = settings.operator.as_mut().context("no operator")?;
    (operator_settings.account, operator_settings.signer) = (key.clone(), key);
    let relayer = scene.start(settings).await?;
    let mut asked = Vec::new();
    for _ in 0..10 {
        asked.push(world.ask("credit", &applicant()).await?);
    }
    for id in &asked {
        world.wait_for(*id, RequestStatus::Fulfilled).await?;
    }
    // Away for a while: the work waits, and the relayer does not give up.
    kms.behave(Manner::Denied);
    let late = world.ask("digits", &image()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.client.status(late).await?.0, RequestStatus::Requested);
    kms.behave(Manner::HighS);
    asked.push(late);
    world.wait_for(late, RequestStatus::Fulfilled).await?;
    world.pass(WINDOW).await?;
    for id in &asked {
        world.wait_for(*id, RequestStatus::Finalized).await?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(*id).await?, 1);
    }
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(asked.len()) * U256::from(PRICE));
    assert!(world.failed_transactions(operator.address()).await?.is_empty());
    Ok(relayer.stop().await?)
}

/// The program itself: named in its configuration, found through the environment as every program of AWS's does.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_finds_its_key_and_joins_and_is_in_order() -> Result<()> {
    let mut scene = Scene::new().await?;
    let account = scene.world.account().await?;
    let kms = FakeKms::start(account.clone()).await?;
    let config = write_config(scene.folder.path(), &scene.world, &scene.world.rpc_url())?;
    let run = async |arguments: &[&str]| -> Result<Output> {
        let mut command = tokio::process::Command::new(candor_binary()?);
        command
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .arg("--set")
            .arg(format!("operator.account.aws_kms={KEY}"));
        command.env_remove("CANDOR_PRIVATE_KEY").env("AWS_ENDPOINT_URL_KMS", &kms.url);
        command.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", SECRET);
        let output = command.output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(!said.contains(SECRET), "a secret is said: {said}");
        Ok(output)
    };
    let joined = run(&["operator", "join", "-v"]).await?;
    ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let owner = scene.world.client.operator_of(account.address()).await?;
    assert_eq!(owner, Some(account.address()), "its consent was signed in the KMS, too");
    let healthy = run(&["doctor"]).await?;
    let said = String::from_utf8_lossy(&healthy.stdout).into_owned();
    assert!(healthy.status.success() && said.contains(", AWS KMS key"), "{said}");
    assert!(scene.world.client.provider().get_transaction_count(account.address()).await? >= 3);

    kms.behave(Manner::Denied);
    let ill = run(&["doctor"]).await?;
    let said = String::from_utf8_lossy(&ill.stdout).into_owned();
    assert!(ill.status.code() == Some(3) && said.contains("not authorized to perform: kms:Sign"), "{said}");
    Ok(())
}

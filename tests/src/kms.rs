//! As much of AWS KMS as a signer asks, over HTTP on this machine: shows a public key, signs digests, and misbehaves as it is told.

use alloy::{
    primitives::{B256, U256},
    signers::{SignerSync, k256::ecdsa, local::PrivateKeySigner},
};
use anyhow::{Context, Result, ensure};
use aws_smithy_types::base64;
use serde_json::{Value, json};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Name of its one key.
pub const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// What it does when it is asked for a signature.
#[derive(Debug, Clone, Default)]
pub enum Manner {
    /// Signs.
    #[default]
    Good,
    /// Signs with the high one of the two signatures that there are, as KMS does every other time.
    HighS,
    /// Signs with another key, as after an alias was pointed elsewhere.
    OtherKey(PrivateKeySigner),
    /// Asks for patience this many times of so many, and signs then.
    Throttled(usize, usize),
    /// Says that this is not allowed.
    Denied,
    /// Says nothing at all.
    Silent,
}

/// The service. Dropping it closes it.
#[derive(Debug)]
pub struct FakeKms {
    /// Where it listens.
    pub url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    key: PrivateKeySigner,
    manner: Mutex<Manner>,
    signatures: AtomicUsize,
    questions: AtomicUsize,
    /// What the public key is said to be, instead of the true one.
    shown: Mutex<Option<Vec<u8>>>,
}

impl FakeKms {
    /// One with this key.
    pub async fn start(key: PrivateKeySigner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State {
            key,
            manner: Mutex::default(),
            signatures: AtomicUsize::new(0),
            questions: AtomicUsize::new(0),
            shown: Mutex::default(),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                // An error is a connection that ends.
                tokio::spawn(async move { serve(client, &state).await.ok() });
            }
        });
        Ok(Self { url, state, task })
    }

    /// From now on it signs like this.
    pub fn behave(&self, manner: Manner) {
        *self.state.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// From now on it shows this as its public key.
    pub fn show(&self, der: Vec<u8>) {
        *self.state.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(der);
    }

    /// How often it was asked for a signature.
    pub fn questions(&self) -> usize {
        self.state.questions.load(Ordering::Relaxed)
    }

    /// How often it signed.
    pub fn signatures(&self) -> usize {
        self.state.signatures.load(Ordering::Relaxed)
    }
}

impl Drop for FakeKms {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, on which questions come one after the other.
async fn serve(mut client: TcpStream, state: &State) -> Result<()> {
    let mut data = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            read_more(&mut client, &mut data).await?;
        };
        let head = String::from_utf8_lossy(&data[..end]).into_owned();
        let header = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(':'))
                .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
        };
        let length: usize = header("content-length").context("a body without a length")?.parse()?;
        while data.len() < end + 4 + length {
            read_more(&mut client, &mut data).await?;
        }
        let question: Value = serde_json::from_slice(&data[end + 4..end + 4 + length])?;
        data.drain(..end + 4 + length);
        let authorization = header("authorization").context("not signed for")?;
        ensure!(authorization.contains("/eu-central-1/kms/aws4_request"), "signed for elsewhere: {authorization}");
        let target = header("x-amz-target").context("no operation")?;
        let Some((status, answer)) = answer(&target, &question, state)? else {
            return std::future::pending().await;
        };
        let body = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.write_all(head.as_bytes()).await?;
        client.write_all(body.as_bytes()).await?;
    }
}

async fn read_more(client: &mut TcpStream, data: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 4096];
    let read = client.read(&mut buffer).await?;
    ensure!(read > 0, "closed");
    data.extend_from_slice(&buffer[..read]);
    Ok(())
}

fn answer(target: &str, question: &Value, state: &State) -> Result<Option<(&'static str, Value)>> {
    let fault =
        |kind: &str, message: &str| Ok(Some(("400 Bad Request", json!({ "__type": kind, "message": message }))));
    if question["KeyId"] != KEY {
        return fault("NotFoundException", "Key does not exist");
    }
    match target {
        "TrentService.GetPublicKey" => {
            let shown = state.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let der = shown.unwrap_or_else(|| public_key(&state.key));
            Ok(Some((
                "200 OK",
                json!({ "KeyId": KEY, "KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY", "PublicKey": base64::encode(der) }),
            )))
        }
        "TrentService.Sign" => {
            let asked = state.questions.fetch_add(1, Ordering::Relaxed);
            ensure!(
                question["MessageType"] == "DIGEST" && question["SigningAlgorithm"] == "ECDSA_SHA_256",
                "{question}"
            );
            let digest = base64::decode(question["Message"].as_str().context("no digest")?)?;
            let digest = B256::try_from(&digest[..])?;
            let manner = state.manner.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (key, high) = match manner {
                Manner::Silent => return Ok(None),
                Manner::Denied => {
                    return fault("AccessDeniedException", "User: relayer is not authorized to perform: kms:Sign");
                }
                Manner::Throttled(times, of) if asked % of < times => {
                    return fault("ThrottlingException", "You have exceeded the rate at which you may call KMS.");
                }
                Manner::Good | Manner::Throttled(..) => (&state.key, false),
                Manner::HighS => (&state.key, true),
                Manner::OtherKey(ref other) => (other, false),
            };
            state.signatures.fetch_add(1, Ordering::Relaxed);
            let signature = der(key, &digest, high)?;
            Ok(Some(("200 OK", json!({ "KeyId": KEY, "Signature": base64::encode(signature) }))))
        }
        other => fault("UnknownOperationException", other),
    }
}

/// A public key as KMS shows it: `SubjectPublicKeyInfo`, with the whole point.
fn public_key(key: &PrivateKeySigner) -> Vec<u8> {
    // SEQUENCE { SEQUENCE { ecPublicKey, secp256k1 }, BIT STRING of 65 bytes }
    let mut der = vec![0x30, 0x56, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    der.extend([0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a, 0x03, 0x42, 0x00]);
    der.extend(key.credential().verifying_key().to_encoded_point(false).as_bytes());
    der
}

/// A signature as KMS gives it.
fn der(key: &PrivateKeySigner, digest: &B256, high: bool) -> Result<Vec<u8>> {
    let signature = key.sign_hash_sync(digest)?;
    let order: U256 = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141".parse()?;
    let s = if high { order - signature.s() } else { signature.s() };
    let signature = ecdsa::Signature::from_scalars(signature.r().to_be_bytes::<32>(), s.to_be_bytes::<32>())?;
    Ok(signature.to_der().as_bytes().to_vec())
}

//! What most tests begin with: a world, an operator, and a folder for its relayer.

use crate::world::{Operator, World, applicant, ether};
use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    network::TxSignerSync,
    primitives::{Address, TxKind, U256},
    providers::{Provider, ext::AnvilApi},
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    pipeline::{self, Handle, Settings},
    store::{SentTransaction, Store},
};
use candor_sdk::{bindings::Answer, ids::RequestId};
use std::time::Duration;
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

/// Wei that the operator has at stake.
pub const STAKE: u64 = 3;

/// The three of them.
#[derive(Debug)]
pub struct Scene {
    /// The world.
    pub world: World,
    /// An operator with [`STAKE`] ether at stake.
    pub operator: Operator,
    /// Where its relayer has its database.
    pub folder: tempfile::TempDir,
}

impl Scene {
    /// In a new world.
    pub async fn new() -> Result<Self> {
        Self::within(World::start().await?).await
    }

    /// In this one.
    pub async fn within(mut world: World) -> Result<Self> {
        let operator = world.operator(ether(STAKE)).await?;
        Ok(Self { world, operator, folder: tempfile::tempdir()? })
    }

    /// Settings of the operator's relayer.
    pub fn settings(&self) -> Settings {
        self.world.settings(self.folder.path(), Some(&self.operator))
    }

    /// A relayer with these settings.
    pub async fn start(&self, settings: Settings) -> Result<Handle> {
        Ok(pipeline::spawn(settings, broadcast::channel(1024).0, CancellationToken::new()).await?)
    }
}

/// A request whose answer is in a transaction that no block takes: none are made, but by hand.
#[derive(Debug)]
pub struct Stuck {
    /// The request.
    pub id: RequestId,
    /// The relayer that answers it.
    pub relayer: Handle,
    /// The first transaction.
    pub sent: SentTransaction,
}

impl Scene {
    /// Asks `credit`, and has a relayer with these settings send the answer to a chain that makes no blocks.
    pub async fn stuck(&self, settings: Settings) -> Result<Stuck> {
        let id = self.world.ask("credit", &applicant()).await?;
        self.world.client.provider().anvil_set_auto_mine(false).await?;
        let relayer = self.start(settings).await?;
        let sent = in_flight(&relayer.store, |_| true).await?.remove(0);
        Ok(Stuck { id, relayer, sent })
    }

    /// Another program uses the operator's key and a transaction's nonce, in a block of its own.
    pub async fn take_nonce(&self, sent: &SentTransaction) -> Result<()> {
        let provider = self.world.client.provider();
        let mut other = TxEip1559 {
            chain_id: self.world.client.chain_id,
            nonce: sent.nonce,
            gas_limit: 21_000,
            max_fee_per_gas: sent.max_fee * 3,
            max_priority_fee_per_gas: sent.max_fee * 2,
            to: TxKind::Call(Address::repeat_byte(9)),
            value: U256::from(1),
            ..Default::default()
        };
        let signature = self.operator.key.sign_transaction_sync(&mut other)?;
        let envelope: TxEnvelope = other.into_signed(signature).into();
        let _sent = provider.send_raw_transaction(&envelope.encoded_2718()).await?;
        provider.anvil_mine(Some(1), None).await?;
        Ok(())
    }

    /// Somebody else carries the answer that a relayer has signed, in a block with this base fee.
    pub async fn carried(&self, store: &Store, id: RequestId, base_fee: u128) -> Result<()> {
        let row = store.request(id).await?.context("not stored")?;
        let (output, signature) = (row.output.context("no output")?, row.signature.context("no signature")?);
        self.world.carry(Answer { request: row.request.pack(), output, signature }, base_fee).await
    }
}

/// The transactions in flight, once there are some for which this is so.
pub async fn in_flight(store: &Store, wanted: impl Fn(&[SentTransaction]) -> bool) -> Result<Vec<SentTransaction>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // A database that is being made, or busy, has nothing to show yet.
        let sent = store.unresolved().await.unwrap_or_default();
        if !sent.is_empty() && wanted(&sent) {
            return Ok(sent);
        }
        ensure!(Instant::now() < deadline, "in flight is only {sent:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

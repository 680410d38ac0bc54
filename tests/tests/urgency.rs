//! A chain that is busy while a dispute waits for a move: it is made before the time is up, by paying more and more.

use alloy::{
    primitives::{B256, U256},
    providers::{Provider, ext::AnvilApi},
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    dispute::book::result_hash,
    pipeline::{self, Handle},
};
use candor_sdk::{
    bindings::{Fulfillment, IDisputeGame, PackedRequest, RequestStatus, Terms},
    client::Call,
    ids::RequestId,
};
use candor_tests::{
    World,
    world::{applicant, dispute_terms, ether},
};
use std::time::Duration;
use tokio::time::Instant;

/// Seconds in which the operator has to make its claim.
const CLOCK: u32 = 40;
/// Wei per gas that the chain asks for when it is busy: ten times what it asked before, and more than anything in flight then offers.
const BUSY: u128 = 20_000_000_000;
/// What it asks for otherwise: less than anybody offers.
const QUIET: u128 = 1_000_000;

struct Rush {
    world: World,
    relayer: Handle,
    _folder: tempfile::TempDir,
}

impl Rush {
    /// An operator that by itself would leave a transaction as it is for an hour, and blocks that are made when the test says so.
    async fn new() -> Result<Self> {
        let terms = Terms { clock: CLOCK, increment: 1, extension: CLOCK, ..dispute_terms() };
        let mut world = World::start_with_terms(terms).await?;
        let operator = world.operator(ether(5)).await?;
        let folder = tempfile::tempdir()?;
        let mut settings = world.settings(folder.path(), Some(&operator));
        settings.gas.bump_after = Duration::from_secs(3600);
        let relayer = pipeline::spawn(settings, tokio::sync::broadcast::channel(1024).0, Default::default()).await?;
        Ok(Self { world, relayer, _folder: folder })
    }

    async fn mine(&self, base_fee: u128) -> Result<()> {
        let provider = self.world.client.provider();
        provider.anvil_set_next_block_base_fee_per_gas(base_fee).await?;
        provider.anvil_mine(Some(1), None).await?;
        Ok(())
    }

    /// The fees of what is in flight.
    async fn in_flight(&self) -> Result<Vec<u128>> {
        Ok(self.relayer.store.unresolved().await?.iter().map(|sent| sent.max_fee).collect())
    }

    /// Waits until something is in flight.
    async fn sent(&self) -> Result<u128> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(fee) = self.in_flight().await?.first() {
                return Ok(*fee);
            }
            ensure!(Instant::now() < deadline, "nothing was sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn posted(&self, id: RequestId) -> Result<(PackedRequest, Fulfillment)> {
        let (event, _) = self.world.client.fulfilled(id, 0).await?.context("no result")?;
        let request = self.world.client.requested(id, 0).await?.context("no request")?.request;
        Ok((request, event.fulfillment))
    }

    /// Somebody challenges a right result, in a block of its own.
    async fn challenge(&self, (request, fulfillment): (PackedRequest, Fulfillment), base_fee: u128) -> Result<()> {
        let client = self.world.client_of(&self.world_key()?).await?;
        let game = self.world.deployment.game;
        let bond = U256::from(dispute_terms().bond);
        let call = Call::new(game, bond, &IDisputeGame::challengeCall { request, fulfillment });
        // Whatever the chain asks for: it is not the challenger who is in a hurry here.
        let transaction =
            call.into_transaction().max_fee_per_gas(5 * BUSY).max_priority_fee_per_gas(1).gas_limit(1_000_000);
        let receipt = self
            .mined(base_fee, async { Ok(client.provider().send_transaction(transaction).await?.get_receipt().await?) });
        ensure!(receipt.await?.status(), "the challenge was refused");
        Ok(())
    }

    /// Makes a block now and then until something that waits for one is done.
    async fn mined<T>(&self, base_fee: u128, doing: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(doing);
        loop {
            tokio::select! {
                done = &mut doing => return done,
                () = tokio::time::sleep(Duration::from_millis(500)) => self.mine(base_fee).await?,
            }
        }
    }

    fn world_key(&self) -> Result<alloy::signers::local::PrivateKeySigner> {
        Ok(alloy::signers::local::PrivateKeySigner::from_bytes(&B256::with_last_byte(0x77))?)
    }

    /// A busy chain, block after block, until the operator has made its claim, which it does in time.
    async fn claimed(&self, (request, fulfillment): &(PackedRequest, Fulfillment)) -> Result<()> {
        let (client, game) = (&self.world.client, self.world.deployment.game);
        let result = result_hash(request, fulfillment);
        loop {
            let seen = client.view(game, IDisputeGame::resultOfCall { result }).await?;
            if seen.claimedAt != 0 {
                return Ok(());
            }
            let block = client.provider().get_block(Default::default()).await?.context("no block")?;
            ensure!(block.header.timestamp <= seen.claimBy, "the time is up: {:?}", self.in_flight().await?);
            tokio::time::sleep(Duration::from_millis(1200)).await;
            self.mine(BUSY).await?;
        }
    }

    async fn stop(self) -> Result<()> {
        self.world.client.provider().anvil_set_auto_mine(true).await?;
        Ok(self.relayer.stop().await?)
    }
}

/// The base fee rises tenfold after the move was sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_outbids_a_spike_before_its_time_is_up() -> Result<()> {
    let rush = Rush::new().await?;
    let id = rush.world.ask("credit", &applicant()).await?;
    rush.world.wait_for(id, RequestStatus::Fulfilled).await?;
    let posted = rush.posted(id).await?;
    rush.world.client.provider().anvil_set_auto_mine(false).await?;
    rush.challenge(posted.clone(), QUIET).await?;
    let fee = rush.sent().await?;
    ensure!(fee < BUSY, "it offered {fee} before the chain was busy");
    rush.claimed(&posted).await?;
    rush.stop().await
}

/// Another transaction of the same account stands before the move, and offers too little: that one is replaced, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_pushes_what_stands_before_it() -> Result<()> {
    let rush = Rush::new().await?;
    let first = rush.world.ask("credit", &applicant()).await?;
    rush.world.wait_for(first, RequestStatus::Fulfilled).await?;
    let posted = rush.posted(first).await?;
    rush.world.client.provider().anvil_set_auto_mine(false).await?;
    let input = applicant();
    let second = rush.mined(QUIET, rush.world.ask("credit", &input)).await?;
    let fee = rush.sent().await?;
    ensure!(fee < BUSY, "it offered {fee} before the chain was busy");
    rush.challenge(posted.clone(), BUSY).await?;
    rush.claimed(&posted).await?;
    ensure!(
        rush.world.client.status(second).await?.0 == RequestStatus::Fulfilled,
        "what stood before the move is mined"
    );
    rush.stop().await
}

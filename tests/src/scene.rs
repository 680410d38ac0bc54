//! What most tests begin with: a world, an operator, and a folder for its relayer.

use crate::world::{Operator, World, ether};
use anyhow::{Result, ensure};
use candor_relayer::{
    pipeline::{self, Handle, Settings},
    store::{SentTransaction, Store},
};
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

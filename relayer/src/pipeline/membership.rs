//! This process among those that share the store: signs of life, and who is the submitter.

use super::{RelayerError, Shared};
use crate::{complaints::Complaints, keylock::KeyLock, store::WorkerCard};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

/// What this process has done, for the others to see.
#[derive(Debug, Default)]
pub(crate) struct Work {
    answered: AtomicU64,
    busy_micros: AtomicU64,
}

impl Work {
    /// Time in which a model ran.
    pub(crate) fn busy(&self) -> Duration {
        Duration::from_micros(self.busy_micros.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, answered: usize, busy: Duration) {
        self.answered.fetch_add(answered as u64, Ordering::Relaxed);
        self.busy_micros.fetch_add(u64::try_from(busy.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What this process stands for.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Device and models; the rest is filled in each time.
    pub(super) card: WorkerCard,
    /// The lock of the account's key on this machine, once it is held; none: this process never sends.
    pub(super) key: Option<KeyLock>,
}

/// Tries once, before anything else runs. True if this process is the submitter.
pub(super) async fn stand(shared: &Shared, candidate: &mut Candidate) -> Result<bool, RelayerError> {
    let card = WorkerCard {
        answered: shared.work_done.answered.load(Ordering::Relaxed),
        busy: shared.work_done.busy(),
        ..candidate.card.clone()
    };
    // Without the key's lock somebody else on this machine sends with it.
    let stands = candidate.key.as_mut().is_none_or(KeyLock::try_hold);
    Ok(shared.store.sign_of_life(&card, stands).await?)
}

/// Signs of life as long as the relayer runs.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut candidate: Candidate,
    leads: watch::Sender<bool>,
) -> Result<(), RelayerError> {
    let lease = shared.store.lease();
    let mut complaints = Complaints::default();
    let mut last = Instant::now();
    while !shared.stop.is_cancelled() {
        tokio::select! { () = tokio::time::sleep(lease / 3) => {}, () = shared.stop.cancelled() => break }
        shared.round("membership");
        let led = *leads.borrow();
        let leads_now = match stand(&shared, &mut candidate).await {
            Ok(elected) => {
                last = Instant::now();
                elected
            }
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                shared.note("membership", &error);
                if complaints.is_news(&error.to_string()) {
                    warn!(%error, "no sign of life could be given");
                }
                // The lease holds from the last sign of life on; the store itself refuses a submitter that has lost it.
                led && last.elapsed() < lease
            }
        };
        if leads_now != led {
            if leads_now {
                info!(member = shared.store.member(), "this process is the submitter now");
            } else {
                warn!(member = shared.store.member(), "this process is not the submitter any more");
            }
            leads.send_replace(leads_now);
        }
    }
    Ok(())
}

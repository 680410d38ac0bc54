//! What the relayer itself adds to the time that a request takes: from when its event was read to when its transaction is handed to a node, less what the
//! model took and the chain was waited for.

use crate::{
    ops::metrics::REQUEST_OVERHEAD,
    pipeline::{Progress, Reporter},
};
use candor_sdk::ids::RequestId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Requests that are remembered; of more, the oldest are not measured.
const REMEMBERED: usize = 1 << 16;

/// A clock that stands still while the model runs or the chain is waited for. What is done beside that costs no request any time.
#[derive(Debug)]
pub(crate) struct OwnTime {
    state: Mutex<State>,
    reporter: Reporter,
}

#[derive(Debug)]
struct State {
    /// Own time until `since`.
    passed: Duration,
    /// The last change of `waiting`.
    since: Instant,
    /// What is waited for now.
    waiting: usize,
    /// Requests that were read and not sent, and when by this clock.
    read: BTreeMap<(u64, u32), Duration>,
}

impl State {
    fn advance(&mut self) -> Duration {
        let now = Instant::now();
        if self.waiting == 0 {
            self.passed += now - self.since;
        }
        self.since = now;
        self.passed
    }
}

impl OwnTime {
    pub(crate) fn new(reporter: Reporter) -> Self {
        let state = State { passed: Duration::ZERO, since: Instant::now(), waiting: 0, read: BTreeMap::new() };
        Self { state: Mutex::new(state), reporter }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the clock for as long as this takes.
    pub(crate) async fn wait<T>(&self, event: impl Future<Output = T>) -> T {
        let _waiting = self.waiting();
        event.await
    }

    /// Stops the clock until what this gives is dropped.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        let mut state = self.state();
        state.advance();
        state.waiting += 1;
        Waiting(self)
    }

    /// The event of a request has arrived.
    pub(crate) fn read(&self, key: (u64, u32)) {
        let mut state = self.state();
        let now = state.advance();
        // Ranges overlap: what counts is the first time.
        state.read.entry(key).or_insert(now);
        if state.read.len() > REMEMBERED {
            state.read.pop_first();
        }
    }

    /// Nothing will be sent for these.
    pub(crate) fn given_up(&self, key: (u64, u32)) {
        self.state().read.remove(&key);
    }

    /// A transaction with these is stored, signed, and about to be handed to a node.
    pub(crate) fn sent(&self, keys: &[(u64, u32)]) {
        let mut state = self.state();
        let now = state.advance();
        let own: Vec<_> = keys.iter().filter_map(|key| Some((key.0, now - state.read.remove(key)?))).collect();
        drop(state);
        for (id, own) in own {
            metrics::histogram!(REQUEST_OVERHEAD).record(own);
            let _ = self.reporter.send(Progress::Sent { id: RequestId(id), own });
        }
    }
}

/// The clock stands still.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a OwnTime);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.advance();
        state.waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(clock: &OwnTime, key: (u64, u32)) -> Option<Duration> {
        let mut told = clock.reporter.subscribe();
        clock.sent(&[key]);
        match told.try_recv() {
            Ok(Progress::Sent { own, .. }) => Some(own),
            _ => None,
        }
    }

    #[test]
    fn waiting_is_nobodys_own_time_however_much_of_it_there_is_at_once() {
        let clock = OwnTime::new(Reporter::new(8));
        clock.read((1, 0));
        let long = Duration::from_millis(200);
        let started = Instant::now();
        {
            let _model = clock.waiting();
            let _chain = clock.waiting();
            std::thread::sleep(long);
        }
        let waited = started.elapsed();
        std::thread::sleep(Duration::from_millis(5));
        let own = own(&clock, (1, 0)).unwrap();
        assert!(own >= Duration::from_millis(5) && own <= started.elapsed().saturating_sub(long), "{own:?} {waited:?}");
    }

    #[test]
    fn each_request_is_measured_once_from_when_it_was_first_read() {
        let clock = OwnTime::new(Reporter::new(8));
        clock.read((1, 0));
        std::thread::sleep(Duration::from_millis(5));
        clock.read((1, 0));
        assert!(own(&clock, (1, 0)).unwrap() >= Duration::from_millis(5));
        assert_eq!(own(&clock, (1, 0)), None, "sent again, as after a reorganisation");
        clock.read((2, 0));
        clock.given_up((2, 0));
        assert_eq!(own(&clock, (2, 0)), None);
    }

    #[test]
    fn what_is_never_sent_is_forgotten_some_day() {
        let clock = OwnTime::new(Reporter::new(8));
        for id in 0..REMEMBERED as u64 + 10 {
            clock.read((id, 0));
        }
        assert_eq!(clock.state().read.len(), REMEMBERED);
        assert_eq!(own(&clock, (9, 0)), None);
        assert!(own(&clock, (10, 0)).is_some());
    }
}

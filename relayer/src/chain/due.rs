//! Until when transactions have to be in a block.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Deadlines of what is sent or waits for its turn.
#[derive(Debug, Default)]
pub(super) struct Due(Mutex<Vec<Instant>>);

impl Due {
    /// Notes a deadline as long as the answer lives.
    pub(super) fn add(&self, until: Instant) -> Pressing<'_> {
        self.lock().push(until);
        Pressing { due: self, until }
    }

    /// Time until the first of them; none if there is none.
    pub(super) fn left(&self) -> Option<Duration> {
        self.left_at(Instant::now())
    }

    fn left_at(&self, now: Instant) -> Option<Duration> {
        let first = self.lock().iter().min().copied()?;
        Some(first.saturating_duration_since(now))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Instant>> {
        // Nothing that holds it can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that has to be in a block by some time.
pub(super) struct Pressing<'a> {
    due: &'a Due,
    until: Instant,
}

impl Drop for Pressing<'_> {
    fn drop(&mut self) {
        let mut due = self.due.lock();
        if let Some(at) = due.iter().position(|until| *until == self.until) {
            due.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_those_that_wait_counts() {
        let (due, now) = (Due::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(due.left_at(now), None);
        let later = due.add(after(60));
        let sooner = due.add(after(10));
        assert_eq!(due.left_at(after(4)), Some(Duration::from_secs(6)));
        drop(sooner);
        assert_eq!(due.left_at(after(4)), Some(Duration::from_secs(56)));
        assert_eq!(due.left_at(after(70)), Some(Duration::ZERO), "it is late, and still to be sent");
        drop(later);
        assert_eq!(due.left_at(now), None);
    }
}

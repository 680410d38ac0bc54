//! When the chain was last seen, and what has been in the way since: what `/readyz`, the status page and an alert go by.

use crate::{
    chain::{Head, WatchSettings},
    ops::metrics::CHAIN_READ_TIMESTAMP,
};
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// What a relayer has seen of its chain.
#[derive(Debug)]
pub(crate) struct Sight {
    chain_id: u64,
    /// How long it may go without a look that succeeds.
    within: Duration,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    /// When a look succeeded, by a clock that does not jump, and by the one that people read; at first when this began.
    at: Instant,
    second: u64,
    /// The newest block then; none: no look has succeeded.
    block: Option<u64>,
    /// Why no look has since.
    trouble: Option<String>,
}

impl Sight {
    /// Of a chain that is looked at in this way. A look begins when the poll interval has passed, and if its endpoint answers nothing that is known when the
    /// time for an answer has passed, too.
    pub(crate) fn new(chain_id: u64, settings: &WatchSettings) -> Self {
        let within = settings.poll_interval + settings.answer_within;
        let sight = Self { chain_id, within, last: Mutex::new(Last::now(None)) };
        sight.note();
        sight
    }

    /// A look has succeeded.
    pub(crate) fn seen(&self, head: Head) {
        *self.last() = Last::now(Some(head.number));
        self.note();
    }

    /// A look has failed.
    pub(crate) fn failed(&self, why: &impl ToString) {
        self.last().trouble = Some(why.to_string());
    }

    /// What to say if the chain has not been seen for too long, or never.
    pub(crate) fn lost(&self) -> Option<String> {
        self.lost_at(Instant::now())
    }

    /// What has been in the way since the chain was last seen, however short that is.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.last().trouble.clone()
    }

    fn lost_at(&self, now: Instant) -> Option<String> {
        let (last, chain) = (self.last(), self.chain_id);
        let silent = now.saturating_duration_since(last.at);
        let text = match last.block {
            Some(_) if silent <= self.within => return None,
            Some(block) => format!(
                "chain {chain} has not been read for {} s, since unix second {}; the newest block was {block}",
                silent.as_secs(),
                last.second
            ),
            None => format!("chain {chain} has not been seen yet, {} s after the start", silent.as_secs()),
        };
        Some(last.trouble.iter().fold(text, |text, why| format!("{text}: {why}")))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A relayer that never sees its chain counts from its start, so that its alert is as loud.
    fn note(&self) {
        let second = self.last().second;
        metrics::gauge!(CHAIN_READ_TIMESTAMP, "chain" => self.chain_id.to_string()).set(second as f64);
    }
}

impl Last {
    fn now(block: Option<u64>) -> Self {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { at: Instant::now(), second, block, trouble: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::B256;

    #[test]
    fn a_chain_is_lost_when_an_answer_is_overdue() {
        let settings = WatchSettings {
            confirmations: 0,
            poll_interval: Duration::from_secs(2),
            answer_within: Duration::from_secs(10),
            max_block_range: 1,
            overlap: 0,
        };
        let sight = Sight::new(31337, &settings);
        let said = |after| {
            let at = sight.last().at;
            sight.lost_at(at + Duration::from_millis(after))
        };
        assert_eq!(said(0).unwrap(), "chain 31337 has not been seen yet, 0 s after the start");
        sight.failed(&"connection refused");
        assert_eq!(said(9_000).unwrap(), "chain 31337 has not been seen yet, 9 s after the start: connection refused");

        sight.seen(Head { number: 7, hash: B256::ZERO, timestamp: 1, base_fee: 1 });
        let second = sight.last().second;
        assert_eq!((said(0), said(12_000)), (None, None), "a look and its longest answer");
        let lost =
            format!("chain 31337 has not been read for 12 s, since unix second {second}; the newest block was 7");
        assert_eq!(said(12_001), Some(lost.clone()));
        sight.failed(&"no answer");
        assert_eq!(said(12_000), None, "one failure is none yet");
        assert_eq!(said(12_001), Some(lost + ": no answer"));
        sight.seen(Head { number: 8, hash: B256::ZERO, timestamp: 2, base_fee: 1 });
        assert_eq!(said(1), None);
        assert!(!said(20_000).unwrap().contains("no answer"), "that is over");
    }
}

//! What is shown of disputes: how many, how much time, how much money.

use super::player::{Table, role};
use crate::{
    chain::Head,
    ops::metrics::{DISPUTE_BONDS, DISPUTE_TIME_LEFT, DISPUTES_OPEN, WATCHER_CAP, WATCHER_SPENT, ether},
};
use alloy::primitives::U256;
use candor_sdk::dispute::Case;
use metrics::gauge;

impl Table {
    /// Sets the gauges.
    pub(super) fn show(&self, head: Head, open: &[Case]) {
        let chain = self.shared.rpc.chain_id().to_string();
        for operator in [true, false] {
            let count = open.iter().filter(|case| self.side(case) == Some(operator)).count();
            gauge!(DISPUTES_OPEN, "role" => role(operator), "chain" => chain.clone()).set(count as f64);
        }
        let own = |case: &&Case| self.side(case) == Some(case.is_operators_turn());
        let standing = |case: &&Case| self.book.docket().fallen(&case.opened.result).is_none();
        let until = open.iter().filter(own).filter(standing).filter_map(|case| {
            let (_, until) = self.deadlines.iter().find(|((id, _), _)| *id == case.id())?;
            Some(until.saturating_sub(head.timestamp))
        });
        let left = until.min().unwrap_or(self.seat.terms.clock.into());
        gauge!(DISPUTE_TIME_LEFT, "chain" => chain.clone()).set(left as f64);
        let bond = U256::from(self.seat.terms.bond);
        let at_stake = open.iter().filter(|case| case.opened.challenger == self.account).count();
        gauge!(DISPUTE_BONDS, "chain" => chain.clone()).set(ether(bond * U256::from(at_stake)));
        if let Some(watching) = &self.seat.watching {
            gauge!(WATCHER_SPENT, "chain" => chain.clone()).set(ether(self.laid_out(open, bond)));
            gauge!(WATCHER_CAP, "chain" => chain).set(ether(watching.cap));
        }
    }
}

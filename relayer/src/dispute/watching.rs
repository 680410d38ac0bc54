//! Others' results: run again, and challenged where they are wrong.

use super::{
    book::Posted,
    errand::{Errand, Ready, name},
    opinion::{self, Verdict},
    player::{DisputeProgress, THOUGHTS, Table, UNSURE},
    thinking::Thought,
};
use crate::chain::Head;
use alloy::primitives::{B256, U256};
use candor_sdk::{
    bindings::{IDisputeGame, Outcome},
    client::Call,
    dispute::Case,
};
use tokio::time::Instant;
use tracing::{debug, error, warn};

impl Table {
    /// Runs others' results again, and challenges those that are wrong.
    pub(super) fn watch(&mut self, head: Head, open: &[Case]) {
        let Some(watching) = &self.seat.watching else { return };
        let mut others: Vec<(u64, B256, Posted)> = Vec::new();
        for (result, posted) in self.book.results() {
            let until = posted.fulfillment.final_at(self.seat.window);
            let watched = posted.readable().is_some_and(|request| watching.models.contains(&request.model));
            let ours = self.seat.operator == Some(posted.fulfillment.operator);
            if watched && !ours && head.timestamp < until && self.book.docket().fallen(result).is_none() {
                others.push((until, *result, posted.clone()));
            }
        }
        // What becomes final first.
        others.sort_by_key(|(until, result, _)| (*until, *result));
        let bond = U256::from(self.seat.terms.bond);
        let cap = watching.cap;
        for (until, result, posted) in others {
            // Half of the window for finding the input; then whoever has it is made to show it.
            let half = posted.fulfillment.fulfilledAt + self.seat.window / 2;
            let demand = watching.demand_inputs && head.timestamp >= half && self.withheld.contains_key(&result);
            match self.verdicts.get(&result) {
                None if posted.input().is_none() && !demand => {}
                None if !demand => {
                    let errand = Errand::Examine(result);
                    let player = posted.readable().and_then(|request| self.seat.models.get(&request.model)).cloned();
                    if let Some(player) = player.filter(|_| self.thoughts.len() < THOUGHTS && self.is_free(errand)) {
                        self.about.insert(errand);
                        self.thoughts.spawn_blocking(move || {
                            (errand, Thought::Verdict(opinion::examine(&player, &posted)), None)
                        });
                    }
                }
                None | Some(Verdict::Wrong) => {
                    let errand = Errand::Challenge(result);
                    let challenged = self
                        .book
                        .docket()
                        .cases()
                        .any(|case| case.opened.challenger == self.account && case.opened.result == result);
                    if challenged || !self.is_free(errand) {
                        continue;
                    }
                    // INVARIANT: bonds at stake and bonds lost never exceed the cap. What is on its way counts.
                    let going = self.ready.keys().filter(|(_, errand)| matches!(errand, Errand::Challenge(_))).count();
                    let at_stake = bond * U256::from(going) + self.laid_out(open, bond);
                    if at_stake + bond > cap {
                        if !self.poor {
                            error!(%cap, %at_stake, %bond, "a result is wrong, and the spending cap forbids to challenge it (watcher.cap)");
                        }
                        self.poor = true;
                        continue;
                    }
                    self.poor = false;
                    let call = IDisputeGame::challengeCall {
                        request: posted.request,
                        fulfillment: posted.fulfillment.clone(),
                    };
                    let call = Call::new(self.seat.game, bond, &call);
                    let of = posted.readable().map_or(0, |request| request.id.0);
                    self.ready.insert((until, errand), Ready { until, call, what: name(errand), of });
                }
                Some(_) => {}
            }
        }
    }

    /// Bonds of this account that are in the game, or were lost in it.
    pub(super) fn laid_out(&self, open: &[Case], bond: U256) -> U256 {
        let own = |case: &&Case| case.opened.challenger == self.account;
        let lost = |case: &&Case| case.ended.is_some_and(|ended| ended.outcome == Outcome::Upheld);
        let at_stake = open.iter().filter(own).count();
        let lost = self.book.docket().cases().filter(own).filter(lost).count();
        bond * U256::from(at_stake + lost)
    }

    pub(super) fn judged(&mut self, errand: Errand, verdict: Verdict) {
        let Errand::Examine(result) = errand else { return };
        let Some(request) = self.book.results().get(&result).and_then(Posted::readable) else { return };
        match &verdict {
            Verdict::Right => debug!(request = %request.id, "the result is right"),
            Verdict::Wrong => warn!(request = %request.id, "the result is WRONG"),
            Verdict::Withheld(reason) | Verdict::Unsure(reason) => {
                error!(request = %request.id, %reason, "can't judge a result; not challenging it")
            }
        }
        if matches!(verdict, Verdict::Unsure(_) | Verdict::Withheld(_)) {
            self.held.insert(errand, Instant::now() + UNSURE);
        } else {
            self.verdicts.insert(result, verdict.clone());
        }
        self.report(DisputeProgress::Examined { id: request.id, verdict });
    }
}

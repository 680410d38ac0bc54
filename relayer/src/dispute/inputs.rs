//! Inputs that are at a URI: found for whoever has to judge a result, or to defend one.

use super::{
    opinion::Verdict,
    player::{DisputeProgress, Table},
};
use crate::{
    chain::Head,
    fetch::Wanted,
    pipeline::{InputLook, RelayerError},
};
use candor_sdk::request::Input;
use std::collections::{BTreeMap, HashMap};
use tracing::warn;

impl Table {
    /// Finds the inputs of results that this account has an interest in. One that can't be had stands in the way of that result alone.
    pub(super) async fn find_inputs(&mut self, head: Head) -> Result<(), RelayerError> {
        let mut missing = Vec::new();
        for (result, posted) in self.book.results() {
            let (Input::Uri { uri, size }, Some(request)) = (&posted.input, posted.readable()) else { continue };
            let watched = self.seat.watching.as_ref().is_some_and(|watching| watching.models.contains(&request.model));
            let ours = self.seat.operator == Some(posted.fulfillment.operator);
            let undecided = head.timestamp < posted.fulfillment.final_at(self.seat.window);
            let played = self.book.docket().cases().any(|case| case.opened.result == *result && case.ended.is_none());
            if (ours && played) || (watched && (undecided || played)) {
                let wanted = Wanted { hash: request.input_hash, size: *size, uri: uri.clone() };
                missing.push((*result, request.id, request.requester, wanted));
            }
        }
        let mut withheld = HashMap::new();
        let mut unjudged = BTreeMap::new();
        for (result, id, requester, wanted) in missing {
            match self.shared.inputs.look(id, requester, &wanted).await? {
                InputLook::Here(input) => self.book.supply(wanted.hash, &input),
                InputLook::Coming => {}
                InputLook::Missing(problem) | InputLook::Never(problem) => {
                    if !self.withheld.contains_key(&result) {
                        warn!(request = %id, %problem, "can't judge a result: its input can't be had");
                        self.report(DisputeProgress::Examined { id, verdict: Verdict::Withheld(problem.clone()) });
                    }
                    unjudged.insert(id.0, problem.clone());
                    withheld.insert(result, problem);
                }
            }
        }
        self.withheld = withheld;
        self.shared.inputs.set_unjudged(unjudged);
        Ok(())
    }
}

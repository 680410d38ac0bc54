//! How a task of the submitter's goes on: round after round, and patiently when something outside fails.

use super::{RelayerError, Shared};
use crate::complaints::Complaints;
use std::time::Duration;
use tokio::sync::Notify;
use tracing::warn;

/// Longest time between two rounds while something fails.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A task that goes on in rounds.
pub(crate) trait Rounds {
    /// Its name, in logs and metrics.
    const TASK: &'static str;

    /// Everything that is due. True if something was done and there may be more.
    fn round(&mut self) -> impl Future<Output = Result<bool, RelayerError>> + Send;
}

/// Makes rounds as long as this process is the submitter, and whenever it is again: at once as long as there is something to do, else when `waking` says
/// so or the poll interval has passed. What somebody else can mend is complained about and waited for, longer each time, at another endpoint if it may be
/// this one's fault; what nobody else can mend is returned.
pub(crate) async fn rounds<R: Rounds>(
    shared: &Shared,
    waking: Option<&Notify>,
    task: &mut R,
) -> Result<(), RelayerError> {
    let mut complaints = Complaints::default();
    let mut wait = shared.poll_interval;
    while shared.leading().await {
        shared.round(R::TASK);
        let endpoint = shared.rpc.current();
        match task.round().await {
            Ok(true) => {
                wait = shared.poll_interval;
                continue;
            }
            Ok(false) => {
                wait = shared.poll_interval;
                let woken = async {
                    match waking {
                        Some(waking) => waking.notified().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! { () = woken => {}, () = tokio::time::sleep(wait) => {}, () = shared.stop.cancelled() => {} }
            }
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                shared.note(R::TASK, &error);
                if complaints.is_news(&error.to_string()) {
                    warn!(task = R::TASK, %error, "waiting");
                }
                if error.is_of_the_endpoint() {
                    shared.rpc.fail_over(endpoint).await;
                }
                wait = (wait * 2).min(LONGEST_WAIT);
                tokio::select! { () = tokio::time::sleep(wait) => {}, () = shared.stop.cancelled() => {} }
            }
        }
    }
    Ok(())
}

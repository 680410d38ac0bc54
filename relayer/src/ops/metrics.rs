//! Every metric there is, in one place. The help text of a metric is its documentation here.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;

/// What kind of thing a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How long things take.
    Histogram,
}

macro_rules! catalogue {
    ($($(#[doc = $help:literal])+ $constant:ident: $kind:ident = $name:literal;)*) => {
        $($(#[doc = $help])+ pub const $constant: &str = $name;)*

        /// Name, kind and help of each.
        pub const ALL: &[(&str, Kind, &str)] = &[$(($name, Kind::$kind, concat!($($help),+))),*];
    };
}

catalogue! {
    /// Always 1; the label says which version runs.
    BUILD_INFO: Gauge = "candor_build_info";
    /// Number of the newest block that the node in use knows.
    CHAIN_HEAD_BLOCK: Gauge = "candor_chain_head_block";
    /// Unix second of the newest block.
    CHAIN_HEAD_TIMESTAMP: Gauge = "candor_chain_head_timestamp_seconds";
    /// Wei per gas that the next block burns.
    CHAIN_BASE_FEE: Gauge = "candor_chain_base_fee_wei";
    /// Unix second in which the chain was last looked at with success, or the relayer started.
    CHAIN_READ_TIMESTAMP: Gauge = "candor_chain_read_timestamp_seconds";
    /// Blocks whose events are read, as the number of the last.
    CHAIN_READ_BLOCK: Gauge = "candor_chain_read_block";
    /// Times the chain took back blocks that had been read.
    CHAIN_REORGANISATIONS: Counter = "candor_chain_reorganisations_total";
    /// Times the contract's counter told of a request that a node did not show.
    CHAIN_HOLES: Counter = "candor_chain_holes_total";
    /// Questions to nodes that failed, by task.
    RPC_ERRORS: Counter = "candor_rpc_errors_total";
    /// Times the next node was taken because one failed.
    RPC_FAILOVERS: Counter = "candor_rpc_failovers_total";
    /// Requests in the store, by step.
    REQUESTS: Gauge = "candor_requests";
    /// Age of the oldest request that is not answered yet.
    OLDEST_WAITING: Gauge = "candor_oldest_waiting_seconds";
    /// Requests that wait for an input that is at a URI.
    INPUTS_AWAITED: Gauge = "candor_inputs_awaited";
    /// Tries to fetch an input, by outcome.
    INPUT_FETCHES: Counter = "candor_input_fetches_total";
    /// Time that a try to fetch an input took.
    INPUT_FETCH_DURATION: Histogram = "candor_input_fetch_duration_seconds";
    /// Results of others that can't be judged because their inputs are not to be had.
    RESULTS_UNJUDGED: Gauge = "candor_results_unjudged";
    /// Requests that this process ran a model for, by model.
    INFERENCES: Counter = "candor_inferences_total";
    /// Requests that a model could not answer, or that this process gave up, by model.
    REFUSALS: Counter = "candor_refusals_total";
    /// Time that a model took for a batch, by model.
    INFERENCE_DURATION: Histogram = "candor_inference_duration_seconds";
    /// Requests in a batch, by model.
    BATCH_SIZE: Histogram = "candor_inference_batch_requests";
    /// Time from when a request was read to when its result was signed.
    TIME_TO_SIGN: Histogram = "candor_request_to_signature_seconds";
    /// Time from when a request was read to when its transaction was handed to a node, without what the model took and the chain was waited for.
    REQUEST_OVERHEAD: Histogram = "candor_request_overhead_seconds";
    /// Part of the time since the last report in which a model ran.
    DEVICE_LOAD: Gauge = "candor_device_load_ratio";
    /// Transactions that ended, by purpose and outcome.
    TRANSACTIONS: Counter = "candor_transactions_total";
    /// Transactions whose outcome is open.
    TRANSACTIONS_OPEN: Gauge = "candor_transactions_open";
    /// Transactions that were replaced by dearer ones.
    TRANSACTIONS_REPLACED: Counter = "candor_transactions_replaced_total";
    /// Gas that transactions used, by purpose.
    GAS_USED: Counter = "candor_gas_used_total";
    /// Ether spent on gas in the last 24 hours.
    GAS_SPENT_DAY: Gauge = "candor_gas_spent_day_ether";
    /// Ether that may be spent on gas in 24 hours.
    GAS_CAP_DAY: Gauge = "candor_gas_cap_day_ether";
    /// Ether paid for results so far.
    EARNED: Gauge = "candor_earned_ether";
    /// Ether that the account holds, for gas.
    BALANCE: Gauge = "candor_balance_ether";
    /// Ether earned that is not taken out yet.
    CREDIT: Gauge = "candor_credit_ether";
    /// Ether at stake.
    STAKE: Gauge = "candor_stake_ether";
    /// Ether of the stake that backs no result and is not announced for withdrawal.
    STAKE_FREE: Gauge = "candor_stake_free_ether";
    /// Ether of stake that each result locks.
    STAKE_PER_RESULT: Gauge = "candor_stake_per_result_ether";
    /// Disputes that are going on, by this relayer's role in them.
    DISPUTES_OPEN: Gauge = "candor_disputes_open";
    /// Disputes that ended, by this relayer's role in them and their outcome for it.
    DISPUTES_ENDED: Counter = "candor_disputes_ended_total";
    /// Transactions in disputes that were mined, by what they did.
    DISPUTE_MOVES: Counter = "candor_dispute_moves_total";
    /// Seconds until the first deadline of a move that is this relayer's to make; the game's whole clock if none is.
    DISPUTE_TIME_LEFT: Gauge = "candor_dispute_time_left_seconds";
    /// Ether of bonds in disputes that are going on.
    DISPUTE_BONDS: Gauge = "candor_dispute_bonds_ether";
    /// Ether of bonds that are in disputes or were lost in them: what counts against the watcher's cap.
    WATCHER_SPENT: Gauge = "candor_watcher_spent_ether";
    /// Ether of bonds that the watcher may have in disputes or lose in them.
    WATCHER_CAP: Gauge = "candor_watcher_cap_ether";
    /// Times the engine's run was compared with the reference arithmetic before something was said on chain, by outcome.
    SECOND_OPINIONS: Counter = "candor_second_opinions_total";
    /// Workers on the queue that have given a sign of life.
    WORKERS: Gauge = "candor_workers";
    /// 1 if this process is the submitter, 0 if it is not.
    SUBMITTER: Gauge = "candor_submitter";
    /// Unix second in which each task last began a round.
    TASK_ROUND_TIMESTAMP: Gauge = "candor_task_round_timestamp_seconds";
    /// Times the database failed and was waited for, by task.
    STORE_ERRORS: Counter = "candor_store_errors_total";
    /// Signatures that a key did not give and that are tried again, by task; a key in a KMS may be away.
    SIGNING_ERRORS: Counter = "candor_signing_errors_total";
    /// Memory of the process that is in RAM.
    RESIDENT_MEMORY: Gauge = "process_resident_memory_bytes";
    /// Unix second in which the process started.
    START_TIME: Gauge = "process_start_time_seconds";
}

/// Sets up the metrics of this process, once; from then on what is counted can be read.
pub fn install() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let seconds = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0];
        let requests = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &seconds)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(BATCH_SIZE.into()), &requests))
            .expect("there are buckets")
            .build_recorder();
        let handle = recorder.handle();
        // Somebody who embeds this crate may have a recorder already, which then gets everything.
        let _ = ::metrics::set_global_recorder(recorder);
        for (name, kind, help) in ALL {
            let help = help.trim();
            match kind {
                Kind::Counter => ::metrics::describe_counter!(*name, help),
                Kind::Gauge => ::metrics::describe_gauge!(*name, help),
                Kind::Histogram => ::metrics::describe_histogram!(*name, help),
            }
        }
        ::metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        handle
    })
}

/// Wei as ether, for a gauge: nobody is paid by it.
pub(crate) fn ether(wei: alloy::primitives::U256) -> f64 {
    f64::from(wei) / 1e18
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_conventions() {
        let mut names: Vec<_> = ALL.iter().map(|(name, ..)| *name).collect();
        for (name, kind, help) in ALL {
            assert!(name.starts_with("candor_") || name.starts_with("process_"), "{name}: whose is it");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                *kind == Kind::Counter,
                "{name}: counters and only they end in _total"
            );
            assert!(!name.contains("milli") && !name.contains("micro"), "{name}: base units");
            assert!(help.trim().ends_with('.') && help.len() > 12, "{name}: {help}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "a name twice");
    }

    #[test]
    fn the_help_of_a_metric_is_its_documentation() {
        let handle = install();
        ::metrics::counter!(CHAIN_REORGANISATIONS).increment(1);
        let text = handle.render();
        assert!(
            text.contains(
                "# HELP candor_chain_reorganisations_total Times the chain took back blocks that had been read."
            ),
            "{text}"
        );
        assert!(text.contains("# TYPE candor_chain_reorganisations_total counter"), "{text}");
    }
}

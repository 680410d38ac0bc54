//! What happens to a request, as it happens: for logs, for the demo, for tests.

use alloy::primitives::{B256, Bytes, U256};
use candor_sdk::{
    bindings::{CallbackStatus, IInferenceOracle::IInferenceOracleEvents as Event},
    client::OracleLog,
    ids::RequestId,
};
use std::time::Duration;
use tokio::sync::broadcast;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Blocks were read.
    Read {
        /// The last one.
        block: u64,
        /// The last one that is confirmed: all that there is to read.
        confirmed: u64,
    },
    /// The relayer took up a request.
    PickedUp {
        /// Which.
        id: RequestId,
        /// The model's name.
        model: String,
        /// Wei.
        fee: u128,
    },
    /// The model ran.
    Inferred {
        /// Which.
        id: RequestId,
        /// On what.
        device: String,
        /// How long, for the whole batch.
        took: Duration,
        /// How many requests ran together.
        batch: usize,
        /// The answer.
        output: Bytes,
    },
    /// The answer was signed.
    Signed {
        /// Which.
        id: RequestId,
    },
    /// A transaction with the answer is about to be handed to a node.
    Sent {
        /// Which.
        id: RequestId,
        /// What the relayer itself took since it read the request: without what the model took and the chain was waited for.
        own: Duration,
    },
    /// The answer is on chain.
    Posted {
        /// Which.
        id: RequestId,
        /// In which transaction.
        transaction: B256,
    },
    /// The consumer was called.
    Delivered {
        /// Which.
        id: RequestId,
        /// Whether it went well.
        status: CallbackStatus,
        /// Gas the consumer used.
        gas_used: U256,
    },
    /// A transaction of this relayer is in a block.
    Mined {
        /// What it was for.
        purpose: &'static str,
        /// Which.
        transaction: B256,
        /// Gas used in all.
        gas_used: u64,
        /// Requests in it.
        requests: usize,
    },
    /// The result is final.
    Finalized {
        /// Which.
        id: RequestId,
        /// In which transaction.
        transaction: B256,
        /// Wei for the operator.
        paid: U256,
        /// Wei back to the requester.
        refunded: U256,
    },
    /// Earnings were taken out.
    PaidOut {
        /// Wei.
        amount: U256,
        /// In which transaction.
        transaction: B256,
    },
    /// Something happened in a dispute, or about one.
    Dispute(crate::dispute::DisputeProgress),
    /// The relayer will not answer this request.
    Dropped {
        /// Which.
        id: RequestId,
        /// Why.
        reason: String,
    },
}

/// Where progress goes. Nobody has to listen.
pub type Reporter = broadcast::Sender<Progress>;

/// Tells listeners what the chain did. Ranges overlap, so the same event can come more than once.
pub(super) fn report(reporter: &Reporter, log: &OracleLog) {
    let transaction = log.transaction;
    let progress = match &log.event {
        Event::Fulfilled(event) => Progress::Posted { id: RequestId(event.id), transaction },
        Event::CallbackExecuted(event) => {
            Progress::Delivered { id: RequestId(event.id), status: event.status, gas_used: event.gasUsed }
        }
        Event::Finalized(event) => {
            Progress::Finalized { id: RequestId(event.id), transaction, paid: event.paid, refunded: event.refunded }
        }
        _ => return,
    };
    let _ = reporter.send(progress);
}

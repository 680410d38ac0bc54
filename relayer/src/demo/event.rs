//! What the demo and `candor request` tell, as values.
//!
//! The field names of the JSON are stable: they are the names of [`Event`]'s fields, with the variant's name in `event` and the milliseconds
//! since the start in `at_ms`. Amounts of money are wei, as decimal strings; hashes, addresses and bytes are hexadecimal strings.

use crate::input::picture::Digit;
use alloy::primitives::{Address, B256, Bytes, U256};
use candor_sdk::ids::{ModelId, RequestId};
use serde::{Serialize, Serializer};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A chain is there.
    Chain {
        /// What kind, for people.
        kind: String,
        /// Its number.
        chain_id: u64,
        /// Where it listens.
        url: String,
    },
    /// Another part of the story begins.
    Act {
        /// What it is about.
        title: String,
    },
    /// Something happened in a dispute.
    Dispute {
        /// The request whose result is disputed.
        request: RequestId,
        /// Who did it: the watcher, the liar, the chain.
        by: &'static str,
        /// What.
        what: &'static str,
        /// In words.
        text: String,
    },
    /// The contracts are on it.
    Deployed {
        /// `InferenceOracle`.
        oracle: Address,
        /// `OperatorRegistry`.
        operators: Address,
        /// `ModelRegistry`.
        models: Address,
        /// Seconds in which a result can be challenged.
        challenge_window: u64,
    },
    /// A model is registered.
    ModelRegistered {
        /// Its name.
        model: String,
        /// Its content address.
        id: ModelId,
        /// Gas of the registration.
        gas: u64,
    },
    /// An operator is ready to answer.
    OperatorJoined {
        /// Its account.
        operator: Address,
        /// The key that signs.
        signer: Address,
        /// Its stake.
        #[serde(serialize_with = "wei")]
        stake: U256,
        /// Its price for each model.
        #[serde(serialize_with = "wei")]
        price: U256,
    },
    /// The relayer runs.
    RelayerStarted {
        /// What it computes on.
        device: String,
        /// The models it serves.
        models: Vec<String>,
    },
    /// A contract that asks is on the chain.
    ConsumerDeployed {
        /// Its name.
        consumer: String,
        /// Its address.
        address: Address,
        /// The model that it asks.
        model: String,
    },
    /// A request is on the chain.
    Asked {
        /// Its number.
        request: RequestId,
        /// Who asks, for people.
        consumer: String,
        /// The model asked.
        model: String,
        /// What is asked, for people.
        question: String,
        /// When the consumer is to be called: `optimistic` or `final`.
        delivery: &'static str,
        /// For the operator.
        #[serde(serialize_with = "wei")]
        fee: U256,
        /// For the gas of the callback, at most.
        #[serde(serialize_with = "wei")]
        callback_allowance: U256,
        /// In which transaction.
        transaction: B256,
        /// Its gas.
        gas: u64,
        /// The picture that is asked about, if it is one.
        #[serde(skip)]
        picture: Option<Box<Digit>>,
    },
    /// The relayer took it up.
    PickedUp {
        /// Its number.
        request: RequestId,
    },
    /// The model ran.
    Inferred {
        /// Its number.
        request: RequestId,
        /// On what.
        device: String,
        /// How long, for the whole batch.
        took_us: u64,
        /// How many requests ran together.
        batch: usize,
        /// The bytes that came out.
        output: Bytes,
        /// What they mean, for people.
        answer: String,
    },
    /// The answer is signed.
    Signed {
        /// Its number.
        request: RequestId,
        /// By whom.
        signer: Address,
    },
    /// The answer is on the chain.
    Posted {
        /// Its number.
        request: RequestId,
        /// In which transaction.
        transaction: B256,
        /// Gas of the whole transaction.
        gas: u64,
        /// Results in it.
        results: usize,
    },
    /// The answer, for somebody who waits for it at the command line.
    Answered {
        /// Its number.
        request: RequestId,
        /// The bytes.
        output: Bytes,
        /// What they mean, for people.
        answer: String,
        /// Unix second in which it becomes final if nobody challenges it.
        final_at: u64,
    },
    /// The consumer was called.
    Delivered {
        /// Its number.
        request: RequestId,
        /// Whether the call went through.
        success: bool,
        /// Gas that the consumer used.
        gas: u64,
        /// What the contract holds now, for people.
        stored: String,
    },
    /// Nobody challenged in time.
    WindowPassed {
        /// Its number.
        request: RequestId,
        /// How long the window was.
        seconds: u64,
    },
    /// The result is final.
    Finalized {
        /// Its number.
        request: RequestId,
        /// In which transaction.
        transaction: B256,
        /// Gas of the whole transaction.
        gas: u64,
        /// Results in it.
        results: usize,
    },
    /// The operator was paid.
    Paid {
        /// Its number.
        request: RequestId,
        /// Who.
        operator: Address,
        /// For the answer.
        #[serde(serialize_with = "wei")]
        fee: U256,
        /// For the gas of the callback that it carried.
        #[serde(serialize_with = "wei")]
        callback: U256,
        /// What was not needed of the callback's allowance, back to the requester.
        #[serde(serialize_with = "wei")]
        refunded: U256,
    },
    /// Earnings left the oracle.
    PaidOut {
        /// Whose.
        operator: Address,
        /// Where to.
        to: Address,
        /// How much.
        #[serde(serialize_with = "wei")]
        amount: U256,
        /// In which transaction.
        transaction: B256,
    },
    /// The relayer does not answer it.
    Dropped {
        /// Its number.
        request: RequestId,
        /// Why.
        reason: String,
    },
    /// One line of the final account.
    Balance {
        /// Whose.
        of: String,
        /// What it is.
        what: String,
        /// How much.
        #[serde(serialize_with = "wei")]
        amount: U256,
    },
    /// Two amounts that have to be equal.
    Sum {
        /// Which.
        what: String,
        /// The one.
        #[serde(serialize_with = "wei")]
        left: U256,
        /// The other.
        #[serde(serialize_with = "wei")]
        right: U256,
        /// Whether they are.
        balanced: bool,
    },
    /// All done.
    Finished {
        /// Requests asked.
        requests: usize,
        /// Of those, final.
        finalized: usize,
        /// From the first request to the last finality.
        seconds: f64,
    },
    /// Something worth saying that is none of the above.
    Note {
        /// What.
        text: String,
    },
}

fn wei<S: Serializer>(amount: &U256, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(amount)
}

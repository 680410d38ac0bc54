//! Why a call did not give an answer: what contracts refuse with, and what endpoints do wrong, without the secrets in their addresses.

use crate::{
    bindings::{IInferenceOracle, IModelRegistry, IOperatorRegistry},
    ids::ModelId,
};
use alloy::{
    primitives::{Address, B256, Bytes},
    transports::{RpcError, TransportErrorKind},
};
use alloy_sol_types::SolInterface;

/// A contract's own reason for refusing, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revert {
    /// The oracle refused.
    Oracle(IInferenceOracle::IInferenceOracleErrors),
    /// The operator registry refused.
    Operators(IOperatorRegistry::IOperatorRegistryErrors),
    /// The model registry refused.
    Models(IModelRegistry::IModelRegistryErrors),
    /// Something else: a foreign contract, a panic, nothing at all.
    Other(Bytes),
}

impl Revert {
    /// Decodes what a call reverted with.
    pub fn decode(data: &[u8]) -> Self {
        if let Ok(error) = IInferenceOracle::IInferenceOracleErrors::abi_decode(data) {
            Self::Oracle(error)
        } else if let Ok(error) = IOperatorRegistry::IOperatorRegistryErrors::abi_decode(data) {
            Self::Operators(error)
        } else if let Ok(error) = IModelRegistry::IModelRegistryErrors::abi_decode(data) {
            Self::Models(error)
        } else {
            Self::Other(Bytes::copy_from_slice(data))
        }
    }
}

impl std::fmt::Display for Revert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use IInferenceOracle::IInferenceOracleErrors as Oracle;
        use IOperatorRegistry::IOperatorRegistryErrors as Operators;
        match self {
            Self::Oracle(Oracle::WrongStatus(e)) => write!(f, "request #{} is {:?}", e.id, e.actual),
            Self::Oracle(Oracle::RequestMismatch(e)) => {
                write!(f, "the oracle holds another request or result under #{}", e.id)
            }
            Self::Oracle(Oracle::InputSize(e)) => {
                write!(f, "input of {} bytes, the model takes {} to {}", e.size, e.min, e.max)
            }
            Self::Oracle(Oracle::InvalidUri(e)) => {
                write!(f, "a URI of {} bytes, the oracle takes 1 to {}", e.length, e.max)
            }
            Self::Oracle(Oracle::CallbackGasPriceTooHigh(e)) => {
                write!(f, "{} wei per gas for the callback, the oracle takes at most {}", e.asked, e.max)
            }
            Self::Oracle(Oracle::CallbackGasTooHigh(e)) => {
                write!(f, "a callback of {} gas, the oracle allows at most {}", e.asked, e.max)
            }
            Self::Oracle(Oracle::WindowClosed(e)) => {
                write!(f, "request #{} could be disputed until unix second {}", e.id, e.until)
            }
            Self::Oracle(Oracle::TooManyTokens(e)) => {
                write!(f, "{} tokens asked, the model gives at most {}", e.asked, e.max)
            }
            Self::Oracle(Oracle::InvalidTimeout(e)) => {
                write!(f, "a timeout of {} s; the oracle takes {} to {} s", e.timeout, e.min, e.max)
            }
            Self::Oracle(Oracle::InsufficientPayment(e)) => {
                write!(f, "{} wei given and in credit, {} wei needed", e.available, e.required)
            }
            Self::Oracle(Oracle::DeadlinePassed(e)) => {
                write!(f, "request #{} expired at unix second {}", e.id, e.deadline)
            }
            Self::Oracle(Oracle::DeadlineNotPassed(e)) => {
                write!(f, "request #{} can still be answered until unix second {}", e.id, e.deadline)
            }
            Self::Oracle(Oracle::ExclusiveToOperator(e)) => {
                write!(f, "request #{} belongs to operator {} until unix second {}", e.id, e.operator, e.until)
            }
            Self::Oracle(Oracle::InvalidSignature(_)) => write!(f, "not a valid signature"),
            Self::Oracle(Oracle::UnknownSigner(e)) => {
                write!(f, "the signing key {} is not registered by any operator", e.signer)
            }
            Self::Oracle(Oracle::InsufficientStake(e)) => {
                write!(
                    f,
                    "operator {} has {} wei of free stake, a result locks {}",
                    e.operator, e.available, e.required
                )
            }
            Self::Oracle(Oracle::WindowOpen(e)) => {
                write!(f, "request #{} can be disputed until unix second {}", e.id, e.until)
            }
            Self::Oracle(Oracle::OutputMismatch(e)) => {
                write!(f, "the output given is not the one posted for request #{}", e.id)
            }
            Self::Oracle(Oracle::NothingToDeliver(e)) => {
                write!(f, "the callback of request #{} has nothing to deliver", e.id)
            }
            Self::Oracle(Oracle::NotEnoughGas(e)) => {
                write!(f, "{} gas left, the callback needs {}", e.available, e.required)
            }
            Self::Oracle(Oracle::InsufficientCredit(e)) => {
                write!(f, "{} wei of credit, {} wei asked", e.available, e.required)
            }
            Self::Oracle(Oracle::FeeTooLow(e)) => {
                write!(f, "{} wei offered, the cheapest operator asks {} wei", e.offered, e.cheapest)
            }
            Self::Oracle(Oracle::NoOperators(e)) => write!(f, "no operator serves model {}", ModelId(e.modelId)),
            Self::Operators(Operators::StakeTooLow(e)) => {
                write!(f, "operator {} has {} wei of stake, {} wei needed", e.operator, e.stake, e.required)
            }
            Self::Operators(Operators::StakeLocked(e)) => {
                write!(
                    f,
                    "operator {} has {} wei of stake, unfinished results hold {} wei",
                    e.operator, e.stake, e.locked
                )
            }
            Self::Operators(Operators::SignerTaken(e)) => {
                write!(f, "the signing key {} speaks for operator {}", e.signer, e.operator)
            }
            Self::Operators(Operators::WithdrawalNotReady(e)) => {
                write!(f, "the withdrawal is ready at unix second {}", e.availableAt)
            }
            Self::Operators(Operators::WithdrawalPending(e)) => {
                write!(
                    f,
                    "a withdrawal of {} wei is already announced, ready at unix second {}",
                    e.amount, e.availableAt
                )
            }
            Self::Oracle(Oracle::UnknownModel(e)) => write!(f, "model {} is not registered", ModelId(e.modelId)),
            Self::Oracle(error) => write!(f, "{error:?}"),
            Self::Operators(error) => write!(f, "{error:?}"),
            Self::Models(error) => write!(f, "{error:?}"),
            Self::Other(data) if data.is_empty() => write!(f, "reverted without a reason"),
            Self::Other(data) => write!(f, "reverted with {data}"),
        }
    }
}

/// What an endpoint did wrong, in words that can be logged.
///
/// The transport's own errors name the endpoint's whole address, and many addresses carry a password or an API key. So nothing of them is kept but
/// their text, with every address cut down to its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcFailure {
    /// The JSON-RPC error code, if the endpoint answered with an error.
    pub code: Option<i64>,
    /// What it said, or what happened on the way.
    pub message: String,
}

impl RpcFailure {
    /// A failure without a code.
    pub fn new(message: &str) -> Self {
        Self { code: None, message: hosts_only(message) }
    }
}

impl std::fmt::Display for RpcFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} (code {code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl From<RpcError<TransportErrorKind>> for RpcFailure {
    fn from(error: RpcError<TransportErrorKind>) -> Self {
        if let Some(payload) = error.as_error_resp() {
            return Self { code: Some(payload.code), message: hosts_only(&payload.message) };
        }
        // "error sending request" says little; its causes say "connection refused".
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = inner.source();
        }
        Self::new(&message)
    }
}

impl From<RpcError<TransportErrorKind>> for ClientError {
    fn from(error: RpcError<TransportErrorKind>) -> Self {
        Self::Rpc(error.into())
    }
}

/// Cuts every address in a text down to scheme, host and port.
fn hosts_only(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, address) = rest.split_at(at + 3);
        let end = address.find([' ', ')', '"', '\'', ',', '>']).unwrap_or(address.len());
        let authority = &address[..address[..end].find(['/', '?', '#']).unwrap_or(end)];
        let host = authority.rsplit('@').next().unwrap_or(authority);
        shown.push_str(before);
        shown.push_str(host);
        rest = &address[end..];
    }
    shown.push_str(rest);
    shown
}

/// Why a call did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The contract refused. Asking again gives the same until the chain's state changes.
    #[error("refused by the contract: {0}")]
    Reverted(Revert),
    /// The RPC endpoint is down, slow, rate-limited or talks nonsense. Asking again may help.
    #[error("the RPC endpoint failed: {0}")]
    Rpc(RpcFailure),
    /// No contract where one was expected.
    #[error("no contract at {address} on chain {chain_id}: wrong address, or wrong chain")]
    NoContract {
        /// Where one was expected.
        address: Address,
        /// The chain that was asked.
        chain_id: u64,
    },
    /// A contract that answers something else than a Candor contract would.
    #[error("the contract at {0} does not answer like a Candor contract: wrong address, or wrong chain")]
    NotCandor(Address),
    /// A transaction was mined and failed.
    #[error("transaction {0} was mined and reverted")]
    Failed(B256),
    /// A transaction was sent and is not mined yet.
    #[error("transaction {0} was sent and not mined in time")]
    Pending(B256),
}

impl ClientError {
    /// Whether the same call may succeed later without anything changing on chain.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Rpc(_) | Self::Pending(_))
    }

    /// Of what should be a Candor contract: one that refuses to say what every Candor contract says is none.
    pub(super) fn or_not_candor(self, address: Address) -> Self {
        match self {
            Self::Reverted(_) => Self::NotCandor(address),
            other => other,
        }
    }

    pub(crate) fn from_rpc(error: RpcError<TransportErrorKind>) -> Self {
        let Some(payload) = error.as_error_resp() else { return error.into() };
        match payload.as_revert_data() {
            Some(data) => Self::Reverted(Revert::decode(&data)),
            // Nodes report a revert without data under code 3 or with this word; everything else is theirs.
            None if payload.code == 3 || payload.message.contains("revert") => {
                Self::Reverted(Revert::Other(Bytes::new()))
            }
            None => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_host_and_lose_their_secrets() {
        for (text, shown) in [
            (
                "error sending request for url (https://user:pass@rpc.example:8545/v2/key?k=key)",
                "error sending request for url (https://rpc.example:8545)",
            ),
            ("https://rpc.example/key", "https://rpc.example"),
            ("two: wss://a.example/key, http://b.example?key=1 end", "two: wss://a.example, http://b.example end"),
            ("no address at all", "no address at all"),
        ] {
            assert_eq!(hosts_only(text), shown);
        }
    }
}

//! RPC endpoints: one in use, the others in reserve.

use crate::ops::metrics::RPC_FAILOVERS;
use alloy::{
    eips::BlockNumberOrTag,
    network::Ethereum,
    primitives::{Address, B256},
    providers::{Provider, ProviderBuilder, RootProvider},
    rpc::client::ClientBuilder,
    transports::{
        RpcError, TransportError, TransportErrorKind,
        http::Http,
        layers::{RateLimitRetryPolicy, RetryBackoffLayer},
    },
};
use alloy::{rpc::types::TransactionRequest, sol_types::SolCall};
use candor_sdk::{
    bindings::IInferenceOracle,
    client::{Client, ClientError, RpcFailure},
};
use reqwest::Url;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tracing::warn;

/// The client that the relayer uses: no fillers, no wallet. Nonces, fees and signatures are the sender's business.
pub type RpcClient = Client<RootProvider<Ethereum>>;

/// Time that an endpoint has for one answer where nothing else is configured; after that it counts as down.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often a question is asked again before its failure counts, and after how many milliseconds unless the endpoint says (`Retry-After`).
const RETRIES: u32 = 3;
const RETRY_AFTER: u64 = 100;

/// Budget of an endpoint, as alloy counts. Practically none: endpoints say by themselves what is too much.
const UNITS_PER_SECOND: u64 = 1_000_000;

/// The newest block that an endpoint knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Its unix second: the clock that deadlines and windows go by.
    pub timestamp: u64,
    /// Wei per gas that the next block will burn, at most an eighth more than this one did.
    pub base_fee: u128,
}

/// One deployment through several endpoints.
#[derive(Debug)]
pub struct Rpc {
    endpoints: Vec<Endpoint>,
    chain_id: u64,
    oracle: Address,
    answer_within: Duration,
    /// Goes up with each change of the endpoint, so that none looks like no change; the endpoint is the remainder.
    turn: AtomicUsize,
}

/// An address, and the client over it once it has proven to be of the right chain.
#[derive(Debug)]
struct Endpoint {
    name: String,
    url: Url,
    client: OnceLock<RpcClient>,
}

/// Why no endpoint can be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is of another chain.
    #[error(
        "{endpoint} is on chain {actual}, the configuration says chain {expected}: check [chain] rpc_urls and chain_id"
    )]
    WrongChain {
        /// The endpoint, without credentials.
        endpoint: String,
        /// Configured.
        expected: u64,
        /// What it says.
        actual: u64,
    },
    /// The endpoint can't be reached, or the contracts are not there.
    #[error("{endpoint}: {error}")]
    Client {
        /// The endpoint, without credentials.
        endpoint: String,
        /// What went wrong.
        #[source]
        error: ClientError,
    },
    /// None of several endpoints can be reached.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    All(Vec<ConnectError>),
    /// Nothing to connect to.
    #[error("no RPC endpoint is configured: set [chain] rpc_urls")]
    None,
}

impl ConnectError {
    /// Whether trying again may help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Client { error, .. } => error.is_retryable(),
            Self::All(errors) => errors.iter().all(Self::is_retryable),
            Self::WrongChain { .. } | Self::None => false,
        }
    }

    fn all(mut errors: Vec<Self>) -> Self {
        match (errors.pop(), errors.is_empty()) {
            (None, _) => Self::None,
            (Some(only), true) => only,
            (Some(last), false) => {
                errors.push(last);
                Self::All(errors)
            }
        }
    }
}

impl Rpc {
    /// Connects to the endpoints, in order of preference. One that can't be reached now is kept for later as long as another can; one that answers
    /// for another chain, or has no contracts where they should be, is refused.
    pub async fn connect(
        urls: &[Url],
        chain_id: u64,
        oracle: Address,
        answer_within: Duration,
    ) -> Result<Self, ConnectError> {
        let mut endpoints = Vec::new();
        let mut unreachable = Vec::new();
        for url in urls {
            let endpoint = Endpoint { name: without_credentials(url), url: url.clone(), client: OnceLock::new() };
            match endpoint.connect(chain_id, oracle, answer_within).await {
                Ok(()) => {}
                Err(error) if error.is_retryable() => unreachable.push(error),
                Err(error) => return Err(error),
            }
            endpoints.push(endpoint);
        }
        let Some(first) = endpoints.iter().position(|endpoint| endpoint.client.get().is_some()) else {
            return Err(ConnectError::all(unreachable));
        };
        for error in unreachable {
            warn!(%error, "endpoint left out for now");
        }
        Ok(Self { endpoints, chain_id, oracle, answer_within, turn: AtomicUsize::new(first) })
    }

    /// The client in use.
    pub fn client(&self) -> &RpcClient {
        self.endpoint(self.current()).client.get().expect("only connected endpoints become current")
    }

    /// EIP-155 chain id.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    fn endpoint(&self, turn: usize) -> &Endpoint {
        &self.endpoints[turn % self.endpoints.len()]
    }

    /// Whose turn it is, for [`Rpc::fail_over`]. As long as this stays the same, all answers are of one endpoint.
    pub fn current(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    /// Takes the next endpoint that can be used, after an error in turn `failed`. If another task has gone on from it already, nothing happens: several
    /// tasks notice the same failure.
    pub async fn fail_over(&self, failed: usize) {
        for next in (failed + 1)..(failed + self.endpoints.len()) {
            let endpoint = self.endpoint(next);
            if self.current() != failed {
                return;
            }
            if let Err(error) = endpoint.connect(self.chain_id, self.oracle, self.answer_within).await {
                warn!(%error, "can't use this endpoint either");
                continue;
            }
            if self.turn.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                metrics::counter!(RPC_FAILOVERS).increment(1);
                warn!(endpoint = %endpoint.name, "using the next endpoint");
            }
            return;
        }
    }

    /// The newest block.
    pub async fn head(&self) -> Result<Head, ClientError> {
        self.block(BlockNumberOrTag::Latest)
            .await?
            .ok_or_else(|| ClientError::Rpc(RpcFailure::new("the endpoint does not know its own newest block")))
    }

    /// A block by number; none if the endpoint does not have it (yet, or any more).
    pub async fn block_at(&self, number: u64) -> Result<Option<Head>, ClientError> {
        self.block(BlockNumberOrTag::Number(number)).await
    }

    /// A block at or below a newest one that was asked for already.
    pub async fn block_under(&self, head: Head, number: u64) -> Result<Option<Head>, ClientError> {
        if number == head.number { Ok(Some(head)) } else { self.block_at(number).await }
    }

    /// How many requests the oracle had taken by the end of a block.
    pub async fn request_count_at(&self, block: u64) -> Result<u64, ClientError> {
        self.view_at(self.oracle, IInferenceOracle::requestCountCall {}, block).await
    }

    /// What a view function gave at the end of a block.
    pub async fn view_at<C: SolCall>(&self, to: Address, call: C, block: u64) -> Result<C::Return, ClientError> {
        let transaction = TransactionRequest::default().to(to).input(call.abi_encode().into());
        let data = self.client().provider().call(transaction).block(block.into()).await?;
        C::abi_decode_returns(&data)
            .map_err(|error| ClientError::Rpc(RpcFailure::new(&format!("{}: {error}", C::SIGNATURE))))
    }

    /// The first block, from `first` on, of the last `seconds`, as far as the endpoint has them; one before it, to be sure.
    pub async fn block_before(&self, seconds: u64, first: u64) -> Result<u64, ClientError> {
        let head = self.head().await?;
        let since = head.timestamp.saturating_sub(seconds);
        let (mut low, mut high) = (first.min(head.number), head.number);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.block_at(middle).await? {
                Some(block) if block.timestamp >= since => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(low.saturating_sub(1).max(first.min(head.number)))
    }

    async fn block(&self, number: BlockNumberOrTag) -> Result<Option<Head>, ClientError> {
        let block = self.client().provider().get_block_by_number(number).await?;
        Ok(block.map(|block| Head {
            number: block.header.number,
            hash: block.header.hash,
            timestamp: block.header.timestamp,
            base_fee: block.header.base_fee_per_gas.unwrap_or_default().into(),
        }))
    }
}

impl Endpoint {
    /// Checks what the endpoint is, once.
    async fn connect(&self, chain_id: u64, oracle: Address, answer_within: Duration) -> Result<(), ConnectError> {
        if self.client.get().is_some() {
            return Ok(());
        }
        let named = |error| ConnectError::Client { endpoint: self.name.clone(), error };
        // Before the contracts, so that an endpoint of another chain is called that.
        let provider = provider(&self.url, answer_within).map_err(named)?;
        let actual = provider.get_chain_id().await.map_err(|error| named(error.into()))?;
        if actual != chain_id {
            return Err(ConnectError::WrongChain { endpoint: self.name.clone(), expected: chain_id, actual });
        }
        let client = Client::connect(provider, oracle).await.map_err(named)?;
        // Two tasks may have connected at once: either client will do.
        let _ = self.client.set(client);
        Ok(())
    }
}

fn provider(url: &Url, answer_within: Duration) -> Result<RootProvider<Ethereum>, ClientError> {
    let http = reqwest::Client::builder()
        .timeout(answer_within)
        .build()
        .map_err(|error| ClientError::Rpc(RpcFailure::new(&format!("the HTTP client can't be built: {error}"))))?;
    let transport = Http::with_client(http, url.clone());
    let retry = RetryBackoffLayer::new_with_policy(
        RETRIES,
        RETRY_AFTER,
        UNITS_PER_SECOND,
        RateLimitRetryPolicy::default().or(is_worth_another_try),
    );
    let client = ClientBuilder::default().layer(retry).transport(transport, false);
    let client = client.with_poll_interval(Duration::from_millis(500));
    Ok(ProviderBuilder::new().disable_recommended_fillers().connect_client(client))
}

/// Whether the same question, asked again at once, may well be answered: a connection that broke off, half an answer, an error page. An endpoint that can't be
/// reached or is too slow is left for the next one. Asking twice is harmless: what is asked changes nothing, and a transaction that is sent twice is one.
fn is_worth_another_try(error: &TransportError) -> bool {
    match error {
        RpcError::Transport(TransportErrorKind::HttpError(answer)) => answer.status >= 500,
        RpcError::Transport(TransportErrorKind::Custom(error)) => {
            error.downcast_ref::<reqwest::Error>().is_some_and(|error| !error.is_timeout() && !error.is_connect())
        }
        RpcError::DeserError { .. } => true,
        _ => false,
    }
}

/// An endpoint for logs: keys are often in the path, query or user part.
pub(crate) fn without_credentials(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{}://{host}:{port}", url.scheme()),
        (Some(host), None) => format!("{}://{host}", url.scheme()),
        _ => url.scheme().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_urls_do_not_reach_logs() {
        for url in [
            "https://user:secret@rpc.example/v2/secret?key=secret",
            "https://rpc.example/secret",
            "http://127.0.0.1:8545/secret",
        ] {
            let shown = without_credentials(&url.parse().unwrap());
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}

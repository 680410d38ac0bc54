//! A typed client for the on-chain system, over any alloy provider.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use alloy::{primitives::address, providers::ProviderBuilder};
//! use candor_sdk::{client::Client, ids::RequestId};
//!
//! let provider = ProviderBuilder::new().connect_http("http://127.0.0.1:8545".parse()?);
//! let client = Client::connect(provider, address!("5FbDB2315678afecb367f032d93F642f64180aa3")).await?;
//! let (status, _) = client.status(RequestId(1)).await?;
//! println!("{status:?}");
//! # Ok(()) }
//! ```
//!
//! Reads are methods. Writes are values: [`Call`] says what to send where with how much, so that a relayer can sign, persist and replace
//! transactions its own way; [`Client::send`] is for everybody else.

use crate::{
    bindings::{
        CallbackStatus, Fulfillment, IInferenceOracle, IModelRegistry, IOperatorRegistry, ModelDescriptor, Offer,
        PackedRequest, RequestArgs, RequestStatus,
    },
    commitment::Domain,
    ids::{ModelId, RequestId},
    request::{Input, Request},
};
use alloy::{
    network::TransactionBuilder,
    primitives::{Address, B256, Bytes, LogData, U256},
    providers::Provider,
    rpc::types::{BlockId, Filter, Log, TransactionReceipt, TransactionRequest},
};
use alloy_sol_types::{SolCall, SolEvent, SolEventInterface};
use std::ops::RangeInclusive;

mod error;
pub use error::{ClientError, Revert, RpcFailure};

/// What to send where, with how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// Wei.
    pub value: U256,
    /// ABI-encoded call.
    pub data: Bytes,
}

impl Call {
    /// A call of one function.
    pub fn new(to: Address, value: U256, call: &impl SolCall) -> Self {
        Self { to, value, data: call.abi_encode().into() }
    }

    /// As a transaction request without fees, nonce and sender.
    pub fn into_transaction(self) -> TransactionRequest {
        TransactionRequest::default().with_to(self.to).with_value(self.value).with_input(self.data)
    }
}

/// Numbers fixed when the contracts were deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Seconds in which a posted result can be challenged.
    pub challenge_window: u64,
    /// Seconds that the drawn operator has to itself.
    pub exclusive_period: u64,
    /// Wei of stake that each unfinished result locks.
    pub stake_per_result: U256,
    /// Wei of stake that an operator needs for an offer.
    pub min_stake: U256,
    /// Seconds between announcing a withdrawal of stake and taking it.
    pub withdrawal_delay: u64,
}

/// One event of the oracle, decoded.
#[derive(Debug, Clone)]
pub struct OracleLog {
    /// What happened.
    pub event: IInferenceOracle::IInferenceOracleEvents,
    /// Block it is in.
    pub block_number: u64,
    /// Hash of that block: another one at the same height is a reorg.
    pub block_hash: B256,
    /// Transaction it is in.
    pub transaction: B256,
    /// Position in the block.
    pub log_index: u64,
}

/// A request as the oracle announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The operator drawn; zero: open to all.
    pub operator: Address,
    /// The request.
    pub request: PackedRequest,
    /// Its input, or where that is.
    pub input: Input,
}

impl Announced {
    /// Reads a log; none if it announces no request.
    pub fn read(log: &LogData) -> Option<Self> {
        if let Ok(event) = IInferenceOracle::Requested::decode_log_data(log) {
            return Some(Self { operator: event.operator, request: event.request, input: Input::Bytes(event.input) });
        }
        let event = IInferenceOracle::RequestedByUri::decode_log_data(log).ok()?;
        let input = Input::Uri { uri: event.uri, size: event.inputSize };
        Some(Self { operator: event.operator, request: event.request, input })
    }

    /// Whether it is a further attempt of a request by URI, announced without its input.
    fn awaits_its_place(&self) -> bool {
        let by_uri = Request::unpack(&self.request).is_ok_and(|request| request.input_by_uri);
        by_uri && self.input == Input::Bytes(Bytes::new())
    }
}

/// Typed access to one deployment.
#[derive(Debug, Clone)]
pub struct Client<P> {
    provider: P,
    /// Chain id, read when connecting.
    pub chain_id: u64,
    /// `InferenceOracle`.
    pub oracle: Address,
    /// `OperatorRegistry`.
    pub operators: Address,
    /// `ModelRegistry`.
    pub models: Address,
}

impl<P: Provider> Client<P> {
    /// Connects to the deployment whose oracle is at `oracle`, checking that there is one.
    pub async fn connect(provider: P, oracle: Address) -> Result<Self, ClientError> {
        let chain_id = provider.get_chain_id().await?;
        if provider.get_code_at(oracle).await?.is_empty() {
            return Err(ClientError::NoContract { address: oracle, chain_id });
        }
        let mut client = Self { provider, chain_id, oracle, operators: Address::ZERO, models: Address::ZERO };
        client.operators = client
            .view(oracle, IInferenceOracle::operatorsCall {})
            .await
            .map_err(|error| error.or_not_candor(oracle))?;
        client.models =
            client.view(oracle, IInferenceOracle::modelsCall {}).await.map_err(|error| error.or_not_candor(oracle))?;
        for address in [client.operators, client.models] {
            if client.provider.get_code_at(address).await?.is_empty() {
                return Err(ClientError::NotCandor(oracle));
            }
        }
        Ok(client)
    }

    /// The provider underneath.
    pub fn provider(&self) -> &P {
        &self.provider
    }

    /// Domain in which fulfillments are signed.
    pub fn domain(&self) -> Domain {
        Domain { chain_id: self.chain_id, contract: self.oracle }
    }

    /// Domain in which signing keys consent to an operator.
    pub fn operators_domain(&self) -> Domain {
        Domain { chain_id: self.chain_id, contract: self.operators }
    }

    /// Calls a view function, on the newest block: what is only waiting to be mined may still come to nothing, or in another second.
    pub async fn view<C: SolCall>(&self, to: Address, call: C) -> Result<C::Return, ClientError> {
        let transaction = Call::new(to, U256::ZERO, &call).into_transaction();
        let answer = self.provider.call(transaction).block(BlockId::latest()).await;
        let data = answer.map_err(ClientError::from_rpc)?;
        C::abi_decode_returns_validate(&data).map_err(|_| ClientError::NotCandor(to))
    }

    /// Runs a call as `from` without sending it: the gas it would use, or why it would fail.
    pub async fn simulate(&self, from: Address, call: Call) -> Result<u64, ClientError> {
        self.provider.estimate_gas(call.into_transaction().with_from(from)).await.map_err(ClientError::from_rpc)
    }

    /// Runs a call as `from` on the newest block, whatever waits to get into the next one: what it returns, or why it would fail.
    pub async fn rehearse(&self, from: Address, call: Call) -> Result<Bytes, ClientError> {
        let call = self.provider.call(call.into_transaction().with_from(from)).block(BlockId::latest());
        call.await.map_err(ClientError::from_rpc)
    }

    /// Sends a call with the provider's wallet and waits until it is mined and succeeded.
    pub async fn send(&self, call: Call) -> Result<TransactionReceipt, ClientError> {
        self.submit(call.into_transaction()).await
    }

    /// The same for a call whose gas depends on the block it gets into, as a request's does: how many offers the draw looks at (P5) follows from the seed.
    /// Simulated as `from`, the wallet's account, and sent with half as much gas again.
    pub async fn send_from(&self, from: Address, call: Call) -> Result<TransactionReceipt, ClientError> {
        self.submit(self.prepare_from(from, call).await?).await
    }

    /// What [`Self::send_from`] sends, for whoever sends several before the first is mined.
    pub async fn prepare_from(&self, from: Address, call: Call) -> Result<TransactionRequest, ClientError> {
        let gas = self.simulate(from, call.clone()).await?;
        Ok(call.into_transaction().with_gas_limit(gas + gas / 2))
    }

    async fn submit(&self, transaction: TransactionRequest) -> Result<TransactionReceipt, ClientError> {
        let pending = self.provider.send_transaction(transaction).await.map_err(ClientError::from_rpc)?;
        let hash = *pending.tx_hash();
        let receipt = pending
            .with_timeout(Some(std::time::Duration::from_secs(120)))
            .get_receipt()
            .await
            .map_err(|_| ClientError::Pending(hash))?;
        if receipt.status() { Ok(receipt) } else { Err(ClientError::Failed(hash)) }
    }

    /// Numbers fixed at deployment.
    pub async fn terms(&self) -> Result<Terms, ClientError> {
        Ok(Terms {
            challenge_window: self.view(self.oracle, IInferenceOracle::challengeWindowCall {}).await?,
            exclusive_period: self.view(self.oracle, IInferenceOracle::exclusivePeriodCall {}).await?,
            stake_per_result: self.view(self.oracle, IInferenceOracle::stakePerResultCall {}).await?,
            min_stake: self.view(self.operators, IOperatorRegistry::minStakeCall {}).await?,
            withdrawal_delay: self
                .view(self.operators, IOperatorRegistry::withdrawalDelayCall {})
                .await?
                .saturating_to(),
        })
    }

    /// Where a request stands, and what became of its callback.
    pub async fn status(&self, id: RequestId) -> Result<(RequestStatus, CallbackStatus), ClientError> {
        let answer = self.view(self.oracle, IInferenceOracle::statusOfCall { id: id.0 }).await?;
        Ok((answer.status, answer.callback))
    }

    /// How many requests the oracle has taken.
    pub async fn request_count(&self) -> Result<u64, ClientError> {
        self.view(self.oracle, IInferenceOracle::requestCountCall {}).await
    }

    /// Price of the cheapest operator, and what a request costs in all, in wei.
    pub async fn quote(
        &self,
        model: ModelId,
        callback_gas_limit: u32,
        callback_gas_price: u64,
    ) -> Result<(u128, U256), ClientError> {
        let call = IInferenceOracle::quoteCall {
            modelId: model.0,
            callbackGasLimit: callback_gas_limit,
            callbackGasPrice: callback_gas_price,
        };
        let answer = self.view(self.oracle, call).await?;
        Ok((answer.price.to::<u128>(), answer.total))
    }

    /// Wei of an account's credit in the oracle.
    pub async fn credit(&self, account: Address) -> Result<U256, ClientError> {
        self.view(self.oracle, IInferenceOracle::creditOfCall { account }).await
    }

    /// Wei of an operator's stake, of it announced for withdrawal, and of it locked by unfinished results.
    pub async fn stake(&self, operator: Address) -> Result<(U256, U256, U256), ClientError> {
        let answer = self.view(self.operators, IOperatorRegistry::stakeOfCall { operator }).await?;
        let locked = self.view(self.oracle, IInferenceOracle::lockedStakeOfCall { operator }).await?;
        Ok((answer.stake, answer.unbonding, locked))
    }

    /// The operator that a signing key speaks for; none if it is not registered.
    pub async fn operator_of(&self, signer: Address) -> Result<Option<Address>, ClientError> {
        let operator = self.view(self.operators, IOperatorRegistry::operatorOfCall { signer }).await?;
        Ok((operator != Address::ZERO).then_some(operator))
    }

    /// An operator's price for a model in wei; none if it does not serve it.
    pub async fn offer(&self, model: ModelId, operator: Address) -> Result<Option<u128>, ClientError> {
        let answer = self.view(self.operators, IOperatorRegistry::offerOfCall { modelId: model.0, operator }).await?;
        Ok(answer.serves.then(|| answer.price.to::<u128>()))
    }

    /// The first 100 offers for a model.
    pub async fn offers(&self, model: ModelId) -> Result<Vec<Offer>, ClientError> {
        let call = IOperatorRegistry::offersCall { modelId: model.0, from: U256::ZERO, count: U256::from(100) };
        Ok(self.view(self.operators, call).await?.page)
    }

    /// A registered model's descriptor; none if it is not registered.
    pub async fn model(&self, model: ModelId) -> Result<Option<ModelDescriptor>, ClientError> {
        if !self.view(self.models, IModelRegistry::isRegisteredCall { modelId: model.0 }).await? {
            return Ok(None);
        }
        self.view(self.models, IModelRegistry::descriptorOfCall { modelId: model.0 }).await.map(Some)
    }

    /// Events of the oracle in a range of blocks, in order.
    pub async fn logs(&self, blocks: RangeInclusive<u64>) -> Result<Vec<OracleLog>, ClientError> {
        let filter = Filter::new().address(self.oracle).from_block(*blocks.start()).to_block(*blocks.end());
        let logs = self.provider.get_logs(&filter).await?;
        logs.into_iter().filter(|log| !log.removed).filter_map(decode_log).collect()
    }

    /// A request as it was announced (its last attempt), by number; none if it was not asked from `from_block` on.
    pub async fn requested(&self, id: RequestId, from_block: u64) -> Result<Option<Announced>, ClientError> {
        let logs = self.logs_of(id, IInferenceOracle::Requested::SIGNATURE_HASH, from_block).await?;
        let last = logs.last().and_then(|log| Announced::read(log.data()));
        match last {
            Some(last) if !last.awaits_its_place() => Ok(Some(last)),
            // Where the input is was said with the first attempt (P47).
            last => {
                let logs = self.logs_of(id, IInferenceOracle::RequestedByUri::SIGNATURE_HASH, from_block).await?;
                let first = logs.last().and_then(|log| Announced::read(log.data()));
                Ok(match (last, first) {
                    (Some(last), Some(first)) => Some(Announced { input: first.input, ..last }),
                    (last, first) => last.or(first),
                })
            }
        }
    }

    /// The event with which a result was posted (the last one), by number.
    pub async fn fulfilled(
        &self,
        id: RequestId,
        from_block: u64,
    ) -> Result<Option<(IInferenceOracle::Fulfilled, B256)>, ClientError> {
        let logs = self.logs_of(id, IInferenceOracle::Fulfilled::SIGNATURE_HASH, from_block).await?;
        Ok(logs.last().and_then(|log| {
            Some((IInferenceOracle::Fulfilled::decode_log_data(log.data()).ok()?, log.transaction_hash?))
        }))
    }

    /// Events of one request, in order. Endpoints limit the blocks or logs of one question, each in its own way: a range that is refused is halved.
    async fn logs_of(&self, id: RequestId, topic: B256, from_block: u64) -> Result<Vec<Log>, ClientError> {
        let filter = Filter::new().address(self.oracle).event_signature(topic).topic1(B256::from(U256::from(id.0)));
        let newest = self.provider.get_block_number().await?;
        let mut ranges = vec![(from_block, newest)];
        let mut logs = Vec::new();
        while let Some((first, last)) = ranges.pop() {
            if first > last {
                continue;
            }
            match self.provider.get_logs(&filter.clone().from_block(first).to_block(last)).await {
                Ok(found) => logs.extend(found),
                Err(error) if error.as_error_resp().is_some() && first < last => {
                    let middle = first + (last - first) / 2;
                    ranges.extend([(middle + 1, last), (first, middle)]);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(logs)
    }

    // ------------------------------------------------------------------ calls

    /// A request paying `value` wei.
    pub fn request(&self, args: RequestArgs, value: U256) -> Call {
        Call::new(self.oracle, value, &IInferenceOracle::requestCall { args })
    }

    /// A request about an input that is at a URI, paying `value` wei. `args.input` stays empty.
    pub fn request_by_uri(&self, args: RequestArgs, hash: B256, size: u32, uri: String, value: U256) -> Call {
        let call = IInferenceOracle::requestByUriCall { args, inputHash: hash, inputSize: size, uri };
        Call::new(self.oracle, value, &call)
    }

    /// Cancels an expired request.
    pub fn cancel(&self, request: &Request) -> Call {
        Call::new(self.oracle, U256::ZERO, &IInferenceOracle::cancelCall { request_: request.pack() })
    }

    /// Posts results.
    pub fn fulfill(&self, mut answers: Vec<crate::bindings::Answer>) -> Call {
        match answers.pop() {
            Some(answer) if answers.is_empty() => {
                Call::new(self.oracle, U256::ZERO, &IInferenceOracle::fulfillCall { answer })
            }
            last => {
                answers.extend(last);
                Call::new(self.oracle, U256::ZERO, &IInferenceOracle::fulfillBatchCall { answers })
            }
        }
    }

    /// Settles results whose window has passed.
    pub fn finalize(&self, mut settlements: Vec<crate::bindings::Settlement>) -> Call {
        match settlements.pop() {
            Some(settlement) if settlements.is_empty() => {
                Call::new(self.oracle, U256::ZERO, &IInferenceOracle::finalizeCall { settlement })
            }
            last => {
                settlements.extend(last);
                Call::new(self.oracle, U256::ZERO, &IInferenceOracle::finalizeBatchCall { settlements })
            }
        }
    }

    /// Calls a consumer again whose callback failed.
    pub fn retry_callback(&self, request: &Request, fulfillment: Fulfillment, output: Bytes) -> Call {
        Call::new(
            self.oracle,
            U256::ZERO,
            &IInferenceOracle::retryCallbackCall { request_: request.pack(), fulfillment, output },
        )
    }

    /// Sends credit to an account.
    pub fn withdraw_credit(&self, to: Address, amount: U256) -> Call {
        Call::new(self.oracle, U256::ZERO, &IInferenceOracle::withdrawCreditCall { to, amount })
    }

    /// Registers a model and says where it can be downloaded.
    pub fn register_model(&self, descriptor: ModelDescriptor, uri: String) -> Call {
        Call::new(self.models, U256::ZERO, &IModelRegistry::registerCall { descriptor, uri })
    }

    /// Adds stake.
    pub fn deposit_stake(&self, operator: Address, amount: U256) -> Call {
        Call::new(self.operators, amount, &IOperatorRegistry::depositCall { operator })
    }

    /// Registers a signing key with its consent: a signature over [`Domain::consent_digest`] in [`Client::operators_domain`].
    pub fn add_signer(&self, signer: Address, consent: Bytes) -> Call {
        Call::new(self.operators, U256::ZERO, &IOperatorRegistry::addSignerCall { signer, proof: consent })
    }

    /// States a price for a model in wei.
    pub fn set_offer(&self, model: ModelId, price: u128) -> Call {
        let price = alloy::primitives::aliases::U96::saturating_from(price);
        Call::new(self.operators, U256::ZERO, &IOperatorRegistry::setOfferCall { modelId: model.0, price })
    }

    /// Stops serving a model.
    pub fn remove_offer(&self, model: ModelId) -> Call {
        Call::new(self.operators, U256::ZERO, &IOperatorRegistry::removeOfferCall { modelId: model.0 })
    }

    /// Announces a withdrawal of stake.
    pub fn request_withdrawal(&self, amount: U256) -> Call {
        Call::new(self.operators, U256::ZERO, &IOperatorRegistry::requestWithdrawalCall { amount })
    }

    /// Takes announced stake out.
    pub fn withdraw_stake(&self, to: Address) -> Call {
        Call::new(self.operators, U256::ZERO, &IOperatorRegistry::withdrawCall { to })
    }
}

fn decode_log(log: Log) -> Option<Result<OracleLog, ClientError>> {
    // Unknown topics belong to a newer oracle; they are not ours to act on.
    let event = IInferenceOracle::IInferenceOracleEvents::decode_raw_log(log.topics(), &log.data().data).ok()?;
    Some(Ok(OracleLog {
        event,
        block_number: log.block_number?,
        block_hash: log.block_hash?,
        transaction: log.transaction_hash?,
        log_index: log.log_index?,
    }))
}

//! Puts the whole system on a chain, from the frozen compiler output in `sdk/artifacts`.
//!
//! The oracle and the operator registry know each other's address from their constructors, and so do the oracle and the dispute game. So they are created by
//! one account with consecutive nonces and addresses are computed ahead; the constructors of the oracle and of the game check them.

use crate::{bindings::Terms, client::ClientError};
use alloy::{
    network::TransactionBuilder,
    primitives::{Address, Bytes, U256},
    providers::Provider,
    rpc::types::TransactionRequest,
};
use alloy_sol_types::{SolValue, sol};
use serde::Deserialize;

mod constructor {
    #![allow(missing_docs)]
    super::sol! {
        struct OracleConfig {
            address models;
            address operators;
            address disputeGame;
            uint64 challengeWindow;
            uint64 exclusivePeriod;
            uint32 minTimeout;
            uint32 maxTimeout;
            uint256 stakePerResult;
            uint32 maxCallbackGas;
            uint32 revocationGas;
        }
    }
}

/// Creation code of one contract, as compiled.
#[derive(Debug, Clone, Deserialize)]
pub struct Artifact {
    /// Creation code without constructor arguments.
    pub bytecode: Bytes,
}

macro_rules! artifact {
    ($name:literal) => {
        serde_json::from_str(include_str!(concat!("../artifacts/", $name, ".json")))
            .expect("frozen artifacts are checked by the tests")
    };
}

impl Artifact {
    /// `ModelRegistry`.
    pub fn model_registry() -> Self {
        artifact!("ModelRegistry")
    }

    /// `OperatorRegistry`.
    pub fn operator_registry() -> Self {
        artifact!("OperatorRegistry")
    }

    /// `InferenceOracle`.
    pub fn inference_oracle() -> Self {
        artifact!("InferenceOracle")
    }

    /// `DisputeGame`.
    pub fn dispute_game() -> Self {
        artifact!("DisputeGame")
    }

    /// `OneStepVerifier`.
    pub fn one_step_verifier() -> Self {
        artifact!("OneStepVerifier")
    }

    /// The families of operations, in the order in which the verifier's constructor takes them.
    pub fn step_families() -> [Self; 9] {
        [
            artifact!("InputStep"),
            artifact!("IndexStep"),
            artifact!("ElementwiseStep"),
            artifact!("FunctionStep"),
            artifact!("ContractionStep"),
            artifact!("QuantisedStep"),
            artifact!("ReductionStep"),
            artifact!("SamplingStep"),
            artifact!("TextStep"),
        ]
    }

    /// The example consumer `LoanDesk`.
    pub fn loan_desk() -> Self {
        artifact!("LoanDesk")
    }

    /// The example consumer `DigitReader`.
    pub fn digit_reader() -> Self {
        artifact!("DigitReader")
    }

    /// Creates the contract with ABI-encoded constructor arguments. The provider needs a wallet.
    pub async fn deploy<P: Provider>(&self, provider: &P, arguments: Vec<u8>) -> Result<(Address, u64), ClientError> {
        let code: Bytes = [self.bytecode.to_vec(), arguments].concat().into();
        let pending = provider
            .send_transaction(TransactionRequest::default().with_deploy_code(code))
            .await
            .map_err(ClientError::from_rpc)?;
        let hash = *pending.tx_hash();
        let receipt = pending.get_receipt().await.map_err(|_| ClientError::Pending(hash))?;
        match (receipt.status(), receipt.contract_address, receipt.block_number) {
            (true, Some(address), Some(block)) => Ok((address, block)),
            _ => Err(ClientError::Failed(hash)),
        }
    }
}

/// Numbers that a deployment fixes for good. Their meaning and limits are in `docs/protocol.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeploySettings {
    /// The dispute game; none for a deployment without disputes, where a result is worth its operator's word.
    pub disputes: Option<Disputes>,
    /// Seconds in which a posted result can be challenged.
    pub challenge_window: u64,
    /// Seconds that the drawn operator has to itself.
    pub exclusive_period: u64,
    /// Shortest time for an answer, seconds.
    pub min_timeout: u32,
    /// Longest time for an answer, seconds.
    pub max_timeout: u32,
    /// Wei of stake that each unfinished result locks.
    pub stake_per_result: U256,
    /// Gas that a callback may ask for, at most.
    pub max_callback_gas: u32,
    /// Gas of `onInferenceRevoked`.
    pub revocation_gas: u32,
    /// Wei of stake that an operator needs for an offer.
    pub min_stake: U256,
    /// Seconds between announcing a withdrawal of stake and taking it.
    pub withdrawal_delay: u64,
}

/// What a dispute game is deployed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disputes {
    /// The judge, an `IStepVerifier` that is there already. It belongs to no deployment: one serves any number.
    pub verifier: Address,
    /// Money and clocks.
    pub terms: Terms,
}

/// Where the contracts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployment {
    /// `ModelRegistry`.
    pub models: Address,
    /// `OperatorRegistry`.
    pub operators: Address,
    /// `InferenceOracle`.
    pub oracle: Address,
    /// `DisputeGame`; zero where there are no disputes.
    pub game: Address,
    /// Block of the first of them: where a relayer starts reading.
    pub block: u64,
}

/// Deploys the step verifier with its families. It knows no deployment and no model: one on a chain is enough for all.
pub async fn deploy_verifier<P: Provider>(provider: &P) -> Result<Address, ClientError> {
    let mut families = [Address::ZERO; 9];
    for (address, family) in families.iter_mut().zip(Artifact::step_families()) {
        (*address, _) = family.deploy(provider, Vec::new()).await?;
    }
    let (verifier, _) = Artifact::one_step_verifier().deploy(provider, families.abi_encode()).await?;
    Ok(verifier)
}

/// Deploys the contracts from `deployer`, whose key is in the provider's wallet and which sends nothing else meanwhile.
pub async fn deploy<P: Provider>(
    provider: &P,
    deployer: Address,
    settings: &DeploySettings,
) -> Result<Deployment, ClientError> {
    let nonce = provider.get_transaction_count(deployer).await?;
    let oracle = deployer.create(nonce + 2);
    let game = settings.disputes.map_or(Address::ZERO, |_| deployer.create(nonce + 3));
    let (models, block) = Artifact::model_registry().deploy(provider, Vec::new()).await?;
    let arguments = (oracle, models, settings.min_stake, U256::from(settings.withdrawal_delay)).abi_encode_params();
    let (operators, _) = Artifact::operator_registry().deploy(provider, arguments).await?;
    let config = constructor::OracleConfig {
        models,
        operators,
        disputeGame: game,
        challengeWindow: settings.challenge_window,
        exclusivePeriod: settings.exclusive_period,
        minTimeout: settings.min_timeout,
        maxTimeout: settings.max_timeout,
        stakePerResult: settings.stake_per_result,
        maxCallbackGas: settings.max_callback_gas,
        revocationGas: settings.revocation_gas,
    };
    let (deployed, _) = Artifact::inference_oracle().deploy(provider, config.abi_encode()).await?;
    debug_assert_eq!(deployed, oracle, "the deployer sent other transactions meanwhile");
    if let Some(Disputes { verifier, terms }) = settings.disputes {
        let arguments = (oracle, verifier, terms).abi_encode_params();
        let (deployed, _) = Artifact::dispute_game().deploy(provider, arguments).await?;
        debug_assert_eq!(deployed, game, "the deployer sent other transactions meanwhile");
    }
    Ok(Deployment { models, operators, oracle: deployed, game, block })
}

//! The real contracts in an EVM inside the test: no node, no blocks, time as it is set. Whole games take milliseconds.

use alloy_primitives::{Address, B256, Bytes, Log, Signature, TxKind, U256, aliases::U96, hex};
use alloy_sol_types::{SolCall, SolEvent, SolEventInterface, SolInterface, SolValue};
use candor_sdk::{
    bindings::{
        Answer, Delivery, Fulfillment, IDisputeGame, IInferenceOracle, IModelRegistry, IOperatorRegistry,
        ModelDescriptor, PackedRequest, Params, RequestArgs, Terms,
    },
    commitment::{Domain, signature_bytes},
    dispute::Docket,
    request::Request,
};
use revm::{
    Context, ExecuteCommitEvm, MainBuilder, MainContext,
    context::{TxEnv, result::ExecutionResult},
    database::{CacheDB, EmptyDB},
    primitives::hardfork::SpecId,
    state::AccountInfo,
};
use std::path::Path;

/// Errors are for reading.
pub(crate) type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Seconds of the challenge window here.
pub(crate) const WINDOW: u64 = 1_000;
/// Wei that each result locks.
pub(crate) const STAKE: u128 = 1_000_000_000_000_000_000;
/// Wei per gas of every transaction here.
pub(crate) const GAS_PRICE: u128 = 1_000_000_000;
/// Wei for an answer.
pub(crate) const PRICE: u128 = 1_000_000_000_000_000;

/// Money and clocks here.
pub(crate) fn terms() -> Terms {
    let wei = |milliether: u64| U96::from(milliether) * U96::from(10u64.pow(15));
    Terms {
        bond: wei(100),
        reward: wei(300),
        gasAllowance: wei(50),
        maxGasPrice: GAS_PRICE as u64,
        clock: 600,
        increment: 10,
        extension: 60,
    }
}

type Machine = revm::MainnetEvm<revm::handler::MainnetContext<CacheDB<EmptyDB>>>;

/// What a transaction did.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// What was returned.
    pub(crate) output: Bytes,
    /// Events.
    pub(crate) logs: Vec<Log>,
    /// Gas that was paid for.
    pub(crate) gas: u64,
}

/// The system, and everybody in it.
pub(crate) struct Evm {
    machine: Machine,
    /// Unix second of the next transaction.
    pub(crate) now: u64,
    /// `InferenceOracle`.
    pub(crate) oracle: Address,
    /// `OperatorRegistry`.
    pub(crate) operators: Address,
    /// `ModelRegistry`.
    pub(crate) models: Address,
    /// `DisputeGame`.
    pub(crate) game: Address,
    /// Its events.
    pub(crate) docket: Docket,
}

/// A result that may be disputed.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    /// The request.
    pub(crate) request: PackedRequest,
    /// Its bytes.
    pub(crate) input: Vec<u8>,
    /// The answer.
    pub(crate) fulfillment: Fulfillment,
    /// Its bytes.
    pub(crate) output: Vec<u8>,
}

/// Creation code of a contract, as frozen or as compiled.
pub(crate) fn creation_code(name: &str) -> Result<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join(format!("sdk/artifacts/{name}.json"));
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let artifact: serde_json::Value = serde_json::from_str(&text)?;
    let code = artifact["bytecode"].as_str().ok_or("an artifact without code")?;
    Ok(hex::decode(code)?)
}

/// An address that is nobody's.
fn somebody(number: u8) -> Address {
    Address::repeat_byte(number)
}

impl Evm {
    /// Deploys everything.
    pub(crate) fn new() -> Result<Self> {
        let context = Context::mainnet()
            .with_db(CacheDB::new(EmptyDB::default()))
            .modify_cfg_chained(|cfg| cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA))
            .modify_block_chained(|block| {
                block.gas_limit = u64::MAX;
                block.basefee = GAS_PRICE as u64;
            });
        let machine = context.build_mainnet();
        let zero = Address::ZERO;
        let mut evm = Self {
            machine,
            now: 1_800_000_000,
            oracle: zero,
            operators: zero,
            models: zero,
            game: zero,
            docket: Docket::default(),
        };
        let owner = somebody(0xd0);
        evm.fund(owner);
        let families = [
            "InputStep",
            "IndexStep",
            "ElementwiseStep",
            "FunctionStep",
            "ContractionStep",
            "QuantisedStep",
            "ReductionStep",
            "SamplingStep",
            "TextStep",
        ];
        let mut addresses = Vec::new();
        for family in families {
            addresses.push(evm.create(owner, family, Vec::new())?);
        }
        let arguments: Vec<u8> = addresses.iter().flat_map(|address| address.abi_encode()).collect();
        let verifier = evm.create(owner, "OneStepVerifier", arguments)?;
        let nonce = families.len() as u64 + 1;
        (evm.oracle, evm.game) = (owner.create(nonce + 2), owner.create(nonce + 3));
        evm.models = evm.create(owner, "ModelRegistry", Vec::new())?;
        let arguments = (evm.oracle, evm.models, U256::from(STAKE), U256::from(3_600)).abi_encode_params();
        evm.operators = evm.create(owner, "OperatorRegistry", arguments)?;
        let config = (
            evm.models,
            evm.operators,
            evm.game,
            WINDOW,
            60u64,
            120u32,
            86_400u32,
            U256::from(STAKE),
            2_000_000u32,
            100_000u32,
        );
        let oracle = evm.create(owner, "InferenceOracle", config.abi_encode_params())?;
        assert_eq!(oracle, evm.oracle);
        let game = evm.create(owner, "DisputeGame", (evm.oracle, verifier, terms()).abi_encode_params())?;
        assert_eq!(game, evm.game);
        Ok(evm)
    }

    /// Gives somebody a million ether.
    pub(crate) fn fund(&mut self, account: Address) {
        let info = AccountInfo { balance: U256::from(10).pow(U256::from(24)), ..Default::default() };
        self.machine.ctx.journaled_state.database.insert_account_info(account, info);
    }

    /// What somebody has.
    pub(crate) fn balance(&mut self, account: Address) -> Result<U256> {
        use revm::Database;
        Ok(self.machine.ctx.journaled_state.database.basic(account)?.unwrap_or_default().balance)
    }

    fn nonce(&mut self, account: Address) -> Result<u64> {
        use revm::Database;
        Ok(self.machine.ctx.journaled_state.database.basic(account)?.unwrap_or_default().nonce)
    }

    fn transact(&mut self, from: Address, kind: TxKind, value: U256, data: Vec<u8>) -> Result<Result<Receipt, Bytes>> {
        let nonce = self.nonce(from)?;
        let transaction = TxEnv {
            caller: from,
            kind,
            value,
            data: data.into(),
            gas_limit: 1 << 24,
            gas_price: GAS_PRICE,
            nonce,
            ..Default::default()
        };
        self.machine.ctx.block.timestamp = U256::from(self.now);
        Ok(match self.machine.transact_commit(transaction)? {
            ExecutionResult::Success { gas, logs, output, .. } => {
                for log in &logs {
                    if log.address == self.game
                        && let Ok(event) =
                            IDisputeGame::IDisputeGameEvents::decode_raw_log(log.topics(), &log.data.data)
                    {
                        self.docket.apply(&event);
                    }
                }
                Ok(Receipt { output: output.into_data(), logs, gas: gas.tx_gas_used() })
            }
            ExecutionResult::Revert { output, .. } => Err(output),
            halted @ ExecutionResult::Halt { .. } => return Err(format!("{halted:?}").into()),
        })
    }

    fn create(&mut self, from: Address, name: &str, arguments: Vec<u8>) -> Result<Address> {
        let nonce = self.nonce(from)?;
        let code = [creation_code(name)?, arguments].concat();
        match self.transact(from, TxKind::Create, U256::ZERO, code)? {
            Ok(_) => Ok(from.create(nonce)),
            Err(data) => Err(format!("{name} can't be deployed: {}", reason(&data)).into()),
        }
    }

    /// Sends a transaction; `Err` inside: why it reverted.
    pub(crate) fn try_send(
        &mut self,
        from: Address,
        to: Address,
        value: U256,
        data: Vec<u8>,
    ) -> Result<Result<Receipt, String>> {
        Ok(self.transact(from, TxKind::Call(to), value, data)?.map_err(|data| reason(&data)))
    }

    /// Sends a transaction that has to succeed.
    pub(crate) fn send(&mut self, from: Address, to: Address, value: U256, call: &impl SolCall) -> Result<Receipt> {
        match self.try_send(from, to, value, call.abi_encode())? {
            Ok(receipt) => Ok(receipt),
            Err(reason) => Err(reason.into()),
        }
    }

    /// Calls a view.
    pub(crate) fn view<C: SolCall>(&mut self, to: Address, call: C) -> Result<C::Return> {
        let nobody = somebody(0xee);
        self.fund(nobody);
        let receipt = self.send(nobody, to, U256::ZERO, &call)?;
        Ok(C::abi_decode_returns_validate(&receipt.output)?)
    }

    /// Registers a model.
    pub(crate) fn register(&mut self, model: &ModelDescriptor) -> Result<()> {
        let owner = somebody(0xd1);
        self.fund(owner);
        let call = IModelRegistry::registerCall { descriptor: model.clone(), uri: String::new() };
        self.send(owner, self.models, U256::ZERO, &call).map(|_| ())
    }

    /// Makes an operator with stake for `results` results, serving a model with a key that is its own.
    pub(crate) fn operator(&mut self, key: &Key, results: u64, model: &ModelDescriptor) -> Result<()> {
        let account = key.address();
        self.fund(account);
        let stake = U256::from(STAKE) * U256::from(results);
        self.send(account, self.operators, stake, &IOperatorRegistry::depositCall { operator: account })?;
        let domain = Domain { chain_id: 1, contract: self.operators };
        let proof = key.sign(&domain.consent_digest(account));
        self.send(account, self.operators, U256::ZERO, &IOperatorRegistry::addSignerCall { signer: account, proof })?;
        let call = IOperatorRegistry::setOfferCall { modelId: model.id().0, price: U96::from(PRICE) };
        self.send(account, self.operators, U256::ZERO, &call).map(|_| ())
    }

    /// Asks.
    pub(crate) fn ask(&mut self, model: &ModelDescriptor, input: &[u8], params: Params) -> Result<PackedRequest> {
        let asker = somebody(0xa5);
        self.fund(asker);
        let args = RequestArgs {
            modelId: model.id().0,
            input: input.to_vec().into(),
            params,
            delivery: Delivery::Final,
            callbackGasLimit: 0,
            callbackGasPrice: 0,
            maxFee: U96::from(PRICE),
            timeout: 3_600,
        };
        let receipt = self.send(asker, self.oracle, U256::from(PRICE), &IInferenceOracle::requestCall { args })?;
        let event = receipt.logs.iter().find_map(|log| IInferenceOracle::Requested::decode_log_data(&log.data).ok());
        Ok(event.ok_or("no request")?.request)
    }

    /// Answers.
    pub(crate) fn answer(
        &mut self,
        key: &Key,
        request: PackedRequest,
        input: &[u8],
        output: &[u8],
    ) -> Result<Answered> {
        let readable = Request::unpack(&request)?;
        let domain = Domain { chain_id: 1, contract: self.oracle };
        let signature = key.sign(&domain.fulfillment_digest(&readable, output));
        let answer = Answer { request, output: output.to_vec().into(), signature };
        let receipt = self.send(key.address(), self.oracle, U256::ZERO, &IInferenceOracle::fulfillCall { answer })?;
        let event = receipt.logs.iter().find_map(|log| IInferenceOracle::Fulfilled::decode_log_data(&log.data).ok());
        let fulfillment = event.ok_or("no result")?.fulfillment;
        Ok(Answered { request, input: input.to_vec(), fulfillment, output: output.to_vec() })
    }

    /// Challenges; the number of the dispute.
    pub(crate) fn challenge(&mut self, from: Address, result: &Answered) -> Result<u64> {
        let call = IDisputeGame::challengeCall { request: result.request, fulfillment: result.fulfillment.clone() };
        let receipt = self.send(from, self.game, U256::from(terms().bond), &call)?;
        Ok(IDisputeGame::challengeCall::abi_decode_returns_validate(&receipt.output)?)
    }

    /// Somebody's credit in the game.
    pub(crate) fn credit(&mut self, account: Address) -> Result<U256> {
        self.view(self.game, IDisputeGame::creditOfCall { account })
    }
}

impl std::fmt::Debug for Evm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evm").field("now", &self.now).field("game", &self.game).finish_non_exhaustive()
    }
}

/// Why a call reverted.
fn reason(data: &[u8]) -> String {
    match IDisputeGame::IDisputeGameErrors::abi_decode(data) {
        Ok(error) => format!("{error:?}"),
        Err(_) => match IInferenceOracle::IInferenceOracleErrors::abi_decode(data) {
            Ok(error) => format!("{error:?}"),
            Err(_) => hex::encode(data),
        },
    }
}

/// A key that signs.
#[derive(Clone, Debug)]
pub(crate) struct Key(k256::ecdsa::SigningKey);

impl Key {
    /// One of a few.
    pub(crate) fn new(number: u8) -> Self {
        Self(k256::ecdsa::SigningKey::from_bytes(&[number; 32].into()).expect("a valid scalar"))
    }

    /// Its account.
    pub(crate) fn address(&self) -> Address {
        Address::from_public_key(self.0.verifying_key())
    }

    fn sign(&self, digest: &B256) -> Bytes {
        let signed = self.0.sign_prehash_recoverable(digest.as_slice()).expect("it signs any digest");
        signature_bytes(&Signature::from(signed))
    }
}

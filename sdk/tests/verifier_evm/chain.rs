//! The verifier on a chain of its own.

use alloy_primitives::{Address, Bytes, hex};
use alloy_sol_types::{SolCall, SolValue};
use candor_sdk::bindings::{Element, IStepVerifier, Run};
use revm::{
    Context, ExecuteCommitEvm, ExecuteEvm, MainBuilder, MainContext,
    context::{
        TxEnv,
        result::{ExecutionResult, Output},
    },
    database::{CacheDB, EmptyDB},
    primitives::{TxKind, hardfork::SpecId},
};

/// What the verifier says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Wrong,
    Right,
    /// It reverts; with what.
    Refused(Bytes),
}

/// The verifier, deployed.
pub(crate) struct Chain {
    database: CacheDB<EmptyDB>,
    verifier: Address,
    nonce: u64,
    /// Gas of the last call, with that of the transaction around it.
    pub(crate) gas: u64,
}

macro_rules! initcode {
    ($name:literal) => {
        initcode(include_str!(concat!("../../artifacts/", $name, ".json")))
    };
}

fn initcode(artifact: &str) -> Vec<u8> {
    let artifact: serde_json::Value = serde_json::from_str(artifact).expect("an artifact is JSON");
    hex::decode(artifact["bytecode"].as_str().expect("an artifact has code")).expect("code is hexadecimal")
}

impl Chain {
    pub(crate) fn new() -> Self {
        let mut chain = Self { database: CacheDB::new(EmptyDB::default()), verifier: Address::ZERO, nonce: 0, gas: 0 };
        let families = [
            initcode!("InputStep"),
            initcode!("IndexStep"),
            initcode!("ElementwiseStep"),
            initcode!("FunctionStep"),
            initcode!("ContractionStep"),
            initcode!("QuantisedStep"),
            initcode!("ReductionStep"),
            initcode!("SamplingStep"),
            initcode!("TextStep"),
        ]
        .map(|code| chain.deploy(code));
        chain.verifier = chain.deploy([initcode!("OneStepVerifier"), families.abi_encode()].concat());
        chain
    }

    fn transact(&mut self, kind: TxKind, data: Vec<u8>, commit: bool) -> ExecutionResult {
        let mut evm = Context::mainnet()
            .with_db(&mut self.database)
            .modify_cfg_chained(|cfg| {
                cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
                cfg.tx_gas_limit_cap = Some(u64::MAX);
            })
            .modify_block_chained(|block| block.gas_limit = u64::MAX)
            .build_mainnet();
        let transaction =
            TxEnv { kind, data: data.into(), gas_limit: u64::MAX / 2, nonce: self.nonce, ..Default::default() };
        if commit {
            self.nonce += 1;
            evm.transact_commit(transaction).expect("the transaction is valid")
        } else {
            evm.transact(transaction).expect("the transaction is valid").result
        }
    }

    fn deploy(&mut self, code: Vec<u8>) -> Address {
        match self.transact(TxKind::Create, code, true) {
            ExecutionResult::Success { output: Output::Create(_, Some(address)), .. } => address,
            other => panic!("a contract is not deployed: {other:?}"),
        }
    }

    fn call<C: SolCall>(&mut self, call: C) -> Result<C::Return, Bytes> {
        let result = self.transact(TxKind::Call(self.verifier), call.abi_encode(), false);
        self.gas = result.tx_gas_used();
        match result {
            ExecutionResult::Success { output, .. } => {
                Ok(C::abi_decode_returns(output.data()).expect("the verifier returns what it says"))
            }
            ExecutionResult::Revert { output, .. } => Err(output),
            other => panic!("neither returned nor reverted: {other:?}"),
        }
    }

    fn judge<C: SolCall<Return = bool>>(&mut self, call: C) -> Verdict {
        match self.call(call) {
            Ok(true) => Verdict::Wrong,
            Ok(false) => Verdict::Right,
            Err(why) => Verdict::Refused(why),
        }
    }

    pub(crate) fn element(&mut self, run: &Run, element: Element, leaf: &[u8], proof: &[u8]) -> Verdict {
        let (leaf, proof) = (leaf.to_vec().into(), proof.to_vec().into());
        self.judge(IStepVerifier::isElementWrongCall { run: run.clone(), element, leaf, proof })
    }

    pub(crate) fn partial(
        &mut self,
        run: &Run,
        element: Element,
        partials: &[u32],
        part: u32,
        proof: &[u8],
    ) -> Verdict {
        let (partials, proof) = (little_endian(partials), proof.to_vec().into());
        self.judge(IStepVerifier::isPartialWrongCall { run: run.clone(), element, partials, part, proof })
    }

    pub(crate) fn sum(&mut self, run: &Run, element: Element, leaf: &[u8], partials: &[u32], proof: &[u8]) -> Verdict {
        let (leaf, partials, proof) = (leaf.to_vec().into(), little_endian(partials), proof.to_vec().into());
        self.judge(IStepVerifier::isSumWrongCall { run: run.clone(), element, leaf, partials, proof })
    }

    pub(crate) fn claim(&mut self, run: &Run, input: &[u8], proof: &[u8]) -> Verdict {
        let (input, proof) = (input.to_vec().into(), proof.to_vec().into());
        self.judge(IStepVerifier::isClaimWrongCall { run: run.clone(), input, proof })
    }

    pub(crate) fn output(&mut self, run: &Run, output: &[u8], proof: &[u8]) -> Verdict {
        let (output, proof) = (output.to_vec().into(), proof.to_vec().into());
        self.judge(IStepVerifier::isOutputWrongCall { run: run.clone(), output, proof })
    }

    pub(crate) fn partials_of(&mut self, run: &Run, element: Element, proof: &[u8]) -> Result<u32, Bytes> {
        self.call(IStepVerifier::partialsOfCall { run: run.clone(), element, proof: proof.to_vec().into() })
    }

    /// Leaves of a node; `None` if it is undefined.
    pub(crate) fn leaves_of(&mut self, call: IStepVerifier::leavesOfCall) -> Result<Option<u64>, Bytes> {
        self.call(call).map(|said| said.defined.then_some(said.leaves))
    }

    pub(crate) fn has_nodes(&mut self, call: IStepVerifier::hasNodesCall) -> bool {
        self.call(call).expect("it answers")
    }
}

fn little_endian(words: &[u32]) -> Bytes {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

//! Consumers that misbehave, assembled by hand: each makes its one request in its constructor and leaves a few bytes of code that answer callbacks.
//!
//! No compiler and no frozen file is needed for them, and there is nothing in them but the misbehaviour.

use alloy::{
    primitives::{Address, Bytes},
    sol_types::SolCall,
};
use candor_sdk::bindings::IInferenceOracle;

/// What a consumer does when it is called back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callback {
    /// Takes the result.
    Accept,
    /// Reverts without a reason.
    Revert,
    /// Burns all the gas it was given.
    BurnGas,
    /// Reverts with as much data as its gas can pay for.
    ReturnBomb,
    /// Calls the oracle back to take credit out, and reverts if it may not.
    Reenter,
}

impl Callback {
    /// Runtime code.
    fn code(self) -> Vec<u8> {
        match self {
            Self::Accept => vec![0x00],                             // STOP
            Self::Revert => vec![0x5f, 0x5f, 0xfd],                 // REVERT(0, 0)
            Self::BurnGas => vec![0x5b, 0x5f, 0x56],                // JUMPDEST; JUMP(0): for ever
            Self::ReturnBomb => vec![0x61, 0x40, 0x00, 0x5f, 0xfd], // REVERT(0, 16384)
            Self::Reenter => {
                let mut code = vec![0x63]; // PUSH4
                code.extend(IInferenceOracle::withdrawCreditCall::SELECTOR);
                code.extend([0x60, 0xe0, 0x1b, 0x5f, 0x52]); // selector at 0
                code.extend([0x32, 0x60, 0x04, 0x52]); // ORIGIN as payee, who would take the no wei
                code.extend([0x5f, 0x5f, 0x60, 0x44, 0x5f, 0x5f, 0x33, 0x5a, 0xf1]); // CALL(GAS, CALLER, 0, 0, 0x44, 0, 0)
                code.extend([0x60, 0x1d, 0x57, 0x5f, 0x5f, 0xfd]); // JUMPI if it succeeded; REVERT(0, 0)
                code.extend([0x5b, 0x00]); // JUMPDEST; STOP
                debug_assert_eq!(code[0x1d], 0x5b);
                code
            }
        }
    }

    /// Creation code of a consumer that calls `oracle` with `calldata` and all the value it is created with, and reverts if that fails.
    pub fn creation_code(self, oracle: Address, calldata: &[u8]) -> Bytes {
        let runtime = self.code();
        let word = |value: usize| u16::try_from(value).expect("small").to_be_bytes();
        // Both lengths of the assembled header are fixed, so offsets are known.
        const TARGET: usize = 0x34;
        const HEADER: usize = TARGET + 14;
        let mut code = Vec::new();
        let push2 = |code: &mut Vec<u8>, value: usize| {
            code.push(0x61);
            code.extend(word(value));
        };
        push2(&mut code, calldata.len());
        push2(&mut code, HEADER + runtime.len());
        code.extend([0x5f, 0x39]); // CODECOPY(0, after header and runtime, calldata.len())
        code.extend([0x5f, 0x5f]); // no return data wanted
        push2(&mut code, calldata.len());
        code.extend([0x5f, 0x34, 0x73]); // input at 0; CALLVALUE; PUSH20
        code.extend(oracle.as_slice());
        code.extend([0x5a, 0xf1]); // CALL(GAS, oracle, CALLVALUE, 0, len, 0, 0)
        push2(&mut code, TARGET); // jump target, below
        code.push(0x57); // JUMPI if it succeeded
        code.extend([0x3d, 0x5f, 0x5f, 0x3e, 0x3d, 0x5f, 0xfd]); // RETURNDATACOPY, REVERT with its reason
        code.resize(TARGET, 0x5b); // JUMPDESTs up to the target
        code.push(0x5b);
        push2(&mut code, runtime.len());
        push2(&mut code, HEADER);
        code.extend([0x5f, 0x39]); // CODECOPY(0, HEADER, runtime.len())
        push2(&mut code, runtime.len());
        code.extend([0x5f, 0xf3]); // RETURN(0, runtime.len())
        code.resize(HEADER, 0x00);
        code.extend(runtime);
        code.extend(calldata);
        code.into()
    }
}

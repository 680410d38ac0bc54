//! Proofs of single steps, as `IStepVerifier` wants them: what a challenger brings to have the chain recompute one element of a run.
//!
//! - [`ModelTrees`]: the trees a model id commits to, for opening descriptors, weights and vocabulary entries.
//! - [`TraceView`]: the claimed trace, as far as a challenger knows it: what is earlier than the disputed element is agreed, so its own run serves.
//! - [`Prover`]: one function for each question the verifier answers.
//!
//! The format is that of `contracts/src/verifier/StepProof.sol`; `docs/verifier.md` explains it.

mod openings;
mod prover;

pub use openings::{ModelTrees, weight_path};
pub use prover::{Element, LeafOpening, ProofError, Prover, TraceView};

/// The proof format, from the text of the Solidity file.
#[allow(missing_docs)] // generated items; their documentation is the natspec
pub mod format {
    use crate::bindings::NodeOpening;
    use alloy_sol_types::sol;

    sol! {
        #[derive(Debug, PartialEq, Eq)]
        struct StepProof {
            NodeOpening node;
            OperandOpening[] operands;
            LeafOpening[] reads;
            DataOpening data;
            uint64 hint;
        }

        #[derive(Debug, Default, PartialEq, Eq)]
        struct OperandOpening { bytes descriptor; bytes32[] path; uint64 count; }

        #[derive(Debug, Default, PartialEq, Eq)]
        struct LeafOpening { bytes data; bytes32[] path; }

        #[derive(Debug, Default, PartialEq, Eq)]
        struct DataOpening { bytes data; bytes32[] path; uint64 count; }

        #[derive(Debug, PartialEq, Eq)]
        struct ClaimProof { NodeOpening node; bytes tokens; }
    }
}

//! What is committed to, and how: request hash, EIP-712 digests, and a signed result that anybody can check offline.
//!
//! A fulfillment is a signature over (request, model, input hash, output hash, output size) in a domain with the chain id and the oracle's
//! address. The request hash in it covers every field of the request, so a signature made for a request that a reorg replaced binds to nothing.

use crate::{
    bindings::{Fulfillment, ModelDescriptor, PackedRequest},
    ids::ModelId,
    request::Request,
};
use alloy_primitives::{Address, B256, Bytes, Signature, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain, sol};
use serde::{Deserialize, Serialize};

mod typed_data {
    #![allow(missing_docs)]
    super::sol! {
        #[derive(Debug)]
        struct Fulfillment {
            uint64 requestId;
            bytes32 requestHash;
            bytes32 modelId;
            bytes32 inputHash;
            bytes32 outputHash;
            uint32 outputSize;
        }

        #[derive(Debug)]
        struct SignerConsent {
            address operator;
        }
    }
}

/// Where signatures hold: one contract on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Domain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The verifying contract: the oracle for fulfillments, the operator registry for a signer's consent.
    pub contract: Address,
}

impl Domain {
    fn eip712(&self) -> Eip712Domain {
        eip712_domain! { name: "Candor", version: "1", chain_id: self.chain_id, verifying_contract: self.contract, }
    }

    /// `domainSeparator()` of the contract.
    pub fn separator(&self) -> B256 {
        self.eip712().separator()
    }

    /// What an operator's key signs for a result. Source: `InferenceOracle.fulfillmentDigest`.
    pub fn fulfillment_digest(&self, request: &Request, output: &[u8]) -> B256 {
        typed_data::Fulfillment {
            requestId: request.id.0,
            requestHash: request.hash(),
            modelId: request.model.0,
            inputHash: request.input_hash,
            outputHash: keccak256(output),
            outputSize: u32::try_from(output.len())
                .expect("outputs are bounded by the model's limits, far below 4 GiB"),
        }
        .eip712_signing_hash(&self.eip712())
    }

    /// What a key signs to let `operator` register it. Source: `OperatorRegistry.addSigner`.
    pub fn consent_digest(&self, operator: Address) -> B256 {
        typed_data::SignerConsent { operator }.eip712_signing_hash(&self.eip712())
    }
}

impl ModelDescriptor {
    /// The model id: `keccak256(abi.encode(descriptor))`. Source: `ModelRegistry.idOf`.
    pub fn id(&self) -> ModelId {
        ModelId(keccak256(self.abi_encode()))
    }
}

/// A result with everything that is needed to check it without a chain: who signed what for which request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedResult {
    /// Where the signature holds.
    pub domain: Domain,
    /// The request's six words, as hashed by the oracle.
    pub request: Bytes,
    /// Input bytes of the request.
    pub input: Bytes,
    /// Output bytes of the model.
    pub output: Bytes,
    /// 65 bytes: r, s, v (27 or 28).
    pub signature: Bytes,
}

/// Why a signed result is not what it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The request's bytes are not a packed request.
    #[error("the request does not decode: {0}")]
    Request(String),
    /// The input is not the one that was asked about.
    #[error("the input hashes to {actual}, the request commits to {expected}")]
    Input {
        /// What the request commits to.
        expected: B256,
        /// Hash of the input given.
        actual: B256,
    },
    /// Not a canonical signature.
    #[error("not a signature: {0}")]
    Signature(&'static str),
}

impl SignedResult {
    /// The decoded request.
    pub fn decode_request(&self) -> Result<Request, VerifyError> {
        let packed = PackedRequest::abi_decode_validate(&self.request)
            .map_err(|error| VerifyError::Request(error.to_string()))?;
        Request::unpack(&packed).map_err(|error| VerifyError::Request(error.to_string()))
    }

    /// Checks input and signature and returns the signing key's address. Whether that key speaks for an operator with stake is the chain's
    /// knowledge (`OperatorRegistry.signerStake`); whether the output is right is found by running the model.
    pub fn verify(&self) -> Result<(Request, Address), VerifyError> {
        let request = self.decode_request()?;
        let actual = keccak256(&self.input);
        if actual != request.input_hash {
            return Err(VerifyError::Input { expected: request.input_hash, actual });
        }
        let signer = recover(&self.domain.fulfillment_digest(&request, &self.output), &self.signature)?;
        Ok((request, signer))
    }
}

/// Recovers a signer, accepting exactly the form the contracts accept: 65 bytes, v 27 or 28, s in the lower half.
pub fn recover(digest: &B256, signature: &[u8]) -> Result<Address, VerifyError> {
    let bytes: &[u8; 65] = signature.try_into().map_err(|_| VerifyError::Signature("expected 65 bytes"))?;
    let parity = match bytes[64] {
        27 => false,
        28 => true,
        _ => return Err(VerifyError::Signature("v must be 27 or 28")),
    };
    let signature = Signature::from_bytes_and_parity(&bytes[..64], parity);
    if signature.normalize_s().is_some() {
        return Err(VerifyError::Signature("s is in the upper half: a malleable twin"));
    }
    signature.recover_address_from_prehash(digest).map_err(|_| VerifyError::Signature("no key recovers from it"))
}

/// The 65 bytes that the contracts accept.
pub fn signature_bytes(signature: &Signature) -> Bytes {
    let signature = signature.normalized_s();
    signature.as_bytes().to_vec().into()
}

impl Fulfillment {
    /// First unix second in which the result can be finalized.
    pub fn final_at(&self, challenge_window: u64) -> u64 {
        self.fulfilledAt.saturating_add(challenge_window)
    }
}

impl From<&crate::program::ModelDescriptor> for ModelDescriptor {
    fn from(descriptor: &crate::program::ModelDescriptor) -> Self {
        let limits = &descriptor.limits;
        Self {
            arithmeticVersion: alloy_primitives::U256::from(descriptor.arithmetic_version),
            graphRoot: descriptor.graph_root,
            weightsRoot: descriptor.weights_root,
            vocabRoot: descriptor.vocab_root,
            limits: crate::bindings::Limits {
                minInputBytes: limits.min_input_bytes,
                maxInputBytes: limits.max_input_bytes,
                maxOutputBytes: limits.max_output_bytes,
                maxTokens: limits.max_tokens,
            },
        }
    }
}

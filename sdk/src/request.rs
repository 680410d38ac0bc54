//! A request, readable and packed.
//!
//! On the wire (events, calldata, the hash that the oracle keeps) a request is six words, [`PackedRequest`]; everywhere else it is this struct.
//! The layout is normative in `contracts/src/Types.sol`; the golden vectors hold both to it.

use crate::{
    bindings::{Delivery, PackedRequest, Params},
    ids::{ModelId, RequestId},
};
use alloy_primitives::{Address, B256, Bytes, U256, aliases::U96, keccak256};
use alloy_sol_types::SolValue;

/// Everything about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub id: RequestId,
    /// 0, and one more each time a result was rejected and the request opened again.
    pub attempt: u32,
    /// Who pays and is called back.
    pub requester: Address,
    /// Which model is asked.
    pub model: ModelId,
    /// `keccak256` of the input bytes.
    pub input_hash: B256,
    /// Fixed by the chain at request time.
    pub seed: B256,
    /// How a generative model samples.
    pub params: Params,
    /// Whether the input is at a URI, and not on chain.
    pub input_by_uri: bool,
    /// When the requester is called back.
    pub delivery: Delivery,
    /// Gas of the callback; 0: no callback.
    pub callback_gas_limit: u32,
    /// Wei per gas, at most, that the requester pays for the callback. Less than 2^48.
    pub callback_gas_price: u64,
    /// Wei for the operator. Less than 2^96.
    pub fee: u128,
    /// The operator drawn, alone until `exclusive_until`; zero: open to all.
    pub operator: Address,
    /// First unix second in which others may answer.
    pub exclusive_until: u64,
    /// Last unix second in which it can be fulfilled. Less than 2^40.
    pub deadline: u64,
}

/// What the chain says of a request's input. Its hash is in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// All of it.
    Bytes(Bytes),
    /// Where it is.
    Uri {
        /// The address.
        uri: String,
        /// Bytes there, as the requester says; inside the model's limits.
        size: u32,
    },
}

/// The longest URI that the oracle takes, in bytes. Source: `InferenceOracle`.
pub const MAX_URI_BYTES: usize = 2048;

/// The bit beside the delivery that says that the input is at a URI.
const BY_URI: u8 = 0x80;

/// Why six words are not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// A delivery that does not exist.
    #[error("delivery {0} does not exist")]
    Delivery(u8),
    /// A request that opens to others before the epoch.
    #[error("open for {open_for} seconds before a deadline at unix second {deadline}")]
    OpenFor {
        /// Seconds that everybody has.
        open_for: u64,
        /// The deadline.
        deadline: u64,
    },
}

impl Request {
    /// Reads the six words.
    pub fn unpack(packed: &PackedRequest) -> Result<Self, UnpackError> {
        let (head, payment, terms) = (&packed.head, &packed.payment, &packed.terms);
        let open_for = number(terms, 23..27);
        let deadline = number(terms, 27..32);
        let (input_by_uri, delivery) = (terms[22] & BY_URI != 0, terms[22] & !BY_URI);
        Ok(Self {
            id: RequestId(number(head, 24..32)),
            attempt: word32(head, 20),
            requester: Address::from_slice(&head[..20]),
            model: ModelId(packed.modelId),
            input_hash: packed.inputHash,
            seed: packed.seed,
            params: Params { maxTokens: word32(terms, 0), temperature: word32(terms, 4), minP: word32(terms, 8) },
            input_by_uri,
            delivery: Delivery::try_from(delivery).map_err(|_| UnpackError::Delivery(delivery))?,
            callback_gas_limit: word32(terms, 12),
            callback_gas_price: number(terms, 16..22),
            fee: U96::from_be_slice(&payment[20..]).to(),
            operator: Address::from_slice(&payment[..20]),
            exclusive_until: deadline.checked_sub(open_for).ok_or(UnpackError::OpenFor { open_for, deadline })?,
            deadline,
        })
    }

    /// The six words. Numbers beyond their width (see the fields) are cut: no chain gives such a request.
    pub fn pack(&self) -> PackedRequest {
        let mut head = [0; 32];
        head[..20].copy_from_slice(self.requester.as_slice());
        head[20..24].copy_from_slice(&self.attempt.to_be_bytes());
        head[24..].copy_from_slice(&self.id.0.to_be_bytes());
        let mut payment = [0; 32];
        payment[..20].copy_from_slice(self.operator.as_slice());
        payment[20..].copy_from_slice(&self.fee.to_be_bytes()[4..]);
        let mut terms = [0; 32];
        terms[..4].copy_from_slice(&self.params.maxTokens.to_be_bytes());
        terms[4..8].copy_from_slice(&self.params.temperature.to_be_bytes());
        terms[8..12].copy_from_slice(&self.params.minP.to_be_bytes());
        terms[12..16].copy_from_slice(&self.callback_gas_limit.to_be_bytes());
        terms[16..22].copy_from_slice(&self.callback_gas_price.to_be_bytes()[2..]);
        terms[22] = self.delivery as u8 | if self.input_by_uri { BY_URI } else { 0 };
        terms[23..27].copy_from_slice(&self.deadline.wrapping_sub(self.exclusive_until).to_be_bytes()[4..]);
        terms[27..].copy_from_slice(&self.deadline.to_be_bytes()[3..]);
        PackedRequest {
            head: head.into(),
            modelId: self.model.0,
            inputHash: self.input_hash,
            seed: self.seed,
            payment: payment.into(),
            terms: terms.into(),
        }
    }

    /// What the oracle keeps of it: `keccak256(abi.encode(packed))`.
    pub fn hash(&self) -> B256 {
        keccak256(self.pack().abi_encode())
    }

    /// Wei that were escrowed for the callback.
    pub fn callback_allowance(&self) -> U256 {
        U256::from(self.callback_gas_limit) * U256::from(self.callback_gas_price)
    }
}

fn number(word: &B256, bytes: std::ops::Range<usize>) -> u64 {
    word[bytes].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn word32(word: &B256, at: usize) -> u32 {
    u32::from_be_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Request {
        Request {
            id: RequestId(0x0102_0304_0506_0708),
            attempt: 0x1112_1314,
            requester: Address::repeat_byte(0xaa),
            model: ModelId(B256::repeat_byte(0xbb)),
            input_hash: B256::repeat_byte(0xcc),
            seed: B256::repeat_byte(0xdd),
            params: Params { maxTokens: 0x2122_2324, temperature: 0x3f80_0000, minP: 0x3d4c_cccd },
            input_by_uri: false,
            delivery: Delivery::Final,
            callback_gas_limit: 0x3132_3334,
            callback_gas_price: 0x4142_4344_4546,
            fee: 0x5152_5354_5556_5758_595a_5b5c,
            operator: Address::repeat_byte(0xee),
            exclusive_until: 0x6162_6364,
            deadline: 0x6162_6364 + 0x7172_7374,
        }
    }

    #[test]
    fn packs_into_the_bits_that_the_contracts_read() {
        let packed = example().pack();
        assert_eq!(format!("{:x}", packed.head), format!("{}111213140102030405060708", "aa".repeat(20)));
        assert_eq!(format!("{:x}", packed.payment), format!("{}5152535455565758595a5b5c", "ee".repeat(20)));
        assert_eq!(
            format!("{:x}", packed.terms),
            "212223243f8000003d4ccccd3132333441424344454601".to_owned() + "71727374" + "00d2d4d6d8"
        );
        assert_eq!(Request::unpack(&packed), Ok(example()));
        let by_uri = Request { input_by_uri: true, ..example() };
        assert_eq!(by_uri.pack().terms[22], 0x81);
        assert_eq!(Request::unpack(&by_uri.pack()), Ok(by_uri));
    }

    #[test]
    fn refuses_words_that_no_oracle_wrote() {
        let mut packed = example().pack();
        packed.terms.0[22] = 2;
        assert_eq!(Request::unpack(&packed), Err(UnpackError::Delivery(2)));
        let mut packed = example().pack();
        packed.terms.0[27..].fill(0);
        assert!(matches!(Request::unpack(&packed), Err(UnpackError::OpenFor { .. })));
    }
}

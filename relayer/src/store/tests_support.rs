//! A request for tests of what looks at requests.

use super::{RequestRow, Step};
use alloy::primitives::{Address, B256, Bytes};
use candor_sdk::{
    bindings::{Delivery, Params},
    ids::{ModelId, RequestId},
    request::Request,
};

/// A request at a step, drawn for the operator 0x0505.., worth a thousandth of an ether, due at unix second 5000.
pub(crate) fn row(step: Step) -> RequestRow {
    RequestRow {
        request: Request {
            id: RequestId(1),
            attempt: 0,
            requester: Address::repeat_byte(1),
            model: ModelId(B256::repeat_byte(2)),
            input_hash: B256::ZERO,
            seed: B256::ZERO,
            params: Params::default(),
            input_by_uri: false,
            delivery: Delivery::Final,
            callback_gas_limit: 0,
            callback_gas_price: 0,
            fee: 1_000_000_000_000_000,
            operator: Address::repeat_byte(5),
            exclusive_until: 1_000,
            deadline: 5_000,
        },
        input: Bytes::new(),
        by_uri: None,
        step,
        block: 10,
        output: None,
        inferred_in: None,
        signature: None,
        fulfillment: None,
        final_at: None,
        paid: None,
        reason: None,
        seen_at: 0,
        worker: None,
    }
}

// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

// The vocabulary that contracts, interfaces and consumers share. The Rust SDK mirrors every name here.

/// @notice Number of a request, counted from 1 by the oracle that took it. A hole in what a relayer has seen is a missed event.
type RequestId is uint64;

/// @notice Content address of a model: see `IModelRegistry.ModelDescriptor`.
type ModelId is bytes32;

using {RequestIdLib.equals as ==, RequestIdLib.differs as !=} for RequestId global;
using {ModelIdLib.equals as ==, ModelIdLib.differs as !=} for ModelId global;

library RequestIdLib {
    function equals(RequestId a, RequestId b) internal pure returns (bool) {
        return RequestId.unwrap(a) == RequestId.unwrap(b);
    }

    function differs(RequestId a, RequestId b) internal pure returns (bool) {
        return RequestId.unwrap(a) != RequestId.unwrap(b);
    }
}

library ModelIdLib {
    function equals(ModelId a, ModelId b) internal pure returns (bool) {
        return ModelId.unwrap(a) == ModelId.unwrap(b);
    }

    function differs(ModelId a, ModelId b) internal pure returns (bool) {
        return ModelId.unwrap(a) != ModelId.unwrap(b);
    }
}

/// @notice Where a request stands.
///
///     None -> Requested -> Fulfilled -> Finalized
///                 |  ^         |  ^
///                 |  |         v  |
///                 |  +----- Disputed
///                 v
///             Cancelled
///
/// A dispute that the operator wins leads back to Fulfilled; one that it loses leads back to Requested, for another operator.
enum RequestStatus {
    None,
    Requested,
    Fulfilled,
    Disputed,
    Finalized,
    Cancelled
}

/// @notice When the consumer is called: with the result as soon as it is posted (it may be revoked), or once it is final.
enum Delivery {
    Optimistic,
    Final
}

/// @notice What became of the consumer's callback. `None`: not asked for (gas limit 0) or not tried yet.
enum CallbackStatus {
    None,
    Delivered,
    Failed
}

/// @notice How a generative model samples; all zero for the others.
struct Params {
    uint32 maxTokens; // at most this many generated tokens
    uint32 temperature; // binary32 bits; 0 is greedy
    uint32 minP; // binary32 bits; 0 is off
}

/// @notice What a model accepts and gives. Part of its id.
struct Limits {
    uint32 minInputBytes;
    uint32 maxInputBytes;
    uint32 maxOutputBytes;
    uint32 maxTokens;
}

/// @notice Everything about a request. The oracle keeps its hash; whoever acts on the request brings the fields, as the event gave them.
struct Request {
    RequestId id;
    uint32 attempt; // 0, and one more each time a result was rejected and the request opened again
    address requester; // pays, and is called back
    ModelId modelId;
    bytes32 inputHash; // keccak256 of the input bytes
    bytes32 seed; // fixed by the chain at request time
    Params params;
    Delivery delivery;
    uint32 callbackGasLimit; // 0: no callback
    uint64 callbackGasPrice; // wei per unit of gas, at most, that the requester pays for the callback
    uint96 fee; // wei for the operator
    address operator; // drawn; alone until `exclusiveUntil`. Zero: open to all
    uint64 exclusiveUntil; // unix seconds
    uint64 deadline; // unix seconds; the last second in which it can be fulfilled
}

/// @notice A posted result, as the oracle's hash of it and the `Fulfilled` event have it.
struct Fulfillment {
    address operator; // who answers for it with stake
    uint64 fulfilledAt; // unix seconds
    uint96 callbackCost; // wei of the callback allowance already spent, owed to the operator at finality
    CallbackStatus callback;
    bytes32 outputHash; // keccak256 of the output bytes
}

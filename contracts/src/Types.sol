// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

// The vocabulary that contracts, interfaces and consumers share. The Rust SDK mirrors every name here.

/// @notice Number of a request, counted from 1 by the oracle that took it. A hole in what a relayer has seen is a missed event.
type RequestId is uint64;

/// @notice Content address of a model: see `IModelRegistry.ModelDescriptor`.
type ModelId is bytes32;

using {requestIdEquals as ==, requestIdDiffers as !=} for RequestId global;
using {modelIdEquals as ==, modelIdDiffers as !=} for ModelId global;

function requestIdEquals(RequestId a, RequestId b) pure returns (bool) {
    return RequestId.unwrap(a) == RequestId.unwrap(b);
}

function requestIdDiffers(RequestId a, RequestId b) pure returns (bool) {
    return RequestId.unwrap(a) != RequestId.unwrap(b);
}

function modelIdEquals(ModelId a, ModelId b) pure returns (bool) {
    return ModelId.unwrap(a) == ModelId.unwrap(b);
}

function modelIdDiffers(ModelId a, ModelId b) pure returns (bool) {
    return ModelId.unwrap(a) != ModelId.unwrap(b);
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

/// @notice Everything about a request, in the form in which it travels: the oracle keeps its hash, and whoever acts on the request brings the words, as the
/// event gave them. From the most significant bits:
///
///     head     requester 160 | attempt 32 | id 64
///     payment  operator 160 | fee 96
///     terms    maxTokens 32 | temperature 32 | minP 32 | callbackGasLimit 32 | callbackGasPrice 48 | byUri 1 | delivery 7 | openFor 32 | deadline 40
///
/// `openFor` is `deadline - exclusiveUntil`; `byUri`: the input is at a URI, not on chain. See `PackedRequests` for reading and writing.
struct PackedRequest {
    bytes32 head;
    ModelId modelId;
    bytes32 inputHash; // keccak256 of the input bytes
    bytes32 seed; // fixed by the chain at request time
    bytes32 payment;
    bytes32 terms;
}

/// @notice Everything about a request, in the form in which it is read.
struct Request {
    RequestId id;
    uint32 attempt; // 0, and one more each time a result was rejected and the request opened again
    address requester; // pays, and is called back
    ModelId modelId;
    bytes32 inputHash; // keccak256 of the input bytes
    bytes32 seed; // fixed by the chain at request time
    Params params;
    bool inputByUri; // the input is at a URI, not on chain
    Delivery delivery;
    uint32 callbackGasLimit; // 0: no callback
    uint64 callbackGasPrice; // wei per unit of gas, at most, that the requester pays for the callback
    uint96 fee; // wei for the operator
    address operator; // drawn; alone until `exclusiveUntil`. Zero: open to all from the start
    uint64 exclusiveUntil; // unix seconds; the first second in which others may answer
    uint64 deadline; // unix seconds; the last second in which it can be fulfilled
}

/// @notice A posted result, as the oracle's hash of it and the `Fulfilled` event have it.
struct Fulfillment {
    address operator; // who answers for it with stake
    uint64 fulfilledAt; // unix seconds
    uint96 callbackCost; // wei of the callback allowance already spent, owed to the operator at finality
    bytes32 outputHash; // keccak256 of the output bytes
}

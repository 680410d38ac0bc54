// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ModelId, PackedRequest, RequestId} from "../Types.sol";
import {IInferenceOracle} from "../interfaces/IInferenceOracle.sol";

/// @title Data of the two large events, laid out once
/// @notice A request and a fulfillment are hashed, stored as that hash, and logged together with input or output. Here the words that are hashed lie at the
/// head of the event's data, so nothing is encoded or copied twice. Same bytes as `emit` would give; the tests compare them.
///
///     request      [ six words of PackedRequest ] [ offset ] [ length ] [ input, padded ]
///     by URI       [ six words of PackedRequest ] [ size of the input ] [ offset ] [ length ] [ URI, padded ]
///     fulfillment  [ hash of the request ] [ four words of Fulfillment ] [ offset ] [ length ] [ output, padded ]
///                    hashed from here ..................................    logged from the second word on
/// @dev Raw memory rather than structs: the compiler clears every struct that it hands over.
type RequestData is uint256;

type FulfillmentData is uint256;

library EventData {
    // ---------------------------------------------------------------- requests

    /// @notice Lays out the input and its hash; the other five words are written by `write`.
    function forRequest(bytes calldata input) internal pure returns (RequestData data) {
        assembly ("memory-safe") {
            data := mload(0x40)
            mstore(add(data, 0xc0), 0xe0)
            mstore(add(data, 0xe0), input.length)
            let start := add(data, 0x100)
            calldatacopy(start, input.offset, input.length)
            mstore(add(start, input.length), 0)
            mstore(add(data, 0x40), keccak256(start, input.length))
            mstore(0x40, add(start, and(add(input.length, 0x3f), not(0x1f))))
        }
    }

    /// @notice Lays out what is said of an input that is elsewhere. To be announced with `announceByUri`.
    function forRequestByUri(bytes32 inputHash_, uint256 inputSize, string calldata uri) internal pure returns (RequestData data) {
        assembly ("memory-safe") {
            data := mload(0x40)
            mstore(add(data, 0x40), inputHash_)
            mstore(add(data, 0xc0), inputSize)
            mstore(add(data, 0xe0), 0x100)
            mstore(add(data, 0x100), uri.length)
            let start := add(data, 0x120)
            calldatacopy(start, uri.offset, uri.length)
            mstore(add(start, uri.length), 0)
            mstore(0x40, add(start, and(add(uri.length, 0x3f), not(0x1f))))
        }
    }

    function write(RequestData data, bytes32 head, ModelId modelId, bytes32 seed, bytes32 payment, bytes32 terms) internal pure {
        assembly ("memory-safe") {
            mstore(data, head)
            mstore(add(data, 0x20), modelId)
            mstore(add(data, 0x60), seed)
            mstore(add(data, 0x80), payment)
            mstore(add(data, 0xa0), terms)
        }
    }

    function inputHash(RequestData data) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            result := mload(add(data, 0x40))
        }
    }

    function writeInputHash(RequestData data, bytes32 inputHash_) internal pure {
        assembly ("memory-safe") {
            mstore(add(data, 0x40), inputHash_)
        }
    }

    /// @notice keccak256(abi.encode(request))
    function hash(RequestData data) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            result := keccak256(data, 0xc0)
        }
    }

    /// @notice emit Requested(id, modelId, operator, request, input)
    function announce(RequestData data, RequestId id, ModelId modelId, address operator) internal {
        bytes32 topic = IInferenceOracle.Requested.selector;
        assembly ("memory-safe") {
            let padded := and(add(mload(add(data, 0xe0)), 0x1f), not(0x1f))
            log4(data, add(0x100, padded), topic, id, modelId, operator)
        }
    }

    /// @notice emit RequestedByUri(id, modelId, operator, request, inputSize, uri)
    function announceByUri(RequestData data, RequestId id, ModelId modelId, address operator) internal {
        bytes32 topic = IInferenceOracle.RequestedByUri.selector;
        assembly ("memory-safe") {
            let padded := and(add(mload(add(data, 0x100)), 0x1f), not(0x1f))
            log4(data, add(0x120, padded), topic, id, modelId, operator)
        }
    }

    // ---------------------------------------------------------------- fulfillments

    /// @notice Lays out the output and its hash; the callback has cost nothing yet.
    function forFulfillment(bytes32 requestHash, bytes calldata output) internal pure returns (FulfillmentData data, bytes32 outputHash) {
        assembly ("memory-safe") {
            data := mload(0x40)
            mstore(data, requestHash)
            mstore(add(data, 0x60), 0)
            mstore(add(data, 0xa0), 0xa0)
            mstore(add(data, 0xc0), output.length)
            let start := add(data, 0xe0)
            calldatacopy(start, output.offset, output.length)
            mstore(add(start, output.length), 0)
            outputHash := keccak256(start, output.length)
            mstore(add(data, 0x80), outputHash)
            mstore(0x40, add(start, and(add(output.length, 0x3f), not(0x1f))))
        }
    }

    function write(FulfillmentData data, address operator) internal view {
        assembly ("memory-safe") {
            mstore(add(data, 0x20), operator)
            mstore(add(data, 0x40), timestamp())
        }
    }

    function writeCallbackCost(FulfillmentData data, uint256 cost) internal pure {
        assembly ("memory-safe") {
            mstore(add(data, 0x60), cost)
        }
    }

    /// @notice keccak256(abi.encode(requestHash, fulfillment))
    function hash(FulfillmentData data) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            result := keccak256(data, 0xa0)
        }
    }

    /// @notice emit Fulfilled(id, operator, fulfillment, output)
    function announce(FulfillmentData data, RequestId id, address operator) internal {
        bytes32 topic = IInferenceOracle.Fulfilled.selector;
        assembly ("memory-safe") {
            let padded := and(add(mload(add(data, 0xc0)), 0x1f), not(0x1f))
            log3(add(data, 0x20), add(0xc0, padded), topic, id, operator)
        }
    }
}

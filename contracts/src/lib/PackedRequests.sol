// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Delivery, Fulfillment, ModelId, PackedRequest, Params, Request, RequestId} from "../Types.sol";

/// @title Reading, writing and hashing packed requests
/// @notice The layout is the one drawn at `PackedRequest`. Both structs are static, so their calldata is their ABI encoding and is hashed as it lies there.
library PackedRequests {
    /// Six words.
    uint256 private constant REQUEST_SIZE = 0xc0;
    /// Four words.
    uint256 private constant FULFILLMENT_SIZE = 0x80;

    uint256 internal constant MAX_CALLBACK_GAS_PRICE = type(uint48).max;

    /// The bit above the delivery: the input is at a URI.
    uint256 internal constant BY_URI = 0x80;

    // ---------------------------------------------------------------- writing

    function packHead(address requester_, uint256 attempt_, RequestId id_) internal pure returns (bytes32) {
        return bytes32(uint256(uint160(requester_)) << 96 | attempt_ << 64 | RequestId.unwrap(id_));
    }

    function packPayment(address operator_, uint96 fee_) internal pure returns (bytes32) {
        return bytes32(uint256(uint160(operator_)) << 96 | fee_);
    }

    function packTerms(
        uint256 params_,
        uint256 callbackGasLimit_,
        uint256 callbackGasPrice_,
        uint256 delivery_,
        uint256 openFor_,
        uint256 deadline_
    ) internal pure returns (bytes32) {
        return bytes32(params_ << 160 | callbackGasLimit_ << 128 | callbackGasPrice_ << 80 | delivery_ << 72 | openFor_ << 40 | deadline_);
    }

    function packParams(Params calldata params_) internal pure returns (uint256) {
        return uint256(params_.maxTokens) << 64 | uint256(params_.temperature) << 32 | params_.minP;
    }

    // ---------------------------------------------------------------- reading

    function id(PackedRequest calldata r) internal pure returns (RequestId) {
        return RequestId.wrap(uint64(uint256(r.head)));
    }

    function attempt(PackedRequest calldata r) internal pure returns (uint32) {
        return uint32(uint256(r.head) >> 64);
    }

    function requester(PackedRequest calldata r) internal pure returns (address) {
        return address(bytes20(r.head));
    }

    function operator(PackedRequest calldata r) internal pure returns (address) {
        return address(bytes20(r.payment));
    }

    function fee(PackedRequest calldata r) internal pure returns (uint96) {
        return uint96(uint256(r.payment));
    }

    /// @notice As `packParams` gives them.
    function params(PackedRequest calldata r) internal pure returns (uint256) {
        return uint256(r.terms) >> 160;
    }

    function unpackParams(PackedRequest calldata r) internal pure returns (Params memory) {
        return Params(uint32(params(r) >> 64), uint32(params(r) >> 32), uint32(params(r)));
    }

    function callbackGasLimit(PackedRequest calldata r) internal pure returns (uint256) {
        return uint32(uint256(r.terms) >> 128);
    }

    function callbackGasPrice(PackedRequest calldata r) internal pure returns (uint256) {
        return uint48(uint256(r.terms) >> 80);
    }

    /// @notice Wei in escrow for the callback.
    function allowance(PackedRequest calldata r) internal pure returns (uint256) {
        unchecked {
            return callbackGasLimit(r) * callbackGasPrice(r); // 32 + 48 bits
        }
    }

    function delivery(PackedRequest calldata r) internal pure returns (Delivery) {
        return Delivery(uint8(uint256(r.terms) >> 72) & 0x7f);
    }

    function inputByUri(PackedRequest calldata r) internal pure returns (bool) {
        return deliveryBits(r) & BY_URI != 0;
    }

    /// @notice Delivery, and whether the input is at a URI, as they are packed.
    function deliveryBits(PackedRequest calldata r) internal pure returns (uint256) {
        return uint8(uint256(r.terms) >> 72);
    }

    function openFor(PackedRequest calldata r) internal pure returns (uint256) {
        return uint32(uint256(r.terms) >> 40);
    }

    function deadline(PackedRequest calldata r) internal pure returns (uint256) {
        return uint40(uint256(r.terms));
    }

    function exclusiveUntil(PackedRequest calldata r) internal pure returns (uint256) {
        unchecked {
            return deadline(r) - openFor(r);
        }
    }

    function unpack(PackedRequest calldata r) internal pure returns (Request memory) {
        return Request({
            id: id(r),
            attempt: attempt(r),
            requester: requester(r),
            modelId: r.modelId,
            inputHash: r.inputHash,
            seed: r.seed,
            params: unpackParams(r),
            inputByUri: inputByUri(r),
            delivery: delivery(r),
            callbackGasLimit: uint32(callbackGasLimit(r)),
            callbackGasPrice: uint64(callbackGasPrice(r)),
            fee: fee(r),
            operator: operator(r),
            exclusiveUntil: uint64(exclusiveUntil(r)),
            deadline: uint64(deadline(r))
        });
    }

    // ---------------------------------------------------------------- hashing

    /// @notice keccak256(abi.encode(r))
    function hash(PackedRequest calldata r) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, r, REQUEST_SIZE)
            result := keccak256(free, REQUEST_SIZE)
        }
    }

    /// @notice keccak256(abi.encode(requestHash, fulfillment))
    function hashResult(bytes32 requestHash, Fulfillment calldata fulfillment) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, requestHash)
            calldatacopy(add(free, 0x20), fulfillment, FULFILLMENT_SIZE)
            result := keccak256(free, add(FULFILLMENT_SIZE, 0x20))
        }
    }
}

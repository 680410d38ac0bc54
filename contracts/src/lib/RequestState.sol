// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, RequestStatus} from "../Types.sol";

/// @title The one word that the oracle keeps of a request
/// @notice From the top: 248 bits of a hash, 4 bits of callback status, 4 bits of request status. The hash is of the request while it is open, and of
/// the request's hash and the fulfillment from then on.
type RequestState is bytes32;

using RequestStateLib for RequestState global;

library RequestStateLib {
    uint256 private constant HASH_MASK = ~uint256(0xff);

    function pack(bytes32 hash, RequestStatus status_, CallbackStatus callback_) internal pure returns (RequestState) {
        return RequestState.wrap(bytes32((uint256(hash) & HASH_MASK) | (uint256(callback_) << 4) | uint256(status_)));
    }

    function status(RequestState state) internal pure returns (RequestStatus) {
        return RequestStatus(uint256(RequestState.unwrap(state)) & 0xf);
    }

    function callback(RequestState state) internal pure returns (CallbackStatus) {
        return CallbackStatus((uint256(RequestState.unwrap(state)) >> 4) & 0xf);
    }

    /// @notice Whether this is the state of what hashes to `hash`.
    function holds(RequestState state, bytes32 hash) internal pure returns (bool) {
        return (uint256(RequestState.unwrap(state)) ^ uint256(hash)) & HASH_MASK == 0;
    }

    function withStatus(RequestState state, RequestStatus status_) internal pure returns (RequestState) {
        return RequestState.wrap(bytes32((uint256(RequestState.unwrap(state)) & ~uint256(0xf)) | uint256(status_)));
    }

    function withCallback(RequestState state, CallbackStatus callback_) internal pure returns (RequestState) {
        return RequestState.wrap(bytes32((uint256(RequestState.unwrap(state)) & ~uint256(0xf0)) | (uint256(callback_) << 4)));
    }
}

// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Calling a contract that may be hostile
/// @notice The callee gets the gas it was promised, whatever the carrier of the transaction provides; what it returns is cut off; what it does with
/// its gas is its own affair.
library BoundedCall {
    /// What a revert may say at most: a selector and three words, or a short reason.
    uint256 internal constant MAX_RETURN_DATA = 128;

    /// Gas between the check below and the CALL, and the CALL's own price for a warm account, rounded up.
    uint256 private constant CALL_OVERHEAD = 2_000;

    /// @notice Gas that has to be left so that a callee can get `gasLimit` of it: a CALL passes on at most 63 of 64 parts.
    function gasRequired(uint256 gasLimit) internal pure returns (uint256) {
        unchecked {
            return gasLimit + gasLimit / 63 + CALL_OVERHEAD;
        }
    }

    /// @notice The most that a callee can get when `available` is left.
    function gasAvailable(uint256 available) internal pure returns (uint256) {
        unchecked {
            return (available - CALL_OVERHEAD) * 63 / 64;
        }
    }

    /// @notice Calls `target` with exactly `gasLimit` gas. The caller has checked `gasRequired`. An address without code is a failure.
    /// @return success Whether the call was made and did not revert.
    /// @return gasUsed What the call cost.
    /// @return returnData What a failed call reverted with, at most `MAX_RETURN_DATA` bytes; empty after a success.
    function boundedCall(address target, uint256 gasLimit, bytes memory data)
        internal
        returns (bool success, uint256 gasUsed, bytes memory returnData)
    {
        if (target.code.length == 0) return (false, 0, "");
        uint256 before = gasleft();
        assembly ("memory-safe") {
            success := call(gasLimit, target, 0, add(data, 0x20), mload(data), 0, 0)
        }
        unchecked {
            gasUsed = before - gasleft();
        }
        if (!success) {
            assembly ("memory-safe") {
                let size := returndatasize()
                if gt(size, MAX_RETURN_DATA) { size := MAX_RETURN_DATA }
                returnData := mload(0x40)
                mstore(returnData, size)
                returndatacopy(add(returnData, 0x20), 0, size)
                mstore(0x40, add(returnData, 0xc0))
            }
        }
    }
}

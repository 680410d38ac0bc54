// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Float32} from "../verifier/Float32.sol";

/// @title Numbers into a model and out of it
/// @notice A model's input and output are bytes: f32 and u32 big-endian, row by row; u8; UTF-8 text. On this side numbers are integers, or WAD integers
/// (18 decimals) for fractions.
library Tensor {
    error OutOfBounds(uint256 offset, uint256 size);

    // ---------------------------------------------------------------- in

    /// @notice Whole numbers as f32. Exact up to 2^24, beyond that the nearest.
    function f32FromInts(int256[] memory values) internal pure returns (bytes memory data) {
        data = new bytes(4 * values.length);
        for (uint256 i = 0; i < values.length; ++i) {
            _put(data, i, Float32.fromInt(values[i]));
        }
    }

    /// @notice WAD numbers as f32, the nearest each.
    function f32FromWads(int256[] memory wads) internal pure returns (bytes memory data) {
        data = new bytes(4 * wads.length);
        for (uint256 i = 0; i < wads.length; ++i) {
            _put(data, i, Float32.fromWad(wads[i]));
        }
    }

    /// @notice Small numbers, a byte each: the samples of an image.
    function u8(uint8[] memory values) internal pure returns (bytes memory data) {
        data = new bytes(values.length);
        for (uint256 i = 0; i < values.length; ++i) {
            data[i] = bytes1(values[i]);
        }
    }

    /// @notice Text.
    function utf8(string memory text) internal pure returns (bytes memory) {
        return bytes(text);
    }

    // ---------------------------------------------------------------- out

    /// @notice The u32 at a byte offset.
    function u32At(bytes calldata output, uint256 offset) internal pure returns (uint32) {
        if (output.length < 4 || offset > output.length - 4) revert OutOfBounds(offset, output.length);
        return uint32(bytes4(output[offset:offset + 4]));
    }

    /// @notice The bits of the f32 at a byte offset.
    function f32BitsAt(bytes calldata output, uint256 offset) internal pure returns (uint32) {
        return u32At(output, offset);
    }

    /// @notice The f32 at a byte offset, as WAD. Reverts for NaN and infinities.
    function f32At(bytes calldata output, uint256 offset) internal pure returns (int256 wad) {
        return Float32.toWad(u32At(output, offset));
    }

    /// @notice `count` f32 from a byte offset on, as WAD.
    function f32sAt(bytes calldata output, uint256 offset, uint256 count) internal pure returns (int256[] memory wads) {
        wads = new int256[](count);
        for (uint256 i = 0; i < count; ++i) {
            wads[i] = f32At(output, offset + 4 * i);
        }
    }

    function _put(bytes memory data, uint256 index, uint32 bits) private pure {
        assembly ("memory-safe") {
            // Four bytes at their place, without touching what follows them.
            let place := add(add(data, 0x20), mul(index, 4))
            let rest := and(mload(place), shr(32, not(0)))
            mstore(place, or(shl(224, bits), rest))
        }
    }
}

// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";

// What a node's descriptor says: the rules P-10 to P-12 and P-40 to P-43 of docs/program.md. Nothing here reverts or wraps, whatever the words are: a graph
// is somebody's, and what is wrong with it has to be found wrong.

// P-11
uint256 constant MAX_DIM = 0x7fffffff;
// P-12
uint256 constant MAX_ELEMENTS = 0x80000000;
uint256 constant MAX_OPERANDS = 16;
// P-47
uint256 constant LEAF = 128;

// Element types, P-41.
uint256 constant TYPE_F32 = 0;
uint256 constant TYPE_U32 = 1;
uint256 constant TYPE_U8 = 2;
uint256 constant TYPE_I8 = 3;

/// What all descriptors begin with.
struct Header {
    uint256 operation;
    uint256 dtype;
    uint256 operands;
    uint256 attributes;
    uint256 rows;
    uint256 cols;
}

/// P-40: the header of a descriptor; false if it is malformed, or the shape is none.
function header(bytes calldata descriptor, IStepVerifier.Claim calldata claim) pure returns (bool, Header memory h) {
    unchecked {
        if (descriptor.length < 96) return (false, h);
        uint256 word = uint256(bytes32(descriptor[0:32]));
        h.operation = word & 0xff;
        h.dtype = (word >> 8) & 0xff;
        h.operands = (word >> 16) & 0xff;
        h.attributes = word >> 24;
        if (word >> 32 != 0 || h.dtype > TYPE_I8 || h.operands > MAX_OPERANDS) return (false, h);
        if (descriptor.length != 32 * (3 + h.operands + h.attributes)) return (false, h);

        bool fits;
        (fits, h.rows) = length(uint256(bytes32(descriptor[32:64])), claim);
        if (!fits) return (false, h);
        word = uint256(bytes32(descriptor[64:96]));
        (fits, h.cols) = length(word, claim);
        if (!fits) {
            // P-11: generated text may be empty.
            (bool formed, int256 value) = dimension(word, claim);
            if (!formed || value != 0 || h.dtype != TYPE_U8 || (word >> 96) & 0xffffffff == 0) return (false, h);
            h.cols = 0;
        }
        return (h.rows * h.cols <= MAX_ELEMENTS, h);
    }
}

/// P-11, P-41: the value of a dimension; false if it is not one.
function dimension(uint256 word, IStepVerifier.Claim calldata claim) pure returns (bool, int256 value) {
    unchecked {
        // Five products of a signed and an unsigned number of 32 bits each.
        value = _lane(word >> 224) + _lane(word >> 192) * int256(uint256(claim.sequence)) + _lane(word >> 160)
            * int256(uint256(claim.prompt)) + _lane(word >> 128) * int256(uint256(claim.inputBytes)) + _lane(word >> 96)
            * int256(uint256(claim.outputBytes));
        return (word << 160 == 0, value);
    }
}

/// P-11: the value of a dimension as a length; false if it is not from 1 to 2^31 - 1.
function length(uint256 word, IStepVerifier.Claim calldata claim) pure returns (bool, uint256) {
    (bool formed, int256 value) = dimension(word, claim);
    unchecked {
        // Zero and negative numbers are large ones.
        // forge-lint: disable-next-line(unsafe-typecast)
        return (formed && uint256(value) - 1 < MAX_DIM, uint256(value));
    }
}

/// The signed number in the lowest 32 bits.
function _lane(uint256 word) pure returns (int256 value) {
    assembly ("memory-safe") {
        value := signextend(3, word)
    }
}

/// `ceil(x / y)` for numbers that do not fill a word.
function ceilDiv(uint256 x, uint256 y) pure returns (uint256) {
    unchecked {
        return (x + y - 1) / y;
    }
}

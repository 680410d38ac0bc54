// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BlockTooLong, LengthMismatch, elementF32} from "./F32Contraction.sol";
import {F32, INFINITY_BITS, SIGN, ZERO} from "./F32.sol";

// Reductions of a row: the rules R1 to R4 of docs/arithmetic.md. What is re-executed at once is a chunk of at most 1024 elements, the bytes of its leaves
// one after the other (little-endian); F32Contraction's `accumulate` adds the partials of the chunks up.

uint256 constant CHUNK = 1024;
uint256 constant LANES = 32;

/// R1: the sum of one chunk.
function chunkSum(bytes calldata x) pure returns (F32) {
    uint256 count = _chunkLength(x);
    F32[LANES] memory lane;
    unchecked {
        for (uint256 l = 0; l < LANES && l < count; ++l) {
            F32 sum = ZERO;
            for (uint256 k = l; k < count; k += LANES) {
                sum = sum + elementF32(x, k);
            }
            lane[l] = sum;
        }
    }
    return _tree(lane);
}

/// R2: the sum of the squares of one chunk.
function chunkSumSquares(bytes calldata x) pure returns (F32) {
    uint256 count = _chunkLength(x);
    F32[LANES] memory lane;
    unchecked {
        for (uint256 l = 0; l < LANES && l < count; ++l) {
            F32 sum = ZERO;
            for (uint256 k = l; k < count; k += LANES) {
                F32 e = elementF32(x, k);
                sum = e.fma(e, sum);
            }
            lane[l] = sum;
        }
    }
    return _tree(lane);
}

/// R3: the maximum of one chunk: NaN if there is one, -0 < +0, -inf for no elements.
function chunkMaximum(bytes calldata x) pure returns (F32 m) {
    uint256 count = _chunkLength(x);
    m = F32.wrap(SIGN | INFINITY_BITS);
    unchecked {
        for (uint256 k = 0; k < count; ++k) {
            m = m.maximum(elementF32(x, k));
        }
    }
}

/// R4: the number by which `argmax` orders: -inf lowest, the two zeros equal, NaN above +inf.
function rank(F32 x) pure returns (int256 r) {
    F32 y = x.canonical();
    assembly ("memory-safe") {
        // Adding +0 would make one zero of the two; so does this. Below zero the order of the bits is turned round.
        y := mul(y, iszero(eq(y, 0x80000000)))
        y := signextend(3, y)
        r := xor(y, and(sar(255, y), 0x7fffffff))
    }
}

/// R4: the lowest index among the greatest of at least one element.
function argmax(bytes calldata x) pure returns (uint256 index) {
    uint256 count = x.length / 4;
    if (count == 0 || x.length % 4 != 0) revert LengthMismatch(x.length, 4);
    int256 highest = rank(elementF32(x, 0));
    unchecked {
        for (uint256 k = 1; k < count; ++k) {
            int256 r = rank(elementF32(x, k));
            if (r > highest) (highest, index) = (r, k);
        }
    }
}

/// R1: adds the lanes up: 16 + 16, then 8 + 8, down to one.
function _tree(F32[LANES] memory lane) pure returns (F32) {
    unchecked {
        for (uint256 s = LANES / 2; s != 0; s >>= 1) {
            for (uint256 i = 0; i < s; ++i) {
                lane[i] = lane[i] + lane[i + s];
            }
        }
    }
    return lane[0];
}

function _chunkLength(bytes calldata x) pure returns (uint256 count) {
    count = x.length / 4;
    if (count > CHUNK) revert BlockTooLong(count);
    if (x.length % 4 != 0) revert LengthMismatch(x.length, 4);
}

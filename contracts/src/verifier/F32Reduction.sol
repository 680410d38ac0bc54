// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BlockTooLong, LengthMismatch, elementF32} from "./F32Contraction.sol";
import {F32, ZERO} from "./F32.sol";

// Reductions of a row: the rules R1 to R4 of docs/arithmetic.md. What is re-executed at once is a chunk of at most 1024 elements, the bytes of its leaves
// one after the other (little-endian); F32Contraction's `accumulate` adds the partials of the chunks up.

uint256 constant CHUNK = 1024;
uint256 constant LANES = 32;

/// R1: the sum of one chunk.
function chunkSum(bytes calldata x) pure returns (F32) {
    return _chunk(x, false);
}

/// R2: the sum of the squares of one chunk.
function chunkSumSquares(bytes calldata x) pure returns (F32) {
    return _chunk(x, true);
}

/// R3: the maximum of one chunk: NaN if there is one, -0 < +0, -inf for no elements.
function chunkMaximum(bytes calldata x) pure returns (F32 m) {
    uint256 count = _chunkLength(x);
    assembly ("memory-safe") {
        // Numbers order as their bits do, turned round below zero.
        let most := signextend(3, 0x807fffff) // -inf
        let nan := 0
        let end := add(x.offset, shl(2, count))
        for { let next := x.offset } lt(next, end) { next := add(next, 4) } {
            let v := shr(224, calldataload(next))
            v := or(and(shr(8, v), 0xff00ff), shl(8, and(v, 0xff00ff)))
            v := or(shr(16, v), shl(16, and(v, 0xffff)))
            nan := or(nan, gt(and(v, 0x7fffffff), 0x7f800000))
            v := signextend(3, v)
            v := xor(v, and(sar(255, v), 0x7fffffff))
            if sgt(v, most) { most := v }
        }
        m := and(xor(most, and(sar(255, most), 0x7fffffff)), 0xffffffff)
        if nan { m := 0x7fc00000 }
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

/// R1, R2: a sum by lanes.
function _chunk(bytes calldata x, bool squares) pure returns (F32) {
    uint256 count = _chunkLength(x);
    F32[LANES] memory lane;
    unchecked {
        for (uint256 l = 0; l < LANES && l < count; ++l) {
            lane[l] = _lane(x, l, count, squares);
        }
    }
    return _tree(lane);
}

/// R1, R2: one lane: the elements `l, l + 32, ...`, or their squares.
///
/// As in `_fma8` of F32Contraction the usual case is that all of them, and every sum on the way, are zeros or normal numbers: the sum stays unpacked, as a
/// signed significand and an exponent, and one test at the end says whether it was the usual case. If not, the lane is added again one by one.
function _lane(bytes calldata x, uint256 l, uint256 count, bool squares) pure returns (F32 r) {
    bool done;
    assembly ("memory-safe") {
        let ok := 1
        // The sum is c * 2^(e - 250): the lowest bit of its significand is bit 100. +0 has no exponent; at that of 1 what comes can be placed beside it.
        let c := 0
        let e := 127
        let limit := sub(230, mul(24, squares)) // the significand of a summand has 24 bits, that of a square 48
        let end := add(x.offset, shl(2, count))
        for { let next := add(x.offset, shl(2, l)) } lt(next, end) { next := add(next, 0x80) } {
            let v := shr(224, calldataload(next))
            v := or(and(shr(8, v), 0xff00ff), shl(8, and(v, 0xff00ff)))
            v := or(shr(16, v), shl(16, and(v, 0xffff)))
            // A zero of either sign changes no sum, and none of these sums is -0.
            if iszero(and(v, 0x7fffffff)) { continue }
            let place := and(shr(23, v), 0xff)
            ok := and(ok, lt(sub(place, 1), 254))
            let s := or(and(v, 0x7fffff), 0x800000)
            switch squares
            case 0 {
                let negative := sub(0, shr(31, v))
                s := sub(xor(s, negative), negative)
                place := sub(add(place, 100), e)
            }
            default {
                s := mul(s, s)
                place := sub(shl(1, place), add(e, 50))
            }
            ok := and(ok, lt(place, limit))
            s := add(c, shl(place, s))
            if iszero(s) {
                c := 0
                e := 127
                continue
            }
            // See `_fma8` for the significand that may come out as 2^24.
            let n := clz(xor(s, sar(255, s)))
            e := sub(add(e, 132), n)
            s := shl(sub(n, 2), s)
            c := shl(100, sar(230, add(s, add(0x1fffffffffffffffffffffffffffffffffffffffffffffffffffffffff, and(shr(230, s), 1)))))
            ok := and(ok, lt(sub(e, 1), 253))
        }
        let negative := sar(255, c)
        r := add(shl(23, sub(e, 1)), shr(100, sub(xor(c, negative), negative)))
        r := mul(add(r, and(negative, 0x80000000)), iszero(iszero(c)))
        done := ok
    }
    if (done) return r;
    r = ZERO;
    unchecked {
        for (uint256 k = l; k < count; k += LANES) {
            F32 e = elementF32(x, k);
            r = squares ? e.fma(e, r) : r + e;
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

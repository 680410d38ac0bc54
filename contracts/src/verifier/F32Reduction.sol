// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BlockTooLong, LengthMismatch, elementF32} from "./F32Contraction.sol";
import {F32, SIGN, ZERO, _round} from "./F32.sol";

// Reductions of a row: the rules R1 to R4 of docs/arithmetic.md. What is re-executed at once is a chunk of at most 1024 elements, the bytes of its leaves
// one after the other (little-endian); F32Contraction's `accumulate` adds the partials of the chunks up.

uint256 constant CHUNK = 1024;
uint256 constant LANES = 32;
// Sums are in units of 2^-173, which is 24 bits below the least number, sums of squares in units of 2^-172.
uint256 constant SUM_UNIT = 173;
uint256 constant SQUARE_UNIT = 172;

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
///
/// The usual case is that no element is large, no square tiny. Then one unit divides all of them, a word holds every sum on the way in such units, and what
/// a float's addition does is an exact sum and a rounding to 24 significant bits.
function _chunk(bytes calldata x, bool squares) pure returns (F32) {
    uint256 count = _chunkLength(x);
    (bool usual, int256 sum) = _fixedPoint(x, squares);
    if (!usual) return _oneByOne(x, count, squares);
    // INVARIANT: none of these sums is -0.
    if (sum == 0) return ZERO;
    unchecked {
        uint256 unit = 0 - (squares ? SQUARE_UNIT : SUM_UNIT);
        // forge-lint: disable-next-line(unsafe-typecast) its magnitude
        return sum < 0 ? _round(SIGN, uint256(-sum), unit) : _round(0, uint256(sum), unit);
    }
}

/// R1, R2 in units of 2^-173 or 2^-172. False if an element is at least 2^65, or of a sum of squares at least 2^33 or below 2^-63 and not zero: beyond that a
/// sum of 1024 would need more than 253 bits, or a square be subnormal. A subnormal sum of floats needs no rounding.
function _fixedPoint(bytes calldata x, bool squares) pure returns (bool usual, int256 sum) {
    assembly ("memory-safe") {
        // Three arrays behind what is allocated: the lanes; of each element the signed significand, and how many units it counts as a power of two.
        let lanes := mload(0x40)
        let first := add(lanes, 0x400)
        let end := add(first, and(add(x.length, 0x7f), not(0x7f)))
        {
            // The last row is filled up with zeros, which change no sum.
            let behind := add(first, x.length)
            calldatacopy(first, x.offset, x.length)
            calldatacopy(behind, calldatasize(), sub(end, behind))
        }

        // Eight elements at a time. What is outside has bit 8 of its lane set.
        let outside := 0
        for { let at := first } lt(at, end) { at := add(at, 0x20) } {
            let v := mload(at)
            v := or(
                and(shr(8, v), 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff),
                shl(8, and(v, 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff))
            )
            v := or(
                and(shr(16, v), 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff),
                shl(16, and(v, 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff))
            )
            let e := and(shr(23, v), 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff)
            let one := 0x0000000100000001000000010000000100000001000000010000000100000001
            let normal := and(shr(8, add(e, 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff)), one)
            // Bit 31 of a lane: it is not zero.
            let some :=
                add(
                    and(v, 0x7fffffff7fffffff7fffffff7fffffff7fffffff7fffffff7fffffff7fffffff),
                    0x7fffffff7fffffff7fffffff7fffffff7fffffff7fffffff7fffffff7fffffff
                )
            let place
            switch squares
            case 0 {
                outside := or(outside, add(e, 0x0000004000000040000000400000004000000040000000400000004000000040))
                place := add(e, sub(0x0000001800000018000000180000001800000018000000180000001800000018, normal))
            }
            default {
                let low := and(shr(23, some), not(add(e, 0x000000c0000000c0000000c0000000c0000000c0000000c0000000c0000000c0)))
                outside := or(outside, or(low, add(e, 0x0000006000000060000000600000006000000060000000600000006000000060)))
                // 2 (e - 64): what carries out of a byte is not looked at.
                place := add(shl(1, e), 0x0000008000000080000000800000008000000080000000800000008000000080)
            }
            mstore(add(at, 0x1000), shl(24, place))
            // Two's complement in each lane; of a zero without its sign, or it would carry into the next.
            let minus := and(and(shr(31, v), shr(31, some)), one)
            v := or(and(v, 0x007fffff007fffff007fffff007fffff007fffff007fffff007fffff007fffff), shl(23, normal))
            mstore(at, add(xor(v, mul(minus, 0xffffffff)), minus))
        }
        usual := iszero(and(outside, 0x0000010000000100000001000000010000000100000001000000010000000100))

        if usual {
            // Rounding: below the leading bit's 23 followers, n leading zeros leave 232 - n bits, which go; half of their unit, less one, and one more if what
            // stays is odd, is added before. For the complement of a power of two they are one fewer, of zeros. Zero has n = 256, and stays.
            let half := 0x7fffffffffffffffffffffffffffffffffffffffffffffffffffffffff // 2^231 - 1
            let rest := 0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffff // 2^232 - 1
            for { let l := 0 } lt(l, 0x80) { l := add(l, 4) } {
                let c := 0
                switch squares
                case 0 {
                    for { let at := add(first, l) } lt(at, end) { at := add(at, 0x80) } {
                        let s := add(c, shl(byte(0, mload(add(at, 0x1000))), sar(224, mload(at))))
                        let n := clz(xor(s, sar(255, s)))
                        c := and(add(add(s, shr(n, half)), and(shr(sub(232, n), s), 1)), not(shr(n, rest)))
                    }
                }
                default {
                    for { let at := add(first, l) } lt(at, end) { at := add(at, 0x80) } {
                        let m := sar(224, mload(at))
                        let s := add(c, shl(byte(0, mload(add(at, 0x1000))), mul(m, m)))
                        let n := clz(s)
                        c := and(add(add(s, shr(n, half)), and(shr(sub(232, n), s), 1)), not(shr(n, rest)))
                    }
                }
                mstore(add(lanes, shl(3, l)), c)
            }
            // 16 + 16, then 8 + 8, down to one.
            for { let width := 0x200 } gt(width, 0x10) { width := shr(1, width) } {
                for { let at := lanes } lt(at, add(lanes, width)) { at := add(at, 0x20) } {
                    let s := add(mload(at), mload(add(at, width)))
                    let n := clz(xor(s, sar(255, s)))
                    mstore(at, and(add(add(s, shr(n, half)), and(shr(sub(232, n), s), 1)), not(shr(n, rest))))
                }
            }
            sum := mload(lanes)
        }
    }
}

/// R1, R2 for any elements.
function _oneByOne(bytes calldata x, uint256 count, bool squares) pure returns (F32) {
    F32[LANES] memory lane;
    unchecked {
        for (uint256 k = 0; k < count; ++k) {
            (F32 e, F32 before) = (elementF32(x, k), lane[k % LANES]);
            lane[k % LANES] = squares ? e.fma(e, before) : before + e;
        }
    }
    return _tree(lane);
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

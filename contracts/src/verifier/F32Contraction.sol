// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {F32, INFINITY_BITS, MAGNITUDE, SIGN, ZERO, fromBF16, fromF16, fromI32} from "./F32.sol";

// Dot products: the rules C1 to C4, Q1 and Q4 to Q6 of docs/arithmetic.md, on the bytes of leaves (little-endian, as weights are stored). What a dispute
// re-executes is one block of at most 128 products; `accumulate` adds the partials of the blocks up.
//
// Floats are taken eight at a time, one word of each operand. The usual case is that all sixteen are normal numbers and so is every sum on the way:
// then the running sum stays unpacked, as a signed significand and an exponent, and one test at the end says whether it was the usual case. If not, the
// same eight products are added again one by one with `fma`.

uint256 constant BLOCK = 128;

error LengthMismatch(uint256 x, uint256 w);
error BlockTooLong(uint256 length);

/// C1: the partial of one block of f32 activations and weights.
function partialF32(bytes calldata x, bytes calldata w) pure returns (F32 p) {
    unchecked {
        uint256 count = _blockLength(x, 4, w, 4);
        uint256 k;
        for (; k + 8 <= count; k += 8) {
            p = _fma8(p, _swap4(_load(x, 4 * k)), _swap4(_load(w, 4 * k)));
        }
        for (; k < count; ++k) {
            p = elementF32(x, k).fma(elementF32(w, k), p);
        }
    }
}

/// C3: the same with binary16 weights.
function partialF16(bytes calldata x, bytes calldata w) pure returns (F32 p) {
    unchecked {
        uint256 count = _blockLength(x, 4, w, 2);
        uint256 k;
        for (; k + 8 <= count; k += 8) {
            p = _fma8(p, _swap4(_load(x, 4 * k)), _widenF16(_spread(_load(w, 2 * k))));
        }
        for (; k < count; ++k) {
            p = elementF32(x, k).fma(fromF16(element16(w, k)), p);
        }
    }
}

/// C3: the same with bfloat16 weights.
function partialBF16(bytes calldata x, bytes calldata w) pure returns (F32 p) {
    unchecked {
        uint256 count = _blockLength(x, 4, w, 2);
        uint256 k;
        for (; k + 8 <= count; k += 8) {
            p = _fma8(p, _swap4(_load(x, 4 * k)), _spread(_load(w, 2 * k)) << 16);
        }
        for (; k < count; ++k) {
            p = elementF32(x, k).fma(fromBF16(element16(w, k)), p);
        }
    }
}

/// Q2: the scale of a group of activations whose largest magnitude is `amax`.
function quantisedScale(F32 amax) pure returns (F32) {
    return amax / F32.wrap(0x42fe0000); // 127
}

/// Q2: the byte of one activation of that group, from -127 to 127.
function quantise(F32 x, F32 amax) pure returns (int256 q) {
    F32 r = amax == ZERO ? ZERO : F32.wrap(0x42fe0000) / amax;
    q = (x * r).roundToI32();
    if (q > 127) return 127;
    if (q < -127) return -127;
}

/// Q6 at G = 128: the partial of one block of q8_128 weights, a scale and as many bytes as `x` has.
/// @param x The quantised activations.
/// @param s Their scale.
function partialQ8128(bytes calldata x, F32 s, bytes calldata w) pure returns (F32) {
    if (x.length > BLOCK) revert BlockTooLong(x.length);
    if (x.length == 0 || w.length != x.length + 4) revert LengthMismatch(x.length, w.length);
    return fromI32(dotI8(x, w[4:])).fma(s * elementF32(w, 0), ZERO);
}

/// Q6 at G = 32: the partial of one block of q8_0 weights: for each 32 of the quantised activations a binary16 scale and 32 bytes.
/// @param s The scales of the activations, as many as there are groups.
function partialQ80(bytes calldata x, F32[] memory s, bytes calldata w) pure returns (F32 p) {
    unchecked {
        if (x.length > BLOCK) revert BlockTooLong(x.length);
        uint256 groups = x.length / 32;
        if (x.length % 32 != 0 || w.length != 34 * groups || s.length != groups) revert LengthMismatch(x.length, w.length);
        for (uint256 g = 0; g < groups; ++g) {
            int256 sum = _sumI8(_dot32(_load(x, 32 * g), _load(w, 34 * g + 2)));
            p = fromI32(sum).fma(s[g] * fromF16(element16(w, 17 * g)), p);
        }
    }
}

/// C2: what the partials add up to.
function accumulate(F32[] memory partials) pure returns (F32 sum) {
    unchecked {
        for (uint256 i = 0; i < partials.length; ++i) {
            sum = sum + partials[i];
        }
    }
}

/// The exact sum of the products of signed bytes, at most 2^16 of them.
function dotI8(bytes calldata x, bytes calldata w) pure returns (int256) {
    unchecked {
        if (x.length != w.length) revert LengthMismatch(x.length, w.length);
        uint256 sum;
        uint256 k;
        for (; k + 32 <= x.length; k += 32) {
            sum += _dot32(_load(x, k), _load(w, k));
        }
        if (k < x.length) {
            // Zeros in place of what lies behind the end.
            uint256 mask = ~(type(uint256).max >> (8 * (x.length - k)));
            sum += _dot32(_load(x, k) & mask, _load(w, k) & mask);
        }
        return _sumI8(sum);
    }
}

/// Element `k` of f32 elements, little-endian.
function elementF32(bytes calldata data, uint256 k) pure returns (F32 r) {
    assembly ("memory-safe") {
        let v := shr(224, calldataload(add(data.offset, shl(2, k))))
        v := or(shr(8, and(v, 0xff00ff00)), shl(8, and(v, 0x00ff00ff)))
        r := or(shr(16, v), shl(16, and(v, 0xffff)))
    }
}

/// Element `k` of 16-bit elements, little-endian.
function element16(bytes calldata data, uint256 k) pure returns (uint256 r) {
    assembly ("memory-safe") {
        let v := calldataload(add(data.offset, shl(1, k)))
        r := or(byte(0, v), shl(8, byte(1, v)))
    }
}

// ---------------------------------------------------------------- eight floats at a time

/// p + x[0] w[0] + ... + x[7] w[7] by eight `fma` in this order; element 0 is in the highest lane.
function _fma8(F32 p, uint256 x, uint256 w) pure returns (F32 r) {
    bool done;
    assembly ("memory-safe") {
        let e := and(shr(23, p), 0xff)
        let c := shl(100, or(and(p, 0x7fffff), 0x800000))
        let ok := shr(e, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe)
        if iszero(p) {
            // +0 fits everywhere; at 1, products down to 2^-77 can be placed beside it.
            e := 127
            c := 0
            ok := 1
        }
        {
            let negative := sub(0, shr(31, p))
            c := sub(xor(c, negative), negative)
        }
        let signs := xor(x, w)
        let exponents := and(shr(23, x), 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff)
        {
            // Bit 8 of a lane: of the first word, if the exponent is not 0; of the second, if it is 255.
            let other := and(shr(23, w), 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff)
            let normal :=
                and(
                    and(
                        add(exponents, 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff),
                        add(other, 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff)
                    ),
                    not(
                        or(
                            add(exponents, 0x0000000100000001000000010000000100000001000000010000000100000001),
                            add(other, 0x0000000100000001000000010000000100000001000000010000000100000001)
                        )
                    )
                )
            ok := and(
                ok,
                eq(
                    and(normal, 0x0000010000000100000001000000010000000100000001000000010000000100),
                    0x0000010000000100000001000000010000000100000001000000010000000100
                )
            )
            exponents := add(exponents, other)
        }
        let mx :=
            or(
                and(x, 0x007fffff007fffff007fffff007fffff007fffff007fffff007fffff007fffff),
                0x0080000000800000008000000080000000800000008000000080000000800000
            )
        let mw :=
            or(
                and(w, 0x007fffff007fffff007fffff007fffff007fffff007fffff007fffff007fffff),
                0x0080000000800000008000000080000000800000008000000080000000800000
            )
        if and(ok, 1) {
            let base := add(e, 50)
            for { let i := 0 } lt(i, 256) { i := add(i, 32) } {
                // As in `fma`, the addend's lowest bit is bit 100; but here it is signed, and so is the sum.
                let place := sub(shr(224, shl(i, exponents)), base)
                let negative := sar(255, shl(i, signs))
                let s := mul(shr(224, shl(i, mx)), shr(224, shl(i, mw)))
                s := add(c, shl(place, sub(xor(s, negative), negative)))
                // For a negative number the complement is one less than the magnitude, and the leading bit is found one place low if that is a power of
                // two: the significand is then 2^24 instead of 2^23, for half the exponent. It is the same number, and so is what follows from it.
                let n := clz(xor(s, sar(255, s)))
                base := sub(add(base, 132), n)
                s := shl(sub(n, 2), s)
                c := shl(100, sar(230, add(s, add(0x1fffffffffffffffffffffffffffffffffffffffffffffffffffffffff, and(shr(230, s), 1)))))
                // Bits 51 .. 303 would be the exponents 1 .. 253, one below the greatest for the place that a carry may add; those above 205 do not fit into
                // the mask and are left to the general path.
                ok := and(ok, and(lt(place, 206), shr(base, 0xfffffffffffffffffffffffffffffffffffffffffffffffffff8000000000000)))
            }
            e := sub(base, 50)
        }
        {
            let negative := sar(255, c)
            r := add(shl(23, sub(e, 1)), shr(100, sub(xor(c, negative), negative)))
            r := mul(add(r, and(negative, 0x80000000)), gt(c, 0))
        }
        done := and(ok, 1)
    }
    if (!done) r = _fma8Slow(p, x, w);
}

/// The same, one by one.
function _fma8Slow(F32 p, uint256 x, uint256 w) pure returns (F32) {
    unchecked {
        for (uint256 shift = 256; shift != 0;) {
            shift -= 32;
            uint256 a = (x >> shift) & 0xffffffff;
            uint256 b = (w >> shift) & 0xffffffff;
            // A zero that meets a finite number changes no sum, except that -0 may become +0.
            if ((a & MAGNITUDE == 0 || b & MAGNITUDE == 0) && a & MAGNITUDE < INFINITY_BITS && b & MAGNITUDE < INFINITY_BITS) {
                if (F32.unwrap(p) != SIGN) continue;
            }
            p = F32.wrap(a).fma(F32.wrap(b), p);
        }
        return p;
    }
}

/// Turns the bytes of each 32-bit lane round.
function _swap4(uint256 v) pure returns (uint256 r) {
    assembly ("memory-safe") {
        r := or(
            and(shr(8, v), 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff),
            shl(8, and(v, 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff))
        )
        r := or(
            and(shr(16, r), 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff),
            shl(16, and(r, 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff))
        )
    }
}

/// The eight 16-bit elements in the upper half of a word, little-endian, each in a lane of 32 bits.
function _spread(uint256 v) pure returns (uint256 r) {
    assembly ("memory-safe") {
        r := shr(128, v)
        r := and(or(r, shl(64, r)), 0x0000000000000000ffffffffffffffff0000000000000000ffffffffffffffff)
        r := and(or(r, shl(32, r)), 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff)
        r := and(or(r, shl(16, r)), 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff)
        r := or(
            and(shr(8, r), 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff),
            shl(8, and(r, 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff))
        )
    }
}

/// A8 for eight binary16 numbers in lanes of 32 bits.
function _widenF16(uint256 h) pure returns (uint256 r) {
    bool done;
    assembly ("memory-safe") {
        // Bit 15 of a lane: of the first sum, if the exponent is not 0; of the second, if it is 31.
        let e := and(h, 0x00007c0000007c0000007c0000007c0000007c0000007c0000007c0000007c00)
        let normal :=
            and(
                add(e, 0x00007c0000007c0000007c0000007c0000007c0000007c0000007c0000007c00),
                not(add(e, 0x0000040000000400000004000000040000000400000004000000040000000400))
            )
        done := eq(
            and(normal, 0x0000800000008000000080000000800000008000000080000000800000008000),
            0x0000800000008000000080000000800000008000000080000000800000008000
        )
        r := or(
            add(
                shl(13, and(h, 0x00007fff00007fff00007fff00007fff00007fff00007fff00007fff00007fff)),
                0x3800000038000000380000003800000038000000380000003800000038000000
            ),
            shl(16, and(h, 0x0000800000008000000080000000800000008000000080000000800000008000))
        )
    }
    if (done) return r;
    unchecked {
        r = 0;
        for (uint256 shift = 0; shift < 256; shift += 32) {
            r |= F32.unwrap(fromF16((h >> shift) & 0xffff)) << shift;
        }
    }
}

// ---------------------------------------------------------------- thirty-two bytes at a time

/// A word whose highest lane holds the sum of 32 products of signed bytes, once it is rounded by `_sumI8`; such words may be added.
///
/// Every fourth byte of a word is the coefficient of a polynomial in 2^32. With the coefficients of the other operand in the opposite order, the one of the
/// seventh power in the product is the sum of the products of what belongs together: eight multiply-adds in one MUL.
function _dot32(uint256 x, uint256 w) pure returns (uint256 sum) {
    assembly ("memory-safe") {
        // Signed bytes as bytes from 0 to 255, 128 too large, until each is in a lane of its own.
        x := xor(x, 0x8080808080808080808080808080808080808080808080808080808080808080)
        w := xor(w, 0x8080808080808080808080808080808080808080808080808080808080808080)
        // Lanes of 32 bits in the opposite order.
        w := or(shr(128, w), shl(128, w))
        w := or(
            and(shr(64, w), 0x0000000000000000ffffffffffffffff0000000000000000ffffffffffffffff),
            shl(64, and(w, 0x0000000000000000ffffffffffffffff0000000000000000ffffffffffffffff))
        )
        w := or(
            and(shr(32, w), 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff),
            shl(32, and(w, 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff))
        )
        // Four polynomials from each word.
        let mask := 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff
        let bias := 0x0000008000000080000000800000008000000080000000800000008000000080
        sum := mul(sub(and(x, mask), bias), sub(and(w, mask), bias))
        sum := add(sum, mul(sub(and(shr(8, x), mask), bias), sub(and(shr(8, w), mask), bias)))
        sum := add(sum, mul(sub(and(shr(16, x), mask), bias), sub(and(shr(16, w), mask), bias)))
        sum := add(sum, mul(sub(and(shr(24, x), mask), bias), sub(and(shr(24, w), mask), bias)))
    }
}

/// The highest coefficient: what lies below it is less than half of its unit, of either sign.
function _sumI8(uint256 sum) pure returns (int256 r) {
    assembly ("memory-safe") {
        r := sar(224, add(sum, 0x0000000080000000000000000000000000000000000000000000000000000000))
    }
}

function _load(bytes calldata data, uint256 offset) pure returns (uint256 r) {
    assembly ("memory-safe") {
        r := calldataload(add(data.offset, offset))
    }
}

/// The number of elements, at most a block, in two operands of elements of these sizes.
function _blockLength(bytes calldata x, uint256 xSize, bytes calldata w, uint256 wSize) pure returns (uint256 count) {
    count = x.length / xSize;
    if (count > BLOCK) revert BlockTooLong(count);
    if (count * xSize != x.length || count * wSize != w.length) revert LengthMismatch(x.length, w.length);
}

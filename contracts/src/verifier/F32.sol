// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

// IEEE 754 binary32 arithmetic, correctly rounded
// The scalar rules A1 to A9 of docs/arithmetic.md, bit for bit: round to nearest, ties to even; subnormals kept; one NaN, 0x7fc00000, whatever
// NaN goes in. `a + b`, `a - b`, `a * b`, `a / b`, `-a` and the comparisons are operators; the rest are members: `a.fma(b, c)`. Imports nothing.
// docs/float32.md says what each costs.
//
// How the operations are built. Each has a straight path for normal operands with a normal result, which computes without asking and asks once at the
// end whether it was allowed to; everything else (zeros, subnormals, infinities, NaN, results out of range, operands very far apart) takes a general
// path that follows the standard case by case. The straight path needs no sticky bit: 256 bits hold both summands exactly.
//
// An F32 is the 32 bits of the number in the low end of a word, all other bits 0. It is a full word so that the compiler has nothing to clean up; make
// one with `fromBits`, or with `wrap` of something known to be below 2^32.
type F32 is uint256;

using {
    add as +,
    sub as -,
    mul as *,
    div as /,
    neg as -,
    equal as ==,
    notEqual as !=,
    less as <,
    lessOrEqual as <=,
    greater as >,
    greaterOrEqual as >=,
    fma,
    sqrt,
    abs,
    maximum,
    minimum,
    isNaN,
    bits,
    canonical,
    roundToI32,
    roundToU32
} for F32 global;

F32 constant ZERO = F32.wrap(0);
F32 constant ONE = F32.wrap(0x3f800000);
F32 constant INFINITY = F32.wrap(0x7f800000);
// A2: the one NaN.
F32 constant NAN = F32.wrap(0x7fc00000);

uint256 constant SIGN = 0x80000000;
uint256 constant MAGNITUDE = 0x7fffffff;
uint256 constant INFINITY_BITS = 0x7f800000;
uint256 constant NAN_BITS = 0x7fc00000;

// Used in the assembly below:
//   2^255 - 2       bits 1 .. 254 set: shifted right by a biased exponent, its lowest bit says whether that exponent is one of a normal number. A
//                   shift by more than 255, or by a negative number, gives 0, so it is a test of the range as well.
//   2^230 - 1       one less than half of the unit in the last place of a significand whose leading bit is bit 254
//   100             the place of the lowest bit of the addend in a sum, so that the other summand may lie either way with one shift

// ---------------------------------------------------------------- bits

function fromBits(uint32 x) pure returns (F32 r) {
    assembly ("memory-safe") {
        r := and(x, 0xffffffff)
    }
}

function bits(F32 x) pure returns (uint32) {
    // forge-lint: disable-next-line(unsafe-typecast) an F32 is below 2^32
    return uint32(F32.unwrap(x));
}

function isNaN(F32 x) pure returns (bool) {
    return F32.unwrap(x) & MAGNITUDE > INFINITY_BITS;
}

/// A2: any NaN becomes the one NaN.
function canonical(F32 x) pure returns (F32) {
    return isNaN(x) ? NAN : x;
}

/// A5
function abs(F32 x) pure returns (F32) {
    return isNaN(x) ? NAN : F32.wrap(F32.unwrap(x) & MAGNITUDE);
}

/// A5
function neg(F32 x) pure returns (F32) {
    return isNaN(x) ? NAN : F32.wrap(F32.unwrap(x) ^ SIGN);
}

// ---------------------------------------------------------------- A3: arithmetic

/// A3: x + y
function add(F32 x, F32 y) pure returns (F32 r) {
    bool done;
    assembly ("memory-safe") {
        let ex := and(shr(23, x), 0xff)
        let ey := and(shr(23, y), 0xff)
        let place := sub(add(ex, 100), ey)
        // The sum of the significands in units of 2^(ey - 250), with the sign of y factored out.
        let opposite := sub(0, shr(31, xor(x, y)))
        let s := add(shl(100, or(and(y, 0x7fffff), 0x800000)), sub(xor(shl(place, or(and(x, 0x7fffff), 0x800000)), opposite), opposite))
        let negative := sar(255, s)
        s := sub(xor(s, negative), negative)
        let n := clz(s)
        let e := sub(add(ey, 131), n) // exponent of the result, less one
        s := shl(sub(n, 1), s)
        r := add(
            add(shl(23, e), shr(231, add(s, add(0x3fffffffffffffffffffffffffffffffffffffffffffffffffffffffff, and(shr(231, s), 1))))),
            and(xor(y, negative), 0x80000000)
        )
        done := and(
            and(
                and(
                    shr(ex, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe),
                    shr(ey, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe)
                ),
                shr(e, 0x3fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff)
            ),
            and(shr(254, s), lt(place, 230))
        )
    }
    if (!done) r = _fma(F32.unwrap(x), 0x3f800000, F32.unwrap(y));
}

/// A3: x - y
function sub(F32 x, F32 y) pure returns (F32) {
    return add(x, F32.wrap(F32.unwrap(y) ^ SIGN));
}

/// A3: x * y
function mul(F32 x, F32 y) pure returns (F32 r) {
    bool done;
    assembly ("memory-safe") {
        let ex := and(shr(23, x), 0xff)
        let ey := and(shr(23, y), 0xff)
        let p := mul(or(and(x, 0x7fffff), 0x800000), or(and(y, 0x7fffff), 0x800000))
        let carry := shr(47, p)
        p := shl(sub(1, carry), p) // the leading bit is bit 47
        let e := add(sub(add(ex, ey), 128), carry) // exponent of the result, less one
        r := add(add(shl(23, e), shr(24, add(p, add(0x7fffff, and(shr(24, p), 1))))), and(xor(x, y), 0x80000000))
        done := and(
            and(
                shr(ex, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe),
                shr(ey, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe)
            ),
            lt(e, 254)
        )
    }
    // The product plus a zero of its own sign.
    if (!done) r = _fma(F32.unwrap(x), F32.unwrap(y), (F32.unwrap(x) ^ F32.unwrap(y)) & SIGN);
}

/// A3: x * y + z, rounded once
function fma(F32 x, F32 y, F32 z) pure returns (F32 r) {
    bool done;
    assembly ("memory-safe") {
        let ex := and(shr(23, x), 0xff)
        let ey := and(shr(23, y), 0xff)
        let ez := and(shr(23, z), 0xff)
        let place := sub(add(ex, ey), add(ez, 50))
        // The sum in units of 2^(ez - 250), with the sign of z factored out.
        let opposite := sub(0, shr(31, xor(xor(x, y), z)))
        let s :=
            add(
                shl(100, or(and(z, 0x7fffff), 0x800000)),
                sub(xor(shl(place, mul(or(and(x, 0x7fffff), 0x800000), or(and(y, 0x7fffff), 0x800000))), opposite), opposite)
            )
        let negative := sar(255, s)
        s := sub(xor(s, negative), negative)
        let n := clz(s)
        let e := sub(add(ez, 131), n) // exponent of the result, less one
        s := shl(sub(n, 1), s)
        r := add(
            add(shl(23, e), shr(231, add(s, add(0x3fffffffffffffffffffffffffffffffffffffffffffffffffffffffff, and(shr(231, s), 1))))),
            and(xor(z, negative), 0x80000000)
        )
        done := and(
            and(
                and(
                    shr(ex, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe),
                    shr(ey, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe)
                ),
                and(
                    shr(ez, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe),
                    shr(e, 0x3fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff)
                )
            ),
            and(shr(254, s), lt(place, 206))
        )
    }
    if (!done) r = _fma(F32.unwrap(x), F32.unwrap(y), F32.unwrap(z));
}

/// A3: x / y
function div(F32 x, F32 y) pure returns (F32 r) {
    bool done;
    assembly ("memory-safe") {
        let ex := and(shr(23, x), 0xff)
        let ey := and(shr(23, y), 0xff)
        let numerator := shl(26, or(and(x, 0x7fffff), 0x800000))
        let denominator := or(and(y, 0x7fffff), 0x800000)
        let q := div(numerator, denominator) // 26 or 27 bits
        let carry := shr(26, q)
        let e := add(sub(add(ex, 125), ey), carry) // exponent of the result, less one
        q := shl(sub(1, carry), or(q, gt(mod(numerator, denominator), 0))) // a rest counts as more than nothing, less than a half
        r := add(add(shl(23, e), shr(3, add(q, add(3, and(shr(3, q), 1))))), and(xor(x, y), 0x80000000))
        done := and(
            and(
                shr(ex, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe),
                shr(ey, 0x7ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe)
            ),
            lt(e, 254)
        )
    }
    if (!done) r = _div(F32.unwrap(x), F32.unwrap(y));
}

/// A3: the square root
function sqrt(F32 x) pure returns (F32 r) {
    uint256 e = F32.unwrap(x) >> 23; // with the sign: negative numbers are above 255
    uint256 m = (F32.unwrap(x) & 0x7fffff) | 0x800000;
    // INVARIANT: what goes on is positive, finite and not zero
    if (e == 0 || e > 254) {
        if (F32.unwrap(x) & MAGNITUDE == 0) return x;
        if (F32.unwrap(x) >= INFINITY_BITS) return F32.unwrap(x) == INFINITY_BITS ? x : NAN;
        (m, e) = _normalise(F32.unwrap(x));
    }
    assembly ("memory-safe") {
        // An even power of two is left outside; what is inside has 53 or 54 bits and its root 27, three more than are kept.
        m := shl(sub(30, and(e, 1)), m)
        // Within 3.1% by a line; three steps of Newton, each of which squares the error and halves it, leave the root's floor or one more.
        let y := add(shr(31, mul(m, 11)), 46080000)
        y := shr(1, add(y, div(m, y)))
        y := shr(1, add(y, div(m, y)))
        y := shr(1, add(y, div(m, y)))
        y := sub(y, gt(mul(y, y), m))
        y := or(y, lt(mul(y, y), m))
        r := add(shl(23, sub(shr(1, add(e, 127)), 1)), shr(3, add(y, add(3, and(shr(3, y), 1)))))
    }
}

// ---------------------------------------------------------------- A3: the general paths

/// x * y + z for any operands
function _fma(uint256 x, uint256 y, uint256 z) pure returns (F32) {
    unchecked {
        uint256 sign = (x ^ y) & SIGN;
        uint256 signZ = z & SIGN;
        x &= MAGNITUDE;
        y &= MAGNITUDE;
        z &= MAGNITUDE;
        if (x == 0 || y == 0) {
            if (x > INFINITY_BITS - 1 || y > INFINITY_BITS - 1 || z > INFINITY_BITS) return NAN;
            if (z != 0) return F32.wrap(signZ | z);
            return F32.wrap(sign & signZ);
        }
        if (x >= INFINITY_BITS || y >= INFINITY_BITS || z >= INFINITY_BITS) {
            if (x > INFINITY_BITS || y > INFINITY_BITS || z > INFINITY_BITS) return NAN;
            if (x < INFINITY_BITS && y < INFINITY_BITS) return F32.wrap(signZ | z);
            return z == INFINITY_BITS && sign != signZ ? NAN : F32.wrap(sign | INFINITY_BITS);
        }

        // product = p * 2^q, addend = c * 2^(q - d)
        (uint256 p, uint256 ex) = _unpack(x);
        (uint256 c, uint256 e) = _unpack(y);
        p *= c;
        uint256 q = ex + e - 300;
        if (z == 0) return _round(sign, p, q);
        (c, e) = _unpack(z);
        uint256 d = q + 150 - e;

        // The summand of the higher power moves up to the other's unit. Too far for that, and the other can only say on which side of a tie the sum lies:
        // a single unit says the same, 100 bits down.
        if (d >> 255 == 0) {
            if (d > 200) (p, c, q) = (p << 100, 1, q - 100);
            else (p, q) = (p << d, e - 150);
        } else {
            d = 0 - d;
            if (d > 200) (p, c, q) = (1, c << 100, e - 250);
            else c <<= d;
        }
        if (sign == signZ) return _round(sign, p + c, q);
        if (p > c) return _round(sign, p - c, q);
        return p == c ? ZERO : _round(signZ, c - p, q);
    }
}

/// x / y for any operands
function _div(uint256 x, uint256 y) pure returns (F32) {
    unchecked {
        uint256 sign = (x ^ y) & SIGN;
        x &= MAGNITUDE;
        y &= MAGNITUDE;
        if (x > INFINITY_BITS || y > INFINITY_BITS) return NAN;
        if (x == INFINITY_BITS) return y == INFINITY_BITS ? NAN : F32.wrap(sign | x);
        if (y == INFINITY_BITS) return F32.wrap(sign);
        if (y == 0) return x == 0 ? NAN : F32.wrap(sign | INFINITY_BITS);
        if (x == 0) return F32.wrap(sign);
        (uint256 m, uint256 ex) = _normalise(x);
        (uint256 n, uint256 ey) = _normalise(y);
        uint256 quotient;
        assembly ("memory-safe") {
            m := shl(26, m)
            quotient := or(div(m, n), gt(mod(m, n), 0))
        }
        return _round(sign, quotient, ex - ey - 26);
    }
}

/// The float nearest to `s * 2^q` with this sign; 0 < s < 2^255, q a signed number. If that is not exact, the lowest bit of an `s` of at least 26 bits may
/// stand for all that was cut off before.
function _round(uint256 sign, uint256 s, uint256 q) pure returns (F32) {
    unchecked {
        uint256 n;
        assembly ("memory-safe") {
            n := clz(s)
        }
        uint256 e = q + 382 - n; // 127 + the place of the leading bit + q
        bool subnormal = e >> 255 == 1 || e == 0;
        if (!subnormal && e > 254) return F32.wrap(sign | INFINITY_BITS);
        // How far the last bit that is kept lies above the lowest of s: the unit of a subnormal is 2^-149.
        uint256 shift = subnormal ? 0 - (q + 149) : 232 - n;
        if (subnormal) e = 1;
        if (shift >> 255 == 1 || shift == 0) {
            s <<= 0 - shift;
        } else {
            if (shift > 255) return F32.wrap(sign); // s < 2^255 is less than a half
            // forge-lint: disable-next-line(incorrect-shift) the arguments are in this order
            s = (s + (1 << (shift - 1)) - 1 + ((s >> shift) & 1)) >> shift;
        }
        // The hidden bit, if there is one, adds the 1 that is missing in the exponent; so does a carry out of the significand.
        return F32.wrap(sign | (((e - 1) << 23) + s));
    }
}

/// The significand and biased exponent of a finite number: its magnitude is `m * 2^(e - 150)`.
function _unpack(uint256 x) pure returns (uint256 m, uint256 e) {
    unchecked {
        e = x >> 23;
        m = x & 0x7fffff;
        if (e == 0) e = 1;
        else m |= 0x800000;
    }
}

/// The same with 24 bits in the significand, for numbers that are not zero; the exponent may be negative.
function _normalise(uint256 x) pure returns (uint256 m, uint256 e) {
    unchecked {
        (m, e) = _unpack(x);
        uint256 shift;
        assembly ("memory-safe") {
            shift := sub(clz(m), 232)
        }
        m <<= shift;
        e -= shift;
    }
}

// ---------------------------------------------------------------- A4, A9: order

/// The number as a signed integer that orders as it does, both zeros as 0; 2^31 for NaN.
function _order(F32 x) pure returns (int256 key) {
    assembly ("memory-safe") {
        key := and(x, 0x7fffffff)
        key := mul(key, sub(1, shl(1, shr(31, x))))
    }
}

function _unordered(F32 x, F32 y) pure returns (bool r) {
    assembly ("memory-safe") {
        r := or(gt(and(x, 0x7fffffff), 0x7f800000), gt(and(y, 0x7fffffff), 0x7f800000))
    }
}

/// A9
function equal(F32 x, F32 y) pure returns (bool) {
    return _order(x) == _order(y) && !_unordered(x, y);
}

/// The negation of `equal`: true with a NaN.
function notEqual(F32 x, F32 y) pure returns (bool) {
    return !equal(x, y);
}

/// A9
function less(F32 x, F32 y) pure returns (bool) {
    return _order(x) < _order(y) && !_unordered(x, y);
}

/// A9
function lessOrEqual(F32 x, F32 y) pure returns (bool) {
    return _order(x) <= _order(y) && !_unordered(x, y);
}

/// A9
function greater(F32 x, F32 y) pure returns (bool) {
    return less(y, x);
}

/// A9
function greaterOrEqual(F32 x, F32 y) pure returns (bool) {
    return lessOrEqual(y, x);
}

/// A4: NaN if either is NaN, and -0 < +0
function maximum(F32 x, F32 y) pure returns (F32) {
    if (_unordered(x, y)) return NAN;
    return _totalLess(x, y) ? y : x;
}

/// A4: NaN if either is NaN, and -0 < +0
function minimum(F32 x, F32 y) pure returns (F32) {
    if (_unordered(x, y)) return NAN;
    return _totalLess(x, y) ? x : y;
}

/// The order of numbers with -0 < +0: that of the bits, turned round below zero.
function _totalLess(F32 x, F32 y) pure returns (bool r) {
    assembly ("memory-safe") {
        r := slt(xor(and(x, 0x7fffffff), sub(0, shr(31, x))), xor(and(y, 0x7fffffff), sub(0, shr(31, y))))
    }
}

// ---------------------------------------------------------------- A6, A7: integers

/// A6: the nearest i32, ties to even; out of range the nearest end of it; 0 for NaN
function roundToI32(F32 x) pure returns (int256) {
    uint256 magnitude = _roundMagnitude(F32.unwrap(x) & MAGNITUDE);
    // forge-lint: disable-start(unsafe-typecast) at most 2^32
    if (F32.unwrap(x) >> 31 == 0) return magnitude > 0x7fffffff ? int256(0x7fffffff) : int256(magnitude);
    return magnitude > 0x80000000 ? -int256(0x80000000) : -int256(magnitude);
    // forge-lint: disable-end(unsafe-typecast)
}

/// A6: the nearest u32, ties to even; out of range the nearest end of it; 0 for NaN
function roundToU32(F32 x) pure returns (uint256) {
    if (F32.unwrap(x) >> 31 == 1) return 0;
    uint256 magnitude = _roundMagnitude(F32.unwrap(x));
    return magnitude > 0xffffffff ? 0xffffffff : magnitude;
}

/// The integer nearest to a positive number, and 2^32 for all that are larger; 0 for NaN
function _roundMagnitude(uint256 x) pure returns (uint256) {
    unchecked {
        if (x < 0x3f000000) return 0; // below 1/2
        if (x >= 0x4f800000) return x > INFINITY_BITS ? 0 : 2 ** 32;
        uint256 e = x >> 23; // 126 .. 158
        uint256 m = ((x & 0x7fffff) | 0x800000) << 8; // value = m * 2^(e - 158)
        uint256 shift = 158 - e;
        if (shift == 0) return m;
        // forge-lint: disable-next-line(incorrect-shift) the arguments are in this order
        return (m + (1 << (shift - 1)) - 1 + ((m >> shift) & 1)) >> shift;
    }
}

/// A7: the float nearest to an integer of magnitude below 2^127, ties to even
function fromI32(int256 x) pure returns (F32 r) {
    assembly ("memory-safe") {
        let negative := sar(255, x)
        let s := sub(xor(x, negative), negative)
        let n := clz(s)
        s := shl(sub(n, 1), s)
        r := add(
            shl(23, sub(381, n)),
            shr(231, add(s, add(0x3fffffffffffffffffffffffffffffffffffffffffffffffffffffffff, and(shr(231, s), 1))))
        )
        r := mul(or(r, and(negative, 0x80000000)), lt(n, 256))
    }
}

/// A7: the float nearest to an integer below 2^127, ties to even
function fromU32(uint256 x) pure returns (F32) {
    // forge-lint: disable-next-line(unsafe-typecast) below 2^127
    return fromI32(int256(x));
}

// ---------------------------------------------------------------- A8: sixteen bits

/// A8: the value of a binary16 number
function fromF16(uint256 h) pure returns (F32) {
    unchecked {
        uint256 sign = (h & 0x8000) << 16;
        uint256 magnitude = h & 0x7fff;
        if (magnitude < 0x0400) {
            // magnitude * 2^-24
            if (magnitude == 0) return F32.wrap(sign);
            uint256 n;
            assembly ("memory-safe") {
                n := sub(255, clz(magnitude))
            }
            return F32.wrap(sign | ((n + 103) << 23) | ((magnitude << (23 - n)) & 0x7fffff));
        }
        if (magnitude < 0x7c00) return F32.wrap(sign | ((magnitude << 13) + 0x38000000)); // 112 more in the exponent
        return magnitude == 0x7c00 ? F32.wrap(sign | INFINITY_BITS) : NAN;
    }
}

/// A8: the value of a bfloat16 number, which is the upper half of an f32
function fromBF16(uint256 b) pure returns (F32) {
    return canonical(F32.wrap(b << 16));
}

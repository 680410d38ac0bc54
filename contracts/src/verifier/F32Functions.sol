// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {F32, INFINITY, INFINITY_BITS, MAGNITUDE, NAN, ONE, SIGN, ZERO, fromI32} from "./F32.sol";

// Functions of one number: the fixed sequences F1 to F12 of docs/arithmetic.md, one Solidity operation for each operation there, so the bits are those
// of every other implementation. Most are within one unit in the last place of the true value, silu and the two GELUs within two; the document has the
// table, measured over all 2^32 inputs.
//
// Where this file takes a shorter way, it says why the bits are the same. A NaN is answered at the start, so nothing after that meets one.

// The constants of the document.
F32 constant ROUND = F32.wrap(0x4b400000);
F32 constant LOG2_E = F32.wrap(0x3fb8aa3b);
F32 constant LN2_HIGH = F32.wrap(0x3f317218);
F32 constant MINUS_LN2_HIGH = F32.wrap(0xbf317218);
F32 constant LN2_LOW = F32.wrap(0xb102e308);
F32 constant MINUS_LN2_LOW = F32.wrap(0x3102e308);

F32 constant TAIL_CENTRE = F32.wrap(0x3fbe0000);
F32 constant TAIL_VALUE = F32.wrap(0x3e70f334);

F32 constant GELU_A_HIGH = F32.wrap(0x3fcc422a);
F32 constant GELU_A_LOW = F32.wrap(0xb342bc9b);
F32 constant GELU_B_HIGH = F32.wrap(0x3d922279);
F32 constant GELU_B_LOW = F32.wrap(0x3124d8b5);

// Coefficients, lowest power first, in lanes of 32 bits (40 digits would be an address to the compiler, hence the leading zeros).
uint256 constant EXP = 0x00000000_3f000000_3e2aaa51_3d2aab47_3c09185f_3ab5b529;
uint256 constant LOG = 0x3eaaaa83_be7fff7d_3e4ce82a_be2ace2a_3e0f6a84_bdf99ae8_3e0f375b_be03de1e;
uint256 constant TANH = 0x00000000_beaaaa9f_3e0884df_bd5c4d5d_3caa61e1_bbc143bb;
uint256 constant ERF_NEAR = 0x3e0375d4_bec093a0_3de716b0_bcdc0031_3baa1f95_ba52c1de_38a69432;
uint256 constant ERF_FAR = 0xb90c0fab_bf906036_3eb9fd93_bdd5a9a2_3cb7aa86_bb4aa7d2_3952c201;
uint256 constant TAIL_REST_LOW = 0xbdd9572f_3d0e7782; // powers 0 and 1
uint256 constant TAIL_REST_HIGH = 0xbc0138dc_3a86a33b_b58a4a3a_b7bfc529_35de8acc_351017a5_b357cc63_b246dac0; // 2 to 9

F32 constant TWO = F32.wrap(0x40000000);
F32 constant QUARTER = F32.wrap(0x3e800000);
F32 constant MINUS_HALF = F32.wrap(0xbf000000);

// Magnitudes at which formulas change or stop mattering, for comparison as integers: those of positive numbers order as their values do.
uint256 constant BITS_9_16 = 0x3f100000;
uint256 constant BITS_7_8 = 0x3f600000;
uint256 constant BITS_4 = 0x40800000;
uint256 constant BITS_10 = 0x41200000;
uint256 constant BITS_11 = 0x41300000;
uint256 constant BITS_14_5 = 0x41680000;
uint256 constant BITS_120 = 0x42f00000;

/// F3: e^x
function exp(F32 x) pure returns (F32) {
    if (x.isNaN()) return NAN;
    (F32 s, int256 k) = _expParts(_clamp(x, BITS_120, BITS_120), ZERO);
    return _scale(ONE + s, k);
}

/// F4: the natural logarithm: -inf at either zero, NaN below
function log(F32 x) pure returns (F32) {
    unchecked {
        if (x.isNaN()) return NAN;
        uint256 b = F32.unwrap(x);
        if (b & MAGNITUDE == 0) return F32.wrap(SIGN | INFINITY_BITS);
        if (b >= INFINITY_BITS) return b == INFINITY_BITS ? INFINITY : NAN;
        int256 n = 0;
        if (b < 0x00800000) {
            b = F32.unwrap(x * F32.wrap(0x4b000000)); // 2^23
            n = -23;
        }
        // Both are positive here: the shift of the difference is that of a signed number.
        // forge-lint: disable-next-line(unsafe-typecast) below 2^32
        int256 e = (int256(b) - 0x3f2aaaab) >> 23;
        // forge-lint: disable-next-line(unsafe-typecast) what is left is a positive number near 1
        F32 f = F32.wrap(uint256(int256(b) - (e << 23))) - ONE;
        F32 p = _polynomial(LOG, f);
        // The document adds two small integers as floats, which is exact.
        return fromI32(n + e).fma(LN2_HIGH, (f * f).fma(f.fma(p, MINUS_HALF), f));
    }
}

/// F5: the hyperbolic tangent
function tanh(F32 x) pure returns (F32) {
    if (x.isNaN()) return NAN;
    F32 a = _atMost(x, BITS_10);
    if (F32.unwrap(a) < BITS_9_16) {
        F32 z = a * a;
        F32 p = _polynomial(TANH, z);
        return _withSign((a * z).fma(p, a), x);
    }
    (F32 s, int256 k) = _expParts(a + a, ZERO);
    return _withSign(ONE - TWO / ((ONE + s) * _powerOfTwo(k) + ONE), x);
}

/// F6: 1 / (1 + e^-x)
function sigmoid(F32 x) pure returns (F32) {
    if (x.isNaN()) return NAN;
    (F32 q, int256 k) = _logisticParts(_clamp(x, BITS_120, BITS_120), ZERO);
    return _scale(q, k);
}

/// F7: x sigmoid(x)
function silu(F32 x) pure returns (F32) {
    if (x.isNaN()) return NAN;
    x = _clamp(x, BITS_120, INFINITY_BITS);
    (F32 q, int256 k) = _logisticParts(_clamp(x, BITS_120, BITS_120), ZERO);
    return _scale(x * q, k);
}

/// F8: the error function
function erf(F32 x) pure returns (F32) {
    if (x.isNaN()) return NAN;
    F32 a = _atMost(x, BITS_4);
    F32 p;
    if (F32.unwrap(a) < BITS_7_8) {
        F32 z = a * a;
        p = _polynomial(ERF_NEAR, z);
        return _withSign(a.fma(p, a), x);
    }
    p = _polynomial(ERF_FAR, a);
    (F32 s, int256 k) = _expParts(_minus(a).fma(a, p), ZERO);
    return _withSign(ONE - (ONE + s) * _powerOfTwo(k), x);
}

/// F9: x Phi(x), Phi the normal distribution function
function geluErf(F32 x) pure returns (F32) {
    if (x.isNaN()) return NAN;
    F32 t = _atMost(x, BITS_14_5);
    F32 tail = _normalTail(t);
    F32 positivePart = F32.unwrap(x) < SIGN || F32.unwrap(x) == SIGN ? x : F32.wrap(SIGN);
    return positivePart - tail;
}

/// F9: t Phi(-t) for 0 <= t <= 14.5
function _normalTail(F32 t) pure returns (F32) {
    F32 d = QUARTER.fma(t, ONE);
    F32 dLow = QUARTER.fma(t, ONE - d);
    F32 inverse = ONE / d;
    F32 v = t * inverse;
    F32 g;
    F32 gLow;
    {
        F32 minusV = _minus(v);
        F32 vLow = minusV.fma(dLow, minusV.fma(d, t)) * inverse;
        F32 u = v - TAIL_CENTRE;
        F32 p = _horner(_polynomial(TAIL_REST_HIGH, u), TAIL_REST_LOW, u);
        F32 q = u.fma(p, TAIL_VALUE);
        F32 qLow = u.fma(p, TAIL_VALUE - q);
        g = v * q;
        gLow = v.fma(qLow, v.fma(q, _minus(g)));
        gLow = (vLow * inverse).fma(q * inverse, gLow);
    }
    F32 square = t * t;
    (F32 s, int256 k) = _expParts(MINUS_HALF * square, MINUS_HALF * t.fma(t, _minus(square)));
    return _scale(g + s.fma(g, gLow), k);
}

/// F10: x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2
function geluTanh(F32 x) pure returns (F32) {
    if (x.isNaN()) return NAN;
    x = _clamp(x, BITS_11, INFINITY_BITS);
    (F32 w, F32 wLow) = _geluArgument(_clamp(x, BITS_11, BITS_11));
    (F32 q, int256 k) = _logisticParts(w, wLow);
    return _scale(x * q, k);
}

/// F10: 2 sqrt(2/pi) (t + 0.044715 t^3) as a pair
function _geluArgument(F32 t) pure returns (F32 w, F32 wLow) {
    F32 square = t * t;
    F32 b = GELU_B_HIGH * square;
    F32 bLow = GELU_B_HIGH.fma(t.fma(t, _minus(square)), GELU_B_LOW.fma(square, GELU_B_HIGH.fma(square, _minus(b))));
    F32 c = GELU_A_HIGH + b;
    F32 cLow = F32.unwrap(b) > F32.unwrap(GELU_A_HIGH) ? (b - c) + GELU_A_HIGH : (GELU_A_HIGH - c) + b;
    cLow = cLow + (GELU_A_LOW + bLow);
    w = t * c;
    wLow = t.fma(cLow, t.fma(c, _minus(w)));
}

/// F11: 1 / sqrt(x)
function rsqrt(F32 x) pure returns (F32) {
    return ONE / x.sqrt();
}

// ---------------------------------------------------------------- parts

/// F1: s and k with e^(x + low) = (1 + s) 2^k, for |x| <= 175
function _expParts(F32 x, F32 low) pure returns (F32 s, int256 k) {
    unchecked {
        // forge-lint: disable-next-line(unsafe-typecast) both are below 2^32
        k = int256(F32.unwrap(x.fma(LOG2_E, ROUND))) - int256(F32.unwrap(ROUND));
        // t - ROUND is that integer: in the binade of ROUND the unit in the last place is 1.
        F32 n = fromI32(k);
        F32 r = n.fma(MINUS_LN2_LOW, n.fma(MINUS_LN2_HIGH, x)) + low;
        s = (r * r).fma(_polynomial(EXP, r), r);
    }
}

/// Horner's rule with these coefficients.
function _polynomial(uint256 coefficients, F32 x) pure returns (F32) {
    return _horner(F32.wrap(coefficients & 0xffffffff), coefficients >> 32, x);
}

/// The same, going on from `p`. A loop and not one expression: the compiler would make a copy of `fma` for each coefficient.
function _horner(F32 p, uint256 coefficients, F32 x) pure returns (F32) {
    for (; coefficients != 0; coefficients >>= 32) {
        p = p.fma(x, F32.wrap(coefficients & 0xffffffff));
    }
    return p;
}

/// F6: q and k with 1 / (1 + e^-(x + low)) = q 2^k
function _logisticParts(F32 x, F32 low) pure returns (F32 q, int256 k) {
    bool negative = F32.unwrap(x) > SIGN;
    F32 numerator;
    F32 numeratorLow;
    F32 d;
    F32 dLow;
    {
        F32 s;
        (s, k) = _expParts(F32.wrap(F32.unwrap(x) | SIGN), negative ? low : _minus(low));
        F32 e = ONE + s;
        F32 eLow = (ONE - e) + s;
        F32 unit = _powerOfTwo(k < -126 ? -126 : k);
        F32 scaled = e * unit;
        d = ONE + scaled;
        dLow = eLow.fma(unit, (ONE - d) + scaled);
        (numerator, numeratorLow) = negative ? (e, eLow) : (ONE, ZERO);
        if (!negative) k = 0;
    }
    F32 inverse = ONE / d;
    q = numerator * inverse;
    F32 minusQ = _minus(q);
    q = minusQ.fma(dLow, minusQ.fma(d, numerator) + numeratorLow).fma(inverse, q);
}

/// F2: x 2^k, in two steps
function _scale(F32 x, int256 k) pure returns (F32) {
    unchecked {
        // forge-lint: disable-next-line(unsafe-typecast) an exponent
        int256 e = int256((F32.unwrap(x) >> 23) & 0xff);
        // From a normal number to a normal number both steps are exact, and only the exponent changes.
        if (e > 0 && e < 255 && e + k > 0 && e + k < 255) {
            // forge-lint: disable-next-line(unsafe-typecast) the exponent stays within its place
            return F32.wrap(uint256(int256(F32.unwrap(x)) + (k << 23)));
        }
        int256 half = k >> 1;
        return x * _powerOfTwo(half) * _powerOfTwo(k - half);
    }
}

/// 2^k for -126 <= k <= 127
function _powerOfTwo(int256 k) pure returns (F32 r) {
    assembly ("memory-safe") {
        r := shl(23, add(k, 127))
    }
}

/// -x where x is no NaN
function _minus(F32 x) pure returns (F32) {
    return F32.wrap(F32.unwrap(x) ^ SIGN);
}

/// The magnitude of x, or the limit if it is above it
function _atMost(F32 x, uint256 limit) pure returns (F32) {
    uint256 a = F32.unwrap(x) & MAGNITUDE;
    return F32.wrap(a > limit ? limit : a);
}

/// x within [-low, high], given as magnitudes
function _clamp(F32 x, uint256 low, uint256 high) pure returns (F32) {
    uint256 b = F32.unwrap(x);
    if (b > SIGN) return b > SIGN + low ? F32.wrap(SIGN + low) : x;
    return b > high && b != SIGN ? F32.wrap(high) : x;
}

/// The magnitude with the sign of x
function _withSign(F32 magnitude, F32 x) pure returns (F32) {
    return F32.wrap((F32.unwrap(magnitude) & MAGNITUDE) | (F32.unwrap(x) & SIGN));
}

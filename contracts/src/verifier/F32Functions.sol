// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {F32, INFINITY, INFINITY_BITS, MAGNITUDE, NAN, ONE, SIGN, ZERO, fromI32} from "./F32.sol";

// Functions of one number: the fixed sequences F1 to F12 of docs/arithmetic.md, one Solidity operation for each operation there, so the bits are those
// of every other implementation. Most are within one unit in the last place of the true value, silu and the two GELUs within two; the document has the
// table, measured over all 2^32 inputs.
//
// Where this file takes a shorter way, it says why the bits are the same. A NaN is answered at the start, so nothing after that meets one.

// The constants and coefficients of the document, lowest power first.
F32 constant ROUND = F32.wrap(0x4b400000);
F32 constant LOG2_E = F32.wrap(0x3fb8aa3b);
F32 constant LN2_HIGH = F32.wrap(0x3f317218);
F32 constant MINUS_LN2_HIGH = F32.wrap(0xbf317218);
F32 constant LN2_LOW = F32.wrap(0xb102e308);
F32 constant MINUS_LN2_LOW = F32.wrap(0x3102e308);

F32 constant EXP_0 = F32.wrap(0x3f000000);
F32 constant EXP_1 = F32.wrap(0x3e2aaa51);
F32 constant EXP_2 = F32.wrap(0x3d2aab47);
F32 constant EXP_3 = F32.wrap(0x3c09185f);
F32 constant EXP_4 = F32.wrap(0x3ab5b529);

F32 constant LOG_0 = F32.wrap(0x3eaaaa83);
F32 constant LOG_1 = F32.wrap(0xbe7fff7d);
F32 constant LOG_2 = F32.wrap(0x3e4ce82a);
F32 constant LOG_3 = F32.wrap(0xbe2ace2a);
F32 constant LOG_4 = F32.wrap(0x3e0f6a84);
F32 constant LOG_5 = F32.wrap(0xbdf99ae8);
F32 constant LOG_6 = F32.wrap(0x3e0f375b);
F32 constant LOG_7 = F32.wrap(0xbe03de1e);

F32 constant TANH_0 = F32.wrap(0xbeaaaa9f);
F32 constant TANH_1 = F32.wrap(0x3e0884df);
F32 constant TANH_2 = F32.wrap(0xbd5c4d5d);
F32 constant TANH_3 = F32.wrap(0x3caa61e1);
F32 constant TANH_4 = F32.wrap(0xbbc143bb);

F32 constant ERF_NEAR_0 = F32.wrap(0x3e0375d4);
F32 constant ERF_NEAR_1 = F32.wrap(0xbec093a0);
F32 constant ERF_NEAR_2 = F32.wrap(0x3de716b0);
F32 constant ERF_NEAR_3 = F32.wrap(0xbcdc0031);
F32 constant ERF_NEAR_4 = F32.wrap(0x3baa1f95);
F32 constant ERF_NEAR_5 = F32.wrap(0xba52c1de);
F32 constant ERF_NEAR_6 = F32.wrap(0x38a69432);

F32 constant ERF_FAR_0 = F32.wrap(0xb90c0fab);
F32 constant ERF_FAR_1 = F32.wrap(0xbf906036);
F32 constant ERF_FAR_2 = F32.wrap(0x3eb9fd93);
F32 constant ERF_FAR_3 = F32.wrap(0xbdd5a9a2);
F32 constant ERF_FAR_4 = F32.wrap(0x3cb7aa86);
F32 constant ERF_FAR_5 = F32.wrap(0xbb4aa7d2);
F32 constant ERF_FAR_6 = F32.wrap(0x3952c201);

F32 constant TAIL_CENTRE = F32.wrap(0x3fbe0000);
F32 constant TAIL_VALUE = F32.wrap(0x3e70f334);
F32 constant TAIL_REST_0 = F32.wrap(0xbdd9572f);
F32 constant TAIL_REST_1 = F32.wrap(0x3d0e7782);
F32 constant TAIL_REST_2 = F32.wrap(0xbc0138dc);
F32 constant TAIL_REST_3 = F32.wrap(0x3a86a33b);
F32 constant TAIL_REST_4 = F32.wrap(0xb58a4a3a);
F32 constant TAIL_REST_5 = F32.wrap(0xb7bfc529);
F32 constant TAIL_REST_6 = F32.wrap(0x35de8acc);
F32 constant TAIL_REST_7 = F32.wrap(0x351017a5);
F32 constant TAIL_REST_8 = F32.wrap(0xb357cc63);
F32 constant TAIL_REST_9 = F32.wrap(0xb246dac0);

F32 constant GELU_A_HIGH = F32.wrap(0x3fcc422a);
F32 constant GELU_A_LOW = F32.wrap(0xb342bc9b);
F32 constant GELU_B_HIGH = F32.wrap(0x3d922279);
F32 constant GELU_B_LOW = F32.wrap(0x3124d8b5);

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
        F32 p = LOG_7.fma(f, LOG_6).fma(f, LOG_5).fma(f, LOG_4).fma(f, LOG_3).fma(f, LOG_2).fma(f, LOG_1).fma(f, LOG_0);
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
        F32 p = TANH_4.fma(z, TANH_3).fma(z, TANH_2).fma(z, TANH_1).fma(z, TANH_0);
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
        p = ERF_NEAR_6.fma(z, ERF_NEAR_5).fma(z, ERF_NEAR_4).fma(z, ERF_NEAR_3).fma(z, ERF_NEAR_2).fma(z, ERF_NEAR_1).fma(z, ERF_NEAR_0);
        return _withSign(a.fma(p, a), x);
    }
    p = ERF_FAR_6.fma(a, ERF_FAR_5).fma(a, ERF_FAR_4).fma(a, ERF_FAR_3).fma(a, ERF_FAR_2).fma(a, ERF_FAR_1).fma(a, ERF_FAR_0);
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
        F32 p = TAIL_REST_9.fma(u, TAIL_REST_8).fma(u, TAIL_REST_7).fma(u, TAIL_REST_6).fma(u, TAIL_REST_5);
        p = p.fma(u, TAIL_REST_4).fma(u, TAIL_REST_3).fma(u, TAIL_REST_2).fma(u, TAIL_REST_1).fma(u, TAIL_REST_0);
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
        s = (r * r).fma(EXP_4.fma(r, EXP_3).fma(r, EXP_2).fma(r, EXP_1).fma(r, EXP_0), r);
    }
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

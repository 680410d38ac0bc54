// The scalars and functions of docs/arithmetic.md; rules are cited by their numbers. Every floating-point operation of
// every kernel is one of the five below, each of which rounds once; the compiler may not join or reorder them.
#pragma once

#include "platform.cuh"

namespace arithmetic {

// Products of a block of a contraction (C1), positions of a block of attention (C4).
constexpr u32 BLOCK = 128;

DEVICE u32 bits(float x) { return __float_as_uint(x); }
DEVICE float from_bits(u32 bits) { return __uint_as_float(bits); }

// A3
DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
DEVICE float sub(float a, float b) { return __fsub_rn(a, b); }
DEVICE float mul(float a, float b) { return __fmul_rn(a, b); }
DEVICE float div(float a, float b) { return __fdiv_rn(a, b); }
DEVICE float sqrt(float x) { return __fsqrt_rn(x); }
DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// A2: no rule looks at the bits of a NaN, so it is enough to apply this where an element is written.
DEVICE float canonical(float x) { return (bits(x) & 0x7fffffffu) > 0x7f800000u ? from_bits(0x7fc00000u) : x; }

DEVICE bool is_nan(float x) { return (bits(x) & 0x7fffffffu) > 0x7f800000u; }

// A4
DEVICE float maximum(float a, float b) {
    float greater = a > b ? a : b;
    // Equal values have equal bits, except the two zeros: the minus stays only if both have it.
    greater = a == b ? from_bits(bits(a) & bits(b)) : greater;
    return is_nan(a) || is_nan(b) ? from_bits(0x7fc00000u) : greater;
}

DEVICE float minimum(float a, float b) {
    float lesser = a < b ? a : b;
    lesser = a == b ? from_bits(bits(a) | bits(b)) : lesser;
    return is_nan(a) || is_nan(b) ? from_bits(0x7fc00000u) : lesser;
}

// A5
DEVICE float magnitude(float x) { return from_bits(bits(x) & 0x7fffffffu); }
DEVICE float neg(float x) { return from_bits(bits(x) ^ 0x80000000u); }

// A6: the hardware's conversion rounds to nearest even, saturates, and takes NaN to 0.
DEVICE i32 round_to_i32(float x) { return __float2int_rn(x); }

// A7
DEVICE float from_i32(i32 x) { return __int2float_rn(x); }
DEVICE float from_u32(u32 x) { return __uint2float_rn(x); }

// A8. The GPU has an instruction for it. Elsewhere a binary16 is moved to the place of an f32's exponent and fraction and
// scaled by 2^112, which is exact and normalises subnormals; infinities and NaNs get their exponent back by hand.
DEVICE float widen_f16(u16 h) {
#ifdef __CUDACC__
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
#else
    u32 shifted = (u32)(h & 0x7fff) << 13;
    u32 value = bits(mul(from_bits(shifted), from_bits(0x77800000u)));
    value = shifted >= 0x0f800000u ? shifted | 0x7f800000u : value;
    return from_bits(value | (u32)(h & 0x8000) << 16);
#endif
}

DEVICE float widen_bf16(u16 b) { return from_bits((u32)b << 16); }

// R4
DEVICE i32 rank(float x) {
    i32 b = (i32)bits(canonical(add(x, 0.0f)));
    return b ^ ((b >> 31) & 0x7fffffff);
}

// Polynomials by Horner's rule, lowest power first.
template <int N> DEVICE float polynomial(const u32 (&coefficients)[N], float x) {
    float p = from_bits(coefficients[N - 1]);
#pragma unroll
    for (int i = N - 2; i >= 0; i--) p = fma(p, x, from_bits(coefficients[i]));
    return p;
}

DEVICE float at_most(float x, float limit) { return x > limit ? limit : x; }
DEVICE float at_least(float x, float limit) { return x < limit ? limit : x; }
DEVICE float with_sign(float magnitude, float sign) { return from_bits(bits(magnitude) | (bits(sign) & 0x80000000u)); }
DEVICE float power_of_two(i32 k) { return from_bits((u32)(k + 127) << 23); }

// F2
DEVICE float scale(float x, i32 k) {
    i32 half = k >> 1;
    return mul(mul(x, power_of_two(half)), power_of_two(k - half));
}

struct Parts {
    float value;
    i32 exponent;
};

// F1
DEVICE Parts exp_parts(float x, float low) {
    constexpr u32 EXP[5] = {0x3f000000u, 0x3e2aaa51u, 0x3d2aab47u, 0x3c09185fu, 0x3ab5b529u};
    constexpr u32 ROUND = 0x4b400000u, LOG2_E = 0x3fb8aa3bu, LN2_HIGH = 0x3f317218u, LN2_LOW = 0xb102e308u;
    float t = fma(x, from_bits(LOG2_E), from_bits(ROUND));
    float n = sub(t, from_bits(ROUND));
    i32 k = (i32)(bits(t) - ROUND);
    float r = add(fma(n, neg(from_bits(LN2_LOW)), fma(n, neg(from_bits(LN2_HIGH)), x)), low);
    return {fma(mul(r, r), polynomial(EXP, r), r), k};
}

// F3
DEVICE float exp(float x) {
    Parts parts = exp_parts(at_most(at_least(x, -120.0f), 120.0f), 0.0f);
    return canonical(scale(add(1.0f, parts.value), parts.exponent));
}

// F4
DEVICE float log(float x) {
    constexpr u32 LOG[8] = {0x3eaaaa83u, 0xbe7fff7du, 0x3e4ce82au, 0xbe2ace2au,
                            0x3e0f6a84u, 0xbdf99ae8u, 0x3e0f375bu, 0xbe03de1eu};
    bool subnormal = x < from_bits(0x00800000u);
    float scaled = subnormal ? mul(x, from_bits(0x4b000000u)) : x;
    float offset = subnormal ? -23.0f : 0.0f;
    u32 pattern = bits(scaled);
    i32 e = (i32)(pattern - 0x3f2aaaabu) >> 23;
    float f = sub(from_bits(pattern - ((u32)e << 23)), 1.0f);
    float n = add(offset, from_i32(e));
    float p = fma(f, polynomial(LOG, f), -0.5f);
    float y = fma(n, from_bits(0x3f317218u), fma(mul(f, f), p, f));
    y = x == from_bits(0x7f800000u) ? x : y;
    y = x == 0.0f ? from_bits(0xff800000u) : y;
    return x >= 0.0f ? canonical(y) : from_bits(0x7fc00000u);
}

// F5
DEVICE float tanh(float x) {
    constexpr u32 TANH[5] = {0xbeaaaa9fu, 0x3e0884dfu, 0xbd5c4d5du, 0x3caa61e1u, 0xbbc143bbu};
    float a = at_most(magnitude(x), 10.0f);
    float z = mul(a, a);
    float near = fma(mul(a, z), polynomial(TANH, z), a);
    Parts parts = exp_parts(add(a, a), 0.0f);
    float power = mul(add(1.0f, parts.value), power_of_two(parts.exponent));
    float far = sub(1.0f, div(2.0f, add(power, 1.0f)));
    return canonical(with_sign(a < 0.5625f ? near : far, x));
}

// F6
DEVICE Parts logistic_parts(float x, float low) {
    bool negative = x < 0.0f;
    Parts parts = exp_parts(neg(magnitude(x)), negative ? low : neg(low));
    float s = parts.value;
    i32 k = parts.exponent;
    float e = add(1.0f, s);
    float e_low = add(sub(1.0f, e), s);
    float unit = power_of_two(k < -126 ? -126 : k);
    float scaled = mul(e, unit);
    float d = add(1.0f, scaled);
    float d_low = fma(e_low, unit, add(sub(1.0f, d), scaled));
    float inverse = div(1.0f, d);
    float numerator = negative ? e : 1.0f;
    float numerator_low = negative ? e_low : 0.0f;
    float q = mul(numerator, inverse);
    float rest = fma(neg(q), d_low, add(fma(neg(q), d, numerator), numerator_low));
    return {fma(rest, inverse, q), negative ? k : 0};
}

DEVICE float sigmoid(float x) {
    Parts parts = logistic_parts(at_most(at_least(x, -120.0f), 120.0f), 0.0f);
    return canonical(scale(parts.value, parts.exponent));
}

// F7
DEVICE float silu(float x) {
    x = at_least(x, -120.0f);
    Parts parts = logistic_parts(at_most(x, 120.0f), 0.0f);
    return canonical(scale(mul(x, parts.value), parts.exponent));
}

// F8
DEVICE float erf(float x) {
    constexpr u32 NEAR[7] = {0x3e0375d4u, 0xbec093a0u, 0x3de716b0u, 0xbcdc0031u, 0x3baa1f95u, 0xba52c1deu, 0x38a69432u};
    constexpr u32 FAR[7] = {0xb90c0fabu, 0xbf906036u, 0x3eb9fd93u, 0xbdd5a9a2u, 0x3cb7aa86u, 0xbb4aa7d2u, 0x3952c201u};
    float a = at_most(magnitude(x), 4.0f);
    float near = fma(a, polynomial(NEAR, mul(a, a)), a);
    Parts parts = exp_parts(fma(neg(a), a, polynomial(FAR, a)), 0.0f);
    float far = sub(1.0f, mul(add(1.0f, parts.value), power_of_two(parts.exponent)));
    return canonical(with_sign(a < 0.875f ? near : far, x));
}

// F9
DEVICE float gelu_erf(float x) {
    constexpr u32 REST[10] = {0xbdd9572fu, 0x3d0e7782u, 0xbc0138dcu, 0x3a86a33bu, 0xb58a4a3au,
                              0xb7bfc529u, 0x35de8accu, 0x351017a5u, 0xb357cc63u, 0xb246dac0u};
    constexpr u32 CENTRE = 0x3fbe0000u, VALUE = 0x3e70f334u;
    float t = at_most(magnitude(x), 14.5f);
    float square = mul(t, t);
    float square_low = fma(t, t, neg(square));
    Parts parts = exp_parts(mul(-0.5f, square), mul(-0.5f, square_low));
    float d = fma(0.25f, t, 1.0f);
    float d_low = fma(0.25f, t, sub(1.0f, d));
    float inverse = div(1.0f, d);
    float v = mul(t, inverse);
    float v_low = mul(fma(neg(v), d_low, fma(neg(v), d, t)), inverse);
    float u = sub(v, from_bits(CENTRE));
    float p = polynomial(REST, u);
    float q = fma(u, p, from_bits(VALUE));
    float q_low = fma(u, p, sub(from_bits(VALUE), q));
    float g = mul(v, q);
    float g_low = fma(v, q_low, fma(v, q, neg(g)));
    g_low = fma(mul(v_low, inverse), mul(q, inverse), g_low);
    float tail = scale(add(g, fma(parts.value, g, g_low)), parts.exponent);
    return canonical(sub(x >= 0.0f ? x : -0.0f, tail));
}

// F10
DEVICE float gelu_tanh(float x) {
    constexpr u32 A_HIGH = 0x3fcc422au, A_LOW = 0xb342bc9bu, B_HIGH = 0x3d922279u, B_LOW = 0x3124d8b5u;
    x = at_least(x, -11.0f);
    float t = at_most(x, 11.0f);
    float square = mul(t, t);
    float square_low = fma(t, t, neg(square));
    float b = mul(from_bits(B_HIGH), square);
    float b_low = fma(from_bits(B_HIGH), square, neg(b));
    b_low = fma(from_bits(B_HIGH), square_low, fma(from_bits(B_LOW), square, b_low));
    float c = add(from_bits(A_HIGH), b);
    bool over = b > from_bits(A_HIGH);
    float greater = over ? b : from_bits(A_HIGH);
    float lesser = over ? from_bits(A_HIGH) : b;
    float c_low = add(add(sub(greater, c), lesser), add(from_bits(A_LOW), b_low));
    float w = mul(t, c);
    float w_low = fma(t, c_low, fma(t, c, neg(w)));
    Parts parts = logistic_parts(w, w_low);
    return canonical(scale(mul(x, parts.value), parts.exponent));
}

// F11
DEVICE float rsqrt(float x) { return canonical(div(1.0f, sqrt(x))); }

// UnaryFunction by its code; NONE leaves the number as it is.
constexpr u32 NONE = 255;

DEVICE_CALL float unary(u32 function, float x) {
    switch (function) {
    case 0: return canonical(neg(x));
    case 1: return canonical(magnitude(x));
    case 2: return maximum(x, 0.0f);
    case 3: return canonical(sqrt(x));
    case 4: return rsqrt(x);
    case 5: return exp(x);
    case 6: return log(x);
    case 7: return tanh(x);
    case 8: return sigmoid(x);
    case 9: return silu(x);
    case 10: return erf(x);
    case 11: return gelu_erf(x);
    case 12: return gelu_tanh(x);
    default: return canonical(x);
    }
}

// BinaryFunction by its code.
DEVICE_CALL float binary(u32 function, float x, float y) {
    switch (function) {
    case 0: return canonical(add(x, y));
    case 1: return canonical(sub(x, y));
    case 2: return canonical(mul(x, y));
    case 3: return canonical(div(x, y));
    case 4: return maximum(x, y);
    case 5: return minimum(x, y);
    case 6: return exp(sub(x, y));
    case 7: return x == y ? 1.0f : 0.0f;
    case 8: return x < y ? 1.0f : 0.0f;
    default: return x <= y ? 1.0f : 0.0f;
    }
}

// C2: numbers 0 to `count` in ascending order, from +0. Several are asked for at once, because memory takes long to answer;
// those beyond the end are the last one again, which is not added.
template <class Number> DEVICE float ascending_sum(u32 count, const Number &number) {
    constexpr u32 AHEAD = 16;
    float sum = 0.0f;
    for (u32 first = 0; first < count; first += AHEAD) {
        float x[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) x[i] = number(first + i < count ? first + i : count - 1);
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            float next = add(sum, x[i]);
            sum = first + i < count ? next : sum;
        }
    }
    return sum;
}

// The end of a contraction: the bias if there is one, then the function that follows in the graph, if one does.
DEVICE float finish(float sum, const float *bias, u32 column, u32 function) {
    if (bias) sum = add(sum, bias[column]);
    return function == NONE ? canonical(sum) : unary(function, canonical(sum));
}

} // namespace arithmetic

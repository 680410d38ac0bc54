//! Functions of one number (rules F1 to F12): fixed sequences of binary32 operations.
//!
//! Every function is a straight line of correctly rounded additions, subtractions, multiplications, divisions and
//! fused multiply-adds, integer operations on bits, and selects. There is no branch, so the same source compiles to
//! vector code inside a loop with the target features `avx2,fma` and the bits stay the same. The sequences are written
//! out one by one in `docs/arithmetic.md`, with the errors measured over all 2^32 inputs.
//!
//! Inside a function the plain operators are used and NaN is made canonical once, at the end: nothing here looks at
//! the bits of a NaN on the way.

use super::scalar::canonical;

/// The f32 with these bits.
macro_rules! f {
    ($bits:literal) => {
        f32::from_bits($bits)
    };
}

/// F1: 1.5 * 2^23. Adding it leaves no room for a fraction: the sum ends in the nearest integer.
const ROUND: f32 = f!(0x4b40_0000);
/// F1: log2(e).
const LOG2_E: f32 = f!(0x3fb8_aa3b);
/// F1: ln 2 rounded to f32, and what that leaves.
const LN2_HIGH: f32 = f!(0x3f31_7218);
const LN2_LOW: f32 = f!(0xb102_e308);
/// F1: beyond this magnitude every exponential here has over- or underflowed.
const EXP_LIMIT: f32 = 120.0;
/// F1: (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2, lowest power first.
const EXP: [f32; 5] = [f!(0x3f00_0000), f!(0x3e2a_aa51), f!(0x3d2a_ab47), f!(0x3c09_185f), f!(0x3ab5_b529)];
/// F4: (log(1 + f) - f + f^2 / 2) / f^3 for -1/3 <= f < 1/3, lowest power first.
const LOG: [f32; 8] = [
    f!(0x3eaa_aa83),
    f!(0xbe7f_ff7d),
    f!(0x3e4c_e82a),
    f!(0xbe2a_ce2a),
    f!(0x3e0f_6a84),
    f!(0xbdf9_9ae8),
    f!(0x3e0f_375b),
    f!(0xbe03_de1e),
];
/// F5: (tanh(a) / a - 1) / a^2 as a polynomial in a^2 for a < 9/16, lowest power first.
const TANH: [f32; 5] = [f!(0xbeaa_aa9f), f!(0x3e08_84df), f!(0xbd5c_4d5d), f!(0x3caa_61e1), f!(0xbbc1_43bb)];
/// F8: erf(a) / a - 1 as a polynomial in a^2 for a < 7/8, lowest power first.
const ERF_NEAR: [f32; 7] = [
    f!(0x3e03_75d4),
    f!(0xbec0_93a0),
    f!(0x3de7_16b0),
    f!(0xbcdc_0031),
    f!(0x3baa_1f95),
    f!(0xba52_c1de),
    f!(0x38a6_9432),
];
/// F8: log(1 - erf(a)) + a^2 for 7/8 <= a <= 4, lowest power first.
const ERF_FAR: [f32; 7] = [
    f!(0xb90c_0fab),
    f!(0xbf90_6036),
    f!(0x3eb9_fd93),
    f!(0xbdd5_a9a2),
    f!(0x3cb7_aa86),
    f!(0xbb4a_a7d2),
    f!(0x3952_c201),
];
/// F9: e^(t^2 / 2) Phi(-t) (1 + t / 4) as a polynomial in t / (1 + t / 4) - TAIL_CENTRE for t <= 14.5, lowest power
/// first. The centre is one of the few for which the rounded coefficients fit well and give exactly 1/2 at t = 0.
const TAIL_CENTRE: f32 = f!(0x3fbe_0000);
const TAIL_VALUE: f32 = f!(0x3e70_f334);
const TAIL_REST: [f32; 10] = [
    f!(0xbdd9_572f),
    f!(0x3d0e_7782),
    f!(0xbc01_38dc),
    f!(0x3a86_a33b),
    f!(0xb58a_4a3a),
    f!(0xb7bf_c529),
    f!(0x35de_8acc),
    f!(0x3510_17a5),
    f!(0xb357_cc63),
    f!(0xb246_dac0),
];
/// F10: 2 sqrt(2 / pi) and 0.044715 times that, each as a pair of f32.
const GELU_A: (f32, f32) = (f!(0x3fcc_422a), f!(0xb342_bc9b));
const GELU_B: (f32, f32) = (f!(0x3d92_2279), f!(0x3124_d8b5));

/// `a * b + c`, rounded once.
#[inline(always)]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// Horner's rule by `fma`: the highest power is the last element.
#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut p = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        p = fma(p, x, coefficients[i]);
    }
    p
}

/// The magnitude of `x`.
#[inline(always)]
fn magnitude(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0x7fff_ffff)
}

/// The magnitude of `magnitude` with the sign of `sign`.
#[inline(always)]
fn with_sign(magnitude: f32, sign: f32) -> f32 {
    f32::from_bits(magnitude.to_bits() | sign.to_bits() & 0x8000_0000)
}

/// `x`, or `limit` if `x` is above it; NaN stays NaN.
#[inline(always)]
fn at_most(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

/// `x`, or `limit` if `x` is below it; NaN stays NaN.
#[inline(always)]
fn at_least(x: f32, limit: f32) -> f32 {
    if x < limit { limit } else { x }
}

/// 2^k as bits, for -126 <= k <= 127.
#[inline(always)]
fn power_of_two(k: i32) -> f32 {
    f32::from_bits((k.wrapping_add(127) as u32) << 23)
}

/// F2: `x` times 2^k, in two steps so that neither factor leaves the range of an f32. Only the second step can round.
#[inline(always)]
fn scale(x: f32, k: i32) -> f32 {
    let half = k >> 1;
    x * power_of_two(half) * power_of_two(k.wrapping_sub(half))
}

/// F1: `(s, k)` with e^(x + low) = (1 + s) 2^k and |s| < 0.42, for |x| <= 175 and `low` tiny beside `x`.
#[inline(always)]
fn exp_parts(x: f32, low: f32) -> (f32, i32) {
    let t = fma(x, LOG2_E, ROUND);
    let n = t - ROUND;
    let k = (t.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x)) + low;
    (fma(r * r, polynomial(&EXP, r), r), k)
}

/// F3: e^x.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let (s, k) = exp_parts(at_most(at_least(x, -EXP_LIMIT), EXP_LIMIT), 0.0);
    canonical(scale(1.0 + s, k))
}

/// F4: the natural logarithm: `-inf` at either zero, NaN below.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    // A subnormal is scaled up by 2^23, exactly.
    let subnormal = x < f!(0x0080_0000);
    let scaled = if subnormal { x * f!(0x4b00_0000) } else { x };
    let offset = if subnormal { -23.0 } else { 0.0 };
    // scaled = 2^e (1 + f) with 2/3 <= 1 + f < 4/3.
    let bits = scaled.to_bits() as i32;
    let e = bits.wrapping_sub(0x3f2a_aaab) >> 23;
    let f = f32::from_bits(bits.wrapping_sub(e << 23) as u32) - 1.0;
    let n = offset + e as f32;
    let f2 = f * f;
    let p = fma(f, polynomial(&LOG, f), -0.5);
    let y = fma(n, LN2_HIGH, fma(f2, p, f));
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    canonical(if x >= 0.0 { y } else { f32::NAN })
}

/// F5: the hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = at_most(magnitude(x), 10.0);
    let z = a * a;
    let near = fma(a * z, polynomial(&TANH, z), a);
    let (s, k) = exp_parts(a + a, 0.0);
    let far = 1.0 - 2.0 / ((1.0 + s) * power_of_two(k) + 1.0);
    canonical(with_sign(if a < 0.5625 { near } else { far }, x))
}

/// F6: `(q, k)` with 1 / (1 + e^-(x + low)) = q 2^k and q between 0.5 and 1.42.
///
/// With e = e^-|x|, the value is 1 / (1 + e) above zero and e / (1 + e) below. Both e and 1 + e are carried as
/// unevaluated sums of two f32, so that the quotient is all but correctly rounded; that is what keeps it monotonic. The
/// power of two is left outside because what comes next may be a product that must not lose bits to underflow.
#[inline(always)]
fn logistic_parts(x: f32, low: f32) -> (f32, i32) {
    let negative = x < 0.0;
    let (s, k) = exp_parts(-magnitude(x), if negative { low } else { -low });
    let e = 1.0 + s;
    let e_low = (1.0 - e) + s;
    let unit = power_of_two(if k < -126 { -126 } else { k });
    let scaled = e * unit;
    let d = 1.0 + scaled;
    let d_low = fma(e_low, unit, (1.0 - d) + scaled);
    let inverse = 1.0 / d;
    let numerator = if negative { e } else { 1.0 };
    let numerator_low = if negative { e_low } else { 0.0 };
    let q = numerator * inverse;
    let rest = fma(-q, d_low, fma(-q, d, numerator) + numerator_low);
    (fma(rest, inverse, q), if negative { k } else { 0 })
}

/// F6: the logistic function, 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let (q, k) = logistic_parts(at_most(at_least(x, -EXP_LIMIT), EXP_LIMIT), 0.0);
    canonical(scale(q, k))
}

/// F7: x sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    let x = at_least(x, -EXP_LIMIT);
    let (q, k) = logistic_parts(at_most(x, EXP_LIMIT), 0.0);
    canonical(scale(x * q, k))
}

/// F8: the error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = at_most(magnitude(x), 4.0);
    let near = fma(a, polynomial(&ERF_NEAR, a * a), a);
    // -a^2 enters by the last rounding, so that it is this rounding that orders the results and not its noise.
    let (s, k) = exp_parts(fma(-a, a, polynomial(&ERF_FAR, a)), 0.0);
    let far = 1.0 - (1.0 + s) * power_of_two(k);
    canonical(with_sign(if a < 0.875 { near } else { far }, x))
}

/// F9: x Phi(x), the GELU, with Phi the normal distribution function.
///
/// With t = |x|, it is x - t Phi(-t) above zero and -t Phi(-t) below, and t Phi(-t) = v Q(v) e^(-t^2/2) with
/// v = t / (1 + t / 4) and a polynomial Q. The exponent, v and Q are carried as sums of two f32.
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    let t = at_most(magnitude(x), 14.5);
    let square = t * t;
    let square_low = fma(t, t, -square);
    let (s, k) = exp_parts(-0.5 * square, -0.5 * square_low);
    let d = fma(0.25, t, 1.0);
    let d_low = fma(0.25, t, 1.0 - d);
    let inverse = 1.0 / d;
    let v = t * inverse;
    let v_low = fma(-v, d_low, fma(-v, d, t)) * inverse;
    let u = v - TAIL_CENTRE;
    let p = polynomial(&TAIL_REST, u);
    let q = fma(u, p, TAIL_VALUE);
    let q_low = fma(u, p, TAIL_VALUE - q);
    let g = v * q;
    let g_low = fma(v, q_low, fma(v, q, -g));
    let g_low = fma(v_low * inverse, q * inverse, g_low);
    let tail = scale(g + fma(s, g, g_low), k);
    let positive_part = if x >= 0.0 { x } else { -0.0 };
    canonical(positive_part - tail)
}

/// F10: x sigmoid(w) with w = 2 sqrt(2/pi) (x + 0.044715 x^3): the GELU in its tanh form, as
/// (1 + tanh(w / 2)) / 2 = sigmoid(w).
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let x = at_least(x, -11.0);
    let t = at_most(x, 11.0);
    let square = t * t;
    let square_low = fma(t, t, -square);
    let b = GELU_B.0 * square;
    let b_low = fma(GELU_B.0, square_low, fma(GELU_B.1, square, fma(GELU_B.0, square, -b)));
    let c = GELU_A.0 + b;
    // The greater of the two summands comes first in the exact error of a sum: b overtakes the constant at 4.7.
    let greater = if b > GELU_A.0 { b } else { GELU_A.0 };
    let lesser = if b > GELU_A.0 { GELU_A.0 } else { b };
    let c_low = ((greater - c) + lesser) + (GELU_A.1 + b_low);
    let w = t * c;
    let w_low = fma(t, c_low, fma(t, c, -w));
    let (q, k) = logistic_parts(w, w_low);
    canonical(scale(x * q, k))
}

/// F11: 1 / sqrt(x), in these two operations: `inf` with its sign at the zeros, NaN below.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    canonical(1.0 / x.sqrt())
}

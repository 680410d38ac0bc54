//! Measures the functions of `arithmetic::functions` against binary64: distance from the correctly rounded result,
//! monotonicity, and a checksum of all output bits. Used by a sampled test and by the exhaustive example.

use candor_sdk::arithmetic::{functions, scalar};

/// What a function is compared with.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    #[allow(dead_code, reason = "the example does not call it alone")]
    pub(crate) function: fn(f32) -> f32,
    /// Fills the outputs for a run of inputs, by vector code where the machine has it.
    pub(crate) evaluate: fn(&[f32], &mut [f32]),
    /// The mathematical function in binary64, right to a relative error of [`REFERENCE_ERROR`].
    pub(crate) reference: fn(f64) -> f64,
    pub(crate) monotonic: Monotonic,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Monotonic {
    No,
    Increasing,
    /// From +0 on.
    Decreasing,
}

/// A generous bound of the relative error of every reference: 2^-43. `libm` is right to about 2^-52; the worst
/// amplification is in the far tail of the two GELUs, where e^-y with y near 105 turns a few 2^-53 of y into 2^-44.
pub(crate) const REFERENCE_ERROR: f64 = 1.0 / (1u64 << 43) as f64;

/// The number of distinct f32 that are not NaN, counting both zeros: ranks go from 0 (-inf) to this, exclusive.
pub(crate) const RANKS: u64 = 2 * 0x7f80_0001;

/// The f32 of a rank: all of them from -inf to +inf in ascending order, -0 before +0.
pub(crate) fn ranked(rank: u64) -> f32 {
    let rank = rank as u32;
    f32::from_bits(if rank <= 0x7f80_0000 { 0xff80_0000 - rank } else { rank - 0x7f80_0001 })
}

/// Rank of an f32 that is not NaN.
#[allow(dead_code, reason = "only the sampled test looks for a particular input")]
pub(crate) fn rank_of(x: f32) -> u64 {
    let bits = x.to_bits();
    u64::from(if bits >> 31 == 1 { 0xff80_0000 - bits } else { bits + 0x7f80_0001 })
}

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 {
        let e = libm::exp(x);
        e / (1.0 + e)
    } else {
        1.0 / (1.0 + libm::exp(-x))
    }
}

fn silu(x: f64) -> f64 {
    if x < -700.0 { -0.0 } else { x * sigmoid(x) }
}

fn gelu_erf(x: f64) -> f64 {
    if x < -35.0 { -0.0 } else { 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) }
}

fn gelu_tanh(x: f64) -> f64 {
    if x < -20.0 {
        return -0.0;
    }
    let two_root = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    x * sigmoid(two_root * (x + 0.044715 * x * x * x))
}

macro_rules! subjects {
    ($($name:ident, $reference:expr, $monotonic:ident;)*) => {
        /// Every function there is.
        pub(crate) const SUBJECTS: &[Subject] = &[$({
            // The function is called by name: as an argument it would not be sure to be inlined, and the loop would
            // not become vector code.
            #[inline(always)]
            fn plain(x: &[f32], y: &mut [f32]) {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = functions::$name(x);
                }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn vector(x: &[f32], y: &mut [f32]) {
                plain(x, y);
            }
            fn evaluate(x: &[f32], y: &mut [f32]) {
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features the function is compiled for were detected.
                    return unsafe { vector(x, y) };
                }
                plain(x, y);
            }
            Subject {
                name: stringify!($name),
                function: functions::$name,
                evaluate,
                reference: $reference,
                monotonic: Monotonic::$monotonic,
            }
        }),*];
    };
}

subjects! {
    exp, libm::exp, Increasing;
    log, libm::log, Increasing;
    tanh, libm::tanh, Increasing;
    sigmoid, sigmoid, Increasing;
    silu, silu, No;
    erf, libm::erf, Increasing;
    gelu_erf, gelu_erf, No;
    gelu_tanh, gelu_tanh, No;
    rsqrt, |x| 1.0 / x.sqrt(), Decreasing;
}

/// What was found out about a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) inputs: u64,
    /// Largest distance from the correctly rounded result, in units in the last place, and the input it happened at.
    pub(crate) max_ulp: u32,
    pub(crate) worst: u32,
    /// Results that are not the correctly rounded ones.
    pub(crate) misrounded: u64,
    /// Results whose correct rounding the reference cannot tell; counted with the distance of the farther candidate.
    pub(crate) undecided: u64,
    /// Neighbours in the wrong order.
    pub(crate) disorder: u64,
    /// Wrong specials: a NaN that should not be or is not canonical, or a zero of the wrong sign.
    pub(crate) wrong: u64,
    /// Sum over all inputs of a mix of input and output bits; independent of the order of evaluation.
    pub(crate) checksum: u64,
}

impl Report {
    pub(crate) fn merge(&mut self, other: &Report) {
        self.inputs += other.inputs;
        if other.max_ulp > self.max_ulp {
            (self.max_ulp, self.worst) = (other.max_ulp, other.worst);
        }
        self.misrounded += other.misrounded;
        self.undecided += other.undecided;
        self.disorder += other.disorder;
        self.wrong += other.wrong;
        self.checksum = self.checksum.wrapping_add(other.checksum);
    }
}

/// The finaliser of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Position on the number line in units in the last place; both zeros at 0.
fn place(x: f32) -> i64 {
    let magnitude = i64::from(x.to_bits() & 0x7fff_ffff);
    if x.is_sign_negative() { -magnitude } else { magnitude }
}

/// Measures the inputs of ranks `start..end`; the order of the first is compared with the rank before it.
pub(crate) fn measure(subject: &Subject, start: u64, end: u64) -> Report {
    let mut report = Report::default();
    let (mut x, mut y) = ([0.0; 4096], [0.0; 4096]);
    let mut previous = f32::NAN;
    if start > 0 {
        (subject.evaluate)(&[ranked(start - 1)], std::slice::from_mut(&mut previous));
    }
    let mut rank = start;
    while rank < end {
        let n = (end - rank).min(4096) as usize;
        for (x, rank) in x[..n].iter_mut().zip(rank..) {
            *x = ranked(rank);
        }
        (subject.evaluate)(&x[..n], &mut y[..n]);
        for (&x, &y) in x[..n].iter().zip(&y[..n]) {
            report.inputs += 1;
            report.checksum = report.checksum.wrapping_add(mix(u64::from(x.to_bits()) << 32 | u64::from(y.to_bits())));
            let exact = (subject.reference)(f64::from(x));
            let unordered = previous.is_nan() || y.is_nan();
            let ordered = match subject.monotonic {
                Monotonic::No => true,
                Monotonic::Increasing => unordered || previous <= y,
                Monotonic::Decreasing => unordered || previous >= y || x.to_bits() == 0,
            };
            report.disorder += u64::from(!ordered);
            previous = y;
            if exact.is_nan() || y.is_nan() {
                report.wrong += u64::from(!exact.is_nan() || y.to_bits() != scalar::NAN_BITS);
                continue;
            }
            let nearest = exact as f32;
            report.wrong += u64::from(nearest == 0.0 && y == 0.0 && nearest.to_bits() != y.to_bits());
            let distance = |r: f32| place(r).abs_diff(place(y)) as u32;
            let (mut ulp, mut undecided) = (distance(nearest), false);
            if exact.is_finite() {
                let above = (exact * (1.0 + REFERENCE_ERROR)) as f32;
                let below = (exact * (1.0 - REFERENCE_ERROR)) as f32;
                undecided = above != below;
                ulp = ulp.max(distance(above)).max(distance(below));
            }
            report.misrounded += u64::from(distance(nearest) != 0);
            report.undecided += u64::from(undecided);
            if ulp > report.max_ulp {
                (report.max_ulp, report.worst) = (ulp, x.to_bits());
            }
        }
        rank += n as u64;
    }
    report
}

/// Every NaN in must come out as the one NaN.
pub(crate) fn measure_nans(subject: &Subject, payloads: impl Iterator<Item = u32>) -> Report {
    let mut report = Report::default();
    for payload in payloads {
        for bits in [0x7f80_0000 | payload, 0xff80_0000 | payload] {
            let mut y = 0.0;
            (subject.evaluate)(&[f32::from_bits(bits)], std::slice::from_mut(&mut y));
            report.inputs += 1;
            report.wrong += u64::from(y.to_bits() != scalar::NAN_BITS);
            report.checksum = report.checksum.wrapping_add(mix(u64::from(bits) << 32 | u64::from(y.to_bits())));
        }
    }
    report
}

//! The functions keep their promise on a sample of inputs: at most 2 units in the last place, monotonic, right zeros
//! and NaNs. The whole of it, over all 2^32 inputs, is `examples/exhaustive.rs`.

#[path = "common/accuracy.rs"]
mod accuracy;

use accuracy::{RANKS, Report, SUBJECTS, Subject, measure, measure_nans, rank_of, ranked};
use candor_sdk::arithmetic::functions::{erf, exp, gelu_erf, gelu_tanh, log, rsqrt, sigmoid, silu, tanh};

fn subject(name: &str) -> &'static Subject {
    SUBJECTS.iter().find(|s| s.name == name).expect("a function of this name")
}

/// Runs of neighbours around every power of two, around 1.5 times it, and spread evenly over everything.
fn sample(name: &str) {
    let subject = subject(name);
    let mut total = measure_nans(subject, [1, 2, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x7f_ffff].into_iter());
    let mut around = |bits: u32, reach: u64| {
        for sign in [0, 1 << 31] {
            let rank = rank_of(f32::from_bits(sign | bits));
            total.merge(&measure(subject, rank.saturating_sub(reach), (rank + reach).min(RANKS)));
        }
    };
    for exponent in 0..=255 {
        around(exponent << 23, 24);
        if exponent < 255 {
            around(exponent << 23 | 1 << 22, 8);
        }
    }
    // Where the functions change their formula, overflow, underflow, or saturate.
    for x in
        [0.5625, 0.875, 4.0, 10.0, 11.0, 14.5, 16.635532, 87.33654, 88.72284, 103.97208, 120.0, 0.346_573_6, 1.0 / 3.0]
    {
        around(f32::to_bits(x), 256);
    }
    // 20 001 runs of 8, an odd number of ranks apart.
    for start in (0..RANKS).step_by(214_741) {
        total.merge(&measure(subject, start, (start + 8).min(RANKS)));
    }
    let Report { inputs, max_ulp, disorder, wrong, .. } = total;
    assert!(inputs > 200_000, "{inputs} inputs are not a sample");
    assert!(max_ulp <= 2, "{name}: {max_ulp} ulp at {:#010x}", total.worst);
    assert_eq!((disorder, wrong), (0, 0), "{name}: {total:?}");
}

macro_rules! samples {
    ($($test:ident: $name:ident)*) => {$(
        #[test]
        fn $test() {
            sample(stringify!($name));
        }
    )*

    /// A function without its test would go unnoticed otherwise.
    #[test]
    fn every_subject_is_sampled() {
        let names = [$(stringify!($name)),*];
        assert!(SUBJECTS.iter().all(|s| names.contains(&s.name)));
    }
    };
}

samples! {
    exp_sample: exp
    log_sample: log
    tanh_sample: tanh
    sigmoid_sample: sigmoid
    silu_sample: silu
    erf_sample: erf
    gelu_erf_sample: gelu_erf
    gelu_tanh_sample: gelu_tanh
    rsqrt_sample: rsqrt
}

/// F12: results that are what one expects without a computer.
#[test]
fn obvious_points() {
    const INF: f32 = f32::INFINITY;
    type Row = (fn(f32) -> f32, f32, f32);
    #[rustfmt::skip]
    let table: &[Row] = &[
        (exp, 0.0, 1.0), (exp, -0.0, 1.0), (exp, INF, INF), (exp, -INF, 0.0), (exp, 88.73, INF), (exp, -104.0, 0.0),
        (exp, -103.9, 1e-45), (log, 1.0, 0.0), (log, 0.0, -INF), (log, -0.0, -INF), (log, INF, INF),
        (tanh, 0.0, 0.0), (tanh, -0.0, -0.0), (tanh, INF, 1.0), (tanh, -INF, -1.0), (tanh, 1e-45, 1e-45),
        (sigmoid, 0.0, 0.5), (sigmoid, -0.0, 0.5), (sigmoid, INF, 1.0), (sigmoid, -INF, 0.0), (sigmoid, -103.9, 1e-45),
        (silu, 0.0, 0.0), (silu, -0.0, -0.0), (silu, INF, INF), (silu, -INF, -0.0), (silu, 1e30, 1e30),
        (erf, 0.0, 0.0), (erf, -0.0, -0.0), (erf, INF, 1.0), (erf, -INF, -1.0),
        (gelu_erf, 0.0, 0.0), (gelu_erf, -0.0, -0.0), (gelu_erf, INF, INF), (gelu_erf, -INF, -0.0),
        (gelu_erf, 2e-30, 1e-30), (gelu_erf, -2e-30, -1e-30), (gelu_erf, f32::MAX, f32::MAX), (gelu_erf, -14.5, -0.0),
        (gelu_tanh, 0.0, 0.0), (gelu_tanh, -0.0, -0.0), (gelu_tanh, INF, INF), (gelu_tanh, -INF, -0.0),
        (gelu_tanh, 2e-30, 1e-30), (gelu_tanh, f32::MAX, f32::MAX),
        (rsqrt, 4.0, 0.5), (rsqrt, 0.0, INF), (rsqrt, -0.0, -INF), (rsqrt, INF, 0.0), (rsqrt, 0.25, 2.0),
    ];
    for (i, &(f, x, y)) in table.iter().enumerate() {
        assert_eq!(f(x).to_bits(), y.to_bits(), "row {i}: f({x:e}) = {:e}, not {y:e}", f(x));
    }
    for x in [-1e-45, -1.0, -INF] {
        assert_eq!((log(x).to_bits(), rsqrt(x).to_bits()), (0x7fc0_0000, 0x7fc0_0000));
    }
}

/// Vector code and scalar code give the same bits.
#[test]
fn vector_is_scalar() {
    let x: Vec<f32> = (0..RANKS).step_by(65_539).map(ranked).collect();
    let mut y = vec![0.0; x.len()];
    for subject in SUBJECTS {
        (subject.evaluate)(&x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            assert_eq!(y.to_bits(), (subject.function)(x).to_bits(), "{} of {x:e}", subject.name);
        }
    }
}

/// The odd functions are odd to the last bit.
#[test]
fn oddness() {
    for rank in (RANKS / 2..RANKS).step_by(65_537) {
        let x = ranked(rank);
        assert_eq!(tanh(-x).to_bits(), (-tanh(x)).to_bits());
        assert_eq!(erf(-x).to_bits(), (-erf(x)).to_bits());
    }
}

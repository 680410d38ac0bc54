//! Properties that hold for every input, checked on random ones.

use candor_sdk::arithmetic::{
    contraction::{self, BLOCK},
    quantised::{self, Group, Quantised},
    reduction::{self, CHUNK},
    row, sampling,
    scalar::{self, NAN_BITS},
};
use proptest::{collection::vec, prelude::*};

/// Any bits, with a bias to exponents that interact.
fn float() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>().prop_map(f32::from_bits),
        (any::<bool>(), 100u32..155, any::<u32>())
            .prop_map(|(s, e, m)| f32::from_bits(u32::from(s) << 31 | e << 23 | m & 0x7f_ffff)),
        (-1000i32..1000).prop_map(|n| n as f32 / 8.0),
    ]
}

/// Finite numbers of ordinary size.
fn ordinary() -> impl Strategy<Value = f32> {
    -100.0f32..100.0
}

fn pairs(max: usize) -> impl Strategy<Value = Vec<(f32, f32)>> {
    vec((float(), float()), 0..max)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn is_canonical(x: f32) -> bool {
    !x.is_nan() || x.to_bits() == NAN_BITS
}

proptest! {
    #[test]
    fn nan_is_one(a in float(), b in float(), c in float()) {
        use scalar::*;
        for r in [add(a, b), sub(a, b), mul(a, b), div(a, b), sqrt(a), fma(a, b, c), maximum(a, b), minimum(a, b), abs(a), neg(a)] {
            prop_assert!(is_canonical(r));
        }
    }

    /// `sub` is `add` of the negative, and the symmetric operations are symmetric.
    #[test]
    fn scalar_identities(a in float(), b in float(), c in float()) {
        use scalar::*;
        prop_assert_eq!(sub(a, b).to_bits(), add(a, neg(b)).to_bits());
        prop_assert_eq!(add(a, b).to_bits(), add(b, a).to_bits());
        prop_assert_eq!(mul(a, b).to_bits(), mul(b, a).to_bits());
        prop_assert_eq!(fma(a, b, c).to_bits(), fma(b, a, c).to_bits());
        prop_assert_eq!(fma(a, 1.0, c).to_bits(), add(a, c).to_bits());
        prop_assert_eq!(maximum(a, b).to_bits(), maximum(b, a).to_bits());
        prop_assert_eq!(minimum(a, b).to_bits(), neg(maximum(neg(a), neg(b))).to_bits());
    }

    /// The definition, written as one loop over absolute indices.
    #[test]
    fn dot_is_its_definition(p in pairs(600)) {
        let (x, w): (Vec<_>, Vec<_>) = p.into_iter().unzip();
        let (mut acc, mut p) = (0.0f32, 0.0f32);
        for k in 0..x.len() {
            p = x[k].mul_add(w[k], p);
            if k % BLOCK == BLOCK - 1 || k == x.len() - 1 {
                acc += p;
                p = 0.0;
            }
        }
        prop_assert_eq!(contraction::dot(&x, &w).to_bits(), scalar::canonical(acc).to_bits());
    }

    /// What lies before a boundary at an absolute index does not depend on what lies after it.
    #[test]
    fn partials_are_local(p in pairs(600)) {
        let (x, w): (Vec<_>, Vec<_>) = p.into_iter().unzip();
        let all = contraction::partials(&x, &w);
        prop_assert_eq!(all.len(), x.len().div_ceil(BLOCK));
        prop_assert_eq!(contraction::accumulate(&all).to_bits(), contraction::dot(&x, &w).to_bits());
        let cut = (x.len() / BLOCK / 2) * BLOCK;
        let mut halves = contraction::partials(&x[..cut], &w[..cut]);
        halves.extend(contraction::partials(&x[cut..], &w[cut..]));
        prop_assert_eq!(bits(&all), bits(&halves));
    }

    #[test]
    fn sixteen_bit_weights_are_widened(w in vec(any::<u16>(), 0..300), seed in any::<u32>()) {
        let x: Vec<f32> = (0..w.len() as u32).map(|k| f32::from_bits(k.wrapping_mul(seed) | 1)).collect();
        let f16: Vec<f32> = w.iter().map(|&w| half::f16::from_bits(w).to_f32()).collect();
        let bf16: Vec<f32> = w.iter().map(|&w| half::bf16::from_bits(w).to_f32()).collect();
        prop_assert_eq!(contraction::dot_f16(&x, &w).to_bits(), contraction::dot(&x, &f16).to_bits());
        prop_assert_eq!(contraction::dot_bf16(&x, &w).to_bits(), contraction::dot(&x, &bf16).to_bits());
    }

    /// Half a step of the scale is the most that quantisation moves a value, but for the rounding of the scale itself.
    #[test]
    fn quantisation_is_close(x in vec(ordinary(), 1..300)) {
        for group in [Group::G32, Group::G128] {
            let q = Quantised::quantise(&x, group);
            prop_assert_eq!(q.scales().len(), x.len().div_ceil(group.len()));
            prop_assert!(q.values().iter().all(|&v| v != -128));
            for (k, (&x, back)) in x.iter().zip(q.dequantise()).enumerate() {
                prop_assert!((x - back).abs() <= q.scales()[k / group.len()] * 0.501);
            }
        }
    }

    /// The definition, written as one loop over groups at absolute indices.
    #[test]
    fn quantised_dot_is_its_definition(p in pairs(500)) {
        let (x, w): (Vec<_>, Vec<_>) = p.into_iter().unzip();
        for group in [Group::G32, Group::G128] {
            let (x, w) = (Quantised::quantise(&x, group), Quantised::quantise(&w, group));
            let (g, n) = (group.len(), x.values().len());
            let (mut acc, mut p) = (0.0f32, 0.0f32);
            for i in 0..x.scales().len() {
                let sum: i64 = (i * g..n.min(i * g + g)).map(|k| i64::from(x.values()[k]) * i64::from(w.values()[k])).sum();
                p = (sum as f32).mul_add(x.scales()[i] * w.scales()[i], p);
                if (i + 1) * g % BLOCK == 0 || i + 1 == x.scales().len() {
                    acc += p;
                    p = 0.0;
                }
            }
            prop_assert_eq!(quantised::dot(&x, &w).to_bits(), scalar::canonical(acc).to_bits());
        }
    }

    #[test]
    fn stored_weights_round_trip(w in vec(ordinary(), 0..400)) {
        let q = Quantised::weights(&w, Group::G128).expect("ordinary numbers are finite");
        let bytes = q.to_bytes();
        prop_assert_eq!(Quantised::from_q8_128(&bytes, w.len()), Ok(q));
        let mut longer = bytes;
        longer.push(0);
        prop_assert!(Quantised::from_q8_128(&longer, w.len()).is_err());
        let whole = &w[..w.len() / 32 * 32];
        let q = Quantised::weights(whole, Group::G32).expect("ordinary numbers have scales below 65504");
        prop_assert_eq!(Quantised::from_q8_0(&q.to_bytes(), whole.len()), Ok(q));
    }

    /// The definition, with the lanes as sums of their own.
    #[test]
    fn sums_are_their_definition(x in vec(float(), 0..2500)) {
        let lane = |chunk: &[f32], l: usize, squares: bool| {
            let add = |s: f32, &x: &f32| if squares { x.mul_add(x, s) } else { s + x };
            chunk.iter().skip(l).step_by(32).fold(0.0, add)
        };
        fn tree(lanes: &[f32]) -> f32 {
            if let [one] = lanes {
                return *one;
            }
            let (low, high) = lanes.split_at(lanes.len() / 2);
            tree(&low.iter().zip(high).map(|(a, b)| a + b).collect::<Vec<_>>())
        }
        for (squares, result, partials) in [
            (false, reduction::sum(&x), reduction::sum_partials(&x)),
            (true, reduction::sum_squares(&x), reduction::sum_squares_partials(&x)),
        ] {
            let expected: Vec<f32> = x
                .chunks(CHUNK)
                .map(|chunk| scalar::canonical(tree(&(0..32).map(|l| lane(chunk, l, squares)).collect::<Vec<_>>())))
                .collect();
            prop_assert_eq!(bits(&partials), bits(&expected));
            prop_assert_eq!(result.to_bits(), scalar::canonical(expected.iter().fold(0.0, |a, b| a + b)).to_bits());
        }
    }

    /// No element beats the argmax, and none before it equals it.
    #[test]
    fn argmax_is_first_and_greatest(x in vec(float(), 1..200)) {
        let i = reduction::argmax(&x).expect("not empty");
        let best = reduction::rank(x[i]);
        prop_assert!(x[..i].iter().all(|&y| reduction::rank(y) < best));
        prop_assert!(x[i..].iter().all(|&y| reduction::rank(y) <= best));
        // It is where the maximum is, up to the sign of zero.
        let max = reduction::maximum(&x);
        prop_assert_eq!(scalar::add(max, 0.0).to_bits(), scalar::add(x[i], 0.0).to_bits());
    }

    /// The rank orders numbers as `<` does.
    #[test]
    fn rank_is_the_order(a in float(), b in float()) {
        if !a.is_nan() && !b.is_nan() {
            prop_assert_eq!(reduction::rank(a).cmp(&reduction::rank(b)), a.partial_cmp(&b).expect("numbers"));
        }
        prop_assert!(a.is_nan() || reduction::rank(a) < reduction::rank(f32::NAN));
    }

    #[test]
    fn softmax_is_a_distribution(x in vec(ordinary(), 1..300)) {
        let p = row::softmax(&x);
        prop_assert!(p.iter().all(|p| (0.0..=1.0).contains(p)));
        let total: f64 = p.iter().map(|&p| f64::from(p)).sum();
        prop_assert!((total - 1.0).abs() < 1e-5);
        // The order of the inputs is the order of the outputs.
        let top = reduction::argmax(&x).expect("not empty");
        prop_assert!(p.iter().all(|&q| q <= p[top]));
    }

    /// Rows are independent of how they are cut into operands elsewhere; a NaN anywhere reaches every element.
    #[test]
    fn a_nan_reaches_the_whole_row(mut x in vec(ordinary(), 1..100), at in any::<prop::sample::Index>()) {
        let n = x.len();
        x[at.index(n)] = f32::from_bits(0xffc0_0001);
        let (ones, zeros) = (vec![1.0; n], vec![0.0; n]);
        for y in [row::softmax(&x), row::rms_norm(&x, &ones, 1e-5), row::layer_norm(&x, &ones, &zeros, 1e-5)] {
            prop_assert!(y.iter().all(|y| y.to_bits() == NAN_BITS));
        }
    }

    /// The first 16 bytes of the seed, the step and the token all matter; the rest of the seed does not.
    #[test]
    fn noise_depends_on_what_it_should(
        seed in any::<[u8; 32]>(), step in any::<u32>(), v in any::<u32>(), bit in 0usize..256,
    ) {
        prop_assert!((-2.82..16.64).contains(&sampling::gumbel(&seed, step, v)));
        // Philox permutes counters, so that blocks of different counters differ: compare whole blocks.
        let block = |seed: &[u8; 32], step: u32, v: u32| [0, 1, 2, 3].map(|i| sampling::random_word(seed, step, v & !3 | i));
        let here = block(&seed, step, v);
        prop_assert_eq!(sampling::random_word(&seed, step, v), here[v as usize % 4]);
        prop_assert_ne!(here, block(&seed, step ^ 1, v));
        prop_assert_ne!(here, block(&seed, step, v ^ 4));
        let mut other = seed;
        other[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(here == block(&other, step, v), bit >= 128);
    }

    /// With min-p, the chosen token is never one that was dropped.
    #[test]
    fn min_p_is_obeyed(logits in vec(ordinary(), 1..60), seed in any::<[u8; 32]>(), t in 0.1f32..3.0, min_p in 0.001f32..1.0) {
        let token = sampling::sample(&logits, t, min_p, &seed, 0).expect("not empty");
        prop_assert!(logits[token] >= sampling::min_p_threshold(reduction::maximum(&logits), t, min_p));
        prop_assert_eq!(sampling::sample(&logits, 0.0, min_p, &seed, 0), reduction::argmax(&logits));
    }
}

/// Sampling draws from the softmax: frequencies over fixed seeds, within five standard deviations.
#[test]
fn sampled_frequencies() {
    let logits = [0.0f32, 1.0, 2.0, -1.0];
    let p = row::softmax(&logits.map(|l| l / 0.8));
    let (draws, mut counts) = (20_000u32, [0f64; 4]);
    for step in 0..draws {
        counts[sampling::sample(&logits, 0.8, 0.0, &[0x5a; 32], step).expect("not empty")] += 1.0;
    }
    for (count, p) in counts.into_iter().zip(p) {
        let (n, p) = (f64::from(draws), f64::from(p));
        assert!((count - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt(), "{count} of {n}, expected {p}");
    }
}

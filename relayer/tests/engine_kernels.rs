//! Every kernel on every instruction set of this machine against the reference, bit for bit.

#[path = "engine_common/numbers.rs"]
mod numbers;

use candor_relayer::engine::kernels::elementwise::{self, Epilogue};
use candor_relayer::engine::kernels::gemm::{self, Activations};
use candor_relayer::engine::kernels::rows::{self, Reduction};
use candor_relayer::engine::kernels::{Isa, Weight, isa, quantised};
use candor_sdk::arithmetic::quantised::{self as reference_quantised, Group, Quantised};
use candor_sdk::arithmetic::{contraction, functions, reduction, scalar};
use candor_sdk::program::{BinaryFunction, UnaryFunction};
use half::{bf16, f16};
use numbers::{Random, assert_same_bits, pool};

/// What the reference says `linear` is.
fn reference_linear<W: Weight>(x: &[f32], w: &[W], m: usize, k: usize, n: usize) -> Vec<f32> {
    let w: Vec<f32> = w.iter().map(|w| w.widen()).collect();
    (0..m * n).map(|i| contraction::dot(&x[i / n * k..][..k], &w[i % n * k..][..k])).collect()
}

fn check_linear<W: Weight>(x: &[f32], w: &[W], m: usize, k: usize, n: usize, what: &str) {
    let want = reference_linear(x, w, m, k, n);
    let packed = gemm::pack(w, n, k);
    for &isa in Isa::available() {
        let mut got = vec![7.0; m * n];
        gemm::linear(isa, Activations::Dense(x), &packed, m, k, n, &Epilogue::default(), &mut got);
        assert_same_bits(&got, &want, &format!("{what} {} {m} x {k} x {n}", isa.name()));
    }
}

fn check_all_weights(r: &mut Random, m: usize, k: usize, n: usize, what: &str, element: fn(&mut Random) -> f32) {
    let x = r.vector(m * k, element);
    let w = r.vector(n * k, element);
    check_linear(&x, &w, m, k, n, &format!("{what} f32"));
    // Any 16 bits are a weight, so take them as they come: subnormal, infinite, NaN.
    let half: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
    check_linear(&x, &half, m, k, n, &format!("{what} f16"));
    let half: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
    check_linear(&x, &half, m, k, n, &format!("{what} bf16"));
}

const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (1, 61, 1),
    (1, 300, 97),
    (2, 127, 48),
    (3, 128, 49),
    (4, 129, 145),
    (5, 256, 95),
    (7, 257, 47),
    (8, 384, 96),
    (9, 130, 10),
    (17, 25, 16),
    (33, 400, 32),
    (64, 31, 101),
    (131, 140, 50),
];

#[test]
fn linear_on_ordinary_numbers() {
    let mut r = Random(1);
    for (m, k, n) in SHAPES {
        check_all_weights(&mut r, m, k, n, "ordinary", Random::ordinary);
    }
}

#[test]
fn linear_on_edges() {
    let mut r = Random(2);
    for (m, k, n) in SHAPES {
        check_all_weights(&mut r, m, k, n, "finite edges", Random::finite_edge);
        check_all_weights(&mut r, m, k, n, "edges", Random::edge);
    }
}

#[test]
fn every_16_bit_weight_is_widened_exactly() {
    let x = [1.0f32];
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let half: Vec<f16> = all.iter().map(|&b| f16::from_bits(b)).collect();
    let brain: Vec<bf16> = all.iter().map(|&b| bf16::from_bits(b)).collect();
    // One row widens in registers, many rows a block at a time.
    for m in [1, 20] {
        let x = x.repeat(m);
        check_linear(&x, &half, m, 1, half.len(), "all f16");
        check_linear(&x, &brain, m, 1, brain.len(), "all bf16");
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let mut r = Random(3);
    let (k, n) = (200, 70);
    let x = r.vector(64 * k, Random::edge);
    let w = r.vector(n * k, Random::edge);
    let want = reference_linear(&x, &w, 64, k, n);
    let packed = gemm::pack(&w, n, k);
    for &isa in Isa::available() {
        for m in 1..=64 {
            let mut got = vec![0.0; m * n];
            gemm::linear(isa, Activations::Dense(&x[..m * k]), &packed, m, k, n, &Epilogue::default(), &mut got);
            assert_same_bits(&got, &want[..m * n], &format!("{} batch {m}", isa.name()));
        }
    }
}

#[test]
fn threads_change_nothing() {
    let mut r = Random(4);
    for (m, k, n) in [(1, 2000, 500), (4, 300, 700), (96, 300, 300), (200, 129, 96)] {
        let x = r.vector(m * k, Random::finite_edge);
        let w = r.vector(n * k, Random::finite_edge);
        let want = reference_linear(&x, &w, m, k, n);
        for threads in [1, 2, 4, 8] {
            pool(threads).install(|| {
                let packed = gemm::pack(&w, n, k);
                let mut got = vec![0.0; m * n];
                gemm::linear(Isa::best(), Activations::Dense(&x), &packed, m, k, n, &Epilogue::default(), &mut got);
                assert_same_bits(&got, &want, &format!("{threads} threads {m} x {k} x {n}"));
            });
        }
    }
}

#[test]
fn an_epilogue_is_the_nodes_it_stands_for() {
    let mut r = Random(5);
    let (m, k, n) = (11, 150, 77);
    let x = r.vector(m * k, Random::edge);
    let w = r.vector(n * k, Random::edge);
    let bias = r.vector(n, Random::edge);
    let packed = gemm::pack(&w, n, k);
    for unary in std::iter::once(None).chain(UnaryFunction::ALL.iter().copied().map(Some)) {
        let mut want = reference_linear(&x, &w, m, k, n);
        for (i, want) in want.iter_mut().enumerate() {
            *want = scalar::add(*want, bias[i % n]);
            if let Some(f) = unary {
                *want = reference_unary(f, *want);
            }
        }
        for &isa in Isa::available() {
            let mut got = vec![0.0; m * n];
            let epilogue = Epilogue { bias: Some(&bias), unary };
            gemm::linear(isa, Activations::Dense(&x), &packed, m, k, n, &epilogue, &mut got);
            assert_same_bits(&got, &want, &format!("{} {unary:?}", isa.name()));
        }
    }
}

#[test]
fn a_float_mode_left_behind_by_others_is_not_ours() {
    // Flush-to-zero and denormals-are-zero, as a C library might leave them.
    #[cfg(target_arch = "x86_64")]
    std::thread::spawn(|| {
        let hostile: u32 = 0x1f80 | 0x8040;
        // SAFETY: floats are only touched after `default_float_mode` has restored the register.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &hostile, options(nostack)) };
        isa::default_float_mode();
        let tiny = std::hint::black_box(f32::from_bits(3));
        assert_eq!((tiny * std::hint::black_box(1.0)).to_bits(), 3);
    })
    .join()
    .expect("the thread");
}

fn reference_unary(f: UnaryFunction, x: f32) -> f32 {
    match f {
        UnaryFunction::Neg => scalar::neg(x),
        UnaryFunction::Abs => scalar::abs(x),
        UnaryFunction::Relu => scalar::maximum(x, 0.0),
        UnaryFunction::Sqrt => scalar::sqrt(x),
        UnaryFunction::Rsqrt => functions::rsqrt(x),
        UnaryFunction::Exp => functions::exp(x),
        UnaryFunction::Log => functions::log(x),
        UnaryFunction::Tanh => functions::tanh(x),
        UnaryFunction::Sigmoid => functions::sigmoid(x),
        UnaryFunction::Silu => functions::silu(x),
        UnaryFunction::Erf => functions::erf(x),
        UnaryFunction::GeluErf => functions::gelu_erf(x),
        UnaryFunction::GeluTanh => functions::gelu_tanh(x),
    }
}

fn reference_binary(f: BinaryFunction, a: f32, b: f32) -> f32 {
    match f {
        BinaryFunction::Add => scalar::add(a, b),
        BinaryFunction::Sub => scalar::sub(a, b),
        BinaryFunction::Mul => scalar::mul(a, b),
        BinaryFunction::Div => scalar::div(a, b),
        BinaryFunction::Maximum => scalar::maximum(a, b),
        BinaryFunction::Minimum => scalar::minimum(a, b),
        BinaryFunction::ExpSub => functions::exp(scalar::sub(a, b)),
        BinaryFunction::Equal => f32::from(u8::from(a == b)),
        BinaryFunction::Less => f32::from(u8::from(a < b)),
        BinaryFunction::LessEqual => f32::from(u8::from(a <= b)),
    }
}

/// All exponents, both signs, every kind of NaN; no multiple of any vector length.
fn sweep() -> Vec<f32> {
    let mut r = Random(6);
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(1_000_003).map(f32::from_bits).collect();
    x.extend(r.vector(20_001, Random::edge));
    x.extend((0..3000).map(|_| r.ordinary() * 20.0));
    x
}

#[test]
fn unary_functions() {
    let x = sweep();
    for &f in UnaryFunction::ALL {
        let want: Vec<f32> = x.iter().map(|&x| reference_unary(f, x)).collect();
        for &isa in Isa::available() {
            let mut got = vec![0.0; x.len()];
            elementwise::unary(isa, f, &x, &mut got);
            assert_same_bits(&got, &want, &format!("{} {f:?}", isa.name()));
            let mut got = x.clone();
            elementwise::unary_in_place(isa, f, &mut got);
            assert_same_bits(&got, &want, &format!("{} {f:?} in place", isa.name()));
        }
    }
}

#[test]
fn binary_functions() {
    let mut r = Random(7);
    let a = r.vector(10_007, Random::edge);
    let b = r.vector(10_007, Random::edge);
    for &f in BinaryFunction::ALL {
        let check = |a: &[f32], b: &[f32], what: &str| {
            let pick = |x: &[f32], i: usize| x[if x.len() == 1 { 0 } else { i }];
            let len = a.len().max(b.len());
            let want: Vec<f32> = (0..len).map(|i| reference_binary(f, pick(a, i), pick(b, i))).collect();
            for &isa in Isa::available() {
                let mut got = vec![0.0; len];
                elementwise::binary(isa, f, a, b, &mut got);
                assert_same_bits(&got, &want, &format!("{} {f:?} {what}", isa.name()));
            }
        };
        check(&a, &b, "both");
        for x in &a[..40] {
            check(&a[..100], &[*x], "right broadcast");
            check(&[*x], &b[..100], "left broadcast");
            check(&[*x], &b[..1], "scalars");
        }
    }
}

#[test]
fn row_reductions() {
    let mut r = Random(8);
    let kinds: [fn(&mut Random) -> f32; 3] = [Random::ordinary, Random::finite_edge, Random::edge];
    for cols in (1..140).chain([1023, 1024, 1025, 1055, 1056, 2047, 2048, 3001, 5000]) {
        for element in kinds {
            let count = 1 + r.below(4);
            let x = r.vector(count * cols, element);
            for (reduction, reference) in [
                (Reduction::Sum, reduction::sum as fn(&[f32]) -> f32),
                (Reduction::SumSquares, reduction::sum_squares),
                (Reduction::Max, reduction::maximum),
            ] {
                let want: Vec<f32> = x.chunks(cols).map(reference).collect();
                for &isa in Isa::available() {
                    let mut got = vec![7.0; count];
                    rows::reduce_rows(isa, reduction, &x, cols, &mut got);
                    assert_same_bits(&got, &want, &format!("{} {reduction:?} of {cols}", isa.name()));
                }
            }
        }
    }
}

#[test]
fn functions_of_three() {
    let mut r = Random(9);
    let [x, y, z] = [0, 1, 2].map(|_| r.vector(4001, Random::edge));
    for &isa in Isa::available() {
        let mut got = vec![7.0; x.len()];
        elementwise::mul_add(isa, &x, &y, &z, &mut got);
        let want: Vec<f32> = (0..x.len()).map(|i| scalar::fma(x[i], y[i], z[i])).collect();
        assert_same_bits(&got, &want, &format!("{} mul_add", isa.name()));
        elementwise::select(isa, &x, &y, &z, &mut got);
        let want: Vec<f32> = (0..x.len()).map(|i| if x[i] != 0.0 { y[i] } else { z[i] }).collect();
        assert_same_bits(&got, &want, &format!("{} select", isa.name()));
    }
}

/// Views read in place, with rows side by side and rows anywhere.
#[test]
fn windows_are_the_view_they_stand_for() {
    let mut r = Random(10);
    for (count, k, n, requests) in [(1, 1, 1, 1), (6, 9, 5, 3), (16, 75, 50, 2), (33, 150, 97, 4), (3, 300, 10, 1)] {
        let stride = 600;
        let data = r.vector(requests * stride, Random::edge);
        let columns: Vec<u32> = (0..k).map(|_| r.below(200) as u32).collect();
        let scattered: Vec<u32> = (0..count).map(|_| r.below(400) as u32).collect();
        let beside: Vec<u32> = (0..count as u32).map(|i| 7 * (i / 5) + i % 5).collect();
        for offsets in [&scattered, &beside] {
            let view: Vec<f32> = (0..requests * count * k)
                .map(|i| {
                    let (row, c) = (i / k, i % k);
                    data[row / count * stride + (offsets[row % count] + columns[c]) as usize]
                })
                .collect();
            let m = requests * count;
            let w: Vec<f16> = r.vector(n * k, Random::edge).into_iter().map(f16::from_f32).collect();
            let want = reference_linear(&view, &w, m, k, n);
            let packed = gemm::pack(&w, n, k);
            for &isa in Isa::available() {
                let x = Activations::Windows { data: &data, stride, rows: offsets, columns: &columns };
                let mut got = vec![7.0; m * n];
                gemm::linear(isa, x, &packed, m, k, n, &Epilogue::default(), &mut got);
                assert_same_bits(&got, &want, &format!("{} windows {m} x {k} x {n}", isa.name()));

                let want: Vec<f32> = view[..count * k].chunks(k).map(reduction::maximum).collect();
                let mut got = vec![7.0; count];
                rows::window_maxima(isa, &data[..stride], offsets, &columns, &mut got);
                assert_same_bits(&got, &want, &format!("{} window maxima {count} x {k}", isa.name()));
            }
        }
    }
}

#[test]
fn quantised_contractions() {
    let mut r = Random(13);
    let shapes: [(usize, usize, usize); 8] =
        [(1, 32, 1), (2, 128, 16), (4, 160, 17), (5, 256, 33), (9, 384, 50), (3, 130, 20), (6, 301, 7), (1, 3, 40)];
    for (m, k, n) in shapes {
        for group in [Group::G32, Group::G128] {
            if group == Group::G32 && k % 32 != 0 {
                continue; // q8_0 has whole blocks only
            }
            for element in [Random::ordinary as fn(&mut Random) -> f32, Random::finite_edge, Random::edge] {
                let g = group.len();
                let groups = k.div_ceil(g);
                // Any bytes are weights, -128 too; scales are anything.
                let bytes: Vec<i8> = (0..n * k).map(|_| [-128, 127, r.bits() as i8][r.below(3)]).collect();
                let scales = r.vector(n * groups, element);
                let rows: Vec<Quantised> = (0..n)
                    .map(|row| {
                        let (bytes, scales) = (&bytes[row * k..][..k], &scales[row * groups..][..groups]);
                        let blocks = bytes.chunks(g).zip(scales);
                        let stored = blocks.flat_map(|(b, s)| match group {
                            Group::G32 => {
                                f16::from_f32(*s).to_le_bytes().into_iter().chain(as_bytes(b)).collect::<Vec<u8>>()
                            }
                            Group::G128 => s.to_le_bytes().into_iter().chain(as_bytes(b)).collect(),
                        });
                        let stored: Vec<u8> = stored.collect();
                        match group {
                            Group::G32 => Quantised::from_q8_0(&stored, k),
                            Group::G128 => Quantised::from_q8_128(&stored, k),
                        }
                        .expect("a row")
                    })
                    .collect();
                let scales: Vec<f32> = rows.iter().flat_map(|row| row.scales().to_vec()).collect();
                let x = r.vector(m * k, element);
                let activations: Vec<Quantised> = x.chunks(k).map(|x| Quantised::quantise(x, group)).collect();

                let mut row_scales = Vec::new();
                let mut values = vec![0i8; m * k];
                for &isa in Isa::available() {
                    row_scales.clear();
                    for (row, values) in values.chunks_mut(k).enumerate() {
                        let mut magnitudes = vec![0.0; groups];
                        quantised::group_magnitudes(isa, &x[row * k..][..k], g, &mut magnitudes);
                        quantised::quantise(isa, &x[row * k..][..k], &magnitudes, g, values);
                        assert_eq!(values, activations[row].values(), "{}", isa.name());
                        row_scales.extend(magnitudes.iter().map(|&most| scalar::div(most, 127.0)));
                        let scales = &row_scales[row * groups..];
                        assert_same_bits(scales, activations[row].scales(), isa.name());
                    }
                }
                let want: Vec<f32> =
                    activations.iter().flat_map(|x| rows.iter().map(|w| reference_quantised::dot(x, w))).collect();
                let packed = quantised::pack(&bytes, &scales, n, k, g);
                for &isa in Isa::available() {
                    for threads in [1, 2] {
                        let mut got = vec![7.0; m * n];
                        let x = (values.as_slice(), row_scales.as_slice());
                        pool(threads).install(|| {
                            quantised::linear(isa, x, &packed.as_ref(), m, &Epilogue::default(), &mut got);
                        });
                        assert_same_bits(&got, &want, &format!("{} {group:?} {m} x {k} x {n}", isa.name()));
                    }
                }
            }
        }
    }
}

#[test]
fn the_least_byte_is_a_byte_like_any_other() {
    let weights = [-128i8, 127, 1, -1, -128, 0, 3, -7];
    for k in [1, 5, 8] {
        let x = vec![i8::MIN; k];
        let want = [reference_quantised::partial((&x, &[1.0]), (&weights[..k], &[0.5]), Group::G128)];
        let packed = quantised::pack(&weights[..k], &[0.5], 1, k, 128);
        for &isa in Isa::available() {
            let mut got = [7.0];
            quantised::linear(isa, (&x, &[1.0]), &packed.as_ref(), 1, &Epilogue::default(), &mut got);
            assert_same_bits(&got, &want, isa.name());
        }
    }
}

fn as_bytes(values: &[i8]) -> Vec<u8> {
    values.iter().map(|&v| v as u8).collect()
}

#[test]
fn perturbed_logits() {
    use candor_relayer::engine::kernels::sampling::{Sampling, perturb};
    use candor_sdk::arithmetic::{reduction::maximum, sampling};
    let mut r = Random(31);
    for (length, temperature, min_p) in
        [(1, 1.0, 0.0), (63, 0.7, 0.1), (64, 1e-30, 0.5), (65, 3.0, 1.0), (1000, 2.0, 0.01), (130, 0.0, 0.3)]
    {
        let seed: [u8; 32] = std::array::from_fn(|_| r.bits() as u8);
        let step = r.bits() as u32;
        let kinds: [fn(&mut Random) -> f32; 2] = [Random::ordinary, Random::finite_edge];
        for kind in kinds {
            let logits = r.vector(length, kind);
            let max = maximum(&logits);
            let threshold = sampling::min_p_threshold(max, temperature, min_p);
            let noise = |v: usize| sampling::gumbel(&seed, step, v as u32);
            let score = |(v, &x): (usize, &f32)| match temperature > 0.0 {
                true => sampling::score(x, threshold, temperature, noise(v)),
                false => x,
            };
            let want: Vec<f32> = logits.iter().enumerate().map(score).collect();
            for &isa in Isa::available() {
                let mut got = vec![0f32; length];
                perturb(isa, &Sampling { temperature, min_p, seed, step }, max, &logits, &mut got);
                assert_same_bits(&got, &want, &format!("{} {length} logits", isa.name()));
            }
        }
    }
}

//! Golden vectors of the arithmetic, shared with the CUDA kernels and the Solidity verifier: `tests/vectors/*.json`.
//!
//! A plain run recomputes every file and compares it byte for byte. `CANDOR_BLESS=1 cargo test -p candor-sdk --test
//! arithmetic_vectors` writes them. A tensor is a string of `0x` and eight digits for each element: its f32 bits (or
//! integer), big-endian, as the input of a request is.

#[path = "common/generate.rs"]
mod generate;
#[path = "common/golden.rs"]
mod golden_file;

use candor_sdk::arithmetic::{
    ARITHMETIC_VERSION, contraction, functions, quantised,
    quantised::{Group, Quantised},
    reduction, row, sampling, scalar,
};
use generate::{Generator, SPECIALS};
use serde_json::{Map, Value, json};

/// A golden file of this version of the arithmetic.
fn golden(name: &str, mut value: Value) {
    value["arithmeticVersion"] = ARITHMETIC_VERSION.into();
    golden_file::golden(name, value);
}

fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    bytes.into_iter().fold("0x".to_owned(), |s, b| s + &format!("{b:02x}"))
}

fn words(words: impl IntoIterator<Item = u32>) -> Value {
    hex(words.into_iter().flat_map(u32::to_be_bytes)).into()
}

fn floats(x: &[f32]) -> Value {
    words(x.iter().map(|x| x.to_bits()))
}

fn float(x: f32) -> Value {
    floats(&[x])
}

/// How the elements of a row are made.
type Element = fn(&mut Generator) -> f32;

/// One value as the word it is in a file.
trait Word: Copy {
    fn word(self) -> u32;
}

impl Word for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}

impl Word for u32 {
    fn word(self) -> u32 {
        self
    }
}

impl Word for i32 {
    fn word(self) -> u32 {
        self as u32
    }
}

impl Word for u16 {
    fn word(self) -> u32 {
        self.into()
    }
}

fn unary<A: Word, R: Word>(x: &[A], f: impl Fn(A) -> R) -> Value {
    json!({ "a": words(x.iter().map(|x| x.word())), "out": words(x.iter().map(|&x| f(x).word())) })
}

fn binary(pairs: &[(f32, f32)], f: impl Fn(f32, f32) -> f32) -> Value {
    json!({
        "a": words(pairs.iter().map(|p| p.0.to_bits())),
        "b": words(pairs.iter().map(|p| p.1.to_bits())),
        "out": words(pairs.iter().map(|p| f(p.0, p.1).to_bits())),
    })
}

#[test]
fn scalar_operations() {
    let mut g = Generator::new(1);
    let mut out = Map::new();

    let mut pairs: Vec<_> = SPECIALS.iter().flat_map(|&a| SPECIALS.iter().map(move |&b| (a, b))).collect();
    pairs.extend((0..100).map(|_| (g.any(), g.any())));
    let mut sums = pairs.clone();
    sums.extend((0..250).map(|_| g.hard_sum()));
    let mut products = pairs.clone();
    products.extend((0..250).map(|_| g.hard_product()));
    let mut quotients = pairs.clone();
    quotients.extend((0..250).map(|_| g.hard_quotient()));
    out.insert("add".into(), binary(&sums, scalar::add));
    out.insert("sub".into(), binary(&sums, scalar::sub));
    out.insert("mul".into(), binary(&products, scalar::mul));
    out.insert("div".into(), binary(&quotients, scalar::div));
    out.insert("maximum".into(), binary(&pairs, scalar::maximum));
    out.insert("minimum".into(), binary(&pairs, scalar::minimum));

    let mut triples: Vec<(f32, f32, f32)> =
        (0..500).map(|i| (g.special(), g.special(), if i % 4 == 0 { g.any() } else { g.special() })).collect();
    triples.extend((0..100).map(|_| (g.any(), g.any(), g.any())));
    triples.extend((0..500).map(|_| g.hard_fma()));
    out.insert(
        "fma".into(),
        json!({
            "a": words(triples.iter().map(|t| t.0.to_bits())),
            "b": words(triples.iter().map(|t| t.1.to_bits())),
            "c": words(triples.iter().map(|t| t.2.to_bits())),
            "out": words(triples.iter().map(|t| scalar::fma(t.0, t.1, t.2).to_bits())),
        }),
    );

    golden("scalar.json", Value::Object(out));
}

#[test]
fn conversions_and_roots() {
    let mut g = Generator::new(8);
    let mut out = Map::new();
    let mut singles = SPECIALS.to_vec();
    singles.extend((0..400).map(|_| g.any()));
    singles.extend((0..200).map(|i| (i - 100) as f32 * 0.25));
    singles.extend((0..100).map(|_| g.near(32)));
    out.insert("sqrt".into(), unary(&singles, scalar::sqrt));
    out.insert("roundToI32".into(), unary(&singles, scalar::round_to_i32));
    out.insert("roundToU32".into(), unary(&singles, scalar::round_to_u32));

    let mut integers = vec![0, 1, 2, !0, 1 << 31, !0 >> 1, (1 << 24) - 1, 1 << 24, (1 << 24) + 1, (1 << 24) + 3];
    integers.extend((0..300).map(|_| g.word() >> (g.word() % 32)));
    let signed: Vec<i32> = integers.iter().flat_map(|&n| [n as i32, (n as i32).wrapping_neg()]).collect();
    out.insert("fromU32".into(), unary(&integers, scalar::from_u32));
    out.insert("fromI32".into(), unary(&signed, scalar::from_i32));

    let mut halves: Vec<u16> =
        (0..64).flat_map(|e| [0, 1, 2, 0x1ff, 0x200, 0x3fe, 0x3ff].map(|m| e << 10 | m)).collect();
    halves.extend((0..200).map(|_| g.word() as u16));
    out.insert("f16ToF32".into(), unary(&halves, scalar::f16_to_f32));
    out.insert("bf16ToF32".into(), unary(&halves, scalar::bf16_to_f32));
    golden("conversion.json", Value::Object(out));
}

#[test]
fn functions_of_one_number() {
    type Function = fn(f32) -> f32;
    /// Where a function changes its formula, saturates, over- or underflows: its neighbourhood is in the file.
    const TABLE: [(&str, Function, &[f32]); 9] = [
        ("exp", functions::exp, &[0.346_573_6, 1.0397208, 88.72284, 87.33654, 103.97208, 120.0]),
        ("log", functions::log, &[1.0, 1.3333334, 0.6666667, 2.6666667, 1.1754944e-38]),
        ("tanh", functions::tanh, &[0.5625, 9.010913, 10.0, 1e-4]),
        ("sigmoid", functions::sigmoid, &[16.635532, 17.328679, 87.33654, 103.97208, 120.0, 1.0]),
        ("silu", functions::silu, &[1.2784645, 91.9, 108.6, 120.0, 16.635532]),
        ("erf", functions::erf, &[0.875, 3.832_507, 4.0, 1e-4, 2.5]),
        ("geluErf", functions::gelu_erf, &[0.7517916, 13.0, 14.36, 14.5, 5.2, 1.484375]),
        ("geluTanh", functions::gelu_tanh, &[0.7524614, 4.7, 10.1, 10.8, 11.0, 5.0]),
        ("rsqrt", functions::rsqrt, &[1.0, 2.0, 4.0]),
    ];
    let mut g = Generator::new(2);
    let mut out = Map::new();
    for (name, f, edges) in TABLE {
        let mut x = SPECIALS.to_vec();
        for edge in edges {
            for step in -3i32..=3 {
                let x_edge = f32::from_bits(edge.to_bits().wrapping_add_signed(step));
                x.extend([x_edge, -x_edge]);
            }
        }
        x.extend((0..200).map(|_| g.near(8)));
        x.extend((0..300).map(|_| g.moderate(110.0)));
        x.extend((0..150).map(|_| g.moderate(4.0)));
        x.extend((0..150).map(|_| g.any()));
        out.insert(name.into(), unary(&x, f));
    }
    golden("functions.json", Value::Object(out));
}

#[test]
fn contractions() {
    let mut g = Generator::new(3);
    let mut cases = Vec::new();
    let mut case = |name: &str, x: Vec<f32>, w: Vec<f32>| {
        let (partials, out) = (contraction::partials(&x, &w), contraction::dot(&x, &w));
        cases.push(json!({
            "name": name, "weights": "f32", "x": floats(&x), "w": floats(&w),
            "partials": floats(&partials), "out": float(out),
        }));
    };
    case("empty", vec![], vec![]);
    case("one negative zero: the sum starts at +0", vec![-0.0], vec![1.0]);
    for n in [1, 2, 31, 127, 128, 129, 255, 256, 257, 384, 500, 777] {
        case("moderate", g.row(n, |g| g.moderate(3.0)), g.row(n, |g| g.moderate(1.0)));
    }
    for n in [5, 128, 300] {
        case("huge gaps between exponents", g.row(n, |g| g.near(60)), g.row(n, |g| g.near(60)));
        case("subnormal products", g.row(n, |g| g.moderate(1e-20)), g.row(n, |g| g.moderate(1e-22)));
        let x = g.row(n, |g| g.moderate(2.0));
        let w: Vec<f32> = (0..n).map(|k| if k % 2 == 0 { 1.0 } else { -1.0 } / x[k]).collect();
        case("cancellation", x, w);
    }
    for n in [3, 130, 200] {
        case("any bits", g.row(n, Generator::any), g.row(n, |g| g.moderate(1.0)));
        case("specials", g.row(n, Generator::special), g.row(n, Generator::special));
    }
    let mut overflow = vec![1.0; 256];
    (overflow[3], overflow[4], overflow[200]) = (f32::MAX, f32::MAX, -f32::MAX);
    case("overflow in the first block, NaN never", overflow, vec![1.5; 256]);
    let mut cross = vec![1.0; 256];
    (cross[0], cross[200]) = (f32::INFINITY, f32::NEG_INFINITY);
    case("infinities of both signs meet between blocks", cross, vec![1.0; 256]);

    for (name, n) in [("moderate", 1), ("moderate", 129), ("moderate", 320)] {
        let x = g.row(n, |g| g.moderate(3.0));
        let w: Vec<u16> = (0..n).map(|_| g.moderate_f16()).collect();
        for format in ["f16", "bf16"] {
            let partials = if format == "f16" { contraction::partials_f16 } else { contraction::partials_bf16 };
            let dot = if format == "f16" { contraction::dot_f16 } else { contraction::dot_bf16 };
            cases.push(json!({
                "name": name, "weights": format, "x": floats(&x), "w": words(w.iter().map(|&w| w.into())),
                "partials": floats(&partials(&x, &w)), "out": float(dot(&x, &w)),
            }));
        }
    }
    golden("contraction.json", json!({ "cases": cases }));
}

#[test]
fn quantised_contractions() {
    let mut g = Generator::new(4);
    let mut cases = Vec::new();
    let mut case = |name: &str, x: &[f32], stored: &[u8], w: &Quantised| {
        let q = Quantised::quantise(x, w.group());
        cases.push(json!({
            "name": name, "format": if w.group() == Group::G32 { "q8_0" } else { "q8_128" },
            "x": floats(x), "xValues": hex(q.values().iter().map(|&v| v as u8)), "xScales": floats(q.scales()),
            "w": hex(stored.iter().copied()), "wValues": hex(w.values().iter().map(|&v| v as u8)),
            "wScales": floats(w.scales()),
            "partials": floats(&quantised::partials(&q, w)), "out": float(quantised::dot(&q, w)),
        }));
    };
    let shapes: &[(&str, Element)] = &[
        ("moderate", |g| g.moderate(2.0)),
        ("specials", Generator::special),
        ("ties: multiples of a half", |g| (g.word() % 255) as f32 * 0.5 - 63.5),
        ("subnormal", |g| g.moderate(1e-39)),
        ("huge gaps between exponents", |g| g.near(30)),
        ("zero", |_| 0.0),
    ];
    for &(name, shape) in shapes {
        for n in [32, 128, 160, 352] {
            let mut stored = Vec::new();
            for _ in 0..n / 32 {
                stored.extend(g.moderate_f16().to_le_bytes());
                stored.extend((0..32).map(|_| g.word() as u8));
            }
            let w = Quantised::from_q8_0(&stored, n).expect("whole blocks");
            case(name, &g.row(n, shape), &stored, &w);
        }
        for n in [1, 32, 128, 129, 300] {
            let w = Quantised::weights(&g.row(n, |g| g.moderate(0.3)), Group::G128).expect("finite");
            case(name, &g.row(n, shape), &w.to_bytes(), &w);
        }
    }
    golden("quantised.json", json!({ "cases": cases }));
}

#[test]
fn reductions() {
    let mut g = Generator::new(5);
    let mut cases = Vec::new();
    let mut case = |name: &str, x: Vec<f32>| {
        cases.push(json!({
            "name": name, "x": floats(&x),
            "sumPartials": floats(&reduction::sum_partials(&x)), "sum": float(reduction::sum(&x)),
            "sumSquaresPartials": floats(&reduction::sum_squares_partials(&x)),
            "sumSquares": float(reduction::sum_squares(&x)),
            "maximumPartials": floats(&reduction::maximum_partials(&x)), "maximum": float(reduction::maximum(&x)),
            "argmax": reduction::argmax(&x),
        }));
    };
    case("negative zeros", vec![-0.0; 40]);
    case("minus infinity", vec![f32::NEG_INFINITY; 3]);
    for n in [1, 2, 31, 32, 33, 64, 100, 1000, 1023, 1024, 1025, 2100, 3073] {
        case("moderate", g.row(n, |g| g.moderate(3.0)));
    }
    for n in [33, 700, 1100] {
        case("huge gaps between exponents", g.row(n, |g| g.near(60)));
        case("few values, many equal", g.row(n, |g| (g.word() % 5) as f32 - 3.0));
    }
    for n in [4, 40, 1030] {
        case("specials", g.row(n, Generator::special));
        case("subnormal", g.row(n, |g| g.moderate(1e-40)));
    }
    golden("reduction.json", json!({ "cases": cases }));
}

#[test]
fn rows() {
    let mut g = Generator::new(6);
    let mut cases = Vec::new();
    let shapes: &[(&str, Element)] = &[
        ("moderate", |g| g.moderate(5.0)),
        ("wide", |g| g.moderate(80.0)),
        ("equal", |_| 0.1),
        ("any bits", Generator::any),
        ("tiny", |g| g.moderate(1e-30)),
    ];
    for &(name, shape) in shapes {
        for n in [1, 2, 10, 33, 200, 1030] {
            if n > 200 && name != "moderate" {
                continue;
            }
            let (x, weight, bias) = (g.row(n, shape), g.row(n, |g| g.moderate(2.0)), g.row(n, |g| g.moderate(1.0)));
            let epsilon = [1e-5, 1e-6, 0.0][n % 3];
            let (e, z) = row::softmax_parts(&x);
            cases.push(json!({
                "name": name, "x": floats(&x), "weight": floats(&weight), "bias": floats(&bias),
                "epsilon": float(epsilon), "softmaxNumerators": floats(&e), "softmaxSum": float(z),
                "softmax": floats(&row::softmax(&x)), "rmsNorm": floats(&row::rms_norm(&x, &weight, epsilon)),
                "layerNorm": floats(&row::layer_norm(&x, &weight, &bias, epsilon)),
            }));
        }
    }
    golden("row.json", json!({ "cases": cases }));
}

#[test]
fn sampled_tokens() {
    let mut g = Generator::new(7);
    let mut philox = Vec::new();
    for i in 0..24 {
        let mut word = || [0, !0, g.word()][i.min(2)];
        let (counter, key) = ([word(), word(), word(), word()], [word(), word()]);
        let out = sampling::philox4x32_10(counter, key);
        philox.push(json!({ "counter": words(counter), "key": words(key), "out": words(out) }));
    }
    let mut noise = Vec::new();
    for i in 0..8u32 {
        let seed: [u8; 32] = std::array::from_fn(|_| g.word() as u8);
        let step = [0, 1, 77, u32::MAX][i as usize % 4];
        let v: Vec<u32> = (0..9).chain([151_935, u32::MAX]).chain((0..20).map(|_| g.word())).collect();
        let word = |&v: &u32| sampling::random_word(&seed, step, v);
        noise.push(json!({
            "seed": hex(seed), "step": step, "v": words(v.iter().copied()), "word": words(v.iter().map(word)),
            "uniform": words(v.iter().map(|v| sampling::uniform(word(v)).to_bits())),
            "gumbel": words(v.iter().map(|&v| sampling::gumbel(&seed, step, v).to_bits())),
        }));
    }
    let mut tokens = Vec::new();
    let settings = [(0.0, 0.0), (1.0, 0.0), (0.7, 0.05), (2.0, 0.3), (1.0, 1.0), (1e-40, 0.1), (f32::INFINITY, 0.1)];
    for (i, (temperature, min_p)) in settings.into_iter().cycle().take(42).enumerate() {
        let n = [1, 5, 33, 120][i % 4];
        let mut logits = g.row(n, |g| g.moderate(6.0));
        if i >= 28 {
            logits[n / 2] = g.special();
        }
        let seed: [u8; 32] = std::array::from_fn(|_| g.word() as u8);
        let step = i as u32;
        let threshold = sampling::min_p_threshold(reduction::maximum(&logits), temperature, min_p);
        let scores: Vec<f32> = (0..)
            .zip(&logits)
            .map(|(v, &logit)| sampling::score(logit, threshold, temperature, sampling::gumbel(&seed, step, v)))
            .collect();
        tokens.push(json!({
            "logits": floats(&logits), "temperature": float(temperature), "minP": float(min_p), "seed": hex(seed),
            "step": step, "threshold": float(threshold), "scores": floats(&scores),
            "token": sampling::sample(&logits, temperature, min_p, &seed, step),
        }));
    }
    golden("sampling.json", json!({ "philox": philox, "noise": noise, "tokens": tokens }));
}

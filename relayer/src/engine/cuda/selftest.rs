//! What a device has to get right, to the bit, before it may serve: the golden vectors and two small models, on this very
//! device.
//!
//! The vectors are the files that the SDK, the CPU kernels and the Solidity verifier are compared with, built into the binary.

use super::driver::DeviceError;
use super::memory::{Device, Tensor};
use super::ops::{Layer, Norm, Result, TILE_COLUMNS, Tiles, tiles};
use super::trial;
use super::weights::Packed;
use crate::engine::kernels::rows::Reduction;
use crate::engine::ops::Extent;
use candor_sdk::program::{BinaryFunction, UnaryFunction, WeightTensor, WeightType};
use serde_json::Value;
use std::sync::Arc;

macro_rules! vectors {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/", $name, ".json"))
    };
}

const FILES: [(&str, &str, Check); 7] = [
    ("scalar", vectors!("scalar"), scalars),
    ("functions", vectors!("functions"), functions),
    ("contraction", vectors!("contraction"), contractions),
    ("quantised", vectors!("quantised"), quantised),
    ("reduction", vectors!("reduction"), reductions),
    ("row", vectors!("row"), rows),
    ("sampling", vectors!("sampling"), sampling),
];

type Check = fn(&Device, &Value, &mut SelfTest) -> Result<()>;

/// What a device made of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelfTest {
    /// Numbers that were compared.
    pub compared: usize,
    /// Those that were wrong: where, and what was expected and found, for the first few.
    pub wrong: Vec<String>,
    /// How many were wrong.
    pub wrong_count: usize,
}

impl SelfTest {
    /// Whether all is right.
    ///
    /// # Errors
    /// If one bit is not, or nothing was compared.
    pub fn result(&self) -> Result<()> {
        match self.wrong.first() {
            None if self.compared > 0 => Ok(()),
            None => Err(DeviceError::Failed("the self-test compared nothing".to_string())),
            Some(first) => Err(DeviceError::Failed(format!(
                "computes wrong numbers and can't be trusted: {} of {} numbers of the self-test, the first {first}",
                self.wrong_count, self.compared
            ))),
        }
    }

    pub(super) fn compare(&mut self, what: &str, found: &[u32], expected: &[u32]) {
        /// Examples that are kept.
        const EXAMPLES: usize = 8;
        self.compared += expected.len();
        if found.len() != expected.len() {
            self.wrong_count += expected.len();
            self.wrong.push(format!("{what}: {} numbers instead of {}", found.len(), expected.len()));
            return;
        }
        for (i, (found, expected)) in found.iter().zip(expected).enumerate().filter(|(_, (f, e))| f != e) {
            self.wrong_count += 1;
            if self.wrong.len() < EXAMPLES {
                self.wrong.push(format!("{what}[{i}]: {found:#010x} instead of {expected:#010x}"));
            }
        }
    }
}

/// Computes all golden vectors, and the models of `trial.rs`.
///
/// # Errors
/// If the device fails. Wrong bits are in the result.
pub fn run(device: &Device) -> Result<SelfTest> {
    let mut test = SelfTest::default();
    for (name, text, check) in FILES {
        let vectors =
            serde_json::from_str(text).map_err(|error| DeviceError::Failed(format!("{name}.json: {error}")))?;
        check(device, &vectors, &mut test)?;
    }
    trial::run(device, &mut test)?;
    Ok(test)
}

fn broken(field: &str) -> DeviceError {
    DeviceError::Failed(format!("golden vectors: no {field}"))
}

/// The 32-bit words of a field.
fn words(value: &Value, field: &str) -> Result<Vec<u32>> {
    let text = value[field].as_str().and_then(|text| text.strip_prefix("0x")).ok_or_else(|| broken(field))?;
    let digits = |i: usize| u32::from_str_radix(text.get(8 * i..8 * i + 8).unwrap_or_default(), 16);
    (0..text.len() / 8).map(|i| digits(i).map_err(|_| broken(field))).collect()
}

/// The bytes of a field.
fn bytes(value: &Value, field: &str) -> Result<Vec<u8>> {
    let text = value[field].as_str().and_then(|text| text.strip_prefix("0x")).ok_or_else(|| broken(field))?;
    let digits = |i: usize| u8::from_str_radix(text.get(2 * i..2 * i + 2).unwrap_or_default(), 16);
    (0..text.len() / 2).map(|i| digits(i).map_err(|_| broken(field))).collect()
}

fn cases<'a>(value: &'a Value, field: &str) -> Result<&'a [Value]> {
    value[field].as_array().map(Vec::as_slice).ok_or_else(|| broken(field))
}

fn name(case: &Value) -> &str {
    case["name"].as_str().unwrap_or("unnamed")
}

fn row_of(device: &Device, words: &[u32]) -> Result<Tensor> {
    device.float_bits((1, words.len()), words)
}

fn extent(x: &Tensor) -> Extent {
    Extent { shared: true, rows: x.rows, cols: x.cols }
}

fn scalars(device: &Device, vectors: &Value, test: &mut SelfTest) -> Result<()> {
    use BinaryFunction::{Add, Div, Maximum, Minimum, Mul, Sub};
    for (field, f) in
        [("add", Add), ("sub", Sub), ("mul", Mul), ("div", Div), ("maximum", Maximum), ("minimum", Minimum)]
    {
        let case = &vectors[field];
        let (a, b) = (row_of(device, &words(case, "a")?)?, row_of(device, &words(case, "b")?)?);
        let out = device.binary(f, 0, 1, extent(&a), ((&a, extent(&a)), (&b, extent(&b))))?;
        test.compare(field, &out.words()?, &words(case, "out")?);
    }
    let case = &vectors["fma"];
    let abc =
        [row_of(device, &words(case, "a")?)?, row_of(device, &words(case, "b")?)?, row_of(device, &words(case, "c")?)?];
    let operands = [(&abc[0], extent(&abc[0])), (&abc[1], extent(&abc[1])), (&abc[2], extent(&abc[2]))];
    let out = device.ternary(false, 1, extent(&abc[0]), operands)?;
    test.compare("fma", &out.words()?, &words(case, "out")?);
    Ok(())
}

fn functions(device: &Device, vectors: &Value, test: &mut SelfTest) -> Result<()> {
    use UnaryFunction::{Erf, Exp, GeluErf, GeluTanh, Log, Rsqrt, Sigmoid, Silu, Tanh};
    let all = [
        ("exp", Exp),
        ("log", Log),
        ("tanh", Tanh),
        ("sigmoid", Sigmoid),
        ("silu", Silu),
        ("erf", Erf),
        ("geluErf", GeluErf),
        ("geluTanh", GeluTanh),
        ("rsqrt", Rsqrt),
    ];
    for (field, f) in all {
        let case = &vectors[field];
        let out = device.unary(f, &row_of(device, &words(case, "a")?)?)?;
        test.compare(field, &out.words()?, &words(case, "out")?);
    }
    Ok(())
}

fn weight(shape: (usize, usize), dtype: WeightType, bytes: Vec<u8>) -> Result<WeightTensor> {
    let size = |n: usize| u32::try_from(n).map_err(|_| broken("weights"));
    WeightTensor::new("golden", (size(shape.0)?, size(shape.1)?), dtype, Arc::new(bytes))
        .map_err(|error| DeviceError::Failed(error.to_string()))
}

/// Rows that are computed together: enough for each kernel of a contraction of few rows.
const COMPANY: [usize; 5] = [1, 2, 4, 8, 40];
/// The same for the tiles of many rows, which a device would not choose for so few.
const CROWD: usize = 40;

fn contractions(device: &Device, vectors: &Value, test: &mut SelfTest) -> Result<()> {
    for case in cases(vectors, "cases")? {
        let x = words(case, "x")?;
        if x.is_empty() {
            continue; // nodes have at least one column
        }
        let stored = words(case, "w")?;
        let (dtype, bytes): (_, Vec<u8>) = match case["weights"].as_str() {
            Some("f16") => (WeightType::F16, stored.iter().flat_map(|w| (*w as u16).to_le_bytes()).collect()),
            Some("bf16") => (WeightType::Bf16, stored.iter().flat_map(|w| (*w as u16).to_le_bytes()).collect()),
            _ => (WeightType::F32, stored.iter().flat_map(|w| w.to_le_bytes()).collect()),
        };
        let packed = Packed::load(device, &weight((1, x.len()), dtype, bytes)?)?;
        for rows in COMPANY {
            let company = device.float_bits((rows, x.len()), &x.repeat(rows))?;
            let out = device.linear(&company, Layer::of(&packed))?;
            test.compare(name(case), &out.words()?, &words(case, "out")?.repeat(rows));
        }
        let crowd = device.float_bits((CROWD, x.len()), &x.repeat(CROWD))?;
        for tiles in all_tiles(device, dtype) {
            let out = device.linear_by(tiles, &crowd, Layer::of(&packed))?;
            test.compare(name(case), &out.words()?, &words(case, "out")?.repeat(CROWD));
        }
    }
    Ok(())
}

/// Every tile that the device has room for.
fn all_tiles(device: &Device, dtype: WeightType) -> impl Iterator<Item = Tiles> {
    let (larger, smallest) = tiles(dtype);
    larger.iter().copied().chain([smallest]).filter(|tiles| device.has_room_for(tiles))
}

fn quantised(device: &Device, vectors: &Value, test: &mut SelfTest) -> Result<()> {
    for case in cases(vectors, "cases")? {
        let x = words(case, "x")?;
        if x.is_empty() {
            continue;
        }
        let (dtype, group) = match case["format"].as_str() {
            Some("q8_0") => (WeightType::Q8_0, 32),
            _ => (WeightType::Q8_128, 128),
        };
        let packed = Packed::load(device, &weight((1, x.len()), dtype, bytes(case, "w")?)?)?;
        for rows in COMPANY {
            let company = device.float_bits((rows, x.len()), &x.repeat(rows))?;
            let quantised = device.quantised_groups(&company, group)?;
            let found: Vec<u32> = quantised.q.words()?;
            let expected: Vec<u32> = bytes(case, "xValues")?.into_iter().map(u32::from).collect();
            test.compare(name(case), &found, &expected.repeat(rows));
            let out = device.quantised_linear(&quantised, Layer::of(&packed))?;
            test.compare(name(case), &out.words()?, &words(case, "out")?.repeat(rows));
        }
        if x.len().is_multiple_of(TILE_COLUMNS) {
            let crowd = device.float_bits((CROWD, x.len()), &x.repeat(CROWD))?;
            let crowd = device.quantised_groups(&crowd, group)?;
            for tiles in all_tiles(device, dtype) {
                let out = device.quantised_linear_by(tiles, &crowd, Layer::of(&packed))?;
                test.compare(name(case), &out.words()?, &words(case, "out")?.repeat(CROWD));
            }
        }
    }
    Ok(())
}

fn reductions(device: &Device, vectors: &Value, test: &mut SelfTest) -> Result<()> {
    for case in cases(vectors, "cases")? {
        let x = row_of(device, &words(case, "x")?)?;
        if x.is_empty() {
            continue;
        }
        let all = [("sum", Reduction::Sum), ("sumSquares", Reduction::SumSquares), ("maximum", Reduction::Max)];
        for (field, reduction) in all {
            let out = device.reduce(reduction, 0, (&x, extent(&x)))?;
            test.compare(name(case), &out.words()?, &words(case, field)?);
        }
        let best = case["argmax"].as_u64().and_then(|best| u32::try_from(best).ok()).ok_or_else(|| broken("argmax"))?;
        test.compare(name(case), &device.argmax(&x)?.words()?, &[best]);
    }
    Ok(())
}

fn rows(device: &Device, vectors: &Value, test: &mut SelfTest) -> Result<()> {
    for case in cases(vectors, "cases")? {
        let x = row_of(device, &words(case, "x")?)?;
        if x.is_empty() {
            continue;
        }
        let (w, b) = (row_of(device, &words(case, "weight")?)?, row_of(device, &words(case, "bias")?)?);
        let epsilon = f32::from_bits(words(case, "epsilon")?.first().copied().unwrap_or(0));
        test.compare(name(case), &device.softmax(&x)?.words()?, &words(case, "softmax")?);
        test.compare(
            name(case),
            &device.norm(&x, Norm { weight: &w, bias: None, epsilon }, None)?.0.words()?,
            &words(case, "rmsNorm")?,
        );
        test.compare(
            name(case),
            &device.norm(&x, Norm { weight: &w, bias: Some(&b), epsilon }, None)?.0.words()?,
            &words(case, "layerNorm")?,
        );
    }
    Ok(())
}

fn sampling(device: &Device, vectors: &Value, test: &mut SelfTest) -> Result<()> {
    for case in cases(vectors, "tokens")? {
        let logits = row_of(device, &words(case, "logits")?)?;
        let one = |field: &str| words(case, field).map(|words| words.first().copied().unwrap_or(0));
        let seed = bytes(case, "seed")?;
        let number =
            |field: &str| case[field].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| broken(field));
        let s = |i: usize| seed.get(4 * i..4 * i + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let table = [one("temperature")?, one("minP")?, s(0), s(1), s(2), s(3), number("step")?, 0];
        let maximum = device.reduce(Reduction::Max, 0, (&logits, extent(&logits)))?;
        let scores = device.perturb(&logits, &maximum, &device.upload_words(table)?)?;
        if f32::from_bits(table[0]) > 0.0 {
            test.compare("scores", &scores.words()?, &words(case, "scores")?);
        }
        test.compare("token", &device.argmax(&scores)?.words()?, &[number("token")?]);
    }
    Ok(())
}

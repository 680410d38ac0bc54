//! The Solidity arithmetic (`contracts/src/verifier`) gives the bits of the reference, on random and adversarial operands, in a real EVM (revm).
//!
//! A plain run compares a sample. The whole comparison is the same test with more vectors:
//!
//!     CANDOR_VECTORS=5000000 cargo test --release -p candor-sdk --test float32_evm -- --nocapture
//!
//! Columns of operands go to the harness (`contracts/test/verifier/Float32Harness.sol`) in batches, one transaction each. The harness is compiled
//! first, by `contracts/tools/forge`: what is compared is what the sources say.

#[path = "common/generate.rs"]
#[allow(dead_code, reason = "shared with the golden vectors")]
mod generate;

use std::{fs, path::Path, process::Command, sync::Once, time::Instant};

use alloy_primitives::{Address, Bytes, U256, hex};
use alloy_sol_types::SolCall;
use candor_sdk::arithmetic::{
    contraction, functions,
    quantised::{self, Group, Quantised},
    reduction, scalar,
};
use generate::{Generator, SPECIALS};
use revm::{
    Context, ExecuteEvm, MainBuilder, MainContext,
    bytecode::Bytecode,
    context::TxEnv,
    database::{CacheDB, EmptyDB},
    primitives::{TxKind, hardfork::SpecId},
    state::AccountInfo,
};

mod columns {
    alloy_sol_types::sol! {
        function run(uint256 operation, bytes a, bytes b, bytes c) returns (bytes out);
    }
}

mod blocks {
    alloy_sol_types::sol! {
        function run(uint256 operation, bytes x, bytes w, bytes s) returns (uint256 out);
    }
}

/// Operands in a transaction.
const BATCH: usize = 4096;

/// How the operands of an operation are made.
type Operands = fn(&mut Generator) -> [u32; 3];
/// The reference, on bits.
type Reference = fn([u32; 3]) -> u32;

struct Operation {
    name: &'static str,
    /// Its number in the harness.
    number: u64,
    operands: Operands,
    reference: Reference,
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// One operand of every kind: any bits, special values, magnitudes near 1 and anywhere.
fn one(g: &mut Generator) -> u32 {
    match g.word() % 8 {
        0 => g.special().to_bits(),
        1 => g.near(30).to_bits(),
        2 => g.near(3).to_bits(),
        3 => g.word() & 0x80ff_ffff,          // subnormal and smallest normal
        4 => f(g.word()).to_bits() & !0xffff, // few bits: ties
        _ => g.word(),
    }
}

fn unary(g: &mut Generator) -> [u32; 3] {
    [one(g), 0, 0]
}

fn sum(g: &mut Generator) -> [u32; 3] {
    let (a, b) = match g.word() % 4 {
        0 => return [one(g), one(g), 0],
        1 => (g.near(110), g.near(110)),
        _ => g.hard_sum(),
    };
    [a.to_bits(), b.to_bits(), 0]
}

fn product(g: &mut Generator) -> [u32; 3] {
    let (a, b) = match g.word() % 4 {
        0 => return [one(g), one(g), 0],
        1 => (g.near(60), g.near(60)),
        _ => g.hard_product(),
    };
    [a.to_bits(), b.to_bits(), 0]
}

fn quotient(g: &mut Generator) -> [u32; 3] {
    match g.word() % 4 {
        0 => [one(g), one(g), 0],
        1 => [g.near(60).to_bits(), g.near(60).to_bits(), 0],
        _ => {
            let (a, b) = g.hard_quotient();
            [a.to_bits(), b.to_bits(), 0]
        }
    }
}

fn fused(g: &mut Generator) -> [u32; 3] {
    match g.word() % 5 {
        0 => [one(g), one(g), one(g)],
        1 => {
            // Products near the ends of the range, with an addend that decides.
            let (a, b) = g.hard_product();
            let c = if g.word().is_multiple_of(2) { one(g) } else { (a * b).to_bits() ^ (g.word() & 0x8000_0003) };
            [a.to_bits(), b.to_bits(), c]
        }
        2 => [g.near(100).to_bits(), g.near(100).to_bits(), g.near(120).to_bits()],
        _ => {
            let (a, b, c) = g.hard_fma();
            [a.to_bits(), b.to_bits(), c.to_bits()]
        }
    }
}

fn pair(g: &mut Generator) -> [u32; 3] {
    let a = one(g);
    let b = match g.word() % 4 {
        0 => a,
        1 => a ^ 1 << 31,
        2 => a ^ 1,
        _ => one(g),
    };
    [a, b, 0]
}

/// Numbers of the size of integers, with fractions of a half.
fn integral(g: &mut Generator) -> [u32; 3] {
    let x = match g.word() % 4 {
        0 => return unary(g),
        1 => ((g.word() % 4_000_000) as i32 - 2_000_000) as f32 / 2.0,
        2 => (g.word() as i32) as f32 * 1.25,
        _ => g.near(34),
    };
    [x.to_bits(), 0, 0]
}

fn word(g: &mut Generator) -> [u32; 3] {
    let shift = g.word() % 32;
    [(g.word() as i32 >> shift) as u32, 0, 0]
}

/// Arguments of the functions: where they are not constant, and every kind of number.
fn argument(g: &mut Generator) -> [u32; 3] {
    let x = match g.word() % 5 {
        0 => return unary(g),
        1 => g.moderate(1.5),
        2 => g.moderate(16.0),
        3 => g.moderate(125.0),
        _ => g.near(12),
    };
    [x.to_bits(), 0, 0]
}

fn relations(a: f32, b: f32) -> u32 {
    let bits = [a == b, a != b, a < b, a <= b, a > b, a >= b];
    bits.iter().enumerate().map(|(i, &set)| u32::from(set) << i).sum()
}

/// The numbers are those of the harness.
const OPERATIONS: [Operation; 26] = [
    Operation { name: "add", number: 0, operands: sum, reference: |[a, b, _]| scalar::add(f(a), f(b)).to_bits() },
    Operation { name: "sub", number: 1, operands: sum, reference: |[a, b, _]| scalar::sub(f(a), f(b)).to_bits() },
    Operation { name: "mul", number: 2, operands: product, reference: |[a, b, _]| scalar::mul(f(a), f(b)).to_bits() },
    Operation { name: "div", number: 3, operands: quotient, reference: |[a, b, _]| scalar::div(f(a), f(b)).to_bits() },
    Operation {
        name: "fma",
        number: 4,
        operands: fused,
        reference: |[a, b, c]| scalar::fma(f(a), f(b), f(c)).to_bits(),
    },
    Operation { name: "sqrt", number: 5, operands: unary, reference: |[a, ..]| scalar::sqrt(f(a)).to_bits() },
    Operation {
        name: "maximum",
        number: 6,
        operands: pair,
        reference: |[a, b, _]| scalar::maximum(f(a), f(b)).to_bits(),
    },
    Operation {
        name: "minimum",
        number: 7,
        operands: pair,
        reference: |[a, b, _]| scalar::minimum(f(a), f(b)).to_bits(),
    },
    Operation { name: "abs", number: 8, operands: unary, reference: |[a, ..]| scalar::abs(f(a)).to_bits() },
    Operation { name: "neg", number: 9, operands: unary, reference: |[a, ..]| scalar::neg(f(a)).to_bits() },
    Operation { name: "comparisons", number: 10, operands: pair, reference: |[a, b, _]| relations(f(a), f(b)) },
    Operation {
        name: "roundToI32",
        number: 11,
        operands: integral,
        reference: |[a, ..]| scalar::round_to_i32(f(a)) as u32,
    },
    Operation { name: "roundToU32", number: 12, operands: integral, reference: |[a, ..]| scalar::round_to_u32(f(a)) },
    Operation {
        name: "fromI32",
        number: 13,
        operands: word,
        reference: |[a, ..]| scalar::from_i32(a as i32).to_bits(),
    },
    Operation { name: "fromU32", number: 14, operands: word, reference: |[a, ..]| scalar::from_u32(a).to_bits() },
    Operation {
        name: "fromF16",
        number: 15,
        operands: word,
        reference: |[a, ..]| scalar::f16_to_f32(a as u16).to_bits(),
    },
    Operation {
        name: "fromBF16",
        number: 16,
        operands: word,
        reference: |[a, ..]| scalar::bf16_to_f32(a as u16).to_bits(),
    },
    Operation { name: "exp", number: 17, operands: argument, reference: |[a, ..]| functions::exp(f(a)).to_bits() },
    Operation { name: "log", number: 18, operands: argument, reference: |[a, ..]| functions::log(f(a)).to_bits() },
    Operation { name: "tanh", number: 19, operands: argument, reference: |[a, ..]| functions::tanh(f(a)).to_bits() },
    Operation {
        name: "sigmoid",
        number: 20,
        operands: argument,
        reference: |[a, ..]| functions::sigmoid(f(a)).to_bits(),
    },
    Operation { name: "silu", number: 21, operands: argument, reference: |[a, ..]| functions::silu(f(a)).to_bits() },
    Operation { name: "erf", number: 22, operands: argument, reference: |[a, ..]| functions::erf(f(a)).to_bits() },
    Operation {
        name: "geluErf",
        number: 23,
        operands: argument,
        reference: |[a, ..]| functions::gelu_erf(f(a)).to_bits(),
    },
    Operation {
        name: "geluTanh",
        number: 24,
        operands: argument,
        reference: |[a, ..]| functions::gelu_tanh(f(a)).to_bits(),
    },
    Operation { name: "rsqrt", number: 25, operands: argument, reference: |[a, ..]| functions::rsqrt(f(a)).to_bits() },
];

/// The deployed code of a contract of `contracts/test/verifier`, compiled from the sources as they are.
fn compiled(name: &str) -> Bytes {
    static BUILD: Once = Once::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    BUILD.call_once(|| {
        let build = Command::new(root.join("contracts/tools/forge"))
            .args(["build", "contracts/test/verifier/Float32Harness.sol", "contracts/test/verifier/Float32Blocks.sol"])
            .current_dir(&root)
            .output()
            .expect("contracts/tools/forge can be started");
        // Read as well, because the wrapper that npm installs around forge loses its exit status.
        let text = String::from_utf8_lossy(&[build.stdout, build.stderr].concat()).into_owned();
        let fresh = text.contains("Compiler run successful") || text.contains("No files changed");
        assert!(
            build.status.success() && fresh,
            "this test compares compiled contracts, and forge could not compile:\n{text}"
        );
    });
    let path = root.join(format!("out/{name}.sol/{name}.json"));
    let text = fs::read_to_string(&path).expect("forge has written the harness");
    let artifact: serde_json::Value = serde_json::from_str(&text).expect("an artifact is JSON");
    let code = artifact["deployedBytecode"]["object"].as_str().expect("an artifact has code");
    hex::decode(code).expect("code is hexadecimal").into()
}

/// Calls a contract of this code in a fresh state, as a transaction of its own, and returns what it returns.
fn call(code: &Bytes, data: Vec<u8>) -> Bytes {
    let address = Address::repeat_byte(0x11);
    let mut database = CacheDB::new(EmptyDB::default());
    database.insert_account_info(address, AccountInfo::default().with_code(Bytecode::new_raw(code.clone())));
    let mut evm = Context::mainnet()
        .with_db(database)
        .modify_cfg_chained(|cfg| {
            cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
            cfg.tx_gas_limit_cap = Some(u64::MAX); // batches are larger than transactions may be
        })
        .modify_block_chained(|block| block.gas_limit = u64::MAX)
        .build_mainnet();
    let transaction =
        TxEnv { kind: TxKind::Call(address), data: data.into(), gas_limit: u64::MAX / 2, ..Default::default() };
    let result = evm.transact(transaction).expect("the transaction is valid").result;
    assert!(result.is_success(), "the harness reverts: {result:?}");
    result.into_output().expect("the harness returns")
}

/// Sends one batch of operands to the harness.
fn run(code: &Bytes, operation: u64, columns: &[Vec<u32>; 3]) -> Vec<u32> {
    let bytes = |column: &Vec<u32>| Bytes::from(column.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>());
    let [a, b, c] = columns.each_ref().map(bytes);
    let output = call(code, columns::runCall { operation: U256::from(operation), a, b, c }.abi_encode());
    let out = columns::runCall::abi_decode_returns(&output).expect("the harness returns bytes");
    out.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]])).collect()
}

/// Compares one batch and returns how many vectors it had.
fn compare(code: &Bytes, operation: &Operation, vectors: &[[u32; 3]]) -> usize {
    let columns = [0, 1, 2].map(|i| vectors.iter().map(|v| v[i]).collect());
    let out = run(code, operation.number, &columns);
    assert_eq!(out.len(), vectors.len(), "{}: one result for each vector", operation.name);
    for (&v, &got) in vectors.iter().zip(&out) {
        let want = (operation.reference)(v);
        assert_eq!(got, want, "{}({:08x?}) is {got:08x} in the EVM, not {want:08x}", operation.name, v);
    }
    vectors.len()
}

/// How many vectors of single operations to compare.
fn wanted() -> usize {
    match std::env::var("CANDOR_VECTORS") {
        Ok(text) => text.parse().expect("CANDOR_VECTORS is a number"),
        Err(_) => 100_000,
    }
}

#[test]
fn operations_are_the_reference() {
    let wanted = wanted();
    let code = compiled("Float32Harness");
    let each = wanted.div_ceil(OPERATIONS.len());
    let mut total = 0;
    for operation in &OPERATIONS {
        let start = Instant::now();
        // Every special value with every other, then what the generator makes.
        let mut vectors = Vec::new();
        for a in SPECIALS {
            for b in SPECIALS {
                vectors.extend([[a, b, b], [a, b, a], [a, b, 0.0], [a, b, -1.0]].map(|v| v.map(f32::to_bits)));
            }
        }
        let mut g = Generator::new(0xca17d0 + operation.number);
        vectors.extend((vectors.len()..each).map(|_| (operation.operands)(&mut g)));
        let count: usize = vectors.chunks(BATCH).map(|batch| compare(&code, operation, batch)).sum();
        println!("{:12} {count:8} vectors, {:6.1} s", operation.name, start.elapsed().as_secs_f64());
        total += count;
    }
    println!("{total} vectors");
    assert!(total >= wanted, "compared {total} vectors, not {wanted}");
}

/// Leaves are little-endian.
fn leaf(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect()
}

fn leaf16(x: &[u16]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A row of one character: ordinary, with zeros, of widely different magnitudes, with every kind of number, or cancelling.
fn row(g: &mut Generator, n: usize) -> Vec<f32> {
    let kind = g.word() % 8;
    g.row(n, |g| match kind {
        0..=2 => g.moderate(2.0),
        3 => g.moderate(2.0).max(0.0),
        4 => g.near(90),
        5 if g.word().is_multiple_of(16) => g.special(),
        6 => (g.word() % 5) as f32 - 2.0,
        7 if g.word().is_multiple_of(64) => f(one(g)),
        _ => g.near(4),
    })
}

/// Factors whose running sum is at an edge: where the magnitude jumps by about 2^105 or 2^130, between subnormal and normal, near overflow, at zeros of
/// either sign.
fn hard_block(g: &mut Generator, n: usize) -> (Vec<f32>, Vec<f32>) {
    let kind = g.word() % 4;
    let jump = g.word() as usize % (n + 1);
    let (low, gap) = (20 + g.word() % 60, 70 + g.word() % 90);
    let x = (0..n).map(|k| {
        let fraction = g.word() & 0x807f_ffff;
        let exponent = match kind {
            0 if k < jump => low,
            0 => (low + gap).min(253),
            1 => g.word() % 4,
            2 => 253 - g.word() % 4,
            _ => [0, 20, 40][g.word() as usize % 3],
        };
        // In the last case half are zeros, and so are most products.
        let fraction = if kind == 3 && g.word().is_multiple_of(2) { fraction & 0x8000_0000 } else { fraction };
        f(exponent << 23 | fraction)
    });
    let x: Vec<f32> = x.collect();
    let w = match kind {
        2 => g.row(n, |g| g.near(2)),
        3 => x.iter().rev().copied().collect(),
        _ => g.row(n, |g| g.near(1)),
    };
    (x, w)
}

fn row16(g: &mut Generator, n: usize) -> Vec<u16> {
    let kind = g.word() % 4;
    (0..n).map(|_| if kind == 0 || g.word().is_multiple_of(256) { g.word() as u16 } else { g.moderate_f16() }).collect()
}

/// Lengths up to `longest`: the longest often, and what is just on either side of a whole word.
fn length(g: &mut Generator, longest: usize) -> usize {
    match g.word() % 4 {
        0 | 1 => longest,
        2 => (8 * (1 + g.word() as usize % (longest / 8)) + 1 - g.word() as usize % 3).min(longest),
        _ => g.word() as usize % (longest + 1),
    }
}

/// A chunk whose elements lie about the limits between which sums are fixed-point numbers: of either sign, cancelling, with zeros, subnormals, ties.
fn hard_chunk(g: &mut Generator, n: usize, limits: [u32; 2]) -> Vec<f32> {
    let [low, high] = limits;
    // Of most chunks no element is outside.
    let outside = g.word().is_multiple_of(4);
    let (kind, sign) = (g.word() % 6, if g.word().is_multiple_of(4) { 0 } else { 1 << 31 });
    let row = g.row(n, |g| {
        let exponent = match kind {
            0 => low,
            1 => high - g.word() % 3,
            2 => [low, high][g.word() as usize % 2],
            3 => low + g.word() % 26,
            4 => 127 + g.word() % 4,
            _ => low + g.word() % (high - low + 1),
        };
        let exponent = match g.word() % 512 {
            0 if outside => high + 1,
            1 if outside => low.saturating_sub(1),
            _ => exponent,
        };
        let fraction = match g.word() % 8 {
            0 => 0,
            1 => 1,
            2 => 0x7f_ffff,
            _ => g.word() & 0x7f_ffff,
        };
        let zero = kind % 2 == 1 && g.word().is_multiple_of(4);
        f(g.word() & sign | if zero { 0 } else { exponent << 23 | fraction })
    });
    // In some the second half takes back what the first adds, lane by lane.
    let half = if g.word().is_multiple_of(4) { n / 64 * 32 } else { 0 };
    (0..n).map(|k| if (half..2 * half).contains(&k) { -row[k - half] } else { row[k] }).collect()
}

/// One block or chunk: the number of the operation in the harness, its operands, and the result.
struct Block {
    operation: u64,
    operands: [Vec<u8>; 3],
    want: u32,
}

fn block(g: &mut Generator, operation: u64) -> Block {
    let n = length(g, if operation < 5 { contraction::BLOCK } else { reduction::CHUNK });
    let x = row(g, n);
    let bytes = |x: &[i8]| x.iter().map(|&x| x as u8).collect::<Vec<u8>>();
    let (operands, want) = match operation {
        0 => {
            let (x, w) = if g.word().is_multiple_of(2) {
                hard_block(g, n)
            } else {
                let mut w = row(g, n);
                if n > 1 && g.word().is_multiple_of(4) {
                    // The second half takes back what the first adds.
                    for k in n / 2..n {
                        w[k] = if x[k] == 0.0 { w[k] } else { -w[k - n / 2] * x[k - n / 2] / x[k] };
                    }
                }
                (x, w)
            };
            ([leaf(&x), leaf(&w), vec![]], contraction::partial(&x, &w).to_bits())
        }
        1 | 2 => {
            let w = row16(g, n);
            let widen = if operation == 1 { scalar::f16_to_f32 } else { scalar::bf16_to_f32 };
            let wide: Vec<f32> = w.iter().map(|&w| widen(w)).collect();
            ([leaf(&x), leaf16(&w), vec![]], contraction::partial(&x, &wide).to_bits())
        }
        3 => {
            let n = n / 32 * 32;
            let x = Quantised::quantise(&x[..n], Group::G32);
            let stored: Vec<u8> = (0..n / 32)
                .flat_map(|_| {
                    let scale = if g.word().is_multiple_of(32) { g.word() as u16 } else { g.moderate_f16() };
                    let values: Vec<u8> = (0..32).map(|_| g.word() as u8).collect();
                    scale.to_le_bytes().into_iter().chain(values)
                })
                .collect();
            let w = Quantised::from_q8_0(&stored, n).expect("whole blocks");
            let want = quantised::partial((x.values(), x.scales()), (w.values(), w.scales()), Group::G32);
            ([bytes(x.values()), stored, leaf(x.scales())], want.to_bits())
        }
        4 => {
            let x = Quantised::quantise(if n == 0 { &[1.0] } else { &x }, Group::G128);
            let scale = if g.word().is_multiple_of(16) { f(one(g)) } else { g.near(8) };
            let values: Vec<u8> =
                x.values().iter().map(|_| if n.is_multiple_of(3) { 0x80 } else { g.word() as u8 }).collect();
            let stored = [scale.to_le_bytes().to_vec(), values].concat();
            let w = Quantised::from_q8_128(&stored, x.values().len()).expect("one block");
            let want = quantised::partial((x.values(), x.scales()), (w.values(), w.scales()), Group::G128);
            ([bytes(x.values()), stored, leaf(x.scales())], want.to_bits())
        }
        5 => {
            let x = if g.word().is_multiple_of(2) { hard_chunk(g, n, [0, 191]) } else { x };
            ([leaf(&x), vec![], vec![]], reduction::chunk_sum(&x).to_bits())
        }
        6 => {
            let x = if g.word().is_multiple_of(2) { hard_chunk(g, n, [64, 159]) } else { x };
            ([leaf(&x), vec![], vec![]], reduction::chunk_sum_squares(&x).to_bits())
        }
        7 => ([leaf(&x), vec![], vec![]], reduction::maximum(&x).to_bits()),
        8 => {
            let x = if n == 0 { vec![f(one(g))] } else { x };
            ([leaf(&x), vec![], vec![]], reduction::argmax(&x).expect("not empty") as u32)
        }
        9 => ([leaf(&x), vec![], vec![]], contraction::accumulate(&x).to_bits()),
        _ => {
            let extreme = g.word().is_multiple_of(2);
            let mut byte = |_| if extreme { [0x80, 0x7f][g.word() as usize % 2] } else { g.word() as u8 };
            let x: Vec<u8> = (0..n).map(&mut byte).collect();
            let w: Vec<u8> = (0..n).map(&mut byte).collect();
            let sum: i32 = x.iter().zip(&w).map(|(&x, &w)| i32::from(x as i8) * i32::from(w as i8)).sum();
            ([x, w, vec![]], sum as u32)
        }
    };
    Block { operation, operands, want }
}

const BLOCKS: [&str; 11] = [
    "partialF32",
    "partialF16",
    "partialBF16",
    "partialQ80",
    "partialQ8128",
    "chunkSum",
    "chunkSumSquares",
    "chunkMaximum",
    "argmax",
    "accumulate",
    "dotI8",
];

#[test]
fn blocks_are_the_reference() {
    let code = compiled("Float32Blocks");
    let each = wanted() / 500;
    for (number, name) in BLOCKS.iter().enumerate() {
        let start = Instant::now();
        let mut g = Generator::new(0x1fb10c + number as u64);
        let mut elements = 0;
        for _ in 0..each {
            let Block { operation, operands, want } = block(&mut g, number as u64);
            elements += operands[0].len() / if (3..5).contains(&number) || number == 10 { 1 } else { 4 };
            let [x, w, s] = operands.each_ref().map(|operand| Bytes::from(operand.clone()));
            let output = call(&code, blocks::runCall { operation: U256::from(operation), x, w, s }.abi_encode());
            let out = blocks::runCall::abi_decode_returns(&output).expect("the harness returns a word");
            // Integers are signed words, everything else is below 2^32.
            let got = if number == 10 { out.wrapping_to::<u32>() } else { out.to::<u32>() };
            assert_eq!(got, want, "{name} is {got:08x} in the EVM, not {want:08x}; operands {operands:02x?}");
        }
        println!("{name:15} {each:7} blocks, {elements:9} elements, {:6.1} s", start.elapsed().as_secs_f64());
    }
}

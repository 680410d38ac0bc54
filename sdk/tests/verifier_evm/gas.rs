//! What a proof costs on a language model of eight billion parameters: 2048 nodes, 512 tensors, 1024 positions.
//!
//! Nothing of that size is made. Trees are as high as they would be, with made-up hashes where nothing is opened; descriptors and leaves are real ones.
//! The table of `docs/verifier.md` is the one that this prints.

use std::{collections::BTreeMap, fs, path::Path};

use alloy_primitives::{B256, keccak256};
use alloy_sol_types::SolValue;
use candor_sdk::{
    bindings::{Claim, Element, ModelDescriptor, NodeOpening, Params, Run},
    merkle::{ABSENT, Domain, counted, depth, hash, inner},
    program::{
        BinaryFunction, ConcatAxis, DType, Dim, EncodeKind, InputKind, LEAF, Node, Op, Operand, TensorDescriptor,
        UnaryFunction, View, ViewAxis, WeightType,
    },
    proof::format::{DataOpening, LeafOpening, OperandOpening, StepProof},
};

use crate::{
    chain::{Chain, Verdict},
    models::Numbers,
};

const NODES: u64 = 2048;
const TENSORS: u64 = 512;
const TOKENS: u32 = 1024;
const PROMPT: u32 = 900;
const WIDTH: u32 = 4096;
const HIDDEN: u32 = 14336;
const VOCABULARY: u32 = 128_256;
const DISPUTED: u32 = 1700;

/// A tree of which a few leaves are known.
struct Sparse {
    count: u64,
    known: BTreeMap<u64, B256>,
}

impl Sparse {
    fn new(count: u64, known: impl IntoIterator<Item = (u64, B256)>) -> Self {
        Self { count, known: known.into_iter().collect() }
    }

    fn node(&self, level: usize, index: u64) -> B256 {
        let leaves = index << level..(index + 1) << level;
        match self.known.range(leaves.clone()).next() {
            None if leaves.start >= self.count => ABSENT,
            None => keccak256([index.to_be_bytes(), (level as u64).to_be_bytes()].concat()),
            Some((_, &leaf)) if level == 0 => leaf,
            Some(_) => inner(&self.node(level - 1, 2 * index), &self.node(level - 1, 2 * index + 1)),
        }
    }

    fn root(&self) -> B256 {
        self.node(depth(self.count), 0)
    }

    /// The path of some leaves side by side.
    fn path(&self, first: u64, count: u64) -> Vec<B256> {
        let (mut left, mut right, mut path) = (first, first + count - 1, Vec::new());
        for level in 0..depth(self.count) {
            if left & 1 == 1 {
                path.push(self.node(level, left - 1));
            }
            if right & 1 == 0 {
                path.push(self.node(level, right + 1));
            }
            (left, right) = (left >> 1, right >> 1);
        }
        path
    }
}

/// An operand of a disputed node, and what a step reads of it.
struct Source {
    operand: Operand,
    rows: u32,
    cols: u32,
    /// How its elements are stored; of a node as of a weight.
    stored: WeightType,
    /// First leaf and number of leaves, for each read.
    reads: Vec<(u64, u64)>,
}

impl Source {
    fn new(operand: Operand, (rows, cols): (u32, u32), stored: WeightType) -> Self {
        Self { operand, rows, cols, stored, reads: Vec::new() }
    }

    /// Reads the leaves that hold some columns of a row.
    fn read(mut self, row: u32, first: u32, count: u32) -> Self {
        let in_row = u64::from(self.cols).div_ceil(LEAF as u64);
        let (from, to) = (first as usize / LEAF, (first + count) as usize);
        self.reads.push((u64::from(row) * in_row + from as u64, to.div_ceil(LEAF) as u64 - from as u64));
        self
    }

    fn leaves(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.cols).div_ceil(LEAF as u64)
    }

    /// The bytes of a leaf: ordinary numbers.
    fn leaf(&self, leaf: u64) -> Vec<u8> {
        let in_row = u64::from(self.cols).div_ceil(LEAF as u64);
        let count = LEAF.min(self.cols as usize - LEAF * (leaf % in_row) as usize);
        let mut n = Numbers::new(leaf + u64::from(self.cols));
        let float = |n: &mut Numbers| {
            let bits = n.next();
            f32::from_bits(((bits >> 40) as u32 & 0x807f_ffff) | (120 + (bits as u32 & 7)) << 23)
        };
        let mut bytes = Vec::new();
        while bytes.len() < self.stored.row_bytes(count) {
            match self.stored {
                WeightType::F32 => bytes.extend(float(&mut n).to_le_bytes()),
                WeightType::F16 => bytes.extend((0x3000 | n.next() as u16 & 0x8fff).to_le_bytes()),
                WeightType::Bf16 => bytes.extend(((float(&mut n).to_bits() >> 16) as u16).to_le_bytes()),
                WeightType::Q8_0 if bytes.len().is_multiple_of(34) => bytes.extend([0x34, 0x20]),
                WeightType::Q8_128 if bytes.is_empty() => bytes.extend(0.01f32.to_le_bytes()),
                WeightType::Q8_0 | WeightType::Q8_128 | WeightType::U8 => bytes.push(n.next() as u8),
                // Ids, and ends of tokens of one byte.
                WeightType::U32 => bytes.extend((leaf as u32 % 100 + 27).to_le_bytes()),
            }
        }
        bytes
    }

    /// The tree over its leaves, with those that are read.
    fn tree(&self) -> Sparse {
        let domain = if matches!(self.operand, Operand::Node(_)) { Domain::TraceLeaf } else { Domain::WeightLeaf };
        let known = self.reads.iter().flat_map(|&(first, count)| first..first + count);
        Sparse::new(self.leaves(), known.map(|leaf| (leaf, hash(domain, &[&self.leaf(leaf)]))))
    }
}

/// A question to the verifier.
struct Case {
    /// Which node it is, and what.
    index: u32,
    node: Node,
    row: u32,
    col: u32,
    sources: Vec<Source>,
    /// Which source each read is of; in order, the first unread read of it.
    order: Vec<usize>,
    data: DataOpening,
    hint: u64,
    ask: Ask,
}

#[derive(Clone, Copy)]
enum Ask {
    Element,
    Partial(u32),
    Sum(u32),
}

fn node(op: Op, sources: &[Source], dtype: DType, (rows, cols): (u32, u32)) -> Node {
    let inputs = sources.iter().map(|source| source.operand).collect();
    Node { op, inputs, dtype, rows: rows.into(), cols: cols.into(), label: String::new() }
}

/// An element whose step reads each source once, in order.
fn case(op: Op, sources: Vec<Source>, dtype: DType, shape: (u32, u32), (row, col): (u32, u32), ask: Ask) -> Case {
    let order = (0..sources.len()).flat_map(|i| vec![i; sources[i].reads.len()]).collect();
    let node = node(op, &sources, dtype, shape);
    Case { index: DISPUTED, node, row, col, sources, order, data: DataOpening::default(), hint: 0, ask }
}

/// The run and the proof of a case.
fn build(case: &Case) -> (Run, Vec<u8>) {
    // Nodes of the operands, of which nothing matters but type and shape.
    let plain = |source: &Source| {
        let dtype = match source.stored {
            WeightType::U32 => DType::U32,
            WeightType::U8 if matches!(case.node.op, Op::QuantLinear) => DType::I8,
            WeightType::U8 => DType::U8,
            _ => DType::F32,
        };
        Node {
            op: Op::Convert,
            inputs: vec![],
            dtype,
            rows: source.rows.into(),
            cols: source.cols.into(),
            label: String::new(),
        }
        .encode()
    };
    let mut program = BTreeMap::from([(u64::from(case.index), case.node.encode())]);
    let mut trace = BTreeMap::new();
    let mut weights = BTreeMap::new();
    for source in &case.sources {
        match source.operand {
            Operand::Node(index) => {
                program.entry(index.into()).or_insert_with(|| plain(source));
                trace.insert(u64::from(index), source.tree().root());
            }
            Operand::Weight(index) => {
                let (rows, cols, dtype) = (source.rows, source.cols, source.stored as u8);
                weights.insert(u64::from(index), TensorDescriptor { rows, cols, dtype, root: source.tree().root() });
            }
            Operand::Constant(_) => {}
        }
    }
    let nodes = Sparse::new(NODES, program.iter().map(|(&index, bytes)| (index, hash(Domain::Node, &[bytes]))));
    let claimed = Sparse::new(NODES, trace);
    let tensors = Sparse::new(TENSORS, weights.iter().map(|(&index, tensor)| (index, tensor.hash())));
    let entry = 77; // the token in row 50
    let vocabulary = Sparse::new(VOCABULARY.into(), [(entry, hash(Domain::Token, &[&case.data.data]))]);

    let operands = case.sources.iter().map(|source| match source.operand {
        Operand::Node(index) => OperandOpening {
            descriptor: program[&index.into()].clone().into(),
            path: nodes.path(index.into(), 1),
            count: 0,
        },
        Operand::Weight(index) => OperandOpening {
            descriptor: weights[&index.into()].encode().into(),
            path: tensors.path(index.into(), 1),
            count: TENSORS,
        },
        Operand::Constant(_) => OperandOpening::default(),
    });
    let mut next = vec![0; case.sources.len()];
    let reads = case.order.iter().map(|&i| {
        // The entry of the vocabulary has a place among the reads, and nothing in it.
        let Some(source) = case.sources.get(i) else { return LeafOpening::default() };
        let (first, count) = source.reads[next[i]];
        next[i] += 1;
        let mut path = source.tree().path(first, count);
        if let Operand::Node(index) = source.operand {
            path.extend(claimed.path(index.into(), 1));
        }
        LeafOpening { data: (first..first + count).flat_map(|leaf| source.leaf(leaf)).collect(), path }
    });
    let reads = reads.collect();
    // The node itself is not an operand that the descriptor names.
    let operands: Vec<OperandOpening> = operands.take(case.node.inputs.len()).collect();
    let data = match &case.data.count {
        0 => case.data.clone(),
        _ => DataOpening { path: vocabulary.path(entry, 1), count: VOCABULARY.into(), ..case.data.clone() },
    };
    let opening = NodeOpening { descriptor: case.node.encode().into(), path: nodes.path(case.index.into(), 1) };
    let run = Run {
        model: ModelDescriptor {
            arithmeticVersion: alloy_primitives::U256::from(1),
            graphRoot: counted(NODES, &nodes.root()),
            weightsRoot: counted(TENSORS, &tensors.root()),
            vocabRoot: counted(VOCABULARY.into(), &vocabulary.root()),
            limits: candor_sdk::bindings::Limits {
                minInputBytes: 4,
                maxInputBytes: 1 << 15,
                maxOutputBytes: 1 << 15,
                maxTokens: 1 << 12,
            },
        },
        inputHash: keccak256(&case.data.data),
        seed: B256::repeat_byte(0x5e),
        params: Params { maxTokens: 500, temperature: 0.75f32.to_bits(), minP: 0.0625f32.to_bits() },
        claim: Claim {
            sequence: TOKENS,
            prompt: PROMPT,
            inputBytes: 4 * PROMPT,
            outputBytes: 900,
            nodes: NODES as u32,
            root: claimed.root(),
            tokensHash: keccak256([]),
        },
    };
    let proof = StepProof { node: opening, operands, reads, data, hint: case.hint };
    (run, proof.abi_encode())
}

const F32: WeightType = WeightType::F32;
const ONE: f32 = 1.0;

fn activations(node: u32, rows: u32, cols: u32) -> Source {
    Source::new(Operand::Node(node), (rows, cols), F32)
}

fn weights(index: u32, rows: u32, cols: u32, stored: WeightType) -> Source {
    Source::new(Operand::Weight(index), (rows, cols), stored)
}

/// One block of a linear layer.
fn linear(stored: WeightType) -> Case {
    let x = activations(1699, TOKENS, WIDTH).read(1000, 1280, 128);
    let w = weights(77, HIDDEN, WIDTH, stored).read(9000, 1280, 128);
    case(Op::Linear, vec![x, w], DType::F32, (TOKENS, HIDDEN), (1000, 9000), Ask::Partial(10))
}

fn quant_linear(stored: WeightType) -> Case {
    let block = stored.block().expect("quantised") as u32;
    let q = Source::new(Operand::Node(1699), (TOKENS, WIDTH), WeightType::U8).read(1000, 1280, 128);
    let m = activations(1698, TOKENS, WIDTH / block).read(1000, 1280 / block, 128 / block);
    let w = weights(77, HIDDEN, WIDTH, stored).read(9000, 1280, 128);
    let mut case = case(Op::QuantLinear, vec![q, m, w], DType::F32, (TOKENS, HIDDEN), (1000, 9000), Ask::Partial(10));
    case.order = vec![0, 2, 1];
    case
}

fn chunk(op: Op) -> Case {
    let x = activations(1699, TOKENS, WIDTH).read(1000, 1024, 1024);
    case(op, vec![x], DType::F32, (TOKENS, 1), (1000, 0), Ask::Partial(1))
}

fn unary(function: UnaryFunction) -> Case {
    let x = activations(1699, TOKENS, HIDDEN).read(1000, 9000, 1);
    case(Op::Unary(function), vec![x], DType::F32, (TOKENS, HIDDEN), (1000, 9000), Ask::Element)
}

fn binary(function: BinaryFunction, y: Source) -> Case {
    let x = activations(1699, TOKENS, WIDTH).read(1000, 1300, 1);
    let op = Op::Binary { function, causal: 0 };
    case(op, vec![x, y], DType::F32, (TOKENS, WIDTH), (1000, 1300), Ask::Element)
}

fn column(node: u32, row: u32) -> Source {
    Source::new(Operand::Node(node), (TOKENS - PROMPT, 1), WeightType::U32).read(row, 0, 1)
}

fn view() -> Case {
    // Values transposed, as attention reads them.
    let x = activations(1699, TOKENS, 1024).read(1000, 700, 1);
    let axis = |size: u32, steps: [i32; 2], row: u32, col: u32| ViewAxis {
        size: size.into(),
        offset: Dim::ZERO,
        steps: steps.to_vec(),
        row_weight: row.into(),
        col_weight: col.into(),
    };
    let axes = vec![axis(TOKENS, [0, 1], 1, 0), axis(1024, [1, 0], 0, 1)];
    let map = View { row_digits: vec![1024.into()], col_digits: vec![TOKENS.into()], axes, fill: 0 };
    case(Op::View(map), vec![x], DType::F32, (1024, TOKENS), (700, 1000), Ask::Element)
}

fn text(op: Op, sources: Vec<Source>, order: Vec<usize>, dtype: DType, cols: Dim, at: (u32, u32)) -> Case {
    let inputs = sources.iter().map(|source| source.operand).collect();
    let rows = if dtype == DType::U8 { 1 } else { TOKENS - PROMPT };
    let node = Node { op, inputs, dtype, rows: rows.into(), cols, label: String::new() };
    let data = DataOpening { data: b" expects".to_vec().into(), path: vec![], count: 1 };
    Case { index: DISPUTED, node, row: at.0, col: at.1, sources, order, data, hint: 50, ask: Ask::Element }
}

fn cases() -> Vec<(&'static str, Case)> {
    let scores = Op::AttentionScores { heads: 32, group: 4, scale: 0.0884f32.to_bits(), causal: true };
    let mix = Op::AttentionMix { heads: 32, group: 4, causal: true };
    let tokens = Source::new(Operand::Node(0), (TOKENS, 1), WeightType::U32);
    let mut gather = case(
        Op::Gather,
        vec![
            Source::new(Operand::Node(0), (TOKENS, 1), WeightType::U32).read(1000, 0, 1),
            weights(3, VOCABULARY, WIDTH, F32).read(27, 1300, 1),
        ],
        DType::F32,
        (TOKENS, WIDTH),
        (1000, 1300),
        Ask::Element,
    );
    gather.node.rows = Dim::S;
    let rope = Case {
        order: vec![0, 0, 1, 2],
        ..case(
            Op::Rope { head_dim: 128, rotary: 128 },
            vec![
                activations(1699, TOKENS, WIDTH).read(1000, 1290, 1).read(1000, 1354, 1),
                weights(1, 8192, 64, F32).read(1000, 10, 1),
                weights(2, 8192, 64, F32).read(1000, 10, 1),
            ],
            DType::F32,
            (TOKENS, WIDTH),
            (1000, 1290),
            Ask::Element,
        )
    };
    let generated = TOKENS - PROMPT;
    let logits = || activations(1699, generated, VOCABULARY);
    let argmax = Case {
        hint: 60_000,
        ..case(
            Op::Argmax,
            vec![logits().read(100, 77, 1).read(100, 60_000, 1)],
            DType::U32,
            (generated, 1),
            (100, 0),
            Ask::Element,
        )
    };
    let perturb = case(
        Op::Perturb,
        vec![logits().read(100, 77, 1), activations(1698, generated, 1).read(100, 0, 1)],
        DType::F32,
        (generated, VOCABULARY),
        (100, 77),
        Ask::Element,
    );
    let check = case(
        Op::CheckGenerated { stop: vec![128_001, 128_009] },
        vec![tokens.read(PROMPT + 100, 0, 1), column(1699, 100)],
        DType::U32,
        (generated, 1),
        (100, 0),
        Ask::Element,
    );
    let length = case(Op::CheckLength, vec![column(1699, generated - 1)], DType::U32, (1, 1), (0, 0), Ask::Element);
    let own = |row: u32| Source { operand: Operand::Node(DISPUTED), ..column(DISPUTED, row) };
    let mut prefix =
        case(Op::PrefixSum, vec![column(1699, 50), own(49)], DType::U32, (generated, 1), (50, 0), Ask::Element);
    prefix.node.inputs.truncate(1);
    let concat = {
        let mut parts: Vec<Source> = (0..16).map(|i| activations(1600 + i, TOKENS, 256)).collect();
        parts.push(activations(1615, TOKENS, 256).read(1000, 100, 1));
        parts.remove(15);
        case(Op::Concat { axis: ConcatAxis::Cols }, parts, DType::F32, (TOKENS, WIDTH), (1000, 3940), Ask::Element)
    };
    let encode = Source::new(Operand::Node(1699), (generated, 1), WeightType::U32).read(100, 0, 1);
    let convert = Source::new(Operand::Node(1699), (1, 150_528), WeightType::U8).read(0, 1300, 1);
    let mut input = case(
        Op::Input { kind: InputKind::Tokens, bound: VOCABULARY },
        vec![],
        DType::U32,
        (TOKENS, 1),
        (500, 0),
        Ask::Element,
    );
    (input.index, input.node.rows) = (0, Dim::S);
    input.data.data = [0, 0, 1, 7].repeat(PROMPT as usize).into();
    let take = case(
        Op::Take,
        vec![
            activations(1699, TOKENS, WIDTH).read(1000, 77, 1),
            weights(9, 1, WIDTH, WeightType::U32).read(0, 1300, 1),
        ],
        DType::F32,
        (TOKENS, WIDTH),
        (1000, 1300),
        Ask::Element,
    );
    let take = Case { order: vec![1, 0], ..take };
    let block = activations(1699, TOKENS, WIDTH).read(1000, 1280, 128);
    vec![
        ("Linear, one block, f32 weights", linear(F32)),
        ("Linear, one block, f16 weights", linear(WeightType::F16)),
        ("Linear, one block, bf16 weights", linear(WeightType::Bf16)),
        ("Linear, sum of 112 partials", {
            let (x, w) = (activations(1699, TOKENS, HIDDEN), weights(77, WIDTH, HIDDEN, F32));
            case(Op::Linear, vec![x, w], DType::F32, (TOKENS, WIDTH), (1000, 1300), Ask::Sum(112))
        }),
        ("QuantLinear, one block, q8_0", quant_linear(WeightType::Q8_0)),
        ("QuantLinear, one block, q8_128", quant_linear(WeightType::Q8_128)),
        (
            "BlockAbsMax of 128",
            case(Op::BlockAbsMax { block: 128 }, vec![block], DType::F32, (TOKENS, 32), (1000, 10), Ask::Element),
        ),
        ("Quantise", {
            let x = activations(1699, TOKENS, WIDTH).read(1000, 1300, 1);
            let m = activations(1698, TOKENS, 32).read(1000, 10, 1);
            case(Op::Quantise { block: 128 }, vec![x, m], DType::I8, (TOKENS, WIDTH), (1000, 1300), Ask::Element)
        }),
        ("AttentionScores, head of 128", {
            let x = activations(1699, TOKENS, WIDTH).read(1000, 2560, 128);
            let y = activations(1698, TOKENS, 1024).read(900, 640, 128);
            case(scores, vec![x, y], DType::F32, (32 * TOKENS, TOKENS), (32_020, 900), Ask::Element)
        }),
        ("AttentionMix, one block", {
            let x = activations(1699, 32 * TOKENS, TOKENS).read(32_020, 256, 128);
            let y = activations(1698, 1024, TOKENS).read(650, 256, 128);
            case(mix, vec![x, y], DType::F32, (TOKENS, WIDTH), (1000, 2570), Ask::Partial(2))
        }),
        ("RowSum, one chunk", chunk(Op::RowSum { causal: 0 })),
        ("RowSumSquares, one chunk", chunk(Op::RowSumSquares)),
        ("RowMax, one chunk", chunk(Op::RowMax { causal: 0 })),
        ("Argmax", argmax),
        ("Unary, silu", unary(UnaryFunction::Silu)),
        ("Unary, gelu by erf", unary(UnaryFunction::GeluErf)),
        ("Unary, sqrt", unary(UnaryFunction::Sqrt)),
        ("Binary, mul by a row of weights", binary(BinaryFunction::Mul, weights(5, 1, WIDTH, F32).read(0, 1300, 1))),
        ("Binary, add", binary(BinaryFunction::Add, activations(1650, TOKENS, WIDTH).read(1000, 1300, 1))),
        ("Binary, exp of a difference", binary(BinaryFunction::ExpSub, activations(1650, TOKENS, 1).read(1000, 0, 1))),
        ("Convert", case(Op::Convert, vec![convert], DType::F32, (1, 150_528), (0, 1300), Ask::Element)),
        ("MulAdd", {
            let [x, y, z] = [1699, 1698, 1697].map(|node| activations(node, TOKENS, WIDTH).read(1000, 1300, 1));
            case(Op::MulAdd, vec![x, y, z], DType::F32, (TOKENS, WIDTH), (1000, 1300), Ask::Element)
        }),
        ("Rope", rope),
        ("View", view()),
        ("Concat of 16", concat),
        ("Gather", gather),
        ("Take", take),
        ("Perturb", perturb),
        ("CheckGenerated", check),
        ("CheckLength", length),
        ("TokenLength", { text(Op::TokenLength, vec![column(1699, 50)], vec![0], DType::U32, Dim::ONE, (50, 0)) }),
        ("PrefixSum", prefix),
        ("Detokenise", {
            let ends = column(1699, 50).read(49, 0, 1);
            let ids = column(1698, 50);
            text(Op::Detokenise, vec![ids, ends], vec![1, 0, 2, 1], DType::U8, Dim::O, (0, 76))
        }),
        (
            "Encode",
            case(Op::Encode(EncodeKind::U32Be), vec![encode], DType::U8, (1, 4 * generated), (0, 403), Ask::Element),
        ),
        ("Input, 900 token ids", input),
    ]
}

#[test]
fn gas_of_every_family_on_a_model_of_eight_billion_parameters() {
    let mut chain = Chain::new();
    let mut rows = Vec::new();
    for (name, case) in cases() {
        let (run, proof) = build(&case);
        let cols = case.node.cols.value(&symbols()) as u32;
        let leaf = u64::from(case.row) * u64::from(cols).div_ceil(LEAF as u64) + u64::from(case.col) / LEAF as u64;
        let element = Element { node: case.index, leaf, index: case.col % LEAF as u32 };
        let width = LEAF.min(cols as usize - LEAF * (case.col as usize / LEAF)) * case.node.dtype.size();
        let claimed = vec![0; width];
        let partials = |count: u32| (0..count).map(|i| (ONE + i as f32 / 64.0).to_bits()).collect::<Vec<u32>>();
        let verdict = match case.ask {
            Ask::Element => chain.element(&run, element, &claimed, &proof),
            Ask::Partial(part) => {
                let count = chain.partials_of(&run, element, &proof).expect(name);
                chain.partial(&run, element, &partials(count), part, &proof)
            }
            Ask::Sum(count) => chain.sum(&run, element, &claimed, &partials(count), &proof),
        };
        assert_eq!(verdict, Verdict::Wrong, "{name}");
        rows.push((name, chain.gas, proof.len()));
    }
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verifier.md");
    let document = fs::read_to_string(document).expect("the page of the verifier");
    let mut missing = Vec::new();
    for (name, gas, bytes) in rows {
        assert!(gas < 1_000_000, "{name}: {gas}");
        let row = format!("| {name} | {gas} | {bytes} |");
        println!("{row}");
        if !document.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "docs/verifier.md lacks:\n{}", missing.join("\n"));
}

fn symbols() -> candor_sdk::program::Symbols {
    candor_sdk::program::Symbols { sequence: TOKENS, prompt: PROMPT, input_bytes: 4 * PROMPT, output_bytes: 900 }
}

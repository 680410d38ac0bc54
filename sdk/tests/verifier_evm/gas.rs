//! What a proof costs on a language model of eight billion parameters: 2048 nodes, 512 tensors, 1024 positions.
//!
//! Nothing of that size is made, see `giants.rs`. The table of `docs/verifier.md` is the one that this prints.

use std::{fs, path::Path};

use candor_sdk::{
    bindings::Element,
    program::{
        BinaryFunction, ConcatAxis, DType, Dim, EncodeKind, InputKind, LEAF, Node, Op, Operand, UnaryFunction, View,
        ViewAxis, WeightType,
    },
    proof::format::DataOpening,
};

use crate::{
    chain::{Chain, Verdict},
    giants::{Ask, Case, F32, Giant, Source, activations, build, weights},
};

const TOKENS: u32 = 1024;
const PROMPT: u32 = 900;
const WIDTH: u32 = 4096;
const HIDDEN: u32 = 14336;
const VOCABULARY: u32 = 128_256;
const DISPUTED: u32 = 1700;
const MODEL: Giant = Giant { nodes: 2048, tensors: 512, vocabulary: VOCABULARY, tokens: TOKENS, prompt: PROMPT };
const ONE: f32 = 1.0;

/// An element whose step reads each source once, in order.
fn case(op: Op, sources: Vec<Source>, dtype: DType, shape: (u32, u32), at: (u32, u32), ask: Ask) -> Case {
    Case::new(DISPUTED, op, sources, dtype, shape, at, ask)
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
        let (run, proof) = build(&MODEL, &case, None).asked();
        let cols = case.node.cols.value(&MODEL.symbols()) as u32;
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

//! Whole disputes with the real game and the real verifier, about models up to sizes that nobody would make for a test: what they cost.
//!
//! Of a model there are the descriptors, leaves and paths that the dispute opens (`giants.rs`). The table of docs/gas.md is the one that this prints.

use crate::{
    evm::{Evm, Key, Result},
    giants::{Ask, Built, Case, Giant, Sparse, activations, build, weights},
};
use alloy_primitives::{B256, Bytes, U256, keccak256};
use alloy_sol_types::SolValue;
use candor_sdk::{
    bindings::{Fault, IDisputeGame, NodeOpening, Outcome, Params, Refutation, Turn},
    dispute::{Accusation, Move, Place, levels_of},
    merkle::depth,
    program::{DType, LEAF, Op, WeightType},
    proof::format::{DataOpening, StepProof},
};
use std::path::Path;

/// Targets: an operator's moves, gas of both sides, gas of one transaction.
const MOST_MOVES: usize = 8;
const MOST_GAS: u64 = 2_000_000;
const MOST_GAS_OF_ONE: u64 = 3_000_000;
/// How many perceptrons the dearest dispute may cost: the same order.
const SAME_ORDER: u64 = 4;

/// A model, and what is disputed of it.
struct Subject {
    name: &'static str,
    size: Giant,
    disputes: Vec<(&'static str, Case)>,
}

/// Models that there are, the embedded perceptron first; as large as they are.
fn small() -> Vec<Subject> {
    let layer = |node: u32, (rows, cols): (u32, u32), width: u32, at: (u32, u32), ask, stored| {
        let from = if let Ask::Partial(part) = ask { LEAF as u32 * part } else { 0 };
        let count = (width - from).min(LEAF as u32);
        let x = activations(node - 1, rows, width).read(at.0, from, count);
        let w = weights(2, cols, width, stored).read(at.1, from, count);
        Case::new(node, Op::Linear, vec![x, w], DType::F32, (rows, cols), at, ask)
    };
    let of = |name, [nodes, tensors]: [u64; 2], vocabulary, [prompt, tokens]: [u32; 2], what, case| Subject {
        name,
        size: Giant { nodes, tensors, vocabulary, tokens, prompt },
        disputes: vec![(what, case)],
    };
    let perceptron = layer(7, (1, 16), 32, (0, 5), Ask::Element, WeightType::F32);
    let convolution = layer(4, (576, 8), 25, (190, 5), Ask::Element, WeightType::F32);
    let forward = layer(150, (128, 1536), 384, (40, 700), Ask::Partial(2), WeightType::F32);
    let logits = layer(1000, (256, 49_152), 576, (240, 20_000), Ask::Partial(3), WeightType::Bf16);
    // Inputs of 80 and 784 bytes; token ids.
    vec![
        of("credit", [12, 4], 1, [20, 20], "a linear layer", perceptron),
        of("digits", [25, 8], 1, [196, 196], "a convolution", convolution),
        of("MiniLM", [236, 101], 30_522, [128, 128], "a feed-forward layer", forward),
        of("SmolLM2-135M", [1009, 275], 49_152, [200, 256], "a block of the logits", logits),
    ]
}

/// A Llama of 32 heads that share 8 of keys and values, at 1,024 positions: 19 nodes and 33 a layer, as the importers of this repository make them.
fn llama(name: &'static str, layers: u64, width: u32) -> Subject {
    let (tokens, prompt, vocabulary, heads) = (1024, 900, 128_256, 32);
    let size = Giant { nodes: 19 + 33 * layers, tensors: 6 + 9 * layers, vocabulary, tokens, prompt };
    let (last, generated, head) = (size.nodes as u32 - 9, tokens - prompt, width / heads);
    // Position 1,000, head 20, which reads the keys and values of head 5.
    let (position, of_head) = (1000, 1000 * heads + 20);
    let f32_node = |index, op, sources, shape, at, ask| Case::new(index, op, sources, DType::F32, shape, at, ask);

    // Of every position: the most that there can be.
    let logits = {
        let x = activations(last - 1, tokens, width).read(position, 1280, 128);
        let w = weights(3, vocabulary, width, WeightType::Bf16).read(90_000, 1280, 128);
        f32_node(last, Op::Linear, vec![x, w], (tokens, vocabulary), (position, 90_000), Ask::Partial(10))
    };
    let norm = {
        let x = activations(last - 8, tokens, width).read(position, 1024, 1024);
        f32_node(last - 7, Op::RowSumSquares, vec![x], (tokens, 1), (position, 0), Ask::Partial(1))
    };
    let scores = {
        let x = activations(last - 32, tokens, width).read(position, 20 * head, head);
        let y = activations(last - 31, tokens, 8 * head).read(900, 5 * head, head);
        let op = Op::AttentionScores { heads, group: 4, scale: 0.125f32.to_bits(), causal: true };
        f32_node(last - 30, op, vec![x, y], (heads * tokens, tokens), (of_head, 900), Ask::Element)
    };
    let softmax = {
        let row = heads * tokens - 1;
        let x = activations(last - 29, heads * tokens, tokens).read(row, 0, tokens);
        let op = Op::RowSum { causal: heads };
        f32_node(last - 28, op, vec![x], (heads * tokens, 1), (row, 0), Ask::Element)
    };
    let mix = {
        let x = activations(last - 27, heads * tokens, tokens).read(of_head, 256, 128);
        let y = activations(last - 26, 8 * head, tokens).read(5 * head + 10, 256, 128);
        let op = Op::AttentionMix { heads, group: 4, causal: true };
        f32_node(last - 25, op, vec![x, y], (tokens, width), (position, 20 * head + 10), Ask::Partial(2))
    };
    let sampling = {
        let x = activations(last, generated, vocabulary).read(100, 77, 1);
        let y = activations(last + 1, generated, 1).read(100, 0, 1);
        f32_node(last + 2, Op::Perturb, vec![x, y], (generated, vocabulary), (100, 77), Ask::Element)
    };
    let disputes = vec![
        ("a block of the logits", logits),
        ("a chunk of a norm's sum of squares", norm),
        ("an attention score", scores),
        ("the sum of a row of 1,024 attention weights", softmax),
        ("a block of what attention mixes", mix),
        ("a logit made ready for sampling", sampling),
    ];
    Subject { name, size, disputes }
}

/// What a side's transactions cost.
#[derive(Debug, Default)]
struct Bill {
    moves: [usize; 2],
    gas: [u64; 2],
    largest: u64,
    each: Vec<(&'static str, u64)>,
}

impl Bill {
    fn add(&mut self, operator: bool, what: &'static str, gas: u64) {
        let side = usize::from(!operator);
        self.moves[side] += 1;
        self.gas[side] += gas;
        self.largest = self.largest.max(gas);
        self.each.push((what, gas));
    }
}

/// The siblings of a node of a tree on the way up to a height.
fn path(tree: &Sparse, level: usize, number: u64, height: usize) -> Vec<B256> {
    (level..height).map(|at| tree.node(at, (number >> (at - level)) ^ 1)).collect()
}

/// What the operator shows below a node of a tree.
fn descendants(tree: &Sparse, count: u64, height: usize, index: u64) -> Vec<B256> {
    let down = levels_of(height);
    let there = count.div_ceil(1 << (height - down));
    (index << down..((index + 1) << down).min(there)).map(|number| tree.node(height - down, number)).collect()
}

fn play(giant: &Giant, case: &Case) -> Result<Bill> {
    let symbols = giant.symbols();
    let cols = case.node.cols.value(&symbols) as u64;
    let leaf = u64::from(case.row) * cols.div_ceil(LEAF as u64) + u64::from(case.col) / LEAF as u64;
    let place = Place { node: case.index, leaf, element: case.col % LEAF as u32 };
    let shown = activations(case.index, case.node.rows.value(&symbols) as u32, cols as u32).leaf(leaf);
    let Built { run, proof, program, trace, tensor } = build(giant, case, Some((leaf, &shown)));
    let leaves = case.node.rows.value(&symbols) as u64 * cols.div_ceil(LEAF as u64);

    let mut evm = Evm::new()?;
    let (operator, challenger) = (Key::new(1), Key::new(2));
    evm.register(&run.model)?;
    evm.operator(&operator, 2, &run.model)?;
    evm.fund(challenger.address());
    let input: Vec<u8> = (0..giant.prompt).flat_map(|i| (1 + 37 * i % giant.vocabulary).to_be_bytes()).collect();
    let packed = evm.ask(&run.model, &input, Params { maxTokens: 500, ..run.params })?;
    let result = evm.answer(&operator, packed, &input, &b"a lie".repeat(180))?;
    let mut bill = Bill::default();
    let call = IDisputeGame::challengeCall { request: result.request, fulfillment: result.fulfillment.clone() };
    let receipt = evm.send(challenger.address(), evm.game, U256::from(crate::evm::terms().bond), &call)?;
    bill.add(false, "challenge", receipt.gas);
    let id = evm.docket.cases().next().ok_or("no dispute")?.id();

    let tokens: Vec<u8> = (0..symbols.sequence - symbols.prompt).flat_map(|i| (7 + 11 * i).to_be_bytes()).collect();
    let partials = match case.ask {
        Ask::Partial(_) => Some((0..64u32).map(|i| (1.0 + i as f32 / 64.0).to_bits().to_le_bytes())),
        Ask::Element | Ask::Sum(_) => None,
    };
    loop {
        let now = evm.docket.case(id).cloned().ok_or("no dispute")?;
        if let Some(ended) = now.ended {
            assert_eq!(ended.outcome, Outcome::Rejected);
            break;
        }
        let d = now.dispute().clone();
        // The claim is made for all disputes: this one's struct does not show it.
        let first = d.turn == Turn::Claim;
        let height = if first { depth(giant.nodes) } else { usize::from(d.height) };
        let (tree, count, target) =
            if d.inTensor { (&tensor, leaves, leaf) } else { (&trace, giant.nodes, u64::from(case.index)) };
        let refutation = |fault, index, data: Vec<u8>, proof: &StepProof| Refutation {
            fault,
            index,
            data: data.into(),
            proof: proof.abi_encode().into(),
        };
        let by_operator = now.is_operators_turn();
        let (next, with) = match now.turn() {
            Turn::Claim => {
                let claim = candor_sdk::bindings::Claim { tokensHash: keccak256(&tokens), ..run.claim };
                let hashes = descendants(&trace, giant.nodes, height, 0);
                (Move::Claim { claim, program_root: program.root(), tokens: tokens.clone().into(), hashes }, None)
            }
            Turn::Select => {
                let level = height - levels_of(height);
                let number = target >> level;
                let opening = (!d.inTensor && level == 0).then(|| NodeOpening::clone(&proof.node));
                let position = u32::try_from(number - (d.index << levels_of(height)))?;
                let path = path(tree, level, number, height);
                (Move::Select { position, hash: tree.node(level, number), path, opening }, None)
            }
            Turn::Reveal => (Move::Reveal(descendants(tree, count, height, d.index)), None),
            Turn::RevealLeaf => (Move::RevealLeaf(shown.clone().into()), None),
            Turn::SelectElement if partials.is_some() => {
                // Node and operands alone.
                let counted = StepProof { reads: Vec::new(), data: DataOpening::default(), ..proof.clone() };
                (Move::SelectElement(place), Some(refutation(Fault::Element, place.element, Vec::new(), &counted)))
            }
            Turn::SelectElement => {
                let accusation = Accusation { fault: Fault::Element, place, part: 0 };
                (Move::Prove(accusation), Some(refutation(Fault::Element, place.element, shown.clone(), &proof)))
            }
            Turn::RevealPartials => {
                let partials = partials.clone().ok_or("an element without partials")?.take(d.parts as usize);
                (Move::RevealPartials(partials.flatten().collect::<Vec<u8>>().into()), None)
            }
            Turn::Prove => {
                let Ask::Partial(part) = case.ask else { return Err("partials of an element that has none".into()) };
                let data = now.moves.last().map(|made| made.data.clone()).ok_or("no partials")?;
                let accusation = Accusation { fault: Fault::Partial, place, part };
                (Move::Prove(accusation), Some(refutation(Fault::Partial, part, data.to_vec(), &proof)))
            }
            Turn::None | Turn::__Invalid => return Err("a game that has neither ended nor goes on".into()),
        };
        let from = if by_operator { operator.address() } else { challenger.address() };
        let data = next.calldata(&now, &run.model, with).ok_or("a move without a call")?;
        evm.now += 1;
        let game = evm.game;
        let receipt = evm.try_send(from, game, U256::ZERO, data)?.map_err(|why| format!("{}: {why}", next.name()))?;
        bill.add(by_operator, next.name(), receipt.gas);
    }
    let input = Bytes::from(input);
    let call = IDisputeGame::rejectCall { request: result.request, fulfillment: result.fulfillment, input };
    let receipt = evm.send(challenger.address(), evm.game, U256::ZERO, &call)?;
    bill.add(false, "reject", receipt.gas);
    Ok(bill)
}

/// 1234567 as people read it.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[test]
fn gas_of_whole_disputes_from_a_perceptron_to_eight_billion_parameters() -> Result<()> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gas.md");
    let document = std::fs::read_to_string(document)?;
    let mut missing = Vec::new();
    let mut in_all = Vec::new();
    let large = [llama("Llama 1B", 16, 2048), llama("Llama 8B", 32, 4096)];
    for Subject { name: model, size, disputes } in small().into_iter().chain(large) {
        for (what, case) in disputes {
            let name = format!("{model}, {what}");
            let bill = play(&size, &case).map_err(|error| format!("{name}: {error}"))?;
            let [operator, challenger] = bill.gas;
            let (both, largest) = (operator + challenger, bill.largest);
            let [moves, others] = bill.moves;
            let cells = [operator, challenger, both, largest].map(thousands).join(" | ");
            let row = format!("| {name} | {moves} | {others} | {cells} |");
            println!("{row}");
            for (what, gas) in &bill.each {
                println!("    {what:<16} {:>9}", thousands(*gas));
            }
            assert!(moves <= MOST_MOVES, "{name}: {moves} moves of the operator's");
            assert!(both <= MOST_GAS, "{name}: {both} gas");
            assert!(largest <= MOST_GAS_OF_ONE, "{name}: {largest} gas in one transaction");
            in_all.push(both);
            if !document.contains(&row) {
                missing.push(row);
            }
        }
    }
    // The first is the perceptron's.
    let dearest = in_all.iter().max().ok_or("no disputes")?;
    assert!(*dearest <= SAME_ORDER * in_all[0], "{dearest} gas, of the perceptron {}", in_all[0]);
    assert!(missing.is_empty(), "docs/gas.md lacks:\n{}", missing.join("\n"));
    Ok(())
}

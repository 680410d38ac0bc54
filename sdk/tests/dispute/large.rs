//! Whole disputes about models too large to be made, with the real game and the real verifier: what they cost.
//!
//! Of the model there are the descriptors, leaves and paths that the dispute opens (`giants.rs`). The table of docs/gas.md is the one that this prints.

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

/// Targets.
const MOST_MOVES: usize = 8;
const MOST_GAS: u64 = 2_000_000;
const MOST_GAS_OF_ONE: u64 = 3_000_000;

/// A Llama: its size as the importers of this repository make it, 19 nodes and 33 a layer.
struct Llama {
    name: &'static str,
    size: Giant,
    width: u32,
}

fn llamas() -> [Llama; 2] {
    let size = |layers: u64| Giant {
        nodes: 19 + 33 * layers,
        tensors: 6 + 9 * layers,
        vocabulary: 128_256,
        tokens: 1024,
        prompt: 900,
    };
    [Llama { name: "Llama 1B", size: size(16), width: 2048 }, Llama { name: "Llama 8B", size: size(32), width: 4096 }]
}

/// What is disputed of each.
fn disputes(llama: &Llama) -> Vec<(&'static str, Case)> {
    let Llama { size, width, .. } = llama;
    let (tokens, vocabulary, last) = (size.tokens, size.vocabulary, size.nodes as u32 - 9);
    let logits = {
        let x = activations(last - 1, tokens, *width).read(1000, 1280, 128);
        let w = weights(3, vocabulary, *width, WeightType::Bf16).read(90_000, 1280, 128);
        let shape = (tokens, vocabulary);
        Case::new(last, Op::Linear, vec![x, w], DType::F32, shape, (1000, 90_000), Ask::Partial(10))
    };
    let norm = {
        let x = activations(last - 8, tokens, *width).read(1000, 1024, 1024);
        Case::new(last - 7, Op::RowSumSquares, vec![x], DType::F32, (tokens, 1), (1000, 0), Ask::Partial(1))
    };
    let softmax = {
        let (heads, row) = (32, 32 * tokens - 1);
        let x = activations(last - 29, heads * tokens, tokens).read(row, 0, tokens);
        let op = Op::RowSum { causal: heads };
        Case::new(last - 28, op, vec![x], DType::F32, (heads * tokens, 1), (row, 0), Ask::Element)
    };
    vec![
        ("a block of the logits", logits),
        ("a chunk of a norm's sum of squares", norm),
        ("the sum of a row of 1,024 attention weights", softmax),
    ]
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
fn gas_of_whole_disputes_about_models_of_one_and_eight_billion_parameters() -> Result<()> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gas.md");
    let document = std::fs::read_to_string(document)?;
    let mut missing = Vec::new();
    for llama in llamas() {
        for (what, case) in disputes(&llama) {
            let name = format!("{}, {what}", llama.name);
            let bill = play(&llama.size, &case).map_err(|error| format!("{name}: {error}"))?;
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
            if !document.contains(&row) {
                missing.push(row);
            }
        }
    }
    assert!(missing.is_empty(), "docs/gas.md lacks:\n{}", missing.join("\n"));
    Ok(())
}

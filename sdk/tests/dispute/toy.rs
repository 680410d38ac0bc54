//! The rules of the game in a page of Rust, with a judge that sees everything.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::SolValue;
use candor_sdk::{
    bindings::{
        Dispute, Fault, Fulfillment,
        IDisputeGame::{self, IDisputeGameEvents as Event},
        Outcome, PackedRequest, Turn,
    },
    dispute::{Accusation, Case, Descent, Docket, Group, Move, Place, PlayError, partials},
    merkle::{Domain, depth, fold, hash},
    program::{Interpreter, LEAF, Model, Request, Symbols, Tensor},
};
use std::convert::Infallible;

pub(crate) struct Toy<'a> {
    model: &'a Model,
    request: &'a Request,
    /// What the operator has in its trace: the judge knows it.
    tensors: &'a [Tensor],
    pub(crate) docket: Docket,
    pub(crate) reveals: usize,
}

impl<'a> Toy<'a> {
    pub(crate) fn new(model: &'a Model, request: &'a Request, tensors: &'a [Tensor], output: &[u8]) -> Self {
        let mut docket = Docket::default();
        let zero = B256::ZERO;
        let packed =
            PackedRequest { head: zero, modelId: zero, inputHash: zero, seed: zero, payment: zero, terms: zero };
        let fulfillment = Fulfillment {
            operator: Address::repeat_byte(1),
            fulfilledAt: 0,
            callbackCost: Default::default(),
            outputHash: keccak256(output),
        };
        let dispute = Dispute {
            id: 1,
            result: zero,
            operator: Address::repeat_byte(1),
            challenger: Address::repeat_byte(2),
            turn: Turn::Claim,
            moves: 0,
            since: 0,
            operatorTime: 0,
            challengerTime: 0,
            operatorGas: Default::default(),
            challengerGas: Default::default(),
            inTensor: false,
            node: 0,
            count: 0,
            index: 0,
            height: 0,
            hash: zero,
            element: 0,
            parts: 0,
            leaf: zero,
        };
        docket.apply(&Event::Challenged(IDisputeGame::Challenged {
            id: 1,
            result: zero,
            challenger: dispute.challenger,
            dispute,
            request: packed,
            fulfillment,
        }));
        Self { model, request, tensors, docket, reveals: 0 }
    }

    pub(crate) fn case(&self) -> &Case {
        self.docket.case(1).expect("it was opened")
    }

    /// Carries out a move. `Err`: the contracts would revert.
    pub(crate) fn play(&mut self, next: &Move) -> Result<(), String> {
        let case = self.case().clone();
        let mut d = case.dispute().clone();
        if let (Turn::Claim, Some(claimed)) = (d.turn, &case.claim) {
            d.turn = Turn::Select;
            (d.hash, d.count) = (claimed.claim.root, claimed.claim.nodes.into());
            d.height = depth(d.count) as u8;
        }
        let turn = d.turn;
        let mut data = Bytes::new();
        let require = |right: bool, what: &str| if right { Ok(()) } else { Err(format!("{turn:?}: {what}")) };
        let fold_of = |d: &Dispute, hashes: &[B256]| {
            let group = Group { count: d.count, height: d.height.into(), index: d.index, hashes: hashes.to_vec() };
            group.path(0).map(|path| fold(&hashes[0], 0, &path)).unwrap_or_default()
        };
        match next {
            Move::ShowInput(_) => return Err("the input came with the request".into()),
            Move::Claim { claim, tokens, hashes, .. } => {
                require(turn == Turn::Claim, "claimed already")?;
                require(claim.nodes as usize == self.model.program.nodes.len(), "nodes")?;
                require(keccak256(tokens) == claim.tokensHash, "tokens")?;
                let mut root = d.clone();
                (root.count, root.height) = (claim.nodes.into(), depth(claim.nodes.into()) as u8);
                require(fold_of(&root, hashes) == claim.root, "hashes")?;
                self.docket.apply(&Event::Claimed(IDisputeGame::Claimed {
                    result: B256::ZERO,
                    traceRoot: B256::ZERO,
                    claim: *claim,
                    tokens: tokens.clone(),
                    hashes: hashes.clone(),
                }));
                return Ok(());
            }
            Move::Select { position, hash, path, opening } => {
                require(turn == Turn::Select, "not the time to select")?;
                require(fold(hash, u64::from(*position), path) == d.hash, "path")?;
                d.height -= path.len() as u8;
                d.index = (d.index << path.len()) | u64::from(*position);
                require(d.index < d.count.div_ceil(1 << d.height), "beyond the end")?;
                d.hash = *hash;
                if let Some(opening) = opening {
                    require(d.height == 0 && !d.inTensor, "not a node")?;
                    d.node = d.index as u32;
                    let known = self.model.program.open_node(d.node).ok_or("no such node")?;
                    require(known.descriptor == opening.descriptor && known.path == opening.path, "opening")?;
                    let leaves = self.tensors[d.node as usize].leaf_count();
                    d.inTensor = true;
                    (d.count, d.index, d.height) = (leaves, 0, depth(leaves) as u8);
                    require(leaves > 0, "nothing there")?;
                } else {
                    require(d.height > 0 || d.inTensor, "a node without its descriptor")?;
                }
                d.turn = if d.height == 0 { Turn::RevealLeaf } else { Turn::Reveal };
            }
            Move::Reveal(hashes) => {
                require(turn == Turn::Reveal, "nothing to reveal")?;
                require(fold_of(&d, hashes) == d.hash, "hashes")?;
                data = hashes.abi_encode().into();
                d.turn = Turn::Select;
                self.reveals += 1;
            }
            Move::RevealLeaf(leaf) => {
                require(turn == Turn::RevealLeaf, "no leaf to reveal")?;
                require(hash(Domain::TraceLeaf, &[leaf]) == d.hash, "leaf")?;
                (d.leaf, d.turn, data) = (d.hash, Turn::SelectElement, leaf.clone());
            }
            Move::SelectElement(place) => {
                require(turn == Turn::SelectElement, "no element to select")?;
                require((place.node, place.leaf) == (d.node, d.index), "another leaf")?;
                d.element = place.element;
                d.parts = self.parts(&case, place) as u32;
                require(d.parts > 0, "no partials")?;
                d.turn = Turn::RevealPartials;
            }
            Move::RevealPartials(partials) => {
                require(turn == Turn::RevealPartials, "no partials to reveal")?;
                require(partials.len() == 4 * d.parts as usize, "partials")?;
                (d.hash, d.turn, data) = (keccak256(partials), Turn::Prove, partials.clone());
            }
            Move::Prove(accusation) => {
                require(matches!(turn, Turn::Select | Turn::SelectElement | Turn::Prove), "not the challenger's turn")?;
                require(self.is_wrong(&case, accusation), "not wrong")?;
                self.docket.apply(&Event::Resolved(IDisputeGame::Resolved {
                    id: 1,
                    result: B256::ZERO,
                    outcome: Outcome::Rejected,
                    winner: d.challenger,
                    paid: U256::ZERO,
                }));
                return Ok(());
            }
        }
        d.moves += 1;
        self.docket.apply(&Event::Moved(IDisputeGame::Moved { id: 1, by: Address::ZERO, dispute: d, data }));
        Ok(())
    }

    fn symbols(&self, case: &Case) -> Symbols {
        let claim = case.claim.as_ref().expect("it was claimed").claim;
        Symbols {
            sequence: claim.sequence,
            prompt: claim.prompt,
            input_bytes: claim.inputBytes,
            output_bytes: claim.outputBytes,
        }
    }

    fn cell(&self, place: &Place) -> (usize, usize) {
        let per_row = self.tensors[place.node as usize].leaves_per_row() as u64;
        ((place.leaf / per_row) as usize, (place.leaf % per_row) as usize * LEAF + place.element as usize)
    }

    fn parts(&self, case: &Case, place: &Place) -> usize {
        let (row, col) = self.cell(place);
        let bound = self.model.bind(self.symbols(case)).expect("it was claimed");
        partials::count(self.model, &bound, place.node, row, col)
    }

    /// Recomputes a piece from the operator's own tensors.
    fn is_wrong(&self, case: &Case, accusation: &Accusation) -> bool {
        let Accusation { fault, place, part } = accusation;
        let descent = || {
            Descent::read::<Infallible>(case, case.claim.as_ref().expect("claimed"))
                .map_err(|e: PlayError<_>| e.to_string())
        };
        let (row, col) = self.cell(place);
        match fault {
            Fault::Output => {
                self.tensors.last().and_then(|last| last.u8().ok()).map(keccak256) != Some(case.fulfillment.outputHash)
            }
            Fault::Element => {
                assert_eq!(self.parts(case, place), 0, "an element with partials is not proven in one go");
                let leaf = descent().expect("read").elements.expect("shown");
                let right = self.right(case, place.node);
                let mut bytes = Vec::new();
                right.write_leaf(row, col / LEAF, &mut bytes);
                let width = right.dtype().size();
                let range = place.element as usize * width..(place.element as usize + 1) * width;
                leaf.get(range.clone()) != bytes.get(range)
            }
            Fault::Partial | Fault::Sum => {
                let descent = descent().expect("read");
                let shown = descent.partials.expect("shown");
                let bound = self.model.bind(self.symbols(case)).expect("bound");
                let all = self.tensors.iter().cloned().map(std::sync::Arc::new).enumerate();
                let all = all.map(|(node, tensor)| (node as u32, tensor)).collect();
                let right = partials::values(self.model, &bound, &all, place.node, row, col).expect("partials");
                if *fault == Fault::Partial {
                    return shown[4 * *part as usize..][..4] != right[*part as usize].to_le_bytes();
                }
                // Whether the partials shown make up the element shown: they are the right ones here, so it is whether the element is.
                assert!(right.iter().flat_map(|bits| bits.to_le_bytes()).eq(shown.iter().copied()));
                let mut bytes = Vec::new();
                self.right(case, place.node).write_leaf(row, col / LEAF, &mut bytes);
                let range = 4 * place.element as usize..4 * place.element as usize + 4;
                bytes[range.clone()] != descent.elements.expect("shown")[range]
            }
            Fault::Claim | Fault::__Invalid => false,
        }
    }

    /// A node as it has to be after what the operator claims before it.
    fn right(&self, case: &Case, node: u32) -> Tensor {
        let interpreter = Interpreter::new(self.model);
        if node == 0 {
            let tokens = &case.claim.as_ref().expect("it was claimed").tokens;
            let tokens = tokens.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes));
            let run = interpreter.replay(self.request, &tokens.collect::<Vec<_>>()).expect("it was screened");
            return run.tensors[0].clone();
        }
        interpreter
            .recompute(self.request, self.symbols(case), &self.tensors[..node as usize], node)
            .expect("it computes")
    }
}

//! Builds the proof of each question that `IStepVerifier` answers.

use alloy_primitives::{B256, Bytes};
use alloy_sol_types::SolValue;
use thiserror::Error;

use super::{
    format::{self, ClaimProof, DataOpening, StepProof},
    openings::{ModelTrees, siblings, weight_path},
};
use crate::{
    arithmetic::reduction::rank,
    bindings,
    merkle::depth,
    program::{BoundProgram, LEAF, Model, Op, Operand, Read, Request, Step},
};

pub use crate::bindings::Element;

/// A claimed trace as a challenger sees it.
///
/// Only what is earlier than the disputed element is asked for: that is agreed, so its values are those of the challenger's own run. Paths lead to the
/// root that was claimed, so on the way they take hashes that the operator revealed.
pub trait TraceView {
    /// Why something could not be had.
    type Error;

    /// The bits of one element, as [`Tensor::bits`](crate::program::Tensor::bits) gives them. The element exists.
    ///
    /// # Errors
    /// If the run can't be repeated.
    fn bits(&self, node: u32, row: usize, col: usize) -> Result<u32, Self::Error>;

    /// Opens a leaf of a node, which exists.
    ///
    /// # Errors
    /// If the run can't be repeated.
    fn open(&self, node: u32, leaf: u64) -> Result<LeafOpening, Self::Error>;
}

/// A leaf and its path to the claimed root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafOpening {
    /// The leaf's bytes.
    pub bytes: Vec<u8>,
    /// From the leaf to the root of its tensor.
    pub tensor: Vec<B256>,
    /// From there to the claimed root.
    pub nodes: Vec<B256>,
}

/// Why there is no proof.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError<E> {
    /// The trace could not be read.
    #[error(transparent)]
    View(#[from] E),
    /// There is no such node, leaf, element or partial, or the graph is not one that validates.
    #[error("node {}, leaf {}, element {}: {problem}", .element.node, .element.leaf, .element.index)]
    NoStep {
        /// What was asked for.
        element: Element,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Proves steps of one run.
pub struct Prover<'a, V> {
    /// The model.
    pub model: &'a Model,
    /// Its trees.
    pub trees: &'a ModelTrees,
    /// The program for the claimed symbols.
    pub bound: &'a BoundProgram,
    /// The request.
    pub request: &'a Request,
    /// The claimed tokens.
    pub generated: &'a [u32],
    /// The claimed trace.
    pub view: &'a V,
}

/// Which part of a step a proof opens.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// Nothing: only what node and operands are.
    Shapes,
    /// One partial.
    Partial(u32),
    /// What is added to the partials.
    Sum,
    /// Everything.
    Whole,
}

impl<V: TraceView> Prover<'_, V> {
    /// For `isElementWrong`, of an element without partials. `claimed` is the element as the operator revealed it: an index that is not the
    /// argmax is refuted by one that comes before it.
    ///
    /// # Errors
    /// If there is no such element, or the trace can't be read.
    pub fn element_proof(&self, element: Element, claimed: u32) -> Result<Vec<u8>, ProofError<V::Error>> {
        self.prove(element, Part::Whole, claimed)
    }

    /// For `isElementWrong` where nothing has to be opened but the node: a leaf that does not exist or has another length than it should, a NaN that
    /// is not the canonical one.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn node_proof(&self, node: u32) -> Result<Vec<u8>, ProofError<V::Error>> {
        let element = Element { node, leaf: 0, index: 0 };
        Ok(self.empty(element)?.abi_encode())
    }

    /// For `partialsOf`: what node and operands are.
    ///
    /// # Errors
    /// If there is no such element.
    pub fn count_proof(&self, element: Element) -> Result<Vec<u8>, ProofError<V::Error>> {
        self.prove(element, Part::Shapes, 0)
    }

    /// For `isPartialWrong`.
    ///
    /// # Errors
    /// If there is no such element or partial, or the trace can't be read.
    pub fn partial_proof(&self, element: Element, part: u32) -> Result<Vec<u8>, ProofError<V::Error>> {
        self.prove(element, Part::Partial(part), 0)
    }

    /// For `isSumWrong`.
    ///
    /// # Errors
    /// If there is no such element, or the trace can't be read.
    pub fn sum_proof(&self, element: Element) -> Result<Vec<u8>, ProofError<V::Error>> {
        self.prove(element, Part::Sum, 0)
    }

    /// For `isClaimWrong`.
    ///
    /// # Errors
    /// If the program has no nodes.
    pub fn claim_proof(&self) -> Result<Vec<u8>, ProofError<V::Error>> {
        let node = self.node(Element { node: 0, leaf: 0, index: 0 })?;
        Ok(ClaimProof { node, tokens: tokens(self.generated) }.abi_encode())
    }

    /// For `isOutputWrong`: the claimed root of the last node and its path to the claimed root.
    pub fn output_proof(root: B256, path: &[B256]) -> Vec<u8> {
        (root, path.to_vec()).abi_encode_params()
    }

    /// How many partials an operator has to reveal of an element; 0 if it is computed in one go.
    ///
    /// # Errors
    /// If there is no such element.
    pub fn partials_of(&self, element: Element) -> Result<u32, ProofError<V::Error>> {
        let (row, col) = self.place(element)?;
        let argmax = matches!(self.model.program.nodes[element.node as usize].op, Op::Argmax);
        let step = self.model.step_with(self.bound, element.node, row, col, |_, _| Ok::<_, V::Error>(None))?;
        let parts = step.map_or(0, |step: Step| step.parts.len());
        Ok(if argmax || parts < 2 { 0 } else { parts as u32 }) // at most `MAX_PARTIALS`
    }

    /// Row and column of an element.
    ///
    /// # Errors
    /// If there is no such element.
    pub fn place(&self, element: Element) -> Result<(usize, usize), ProofError<V::Error>> {
        let no = |problem| Err(ProofError::NoStep { element, problem });
        let Some(shape) = self.bound.nodes.get(element.node as usize) else { return no("no such node") };
        let in_row = shape.cols.div_ceil(LEAF) as u64;
        if element.leaf >= shape.rows as u64 * in_row {
            return no("no such leaf");
        }
        let (row, first) = ((element.leaf / in_row) as usize, (element.leaf % in_row) as usize * LEAF);
        let col = first + element.index as usize;
        if element.index as usize >= LEAF || col >= shape.cols {
            return no("no such element");
        }
        Ok((row, col))
    }

    fn node(&self, element: Element) -> Result<bindings::NodeOpening, ProofError<V::Error>> {
        let node = self.trees.node(self.model, element.node);
        node.ok_or(ProofError::NoStep { element, problem: "no such node" })
    }

    /// A proof that opens the node and nothing else.
    fn empty(&self, element: Element) -> Result<StepProof, ProofError<V::Error>> {
        let node = self.node(element)?;
        Ok(StepProof { node, operands: vec![], reads: vec![], data: DataOpening::default(), hint: 0 })
    }

    fn prove(&self, element: Element, part: Part, claimed: u32) -> Result<Vec<u8>, ProofError<V::Error>> {
        let no = |problem| ProofError::NoStep { element, problem };
        let (row, col) = self.place(element)?;
        let mut proof = self.empty(element)?;
        let node = &self.model.program.nodes[element.node as usize];
        let operands = node.inputs.iter().map(|&operand| self.trees.operand(self.model, operand));
        proof.operands = operands.collect::<Option<_>>().ok_or(no("an operand that does not exist"))?;

        let integer = |node: u32, row: usize| self.view.bits(node, row, 0).map(Some);
        let step = match part {
            Part::Shapes => return Ok(proof.abi_encode()),
            _ => self.model.step_with(self.bound, element.node, row, col, integer)?,
        };
        let reads: Vec<Read> = match (&node.op, step, part) {
            (Op::Argmax, _, Part::Whole) => {
                let [operand] = node.inputs[..] else { return Err(no("an argmax of nothing")) };
                let better = self.before(operand, row, claimed)?;
                proof.hint = better as u64;
                let claimed = self.is_column(operand, claimed as usize).then_some(claimed as usize);
                claimed
                    .into_iter()
                    .chain([better])
                    .map(|at| Read::Elements { operand, row, cols: at..at + 1 })
                    .collect()
            }
            (_, Some(step), Part::Partial(part)) => {
                step.parts.into_iter().nth(part as usize).ok_or(no("no such partial"))?
            }
            (_, Some(step), Part::Sum) => step.reads,
            (_, Some(Step { parts, reads }), _) => match &parts[..] {
                [] => reads,
                [only] => only.iter().chain(&reads).cloned().collect(),
                _ => return Err(no("it has partials")),
            },
            // Lookups that point nowhere.
            (Op::Gather | Op::TokenLength, None, Part::Whole) => {
                vec![Read::Elements { operand: node.inputs[0], row, cols: 0..1 }]
            }
            (Op::Detokenise, None, Part::Whole) => {
                let ends = node.inputs[1];
                vec![Read::Elements { operand: ends, row: self.rows(ends).saturating_sub(1), cols: 0..1 }]
            }
            _ => return Err(no("no such step")),
        };
        for read in &reads {
            match read {
                Read::Elements { operand, row, cols } => proof.reads.push(self.read(*operand, *row, cols.clone())?),
                // Its place among the reads stays empty, so that those after it keep theirs.
                Read::Token(token) => {
                    proof.data = self.trees.entry(self.model, *token);
                    proof.reads.push(format::LeafOpening::default());
                }
                Read::Input => {
                    let generated = matches!(node.op, Op::Input { kind: crate::program::InputKind::Tokens, .. })
                        && row >= self.bound.symbols.prompt as usize;
                    let data = if generated { tokens(self.generated) } else { self.request.input.clone().into() };
                    proof.data = DataOpening { data, ..DataOpening::default() };
                }
            }
        }
        match &node.op {
            Op::TokenLength if !reads.iter().any(|read| matches!(read, Read::Token(_))) => {
                let Operand::Node(tokens) = node.inputs[0] else { return Err(no("tokens that are no node")) };
                proof.data = self.trees.entry(self.model, self.view.bits(tokens, row, 0)?);
            }
            Op::Detokenise => {
                // The first read is where the token ends.
                if let Some(Read::Elements { row, .. }) = reads.first() {
                    proof.hint = *row as u64;
                }
            }
            _ => {}
        }
        Ok(proof.abi_encode())
    }

    fn rows(&self, operand: Operand) -> usize {
        match operand {
            Operand::Node(node) => self.bound.nodes.get(node as usize).map_or(0, |node| node.rows),
            Operand::Weight(weight) => self.model.weights.get(weight).map_or(0, |weight| weight.rows()),
            Operand::Constant(_) => 1,
        }
    }

    fn cols(&self, operand: Operand) -> usize {
        match operand {
            Operand::Node(node) => self.bound.nodes.get(node as usize).map_or(0, |node| node.cols),
            Operand::Weight(weight) => self.model.weights.get(weight).map_or(0, |weight| weight.cols()),
            Operand::Constant(_) => 1,
        }
    }

    fn is_column(&self, operand: Operand, col: usize) -> bool {
        col < self.cols(operand)
    }

    /// The right argmax of a row; any other index if that is the claimed one, so that a right claim is not refuted.
    fn before(&self, operand: Operand, row: usize, claimed: u32) -> Result<usize, V::Error> {
        let mut best = (0, i32::MIN);
        for col in 0..self.cols(operand) {
            let bits = match operand {
                Operand::Node(node) => self.view.bits(node, row, col)?,
                Operand::Weight(weight) => self.model.weights.get(weight).map_or(0, |weight| weight.bits(row, col)),
                Operand::Constant(bits) => bits,
            };
            let rank = rank(f32::from_bits(bits));
            if rank > best.1 {
                best = (col, rank);
            }
        }
        let other = if best.0 == 0 { 1 } else { 0 };
        Ok(if best.0 == claimed as usize && self.is_column(operand, other) { other } else { best.0 })
    }

    /// Opens the leaves that hold some columns of a row.
    fn read(
        &self,
        operand: Operand,
        row: usize,
        cols: std::ops::Range<usize>,
    ) -> Result<format::LeafOpening, V::Error> {
        let in_row = self.cols(operand).div_ceil(LEAF) as u64;
        let (from, to) = ((cols.start / LEAF) as u64, cols.end.div_ceil(LEAF) as u64);
        let first = row as u64 * in_row + from;
        Ok(match operand {
            Operand::Constant(_) => format::LeafOpening::default(),
            Operand::Weight(weight) => {
                let Some(tensor) = self.model.weights.get(weight) else { return Ok(format::LeafOpening::default()) };
                let leaves = (from..to).flat_map(|leaf| tensor.leaf(row, leaf as usize)).copied();
                let path = weight_path(tensor, first, to - from).unwrap_or_default();
                format::LeafOpening { data: leaves.collect::<Vec<u8>>().into(), path }
            }
            Operand::Node(node) => {
                let leaves = (from..to).map(|leaf| self.view.open(node, row as u64 * in_row + leaf));
                let leaves = leaves.collect::<Result<Vec<_>, _>>()?;
                let (Some(leftmost), Some(rightmost)) = (leaves.first(), leaves.last()) else {
                    return Ok(format::LeafOpening::default());
                };
                let levels = depth(self.rows(operand) as u64 * in_row);
                // A sibling to the left is on the path of the leftmost leaf, one to the right on that of the rightmost.
                let sibling = |level: usize, index: u64| {
                    let from = if index < first >> level { leftmost } else { rightmost };
                    from.tensor.get(level).copied().unwrap_or_default()
                };
                let mut path = siblings(levels, first, to - from, sibling);
                path.extend(&leftmost.nodes);
                format::LeafOpening { data: leaves.iter().flat_map(|leaf| leaf.bytes.clone()).collect(), path }
            }
        })
    }
}

/// Tokens as they are published: four bytes each, big-endian.
fn tokens(tokens: &[u32]) -> Bytes {
    tokens.iter().flat_map(|token| token.to_be_bytes()).collect()
}

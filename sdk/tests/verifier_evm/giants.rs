//! Models too large to be made: trees as high as theirs, with made-up hashes where nothing is opened; descriptors and leaves are real ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::successors,
};

use alloy_primitives::{B256, U256, keccak256};
use alloy_sol_types::SolValue;
use candor_sdk::{
    bindings::{Claim, Limits, ModelDescriptor, NodeOpening, Params, Run},
    dispute::levels_of,
    merkle::{ABSENT, Domain, counted, depth, hash, inner},
    program::{DType, LEAF, Node, Op, Operand, Symbols, TensorDescriptor, WeightType},
    proof::format::{DataOpening, LeafOpening, OperandOpening, StepProof},
};

use crate::models::Numbers;

/// How large a model is.
#[derive(Clone, Copy)]
pub(crate) struct Giant {
    pub(crate) nodes: u64,
    pub(crate) tensors: u64,
    pub(crate) vocabulary: u32,
    /// Positions of a run, and of the prompt among them.
    pub(crate) tokens: u32,
    pub(crate) prompt: u32,
}

impl Giant {
    /// The symbols of a run.
    pub(crate) fn symbols(&self) -> Symbols {
        Symbols { sequence: self.tokens, prompt: self.prompt, input_bytes: 4 * self.prompt, output_bytes: 900 }
    }
}

/// A tree of which a few leaves are known. Made up are hashes at the levels where the reveals of a dispute end; what lies between follows from them, so
/// that an operator can reveal what stands there.
pub(crate) struct Sparse {
    count: u64,
    known: BTreeMap<u64, B256>,
    /// Levels of made-up hashes.
    revealed: BTreeSet<usize>,
}

impl Sparse {
    pub(crate) fn new(count: u64, known: impl IntoIterator<Item = (u64, B256)>) -> Self {
        let ends = successors(Some(depth(count)), |&height| (height != 0).then(|| height - levels_of(height)));
        Self { count, known: known.into_iter().collect(), revealed: ends.skip(1).chain([0]).collect() }
    }

    pub(crate) fn node(&self, level: usize, index: u64) -> B256 {
        let leaves = index << level..(index + 1) << level;
        if leaves.start >= self.count {
            return ABSENT;
        }
        match self.known.range(leaves).next() {
            Some((_, &leaf)) if level == 0 => leaf,
            None if self.revealed.contains(&level) => {
                keccak256([index.to_be_bytes(), (level as u64).to_be_bytes()].concat())
            }
            _ => inner(&self.node(level - 1, 2 * index), &self.node(level - 1, 2 * index + 1)),
        }
    }

    pub(crate) fn root(&self) -> B256 {
        self.node(depth(self.count), 0)
    }

    /// The path of some leaves side by side.
    pub(crate) fn path(&self, first: u64, count: u64) -> Vec<B256> {
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
pub(crate) struct Source {
    pub(crate) operand: Operand,
    pub(crate) rows: u32,
    pub(crate) cols: u32,
    /// How its elements are stored; of a node as of a weight.
    pub(crate) stored: WeightType,
    /// First leaf and number of leaves, for each read.
    pub(crate) reads: Vec<(u64, u64)>,
}

impl Source {
    pub(crate) fn new(operand: Operand, (rows, cols): (u32, u32), stored: WeightType) -> Self {
        Self { operand, rows, cols, stored, reads: Vec::new() }
    }

    /// Reads the leaves that hold some columns of a row.
    pub(crate) fn read(mut self, row: u32, first: u32, count: u32) -> Self {
        let in_row = u64::from(self.cols).div_ceil(LEAF as u64);
        let (from, to) = (first as usize / LEAF, (first + count) as usize);
        self.reads.push((u64::from(row) * in_row + from as u64, to.div_ceil(LEAF) as u64 - from as u64));
        self
    }

    pub(crate) fn leaves(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.cols).div_ceil(LEAF as u64)
    }

    /// The bytes of a leaf: ordinary numbers.
    pub(crate) fn leaf(&self, leaf: u64) -> Vec<u8> {
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
    pub(crate) fn tree(&self) -> Sparse {
        let domain = if matches!(self.operand, Operand::Node(_)) { Domain::TraceLeaf } else { Domain::WeightLeaf };
        let known = self.reads.iter().flat_map(|&(first, count)| first..first + count);
        Sparse::new(self.leaves(), known.map(|leaf| (leaf, hash(domain, &[&self.leaf(leaf)]))))
    }
}

/// A question to the verifier.
pub(crate) struct Case {
    /// Which node it is, and what.
    pub(crate) index: u32,
    pub(crate) node: Node,
    pub(crate) row: u32,
    pub(crate) col: u32,
    pub(crate) sources: Vec<Source>,
    /// Which source each read is of; in order, the first unread read of it.
    pub(crate) order: Vec<usize>,
    pub(crate) data: DataOpening,
    pub(crate) hint: u64,
    pub(crate) ask: Ask,
}

#[derive(Clone, Copy)]
pub(crate) enum Ask {
    Element,
    Partial(u32),
    Sum(u32),
}

fn node(op: Op, sources: &[Source], dtype: DType, (rows, cols): (u32, u32)) -> Node {
    let inputs = sources.iter().map(|source| source.operand).collect();
    Node { op, inputs, dtype, rows: rows.into(), cols: cols.into(), label: String::new() }
}

impl Case {
    /// Element (`row`, `col`) of node `index`, whose step reads each source once, in order.
    pub(crate) fn new(
        index: u32,
        op: Op,
        sources: Vec<Source>,
        dtype: DType,
        shape: (u32, u32),
        (row, col): (u32, u32),
        ask: Ask,
    ) -> Self {
        let order = (0..sources.len()).flat_map(|i| vec![i; sources[i].reads.len()]).collect();
        let node = node(op, &sources, dtype, shape);
        Self { index, node, row, col, sources, order, data: DataOpening::default(), hint: 0, ask }
    }
}

/// A run of a model, and a proof of one of its steps.
pub(crate) struct Built {
    pub(crate) run: Run,
    pub(crate) proof: StepProof,
    /// Over the node descriptors.
    pub(crate) program: Sparse,
    /// Over the roots of the nodes' tensors.
    pub(crate) trace: Sparse,
    /// Over the leaves of the disputed node's tensor.
    pub(crate) tensor: Sparse,
}

impl Built {
    /// What the verifier is asked with.
    pub(crate) fn asked(self) -> (Run, Vec<u8>) {
        (self.run, self.proof.abi_encode())
    }
}

/// The run and the proof of a case. `shown` is a leaf of the disputed tensor, if one is claimed.
pub(crate) fn build(giant: &Giant, case: &Case, shown: Option<(u64, &[u8])>) -> Built {
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
    let nodes = Sparse::new(giant.nodes, program.iter().map(|(&index, bytes)| (index, hash(Domain::Node, &[bytes]))));
    let symbols = giant.symbols();
    let (rows, cols) = (case.node.rows.value(&symbols) as u64, case.node.cols.value(&symbols) as u64);
    let shown = shown.map(|(leaf, bytes)| (leaf, hash(Domain::TraceLeaf, &[bytes])));
    let tensor = Sparse::new(rows * cols.div_ceil(LEAF as u64), shown);
    if shown.is_some() {
        trace.insert(case.index.into(), tensor.root());
    }
    let claimed = Sparse::new(giant.nodes, trace);
    let tensors = Sparse::new(giant.tensors, weights.iter().map(|(&index, tensor)| (index, tensor.hash())));
    let entry = 77; // the token in row 50
    let vocabulary = Sparse::new(giant.vocabulary.into(), [(entry, hash(Domain::Token, &[&case.data.data]))]);

    let operands = case.sources.iter().map(|source| match source.operand {
        Operand::Node(index) => OperandOpening {
            descriptor: program[&index.into()].clone().into(),
            path: nodes.path(index.into(), 1),
            count: 0,
        },
        Operand::Weight(index) => OperandOpening {
            descriptor: weights[&index.into()].encode().into(),
            path: tensors.path(index.into(), 1),
            count: giant.tensors,
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
        _ => DataOpening { path: vocabulary.path(entry, 1), count: giant.vocabulary.into(), ..case.data.clone() },
    };
    let opening = NodeOpening { descriptor: case.node.encode().into(), path: nodes.path(case.index.into(), 1) };
    let run = Run {
        model: ModelDescriptor {
            arithmeticVersion: U256::from(1),
            graphRoot: counted(giant.nodes, &nodes.root()),
            weightsRoot: counted(giant.tensors, &tensors.root()),
            vocabRoot: counted(giant.vocabulary.into(), &vocabulary.root()),
            limits: Limits { minInputBytes: 4, maxInputBytes: 1 << 15, maxOutputBytes: 1 << 15, maxTokens: 1 << 12 },
        },
        inputHash: keccak256(&case.data.data),
        seed: B256::repeat_byte(0x5e),
        params: Params { maxTokens: 500, temperature: 0.75f32.to_bits(), minP: 0.0625f32.to_bits() },
        claim: Claim {
            sequence: symbols.sequence,
            prompt: symbols.prompt,
            inputBytes: symbols.input_bytes,
            outputBytes: symbols.output_bytes,
            nodes: giant.nodes as u32,
            root: claimed.root(),
            tokensHash: keccak256([]),
        },
    };
    let proof = StepProof { node: opening, operands, reads, data, hint: case.hint };
    Built { run, proof, program: nodes, trace: claimed, tensor }
}

pub(crate) const F32: WeightType = WeightType::F32;

pub(crate) fn activations(node: u32, rows: u32, cols: u32) -> Source {
    Source::new(Operand::Node(node), (rows, cols), F32)
}

pub(crate) fn weights(index: u32, rows: u32, cols: u32, stored: WeightType) -> Source {
    Source::new(Operand::Weight(index), (rows, cols), stored)
}

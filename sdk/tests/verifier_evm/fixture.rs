//! A run as an operator claims it, and as a challenger proves against it.

use std::convert::Infallible;

use alloy_primitives::{B256, keccak256};
use candor_sdk::{
    bindings::{Claim, Element, ModelDescriptor, Params, Run},
    merkle::Tree,
    program::{BoundProgram, LEAF, Model, Request, Run as Trace, Tensor, tensor_tree},
    proof::{LeafOpening, ModelTrees, Prover, TraceView},
};

/// A model, a request, and the whole trace of one run.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) model: Model,
    pub(crate) trees: ModelTrees,
    pub(crate) request: Request,
    pub(crate) generated: Vec<u32>,
    pub(crate) output: Vec<u8>,
    pub(crate) bound: BoundProgram,
    pub(crate) run: Run,
    pub(crate) view: View,
}

/// A trace with all its hashes.
pub(crate) struct View {
    pub(crate) tensors: Vec<Tensor>,
    leaves: Vec<Tree>,
    pub(crate) nodes: Tree,
}

impl View {
    pub(crate) fn new(tensors: Vec<Tensor>) -> Self {
        let leaves: Vec<Tree> = tensors.iter().map(tensor_tree).collect();
        let nodes = Tree::new(leaves.iter().map(Tree::root).collect());
        Self { tensors, leaves, nodes }
    }
}

impl TraceView for View {
    type Error = Infallible;

    fn bits(&self, node: u32, row: usize, col: usize) -> Result<u32, Infallible> {
        Ok(self.tensors[node as usize].bits(row, col))
    }

    fn open(&self, node: u32, leaf: u64) -> Result<LeafOpening, Infallible> {
        Ok(LeafOpening {
            bytes: leaf_bytes(&self.tensors[node as usize], leaf),
            tensor: self.leaves[node as usize].path(leaf).expect("the leaf exists"),
            nodes: self.nodes.path(node.into()).expect("the node exists"),
        })
    }
}

/// Bytes of a leaf of a tensor.
pub(crate) fn leaf_bytes(tensor: &Tensor, leaf: u64) -> Vec<u8> {
    let in_row = tensor.leaves_per_row() as u64;
    let mut bytes = Vec::new();
    tensor.write_leaf((leaf / in_row) as usize, (leaf % in_row) as usize, &mut bytes);
    bytes
}

impl Fixture {
    pub(crate) fn new(name: impl Into<String>, model: Model, request: Request) -> Self {
        let trace = model.interpret(&request).expect("an answer");
        Self::of_trace(name, model, request, trace)
    }

    pub(crate) fn of_trace(name: impl Into<String>, model: Model, request: Request, trace: Trace) -> Self {
        let Trace { symbols, output, generated, tensors, .. } = trace;
        let bound = model.bind(symbols).expect("it was run");
        let trees = ModelTrees::new(&model);
        let view = View::new(tensors);
        let descriptor = model.descriptor();
        let tokens: Vec<u8> = generated.iter().flat_map(|token| token.to_be_bytes()).collect();
        let run = Run {
            model: ModelDescriptor {
                arithmeticVersion: alloy_primitives::U256::from(descriptor.arithmetic_version),
                graphRoot: descriptor.graph_root,
                weightsRoot: descriptor.weights_root,
                vocabRoot: descriptor.vocab_root,
                limits: candor_sdk::bindings::Limits {
                    minInputBytes: descriptor.limits.min_input_bytes,
                    maxInputBytes: descriptor.limits.max_input_bytes,
                    maxOutputBytes: descriptor.limits.max_output_bytes,
                    maxTokens: descriptor.limits.max_tokens,
                },
            },
            inputHash: keccak256(&request.input),
            seed: B256::new(request.seed),
            params: Params {
                maxTokens: request.params.max_tokens,
                temperature: request.params.temperature,
                minP: request.params.min_p,
            },
            claim: Claim {
                sequence: symbols.sequence,
                prompt: symbols.prompt,
                inputBytes: symbols.input_bytes,
                outputBytes: symbols.output_bytes,
                nodes: view.tensors.len() as u32,
                root: view.nodes.root(),
                tokensHash: keccak256(tokens),
            },
        };
        Self { name: name.into(), model, trees, request, generated, output, bound, run, view }
    }

    pub(crate) fn prover(&self) -> Prover<'_, View> {
        Prover {
            model: &self.model,
            trees: &self.trees,
            bound: &self.bound,
            request: &self.request,
            generated: &self.generated,
            view: &self.view,
        }
    }

    pub(crate) fn tensor(&self, node: u32) -> &Tensor {
        &self.view.tensors[node as usize]
    }

    pub(crate) fn leaf(&self, element: Element) -> Vec<u8> {
        leaf_bytes(self.tensor(element.node), element.leaf)
    }

    /// The element at a row and column.
    pub(crate) fn element(&self, node: u32, row: usize, col: usize) -> Element {
        let in_row = self.tensor(node).leaves_per_row();
        Element { node, leaf: (row * in_row + col / LEAF) as u64, index: (col % LEAF) as u32 }
    }
}

//! Operators that are wrong somewhere.

use crate::models::{self, Numbers};
use candor_sdk::{
    dispute::MemoryTrace,
    program::{
        DType, Dim, EncodeKind, InputKind, Interpreter, Limits, Model, Op, ProgramBuilder, Request, Run, Tensor,
        TensorData,
    },
};

/// A model that is one contraction of three blocks, and a request for it.
pub(crate) fn wide() -> (Model, Request) {
    let mut n = Numbers::new(8);
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, 1, 300);
    let w = b.weight(n.tensor("w", 3, 300));
    let y = b.linear(x, w, None);
    b.output(EncodeKind::F32Be, y);
    let model = b.finish(models::fixed(1200, 12), vec![]).expect("a valid model");
    (model, models::ask(models::f32_be(&n.floats(300))))
}

/// A model that says where the tokens of its input end, and a request for it.
pub(crate) fn ends() -> (Model, Request) {
    let mut b = ProgramBuilder::new();
    let tokens = b.tokens(30);
    let lengths = b.node(Op::TokenLength, &[tokens], DType::U32, Dim::S, Dim::ONE);
    let ends = b.node(Op::PrefixSum, &[lengths], DType::U32, Dim::S, Dim::ONE);
    b.output(EncodeKind::U32Be, ends);
    let limits = Limits { min_input_bytes: 4, max_input_bytes: 64, max_output_bytes: 64, max_tokens: 0 };
    let vocabulary = (0..30).map(|token| b"candour"[token % 7..].to_vec()).collect();
    (b.finish(limits, vocabulary).expect("a valid model"), models::ask(models::u32_be(&[3, 29, 0, 12, 6])))
}

/// One element of one node is not what it should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lie {
    pub(crate) node: usize,
    pub(crate) element: usize,
    pub(crate) flip: u32,
}

impl Lie {
    /// Any element of a node that has some.
    pub(crate) fn random(run: &Run, n: &mut Numbers) -> Self {
        loop {
            let node = (n.next() % run.tensors.len() as u64) as usize;
            let elements = run.tensors[node].rows() * run.tensors[node].cols();
            if elements > 0 {
                let element = (n.next() % elements as u64) as usize;
                return Self { node, element, flip: 1 << (n.next() % 32) };
            }
        }
    }
}

/// `tensor` with one element changed, whatever `flip` is.
pub(crate) fn bend(tensor: &Tensor, element: usize, flip: u32) -> Tensor {
    let data = match tensor.data().clone() {
        TensorData::F32(mut x) => {
            let bent = f32::from_bits(x[element].to_bits() ^ flip);
            // Every NaN is the canonical one, so another one must become a number.
            x[element] = if bent.is_nan() { f32::from_bits(x[element].to_bits() ^ 1) } else { bent };
            TensorData::F32(x)
        }
        TensorData::U32(mut x) => {
            x[element] ^= flip;
            TensorData::U32(x)
        }
        TensorData::U8(mut x) => {
            x[element] ^= (1 << (flip.trailing_zeros() % 8)) as u8;
            TensorData::U8(x)
        }
        TensorData::I8(mut x) => {
            x[element] ^= (1u8 << (flip.trailing_zeros() % 8)) as i8;
            TensorData::I8(x)
        }
    };
    Tensor::new(tensor.rows(), tensor.cols(), data)
}

/// The tensors of an operator that lies once and computes everything after it from the lie, as far as that can be computed.
pub(crate) fn tensors(model: &Model, request: &Request, run: &Run, lie: Lie) -> Vec<Tensor> {
    let mut tensors = run.tensors.clone();
    tensors[lie.node] = bend(&run.tensors[lie.node], lie.element, lie.flip);
    let interpreter = Interpreter::new(model);
    for node in lie.node + 1..tensors.len() {
        // What reads a token that does not exist has no value; the liar keeps the old one.
        if let Ok(tensor) = interpreter.recompute(request, run.symbols, &tensors, node as u32)
            && (tensor.rows(), tensor.cols()) == (tensors[node].rows(), tensors[node].cols())
        {
            tensors[node] = tensor;
        }
    }
    tensors
}

/// The trace over such tensors, claimed as a run over the same tokens.
pub(crate) fn trace(run: &Run, tensors: Vec<Tensor>) -> MemoryTrace {
    let output = tensors.last().and_then(|last| last.u8().ok()).map(<[u8]>::to_vec).unwrap_or_default();
    MemoryTrace::from_tensors(run.symbols, run.generated.clone(), output, tensors, None)
}

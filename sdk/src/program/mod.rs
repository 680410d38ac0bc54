//! A model as a graph of operations, its identity, and what a run of it leaves behind.
//!
//! The normative text is `docs/program.md`; rules are cited by number (`P-12`). In short:
//!
//! - A [`Program`] is a list of [`Node`]s in topological order. Each has an [`Op`], [`Operand`]s that come before it and
//!   a shape of two [`Dim`]s, linear in the [`Symbols`] that a request fixes. The same graph serves every request.
//! - [`Weights`] are tensors of rows. A [`Model`] is program, weights, vocabulary and [`Limits`]; its id commits to all.
//! - Every element of every node is checkable from a bounded number of earlier elements. Models for which that is not
//!   so are refused by [`Model::validate`].
//!
//! ```text
//! builder ──> Program + Weights ──> Model ──> model id
//!                                     │
//!                     Request ──> interpret ──> output bytes, every tensor ──> trace root, openings
//! ```

mod builder;
mod dim;
mod encoding;
mod error;
mod identity;
mod interpret;
mod kernels;
mod layers;
mod model;
mod op;
mod shapes;
mod step;
mod tensor;
mod trace;
mod validate;
mod view;
mod weights;

pub use builder::{ProgramBuilder, Value};
pub use dim::{DType, Dim, MAX_DIM, Symbols};
pub use error::{DecodeError, ModelError, RequestError, RunError};
pub use identity::{ModelDescriptor, NodeOpening, TensorDescriptor, TokenOpening, WeightOpening, WeightsTree};
pub use interpret::{FailedCheck, Interpreter, Run};
pub(crate) use kernels::{binary, unary};
pub use layers::{Attention, Image, Window};
pub use model::{Limits, Model, Params, Program, Request};
pub use op::{BinaryFunction, ConcatAxis, EncodeKind, InputKind, Node, Op, Operand, UnaryFunction};
pub use step::{MAX_PART_LEAVES, Read, Step};
pub use tensor::{Tensor, TensorData};
pub use trace::{TraceBuilder, TraceOpening, TraceTree, tensor_root, tensor_tree};
pub use validate::{
    BoundNode, BoundProgram, MAX_ENTRY_BYTES, MAX_NODE_ELEMENTS, MAX_NODES, MAX_OPERANDS, MAX_PARTIALS,
};
pub use view::{BoundView, MAX_AXES, MAX_DIGITS, View, ViewAxis};
pub use weights::{LEAF, WeightBytes, WeightTensor, WeightType, Weights};

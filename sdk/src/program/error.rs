//! What can be wrong with a graph, with weights, and with a request.

use thiserror::Error;

use super::DType;

/// A model that must not be run: some step of it is undefined or could not be verified.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModelError {
    /// A node is malformed.
    #[error("node {node} ({op}{}): {field}: {problem}", label_suffix(.label))]
    Node {
        /// Index of the node.
        node: u32,
        /// Name of its operation.
        op: &'static str,
        /// Its label, if it has one.
        label: String,
        /// The offending field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The graph as a whole is malformed.
    #[error("graph: {0}")]
    Graph(String),
    /// A weight tensor is malformed.
    #[error("weight {name}: {problem}")]
    Weight {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A limit is absurd or contradicts the graph.
    #[error("limits: {field}: {problem}")]
    Limits {
        /// The offending limit.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The vocabulary is malformed.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
}

fn label_suffix(label: &str) -> String {
    if label.is_empty() { String::new() } else { format!(" {label}") }
}

/// Bytes that are not a canonical descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("word {word}: {problem}")]
pub struct DecodeError {
    /// Index of the 32-byte word.
    pub word: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// A request that has no answer: an honest operator leaves it alone and nobody can defend an answer to it.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum RequestError {
    /// Fewer bytes than the model takes.
    #[error("input of {got} bytes is too short: the model takes at least {min}")]
    TooShort {
        /// Bytes of the input.
        got: usize,
        /// The model's minimum.
        min: u32,
    },
    /// More bytes than the model takes.
    #[error("input of {got} bytes is too long: the model takes at most {max}")]
    TooLong {
        /// Bytes of the input.
        got: usize,
        /// The model's maximum.
        max: u32,
    },
    /// The input does not fill the shape the model reads.
    #[error("input of {got} bytes does not fill {rows} x {cols} {kind}: that takes {expected}")]
    WrongLength {
        /// Bytes of the input.
        got: usize,
        /// Bytes the shape takes.
        expected: u64,
        /// Rows of the input node.
        rows: usize,
        /// Columns of the input node.
        cols: usize,
        /// What an element is.
        kind: &'static str,
    },
    /// Token ids are four bytes each.
    #[error("input of {got} bytes is not a whole number of 4-byte token ids")]
    PartialToken {
        /// Bytes of the input.
        got: usize,
    },
    /// A token id that the model does not know.
    #[error("token {token} at position {position} is out of range: the vocabulary has {bound}")]
    TokenOutOfRange {
        /// Position in the sequence.
        position: usize,
        /// The id.
        token: u32,
        /// Ids are below this.
        bound: u32,
    },
    /// Text that is not UTF-8.
    #[error("input is not valid UTF-8 from byte {valid_up_to}")]
    InvalidUtf8 {
        /// Bytes before it are valid.
        valid_up_to: usize,
    },
    /// A request to generate nothing.
    #[error("max_tokens is 0: a generating model must be asked for at least one token")]
    NoTokens,
    /// A parameter that means nothing.
    #[error("{field} {value} is not usable: {problem}")]
    Parameter {
        /// The parameter.
        field: &'static str,
        /// Its value.
        value: f32,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// A run that did not give an answer.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum RunError {
    /// The request is at fault.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The model is at fault.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The claimed sequence cannot be one the model generated.
    #[error("claimed sequence: {0}")]
    Claim(String),
    /// A computed index points outside what it indexes.
    #[error("node {node}, row {row}: index {index} is out of range: {bound} entries")]
    IndexOutOfRange {
        /// The node that looks up.
        node: u32,
        /// Its row.
        row: usize,
        /// The index.
        index: u32,
        /// Entries there are.
        bound: usize,
    },
    /// A tensor has elements of another type than its reader expects; validation excludes it.
    #[error("expected {expected:?} elements, found {found:?}")]
    Type {
        /// What the reader expects.
        expected: DType,
        /// What the tensor holds.
        found: DType,
    },
    /// The run would take more memory than the caller allows.
    #[error("node {node} brings the run to {needed} bytes; the limit is {limit}")]
    Memory {
        /// The node that would exceed the limit.
        node: u32,
        /// Bytes held with it.
        needed: u64,
        /// The caller's limit.
        limit: u64,
    },
}

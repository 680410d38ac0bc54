//! Program, model and request: what is run, and on what.

use serde::{Deserialize, Serialize};

use super::{Dim, InputKind, Node, Op, Operand, RequestError, Symbols, Weights};

/// A graph: nodes in topological order, the last of which holds the output bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The nodes.
    pub nodes: Vec<Node>,
}

impl Program {
    /// The kind of the request's input, from node 0.
    pub fn input_kind(&self) -> Option<InputKind> {
        match self.nodes.first()?.op {
            Op::Input { kind, .. } => Some(kind),
            _ => None,
        }
    }

    /// The node that checks generated tokens, if the program generates: its operands are the sequence and the samples.
    pub fn generation(&self) -> Option<Generation> {
        self.nodes.iter().enumerate().find_map(|(check, node)| match (&node.op, node.inputs.as_slice()) {
            (Op::CheckGenerated { stop }, [Operand::Node(tokens), Operand::Node(samples)]) => Some(Generation {
                check: u32::try_from(check).ok()?,
                tokens: *tokens,
                samples: *samples,
                stop: stop.clone(),
            }),
            _ => None,
        })
    }
}

/// Where a generating program keeps its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The [`Op::CheckGenerated`] node.
    pub check: u32,
    /// The node of the whole sequence, `[S, 1]`.
    pub tokens: u32,
    /// The node of the sampled tokens, `[S - P, 1]`.
    pub samples: u32,
    /// Tokens that end generation.
    pub stop: Vec<u32>,
}

/// What a model accepts and yields, for the chain to enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Least bytes of an input.
    pub min_input_bytes: u32,
    /// Most bytes of an input.
    pub max_input_bytes: u32,
    /// Most bytes of an output.
    pub max_output_bytes: u32,
    /// Most tokens generated for one request; 0 for a model that generates none.
    pub max_tokens: u32,
}

/// What a request asks for besides its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Params {
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// Sampling temperature, f32 bits; +0 is greedy.
    pub temperature: u32,
    /// Least probability relative to the likeliest token, f32 bits; +0 keeps all.
    pub min_p: u32,
}

/// A request as the chain fixed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The input's bytes.
    pub input: Vec<u8>,
    /// Generation parameters.
    pub params: Params,
    /// The seed of all sampling.
    pub seed: [u8; 32],
}

/// A program with its weights, vocabulary and limits.
#[derive(Clone, Debug)]
pub struct Model {
    /// The graph.
    pub program: Program,
    /// Its weights.
    pub weights: Weights,
    /// Bytes of each token, by id; empty if the program does not detokenise.
    pub vocabulary: Vec<Vec<u8>>,
    /// Limits.
    pub limits: Limits,
}

impl Model {
    /// The most tokens a request is answered with (rule P-13).
    pub fn token_limit(&self, params: &Params) -> u32 {
        params.max_tokens.min(self.limits.max_tokens)
    }

    /// Checks a request against the model without running it, and returns the symbols that it alone fixes: in a
    /// generating program `S` is still `P` and `O` is 0.
    ///
    /// # Errors
    /// If the request has no answer.
    pub fn check_request(&self, request: &Request) -> Result<Symbols, RequestError> {
        let got = request.input.len();
        let Limits { min_input_bytes, max_input_bytes, .. } = self.limits;
        if got < min_input_bytes as usize {
            return Err(RequestError::TooShort { got, min: min_input_bytes });
        }
        if got > max_input_bytes as usize {
            return Err(RequestError::TooLong { got, max: max_input_bytes });
        }
        let input_bytes = got as u32; // at most `max_input_bytes`
        let mut symbols = Symbols { sequence: input_bytes, prompt: input_bytes, input_bytes, output_bytes: 0 };

        let Some(Node { op: Op::Input { kind, bound }, rows, cols, .. }) = self.program.nodes.first() else {
            return Ok(symbols); // refused by `validate`
        };
        match kind {
            InputKind::Tokens => {
                if !got.is_multiple_of(4) {
                    return Err(RequestError::PartialToken { got });
                }
                symbols.prompt = input_bytes / 4;
                symbols.sequence = symbols.prompt;
                for (position, bytes) in request.input.as_chunks::<4>().0.iter().enumerate() {
                    let token = u32::from_be_bytes(*bytes);
                    if token >= *bound {
                        return Err(RequestError::TokenOutOfRange { position, token, bound: *bound });
                    }
                }
            }
            InputKind::Utf8 => {
                if let Err(error) = std::str::from_utf8(&request.input) {
                    return Err(RequestError::InvalidUtf8 { valid_up_to: error.valid_up_to() });
                }
                Self::check_length(got, 1, "bytes of text", *rows, *cols, &symbols)?;
            }
            InputKind::U8 => Self::check_length(got, 1, "bytes", *rows, *cols, &symbols)?,
            InputKind::F32Be => Self::check_length(got, 4, "f32 numbers", *rows, *cols, &symbols)?,
        }
        if self.program.generation().is_some() {
            check_params(&request.params)?;
        }
        Ok(symbols)
    }

    fn check_length(
        got: usize,
        width: u64,
        kind: &'static str,
        rows: Dim,
        cols: Dim,
        symbols: &Symbols,
    ) -> Result<(), RequestError> {
        let (rows, cols) = (rows.length(symbols).unwrap_or(0), cols.length(symbols).unwrap_or(0));
        let expected = (rows as u64 * cols as u64).saturating_mul(width);
        if got as u64 == expected { Ok(()) } else { Err(RequestError::WrongLength { got, expected, rows, cols, kind }) }
    }
}

/// Parameters that sampling is defined for (rule P-14).
fn check_params(params: &Params) -> Result<(), RequestError> {
    if params.max_tokens == 0 {
        return Err(RequestError::NoTokens);
    }
    let temperature = f32::from_bits(params.temperature);
    // -0 is refused too: one way to say greedy.
    if !temperature.is_finite() || temperature.is_sign_negative() {
        let problem = "a temperature is a finite number that is not negative";
        return Err(RequestError::Parameter { field: "temperature", value: temperature, problem });
    }
    let min_p = f32::from_bits(params.min_p);
    if min_p.is_nan() || min_p.is_sign_negative() || min_p > 1.0 {
        let problem = "a relative probability is a number from 0 to 1";
        return Err(RequestError::Parameter { field: "min_p", value: min_p, problem });
    }
    Ok(())
}

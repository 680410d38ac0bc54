//! The one byte encoding of a node (rules P-40 to P-43): 32-byte big-endian words, so that Solidity reads a field with
//! one `calldataload`.
//!
//! ```text
//! header    operation | type << 8 | operands << 16 | attribute words << 24
//! rows      dimension
//! cols      dimension
//! operand   value | kind << 32                                             one word each
//! attribute                                                                as the operation says
//! ```
//!
//! A number is right-aligned. A dimension is eight big-endian i32 lanes from the most significant end: constant, S, P,
//! B, O, and three zeros. The steps of a view's axis are eight such lanes, one per digit.

use super::{
    BinaryFunction, ConcatAxis, DType, DecodeError, Dim, EncodeKind, InputKind, MAX_AXES, MAX_DIGITS, MAX_NODES,
    MAX_OPERANDS, Node, Op, Operand, Program, UnaryFunction, View, ViewAxis,
};

type Word = [u8; 32];

/// Attribute words there can be: the header counts them in a byte.
const MAX_ATTRIBUTES: usize = 255;

impl Node {
    /// The descriptor that the graph root commits to. The label is not part of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut attributes = Vec::new();
        encode_attributes(&self.op, &mut attributes);
        // A node with too many of either does not pass validation; the clamp keeps this function total.
        let header = u32::from(self.op.code())
            | u32::from(self.dtype as u8) << 8
            | (self.inputs.len().min(255) as u32) << 16
            | (attributes.len().min(MAX_ATTRIBUTES) as u32) << 24;
        let mut words = vec![number(header), dim(self.rows), dim(self.cols)];
        words.extend(self.inputs.iter().map(|operand| {
            let (kind, value) = match *operand {
                Operand::Node(index) => (0, index),
                Operand::Weight(index) => (1, index),
                Operand::Constant(bits) => (2, bits),
            };
            wide(u64::from(value) | kind << 32)
        }));
        words.extend(attributes);
        words.concat()
    }

    /// Reads one descriptor from the front of `bytes` and returns the node, without a label, and its length in bytes.
    ///
    /// # Errors
    /// If the bytes are cut short or are not exactly what [`Node::encode`] gives for some node.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let mut words = Words { bytes, next: 0 };
        let header = words.number()?;
        let [attributes, operands, dtype, code] = header.to_be_bytes();
        let dtype = DType::from_code(dtype).ok_or_else(|| words.error(format!("unknown element type {dtype}")))?;
        if usize::from(operands) > MAX_OPERANDS {
            return Err(words.error(format!("{operands} operands; at most {MAX_OPERANDS}")));
        }
        let (rows, cols) = (words.dim()?, words.dim()?);
        let mut inputs = Vec::with_capacity(usize::from(operands));
        for _ in 0..operands {
            let word = words.wide()?;
            let value = word as u32;
            inputs.push(match word >> 32 {
                0 => Operand::Node(value),
                1 => Operand::Weight(value),
                2 => Operand::Constant(value),
                kind => return Err(words.error(format!("unknown operand kind {kind}"))),
            });
        }
        let start = words.next;
        let op = decode_attributes(code, usize::from(attributes), &mut words)?;
        if words.next - start != usize::from(attributes) {
            return Err(words.error(format!("header counts {attributes} attribute words, {} read", words.next - start)));
        }
        Ok((Self { op, inputs, dtype, rows, cols, label: String::new() }, words.next * 32))
    }
}

impl Program {
    /// All descriptors one after the other, after a word that counts them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = wide(self.nodes.len() as u64).to_vec();
        for node in &self.nodes {
            bytes.extend(node.encode());
        }
        bytes
    }

    /// Reads what [`Program::encode`] wrote. The result is well encoded, not necessarily well formed.
    ///
    /// # Errors
    /// If the bytes are not exactly the encoding of some program.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let count = Words { bytes, next: 0 }.number()?;
        if count as usize > MAX_NODES {
            return Err(DecodeError { word: 0, problem: format!("{count} nodes; at most {MAX_NODES}") });
        }
        let mut at = 32;
        let mut nodes = Vec::new(); // grows with what is really there, whatever `count` says
        for _ in 0..count {
            let (node, length) = Node::decode(&bytes[at..])
                .map_err(|error| DecodeError { word: at / 32 + error.word, problem: error.problem })?;
            nodes.push(node);
            at += length;
        }
        if at != bytes.len() {
            return Err(DecodeError { word: at / 32, problem: format!("{} bytes left over", bytes.len() - at) });
        }
        Ok(Self { nodes })
    }
}

fn encode_attributes(op: &Op, words: &mut Vec<Word>) {
    match op {
        Op::Input { kind, bound } => words.extend([number(*kind as u32), number(*bound)]),
        Op::View(view) => encode_view(view, words),
        Op::Concat { axis } => words.push(number(*axis as u32)),
        Op::Unary(function) => words.push(number(*function as u32)),
        Op::Binary { function, causal } => words.extend([number(*function as u32), number(*causal)]),
        Op::Rope { head_dim, rotary } => words.extend([number(*head_dim), number(*rotary)]),
        Op::AttentionScores { heads, group, scale, causal } => {
            words.extend([number(*heads), number(*group), number(*scale), number(u32::from(*causal))]);
        }
        Op::AttentionMix { heads, group, causal } => {
            words.extend([number(*heads), number(*group), number(u32::from(*causal))]);
        }
        Op::BlockAbsMax { block } | Op::Quantise { block } => words.push(number(*block)),
        Op::RowSum { causal } | Op::RowMax { causal } => words.push(number(*causal)),
        Op::CheckGenerated { stop } => words.extend(stop.iter().map(|&token| number(token))),
        Op::Encode(kind) => words.push(number(*kind as u32)),
        Op::Gather
        | Op::Take
        | Op::Convert
        | Op::MulAdd
        | Op::Select
        | Op::Linear
        | Op::QuantLinear
        | Op::RowSumSquares
        | Op::Argmax
        | Op::Perturb
        | Op::CheckLength
        | Op::TokenLength
        | Op::PrefixSum
        | Op::Detokenise => {}
    }
}

fn encode_view(view: &View, words: &mut Vec<Word>) {
    words.push(number(view.row_digits.len() as u32));
    words.push(number(view.col_digits.len() as u32));
    words.push(number(view.axes.len() as u32));
    words.push(number(view.fill));
    words.extend(view.row_digits.iter().chain(&view.col_digits).map(|&radix| dim(radix)));
    for axis in &view.axes {
        words.extend([axis.size, axis.offset, axis.row_weight, axis.col_weight].map(dim));
        let mut steps = [0; 8];
        for (lane, &step) in steps.iter_mut().zip(&axis.steps) {
            *lane = step;
        }
        words.push(lanes(steps));
    }
}

fn decode_attributes(code: u8, count: usize, words: &mut Words<'_>) -> Result<Op, DecodeError> {
    Ok(match code {
        0x01 => Op::Input { kind: words.code("input kind", InputKind::from_code)?, bound: words.number()? },
        0x02 => Op::View(decode_view(words)?),
        0x03 => Op::Concat { axis: words.code("axis", ConcatAxis::from_code)? },
        0x04 => Op::Gather,
        0x05 => Op::Take,
        0x06 => Op::Convert,
        0x10 => Op::Unary(words.code("function", UnaryFunction::from_code)?),
        0x11 => Op::Binary { function: words.code("function", BinaryFunction::from_code)?, causal: words.number()? },
        0x12 => Op::MulAdd,
        0x13 => Op::Select,
        0x14 => Op::Rope { head_dim: words.number()?, rotary: words.number()? },
        0x20 => Op::Linear,
        0x21 => Op::AttentionScores {
            heads: words.number()?,
            group: words.number()?,
            scale: words.number()?,
            causal: words.flag()?,
        },
        0x22 => Op::AttentionMix { heads: words.number()?, group: words.number()?, causal: words.flag()? },
        0x23 => Op::BlockAbsMax { block: words.number()? },
        0x24 => Op::Quantise { block: words.number()? },
        0x25 => Op::QuantLinear,
        0x30 => Op::RowSum { causal: words.number()? },
        0x31 => Op::RowSumSquares,
        0x32 => Op::RowMax { causal: words.number()? },
        0x33 => Op::Argmax,
        0x40 => Op::Perturb,
        0x41 => Op::CheckGenerated { stop: (0..count).map(|_| words.number()).collect::<Result<_, _>>()? },
        0x42 => Op::CheckLength,
        0x50 => Op::TokenLength,
        0x51 => Op::PrefixSum,
        0x52 => Op::Detokenise,
        0x53 => Op::Encode(words.code("encoding", EncodeKind::from_code)?),
        code => return Err(words.error(format!("unknown operation {code:#04x}"))),
    })
}

fn decode_view(words: &mut Words<'_>) -> Result<View, DecodeError> {
    let (rows, cols, axes) = (words.number()? as usize, words.number()? as usize, words.number()? as usize);
    if rows > MAX_DIGITS || cols > MAX_DIGITS - rows || axes > MAX_AXES {
        return Err(words.error(format!("{rows} + {cols} digits and {axes} axes; at most {MAX_DIGITS} and {MAX_AXES}")));
    }
    let fill = words.number()?;
    let row_digits = (0..rows).map(|_| words.dim()).collect::<Result<_, _>>()?;
    let col_digits = (0..cols).map(|_| words.dim()).collect::<Result<_, _>>()?;
    let mut decoded = Vec::with_capacity(axes);
    for _ in 0..axes {
        let (size, offset, row_weight, col_weight) = (words.dim()?, words.dim()?, words.dim()?, words.dim()?);
        let steps = words.lanes()?;
        let (used, unused) = steps.split_at(rows + cols);
        if unused.iter().any(|&lane| lane != 0) {
            return Err(words.error("a step for a digit that does not exist".to_string()));
        }
        decoded.push(ViewAxis { size, offset, steps: used.to_vec(), row_weight, col_weight });
    }
    Ok(View { row_digits, col_digits, axes: decoded, fill })
}

fn number(value: u32) -> Word {
    wide(u64::from(value))
}

fn wide(value: u64) -> Word {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&value.to_be_bytes());
    word
}

fn lanes(values: [i32; 8]) -> Word {
    let mut word = [0; 32];
    for (lane, value) in word.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *lane = value.to_be_bytes();
    }
    word
}

fn dim(dim: Dim) -> Word {
    let [constant, s, p, b, o] = dim.lanes();
    lanes([constant, s, p, b, o, 0, 0, 0])
}

/// A reader of words that reports where it stands.
struct Words<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl Words<'_> {
    /// An error about the word read last.
    fn error(&self, problem: String) -> DecodeError {
        DecodeError { word: self.next.saturating_sub(1), problem }
    }

    fn word(&mut self) -> Result<Word, DecodeError> {
        let rest = self.bytes.get(self.next * 32..).unwrap_or_default();
        let Some((word, _)) = rest.split_first_chunk::<32>() else {
            return Err(DecodeError { word: self.next, problem: format!("cut short: {} bytes of 32", rest.len()) });
        };
        self.next += 1;
        Ok(*word)
    }

    fn wide(&mut self) -> Result<u64, DecodeError> {
        let word = self.word()?;
        let (high, low) = word.split_at(24);
        if high.iter().any(|&byte| byte != 0) {
            return Err(self.error("number of more than 64 bits".to_string()));
        }
        Ok(low.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn number(&mut self) -> Result<u32, DecodeError> {
        let value = self.wide()?;
        u32::try_from(value).map_err(|_| self.error(format!("{value} is a number of more than 32 bits")))
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(format!("flag {other}"))),
        }
    }

    fn code<T>(&mut self, what: &str, from_code: impl Fn(u32) -> Option<T>) -> Result<T, DecodeError> {
        let code = self.number()?;
        from_code(code).ok_or_else(|| self.error(format!("unknown {what} {code}")))
    }

    fn lanes(&mut self) -> Result<[i32; 8], DecodeError> {
        let word = self.word()?;
        let mut lanes = [0; 8];
        for (lane, bytes) in lanes.iter_mut().zip(word.as_chunks::<4>().0) {
            *lane = i32::from_be_bytes(*bytes);
        }
        Ok(lanes)
    }

    fn dim(&mut self) -> Result<Dim, DecodeError> {
        match self.lanes()? {
            [constant, s, p, b, o, 0, 0, 0] => Ok(Dim { constant, s, p, b, o }),
            _ => Err(self.error("dimension with a lane beyond O".to_string())),
        }
    }
}

//! Nodes of a program: opcodes, operands and attributes.
//!
//! What each opcode computes is written once, normatively, in `docs/program.md`; the comments here say it in a line.
//! `r`, `c` are the row and column of an element of the result, `X`, `Y` the operands.

use super::{DType, Dim, View};

/// One node: an operation on operands that come before it, and the tensor it yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What is computed, with its attributes.
    pub op: Op,
    /// What it is computed from.
    pub inputs: Vec<Operand>,
    /// Element type of the result.
    pub dtype: DType,
    /// Rows of the result.
    pub rows: Dim,
    /// Columns of the result.
    pub cols: Dim,
    /// A name for people (`layer.3.mlp.gate`); not committed to.
    pub label: String,
}

/// Where a node reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The tensor of an earlier node.
    Node(u32),
    /// A tensor of the model's weights.
    Weight(u32),
    /// A 1x1 f32 constant, as bits.
    Constant(u32),
}

impl Operand {
    /// An f32 constant.
    pub const fn constant(value: f32) -> Self {
        Self::Constant(value.to_bits())
    }
}

/// Operation and attributes. Floating-point attributes are bits, so that descriptors compare and hash exactly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The request's input. Node 0 and only node 0.
    Input {
        /// How bytes become elements.
        kind: InputKind,
        /// Token ids are below this; 0 for the other kinds.
        bound: u32,
    },
    /// `X` seen through an index map.
    View(View),
    /// Operands side by side.
    Concat {
        /// Which way.
        axis: ConcatAxis,
    },
    /// Row lookup: `Y[X[r, 0], c]`, widened to f32.
    Gather,
    /// Column lookup: `X[r, Y[0, c]]`.
    Take,
    /// Integer to f32, nearest even.
    Convert,
    /// `f(X[r, c])`.
    Unary(UnaryFunction),
    /// `f(X[r, c], Y[r, c])`, either one broadcast.
    Binary {
        /// The function.
        function: BinaryFunction,
        /// Raggedness; see [`Op::extent`].
        causal: u32,
    },
    /// `fma(X, Y, Z)`, each broadcast.
    MulAdd,
    /// `X != 0 ? Y : Z`, each broadcast.
    Select,
    /// Rotary embedding of each head's first `rotary` columns; the row is the position; `Y`, `Z` are cos and sin.
    Rope {
        /// Columns of a head.
        head_dim: u32,
        /// Columns of a head that turn (even).
        rotary: u32,
    },
    /// `dot(X[r, :], W[c, :])`, plus `bias[0, c]` if there is a third operand.
    Linear,
    /// Row `i*heads + h`, column `j`: `scale * dot` of head `h` of `X[i]` and head `h / group` of `Y[j]`.
    AttentionScores {
        /// Query heads.
        heads: u32,
        /// Query heads per key head.
        group: u32,
        /// The factor, f32 bits.
        scale: u32,
        /// Elements with `j > i` are +0.
        causal: bool,
    },
    /// Row `i`, column `h*D + d`: `dot(X[i*heads + h, :], Y[(h / group)*D + d, :])`, over `k <= i` if causal.
    AttentionMix {
        /// Query heads.
        heads: u32,
        /// Query heads per value head.
        group: u32,
        /// Sum over `k <= i` only.
        causal: bool,
    },
    /// Largest magnitude of each block of a row.
    BlockAbsMax {
        /// 32 or 128.
        block: u32,
    },
    /// `X` as signed bytes relative to its block's largest magnitude `Y`.
    Quantise {
        /// 32 or 128.
        block: u32,
    },
    /// Quantised contraction of bytes `X` with magnitudes `Y` and quantised weights `W`, plus an optional bias.
    QuantLinear,
    /// Sum of each row.
    RowSum {
        /// Raggedness; see [`Op::extent`].
        causal: u32,
    },
    /// Sum of the squares of each row.
    RowSumSquares,
    /// Largest element of each row.
    RowMax {
        /// Raggedness; see [`Op::extent`].
        causal: u32,
    },
    /// Index of the largest element of each row, lowest among equals.
    Argmax,
    /// Logits `X` with row maxima `Y` made ready for argmax by the request's temperature, min-p and seed.
    Perturb,
    /// 1 where a generated token of `X` is the sampled one of `Y` and generation stopped where it must.
    CheckGenerated {
        /// Tokens that end generation, ascending.
        stop: Vec<u32>,
    },
    /// 1 if the last element of `X` is `O`.
    CheckLength,
    /// Bytes of the vocabulary entry of each token.
    TokenLength,
    /// Running sum down a column.
    PrefixSum,
    /// Vocabulary entries of tokens `X`, which end at offsets `Y`, one after the other.
    Detokenise,
    /// Elements as bytes.
    Encode(EncodeKind),
}

impl Op {
    /// Elements of row `r` that are defined by the operation, of `cols`: all, or `r / causal + 1` in a causal node,
    /// whose row `r` belongs to position `r / causal`. Nothing reads an element beyond; the trace holds +0 there.
    pub fn extent(causal: u32, r: usize, cols: usize) -> usize {
        match causal {
            0 => cols,
            divisor => (r / divisor as usize + 1).min(cols),
        }
    }

    /// The name used in documents and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input { .. } => "Input",
            Self::View(_) => "View",
            Self::Concat { .. } => "Concat",
            Self::Gather => "Gather",
            Self::Take => "Take",
            Self::Convert => "Convert",
            Self::Unary(_) => "Unary",
            Self::Binary { .. } => "Binary",
            Self::MulAdd => "MulAdd",
            Self::Select => "Select",
            Self::Rope { .. } => "Rope",
            Self::Linear => "Linear",
            Self::AttentionScores { .. } => "AttentionScores",
            Self::AttentionMix { .. } => "AttentionMix",
            Self::BlockAbsMax { .. } => "BlockAbsMax",
            Self::Quantise { .. } => "Quantise",
            Self::QuantLinear => "QuantLinear",
            Self::RowSum { .. } => "RowSum",
            Self::RowSumSquares => "RowSumSquares",
            Self::RowMax { .. } => "RowMax",
            Self::Argmax => "Argmax",
            Self::Perturb => "Perturb",
            Self::CheckGenerated { .. } => "CheckGenerated",
            Self::CheckLength => "CheckLength",
            Self::TokenLength => "TokenLength",
            Self::PrefixSum => "PrefixSum",
            Self::Detokenise => "Detokenise",
            Self::Encode(_) => "Encode",
        }
    }

    /// The byte that stands for the operation in a descriptor.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Input { .. } => 0x01,
            Self::View(_) => 0x02,
            Self::Concat { .. } => 0x03,
            Self::Gather => 0x04,
            Self::Take => 0x05,
            Self::Convert => 0x06,
            Self::Unary(_) => 0x10,
            Self::Binary { .. } => 0x11,
            Self::MulAdd => 0x12,
            Self::Select => 0x13,
            Self::Rope { .. } => 0x14,
            Self::Linear => 0x20,
            Self::AttentionScores { .. } => 0x21,
            Self::AttentionMix { .. } => 0x22,
            Self::BlockAbsMax { .. } => 0x23,
            Self::Quantise { .. } => 0x24,
            Self::QuantLinear => 0x25,
            Self::RowSum { .. } => 0x30,
            Self::RowSumSquares => 0x31,
            Self::RowMax { .. } => 0x32,
            Self::Argmax => 0x33,
            Self::Perturb => 0x40,
            Self::CheckGenerated { .. } => 0x41,
            Self::CheckLength => 0x42,
            Self::TokenLength => 0x50,
            Self::PrefixSum => 0x51,
            Self::Detokenise => 0x52,
            Self::Encode(_) => 0x53,
        }
    }
}

/// An enumeration whose variants have a fixed code in descriptors.
macro_rules! coded {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_meta])* $variant = $code,)* }

        impl $name {
            /// Every variant, by ascending code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub(crate) const fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

coded! {
    /// How the request's bytes become elements.
    InputKind {
        /// f32, big-endian, NaN made canonical: `rows * cols * 4` bytes.
        F32Be = 0,
        /// Bytes as they are: `rows * cols`.
        U8 = 1,
        /// Bytes that must be valid UTF-8.
        Utf8 = 2,
        /// Token ids, u32 big-endian. In a generating program the generated ones follow the prompt.
        Tokens = 3,
    }
}

coded! {
    /// Direction of a concatenation.
    ConcatAxis {
        /// Below each other.
        Rows = 0,
        /// Beside each other.
        Cols = 1,
    }
}

coded! {
    /// f32 functions of one element, as the arithmetic defines them.
    UnaryFunction {
        /// Sign bit flipped.
        Neg = 0,
        /// Sign bit cleared.
        Abs = 1,
        /// `maximum(x, +0)`.
        Relu = 2,
        /// Correctly rounded square root.
        Sqrt = 3,
        /// Reciprocal square root.
        Rsqrt = 4,
        /// Exponential.
        Exp = 5,
        /// Natural logarithm.
        Log = 6,
        /// Hyperbolic tangent.
        Tanh = 7,
        /// Logistic function.
        Sigmoid = 8,
        /// `x * sigmoid(x)`.
        Silu = 9,
        /// Error function.
        Erf = 10,
        /// GELU with the error function.
        GeluErf = 11,
        /// GELU with its tanh approximation.
        GeluTanh = 12,
    }
}

coded! {
    /// f32 functions of two elements.
    BinaryFunction {
        /// Sum.
        Add = 0,
        /// Difference.
        Sub = 1,
        /// Product.
        Mul = 2,
        /// Quotient.
        Div = 3,
        /// IEEE 754-2019 maximum.
        Maximum = 4,
        /// IEEE 754-2019 minimum.
        Minimum = 5,
        /// `exp(sub(x, y))`, the numerator of a softmax.
        ExpSub = 6,
        /// 1 if equal, else 0.
        Equal = 7,
        /// 1 if less, else 0.
        Less = 8,
        /// 1 if less or equal, else 0.
        LessEqual = 9,
    }
}

coded! {
    /// How elements become output bytes, row by row.
    EncodeKind {
        /// f32, big-endian.
        F32Be = 0,
        /// u32, big-endian.
        U32Be = 1,
        /// Bytes as they are.
        U8 = 2,
    }
}

//! What each operation computes, scalar by scalar: the executable form of the table in `docs/program.md`.
//!
//! Shapes were checked when the program was bound; a kernel asserts nothing twice and reads what is there.

use std::borrow::Cow;

use super::{
    BinaryFunction, BoundProgram, ConcatAxis, DType, EncodeKind, InputKind, LEAF, Model, Node, Op, Operand, Request,
    RunError, Symbols, Tensor, TensorData, UnaryFunction, View, WeightTensor, WeightType,
};
use crate::arithmetic::{
    contraction::{accumulate, dot},
    functions,
    quantised::{self, Group, Quantised},
    reduction,
    sampling::{gumbel, min_p_threshold, score},
    scalar::{abs, add, canonical, div, fma, from_i32, from_u32, maximum, minimum, mul, neg, round_to_i32, sqrt, sub},
};

/// Everything a node can depend on.
pub(super) struct Kernels<'a> {
    pub(super) model: &'a Model,
    pub(super) request: &'a Request,
    pub(super) symbols: &'a Symbols,
    pub(super) bound: &'a BoundProgram,
    pub(super) tensors: &'a [Option<Tensor>],
    pub(super) tokens: &'a [u32],
}

/// What an operand reads.
#[derive(Clone, Copy)]
enum Source<'a> {
    Tensor(&'a Tensor),
    Weight(&'a WeightTensor),
    Constant(u32),
}

impl<'a> Source<'a> {
    fn rows(self) -> usize {
        match self {
            Self::Tensor(x) => x.rows(),
            Self::Weight(x) => x.rows(),
            Self::Constant(_) => 1,
        }
    }

    fn cols(self) -> usize {
        match self {
            Self::Tensor(x) => x.cols(),
            Self::Weight(x) => x.cols(),
            Self::Constant(_) => 1,
        }
    }

    /// Element (`r`, `c`) as 32 bits, see [`Tensor::bits`].
    fn bits(self, r: usize, c: usize) -> u32 {
        match self {
            Self::Tensor(x) => x.bits(r, c),
            Self::Weight(x) => x.bits(r, c),
            Self::Constant(bits) => bits,
        }
    }

    /// Row `r`, f32.
    fn row(self, r: usize) -> Result<Cow<'a, [f32]>, RunError> {
        Ok(match self {
            Self::Tensor(x) => Cow::Borrowed(&x.f32()?[r * x.cols()..(r + 1) * x.cols()]),
            Self::Weight(x) => Cow::Owned(x.row_f32(r)),
            Self::Constant(bits) => Cow::Owned(vec![f32::from_bits(bits)]),
        })
    }

    /// The f32 element that belongs to (`r`, `c`) of a result with `cols` columns: an operand of one row serves all
    /// rows, and each of its columns serves the same number of columns.
    fn broadcast(self, r: usize, c: usize, cols: usize) -> f32 {
        let r = if self.rows() == 1 { 0 } else { r };
        f32::from_bits(self.bits(r, c / (cols / self.cols())))
    }
}

impl<'a> Kernels<'a> {
    fn source(&self, operand: Operand) -> Result<Source<'a>, RunError> {
        let missing = || RunError::Claim("an operand that was not evaluated".to_string());
        Ok(match operand {
            Operand::Node(index) => {
                Source::Tensor(self.tensors.get(index as usize).and_then(Option::as_ref).ok_or_else(missing)?)
            }
            Operand::Weight(index) => Source::Weight(self.model.weights.get(index).ok_or_else(missing)?),
            Operand::Constant(bits) => Source::Constant(bits),
        })
    }

    /// The tensor of node `index`.
    pub(super) fn evaluate(&self, index: usize, node: &Node) -> Result<Tensor, RunError> {
        let shape = &self.bound.nodes[index];
        let (rows, cols) = (shape.rows, shape.cols);
        let sources = node.inputs.iter().map(|&operand| self.source(operand)).collect::<Result<Vec<_>, _>>()?;
        let floats = |data: Vec<f32>| Ok(Tensor::new(rows, cols, TensorData::F32(data)));
        let integers = |data: Vec<u32>| Ok(Tensor::new(rows, cols, TensorData::U32(data)));
        let elements = || (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c)));

        match (&node.op, sources.as_slice()) {
            (Op::Input { kind, .. }, []) => Ok(self.input(*kind, rows, cols)),
            (Op::View(View { fill, .. }), [x]) => {
                let map = shape.view.as_ref();
                let element = |(r, c)| map.and_then(|map| map.source(r, c)).map_or(*fill, |(r, c)| x.bits(r, c));
                Ok(from_bits(node.dtype, rows, cols, elements().map(element)))
            }
            (Op::Concat { axis }, parts) => {
                let element = |(mut r, mut c): (usize, usize)| {
                    for part in parts {
                        match axis {
                            ConcatAxis::Rows if r >= part.rows() => r -= part.rows(),
                            ConcatAxis::Cols if c >= part.cols() => c -= part.cols(),
                            _ => return part.bits(r, c),
                        }
                    }
                    0 // not reached: the parts add up to the result
                };
                Ok(from_bits(node.dtype, rows, cols, elements().map(element)))
            }
            (Op::Gather, [ids, table]) => {
                let mut bits = Vec::with_capacity(rows * cols);
                for r in 0..rows {
                    let id = ids.bits(r, 0);
                    if id as usize >= table.rows() {
                        let bound = table.rows();
                        return Err(RunError::IndexOutOfRange { node: index as u32, row: r, index: id, bound });
                    }
                    bits.extend((0..cols).map(|c| table.bits(id as usize, c)));
                }
                Ok(from_bits(node.dtype, rows, cols, bits.into_iter()))
            }
            (Op::Take, [x, columns]) => {
                let element = |(r, c)| x.bits(r, columns.bits(0, c) as usize);
                Ok(from_bits(node.dtype, rows, cols, elements().map(element)))
            }
            (Op::Convert, [x]) => {
                let signed = matches!(x, Source::Tensor(x) if x.dtype() == DType::I8);
                let convert = |bits: u32| if signed { from_i32(bits as i32) } else { from_u32(bits) };
                floats(elements().map(|(r, c)| convert(x.bits(r, c))).collect())
            }

            (Op::Unary(function), [x]) => {
                let f = unary(*function);
                floats(elements().map(|(r, c)| f(f32::from_bits(x.bits(r, c)))).collect())
            }
            (Op::Binary { function, causal }, [x, y]) => {
                let f = binary(*function);
                let element = |(r, c)| match c < Op::extent(*causal, r, cols) {
                    true => f(x.broadcast(r, c, cols), y.broadcast(r, c, cols)),
                    false => 0.0,
                };
                floats(elements().map(element).collect())
            }
            (Op::MulAdd, [x, y, z]) => {
                let element = |(r, c)| fma(x.broadcast(r, c, cols), y.broadcast(r, c, cols), z.broadcast(r, c, cols));
                floats(elements().map(element).collect())
            }
            (Op::Select, [mask, x, y]) => {
                let element = |(r, c)| match mask.broadcast(r, c, cols) != 0.0 {
                    true => x.broadcast(r, c, cols),
                    false => y.broadcast(r, c, cols),
                };
                floats(elements().map(element).collect())
            }
            (Op::Rope { head_dim, rotary }, [x, cos, sin]) => {
                let (head_dim, rotary, half) = (*head_dim as usize, *rotary as usize, *rotary as usize / 2);
                let element = |(r, c): (usize, usize)| {
                    let d = c % head_dim;
                    let x = |c| f32::from_bits(x.bits(r, c));
                    if d >= rotary {
                        return x(c);
                    }
                    let (cos, sin) = (f32::from_bits(cos.bits(r, d % half)), f32::from_bits(sin.bits(r, d % half)));
                    match d < half {
                        true => sub(mul(x(c), cos), mul(x(c + half), sin)),
                        false => add(mul(x(c), cos), mul(x(c - half), sin)),
                    }
                };
                floats(elements().map(element).collect())
            }

            (Op::Linear, [x, w, bias @ ..]) => {
                let mut data = vec![0.0; rows * cols];
                for o in 0..cols {
                    let weights = w.row(o)?;
                    for i in 0..rows {
                        data[i * cols + o] = with_bias(dot(&x.row(i)?, &weights), bias, o);
                    }
                }
                floats(data)
            }
            (Op::QuantLinear, [Source::Tensor(q), amax, Source::Weight(w), bias @ ..]) => {
                let group = if w.dtype() == WeightType::Q8_0 { Group::G32 } else { Group::G128 };
                let mut data = vec![0.0; rows * cols];
                for o in 0..cols {
                    let weights = dequantisable(w, o)?;
                    for i in 0..rows {
                        let bytes = &q.i8()?[i * q.cols()..(i + 1) * q.cols()];
                        let scales: Vec<f32> = amax.row(i)?.iter().map(|&amax| div(amax, 127.0)).collect();
                        let sum = quantised_dot((bytes, &scales), &weights, group);
                        data[i * cols + o] = with_bias(sum, bias, o);
                    }
                }
                floats(data)
            }
            (Op::AttentionScores { heads, group, scale, causal }, [x, y]) => {
                let (heads, group) = (*heads as usize, *group as usize);
                let width = x.cols() / heads;
                let mut data = vec![0.0; rows * cols];
                for i in 0..x.rows() {
                    let queries = x.row(i)?;
                    for j in 0..if *causal { i + 1 } else { cols } {
                        let keys = y.row(j)?;
                        for h in 0..heads {
                            let (q, k) = (h * width, h / group * width);
                            let sum = dot(&queries[q..q + width], &keys[k..k + width]);
                            data[(i * heads + h) * cols + j] = mul(sum, f32::from_bits(*scale));
                        }
                    }
                }
                floats(data)
            }
            (Op::AttentionMix { heads, group, causal }, [x, y]) => {
                let (heads, group) = (*heads as usize, *group as usize);
                let width = cols / heads;
                let mut data = vec![0.0; rows * cols];
                for i in 0..rows {
                    let length = if *causal { i + 1 } else { x.cols() };
                    for h in 0..heads {
                        let weights = x.row(i * heads + h)?;
                        for d in 0..width {
                            let values = y.row(h / group * width + d)?;
                            data[i * cols + h * width + d] = dot(&weights[..length], &values[..length]);
                        }
                    }
                }
                floats(data)
            }
            (Op::BlockAbsMax { block }, [x]) => {
                let mut data = Vec::with_capacity(rows * cols);
                for r in 0..rows {
                    let row = x.row(r)?;
                    data.extend(row.chunks(*block as usize).map(|x| x.iter().fold(0.0, |m, &x| maximum(m, abs(x)))));
                }
                floats(data)
            }
            (Op::Quantise { block }, [x, amax]) => {
                let element = |(r, c): (usize, usize)| {
                    let amax = f32::from_bits(amax.bits(r, c / *block as usize));
                    let inverse = if amax == 0.0 { 0.0 } else { div(127.0, amax) };
                    round_to_i32(mul(f32::from_bits(x.bits(r, c)), inverse)).clamp(-127, 127) as i8
                };
                Ok(Tensor::new(rows, cols, TensorData::I8(elements().map(element).collect())))
            }

            (Op::RowSum { causal }, [x]) => {
                floats(rowwise(*x, rows, |r, x| reduction::sum(&x[..Op::extent(*causal, r, x.len())]))?)
            }
            (Op::RowSumSquares, [x]) => floats(rowwise(*x, rows, |_, x| reduction::sum_squares(x))?),
            (Op::RowMax { causal }, [x]) => {
                floats(rowwise(*x, rows, |r, x| reduction::maximum(&x[..Op::extent(*causal, r, x.len())]))?)
            }
            // Rows are not empty.
            (Op::Argmax, [x]) => integers(rowwise(*x, rows, |_, x| reduction::argmax(x).unwrap_or(0) as u32)?),

            (Op::Perturb, [logits, max]) => {
                let temperature = f32::from_bits(self.request.params.temperature);
                let min_p = f32::from_bits(self.request.params.min_p);
                let element = |(r, c): (usize, usize)| {
                    let logit = f32::from_bits(logits.bits(r, c));
                    // Greedy: the argmax of the logits themselves.
                    if temperature <= 0.0 || temperature.is_nan() {
                        return logit;
                    }
                    let threshold = min_p_threshold(f32::from_bits(max.bits(r, 0)), temperature, min_p);
                    score(logit, threshold, temperature, gumbel(&self.request.seed, r as u32, c as u32))
                };
                floats(elements().map(element).collect())
            }
            (Op::CheckGenerated { stop }, [tokens, samples]) => {
                let (prompt, limit) = (self.symbols.prompt as usize, self.model.token_limit(&self.request.params));
                let element = |i: usize| {
                    let token = tokens.bits(prompt + i, 0);
                    let stops = stop.contains(&token);
                    let ends = if i + 1 == rows { stops || rows == limit as usize } else { !stops };
                    u32::from(token == samples.bits(i, 0) && ends)
                };
                integers((0..rows).map(element).collect())
            }
            (Op::CheckLength, [ends]) => {
                let length = ends.bits(ends.rows() - 1, 0);
                integers(vec![u32::from(length == self.symbols.output_bytes)])
            }
            (Op::TokenLength, [tokens]) => {
                let lengths = (0..rows).map(|r| self.entry(index, r, tokens.bits(r, 0)).map(|e| e.len() as u32));
                integers(lengths.collect::<Result<_, _>>()?)
            }
            (Op::PrefixSum, [x]) => {
                let sums = (0..rows).scan(0u32, |sum, r| {
                    *sum = sum.wrapping_add(x.bits(r, 0));
                    Some(*sum)
                });
                integers(sums.collect())
            }
            (Op::Detokenise, [tokens, ends]) => {
                let mut text = Vec::with_capacity(cols);
                for r in 0..tokens.rows() {
                    let entry = self.entry(index, r, tokens.bits(r, 0))?;
                    let start = if r == 0 { 0 } else { ends.bits(r - 1, 0) as usize };
                    // Byte `k` is byte `k - start` of the entry it lies in; `ends` is the running sum of the lengths.
                    let bytes = (start..(ends.bits(r, 0) as usize).min(cols)).map(|k| entry.get(k - start).copied());
                    text.extend(bytes.map(Option::unwrap_or_default));
                }
                text.resize(cols, 0);
                Ok(Tensor::new(1, cols, TensorData::U8(text)))
            }
            (Op::Encode(kind), [x]) => {
                let bits = (0..x.rows()).flat_map(|r| (0..x.cols()).map(move |c| x.bits(r, c)));
                let bytes = match kind {
                    EncodeKind::F32Be | EncodeKind::U32Be => bits.flat_map(u32::to_be_bytes).collect(),
                    EncodeKind::U8 => bits.map(|bits| bits as u8).collect(),
                };
                Ok(Tensor::new(1, cols, TensorData::U8(bytes)))
            }
            (op, operands) => {
                Err(RunError::Claim(format!("{} with {} operands was not validated", op.name(), operands.len())))
            }
        }
    }

    fn input(&self, kind: InputKind, rows: usize, cols: usize) -> Tensor {
        let input = &self.request.input;
        let data = match kind {
            InputKind::F32Be => {
                let values = input.as_chunks::<4>().0.iter().map(|bytes| canonical(f32::from_be_bytes(*bytes)));
                TensorData::F32(values.collect())
            }
            InputKind::U8 | InputKind::Utf8 => TensorData::U8(input.clone()),
            InputKind::Tokens => TensorData::U32(self.tokens.to_vec()),
        };
        Tensor::new(rows, cols, data)
    }

    fn entry(&self, node: usize, row: usize, token: u32) -> Result<&'a [u8], RunError> {
        let entry = self.model.vocabulary.get(token as usize).map(Vec::as_slice);
        let bound = self.model.vocabulary.len();
        entry.ok_or(RunError::IndexOutOfRange { node: node as u32, row, index: token, bound })
    }
}

fn from_bits(dtype: DType, rows: usize, cols: usize, bits: impl Iterator<Item = u32>) -> Tensor {
    let data = match dtype {
        DType::F32 => TensorData::F32(bits.map(f32::from_bits).collect()),
        DType::U32 => TensorData::U32(bits.collect()),
        DType::U8 => TensorData::U8(bits.map(|bits| bits as u8).collect()),
        DType::I8 => TensorData::I8(bits.map(|bits| bits as i8).collect()),
    };
    Tensor::new(rows, cols, data)
}

fn rowwise<T>(x: Source<'_>, rows: usize, f: impl Fn(usize, &[f32]) -> T) -> Result<Vec<T>, RunError> {
    (0..rows).map(|r| Ok(f(r, &x.row(r)?))).collect()
}

fn with_bias(sum: f32, bias: &[Source<'_>], o: usize) -> f32 {
    bias.first().map_or(sum, |bias| add(sum, f32::from_bits(bias.bits(0, o))))
}

/// Row `o` of quantised weights.
fn dequantisable(w: &WeightTensor, o: usize) -> Result<Quantised, RunError> {
    let row = match w.dtype() {
        WeightType::Q8_0 => Quantised::from_q8_0(w.row(o), w.cols()),
        _ => Quantised::from_q8_128(w.row(o), w.cols()),
    };
    row.map_err(|error| RunError::Claim(format!("weight {}: {error}", w.name())))
}

/// The quantised contraction of bytes with scales and a row of weights.
fn quantised_dot((q, scales): (&[i8], &[f32]), w: &Quantised, group: Group) -> f32 {
    let per_block = LEAF / group.len();
    let x = q.chunks(LEAF).zip(scales.chunks(per_block));
    let w = w.values().chunks(LEAF).zip(w.scales().chunks(per_block));
    let partials: Vec<f32> = x.zip(w).map(|(x, w)| quantised::partial(x, w, group)).collect();
    accumulate(&partials)
}

pub(crate) fn unary(function: UnaryFunction) -> fn(f32) -> f32 {
    match function {
        UnaryFunction::Neg => neg,
        UnaryFunction::Abs => abs,
        UnaryFunction::Relu => |x| maximum(x, 0.0),
        UnaryFunction::Sqrt => sqrt,
        UnaryFunction::Rsqrt => functions::rsqrt,
        UnaryFunction::Exp => functions::exp,
        UnaryFunction::Log => functions::log,
        UnaryFunction::Tanh => functions::tanh,
        UnaryFunction::Sigmoid => functions::sigmoid,
        UnaryFunction::Silu => functions::silu,
        UnaryFunction::Erf => functions::erf,
        UnaryFunction::GeluErf => functions::gelu_erf,
        UnaryFunction::GeluTanh => functions::gelu_tanh,
    }
}

pub(crate) fn binary(function: BinaryFunction) -> fn(f32, f32) -> f32 {
    match function {
        BinaryFunction::Add => add,
        BinaryFunction::Sub => sub,
        BinaryFunction::Mul => mul,
        BinaryFunction::Div => div,
        BinaryFunction::Maximum => maximum,
        BinaryFunction::Minimum => minimum,
        BinaryFunction::ExpSub => |x, y| functions::exp(sub(x, y)),
        // Comparisons are false for NaN, and the two zeros are equal.
        BinaryFunction::Equal => |x, y| f32::from(u8::from(x == y)),
        BinaryFunction::Less => |x, y| f32::from(u8::from(x < y)),
        BinaryFunction::LessEqual => |x, y| f32::from(u8::from(x <= y)),
    }
}

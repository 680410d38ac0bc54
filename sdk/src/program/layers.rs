//! Layers composed of primitive operations: linear, norms, convolution and pooling, attention, generation.
//!
//! An engine recognises these compositions and fuses them; what they mean is the meaning of their parts.

use super::{
    BinaryFunction, DType, Dim, Op, Operand, ProgramBuilder, UnaryFunction, Value, View, WeightType, builder::axis,
};

/// An image inside a value: where channel, row and column of a pixel lie in it.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    value: Value,
    channels: u32,
    height: u32,
    width: u32,
    /// Weight of a step along channel, y and x: rows and columns of the value.
    strides: [(u32, u32); 3],
}

impl Image {
    /// One row of channel after channel, as PyTorch lays images out.
    pub fn planar(value: Value, channels: u32, height: u32, width: u32) -> Self {
        Self { value, channels, height, width, strides: [(0, height.saturating_mul(width)), (0, width), (0, 1)] }
    }

    /// One row per pixel, one column per channel, as a convolution yields them.
    pub fn interleaved(value: Value, channels: u32, height: u32, width: u32) -> Self {
        Self { value, channels, height, width, strides: [(0, 1), (width, 0), (1, 0)] }
    }

    /// The value that holds the image.
    pub fn value(&self) -> Value {
        self.value
    }

    /// Channels, height and width.
    pub fn shape(&self) -> (u32, u32, u32) {
        (self.channels, self.height, self.width)
    }

    /// The same image after an elementwise operation on its value.
    pub fn map(self, f: impl FnOnce(Value) -> Value) -> Self {
        Self { value: f(self.value), ..self }
    }
}

/// A window that slides over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub size: (u32, u32),
    /// Vertical and horizontal stride.
    pub stride: (u32, u32),
    /// Rows added above and below, columns added left and right.
    pub padding: (u32, u32),
    /// Distance between the window's rows and columns.
    pub dilation: (u32, u32),
}

impl Window {
    /// A square window that moves by `stride` without padding.
    pub fn square(size: u32, stride: u32) -> Self {
        Self { size: (size, size), stride: (stride, stride), padding: (0, 0), dilation: (1, 1) }
    }

    /// The same with `padding` on all sides.
    pub fn padded(self, padding: u32) -> Self {
        Self { padding: (padding, padding), ..self }
    }

    /// Positions of the window along an axis of `length`, if it fits.
    fn positions(length: u32, size: u32, stride: u32, padding: u32, dilation: u32) -> Option<u32> {
        let reach = size.checked_sub(1)?.checked_mul(dilation)?;
        let padded = length.checked_add(padding.checked_mul(2)?)?;
        let span = padded.checked_sub(1)?.checked_sub(reach)?;
        span.checked_div(stride)?.checked_add(1)
    }
}

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Columns of a head.
    pub head_dim: u32,
    /// What scores are multiplied by, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Position `i` attends to `j <= i` only.
    pub causal: bool,
}

impl ProgramBuilder {
    /// `x * w^T + bias`. Quantised weights meet activations quantised in blocks of the same length.
    pub fn linear(&mut self, x: Value, w: Value, bias: Option<Value>) -> Value {
        let block = self.weight_type(w).and_then(WeightType::block);
        let mut inputs = vec![x];
        let op = match block.and_then(|block| u32::try_from(block).ok()) {
            None => Op::Linear,
            Some(block) => {
                let Some(cols) = x.cols.as_constant() else {
                    self.fault("a quantised linear layer takes a constant number of columns");
                    return x;
                };
                let blocks = (cols.max(0) as u32).div_ceil(block);
                inputs = self.quantised(x, block).map_or_else(
                    || {
                        let amax = self.node(Op::BlockAbsMax { block }, &[x], DType::F32, x.rows, blocks);
                        let q = self.node(Op::Quantise { block }, &[x, amax], DType::I8, x.rows, x.cols);
                        vec![q, amax]
                    },
                    |found| found.to_vec(),
                );
                Op::QuantLinear
            }
        };
        inputs.push(w);
        inputs.extend(bias);
        self.node(op, &inputs, DType::F32, x.rows, w.rows)
    }

    /// `x * y^T` of two activations.
    pub fn matmul_transposed(&mut self, x: Value, y: Value) -> Value {
        let op = Op::AttentionScores { heads: 1, group: 1, scale: 1f32.to_bits(), causal: false };
        self.node(op, &[x, y], DType::F32, x.rows, y.rows)
    }

    /// `e / sum(e)` with `e = exp(x - max(x))`, row by row.
    pub fn softmax(&mut self, x: Value) -> Value {
        let max = self.row_max(x);
        let e = self.binary(BinaryFunction::ExpSub, x, max);
        let z = self.row_sum(e);
        self.div(e, z)
    }

    /// Mean of each row.
    pub fn row_mean(&mut self, x: Value) -> Value {
        let sum = self.row_sum(x);
        let n = self.columns(x);
        self.div(sum, n)
    }

    /// Mean of each column, however many rows there are: `[1, cols]`.
    pub fn column_mean(&mut self, x: Value) -> Value {
        let columns = self.transpose(x);
        let sums = self.row_sum(columns);
        let sums = self.transpose(sums);
        let ones = self.full(1.0, Dim::ONE, x.rows);
        let count = self.row_sum(ones);
        self.div(sums, count)
    }

    /// `rsqrt(mean of squares + epsilon)` of each row.
    fn inverse_deviation(&mut self, x: Value, epsilon: f32) -> Value {
        let squares = self.row_sum_squares(x);
        let n = self.columns(x);
        let mean = self.div(squares, n);
        let epsilon = self.constant(epsilon);
        let shifted = self.add(mean, epsilon);
        self.unary(UnaryFunction::Rsqrt, shifted)
    }

    /// RMS norm: rows scaled to unit mean square, then by `weight`.
    pub fn rms_norm(&mut self, x: Value, weight: Value, epsilon: f32) -> Value {
        let r = self.inverse_deviation(x, epsilon);
        let scaled = self.mul(x, r);
        self.mul(scaled, weight)
    }

    /// Layer norm: rows centred and scaled to unit variance, then `fma` with `weight` and `bias`.
    pub fn layer_norm(&mut self, x: Value, weight: Value, bias: Value, epsilon: f32) -> Value {
        let mean = self.row_mean(x);
        let centred = self.sub(x, mean);
        let r = self.inverse_deviation(centred, epsilon);
        let scaled = self.mul(centred, r);
        self.mul_add(scaled, weight, bias)
    }

    /// Number of columns, as an f32 constant.
    fn columns(&mut self, x: Value) -> Value {
        let Some(cols) = x.cols.as_constant() else {
            self.fault("a mean takes a constant number of columns");
            return self.constant(f32::NAN);
        };
        self.constant(cols as f32)
    }

    /// Attention of `q` `[S, heads * head_dim]` over `k` and `v` `[S, kv_heads * head_dim]`. The mix is divided by the
    /// sum of the softmax at the end, not its weights before.
    pub fn attention(&mut self, q: Value, k: Value, v: Value, shape: Attention) -> Value {
        let Attention { heads, kv_heads, head_dim, scale, causal } = shape;
        if kv_heads == 0 || heads % kv_heads != 0 {
            self.fault(format!("{heads} query heads do not divide among {kv_heads} key heads"));
            return q;
        }
        let group = heads / kv_heads;
        let scale = self.constant(scale);
        let Operand::Constant(scale) = scale.operand else { return q };
        let ragged = if causal { heads } else { 0 };
        let (queries, per_head) = (q.rows, q.rows * heads);

        let op = Op::AttentionScores { heads, group, scale, causal };
        let scores = self.node(op, &[q, k], DType::F32, per_head, k.rows);
        let max = self.node(Op::RowMax { causal: ragged }, &[scores], DType::F32, per_head, Dim::ONE);
        let e = self.binary_causal(BinaryFunction::ExpSub, scores, max, ragged);
        let z = self.node(Op::RowSum { causal: ragged }, &[e], DType::F32, per_head, Dim::ONE);
        let values = self.transpose(v);
        let op = Op::AttentionMix { heads, group, causal };
        let mix = self.node(op, &[e, values], DType::F32, queries, Dim::from(heads.saturating_mul(head_dim)));
        let z = self.join_rows(z, queries, heads);
        self.div(mix, z)
    }

    /// Rotary embedding; `cos` and `sin` are weights of one row per position and `rotary / 2` columns.
    pub fn rope(&mut self, x: Value, cos: Value, sin: Value, head_dim: u32, rotary: u32) -> Value {
        self.node(Op::Rope { head_dim, rotary }, &[x, cos, sin], DType::F32, x.rows, x.cols)
    }

    // Images

    /// Convolution with `weight` `[out, in * height * width]` (PyTorch's order) and `bias` `[1, out]`.
    pub fn conv2d(&mut self, image: Image, weight: Value, bias: Option<Value>, window: Window) -> Image {
        // One row per position, one column per weight: row digits are the position.
        let Some((patches, height, width)) = self.windows(image, window, 2, 0.0) else { return image };
        let result = self.linear(patches, weight, bias);
        let channels = u32::try_from(weight.rows.as_constant().unwrap_or(0)).unwrap_or(0);
        Image::interleaved(result, channels, height, width)
    }

    /// Largest pixel of each window, channel by channel. Padding never wins.
    pub fn max_pool2d(&mut self, image: Image, window: Window) -> Image {
        let Some((patches, height, width)) = self.windows(image, window, 3, f32::NEG_INFINITY) else { return image };
        let pooled = self.row_max(patches);
        pooled_image(pooled, image.channels, height, width)
    }

    /// Mean pixel of each window, channel by channel. Padding counts as zeros.
    pub fn avg_pool2d(&mut self, image: Image, window: Window) -> Image {
        let Some((patches, height, width)) = self.windows(image, window, 3, 0.0) else { return image };
        let pooled = self.row_mean(patches);
        pooled_image(pooled, image.channels, height, width)
    }

    /// All pixels in one row, channel after channel.
    pub fn flatten(&mut self, image: Image) -> Value {
        let digits = [image.channels, image.height, image.width];
        let axes = (0..3)
            .map(|i| {
                let mut steps = [0; 3];
                steps[i] = 1;
                let (row_weight, col_weight) = image.strides[i];
                axis(digits[i].into(), Dim::ZERO, &steps, row_weight.into(), col_weight.into())
            })
            .collect();
        let view = View { row_digits: vec![], col_digits: digits.map(Dim::from).to_vec(), axes, fill: 0 };
        let pixels = image.channels.saturating_mul(image.height).saturating_mul(image.width);
        self.view(image.value, view, Dim::ONE, pixels)
    }

    /// The windows of an image, as a view with its height and width in windows. Its digits are window row, window
    /// column, channel, row in the window, column in the window; the first `split` of them make the rows.
    fn windows(&mut self, image: Image, window: Window, split: usize, fill: f32) -> Option<(Value, u32, u32)> {
        let Window { size, stride, padding, dilation } = window;
        let height = Window::positions(image.height, size.0, stride.0, padding.0, dilation.0);
        let width = Window::positions(image.width, size.1, stride.1, padding.1, dilation.1);
        let (Some(height), Some(width)) = (height, width) else {
            self.fault(format!("{window:?} does not fit an image of {} x {}", image.height, image.width));
            return None;
        };
        let step = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let [c, y, x] = image.strides;
        let axes = vec![
            axis(image.channels.into(), Dim::ZERO, &[0, 0, 1, 0, 0], c.0.into(), c.1.into()),
            axis(
                image.height.into(),
                Dim::ZERO - padding.0.into(),
                &[step(stride.0), 0, 0, step(dilation.0), 0],
                y.0.into(),
                y.1.into(),
            ),
            axis(
                image.width.into(),
                Dim::ZERO - padding.1.into(),
                &[0, step(stride.1), 0, 0, step(dilation.1)],
                x.0.into(),
                x.1.into(),
            ),
        ];
        let digits = [height, width, image.channels, size.0, size.1];
        let product = |digits: &[u32]| digits.iter().fold(1, |product: u32, &digit| product.saturating_mul(digit));
        let (rows, cols) = (product(&digits[..split]), product(&digits[split..]));
        let mut row_digits = digits.map(Dim::from).to_vec();
        let col_digits = row_digits.split_off(split);
        let pixels = self.convert(image.value);
        let view = View { row_digits, col_digits, axes, fill: fill.to_bits() };
        Some((self.view(pixels, view, rows, cols), height, width))
    }

    // Generation

    /// What a generating program computes on: the sequence without its last token, `[S - 1, 1]`. Row `i` of all that
    /// follows must depend on tokens up to `i` only.
    pub fn context(&mut self, tokens: Value) -> Value {
        self.slice_rows(tokens, Dim::ZERO, Dim::S - Dim::ONE)
    }

    /// The rows of a hidden state `[S - 1, n]` that predict generated tokens: `[S - P, n]`.
    pub fn predicting_rows(&mut self, x: Value) -> Value {
        self.slice_rows(x, Dim::P - Dim::ONE, Dim::S - Dim::P)
    }

    /// Samples a token from each row of `logits` `[S - P, vocabulary]` by the request's parameters, and checks that the
    /// sequence continues with these tokens and ends where it must: at one of `stop`, or at the token limit. Returns
    /// the generated tokens `[S - P, 1]`.
    pub fn generate(&mut self, tokens: Value, logits: Value, stop: &[u32]) -> Value {
        let max = self.row_max(logits);
        let scores = self.node(Op::Perturb, &[logits, max], DType::F32, logits.rows, logits.cols);
        let samples = self.argmax(scores);
        let mut stop = stop.to_vec();
        stop.sort_unstable();
        stop.dedup();
        self.node(Op::CheckGenerated { stop }, &[tokens, samples], DType::U32, samples.rows, Dim::ONE);
        samples
    }

    /// The text of generated tokens as an output.
    pub fn output_text(&mut self, tokens: Value) {
        let lengths = self.node(Op::TokenLength, &[tokens], DType::U32, tokens.rows, Dim::ONE);
        let ends = self.node(Op::PrefixSum, &[lengths], DType::U32, tokens.rows, Dim::ONE);
        self.node(Op::CheckLength, &[ends], DType::U32, Dim::ONE, Dim::ONE);
        let text = self.node(Op::Detokenise, &[tokens, ends], DType::U8, Dim::ONE, Dim::O);
        self.output_bytes(text);
    }
}

/// The image whose pixels are the rows of a pooled view.
fn pooled_image(value: Value, channels: u32, height: u32, width: u32) -> Image {
    Image { value, channels, height, width, strides: [(1, 0), (width.saturating_mul(channels), 0), (channels, 0)] }
}

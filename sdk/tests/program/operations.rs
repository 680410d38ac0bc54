//! Single operations on numbers small enough to check by eye.

use candor_sdk::program::{
    BinaryFunction, ConcatAxis, Dim, EncodeKind, Image, InputKind, ProgramBuilder, UnaryFunction, Value, View,
    ViewAxis, WeightTensor, Window,
};

use crate::models::{ask, f32_be, fixed};

/// What a graph of f32 numbers gives.
fn compute(shape: (u32, u32), input: &[f32], build: impl FnOnce(&mut ProgramBuilder, Value) -> Value) -> Vec<f32> {
    let mut b = ProgramBuilder::new();
    let x = b.input(InputKind::F32Be, shape.0, shape.1);
    let y = build(&mut b, x);
    b.output(EncodeKind::F32Be, y);
    let model = b.finish(fixed(4 * input.len() as u32, 1 << 20), vec![]).expect("a valid model");
    let output = model.interpret(&ask(f32_be(input))).expect("an answer").output;
    output.as_chunks::<4>().0.iter().map(|bytes| f32::from_be_bytes(*bytes)).collect()
}

fn weight(b: &mut ProgramBuilder, shape: (u32, u32), values: &[f32]) -> Value {
    b.weight(WeightTensor::from_f32("w", shape, values).expect("a valid shape"))
}

/// Bits, so that zeros and NaN are compared too.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn linear() {
    let build = |bias: bool| {
        move |b: &mut ProgramBuilder, x: Value| {
            let w = weight(b, (2, 3), &[1.0, 0.0, -1.0, 0.5, 0.5, 0.5]);
            let bias = bias.then(|| weight(b, (1, 2), &[10.0, -1.0]));
            b.linear(x, w, bias)
        }
    };
    let x = [1.0, 2.0, 3.0, -1.0, 0.0, 5.0];
    assert_eq!(compute((2, 3), &x, build(false)), [-2.0, 3.0, -6.0, 2.0]);
    assert_eq!(compute((2, 3), &x, build(true)), [8.0, 2.0, 4.0, 1.0]);
}

#[test]
fn slices_transpositions_and_reshapes() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(compute((2, 3), &x, |b, x| b.transpose(x)), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(compute((2, 3), &x, |b, x| b.slice_rows(x, 1, 1)), [4.0, 5.0, 6.0]);
    assert_eq!(compute((2, 3), &x, |b, x| b.slice_cols(x, 1, 2)), [2.0, 3.0, 5.0, 6.0]);
    // Outside the axes of the source there is the fill.
    let shifted = |b: &mut ProgramBuilder, x: Value| {
        let axis = |offset: i32, size: u32, steps: &[i32], row: u32, col: u32| ViewAxis {
            size: size.into(),
            offset: Dim::of(offset),
            steps: steps.to_vec(),
            row_weight: row.into(),
            col_weight: col.into(),
        };
        let axes = vec![axis(-1, 2, &[1, 0], 1, 0), axis(2, 3, &[0, 1], 0, 1)];
        let fill = 9f32.to_bits();
        b.view(x, View { row_digits: vec![2.into()], col_digits: vec![2.into()], axes, fill }, 2, 2)
    };
    assert_eq!(compute((2, 3), &x, shifted), [9.0, 9.0, 3.0, 9.0]);

    let tall = |b: &mut ProgramBuilder, x: Value| {
        let tall = b.split_rows(x, 2);
        assert_eq!((tall.rows, tall.cols), (Dim::of(6), Dim::of(2)));
        let sums = b.row_sum(tall);
        b.join_rows(sums, 2, 3)
    };
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];
    assert_eq!(compute((2, 6), &x, tall), [3.0, 7.0, 11.0, 15.0, 19.0, 23.0]);
    let filled = |b: &mut ProgramBuilder, _: Value| b.full(2.5, 2, 2);
    assert_eq!(compute((1, 1), &[0.0], filled), [2.5; 4]);
}

#[test]
fn concatenations() {
    let (rows, cols) = (ConcatAxis::Rows, ConcatAxis::Cols);
    let join = |axis| {
        move |b: &mut ProgramBuilder, x: Value| {
            let y = b.unary(UnaryFunction::Neg, x);
            b.concat(axis, &[x, y, x])
        }
    };
    assert_eq!(compute((2, 1), &[1.0, 2.0], join(rows)), [1.0, 2.0, -1.0, -2.0, 1.0, 2.0]);
    assert_eq!(compute((2, 1), &[1.0, 2.0], join(cols)), [1.0, -1.0, 1.0, 2.0, -2.0, 2.0]);
    // More parts than a node has operands.
    let many = |b: &mut ProgramBuilder, x: Value| b.concat(cols, &[x; 40]);
    assert_eq!(compute((1, 1), &[3.0], many), [3.0; 40]);
}

#[test]
fn elementwise_and_broadcast() {
    let x = [1.0, -2.0, 3.0, -4.0];
    let column = |b: &mut ProgramBuilder, x: Value| {
        let sums = b.row_sum(x);
        b.sub(x, sums)
    };
    assert_eq!(compute((2, 2), &x, column), [2.0, -1.0, 4.0, -3.0]);
    let row = |b: &mut ProgramBuilder, x: Value| {
        let w = weight(b, (1, 2), &[10.0, 100.0]);
        b.mul(x, w)
    };
    assert_eq!(compute((2, 2), &x, row), [10.0, -200.0, 30.0, -400.0]);
    // Each column of the narrow operand serves two columns of the wide one.
    let repeated = |b: &mut ProgramBuilder, x: Value| {
        let w = weight(b, (1, 2), &[10.0, 100.0]);
        b.add(x, w)
    };
    assert_eq!(compute((1, 4), &x, repeated), [11.0, 8.0, 103.0, 96.0]);
    let fused = |b: &mut ProgramBuilder, x: Value| {
        let (two, one) = (b.constant(2.0), b.constant(1.0));
        b.mul_add(x, two, one)
    };
    assert_eq!(compute((1, 4), &x, fused), [3.0, -3.0, 7.0, -7.0]);
    let masked = |b: &mut ProgramBuilder, x: Value| {
        let zero = b.constant(0.0);
        let negative = b.binary(BinaryFunction::Less, x, zero);
        let flipped = b.unary(UnaryFunction::Neg, x);
        b.select(negative, flipped, x)
    };
    assert_eq!(compute((1, 4), &x, masked), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn comparisons_zeros_and_nan() {
    let x = [0.0, -0.0, f32::NAN, f32::INFINITY, 1.0];
    let against_zero = |function| {
        move |b: &mut ProgramBuilder, x: Value| {
            let zero = b.constant(0.0);
            b.binary(function, x, zero)
        }
    };
    assert_eq!(compute((1, 5), &x, against_zero(BinaryFunction::Equal)), [1.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(compute((1, 5), &x, against_zero(BinaryFunction::Less)), [0.0; 5]);
    assert_eq!(compute((1, 5), &x, against_zero(BinaryFunction::LessEqual)), [1.0, 1.0, 0.0, 0.0, 0.0]);
    let maximum = compute((1, 5), &x, against_zero(BinaryFunction::Maximum));
    assert_eq!(bits(&maximum), bits(&[0.0, 0.0, f32::from_bits(0x7fc0_0000), f32::INFINITY, 1.0]));
    // Any NaN of the request becomes the canonical one.
    let strange = [f32::from_bits(0xffc0_1234), f32::from_bits(0x7f80_0001), -0.0];
    let copied = compute((1, 3), &strange, |_, x| x);
    assert_eq!(bits(&copied), [0x7fc0_0000, 0x7fc0_0000, 0x8000_0000]);
}

#[test]
fn rows_and_means() {
    let x = [3.0, 1.0, 2.0, -5.0, -7.0, -5.0];
    assert_eq!(compute((2, 3), &x, |b, x| b.row_sum(x)), [6.0, -17.0]);
    assert_eq!(compute((2, 3), &x, |b, x| b.row_sum_squares(x)), [14.0, 99.0]);
    assert_eq!(compute((2, 3), &x, |b, x| b.row_max(x)), [3.0, -5.0]);
    assert_eq!(compute((2, 3), &x, |b, x| b.row_mean(x)), [2.0, -17.0 / 3.0]);
    assert_eq!(compute((2, 3), &x, |b, x| b.column_mean(x)), [-1.0, -3.0, -1.5]);
    let argmax = |b: &mut ProgramBuilder, x: Value| {
        let index = b.argmax(x);
        b.convert(index)
    };
    assert_eq!(compute((2, 3), &x, argmax), [0.0, 0.0], "the lowest index among equals");
}

#[test]
fn lookup() {
    let take = |b: &mut ProgramBuilder, x: Value| {
        let columns = b.indices("i", &[2, 0, 2]);
        b.take(x, columns)
    };
    assert_eq!(compute((2, 3), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], take), [3.0, 1.0, 3.0, 6.0, 4.0, 6.0]);
    let gather = |b: &mut ProgramBuilder, x: Value| {
        let table = weight(b, (3, 2), &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
        let id = b.argmax(x);
        b.gather(id, table)
    };
    assert_eq!(compute((2, 3), &[0.0, 1.0, 0.0, 0.0, 0.0, 9.0], gather), [10.0, 11.0, 20.0, 21.0]);
}

#[test]
fn rotary_embedding() {
    // Two heads of four columns, of which two turn: by nothing in row 0, by a right angle in row 1.
    let rope = |b: &mut ProgramBuilder, x: Value| {
        let (cos, sin) = (weight(b, (3, 1), &[1.0, 0.0, 9.0]), weight(b, (3, 1), &[0.0, 1.0, 9.0]));
        b.rope(x, cos, sin, 4, 2)
    };
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let twice = [x, x].concat();
    let turned = [-2.0, 1.0, 3.0, 4.0, -6.0, 5.0, 7.0, 8.0];
    assert_eq!(compute((2, 8), &twice, rope), [x, turned].concat());
}

#[test]
fn convolution_by_hand() {
    // One 3 x 3 image, a 2 x 2 kernel that subtracts the lower right pixel from the upper left.
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0];
    let conv = |window: Window| {
        move |b: &mut ProgramBuilder, x: Value| {
            let w = weight(b, (1, 4), &[1.0, 0.0, 0.0, -1.0]);
            b.conv2d(Image::planar(x, 1, 3, 3), w, None, window).value()
        }
    };
    assert_eq!(compute((1, 9), &x, conv(Window::square(2, 1))), [-4.0, -4.0, -4.0, -5.0]);
    let padded = [-1.0, -2.0, -3.0, 0.0, -4.0, -4.0, -4.0, 3.0, -7.0, -4.0, -5.0, 6.0, 0.0, 7.0, 8.0, 10.0];
    assert_eq!(compute((1, 9), &x, conv(Window::square(2, 1).padded(1))), padded);
    let dilated = Window { dilation: (2, 2), ..Window::square(2, 1) };
    assert_eq!(compute((1, 9), &x, conv(dilated)), [-9.0]);
    let strided = Window { stride: (2, 1), ..Window::square(2, 1).padded(1) };
    assert_eq!(compute((1, 9), &x, conv(strided)), [padded[0..4].to_vec(), padded[8..12].to_vec()].concat());
}

#[test]
fn pooling_by_hand() {
    // Two channels of 2 x 4; windows of 2 x 2.
    let x = [1.0, 5.0, -1.0, -2.0, 2.0, 3.0, -4.0, -3.0, 0.0, 0.0, 8.0, 0.0, 0.0, -4.0, 0.0, 0.0];
    let max = |b: &mut ProgramBuilder, x: Value| {
        let pooled = b.max_pool2d(Image::planar(x, 2, 2, 4), Window::square(2, 2));
        assert_eq!(pooled.shape(), (2, 1, 2));
        b.flatten(pooled)
    };
    assert_eq!(compute((1, 16), &x, max), [5.0, -1.0, 0.0, 8.0]);
    let mean = |b: &mut ProgramBuilder, x: Value| {
        let pooled = b.avg_pool2d(Image::planar(x, 2, 2, 4), Window::square(2, 2));
        b.flatten(pooled)
    };
    assert_eq!(compute((1, 16), &x, mean), [2.75, -2.5, -1.0, 2.0]);
    // Padding never wins, even among negative numbers.
    let padded = |b: &mut ProgramBuilder, x: Value| {
        let pooled = b.max_pool2d(Image::planar(x, 1, 1, 2), Window::square(3, 1).padded(1));
        b.flatten(pooled)
    };
    assert_eq!(compute((1, 2), &[-1.0, -2.0], padded), [-1.0, -1.0]);
}

#[test]
fn features_by_hand() {
    let model = crate::models::features();
    let output = model.interpret(&ask(f32_be(&[2.0, 14.0, 5.0, 0.25]))).expect("an answer").output;
    let numbers: Vec<f32> = output.as_chunks::<4>().0.iter().map(|bytes| f32::from_be_bytes(*bytes)).collect();
    assert_eq!(numbers[2..], [1.0, -0.5, 0.0, 0.0, 1.0, 1.0, 0.0]);
    assert_eq!(numbers[1], if numbers[0] > 0.5 { 1.0 } else { -1.0 });
}

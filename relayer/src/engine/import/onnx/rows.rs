//! Operations along dimensions: sums, means, maxima, softmax, norms.

use super::call::Call;
use super::graph::{Importer, Problem, TOO_LARGE};
use super::item::Item;
use super::lin::Lin;
use super::tensor::{Kind, Tensor, product};
use candor_sdk::program::{BinaryFunction, DType, Dim, Op, UnaryFunction, Value};

/// Whether this module imports an operation.
pub(super) fn has(op: &str) -> bool {
    op.starts_with("Reduce") && REDUCTIONS.contains(&&op["Reduce".len()..])
        || matches!(
            op,
            "Softmax"
                | "LogSoftmax"
                | "ArgMax"
                | "LayerNormalization"
                | "RMSNormalization"
                | "BatchNormalization"
                | "InstanceNormalization"
                | "LpNormalization"
                | "GlobalMaxPool"
                | "GlobalAveragePool"
        )
}

const REDUCTIONS: [&str; 9] = ["Sum", "Mean", "Max", "Min", "SumSquare", "L1", "L2", "LogSum", "Prod"];

pub(super) fn import(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    match call.op() {
        "Softmax" | "LogSoftmax" => softmax(importer, call),
        "ArgMax" => {
            let tensor = importer.tensor(call.input(0)?)?;
            let axis = call.axis(call.int("axis")?.unwrap_or(0), tensor.rank())?;
            if call.flag("select_last_index", false)? {
                return Err("attribute select_last_index is 1".to_string());
            }
            let keep = call.flag("keepdims", true)?;
            reduce(importer, &tensor, &[axis], keep, Kind::Int, |importer, x| Ok(importer.graph.argmax(x)))
        }
        "GlobalMaxPool" | "GlobalAveragePool" => {
            let tensor = importer.tensor(call.input(0)?)?;
            let axes: Vec<usize> = (2..tensor.rank()).collect();
            let name = if call.op() == "GlobalMaxPool" { "Max" } else { "Mean" };
            reduce(importer, &tensor, &axes, true, Kind::Float, |importer, x| reduction(importer, name, x))
        }
        "LayerNormalization" | "RMSNormalization" => normalise(importer, call),
        "BatchNormalization" => batch_norm(importer, call),
        "InstanceNormalization" => instance_norm(importer, call),
        "LpNormalization" => {
            let axis = call.axis(call.int("axis")?.unwrap_or(-1), call.input(0)?.shape().len())?;
            let name = match call.int("p")? {
                None | Some(2) => "L2",
                Some(1) => "L1",
                Some(other) => return Err(format!("attribute p is {other}, neither 1 nor 2")),
            };
            normalised(importer, call.input(0)?, axis, name)
        }
        _ => reduced(importer, call),
    }
}

/// Each row along an axis divided by its norm, which is a reduction of this name; a row of zeros stays one.
pub(super) fn normalised(importer: &mut Importer, x: &Item, axis: usize, name: &str) -> Result<Item, Problem> {
    let tensor = importer.tensor(x)?;
    let norm = reduce(importer, &tensor, &[axis], true, Kind::Float, |importer, x| reduction(importer, name, x))?;
    let norm = importer.elementwise(
        &[&norm],
        Kind::Float,
        |x| x[0],
        |graph, x| {
            let (zero, one) = (graph.constant(0.0), graph.constant(1.0));
            let is_zero = graph.binary(BinaryFunction::Equal, x[0], zero);
            graph.select(is_zero, one, x[0])
        },
    )?;
    super::elementwise::binary(importer, "Div", x, &norm)
}

/// The product of dimensions that are known, or a reduction of a tensor.
fn reduced(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let shape = call.input(0)?.shape();
    let axes = call.axes_given(1, shape.len())?.filter(|axes| !axes.is_empty());
    let keep = call.flag("keepdims", true)?;
    if call.flag("noop_with_empty_axes", false)? && axes.is_none() {
        return Ok(call.input(0)?.clone());
    }
    let axes = axes.unwrap_or_else(|| (0..shape.len()).collect());
    let name = &call.op()["Reduce".len()..];
    if let Item::Ints(ints) = call.input(0)? {
        let whole = axes.len() == shape.len();
        let start = if name == "Prod" { Lin::ONE } else { Lin::of(0) };
        let step = |total: Lin, value: &Lin| match name {
            "Prod" => total.mul(*value),
            "Sum" => total.add(*value),
            _ => None,
        };
        let total = ints.values.iter().try_fold(start, step).filter(|_| whole);
        let total = total.ok_or("of integers is not understood, except the sum and the product of all")?;
        let dims = if keep { vec![1; shape.len()] } else { Vec::new() };
        return Ok(Item::Ints(super::item::Ints { dims, values: vec![total], kind: ints.kind }));
    }
    let tensor = importer.tensor(call.input(0)?)?;
    reduce(importer, &tensor, &axes, keep, Kind::Float, |importer, x| reduction(importer, name, x))
}

/// A reduction of each row of a value.
fn reduction(importer: &mut Importer, name: &str, x: Value) -> Result<Value, Problem> {
    let graph = &mut importer.graph;
    Ok(match name {
        "Sum" => graph.row_sum(x),
        "Max" => graph.row_max(x),
        "Min" => {
            let x = graph.unary(UnaryFunction::Neg, x);
            let x = graph.row_max(x);
            graph.unary(UnaryFunction::Neg, x)
        }
        "SumSquare" => graph.row_sum_squares(x),
        "L2" => {
            let x = graph.row_sum_squares(x);
            graph.unary(UnaryFunction::Sqrt, x)
        }
        "L1" => {
            let x = graph.unary(UnaryFunction::Abs, x);
            graph.row_sum(x)
        }
        "LogSum" => {
            let x = graph.row_sum(x);
            graph.unary(UnaryFunction::Log, x)
        }
        "Mean" => {
            let sum = graph.row_sum(x);
            let count = match x.cols.as_constant() {
                Some(count) => graph.constant(count as f32),
                // As many as the request is long: their number is the sum of as many ones.
                None => {
                    let ones = graph.full(1.0, Dim::ONE, x.cols);
                    graph.row_sum(ones)
                }
            };
            graph.div(sum, count)
        }
        other => return Err(format!("{other} of floats is not understood")),
    })
}

/// A tensor with some dimensions in columns, each row of which becomes one element.
fn reduce(
    importer: &mut Importer,
    tensor: &Tensor,
    axes: &[usize],
    keep: bool,
    kind: Kind,
    each: impl FnOnce(&mut Importer, Value) -> Result<Value, Problem>,
) -> Result<Item, Problem> {
    let pick = |wanted: bool| {
        let chosen = tensor.dims.iter().enumerate().filter(|(d, _)| axes.contains(d) == wanted);
        chosen.flat_map(|(_, axes)| axes.clone()).collect::<Vec<_>>()
    };
    let x = importer.arrange(tensor, &pick(false), &pick(true))?;
    let x = importer.graph.convert(x);
    let value = each(importer, x)?;
    let ones: Vec<Lin> = (tensor.shape().into_iter().enumerate())
        .filter(|(d, _)| keep || !axes.contains(d))
        .map(|(d, size)| if axes.contains(&d) { Lin::ONE } else { size })
        .collect();
    Ok(Item::Tensor(Tensor::of(value, kind, &ones, &[]).ok_or(TOO_LARGE)?))
}

/// A tensor with the dimensions `axes` in columns, a function of each row, and the result in the same dimensions.
fn along(
    importer: &mut Importer,
    tensor: &Tensor,
    axes: &[usize],
    each: impl FnOnce(&mut Importer, Value) -> Result<Value, Problem>,
) -> Result<Item, Problem> {
    let order: Vec<usize> = (0..tensor.rank()).filter(|d| !axes.contains(d)).chain(axes.iter().copied()).collect();
    let moved = Tensor { dims: order.iter().map(|&d| tensor.dims[d].clone()).collect(), ..tensor.clone() };
    let at = tensor.rank() - axes.len();
    let x = importer.flat_floats(&moved, at)?;
    let value = each(importer, x)?;
    let shape = moved.shape();
    let result = Tensor::of(value, Kind::Float, &shape[..at], &shape[at..]).ok_or(TOO_LARGE)?;
    let mut dims = vec![Vec::new(); order.len()];
    for (axes, &d) in result.dims.iter().zip(&order) {
        dims[d] = axes.clone();
    }
    Ok(Item::Tensor(Tensor { dims, ..result }))
}

fn softmax(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let tensor = importer.tensor(call.input(0)?)?;
    let default = if importer.opset < 13 { 1 } else { -1 };
    let axis = call.axis(call.int("axis")?.unwrap_or(default), tensor.rank())?;
    // Before version 13 all dimensions from the axis on are one.
    let axes: Vec<usize> = if importer.opset < 13 { (axis..tensor.rank()).collect() } else { vec![axis] };
    let log = call.op() == "LogSoftmax";
    along(importer, &tensor, &axes, |importer, x| {
        let graph = &mut importer.graph;
        if !log {
            return Ok(graph.softmax(x));
        }
        let max = graph.row_max(x);
        let e = graph.binary(BinaryFunction::ExpSub, x, max);
        let sum = graph.row_sum(e);
        let log = graph.unary(UnaryFunction::Log, sum);
        let centred = graph.sub(x, max);
        Ok(graph.sub(centred, log))
    })
}

/// A constant as one row of as many columns as a value has.
fn row(importer: &mut Importer, item: Option<&Item>, x: Value, otherwise: f32) -> Result<Value, Problem> {
    let Some(item) = item else { return Ok(importer.graph.constant(otherwise)) };
    let tensor = importer.tensor(item)?;
    if tensor.elements().and_then(Lin::dim) != Some(x.cols) {
        return Err(format!("a scale or bias of {} for rows of {}", tensor.describe(), x.cols));
    }
    let value = importer.flat(&tensor, 0)?;
    Ok(value)
}

fn normalise(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let tensor = importer.tensor(call.input(0)?)?;
    let axis = call.axis(call.int("axis")?.unwrap_or(-1), tensor.rank())?;
    let epsilon = call.float("epsilon", 1e-5)?;
    if call.int("stash_type")?.is_some_and(|kind| kind != 1) {
        return Err("attribute stash_type is not 1".to_string());
    }
    let axes: Vec<usize> = (axis..tensor.rank()).collect();
    let (scale, bias) = (call.optional(1), call.optional(2));
    let rms = call.op() == "RMSNormalization";
    along(importer, &tensor, &axes, |importer, x| {
        let (scale, bias) = (row(importer, scale, x, 1.0)?, row(importer, bias, x, 0.0)?);
        Ok(match rms {
            true => importer.graph.rms_norm(x, scale, epsilon),
            false => importer.graph.layer_norm(x, scale, bias, epsilon),
        })
    })
}

/// Numbers for each channel, in dimensions that broadcast to a tensor of `rank`.
fn per_channel(importer: &mut Importer, values: &[f32], rank: usize) -> Result<Item, Problem> {
    let mut dims = vec![Lin::of(values.len() as i64)];
    dims.extend((2..rank).map(|_| Lin::ONE));
    Ok(Item::Tensor(importer.constant(values, &dims)?))
}

fn folded(call: &Call<'_>, index: usize) -> Result<Vec<f32>, Problem> {
    call.tensor(index)?.folded().ok_or_else(|| format!("input {index} is not known at import"))
}

/// `x * a + b` for each channel, with `a` and `b` computed at import in binary64.
fn batch_norm(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    ["momentum", "spatial"].into_iter().for_each(|name| call.ignore(name));
    let epsilon = f64::from(call.float("epsilon", 1e-5)?);
    if call.flag("training_mode", false)? || call.node.outputs.iter().skip(1).any(|output| !output.is_empty()) {
        return Err("is in training".to_string());
    }
    let [scale, bias, mean, variance] = [folded(call, 1)?, folded(call, 2)?, folded(call, 3)?, folded(call, 4)?];
    let rank = call.input(0)?.shape().len();
    let channels = scale.len();
    if [&bias, &mean, &variance].iter().any(|list| list.len() != channels) || rank < 2 {
        return Err(format!(
            "{channels} scales, {} biases, {} means, {} variances",
            bias.len(),
            mean.len(),
            variance.len()
        ));
    }
    let factors: Vec<f64> = scale
        .iter()
        .zip(&variance)
        .map(|(&scale, &variance)| f64::from(scale) / (f64::from(variance) + epsilon).sqrt())
        .collect();
    let a: Vec<f32> = factors.iter().map(|&factor| factor as f32).collect();
    let offsets = bias.iter().zip(&mean).zip(&factors);
    let b: Vec<f32> =
        offsets.map(|((&bias, &mean), factor)| (f64::from(bias) - f64::from(mean) * factor) as f32).collect();
    let (a, b) = (per_channel(importer, &a, rank)?, per_channel(importer, &b, rank)?);
    let fold = |x: &[f32]| candor_sdk::arithmetic::scalar::fma(x[0], x[1], x[2]);
    importer.elementwise(&[call.input(0)?, &a, &b], Kind::Float, fold, |graph, x| graph.mul_add(x[0], x[1], x[2]))
}

/// Each channel centred and scaled by its own mean and variance.
fn instance_norm(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let tensor = importer.tensor(call.input(0)?)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    let axes: Vec<usize> = (2..tensor.rank()).collect();
    let rank = tensor.rank();
    let [scale, bias] = [folded(call, 1)?, folded(call, 2)?];
    let (scale, bias) = (per_channel(importer, &scale, rank)?, per_channel(importer, &bias, rank)?);
    let normal = along(importer, &tensor, &axes, |importer, x| {
        let (one, zero) = (importer.graph.constant(1.0), importer.graph.constant(0.0));
        Ok(importer.graph.layer_norm(x, one, zero, epsilon))
    })?;
    let fold = |x: &[f32]| candor_sdk::arithmetic::scalar::fma(x[0], x[1], x[2]);
    importer.elementwise(&[&normal, &scale, &bias], Kind::Float, fold, |graph, x| graph.mul_add(x[0], x[1], x[2]))
}

/// `dot` of every row of `x` with every row of `y`, for each of `heads` pairs that lie beside each other in the columns.
pub(super) fn scores(importer: &mut Importer, x: Value, y: Value, heads: u32) -> Value {
    let op = Op::AttentionScores { heads, group: 1, scale: 1f32.to_bits(), causal: false };
    importer.graph.node(op, &[x, y], DType::F32, x.rows * heads, y.rows)
}

/// The product of sizes, as a number of columns.
pub(super) fn count(sizes: &[Lin]) -> Result<Lin, Problem> {
    product(sizes.iter().copied()).ok_or_else(|| TOO_LARGE.to_string())
}

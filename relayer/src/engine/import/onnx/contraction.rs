//! Matrix products and convolutions.

use super::call::Call;
use super::graph::{Importer, Problem, TOO_LARGE, broadcast};
use super::item::{Item, broadcast_dims};
use super::lin::Lin;
use super::rows::{count, scores};
use super::tensor::{Axis, Kind, Source, Tensor, merged, regroup};
use crate::engine::import::MAX_ELEMENTS;
use candor_sdk::program::{DType, Dim, Op, Value, View, ViewAxis};

/// Whether this module imports an operation.
pub(super) fn has(op: &str) -> bool {
    matches!(op, "MatMul" | "Gemm" | "Conv" | "ConvTranspose" | "MaxPool" | "AveragePool")
}

pub(super) fn import(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    match call.op() {
        "MatMul" => {
            let (a, b) = (importer.tensor(call.input(0)?)?, importer.tensor(call.input(1)?)?);
            Ok(Item::Tensor(matmul(importer, &a, &b)?))
        }
        "Gemm" => gemm(importer, call),
        "Conv" => conv(importer, call),
        "ConvTranspose" => conv_transpose(importer, call),
        _ => pool(importer, call),
    }
}

fn is_constant(tensor: &Tensor) -> bool {
    matches!(&tensor.source, Source::Constant(_))
}

/// The product of two tensors as numpy has it.
fn matmul(importer: &mut Importer, a: &Tensor, b: &Tensor) -> Result<Tensor, Problem> {
    // A vector is a matrix of one row on the left, of one column on the right.
    let (vector_left, vector_right) = (a.rank() == 1, b.rank() == 1);
    if a.rank() == 0 || b.rank() == 0 {
        return Err("of a single number".to_string());
    }
    let (mut a, mut b) = (a.clone(), b.clone());
    if vector_left {
        a.dims.insert(0, Vec::new());
    }
    if vector_right {
        b.dims.push(Vec::new());
    }
    let (shape_a, shape_b) = (a.shape(), b.shape());
    let (m, k) = (shape_a[a.rank() - 2], shape_a[a.rank() - 1]);
    let n = shape_b[b.rank() - 1];
    if shape_b[b.rank() - 2] != k {
        return Err(format!("{} times {}", a.describe(), b.describe()));
    }
    let mut result = if b.rank() == 2 && is_constant(&b) && k.known().is_some() {
        let x = importer.flat_floats(&a, a.rank() - 1)?;
        let (rows, cols) = (b.dims[1].clone(), b.dims[0].clone());
        let w = importer.arrange(&b, &rows, &cols)?;
        let value = importer.graph.linear(x, w, None);
        Tensor::of(value, Kind::Float, &shape_a[..a.rank() - 1], &[n]).ok_or(TOO_LARGE)?
    } else {
        let batches = [shape_a[..a.rank() - 2].to_vec(), shape_b[..b.rank() - 2].to_vec()];
        let batch = broadcast_dims(&batches).ok_or_else(|| format!("{} times {}", a.describe(), b.describe()))?;
        let with = |tail: [Lin; 2]| batch.iter().copied().chain(tail).collect::<Vec<_>>();
        let a = broadcast(&a, &with([m, k]), None).ok_or(TOO_LARGE)?;
        let b = broadcast(&b, &with([k, n]), None).ok_or(TOO_LARGE)?;
        batched(importer, &a, &b, &batch, (m, k, n))?
    };
    let rank = result.rank();
    if vector_right {
        result.dims.remove(rank - 1);
    }
    if vector_left {
        let rows = result.rank() - usize::from(!vector_right) - 1;
        result.dims.remove(rows);
    }
    Ok(result)
}

/// Products of matrices side by side: each pair is a head of an attention layer.
fn batched(
    importer: &mut Importer,
    a: &Tensor,
    b: &Tensor,
    batch: &[Lin],
    (m, k, n): (Lin, Lin, Lin),
) -> Result<Tensor, Problem> {
    let heads = count(batch)?.known().and_then(|heads| u32::try_from(heads).ok());
    let heads = heads.filter(|heads| (1..=1 << 20).contains(heads)).ok_or("as many products as the request is long")?;
    let rank = a.rank();
    let outer = |tensor: &Tensor| tensor.dims[..rank - 2].concat();
    let join = |parts: &[&[Axis]]| parts.concat();
    let value = if k.known().is_some() {
        // Rows are positions, columns are head after head.
        let x = importer.arrange(a, &a.dims[rank - 2], &join(&[&outer(a), &a.dims[rank - 1]]))?;
        let y = importer.arrange(b, &b.dims[rank - 1], &join(&[&outer(b), &b.dims[rank - 2]]))?;
        let (x, y) = (node(importer, x), node(importer, y));
        let value = scores(importer, x, y, heads);
        // Rows are position, head; columns are what the second factor had in columns.
        let rows: Vec<Lin> = std::iter::once(m).chain(batch.iter().copied()).collect();
        let mut tensor = Tensor::of(value, Kind::Float, &rows, &[n]).ok_or(TOO_LARGE)?;
        let positions = tensor.dims.remove(0);
        tensor.dims.insert(rank - 2, positions);
        tensor
    } else {
        let x = importer.arrange(a, &join(&[&a.dims[rank - 2], &outer(a)]), &a.dims[rank - 1])?;
        let y = importer.arrange(b, &join(&[&outer(b), &b.dims[rank - 1]]), &b.dims[rank - 2])?;
        let (x, y) = (node(importer, x), node(importer, y));
        let cols: Vec<Lin> = batch.iter().copied().chain([n]).collect();
        let (Some(rows), Some(width)) = (m.dim(), count(&cols)?.dim()) else { return Err(TOO_LARGE.to_string()) };
        let op = Op::AttentionMix { heads, group: 1, causal: false };
        let value = importer.graph.node(op, &[x, y], DType::F32, rows, width);
        let mut tensor = Tensor::of(value, Kind::Float, &[m], &cols).ok_or(TOO_LARGE)?;
        let positions = tensor.dims.remove(0);
        tensor.dims.insert(rank - 2, positions);
        tensor
    };
    Ok(value)
}

/// Floats of a node: what contracts two activations takes no weights.
fn node(importer: &mut Importer, x: Value) -> Value {
    let x = importer.graph.convert(x);
    match importer.graph.weight_type(x) {
        Some(_) => importer.graph.slice_rows(x, Dim::ZERO, x.rows),
        None => x,
    }
}

fn gemm(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let (mut a, mut b) = (importer.tensor(call.input(0)?)?, importer.tensor(call.input(1)?)?);
    let (alpha, beta) = (call.float("alpha", 1.0)?, call.float("beta", 1.0)?);
    call.ignore("broadcast"); // of version 6 and before
    if a.rank() != 2 || b.rank() != 2 {
        return Err(format!("{} times {}", a.describe(), b.describe()));
    }
    if call.flag("transA", false)? {
        a.dims.reverse();
    }
    if call.flag("transB", false)? {
        b.dims.reverse();
    }
    let bias = match call.optional(2) {
        Some(bias) if beta == 1.0 && alpha == 1.0 && is_constant(&b) => row_bias(importer, bias, &b)?,
        _ => None,
    };
    if let Some(bias) = bias {
        let (k, n) = (b.shape()[0], b.shape()[1]);
        if a.shape()[1] != k {
            return Err(format!("{} times {}", a.describe(), b.describe()));
        }
        let x = importer.flat_floats(&a, 1)?;
        let w = importer.arrange(&b, &b.dims[1], &b.dims[0])?;
        let value = importer.graph.linear(x, w, Some(bias));
        return Ok(Item::Tensor(Tensor::of(value, Kind::Float, &a.shape()[..1], &[n]).ok_or(TOO_LARGE)?));
    }
    let mut result = Item::Tensor(matmul(importer, &a, &b)?);
    let scaled = |importer: &mut Importer, item: Item, factor: f32| -> Result<Item, Problem> {
        if factor == 1.0 {
            return Ok(item);
        }
        let factor = Item::Tensor(importer.constant(&[factor], &[])?);
        super::elementwise::binary(importer, "Mul", &item, &factor)
    };
    result = scaled(importer, result, alpha)?;
    match call.optional(2) {
        Some(bias) if beta != 0.0 => {
            let bias = scaled(importer, bias.clone(), beta)?;
            super::elementwise::binary(importer, "Add", &result, &bias)
        }
        _ => Ok(result),
    }
}

/// A constant that adds one number to each column of a product with `b`.
fn row_bias(importer: &mut Importer, bias: &Item, b: &Tensor) -> Result<Option<Value>, Problem> {
    let Item::Tensor(bias) = bias else { return Ok(None) };
    let n = b.shape()[1];
    let fits = is_constant(bias) && bias.elements() == Some(n) && bias.shape().last() == Some(&n);
    if !fits || n.is_one() {
        return Ok(None);
    }
    importer.flat(bias, 0).map(Some)
}

/// Windows along the spatial dimensions of an image.
struct Windows {
    /// Size of a window.
    size: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// Before each dimension.
    before: Vec<i64>,
    /// Behind it.
    after: Vec<i64>,
    /// How many there are.
    positions: Vec<i64>,
}

const MAX_WINDOW: i64 = 1 << 20;

impl Windows {
    fn of(call: &Call<'_>, image: &[Lin], size: Vec<i64>) -> Result<Self, Problem> {
        let n = size.len();
        let list = |name: &'static str, otherwise: i64, count: usize| -> Result<Vec<i64>, Problem> {
            let list = call.list(name)?.map_or_else(|| vec![otherwise; count], <[i64]>::to_vec);
            let least = otherwise.min(1);
            match list.len() == count && list.iter().all(|n| (least..=MAX_WINDOW).contains(n)) {
                true => Ok(list),
                false => Err(format!("attribute {name} is {list:?} for {n} dimensions")),
            }
        };
        let (strides, dilations, pads) = (list("strides", 1, n)?, list("dilations", 1, n)?, list("pads", 0, 2 * n)?);
        if size.iter().any(|size| !(1..=MAX_WINDOW).contains(size)) {
            return Err(format!("windows of {size:?}"));
        }
        let auto = call.text("auto_pad")?.unwrap_or("NOTSET");
        let round_up = call.flag("ceil_mode", false)?;
        let (mut before, mut after, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for d in 0..n {
            let length = image[d].known().filter(|length| *length <= 1 << 30);
            let length = length.ok_or_else(|| format!("a dimension of {} that depends on the request", image[d]))?;
            let reach = (size[d] - 1) * dilations[d] + 1;
            let (start, end) = match auto {
                "NOTSET" => (pads[d], pads[n + d]),
                "VALID" => (0, 0),
                "SAME_UPPER" | "SAME_LOWER" => {
                    let total = ((length + strides[d] - 1) / strides[d] - 1) * strides[d] + reach - length;
                    let (less, more) = (total.max(0) / 2, total.max(0) - total.max(0) / 2);
                    if auto == "SAME_UPPER" { (less, more) } else { (more, less) }
                }
                other => return Err(format!("attribute auto_pad is {other:?}")),
            };
            let room = length + start + end - reach;
            if room < 0 {
                return Err(format!("a window of {} in a dimension of {length}, padded by {start} and {end}", size[d]));
            }
            before.push(start);
            after.push(end);
            let down = room / strides[d] + 1;
            // One more that is cut off at the end, unless it would begin behind the image.
            let more = round_up && room % strides[d] > 0 && down * strides[d] < length + start;
            positions.push(down + i64::from(more));
        }
        let elements = positions.iter().chain(&size).try_fold(1i64, |product, n| product.checked_mul(*n));
        if elements.is_none_or(|elements| elements as u64 > MAX_ELEMENTS) {
            return Err(format!("{positions:?} windows of {size:?} have more than {MAX_ELEMENTS} elements"));
        }
        Ok(Self { size, strides, dilations, before, after, positions })
    }

    /// How many places of the window at each position lie in the image, or in the image with its padding.
    fn inside(&self, d: usize, length: i64, padded: bool) -> Vec<i64> {
        let range = if padded { -self.before[d]..length + self.after[d] } else { 0..length };
        let at = |position: i64| {
            let place = |i: i64| position * self.strides[d] - self.before[d] + i * self.dilations[d];
            (0..self.size[d]).filter(|&i| range.contains(&place(i))).count() as i64
        };
        (0..self.positions[d]).map(at).collect()
    }

    /// The view of an image `[batch, channels, ...]` in which a row is a position (and a channel, if `each`) and a column
    /// a place in the window (and a channel, if not `each`); `groups` of channels come one after the other.
    fn view(&self, importer: &mut Importer, image: &Tensor, each: bool, fill: f32) -> Result<Value, Problem> {
        let mut image = image.clone();
        if image.dims[2..].iter().any(|axes| merged(axes).len() > 1) || is_constant(&image) {
            image = importer.in_order(&image)?;
        }
        let Source::Value(value) = image.source else { return Err(TOO_LARGE.to_string()) };
        let value = importer.graph.convert(value);
        let whole = |lin: Lin| lin.dim().ok_or_else(|| TOO_LARGE.to_string());
        let size = |n: i64| u32::try_from(n).map(Dim::from).map_err(|_| TOO_LARGE.to_string());
        // Digits: batch, positions, channels (of several axes), window.
        let n = self.size.len();
        let (batch, channels) = (merged(&image.dims[0]), merged(&image.dims[1]));
        let mut digits: Vec<Dim> = Vec::new();
        for axis in &batch {
            digits.push(whole(axis.size)?);
        }
        let at_positions = digits.len();
        for &positions in &self.positions {
            digits.push(size(positions)?);
        }
        let at_channels = digits.len();
        for axis in &channels {
            digits.push(whole(axis.size)?);
        }
        let at_window = digits.len();
        for &length in &self.size {
            digits.push(size(length)?);
        }
        if digits.len() > candor_sdk::program::MAX_DIGITS {
            return Err(format!("windows of {} digits; at most {}", digits.len(), candor_sdk::program::MAX_DIGITS));
        }
        let mut axes = Vec::new();
        let simple =
            batch.iter().enumerate().chain(channels.iter().enumerate().map(|(i, axis)| (at_channels + i, axis)));
        for (digit, axis) in simple {
            let mut steps = vec![0; digits.len()];
            steps[digit] = 1;
            let (row_weight, col_weight) = (whole(axis.row)?, whole(axis.col)?);
            axes.push(ViewAxis { size: whole(axis.size)?, offset: Dim::ZERO, steps, row_weight, col_weight });
        }
        for d in 0..n {
            let axis = merged(&image.dims[2 + d]).first().copied().unwrap_or(Axis::NONE);
            let mut steps = vec![0; digits.len()];
            let step = |n: i64| i32::try_from(n).map_err(|_| TOO_LARGE.to_string());
            (steps[at_positions + d], steps[at_window + d]) = (step(self.strides[d])?, step(self.dilations[d])?);
            let offset = Dim::ZERO - size(self.before[d])?;
            let (row_weight, col_weight) = (whole(axis.row)?, whole(axis.col)?);
            axes.push(ViewAxis { size: whole(axis.size)?, offset, steps, row_weight, col_weight });
        }
        for (base, weights) in [(image.base.0, (Dim::ONE, Dim::ZERO)), (image.base.1, (Dim::ZERO, Dim::ONE))] {
            if base != Lin::of(0) {
                let (offset, end) = (whole(base)?, whole(base.add(Lin::ONE).ok_or(TOO_LARGE)?)?);
                let steps = vec![0; digits.len()];
                axes.push(ViewAxis { size: end, offset, steps, row_weight: weights.0, col_weight: weights.1 });
            }
        }
        if axes.len() > candor_sdk::program::MAX_AXES {
            return Err(format!("windows over {} axes; at most {}", axes.len(), candor_sdk::program::MAX_AXES));
        }
        let at = if each { at_window } else { at_channels };
        let shape = image.shape();
        let mut rows: Vec<Lin> = vec![shape[0]];
        rows.extend(self.positions.iter().copied().map(Lin::of));
        let mut cols: Vec<Lin> = self.size.iter().copied().map(Lin::of).collect();
        if each {
            rows.push(shape[1])
        } else {
            cols.push(shape[1])
        }
        let (rows, cols) = (whole(count(&rows)?)?, whole(count(&cols)?)?);
        let col_digits = digits.split_off(at);
        Ok(importer.graph.view(value, View { row_digits: digits, col_digits, axes, fill: fill.to_bits() }, rows, cols))
    }
}

/// An image needs a batch, channels and one to three more dimensions.
fn spatial(tensor: &Tensor) -> Result<Vec<Lin>, Problem> {
    let shape = tensor.shape();
    match shape.len() {
        3..=5 => Ok(shape[2..].to_vec()),
        _ => Err(format!("{} is not an image of one to three dimensions", tensor.describe())),
    }
}

fn conv(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let (image, weight) = (importer.tensor(call.input(0)?)?, importer.tensor(call.input(1)?)?);
    let lengths = spatial(&image)?;
    let (shape, kernel) = (image.shape(), weight.shape());
    let groups = call.int("group")?.unwrap_or(1);
    let size: Option<Vec<i64>> = kernel.iter().skip(2).map(|dim| dim.known()).collect();
    let size = size.filter(|size| size.len() == lengths.len());
    let size = size.ok_or_else(|| format!("weights {} for {}", weight.describe(), image.describe()))?;
    if call.list("kernel_shape")?.is_some_and(|list| list != size) {
        return Err(format!("attribute kernel_shape is not that of the weights {}", weight.describe()));
    }
    let (Some(channels), Some(out), Some(per_group)) = (shape[1].known(), kernel[0].known(), kernel[1].known()) else {
        return Err("channels depend on the request".to_string());
    };
    let fits = groups > 0 && per_group.checked_mul(groups) == Some(channels) && out % groups == 0;
    if !fits || !is_constant(&weight) {
        return Err(format!("weights {} for {} in {groups} groups", weight.describe(), image.describe()));
    }
    let windows = Windows::of(call, &lengths, size)?;
    let patches = windows.view(importer, &image, false, 0.0)?;
    let bias = call.optional(2).map(|bias| importer.tensor(bias)).transpose()?;
    if let Some(bias) = &bias
        && (bias.elements() != Some(Lin::of(out)) || !is_constant(bias))
    {
        return Err(format!("a bias of {} for {out} channels", bias.describe()));
    }
    let mut places = vec![shape[0]];
    places.extend(windows.positions.iter().copied().map(Lin::of));
    let (value, rows, cols) = if groups == 1 {
        let w = importer.flat(&weight, 1)?;
        let bias = bias.as_ref().map(|bias| importer.flat(bias, 0)).transpose()?;
        (importer.graph.linear(patches, w, bias), places.clone(), vec![Lin::of(out)])
    } else {
        // Each group is a head: its own columns of the patches, its own weights.
        let heads = u32::try_from(groups).map_err(|_| TOO_LARGE)?;
        let split = regroup(&weight.dims[0], &[Lin::of(groups), Lin::of(out / groups)]).ok_or(TOO_LARGE)?;
        let (group, member) = (&split[0], &split[1]);
        let columns = [group.as_slice(), &weight.dims[1..].concat()].concat();
        let w = importer.arrange(&weight, member, &columns)?;
        let w = node(importer, w);
        let mut rows = places.clone();
        rows.push(Lin::of(groups));
        (scores(importer, patches, w, heads), rows, vec![Lin::of(out / groups)])
    };
    let mut tensor = Tensor::of(value, Kind::Float, &rows, &cols).ok_or(TOO_LARGE)?;
    // Positions came first; channels belong behind the batch.
    let channels = tensor.dims.split_off(places.len()).concat();
    tensor.dims.insert(1, channels);
    match bias {
        Some(bias) if groups > 1 => {
            let mut dims = vec![Lin::of(out)];
            dims.extend(lengths.iter().map(|_| Lin::ONE));
            let bias = importer.reshape(&bias, &dims)?;
            super::elementwise::binary(importer, "Add", &Item::Tensor(tensor), &Item::Tensor(bias))
        }
        _ => Ok(Item::Tensor(tensor)),
    }
}

/// A transposed convolution whose windows lie side by side: each place of the image becomes a window of its own, which is a linear
/// layer.
fn conv_transpose(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let (mut image, weight) = (importer.tensor(call.input(0)?)?, importer.tensor(call.input(1)?)?);
    let n = spatial(&image)?.len();
    let (shape, kernel) = (image.shape(), weight.shape());
    if kernel.len() != n + 2 || kernel[0] != shape[1] || !is_constant(&weight) || call.int("group")?.unwrap_or(1) != 1 {
        return Err(format!("weights {} for {}", weight.describe(), image.describe()));
    }
    let is = |name: &'static str, wanted: Vec<Lin>, otherwise: i64| -> Result<(), Problem> {
        let given = call.list(name)?.map_or_else(|| vec![otherwise; wanted.len()], <[i64]>::to_vec);
        match given.iter().map(|&n| Lin::of(n)).eq(wanted.iter().copied()) {
            true => Ok(()),
            false => Err(format!("attribute {name} is {given:?}; windows that overlap or are cut are not understood")),
        }
    };
    let window = || kernel[2..].to_vec();
    if call.list("kernel_shape")?.is_some() {
        is("kernel_shape", window(), 0)?;
    }
    is("strides", window(), 1)?;
    is("dilations", vec![Lin::ONE; n], 1)?;
    is("pads", vec![Lin::of(0); 2 * n], 0)?;
    is("output_padding", vec![Lin::of(0); n], 0)?;
    if !matches!(call.text("auto_pad")?, None | Some("NOTSET" | "VALID")) || call.list("output_shape")?.is_some() {
        return Err("its padding is not understood".to_string());
    }
    // Rows are places, columns channels; the layer's outputs are a channel and a place in the window.
    let channels = image.dims.remove(1);
    image.dims.push(channels);
    let x = importer.flat_floats(&image, n + 1)?;
    let w = importer.arrange(&weight, &weight.dims[1..].concat(), &weight.dims[0])?;
    let bias = match call.optional(2) {
        None => None,
        Some(bias) => {
            let bias = importer.tensor(bias)?;
            if bias.shape() != [kernel[1]] || !is_constant(&bias) {
                return Err(format!("a bias of {} for weights {}", bias.describe(), weight.describe()));
            }
            let window = kernel[2..].iter().map(|&size| Axis { size, ..Axis::NONE });
            let repeated: Vec<Axis> = bias.dims[0].iter().copied().chain(window).collect();
            Some(importer.arrange(&bias, &[], &repeated)?)
        }
    };
    let value = importer.graph.linear(x, w, bias);
    let places = [&shape[..1], &shape[2..]].concat();
    let mut tensor = Tensor::of(value, Kind::Float, &places, &kernel[1..]).ok_or(TOO_LARGE)?;
    let mut behind = tensor.dims.split_off(n + 1);
    for (place, inside) in tensor.dims[1..].iter_mut().zip(behind.drain(1..)) {
        place.extend(inside);
    }
    tensor.dims.insert(1, behind.remove(0));
    Ok(Item::Tensor(tensor))
}

fn pool(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let image = importer.tensor(call.input(0)?)?;
    let lengths = spatial(&image)?;
    let size = call.list("kernel_shape")?.ok_or("has no kernel_shape")?.to_vec();
    if size.len() != lengths.len() {
        return Err(format!("windows of {size:?} for {}", image.describe()));
    }
    call.ignore("storage_order"); // of the indices of the largest elements, which nothing can use here
    let windows = Windows::of(call, &lengths, size)?;
    let largest = call.op() == "MaxPool";
    let counts_padding = call.flag("count_include_pad", false)?;
    let patches = windows.view(importer, &image, true, if largest { f32::NEG_INFINITY } else { 0.0 })?;
    let value = if largest { importer.graph.row_max(patches) } else { importer.graph.row_sum(patches) };
    let mut rows = vec![image.shape()[0]];
    rows.extend(windows.positions.iter().copied().map(Lin::of));
    rows.push(image.shape()[1]);
    let mut tensor = Tensor::of(value, Kind::Float, &rows, &[]).ok_or(TOO_LARGE)?;
    let channels = tensor.dims.pop().unwrap_or_default();
    tensor.dims.insert(1, channels);
    if largest {
        return Ok(Item::Tensor(tensor));
    }
    // How many elements each mean is of.
    let inside: Vec<Vec<i64>> =
        (0..lengths.len()).map(|d| windows.inside(d, lengths[d].known().unwrap_or_default(), counts_padding)).collect();
    let mut counts = vec![1i64];
    for along in &inside {
        importer.spend(counts.len().saturating_mul(along.len()))?;
        counts = counts.iter().flat_map(|count| along.iter().map(move |n| count * n)).collect();
    }
    let counts: Vec<f32> = counts.iter().map(|&count| count as f32).collect();
    let dims: Vec<Lin> = windows.positions.iter().copied().map(Lin::of).collect();
    let counts = match counts.iter().all(|count| *count == counts[0]) {
        true => Item::Tensor(importer.constant(&counts[..1], &[])?),
        false => Item::Tensor(importer.constant(&counts, &dims)?),
    };
    super::elementwise::binary(importer, "Div", &Item::Tensor(tensor), &counts)
}

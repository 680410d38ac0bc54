//! Operations that move elements, and those on shapes.

use super::call::Call;
use super::graph::{Importer, Problem, TOO_LARGE, is_index, split};
use super::item::{Array, Ints, Item};
use super::lin::{Lin, show};
use super::proto::{Attribute, Elements, TensorProto};
use super::tensor::{Axis, Constant, Kind, Source, Tensor, product};
use candor_sdk::program::{BinaryFunction, ConcatAxis, Dim, MAX_DIGITS, View, ViewAxis};
use std::cmp::Ordering;

/// Whether this module imports an operation.
pub(super) fn has(op: &str) -> bool {
    matches!(
        op,
        "Reshape"
            | "Flatten"
            | "Squeeze"
            | "Unsqueeze"
            | "Transpose"
            | "Expand"
            | "Concat"
            | "Split"
            | "Slice"
            | "Gather"
            | "Shape"
            | "Size"
            | "Identity"
            | "Dropout"
            | "Constant"
            | "ConstantOfShape"
            | "Range"
            | "Tile"
            | "Pad"
            | "OneHot"
            | "Resize"
            | "Upsample"
    )
}

pub(super) fn import(importer: &mut Importer, call: &Call<'_>) -> Result<Vec<Item>, Problem> {
    let one = match call.op() {
        "Identity" => call.input(0)?.clone(),
        "Dropout" => {
            ["ratio", "seed", "is_test"].into_iter().for_each(|name| call.ignore(name));
            if call.optional(2).is_some() && call.known(2)? != [0] {
                return Err("is in training".to_string());
            }
            call.input(0)?.clone()
        }
        "Shape" => shape(call)?,
        "Size" => {
            let size = product(call.input(0)?.shape()).ok_or(TOO_LARGE)?;
            Item::Ints(Ints::scalar(size))
        }
        "Constant" => constant(importer, call)?,
        "ConstantOfShape" => {
            let dims = call.sizes(0)?;
            let (value, kind) = match call.value("value")? {
                None => (0.0, Kind::Float),
                Some(tensor) => match stored(importer, tensor, "value")? {
                    Item::Tensor(tensor) => (tensor.uniform().ok_or("its value is not one number")?, Kind::Float),
                    Item::Ints(ints) => match ints.known().as_deref() {
                        Some([value]) if value.unsigned_abs() <= 1 << 24 => (*value as f32, ints.kind),
                        _ => return Err("its value is not one number, exact as f32".to_string()),
                    },
                    _ => return Err("its value is not one number".to_string()),
                },
            };
            filled(importer, value, kind, dims)?
        }
        "Range" => range(call)?,
        "Reshape" => reshape(importer, call)?,
        "Flatten" => {
            let shape = call.input(0)?.shape();
            let axis = call.int("axis")?.unwrap_or(1);
            let axis = if axis == shape.len() as i64 { shape.len() } else { call.axis(axis, shape.len())? };
            let side = |dims: &[Lin]| product(dims.iter().copied()).ok_or(TOO_LARGE);
            to_shape(importer, call.input(0)?, vec![side(&shape[..axis])?, side(&shape[axis..])?])?
        }
        "Squeeze" | "Unsqueeze" => squeeze(importer, call)?,
        "Transpose" => {
            let rank = call.input(0)?.shape().len();
            let reversed: Vec<i64> = (0..rank as i64).rev().collect();
            let order = call.list("perm")?.unwrap_or(&reversed).to_vec();
            if order.len() != rank || call.axes(&order, rank)?.len() != rank {
                return Err(format!("attribute perm is {order:?} of {rank} dimensions"));
            }
            let order = order.iter().map(|&axis| call.axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
            transpose(call.input(0)?, &order)?
        }
        "Expand" => expand(importer, call.input(0)?, &call.sizes(1)?)?,
        "Tile" => tile(importer, call)?,
        "Concat" => concat(importer, call)?,
        "Split" => return cut(importer, call),
        "Slice" => slices(importer, call)?,
        "Gather" => gather(importer, call)?,
        "Pad" => pad(importer, call)?,
        "OneHot" => one_hot(importer, call)?,
        "Resize" | "Upsample" => resize(importer, call)?,
        _ => return Err("is not understood".to_string()),
    };
    Ok(vec![one])
}

/// A tensor of the file.
pub(super) fn stored(importer: &mut Importer, tensor: &TensorProto, name: &str) -> Result<Item, Problem> {
    let dims: Vec<Lin> = tensor
        .dims
        .iter()
        .map(|&dim| i64::try_from(dim).map(Lin::of))
        .collect::<Result<_, _>>()
        .map_err(|_| TOO_LARGE)?;
    let ints = |importer: &mut Importer, list: Vec<i64>, kind| {
        importer.spend(list.len())?;
        Ok(Item::Ints(Ints { dims: tensor.dims.clone(), values: list.into_iter().map(Lin::of).collect(), kind }))
    };
    match tensor.elements(&importer.file).map_err(|problem| format!("tensor {name:?}: {problem}"))? {
        Elements::Float(dtype, bytes) if tensor.count() != Some(0) => {
            let constant = Constant { name: name.to_string(), dtype, bytes };
            Ok(Item::Tensor(Tensor::constant(constant, &dims).ok_or(TOO_LARGE)?))
        }
        // The region of a Resize that has none, for one.
        Elements::Float(..) => ints(importer, Vec::new(), Kind::Float),
        Elements::Int(list) => ints(importer, list, Kind::Int),
        Elements::Bool(list) => ints(importer, list, Kind::Bool),
    }
}

fn constant(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    if let Some(tensor) = call.value("value")? {
        let name = if tensor.name.is_empty() {
            call.node.outputs.first().cloned().unwrap_or_default()
        } else {
            tensor.name.clone()
        };
        return stored(importer, tensor, &name);
    }
    let found =
        ["value_float", "value_floats", "value_int", "value_ints"].into_iter().find_map(|name| call.plain(name));
    Ok(match found {
        Some(Attribute::Float(value)) => Item::Tensor(importer.constant(&[*value], &[])?),
        Some(Attribute::Floats(values)) if !values.is_empty() => {
            Item::Tensor(importer.constant(values, &[Lin::of(values.len() as i64)])?)
        }
        Some(Attribute::Int(value)) => Item::Ints(Ints::scalar(Lin::of(*value))),
        Some(Attribute::Ints(values)) => Item::Ints(Ints::list(values.iter().copied().map(Lin::of).collect())),
        _ => return Err("has no value that is understood".to_string()),
    })
}

/// One number in a shape.
fn filled(importer: &mut Importer, value: f32, kind: Kind, dims: Vec<Lin>) -> Result<Item, Problem> {
    let known: Option<Vec<usize>> = dims.iter().map(|dim| dim.size()).collect();
    if let (Some(known), true) = (known, kind != Kind::Float) {
        let count = known.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).ok_or(TOO_LARGE)?;
        importer.spend(count)?;
        return Ok(Item::Ints(Ints { dims: known, values: vec![Lin::of(value as i64); count], kind }));
    }
    positive(&dims)?;
    importer.everywhere(value, dims, kind)
}

/// Refuses a shape that has no elements.
fn positive(dims: &[Lin]) -> Result<(), Problem> {
    match dims.iter().all(|dim| dim.sign() == Some(Ordering::Greater)) {
        true => Ok(()),
        false => Err(format!("shape {} has no elements for some request", show(dims))),
    }
}

fn shape(call: &Call<'_>) -> Result<Item, Problem> {
    let dims = call.input(0)?.shape();
    let rank = dims.len() as i64;
    let place = |value: i64| (if value < 0 { value.saturating_add(rank) } else { value }).clamp(0, rank) as usize;
    let start = place(call.int("start")?.unwrap_or(0));
    let end = place(call.int("end")?.unwrap_or(rank));
    Ok(Item::Ints(Ints::list(dims.get(start..end).unwrap_or_default().to_vec())))
}

fn range(call: &Call<'_>) -> Result<Item, Problem> {
    let one = |i: usize| match call.ints(i)?.values[..] {
        [value] => Ok(value),
        _ => Err(format!("input {i} is not one number")),
    };
    let (start, limit, step) = (one(0)?, one(1)?, one(2)?);
    let span = limit.sub(start).ok_or(TOO_LARGE)?;
    match (span.known(), step.known()) {
        (Some(span), Some(step)) if step != 0 => {
            // As many whole steps as fit.
            let count = if (span > 0) == (step > 0) { span.unsigned_abs().div_ceil(step.unsigned_abs()) } else { 0 };
            if count > 1 << 20 {
                return Err(format!("{count} numbers"));
            }
            let value = |i: i64| i.checked_mul(step).and_then(|moved| start.add(Lin::of(moved))).ok_or(TOO_LARGE);
            let values = (0..count as i64).map(value).collect::<Result<Vec<_>, _>>()?;
            Ok(Item::Ints(Ints::list(values)))
        }
        (None, Some(1)) => Ok(Item::Range { start, dims: vec![span] }),
        _ => Err("its length depends on the request, and its step is not 1".to_string()),
    }
}

/// The same elements in another shape.
fn to_shape(importer: &mut Importer, item: &Item, dims: Vec<Lin>) -> Result<Item, Problem> {
    if product(dims.iter().copied()) != product(item.shape()) {
        return Err(format!("{} cannot become {}", item.describe(), show(&dims)));
    }
    Ok(match item {
        Item::Tensor(tensor) => Item::Tensor(importer.reshape(tensor, &dims)?),
        Item::Ints(ints) => {
            let dims = dims.iter().map(|dim| dim.size()).collect::<Option<Vec<_>>>().ok_or(TOO_LARGE)?;
            Item::Ints(Ints { dims, ..ints.clone() })
        }
        Item::Uniform { value, kind, .. } => Item::Uniform { value: *value, kind: *kind, dims },
        Item::Range { start, .. } => match dims.iter().filter(|dim| !dim.is_one()).count() {
            0 | 1 => Item::Range { start: *start, dims },
            _ => return Err("positions stay in one dimension".to_string()),
        },
    })
}

fn reshape(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let input = call.input(0)?;
    let (shape, zero_is_zero) = (input.shape(), call.flag("allowzero", false)?);
    let wanted = match (importer.opset, call.list("shape")?) {
        (..5, Some(list)) => list.iter().copied().map(Lin::of).collect(),
        _ => call.sizes(1)?,
    };
    let mut dims = Vec::new();
    let mut open = None;
    for (place, &dim) in wanted.iter().enumerate() {
        dims.push(match dim.known() {
            Some(-1) if open.replace(place).is_some() => return Err("two dimensions are -1".to_string()),
            Some(-1) => Lin::ONE,
            Some(0) if !zero_is_zero => *shape.get(place).ok_or("copies a dimension that is not there")?,
            _ => dim,
        });
    }
    let all = product(shape.iter().copied()).ok_or(TOO_LARGE)?;
    if let Some(open) = open {
        let rest = product(dims.iter().copied()).ok_or(TOO_LARGE)?;
        dims[open] = all.exact_div(rest).ok_or_else(|| format!("{} cannot become {}", show(&shape), show(&wanted)))?;
    }
    positive(&dims)?;
    to_shape(importer, input, dims)
}

fn squeeze(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let shape = call.input(0)?.shape();
    let dims = if call.op() == "Squeeze" {
        let axes = call.axes_given(1, shape.len())?;
        let axes = axes.unwrap_or_else(|| (0..shape.len()).filter(|&d| shape[d].is_one()).collect());
        if let Some(&axis) = axes.iter().find(|&&axis| !shape[axis].is_one()) {
            return Err(format!("dimension {axis} of {} is not 1", show(&shape)));
        }
        (0..shape.len()).filter(|d| !axes.contains(d)).map(|d| shape[d]).collect()
    } else {
        let count = match (call.optional(1), call.list("axes")?) {
            (Some(_), _) => call.known(1)?.len(),
            (None, Some(list)) => list.len(),
            (None, None) => return Err("has no axes".to_string()),
        };
        let rank = shape.len() + count;
        if rank > super::proto::MAX_RANK {
            return Err(format!("{rank} dimensions; at most {}", super::proto::MAX_RANK));
        }
        let axes = call.axes_given(1, rank)?.unwrap_or_default();
        let mut own = shape.iter();
        let dim = |d| if axes.contains(&d) { Some(Lin::ONE) } else { own.next().copied() };
        (0..rank).map(dim).collect::<Option<Vec<_>>>().ok_or(TOO_LARGE)?
    };
    to_shape(importer, call.input(0)?, dims)
}

fn transpose(item: &Item, order: &[usize]) -> Result<Item, Problem> {
    let moved = |dims: &[Lin]| order.iter().map(|&d| dims[d]).collect();
    Ok(match item {
        Item::Tensor(tensor) => {
            let dims = order.iter().map(|&d| tensor.dims[d].clone()).collect();
            Item::Tensor(Tensor { dims, ..tensor.clone() })
        }
        Item::Ints(ints) => {
            let array =
                Array { dims: ints.dims.clone(), values: ints.values.clone() }.transposed(order).ok_or(TOO_LARGE)?;
            Item::Ints(Ints { dims: array.dims, values: array.values, kind: ints.kind })
        }
        Item::Uniform { value, dims, kind } => Item::Uniform { value: *value, dims: moved(dims), kind: *kind },
        Item::Range { start, dims } => Item::Range { start: *start, dims: moved(dims) },
    })
}

/// Repeats an item to the dimensions that it and `dims` broadcast to.
pub(super) fn expand(importer: &mut Importer, item: &Item, dims: &[Lin]) -> Result<Item, Problem> {
    positive(dims)?;
    let shapes = [item.shape(), dims.to_vec()];
    let Some(dims) = super::item::broadcast_dims(&shapes) else {
        return Err(format!("{} does not broadcast to {}", item.describe(), show(dims)));
    };
    Ok(match item {
        Item::Tensor(tensor) => Item::Tensor(super::graph::broadcast(tensor, &dims, None).ok_or(TOO_LARGE)?),
        Item::Uniform { value, kind, .. } => Item::Uniform { value: *value, dims, kind: *kind },
        Item::Range { .. } if dims == item.shape() => item.clone(),
        Item::Range { .. } => return Err("positions are not repeated".to_string()),
        Item::Ints(ints) => match dims.iter().map(|dim| dim.size()).collect::<Option<Vec<_>>>() {
            Some(dims) => {
                let array = Array { dims: ints.dims.clone(), values: ints.values.clone() };
                let array = array.broadcast(&dims).ok_or("too many integers")?;
                importer.spend(array.values.len())?;
                Item::Ints(Ints { dims: array.dims, values: array.values, kind: ints.kind })
            }
            None => {
                let one = ints.known().filter(|values| values.len() == 1 && values[0].unsigned_abs() <= 1 << 24);
                let Some([value]) = one.as_deref() else {
                    return Err("several integers are not repeated as often as the request is long".to_string());
                };
                Item::Uniform { value: *value as f32, dims, kind: ints.kind }
            }
        },
    })
}

fn tile(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let tensor = importer.tensor(call.input(0)?)?;
    let times = call.sizes(1)?;
    if times.len() != tensor.rank() {
        return Err(format!("{} repetitions of {} dimensions", times.len(), tensor.rank()));
    }
    positive(&times)?;
    let mut result = tensor;
    for (axes, &size) in result.dims.iter_mut().zip(&times) {
        if !size.is_one() {
            axes.insert(0, Axis { size, ..Axis::NONE });
        }
    }
    Ok(Item::Tensor(result))
}

/// The most that a dimension is stretched by.
const MAX_STRETCH: i64 = 1 << 10;

/// Larger images whose elements are the nearest ones of a smaller image, a whole number of times.
fn resize(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let mut tensor = importer.tensor(call.input(0)?)?;
    let old = call.op() == "Upsample" || importer.opset < 11;
    let mode = call.text("mode")?.unwrap_or("nearest");
    let place = call.text("coordinate_transformation_mode")?.unwrap_or(if old { "asymmetric" } else { "half_pixel" });
    let nearest = call.text("nearest_mode")?.unwrap_or(if old { "floor" } else { "round_prefer_floor" });
    // Of these, and of whole factors only, it is true that place `i` of the result is place `i / factor` of the image.
    let plain = match place {
        "asymmetric" => nearest == "floor",
        "half_pixel" | "half_pixel_symmetric" => matches!(nearest, "round_prefer_floor" | "round_prefer_ceil"),
        _ => false,
    };
    if mode != "nearest" || !plain {
        return Err(format!("by {mode}, {place}, {nearest} is not understood"));
    }
    // Of other modes.
    ["antialias", "cubic_coeff_a", "exclude_outside", "extrapolation_value"]
        .into_iter()
        .for_each(|name| call.ignore(name));
    if call.text("keep_aspect_ratio_policy")?.is_some_and(|policy| policy != "stretch") {
        return Err("keeps the aspect ratio, which is not understood".to_string());
    }
    let shape = tensor.shape();
    let axes: Vec<usize> = match call.list("axes")? {
        Some(list) => list.iter().map(|&axis| call.axis(axis, shape.len())).collect::<Result<_, _>>()?,
        None => (0..shape.len()).collect(),
    };
    let given = |index: usize| call.optional(index).filter(|item| item.shape() != [Lin::of(0)]);
    let factors: Vec<Option<i64>> = if let Some(scales) = given(if old { 1 } else { 2 }) {
        let scales = importer.tensor(scales)?.folded().ok_or("its scales are not known at import")?;
        let whole = |scale: f32| (scale.fract() == 0.0 && scale <= MAX_STRETCH as f32).then_some(scale as i64);
        scales.into_iter().map(whole).collect()
    } else {
        let whole = |(size, &axis): (Lin, &usize)| size.exact_div(shape[axis]).and_then(Lin::known);
        call.sizes(3)?.into_iter().zip(&axes).map(whole).collect()
    };
    if factors.len() != axes.len() {
        return Err(format!("{} factors of {} dimensions", factors.len(), axes.len()));
    }
    for (factor, axis) in factors.into_iter().zip(axes) {
        match factor {
            Some(1) => {}
            Some(factor @ 2..=MAX_STRETCH) => tensor.dims[axis].push(Axis { size: Lin::of(factor), ..Axis::NONE }),
            _ => return Err(format!("dimension {axis} of {} is not stretched by a whole number", show(&shape))),
        }
    }
    Ok(Item::Tensor(tensor))
}

fn concat(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let inputs = call.inputs()?;
    let rank = inputs.first().map_or(0, |item| item.shape().len());
    let axis = call.int("axis")?.unwrap_or(if importer.opset < 4 { 1 } else { i64::MAX });
    let axis = call.axis(axis, rank)?;
    let arrays: Option<Vec<Array<Lin>>> = inputs
        .iter()
        .map(|item| match item {
            Item::Ints(ints) => Some(Array { dims: ints.dims.clone(), values: ints.values.clone() }),
            _ => None,
        })
        .collect();
    if let Some(arrays) = arrays {
        let joined = Array::concat(&arrays, axis).ok_or("shapes do not fit beside each other")?;
        importer.spend(joined.values.len())?;
        return Ok(Item::Ints(Ints { dims: joined.dims, values: joined.values, kind: inputs[0].kind() }));
    }
    let mut dims = inputs[0].shape();
    let mut along = Lin::of(0);
    for item in &inputs {
        let shape = item.shape();
        let alike = shape.len() == rank && (0..rank).all(|d| d == axis || shape[d] == dims[d]);
        if !alike || item.kind() != inputs[0].kind() {
            return Err(format!("{} and {} do not fit beside each other", inputs[0].describe(), item.describe()));
        }
        along = along.add(shape[axis]).ok_or(TOO_LARGE)?;
    }
    dims[axis] = along;
    let tensors = inputs.iter().map(|item| importer.tensor(item)).collect::<Result<Vec<_>, _>>()?;
    if let Some(parts) = tensors.iter().map(Tensor::folded).collect::<Option<Vec<_>>>() {
        let dims_of = |tensor: &Tensor| tensor.shape().iter().map(|dim| dim.size()).collect::<Option<Vec<_>>>();
        let arrays = tensors.iter().zip(parts).map(|(tensor, values)| Some(Array { dims: dims_of(tensor)?, values }));
        let joined =
            arrays.collect::<Option<Vec<_>>>().and_then(|arrays| Array::concat(&arrays, axis)).ok_or(TOO_LARGE)?;
        importer.spend(joined.values.len())?;
        return Ok(Item::Tensor(importer.constant(&joined.values, &dims)?));
    }
    // Below each other if nothing comes before the axis and something after it, else beside each other.
    let below = dims[..axis].iter().all(|dim| dim.is_one()) && axis + 1 < rank;
    let at = if below { split(&tensors[0].dims).max(axis + 1) } else { axis };
    let computed = |tensor: &&Tensor| matches!(tensor.source, Source::Value(_));
    let same =
        tensors.iter().filter(computed).map(|tensor| importer.flat(tensor, at)).collect::<Result<Vec<_>, _>>()?;
    let mixed = same.len() < tensors.len() || same.iter().any(|value| value.dtype != same[0].dtype);
    let values = match mixed {
        true => tensors.iter().map(|tensor| importer.flat_floats(tensor, at)).collect::<Result<Vec<_>, _>>()?,
        false => same,
    };
    let value = importer.graph.concat(if below { ConcatAxis::Rows } else { ConcatAxis::Cols }, &values);
    Ok(Item::Tensor(Tensor::of(value, inputs[0].kind(), &dims[..at], &dims[at..]).ok_or(TOO_LARGE)?))
}

/// A part of a dimension.
fn part(importer: &mut Importer, item: &Item, axis: usize, start: Lin, count: Lin, step: i64) -> Result<Item, Problem> {
    let mut dims = item.shape();
    if count.sign() != Some(Ordering::Greater) && !matches!(item, Item::Ints(_)) {
        return Err(format!("takes {count} elements of dimension {axis} of {}", item.describe()));
    }
    dims[axis] = count;
    Ok(match item {
        Item::Ints(ints) => {
            if let (Some(start), Some(count)) = (start.known(), count.known()) {
                let places: Option<Vec<usize>> =
                    (0..count.max(0)).map(|i| usize::try_from(i.checked_mul(step)?.checked_add(start)?).ok()).collect();
                let array = Array { dims: ints.dims.clone(), values: ints.values.clone() };
                let array = places.and_then(|places| array.picked(axis, &places)).ok_or("is out of range")?;
                importer.spend(array.values.len())?;
                return Ok(Item::Ints(Ints { dims: array.dims, values: array.values, kind: ints.kind }));
            }
            // As many of the numbers 0, 1, 2... as the request is long: positions.
            let counts = ints.values.windows(2).all(|pair| pair[0].add(Lin::ONE) == Some(pair[1]));
            let flat = ints.dims.iter().enumerate().all(|(d, &dim)| d == axis || dim == 1);
            let (Some(&first), true, 1) = (ints.values.first(), counts && flat, step) else {
                return Err("takes as many integers as the request is long, and they are not positions".to_string());
            };
            Item::Range { start: first.add(start).ok_or(TOO_LARGE)?, dims }
        }
        Item::Tensor(tensor) if step > 0 => match tensor.sliced(axis, start, count, step) {
            Some(part) => Item::Tensor(part),
            None => {
                let whole = importer.in_order(tensor)?;
                Item::Tensor(whole.sliced(axis, start, count, step).ok_or(TOO_LARGE)?)
            }
        },
        Item::Tensor(_) => return Err("with a step below 0 is not understood".to_string()),
        Item::Uniform { value, kind, .. } => Item::Uniform { value: *value, dims, kind: *kind },
        Item::Range { start: first, dims: all } => {
            let moved = if all[axis].is_one() { Lin::of(0) } else { start };
            if step != 1 {
                return Err("positions with a step are not understood".to_string());
            }
            Item::Range { start: first.add(moved).ok_or(TOO_LARGE)?, dims }
        }
    })
}

fn cut(importer: &mut Importer, call: &Call<'_>) -> Result<Vec<Item>, Problem> {
    let shape = call.input(0)?.shape();
    let axis = call.axis(call.int("axis")?.unwrap_or(0), shape.len())?;
    let parts = call.node.outputs.len() as i64;
    call.ignore("num_outputs"); // as many as there are outputs
    let sizes = match (call.optional(1), call.list("split")?) {
        (Some(_), _) => call.sizes(1)?,
        (None, Some(list)) => list.iter().copied().map(Lin::of).collect(),
        (None, None) => {
            let even = shape[axis].exact_div(Lin::of(parts)).or_else(|| {
                // The last part may be smaller.
                Some(Lin::of(shape[axis].known()?.checked_add(parts - 1)?.checked_div(parts)?))
            });
            let even = even.ok_or_else(|| format!("{} does not divide into {parts}", shape[axis]))?;
            let mut sizes = vec![even; call.node.outputs.len()];
            if let Some(last) = sizes.last_mut() {
                let others = even.mul(Lin::of(parts - 1)).ok_or(TOO_LARGE)?;
                *last = shape[axis].sub(others).ok_or(TOO_LARGE)?;
            }
            sizes
        }
    };
    let total = sizes.iter().try_fold(Lin::of(0), |sum, size| sum.add(*size));
    if sizes.len() != call.node.outputs.len() || total != Some(shape[axis]) {
        return Err(format!("parts {} of dimension {axis} of {}", show(&sizes), show(&shape)));
    }
    let mut start = Lin::of(0);
    let mut items = Vec::new();
    for size in sizes {
        items.push(part(importer, call.input(0)?, axis, start, size, 1)?);
        start = start.add(size).ok_or(TOO_LARGE)?;
    }
    Ok(items)
}

fn slices(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let mut item = call.input(0)?.clone();
    let shape = item.shape();
    let list = |name: &'static str| {
        Ok::<_, Problem>(call.list(name)?.map(|list| list.iter().copied().map(Lin::of).collect::<Vec<_>>()))
    };
    let (starts, ends, axes, steps) = match (list("starts")?, list("ends")?) {
        (Some(starts), Some(ends)) => (starts, ends, call.list("axes")?.map(<[i64]>::to_vec), None),
        _ => {
            let given = |i: usize| call.optional(i).map(|_| call.known(i)).transpose();
            (call.sizes(1)?, call.sizes(2)?, given(3)?, given(4)?)
        }
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(format!(
            "{} starts, {} ends, {} axes, {} steps",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        ));
    }
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let axis = call.axis(axis, shape.len())?;
        let size = shape[axis];
        // Where a bound lies, counted from the start and within the dimension (or just beyond it).
        let place = |bound: Lin| -> Result<Lin, Problem> {
            let below =
                bound.sign().ok_or_else(|| format!("bound {bound} is below 0 for some request"))? == Ordering::Less;
            let bound = if below { bound.add(size).ok_or(TOO_LARGE)? } else { bound };
            match (bound.sign(), bound.sub(size).ok_or(TOO_LARGE)?.sign()) {
                (Some(Ordering::Less), _) => Ok(Lin::of(0)),
                (_, Some(Ordering::Greater)) => Ok(size),
                (_, None) if bound.known().is_some_and(|bound| bound >= i64::from(i32::MAX)) => Ok(size),
                (Some(_), Some(_)) => Ok(bound),
                // A known place in a dimension that may be shorter: whoever reads it finds out.
                (Some(_), None) => Ok(bound),
                _ => Err(format!("bound {bound} of {size} depends on the length of the request")),
            }
        };
        if step < 0 {
            let whole = start.known().is_some_and(|start| start == -1 || start >= i64::from(i32::MAX));
            let whole = whole && end.known().is_some_and(|end| end <= i64::from(i32::MIN));
            match (step, whole, size.known()) {
                (-1, true, Some(size)) if matches!(item, Item::Ints(_)) => {
                    item = part(importer, &item, axis, Lin::of(size - 1), Lin::of(size), -1)?;
                    continue;
                }
                _ => return Err(format!("with a step of {step} is not understood")),
            }
        }
        if step == 0 {
            return Err("with a step of 0".to_string());
        }
        let (start, end) = (place(start)?, place(end)?);
        let span = end.sub(start).ok_or(TOO_LARGE)?;
        let count = match (step, span.known()) {
            (1, _) => span,
            (step, Some(span)) => Lin::of(span.max(0).unsigned_abs().div_ceil(step.unsigned_abs()) as i64),
            (_, None) => return Err("with a step, of a length that depends on the request".to_string()),
        };
        if start == Lin::of(0) && count == size && step == 1 {
            continue;
        }
        item = part(importer, &item, axis, start, count, step)?;
    }
    Ok(item)
}

fn gather(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let (data, indices) = (call.input(0)?, call.input(1)?);
    let shape = data.shape();
    let axis = call.axis(call.int("axis")?.unwrap_or(0), shape.len())?;
    let mut dims = shape[..axis].to_vec();
    dims.extend(indices.shape());
    dims.extend(&shape[axis + 1..]);
    match indices {
        Item::Ints(ints) => {
            let size = shape[axis];
            let place = |index: &Lin| -> Result<Lin, Problem> {
                let below = index.sign() == Some(Ordering::Less);
                let index = if below { index.add(size).ok_or(TOO_LARGE)? } else { *index };
                let within = index.sub(size).and_then(Lin::sign) != Some(Ordering::Greater) && index != size;
                match index.sign() {
                    Some(Ordering::Equal | Ordering::Greater) if within => Ok(index),
                    _ => Err(format!("index {index} of {size}")),
                }
            };
            let places = ints.values.iter().map(place).collect::<Result<Vec<_>, _>>()?;
            if let Item::Ints(data) = data {
                let places: Option<Vec<usize>> = places.iter().map(|place| place.size()).collect();
                let array = Array { dims: data.dims.clone(), values: data.values.clone() };
                let array = places.and_then(|places| array.picked(axis, &places)).ok_or(TOO_LARGE)?;
                importer.spend(array.values.len())?;
                let found = Item::Ints(Ints { dims: array.dims, values: array.values, kind: data.kind });
                return to_shape(importer, &found, dims);
            }
            // Neighbours are a part; anything else is put together from parts.
            let together = places.windows(2).all(|pair| pair[0].add(Lin::ONE) == Some(pair[1]));
            let first = *places.first().ok_or("has no indices")?;
            let found = if together {
                part(importer, data, axis, first, Lin::of(places.len() as i64), 1)?
            } else {
                picked(importer, data, axis, &places)?
            };
            to_shape(importer, &found, dims)
        }
        Item::Uniform { value, dims: repeated, .. } => {
            // The same entry everywhere.
            let entry = part(importer, data, axis, Lin::of(*value as i64), Lin::ONE, 1)?;
            let mut ones = shape[..axis].to_vec();
            ones.extend(repeated.iter().map(|_| Lin::ONE));
            ones.extend(&shape[axis + 1..]);
            let entry = to_shape(importer, &entry, ones)?;
            expand(importer, &entry, &dims)
        }
        Item::Range { start, dims: positions } => {
            let count = product(positions.iter().copied()).ok_or(TOO_LARGE)?;
            // Not `part`, which would look beyond the end of a constant: the graph's validation finds that.
            let tensor = importer.tensor(data)?;
            let rows = Tensor { dims: vec![tensor.dims[axis].clone()], ..tensor.clone() };
            let mut others = tensor.dims.clone();
            others.remove(axis);
            let table = importer.arrange(&tensor, &rows.axes(), &others.concat())?;
            let (Some(from), Some(rows)) = (start.dim(), count.dim()) else { return Err(TOO_LARGE.to_string()) };
            let value = importer.graph.slice_rows(table, from, rows);
            chosen(importer, value, &shape, axis, positions)
        }
        Item::Tensor(indices) => {
            let ids = importer.flat(indices, indices.rank())?;
            if !is_index(ids) {
                return Err("indices are computed by arithmetic, which is not understood".to_string());
            }
            let tensor = importer.tensor(data)?;
            let mut others = tensor.dims.clone();
            let rows = others.remove(axis);
            let table = importer.arrange(&tensor, &rows, &others.concat())?;
            let value = importer.graph.gather(ids, table);
            chosen(importer, value, &shape, axis, &indices.shape())
        }
    }
}

/// What rows of indices and columns of all other dimensions are: the indices' dimensions in the place of `axis`.
fn chosen(
    importer: &Importer,
    value: candor_sdk::program::Value,
    shape: &[Lin],
    axis: usize,
    indices: &[Lin],
) -> Result<Item, Problem> {
    let _ = importer;
    let mut others = shape.to_vec();
    others.remove(axis);
    let mut tensor = Tensor::of(value, Kind::Float, indices, &others).ok_or(TOO_LARGE)?;
    let places: Vec<_> = tensor.dims.drain(..indices.len()).collect();
    tensor.dims.splice(axis..axis, places);
    Ok(Item::Tensor(tensor))
}

/// Chosen places of a dimension.
fn picked(importer: &mut Importer, data: &Item, axis: usize, places: &[Lin]) -> Result<Item, Problem> {
    let tensor = importer.tensor(data)?;
    let shape = tensor.shape();
    if let (Some(values), Some(places)) = (tensor.folded(), places.iter().map(|p| p.size()).collect::<Option<Vec<_>>>())
    {
        let dims = shape.iter().map(|dim| dim.size()).collect::<Option<Vec<_>>>().ok_or(TOO_LARGE)?;
        let array = Array { dims, values }.picked(axis, &places).ok_or(TOO_LARGE)?;
        importer.spend(array.values.len())?;
        let dims: Vec<Lin> = array.dims.iter().map(|&dim| Lin::of(dim as i64)).collect();
        return Ok(Item::Tensor(importer.constant(&array.values, &dims)?));
    }
    let places: Option<Vec<u32>> = places.iter().map(|place| u32::try_from(place.known()?).ok()).collect();
    let places = places.ok_or("chooses places that depend on the length of the request")?;
    let mut others = tensor.dims.clone();
    let cols = others.remove(axis);
    let value = importer.arrange(&tensor, &others.concat(), &cols)?;
    let index = importer.graph.indices("indices", &places);
    let value = importer.graph.take(value, index);
    let mut rest = shape;
    rest.remove(axis);
    let mut tensor = Tensor::of(value, tensor.kind, &rest, &[Lin::of(places.len() as i64)]).ok_or(TOO_LARGE)?;
    let cols = tensor.dims.pop().unwrap_or_default();
    tensor.dims.insert(axis, cols);
    Ok(Item::Tensor(tensor))
}

fn pad(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    match call.text("mode")? {
        None | Some("constant") => {}
        Some(other) => return Err(format!("mode {other:?} is not understood, only constant")),
    }
    let item = call.input(0)?;
    let tensor = importer.tensor(item)?;
    let rank = tensor.rank();
    let (pads, fill) = match call.list("pads")? {
        Some(list) => (list.to_vec(), call.float("value", 0.0)?),
        None => {
            let fill = match call.optional(2) {
                None => 0.0,
                Some(Item::Tensor(tensor)) => tensor.uniform().ok_or("its value is not known at import")?,
                Some(other) => return Err(format!("its value is {}", other.describe())),
            };
            (call.known(1)?, fill)
        }
    };
    let axes = match call.optional(3) {
        Some(_) => call.known(3)?.iter().map(|&axis| call.axis(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|pad| !(0..=1 << 24).contains(pad)) {
        return Err(format!("pads {pads:?} of {} dimensions", axes.len()));
    }
    let mut around = vec![(0, 0); rank];
    for (i, &axis) in axes.iter().enumerate() {
        around[axis] = (pads[i], pads[axes.len() + i]);
    }
    padded(importer, &tensor, &around, fill).map(Item::Tensor)
}

/// A tensor with `fill` before and after each dimension.
pub(super) fn padded(
    importer: &mut Importer,
    tensor: &Tensor,
    around: &[(i64, i64)],
    fill: f32,
) -> Result<Tensor, Problem> {
    if around.iter().all(|pads| *pads == (0, 0)) {
        return Ok(tensor.clone());
    }
    let whole = importer.in_order(tensor)?;
    let Source::Value(value) = whole.source else { return Err("pads a constant".to_string()) };
    let value = importer.graph.convert(value);
    let shape = whole.shape();
    let dim = |lin: Lin| lin.dim().ok_or_else(|| TOO_LARGE.to_string());
    let mut dims = Vec::new();
    for (size, (before, after)) in shape.iter().zip(around) {
        dims.push(size.add(Lin::of(before + after)).ok_or(TOO_LARGE)?);
    }
    let at = split(&whole.dims);
    let digits: Vec<usize> = (0..dims.len()).filter(|&d| !dims[d].is_one()).collect();
    if digits.len() > MAX_DIGITS {
        return Err(format!("{} dimensions; at most {MAX_DIGITS}", digits.len()));
    }
    let mut axes = Vec::new();
    for (digit, &d) in digits.iter().enumerate() {
        let own = super::tensor::merged(&whole.dims[d]).first().copied().unwrap_or(Axis::NONE);
        let mut steps = vec![0; digits.len()];
        steps[digit] = 1;
        let (row_weight, col_weight) = (dim(own.row)?, dim(own.col)?);
        let offset = Dim::ZERO - dim(Lin::of(around[d].0))?;
        axes.push(ViewAxis { size: dim(shape[d])?, offset, steps, row_weight, col_weight });
    }
    let sizes = |rows: bool| {
        let side = digits.iter().filter(|&&d| (d < at) == rows);
        side.map(|&d| dim(dims[d])).collect::<Result<Vec<Dim>, _>>()
    };
    let (row_digits, col_digits) = (sizes(true)?, sizes(false)?);
    let total = |dims: &[Lin]| dim(product(dims.iter().copied()).ok_or(TOO_LARGE)?);
    let (rows, cols) = (total(&dims[..at])?, total(&dims[at..])?);
    let view = View { row_digits, col_digits, axes, fill: fill.to_bits() };
    let value = importer.graph.view(value, view, rows, cols);
    Tensor::of(value, tensor.kind, &dims[..at], &dims[at..]).ok_or_else(|| TOO_LARGE.to_string())
}

/// A new last dimension in which each index is marked.
fn one_hot(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let indices = call.input(0)?;
    let shape = indices.shape();
    let axis = call.int("axis")?.unwrap_or(-1);
    if axis != -1 && axis != shape.len() as i64 {
        return Err(format!("axis {axis} is not the last"));
    }
    let depth = match call.known(1)?[..] {
        [depth @ 1..=65536] => depth,
        ref other => return Err(format!("depth {other:?}; 1 to 65536 are understood")),
    };
    let values = match call.input(2)? {
        Item::Tensor(tensor) => tensor.folded(),
        Item::Ints(ints) => ints.known().map(|values| values.iter().map(|&value| value as f32).collect()),
        _ => None,
    };
    let Some([off, on]) = values.as_deref() else { return Err("its two values are not known at import".to_string()) };
    let (off, on) = (*off, *on);
    let numbers: Vec<f32> = (0..depth).map(|n| n as f32).collect();
    let numbers = Item::Tensor(importer.constant(&numbers, &[Lin::of(depth)])?);
    let mut column = shape;
    column.push(Lin::ONE);
    let column = to_shape(importer, indices, column)?;
    let fold = move |x: &[f32]| if x[0] == x[1] { on } else { off };
    importer.elementwise(&[&column, &numbers], Kind::Float, fold, |graph, x| {
        let equal = graph.binary(BinaryFunction::Equal, x[0], x[1]);
        if (off, on) == (0.0, 1.0) {
            return equal;
        }
        let (on, off) = (graph.constant(on), graph.constant(off));
        graph.select(equal, on, off)
    })
}

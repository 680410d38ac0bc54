//! Tensors of many dimensions meeting the graph's two: putting elements in order, and operations on elements.

use super::item::{Array, Ints, Item, broadcast_dims};
use super::lin::Lin;
use super::tensor::{Axis, Constant, Kind, MAX_FOLDED, Source, Tensor, merged, product, regroup, row_major};
use crate::engine::import::tensors::{FileBytes, Slice};
use candor_sdk::program::{DType, Dim, MAX_AXES, MAX_DIGITS, ProgramBuilder, Value, View, ViewAxis, WeightTensor};
use std::collections::HashMap;
use std::sync::Arc;

/// Why a node cannot be imported.
pub(super) type Problem = String;

/// A constant, by its address, and the order of elements that makes it a weight.
type Arrangement = (usize, Vec<Axis>, Vec<Axis>);

/// The graph being built.
pub(super) struct Importer {
    pub(super) graph: ProgramBuilder,
    pub(super) file: FileBytes,
    /// Version of the operator set.
    pub(super) opset: u64,
    /// Weights that exist already, by constant and order of elements.
    weights: HashMap<Arrangement, (Arc<Constant>, Value)>,
    /// Elements that may still be computed at import.
    budget: usize,
    /// Constants that were computed, for their names.
    computed: usize,
}

/// The order in which an elementwise operation has its elements.
struct Frame {
    /// The axes of each dimension.
    dims: Vec<Vec<Axis>>,
    /// Which of them make the rows, as dimension and place in it, outermost first.
    rows: Vec<(usize, usize)>,
    /// Which make the columns.
    cols: Vec<(usize, usize)>,
}

pub(super) const TOO_LARGE: &str = "a dimension beyond 31 bits, or a product of two lengths";

impl Importer {
    pub(super) fn new(file: FileBytes, opset: u64) -> Self {
        let (graph, weights) = (ProgramBuilder::new(), HashMap::new());
        Self { graph, file, opset, weights, budget: 4 * MAX_FOLDED, computed: 0 }
    }

    /// Imports with a name in front of the labels of the nodes that it makes.
    pub(super) fn within<T>(&mut self, name: &str, import: impl FnOnce(&mut Self) -> T) -> T {
        let mut graph = std::mem::take(&mut self.graph);
        let result = graph.within(name, |inner| {
            std::mem::swap(inner, &mut self.graph);
            let result = import(self);
            std::mem::swap(inner, &mut self.graph);
            result
        });
        self.graph = graph;
        result
    }

    /// Accounts for elements that are computed at import.
    pub(super) fn spend(&mut self, elements: usize) -> Result<(), Problem> {
        match self.budget.checked_sub(elements) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(format!("constants of more than {} elements in all would be computed", 4 * MAX_FOLDED)),
        }
    }

    /// A constant made of numbers.
    pub(super) fn constant(&mut self, values: &[f32], dims: &[Lin]) -> Result<Tensor, Problem> {
        self.computed += 1;
        let constant = Constant::from_f32(format!("constant.{}", self.computed), values);
        Tensor::constant(constant, dims).ok_or_else(|| TOO_LARGE.to_string())
    }

    /// A value with the elements of `tensor`: rows are counted by the axes `rows`, columns by `cols`, outermost first.
    pub(super) fn arrange(&mut self, tensor: &Tensor, rows: &[Axis], cols: &[Axis]) -> Result<Value, Problem> {
        match &tensor.source {
            Source::Value(value) if is_ordered(tensor, *value, rows, cols) => Ok(*value),
            Source::Value(value) => self.view(*value, tensor.base, rows, cols),
            Source::Constant(constant) => self.arrange_constant(tensor, constant, rows, cols),
        }
    }

    fn arrange_constant(
        &mut self,
        tensor: &Tensor,
        constant: &Arc<Constant>,
        rows: &[Axis],
        cols: &[Axis],
    ) -> Result<Value, Problem> {
        let (rows, cols) = (merged(rows), merged(cols));
        let fixed = |axes: &[Axis]| axes.iter().all(|axis| axis.size.known().is_some());
        if !fixed(&rows) || !fixed(&cols) {
            // As long as the request: the elements as they are become a weight, and a view of it the tensor.
            let all = Lin::of(i64::try_from(constant.len()).map_err(|_| TOO_LARGE)?);
            let flat = Tensor { dims: row_major(&[all]).ok_or(TOO_LARGE)?, base: Default::default(), ..tensor.clone() };
            let value = self.arrange_constant(&flat, constant, &[], &flat.axes())?;
            return self.view(value, tensor.base, &rows, &cols);
        }
        let mut key = (Arc::as_ptr(constant) as usize, rows, cols);
        let base = Axis { size: Lin::ONE, row: Lin::of(0), col: tensor.base.1 };
        key.1.insert(0, base); // the same order from another place is another weight
        if let Some((_, value)) = self.weights.get(&key) {
            return Ok(*value);
        }
        let (rows, cols) = (&key.1[1..], &key.2);
        let shape = |axes: &[Axis]| product(axes.iter().map(|axis| axis.size)).and_then(Lin::size);
        let (Some(height), Some(width)) = (shape(rows), shape(cols)) else { return Err(TOO_LARGE.to_string()) };
        let (Ok(height32), Ok(width32)) = (u32::try_from(height), u32::try_from(width)) else {
            return Err(TOO_LARGE.to_string());
        };
        let axes: Vec<Axis> = rows.iter().chain(cols).copied().collect();
        let in_order = matches!(merged(&axes)[..], [] | [Axis { col: Lin::ONE, .. }]) && tensor.base.1 == Lin::of(0);
        let bytes: Slice = if in_order && height.checked_mul(width) == Some(constant.len()) {
            constant.bytes.clone()
        } else {
            self.spend(height.checked_mul(width).ok_or(TOO_LARGE)?)?;
            let indices = tensor.indices(&axes).ok_or("a constant is too large to be put in order")?;
            let bytes: Vec<u8> = indices.flat_map(|index| constant.element(index)).copied().collect();
            Slice { range: 0..bytes.len(), file: Arc::new(bytes) }
        };
        if let Some(element) = crate::engine::import::tensors::first_nan(constant.dtype, bytes.as_ref()) {
            return Err(format!("tensor {:?}: element {element} is NaN", constant.name));
        }
        let weight = WeightTensor::new(&constant.name, (height32, width32), constant.dtype, Arc::new(bytes))
            .map_err(|error| error.to_string())?;
        let value = self.graph.weight(weight);
        self.weights.insert(key, (constant.clone(), value)); // the constant lives on, so its address is its own
        Ok(value)
    }

    /// The elements of a value in another order.
    fn view(&mut self, value: Value, base: (Lin, Lin), rows: &[Axis], cols: &[Axis]) -> Result<Value, Problem> {
        let (rows, cols) = (merged(rows), merged(cols));
        let dim = |lin: Lin| lin.dim().ok_or_else(|| TOO_LARGE.to_string());
        let digits = rows.len() + cols.len();
        let mut axes = Vec::new();
        for (digit, axis) in rows.iter().chain(&cols).enumerate() {
            if (axis.row, axis.col) == Default::default() {
                continue; // repeated
            }
            let mut steps = vec![0; digits];
            steps[digit] = 1;
            let (row_weight, col_weight) = (dim(axis.row)?, dim(axis.col)?);
            axes.push(ViewAxis { size: dim(axis.size)?, offset: Dim::ZERO, steps, row_weight, col_weight });
        }
        for (offset, weights) in [(base.0, (Dim::ONE, Dim::ZERO)), (base.1, (Dim::ZERO, Dim::ONE))] {
            if offset != Lin::of(0) {
                let (size, offset) = (dim(offset.add(Lin::ONE).ok_or(TOO_LARGE)?)?, dim(offset)?);
                let (row_weight, col_weight) = weights;
                axes.push(ViewAxis { size, offset, steps: vec![0; digits], row_weight, col_weight });
            }
        }
        if digits > MAX_DIGITS || axes.len() > MAX_AXES {
            return Err(format!("its elements would be put in order by {digits} digits; at most {MAX_DIGITS}"));
        }
        let sizes = |axes: &[Axis]| axes.iter().map(|axis| dim(axis.size)).collect::<Result<Vec<Dim>, _>>();
        let (row_digits, col_digits) = (sizes(&rows)?, sizes(&cols)?);
        let total = |axes: &[Axis]| dim(product(axes.iter().map(|axis| axis.size)).ok_or(TOO_LARGE)?);
        let (height, width) = (total(&rows)?, total(&cols)?);
        Ok(self.graph.view(value, View { row_digits, col_digits, axes, fill: 0 }, height, width))
    }

    /// A value with the first `split` dimensions as rows and the others as columns.
    pub(super) fn flat(&mut self, tensor: &Tensor, split: usize) -> Result<Value, Problem> {
        let (rows, cols) = tensor.dims.split_at(split);
        self.arrange(tensor, &rows.concat(), &cols.concat())
    }

    /// The same, as floats.
    pub(super) fn flat_floats(&mut self, tensor: &Tensor, split: usize) -> Result<Value, Problem> {
        let value = self.flat(tensor, split)?;
        Ok(self.graph.convert(value))
    }

    /// A tensor with elements in order: all but the last dimension as rows.
    pub(super) fn in_order(&mut self, tensor: &Tensor) -> Result<Tensor, Problem> {
        let split = split(&tensor.dims);
        let value = self.flat(tensor, split)?;
        let shape = tensor.shape();
        Tensor::of(value, tensor.kind, &shape[..split], &shape[split..]).ok_or_else(|| TOO_LARGE.to_string())
    }

    /// The same elements in another shape.
    pub(super) fn reshape(&mut self, tensor: &Tensor, sizes: &[Lin]) -> Result<Tensor, Problem> {
        if let Some(reshaped) = tensor.reshaped(sizes) {
            return Ok(reshaped);
        }
        if product(sizes.iter().copied()) != tensor.elements() {
            return Err(format!("{} cannot become {}", tensor.describe(), super::lin::show(sizes)));
        }
        let value = self.flat(tensor, 0)?;
        let all = tensor.elements().ok_or(TOO_LARGE)?;
        let row = Tensor::of(value, tensor.kind, &[], &[all]).ok_or(TOO_LARGE)?;
        row.reshaped(sizes).ok_or_else(|| format!("{} cannot become {}", tensor.describe(), super::lin::show(sizes)))
    }

    /// Any item of floats as a tensor.
    pub(super) fn tensor(&mut self, item: &Item) -> Result<Tensor, Problem> {
        match item {
            Item::Tensor(tensor) => Ok(tensor.clone()),
            Item::Uniform { value, dims, kind } => {
                let one = self.constant(&[*value], &[])?;
                let axis = |&size: &Lin| match size.is_one() {
                    true => Vec::new(),
                    false => vec![Axis { size, row: Lin::of(0), col: Lin::of(0) }],
                };
                Ok(Tensor { dims: dims.iter().map(axis).collect(), kind: *kind, ..one })
            }
            Item::Ints(ints) => {
                let values = exact(ints)?;
                self.spend(values.len())?;
                let constant = self.constant(&values, &item.shape())?;
                Ok(Tensor { kind: ints.kind, ..constant })
            }
            Item::Range { .. } => Err("positions are understood as indices only".to_string()),
        }
    }

    /// An operation on elements, with broadcasting. `fold` does it at import, `build` in the graph.
    pub(super) fn elementwise(
        &mut self,
        items: &[&Item],
        kind: Kind,
        fold: impl Fn(&[f32]) -> f32,
        build: impl FnOnce(&mut ProgramBuilder, &[Value]) -> Value,
    ) -> Result<Item, Problem> {
        let shapes: Vec<Vec<Lin>> = items.iter().map(|item| item.shape()).collect();
        let Some(dims) = broadcast_dims(&shapes) else {
            let shapes: Vec<String> = items.iter().map(|item| item.describe()).collect();
            return Err(format!("shapes {} do not broadcast", shapes.join(" and ")));
        };
        let computed = |item: &&Item| matches!(item, Item::Tensor(Tensor { source: Source::Value(_), .. }));
        if !items.iter().any(computed) {
            return self.fold(items, dims, kind, fold);
        }
        let tensors = items.iter().map(|item| self.tensor(item)).collect::<Result<Vec<_>, _>>()?;
        let node = |tensor: &&Tensor| matches!(tensor.source, Source::Value(_));
        let primary = (tensors.iter().filter(node).find(|tensor| tensor.shape() == dims))
            .or_else(|| tensors.iter().find(node))
            .ok_or("nothing depends on the request")?;
        let primary = broadcast(primary, &dims, None).ok_or(TOO_LARGE)?;
        let mut frame = Frame::of(&primary);
        let mut operands: Option<Vec<Tensor>> =
            tensors.iter().map(|t| broadcast(t, &dims, Some(&frame.dims))).collect();
        if operands.is_none() {
            // Axes that do not nest: whole dimensions always do.
            frame = Frame::plain(&dims).ok_or(TOO_LARGE)?;
            operands = tensors.iter().map(|t| broadcast(t, &dims, Some(&frame.dims))).collect();
        }
        let operands = operands.ok_or(TOO_LARGE)?;
        let mut values = Vec::new();
        for tensor in &operands {
            values.push(match tensor.uniform() {
                Some(value) if matches!(tensor.source, Source::Constant(_)) => self.graph.constant(value),
                _ => {
                    let (rows, cols) = frame.axes_of(tensor);
                    let value = self.arrange(tensor, &rows, &cols)?;
                    self.graph.convert(value)
                }
            });
        }
        // Operands that all repeat along an axis would make the result smaller than it is.
        let (rows, cols) = (frame.total(&frame.rows)?, frame.total(&frame.cols)?);
        let whole = values.iter().position(|value| Some(value.rows) == rows.dim() && Some(value.cols) == cols.dim());
        if whole.is_none() {
            let (rows, cols) = frame.whole_axes(&operands[0]);
            values[0] = self.arrange(&operands[0], &rows, &cols)?;
            values[0] = self.graph.convert(values[0]);
        }
        let value = build(&mut self.graph, &values);
        Ok(Item::Tensor(frame.tensor(value, kind).ok_or(TOO_LARGE)?))
    }

    fn fold(
        &mut self,
        items: &[&Item],
        dims: Vec<Lin>,
        kind: Kind,
        fold: impl Fn(&[f32]) -> f32,
    ) -> Result<Item, Problem> {
        let mut arrays = Vec::new();
        let known: Option<Vec<usize>> = dims.iter().map(|dim| dim.size()).collect();
        for item in items {
            let uniform = match item {
                Item::Uniform { value, .. } => Some(*value),
                Item::Tensor(tensor) => tensor.uniform(),
                Item::Ints(ints) if ints.values.len() == 1 => exact(ints)?.first().copied(),
                _ => None,
            };
            arrays.push(match uniform {
                Some(value) => Array { dims: Vec::new(), values: vec![value] },
                None => {
                    let own = item.shape().iter().map(|dim| dim.size()).collect::<Option<Vec<usize>>>();
                    let values = match item {
                        Item::Tensor(tensor) => tensor.folded(),
                        Item::Ints(ints) => Some(exact(ints)?),
                        _ => None,
                    };
                    let (Some(dims), Some(values)) = (own, values) else {
                        return Err(format!("{} cannot be computed at import", item.describe()));
                    };
                    Array { dims, values }
                }
            });
        }
        if arrays.iter().all(|array| array.values.len() == 1) {
            let values: Vec<f32> = arrays.iter().map(|array| array.values[0]).collect();
            return self.everywhere(fold(&values), dims, kind);
        }
        let known = known.ok_or("a constant in a shape that depends on the request")?;
        let arrays = arrays.iter().map(|array| array.broadcast(&known)).collect::<Option<Vec<_>>>().ok_or(TOO_LARGE)?;
        let count = known.iter().product();
        self.spend(count)?;
        let values: Vec<f32> =
            (0..count).map(|at| fold(&arrays.iter().map(|array| array.values[at]).collect::<Vec<_>>())).collect();
        if kind != Kind::Float {
            let values = values.iter().map(|&value| Lin::of(value as i64)).collect();
            return Ok(Item::Ints(Ints { dims: known, values, kind }));
        }
        Ok(Item::Tensor(self.constant(&values, &dims)?))
    }

    /// One number everywhere.
    pub(super) fn everywhere(&mut self, value: f32, dims: Vec<Lin>, kind: Kind) -> Result<Item, Problem> {
        if kind == Kind::Float && dims.iter().all(|dim| dim.is_one()) {
            return Ok(Item::Tensor(self.constant(&[value], &dims)?));
        }
        let known: Option<Vec<usize>> = dims.iter().map(|dim| dim.size()).collect();
        match known {
            Some(known) if kind != Kind::Float && known.iter().all(|&dim| dim == 1) => {
                Ok(Item::Ints(Ints { dims: known, values: vec![Lin::of(value as i64)], kind }))
            }
            _ => Ok(Item::Uniform { value, dims, kind }),
        }
    }
}

/// Where dimensions part into rows and columns: before the last one that is not 1.
pub(super) fn split(dims: &[Vec<Axis>]) -> usize {
    dims.iter().rposition(|axes| !axes.is_empty()).unwrap_or(0)
}

/// Integers as f32, if they are exact.
fn exact(ints: &Ints) -> Result<Vec<f32>, Problem> {
    let values = ints.known().ok_or("an integer that depends on the length of the request")?;
    match values.iter().find(|value| value.unsigned_abs() > 1 << 24) {
        Some(value) => Err(format!("{value} is beyond the integers of f32")),
        None => Ok(values.iter().map(|&value| value as f32).collect()),
    }
}

/// Whether a value has its elements in this order already.
fn is_ordered(tensor: &Tensor, value: Value, rows: &[Axis], cols: &[Axis]) -> bool {
    let along = |axes: &[Axis], total: Dim, wanted: (Lin, Lin)| match merged(axes)[..] {
        [] => total == Dim::ONE,
        [Axis { size, row, col }] => size.dim() == Some(total) && (row, col) == wanted,
        _ => false,
    };
    let (none, one) = (Lin::of(0), Lin::ONE);
    tensor.base == (none, none) && along(rows, value.rows, (one, none)) && along(cols, value.cols, (none, one))
}

/// A tensor repeated to `dims`; each dimension in axes that nest with those of `like`.
pub(super) fn broadcast(tensor: &Tensor, dims: &[Lin], like: Option<&[Vec<Axis>]>) -> Option<Tensor> {
    let missing = dims.len().checked_sub(tensor.rank())?;
    let repeated = |size: Lin| if size.is_one() { Vec::new() } else { vec![Axis { size, ..Axis::NONE }] };
    let mut result = Vec::new();
    for (d, &size) in dims.iter().enumerate() {
        let own = d.checked_sub(missing).map(|d| tensor.dims[d].as_slice()).unwrap_or_default();
        let sizes: Vec<Lin> = match like {
            Some(like) => like[d].iter().map(|axis| axis.size).collect(),
            None => vec![size],
        };
        result.push(if own.is_empty() {
            sizes.iter().flat_map(|&size| repeated(size)).collect()
        } else if like.is_some() {
            regroup(own, &sizes)?.concat()
        } else {
            own.to_vec()
        });
    }
    Some(Tensor { dims: result, ..tensor.clone() })
}

impl Axis {
    /// Of no reach.
    pub(super) const NONE: Self = Self { size: Lin::ONE, row: Lin::of(0), col: Lin::of(0) };

    fn repeats(&self) -> bool {
        self.row == Lin::of(0) && self.col == Lin::of(0)
    }
}

impl Frame {
    /// The order that a tensor has its elements in, or that of its dimensions if it has none.
    fn of(tensor: &Tensor) -> Self {
        let dims: Vec<Vec<Axis>> = tensor.dims.iter().map(|axes| merged(axes)).collect();
        let places = || {
            dims.iter()
                .enumerate()
                .flat_map(|(dim, axes)| axes.iter().enumerate().map(move |(sub, axis)| (dim, sub, *axis)))
        };
        let far_first = |stride: fn(&Axis) -> Lin| {
            let mut found: Vec<_> = places().filter(|(.., axis)| stride(axis) != Lin::of(0)).collect();
            found.sort_by_key(|(.., axis)| std::cmp::Reverse((stride(axis).s, stride(axis).constant)));
            found
        };
        let (rows, cols) = (far_first(|axis| axis.row), far_first(|axis| axis.col));
        let axes = |found: &[(usize, usize, Axis)]| found.iter().map(|(.., axis)| *axis).collect::<Vec<_>>();
        let found = |found: &[(usize, usize, Axis)]| found.iter().map(|(dim, sub, _)| (*dim, *sub)).collect();
        match tensor.source {
            Source::Value(value)
                if is_ordered(tensor, value, &axes(&rows), &axes(&cols))
                    && places().count() == rows.len() + cols.len() =>
            {
                let (rows, cols) = (found(&rows), found(&cols));
                Self { dims, rows, cols }
            }
            _ => Self::ordered(dims),
        }
    }

    /// Whole dimensions, in order.
    fn plain(sizes: &[Lin]) -> Option<Self> {
        Some(Self::ordered(row_major(sizes)?))
    }

    fn ordered(dims: Vec<Vec<Axis>>) -> Self {
        let split = split(&dims);
        let places = |range: std::ops::Range<usize>| {
            range.flat_map(|dim| (0..dims[dim].len()).map(move |sub| (dim, sub))).collect::<Vec<_>>()
        };
        let (rows, cols) = (places(0..split), places(split..dims.len()));
        Self { dims, rows, cols }
    }

    fn total(&self, places: &[(usize, usize)]) -> Result<Lin, Problem> {
        product(places.iter().map(|&(dim, sub)| self.dims[dim][sub].size)).ok_or_else(|| TOO_LARGE.to_string())
    }

    /// The axes of an operand that go with each axis of the frame.
    fn parts(&self, tensor: &Tensor) -> Vec<Vec<Vec<Axis>>> {
        self.dims
            .iter()
            .zip(&tensor.dims)
            .map(|(frame, own)| {
                let mut own = own.iter().copied();
                let part = |axis: &Axis| {
                    let (mut part, mut size) = (Vec::new(), Lin::ONE);
                    while size != axis.size {
                        let Some(next) = own.next() else { break };
                        size = size.mul(next.size).unwrap_or(axis.size);
                        part.push(next);
                    }
                    part
                };
                frame.iter().map(part).collect()
            })
            .collect()
    }

    fn whole_axes(&self, tensor: &Tensor) -> (Vec<Axis>, Vec<Axis>) {
        let parts = self.parts(tensor);
        let along = |places: &[(usize, usize)]| places.iter().flat_map(|&(dim, sub)| parts[dim][sub].clone()).collect();
        (along(&self.rows), along(&self.cols))
    }

    /// The rows and columns of an operand as small as broadcasting allows.
    fn axes_of(&self, tensor: &Tensor) -> (Vec<Axis>, Vec<Axis>) {
        let (mut rows, mut cols) = self.whole_axes(tensor);
        if rows.iter().all(Axis::repeats) {
            rows.clear();
        }
        while cols.last().is_some_and(Axis::repeats) {
            cols.pop();
        }
        (rows, cols)
    }

    /// The result of an operation on elements in this order.
    fn tensor(&self, value: Value, kind: Kind) -> Option<Tensor> {
        let mut dims = self.dims.clone();
        for (places, rows) in [(&self.rows, true), (&self.cols, false)] {
            let mut stride = Lin::ONE;
            for &(dim, sub) in places.iter().rev() {
                let axis = &mut dims[dim][sub];
                (axis.row, axis.col) = if rows { (stride, Lin::of(0)) } else { (Lin::of(0), stride) };
                stride = stride.mul(axis.size)?;
            }
        }
        Some(Tensor { source: Source::Value(value), dims, base: Default::default(), kind })
    }
}

/// Whether a value can be an index: integers that the graph knows the bound of.
pub(super) fn is_index(value: Value) -> bool {
    matches!(value.dtype, DType::U32 | DType::U8)
}

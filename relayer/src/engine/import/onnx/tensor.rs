//! Tensors of many dimensions in values of two: each dimension is one or more *axes*, and an axis knows how far one step
//! along it moves through the rows and columns of the value that holds the elements.
//!
//! So a transposition, a split, a merge, a slice or a repetition costs nothing: it is other axes over the same value. Only an
//! operation that needs its elements in a certain order (columns that are summed, rows that are positions) makes the
//! graph move them, by one View.

use super::lin::{Lin, show};
use crate::engine::import::tensors::Slice;
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{Value, WeightType};
use std::sync::Arc;

/// Part of a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Axis {
    /// How many steps there are.
    pub(super) size: Lin,
    /// Rows that one step moves.
    pub(super) row: Lin,
    /// Columns that one step moves.
    pub(super) col: Lin,
}

/// What elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Int,
    Bool,
}

/// Where elements are.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// In the graph.
    Value(Value),
    /// In the file, or made from what is there: not yet a weight. Its axes have columns only.
    Constant(Arc<Constant>),
}

/// Elements that are known at import.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    /// What it is called.
    pub(super) name: String,
    /// How it is stored.
    pub(super) dtype: WeightType,
    /// One element after the other.
    pub(super) bytes: Slice,
}

/// A tensor of floats, or of integers that depend on the request.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) source: Source,
    /// The axes of each dimension, outermost first. Axes of size 1 are left out.
    pub(super) dims: Vec<Vec<Axis>>,
    /// Row and column of the first element.
    pub(super) base: (Lin, Lin),
    pub(super) kind: Kind,
}

/// Elements that are computed at import: of this many at most.
pub(super) const MAX_FOLDED: usize = 1 << 24;

impl Constant {
    fn width(&self) -> usize {
        self.dtype.row_bytes(1)
    }

    /// How many elements there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.range.len() / self.width()
    }

    /// The bytes of the element at an index.
    pub(super) fn element(&self, index: usize) -> &[u8] {
        &self.bytes.as_ref()[index * self.width()..][..self.width()]
    }

    /// The element at an index.
    pub(super) fn get(&self, index: usize) -> f32 {
        let bytes = self.element(index);
        match (self.dtype, bytes) {
            (WeightType::F16, [a, b]) => scalar::f16_to_f32(u16::from_le_bytes([*a, *b])),
            (WeightType::Bf16, [a, b]) => scalar::bf16_to_f32(u16::from_le_bytes([*a, *b])),
            (_, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
            _ => f32::NAN,
        }
    }

    /// Floats that were computed.
    pub(super) fn from_f32(name: String, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name, dtype: WeightType::F32, bytes: Slice { range: 0..bytes.len(), file: Arc::new(bytes) } }
    }
}

/// Axes of a tensor that is stored row-major in columns.
pub(super) fn row_major(dims: &[Lin]) -> Option<Vec<Vec<Axis>>> {
    let mut stride = Lin::ONE;
    let mut axes = Vec::new();
    for &size in dims.iter().rev() {
        axes.push(if size.is_one() { Vec::new() } else { vec![Axis { size, row: Lin::of(0), col: stride }] });
        stride = stride.mul(size)?;
    }
    axes.reverse();
    Some(axes)
}

/// The product of sizes.
pub(super) fn product(sizes: impl IntoIterator<Item = Lin>) -> Option<Lin> {
    sizes.into_iter().try_fold(Lin::ONE, Lin::mul)
}

/// The size of a dimension.
fn length(axes: &[Axis]) -> Option<Lin> {
    product(axes.iter().map(|axis| axis.size))
}

/// Neighbours that are one axis, as one.
pub(super) fn merged(axes: &[Axis]) -> Vec<Axis> {
    let mut result: Vec<Axis> = Vec::new();
    for &axis in axes {
        let joined = result.last().and_then(|outer| {
            let along = outer.row == axis.row.mul(axis.size)? && outer.col == axis.col.mul(axis.size)?;
            along.then_some(Axis { size: outer.size.mul(axis.size)?, ..axis })
        });
        match (joined, result.last_mut()) {
            (Some(joined), Some(last)) => *last = joined,
            _ => result.push(axis),
        }
    }
    result
}

/// Splits axes, outermost first, into dimensions of the given sizes. None if they do not nest.
pub(super) fn regroup(axes: &[Axis], sizes: &[Lin]) -> Option<Vec<Vec<Axis>>> {
    let mut left = merged(axes);
    let mut dims = Vec::new();
    for &size in sizes.iter().rev() {
        let (mut need, mut dim) = (size, Vec::new());
        while !need.is_one() {
            let axis = left.pop()?;
            if let Some(rest) = need.exact_div(axis.size) {
                dim.push(axis);
                need = rest;
            } else {
                let rest = axis.size.exact_div(need)?;
                dim.push(Axis { size: need, ..axis });
                left.push(Axis { size: rest, row: axis.row.mul(need)?, col: axis.col.mul(need)? });
                need = Lin::ONE;
            }
        }
        dim.reverse();
        dims.push(dim);
    }
    dims.reverse();
    left.is_empty().then_some(dims)
}

impl Tensor {
    /// A value whose rows and columns are dimensions like these.
    pub(super) fn of(value: Value, kind: Kind, rows: &[Lin], cols: &[Lin]) -> Option<Self> {
        let mut dims = row_major(rows)?;
        for axis in dims.iter_mut().flatten() {
            *axis = Axis { row: axis.col, col: Lin::of(0), ..*axis };
        }
        dims.extend(row_major(cols)?);
        Some(Self { source: Source::Value(value), dims, base: Default::default(), kind })
    }

    /// A constant of these dimensions.
    pub(super) fn constant(constant: Constant, dims: &[Lin]) -> Option<Self> {
        let source = Source::Constant(Arc::new(constant));
        Some(Self { source, dims: row_major(dims)?, base: Default::default(), kind: Kind::Float })
    }

    /// Its dimensions.
    pub(super) fn shape(&self) -> Vec<Lin> {
        // Their product was a dimension of the graph or of the file.
        self.dims.iter().map(|axes| length(axes).unwrap_or_default()).collect()
    }

    pub(super) fn rank(&self) -> usize {
        self.dims.len()
    }

    /// How many elements it has, repeated ones included.
    pub(super) fn elements(&self) -> Option<Lin> {
        product(self.shape())
    }

    /// All axes, outermost first.
    pub(super) fn axes(&self) -> Vec<Axis> {
        self.dims.concat()
    }

    /// The same elements in other dimensions, if that takes no moving.
    pub(super) fn reshaped(&self, sizes: &[Lin]) -> Option<Self> {
        Some(Self { dims: regroup(&self.axes(), sizes)?, ..self.clone() })
    }

    /// A part of a dimension: `count` elements from `start`, `step` apart. `step` is above 0.
    pub(super) fn sliced(&self, dim: usize, start: Lin, count: Lin, step: i64) -> Option<Self> {
        let mut result = self.clone();
        match merged(&self.dims[dim])[..] {
            [] => {} // of one element
            [axis] => {
                result.base.0 = self.base.0.add(axis.row.mul(start)?)?;
                result.base.1 = self.base.1.add(axis.col.mul(start)?)?;
                let step = Lin::of(step);
                let part = Axis { size: count, row: axis.row.mul(step)?, col: axis.col.mul(step)? };
                result.dims[dim] = if count.is_one() { Vec::new() } else { vec![part] };
            }
            // Whole steps of the outermost axis, if the part is made of those.
            [outer, ..] => {
                let inner = length(&merged(&self.dims[dim])[1..])?;
                let (first, steps) = (start.exact_div(inner)?, count.exact_div(inner)?);
                if step != 1 {
                    return None;
                }
                result.base.0 = self.base.0.add(outer.row.mul(first)?)?;
                result.base.1 = self.base.1.add(outer.col.mul(first)?)?;
                let mut axes = merged(&self.dims[dim]);
                axes[0].size = steps;
                axes.retain(|axis| !axis.size.is_one());
                result.dims[dim] = axes;
            }
        }
        Some(result)
    }

    /// Every element of a constant, in order. None if there are too many, or their number depends on the request.
    pub(super) fn folded(&self) -> Option<Vec<f32>> {
        let Source::Constant(constant) = &self.source else { return None };
        self.indices(&self.axes()).map(|indices| indices.map(|index| constant.get(index)).collect())
    }

    /// Where the elements of a constant lie, walking along `axes`.
    pub(super) fn indices(&self, axes: &[Axis]) -> Option<impl Iterator<Item = usize>> {
        let sizes: Vec<(usize, usize)> =
            axes.iter().map(|axis| Some((axis.size.size()?, axis.col.size()?))).collect::<Option<_>>()?;
        let count = sizes.iter().try_fold(1usize, |product, (size, _)| product.checked_mul(*size))?;
        let base = self.base.1.size()?;
        let at = move |mut index: usize| {
            let mut place = base;
            for (size, stride) in sizes.iter().rev() {
                place += index % size * stride;
                index /= size;
            }
            place
        };
        (count <= MAX_FOLDED.max(self.stored())).then(|| (0..count).map(at))
    }

    /// Elements that a constant has in its file.
    fn stored(&self) -> usize {
        match &self.source {
            Source::Constant(constant) => constant.len(),
            Source::Value(_) => 0,
        }
    }

    /// The one number that all elements of a constant are, if they are.
    pub(super) fn uniform(&self) -> Option<f32> {
        let Source::Constant(constant) = &self.source else { return None };
        let axes: Vec<Axis> = self.axes().into_iter().filter(|axis| axis.col != Lin::of(0)).collect();
        let mut indices = self.indices(&axes)?;
        let first = constant.get(indices.next()?);
        indices.all(|index| constant.get(index).to_bits() == first.to_bits()).then_some(first)
    }

    /// For messages.
    pub(super) fn describe(&self) -> String {
        show(&self.shape())
    }
}

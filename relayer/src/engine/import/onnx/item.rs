//! What a name in an ONNX graph stands for while it is imported.

use super::lin::{Lin, show};
use super::tensor::{Kind, MAX_FOLDED, Tensor};

/// Integers or truth values that are known at import, up to the length of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ints {
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<Lin>,
    pub(super) kind: Kind,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Floats, known or computed; or integers that are computed.
    Tensor(Tensor),
    /// Integers that are known.
    Ints(Ints),
    /// One number everywhere, in a shape that depends on the request.
    Uniform { value: f32, dims: Vec<Lin>, kind: Kind },
    /// `start, start + 1, ...`: positions, in a shape that depends on the request; one dimension has them all.
    Range { start: Lin, dims: Vec<Lin> },
}

impl Item {
    pub(super) fn shape(&self) -> Vec<Lin> {
        match self {
            Self::Tensor(tensor) => tensor.shape(),
            Self::Ints(ints) => ints.dims.iter().map(|&dim| Lin::of(dim as i64)).collect(), // counts elements in memory
            Self::Uniform { dims, .. } | Self::Range { dims, .. } => dims.clone(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Tensor(tensor) => tensor.kind,
            Self::Ints(ints) => ints.kind,
            Self::Uniform { kind, .. } => *kind,
            Self::Range { .. } => Kind::Int,
        }
    }

    /// Its shape, for messages.
    pub(super) fn describe(&self) -> String {
        show(&self.shape())
    }
}

impl Ints {
    /// One number.
    pub(super) fn scalar(value: Lin) -> Self {
        Self { dims: Vec::new(), values: vec![value], kind: Kind::Int }
    }

    /// A list.
    pub(super) fn list(values: Vec<Lin>) -> Self {
        Self { dims: vec![values.len()], values, kind: Kind::Int }
    }

    /// The numbers, if none depends on the request.
    pub(super) fn known(&self) -> Option<Vec<i64>> {
        self.values.iter().map(|value| value.known()).collect()
    }
}

/// A dense array on which operations that only move elements are done at import.
#[derive(Clone, Debug)]
pub(super) struct Array<T> {
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<T>,
}

fn count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)).filter(|&count| count <= MAX_FOLDED)
}

/// Steps between neighbours of each dimension.
fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = Vec::with_capacity(dims.len());
    let mut stride = 1;
    for &dim in dims.iter().rev() {
        strides.push(stride);
        stride *= dim.max(1);
    }
    strides.reverse();
    strides
}

impl<T: Copy> Array<T> {
    /// The array of `dims` whose element at an index is that of `self` at `sum(index[d] * step[d]) + start`.
    fn gathered(&self, dims: Vec<usize>, steps: &[usize], start: usize) -> Option<Self> {
        let total = count(&dims)?;
        let mut values = Vec::with_capacity(total);
        for mut index in 0..total {
            let mut place = start;
            for (dim, step) in dims.iter().zip(steps).rev() {
                place += index % dim * step;
                index /= dim;
            }
            values.push(*self.values.get(place)?);
        }
        Some(Self { dims, values })
    }

    /// Dimensions in another order.
    pub(super) fn transposed(&self, order: &[usize]) -> Option<Self> {
        let strides = strides(&self.dims);
        let dims = order.iter().map(|&dim| self.dims[dim]).collect();
        let steps: Vec<usize> = order.iter().map(|&dim| strides[dim]).collect();
        self.gathered(dims, &steps, 0)
    }

    /// Repeated to larger dimensions, which its own broadcast to.
    pub(super) fn broadcast(&self, dims: &[usize]) -> Option<Self> {
        let missing = dims.len().checked_sub(self.dims.len())?;
        let own = strides(&self.dims);
        let mut steps = vec![0; missing];
        for (d, &dim) in self.dims.iter().enumerate() {
            match (dim, dims[missing + d]) {
                (1, _) => steps.push(0),
                (dim, wanted) if dim == wanted => steps.push(own[d]),
                _ => return None,
            }
        }
        self.gathered(dims.to_vec(), &steps, 0)
    }

    /// Some places of one dimension.
    pub(super) fn picked(&self, dim: usize, places: &[usize]) -> Option<Self> {
        let inner: usize = self.dims[dim + 1..].iter().product();
        let outer: usize = self.dims[..dim].iter().product();
        let mut dims = self.dims.clone();
        dims[dim] = places.len();
        let mut values = Vec::with_capacity(count(&dims)?);
        for outer in 0..outer {
            for place in places {
                let at = (outer * self.dims[dim] + place) * inner;
                values.extend_from_slice(self.values.get(at..at + inner)?);
            }
        }
        Some(Self { dims, values })
    }

    /// Beside each other along a dimension.
    pub(super) fn concat(parts: &[Self], dim: usize) -> Option<Self> {
        let first = parts.first()?;
        let outer: usize = first.dims[..dim].iter().product();
        let mut dims = first.dims.clone();
        dims[dim] = 0;
        for part in parts {
            let alike = part.dims.len() == dims.len()
                && part.dims.iter().zip(&first.dims).enumerate().all(|(d, (a, b))| d == dim || a == b);
            dims[dim] = alike.then(|| dims[dim].checked_add(part.dims[dim]))??;
        }
        let mut values = Vec::with_capacity(count(&dims)?);
        for outer in 0..outer {
            for part in parts {
                let inner: usize = part.dims[dim..].iter().product();
                values.extend_from_slice(part.values.get(outer * inner..(outer + 1) * inner)?);
            }
        }
        Some(Self { dims, values })
    }
}

/// The dimensions that all of `shapes` broadcast to.
pub(super) fn broadcast_dims(shapes: &[Vec<Lin>]) -> Option<Vec<Lin>> {
    let rank = shapes.iter().map(Vec::len).max()?;
    let mut dims = vec![Lin::ONE; rank];
    for shape in shapes {
        for (dim, &size) in dims[rank - shape.len()..].iter_mut().zip(shape) {
            if dim.is_one() {
                *dim = size;
            } else if !size.is_one() && *dim != size {
                return None;
            }
        }
    }
    Some(dims)
}

//! The tensor of a node.

use super::{DType, LEAF, RunError};

/// The elements of a node, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    data: TensorData,
}

/// Elements by type. Every f32 NaN is the canonical one.
#[derive(Clone, Debug)]
pub enum TensorData {
    /// [`DType::F32`].
    F32(Vec<f32>),
    /// [`DType::U32`].
    U32(Vec<u32>),
    /// [`DType::U8`].
    U8(Vec<u8>),
    /// [`DType::I8`].
    I8(Vec<i8>),
}

impl TensorData {
    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::U32(_) => DType::U32,
            Self::U8(_) => DType::U8,
            Self::I8(_) => DType::I8,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::U32(x) => x.len(),
            Self::U8(x) => x.len(),
            Self::I8(x) => x.len(),
        }
    }
}

/// Equal bits: a NaN equals itself, and the zeros differ.
impl PartialEq for TensorData {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(x), Self::F32(y)) => x.iter().map(|x| x.to_bits()).eq(y.iter().map(|y| y.to_bits())),
            (Self::U32(x), Self::U32(y)) => x == y,
            (Self::U8(x), Self::U8(y)) => x == y,
            (Self::I8(x), Self::I8(y)) => x == y,
            _ => false,
        }
    }
}

impl Tensor {
    /// A tensor of the given shape.
    ///
    /// # Panics
    /// If `data` has another number of elements than the shape; whoever computes a tensor knows both.
    pub fn new(rows: usize, cols: usize, data: TensorData) -> Self {
        assert_eq!(rows.checked_mul(cols), Some(data.len()), "elements of a {rows} x {cols} tensor");
        Self { rows, cols, data }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// The elements, which must be f32.
    ///
    /// # Errors
    /// If they are not.
    pub fn f32(&self) -> Result<&[f32], RunError> {
        match &self.data {
            TensorData::F32(x) => Ok(x),
            other => Err(RunError::Type { expected: DType::F32, found: other.dtype() }),
        }
    }

    /// The elements, which must be u32.
    ///
    /// # Errors
    /// If they are not.
    pub fn u32(&self) -> Result<&[u32], RunError> {
        match &self.data {
            TensorData::U32(x) => Ok(x),
            other => Err(RunError::Type { expected: DType::U32, found: other.dtype() }),
        }
    }

    /// The elements, which must be bytes.
    ///
    /// # Errors
    /// If they are not.
    pub fn u8(&self) -> Result<&[u8], RunError> {
        match &self.data {
            TensorData::U8(x) => Ok(x),
            other => Err(RunError::Type { expected: DType::U8, found: other.dtype() }),
        }
    }

    /// The elements, which must be signed bytes.
    ///
    /// # Errors
    /// If they are not.
    pub fn i8(&self) -> Result<&[i8], RunError> {
        match &self.data {
            TensorData::I8(x) => Ok(x),
            other => Err(RunError::Type { expected: DType::I8, found: other.dtype() }),
        }
    }

    /// Element (`r`, `c`), which must exist, as 32 bits: f32 bits, or the integer with its two's complement.
    pub fn bits(&self, r: usize, c: usize) -> u32 {
        let i = r * self.cols + c;
        match &self.data {
            TensorData::F32(x) => x[i].to_bits(),
            TensorData::U32(x) => x[i],
            TensorData::U8(x) => u32::from(x[i]),
            TensorData::I8(x) => i32::from(x[i]) as u32,
        }
    }

    /// Leaves of each row.
    pub fn leaves_per_row(&self) -> usize {
        self.cols.div_ceil(LEAF)
    }

    /// Leaves in all.
    pub fn leaf_count(&self) -> u64 {
        self.rows as u64 * self.leaves_per_row() as u64
    }

    /// Appends the bytes of leaf `leaf` of row `row`, which must exist: its elements, little-endian.
    pub fn write_leaf(&self, row: usize, leaf: usize, bytes: &mut Vec<u8>) {
        let start = row * self.cols + LEAF * leaf;
        let range = start..start + LEAF.min(self.cols - LEAF * leaf);
        match &self.data {
            TensorData::F32(x) => bytes.extend(x[range].iter().flat_map(|x| x.to_le_bytes())),
            TensorData::U32(x) => bytes.extend(x[range].iter().flat_map(|x| x.to_le_bytes())),
            TensorData::U8(x) => bytes.extend_from_slice(&x[range]),
            TensorData::I8(x) => bytes.extend(x[range].iter().flat_map(|x| x.to_le_bytes())),
        }
    }
}

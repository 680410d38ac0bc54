//! Weights: named tensors of rows, kept as the bytes they came in.

use std::{fmt, sync::Arc};

use super::{DType, ModelError};
use crate::arithmetic::scalar::{bf16_to_f32, canonical, f16_to_f32, from_i32, mul};

/// Elements of a row that share a leaf, in weights and in traces.
pub const LEAF: usize = 128;

/// How the elements of a weight tensor are stored. Numbers are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WeightType {
    /// IEEE-754 binary32.
    F32 = 0,
    /// IEEE-754 binary16, widened exactly.
    F16 = 1,
    /// bfloat16, widened exactly.
    Bf16 = 2,
    /// Blocks of 32: an f16 scale, then 32 signed bytes.
    Q8_0 = 3,
    /// Blocks of 128 (the last of a row may be shorter): an f32 scale, then the signed bytes.
    Q8_128 = 4,
    /// Bytes.
    U8 = 5,
    /// Unsigned 32-bit integers.
    U32 = 6,
}

impl WeightType {
    /// Every type, by ascending code.
    pub const ALL: [Self; 7] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q8_128, Self::U8, Self::U32];

    /// The type of an element when a node reads it.
    pub const fn element(self) -> DType {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Q8_0 | Self::Q8_128 => DType::F32,
            Self::U8 => DType::U8,
            Self::U32 => DType::U32,
        }
    }

    /// Elements that share a scale, for the quantised types.
    pub const fn block(self) -> Option<usize> {
        match self {
            Self::Q8_0 => Some(32),
            Self::Q8_128 => Some(128),
            _ => None,
        }
    }

    /// Bytes that `cols` consecutive elements take from the start of a row. For `Q8_0`, whole blocks only.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::F32 | Self::U32 => 4 * cols,
            Self::F16 | Self::Bf16 => 2 * cols,
            Self::Q8_0 => cols.div_ceil(32) * 2 + cols,
            Self::Q8_128 => cols.div_ceil(128) * 4 + cols,
            Self::U8 => cols,
        }
    }
}

/// Bytes of a tensor: a `Vec`, a memory map, anything that can be shared between threads.
pub type WeightBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// One tensor of a model.
#[derive(Clone)]
pub struct WeightTensor {
    name: String,
    rows: u32,
    cols: u32,
    dtype: WeightType,
    data: WeightBytes,
}

impl WeightTensor {
    /// A tensor of `rows` x `cols` elements whose bytes are `data`, row after row.
    ///
    /// # Errors
    /// If the shape is empty or absurd, if `data` has another length than the shape takes, or if a `Q8_0` row is not
    /// made of whole blocks.
    pub fn new(
        name: impl Into<String>,
        (rows, cols): (u32, u32),
        dtype: WeightType,
        data: WeightBytes,
    ) -> Result<Self, ModelError> {
        let name = name.into();
        let fail = |problem: String| Err(ModelError::Weight { name: name.clone(), problem });
        if rows == 0 || cols == 0 || rows > super::MAX_DIM || cols > super::MAX_DIM {
            return fail(format!("shape {rows} x {cols} is empty or too large"));
        }
        if dtype == WeightType::Q8_0 && cols % 32 != 0 {
            return fail(format!("a q8_0 row holds whole blocks of 32, not {cols} elements"));
        }
        let expected = rows as u128 * dtype.row_bytes(cols as usize) as u128;
        let got = (*data).as_ref().len();
        if got as u128 != expected {
            return fail(format!("{rows} x {cols} {dtype:?} takes {expected} bytes, not {got}"));
        }
        Ok(Self { name, rows, cols, dtype, data })
    }

    /// An f32 tensor from values.
    ///
    /// # Errors
    /// As [`WeightTensor::new`].
    pub fn from_f32(name: impl Into<String>, shape: (u32, u32), values: &[f32]) -> Result<Self, ModelError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(name, shape, WeightType::F32, Arc::new(bytes))
    }

    /// A u32 tensor from values.
    ///
    /// # Errors
    /// As [`WeightTensor::new`].
    pub fn from_u32(name: impl Into<String>, shape: (u32, u32), values: &[u32]) -> Result<Self, ModelError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(name, shape, WeightType::U32, Arc::new(bytes))
    }

    /// Its name; not committed to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols as usize
    }

    /// How its elements are stored.
    pub fn dtype(&self) -> WeightType {
        self.dtype
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        (*self.data).as_ref()
    }

    /// How many bytes there are.
    pub fn byte_len(&self) -> usize {
        self.rows() * self.dtype.row_bytes(self.cols())
    }

    /// The bytes of one row, which must exist.
    pub fn row(&self, row: usize) -> &[u8] {
        let stride = self.dtype.row_bytes(self.cols());
        &self.bytes()[row * stride..(row + 1) * stride]
    }

    /// The bytes of leaf `leaf` of a row: elements from `128 * leaf` to the next 128 or the end of the row.
    pub fn leaf(&self, row: usize, leaf: usize) -> &[u8] {
        let end = (LEAF * (leaf + 1)).min(self.cols());
        &self.row(row)[self.dtype.row_bytes(LEAF * leaf)..self.dtype.row_bytes(end)]
    }

    /// One element, which must exist, as 32 bits: those of its f32 value (stored exactly, or `q * scale`), or the
    /// integer.
    pub fn bits(&self, row: usize, col: usize) -> u32 {
        let bytes = self.row(row);
        let pair = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let quad = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let quantised = |scale: f32, at: usize| mul(from_i32(i32::from(bytes[at] as i8)), scale);
        let value = match self.dtype {
            WeightType::U8 => return u32::from(bytes[col]),
            WeightType::U32 => return quad(4 * col),
            WeightType::F32 => f32::from_bits(quad(4 * col)),
            WeightType::F16 => f16_to_f32(pair(2 * col)),
            WeightType::Bf16 => bf16_to_f32(pair(2 * col)),
            WeightType::Q8_0 => quantised(f16_to_f32(pair(col / 32 * 34)), col / 32 * 34 + 2 + col % 32),
            WeightType::Q8_128 => quantised(f32::from_bits(quad(col / 128 * 132)), col / 128 * 132 + 4 + col % 128),
        };
        canonical(value).to_bits()
    }

    /// A row as f32 values; integers as their bits reinterpreted, which nothing asks for.
    pub fn row_f32(&self, row: usize) -> Vec<f32> {
        (0..self.cols()).map(|col| f32::from_bits(self.bits(row, col))).collect()
    }

    /// Leaves of each row.
    pub fn leaves_per_row(&self) -> usize {
        self.cols().div_ceil(LEAF)
    }
}

impl fmt::Debug for WeightTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} x {} {:?}", self.name, self.rows, self.cols, self.dtype)
    }
}

/// The weights of a model, in the order in which nodes refer to them.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    tensors: Vec<WeightTensor>,
}

impl Weights {
    /// Adds a tensor and returns its index.
    pub fn push(&mut self, tensor: WeightTensor) -> u32 {
        self.tensors.push(tensor);
        u32::try_from(self.tensors.len() - 1).expect("2^32 tensors do not fit in memory")
    }

    /// All tensors.
    pub fn tensors(&self) -> &[WeightTensor] {
        &self.tensors
    }

    /// The tensor a node calls `index`.
    pub fn get(&self, index: u32) -> Option<&WeightTensor> {
        self.tensors.get(index as usize)
    }

    /// Keeps the bytes of a tensor elsewhere: `data` gives the same ones to whoever asks for them, which may be nobody.
    pub fn keep_in(&mut self, index: u32, data: WeightBytes) {
        if let Some(tensor) = self.tensors.get_mut(index as usize) {
            tensor.data = data;
        }
    }

    /// The index of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.tensors.iter().position(|t| t.name == name).and_then(|i| u32::try_from(i).ok())
    }

    /// Number of stored elements.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.rows() as u64 * t.cols() as u64).sum()
    }

    /// Number of stored bytes.
    pub fn byte_len(&self) -> u64 {
        self.tensors.iter().map(|t| t.byte_len() as u64).sum()
    }
}

impl FromIterator<WeightTensor> for Weights {
    fn from_iter<I: IntoIterator<Item = WeightTensor>>(iter: I) -> Self {
        Self { tensors: iter.into_iter().collect() }
    }
}

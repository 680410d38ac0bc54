//! Named tensors of a model's files, each checked before it becomes part of a model.
//!
//! A file is read once: a tensor of the model is a range of the file's bytes, or, where nobody else holds the file, a piece that
//! was cut off it, which can go when the tensor is packed. It is not mapped into memory, because a mapped file that somebody
//! rewrites would change the model under its id.

use super::{ImportError, gguf::Blocks};
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{WeightBytes, WeightTensor, WeightType};
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// A file's contents, shared by the tensors in it.
pub(super) type FileBytes = Arc<Vec<u8>>;

/// A part of a file.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) file: FileBytes,
    pub(super) range: Range<usize>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

/// The elements of a tensor as its file has them.
#[derive(Clone, Debug)]
pub(super) enum Elements {
    /// A type that models keep.
    Kept(WeightType, Slice),
    /// Quantised blocks that become f16.
    Blocks(Blocks),
    /// A type that nothing reads, by name.
    Unknown(String),
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) dims: Vec<usize>,
    pub(super) elements: Elements,
    /// Rows come with the two halves of each of this many heads interleaved, as GGUF stores Llama's queries and keys.
    pub(super) interleaved_heads: Option<usize>,
}

/// The tensors of one model, and which of them have been used.
#[derive(Debug)]
pub(super) struct Tensors {
    entries: BTreeMap<String, Entry>,
    used: BTreeSet<String>,
    /// What a tensor is called in its file, for messages.
    spell: fn(&str) -> String,
}

pub(super) fn fault<T>(name: &str, problem: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Tensor { name: name.to_string(), problem: problem.into() })
}

impl Tensors {
    /// No tensors yet; they will be called as in their files.
    pub(super) fn new() -> Self {
        Self::named_by(str::to_string)
    }

    /// No tensors yet, and how to find the name that their file uses.
    pub(super) fn named_by(spell: fn(&str) -> String) -> Self {
        Self { entries: BTreeMap::new(), used: BTreeSet::new(), spell }
    }

    fn fault<T>(&self, name: &str, problem: impl Into<String>) -> Result<T, ImportError> {
        fault(&(self.spell)(name), problem)
    }

    /// Adds the tensors of a safetensors file, whose header must describe exactly the bytes that follow it.
    pub(super) fn add_safetensors(&mut self, name: &str, file: FileBytes) -> Result<(), ImportError> {
        let damaged = |problem: String| ImportError::Damaged { file: name.to_string(), problem };
        let (header, metadata) = SafeTensors::read_metadata(&file).map_err(|e| damaged(e.to_string()))?;
        let data = 8 + header; // below the file's length: `read_metadata` has compared them
        let mut file = Arc::try_unwrap(file);
        let mut infos: Vec<_> = metadata.tensors().into_iter().collect();
        infos.sort_by_key(|(_, info)| std::cmp::Reverse(info.data_offsets));
        for (tensor, info) in infos {
            let (start, end) = info.data_offsets;
            // From the end of the file, so that what is left of it stays where it is.
            let slice = match &mut file {
                Ok(owned) => {
                    let mut piece = owned.split_off((data + start).min(owned.len()));
                    owned.shrink_to_fit();
                    piece.truncate(end - start);
                    Slice { range: 0..piece.len(), file: Arc::new(piece) }
                }
                Err(shared) => Slice { file: shared.clone(), range: data + start..data + end },
            };
            let elements = match info.dtype {
                Dtype::F32 => Elements::Kept(WeightType::F32, slice),
                Dtype::F16 => Elements::Kept(WeightType::F16, slice),
                Dtype::BF16 => Elements::Kept(WeightType::Bf16, slice),
                other => Elements::Unknown(format!("{other:?}")),
            };
            self.add(&tensor, Entry { dims: info.shape.clone(), elements, interleaved_heads: None })?;
        }
        Ok(())
    }

    /// Adds a tensor.
    pub(super) fn add(&mut self, name: &str, entry: Entry) -> Result<(), ImportError> {
        match self.entries.insert(name.to_string(), entry) {
            None => Ok(()),
            Some(_) => self.fault(name, "comes twice"),
        }
    }

    /// Whether there is such a tensor.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The names of all tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The dimensions of a tensor.
    pub(super) fn dims(&self, name: &str) -> Result<&[usize], ImportError> {
        match self.entries.get(name) {
            Some(entry) => Ok(&entry.dims),
            None => self.fault(name, "is missing, and config.json needs it"),
        }
    }

    /// A tensor of the given shape as `rows` x `cols` of a model's weights. Elements of a type that models have keep it.
    pub(super) fn take(
        &mut self,
        name: &str,
        dims: &[usize],
        (rows, cols): (u32, u32),
    ) -> Result<WeightTensor, ImportError> {
        let found = self.dims(name)?;
        if found != dims {
            return self.fault(name, format!("shape {found:?}, config.json needs {dims:?}"));
        }
        let entry = &self.entries[name];
        let (dtype, mut bytes): (WeightType, WeightBytes) = match &entry.elements {
            Elements::Kept(dtype, slice) => {
                if let Some(element) = first_nan(*dtype, slice.as_ref()) {
                    return self.fault(name, format!("element {element} is NaN"));
                }
                (*dtype, Arc::new(slice.clone()))
            }
            Elements::Blocks(blocks) => (WeightType::F16, Arc::new(blocks.to_f16(&(self.spell)(name))?)),
            Elements::Unknown(dtype) => {
                return self.fault(name, format!("elements of type {dtype}; F32, F16 and BF16 are understood"));
            }
        };
        if let Some(heads) = entry.interleaved_heads {
            let stride = dtype.row_bytes(cols as usize);
            bytes = Arc::new(split_halves(&(self.spell)(name), (*bytes).as_ref(), stride, rows as usize, heads)?);
        }
        self.used.insert(name.to_string());
        Ok(WeightTensor::new(name, (rows, cols), dtype, bytes)?)
    }

    /// Refuses tensors that nothing has used and that `ignorable` does not know: the files do not belong together.
    pub(super) fn finish(self, ignorable: impl Fn(&str) -> bool, problem: &str) -> Result<(), ImportError> {
        match self.entries.keys().find(|name| !self.used.contains(*name) && !ignorable(name)) {
            Some(name) => fault(&(self.spell)(name), problem),
            None => Ok(()),
        }
    }
}

/// The first element that is NaN, or the first that a NaN scale belongs to.
pub(super) fn first_nan(dtype: WeightType, bytes: &[u8]) -> Option<usize> {
    fn first<const N: usize>(bytes: &[u8], is: impl Fn([u8; N]) -> bool) -> Option<usize> {
        bytes.as_chunks::<N>().0.iter().position(|element| is(*element))
    }
    match dtype {
        WeightType::F32 => first(bytes, |b| f32::from_le_bytes(b).is_nan()),
        WeightType::F16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7fff > 0x7c00),
        WeightType::Bf16 => first(bytes, |b| scalar::bf16_to_f32(u16::from_le_bytes(b)).is_nan()),
        WeightType::Q8_0 => {
            first::<34>(bytes, |b| u16::from_le_bytes([b[0], b[1]]) & 0x7fff > 0x7c00).map(|block| block * 32)
        }
        // No file has these: they are made by importers.
        WeightType::Q8_128 | WeightType::U8 | WeightType::U32 => None,
    }
}

/// Undoes the interleaving of GGUF: within a head, row `2i + h` becomes row `h * half + i`.
fn split_halves(name: &str, bytes: &[u8], stride: usize, rows: usize, heads: usize) -> Result<Vec<u8>, ImportError> {
    if heads == 0 || !rows.is_multiple_of(2 * heads) || bytes.len() != rows * stride {
        return fault(name, format!("{rows} rows do not divide into {heads} heads of two halves"));
    }
    let half = rows / heads / 2;
    let mut result = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for row in (0..2).flat_map(|part| (0..half).map(move |i| 2 * i + part)) {
            let at = (head * 2 * half + row) * stride;
            result.extend_from_slice(&bytes[at..at + stride]);
        }
    }
    Ok(result)
}

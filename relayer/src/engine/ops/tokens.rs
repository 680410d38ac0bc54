//! Operations on tokens: sampling, the checks of a sequence, and text. Except for sampling these are small and sequential.

use super::{Extent, elements, for_each_row};
use crate::engine::kernels::Isa;
use crate::engine::kernels::sampling::{Sampling, perturb};
use crate::engine::unpacked::Packed;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use candor_sdk::arithmetic::scalar;
use candor_sdk::program::{WeightTensor, WeightType};

/// Logits made ready for argmax.
pub struct Perturb<'a> {
    /// Kernels to use.
    pub isa: Isa,
    /// Columns of the logits.
    pub cols: usize,
    /// The parameters of a row of the tensor.
    pub sampling: &'a (dyn Fn(usize) -> Sampling + Sync),
}

impl CustomOp2 for Perturb<'_> {
    fn name(&self) -> &'static str {
        "perturb"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, max: &CpuStorage, lm: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, max) = (elements::<f32>(x, lx)?, elements::<f32>(max, lm)?);
        let mut out = vec![0f32; x.len()];
        for_each_row(&mut out, self.cols, 16 * self.cols, |i, out| {
            // A row of maxima that all requests share serves each of them.
            let max = max[i % max.len()];
            perturb(self.isa, &(self.sampling)(i), max, &x[i * self.cols..][..self.cols], out);
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

/// The elements of a tensor of token ids or lengths.
pub fn integers(tensor: &Tensor) -> Result<Vec<u32>> {
    let flat = tensor.flatten_all()?;
    match flat.dtype() {
        candle_core::DType::U8 => Ok(flat.to_vec1::<u8>()?.into_iter().map(u32::from).collect()),
        _ => flat.to_vec1(),
    }
}

/// The vocabulary entry of a token.
pub fn entry(vocabulary: &[Vec<u8>], token: u32) -> Result<&[u8]> {
    match vocabulary.get(token as usize) {
        Some(entry) => Ok(entry),
        None => bail!("token {token} is not among the {} of the vocabulary", vocabulary.len()),
    }
}

/// Running sums of each request's column.
pub fn prefix_sum(x: &[u32], rows: usize) -> Vec<u32> {
    let sums = x.chunks(rows).flat_map(|column| {
        column.iter().scan(0u32, |sum, &x| {
            *sum = sum.wrapping_add(x);
            Some(*sum)
        })
    });
    sums.collect()
}

/// Which rows of a claimed sequence continue as sampled, and end where they must (rule P-37).
pub fn check_generated(tokens: &[u32], samples: &[u32], stop: &[u32], prompt: usize, limit: u32) -> Vec<u32> {
    let rows = samples.len();
    let check = |i: usize| {
        let token = tokens[prompt + i];
        let stops = stop.contains(&token);
        let ends = if i + 1 == rows { stops || rows == limit as usize } else { !stops };
        u32::from(token == samples[i] && ends)
    };
    (0..rows).map(check).collect()
}

/// Signed bytes, or other integers, as f32.
pub fn convert(x: &Tensor, signed: bool) -> Result<Tensor> {
    if !signed {
        return x.to_dtype(candle_core::DType::F32);
    }
    let bytes = x.flatten_all()?.to_vec1::<u8>()?;
    Tensor::from_vec(bytes.into_iter().map(|q| f32::from(q as i8)).collect::<Vec<f32>>(), x.shape(), x.device())
}

/// Token ids, all of which are rows of a table.
fn rows(ids: &Tensor, rows: usize) -> Result<Vec<u32>> {
    let ids = integers(ids)?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
        bail!("gather: index {id} is out of range: {rows} rows");
    }
    Ok(ids)
}

/// Row lookup in a table that is also a layer, in the layer's panels.
pub(in crate::engine) fn lookup_packed(
    ids: &Tensor,
    packed: &Packed,
    (height, cols): (usize, usize),
    device: &Device,
) -> Result<Tensor> {
    let ids = rows(ids, height)?;
    Tensor::from_vec(packed.lookup(&ids, cols)?, (ids.len(), cols), device)
}

/// Row lookup in a weight, whatever its type, where the model keeps it.
pub fn lookup(ids: &Tensor, table: &WeightTensor, device: &Device) -> Result<Tensor> {
    let (ids, cols) = (rows(ids, table.rows())?, table.cols());
    let shape = (ids.len(), cols);
    let row = |i: usize| table.row(ids[i] as usize);
    match table.dtype() {
        WeightType::U8 => Tensor::from_vec((0..ids.len()).flat_map(row).copied().collect::<Vec<u8>>(), shape, device),
        WeightType::U32 => {
            let words = (0..ids.len()).flat_map(|i| row(i).as_chunks::<4>().0).map(|word| u32::from_le_bytes(*word));
            Tensor::from_vec(words.collect::<Vec<u32>>(), shape, device)
        }
        dtype => {
            let mut out = vec![0f32; ids.len() * cols];
            for_each_row(&mut out, cols, cols, |i, out| match dtype {
                WeightType::F32 => widen(out, row(i), |bytes| scalar::canonical(f32::from_le_bytes(bytes))),
                WeightType::F16 => widen(out, row(i), |bytes| scalar::f16_to_f32(u16::from_le_bytes(bytes))),
                WeightType::Bf16 => widen(out, row(i), |bytes| scalar::bf16_to_f32(u16::from_le_bytes(bytes))),
                _ => out.copy_from_slice(&table.row_f32(ids[i] as usize)),
            });
            Tensor::from_vec(out, shape, device)
        }
    }
}

fn widen<const N: usize>(out: &mut [f32], row: &[u8], element: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(row.as_chunks::<N>().0) {
        *out = element(*bytes);
    }
}

/// Row lookup in the tensor of a node, request by request.
pub fn gather_rows(ids: &Tensor, ids_extent: Extent, table: &Tensor, extent: Extent, batch: usize) -> Result<Tensor> {
    let all = integers(ids)?;
    let mut rows = Vec::with_capacity(batch * ids_extent.rows);
    for request in 0..batch {
        let first = if extent.shared { 0 } else { (request * extent.rows) as u32 };
        for &id in ids_extent.of(&all, request) {
            if id as usize >= extent.rows {
                bail!("gather: index {id} is out of range: {} rows", extent.rows);
            }
            rows.push(first + id);
        }
    }
    let rows = Tensor::from_vec(rows, batch * ids_extent.rows, ids.device())?;
    table.contiguous()?.index_select(&rows, 0)
}

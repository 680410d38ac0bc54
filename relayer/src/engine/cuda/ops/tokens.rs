//! Sampling, and what surrounds generated tokens: checks, lengths, text.

use super::{Operand, Result, WARP, blocks_for, kernel, request_stride, short};
use crate::engine::cuda::driver::{Arg, DeviceError};
use crate::engine::cuda::memory::{Buffer, Device, Tensor};
use candor_sdk::program::DType;
use std::rc::Rc;

/// A vocabulary on a device: where entries begin, their bytes, how many there are.
type Vocabulary = (Rc<Buffer>, Rc<Buffer>, u32);

fn vocabulary(known: Option<&Vocabulary>) -> Result<&Vocabulary> {
    known.ok_or_else(|| DeviceError::Failed("a model without a vocabulary".to_string()))
}

impl Device {
    /// Logits made ready for argmax; `samplings` has an entry for each row.
    pub(crate) fn perturb(&self, x: &Tensor, maxima: &Tensor, samplings: &Tensor) -> Result<Tensor> {
        let out = self.tensor(DType::F32, x.rows, x.cols)?;
        let args = args![&out, x, maxima, samplings, out.len() as u64, short(x.cols)?];
        self.over(kernel::perturb, out.len(), args)?;
        Ok(out)
    }

    /// Rule P-37 for sequences.
    pub(crate) fn check_generated(
        &self,
        batch: usize,
        tokens: Operand<'_>,
        samples: Operand<'_>,
        stop: &[u32],
        limits: impl Iterator<Item = u32>,
        prompt: u32,
    ) -> Result<Tensor> {
        let rows = samples.1.rows;
        let out = self.tensor(DType::U32, batch * rows, 1)?;
        let (stops, limits) = (self.upload_words(stop.iter().copied())?, self.upload_words(limits)?);
        let count = short(stop.len())?;
        let head = args![&out, tokens.0, samples.0, &stops, &limits, count, out.len() as u64, short(rows)?, prompt];
        let args = [head.as_slice(), args![request_stride(tokens.1), request_stride(samples.1)]].concat();
        self.over(kernel::check_generated, out.len(), &args)?;
        Ok(out)
    }

    /// Rule P-37 for the length of a text.
    pub(crate) fn check_length(&self, batch: usize, (ends, extent): Operand<'_>, length: u32) -> Result<Tensor> {
        let out = self.tensor(DType::U32, batch, 1)?;
        let args = args![&out, ends, short(batch)?, short(extent.rows)?, request_stride(extent), length];
        self.launch(kernel::check_length, blocks_for(batch, WARP)?, 32, args)?;
        Ok(out)
    }

    /// Bytes of each token's entry.
    pub(crate) fn token_lengths(&self, tokens: &Tensor, known: Option<&Vocabulary>) -> Result<Tensor> {
        let (offsets, _, entries) = vocabulary(known)?;
        let out = self.tensor(DType::U32, tokens.rows, 1)?;
        self.over(kernel::token_lengths, out.len(), args![&out, tokens, offsets, out.len() as u64, *entries])?;
        Ok(out)
    }

    /// Running sums of each request's column.
    pub(crate) fn prefix_sums(&self, x: &Tensor, rows: usize) -> Result<Tensor> {
        let out = self.tensor(DType::U32, x.rows, 1)?;
        let requests = x.rows / rows;
        let args = args![&out, x, short(requests)?, short(rows)?];
        self.launch(kernel::prefix_sums, blocks_for(requests, WARP)?, 32, args)?;
        Ok(out)
    }

    /// The text of one request.
    pub(crate) fn detokenise(
        &self,
        tokens: &Tensor,
        ends: &Tensor,
        known: Option<&Vocabulary>,
        length: usize,
    ) -> Result<Tensor> {
        let (offsets, bytes, entries) = vocabulary(known)?;
        let out = Tensor::in_buffer(self.zeros(length)?, DType::U8, 1, length);
        let args = args![&out, tokens, ends, offsets, bytes, tokens.len() as u64, *entries, short(length)?];
        self.over(kernel::detokenise, tokens.len(), args)?;
        Ok(out)
    }
}

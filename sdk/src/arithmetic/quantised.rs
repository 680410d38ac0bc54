//! Quantised contractions: int8 times int8 with exact integer sums (rules Q1 to Q6).
//!
//! Weights carry one scale for each group of 32 (`q8_0`, the block of the GGUF format) or 128 (`q8_128`); the
//! activations they meet are quantised in groups of the same length. The integer sum of a group is exact, so any
//! int8 dot instruction may compute it in any order; only the three scalar operations that follow are ordered.

use thiserror::Error;

use super::{
    contraction::{BLOCK, accumulate},
    scalar::{abs, div, f16_from_f32, f16_to_f32, fma, from_i32, maximum, mul, round_to_i32},
};

/// Why stored weights are not what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantisedError {
    /// The bytes do not divide into the blocks of a row of this length.
    #[error("a row of {columns} {format} weights takes {expected} bytes, not {actual}")]
    Length {
        /// Name of the format.
        format: &'static str,
        /// Elements in the row.
        columns: usize,
        /// Bytes that many elements take.
        expected: usize,
        /// Bytes found.
        actual: usize,
    },
    /// `q8_0` has no shorter last block.
    #[error("a row of q8_0 weights has a multiple of 32 elements, not {0}")]
    Ragged(usize),
    /// A weight to be quantised is infinite or NaN.
    #[error("weight {0} of the row is not finite")]
    NotFinite(usize),
    /// The scale of a block is beyond the greatest f16.
    #[error("the scale of block {0} of the row is too large for q8_0")]
    Scale(usize),
}

/// How many elements share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// 32 elements, as in `q8_0`.
    G32,
    /// 128 elements, as in `q8_128`: one group is one block of a contraction.
    G128,
}

#[allow(clippy::len_without_is_empty, reason = "no group is empty")]
impl Group {
    /// Elements in a group, the G of the rules.
    pub const fn len(self) -> usize {
        match self {
            Self::G32 => 32,
            Self::G128 => 128,
        }
    }
}

/// Q1: a row of signed bytes with one f32 scale for each group; element `k` stands for
/// `values[k] * scales[k / group]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    group: Group,
    values: Vec<i8>,
    scales: Vec<f32>,
}

impl Quantised {
    /// Q2: quantises a row, group by group. This is how activations are quantised when they meet quantised weights,
    /// and how `q8_128` weights are made.
    pub fn quantise(row: &[f32], group: Group) -> Self {
        let mut values = Vec::with_capacity(row.len());
        let mut scales = Vec::with_capacity(row.len().div_ceil(group.len()));
        for x in row.chunks(group.len()) {
            let amax = x.iter().fold(0.0, |m, &x| maximum(m, abs(x)));
            let inverse = if amax == 0.0 { 0.0 } else { div(127.0, amax) };
            scales.push(div(amax, 127.0));
            values.extend(x.iter().map(|&x| round_to_i32(mul(x, inverse)).clamp(-127, 127) as i8));
        }
        Self { group, values, scales }
    }

    /// Q3: makes weights of a row of finite weights; [`to_bytes`](Self::to_bytes) stores them. The scales of `q8_0` are
    /// those that its stored form can hold.
    pub fn weights(row: &[f32], group: Group) -> Result<Self, QuantisedError> {
        if let Some(index) = row.iter().position(|w| !w.is_finite()) {
            return Err(QuantisedError::NotFinite(index));
        }
        let mut weights = Self::quantise(row, group);
        if group == Group::G32 {
            if !row.len().is_multiple_of(32) {
                return Err(QuantisedError::Ragged(row.len()));
            }
            weights.scales.iter_mut().for_each(|scale| *scale = f16_to_f32(f16_from_f32(*scale)));
            if let Some(index) = weights.scales.iter().position(|scale| scale.is_infinite()) {
                return Err(QuantisedError::Scale(index));
            }
        }
        Ok(weights)
    }

    /// Q4: reads a row of `q8_0` blocks: an f16 scale, little-endian, then 32 signed bytes.
    pub fn from_q8_0(bytes: &[u8], columns: usize) -> Result<Self, QuantisedError> {
        if !columns.is_multiple_of(32) {
            return Err(QuantisedError::Ragged(columns));
        }
        Self::from_blocks("q8_0", Group::G32, bytes, columns, |scale: [u8; 2]| f16_to_f32(u16::from_le_bytes(scale)))
    }

    /// Q5: reads a row of `q8_128` blocks: an f32 scale, little-endian, then 128 signed bytes; the last block of a
    /// row holds what is left.
    pub fn from_q8_128(bytes: &[u8], columns: usize) -> Result<Self, QuantisedError> {
        Self::from_blocks("q8_128", Group::G128, bytes, columns, f32::from_le_bytes)
    }

    fn from_blocks<const S: usize>(
        format: &'static str,
        group: Group,
        bytes: &[u8],
        columns: usize,
        scale: impl Fn([u8; S]) -> f32,
    ) -> Result<Self, QuantisedError> {
        let expected = columns + S * columns.div_ceil(group.len());
        if bytes.len() != expected {
            return Err(QuantisedError::Length { format, columns, expected, actual: bytes.len() });
        }
        let (mut values, mut scales) = (Vec::with_capacity(columns), Vec::new());
        for block in bytes.chunks(group.len() + S) {
            let (head, tail) =
                block.split_first_chunk::<S>().expect("the length was checked: no block is a bare scale");
            scales.push(scale(*head));
            values.extend(tail.iter().map(|&b| b as i8));
        }
        Ok(Self { group, values, scales })
    }

    /// Q4, Q5: the stored form, which [`from_q8_0`](Self::from_q8_0) or [`from_q8_128`](Self::from_q8_128) reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.values.len() + 4 * self.scales.len());
        for (values, scale) in self.values.chunks(self.group.len()).zip(&self.scales) {
            match self.group {
                Group::G32 => bytes.extend(f16_from_f32(*scale).to_le_bytes()),
                Group::G128 => bytes.extend(scale.to_le_bytes()),
            }
            bytes.extend(values.iter().map(|&v| v as u8));
        }
        bytes
    }

    /// The length of the groups.
    pub fn group(&self) -> Group {
        self.group
    }

    /// The signed bytes, one for each element.
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// The scales, one for each group.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// What the row stands for, for comparison with the weights it was made of: `mul(value, scale)`.
    pub fn dequantise(&self) -> Vec<f32> {
        let group = self.group.len();
        self.values.iter().enumerate().map(|(k, &v)| mul(from_i32(v.into()), self.scales[k / group])).collect()
    }
}

/// Q6: the partial of one block of at most [`BLOCK`] elements: for each group, the exact integer sum times the
/// product of the two scales, accumulated by `fma` from +0.
pub fn partial(x: (&[i8], &[f32]), w: (&[i8], &[f32]), group: Group) -> f32 {
    assert_eq!(x.0.len(), w.0.len(), "a dot product needs operands of one length");
    assert!(x.0.len() <= BLOCK, "a block has at most {BLOCK} products");
    let groups = x.0.chunks(group.len()).zip(w.0.chunks(group.len())).zip(x.1.iter().zip(w.1));
    groups.fold(0.0, |p, ((q, w), (&s, &d))| {
        let sum: i32 = q.iter().zip(w).map(|(&q, &w)| i32::from(q) * i32::from(w)).sum();
        fma(from_i32(sum), mul(s, d), p)
    })
}

/// Q6: the partials of `x . w`, one for each block of 128.
pub fn partials(x: &Quantised, w: &Quantised) -> Vec<f32> {
    assert_eq!(x.group, w.group, "operands are quantised in groups of one length");
    assert_eq!(x.values.len(), w.values.len(), "a dot product needs operands of one length");
    let scales = BLOCK / x.group.len();
    let x_blocks = x.values.chunks(BLOCK).zip(x.scales.chunks(scales));
    let w_blocks = w.values.chunks(BLOCK).zip(w.scales.chunks(scales));
    x_blocks.zip(w_blocks).map(|(x_block, w_block)| partial(x_block, w_block, x.group)).collect()
}

/// Q6: the dot product of a quantised row of activations with one of weights.
pub fn dot(x: &Quantised, w: &Quantised) -> f32 {
    accumulate(&partials(x, w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_magnitude_maps_to_127() {
        let q = Quantised::quantise(&[0.5, -2.0, 1.0, 0.0], Group::G32);
        // 0.5 * 63.5 = 31.75 and 1.0 * 63.5 = 63.5, a tie that goes to even.
        assert_eq!(q.values(), [32, -127, 64, 0]);
        assert_eq!(q.scales(), [2.0 / 127.0]);
    }

    #[test]
    fn an_all_zero_group_has_scale_zero() {
        let q = Quantised::quantise(&[0.0, -0.0], Group::G128);
        assert_eq!((q.values(), q.scales()), (&[0i8, 0][..], &[0.0f32][..]));
    }

    #[test]
    fn a_nan_poisons_its_row() {
        let mut row = [1.0; 40];
        row[33] = f32::NAN;
        let (x, w) = (Quantised::quantise(&row, Group::G32), Quantised::quantise(&[1.0; 40], Group::G32));
        assert_eq!(dot(&x, &w).to_bits(), super::super::scalar::NAN_BITS);
    }

    #[test]
    fn stored_blocks() {
        let row: Vec<f32> = (0..300).map(|i| (i as f32 * 0.37).sin()).collect();
        let w = Quantised::weights(&row, Group::G128).expect("finite");
        let bytes = w.to_bytes();
        assert_eq!(bytes.len(), 300 + 3 * 4);
        assert_eq!(Quantised::from_q8_128(&bytes, 300), Ok(w));
        assert!(matches!(Quantised::from_q8_128(&bytes, 299), Err(QuantisedError::Length { expected: 311, .. })));

        let mut block = vec![0x00, 0x38]; // 0.5
        block.extend((0..32).map(|i| (i as i8 - 16) as u8));
        let w = Quantised::from_q8_0(&block, 32).expect("one block");
        assert_eq!((w.scales(), w.values()[0]), (&[0.5f32][..], -16));
        assert_eq!(Quantised::from_q8_0(&block, 33), Err(QuantisedError::Ragged(33)));
        assert_eq!(Quantised::weights(&[0.0, f32::NAN], Group::G128), Err(QuantisedError::NotFinite(1)));
    }

    #[test]
    fn the_scales_of_q8_0_are_those_that_are_stored() {
        let row: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
        let w = Quantised::weights(&row, Group::G32).expect("finite");
        let exact = Quantised::quantise(&row, Group::G32);
        assert_eq!(w.values(), exact.values());
        assert_ne!(w.scales(), exact.scales());
        assert!(w.scales().iter().zip(exact.scales()).all(|(w, x)| (w - x).abs() <= x / 2048.0));
        assert_eq!(w.to_bytes().len(), 2 * 34);
        assert_eq!(Quantised::from_q8_0(&w.to_bytes(), 64), Ok(w));
        assert_eq!(Quantised::weights(&row[..33], Group::G32), Err(QuantisedError::Ragged(33)));
        // 127 times the greatest f16, and the first scale that rounds beyond it.
        assert!(Quantised::weights(&[127.0 * 65504.0; 32], Group::G32).is_ok());
        assert_eq!(Quantised::weights(&[127.0 * 65520.0; 32], Group::G32), Err(QuantisedError::Scale(0)));
        assert!(Quantised::weights(&[127.0 * 65520.0; 32], Group::G128).is_ok());
    }
}

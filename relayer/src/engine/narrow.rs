//! Weights that are stored as f32 and are numbers of a narrower type.
//!
//! Much of what is stored as f32 was f16 or bf16 when it was trained. Kept as that it takes half the memory, and a token, which has to read all of it,
//! half the time. Kernels widen it again, which is exact, so no product changes.

use candor_sdk::program::{WeightTensor, WeightType};
use half::{bf16, f16};
use rayon::prelude::*;
use std::sync::Arc;

/// The same numbers in the narrowest type that holds each of them as it is; none if that is the type they are stored in.
pub(super) fn narrowed(tensor: &WeightTensor) -> Option<WeightTensor> {
    let WeightType::F32 = tensor.dtype() else { return None };
    let (dtype, bytes) = if holds(tensor, |w| bf16::from_f32(w).to_f32()) {
        (WeightType::Bf16, stored(tensor, |w| bf16::from_f32(w).to_le_bytes()))
    } else if holds(tensor, |w| f16::from_f32(w).to_f32()) {
        (WeightType::F16, stored(tensor, |w| f16::from_f32(w).to_le_bytes()))
    } else {
        return None;
    };
    let shape = (u32::try_from(tensor.rows()).ok()?, u32::try_from(tensor.cols()).ok()?);
    WeightTensor::new(tensor.name(), shape, dtype, Arc::new(bytes)).ok()
}

/// Whether every number stays the same, to the bit, on a way through another type.
fn holds(tensor: &WeightTensor, through: fn(f32) -> f32) -> bool {
    let same = |bytes: &[u8; 4]| through(f32::from_le_bytes(*bytes)).to_le_bytes() == *bytes;
    (0..tensor.rows()).into_par_iter().all(|row| tensor.row(row).as_chunks::<4>().0.iter().all(same))
}

fn stored(tensor: &WeightTensor, narrow: fn(f32) -> [u8; 2]) -> Vec<u8> {
    tensor.bytes().as_chunks::<4>().0.iter().flat_map(|bytes| narrow(f32::from_le_bytes(*bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_weights_are_kept_in_the_narrowest_type_that_holds_each() {
        // Near 3.0e38, which no f16 reaches, and of which bf16 holds every bit.
        let large = f32::from_bits(0x7f61_0000);
        for (values, expected) in [
            (&[0.0, -0.0, 1.5, f32::INFINITY, large][..], Some(WeightType::Bf16)),
            (&[1.0 + 1.0 / 1024.0, 65504.0, 5.960_464_5e-8], Some(WeightType::F16)),
            // One of each: neither holds both.
            (&[1.0 + 1.0 / 1024.0, large], None),
            (&[0.1], None),
            (&[1.0, f32::from_bits(1)], None),
            (&[1.0, f32::from_bits(0x7f80_0001)], None),
        ] {
            let tensor = WeightTensor::from_f32("w", (1, values.len() as u32), values).unwrap();
            let narrowed = narrowed(&tensor);
            assert_eq!(narrowed.as_ref().map(WeightTensor::dtype), expected, "{values:?}");
            if let Some(narrowed) = narrowed {
                let bits = |row: Vec<f32>| row.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(narrowed.row_f32(0)), bits(tensor.row_f32(0)), "{values:?}");
            }
        }
    }
}

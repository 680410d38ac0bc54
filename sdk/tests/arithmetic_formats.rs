//! The 16-bit formats, all 65,536 values of each, against the `half` crate.

use candor_sdk::arithmetic::scalar::{NAN_BITS, bf16_to_f32, f16_to_f32};

#[test]
fn all_f16() {
    for bits in 0..=u16::MAX {
        let expected = half::f16::from_bits(bits);
        let expected = if expected.is_nan() { NAN_BITS } else { expected.to_f32().to_bits() };
        assert_eq!(f16_to_f32(bits).to_bits(), expected, "{bits:#06x}");
    }
}

#[test]
fn all_bf16() {
    for bits in 0..=u16::MAX {
        let expected = half::bf16::from_bits(bits);
        let expected = if expected.is_nan() { NAN_BITS } else { expected.to_f32().to_bits() };
        assert_eq!(bf16_to_f32(bits).to_bits(), expected, "{bits:#06x}");
    }
}

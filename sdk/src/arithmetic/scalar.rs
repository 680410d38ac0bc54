//! Binary32 scalars: the operations everything else is made of (rules A1 to A8).
//!
//! Rust's `f32` operators are the IEEE 754 ones, correctly rounded and with subnormals kept, on every target with
//! hardware binary32. What Rust leaves open is which NaN comes out; here it is always [`NAN`].

/// A2: the one NaN, `0x7fc00000`.
pub const NAN: f32 = f32::from_bits(NAN_BITS);

/// The bits of [`NAN`].
pub const NAN_BITS: u32 = 0x7fc0_0000;

/// A2: any NaN becomes the one NaN; every other value is returned as it is.
///
/// Written on the bits so that no compiler can argue that one NaN is as good as another.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN_BITS } else { bits })
}

/// A3: `a + b`, rounded to nearest even.
#[inline(always)]
pub fn add(a: f32, b: f32) -> f32 {
    canonical(a + b)
}

/// A3: `a - b`, rounded to nearest even.
#[inline(always)]
pub fn sub(a: f32, b: f32) -> f32 {
    canonical(a - b)
}

/// A3: `a * b`, rounded to nearest even.
#[inline(always)]
pub fn mul(a: f32, b: f32) -> f32 {
    canonical(a * b)
}

/// A3: `a / b`, rounded to nearest even.
#[inline(always)]
pub fn div(a: f32, b: f32) -> f32 {
    canonical(a / b)
}

/// A3: the square root, rounded to nearest even; `sqrt(-0) = -0`, NaN below zero.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    canonical(x.sqrt())
}

/// A3: `a * b + c` with one rounding.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    canonical(a.mul_add(b, c))
}

/// A4: IEEE 754-2019 `maximum`: NaN if either is NaN, and `-0 < +0`.
#[inline(always)]
pub fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        NAN
    } else if a == b {
        // Equal values have equal bits, except the two zeros: and-ing keeps the minus only if both have it.
        f32::from_bits(a.to_bits() & b.to_bits())
    } else if a > b {
        a
    } else {
        b
    }
}

/// A4: IEEE 754-2019 `minimum`: NaN if either is NaN, and `-0 < +0`.
#[inline(always)]
pub fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        NAN
    } else if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b {
        a
    } else {
        b
    }
}

/// A5: clears the sign; NaN stays the one NaN.
#[inline(always)]
pub fn abs(x: f32) -> f32 {
    canonical(f32::from_bits(x.to_bits() & 0x7fff_ffff))
}

/// A5: flips the sign; NaN stays the one NaN.
#[inline(always)]
pub fn neg(x: f32) -> f32 {
    canonical(f32::from_bits(x.to_bits() ^ 0x8000_0000))
}

/// A6: to the nearest `i32`, ties to even; beyond the range the nearest end of it, and 0 for NaN.
#[inline(always)]
pub fn round_to_i32(x: f32) -> i32 {
    // `as` truncates, saturates and sends NaN to 0: the first does nothing to what is already an integer.
    x.round_ties_even() as i32
}

/// A6: to the nearest `u32`, ties to even; beyond the range the nearest end of it, and 0 for NaN.
#[inline(always)]
pub fn round_to_u32(x: f32) -> u32 {
    x.round_ties_even() as u32
}

/// A7: the nearest `f32` to an `i32`, ties to even; exact up to 2^24.
#[inline(always)]
pub fn from_i32(x: i32) -> f32 {
    x as f32
}

/// A7: the nearest `f32` to a `u32`, ties to even; exact up to 2^24.
#[inline(always)]
pub fn from_u32(x: u32) -> f32 {
    x as f32
}

/// A8: the value of an IEEE binary16 number, exactly.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let exponent = u32::from(h >> 10) & 0x1f;
    let fraction = u32::from(h) & 0x3ff;
    let magnitude = match (exponent, fraction) {
        (0, 0) => 0,
        (0, _) => {
            // A subnormal, fraction * 2^-24, is a normal f32: move its leading bit up to the hidden place.
            let shift = fraction.leading_zeros() - 21;
            (113 - shift) << 23 | (fraction << shift & 0x3ff) << 13
        }
        (31, 0) => 0x7f80_0000,
        (31, _) => return NAN,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The binary16 number nearest to `x`, ties to even; beyond the greatest one it is infinite. Only importers narrow: no
/// operation of a model does.
pub fn f16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, magnitude) = ((bits >> 16 & 0x8000) as u16, bits & 0x7fff_ffff);
    if magnitude > 0x7f80_0000 {
        return 0x7e00;
    }
    // Below 2^-14 the unit in the last place is 2^-24: adding 1/2, whose own is 2^-24, rounds to it.
    if magnitude < 0x3880_0000 {
        return sign | (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits()) as u16;
    }
    // 13 bits go. Half a unit less one, and one more if what stays is odd, carries as rounding to even does.
    let odd = magnitude >> 13 & 1;
    let rounded = (magnitude + 0xfff + odd - (112 << 23)) >> 13;
    sign | rounded.min(0x7c00) as u16
}

/// A8: the value of a bfloat16 number, exactly: it is the upper half of an `f32`.
#[inline(always)]
pub fn bf16_to_f32(b: u16) -> f32 {
    canonical(f32::from_bits(u32::from(b) << 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_nan() {
        let zero = std::hint::black_box(0.0f32);
        let inf = std::hint::black_box(f32::INFINITY);
        for x in [
            add(inf, -inf),
            sub(inf, inf),
            mul(zero, -inf),
            div(zero, -zero),
            sqrt(-inf),
            fma(inf, zero, 1.0),
            maximum(1.0, f32::from_bits(0xffff_ffff)),
            minimum(f32::from_bits(0x7f80_0001), 1.0),
            abs(f32::from_bits(0xff80_0001)),
            neg(NAN),
            f16_to_f32(0xfc01),
            bf16_to_f32(0xffc0),
        ] {
            assert_eq!(x.to_bits(), NAN_BITS);
        }
    }

    #[test]
    fn narrowing_is_to_nearest_even() {
        // Every f16, its neighbours half way up and down, and what is next to those.
        for h in 0..0x7c00u16 {
            let (low, high) = (f16_to_f32(h), f16_to_f32(h + 1));
            assert_eq!(f16_from_f32(low), h);
            let middle = if h == 0x7bff { 65520.0 } else { low + (high - low) / 2.0 };
            assert_eq!(f16_from_f32(middle), h + (h & 1), "{middle}");
            assert_eq!(f16_from_f32(f32::from_bits(middle.to_bits() - 1)), h, "{middle}");
            assert_eq!(f16_from_f32(f32::from_bits(middle.to_bits() + 1)), h + 1, "{middle}");
            assert_eq!(f16_from_f32(-middle), 0x8000 | (h + (h & 1)));
        }
        let beyond = [f32::INFINITY, f32::MAX, 65536.0];
        assert_eq!(beyond.map(f16_from_f32), [0x7c00; 3]);
        assert_eq!(f16_from_f32(-0.0), 0x8000);
        assert_eq!(f16_from_f32(f32::NAN), 0x7e00);
    }

    #[test]
    fn zeros_are_ordered() {
        let bits = |x: f32| x.to_bits();
        for (a, b) in [(0.0, -0.0), (-0.0, 0.0)] {
            assert_eq!(bits(maximum(a, b)), bits(0.0));
            assert_eq!(bits(minimum(a, b)), bits(-0.0));
        }
        assert_eq!(bits(maximum(-0.0, -0.0)), bits(-0.0));
        assert_eq!(bits(minimum(0.0, 0.0)), bits(0.0));
        assert_eq!(bits(sqrt(-0.0)), bits(-0.0));
    }

    #[test]
    fn integers_round_to_even_and_saturate() {
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(round_to_i32), [0, 2, 2, 0, -2]);
        assert_eq!(round_to_i32(f32::INFINITY), i32::MAX);
        assert_eq!(round_to_i32(-3e9), i32::MIN);
        assert_eq!(round_to_i32(NAN), 0);
        assert_eq!([-1.0, 0.5, 1.5, 5e9].map(round_to_u32), [0, 0, 2, u32::MAX]);
        assert_eq!(from_i32(16_777_217), 16_777_216.0);
        assert_eq!(from_i32(16_777_219), 16_777_220.0);
        assert_eq!(from_u32(u32::MAX), 4_294_967_296.0);
    }
}

//! Deterministic inputs that floating-point code gets wrong: subnormals, ties, cancellation, exponents far apart.

/// Every kind of f32, including NaNs that are not the one NaN.
pub(crate) const SPECIALS: [f32; 25] = [
    0.0,
    -0.0,
    f32::from_bits(1),           // smallest subnormal
    f32::from_bits(0x8000_0001), // and its negative
    f32::from_bits(0x007f_ffff), // largest subnormal
    f32::from_bits(0x8080_0000), // smallest normal, negative
    f32::from_bits(0x0080_0001),
    f32::from_bits(0x3f7f_ffff), // below 1
    1.0,
    f32::from_bits(0x3f80_0001), // above 1
    -1.0,
    0.5,
    -1.5,
    3.0,
    f32::from_bits(0x3380_0000), // 2^-24, half a unit in the last place of 1
    f32::from_bits(0xb380_0001),
    8_388_608.5,
    16_777_215.0,
    -16_777_216.0,
    f32::MAX,
    -f32::MAX,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::from_bits(0x7fc0_0000),
    f32::from_bits(0xff80_0001), // signalling, negative
];

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Generator(u64);

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// Any bits at all.
    pub(crate) fn any(&mut self) -> f32 {
        f32::from_bits(self.word())
    }

    pub(crate) fn special(&mut self) -> f32 {
        SPECIALS[self.word() as usize % SPECIALS.len()]
    }

    /// A value with this biased exponent; the fraction is random, or has all its bits at one end.
    fn with_exponent(&mut self, exponent: u32) -> f32 {
        let word = self.word();
        let fraction = match self.word() % 8 {
            0 => 0,
            1 => 1,
            2 => 0x7f_ffff,
            3 => word & 0x7f_f000,
            4 => word & 0xfff,
            _ => word & 0x7f_ffff,
        };
        f32::from_bits(word & 1 << 31 | exponent << 23 | fraction)
    }

    /// Magnitudes within a factor of 2^`reach` of 1, all of them equally likely.
    pub(crate) fn near(&mut self, reach: u32) -> f32 {
        let exponent = 127 - reach + self.word() % (2 * reach + 1);
        self.with_exponent(exponent)
    }

    /// Evenly spread between `-limit` and `limit`.
    pub(crate) fn moderate(&mut self, limit: f32) -> f32 {
        ((self.word() >> 8) as f32 / 8_388_608.0 - 1.0) * limit
    }

    /// An f16 between 2^-8 and 2, with either sign; as a bf16 it is a small number too.
    pub(crate) fn moderate_f16(&mut self) -> u16 {
        let word = self.word();
        let exponent = 7 + (word >> 16) % 9;
        (word & 0x8000 | exponent << 10 | word & 0x3ff) as u16
    }

    pub(crate) fn row(&mut self, n: usize, mut element: impl FnMut(&mut Self) -> f32) -> Vec<f32> {
        (0..n).map(|_| element(self)).collect()
    }

    /// Summands whose exponents are up to 26 apart: ties, sticky bits, cancellation.
    pub(crate) fn hard_sum(&mut self) -> (f32, f32) {
        let exponent = 27 + self.word() % 228;
        let gap = self.word() % 27;
        (self.with_exponent(exponent), self.with_exponent(exponent - gap))
    }

    /// Factors whose product is near the ends of the range.
    pub(crate) fn hard_product(&mut self) -> (f32, f32) {
        let sum = if self.word().is_multiple_of(4) { 379 + self.word() % 6 } else { 100 + self.word() % 32 };
        let low = sum.saturating_sub(254);
        let a = low + self.word() % (sum.min(254) - low + 1);
        (self.with_exponent(a), self.with_exponent(sum - a))
    }

    /// A dividend and divisor whose quotient is near the ends of the range, or is close to a tie.
    pub(crate) fn hard_quotient(&mut self) -> (f32, f32) {
        match self.word() % 3 {
            0 => (self.near(1), self.near(1)),
            1 => {
                let a = self.word() % 120;
                let b = a + 122 + self.word() % 10;
                (self.with_exponent(a), self.with_exponent(b))
            }
            _ => {
                let b = self.word() % 120;
                let a = b + 125 + self.word() % 5;
                (self.with_exponent(a), self.with_exponent(b))
            }
        }
    }

    /// Products met by an addend that cancels them, ties with them, or only just touches them.
    pub(crate) fn hard_fma(&mut self) -> (f32, f32, f32) {
        let reach = if self.word().is_multiple_of(4) { 70 } else { 12 };
        let (a, b) = (self.near(reach), self.near(reach));
        let product = f64::from(a) * f64::from(b);
        let c = match self.word() % 4 {
            0 => -product as f32,
            1 => f32::from_bits((-product as f32).to_bits() ^ 1),
            2 => {
                let exponent = ((product as f32).to_bits() >> 23 & 0xff) as i32 + (self.word() % 60) as i32 - 30;
                self.with_exponent(exponent.clamp(0, 254) as u32)
            }
            _ => (product * f64::powi(2.0, (self.word() % 50) as i32 - 25)) as f32,
        };
        (a, b, c)
    }
}

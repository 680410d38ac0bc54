//! A small seeded generator. candle's CPU device cannot be seeded, and the result of a training run must not depend on
//! the version of a crate, so the initial weights, splits, orders and augmentations come from here.

/// SplitMix64: 64 bits of state, passes the usual statistical batteries, four lines.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// One stream per seed and purpose, so that drawing more numbers for one purpose leaves the others as they were.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        // FNV-1a of the purpose, mixed once with the seed.
        let hash =
            purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self(Self(seed ^ hash).next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), with 24 random bits: exact in f32.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 24) as f32
    }

    /// Uniform in [low, high).
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform below `n` (the bias of the multiplication, n / 2^64, does not matter here).
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Fisher-Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

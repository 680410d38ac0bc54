//! Numbers that break careless kernels, and how results are compared. Needs nothing of the engine but its kernels: `make aarch64`
//! compiles it without the rest.
#![allow(dead_code)] // each test binary uses its part

/// A small generator, so that a failure repeats.
pub(crate) struct Random(pub(crate) u64);

/// Numbers at the edges of the format.
const EDGES: [u32; 20] = [
    0x0000_0000, // +0
    0x8000_0000, // -0
    0x0000_0001, // least subnormal
    0x8000_0001,
    0x007f_ffff, // greatest subnormal
    0x807f_ffff,
    0x0080_0000, // least normal
    0x8080_0000,
    0x7f7f_ffff, // greatest finite
    0xff7f_ffff,
    0x3f80_0000, // 1
    0xbf80_0001, // -(1 + ulp)
    0x3f7f_ffff, // 1 - ulp/2
    0x3380_0000, // 2^-24: half an ulp of 1, a tie
    0x3380_0001, // just beyond the tie
    0x4b80_0000, // 2^24: integers end here
    0x1f80_0000, // 2^-64: squares are subnormal
    0x9f80_0001,
    0x5f00_0000, // 2^63: squares are near overflow
    0xdf7f_ffff,
];

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// From -1 to 1.
    pub(crate) fn ordinary(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// No NaN and no infinity, but everything else that breaks careless kernels.
    pub(crate) fn finite_edge(&mut self) -> f32 {
        match self.below(4) {
            0 | 1 => f32::from_bits(EDGES[self.below(EDGES.len())]),
            2 => self.ordinary(),
            _ => {
                let x = f32::from_bits(self.bits() as u32);
                if x.is_finite() { x } else { 0.5 }
            }
        }
    }

    /// As above, with a few NaNs of all kinds and infinities.
    pub(crate) fn edge(&mut self) -> f32 {
        match self.below(200) {
            0 => f32::INFINITY,
            1 => f32::NEG_INFINITY,
            2 => f32::from_bits(0x7f80_0001), // signalling
            3 => f32::from_bits(0xffc1_2345), // quiet, negative, with a payload
            _ => self.finite_edge(),
        }
    }

    pub(crate) fn vector(&mut self, len: usize, mut element: impl FnMut(&mut Self) -> f32) -> Vec<f32> {
        (0..len).map(|_| element(self)).collect()
    }
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Says where two vectors differ first.
pub(crate) fn assert_same_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    if let Some(i) = (0..got.len()).find(|&i| got[i].to_bits() != want[i].to_bits()) {
        panic!(
            "{what}: element {i} is {:#010x} ({}), not {:#010x} ({})",
            got[i].to_bits(),
            got[i],
            want[i].to_bits(),
            want[i]
        );
    }
}

pub(crate) fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool")
}

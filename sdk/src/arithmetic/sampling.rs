//! Choosing a token (rules S1 to S6): greedy, or by the Gumbel-max trick with noise that anyone can recompute from
//! the seed, the step and the token's index.
//!
//! Adding independent Gumbel noise to the logits and taking the argmax draws from their softmax exactly, so there is
//! no sort and no running sum, and one token's claim to the throne is checked against one other's in a few operations.

use super::{
    functions::log,
    reduction::{argmax, maximum},
    scalar::{add, div, from_u32, mul, neg},
};

/// S1: Philox-4x32-10: ten rounds of the counter-based generator of Salmon, Moraes, Dror and Shaw (SC 2011).
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        let (high, low) = (|p: u64| (p >> 32) as u32, |p: u64| p as u32);
        counter = [high(b) ^ counter[1] ^ key[0], low(b), high(a) ^ counter[3] ^ key[1], low(a)];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// S2: the random word of token `v` at `step`: word `v % 4` of the block that the first 16 bytes of the seed and
/// the pair (`step`, `v / 4`) select.
pub fn random_word(seed: &[u8; 32], step: u32, v: u32) -> u32 {
    let word = |i: usize| u32::from_be_bytes([seed[4 * i], seed[4 * i + 1], seed[4 * i + 2], seed[4 * i + 3]]);
    philox4x32_10([v / 4, step, word(2), word(3)], [word(0), word(1)])[(v % 4) as usize]
}

/// S3: the upper 23 bits of a word as the middle of one of 2^23 equal cells of (0, 1): never 0, never 1, exact.
#[inline(always)]
pub fn uniform(word: u32) -> f32 {
    mul(from_u32(word >> 9 << 1 | 1), f32::from_bits(0x3380_0000)) // 2^-24
}

/// S4: standard Gumbel noise for token `v` at `step`: `-log(-log(u))`, between -2.82 and 16.64.
pub fn gumbel(seed: &[u8; 32], step: u32, v: u32) -> f32 {
    neg(log(neg(log(uniform(random_word(seed, step, v))))))
}

/// S5: the logit below which min-p drops a token: `max + temperature * log(min_p)`. With `min_p = 0` it is `-inf`
/// and drops none.
pub fn min_p_threshold(max: f32, temperature: f32, min_p: f32) -> f32 {
    add(max, mul(temperature, log(min_p)))
}

/// S5: the score that token `v` competes with: `-inf` if its logit is below the threshold, or else the logit over
/// the temperature, plus the noise.
pub fn score(logit: f32, threshold: f32, temperature: f32, noise: f32) -> f32 {
    if logit < threshold { f32::NEG_INFINITY } else { add(div(logit, temperature), noise) }
}

/// S6: the token chosen from a row of logits; `None` if the row is empty. A temperature of 0 (or anything else that
/// is not above 0) is greedy, and `min_p` then has no say.
pub fn sample(logits: &[f32], temperature: f32, min_p: f32, seed: &[u8; 32], step: u32) -> Option<usize> {
    if temperature.is_nan() || temperature <= 0.0 {
        return argmax(logits);
    }
    let threshold = min_p_threshold(maximum(logits), temperature, min_p);
    let scores: Vec<f32> =
        (0..).zip(logits).map(|(v, &logit)| score(logit, threshold, temperature, gumbel(seed, step, v))).collect();
    argmax(&scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_published_vectors() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_is_inside() {
        assert_eq!(uniform(0), 2f32.powi(-24));
        assert_eq!(uniform(u32::MAX), 1.0 - 2f32.powi(-24));
        assert_eq!(uniform(1 << 31), 0.5 + 2f32.powi(-24));
    }
}

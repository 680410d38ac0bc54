//! Logits made ready for argmax (rules S2 to S5).

use super::isa::{Isa, per_isa};
use candor_sdk::arithmetic::sampling::{min_p_threshold, philox4x32_10, score, uniform};
use candor_sdk::arithmetic::{functions::log, scalar::neg};

/// Sampling parameters of one row of logits.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Temperature; 0 is greedy, and the row stays as it is.
    pub temperature: f32,
    /// Least probability relative to the likeliest token.
    pub min_p: f32,
    /// The request's seed.
    pub seed: [u8; 32],
    /// Row of the logits, counted from the first generated token.
    pub step: u32,
}

impl Sampling {
    /// Whether rows stay as they are.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 || self.temperature.is_nan()
    }
}

/// Tokens that are perturbed together.
const TOKENS: usize = 64;

/// Scores of a row of logits whose greatest is `max`.
pub fn perturb(isa: Isa, sampling: &Sampling, max: f32, logits: &[f32], out: &mut [f32]) {
    assert_eq!(logits.len(), out.len(), "a score for each logit");
    if sampling.is_greedy() {
        out.copy_from_slice(logits);
        return;
    }
    let threshold = min_p_threshold(max, sampling.temperature, sampling.min_p);
    scores(isa, sampling, threshold, logits, out);
}

per_isa! {
    fn scores(isa, sampling: &Sampling, threshold: f32, logits: &[f32], out: &mut [f32]) =
        score_all(sampling, threshold, logits, out)
}

#[inline(always)]
fn score_all(sampling: &Sampling, threshold: f32, logits: &[f32], out: &mut [f32]) {
    let word = |i: usize| {
        let bytes = &sampling.seed[4 * i..4 * i + 4];
        u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    };
    let (key, high) = ([word(0), word(1)], [word(2), word(3)]);
    for (block, (logits, out)) in logits.chunks(TOKENS).zip(out.chunks_mut(TOKENS)).enumerate() {
        let mut words = [0u32; TOKENS];
        for (i, four) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let counter = (block * (TOKENS / 4) + i) as u32;
            *four = philox4x32_10([counter, sampling.step, high[0], high[1]], key);
        }
        let mut noise = [0f32; TOKENS];
        for (noise, &word) in noise.iter_mut().zip(&words) {
            *noise = neg(log(neg(log(uniform(word)))));
        }
        for ((out, &logit), &noise) in out.iter_mut().zip(logits).zip(&noise) {
            *out = score(logit, threshold, sampling.temperature, noise);
        }
    }
}

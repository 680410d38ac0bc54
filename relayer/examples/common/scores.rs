//! Scores of a classifier, from its answers and the truth.

/// A default refused costs nothing, a default granted costs the loan: the cost matrix that comes with German Credit.
pub(crate) const COST_OF_GRANTED_DEFAULT: usize = 5;
/// The cost of refusing a loan that would have been paid back.
pub(crate) const COST_OF_REFUSED_LOAN: usize = 1;

/// Refusing is cheaper than granting from this probability of default on: p * 5 >= (1 - p) * 1.
pub(crate) const REFUSE_FROM: f32 =
    COST_OF_REFUSED_LOAN as f32 / (COST_OF_GRANTED_DEFAULT + COST_OF_REFUSED_LOAN) as f32;

/// Rounded to four decimals: what is recorded, and what another machine's last bits do not change.
pub(crate) fn rounded(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

/// How often `probability >= threshold` agrees with the truth.
pub(crate) fn correct(probabilities: &[f32], truth: &[bool], threshold: f32) -> usize {
    probabilities.iter().zip(truth).filter(|(p, t)| (**p >= threshold) == **t).count()
}

/// [[granted and paid, refused though paid], [granted and defaulted, refused and would have defaulted]].
pub(crate) fn confusion(probabilities: &[f32], truth: &[bool], threshold: f32) -> [[usize; 2]; 2] {
    let mut table = [[0; 2]; 2];
    for (p, t) in probabilities.iter().zip(truth) {
        table[usize::from(*t)][usize::from(*p >= threshold)] += 1;
    }
    table
}

/// The 5:1 cost of a confusion table.
pub(crate) fn cost(confusion: [[usize; 2]; 2]) -> usize {
    COST_OF_GRANTED_DEFAULT * confusion[1][0] + COST_OF_REFUSED_LOAN * confusion[0][1]
}

/// Area under the ROC curve: the share of (default, paid) pairs that are ranked right, ties counting one half.
pub(crate) fn auc(probabilities: &[f32], truth: &[bool]) -> f64 {
    let of = |class: bool| -> Vec<f32> {
        probabilities.iter().zip(truth).filter(|(_, t)| **t == class).map(|(p, _)| *p).collect()
    };
    let (defaults, paid) = (of(true), of(false));
    let twice: usize =
        defaults.iter().flat_map(|d| paid.iter().map(move |p| if d > p { 2 } else { usize::from(d == p) })).sum();
    twice as f64 / (2 * defaults.len() * paid.len()) as f64
}

/// Mean squared error of the probability.
pub(crate) fn brier(probabilities: &[f32], truth: &[bool]) -> f64 {
    mean(probabilities.iter().zip(truth).map(|(p, t)| (f64::from(*p) - f64::from(u8::from(*t))).powi(2)))
}

/// Mean negative log-likelihood, in nats.
pub(crate) fn log_loss(probabilities: &[f32], truth: &[bool]) -> f64 {
    mean(probabilities.iter().zip(truth).map(|(p, t)| -f64::from(if *t { *p } else { 1.0 - *p }).max(1e-12).ln()))
}

/// One row of the calibration table.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Bin {
    pub(crate) loans: usize,
    pub(crate) predicted: f64,
    pub(crate) observed: f64,
}

/// Mean prediction and observed frequency in `bins` groups of equal size, from the safest to the riskiest.
pub(crate) fn calibration(probabilities: &[f32], truth: &[bool], bins: usize) -> Vec<Bin> {
    let mut pairs: Vec<(f32, bool)> = probabilities.iter().copied().zip(truth.iter().copied()).collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    (0..bins)
        .map(|i| &pairs[i * pairs.len() / bins..(i + 1) * pairs.len() / bins])
        .map(|group| Bin {
            loans: group.len(),
            predicted: rounded(mean(group.iter().map(|(p, _)| f64::from(*p)))),
            observed: rounded(mean(group.iter().map(|(_, t)| f64::from(u8::from(*t))))),
        })
        .collect()
}

pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len();
    values.sum::<f64>() / n as f64
}

/// Standard deviation of a sample.
pub(crate) fn deviation(values: &[f64]) -> f64 {
    let centre = mean(values.iter().copied());
    (values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

//! What is recorded about the two models (`metrics.json`), and how their cards print it.

use super::{
    report::Metrics,
    scores::{self, Bin},
};
use serde::{Deserialize, Serialize};

/// What cross-validation chooses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Width of the hidden layer; 0: none.
    pub(crate) hidden: usize,
    pub(crate) weight_decay: f64,
    pub(crate) epochs: usize,
    /// Mean log-loss on the folds left out.
    pub(crate) validation_log_loss: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scores {
    /// Right answers to "is default more likely than not?".
    pub(crate) correct: usize,
    pub(crate) accuracy: f64,
    pub(crate) auc: f64,
    pub(crate) brier: f64,
    pub(crate) log_loss: f64,
    /// 5 per default granted, 1 per good loan refused, refusing from a probability of 1/6.
    pub(crate) cost: usize,
    /// At that threshold: rows paid back and defaulted, columns granted and refused.
    pub(crate) decisions: [[usize; 2]; 2],
}

/// Decisions on one group of held-out loans.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// As in [`Scores`].
    pub(crate) decisions: [[usize; 2]; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OtherSplits {
    pub(crate) splits: u64,
    pub(crate) accuracy_mean: f64,
    pub(crate) accuracy_deviation: f64,
    pub(crate) auc_mean: f64,
    pub(crate) auc_deviation: f64,
    pub(crate) cost_mean: f64,
    pub(crate) cost_deviation: f64,
    pub(crate) logistic_auc_mean: f64,
    pub(crate) logistic_cost_mean: f64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreditMetrics {
    pub(crate) model: String,
    pub(crate) seed: u64,
    pub(crate) training_loans: usize,
    pub(crate) held_out_loans: usize,
    pub(crate) held_out_defaults: usize,
    pub(crate) parameters: usize,
    pub(crate) weights_bytes: usize,
    pub(crate) weights_sha256: String,
    pub(crate) recipe: Recipe,
    pub(crate) held_out: Scores,
    /// The same loans, answered by the relayer's engine, whose arithmetic is not candle's.
    pub(crate) engine: Scores,
    pub(crate) calibration: Vec<Bin>,
    /// By age, which the network does not see.
    pub(crate) groups: Vec<Group>,
    /// The same, trained and scored by the same program.
    pub(crate) logistic_recipe: Recipe,
    pub(crate) logistic: Scores,
    /// The network's recipe with age, sex and foreign worker among the features.
    pub(crate) with_protected: Scores,
    pub(crate) other_splits: OtherSplits,
}

impl Metrics for CreditMetrics {
    fn card(&self) -> String {
        let network = &self.recipe;
        let mut text = format!(
            "{} loans for training and cross-validation, {} held out, of which {} defaulted. {} parameters, \
             {} hidden units, weight decay {}, {} epochs; weights file {} bytes, f32, seed {}, sha256 `{}`.\n\n\
             | on the held-out loans | accuracy | AUC | Brier | log-loss | cost |\n|---|---|---|---|---|---|\n",
            self.training_loans,
            self.held_out_loans,
            self.held_out_defaults,
            self.parameters,
            network.hidden,
            network.weight_decay,
            network.epochs,
            self.weights_bytes,
            self.seed,
            self.weights_sha256,
        );
        let (loans, defaults) = (self.held_out_loans, self.held_out_defaults);
        let row = |name: &str, s: &Scores| {
            let Scores { correct, accuracy, auc, brier, log_loss, cost, .. } = s;
            format!(
                "| {name} | {:.1} % ({correct}) | {auc:.3} | {brier:.3} | {log_loss:.3} | {cost} |\n",
                100.0 * accuracy
            )
        };
        text += &row("**this network**", &self.held_out);
        text += &row("the same, run by the relayer's engine", &self.engine);
        text += &row("logistic regression", &self.logistic);
        text += &row("the network, with the protected attributes", &self.with_protected);
        text += &format!(
            "| always \"pays back\" (the majority) | {:.1} % ({}) | 0.500 | | | {} |\n\
             | refuse everybody | {:.1} % ({defaults}) | 0.500 | | | {} |\n\n",
            100.0 * (loans - defaults) as f64 / loans as f64,
            loans - defaults,
            defaults * scores::COST_OF_GRANTED_DEFAULT,
            100.0 * defaults as f64 / loans as f64,
            (loans - defaults) * scores::COST_OF_REFUSED_LOAN,
        );
        let [[granted_good, refused_good], [granted_bad, refused_bad]] = self.held_out.decisions;
        text += &format!(
            "Decisions when refusing from a probability of 1/6:\n\n| | granted | refused |\n|---|---|---|\n\
             | paid back | {granted_good} | {refused_good} |\n| defaulted | {granted_bad} | {refused_bad} |\n\n\
             Calibration, in five groups of equal size:\n\n| loans | predicted | observed |\n|---|---|---|\n",
        );
        for Bin { loans, predicted, observed } in &self.calibration {
            text += &format!("| {loans} | {:.1} % | {:.1} % |\n", 100.0 * predicted, 100.0 * observed);
        }
        text += "\nDecisions by age, which the network does not see:\n\n\
                 | | loans | defaulted | refused | refused though paid back |\n|---|---|---|---|---|\n";
        for Group { name, decisions: [[granted_good, refused_good], [granted_bad, refused_bad]] } in &self.groups {
            let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
            let (good, bad) = (granted_good + refused_good, granted_bad + refused_bad);
            text += &format!(
                "| {name} | {} | {:.0} % | {:.0} % | {:.0} % of {good} |\n",
                good + bad,
                percent(bad, good + bad),
                percent(refused_good + refused_bad, good + bad),
                percent(*refused_good, good),
            );
        }
        let o = &self.other_splits;
        text += &format!(
            "\nThe same recipe on {} other random splits (mean and standard deviation): accuracy {:.1} +- {:.1} %, AUC \
             {:.3} +- {:.3}, cost {:.0} +- {:.0}. Logistic regression on these splits: AUC {:.3}, cost {:.0}.",
            o.splits,
            100.0 * o.accuracy_mean,
            100.0 * o.accuracy_deviation,
            o.auc_mean,
            o.auc_deviation,
            o.cost_mean,
            o.cost_deviation,
            o.logistic_auc_mean,
            o.logistic_cost_mean,
        );
        text
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DigitMetrics {
    pub(crate) model: String,
    pub(crate) seed: u64,
    pub(crate) epochs: usize,
    pub(crate) training_images: usize,
    pub(crate) parameters: usize,
    pub(crate) weights_bytes: usize,
    pub(crate) weights_sha256: String,
    pub(crate) test_images: usize,
    pub(crate) test_correct: usize,
    pub(crate) test_accuracy: f64,
    /// Right answers of the relayer's engine, whose arithmetic is not candle's.
    pub(crate) engine_correct: usize,
    /// Rows are the truth, columns the answer.
    pub(crate) confusion: Vec<Vec<usize>>,
    /// `heldout.bin`.
    pub(crate) sample_images: usize,
    pub(crate) sample_correct: usize,
}

impl Metrics for DigitMetrics {
    fn card(&self) -> String {
        let mut text = format!(
            "| | |\n|---|---|\n| held-out images (the MNIST test set) | {} |\n| correct | {} |\n| accuracy | {:.2} % |\n\
             | correct when run by the relayer's engine | {} |\n\
             | correct in the sample `heldout.bin` | {} of {} |\n| parameters | {} |\n| weights file | {} bytes, f16 |\n\
             | training | {} images, {} epochs, seed {} |\n| sha256 of the weights | `{}` |\n\n\
             Confusion (rows: the digit, columns: the answer):\n\n|  |",
            self.test_images,
            self.test_correct,
            100.0 * self.test_accuracy,
            self.engine_correct,
            self.sample_correct,
            self.sample_images,
            self.parameters,
            self.weights_bytes,
            self.training_images,
            self.epochs,
            self.seed,
            self.weights_sha256,
        );
        for digit in 0..10 {
            text += &format!(" {digit} |");
        }
        text += &format!("\n|---|{}", "---|".repeat(10));
        for (digit, row) in self.confusion.iter().enumerate() {
            text += &format!("\n| **{digit}** |");
            for count in row {
                text += &format!(" {count} |");
            }
        }
        text
    }
}

//! Trains the credit-risk network in `relayer/models/credit` on German Credit, with candle's AdamW, in a minute or so.
//!
//! ```text
//! relayer/models/fetch.sh
//! cargo run --release -p candor-relayer --example train_credit                 # trains into target/train/credit
//! cargo run --release -p candor-relayer --example train_credit -- --check      # scores the committed weights
//! ```
//!
//! 200 loans, drawn at random with the seed, are put aside and only scored at the end. Everything that is chosen (the
//! size of the network, its weight decay, the number of epochs) is chosen by cross-validation on the other 800.

mod common;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use clap::Parser;
use common::{
    applicants::{self, Kind, Loan, Schema},
    dataset, engine,
    metrics::{CreditMetrics, Group, OtherSplits, Recipe, Scores},
    options::Options,
    random::Random,
    report::{self, Metrics},
    scores::{self, REFUSE_FROM, rounded},
    sequential::{self, Categorical, Config, Input, InputKind, Layer, Numeric, Output, Parameter, Sequential},
};
use std::{path::Path, time::Instant};

const MODEL: &str = "credit";
const SCHEMA: &str = include_str!("../models/credit/schema.json");
/// One loan in five is held out.
const HELD_OUT: f64 = 0.2;
const FOLDS: usize = 5;
const LEARNING_RATE: f64 = 5e-3;
/// Cross-validation looks at the model after every so many epochs, up to this many times.
const EPOCHS_PER_LOOK: usize = 10;
const LOOKS: usize = 40;
/// Candidate networks: width of the hidden layer (0: none, logistic regression) and weight decay.
const WIDTHS: [usize; 2] = [8, 16];
const DECAYS: [f64; 4] = [0.1, 0.3, 1.0, 3.0];
/// How many other random splits the recipe is tried on, to show how much of the score is the luck of the draw.
const OTHER_SPLITS: u64 = 20;

fn main() -> Result<()> {
    let options = Options::parse();
    let schema = Schema::parse(SCHEMA)?;
    let text = String::from_utf8(dataset::read(&options.data, "german/german.data")?)?;
    let loans = schema.loans(&text)?;
    let committed = Options::committed(MODEL);
    if options.check {
        return check(&committed, &schema, &loans);
    }
    let out = options.out(MODEL);
    let start = Instant::now();
    let (training, held_out) = split(&loans, options.seed);
    println!("{} loans for training, {} held out, seed {}", training.len(), held_out.len(), options.seed);

    println!("\n{FOLDS}-fold cross-validation on the training loans:");
    let logistic_recipe = choose(&schema, &training, &[0], options.seed)?;
    let recipe = choose(&schema, &training, &WIDTHS, options.seed)?;
    println!("chosen: {recipe:?}\nlogistic regression: {logistic_recipe:?}\n");

    let model = train(&schema, false, recipe, &training, options.seed)?;
    model.save(&out, DType::F32)?;
    let csv = out.join("heldout.csv");
    report::write(&csv, &schema.to_csv(&held_out))?;
    report::write(&out.join("schema.json"), SCHEMA)?;

    let logistic = train(&schema, false, logistic_recipe, &training, options.seed)?;
    let with_protected = train(&schema, true, recipe, &training, options.seed)?;
    let comparison = Comparison {
        seed: options.seed,
        training_loans: training.len(),
        recipe,
        logistic_recipe,
        logistic: score(&probabilities(&logistic, &held_out)?, &held_out),
        with_protected: score(&probabilities(&with_protected, &held_out)?, &held_out),
        other_splits: other_splits(&schema, &loans, recipe, logistic_recipe, options.seed)?,
    };
    let metrics = measure(&out, &schema, comparison, &held_out)?;
    report::save(&out, &metrics)?;
    println!("{}\n\nwritten to {} after {:.0} s", metrics.card(), out.display(), start.elapsed().as_secs_f64());
    report::against_committed::<CreditMetrics>(&committed, &out)
}

fn split(loans: &[Loan], seed: u64) -> (Vec<Loan>, Vec<Loan>) {
    applicants::split(loans, HELD_OUT, &mut Random::new(seed, "held out"))
}

/// The features: numbers standardised by the training loans, levels as one column each. Levels without an example in
/// the training loans get no column: a weight that was never trained would be noise.
fn features(schema: &Schema, protected: bool, training: &[Loan]) -> Layer {
    let (mut numeric, mut categorical) = (Vec::new(), Vec::new());
    for attribute in schema.attributes.iter().filter(|attribute| protected || !attribute.protected) {
        let column = attribute.column;
        match &attribute.kind {
            Kind::Numeric { .. } => {
                let values: Vec<f64> = training.iter().map(|loan| f64::from(loan.values[column])).collect();
                let mean = scores::mean(values.iter().copied()) as f32;
                numeric.push(Numeric { column, mean, scale: (1.0 / scores::deviation(&values)) as f32 });
            }
            Kind::Categorical { codes } => {
                let seen = |code: u32| training.iter().any(|loan| loan.values[column] == code);
                let codes = codes.iter().map(|code| code.code).filter(|code| seen(*code)).collect();
                categorical.push(Categorical { column, codes });
            }
        }
    }
    Layer::Features { numeric, categorical }
}

fn config(schema: &Schema, features: Layer, hidden: usize) -> Config {
    let linear = |name: &str| Layer::Linear { weight: format!("{name}.weight"), bias: format!("{name}.bias") };
    let layers = match hidden {
        0 => vec![features, linear("out"), Layer::Sigmoid],
        _ => vec![features, linear("hidden"), Layer::Relu, linear("out"), Layer::Sigmoid],
    };
    Config {
        architecture: "sequential".into(),
        name: MODEL.into(),
        input: Input { kind: InputKind::F32be, shape: vec![schema.attributes.len()] },
        layers,
        output: vec![Output::F32be],
    }
}

/// A network in training.
struct Run {
    model: Sequential,
    optimiser: AdamW,
    inputs: Tensor,
    targets: Tensor,
}

impl Run {
    fn new(schema: &Schema, protected: bool, recipe: Recipe, training: &[Loan], seed: u64) -> Result<Self> {
        let features = features(schema, protected, training);
        let width = match &features {
            Layer::Features { numeric, categorical } => {
                numeric.len() + categorical.iter().map(|attribute| attribute.codes.len()).sum::<usize>()
            }
            _ => 0,
        };
        let parameter = |name, shape: &[usize]| Parameter { name, shape: shape.to_vec() };
        let Recipe { hidden, weight_decay, .. } = recipe;
        let parameters = match hidden {
            0 => vec![parameter("out.weight", &[1, width]), parameter("out.bias", &[1])],
            _ => vec![
                parameter("hidden.weight", &[hidden, width]),
                parameter("hidden.bias", &[hidden]),
                parameter("out.weight", &[1, hidden]),
                parameter("out.bias", &[1]),
            ],
        };
        let vars = sequential::initial(&parameters, &mut Random::new(seed, "weights"))?;
        let model = Sequential::trainable(config(schema, features, hidden), &vars)?;
        let settings = ParamsAdamW { lr: LEARNING_RATE, weight_decay, ..ParamsAdamW::default() };
        let optimiser = AdamW::new(vars.into_iter().map(|(_, var)| var).collect(), settings)?;
        let inputs = model.decode(&requests(training))?;
        let targets: Vec<f32> = training.iter().map(|loan| f32::from(u8::from(loan.defaulted))).collect();
        let targets = Tensor::from_vec(targets, (training.len(), 1), &Device::Cpu)?;
        Ok(Self { model, optimiser, inputs, targets })
    }

    /// One step on all loans: with 800 of them there is no need for batches.
    fn epoch(&mut self) -> Result<()> {
        let logits = self.model.logits(&self.inputs)?;
        let loss = candle_nn::loss::binary_cross_entropy_with_logit(&logits, &self.targets)?;
        self.optimiser.backward_step(&loss)?;
        Ok(())
    }
}

fn train(schema: &Schema, protected: bool, recipe: Recipe, training: &[Loan], seed: u64) -> Result<Sequential> {
    let mut run = Run::new(schema, protected, recipe, training, seed)?;
    for _ in 0..recipe.epochs {
        run.epoch()?;
    }
    Ok(run.model)
}

/// The width, weight decay and number of epochs with the least log-loss on the folds left out.
fn choose(schema: &Schema, training: &[Loan], widths: &[usize], seed: u64) -> Result<Recipe> {
    let folds = folds(training, seed);
    let mut best: Option<Recipe> = None;
    for hidden in widths {
        for weight_decay in DECAYS {
            let mut losses = vec![0.0; LOOKS];
            let recipe = Recipe { hidden: *hidden, weight_decay, epochs: 0, validation_log_loss: 0.0 };
            for (rest, fold) in &folds {
                let mut run = Run::new(schema, false, recipe, rest, seed)?;
                for loss in &mut losses {
                    for _ in 0..EPOCHS_PER_LOOK {
                        run.epoch()?;
                    }
                    *loss += scores::log_loss(&probabilities(&run.model, fold)?, &truth(fold)) / FOLDS as f64;
                }
            }
            let Some((look, loss)) = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)) else { continue };
            let recipe = Recipe { epochs: (look + 1) * EPOCHS_PER_LOOK, validation_log_loss: rounded(*loss), ..recipe };
            println!("  {hidden:2} hidden, decay {weight_decay}: log-loss {loss:.4} after {} epochs", recipe.epochs);
            if best.is_none_or(|best| recipe.validation_log_loss < best.validation_log_loss) {
                best = Some(recipe);
            }
        }
    }
    best.context("there is nothing to choose from")
}

/// For each fold: the other loans, and the loans of the fold.
fn folds(training: &[Loan], seed: u64) -> Vec<(Vec<Loan>, Vec<Loan>)> {
    let mut random = Random::new(seed, "folds");
    let mut rest = training.to_vec();
    let mut parts = Vec::new();
    for left in (2..=FOLDS).rev() {
        let (others, part) = applicants::split(&rest, 1.0 / left as f64, &mut random);
        parts.push(part);
        rest = others;
    }
    parts.push(rest);
    (0..FOLDS)
        .map(|i| {
            let others = parts.iter().enumerate().filter(|(j, _)| *j != i).flat_map(|(_, part)| part.iter().cloned());
            (others.collect(), parts[i].clone())
        })
        .collect()
}

fn requests(loans: &[Loan]) -> Vec<Vec<u8>> {
    loans.iter().map(Loan::request).collect()
}

fn truth(loans: &[Loan]) -> Vec<bool> {
    loans.iter().map(|loan| loan.defaulted).collect()
}

fn probabilities(model: &Sequential, loans: &[Loan]) -> Result<Vec<f32>> {
    Ok(model.forward(&model.decode(&requests(loans))?)?.flatten_all()?.to_vec1()?)
}

fn score(probabilities: &[f32], loans: &[Loan]) -> Scores {
    let truth = truth(loans);
    let correct = scores::correct(probabilities, &truth, 0.5);
    let decisions = scores::confusion(probabilities, &truth, REFUSE_FROM);
    Scores {
        correct,
        accuracy: rounded(correct as f64 / loans.len() as f64),
        auc: rounded(scores::auc(probabilities, &truth)),
        brier: rounded(scores::brier(probabilities, &truth)),
        log_loss: rounded(scores::log_loss(probabilities, &truth)),
        cost: scores::cost(decisions),
        decisions,
    }
}

/// Trains and scores the two recipes on other splits. The recipes were chosen on 800 of these loans, so this shows the
/// spread; the score to quote is that of the held-out loans.
fn other_splits(schema: &Schema, loans: &[Loan], recipe: Recipe, logistic: Recipe, seed: u64) -> Result<OtherSplits> {
    let (mut network, mut regression) = (Vec::new(), Vec::new());
    for other in 1..=OTHER_SPLITS {
        let seed = seed.wrapping_add(1000 * other);
        let (training, held_out) = split(loans, seed);
        for (recipe, scores) in [(recipe, &mut network), (logistic, &mut regression)] {
            let model = train(schema, false, recipe, &training, seed)?;
            scores.push(score(&probabilities(&model, &held_out)?, &held_out));
        }
    }
    let column = |scores: &[Scores], value: fn(&Scores) -> f64| -> Vec<f64> { scores.iter().map(value).collect() };
    let mean = |values: &[f64]| rounded(scores::mean(values.iter().copied()));
    let deviation = |values: &[f64]| rounded(scores::deviation(values));
    let accuracy = column(&network, |s| s.accuracy);
    let auc = column(&network, |s| s.auc);
    let cost = column(&network, |s| s.cost as f64);
    Ok(OtherSplits {
        splits: OTHER_SPLITS,
        accuracy_mean: mean(&accuracy),
        accuracy_deviation: deviation(&accuracy),
        auc_mean: mean(&auc),
        auc_deviation: deviation(&auc),
        cost_mean: mean(&cost),
        cost_deviation: deviation(&cost),
        logistic_auc_mean: mean(&column(&regression, |s| s.auc)),
        logistic_cost_mean: mean(&column(&regression, |s| s.cost as f64)),
    })
}

/// What is recorded and does not follow from the weights.
struct Comparison {
    seed: u64,
    training_loans: usize,
    recipe: Recipe,
    logistic_recipe: Recipe,
    logistic: Scores,
    with_protected: Scores,
    other_splits: OtherSplits,
}

/// Scores the model in `folder` on the held-out loans, with the weights as they are in the file.
fn measure(folder: &Path, schema: &Schema, comparison: Comparison, held_out: &[Loan]) -> Result<CreditMetrics> {
    let model = Sequential::load(folder)?;
    let path = folder.join("model.safetensors");
    let weights = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let probabilities = probabilities(&model, held_out)?;
    let served = engine::outputs(folder, requests(held_out))?
        .iter()
        .map(|output| Ok(f32::from_bits(engine::first_word(output)?)))
        .collect::<Result<Vec<f32>>>()?;
    let Comparison { seed, training_loans, recipe, logistic_recipe, logistic, with_protected, other_splits } =
        comparison;
    Ok(CreditMetrics {
        model: MODEL.into(),
        seed,
        training_loans,
        held_out_loans: held_out.len(),
        held_out_defaults: held_out.iter().filter(|loan| loan.defaulted).count(),
        parameters: model.parameters(),
        weights_bytes: weights.len(),
        weights_sha256: dataset::sha256(&weights),
        recipe,
        held_out: score(&probabilities, held_out),
        engine: score(&served, held_out),
        calibration: scores::calibration(&probabilities, &truth(held_out), 5),
        groups: groups(schema, &probabilities, held_out)?,
        logistic_recipe,
        logistic,
        with_protected,
        other_splits,
    })
}

/// Leaving age out of the features does not make the decisions alike: other attributes go with it.
fn groups(schema: &Schema, probabilities: &[f32], held_out: &[Loan]) -> Result<Vec<Group>> {
    let age =
        schema.attributes.iter().find(|attribute| attribute.key == "age_years").context("no age in schema.json")?;
    let group = |name: &str, young: bool| {
        let (p, t): (Vec<f32>, Vec<bool>) = probabilities
            .iter()
            .zip(held_out)
            .filter(|(_, loan)| (loan.values[age.column] <= 25) == young)
            .map(|(p, loan)| (*p, loan.defaulted))
            .unzip();
        Group { name: name.into(), decisions: scores::confusion(&p, &t, REFUSE_FROM) }
    };
    Ok(vec![group("25 years or younger", true), group("older", false)])
}

/// Scores the committed weights again, and compares the committed held-out loans with the data and the split. The
/// figures of the models that are not shipped (logistic regression and so on) are taken as recorded.
fn check(committed: &Path, schema: &Schema, loans: &[Loan]) -> Result<()> {
    let recorded: CreditMetrics = report::load(committed)?;
    let (training, held_out) = split(loans, recorded.seed);
    ensure!(schema.read_csv(&committed.join("heldout.csv"))? == held_out, "heldout.csv is not the split of this seed");
    let comparison = Comparison {
        seed: recorded.seed,
        training_loans: training.len(),
        recipe: recorded.recipe,
        logistic_recipe: recorded.logistic_recipe,
        logistic: recorded.logistic.clone(),
        with_protected: recorded.with_protected.clone(),
        other_splits: recorded.other_splits,
    };
    let found = measure(committed, schema, comparison, &held_out)?;
    println!("{}\n", found.card());
    report::compare(&recorded, &found)
}

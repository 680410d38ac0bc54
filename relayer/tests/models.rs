//! The embedded models are what their files say: candle, given the committed weights and the committed held-out data,
//! gives the recorded scores. Needs no network, no data but what is in the repository, and no GPU.

#[path = "../examples/common/mod.rs"]
mod common;

use candle_core::DType;
use candor_relayer::input::picture::Picture;
use common::{
    applicants::{Kind, Loan, Schema},
    dataset,
    digits::{self, Digit},
    engine,
    metrics::{CreditMetrics, DigitMetrics},
    options::Options,
    report::Metrics,
    scores::{self, REFUSE_FROM},
    sequential::{InputKind, Layer, Output, Sequential},
};
use serde_json::Value;
use std::{fs, path::Path};

/// Everything below `relayer/models`: weights, held-out data, cards and scripts.
const SIZE_LIMIT: u64 = 2_000_000;

fn metrics(model: &str) -> Value {
    let path = Options::committed(model).join("metrics.json");
    serde_json::from_str(&fs::read_to_string(&path).expect("metrics.json")).expect("valid JSON")
}

fn schema() -> Schema {
    let path = Options::committed("credit").join("schema.json");
    Schema::parse(&fs::read_to_string(path).expect("schema.json")).expect("a valid schema")
}

fn held_out_loans() -> Vec<Loan> {
    schema().read_csv(&Options::committed("credit").join("heldout.csv")).expect("heldout.csv")
}

fn answers(model: &Sequential, images: &[Vec<u8>]) -> Vec<u32> {
    let output = model.forward(&model.decode(images).expect("images")).expect("answers");
    output.argmax(1).expect("classes").to_vec1().expect("classes")
}

#[test]
fn models_fit_into_two_megabytes() {
    fn size(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
        entries
            .map(|entry| match entry.metadata().expect("metadata") {
                metadata if metadata.is_dir() => size(&entry.path()),
                metadata => metadata.len(),
            })
            .sum()
    }
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let total = size(&models);
    assert!(total > 400_000, "only {total} bytes: something is missing");
    assert!(total <= SIZE_LIMIT, "{total} bytes");
}

#[test]
fn recorded_weights_are_the_committed_ones() {
    for (model, dtype) in [("credit", DType::F32), ("digits", DType::F16)] {
        let path = Options::committed(model).join("model.safetensors");
        let bytes = fs::read(&path).expect("weights");
        let metrics = metrics(model);
        assert_eq!(metrics["weights_sha256"], dataset::sha256(&bytes), "{model}");
        assert_eq!(metrics["weights_bytes"], bytes.len(), "{model}");
        let tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).expect("tensors");
        assert!(tensors.values().all(|tensor| tensor.dtype() == dtype), "{model}");
        assert_eq!(metrics["parameters"], tensors.values().map(|tensor| tensor.elem_count()).sum::<usize>(), "{model}");
    }
}

/// The numbers in the cards are those in `metrics.json`.
#[test]
fn cards_agree_with_metrics() {
    fn agrees<M: Metrics>(model: &str) {
        let folder = Options::committed(model);
        let card = fs::read_to_string(folder.join("MODEL_CARD.md")).expect("a card");
        let metrics: M = common::report::load(&folder).expect("metrics.json");
        let generated = common::report::with_metrics(&card, &metrics).expect("a generated part");
        assert!(generated == card, "the figures in the card of {model} are not those in metrics.json");
    }
    agrees::<CreditMetrics>("credit");
    agrees::<DigitMetrics>("digits");
}

#[test]
fn credit_gives_the_recorded_scores_on_the_held_out_loans() {
    let model = Sequential::load(&Options::committed("credit")).expect("the model");
    let loans = held_out_loans();
    let requests: Vec<Vec<u8>> = loans.iter().map(Loan::request).collect();
    assert!(requests.iter().all(|request| request.len() == 80));
    let output = model.forward(&model.decode(&requests).expect("requests")).expect("probabilities");
    assert_eq!(output.dims(), [200, 1]);
    let probabilities: Vec<f32> = output.flatten_all().and_then(|p| p.to_vec1()).expect("probabilities");
    assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)));
    let truth: Vec<bool> = loans.iter().map(|loan| loan.defaulted).collect();

    let recorded = &metrics("credit")["held_out"];
    assert_eq!(recorded["correct"], scores::correct(&probabilities, &truth, 0.5));
    assert_eq!(recorded["auc"], scores::rounded(scores::auc(&probabilities, &truth)));
    assert_eq!(recorded["cost"], scores::cost(scores::confusion(&probabilities, &truth, REFUSE_FROM)));
}

/// What the chain is told: the committed folders, imported and run by the relayer's engine.
#[test]
fn engine_gives_the_recorded_scores() {
    let loans = held_out_loans();
    let outputs = engine::outputs(&Options::committed("credit"), loans.iter().map(Loan::request).collect());
    let outputs = outputs.expect("probabilities");
    assert!(outputs.iter().all(|output| output.len() == 4));
    let word = |output: &Vec<u8>| engine::first_word(output).expect("four bytes");
    let probabilities: Vec<f32> = outputs.iter().map(|output| f32::from_bits(word(output))).collect();
    let truth: Vec<bool> = loans.iter().map(|loan| loan.defaulted).collect();
    let recorded = &metrics("credit")["engine"];
    assert_eq!(recorded["correct"], scores::correct(&probabilities, &truth, 0.5));
    assert_eq!(recorded["cost"], scores::cost(scores::confusion(&probabilities, &truth, REFUSE_FROM)));

    let folder = Options::committed("digits");
    let sample = digits::read_records(&folder.join("heldout.bin")).expect("heldout.bin");
    let images: Vec<Vec<u8>> = sample.iter().map(|digit| digit.pixels.clone()).collect();
    let outputs = engine::outputs(&folder, images.clone()).expect("classes");
    assert!(outputs.iter().all(|output| output.len() == 44));
    let classes: Vec<u32> = outputs.iter().map(word).collect();
    assert_eq!(classes, answers(&Sequential::load(&folder).expect("the model"), &images));
}

/// Age, sex and foreign worker are sent and ignored; every other attribute is used, and only with codes that exist.
#[test]
fn credit_features_follow_the_schema() {
    let schema = schema();
    let model = Sequential::load(&Options::committed("credit")).expect("the model");
    assert_eq!(model.config.input.kind, InputKind::F32be);
    assert_eq!(model.config.input.shape, [schema.attributes.len()]);
    assert_eq!(model.config.output, [Output::F32be]);
    let Some(Layer::Features { numeric, categorical }) = model.config.layers.first() else { panic!("no features") };
    for attribute in &schema.attributes {
        let as_number = numeric.iter().filter(|feature| feature.column == attribute.column).count();
        let as_codes: Vec<_> = categorical.iter().filter(|feature| feature.column == attribute.column).collect();
        match &attribute.kind {
            _ if attribute.protected => assert!(as_number == 0 && as_codes.is_empty(), "{}", attribute.key),
            Kind::Numeric { .. } => assert!(as_number == 1 && as_codes.is_empty(), "{}", attribute.key),
            Kind::Categorical { codes } => {
                assert!(as_number == 0 && as_codes.len() == 1, "{}", attribute.key);
                let known = |code: &u32| codes.iter().any(|known| known.code == *code);
                assert!(as_codes[0].codes.iter().all(known), "{}", attribute.key);
            }
        }
    }
    let protected: Vec<&str> = schema.attributes.iter().filter(|a| a.protected).map(|a| a.key.as_str()).collect();
    assert_eq!(protected, ["personal_status_sex", "age_years", "foreign_worker"]);
}

/// Keys and labels can be typed on a command line (`key=value,...`), and the held-out loans stay within the schema.
#[test]
fn schema_is_usable_and_covers_the_held_out_loans() {
    let plain = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let schema = schema();
    let loans = held_out_loans();
    for attribute in &schema.attributes {
        assert!(plain(&attribute.key) && !attribute.description.is_empty(), "{}", attribute.key);
        let values: Vec<u32> =
            loans.iter().map(|loan| loan.values[attribute.column]).chain([attribute.typical]).collect();
        match &attribute.kind {
            Kind::Numeric { unit, minimum, maximum } => {
                assert!(!unit.is_empty(), "{}", attribute.key);
                assert!(values.iter().all(|value| (minimum..=maximum).contains(&value)), "{}", attribute.key);
            }
            Kind::Categorical { codes } => {
                let mut labels: Vec<&str> = codes.iter().map(|code| code.key.as_str()).collect();
                assert!(codes.iter().all(|code| plain(&code.key) && !code.meaning.is_empty()), "{}", attribute.key);
                labels.sort_unstable();
                labels.dedup();
                assert_eq!(labels.len(), codes.len(), "{}: two codes share a label", attribute.key);
                assert!(values.iter().all(|value| (*value as usize) < codes.len()), "{}", attribute.key);
            }
        }
    }
}

#[test]
fn digits_gives_the_recorded_accuracy_on_the_sample() {
    let folder = Options::committed("digits");
    let model = Sequential::load(&folder).expect("the model");
    assert_eq!(model.config.input.kind, InputKind::U8);
    assert_eq!(model.config.input.shape, [1, 28, 28]);
    assert_eq!(model.config.output, [Output::Argmax { format: "u32be".into() }, Output::F32be]);
    let sample = digits::read_records(&folder.join("heldout.bin")).expect("heldout.bin");
    let images: Vec<Vec<u8>> = sample.iter().map(|digit| digit.pixels.clone()).collect();
    let right = |(answer, digit): &(u32, &Digit)| *answer == u32::from(digit.label);
    let correct = answers(&model, &images).into_iter().zip(&sample).filter(right).count();

    let recorded = metrics("digits");
    assert_eq!(recorded["sample_images"], sample.len());
    assert_eq!(recorded["sample_correct"], correct);
    // The claim of the README, on the whole test set.
    assert!(recorded["test_correct"].as_u64() >= Some(9_900), "{}", recorded["test_correct"]);
    assert_eq!(recorded["test_images"], 10_000);
}

/// The PNG files, through the preparation that the relayer gives to a user's picture.
#[test]
fn digits_reads_the_sample_pictures() {
    let folder = Options::committed("digits");
    let model = Sequential::load(&folder).expect("the model");
    for (name, expected) in [("seven.png", 7), ("eight.png", 8), ("drawn-three.png", 3)] {
        let picture = Picture::open(&folder.join("samples").join(name)).expect(name);
        let pixels = picture.to_digit().expect(name).to_vec();
        assert_eq!(answers(&model, &[pixels]), [expected], "{name}");
    }
}

/// The scores, on six loans that can be scored by hand.
#[test]
fn scores_are_what_their_names_say() {
    let probabilities = [0.9, 0.5, 0.5, 0.2, 0.1, 0.1];
    let truth = [true, true, false, false, true, false];
    assert_eq!(scores::correct(&probabilities, &truth, 0.5), 4);
    // Of nine pairs five are ranked right (all three of 0.9; 0.5 above 0.2 and 0.1) and two are ties.
    assert_eq!(scores::auc(&probabilities, &truth), 6.0 / 9.0);
    assert_eq!(scores::auc(&[0.1, 0.9], &[true, false]), 0.0);
    // Refused: 0.9, both 0.5 and 0.2. Granted: one default (5); refused though paid back: two (1 each).
    let decisions = scores::confusion(&probabilities, &truth, REFUSE_FROM);
    assert_eq!(decisions, [[1, 2], [1, 2]]);
    assert_eq!(scores::cost(decisions), 7);
    assert_eq!(scores::brier(&[0.5, 1.0], &[true, true]), 0.125);
    assert_eq!(scores::log_loss(&[0.5, 0.5], &[true, false]), 2.0_f64.ln());
    let bins = scores::calibration(&[0.75, 0.25, 0.25, 0.75], &[true, false, true, true], 2);
    let rows: Vec<_> = bins.iter().map(|bin| (bin.loans, bin.predicted, bin.observed)).collect();
    assert_eq!(rows, [(2, 0.25, 0.5), (2, 0.75, 1.0)]);
}

/// The training form of a convolution is the convolution: integers small enough to be exact in any order.
#[test]
fn unfolded_convolution_is_conv2d() {
    use candle_core::{Device, Tensor, Var};
    let mut random = common::random::Random::new(7, "unfold");
    let mut integers = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.below(15) as f32 - 7.0).collect();
        Var::from_vec(values, shape, &Device::Cpu).expect("a tensor")
    };
    let (input, weight) = (integers(&[3, 2, 7, 6]), integers(&[4, 2, 3, 3]));
    let upstream = integers(&[3, 4, 5, 4]);
    let run = |out: Tensor| {
        let gradients = (&out * upstream.as_tensor()).and_then(|y| y.sum_all()?.backward()).expect("gradients");
        let list = |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
        let gradient = |var: &Var| list(gradients.get(var).expect("a gradient"));
        (out.dims().to_vec(), list(&out), gradient(&input), gradient(&weight))
    };
    let unfolded = run(common::unfold::conv2d(&input, &weight).expect("unfold"));
    assert_eq!(unfolded, run(input.conv2d(&weight, 0, 1, 1, 1).expect("conv2d")));
}

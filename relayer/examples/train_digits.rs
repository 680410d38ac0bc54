//! Trains the digit network in `relayer/models/digits` on MNIST, with candle's AdamW, on one or two CPU cores.
//!
//! ```text
//! relayer/models/fetch.sh
//! cargo run --release -p candor-relayer --example train_digits                 # trains into target/train/digits
//! cargo run --release -p candor-relayer --example train_digits -- --check      # scores the committed weights
//! ```

mod common;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, backprop::GradStore};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use candor_relayer::input::picture::Picture;
use clap::Parser;
use common::{
    dataset,
    digits::{self, Digit, SIDE},
    engine,
    metrics::DigitMetrics,
    options::Options,
    random::Random,
    report::{self, Metrics},
    scores::rounded,
    sequential::{self, Config, Input, InputKind, Layer, Output, Parameter, Sequential},
};
use std::{path::Path, time::Instant};

const MODEL: &str = "digits";
const EPOCHS: usize = 10;
const BATCH: usize = 64;
const LEARNING_RATE: f64 = 3e-3;
const WEIGHT_DECAY: f64 = 1e-2;
/// The repository holds every twentieth test image.
const SAMPLE_EVERY: usize = 20;
/// Test images that are also in the repository as PNG files: position and file name.
const PNG_SAMPLES: [(usize, &str); 2] = [(0, "seven.png"), (61, "eight.png")];
/// A larger picture, dark on paper, drawn by a formula.
const DRAWN: &str = "drawn-three.png";

fn config() -> Config {
    let conv2d = |name: &str| Layer::Conv2d {
        weight: format!("{name}.weight"),
        bias: format!("{name}.bias"),
        stride: 1,
        padding: 0,
    };
    let linear = |name: &str| Layer::Linear { weight: format!("{name}.weight"), bias: format!("{name}.bias") };
    Config {
        architecture: "sequential".into(),
        name: MODEL.into(),
        input: Input { kind: InputKind::U8, shape: vec![1, SIDE, SIDE] },
        layers: vec![
            Layer::Scale { by: 1.0 / 255.0 },
            conv2d("conv1"),
            Layer::MaxPool2d { size: 2 },
            Layer::Relu,
            conv2d("conv2"),
            Layer::MaxPool2d { size: 2 },
            Layer::Relu,
            Layer::Flatten,
            linear("fc1"),
            Layer::Relu,
            linear("fc2"),
            Layer::Softmax,
        ],
        output: vec![Output::Argmax { format: "u32be".into() }, Output::F32be],
    }
}

fn parameters() -> [Parameter; 8] {
    let parameter = |name, shape: &[usize]| Parameter { name, shape: shape.to_vec() };
    [
        parameter("conv1.weight", &[8, 1, 5, 5]),
        parameter("conv1.bias", &[8]),
        parameter("conv2.weight", &[24, 8, 5, 5]),
        parameter("conv2.bias", &[24]),
        parameter("fc1.weight", &[64, 24 * 4 * 4]),
        parameter("fc1.bias", &[64]),
        parameter("fc2.weight", &[10, 64]),
        parameter("fc2.bias", &[10]),
    ]
}

fn main() -> Result<()> {
    let options = Options::parse();
    let test = digits::load(&options.data, "t10k")?;
    let committed = Options::committed(MODEL);
    if options.check {
        return check(&committed, &test);
    }
    let out = options.out(MODEL);
    let training = digits::load(&options.data, "train")?;
    println!("{} training images, {} test images, seed {}", training.len(), test.len(), options.seed);

    let start = Instant::now();
    let model = train(&training, options.seed)?;
    println!("trained in {:.0} s", start.elapsed().as_secs_f64());

    // Scored as stored: rounded to f16 and read back from the file.
    model.save(&out, DType::F16)?;
    let sample: Vec<Digit> = test.iter().step_by(SAMPLE_EVERY).cloned().collect();
    write_sample(&out, &test, &sample)?;
    let recipe = Recipe { seed: options.seed, epochs: EPOCHS, training_images: training.len() };
    let metrics = measure(&out, recipe, &test)?;
    report::save(&out, &metrics)?;
    println!("\n{}\n\nwritten to {}", metrics.card(), out.display());
    report::against_committed::<DigitMetrics>(&committed, &out)
}

fn train(training: &[Digit], seed: u64) -> Result<Sequential> {
    let vars = sequential::initial(&parameters(), &mut Random::new(seed, "weights"))?;
    let model = Sequential::trainable(config(), &vars)?;
    println!("{} parameters", model.parameters());
    let settings = ParamsAdamW { lr: LEARNING_RATE, weight_decay: WEIGHT_DECAY, ..ParamsAdamW::default() };
    let mut optimiser = AdamW::new(vars.into_iter().map(|(_, var)| var).collect(), settings)?;
    let mut shuffle = Random::new(seed, "order");
    let mut jitter = Random::new(seed, "augmentation");
    let mut order: Vec<&Digit> = training.iter().collect();
    let steps = (EPOCHS * training.len().div_ceil(BATCH)) as f64;
    let mut step = 0.0;
    for epoch in 1..=EPOCHS {
        let start = Instant::now();
        shuffle.shuffle(&mut order);
        let (mut total, mut correct) = (0.0, 0);
        for batch in order.chunks(BATCH) {
            // Half a cosine, from the full rate to nothing, after a short warm-up.
            let warm_up = f64::min(1.0, (step + 1.0) / 200.0);
            optimiser
                .set_learning_rate(LEARNING_RATE * warm_up * 0.5 * (1.0 + (std::f64::consts::PI * step / steps).cos()));
            let images: Vec<Vec<u8>> =
                batch.iter().map(|digit| digits::augmented(&digit.pixels, &mut jitter)).collect();
            let labels: Vec<u32> = batch.iter().map(|digit| u32::from(digit.label)).collect();
            let logits = model.logits(&model.decode(&images)?)?;
            let targets = Tensor::new(labels.as_slice(), &Device::Cpu)?;
            let loss = candle_nn::loss::cross_entropy(&logits, &targets)?;
            let gradients: GradStore = loss.backward()?;
            optimiser.step(&gradients)?;
            total += f64::from(loss.to_scalar::<f32>()?) * batch.len() as f64;
            correct += logits.argmax(1)?.to_vec1::<u32>()?.iter().zip(&labels).filter(|(a, b)| a == b).count();
            step += 1.0;
        }
        println!(
            "epoch {epoch:2}: loss {:.4}, {:.2} % of the augmented training images, {:.0} s",
            total / training.len() as f64,
            100.0 * correct as f64 / training.len() as f64,
            start.elapsed().as_secs_f64()
        );
    }
    Ok(model)
}

/// What the model says to each image.
fn answers(model: &Sequential, digits: &[Digit]) -> Result<Vec<u32>> {
    let mut answers = Vec::with_capacity(digits.len());
    for batch in digits.chunks(200) {
        let images: Vec<Vec<u8>> = batch.iter().map(|digit| digit.pixels.clone()).collect();
        answers.extend(model.forward(&model.decode(&images)?)?.argmax(1)?.to_vec1::<u32>()?);
    }
    Ok(answers)
}

/// How a model was made.
struct Recipe {
    seed: u64,
    epochs: usize,
    training_images: usize,
}

/// Scores the model in `folder` on the whole test set, with the weights as they are in the file.
fn measure(folder: &Path, recipe: Recipe, test: &[Digit]) -> Result<DigitMetrics> {
    let model = Sequential::load(folder)?;
    let path = folder.join("model.safetensors");
    let weights = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let answers = answers(&model, test)?;
    let mut confusion = vec![vec![0; 10]; 10];
    for (digit, answer) in test.iter().zip(&answers) {
        confusion[usize::from(digit.label)][*answer as usize] += 1;
    }
    let right: Vec<bool> = test.iter().zip(&answers).map(|(digit, answer)| u32::from(digit.label) == *answer).collect();
    let test_correct = right.iter().filter(|right| **right).count();
    let images = test.iter().map(|digit| digit.pixels.clone()).collect();
    let mut engine_correct = 0;
    for (output, digit) in engine::outputs(folder, images)?.iter().zip(test) {
        engine_correct += usize::from(engine::first_word(output)? == u32::from(digit.label));
    }
    let sample: Vec<bool> = right.iter().step_by(SAMPLE_EVERY).copied().collect();
    Ok(DigitMetrics {
        model: MODEL.into(),
        seed: recipe.seed,
        epochs: recipe.epochs,
        training_images: recipe.training_images,
        parameters: model.parameters(),
        weights_bytes: weights.len(),
        weights_sha256: dataset::sha256(&weights),
        test_images: test.len(),
        test_correct,
        test_accuracy: rounded(test_correct as f64 / test.len() as f64),
        engine_correct,
        confusion,
        sample_images: sample.len(),
        sample_correct: sample.iter().filter(|right| **right).count(),
    })
}

/// Writes `heldout.bin` and the PNG files.
fn write_sample(out: &Path, test: &[Digit], sample: &[Digit]) -> Result<()> {
    let path = out.join("heldout.bin");
    std::fs::write(&path, digits::to_records(sample)).with_context(|| format!("cannot write {}", path.display()))?;
    let folder = out.join("samples");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (index, name) in PNG_SAMPLES {
        digits::write_png(&folder.join(name), SIDE, &test[index].pixels)?;
    }
    digits::write_png(&folder.join(DRAWN), 10 * SIDE, &digits::drawn_three(10 * SIDE))
}

/// Scores the committed weights again, and compares the committed sample with the data it was taken from.
fn check(committed: &Path, test: &[Digit]) -> Result<()> {
    let sample: Vec<Digit> = test.iter().step_by(SAMPLE_EVERY).cloned().collect();
    ensure!(digits::read_records(&committed.join("heldout.bin"))? == sample, "heldout.bin is not from this test set");
    for (index, name) in PNG_SAMPLES {
        let pixels = Picture::open(&committed.join("samples").join(name))?.to_digit()?;
        ensure!(pixels.as_slice() == test[index].pixels, "{name} is not test image {index}");
    }
    let recorded: DigitMetrics = report::load(committed)?;
    let DigitMetrics { seed, epochs, training_images, .. } = recorded;
    let found = measure(committed, Recipe { seed, epochs, training_images }, test)?;
    println!("{}\n", found.card());
    report::compare(&recorded, &found)
}

//! `candor demo`: a whole world on this machine, and what happens in it, told.
//!
//! Starts a chain, puts the contracts on it, registers the embedded models and an operator, and starts the relayer by the same entry as
//! `candor run`. Two contracts then ask real questions: loans and digits that the models have never seen. When every answer is final and paid,
//! the accounts are added up. Nothing is left running.

mod consumers;
pub mod event;
mod liar;
pub mod narrator;
mod story;
mod world;

pub use consumers::abi;

use crate::{
    input::{
        applicant::Applicant,
        heldout,
        picture::{Digit, Picture},
    },
    pipeline,
};
use alloy::{eips::BlockId, primitives::U256, providers::Provider};
use anyhow::{Context as _, bail};
use candor_sdk::bindings::Delivery;
use consumers::Question;
use event::Event;
use narrator::Narrator;
use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use story::Story;
use tokio::{sync::broadcast, task::JoinSet};
use tokio_util::sync::CancellationToken;
use world::{PRICE, World};

/// The longest that a demo may take: a little less than the minute that is promised.
const PATIENCE: Duration = Duration::from_secs(55);

/// What the demo asks.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Held-out inputs for each model.
    pub per_model: usize,
    /// A picture of the person's own, with its name.
    pub image: Option<(PathBuf, Box<Digit>)>,
    /// A loan application of the person's own.
    pub applicant: Option<Applicant>,
    /// Whether there is a second act, in which an operator lies.
    pub liar: bool,
}

impl Plan {
    /// Reads the person's own inputs, so that a slip in them is found before anything is started.
    pub fn new(per_model: usize, image: Option<&Path>, applicant: Option<&str>) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            let digit = Picture::open(path).and_then(|picture| picture.to_digit());
            digit.with_context(|| format!("picture {}", path.display()))
        };
        let image = image.map(|path| read(path).map(|digit| (path.to_owned(), Box::new(digit)))).transpose()?;
        let applicant = applicant.map(|text| heldout::schema().read(text)).transpose()?;
        if per_model == 0 && image.is_none() && applicant.is_none() {
            bail!("there is nothing to ask");
        }
        Ok(Self { per_model, image, applicant, liar: true })
    }

    fn questions(&self, world: &World) -> anyhow::Result<Vec<Question>> {
        let schema = heldout::schema();
        let mut questions = Vec::new();
        // Loans that were repaid and loans that were not, in turn; and a different digit each time.
        let (bad, good): (Vec<_>, Vec<_>) = heldout::loans().into_iter().partition(|loan| loan.default);
        let loans = good.into_iter().zip(bad).flat_map(|(good, bad)| [good, bad]);
        let digits = (0..).map(|turn| [7u8, 2, 0, 4, 9, 5, 3, 6, 8, 1][turn % 10]);
        let mut unseen = heldout::digits();
        for (turn, (loan, wanted)) in loans.zip(digits).take(self.per_model).enumerate() {
            let outcome = if loan.default { "went bad" } else { "was repaid" };
            let text = format!("{} (this loan {outcome})", schema.summary(&loan.applicant));
            // Both deliveries for both models.
            let (one, other) = match turn % 2 {
                0 => (Delivery::Optimistic, Delivery::Final),
                _ => (Delivery::Final, Delivery::Optimistic),
            };
            questions.push(Question::loan(world.desk, &loan.applicant, text, one)?);
            let (label, digit) =
                unseen.find(|(label, _)| *label == wanted).context("the held-out digits have all ten")?;
            let text = format!("which digit is this? (it is a {label})");
            questions.push(Question::digit(world.reader, digit, text, other));
        }
        if let Some((path, digit)) = &self.image {
            let text = format!("which digit is in {}?", path.display());
            questions.push(Question::digit(world.reader, digit, text, Delivery::Optimistic));
        }
        if let Some(applicant) = &self.applicant {
            let text = format!("your application: {}", schema.summary(applicant));
            questions.push(Question::loan(world.desk, applicant, text, Delivery::Optimistic)?);
        }
        Ok(questions)
    }
}

/// Runs the demo until it is over, `stop` is cancelled, or it takes too long.
pub async fn run<W: Write>(plan: &Plan, mut narrator: Narrator<W>, stop: CancellationToken) -> anyhow::Result<()> {
    let started = Instant::now();
    // Dropped on every way out, and with it everything that the demo made.
    let folder = tempfile::Builder::new().prefix("candor-demo").tempdir().context("no room for a database")?;
    let world = tokio::select! {
        world = World::make(&mut narrator) => world?,
        () = stop.cancelled() => bail!("interrupted"),
    };
    let questions = plan.questions(&world)?;
    let payout_at = U256::from(PRICE.0) * U256::from(questions.len());
    let (reporter, mut progress) = broadcast::channel(4096);
    let relayer_stop = CancellationToken::new();
    let settings = world.relayer_settings(folder.path(), payout_at);
    let relayer = pipeline::spawn(settings, reporter, relayer_stop.clone()).await?;
    let device = world.models.values().map(|model| model.runner().device()).next().unwrap_or_default();
    let models = crate::config::ModelSource::BUILTIN.iter().map(|name| (*name).to_owned()).collect();
    narrator.tell(&Event::RelayerStarted { device, models })?;

    let asked_at = Instant::now();
    let requests = questions.len();
    let mut story = Story::new(&mut narrator, &world);
    let told = async {
        let mut receipts = ask_all(&world, questions).await?;
        let mut clock = tokio::time::interval(Duration::from_millis(200));
        while !story.ended(requests) {
            tokio::select! {
                Some(asked) = receipts.join_next() => {
                    let (question, value, receipt) = asked.context("a question was lost")??;
                    story.asked(&question, value, receipt).await?;
                }
                Ok(progress) = progress.recv() => story.happened(progress).await?,
                _ = clock.tick() => story.look().await?,
            }
        }
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        told = tokio::time::timeout(PATIENCE.saturating_sub(started.elapsed()), told) => told.ok().context("the demo took too long"),
        () = relayer_stop.cancelled() => Err(anyhow::anyhow!("the relayer stopped")),
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    let outcome = outcome.and_then(|told| told);
    let mut balanced = true;
    if outcome.is_ok() {
        let seconds = asked_at.elapsed().as_secs_f64();
        balanced = story.account().await?;
        story.finished(requests, seconds)?;
    }
    let all = story.finalized() == requests;
    let finalized = story.finalized();
    let outcome = match outcome {
        Ok(()) if balanced && all && plan.liar => {
            let left = PATIENCE.saturating_sub(started.elapsed());
            tokio::select! {
                played = tokio::time::timeout(left, liar::play(&world, &mut narrator, folder.path())) => {
                    played.ok().context("the demo took too long").and_then(|played| played).map(|adds_up| balanced &= adds_up)
                }
                () = relayer_stop.cancelled() => Err(anyhow::anyhow!("the relayer stopped")),
                () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
            }
        }
        outcome => outcome,
    };
    let stopped = relayer.stop().await;
    outcome?;
    stopped?;
    if finalized < requests {
        bail!("{} of {requests} requests were not answered", requests - finalized);
    }
    if !balanced {
        bail!("the accounts do not add up");
    }
    Ok(())
}

type Asked = anyhow::Result<(Question, U256, alloy::rpc::types::TransactionReceipt)>;

/// Sends all questions, one after the other so that they are numbered in this order, and hands back what waits for their receipts.
async fn ask_all(world: &World, questions: Vec<Question>) -> anyhow::Result<JoinSet<Asked>> {
    let client = &world.asker;
    let mut receipts = JoinSet::new();
    for question in questions {
        // As `InferenceConsumer` reckons: the fee, and a callback of 200,000 gas at twice the base fee and a tip. The base fee may rise by an
        // eighth with each of the two blocks until the transaction is in one. What is not needed stays with the contract.
        let block = client.provider().get_block(BlockId::latest()).await?.context("the chain has no block")?;
        let base_fee = block.header.base_fee_per_gas.unwrap_or_default() * 81 / 64;
        let value = U256::from(PRICE.0) + U256::from(200_000u64) * U256::from(2 * base_fee + 1_000_000_000);
        let call = question.call(value);
        let prepared = client.prepare_from(world.payer, call).await;
        let prepared = prepared.with_context(|| consumers::refused(&question, value))?;
        let sent = client.provider().send_transaction(prepared).await;
        let pending = sent.with_context(|| consumers::refused(&question, value))?;
        receipts.spawn(async move {
            let receipt = pending.get_receipt().await?;
            if !receipt.status() {
                bail!("{}", consumers::refused(&question, value));
            }
            Ok((question, value, receipt))
        });
    }
    Ok(receipts)
}

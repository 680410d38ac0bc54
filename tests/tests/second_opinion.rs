//! A watcher whose own engine is wrong: it puts no money on it, and if that happens in mid-game it says nothing false, and goes on when its engine is well.

use alloy::{primitives::U256, providers::Provider, sol_types::SolEvent};
use anyhow::{Context, Result, bail, ensure};
use candor_relayer::{
    dispute::{
        DisputeProgress, Player, Retrace,
        liar::Liar,
        opinion::Verdict,
        recheck::{self, Doubt},
        trace::{EngineTrace, Replayed, Visit},
    },
    engine::{InferError, InferRequest},
    pipeline::{Handle, Infer, Progress, WatcherSettings},
};
use candor_sdk::{
    bindings::{IDisputeGame, IOperatorRegistry, RequestStatus},
    dispute::Trace,
    program::{LEAF, Model, Tensor, TensorData, TraceBuilder},
};
use candor_tests::{
    Operator, World,
    world::{WINDOW, applicant, ether, image},
};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

/// Flips the lowest bit of some elements.
fn damage(tensor: &Tensor, which: Range<usize>) -> Tensor {
    let hit = |at: usize| u32::from(which.contains(&at));
    let data = match tensor.data() {
        TensorData::F32(x) => {
            TensorData::F32(x.iter().enumerate().map(|(at, x)| f32::from_bits(x.to_bits() ^ hit(at))).collect())
        }
        TensorData::U32(x) => TensorData::U32(x.iter().enumerate().map(|(at, x)| x ^ hit(at)).collect()),
        TensorData::U8(x) => TensorData::U8(x.iter().enumerate().map(|(at, x)| x ^ hit(at) as u8).collect()),
        TensorData::I8(x) => TensorData::I8(x.iter().enumerate().map(|(at, x)| x ^ hit(at) as i8).collect()),
    };
    Tensor::new(tensor.rows(), tensor.cols(), data)
}

/// An engine some of whose runs are wrong at some nodes.
#[derive(Debug)]
struct Broken {
    sound: Arc<dyn Infer>,
    /// What is wrong: nodes, and which of their elements.
    nodes: Vec<u32>,
    elements: Range<usize>,
    /// Which runs are wrong, counted from 0.
    runs: Range<usize>,
    run: AtomicUsize,
    healed: AtomicBool,
}

impl Broken {
    fn new(sound: Arc<dyn Infer>, nodes: Vec<u32>, elements: Range<usize>, runs: Range<usize>) -> Self {
        Self { sound, nodes, elements, runs, run: AtomicUsize::new(0), healed: AtomicBool::new(false) }
    }

    fn inner(&self) -> &dyn Retrace {
        self.sound.retrace().expect("the engine retraces")
    }
}

impl Infer for Broken {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        self.sound.infer(batch)
    }

    fn device(&self) -> String {
        self.sound.device()
    }

    fn retrace(&self) -> Option<&dyn Retrace> {
        Some(self)
    }
}

impl Retrace for Broken {
    fn model(&self) -> &Model {
        self.inner().model()
    }

    fn generate(&self, request: &InferRequest) -> Result<Vec<u32>, InferError> {
        self.inner().generate(request)
    }

    fn replay(&self, request: &InferRequest, generated: &[u32], visit: &mut Visit<'_>) -> Replayed {
        let run = self.run.fetch_add(1, Ordering::SeqCst);
        let wrong = self.runs.contains(&run) && !self.healed.load(Ordering::SeqCst);
        let mut trace = TraceBuilder::default();
        let (tree, failed) = self.inner().replay(request, generated, &mut |node, tensor| {
            let tensor = match wrong && self.nodes.contains(&node) {
                true => damage(tensor, self.elements.clone()),
                false => tensor.clone(),
            };
            trace.push(&tensor);
            visit(node, &tensor);
        })?;
        Ok((trace.finish(*tree.symbols()), failed))
    }
}

/// What the reference says of a run of a broken engine.
fn trace(world: &World, model: &str, input: Vec<u8>, nodes: Vec<u32>, elements: Range<usize>) -> Result<EngineTrace> {
    let broken = Arc::new(Broken::new(world.models[model].runner(), nodes, elements, 0..usize::MAX));
    let player = Player::new(model, broken).context("it can be retraced")?;
    Ok(EngineTrace::of(player, InferRequest { input, ..InferRequest::default() })?)
}

/// Whatever node of whatever model is wrong, be it as a whole or in one element: seen, named, and nothing is said of an engine that is right.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_wrong_is_found_out_and_one_that_is_right_is_not() -> Result<()> {
    let world = World::start().await?;
    for (model, input) in [("credit", applicant()), ("digits", image())] {
        let right = trace(&world, model, input.clone(), vec![], 0..0)?;
        for work in [1, recheck::WORK] {
            ensure!(recheck::run(&right, work)?.is_none(), "{model}: right, and doubted");
        }
        let nodes = u32::try_from(right.model().program.nodes.len())?;
        for node in 0..nodes {
            // A kernel that is wrong everywhere shows in the smallest sample.
            let wrong = trace(&world, model, input.clone(), vec![node], 0..usize::MAX)?;
            match recheck::run(&wrong, 1)? {
                Some(Doubt::Element { node: found, .. }) if found == node => {}
                other => bail!("{model}: node {node} is wrong, and the opinion is {other:?}"),
            }
            // A single element shows where everything is looked at, and in its leaf.
            let tensors = right.tensors(&[node])?;
            let tensor = &tensors[&node];
            let at = tensor.rows() * tensor.cols() * 2 / 3;
            let (row, col) = (at / tensor.cols(), at % tensor.cols());
            let wrong = trace(&world, model, input.clone(), vec![node], at..at + 1)?;
            let leaf = (row * tensor.leaves_per_row() + col / LEAF) as u64;
            for doubt in [recheck::run(&wrong, recheck::WORK)?, recheck::leaves(&wrong, node, leaf..leaf + 1, 1)?] {
                let Some(Doubt::Element { node: n, row: r, col: c, engine, reference }) = doubt else {
                    bail!("{model} node {node} [{row}, {col}]: {doubt:?}")
                };
                ensure!(
                    (n, r, c) == (node, row, col) && reference == Some(engine ^ 1),
                    "{model} node {node}: {doubt:?}"
                );
            }
        }
    }
    Ok(())
}

/// A chain, an operator, a watcher with an engine of its own.
struct Court {
    world: World,
    operator: Operator,
    folder: tempfile::TempDir,
    progress: broadcast::Receiver<Progress>,
    relayers: Vec<Handle>,
}

impl Court {
    /// The operator answers for the credit model with `answering`, the watcher looks with `watching`.
    async fn new(
        answering: impl FnOnce(&World) -> Result<Arc<dyn Infer>>,
        watching: impl FnOnce(&World) -> Arc<dyn Infer>,
    ) -> Result<Self> {
        let mut world = World::start_with_disputes().await?;
        let operator = world.operator(ether(5)).await?;
        let account = world.account().await?;
        let folder = tempfile::tempdir()?;
        let id = world.models["credit"].id();
        let (answering, watching) = (answering(&world)?, watching(&world));
        let mut relayers = Vec::new();
        let mut progress = None;
        for (name, infer) in [("operator", answering), ("watcher", watching)] {
            let home = folder.path().join(name);
            std::fs::create_dir_all(&home)?;
            let mut settings = world.settings(&home, Some(&operator));
            let models = &mut settings.operator.as_mut().context("no operator")?.models;
            models.get_mut(&id).context("not served")?.model = infer;
            if name == "watcher" {
                let models = settings.operator.take().context("no operator")?.models;
                settings.store = home.join("candor.db").into(); // a watcher shares no queue
                settings.watcher = Some(WatcherSettings {
                    account: account.clone().into(),
                    models,
                    cap: ether(1),
                    demand_inputs: false,
                });
            }
            let (reporter, reports) = broadcast::channel(4096);
            relayers.push(candor_relayer::pipeline::spawn(settings, reporter, CancellationToken::new()).await?);
            progress = Some(reports);
        }
        let progress = progress.context("no watcher")?;
        Ok(Self { world, operator, folder, progress, relayers })
    }

    /// The watcher's next report of some kind.
    async fn next<T>(&mut self, wanted: impl Fn(&DisputeProgress) -> Option<T>) -> Result<T> {
        let wait = async {
            loop {
                if let Progress::Dispute(report) = self.progress.recv().await?
                    && let Some(found) = wanted(&report)
                {
                    return anyhow::Ok(found);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(90), wait).await.context("nothing of that kind was reported")?
    }

    /// How many events of a kind the game has.
    async fn count<E: SolEvent>(&self) -> Result<usize> {
        let filter = alloy::rpc::types::Filter::new()
            .address(self.world.deployment.game)
            .event_signature(E::SIGNATURE_HASH)
            .from_block(0);
        Ok(self.world.client.provider().get_logs(&filter).await?.len())
    }

    async fn stake(&self) -> Result<U256> {
        let call = IOperatorRegistry::stakeOfCall { operator: self.operator.address() };
        Ok(self.world.client.view(self.world.client.operators, call).await?.stake)
    }

    async fn convicted(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.stake().await? == ether(5) {
            ensure!(Instant::now() < deadline, "the liar was not convicted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        for relayer in self.relayers {
            relayer.stop().await?;
        }
        drop(self.folder);
        Ok(())
    }
}

fn liar(world: &World) -> Result<Arc<dyn Infer>> {
    let truth = &world.models["credit"].imported().model;
    let request = InferRequest { input: applicant(), ..InferRequest::default() };
    let flip = Liar::telling(truth, 0, &request)?.context("some bit changes the answer")?;
    Ok(Arc::new(Liar::new(truth, flip)?))
}

/// The answer is right and the watcher's engine wrong, at one node and in what it answers: it keeps its bond, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_whose_engine_is_wrong_does_not_bond() -> Result<()> {
    let broken = |world: &World| -> Arc<dyn Infer> {
        let sound = world.models["credit"].runner();
        let last = u32::try_from(world.models["credit"].imported().model.program.nodes.len() - 1).unwrap_or_default();
        Arc::new(Broken::new(sound, vec![last / 2, last], 0..1, 0..usize::MAX))
    };
    let honest = |world: &World| Ok(world.models["credit"].runner());
    let mut court = Court::new(honest, broken).await?;
    let id = court.world.ask("credit", &applicant()).await?;
    let verdict = court
        .next(|report| match report {
            DisputeProgress::Examined { verdict, .. } => Some(verdict.clone()),
            _ => None,
        })
        .await?;
    let Verdict::Unsure(reason) = verdict else { bail!("the watcher finds it {verdict:?}") };
    ensure!(reason.contains("the reference says that the answer is RIGHT"), "{reason}");
    court.world.pass(WINDOW).await?;
    court.world.wait_for(id, RequestStatus::Finalized).await?;
    ensure!(court.count::<IDisputeGame::Challenged>().await? == 0, "it challenged a right answer");
    court.stop().await
}

/// The answer is wrong, the watcher has bonded, and then its engine breaks, at a node before the liar's: it makes no move by such a run, however long that
/// lasts, and wins when the engine is well again.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_whose_engine_breaks_in_mid_game_waits_until_it_is_well() -> Result<()> {
    // Its first run tells it that the answer is wrong; all others are broken.
    let mut engine = None;
    let broken = |world: &World| -> Arc<dyn Infer> {
        let broken = Arc::new(Broken::new(world.models["credit"].runner(), vec![1], 0..1, 1..usize::MAX));
        engine = Some(broken.clone());
        broken
    };
    let mut court = Court::new(liar, broken).await?;
    court.world.ask("credit", &applicant()).await?;
    let doubted = |report: &DisputeProgress| match report {
        DisputeProgress::Doubted { doubt, .. } => Some(doubt.clone()),
        _ => None,
    };
    for _ in 0..2 {
        let doubt = court.next(doubted).await?;
        ensure!(doubt.starts_with("node 1, row 0, column 0"), "{doubt}");
    }
    ensure!(court.count::<IDisputeGame::Challenged>().await? == 1, "one challenge");
    ensure!(court.count::<IDisputeGame::Moved>().await? == 0, "it moved by a run that is wrong");
    engine.context("no engine")?.healed.store(true, Ordering::SeqCst);
    court.convicted().await?;
    court.stop().await
}

/// A machine that fails in one run, whichever it is, and gets all of it wrong: the game is won all the same.
async fn one_run_fails(run: usize) -> Result<()> {
    let broken = |world: &World| -> Arc<dyn Infer> {
        let all = 0..u32::try_from(world.models["credit"].imported().model.program.nodes.len()).unwrap_or_default();
        Arc::new(Broken::new(world.models["credit"].runner(), all.collect(), 0..usize::MAX, run..run + 1))
    };
    let mut court = Court::new(liar, broken).await?;
    court.world.ask("credit", &applicant()).await?;
    court.convicted().await?;
    let lost = court.next(|report| match report {
        DisputeProgress::Ended { won, .. } => Some(!won),
        _ => None,
    });
    ensure!(!lost.await?, "the watcher lost");
    court.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_that_is_compared_fails() -> Result<()> {
    one_run_fails(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_that_is_looked_at_twice_fails() -> Result<()> {
    one_run_fails(2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_that_a_tensor_is_taken_from_fails() -> Result<()> {
    one_run_fails(3).await
}

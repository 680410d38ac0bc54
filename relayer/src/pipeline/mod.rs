//! From a request on chain to a paid result: watch, infer, sign, post, settle, pay out.
//!
//! Its tasks share the store and nothing else:
//!
//! - the *watcher* brings events in and says what the chain did;
//! - *inputs* fetches what requests name by URI;
//! - the *worker* infers and signs what is answerable;
//! - the *poster* owns the account: posts signed results, settles final ones, takes the earnings out;
//! - *membership* gives signs of life. Where several processes share the store all of them work, and one, the submitter, watches and posts.
//!
//! [`spawn`] is how the binary, the demo and the tests all enter.

mod inputs;
mod membership;
mod poster;
mod progress;
mod rounds;
mod sight;
mod worker;

pub(crate) use inputs::{Inputs, Look as InputLook};
pub use progress::{Progress, Reporter};
pub(crate) use rounds::{Rounds, rounds};
pub(crate) use sight::Sight;
pub(crate) use worker::loses_money;

use crate::{
    chain::{ConnectError, GasLimits, Head, Look, Rpc, SendError, Sender, WatchError, WatchSettings, Watcher},
    complaints::Complaints,
    crash,
    dispute::{self, Retrace},
    fetch::FetchSettings,
    keylock::KeyLock,
    keys::SigningKey,
    ops::{
        self, Report,
        metrics::{RPC_ERRORS, SIGNING_ERRORS, STORE_ERRORS, TASK_ROUND_TIMESTAMP},
    },
    own_time::OwnTime,
    store::{Store, StoreError, StoreLocation, WorkerCard},
};
use alloy::primitives::{Address, U256};
use candor_sdk::{
    bindings::{
        IDisputeGame,
        IInferenceOracle::{self, IInferenceOracleEvents as Event},
    },
    client::{ClientError, Terms},
    ids::ModelId,
};
use reqwest::Url;
use std::{
    collections::HashMap,
    fmt::Debug,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

/// Why a model can't answer a question.
pub use crate::engine::InferError;
/// One question to a model.
pub use crate::engine::InferRequest;

/// Something that runs a model: the engine, or a liar in a test.
pub trait Infer: Send + Sync + Debug {
    /// Answers a batch; one bad question does not spoil its neighbours, and no answer depends on them.
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>>;

    /// What it runs on, for people: `cpu avx512 x2`.
    fn device(&self) -> String;

    /// Its runs node by node, for disputes. What can't be retraced can't be defended.
    fn retrace(&self) -> Option<&dyn Retrace> {
        None
    }
}

/// A model that this relayer answers for.
#[derive(Debug, Clone)]
pub struct Served {
    /// Name for people.
    pub name: String,
    /// Wei, at least, for an answer.
    pub min_fee: u128,
    /// Runs it.
    pub model: Arc<dyn Infer>,
}

/// Who answers.
#[derive(Debug, Clone)]
pub struct OperatorSettings {
    /// Key of the operator's account: holds the stake, pays the gas.
    pub account: SigningKey,
    /// Key that signs results; may be the same.
    pub signer: SigningKey,
    /// Models served.
    pub models: HashMap<ModelId, Served>,
    /// Where credit goes, and from how many wei on; none: it stays in the oracle.
    pub payout: Option<(Address, U256)>,
}

/// Who watches.
#[derive(Debug, Clone)]
pub struct WatcherSettings {
    /// Key of the account that puts up bonds and pays the gas; where there is an operator, its account's.
    pub account: SigningKey,
    /// Models whose results are run again.
    pub models: HashMap<ModelId, Served>,
    /// Wei of bonds that may be at stake or lost at once.
    pub cap: U256,
    /// Whether to challenge also what can't be judged because its input is not to be had, so that the operator must show it. Costs the bond if the
    /// result is right.
    pub demand_inputs: bool,
}

/// Everything a relayer is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// RPC endpoints, best first.
    pub rpc_urls: Vec<Url>,
    /// EIP-155 chain id that they must have.
    pub chain_id: u64,
    /// `InferenceOracle`.
    pub oracle: Address,
    /// Block from which a new database starts reading.
    pub start_block: u64,
    /// How the chain is read.
    pub watch: WatchSettings,
    /// What transactions may cost.
    pub gas: GasLimits,
    /// The database.
    pub store: StoreLocation,
    /// How long claims and the submitter's lease hold without a sign of life.
    pub lease: Duration,
    /// Folder of the locks of keys: one relayer for a key.
    pub locks: PathBuf,
    /// Where to tell metrics, health and status over HTTP; none: nowhere.
    pub http: Option<SocketAddr>,
    /// How inputs are fetched that are at a URI.
    pub inputs: FetchSettings,
    /// Who answers; none: this relayer only watches.
    pub operator: Option<OperatorSettings>,
    /// Whose results are run again and challenged if they are wrong; none: nobody's.
    pub watcher: Option<WatcherSettings>,
}

/// Why a relayer stopped or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayerError {
    /// No endpoint can be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chain refused, or the endpoint failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Events can't be read.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// A transaction can't be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The signing key is not registered for this account.
    #[error("{0}")]
    NotReady(String),
    /// A task of the relayer died.
    #[error("task {0} panicked; this is a bug in Candor")]
    Panicked(&'static str),
}

impl RelayerError {
    /// Whether trying to start again may help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_retryable(),
            Self::Client(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Whether a relayer that was once up has to stop. Everything but its own database and keys is somebody else's trouble, and passes: an endpoint
    /// that lags behind the deployment says "no contract", one that is cut off says anything.
    pub(crate) fn is_fatal(&self) -> bool {
        match self {
            Self::NotReady(_) | Self::Panicked(_) => true,
            Self::Send(SendError::Signer(error)) => !error.is_retryable(),
            Self::Store(error) | Self::Watch(WatchError::Store(error)) | Self::Send(SendError::Store(error)) => {
                !error.is_retryable()
            }
            _ => false,
        }
    }

    /// Whether another endpoint may do better.
    pub(crate) fn is_of_the_endpoint(&self) -> bool {
        match self {
            Self::Send(error) => error.is_of_the_endpoint(),
            Self::Store(_) | Self::Watch(WatchError::Store(_)) => false,
            other => !other.is_fatal(),
        }
    }
}

/// A running relayer. Dropping it stops the tasks where they are, which loses nothing; [`Handle::stop`] lets them end their step.
#[derive(Debug)]
pub struct Handle {
    stop: CancellationToken,
    tasks: JoinSet<(&'static str, Result<(), RelayerError>)>,
    /// The store, for looking at it.
    pub store: Store,
    /// Where metrics, health and status are told.
    pub http: Option<SocketAddr>,
    /// How it is doing.
    pub reports: watch::Receiver<Arc<Report>>,
}

impl Handle {
    /// A token that asks the relayer to stop.
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs until it is asked to stop or a task fails for good.
    pub async fn wait(mut self) -> Result<(), RelayerError> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let (name, outcome) = match ended {
                Ok(ended) => ended,
                Err(error) if error.is_cancelled() => continue,
                Err(_) => ("relayer", Err(RelayerError::Panicked("relayer"))),
            };
            if let Err(failure) = outcome {
                error!(task = name, error = %failure, "stopping");
                if result.is_ok() {
                    result = Err(failure);
                }
            }
            // One task alone is no relayer.
            self.stop.cancel();
        }
        // Others go on at once with what was claimed here. If the database can't be told, they do when the lease has run out.
        if let Err(error) = self.store.leave().await {
            warn!(%error, "what was claimed here could not be handed over; the lease runs out by itself");
        } else {
            crash::point("left");
        }
        result
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(self) -> Result<(), RelayerError> {
        self.stop.cancel();
        self.wait().await
    }
}

/// What the tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) rpc: Rpc,
    pub(crate) store: Store,
    pub(crate) inputs: Inputs,
    /// The newest block, as the watcher saw it. Its unix second is the clock that everything here goes by.
    pub(crate) head: watch::Receiver<Head>,
    /// Something new for the worker.
    work: Notify,
    /// Something new for the poster.
    signed: Notify,
    /// Whether this process is the submitter.
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) work_done: membership::Work,
    /// The shortest that a batch of each model has taken.
    fastest: Mutex<HashMap<ModelId, Duration>>,
    /// What the relayer itself takes for a request.
    pub(crate) own_time: Arc<OwnTime>,
    /// Whether to answer also what brings less than its gas costs.
    at_a_loss: bool,
    /// When a key last gave no signature, and why.
    unsigned: Mutex<Option<(Instant, String)>>,
    /// What was last seen of the chain.
    pub(crate) sight: Arc<Sight>,
    /// When each task last began a round.
    rounds: Mutex<HashMap<&'static str, Instant>>,
    pub(crate) reporter: Reporter,
    pub(crate) poll_interval: Duration,
    pub(crate) stop: CancellationToken,
}

/// How long a task may go without beginning a round before it counts as stuck. The worker and the poster are not judged by it: a long answer and a
/// stuck transaction are no fault of theirs, and have metrics of their own.
const SILENT: Duration = Duration::from_secs(300);

impl Shared {
    /// A task begins a round.
    pub(crate) fn round(&self, task: &'static str) {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner).insert(task, Instant::now());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let chain = self.rpc.chain_id().to_string();
        metrics::gauge!(TASK_ROUND_TIMESTAMP, "task" => task, "chain" => chain).set(now);
    }

    /// Tasks that should have begun a round long ago.
    pub(crate) fn silent_tasks(&self) -> Vec<(&'static str, Duration)> {
        let rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let judged = rounds.iter().filter(|(task, _)| ["watcher", "membership", "observer", "inputs"].contains(*task));
        judged.map(|(task, at)| (*task, at.elapsed())).filter(|(_, silent)| *silent > SILENT).collect()
    }

    /// Why a key gave no signature within the last minute.
    pub(crate) fn key_trouble(&self) -> Option<String> {
        let unsigned = self.unsigned.lock().unwrap_or_else(PoisonError::into_inner);
        unsigned.as_ref().filter(|(at, _)| at.elapsed() < Duration::from_secs(60)).map(|(_, why)| why.clone())
    }

    /// Trouble of a task that is waited out.
    fn note(&self, task: &'static str, error: &RelayerError) {
        match error {
            RelayerError::Store(_)
            | RelayerError::Watch(WatchError::Store(_))
            | RelayerError::Send(SendError::Store(_)) => {
                metrics::counter!(STORE_ERRORS, "task" => task).increment(1);
            }
            RelayerError::Send(SendError::Signer(error)) => {
                metrics::counter!(SIGNING_ERRORS, "task" => task).increment(1);
                let now = (Instant::now(), error.to_string());
                *self.unsigned.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
            }
            error if error.is_of_the_endpoint() => metrics::counter!(RPC_ERRORS, "task" => task).increment(1),
            _ => {}
        }
    }

    /// Notes how long a batch of a model took.
    fn ran(&self, model: ModelId, took: Duration) {
        let mut fastest = self.fastest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = fastest.entry(model).or_insert(took);
        *known = took.min(*known);
    }

    /// The shortest that a batch of a model has taken; nothing, as long as it is not known.
    fn fastest(&self, model: &ModelId) -> Duration {
        self.fastest.lock().unwrap_or_else(PoisonError::into_inner).get(model).copied().unwrap_or_default()
    }

    /// Waits until this process is the submitter, or stops. True if it is.
    pub(crate) async fn leading(&self) -> bool {
        let mut leads = self.leads.clone();
        tokio::select! { changed = leads.wait_for(|leads| *leads) => changed.is_ok(), () = self.stop.cancelled() => false }
    }
}

/// Starts a relayer. Waits for an endpoint that is down, refuses everything that waiting does not mend.
pub async fn spawn(settings: Settings, reporter: Reporter, stop: CancellationToken) -> Result<Handle, RelayerError> {
    let mut candidate = candidate(&settings);
    if let Some(key) = &mut candidate.key
        && !key.try_hold()
        && !settings.store.is_shared()
    {
        return Err(RelayerError::NotReady(format!(
            "another relayer on this machine sends transactions for account {} (it holds {}); one relayer for a key",
            account(&settings).map(SigningKey::address).unwrap_or_default(),
            key.path().display()
        )));
    }
    let (report_sender, reports) = watch::channel(Arc::new(Report::default()));
    let running = Arc::new(OnceLock::new());
    let mut tasks = JoinSet::new();
    let mut http = None;
    if settings.http.is_some() {
        ops::metrics::install();
    }
    let sight = Arc::new(Sight::new(settings.chain_id, &settings.watch));
    // First of all: whoever waits for a node says so.
    if let Some(listen) = settings.http {
        let served = ops::Served { sight: sight.clone(), running: running.clone(), reports: reports.clone() };
        let (address, serving) = ops::serve(listen, served, stop.clone()).await?;
        info!(%address, "status page, metrics and health are there");
        http = Some(address);
        tasks.spawn(supervise("http", stop.clone(), serving));
    }
    let found = patiently("no RPC endpoint answers", &sight, &stop, || look_around(&settings));
    let (rpc, terms, newest) = found.await?;
    sight.seen(newest);
    let open = || async {
        Ok(Store::open(settings.store.clone(), settings.chain_id, settings.oracle, settings.start_block).await?)
    };
    let store = patiently("the database can't be opened", &sight, &stop, open).await?.with_lease(settings.lease);
    match &settings.operator {
        Some(operator) => store.belong_to(operator.account.address()).await?,
        // As the submitter it would keep those from their work that have an account.
        None if settings.store.is_shared() => {
            return Err(RelayerError::NotReady(
                "a relayer without [operator] only watches, and has no share in a queue: give it a file, [store] path"
                    .into(),
            ));
        }
        None => {}
    }
    crash::point("opened");
    let operator = settings.operator.as_ref().map_or(Address::ZERO, |operator| operator.account.address());
    let (head_sender, head) = watch::channel(newest);
    let (leads_sender, leads) = watch::channel(false);
    let own_time = Arc::new(OwnTime::new(reporter.clone()));
    let shared = Arc::new(Shared {
        rpc,
        store: store.clone(),
        inputs: Inputs::new(store.clone(), settings.inputs.clone())
            .map_err(|error| RelayerError::NotReady(error.to_string()))?,
        head,
        work: Notify::new(),
        signed: Notify::new(),
        leads,
        work_done: membership::Work::default(),
        fastest: Mutex::default(),
        own_time: own_time.clone(),
        at_a_loss: settings.gas.at_a_loss,
        unsigned: Mutex::default(),
        sight,
        rounds: Mutex::default(),
        reporter,
        poll_interval: settings.watch.poll_interval,
        stop: stop.clone(),
    });
    info!(chain = settings.chain_id, oracle = %settings.oracle, %operator, database = %store.location(), member = store.member(), "relayer started");

    let elected = membership::stand(&shared, &mut candidate).await?;
    if elected {
        crash::point("led");
    }
    leads_sender.send_replace(elected);
    running.get_or_init(|| shared.clone());
    tasks.spawn(supervise("membership", stop.clone(), membership::run(shared.clone(), candidate, leads_sender)));
    let confirmations = settings.watch.confirmations;
    let watcher = Watcher::new(store.clone(), settings.watch, operator, terms.challenge_window, own_time.clone());
    tasks.spawn(supervise("watcher", stop.clone(), watch_chain(shared.clone(), watcher, head_sender)));
    let account = account(&settings).cloned();
    let sender = account.map(|account| {
        Arc::new(Sender::new(store.clone(), account, settings.gas, settings.watch.poll_interval, own_time))
    });
    if let Some(sender) = &sender
        && let Some(seat) = seated(&shared, &settings, &terms, sender).await?
    {
        tasks.spawn(supervise("disputes", stop.clone(), dispute::run(shared.clone(), seat)));
    }
    let operator = settings.operator.map(Arc::new);
    let often = http.is_some();
    tasks.spawn(supervise("inputs", stop.clone(), inputs::run(shared.clone(), operator.clone())));
    let observed = (confirmations, terms.stake_per_result, settings.gas.max_daily_spend, often);
    let observer = ops::observe(shared.clone(), operator.clone(), observed, report_sender);
    tasks.spawn(supervise("observer", stop.clone(), observer));
    if let (Some(operator), Some(sender)) = (operator, sender) {
        tasks.spawn(supervise("worker", stop.clone(), worker::run(shared.clone(), operator.clone())));
        let poster = poster::run(shared.clone(), operator, sender, terms.stake_per_result);
        tasks.spawn(supervise("poster", stop.clone(), poster));
    }
    Ok(Handle { stop, tasks, store, http, reports })
}

/// The account that sends transactions, if any are sent.
fn account(settings: &Settings) -> Option<&SigningKey> {
    let watcher = settings.watcher.as_ref().map(|watcher| &watcher.account);
    settings.operator.as_ref().map(|operator| &operator.account).or(watcher)
}

/// What disputes are played with, as soon as an endpoint says it; none if the deployment has no dispute game.
async fn seated(
    shared: &Shared,
    settings: &Settings,
    terms: &Terms,
    sender: &Arc<Sender>,
) -> Result<Option<dispute::Seat>, RelayerError> {
    loop {
        let endpoint = shared.rpc.current();
        match seat(shared, settings, terms, sender.clone()).await {
            Err(error) if error.is_retryable() && !shared.stop.is_cancelled() => {
                warn!(%error, "the dispute game can't be asked; asking again");
                shared.rpc.fail_over(endpoint).await;
                tokio::select! { () = tokio::time::sleep(Duration::from_secs(1)) => {}, () = shared.stop.cancelled() => {} }
            }
            outcome => return outcome,
        }
    }
}

async fn seat(
    shared: &Shared,
    settings: &Settings,
    terms: &Terms,
    sender: Arc<Sender>,
) -> Result<Option<dispute::Seat>, RelayerError> {
    let client = shared.rpc.client();
    let game = client.view(client.oracle, IInferenceOracle::disputeGameCall {}).await?;
    if game.is_zero() {
        return Ok(None);
    }
    let game_terms = client.view(game, IDisputeGame::termsCall {}).await?;
    let timeout = client.view(client.oracle, IInferenceOracle::maxTimeoutCall {}).await?;
    // The longest that a request, its window and a dispute opened at the end of it take: both clocks, and what 64 moves add.
    let moves = 64 * u64::from(game_terms.increment.saturating_add(game_terms.extension));
    let back = u64::from(timeout) + terms.challenge_window + 2 * u64::from(game_terms.clock) + moves;
    let first = shared.rpc.block_before(back, settings.start_block).await?;
    let served = settings.operator.iter().flat_map(|operator| &operator.models);
    let watched = settings.watcher.iter().flat_map(|watcher| &watcher.models);
    let mut models = HashMap::new();
    for (id, served) in served.chain(watched) {
        match dispute::Player::new(&served.name, served.model.clone()) {
            Some(player) => _ = models.entry(*id).or_insert(player),
            None => warn!(model = %served.name, "this model can't be retraced: disputes about it are lost"),
        }
    }
    let watching = settings.watcher.as_ref().map(|watcher| {
        let models = watcher.models.keys().filter(|id| models.contains_key(id)).copied().collect();
        dispute::Watching { models, cap: watcher.cap, demand_inputs: watcher.demand_inputs }
    });
    Ok(Some(dispute::Seat {
        game,
        terms: game_terms,
        window: terms.challenge_window,
        first,
        settings: settings.watch,
        sender,
        operator: settings.operator.as_ref().map(|operator| operator.account.address()),
        models,
        watching,
    }))
}

/// What this process stands for among those that share the store.
fn candidate(settings: &Settings) -> membership::Candidate {
    let Some(operator) = &settings.operator else {
        let key = |account: &SigningKey| KeyLock::new(&settings.locks, settings.chain_id, account.address());
        return membership::Candidate {
            card: WorkerCard { device: "none: only watching".into(), ..WorkerCard::default() },
            key: account(settings).map(key),
        };
    };
    let mut models: Vec<String> = operator.models.values().map(|served| served.name.clone()).collect();
    models.sort();
    let device = operator.models.values().next().map_or_else(String::new, |served| served.model.device());
    let account = operator.account.address();
    membership::Candidate {
        card: WorkerCard { device, models, ..WorkerCard::default() },
        key: Some(KeyLock::new(&settings.locks, settings.chain_id, account)),
    }
}

/// Runs a task until it ends or the relayer stops.
async fn supervise(
    name: &'static str,
    stop: CancellationToken,
    task: impl Future<Output = Result<(), RelayerError>> + Send + 'static,
) -> (&'static str, Result<(), RelayerError>) {
    // A task of its own, so that a panic is an outcome like any other; aborted when this one is dropped.
    let task = AbortOnDropHandle::new(tokio::spawn(task));
    let outcome = tokio::select! {
        outcome = task => match outcome {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => Err(RelayerError::Panicked(name)),
            Err(_) => Ok(()),
        },
        // Every step is durable, so a task can be stopped anywhere; a moment lets it end the step that it is in.
        () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(2)).await } => Ok(()),
    };
    (name, outcome)
}

/// Tries what passes by itself if it fails, a node that is down, a server that is away, a disk that is full, until it does not; less often each time.
async fn patiently<T, F: Future<Output = Result<T, RelayerError>>>(
    complaint: &str,
    sight: &Sight,
    stop: &CancellationToken,
    attempt: impl Fn() -> F,
) -> Result<T, RelayerError> {
    let mut wait = Duration::from_secs(1);
    loop {
        match attempt().await {
            Err(error) if error.is_retryable() && !stop.is_cancelled() => {
                warn!(%error, retry_in = ?wait, "{complaint}");
                sight.failed(&error);
                tokio::select! { () = tokio::time::sleep(wait) => {}, () = stop.cancelled() => return Err(error) }
                wait = (wait * 2).min(Duration::from_secs(30));
            }
            outcome => return outcome,
        }
    }
}

/// A connection, the terms of the deployment and its newest block, of an endpoint that gives all three.
async fn look_around(settings: &Settings) -> Result<(Rpc, Terms, Head), RelayerError> {
    let rpc =
        Rpc::connect(&settings.rpc_urls, settings.chain_id, settings.oracle, settings.watch.answer_within).await?;
    let terms = rpc.client().terms().await?;
    if let Some(operator) = &settings.operator {
        check_operator(&rpc, operator, &terms).await?;
    }
    let head = rpc.head().await?;
    Ok((rpc, terms, head))
}

/// An operator that can't be paid must not work.
async fn check_operator(rpc: &Rpc, operator: &OperatorSettings, terms: &Terms) -> Result<(), RelayerError> {
    let client = rpc.client();
    let (account, signer) = (operator.account.address(), operator.signer.address());
    match client.operator_of(signer).await? {
        Some(owner) if owner == account => {}
        Some(owner) => {
            return Err(RelayerError::NotReady(format!(
                "the signing key {signer} speaks for operator {owner}, not for {account}; use another signing key"
            )));
        }
        None => {
            return Err(RelayerError::NotReady(format!(
                "the signing key {signer} is not registered: run `candor operator join`"
            )));
        }
    }
    let (stake, unbonding, locked) = client.stake(account).await?;
    let free = stake.saturating_sub(unbonding).saturating_sub(locked);
    if free < terms.stake_per_result {
        warn!(%stake, %locked, needed = %terms.stake_per_result, "no free stake: results can't be posted until some is freed or added (`candor operator join`)");
    }
    Ok(())
}

async fn watch_chain(shared: Arc<Shared>, mut watcher: Watcher, head: watch::Sender<Head>) -> Result<(), RelayerError> {
    let mut wait = shared.poll_interval;
    let mut complaints = Complaints::default();
    let mut last_said = Instant::now();
    while !shared.stop.is_cancelled() {
        shared.round("watcher");
        let endpoint = shared.rpc.current();
        let before = *head.borrow();
        let looked = if *shared.leads.borrow() {
            watcher.look(&shared.rpc, &head).await.map_err(RelayerError::from)
        } else {
            // Somebody else reads the events; the time on the chain is everybody's business.
            let head = shared.rpc.head().await.map_err(RelayerError::from);
            head.map(|head| Look { head, logs: Vec::new(), caught_up: true, read: None })
        };
        match looked {
            Ok(look) => {
                if wait > shared.poll_interval {
                    info!(block = look.head.number, "the chain is read again");
                }
                wait = shared.poll_interval;
                shared.sight.seen(look.head);
                if let Some((read, confirmed)) = look.read {
                    let _ = shared.reporter.send(Progress::Read { block: read, confirmed });
                    if !look.caught_up && last_said.elapsed() > Duration::from_secs(5) {
                        info!(block = read, of = confirmed, "reading the chain");
                        last_said = Instant::now();
                    }
                }
                for log in &look.logs {
                    progress::report(&shared.reporter, log);
                    match log.event {
                        Event::Requested(_) => shared.work.notify_one(),
                        Event::RequestedByUri(_) => shared.inputs.wake(),
                        _ => {}
                    }
                }
                let moved = before != look.head;
                head.send_replace(look.head);
                if moved {
                    // Windows pass and exclusive minutes end with the chain's clock.
                    shared.work.notify_one();
                    shared.signed.notify_one();
                }
                if !look.caught_up {
                    continue;
                }
            }
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                shared.note("watcher", &error);
                shared.sight.failed(&error);
                if complaints.is_news(&error.to_string()) {
                    warn!(%error, "can't read the chain; asking again");
                }
                if error.is_of_the_endpoint() {
                    shared.rpc.fail_over(endpoint).await;
                }
                wait = (wait * 2).min(Duration::from_secs(10));
            }
        }
        tokio::select! { () = tokio::time::sleep(wait) => {}, () = shared.stop.cancelled() => {} }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeyKind, SignError};

    #[test]
    fn only_the_relayers_own_troubles_end_it() {
        let empty = || ClientError::NotCandor(Address::ZERO);
        let failed = |kind| SignError::Failed { kind, address: Address::ZERO, reason: "throttled".into() };
        let reverted = || ClientError::Reverted(candor_sdk::client::Revert::Other(Default::default()));
        for error in [
            RelayerError::Client(empty()),
            RelayerError::Watch(WatchError::Client(empty())),
            RelayerError::Send(SendError::Client(reverted())),
            RelayerError::Send(SendError::NonceTaken(3)),
            RelayerError::Send(SendError::Cancelled(3)),
            RelayerError::Send(SendError::Overtaken(3)),
            RelayerError::Send(SendError::Signer(failed(KeyKind::AwsKms))),
        ] {
            assert!(!error.is_fatal(), "{error}");
        }
        let full = || StoreError::Database(sqlx::Error::PoolClosed);
        let another = SignError::WrongKey { kind: KeyKind::AwsKms, address: Address::ZERO };
        for error in [
            RelayerError::Store(full()),
            RelayerError::Watch(WatchError::Store(full())),
            RelayerError::Send(SendError::Store(full())),
            RelayerError::Panicked("worker"),
            RelayerError::Send(SendError::Signer(failed(KeyKind::Local))),
            RelayerError::Send(SendError::Signer(another)),
        ] {
            assert!(error.is_fatal(), "{error}");
        }
    }
}

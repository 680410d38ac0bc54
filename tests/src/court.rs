//! Where relayers dispute: a chain with the dispute game, small models, relayers in this process whose end is noticed, an observer that reads the game as
//! everybody can, and books in which every wei is accounted for.

use crate::{
    liars::SmallModel,
    world::{Operator, PRICE, TIMEOUT, World, ether},
};
use alloy::{
    primitives::{Address, U256, aliases::U96},
    providers::Provider,
    signers::local::PrivateKeySigner,
    sol_types::SolEvent,
};
use anyhow::{Context, Result, bail, ensure};
use candor_relayer::{
    chain::{ANSWER_WITHIN, Rpc},
    dispute::{
        DisputeProgress,
        book::{Book, Posted},
        opinion::Verdict,
    },
    engine::InferRequest,
    pipeline::{self, OperatorSettings, Progress, RelayerError, Served, Settings, WatcherSettings},
};
use candor_sdk::{
    bindings::{Delivery, IDisputeGame, IInferenceOracle, Params, RequestArgs, RequestStatus},
    client::Call,
    dispute::Case,
    ids::{ModelId, RequestId},
    request::{Input, Request},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::broadcast, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long anything may take here before it counts as stuck: the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A relayer in this process. One that ends by itself is noticed by whoever waits for something it should do.
#[derive(Debug)]
pub struct Running {
    /// Name for people.
    pub name: String,
    /// What it reports.
    pub progress: broadcast::Receiver<Progress>,
    /// What it thought of results so far.
    seen: Vec<(RequestId, Verdict)>,
    stop: CancellationToken,
    failure: Arc<Mutex<Option<String>>>,
    task: JoinHandle<Result<(), RelayerError>>,
}

impl Running {
    /// Starts one.
    pub async fn start(name: &str, settings: Settings) -> Result<Self> {
        let (reporter, progress) = broadcast::channel(16_384);
        let stop = CancellationToken::new();
        let handle = pipeline::spawn(settings, reporter, stop.clone()).await.with_context(|| name.to_owned())?;
        let failure = Arc::new(Mutex::new(None));
        let ended = failure.clone();
        let task = tokio::spawn(async move {
            let outcome = handle.wait().await;
            let text = outcome.as_ref().map_or_else(ToString::to_string, |()| "it ended".to_owned());
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            outcome
        });
        Ok(Self { name: name.to_owned(), progress, seen: Vec::new(), stop, failure, task })
    }

    /// An error if it has ended.
    pub fn check(&self) -> Result<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => bail!("the relayer {} is gone: {reason}", self.name),
            None => Ok(()),
        }
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(self) -> Result<()> {
        self.check()?;
        self.stop.cancel();
        self.task.await?.with_context(|| self.name)
    }

    /// Waits until it has looked at a result; what it thinks.
    pub async fn verdict(&mut self, id: RequestId) -> Result<Verdict> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((_, verdict)) = self.seen.iter().find(|(of, _)| *of == id) {
                return Ok(verdict.clone());
            }
            self.check()?;
            match tokio::time::timeout(Duration::from_secs(1), self.progress.recv()).await {
                Ok(Ok(Progress::Dispute(DisputeProgress::Examined { id, verdict }))) => self.seen.push((id, verdict)),
                Ok(Err(broadcast::error::RecvError::Closed)) => bail!("the relayer {} is gone", self.name),
                _ => ensure!(Instant::now() < deadline, "{} did not look at the result of {id}", self.name),
            }
        }
    }
}

/// A chain with disputes, and who watches it from outside.
#[derive(Debug)]
pub struct Court {
    /// The chain, the contracts, the embedded models.
    pub world: World,
    /// More models, registered.
    pub small: Vec<SmallModel>,
    folder: tempfile::TempDir,
    observer: tokio::sync::Mutex<(Rpc, Book)>,
    /// The newest block when the books were opened, and what everybody had then.
    opened: (u64, U256),
}

impl Court {
    /// A chain with the embedded models.
    pub async fn new() -> Result<Self> {
        let world = World::start_with_disputes().await?;
        let rpc = Rpc::connect(&[world.rpc_url()], world.client.chain_id, world.client.oracle, ANSWER_WITHIN).await?;
        let folder = tempfile::tempdir()?;
        let settings = world.settings(folder.path(), None).watch;
        let observer = (rpc, Book::new(world.deployment.game, settings, 0));
        let observer = tokio::sync::Mutex::new(observer);
        let mut court = Self { world, small: Vec::new(), folder, observer, opened: (0, U256::ZERO) };
        let block = court.world.client.provider().get_block_number().await?;
        court.opened = (block, court.held().await?);
        Ok(court)
    }

    /// The same with the small models.
    pub async fn with_small_models() -> Result<Self> {
        let mut court = Self::new().await?;
        court.small = SmallModel::all()?;
        let client = &court.world.client;
        for small in &court.small {
            client.send(client.register_model(small.descriptor.clone(), String::new())).await?;
        }
        Ok(court)
    }

    /// An embedded model, to lie about.
    pub fn embedded_model(&self, name: &'static str) -> Result<SmallModel> {
        SmallModel::new(name, self.world.models[name].imported().model.clone())
    }

    /// A folder for somebody, always the same for the same name.
    pub fn folder(&self, name: &str) -> Result<std::path::PathBuf> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The embedded models as an honest relayer serves them.
    pub fn embedded(&self) -> HashMap<ModelId, Served> {
        let served = |model: &candor_relayer::models::CatalogModel| Served {
            name: model.name().to_owned(),
            min_fee: 1,
            model: model.runner(),
        };
        self.world.models.values().map(|model| (model.id(), served(model))).collect()
    }

    /// A relayer that answers with these models.
    pub async fn operator(&self, name: &str, operator: &Operator, models: HashMap<ModelId, Served>) -> Result<Running> {
        let mut settings = self.world.settings(&self.folder(name)?, None);
        settings.operator = Some(OperatorSettings {
            account: operator.key.clone().into(),
            signer: operator.key.clone().into(),
            models,
            payout: None,
        });
        Running::start(name, settings).await
    }

    /// A relayer that watches these models, with bonds up to `cap`.
    pub async fn watcher(
        &self,
        name: &str,
        account: &PrivateKeySigner,
        models: HashMap<ModelId, Served>,
        cap: U256,
    ) -> Result<Running> {
        let mut settings = self.world.settings(&self.folder(name)?, None);
        settings.watcher = Some(WatcherSettings { account: account.clone().into(), models, cap, demand_inputs: false });
        Running::start(name, settings).await
    }

    /// Asks a model, as an account without code.
    pub async fn ask(&self, model: ModelId, question: &InferRequest) -> Result<RequestId> {
        let params = Params {
            maxTokens: question.params.max_tokens,
            temperature: question.params.temperature,
            minP: question.params.min_p,
        };
        let args = RequestArgs {
            modelId: model.0,
            input: question.input.clone().into(),
            params,
            delivery: Delivery::Final,
            callbackGasLimit: 0,
            callbackGasPrice: 0,
            maxFee: U96::from(PRICE),
            timeout: TIMEOUT,
        };
        let client = &self.world.client;
        let receipt = client.send_from(self.world.owner, client.request(args, U256::from(PRICE))).await?;
        crate::world::request_id(&receipt)
    }

    /// The question as the chain fixed it, seed included.
    pub async fn question(&self, id: RequestId) -> Result<InferRequest> {
        let event = self.world.client.requested(id, 0).await?.context("no request")?;
        let request = Request::unpack(&event.request)?;
        let params = candor_sdk::program::Params {
            max_tokens: request.params.maxTokens,
            temperature: request.params.temperature,
            min_p: request.params.minP,
        };
        let Input::Bytes(input) = event.input else { bail!("the input did not come with the request") };
        Ok(InferRequest { input: input.to_vec(), params, seed: request.seed.0 })
    }

    /// Looks at results and disputes as everybody can.
    pub async fn see<T>(&self, look: impl FnOnce(&Book) -> T) -> Result<T> {
        let mut observer = self.observer.lock().await;
        let (rpc, book) = &mut *observer;
        while !book.look(rpc).await?.1 {}
        Ok(look(book))
    }

    /// Disputes over the first answer to a request.
    pub async fn cases(&self, id: RequestId) -> Result<Vec<Case>> {
        let about = |case: &&Case| Request::unpack(&case.request).is_ok_and(|r| r.id == id && r.attempt == 0);
        self.see(|book| book.docket().cases().filter(about).cloned().collect()).await
    }

    /// A result that is not final.
    pub async fn posted(&self, id: RequestId) -> Result<Posted> {
        let about = |posted: &&Posted| posted.readable().is_some_and(|request| request.id == id);
        let found = self.see(|book| book.results().values().filter(about).cloned().collect::<Vec<_>>()).await?;
        let newest = found.into_iter().max_by_key(|posted| posted.readable().map(|request| request.attempt));
        newest.context("no result")
    }

    /// Challenges a result by hand.
    pub async fn challenge(&self, key: &PrivateKeySigner, id: RequestId) -> Result<u64> {
        let posted = self.posted(id).await?;
        let call = IDisputeGame::challengeCall { request: posted.request, fulfillment: posted.fulfillment };
        let client = self.world.client_of(key).await?;
        let bond = U256::from(crate::world::dispute_terms().bond);
        let receipt = client.send(Call::new(self.world.deployment.game, bond, &call)).await?;
        let event = receipt.logs().iter().find_map(|log| IDisputeGame::Challenged::decode_log_data(log.data()).ok());
        Ok(event.context("no dispute was opened")?.id)
    }

    /// Waits for something, as long as these relayers live.
    pub async fn wait<T>(
        &self,
        what: &str,
        relayers: &[&Running],
        mut look: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            for relayer in relayers {
                relayer.check()?;
            }
            if Instant::now() > deadline {
                bail!("after {PATIENCE:?} still not: {what}\n{}", self.standing().await?);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the first answer to each of these requests was rejected.
    pub async fn convicted(&self, ids: &[RequestId], relayers: &[&Running]) -> Result<()> {
        let look = async || {
            let fallen = self
                .see(|book| {
                    let fallen =
                        book.docket().cases().filter(|case| book.docket().fallen(&case.opened.result) == Some(true));
                    let requests = fallen.filter_map(|case| Request::unpack(&case.request).ok());
                    requests.filter(|request| request.attempt == 0).map(|request| request.id).collect::<Vec<_>>()
                })
                .await?;
            Ok(ids.iter().all(|id| fallen.contains(id)).then_some(()))
        };
        self.wait(&format!("{} results rejected", ids.len()), relayers, look).await
    }

    /// Waits until no dispute is open.
    pub async fn over(&self, relayers: &[&Running]) -> Result<()> {
        let look = async || {
            let open = self.see(|book| book.docket().cases().any(|case| case.ended.is_none())).await?;
            Ok((!open).then_some(()))
        };
        self.wait("all disputes have ended", relayers, look).await
    }

    /// Where every dispute stands, for whoever wonders why nothing happens.
    pub async fn standing(&self) -> Result<String> {
        self.see(|book| {
            let lines = book.docket().cases().map(|case| {
                let request = Request::unpack(&case.request).map(|request| request.id.0).unwrap_or_default();
                format!(
                    "dispute {} of request {request}: turn {:?} after {} moves, node {}, ended {:?}, fallen {:?}",
                    case.id(),
                    case.turn(),
                    case.dispute().moves,
                    case.dispute().node,
                    case.ended.map(|ended| ended.outcome),
                    book.docket().fallen(&case.opened.result)
                )
            });
            lines.collect::<Vec<_>>().join("\n")
        })
        .await
    }

    /// Has these requests answered by an honest operator, or refunded where there is no answer, and everything settled. The operator's relayer serves every
    /// model, and is never drawn: it answers what is open to all.
    pub async fn answer(&mut self, ids: &[RequestId], relayers: &[&Running]) -> Result<()> {
        let honest = self.world.operator_for(ether(2 + ids.len() as u64 / 5), &[]).await?;
        let mut models = self.embedded();
        models.extend(self.small.iter().map(|small| (small.id, small.honest())));
        let relayer = self.operator("answering", &honest, models).await?;
        let client = &self.world.client;
        let mut questions = Vec::new();
        for id in ids {
            let event = client.requested(*id, 0).await?.context("no request")?;
            let request = Request::unpack(&event.request)?;
            let question = self.question(*id).await?;
            let right = match self.small.iter().find(|small| small.id == request.model) {
                Some(small) => small.model.interpret(&question).ok().map(|run| run.output),
                None => {
                    let model = self.world.models.values().find(|model| model.id() == request.model);
                    model.context("no such model")?.imported().model.interpret(&question).ok().map(|run| run.output)
                }
            };
            questions.push((*id, request, right));
        }
        let mut all = relayers.to_vec();
        all.push(&relayer);
        for (id, _, right) in &questions {
            if right.is_some() {
                let answered = async || Ok((client.status(*id).await?.0 == RequestStatus::Fulfilled).then_some(()));
                self.wait(&format!("request {id} is answered"), &all, answered).await?;
            }
        }
        self.world.pass(crate::world::WINDOW).await?;
        for (id, request, right) in &questions {
            if let Some(right) = right {
                let final_ = async || Ok((client.status(*id).await?.0 == RequestStatus::Finalized).then_some(()));
                self.wait(&format!("request {id} is final"), &all, final_).await?;
                let output = client.fulfilled(*id, 0).await?.context("no result")?.0.output;
                ensure!(*right == output.to_vec(), "request {id}: a wrong answer became final");
            } else {
                self.world.pass(TIMEOUT.into()).await?;
                let before = client.credit(request.requester).await?;
                client.send(client.cancel(request)).await?;
                let refund = client.credit(request.requester).await? - before;
                ensure!(refund == U256::from(request.fee), "{refund} wei of {} came back", request.fee);
            }
        }
        relayer.stop().await
    }

    /// Everybody there is: accounts, contracts, and nobody, to whom burned wei and tips go.
    fn everybody(&self) -> Vec<Address> {
        let deployment = &self.world.deployment;
        let contracts = [deployment.oracle, deployment.operators, deployment.models, deployment.game, Address::ZERO];
        self.world.accounts.iter().copied().chain(contracts).collect()
    }

    async fn held(&self) -> Result<U256> {
        let mut held = U256::ZERO;
        for account in self.everybody() {
            held += self.world.client.provider().get_balance(account).await?;
        }
        Ok(held)
    }

    async fn stakes(&self) -> Result<U256> {
        let mut stakes = U256::ZERO;
        for account in &self.world.accounts {
            stakes += self.world.client.stake(*account).await?.0;
        }
        Ok(stakes)
    }

    /// Wei that the game owes an account.
    pub async fn credit(&self, account: Address) -> Result<U256> {
        let call = IDisputeGame::creditOfCall { account };
        Ok(self.world.client.view(self.world.deployment.game, call).await?)
    }

    /// Closes the books, when no request and no dispute is open: all balances add up to the wei.
    ///
    /// - nothing came from nowhere or went there: what everybody holds now, nobody included, and the base fee of all gas, is what there was;
    /// - the oracle holds its credits, the registry the stakes, the game its credits;
    /// - of the game: bonds and slashed stakes came in; what went out was burned or fetched; what was awarded was fetched or is credit.
    pub async fn close_books(&self, slashed: usize) -> Result<()> {
        let client = &self.world.client;
        let provider = client.provider();
        let mut burned_as_gas = U256::ZERO;
        for number in self.opened.0 + 1..=provider.get_block_number().await? {
            let block = provider.get_block_by_number(number.into()).await?.context("no such block")?;
            let base_fee = block.header.base_fee_per_gas.context("no base fee")?;
            burned_as_gas += U256::from(block.header.gas_used) * U256::from(base_fee);
        }
        let (held, there_was) = (self.held().await?, self.opened.1 + self.world.minted);
        ensure!(held + burned_as_gas == there_was, "{there_was} wei were, {held} are, {burned_as_gas} burned");

        let (mut oracle, mut game) = (U256::ZERO, U256::ZERO);
        for account in &self.world.accounts {
            oracle += client.credit(*account).await?;
            game += self.credit(*account).await?;
        }
        let deployment = &self.world.deployment;
        let balance = async |account| -> Result<U256> { Ok(provider.get_balance(account).await?) };
        ensure!(balance(deployment.oracle).await? == oracle, "the oracle's balance is not what it owes");
        let stakes = self.stakes().await?;
        ensure!(balance(deployment.operators).await? == stakes, "the registry's balance is not the stakes");
        let in_game = balance(deployment.game).await?;
        ensure!(in_game == game, "the game holds {in_game} wei and owes {game}");

        let lost = client.terms().await?.stake_per_result * U256::from(slashed);
        let gone = self.world.staked - stakes;
        ensure!(gone == lost, "{gone} wei of stakes are gone, not {lost}");
        let flow = self.flow().await?;
        ensure!(flow.slashed == lost, "the game got {} wei of slashed stakes, not {lost}", flow.slashed);
        ensure!(flow.bonds + flow.slashed == flow.burned + flow.fetched + in_game, "the game's books: {flow:?}");
        ensure!(flow.awarded == flow.fetched + in_game, "awarded and neither fetched nor credit: {flow:?}");
        Ok(())
    }

    /// What went through the game, by its events.
    async fn flow(&self) -> Result<Flow> {
        use IDisputeGame::IDisputeGameEvents as Event;
        use alloy::sol_types::SolEventInterface;
        let filter = alloy::rpc::types::Filter::new().address(self.world.deployment.game).from_block(0);
        let mut flow = Flow::default();
        for log in self.world.client.provider().get_logs(&filter).await? {
            match Event::decode_raw_log(log.topics(), &log.data().data)? {
                Event::Challenged(_) => flow.bonds += U256::from(crate::world::dispute_terms().bond),
                Event::Rejected(event) => flow.slashed += event.slashed,
                Event::Burned(event) => flow.burned += event.amount,
                Event::CreditWithdrawn(event) => flow.fetched += event.amount,
                Event::Resolved(event) => flow.awarded += event.paid,
                _ => {}
            }
        }
        Ok(flow)
    }

    /// How many events of a kind the oracle has for a request.
    pub async fn count(&self, id: RequestId) -> Result<usize> {
        self.world.count::<IInferenceOracle::Fulfilled>(id).await
    }
}

/// What went through the game.
#[derive(Debug, Default)]
struct Flow {
    bonds: U256,
    slashed: U256,
    burned: U256,
    fetched: U256,
    awarded: U256,
}

/// What a watcher says next of a result.
pub async fn examined(progress: &mut broadcast::Receiver<Progress>, id: RequestId) -> Result<Verdict> {
    let wait = async {
        loop {
            if let Progress::Dispute(DisputeProgress::Examined { id: of, verdict }) = progress.recv().await?
                && of == id
            {
                return anyhow::Ok(verdict);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.context("nobody looked at the result")?
}

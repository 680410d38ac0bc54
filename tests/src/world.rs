//! Anvil, contracts, models, operators.

use crate::puppet::Callback;
use alloy::{
    network::{EthereumWallet, TransactionBuilder},
    primitives::{Address, B256, Bytes, U256, aliases::U96},
    providers::{DynProvider, Provider, ProviderBuilder, ext::AnvilApi},
    rpc::types::TransactionReceipt,
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::{SolCall, SolEvent, SolValue},
};
use anyhow::{Context, Result, bail, ensure};
use candor_relayer::{
    anvil::{Anvil, AnvilOptions},
    chain::{ANSWER_WITHIN, GasLimits, WatchSettings},
    config::ModelSource,
    fetch::FetchSettings,
    models::CatalogModel,
    pipeline::{Handle, OperatorSettings, Progress, Served, Settings},
    postgres::Postgres,
    store::StoreLocation,
};
use candor_sdk::{
    bindings::{Answer, CallbackStatus, Delivery, IInferenceOracle, Params, RequestArgs, RequestStatus, Terms},
    client::{Announced, Client},
    commitment::signature_bytes,
    deploy::{Artifact, DeploySettings, Deployment, Disputes, deploy, deploy_verifier},
    ids::{ModelId, RequestId},
    request::Request,
};
use reqwest::Url;
use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

/// Wei that every operator asks for an answer here.
pub const PRICE: u128 = 1_000_000_000_000_000;
/// Seconds of the challenge window here. Tests move the chain's clock; nobody waits.
pub const WINDOW: u64 = 600;
/// Seconds that the drawn operator is alone.
pub const EXCLUSIVE: u64 = 60;
/// Seconds until an unanswered request can be cancelled.
pub const TIMEOUT: u32 = 3600;
/// Wei per gas offered for callbacks.
pub const CALLBACK_GAS_PRICE: u64 = 5_000_000_000;

/// The provider that pays for everything that is not a relayer's business.
pub type TestClient = Client<DynProvider>;

/// An account with stake and a signing key, which are one key here.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The key.
    pub key: PrivateKeySigner,
}

impl Operator {
    /// The account.
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// As the environment variable has it.
    pub fn key_hex(&self) -> String {
        format!("{}", B256::from_slice(&self.key.to_bytes()[..]))
    }
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Which model.
    pub model: ModelId,
    /// Bytes.
    pub input: Vec<u8>,
    /// When to be called.
    pub delivery: Delivery,
    /// Gas for the callback.
    pub callback_gas: u32,
}

/// The key that pays for everything that is not a relayer's business.
fn owner() -> Result<PrivateKeySigner> {
    Ok(PrivateKeySigner::from_bytes(&B256::with_last_byte(0x77))?)
}

/// A node, with a key that pays.
fn provider_of(url: &Url, key: &PrivateKeySigner) -> DynProvider {
    ProviderBuilder::new()
        .with_simple_nonce_management() // a refused transaction leaves no gap
        .wallet(EthereumWallet::from(key.clone()))
        .connect_client(
            alloy::rpc::client::ClientBuilder::default()
                .http(url.clone())
                .with_poll_interval(Duration::from_millis(20)),
        )
        .erased()
}

/// A chain with everything on it.
#[derive(Debug)]
pub struct World {
    anvil: Anvil,
    /// Everybody's client but the relayers'.
    pub client: TestClient,
    /// The account that it pays with.
    pub owner: Address,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// The embedded models by name.
    pub models: HashMap<&'static str, Arc<CatalogModel>>,
    /// Everybody that was given ether, in order.
    pub accounts: Vec<Address>,
    /// Wei that they were given out of nothing.
    pub minted: U256,
    /// Wei of it that operators staked.
    pub staked: U256,
    next_key: u8,
    /// Where relayers keep their databases; none: each in a file of its own.
    postgres: Option<Arc<Postgres>>,
}

impl World {
    /// Starts anvil, deploys, registers the embedded models. Results are worth their operators' word.
    pub async fn start() -> Result<Self> {
        Self::start_with(31337, None).await
    }

    /// The same on a chain with this number.
    pub async fn start_on(chain_id: u64) -> Result<Self> {
        Self::start_with(chain_id, None).await
    }

    /// The same with the dispute game and its judge.
    pub async fn start_with_disputes() -> Result<Self> {
        Self::start_with_terms(dispute_terms()).await
    }

    /// The same with other money and clocks.
    pub async fn start_with_terms(terms: Terms) -> Result<Self> {
        Self::start_with(31337, Some(terms)).await
    }

    /// The same with databases on a Postgres server; none, and that is said, where there is no Postgres.
    pub async fn start_on_postgres(test: &str) -> Result<Option<Self>> {
        let Some(server) = Postgres::for_test(test) else { return Ok(None) };
        Ok(Some(Self { postgres: Some(server), ..Self::start().await? }))
    }

    /// The chain as it is now, on a node of its own, where it goes on by itself from here.
    pub async fn branch(&self) -> Result<Self> {
        let args = vec!["--fork-url".into(), self.rpc_url().as_str().into()];
        let chain_id = Some(self.client.chain_id);
        let anvil = Anvil::start(&AnvilOptions { chain_id, args, ..AnvilOptions::default() }).await?;
        let client = Client::connect(provider_of(&anvil.url(), &owner()?), self.deployment.oracle).await?;
        Ok(Self {
            anvil,
            client,
            owner: self.owner,
            deployment: self.deployment,
            models: self.models.clone(),
            accounts: self.accounts.clone(),
            minted: self.minted,
            staked: self.staked,
            next_key: self.next_key,
            postgres: self.postgres.clone(),
        })
    }

    /// Where a relayer in `folder` keeps its database: the same place each time.
    pub fn store(&self, folder: &Path) -> StoreLocation {
        let Some(server) = &self.postgres else { return folder.join("candor.db").into() };
        let note = folder.join("database");
        let url = std::fs::read_to_string(&note).ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let url = server.database().expect("Postgres makes databases");
            std::fs::write(&note, url.as_str()).expect("the folder of a test can be written to");
            url
        });
        StoreLocation::Postgres(Box::new(url))
    }

    async fn start_with(chain_id: u64, terms: Option<Terms>) -> Result<Self> {
        // RUST_LOG=debug shows what the relayers do.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let anvil = Anvil::start(&AnvilOptions { chain_id: Some(chain_id), ..AnvilOptions::default() }).await?;
        let owner = owner()?;
        let provider = provider_of(&anvil.url(), &owner);
        provider.anvil_set_balance(owner.address(), ether(100_000)).await?;
        let disputes = match terms {
            Some(terms) => Some(Disputes { verifier: deploy_verifier(&provider).await?, terms }),
            None => None,
        };
        let settings = DeploySettings {
            disputes,
            challenge_window: WINDOW,
            exclusive_period: EXCLUSIVE,
            min_timeout: 300,
            max_timeout: 86_400,
            stake_per_result: ether(1) / U256::from(10),
            max_callback_gas: 2_000_000,
            revocation_gas: 100_000,
            min_stake: ether(1),
            withdrawal_delay: 1200,
        };
        let deployment = deploy(&provider, owner.address(), &settings).await?;
        let client = Client::connect(provider, deployment.oracle).await?;
        let mut models = HashMap::new();
        for name in ModelSource::BUILTIN {
            let loaded = CatalogModel::load(&ModelSource::Builtin(name))?;
            client.send(client.register_model(loaded.descriptor(), String::new())).await?;
            models.insert(name, Arc::new(loaded));
        }
        let everywhere = std::env::var("CANDOR_TEST_STORE").is_ok_and(|store| store == "postgres");
        let postgres = if everywhere { Some(Postgres::shared()?) } else { None };
        let accounts = vec![owner.address()];
        Ok(Self {
            anvil,
            client,
            owner: owner.address(),
            deployment,
            models,
            accounts,
            minted: U256::ZERO,
            staked: U256::ZERO,
            next_key: 1,
            postgres,
        })
    }

    /// The endpoint.
    pub fn rpc_url(&self) -> Url {
        self.anvil.url()
    }

    /// A new key with ether.
    pub async fn account(&mut self) -> Result<PrivateKeySigner> {
        let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(self.next_key))?;
        self.next_key += 1;
        self.client.provider().anvil_set_balance(key.address(), ether(1000)).await?;
        self.accounts.push(key.address());
        self.minted += ether(1000);
        Ok(key)
    }

    /// A client that pays with a key.
    pub async fn client_of(&self, key: &PrivateKeySigner) -> Result<TestClient> {
        Ok(Client::connect(provider_of(&self.rpc_url(), key), self.deployment.oracle).await?)
    }

    /// The same with as much ether as the stake takes.
    pub async fn rich_operator(&mut self, stake: U256) -> Result<Operator> {
        let key = self.account().await?;
        self.client.provider().anvil_set_balance(key.address(), stake + ether(1000)).await?;
        self.minted += stake;
        let models: Vec<ModelId> = self.models.values().map(|model| model.id()).collect();
        self.join(key, stake, &models).await
    }

    /// A new operator with `stake`, a registered key and an offer for every model.
    pub async fn operator(&mut self, stake: U256) -> Result<Operator> {
        let models: Vec<ModelId> = self.models.values().map(|model| model.id()).collect();
        self.operator_for(stake, &models).await
    }

    /// The same with offers for these models only. Without any it is never drawn, and answers what is open to all.
    pub async fn operator_for(&mut self, stake: U256, models: &[ModelId]) -> Result<Operator> {
        let key = self.account().await?;
        self.join(key, stake, models).await
    }

    async fn join(&mut self, key: PrivateKeySigner, stake: U256, models: &[ModelId]) -> Result<Operator> {
        let client = self.client_of(&key).await?;
        client.send(client.deposit_stake(key.address(), stake)).await?;
        let consent = key.sign_hash_sync(&client.operators_domain().consent_digest(key.address()))?;
        client.send(client.add_signer(key.address(), signature_bytes(&consent))).await?;
        for model in models {
            client.send(client.set_offer(*model, PRICE)).await?;
        }
        self.staked += stake;
        Ok(Operator { key })
    }

    /// Settings of a relayer of `operator` (none: it only watches) with its database in `folder`.
    pub fn settings(&self, folder: &Path, operator: Option<&Operator>) -> Settings {
        let models = self
            .models
            .values()
            .map(|loaded| (loaded.id(), Served { name: loaded.name().to_owned(), min_fee: 1, model: loaded.runner() }));
        Settings {
            rpc_urls: vec![self.rpc_url()],
            chain_id: self.client.chain_id,
            oracle: self.client.oracle,
            start_block: 0,
            watch: WatchSettings {
                confirmations: 0,
                poll_interval: Duration::from_millis(50),
                answer_within: ANSWER_WITHIN,
                max_block_range: 1000,
                overlap: 2,
            },
            gas: GasLimits {
                max_fee_per_gas: 100_000_000_000,
                max_daily_spend: ether(100),
                bump_after: Duration::from_secs(10),
                bump_percent: 15,
                at_a_loss: false,
            },
            // A relayer that only watches has no share in a queue.
            store: operator.map_or_else(|| folder.join("candor.db").into(), |_| self.store(folder)),
            lease: Duration::from_secs(3),
            locks: folder.to_owned(),
            http: None,
            // The servers of the tests are on this machine.
            inputs: FetchSettings { private_addresses: true, ..FetchSettings::default() },
            watcher: None,
            operator: operator.map(|operator| OperatorSettings {
                account: operator.key.clone().into(),
                signer: operator.key.clone().into(),
                models: models.collect(),
                payout: None,
            }),
        }
    }

    /// A relayer in this process.
    pub async fn relayer(
        &self,
        folder: &Path,
        operator: Option<&Operator>,
    ) -> Result<(Handle, broadcast::Receiver<Progress>)> {
        let (reporter, progress) = broadcast::channel(4096);
        let settings = self.settings(folder, operator);
        Ok((candor_relayer::pipeline::spawn(settings, reporter, CancellationToken::new()).await?, progress))
    }

    /// Arguments and price of a request.
    pub fn args(&self, ask: &Ask) -> (RequestArgs, U256) {
        let args = RequestArgs {
            modelId: ask.model.0,
            input: ask.input.clone().into(),
            params: Params::default(),
            delivery: ask.delivery,
            callbackGasLimit: ask.callback_gas,
            callbackGasPrice: CALLBACK_GAS_PRICE,
            maxFee: U96::from(PRICE),
            timeout: TIMEOUT,
        };
        (args, U256::from(PRICE) + U256::from(ask.callback_gas) * U256::from(CALLBACK_GAS_PRICE))
    }

    /// A request by an account without code (no callback).
    pub async fn ask(&self, model: &str, input: &[u8]) -> Result<RequestId> {
        let ask =
            Ask { model: self.models[model].id(), input: input.to_vec(), delivery: Delivery::Final, callback_gas: 0 };
        let (args, value) = self.args(&ask);
        request_id(&self.client.send_from(self.owner, self.client.request(args, value)).await?)
    }

    /// A request by an account without code about an input that is at a URI. `hash` and `size` are what it says of that.
    pub async fn ask_by_uri(&self, model: &str, hash: B256, size: u32, uri: &str) -> Result<RequestId> {
        let ask = Ask { model: self.models[model].id(), input: Vec::new(), delivery: Delivery::Final, callback_gas: 0 };
        let (args, value) = self.args(&ask);
        let call = self.client.request_by_uri(args, hash, size, uri.to_owned(), value);
        request_id(&self.client.send_from(self.owner, call).await?)
    }

    /// A request by a new consumer that behaves so when it is called.
    pub async fn ask_by_puppet(&self, ask: &Ask, callback: Callback) -> Result<(RequestId, Address)> {
        let (args, value) = self.args(ask);
        let code = callback.creation_code(self.client.oracle, &IInferenceOracle::requestCall { args }.abi_encode());
        let transaction = alloy::rpc::types::TransactionRequest::default().with_deploy_code(code).with_value(value);
        let receipt = self.client.provider().send_transaction(transaction).await?.get_receipt().await?;
        ensure!(receipt.status(), "the consumer was refused");
        Ok((request_id(&receipt)?, receipt.contract_address.context("no contract")?))
    }

    /// Deploys one of the example consumers, with the oracle and whatever else its constructor takes.
    pub async fn deploy_consumer(&self, artifact: &Artifact, arguments: impl SolValue) -> Result<Address> {
        Ok(artifact.deploy(self.client.provider(), arguments.abi_encode()).await?.0)
    }

    /// Somebody else carries an answer, first of all, into a block with this base fee, while blocks are mined by hand.
    pub async fn carry(&self, answer: Answer, base_fee: u128) -> Result<()> {
        let provider = self.client.provider();
        let gwei = |amount: u128| amount * 1_000_000_000;
        provider.anvil_set_next_block_base_fee_per_gas(base_fee).await?;
        let carries = self
            .client
            .fulfill(vec![answer])
            .into_transaction()
            .with_gas_limit(1_000_000)
            .with_max_fee_per_gas(gwei(200))
            .with_max_priority_fee_per_gas(gwei(100));
        let pending = provider.send_transaction(carries).await?;
        provider.anvil_mine(Some(1), None).await?;
        ensure!(pending.get_receipt().await?.status(), "the answer was refused");
        Ok(())
    }

    /// Waits until a request stands somewhere.
    pub async fn wait_for(&self, id: RequestId, wanted: RequestStatus) -> Result<CallbackStatus> {
        self.wait_for_long(id, wanted, Duration::from_secs(60)).await
    }

    /// Waits until a request stands somewhere, for so long at most.
    pub async fn wait_for_long(
        &self,
        id: RequestId,
        wanted: RequestStatus,
        patience: Duration,
    ) -> Result<CallbackStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let (status, callback) = self.client.status(id).await?;
            if status == wanted {
                return Ok(callback);
            }
            if Instant::now() > deadline {
                bail!("request {id} is {status:?} after {patience:?}, expected {wanted:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an account holds exactly so many wei; more is an error at once.
    pub async fn wait_for_balance(&self, account: Address, wanted: U256) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let balance = self.client.provider().get_balance(account).await?;
            ensure!(balance <= wanted, "{account} holds {balance} wei, more than {wanted}");
            if balance == wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{account} holds {balance} wei after a minute, expected {wanted}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Moves the chain's clock.
    pub async fn pass(&self, seconds: u64) -> Result<()> {
        self.client.provider().anvil_increase_time(seconds).await?;
        self.client.provider().anvil_mine(Some(1), None).await?;
        Ok(())
    }

    /// Waits for a result, passes the window, waits for finality. The result's output.
    pub async fn settle(&self, id: RequestId) -> Result<Bytes> {
        self.wait_for(id, RequestStatus::Fulfilled).await?;
        self.pass(WINDOW).await?;
        self.wait_for(id, RequestStatus::Finalized).await?;
        Ok(self.client.fulfilled(id, 0).await?.context("no result")?.0.output)
    }

    /// How many events of a kind there are for a request, from the first block on.
    pub async fn count<E: SolEvent>(&self, id: RequestId) -> Result<usize> {
        Ok(self.logs::<E>(id).await?.len())
    }

    /// The events of a kind for a request, from the first block on.
    pub async fn logs<E: SolEvent>(&self, id: RequestId) -> Result<Vec<alloy::rpc::types::Log>> {
        let filter = alloy::rpc::types::Filter::new()
            .address(self.client.oracle)
            .event_signature(E::SIGNATURE_HASH)
            .topic1(B256::from(U256::from(id.0)))
            .from_block(0);
        Ok(self.client.provider().get_logs(&filter).await?)
    }

    /// Transactions of an account that are in a block and reverted.
    pub async fn failed_transactions(&self, account: Address) -> Result<Vec<B256>> {
        let provider = self.client.provider();
        let mut failed = Vec::new();
        for number in 0..=provider.get_block_number().await? {
            let receipts = provider.get_block_receipts(number.into()).await?.context("no such block")?;
            failed.extend(
                receipts
                    .iter()
                    .filter(|receipt| receipt.from == account && !receipt.status())
                    .map(|r| r.transaction_hash),
            );
        }
        Ok(failed)
    }

    /// Balance of the oracle: everything that is owed to somebody.
    pub async fn oracle_balance(&self) -> Result<U256> {
        Ok(self.client.provider().get_balance(self.client.oracle).await?)
    }

    /// What the reference interpreter answers: the one right answer.
    pub fn right_answer(&self, model: &str, input: &[u8]) -> Result<Vec<u8>> {
        Ok(self.models[model].reference(input, &candor_sdk::program::Params::default(), [0; 32])?)
    }
}

/// Money and clocks of disputes here.
pub fn dispute_terms() -> Terms {
    let milliether = |amount: u64| U96::from(amount) * U96::from(10u64.pow(15));
    Terms {
        bond: milliether(10),
        reward: milliether(20),
        gasAllowance: milliether(5),
        maxGasPrice: 2_000_000_000,
        clock: 600,
        increment: 10,
        extension: 60,
    }
}

/// Seconds after which whoever's turn it is has no time left, whatever was gained by moves so far. Where no block comes, the chain's clock stands still for
/// whoever reads it: what is passed has to be enough at once.
pub fn out_of_time() -> u64 {
    let terms = dispute_terms();
    u64::from(terms.clock + 16 * terms.increment + terms.extension) + 1
}

/// Wei of so many ether.
pub fn ether(amount: u64) -> U256 {
    U256::from(amount) * U256::from(10).pow(U256::from(18))
}

/// The request made in a transaction.
pub fn request_id(receipt: &TransactionReceipt) -> Result<RequestId> {
    receipt
        .logs()
        .iter()
        .find_map(|log| Announced::read(log.data()))
        .and_then(|announced| Some(Request::unpack(&announced.request).ok()?.id))
        .context("no request in the transaction")
}

/// A digit-sized image that is not blank.
pub fn image() -> Vec<u8> {
    (0..784u32).map(|pixel| if (300..500).contains(&pixel) { 200 } else { 0 }).collect()
}

/// Twenty numbers for the credit model.
pub fn applicant() -> Vec<u8> {
    (0..20u8).flat_map(|attribute| f32::from(attribute).to_be_bytes()).collect()
}

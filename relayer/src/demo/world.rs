//! The demo's world: a chain, the contracts, the embedded models, an operator, two contracts that ask.
use super::{consumers::Consumer, event::Event, narrator::Narrator};
use crate::{
    anvil::{Anvil, AnvilOptions, dev_key},
    chain::{ANSWER_WITHIN, GasLimits, WatchSettings},
    config::{ModelSource, Wei},
    models::CatalogModel,
    pipeline::{OperatorSettings, Served, Settings},
};
use alloy::{
    network::EthereumWallet,
    primitives::{Address, I256, U256, aliases::U96},
    providers::{DynProvider, Provider, ProviderBuilder},
    rpc::client::ClientBuilder,
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::SolValue,
};
use anyhow::Context as _;
use candor_sdk::{
    bindings::Terms,
    client::Client,
    commitment::signature_bytes,
    deploy::{Artifact, DeploySettings, Disputes, deploy, deploy_verifier},
};
use std::{collections::HashMap, io::Write, path::Path, time::Duration};

/// Seconds in which a result can be challenged here; on a public chain it would be days.
pub(super) const WINDOW: u64 = 5;

/// What the operator asks for an answer.
pub(super) const PRICE: Wei = Wei::milliether(1);

/// What the operator puts down, and what each unfinished result locks of it.
const STAKE: Wei = Wei::milliether(10_000);
const STAKE_PER_RESULT: Wei = Wei::milliether(100);

/// The highest risk that the loan desk approves: one half, as WAD.
const THRESHOLD: i64 = 500_000_000_000_000_000;

/// Where earnings go.
pub(super) const TREASURY: Address = Address::repeat_byte(0x77);

/// Everything that is there before the first question.
pub(super) struct World {
    /// Holds the chain; gone with it.
    pub(super) anvil: Anvil,
    /// Pays for the questions.
    pub(super) asker: Client<DynProvider>,
    /// With what account.
    pub(super) payer: Address,
    pub(super) models: HashMap<&'static str, CatalogModel>,
    pub(super) desk: Consumer,
    pub(super) reader: Consumer,
    pub(super) operator: PrivateKeySigner,
    pub(super) signer: PrivateKeySigner,
    /// The account of the second act's liar, with stake for a few results.
    pub(super) liar: PrivateKeySigner,
    /// The account of the second act's watcher.
    pub(super) watcher: PrivateKeySigner,
    /// Money and clocks of disputes.
    pub(super) terms: Terms,
    block: u64,
}

impl World {
    /// Makes it, telling each step.
    pub(super) async fn make<W: Write>(narrator: &mut Narrator<W>) -> anyhow::Result<Self> {
        // Blocks at once while things are set up; one a second later.
        let anvil = Anvil::start(&AnvilOptions::default()).await?;
        let owner = dev_key(0);
        let provider = provider(&anvil, &owner);
        let chain_id = provider.get_chain_id().await?;
        let kind = "anvil on this machine, a block every second".into();
        narrator.tell(&Event::Chain { kind, chain_id, url: format!("http://127.0.0.1:{}", anvil.port()) })?;

        let verifier = deploy_verifier(&provider).await.context("the step verifier can't be deployed")?;
        let settings = DeploySettings {
            disputes: Some(Disputes { verifier, terms: terms() }),
            challenge_window: WINDOW,
            exclusive_period: 30,
            min_timeout: 60,
            max_timeout: 86_400,
            stake_per_result: U256::from(STAKE_PER_RESULT.0),
            max_callback_gas: 2_000_000,
            revocation_gas: 100_000,
            min_stake: U256::from(Wei::milliether(1_000).0),
            withdrawal_delay: 60,
        };
        let deployment =
            deploy(&provider, owner.address(), &settings).await.context("the contracts can't be deployed")?;
        let client = Client::connect(provider, deployment.oracle).await?;
        let (oracle, operators, registry) = (client.oracle, client.operators, client.models);
        narrator.tell(&Event::Deployed { oracle, operators, models: registry, challenge_window: WINDOW })?;

        let mut models = HashMap::new();
        for name in ModelSource::BUILTIN {
            let model = CatalogModel::load(&ModelSource::Builtin(name))?;
            let receipt = client.send(client.register_model(model.descriptor(), String::new())).await?;
            narrator.tell(&Event::ModelRegistered { model: name.to_owned(), id: model.id(), gas: receipt.gas_used })?;
            models.insert(name, model);
        }

        let (operator, signer) = (dev_key(1), PrivateKeySigner::random());
        let joining = Client::connect(self::provider(&anvil, &operator), oracle).await?;
        joining.send(joining.deposit_stake(operator.address(), U256::from(STAKE.0))).await?;
        let consent = signer.sign_hash_sync(&joining.operators_domain().consent_digest(operator.address()))?;
        joining.send(joining.add_signer(signer.address(), signature_bytes(&consent))).await?;
        for model in models.values() {
            joining.send(joining.set_offer(model.id(), PRICE.0)).await?;
        }
        narrator.tell(&Event::OperatorJoined {
            operator: operator.address(),
            signer: signer.address(),
            stake: U256::from(STAKE.0),
            price: U256::from(PRICE.0),
        })?;

        let (liar, watcher) = (dev_key(3), dev_key(4));
        let joining = Client::connect(self::provider(&anvil, &liar), oracle).await?;
        joining.send(joining.deposit_stake(liar.address(), U256::from(STAKE.0))).await?;
        let consent = liar.sign_hash_sync(&joining.operators_domain().consent_digest(liar.address()))?;
        joining.send(joining.add_signer(liar.address(), signature_bytes(&consent))).await?;

        let desk = (oracle, models["credit"].id().0, I256::try_from(THRESHOLD)?).abi_encode_params();
        let desk = Consumer::LoanDesk(Artifact::loan_desk().deploy(client.provider(), desk).await?.0);
        let reader = (oracle, models["digits"].id().0).abi_encode_params();
        let reader = Consumer::DigitReader(Artifact::digit_reader().deploy(client.provider(), reader).await?.0);
        for consumer in [desk, reader] {
            let (name, model) = (consumer.name().to_owned(), consumer.model().to_owned());
            narrator.tell(&Event::ConsumerDeployed { consumer: name, address: consumer.address(), model })?;
        }
        client.provider().raw_request::<_, serde_json::Value>("evm_setIntervalMining".into(), [1]).await?;
        let payer = dev_key(2);
        let asker = Client::connect(self::provider(&anvil, &payer), oracle).await?;
        Ok(Self {
            anvil,
            asker,
            payer: payer.address(),
            models,
            desk,
            reader,
            operator,
            signer,
            liar,
            watcher,
            terms: terms(),
            block: deployment.block,
        })
    }

    /// A client that pays with a key of this world.
    pub(super) async fn joiner(&self, key: &PrivateKeySigner) -> anyhow::Result<Client<DynProvider>> {
        Ok(Client::connect(provider(&self.anvil, key), self.asker.oracle).await?)
    }

    /// What the relayer is started with; its database goes into `folder`. Earnings are taken out once they reach `payout_at`.
    pub(super) fn relayer_settings(&self, folder: &Path, payout_at: U256) -> Settings {
        let served = self.models.iter().map(|(name, model)| {
            (model.id(), Served { name: (*name).to_owned(), min_fee: PRICE.0 / 2, model: model.runner() })
        });
        Settings {
            rpc_urls: vec![self.anvil.url()],
            chain_id: self.asker.chain_id,
            oracle: self.asker.oracle,
            start_block: self.block,
            watch: WatchSettings {
                confirmations: 0,
                poll_interval: Duration::from_millis(200),
                answer_within: ANSWER_WITHIN,
                max_block_range: 1_000,
                overlap: 2,
            },
            gas: GasLimits {
                max_fee_per_gas: Wei::gwei(100).0,
                max_daily_spend: U256::from(Wei::milliether(1_000).0),
                bump_after: Duration::from_secs(30),
                bump_percent: 15,
                at_a_loss: false,
            },
            store: folder.join("candor.db").into(),
            lease: crate::store::LEASE,
            locks: folder.to_owned(),
            http: None,
            inputs: crate::fetch::FetchSettings::default(),
            watcher: None,
            operator: Some(OperatorSettings {
                account: self.operator.clone().into(),
                signer: self.signer.clone().into(),
                models: served.collect(),
                payout: Some((TREASURY, payout_at)),
            }),
        }
    }
}

/// Money and clocks of disputes here; on a public chain there would be days.
fn terms() -> Terms {
    let milliether = |amount: u64| U96::from(amount) * U96::from(10u64.pow(15));
    Terms {
        bond: milliether(50),
        reward: milliether(30),
        gasAllowance: milliether(20),
        maxGasPrice: 10_000_000_000,
        clock: 60,
        increment: 5,
        extension: 10,
    }
}

fn provider(anvil: &Anvil, key: &PrivateKeySigner) -> DynProvider {
    let client = ClientBuilder::default().http(anvil.url()).with_poll_interval(Duration::from_millis(50));
    ProviderBuilder::new().wallet(EthereumWallet::from(key.clone())).connect_client(client).erased()
}

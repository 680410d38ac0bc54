//! What the store promises: facts once, steps forward only, one owner, one version.

use super::*;
use crate::postgres::Postgres;
use alloy::primitives::{Bytes, U256, aliases::U96, keccak256};
use alloy::sol_types::SolValue;
use candor_sdk::{
    bindings::{Delivery, Fulfillment, IInferenceOracle, IInferenceOracle::IInferenceOracleEvents as Event, Params},
    client::OracleLog,
    ids::{ModelId, RequestId},
    request::Request,
};

const CHAIN: u64 = 31337;
const ORACLE: Address = Address::repeat_byte(0x0a);
const US: Address = Address::repeat_byte(0x05);
const WINDOW: u64 = 600;
const MODEL: ModelId = ModelId(B256::repeat_byte(2));

fn request(id: u64, input: &[u8]) -> Request {
    Request {
        id: RequestId(id),
        attempt: 0,
        requester: Address::repeat_byte(1),
        model: MODEL,
        input_hash: keccak256(input),
        seed: B256::repeat_byte(3),
        params: Params::default(),
        input_by_uri: false,
        delivery: Delivery::Final,
        callback_gas_limit: 0,
        callback_gas_price: 0,
        fee: 1,
        operator: US,
        exclusive_until: 1_000,
        deadline: 5_000,
    }
}

fn log(block: u64, event: Event) -> OracleLog {
    OracleLog { event, block_number: block, block_hash: hash_of(block, 0), transaction: B256::ZERO, log_index: 0 }
}

fn hash_of(block: u64, fork: u64) -> B256 {
    keccak256([block.to_be_bytes(), fork.to_be_bytes()].concat())
}

fn requested(block: u64, id: u64, input: &'static [u8]) -> OracleLog {
    let request = request(id, input);
    log(
        block,
        Event::Requested(IInferenceOracle::Requested {
            id,
            modelId: request.model.0,
            operator: request.operator,
            request: request.pack(),
            input: Bytes::from_static(input),
        }),
    )
}

fn fulfilled(block: u64, id: u64, operator: Address) -> OracleLog {
    let fulfillment =
        Fulfillment { operator, fulfilledAt: 100, callbackCost: U96::ZERO, outputHash: keccak256(b"answer") };
    let output = Bytes::from_static(b"answer");
    log(block, Event::Fulfilled(IInferenceOracle::Fulfilled { id, operator, fulfillment, output }))
}

fn finalized(block: u64, id: u64) -> OracleLog {
    let (paid, refunded) = (U256::from(7), U256::ZERO);
    log(block, Event::Finalized(IInferenceOracle::Finalized { id, operator: US, paid, refunded }))
}

struct Opened {
    store: Store,
    location: StoreLocation,
    /// The file's folder, or the server.
    _place: (tempfile::TempDir, Option<Arc<Postgres>>),
}

impl Opened {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::at(StoreLocation::File(folder.path().join("candor.db")), (folder, None)).await
    }

    async fn at(location: StoreLocation, place: (tempfile::TempDir, Option<Arc<Postgres>>)) -> Self {
        let store = Store::open(location.clone(), CHAIN, ORACLE, 10).await.unwrap();
        assert!(store.sign_of_life(&WorkerCard::default(), true).await.unwrap(), "alone, it is the submitter");
        Self { store, location, _place: place }
    }

    /// A second process on the same store, where that can be.
    async fn second(&self) -> Store {
        Store::open(self.location.clone(), CHAIN, ORACLE, 0).await.unwrap()
    }

    async fn claim(&self, operator: Address, now: u64) -> Vec<RequestRow> {
        self.store.claim(Step::Seen, operator, &[MODEL], now, 10).await.unwrap()
    }

    async fn row(&self, key: (u64, u32)) -> RequestRow {
        self.store.request(RequestId(key.0)).await.unwrap().unwrap()
    }

    async fn inferred(&self, key: (u64, u32), output: &[u8]) {
        let row = self.row(key).await;
        self.store.inferred(&[(&row.request, output.to_vec())], Duration::from_millis(3)).await.unwrap();
    }

    async fn signed(&self, key: (u64, u32)) {
        let row = self.row(key).await;
        self.store.signed(&[(&row.request, vec![1; 65])]).await.unwrap();
    }

    async fn apply(&self, last: u64, logs: &[OracleLog]) {
        let last_hash = hash_of(last, 0);
        let range = BlockRange { last, last_hash, logs, operator: US, challenge_window: WINDOW };
        self.store.apply(range).await.unwrap();
    }

    async fn step(&self, id: u64) -> Option<Step> {
        self.store.request(RequestId(id)).await.unwrap().map(|row| row.step)
    }
}

/// The same test on a SQLite file and on a Postgres server.
async fn on_both(test: impl AsyncFn(Opened)) {
    test(Opened::sqlite().await).await;
    on_postgres(test).await;
}

async fn on_postgres(test: impl AsyncFn(Opened)) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let Some(server) = Postgres::for_test(&name) else { return };
    let location = StoreLocation::Postgres(Box::new(server.database().unwrap()));
    test(Opened::at(location, (tempfile::tempdir().unwrap(), Some(server))).await).await;
}

#[tokio::test]
async fn the_same_range_again_changes_nothing() {
    on_both(async |opened: Opened| {
        assert_eq!(opened.store.next_block().await.unwrap(), 10);
        let logs = [requested(11, 1, b"one"), fulfilled(12, 1, US), finalized(13, 1)];
        opened.apply(13, &logs).await;
        let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
        assert_eq!((row.step, row.final_at, row.paid), (Step::Finalized, Some(100 + WINDOW), Some(U256::from(7))));
        for cut in [&logs[..1], &logs[..2], &logs[..]] {
            opened.apply(13, cut).await;
            assert_eq!(opened.store.request(RequestId(1)).await.unwrap().unwrap(), row, "a step back");
        }
        assert_eq!(opened.store.next_block().await.unwrap(), 14);
        opened.apply(12, &logs[..2]).await;
        assert_eq!(opened.store.next_block().await.unwrap(), 14, "the cursor does not go back by itself");
    })
    .await;
}

#[tokio::test]
async fn steps_go_forward_one_by_one() {
    on_both(async |opened: Opened| {
        opened.apply(11, &[requested(11, 1, b"one")]).await;
        let key = (1, 0);
        opened.signed(key).await;
        assert_eq!(opened.step(1).await, Some(Step::Seen), "nothing is signed that was not inferred");
        opened.inferred(key, b"answer").await;
        opened.inferred(key, b"another answer").await;
        let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
        assert_eq!(
            row.output.unwrap(),
            Bytes::from_static(b"answer"),
            "an output that may have been signed is not replaced"
        );
        opened.signed(key).await;
        let sent = SentTransaction {
            hash: B256::repeat_byte(9),
            nonce: 0,
            purpose: Purpose::Fulfill,
            raw: Bytes::from_static(b"raw"),
            max_fee: 5,
            gas_limit: 6,
        };
        opened.store.sending(&sent, &[key]).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Posting));
        assert!(opened.store.stranded(10).await.unwrap().is_empty(), "in flight");
        assert_eq!(opened.store.unresolved().await.unwrap(), vec![sent.clone()]);
        let outcome = (sent.hash, TransactionState::Failed, 12, 21_000, U256::from(42));
        opened.store.resolved(0, Some(outcome)).await.unwrap();
        assert_eq!(opened.store.stranded(10).await.unwrap(), [(Step::Posting, key)], "it reverted");
        assert_eq!(
            opened.store.spent_since(0).await.unwrap(),
            U256::from(42),
            "a transaction that reverted costs gas too"
        );
        opened.store.released(key).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Signed), "free for another transaction");
    })
    .await;
}

/// Events come while a transaction is made: it was to carry an answer that somebody else has carried, or to settle a result that was taken back.
#[tokio::test]
async fn what_became_of_a_request_while_a_transaction_was_made_for_it_stays() {
    on_both(async |opened: Opened| {
        opened.apply(11, &[requested(11, 1, b"one"), requested(11, 2, b"two")]).await;
        for key in [(1, 0), (2, 0)] {
            opened.inferred(key, b"answer").await;
            opened.signed(key).await;
        }
        let sent = |nonce, purpose| SentTransaction {
            hash: B256::with_last_byte(u8::try_from(nonce).unwrap()),
            nonce,
            purpose,
            raw: Bytes::from_static(b"raw"),
            max_fee: 5,
            gas_limit: 6,
        };
        opened.apply(12, &[fulfilled(12, 1, US)]).await;
        opened.store.sending(&sent(0, Purpose::Fulfill), &[(1, 0), (2, 0)]).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Posted), "to be settled");
        assert_eq!(opened.step(2).await, Some(Step::Posting));
        opened
            .store
            .resolved(0, Some((sent(0, Purpose::Fulfill).hash, TransactionState::Mined, 13, 1, U256::ONE)))
            .await
            .unwrap();
        opened.apply(13, &[fulfilled(13, 2, US)]).await;

        opened.store.rewind(13).await.unwrap();
        opened.store.released((2, 0)).await.unwrap();
        opened.store.sending(&sent(1, Purpose::Finalize), &[(1, 0), (2, 0)]).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Finalizing));
        assert_eq!(opened.step(2).await, Some(Step::Signed), "to be posted again");
    })
    .await;
}

/// A nonce that is free again after a reorganisation: nodes may still have the transaction that had used it, and whichever is mined is known.
#[tokio::test]
async fn whoever_uses_a_nonce_again_watches_what_had_used_it() {
    on_both(async |opened: Opened| {
        let sent = |hash: u8, max_fee| SentTransaction {
            hash: B256::with_last_byte(hash),
            nonce: 7,
            purpose: Purpose::Fulfill,
            raw: Bytes::from_static(b"raw"),
            max_fee,
            gas_limit: 6,
        };
        let (cheap, dear, new) = (sent(1, 5), sent(2, 6), sent(3, 4));
        let mined = |hash| Some((hash, TransactionState::Mined, 12, 100, U256::from(9)));
        assert!(opened.store.sending(&cheap, &[]).await.unwrap().is_empty());
        assert!(opened.store.sending(&dear, &[]).await.unwrap().is_empty(), "both are in flight");
        opened.store.resolved(7, mined(dear.hash)).await.unwrap();
        assert_eq!(opened.store.unresolved().await.unwrap(), []);
        let mut earlier = opened.store.sending(&new, &[]).await.unwrap();
        earlier.sort();
        assert_eq!(earlier, [cheap.hash, dear.hash]);
        assert_eq!(opened.store.unresolved().await.unwrap(), [new.clone(), cheap.clone(), dear.clone()]);
        assert_eq!(opened.store.spent_since(0).await.unwrap(), U256::ZERO, "what was taken back cost nothing");
        opened.store.resolved(7, mined(cheap.hash)).await.unwrap();
        assert_eq!(opened.store.unresolved().await.unwrap(), []);
        assert_eq!(opened.store.spent_since(0).await.unwrap(), U256::from(9));
        // The very same bytes, signed again, are no other transaction.
        let mut earlier = opened.store.sending(&cheap, &[]).await.unwrap();
        earlier.sort();
        assert_eq!(earlier, [dear.hash, new.hash]);
    })
    .await;
}

/// The cursor goes back for events that were not shown. What is known stays, and reorganisations are still noticed where the chain was read last.
#[tokio::test]
async fn blocks_that_are_read_again_change_nothing_that_is_known() {
    on_both(async |opened: Opened| {
        assert_eq!(opened.store.newest_block().await.unwrap(), None);
        opened.apply(40, &[requested(11, 1, b"one"), requested(30, 3, b"three"), fulfilled(31, 1, US)]).await;
        assert_eq!(opened.store.last_request().await.unwrap(), Some((3, 30)));
        assert_eq!(opened.store.asked_in((1, 0)).await.unwrap(), Some(11));
        assert_eq!(opened.store.asked_in((1, 1)).await.unwrap(), None);
        opened.store.read_again(11).await.unwrap();
        opened.store.read_again(20).await.unwrap();
        assert_eq!(opened.store.next_block().await.unwrap(), 11, "from the first on");
        assert_eq!(opened.store.newest_block().await.unwrap(), Some((40, hash_of(40, 0))));
        opened.apply(25, &[requested(11, 1, b"one"), requested(20, 2, b"two")]).await;
        assert_eq!(opened.store.next_block().await.unwrap(), 26);
        assert_eq!(opened.store.newest_block().await.unwrap(), Some((40, hash_of(40, 0))));
        let steps = [opened.step(1).await, opened.step(2).await, opened.step(3).await];
        assert_eq!(steps, [Some(Step::Posted), Some(Step::Seen), Some(Step::Seen)]);
    })
    .await;
}

#[tokio::test]
async fn what_others_answered_is_left_alone() {
    on_both(async |opened: Opened| {
        let other = Address::repeat_byte(6);
        opened.apply(12, &[requested(11, 1, b"one"), fulfilled(12, 1, other)]).await;
        let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
        assert_eq!(row.step, Step::Dropped);
        assert_eq!(row.reason.unwrap(), format!("answered by operator {other}"));
        assert!(opened.store.finalizable(u64::from(u32::MAX), 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn exclusive_minutes_are_respected() {
    on_both(async |opened: Opened| {
        opened.apply(11, &[requested(11, 1, b"one")]).await;
        assert_eq!(opened.claim(Address::repeat_byte(6), 999).await.len(), 0);
        assert_eq!(opened.claim(US, 0).await.len(), 1, "ours at once");
        assert_eq!(opened.claim(Address::repeat_byte(6), 1_000).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_reorganisation_is_forgotten_exactly() {
    on_both(async |opened: Opened| {
        opened.apply(13, &[requested(11, 1, b"one"), requested(12, 2, b"two"), fulfilled(13, 1, US)]).await;
        assert_eq!(opened.store.block_hash(13).await.unwrap(), Some(hash_of(13, 0)));
        opened.store.rewind(12).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Seen), "asked before, answered after: to be answered");
        assert_eq!(opened.step(2).await, None, "asked after: it never was");
        assert_eq!(opened.store.next_block().await.unwrap(), 12);
        assert_eq!(opened.store.block_hash(13).await.unwrap(), None);
        // The same number with another content replaces what a reorganisation left behind.
        opened.apply(12, &[requested(12, 1, b"another")]).await;
        let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
        assert_eq!(row.input, Bytes::from_static(b"another"));
    })
    .await;
}

#[tokio::test]
async fn what_was_found_out_for_a_request_never_becomes_that_of_its_replacement() {
    on_both(async |opened: Opened| {
        opened.apply(12, &[requested(11, 1, b"one")]).await;
        let claimed = opened.claim(US, 0).await;
        // While the model runs, a reorganisation puts another request under the same number.
        opened.store.rewind(11).await.unwrap();
        opened.apply(12, &[requested(11, 1, b"another")]).await;
        let old = &claimed[0].request;
        opened.store.inferred(&[(old, b"answer".to_vec())], Duration::ZERO).await.unwrap();
        opened.store.dropped(old, "no reason").await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Seen), "nothing is known about this one");
        let new = opened.claim(US, 0).await;
        assert_eq!(new[0].input, Bytes::from_static(b"another"));
        opened.store.inferred(&[(&new[0].request, b"its own".to_vec())], Duration::ZERO).await.unwrap();
        opened.store.signed(&[(old, vec![1; 65])]).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Inferred), "another's signature is none");

        // While the chain is asked where an input is, too.
        let again = |input: &'static [u8]| {
            let request = Request { input_by_uri: true, attempt: 1, operator: Address::ZERO, ..request(2, input) };
            let (model, packed, input) = (request.model.0, request.pack(), Bytes::new());
            let event =
                IInferenceOracle::Requested { id: 2, modelId: model, operator: Address::ZERO, request: packed, input };
            OracleLog { log_index: 2, ..log(13, Event::Requested(event)) }
        };
        opened.apply(13, &[again(b"one")]).await;
        let old = opened.row((2, 1)).await.request;
        opened.store.rewind(13).await.unwrap();
        opened.apply(13, &[again(b"another")]).await;
        opened.store.input_is_at(&old, "https://host/one", 3).await.unwrap();
        let by_uri = async || opened.row((2, 1)).await.by_uri.unwrap().uri;
        assert_eq!(by_uri().await, None, "where another's input is says nothing of this one's");
        let new = opened.row((2, 1)).await.request;
        opened.store.input_is_at(&new, "https://host/another", 7).await.unwrap();
        opened.store.input_is_at(&new, "https://host/elsewhere", 7).await.unwrap();
        assert_eq!(by_uri().await.as_deref(), Some("https://host/another"), "said once");
    })
    .await;
}

#[tokio::test]
async fn a_settlement_that_a_reorganisation_took_back_is_due_again() {
    on_both(async |opened: Opened| {
        opened.apply(13, &[requested(11, 1, b"one"), fulfilled(12, 1, US), finalized(13, 1)]).await;
        opened.store.rewind(13).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Posted));
        assert_eq!(opened.store.earned().await.unwrap(), U256::ZERO);
        assert_eq!(opened.store.finalizable(100 + WINDOW, 10).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn one_file_has_one_owner_one_deployment_one_version() {
    on_both(async |opened: Opened| {
        let location = opened.location.clone();
        if !location.is_shared() {
            let second = Store::open(location.clone(), CHAIN, ORACLE, 0).await.map(|_| ()).unwrap_err();
            assert!(matches!(second, StoreError::InUse(_)), "{second}");
        }
        let beside = Store::open_read_only(location.clone()).await.unwrap();
        assert!(beside.has_relayer().await.unwrap(), "it holds the file, or has just given a sign of life");
        assert_eq!(beside.deployment().await.unwrap(), (CHAIN, ORACLE));
        assert!(beside.drop_expired(0).await.is_err(), "whoever looks changes nothing");
        let pool = opened.store.pool.clone();
        drop(opened.store);
        assert_eq!(beside.has_relayer().await.unwrap(), location.is_shared(), "the lock goes with whoever held it");

        let other = Store::open(location.clone(), 1, ORACLE, 0).await.map(|_| ()).unwrap_err();
        assert!(matches!(other, StoreError::OtherDeployment { stored_chain: CHAIN, chain: 1, .. }), "{other}");

        let no_checksum = if location.is_shared() { "''" } else { "x''" };
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', TRUE, {no_checksum}, 0)"
        )))
        .execute(&pool)
        .await
        .unwrap();
        for error in [
            Store::open(location.clone(), CHAIN, ORACLE, 0).await.map(|_| ()).unwrap_err(),
            Store::open_read_only(location.clone()).await.map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Version { .. }), "{error}");
            assert!(
                error.to_string().contains("another version of Candor") && error.to_string().contains("999"),
                "{error}"
            );
        }
    })
    .await;
}

/// Brings a store to where the version with schema `last` left it, with a request half done in it, and opens it with this version.
async fn upgrades_from(last: i64, location: StoreLocation) {
    let pool = location.connect(false).await.unwrap();
    let older = location.migrations().iter().filter(|migration| migration.version <= last).cloned().collect::<Vec<_>>();
    sqlx::migrate::Migrator { migrations: older.into(), ..sqlx::migrate::Migrator::DEFAULT }.run(&pool).await.unwrap();
    sqlx::query("INSERT INTO deployment (one, chain_id, oracle, next_block) VALUES (1, $1, $2, 77)")
        .bind(i64::try_from(CHAIN).unwrap())
        .bind(ORACLE.to_vec())
        .execute(&pool)
        .await
        .unwrap();
    let request = request(7, b"one");
    sqlx::query(
        "INSERT INTO requests (id, attempt, step, request, model, input, drawn, exclusive_until, deadline, block, output, seen_at, updated_at)
         VALUES (7, 0, 'inferred', $1, $2, $3, $4, 1000, 5000, 70, $5, 1, 1)",
    )
    .bind(request.pack().abi_encode())
    .bind(MODEL.0.to_vec())
    .bind(b"one".to_vec())
    .bind(US.to_vec())
    .bind(b"answer".to_vec())
    .execute(&pool)
    .await
    .unwrap();
    if last >= 4 {
        // Since then it is written with the request.
        let update = sqlx::query("UPDATE requests SET requester = $1").bind(request.requester.to_vec());
        update.execute(&pool).await.unwrap();
    }
    pool.close().await;

    let error = Store::open_read_only(location.clone()).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("`candor run` brings it up to date"), "{error}");
    let store = Store::open(location.clone(), CHAIN, ORACLE, 0).await.unwrap();
    assert_eq!(store.next_block().await.unwrap(), 77);
    let rows = store.claim(Step::Inferred, US, &[MODEL], 0, 10).await.unwrap();
    assert_eq!(rows.len(), 1, "work goes on where it was");
    assert_eq!((rows[0].key(), rows[0].output.clone()), ((7, 0), Some(Bytes::from_static(b"answer"))));
    let requester = sqlx::query("SELECT requester FROM requests").fetch_one(&store.pool).await.unwrap();
    assert_eq!(address(requester.try_get(0).unwrap()).unwrap(), request.requester, "whose turn it is");
    drop(store);
    assert_eq!(Store::open_read_only(location).await.unwrap().next_block().await.unwrap(), 77);
}

#[tokio::test]
async fn an_older_database_is_brought_up_to_date_with_all_that_is_in_it() {
    let known = |location: &StoreLocation| location.migrations().iter().map(|one| one.version).collect::<Vec<_>>();
    let folder = tempfile::tempdir().unwrap();
    let file = |version: i64| StoreLocation::File(folder.path().join(format!("{version}.db")));
    let versions = known(&file(0));
    for version in &versions[..versions.len() - 1] {
        upgrades_from(*version, file(*version)).await;
    }
    let Some(server) = Postgres::for_test("an_older_database_is_brought_up_to_date_with_all_that_is_in_it") else {
        return;
    };
    for version in &versions[..versions.len() - 1] {
        let location = StoreLocation::Postgres(Box::new(server.database().unwrap()));
        assert_eq!(known(&location), versions, "both kinds of database change together");
        upgrades_from(*version, location).await;
    }
}

#[tokio::test]
async fn files_that_are_no_database_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "groceries, and enough of them that SQLite reads a header").unwrap();
    let error = Store::open(text.as_path(), CHAIN, ORACLE, 0).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
    let error = Store::open(folder.path(), CHAIN, ORACLE, 0).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    let error = Store::open_read_only(folder.path().join("missing.db")).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("missing.db"), "{error}");
}

fn requested_again(block: u64, id: u64, attempt: u32) -> OracleLog {
    let request = Request { attempt, operator: Address::ZERO, ..request(id, b"one") };
    let (model, packed) = (request.model.0, request.pack());
    let input = Bytes::from_static(b"one");
    let event = IInferenceOracle::Requested { id, modelId: model, operator: Address::ZERO, request: packed, input };
    OracleLog { log_index: 1, ..log(block, Event::Requested(event)) }
}

#[tokio::test]
async fn old_events_that_are_read_again_do_not_reach_a_new_attempt() {
    on_both(async |opened: Opened| {
        let rejected = IInferenceOracle::ResultRejected { id: 1, operator: US, slashed: U256::from(1) };
        let first = [
            requested(11, 1, b"one"),
            fulfilled(12, 1, US),
            log(13, Event::DisputeOpened(IInferenceOracle::DisputeOpened { id: 1, operator: US })),
            log(14, Event::ResultRejected(rejected)),
            requested_again(14, 1, 1),
        ];
        opened.apply(14, &first).await;
        let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
        assert_eq!((row.key(), row.step), ((1, 1), Step::Seen), "open again");
        opened.apply(14, &first).await;
        let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
        assert_eq!((row.step, row.fulfillment), (Step::Seen, None), "the first attempt's result is not the second's");

        opened.apply(15, &[fulfilled(15, 1, US)]).await;
        assert_eq!(opened.step(1).await, Some(Step::Posted));
        opened.apply(15, &first).await;
        assert_eq!(opened.step(1).await, Some(Step::Posted), "the first attempt's dispute is not the second's");
        let counts = opened.store.counts().await.unwrap();
        assert_eq!((counts.of(Step::Dropped), counts.of(Step::Posted)), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn the_same_bytes_can_be_in_flight_again() {
    on_both(async |opened: Opened| {
        opened.apply(11, &[requested(11, 1, b"one")]).await;
        let key = (1, 0);
        opened.inferred(key, b"answer").await;
        opened.signed(key).await;
        let raw = Bytes::from_static(b"raw");
        let hash = B256::repeat_byte(9);
        let sent = SentTransaction { hash, nonce: 0, purpose: Purpose::Fulfill, raw, max_fee: 5, gas_limit: 6 };
        opened.store.sending(&sent, &[key]).await.unwrap();
        opened.store.resolved(0, Some((hash, TransactionState::Mined, 12, 21_000, U256::from(42)))).await.unwrap();
        assert!(opened.store.stranded(10).await.unwrap().is_empty(), "its block is not read yet");

        // Its block is read, without the event that should be in it: a reorganisation took it back.
        opened.apply(12, &[]).await;
        assert_eq!(opened.store.stranded(10).await.unwrap(), [(Step::Posting, key)]);
        opened.store.released(key).await.unwrap();
        // Same nonce, same price, same call, and signatures are deterministic.
        opened.store.sending(&sent, &[key]).await.unwrap();
        assert_eq!(opened.store.unresolved().await.unwrap(), vec![sent]);
        assert_eq!(opened.step(1).await, Some(Step::Posting));
        assert_eq!(opened.store.spent_since(0).await.unwrap(), U256::ZERO, "not paid twice");
    })
    .await;
}

#[tokio::test]
async fn replacements_are_in_the_order_of_their_price() {
    on_both(async |opened: Opened| {
        // Within one millisecond, and with hashes and digits that would sort otherwise.
        for (byte, max_fee) in [(9, 99u128), (8, 100), (7, 1_000)] {
            let raw = Bytes::from(vec![byte]);
            let hash = B256::repeat_byte(byte);
            let sent = SentTransaction { hash, nonce: 0, purpose: Purpose::Payout, raw, max_fee, gas_limit: 6 };
            opened.store.sending(&sent, &[]).await.unwrap();
        }
        let fees: Vec<u128> = opened.store.unresolved().await.unwrap().iter().map(|sent| sent.max_fee).collect();
        assert_eq!(fees, [99, 100, 1_000]);
    })
    .await;
}

#[tokio::test]
async fn a_dispute_that_a_reorganisation_takes_back_never_was() {
    on_both(async |opened: Opened| {
        let disputed =
            |block| log(block, Event::DisputeOpened(IInferenceOracle::DisputeOpened { id: 1, operator: US }));
        let upheld = |block| log(block, Event::ResultUpheld(IInferenceOracle::ResultUpheld { id: 1, operator: US }));
        opened.apply(13, &[requested(11, 1, b"one"), fulfilled(12, 1, US), disputed(13)]).await;
        assert_eq!(opened.step(1).await, Some(Step::Disputed));
        opened.store.rewind(13).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Posted), "nobody disputes it any more");

        opened.apply(15, &[disputed(13), upheld(15)]).await;
        assert_eq!(opened.step(1).await, Some(Step::Posted));
        opened.apply(15, &[disputed(13)]).await;
        assert_eq!(opened.step(1).await, Some(Step::Posted), "read again, it is nothing new");
        opened.store.rewind(14).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Disputed), "not upheld after all");

        let rejected = IInferenceOracle::ResultRejected { id: 1, operator: US, slashed: U256::from(1) };
        opened.apply(16, &[log(16, Event::ResultRejected(rejected)), requested_again(16, 1, 1)]).await;
        assert_eq!(opened.step(1).await, Some(Step::Seen), "another attempt");
        opened.store.rewind(16).await.unwrap();
        let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
        assert_eq!((row.key(), row.step, row.reason), ((1, 0), Step::Disputed, None), "not rejected after all");
        opened.store.rewind(12).await.unwrap();
        assert_eq!(opened.step(1).await, Some(Step::Seen), "and never answered");
    })
    .await;
}

fn requested_by(requester: u8, id: u64, deadline: u64) -> OracleLog {
    let request = Request { requester: Address::repeat_byte(requester), deadline, ..request(id, b"one") };
    let (model, packed, input) = (request.model.0, request.pack(), Bytes::from_static(b"one"));
    log(11, Event::Requested(IInferenceOracle::Requested { id, modelId: model, operator: US, request: packed, input }))
}

#[tokio::test]
async fn requesters_take_turns_and_the_earliest_deadline_comes_first() {
    on_both(async |opened: Opened| {
        // One requester floods the queue, with deadlines earlier than everybody's; two others ask once or twice.
        let flood = (1..=100).map(|id| requested_by(1, id, 2_000 + (200 - id)));
        let others = [requested_by(2, 101, 4_000), requested_by(3, 102, 3_000), requested_by(3, 103, 2_900)];
        opened.apply(11, &flood.chain(others).collect::<Vec<_>>()).await;
        let ids = async |limit| -> Vec<u64> {
            let rows = opened.store.claim(Step::Seen, US, &[MODEL], 0, limit).await.unwrap();
            for row in &rows {
                opened.inferred(row.key(), b"answer").await;
            }
            rows.iter().map(|row| row.id().0).collect()
        };
        assert_eq!(ids(3).await, [100, 103, 101], "each one's earliest, the earliest of them first");
        assert_eq!(ids(3).await, [99, 98, 102]);
        assert_eq!(ids(200).await.len(), 97);
    })
    .await;
}

#[tokio::test]
async fn what_one_worker_has_claimed_others_leave_alone_until_it_is_silent() {
    on_postgres(async |opened: Opened| {
        opened.apply(11, &(1..=6).map(|id| requested_by(1, id, 5_000)).collect::<Vec<_>>()).await;
        let second = opened.second().await;
        let claim = async |store: &Store, limit| store.claim(Step::Seen, US, &[MODEL], 0, limit).await.unwrap().len();
        assert_eq!(claim(&second, 4).await, 4);
        assert_eq!(claim(&opened.store, 10).await, 2, "the rest");
        assert_eq!(claim(&second, 10).await, 4, "its own again");
        assert_eq!(
            opened.store.claim(Step::Seen, US, &[], 0, 10).await.unwrap(),
            [],
            "whoever serves no model claims nothing"
        );
        // Alive, it keeps them for longer than the lease.
        let second = second.with_lease(Duration::from_secs(2));
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert!(!second.sign_of_life(&WorkerCard::default(), true).await.unwrap(), "there is a submitter");
        }
        assert_eq!(claim(&opened.store, 10).await, 2);
        // Silent, it loses them.
        let last = second.clone().with_lease(Duration::from_millis(1));
        assert!(!last.sign_of_life(&WorkerCard::default(), true).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(claim(&opened.store, 10).await, 6);
        assert_eq!(claim(&second, 10).await, 0);
        opened.store.leave().await.unwrap();
        assert_eq!(claim(&second, 10).await, 6, "handed over at once");
    })
    .await;
}

#[tokio::test]
async fn workers_that_claim_at_once_claim_each_request_once() {
    on_postgres(async |opened: Opened| {
        opened.apply(11, &(1..=200).map(|id| requested_by(1, id, 5_000)).collect::<Vec<_>>()).await;
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = opened.second().await;
            workers.spawn(async move {
                let mut claimed = Vec::new();
                loop {
                    let rows = store.claim(Step::Seen, US, &[MODEL], 0, 7).await.unwrap();
                    let done: Vec<_> = rows.iter().map(|row| (&row.request, b"answer".to_vec())).collect();
                    if done.is_empty() {
                        return claimed;
                    }
                    store.inferred(&done, Duration::ZERO).await.unwrap();
                    claimed.extend(rows.iter().map(RequestRow::key));
                }
            });
        }
        let mut all: Vec<_> = workers.join_all().await.into_iter().flatten().collect();
        let claimed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((claimed, all.len()), (200, 200), "all of them, each by one");
    })
    .await;
}

#[tokio::test]
async fn there_is_one_submitter_and_one_that_was_writes_nothing_more() {
    on_postgres(async |opened: Opened| {
        let (first, second) = (&opened.store, opened.second().await);
        let card = WorkerCard { device: "cpu".into(), models: vec!["credit".into()], ..WorkerCard::default() };
        assert!(first.sign_of_life(&card, true).await.unwrap(), "it is, and stays");
        assert!(!second.sign_of_life(&card, true).await.unwrap());
        let (raw, hash) = (Bytes::from_static(b"raw"), B256::repeat_byte(9));
        let sent = SentTransaction { hash, nonce: 0, purpose: Purpose::Payout, raw, max_fee: 5, gas_limit: 6 };
        let refused = second.sending(&sent, &[]).await.unwrap_err();
        assert!(matches!(refused, StoreError::NotSubmitter) && refused.is_retryable(), "{refused}");
        first.sending(&sent, &[]).await.unwrap();

        // The first is held up for longer than its lease; the second takes over, with the transaction that is open.
        assert!(first.clone().with_lease(Duration::from_millis(1)).sign_of_life(&card, true).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(second.sign_of_life(&card, true).await.unwrap());
        assert_eq!(second.unresolved().await.unwrap(), vec![sent.clone()]);
        let range = BlockRange { last: 12, last_hash: hash, logs: &[], operator: US, challenge_window: WINDOW };
        for late in [
            first.sending(&sent, &[]).await.map(|_| ()),
            first.apply(range).await,
            first.rewind(1).await,
            first.read_again(1).await,
            first.released((1, 0)).await,
            first.resolved(0, None).await,
            first.reopened(0, 1).await.map(|_| ()),
        ] {
            assert!(matches!(late, Err(StoreError::NotSubmitter)), "{late:?}");
        }
        assert!(!first.sign_of_life(&card, true).await.unwrap());
        let workers = second.workers().await.unwrap();
        let submitters: Vec<_> =
            workers.iter().filter(|worker| worker.submitter).map(|worker| worker.name.as_str()).collect();
        assert_eq!(submitters, [second.member()]);
        assert_eq!(workers.iter().find(|worker| worker.name == second.member()).unwrap().card, card);
    })
    .await;
}

#[tokio::test]
async fn a_shared_queue_is_of_one_operator() {
    on_postgres(async |opened: Opened| {
        opened.store.belong_to(US).await.unwrap();
        let second = opened.second().await;
        second.belong_to(US).await.unwrap();
        let error = second.belong_to(Address::repeat_byte(6)).await.unwrap_err();
        assert!(matches!(error, StoreError::OtherOperator { stored: US, .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_gone_for_a_while_is_waited_for() {
    let Ok(server) = Postgres::start() else {
        // Said, and refused in continuous integration, by the others.
        assert!(Postgres::for_test("a_server_that_is_gone_for_a_while_is_waited_for").is_none());
        return;
    };
    let server = Arc::new(server);
    let location = StoreLocation::Postgres(Box::new(server.database().unwrap()));
    let opened = Opened::at(location, (tempfile::tempdir().unwrap(), Some(server.clone()))).await;
    opened.apply(11, &[requested(11, 1, b"one")]).await;
    server.down();
    let error = opened.store.next_block().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    server.up().unwrap();
    assert_eq!(opened.store.next_block().await.unwrap(), 12, "without opening it again, and nothing is lost");
    assert_eq!(opened.step(1).await, Some(Step::Seen));
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let opened = Opened::sqlite().await;
    opened.apply(11, &[requested(11, 1, b"one")]).await;
    let pages = |limit: String| sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {limit}")));
    pages("1".into()).execute(&opened.store.pool).await.unwrap(); // as many as there are
    let row = opened.row((1, 0)).await;
    let error = opened.store.inferred(&[(&row.request, vec![7; 1 << 20])], Duration::ZERO).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("full"), "{error}");
    assert_eq!(opened.step(1).await, Some(Step::Seen), "nothing of it is stored");
    pages("1000000".into()).execute(&opened.store.pool).await.unwrap();
    opened.inferred((1, 0), &vec![7; 1 << 20]).await;
    assert_eq!(opened.step(1).await, Some(Step::Inferred));
}

#[tokio::test]
async fn what_a_clock_says_decides_neither_steps_nor_claims_of_a_file() {
    let opened = Opened::sqlite().await;
    opened.apply(11, &[requested(11, 1, b"one")]).await;
    assert_eq!(opened.claim(US, 0).await.len(), 1);
    // Written by a process whose clock was a year ahead, which then died.
    for statement in [
        "UPDATE requests SET worker = 'former', claimed_until = claimed_until + 31536000000, updated_at = updated_at + 31536000000",
        "UPDATE leases SET holder = 'former', until = until + 31536000000",
    ] {
        sqlx::query(statement).execute(&opened.store.pool).await.unwrap();
    }
    assert_eq!(opened.claim(US, 0).await.len(), 0);
    let location = opened.location.clone();
    drop(opened.store);
    let store = Store::open(location, CHAIN, ORACLE, 0).await.unwrap();
    assert!(store.sign_of_life(&WorkerCard::default(), true).await.unwrap());
    assert_eq!(store.claim(Step::Seen, US, &[MODEL], 0, 10).await.unwrap().len(), 1);
}

/// Everything asked in every round has an index, whatever the history has grown to.
#[tokio::test]
async fn nothing_asked_again_and_again_reads_whole_tables() {
    let opened = Opened::sqlite().await;
    for query in [
        "SELECT id, attempt, ROW_NUMBER() OVER (PARTITION BY requester ORDER BY deadline, id) AS turn FROM requests
         WHERE step = 'seen' AND (drawn = x'00' OR exclusive_until <= 5)",
        "UPDATE requests SET claimed_until = 5 WHERE worker = 'x'",
        "UPDATE requests SET step = 'dropped' WHERE step = 'seen' AND deadline < 5",
        "DELETE FROM result_events WHERE block >= 5",
        "SELECT id, attempt FROM result_events WHERE block >= 5",
        "SELECT * FROM requests WHERE step = 'signed' ORDER BY deadline, id LIMIT 5",
        "SELECT * FROM requests WHERE step = 'posted' AND final_at <= 5 ORDER BY final_at, id LIMIT 5",
        "SELECT * FROM requests WHERE id = 5 ORDER BY attempt DESC LIMIT 1",
        "SELECT * FROM requests ORDER BY updated_at DESC, id DESC LIMIT 5",
        "SELECT step, COUNT(*) FROM requests GROUP BY step",
        "SELECT paid FROM requests WHERE paid IS NOT NULL",
        "DELETE FROM requests WHERE block >= 5",
        "UPDATE requests SET paid = NULL WHERE finalized_block >= 5",
        "UPDATE requests SET paid = NULL WHERE fulfilled_block >= 5",
        "SELECT * FROM transactions WHERE state = 'sent' ORDER BY nonce, length(max_fee), max_fee",
        "SELECT cost FROM transactions WHERE cost IS NOT NULL AND created_at >= 5",
        "UPDATE transactions SET state = 'replaced' WHERE nonce = 5 AND state = 'sent'",
        "SELECT step, id, attempt FROM requests WHERE step IN ('posting', 'finalizing') AND NOT EXISTS (
            SELECT 1 FROM transaction_requests AS carried WHERE carried.id = requests.id AND carried.attempt = requests.attempt
                AND EXISTS (SELECT 1 FROM transactions WHERE transactions.nonce = carried.nonce AND state = 'sent')) LIMIT 5",
    ] {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}")))
            .fetch_all(&opened.store.pool)
            .await
            .unwrap();
        for row in rows {
            let detail: String = row.try_get("detail").unwrap();
            // A scan of an index alone, in its order, is what counting and summing up and a limit need.
            let of_rows_found = detail.starts_with("SCAN (");
            assert!(!detail.starts_with("SCAN") || detail.contains("USING") || of_rows_found, "{query}: {detail}");
            assert!(!detail.contains("USE TEMP B-TREE FOR ORDER BY"), "{query}: {detail}");
        }
    }
}

/// A request by URI; its hash is that of `input`.
fn requested_by_uri(block: u64, id: u64, input: &'static [u8]) -> OracleLog {
    let request = Request { input_by_uri: true, ..request(id, input) };
    let event = IInferenceOracle::RequestedByUri {
        id,
        modelId: request.model.0,
        operator: request.operator,
        request: request.pack(),
        inputSize: u32::try_from(input.len()).unwrap(),
        uri: format!("https://host/{id}"),
    };
    OracleLog { log_index: id, ..log(block, Event::RequestedByUri(event)) }
}

#[tokio::test]
async fn requests_wait_for_inputs_that_are_elsewhere() {
    on_both(async |opened: Opened| {
        let store = &opened.store;
        let asked = [(1, &b"one"[..]), (2, b"two"), (3, b"one")];
        opened.apply(11, &asked.map(|(id, input)| requested_by_uri(11, id, input))).await;
        opened.apply(12, &[requested(12, 4, b"four")]).await;
        assert_eq!(opened.claim(US, 0).await.len(), 1, "only the one that has its input");
        let waiting = store.awaiting_input(US, 0, 10).await.unwrap();
        assert_eq!(waiting.iter().map(|row| row.id().0).collect::<Vec<_>>(), [1, 2, 3]);
        let by_uri = waiting[0].by_uri.clone().unwrap();
        assert_eq!(by_uri, ByUri { uri: Some("https://host/1".into()), size: 3, awaited: true, ..ByUri::default() });
        assert_eq!(
            store.awaiting_input(Address::ZERO, 0, 10).await.unwrap(),
            [],
            "drawn for another, as long as that is so"
        );
        assert_eq!(store.awaiting_input(Address::ZERO, 1_000, 10).await.unwrap().len(), 3);
        assert_eq!(store.inputs_awaited().await.unwrap(), 3);

        // Those that failed come after the others.
        store.fetch_failed(keccak256(b"one"), "https://host/1", "the server answers 404").await.unwrap();
        let waiting = store.awaiting_input(US, 0, 10).await.unwrap();
        assert_eq!(waiting.iter().map(|row| row.id().0).collect::<Vec<_>>(), [2, 3, 1]);
        let by_uri = waiting[2].by_uri.clone().unwrap();
        assert_eq!((by_uri.tries, by_uri.problem.as_deref()), (1, Some("the server answers 404")));

        // One input for two requests; read again, they keep it.
        assert_eq!(store.keep_input(keccak256(b"one"), &Bytes::from_static(b"one"), 100).await.unwrap(), 2);
        opened.apply(11, &asked.map(|(id, input)| requested_by_uri(11, id, input))).await;
        let claimed = opened.claim(US, 0).await;
        assert_eq!(claimed.iter().map(|row| row.id().0).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!((&claimed[0].input[..], &claimed[1].input[..]), (&b"one"[..], &b"one"[..]));
        assert!(!claimed[0].by_uri.as_ref().unwrap().awaited);

        // Opened again without the input: where it is was said before. With it: it is here.
        let again = |id: u64, input: &'static [u8], brought: &'static [u8]| {
            let request = Request { input_by_uri: true, attempt: 1, operator: Address::ZERO, ..request(id, input) };
            let (model, packed, input) = (request.model.0, request.pack(), Bytes::from_static(brought));
            let event =
                IInferenceOracle::Requested { id, modelId: model, operator: Address::ZERO, request: packed, input };
            OracleLog { log_index: 20 + id, ..log(13, Event::Requested(event)) }
        };
        opened.apply(13, &[again(1, b"one", b""), again(2, b"two", b"two"), again(9, b"nine", b"")]).await;
        let by_uri = opened.row((1, 1)).await.by_uri.unwrap();
        assert_eq!((by_uri.uri.as_deref(), by_uri.size, by_uri.awaited), (Some("https://host/1"), 3, true));
        assert!(!opened.row((2, 1)).await.by_uri.unwrap().awaited);
        let unknown = opened.row((9, 1)).await;
        assert_eq!(unknown.by_uri, Some(ByUri { awaited: true, ..ByUri::default() }), "nobody has said");
        store.input_is_at(&unknown.request, "ipfs://somewhere", 4).await.unwrap();
        assert_eq!(opened.row((9, 1)).await.by_uri.unwrap().uri.as_deref(), Some("ipfs://somewhere"));

        // The deadline passes.
        store.fetch_failed(keccak256(b"nine"), "ipfs://somewhere", "gone").await.unwrap();
        store.drop_expired(5_001).await.unwrap();
        let reason = opened.row((9, 1)).await.reason.unwrap();
        assert_eq!(reason, "the input could not be had before the deadline: gone");
        assert_eq!(store.inputs_awaited().await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn fetched_inputs_are_kept_up_to_a_bound() {
    on_both(async |opened: Opened| {
        let store = &opened.store;
        let input = |number: u8| Bytes::from(vec![number; 10]);
        for number in 0..5 {
            assert_eq!(store.keep_input(keccak256(input(number)), &input(number), 30).await.unwrap(), 0);
            tokio::time::sleep(Duration::from_millis(3)).await; // the oldest go by the clock
        }
        for number in 0..5 {
            let kept = store.input(keccak256(input(number))).await.unwrap();
            assert_eq!(kept, (number >= 2).then(|| input(number)), "{number}");
        }
        // One that is larger than the bound is kept, alone: it was just fetched for somebody.
        let large = Bytes::from(vec![9; 50]);
        store.keep_input(keccak256(&large), &large, 30).await.unwrap();
        assert_eq!(store.input(keccak256(&large)).await.unwrap(), Some(large));
        assert_eq!(store.input(keccak256(input(4))).await.unwrap(), None);
    })
    .await;
}

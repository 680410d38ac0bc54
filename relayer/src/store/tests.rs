//! What the store promises: facts once, steps forward only, one owner, one version.

use super::*;
use alloy::primitives::{Bytes, U256, aliases::U96, keccak256};
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

fn request(id: u64, input: &[u8]) -> Request {
    Request {
        id: RequestId(id),
        attempt: 0,
        requester: Address::repeat_byte(1),
        model: ModelId(B256::repeat_byte(2)),
        input_hash: keccak256(input),
        seed: B256::repeat_byte(3),
        params: Params::default(),
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
    folder: tempfile::TempDir,
}

impl Opened {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("candor.db"), CHAIN, ORACLE, 10).await.unwrap();
        Self { store, folder }
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

#[tokio::test]
async fn the_same_range_again_changes_nothing() {
    let opened = Opened::new().await;
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
}

#[tokio::test]
async fn steps_go_forward_one_by_one() {
    let opened = Opened::new().await;
    opened.apply(11, &[requested(11, 1, b"one")]).await;
    let key = (1, 0);
    opened.store.signed(key, &[1; 65]).await.unwrap();
    assert_eq!(opened.step(1).await, Some(Step::Seen), "nothing is signed that was not inferred");
    opened.store.inferred(key, b"answer", Duration::from_millis(3)).await.unwrap();
    opened.store.inferred(key, b"another answer", Duration::from_millis(3)).await.unwrap();
    let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
    assert_eq!(
        row.output.unwrap(),
        Bytes::from_static(b"answer"),
        "an output that may have been signed is not replaced"
    );
    opened.store.signed(key, &[1; 65]).await.unwrap();
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
    assert_eq!(opened.store.spent_since(0).await.unwrap(), U256::from(42), "a transaction that reverted costs gas too");
    opened.store.released(key).await.unwrap();
    assert_eq!(opened.step(1).await, Some(Step::Signed), "free for another transaction");
}

#[tokio::test]
async fn what_others_answered_is_left_alone() {
    let opened = Opened::new().await;
    let other = Address::repeat_byte(6);
    opened.apply(12, &[requested(11, 1, b"one"), fulfilled(12, 1, other)]).await;
    let row = opened.store.request(RequestId(1)).await.unwrap().unwrap();
    assert_eq!(row.step, Step::Dropped);
    assert_eq!(row.reason.unwrap(), format!("answered by operator {other}"));
    assert!(opened.store.finalizable(u64::from(u32::MAX), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn exclusive_minutes_are_respected() {
    let opened = Opened::new().await;
    opened.apply(11, &[requested(11, 1, b"one")]).await;
    let ids = |now, operator| {
        let store = opened.store.clone();
        async move { store.answerable(operator, now, 10).await.unwrap().len() }
    };
    assert_eq!(ids(0, US).await, 1, "ours at once");
    assert_eq!(ids(999, Address::repeat_byte(6)).await, 0);
    assert_eq!(ids(1_000, Address::repeat_byte(6)).await, 1);
}

#[tokio::test]
async fn a_reorganisation_is_forgotten_exactly() {
    let opened = Opened::new().await;
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
}

#[tokio::test]
async fn a_settlement_that_a_reorganisation_took_back_is_due_again() {
    let opened = Opened::new().await;
    opened.apply(13, &[requested(11, 1, b"one"), fulfilled(12, 1, US), finalized(13, 1)]).await;
    opened.store.rewind(13).await.unwrap();
    assert_eq!(opened.step(1).await, Some(Step::Posted));
    assert_eq!(opened.store.earned().await.unwrap(), U256::ZERO);
    assert_eq!(opened.store.finalizable(100 + WINDOW, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_file_has_one_owner_one_deployment_one_version() {
    let opened = Opened::new().await;
    let path = opened.folder.path().join("candor.db");
    let second = Store::open(&path, CHAIN, ORACLE, 0).await.map(|_| ()).unwrap_err();
    assert!(matches!(second, StoreError::InUse(_)), "{second}");
    assert_eq!(Store::open_read_only(&path).await.unwrap().deployment().await.unwrap(), (CHAIN, ORACLE));
    let pool = opened.store.pool.clone();
    drop(opened.store);

    let other = Store::open(&path, 1, ORACLE, 0).await.map(|_| ()).unwrap_err();
    assert!(matches!(other, StoreError::OtherDeployment { stored_chain: CHAIN, chain: 1, .. }), "{other}");

    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', 1, x'00', 0)")
        .execute(&pool)
        .await
        .unwrap();
    for error in [
        Store::open(&path, CHAIN, ORACLE, 0).await.map(|_| ()).unwrap_err(),
        Store::open_read_only(&path).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Version { .. }), "{error}");
        assert!(
            error.to_string().contains("another version of Candor") && error.to_string().contains("999"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_older_file_is_brought_up_to_date_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("candor.db");
    // As the first version left it.
    let pool = connect(&path, false).await.unwrap();
    let first = sqlx::migrate::Migrator {
        migrations: vec![MIGRATIONS.iter().next().unwrap().clone()].into(),
        ..sqlx::migrate::Migrator::DEFAULT
    };
    first.run(&pool).await.unwrap();
    sqlx::query("INSERT INTO deployment (one, chain_id, oracle, next_block) VALUES (1, ?, ?, 77)")
        .bind(i64::try_from(CHAIN).unwrap())
        .bind(ORACLE.as_slice())
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;

    let error = Store::open_read_only(&path).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("`candor run` brings it up to date"), "{error}");
    let store = Store::open(&path, CHAIN, ORACLE, 0).await.unwrap();
    assert_eq!(store.next_block().await.unwrap(), 77);
    drop(store);
    assert_eq!(Store::open_read_only(&path).await.unwrap().next_block().await.unwrap(), 77);
}

#[tokio::test]
async fn files_that_are_no_database_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "groceries, and enough of them that SQLite reads a header").unwrap();
    let error = Store::open(&text, CHAIN, ORACLE, 0).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
    let error = Store::open(folder.path(), CHAIN, ORACLE, 0).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    let error = Store::open_read_only(&folder.path().join("missing.db")).await.map(|_| ()).unwrap_err();
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
    let opened = Opened::new().await;
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
}

#[tokio::test]
async fn the_same_bytes_can_be_in_flight_again() {
    let opened = Opened::new().await;
    opened.apply(11, &[requested(11, 1, b"one")]).await;
    let key = (1, 0);
    opened.store.inferred(key, b"answer", Duration::ZERO).await.unwrap();
    opened.store.signed(key, &[1; 65]).await.unwrap();
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
}

#[tokio::test]
async fn replacements_are_in_the_order_of_their_price() {
    let opened = Opened::new().await;
    // Within one millisecond, and with hashes and digits that would sort otherwise.
    for (byte, max_fee) in [(9, 99u128), (8, 100), (7, 1_000)] {
        let raw = Bytes::from(vec![byte]);
        let hash = B256::repeat_byte(byte);
        let sent = SentTransaction { hash, nonce: 0, purpose: Purpose::Payout, raw, max_fee, gas_limit: 6 };
        opened.store.sending(&sent, &[]).await.unwrap();
    }
    let fees: Vec<u128> = opened.store.unresolved().await.unwrap().iter().map(|sent| sent.max_fee).collect();
    assert_eq!(fees, [99, 100, 1_000]);
}

/// Everything asked in every round has an index, whatever the history has grown to.
#[tokio::test]
async fn nothing_asked_again_and_again_reads_whole_tables() {
    let opened = Opened::new().await;
    for query in [
        "SELECT * FROM requests WHERE step = 'seen' AND (drawn = x'00' OR exclusive_until <= 5) ORDER BY deadline, id LIMIT 5",
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
            SELECT 1 FROM transaction_requests AS carried CROSS JOIN transactions USING (nonce)
            WHERE carried.id = requests.id AND carried.attempt = requests.attempt AND transactions.state = 'sent') LIMIT 5",
    ] {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}")))
            .fetch_all(&opened.store.pool)
            .await
            .unwrap();
        for row in rows {
            let detail: String = row.try_get("detail").unwrap();
            // A scan of an index alone, in its order, is what counting and summing up and a limit need.
            assert!(!detail.starts_with("SCAN") || detail.contains("USING"), "{query}: {detail}");
            assert!(!detail.contains("USE TEMP B-TREE FOR ORDER BY"), "{query}: {detail}");
        }
    }
}

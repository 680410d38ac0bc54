//! Requests and the steps they go through.

use super::{REMEMBERED_BLOCKS, Store, StoreError, now_millis, signed, unsigned};
use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolValue,
};
use candor_sdk::{
    bindings::{Fulfillment, IInferenceOracle::IInferenceOracleEvents as Event, PackedRequest},
    client::OracleLog,
    ids::RequestId,
    request::Request,
};
use sqlx::{Row, Sqlite, SqliteConnection, sqlite::SqliteRow};
use std::{fmt, time::Duration};

/// How far a request has come here. Each is durable before the next has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Stored; nothing done.
    Seen,
    /// The output is stored.
    Inferred,
    /// The signature is stored; it can be posted.
    Signed,
    /// A transaction that posts it is stored, and sent as soon as possible.
    Posting,
    /// The chain has the result, by this operator; the window runs.
    Posted,
    /// The chain holds the result in a dispute.
    Disputed,
    /// A transaction that finalizes it is stored.
    Finalizing,
    /// Final on chain, and paid.
    Finalized,
    /// Nothing more to do here, for a reason that is stored.
    Dropped,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Seen,
        Self::Inferred,
        Self::Signed,
        Self::Posting,
        Self::Posted,
        Self::Disputed,
        Self::Finalizing,
        Self::Finalized,
        Self::Dropped,
    ];

    /// Name in the database, in logs and on screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Inferred => "inferred",
            Self::Signed => "signed",
            Self::Posting => "posting",
            Self::Posted => "posted",
            Self::Disputed => "disputed",
            Self::Finalizing => "finalizing",
            Self::Finalized => "finalized",
            Self::Dropped => "dropped",
        }
    }

    pub(super) fn parse(name: &str) -> Result<Self, StoreError> {
        Self::ALL
            .into_iter()
            .find(|step| step.name() == name)
            .ok_or_else(|| StoreError::Damaged(format!("unknown step `{name}`")))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request and all that is known of it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRow {
    /// The request as the oracle hashed it.
    pub request: Request,
    /// Input bytes.
    pub input: Bytes,
    /// Where it stands.
    pub step: Step,
    /// Block in which it was asked.
    pub block: u64,
    /// The model's output, once inferred.
    pub output: Option<Bytes>,
    /// How long the model took, in the batch it was in.
    pub inferred_in: Option<Duration>,
    /// 65 bytes, once signed.
    pub signature: Option<Bytes>,
    /// What the oracle holds, once posted.
    pub fulfillment: Option<Fulfillment>,
    /// First unix second in which it can be finalized.
    pub final_at: Option<u64>,
    /// Wei paid at finality.
    pub paid: Option<U256>,
    /// Why it was dropped.
    pub reason: Option<String>,
}

impl RequestRow {
    /// Number.
    pub fn id(&self) -> RequestId {
        self.request.id
    }

    /// Key in the store.
    pub fn key(&self) -> (u64, u32) {
        (self.request.id.0, self.request.attempt)
    }

    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let request: Vec<u8> = row.try_get("request")?;
        let fulfillment: Option<Vec<u8>> = row.try_get("fulfillment")?;
        let bytes = |column: &str| -> Result<Option<Bytes>, sqlx::Error> {
            Ok(row.try_get::<Option<Vec<u8>>, _>(column)?.map(Bytes::from))
        };
        Ok(Self {
            request: unpack(&request)?,
            input: row.try_get::<Vec<u8>, _>("input")?.into(),
            step: Step::parse(row.try_get("step")?)?,
            block: unsigned(row.try_get("block")?)?,
            output: bytes("output")?,
            inferred_in: row
                .try_get::<Option<i64>, _>("infer_micros")?
                .map(unsigned)
                .transpose()?
                .map(Duration::from_micros),
            signature: bytes("signature")?,
            fulfillment: fulfillment
                .map(|data| Fulfillment::abi_decode_validate(&data))
                .transpose()
                .map_err(|error| StoreError::Damaged(format!("fulfillment: {error}")))?,
            final_at: row.try_get::<Option<i64>, _>("final_at")?.map(unsigned).transpose()?,
            paid: row
                .try_get::<Option<String>, _>("paid")?
                .map(|wei| wei.parse())
                .transpose()
                .map_err(|_| StoreError::Damaged("wei".into()))?,
            reason: row.try_get("reason")?,
        })
    }
}

/// How many requests are at each step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(Vec<(Step, u64)>);

impl Counts {
    /// Requests at a step.
    pub fn of(&self, step: Step) -> u64 {
        self.0.iter().find(|(at, _)| *at == step).map_or(0, |(_, count)| *count)
    }
}

/// A run of blocks as read from the chain: its events, and the hashes by which a reorganisation is noticed later.
#[derive(Debug, Clone)]
pub struct BlockRange<'a> {
    /// Last block read.
    pub last: u64,
    /// Its hash.
    pub last_hash: B256,
    /// Events of the oracle in the range, in order.
    pub logs: &'a [OracleLog],
    /// The operator whose results are ours; zero if this relayer has none.
    pub operator: Address,
    /// Seconds in which a posted result can be challenged.
    pub challenge_window: u64,
}

impl Store {
    /// Stores a range of blocks and moves the cursor behind it, in one transaction. Reading a range again changes nothing.
    pub async fn apply(&self, range: BlockRange<'_>) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for log in range.logs {
            apply_event(&mut transaction, log, range.operator, range.challenge_window).await?;
            remember(&mut transaction, log.block_number, log.block_hash).await?;
        }
        remember(&mut transaction, range.last, range.last_hash).await?;
        sqlx::query("UPDATE deployment SET next_block = MAX(next_block, ?)")
            .bind(signed(range.last + 1)?)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM blocks WHERE number < ?")
            .bind(signed(range.last.saturating_sub(REMEMBERED_BLOCKS))?)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Forgets what was read from `first` on, after a reorganisation: requests asked there are gone until they are seen again, results posted
    /// there are to be posted again.
    pub async fn rewind(&self, first: u64) -> Result<(), StoreError> {
        let first = signed(first)?;
        let mut transaction = self.pool.begin().await?;
        for statement in [
            "DELETE FROM requests WHERE block >= ?",
            "UPDATE requests SET step = 'posted', paid = NULL, finalized_block = NULL WHERE finalized_block >= ?",
            "UPDATE requests SET step = CASE WHEN signature IS NULL THEN 'seen' ELSE 'posting' END, fulfillment = NULL, fulfilled_block = NULL,
                final_at = NULL, paid = NULL, reason = NULL WHERE fulfilled_block >= ?",
            "DELETE FROM blocks WHERE number >= ?",
            "UPDATE deployment SET next_block = MIN(next_block, ?)",
        ] {
            sqlx::query::<Sqlite>(statement).bind(first).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Requests that can be worked on at unix second `now`: this operator's own, and those that anybody may answer; earliest deadline first.
    pub async fn answerable(&self, operator: Address, now: u64, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        self.select(
            sqlx::query(
                "SELECT * FROM requests WHERE step = 'seen' AND (drawn = ? OR drawn = ? OR exclusive_until <= ?) ORDER BY deadline, id LIMIT ?",
            )
            .bind(operator.to_vec())
            .bind(Address::ZERO.to_vec())
            .bind(signed(now)?)
            .bind(limit),
        )
        .await
    }

    /// Requests at a step, earliest deadline first.
    pub async fn at(&self, step: Step, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        self.select(
            sqlx::query("SELECT * FROM requests WHERE step = ? ORDER BY deadline, id LIMIT ?")
                .bind(step.name())
                .bind(limit),
        )
        .await
    }

    /// Posted results whose window has passed at unix second `now`.
    pub async fn finalizable(&self, now: u64, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        self.select(
            sqlx::query("SELECT * FROM requests WHERE step = 'posted' AND final_at <= ? ORDER BY final_at, id LIMIT ?")
                .bind(signed(now)?)
                .bind(limit),
        )
        .await
    }

    /// The last attempt of a request.
    pub async fn request(&self, id: RequestId) -> Result<Option<RequestRow>, StoreError> {
        let rows = self
            .select(
                sqlx::query("SELECT * FROM requests WHERE id = ? ORDER BY attempt DESC LIMIT 1").bind(signed(id.0)?),
            )
            .await?;
        Ok(rows.into_iter().next())
    }

    /// The requests changed last.
    pub async fn recent(&self, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        self.select(sqlx::query("SELECT * FROM requests ORDER BY updated_at DESC, id DESC LIMIT ?").bind(limit)).await
    }

    async fn select(
        &self,
        query: sqlx::query::Query<'_, Sqlite, <Sqlite as sqlx::Database>::Arguments>,
    ) -> Result<Vec<RequestRow>, StoreError> {
        query.fetch_all(&self.pool).await?.iter().map(RequestRow::read).collect()
    }

    /// How many requests are at each step.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let rows = sqlx::query("SELECT step, COUNT(*) FROM requests GROUP BY step").fetch_all(&self.pool).await?;
        let counts = rows.iter().map(|row| Ok((Step::parse(row.try_get(0)?)?, unsigned(row.try_get(1)?)?)));
        Ok(Counts(counts.collect::<Result<_, StoreError>>()?))
    }

    /// Wei paid for results of this relayer so far.
    pub async fn earned(&self) -> Result<U256, StoreError> {
        let rows = sqlx::query("SELECT paid FROM requests WHERE paid IS NOT NULL").fetch_all(&self.pool).await?;
        rows.iter().try_fold(U256::ZERO, |sum, row| {
            let wei: U256 = row.try_get::<String, _>(0)?.parse().map_err(|_| StoreError::Damaged("wei".into()))?;
            Ok(sum + wei)
        })
    }

    /// `Seen -> Inferred`.
    pub async fn inferred(&self, key: (u64, u32), output: &[u8], took: Duration) -> Result<(), StoreError> {
        let micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
        self.advance(
            key,
            sqlx::query(
                "UPDATE requests SET step = 'inferred', output = ?, infer_micros = ?, updated_at = ? WHERE step = 'seen' AND id = ? AND attempt = ?",
            )
            .bind(output.to_vec())
            .bind(micros),
        )
        .await
    }

    /// `Inferred -> Signed`.
    pub async fn signed(&self, key: (u64, u32), signature: &[u8]) -> Result<(), StoreError> {
        self.advance(
            key,
            sqlx::query("UPDATE requests SET step = 'signed', signature = ?, updated_at = ? WHERE step = 'inferred' AND id = ? AND attempt = ?")
                .bind(signature.to_vec()),
        )
        .await
    }

    /// Stops working on a request that is not on chain yet.
    pub async fn dropped(&self, key: (u64, u32), reason: &str) -> Result<(), StoreError> {
        self.advance(
            key,
            sqlx::query(
                "UPDATE requests SET step = 'dropped', reason = ?, updated_at = ? WHERE step IN ('seen', 'inferred', 'signed', 'posting') AND id = ? AND attempt = ?",
            )
            .bind(reason.to_owned()),
        )
        .await
    }

    /// Takes a request out of a transaction that did not do its work, to be tried again: `Posting -> Signed`, `Finalizing -> Posted`.
    pub async fn released(&self, key: (u64, u32)) -> Result<(), StoreError> {
        self.advance(
            key,
            sqlx::query(
                "UPDATE requests SET step = CASE step WHEN 'posting' THEN 'signed' ELSE 'posted' END, updated_at = ?
                 WHERE step IN ('posting', 'finalizing') AND id = ? AND attempt = ?",
            ),
        )
        .await
    }

    /// Runs an update that ends with `updated_at = ? ... id = ? AND attempt = ?`. No row changed means that the chain was faster: that is fine.
    async fn advance(
        &self,
        key: (u64, u32),
        query: sqlx::query::Query<'_, Sqlite, <Sqlite as sqlx::Database>::Arguments>,
    ) -> Result<(), StoreError> {
        query.bind(now_millis()).bind(signed(key.0)?).bind(i64::from(key.1)).execute(&self.pool).await?;
        Ok(())
    }
}

async fn remember(connection: &mut SqliteConnection, number: u64, hash: B256) -> Result<(), StoreError> {
    sqlx::query("INSERT OR REPLACE INTO blocks (number, hash) VALUES (?, ?)")
        .bind(signed(number)?)
        .bind(hash.to_vec())
        .execute(connection)
        .await?;
    Ok(())
}

/// One fact from the chain. Idempotent, and never moves a request back.
async fn apply_event(
    connection: &mut SqliteConnection,
    log: &OracleLog,
    operator: Address,
    window: u64,
) -> Result<(), StoreError> {
    let (block, position) = (signed(log.block_number)?, signed(log.log_index)?);
    match &log.event {
        Event::Requested(event) => insert(connection, &event.request, &event.input, block, position).await,
        Event::Fulfilled(event) if event.operator == operator => {
            sqlx::query(
                "UPDATE requests SET step = 'posted', output = ?1, fulfillment = ?2, fulfilled_block = ?3, final_at = ?4, reason = NULL,
                    updated_at = ?5
                 WHERE id = ?6 AND attempt = (SELECT MAX(attempt) FROM requests WHERE id = ?6 AND (block, position) < (?3, ?7))
                    AND step IN ('seen', 'inferred', 'signed', 'posting', 'dropped')",
            )
            .bind(event.output.to_vec())
            .bind(event.fulfillment.abi_encode())
            .bind(block)
            .bind(signed(event.fulfillment.final_at(window))?)
            .bind(now_millis())
            .bind(signed(event.id)?)
            .bind(position)
            .execute(connection)
            .await?;
            Ok(())
        }
        Event::Fulfilled(event) => {
            leave(connection, event.id, &format!("answered by operator {}", event.operator), block, position).await
        }
        Event::DisputeOpened(event) => {
            let statement =
                "UPDATE requests SET step = 'disputed', updated_at = ?1 WHERE step IN ('posted', 'finalizing') AND ";
            set_step(connection, statement, event.id, block, position).await
        }
        Event::ResultUpheld(event) => {
            let statement = "UPDATE requests SET step = 'posted', updated_at = ?1 WHERE step = 'disputed' AND ";
            set_step(connection, statement, event.id, block, position).await
        }
        Event::ResultRejected(event) => {
            let statement = "UPDATE requests SET step = 'dropped', reason = 'the result was rejected', updated_at = ?1
                 WHERE step IN ('posted', 'disputed', 'finalizing') AND ";
            set_step(connection, statement, event.id, block, position).await
        }
        Event::Finalized(event) => {
            sqlx::query(
                "UPDATE requests SET step = 'finalized', paid = ?, finalized_block = ?, updated_at = ?
                 WHERE id = ? AND step IN ('posted', 'disputed', 'finalizing')",
            )
            .bind(event.paid.to_string())
            .bind(block)
            .bind(now_millis())
            .bind(signed(event.id)?)
            .execute(connection)
            .await?;
            Ok(())
        }
        Event::Cancelled(event) => leave(connection, event.id, "expired and refunded", block, position).await,
        _ => Ok(()),
    }
}

fn unpack(encoded: &[u8]) -> Result<Request, StoreError> {
    let packed = PackedRequest::abi_decode_validate(encoded)
        .map_err(|error| StoreError::Damaged(format!("request: {error}")))?;
    Request::unpack(&packed).map_err(|error| StoreError::Damaged(format!("request: {error}")))
}

async fn insert(
    connection: &mut SqliteConnection,
    packed: &PackedRequest,
    input: &Bytes,
    block: i64,
    position: i64,
) -> Result<(), StoreError> {
    let encoded = packed.abi_encode();
    let request = unpack(&encoded)?;
    let (id, attempt) = (signed(request.id.0)?, i64::from(request.attempt));
    // The same number with other content is a request that a reorganisation replaced: what was done for the old one is void.
    sqlx::query("DELETE FROM requests WHERE id = ? AND attempt = ? AND request <> ?")
        .bind(id)
        .bind(attempt)
        .bind(encoded.clone())
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT OR IGNORE INTO requests (id, attempt, step, request, model, input, drawn, exclusive_until, deadline, block, position, seen_at, updated_at)
         VALUES (?, ?, 'seen', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id)
    .bind(attempt)
    .bind(encoded)
    .bind(request.model.0.to_vec())
    .bind(input.to_vec())
    .bind(request.operator.to_vec())
    .bind(signed(request.exclusive_until)?)
    .bind(signed(request.deadline)?)
    .bind(block)
    .bind(position)
    .bind(now_millis())
    .bind(now_millis())
    .execute(connection)
    .await?;
    Ok(())
}

/// The attempt that an event is about. Events name the request only, and ranges are read again: an old event must not reach a new attempt.
const ATTEMPT: &str =
    "id = ?2 AND attempt = (SELECT MAX(attempt) FROM requests WHERE id = ?2 AND (block, position) < (?3, ?4))";

/// Nothing more to do for a request that is not ours.
async fn leave(
    connection: &mut SqliteConnection,
    id: u64,
    reason: &str,
    block: i64,
    position: i64,
) -> Result<(), StoreError> {
    let statement = "UPDATE requests SET step = 'dropped', reason = ?5, fulfilled_block = ?3, updated_at = ?1
         WHERE step IN ('seen', 'inferred', 'signed', 'posting', 'dropped') AND ";
    sqlx::query(sqlx::AssertSqlSafe(format!("{statement}{ATTEMPT}")))
        .bind(now_millis())
        .bind(signed(id)?)
        .bind(block)
        .bind(position)
        .bind(reason.to_owned())
        .execute(connection)
        .await?;
    Ok(())
}

async fn set_step(
    connection: &mut SqliteConnection,
    statement: &'static str,
    id: u64,
    block: i64,
    position: i64,
) -> Result<(), StoreError> {
    sqlx::query(sqlx::AssertSqlSafe(format!("{statement}{ATTEMPT}")))
        .bind(now_millis())
        .bind(signed(id)?)
        .bind(block)
        .bind(position)
        .execute(connection)
        .await?;
    Ok(())
}

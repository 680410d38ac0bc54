//! Requests and the steps they go through.

use super::{ByUri, REMEMBERED_BLOCKS, Store, StoreError, now_millis, signed, unsigned};
use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    sol_types::SolValue,
};
use candor_sdk::{
    bindings::{Fulfillment, IInferenceOracle::IInferenceOracleEvents as Event, PackedRequest},
    client::OracleLog,
    ids::RequestId,
    request::{Input, Request},
};
use sqlx::{Any, AnyConnection, Row, any::AnyRow};
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
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
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
    /// Input bytes; nothing as long as they are awaited.
    pub input: Bytes,
    /// Where the input is, if it did not come with the request.
    pub by_uri: Option<ByUri>,
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
    /// Unix milliseconds on this machine's clock when it was first seen.
    pub seen_at: i64,
    /// The worker that has claimed it.
    pub worker: Option<String>,
}

impl RequestRow {
    /// Number.
    pub fn id(&self) -> RequestId {
        self.request.id
    }

    /// How long ago it was first seen, by this machine's clock.
    pub fn age(&self) -> Duration {
        Duration::from_millis(u64::try_from(now_millis().saturating_sub(self.seen_at)).unwrap_or_default())
    }

    /// Key in the store.
    pub fn key(&self) -> (u64, u32) {
        (self.request.id.0, self.request.attempt)
    }

    pub(super) fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let request = unpack(&row.try_get::<Vec<u8>, _>("request")?)?;
        let fulfillment: Option<Vec<u8>> = row.try_get("fulfillment")?;
        let bytes = |column: &str| -> Result<Option<Bytes>, sqlx::Error> {
            Ok(row.try_get::<Option<Vec<u8>>, _>(column)?.map(Bytes::from))
        };
        Ok(Self {
            by_uri: ByUri::read(row, &request)?,
            request,
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
            seen_at: row.try_get("seen_at")?,
            worker: row.try_get("worker")?,
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
        let mut transaction = self.begin_as_submitter().await?;
        for log in range.logs {
            apply_event(&mut transaction, log, range.operator, range.challenge_window).await?;
            remember(&mut transaction, log.block_number, log.block_hash).await?;
        }
        remember(&mut transaction, range.last, range.last_hash).await?;
        sqlx::query("UPDATE deployment SET next_block = $1 WHERE next_block < $1")
            .bind(signed(range.last + 1)?)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM blocks WHERE number < $1")
            .bind(signed(range.last.saturating_sub(REMEMBERED_BLOCKS))?)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Forgets what was read from `first` on, after a reorganisation: requests asked there are gone until they are seen again, results posted
    /// there are to be posted again.
    pub async fn rewind(&self, first: u64) -> Result<(), StoreError> {
        let first = signed(first)?;
        let mut transaction = self.begin_as_submitter().await?;
        for statement in [
            "DELETE FROM requests WHERE block >= $1",
            "UPDATE requests SET step = 'posted', paid = NULL, finalized_block = NULL WHERE finalized_block >= $1",
            // Disputes opened, upheld or lost there: back to what was so before.
            "UPDATE requests SET reason = NULL, step = CASE (
                    SELECT event FROM result_events AS before WHERE before.id = requests.id AND before.attempt = requests.attempt AND before.block < $1
                    ORDER BY before.block DESC, before.position DESC LIMIT 1
                ) WHEN 'opened' THEN 'disputed' ELSE 'posted' END
             WHERE (id, attempt) IN (SELECT id, attempt FROM result_events WHERE block >= $1)",
            "DELETE FROM result_events WHERE block >= $1",
            "UPDATE requests SET step = CASE WHEN signature IS NULL THEN 'seen' ELSE 'posting' END, fulfillment = NULL, fulfilled_block = NULL,
                final_at = NULL, paid = NULL, reason = NULL WHERE fulfilled_block >= $1",
            "DELETE FROM blocks WHERE number >= $1",
            "UPDATE deployment SET next_block = $1 WHERE next_block > $1",
        ] {
            sqlx::query(statement).bind(first).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Sets the cursor back to `first`, for what an endpoint has left out there. Nothing is forgotten, and what was read is not done again.
    pub async fn read_again(&self, first: u64) -> Result<(), StoreError> {
        let mut transaction = self.begin_as_submitter().await?;
        let statement = sqlx::query("UPDATE deployment SET next_block = $1 WHERE next_block > $1");
        statement.bind(signed(first)?).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Requests at a step, earliest deadline first.
    pub async fn at(&self, step: Step, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        self.select(
            sqlx::query("SELECT * FROM requests WHERE step = $1 ORDER BY deadline, id LIMIT $2")
                .bind(step.name())
                .bind(i64::from(limit)),
        )
        .await
    }

    /// Posted results whose window has passed at unix second `now`.
    pub async fn finalizable(&self, now: u64, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        self.select(
            sqlx::query(
                "SELECT * FROM requests WHERE step = 'posted' AND final_at <= $1 ORDER BY final_at, id LIMIT $2",
            )
            .bind(signed(now)?)
            .bind(i64::from(limit)),
        )
        .await
    }

    /// The last attempt of a request.
    pub async fn request(&self, id: RequestId) -> Result<Option<RequestRow>, StoreError> {
        let rows = self
            .select(
                sqlx::query("SELECT * FROM requests WHERE id = $1 ORDER BY attempt DESC LIMIT 1").bind(signed(id.0)?),
            )
            .await?;
        Ok(rows.into_iter().next())
    }

    /// The requests changed last.
    pub async fn recent(&self, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        self.select(
            sqlx::query("SELECT * FROM requests ORDER BY updated_at DESC, id DESC LIMIT $1").bind(i64::from(limit)),
        )
        .await
    }

    pub(super) async fn select(&self, query: Statement<'_>) -> Result<Vec<RequestRow>, StoreError> {
        query.fetch_all(&self.pool).await?.iter().map(RequestRow::read).collect()
    }

    /// How many requests are at each step.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let rows = sqlx::query("SELECT step, COUNT(*) FROM requests GROUP BY step").fetch_all(&self.pool).await?;
        let counts = rows.iter().map(|row| Ok((Step::parse(row.try_get(0)?)?, unsigned(row.try_get(1)?)?)));
        Ok(Counts(counts.collect::<Result<_, StoreError>>()?))
    }

    /// How many requests come before one that waits for a model: those with an earlier turn, or the same turn and an earlier deadline.
    pub async fn ahead_of(&self, row: &RequestRow) -> Result<u64, StoreError> {
        let found = sqlx::query(
            "WITH turns AS (
                SELECT id, attempt, deadline, ROW_NUMBER() OVER (PARTITION BY requester ORDER BY deadline, id) AS turn FROM requests WHERE step = 'seen' AND awaits_input = 0
             )
             SELECT COUNT(*) FROM turns AS other JOIN turns AS mine ON mine.id = $1 AND mine.attempt = $2
             WHERE (other.turn, other.deadline, other.id) < (mine.turn, mine.deadline, mine.id)",
        );
        let found = found.bind(signed(row.id().0)?).bind(i64::from(row.request.attempt)).fetch_one(&self.pool).await?;
        unsigned(found.try_get(0)?)
    }

    /// The highest number of a request that is stored, and the block in which it was asked first.
    pub async fn last_request(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let row = sqlx::query("SELECT id, block FROM requests ORDER BY id DESC, attempt LIMIT 1");
        let row = row.fetch_optional(&self.pool).await?;
        row.map(|row| Ok((unsigned(row.try_get(0)?)?, unsigned(row.try_get(1)?)?))).transpose()
    }

    /// The block in which a request was asked, by its key.
    pub async fn asked_in(&self, key: (u64, u32)) -> Result<Option<u64>, StoreError> {
        let row = sqlx::query("SELECT block FROM requests WHERE id = $1 AND attempt = $2");
        let row = row.bind(signed(key.0)?).bind(i64::from(key.1)).fetch_optional(&self.pool).await?;
        row.map(|row| unsigned(row.try_get(0)?)).transpose()
    }

    /// How long ago the oldest request was seen that is not answered yet.
    pub async fn oldest_waiting(&self) -> Result<Duration, StoreError> {
        let row =
            sqlx::query("SELECT MIN(seen_at) FROM requests WHERE step IN ('seen', 'inferred', 'signed', 'posting')")
                .fetch_one(&self.pool)
                .await?;
        let age = row.try_get::<Option<i64>, _>(0)?.map_or(0, |seen| now_millis().saturating_sub(seen));
        Ok(Duration::from_millis(u64::try_from(age).unwrap_or_default()))
    }

    /// Wei paid for results of this relayer so far.
    pub async fn earned(&self) -> Result<U256, StoreError> {
        let rows = sqlx::query("SELECT paid FROM requests WHERE paid IS NOT NULL").fetch_all(&self.pool).await?;
        rows.iter().try_fold(U256::ZERO, |sum, row| {
            let wei: U256 = row.try_get::<String, _>(0)?.parse().map_err(|_| StoreError::Damaged("wei".into()))?;
            Ok(sum + wei)
        })
    }

    /// `Seen -> Inferred`, of a batch at once.
    pub async fn inferred(&self, batch: &[(&Request, Vec<u8>)], took: Duration) -> Result<(), StoreError> {
        let micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
        let mut transaction = self.pool.begin().await?;
        for (request, output) in batch {
            let query = sqlx::query(
                "UPDATE requests SET step = 'inferred', output = $5, infer_micros = $6, updated_at = $3
                 WHERE step = 'seen' AND id = $1 AND attempt = $2 AND request = $4",
            );
            advance(query, request)?.bind(output.clone()).bind(micros).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// `Inferred -> Signed`, of a batch at once. Nobody need claim them any more.
    pub async fn signed(&self, batch: &[(&Request, Vec<u8>)]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for (request, signature) in batch {
            let query = sqlx::query(
                "UPDATE requests SET step = 'signed', signature = $5, worker = NULL, claimed_until = NULL, updated_at = $3
                 WHERE step = 'inferred' AND id = $1 AND attempt = $2 AND request = $4",
            );
            advance(query, request)?.bind(signature.clone()).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Stops working on a request that is not on chain yet.
    pub async fn dropped(&self, request: &Request, reason: &str) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE requests SET step = 'dropped', reason = $5, worker = NULL, claimed_until = NULL, updated_at = $3
             WHERE step IN ('seen', 'inferred', 'signed', 'posting') AND id = $1 AND attempt = $2 AND request = $4",
        );
        advance(query, request)?.bind(reason.to_owned()).execute(&self.pool).await?;
        Ok(())
    }

    /// Gives up, at unix second `now`, what no worker would get to see in time: requests whose input could not be had, and, in a shared store, those for
    /// models that nobody serves.
    pub async fn drop_expired(&self, now: u64) -> Result<u64, StoreError> {
        let dropped = sqlx::query(
            "UPDATE requests SET step = 'dropped', worker = NULL, claimed_until = NULL, updated_at = $2,
                reason = CASE awaits_input WHEN 0 THEN 'expired before anybody here answered' ELSE
                    'the input could not be had before the deadline' || COALESCE(': ' || fetch_problem, '') END
             WHERE step = 'seen' AND deadline < $1 AND (awaits_input <> 0 OR $3 <> 0)",
        );
        let all = i64::from(self.location.is_shared());
        Ok(dropped.bind(signed(now)?).bind(now_millis()).bind(all).execute(&self.pool).await?.rows_affected())
    }

    /// Takes a request out of a transaction that did not do its work, to be tried again: `Posting -> Signed`, `Finalizing -> Posted`.
    pub async fn released(&self, key: (u64, u32)) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE requests SET step = CASE step WHEN 'posting' THEN 'signed' ELSE 'posted' END, updated_at = $3
             WHERE step IN ('posting', 'finalizing') AND id = $1 AND attempt = $2",
        );
        let query = query.bind(signed(key.0)?).bind(i64::from(key.1)).bind(now_millis());
        let mut transaction = self.begin_as_submitter().await?;
        query.execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }
}

/// A statement; the values of its places are added one after the other.
type Statement<'q> = sqlx::query::Query<'q, Any, <Any as sqlx::Database>::Arguments>;

/// The first four places of an update of one request. No row changed means that the chain was faster: that is fine.
// INVARIANT: what was found out for one request never becomes another's. A reorganisation can put another one under the same number while a model runs.
fn advance<'q>(query: Statement<'q>, request: &Request) -> Result<Statement<'q>, StoreError> {
    let (id, attempt) = (signed(request.id.0)?, i64::from(request.attempt));
    Ok(query.bind(id).bind(attempt).bind(now_millis()).bind(request.pack().abi_encode()))
}

async fn remember(connection: &mut AnyConnection, number: u64, hash: B256) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO blocks (number, hash) VALUES ($1, $2) ON CONFLICT (number) DO UPDATE SET hash = excluded.hash",
    )
    .bind(signed(number)?)
    .bind(hash.to_vec())
    .execute(connection)
    .await?;
    Ok(())
}

/// One fact from the chain. Idempotent, and never moves a request back.
async fn apply_event(
    connection: &mut AnyConnection,
    log: &OracleLog,
    operator: Address,
    window: u64,
) -> Result<(), StoreError> {
    let (block, position) = (signed(log.block_number)?, signed(log.log_index)?);
    match &log.event {
        Event::Requested(event) => {
            insert(connection, &event.request, Input::Bytes(event.input.clone()), block, position).await
        }
        Event::RequestedByUri(event) => {
            let input = Input::Uri { uri: event.uri.clone(), size: event.inputSize };
            insert(connection, &event.request, input, block, position).await
        }
        Event::Fulfilled(event) if event.operator == operator => {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "UPDATE requests SET step = 'posted', output = $5, fulfillment = $6, fulfilled_block = $3, final_at = $7, reason = NULL,
                    worker = NULL, claimed_until = NULL, updated_at = $1
                 WHERE step IN ('seen', 'inferred', 'signed', 'posting', 'dropped') AND fulfillment IS NULL AND {ATTEMPT}",
            )))
            .bind(now_millis())
            .bind(signed(event.id)?)
            .bind(block)
            .bind(position)
            .bind(event.output.to_vec())
            .bind(event.fulfillment.abi_encode())
            .bind(signed(event.fulfillment.final_at(window))?)
            .execute(connection)
            .await?;
            Ok(())
        }
        Event::Fulfilled(event) => {
            leave(connection, event.id, &format!("answered by operator {}", event.operator), block, position).await
        }
        Event::DisputeOpened(event) => result_event(connection, event.id, "opened", block, position).await,
        Event::ResultUpheld(event) => result_event(connection, event.id, "upheld", block, position).await,
        Event::ResultRejected(event) => result_event(connection, event.id, "rejected", block, position).await,
        Event::Finalized(event) => {
            sqlx::query(
                "UPDATE requests SET step = 'finalized', paid = $1, finalized_block = $2, updated_at = $3
                 WHERE id = $4 AND step IN ('posted', 'disputed', 'finalizing')",
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
    connection: &mut AnyConnection,
    packed: &PackedRequest,
    input: Input,
    block: i64,
    position: i64,
) -> Result<(), StoreError> {
    let encoded = packed.abi_encode();
    let request = unpack(&encoded)?;
    let (id, attempt) = (signed(request.id.0)?, i64::from(request.attempt));
    let (input, mut place) = match input {
        Input::Bytes(input) => (input, None),
        Input::Uri { uri, size } => (Bytes::new(), Some((uri, i64::from(size)))),
    };
    // INVARIANT: nobody works on a request whose input is not here.
    let awaits = request.input_by_uri && keccak256(&input) != request.input_hash;
    if awaits && place.is_none() {
        // Opened again without its input (P47): where that is was said with an earlier attempt.
        let earlier = sqlx::query("SELECT uri, input_size FROM requests WHERE id = $1 AND uri IS NOT NULL LIMIT 1");
        let earlier = earlier.bind(id).fetch_optional(&mut *connection).await?;
        place = earlier.map(|row| Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?))).transpose()?;
    }
    let (uri, size) = place.unzip();
    // The same number with other content is a request that a reorganisation replaced: what was done for the old one is void.
    sqlx::query("DELETE FROM requests WHERE id = $1 AND attempt = $2 AND request <> $3")
        .bind(id)
        .bind(attempt)
        .bind(encoded.clone())
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO requests (id, attempt, step, request, model, input, drawn, exclusive_until, deadline, block, position, requester, seen_at, updated_at, uri, input_size, awaits_input)
         VALUES ($1, $2, 'seen', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13, $14, $15) ON CONFLICT DO NOTHING",
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
    .bind(request.requester.to_vec())
    .bind(now_millis())
    .bind::<Option<String>>(uri)
    .bind::<Option<i64>>(size)
    .bind(i64::from(awaits))
    .execute(connection)
    .await?;
    Ok(())
}

/// The attempt that an event is about. Events name the request only, and ranges are read again: an old event must not reach a new attempt.
/// Places: 2 the number, 3 the event's block, 4 its position in it.
const ATTEMPT: &str =
    "id = $2 AND attempt = (SELECT MAX(attempt) FROM requests WHERE id = $2 AND (block, position) < ($3, $4))";

/// Nothing more to do for a request that is not ours.
async fn leave(
    connection: &mut AnyConnection,
    id: u64,
    reason: &str,
    block: i64,
    position: i64,
) -> Result<(), StoreError> {
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE requests SET step = 'dropped', reason = $5, fulfilled_block = $3, worker = NULL, claimed_until = NULL, updated_at = $1
         WHERE step IN ('seen', 'inferred', 'signed', 'posting', 'dropped') AND {ATTEMPT}"
    )))
    .bind(now_millis())
    .bind(signed(id)?)
    .bind(block)
    .bind(position)
    .bind(reason.to_owned())
    .execute(connection)
    .await?;
    Ok(())
}

/// Something happened to a result of ours: a dispute was opened, or ended. Stored too, so that a reorganisation can take it back; what is stored already
/// was said in a range that is read again.
async fn result_event(
    connection: &mut AnyConnection,
    id: u64,
    event: &'static str,
    block: i64,
    position: i64,
) -> Result<(), StoreError> {
    let news = sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO result_events (id, attempt, block, position, event)
         SELECT id, attempt, $3, $4, $1 FROM requests WHERE fulfillment IS NOT NULL AND {ATTEMPT} ON CONFLICT DO NOTHING"
    )))
    .bind(event)
    .bind(signed(id)?)
    .bind(block)
    .bind(position)
    .execute(&mut *connection)
    .await?;
    if news.rows_affected() == 0 {
        return Ok(());
    }
    let update = match event {
        "opened" => "step = 'disputed' WHERE step IN ('posted', 'finalizing')",
        "upheld" => "step = 'posted' WHERE step = 'disputed'",
        _ => "step = 'dropped', reason = 'the result was rejected' WHERE step IN ('posted', 'disputed', 'finalizing')",
    };
    sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE requests SET updated_at = $1, {update} AND {ATTEMPT}")))
        .bind(now_millis())
        .bind(signed(id)?)
        .bind(block)
        .bind(position)
        .execute(connection)
        .await?;
    Ok(())
}

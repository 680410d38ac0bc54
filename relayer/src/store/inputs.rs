//! Inputs that are at a URI: which requests wait for one, and those that were fetched.
//!
//! What was fetched is kept by its hash, up to a bound, and given to every request that waits for it in the same transaction. So a kill loses at most
//! a download, and no request is worked on before its input is here.

use super::{RequestRow, Store, StoreError, now_millis, signed, unsigned};
use alloy::{
    primitives::{Address, B256, Bytes},
    sol_types::SolValue,
};
use candor_sdk::request::Request;
use sqlx::{Row, any::AnyRow};

/// What is known of an input that is at a URI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByUri {
    /// Where it is; none: the announcement that said so was not read.
    pub uri: Option<String>,
    /// Its bytes, as the request says.
    pub size: u32,
    /// Whether it is not here yet.
    pub awaited: bool,
    /// How often it was tried to fetch it, in vain.
    pub tries: u32,
    /// What went wrong the last time.
    pub problem: Option<String>,
}

impl ByUri {
    /// Of a request whose input is at a URI; none of another.
    pub(super) fn read(row: &AnyRow, request: &Request) -> Result<Option<Self>, StoreError> {
        if !request.input_by_uri {
            return Ok(None);
        }
        let small = |value: i64| u32::try_from(value).map_err(|_| StoreError::Damaged(format!("a count of {value}")));
        Ok(Some(Self {
            uri: row.try_get("uri")?,
            size: small(row.try_get::<Option<i64>, _>("input_size")?.unwrap_or_default())?,
            awaited: row.try_get::<i64, _>("awaits_input")? != 0,
            tries: small(row.try_get("fetch_tries")?)?,
            problem: row.try_get("fetch_problem")?,
        }))
    }
}

/// The hash of a request's input: the third of its six words.
const INPUT_HASH: &str = "substr(request, 65, 32)";

impl Store {
    /// Requests that wait for their inputs and that this operator may answer at unix second `now`: those that were tried less often first, of them the
    /// earliest deadline.
    pub async fn awaiting_input(&self, operator: Address, now: u64, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        let query = sqlx::query(
            "SELECT * FROM requests WHERE awaits_input = 1 AND step = 'seen' AND deadline >= $1
                AND (drawn = $2 OR drawn = $3 OR exclusive_until <= $1)
             ORDER BY fetch_tries, deadline, id LIMIT $4",
        );
        let query = query.bind(signed(now)?).bind(operator.to_vec()).bind(Address::ZERO.to_vec());
        self.select(query.bind(i64::from(limit))).await
    }

    /// How many requests wait for their inputs.
    pub async fn inputs_awaited(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) FROM requests WHERE awaits_input = 1 AND step = 'seen'")
            .fetch_one(&self.pool)
            .await?;
        unsigned(row.try_get(0)?)
    }

    /// An input that was fetched and is still kept.
    pub async fn input(&self, hash: B256) -> Result<Option<Bytes>, StoreError> {
        let row = sqlx::query("SELECT input FROM inputs WHERE hash = $1")
            .bind(hash.to_vec())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok(row.try_get::<Vec<u8>, _>(0)?.into())).transpose()
    }

    /// Keeps an input that was fetched and checked, and gives it to the requests that wait for it; of what was fetched before, at most `bound` bytes stay
    /// with it. How many requests got it.
    pub async fn keep_input(&self, hash: B256, input: &Bytes, bound: u64) -> Result<u64, StoreError> {
        let size = input.len() as u64;
        let mut transaction = self.pool.begin().await?;
        let given = sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE requests SET input = $1, awaits_input = 0, fetch_problem = NULL, updated_at = $2 WHERE awaits_input = 1 AND {INPUT_HASH} = $3"
        )))
        .bind(input.to_vec())
        .bind(now_millis())
        .bind(hash.to_vec())
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "INSERT INTO inputs (hash, input, size, fetched_at) VALUES ($1, $2, $3, $4) ON CONFLICT (hash) DO UPDATE SET fetched_at = excluded.fetched_at",
        )
        .bind(hash.to_vec())
        .bind(input.to_vec())
        .bind(signed(size)?)
        .bind(now_millis())
        .execute(&mut *transaction)
        .await?;
        // The newest stay, this one in any case.
        sqlx::query(
            "DELETE FROM inputs WHERE hash <> $1 AND hash IN (
                SELECT hash FROM (SELECT hash, SUM(size) OVER (ORDER BY CASE WHEN hash = $1 THEN 0 ELSE 1 END, fetched_at DESC, hash) AS total FROM inputs) AS kept
                WHERE total > $2)",
        )
        .bind(hash.to_vec())
        .bind(signed(bound)?)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(given.rows_affected())
    }

    /// Notes for every request that waits for an input from somewhere that it could not be had there.
    pub async fn fetch_failed(&self, hash: B256, uri: &str, problem: &str) -> Result<(), StoreError> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE requests SET fetch_tries = fetch_tries + 1, fetch_problem = $1, updated_at = $2 WHERE awaits_input = 1 AND {INPUT_HASH} = $3 AND uri = $4"
        )))
        .bind(problem.to_owned())
        .bind(now_millis())
        .bind(hash.to_vec())
        .bind(uri.to_owned())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Says of a request where its input is, if that was announced before anything was read here.
    pub async fn input_is_at(&self, request: &Request, uri: &str, size: u32) -> Result<(), StoreError> {
        let statement = "UPDATE requests SET uri = $1, input_size = $2
             WHERE id = $3 AND attempt = $4 AND request = $5 AND uri IS NULL";
        sqlx::query(statement)
            .bind(uri.to_owned())
            .bind(i64::from(size))
            .bind(signed(request.id.0)?)
            .bind(i64::from(request.attempt))
            .bind(request.pack().abi_encode())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

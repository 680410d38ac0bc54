//! Who works on what, among the processes that share a store: claims on requests, the lease of the submitter, signs of life.
//!
//! All times here are the database's: the clocks of the machines that share it need not agree, and may jump.

use super::{RequestRow, Step, Store, StoreError, signed, unsigned};
use alloy::primitives::Address;
use candor_sdk::ids::ModelId;
use sqlx::Row;
use std::time::Duration;

/// What a worker says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerCard {
    /// What it computes on.
    pub device: String,
    /// Names of the models it serves.
    pub models: Vec<String>,
    /// Requests that it ran a model for, so far.
    pub answered: u64,
    /// Time that it spent on that.
    pub busy: Duration,
}

/// A worker as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// Its name.
    pub name: String,
    /// What it says about itself.
    pub card: WorkerCard,
    /// How long ago it started.
    pub up: Duration,
    /// Whether it has given a sign of life within the time of a lease.
    pub alive: bool,
    /// Whether it is the submitter.
    pub submitter: bool,
    /// Requests it has claimed now.
    pub claimed: u64,
}

/// A name that no other process has: people recognise the machine and the process in it.
pub(super) fn member_name() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = machine.trim();
    let machine = if machine.is_empty() { "relayer" } else { machine };
    let [a, b, c, d] = alloy::primitives::B256::random()[..4] else { unreachable!("a slice of four has four") };
    format!("{machine}:{}:{a:02x}{b:02x}{c:02x}{d:02x}", std::process::id())
}

impl Store {
    /// Name of this process among those that share the store.
    pub fn member(&self) -> &str {
        &self.member
    }

    /// How long claims and the submitter's lease hold without a sign of life.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Claims up to `limit` requests at a step, for this process: of those that it may work on at unix second `now` (its operator's own, and those that
    /// anybody may answer) and that nobody else has claimed. Requesters take turns; of each one's requests the earliest deadline comes first, and of
    /// those whose turn it is, too. Among several workers each takes only the models it serves.
    pub async fn claim(
        &self,
        step: Step,
        operator: Address,
        models: &[ModelId],
        now: u64,
        limit: u32,
    ) -> Result<Vec<RequestRow>, StoreError> {
        let clock = self.location.now();
        let mut served = String::new();
        if self.location.is_shared() {
            let places: Vec<String> = (0..models.len()).map(|index| format!("${}", 8 + index)).collect();
            served = format!("AND model IN ({})", places.join(", "));
            if models.is_empty() {
                return Ok(Vec::new());
            }
        }
        let free = format!(
            "step = $1 AND awaits_input = 0 AND (drawn = $2 OR drawn = $3 OR exclusive_until <= $4) {served} AND (worker IS NULL OR worker = $5 OR claimed_until < {clock})"
        );
        // Looking at the turns locks nothing; what somebody else claimed in the meantime is left out when the rows are locked.
        let statement = format!(
            "WITH turns AS MATERIALIZED (
                SELECT id, attempt, ROW_NUMBER() OVER (PARTITION BY requester ORDER BY deadline, id) AS turn FROM requests WHERE {free}
             ), picked AS MATERIALIZED (
                SELECT mine.id, mine.attempt FROM requests AS mine JOIN turns ON turns.id = mine.id AND turns.attempt = mine.attempt
                WHERE {free} ORDER BY turn, deadline, mine.id LIMIT $7 {lock}
             )
             UPDATE requests SET worker = $5, claimed_until = {clock} + $6 WHERE (id, attempt) IN (SELECT id, attempt FROM picked) RETURNING *",
            lock = self.location.lock_of_free_rows("mine"),
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(step.name())
            .bind(operator.to_vec())
            .bind(Address::ZERO.to_vec())
            .bind(signed(now)?)
            .bind(self.member.to_string())
            .bind(millis(self.lease))
            .bind(i64::from(limit));
        if self.location.is_shared() {
            for model in models {
                query = query.bind(model.0.to_vec());
            }
        }
        let rows = query.fetch_all(&self.pool).await?;
        let mut rows = rows.iter().map(RequestRow::read).collect::<Result<Vec<_>, _>>()?;
        rows.sort_by_key(|row| (row.request.deadline, row.key()));
        Ok(rows)
    }

    /// A sign of life: extends this process's claims, and says what it is. Takes or extends the submitter's lease if `stand` and nobody else holds it;
    /// true if this process is the submitter now.
    pub async fn sign_of_life(&self, card: &WorkerCard, stand: bool) -> Result<bool, StoreError> {
        let (clock, member, lease) = (self.location.now(), self.member.to_string(), millis(self.lease));
        let mut transaction = self.pool.begin().await?;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "INSERT INTO workers (name, device, models, answered, busy_millis, started_at, alive_until) VALUES ($1, $2, $3, $4, $5, {clock}, {clock} + $6)
             ON CONFLICT (name) DO UPDATE SET answered = $4, busy_millis = $5, alive_until = {clock} + $6"
        )))
        .bind(member.clone())
        .bind(card.device.clone())
        .bind(card.models.join(","))
        .bind(signed(card.answered)?)
        .bind(millis(card.busy))
        .bind(lease)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE requests SET claimed_until = {clock} + $2 WHERE worker = $1")))
            .bind(member.clone())
            .bind(lease)
            .execute(&mut *transaction)
            .await?;
        // A file has one owner, whatever an earlier one wrote, and whatever the clock did since.
        let anyway = if self.location.is_shared() { "" } else { "OR TRUE" };
        let mut elected = false;
        if stand {
            let taken = sqlx::query(sqlx::AssertSqlSafe(format!(
                "INSERT INTO leases (name, holder, until) VALUES ('submitter', $1, {clock} + $2)
                 ON CONFLICT (name) DO UPDATE SET holder = $1, until = {clock} + $2
                 WHERE leases.holder = $1 OR leases.until < {clock} {anyway}"
            )))
            .bind(member)
            .bind(lease)
            .execute(&mut *transaction)
            .await?;
            elected = taken.rows_affected() == 1;
        }
        transaction.commit().await?;
        Ok(elected)
    }

    /// Gives everything back, for others to take up at once.
    pub async fn leave(&self) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for statement in [
            "UPDATE requests SET worker = NULL, claimed_until = NULL WHERE worker = $1",
            "DELETE FROM leases WHERE holder = $1",
            "DELETE FROM workers WHERE name = $1",
        ] {
            sqlx::query(statement).bind(self.member.to_string()).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// A file has one owner at a time: what others claimed in it, they claim no more. In a shared store only those are forgotten that have been silent
    /// for long.
    pub(super) async fn forget_former_members(&self) -> Result<(), StoreError> {
        if self.location.is_shared() {
            let clock = self.location.now();
            let long = 100 * millis(self.lease);
            sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM workers WHERE alive_until + $1 < {clock}")))
                .bind(long)
                .execute(&self.pool)
                .await?;
            return Ok(());
        }
        for statement in [
            "UPDATE requests SET worker = NULL, claimed_until = NULL WHERE worker IS NOT NULL",
            "DELETE FROM leases",
            "DELETE FROM workers",
        ] {
            sqlx::query(statement).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Whether a relayer works with this store now: one that holds the file, or has given a sign of life.
    pub async fn has_relayer(&self) -> Result<bool, StoreError> {
        match self.location.is_locked() {
            Some(locked) => Ok(locked),
            None => Ok(self.workers().await?.iter().any(|worker| worker.alive)),
        }
    }

    /// The processes that share this store, by name.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let clock = self.location.now();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT name, device, models, answered, busy_millis, {clock} - started_at AS up, alive_until - {clock} AS left_millis,
                (SELECT COUNT(*) FROM requests WHERE worker = workers.name) AS claimed,
                (SELECT COUNT(*) FROM leases WHERE leases.name = 'submitter' AND holder = workers.name AND until > {clock}) AS submitter
             FROM workers ORDER BY name"
        )))
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let models: String = row.try_get("models")?;
                let duration = |millis: i64| Duration::from_millis(u64::try_from(millis).unwrap_or_default());
                Ok(WorkerRow {
                    name: row.try_get("name")?,
                    card: WorkerCard {
                        device: row.try_get("device")?,
                        models: models.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
                        answered: unsigned(row.try_get("answered")?)?,
                        busy: duration(row.try_get("busy_millis")?),
                    },
                    up: duration(row.try_get("up")?),
                    alive: row.try_get::<i64, _>("left_millis")? > 0,
                    submitter: row.try_get::<i64, _>("submitter")? > 0,
                    claimed: unsigned(row.try_get("claimed")?)?,
                })
            })
            .collect()
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

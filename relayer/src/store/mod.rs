//! What the relayer remembers: requests, their steps, and the transactions it signed, in a SQLite file of its own or in a Postgres database that
//! several relayers of one operator share. The statements are the same for both, and so are the tests.
//!
//! Every step of a request is written here before it has an effect outside, and every fact from the chain is written together with the cursor
//! that says it was read. So the process can be killed between any two instructions and continues where it was.
//!
//! Where the store is shared, a worker claims the requests that it works on, for a while that it extends as long as it lives; and one process at a
//! time holds the lease of the submitter, which alone reads the chain and sends transactions. What only the submitter may write is written in one
//! transaction with a look at the lease, so one that was held up and has lost it can't write any more.

mod database;
mod inputs;
mod leases;
mod requests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_support;
mod transactions;

pub use database::StoreLocation;
pub use inputs::ByUri;
pub use leases::{WorkerCard, WorkerRow};
pub use requests::{BlockRange, Counts, RequestRow, Step};
pub use transactions::{Purpose, SentTransaction, TransactionState};

use alloy::primitives::{Address, B256};
use sqlx::{Any, AnyPool, Row, Transaction};
use std::{
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How many recent block hashes are kept: the deepest reorganisation that is noticed exactly.
pub const REMEMBERED_BLOCKS: u64 = 256;

/// How long a claim or the submitter's lease holds without a sign of life, unless the store is told otherwise.
pub const LEASE: Duration = Duration::from_secs(30);

/// Why the store can't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the file.
    #[error("database {0} is in use by another relayer; two relayers must not share one database and key")]
    InUse(PathBuf),
    /// The database can't be opened or created.
    #[error("database {location} can't be opened: {reason}")]
    Open {
        /// Where.
        location: StoreLocation,
        /// What the system said.
        reason: String,
        /// Whether that may pass by itself: a server that is away, a disk that is full.
        passes: bool,
    },
    /// Written by another version of Candor.
    #[error(
        "database {location} was written by another version of Candor ({reason}); use that version, or another database in [store]"
    )]
    Version {
        /// Where.
        location: StoreLocation,
        /// What differs.
        reason: String,
    },
    /// Belongs to another chain or contract.
    #[error(
        "database {location} belongs to oracle {stored_oracle} on chain {stored_chain}, not to {oracle} on chain {chain}; use another database in [store]"
    )]
    OtherDeployment {
        /// Where.
        location: StoreLocation,
        /// Chain it was made for.
        stored_chain: u64,
        /// Oracle it was made for.
        stored_oracle: Address,
        /// Chain configured now.
        chain: u64,
        /// Oracle configured now.
        oracle: Address,
    },
    /// Shared by the processes of another operator.
    #[error(
        "database {location} is shared by relayers of operator {stored}, not of {operator}; use another database in [store]"
    )]
    OtherOperator {
        /// Where.
        location: StoreLocation,
        /// Operator it belongs to.
        stored: Address,
        /// Operator configured now.
        operator: Address,
    },
    /// Another process is the submitter now; what was to be written is its business.
    #[error("another process has become the submitter")]
    NotSubmitter,
    /// A row that this program can't have written.
    #[error("database holds a damaged row: {0}")]
    Damaged(String),
    /// The database failed.
    #[error("database failed: {0}")]
    Database(#[from] sqlx::Error),
}

impl StoreError {
    /// Whether trying again may help: the server is away, the disk is full, somebody else is the submitter for now.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotSubmitter => true,
            Self::Open { passes, .. } => *passes,
            Self::Database(error) => database::passes(error),
            _ => false,
        }
    }
}

/// The store of one deployment, as one process uses it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    location: Arc<StoreLocation>,
    /// Name of this process among those that share the store.
    member: Arc<str>,
    lease: Duration,
    _lock: Option<Arc<File>>,
}

impl Store {
    /// Opens or creates the database for one deployment. A file is opened by one process alone. A new one starts reading events at `start_block`.
    pub async fn open(
        location: impl Into<StoreLocation>,
        chain_id: u64,
        oracle: Address,
        start_block: u64,
    ) -> Result<Self, StoreError> {
        let location = location.into();
        let lock = location.lock()?;
        let store = Self::over(location, false, lock).await?;
        let migrations = store.location.migrations();
        migrations.run(&store.pool).await.map_err(|error| store.location.unmigrated(error))?;
        store.claim_deployment(chain_id, oracle, start_block).await?;
        store.forget_former_members().await?;
        Ok(store)
    }

    /// Opens an existing database to look at it, beside a running relayer.
    pub async fn open_read_only(location: impl Into<StoreLocation>) -> Result<Self, StoreError> {
        let store = Self::over(location.into(), true, None).await?;
        let location = &store.location;
        let known = location.migrations().iter().map(|migration| migration.version).max().unwrap_or(0);
        let row =
            sqlx::query("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(&store.pool).await.map_err(|error| {
                StoreError::Version {
                    location: location.as_ref().clone(),
                    reason: format!("it is not a Candor database: {error}"),
                }
            })?;
        match row.try_get::<Option<i64>, _>(0)? {
            Some(found) if found == known => Ok(store),
            Some(found) if found < known => Err(StoreError::Version {
                location: location.as_ref().clone(),
                reason: format!("schema {found}, older than this version's {known}; `candor run` brings it up to date"),
            }),
            found => Err(StoreError::Version {
                location: location.as_ref().clone(),
                reason: format!("schema {}, this version has {known}", found.unwrap_or(0)),
            }),
        }
    }

    /// The same store with another time for which leases hold without a sign of life.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    async fn over(location: StoreLocation, read_only: bool, lock: Option<File>) -> Result<Self, StoreError> {
        Ok(Self {
            pool: location.connect(read_only).await?,
            location: Arc::new(location),
            member: leases::member_name().into(),
            lease: LEASE,
            _lock: lock.map(Arc::new),
        })
    }

    async fn claim_deployment(&self, chain: u64, oracle: Address, start_block: u64) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO deployment (one, chain_id, oracle, next_block) VALUES (1, $1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(signed(chain)?)
        .bind(oracle.to_vec())
        .bind(signed(start_block)?)
        .execute(&self.pool)
        .await?;
        let (stored_chain, stored_oracle) = self.deployment().await?;
        if (stored_chain, stored_oracle) == (chain, oracle) {
            return Ok(());
        }
        let location = self.location.as_ref().clone();
        Err(StoreError::OtherDeployment { location, stored_chain, stored_oracle, chain, oracle })
    }

    /// Says whose work this is. A shared store is of one operator's processes: what one of them claims and signs, another one posts.
    pub async fn belong_to(&self, operator: Address) -> Result<(), StoreError> {
        sqlx::query("UPDATE deployment SET operator = $1 WHERE operator IS NULL OR $2 = 0")
            .bind(operator.to_vec())
            .bind(i64::from(self.location.is_shared()))
            .execute(&self.pool)
            .await?;
        let row = sqlx::query("SELECT operator FROM deployment").fetch_one(&self.pool).await?;
        let stored = address(row.try_get(0)?)?;
        if stored == operator {
            return Ok(());
        }
        Err(StoreError::OtherOperator { location: self.location.as_ref().clone(), stored, operator })
    }

    /// Chain id and oracle that the database belongs to.
    pub async fn deployment(&self) -> Result<(u64, Address), StoreError> {
        let row = sqlx::query("SELECT chain_id, oracle FROM deployment").fetch_one(&self.pool).await?;
        Ok((unsigned(row.try_get(0)?)?, address(row.try_get(1)?)?))
    }

    /// The operator whose relayer worked with this database last; none: nobody has, or not for an operator.
    pub async fn operator(&self) -> Result<Option<Address>, StoreError> {
        let row = sqlx::query("SELECT operator FROM deployment").fetch_one(&self.pool).await?;
        row.try_get::<Option<Vec<u8>>, _>(0)?.map(address).transpose()
    }

    /// First block whose events have not been stored.
    pub async fn next_block(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT next_block FROM deployment").fetch_one(&self.pool).await?;
        unsigned(row.try_get(0)?)
    }

    /// Hash of a block as it was when its events were read; none if it is too long ago.
    pub async fn block_hash(&self, number: u64) -> Result<Option<B256>, StoreError> {
        let row = sqlx::query("SELECT hash FROM blocks WHERE number = $1")
            .bind(signed(number)?)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| hash(row.try_get(0)?)).transpose()
    }

    /// The newest block whose hash is known, and the hash: the last that was read, unless the cursor was set back since.
    pub async fn newest_block(&self) -> Result<Option<(u64, B256)>, StoreError> {
        let row = sqlx::query("SELECT number, hash FROM blocks ORDER BY number DESC LIMIT 1");
        let row = row.fetch_optional(&self.pool).await?;
        row.map(|row| Ok((unsigned(row.try_get(0)?)?, hash(row.try_get(1)?)?))).transpose()
    }

    /// Where it is.
    pub fn location(&self) -> &StoreLocation {
        &self.location
    }

    /// A transaction in which only the submitter may write: it fails if this process is not, or is no longer, the submitter.
    // INVARIANT: of the processes that share a store one writes what is on the chain, and one signs transactions.
    async fn begin_as_submitter(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        if self.location.is_shared() {
            let now = self.location.now();
            let held = sqlx::query(sqlx::AssertSqlSafe(format!(
                "SELECT 1 FROM leases WHERE name = 'submitter' AND holder = $1 AND until > {now} FOR UPDATE"
            )))
            .bind(self.member.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
            if held.is_none() {
                return Err(StoreError::NotSubmitter);
            }
        }
        Ok(transaction)
    }
}

/// Milliseconds since 1970 on this machine's clock; for people, never for decisions about money.
fn now_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

fn signed(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Damaged(format!("number {value} is out of range")))
}

fn unsigned(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Damaged(format!("negative number {value}")))
}

fn address(bytes: Vec<u8>) -> Result<Address, StoreError> {
    Address::try_from(bytes.as_slice()).map_err(|_| StoreError::Damaged(format!("address of {} bytes", bytes.len())))
}

fn hash(bytes: Vec<u8>) -> Result<B256, StoreError> {
    B256::try_from(bytes.as_slice()).map_err(|_| StoreError::Damaged(format!("hash of {} bytes", bytes.len())))
}

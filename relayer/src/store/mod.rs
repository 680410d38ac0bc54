//! What the relayer remembers: requests, their steps, and the transactions it signed, in one SQLite file.
//!
//! Every step of a request is written here before it has an effect outside, and every fact from the chain is written together with the cursor
//! that says it was read. So the process can be killed between any two instructions and continues where it was.

mod requests;
#[cfg(test)]
mod tests;
mod transactions;

pub use requests::{BlockRange, Counts, RequestRow, Step};
pub use transactions::{Purpose, SentTransaction, TransactionState};

use alloy::primitives::{Address, B256};
use sqlx::{
    Row, SqlitePool,
    migrate::MigrateError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/migrations");

/// How many recent block hashes are kept: the deepest reorganisation that is noticed exactly.
pub const REMEMBERED_BLOCKS: u64 = 256;

/// Why the store can't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the file.
    #[error("database {0} is in use by another relayer; two relayers must not share one database and key")]
    InUse(PathBuf),
    /// The file can't be opened or created.
    #[error("database {path} can't be opened: {reason}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Written by another version of Candor.
    #[error(
        "database {path} was written by another version of Candor ({reason}); use that version, or another file in [store] path"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// Belongs to another chain or contract.
    #[error(
        "database {path} belongs to oracle {stored_oracle} on chain {stored_chain}, not to {oracle} on chain {chain}; use another file in [store] path"
    )]
    OtherDeployment {
        /// The file.
        path: PathBuf,
        /// Chain it was made for.
        stored_chain: u64,
        /// Oracle it was made for.
        stored_oracle: Address,
        /// Chain configured now.
        chain: u64,
        /// Oracle configured now.
        oracle: Address,
    },
    /// A row that this program can't have written.
    #[error("database holds a damaged row: {0}")]
    Damaged(String),
    /// SQLite failed.
    #[error("database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// The store of one relayer for one deployment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    path: Arc<PathBuf>,
    _lock: Option<Arc<File>>,
}

impl Store {
    /// Opens or creates the file, alone, for one deployment. A new file starts reading events at `start_block`.
    pub async fn open(path: &Path, chain_id: u64, oracle: Address, start_block: u64) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| open_error(path, &error))?;
        }
        let lock = lock(path)?;
        let store =
            Self { pool: connect(path, false).await?, path: Arc::new(path.to_owned()), _lock: Some(Arc::new(lock)) };
        MIGRATIONS.run(&store.pool).await.map_err(|error| version_error(path, error))?;
        store.claim(chain_id, oracle, start_block).await?;
        Ok(store)
    }

    /// Opens an existing file to look at it, beside a running relayer.
    pub async fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let store = Self { pool: connect(path, true).await?, path: Arc::new(path.to_owned()), _lock: None };
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        let row =
            sqlx::query("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(&store.pool).await.map_err(|error| {
                StoreError::Version { path: path.to_owned(), reason: format!("it is not a Candor database: {error}") }
            })?;
        match row.try_get::<Option<i64>, _>(0)? {
            Some(found) if found == known => Ok(store),
            Some(found) if found < known => Err(StoreError::Version {
                path: path.to_owned(),
                reason: format!("schema {found}, older than this version's {known}; `candor run` brings it up to date"),
            }),
            found => Err(StoreError::Version {
                path: path.to_owned(),
                reason: format!("schema {}, this version has {known}", found.unwrap_or(0)),
            }),
        }
    }

    async fn claim(&self, chain: u64, oracle: Address, start_block: u64) -> Result<(), StoreError> {
        sqlx::query("INSERT OR IGNORE INTO deployment (one, chain_id, oracle, next_block) VALUES (1, ?, ?, ?)")
            .bind(signed(chain)?)
            .bind(oracle.as_slice())
            .bind(signed(start_block)?)
            .execute(&self.pool)
            .await?;
        let (stored_chain, stored_oracle) = self.deployment().await?;
        if (stored_chain, stored_oracle) == (chain, oracle) {
            return Ok(());
        }
        Err(StoreError::OtherDeployment { path: self.path.to_path_buf(), stored_chain, stored_oracle, chain, oracle })
    }

    /// Chain id and oracle that the file belongs to.
    pub async fn deployment(&self) -> Result<(u64, Address), StoreError> {
        let row = sqlx::query("SELECT chain_id, oracle FROM deployment").fetch_one(&self.pool).await?;
        Ok((unsigned(row.try_get(0)?)?, address(row.try_get(1)?)?))
    }

    /// First block whose events have not been stored.
    pub async fn next_block(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT next_block FROM deployment").fetch_one(&self.pool).await?;
        unsigned(row.try_get(0)?)
    }

    /// Hash of a block as it was when its events were read; none if it is too long ago.
    pub async fn block_hash(&self, number: u64) -> Result<Option<B256>, StoreError> {
        let row = sqlx::query("SELECT hash FROM blocks WHERE number = ?")
            .bind(signed(number)?)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| hash(row.try_get(0)?)).transpose()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

async fn connect(path: &Path, read_only: bool) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(!read_only)
        .read_only(read_only)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full) // a step that was reported durable survives a power cut
        .busy_timeout(Duration::from_secs(5));
    // One writer: SQLite has one anyway, and transactions never wait for each other inside the process.
    SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(|error| open_error(path, &error))
}

/// Holds `<file>.lock` as long as the store lives; the system frees it however the process ends.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|error| open_error(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(open_error(path, &error)),
    }
}

fn open_error(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Open { path: path.to_owned(), reason: error.to_string() }
}

fn version_error(path: &Path, error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) => open_error(path, &error),
        MigrateError::VersionMissing(version) => StoreError::Version {
            path: path.to_owned(),
            reason: format!("it has schema {version}, which this version does not know"),
        },
        other => StoreError::Version { path: path.to_owned(), reason: other.to_string() },
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

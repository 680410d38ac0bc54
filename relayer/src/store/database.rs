//! Which database: a SQLite file of this relayer's own, or a Postgres server that several share. The statements are the same for both; what differs
//! is here.

use super::StoreError;
use sqlx::{
    AnyConnection, AnyPool, Connection, Executor,
    any::AnyPoolOptions,
    migrate::{MigrateError, Migrator},
};
use std::{
    fmt,
    fs::{File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations/postgres");

/// Connections to a Postgres server, at most: the tasks of a relayer and those who look.
const CONNECTIONS: u32 = 8;

/// Longest time to wait for a connection before the database counts as gone.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// With FULL, a step that was reported durable survives a power cut.
const DURABLE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL";

/// How often a lock is asked for again that somebody holds.
const LOCK_TRIES: u32 = 10;

/// Where the state of the work is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// A SQLite file, for one relayer.
    File(PathBuf),
    /// A Postgres database, for several. The address may carry a password, so it is never printed whole.
    Postgres(Box<reqwest::Url>),
}

impl StoreLocation {
    /// Whether several processes can use it at once.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    pub(super) fn migrations(&self) -> &'static Migrator {
        match self {
            Self::File(_) => &SQLITE_MIGRATIONS,
            Self::Postgres(_) => &POSTGRES_MIGRATIONS,
        }
    }

    /// Unix milliseconds by the database's clock, the only one that all who share it agree on.
    pub(super) fn now(&self) -> &'static str {
        match self {
            Self::File(_) => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            Self::Postgres(_) => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }

    /// Ends a query for rows of a table that are about to be changed: those that somebody else is changing are left out.
    pub(super) fn lock_of_free_rows(&self, table: &str) -> String {
        match self {
            Self::File(_) => String::new(), // one writer at a time
            Self::Postgres(_) => format!("FOR UPDATE OF {table} SKIP LOCKED"),
        }
    }

    pub(super) async fn connect(&self, read_only: bool) -> Result<AnyPool, StoreError> {
        sqlx::any::install_default_drivers();
        let pool = match self {
            Self::File(path) => {
                let mut url = reqwest::Url::parse("sqlite:///").map_err(|error| self.unopened(&error, false))?;
                if path.is_dir() {
                    return Err(self.unopened(&"this is a folder; name a file in it ([store] path)", false));
                }
                let absolute = std::path::absolute(path).map_err(|error| self.unopened(&error, false))?;
                url.set_path(&absolute.display().to_string().replace('%', "%25"));
                url.set_query(Some(if read_only { "mode=ro" } else { "mode=rwc" }));
                // A pool takes any failure to open for one that passes and tries for half a minute; a file that is no database stays none.
                let look = async {
                    let mut connection = AnyConnection::connect(url.as_str()).await?;
                    connection.execute("PRAGMA schema_version").await?;
                    if !read_only {
                        connection.execute(DURABLE).await?;
                    }
                    connection.close().await
                };
                look.await.map_err(|error| self.unopened(&error, passes(&error)))?;
                // One writer: SQLite has one anyway, and transactions never wait for each other inside the process.
                let options = AnyPoolOptions::new().max_connections(1).after_connect(move |connection, _| {
                    Box::pin(async move {
                        if !read_only {
                            connection.execute(DURABLE).await?;
                        }
                        Ok(())
                    })
                });
                options.connect(url.as_str()).await
            }
            Self::Postgres(url) => {
                // A pool says no more than that it has waited.
                let look = async { AnyConnection::connect(url.as_str()).await?.close().await };
                match tokio::time::timeout(CONNECT_WITHIN, look).await {
                    Ok(looked) => looked.map_err(|error| self.unopened(&error, passes(&error)))?,
                    Err(_) => {
                        return Err(self.unopened(&format!("no answer within {} s", CONNECT_WITHIN.as_secs()), true));
                    }
                }
                let options = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(CONNECT_WITHIN);
                let options = options.after_connect(move |connection: &mut AnyConnection, _| {
                    Box::pin(async move {
                        if read_only {
                            connection.execute("SET default_transaction_read_only = on").await?;
                        }
                        Ok(())
                    })
                });
                options.connect(url.as_str()).await
            }
        };
        pool.map_err(|error| self.unopened(&error, passes(&error)))
    }

    /// Holds `<file>.lock` as long as the store lives; the system frees it however the process ends. A shared store has leases instead.
    pub(super) fn lock(&self) -> Result<Option<File>, StoreError> {
        let Self::File(path) = self else { return Ok(None) };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| self.unopened_file(&error))?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock_of(path))
            .map_err(|error| self.unopened_file(&error))?;
        // Whoever only looks whether it is held holds it for a moment.
        let mut tries = LOCK_TRIES;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) if tries > 0 => tries -= 1,
                Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(path.to_owned())),
                Err(TryLockError::Error(error)) => return Err(self.unopened_file(&error)),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether a process holds the lock of a file now; none: that is not to be seen, or there is no lock.
    pub(super) fn is_locked(&self) -> Option<bool> {
        let Self::File(path) = self else { return None };
        match File::open(lock_of(path)) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Some(false),
                Err(TryLockError::WouldBlock) => Some(true),
                Err(TryLockError::Error(_)) => None,
            },
            Err(error) => (error.kind() == ErrorKind::NotFound).then_some(false),
        }
    }

    fn unopened(&self, error: &dyn fmt::Display, passes: bool) -> StoreError {
        StoreError::Open { location: self.clone(), reason: error.to_string(), passes }
    }

    fn unopened_file(&self, error: &std::io::Error) -> StoreError {
        self.unopened(error, matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    }

    pub(super) fn unmigrated(&self, error: MigrateError) -> StoreError {
        match error {
            MigrateError::Execute(error) => self.unopened(&error, passes(&error)),
            MigrateError::VersionMissing(version) => StoreError::Version {
                location: self.clone(),
                reason: format!("it has schema {version}, which this version does not know"),
            },
            other => StoreError::Version { location: self.clone(), reason: other.to_string() },
        }
    }
}

impl From<PathBuf> for StoreLocation {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for StoreLocation {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(url) => {
                write!(f, "postgres://{}", url.host_str().unwrap_or_default())?;
                if let Some(port) = url.port() {
                    write!(f, ":{port}")?;
                }
                f.write_str(url.path())
            }
        }
    }
}

impl fmt::Debug for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The lock of a file lies beside it.
fn lock_of(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

/// Whether a database error passes by itself: a server that is away or restarting, a disk that is full.
pub(super) fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::WorkerCrashed => false,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // SQLite: busy, locked, an I/O error, full. Postgres: connection, resources, operator intervention, rollback.
            let sqlite = code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13) && code < 10_000);
            sqlite || (code.len() == 5 && ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class)))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_printed() {
        let location = StoreLocation::Postgres(Box::new(
            "postgres://candor:hunter2@db.example:5433/queue?x=hunter2".parse().unwrap(),
        ));
        assert_eq!(location.to_string(), "postgres://db.example:5433/queue");
        assert!(!format!("{location:?}").contains("hunter2"));
    }

    #[test]
    fn what_passes_by_itself_is_told_from_what_does_not() {
        assert!(passes(&sqlx::Error::PoolTimedOut));
        assert!(passes(&sqlx::Error::Io(std::io::Error::other("reset"))));
        assert!(!passes(&sqlx::Error::RowNotFound));
        assert!(!passes(&sqlx::Error::PoolClosed));
    }
}

//! A Postgres server of this process's own, for tests and benchmarks: made in a temporary folder, gone with the process, however that ends.
//!
//! It is what Debian's packages install; `CANDOR_POSTGRES` can name another folder of programs. Nothing here is used by a running relayer.

use crate::anvil::die_with_this_process;
use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long it may take to come up, on a machine that is busy compiling.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// Not installed.
    #[error(
        "Postgres was not found: no initdb in /usr/lib/postgresql/*/bin or PATH. Debian has it in the package postgresql; CANDOR_POSTGRES can name the folder of its programs"
    )]
    NotFound,
    /// It does not start.
    #[error("Postgres could not be started: {0}")]
    Start(String),
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: tempfile::TempDir,
    user: Option<(u32, u32)>,
    port: u16,
    databases: AtomicU32,
    keeper: Mutex<Option<Keeper>>,
}

/// The thread that started the server and waits for it: the kernel ends the server with the thread.
#[derive(Debug)]
struct Keeper {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Postgres {
    /// Makes and starts one.
    pub fn start() -> Result<Self, PostgresError> {
        let failed = |error: &dyn std::fmt::Display| PostgresError::Start(error.to_string());
        let programs = programs().ok_or(PostgresError::NotFound)?;
        let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
        // Postgres refuses to run as root.
        let user = if is_root() { Some(other_user().map_err(|error| failed(&error))?) } else { None };
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).map_err(|error| failed(&error))?;
        }
        let port = free_port().map_err(|error| failed(&error))?;
        let server = Self { programs, folder, user, port, databases: AtomicU32::new(0), keeper: Mutex::default() };
        let made = server
            .command("initdb")
            .args(["--auth=trust", "--username=candor", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(server.data())
            .output()
            .map_err(|error| failed(&error))?;
        if !made.status.success() {
            return Err(failed(&String::from_utf8_lossy(&made.stderr)));
        }
        server.up()?;
        Ok(server)
    }

    /// One server for all tests of this process that run now; the last one to let go of it ends it.
    pub fn shared() -> Result<Arc<Self>, PostgresError> {
        static SERVER: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = server.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(Self::start()?);
        *server = Arc::downgrade(&started);
        Ok(started)
    }

    /// The shared server for a test; none, said loudly, where Postgres is not installed. Continuous integration must have it.
    pub fn for_test(test: &str) -> Option<Arc<Self>> {
        match Self::shared() {
            Ok(server) => Some(server),
            Err(error @ PostgresError::NotFound) if may_skip() => {
                eprintln!("SKIPPED on Postgres: {test}: {error}");
                None
            }
            Err(error) => panic!("{test}: {error}"),
        }
    }

    /// A new, empty database; where it is.
    pub fn database(&self) -> Result<reqwest::Url, PostgresError> {
        let name = format!("candor_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let made = self
            .command("createdb")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "candor", &name])
            .output()
            .map_err(|error| PostgresError::Start(error.to_string()))?;
        if !made.status.success() {
            return Err(PostgresError::Start(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        let url = format!("postgres://candor@127.0.0.1:{}/{name}", self.port);
        url.parse().map_err(|error| PostgresError::Start(format!("{url}: {error}")))
    }

    /// Ends the server as a crash would; what is in it stays.
    pub fn down(&self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            let _ = keeper.stop.send(());
            let _ = keeper.thread.join();
        }
    }

    /// Starts the server again.
    pub fn up(&self) -> Result<(), PostgresError> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]);
        let log = std::fs::File::create(self.folder.path().join("log"));
        command.stdout(Stdio::null()).stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
        die_with_this_process(&mut command);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("postgres".into()).spawn(move || {
            let Ok(mut child) = command.spawn() else { return };
            // Until it is told to, or its owner is gone.
            let _ = stopped.recv();
            let _ = child.kill();
            let _ = child.wait();
        });
        let thread = thread.map_err(|error| PostgresError::Start(error.to_string()))?;
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(Keeper { stop, thread });
        let since = Instant::now();
        while !self.answers() {
            if since.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(PostgresError::Start(format!("it did not get ready within {PATIENCE:?}:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
            && self
                .command("pg_isready")
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()
                .is_ok_and(|status| status.success())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.down();
    }
}

/// Whether a test may be left out for want of a program: on a developer's machine, and where continuous integration says that it can't be had.
pub fn may_skip() -> bool {
    std::env::var_os("CI").is_none() || std::env::var_os("CANDOR_MAY_SKIP").is_some()
}

fn programs() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CANDOR_POSTGRES") {
        return Some(PathBuf::from(named)).filter(|folder| folder.join("initdb").is_file());
    }
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions.pop().or_else(|| std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file()))
}

fn is_root() -> bool {
    // SAFETY: a plain system call that always succeeds and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// A user who is not root: Postgres's own, or nobody.
fn other_user() -> io::Result<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd")?;
    let find = |wanted: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
            (name == wanted).then_some(())?;
            Some((uid.parse().ok()?, gid.parse().ok()?))
        })
    };
    find("postgres").or_else(|| find("nobody")).ok_or_else(|| io::Error::other("there is no user but root"))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

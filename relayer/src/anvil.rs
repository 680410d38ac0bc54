//! A local chain for the demo and for the end-to-end tests: finds anvil, starts it, and makes sure that it never outlives this process,
//! however this process ends.
//!
//! - Dropping [`Anvil`] kills it.
//! - On Linux the kernel kills it when this process dies, be it by SIGKILL. That request is bound to the *thread* that started the child, so
//!   a thread of its own starts it and stays until it is gone; a worker thread of a runtime may end long before.
//! - The native binary is started, never npm's JavaScript wrapper, whose child would survive it.
use alloy::signers::local::{MnemonicBuilder, PrivateKeySigner, coins_bip39::English};
use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;

/// The recovery phrase of anvil's own accounts. Everybody knows it.
pub const MNEMONIC: &str = "test test test test test test test test test test test junk";

/// How long a chain may take to come up, on a machine that is busy compiling.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of output kept for error messages.
const KEPT_LINES: usize = 200;

/// Why there is no local chain.
#[derive(Debug, thiserror::Error)]
pub enum AnvilError {
    /// Nowhere to be found.
    #[error(
        "anvil was not found: not in PATH, and in no node_modules above {}. Run `make setup` (or `npm ci`) in the repository, or install \
         Foundry from https://getfoundry.sh; CANDOR_ANVIL can name the program", .0.display()
    )]
    NotFound(PathBuf),
    /// Named by CANDOR_ANVIL, and not there.
    #[error("CANDOR_ANVIL names {}, which is not a program", .0.display())]
    NotAProgram(PathBuf),
    /// The system would not start it.
    #[error("{} could not be started: {error}", path.display())]
    Start {
        /// Which program.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It ended instead of listening.
    #[error("anvil ended before it was ready; it said:\n{0}")]
    Ended(String),
    /// It is silent.
    #[error("anvil did not get ready within {} s; it said:\n{}", PATIENCE.as_secs(), .0)]
    Silent(String),
}

/// How the local chain is to be.
#[derive(Clone, Debug, Default)]
pub struct AnvilOptions {
    /// A block this often. A block for each transaction when not given.
    pub block_time: Option<Duration>,
    /// The port. A free one when not given.
    pub port: Option<u16>,
    /// The chain's number; 31337 when not given.
    pub chain_id: Option<u64>,
    /// More arguments, as for the program.
    pub args: Vec<OsString>,
}

/// A running local chain.
#[derive(Debug)]
pub struct Anvil {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    port: u16,
}

#[derive(Debug, Default)]
struct Shared {
    child: Mutex<Option<Child>>,
    output: Mutex<VecDeque<String>>,
}

impl Shared {
    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn output(&self) -> String {
        let lines = self.output.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }
}

impl Anvil {
    /// Starts a chain and waits until it answers.
    pub async fn start(options: &AnvilOptions) -> Result<Self, AnvilError> {
        let program = find()?;
        let mut command = Command::new(&program);
        command.args(["--host", "127.0.0.1", "--port", &options.port.unwrap_or(0).to_string(), "--mnemonic", MNEMONIC]);
        if let Some(time) = options.block_time {
            command.args(["--block-time", &time.as_secs_f64().to_string()]);
        }
        if let Some(id) = options.chain_id {
            command.args(["--chain-id", &id.to_string()]);
        }
        command.args(&options.args);
        die_with_this_process(&mut command);

        let shared = Arc::new(Shared::default());
        let (ready, listening) = oneshot::channel();
        let keeper = {
            let shared = shared.clone();
            std::thread::Builder::new().name("anvil".into()).spawn(move || keep(command, &shared, ready))
        };
        let keeper = keeper.map_err(|error| AnvilError::Start { path: program.clone(), error })?;
        // From here on dropping `anvil` cleans up.
        let mut anvil = Self { shared, keeper: Some(keeper), port: 0 };
        anvil.port = match tokio::time::timeout(PATIENCE, listening).await {
            Ok(Ok(Ok(port))) => port,
            Ok(Ok(Err(error))) => return Err(AnvilError::Start { path: program, error }),
            Ok(Err(_)) => return Err(AnvilError::Ended(anvil.shared.output())),
            Err(_) => return Err(AnvilError::Silent(anvil.shared.output())),
        };
        Ok(anvil)
    }

    /// Where it listens.
    pub fn url(&self) -> reqwest::Url {
        let url = format!("http://127.0.0.1:{}", self.port);
        url.parse().expect("a number as port makes a valid address")
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The number of the process; none when it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.shared.child().as_ref().map(Child::id)
    }

    /// What it printed last, for error messages.
    pub fn output(&self) -> String {
        self.shared.output()
    }

    fn join(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            // The keeper does not panic, and if it did the child would be gone with it.
            let _ = keeper.join();
        }
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        if let Some(child) = self.shared.child().as_mut() {
            let _ = child.kill();
        }
        self.join();
    }
}

/// The key of one of the accounts that have money on every anvil.
pub fn dev_key(index: u32) -> PrivateKeySigner {
    let builder = MnemonicBuilder::<English>::default().phrase(MNEMONIC).index(index);
    builder.and_then(|builder| builder.build()).expect("the phrase is valid, and so is every index below 2^31")
}

/// Starts the program, reads what it prints until it ends, and waits for it.
fn keep(mut command: Command, shared: &Shared, ready: oneshot::Sender<io::Result<u16>>) {
    let mut ready = Some(ready);
    let started = io::pipe().and_then(|(reader, writer)| {
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn()?;
        Ok((reader, child))
    });
    // The command holds this side's copies of the pipe; without them the reader sees the end when the child ends.
    drop(command);
    let (reader, child) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = ready.take().map(|ready| ready.send(Err(error)));
            return;
        }
    };
    *shared.child() = Some(child);
    if ready.as_ref().is_some_and(oneshot::Sender::is_closed) {
        // Dropped between the start and now, before there was a child to kill.
        let _ = shared.child().as_mut().map(Child::kill);
    }
    for line in BufReader::new(reader).split(b'\n') {
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let Some(port) =
            line.strip_prefix("Listening on ").and_then(|address| address.rsplit(':').next()?.parse().ok())
        {
            let _ = ready.take().map(|ready| ready.send(Ok(port)));
        }
        let mut output = shared.output.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if output.len() == KEPT_LINES {
            output.pop_front();
        }
        output.push_back(line);
    }
    // It closed its output, so it has ended or is about to.
    let mut child = shared.child();
    let _ = child.as_mut().map(Child::wait);
    *child = None;
}

#[cfg(target_os = "linux")]
pub(crate) fn die_with_this_process(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let parent =
        libc::pid_t::try_from(std::process::id()).expect("process numbers fit the type that the system has for them");
    // A group of its own: Ctrl-C on the terminal is for this process, which ends the chain when it no longer needs it.
    command.process_group(0);
    let tie = move || {
        // SAFETY: plain system calls, allowed between fork and exec; they touch no memory of this process.
        let (tied, parent_now) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        if tied != 0 {
            return Err(io::Error::last_os_error());
        }
        if parent_now != parent {
            // It died before the tie was made.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure does system calls only; it neither allocates nor locks, on no path.
    unsafe { command.pre_exec(tie) };
}

/// Without the kernel's help the chain stays in this process's group, where Ctrl-C reaches it, and `Drop` does the rest.
#[cfg(not(target_os = "linux"))]
pub(crate) fn die_with_this_process(_: &mut Command) {}

/// The program: named by CANDOR_ANVIL, or in PATH, or in a node_modules above the current folder or above this program.
pub fn find() -> Result<PathBuf, AnvilError> {
    if let Some(named) = std::env::var_os("CANDOR_ANVIL") {
        let named = PathBuf::from(named);
        return if named.is_file() { Ok(native(&named)) } else { Err(AnvilError::NotAProgram(named)) };
    }
    let here = std::env::current_dir().unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    find_in(&std::env::var_os("PATH").unwrap_or_default(), &[&here, &program]).ok_or(AnvilError::NotFound(here))
}

fn find_in(path: &OsString, starts: &[&Path]) -> Option<PathBuf> {
    let in_path = std::env::split_paths(path).map(|folder| folder.join(EXECUTABLE)).find(|file| file.is_file());
    if let Some(file) = in_path {
        return Some(native(&file));
    }
    let folders = starts.iter().flat_map(|start| start.ancestors());
    folders.map(|folder| npm_binary(&folder.join("node_modules/@foundry-rs"))).find(|file| file.is_file())
}

const EXECUTABLE: &str = if cfg!(windows) { "anvil.exe" } else { "anvil" };

/// Where npm puts the native program.
fn npm_binary(scope: &Path) -> PathBuf {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        other => other,
    };
    let processor = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    scope.join(format!("anvil-{system}-{processor}")).join("bin").join(EXECUTABLE)
}

/// The native program behind npm's JavaScript wrapper; the file itself when it is none.
fn native(file: &Path) -> PathBuf {
    let Ok(real) = file.canonicalize() else { return file.to_owned() };
    let scope = real.ancestors().find(|folder| folder.ends_with("@foundry-rs"));
    match scope.map(npm_binary).filter(|binary| binary.is_file()) {
        Some(binary) if real.extension().is_some_and(|extension| extension == "mjs") => binary,
        _ => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_native_program_is_found_behind_the_wrapper_and_above_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let scope = place.path().join("node_modules/@foundry-rs");
        let binary = npm_binary(&scope);
        for file in [&binary, &scope.join("anvil/bin.mjs"), &place.path().join("node_modules/.bin/keep")] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let deep = place.path().join("target/debug");
        assert_eq!(find_in(&OsString::new(), &[Path::new("/"), &deep]), Some(binary.clone()));
        assert_eq!(find_in(&OsString::new(), &[Path::new("/")]), None);
        #[cfg(unix)]
        {
            let shims = place.path().join("node_modules/.bin");
            std::os::unix::fs::symlink("../@foundry-rs/anvil/bin.mjs", shims.join("anvil")).unwrap();
            let found = find_in(&shims.into_os_string(), &[]).unwrap();
            assert_eq!(found, binary.canonicalize().unwrap(), "the wrapper in PATH leads to the program");
        }
        let own = place.path().join("bin");
        fs::create_dir(&own).unwrap();
        fs::write(own.join(EXECUTABLE), "").unwrap();
        let found = find_in(&own.clone().into_os_string(), &[&deep]).unwrap();
        assert_eq!(found, own.join(EXECUTABLE), "an installed one goes first");
    }

    #[test]
    fn the_accounts_are_anvil_s() {
        assert_eq!(dev_key(0).address().to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        assert_eq!(dev_key(1).address().to_string(), "0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
    }
}

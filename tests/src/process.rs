//! A relayer as a process of its own, to be killed.

use crate::world::{Operator, World};
use alloy::primitives::Address;
use anyhow::{Context, Result, ensure};
use candor_relayer::store::StoreLocation;
use reqwest::Url;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::{Child, Command};

/// Where relayer processes send their earnings, at once.
pub const PAYOUT: Address = Address::repeat_byte(0xea);

/// One `candor run`.
#[derive(Debug)]
pub struct RelayerProcess {
    child: Child,
    log: PathBuf,
}

/// The binary that `cargo test --workspace` built beside these tests.
pub fn candor_binary() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let path = this.ancestors().nth(2).context("no target folder")?.join("candor");
    ensure!(path.exists(), "{} does not exist: run `make test`, or `cargo build --bin candor` first", path.display());
    Ok(path)
}

/// Writes the configuration of a relayer into a folder.
pub fn write_config(folder: &Path, world: &World, rpc: &Url) -> Result<PathBuf> {
    let operator = format!(
        r#"
[operator]
min_fee = {{ default = "1 wei" }}

[operator.payout]
address = "{PAYOUT}"
threshold = "1 wei"
"#
    );
    write(folder, world, rpc, &operator)
}

/// The same of one that watches, and answers nothing.
pub fn write_watching_config(folder: &Path, world: &World, rpc: &Url, cap: &str) -> Result<PathBuf> {
    write(folder, world, rpc, &format!("\n[watcher]\nenabled = true\ncap = \"{cap}\"\n"))
}

fn write(folder: &Path, world: &World, rpc: &Url, roles: &str) -> Result<PathBuf> {
    let path = folder.join("candor.toml");
    std::fs::write(
        &path,
        format!(
            r#"
[chain]
rpc_urls = ["{rpc}"]
chain_id = {chain_id}
oracle = "{oracle}"
start_block = 0
confirmations = 0
poll_interval = "50ms"
{roles}
[gas]
daily_cap = "100 ether"

[store]
path = "{store}"

[log]
format = "plain"
"#,
            chain_id = world.client.chain_id,
            oracle = world.client.oracle,
            store = folder.join("candor.db").display(),
        ),
    )?;
    Ok(path)
}

impl RelayerProcess {
    /// Starts one in `folder`, where its configuration, database and log are; `crash_at` names a place at which it kills itself.
    pub fn start(folder: &Path, world: &World, rpc: &Url, operator: &Operator, crash_at: Option<&str>) -> Result<Self> {
        Self::start_with(folder, world, rpc, operator, crash_at, &[])
    }

    /// The same with more settings.
    pub fn start_with(
        folder: &Path,
        world: &World,
        rpc: &Url,
        operator: &Operator,
        crash_at: Option<&str>,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let config = write_config(folder, world, rpc)?;
        let shared = match world.store(folder) {
            StoreLocation::Postgres(url) => vec![("store.url", url.to_string()), ("store.lease", "2s".to_owned())],
            StoreLocation::File(_) => Vec::new(),
        };
        // The test's own settings come last, and win.
        let shared = shared.iter().map(|(key, value)| (*key, value.as_str()));
        let settings: Vec<_> = shared.chain(settings.iter().copied()).collect();
        let settings = settings.iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]);
        let arguments = [OsString::from("--config"), config.into()].into_iter().chain(settings.map(OsString::from));
        Self::spawn(folder, arguments.collect(), operator, crash_at)
    }

    /// One that watches with an account's money, and answers nothing.
    pub fn watching(
        folder: &Path,
        world: &World,
        account: &Operator,
        cap: &str,
        crash_at: Option<&str>,
    ) -> Result<Self> {
        let config = write_watching_config(folder, world, &world.rpc_url(), cap)?;
        Self::spawn(folder, vec![OsString::from("--config"), config.into()], account, crash_at)
    }

    /// One for two chains, with the same key on both.
    pub fn start_for_two(folder: &Path, worlds: [&World; 2], operator: &Operator) -> Result<Self> {
        let mut arguments = Vec::new();
        for (flag, world) in ["--config", "--also"].into_iter().zip(worlds) {
            let place = folder.join(world.client.chain_id.to_string());
            std::fs::create_dir_all(&place)?;
            arguments.extend([flag.into(), write_config(&place, world, &world.rpc_url())?.into()]);
        }
        Self::spawn(folder, arguments, operator, None)
    }

    fn spawn(folder: &Path, arguments: Vec<OsString>, operator: &Operator, crash_at: Option<&str>) -> Result<Self> {
        let log = folder.join("log");
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(candor_binary()?);
        command
            .arg("run")
            .args(arguments)
            .env("CANDOR_PRIVATE_KEY", operator.key_hex())
            .env_remove("CANDOR_CRASH_AT")
            // All these worlds have the same keys, contracts and chain number; their locks must not meet.
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true);
        if let Some(place) = crash_at {
            command.env("CANDOR_CRASH_AT", place);
        }
        Ok(Self { child: command.spawn()?, log })
    }

    /// Waits until the process ends by itself.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        tokio::time::timeout(within, self.child.wait())
            .await
            .with_context(|| format!("still running after {within:?}; its log:\n{}", self.log()))?
            .map_err(Into::into)
    }

    /// How it ended; none if it still runs.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) -> Result<()> {
        let id = self.child.id().context("it has ended")?;
        let asked = std::process::Command::new("kill").arg(id.to_string()).status()?;
        ensure!(asked.success(), "SIGTERM did not reach it");
        Ok(())
    }

    /// SIGKILL.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// What it wrote, all runs in this folder together.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

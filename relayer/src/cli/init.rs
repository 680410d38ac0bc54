//! `candor init`: a commented configuration file, and a key.
use super::{Context, Outcome, UsageError};
use crate::{
    config::{DEFAULT_FILE, Known, Preset, RpcUrl, parse_address, template},
    keys::{self, Surroundings},
};
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// What `candor init` is told.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// For a local anvil: fast polling, no confirmations, its chain id and address
    #[arg(long)]
    anvil: bool,
    /// Replace the file if it is there. Keys are never replaced
    #[arg(long)]
    force: bool,
    /// Make a new key in an encrypted keystore beside the file [default name: operator.json]. The password is asked for, or taken from
    /// CANDOR_KEYSTORE_PASSWORD
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "operator.json")]
    new_key: Option<PathBuf>,
}

pub(super) fn init(context: &Context, args: &InitArgs) -> anyhow::Result<Outcome> {
    let path = context.global.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    if path.exists() && !args.force {
        let problem = format!("{} exists already; --force replaces it, --config FILE names another", path.display());
        return Err(UsageError(problem).into());
    }
    let oracle = context.global.oracle.as_deref().map(parse_address).transpose().map_err(UsageError)?;
    let rpc_urls: Vec<RpcUrl> =
        context.global.rpc_url.iter().map(|url| url.parse()).collect::<Result<_, _>>().map_err(UsageError)?;
    if let Some((key, _)) = context.global.set.first() {
        return Err(UsageError(format!("--set {key}: the file is written with the defaults; change it there")).into());
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    // The key first: a configuration that names a key that was not made would be worse than none.
    let account = match &args.new_key {
        Some(keystore) => Some(keys::create(&folder.join(keystore), &Surroundings::of_process())?),
        None => None,
    };
    let preset = if args.anvil { Preset::Anvil } else { Preset::Public };
    let text = template(preset, &Known { rpc_urls: &rpc_urls, oracle, keystore: args.new_key.as_deref() });
    write(&path, &text, args.force).with_context(|| format!("{} can't be written", path.display()))?;

    let shown = path.display();
    context.say(
        || {
            let mut text = format!("wrote {shown}");
            if let (Some(keystore), Some(account)) = (&args.new_key, account) {
                let keystore = folder.join(keystore);
                text += &format!("\nwrote {}, the key of account {account}; keep the file and its password safe", keystore.display());
            }
            let missing = [
                ("chain.rpc_urls", !args.anvil && rpc_urls.is_empty()),
                ("chain.chain_id", !args.anvil),
                ("chain.oracle", oracle.is_none()),
            ];
            let missing: Vec<&str> = missing.into_iter().filter(|(_, is)| *is).map(|(key, _)| key).collect();
            let fill = match missing.as_slice() {
                [] => String::new(),
                keys if oracle.is_none() => {
                    format!("\n  - fill in {} (`candor deploy` puts the contracts on a chain that has none)", keys.join(", "))
                }
                keys => format!("\n  - fill in {}", keys.join(", ")),
            };
            text + &format!(
                "\nnext:{fill}\n  - candor doctor         checks everything\n  - candor operator join  puts down stake and publishes prices\n  \
                 - candor run            answers requests"
            )
        },
        || json!({ "event": "initialised", "config": path, "keystore": args.new_key.as_ref().map(|file| folder.join(file)), "account": account }),
    )?;
    Ok(Outcome::Done)
}

/// Writes the file whole or not at all.
fn write(path: &Path, text: &str, replace: bool) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    if !replace {
        return File::create_new(path)?.write_all(text.as_bytes());
    }
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

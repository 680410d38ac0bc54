//! Keys: in an encrypted keystore file, in the environment, in the KMS of a cloud, on a Ledger; never in a configuration file or a flag.
//!
//! - `keystore`: files, opened and made.
//! - `signing`: [`SigningKey`], the one type that everything else knows, wherever the key is.
//! - `aws`, `gcp`, `ledger`: what a key elsewhere is asked through, each behind a feature of this crate, since their SDKs weigh much.
//!
//! No error and no `Debug` of this module contains a key or a password.

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "gcp")]
mod gcp;
mod keystore;
#[cfg(feature = "ledger")]
mod ledger;
mod signing;
#[cfg(test)]
mod tests;

pub use keystore::create;
pub use signing::{KeyKind, SignError, SigningKey};

use crate::config::KeySource;
use alloy::signers::local::PrivateKeySigner;
use secrecy::{ExposeSecret, SecretString};
use std::{
    io,
    io::IsTerminal,
    path::{Path, PathBuf},
    pin::Pin,
};

/// What a key is for, and so where it is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRole {
    /// In messages: "account" or "signer".
    pub name: &'static str,
    /// The environment variable that holds the key itself.
    pub key_variable: &'static str,
    /// The environment variable that holds the keystore's password.
    pub password_variable: &'static str,
    /// The section of the configuration that says where the key is.
    pub section: &'static str,
}

/// The key of an account: sends transactions.
pub const ACCOUNT: KeyRole = KeyRole {
    name: "account",
    key_variable: "CANDOR_PRIVATE_KEY",
    password_variable: "CANDOR_KEYSTORE_PASSWORD",
    section: "operator.account",
};

/// The key that signs results.
pub const SIGNER: KeyRole = KeyRole {
    name: "signer",
    key_variable: "CANDOR_SIGNER_PRIVATE_KEY",
    password_variable: "CANDOR_SIGNER_KEYSTORE_PASSWORD",
    section: "operator.signer",
};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is not said where the key is.
    #[error(
        "no {} key: name a keystore in {}.keystore (`candor init --new-key` makes one), or set {}",
        .0.name, .0.section, .0.key_variable
    )]
    None(KeyRole),
    /// It is said twice, and not which one is meant.
    #[error("both {first} and {second} are set; unset the one that is not meant")]
    Ambiguous {
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// The variable is there and empty.
    #[error("environment variable {0} is empty")]
    EmptyVariable(&'static str),
    /// The variable holds something else than a key.
    #[error("environment variable {variable} is not a private key: {reason}")]
    InvalidVariable {
        /// Which one.
        variable: &'static str,
        /// In what it is not; says nothing about its contents but their length.
        reason: String,
    },
    /// The file is not there.
    #[error("keystore {} does not exist; `candor init --new-key` makes one", .0.display())]
    Missing(PathBuf),
    /// A file cannot be read or written.
    #[error("{what} {}: {error}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What came back.
        error: io::Error,
    },
    /// The file is something else.
    #[error("{} is not an encrypted keystore: {reason}", path.display())]
    NotKeystore {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody to ask for the password.
    #[error(
        "no password for keystore {}: set {}, or {}.password_file; there is no terminal to ask on",
        path.display(), role.password_variable, role.section
    )]
    NoPassword {
        /// Which file.
        path: PathBuf,
        /// What for.
        role: KeyRole,
    },
    /// The password opens nothing.
    #[error("wrong password for keystore {} (from {source_})", path.display())]
    WrongPassword {
        /// Which file.
        path: PathBuf,
        /// Where the password came from.
        source_: String,
    },
    /// A password that is empty where one is given.
    #[error("the password from {0} is empty")]
    EmptyPassword(String),
    /// Typed differently the second time.
    #[error("the two passwords differ; nothing was written")]
    PasswordsDiffer,
    /// A new key never replaces an old one.
    #[error("{} exists already, and a key file is never overwritten; move it away or choose another name", .0.display())]
    Exists(PathBuf),
    /// A kind of key that this binary was built without.
    #[error(
        "{setting} is set, and this candor was built without {kind}s: build it with `cargo build --release --features {feature} --bin candor`"
    )]
    NotBuilt {
        /// The setting.
        setting: String,
        /// The kind of key.
        kind: KeyKind,
        /// The feature of this crate that brings it.
        feature: &'static str,
    },
    /// A key that is elsewhere, and can't be reached, or is none that signs for an account.
    #[error("{setting}: the {kind} {key} can't be used: {reason}")]
    Elsewhere {
        /// The setting.
        setting: String,
        /// The kind of key.
        kind: KeyKind,
        /// Its name there.
        key: String,
        /// What came back.
        reason: String,
    },
    /// A Ledger where results are signed.
    #[error(
        "operator.account.ledger: a Ledger asks a person for each signature and signs no digests, so it can't sign results: give them a key of their own in operator.signer"
    )]
    LedgerSigns,
}

/// Asks a person for a password; the argument is what to ask.
pub type Prompt<'a> = &'a dyn Fn(&str) -> io::Result<SecretString>;

/// Where keys look for what is not in files: the environment, and a person.
pub struct Surroundings<'a> {
    /// Reads an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Asks for a password, if there is somebody to ask.
    pub prompt: Option<Prompt<'a>>,
}

impl Surroundings<'static> {
    /// Those of this process: its environment, and its terminal if it has one.
    pub fn of_process() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok(),
            prompt: io::stdin()
                .is_terminal()
                .then_some(&|what| rpassword::prompt_password(format!("{what}: ")).map(SecretString::from)),
        }
    }
}

/// Where a key is.
enum Place<'a> {
    Keystore(&'a Path),
    Variable(SecretString),
    Elsewhere(KeyKind, &'a str),
}

/// Whether it is said where the key of a role is; it is not opened.
pub fn is_named(role: KeyRole, source: Option<&KeySource>, surroundings: &Surroundings<'_>) -> Result<(), KeyError> {
    place(role, source, surroundings).map(drop)
}

/// Where the key of a role is, and what says so.
fn place<'a>(
    role: KeyRole,
    source: Option<&'a KeySource>,
    surroundings: &Surroundings<'_>,
) -> Result<(String, Place<'a>), KeyError> {
    let setting = |key: &str| format!("{}.{key}", role.section);
    let mut places = Vec::new();
    if let Some(source) = source {
        places.extend(source.keystore.as_deref().map(|path| (setting("keystore"), Place::Keystore(path))));
        for (kind, key) in
            [(KeyKind::AwsKms, &source.aws_kms), (KeyKind::GcpKms, &source.gcp_kms), (KeyKind::Ledger, &source.ledger)]
        {
            places.extend(key.as_deref().map(|key| (setting(kind.setting()), Place::Elsewhere(kind, key))));
        }
    }
    let variable = (surroundings.variable)(role.key_variable).map(SecretString::from);
    let named = || format!("the environment variable {}", role.key_variable);
    places.extend(variable.map(|key| (named(), Place::Variable(key))));
    let mut places = places.into_iter();
    let (first, place) = places.next().ok_or(KeyError::None(role))?;
    match places.next() {
        Some((second, _)) => Err(KeyError::Ambiguous { first, second }),
        None => Ok((first, place)),
    }
}

/// Finds and opens the key of a role, on the chain that its transactions are for.
pub async fn load(
    role: KeyRole,
    source: Option<&KeySource>,
    chain_id: u64,
    surroundings: &Surroundings<'_>,
) -> Result<SigningKey, KeyError> {
    let (setting, place) = place(role, source, surroundings)?;
    match place {
        Place::Variable(text) => from_variable(role.key_variable, &text).map(SigningKey::from),
        Place::Keystore(path) => {
            let password_file = source.and_then(|source| source.password_file.as_deref());
            keystore::open(role, path, password_file, surroundings).map(SigningKey::from)
        }
        Place::Elsewhere(kind, key) => {
            let Some(finding) = connect(kind, key, chain_id) else {
                return Err(KeyError::NotBuilt { setting, kind, feature: kind.feature() });
            };
            finding.await.map_err(|reason| KeyError::Elsewhere { setting, kind, key: key.to_owned(), reason })
        }
    }
}

/// A key that is being found. Without its type, which has all of an SDK in it.
type Finding<'a> = Pin<Box<dyn Future<Output = Result<SigningKey, String>> + 'a>>;

/// Finds a key that is elsewhere; none: this binary was built without that kind.
fn connect(kind: KeyKind, key: &str, chain_id: u64) -> Option<Finding<'_>> {
    let _ = (key, chain_id); // not every build has a use for them
    match kind {
        #[cfg(feature = "aws")]
        KeyKind::AwsKms => Some(Box::pin(async move { Ok(SigningKey::elsewhere(kind, aws::connect(key).await?)) })),
        #[cfg(feature = "gcp")]
        KeyKind::GcpKms => Some(Box::pin(async move { Ok(SigningKey::elsewhere(kind, gcp::connect(key).await?)) })),
        #[cfg(feature = "ledger")]
        KeyKind::Ledger => {
            Some(Box::pin(async move { Ok(SigningKey::elsewhere(kind, ledger::connect(key, chain_id).await?)) }))
        }
        _ => None,
    }
}

fn from_variable(variable: &'static str, text: &SecretString) -> Result<PrivateKeySigner, KeyError> {
    let text = text.expose_secret().trim();
    if text.is_empty() {
        return Err(KeyError::EmptyVariable(variable));
    }
    let invalid = |reason: String| KeyError::InvalidVariable { variable, reason };
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(invalid("it has characters other than hexadecimal digits".into()));
    }
    if digits.len() != 64 {
        return Err(invalid(format!("it has {} hexadecimal digits instead of 64", digits.len())));
    }
    digits.parse().map_err(|_| invalid("the number is zero or too large to be one".into()))
}

fn file(what: &'static str, path: &Path, error: io::Error) -> KeyError {
    KeyError::File { what, path: path.to_owned(), error }
}

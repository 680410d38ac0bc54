//! Private keys: from an encrypted keystore file or from the environment, never from a configuration file or a flag.
//!
//! No error and no `Debug` of this module contains a key or a password.
use crate::config::KeySource;
use alloy::{
    primitives::Address,
    signers::{
        k256::elliptic_curve::rand_core::OsRng,
        local::{LocalSignerError, PrivateKeySigner},
    },
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    fs, io,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
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
    /// The section of the configuration that names the keystore.
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
    /// Neither a keystore nor the variable is given.
    #[error(
        "no {} key: name a keystore in {}.keystore (`candor init --new-key` makes one), or set {}",
        .0.name, .0.section, .0.key_variable
    )]
    None(KeyRole),
    /// Both are, and it isn't said which one is meant.
    #[error("both {}.keystore and the environment variable {} are set; unset the one that is not meant", .0.section, .0.key_variable)]
    Ambiguous(KeyRole),
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

/// Where a password came from, for messages, and the password.
struct Password(String, SecretString);

/// Finds and opens the key of a role.
pub fn load(
    role: KeyRole,
    source: Option<&KeySource>,
    surroundings: &Surroundings<'_>,
) -> Result<PrivateKeySigner, KeyError> {
    let keystore = source.and_then(|source| source.keystore.as_deref());
    let variable = (surroundings.variable)(role.key_variable).map(SecretString::from);
    match (keystore, variable) {
        (Some(_), Some(_)) => Err(KeyError::Ambiguous(role)),
        (None, None) => Err(KeyError::None(role)),
        (None, Some(text)) => from_variable(role.key_variable, &text),
        (Some(path), None) => open(role, path, source.and_then(|source| source.password_file.as_deref()), surroundings),
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

fn open(
    role: KeyRole,
    path: &Path,
    password_file: Option<&Path>,
    surroundings: &Surroundings<'_>,
) -> Result<PrivateKeySigner, KeyError> {
    check_keystore(path)?;
    let Password(origin, password) = match given_password(role, password_file, surroundings)? {
        Some(password) => password,
        None => {
            let ask = surroundings.prompt.ok_or_else(|| KeyError::NoPassword { path: path.to_owned(), role })?;
            let password = ask(&format!("Password of keystore {}", path.display()));
            Password("the terminal".into(), password.map_err(|error| file("no password for", path, error))?)
        }
    };
    PrivateKeySigner::decrypt_keystore(path, password.expose_secret()).map_err(|error| match error {
        // The only fault left in a keystore that passed the check, but for damage that a password cannot be told from.
        LocalSignerError::EthKeystoreError(error) if error.to_string() == "Mac Mismatch" => {
            KeyError::WrongPassword { path: path.to_owned(), source_: origin }
        }
        other => KeyError::NotKeystore { path: path.to_owned(), reason: other.to_string() },
    })
}

/// Refuses what is no keystore before anybody is asked for a password, and what the decryption would stumble over.
fn check_keystore(path: &Path) -> Result<(), KeyError> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
        io::ErrorKind::InvalidData => KeyError::NotKeystore { path: path.to_owned(), reason: "it is not text".into() },
        _ => file("cannot read keystore", path, error),
    })?;
    let wrong = |reason: &str| Err(KeyError::NotKeystore { path: path.to_owned(), reason: reason.into() });
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else { return wrong("it is not JSON") };
    // Version 3 files of some wallets capitalise this name.
    let crypto = json.get("crypto").or_else(|| json.get("Crypto"));
    let Some(crypto) = crypto else { return wrong("it has no \"crypto\" section") };
    let field = |name: &str| crypto.pointer(name);
    if field("/cipher").and_then(|cipher| cipher.as_str()) != Some("aes-128-ctr") {
        return wrong("its cipher is not aes-128-ctr");
    }
    if !field("/kdfparams/dklen").and_then(|length| length.as_u64()).is_some_and(|length| (32..=1024).contains(&length))
    {
        return wrong("its derived key is shorter than 32 bytes");
    }
    if field("/cipherparams/iv").and_then(|iv| iv.as_str()).is_none_or(|iv| iv.len() != 32) {
        return wrong("its initialisation vector does not have 16 bytes");
    }
    Ok(())
}

/// The password from the file or the variable, where one is given.
fn given_password(
    role: KeyRole,
    password_file: Option<&Path>,
    surroundings: &Surroundings<'_>,
) -> Result<Option<Password>, KeyError> {
    let (origin, password) = if let Some(path) = password_file {
        let text = fs::read_to_string(path).map_err(|error| file("cannot read password file", path, error))?;
        // Editors end a file with a line break that nobody means.
        (path.display().to_string(), SecretString::from(text.trim_end_matches(['\r', '\n'])))
    } else if let Some(text) = (surroundings.variable)(role.password_variable) {
        (role.password_variable.to_owned(), SecretString::from(text))
    } else {
        return Ok(None);
    };
    if password.expose_secret().is_empty() {
        return Err(KeyError::EmptyPassword(origin));
    }
    Ok(Some(Password(origin, password)))
}

/// Makes a new key and writes it, encrypted, to a file that did not exist and that only its owner can read.
pub fn create(path: &Path, surroundings: &Surroundings<'_>) -> Result<Address, KeyError> {
    if path.exists() {
        return Err(KeyError::Exists(path.to_owned()));
    }
    let Password(_, password) = match given_password(ACCOUNT, None, surroundings)? {
        Some(password) => password,
        None => {
            let ask =
                surroundings.prompt.ok_or_else(|| KeyError::NoPassword { path: path.to_owned(), role: ACCOUNT })?;
            let ask = |what: &str| ask(what).map_err(|error| file("no password for", path, error));
            let first = ask(&format!("Password for the new keystore {}", path.display()))?;
            if first.expose_secret().is_empty() {
                return Err(KeyError::EmptyPassword("the terminal".into()));
            }
            if first.expose_secret() != ask("The same again")?.expose_secret() {
                return Err(KeyError::PasswordsDiffer);
            }
            Password("the terminal".into(), first)
        }
    };
    let key = PrivateKeySigner::random();
    write(path, &key, &password)?;
    Ok(key.address())
}

/// Encrypts `key` into a new file at `path`.
fn write(path: &Path, key: &PrivateKeySigner, password: &SecretString) -> Result<(), KeyError> {
    let failed = |error| file("cannot write keystore", path, error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    // Encrypted into a folder nobody else can enter, then copied: the final file is never there half written or readable by others.
    let private = tempfile::Builder::new().prefix(".candor-key").tempdir_in(folder).map_err(failed)?;
    PrivateKeySigner::encrypt_keystore(
        private.path(),
        &mut OsRng,
        key.to_bytes(),
        password.expose_secret(),
        Some("key"),
    )
    .map_err(|error| failed(io::Error::other(error.to_string())))?;
    let encrypted = fs::read(private.path().join("key")).map_err(failed)?;
    let mut out = tempfile::Builder::new().prefix(".candor-key").tempfile_in(folder).map_err(failed)?; // 0600
    out.write_all(&encrypted).and_then(|()| out.as_file().sync_all()).map_err(failed)?;
    out.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
        _ => failed(error.error),
    })?;
    Ok(())
}

fn file(what: &'static str, path: &Path, error: io::Error) -> KeyError {
    KeyError::File { what, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PathSetting;
    use std::cell::RefCell;

    /// A key everybody knows: anvil's first.
    const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

    struct World {
        place: tempfile::TempDir,
        variables: Vec<(&'static str, String)>,
        typed: RefCell<Vec<&'static str>>,
        terminal: bool,
    }

    impl World {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            Self { place, variables: Vec::new(), typed: RefCell::default(), terminal: false }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.place.path().join(name)
        }

        fn source(&self, keystore: &str, password_file: Option<&str>) -> KeySource {
            let setting = |name: &str| PathSetting(self.path(name));
            KeySource { keystore: Some(setting(keystore)), password_file: password_file.map(setting) }
        }

        fn within<T>(&self, act: impl FnOnce(&Surroundings<'_>) -> T) -> T {
            let variable =
                |name: &str| self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
            let prompt = |_: &str| match self.typed.borrow_mut().pop() {
                Some(text) => Ok(SecretString::from(text)),
                None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nobody typed")),
            };
            act(&Surroundings { variable: &variable, prompt: self.terminal.then_some(&prompt) })
        }

        fn load(&self, source: Option<&KeySource>) -> Result<PrivateKeySigner, String> {
            self.within(|surroundings| load(ACCOUNT, source, surroundings)).map_err(|error| {
                let (text, debug) = (error.to_string(), format!("{error:?}"));
                for secret in [&KEY[..8], "correct horse", "battery"] {
                    assert!(!text.contains(secret) && !debug.contains(secret), "an error repeats a secret: {debug}");
                }
                text.replace(&format!("{}/", self.place.path().display()), "")
            })
        }
    }

    #[test]
    fn from_the_environment() {
        for text in [KEY.to_owned(), format!("0x{KEY}"), format!("  {KEY}\n")] {
            let world = World { variables: vec![(ACCOUNT.key_variable, text)], ..World::new() };
            assert_eq!(world.load(None).unwrap().address().to_string(), ADDRESS);
            assert_eq!(world.load(Some(&KeySource::default())).unwrap().address().to_string(), ADDRESS);
        }
        let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        for (text, complaint) in [
            ("", "environment variable CANDOR_PRIVATE_KEY is empty"),
            (" ", "environment variable CANDOR_PRIVATE_KEY is empty"),
            (&KEY[..63], "it has 63 hexadecimal digits instead of 64"),
            (&KEY.replace('a', "g"), "it has characters other than hexadecimal digits"),
            ("operator.json", "it has characters other than hexadecimal digits"),
            (&"0".repeat(64), "the number is zero or too large to be one"),
            (order, "the number is zero or too large to be one"),
        ] {
            let world = World { variables: vec![(ACCOUNT.key_variable, text.to_owned())], ..World::new() };
            let error = world.load(None).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
        assert_eq!(
            World::new().load(None).unwrap_err(),
            "no account key: name a keystore in operator.account.keystore (`candor init --new-key` makes one), or set CANDOR_PRIVATE_KEY"
        );
    }

    #[test]
    fn a_keystore_is_made_and_opened_again() {
        let mut world = World::new();
        world.variables = vec![(ACCOUNT.password_variable, "correct horse".into())];
        let path = world.path("keys/operator.json");
        let address = world.within(|surroundings| create(&path, surroundings)).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "for its owner's eyes only");
        }
        assert_eq!(fs::read_dir(world.path("keys")).unwrap().count(), 1, "nothing is left beside it");
        let source = world.source("keys/operator.json", None);
        assert_eq!(world.load(Some(&source)).unwrap().address(), address);

        // The password from a file, with the line break an editor leaves.
        world.variables.clear();
        fs::write(world.path("password"), "correct horse\n").unwrap();
        let with_file = world.source("keys/operator.json", Some("password"));
        assert_eq!(world.load(Some(&with_file)).unwrap().address(), address);

        // From a person.
        world.terminal = true;
        world.typed = RefCell::new(vec!["correct horse"]);
        assert_eq!(world.load(Some(&source)).unwrap().address(), address);
        world.typed = RefCell::new(vec!["battery"]);
        let error = world.load(Some(&source)).unwrap_err();
        assert_eq!(error, "wrong password for keystore keys/operator.json (from the terminal)");

        world.terminal = false;
        let error = world.load(Some(&source)).unwrap_err();
        assert!(
            error.starts_with("no password for keystore keys/operator.json: set CANDOR_KEYSTORE_PASSWORD"),
            "{error}"
        );
        world.variables = vec![(ACCOUNT.password_variable, "battery".into())];
        let error = world.load(Some(&source)).unwrap_err();
        assert_eq!(error, "wrong password for keystore keys/operator.json (from CANDOR_KEYSTORE_PASSWORD)");
        world.variables = vec![(ACCOUNT.password_variable, String::new())];
        assert_eq!(world.load(Some(&source)).unwrap_err(), "the password from CANDOR_KEYSTORE_PASSWORD is empty");
        world.variables = vec![(ACCOUNT.key_variable, KEY.into())];
        let error = world.load(Some(&source)).unwrap_err();
        assert!(error.starts_with("both operator.account.keystore and the environment variable CANDOR_PRIVATE_KEY"));
    }

    #[test]
    fn an_existing_file_is_never_replaced_and_a_mistyped_password_makes_nothing() {
        let mut world = World { terminal: true, ..World::new() };
        let path = world.path("operator.json");
        for (typed, complaint) in [
            (vec!["correct horse", "battery"], "the two passwords differ; nothing was written"),
            (vec![""], "the password from the terminal is empty"),
        ] {
            world.typed = RefCell::new(typed);
            let error = world.within(|surroundings| create(&path, surroundings)).unwrap_err();
            assert_eq!(error.to_string(), complaint);
            assert!(!path.exists());
        }
        fs::write(&path, "precious").unwrap();
        world.typed = RefCell::new(vec!["correct horse", "correct horse"]);
        let error = world.within(|surroundings| create(&path, surroundings)).unwrap_err();
        assert!(matches!(error, KeyError::Exists(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn files_that_are_no_keystore() {
        let mut world = World::new();
        world.variables = vec![(ACCOUNT.password_variable, "correct horse".into())];
        let good = world.path("good.json");
        world.within(|surroundings| create(&good, surroundings)).unwrap();
        let good = fs::read_to_string(good).unwrap();
        for (text, complaint) in [
            (String::new(), "it is not JSON"),
            (KEY.to_owned(), "it is not JSON"),
            ("{}".into(), "it has no \"crypto\" section"),
            ("5".into(), "it has no \"crypto\" section"),
            (good.replace("aes-128-ctr", "rot13"), "its cipher is not aes-128-ctr"),
            (good.replace("\"dklen\":32", "\"dklen\":16"), "its derived key is shorter than 32 bytes"),
            (good.replace("\"iv\":\"", "\"iv\":\"00"), "its initialisation vector does not have 16 bytes"),
            (good.replace("\"kdf\":\"scrypt\"", "\"kdf\":\"guess\""), "guess"),
            (good.replace("\"mac\":\"", "\"mac\":\"00"), "wrong password"),
            (good[..good.len() / 2].to_owned(), "it is not JSON"),
        ] {
            fs::write(world.path("bad.json"), &text).unwrap();
            let error = world.load(Some(&world.source("bad.json", None))).unwrap_err();
            assert!(error.contains("bad.json") && error.contains(complaint), "{text}: {error}");
        }
        let error = world.load(Some(&world.source("none.json", None))).unwrap_err();
        assert_eq!(error, "keystore none.json does not exist; `candor init --new-key` makes one");
        fs::create_dir(world.path("folder")).unwrap();
        let error = world.load(Some(&world.source("folder", None))).unwrap_err();
        assert!(error.starts_with("cannot read keystore folder: "), "{error}");
        fs::write(world.path("good2.json"), good).unwrap();
        let error = world.load(Some(&world.source("good2.json", Some("nofile")))).unwrap_err();
        assert!(error.starts_with("cannot read password file nofile: "), "{error}");
    }
}

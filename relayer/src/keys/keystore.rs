//! Keys in encrypted files: the common JSON format, version 3.

use super::{ACCOUNT, KeyError, KeyRole, Surroundings, file};
use alloy::{
    primitives::Address,
    signers::{
        k256::elliptic_curve::rand_core::OsRng,
        local::{LocalSignerError, PrivateKeySigner},
    },
};
use secrecy::{ExposeSecret, SecretString};
use std::{fs, io, io::Write, path::Path};

/// Where a password came from, for messages, and the password.
struct Password(String, SecretString);

pub(super) fn open(
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

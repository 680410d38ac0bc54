//! Keeps secrets out of configuration files, where they end up in backups, in version control and in screenshots: whatever looks like
//! one is refused, without repeating it.
use figment::value::{Dict, Value};

/// Parts of key names under which people put secrets.
const SECRET_KEYS: [&str; 6] = ["private_key", "privatekey", "mnemonic", "seed_phrase", "passphrase", "secret"];

/// The advice that goes with every refusal.
const ADVICE: &str = "keys do not belong in a configuration file. Put this one in an encrypted keystore (`candor init --new-key`, or \
     `cast wallet import`) and name the file in operator.account.keystore, or pass it in the environment variable CANDOR_PRIVATE_KEY";

/// A setting that looks like a secret: its path, and why it was refused.
pub(crate) struct Leak {
    pub(crate) path: Vec<String>,
    pub(crate) message: String,
}

/// Finds every setting that is, by its name or by its shape, a secret.
pub(crate) fn find(dict: &Dict) -> Vec<Leak> {
    let mut leaks = Vec::new();
    walk(dict, &mut Vec::new(), &mut leaks);
    leaks
}

fn walk(dict: &Dict, path: &mut Vec<String>, leaks: &mut Vec<Leak>) {
    for (key, value) in dict {
        path.push(key.clone());
        let full = path.join(".");
        if let Some(message) = refuse(&full, key, value) {
            leaks.push(Leak { path: path.clone(), message });
        } else if let Value::Dict(_, inner) = value {
            walk(inner, path, leaks);
        }
        path.pop();
    }
}

fn refuse(full: &str, key: &str, value: &Value) -> Option<String> {
    let lower = key.to_ascii_lowercase();
    if lower == "password" {
        return Some(format!(
            "`{full}`: passwords do not belong in a configuration file. Set the environment variable CANDOR_KEYSTORE_PASSWORD, or name \
             a file that holds it in {}_file",
            full
        ));
    }
    if SECRET_KEYS.iter().any(|name| lower.contains(name)) {
        return Some(format!("`{full}`: {ADVICE}"));
    }
    // Whatever the setting, also inside lists.
    let looks = match value {
        Value::Array(_, items) => items.iter().find_map(|item| item.as_str().and_then(looks_like)),
        _ => value.as_str().and_then(looks_like),
    }?;
    Some(format!("`{full}` looks like {looks}; {ADVICE}"))
}

fn looks_like(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let hex = text.strip_prefix("0x").unwrap_or(text);
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Some("a private key");
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let word = |word: &&str| (3..=8).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase());
    (matches!(words.len(), 12 | 15 | 18 | 21 | 24) && words.iter().all(word)).then_some("a recovery phrase")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_phrases_are_recognised_and_addresses_and_hashes_of_other_lengths_are_not() {
        assert_eq!(looks_like(&"ab".repeat(32)), Some("a private key"));
        assert_eq!(looks_like(&format!(" 0x{}", "Cd".repeat(32))), Some("a private key"));
        assert_eq!(looks_like(&format!("{}junk", "test ".repeat(11))), Some("a recovery phrase"));
        assert_eq!(looks_like(&format!("0x{}", "ab".repeat(20))), None);
        assert_eq!(looks_like("http://127.0.0.1:8545"), None);
        assert_eq!(looks_like(&"zz".repeat(32)), None);
    }
}

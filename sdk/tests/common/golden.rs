//! Golden vectors: files of `tests/vectors` that a plain run compares byte for byte and `CANDOR_BLESS=1` writes.

use serde_json::Value;
use std::{fs, path::PathBuf};

/// Compares a file with what it should hold, or writes it.
pub(crate) fn golden(name: &str, value: Value) {
    let text = serde_json::to_string_pretty(&sorted(value)).expect("a value is JSON") + "\n";
    assert!(text.len() < 200_000, "{name} would have {} bytes", text.len());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name);
    if std::env::var_os("CANDOR_BLESS").is_some() {
        fs::write(&path, text).expect("tests/vectors can be written");
        return;
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    // Not assert_eq: no one wants to read 200 kB of difference.
    let line = stored.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(stored == text, "{name} differs, first at line {:?}; CANDOR_BLESS=1 rewrites it", line.map(|l| l + 1));
}

/// The same value with the keys of every object in alphabetical order, whatever order this build of serde_json keeps.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries.into_iter().collect()
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        other => other,
    }
}

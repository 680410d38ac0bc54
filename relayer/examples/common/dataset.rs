//! The public data files, checked before use: a score means nothing if nobody knows what was scored.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::path::Path;

const SUMS: &str = include_str!("../../models/SHA256SUMS");

/// Lower-case hexadecimal SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads `name` below the data folder; says how to get it when it is missing or is another file.
pub(crate) fn read(data: &Path, name: &str) -> Result<Vec<u8>> {
    let path = data.join(name);
    let how = format!("get the data with: relayer/models/fetch.sh {}", data.display());
    let expected = SUMS
        .lines()
        .filter_map(|line| line.split_once("  "))
        .find_map(|(sum, file)| (file == name).then_some(sum))
        .with_context(|| format!("SHA256SUMS does not list {name}"))?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}; {how}", path.display()))?;
    let found = sha256(&bytes);
    ensure!(found == expected, "{} has sha256 {found}, expected {expected}; {how}", path.display());
    Ok(bytes)
}

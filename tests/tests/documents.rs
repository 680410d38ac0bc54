//! docs/testing.md and docs/reliability.md name tests; each of them exists where they say.

use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

#[test]
fn every_test_named_in_the_documents_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut named = 0;
    let pages =
        fs::read_to_string(root.join("docs/testing.md"))? + &fs::read_to_string(root.join("docs/reliability.md"))?;
    for line in pages.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|---")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, file, test] = cells.as_slice() else { anyhow::bail!("not three cells: {line}") };
        let Some(file) = file.strip_prefix('`').and_then(|file| file.strip_suffix('`')) else {
            ensure!(*file == "file" && *test == "test", "no file: {line}");
            continue;
        };
        let test = test.trim_matches('`');
        let text = fs::read_to_string(root.join(file)).with_context(|| format!("{file} does not exist"))?;
        // Made by hand, or by a macro that is called with the name, alone, in a table, or in the head of one.
        let made = if file.ends_with(".sol") {
            text.contains(&format!("function {test}("))
        } else {
            text.contains(&format!("!({test},"))
                || text.lines().filter_map(|line| line.strip_prefix("    ")).any(|line| {
                    line.trim_start().starts_with(&format!("{test}: ")) || line.contains(&format!(", {test}, "))
                })
                || text.split(&format!("fn {test}(")).next().is_some_and(|before| {
                    before.len() < text.len() && before.lines().rev().take(2).any(|line| line.contains("test"))
                })
        };
        ensure!(made, "{file} has no test {test}");
        named += 1;
    }
    ensure!(named > 100, "only {named} tests are named");
    Ok(())
}

/// docs/threat-model.md names tests of the contracts without their files.
#[test]
fn every_test_named_in_the_threat_model_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    let mut folders = vec![root.join("contracts/test")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sol") {
                sources.push_str(&fs::read_to_string(&path)?);
            }
        }
    }
    let page = fs::read_to_string(root.join("docs/threat-model.md"))?;
    let names = page.split('`').skip(1).step_by(2);
    let mut named = 0;
    for test in names.filter(|name| name.starts_with("test_") || name.starts_with("invariant_")) {
        ensure!(sources.contains(&format!("function {test}(")), "the contracts have no test {test}");
        named += 1;
    }
    ensure!(named > 40, "only {named} tests are named");
    Ok(())
}

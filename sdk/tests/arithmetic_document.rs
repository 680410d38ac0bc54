//! `docs/arithmetic.md` is what other implementations are written from: its constants are those of the code, and every
//! rule that the code cites exists.

use std::{collections::BTreeSet, fs, path::Path};

use candor_sdk::arithmetic::{ARITHMETIC_VERSION, contraction, reduction};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the file is in the repository")
}

/// All hexadecimal numbers of eight digits in a text, underscores ignored.
fn words(text: &str) -> BTreeSet<u32> {
    text.replace('_', "")
        .split("0x")
        .skip(1)
        .filter_map(|rest| rest.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()))
        .collect()
}

#[test]
fn every_constant_of_the_functions_is_documented() {
    let (code, document) = (words(&read("src/arithmetic/functions.rs")), words(&read("../docs/arithmetic.md")));
    assert!(code.len() > 50, "found only {} constants", code.len());
    // A mask of the bits is no constant of a sequence: the document says "abs" and "sign".
    let masks = BTreeSet::from([0x7fff_ffff, 0x8000_0000]);
    let missing: Vec<_> = code.difference(&masks).filter(|word| !document.contains(word)).collect();
    assert!(missing.is_empty(), "not in the document: {missing:08x?}");
}

#[test]
fn every_coefficient_of_the_document_is_in_the_code() {
    let document = read("../docs/arithmetic.md");
    let section = document.split("### Constants").nth(1).and_then(|rest| rest.split("### Measured").next());
    let section = section.expect("the document has a section of constants");
    let code = words(&read("src/arithmetic/functions.rs"));
    let unknown: Vec<_> = words(section).into_iter().filter(|word| !code.contains(word)).collect();
    assert!(words(section).len() > 50 && unknown.is_empty(), "not in the code: {unknown:08x?}");
}

#[test]
fn cited_rules_exist() {
    let document = read("../docs/arithmetic.md");
    assert!(document.contains(&format!("# Arithmetic, version {ARITHMETIC_VERSION}\n")));
    assert!(document.contains(&format!("blocks of {} consecutive", contraction::BLOCK)));
    assert!(document.contains(&format!("chunks of {} elements", reduction::CHUNK)));
    assert!(document.contains(&format!("there are {} lanes", reduction::LANES)));
    let mut cited = 0;
    for module in ["scalar", "contraction", "quantised", "reduction", "functions", "row", "sampling"] {
        for line in read(&format!("src/arithmetic/{module}.rs")).lines() {
            let Some((rule, _)) = line.trim_start().strip_prefix("/// ").and_then(|text| text.split_once(": ")) else {
                continue;
            };
            let is_rule =
                rule.len() < 4 && rule.starts_with(|c: char| "ACQRFNS".contains(c)) && rule[1..].parse::<u32>().is_ok();
            if is_rule {
                cited += 1;
                assert!(document.contains(&format!("**{rule}.")), "{module}.rs cites {rule}");
            }
        }
    }
    assert!(cited > 50, "found only {cited} citations");
}

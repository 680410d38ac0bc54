//! The Solidity arithmetic and its page, `docs/float32.md`, say what `docs/arithmetic.md` and the measurements say.

use std::{collections::BTreeSet, fs, path::Path};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))
        .expect("the file is in the repository")
}

/// All words of eight hexadecimal digits in the numbers of a text, longer numbers being sequences of words.
fn words(text: &str) -> BTreeSet<u32> {
    let mut words = BTreeSet::new();
    for number in text.split("0x").skip(1) {
        let digits: String = number.chars().filter(|&c| c != '_').take_while(char::is_ascii_hexdigit).collect();
        if digits.len().is_multiple_of(8) {
            words.extend((0..digits.len()).step_by(8).filter_map(|i| u32::from_str_radix(&digits[i..i + 8], 16).ok()));
        }
    }
    words.remove(&0); // what fills a word of coefficients up
    words
}

#[test]
fn constants_are_those_of_the_arithmetic() {
    let document = read("docs/arithmetic.md");
    let (_, rest) = document.split_once("### Constants").expect("a section of constants");
    let (section, _) = rest.split_once("### Measured").expect("the section after it");
    let solidity = words(&read("contracts/src/verifier/F32Functions.sol"));
    let missing: Vec<_> = words(section).into_iter().filter(|word| !solidity.contains(word)).collect();
    assert!(words(section).len() > 50, "only {} constants in the document", words(section).len());
    assert!(missing.is_empty(), "not in F32Functions.sol: {missing:08x?}");

    // And the other way round: every word there is in the reference, but for negated ones and limits that Rust writes in decimal.
    let mut known = words(&read("sdk/src/arithmetic/functions.rs"));
    known.extend(known.clone().iter().map(|word| word ^ 1 << 31));
    known.extend([2.0, 0.25, -0.5, 0.5625, 0.875, 4.0, 10.0, 11.0, 14.5, 120.0f32].map(f32::to_bits));
    let unknown: Vec<_> = solidity.difference(&known).collect();
    assert!(unknown.is_empty(), "not in functions.rs: {unknown:08x?}");
}

#[test]
fn the_table_of_gas_is_the_measured_one() {
    let document = read("docs/float32.md");
    let measured: serde_json::Value =
        serde_json::from_str(&read("contracts/snapshots/float32.json")).expect("the snapshot is JSON");
    let measured = measured.as_object().expect("names and gas");
    assert!(measured.len() > 30, "only {} measurements", measured.len());
    for (name, gas) in measured {
        let row = format!("| {name} | {} |", gas.as_str().expect("a number in a string"));
        assert!(document.contains(&row), "docs/float32.md lacks the row: {row}");
    }
}

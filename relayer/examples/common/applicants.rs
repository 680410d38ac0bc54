//! German Credit as the model reads it: 20 numbers per loan, described by `models/credit/schema.json`.

use super::random::Random;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::Path;

/// What a loan application consists of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schema {
    #[allow(dead_code, reason = "required in the file")]
    pub(crate) name: String,
    #[allow(dead_code, reason = "required in the file")]
    pub(crate) description: String,
    pub(crate) attributes: Vec<Attribute>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Attribute {
    pub(crate) column: usize,
    pub(crate) key: String,
    pub(crate) description: String,
    /// About the person rather than the loan: not used by the model.
    pub(crate) protected: bool,
    /// What an application that says nothing may be taken to say.
    pub(crate) typical: u32,
    #[serde(flatten)]
    pub(crate) kind: Kind,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Kind {
    Numeric { unit: String, minimum: u32, maximum: u32 },
    Categorical { codes: Vec<Code> },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Code {
    pub(crate) code: u32,
    pub(crate) key: String,
    pub(crate) meaning: String,
    /// The level's name in the data file.
    pub(crate) statlog: String,
}

/// A loan: 20 numbers, and whether it went bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loan {
    pub(crate) values: Vec<u32>,
    pub(crate) defaulted: bool,
}

impl Loan {
    /// The request that asks the model about this loan.
    pub(crate) fn request(&self) -> Vec<u8> {
        self.values.iter().flat_map(|value| (*value as f32).to_be_bytes()).collect()
    }
}

impl Schema {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let schema: Self = serde_json::from_str(text).context("schema.json is not valid")?;
        for (i, attribute) in schema.attributes.iter().enumerate() {
            ensure!(attribute.column == i, "schema.json: {} is not column {i}", attribute.key);
            if let Kind::Categorical { codes } = &attribute.kind {
                let ascending = codes.iter().enumerate().all(|(i, code)| code.code as usize == i);
                ensure!(ascending, "schema.json: the codes of {} do not count from 0", attribute.key);
            }
        }
        Ok(schema)
    }

    /// Reads the lines of `german.data`: 20 values and the class (1 paid back, 2 did not).
    pub(crate) fn loans(&self, text: &str) -> Result<Vec<Loan>> {
        let loans = text
            .lines()
            .enumerate()
            .map(|(i, line)| self.loan(line).with_context(|| format!("german.data, line {}", i + 1)))
            .collect::<Result<Vec<_>>>()?;
        self.check_against(&loans)?;
        Ok(loans)
    }

    fn loan(&self, line: &str) -> Result<Loan> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [words @ .., class] = words.as_slice() else { bail!("the line is empty") };
        ensure!(words.len() == self.attributes.len(), "{} values instead of {}", words.len(), self.attributes.len());
        let values = words
            .iter()
            .zip(&self.attributes)
            .map(|(word, attribute)| match &attribute.kind {
                Kind::Numeric { .. } => word.parse().with_context(|| format!("{}: {word} is no number", attribute.key)),
                Kind::Categorical { codes } => codes
                    .iter()
                    .find(|code| code.statlog == *word)
                    .map(|code| code.code)
                    .with_context(|| format!("{}: {word} is not in schema.json", attribute.key)),
            })
            .collect::<Result<_>>()?;
        Ok(Loan { values, defaulted: *class == "2" })
    }

    /// The ranges and typical values written in the schema are those of the data.
    fn check_against(&self, loans: &[Loan]) -> Result<()> {
        for Attribute { column, key, kind, typical, .. } in &self.attributes {
            let mut values: Vec<u32> = loans.iter().map(|loan| loan.values[*column]).collect();
            values.sort_unstable();
            match kind {
                Kind::Numeric { minimum, maximum, .. } => {
                    let found = (values[0], values[values.len() - 1], values[(values.len() - 1) / 2]);
                    let stated = (*minimum, *maximum, *typical);
                    ensure!(found == stated, "{key}: minimum, maximum and median are {found:?}, not {stated:?}");
                }
                Kind::Categorical { codes } => {
                    let count = |code: u32| values.iter().filter(|value| **value == code).count();
                    let most = codes.iter().map(|code| count(code.code)).max();
                    ensure!(most == Some(count(*typical)), "{key}: {typical} is not the most frequent level");
                }
            }
        }
        Ok(())
    }

    /// The header line of `heldout.csv`.
    fn header(&self) -> String {
        let keys: Vec<&str> = self.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        keys.join(",") + ",default"
    }

    pub(crate) fn to_csv(&self, loans: &[Loan]) -> String {
        let mut text = self.header() + "\n";
        for loan in loans {
            for value in &loan.values {
                text += &format!("{value},");
            }
            text += if loan.defaulted { "1\n" } else { "0\n" };
        }
        text
    }

    pub(crate) fn read_csv(&self, path: &Path) -> Result<Vec<Loan>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = text.lines();
        ensure!(lines.next() == Some(self.header().as_str()), "{}: wrong header", path.display());
        lines
            .map(|line| {
                let mut values = line.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
                let label = values.pop();
                ensure!(values.len() == self.attributes.len() && label <= Some(1), "{}: {line}", path.display());
                Ok(Loan { values, defaulted: label == Some(1) })
            })
            .collect()
    }
}

/// Splits at random, with the same share of defaults on both sides; the second part has `share` of the loans. Within
/// each part the loans keep the order of the file.
pub(crate) fn split(loans: &[Loan], share: f64, random: &mut Random) -> (Vec<Loan>, Vec<Loan>) {
    let mut held_out = vec![false; loans.len()];
    for class in [false, true] {
        let mut members: Vec<usize> = (0..loans.len()).filter(|i| loans[*i].defaulted == class).collect();
        random.shuffle(&mut members);
        for i in &members[..(members.len() as f64 * share).round() as usize] {
            held_out[*i] = true;
        }
    }
    let part =
        |second: bool| loans.iter().zip(&held_out).filter(|(_, h)| **h == second).map(|(l, _)| l.clone()).collect();
    (part(false), part(true))
}

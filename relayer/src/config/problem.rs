//! What is wrong with a configuration, and where, in words that lead to the repair.
use std::{fmt, path::PathBuf};

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file, and the line where that is known.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Env(String),
    /// A command line flag.
    Flag,
    /// Nowhere: the setting is missing, or the problem is in how several settings go together.
    None,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path, Some(line)) => write!(f, "{}:{line}: ", path.display()),
            Origin::File(path, None) => write!(f, "{}: ", path.display()),
            Origin::Env(name) => write!(f, "environment variable {name}: "),
            Origin::Flag => write!(f, "command line: "),
            Origin::None => Ok(()),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// Which setting, as `section.key`; empty when the problem is not one setting's.
    pub key: String,
    /// What is wrong and what to do. Never contains the value of anything that looks like a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.message)
    }
}

/// Everything that is wrong with a configuration, all at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one, in the order of file lines, then environment, flags, and what is missing.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(crate) fn single(origin: Origin, message: impl Into<String>) -> Self {
        Self { problems: vec![Problem { origin, key: String::new(), message: message.into() }] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [problem] => write!(f, "{problem}"),
            problems => {
                write!(f, "{} problems in the configuration", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// The candidate that `typed` most likely means, if one is near enough to be worth saying.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&typed, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_stranger_is_not() {
        assert_eq!(nearest("orcale", ["oracle", "rpc_urls"]), Some("oracle"));
        assert_eq!(nearest("rpc_url", ["oracle", "rpc_urls"]), Some("rpc_urls"));
        assert_eq!(nearest("Oracle", ["oracle"]), Some("oracle"));
        assert_eq!(nearest("banana", ["oracle", "rpc_urls"]), None);
    }
}

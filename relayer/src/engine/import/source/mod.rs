//! Where the files of a model come from: this machine, a Hugging Face hub, or a web server. What is fetched lands in a cache
//! folder, whole files only, so that an import reads the same kind of folder wherever it came from.
//!
//! ```text
//! hf://org/name@revision[/file]   the commit that the revision is at now decides; it is part of the folder's name
//! https://host/folder/            config.json and what goes with it
//! https://host/file.gguf          one file (or file.onnx)
//! ```

mod download;
mod hub;
mod web;

use crate::http::{Policy, chain, shown};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder or file of this machine.
    Path(PathBuf),
    /// A repository of a hub.
    Hub {
        /// `org/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
        /// One file of it, if several models are there.
        file: Option<String>,
    },
    /// A folder or file of a web server.
    Web(String),
}

/// What fetching is allowed to do.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Where files are kept.
    pub cache: PathBuf,
    /// Most bytes of all files of a model together.
    pub limit: u64,
    /// The hub, if not the one that `HF_ENDPOINT` says or huggingface.co.
    pub endpoint: Option<String>,
    /// The token for the hub, if not that of `HF_TOKEN`.
    pub token: Option<String>,
}

/// Most bytes of a model, unless told otherwise.
pub const LIMIT: u64 = 64 << 30;

impl Fetch {
    /// Into a cache folder, with what the environment says of hubs.
    pub fn into(cache: impl Into<PathBuf>) -> Self {
        Self { cache: cache.into(), limit: LIMIT, endpoint: None, token: None }
    }
}

/// A model's files on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The folder or file to import.
    pub path: PathBuf,
    /// Exactly what it is: a commit, or hashes of what the server sent. Nothing for what was here already.
    pub pinned: Vec<String>,
}

/// Files that could not be had.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It is written wrongly.
    #[error("{source_text}: {problem}")]
    Syntax {
        /// As it is written.
        source_text: String,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing of that name.
    #[error("{place} is not there{hint}")]
    NotFound {
        /// What was asked for.
        place: String,
        /// What to do.
        hint: &'static str,
    },
    /// The server wants to know who asks, or does not want this one.
    #[error("{place}: the server refuses ({status}){hint}")]
    Refused {
        /// What was asked for.
        place: String,
        /// The status of its answer.
        status: String,
        /// What to do.
        hint: &'static str,
    },
    /// The server cannot be reached, or breaks off.
    #[error("{place}: {problem}")]
    Network {
        /// What was asked for.
        place: String,
        /// What happened.
        problem: String,
    },
    /// The server sends something else than was asked for.
    #[error("{place}: {problem}")]
    Content {
        /// What was asked for.
        place: String,
        /// What it is instead.
        problem: String,
    },
    /// More than allowed.
    #[error("{place} is more than the {limit} bytes that a model may be")]
    TooLarge {
        /// What was asked for.
        place: String,
        /// The limit.
        limit: u64,
    },
    /// A file of the cache cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why: a full disk, most likely.
        source: std::io::Error,
    },
    /// Another process is at it.
    #[error("{0} is being fetched by another process")]
    Busy(PathBuf),
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let wrong = |problem: &str| SourceError::Syntax { source_text: text.to_string(), problem: problem.to_string() };
        if let Some(rest) = text.strip_prefix("hf://") {
            let mut parts = rest.splitn(3, '/');
            let (Some(owner), Some(name)) = (parts.next(), parts.next()) else {
                return Err(wrong("a model of a hub is written hf://org/name@revision"));
            };
            let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
            if !is_plain(owner) || !is_plain(name) || !is_plain(revision) {
                return Err(wrong("names and revisions are letters, digits, '-', '_' and '.'"));
            }
            let file = parts.next().map(str::to_string);
            if file.as_deref().is_some_and(|file| !file.split('/').all(is_plain)) {
                return Err(wrong("the file is not one of the repository"));
            }
            return Ok(Self::Hub { repository: format!("{owner}/{name}"), revision: revision.to_string(), file });
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            let url = reqwest::Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
            Policy::of_the_operator().check(&url).map_err(|refusal| wrong(&refusal.to_string()))?;
            return Ok(Self::Web(text.to_string()));
        }
        if text.split_once("://").is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric())) {
            return Err(wrong("hf:// and https:// are understood, and paths"));
        }
        Ok(Self::Path(PathBuf::from(text)))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Hub { repository, revision, file } => {
                write!(f, "hf://{repository}@{revision}")?;
                file.as_ref().map_or(Ok(()), |file| write!(f, "/{file}"))
            }
            Self::Web(url) => f.write_str(url),
        }
    }
}

impl Source {
    /// Brings the files here, if they are not; `progress` hears the bytes fetched and to be fetched.
    ///
    /// # Errors
    /// If they cannot be had, or are not what they should be.
    pub async fn fetch(
        &self,
        fetch: &Fetch,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Fetched, SourceError> {
        match self {
            Self::Path(path) => Ok(Fetched { path: path.clone(), pinned: Vec::new() }),
            Self::Hub { repository, revision, file } => {
                hub::fetch(fetch, repository, revision, file.as_deref(), progress).await
            }
            Self::Web(url) => web::fetch(fetch, url, progress).await,
        }
    }
}

/// A name that is one part of a path and nothing else.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(allowed)
}

/// The client for all of it. Whoever starts the import has named the place, so it may be anywhere.
fn client() -> Result<reqwest::Client, SourceError> {
    Policy::of_the_operator()
        .client()
        .connect_timeout(std::time::Duration::from_secs(30))
        .read_timeout(std::time::Duration::from_secs(60))
        .build()
        .map_err(|error| SourceError::Network { place: "the HTTP client".to_string(), problem: error.to_string() })
}

/// The part of a file that is here; never imported.
fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".part");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_as_people_write_them() {
        let hub = |repository: &str, revision: &str, file: Option<&str>| Source::Hub {
            repository: repository.into(),
            revision: revision.into(),
            file: file.map(str::to_string),
        };
        for (text, source) in [
            ("./model", Source::Path("./model".into())),
            ("a/model.gguf", Source::Path("a/model.gguf".into())),
            ("hf://org/name", hub("org/name", "main", None)),
            ("hf://org/name@v1.0", hub("org/name", "v1.0", None)),
            ("hf://org/name@main/q8/model.gguf", hub("org/name", "main", Some("q8/model.gguf"))),
            ("https://host/model/", Source::Web("https://host/model/".into())),
            ("http://127.0.0.1:80/m.onnx", Source::Web("http://127.0.0.1:80/m.onnx".into())),
        ] {
            assert_eq!(text.parse::<Source>().expect(text), source);
        }
        for (text, named) in [
            ("hf://org", "hf://org/name@revision"),
            ("hf://../name", "letters"),
            ("hf://org/name@", "letters"),
            ("hf://org/name@../../x", "letters"),
            ("hf://org/name@main/../../x", "not one of the repository"),
            ("http://host/model/", "only https"),
            ("https://user:secret@host/model/", "no names and passwords"),
            ("ftp://host/model/", "hf:// and https://"),
        ] {
            let error = text.parse::<Source>().expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}

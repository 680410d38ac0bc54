//! One file: fetched in as many pieces as it takes, and in its place only when it is whole.

use super::{Fetch, SourceError, chain, part_of};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What a server sends.
pub(super) struct Body {
    pub(super) content: Content,
    /// The place in the file that it begins at.
    pub(super) start: u64,
    /// Bytes of the whole file, if the server says so.
    pub(super) total: Option<u64>,
}

/// The bytes of an answer.
pub(super) enum Content {
    Web(reqwest::Response),
    Hub(BoxStream<'static, Result<Vec<u8>, String>>),
}

impl Content {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Web(response) => {
                let chunk = response.chunk().await.map_err(|error| chain(&error.without_url()))?;
                Ok(chunk.map(|bytes| bytes.to_vec()))
            }
            Self::Hub(stream) => stream.next().await.transpose(),
        }
    }
}

/// What a file has to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    /// Its length.
    pub(super) size: Option<u64>,
    /// The hash of its contents, in hex.
    pub(super) sha256: Option<String>,
}

/// Bytes fetched and to be fetched, over all files of a model.
pub(super) struct Meter<'a> {
    progress: &'a mut (dyn FnMut(u64, u64) + Send),
    done: u64,
    total: u64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(total: u64, progress: &'a mut (dyn FnMut(u64, u64) + Send)) -> Self {
        Self { progress, done: 0, total }
    }

    /// Counts bytes that are here.
    pub(super) fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        (self.progress)(self.done, self.total.max(self.done));
    }

    /// Bytes so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn take_back(&mut self, bytes: u64) {
        self.done = self.done.saturating_sub(bytes);
    }

    /// Expects more.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
    }
}

/// Attempts without a single byte before giving up.
const ATTEMPTS: u32 = 3;
/// Attempts at one file in all.
const ALL_ATTEMPTS: u32 = 100;

/// Fetches a file into `target`. What is there of it from an earlier try is kept: `open` is asked for the rest.
pub(super) async fn save<F>(
    fetch: &Fetch,
    place: &str,
    target: &Path,
    expected: &Expected,
    meter: &mut Meter<'_>,
    mut open: impl FnMut(u64) -> F,
) -> Result<(), SourceError>
where
    F: Future<Output = Result<Body, SourceError>>,
{
    let part = part_of(target);
    let write = |source| SourceError::Write { path: part.clone(), source };
    if let Some(folder) = part.parent() {
        std::fs::create_dir_all(folder).map_err(write)?;
    }
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part).map_err(write)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(SourceError::Busy(target.to_path_buf())),
        Err(TryLockError::Error(error)) => return Err(write(error)),
    }
    let mut at = file.metadata().map_err(write)?.len();
    if expected.size.is_some_and(|size| at > size) {
        (at, _) = (0, file.set_len(0).map_err(write)?);
    }
    meter.add(at);
    let (mut attempts, mut all) = (0, 0);
    while expected.size != Some(at) || at == 0 {
        let before = at;
        let body = match open(at).await {
            // A connection that broke off may still be thought to be good.
            Err(SourceError::Network { .. }) if attempts + 1 < ATTEMPTS => {
                attempts += 1;
                continue;
            }
            body => body?,
        };
        if body.start != at {
            // The server begins where it likes, which can only be the start.
            meter.take_back(at);
            file.set_len(0).map_err(write)?;
            at = 0;
            if body.start != 0 {
                return Err(content(place, format!("the server sends it from byte {} on, not from {at}", body.start)));
            }
        }
        let total = expected.size.or(body.total);
        if let (Some(wanted), Some(found)) = (expected.size, body.total)
            && wanted != found
        {
            return Err(content(place, format!("the server has {found} bytes of it, not {wanted}")));
        }
        file.seek(SeekFrom::Start(at)).map_err(write)?;
        let mut content_of = body.content;
        let ended = loop {
            match content_of.next().await {
                Ok(None) => break Ok(()),
                Err(problem) => break Err(problem),
                Ok(Some(bytes)) => {
                    at += bytes.len() as u64;
                    meter.add(bytes.len() as u64);
                    if meter.done() > fetch.limit {
                        let _ = std::fs::remove_file(&part); // it will never be whole
                        return Err(SourceError::TooLarge { place: place.to_string(), limit: fetch.limit });
                    }
                    if total.is_some_and(|total| at > total) {
                        let _ = std::fs::remove_file(&part);
                        return Err(content(place, format!("the server sends more than the {at} bytes it has of it")));
                    }
                    file.write_all(&bytes).map_err(write)?;
                }
            }
        };
        let whole = total.is_none_or(|total| at == total);
        match ended {
            Ok(()) if whole => break,
            ended => {
                all += 1;
                attempts = if at > before { 0 } else { attempts + 1 };
                if attempts >= ATTEMPTS || all >= ALL_ATTEMPTS {
                    let problem = ended.err().unwrap_or_else(|| "it ends too early".to_string());
                    let of = total.map_or(String::new(), |total| format!(" of {total}"));
                    let problem =
                        format!("breaks off at byte {at}{of}: {problem}; what is here is kept for the next try");
                    return Err(SourceError::Network { place: place.to_string(), problem });
                }
            }
        }
    }
    if let Some(wanted) = &expected.sha256 {
        let found = hash(&mut file).map_err(write)?;
        if !found.eq_ignore_ascii_case(wanted) {
            let _ = std::fs::remove_file(&part); // no part of it can be trusted
            return Err(content(place, format!("its contents hash to {found}, not {wanted}")));
        }
    }
    file.sync_all().map_err(write)?;
    std::fs::rename(&part, target).map_err(write)
}

fn content(place: &str, problem: String) -> SourceError {
    SourceError::Content { place: place.to_string(), problem }
}

fn hash(file: &mut File) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The hash of a file that is here.
pub(super) fn hash_of(path: &Path) -> Result<String, SourceError> {
    let failed = |source| SourceError::Write { path: path.to_path_buf(), source };
    hash(&mut File::open(path).map_err(failed)?).map_err(failed)
}

//! A folder or a file of a web server. The server's tag of a file (its ETag) is kept beside it: a file is fetched again only if
//! that has changed, and what is missing of a part only if it has not.

use super::download::{Body, Content, Expected, Meter, hash_of, save};
use super::{Fetch, Fetched, SourceError, chain, client, is_plain, part_of, shown};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The part of a description that says which files there are.
#[derive(Deserialize)]
struct Description {
    architecture: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Files that a folder may have.
const OPTIONAL: [&str; 4] = ["generation_config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"];

pub(super) async fn fetch(
    fetch: &Fetch,
    address: &str,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Fetched, SourceError> {
    let wrong = |problem: String| SourceError::Syntax { source_text: address.to_string(), problem };
    let mut url = Url::parse(address).map_err(|error| wrong(error.to_string()))?;
    let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_string();
    let digest: String = Sha256::digest(address.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = fetch.cache.join("web").join(digest);
    let mut site = Site { fetch, client: client()?, folder, meter: Meter::new(0, progress), pinned: Vec::new() };
    if last.ends_with(".gguf") || last.ends_with(".onnx") {
        if !is_plain(&last) {
            return Err(wrong(format!("{last:?} is no name of a file")));
        }
        site.need(&url, &last).await?;
        return Ok(Fetched { path: site.folder.join(&last), pinned: site.pinned });
    }
    if last.ends_with(".safetensors") || last.ends_with(".json") {
        return Err(wrong("a model of several files is a folder: end with a slash".to_string()));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let join = |name: &str| url.join(name).map_err(|error| wrong(error.to_string()));
    let config = site.need(&join("config.json")?, "config.json").await?;
    let text = std::fs::read(&config).map_err(|source| SourceError::Write { path: config, source })?;
    let description = serde_json::from_slice::<Description>(&text);
    if description.is_ok_and(|description| description.architecture.as_deref() == Some("onnx")) {
        site.need(&join("model.onnx")?, "model.onnx").await?;
        return Ok(Fetched { path: site.folder, pinned: site.pinned });
    }
    for name in OPTIONAL {
        site.maybe(&join(name)?, name).await?;
    }
    let index = "model.safetensors.index.json";
    let Some(list) = site.maybe(&join(index)?, index).await? else {
        site.need(&join("model.safetensors")?, "model.safetensors").await?;
        return Ok(Fetched { path: site.folder, pinned: site.pinned });
    };
    let text = std::fs::read(&list).map_err(|source| SourceError::Write { path: list, source })?;
    let place = join(index)?.to_string();
    let damaged = |problem: String| SourceError::Content { place: place.clone(), problem };
    let parsed: Index = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    for name in parsed.weight_map.into_values().collect::<BTreeSet<_>>() {
        if !is_plain(&name) || !name.ends_with(".safetensors") {
            return Err(damaged(format!("{name:?} is not a safetensors file of this folder")));
        }
        site.need(&join(&name)?, &name).await?;
    }
    Ok(Fetched { path: site.folder, pinned: site.pinned })
}

struct Site<'a> {
    fetch: &'a Fetch,
    client: Client,
    folder: PathBuf,
    meter: Meter<'a>,
    pinned: Vec<String>,
}

impl Site<'_> {
    /// A file that has to be there.
    async fn need(&mut self, url: &Url, name: &str) -> Result<PathBuf, SourceError> {
        let found = self.maybe(url, name).await?;
        found.ok_or_else(|| SourceError::NotFound { place: shown(url), hint: "" })
    }

    /// A file that may be there; says where it is.
    async fn maybe(&mut self, url: &Url, name: &str) -> Result<Option<PathBuf>, SourceError> {
        let target = self.folder.join(name);
        let tags = Tags::of(&target);
        // Whether what is here is still what is there.
        let mut request = self.client.get(url.clone());
        let whole = target.exists().then(|| tags.whole()).flatten();
        if let Some(tag) = &whole {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let offset = std::fs::metadata(part_of(&target)).map_or(0, |part| part.len());
        let part = (whole.is_none() && offset > 0).then(|| tags.part()).flatten();
        if let Some(tag) = &part {
            request = request.header(RANGE, format!("bytes={offset}-")).header(IF_RANGE, tag);
        }
        let response = match answer(request, url).await? {
            Answer::Missing => return Ok(None),
            Answer::Unchanged if whole.is_some() => {
                self.pin(&target, name)?;
                return Ok(Some(target));
            }
            Answer::Unchanged => return Err(content(url, "unchanged since never".to_string())),
            Answer::Found(response) => response,
        };
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_string);
        let length = response.content_length();
        self.meter.expect(length.unwrap_or(0) + if part.is_some() { offset } else { 0 });
        if length.is_some_and(|length| self.meter.done().saturating_add(length) > self.fetch.limit) {
            return Err(SourceError::TooLarge { place: shown(url), limit: self.fetch.limit });
        }
        tags.expect(tag.as_deref());
        let mut first = Some(response);
        let (client, place) = (&self.client, shown(url));
        save(self.fetch, &place, &target, &Expected::default(), &mut self.meter, |from| {
            let (given, tag) = (first.take(), tag.clone());
            async move {
                let response = match given {
                    Some(response) => response,
                    // The rest of a file that broke off; all of it, if the server has no tag to know it by.
                    None => {
                        let mut request = client.get(url.clone());
                        if let Some(tag) = &tag {
                            request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, tag);
                        }
                        match answer(request, url).await? {
                            Answer::Found(response) => response,
                            _ => return Err(SourceError::NotFound { place: shown(url), hint: "" }),
                        }
                    }
                };
                body(response, url)
            }
        })
        .await?;
        tags.keep(tag.as_deref());
        self.pin(&target, name)?;
        Ok(Some(target))
    }

    fn pin(&mut self, target: &Path, name: &str) -> Result<(), SourceError> {
        self.pinned.push(format!("{name} sha256:{}", hash_of(target)?));
        Ok(())
    }
}

/// The tags of a file and of its part, in files beside it. That they cannot be written or read costs time, not truth.
struct Tags {
    whole: PathBuf,
    part: PathBuf,
}

impl Tags {
    fn of(target: &Path) -> Self {
        let beside = |ending: &str| {
            let mut name = target.as_os_str().to_os_string();
            name.push(ending);
            PathBuf::from(name)
        };
        Self { whole: beside(".etag"), part: beside(".part.etag") }
    }

    fn whole(&self) -> Option<String> {
        std::fs::read_to_string(&self.whole).ok().filter(|tag| !tag.is_empty())
    }

    fn part(&self) -> Option<String> {
        // A weak tag is of files that are alike, not equal: parts of such do not fit together.
        std::fs::read_to_string(&self.part).ok().filter(|tag| !tag.is_empty() && !tag.starts_with("W/"))
    }

    fn expect(&self, tag: Option<&str>) {
        if let Some(folder) = self.part.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let _ = std::fs::write(&self.part, tag.unwrap_or_default());
    }

    fn keep(&self, tag: Option<&str>) {
        let _ = std::fs::remove_file(&self.part);
        let _ = std::fs::write(&self.whole, tag.unwrap_or_default());
    }
}

/// What a server answers.
enum Answer {
    Found(Response),
    Unchanged,
    Missing,
}

async fn answer(request: reqwest::RequestBuilder, url: &Url) -> Result<Answer, SourceError> {
    let response = request
        .send()
        .await
        .map_err(|error| SourceError::Network { place: shown(url), problem: chain(&error.without_url()) })?;
    let status = response.status();
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Answer::Missing),
        StatusCode::NOT_MODIFIED => Ok(Answer::Unchanged),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(SourceError::Refused { place: shown(url), status: status.to_string(), hint: "" })
        }
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Answer::Found(response)),
        other => Err(SourceError::Network { place: shown(url), problem: format!("the server answers {other}") }),
    }
}

fn body(response: Response, url: &Url) -> Result<Body, SourceError> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("text/html") {
        return Err(content(url, "the server sends a web page, not a file".to_string()));
    }
    let length = response.content_length();
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(Body { start: 0, total: length, content: Content::Web(response) });
    }
    // "bytes 100-199/200"
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let parsed = range.strip_prefix("bytes ").and_then(|range| {
        let (places, total) = range.split_once('/')?;
        let (start, _) = places.split_once('-')?;
        Some((start.parse::<u64>().ok()?, total.parse::<u64>().ok()))
    });
    let Some((start, total)) = parsed else {
        return Err(content(url, format!("the server sends a part without saying which: {range:?}")));
    };
    Ok(Body { start, total, content: Content::Web(response) })
}

fn content(url: &Url, problem: String) -> SourceError {
    SourceError::Content { place: shown(url), problem }
}

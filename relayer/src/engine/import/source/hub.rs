//! Models of a Hugging Face hub, by the hub's own client: which commit a revision is at, which files it has, their bytes.

use super::download::{Body, Content, Expected, Meter, save};
use super::{Fetch, Fetched, SourceError, chain, client, is_plain};
use futures_util::StreamExt;
use hf_hub::{HFClient, HFError};

/// A file of a repository.
struct Listed {
    path: String,
    size: u64,
    sha256: Option<String>,
}

/// Files that go with weights, if they are there.
const BESIDE: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"];
/// Most files of a repository that are looked at.
const MAX_FILES: usize = 10_000;

pub(super) async fn fetch(
    fetch: &Fetch,
    repository: &str,
    revision: &str,
    file: Option<&str>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Fetched, SourceError> {
    let token = fetch.token.clone().or_else(|| std::env::var("HF_TOKEN").ok()).filter(|token| !token.is_empty());
    let place = format!("hf://{repository}@{revision}");
    let failed = |error: HFError| refusal(&place, &error, token.as_deref());
    let mut builder = HFClient::builder().client(client()?).cache_enabled(false).retry_max_attempts(3);
    if let Some(endpoint) = &fetch.endpoint {
        builder = builder.endpoint(endpoint);
    }
    if let Some(token) = &token {
        builder = builder.token(token);
    }
    let hub = builder.build().map_err(failed)?;
    let (owner, name) = hf_hub::split_id(repository);
    let model = hub.model(owner, name);
    let info = model.info().revision(revision).send().await.map_err(failed)?;
    let commit = info.sha.filter(|sha| sha.len() == 40 && sha.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some(commit) = commit else {
        return Err(SourceError::Content { place, problem: "the hub names no commit".to_string() });
    };
    let mut listed = Vec::new();
    {
        let tree = model.list_tree().revision(commit.as_str()).recursive(true).send().map_err(failed)?;
        let mut tree = std::pin::pin!(tree);
        while let Some(entry) = tree.next().await {
            if let hf_hub::repository::RepoTreeEntry::File { path, size, lfs, .. } = entry.map_err(failed)? {
                listed.push(Listed { path, size, sha256: lfs.and_then(|lfs| lfs.sha256) });
            }
            if listed.len() > MAX_FILES {
                let problem = format!("more than {MAX_FILES} files");
                return Err(SourceError::Content { place, problem });
            }
        }
    }
    let (wanted, only) = choose(&place, listed, file)?;
    let total = wanted.iter().fold(0u64, |total, file| total.saturating_add(file.size));
    if total > fetch.limit {
        return Err(SourceError::TooLarge { place, limit: fetch.limit });
    }
    let folder = fetch.cache.join("hf").join(owner).join(name).join(&commit);
    let mut meter = Meter::new(total, progress);
    for file in &wanted {
        let target = folder.join(&file.path);
        if std::fs::metadata(&target).is_ok_and(|there| there.len() == file.size) {
            meter.add(file.size);
            continue;
        }
        let place = format!("{place}/{}", file.path);
        let expected = Expected { size: Some(file.size), sha256: file.sha256.clone() };
        let (model, commit, token) = (&model, &commit, &token);
        save(fetch, &place, &target, &expected, &mut meter, |from| {
            let place = place.clone();
            async move {
                let request = model.download_file_stream().filename(file.path.as_str()).revision(commit.as_str());
                let sent = match from {
                    0 => request.send().await,
                    from => request.range(from..file.size).send().await,
                };
                let (length, stream) = sent.map_err(|error| refusal(&place, &error, token.as_deref()))?;
                // Asked for a part, a server may send all: the length tells.
                let start = if from > 0 && length == Some(file.size) { 0 } else { from };
                let secret = token.clone();
                let chunk = move |sent: Result<_, HFError>| match sent {
                    Ok(bytes) => Ok(Vec::from(bytes)),
                    Err(error) => Err(hidden(&chain(&error), secret.as_deref())),
                };
                let stream = stream.map(chunk).boxed();
                Ok(Body { content: Content::Hub(stream), start, total: length.map(|length| start + length) })
            }
        })
        .await?;
    }
    let path = only.map_or(folder.clone(), |only| folder.join(only));
    Ok(Fetched { path, pinned: vec![format!("hf://{repository}@{commit}")] })
}

/// The files of the model: those of the only one that is there, or of the file that is named; and that file.
fn choose(place: &str, listed: Vec<Listed>, named: Option<&str>) -> Result<(Vec<Listed>, Option<String>), SourceError> {
    if let Some(named) = named {
        return match listed.into_iter().find(|file| file.path == named) {
            Some(file) => Ok((vec![file], Some(named.to_string()))),
            None => Err(SourceError::NotFound { place: format!("{place}/{named}"), hint: "" }),
        };
    }
    let ending = |file: &Listed, ending: &str| is_plain(&file.path) && file.path.ends_with(ending);
    let names = |ending_wanted: &str| -> Vec<String> {
        listed.iter().filter(|file| ending(file, ending_wanted)).map(|file| file.path.clone()).collect()
    };
    let has = |name: &str| listed.iter().any(|file| file.path == name);
    let (safetensors, gguf, onnx) = (names(".safetensors"), names(".gguf"), names(".onnx"));
    let single = if has("model.safetensors") { vec!["model.safetensors".to_string()] } else { safetensors };
    let (mut wanted, only) = match (has("config.json"), &single[..], &gguf[..], &onnx[..]) {
        (true, [_, ..], ..) => (single, None),
        (true, [], _, [graph]) => (vec![graph.clone()], None),
        (_, _, [gguf], _) => (vec![gguf.clone()], Some(gguf.clone())),
        (false, _, [], [graph]) => (vec![graph.clone()], Some(graph.clone())),
        (_, _, [_, _, ..], _) => {
            let problem = format!("which of {} is it? Name it behind the revision: {place}/FILE", gguf.join(", "));
            return Err(SourceError::Content { place: place.to_string(), problem });
        }
        _ => {
            let problem = "no safetensors with a config.json, no GGUF and no ONNX file".to_string();
            return Err(SourceError::Content { place: place.to_string(), problem });
        }
    };
    if only.is_none() {
        wanted.extend(BESIDE.map(str::to_string));
        wanted.push("model.safetensors.index.json".to_string());
    }
    Ok((listed.into_iter().filter(|file| wanted.contains(&file.path)).collect(), only))
}

const PRIVATE: &str = "; if it is private or gated, put a token that may read it into HF_TOKEN";

/// What the hub says, without any secret.
fn refusal(place: &str, error: &HFError, token: Option<&str>) -> SourceError {
    let place = place.to_string();
    let status = |error: &HFError| error.to_string().lines().next().unwrap_or_default().to_string();
    match error {
        // The hub says the same of what is not there and of what is not for everybody.
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } => {
            SourceError::NotFound { place, hint: PRIVATE }
        }
        HFError::EntryNotFound { .. } => SourceError::NotFound { place, hint: "" },
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
            SourceError::Refused { place, status: hidden(&status(error), token), hint: PRIVATE }
        }
        other => SourceError::Network { place, problem: hidden(&chain(other), token) },
    }
}

/// A text without the token, and without what follows a question mark in addresses: signatures.
fn hidden(text: &str, token: Option<&str>) -> String {
    let text = token.map_or(text.to_string(), |token| text.replace(token, "***"));
    let words = text.split(' ').map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => format!("{address}?..."),
        _ => word.to_string(),
    });
    words.collect::<Vec<_>>().join(" ")
}

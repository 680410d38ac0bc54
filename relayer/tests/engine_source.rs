//! Models from a hub and from web servers, against servers of this process: one with the layout of the Hugging Face hub, and
//! ones that redirect, break off, lie and refuse.

mod engine_common;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use candor_relayer::engine::import::source::{Fetch, Fetched, Source, SourceError};
use candor_relayer::engine::import::{self, Options};
use engine_common::families;
use futures_util::{StreamExt, stream};
use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_a_secret_that_nobody_may_see";

/// How a server behaves.
#[derive(Clone, Copy, Default, PartialEq)]
enum Manner {
    #[default]
    Well,
    /// A file ends after a few bytes, and the rest does not come however often it is asked for.
    Cut,
    /// Each answer to a whole file ends in the middle; the rest comes when asked for.
    Tired,
    /// Wants the token.
    Private,
    /// Sends a page for people.
    Page,
    /// One byte of each file is another one.
    Liar,
    /// Sends to another address, which sends back.
    Circle,
    /// Sends to a second path first, as hubs do for large files.
    Redirect,
}

#[derive(Default)]
struct Server {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    manner: Mutex<Manner>,
    asked: AtomicU32,
    sent: AtomicU32,
    /// What came in the header `Authorization`, by path.
    credentials: Mutex<Vec<(String, String)>>,
}

impl Server {
    fn behave(&self, manner: Manner) {
        *self.manner.lock().expect("no test panicked") = manner;
    }
}

type Shared = Arc<Server>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file, or the rest of it, in the server's manner.
fn send(server: &Server, path: &str, headers: &HeaderMap) -> Response {
    server.asked.fetch_add(1, Ordering::Relaxed);
    let manner = *server.manner.lock().expect("no test panicked");
    let Some(mut content) = server.files.lock().expect("no test panicked").get(path).cloned() else {
        return (StatusCode::NOT_FOUND, [("x-error-code", "EntryNotFound")]).into_response();
    };
    let tag = format!("\"{}\"", hex(&Sha256::digest(&content)[..8]));
    let said = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if said(header::IF_NONE_MATCH) == Some(tag.as_str()) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    match manner {
        Manner::Page => return ([(header::CONTENT_TYPE, "text/html")], "<html>Log in</html>").into_response(),
        Manner::Liar => {
            let last = content.len() - 1;
            content[last] ^= 1;
        }
        _ => {}
    }
    let whole = content.len();
    let wanted = said(header::RANGE).and_then(|range| range.strip_prefix("bytes="));
    let wanted = wanted.and_then(|range| range.split_once('-')).and_then(|(from, _)| from.parse::<usize>().ok());
    let fresh = said(header::IF_RANGE).is_none_or(|known| known == tag);
    let from = wanted.filter(|from| fresh && *from < whole).unwrap_or(0);
    let rest = content.split_off(from);
    let cut = match manner {
        Manner::Cut if from == 0 => rest.len().min(10),
        Manner::Cut => 0,
        Manner::Tired if from == 0 => rest.len() / 2,
        _ => rest.len(),
    };
    server.sent.fetch_add(cut as u32, Ordering::Relaxed);
    let mut response = Response::builder()
        .header(header::ETAG, tag)
        .header("x-repo-commit", COMMIT)
        .header(header::CONTENT_LENGTH, rest.len())
        .header(header::CONTENT_TYPE, "application/octet-stream");
    if from > 0 {
        response = response.status(StatusCode::PARTIAL_CONTENT);
        response = response.header(header::CONTENT_RANGE, format!("bytes {from}-{}/{whole}", whole - 1));
    }
    let body = if cut == rest.len() {
        Body::from(rest)
    } else {
        // The promised length does not come.
        let sent: Result<Bytes, std::io::Error> = Ok(Bytes::from(rest[..cut].to_vec()));
        let broken = async {
            // What was sent has to be on its way, or nothing of it arrives.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            Err(std::io::Error::other("gone"))
        };
        Body::from_stream(stream::iter([sent]).chain(stream::once(broken)))
    };
    response.body(body).expect("a response")
}

async fn file(State(server): State<Shared>, Path(path): Path<String>, headers: HeaderMap) -> Response {
    let manner = *server.manner.lock().expect("no test panicked");
    match manner {
        Manner::Circle => (StatusCode::FOUND, [(header::LOCATION, format!("/{path}"))]).into_response(),
        Manner::Redirect if !path.starts_with("else/") => {
            (StatusCode::FOUND, [(header::LOCATION, format!("/else/{path}"))]).into_response()
        }
        _ => send(&server, path.trim_start_matches("else/"), &headers),
    }
}

fn json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The hub's interface, as far as a download uses it.
async fn hub(State(server): State<Shared>, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/').to_string();
    let credential = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    server.credentials.lock().expect("no test panicked").push((path.clone(), credential.to_string()));
    if *server.manner.lock().expect("no test panicked") == Manner::Private && credential != format!("Bearer {TOKEN}") {
        return (StatusCode::UNAUTHORIZED, format!("token {credential} may not")).into_response();
    }
    if let Some(rest) = path.strip_prefix("api/models/org/model/") {
        return match rest.split_once('/') {
            Some(("revision", "main" | "v1")) | Some(("revision", COMMIT)) => {
                json(&serde_json::json!({ "id": "org/model", "sha": COMMIT }))
            }
            Some(("tree", COMMIT)) => {
                let files = server.files.lock().expect("no test panicked");
                let entry = |(path, content): (&String, &Vec<u8>)| {
                    let lfs = path
                        .ends_with(".safetensors")
                        .then(|| serde_json::json!({ "size": content.len(), "sha256": hex(&Sha256::digest(content)) }));
                    serde_json::json!({ "type": "file", "oid": "0", "size": content.len(), "path": path, "lfs": lfs })
                };
                let list: Vec<_> = files.iter().map(entry).collect();
                json(&serde_json::Value::from(list))
            }
            _ => (StatusCode::NOT_FOUND, [("x-error-code", "RevisionNotFound")]).into_response(),
        };
    }
    match path.strip_prefix(&format!("org/model/resolve/{COMMIT}/")) {
        Some(file) if *server.manner.lock().expect("no test panicked") == Manner::Redirect => {
            (StatusCode::FOUND, [(header::LOCATION, format!("/cdn/{file}?Signature=secret"))]).into_response()
        }
        Some(file) => send(&server, file, &headers),
        None => match path.strip_prefix("cdn/") {
            Some(file) => send(&server, file, &headers),
            None => (StatusCode::NOT_FOUND, [("x-error-code", "RepoNotFound")]).into_response(),
        },
    }
}

async fn serve(server: &Shared, hub_layout: bool) -> String {
    let router = if hub_layout { Router::new().fallback(hub) } else { Router::new().route("/{*path}", get(file)) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let router = router.with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A server with the files of a small encoder, and a folder to fetch them into.
fn setup() -> (Shared, tempfile::TempDir) {
    let files = families::bert(3, Dtype::F16).files();
    let server = Shared::default();
    {
        let mut known = server.files.lock().expect("no test panicked");
        known.insert("config.json".into(), files.config.clone().into_bytes());
        known.insert("model.safetensors".into(), files.weights[0].1.to_vec());
        known.insert("README.md".into(), b"# A model".to_vec());
        known.insert("pytorch_model.bin".into(), vec![0; 1000]);
    }
    (server, tempfile::tempdir().expect("a folder"))
}

async fn fetch(source: &str, fetch: &Fetch) -> Result<Fetched, SourceError> {
    let mut last = (0, 0);
    let fetched = source.parse::<Source>()?.fetch(fetch, &mut |done, total| last = (done, total)).await;
    assert!(last.0 <= last.1, "{last:?}");
    fetched
}

fn refused(result: Result<Fetched, SourceError>, named: &[&str]) {
    let error = result.expect_err("a refusal").to_string();
    for name in named {
        assert!(error.contains(name), "{error:?} does not mention {name:?}");
    }
    assert!(!error.contains(TOKEN) && !error.contains("Signature=secret"), "a secret in {error:?}");
}

#[tokio::test]
async fn a_model_of_a_hub() {
    let (server, folder) = setup();
    let endpoint = serve(&server, true).await;
    let to = Fetch { endpoint: Some(endpoint), token: Some(TOKEN.into()), ..Fetch::into(folder.path()) };
    let fetched = fetch("hf://org/model", &to).await.unwrap();
    assert_eq!(fetched.pinned, [format!("hf://org/model@{COMMIT}")]);
    assert!(fetched.path.ends_with(COMMIT));
    let imported = import::folder(&fetched.path).unwrap();
    assert!(imported.check(&imported.probes(2)).unwrap().agrees());
    // Only what an import reads, and nothing twice.
    assert!(!fetched.path.join("pytorch_model.bin").exists());
    let sent = server.sent.load(Ordering::Relaxed);
    assert_eq!(fetch(&format!("hf://org/model@{COMMIT}"), &to).await.unwrap(), fetched);
    assert_eq!(server.sent.load(Ordering::Relaxed), sent);
    // From somewhere else than from where it was asked for.
    server.behave(Manner::Redirect);
    let other = tempfile::tempdir().unwrap();
    let elsewhere = Fetch { cache: other.path().into(), ..to.clone() };
    let again = fetch("hf://org/model@v1", &elsewhere).await.unwrap();
    assert_eq!(import::folder(&again.path).unwrap().model.model_id(), imported.model.model_id());
    // The same files from a folder of a web server are the same model.
    server.behave(Manner::Well);
    let web = serve(&server, false).await;
    let fetched = fetch(&format!("{web}/"), &to).await.unwrap();
    assert_eq!(import::folder(&fetched.path).unwrap().model.model_id(), imported.model.model_id());
    assert!(fetched.pinned.iter().any(|pin| pin.starts_with("model.safetensors sha256:")), "{:?}", fetched.pinned);
}

#[tokio::test]
async fn refusals_of_a_hub() {
    let (server, folder) = setup();
    let endpoint = serve(&server, true).await;
    let to = Fetch { endpoint: Some(endpoint), token: Some("another".into()), ..Fetch::into(folder.path()) };
    refused(fetch("hf://org/other", &to).await, &["hf://org/other@main", "not there", "HF_TOKEN"]);
    refused(fetch("hf://org/model@v9", &to).await, &["hf://org/model@v9", "not there"]);
    refused(fetch("hf://org/model@main/model.gguf", &to).await, &["model.gguf", "not there"]);
    server.behave(Manner::Private);
    let result = fetch("hf://org/model", &to).await;
    assert!(!result.as_ref().unwrap_err().to_string().contains("another"), "{result:?}");
    refused(result, &["refuses", "HF_TOKEN"]);
    let with = Fetch { token: Some(TOKEN.into()), ..to.clone() };
    assert!(fetch("hf://org/model", &with).await.is_ok());
    server.behave(Manner::Well);
    let small = Fetch { limit: 1000, cache: folder.path().join("small"), ..to.clone() };
    refused(fetch("hf://org/model", &small).await, &["more than the 1000 bytes"]);
    server.behave(Manner::Liar);
    let fresh = Fetch { cache: folder.path().join("liar"), ..to.clone() };
    refused(fetch("hf://org/model", &fresh).await, &["model.safetensors", "hash to"]);
    server.behave(Manner::Well);
    assert!(fetch("hf://org/model", &fresh).await.is_ok(), "a wrong file is not kept");
    let nowhere = Fetch { endpoint: Some("http://127.0.0.1:9".into()), ..to };
    refused(fetch("hf://org/model", &nowhere).await, &["hf://org/model@main"]);
}

#[tokio::test]
async fn what_breaks_off_is_taken_up_again() {
    for hub_layout in [true, false] {
        let (server, folder) = setup();
        let endpoint = serve(&server, hub_layout).await;
        let source = if hub_layout { "hf://org/model".to_string() } else { format!("{endpoint}/") };
        let to = Fetch { endpoint: Some(endpoint), token: Some(TOKEN.into()), ..Fetch::into(folder.path()) };
        // In one go: the rest is asked for.
        server.behave(Manner::Tired);
        let fetched = fetch(&source, &to).await.unwrap();
        let id = import::folder(&fetched.path).unwrap().model.model_id();
        let kept = std::fs::read_dir(&fetched.path).unwrap().map(|entry| entry.unwrap().file_name());
        let parts: Vec<_> = kept.filter(|name| name.to_string_lossy().ends_with(".part")).collect();
        assert!(parts.is_empty(), "{parts:?}");
        // In two: what is there is not asked for again.
        let other = tempfile::tempdir().unwrap();
        let to = Fetch { cache: other.path().into(), ..to };
        server.behave(Manner::Cut);
        refused(fetch(&source, &to).await, &["breaks off at byte", "kept for the next try"]);
        server.behave(Manner::Well);
        let fetched = fetch(&source, &to).await.unwrap();
        assert_eq!(import::folder(&fetched.path).unwrap().model.model_id(), id);
    }
}

#[tokio::test]
async fn servers_that_misbehave() {
    let (server, folder) = setup();
    let web = serve(&server, false).await;
    let to = Fetch::into(folder.path());
    refused(fetch(&format!("{web}/nothing/"), &to).await, &["/nothing/config.json", "not there"]);
    refused(fetch(&format!("{web}/model.gguf"), &to).await, &["model.gguf", "not there"]);
    refused(fetch(&format!("{web}/model.safetensors"), &to).await, &["end with a slash"]);
    server.behave(Manner::Page);
    refused(fetch(&format!("{web}/"), &to).await, &["config.json", "a web page"]);
    server.behave(Manner::Circle);
    refused(fetch(&format!("{web}/"), &to).await, &["config.json", "redirects"]);
    server.behave(Manner::Redirect);
    let fetched = fetch(&format!("{web}/"), &to).await.unwrap();
    let id = import::folder(&fetched.path).unwrap().model.model_id();
    server.behave(Manner::Well);
    let small = Fetch { limit: 2000, cache: folder.path().join("small"), ..to.clone() };
    refused(fetch(&format!("{web}/"), &small).await, &["more than the 2000 bytes"]);
    refused(
        fetch(&format!("{web}/"), &Fetch { cache: "/proc/nowhere".into(), ..to.clone() }).await,
        &["cannot write", "/proc/nowhere"],
    );
    // What has not changed is not sent again; what has is, whole.
    let sent = server.sent.load(Ordering::Relaxed);
    fetch(&format!("{web}/"), &to).await.unwrap();
    assert_eq!(server.sent.load(Ordering::Relaxed), sent);
    let other = families::bert(4, Dtype::F16).files().weights[0].1.to_vec();
    server.files.lock().unwrap().insert("model.safetensors".into(), other);
    let fetched = fetch(&format!("{web}/"), &to).await.unwrap();
    assert_ne!(import::folder(&fetched.path).unwrap().model.model_id(), id);
}

#[tokio::test]
async fn options_are_part_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let made = families::decoder("llama", 5, Dtype::F16, true).files();
    std::fs::write(folder.path().join("config.json"), &made.config).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), &*made.weights[0].1).unwrap();
    let id = |options: &Options| import::folder_with(folder.path(), options).unwrap().model.model_id();
    let short = Options { context: 16, max_tokens: 4, dtype: None };
    assert_ne!(id(&short), id(&Options::default()));
    assert_eq!(id(&short), id(&short));
}

//! An endpoint that misbehaves: passes questions on to a real one, and does one thing wrong, every so often or always.

use alloy::{
    primitives::{B256, Bytes},
    sol_types::SolEvent,
};
use anyhow::{Context, Result, ensure};
use candor_sdk::bindings::IInferenceOracle::Requested;
use reqwest::Url;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The question gets lost.
    DropQuestion,
    /// The question arrives, and its answer gets lost.
    DropAnswer,
    /// The answer takes its time.
    Delay(Duration),
    /// The question arrives twice.
    Duplicate,
    /// The question waits until another one has passed.
    Reorder,
    /// Half of the answer.
    Truncate,
    /// Too many questions.
    TooManyRequests,
    /// An error page.
    ServerError,
    /// It says that it is on another chain.
    WrongChain,
    /// Its newest block is an old one.
    StaleHead,
    /// It shows no events.
    EmptyLogs,
    /// It passes transactions on, and says that it did not.
    DenySent,
    /// It suggests a tip of nothing.
    NoTip,
    /// It does not know what a tip is.
    TipUnknown,
    /// It refuses to show the events of more than so many blocks.
    NarrowRanges(u64),
    /// It keeps the state of its newest block only.
    NoHistory,
    /// While it shows an event of this kind for the first time, the chain takes back the event's block and goes on without it.
    TakenBack(B256),
    /// Before it passes a transaction on, the chain takes back the block of the first event of this kind, once, and goes on without it.
    TakenBackAtSend(B256),
    /// It leaves out the events of this kind from [`FaultyEndpoint::begin`] until it is healed, and does not know what views gave at old blocks.
    Hidden(B256),
    /// The inputs of the requests that it shows are others than those they were made with.
    AlteredInput,
    /// From [`FaultyEndpoint::begin`] until it is healed it takes questions and never answers them.
    Hang,
    /// After [`FaultyEndpoint::begin`] the first question for the newest block waits until it is healed, and is answered then. From when that waits until it is
    /// healed all other questions get lost.
    DiesInMidLook,
    /// From [`FaultyEndpoint::freeze`] until it is healed it knows no block above the one that was the newest then.
    Behind,
    /// The first question by this name after [`FaultyEndpoint::begin`] waits until it is healed, and is passed on then.
    Held(&'static str),
}

/// The endpoint. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultyEndpoint {
    /// Where it listens.
    pub url: Url,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    target: Url,
    fault: Fault,
    /// One question in so many.
    every: usize,
    count: AtomicUsize,
    faults: AtomicUsize,
    healed: AtomicBool,
    begun: AtomicBool,
    /// Questions in all.
    asked: AtomicUsize,
    /// The newest block of one that is behind.
    frozen: AtomicU64,
    go: Notify,
    passed: Notify,
    http: reqwest::Client,
}

impl FaultyEndpoint {
    /// One in `every` questions to `target` goes wrong in this way.
    pub async fn start(target: &Url, fault: Fault, every: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?).parse()?;
        let state = Arc::new(State {
            target: target.clone(),
            fault,
            every,
            count: AtomicUsize::new(0),
            faults: AtomicUsize::new(0),
            healed: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            frozen: AtomicU64::new(u64::MAX),
            go: Notify::new(),
            passed: Notify::new(),
            http: reqwest::Client::new(),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                // An error is a connection that ends, which is what it is for.
                tokio::spawn(async move { answer(client, &state).await.ok() });
            }
        });
        Ok(Self { url, state, task })
    }

    /// How often it has done wrong.
    pub fn faults(&self) -> usize {
        self.state.faults.load(Ordering::Relaxed)
    }

    /// How many questions it was asked.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// From now on it learns of no more blocks.
    pub async fn freeze(&self) -> Result<()> {
        self.state.frozen.store(newest(&self.state).await?, Ordering::Relaxed);
        Ok(())
    }

    /// From now on it misbehaves, if it is one that waits for this.
    pub fn begin(&self) {
        self.state.begun.store(true, Ordering::Relaxed);
    }

    /// From now on it behaves.
    pub fn heal(&self) {
        self.state.healed.store(true, Ordering::Relaxed);
        self.state.go.notify_one();
    }

    /// From now on it misbehaves again.
    pub fn relapse(&self) {
        self.state.healed.store(false, Ordering::Relaxed);
    }

    /// Waits until it has done wrong.
    pub async fn happened(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.faults() == 0 {
            ensure!(Instant::now() < deadline, "nothing went wrong: {:?}", self.state.fault);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for FaultyEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut client: TcpStream, state: &State) -> Result<()> {
    let question = read(&mut client).await?;
    state.asked.fetch_add(1, Ordering::Relaxed);
    let concerned = match state.fault {
        Fault::WrongChain => question["method"] == "eth_chainId",
        Fault::DenySent | Fault::TakenBackAtSend(_) => question["method"] == "eth_sendRawTransaction",
        Fault::NarrowRanges(width) => {
            let bound = |name: &str| {
                let text = question["params"][0][name].as_str().unwrap_or_default();
                u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_default()
            };
            question["method"] == "eth_getLogs" && bound("toBlock") - bound("fromBlock") >= width
        }
        Fault::EmptyLogs | Fault::AlteredInput | Fault::TakenBack(_) => question["method"] == "eth_getLogs",
        Fault::NoTip | Fault::TipUnknown => question["method"] == "eth_maxPriorityFeePerGas",
        Fault::NoHistory => {
            question["method"] == "eth_call"
                && number(&question["params"][1]).unwrap_or(u64::MAX) < newest(state).await?
        }
        Fault::StaleHead => question["method"] == "eth_getBlockByNumber" && question["params"][0] == "latest",
        Fault::Hidden(_) => {
            let old = question["params"][1].as_str().is_some_and(|block| block.starts_with("0x"));
            let begun = state.begun.load(Ordering::Relaxed);
            begun && (question["method"] == "eth_getLogs" || question["method"] == "eth_call" && old)
        }
        Fault::Hang => state.begun.load(Ordering::Relaxed),
        Fault::DiesInMidLook => {
            let newest = question["method"] == "eth_getBlockByNumber" && question["params"][0] == "latest";
            state.faults.load(Ordering::Relaxed) > 0 || newest && state.begun.load(Ordering::Relaxed)
        }
        Fault::Behind => question["method"].as_str().is_some_and(is_of_blocks),
        Fault::Held(name) => question["method"] == name && state.begun.swap(false, Ordering::Relaxed),
        _ => true,
    };
    let number = if concerned { state.count.fetch_add(1, Ordering::Relaxed) } else { 0 };
    let due = concerned && number % state.every == state.every - 1 && !state.healed.load(Ordering::Relaxed);
    let fault = due.then_some(state.fault);
    if !matches!(
        fault,
        None | Some(Fault::TakenBack(_) | Fault::TakenBackAtSend(_) | Fault::Hidden(_) | Fault::AlteredInput)
    ) {
        state.faults.fetch_add(1, Ordering::Relaxed);
    }
    let id = question["id"].clone();
    let mut status = "200 OK";
    let body = match fault {
        Some(Fault::DropQuestion) => return Ok(()),
        Some(Fault::TooManyRequests) => {
            status = "429 Too Many Requests";
            "{\"error\":\"too many requests\"}".to_owned()
        }
        Some(Fault::ServerError) => {
            status = "500 Internal Server Error";
            "<html>oops</html>".to_owned()
        }
        Some(Fault::WrongChain) => json!({ "jsonrpc": "2.0", "id": id, "result": "0x1" }).to_string(),
        Some(Fault::NoTip) => json!({ "jsonrpc": "2.0", "id": id, "result": "0x0" }).to_string(),
        Some(Fault::TipUnknown) => {
            let error = json!({ "code": -32601, "message": "the method eth_maxPriorityFeePerGas does not exist" });
            json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
        }
        Some(Fault::EmptyLogs) => json!({ "jsonrpc": "2.0", "id": id, "result": [] }).to_string(),
        Some(Fault::StaleHead) => {
            let old = newest(state).await?.saturating_sub(5);
            let mut question = question.clone();
            question["params"][0] = json!(format!("{old:#x}"));
            ask(state, &question).await?
        }
        Some(Fault::DenySent) => {
            ask(state, &question).await?;
            let error = json!({ "code": -32603, "message": "internal error" });
            json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
        }
        Some(Fault::NoHistory) => {
            let error = json!({ "code": -32000, "message": "missing trie node" });
            json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
        }
        Some(Fault::NarrowRanges(width)) => {
            let error = json!({ "code": -32602, "message": format!("eth_getLogs is limited to a {width} range") });
            json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
        }
        Some(Fault::TakenBack(kind)) => {
            let answer = ask(state, &question).await?;
            take_back(state, &answer, kind).await?;
            answer
        }
        Some(Fault::TakenBackAtSend(kind)) => {
            let filter = json!({ "fromBlock": "0x0", "toBlock": "latest", "topics": [kind] });
            let events = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_getLogs", "params": [filter] });
            take_back(state, &ask(state, &events).await?, kind).await?;
            ask(state, &question).await?
        }
        Some(Fault::Hidden(_)) if question["method"] == "eth_call" => {
            let error = json!({ "code": -32000, "message": "missing trie node" });
            json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
        }
        Some(Fault::Hidden(kind)) => {
            let mut answer: Value = serde_json::from_str(&ask(state, &question).await?)?;
            if let Some(logs) = answer["result"].as_array_mut() {
                let all = logs.len();
                logs.retain(|log| log["topics"][0] != json!(kind));
                state.faults.fetch_add(usize::from(logs.len() < all), Ordering::Relaxed);
            }
            answer.to_string()
        }
        Some(Fault::AlteredInput) => {
            let mut answer: Value = serde_json::from_str(&ask(state, &question).await?)?;
            let logs = answer["result"].as_array_mut().context("no events")?;
            for log in logs.iter_mut().filter(|log| log["topics"][0] == json!(Requested::SIGNATURE_HASH)) {
                let data: Bytes = log["data"].as_str().context("no data")?.parse()?;
                let mut data = data.to_vec();
                // Six words of the request, two of where the input is and how long, and then the input.
                data[8 * 32] ^= 0x40;
                log["data"] = json!(Bytes::from(data));
                state.faults.fetch_add(1, Ordering::Relaxed);
            }
            answer.to_string()
        }
        // Others that ask for the newest block meanwhile are lost like the rest.
        Some(Fault::DiesInMidLook) if state.begun.swap(false, Ordering::Relaxed) => {
            state.go.notified().await;
            ask(state, &question).await?
        }
        Some(Fault::DiesInMidLook) => return Ok(()),
        Some(Fault::Behind) => ask_behind(state, question).await?,
        // Whoever asks has to give up.
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Held(_)) => {
            state.go.notified().await;
            ask(state, &question).await?
        }
        Some(Fault::Delay(time)) => {
            tokio::time::sleep(time).await;
            ask(state, &question).await?
        }
        Some(Fault::Duplicate) => {
            ask(state, &question).await?;
            ask(state, &question).await?
        }
        Some(Fault::Reorder) => {
            let _ = tokio::time::timeout(Duration::from_millis(300), state.passed.notified()).await;
            ask(state, &question).await?
        }
        _ => ask(state, &question).await?,
    };
    state.passed.notify_waiters();
    if fault == Some(Fault::DropAnswer) {
        return Ok(());
    }
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let sent = if fault == Some(Fault::Truncate) { &body[..body.len() / 2] } else { &body };
    client.write_all(head.as_bytes()).await?;
    client.write_all(sent.as_bytes()).await?;
    Ok(client.shutdown().await?)
}

/// Takes back the block of the first event of this kind in an answer, if there is one; the new branch is longer.
async fn take_back(state: &State, answer: &str, kind: B256) -> Result<()> {
    let answer: Value = serde_json::from_str(answer)?;
    let logs = answer["result"].as_array().context("no events")?;
    let Some(log) = logs.iter().find(|log| log["topics"][0] == json!(kind)) else { return Ok(()) };
    if state.healed.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let depth = newest(state).await? + 1 - number(&log["blockNumber"])?;
    for (method, blocks) in [("anvil_rollback", depth), ("anvil_mine", depth + 2)] {
        ask(state, &json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": [blocks] })).await?;
    }
    state.faults.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Questions that name a block.
fn is_of_blocks(method: &str) -> bool {
    ["eth_getBlockByNumber", "eth_getLogs", "eth_call"].contains(&method)
}

/// What somebody says that knows no block above the frozen one: of such blocks nothing, and of ranges what is below.
async fn ask_behind(state: &State, mut question: Value) -> Result<String> {
    let (id, last) = (question["id"].clone(), state.frozen.load(Ordering::Relaxed));
    let answer = |result: Value| json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
    let shown = json!(format!("{last:#x}"));
    let above = |block: &Value| number(block).is_ok_and(|block| block > last);
    let place = match question["method"].as_str() {
        Some("eth_getLogs") => {
            if above(&question["params"][0]["fromBlock"]) {
                return Ok(answer(json!([])));
            }
            &mut question["params"][0]["toBlock"]
        }
        Some("eth_getBlockByNumber") => {
            if above(&question["params"][0]) {
                return Ok(answer(Value::Null));
            }
            &mut question["params"][0]
        }
        _ => {
            if above(&question["params"][1]) {
                let error = json!({ "code": -32001, "message": "header not found" });
                return Ok(json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string());
            }
            &mut question["params"][1]
        }
    };
    if *place == "latest" && last < u64::MAX || above(place) {
        *place = shown;
    }
    ask(state, &question).await
}

/// Number of the newest block.
async fn newest(state: &State) -> Result<u64> {
    let answer = ask(state, &json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": [] })).await?;
    number(&serde_json::from_str::<Value>(&answer)?["result"])
}

fn number(value: &Value) -> Result<u64> {
    Ok(u64::from_str_radix(value.as_str().context("no number")?.trim_start_matches("0x"), 16)?)
}

async fn ask(state: &State, question: &Value) -> Result<String> {
    let answer =
        state.http.post(state.target.clone()).header("content-type", "application/json").body(question.to_string());
    Ok(answer.send().await?.text().await?)
}

/// The body of an HTTP request.
async fn read(client: &mut TcpStream) -> Result<Value> {
    let mut data = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = client.read(&mut buffer).await?;
        anyhow::ensure!(read > 0, "closed");
        data.extend_from_slice(&buffer[..read]);
        let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&data[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let length = length.context("a body without a length")?;
        if data.len() >= end + 4 + length {
            return Ok(serde_json::from_slice(&data[end + 4..end + 4 + length])?);
        }
    }
}

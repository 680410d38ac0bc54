//! Inputs from servers that lie: longer, shorter, slow, endless, compressed, other bytes, and addresses that lead to where nobody should be led.
//! The servers are in this process.

use alloy::primitives::{B256, keccak256};
use candor_relayer::fetch::{FetchError, FetchSettings, Fetcher, MAX_INPUT_BYTES, Wanted};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

/// What is asked for everywhere here.
fn input() -> Vec<u8> {
    (0..5_000u32).map(|place| (place % 251) as u8).collect()
}

struct Server {
    address: SocketAddr,
    /// Requests that arrived.
    asked: Arc<AtomicUsize>,
    /// Bytes of bodies that it got rid of.
    sent: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (asked, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (asked.clone(), sent.clone());
        let serving = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, sent) = counters.clone();
                open.spawn(answer(stream, address, asked, sent));
            }
        });
        Self { address, asked, sent, _serving: AbortOnDropHandle::new(serving) }
    }

    fn at(&self, path: &str) -> Wanted {
        let bytes = input();
        Wanted {
            hash: keccak256(&bytes),
            size: u32::try_from(bytes.len()).expect("not that long"),
            uri: format!("http://{}/{path}", self.address),
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// What each path does.
async fn answer(mut stream: TcpStream, here: SocketAddr, asked: Arc<AtomicUsize>, sent: Arc<AtomicUsize>) {
    let mut request = vec![0; 8192];
    let Ok(length) = stream.read(&mut request).await else { return };
    let before = asked.fetch_add(1, Ordering::Relaxed);
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let target = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let path = target.strip_prefix("ipfs/bafybeigdyrzt5/").unwrap_or(&target).to_owned();
    let bytes = input();
    let whole = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let unsaid = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned();
    let to = |place: String| {
        (
            format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
            Vec::new(),
        )
    };
    let (head, body) = match path.as_str() {
        "right" => (whole(bytes.len()), bytes),
        "right-unsaid" => (unsaid, bytes),
        "longer" => (whole(bytes.len() + 1), [&bytes[..], &[0]].concat()),
        "longer-unsaid" => (unsaid, [&bytes[..], &[0]].concat()),
        "shorter" => (whole(bytes.len() - 1), bytes[1..].to_vec()),
        "cut" => (whole(bytes.len()), bytes[..100].to_vec()),
        "empty" => (whole(0), Vec::new()),
        "wrong" => (whole(bytes.len()), vec![7; bytes.len()]),
        "flaky" if before == 0 => ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), Vec::new()),
        "flaky" => (whole(bytes.len()), bytes),
        "busy" => ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(), Vec::new()),
        // Not what it says, but whoever unpacked it would have found out too late.
        "bomb" => {
            (format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bytes.len()), bytes)
        }
        "nonsense" => ("SSH-2.0-OpenSSH_9.6\r\n".to_owned(), Vec::new()),
        "loop" => to(format!("http://{here}/loop")),
        "file" => to("file:///etc/passwd".to_owned()),
        "metadata" => to("http://169.254.169.254/latest/meta-data/".to_owned()),
        "octal" => to(format!("http://0177.0.0.2:{}/right", here.port())),
        "mapped" => to(format!("http://[::ffff:127.0.0.1]:{}/right", here.port())),
        "name" => to(format!("http://localhost:{}/right", here.port())),
        "neighbour" => to(format!("http://127.0.0.2:{}/right", here.port())),
        "password" => to(format!("http://user:secret@{here}/right")),
        "silent" => return std::future::pending().await,
        "endless" => {
            let _ = stream.write_all(unsaid.as_bytes()).await;
            while stream.write_all(&[0; 4096]).await.is_ok() {
                sent.fetch_add(4096, Ordering::Relaxed);
            }
            return;
        }
        "drop-by-drop" => {
            let _ = stream.write_all(whole(bytes.len()).as_bytes()).await;
            for byte in bytes {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
            return;
        }
        "endless-headers" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            while stream.write_all(b"x-more: and more\r\n").await.is_ok() {}
            return;
        }
        hops if hops.starts_with("hops-") => match hops[5..].parse::<u32>() {
            Ok(0) | Err(_) => (whole(bytes.len()), bytes),
            Ok(left) => to(format!("/hops-{}", left - 1)),
        },
        _ => ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), Vec::new()),
    };
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    sent.fetch_add(body.len(), Ordering::Relaxed);
}

/// This machine may be asked here: that is where the servers are.
fn local() -> Fetcher {
    fetcher(FetchSettings { private_addresses: true, ..FetchSettings::default() })
}

fn fetcher(settings: FetchSettings) -> Fetcher {
    Fetcher::new(&FetchSettings { timeout: Duration::from_millis(700), ..settings }).expect("a fetcher")
}

#[tokio::test]
async fn an_input_is_what_its_hash_says_wherever_it_comes_from() {
    let server = Server::start().await;
    for path in ["right", "right-unsaid", "hops-1", "hops-5"] {
        assert_eq!(local().fetch(&server.at(path)).await.unwrap(), input(), "{path}");
    }
    let small = b"a few bytes";
    for uri in ["data:,a%20few%20bytes", "data:;base64,YSBmZXcgYnl0ZXM="] {
        let wanted = Wanted { hash: keccak256(small), size: 11, uri: uri.to_owned() };
        assert_eq!(local().fetch(&wanted).await.unwrap(), small[..], "{uri}");
        let error = local().fetch(&Wanted { hash: B256::ZERO, ..wanted.clone() }).await.unwrap_err();
        assert!(matches!(error, FetchError::Hash { .. }), "{error}");
        for size in [10, 12] {
            let error = local().fetch(&Wanted { size, ..wanted.clone() }).await.unwrap_err();
            assert_eq!(error, FetchError::Size { size, longer: size == 10 });
        }
    }
}

#[tokio::test]
async fn servers_that_lie_are_found_out() {
    let server = Server::start().await;
    let size = server.at("").size;
    let (longer, shorter) = (FetchError::Size { size, longer: true }, FetchError::Size { size, longer: false });
    for (path, expected) in [
        ("longer", longer.clone()),
        ("longer-unsaid", longer.clone()),
        ("endless", longer),
        ("shorter", shorter.clone()),
        ("empty", shorter),
        ("bomb", FetchError::Encoded("gzip".into())),
    ] {
        assert_eq!(local().fetch(&server.at(path)).await.unwrap_err(), expected, "{path}");
    }
    let wrong = local().fetch(&server.at("wrong")).await.unwrap_err();
    assert!(matches!(wrong, FetchError::Hash { .. }), "{wrong}");
    for path in ["cut", "nonsense"] {
        let error = local().fetch(&server.at(path)).await.unwrap_err();
        assert!(matches!(error, FetchError::Network(_)), "{path}: {error}");
    }
    for (path, status) in [("missing", 404), ("busy", 503)] {
        let error = local().fetch(&server.at(path)).await.unwrap_err();
        assert!(matches!(error, FetchError::Status(found) if found.as_u16() == status), "{path}: {error}");
    }
}

/// Whatever a server has, no more is read than the request says: what went out beyond lies in the buffers of two sockets.
#[tokio::test]
async fn not_a_byte_more_is_read_than_was_asked_for() {
    let server = Server::start().await;
    assert!(local().fetch(&server.at("endless")).await.is_err());
    // It goes on until the other side is seen to be gone.
    let mut before = usize::MAX;
    while before != server.sent.load(Ordering::Relaxed) {
        before = server.sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before < 16 << 20, "{before} bytes went out");
    let huge = Wanted { size: MAX_INPUT_BYTES + 1, ..server.at("right") };
    let asked = server.asked();
    assert_eq!(local().fetch(&huge).await.unwrap_err(), FetchError::TooBig(MAX_INPUT_BYTES + 1));
    assert_eq!(server.asked(), asked, "nobody was asked");
}

/// One time for all of a try: for the name, the connection, redirects, headers, the body.
#[tokio::test]
async fn servers_that_are_slow_are_left() {
    let server = Server::start().await;
    for path in ["silent", "drop-by-drop"] {
        let error = local().fetch(&server.at(path)).await.unwrap_err();
        assert_eq!(error, FetchError::TimedOut(Duration::from_millis(700)), "{path}");
    }
    let error = local().fetch(&server.at("endless-headers")).await.unwrap_err();
    assert!(matches!(error, FetchError::TimedOut(_) | FetchError::Network(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_is_set_right_is_believed() {
    let server = Server::start().await;
    let error = local().fetch(&server.at("flaky")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(local().fetch(&server.at("flaky")).await.unwrap(), input());
}

#[tokio::test]
async fn redirects_are_counted_and_looked_at() {
    let server = Server::start().await;
    for (path, named) in [
        ("hops-6", "more than 5 redirects"),
        ("loop", "more than 5 redirects"),
        ("file", "302 Found"), // nobody follows it
        ("password", "no names and passwords"),
    ] {
        let asked = server.asked();
        let error = local().fetch(&server.at(path)).await.unwrap_err().to_string();
        assert!(error.contains(named), "{path}: {error}");
        assert!(!error.contains("secret") && !error.contains("passwd"), "{error}");
        assert!(server.asked() - asked <= 6, "{path}: asked {} times", server.asked() - asked);
    }
}

/// The first address is one that the operator trusts (an IPFS gateway on this machine), so it is asked; where it sends to is nobody's to trust.
#[tokio::test]
async fn nobody_is_led_into_the_machines_own_network() {
    let server = Server::start().await;
    let gateway = format!("http://{}", server.address).parse().unwrap();
    let strict = FetchSettings { ipfs_gateway: Some(gateway), plain_http: true, ..FetchSettings::default() };
    let strict = fetcher(strict);
    let ipfs = |path: &str| Wanted { uri: format!("ipfs://bafybeigdyrzt5/{path}"), ..server.at("") };
    assert_eq!(strict.fetch(&ipfs("right")).await.unwrap(), input(), "the gateway itself may be anywhere");
    for (path, host) in [
        ("metadata", "169.254.169.254"),
        ("octal", "127.0.0.2"),
        ("mapped", "[::ffff:7f00:1]"),
        ("neighbour", "127.0.0.2"),
        ("name", "localhost"), // known only when it is resolved
    ] {
        let asked = server.asked();
        let error = strict.fetch(&ipfs(path)).await.unwrap_err().to_string();
        assert!(error.contains(&format!("{host} is not an address of the public internet")), "{path}: {error}");
        assert_eq!(server.asked() - asked, 1, "{path}: the gateway, and nobody else");
    }
    // Without a detour.
    let asked = server.asked();
    for host in ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"] {
        let uri = format!("http://{host}:{}/right", server.address.port());
        // The gateway's own host is trusted with ipfs: only.
        let error = strict.fetch(&Wanted { uri, ..server.at("") }).await.unwrap_err().to_string();
        assert!(error.contains("is not an address of the public internet"), "{host}: {error}");
    }
    assert_eq!(server.asked(), asked, "nobody was asked");
}

#[tokio::test]
async fn what_is_not_configured_is_not_done() {
    let server = Server::start().await;
    let default = fetcher(FetchSettings::default());
    let asked = server.asked();
    for (uri, named) in [
        (server.at("right").uri, "not an address of the public internet"),
        ("http://example.org/input".to_owned(), "only https"),
        ("https://user:secret@example.org/input".to_owned(), "no names and passwords"),
        ("ipfs://bafybeigdyrzt5/right".to_owned(), "inputs.ipfs_gateway"),
        ("ftp://example.org/input".to_owned(), "not ftp:"),
    ] {
        let error = default.fetch(&Wanted { uri, ..server.at("") }).await.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    assert_eq!(server.asked(), asked, "nobody was asked");
}

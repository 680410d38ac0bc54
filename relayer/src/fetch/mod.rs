//! Inputs that are at a URI: `https:`, `ipfs:` through a gateway, `data:`. What is fetched counts only if it has the size and the hash that the request
//! names, so wherever it comes from, it is the input or nothing.
//!
//! Whoever makes a request chooses the address, and every relayer that answers or watches goes there. So nothing of what is there is believed, and
//! nothing here can be held up by it: the addresses are of the public internet ([`crate::http`]), not a byte more is read than the request says, and
//! all of one try, redirects and slow servers included, has one time.

use crate::http::{Policy, Refusal, chain};
use alloy::primitives::{B256, Bytes, keccak256};
use base64::Engine as _;
use reqwest::{
    StatusCode, Url,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING},
};
use std::time::Duration;

/// The most bytes that an input has: what the registry allows a model. Source: `ModelRegistry.MAX_BYTES`.
pub const MAX_INPUT_BYTES: u32 = 64 * 1024;

/// How inputs are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchSettings {
    /// Whether http will do where a request says so.
    pub plain_http: bool,
    /// Whether addresses will do that are not of the public internet. For local chains and tests: on a public chain it lets strangers choose what this
    /// machine asks in its own network.
    pub private_addresses: bool,
    /// A gateway for `ipfs:`, which the operator trusts not to hang; none: such inputs can't be had.
    pub ipfs_gateway: Option<Url>,
    /// Time for one try, from the name to the last byte.
    pub timeout: Duration,
    /// Inputs fetched at once, at most.
    pub at_once: usize,
    /// Bytes of fetched inputs that are kept, at most.
    pub kept_bytes: u64,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            plain_http: false,
            private_addresses: false,
            ipfs_gateway: None,
            timeout: Duration::from_secs(20),
            at_once: 16,
            kept_bytes: 256 << 20,
        }
    }
}

/// An input that is needed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Its keccak256.
    pub hash: B256,
    /// Its bytes, as the request says.
    pub size: u32,
    /// Where it is.
    pub uri: String,
}

/// Why an input could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Not a URI that is understood.
    #[error("{0}")]
    Uri(String),
    /// An address that is not asked.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// In IPFS, and no gateway is configured.
    #[error("no gateway for ipfs: is configured (inputs.ipfs_gateway)")]
    NoGateway,
    /// More than an input can be.
    #[error("an input of {0} bytes, and none has more than {MAX_INPUT_BYTES}")]
    TooBig(u32),
    /// The server says no.
    #[error("the server answers {0}")]
    Status(StatusCode),
    /// The server can't be reached, breaks off, or leads astray.
    #[error("{0}")]
    Network(String),
    /// It took too long.
    #[error("not there after {0:?}")]
    TimedOut(Duration),
    /// Something compressed, which was not asked for.
    #[error("the server sends it compressed ({0})")]
    Encoded(String),
    /// Another number of bytes.
    #[error("{} than the {size} bytes that the request says", if *.longer { "more" } else { "fewer" })]
    Size {
        /// What the request says.
        size: u32,
        /// Whether there is more.
        longer: bool,
    },
    /// Other bytes.
    #[error("the bytes there hash to {actual}, the request says {expected}")]
    Hash {
        /// What the request says.
        expected: B256,
        /// What is there.
        actual: B256,
    },
}

impl FetchError {
    /// Whether it can be different the next time. What a request says of its input never is, nor what this relayer is told to do.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Uri(_) | Self::Refused(_) | Self::NoGateway | Self::TooBig(_) => false,
            Self::Status(_) | Self::Network(_) | Self::TimedOut(_) | Self::Encoded(_) => true,
            Self::Size { .. } | Self::Hash { .. } => true, // a server that is set right
        }
    }
}

/// Fetches inputs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    policy: Policy,
    client: reqwest::Client,
    gateway: Option<(Url, Policy, reqwest::Client)>,
    timeout: Duration,
}

impl Fetcher {
    /// One that keeps to the settings.
    ///
    /// # Errors
    /// If there are no certificates to know servers by, or no such thing.
    pub fn new(settings: &FetchSettings) -> Result<Self, FetchError> {
        let policy = Policy { plain: settings.plain_http, private: settings.private_addresses, ..Policy::default() };
        let gateway = match &settings.ipfs_gateway {
            None => None,
            Some(gateway) => {
                let trusted = Policy { trusted: gateway.host_str().map(str::to_owned), ..policy.clone() };
                let client = client(&trusted, settings.timeout)?;
                Some((gateway.clone(), trusted, client))
            }
        };
        Ok(Self { client: client(&policy, settings.timeout)?, policy, gateway, timeout: settings.timeout })
    }

    /// Whether there is any sense in trying, by what the request says alone.
    ///
    /// # Errors
    /// If there is none.
    pub fn check(&self, wanted: &Wanted) -> Result<(), FetchError> {
        if wanted.size > MAX_INPUT_BYTES {
            return Err(FetchError::TooBig(wanted.size));
        }
        self.way(&wanted.uri).map(|_| ())
    }

    /// The input, checked.
    ///
    /// # Errors
    /// If it is not to be had there.
    pub async fn fetch(&self, wanted: &Wanted) -> Result<Bytes, FetchError> {
        self.check(wanted)?;
        let bytes = self.download(&wanted.uri, wanted.size, true).await?;
        // INVARIANT: what is handed on is the input.
        let actual = keccak256(&bytes);
        if actual != wanted.hash {
            return Err(FetchError::Hash { expected: wanted.hash, actual });
        }
        Ok(bytes)
    }

    /// What is at a URI, if it has at most `size` bytes, or exactly as many.
    ///
    /// # Errors
    /// If it is not to be had there.
    pub async fn download(&self, uri: &str, size: u32, exactly: bool) -> Result<Bytes, FetchError> {
        let getting = self.get(uri, size as usize);
        let bytes =
            tokio::time::timeout(self.timeout, getting).await.map_err(|_| FetchError::TimedOut(self.timeout))??;
        if exactly && bytes.len() != size as usize {
            return Err(FetchError::Size { size, longer: false });
        }
        Ok(bytes.into())
    }

    /// How a URI is followed.
    fn way(&self, uri: &str) -> Result<Way<'_>, FetchError> {
        let (policy, client, url) = match Place::parse(uri)? {
            Place::Data(bytes) => return Ok(Way::Here(bytes)),
            Place::Web(url) => (&self.policy, &self.client, url),
            Place::Ipfs(path) => {
                let (gateway, policy, client) = self.gateway.as_ref().ok_or(FetchError::NoGateway)?;
                (policy, client, behind(gateway, &path)?)
            }
        };
        policy.check(&url)?;
        Ok(Way::There(client, url))
    }

    async fn get(&self, uri: &str, most: usize) -> Result<Vec<u8>, FetchError> {
        let size = u32::try_from(most).unwrap_or(u32::MAX);
        let too_long = FetchError::Size { size, longer: true };
        let (client, url) = match self.way(uri)? {
            Way::Here(bytes) if bytes.len() > most => return Err(too_long),
            Way::Here(bytes) => return Ok(bytes),
            Way::There(client, url) => (client, url),
        };
        let network = |error: reqwest::Error| FetchError::Network(chain(&error.without_url()));
        let mut response = client.get(url).header(ACCEPT_ENCODING, "identity").send().await.map_err(network)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        // Whatever unpacks to it: the bytes of the input are what is sent.
        if let Some(encoding) = response.headers().get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(FetchError::Encoded(encoding.to_str().unwrap_or("unknown").chars().take(20).collect()));
        }
        if response.content_length().is_some_and(|length| length > most as u64) {
            return Err(too_long);
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            // INVARIANT: memory is bounded by what the request says, whatever the server sends.
            if bytes.len() + chunk.len() > most {
                return Err(too_long);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

fn client(policy: &Policy, timeout: Duration) -> Result<reqwest::Client, FetchError> {
    let builder = policy.client().connect_timeout(timeout).no_gzip().no_brotli().no_deflate().no_zstd();
    // Strangers' servers: a connection that is kept is one that can be held against us.
    builder.pool_max_idle_per_host(0).build().map_err(|error| FetchError::Network(chain(&error)))
}

/// How a URI is followed.
enum Way<'a> {
    Here(Vec<u8>),
    There(&'a reqwest::Client, Url),
}

/// Where an input is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Web(Url),
    /// What follows `/ipfs/`.
    Ipfs(String),
    Data(Vec<u8>),
}

impl Place {
    fn parse(uri: &str) -> Result<Self, FetchError> {
        let wrong = |problem: &str| FetchError::Uri(problem.to_owned());
        let Some((scheme, rest)) = uri.split_once(':') else { return Err(wrong("not a URI: it has no scheme")) };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {
                let url = Url::parse(uri).map_err(|error| FetchError::Uri(format!("not an address: {error}")))?;
                Ok(Self::Web(url))
            }
            "ipfs" => {
                let path =
                    rest.strip_prefix("//").ok_or_else(|| wrong("an address in IPFS is written ipfs://CID/path"))?;
                let (id, _) = path.split_once('/').unwrap_or((path, ""));
                let is_id = (10..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
                if !is_id || path.contains(['?', '#', '\\']) {
                    return Err(wrong("an address in IPFS is written ipfs://CID/path"));
                }
                Ok(Self::Ipfs(path.to_owned()))
            }
            "data" => {
                let (kind, data) =
                    rest.split_once(',').ok_or_else(|| wrong("data: without a comma before the data"))?;
                let bytes: Vec<u8> = percent_encoding::percent_decode_str(data).collect();
                if !kind.to_ascii_lowercase().ends_with(";base64") {
                    return Ok(Self::Data(bytes));
                }
                let decoded = base64::engine::general_purpose::STANDARD.decode(bytes);
                decoded.map(Self::Data).map_err(|error| FetchError::Uri(format!("data: that is not base64: {error}")))
            }
            scheme => Err(FetchError::Uri(format!("https:, ipfs: and data: are understood, not {}:", cut(scheme, 20)))),
        }
    }
}

/// The address of something in IPFS behind a gateway.
fn behind(gateway: &Url, path: &str) -> Result<Url, FetchError> {
    let mut url = gateway.clone();
    let prefix = format!("{}/ipfs/", gateway.path().trim_end_matches('/'));
    url.set_path(&format!("{prefix}{path}"));
    url.set_query(None);
    // The parser takes `..` out, which must not lead out of where such things are.
    let id = path.split('/').next().unwrap_or_default();
    if !url.path().starts_with(&format!("{prefix}{id}")) {
        return Err(FetchError::Uri("a path that leads out of its folder".into()));
    }
    Ok(url)
}

/// A URI as it is shown: on the chain everybody sees all of it, but what is behind the host may be a key that somebody was careless with.
pub fn shown(uri: &str) -> String {
    match Place::parse(uri) {
        Ok(Place::Web(url)) => {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            let path = if matches!(url.path(), "" | "/") && url.query().is_none() { "" } else { "/..." };
            format!("{}://{}{port}{path}", url.scheme(), url.host_str().unwrap_or_default())
        }
        Ok(Place::Ipfs(path)) => format!("ipfs://{}", path.split('/').next().unwrap_or_default()),
        Ok(Place::Data(bytes)) => format!("data: of {} bytes", bytes.len()),
        Err(_) => format!("{:?}", cut(uri.split(':').next().unwrap_or_default(), 20)),
    }
}

/// At most so many characters.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_as_they_are_written() {
        let data = |bytes: &[u8]| Place::Data(bytes.to_vec());
        for (text, place) in [
            ("https://host/a?b", Place::Web("https://host/a?b".parse().unwrap())),
            ("HTTPS://HOST/a", Place::Web("https://host/a".parse().unwrap())),
            (
                "ipfs://QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
                Place::Ipfs("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG".into()),
            ),
            ("ipfs://bafybeigdyrzt5/in%20put", Place::Ipfs("bafybeigdyrzt5/in%20put".into())),
            ("data:,hello%20there", data(b"hello there")),
            ("data:text/plain,a,b", data(b"a,b")),
            ("data:;base64,AAEC", data(&[0, 1, 2])),
            ("data:application/octet-stream;BASE64,%2F%2F8%3D", data(&[0xff, 0xff])),
            ("data:,", data(b"")),
        ] {
            assert_eq!(Place::parse(text), Ok(place), "{text}");
        }
        for (text, named) in [
            ("", "no scheme"),
            ("input", "no scheme"),
            ("https://", "not an address"),
            ("https://[::1", "not an address"),
            ("file:///etc/passwd", "not file:"),
            ("ftp://host/x", "not ftp:"),
            ("gopher://host:70/x", "not gopher:"),
            ("ipfs:bafybeigdyrzt5", "ipfs://CID"),
            ("ipfs://", "ipfs://CID"),
            ("ipfs://../../api/v0/shutdown", "ipfs://CID"),
            ("ipfs://bafybeigdyrzt5?arg=x", "ipfs://CID"),
            ("data:nothing", "comma"),
            ("data:;base64,???", "base64"),
        ] {
            let error = Place::parse(text).expect_err(text);
            assert!(error.to_string().contains(named), "{text}: {error}");
            assert!(!error.is_retryable(), "{text}");
        }
    }

    #[test]
    fn what_is_in_ipfs_stays_there() {
        let gateway: Url = "http://127.0.0.1:8080".parse().unwrap();
        let address = |path: &str| behind(&gateway, path).map(String::from);
        assert_eq!(address("bafybeigdyrzt5/a/b").unwrap(), "http://127.0.0.1:8080/ipfs/bafybeigdyrzt5/a/b");
        assert_eq!(address("bafybeigdyrzt5/a/../b").unwrap(), "http://127.0.0.1:8080/ipfs/bafybeigdyrzt5/b");
        for path in ["bafybeigdyrzt5/../../api/v0/shutdown", "bafybeigdyrzt5/%2e%2e/%2e%2e/api", "bafybeigdyrzt5/.."] {
            assert!(address(path).is_err(), "{path}");
        }
        let deeper: Url = "https://gateway.example/sub/?key=1".parse().unwrap();
        assert_eq!(
            behind(&deeper, "bafybeigdyrzt5").unwrap().as_str(),
            "https://gateway.example/sub/ipfs/bafybeigdyrzt5"
        );
    }

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        for (uri, text) in [
            ("https://user:hunter2@host.example:8443/hunter2?key=hunter2#hunter2", "https://host.example:8443/..."),
            ("https://host.example", "https://host.example"),
            ("https://host.example/?key=hunter2", "https://host.example/..."),
            ("ipfs://bafybeigdyrzt5/hunter2", "ipfs://bafybeigdyrzt5"),
            ("data:,hunter2", "data: of 7 bytes"),
            ("s3://hunter2", "\"s3\""),
        ] {
            assert_eq!(shown(uri), text);
        }
    }
}

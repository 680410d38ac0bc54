//! How this program asks servers that it does not know: which addresses it goes to, how many redirects it follows, what it says of itself. Models
//! ([`crate::engine::import::source`]) and inputs ([`crate::fetch`]) come by the same rules.
//!
//! - Only https; http where the policy says so, and to this machine if that may be asked at all.
//! - No names and passwords in addresses: they end up in logs.
//! - At most [`REDIRECTS`] redirects, each checked like the first address, none from https to http.
//! - Where private addresses are out of bounds, what a name resolves to is checked, and the connection goes to the addresses that were checked: a
//!   name that means something else a moment later changes nothing.

pub mod address;

use futures_util::future::BoxFuture;
use reqwest::{
    ClientBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Redirects that are followed, at most.
pub const REDIRECTS: usize = 5;

/// Why an address is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither http nor https.
    #[error("only https is understood, not {0}:")]
    Scheme(String),
    /// What comes by http may have been changed on the way.
    #[error("only https: what comes by http may have been changed on the way")]
    Plain,
    /// A name or a password in it.
    #[error("no names and passwords in addresses, please: they end up in logs")]
    Credentials,
    /// No host in it.
    #[error("no host is named")]
    NoHost,
    /// Not of the public internet.
    #[error("{0} is not an address of the public internet")]
    Private(String),
}

/// Which addresses are asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether http will do.
    pub plain: bool,
    /// Whether addresses will do that are not of the public internet.
    pub private: bool,
    /// A host that the operator itself has named: the two rules above are not for it.
    pub trusted: Option<String>,
}

impl Policy {
    /// For addresses that whoever runs this program has typed: wherever they lead.
    pub fn of_the_operator() -> Self {
        Self { private: true, ..Self::default() }
    }

    /// Whether an address may be asked, as far as it says itself. What its host resolves to is looked at when it is asked.
    pub fn check(&self, url: &Url) -> Result<(), Refusal> {
        let host = url.host_str().unwrap_or_default();
        let trusted = self.trusted.as_deref() == Some(host);
        match url.scheme() {
            "https" => {}
            "http" if self.plain || trusted || (self.private && is_local(host)) => {}
            "http" if is_local(host) => return Err(Refusal::Private(host.to_owned())),
            "http" => return Err(Refusal::Plain),
            other => return Err(Refusal::Scheme(other.to_owned())),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        if host.is_empty() {
            return Err(Refusal::NoHost);
        }
        // However an IPv4 address was written, octal or as one number: what the parser has made of it is an address.
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if !trusted && !self.admits(address) => Err(Refusal::Private(host.to_owned())),
            _ => Ok(()),
        }
    }

    fn admits(&self, address: IpAddr) -> bool {
        self.private || address::is_public(address)
    }

    /// A client that keeps to it. Whoever builds it adds times; the first address is the caller's to check.
    pub fn client(&self) -> ClientBuilder {
        self.client_over(Arc::new(|name| {
            Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) })
        }))
    }

    fn client_over(&self, lookup: Lookup) -> ClientBuilder {
        let policy = self.clone();
        let redirects = redirect::Policy::custom(move |attempt| {
            let secure = attempt.previous().first().is_some_and(|first| first.scheme() == "https");
            if attempt.previous().len() > REDIRECTS {
                attempt.error(format!("more than {REDIRECTS} redirects"))
            } else if secure && attempt.url().scheme() != "https" {
                attempt.error("a redirect from https to http")
            } else if let Err(refusal) = policy.check(attempt.url()) {
                attempt.error(refusal)
            } else {
                attempt.follow()
            }
        });
        let builder = reqwest::Client::builder()
            .user_agent(concat!("candor/", env!("CARGO_PKG_VERSION")))
            .referer(false) // the address that leads on may be a secret
            .redirect(redirects);
        if self.private {
            return builder;
        }
        // A proxy would look names up by itself.
        builder.no_proxy().dns_resolver(Arc::new(Checked { policy: self.clone(), lookup }))
    }
}

/// A host that can only be this machine.
fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

/// What turns a name into addresses.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Names resolve to addresses that may be asked. What is connected to is what was checked: nobody looks a second time.
struct Checked {
    policy: Policy,
    lookup: Lookup,
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookup) = (self.policy.clone(), self.lookup.clone());
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let mut found = lookup(host.clone()).await?;
            // INVARIANT: no connection is made to an address that is out of bounds.
            if policy.trusted.as_deref() != Some(host.as_str()) {
                found.retain(|address| policy.admits(address.ip()));
            }
            if found.is_empty() {
                return Err(Refusal::Private(host).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// An error with what caused it, for people; without addresses, which may carry signatures.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// An address without what may be a secret in it.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.query().is_some() {
        url.set_query(Some("..."));
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn url(text: &str) -> Url {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_that_are_asked_and_those_that_are_not() {
        let strict = Policy::default();
        for text in ["https://example.org/input", "https://1.1.1.1/", "https://[2606:4700::1111]:8443/x"] {
            assert_eq!(strict.check(&url(text)), Ok(()), "{text}");
        }
        let private = |host: &str| Refusal::Private(host.to_owned());
        for (text, refusal) in [
            ("http://example.org/", Refusal::Plain),
            ("ftp://example.org/", Refusal::Scheme("ftp".into())),
            ("file:///etc/passwd", Refusal::Scheme("file".into())),
            ("https://user@example.org/", Refusal::Credentials),
            ("https://user:secret@example.org/", Refusal::Credentials),
            ("https://:secret@example.org/", Refusal::Credentials),
            ("http://localhost/", private("localhost")),
            ("https://127.0.0.1/", private("127.0.0.1")),
            ("https://127.0.0.1./", private("127.0.0.1")),
            ("https://0x7f.1/", private("127.0.0.1")),
            ("https://0177.0.0.1/", private("127.0.0.1")),
            ("https://2130706433/", private("127.0.0.1")),
            ("https://0/", private("0.0.0.0")),
            ("https://0xa9fea9fe/", private("169.254.169.254")),
            ("https://169.254.169.254/latest/meta-data", private("169.254.169.254")),
            ("https://[::1]/", private("[::1]")),
            ("https://[::ffff:127.0.0.1]/", private("[::ffff:7f00:1]")),
            ("https://[::ffff:a9fe:a9fe]/", private("[::ffff:a9fe:a9fe]")),
            ("https://[fd00:ec2::254]/", private("[fd00:ec2::254]")),
        ] {
            assert_eq!(strict.check(&url(text)), Err(refusal), "{text}");
        }
    }

    #[test]
    fn exceptions_are_no_wider_than_they_say() {
        let local = Policy::of_the_operator();
        assert_eq!(local.check(&url("http://127.0.0.1:80/x")), Ok(()));
        assert_eq!(local.check(&url("https://10.0.0.1/x")), Ok(()));
        assert_eq!(local.check(&url("http://10.0.0.1/x")), Err(Refusal::Plain));
        assert_eq!(local.check(&url("https://user@10.0.0.1/x")), Err(Refusal::Credentials));
        let plain = Policy { plain: true, ..Policy::default() };
        assert_eq!(plain.check(&url("http://example.org/")), Ok(()));
        assert!(plain.check(&url("http://127.0.0.1/")).is_err());
        let gateway = Policy { trusted: Some("127.0.0.1".into()), ..Policy::default() };
        assert_eq!(gateway.check(&url("http://127.0.0.1:8080/ipfs/x")), Ok(()));
        assert!(gateway.check(&url("http://127.0.0.2:8080/ipfs/x")).is_err());
        assert_eq!(gateway.check(&url("http://example.org/")), Err(Refusal::Plain));
    }

    /// A server on this machine that counts its connections, and a client for which every name means what `answers` says, one after the other.
    async fn ask(policy: Policy, answers: &'static [&'static [&'static str]]) -> (Result<u16, String>, usize, usize) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, lookups) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = connections.clone();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let _ = stream.read(&mut [0; 1024]).await; // the request; an answer before it confuses clients
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            }
        });
        let asked = lookups.clone();
        let lookup: Lookup = Arc::new(move |_| {
            let turn = asked.fetch_add(1, Ordering::Relaxed);
            let addresses = answers[turn.min(answers.len() - 1)];
            Box::pin(async move { Ok(addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect()) })
        });
        let client = policy.client_over(lookup).connect_timeout(std::time::Duration::from_millis(300)).build().unwrap();
        let answer = client.get(format!("http://input.example:{port}/")).send().await;
        server.abort();
        let answer = answer.map(|response| response.status().as_u16()).map_err(|error| chain(&error.without_url()));
        (answer, connections.load(Ordering::Relaxed), lookups.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn names_are_checked_by_what_they_resolve_to() {
        let strict = Policy { plain: true, ..Policy::default() };
        for name in [&["127.0.0.1"][..], &["::ffff:127.0.0.1"], &["10.0.0.1", "127.0.0.1", "169.254.169.254"]] {
            let (answer, connections, _) = ask(strict.clone(), Box::leak(Box::new([name]))).await;
            assert!(answer.unwrap_err().contains("input.example is not an address of the public internet"));
            assert_eq!(connections, 0, "nobody was asked");
        }
        let trusted = Policy { trusted: Some("input.example".into()), ..strict };
        assert_eq!(
            ask(trusted, &[&["127.0.0.1"]]).await,
            (Ok(200), 1, 1),
            "the rules are not for what the operator named"
        );
    }

    /// DNS rebinding: a name that means something harmless when it is checked and this machine when it is connected to. There is one look, and of what it
    /// finds only the public part is connected to.
    #[tokio::test]
    async fn a_name_that_changes_its_meaning_leads_nowhere() {
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = looks.clone();
        let lookup: Lookup = Arc::new(move |_| {
            let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
            let found = if first { ["127.0.0.1:0", "1.1.1.1:0", "[fe80::1]:0"] } else { ["127.0.0.1:0"; 3] };
            Box::pin(async move { Ok(found.iter().map(|address| address.parse().unwrap()).collect()) })
        });
        let checked = Checked { policy: Policy::default(), lookup };
        let connected: Vec<SocketAddr> = checked.resolve("input.example".parse().unwrap()).await.unwrap().collect();
        assert_eq!(connected, ["1.1.1.1:0".parse().unwrap()]);
        assert!(checked.resolve("input.example".parse().unwrap()).await.is_err(), "the second answer is refused");
        assert_eq!(looks.load(Ordering::Relaxed), 2, "one look for each connection");
    }
}

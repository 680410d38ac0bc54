//! A web server with inputs, which does what it is told: has them, has others, has none, hangs.

use anyhow::Result;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// These bytes.
    Has(Vec<u8>),
    /// Nothing.
    Lacks,
    /// Nothing ever comes.
    Hangs,
}

/// What is where, and how often it was asked for.
type Paths = Arc<Mutex<HashMap<String, (Manner, usize)>>>;

/// The server.
#[derive(Debug)]
pub struct InputServer {
    address: std::net::SocketAddr,
    paths: Paths,
    _serving: AbortOnDropHandle<()>,
}

impl InputServer {
    /// On a free port of this machine, with nothing in it.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let paths = Paths::default();
        let known = paths.clone();
        let serving = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(answer(stream, known.clone()));
            }
        });
        Ok(Self { address, paths, _serving: AbortOnDropHandle::new(serving) })
    }

    /// From now on this is at `path`; its address.
    pub fn put(&self, path: &str, manner: Manner) -> String {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = paths.get(path).map_or(0, |(_, asked)| *asked);
        paths.insert(path.to_owned(), (manner, asked));
        format!("http://{}{path}", self.address)
    }

    /// How often something was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).get(path).map_or(0, |(_, asked)| *asked)
    }
}

async fn answer(mut stream: TcpStream, paths: Paths) {
    let mut request = vec![0; 4096];
    let Ok(length) = stream.read(&mut request).await else { return };
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let manner = {
        let mut paths = paths.lock().unwrap_or_else(PoisonError::into_inner);
        let (manner, asked) = paths.entry(path).or_insert((Manner::Lacks, 0));
        *asked += 1;
        manner.clone()
    };
    let (status, body) = match manner {
        Manner::Has(bytes) => ("200 OK", bytes),
        Manner::Lacks => ("404 Not Found", Vec::new()),
        Manner::Hangs => return std::future::pending().await,
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
}

//! A TCP proxy in front of the RPC endpoint that can be cut and mended.

use anyhow::{Context, Result};
use reqwest::Url;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub url: Url,
    cut: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and passes everything on to `target`.
    pub async fn start(target: &Url) -> Result<Self> {
        let host = target.host_str().context("the target has no host")?;
        let port = target.port().context("the target has no port")?;
        let target: SocketAddr = format!("{host}:{port}").parse()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?).parse()?;
        let cut = Arc::new(watch::channel(false).0);
        let state = cut.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() {
                    continue; // dropped: connection reset
                }
                tokio::spawn(pass(client, target, state.clone()));
            }
        });
        Ok(Self { url, cut, task })
    }

    /// Cuts every connection, and refuses new ones until `mend`.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr, mut state: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = state.wait_for(|cut| *cut) => {}
    }
}

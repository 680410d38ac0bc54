//! Throughput of one Postgres queue with one, two, four and eight workers.
//!
//!     cargo run --release -p candor-tests --example workers -- [REQUESTS] [MILLIS]
//!
//! The model takes so many milliseconds for each request of a batch, as one on a GPU machine of its own would, and this machine's processors nothing: what is
//! measured is the queue, the leases and the one submitter, not how many cores there are here.

use anyhow::{Context, Result};
use candor_relayer::{pipeline, postgres::Postgres, store::StoreLocation};
use candor_sdk::bindings::{IInferenceOracle, RequestStatus};
use candor_tests::{
    Slow, World,
    world::{applicant, ether},
};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let requests: usize = arguments.next().map_or(Ok(400), |text| text.parse())?;
    let each = Duration::from_millis(arguments.next().map_or(Ok(50), |text| text.parse())?);
    let server = Postgres::start()?;
    println!("{requests} requests, {each:?} each");
    let mut alone = None;
    for workers in [1usize, 2, 4, 8] {
        let mut world = World::start().await?;
        let operator = world.rich_operator(ether(1 + requests as u64 / 10)).await?;
        let mut asked = Vec::new();
        for _ in 0..requests {
            asked.push(world.ask("credit", &applicant()).await?);
        }
        let folder = tempfile::tempdir()?;
        let url = server.database()?;
        let mut running = Vec::new();
        let started = Instant::now();
        for worker in 0..workers {
            let mut settings = world.settings(folder.path(), Some(&operator));
            settings.store = StoreLocation::Postgres(Box::new(url.clone()));
            settings.locks = folder.path().join(worker.to_string()); // as on machines of their own
            std::fs::create_dir_all(&settings.locks)?;
            Slow::down(&mut settings, Duration::ZERO, each);
            running.push(pipeline::spawn(settings, broadcast::channel(16).0, CancellationToken::new()).await?);
        }
        for id in &asked {
            world.wait_for_long(*id, RequestStatus::Fulfilled, Duration::from_secs(600)).await?;
        }
        let took = started.elapsed();
        let last = asked.last().context("no requests")?;
        assert_eq!(world.count::<IInferenceOracle::Fulfilled>(*last).await?, 1);
        let rate = requests as f64 / took.as_secs_f64();
        let alone = *alone.get_or_insert(rate);
        println!("{workers} workers: {took:.1?}, {rate:.1} requests a second, {:.2} times one worker's", rate / alone);
        for relayer in running {
            relayer.stop().await?;
        }
    }
    Ok(())
}

//! Load and endurance: thousands of requests with an embedded model to one anvil, answered and settled by one relayer in this process.
//!
//!     cargo run --release -p candor-tests --example soak -- [REQUESTS] [--together N] [--interval MILLIS] [--postgres]
//!
//! Requests are asked in transactions of 50 or `N` (a contract deployed once and again: the constructor asks), as fast as anvil takes them or one
//! transaction in so many milliseconds. Reported: throughput, time from a request's block to its result's, what of it is the relayer's own (not the model's
//! and not spent on waiting for the chain), and memory over the run.

use alloy::{
    network::TransactionBuilder,
    primitives::{Bytes, U256},
    providers::{Provider, ext::AnvilApi},
    rpc::types::TransactionRequest,
    sol_types::SolCall,
};
use anyhow::{Context, Result, ensure};
use candor_relayer::{
    pipeline::{self, Progress},
    postgres::Postgres,
    store::{Step, StoreLocation},
};
use candor_sdk::{
    bindings::{Delivery, IInferenceOracle, RequestStatus},
    ids::RequestId,
};
use candor_tests::{
    Ask, World,
    world::{PRICE, WINDOW, applicant, ether},
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Code that makes the same call to the oracle again and again, and is gone: `PUSH` the call's data into memory, then `CALL` so often.
fn asks_often(oracle: alloy::primitives::Address, call: &[u8], value: U256, times: usize) -> Bytes {
    let mut code = Vec::new();
    let push2 = |code: &mut Vec<u8>, number: usize| {
        code.push(0x61);
        code.extend(u16::try_from(number).expect("small").to_be_bytes());
    };
    // CODECOPY(0, offset, length); the offset is filled in when it is known.
    push2(&mut code, call.len());
    let place = code.len() + 1;
    push2(&mut code, 0);
    code.extend([0x5f, 0x39]);
    for _ in 0..times {
        code.extend([0x5f, 0x5f]); // no output
        push2(&mut code, call.len());
        code.push(0x5f); // from memory 0
        code.push(0x7f);
        code.extend(value.to_be_bytes::<32>());
        code.push(0x73);
        code.extend(oracle.as_slice());
        code.extend([0x5a, 0xf1]); // all the gas there is
        // A call that failed ends it all: ISZERO is 1 then, and the jump goes to the revert at the end.
        code.push(0x15);
        push2(&mut code, usize::from(u16::MAX));
        code.push(0x57);
    }
    code.push(0x00); // STOP: no code is left
    let fails = code.len();
    code.extend([0x5b, 0x5f, 0x5f, 0xfd]);
    let data = code.len();
    for at in 0..code.len().saturating_sub(2) {
        if code[at] == 0x61 && code[at + 1..at + 3] == [0xff, 0xff] {
            code[at + 1..at + 3].copy_from_slice(&u16::try_from(fails).expect("small").to_be_bytes());
        }
    }
    code[place..place + 2].copy_from_slice(&u16::try_from(data).expect("small").to_be_bytes());
    code.extend_from_slice(call);
    code.into()
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let index = ((sorted.len() as f64 - 1.0) * part).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let requests: usize = arguments.first().map_or(Ok(10_000), |text| text.parse())?;
    let after =
        |flag: &str| arguments.iter().position(|argument| argument == flag).and_then(|at| arguments.get(at + 1));
    let interval = after("--interval").map_or(Ok(0), |text| text.parse())?;
    let most = after("--together").map_or(Ok(50), |text| text.parse())?;
    let postgres =
        if arguments.iter().any(|argument| argument == "--postgres") { Some(Postgres::start()?) } else { None };

    let mut world = World::start().await?;
    // A tenth of an ether is locked by each result until it is final.
    let operator = world.rich_operator(U256::from(requests) * ether(1) / U256::from(10) + ether(1)).await?;
    let folder = tempfile::tempdir()?;
    let mut settings = world.settings(folder.path(), Some(&operator));
    settings.gas.max_daily_spend = ether(1_000);
    if let Some(server) = &postgres {
        settings.store = StoreLocation::Postgres(Box::new(server.database()?));
    }
    let (reporter, mut progress) = broadcast::channel(1 << 16);
    let relayer = pipeline::spawn(settings, reporter, CancellationToken::new()).await?;

    let ask =
        Ask { model: world.models["credit"].id(), input: applicant(), delivery: Delivery::Final, callback_gas: 0 };
    let (args, value) = world.args(&ask);
    let call = IInferenceOracle::requestCall { args }.abi_encode();
    let payer = world.account().await?;
    world.client.provider().anvil_set_balance(payer.address(), ether(1_000_000)).await?;
    let payer = world.client_of(&payer).await?;
    let before = memory_mib();
    println!(
        "{requests} requests, {most} a transaction, store: {:?}, {before} MiB before, load {}",
        relayer.store.location(),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );

    let started = Instant::now();
    let oracle = world.client.oracle;
    let asking = async {
        let mut asked = HashMap::new();
        let mut next = 1u64;
        while asked.len() < requests {
            let together = most.min(requests - asked.len());
            let code = asks_often(oracle, &call, value, together);
            let transaction =
                TransactionRequest::default().with_deploy_code(code).with_value(value * U256::from(together));
            let receipt = payer.provider().send_transaction(transaction).await?.get_receipt().await?;
            ensure!(receipt.status(), "the requests were refused");
            let now = Instant::now();
            for _ in 0..together {
                asked.insert(next, now);
                next += 1;
            }
            if interval > 0 {
                tokio::time::sleep(Duration::from_millis(interval)).await;
            }
        }
        anyhow::Ok((asked, started.elapsed()))
    };
    let watching = async {
        let (mut posted, mut memory, mut own) = (HashMap::<u64, Instant>::new(), Vec::new(), Vec::new());
        let (mut inference, mut batches, mut mined) = (Duration::ZERO, 0usize, 0usize);
        while posted.len() < requests {
            match tokio::time::timeout(Duration::from_secs(120), progress.recv())
                .await
                .context("nothing happens any more")?
            {
                Ok(Progress::Posted { id, .. }) => {
                    posted.entry(id.0).or_insert_with(Instant::now);
                    if posted.len().is_multiple_of(requests.div_ceil(10)) && memory.len() < posted.len() * 10 / requests
                    {
                        memory.push(memory_mib());
                    }
                }
                Ok(Progress::Sent { own: took, .. }) => own.push(took),
                // One batch is told of once for each request in it.
                Ok(Progress::Inferred { took, batch, .. }) => {
                    inference += took / u32::try_from(batch).unwrap_or(1);
                    batches += 1;
                }
                Ok(Progress::Mined { .. }) => mined += 1,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => anyhow::bail!("the relayer stopped"),
            }
        }
        Ok((posted, memory, own, inference, batches, mined))
    };
    let ((asked, asking_took), (posted, memory, mut own, inference, inferred, mined)) =
        tokio::try_join!(asking, watching)?;
    let took = started.elapsed();
    let mut latencies: Vec<Duration> =
        asked.iter().filter_map(|(id, at)| Some(posted.get(id)?.saturating_duration_since(*at))).collect();
    latencies.sort_unstable();
    let rate = requests as f64 / took.as_secs_f64();
    println!("asked in {asking_took:.1?}, all answered on chain after {took:.1?}: {rate:.0} requests a second");
    println!(
        "from request to posted result: p50 {:.0?}, p99 {:.0?}",
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99)
    );
    own.sort_unstable();
    println!(
        "the relayer's own time for a request, of {}: p50 {:.2?}, p99 {:.2?}",
        own.len(),
        percentile(&own, 0.5),
        percentile(&own, 0.99)
    );
    println!("the model ran for {inference:.2?} in all ({inferred} requests told of), {mined} transactions");

    world.pass(WINDOW).await?;
    let settling = Instant::now();
    while relayer.store.counts().await?.of(Step::Finalized) < requests as u64 {
        ensure!(settling.elapsed() < Duration::from_secs(600), "not settled: {:?}", relayer.store.counts().await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("settled in {:.1?}", settling.elapsed());
    for id in [1, requests as u64 / 2, requests as u64] {
        ensure!(world.client.status(RequestId(id)).await?.0 == RequestStatus::Finalized);
    }
    let credit = world.client.credit(operator.address()).await?;
    ensure!(credit == U256::from(requests) * U256::from(PRICE), "{credit} wei earned");
    ensure!(world.failed_transactions(operator.address()).await?.is_empty(), "transactions reverted");
    println!("each answered and paid for once: {credit} wei; no transaction reverted");
    println!("memory: {before} MiB before, then at each tenth {memory:?}, {} MiB after", memory_mib());
    Ok(relayer.stop().await?)
}

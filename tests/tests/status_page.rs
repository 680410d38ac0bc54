//! What a relayer tells over HTTP, to machines and, in a real browser, to people.
//!
//! The browser is Chromium, headless: Debian's package `chromium`, or whatever `CANDOR_CHROMIUM` names. Without it the tests of the page are skipped,
//! loudly; continuous integration must have it. `CANDOR_SCREENSHOTS=FOLDER` keeps the pictures.

use alloy::providers::{Provider, ext::AnvilApi};
use anyhow::{Context, Result, ensure};
use candor_relayer::{ops::metrics, pipeline};
use candor_sdk::bindings::RequestStatus;
use candor_tests::{
    Fault, FaultyEndpoint, Proxy, Scene, World,
    world::{WINDOW, applicant, ether, image},
};
use reqwest::StatusCode;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String)> {
    let answer = reqwest::get(format!("http://{address}/{path}")).await?;
    Ok((answer.status(), answer.text().await?))
}

async fn eventually(address: SocketAddr, path: &str, wanted: StatusCode) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (status, text) = get(address, path).await?;
        if status == wanted {
            return Ok(text);
        }
        ensure!(Instant::now() < deadline, "/{path} says {status} after a minute: {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A relayer that tells, with two requests final, one whose window is open, and one it will not answer.
async fn telling(folder: &Path) -> Result<(World, pipeline::Handle, Proxy)> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let proxy = Proxy::start(&world.rpc_url()).await?;
    let mut settings = world.settings(folder, Some(&operator));
    settings.rpc_urls = vec![proxy.url.clone()];
    settings.http = Some("127.0.0.1:0".parse()?);
    let relayer = pipeline::spawn(settings, tokio::sync::broadcast::channel(64).0, Default::default()).await?;
    for (model, input) in [("credit", applicant()), ("digits", image())] {
        let id = world.ask(model, &input).await?;
        world.settle(id).await?;
    }
    world.ask("digits", &vec![0; 784]).await?;
    let open = world.ask("credit", &applicant()).await?;
    world.wait_for(open, RequestStatus::Fulfilled).await?;
    let mut reports = relayer.reports.clone();
    let told = reports.wait_for(|report| report.steps.get("finalized") == Some(&2) && report.money.is_some());
    drop(tokio::time::timeout(Duration::from_secs(60), told).await.context("no report")??);
    Ok((world, relayer, proxy))
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_told_how_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_world, relayer, proxy) = telling(folder.path()).await?;
    let address = relayer.http.context("it does not listen")?;
    assert_eq!(eventually(address, "healthz", StatusCode::OK).await?, "ok\n");
    assert_eq!(eventually(address, "readyz", StatusCode::OK).await?, "ok\n");

    let (_, text) = get(address, "metrics").await?;
    for (name, _, help) in metrics::ALL {
        // What has not happened yet has no line.
        if text.contains(name) {
            assert!(text.contains(&format!("# HELP {name} {}", help.trim())), "{name} without its help");
        }
    }
    for line in [
        "candor_requests{step=\"finalized\",chain=\"31337\"} 2",
        "candor_inferences_total{model=\"credit\"} ",
        "candor_inferences_total{model=\"digits\"} ",
        "candor_transactions_total{",
        "candor_request_to_signature_seconds_bucket{le=\"0.3\"}",
        "candor_stake_ether{chain=\"31337\"} 2",
        "candor_submitter{chain=\"31337\"} 1",
        "candor_workers{chain=\"31337\"} 1",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(line), "no {line} in:\n{text}");
    }

    let (_, text) = get(address, "api/status").await?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    assert_eq!(status["steps"]["finalized"], 2);
    assert_eq!(status["money"]["stake"], ether(2).to_string());
    assert_eq!(status["workers"][0]["submitter"], true);
    assert_eq!(status["recent"].as_array().map(Vec::len), Some(4));
    assert_eq!(get(address, "elsewhere").await?.0, StatusCode::NOT_FOUND);
    let refused = reqwest::Client::new().post(format!("http://{address}/api/status")).send().await?;
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "read-only");

    // The node goes: alive, but not ready once that has lasted.
    proxy.cut();
    assert_eq!(eventually(address, "healthz", StatusCode::OK).await?, "ok\n");
    let mut reports = relayer.reports.clone();
    let troubled = reports.wait_for(|report| !report.troubles.is_empty());
    drop(tokio::time::timeout(Duration::from_secs(60), troubled).await.context("nobody is told")??);
    proxy.mend();
    Ok(relayer.stop().await?)
}

/// It takes every question and answers none: at start, and when all has gone well for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_told_and_so_is_its_recovery() -> Result<()> {
    let scene = Scene::new().await?;
    let endpoint = FaultyEndpoint::start(&scene.world.rpc_url(), Fault::Hang, 1).await?;
    let mut settings = scene.settings();
    settings.rpc_urls = vec![endpoint.url.clone()];
    // Enough for a busy machine; the bound itself has a test of its own.
    settings.watch.answer_within = Duration::from_secs(1);
    // A port that is free now: the relayer listens before it has anything to tell.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    settings.http = Some(address);

    endpoint.begin();
    let stop = CancellationToken::new();
    let starting = tokio::spawn(pipeline::spawn(settings, tokio::sync::broadcast::channel(64).0, stop.clone()));
    endpoint.happened().await?;
    let text = said(address, "readyz", "after the start: ").await?;
    assert!(text.starts_with("chain 31337 has not been seen yet, "), "{text}");
    assert!(text.contains(&endpoint.url.port().context("a port")?.to_string()), "which node: {text}");
    assert_eq!(get(address, "healthz").await?, (StatusCode::OK, "ok\n".into()), "another start would not help");
    assert!(get(address, "metrics").await?.1.contains("candor_chain_read_timestamp_seconds{chain=\"31337\"} "));
    endpoint.heal();
    let relayer = starting.await??;
    assert_eq!(eventually(address, "readyz", StatusCode::OK).await?, "ok\n");

    scene.world.client.provider().anvil_mine(Some(3), None).await?;
    let newest = scene.world.client.provider().get_block_number().await?;
    let mut reports = relayer.reports.clone();
    let told = reports.wait_for(|report| report.chain.head == newest);
    drop(tokio::time::timeout(Duration::from_secs(60), told).await.context("no report")??);
    endpoint.relapse();
    let text = said(address, "readyz", "chain 31337 has not been read for ").await?;
    assert!(text.contains(&format!("; the newest block was {newest}")), "{text}");
    assert_eq!(get(address, "healthz").await?.0, StatusCode::OK);
    let mut reports = relayer.reports.clone();
    let lost = |trouble: &String| trouble.starts_with("chain 31337 has not been read for ");
    let told = reports.wait_for(|report| report.troubles.iter().any(lost));
    drop(tokio::time::timeout(Duration::from_secs(60), told).await.context("the page does not say so")??);
    endpoint.heal();
    assert_eq!(eventually(address, "readyz", StatusCode::OK).await?, "ok\n");
    Ok(relayer.stop().await?)
}

/// Until this path answers 503 with these words.
async fn said(address: SocketAddr, path: &str, words: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (status, text) = get(address, path).await.unwrap_or_default();
        if status == StatusCode::SERVICE_UNAVAILABLE && text.contains(words) {
            return Ok(text);
        }
        ensure!(Instant::now() < deadline, "/{path} says {status} after a minute: {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CANDOR_CHROMIUM") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|file| file.is_file())
}

/// The page as it is after its script has run, and a picture of it.
async fn look(browser: &Path, profile: &Path, address: SocketAddr, size: (u32, u32)) -> Result<(String, Vec<u8>)> {
    let picture = profile.join("page.png");
    let run = async |more: &[String]| -> Result<String> {
        let mut command = tokio::process::Command::new(browser);
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--hide-scrollbars",
        ]);
        command.args(["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=4000"]);
        command
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("--window-size={},{}", size.0, size.1));
        command.args(more).arg(format!("http://{address}/")).stdin(Stdio::null()).kill_on_drop(true);
        let output =
            tokio::time::timeout(Duration::from_secs(120), command.output()).await.context("the browser hangs")??;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run(&[format!("--screenshot={}", picture.display())]).await?;
    Ok((run(&["--dump-dom".into()]).await?, std::fs::read(&picture)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_it_in_a_browser_wide_and_narrow() -> Result<()> {
    let Some(browser) = chromium() else {
        ensure!(candor_relayer::postgres::may_skip(), "continuous integration needs Chromium");
        eprintln!("SKIPPED: no Chromium here; the status page was not looked at");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let (world, relayer, _proxy) = telling(folder.path()).await?;
    let address = relayer.http.context("it does not listen")?;
    for (name, size) in [("status-page", (1100, 900)), ("status-page-phone", (390, 844))] {
        let profile = tempfile::tempdir()?;
        let (page, picture) = look(&browser, profile.path(), address, size).await?;
        assert!(page.contains("data-shown=\"yes\""), "{name}: its script did not run:\n{page}");
        for text in [
            "running",
            ">#1<",
            ">#2<",
            ">#4<",
            ">credit<",
            ">digits<",
            "finalized",
            "posted",
            "final in ",
            "device load",
            "ether earned",
            "ether at stake",
            "submitter",
            "2 finalized",
        ] {
            assert!(page.contains(text), "{name}: no {text} in:\n{page}");
        }
        assert!(
            page.contains(&format!("oracle {}", world.client.oracle).to_lowercase())
                || page.contains(&world.client.oracle.to_string())
        );
        assert!(picture.len() > 10_000, "{name}: a picture of {} bytes shows nothing", picture.len());
        if let Some(folder) = std::env::var_os("CANDOR_SCREENSHOTS") {
            std::fs::write(Path::new(&folder).join(format!("{name}.png")), &picture)?;
        }
    }
    world.pass(WINDOW).await?;
    Ok(relayer.stop().await?)
}

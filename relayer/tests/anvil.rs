//! A local chain that never outlives who started it. Needs anvil: `make setup`, or an installed Foundry.
use alloy::providers::{Provider, ProviderBuilder};
use candor_relayer::anvil::{Anvil, AnvilError, AnvilOptions};
use std::time::Duration;

/// Whether a process still runs. One that has ended and was not waited for does not.
#[cfg(target_os = "linux")]
fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

#[cfg(target_os = "linux")]
async fn ends(pid: u32) -> bool {
    for _ in 0..100 {
        if !runs(pid) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

#[tokio::test]
async fn it_answers_and_is_gone_when_dropped() {
    let options =
        AnvilOptions { chain_id: Some(4242), block_time: Some(Duration::from_millis(500)), ..Default::default() };
    let anvil = Anvil::start(&options).await.unwrap();
    let provider = ProviderBuilder::new().connect_http(anvil.url());
    assert_eq!(provider.get_chain_id().await.unwrap(), 4242);
    assert!(provider.get_balance(candor_relayer::anvil::dev_key(0).address()).await.unwrap().to::<u128>() > 0);
    let pid = anvil.pid().unwrap();
    drop(anvil);
    #[cfg(target_os = "linux")]
    assert!(!runs(pid), "it is waited for, so it is gone at once");
    assert!(provider.get_chain_id().await.is_err());
}

#[tokio::test]
async fn two_at_once_get_ports_of_their_own() {
    let options = AnvilOptions::default();
    let (one, two) = tokio::join!(Anvil::start(&options), Anvil::start(&options));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.port(), two.port());
    let error = Anvil::start(&AnvilOptions { port: Some(one.port()), ..Default::default() }).await.unwrap_err();
    assert!(matches!(&error, AnvilError::Ended(said) if !said.is_empty()), "a port that is taken: {error}");
}

#[tokio::test]
async fn what_it_complains_about_is_passed_on() {
    let options = AnvilOptions { args: vec!["--no-such-flag".into()], ..Default::default() };
    let error = Anvil::start(&options).await.unwrap_err().to_string();
    assert!(error.contains("--no-such-flag"), "{error}");
}

/// The process that starts the chain here is this test's own program, run once more with a hint in its environment.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn it_dies_with_its_process_however_that_dies() {
    if let Some(file) = std::env::var_os("CANDOR_TEST_ANVIL_PARENT") {
        let anvil = Anvil::start(&AnvilOptions::default()).await.unwrap();
        let file = std::path::PathBuf::from(file);
        std::fs::write(file.with_extension("part"), anvil.pid().unwrap().to_string()).unwrap();
        std::fs::rename(file.with_extension("part"), file).unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        return;
    }
    for signal in ["-KILL", "-TERM", "-INT"] {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("pid");
        let mut parent = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "it_dies_with_its_process_however_that_dies", "--nocapture"])
            .env("CANDOR_TEST_ANVIL_PARENT", &file)
            .spawn()
            .unwrap();
        let mut waited = 0;
        while !file.exists() {
            waited += 1;
            assert!(waited < 1200, "the chain never came up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let pid: u32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        assert!(runs(pid));
        std::process::Command::new("kill").args([signal, &parent.id().to_string()]).status().unwrap();
        parent.wait().unwrap();
        assert!(ends(pid).await, "anvil {pid} survived {signal} to the process that started it");
    }
}

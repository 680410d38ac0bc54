//! A person at the command line: becomes an operator, runs the relayer, asks, checks answers, takes the money out.

use alloy::{
    primitives::{Bytes, U256},
    signers::SignerSync,
};
use anyhow::{Context, Result, ensure};
use candor_relayer::anvil::{Anvil, AnvilOptions, dev_key};
use candor_sdk::{
    bindings::{Answer, RequestStatus},
    commitment::signature_bytes,
    ids::RequestId,
    request::Request,
};
use candor_tests::{
    Fault, FaultyEndpoint, World,
    process::candor_binary,
    world::{PRICE, WINDOW, applicant, ether},
};
use serde_json::Value;
use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};
use tokio::process::{Child, Command};

/// A person with a key in a folder of their own.
struct Person {
    folder: tempfile::TempDir,
    key: String,
}

impl Person {
    fn new(world: &World, key: &alloy::signers::local::PrivateKeySigner, more: &str) -> Result<Self> {
        let config = format!(
            "[chain]\nrpc_urls = [\"{}\"]\nchain_id = {}\noracle = \"{}\"\nconfirmations = 0\npoll_interval = \"50ms\"\n\
             [operator.min_fee]\ndefault = \"0.001 ether\"\n[log]\nformat = \"plain\"\n{more}",
            world.rpc_url(),
            world.client.chain_id,
            world.client.oracle,
        );
        Self::with(&config, key)
    }

    fn with(config: &str, key: &alloy::signers::local::PrivateKeySigner) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("candor.toml"), config)?;
        Ok(Self { folder, key: alloy::primitives::hex::encode(key.to_bytes()) })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(candor_binary()?);
        command
            .current_dir(self.folder.path())
            .args(args)
            .env("CANDOR_PRIVATE_KEY", &self.key)
            // All worlds have the same keys and contracts; the locks of their keys must not meet.
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(command)
    }

    async fn types(&self, args: &[&str]) -> Result<Output> {
        Ok(tokio::time::timeout(Duration::from_secs(60), self.command(args)?.output())
            .await
            .with_context(|| format!("{args:?} hangs"))??)
    }

    /// Does it, and what it said.
    async fn does(&self, args: &[&str]) -> Result<String> {
        let output = self.types(args).await?;
        let (said, complained) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        ensure!(output.status.success(), "{args:?} ended with {}: {said}{complained}", output.status);
        Ok(said)
    }

    /// Does it, and the JSON lines it said.
    async fn does_json(&self, args: &[&str]) -> Result<Vec<Value>> {
        let said = self.does(&[args, &["--json"]].concat()).await?;
        said.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).collect()
    }

    /// Is refused with this exit code, and all it said.
    async fn fails(&self, code: i32, args: &[&str]) -> Result<String> {
        let output = self.types(args).await?;
        let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(code), "{args:?} ended with {}: {said}", output.status);
        Ok(said)
    }

    fn relayer(&self) -> Result<Child> {
        let log = std::fs::File::create(self.path("log"))?;
        Ok(self.command(&["run"])?.stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_first_stake_to_the_last_withdrawal() -> Result<()> {
    let mut world = World::start().await?;
    let key = world.account().await?;
    let person = Person::new(&world, &key, "")?;

    // Not an operator yet: the doctor says what is missing, and with which command it is had.
    let text = person.fails(3, &["doctor"]).await?;
    has(&text, &["ok    node", "BAD   stake", "BAD   signer", "candor operator join", "BAD   offers"]);
    let text = person.fails(1, &["run"]).await?;
    has(&text, &["is not registered: run `candor operator join`"]);
    has(&person.does(&["status"]).await?, &["no relayer has run with this configuration", "0 ether at stake"]);

    let planned = person.does(&["operator", "join", "--dry-run"]).await?;
    has(
        &planned,
        &["would put down 1.1 ether of stake", "would register the signing key", "would offer credit for 0.001 ether"],
    );
    assert_eq!(world.client.stake(key.address()).await?.0, U256::ZERO, "planned is not done");
    has(&person.fails(2, &["operator", "join", "--stake", "0.5 ether"]).await?, &["at least 1 ether of stake"]);
    has(&person.fails(1, &["operator", "join", "--stake", "5000 ether"]).await?, &["the stake lacks 5000 ether"]);
    has(&person.does(&["operator", "join", "--stake", "2 ether"]).await?, &["put down 2 ether of stake: tx 0x"]);
    has(&person.does(&["operator", "join", "--stake", "2 ether"]).await?, &["nothing to do"]);
    assert_eq!(world.client.stake(key.address()).await?.0, ether(2));
    has(
        &person.does(&["operator", "show"]).await?,
        &["enough for 20 more results", "credit for 0.001 ether", "digits for 0.001 ether"],
    );
    has(&person.does(&["doctor"]).await?, &["speaks for this operator", "2 ether free: 20 results at a time"]);
    has(&person.does(&["model", "list"]).await?, &["1 operator serve"]);
    has(&person.does(&["model", "register", "credit"]).await?, &["is registered already"]);

    // Asks itself, by its own relayer.
    let mut relayer = person.relayer()?;
    let asked =
        person.does_json(&["request", "--model", "credit", "--applicant", "purpose=new_car,amount_dm=5000"]).await;
    let asked = asked.with_context(|| person.log())?;
    let events: Vec<&str> = asked.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(events, ["asked", "posted", "answered"]);
    assert!(asked[2]["answer"].as_str().is_some_and(|answer| answer.ends_with("risk of default")));
    assert_eq!(asked[0]["fee"], PRICE.to_string());
    has(&person.does(&["doctor"]).await?, &["warn  database", "in use: a relayer is running"]);

    // Checked: on the chain, and in a file by somebody without one.
    let text = person.does(&["result", "1", "--save", "result.json"]).await?;
    has(&text, &["to model credit (", "can be challenged until", "the same 4 bytes", "VERIFIED"]);
    has(&person.fails(1, &["result", "1", "--save", "result.json"]).await?, &["result.json exists already"]);
    std::fs::create_dir(person.path("elsewhere"))?;
    std::fs::rename(person.path("result.json"), person.path("elsewhere/result.json"))?;
    std::fs::rename(person.path("candor.toml"), person.path("gone.toml"))?;
    has(&person.does(&["result", "elsewhere/result.json"]).await?, &["VERIFIED"]);
    let mut result: Value = serde_json::from_slice(&std::fs::read(person.path("elsewhere/result.json"))?)?;
    result["output"] = "0x3f000000".into();
    std::fs::write(person.path("wrong.json"), result.to_string())?;
    has(&person.fails(3, &["result", "wrong.json"]).await?, &["WRONG: from byte", "0x3f000000 is claimed"]);
    result["signature"] = "0x00".into();
    std::fs::write(person.path("wrong.json"), result.to_string())?;
    has(&person.fails(3, &["result", "wrong.json"]).await?, &["WRONG: the signature does not hold"]);
    std::fs::rename(person.path("gone.toml"), person.path("candor.toml"))?;

    world.pass(WINDOW).await?;
    world.wait_for(RequestId(1), RequestStatus::Finalized).await?;
    has(&person.does(&["result", "1"]).await?, &["status     final"]);
    // The chain knows before the relayer does.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !person.does(&["status"]).await?.contains("1 finalized") {
        ensure!(std::time::Instant::now() < deadline, "never read: {}", person.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop(&mut relayer).await.with_context(|| person.log())?;
    has(&person.does(&["status"]).await?, &["1 finalized", "0.001 ether earned and not yet paid out"]);

    // The money, out again.
    let to = "0x000000000000000000000000000000000000dEaD";
    has(&person.does(&["operator", "withdraw", "--earnings", "--to", to]).await?, &["send 0.001 ether to"]);
    has(&person.fails(1, &["operator", "withdraw", "--earnings"]).await?, &["nothing is earned yet"]);
    let text = person.does(&["operator", "withdraw"]).await?;
    has(&text, &["stop offering credit", "stop offering digits", "announce the withdrawal of 2 ether"]);
    has(&person.fails(1, &["operator", "withdraw"]).await?, &["on their way out already"]);
    world.pass(1_200).await?;
    has(&person.does(&["operator", "withdraw"]).await?, &["send 2 ether of stake to"]);
    assert_eq!(world.client.stake(key.address()).await?.0, U256::ZERO);
    has(&person.fails(1, &["operator", "withdraw"]).await?, &["there is no stake"]);
    Ok(())
}

/// The node hangs, and whoever looks is told so after `chain.answer_within`, and before that what the database knows.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_what_is_known_is_said() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let person = Person::new(&world, &operator.key, "")?;
    let mut relayer = person.relayer()?;
    let id = world.ask("credit", &applicant()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await.with_context(|| person.log())?;
    stop(&mut relayer).await.with_context(|| person.log())?;
    let endpoint = FaultyEndpoint::start(&world.rpc_url(), Fault::Hang, 1).await?;
    endpoint.begin();
    let hangs = ["--rpc-url", endpoint.url.as_str(), "--set", "chain.answer_within=300ms"];
    let why = format!("127.0.0.1:{}: ", endpoint.url.port().context("a port")?);
    let text = person.fails(1, &[&["status"][..], &hangs].concat()).await?;
    has(&text, &["database", "none is running: `candor run`", "1 ", "\nerror: ", &why]);
    let text = person.fails(1, &[&["why", "1"][..], &hangs].concat()).await?;
    has(&text, &["request #1: ", "no relayer is running", "that can't be asked", "\nerror: ", &why]);
    let text = person.fails(1, &[&["why", "2"][..], &hangs].concat()).await?;
    has(&text, &["error: ", &why]);
    Ok(())
}

/// From an empty chain to an answer, with nothing but commands.
#[tokio::test(flavor = "multi_thread")]
async fn the_contracts_on_a_chain_of_ones_choice() -> Result<()> {
    let anvil = Anvil::start(&AnvilOptions::default()).await?;
    let chain = format!(
        "[chain]\nrpc_urls = [\"{}\"]\nchain_id = 31337\nconfirmations = 0\npoll_interval = \"50ms\"\n",
        anvil.url()
    );
    let person = Person::with(&chain, &dev_key(0))?;

    // What the constructors would refuse is said before anything is sent, all of it.
    let wrong = ["deploy", "--challenge-window", "0s", "--stake-per-result", "2 ether", "--bond", "1 gwei"];
    let text = person.fails(2, &wrong).await?;
    has(
        &text,
        &["--challenge-window is 0s", "(2 ether) must not be more than --min-stake (1 ether)", "--bond (1 gwei)"],
    );
    let nowhere = "0x000000000000000000000000000000000000dEaD";
    has(&person.fails(1, &["deploy", "--verifier", nowhere]).await?, &["there is no contract at", "--verifier"]);
    has(&person.fails(1, &["deploy", "--set", "chain.chain_id=1"]).await?, &["chain 31337"]);
    let poor = Person::with(&chain, &alloy::signers::local::PrivateKeySigner::random())?;
    has(&poor.fails(1, &["deploy"]).await?, &["has 0 ether; 14 contracts take up to"]);
    has(&person.does(&["deploy", "--dry-run"]).await?, &["would deploy 14 contracts", "OneStepVerifier", "at most"]);

    let told = person.does_json(&["deploy", "--challenge-window", "1h"]).await?;
    let events: Vec<&str> = told.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(events, ["verifier_deployed", "deployed"]);
    let text = |key: &str| told[1][key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
    let (oracle, verifier) = (text("oracle")?, text("verifier")?);
    let estimate: Value = person.does_json(&["deploy", "--dry-run"]).await?.remove(0);
    let wei = |value: &Value| value["cost"].as_str().and_then(|text| text.parse::<u128>().ok()).context("no cost");
    ensure!(wei(&told[1])? < wei(&estimate)?, "{} is more than {} was thought to be enough", told[1], estimate);

    // The same judge for another deployment, and one without any.
    let second = person.does(&["deploy", "--verifier", &verifier]).await?;
    has(&second, &["dispute game       0x", "start_block = ", "candor model register"]);
    assert!(!second.contains("step verifier"));
    has(&person.does(&["deploy", "--without-disputes"]).await?, &["results can't be challenged here"]);

    let operator = Person::with(
        &format!("{chain}oracle = \"{oracle}\"\n[operator.min_fee]\ndefault = \"0.001 ether\"\n"),
        &dev_key(1),
    )?;
    has(&operator.does(&["model", "register", "credit"]).await?, &["is registered: tx 0x"]);
    has(&operator.does(&["operator", "join", "--set", "models.serve=credit"]).await?, &["put down 1.2 ether of stake"]);
    let log = std::fs::File::create(operator.path("log"))?;
    let run = ["run", "--set", "models.serve=credit"];
    let mut relayer = operator.command(&run)?.stdout(log.try_clone()?).stderr(log).spawn()?;
    let question = ["request", "--model", "credit", "--applicant", "", "--oracle", &oracle];
    has(&person.does(&question).await.with_context(|| operator.log())?, &["risk of default"]);
    stop(&mut relayer).await
}

/// SIGTERM, and an orderly end.
async fn stop(relayer: &mut Child) -> Result<()> {
    let pid = relayer.id().context("it ended by itself")?;
    Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
    let status = tokio::time::timeout(Duration::from_secs(20), relayer.wait()).await.context("it does not stop")??;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_is_found_out() -> Result<()> {
    let mut world = World::start().await?;
    let liar = world.operator(ether(2)).await?;
    let person = Person::new(&world, &liar.key, "")?;
    let id = world.ask("credit", &applicant()).await?;
    has(&person.fails(1, &["result", "1"]).await?, &["request #1 is not answered yet"]);
    has(&person.fails(1, &["result", "2"]).await?, &["there is no request #2; the oracle has taken 1 so far"]);

    let asked = world.client.requested(id, 0).await?.context("no request")?;
    let request = Request::unpack(&asked.request)?;
    let output = Bytes::from(0.01f32.to_be_bytes().to_vec());
    let digest = world.client.domain().fulfillment_digest(&request, &output);
    let signature = signature_bytes(&liar.key.sign_hash_sync(&digest)?);
    let client = world.client_of(&liar.key).await?;
    client.send(client.fulfill(vec![Answer { request: asked.request, output, signature }])).await?;

    let text = person.fails(3, &["result", "1"]).await?;
    has(&text, &[&liar.address().to_string(), "1.0 % risk of default", "WRONG: from byte 0 on"]);
    let output = person.types(&["result", "1", "--json"]).await?;
    let value: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&value["verdict"], &value["status"]), (&"wrong".into(), &"fulfilled".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_places_and_empty_pockets_are_named() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let person = Person::new(&world, &operator.key, "")?;
    for (setting, complaint) in [
        ("chain.chain_id=1", "chain 31337"),
        (
            "chain.oracle=0x000000000000000000000000000000000000dEaD",
            "no contract at 0x000000000000000000000000000000000000dEaD",
        ),
        (&format!("chain.oracle={}", world.deployment.models), "does not answer like a Candor contract"),
    ] {
        for command in [&["run"][..], &["status"], &["request", "--model", "credit", "--applicant", ""]] {
            let text = person.fails(1, &[command, &["--set", setting]].concat()).await?;
            has(&text, &[complaint]);
        }
        let text = person.fails(3, &["doctor", "--set", setting]).await?;
        has(&text, &["BAD   node", complaint]);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let setting = format!("http.listen={}", taken.local_addr()?);
    let text = person.fails(1, &["run", "--set", &setting]).await?;
    // For people at the end, for machines in the log.
    has(&text, &["\nerror: can't listen on 127.0.0.1:", "([http] listen)", "choose another port", "the relayer ends"]);
    let cheap = person.fails(1, &["request", "--model", "credit", "--applicant", "", "--max-fee", "1 wei"]).await?;
    has(&cheap, &["1 wei is too little: the cheapest operator asks 0.001 ether"]);
    let short = person.fails(1, &["request", "--model", "credit", "--applicant", "", "--timeout", "1s"]).await?;
    has(&short, &["a timeout of 1 s; the oracle takes 300 to"]);

    // Nobody answers: the money comes back by itself.
    let mut request = person.command(&["request", "--model", "credit", "--applicant", "", "--timeout", "5m"])?;
    let request = request.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    world.wait_for(RequestId(1), RequestStatus::Requested).await?;
    world.pass(301).await?;
    let output = tokio::time::timeout(Duration::from_secs(30), request.wait_with_output()).await??;
    has(
        &String::from_utf8(output.stderr)?,
        &["nobody answered within 5m; the request is cancelled and 0.001 ether are credit in the oracle again"],
    );
    assert_eq!(world.client.credit(operator.address()).await?, U256::from(PRICE));

    let poor = alloy::signers::local::PrivateKeySigner::random();
    let poor = Person::new(&world, &poor, "")?;
    has(&poor.fails(3, &["doctor"]).await?, &["has nothing to pay gas with"]);
    has(&poor.fails(1, &["operator", "join"]).await?, &["has 0 ether, the stake lacks 1.1 ether"]);
    Ok(())
}

/// Files that `candor run`, `status` and `doctor` can't work with are named, and left as they were.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_models_and_foreign_databases_are_named() -> Result<()> {
    let mut world = World::start().await?;
    let operator = world.operator(ether(2)).await?;
    let person = Person::new(&world, &operator.key, "[models]\nserve = [\"credit\", \"./mine\"]\n")?;
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../relayer/models/digits");
    std::fs::create_dir(person.path("mine"))?;
    std::fs::copy(embedded.join("config.json"), person.path("mine/config.json"))?;
    let weights = std::fs::read(embedded.join("model.safetensors"))?;
    std::fs::write(person.path("mine/model.safetensors"), &weights[..weights.len() / 2])?;
    has(&person.fails(1, &["run"]).await?, &["model mine", "model.safetensors"]);
    has(&person.fails(3, &["doctor"]).await?, &["ok    models", "BAD   models", "model.safetensors"]);
    assert!(!person.path("candor.db").exists(), "nothing was begun");

    // Sound again: the folder is served under another name, and is the same model.
    std::fs::write(person.path("mine/model.safetensors"), &weights)?;
    let mut relayer = person.relayer()?;
    let id = world.ask("digits", &candor_tests::world::image()).await?;
    world.wait_for(id, RequestStatus::Fulfilled).await.with_context(|| person.log())?;
    // A second relayer with the same key; and one that looks for the key's lock elsewhere, on the same file.
    has(&person.fails(1, &["run"]).await?, &["another relayer on this machine sends transactions for account"]);
    let elsewhere = tempfile::tempdir()?;
    let second = person.command(&["run"])?.env("TMPDIR", elsewhere.path()).output().await?;
    has(&String::from_utf8(second.stderr)?, &["database", "candor.db is in use by another relayer"]);
    stop(&mut relayer).await.with_context(|| person.log())?;

    let pool = sqlx::SqlitePool::connect(&format!("sqlite:{}", person.path("candor.db").display())).await?;
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', 1, x'00', 0)")
        .execute(&pool)
        .await?;
    pool.close().await;
    for command in ["run", "status"] {
        has(&person.fails(1, &[command]).await?, &["candor.db was written by another version of Candor", "999"]);
    }
    has(&person.fails(3, &["doctor"]).await?, &["BAD   database", "another version of Candor"]);
    std::fs::write(
        person.path("candor.db"),
        "groceries, and enough of them that SQLite reads a whole header of a hundred bytes, which this is",
    )?;
    for suffix in ["candor.db-wal", "candor.db-shm"] {
        let _ = std::fs::remove_file(person.path(suffix));
    }
    for command in ["run", "status"] {
        has(&person.fails(1, &[command]).await?, &["candor.db", "not a database"]);
    }
    assert!(std::fs::read_to_string(person.path("candor.db"))?.starts_with("groceries"), "not touched");
    Ok(())
}

/// Whether anything listens where the demo's chain was.
async fn chain_is_gone(events: &[Value]) -> bool {
    let Some(url) = events.iter().find(|event| event["event"] == "chain").and_then(|event| event["url"].as_str())
    else {
        return false;
    };
    reqwest::Client::new().get(url).send().await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_tells_the_whole_story_and_leaves_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let picture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../relayer/models/digits/samples/drawn-three.png")
        .canonicalize()?;
    let mut command = Command::new(candor_binary()?);
    command.current_dir(&folder).args([
        "demo",
        "--json",
        "--requests",
        "2",
        "--applicant",
        "purpose=new_car,amount_dm=9000,duration_months=48,checking_account=overdrawn",
    ]);
    command.arg("--image").arg(&picture).env("TMPDIR", folder.path()).kill_on_drop(true);
    let started = std::time::Instant::now();
    let output =
        tokio::time::timeout(Duration::from_secs(60), command.output()).await.context("longer than a minute")??;
    let said = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let events: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let name = |event: &Value| event["event"].as_str().unwrap_or_default().to_owned();

    // Request by request: the steps in their order.
    for request in 1..=6 {
        let steps: Vec<String> = events.iter().filter(|event| event["request"] == request).map(name).collect();
        let asked = events
            .iter()
            .find(|event| event["event"] == "asked" && event["request"] == request)
            .context("not asked")?;
        let expected: &[&str] = if asked["delivery"] == "final" {
            &["asked", "picked_up", "inferred", "signed", "posted", "window_passed", "delivered", "finalized", "paid"]
        } else {
            &["asked", "picked_up", "inferred", "signed", "posted", "delivered", "window_passed", "finalized", "paid"]
        };
        assert_eq!(steps, expected, "request {request}");
    }
    let told = |wanted: &str| events.iter().filter(|event| event["event"] == wanted).collect::<Vec<_>>();
    for (question, answer) in [
        ("(it is a 7)", "digit 7,"),
        ("(it is a 2)", "digit 2,"),
        ("drawn-three.png", "digit 3,"),
        ("your application", "denied"),
    ] {
        let asked = told("asked")
            .into_iter()
            .find(|event| event["question"].as_str().is_some_and(|text| text.contains(question)));
        let request = &asked.with_context(|| format!("{question} was not asked"))?["request"];
        let stored =
            told("delivered").into_iter().find(|event| event["request"] == *request).context("not delivered")?;
        assert!(
            stored["success"] == true && stored["stored"].as_str().is_some_and(|text| text.starts_with(answer)),
            "{stored}"
        );
    }
    assert!(told("asked").iter().any(|event| event["delivery"] == "final" && event["model"] == "credit"));
    assert!(told("asked").iter().any(|event| event["delivery"] == "final" && event["model"] == "digits"));
    assert_eq!(told("sum").len(), 5);
    assert!(told("sum").iter().all(|event| event["balanced"] == true && event["left"] == event["right"]));
    assert_eq!(told("finished")[0]["finalized"], 6);
    // The second act: a lie, caught and made good.
    let disputed: Vec<&str> = told("dispute").iter().filter_map(|event| event["what"].as_str()).collect();
    let steps = ["challenges", "claims", "selects", "reveals", "decides", "slashed", "answered", "final"];
    let mut rest = disputed.iter();
    assert!(steps.iter().all(|step| rest.any(|told| told == step)), "{disputed:?}");
    println!("the demo took {:.1} s", started.elapsed().as_secs_f64());

    assert!(chain_is_gone(&events).await, "the chain still runs");
    assert_eq!(std::fs::read_dir(&folder)?.count(), 0, "files were left");
    Ok(())
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_can_be_interrupted() -> Result<()> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(candor_binary()?);
    command
        .current_dir(&folder)
        .args(["demo", "--json"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut demo = command.spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().context("no output")?).lines();
    let mut events: Vec<Value> = Vec::new();
    while events.last().is_none_or(|event| event["event"] != "asked") {
        events.push(serde_json::from_str(&lines.next_line().await?.context("it ended early")?)?);
    }
    Command::new("kill").args(["-INT", &demo.id().context("gone")?.to_string()]).status().await?;
    let status = tokio::time::timeout(Duration::from_secs(10), demo.wait()).await.context("it does not stop")??;
    assert_eq!(status.code(), Some(1));
    assert!(chain_is_gone(&events).await, "the chain still runs");
    assert_eq!(std::fs::read_dir(&folder)?.count(), 0, "files were left");
    Ok(())
}

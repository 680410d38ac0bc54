//! A configuration as people get it wrong.
use super::*;
use std::path::{Path, PathBuf};

const GOOD: &str = r#"
[chain]
rpc_urls = ["http://127.0.0.1:8545", "https://user:hunter2@node.example/key"]
chain_id = 31337
oracle = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
poll_interval = "250ms"

[operator.account]
keystore = "keys/operator.json"

[operator.min_fee]
credit = "0.0005 ether"

[operator.payout]
address = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

[gas]
max_fee_per_gas = "30 gwei"

[models]
serve = ["credit", "./mine"]
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn with(text: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("candor.toml"), text).unwrap();
        Self(place)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("candor.toml")
    }

    fn load(&self, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Sources { file: Some(self.file()), env: own(env), flags: own(flags) }.load(Needs::Chain)
    }

    /// What is wrong, without the folder that the test happens to run in.
    fn complaint(&self, env: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
        let error = self.load(env, flags).expect_err("this configuration is wrong").to_string();
        error.replace(&format!("{}/", self.0.path().display()), "")
    }
}

/// The complaint about one line, in a file that is good otherwise.
fn complaint_about(section: &str, line: &str) -> String {
    let text = if GOOD.contains(&format!("[{section}]\n")) {
        let key = line.split('=').next().unwrap_or_default().trim();
        let rest = GOOD.lines().filter(|l| !l.starts_with(&format!("{key} ="))).collect::<Vec<_>>().join("\n") + "\n";
        rest.replace(&format!("[{section}]\n"), &format!("[{section}]\n{line}\n"))
    } else {
        format!("{GOOD}\n[{section}]\n{line}\n")
    };
    let complaint = Place::with(&text).complaint(&[], &[]);
    let (_, complaint) = complaint.split_once(": ").expect("a file and a line come first");
    complaint.to_owned()
}

#[test]
fn a_good_file_is_read() {
    let place = Place::with(GOOD);
    let config = place.load(&[], &[]).unwrap();
    assert_eq!(config.chain.rpc_urls.len(), 2);
    assert_eq!(config.chain.poll_interval, Duration::from_millis(250));
    assert_eq!(config.chain.overlap, ChainConfig::default().overlap);
    let operator = config.operator.as_ref().unwrap();
    assert_eq!(operator.account.keystore.as_deref(), Some(place.0.path().join("keys/operator.json").as_path()));
    assert_eq!(operator.min_fee_for("credit"), "0.0005 ether".parse().unwrap());
    assert_eq!(operator.min_fee_for("mine"), DEFAULT_MIN_FEE);
    assert_eq!(operator.payout.as_ref().unwrap().threshold, PayoutConfig::default().threshold);
    assert_eq!(config.gas.max_fee_per_gas, Wei::gwei(30));
    assert_eq!(config.models.serve, [ModelSource::Builtin("credit"), ModelSource::Folder(place.0.path().join("mine"))]);
    assert_eq!(config.store, StoreConfig::default());
    assert!(!format!("{config:?}").contains("hunter2"), "printing a configuration shows no secret");
}

#[test]
fn variables_win_over_the_file_and_flags_over_variables() {
    let place = Place::with(GOOD);
    let env = [
        ("CANDOR_CHAIN__CONFIRMATIONS", "7"),
        ("CANDOR_CHAIN__RPC_URLS", "http://a:1, http://b:2"),
        ("CANDOR_GAS__DAILY_CAP", "2 ether"),
        ("CANDOR_STORE__PATH", "elsewhere.db"),
        ("CANDOR_OPERATOR__MIN_FEE__DEFAULT", "3 gwei"),
        ("CANDOR_MODELS__SERVE", "credit,digits"),
        ("CANDOR_PRIVATE_KEY", "not a setting"),
        ("HOME_OF_CANDOR__X", "not ours"),
    ];
    let config = place.load(&env, &[("chain.confirmations", "9")]).unwrap();
    assert_eq!(config.chain.confirmations, 9);
    assert_eq!(format!("{:?}", config.chain.rpc_urls), "[http://a:1, http://b:2]");
    assert_eq!(config.gas.daily_cap, Wei::milliether(2_000));
    assert_eq!(config.store.path.0, Path::new("elsewhere.db"), "relative to where one is, not to the file");
    assert_eq!(config.operator.unwrap().min_fee_for("digits"), Wei::gwei(3));
    assert_eq!(config.models.serve.len(), 2);
}

#[test]
fn a_list_can_be_given_either_way() {
    let place = Place::with(GOOD);
    for text in [r#"["http://a:1","http://b:2"]"#, "http://a:1,http://b:2", "http://a:1/,http://b:2/"] {
        let config = place.load(&[("CANDOR_CHAIN__RPC_URLS", text)], &[]).unwrap();
        assert_eq!(format!("{:?}", config.chain.rpc_urls), "[http://a:1, http://b:2]", "{text}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_where() {
    let place = Place::with(
        r#"
chian = 1

[chain]
rpc_url = "http://127.0.0.1:8545"
chain_id = "mainnet"
orcale = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
poll_interval = 5
max_block_range = 10

[operator]
account = { keystor = "operator.json" }

[operator.min_fee]
digit = "1 gwei"

[gas]
max_fee_per_gas = "100"
bump_percent = 5
nonsense = true

[log]
format = "jsn"
"#,
    );
    let env = [("CANDOR_STORE__PTH", "x.db"), ("CANDOR_CHAIN_ORACLE", "0x00"), ("CANDOR_LOG__LEVEL", "")];
    insta::assert_snapshot!(place.complaint(&env, &[("models.serve", "credit,digitz")]));
}

#[test]
fn one_slip_at_a_time() {
    let complaints = [
        ("chain", "orcale = \"0x5FbDB2315678afecb367f032d93F642f64180aa3\""),
        ("chain", "oracle = \"0x5FbDB2315678afecb367f032d93F642f64180a\""),
        ("chain", "oracle = 5"),
        ("chain", "rpc_urls = [\"127.0.0.1:8545\"]"),
        ("chain", "rpc_urls = []"),
        ("chain", "rpc_urls = [\"http://a\", 7]"),
        ("chain", "chain_id = -1"),
        ("chain", "chain_id = 0"),
        ("chain", "confirmations = 2.5"),
        ("chain", "poll_interval = \"5 fortnights\""),
        ("chain", "poll_interval = \"0s\""),
        ("chain", "answer_within = \"0s\""),
        ("chain", "overlap = 1000"),
        ("chain", "max_fee_per_gas = \"5 gwei\""),
        ("gas", "bump_percent = 9"),
        ("gas", "max_fee_per_gas = \"5 gwai\""),
        ("gas", "max_fee_per_gas = 5"),
        ("gas", "max_fee_per_gas = true"),
        ("store", "path = 5"),
        ("store", "file = \"candor.db\""),
        ("models", "serve = [\"digit\"]"),
        ("models", "serve = [\"credit\", \"./credit\"]"),
        ("log", "format = \"yaml\""),
        ("logs", "format = \"json\""),
        ("metrics", "port = 9000"),
        ("http", "listen = \"localhost\""),
        ("operator.payout", "address = \"0x0000000000000000000000000000000000000000\""),
        ("operator.signer", "key = \"signer.json\""),
    ]
    .map(|(section, line)| format!("[{section}] {line}\n    {}", complaint_about(section, line)));
    insta::assert_snapshot!(complaints.join("\n"));
}

#[test]
fn secrets_are_refused_and_not_repeated() {
    let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    let words = "legal winner thank year wave sausage worth useful legal winner thank yellow";
    for (section, line) in [
        ("operator", format!("private_key = \"{key}\"")),
        ("operator", format!("signer = \"0x{key}\"")),
        ("chain", format!("oracle = \"0x{key}\"")),
        ("chain", format!("rpc_urls = [\"{key}\"]")),
        ("operator.account", format!("keystore = \"{key}\"")),
        ("operator.account", format!("mnemonic = \"{words}\"")),
        ("operator.account", format!("keystore = \"{words}\"")),
    ] {
        let complaint = complaint_about(section, &line);
        assert!(complaint.contains("keys do not belong in a configuration file"), "{line}: {complaint}");
        assert!(!complaint.contains(&key[..8]) && !complaint.contains("winner"), "{complaint}");
        assert!(!complaint.contains("problems"), "once is enough: {complaint}");
    }
    let complaint = complaint_about("operator.account", "password = \"hunter2\"");
    assert!(
        complaint.contains("`operator.account.password`: passwords do not belong") && !complaint.contains("hunter2")
    );
    let place = Place::with(GOOD);
    let complaint = place.complaint(&[("CANDOR_OPERATOR__ACCOUNT__PRIVATE_KEY", key)], &[]);
    assert!(complaint.starts_with("environment variable CANDOR_OPERATOR__ACCOUNT__PRIVATE_KEY: "), "{complaint}");
    assert!(!complaint.contains(&key[..8]));
}

#[test]
fn files_that_are_no_configuration() {
    let nowhere = Sources { file: Some("nowhere/candor.toml".into()), ..Sources::default() }.load(Needs::Nothing);
    assert_eq!(
        nowhere.unwrap_err().to_string(),
        "configuration file nowhere/candor.toml does not exist; `candor init --config nowhere/candor.toml` writes it"
    );
    let complaint = Place::with("[chain]\nchain_id = 1\noracle = \"0x").complaint(&[], &[]);
    assert!(complaint.starts_with("candor.toml:3: "), "{complaint}");
    let complaint = Place::with("[chain]\nchain_id = 1\nchain_id = 2\n").complaint(&[], &[]);
    assert!(complaint.starts_with("candor.toml:3: ") && complaint.contains("duplicate key"), "{complaint}");
    let place = Place::with("");
    std::fs::write(place.file(), [0xff, 0xfe, 0x00]).unwrap();
    assert!(place.complaint(&[], &[]).contains("cannot be read"), "{}", place.complaint(&[], &[]));
}

#[test]
fn what_is_missing_is_said_with_the_way_out() {
    let place = Place::with("");
    insta::assert_snapshot!(place.complaint(&[], &[]), @r#"
    3 problems in the configuration
      - `chain.rpc_urls` is missing: the address of at least one node. In section [chain]: rpc_urls = ["https://node.example"]; or --rpc-url https://node.example
      - `chain.chain_id` is missing: the number of the chain the nodes must be on. In section [chain]: chain_id = 1; or --set chain.chain_id=1
      - `chain.oracle` is missing: the address of the InferenceOracle contract. In section [chain]: oracle = "0x.."; or --oracle 0x..
    "#);
    let nothing = Sources { file: Some(place.file()), ..Sources::default() };
    assert_eq!(nothing.load(Needs::Nothing), Ok(Config::default()));
}

/// The template, with every setting that it shows switched on.
fn everything_on(text: &str) -> String {
    let is_setting = |line: &str| {
        line.starts_with('[')
            || line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let lines = text.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_template_shows_every_key_there_is_with_its_default() {
    let text = template(Preset::Public, &Known::default());
    let full: toml_edit::ImDocument<String> = toml_edit::ImDocument::parse(everything_on(&text)).unwrap();
    for key in known_keys() {
        let found = key.split('.').try_fold(full.as_item(), |item, part| item.get(part));
        assert!(found.is_some(), "the template says nothing about {key}");
    }
    // As it stands it is the default configuration, but for the operator's presence.
    let place = Place::with(&text);
    let mut config = Sources { file: Some(place.file()), ..Sources::default() }.load(Needs::Nothing).unwrap();
    let operator = config.operator.take().unwrap();
    assert_eq!(operator.min_fee, BTreeMap::from([("default".to_owned(), DEFAULT_MIN_FEE)]));
    assert_eq!(operator.account, KeySource::default());
    config.store.path = StoreConfig::default().path; // made relative to the file
    assert_eq!(config, Config::default());
    assert!(place.complaint(&[], &[]).contains("`chain.oracle` is missing"), "what must be filled in is not filled in");
    insta::assert_snapshot!(text);
}

#[test]
fn the_anvil_template_is_complete_once_the_oracle_is_known() {
    let keystore = Some(Path::new("operator.json"));
    let known = Known { oracle: Some(Address::repeat_byte(0x11)), keystore, ..Known::default() };
    let place = Place::with(&template(Preset::Anvil, &known));
    let config = place.load(&[], &[]).unwrap();
    assert_eq!(config.chain.oracle, Address::repeat_byte(0x11));
    assert_eq!(config.chain.chain_id, 31337);
    assert_eq!(
        config.operator.unwrap().account.keystore.as_deref(),
        Some(place.0.path().join("operator.json").as_path())
    );
}

#[test]
fn keys_are_known_by_asking_the_types() {
    let keys: Vec<&str> = known_keys().iter().map(String::as_str).collect();
    for key in ["chain.oracle", "operator.account.keystore", "operator.payout.threshold", "models.serve", "log.format"]
    {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    assert!(keys.contains(&"operator.min_fee"), "a table of free names is one key: {keys:?}");
}

#[test]
fn the_manual_has_every_key_with_its_default() {
    let manual = include_str!("../../../docs/relayer.md");
    for key in known_keys() {
        assert!(manual.contains(&format!("| `{key}` |")), "docs/relayer.md says nothing about {key}");
    }
    let (chain, gas) = (ChainConfig::default(), GasConfig::default());
    for (key, default) in [
        ("chain.start_block", chain.start_block.to_string()),
        ("chain.confirmations", chain.confirmations.to_string()),
        ("chain.poll_interval", format_duration(chain.poll_interval)),
        ("chain.answer_within", format_duration(chain.answer_within)),
        ("chain.max_block_range", chain.max_block_range.to_string()),
        ("chain.overlap", chain.overlap.to_string()),
        ("operator.min_fee", DEFAULT_MIN_FEE.to_string()),
        ("operator.payout.threshold", PayoutConfig::default().threshold.to_string()),
        ("gas.max_fee_per_gas", gas.max_fee_per_gas.to_string()),
        ("gas.bump_after", format_duration(gas.bump_after)),
        ("gas.bump_percent", gas.bump_percent.to_string()),
        ("gas.daily_cap", gas.daily_cap.to_string()),
        ("store.path", StoreConfig::default().path.display().to_string()),
        ("log.level", LogConfig::default().level),
    ] {
        assert!(
            manual.contains(&format!("| `{key}` | {default} |")),
            "docs/relayer.md has another default than {default} for {key}"
        );
    }
}

//! The command line as people get it wrong: by running the program, without a chain.
use std::{
    path::Path,
    process::{Command, Output},
};

/// A person in a folder of their own.
struct Person(tempfile::TempDir);

impl Person {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.folder().join(name), contents).expect("a file in it");
    }

    fn types_with(&self, env: &[(&str, &str)], args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
        command.current_dir(self.folder()).args(args).stdin(std::process::Stdio::null());
        // Whatever the person who runs the tests has set is not this person's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CANDOR_")) {
            command.env_remove(name);
        }
        command.envs(env.iter().copied()).output().expect("the program starts")
    }

    fn types(&self, args: &[&str]) -> Output {
        self.types_with(&[], args)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn complained(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Fails with this code and says this.
#[track_caller]
fn refused(output: &Output, code: i32, complaint: &str) {
    let text = complained(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.starts_with("error: ") && text.contains(complaint), "expected {complaint:?} in: {text}");
}

const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const ORACLE: &str = "0x5FbDB2315678afecb367f032d93F642f64180aa3";

/// A configuration for a chain that is not there: nothing listens on this port of this machine.
fn good_config() -> String {
    format!("[chain]\nrpc_urls = [\"http://127.0.0.1:9\"]\nchain_id = 31337\noracle = \"{ORACLE}\"\n[operator]\n")
}

#[test]
fn the_help_says_what_there_is_and_what_the_exit_codes_mean() {
    let person = Person::new();
    let output = person.types(&["--help"]);
    assert!(output.status.success());
    let help = said(&output);
    for word in ["demo", "run", "init", "doctor", "request", "result", "model", "operator", "status", "Exit codes:"] {
        assert!(help.contains(word), "{word} in: {help}");
    }
    assert!(said(&person.types(&["--version"])).starts_with("candor "));
    let output = person.types(&["statsu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(complained(&output).contains("similar subcommand exists: 'status'"), "{}", complained(&output));
}

#[test]
fn without_a_configuration_the_way_out_is_named() {
    for args in [&["run"][..], &["status"], &["operator", "join"], &["result", "1"]] {
        let output = Person::new().types(args);
        refused(&output, 2, "there is no candor.toml here: `candor init` writes one");
        assert!(complained(&output).contains("`chain.oracle` is missing"));
    }
}

/// Whoever has nothing yet hears at once of everything that deploying takes: what, where to put it, an example.
#[test]
fn what_a_command_needs_is_said_at_once() {
    let nothing = Person::new();
    let node = "`chain.rpc_urls` is missing: the address of at least one node. In section [chain]: rpc_urls = [\"https://node.example\"]; or --rpc-url https://node.example";
    let chain = "`chain.chain_id` is missing: the number of the chain the nodes must be on. In section [chain]: chain_id = 1; or --set chain.chain_id=1";
    let oracle = "`chain.oracle` is missing: the address of the InferenceOracle contract. In section [chain]: oracle = \"0x..\"; or --oracle 0x..";
    let key = "no account key: name a keystore in operator.account.keystore (`candor init --new-key` makes one), or set CANDOR_PRIVATE_KEY";
    let file = "there is no candor.toml here: `candor init` writes one";
    let all = |output: &Output, complaints: &[&str]| {
        refused(output, 2, &format!("{} problems in the configuration", complaints.len()));
        for complaint in complaints {
            refused(output, 2, complaint);
        }
    };
    all(&nothing.types(&["deploy"]), &[file, node, chain, key]);
    all(&nothing.types(&["deploy", "--rpc-url", "http://127.0.0.1:9"]), &[file, chain, key]);
    all(&nothing.types_with(&[("CANDOR_PRIVATE_KEY", KEY)], &["deploy"]), &[file, node, chain]);
    all(&nothing.types(&["model", "register", "credit"]), &[file, node, chain, oracle, key]);
    all(&nothing.types(&["operator", "join"]), &[file, node, chain, oracle, key]);
    all(&nothing.types(&["request", "--model", "credit", "--applicant", ""]), &[file, node, chain, oracle, key]);
    // Nobody pays for a look.
    all(&nothing.types(&["operator", "show"]), &[file, node, chain, oracle]);
    // What `candor init` writes for a chain that has no contracts yet is short of an account and the chain.
    assert!(nothing.types(&["init"]).status.success());
    all(&nothing.types(&["deploy"]), &[node, chain, key]);
    let complete = ["deploy", "--rpc-url", "http://127.0.0.1:9", "--set", "chain.chain_id=1"];
    refused(&nothing.types(&complete), 1, key);
}

#[test]
fn init_writes_what_can_be_read_and_replaces_nothing() {
    let person = Person::new();
    let output = person.types(&["init", "--anvil", "--oracle", ORACLE]);
    assert!(output.status.success(), "{}", complained(&output));
    assert!(said(&output).contains("wrote candor.toml"));
    let written = std::fs::read_to_string(person.folder().join("candor.toml")).unwrap();
    assert!(written.contains(ORACLE));
    refused(&person.types(&["init"]), 2, "candor.toml exists already; --force replaces it");
    assert_eq!(std::fs::read_to_string(person.folder().join("candor.toml")).unwrap(), written);
    let output = person.types(&["init", "--force", "--json"]);
    assert!(output.status.success());
    let value: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(value["event"], "initialised");
    assert_ne!(std::fs::read_to_string(person.folder().join("candor.toml")).unwrap(), written);
    refused(&person.types(&["init", "--config", "other.toml", "--oracle", "0x12"]), 2, "\"0x12\" is not an address");
    refused(&person.types(&["init", "--config", "other.toml", "--rpc-url", "node"]), 2, "not the address of a node");
    refused(&person.types(&["init", "--config", "other.toml", "--set", "gas.daily_cap=1"]), 2, "--set gas.daily_cap");
    let nodes = ["--rpc-url", "https://a.example/key", "--rpc-url", "https://b.example"];
    let output = person.types(&[&["init", "--config", "nodes.toml", "--oracle", ORACLE][..], &nodes].concat());
    assert!(said(&output).contains("fill in chain.chain_id"), "{}", said(&output));
    let written = std::fs::read_to_string(person.folder().join("nodes.toml")).unwrap();
    assert!(written.contains(r#"rpc_urls = ["https://a.example/key", "https://b.example/"]"#), "{written}");
    assert!(!person.folder().join("other.toml").exists());
}

#[test]
fn a_new_key_is_encrypted_and_never_replaces_another() {
    let person = Person::new();
    refused(
        &person.types(&["init", "--new-key"]),
        1,
        "no password for keystore operator.json: set CANDOR_KEYSTORE_PASSWORD",
    );
    assert!(!person.folder().join("candor.toml").exists(), "no half-done work");
    let password = [("CANDOR_KEYSTORE_PASSWORD", "correct horse")];
    let output = person.types_with(&password, &["init", "--new-key"]);
    assert!(output.status.success(), "{}", complained(&output));
    let keystore = std::fs::read_to_string(person.folder().join("operator.json")).unwrap();
    assert!(keystore.contains("\"crypto\"") && !keystore.contains("correct horse"));
    refused(&person.types_with(&password, &["init", "--new-key", "--force"]), 1, "a key file is never overwritten");
    assert_eq!(std::fs::read_to_string(person.folder().join("operator.json")).unwrap(), keystore);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(person.folder().join("operator.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_slip_in_the_configuration_is_shown_with_its_line() {
    let person = Person::new();
    person.write("candor.toml", good_config().replace("oracle =", "orcale =") + "acount = 5\n");
    let output = person.types(&["run"]);
    refused(&output, 2, "3 problems in the configuration");
    let text = complained(&output);
    assert!(text.contains("candor.toml:4: unknown key `chain.orcale`, did you mean `chain.oracle`?"), "{text}");
    assert!(text.contains("candor.toml:6: unknown key `operator.acount`, did you mean `operator.account`?"), "{text}");
    // The same by flag and by variable.
    refused(&person.types(&["run", "--set", "chain.oracel=x"]), 2, "command line: unknown key `chain.oracel`");
    let output = person.types_with(&[("CANDOR_GAS__DAILY_CAP", "5")], &["run"]);
    refused(&output, 2, "environment variable CANDOR_GAS__DAILY_CAP: `gas.daily_cap`: \"5\" has no unit");
    refused(&person.types(&["run", "--config", "nowhere.toml"]), 2, "configuration file nowhere.toml does not exist");
}

/// Each says what is wrong, where, and what would be right.
#[test]
fn settings_that_can_not_work_are_named() {
    let person = Person::new();
    person.write("candor.toml", good_config());
    for (setting, code, complaint) in [
        ("log.level=lout", 2, "`log.level`: \"lout\" is no level: there are off, error, warn, info, debug, trace, and"),
        ("log.level=info,candor_relayer=wran", 2, "`log.level`: \"wran\" is no level, did you mean \"warn\"?"),
        ("http.listen=9464", 2, "\"9464\" is no address with a port, such as \"127.0.0.1:9464\""),
        ("store.path=.", 1, "can't be opened: this is a folder; name a file in it ([store] path)"),
        ("store.url=postgres://me:hunter2@127.0.0.1:9/db", 1, "database postgres://127.0.0.1:9/db can't be opened: "),
    ] {
        let output = person.types(&["status", "--set", setting]);
        refused(&output, code, complaint);
        let text = complained(&output);
        assert!(!text.contains("hunter2") && !text.contains("pool timed out"), "{text}");
    }
    let output = person.types_with(&[("CANDOR_LOG", "loud")], &["status"]);
    refused(&output, 2, "log level: \"loud\" is no level");
}

#[test]
fn keys_that_are_not_there_or_not_right() {
    let person = Person::new();
    person.write("candor.toml", good_config());
    refused(&person.types(&["run"]), 1, "no account key: name a keystore in operator.account.keystore");
    let output = person.types_with(&[("CANDOR_PRIVATE_KEY", &KEY[1..])], &["run"]);
    refused(
        &output,
        1,
        "environment variable CANDOR_PRIVATE_KEY is not a private key: it has 63 hexadecimal digits instead of 64",
    );
    assert!(!complained(&output).contains(&KEY[1..9]));
    refused(&person.types_with(&[("CANDOR_PRIVATE_KEY", "")], &["run"]), 1, "CANDOR_PRIVATE_KEY is empty");

    person.types_with(&[("CANDOR_KEYSTORE_PASSWORD", "right")], &["init", "--config", "other.toml", "--new-key"]);
    person.write("candor.toml", good_config() + "account = { keystore = \"operator.json\" }\n");
    let output = person.types_with(&[("CANDOR_KEYSTORE_PASSWORD", "wrong")], &["run"]);
    refused(&output, 1, "wrong password for keystore");
    refused(&person.types(&["run"]), 1, "there is no terminal to ask on");
    let both = [("CANDOR_KEYSTORE_PASSWORD", "right"), ("CANDOR_PRIVATE_KEY", KEY)];
    refused(&person.types_with(&both, &["run"]), 1, "both operator.account.keystore and the environment variable");
    person.write("candor.toml", good_config() + "account = { keystore = \"nowhere.json\" }\n");
    refused(&person.types(&["run"]), 1, "nowhere.json does not exist");
    person.write("candor.toml", good_config() + &format!("account = {{ keystore = \"{KEY}\" }}\n"));
    let output = person.types(&["run"]);
    refused(&output, 2, "looks like a private key; keys do not belong in a configuration file");
    assert!(!complained(&output).contains(&KEY[..8]));
}

#[test]
fn questions_that_make_no_sense_are_refused_before_anything_is_sent() {
    let person = Person::new();
    person.write("candor.toml", good_config());
    person.write("notes.png", "these are notes");
    let ask = |args: &[&str]| {
        let output = person.types_with(&[("CANDOR_PRIVATE_KEY", KEY)], &[&["request", "--model"], args].concat());
        (output.status.code(), complained(&output))
    };
    for (args, code, complaint) in [
        (&["digit", "--image", "x.png"][..], 1, "there is no model \"digit\", did you mean \"digits\"?"),
        (&["./nowhere", "--input-hex", "00"], 1, "cannot read ./nowhere"),
        (&["digits", "--image", "x.png"], 1, "picture x.png"),
        (&["digits", "--image", "notes.png"], 1, "not a PNG file"),
        (&["credit", "--image", "notes.png"], 2, "--image is for models that take 28x28 pixels"),
        (&["digits", "--applicant", "purpose=new_car"], 2, "--applicant is for the credit model"),
        (&["credit", "--applicant", "purpose=new_cat"], 2, "did you mean new_car?"),
        (&["credit", "--applicant", "porpoise=new_car"], 2, "unknown key \"porpoise\", did you mean \"purpose\"?"),
        (&["credit", "--input-hex", "0x00"], 1, "the input has 1 byte, this model takes 80"),
        (&["credit", "--input-hex", "0xyz"], 2, "invalid value"),
        (&["credit"], 2, "required arguments were not provided"),
        (&["credit", "--input-hex", "00", "--image", "x.png"], 2, "cannot be used with"),
        (&["credit", "--applicant", "", "--max-fee", "5"], 2, "\"5\" has no unit"),
        (&["credit", "--applicant", "", "--timeout", "5"], 2, "\"5\" has no unit"),
        // Good, and nobody to ask.
        (&["credit", "--applicant", "purpose=new_car"], 1, "http://127.0.0.1:9: "),
    ] {
        let (got, text) = ask(args);
        assert_eq!(got, Some(code), "{args:?}: {text}");
        assert!(text.contains(complaint), "{args:?}: expected {complaint:?} in: {text}");
    }
    let output = person.types(&["request", "--model", "credit", "--applicant", "list"]);
    assert!(said(&output).contains("new_car"));
}

#[test]
fn results_that_are_none() {
    let person = Person::new();
    refused(
        &person.types(&["result", "nowhere.json"]),
        2,
        "\"nowhere.json\" is neither the number of a request nor a file",
    );
    person.write("other.json", "{}");
    refused(&person.types(&["result", "other.json"]), 1, "other.json is not a signed result");
}

#[test]
fn the_models_are_listed_without_a_chain() {
    let person = Person::new();
    let output = person.types(&["model", "list"]);
    assert!(output.status.success(), "{}", complained(&output));
    let text = said(&output);
    assert!(text.contains("credit") && text.contains("digits") && text.contains("no chain configured"), "{text}");
    let output = person.types(&["model", "show", "digits", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!((&value["model"], &value["min_input_bytes"]), (&"digits".into(), &784.into()));
    let drawn = said(&person.types(&["model", "show", "digits"]));
    assert!(drawn.contains("multiply-adds a position") && drawn.contains("RowMax"), "{drawn}");
    // By its id it is the same model.
    let id = value["id"].as_str().unwrap();
    assert_eq!(said(&person.types(&["model", "show", id, "--json"])), said(&output));
    refused(&person.types(&["model", "show", "digitz"]), 1, "did you mean \"digits\"?");
    let wrong = format!("0x{}", "00".repeat(32));
    refused(&person.types(&["model", "show", &wrong]), 1, "neither embedded nor configured here");
    person.write("config.json", "{}");
    refused(&person.types(&["model", "show", "."]), 1, "model.safetensors");
    person.write("model.safetensors", "");
    refused(&person.types(&["model", "show", "."]), 1, "config.json: missing field `architecture`");
}

#[test]
fn the_doctor_says_everything_at_once() {
    let person = Person::new();
    person.write(
        "candor.toml",
        good_config() + "account = { keystore = \"nowhere.json\" }\n[models]\nserve = [\"credit\", \"./nowhere\"]\n[store]\npath = \"db\"\n",
    );
    person.write(
        "db",
        "this is no database, but long enough to be looked at as one: it has more than a hundred characters in it.",
    );
    let output = person.types(&["doctor"]);
    assert_eq!(output.status.code(), Some(3), "{}", complained(&output));
    let text = said(&output);
    for line in
        ["ok    config", "BAD   keys", "ok    models", "BAD   models", "BAD   database", "BAD   node", "4 to repair"]
    {
        assert!(text.contains(line), "{line:?} in: {text}");
    }
    let output = person.types(&["doctor", "--json"]);
    let lines: Vec<serde_json::Value> = said(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["bad"], 4);
    person.write("candor.toml", "[chain]\nchain_id = 0\n");
    let output = person.types(&["doctor"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(said(&output).matches("BAD   config").count(), 3);
}

#[test]
fn the_demo_refuses_inputs_that_are_none_before_it_starts_anything() {
    let person = Person::new();
    person.write("notes.png", "these are notes");
    refused(&person.types(&["demo", "--image", "notes.png"]), 2, "picture notes.png: not a PNG file");
    refused(&person.types(&["demo", "--applicant", "age=5"]), 2, "this is not a loan application");
    refused(&person.types(&["demo", "--requests", "0"]), 2, "there is nothing to ask");
    let output = person.types_with(&[("CANDOR_ANVIL", "nowhere")], &["demo"]);
    refused(&output, 1, "CANDOR_ANVIL names nowhere, which is not a program");
    let output = person.types_with(&[("CANDOR_ANVIL", "nowhere")], &["demo", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(value["event"], "error");
}

#[test]
fn a_model_is_imported_checked_and_held_to_its_id() {
    let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits");
    let person = Person::new();
    let output = person.types(&["model", "import", digits]);
    assert!(output.status.success(), "{}", complained(&output));
    let report = said(&output);
    assert!(report.contains("layers[1].conv2d") && report.contains("same argmax 3/3"), "{report}");
    let id = report.split_whitespace().find(|word| word.starts_with("0x")).expect("an id");
    assert!(person.types(&["model", "verify", digits, "--id", id]).status.success());
    let other = format!("0x{}", "11".repeat(32));
    refused(
        &person.types(&["model", "verify", digits, "--id", &other]),
        1,
        &format!("the files are model {id}, not {other}"),
    );
    refused(&person.types(&["model", "import", "nowhere"]), 1, "nowhere");
}

#[test]
fn bench_measures_every_format_and_never_the_wrong_device() {
    let person = Person::new();
    for weights in ["f32", "f16", "bf16", "q8_0", "q8_128"] {
        let args = ["--json", "bench", "--weights", weights, "--prompt", "5", "--tokens", "3", "--batch", "2"];
        let output = person.types(&args);
        assert!(output.status.success(), "{weights}: {}{}", said(&output), complained(&output));
        assert!(said(&output).contains(r#""event":"bench""#), "{}", said(&output));
    }
    // A GPU that is not there is an error, not a run on the CPU.
    let output = person.types(&["bench", "--device", "cuda:63"]);
    refused(&output, 1, "cuda:63");
    assert!(said(&output).is_empty(), "{}", said(&output));
}

use super::*;
use crate::config::PathSetting;
use std::{cell::RefCell, fs};

/// A key everybody knows: anvil's first.
const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

struct World {
    place: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
    typed: RefCell<Vec<&'static str>>,
    terminal: bool,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        Self { place, variables: Vec::new(), typed: RefCell::default(), terminal: false }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn source(&self, keystore: &str, password_file: Option<&str>) -> KeySource {
        let setting = |name: &str| PathSetting(self.path(name));
        KeySource {
            keystore: Some(setting(keystore)),
            password_file: password_file.map(setting),
            ..KeySource::default()
        }
    }

    fn within<T>(&self, act: impl FnOnce(&Surroundings<'_>) -> T) -> T {
        let variable =
            |name: &str| self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let prompt = |_: &str| match self.typed.borrow_mut().pop() {
            Some(text) => Ok(SecretString::from(text)),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nobody typed")),
        };
        act(&Surroundings { variable: &variable, prompt: self.terminal.then_some(&prompt) })
    }

    fn load(&self, source: Option<&KeySource>) -> Result<SigningKey, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        self.within(|surroundings| runtime.block_on(load(ACCOUNT, source, 31337, surroundings))).map_err(|error| {
            let (text, debug) = (error.to_string(), format!("{error:?}"));
            for secret in [&KEY[..8], "correct horse", "battery"] {
                assert!(!text.contains(secret) && !debug.contains(secret), "an error repeats a secret: {debug}");
            }
            text.replace(&format!("{}/", self.place.path().display()), "")
        })
    }
}

#[test]
fn from_the_environment() {
    for text in [KEY.to_owned(), format!("0x{KEY}"), format!("  {KEY}\n")] {
        let world = World { variables: vec![(ACCOUNT.key_variable, text)], ..World::new() };
        assert_eq!(world.load(None).unwrap().address().to_string(), ADDRESS);
        assert_eq!(world.load(Some(&KeySource::default())).unwrap().address().to_string(), ADDRESS);
    }
    let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    for (text, complaint) in [
        ("", "environment variable CANDOR_PRIVATE_KEY is empty"),
        (" ", "environment variable CANDOR_PRIVATE_KEY is empty"),
        (&KEY[..63], "it has 63 hexadecimal digits instead of 64"),
        (&KEY.replace('a', "g"), "it has characters other than hexadecimal digits"),
        ("operator.json", "it has characters other than hexadecimal digits"),
        (&"0".repeat(64), "the number is zero or too large to be one"),
        (order, "the number is zero or too large to be one"),
    ] {
        let world = World { variables: vec![(ACCOUNT.key_variable, text.to_owned())], ..World::new() };
        let error = world.load(None).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
    assert_eq!(
        World::new().load(None).unwrap_err(),
        "no account key: name a keystore in operator.account.keystore (`candor init --new-key` makes one), or set CANDOR_PRIVATE_KEY"
    );
}

#[test]
fn a_keystore_is_made_and_opened_again() {
    let mut world = World::new();
    world.variables = vec![(ACCOUNT.password_variable, "correct horse".into())];
    let path = world.path("keys/operator.json");
    let address = world.within(|surroundings| create(&path, surroundings)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "for its owner's eyes only");
    }
    assert_eq!(fs::read_dir(world.path("keys")).unwrap().count(), 1, "nothing is left beside it");
    let source = world.source("keys/operator.json", None);
    assert_eq!(world.load(Some(&source)).unwrap().address(), address);

    // The password from a file, with the line break an editor leaves.
    world.variables.clear();
    fs::write(world.path("password"), "correct horse\n").unwrap();
    let with_file = world.source("keys/operator.json", Some("password"));
    assert_eq!(world.load(Some(&with_file)).unwrap().address(), address);

    // From a person.
    world.terminal = true;
    world.typed = RefCell::new(vec!["correct horse"]);
    assert_eq!(world.load(Some(&source)).unwrap().address(), address);
    world.typed = RefCell::new(vec!["battery"]);
    let error = world.load(Some(&source)).unwrap_err();
    assert_eq!(error, "wrong password for keystore keys/operator.json (from the terminal)");

    world.terminal = false;
    let error = world.load(Some(&source)).unwrap_err();
    assert!(error.starts_with("no password for keystore keys/operator.json: set CANDOR_KEYSTORE_PASSWORD"), "{error}");
    world.variables = vec![(ACCOUNT.password_variable, "battery".into())];
    let error = world.load(Some(&source)).unwrap_err();
    assert_eq!(error, "wrong password for keystore keys/operator.json (from CANDOR_KEYSTORE_PASSWORD)");
    world.variables = vec![(ACCOUNT.password_variable, String::new())];
    assert_eq!(world.load(Some(&source)).unwrap_err(), "the password from CANDOR_KEYSTORE_PASSWORD is empty");
    world.variables = vec![(ACCOUNT.key_variable, KEY.into())];
    let error = world.load(Some(&source)).unwrap_err();
    assert!(error.starts_with("both operator.account.keystore and the environment variable CANDOR_PRIVATE_KEY"));
}

#[test]
fn an_existing_file_is_never_replaced_and_a_mistyped_password_makes_nothing() {
    let mut world = World { terminal: true, ..World::new() };
    let path = world.path("operator.json");
    for (typed, complaint) in [
        (vec!["correct horse", "battery"], "the two passwords differ; nothing was written"),
        (vec![""], "the password from the terminal is empty"),
    ] {
        world.typed = RefCell::new(typed);
        let error = world.within(|surroundings| create(&path, surroundings)).unwrap_err();
        assert_eq!(error.to_string(), complaint);
        assert!(!path.exists());
    }
    fs::write(&path, "precious").unwrap();
    world.typed = RefCell::new(vec!["correct horse", "correct horse"]);
    let error = world.within(|surroundings| create(&path, surroundings)).unwrap_err();
    assert!(matches!(error, KeyError::Exists(_)), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn files_that_are_no_keystore() {
    let mut world = World::new();
    world.variables = vec![(ACCOUNT.password_variable, "correct horse".into())];
    let good = world.path("good.json");
    world.within(|surroundings| create(&good, surroundings)).unwrap();
    let good = fs::read_to_string(good).unwrap();
    for (text, complaint) in [
        (String::new(), "it is not JSON"),
        (KEY.to_owned(), "it is not JSON"),
        ("{}".into(), "it has no \"crypto\" section"),
        ("5".into(), "it has no \"crypto\" section"),
        (good.replace("aes-128-ctr", "rot13"), "its cipher is not aes-128-ctr"),
        (good.replace("\"dklen\":32", "\"dklen\":16"), "its derived key is shorter than 32 bytes"),
        (good.replace("\"iv\":\"", "\"iv\":\"00"), "its initialisation vector does not have 16 bytes"),
        (good.replace("\"kdf\":\"scrypt\"", "\"kdf\":\"guess\""), "guess"),
        (good.replace("\"mac\":\"", "\"mac\":\"00"), "wrong password"),
        (good[..good.len() / 2].to_owned(), "it is not JSON"),
    ] {
        fs::write(world.path("bad.json"), &text).unwrap();
        let error = world.load(Some(&world.source("bad.json", None))).unwrap_err();
        assert!(error.contains("bad.json") && error.contains(complaint), "{text}: {error}");
    }
    let error = world.load(Some(&world.source("none.json", None))).unwrap_err();
    assert_eq!(error, "keystore none.json does not exist; `candor init --new-key` makes one");
    fs::create_dir(world.path("folder")).unwrap();
    let error = world.load(Some(&world.source("folder", None))).unwrap_err();
    assert!(error.starts_with("cannot read keystore folder: "), "{error}");
    fs::write(world.path("good2.json"), good).unwrap();
    let error = world.load(Some(&world.source("good2.json", Some("nofile")))).unwrap_err();
    assert!(error.starts_with("cannot read password file nofile: "), "{error}");
}

#[test]
fn of_all_places_for_a_key_one_is_named() {
    let world = World { variables: vec![(ACCOUNT.key_variable, KEY.to_owned())], ..World::new() };
    let elsewhere = |kind: KeyKind| {
        let key = Some("somewhere".to_owned());
        match kind {
            KeyKind::AwsKms => KeySource { aws_kms: key, ..KeySource::default() },
            KeyKind::GcpKms => KeySource { gcp_kms: key, ..KeySource::default() },
            _ => KeySource { ledger: key, ..KeySource::default() },
        }
    };
    for (kind, built) in [
        (KeyKind::AwsKms, cfg!(feature = "aws")),
        (KeyKind::GcpKms, cfg!(feature = "gcp")),
        (KeyKind::Ledger, cfg!(feature = "ledger")),
    ] {
        let setting = format!("operator.account.{}", kind.setting());
        let error = world.load(Some(&elsewhere(kind))).unwrap_err();
        assert_eq!(
            error,
            format!(
                "both {setting} and the environment variable CANDOR_PRIVATE_KEY are set; unset the one that is not meant"
            )
        );
        if built {
            continue; // what is found there is another matter
        }
        let error = World::new().load(Some(&elsewhere(kind))).unwrap_err();
        let feature = kind.feature();
        assert_eq!(
            error,
            format!(
                "{setting} is set, and this candor was built without {kind}s: build it with `cargo build --release --features {feature} --bin candor`"
            )
        );
    }
    let both = KeySource { aws_kms: Some("a".into()), ledger: Some("b".into()), ..KeySource::default() };
    let error = World::new().load(Some(&both)).unwrap_err();
    assert!(error.starts_with("both operator.account.aws_kms and operator.account.ledger are set"), "{error}");
}

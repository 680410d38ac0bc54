//! The files in `ops/`: what they name exists.

use candor_relayer::{config, ops::metrics};
use std::{collections::BTreeSet, fs, path::Path};

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops").join(name)).expect("the file is there")
}

/// Metrics that a text names, without the endings that a histogram adds to its name.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("candor_") || word.starts_with("process_"));
    ours.map(|word| {
        let ends = ["_bucket", "_sum", "_count"];
        let whole = ends.iter().find_map(|end| word.strip_suffix(end));
        whole
            .filter(|name| {
                metrics::ALL.iter().any(|(known, kind, _)| known == name && *kind == metrics::Kind::Histogram)
            })
            .unwrap_or(word)
    })
    .collect()
}

#[test]
fn every_metric_in_the_alerts_and_the_dashboard_exists() {
    let known: BTreeSet<&str> = metrics::ALL.iter().map(|(name, ..)| *name).collect();
    let (alerts, dashboard) = (file("alerts.yml"), file("grafana.json"));
    for (place, text) in [("alerts.yml", &alerts), ("grafana.json", &dashboard)] {
        let named = named(text);
        assert!(named.len() > 10, "{place} names only {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{place} names metrics that do not exist: {unknown:?}");
    }
    let unseen: Vec<_> = known.difference(&named(&dashboard)).copied().collect();
    assert_eq!(unseen, Vec::<&str>::new(), "the dashboard shows everything there is");
    assert!(serde_json::from_str::<serde_json::Value>(&dashboard).is_ok());
}

#[test]
fn every_alert_says_what_to_do() {
    let alerts = file("alerts.yml");
    let rules: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() >= 12, "{}", rules.len());
    for rule in rules {
        for part in ["expr: ", "severity: ", "summary: ", "action: "] {
            assert!(rule.contains(part), "no {part} in: {rule}");
        }
    }
}

#[test]
fn settings_in_the_unit_and_the_container_exist() {
    let known: BTreeSet<String> = config::known_keys().iter().map(|key| config::variable(key)).collect();
    for (place, text) in [("candor.service", file("candor.service")), ("Dockerfile", file("Dockerfile"))] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let variables: Vec<&str> = words.filter(|word| word.starts_with("CANDOR_") && word.contains("__")).collect();
        assert!(!variables.is_empty(), "{place}");
        for variable in variables {
            assert!(known.contains(variable), "{place}: {variable} is no setting");
        }
        for key in text.split("--set ").skip(1).filter_map(|rest| rest.split('=').next()) {
            assert!(config::known_keys().iter().any(|known| known == key), "{place}: {key} is no setting");
        }
    }
}

/// Words of a command after the program's name, its continuation lines joined.
fn words(command: &str) -> Vec<&str> {
    command.split_whitespace().filter(|word| *word != "\\").collect()
}

/// Whether the program knows these words: it explains them instead of complaining.
fn is_understood(arguments: &[&str]) -> bool {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_candor")).args(arguments).arg("--help").output();
    output.is_ok_and(|output| output.status.success())
}

/// The values of a key of the unit.
fn of_unit<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
}

#[test]
fn commands_in_the_unit_the_container_and_the_alerts_are_the_programs() {
    assert!(!is_understood(&["run", "--no-such-flag"]) && !is_understood(&["runn"]), "the program takes anything");
    let unit = file("candor.service");
    let start = words(of_unit(&unit, "ExecStart")[0]);
    assert_eq!(start[0], "/usr/local/bin/candor");
    assert!(is_understood(&start[1..]), "{start:?}");
    let dockerfile = file("Dockerfile");
    let list = |key: &str| -> Vec<String> {
        let line = dockerfile.lines().find_map(|line| line.strip_prefix(key)).expect("it is there");
        serde_json::from_str(line.trim()).expect("a list")
    };
    assert_eq!(list("ENTRYPOINT"), ["candor"]);
    assert!(is_understood(&list("CMD").iter().map(String::as_str).collect::<Vec<_>>()));
    let alerts = file("alerts.yml").replace("-u candor", ""); // a unit, no command
    let mut named = 0;
    for rest in alerts.split("candor ").skip(1) {
        let command: Vec<&str> = rest
            .split_whitespace()
            .map_while(|word| {
                let bare = word.trim_end_matches([',', ';', ':', '"', '.']);
                (bare.bytes().all(|byte| byte.is_ascii_lowercase()) && !bare.is_empty()).then_some((bare, bare != word))
            })
            .scan(false, |ended, (word, last)| (!std::mem::replace(ended, last)).then_some(word))
            .collect();
        if let Some(first) = command.first()
            && is_understood(&[first])
        {
            named += 1;
            if *first == "operator" {
                assert!(is_understood(&command[..2]), "{command:?}");
            }
        } else {
            panic!("alerts.yml says `candor {}`, which is no command", command.join(" "));
        }
    }
    assert!(named > 5, "{named}");
}

#[test]
fn paths_ports_and_versions_of_the_unit_and_the_container_agree() {
    let (unit, dockerfile) = (file("candor.service"), file("Dockerfile"));
    // systemd makes the folder that the unit works in, and owns its permissions.
    assert_eq!(of_unit(&unit, "WorkingDirectory"), [format!("/var/lib/{}", of_unit(&unit, "StateDirectory")[0])]);
    let start = of_unit(&unit, "ExecStart")[0];
    let config = start.split("--config ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a configuration");
    let (folder, name) = config.rsplit_once('/').expect("a path");
    assert!(unit.contains(&format!("install -m 0640 -g candor {name} operator.json {folder}/")), "{config}");
    assert!(of_unit(&unit, "ReadWritePaths").contains(&"/tmp"), "key locks are there");
    let credential = of_unit(&unit, "LoadCredential")[0].split_once(':').expect("a name and a path").1;
    assert!(unit.contains(&format!("install -m 0600 password {credential}")), "{credential}");
    // What the container listens on is what Prometheus asks and what is published.
    let port = dockerfile.lines().find_map(|line| line.strip_prefix("EXPOSE ")).expect("a port");
    for (place, text) in
        [("candor.service", &unit), ("prometheus.yml", &file("prometheus.yml")), ("Dockerfile", &dockerfile)]
    {
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{place}: {port}");
    }
    assert!(dockerfile.contains(&format!("CANDOR_HTTP__LISTEN=0.0.0.0:{port}")));
    assert!(
        dockerfile.contains("CANDOR_CONFIG=/etc/candor/candor.toml")
            && dockerfile.contains("candor.toml:/etc/candor/candor.toml:ro")
    );
    // It is built by the compiler that everything is tested with.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let toolchain = fs::read_to_string(root.join("rust-toolchain.toml")).expect("it is there");
    let version = dockerfile.split("FROM rust:").nth(1).and_then(|rest| rest.split('-').next()).expect("a version");
    assert!(toolchain.contains(&format!("channel = \"{version}")), "{version}");
    let ignored = fs::read_to_string(root.join(".dockerignore")).expect("or gigabytes are copied");
    for folder in ["target", "node_modules", ".git"] {
        assert!(ignored.lines().any(|line| line == folder), "{folder}");
    }
}

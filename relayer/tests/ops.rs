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

//! Layers the sources, reads the result, and finds everything that is wrong with it.
//!
//! serde stops at the first error. Here the offending setting is noted, taken out of the layer it came from, and the rest is read again,
//! until nothing is wrong any more; so one run shows all the problems there are.
use super::{
    Config, DEFAULT_FILE,
    problem::{ConfigError, Origin, Problem, nearest},
    secret,
};
use figment::{
    Figment, Metadata, Profile, Provider,
    error::{Actual, Kind},
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use std::{
    collections::HashSet,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};
use toml_edit::{ImDocument, TableLike};

/// Environment variables that are ours without being settings.
const OTHER_VARIABLES: [&str; 6] = [
    "CANDOR_CONFIG",
    "CANDOR_LOG",
    crate::keys::ACCOUNT.key_variable,
    crate::keys::SIGNER.key_variable,
    crate::keys::ACCOUNT.password_variable,
    crate::keys::SIGNER.password_variable,
];

/// What a command cannot do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Needs {
    /// Works without any setting.
    #[default]
    Nothing,
    /// Talks to a chain, where there need be no contracts yet.
    Node,
    /// Talks to the contracts.
    Chain,
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file. Must exist if given; otherwise `candor.toml` in the current directory is read if it is there.
    pub file: Option<PathBuf>,
    /// Environment variables, all of them; those that are not ours are left alone.
    pub env: Vec<(String, String)>,
    /// Settings from flags: the key as `section.key`, and the value as one would write it in an environment variable.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The file and the flags given, and the environment of this process.
    pub fn new(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { file, env: env.collect(), flags }
    }

    /// The file that will be read, if any.
    pub fn file(&self) -> Option<PathBuf> {
        self.file.clone().or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()))
    }

    /// Reads everything, or reports everything that is wrong.
    pub fn load(&self, needs: Needs) -> Result<Config, ConfigError> {
        let mut problems = Vec::new();
        let mut layers = Vec::new();
        let file = self.file();
        if let Some(path) = &file {
            layers.push(Layer::file(path)?);
        }
        layers.push(self.env_layer(&mut problems));
        layers.push(Layer { kind: LayerKind::Flags, dict: split_lists(nest(&self.flags)) });

        for layer in &mut layers {
            for leak in secret::find(&layer.dict) {
                problems.push(layer.problem(&leak.path, leak.message));
                remove(&mut layer.dict, &leak.path);
            }
        }
        let config = loop {
            let figment = layers.iter().fold(Figment::new(), |figment, layer| figment.merge(layer));
            let error = match figment.extract::<Config>() {
                Ok(config) => break config,
                Err(error) => error,
            };
            // Of the layers that know something of the setting, the one that knows the most; of equals, the one that wins.
            let known = layers.iter_mut().filter_map(|layer| Some((longest(&layer.dict, &error.path)?, layer)));
            let culprit = known.max_by_key(|(path, _)| path.len());
            let Some((path, layer)) = culprit else {
                // Every key has a default, so every error is about a value that is there.
                problems.push(Problem { origin: Origin::None, key: String::new(), message: error.to_string() });
                return Err(ConfigError { problems });
            };
            problems.push(layer.problem(&path, explain(&error.kind, &error.path)));
            remove(&mut layer.dict, &path);
        };

        let known_bad: HashSet<String> = problems.iter().map(|problem| problem.key.clone()).collect();
        for (key, message) in inconsistencies(&config, needs) {
            if known_bad.contains(&key) {
                continue;
            }
            let path: Vec<String> = key.split('.').map(str::to_owned).collect();
            let origin = layers.iter().rev().find(|layer| lookup(&layer.dict, &path).is_some());
            let origin = origin.map_or(Origin::None, |layer| layer.origin(&path));
            problems.push(Problem { origin, key, message });
        }
        if problems.is_empty() {
            return Ok(config.with_options());
        }
        problems.sort_by_key(|problem| match &problem.origin {
            Origin::File(_, line) => (0, line.unwrap_or(0)),
            Origin::Env(_) => (1, 0),
            Origin::Flag => (2, 0),
            Origin::None => (3, 0),
        });
        let missing = |problem: &Problem| problem.origin == Origin::None && problem.key.starts_with("chain.");
        if file.is_none() && problems.iter().any(missing) {
            let message =
                format!("there is no {DEFAULT_FILE} here: `candor init` writes one, --config FILE names another");
            problems.insert(0, Problem { origin: Origin::None, key: String::new(), message });
        }
        Err(ConfigError { problems })
    }

    /// The variables that are settings; and a problem for each that looks like a setting with a slip in it.
    fn env_layer(&self, problems: &mut Vec<Problem>) -> Layer {
        let mut settings = Vec::new();
        for (name, value) in &self.env {
            let Some(rest) = name.strip_prefix("CANDOR_") else { continue };
            let key = rest.to_ascii_lowercase().replace("__", ".");
            if rest.contains("__") {
                settings.push((key, value.clone()));
            } else if !OTHER_VARIABLES.contains(&name.as_str())
                && let Some(meant) = known_keys().iter().find(|known| known.replace('.', "_") == key)
            {
                // One underscore where two belong is the slip everybody makes; other programs' variables are none of our business.
                let message = format!("no setting is called so, did you mean {}?", variable(meant));
                problems.push(Problem { origin: Origin::Env(name.clone()), key: meant.clone(), message });
            }
        }
        settings.sort();
        Layer { kind: LayerKind::Env, dict: split_lists(nest(&settings)) }
    }
}

/// Settings from one source.
struct Layer {
    kind: LayerKind,
    dict: Dict,
}

enum LayerKind {
    File { path: PathBuf, document: Box<ImDocument<String>> },
    Env,
    Flags,
}

impl Layer {
    fn file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let path = path.display();
            ConfigError::single(
                Origin::None,
                match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        format!("configuration file {path} does not exist; `candor init --config {path}` writes it")
                    }
                    _ => format!("configuration file {path} cannot be read: {error}"),
                },
            )
        })?;
        let fault = |message: &str, at: Option<usize>| {
            let line = at.map(|offset| line_at(&text, offset));
            ConfigError::single(Origin::File(path.to_owned(), line), message.trim().replace('\n', "; "))
        };
        let document = ImDocument::parse(text.clone())
            .map_err(|error| fault(error.message(), error.span().map(|span| span.start)))?;
        let mut data = Toml::string(&text).data().map_err(|error| fault(&error.to_string(), None))?;
        let dict = data.remove(&Profile::Default).unwrap_or_default();
        Ok(Self { kind: LayerKind::File { path: path.to_owned(), document: Box::new(document) }, dict })
    }

    fn origin(&self, path: &[String]) -> Origin {
        match &self.kind {
            LayerKind::File { path: file, document } => Origin::File(file.clone(), line_of(document, path)),
            LayerKind::Env => Origin::Env(variable(&path.join("."))),
            LayerKind::Flags => Origin::Flag,
        }
    }

    fn problem(&self, path: &[String], message: String) -> Problem {
        Problem { origin: self.origin(path), key: path.join("."), message }
    }
}

impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        match &self.kind {
            // This is what makes paths in the file relative to the file.
            LayerKind::File { path, .. } => Metadata::from("file", path.as_path()),
            LayerKind::Env => Metadata::named("environment"),
            LayerKind::Flags => Metadata::named("command line"),
        }
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// Every key there is, as `section.key`, sorted; found by asking the types themselves.
pub fn known_keys() -> &'static [String] {
    static KEYS: OnceLock<Vec<String>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut keys = Vec::new();
        let mut queue = vec![String::new()];
        while let Some(key) = queue.pop() {
            // A table answers a name that cannot be a key with the list of those that can; anything else is a value.
            let probe = if key.is_empty() { "?".to_owned() } else { format!("{key}.?") };
            let dict = nest(&[(probe, "0".to_owned())]);
            let layer = Layer { kind: LayerKind::Flags, dict };
            match Figment::new().merge(&layer).extract::<Config>() {
                Err(figment::Error { kind: Kind::UnknownField(_, fields), .. }) => {
                    queue.extend(
                        fields
                            .iter()
                            .map(|field| if key.is_empty() { (*field).to_owned() } else { format!("{key}.{field}") }),
                    );
                }
                _ => keys.push(key),
            }
        }
        keys.sort();
        keys
    })
}

/// Where a list belongs and a text is given, as is natural in an environment variable: the items between its commas.
fn split_lists(mut dict: Dict) -> Dict {
    for key in known_keys() {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let Some(Value::String(_, text)) = lookup(&dict, &path) else { continue };
        // A list is what takes an empty one.
        let layer = Layer { kind: LayerKind::Flags, dict: nest(&[(key.clone(), "[]".to_owned())]) };
        if Figment::new().merge(&layer).extract::<Config>().is_ok() {
            let items: Vec<Value> =
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect();
            insert(&mut dict, &path, items.into());
        }
    }
    dict
}

/// The environment variable that sets a key.
pub fn variable(key: &str) -> String {
    format!("CANDOR_{}", key.replace('.', "__").to_ascii_uppercase())
}

/// `section.key` and text to nested tables, a later one winning.
fn nest(settings: &[(String, String)]) -> Dict {
    let mut dict = Dict::new();
    for (key, text) in settings {
        let value: Value = text.parse().unwrap_or_else(|never: Infallible| match never {});
        let mut path: Vec<&str> = key.split('.').collect();
        let last = path.pop().unwrap_or_default();
        let mut table = &mut dict;
        for part in path {
            let entry = table.entry(part.to_owned()).or_insert_with(|| Dict::new().into());
            if !matches!(entry, Value::Dict(..)) {
                *entry = Dict::new().into();
            }
            let Value::Dict(_, inner) = entry else { unreachable!("it was just made a table") };
            table = inner;
        }
        table.insert(last.to_owned(), value);
    }
    dict
}

fn lookup<'a>(dict: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (last, parents) = path.split_last()?;
    parents.iter().try_fold(dict, |dict, part| dict.get(part)?.as_dict())?.get(last)
}

/// The longest beginning of `path` that is a setting here. Paths of errors go on into lists, settings do not.
fn longest(dict: &Dict, path: &[String]) -> Option<Vec<String>> {
    (1..=path.len()).rev().map(|n| &path[..n]).find(|path| lookup(dict, path).is_some()).map(<[String]>::to_vec)
}

fn insert(dict: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            dict.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            if let Some(Value::Dict(_, inner)) = dict.get_mut(first) {
                insert(inner, rest, value);
            }
        }
    }
}

fn remove(dict: &mut Dict, path: &[String]) {
    match path {
        [] => {}
        [last] => {
            dict.remove(last);
        }
        [first, rest @ ..] => {
            if let Some(Value::Dict(_, inner)) = dict.get_mut(first) {
                remove(inner, rest);
            }
        }
    }
}

/// The line of a key.
fn line_of(document: &ImDocument<String>, path: &[String]) -> Option<usize> {
    let mut table: &dyn TableLike = document.as_table();
    let mut span = None;
    for part in path {
        let Some((key, item)) = table.get_key_value(part) else { break };
        // A table that was only implied, as `a` is by `[a.b]`, has no place of its own.
        span = key.span().or(item.span()).or(span);
        let Some(inner) = item.as_table_like() else { break };
        table = inner;
    }
    span.map(|span| line_at(document.raw(), span.start))
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// What serde found wrong, in words for the person who wrote it.
fn explain(kind: &Kind, path: &[String]) -> String {
    // Items of lists are counted as people count; figment's own names for the parts of a path are left out.
    let mut full = String::new();
    for part in path.iter().filter(|part| !part.starts_with("___figment")) {
        match part.parse::<usize>() {
            Ok(index) => full += &format!("[item {}]", index + 1),
            Err(_) if full.is_empty() => full += part,
            Err(_) => full += &format!(".{part}"),
        }
    }
    match kind {
        Kind::UnknownField(name, fields) => {
            let section = &path[..path.len().saturating_sub(1)];
            let qualify = |field: &str| section.iter().map(String::as_str).chain([field]).collect::<Vec<_>>().join(".");
            // In this section first; then anywhere, for a key that was put in the wrong section.
            let elsewhere = || {
                known_keys()
                    .iter()
                    .find(|key| key.rsplit('.').next() == Some(name))
                    .map(String::as_str)
                    .or_else(|| nearest(&full, known_keys().iter().map(String::as_str)))
            };
            let meant = nearest(name, fields.iter().copied()).map(qualify).or_else(|| elsewhere().map(str::to_owned));
            match meant {
                Some(meant) => format!("unknown key `{full}`, did you mean `{meant}`?"),
                None if section.is_empty() => format!("unknown section `{full}`, there are: {}", fields.join(", ")),
                None => format!("unknown key `{full}`, `{}` has: {}", section.join("."), fields.join(", ")),
            }
        }
        Kind::UnknownVariant(given, variants) => match nearest(given, variants.iter().copied()) {
            Some(meant) => format!("`{full}`: unknown value \"{given}\", did you mean \"{meant}\"?"),
            None => format!("`{full}`: unknown value \"{given}\", expected one of: {}", variants.join(", ")),
        },
        Kind::InvalidType(given, expected) | Kind::InvalidValue(given, expected) => {
            let expected = match expected.as_str() {
                "u64" | "u32" => "a whole number",
                "a string" | "path string" => "a text",
                "a sequence" => "a list",
                other => other.strip_prefix("struct ").map_or(other, |_| "a table"),
            };
            let given = match given {
                Actual::Bool(value) => value.to_string(),
                Actual::Unsigned(number) => number.to_string(),
                Actual::Signed(number) => number.to_string(),
                Actual::Float(number) => number.to_string(),
                Actual::Str(text) => format!("\"{text}\""),
                Actual::Seq => "a list".into(),
                Actual::Map => "a table".into(),
                other => other.to_string(),
            };
            format!("`{full}`: expected {expected}, found {given}")
        }
        other => format!("`{full}`: {other}"),
    }
}

/// What is missing for `needs`, out of range, or does not go together; with the key to blame.
fn inconsistencies(config: &Config, needs: Needs) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut check = |wrong: bool, key: &str, message: &str| {
        if wrong {
            found.push((key.to_owned(), format!("`{key}`{message}")));
        }
    };
    let chain = &config.chain;
    if needs != Needs::Nothing {
        check(
            chain.rpc_urls.is_empty(),
            "chain.rpc_urls",
            " is missing: the address of at least one node. In section [chain]: rpc_urls = [\"https://node.example\"]; or --rpc-url https://node.example",
        );
        check(
            chain.chain_id == 0,
            "chain.chain_id",
            " is missing: the number of the chain the nodes must be on. In section [chain]: chain_id = 1; or --set chain.chain_id=1",
        );
    }
    if needs == Needs::Chain {
        check(
            chain.oracle.is_zero(),
            "chain.oracle",
            " is missing: the address of the InferenceOracle contract. In section [chain]: oracle = \"0x..\"; or --oracle 0x..",
        );
    }
    check(chain.poll_interval.is_zero(), "chain.poll_interval", ": must be more than nothing");
    check(chain.answer_within.is_zero(), "chain.answer_within", ": must be more than nothing");
    check(chain.max_block_range == 0, "chain.max_block_range", ": must be at least 1");
    check(
        chain.max_block_range > 0 && chain.overlap >= chain.max_block_range,
        "chain.overlap",
        &format!(
            ": must be less than chain.max_block_range, or reading never gets ahead ({} is not less than {})",
            chain.overlap, chain.max_block_range
        ),
    );
    let gas = &config.gas;
    check(gas.max_fee_per_gas == super::Wei::ZERO, "gas.max_fee_per_gas", ": must be more than nothing");
    check(!(10..=200).contains(&gas.bump_percent), "gas.bump_percent", ": must be from 10 (nodes refuse less) to 200");
    check(gas.bump_after.is_zero(), "gas.bump_after", ": must be more than nothing");
    let inputs = &config.inputs;
    check(inputs.timeout.is_zero(), "inputs.timeout", ": must be more than nothing");
    check(inputs.at_once == 0, "inputs.at_once", ": must be at least 1");
    check(!(1..=1 << 20).contains(&inputs.keep_mib), "inputs.keep_mib", ": must be from 1 to 1048576 (one TiB)");
    check(
        config.store.lease < Duration::from_secs(1),
        "store.lease",
        ": must be at least 1s, for a sign of life to arrive",
    );
    if let Some(problem) = super::LogConfig::problem(&config.log.level) {
        check(true, "log.level", &format!(": {problem}"));
    }
    check(config.models.serve.is_empty(), "models.serve", ": must name at least one model");
    if let Some(operator) = &config.operator {
        if let Some(payout) = &operator.payout {
            check(
                payout.address.is_zero(),
                "operator.payout.address",
                " is missing: the account that gets the earnings",
            );
        }
        let served: Vec<String> = config.models.serve.iter().map(super::ModelSource::name).collect();
        for name in operator.min_fee.keys().filter(|name| *name != "default" && !served.contains(name)) {
            let key = format!("operator.min_fee.{name}");
            let meant = nearest(name, served.iter().map(String::as_str).chain(["default"]));
            let hint = meant.map_or_else(
                || format!("served are: {}", served.join(", ")),
                |meant| format!("did you mean \"{meant}\"?"),
            );
            check(true, &key, &format!(": no model of this name is served, {hint}"));
        }
    }
    for name in config.models.options.keys() {
        let folders = config.models.serve.iter().filter(|source| !matches!(source, super::ModelSource::Builtin(_)));
        let known = folders.map(super::ModelSource::name).any(|served| served == *name);
        let key = format!("models.options.{name}");
        check(!known, &key, ": no folder or file of this name is served (embedded models have no options)");
    }
    let mut names = HashSet::new();
    for name in config.models.serve.iter().map(super::ModelSource::name) {
        check(!names.insert(name.clone()), "models.serve", &format!(": two models are called \"{name}\""));
    }
    found
}

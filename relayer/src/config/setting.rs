//! Kinds of settings that know how to be read from a file, a variable or a flag.
use super::problem::nearest;
use crate::engine::import::{Options, Precision};
use alloy::primitives::Address;
use figment::value::magic::RelativePathBuf;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// A path. In a file it is relative to that file, elsewhere to the current directory; a leading `~/` is the home directory.
#[derive(Clone, PartialEq, Eq)]
pub struct PathSetting(pub PathBuf);

impl PathSetting {
    fn resolve(path: &RelativePathBuf) -> PathBuf {
        match (path.original().strip_prefix("~"), std::env::var_os("HOME")) {
            (Ok(rest), Some(home)) => Path::new(&home).join(rest),
            _ => path.relative(),
        }
    }
}

impl std::ops::Deref for PathSetting {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for PathSetting {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Debug for PathSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for PathSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RelativePathBuf::deserialize(deserializer).map(|path| Self(Self::resolve(&path)))
    }
}

impl Serialize for PathSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A model to serve: one that is inside the binary, or a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// An embedded model, by name.
    Builtin(&'static str),
    /// A folder with safetensors and `config.json`, ours or Hugging Face's, or a GGUF file; see `docs/models.md`.
    Folder(PathBuf),
    /// The same with choices of its import.
    Chosen(PathBuf, ImportOptions),
}

/// What the import of a model is told. It becomes part of the model, and so of its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportOptions {
    /// Longest sequence, question and answer together, in tokens.
    pub context: Option<u32>,
    /// Most tokens of an answer.
    pub answer_tokens: Option<u32>,
    /// The type that the weights of linear layers are converted to.
    #[serde(serialize_with = "write_precision", deserialize_with = "read_precision")]
    pub dtype: Option<Precision>,
}

impl From<ImportOptions> for Options {
    fn from(chosen: ImportOptions) -> Self {
        let default = Self::default();
        Self {
            context: chosen.context.unwrap_or(default.context),
            max_tokens: chosen.answer_tokens.unwrap_or(default.max_tokens),
            dtype: chosen.dtype,
        }
    }
}

/// An address and a port.
pub(super) fn read_listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    /// A bare port looks like a number.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Text(String),
        Number(i64),
    }
    let parse = |given| {
        let text = match given {
            Given::Text(text) => text,
            Given::Number(number) => number.to_string(),
        };
        let problem = |_| format!("{text:?} is no address with a port, such as \"127.0.0.1:9464\" or \"[::1]:9464\"");
        text.parse().map_err(problem)
    };
    Option::<Given>::deserialize(deserializer)?.map(parse).transpose().map_err(de::Error::custom)
}

fn read_precision<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Precision>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| name.parse().map_err(de::Error::custom)).transpose()
}

fn write_precision<S: Serializer>(precision: &Option<Precision>, serializer: S) -> Result<S::Ok, S::Error> {
    precision.map(Precision::name).serialize(serializer)
}

impl ModelSource {
    /// Names of the models inside the binary.
    pub const BUILTIN: [&str; 2] = ["credit", "digits"];

    /// Reads a name or a path as a person writes it: a path has a slash or a dot in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = Self::BUILTIN.iter().find(|name| **name == text) {
            return Ok(Self::Builtin(name));
        }
        if text.contains(['/', '\\', '.']) {
            return Ok(Self::Folder(text.into()));
        }
        let known = Self::BUILTIN.join(", ");
        Err(match nearest(text, Self::BUILTIN) {
            Some(name) => format!(
                "there is no embedded model \"{text}\", did you mean \"{name}\"? (a folder is written ./{text})"
            ),
            None => format!("there is no embedded model \"{text}\" (there are {known}; a folder is written ./{text})"),
        })
    }

    /// What the model is called: its name, or the last part of its folder's path.
    pub fn name(&self) -> String {
        match self {
            Self::Builtin(name) => (*name).to_owned(),
            Self::Folder(path) | Self::Chosen(path, _) => {
                path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }
}

impl<'de> Deserialize<'de> for ModelSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = RelativePathBuf::deserialize(deserializer)?;
        match Self::parse(&path.original().to_string_lossy()).map_err(de::Error::custom)? {
            Self::Folder(_) => Ok(Self::Folder(PathSetting::resolve(&path))),
            builtin => Ok(builtin),
        }
    }
}

impl Serialize for ModelSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Builtin(name) => serializer.serialize_str(name),
            Self::Folder(path) | Self::Chosen(path, _) => path.serialize(serializer),
        }
    }
}

/// The address of an IPFS gateway. It may carry an API key, so printing shows the host alone.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewayUrl(RpcUrl);

impl GatewayUrl {
    /// The whole address, for connecting. Not for logs.
    pub fn expose(&self) -> &reqwest::Url {
        self.0.expose()
    }
}

impl std::str::FromStr for GatewayUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "expected something like http://127.0.0.1:8080";
        let url = reqwest::Url::parse(text.trim())
            .map_err(|error| format!("not the address of a gateway ({error}); {example}"))?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        match url.scheme() {
            "http" | "https" if url.host().is_some() && plain => Ok(Self(RpcUrl(url))),
            "http" | "https" => Err(format!("an address without name, password and question mark, please; {example}")),
            scheme => Err(format!("cannot talk to a gateway over \"{scheme}:\"; {example}")),
        }
    }
}

impl fmt::Debug for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for GatewayUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for GatewayUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// The address of a node. Many carry a password or an API key, so printing shows the host alone.
#[derive(Clone, PartialEq, Eq)]
pub struct RpcUrl(reqwest::Url);

impl RpcUrl {
    /// The whole address, for connecting. Not for logs.
    pub fn expose(&self) -> &reqwest::Url {
        &self.0
    }
}

impl std::str::FromStr for RpcUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "expected something like http://127.0.0.1:8545";
        let url = reqwest::Url::parse(text.trim())
            .map_err(|error| format!("not the address of a node ({error}); {example}"))?;
        match url.scheme() {
            "http" | "https" if url.host().is_some() => Ok(Self(url)),
            "ws" | "wss" => Err("blocks are polled over HTTP; give the node's http:// or https:// address".into()),
            scheme => Err(format!("cannot talk to a node over \"{scheme}:\"; {example}")),
        }
    }
}

impl fmt::Display for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.0;
        write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
        // The path or the query may be an API key.
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            f.write_str("/...")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for RpcUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for RpcUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The address of a Postgres database. It may carry a password, so printing leaves it out.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(reqwest::Url);

impl PostgresUrl {
    /// The whole address, for connecting. Not for logs.
    pub fn expose(&self) -> &reqwest::Url {
        &self.0
    }
}

impl std::str::FromStr for PostgresUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "expected something like postgres://candor@127.0.0.1/candor";
        let url = reqwest::Url::parse(text.trim())
            .map_err(|error| format!("not the address of a database ({error}); {example}"))?;
        match url.scheme() {
            "postgres" | "postgresql" => Ok(Self(url)),
            scheme => {
                Err(format!("cannot keep anything in \"{scheme}:\"; {example}; a SQLite file goes into store.path"))
            }
        }
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::store::StoreLocation::Postgres(Box::new(self.0.clone())).fmt(f)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for PostgresUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for PostgresUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads an account's address. Capitals, where there are some, are a checksum, and must be right.
pub fn parse_address(text: &str) -> Result<Address, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.len() != 40 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("\"{text}\" is not an address: expected 0x and 40 hexadecimal digits"));
    }
    let address: Address = text.parse().map_err(|error| format!("\"{text}\" is not an address: {error}"))?;
    let mixed = digits.bytes().any(|b| b.is_ascii_uppercase()) && digits.bytes().any(|b| b.is_ascii_lowercase());
    if mixed && !address.to_string().ends_with(digits) {
        return Err(format!("\"{text}\" is not an address: its checksum is wrong, so one of its digits probably is"));
    }
    Ok(address)
}

/// `#[serde(with = "address")]` for fields that people write.
pub(super) mod address {
    use super::{Address, Deserialize, Deserializer, Serializer, de, parse_address};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        parse_address(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }

    pub(crate) fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_address_is_printed_without_its_secrets() {
        for (address, printed) in [
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
            ("https://user:hunter2@node.example/v3/0123456789abcdef", "https://node.example/..."),
            ("http://node.example/?key=0123456789abcdef", "http://node.example/..."),
        ] {
            let url: RpcUrl = address.parse().unwrap();
            assert_eq!(url.to_string(), printed);
            assert_eq!(format!("{url:?}"), printed);
            assert!(url.expose().as_str().starts_with(address));
        }
        assert!("wss://node.example".parse::<RpcUrl>().unwrap_err().contains("polled over HTTP"));
        assert!("ftp://node.example".parse::<RpcUrl>().unwrap_err().contains("\"ftp:\""));
        assert!("localhost".parse::<RpcUrl>().unwrap_err().contains("not the address of a node"));
        assert!("localhost:8545".parse::<RpcUrl>().unwrap_err().contains("\"localhost:\""));
    }

    #[test]
    fn a_database_s_address_is_printed_without_its_password() {
        let url: PostgresUrl = "postgres://candor:hunter2@db.example:5433/queue?sslmode=require".parse().unwrap();
        assert_eq!(format!("{url:?}"), "postgres://db.example:5433/queue");
        assert!("mysql://db.example/queue".parse::<PostgresUrl>().unwrap_err().contains("\"mysql:\""));
        assert!("candor.db".parse::<PostgresUrl>().unwrap_err().contains("not the address of a database"));
    }

    #[test]
    fn addresses_with_their_checksum() {
        let address = Address::from([0xab; 20]);
        for text in [address.to_string(), address.to_string().to_lowercase(), format!("{address:x}")] {
            assert_eq!(parse_address(&text), Ok(address), "{text}");
        }
        let slip = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92267";
        assert!(parse_address(slip).unwrap_err().contains("its checksum is wrong"));
        assert!(parse_address("0xf39Fd6").unwrap_err().contains("expected 0x and 40"));
        assert!(parse_address(&"g".repeat(40)).unwrap_err().contains("expected 0x and 40"));
    }

    #[test]
    fn models_by_name_and_by_folder() {
        assert_eq!(ModelSource::parse("digits"), Ok(ModelSource::Builtin("digits")));
        assert_eq!(ModelSource::parse("./mine"), Ok(ModelSource::Folder("./mine".into())));
        assert_eq!(ModelSource::parse("../models/mine").unwrap().name(), "mine");
        assert!(ModelSource::parse("digit").unwrap_err().contains("did you mean \"digits\"?"));
        assert!(ModelSource::parse("llama").unwrap_err().contains("there are credit, digits"));
    }
}

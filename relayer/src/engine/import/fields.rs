//! The fields of a JSON object, taken one by one. What is left over at the end was not understood, and a key that is not
//! understood may change what the model computes.

use super::{ImportError, config::Decimal};
use serde_json::{Map, Value};

/// An object on its way through an importer.
#[derive(Debug)]
pub(super) struct Fields {
    file: &'static str,
    map: Map<String, Value>,
}

impl Fields {
    /// The fields of the object that is a whole file.
    pub(super) fn parse(file: &'static str, text: &str) -> Result<Self, ImportError> {
        let json =
            |error: serde_json::Error| ImportError::Damaged { file: file.to_string(), problem: error.to_string() };
        Ok(Self { file, map: serde_json::from_str(text).map_err(json)? })
    }

    /// An error about a field.
    pub(super) fn wrong<T>(&self, key: &str, problem: impl Into<String>) -> Result<T, ImportError> {
        Err(ImportError::Field { file: self.file.to_string(), field: key.to_string(), problem: problem.into() })
    }

    /// A field that may be missing; null is missing.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ImportError> {
        value.map_or_else(|| self.wrong(key, "is missing"), Ok)
    }

    /// A whole number that may be missing.
    pub(super) fn maybe_u32(&mut self, key: &str) -> Result<Option<u32>, ImportError> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(n) => Ok(Some(n)),
                None => self.wrong(key, format!("{} is not a whole number below 2^32", brief(&value))),
            },
        }
    }

    /// A whole number.
    pub(super) fn u32(&mut self, key: &str) -> Result<u32, ImportError> {
        let value = self.maybe_u32(key)?;
        self.required(key, value)
    }

    /// A size: a whole number that is not 0.
    pub(super) fn size(&mut self, key: &str) -> Result<u32, ImportError> {
        match self.u32(key)? {
            0 => self.wrong(key, "is 0"),
            n => Ok(n),
        }
    }

    /// A number that may be missing.
    pub(super) fn maybe_f64(&mut self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => self.wrong(key, format!("{} is not a number", brief(&value))),
            },
        }
    }

    /// The f32 nearest to a decimal, which must be above 0.
    pub(super) fn positive(&mut self, key: &str) -> Result<f32, ImportError> {
        let value = self.take(key);
        let value = self.required(key, value)?;
        match serde_json::from_value::<Decimal>(value) {
            Ok(Decimal(number)) if number > 0.0 => Ok(number),
            Ok(Decimal(number)) => self.wrong(key, format!("{number} is not above 0")),
            Err(error) => self.wrong(key, error.to_string()),
        }
    }

    /// A truth value, or what it is when it is missing.
    pub(super) fn bool(&mut self, key: &str, default: bool) -> Result<bool, ImportError> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(value) => self.wrong(key, format!("{} is neither true nor false", brief(&value))),
        }
    }

    /// A text that may be missing.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, ImportError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => self.wrong(key, format!("{} is not a text", brief(&value))),
        }
    }

    /// An object that may be missing, as fields of its own.
    pub(super) fn object(&mut self, key: &str) -> Result<Option<Self>, ImportError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { file: self.file, map })),
            Some(value) => self.wrong(key, format!("{} is not an object", brief(&value))),
        }
    }

    /// A token id or a list of them, or nothing.
    pub(super) fn tokens(&mut self, key: &str) -> Result<Vec<u32>, ImportError> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        let list = match &value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        match list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect() {
            Some(ids) => Ok(ids),
            None => self.wrong(key, format!("{} is not a list of token ids", brief(&value))),
        }
    }

    /// Refuses a field whose only understood value is `wanted`, if it is there and says anything else.
    pub(super) fn only(&mut self, key: &str, wanted: &[Value]) -> Result<(), ImportError> {
        match self.take(key) {
            Some(value) if !wanted.contains(&value) => self.wrong(
                key,
                format!("{} is not understood, only {}", brief(&value), brief(&Value::from(wanted.to_vec()))),
            ),
            _ => Ok(()),
        }
    }

    /// Refuses fields that nothing took, unless they are null, private or known not to matter.
    pub(super) fn finish(self, harmless: &[&str]) -> Result<(), ImportError> {
        let unknown = self
            .map
            .iter()
            .find(|(key, value)| !value.is_null() && !key.starts_with('_') && !harmless.contains(&key.as_str()));
        match unknown {
            None => Ok(()),
            Some((key, value)) => self.wrong(
                key,
                format!("is not understood (it says {}) and may change what the model computes", brief(value)),
            ),
        }
    }
}

/// A value for an error message: no longer than a line.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

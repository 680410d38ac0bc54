//! Typed ids: a request's number and a model's content address are not interchangeable with other numbers and hashes.

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Number of a request, counted from 1 by the oracle that took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a request number.
    #[error("`{0}` is not a request number: expected a whole number such as 17 or #17")]
    Request(String),
    /// Not a model id.
    #[error("`{0}` is not a model id: expected 0x and 64 hexadecimal digits")]
    Model(String),
}

impl FromStr for RequestId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix('#').unwrap_or(text);
        digits.parse().map(Self).map_err(|_| IdError::Request(text.to_owned()))
    }
}

/// Content address of a model: a hash of its graph, weights, vocabulary and limits. The same everywhere, owned by nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub B256);

impl ModelId {
    /// First and last digits, for people.
    pub fn short(&self) -> String {
        let hex = format!("{:x}", self.0);
        format!("0x{}..{}", &hex[..6], &hex[60..])
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ModelId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.strip_prefix("0x") {
            Some(hex) if hex.len() == 64 => text.parse().map(Self).map_err(|_| IdError::Model(text.to_owned())),
            _ => Err(IdError::Model(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_other_text() {
        assert_eq!("#17".parse(), Ok(RequestId(17)));
        assert_eq!("17".parse(), Ok(RequestId(17)));
        assert_eq!(RequestId(17).to_string(), "#17");
        assert!("seventeen".parse::<RequestId>().is_err());
        let id = ModelId(B256::repeat_byte(0xab));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "0xababab..abab");
        assert!("0xab".parse::<ModelId>().is_err());
        assert!(id.to_string()[2..].parse::<ModelId>().is_err(), "no 0x, no id");
    }
}

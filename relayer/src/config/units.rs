//! Quantities with their units. A bare `5` for an amount of money or a stretch of time is refused: nobody can tell 5 wei from 5 ether,
//! or seconds from milliseconds, by looking at it.
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, time::Duration};

/// An amount of the chain's native currency, in wei.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wei(pub u128);

/// Unit names with the number of decimals each has in wei, largest first.
const MONEY: [(&str, u32); 4] = [("ether", 18), ("eth", 18), ("gwei", 9), ("wei", 0)];

impl Wei {
    /// No money.
    pub const ZERO: Wei = Wei(0);

    /// `n` gwei.
    pub const fn gwei(n: u128) -> Wei {
        Wei(n * 1_000_000_000)
    }

    /// `n` thousandths of an ether.
    pub const fn milliether(n: u128) -> Wei {
        Wei(n * 1_000_000_000_000_000)
    }
}

impl FromStr for Wei {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "0" {
            return Ok(Wei::ZERO);
        }
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
        let (number, unit) = (text[..split].replace('_', ""), text[split..].trim());
        let example = "write an amount with its unit, such as \"0.01 ether\", \"5 gwei\" or \"1000 wei\"";
        if number.is_empty() {
            return Err(format!("\"{text}\" is not an amount; {example}"));
        }
        if unit.is_empty() {
            return Err(format!("\"{text}\" has no unit; {example}"));
        }
        let decimals = MONEY
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, decimals)| *decimals)
            .ok_or_else(|| format!("unknown unit \"{unit}\"; {example}"))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
        if fraction.contains('.') {
            return Err(format!("\"{text}\" is not an amount; {example}"));
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > decimals as usize {
            return Err(format!("\"{text}\" is finer than one wei"));
        }
        let too_large = || format!("\"{text}\" is more than there is");
        let digits = |s: &str| if s.is_empty() { Ok(0) } else { s.parse::<u128>().map_err(|_| too_large()) };
        let power = |n: u32| 10u128.checked_pow(n).ok_or_else(too_large);
        let whole = digits(whole)?.checked_mul(power(decimals)?).ok_or_else(too_large)?;
        let fraction = digits(fraction)? * power(decimals - fraction.len() as u32)?;
        whole.checked_add(fraction).map(Wei).ok_or_else(too_large)
    }
}

impl fmt::Display for Wei {
    /// In the unit in which it reads best, exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, decimals) = match self.0 {
            0 => ("ether", 18),
            n if n >= 100_000_000_000_000 => ("ether", 18), // 0.0001 ether and more
            n if n >= 100_000_000 => ("gwei", 9),           // 0.1 gwei and more
            _ => ("wei", 0),
        };
        let power = 10u128.pow(decimals);
        let (whole, rest) = (self.0 / power, self.0 % power);
        if rest == 0 {
            return f.pad(&format!("{whole} {unit}"));
        }
        let fraction = format!("{rest:0width$}", width = decimals as usize);
        f.pad(&format!("{whole}.{} {unit}", fraction.trim_end_matches('0')))
    }
}

impl fmt::Debug for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Wei {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "an amount with its unit, such as \"0.01 ether\" or \"5 gwei\"", str::parse)
    }
}

impl Serialize for Wei {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Units of time with their length in milliseconds.
const TIME: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads "5s", "500ms", "1.5m", "2h" or "1d".
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let example = "write a time with its unit, such as \"500ms\", \"5s\", \"2m\" or \"1h\"";
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), text[split..].trim());
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("\"{text}\" is not a time; {example}"));
    }
    if unit.is_empty() {
        return Err(format!("\"{text}\" has no unit; {example}"));
    }
    let milliseconds = TIME
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, milliseconds)| *milliseconds)
        .ok_or_else(|| format!("unknown unit \"{unit}\"; {example}"))?;
    let number: f64 = number.parse().map_err(|_| format!("\"{text}\" is not a time; {example}"))?;
    Duration::try_from_secs_f64(number * milliseconds as f64 / 1_000.0).map_err(|_| format!("\"{text}\" is too long"))
}

/// Writes a duration as [`parse_duration`] reads it.
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let (name, unit) = TIME
        .iter()
        .rev()
        .find(|(_, unit)| milliseconds > 0 && milliseconds.is_multiple_of(u128::from(*unit)))
        .unwrap_or(&TIME[1]);
    format!("{}{name}", milliseconds / u128::from(*unit))
}

/// `#[serde(with = "duration")]` for [`Duration`] fields.
pub(crate) mod duration {
    use super::{Duration, format_duration, parse_duration, text_or_number};
    use serde::{Deserializer, Serializer};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        text_or_number(deserializer, "a time with its unit, such as \"5s\"", parse_duration)
    }

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }
}

/// Hands text to `parse`, and whole numbers too, so that the complaint about a missing unit comes from one place.
fn text_or_number<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Visitor<T>(&'static str, fn(&str) -> Result<T, String>);
    impl<T> de::Visitor<'_> for Visitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            (self.1)(&number.to_string()).map_err(E::custom)
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            (self.1)(&number.to_string()).map_err(E::custom)
        }
        fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
            (self.1)(&number.to_string()).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Visitor(expected, parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, wei) in [
            ("0", 0),
            ("0.01 ether", 10_000_000_000_000_000),
            ("5 gwei", 5_000_000_000),
            ("5gwei", 5_000_000_000),
            ("1.000000000000000001 ether", 1_000_000_000_000_000_001),
            ("1_000 wei", 1_000),
            (".5 ETH", 500_000_000_000_000_000),
            ("2.50 gwei", 2_500_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Wei(wei)), "{text}");
        }
    }

    #[test]
    fn amounts_without_sense_are_refused() {
        for (text, complaint) in [
            ("5", "has no unit"),
            ("", "is not an amount"),
            ("ether", "is not an amount"),
            ("-1 ether", "is not an amount"),
            ("1.2.3 ether", "is not an amount"),
            ("1 finney", "unknown unit"),
            ("0.5 wei", "finer than one wei"),
            ("0.0000000000000000001 ether", "finer than one wei"),
            ("999999999999999999999999 ether", "more than there is"),
            ("9999999999999999999999999999999999999999 wei", "more than there is"),
        ] {
            let error = text.parse::<Wei>().unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_back() {
        for wei in [0, 1, 999, 99_999_999, 100_000_000, 21_000_000_000, 10u128.pow(14), 10u128.pow(18) + 1, u128::MAX] {
            let text = Wei(wei).to_string();
            assert_eq!(text.parse(), Ok(Wei(wei)), "{text}");
        }
        assert_eq!(Wei::milliether(10).to_string(), "0.01 ether");
        assert_eq!(Wei::gwei(5).to_string(), "5 gwei");
    }

    #[test]
    fn times() {
        for (text, milliseconds) in
            [("5s", 5_000), ("500ms", 500), ("1.5m", 90_000), ("2 h", 7_200_000), ("1d", 86_400_000)]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration), "{text}");
        }
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_duration(Duration::ZERO), "0s");
        for (text, complaint) in [
            ("5", "has no unit"),
            ("s", "is not a time"),
            ("", "is not a time"),
            ("-5s", "is not a time"),
            ("5 years", "unknown unit"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}

//! Amounts, numbers and hashes as people read them.

use crate::config::Wei;
use alloy::primitives::{Address, B256, U256};

/// An amount in the unit in which it reads best.
pub(crate) fn money(amount: U256) -> String {
    u128::try_from(amount).map_or_else(|_| format!("{amount} wei"), |wei| Wei(wei).to_string())
}

/// First and last digits.
pub(crate) fn short(address: &Address) -> String {
    let hex = format!("{address:x}");
    format!("0x{}..{}", &hex[..4], &hex[36..])
}

/// First and last digits.
pub(crate) fn short_hash(hash: &B256) -> String {
    let hex = format!("{hash:x}");
    format!("0x{}..{}", &hex[..4], &hex[60..])
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds in the two largest units that there are.
pub(crate) fn span(seconds: u64) -> String {
    let units = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("min", seconds / 60 % 60), ("s", seconds % 60)];
    let mut parts = units.into_iter().skip_while(|(_, count)| *count == 0).take(2).filter(|(_, count)| *count > 0);
    let Some((unit, count)) = parts.next() else { return "0 s".to_owned() };
    let rest = parts.next().map_or_else(String::new, |(unit, count)| format!(" {count} {unit}"));
    format!("{count} {unit}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        let spans = [0, 59, 60, 601, 3600, 3661, 90_000, 604_800].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "10 min 1 s", "1 h", "1 h 1 min", "1 d 1 h", "7 d"]);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(money(U256::MAX), format!("{} wei", U256::MAX));
    }
}

//! A key on a Ledger, for the account of whoever puts down stake, takes it out or asks: a person agrees to each transaction. A relayer that runs needs a person
//! there, too, so its account is better a key that signs by itself.

use super::signing::reasons;
use alloy::signers::ledger::{HDPath, LedgerSigner};

/// Finds the device and the key at a derivation path.
pub(super) async fn connect(path: &str, chain_id: u64) -> Result<LedgerSigner, String> {
    if !is_path(path) {
        return Err("its derivation path is to be like m/44'/60'/0'/0/0".into());
    }
    LedgerSigner::new(HDPath::Other(path.to_owned()), Some(chain_id)).await.map_err(|error| {
        format!(
            "{}; is it connected and unlocked, with its Ethereum app open, no other program using it, and may this user open it (udev rules)?",
            reasons(&error)
        )
    })
}

/// `m`, and then numbers, hardened or not, as the device takes them.
fn is_path(path: &str) -> bool {
    let mut parts = path.split('/');
    let number = |part: &str| part.strip_suffix('\'').unwrap_or(part).parse::<u32>().is_ok_and(|index| index < 1 << 31);
    parts.next() == Some("m") && (1..=10).contains(&parts.clone().count()) && parts.all(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivation_paths() {
        for path in ["m/44'/60'/0'/0/0", "m/44'/60'/7'/0/0", "m/44'/60'/0'/3"] {
            assert!(is_path(path), "{path}");
        }
        for path in [
            "",
            "m",
            "m/",
            "44'/60'/0'/0/0",
            "m/44h/60h",
            "m/44'/60'//0",
            "m/2147483648",
            "m/-1",
            "m/1/2/3/4/5/6/7/8/9/10/11",
        ] {
            assert!(!is_path(path), "{path}");
        }
    }
}

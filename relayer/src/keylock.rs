//! One machine, one relayer for a key: two programs that send transactions from one account get in each other's way.
//!
//! The database has a lock of its own; this one is for two relayers with different databases and the same key.

use alloy::primitives::Address;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// The lock of an account's key on one chain.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    held: Option<File>,
}

impl KeyLock {
    /// The lock, not yet held. `folder` is where all relayers of this machine look.
    pub fn new(folder: &Path, chain_id: u64, account: Address) -> Self {
        Self { path: folder.join(format!("candor-{chain_id}-{account:?}.lock")), held: None }
    }

    /// Where all relayers of this machine look.
    pub fn folder() -> PathBuf {
        std::env::temp_dir()
    }

    /// Holds it from now on, if nobody else does; the system frees it however the process ends.
    pub fn try_hold(&mut self) -> bool {
        if self.held.is_some() {
            return true;
        }
        // A folder that can't be written to must not keep a relayer from its work: the account's nonce still tells of the other one.
        match self.open() {
            Ok(file) => match file.try_lock() {
                Ok(()) => self.held = Some(file),
                Err(std::fs::TryLockError::WouldBlock) => return false,
                Err(std::fs::TryLockError::Error(_)) => return true,
            },
            Err(_) => return true,
        }
        true
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> io::Result<File> {
        // Made by another user, it can be read, and that is enough for a lock.
        File::options().create(true).truncate(false).write(true).open(&self.path).or_else(|_| File::open(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_relayer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let lock = |chain, byte| KeyLock::new(folder.path(), chain, Address::repeat_byte(byte));
        let (mut first, mut second) = (lock(1, 1), lock(1, 1));
        assert!(first.try_hold() && first.try_hold());
        assert!(!second.try_hold());
        assert!(lock(2, 1).try_hold() && lock(1, 2).try_hold(), "another chain, another key");
        drop(first);
        assert!(second.try_hold(), "freed with its owner");
    }
}

//! A key that signs, wherever it is.

use alloy::{
    consensus::SignableTransaction,
    network::{EthereumWallet, FullSigner, TxSigner},
    primitives::{Address, B256, Signature},
    signers::{Signer, local::PrivateKeySigner},
};
use std::{error::Error, fmt, sync::Arc, time::Duration};

/// Where a key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// In this process.
    Local,
    /// In AWS KMS, which never shows it.
    AwsKms,
    /// In Google Cloud KMS, which never shows it.
    GcpKms,
    /// On a Ledger, which asks a person each time.
    Ledger,
}

impl KeyKind {
    /// Last part of the setting that names such a key.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Local => "keystore",
            Self::AwsKms => "aws_kms",
            Self::GcpKms => "gcp_kms",
            Self::Ledger => "ledger",
        }
    }

    /// Feature of this crate that brings it.
    pub(super) fn feature(self) -> &'static str {
        match self {
            Self::Local => "default",
            Self::AwsKms => "aws",
            Self::GcpKms => "gcp",
            Self::Ledger => "ledger",
        }
    }

    /// How long a signature may take: longer than all tries of an SDK together, and as long as a person needs to read a screen.
    fn patience(self) -> Duration {
        match self {
            Self::Local | Self::AwsKms | Self::GcpKms => Duration::from_secs(30),
            Self::Ledger => Duration::from_secs(180),
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local key",
            Self::AwsKms => "AWS KMS key",
            Self::GcpKms => "Google Cloud KMS key",
            Self::Ledger => "Ledger",
        })
    }
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Whatever holds the key refused or failed.
    #[error("the {kind} of {address} did not sign: {reason}")]
    Failed {
        /// Where the key is.
        kind: KeyKind,
        /// Whose it is.
        address: Address,
        /// What came back.
        reason: String,
    },
    /// It did not answer.
    #[error("the {kind} of {address} did not answer within {patience:?}")]
    TimedOut {
        /// Where the key is.
        kind: KeyKind,
        /// Whose it is.
        address: Address,
        /// How long was waited.
        patience: Duration,
    },
    /// The signature is another key's.
    #[error("the {kind} of {address} signed with another key: was it replaced? What it signed is not used")]
    WrongKey {
        /// Where the key is.
        kind: KeyKind,
        /// Whose it was when this process started.
        address: Address,
    },
}

impl SignError {
    /// Whether trying again may help. A KMS throttles, is away, or has a permission taken from it and given back; a key in this process does not fail, and one
    /// that has become another will not turn back.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Failed { kind, .. } | Self::TimedOut { kind, .. } => *kind != KeyKind::Local,
            Self::WrongKey { .. } => false,
        }
    }
}

/// A key that signs, wherever it is. Cheap to clone.
#[derive(Clone)]
pub struct SigningKey {
    kind: KeyKind,
    address: Address,
    signer: Arc<dyn FullSigner<Signature> + Send + Sync>,
    patience: Duration,
}

impl From<PrivateKeySigner> for SigningKey {
    fn from(key: PrivateKeySigner) -> Self {
        Self::elsewhere(KeyKind::Local, key)
    }
}

impl SigningKey {
    /// A key of this kind, as alloy asks it.
    pub fn elsewhere(kind: KeyKind, signer: impl FullSigner<Signature> + Send + Sync + 'static) -> Self {
        Self { kind, address: Signer::address(&signer), signer: Arc::new(signer), patience: kind.patience() }
    }

    /// The same, waited for as long as this.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The account that it is the key of.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Where it is kept.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Signs a digest as it is.
    pub async fn sign_hash(&self, digest: &B256) -> Result<Signature, SignError> {
        let signature = self.wait(Signer::sign_hash(&*self.signer, digest)).await?;
        self.check(signature, digest)
    }

    /// Signs a transaction.
    pub async fn sign_transaction(
        &self,
        transaction: &mut dyn SignableTransaction<Signature>,
    ) -> Result<Signature, SignError> {
        let signature = self.wait(TxSigner::sign_transaction(&*self.signer, &mut *transaction)).await?;
        self.check(signature, &transaction.signature_hash())
    }

    /// For a provider that fills, signs and sends by itself.
    pub fn wallet(&self) -> EthereumWallet {
        EthereumWallet::new(self.signer.clone())
    }

    async fn wait(
        &self,
        signature: impl Future<Output = alloy::signers::Result<Signature>>,
    ) -> Result<Signature, SignError> {
        let Self { kind, address, patience, .. } = *self;
        let signature = match tokio::time::timeout(patience, signature).await {
            Ok(signature) => signature,
            Err(_) => return Err(SignError::TimedOut { kind, address, patience }),
        };
        signature.map_err(|error| match error {
            error if is_of_another_key(&error) => SignError::WrongKey { kind, address },
            error => SignError::Failed { kind, address, reason: reasons(&error) },
        })
    }

    // INVARIANT: what leaves this process is signed by the key that it was started with. Who can change a KMS can change a key's alias.
    fn check(&self, signature: Signature, digest: &B256) -> Result<Signature, SignError> {
        let Self { kind, address, .. } = *self;
        if kind != KeyKind::Local && signature.recover_address_from_prehash(digest).ok() != Some(address) {
            return Err(SignError::WrongKey { kind, address });
        }
        Ok(signature.normalized_s())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kind", &self.kind).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Whether there is a signature, and it is none of the key that was shown: alloy looks for the one that fits before it hands it on.
fn is_of_another_key(error: &alloy::signers::Error) -> bool {
    let alloy::signers::Error::Other(error) = error else { return false };
    #[cfg(feature = "aws")]
    if let Some(alloy::signers::aws::AwsSignerError::SignatureRecoveryFailed) = error.downcast_ref() {
        return true;
    }
    #[cfg(feature = "gcp")]
    if let Some(alloy::signers::gcp::GcpSignerError::SignatureRecoveryFailed) = error.downcast_ref() {
        return true;
    }
    let _ = error;
    false
}

/// An error and what it came from, each said once: the outermost of an SDK's is rarely the one that helps.
pub(super) fn reasons(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::{consensus::TxEip1559, primitives::U256};

    /// A KMS that does as it is told.
    struct Kms {
        shown: PrivateKeySigner,
        signs: PrivateKeySigner,
        high_s: bool,
        answers: bool,
    }

    impl Kms {
        async fn sign(&self, digest: &B256) -> alloy::signers::Result<Signature> {
            if !self.answers {
                std::future::pending::<()>().await;
            }
            let signature = self.signs.sign_hash(digest).await?;
            if !self.high_s {
                return Ok(signature);
            }
            // The other signature of the same digest by the same key, which contracts refuse.
            let order = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141".parse::<U256>().unwrap();
            Ok(Signature::new(signature.r(), order - signature.s(), !signature.v()))
        }
    }

    type Signing<'a> = std::pin::Pin<Box<dyn Future<Output = alloy::signers::Result<Signature>> + Send + 'a>>;

    impl Signer for Kms {
        fn sign_hash<'a, 'b, 'c>(&'a self, digest: &'b B256) -> Signing<'c>
        where
            'a: 'c,
            'b: 'c,
            Self: 'c,
        {
            Box::pin(self.sign(digest))
        }

        fn address(&self) -> Address {
            self.shown.address()
        }

        fn chain_id(&self) -> Option<u64> {
            None
        }

        fn set_chain_id(&mut self, _: Option<u64>) {}
    }

    impl TxSigner<Signature> for Kms {
        fn address(&self) -> Address {
            self.shown.address()
        }

        fn sign_transaction<'a, 'b, 'c>(
            &'a self,
            transaction: &'b mut dyn SignableTransaction<Signature>,
        ) -> Signing<'c>
        where
            'a: 'c,
            'b: 'c,
            Self: 'c,
        {
            Box::pin(async { self.sign(&transaction.signature_hash()).await })
        }
    }

    fn kms() -> Kms {
        let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
        Kms { shown: key.clone(), signs: key, high_s: false, answers: true }
    }

    #[tokio::test]
    async fn signatures_are_the_keys_own_and_low() {
        let digest = B256::repeat_byte(3);
        for high_s in [false, true] {
            let key = SigningKey::elsewhere(KeyKind::AwsKms, Kms { high_s, ..kms() });
            let signature = key.sign_hash(&digest).await.unwrap();
            assert_eq!(signature.recover_address_from_prehash(&digest).unwrap(), key.address());
            assert!(signature.normalize_s().is_none(), "a contract takes the low s only");
            let mut transaction = TxEip1559 { chain_id: 1, gas_limit: 21_000, ..TxEip1559::default() };
            let signature = key.sign_transaction(&mut transaction).await.unwrap();
            let signed = transaction.signature_hash();
            assert_eq!(signature.recover_address_from_prehash(&signed).unwrap(), key.address());
            assert!(signature.normalize_s().is_none());
        }
    }

    #[tokio::test]
    async fn a_signature_of_another_key_is_not_used() {
        let other = PrivateKeySigner::from_bytes(&B256::repeat_byte(8)).unwrap();
        let key = SigningKey::elsewhere(KeyKind::GcpKms, Kms { signs: other, ..kms() });
        let error = key.sign_hash(&B256::ZERO).await.unwrap_err();
        assert!(matches!(error, SignError::WrongKey { .. }) && !error.is_retryable(), "{error}");
        let mut transaction = TxEip1559::default();
        assert!(matches!(key.sign_transaction(&mut transaction).await, Err(SignError::WrongKey { .. })));
    }

    #[tokio::test]
    async fn a_key_that_does_not_answer_is_not_waited_for_for_ever() {
        let key = SigningKey::elsewhere(KeyKind::AwsKms, Kms { answers: false, ..kms() });
        let key = key.with_patience(Duration::from_millis(20));
        let error = key.sign_hash(&B256::ZERO).await.unwrap_err();
        assert!(matches!(error, SignError::TimedOut { .. }) && error.is_retryable(), "{error}");
        assert!(error.to_string().contains("the AWS KMS key of 0x"), "{error}");
    }
}

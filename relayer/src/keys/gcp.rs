//! Keys in Google Cloud KMS: versions of keys for `ASYMMETRIC_SIGN` with the algorithm `EC_SIGN_SECP256K1_SHA256`, which only protection by an HSM has.
//!
//! Credentials are found as all of Google's programs find them: in the file that GOOGLE_APPLICATION_CREDENTIALS names, where gcloud leaves them, from the
//! machine's metadata server. They have to allow `cloudkms.cryptoKeyVersions.viewPublicKey` and `useToSign`, and nothing else.

use super::signing::reasons;
use alloy::signers::gcp::{
    GcpKeyRingRef, GcpSigner, GcpSignerError, KeySpecifier,
    gcloud_sdk::{GoogleApi, google::cloud::kms::v1::key_management_service_client::KeyManagementServiceClient},
};
use std::time::Duration;

const ENDPOINT: &str = "https://cloudkms.googleapis.com";

/// Time to find credentials, to connect, and to be shown the public key.
const WITHIN: Duration = Duration::from_secs(40);

/// Finds a version of a key by its name.
pub(super) async fn connect(name: &str) -> Result<GcpSigner, String> {
    let key = parse(name)?;
    let connecting = async {
        let client = GoogleApi::from_function(KeyManagementServiceClient::new, ENDPOINT, None).await;
        let client = client.map_err(|error| reasons(&error))?;
        GcpSigner::new(client, key, None).await.map_err(|error| match error {
            GcpSignerError::K256(_) | GcpSignerError::Spki(_) => {
                "it is not a key that signs for an Ethereum account (algorithm EC_SIGN_SECP256K1_SHA256)".into()
            }
            GcpSignerError::RequestError(status) => format!("{:?}: {}", status.code(), status.message()),
            other => reasons(&other),
        })
    };
    tokio::time::timeout(WITHIN, connecting).await.unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")))
}

/// Reads `projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V`.
fn parse(name: &str) -> Result<KeySpecifier, String> {
    let wrong = || {
        "its name is to be like projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1 (gcloud kms keys versions list)"
            .to_owned()
    };
    let parts: Vec<&str> = name.split('/').collect();
    let ["projects", project, "locations", place, "keyRings", ring, "cryptoKeys", key, "cryptoKeyVersions", version] =
        parts[..]
    else {
        return Err(wrong());
    };
    // It becomes part of a header, which takes nothing else.
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let version: u64 = version.parse().map_err(|_| wrong())?;
    if ![project, place, ring, key].into_iter().all(is_name) {
        return Err(wrong());
    }
    Ok(KeySpecifier::new(GcpKeyRingRef::new(project, place, ring), key, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::signers::gcp::gcloud_sdk::{GoogleEnvironment, TokenSourceType};

    #[test]
    fn names_of_keys() {
        let name = "projects/my-project/locations/europe-west3/keyRings/candor/cryptoKeys/signer/cryptoKeyVersions/12";
        assert!(format!("{:?}", parse(name).unwrap()).contains(name));
        for wrong in [
            "",
            "signer",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/latest",
            "projects/p/locations/l/keyRings/r/cryptoKeys//cryptoKeyVersions/1",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k\n/cryptoKeyVersions/1",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1/more",
        ] {
            assert!(parse(wrong).unwrap_err().contains("cryptoKeyVersions/1"), "{wrong}");
        }
    }

    /// Which cryptography TLS and tokens use is decided by features of several crates, and a wrong choice is a panic, not an error.
    #[tokio::test]
    async fn there_is_cryptography_for_tls_and_for_tokens() {
        let nobody = GoogleEnvironment::init_google_services_channel("https://127.0.0.1:1").await;
        assert!(nobody.is_err(), "nobody is there");
        let token = jsonwebtoken::encode(
            &jsonwebtoken::Header::default(),
            &serde_json::json!({ "iss": "candor" }),
            &jsonwebtoken::EncodingKey::from_secret(b"a secret"),
        );
        assert_eq!(token.unwrap().split('.').count(), 3);
        let none = GoogleApi::from_function_with_token_source(
            KeyManagementServiceClient::new,
            "http://127.0.0.1:1",
            None,
            Vec::new(),
            TokenSourceType::Json("{}".into()),
        );
        assert!(none.await.is_err());
    }
}

//! Keys in AWS KMS: asymmetric keys of the spec `ECC_SECG_P256K1` for `SIGN_VERIFY`. They never leave it; it is asked for each signature.
//!
//! Credentials and region are found as all of AWS's programs find them: in the environment, in `~/.aws`, from the machine's or the container's role. The key's
//! policy has to allow `kms:GetPublicKey` and `kms:Sign`, and nothing else. HTTP goes through the client that the rest of this program uses, so that the SDK
//! brings none of its own.

use super::signing::reasons;
use alloy::signers::aws::{
    AwsSigner, AwsSignerError,
    aws_config::{self, BehaviorVersion, ConfigLoader, Region, retry::RetryConfig, timeout::TimeoutConfig},
    aws_sdk_kms,
};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use std::time::Duration;

/// Time for one try, and for all tries of one question together.
const TRY: Duration = Duration::from_secs(5);
const ALL_TRIES: Duration = Duration::from_secs(20);

/// Tries of one question, the first included; the SDK waits longer before each.
const TRIES: u32 = 4;

/// Bytes of an answer, at most. A signature has some hundred.
const MOST_BYTES: usize = 1 << 20;

/// How the SDK is used here.
pub fn settings() -> Result<ConfigLoader, String> {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(TRY)
        .read_timeout(TRY)
        .operation_attempt_timeout(TRY)
        .operation_timeout(ALL_TRIES);
    Ok(aws_config::defaults(BehaviorVersion::latest())
        .http_client(Http(http.map_err(|error| reasons(&error))?))
        .timeout_config(timeouts.build())
        .retry_config(RetryConfig::standard().with_max_attempts(TRIES)))
}

/// Finds a key by its id, its ARN or its alias.
pub(super) async fn connect(key: &str) -> Result<AwsSigner, String> {
    connect_through(settings()?, key).await
}

/// The same with settings of one's own, such as another endpoint.
pub async fn connect_through(mut settings: ConfigLoader, key: &str) -> Result<AwsSigner, String> {
    if let Some(region) = region_of(key) {
        settings = settings.region(Region::new(region.to_owned()));
    }
    let config = settings.load().await;
    if config.region().is_none() {
        return Err("no region is known: name the key by its whole ARN, or set AWS_REGION".into());
    }
    AwsSigner::new(aws_sdk_kms::Client::new(&config), key.to_owned(), None).await.map_err(|error| match error {
        AwsSignerError::K256(_) | AwsSignerError::Spki(_) => {
            "it is not a key that signs for an Ethereum account (key spec ECC_SECG_P256K1, usage SIGN_VERIFY)".into()
        }
        other => reasons(&other),
    })
}

/// Region in an ARN: `arn:aws:kms:REGION:ACCOUNT:key/ID`.
fn region_of(key: &str) -> Option<&str> {
    let mut parts = key.split(':');
    (parts.next()? == "arn").then_some(())?;
    parts.nth(2).filter(|region| !region.is_empty())
}

/// HTTP for the SDK.
#[derive(Debug, Clone)]
struct Http(reqwest::Client);

impl HttpClient for Http {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let limits = [settings.connect_timeout(), settings.read_timeout()];
        SharedHttpConnector::new(Connector { http: self.0.clone(), limit: limits.into_iter().flatten().max() })
    }
}

#[derive(Debug)]
struct Connector {
    http: reqwest::Client,
    limit: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (http, limit) = (self.http.clone(), self.limit);
        HttpConnectorFuture::new(async move { pass(http, limit, request).await })
    }
}

async fn pass(
    http: reqwest::Client,
    limit: Option<Duration>,
    request: HttpRequest,
) -> Result<HttpResponse, ConnectorError> {
    let wrong = |what: &str| ConnectorError::user(what.into());
    let failed = |error: reqwest::Error| {
        // Addresses of AWS hold no secrets, and are of no help either.
        let error = error.without_url();
        if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
    };
    let method = request.method().parse().map_err(|_| wrong("a method that HTTP does not have"))?;
    let mut question = http.request(method, request.uri());
    for (name, value) in request.headers() {
        question = question.header(name, value);
    }
    let body = request.body().bytes().ok_or_else(|| wrong("a body that is a stream"))?;
    question = question.body(body.to_vec());
    if let Some(limit) = limit {
        question = question.timeout(limit);
    }
    let mut answer = question.send().await.map_err(failed)?;
    let status =
        StatusCode::try_from(answer.status().as_u16()).map_err(|error| ConnectorError::other(error.into(), None))?;
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&part);
        if body.len() > MOST_BYTES {
            return Err(ConnectorError::other("the answer is too long".into(), None));
        }
    }
    let mut response = HttpResponse::new(status, SdkBody::from(body));
    for (name, value) in answer.headers() {
        if let Ok(value) = value.to_str() {
            response.headers_mut().append(name.as_str().to_owned(), value.to_owned());
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_says_where_its_key_is() {
        let arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        assert_eq!(region_of(arn), Some("eu-central-1"));
        assert_eq!(region_of("arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/candor"), Some("us-gov-west-1"));
        for elsewhere in
            ["1234abcd-12ab-34cd-56ef-1234567890ab", "alias/candor", "arn:aws:kms", "arn:aws:kms::1:key/x", ""]
        {
            assert_eq!(region_of(elsewhere), None, "{elsewhere}");
        }
    }
}

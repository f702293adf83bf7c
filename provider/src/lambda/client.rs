//! The client of Lambda.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::config::{Builder, StalledStreamProtectionConfig};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};

use super::LambdaOptions;
use crate::ProviderError;

/// An answer comes so long after the lifetime of its invocation at most: a start, and an end by force.
const LATE: Duration = Duration::from_secs(60);
/// An emulator has none, and the SDK wants one.
const EMULATED_REGION: &str = "us-east-1";

/// Asks for region and credentials where one asks in AWS: environment, profile, container, machine.
pub(super) async fn connect(options: &LambdaOptions) -> Result<Client, ProviderError> {
    let tls = tls::Provider::Rustls(CryptoMode::Ring);
    let http = aws_smithy_http_client::Builder::new().tls_provider(tls).build_https();
    let region = options.region.clone().or_else(|| region_of(&options.function)).map(Region::new);
    let is_plain = options.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let builder = if is_plain {
        let region = region.unwrap_or(Region::from_static(EMULATED_REGION));
        Builder::new().behavior_version_latest().region(region).allow_no_auth()
    } else {
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
        if let Some(region) = region {
            loader = loader.region(region);
        }
        let found = loader.load().await;
        if found.region().is_none() {
            let why = format!("nothing says in which region `{}` is", options.function);
            return Err(ProviderError::Failed(why));
        }
        Builder::from(&found)
    };
    let longest = options.lifetime + LATE;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout)
        .read_timeout(longest)
        .operation_timeout(longest)
        .build();
    let mut builder = builder
        .http_client(http)
        // A repeated request would be a second host.
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // Nothing comes for as long as the host lives.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(endpoint) = &options.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(builder.build()))
}

/// The region in an ARN: `arn:aws:lambda:REGION:ACCOUNT:function:NAME`.
fn region_of(function: &str) -> Option<String> {
    let mut parts = function.split(':');
    (parts.next() == Some("arn")).then_some(())?;
    parts.nth(2).filter(|region| !region.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_says_the_region() {
        let arn = "arn:aws:lambda:eu-central-1:123456789012:function:onward:live";
        assert_eq!(region_of(arn).as_deref(), Some("eu-central-1"));
        for name in ["onward", "123456789012:function:onward", "arn:aws:lambda::123456789012:function:onward"] {
            assert_eq!(region_of(name), None, "{name}");
        }
    }
}

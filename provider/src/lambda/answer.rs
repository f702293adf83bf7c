//! What the answers of Lambda mean.

use aws_sdk_lambda::config::http::HttpResponse;
use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};

use crate::ProviderError;

/// Of what an answer says that is no error of Lambda, people read so much.
const MOST_LETTERS: usize = 200;

/// What became of an invocation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It ran, and ended: why.
    Ended(String),
    /// It did not run, as far as Lambda knows.
    Refused(ProviderError),
    /// Nobody knows: it may run.
    Lost(String),
}

impl Answer {
    pub(super) fn of(answer: Result<InvokeOutput, SdkError<InvokeError>>) -> Self {
        match answer {
            Ok(output) => Self::Ended(reason(&output)),
            Err(SdkError::ServiceError(error)) => {
                let why = said(error.err(), error.raw());
                Self::Refused(if is_full(error.err()) { ProviderError::Full(why) } else { ProviderError::Failed(why) })
            }
            Err(error) => {
                let why = causes(&error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
                if was_sent(&error) { Self::Lost(why) } else { Self::Refused(ProviderError::Failed(why)) }
            }
        }
    }
}

/// Of a request without an answer: it may have come to Lambda. Not when there were no credentials, or no connection.
fn was_sent(error: &SdkError<InvokeError>) -> bool {
    match error {
        SdkError::ConstructionFailure(_) => false,
        SdkError::DispatchFailure(failure) => {
            let mut sending =
                causes(error).filter_map(|cause| cause.downcast_ref::<hyper_util::client::legacy::Error>());
            sending.next().map_or(failure.is_timeout(), |error| !error.is_connect())
        }
        _ => true,
    }
}

/// There is no room, or the function is not ready: later it may work.
fn is_full(error: &InvokeError) -> bool {
    matches!(
        error,
        InvokeError::TooManyRequestsException(_)
            | InvokeError::ServiceQuotaExceededException(_)
            | InvokeError::Ec2ThrottledException(_)
            | InvokeError::EniLimitReachedException(_)
            | InvokeError::EniNotReadyException(_)
            | InvokeError::SubnetIpAddressLimitReachedException(_)
            | InvokeError::ResourceConflictException(_)
            | InvokeError::ResourceNotReadyException(_)
            | InvokeError::CodeArtifactUserPendingException(_)
            | InvokeError::SnapStartNotReadyException(_)
    )
}

/// How an invocation ended: what `onward lambda` answered, or what Lambda says of a function that crashed or ran out of time.
fn reason(output: &InvokeOutput) -> String {
    let payload = output.payload().map_or(&[][..], |payload| payload.as_ref());
    let answer: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    let words = |names: &[&str]| -> Option<String> {
        let words: Vec<_> = names.iter().filter_map(|name| answer[name].as_str()).collect();
        (!words.is_empty()).then(|| words.join(": "))
    };
    let told = match output.function_error() {
        Some(_) => words(&["errorType", "errorMessage"]),
        None => words(&["ended"]),
    };
    told.unwrap_or_else(|| format!("its function answered {}", shown(payload)))
}

/// What Lambda says of a request that it does not carry out.
fn said(error: &InvokeError, response: &HttpResponse) -> String {
    match error.code() {
        Some(code) => format!("{code}: {}", error.message().unwrap_or("without a message")),
        None => format!("HTTP {}: {}", response.status(), shown(response.body().bytes().unwrap_or_default())),
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(MOST_LETTERS).collect()
}

/// An error and what it came from.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::error::ConnectorError;

    use super::*;

    #[test]
    fn what_was_not_sent_is_refused_and_what_was_is_lost() {
        let without_credentials = SdkError::dispatch_failure(ConnectorError::other("no credentials".into(), None));
        let why = "dispatch failure: other: no credentials".to_owned();
        assert_eq!(Answer::of(Err(without_credentials)), Answer::Refused(ProviderError::Failed(why)));
        let why = |answer| match answer {
            Answer::Lost(why) => why,
            other => panic!("{other:?}"),
        };
        let silent = SdkError::dispatch_failure(ConnectorError::timeout("no answer".into()));
        assert!(why(Answer::of(Err(silent))).ends_with("no answer"));
        assert!(why(Answer::of(Err(SdkError::timeout_error("too long")))).ends_with("too long"));
    }
}

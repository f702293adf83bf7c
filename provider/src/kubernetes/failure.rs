//! What an API server says when it does not do what it was asked, and what to do about it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use kube::core::Status;

use crate::ProviderError;

/// Why a request was not answered as it should be.
#[derive(Debug)]
pub(super) enum Failure {
    /// The API server says no.
    Refused(Box<Status>),
    /// It says nothing that can be read; what was asked may have been done.
    Lost(String),
}

/// What was asked: a verb of a role, the plural of a kind, where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) verb: &'a str,
    pub(super) resource: &'a str,
    pub(super) namespace: &'a str,
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {} in namespace `{}`", self.verb, self.resource, self.namespace)
    }
}

/// What is answered within `timeout`.
pub(super) async fn answer<T>(timeout: Duration, asked: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, asked).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::Lost(format!("the API server did not answer within {} ms", timeout.as_millis()))),
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            error => Self::Lost(with_causes(&error)),
        }
    }
}

impl Failure {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(status) if status.is_not_found())
    }

    pub(super) fn is_already_exists(&self) -> bool {
        matches!(self, Self::Refused(status) if status.is_already_exists())
    }

    /// For whoever asked the provider.
    pub(super) fn of(self, request: Request<'_>) -> ProviderError {
        let status = match self {
            Self::Refused(status) => status,
            Self::Lost(why) => return ProviderError::Failed(format!("{request}: {why}")),
        };
        let said = &status.message;
        if has_no_room(&status) {
            return ProviderError::Full(format!("{request}: {said}"));
        }
        let Request { verb, resource, namespace } = request;
        let advice = match status.code {
            401 => ": its token or certificate is not, or no longer, valid".to_owned(),
            403 if said.contains(&format!("cannot {verb} resource")) => {
                format!(": give it a role with the verb `{verb}` on `{resource}` in namespace `{namespace}`")
            }
            _ => String::new(),
        };
        ProviderError::Failed(format!("{request}: {said}{advice}"))
    }
}

/// A quota or rate is used up, and nothing was done.
fn has_no_room(status: &Status) -> bool {
    match status.code {
        429 => true,
        403 => status.message.contains("exceeded quota"),
        // Pods that are made at once compete for the record of what is used.
        409 => status.message.contains("resourcequotas"),
        _ => false,
    }
}

/// What clients say is often only which layer failed.
fn with_causes(error: &dyn Error) -> String {
    let (mut said, mut cause) = (error.to_string(), error.source());
    while let Some(deeper) = cause {
        let more = deeper.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        cause = deeper.source();
    }
    said
}

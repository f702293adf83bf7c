//! Errors between hosts: the whole [`WireError`] travels in the status.

use onward_wire::{ErrorKind, WireError};
use prost::Message;
use tonic::{Code, Status};

/// The code of an error of `kind` that is not a timeout.
pub fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidQuery => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Internal => Code::Internal,
    }
}

/// `error` as gRPC carries it.
pub fn to_status(error: &WireError) -> Status {
    Status::with_details(code_of(error.kind()), error.message.clone(), error.encode_to_vec().into())
}

/// What a status of `peer` says. What is not an [`WireError`] of ours is the network's, and worth another try.
pub fn from_status(peer: &str, status: &Status) -> WireError {
    if let Ok(error) = WireError::decode(status.details())
        && !status.details().is_empty()
    {
        return error;
    }
    // tonic says "transport error" and keeps the reason to itself.
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        reason = format!("{reason}: {error}");
        source = error.source();
    }
    // What serves no Flight, as gRPC's libraries have it; what Onward does not serve, it explains.
    let is_stranger = ["unknown service", "Method not found", "grpc-status header missing"]
        .iter()
        .any(|begin| reason.starts_with(begin));
    if status.code() == Code::Unimplemented && (is_stranger || reason.is_empty()) {
        reason = format!("it answers, but there is no Onward there ({:?}: {reason})", status.code());
    }
    let kind = match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Unavailable,
    };
    WireError::new(kind, format!("{peer}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_all_it_says() {
        let error = WireError { is_stale: true, ..WireError::new(ErrorKind::NotFound, "no such segment") };
        assert_eq!(from_status("grpc://h", &to_status(&error)), error);
        let network = from_status("grpc://h", &Status::unknown("reset"));
        assert!(network.is_retryable && network.message.contains("grpc://h: reset"), "{network}");
    }

    #[test]
    fn a_server_that_is_no_onward_is_called_so() {
        let said = |text: &str| from_status("grpc://h", &Status::unimplemented(text)).message;
        for of_others in ["unknown service arrow.flight.protocol.FlightService", ""] {
            assert!(said(of_others).contains("no Onward there"), "{}", said(of_others));
        }
        assert_eq!(
            said("DoExchange: this is the port of --listen"),
            "grpc://h: DoExchange: this is the port of --listen"
        );
    }
}

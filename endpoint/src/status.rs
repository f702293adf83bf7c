//! Errors as gRPC statuses: the code says what the client can do, the message is DataFusion's own.
//!
//! | kind | code |
//! | --- | --- |
//! | InvalidQuery | INVALID_ARGUMENT |
//! | NotFound | NOT_FOUND |
//! | Denied | PERMISSION_DENIED |
//! | ResourceExhausted | RESOURCE_EXHAUSTED |
//! | Unavailable | UNAVAILABLE |
//! | Cancelled | CANCELLED, or DEADLINE_EXCEEDED when a timeout did it |
//! | Internal | INTERNAL, with the query id in the message |
//!
//! The kind and the query id also travel as metadata, so that our own clients keep the type of an error.

use onward_coordinator::QueryError;
use onward_shuffle::flight::code_of;
use onward_wire::{ErrorKind, QueryId};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata key of the error's kind, such as `InvalidQuery`.
pub const ERROR_KIND_HEADER: &str = "x-onward-error-kind";
/// Metadata key of the query id, such as `q-7f3a`.
pub const QUERY_ID_HEADER: &str = "x-onward-query-id";

/// Bytes of a message once it is percent-encoded. Clients refuse headers past 8 KiB, and then report that instead.
const MAX_MESSAGE_BYTES: usize = 6_000;

/// The status of a failed query.
pub(crate) fn from_query_error(error: &QueryError) -> Status {
    let kind = error.error.kind();
    let message = match (kind, error.query) {
        (ErrorKind::Internal, Some(query)) => format!("{} (query {query})", error.error.message),
        _ => error.error.message.clone(),
    };
    new(kind, message, error.query)
}

/// A status of `kind` that is not a timeout.
pub(crate) fn new(kind: ErrorKind, message: impl Into<String>, query: Option<QueryId>) -> Status {
    build(code_of(kind), kind, message.into(), query)
}

/// The status of a statement that a timeout ended.
pub(crate) fn timed_out(query: Option<QueryId>, timeout_ms: u64) -> Status {
    let message = format!("the statement was cancelled after its timeout of {timeout_ms} ms");
    build(Code::DeadlineExceeded, ErrorKind::Cancelled, message, query)
}

/// The status of a statement that a client cancelled.
pub(crate) fn cancelled(query: Option<QueryId>) -> Status {
    new(ErrorKind::Cancelled, "the statement was cancelled", query)
}

fn build(code: Code, kind: ErrorKind, message: String, query: Option<QueryId>) -> Status {
    let mut status = Status::new(code, shorten(message));
    let metadata = status.metadata_mut();
    if let Ok(kind) = MetadataValue::try_from(format!("{kind:?}")) {
        metadata.insert(ERROR_KIND_HEADER, kind);
    }
    if let Some(Ok(query)) = query.map(|query| MetadataValue::try_from(query.to_string())) {
        metadata.insert(QUERY_ID_HEADER, query);
    }
    status
}

/// Cuts a message so that it fits a header after percent-encoding (three bytes for each byte that is not plain).
fn shorten(mut message: String) -> String {
    let mut encoded = 0;
    let end = message.char_indices().find_map(|(at, c)| {
        encoded += if c.is_ascii_graphic() && c != '%' { 1 } else { 3 * c.len_utf8() };
        (encoded > MAX_MESSAGE_BYTES).then_some(at)
    });
    if let Some(end) = end {
        message.truncate(end);
        message.push_str(" ...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_to_what_a_header_holds_on_a_character_border() {
        assert_eq!(shorten("short".to_owned()), "short");
        let cut = shorten("é".repeat(10_000));
        assert!(cut.len() <= MAX_MESSAGE_BYTES && cut.ends_with("é ..."), "{}", cut.len());
    }

    #[test]
    fn an_internal_error_names_its_query() {
        let error = QueryError {
            error: onward_wire::WireError::new(ErrorKind::Internal, "broken"),
            query: Some(QueryId(0x7f3a)),
        };
        let status = from_query_error(&error);
        assert_eq!((status.code(), status.message()), (Code::Internal, "broken (query q-7f3a)"));
        assert_eq!(status.metadata().get(QUERY_ID_HEADER).map(|value| value.as_bytes()), Some(&b"q-7f3a"[..]));
    }
}

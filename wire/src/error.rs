//! Errors as they travel between roles and to clients.

use std::fmt;

/// What a caller can do about an error. Retrying is decided from this type, never from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ErrorKind {
    /// A bug or an invariant that did not hold. Report it, with the query id.
    Internal = 0,
    /// The SQL, a cast, a division, a schema: change the query. Never retried.
    InvalidQuery = 1,
    /// A table, file, bucket or session that is not there.
    NotFound = 2,
    /// Not allowed: credentials, paths outside `--allow-path`.
    Denied = 3,
    /// A limit was reached: memory, disk, queue. The message names the setting.
    ResourceExhausted = 4,
    /// Something was lost or is not up: a function, a host, a store. Worth trying again.
    Unavailable = 5,
    /// The user, a closed connection or a timeout ended it.
    Cancelled = 6,
}

/// An error on the wire: the same kind in a function, the coordinator, the CLI, Flight and Python.
///
/// `message` is what the user reads: what failed, on what, and what to do.
#[derive(Clone, PartialEq, prost::Message, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// See [`ErrorKind`].
    #[prost(enumeration = "ErrorKind", tag = "1")]
    pub kind: i32,
    /// What the user reads.
    #[prost(string, tag = "2")]
    pub message: String,
    /// The attempt may be tried again elsewhere.
    #[prost(bool, tag = "3")]
    pub is_retryable: bool,
    /// The try counts against `max_attempts` (a function that was told to leave does not count).
    #[prost(bool, tag = "4")]
    pub counts_as_failure: bool,
    /// An object was overwritten or removed after the query was planned: worth planning it again, once.
    #[prost(bool, tag = "5")]
    pub is_stale: bool,
    /// A task takes longer than functions live: worth planning the query again, in smaller tasks.
    #[prost(bool, tag = "6")]
    pub is_too_long: bool,
}

impl WireError {
    /// An error of `kind`: retryable when it is [`ErrorKind::Unavailable`], always counted.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self {
            kind: kind as i32,
            message: message.to_string(),
            is_retryable: kind == ErrorKind::Unavailable,
            counts_as_failure: true,
            is_stale: false,
            is_too_long: false,
        }
    }

    /// The object that `what` names is not the one that the query was planned for. Another attempt would meet the same.
    pub fn stale(what: impl fmt::Display) -> Self {
        let message = format!("`{what}` was overwritten or removed while the query read it: run the query again");
        Self { is_retryable: false, is_stale: true, ..Self::new(ErrorKind::Unavailable, message) }
    }
}

//! What can go wrong.

use crate::{LeaderInfo, MAX_CHANGES, MAX_WRITE_BYTES};

/// Why state could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Somebody else leads, or nobody: nothing was read or written. Only of a write whose first answer was lost is it not known whether it
    /// was done before the leadership ended.
    #[error("the leadership of epoch {epoch} is over{}", by.as_ref().map_or_else(String::new, |by| format!(": {} leads", by.announcement.name)))]
    Deposed {
        /// The epoch that is over.
        epoch: u64,
        /// Who leads now, if somebody does.
        by: Option<Box<LeaderInfo>>,
    },
    /// etcd did not answer in time. It may be tried again. A write may have been done: the next read tells.
    #[error("etcd does not answer: {0}")]
    Unavailable(String),
    /// No server is trusted, or trusts us: certificates are not as they should be. Nothing was read or written, unless an answer was lost before.
    /// It may be tried again: servers may get others.
    #[error("etcd cannot be reached safely: {0}")]
    Untrusted(String),
    /// More than a transaction takes: nothing was written.
    #[error(
        "{changes} changes of {bytes} bytes are more than one write takes, at most {MAX_CHANGES} changes of {MAX_WRITE_BYTES} bytes"
    )]
    TooLarge {
        /// How many changes.
        changes: usize,
        /// Their size as sent, in bytes.
        bytes: usize,
    },
    /// etcd does not let this user do it, or does not know the user.
    #[error("etcd refuses: {0}")]
    Denied(String),
    /// An option, a key or a request that can never work.
    #[error("{0}")]
    Invalid(String),
}

impl StateError {
    /// Whether the same may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Untrusted(_))
    }
}

/// How a request failed: what this crate decides from, and nobody else sees.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Unavailable(String),
    /// Of all servers.
    Untrusted(String),
    /// etcd forgot who we are: tokens end with time, and with a restart.
    Token(String),
    Denied(String),
    Invalid(String),
    /// A lease that is over.
    NotFound(String),
    /// What was asked for is too old for etcd.
    Compacted(String),
    /// More than we let come at once.
    AnswerTooLarge(String),
}

impl From<Fault> for StateError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(message) | Fault::NotFound(message) | Fault::Compacted(message) => {
                Self::Unavailable(message)
            }
            Fault::Untrusted(message) => Self::Untrusted(message),
            Fault::Token(message) | Fault::Denied(message) => Self::Denied(message),
            Fault::Invalid(message) | Fault::AnswerTooLarge(message) => Self::Invalid(message),
        }
    }
}

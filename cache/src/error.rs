//! Errors of this crate.

use datafusion::error::DataFusionError;
use onward_wire::{ErrorKind, WireError};

/// A store that could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No store is known for the URL's scheme.
    #[error(
        "`{url}`: no object store for `{scheme}://`; use a local path, http(s)://, s3://, gs://, az:// or abfss://"
    )]
    UnknownScheme {
        /// The URL, without user info.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// An option that the store does not have.
    #[error("`{url}`: unknown option `{option}` for this store{hint}")]
    UnknownOption {
        /// Base URL of the store.
        url: String,
        /// The option, never its value.
        option: String,
        /// Empty, or `; did you mean ...?`.
        hint: String,
    },
    /// An option whose value is of another form.
    #[error("`{url}`: option `{option}` has to be {hint}")]
    InvalidOption {
        /// Base URL of the store.
        url: String,
        /// The option, never its value.
        option: String,
        /// What it has to be.
        hint: &'static str,
    },
    /// Options are missing or contradict each other.
    #[error("`{url}`: the object store could not be set up: {source}")]
    Build {
        /// Base URL of the store.
        url: String,
        /// Why.
        source: object_store::Error,
    },
    /// The store can be read but not written.
    #[error("`{url}` cannot be written: {reason}")]
    ReadOnly {
        /// Where.
        url: String,
        /// Why.
        reason: &'static str,
    },
    /// A local path outside the directories a session may use.
    #[error("`{path}` is outside the directories this server allows ({allowed}); see --allow-path")]
    Denied {
        /// The path as asked for.
        path: String,
        /// The allowed directories.
        allowed: String,
    },
}

impl StoreError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied { .. } => ErrorKind::Denied,
            _ => ErrorKind::InvalidQuery,
        }
    }
}

impl From<StoreError> for WireError {
    fn from(error: StoreError) -> Self {
        WireError::new(error.kind(), error)
    }
}

impl From<StoreError> for DataFusionError {
    fn from(error: StoreError) -> Self {
        DataFusionError::External(Box::new(WireError::from(error)))
    }
}

impl From<StoreError> for object_store::Error {
    fn from(error: StoreError) -> Self {
        let source = Box::new(WireError::from(error));
        match source.kind() {
            ErrorKind::Denied => Self::PermissionDenied { path: String::new(), source },
            _ => Self::Generic { store: "onward", source },
        }
    }
}

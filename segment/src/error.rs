//! Errors of this crate, and what a caller can do about each.

use arrow::error::ArrowError;
use onward_wire::{ErrorKind, SegmentId, WireError};

/// What went wrong with a segment or its store.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The file is shorter than its segment, or its footer was never written: its writer died. Treat it as lost.
    #[error("segment {id} is torn: {detail}")]
    Torn {
        /// Which.
        id: SegmentId,
        /// What does not fit.
        detail: String,
    },
    /// The bytes are not this segment: another program's file, another version, or an older use of a recycled file.
    #[error("segment {id} is foreign: {detail}")]
    Foreign {
        /// Which was expected.
        id: SegmentId,
        /// What was found.
        detail: String,
    },
    /// The segment's own structure contradicts itself.
    #[error("segment {id} is corrupt: {detail}")]
    Corrupt {
        /// Which.
        id: SegmentId,
        /// What contradicts.
        detail: String,
    },
    /// The writable file is too small for the message; open another. Nothing was written.
    #[error("segment {id} is full: {needed_bytes} bytes needed, {free_bytes} left")]
    Full {
        /// Which.
        id: SegmentId,
        /// Bytes the message needs.
        needed_bytes: u64,
        /// Bytes left for it.
        free_bytes: u64,
    },
    /// A budget is used up. The message names the setting.
    #[error(
        "{needed_bytes} bytes for a segment do not fit: {used_bytes} of {limit_bytes} bytes are used; change {setting}"
    )]
    Exhausted {
        /// Bytes asked for.
        needed_bytes: u64,
        /// Bytes in use.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
        /// The setting that raises it.
        setting: &'static str,
    },
    /// The store does not have it: never made, discarded, removed, or not in the state the call needs.
    #[error("segment {id} is not {expected} in this store")]
    Unknown {
        /// Which.
        id: SegmentId,
        /// The state the call needs.
        expected: &'static str,
    },
    /// The batch does not have the segment's types.
    #[error("column {column} of the batch is {found}, the segment holds {expected}")]
    Mismatch {
        /// Name of the column.
        column: String,
        /// Type of the segment.
        expected: String,
        /// Type of the batch.
        found: String,
    },
    /// Arrow IPC has no way to say this type.
    #[error("{data_type} cannot be written as Arrow IPC")]
    Unsupported {
        /// The type.
        data_type: String,
    },
    /// The operating system said no.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Arrow could not encode or decode.
    #[error("Arrow IPC: {0}")]
    Arrow(#[from] ArrowError),
}

impl SegmentError {
    pub(crate) fn io(
        operation: &'static str,
        path: impl std::fmt::Display,
    ) -> impl FnOnce(std::io::Error) -> SegmentError {
        let path = path.to_string();
        move |source| Self::Io { operation, path, source }
    }
}

impl From<SegmentError> for WireError {
    fn from(error: SegmentError) -> Self {
        let kind = match &error {
            // The bytes are lost: another attempt makes them again.
            SegmentError::Torn { .. } | SegmentError::Foreign { .. } | SegmentError::Unknown { .. } => {
                ErrorKind::Unavailable
            }
            SegmentError::Exhausted { .. } => ErrorKind::ResourceExhausted,
            SegmentError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorKind::ResourceExhausted
            }
            _ => ErrorKind::Internal,
        };
        WireError::new(kind, error)
    }
}

/// Shorthand.
pub type Result<T, E = SegmentError> = std::result::Result<T, E>;

//! What can go wrong while data is made, queries run and answers are compared.

use std::path::PathBuf;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. A query that fails or gives wrong rows is not one: it is part of the report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The option cannot be used as given.
    #[error("{0}")]
    Invalid(String),
    /// A file or directory could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: "create", "write", "rename" ...
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The disk is full; nothing was left under a final name.
    #[error(
        "disk full while writing {path}: scale {scale} needs about {needed_bytes} bytes; free some space or choose another --out"
    )]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Scale factor asked for.
        scale: f64,
        /// Estimated size of the whole data set.
        needed_bytes: u64,
    },
    /// Another process is writing into the directory.
    #[error("another process is generating into {0}; wait for it or choose another directory")]
    Busy(PathBuf),
    /// The caller asked to stop; nothing was left behind.
    #[error("cancelled")]
    Cancelled,
    /// Writing Parquet failed for a reason other than I/O.
    #[error("cannot encode {path}: {source}")]
    Parquet {
        /// The file being written.
        path: PathBuf,
        /// What the Parquet writer said.
        source: parquet::errors::ParquetError,
    },
    /// A committed answer or a manifest cannot be read.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Which file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server cannot be reached or refused something that is not one of the queries.
    #[error("{action}: {message}")]
    Server {
        /// What was asked of it.
        action: String,
        /// Its answer.
        message: String,
    },
    /// The single-process oracle failed.
    #[error("single-process DataFusion: {0}")]
    Oracle(#[from] datafusion::error::DataFusionError),
}

impl Error {
    /// For `map_err`: names the action and the path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

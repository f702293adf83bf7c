//! What can go wrong with the catalog and the files it names.

use std::path::PathBuf;

use datafusion::error::DataFusionError;
use onward_wire::{ErrorKind, WireError};

/// An error of the catalog. Each message says what failed, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Another process serves the data directory.
    #[error(
        "data directory `{}` is used by process {pid} (its lock is `{}`): stop it, connect to it, or use another --data-dir",
        .directory.display(), .lock.display()
    )]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// The lock file.
        lock: PathBuf,
        /// Who holds it; `unknown` when the file does not say.
        pid: String,
    },
    /// The directory holds files of somebody else.
    #[error(
        "`{}` is not a data directory of Onward, it holds `{found}`: name an empty or a new directory, such as `{}`",
        .directory.display(), .directory.join("onward").display()
    )]
    NotOurs {
        /// The directory.
        directory: PathBuf,
        /// The name of something in it.
        found: String,
    },
    /// The shared catalog is of tables in another directory.
    #[error(
        "`{}` is not the data directory of the other coordinators: their tables have their files elsewhere. Give all of them one \
         --data-dir on storage that all reach, or this one an etcd_prefix of its own", .0.display()
    )]
    OtherDirectory(PathBuf),
    /// The catalog file was there and is not any more.
    #[error(
        "catalog `{}` is gone, but `{}` is not empty: restore the catalog from a backup, or move that directory away to start \
         without tables", .path.display(), .tables.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// The directory of the tables.
        tables: PathBuf,
    },
    /// A file or directory of the data directory could not be read or written.
    #[error("data directory: {action} `{}` failed: {source}", .path.display())]
    Io {
        /// `reading`, `writing`, ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or directory of the user's could not be written.
    #[error("{action} `{}` failed: {source}", .path.display())]
    File {
        /// `writing`, `creating the directory`, ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The catalog file cannot be understood.
    #[error("catalog `{}` cannot be read: {reason}; restore it from a backup, or move it and `tables/` beside it away to start without tables", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another coordinator leads: nothing was changed, or it is not known.
    #[error("{0}: run the statement again, and look first whether it was carried out")]
    Deposed(String),
    /// The catalog that several coordinators share cannot be read or written.
    #[error("the shared catalog: {0}")]
    Shared(String),
    /// A table, view or schema that is there already.
    #[error("{what} `{name}` exists already; use IF NOT EXISTS, OR REPLACE, or drop it first")]
    Exists {
        /// `table`, `view`, `schema`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A table, view or schema that is not there.
    #[error("{what} `{name}` does not exist{hint}")]
    Missing {
        /// `table`, `view`, `schema`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Empty, or `; did you mean ...?`.
        hint: String,
    },
    /// A schema that cannot be dropped yet.
    #[error("schema `{name}` holds {tables} table(s) or view(s); drop them first or use CASCADE")]
    NotEmpty {
        /// The schema.
        name: String,
        /// How many.
        tables: usize,
    },
    /// Files that are not there.
    #[error("no file matches `{location}`{advice}")]
    NoFiles {
        /// As the user wrote it.
        location: String,
        /// What to do.
        advice: String,
    },
    /// A file that cannot be read as its format.
    #[error("`{file}` cannot be read as {format}: {reason}")]
    BadFile {
        /// The file's URL or path.
        file: String,
        /// The format.
        format: String,
        /// What the reader said.
        reason: String,
    },
    /// Files of one table whose columns do not fit together.
    #[error(
        "column `{column}` is {type_a} in `{file_a}` but {type_b} in `{file_b}`; declare the columns, or read the files apart"
    )]
    Mismatch {
        /// The column.
        column: String,
        /// One file.
        file_a: String,
        /// The column's type there.
        type_a: String,
        /// Another file.
        file_b: String,
        /// The column's type there.
        type_b: String,
    },
    /// A statement that contradicts itself or the catalog.
    #[error("{0}")]
    Invalid(String),
}

impl CatalogError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } | Self::Deposed(_) => ErrorKind::Unavailable,
            Self::Io { source, .. } | Self::File { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::ResourceExhausted,
                _ => ErrorKind::Internal,
            },
            Self::Corrupt { .. } | Self::Gone { .. } | Self::Shared(_) => ErrorKind::Internal,
            Self::Missing { .. } | Self::NoFiles { .. } => ErrorKind::NotFound,
            Self::NotOurs { .. }
            | Self::OtherDirectory(_)
            | Self::Exists { .. }
            | Self::NotEmpty { .. }
            | Self::BadFile { .. }
            | Self::Mismatch { .. }
            | Self::Invalid(_) => ErrorKind::InvalidQuery,
        }
    }
}

impl From<CatalogError> for WireError {
    fn from(error: CatalogError) -> Self {
        let mut wire = WireError::new(error.kind(), &error);
        // A locked directory stays locked: the caller decides, nothing here tries again.
        wire.is_retryable = matches!(error, CatalogError::Deposed(_));
        wire
    }
}

impl From<CatalogError> for DataFusionError {
    fn from(error: CatalogError) -> Self {
        DataFusionError::External(Box::new(WireError::from(error)))
    }
}

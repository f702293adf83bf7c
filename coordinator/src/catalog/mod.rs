//! The catalog: schemas, tables and views, kept in the data directory.
//!
//! ```text
//!   <data-dir>/onward-data    the mark: the directory is ours
//!   <data-dir>/cluster        where several coordinators share it: which of their catalogs it is of
//!   <data-dir>/lock           held by the one process that serves the directory; its text is the process id
//!   <data-dir>/catalog.json   all definitions (mode 0600: store options may hold credentials)
//!   <data-dir>/tables/<t>/<p> parts of managed tables (CREATE TABLE, INSERT INTO), Parquet
//!   <data-dir>/unnamed/       one note for each part that goes if a crash happens now
//!   <data-dir>/writes/        one note for each staging directory
//!   <data-dir>/ranges/        bytes of remote objects (a cache: it may be removed while nobody serves the directory)
//! ```
//!
//! Guarantees:
//! - A change is one rename of `catalog.json`: after a crash it is there whole, or not at all.
//! - A definition holds what the user said, never what was found: files are listed, views are planned anew for every
//!   query. The schema of an external table is the exception, it is fixed by CREATE EXTERNAL TABLE.
//! - A second process on one data directory is refused, unless both are of several coordinators, of which the one that leads keeps all
//!   definitions in etcd instead of `catalog.json` (`shared.rs`); and so is a directory with files of somebody else.
//! - A query reads the files that its tables had when it was planned, to its end ([`Lease`]).
//! - Only what a statement of ours made is ever removed ([`TableFiles`]); files of others survive in any directory.

pub mod definition;
mod directory;
pub(crate) mod durable;
mod error;
mod external;
mod file_table;
mod formats;
mod json;
mod json_array;
mod location;
mod managed;
mod mismatch;
pub(crate) mod missing;
mod names;
mod provider;
mod shared;
mod store;
mod table_files;
mod view;

pub use directory::DataDirectory;
pub(crate) use directory::io;
pub use error::CatalogError;
pub use external::define_external;
pub use file_table::FileTable;
pub use formats::{Format, FormatOptions};
pub use json::{store_constraints, store_expr};
pub use location::Location;
pub use names::TableName;
pub use provider::{CATALOG, DEFAULT_SCHEMA, SessionCatalogs, looks_like_files};
pub use shared::check_directory;
pub use store::{Catalog, OnExists};
pub use table_files::{Lease, Part, TableFiles, random_name};
pub use view::define_view;

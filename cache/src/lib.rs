//! Where tables are read from and results are written to.
//!
//! The door to object stores: [`StoreRegistry`] builds a store for any URL a plan names (local files,
//! http(s), S3, Google Cloud Storage, Azure) from options and the environment; [`MeteredStore`] counts the requests of a
//! query by purpose; [`Confinement`] keeps a session below the local directories it may use; [`SeenVersions`] and the
//! caches built on it make sure that footers and statistics of an overwritten file are never used; [`paths`] converts between
//! URLs, paths of stores and local paths.
//!
//! The warm columnar cache: [`columns`] keeps decoded columns in shared memory, where they outlive the functions that
//! decoded them; [`scan`] reads them in the place of Parquet sources. [`ranges`] keeps bytes of remote objects on local
//! disk, where they outlive the host.
//!
//! Guarantees:
//! - Credentials are never part of a `Debug` or `Display` output of this crate.
//! - Every request has a bounded number of retries and a bounded time. What breaks off in the middle is taken up there: objects by
//!   `object_store`, listings by `listing`. An error of a remote store names the object, and is of the kind Unavailable where trying
//!   again may help (`remote`).
//! - A multipart upload that asked for [`DeferredUpload`] is invisible until the coordinator completes it. [`OpenUploads`] knows it meanwhile.

pub mod checks;
pub mod columns;
pub mod confine;
pub mod deferred;
pub mod error;
mod listing;
pub mod meter;
pub mod paths;
pub mod placement;
pub mod ranges;
pub mod registry;
mod remote;
pub mod scan;
pub mod store;
pub mod uploads;
pub mod versions;

pub use checks::VersionChecks;
pub use confine::Confinement;
pub use deferred::{DeferredUpload, UploadedParts, UserWrite};
pub use error::StoreError;
pub use meter::{MeteredStore, RequestCounters};
pub use registry::{MeteredRegistry, StoreRegistry, StoreSource};
pub use store::{StoreHandle, build_store, store_key};
pub use uploads::{OpenUploads, UploadLog};
pub use versions::{ExpectedVersions, SeenVersions, versioned_cache_manager};

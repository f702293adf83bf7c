//! The column tier: decoded columns in shared memory that outlive the functions that decoded them.
//!
//! ```text
//!   scan (function)            ColumnClient                 ColumnTier (host)
//!   find(row group) ---------> hit / claimed / busy <------ index, claims, eviction
//!   decode what it claimed
//!   publish ------------------> verified, visible --------> waiters wake
//! ```
//!
//! Guarantees:
//! - A column is named by object, version, row group, column and type: it is never of another version of the object.
//! - At most one claim on a column exists at a time, so concurrent misses decode once; a claim ends with its holder.
//! - Nobody waits for a column while holding a claim, so scans cannot wait for each other in a circle.
//! - Bytes are bounded: past the budget columns are evicted for those that were wanted before, and what finds no room is read
//!   without being kept.

pub mod cached;
pub mod client;
pub mod layout;
pub mod local;
mod narrow;
pub mod policy;
pub mod tier;

#[cfg(test)]
mod tests;

pub use cached::CachedColumn;
pub use client::{Claim, ColumnClient, Lookup, WritableColumn, WritingLease, WrittenColumn};
pub use local::LocalColumns;
pub use tier::{ColumnInfo, ColumnKey, ColumnTier, Found, TierUsage};

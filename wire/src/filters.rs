//! Runtime filters: what the build side of a join tells the scans of its probe side, in other stages.
//!
//! ```text
//!   attempts of the build stage -- KeySketch, in AttemptDone --> coordinator: once all are committed, one sketch of them all
//!   coordinator -- RuntimeFilters, in RunAttempt ---------> attempts that start later
//!               -- RuntimeFilters, alone -----------------> attempts that run
//! ```
//!
//! A filter only saves work: rows that it lets through meet the join. So one that comes late, or never, changes no result.

use crate::message::Attempt;

/// Which keys to make a sketch of, for which filter.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SketchSpec {
    /// The filter, a number in the query.
    #[prost(uint32, tag = "1")]
    pub filter: u32,
    /// Columns of the stage's output.
    #[prost(uint32, repeated, tag = "2")]
    pub columns: Vec<u32>,
    /// The most bytes of the sketch.
    #[prost(uint64, tag = "3")]
    pub most_bytes: u64,
}

/// Which keys there are, or may be.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeySketch {
    /// The filter it is for.
    #[prost(uint32, tag = "1")]
    pub filter: u32,
    /// The least and the greatest value of each key column: two rows, as an Arrow IPC stream. Empty when there are no keys.
    #[prost(bytes = "bytes", tag = "2")]
    pub bounds: bytes::Bytes,
    /// Hashes of all keys, ascending, little-endian; where they are few.
    #[prost(bytes = "bytes", tag = "3")]
    pub hashes: bytes::Bytes,
    /// A Bloom filter of the hashes, where they are many; neither of both: too many.
    #[prost(bytes = "bytes", tag = "4")]
    pub bloom: bytes::Bytes,
    /// The hashes are all there.
    #[prost(bool, tag = "5")]
    pub is_exact: bool,
}

/// Filters that an attempt may use from now on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RuntimeFilters {
    /// For which attempt.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
    /// The filters.
    #[prost(message, repeated, tag = "2")]
    pub filters: Vec<KeySketch>,
}

//! What a host and a function say about the column cache.
//!
//! ```text
//!   function                                   host
//!      | -- FindColumns ----------------------> |   the columns of one row group that a scan will read
//!      | <---------------- ColumnsFound (+ fds) |   hit: a read-only descriptor; claimed: decode it; busy: somebody does;
//!      |                                        |   refused: there is no room for it, or few of its rows are needed, for once
//!      | -- OpenColumn -----------------------> |
//!      | <-------------- SegmentOpened (+ fd) --|
//!      | -- PublishColumn --------------------> |   written and unmapped: the host verifies it, whoever waits gets it
//!      | <---------------- ColumnsFound (+ fd) -|
//!      | -- AbandonColumns -------------------> |   claimed and not needed after all
//!      | <------------------------ ForgetColumns|   evicted: keep no mapping of these
//! ```

use crate::message::SegmentRef;

/// One version of one object: what a column's bytes came from.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ObjectVersion {
    /// Store and path, such as `s3://bucket/t/a.parquet`.
    #[prost(string, tag = "1")]
    pub url: String,
    /// The etag, or size and modification time.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// The version of an object that a plan was made for, in the words of its store.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ObjectTag {
    /// Base URL of the store, such as `s3://bucket/`.
    #[prost(string, tag = "1")]
    pub store: String,
    /// Path in the store.
    #[prost(string, tag = "2")]
    pub path: String,
    /// The etag.
    #[prost(string, optional, tag = "3")]
    pub e_tag: Option<String>,
    /// Its size.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    /// When it was last modified, in nanoseconds since 1970; 0 = not known.
    #[prost(int64, tag = "5")]
    pub modified_ns: i64,
}

/// A column of a row group of an object, decoded to one type.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ColumnId {
    /// Row group; [`FOOTER`] is none.
    #[prost(uint32, tag = "1")]
    pub row_group: u32,
    /// Number of the top-level column in the file.
    #[prost(uint32, tag = "2")]
    pub column: u32,
    /// The Arrow type that it is decoded to, as text.
    #[prost(string, tag = "3")]
    pub target: String,
}

/// The row group of what is about a whole file: its footer.
pub const FOOTER: u32 = u32::MAX;

impl ColumnId {
    /// The footer of a file, as one binary value.
    pub fn footer() -> Self {
        Self { row_group: FOOTER, column: 0, target: "footer".to_owned() }
    }
}

/// A column that a scan needs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WantedColumn {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub column: ColumnId,
    /// About how many bytes it has when it is decoded.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// CACHE TABLE names it: others go for it although nobody wanted it before.
    #[prost(bool, tag = "3")]
    pub is_ordered: bool,
    /// Few of its rows are needed: it is not claimed the first time.
    #[prost(bool, tag = "4")]
    pub is_partial: bool,
}

/// Look up columns of one object, and claim those that nobody decodes. Answered by [`ColumnsFound`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct FindColumns {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The object.
    #[prost(message, required, tag = "2")]
    pub object: ObjectVersion,
    /// At most [`crate::message::MAX_DESCRIPTORS`].
    #[prost(message, repeated, tag = "3")]
    pub columns: Vec<WantedColumn>,
    /// Answer only when no column is busy any more.
    #[prost(bool, tag = "4")]
    pub waits: bool,
}

/// What a look-up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ColumnState {
    /// Somebody else is decoding it.
    Busy = 0,
    /// Cached: a descriptor rides on the message.
    Hit = 1,
    /// Not cached, and now the caller's to decode.
    Claimed = 2,
    /// Not cached, and not to be: there is no room for it, or few of its rows are needed. Who needs it decodes it for himself.
    Refused = 3,
}

/// One column of [`ColumnsFound`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FoundColumn {
    /// See [`ColumnState`].
    #[prost(enumeration = "ColumnState", tag = "1")]
    pub state: i32,
    /// The segment of a hit.
    #[prost(message, optional, tag = "2")]
    pub segment: Option<SegmentRef>,
}

/// Columns in the order asked for; the descriptors of hits ride on this message, in the same order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ColumnsFound {
    /// The request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// One per column.
    #[prost(message, repeated, tag = "2")]
    pub columns: Vec<FoundColumn>,
}

/// Ask for a file for a claimed column. Answered by `SegmentOpened`, or `RequestFailed` of kind ResourceExhausted when
/// the cache has no room now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenColumn {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The object.
    #[prost(message, required, tag = "2")]
    pub object: ObjectVersion,
    /// The column.
    #[prost(message, required, tag = "3")]
    pub column: ColumnId,
    /// Bytes it must hold.
    #[prost(uint64, tag = "4")]
    pub capacity_bytes: u64,
}

/// A claimed column is written. Answered by [`ColumnsFound`] with one hit, or `RequestFailed`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishColumn {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The object.
    #[prost(message, required, tag = "2")]
    pub object: ObjectVersion,
    /// The column.
    #[prost(message, required, tag = "3")]
    pub column: ColumnId,
    /// The file that was opened for it.
    #[prost(message, required, tag = "4")]
    pub segment: SegmentRef,
    /// The column's name, for people.
    #[prost(string, tag = "5")]
    pub name: String,
    /// Rows of the column.
    #[prost(uint64, tag = "6")]
    pub rows: u64,
}

/// Claims that are given up: somebody else may decode these.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AbandonColumns {
    /// The object.
    #[prost(message, required, tag = "1")]
    pub object: ObjectVersion,
    /// The columns.
    #[prost(message, repeated, tag = "2")]
    pub columns: Vec<ColumnId>,
}

/// Cached columns that were read through mappings the function kept, so that the host hears of the use.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UseColumns {
    /// Segments, one entry per read.
    #[prost(uint64, repeated, tag = "1")]
    pub segments: Vec<u64>,
}

/// These were evicted: their memory is free when no mapping is left.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForgetColumns {
    /// Which.
    #[prost(uint64, repeated, tag = "1")]
    pub segments: Vec<u64>,
}

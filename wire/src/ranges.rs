//! What a host and a function say about bytes of remote objects.
//!
//! ```text
//!   function                                   host
//!      | -- ReadRanges -----------------------> |   some ranges of one version of one object
//!      | <------------------ RangesRead (+ fd) -|   their bytes, one after the other, in an anonymous file
//!      | -- PrefetchRanges -------------------> |   a scan will read these next; no answer
//! ```
//!
//! A read that fails is answered by `RequestFailed`.

use crate::columns::ObjectTag;

/// The most bytes of one [`ReadRanges`].
pub const MAX_READ_BYTES: u64 = 32 << 20;
/// The most ranges of one [`ReadRanges`] or [`PrefetchRanges`].
pub const MAX_RANGES: usize = 4096;

/// Bytes `start..end` of an object.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ByteRange {
    /// First byte.
    #[prost(uint64, tag = "1")]
    pub start: u64,
    /// Behind the last byte.
    #[prost(uint64, tag = "2")]
    pub end: u64,
}

impl From<&std::ops::Range<u64>> for ByteRange {
    fn from(range: &std::ops::Range<u64>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

impl From<&ByteRange> for std::ops::Range<u64> {
    fn from(range: &ByteRange) -> Self {
        range.start..range.end
    }
}

/// Read ranges, at most [`MAX_READ_BYTES`] together. Answered by [`RangesRead`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadRanges {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The object, in the version to be read.
    #[prost(message, required, tag = "2")]
    pub object: ObjectTag,
    /// At most [`MAX_RANGES`].
    #[prost(message, repeated, tag = "3")]
    pub ranges: Vec<ByteRange>,
    /// From its store, whatever the tier has.
    #[prost(bool, tag = "4")]
    pub is_direct: bool,
}

/// Ranges that will be read soon.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PrefetchRanges {
    /// The object, in the version to be read.
    #[prost(message, required, tag = "1")]
    pub object: ObjectTag,
    /// At most [`MAX_RANGES`].
    #[prost(message, repeated, tag = "2")]
    pub ranges: Vec<ByteRange>,
}

/// The bytes asked for are in the file that rides on this message.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RangesRead {
    /// The request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Requests to the store that it took.
    #[prost(uint64, tag = "2")]
    pub store_requests: u64,
    /// Bytes that were read from the store for it; whole blocks are.
    #[prost(uint64, tag = "3")]
    pub store_bytes: u64,
    /// Bytes asked for that were there already.
    #[prost(uint64, tag = "4")]
    pub kept_bytes: u64,
}

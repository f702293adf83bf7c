//! What a task reads of other stages, what is asked of a host's store over the network, and what lets one ask.
//!
//! ```text
//!   reader                                       host that holds the segments
//!      | -- DoGet(ReadTicket) ------------------> |   the grant is checked: signature, time, stage, partitions
//!      | <------------------- ReadHeader ---------|   schema, and the place of every entry in what follows
//!      | <------------------- bytes, bytes, ... --|   messages as they lie in the mapping
//! ```
//!
//! A *grant* is a capability: whoever has it may read some partitions of one stage's output, until it expires. The
//! coordinator signs it for the attempt that needs it. A host knows of every segment which stage it belongs to.

use crate::id::{HostId, QueryId, StageId};
use crate::message::{Attempt, AttemptOutput};
use crate::packed::Packed;

/// A message and its HMAC-SHA256 under the cluster's key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Signed {
    /// An encoded [`Grant`].
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: bytes::Bytes,
    /// 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub mac: bytes::Bytes,
}

/// Partitions `start..end` of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PartitionRange {
    /// First partition.
    #[prost(uint32, tag = "1")]
    pub start: u32,
    /// Behind the last one.
    #[prost(uint32, tag = "2")]
    pub end: u32,
}

impl PartitionRange {
    /// `partitions`, which ascend, as few ranges.
    pub fn cover(partitions: impl IntoIterator<Item = u32>) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for partition in partitions {
            match ranges.last_mut().filter(|last| last.end == partition) {
                Some(last) => last.end += 1,
                None => ranges.push(Self { start: partition, end: partition + 1 }),
            }
        }
        ranges
    }

    /// All of `self` lies in one of `ranges`.
    pub fn is_within(self, ranges: &[Self]) -> bool {
        ranges.iter().any(|range| range.start <= self.start && self.end <= range.end)
    }
}

/// What its holder may read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Grant {
    /// The query.
    #[prost(uint64, tag = "1")]
    pub query: u64,
    /// The stage whose output it is about.
    #[prost(uint32, tag = "2")]
    pub stage: u32,
    /// Partitions of the exchange; ascending, apart from each other.
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<PartitionRange>,
    /// It is void from then on: milliseconds since 1970 UTC.
    #[prost(uint64, tag = "4")]
    pub expires_ms: u64,
    /// It is to add to the output, not to read it.
    #[prost(bool, tag = "5")]
    pub may_write: bool,
}

impl Grant {
    /// The stage it is about.
    pub fn stage(&self) -> StageId {
        StageId::new(QueryId(self.query), self.stage)
    }
}

/// One committed attempt that a consumer reads.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InputAttempt {
    /// Which attempt; nothing is ever looked up without its number.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
    /// What it is.
    #[prost(message, required, tag = "2")]
    pub output: AttemptOutput,
    /// The host whose store has its segments.
    #[prost(uint32, tag = "3")]
    pub host: u32,
}

impl InputAttempt {
    /// The host.
    pub fn host(&self) -> HostId {
        HostId(self.host)
    }
}

/// Committed attempts of one producer stage: all, or those that are known when the consumer starts, or those that follow on what
/// it was told before.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StageInputs {
    /// The producer stage.
    #[prost(uint32, tag = "1")]
    pub stage: u32,
    /// One attempt per producer task, ordered by task; no task between them is missing.
    #[prost(message, repeated, tag = "2")]
    pub attempts: Vec<InputAttempt>,
    /// What lets the task read its partitions of them from other hosts; none where there are no others.
    #[prost(message, optional, tag = "3")]
    pub grant: Option<Signed>,
    /// Other tasks of the stage read the same partitions.
    #[prost(bool, tag = "4")]
    pub is_shared: bool,
    /// The partitions that the outputs tell of, ascending; none: all.
    #[prost(message, repeated, tag = "5")]
    pub partitions: Vec<PartitionRange>,
    /// More attempts follow, in [`MoreInputs`].
    #[prost(bool, tag = "6")]
    pub is_open: bool,
    /// In the place of `attempts` on the way to a host, which [unpacks](Self::unpack) it.
    #[prost(message, optional, tag = "7")]
    pub packed: Option<Packed>,
}

/// What a running attempt reads after what it was told before.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MoreInputs {
    /// The attempt.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
    /// One per producer stage of which there is more.
    #[prost(message, repeated, tag = "2")]
    pub inputs: Vec<StageInputs>,
}

/// How bytes are compressed on their way between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Compression {
    /// Not at all: right where the network is faster than a core compresses.
    None = 0,
    /// LZ4 blocks: about 500 MB/s a core.
    Lz4 = 1,
    /// Zstandard, level 1: smaller, slower.
    Zstd = 2,
}

/// Some partitions of segments of one stage, as one stream. The ticket of a DoGet between hosts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadTicket {
    /// What lets one ask.
    #[prost(message, required, tag = "1")]
    pub grant: Signed,
    /// Segments by producer attempt, in the order of their tasks and of writing.
    #[prost(message, repeated, tag = "2")]
    pub groups: Vec<SegmentGroup>,
    /// Partitions; ascending, apart from each other.
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<PartitionRange>,
    /// How to compress.
    #[prost(enumeration = "Compression", tag = "4")]
    pub compression: i32,
}

/// The ticket of a part of a query's result, for a client. The host that holds the part answers it with rows, and so does the
/// coordinator, for clients that do not reach that host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResultTicket {
    /// What lets one ask.
    #[prost(message, required, tag = "1")]
    pub grant: Signed,
    /// Segments in write order.
    #[prost(message, required, tag = "2")]
    pub segments: SegmentGroup,
    /// Partitions; ascending, apart from each other.
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<PartitionRange>,
    /// What the coordinator's endpoint knows the result by.
    #[prost(string, tag = "4")]
    pub result: String,
    /// Which part of the result, from 0.
    #[prost(uint32, tag = "5")]
    pub part: u32,
}

/// The command of a DoPut, by which a host that nobody can reach gives its output to one that can be reached. The messages
/// are those of an answer to a [`ReadTicket`]; what comes back names the new segment (`SegmentRef`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutTicket {
    /// What lets one write.
    #[prost(message, required, tag = "1")]
    pub grant: Signed,
    /// How the messages are compressed.
    #[prost(enumeration = "Compression", tag = "2")]
    pub compression: i32,
}

/// Segments of one attempt.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SegmentGroup {
    /// In write order.
    #[prost(uint64, repeated, tag = "1")]
    pub segments: Vec<u64>,
}

/// The first message of the answer to a [`ReadTicket`]. The entries' messages follow, one after the other, from the body of this
/// message on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadHeader {
    /// The encapsulated IPC schema message; empty when there are no entries.
    #[prost(bytes = "bytes", tag = "1")]
    pub schema: bytes::Bytes,
    /// By partition, group, segment and write order.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<ReadEntry>,
}

/// One batch of one partition.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReadEntry {
    /// Partition of the exchange.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Position in [`ReadTicket::groups`].
    #[prost(uint32, tag = "2")]
    pub group: u32,
    /// Messages: dictionary batches, then the record batch.
    #[prost(uint32, tag = "3")]
    pub messages: u32,
    /// Bytes of its messages.
    #[prost(uint64, tag = "4")]
    pub length: u64,
    /// Rows.
    #[prost(uint64, tag = "5")]
    pub rows: u64,
}

/// A function asks its host to bring segments of another host here. Answered by `SegmentsMapped` with one segment, in which
/// partition `position of the partition * groups + group` holds the entries of that partition and group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FetchSegments {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// For which attempt.
    #[prost(message, required, tag = "2")]
    pub attempt: Attempt,
    /// The host that holds them.
    #[prost(uint32, tag = "3")]
    pub host: u32,
    /// What lets one ask.
    #[prost(message, required, tag = "4")]
    pub grant: Signed,
    /// Segments by producer attempt.
    #[prost(message, repeated, tag = "5")]
    pub groups: Vec<SegmentGroup>,
    /// Partitions; ascending, apart from each other.
    #[prost(message, repeated, tag = "6")]
    pub partitions: Vec<PartitionRange>,
    /// Other tasks on this host read the same: it is brought here once and kept until the query ends.
    #[prost(bool, tag = "7")]
    pub is_shared: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_range() {
        let range = |start, end| PartitionRange { start, end };
        assert_eq!(PartitionRange::cover([0, 1, 2, 5, 7, 8]), [range(0, 3), range(5, 6), range(7, 9)]);
        assert!(range(1, 3).is_within(&[range(5, 6), range(0, 3)]));
        assert!(!range(2, 6).is_within(&[range(0, 3), range(3, 6)]), "ranges apart from each other do not add up");
    }
}

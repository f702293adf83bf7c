//! Where segments come from and go to: one trait each, implemented by the function's socket to its host and, in tests and
//! benches, by a store in the same process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use onward_segment::MappedSegment;
use onward_wire::exchange::{PartitionRange, SegmentGroup, Signed};
use onward_wire::message::SegmentRef;
use onward_wire::{HostId, SegmentId, WireError};

/// A writable, pre-faulted segment file.
#[derive(Debug)]
pub struct WritableSegment {
    /// Its id in the host's store.
    pub id: SegmentId,
    /// Read-write descriptor: map it, write, unmap, drop.
    pub file: OwnedFd,
    /// Bytes of the file.
    pub capacity_bytes: u64,
}

/// Hands out writable segments.
#[async_trait]
pub trait SegmentSink: Send + Sync + std::fmt::Debug {
    /// A file of at least `capacity_bytes`. Errors with ResourceExhausted past the memory and disk budgets.
    async fn open(&self, capacity_bytes: u64) -> Result<WritableSegment, WireError>;
}

/// Some partitions of attempts whose output lies on another host.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetch {
    /// The host.
    pub host: HostId,
    /// What lets one ask.
    pub grant: Signed,
    /// Segments by attempt.
    pub groups: Vec<SegmentGroup>,
    /// Partitions; ascending, apart from each other.
    pub partitions: Vec<PartitionRange>,
    /// Other tasks read the same.
    pub is_shared: bool,
}

/// Maps committed segments.
#[async_trait]
pub trait SegmentSource: Send + Sync + std::fmt::Debug {
    /// The host whose segments [`SegmentSource::map`] maps in place.
    fn host(&self) -> HostId;

    /// The most bytes to ask another host for at once.
    fn fetch_bytes(&self) -> u64;

    /// The mapped segments, in the order asked for. A segment that is mapped already is shared.
    async fn map(&self, segments: &[SegmentRef]) -> Result<Vec<Arc<MappedSegment>>, WireError>;

    /// Brings partitions of another host's segments here, as one segment: partition
    /// `position of the partition * groups + group`.
    async fn fetch(&self, fetch: &Fetch) -> Result<Arc<MappedSegment>, WireError>;
}

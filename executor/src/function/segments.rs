//! Segments over the socket: where attempts read their inputs from and write their output to.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use onward_segment::MappedSegment;
use onward_shuffle::{Fetch, SegmentSink, SegmentSource, WritableSegment};
use onward_wire::message::SegmentRef;
use onward_wire::{AttemptId, HostId, SegmentId, WireError};
use parking_lot::Mutex;

use super::link::{Lease, Leased, Link};

/// Dead entries are removed when the table grew past this, then past twice what was alive.
const LEAST_ENTRIES: usize = 64;

/// Maps committed segments, each at most once at a time in this process.
#[derive(Debug)]
pub(super) struct Segments {
    link: Arc<Link>,
    host: HostId,
    fetch_bytes: u64,
    /// Held over the request to the host: partitions of one task ask for the same segments at the same moment, and the
    /// second finds what the first mapped.
    mapped: tokio::sync::Mutex<Table>,
}

/// The mappings of this process, some of them gone.
#[derive(Debug, Default)]
struct Table {
    segments: HashMap<SegmentId, Weak<MappedSegment>>,
    prune_at: usize,
}

impl Table {
    fn get(&self, id: SegmentId) -> Option<Arc<MappedSegment>> {
        self.segments.get(&id).and_then(Weak::upgrade)
    }

    fn insert(&mut self, segment: &Arc<MappedSegment>) {
        if self.segments.len() >= self.prune_at.max(LEAST_ENTRIES) {
            self.segments.retain(|_, segment| segment.strong_count() > 0);
            self.prune_at = self.segments.len() * 2;
        }
        self.segments.insert(segment.id(), Arc::downgrade(segment));
    }
}

impl Segments {
    pub(super) fn new(link: Arc<Link>, host: HostId, fetch_bytes: u64) -> Arc<Self> {
        Arc::new(Self { link, host, fetch_bytes, mapped: tokio::sync::Mutex::default() })
    }

    async fn map(&self, segments: &[SegmentRef]) -> Result<Vec<Arc<MappedSegment>>, WireError> {
        let mut mapped = self.mapped.lock().await;
        let mut found: Vec<_> = segments.iter().map(|segment| mapped.get(segment.id())).collect();
        let missing: Vec<SegmentId> =
            segments.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(segment, _)| segment.id()).collect();
        if !missing.is_empty() {
            let mut fresh = self.link.map(&missing).await?.into_iter();
            for slot in found.iter_mut().filter(|slot| slot.is_none()) {
                if let Some(leased) = fresh.next() {
                    let segment = open(leased)?;
                    mapped.insert(&segment);
                    *slot = Some(segment);
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
    }
}

/// The segments that one attempt may read.
#[derive(Debug)]
pub(super) struct AttemptSource {
    segments: Arc<Segments>,
    attempt: AttemptId,
}

impl AttemptSource {
    pub(super) fn new(segments: Arc<Segments>, attempt: AttemptId) -> Arc<Self> {
        Arc::new(Self { segments, attempt })
    }
}

#[async_trait]
impl SegmentSource for AttemptSource {
    fn host(&self) -> HostId {
        self.segments.host
    }

    fn fetch_bytes(&self) -> u64 {
        self.segments.fetch_bytes
    }

    async fn map(&self, segments: &[SegmentRef]) -> Result<Vec<Arc<MappedSegment>>, WireError> {
        self.segments.map(segments).await
    }

    async fn fetch(&self, fetch: &Fetch) -> Result<Arc<MappedSegment>, WireError> {
        open(self.segments.link.fetch(self.attempt, fetch).await?)
    }
}

/// Maps a segment; its last array ends the lease.
fn open(leased: Leased) -> Result<Arc<MappedSegment>, WireError> {
    let Leased { segment, file, lease } = leased;
    let hook = Box::new(move || drop(lease));
    Ok(Arc::new(MappedSegment::open_with(segment.id(), file, segment.length_bytes, Some(hook))?))
}

/// Hands out the files of one attempt. Those it still has when it is dropped, the attempt failed or was stopped and its
/// last writer is gone, are released: nothing has them mapped any more.
#[derive(Debug)]
pub(super) struct AttemptSink {
    link: Arc<Link>,
    attempt: AttemptId,
    opened: Mutex<Vec<Lease>>,
}

impl AttemptSink {
    pub(super) fn new(link: Arc<Link>, attempt: AttemptId) -> Arc<Self> {
        Arc::new(Self { link, attempt, opened: Mutex::default() })
    }

    /// The attempt is done: the host ends the leases when it commits or discards the files.
    pub(super) fn hand_over(&self) {
        std::mem::take(&mut *self.opened.lock()).into_iter().for_each(Lease::forget);
    }
}

#[async_trait]
impl SegmentSink for AttemptSink {
    async fn open(&self, capacity_bytes: u64) -> Result<WritableSegment, WireError> {
        let opened = self.link.open(self.attempt, capacity_bytes).await?;
        let id = opened.lease.segment();
        self.opened.lock().push(opened.lease);
        Ok(WritableSegment { id, file: opened.file, capacity_bytes: opened.capacity_bytes })
    }
}

//! [`LocalStore`]: sink and source over a store in the same process.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use onward_segment::{MappedSegment, SegmentStore};
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, FunctionId, HostId, SegmentId, WireError};
use parking_lot::Mutex;

use crate::transport::{Fetch, SegmentSink, SegmentSource, WritableSegment};

/// A store of this process as sink and source: for readers beside an embedded host, tests and benches. Segments are mapped
/// once, however many readers there are. Committing what was written stays the caller's.
#[derive(Debug)]
pub struct LocalStore {
    store: Arc<SegmentStore>,
    writer: FunctionId,
    mapped: Mutex<HashMap<SegmentId, Weak<MappedSegment>>>,
}

impl LocalStore {
    /// Writes as `writer`.
    pub fn new(store: Arc<SegmentStore>, writer: FunctionId) -> Arc<Self> {
        Arc::new(Self { store, writer, mapped: Mutex::default() })
    }

    fn map_one(&self, id: SegmentId) -> Result<Arc<MappedSegment>, WireError> {
        let mut mapped = self.mapped.lock();
        if let Some(segment) = mapped.get(&id).and_then(Weak::upgrade) {
            return Ok(segment);
        }
        let segment = self.store.map(id)?;
        mapped.retain(|_, segment| segment.strong_count() > 0);
        mapped.insert(id, Arc::downgrade(&segment));
        Ok(segment)
    }
}

#[async_trait]
impl SegmentSink for LocalStore {
    async fn open(&self, capacity_bytes: u64) -> Result<WritableSegment, WireError> {
        let file = self.store.create(self.writer, capacity_bytes)?;
        Ok(WritableSegment { id: file.id, file: file.file, capacity_bytes: file.capacity_bytes })
    }
}

#[async_trait]
impl SegmentSource for LocalStore {
    fn host(&self) -> HostId {
        HostId::EMBEDDED
    }

    fn fetch_bytes(&self) -> u64 {
        u64::MAX
    }

    async fn map(&self, segments: &[SegmentRef]) -> Result<Vec<Arc<MappedSegment>>, WireError> {
        segments.iter().map(|segment| self.map_one(segment.id())).collect()
    }

    async fn fetch(&self, fetch: &Fetch) -> Result<Arc<MappedSegment>, WireError> {
        Err(WireError::new(ErrorKind::Internal, format!("a store of this process reads nothing of {}", fetch.host)))
    }
}

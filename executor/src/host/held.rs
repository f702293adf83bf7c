//! Which stage's output the segments of this host are: other hosts and clients read those that they may.

use std::collections::HashMap;
use std::sync::Arc;

use onward_segment::{MappedSegment, SegmentStore};
use onward_shuffle::flight::HeldSegments;
use onward_wire::{ErrorKind, QueryId, SegmentId, StageId, WireError};
use parking_lot::Mutex;

/// Segments that stay mapped from one reader to the next. The kernel allows 65,530 mappings in a process.
const MOST_MAPPED: usize = 16_384;

/// Committed segments by stage.
pub(super) struct Held {
    store: Arc<SegmentStore>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    segments: HashMap<SegmentId, (StageId, Option<Arc<MappedSegment>>)>,
    mapped: usize,
}

impl Held {
    pub(super) fn new(store: Arc<SegmentStore>) -> Self {
        Self { store, table: Mutex::default() }
    }

    /// A segment was committed.
    pub(super) fn note(&self, segment: SegmentId, stage: StageId) {
        self.table.lock().segments.insert(segment, (stage, None));
    }

    /// Segments are removed: what reads them now reads on.
    pub(super) fn forget(&self, segments: &[SegmentId]) {
        let mut table = self.table.lock();
        let forgotten: Vec<_> = segments.iter().filter_map(|segment| table.segments.remove(segment)).collect();
        table.mapped -= forgotten.iter().filter(|(_, mapped)| mapped.is_some()).count();
        drop(table);
    }

    /// Those of a query.
    pub(super) fn of_query(&self, query: QueryId) -> Vec<SegmentId> {
        let table = self.table.lock();
        table.segments.iter().filter(|(_, (stage, _))| stage.query == query).map(|(segment, _)| *segment).collect()
    }

    /// All of them.
    pub(super) fn segments(&self) -> Vec<SegmentId> {
        self.table.lock().segments.keys().copied().collect()
    }
}

impl HeldSegments for Held {
    fn map(&self, segment: SegmentId, stage: StageId) -> Result<Arc<MappedSegment>, WireError> {
        let mut table = self.table.lock();
        let may_keep = table.mapped < MOST_MAPPED;
        match table.segments.get_mut(&segment) {
            Some((of, Some(mapped))) if *of == stage => Ok(Arc::clone(mapped)),
            Some((of, kept)) if *of == stage => {
                let mapped = self.store.map(segment)?;
                if may_keep {
                    *kept = Some(Arc::clone(&mapped));
                    table.mapped += 1;
                }
                Ok(mapped)
            }
            // Whoever asks for what is gone shall not learn whether it was there.
            _ => {
                let message =
                    format!("{segment} is not here, or is not the output of {stage}: it was lost or released");
                Err(WireError::new(ErrorKind::Unavailable, message))
            }
        }
    }
}

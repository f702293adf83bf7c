//! The column cache over the socket. Columns that this process has mapped are kept mapped from one attempt to the next.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use onward_cache::columns::{CachedColumn, Claim, ColumnClient, ColumnKey, Lookup, WritableColumn, WrittenColumn};
use onward_segment::MappedSegment;
use onward_wire::columns::{ColumnId, ObjectVersion, UseColumns, WantedColumn};
use onward_wire::{ErrorKind, SegmentId, WireError};
use parking_lot::Mutex;

use super::link::{FoundAnswer, Leased, Link};

/// Mappings kept from one attempt to the next. The kernel allows 65,530 in a process.
const MOST_MAPPED: usize = 16_384;
/// Evicted segments that are remembered, for look-ups whose answer was on its way.
const MOST_FORGOTTEN: usize = 4_096;
/// Uses told at once.
const REPORTED_USES: usize = 512;

/// The host's column tier, as this process sees it.
#[derive(Debug)]
pub(super) struct Columns {
    link: Arc<Link>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    mapped: HashMap<ColumnKey, Arc<CachedColumn>>,
    by_segment: HashMap<SegmentId, ColumnKey>,
    forgotten: HashSet<SegmentId>,
    forgotten_order: VecDeque<SegmentId>,
    uses: Vec<u64>,
}

impl Table {
    fn get(&mut self, key: &ColumnKey) -> Option<Arc<CachedColumn>> {
        let cached = self.mapped.get(key)?;
        if let Some(segment) = cached.segment() {
            self.uses.push(segment.0);
        }
        Some(Arc::clone(cached))
    }

    fn insert(&mut self, key: ColumnKey, cached: &Arc<CachedColumn>) {
        let Some(segment) = cached.segment().filter(|segment| !self.forgotten.contains(segment)) else { return };
        if self.mapped.len() >= MOST_MAPPED {
            // Which are dropped matters little: they are mapped again when they are needed.
            let half: Vec<_> = self.mapped.keys().take(MOST_MAPPED / 2).cloned().collect();
            half.iter().for_each(|key| drop(self.remove(key)));
        }
        self.by_segment.insert(segment, key.clone());
        if let Some(old) = self.mapped.insert(key, Arc::clone(cached)).and_then(|old| old.segment())
            && old != segment
        {
            self.by_segment.remove(&old);
        }
    }

    fn remove(&mut self, key: &ColumnKey) -> Option<Arc<CachedColumn>> {
        let cached = self.mapped.remove(key)?;
        if let Some(segment) = cached.segment() {
            self.by_segment.remove(&segment);
        }
        Some(cached)
    }
}

impl Columns {
    pub(super) fn new(link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self { link, table: Mutex::default() })
    }

    /// Lets go of columns that the host evicted. Rows that are being worked on keep theirs.
    pub(super) fn forget(&self, segments: &[u64]) {
        let mut dropped = Vec::new();
        let mut table = self.table.lock();
        for segment in segments.iter().copied().map(SegmentId) {
            if let Some(key) = table.by_segment.get(&segment).cloned() {
                dropped.extend(table.remove(&key));
            }
            if table.forgotten.insert(segment) {
                table.forgotten_order.push_back(segment);
            }
            if table.forgotten_order.len() > MOST_FORGOTTEN
                && let Some(old) = table.forgotten_order.pop_front()
            {
                table.forgotten.remove(&old);
            }
        }
        // The lock is not held while mappings end.
        drop(table);
        drop(dropped);
    }

    /// Tells the host which columns were read through mappings that were there already.
    pub(super) fn report_uses(&self) {
        let uses = std::mem::take(&mut self.table.lock().uses);
        for segments in uses.chunks(REPORTED_USES) {
            // A lost host ends the function by itself.
            let _ = self.link.send(UseColumns { segments: segments.to_vec() });
        }
    }

    fn map(&self, key: ColumnKey, leased: Leased) -> Result<Arc<CachedColumn>, WireError> {
        let Leased { segment, file, lease } = leased;
        let hook = Box::new(move || drop(lease));
        let mapped = Arc::new(MappedSegment::open_with(segment.id(), file, segment.length_bytes, Some(hook))?);
        let cached = Arc::new(CachedColumn::map(&mapped)?);
        self.table.lock().insert(key, &cached);
        Ok(cached)
    }

    fn lookup(
        self: &Arc<Self>,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        found: FoundAnswer,
    ) -> Result<Lookup, WireError> {
        let key = || ColumnKey { object: Arc::clone(object), column: column.clone() };
        Ok(match found {
            FoundAnswer::Busy => Lookup::Busy,
            FoundAnswer::Refused => Lookup::Refused,
            FoundAnswer::Claimed(granted) => {
                granted.take();
                let client = Arc::clone(self) as Arc<dyn ColumnClient>;
                Lookup::Claimed(Claim::new(client, Arc::clone(object), column.clone()))
            }
            FoundAnswer::Hit(leased) => Lookup::Hit(self.map(key(), leased)?),
        })
    }
}

#[async_trait]
impl ColumnClient for Columns {
    async fn find(
        self: Arc<Self>,
        object: &Arc<ObjectVersion>,
        columns: &[WantedColumn],
    ) -> Result<Vec<Lookup>, WireError> {
        let key = |column: &ColumnId| ColumnKey { object: Arc::clone(object), column: column.clone() };
        let mut lookups: Vec<Option<Lookup>> = {
            let mut table = self.table.lock();
            columns.iter().map(|wanted| table.get(&key(&wanted.column)).map(Lookup::Hit)).collect()
        };
        let missing: Vec<usize> = (0..columns.len()).filter(|at| lookups[*at].is_none()).collect();
        if !missing.is_empty() {
            let asked: Vec<WantedColumn> = missing.iter().map(|at| columns[*at].clone()).collect();
            let found = self.link.find_columns(object, &asked, false).await?;
            // All answers become claims or mappings before the first error ends this: none is lost.
            let found: Vec<_> =
                asked.iter().zip(found).map(|(wanted, found)| self.lookup(object, &wanted.column, found)).collect();
            for (at, lookup) in missing.into_iter().zip(found) {
                lookups[at] = Some(lookup?);
            }
        }
        Ok(lookups.into_iter().flatten().collect())
    }

    async fn wait(self: Arc<Self>, object: &Arc<ObjectVersion>, wanted: &WantedColumn) -> Result<Lookup, WireError> {
        let found = self.link.find_columns(object, std::slice::from_ref(wanted), true).await?;
        match found.into_iter().next() {
            Some(found) => self.lookup(object, &wanted.column, found),
            None => Err(WireError::new(ErrorKind::Internal, "a look-up without an answer")),
        }
    }

    async fn open(
        &self,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        capacity_bytes: u64,
    ) -> Result<WritableColumn, WireError> {
        let opened = self.link.open_column(object, column, capacity_bytes).await?;
        let id = opened.lease.segment();
        let lease = Box::new(opened.lease);
        Ok(WritableColumn { id, file: opened.file, capacity_bytes: opened.capacity_bytes, lease })
    }

    async fn publish(
        &self,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        written: WrittenColumn,
    ) -> Result<Arc<CachedColumn>, WireError> {
        let leased = self.link.publish_column(object, column, written).await?;
        self.map(ColumnKey { object: Arc::clone(object), column: column.clone() }, leased)
    }

    fn abandon(&self, object: &Arc<ObjectVersion>, columns: Vec<ColumnId>) {
        self.link.abandon_columns(object, columns);
    }
}

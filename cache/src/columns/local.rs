//! [`LocalColumns`]: the column tier for scans in the host's own process.

use std::sync::Arc;

use async_trait::async_trait;
use onward_segment::MappedSegment;
use onward_wire::columns::{ColumnId, ObjectVersion, WantedColumn};
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, FunctionId, SegmentId, WireError};

use super::cached::CachedColumn;
use super::client::{Claim, ColumnClient, Lookup, WritableColumn, WritingLease, WrittenColumn};
use super::tier::{ColumnTier, Found};

/// Scans of this process, as one holder of the tier.
#[derive(Clone, Debug)]
pub struct LocalColumns {
    tier: Arc<ColumnTier>,
    holder: FunctionId,
}

impl LocalColumns {
    /// `holder` is the name of these scans; no function has it.
    pub fn new(tier: Arc<ColumnTier>, holder: FunctionId) -> Arc<Self> {
        Arc::new(Self { tier, holder })
    }

    fn lookup(
        self: &Arc<Self>,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        found: Found,
    ) -> Result<Lookup, WireError> {
        Ok(match found {
            Found::Busy => Lookup::Busy,
            Found::Refused => Lookup::Refused,
            Found::Claimed => Lookup::Claimed(Claim::new(
                Arc::clone(self) as Arc<dyn ColumnClient>,
                Arc::clone(object),
                column.clone(),
            )),
            Found::Hit(file, segment) => Lookup::Hit(self.map(file, segment)?),
        })
    }

    fn map(&self, file: std::os::fd::OwnedFd, segment: SegmentRef) -> Result<Arc<CachedColumn>, WireError> {
        let (tier, holder, id) = (Arc::clone(&self.tier), self.holder, segment.id());
        let lease = Lease { tier: Some(tier), holder, id };
        let hook = Box::new(move || drop(lease));
        let mapped = MappedSegment::open_with(id, file, segment.length_bytes, Some(hook))?;
        Ok(Arc::new(CachedColumn::map(&Arc::new(mapped))?))
    }
}

/// A lease of this process: dropping it ends it.
struct Lease {
    tier: Option<Arc<ColumnTier>>,
    holder: FunctionId,
    id: SegmentId,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.id)
    }
}

impl WritingLease for Lease {
    fn hand_over(mut self: Box<Self>) {
        self.tier = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(tier) = &self.tier {
            tier.store().release(self.id, self.holder);
        }
    }
}

#[async_trait]
impl ColumnClient for LocalColumns {
    async fn find(
        self: Arc<Self>,
        object: &Arc<ObjectVersion>,
        columns: &[WantedColumn],
    ) -> Result<Vec<Lookup>, WireError> {
        let found = self.tier.find(self.holder, object, columns);
        // All become claims or mappings before the first error ends this: none is lost.
        let lookups: Vec<_> =
            columns.iter().zip(found).map(|(wanted, found)| self.lookup(object, &wanted.column, found)).collect();
        lookups.into_iter().collect()
    }

    async fn wait(self: Arc<Self>, object: &Arc<ObjectVersion>, wanted: &WantedColumn) -> Result<Lookup, WireError> {
        loop {
            // An error says that the claim ended without a word.
            let _ = self.tier.wait(object, &wanted.column).await;
            match self.tier.find(self.holder, object, std::slice::from_ref(wanted)).into_iter().next() {
                Some(Found::Busy) => {}
                Some(found) => return self.lookup(object, &wanted.column, found),
                None => return Err(WireError::new(ErrorKind::Internal, "a look-up without an answer")),
            }
        }
    }

    async fn open(
        &self,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        capacity_bytes: u64,
    ) -> Result<WritableColumn, WireError> {
        let opened = self.tier.open(self.holder, object, column, capacity_bytes)?;
        let lease = Lease { tier: Some(Arc::clone(&self.tier)), holder: self.holder, id: opened.id };
        Ok(WritableColumn {
            id: opened.id,
            file: opened.file,
            capacity_bytes: opened.capacity_bytes,
            lease: Box::new(lease),
        })
    }

    async fn publish(
        &self,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        written: WrittenColumn,
    ) -> Result<Arc<CachedColumn>, WireError> {
        let WrittenColumn { segment, lease, name, rows } = written;
        lease.hand_over();
        let (file, segment) = self.tier.publish(self.holder, object, column, segment, name, rows)?;
        self.map(file, segment)
    }

    fn abandon(&self, object: &Arc<ObjectVersion>, columns: Vec<ColumnId>) {
        self.tier.abandon(self.holder, object, &columns);
    }
}

//! [`RowGroup`]: the columns of one row group, found or decoded when they are first needed.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use datafusion::common::{Result, internal_err};
use onward_wire::columns::ColumnId;
use onward_wire::message::MAX_DESCRIPTORS;

use super::decode::{Chunks, chunk_ranges, decode_column};
use super::metrics::ScanMetrics;
use super::planner::OpenFile;
use super::stream::wire;
use crate::columns::layout::Stored;
use crate::columns::{CachedColumn, Claim, Lookup};

/// One row group while it is read.
#[derive(Debug)]
pub(super) struct RowGroup {
    file: Arc<OpenFile>,
    index: usize,
    columns: HashMap<usize, Slot>,
    /// Bytes of columns that are not decoded yet.
    chunks: Chunks,
}

#[derive(Debug)]
enum Slot {
    Ready(Arc<CachedColumn>),
    Found(Lookup),
    /// Its claim was given up, so as not to wait with it in the hand.
    Unknown,
}

impl RowGroup {
    /// Looks up `columns`, all that the scan may need.
    pub(super) async fn open(file: Arc<OpenFile>, index: usize, columns: &[usize]) -> Result<Self> {
        let mut slots = HashMap::with_capacity(columns.len());
        for part in columns.chunks(MAX_DESCRIPTORS) {
            let ids: Vec<ColumnId> = part.iter().map(|column| file.column_id(index, *column)).collect();
            let found = Arc::clone(&file.client).find(&file.object, &ids).await.map_err(wire)?;
            if found.len() != part.len() {
                return internal_err!("{} columns were looked up, {} found", part.len(), found.len());
            }
            slots.extend(part.iter().copied().zip(found.into_iter().map(Slot::Found)));
        }
        Ok(Self { file, index, columns: slots, chunks: Chunks::default() })
    }

    /// Rows of the row group.
    pub(super) fn rows(&self) -> usize {
        usize::try_from(self.file.metadata.metadata().row_group(self.index).num_rows()).unwrap_or(0)
    }

    /// A column; decoded now if nobody has it.
    pub(super) async fn column(&mut self, column: usize, metrics: &ScanMetrics) -> Result<Arc<CachedColumn>> {
        if let Some(Slot::Ready(cached)) = self.columns.get(&column) {
            return Ok(Arc::clone(cached));
        }
        let id = self.file.column_id(self.index, column);
        let mut lookup = match self.columns.insert(column, Slot::Unknown) {
            Some(Slot::Found(lookup)) => lookup,
            _ => {
                let found = Arc::clone(&self.file.client).find(&self.file.object, std::slice::from_ref(&id)).await;
                match found.map_err(wire)?.into_iter().next() {
                    Some(lookup) => lookup,
                    None => return internal_err!("a look-up without an answer"),
                }
            }
        };
        if let Lookup::Busy = lookup {
            self.give_up_claims();
            lookup = Arc::clone(&self.file.client).wait(&self.file.object, &id).await.map_err(wire)?;
        }
        let cached = match lookup {
            Lookup::Hit(cached) => {
                metrics.hit_bytes.add(cached.bytes() as usize);
                cached
            }
            Lookup::Claimed(claim) => {
                let cached = self.decode(column, claim, metrics).await?;
                metrics.miss_bytes.add(cached.bytes() as usize);
                cached
            }
            Lookup::Busy => return internal_err!("a column that is still being decoded after it was waited for"),
        };
        self.columns.insert(column, Slot::Ready(Arc::clone(&cached)));
        Ok(cached)
    }

    /// Nobody waits while others may wait for him.
    fn give_up_claims(&mut self) {
        for slot in self.columns.values_mut() {
            if matches!(slot, Slot::Found(Lookup::Claimed(_))) {
                *slot = Slot::Unknown;
            }
        }
    }

    async fn decode(&mut self, column: usize, claim: Claim, metrics: &ScanMetrics) -> Result<Arc<CachedColumn>> {
        let ranges = chunk_ranges(&self.file.metadata, self.index, column);
        self.fetch(column, &ranges).await?;
        let stored = {
            let _timer = metrics.decode_time.timer();
            // The decoder sees this column's bytes and no others.
            let arrays = decode_column(&self.file.metadata, self.chunks.clone(), self.index, column)?;
            Stored::new(arrays)
        };
        ranges.iter().for_each(|range| self.chunks.drop_range(range));
        let name = self.file.metadata.schema().field(column).name();
        claim.keep(stored, name, self.rows() as u64).await.map_err(wire)
    }

    /// Reads what is missing of `ranges`. From a store where a request costs a round trip, also the bytes of the other
    /// columns that this scan has to decode.
    async fn fetch(&mut self, column: usize, ranges: &[Range<u64>]) -> Result<()> {
        let mut missing: Vec<_> = ranges.iter().filter(|range| !self.chunks.has(range)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        if !self.file.is_local {
            for (other, slot) in &self.columns {
                if *other != column && matches!(slot, Slot::Found(Lookup::Claimed(_))) {
                    let ranges = chunk_ranges(&self.file.metadata, self.index, *other);
                    missing.extend(ranges.into_iter().filter(|range| !self.chunks.has(range)));
                }
            }
            missing.sort_by_key(|range| range.start);
        }
        let file = &self.file;
        let read = Chunks::read(file.store.as_ref(), &file.path, file.bytes, &missing).await?;
        self.chunks.extend(read);
        Ok(())
    }
}

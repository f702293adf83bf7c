//! [`RowGroup`]: the columns of one row group, found or decoded when they are first needed.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::common::{Result, internal_err};
use onward_wire::columns::WantedColumn;
use onward_wire::message::MAX_DESCRIPTORS;

use super::decode::{Chunks, chunk_ranges, decode_column, leaves};
use super::metrics::ScanMetrics;
use super::pages::FewRows;
use super::planner::OpenFile;
use super::stream::wire;
use crate::columns::layout::Stored;
use crate::columns::{CachedColumn, Lookup};

/// One row group while it is read.
#[derive(Debug)]
pub(super) struct RowGroup {
    file: Arc<OpenFile>,
    index: usize,
    columns: HashMap<usize, Slot>,
    /// Bytes of columns that are not decoded yet.
    chunks: Chunks,
    /// What the next row group will need: to be read while this one is decoded.
    ahead: Vec<Range<u64>>,
    /// Only these rows are read, and not cached.
    few: Option<FewRows>,
}

#[derive(Debug)]
enum Slot {
    Ready(Arc<CachedColumn>),
    Found(Lookup),
    /// Its claim was given up, so as not to wait with it in the hand.
    Unknown,
}

impl Slot {
    /// It has to be decoded here.
    fn is_missing(&self) -> bool {
        matches!(self, Slot::Found(Lookup::Claimed(_) | Lookup::Refused))
    }
}

impl RowGroup {
    /// Looks up `columns`, all that the scan may need.
    pub(super) async fn open(file: Arc<OpenFile>, index: usize, columns: &[usize]) -> Result<Self> {
        let mut slots = HashMap::with_capacity(columns.len());
        for part in columns.chunks(MAX_DESCRIPTORS) {
            let wanted: Vec<WantedColumn> = part.iter().map(|column| file.wanted(index, *column)).collect();
            let found = Arc::clone(&file.client).find(&file.object, &wanted).await.map_err(wire)?;
            if found.len() != part.len() {
                return internal_err!("{} columns were looked up, {} found", part.len(), found.len());
            }
            slots.extend(part.iter().copied().zip(found.into_iter().map(Slot::Found)));
        }
        Ok(Self { file, index, columns: slots, chunks: Chunks::default(), ahead: vec![], few: None })
    }

    /// Nothing of it is cached, or being decoded by somebody else.
    pub(super) fn is_cold(&self) -> bool {
        self.columns.values().all(Slot::is_missing)
    }

    /// Reads these rows and no others, unless a column of them was asked for before: then it is decoded whole, and kept.
    pub(super) async fn read_only(&mut self, few: FewRows) -> Result<()> {
        self.give_up_claims();
        let mut unknown: Vec<_> = self.columns.iter().filter(|(_, slot)| matches!(slot, Slot::Unknown)).collect();
        unknown.sort_unstable_by_key(|(column, _)| **column);
        let wanted: Vec<_> = (unknown.into_iter())
            .map(|(column, _)| WantedColumn { is_partial: true, ..self.file.wanted(self.index, *column) })
            .collect();
        for part in wanted.chunks(MAX_DESCRIPTORS) {
            let found = Arc::clone(&self.file.client).find(&self.file.object, part).await.map_err(wire)?;
            let columns = part.iter().map(|wanted| wanted.column.column as usize);
            self.columns.extend(columns.zip(found.into_iter().map(Slot::Found)));
        }
        let is_refused = |slot: &Slot| matches!(slot, Slot::Found(Lookup::Refused));
        if self.columns.values().all(is_refused) {
            self.few = Some(few);
            return Ok(());
        }
        // They are decoded whole, all of them: the others are asked for as such.
        self.columns.values_mut().filter(|slot| is_refused(slot)).for_each(|slot| *slot = Slot::Unknown);
        Ok(())
    }

    /// Rows of the row group, those that are read.
    pub(super) fn rows(&self) -> usize {
        if let Some(few) = &self.few {
            return few.selection.row_count();
        }
        usize::try_from(self.file.metadata.metadata().row_group(self.index).num_rows()).unwrap_or(0)
    }

    /// Notes which bytes row group `next` will need, if it goes as it went with this one: the same columns are not cached.
    pub(super) fn look_ahead(&mut self, next: usize) {
        let Some((_, object)) = self.file.ranges.as_ref().filter(|_| self.few.is_none()) else { return };
        let missing = self.columns.iter().filter(|(_, slot)| slot.is_missing()).map(|(column, _)| *column);
        let mut needed: Vec<_> = missing.flat_map(|column| chunk_ranges(&self.file.metadata, next, column)).collect();
        if needed.is_empty() || needed.iter().any(|range| range.end > object.bytes) {
            return;
        }
        needed.sort_by_key(|range| range.start);
        self.ahead = needed;
    }

    /// A column; decoded now if nobody has it.
    pub(super) async fn column(&mut self, column: usize, metrics: &ScanMetrics) -> Result<Arc<CachedColumn>> {
        if let Some(Slot::Ready(cached)) = self.columns.get(&column) {
            return Ok(Arc::clone(cached));
        }
        let wanted = self.file.wanted(self.index, column);
        let mut lookup = match self.columns.insert(column, Slot::Unknown) {
            Some(Slot::Found(lookup)) => lookup,
            _ => {
                let found = Arc::clone(&self.file.client).find(&self.file.object, std::slice::from_ref(&wanted)).await;
                match found.map_err(wire)?.into_iter().next() {
                    Some(lookup) => lookup,
                    None => return internal_err!("a look-up without an answer"),
                }
            }
        };
        if let Lookup::Busy = lookup {
            self.give_up_claims();
            lookup = Arc::clone(&self.file.client).wait(&self.file.object, &wanted).await.map_err(wire)?;
        }
        let cached = match lookup {
            Lookup::Hit(cached) => {
                metrics.hit_bytes.add(cached.bytes() as usize);
                cached
            }
            Lookup::Claimed(claim) => {
                let arrays = self.decode(column, metrics).await?;
                let stored = {
                    let _timer = metrics.decode_time.timer();
                    Stored::new(arrays)
                };
                let name = self.file.metadata.schema().field(column).name();
                let cached = claim.keep(stored, name, self.rows() as u64).await.map_err(wire)?;
                metrics.miss_bytes.add(cached.bytes() as usize);
                cached
            }
            Lookup::Refused => {
                // As it was decoded: what only pays when it is read again is not made.
                let arrays = self.decode(column, metrics).await?;
                let decoded = Arc::new(CachedColumn::on_heap(Stored::plain(arrays)));
                metrics.miss_bytes.add(decoded.bytes() as usize);
                decoded
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

    async fn decode(&mut self, column: usize, metrics: &ScanMetrics) -> Result<Vec<ArrayRef>> {
        let ranges = self.ranges(column);
        self.fetch(column, &ranges).await?;
        let arrays = {
            let _timer = metrics.decode_time.timer();
            let (metadata, selection) = match &self.few {
                Some(few) => (&few.metadata, Some(few.selection.clone())),
                None => (&self.file.metadata, None),
            };
            // The decoder sees this column's bytes and no others.
            decode_column(metadata, self.chunks.clone(), self.index, column, selection).map_err(|error| {
                let name = self.file.metadata.schema().field(column).name();
                let object = &self.file.object.url;
                error.context(format!("column `{name}` of row group {} of `{object}` cannot be decoded", self.index))
            })?
        };
        ranges.iter().for_each(|range| self.chunks.drop_range(range));
        Ok(arrays)
    }

    /// Where the bytes of a column lie that are read.
    fn ranges(&self, column: usize) -> Vec<Range<u64>> {
        match &self.few {
            Some(few) => leaves(&few.metadata, column).flat_map(|leaf| few.page_ranges(self.index, leaf)).collect(),
            None => chunk_ranges(&self.file.metadata, self.index, column),
        }
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
                if *other != column && slot.is_missing() {
                    let ranges = self.ranges(*other);
                    missing.extend(ranges.into_iter().filter(|range| !self.chunks.has(range)));
                }
            }
            missing.sort_by_key(|range| range.start);
        }
        let file = &self.file;
        let read = Chunks::read(file.store.as_ref(), &file.path, file.bytes, &missing).await?;
        self.chunks.extend(read);
        if let Some((ranges, object)) = &file.ranges
            && !self.ahead.is_empty()
        {
            ranges.prefetch(object, &std::mem::take(&mut self.ahead));
        }
        Ok(())
    }
}

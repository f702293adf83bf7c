//! Columns of Parquet row groups to arrays.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes, buf::Reader};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::concat;
use datafusion::common::{Result, internal_err};
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy,
};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::{ChunkReader, Length};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::columns::layout::BATCH_ROWS;

/// Some ranges of a file, in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunks {
    /// By where they begin.
    ranges: BTreeMap<u64, Bytes>,
    file_bytes: u64,
}

impl Chunks {
    /// Reads `ranges` of the file at `path`.
    pub(super) async fn read(
        store: &dyn ObjectStore,
        path: &Path,
        file_bytes: u64,
        ranges: &[Range<u64>],
    ) -> Result<Self> {
        let bytes = store.get_ranges(path, ranges).await?;
        let ranges = ranges.iter().map(|range| range.start).zip(bytes).collect();
        Ok(Self { ranges, file_bytes })
    }

    /// Adds what was read besides.
    pub(super) fn extend(&mut self, other: Self) {
        self.file_bytes = other.file_bytes;
        self.ranges.extend(other.ranges);
    }

    /// All of `range` is there.
    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        self.find(range.start).is_some_and(|(start, bytes)| start + bytes.len() as u64 >= range.end)
    }

    /// Lets go of the range that begins with `range`.
    pub(super) fn drop_range(&mut self, range: &Range<u64>) {
        self.ranges.remove(&range.start);
    }

    fn find(&self, at: u64) -> Option<(u64, &Bytes)> {
        let (start, bytes) = self.ranges.range(..=at).next_back()?;
        (at < start + bytes.len() as u64).then_some((*start, bytes))
    }

    fn from(&self, at: u64) -> Result<Bytes, ParquetError> {
        match self.find(at) {
            Some((start, bytes)) => Ok(bytes.slice((at - start) as usize..)),
            None => Err(ParquetError::EOF(format!("byte {at} of the file lies outside of its column chunks"))),
        }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for Chunks {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            let end = start + length as u64;
            return Err(ParquetError::EOF(format!("bytes {start} to {end} of the file end outside of a column chunk")));
        }
        Ok(bytes.slice(..length))
    }
}

/// Where the column chunks of top-level column `column` lie, one range per leaf.
pub(super) fn chunk_ranges(metadata: &ArrowReaderMetadata, row_group: usize, column: usize) -> Vec<Range<u64>> {
    let group = metadata.metadata().row_group(row_group);
    let range = |leaf| {
        let (start, length) = group.column(leaf).byte_range();
        start..start.saturating_add(length)
    };
    leaves(metadata, column).map(range).collect()
}

/// Leaf columns of top-level column `column`.
pub(super) fn leaves(metadata: &ArrowReaderMetadata, column: usize) -> impl Iterator<Item = usize> {
    let schema = metadata.parquet_schema();
    (0..schema.num_columns()).filter(move |leaf| schema.get_column_root_idx(*leaf) == column)
}

/// Decodes top-level column `column` of a row group, or `selection` of it, in batches of [`BATCH_ROWS`], the last may be
/// shorter.
pub(super) fn decode_column(
    metadata: &ArrowReaderMetadata,
    chunks: Chunks,
    row_group: usize,
    column: usize,
    selection: Option<RowSelection>,
) -> Result<Vec<ArrayRef>> {
    let mask = ProjectionMask::roots(metadata.parquet_schema(), [column]);
    let mut expected = metadata.metadata().row_group(row_group).num_rows();
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, metadata.clone())
        .with_row_groups(vec![row_group])
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS);
    if let Some(selection) = selection {
        expected = i64::try_from(selection.row_count()).unwrap_or(i64::MAX);
        // Not by a mask, which decodes the rows between: their pages were not read.
        builder = builder.with_row_selection(selection).with_row_selection_policy(RowSelectionPolicy::Selectors);
    }
    let reader = builder.build()?;
    let mut arrays = Vec::new();
    for batch in reader {
        arrays.push(Arc::clone(batch?.column(0)));
    }
    let rows: usize = arrays.iter().map(|array| array.len()).sum();
    if i64::try_from(rows) != Ok(expected) {
        return internal_err!("column {column} of row group {row_group} has {rows} rows, not {expected}");
    }
    let is_uniform = arrays.iter().rev().skip(1).all(|array| array.len() == BATCH_ROWS)
        && arrays.last().is_none_or(|array| array.len() <= BATCH_ROWS);
    if is_uniform {
        return Ok(arrays);
    }
    // Readers may end a batch early; columns of one row group are read side by side, so theirs must agree.
    let whole = concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
    Ok((0..rows).step_by(BATCH_ROWS).map(|at| whole.slice(at, BATCH_ROWS.min(rows - at))).collect())
}

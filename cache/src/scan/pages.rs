//! What a file says of the rows of a row group beyond its statistics: Bloom filters and the page index. Asked when a scan with a
//! filter finds nothing of the row group cached, before it decodes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use datafusion::parquet::arrow::async_reader::MetadataFetch;
use datafusion::parquet::arrow::parquet_column;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use datafusion_datasource_parquet::{BloomFilterStatistics, ParquetAccessPlan, RowGroupAccess};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStoreExt;

use super::decode::Chunks;
use super::planner::{OpenFile, Pruning};
use crate::columns::layout::BATCH_ROWS;

/// A row group of which fewer than one row in this many may match has few.
const FEW: usize = 4;

/// Rows of a row group that may match.
pub(super) enum RowsLeft {
    None,
    /// Pages with these rows.
    Few(FewRows),
    Many,
}

/// Some rows of a row group, and where their pages lie.
#[derive(Clone, Debug)]
pub(super) struct FewRows {
    pub(super) selection: RowSelection,
    /// The file's, with its page index.
    pub(super) metadata: ArrowReaderMetadata,
}

/// The page index of one file, once it was asked for.
#[derive(Debug, Default)]
pub(super) struct Pages {
    index: Option<Option<ArrowReaderMetadata>>,
}

impl Pages {
    /// The rows of row group `index` that may match, by all that the file says.
    pub(super) async fn rows_left(&mut self, file: &OpenFile, index: usize, pruning: &Pruning) -> Result<RowsLeft> {
        if pruning.uses_bloom_filters && !may_have_values(file, index, pruning).await? {
            return Ok(RowsLeft::None);
        }
        let rows = usize::try_from(file.metadata.metadata().row_group(index).num_rows()).unwrap_or(usize::MAX);
        let Some(filter) = pruning.of_pages().filter(|_| rows > BATCH_ROWS) else { return Ok(RowsLeft::Many) };
        let Some(metadata) = self.index(file, index).await? else { return Ok(RowsLeft::Many) };
        let mut plan = ParquetAccessPlan::new_none(metadata.metadata().num_row_groups());
        plan.scan(index);
        let schema = metadata.schema();
        let parquet_schema = metadata.parquet_schema();
        let plan =
            filter.prune_plan_with_page_index(plan, schema, parquet_schema, metadata.metadata(), &pruning.metrics);
        Ok(match plan.into_inner().swap_remove(index) {
            RowGroupAccess::Skip => RowsLeft::None,
            RowGroupAccess::Selection(selection) if !selection.selects_any() => RowsLeft::None,
            RowGroupAccess::Selection(selection) if selection.row_count() < rows / FEW => {
                RowsLeft::Few(FewRows { selection, metadata: metadata.clone() })
            }
            RowGroupAccess::Selection(_) | RowGroupAccess::Scan => RowsLeft::Many,
        })
    }

    /// The file's metadata with its page index, if it has one.
    async fn index(&mut self, file: &OpenFile, row_group: usize) -> Result<Option<&ArrowReaderMetadata>> {
        if self.index.is_none() {
            let footer = file.metadata.metadata();
            let has_index =
                |metadata: &ParquetMetaData| metadata.column_index().is_some() && metadata.offset_index().is_some();
            let columns = footer.row_group(row_group).columns();
            let indexed = match columns.iter().any(|column| column.column_index_offset().is_some()) {
                _ if has_index(footer) => Some(Arc::clone(footer)),
                true => Some(read_index(file).await?).filter(|footer| has_index(footer)),
                false => None,
            };
            // The types are those that were decided on when the file was opened.
            let options = ArrowReaderOptions::new().with_schema(Arc::clone(file.metadata.schema()));
            self.index = Some(indexed.map(|footer| ArrowReaderMetadata::try_new(footer, options)).transpose()?);
        }
        Ok(self.index.as_ref().and_then(Option::as_ref))
    }
}

impl FewRows {
    /// Where the pages of leaf column `leaf` with these rows lie, and its dictionary.
    pub(super) fn page_ranges(&self, row_group: usize, leaf: usize) -> Vec<Range<u64>> {
        let metadata = self.metadata.metadata();
        let (start, length) = metadata.row_group(row_group).column(leaf).byte_range();
        let index = metadata.offset_index().and_then(|index| index.get(row_group)?.get(leaf));
        let pages = index.map_or(&[][..], |index| index.page_locations());
        let first = pages.first().and_then(|page| u64::try_from(page.offset).ok());
        // Before the first page lies the dictionary; without an index, all of it is read.
        let head = start..first.unwrap_or(start.saturating_add(length));
        std::iter::once(head).filter(|head| !head.is_empty()).chain(self.selection.scan_ranges(pages)).collect()
    }
}

/// The file's footer with its page index, kept for whoever opens the file next in this process.
async fn read_index(file: &OpenFile) -> Result<Arc<ParquetMetaData>> {
    let mut reader = ParquetMetaDataReader::new_with_metadata(file.metadata.metadata().as_ref().clone())
        .with_page_index_policy(PageIndexPolicy::Optional);
    let named = |error: ParquetError| {
        datafusion::common::DataFusionError::from(error)
            .context(format!("the page index of `{}` cannot be read", file.object.url))
    };
    reader.load_page_index(Fetch(file)).await.map_err(named)?;
    let footer = Arc::new(reader.finish().map_err(named)?);
    file.footers.keep(&file.object, Arc::clone(&footer));
    Ok(footer)
}

struct Fetch<'a>(&'a OpenFile);

impl MetadataFetch for Fetch<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        let read = async move { Ok(self.0.store.get_range(&self.0.path, range).await?) };
        read.boxed()
    }
}

/// False: by its Bloom filters, no row of the row group has the values that the predicate asks for.
async fn may_have_values(file: &OpenFile, index: usize, pruning: &Pruning) -> Result<bool> {
    let Some(predicate) = pruning.compiled() else { return Ok(true) };
    let (metadata, schema) = (file.metadata.metadata(), file.metadata.parquet_schema());
    let mut columns = Vec::new();
    for name in predicate.literal_columns() {
        let Some((leaf, _)) = parquet_column(schema, file.metadata.schema(), &name) else { continue };
        let chunk = metadata.row_group(index).column(leaf);
        // Without its length (older writers) reading it would take two requests.
        let range = chunk.bloom_filter_offset().zip(chunk.bloom_filter_length());
        let range = range.and_then(|(at, length)| Some((u64::try_from(at).ok()?, u64::try_from(length).ok()?)));
        let Some((at, length)) = range.filter(|(at, length)| at + length <= file.bytes) else { continue };
        columns.push((name, leaf, at..at + length));
    }
    if columns.is_empty() {
        return Ok(true);
    }
    let ranges: Vec<_> = columns.iter().map(|(.., range)| range.clone()).collect();
    let chunks = Chunks::read(file.store.as_ref(), &file.path, file.bytes, &ranges).await?;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, file.metadata.clone());
    let mut filters = BloomFilterStatistics::with_capacity(columns.len());
    for (name, leaf, _) in columns {
        let column = schema.column(leaf);
        match reader.get_row_group_column_bloom_filter(index, leaf) {
            Ok(Some(filter)) => filters.insert(name, filter, column.physical_type(), column.type_length()),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, object = file.object.url, "a Bloom filter cannot be read"),
        }
    }
    let may_have = predicate.prune(&filters).map_or(true, |verdicts| verdicts.first().copied().unwrap_or(true));
    let pruned = &pruning.metrics.row_groups_pruned_bloom_filter;
    if may_have {
        pruned.add_matched(1)
    } else {
        pruned.add_pruned(1)
    }
    Ok(may_have)
}

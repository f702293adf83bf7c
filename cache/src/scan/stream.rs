//! [`Rows`]: the batches of one file.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{BatchCoalescer, FilterBuilder};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::physical_expr::projection::{ProjectionExprs, Projector};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion_datasource_parquet::{ParquetAccessPlan, RowGroupAccessPlanFilter};
use futures::StreamExt;
use futures::stream::{BoxStream, try_unfold};
use onward_wire::WireError;

use super::filter::Filter;
use super::metrics::ScanMetrics;
use super::pages::{Pages, RowsLeft};
use super::planner::{OpenFile, Pruning, Scan};
use super::row_group::RowGroup;
use super::zones::RowGroupZones;
use crate::columns::CachedColumn;
use crate::columns::layout::BATCH_ROWS;

/// Batches without a row after which the task lets others run.
const YIELD_AFTER: usize = 32;

/// A row group that may have rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) index: usize,
    /// Statistics say that all of its rows pass the required conjuncts.
    pub(super) is_matched: bool,
}

/// Columns of a file that a scan reads, by number.
#[derive(Debug)]
pub(super) struct ReadColumns {
    filter: Vec<usize>,
    /// What the output is made of.
    output: Vec<usize>,
    /// Both, the filter's first.
    pub(super) all: Vec<usize>,
}

impl ReadColumns {
    pub(super) fn of(filter: &Filter, projection: &ProjectionExprs) -> Self {
        let filter: BTreeSet<usize> = filter.columns().collect();
        let output = projection.expr_iter().flat_map(|expr| collect_columns(&expr));
        let output: BTreeSet<usize> = output.map(|column| column.index()).collect();
        let all = filter.iter().chain(output.difference(&filter)).copied().collect();
        Self { filter: filter.into_iter().collect(), output: output.into_iter().collect(), all }
    }
}

/// The batches of one file, row group by row group.
pub(super) struct Rows {
    file: Arc<OpenFile>,
    groups: VecDeque<Group>,
    filter: Filter,
    pruning: Pruning,
    pages: Pages,
    columns: ReadColumns,
    /// Schema of the output's columns.
    columns_schema: SchemaRef,
    projector: Projector,
    output_schema: SchemaRef,
    coalescer: BatchCoalescer,
    batch_rows: usize,
    metrics: ScanMetrics,
    current: Option<Current>,
    is_finished: bool,
}

/// The row group that is being read.
struct Current {
    group: RowGroup,
    is_matched: bool,
    rows: usize,
    next_batch: usize,
    columns: HashMap<usize, Arc<CachedColumn>>,
    has_output: bool,
    /// Batches that may have rows; `None` = all.
    keep: Option<Vec<bool>>,
}

impl Rows {
    pub(super) fn new(
        scan: &Scan,
        file: Arc<OpenFile>,
        groups: VecDeque<Group>,
        filter: Filter,
        pruning: Pruning,
        projection: ProjectionExprs,
        columns: ReadColumns,
    ) -> Result<Self> {
        let columns_schema = Arc::new(file.metadata.schema().project(&columns.output)?);
        let projection = projection.try_map_exprs(|expr| reassign_expr_columns(expr, &columns_schema))?;
        let batch_rows = scan.batch_rows;
        // Batches that are nearly full pass as they are, unless the session wants smaller ones than are kept.
        let passes = (batch_rows >= BATCH_ROWS).then_some(batch_rows / 2);
        let coalescer =
            BatchCoalescer::new(Arc::clone(&scan.output_schema), batch_rows).with_biggest_coalesce_batch_size(passes);
        Ok(Self {
            projector: projection.make_projector(&columns_schema)?,
            file,
            groups,
            filter,
            pruning,
            pages: Pages::default(),
            columns,
            columns_schema,
            output_schema: Arc::clone(&scan.output_schema),
            coalescer,
            batch_rows,
            metrics: scan.metrics.clone(),
            current: None,
            is_finished: false,
        })
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Result<RecordBatch>> {
        try_unfold(self, |mut rows| async move { Ok(rows.next().await?.map(|batch| (batch, rows))) }).boxed()
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let mut empty_batches = 0;
        loop {
            if let Some(batch) = self.coalescer.next_completed_batch() {
                return Ok(Some(batch));
            }
            if self.is_finished {
                return Ok(None);
            }
            if self.current.as_ref().is_none_or(|current| current.next_batch * BATCH_ROWS >= current.rows) {
                self.current = None;
                match self.next_group().await? {
                    Some(current) => self.current = Some(current),
                    None => {
                        self.coalescer.finish_buffered_batch()?;
                        self.is_finished = true;
                    }
                }
                continue;
            }
            if let Some(batch) = self.next_batch().await? {
                return Ok(Some(batch));
            }
            empty_batches += 1;
            if empty_batches % YIELD_AFTER == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The next row group that may have rows, its filter's columns read.
    async fn next_group(&mut self) -> Result<Option<Current>> {
        while let Some(Group { index, is_matched }) = self.groups.pop_front() {
            let has_changed = self.pruning.refresh();
            if has_changed {
                let metadata = &self.file.metadata;
                let mut plan = ParquetAccessPlan::new_none(metadata.metadata().num_row_groups());
                plan.scan(index);
                let mut filter = RowGroupAccessPlanFilter::new(plan);
                self.pruning.prune(metadata, &mut filter);
                if filter.remaining_row_group_count() == 0 {
                    continue;
                }
            }
            self.filter.begin_row_group();
            // Where all rows pass, the columns that say so need not be read.
            let needs_filter = !is_matched || self.filter.has_optional();
            let (filter_columns, all) = match needs_filter {
                true => (self.columns.filter.as_slice(), &self.columns.all),
                false => (&[][..], &self.columns.output),
            };
            let mut group = RowGroup::open(Arc::clone(&self.file), index, all).await?;
            if needs_filter && !self.file.is_ordered && group.is_cold() {
                match self.pages.rows_left(&self.file, index, &self.pruning).await? {
                    RowsLeft::None => continue,
                    RowsLeft::Few(few) => group.read_only(few).await?,
                    RowsLeft::Many => {}
                }
            }
            if let Some(next) = self.groups.front() {
                group.look_ahead(next.index);
            }
            let mut columns = HashMap::with_capacity(all.len());
            for column in filter_columns {
                columns.insert(*column, group.column(*column, &self.metrics).await?);
            }
            let rows = group.rows();
            let mut current =
                Current { group, is_matched, rows, next_batch: 0, columns, has_output: false, keep: None };
            self.prune_batches(&mut current);
            return Ok(Some(current));
        }
        Ok(None)
    }

    /// Compares the zones of the filter's columns with the predicate as it is now.
    fn prune_batches(&self, current: &mut Current) {
        let Some(predicate) = self.pruning.compiled() else { return };
        let schema = self.file.metadata.schema();
        let zones = current.columns.iter().map(|(column, cached)| (schema.field(*column).name().as_str(), cached));
        let zones = RowGroupZones::new(zones, current.rows.div_ceil(BATCH_ROWS));
        current.keep = Some(zones.keep(predicate));
    }

    /// The rows of the next batch that pass, if they fill a batch of the output.
    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let Some(mut current) = self.current.take() else { return Ok(None) };
        if self.pruning.refresh() {
            self.prune_batches(&mut current);
        }
        let batch = current.next_batch;
        current.next_batch += 1;
        let rows = BATCH_ROWS.min(current.rows - batch * BATCH_ROWS);
        let result = match current.keep.as_ref().is_none_or(|keep| keep[batch]) {
            true => self.read_batch(&mut current, batch, rows).await,
            false => {
                self.metrics.batches_pruned.add(1);
                Ok(None)
            }
        };
        self.current = Some(current);
        result
    }

    async fn read_batch(&mut self, current: &mut Current, batch: usize, rows: usize) -> Result<Option<RecordBatch>> {
        let selected = {
            let _timer = self.metrics.filter_time.timer();
            self.filter.select(&current.columns, batch, rows, current.is_matched)?
        };
        let left = selected.as_ref().map_or(rows, BooleanBuffer::count_set_bits);
        self.metrics.rows_filtered.add(rows - left);
        if left == 0 {
            return Ok(None);
        }
        if !current.has_output {
            for column in &self.columns.output {
                if !current.columns.contains_key(column) {
                    let cached = current.group.column(*column, &self.metrics).await?;
                    current.columns.insert(*column, cached);
                }
            }
            current.has_output = true;
        }
        let output = self.output(current, batch, selected, left)?;
        if output.num_columns() == 0 {
            return Ok(Some(output));
        }
        if self.coalescer.is_empty() && left == rows && left <= self.batch_rows {
            return Ok(Some(output));
        }
        self.coalescer.push_batch(output)?;
        Ok(self.coalescer.next_completed_batch())
    }

    /// The output of the selected rows of a batch.
    fn output(
        &self,
        current: &Current,
        batch: usize,
        selected: Option<BooleanBuffer>,
        left: usize,
    ) -> Result<RecordBatch> {
        let predicate = selected.map(|selected| {
            let mask = BooleanArray::new(selected, None);
            let builder = FilterBuilder::new(&mask);
            let builder = if self.columns.output.len() > 1 { builder.optimize() } else { builder };
            builder.build()
        });
        let array = |column: &usize| -> Result<ArrayRef> {
            let Some(cached) = current.columns.get(column) else {
                return datafusion::common::internal_err!("a column of the output was not read");
            };
            let compact = cached.compact(batch);
            let compact = match &predicate {
                Some(predicate) => predicate.filter(compact.as_ref())?,
                None => compact,
            };
            Ok(cached.expand(compact)?)
        };
        let arrays = self.columns.output.iter().map(array).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(left));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.columns_schema), arrays, &options)?;
        let projected = self.projector.project_batch(&batch)?;
        let columns = projected.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.output_schema), columns, &options)?)
    }
}

/// An error of the host as one that keeps its kind through DataFusion's operators.
pub(super) fn wire(error: WireError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

//! Opens one file: footer, adaptation to its schema, row groups that may match. What the warm scan does not know is handed
//! to DataFusion's own Parquet source, file by file.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{Result, ScalarValue};
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::physical_expr::conjunction;
use datafusion::physical_expr::expressions::{DynamicFilterTracking, Literal};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::simplifier::PhysicalExprSimplifier;
use datafusion::physical_expr_adapter::{PhysicalExprAdapterFactory, replace_columns_with_literals};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use datafusion_datasource::{PartitionedFile, TableSchema};
use datafusion_datasource_parquet::{
    Int96Coercer, PagePruningAccessPlanFilter, ParquetAccessPlan, ParquetFileMetrics, RowGroupAccessPlanFilter,
    apply_file_schema_type_coercions,
};
use datafusion_pruning::{FilePruner, PruningPredicate, PruningPredicateBuilder};
use futures::stream::BoxStream;
use object_store::ObjectStore;
use object_store::path::Path;
use onward_wire::columns::{ColumnId, ObjectTag, ObjectVersion, WantedColumn};

use super::decode::leaves;
use super::filter::Filter;
use super::footer::{File, Footers};
use super::metrics::ScanMetrics;
use super::source::Int96;
use super::stream::{Group, ReadColumns, Rows};
use crate::columns::ColumnClient;
use crate::ranges::RangeClient;
use crate::versions::tag_of;

/// A row group with more rows is read as DataFusion does: decoding a column of it whole would take too much memory.
const MOST_ROWS: i64 = 8 << 20;

/// What all files of one partition of a scan share.
pub(super) struct Scan {
    pub(super) client: Arc<dyn ColumnClient>,
    pub(super) ranges: Option<Arc<dyn RangeClient>>,
    pub(super) footers: Arc<Footers>,
    pub(super) most_group_bytes: u64,
    /// All columns that it reads are to be cached.
    pub(super) is_ordered: bool,
    pub(super) store: Arc<dyn ObjectStore>,
    /// Base URL of the store.
    pub(super) store_url: String,
    pub(super) is_local: bool,
    pub(super) table_schema: TableSchema,
    pub(super) projection: ProjectionExprs,
    /// The schema of the scan's output.
    pub(super) output_schema: SchemaRef,
    /// Conjuncts that nobody above checks again, in the order they are written.
    pub(super) required: Vec<Arc<dyn PhysicalExpr>>,
    /// Conjuncts that only save work.
    pub(super) optional: Vec<Arc<dyn PhysicalExpr>>,
    /// All that statistics may be compared with.
    pub(super) prunable: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) prunes_row_groups: bool,
    pub(super) prunes_pages: bool,
    pub(super) uses_bloom_filters: bool,
    pub(super) max_in_list: usize,
    pub(super) int96: Option<Int96>,
    pub(super) adapters: Arc<dyn PhysicalExprAdapterFactory>,
    pub(super) batch_rows: usize,
    pub(super) partition: usize,
    pub(super) metrics_set: ExecutionPlanMetricsSet,
    pub(super) metrics: ScanMetrics,
    /// DataFusion's own reader.
    pub(super) plain: Box<dyn Morselizer>,
}

/// A file that is open.
pub(super) struct OpenFile {
    pub(super) client: Arc<dyn ColumnClient>,
    pub(super) footers: Arc<Footers>,
    pub(super) object: Arc<ObjectVersion>,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) bytes: u64,
    pub(super) is_local: bool,
    pub(super) is_ordered: bool,
    /// The range tier, and the version to read there.
    pub(super) ranges: Option<(Arc<dyn RangeClient>, ObjectTag)>,
    /// With the types that columns are decoded to.
    pub(super) metadata: ArrowReaderMetadata,
}

impl OpenFile {
    /// A column as the cache is asked for it.
    pub(super) fn wanted(&self, row_group: usize, column: usize) -> WantedColumn {
        let data_type = self.metadata.schema().field(column).data_type();
        let id = ColumnId { row_group: row_group as u32, column: column as u32, target: data_type.to_string() };
        let bytes = decoded_bytes(&self.metadata, row_group, column);
        WantedColumn { column: id, bytes, is_ordered: self.is_ordered, is_partial: false }
    }
}

/// About how many bytes a column of a row group has when it is decoded.
fn decoded_bytes(metadata: &ArrowReaderMetadata, row_group: usize, column: usize) -> u64 {
    let group = metadata.metadata().row_group(row_group);
    let bytes = match metadata.schema().field(column).data_type().primitive_width() {
        Some(width) => group.num_rows().saturating_mul(width as i64),
        // At least a view, or an offset, of each row: equal values are one in the file.
        None => {
            let encoded: i64 = leaves(metadata, column).map(|leaf| group.column(leaf).uncompressed_size()).sum();
            encoded.max(group.num_rows().saturating_mul(size_of::<u128>() as i64))
        }
    };
    bytes.max(0) as u64
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile").field("object", &self.object).finish_non_exhaustive()
    }
}

/// The row groups of a file that may match, and what says so.
pub(super) struct Pruning {
    predicate: Option<Arc<dyn PhysicalExpr>>,
    compiled: Option<Arc<PruningPredicate>>,
    /// The same for the page index, made when it is first needed.
    pages: OnceLock<PagePruningAccessPlanFilter>,
    tracking: DynamicFilterTracking,
    schema: SchemaRef,
    max_in_list: usize,
    errors: Count,
    prunes_row_groups: bool,
    uses_pages: bool,
    pub(super) uses_bloom_filters: bool,
    pub(super) metrics: ParquetFileMetrics,
}

impl Pruning {
    /// The predicate as it is now; true when it changed since the last call.
    pub(super) fn refresh(&mut self) -> bool {
        let has_changed = self.tracking.watcher().is_some_and(|tracker| tracker.changed());
        if has_changed {
            self.compile();
        }
        has_changed
    }

    pub(super) fn compiled(&self) -> Option<&Arc<PruningPredicate>> {
        self.compiled.as_ref()
    }

    fn compile(&mut self) {
        self.pages = OnceLock::new();
        self.compiled = self.predicate.as_ref().and_then(|predicate| {
            PruningPredicateBuilder::new()
                .with_file_schema(Arc::clone(&self.schema))
                .with_error_counter(&self.errors)
                .with_max_in_list_size(self.max_in_list)
                .build(Arc::clone(predicate))
        });
    }

    /// What compares the page index with the predicate as it is now; `None` when nothing can be compared.
    pub(super) fn of_pages(&self) -> Option<&PagePruningAccessPlanFilter> {
        let predicate = self.predicate.as_ref().filter(|_| self.uses_pages)?;
        let compile = || PagePruningAccessPlanFilter::new(predicate, Arc::clone(&self.schema));
        Some(self.pages.get_or_init(compile)).filter(|filter| filter.filter_number() > 0)
    }

    /// Takes row groups out of `filter` that cannot have rows for the predicate, by the footer's statistics.
    pub(super) fn prune(&self, metadata: &ArrowReaderMetadata, filter: &mut RowGroupAccessPlanFilter) {
        if let Some(predicate) = self.compiled.as_ref().filter(|_| self.prunes_row_groups) {
            let groups = metadata.metadata().row_groups();
            filter.prune_by_statistics(&self.schema, metadata.parquet_schema(), groups, predicate, &self.metrics);
        }
    }
}

impl Scan {
    /// Opens `file`: the rows, or who else must read it.
    async fn open(self: Arc<Self>, file: Box<PartitionedFile>) -> Result<Opened> {
        let object = Arc::new(ObjectVersion {
            url: format!("{}{}", self.store_url, file.object_meta.location),
            version: crate::versions::version_text(&file.object_meta),
        });
        let literals: HashMap<String, ScalarValue> = (self.table_schema.table_partition_cols().iter())
            .zip(&file.partition_values)
            .map(|(field, value)| (field.name().clone(), value.clone()))
            .collect();
        let with_literals = |expr: &Arc<dyn PhysicalExpr>| replace_columns_with_literals(Arc::clone(expr), &literals);
        let prunable = self.prunable.iter().map(with_literals).collect::<Result<Vec<_>>>()?;
        let errors = MetricBuilder::new(&self.metrics_set).global_counter("num_predicate_creation_errors");
        if !prunable.is_empty()
            && let Some(mut pruner) = FilePruner::try_new(
                conjunction(prunable.clone()),
                self.table_schema.file_schema(),
                &file,
                errors.clone(),
            )
            && pruner.should_prune()?
        {
            return Ok(Opened::Nothing);
        }
        let object_meta = file.object_meta.clone();
        let path = object_meta.location.clone();
        let bytes = object_meta.size;
        let place = File { store: self.store.as_ref(), path: &path, bytes, object: &object };
        let Some(footer) = self.footers.get(&self.client, &place).await? else { return Ok(Opened::Plain(file)) };
        let Some(metadata) = self.typed(&file, footer)? else { return Ok(Opened::Plain(file)) };

        let schema = Arc::clone(metadata.schema());
        let logical = self.table_schema.file_schema();
        let rewriter = self.adapters.create(Arc::clone(logical), Arc::clone(&schema))?;
        let simplifier = PhysicalExprSimplifier::new(&schema);
        let adapt = |expr: &Arc<dyn PhysicalExpr>| {
            simplifier.simplify(rewriter.rewrite(replace_columns_with_literals(Arc::clone(expr), &literals)?)?)
        };
        let projection = self.projection.clone().try_map_exprs(|expr| adapt(&expr))?;
        let mut required = Vec::new();
        for expr in &self.required {
            let expr = adapt(expr)?;
            match verdict(&expr) {
                Some(true) => {}
                Some(false) => return Ok(Opened::Nothing),
                None => required.push(expr),
            }
        }
        let optional = self.optional.iter().map(adapt).collect::<Result<Vec<_>>>()?;
        let predicate = match prunable.is_empty() {
            true => None,
            false => Some(conjunction(self.prunable.iter().map(adapt).collect::<Result<Vec<_>>>()?)),
        };
        let mut pruning = Pruning {
            tracking: predicate.as_ref().map_or(DynamicFilterTracking::Static, DynamicFilterTracking::classify),
            predicate,
            compiled: None,
            pages: OnceLock::new(),
            schema: Arc::clone(&schema),
            max_in_list: self.max_in_list,
            errors,
            prunes_row_groups: self.prunes_row_groups,
            uses_pages: self.prunes_pages,
            uses_bloom_filters: self.uses_bloom_filters,
            metrics: ParquetFileMetrics::new(self.partition, path.as_ref(), &self.metrics_set),
        };
        pruning.compile();

        let row_groups = metadata.metadata().row_groups();
        let mut access = RowGroupAccessPlanFilter::new(ParquetAccessPlan::new_all(row_groups.len()));
        if let Some(range) = &file.range {
            access.prune_by_range(row_groups, range);
        }
        pruning.prune(&metadata, &mut access);
        let is_matched = access.is_fully_matched();
        let groups = access.row_group_indexes().map(|index| Group { index, is_matched: is_matched[index] }).collect();
        let filter = Filter::new(&required, &optional, &schema)?;
        let columns = ReadColumns::of(&filter, &projection);
        let decoded_bytes =
            |group: usize| columns.all.iter().map(|column| decoded_bytes(&metadata, group, *column)).sum();
        if access.row_group_indexes().map(decoded_bytes).max().unwrap_or(0) > self.most_group_bytes {
            return Ok(Opened::Plain(file));
        }
        let ranges = self.ranges.clone().filter(|_| !self.is_local);
        let ranges = ranges.map(|ranges| (ranges, tag_of(&self.store_url, &object_meta)));
        let file = Arc::new(OpenFile {
            client: Arc::clone(&self.client),
            footers: Arc::clone(&self.footers),
            object,
            store: Arc::clone(&self.store),
            path,
            bytes,
            is_local: self.is_local,
            is_ordered: self.is_ordered,
            ranges,
            metadata,
        });
        let rows = Rows::new(&self, file, groups, filter, pruning, projection, columns)?;
        Ok(Opened::Rows(rows.into_stream()))
    }

    /// The footer with the types that the table asks for. `None`: not for the warm scan.
    fn typed(&self, file: &PartitionedFile, footer: Arc<ParquetMetaData>) -> Result<Option<ArrowReaderMetadata>> {
        if footer.row_groups().iter().any(|group| group.num_rows() > MOST_ROWS || group.num_columns() == 0) {
            return Ok(None);
        }
        let mut options = ArrowReaderOptions::new();
        if let Some(schema) = &file.arrow_schema {
            options = options.with_schema(Arc::clone(schema));
        }
        let mut metadata = ArrowReaderMetadata::try_new(Arc::clone(&footer), options.clone())?;
        let mut schema = Arc::clone(metadata.schema());
        let mut is_changed = false;
        if let Some(coerced) = apply_file_schema_type_coercions(self.table_schema.file_schema(), &schema) {
            schema = Arc::new(coerced);
            options = options.with_schema(Arc::clone(&schema));
            is_changed = true;
        }
        if let Some(int96) = &self.int96
            && let Some(coerced) = Int96Coercer::new(metadata.parquet_schema(), &schema, &int96.unit)
                .with_timezone(int96.timezone.clone())
                .coerce()
        {
            options = options.with_schema(Arc::new(coerced));
            is_changed = true;
        }
        if is_changed {
            metadata = ArrowReaderMetadata::try_new(footer, options)?;
        }
        // Fields and top-level columns are numbered alike.
        let columns = metadata.parquet_schema().root_schema().get_fields().len();
        Ok((metadata.schema().fields().len() == columns).then_some(metadata))
    }
}

/// A conjunct that the file's schema or partition decides: NULL is no.
fn verdict(expr: &Arc<dyn PhysicalExpr>) -> Option<bool> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::Boolean(value) => Some(value.unwrap_or(false)),
        ScalarValue::Null => Some(false),
        _ => None,
    }
}

enum Opened {
    Nothing,
    Plain(Box<PartitionedFile>),
    Rows(BoxStream<'static, Result<datafusion::arrow::array::RecordBatch>>),
}

/// Opens files one by one.
#[derive(Debug)]
pub(super) struct WarmMorselizer {
    pub(super) scan: Arc<Scan>,
}

impl Morselizer for WarmMorselizer {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        Ok(Box::new(Planner::Start { scan: Arc::clone(&self.scan), file: Box::new(file) }))
    }
}

enum Planner {
    Start { scan: Arc<Scan>, file: Box<PartitionedFile> },
    Ready(Option<WarmMorsel>),
}

impl MorselPlanner for Planner {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        match *self {
            Planner::Start { scan, file } => Ok(Some(MorselPlan::new().with_pending_planner(async move {
                Ok(match Arc::clone(&scan).open(file).await? {
                    Opened::Plain(file) => scan.plain.plan_file(*file)?,
                    Opened::Nothing => Box::new(Planner::Ready(None)),
                    Opened::Rows(rows) => Box::new(Planner::Ready(Some(WarmMorsel(rows)))),
                })
            }))),
            Planner::Ready(None) => Ok(None),
            Planner::Ready(Some(morsel)) => Ok(Some(MorselPlan::new().with_morsels(vec![Box::new(morsel)]))),
        }
    }
}

struct WarmMorsel(BoxStream<'static, Result<datafusion::arrow::array::RecordBatch>>);

impl Morsel for WarmMorsel {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<datafusion::arrow::array::RecordBatch>> {
        self.0
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("partition", &self.partition).finish_non_exhaustive()
    }
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Planner::Start { .. } => "Start",
            Planner::Ready(_) => "Ready",
        })
    }
}

impl fmt::Debug for WarmMorsel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WarmMorsel")
    }
}

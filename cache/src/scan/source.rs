//! [`WarmSource`]: a Parquet source that reads cached columns.

use std::any::Any;
use std::fmt::{self, Formatter};
use std::sync::Arc;

use datafusion::arrow::datatypes::TimeUnit;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, ParquetSource};
use datafusion::physical_expr::expressions::DynamicFilterTracking;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_expr_adapter::DefaultPhysicalExprAdapterFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use datafusion_datasource::TableSchema;
use datafusion_datasource::file::FileSource;
use datafusion_datasource::morsel::Morselizer;
use datafusion_datasource_parquet::can_expr_be_pushed_down_with_schemas;
use object_store::ObjectStore;

use super::metrics::ScanMetrics;
use super::planner::{Scan, WarmMorselizer};
use super::rewrite::WarmScans;

/// How INT96 timestamps are read.
#[derive(Clone, Debug)]
pub(super) struct Int96 {
    pub(super) unit: TimeUnit,
    pub(super) timezone: Option<Arc<str>>,
}

/// A Parquet source of a decoded plan, reading cached columns. It is not optimized any more.
#[derive(Clone, Debug)]
pub struct WarmSource {
    plain: ParquetSource,
    scans: WarmScans,
    projection: ProjectionExprs,
    /// Conjuncts of a filter above that was fused with the scan.
    fused: Vec<Arc<dyn PhysicalExpr>>,
    int96: Option<Int96>,
    batch_rows: usize,
}

impl WarmSource {
    /// `plain` over the cache; `None` where only DataFusion's own source knows what to do.
    pub fn new(plain: &ParquetSource, scans: &WarmScans) -> Option<Self> {
        let options = plain.table_parquet_options();
        if !plain.table_schema().virtual_columns().is_empty()
            || options.crypto.file_decryption.is_some()
            || options.crypto.factory_id.is_some()
        {
            return None;
        }
        let int96 = match options.global.coerce_int96.as_deref() {
            None => None,
            Some(unit) => {
                let unit = match unit {
                    "ns" => TimeUnit::Nanosecond,
                    "us" => TimeUnit::Microsecond,
                    "ms" => TimeUnit::Millisecond,
                    "s" => TimeUnit::Second,
                    _ => return None,
                };
                Some(Int96 { unit, timezone: options.global.coerce_int96_tz.as_deref().map(Arc::from) })
            }
        };
        let projection = plain.projection()?.clone();
        let (plain, scans) = (plain.clone(), scans.clone());
        Some(Self { plain, scans, projection, fused: vec![], int96, batch_rows: 8192 })
    }

    /// The same with a filter above fused in: `conjuncts` in terms of the scan's output, of which it gives the columns
    /// `projection` (all by default).
    ///
    /// # Errors
    /// When a conjunct names a column that the output does not have.
    pub(super) fn fused(mut self, conjuncts: &[&Arc<dyn PhysicalExpr>], projection: Option<&[usize]>) -> Result<Self> {
        let unprojected = conjuncts.iter().map(|conjunct| self.projection.unproject_expr(conjunct));
        self.fused = unprojected.collect::<Result<_>>()?;
        if let Some(columns) = projection {
            let exprs: Vec<_> = self.projection.iter().cloned().collect();
            self.projection = columns.iter().map(|column| exprs[*column].clone()).collect();
        }
        Ok(self)
    }
}

impl FileSource for WarmSource {
    fn create_file_opener(&self, _: Arc<dyn ObjectStore>, _: &FileScanConfig, _: usize) -> Result<Arc<dyn FileOpener>> {
        internal_err!("a warm scan has morsels, no opener")
    }

    fn create_morselizer(
        &self,
        object_store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let options = &self.plain.table_parquet_options().global;
        let of_source: Vec<_> = match self.plain.filter() {
            Some(predicate) => split_conjunction(&predicate).into_iter().cloned().collect(),
            None => vec![],
        };
        let is_dynamic = |expr: &Arc<dyn PhysicalExpr>| DynamicFilterTracking::classify(expr).contains_dynamic_filter();
        let (optional, fixed): (Vec<_>, Vec<_>) = of_source.iter().cloned().partition(is_dynamic);
        // With filter pushdown on, nobody above checks the source's own predicate again.
        let mut required = if options.pushdown_filters { fixed } else { vec![] };
        required.extend(self.fused.iter().cloned());
        let mut prunable = of_source;
        prunable.extend(self.fused.iter().filter(|fused| !prunable.contains(fused)).cloned().collect::<Vec<_>>());
        let table_schema = self.plain.table_schema();
        let plain =
            self.plain_with_all(&required, config)?.create_morselizer(Arc::clone(&object_store), config, partition)?;
        let url: &url::Url = config.object_store_url.as_ref();
        let scan = Scan {
            client: Arc::clone(&self.scans.client),
            ranges: self.scans.ranges.clone(),
            footers: Arc::clone(&self.scans.footers),
            most_group_bytes: self.scans.most_group_bytes,
            is_ordered: self.scans.is_ordered,
            store: object_store,
            store_url: url.as_str().to_owned(),
            is_local: url.scheme() == "file",
            output_schema: Arc::new(self.projection.project_schema(table_schema.table_schema())?),
            table_schema: table_schema.clone(),
            projection: self.projection.clone(),
            required,
            optional,
            prunable,
            prunes_row_groups: options.pruning,
            prunes_pages: options.pruning && options.enable_page_index,
            uses_bloom_filters: options.pruning && options.bloom_filter_on_read,
            max_in_list: self.plain.max_in_list_size(),
            int96: self.int96.clone(),
            adapters: config
                .expr_adapter_factory
                .clone()
                .unwrap_or_else(|| Arc::new(DefaultPhysicalExprAdapterFactory)),
            batch_rows: self.batch_rows,
            partition,
            metrics: ScanMetrics::new(self.plain.metrics(), partition),
            metrics_set: self.plain.metrics().clone(),
            plain,
        };
        Ok(Box::new(WarmMorselizer { scan: Arc::new(scan) }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.plain.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { batch_rows: batch_size, ..self.clone() })
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.plain.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.plain.metrics()
    }

    fn file_type(&self) -> &str {
        self.plain.file_type()
    }

    fn fmt_extra(&self, t: DisplayFormatType, f: &mut Formatter) -> fmt::Result {
        self.plain.fmt_extra(t, f)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut recursion = self.plain.apply_expressions(f)?;
        for conjunct in &self.fused {
            recursion = recursion.visit_sibling(|| f(conjunct))?;
        }
        Ok(recursion)
    }
}

impl WarmSource {
    /// DataFusion's own source for what this one gives: the fused filter is its predicate, evaluated row by row.
    fn plain_with_all(
        &self,
        required: &[Arc<dyn PhysicalExpr>],
        config: &FileScanConfig,
    ) -> Result<Arc<dyn FileSource>> {
        let mut plain = self.plain.clone();
        if !self.fused.is_empty() {
            let own = plain.filter();
            let own = own.iter().flat_map(split_conjunction).filter(|expr| !required.contains(expr)).cloned();
            let all: Vec<_> = required.iter().cloned().chain(own).collect();
            plain = plain.with_predicate(datafusion::physical_expr::conjunction(all)).with_pushdown_filters(true);
        }
        let plain = plain.with_batch_size(config.batch_size.unwrap_or(self.batch_rows));
        let table_schema = self.plain.table_schema().table_schema();
        let (whole, wanted) = (plain.projection().cloned(), self.projection.clone());
        match whole {
            Some(whole) if whole != wanted => {
                // Merging goes through the output of the source: name its columns by position.
                let narrowed: Option<Vec<usize>> =
                    wanted.iter().map(|expr| whole.iter().position(|known| known == expr)).collect();
                let Some(positions) = narrowed else { return internal_err!("a projection of unknown columns") };
                let output = whole.project_schema(table_schema)?;
                let projection = ProjectionExprs::from_indices(&positions, &output);
                match plain.try_pushdown_projection(&projection)? {
                    Some(source) => Ok(source),
                    None => internal_err!("a Parquet source that takes no projection"),
                }
            }
            _ => Ok(plain),
        }
    }

    /// DataFusion's own source, which reads what this one does not, could run the fused conjuncts.
    pub(super) fn can_fuse(&self) -> bool {
        let schema = self.plain.table_schema().schema_without_virtual_columns();
        self.fused.iter().all(|expr| can_expr_be_pushed_down_with_schemas(expr, schema))
    }

    /// As what it is.
    pub(super) fn of(source: &Arc<dyn FileSource>) -> Option<&Self> {
        (source.as_ref() as &dyn Any).downcast_ref::<Self>()
    }
}

//! [`WarmScans`]: puts warm scans into a decoded plan.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};
use datafusion_datasource::file_scan_config::FileScanConfigBuilder;
use futures::StreamExt;
use onward_wire::columns::ObjectTag;

use super::footer::Footers;
use super::source::WarmSource;
use crate::columns::ColumnClient;
use crate::ranges::RangeClient;
use crate::versions::tag_of;

/// Puts warm scans into plans of one process.
#[derive(Clone, Debug)]
pub struct WarmScans {
    pub(super) client: Arc<dyn ColumnClient>,
    pub(super) ranges: Option<Arc<dyn RangeClient>>,
    pub(super) footers: Arc<Footers>,
    pub(super) is_ordered: bool,
    pub(super) most_group_bytes: u64,
}

/// Columns of a row group that take more when they are decoded are read by DataFusion's own source, batch by batch: what is
/// not cached would lie on the heap.
const MOST_GROUP_BYTES: u64 = 1 << 30;

impl WarmScans {
    /// Scans that find their columns through `client`, and say to `ranges` which bytes of remote objects they will read.
    pub fn new(client: Arc<dyn ColumnClient>, ranges: Option<Arc<dyn RangeClient>>) -> Self {
        Self { client, ranges, footers: Arc::default(), is_ordered: false, most_group_bytes: MOST_GROUP_BYTES }
    }

    /// The same, leaving files to DataFusion's own source that have row groups of more than `bytes`, decoded.
    #[must_use]
    pub fn with_most_group_bytes(self, bytes: u64) -> Self {
        Self { most_group_bytes: bytes, ..self }
    }

    /// The same, filling the cache with all that they read, whatever goes for it.
    pub fn filling(&self) -> Self {
        Self { is_ordered: true, ..self.clone() }
    }

    /// `plan` with every Parquet source that can be one as a warm scan. The tree keeps its shape.
    ///
    /// # Errors
    /// DataFusion's, when a node refuses its new child.
    pub fn apply(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let warmed = plan.transform_up(|node| {
            if let Some(scan) = self.warm(&node) {
                return Ok(Transformed::yes(scan));
            }
            match fuse(&node)? {
                Some(fused) => Ok(Transformed::yes(fused)),
                None => Ok(Transformed::no(node)),
            }
        })?;
        Ok(warmed.data)
    }

    fn warm(&self, node: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
        let (exec, config) = file_scan(node)?;
        let plain = (config.file_source.as_ref() as &dyn std::any::Any).downcast_ref::<ParquetSource>()?;
        let source = WarmSource::new(plain, self)?;
        let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build();
        Some(Arc::new(exec.clone().with_data_source(Arc::new(config))))
    }
}

/// Writes the etags, which an encoded plan loses, back into the scans of `plan`.
///
/// # Errors
/// DataFusion's, when a node refuses its new child.
pub fn with_tags(plan: Arc<dyn ExecutionPlan>, tags: &[ObjectTag]) -> Result<Arc<dyn ExecutionPlan>> {
    let tags: HashMap<(&str, &str), &ObjectTag> =
        tags.iter().map(|tag| ((tag.store.as_str(), tag.path.as_str()), tag)).collect();
    if tags.values().all(|tag| tag.e_tag.is_none()) {
        return Ok(plan);
    }
    let tagged = plan.transform_up(|node| {
        let Some((exec, config)) = file_scan(&node) else { return Ok(Transformed::no(node)) };
        let mut config = config.clone();
        let store = config.object_store_url.as_str().to_owned();
        for group in &mut config.file_groups {
            let tagged = group.files().iter().cloned().map(|mut file| {
                if let Some(tag) = tags.get(&(store.as_str(), file.object_meta.location.as_ref())) {
                    file.object_meta.e_tag.clone_from(&tag.e_tag);
                }
                file
            });
            let statistics = group.file_statistics(None).cloned();
            let mut files = datafusion::datasource::physical_plan::FileGroup::new(tagged.collect());
            if let Some(statistics) = statistics {
                files = files.with_statistics(Arc::new(statistics));
            }
            *group = files;
        }
        Ok(Transformed::yes(Arc::new(exec.clone().with_data_source(Arc::new(config))) as Arc<dyn ExecutionPlan>))
    })?;
    Ok(tagged.data)
}

/// The versions of all objects that the scans of `plan` read.
///
/// # Errors
/// None: a plan can always be walked.
pub fn tags_of(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<ObjectTag>> {
    let mut tags = Vec::new();
    plan.apply(|node| {
        if let Some((_, config)) = file_scan(node) {
            let files = config.file_groups.iter().flat_map(|group| group.files());
            tags.extend(files.map(|file| tag_of(config.object_store_url.as_str(), &file.object_meta)));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    // Ranges of one file are files of a scan.
    tags.sort_by(|a, b| (&a.store, &a.path).cmp(&(&b.store, &b.path)));
    tags.dedup();
    Ok(tags)
}

/// A scan of files, and what it is made of.
pub(crate) fn file_scan(node: &Arc<dyn ExecutionPlan>) -> Option<(&DataSourceExec, &FileScanConfig)> {
    let exec = node.downcast_ref::<DataSourceExec>()?;
    exec.data_source().downcast_ref::<FileScanConfig>().map(|config| (exec, config))
}

/// A filter right above a warm scan, moved into it; `None` where it must stay.
fn fuse(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = node.downcast_ref::<FilterExec>() else { return Ok(None) };
    let Some((exec, config)) = file_scan(filter.input()) else { return Ok(None) };
    let Some(source) = WarmSource::of(&config.file_source) else { return Ok(None) };
    // A limit below a filter counts rows before it, one above rows after it.
    if filter.fetch().is_some() || config.limit.is_some() || is_volatile(filter.predicate()) {
        return Ok(None);
    }
    let conjuncts = split_conjunction(filter.predicate());
    let source = source.clone().fused(&conjuncts, filter.projection().as_deref())?;
    if !source.can_fuse() {
        return Ok(None);
    }
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build();
    let scan: Arc<dyn ExecutionPlan> = Arc::new(exec.clone().with_data_source(Arc::new(config)));
    if scan.schema().fields() != filter.schema().fields() {
        return internal_err!("a fused scan gives {:?}, its filter gave {:?}", scan.schema(), filter.schema());
    }
    let properties = Arc::clone(filter.properties());
    Ok(Some(Arc::new(FusedFilterExec { input: scan, properties, metrics: ExecutionPlanMetricsSet::new() })))
}

/// The place of a filter that runs inside the scan below. It passes batches on and counts their rows, so that plans and
/// metrics keep their shape.
#[derive(Debug)]
pub struct FusedFilterExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl DisplayAs for FusedFilterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("FilterExec: in the scan")
    }
}

impl ExecutionPlan for FusedFilterExec {
    fn name(&self) -> &str {
        "FusedFilterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("a fused filter has one input");
        };
        let properties = Arc::clone(&self.properties);
        Ok(Arc::new(Self { input, properties, metrics: ExecutionPlanMetricsSet::new() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let counted = input.map(move |batch| {
            if let Ok(batch) = &batch {
                metrics.record_output(batch.num_rows());
            }
            batch
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), counted)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

//! Sources that datafusion-proto 55.2 encodes without an error and decodes as something else: what they would lose is
//! carried beside them, or the plan is refused.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err, not_impl_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_proto::physical_plan::{PhysicalPlanDecodeContext, PhysicalProtoConverterExtension};

use super::OnwardCodec;
use super::file_scan::{FileScanNode, file_scan};
use super::stage_input::{Ordering, decode_orderings, encode_orderings};

/// A source with what it would lose. It exists in encoded plans only: decoding gives the source back, whole.
#[derive(Debug)]
pub(super) struct MarkedSource {
    /// What datafusion-proto encodes.
    source: Arc<dyn ExecutionPlan>,
    /// Of a scan of files; other sources lose their orders.
    scan: Option<FileScanNode>,
}

impl MarkedSource {
    /// `plan` with every source marked that needs it.
    ///
    /// # Errors
    /// When something of the plan would be lost all the same.
    pub(super) fn mark(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let marked = Arc::clone(plan).transform_up(|node| {
            refuse_what_would_not_decode(&node)?;
            let is_ordered = node.properties().equivalence_properties().output_ordering().is_some();
            if node.is::<LazyMemoryExec>() && is_ordered {
                return Ok(Transformed::yes(Arc::new(Self { source: node, scan: None }) as _));
            }
            if let Some(config) = file_scan(&node)
                && let Some(lost) = FileScanNode::of(config)?
            {
                let source = FileScanNode::encodable(config);
                return Ok(Transformed::yes(Arc::new(Self { source, scan: Some(lost) }) as _));
            }
            Ok(Transformed::no(node))
        })?;
        Ok(marked.data)
    }
}

fn refuse_what_would_not_decode(node: &Arc<dyn ExecutionPlan>) -> Result<()> {
    if let Some(scan) = node.downcast_ref::<DataSourceExec>()
        && let Some(memory) = scan.data_source().downcast_ref::<MemorySourceConfig>()
        && memory.projection().is_some()
        && !memory.sort_information().is_empty()
    {
        // Its order would be decoded against the columns before the projection.
        return not_impl_err!("a sorted table in memory of which some columns are read");
    }
    let bounded = node.downcast_ref::<BoundedWindowAggExec>().map(BoundedWindowAggExec::window_expr);
    let windows = bounded.or_else(|| node.downcast_ref::<WindowAggExec>().map(WindowAggExec::window_expr));
    // The flag is in no accessor, only in the name; a column of that name is refused for nothing, which harms nobody.
    let lost = ["IGNORE NULLS", "FILTER (WHERE"];
    if windows.is_some_and(|exprs| exprs.iter().any(|expr| lost.iter().any(|clause| expr.name().contains(clause)))) {
        return not_impl_err!("a window function with IGNORE NULLS or FILTER");
    }
    // Numbers of rows are 32 bits wide on the wire.
    let skip = node.downcast_ref::<GlobalLimitExec>().map_or(0, GlobalLimitExec::skip);
    if skip.max(node.fetch().unwrap_or(0)) > u32::MAX as usize {
        return not_impl_err!("a LIMIT or OFFSET of more than {} rows", u32::MAX);
    }
    if node.is::<LazyMemoryExec>() && node.schema().fields().is_empty() {
        return not_impl_err!("a generated series of which no column is read");
    }
    Ok(())
}

impl DisplayAs for MarkedSource {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("MarkedSource")
    }
}

impl ExecutionPlan for MarkedSource {
    fn name(&self) -> &str {
        "MarkedSource"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.source.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.source]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a marked source exists in encoded plans only")
    }
}

/// A [`MarkedSource`] on the wire; the source itself is its input.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MarkedSourceNode {
    #[prost(message, repeated, tag = "1")]
    orderings: Vec<Ordering>,
    #[prost(message, optional, tag = "2")]
    scan: Option<FileScanNode>,
}

impl MarkedSourceNode {
    pub(super) fn new(
        marked: &MarkedSource,
        codec: &OnwardCodec,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Self> {
        let orderings = match &marked.scan {
            Some(_) => Vec::new(),
            None => encode_orderings(marked.properties().equivalence_properties(), codec, converter)?,
        };
        Ok(Self { orderings, scan: marked.scan.clone() })
    }

    pub(super) fn into_exec(
        self,
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &PhysicalPlanDecodeContext<'_>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [source] = inputs else {
            return internal_err!("a marked source without its source");
        };
        if let Some(lost) = self.scan {
            return match file_scan(source) {
                Some(decoded) => lost.restore(decoded),
                None => internal_err!("a marked scan that is {}", source.name()),
            };
        }
        let Some(series) = source.downcast_ref::<LazyMemoryExec>() else {
            return internal_err!("a marked series that is {}", source.name());
        };
        let mut ordered = LazyMemoryExec::try_new(series.schema(), series.generators().clone())?;
        for ordering in decode_orderings(&self.orderings, &series.schema(), ctx, converter)? {
            ordered.add_ordering(ordering);
        }
        Ok(Arc::new(ordered))
    }
}

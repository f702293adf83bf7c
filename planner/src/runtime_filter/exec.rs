//! [`RuntimeFilterExec`]: drops the rows that no join of another stage will want, before they are sent there.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use datafusion::arrow::array::{Array, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{filter_record_batch, prep_null_mask_filter};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::DynamicFilterTracking;
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};
use futures::{Stream, StreamExt};

/// A filter is tried for so many batches after it changed.
const TRIAL_BATCHES: usize = 8;
/// It is worth its while when it drops at least one row in this many.
const LEAST_DROPPED: usize = 8;

/// Lets the rows of its input through that a runtime filter does not drop. It only saves work: where it drops little, it stops
/// looking at rows until the filter changes.
#[derive(Debug)]
pub struct RuntimeFilterExec {
    input: Arc<dyn ExecutionPlan>,
    filter: Arc<dyn PhysicalExpr>,
    /// DataFusion's push-down may take it further.
    pushes: bool,
    metrics: ExecutionPlanMetricsSet,
}

impl RuntimeFilterExec {
    /// `filter`, in terms of the columns of `input`, over its rows.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, filter: Arc<dyn PhysicalExpr>) -> Self {
        Self { input, filter, pushes: false, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// [`Self::new`], to be pushed into `input` as well, where that is right: DataFusion finds columns by their names, and does
    /// not look at the limits of scans and filters.
    pub(crate) fn pushing(input: Arc<dyn ExecutionPlan>, filter: Arc<dyn PhysicalExpr>) -> Result<Self> {
        let has_two_of_a_name = |plan: &Arc<dyn ExecutionPlan>| {
            let schema = plan.schema();
            let mut names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
            names.sort_unstable();
            names.windows(2).any(|pair| pair[0] == pair[1])
        };
        let has_other_names = |union: &Arc<dyn ExecutionPlan>| {
            let names = |plan: &Arc<dyn ExecutionPlan>| -> Vec<String> {
                plan.schema().fields().iter().map(|field| field.name().clone()).collect()
            };
            (union.is::<UnionExec>() || union.is::<InterleaveExec>())
                && union.children().into_iter().any(|child| names(child) != names(union))
        };
        let is_in_the_way =
            input.exists(|node| Ok(node.fetch().is_some() || has_two_of_a_name(node) || has_other_names(node)))?;
        Ok(Self { pushes: !is_in_the_way, ..Self::new(input, filter) })
    }

    /// It was pushed: not again.
    pub(crate) fn pushed(&self) -> Option<Self> {
        self.pushes.then(|| Self::new(Arc::clone(&self.input), Arc::clone(&self.filter)))
    }

    pub(crate) fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    pub(crate) fn filter(&self) -> &Arc<dyn PhysicalExpr> {
        &self.filter
    }
}

impl DisplayAs for RuntimeFilterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "RuntimeFilterExec: {}", self.filter)
    }
}

impl ExecutionPlan for RuntimeFilterExec {
    fn name(&self) -> &str {
        "RuntimeFilterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        f(&self.filter)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self { pushes: self.pushes, ..Self::new(input, Arc::clone(&self.filter)) })),
            Err(children) => internal_err!("RuntimeFilterExec has one child, not {}", children.len()),
        }
    }

    fn gather_filters_for_pushdown(
        &self,
        phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        // Those of others go by names, too: an operator that is in their way is in that of this one.
        let mut child = match self.pushes {
            true => ChildFilterDescription::from_child(&parent_filters, &self.input)?,
            false => ChildFilterDescription::all_unsupported(&parent_filters),
        };
        if phase == FilterPushdownPhase::Post && self.pushes {
            child = child.with_self_filter(Arc::clone(&self.filter));
        }
        Ok(FilterDescription::new().with_child(child))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(result))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let filter = Arc::clone(&self.filter);
        Ok(Box::pin(Filtered {
            rows: self.input.execute(partition, context)?,
            tracking: DynamicFilterTracking::classify(&filter),
            filter,
            trial: Trial::default(),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

#[derive(Default)]
struct Trial {
    batches: usize,
    rows: usize,
    kept: usize,
}

impl Trial {
    fn has_failed(&self) -> bool {
        self.batches >= TRIAL_BATCHES && (self.rows - self.kept) * LEAST_DROPPED < self.rows
    }
}

struct Filtered {
    rows: SendableRecordBatchStream,
    filter: Arc<dyn PhysicalExpr>,
    tracking: DynamicFilterTracking,
    trial: Trial,
    metrics: BaselineMetrics,
}

impl Filtered {
    fn wanted(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        if let DynamicFilterTracking::Watching(tracker) = &mut self.tracking
            && tracker.changed()
        {
            self.trial = Trial::default();
        }
        if self.trial.has_failed() {
            return Ok(batch);
        }
        let verdicts = self.filter.evaluate(&batch)?.into_array(batch.num_rows())?;
        let verdicts: &BooleanArray = as_boolean_array(&verdicts)?;
        let kept = verdicts.true_count();
        self.trial.batches += 1;
        self.trial.rows += batch.num_rows();
        self.trial.kept += kept;
        if kept == batch.num_rows() {
            return Ok(batch);
        }
        Ok(match verdicts.null_count() {
            0 => filter_record_batch(&batch, verdicts)?,
            _ => filter_record_batch(&batch, &prep_null_mask_filter(verdicts))?,
        })
    }
}

impl Stream for Filtered {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = loop {
            match ready!(self.rows.poll_next_unpin(cx)) {
                Some(Ok(batch)) => {
                    let time = self.metrics.elapsed_compute().clone();
                    let _timer = time.timer();
                    match self.wanted(batch) {
                        Ok(batch) if batch.num_rows() == 0 => {}
                        filtered => break Some(filtered),
                    }
                }
                other => break other,
            }
        };
        self.metrics.record_poll(Poll::Ready(polled))
    }
}

impl RecordBatchStream for Filtered {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}

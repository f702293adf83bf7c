//! [`StageInputExec`]: the placeholder leaf that stands for another stage's output.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use crate::runtime_filter::RuntimeFilterExpr;
use crate::slice::slice_partitioning;

/// Reads exchange partitions `partitions` of stage `stage`. Bound to a shuffle reader in the function, just before it runs.
///
/// Partition `i` of this node is exchange partition `partitions[i]`: a task's slice of the plan keeps the global numbers.
#[derive(Clone, Debug)]
pub struct StageInputExec {
    stage: u32,
    partitions: Vec<u32>,
    properties: Arc<PlanProperties>,
    /// Runtime filters that were pushed down to here, on their way to the stage that it reads.
    filters: Vec<Arc<dyn PhysicalExpr>>,
}

impl StageInputExec {
    /// All `properties.partitioning` partitions of `stage`, with the ordering and partitioning the cut plan relies on.
    pub fn new(
        stage: u32,
        partitions: Vec<u32>,
        equivalences: EquivalenceProperties,
        partitioning: datafusion::physical_plan::Partitioning,
    ) -> Self {
        let properties =
            Arc::new(PlanProperties::new(equivalences, partitioning, EmissionType::Incremental, Boundedness::Bounded));
        Self { stage, partitions, properties, filters: Vec::new() }
    }

    /// The filters that arrived here, and this input without them; `None` when there are none.
    pub(crate) fn take_filters(&self) -> Option<(Self, Vec<Arc<dyn PhysicalExpr>>)> {
        let without = Self { filters: Vec::new(), ..self.clone() };
        (!self.filters.is_empty()).then(|| (without, self.filters.clone()))
    }

    /// This input restricted to its partitions `positions`.
    pub(crate) fn slice(&self, positions: &[u32]) -> Self {
        let partitioning = slice_partitioning(&self.properties.partitioning, positions);
        Self {
            stage: self.stage,
            partitions: positions.iter().map(|position| self.partitions[*position as usize]).collect(),
            properties: Arc::new(self.properties.as_ref().clone().with_partitioning(partitioning)),
            filters: self.filters.clone(),
        }
    }

    /// The producer stage.
    pub fn stage(&self) -> u32 {
        self.stage
    }

    /// Schema of the rows it reads.
    pub fn input_schema(&self) -> &SchemaRef {
        self.properties.equivalence_properties().schema()
    }

    /// Global numbers of the exchange partitions it reads.
    pub fn partitions(&self) -> &[u32] {
        &self.partitions
    }
}

impl DisplayAs for StageInputExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StageInputExec: stage={}, partitions={}", self.stage, self.partitions.len())
    }
}

impl ExecutionPlan for StageInputExec {
    fn name(&self) -> &str {
        "StageInputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
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

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let filters = result.parent_filters.iter().map(|parent| &parent.filter);
        let ours: Vec<_> = filters.filter(|filter| filter.is::<RuntimeFilterExpr>()).cloned().collect();
        let propagation = FilterPushdownPropagation::all_unsupported(result);
        if phase != FilterPushdownPhase::Post || ours.is_empty() {
            return Ok(propagation);
        }
        Ok(propagation.with_updated_node(Arc::new(Self { filters: ours, ..self.clone() })))
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("the input of stage {} was not bound to a shuffle reader before the plan ran", self.stage)
    }
}

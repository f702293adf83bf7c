//! [`StageInputExec`]: the placeholder leaf that stands for another stage's output.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use crate::slice::slice_partitioning;

/// Reads exchange partitions `partitions` of stage `stage`. Bound to a shuffle reader in the function, just before it runs.
///
/// Partition `i` of this node is exchange partition `partitions[i]`: a task's slice of the plan keeps the global numbers.
#[derive(Clone, Debug)]
pub struct StageInputExec {
    stage: u32,
    partitions: Vec<u32>,
    properties: Arc<PlanProperties>,
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
        Self { stage, partitions, properties }
    }

    /// This input restricted to its partitions `positions`.
    pub(crate) fn slice(&self, positions: &[u32]) -> Self {
        let partitioning = slice_partitioning(&self.properties.partitioning, positions);
        Self {
            stage: self.stage,
            partitions: positions.iter().map(|position| self.partitions[*position as usize]).collect(),
            properties: Arc::new(self.properties.as_ref().clone().with_partitioning(partitioning)),
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

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("the input of stage {} was not bound to a shuffle reader before the plan ran", self.stage)
    }
}

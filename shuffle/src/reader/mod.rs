//! [`ShuffleReaderExec`]: the rows of exchange partitions, from mapped segments.

mod plan;
mod stream;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use onward_segment::MappedSegment;
use onward_wire::exchange::StageInputs;

use crate::error::wire_error;
use crate::transport::SegmentSource;
use parking_lot::Mutex;
use plan::Piece;
use stream::PartitionReader;

/// Reads exchange partitions of one producer stage. Partition `i` of this node is exchange partition `partitions[i]`:
/// its committed attempts in task order, their segments in order, the entries of the partition in order.
///
/// Batches point into the mapped segments; a segment stays mapped while one of its batches is alive.
#[derive(Debug)]
pub struct ShuffleReaderExec {
    partitions: Vec<u32>,
    inputs: Arc<StageInputs>,
    source: Arc<dyn SegmentSource>,
    properties: Arc<PlanProperties>,
    /// Inline images, opened once for all partitions.
    images: Arc<Vec<OnceLock<Arc<MappedSegment>>>>,
    /// What each partition reads; taken when it starts.
    pieces: Mutex<Vec<VecDeque<Piece>>>,
    metrics: ExecutionPlanMetricsSet,
}

impl ShuffleReaderExec {
    /// Reads `partitions` (ascending) of `inputs`. `properties` are those of the placeholder it replaces.
    pub fn new(
        properties: Arc<PlanProperties>,
        partitions: Vec<u32>,
        inputs: Arc<StageInputs>,
        source: Arc<dyn SegmentSource>,
    ) -> Self {
        let images = Arc::new(inputs.attempts.iter().map(|_| OnceLock::new()).collect());
        let (pieces, metrics) = (Mutex::default(), ExecutionPlanMetricsSet::new());
        Self { partitions, inputs, source, properties, images, pieces, metrics }
    }

    /// What plan partition `partition` reads. Made for all partitions when the first one starts, since they share requests;
    /// a partition that starts again makes its own.
    fn pieces(&self, partition: usize) -> Result<VecDeque<Piece>> {
        let plan = |partitions: &[u32]| {
            plan::pieces(&self.inputs, partitions, self.source.host(), self.source.fetch_bytes()).map_err(wire_error)
        };
        let mut pieces = self.pieces.lock();
        if pieces.is_empty() {
            *pieces = plan(&self.partitions)?;
        }
        let taken = std::mem::take(&mut pieces[partition]);
        if !taken.is_empty() {
            return Ok(taken);
        }
        drop(pieces);
        Ok(plan(&self.partitions[partition..=partition])?.pop().unwrap_or_default())
    }

    fn output_schema(&self) -> &SchemaRef {
        self.properties.equivalence_properties().schema()
    }
}

impl DisplayAs for ShuffleReaderExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "ShuffleReaderExec: stage={}, partitions={}, attempts={}",
            self.inputs.stage,
            self.partitions.len(),
            self.inputs.attempts.len()
        )
    }
}

impl ExecutionPlan for ShuffleReaderExec {
    fn name(&self) -> &str {
        "ShuffleReaderExec"
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

    fn execute(&self, partition: usize, ctx: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(exchange_partition) = self.partitions.get(partition) else {
            return internal_err!("partition {partition} of {} was asked for", self.partitions.len());
        };
        let reader = PartitionReader::new(
            *exchange_partition,
            self.pieces(partition)?,
            self.output_schema().clone(),
            self.inputs.clone(),
            self.source.clone(),
            self.images.clone(),
            stream::Limits::new(ctx.session_config().batch_size()),
            &self.metrics,
            partition,
        );
        let stream = RecordBatchStreamAdapter::new(self.output_schema().clone(), Box::pin(reader.into_stream()));
        Ok(Box::pin(cooperative(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

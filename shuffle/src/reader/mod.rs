//! [`ShuffleReaderExec`]: the rows of exchange partitions, from mapped segments.

mod feed;
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
pub use feed::InputFeed;
use parking_lot::Mutex;
use plan::Piece;
use stream::PartitionReader;

/// Reads exchange partitions of one producer stage. Partition `i` of this node is exchange partition `partitions[i]`:
/// its committed attempts in task order, their segments in order, the entries of the partition in order. Attempts that are not
/// known yet are waited for.
///
/// Batches point into the mapped segments; a segment stays mapped while one of its batches is alive.
#[derive(Debug)]
pub struct ShuffleReaderExec {
    input: Arc<Input>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What all partitions share.
#[derive(Debug)]
struct Input {
    partitions: Vec<u32>,
    feed: Arc<InputFeed>,
    source: Arc<dyn SegmentSource>,
    /// The parts of the feed that a partition came to.
    parts: Mutex<Vec<Arc<InputPart>>>,
}

/// Attempts that became known together.
#[derive(Debug)]
struct InputPart {
    inputs: Arc<StageInputs>,
    /// Inline images, opened once for all partitions.
    images: Vec<OnceLock<Arc<MappedSegment>>>,
    /// What each partition reads; taken when it comes here.
    pieces: Mutex<Vec<VecDeque<Piece>>>,
}

impl ShuffleReaderExec {
    /// Reads `partitions` (ascending) of what `feed` tells of. `properties` are those of the placeholder it replaces.
    pub fn new(
        properties: Arc<PlanProperties>,
        partitions: Vec<u32>,
        feed: Arc<InputFeed>,
        source: Arc<dyn SegmentSource>,
    ) -> Self {
        let input = Arc::new(Input { partitions, feed, source, parts: Mutex::default() });
        Self { input, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    fn output_schema(&self) -> &SchemaRef {
        self.properties.equivalence_properties().schema()
    }
}

impl Input {
    /// The part at position `at`, waiting for it if need be; `None` behind the last one.
    async fn part(&self, at: usize) -> Option<Arc<InputPart>> {
        let inputs = self.feed.part(at).await?;
        let mut parts = self.parts.lock();
        // Whoever comes here has been at all parts before.
        if parts.len() == at {
            let images = inputs.attempts.iter().map(|_| OnceLock::new()).collect();
            parts.push(Arc::new(InputPart { inputs, images, pieces: Mutex::default() }));
        }
        parts.get(at).cloned()
    }

    /// What plan partition `partition` reads of a part. Made for all partitions when the first one comes, since they share
    /// requests; a partition that comes again makes its own.
    fn pieces(&self, part: &InputPart, partition: usize) -> Result<VecDeque<Piece>> {
        let plan = |partitions: &[u32]| {
            plan::pieces(&part.inputs, partitions, self.source.host(), self.source.fetch_bytes()).map_err(wire_error)
        };
        let mut pieces = part.pieces.lock();
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
}

impl DisplayAs for ShuffleReaderExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "ShuffleReaderExec: stage={}, partitions={}, attempts={}",
            self.input.feed.stage(),
            self.input.partitions.len(),
            self.input.feed.attempts()
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
        let partitions = &self.input.partitions;
        if partition >= partitions.len() {
            return internal_err!("partition {partition} of {} was asked for", partitions.len());
        }
        let reader = PartitionReader::new(
            Arc::clone(&self.input),
            partition,
            self.output_schema().clone(),
            stream::Limits::new(ctx.session_config().batch_size()),
            &self.metrics,
        );
        let stream = RecordBatchStreamAdapter::new(self.output_schema().clone(), Box::pin(reader.into_stream()));
        Ok(Box::pin(cooperative(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

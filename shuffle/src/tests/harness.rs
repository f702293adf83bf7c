//! A store, a writer and a reader in one process.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{ExecutionPlan, Partitioning, PlanProperties};
use futures::TryStreamExt;
use onward_segment::{MappedSegment, SegmentStore, StoreOptions};
use onward_wire::exchange::{InputAttempt, StageInputs};
use onward_wire::message::{AttemptOutput, SegmentRef};
use onward_wire::{FunctionId, HostId, QueryId, StageId, WireError};
use tempfile::TempDir;

use crate::{
    AttemptWriter, Fetch, InputFeed, LocalStore, OutputMapping, SegmentSink, SegmentSource, ShuffleReaderExec,
    WritableSegment, WriterOptions,
};

/// No limits that a test would meet by accident.
pub const OPTIONS: WriterOptions = WriterOptions { flush_bytes: 8 << 20, inline_bytes: 0, batch_rows: 8192 };

pub struct Exchange {
    pub dir: TempDir,
    pub store: Arc<SegmentStore>,
    pub local: Arc<LocalStore>,
}

impl Exchange {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SegmentStore::open(StoreOptions::below(dir.path(), 256 << 20, 0)).unwrap();
        let local = LocalStore::new(store.clone(), FunctionId(1));
        Self { dir, store, local }
    }

    /// Writes each inner list through a lane of its own, and commits.
    pub async fn write(
        &self,
        mapping: OutputMapping,
        options: WriterOptions,
        lanes: &[Vec<RecordBatch>],
    ) -> Result<AttemptOutput> {
        let schema = lanes.iter().flatten().next().map_or_else(|| numbers(0..0).schema(), RecordBatch::schema);
        let output = write_through(self.local.clone(), schema, mapping, options, lanes).await?;
        for segment in &output.segments {
            self.store.commit(segment).unwrap();
        }
        Ok(output)
    }

    /// Reads `partitions` of the attempts.
    pub async fn read(&self, schema: &SchemaRef, outputs: &[AttemptOutput], partitions: u32) -> Vec<Vec<RecordBatch>> {
        let reader = self.reader(schema, outputs, partitions);
        let mut read = Vec::new();
        for partition in 0..partitions as usize {
            let stream = reader.execute(partition, Arc::new(TaskContext::default())).unwrap();
            read.push(stream.try_collect().await.unwrap());
        }
        read
    }

    pub fn reader(&self, schema: &SchemaRef, outputs: &[AttemptOutput], partitions: u32) -> ShuffleReaderExec {
        reader(self.local.clone(), schema, outputs, partitions)
    }

    /// Paths of files of this exchange that are mapped into this process.
    pub fn mapped_files(&self) -> usize {
        let dir = self.dir.path().to_str().unwrap();
        std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains(dir)).count()
    }
}

pub async fn write_through(
    sink: Arc<dyn SegmentSink>,
    schema: SchemaRef,
    mapping: OutputMapping,
    options: WriterOptions,
    lanes: &[Vec<RecordBatch>],
) -> Result<AttemptOutput> {
    let writer = AttemptWriter::new(schema, mapping, sink, options);
    let open: Vec<_> = (0..lanes.len() as u32).map(|partition| writer.lane(partition)).collect();
    let lanes = open.into_iter().zip(lanes).map(|(mut lane, batches)| async move {
        for batch in batches {
            lane.write(batch.clone()).await?;
        }
        lane.finish().await
    });
    futures::future::try_join_all(lanes).await?;
    writer.finish().await
}

/// Outputs of the tasks of stage 0.
pub fn attempts(outputs: &[AttemptOutput]) -> Vec<InputAttempt> {
    let attempt = |task| StageId::new(QueryId(1), 0).task(task).attempt(0).into();
    let outputs = (0..).zip(outputs);
    outputs.map(|(task, output)| InputAttempt { attempt: attempt(task), output: output.clone(), host: 0 }).collect()
}

pub fn reader(
    source: Arc<dyn SegmentSource>,
    schema: &SchemaRef,
    outputs: &[AttemptOutput],
    partitions: u32,
) -> ShuffleReaderExec {
    let inputs = StageInputs { stage: 0, attempts: attempts(outputs), ..StageInputs::default() };
    reader_of(source, schema, inputs, (0..partitions).collect())
}

pub fn reader_of(
    source: Arc<dyn SegmentSource>,
    schema: &SchemaRef,
    inputs: StageInputs,
    partitions: Vec<u32>,
) -> ShuffleReaderExec {
    reader_of_feed(source, schema, InputFeed::new(inputs), partitions)
}

pub fn reader_of_feed(
    source: Arc<dyn SegmentSource>,
    schema: &SchemaRef,
    feed: Arc<InputFeed>,
    partitions: Vec<u32>,
) -> ShuffleReaderExec {
    let properties = PlanProperties::new(
        EquivalenceProperties::new(schema.clone()),
        Partitioning::UnknownPartitioning(partitions.len()),
        EmissionType::Incremental,
        Boundedness::Bounded,
    );
    ShuffleReaderExec::new(Arc::new(properties), partitions, feed, source)
}

pub fn numbers(values: std::ops::Range<i64>) -> RecordBatch {
    let columns: [(&str, ArrayRef); 2] = [
        ("n", Arc::new(Int64Array::from_iter_values(values.clone()))),
        ("s", Arc::new(StringViewArray::from_iter_values(values.map(|value| format!("the text of number {value}"))))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

pub fn hash_of(column: &str, schema: &SchemaRef, partitions: usize) -> OutputMapping {
    OutputMapping::Hash { exprs: vec![col(column, schema).unwrap()], partitions }
}

/// The values of column `n`, in order.
pub fn values(batches: &[RecordBatch]) -> Vec<i64> {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int64Type;
    batches.iter().flat_map(|batch| batch["n"].as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// Gives files of a fixed size, whatever is asked for.
#[derive(Debug)]
pub struct SmallFiles(pub Arc<LocalStore>, pub u64);

#[async_trait]
impl SegmentSink for SmallFiles {
    async fn open(&self, _: u64) -> Result<WritableSegment, WireError> {
        self.0.open(self.1).await
    }
}

/// Fails.
#[derive(Debug)]
pub struct Broken(pub WireError);

#[async_trait]
impl SegmentSink for Broken {
    async fn open(&self, _: u64) -> Result<WritableSegment, WireError> {
        Err(self.0.clone())
    }
}

#[async_trait]
impl SegmentSource for Broken {
    fn host(&self) -> HostId {
        HostId::EMBEDDED
    }

    fn fetch_bytes(&self) -> u64 {
        1 << 20
    }

    async fn fetch(&self, _: &Fetch) -> Result<Arc<MappedSegment>, WireError> {
        Err(self.0.clone())
    }

    async fn map(&self, _: &[SegmentRef]) -> Result<Vec<Arc<MappedSegment>>, WireError> {
        Err(self.0.clone())
    }
}

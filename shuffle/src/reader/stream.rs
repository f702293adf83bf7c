//! One exchange partition as a stream.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder};
use futures::Stream;
use onward_segment::{Entry, MappedSegment};
use onward_wire::message::SegmentRef;
use tokio_util::task::AbortOnDropHandle;

use super::plan::{Part, Piece};
use super::{Input, InputPart};
use crate::error::{segment_error, wire_error};

/// Segments asked for at once: one round trip to the host for many, without holding hundreds mapped.
const SEGMENTS_AT_ONCE: usize = 16;

/// When batches are merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Batches with fewer rows are tiny: operators would spend more on the batch than on its rows.
    tiny_rows: u64,
    /// Tiny batches are merged up to this many rows.
    batch_rows: usize,
}

impl Limits {
    pub fn new(batch_rows: usize) -> Self {
        Self { tiny_rows: (batch_rows / 8) as u64, batch_rows }
    }
}

/// Reads one exchange partition; see the reading rule at [`super::ShuffleReaderExec`].
pub(super) struct PartitionReader {
    input: Arc<Input>,
    /// Of the plan.
    partition: usize,
    schema: SchemaRef,
    limits: Limits,
    /// The part of the input that it is at, and the position of the next one.
    part: Option<Arc<InputPart>>,
    next_part: usize,
    /// What was not looked at yet of that part.
    pieces: VecDeque<Piece>,
    /// The next request at another host, under way.
    ahead: Option<(Arc<Part>, AbortOnDropHandle<()>)>,
    /// Segments of the current attempt that were not asked for yet.
    waiting: VecDeque<SegmentRef>,
    /// Segments and the number that the partition has there.
    mapped: VecDeque<(Arc<MappedSegment>, u32)>,
    entries: VecDeque<(Arc<MappedSegment>, Entry)>,
    tiny: Vec<RecordBatch>,
    tiny_rows: usize,
    metrics: BaselineMetrics,
    bytes: Count,
}

impl InputPart {
    /// The inline output of an attempt.
    fn image(&self, attempt: usize) -> Result<Arc<MappedSegment>> {
        let image = &self.images[attempt];
        match image.get() {
            Some(segment) => Ok(segment.clone()),
            None => {
                let bytes = self.inputs.attempts[attempt].output.inline.clone();
                let opened = MappedSegment::from_image(bytes).map_err(segment_error)?;
                Ok(image.get_or_init(|| Arc::new(opened)).clone())
            }
        }
    }
}

impl PartitionReader {
    pub fn new(
        input: Arc<Input>,
        partition: usize,
        schema: SchemaRef,
        limits: Limits,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        Self {
            input,
            partition,
            schema,
            limits,
            part: None,
            next_part: 0,
            pieces: VecDeque::new(),
            ahead: None,
            waiting: VecDeque::new(),
            mapped: VecDeque::new(),
            entries: VecDeque::new(),
            tiny: Vec::new(),
            tiny_rows: 0,
            metrics: BaselineMetrics::new(metrics, partition),
            bytes: MetricBuilder::new(metrics).output_bytes(partition),
        }
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<RecordBatch>> + Send {
        futures::stream::try_unfold(self, |mut reader| async move {
            let batch = reader.next().await?;
            Ok(batch.map(|batch| (batch, reader)))
        })
    }

    /// The next batch: as it lies in its segment, or several tiny ones merged.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some((segment, entry)) = self.next_entry().await? {
            if entry.rows == 0 {
                continue;
            }
            let is_tiny = entry.rows < self.limits.tiny_rows;
            if !self.tiny.is_empty() && (!is_tiny || self.tiny_rows + entry.rows as usize > self.limits.batch_rows) {
                self.entries.push_front((segment, entry));
                return self.merge_tiny().map(Some);
            }
            let timer = self.metrics.elapsed_compute().clone();
            let _timer = timer.timer();
            self.bytes.add(entry.length as usize);
            self.metrics.record_output(entry.rows as usize);
            let batch = self.decode(&segment, &entry)?;
            if !is_tiny {
                return Ok(Some(batch));
            }
            self.tiny_rows += batch.num_rows();
            self.tiny.push(batch);
        }
        match self.tiny.is_empty() {
            true => Ok(None),
            false => self.merge_tiny().map(Some),
        }
    }

    fn merge_tiny(&mut self) -> Result<RecordBatch> {
        self.tiny_rows = 0;
        let tiny = std::mem::take(&mut self.tiny);
        match tiny.as_slice() {
            [only] => Ok(only.clone()),
            _ => Ok(concat_batches(&self.schema, &tiny)?),
        }
    }

    /// The batch of an entry, under the plan's schema (names and metadata may differ from the writer's).
    fn decode(&self, segment: &Arc<MappedSegment>, entry: &Entry) -> Result<RecordBatch> {
        let batch = segment.batch(entry).map_err(segment_error)?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), batch.columns().to_vec(), &options)?)
    }

    async fn next_entry(&mut self) -> Result<Option<(Arc<MappedSegment>, Entry)>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Ok(Some(entry));
            }
            if let Some((segment, partition)) = self.mapped.pop_front() {
                self.entries.extend(segment.entries(partition).map(|entry| (segment.clone(), entry)));
            } else if !self.waiting.is_empty() {
                let count = self.waiting.len().min(SEGMENTS_AT_ONCE);
                let asked: Vec<SegmentRef> = self.waiting.drain(..count).collect();
                let mapped = self.input.source.map(&asked).await.map_err(wire_error)?;
                let partition = self.exchange_partition();
                self.mapped.extend(mapped.into_iter().map(|segment| (segment, partition)));
            } else if !self.next_piece().await? && !self.go_to_next_part().await? {
                return Ok(None);
            }
        }
    }

    fn exchange_partition(&self) -> u32 {
        self.input.partitions[self.partition]
    }

    /// Goes to what became known next; false when all was read.
    async fn go_to_next_part(&mut self) -> Result<bool> {
        let Some(part) = self.input.part(self.next_part).await else { return Ok(false) };
        self.pieces = self.input.pieces(&part, self.partition)?;
        self.part = Some(part);
        self.next_part += 1;
        Ok(true)
    }

    /// Goes to the next piece of the part; false when there is none.
    async fn next_piece(&mut self) -> Result<bool> {
        let (Some(piece), Some(part)) = (self.pieces.pop_front(), &self.part) else { return Ok(false) };
        match piece {
            Piece::Here { attempt } => {
                let output = &part.inputs.attempts[attempt].output;
                match output.inline.is_empty() {
                    true => self.waiting.extend(output.segments.iter().copied()),
                    false => self.mapped.push_back((part.image(attempt)?, self.exchange_partition())),
                }
                self.look_ahead(None);
            }
            Piece::Fetched { part, partition } => {
                let segment = part.get(self.input.source.as_ref()).await.map_err(wire_error)?;
                self.look_ahead(Some(&part));
                self.mapped.push_back((segment, partition));
            }
        }
        Ok(true)
    }

    /// Makes the next request at another host while `current` is read.
    fn look_ahead(&mut self, current: Option<&Arc<Part>>) {
        let next = self.pieces.iter().find_map(|piece| match piece {
            Piece::Fetched { part, .. } if current.is_none_or(|current| !Arc::ptr_eq(current, part)) => Some(part),
            _ => None,
        });
        let is_asked = |part: &Arc<Part>| self.ahead.as_ref().is_some_and(|(ahead, _)| Arc::ptr_eq(ahead, part));
        if next.is_some_and(is_asked) {
            // Asked once more, it would come twice.
            return;
        }
        self.ahead = next.filter(|part| !part.is_fetched()).map(|part| {
            let (asked, source) = (Arc::clone(part), Arc::clone(&self.input.source));
            // An error comes again when the part's turn has come.
            let asking = async move { drop(asked.get(source.as_ref()).await) };
            (Arc::clone(part), AbortOnDropHandle::new(tokio::spawn(asking)))
        });
    }
}

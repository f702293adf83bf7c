//! [`AttemptWriter`]: the output of one attempt, from rows to segments.
//!
//! ```text
//!   plan partition 0 -> Lane -> window (references) --- flush ---> segment: all partitions, in partition order
//!   plan partition 1 -> Lane -> window (references) --- flush ---> segment
//!                                   |  small rest at `Lane::finish`
//!                                   +--------> AttemptWriter::finish: one more segment, or an inline image
//! ```

mod assign;
mod encode;
#[cfg(test)]
pub(crate) mod for_tests;
mod measure;
mod scatter;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::physical_expr::PhysicalExpr;
use onward_segment::{Finished, ImageWriter, SegmentWriter, segment_bytes};
use onward_wire::filters::{KeySketch, SketchSpec};
use onward_wire::message::{AttemptOutput, PartitionStats, SegmentRef};
use parking_lot::Mutex;

use crate::error::{segment_error, wire_error};
use crate::sketch::{KeySketcher, merge_sketches};
use crate::transport::SegmentSink;
use assign::{Assignment, HashAssigner};
use encode::Encoded;
use scatter::Scatter;
use window::Window;

/// A rest up to this size waits for the rests of the other lanes: one segment less to open, verify and map.
const SMALL_REST_BYTES: usize = 1 << 20;

/// However large the buffer may be: text of one message is addressed with 31 bits.
const MOST_WINDOW_BYTES: u64 = 256 << 20;

/// How rows map to partitions of the exchange.
#[derive(Clone, Debug)]
pub enum OutputMapping {
    /// `hash(exprs) % partitions`, as DataFusion's `RepartitionExec` computes it.
    Hash {
        /// The keys.
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        /// Partitions of the exchange.
        partitions: usize,
    },
    /// Each plan partition deals its batches out in turns, from the exchange partition of its own number on.
    RoundRobin {
        /// Partitions of the exchange.
        partitions: usize,
    },
    /// Plan partition `i` becomes exchange partition `i`, in its order.
    Preserve,
    /// Everything goes to partition 0.
    Single,
}

/// Limits of one attempt's output.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// Rows buffered by all lanes, in bytes of Arrow data.
    pub flush_bytes: u64,
    /// An output whose image is at most this large is returned inline; 0 forces the store.
    pub inline_bytes: u64,
    /// Rows of a full message.
    pub batch_rows: usize,
}

/// Writes the output of one attempt. Each running plan partition writes through a [`Lane`] of its own, concurrently.
///
/// Nothing is visible to anybody before the host commits what [`AttemptWriter::finish`] names. Dropping it, at any time,
/// leaves nothing mapped; the host takes back the files.
#[derive(Debug)]
pub struct AttemptWriter {
    schema: SchemaRef,
    mapping: OutputMapping,
    sink: Arc<dyn SegmentSink>,
    options: WriterOptions,
    open_lanes: AtomicUsize,
    /// Lanes that were dropped with rows that nobody wrote.
    lost_lanes: AtomicUsize,
    rows: AtomicU64,
    bytes: AtomicU64,
    sketches: Vec<SketchSpec>,
    /// Of the lanes that ended; `None` when one could not be made, since then none is whole.
    sketched: Mutex<Option<Vec<KeySketch>>>,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    segments: Vec<SegmentRef>,
    partitions: BTreeMap<u32, PartitionStats>,
    /// Small rests, by plan partition: the merged segment does not depend on which lane ended first.
    rests: BTreeMap<u32, Window>,
}

impl AttemptWriter {
    /// A writer of batches of `schema` that opens files through `sink`.
    pub fn new(
        schema: SchemaRef,
        mapping: OutputMapping,
        sink: Arc<dyn SegmentSink>,
        options: WriterOptions,
    ) -> Arc<Self> {
        Self::sketching(schema, mapping, sink, options, Vec::new())
    }

    /// [`AttemptWriter::new`], with sketches of the rows.
    pub fn sketching(
        schema: SchemaRef,
        mapping: OutputMapping,
        sink: Arc<dyn SegmentSink>,
        options: WriterOptions,
        sketches: Vec<SketchSpec>,
    ) -> Arc<Self> {
        Arc::new(Self {
            schema,
            mapping,
            sketches,
            sketched: Mutex::new(Some(Vec::new())),
            sink,
            options,
            open_lanes: AtomicUsize::new(0),
            lost_lanes: AtomicUsize::new(0),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            written: Mutex::default(),
        })
    }

    /// The lane of plan partition `global_plan_partition`; one per partition. Make all lanes before the first write: they
    /// share the buffer.
    pub fn lane(self: &Arc<Self>, global_plan_partition: u32) -> Lane {
        self.open_lanes.fetch_add(1, Ordering::Relaxed);
        let assigner = match &self.mapping {
            OutputMapping::Hash { exprs, partitions } => Some(HashAssigner::new(exprs.clone(), *partitions)),
            OutputMapping::RoundRobin { .. } | OutputMapping::Preserve | OutputMapping::Single => None,
        };
        let (writer, window) = (self.clone(), Window::default());
        let (plan_partition, turn) = (global_plan_partition, global_plan_partition);
        Lane { writer, plan_partition, turn, assigner, sketchers: None, window, is_finished: false }
    }

    /// The sketches of all rows, when all lanes have finished. None where one could not be made: rows are the same without.
    pub fn take_sketches(&self) -> Vec<KeySketch> {
        let Some(parts) = self.sketched.lock().take() else { return Vec::new() };
        let merge = |spec: &SketchSpec| {
            let of_filter = parts.iter().filter(|part| part.filter == spec.filter).cloned().collect::<Vec<_>>();
            let merged = merge_sketches(&of_filter, spec.most_bytes)?;
            Ok(KeySketch { filter: spec.filter, ..merged })
        };
        let merged: Result<Vec<KeySketch>> = self.sketches.iter().map(merge).collect();
        merged.unwrap_or_else(|error| {
            tracing::warn!(%error, "an attempt gives no keys for runtime filters");
            Vec::new()
        })
    }

    /// Rows given to the lanes so far.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes written to segments so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Writes what is left and says where everything is. No rows give an empty output. Errors when a lane did not finish:
    /// the output would miss rows.
    pub async fn finish(&self) -> Result<AttemptOutput> {
        let (open, lost) = (self.open_lanes.load(Ordering::Acquire), self.lost_lanes.load(Ordering::Acquire));
        if open + lost > 0 {
            return internal_err!("{open} lanes of an attempt are still open and {lost} were dropped unfinished");
        }
        let rests = std::mem::take(&mut self.written.lock().rests);
        let mut rest = Window::default();
        rests.into_values().for_each(|window| rest.append(window));
        let mut inline = bytes::Bytes::new();
        if !rest.is_empty() {
            let is_only = self.written.lock().segments.is_empty();
            match self.image(&rest, is_only)? {
                Some((finished, image)) => {
                    self.record(&finished, None);
                    inline = image;
                }
                None => self.flush(&rest).await?,
            }
        }
        let written = std::mem::take(&mut *self.written.lock());
        let partitions = written.partitions.into_values().collect();
        Ok(AttemptOutput { inline, segments: written.segments, partitions })
    }

    /// `rest` as an image, if it is the whole output and small enough.
    fn image(&self, rest: &Window, is_only: bool) -> Result<Option<(Finished, bytes::Bytes)>> {
        if !is_only || rest.bytes() as u64 > self.options.inline_bytes {
            return Ok(None);
        }
        let mut writer = ImageWriter::create(self.schema.clone()).map_err(segment_error)?;
        match Scatter::plan(rest, &self.schema, self.options.batch_rows)? {
            Some(scatter) => drop(scatter.write(0, &mut writer)?),
            None => {
                Encoded::new(rest, &self.schema, self.options.batch_rows)?.write(0, &mut writer)?;
            }
        }
        let (finished, image) = writer.finish().map_err(segment_error)?;
        Ok((finished.length_bytes <= self.options.inline_bytes).then_some((finished, image)))
    }

    /// Writes `window` as one segment (several, if the sink gives smaller files than asked for).
    async fn flush(&self, window: &Window) -> Result<()> {
        let batch_rows = self.options.batch_rows;
        let messages = match Scatter::plan(window, &self.schema, batch_rows)? {
            Some(scatter) => Messages::Scatter(scatter),
            None => Messages::Encoded(Encoded::new(window, &self.schema, batch_rows)?),
        };
        let mut from = 0;
        while from < messages.len() {
            let (first, last) = messages.partitions(from);
            let (entries, partitions) = (messages.len() - from, (last - first) as usize + 1);
            let capacity = segment_bytes(&self.schema, messages.bytes(from), entries, partitions);
            let file = self.sink.open(capacity.map_err(segment_error)?).await.map_err(wire_error)?;
            let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, self.schema.clone())
                .map_err(segment_error)?;
            from = messages.write(from, &mut writer)?;
            let finished = writer.finish().map_err(segment_error)?;
            self.record(&finished, Some(file.id.0));
        }
        Ok(())
    }

    /// The encoders rely on the batches having the types of the schema.
    fn check_types(&self, batch: &RecordBatch) -> Result<()> {
        if Arc::ptr_eq(batch.schema_ref(), &self.schema) {
            return Ok(());
        }
        let expected = self.schema.fields().iter().map(|field| field.data_type());
        let mut pairs = expected.zip(batch.columns().iter().map(|column| column.data_type()));
        let is_same = batch.num_columns() == self.schema.fields().len()
            && pairs.all(|(expected, found)| expected.equals_datatype(found));
        match is_same {
            true => Ok(()),
            false => internal_err!("a stage of schema {} gave a batch of schema {}", self.schema, batch.schema()),
        }
    }

    fn record(&self, finished: &Finished, segment: Option<u64>) {
        self.bytes.fetch_add(finished.length_bytes, Ordering::Relaxed);
        let mut written = self.written.lock();
        for added in &finished.partitions {
            let stats = written.partitions.entry(added.partition).or_default();
            stats.partition = added.partition;
            stats.rows += added.rows;
            stats.bytes += added.bytes;
        }
        if let Some(segment) = segment {
            let (length_bytes, rows) = (finished.length_bytes, finished.rows);
            written.segments.push(SegmentRef { segment, length_bytes, rows });
        }
    }
}

/// The messages of a window, by one of two paths that give the same batches.
enum Messages<'a> {
    /// Rows straight into the mapping.
    Scatter(Scatter<'a>),
    /// Any type: gathered in memory first.
    Encoded(Encoded),
}

impl Messages<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Scatter(scatter) => scatter.len(),
            Self::Encoded(encoded) => encoded.messages.len(),
        }
    }

    fn bytes(&self, from: usize) -> usize {
        match self {
            Self::Scatter(scatter) => scatter.bytes(from),
            Self::Encoded(encoded) => encoded.bytes(from),
        }
    }

    fn partitions(&self, from: usize) -> (u32, u32) {
        match self {
            Self::Scatter(scatter) => scatter.partitions(from),
            Self::Encoded(encoded) => encoded.partitions(from),
        }
    }

    fn write(&self, from: usize, writer: &mut SegmentWriter) -> Result<usize> {
        match self {
            Self::Scatter(scatter) => scatter.write(from, writer),
            Self::Encoded(encoded) => encoded.write(from, writer),
        }
    }
}

/// Writes one plan partition. See [`AttemptWriter`].
#[derive(Debug)]
pub struct Lane {
    writer: Arc<AttemptWriter>,
    plan_partition: u32,
    /// Where its next batch goes, modulo partitions.
    turn: u32,
    assigner: Option<HashAssigner>,
    /// Made for the first rows.
    sketchers: Option<Vec<KeySketcher>>,
    window: Window,
    is_finished: bool,
}

impl Lane {
    /// Takes `batch`: keeps a reference, or writes a segment once the lane's share of the buffer is full.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.writer.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        self.writer.check_types(&batch)?;
        if let Err(error) = self.sketch(&batch) {
            self.sketch_failed(&error);
        }
        let (assignment, measured) = match (&mut self.assigner, &self.writer.mapping) {
            (Some(assigner), _) => assigner.assign(&batch)?,
            (None, OutputMapping::Single) => Assignment::whole(0, &batch),
            (None, OutputMapping::RoundRobin { partitions }) => {
                let partition = self.turn % (*partitions).max(1) as u32;
                self.turn = self.turn.wrapping_add(1);
                Assignment::whole(partition, &batch)
            }
            (None, _) => Assignment::whole(self.plan_partition, &batch),
        };
        let lanes = self.writer.open_lanes.load(Ordering::Relaxed).max(1) as u64;
        let share = (self.writer.options.flush_bytes / lanes).min(MOST_WINDOW_BYTES);
        // A giant batch gets segments of its own: offsets have 32 bits.
        if !self.window.is_empty() && self.window.bytes() as u64 + measured.row_bytes as u64 > share.saturating_mul(2) {
            self.flush().await?;
        }
        self.window.push(batch, assignment, measured);
        if self.window.bytes() as u64 >= share {
            self.flush().await?;
        }
        Ok(())
    }

    fn sketch(&mut self, batch: &RecordBatch) -> Result<()> {
        let sketchers = match &mut self.sketchers {
            Some(sketchers) => sketchers,
            None => {
                let specs = self.writer.sketches.iter();
                let sketchers = specs.map(|spec| KeySketcher::new(spec, &self.writer.schema)).collect::<Result<_>>()?;
                self.sketchers.insert(sketchers)
            }
        };
        sketchers.iter_mut().try_for_each(|sketcher| sketcher.add(batch))
    }

    fn sketch_failed(&mut self, error: &DataFusionError) {
        tracing::warn!(%error, "an attempt gives no keys for runtime filters");
        self.sketchers = Some(Vec::new());
        *self.writer.sketched.lock() = None;
    }

    async fn flush(&mut self) -> Result<()> {
        let window = std::mem::take(&mut self.window);
        self.writer.flush(&window).await
    }

    /// Writes the rest, or leaves it to [`AttemptWriter::finish`] when it is small.
    pub async fn finish(mut self) -> Result<()> {
        let window = std::mem::take(&mut self.window);
        if window.bytes() > SMALL_REST_BYTES {
            self.writer.flush(&window).await?;
        } else if !window.is_empty() {
            self.writer.written.lock().rests.entry(self.plan_partition).or_default().append(window);
        }
        for sketcher in self.sketchers.take().into_iter().flatten() {
            match sketcher.finish() {
                Ok(sketch) => self.writer.sketched.lock().iter_mut().for_each(|made| made.push(sketch.clone())),
                Err(error) => self.sketch_failed(&error),
            }
        }
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if !self.is_finished {
            self.writer.lost_lanes.fetch_add(1, Ordering::Release);
        }
        self.writer.open_lanes.fetch_sub(1, Ordering::Release);
    }
}

//! The exchange on one machine: rows hashed into 64 partitions, through segments, per writing core; beside it what the
//! same rows cost with hash + take, with hash + take + coalescing, and as a plain copy. Then: summing every mapped column
//! against summing the same columns in heap memory.
//!
//! `cargo bench --bench exchange -- --mib 512 --iterations 7`
//!
//! Gigabytes are 10^9 bytes of Arrow data (values, offsets, views, text) of the rows. Every figure is the median of the
//! iterations; segment files are recycled, as in a running host.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, StringViewArray,
};
use datafusion::arrow::compute::{BatchCoalescer, concat_batches};
use datafusion::arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use onward_segment::{MappedSegment, SegmentStore, StoreOptions};
use onward_shuffle::{AttemptWriter, LocalStore, OutputMapping, SegmentSource, WriterOptions};
use onward_wire::message::AttemptOutput;
use onward_wire::{Config, FunctionId};
use support::{BoxError, conditions, cores, load, median};

/// Makes one batch of a shape.
type Make = fn(&mut fastrand::Rng) -> RecordBatch;

const PARTITIONS: usize = 64;
const BATCH_ROWS: usize = 8192;
/// Different batches in a run: larger than the caches.
const BATCHES: usize = 64;
const SEED: u64 = 20_261_123;

/// Measures the exchange.
#[derive(Parser)]
struct Options {
    /// Arrow data of one iteration, in MiB
    #[arg(long, default_value_t = 512)]
    mib: usize,
    /// Iterations; medians are printed
    #[arg(long, default_value_t = 7)]
    iterations: usize,
    /// Only this shape: numbers, mixed or text
    #[arg(long)]
    shape: Option<String>,
    /// Count the CPU time of the threads instead of the time that passed: for machines that do other work
    #[arg(long)]
    cpu_time: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    println!("{}", conditions());
    println!(
        "{PARTITIONS} partitions, batches of {BATCH_ROWS} rows, {} MiB per iteration, GB/s, medians of {} iterations{}",
        options.mib,
        options.iterations,
        if options.cpu_time { ", by CPU time of each thread" } else { "" }
    );
    println!(
        "\n| shape | bytes a row | memcpy | hash + take | + coalesce | exchange, 1 core | exchange, per core of all | sum: heap | mapped | mapped / heap |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let shapes: [(&str, Make); 3] = [("numbers", numbers), ("mixed", mixed), ("text", text)];
    for (name, make) in shapes {
        if options.shape.as_ref().is_none_or(|only| only == name) {
            println!("{}", Shape::new(make, &options).row(name, &options)?);
        }
    }
    println!("\n{} after", load());
    Ok(())
}

struct Shape {
    batches: Vec<RecordBatch>,
    /// Times that all batches are written in one iteration.
    repeats: usize,
    row_bytes: usize,
}

impl Shape {
    fn new(make: Make, options: &Options) -> Self {
        let mut random = fastrand::Rng::with_seed(SEED);
        let batches: Vec<RecordBatch> = (0..BATCHES).map(|_| make(&mut random)).collect();
        let bytes: usize = batches.iter().map(data_bytes).sum();
        let repeats = ((options.mib << 20) / bytes).max(1);
        Self { batches, repeats, row_bytes: bytes / (BATCHES * BATCH_ROWS) }
    }

    fn bytes(&self) -> usize {
        self.repeats * self.batches.iter().map(data_bytes).sum::<usize>()
    }

    fn input(&self) -> impl Iterator<Item = &RecordBatch> {
        std::iter::repeat_n(&self.batches, self.repeats).flatten()
    }

    fn row(&self, name: &str, options: &Options) -> Result<String, BoxError> {
        let gigabytes = self.bytes() as f64 / 1e9;
        let rate = |run: &mut dyn FnMut() -> Result<f64, BoxError>| -> Result<f64, BoxError> {
            let mut seconds = Vec::new();
            // The first run warms up: caches, the allocator, the pool of files.
            run()?;
            for _ in 0..options.iterations {
                seconds.push(run()?);
            }
            Ok(gigabytes / median(&seconds))
        };
        let copied = rate(&mut || Ok(timed(options.cpu_time, || self.copy())))?;
        let taken = rate(&mut || Ok(timed(options.cpu_time, || self.take(false))))?;
        let coalesced = rate(&mut || Ok(timed(options.cpu_time, || self.take(true))))?;
        let store = SegmentStore::open(StoreOptions::from_config(&Config::default()))?;
        let one = rate(&mut || self.exchange(&store, 1, options))?;
        let all = rate(&mut || self.exchange(&store, cores(), options))?;
        let (heap, mapped) = self.sums(&store, options)?;
        Ok(format!(
            "| {name} | {} | {copied:.2} | {taken:.2} | {coalesced:.2} | **{one:.2}** | **{all:.2}** | {heap:.2} | {mapped:.2} | **{:.2}** |",
            self.row_bytes,
            mapped / heap
        ))
    }

    /// Copies every buffer into one that is warm.
    fn copy(&self) {
        let mut target = vec![0_u8; 32 << 20];
        let mut at = 0;
        for batch in self.input() {
            for column in batch.columns() {
                for buffer in column.to_data().buffers() {
                    if at + buffer.len() > target.len() {
                        at = 0;
                    }
                    target[at..at + buffer.len()].copy_from_slice(buffer);
                    at += buffer.len();
                }
            }
        }
        black_box(&target);
    }

    /// What `RepartitionExec` does to each batch, with or without gathering full batches again.
    fn take(&self, coalesce: bool) {
        let schema = self.batches[0].schema();
        let key = vec![col("key", &schema).expect("the shapes have a key")];
        let mut partitioner =
            BatchPartitioner::new_hash_partitioner(key, PARTITIONS, Time::new()).expect("there are partitions");
        let mut coalescers: Vec<BatchCoalescer> =
            (0..PARTITIONS).map(|_| BatchCoalescer::new(schema.clone(), BATCH_ROWS)).collect();
        for batch in self.input() {
            partitioner
                .partition(batch.clone(), |partition, part| {
                    if coalesce {
                        coalescers[partition].push_batch(part)?;
                        while let Some(full) = coalescers[partition].next_completed_batch() {
                            black_box(full);
                        }
                    } else {
                        black_box(part);
                    }
                    Ok(())
                })
                .expect("rows can be hashed");
        }
    }

    /// Seconds of `writers` threads, each with a writer of its own that writes the whole input. Commit and removal are
    /// the host's work and not counted.
    fn exchange(&self, store: &Arc<SegmentStore>, writers: usize, options: &Options) -> Result<f64, BoxError> {
        let write = || {
            let mut output = None;
            let seconds = timed(options.cpu_time, || output = Some(self.write(store)));
            output.expect("it ran").map(|output| (seconds, output))
        };
        let outputs = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..writers).map(|_| scope.spawn(write)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a writer panicked")).collect::<Result<Vec<_>, _>>()
        })?;
        for (_, output) in &outputs {
            for segment in &output.segments {
                store.commit(segment)?;
                store.remove(segment.id());
            }
        }
        Ok(outputs.iter().map(|(seconds, _)| seconds).sum::<f64>() / writers as f64)
    }

    fn write(&self, store: &Arc<SegmentStore>) -> Result<AttemptOutput, BoxError> {
        let schema = self.batches[0].schema();
        let mapping = OutputMapping::Hash { exprs: vec![col("key", &schema)?], partitions: PARTITIONS };
        let config = Config::default();
        let options = WriterOptions { flush_bytes: config.flush_bytes, inline_bytes: 0, batch_rows: BATCH_ROWS };
        let sink = LocalStore::new(store.clone(), FunctionId(1));
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(async {
            let writer = AttemptWriter::new(schema, mapping, sink, options);
            let mut lane = writer.lane(0);
            for batch in self.input() {
                lane.write(batch.clone()).await?;
            }
            lane.finish().await?;
            Ok(writer.finish().await?)
        })
    }

    /// Gigabytes a second of summing all columns of all partitions: in heap memory, and mapped.
    fn sums(&self, store: &Arc<SegmentStore>, options: &Options) -> Result<(f64, f64), BoxError> {
        let output = self.write(store)?;
        output.segments.iter().try_for_each(|segment| store.commit(segment))?;
        let source = LocalStore::new(store.clone(), FunctionId(1));
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let segments: Vec<Arc<MappedSegment>> = runtime.block_on(source.map(&output.segments))?;
        let mut mapped = Vec::new();
        for partition in 0..PARTITIONS as u32 {
            for segment in &segments {
                mapped.extend(segment.batches(partition).collect::<Result<Vec<_>, _>>()?);
            }
        }
        let schema = self.batches[0].schema();
        let heap = mapped.iter().map(|batch| concat_batches(&schema, [batch, &batch.slice(0, 0)]));
        let heap = heap.collect::<Result<Vec<_>, _>>()?;
        let gigabytes = self.bytes() as f64 / 1e9;
        let mut seconds = [Vec::new(), Vec::new()];
        for _ in 0..options.iterations {
            // In turns, so that a busy moment hits both.
            seconds[0].push(timed(options.cpu_time, || black_box(heap.iter().map(sum).sum::<u64>())));
            seconds[1].push(timed(options.cpu_time, || black_box(mapped.iter().map(sum).sum::<u64>())));
        }
        drop((mapped, segments));
        output.segments.iter().for_each(|segment| store.remove(segment.id()));
        let [heap, mapped] = seconds.map(|seconds| gigabytes / median(&seconds));
        Ok((heap, mapped))
    }
}

/// Reads every value of every column.
fn sum(batch: &RecordBatch) -> u64 {
    use datafusion::arrow::compute::sum;
    (batch.columns().iter())
        .map(|column| match column.data_type() {
            DataType::Int64 => sum(column.as_primitive::<Int64Type>()).unwrap_or_default() as u64,
            DataType::Int32 => sum(column.as_primitive::<Int32Type>()).unwrap_or_default() as u64,
            DataType::Date32 => sum(column.as_primitive::<Date32Type>()).unwrap_or_default() as u64,
            DataType::Float64 => sum(column.as_primitive::<Float64Type>()).unwrap_or_default() as u64,
            DataType::Decimal128(..) => sum(column.as_primitive::<Decimal128Type>()).unwrap_or_default() as u64,
            DataType::Utf8 => column.as_string::<i32>().iter().flatten().map(first_and_length).sum(),
            _ => column.as_string_view().iter().flatten().map(first_and_length).sum(),
        })
        .fold(0, u64::wrapping_add)
}

fn first_and_length(text: &str) -> u64 {
    text.len() as u64 + u64::from(text.as_bytes().first().copied().unwrap_or_default())
}

/// 12 columns of 8 bytes.
fn numbers(random: &mut fastrand::Rng) -> RecordBatch {
    let mut columns: Vec<(String, ArrayRef)> = vec![("key".to_owned(), integers(random))];
    columns.extend((0..6).map(|at| (format!("i{at}"), integers(random))));
    let floats = |random: &mut fastrand::Rng| (0..BATCH_ROWS).map(|_| random.f64()).collect::<Vec<_>>();
    columns.extend((0..5).map(|at| (format!("f{at}"), Arc::new(Float64Array::from(floats(random))) as ArrayRef)));
    RecordBatch::try_from_iter(columns).expect("the columns have the same length")
}

/// Like `lineitem`: keys, decimals, dates and text views, short and long.
fn mixed(random: &mut fastrand::Rng) -> RecordBatch {
    let small = |random: &mut fastrand::Rng| (0..BATCH_ROWS).map(|_| random.i32(0..2_500)).collect::<Vec<_>>();
    let decimals = |random: &mut fastrand::Rng| {
        let values = (0..BATCH_ROWS).map(|_| i128::from(random.u32(..)));
        Decimal128Array::from_iter_values(values).with_precision_and_scale(15, 2).expect("a valid precision")
    };
    let columns: [(&str, ArrayRef); 8] = [
        ("key", integers(random)),
        ("line", Arc::new(Int32Array::from(small(random)))),
        ("price", Arc::new(decimals(random))),
        ("discount", Arc::new(decimals(random))),
        ("shipped", Arc::new(Date32Array::from(small(random)))),
        ("flag", Arc::new(StringViewArray::from_iter_values(texts(random, 1..2)))),
        ("comment", Arc::new(StringViewArray::from_iter_values(texts(random, 10..36)))),
        ("part", integers(random)),
    ];
    RecordBatch::try_from_iter(columns).expect("the columns have the same length")
}

/// A key and two texts with offsets.
fn text(random: &mut fastrand::Rng) -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        ("key", integers(random)),
        ("name", Arc::new(StringArray::from_iter_values(texts(random, 5..25)))),
        ("comment", Arc::new(StringArray::from_iter_values(texts(random, 40..98)))),
    ];
    RecordBatch::try_from_iter(columns).expect("the columns have the same length")
}

fn integers(random: &mut fastrand::Rng) -> ArrayRef {
    Arc::new((0..BATCH_ROWS).map(|_| Some(random.i64(..))).collect::<Int64Array>())
}

fn texts(random: &mut fastrand::Rng, lengths: std::ops::Range<usize>) -> Vec<String> {
    let length = |random: &mut fastrand::Rng| random.usize(lengths.clone());
    (0..BATCH_ROWS).map(|_| (0..length(random)).map(|_| random.lowercase()).collect()).collect()
}

fn data_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().flat_map(|column| column.to_data().buffers().to_vec()).map(|buffer| buffer.len()).sum()
}

/// Seconds of a run on this thread: passed, or of CPU time.
fn timed<T>(cpu_time: bool, run: impl FnOnce() -> T) -> f64 {
    let (start, cpu_start) = (Instant::now(), cpu_seconds());
    black_box(run());
    if cpu_time { cpu_seconds() - cpu_start } else { start.elapsed().as_secs_f64() }
}

/// CPU seconds of this thread, user and kernel.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|field| field.parse::<f64>().ok());
    nanoseconds.unwrap_or_default() / 1e9
}

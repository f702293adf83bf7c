//! What is written is read: order, sizes, limits, errors, nothing left behind.

use std::sync::Arc;

use datafusion::arrow::array::Array;
use datafusion::arrow::compute::concat_batches;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, StreamExt, TryStreamExt};
use onward_wire::exchange::StageInputs;
use onward_wire::message::AttemptOutput;
use onward_wire::{ErrorKind, WireError};

use super::harness::{
    Broken, Exchange, OPTIONS, SmallFiles, attempts, hash_of, numbers, reader, reader_of_feed, values, write_through,
};
use crate::{AttemptWriter, InputFeed, OutputMapping, SegmentSource, WriterOptions};

fn kind_of(error: &DataFusionError) -> Option<i32> {
    match error {
        DataFusionError::External(inner) => inner.downcast_ref::<WireError>().map(|error| error.kind),
        _ => None,
    }
}

#[tokio::test]
async fn preserve_keeps_partitions_and_their_order_over_flushes_and_attempts() {
    let exchange = Exchange::new();
    let options = WriterOptions { flush_bytes: 20_000, batch_rows: 100, ..OPTIONS };
    let lane = |start: i64| (0..30).map(|at| numbers(start + at * 100..start + at * 100 + 100)).collect::<Vec<_>>();
    let mut outputs = Vec::new();
    for start in [0, 1_000_000] {
        let lanes = [lane(start), lane(start + 10_000), vec![], lane(start + 20_000)];
        outputs.push(exchange.write(OutputMapping::Preserve, options, &lanes).await.unwrap());
    }
    assert!(outputs[0].segments.len() > 10);
    let read = exchange.read(&numbers(0..0).schema(), &outputs, 4).await;
    for (partition, batches) in read.iter().enumerate() {
        let expected: Vec<i64> = match partition {
            2 => vec![],
            _ => {
                let start = [0, 10_000, 0, 20_000][partition];
                (start..start + 3_000).chain(1_000_000 + start..1_000_000 + start + 3_000).collect()
            }
        };
        assert_eq!(values(batches), expected, "partition {partition}");
    }
    assert_eq!(outputs.iter().map(AttemptOutput::rows).sum::<u64>(), 18_000);
}

/// A reader that knows the first attempts only gives their rows, waits for the others, and gives the same rows in the same
/// batches as one that knew all.
#[tokio::test]
async fn attempts_that_become_known_later_are_read_after_the_others() {
    let exchange = Exchange::new();
    let schema = numbers(0..0).schema();
    let mut outputs = Vec::new();
    for start in [0, 10_000, 20_000, 30_000] {
        let lanes = [vec![numbers(start..start + 9_000), numbers(start..start + 3)], vec![numbers(start..start + 5)]];
        outputs.push(exchange.write(OutputMapping::Preserve, OPTIONS, &lanes).await.unwrap());
    }
    let expected = exchange.read(&schema, &outputs, 2).await;

    let all = attempts(&outputs);
    let part = |outputs: std::ops::Range<usize>, is_open| StageInputs {
        attempts: all[outputs].to_vec(),
        is_open,
        ..StageInputs::default()
    };
    let feed = InputFeed::new(part(0..1, true));
    let reader = reader_of_feed(exchange.local.clone(), &schema, Arc::clone(&feed), vec![0, 1]);
    let context = Arc::new(TaskContext::default());
    let mut first = reader.execute(0, Arc::clone(&context)).unwrap();
    let mut read = vec![first.next().await.unwrap().unwrap()];
    assert!(first.next().now_or_never().is_none(), "there is more to come");
    let second = tokio::spawn(reader.execute(1, context).unwrap().try_collect::<Vec<_>>());
    feed.add(part(1..3, true));
    feed.add(part(3..4, false));
    // Nothing follows on all.
    feed.add(part(0..1, false));
    read.extend(first.try_collect::<Vec<_>>().await.unwrap());
    assert_eq!([read, second.await.unwrap().unwrap()].as_slice(), expected);
}

#[tokio::test]
async fn single_gives_everything_to_partition_0() {
    let exchange = Exchange::new();
    let lanes = [vec![numbers(0..10)], vec![numbers(10..20)]];
    let output = exchange.write(OutputMapping::Single, OPTIONS, &lanes).await.unwrap();
    let read = exchange.read(&numbers(0..0).schema(), &[output], 3).await;
    assert_eq!(values(&read[0]), (0..20).collect::<Vec<_>>());
    assert!(read[1].is_empty() && read[2].is_empty());
}

#[tokio::test]
async fn small_output_is_one_inline_image_and_0_forces_the_store() {
    let exchange = Exchange::new();
    let lanes = [vec![numbers(0..10)], vec![numbers(10..20)], vec![]];
    let schema = numbers(0..0).schema();
    for (inline_bytes, is_inline) in [(64 << 10, true), (0, false), (500, false)] {
        let options = WriterOptions { inline_bytes, ..OPTIONS };
        let output = exchange.write(hash_of("n", &schema, 4), options, &lanes).await.unwrap();
        assert_eq!((output.inline.is_empty(), output.segments.len()), (!is_inline, usize::from(!is_inline)));
        assert!(output.inline.len() as u64 <= inline_bytes);
        assert_eq!(output.rows(), 20);
        let mut read = values(&exchange.read(&schema, &[output], 4).await.concat());
        read.sort_unstable();
        assert_eq!(read, (0..20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn no_rows_give_an_empty_output() {
    let exchange = Exchange::new();
    for lanes in [vec![], vec![vec![], vec![numbers(0..0)]]] {
        let options = WriterOptions { inline_bytes: 64 << 10, ..OPTIONS };
        let output = exchange.write(OutputMapping::Single, options, &lanes).await.unwrap();
        assert_eq!(output, AttemptOutput::default());
        assert!(exchange.read(&numbers(0..0).schema(), &[output], 1).await[0].is_empty());
    }
    assert_eq!(exchange.store.usage().created_files, 0);
}

#[tokio::test]
async fn files_smaller_than_asked_for_give_more_segments() {
    let exchange = Exchange::new();
    let schema = numbers(0..0).schema();
    let sink = Arc::new(SmallFiles(exchange.local.clone(), 100_000));
    let options = WriterOptions { batch_rows: 500, ..OPTIONS };
    let lanes = [vec![numbers(0..30_000)]];
    let output = write_through(sink, schema.clone(), OutputMapping::Preserve, options, &lanes).await.unwrap();
    assert!(output.segments.len() > 5, "{} segments", output.segments.len());
    output.segments.iter().for_each(|segment| exchange.store.commit(segment).unwrap());
    assert_eq!(values(&exchange.read(&schema, &[output], 1).await[0]), (0..30_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn messages_are_full_and_the_reader_copies_none_of_them() {
    let exchange = Exchange::new();
    let schema = numbers(0..0).schema();
    let lanes = [(0..64).map(|at| numbers(at * 1_000..at * 1_000 + 1_000)).collect::<Vec<_>>()];
    let output = exchange.write(hash_of("n", &schema, 4), OPTIONS, &lanes).await.unwrap();
    let segment = &exchange.local.map(&output.segments).await.unwrap()[0];
    let messages: Vec<_> = (0..4).flat_map(|partition| segment.batches(partition)).map(Result::unwrap).collect();
    let read = exchange.read(&schema, &[output], 4).await.concat();
    assert_eq!(read, messages);
    for (batch, message) in read.iter().zip(&messages) {
        assert!(batch.num_rows() >= 8_192);
        let (left, right) = (batch["n"].to_data(), message["n"].to_data());
        assert_eq!(left.buffers()[0].as_ptr(), right.buffers()[0].as_ptr(), "copied");
    }
}

#[tokio::test]
async fn tiny_batches_are_merged_in_order() {
    let exchange = Exchange::new();
    let schema = numbers(0..0).schema();
    let mut outputs = Vec::new();
    for (start, rows) in [(0, 3), (3, 4), (7, 5_000), (5_007, 1), (5_008, 2)] {
        let lanes = [vec![numbers(start..start + rows)]];
        outputs.push(exchange.write(OutputMapping::Single, OPTIONS, &lanes).await.unwrap());
    }
    let read = exchange.read(&schema, &outputs, 1).await.concat();
    assert_eq!(read.iter().map(|batch| batch.num_rows()).collect::<Vec<_>>(), [7, 5_000, 3]);
    assert_eq!(concat_batches(&schema, &read).unwrap(), numbers(0..5_010));
}

#[tokio::test]
async fn metrics_count_rows_and_bytes() {
    let exchange = Exchange::new();
    let schema = numbers(0..0).schema();
    let output = exchange.write(OutputMapping::Single, OPTIONS, &[vec![numbers(0..5_000)]]).await.unwrap();
    let reader = exchange.reader(&schema, std::slice::from_ref(&output), 1);
    let stream = reader.execute(0, Arc::new(TaskContext::default())).unwrap();
    drop(stream.try_collect::<Vec<_>>().await.unwrap());
    let metrics = reader.metrics().unwrap();
    assert_eq!(metrics.output_rows(), Some(5_000));
    let bytes: usize = metrics
        .iter()
        .filter(|metric| metric.value().name() == "output_bytes")
        .map(|metric| metric.value().as_usize())
        .sum();
    assert_eq!(bytes as u64, output.bytes());
}

#[tokio::test]
async fn errors_keep_their_kind_on_both_sides() {
    let schema = numbers(0..0).schema();
    let exhausted = Arc::new(Broken(WireError::new(ErrorKind::ResourceExhausted, "no room")));
    let lanes = [vec![numbers(0..10)]];
    let error = write_through(exhausted, schema.clone(), OutputMapping::Single, OPTIONS, &lanes).await.unwrap_err();
    assert_eq!(kind_of(&error), Some(ErrorKind::ResourceExhausted as i32), "{error}");

    let exchange = Exchange::new();
    let output = exchange.write(OutputMapping::Single, OPTIONS, &lanes).await.unwrap();
    let lost = Arc::new(Broken(WireError::new(ErrorKind::Unavailable, "the host is gone")));
    let broken = reader(lost, &schema, std::slice::from_ref(&output), 1);
    let stream = broken.execute(0, Arc::new(TaskContext::default())).unwrap();
    let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(kind_of(&error), Some(ErrorKind::Unavailable as i32), "{error}");

    // A segment that was removed meanwhile is lost, not an internal error.
    exchange.store.remove(output.segments[0].id());
    let gone = exchange.reader(&schema, &[output], 1);
    let stream = gone.execute(0, Arc::new(TaskContext::default())).unwrap();
    let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(kind_of(&error), Some(ErrorKind::Unavailable as i32), "{error}");
}

#[tokio::test]
async fn a_dropped_writer_and_a_dropped_reader_leave_nothing_mapped() {
    let exchange = Exchange::new();
    let schema = numbers(0..0).schema();
    let options = WriterOptions { flush_bytes: 10_000, ..OPTIONS };
    let writer = AttemptWriter::new(schema.clone(), hash_of("n", &schema, 4), exchange.local.clone(), options);
    let mut lane = writer.lane(0);
    for at in 0..10 {
        lane.write(numbers(at * 100..at * 100 + 100)).await.unwrap();
    }
    assert!(writer.bytes() > 0 && writer.rows() == 1_000);
    drop((lane, writer));
    assert_eq!(exchange.mapped_files(), 0);

    let lanes = [(0..10).map(|at| numbers(at * 2_000..at * 2_000 + 2_000)).collect::<Vec<_>>()];
    let output = exchange.write(OutputMapping::Single, OPTIONS, &lanes).await.unwrap();
    let reader = exchange.reader(&schema, &[output], 1);
    let mut stream = reader.execute(0, Arc::new(TaskContext::default())).unwrap();
    let first = stream.next().await.unwrap().unwrap();
    drop((stream, reader));
    assert!(exchange.mapped_files() > 0, "the batch keeps its mapping");
    drop(first);
    assert_eq!(exchange.mapped_files(), 0);
}

#[tokio::test]
async fn an_output_that_misses_a_lane_is_an_error() {
    let exchange = Exchange::new();
    let writer = AttemptWriter::new(numbers(0..0).schema(), OutputMapping::Single, exchange.local.clone(), OPTIONS);
    let mut lane = writer.lane(0);
    lane.write(numbers(0..10)).await.unwrap();
    assert!(writer.finish().await.is_err(), "open");
    drop(lane);
    assert!(writer.finish().await.is_err(), "lost");
}

#[tokio::test]
async fn a_batch_of_other_types_is_an_error() {
    let exchange = Exchange::new();
    let schema = numbers(0..0).schema();
    let other = numbers(0..10).project(&[1, 0]).unwrap();
    let lanes = [vec![other]];
    let written = write_through(exchange.local.clone(), schema, OutputMapping::Single, OPTIONS, &lanes).await;
    assert!(written.is_err());
}

#[tokio::test]
async fn one_huge_batch_among_small_ones_keeps_the_order() {
    let exchange = Exchange::new();
    let options = WriterOptions { flush_bytes: 50_000, ..OPTIONS };
    let lanes = [vec![numbers(0..10), numbers(10..50_000), numbers(50_000..50_010)]];
    let output = exchange.write(OutputMapping::Preserve, options, &lanes).await.unwrap();
    assert_eq!(output.segments.len(), 3);
    let read = exchange.read(&numbers(0..0).schema(), &[output], 1).await;
    assert_eq!(values(&read[0]), (0..50_010).collect::<Vec<_>>());
}

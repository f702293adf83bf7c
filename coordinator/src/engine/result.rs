//! Reading a query's result in place, in the coordinator.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use futures::{StreamExt, stream};
use onward_segment::{MappedSegment, SegmentStore};
use onward_wire::message::InputAttempt;
use onward_wire::{ErrorKind, WireError};

use crate::api::{QueryError, ResultStream};

/// Streams the committed attempts of the last stage: by task, then by partition, in write order. Segments are mapped one
/// attempt at a time; batches point into the mapping, and the file is recycled when the last of them is gone.
pub fn read_result(store: Arc<SegmentStore>, result: Vec<InputAttempt>) -> ResultStream {
    let attempts = stream::iter(result).flat_map(move |attempt| match read_attempt(&store, &attempt) {
        Ok(batches) => stream::iter(batches).boxed(),
        Err(error) => stream::iter([Err(QueryError { error, query: None })]).boxed(),
    });
    Box::pin(attempts)
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, QueryError>> + Send>;

fn read_attempt(store: &Arc<SegmentStore>, attempt: &InputAttempt) -> Result<Batches, WireError> {
    let lost = |error: onward_segment::SegmentError| {
        WireError::new(ErrorKind::Unavailable, format!("part of the result was lost: {error}"))
    };
    let mut segments = Vec::new();
    if !attempt.output.inline.is_empty() {
        segments.push(Arc::new(MappedSegment::from_image(attempt.output.inline.clone()).map_err(lost)?));
    }
    for segment in &attempt.output.segments {
        segments.push(store.map(segment.id()).map_err(lost)?);
    }
    let mut partitions: Vec<u32> = attempt.output.partitions.iter().map(|partition| partition.partition).collect();
    partitions.sort_unstable();
    let batches = partitions.into_iter().flat_map(move |partition| {
        let segments = segments.clone();
        segments.into_iter().flat_map(move |segment| segment.batches(partition))
    });
    Ok(Box::new(batches.map(move |batch| batch.map_err(|error| QueryError { error: lost(error), query: None }))))
}

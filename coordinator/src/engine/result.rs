//! Reading a query's result in the coordinator: in place where it lies here, over the network where it does not.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use futures::{FutureExt, StreamExt, stream};
use onward_executor::host::Host;
use onward_segment::MappedSegment;
use onward_shuffle::flight::{GrantKey, now_ms};
use onward_wire::exchange::{FetchSegments, Grant, InputAttempt, PartitionRange, SegmentGroup};
use onward_wire::{AttemptId, ErrorKind, HostId, WireError};

use super::Engine;
use crate::api::{QueryError, ResultStream};

/// Parts that are fetched ahead of the one that is read.
const PARTS_AHEAD: usize = 2;

/// Streams the committed attempts of the last stage: by task, then by partition, in write order. Batches point into mapped
/// segments, whose files are recycled when the last of them is gone.
pub fn read_result(engine: &Engine, result: Vec<InputAttempt>) -> ResultStream {
    let host = Arc::clone(engine.host());
    let parts = result.into_iter().flat_map({
        let fetch_bytes = engine.config.fetch_bytes;
        move |attempt| parts(attempt, fetch_bytes)
    });
    let (key, lifetime_ms) = (engine.key.clone(), engine.config.grant_lifetime_ms);
    let read = move |part: Part| part.read(Arc::clone(&host), key.clone(), lifetime_ms).boxed();
    let parts = stream::iter(parts).map(read).buffered(PARTS_AHEAD);
    let rows = parts.flat_map(|part| match part {
        Ok(batches) => stream::iter(batches).boxed(),
        Err(error) => stream::iter([Err(QueryError { error, query: None })]).boxed(),
    });
    Box::pin(rows)
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, QueryError>> + Send>;

/// Rows that are read at once.
enum Part {
    /// Of an attempt whose output lies here.
    Here(InputAttempt),
    /// Of partitions that another host has.
    There { attempt: InputAttempt, segments: Vec<u64>, partitions: Vec<u32> },
}

/// An attempt's output in parts of about `fetch_bytes`.
fn parts(attempt: InputAttempt, fetch_bytes: u64) -> Vec<Part> {
    let output = &attempt.output;
    if attempt.host() == HostId::EMBEDDED || !output.inline.is_empty() {
        return vec![Part::Here(attempt)];
    }
    let all: Vec<u64> = output.segments.iter().map(|segment| segment.segment).collect();
    let part = |segments: &[u64], partitions: Vec<u32>| Part::There {
        attempt: InputAttempt { output: Default::default(), ..attempt.clone() },
        segments: segments.to_vec(),
        partitions,
    };
    let (mut parts, mut together, mut bytes) = (Vec::new(), Vec::new(), 0);
    for stats in &output.partitions {
        if bytes + stats.bytes > fetch_bytes && !together.is_empty() {
            parts.push(part(&all, std::mem::take(&mut together)));
            bytes = 0;
        }
        if stats.bytes > fetch_bytes {
            parts.extend(all.iter().map(|segment| part(&[*segment], vec![stats.partition])));
        } else {
            together.push(stats.partition);
            bytes += stats.bytes;
        }
    }
    if !together.is_empty() {
        parts.push(part(&all, together));
    }
    parts
}

impl Part {
    async fn read(self, host: Arc<Host>, key: GrantKey, lifetime_ms: u64) -> Result<Batches, WireError> {
        match self {
            Self::Here(attempt) => read_here(&host, &attempt),
            Self::There { attempt, segments, partitions } => {
                let id = AttemptId::from(attempt.attempt);
                // Signed when it is read: a client may take its time.
                let grant = key.sign(&Grant {
                    query: id.query().0,
                    stage: id.task.stage.stage,
                    partitions: PartitionRange::cover(partitions.iter().copied()),
                    expires_ms: now_ms().saturating_add(lifetime_ms),
                    may_write: false,
                });
                let asked = FetchSegments {
                    request: 0,
                    attempt: attempt.attempt,
                    host: attempt.host,
                    grant,
                    groups: vec![SegmentGroup { segments }],
                    partitions: PartitionRange::cover(partitions.iter().copied()),
                    is_shared: false,
                };
                let segment = host.fetch(&asked).await.map_err(|error| lost(&error))?;
                // Its partitions are numbered by their positions.
                let numbers = 0..partitions.len() as u32;
                Ok(batches(vec![segment], numbers.collect()))
            }
        }
    }
}

fn lost(error: &dyn std::fmt::Display) -> WireError {
    WireError::new(ErrorKind::Unavailable, format!("part of the result was lost: {error}"))
}

fn read_here(host: &Host, attempt: &InputAttempt) -> Result<Batches, WireError> {
    let mut segments = Vec::new();
    if !attempt.output.inline.is_empty() {
        let image = MappedSegment::from_image(attempt.output.inline.clone());
        segments.push(Arc::new(image.map_err(|error| lost(&error))?));
    }
    for segment in &attempt.output.segments {
        segments.push(host.store().map(segment.id()).map_err(|error| lost(&error))?);
    }
    let mut partitions: Vec<u32> = attempt.output.partitions.iter().map(|partition| partition.partition).collect();
    partitions.sort_unstable();
    Ok(batches(segments, partitions))
}

fn batches(segments: Vec<Arc<MappedSegment>>, partitions: Vec<u32>) -> Batches {
    let batches = partitions.into_iter().flat_map(move |partition| {
        let segments = segments.clone();
        segments.into_iter().flat_map(move |segment| segment.batches(partition))
    });
    Box::new(batches.map(|batch| batch.map_err(|error| QueryError { error: lost(&error), query: None })))
}

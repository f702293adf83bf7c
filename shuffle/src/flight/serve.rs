//! The side that holds segments.

use std::sync::Arc;

use arrow_flight::FlightData;
use bytes::Bytes;
use futures::Stream;
use onward_segment::{Entry, MappedSegment};
use onward_wire::exchange::{Compression, Grant, PartitionRange, ReadEntry, ReadHeader, ReadTicket, SegmentGroup};
use onward_wire::{ErrorKind, SegmentId, StageId, WireError};
use prost::Message;

use super::compression::compress;
use super::grant::{GrantKey, now_ms};
use super::{CHUNK_BYTES, MAX_PAIRS, MAX_SEGMENTS};

/// A store that knows which stage's output its segments are.
pub trait HeldSegments: Send + Sync {
    /// A committed segment of `stage`.
    ///
    /// # Errors
    /// When it is not one: of another stage, removed, or never there.
    fn map(&self, segment: SegmentId, stage: StageId) -> Result<Arc<MappedSegment>, WireError>;
}

/// Checks `ticket` and answers it: the messages of a Flight stream.
///
/// # Errors
/// Denied, when the grant does not allow it; what [`HeldSegments::map`] says; Internal, for a ticket past the limits.
pub fn serve(
    held: &dyn HeldSegments,
    key: &GrantKey,
    ticket: &ReadTicket,
) -> Result<impl Stream<Item = Result<FlightData, WireError>> + Send + use<>, WireError> {
    let grant = key.verify(&ticket.grant, now_ms())?;
    check(&ticket.partitions, &ticket.groups, &grant)?;
    let (mut header, mut runs) = (ReadHeader::default(), Vec::new());
    for (group, segments) in (0..).zip(&ticket.groups) {
        for segment in segments.segments.iter().copied().map(SegmentId) {
            let mapped = held.map(segment, grant.stage())?;
            if header.schema.is_empty() {
                header.schema = Bytes::copy_from_slice(mapped.schema_message());
            }
            collect(&mapped, group, &ticket.partitions, &mut header.entries, &mut runs);
        }
    }
    Ok(futures::stream::iter(messages(&header, runs, ticket.compression())))
}

/// All of a segment, as the answer to a ticket that asks for all of it.
pub(super) fn whole(
    segment: &Arc<MappedSegment>,
    compression: Compression,
) -> impl Iterator<Item = Result<FlightData, WireError>> + Send + use<> {
    let entry = |entry: Entry| ReadEntry {
        partition: entry.partition,
        group: 0,
        messages: entry.messages,
        length: entry.length,
        rows: entry.rows,
    };
    // In the order of their bytes, which is that of their messages in the stream.
    let mut entries: Vec<Entry> = segment.all_entries().collect();
    entries.sort_by_key(|entry| entry.offset);
    let schema = Bytes::copy_from_slice(segment.schema_message());
    let mut runs: Vec<Run> = Vec::new();
    for entry in &entries {
        extend(&mut runs, 0, segment, entry);
    }
    let header = ReadHeader { schema, entries: entries.into_iter().map(entry).collect() };
    messages(&header, runs, compression)
}

fn messages(
    header: &ReadHeader,
    runs: Vec<Run>,
    compression: Compression,
) -> impl Iterator<Item = Result<FlightData, WireError>> + Send + use<> {
    let mut chunks = runs.into_iter().flat_map(Run::chunks);
    // A small answer is one message.
    let data_body = if compression == Compression::None { chunks.next().unwrap_or_default() } else { Bytes::new() };
    let first = FlightData { app_metadata: header.encode_to_vec().into(), data_body, ..FlightData::default() };
    std::iter::once(Ok(first)).chain(chunks.map(move |chunk| data(chunk, compression)))
}

/// Whether `grant` allows `partitions`, and whether a host answers so much at once.
pub(super) fn check(partitions: &[PartitionRange], groups: &[SegmentGroup], grant: &Grant) -> Result<(), WireError> {
    if grant.may_write {
        return Err(WireError::new(ErrorKind::Denied, "the grant is to write, not to read"));
    }
    if let Some(outside) = partitions.iter().find(|range| !range.is_within(&grant.partitions)) {
        let (stage, PartitionRange { start, end }) = (grant.stage(), outside);
        let message = format!("partitions {start}..{end} of {stage} are not in the grant to read it");
        return Err(WireError::new(ErrorKind::Denied, message));
    }
    let segments: usize = groups.iter().map(|group| group.segments.len()).sum();
    let partitions: u64 = partitions.iter().map(|range| u64::from(range.end.saturating_sub(range.start))).sum();
    let pairs = partitions.saturating_mul(groups.len() as u64);
    if segments > MAX_SEGMENTS || pairs > MAX_PAIRS as u64 {
        let message = format!("{segments} segments and {pairs} pairs of partition and attempt are asked for at once");
        return Err(WireError::new(ErrorKind::Internal, message));
    }
    Ok(())
}

/// Neighbouring bytes of a segment.
struct Run {
    segment: Arc<MappedSegment>,
    start: u64,
    end: u64,
}

impl Run {
    fn chunks(self) -> impl Iterator<Item = Bytes> {
        let Self { segment, start, end } = self;
        let starts = (start..end).step_by(CHUNK_BYTES);
        starts.map(move |from| segment.slice(from..(from + CHUNK_BYTES as u64).min(end)))
    }
}

/// Notes the entries of `partitions`. Those of neighbouring partitions are neighbours in the segment, mostly.
fn collect(
    segment: &Arc<MappedSegment>,
    group: u32,
    partitions: &[PartitionRange],
    entries: &mut Vec<ReadEntry>,
    runs: &mut Vec<Run>,
) {
    let first = runs.len();
    for partition in partitions.iter().flat_map(|range| range.start..range.end) {
        for entry in segment.entries(partition) {
            let messages = entry.messages;
            entries.push(ReadEntry { partition, group, messages, length: entry.length, rows: entry.rows });
            extend(runs, first, segment, &entry);
        }
    }
}

/// Adds the bytes of an entry to the last run from `first` on, or as a new one.
fn extend(runs: &mut Vec<Run>, first: usize, segment: &Arc<MappedSegment>, entry: &Entry) {
    let (start, end) = (entry.offset, entry.offset + entry.length);
    match runs[first..].last_mut().filter(|run| run.end == start) {
        Some(run) => run.end = end,
        None => runs.push(Run { segment: Arc::clone(segment), start, end }),
    }
}

/// A chunk as a Flight message. Compressed ones say how long they were.
fn data(chunk: Bytes, compression: Compression) -> Result<FlightData, WireError> {
    if compression == Compression::None {
        return Ok(FlightData { data_body: chunk, ..FlightData::default() });
    }
    let length = Bytes::copy_from_slice(&(chunk.len() as u64).to_le_bytes());
    Ok(FlightData { data_body: compress(compression, &chunk)?, app_metadata: length, ..FlightData::default() })
}

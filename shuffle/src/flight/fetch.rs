//! The side that reads segments of another host.

use std::sync::Arc;

use arrow_flight::Ticket;
use arrow_flight::flight_service_client::FlightServiceClient;
use futures::{Stream, StreamExt};
use onward_segment::{CopyPlan, SegmentCopy, SegmentError, SegmentStore};
use onward_wire::exchange::{Compression, PartitionRange, ReadHeader, ReadTicket};
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, FunctionId, SegmentId, WireError};
use prost::Message;
use tonic::transport::Channel;

use super::compression::decompress;
use super::status::from_status;

/// Where fetched segments go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The store.
    pub store: Arc<SegmentStore>,
    /// Who writes them there.
    pub writer: FunctionId,
}

/// Reads what `ticket` names from `peer` into one new, committed segment of `to`: partition
/// `position of the partition * groups + group`.
///
/// # Errors
/// Unavailable when the peer or its segments are lost; what the peer says; ResourceExhausted when the store has no room.
pub async fn fetch(
    mut client: FlightServiceClient<Channel>,
    peer: &str,
    ticket: &ReadTicket,
    to: &Destination,
) -> Result<SegmentRef, WireError> {
    let asked = Ticket { ticket: ticket.encode_to_vec().into() };
    let failed = |status: tonic::Status| from_status(peer, &status);
    let messages = client.do_get(asked).await.map_err(failed)?.into_inner();
    receive(messages.map(move |message| message.map_err(|status| from_status(peer, &status))), ticket, to).await
}

/// Puts the messages of an answer into a segment.
pub(crate) async fn receive(
    mut messages: impl Stream<Item = Result<arrow_flight::FlightData, WireError>> + Unpin,
    ticket: &ReadTicket,
    to: &Destination,
) -> Result<SegmentRef, WireError> {
    let cut_off = || WireError::new(ErrorKind::Unavailable, "the answer of the other host was cut off");
    let first = messages.next().await.ok_or_else(cut_off)??;
    let header = ReadHeader::decode(first.app_metadata)
        .map_err(|error| WireError::new(ErrorKind::Internal, format!("the other host's answer: {error}")))?;
    let (positions, groups) = (Positions::new(&ticket.partitions), ticket.groups.len() as u32);
    let plan = CopyPlan::new(&header.schema, &header.entries, |entry| {
        let position = positions.of(entry.partition).filter(|_| entry.group < groups)?;
        position.checked_mul(groups)?.checked_add(entry.group)
    })?;
    drop(header);
    let bytes = plan.segment_bytes();
    let (store, writer) = (Arc::clone(&to.store), to.writer);
    // Fresh files are cleared: too long for a thread that others wait for.
    let create = move || {
        let file = store.create(writer, bytes)?;
        Ok::<_, SegmentError>((file.file, Unfinished { store, writer, id: file.id, is_kept: false }))
    };
    let created = tokio::task::spawn_blocking(create).await;
    let (file, unfinished) = created.map_err(|error| WireError::new(ErrorKind::Internal, error))??;
    let id = unfinished.id;
    // Unmapped before the file is given back.
    let mut copy = SegmentCopy::create(id, file, plan)?;
    let compression = ticket.compression();
    while let Some(message) = messages.next().await {
        let message = message?;
        if compression == Compression::None {
            copy.write(&message.data_body)?;
            continue;
        }
        let length = <[u8; 8]>::try_from(message.app_metadata.as_ref()).map_err(|_| cut_off())?;
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        let place = copy.rest_mut().get_mut(..length).ok_or_else(cut_off)?;
        decompress(compression, &message.data_body, place)?;
        copy.advance(length);
    }
    let written = copy.finish()?;
    let segment = SegmentRef { segment: id.0, length_bytes: written.length_bytes, rows: written.rows };
    to.store.commit(&segment)?;
    unfinished.keep();
    Ok(segment)
}

/// Positions of partitions among those that were asked for.
struct Positions<'a> {
    ranges: &'a [PartitionRange],
    firsts: Vec<u32>,
}

impl<'a> Positions<'a> {
    fn new(ranges: &'a [PartitionRange]) -> Self {
        let firsts = ranges.iter().scan(0_u32, |next, range| {
            let first = *next;
            *next = first.saturating_add(range.end.saturating_sub(range.start));
            Some(first)
        });
        Self { firsts: firsts.collect(), ranges }
    }

    fn of(&self, partition: u32) -> Option<u32> {
        let at = self.ranges.partition_point(|range| range.start <= partition).checked_sub(1)?;
        (partition < self.ranges[at].end).then(|| self.firsts[at] + partition - self.ranges[at].start)
    }
}

/// A file that goes back to the store unless it is kept: the request failed, or nobody waits for it any more.
struct Unfinished {
    store: Arc<SegmentStore>,
    writer: FunctionId,
    id: SegmentId,
    is_kept: bool,
}

impl Unfinished {
    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_kept {
            self.store.discard(self.id);
            self.store.release(self.id, self.writer);
        }
    }
}

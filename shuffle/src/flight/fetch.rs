//! The side that reads segments of another host.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, Ticket};
use futures::{Stream, StreamExt};
use onward_segment::{CopyPlan, MappedSegment, SegmentCopy, SegmentError, SegmentStore};
use onward_wire::exchange::{Compression, PartitionRange, PutTicket, ReadEntry, ReadHeader, ReadTicket, Signed};
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, FunctionId, SegmentId, StageId, WireError};
use prost::Message;
use tonic::transport::Channel;

use super::compression::decompress;
use super::grant::{GrantKey, now_ms};
use super::serve::{HeldSegments, serve, whole};
use super::status::from_status;

/// Files up to this size are made at once.
const SMALL_FILE_BYTES: u64 = 256 << 10;

/// Whoever gives a segment begins within this time.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

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
    let messages = messages.map(move |message| message.map_err(|status| from_status(peer, &status)));
    receive_answer(messages, ticket, to).await
}

/// What `ticket` names of this host's own segments, copied together into one.
///
/// # Errors
/// As [`serve`], and the store's.
pub async fn gather(
    held: &dyn HeldSegments,
    key: &GrantKey,
    ticket: &ReadTicket,
    to: &Destination,
) -> Result<SegmentRef, WireError> {
    receive_answer(serve(held, key, ticket)?, ticket, to).await
}

/// Puts the messages of the answer to `ticket` into a segment.
pub(crate) async fn receive_answer(
    messages: impl Stream<Item = Result<FlightData, WireError>> + Unpin,
    ticket: &ReadTicket,
    to: &Destination,
) -> Result<SegmentRef, WireError> {
    let (positions, groups) = (Positions::new(&ticket.partitions), ticket.groups.len() as u32);
    let renumber = |entry: &ReadEntry| {
        let position = positions.of(entry.partition).filter(|_| entry.group < groups)?;
        position.checked_mul(groups)?.checked_add(entry.group)
    };
    receive(messages, ticket.compression(), renumber, to).await
}

/// Gives a segment to `peer`, which keeps it as output of the stage that the grant names; its name there.
///
/// # Errors
/// As [`fetch`].
pub async fn put(
    mut client: FlightServiceClient<Channel>,
    peer: &str,
    grant: Signed,
    compression: Compression,
    segment: &Arc<MappedSegment>,
) -> Result<SegmentRef, WireError> {
    let ticket = PutTicket { grant, compression: compression as i32 };
    let descriptor = FlightDescriptor::new_cmd(ticket.encode_to_vec());
    let mut messages = whole(segment, compression);
    let first = messages.next().ok_or_else(|| WireError::new(ErrorKind::Internal, "a segment without header"))??;
    let first = FlightData { flight_descriptor: Some(descriptor), ..first };
    let mut failure = None;
    let rest = messages.map_while(|message| message.map_err(|error| failure = Some(error)).ok());
    let messages: Vec<FlightData> = std::iter::once(first).chain(rest).collect();
    if let Some(error) = failure {
        return Err(error);
    }
    let failed = |status: tonic::Status| from_status(peer, &status);
    let answer = client.do_put(futures::stream::iter(messages)).await.map_err(failed)?.into_inner().message().await;
    let answer = answer.map_err(failed)?.ok_or_else(cut_off)?;
    SegmentRef::decode(answer.app_metadata)
        .map_err(|error| WireError::new(ErrorKind::Internal, format!("{peer} named no segment: {error}")))
}

/// Takes a segment that another host gives; which stage's output it is.
///
/// # Errors
/// Denied, when the grant does not allow it; the peer's, and the store's.
pub async fn take(
    mut messages: impl Stream<Item = Result<FlightData, WireError>> + Unpin,
    key: &GrantKey,
    to: &Destination,
) -> Result<(SegmentRef, StageId), WireError> {
    let first = tokio::time::timeout(FIRST_MESSAGE, messages.next()).await.map_err(|_| cut_off())?;
    let first = first.ok_or_else(cut_off)??;
    let denied = |why: &str| WireError::new(ErrorKind::Denied, why);
    let command = first.flight_descriptor.as_ref().map(|descriptor| descriptor.cmd.clone()).unwrap_or_default();
    let ticket = PutTicket::decode(command).map_err(|_| denied("a DoPut without a ticket"))?;
    let grant = key.verify(&ticket.grant, now_ms())?;
    if !grant.may_write {
        return Err(denied("the grant is to read, not to write"));
    }
    let messages = futures::stream::iter([Ok(first)]).chain(messages);
    let segment = receive(messages, ticket.compression(), |entry| Some(entry.partition), to).await?;
    Ok((segment, grant.stage()))
}

fn cut_off() -> WireError {
    WireError::new(ErrorKind::Unavailable, "the answer of the other host was cut off")
}

/// Puts messages into a segment whose partitions `renumber` gives.
async fn receive(
    mut messages: impl Stream<Item = Result<FlightData, WireError>> + Unpin,
    compression: Compression,
    renumber: impl FnMut(&ReadEntry) -> Option<u32>,
    to: &Destination,
) -> Result<SegmentRef, WireError> {
    let first = messages.next().await.ok_or_else(cut_off)??;
    let header = ReadHeader::decode(first.app_metadata.clone())
        .map_err(|error| WireError::new(ErrorKind::Internal, format!("the other host's answer: {error}")))?;
    let plan = CopyPlan::new(&header.schema, &header.entries, renumber)?;
    drop(header);
    let bytes = plan.segment_bytes();
    let (store, writer) = (Arc::clone(&to.store), to.writer);
    let create = move || {
        let file = store.create(writer, bytes)?;
        Ok::<_, SegmentError>((file.file, Unfinished { store, writer, id: file.id, is_kept: false }))
    };
    // Fresh files are cleared: large ones for too long for a thread that others wait for, small ones faster than another
    // thread wakes up.
    let (file, unfinished) = match bytes <= SMALL_FILE_BYTES {
        true => create()?,
        false => {
            let created = tokio::task::spawn_blocking(create).await;
            created.map_err(|error| WireError::new(ErrorKind::Internal, error))??
        }
    };
    let id = unfinished.id;
    // Unmapped before the file is given back.
    let mut copy = SegmentCopy::create(id, file, plan)?;
    copy.write(&first.data_body)?;
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

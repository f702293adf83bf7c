//! Parts of results, for clients: rows from the host that holds them.

use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::sql::Any;
use bytes::Bytes;
use futures::{StreamExt, stream};
use onward_segment::MappedSegment;
use onward_wire::exchange::ResultTicket;
use onward_wire::{ErrorKind, SegmentId, WireError};
use prost::Message;
use tonic::codegen::BoxStream;

use super::grant::{GrantKey, now_ms};
use super::serve::{HeldSegments, check};
use super::{flight_data, to_status};

/// The type of a ticket. It is named so that a Flight SQL server can tell it from its own tickets.
const TYPE_URL: &str = "type.googleapis.com/onward.ResultTicket";

/// `ticket` as clients are given it.
pub fn pack(ticket: &ResultTicket) -> Bytes {
    Any { type_url: TYPE_URL.to_owned(), value: ticket.encode_to_vec().into() }.encode_to_vec().into()
}

/// The ticket that [`pack`] made; `None` when it is another one.
pub fn unpack(ticket: &Bytes) -> Option<ResultTicket> {
    let any = Any::decode(ticket.clone()).ok().filter(|any| any.type_url == TYPE_URL)?;
    ResultTicket::decode(any.value).ok()
}

/// Checks `ticket` and answers it with its rows, by partition, in write order.
///
/// # Errors
/// Denied, when the grant does not allow it; Unavailable, when it has expired or the rows are not here any more.
pub fn serve_result(
    held: &dyn HeldSegments,
    key: &GrantKey,
    ticket: &ResultTicket,
) -> Result<BoxStream<FlightData>, WireError> {
    let grant = key.verify(&ticket.grant, now_ms())?;
    check(&ticket.partitions, std::slice::from_ref(&ticket.segments), &grant)?;
    let map = |segment: &u64| held.map(SegmentId(*segment), grant.stage());
    let segments: Vec<Arc<MappedSegment>> = ticket.segments.segments.iter().map(map).collect::<Result<_, _>>()?;
    let Some(first) = segments.first() else {
        return Err(WireError::new(ErrorKind::Internal, "the ticket names no rows"));
    };
    let schema = first.schema()?;
    let partitions: Vec<u32> = ticket.partitions.iter().flat_map(|range| range.start..range.end).collect();
    let batches = partitions.into_iter().flat_map(move |partition| {
        let segments = segments.clone();
        segments.into_iter().flat_map(move |segment| segment.batches(partition))
    });
    let batches = batches.map(|batch| batch.map_err(|error| to_status(&error.into())));
    Ok(flight_data(&schema, stream::iter(batches)).boxed())
}

//! Results that clients fetch from the hosts that hold them.
//!
//! ```text
//!   GetFlightInfo --> endpoint 0: grpc://host-a, this server   ticket 0, until its expiration_time
//!                     endpoint 1: grpc://host-b, this server   ticket 1
//!   DoGet(ticket 1) at host-b ------> rows from its store
//!   DoGet(ticket 1) at this server -> the same rows, which it fetches from host-b
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow_flight::{FlightData, FlightEndpoint, Location, Ticket};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use onward_coordinator::LocatedResult;
use onward_shuffle::flight::{flight_data, unpack};
use onward_wire::ErrorKind;
use tonic::Status;

use crate::results::{Reading, Running};
use crate::service::Service;
use crate::statement::failure;
use crate::status;

/// Stands for the connection that the endpoint came over.
const THIS_SERVER: &str = "arrow-flight-reuse-connection://?";

/// An endpoint for each part, in the order of the rows.
pub(crate) fn endpoints<'a>(
    running: &'a Running,
    located: &'a LocatedResult,
) -> impl Iterator<Item = FlightEndpoint> + 'a {
    let expires = running.expires();
    (0..located.parts()).filter_map(move |part| {
        let locations = located.address(part).map(location).into_iter().chain([THIS_SERVER.to_owned()]);
        let mut endpoint =
            FlightEndpoint { location: locations.map(|uri| Location { uri }).collect(), ..FlightEndpoint::default() };
        set_ticket(&mut endpoint, running, located, part, expires).then_some(endpoint)
    })
}

/// Gives `endpoint` the ticket of a part that holds until `expires`; false when there is no such part.
fn set_ticket(
    endpoint: &mut FlightEndpoint,
    running: &Running,
    located: &LocatedResult,
    part: usize,
    expires: Instant,
) -> bool {
    let since_epoch = since_epoch(expires);
    let expires_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    let Some(ticket) = located.ticket(part, running.handle.to_string(), expires_ms) else { return false };
    endpoint.ticket = Some(Ticket::new(ticket));
    set_expiration(endpoint, since_epoch);
    true
}

/// A new ticket in the place of one that ends earlier.
pub(crate) fn renew(endpoint: &mut FlightEndpoint, running: &Running, expires: Instant) {
    let part = endpoint.ticket.as_ref().and_then(|ticket| unpack(&ticket.ticket));
    match (part, &running.located) {
        (Some(part), Some(located)) => {
            set_ticket(endpoint, running, located, part.part as usize, expires);
        }
        _ => set_expiration(endpoint, since_epoch(expires)),
    }
}

/// The name of the result that a part's ticket is for.
pub(crate) fn result_of(ticket: &Bytes) -> Option<Bytes> {
    Some(unpack(ticket)?.result.into())
}

fn since_epoch(at: Instant) -> Duration {
    let at = SystemTime::now() + at.saturating_duration_since(Instant::now());
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn set_expiration(endpoint: &mut FlightEndpoint, since_epoch: Duration) {
    // Set by field: prost-types is not a dependency of ours.
    let expiration = endpoint.expiration_time.get_or_insert_default();
    expiration.seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    expiration.nanos = i32::try_from(since_epoch.subsec_nanos()).unwrap_or(0);
}

/// An address of a host as the location of an endpoint: `grpc` alone is no scheme that all clients know.
fn location(address: &str) -> String {
    match address.strip_prefix("grpc://") {
        Some(place) => format!("grpc+tcp://{place}"),
        None => address.to_owned(),
    }
}

impl Service {
    /// The rows of a part, for a client that does not reach its host.
    pub(crate) fn read_part(&self, ticket: &Bytes) -> Result<BoxStream<'static, Result<FlightData, Status>>, Status> {
        let Some(ticket) = unpack(ticket) else {
            return Err(status::new(ErrorKind::InvalidQuery, "the ticket is none of this server's", None));
        };
        let running = self.results.find(ticket.result.as_bytes())?;
        if let Some(why) = running.ended() {
            return Err(why);
        }
        let located: &Arc<LocatedResult> = running.located.as_ref().ok_or_else(|| {
            status::new(ErrorKind::InvalidQuery, "the ticket is of no part of this result", Some(running.query))
        })?;
        let reading = Reading::new(&self.results, &running);
        let rows = located.read(ticket.part as usize).map_err(|error| failure(&error, None));
        let rows = flight_data(&running.schema, rows).map(move |message| {
            let _held = &reading;
            message
        });
        Ok(rows.boxed())
    }
}

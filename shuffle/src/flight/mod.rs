//! Segments between hosts, over Arrow Flight.
//!
//! ```text
//!   host A                                        host B
//!   fetch(ticket) ---- DoGet(ReadTicket) -------> serve: grant checked, segments mapped
//!     file of the announced size <-- ReadHeader --
//!     messages, straight into it <-- bytes -------  as they lie in the mapping
//!     index, checksum, commit
//! ```
//!
//! A host that nobody can reach gives its output away: [`put`] and [`take`] are the same messages the other way round, by DoPut.
//!
//! Clients fetch results from hosts, too ([`serve_result`]): their messages are rows, of types that every client knows.
//!
//! All requests of one host at another share one connection (HTTP/2 streams): connections grow with hosts, not with tasks. A
//! request is finite, and what comes of it goes into the asking host's store, to disk past its budget: a consumer that stops
//! reading stops nobody, and makes no producer hold more than its committed output.

mod client_types;
mod compression;
mod connect;
mod fetch;
mod grant;
mod result;
mod rows;
mod serve;
mod status;
mod tls;

pub use client_types::client_schema;
pub use compression::parse_compression;
pub use connect::{Connector, parse_address};
#[cfg(test)]
pub(crate) use fetch::receive_answer;
pub use fetch::{Destination, fetch, gather, put, take};
pub use grant::{GrantKey, now_ms};
pub use result::{pack, serve_result, unpack};
pub use rows::flight_data;
pub use serve::{HeldSegments, serve};
pub use status::{code_of, from_status, to_status};
pub use tls::{CLUSTER_NAME, ClusterTls};

/// The most bytes of messages in one Flight message.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// The most segments of one ticket.
pub const MAX_SEGMENTS: usize = 16_384;
/// The most pairs of a partition and a group in one ticket: the index of what comes has a place for each.
pub const MAX_PAIRS: usize = 1 << 20;

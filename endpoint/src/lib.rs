//! Onward: Arrow Flight SQL.
//!
//! What it is: the door for clients. `adbc_driver_flightsql`, `pyarrow.flight`, JDBC and our own CLI speak to
//! [`FlightServer`], which speaks to the coordinator. It is the only crate that serves Flight
//! SQL.
//!
//! What it is not: it plans nothing, runs nothing, and holds no rows but the ones on their way out.
//!
//! ```text
//!   client --GetFlightInfo(SQL)--> front (token, session) --> statement --> coordinator: planned and started
//!          <--schema, ticket, query id--
//!          --DoGet(ticket)-------> results --> Flight messages below 4 MiB
//!          --CancelFlightInfo----> results: cancelled, fetched or not
//! ```
//!
//! Guarantees
//! - A statement is planned and started by GetFlightInfo: its errors come there, and its query id is the
//!   `app_metadata`. Definitions, settings and writes are over when GetFlightInfo answers, fetched or not.
//! - PollFlightInfo starts a statement as well and tells how far it is ([`Progress`]) until it is over.
//! - A ticket is random, works once, and is kept `result_retention_ms`. Dropping the stream, CancelFlightInfo,
//!   CancelQuery, a statement timeout ([`TIMEOUT_HEADER`], `SET onward.statement_timeout_ms`) or a gRPC deadline ends the query.
//! - With `SET onward.direct_results = true` GetFlightInfo answers when all rows are there, with an endpoint for each part of them:
//!   the host that holds it, and this server for clients that do not reach that host. Such tickets work as often as one likes
//!   until their `expiration_time`; RenewFlightEndpoint gives a later one.
//! - A session has a user ([`USER_HEADER`], the user of Basic credentials, or the client's address), who shares places and functions
//!   evenly with others. The action [`QUERY_COST`] tells what a query took and cost, as does the second line of the `app_metadata` once it
//!   is over.
//! - `SET` lasts as long as the connection, or as the session cookie of a client that keeps cookies, or as the session named
//!   by [`SESSION_HEADER`].
//! - An address that other machines can reach is refused without token and TLS, unless `insecure` says otherwise.
//! - Errors keep their kind: see [`status`].
//!
//! | module | holds |
//! | --- | --- |
//! | `server`, `connection`, `auth` | listening, drain; connections; who may call |
//! | `front`, `service` | the Flight service, and Flight SQL's part of it |
//! | `session`, `options` | sessions; their settings over Flight |
//! | `statement`, `prepared`, `parameters` | running SQL; prepared statements; values bound to them |
//! | `results`, `direct` | executions that wait or are sent; those whose rows hosts give |
//! | `metadata` | catalogs, tables, types, server info |
//! | `progress` | PollFlightInfo |
//! | `actions` | cancel, renew, session actions |

mod actions;
mod auth;
mod connection;
mod direct;
mod error;
mod front;
mod handle;
mod kept;
mod metadata;
mod options;
mod parameters;
mod prepared;
mod progress;
mod relay;
mod results;
mod server;
mod service;
mod session;
mod statement;
pub mod status;
mod switch;

pub use actions::QUERY_COST;
pub use error::EndpointError;
pub use progress::Progress;
pub use server::{FlightServer, Role, ServerOptions, TlsFiles};
pub use session::{SESSION_COOKIE, SESSION_HEADER, USER_HEADER};
pub use statement::TIMEOUT_HEADER;

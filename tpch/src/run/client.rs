//! The Flight SQL client of the runner: the same way in as any user's.

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use datafusion::arrow::array::RecordBatch;
use futures::TryStreamExt;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};

/// One connection, which is one session of the server. It is not shared: `SET` must not reach other users.
pub struct Client {
    flight: FlightSqlServiceClient<Channel>,
}

/// The result of a statement.
pub struct Rows {
    /// As they arrived.
    pub batches: Vec<RecordBatch>,
    /// The server's id of the query, empty when it gave none.
    pub query_id: String,
}

impl Client {
    /// Connects to `http://HOST:PORT` (or `https://`, with the system's trusted certificates).
    ///
    /// # Errors
    /// [`Error::Server`] when nobody listens there.
    pub async fn connect(url: &str) -> Result<Self> {
        let failed = |error: tonic::transport::Error| Error::Server {
            action: format!("cannot connect to {url}"),
            message: sources(&error),
        };
        let channel = Endpoint::from_shared(url.to_owned()).map_err(failed)?.connect().await.map_err(failed)?;
        Ok(Self::from_channel(channel))
    }

    /// Over a channel that exists, with TLS and whatever else the caller set up.
    pub fn from_channel(channel: Channel) -> Self {
        // Result batches may be larger than the 4 MiB that tonic takes by default.
        let inner = FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        Self { flight: FlightSqlServiceClient::new_from_inner(inner) }
    }

    /// Sends `Authorization: Bearer TOKEN` with every call.
    pub fn set_token(&mut self, token: String) {
        self.flight.set_token(token);
    }

    /// Runs a statement and takes all its rows.
    ///
    /// # Errors
    /// The server's message, as text: a failed query is a line of the report.
    pub async fn query(&mut self, sql: &str) -> Result<Rows, String> {
        let info = self.flight.execute(sql.to_owned(), None).await.map_err(|error| message(&error))?;
        let metadata = String::from_utf8_lossy(&info.app_metadata);
        let query_id = metadata.lines().next().unwrap_or_default().to_owned();
        let mut batches = Vec::new();
        for endpoint in info.endpoint {
            let ticket = endpoint.ticket.ok_or("the server gave an endpoint without a ticket")?;
            let stream = self.flight.do_get(ticket).await.map_err(|error| message(&error))?;
            batches.extend(stream.try_collect::<Vec<_>>().await.map_err(|error| message(&error))?);
        }
        Ok(Rows { batches, query_id })
    }

    /// Runs a statement that gives no rows.
    ///
    /// # Errors
    /// [`Error::Server`] with the server's message.
    pub async fn update(&mut self, sql: &str) -> Result<()> {
        let done = self.flight.execute_update(sql.to_owned(), None).await;
        done.map(drop).map_err(|error| Error::Server { action: sql.to_owned(), message: message(&error) })
    }
}

/// What the server said; of a gRPC status only its message, which is the engine's own.
fn message(error: &arrow_flight::error::FlightError) -> String {
    match error {
        arrow_flight::error::FlightError::Tonic(status) if !status.message().is_empty() => status.message().to_owned(),
        error => error.to_string(),
    }
}

/// tonic hides why ("transport error") in the chain of sources.
fn sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

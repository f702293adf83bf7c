//! Running statements: from a call to rows that wait for their client, or to a number of affected rows.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Schema, UInt64Type};
use futures::{FutureExt, StreamExt, TryStreamExt};
use onward_coordinator::{Execution, QueryError, ResultStream, Session};
use onward_shuffle::flight::client_schema;
use onward_wire::{ErrorKind, WireError};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::direct;
use crate::results::{Running, Timeout};
use crate::service::Service;
use crate::session::ClientSession;
use crate::status;

/// The longest that a poll which starts a write waits for its end: small ones need no second poll.
const WRITE_WAIT: Duration = Duration::from_millis(100);

/// Header that limits a statement, in milliseconds from the call on. It can only shorten the session's timeout.
pub const TIMEOUT_HEADER: &str = "x-onward-timeout-ms";

impl Service {
    /// Starts a statement, which ends at `timeout`, and keeps its rows for the client. One without rows, or that writes, is
    /// over when this returns: clients need not fetch what it answers, and their next statement must see what it did. Only a
    /// write whose client polls goes on meanwhile.
    pub(crate) async fn start(
        &self,
        client: Arc<ClientSession>,
        timeout: Option<Timeout>,
        is_polled: bool,
        execution: impl Future<Output = Result<Execution, QueryError>> + Send,
    ) -> Result<Arc<Running>, Status> {
        self.refuse_while_draining()?;
        let start = async {
            let mut execution = execution.await?;
            let mut written = None;
            if !execution.is_query && is_polled {
                let over = CancellationToken::new();
                execution.stream = driven(execution.stream, over.clone());
                // A client that leaves meanwhile has no ticket to cancel with: the write ends with this call. Afterwards it is
                // no error that the write goes on.
                let _ = tokio::time::timeout(WRITE_WAIT, over.cancelled()).await;
                written = Some(over);
            } else if !execution.is_query {
                let rows: Vec<RecordBatch> = execution.stream.try_collect().await?;
                execution.stream = futures::stream::iter(rows.into_iter().map(Ok)).boxed();
            }
            Ok((execution, written))
        };
        let (execution, written) = start.await.map_err(|error| failure(&error, timeout))?;
        if !execution.is_query {
            self.sessions.keep(&client).await?;
        }
        self.results.keep(execution, client, timeout, written)
    }

    /// Runs a statement, which ends at `timeout`, to its end: rows it wrote, 0 for definitions and settings, -1 for a
    /// query, whose rows are thrown away.
    pub(crate) async fn run_update(
        &self,
        client: &ClientSession,
        timeout: Option<Timeout>,
        execution: impl Future<Output = Result<Execution, QueryError>> + Send,
    ) -> Result<i64, Status> {
        self.refuse_while_draining()?;
        let run = async {
            let mut execution = execution.await?;
            let counts = !execution.is_query && is_count(&execution.schema);
            let mut affected: u64 = 0;
            while let Some(rows) = execution.stream.next().await {
                let rows = rows?;
                if counts {
                    affected += rows.column(0).as_primitive::<UInt64Type>().iter().flatten().sum::<u64>();
                }
            }
            Ok(if execution.is_query { -1 } else { i64::try_from(affected).unwrap_or(i64::MAX) })
        };
        let affected = run.await.map_err(|error| failure(&error, timeout))?;
        self.sessions.keep(client).await?;
        Ok(affected)
    }

    /// Answers a GetFlightInfo: one ticket, or one for each part that a host holds, and the query id as application metadata, with what
    /// the query took and cost on a second line, in JSON, once functions are done with it.
    pub(crate) fn flight_info(&self, running: &Running, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        let info = describe(&client_schema(&running.schema), descriptor)?
            .with_ordered(true)
            .with_app_metadata(self.app_metadata(running));
        if let Some(located) = &running.located {
            return Ok(direct::endpoints(running, located).fold(info, FlightInfo::with_endpoint));
        }
        let ticket = TicketStatementQuery { statement_handle: running.handle.to_string().into() };
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()));
        Ok(info.with_endpoint(endpoint))
    }

    fn app_metadata(&self, running: &Running) -> String {
        let query = running.query.to_string();
        let cost = self.results.cost(running.query).filter(|cost| cost.is_final);
        match cost.and_then(|cost| serde_json::to_string(&cost).ok()) {
            Some(cost) => format!("{query}\n{cost}"),
            None => query,
        }
    }

    /// New work is refused once the server was told to end.
    fn refuse_while_draining(&self) -> Result<(), Status> {
        if self.draining.is_cancelled() {
            return Err(status::new(ErrorKind::Unavailable, "the server is shutting down: connect to it again", None));
        }
        Ok(())
    }
}

/// A FlightInfo of `schema` without endpoints, sizes unknown.
pub(crate) fn describe(schema: &Schema, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    let info = FlightInfo::new().try_with_schema(schema);
    let info = info.map_err(|error| Status::internal(format!("the schema cannot be encoded: {error}")))?;
    Ok(info.with_descriptor(descriptor))
}

/// When a statement ends at the latest: what the call asks for by [`TIMEOUT_HEADER`], else the session's
/// `onward.statement_timeout_ms`.
pub(crate) fn timeout_of(metadata: &MetadataMap, session: &Session) -> Result<Option<Timeout>, Status> {
    let timeout_ms = match asked_timeout_ms(metadata)?.filter(|timeout_ms| *timeout_ms > 0) {
        Some(asked) => Some(session.timeout_ms().map_or(asked, |limit| limit.min(asked))),
        None => session.timeout_ms(),
    };
    Ok(timeout_ms.map(Timeout::starting_now))
}

fn asked_timeout_ms(metadata: &MetadataMap) -> Result<Option<u64>, Status> {
    let Some(header) = metadata.get(TIMEOUT_HEADER) else { return Ok(None) };
    let timeout_ms = header.to_str().ok().and_then(|text| text.trim().parse::<u32>().ok());
    match timeout_ms {
        Some(timeout_ms) => Ok(Some(timeout_ms.into())),
        None => Err(Status::invalid_argument(format!("{TIMEOUT_HEADER} must be a number of milliseconds"))),
    }
}

/// The gRPC deadline of a call. tonic applies it to answers of one message; a stream has to watch it itself.
pub(crate) fn deadline_of(metadata: &MetadataMap) -> Option<Timeout> {
    let header = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    let timeout_ms = match unit {
        "H" => count.checked_mul(3_600_000)?,
        "M" => count.checked_mul(60_000)?,
        "S" => count.checked_mul(1_000)?,
        "m" => count,
        "u" => count / 1_000,
        "n" => count / 1_000_000,
        _ => return None,
    };
    // A deadline of years is none.
    (timeout_ms < u64::from(u32::MAX)).then(|| Timeout::starting_now(timeout_ms))
}

/// The moment of a timeout, for the coordinator.
pub(crate) fn deadline(timeout: Option<Timeout>) -> Option<Instant> {
    timeout.map(|timeout| timeout.deadline)
}

impl Timeout {
    fn starting_now(timeout_ms: u64) -> Self {
        Self { deadline: Instant::now() + Duration::from_millis(timeout_ms), timeout_ms }
    }
}

/// The status of a failed statement. It is the coordinator that ends it at its deadline: only it knows whether the
/// statement can still be ended.
pub(crate) fn failure(error: &QueryError, timeout: Option<Timeout>) -> Status {
    match timeout {
        Some(timeout) if error.error.kind() == ErrorKind::Cancelled && timeout.deadline <= Instant::now() => {
            status::timed_out(error.query, timeout.timeout_ms)
        }
        _ => status::from_query_error(error),
    }
}

/// `rows` made by a task of their own, whoever fetches them, and `over` cancelled when they are there. Dropping the stream
/// ends the task.
fn driven(rows: ResultStream, over: CancellationToken) -> ResultStream {
    let over = over.drop_guard();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let rows = rows.try_collect::<Vec<_>>().await;
        drop(over);
        rows
    }));
    let rows = task.map(|ended| match ended {
        Ok(Ok(rows)) => futures::stream::iter(rows.into_iter().map(Ok)).boxed(),
        Ok(Err(error)) => futures::stream::iter([Err(error)]).boxed(),
        Err(error) => futures::stream::iter([Err(WireError::new(ErrorKind::Internal, error).into())]).boxed(),
    });
    rows.into_stream().flatten().boxed()
}

/// Writes answer with one number.
fn is_count(schema: &Schema) -> bool {
    matches!(schema.fields().as_ref(), [field] if field.data_type() == &DataType::UInt64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc_deadline(text: &'static str) -> Option<u64> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", tonic::metadata::MetadataValue::from_static(text));
        deadline_of(&metadata).map(|timeout| timeout.timeout_ms)
    }

    #[test]
    fn grpc_deadlines_are_read_in_every_unit() {
        assert_eq!(grpc_deadline("2S"), Some(2_000));
        assert_eq!(grpc_deadline("1500m"), Some(1_500));
        assert_eq!(grpc_deadline("250000u"), Some(250));
        assert_eq!(grpc_deadline("1H"), Some(3_600_000));
        assert_eq!(grpc_deadline("99999999H"), None);
        assert_eq!(grpc_deadline("x"), None);
        assert_eq!(grpc_deadline(""), None);
    }

    #[test]
    fn a_timeout_that_is_no_number_is_the_callers_error() {
        let mut metadata = MetadataMap::new();
        assert!(asked_timeout_ms(&metadata).is_ok_and(|timeout| timeout.is_none()));
        metadata.insert(TIMEOUT_HEADER, tonic::metadata::MetadataValue::from_static("soon"));
        assert!(asked_timeout_ms(&metadata).is_err());
    }
}

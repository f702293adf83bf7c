//! Flight SQL: each call handed to the file of its subject.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{DoPutError, FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::*;
use arrow_flight::{Action, ActionType, FlightDescriptor, FlightInfo, PutResult, Result as FlightResult, Ticket};
use futures::StreamExt;
use futures::stream::BoxStream;
use onward_shuffle::flight::flight_data;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::handle::Handle;
use crate::metadata::Metadata;
use crate::prepared::{PreparedStatements, Statement};
use crate::progress::is_polled;
use crate::results::{Results, Running, Timeout};
use crate::session::{ClientSession, Sessions};
use crate::statement::{deadline, deadline_of, timeout_of};
use crate::{actions, parameters};

/// The state behind all calls.
pub(crate) struct Service {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) results: Arc<Results>,
    pub(crate) prepared: PreparedStatements,
    pub(crate) metadata: Metadata,
    /// Cancelled when the server was told to end.
    pub(crate) draining: CancellationToken,
}

type DoGet = Response<<Service as FlightService>::DoGetStream>;

/// The session that the front found for a call.
pub(crate) fn client_of<T>(request: &Request<T>) -> Result<Arc<ClientSession>, Status> {
    let client = request.extensions().get::<Arc<ClientSession>>().cloned();
    client.ok_or_else(|| Status::internal("the call has no session"))
}

impl Service {
    /// Rows of an execution, up to the gRPC deadline of the DoGet.
    fn send(&self, running: Arc<Running>, timeout: Option<Timeout>) -> Result<DoGet, Status> {
        if let Some(timeout) = timeout {
            self.results.watch(&running, timeout);
        }
        let schema = running.schema.clone();
        let rows = self.results.fetch(running)?;
        Ok(Response::new(flight_data(&schema, rows)))
    }

    /// A prepared statement, of this coordinator or of the one before it.
    pub(crate) async fn statement(&self, handle: &[u8]) -> Result<Arc<Statement>, Status> {
        let missing = match self.prepared.get(handle) {
            Ok(statement) => return Ok(statement),
            Err(missing) => missing,
        };
        let Some(handle) = Handle::parse(handle) else { return Err(missing) };
        let Some((client, text)) = self.sessions.statement_found(handle)? else { return Err(missing) };
        client.restored().await;
        let statement = self.prepared.restore(handle, &client, &text).await?;
        self.sessions.statement_restored(handle);
        Ok(statement)
    }

    /// Starts a prepared statement with the values bound to it.
    async fn start_prepared<T>(&self, handle: &[u8], request: &Request<T>) -> Result<Arc<Running>, Status> {
        let statement = self.statement(handle).await?;
        let (client, values) = (statement.session()?, statement.values()?);
        let timeout = timeout_of(request.metadata(), &client.session)?;
        let execution = statement.execute(client.clone(), values, deadline(timeout));
        self.start(client, timeout, is_polled(request), execution).await
    }
}

#[tonic::async_trait]
impl FlightSqlService for Service {
    type FlightService = Self;

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        refuse_transaction(query.transaction_id.as_ref())?;
        let client = client_of(&request)?;
        let timeout = timeout_of(request.metadata(), &client.session)?;
        let execution = client.session.execute_until(&query.query, deadline(timeout));
        let running = self.start(client.clone(), timeout, is_polled(&request), execution).await?;
        Ok(Response::new(self.flight_info(&running, request.into_inner())?))
    }

    async fn do_get_fallback(&self, request: Request<Ticket>, _message: Any) -> Result<DoGet, Status> {
        Ok(Response::new(self.read_part(&request.into_inner().ticket)?))
    }

    async fn do_get_statement(&self, ticket: TicketStatementQuery, request: Request<Ticket>) -> Result<DoGet, Status> {
        let running = self.results.find(&ticket.statement_handle)?;
        self.send(running, deadline_of(request.metadata()))
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let running = self.start_prepared(&query.prepared_statement_handle, &request).await?;
        Ok(Response::new(self.flight_info(&running, request.into_inner())?))
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let running = self.start_prepared(&query.prepared_statement_handle, &request).await?;
        self.send(running, deadline_of(request.metadata()))
    }

    async fn do_put_statement_update(
        &self,
        update: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        refuse_transaction(update.transaction_id.as_ref())?;
        let client = client_of(&request)?;
        let timeout = timeout_of(request.metadata(), &client.session)?;
        self.run_update(&client, timeout, client.session.execute_until(&update.query, deadline(timeout))).await
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let statement = self.statement(&query.prepared_statement_handle).await?;
        statement.bind(parameters::read(request.into_inner()).await?)?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(query.prepared_statement_handle) })
    }

    async fn do_put_prepared_statement_update(
        &self,
        update: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let metadata = request.metadata().clone();
        let statement = self.statement(&update.prepared_statement_handle).await?;
        statement.bind(parameters::read(request.into_inner()).await?)?;
        let (client, values) = (statement.session()?, statement.values()?);
        let timeout = timeout_of(&metadata, &client.session)?;
        self.run_update(&client, timeout, statement.execute(client.clone(), values, deadline(timeout))).await
    }

    /// A later version takes rows from clients.
    async fn do_put_statement_ingest(
        &self,
        _ingest: CommandStatementIngest,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let advice = "write the rows to a file that the server can read, or insert them with a prepared INSERT";
        Err(Status::unimplemented(format!("bulk ingest is not supported yet: {advice}")))
    }

    async fn do_put_error_callback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        error: DoPutError,
    ) -> Result<Response<BoxStream<'static, Result<PutResult, Status>>>, Status> {
        Err(Status::invalid_argument(error.to_string()))
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        refuse_transaction(query.transaction_id.as_ref())?;
        let client = client_of(&request)?;
        let statement = self.prepared.create(&client, &query.query).await?;
        self.sessions.keep_statement(&client, statement.handle(), &query.query).await?;
        statement.describe()
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        let handle = &query.prepared_statement_handle;
        // One of the coordinator before this one is found, or it is gone.
        if self.statement(handle).await.is_ok()
            && let Some(statement) = self.prepared.close(handle)
            && let Ok(client) = statement.session()
        {
            self.sessions.forget_statement(&client, statement.handle());
        }
        Ok(())
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_transaction(
        &self,
        _query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info = FlightInfo::decode(query.info)
            .map_err(|error| Status::invalid_argument(format!("the FlightInfo to cancel is malformed: {error}")))?;
        // CancelStatus and CancelResult number the same outcomes.
        Ok(ActionCancelQueryResult { result: self.cancel(&info) as i32 })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let body = self.act(request).await?;
        Ok(Response::new(futures::stream::iter([Ok(FlightResult::new(body))]).boxed()))
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        Some(actions::action_types().into_iter().map(Ok).collect())
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}

fn no_transactions() -> Status {
    Status::unimplemented("Onward has no transactions: each statement is its own (autocommit)")
}

fn refuse_transaction(transaction: Option<&bytes::Bytes>) -> Result<(), Status> {
    match transaction {
        Some(id) if !id.is_empty() => Err(no_transactions()),
        _ => Ok(()),
    }
}

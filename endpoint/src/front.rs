//! The outermost service: checks who calls, finds the session, and answers what arrow-flight's Flight SQL service leaves
//! unimplemented (GetSchema, PollFlightInfo), and questions about the catalog. Everything else is [`Service`]'s.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, Result as FlightResult, SchemaAsIpc, SchemaResult, Ticket,
};
use bytes::Bytes;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use futures::StreamExt;
use futures::stream::BoxStream;
use onward_shuffle::flight::client_schema;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use crate::auth::Auth;
use crate::metadata::Metadata;
use crate::progress::Polled;
use crate::service::{Service, client_of};
use crate::session::ClientSession;
use crate::status;

/// See the module.
#[derive(Clone)]
pub(crate) struct Front {
    service: Arc<Service>,
    auth: Arc<Auth>,
}

/// Cookie of a session that began with this call.
struct NewCookie(Option<String>);

impl Front {
    pub(crate) fn new(service: Arc<Service>, auth: Arc<Auth>) -> Self {
        Self { service, auth }
    }

    /// Checks the caller and gives the call its session.
    async fn admit<T>(&self, request: &mut Request<T>) -> Result<NewCookie, Status> {
        self.auth.check(request.metadata())?;
        let resolved = self.service.sessions.resolve(request.metadata(), request.extensions())?;
        resolved.client.restored().await;
        request.extensions_mut().insert(resolved.client);
        Ok(NewCookie(resolved.set_cookie))
    }

    /// Answers about the catalog and the server come from here, of statements from the service.
    async fn flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let command = command_of(&request.get_ref().cmd)?;
        match self.service.metadata.schema(&command) {
            Some(schema) => Metadata::flight_info(&schema, request.into_inner()).map(Response::new),
            None => FlightService::get_flight_info(&*self.service, request).await,
        }
    }

    /// Schema of what a command would answer, without running it.
    async fn schema_of(&self, client: &ClientSession, descriptor: &FlightDescriptor) -> Result<Arc<Schema>, Status> {
        let command = command_of(&descriptor.cmd)?;
        if let Some(schema) = self.service.metadata.schema(&command) {
            return Ok(schema);
        }
        match command {
            Command::CommandStatementQuery(query) => {
                let prepared = client.session.prepare(&query.query).await;
                Ok(client_schema(&prepared.map_err(|error| status::from_query_error(&error))?.schema))
            }
            Command::CommandPreparedStatementQuery(query) => {
                let statement = self.service.statement(&query.prepared_statement_handle).await?;
                Ok(client_schema(statement.schema()))
            }
            other => Err(Status::unimplemented(format!("GetSchema of {} is not supported", other.type_url()))),
        }
    }
}

/// The Flight SQL command in a descriptor or ticket.
fn command_of(bytes: &Bytes) -> Result<Command, Status> {
    let malformed = |error: &dyn std::fmt::Display| Status::invalid_argument(format!("malformed command: {error}"));
    let any = Any::decode(bytes.clone()).map_err(|error| malformed(&error))?;
    Command::try_from(any).map_err(|error| malformed(&error))
}

impl NewCookie {
    fn on<T>(self, mut response: Response<T>) -> Response<T> {
        if let Some(Ok(cookie)) = self.0.map(MetadataValue::try_from) {
            response.metadata_mut().insert("set-cookie", cookie);
        }
        response
    }
}

/// The handshake's answer: the header to send from now on, and the token as message for clients that read that.
fn welcome(token: &str) -> Response<BoxStream<'static, Result<HandshakeResponse, Status>>> {
    let answer = HandshakeResponse { protocol_version: 0, payload: token.to_owned().into() };
    let mut response = Response::new(futures::stream::iter([Ok(answer)]).boxed());
    if let Ok(header) = MetadataValue::try_from(format!("Bearer {token}")) {
        response.metadata_mut().insert("authorization", header);
    }
    response
}

fn has_credentials(metadata: &MetadataMap) -> bool {
    metadata.contains_key("authorization")
}

#[tonic::async_trait]
impl FlightService for Front {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<FlightResult, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        if has_credentials(request.metadata()) {
            self.auth.check(request.metadata())?;
        } else {
            let first = request.into_inner().message().await?.unwrap_or_default();
            self.auth.check_handshake(&first.payload)?;
        }
        Ok(welcome(self.auth.token()))
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(Status::unimplemented("there are no flights to list: ask for a statement or for tables (Flight SQL)"))
    }

    async fn get_flight_info(&self, mut request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let cookie = self.admit(&mut request).await?;
        Ok(cookie.on(self.flight_info(request).await?))
    }

    async fn poll_flight_info(&self, mut request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let cookie = self.admit(&mut request).await?;
        let poll = match command_of(&request.get_ref().cmd)? {
            Command::TicketStatementQuery(ticket) => self.service.poll(&ticket, request.into_inner()).await?,
            _ => {
                request.extensions_mut().insert(Polled);
                let info = self.flight_info(request).await?.into_inner();
                self.service.poll_started(info)
            }
        };
        Ok(cookie.on(Response::new(poll)))
    }

    async fn get_schema(&self, mut request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let cookie = self.admit(&mut request).await?;
        let schema = self.schema_of(&*client_of(&request)?, request.get_ref()).await?;
        let encoded = SchemaAsIpc::new(&schema, &IpcWriteOptions::default()).try_into();
        let encoded = encoded.map_err(|error| Status::internal(format!("the schema cannot be encoded: {error}")))?;
        Ok(cookie.on(Response::new(encoded)))
    }

    async fn do_get(&self, mut request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let cookie = self.admit(&mut request).await?;
        let command = command_of(&request.get_ref().ticket)?;
        if self.service.metadata.schema(&command).is_none() {
            return Ok(cookie.on(FlightService::do_get(&*self.service, request).await?));
        }
        let client = client_of(&request)?;
        let rows = self.service.metadata.get(command, client.session.context()).await?;
        Ok(cookie.on(Response::new(rows)))
    }

    async fn do_put(&self, mut request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let cookie = self.admit(&mut request).await?;
        Ok(cookie.on(FlightService::do_put(&*self.service, request).await?))
    }

    async fn do_action(&self, mut request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let cookie = self.admit(&mut request).await?;
        let is_close = request.get_ref().r#type == crate::actions::CLOSE_SESSION;
        let response = FlightService::do_action(&*self.service, request).await?;
        let cookie = if is_close { NewCookie(Some(ClientSession::expired_cookie())) } else { cookie };
        Ok(cookie.on(response))
    }

    async fn list_actions(&self, mut request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let cookie = self.admit(&mut request).await?;
        Ok(cookie.on(FlightService::list_actions(&*self.service, request).await?))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        let message =
            "DoExchange: this is the port of --listen, where SQL is spoken; hosts join at that of --cluster-listen";
        Err(Status::unimplemented(message))
    }
}

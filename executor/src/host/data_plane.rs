//! What a host serves over Arrow Flight: its segments to other hosts, parts of results to clients.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, Result as FlightResult, SchemaResult, Ticket,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use onward_shuffle::flight::{
    ClusterTls, GrantKey, HeldSegments, from_status, serve, serve_result, take, to_status, unpack,
};
use onward_wire::exchange::ReadTicket;
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, WireError};
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::held::Held;
use super::neighbours::Neighbours;

/// What a peer may have sent before we read on, per call and per connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes of one HTTP/2 frame: larger ones are fewer system calls.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Requests of one peer at once.
const MAX_CALLS_PER_CONNECTION: u32 = 1_000;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one host's segments. Cheap to clone.
#[derive(Clone)]
pub struct DataPlane {
    held: Arc<Held>,
    neighbours: Arc<Neighbours>,
    served_bytes: Arc<AtomicU64>,
    max_message_bytes: usize,
}

/// What a coordinator does with the streams that hosts open to it.
pub trait Exchange: Send + Sync + 'static {
    /// A host opened a stream. `is_known` = it showed a certificate of the cluster, or no certificates are used.
    fn exchange(
        &self,
        messages: Streaming<FlightData>,
        is_known: bool,
    ) -> Pin<Box<dyn Future<Output = Result<MemberStream, WireError>> + Send + '_>>;
}

/// What is sent to a host that joined.
pub type MemberStream = BoxStream<'static, Result<FlightData, Status>>;

impl DataPlane {
    pub(super) fn new(held: Arc<Held>, neighbours: Arc<Neighbours>, max_message_bytes: u64) -> Self {
        let max_message_bytes = usize::try_from(max_message_bytes).unwrap_or(usize::MAX);
        Self { held, neighbours, served_bytes: Arc::default(), max_message_bytes }
    }

    /// Bytes that others read.
    pub fn served_bytes(&self) -> u64 {
        self.served_bytes.load(Ordering::Relaxed)
    }

    /// Serves on `listener` until `shutdown` resolves. `exchange` takes the streams that hosts open; a host has none.
    ///
    /// # Errors
    /// When the certificates are none, or the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<&ClusterTls>,
        exchange: Option<Arc<dyn Exchange>>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), tonic::transport::Error> {
        let max_message_bytes = self.max_message_bytes;
        let service = Service { data: Some(self), exchange, has_tls: tls.is_some() };
        listen(listener, tls, service, max_message_bytes, shutdown).await
    }

    async fn take(&self, messages: Streaming<FlightData>) -> Result<SegmentRef, WireError> {
        let messages = messages.map(|message| message.map_err(|status| from_status("the other host", &status)));
        let (segment, stage) = take(messages, &self.neighbours.key(), &self.neighbours.destination()).await?;
        self.held.note(segment.id(), stage);
        Ok(segment)
    }

    fn read(&self, ticket: Ticket) -> Result<BoxStream<'static, Result<FlightData, Status>>, WireError> {
        let (held, key) = (self.held.as_ref() as &dyn HeldSegments, self.neighbours.key());
        let messages = match unpack(&ticket.ticket) {
            Some(ticket) => serve_result(held, &key, &ticket)?,
            None => Self::read_segments(held, &key, ticket)?,
        };
        let served = Arc::clone(&self.served_bytes);
        let counted = messages.inspect(move |message| {
            if let Ok(message) = message {
                served.fetch_add(message.data_body.len() as u64, Ordering::Relaxed);
            }
        });
        Ok(counted.boxed())
    }

    fn read_segments(
        held: &dyn HeldSegments,
        key: &GrantKey,
        ticket: Ticket,
    ) -> Result<BoxStream<'static, Result<FlightData, Status>>, WireError> {
        let ticket = ReadTicket::decode(ticket.ticket)
            .map_err(|error| WireError::new(ErrorKind::Denied, format!("the ticket is none: {error}")))?;
        let messages = serve(held, key, &ticket)?;
        Ok(messages.map(|message| message.map_err(|error| to_status(&error))).boxed())
    }
}

/// Serves the streams that hosts open, and no segments, on `listener` until `shutdown` resolves. A message has at most
/// `max_message_bytes`.
///
/// # Errors
/// When the certificates are none, or the listener fails.
pub async fn serve_exchange(
    listener: TcpListener,
    tls: Option<&ClusterTls>,
    exchange: Arc<dyn Exchange>,
    max_message_bytes: u64,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let service = Service { data: None, exchange: Some(exchange), has_tls: tls.is_some() };
    let max_message_bytes = usize::try_from(max_message_bytes).unwrap_or(usize::MAX);
    listen(listener, tls, service, max_message_bytes, shutdown).await
}

async fn listen(
    listener: TcpListener,
    tls: Option<&ClusterTls>,
    service: Service,
    max_message_bytes: usize,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    if let Some(tls) = tls {
        server = server.tls_config(tls.server())?;
    }
    // tonic holds a message before anybody sees who sent it.
    let flight = FlightServiceServer::new(service)
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(usize::MAX);
    // Small messages both ways: Nagle's algorithm with delayed acknowledgements costs 40 ms.
    let incoming = TcpListenerStream::new(listener).inspect(|stream| {
        if let Ok(stream) = stream {
            let _ = stream.set_nodelay(true);
        }
    });
    server.serve_with_incoming_shutdown(flight, incoming, shutdown).await
}

struct Service {
    /// A coordinator that does not lead holds nothing.
    data: Option<DataPlane>,
    exchange: Option<Arc<dyn Exchange>>,
    has_tls: bool,
}

impl Service {
    fn data(&self) -> Result<&DataPlane, Status> {
        let nothing =
            || to_status(&WireError::new(ErrorKind::Unavailable, "this coordinator does not lead, and holds nothing"));
        self.data.as_ref().ok_or_else(nothing)
    }

    /// The caller showed a certificate of the cluster, or there are none.
    fn is_known<T>(&self, request: &Request<T>) -> bool {
        !self.has_tls || request.peer_certs().is_some_and(|certificates| !certificates.is_empty())
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn unsupported<T>(call: &str) -> Answer<T> {
    let message = format!("{call}: this is the data plane of a host; SQL is spoken by the coordinator's endpoint");
    Err(Status::unimplemented(message))
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<FlightResult, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = MemberStream;

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        self.data()?.read(request.into_inner()).map(Response::new).map_err(|error| to_status(&error))
    }

    async fn do_exchange(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        let Some(exchange) = &self.exchange else { return unsupported("DoExchange") };
        let is_known = self.is_known(&request);
        let answer = exchange.exchange(request.into_inner(), is_known).await;
        answer.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        unsupported("Handshake")
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        unsupported("ListFlights")
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        unsupported("GetFlightInfo")
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        unsupported("PollFlightInfo")
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        unsupported("GetSchema")
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        if !self.is_known(&request) {
            let why = "only hosts with a certificate of this cluster may give segments";
            return Err(to_status(&WireError::new(ErrorKind::Denied, why)));
        }
        let segment = self.data()?.take(request.into_inner()).await.map_err(|error| to_status(&error))?;
        let named = PutResult { app_metadata: segment.encode_to_vec().into() };
        Ok(Response::new(futures::stream::iter([Ok(named)]).boxed()))
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        unsupported("DoAction")
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        unsupported("ListActions")
    }
}

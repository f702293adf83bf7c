//! A server, over Arrow Flight SQL.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{
    CancelFlightInfoRequest, FlightClient, FlightDescriptor, FlightEndpoint, FlightInfo, PollInfo,
    RenewFlightEndpointRequest,
};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use onward_coordinator::QueryProgress;
use onward_endpoint::status::ERROR_KIND_HEADER;
use onward_endpoint::{Progress, USER_HEADER};
use onward_shuffle::flight::CLUSTER_NAME;
use onward_wire::{ErrorKind, WireError};
use prost::Message;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::{End, Running};

/// Where the server is and who we are.
#[derive(Clone, Debug, Default)]
pub struct RemoteOptions {
    /// `grpc://host:port` or `grpc+tls://host:port`.
    pub url: String,
    /// Bearer token.
    pub token: Option<String>,
    /// PEM file with the authorities that may sign the server's certificate; `None` takes the system's.
    pub ca_file: Option<PathBuf>,
    /// Whose statements they are, for the server's shares; `None`: the server takes the address.
    pub user: Option<String>,
    /// Ask how far a statement is while it runs.
    pub follows_progress: bool,
}

/// A connection to a server.
pub struct Remote {
    channel: FlightServiceClient<Channel>,
    options: RemoteOptions,
}

/// The longest wait for a host that holds a part of a result: the server gives it, too.
const HOST_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that sends nothing for so long is asked for a sign of life, and given up without one.
const PING_AFTER: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A ticket of a direct result that is older than this is renewed before it is used.
const RENEW_AFTER: Duration = Duration::from_secs(30);

/// Parts of a result that are fetched at once, and batches of each that wait to be read.
const PARTS_AT_ONCE: usize = 4;
const BATCHES_AHEAD: usize = 8;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The shortest time between two questions about progress; the server waits for news besides.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Stands for the server itself in the locations of an endpoint.
const SAME_CONNECTION: &str = "arrow-flight-reuse-connection:";

/// Where distributions keep the certificates of the authorities they trust.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Remote {
    /// Connects.
    ///
    /// # Errors
    /// `InvalidQuery` for a URL of another form, `NotFound` for a missing certificate file, `Unavailable` when nobody
    /// answers.
    pub async fn connect(options: &RemoteOptions) -> Result<Self, WireError> {
        let url = &options.url;
        let endpoint = endpoint(options, None)?;
        let channel = endpoint.connect().await.map_err(|error| {
            let reason = innermost(&error);
            WireError::new(
                ErrorKind::Unavailable,
                format!("cannot connect to {url}: {reason}; is `onward serve` running?"),
            )
        })?;
        let channel = FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Self { channel, options: options.clone() })
    }

    fn client(&self) -> Result<FlightClient, WireError> {
        let mut client = FlightClient::new_from_inner(self.channel.clone());
        if let Some(token) = &self.options.token {
            let refused = |_| WireError::new(ErrorKind::Denied, "the token has characters that no header can hold");
            client.add_header("authorization", &format!("Bearer {token}")).map_err(refused)?;
        }
        if let Some(user) = &self.options.user {
            // A name that no header can hold is none: the server then takes the address.
            let _ = client.add_header(USER_HEADER, user);
        }
        Ok(client)
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<Running, WireError> {
        let (info, next) = self.start(sql).await?;
        let schema = if info.schema.is_empty() {
            Schema::empty()
        } else {
            info.clone().try_decode_schema().map_err(|error| WireError::new(ErrorKind::Internal, error))?
        };
        let end = End::Remote(Box::new(self.client()?), info.clone());
        let mut cancel = CancelOnDrop::new(self.client()?, info.clone());
        // One part is read from the server as it comes; what several hosts hold is fetched at once.
        let is_direct = info.endpoint.iter().any(|endpoint| !endpoint.location.is_empty());
        let at_once = if is_direct { PARTS_AT_ONCE } else { 1 };
        let hosts = Arc::new(Hosts { options: self.options.clone(), channels: tokio::sync::Mutex::default() });
        let started = Instant::now();
        let part = |endpoint| {
            Ok::<_, WireError>(Part { endpoint, server: self.client()?, hosts: Arc::clone(&hosts), started })
        };
        let parts = info.endpoint.into_iter().map(part).collect::<Result<Vec<_>, _>>()?;
        let parts = stream::iter(parts).map(Part::open).buffered(at_once);
        // What hosts hold stays there until the server is told that nobody needs it.
        let last = stream::once(async move {
            if !is_direct {
                cancel.disarm();
            }
            Ok(stream::empty().boxed())
        });
        let stream = parts.chain(last).try_flatten().map_err(|error: FlightError| explain(&error)).boxed();
        let progress = next.map(|next| self.client().map(|client| follow(client, next))).transpose()?;
        Ok(Running { schema: Arc::new(schema), stream, progress, end })
    }

    /// Starts a statement: what it answers, and what to poll about it, if that is wanted and there is something.
    async fn start(&self, sql: &str) -> Result<(FlightInfo, Option<FlightDescriptor>), WireError> {
        let mut client = self.client()?;
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        let mut descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let mut is_polling = self.options.follows_progress;
        while is_polling {
            match client.poll_flight_info(descriptor.clone()).await {
                Ok(PollInfo { info: Some(info), flight_descriptor, .. }) if !info.endpoint.is_empty() => {
                    return Ok((info, flight_descriptor));
                }
                Ok(PollInfo { flight_descriptor: Some(next), .. }) => descriptor = next,
                Ok(PollInfo { info, .. }) => return Ok((info.unwrap_or_default(), None)),
                // A server of another make may not know it, and has done nothing then.
                Err(FlightError::Tonic(status)) if status.code() == Code::Unimplemented => is_polling = false,
                Err(error) => return Err(explain(&error)),
            }
        }
        Ok((client.get_flight_info(descriptor).await.map_err(|error| explain(&error))?, None))
    }
}

/// Asks how far a statement is until it is over or the receiver is dropped.
fn follow(mut client: FlightClient, mut descriptor: FlightDescriptor) -> watch::Receiver<QueryProgress> {
    let (sender, receiver) = watch::channel(QueryProgress::default());
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            let poll = async {
                ticks.tick().await;
                client.poll_flight_info(descriptor.clone()).await
            };
            let polled = tokio::select! {
                polled = poll => polled,
                () = sender.closed() => return,
            };
            // What goes wrong here goes wrong with the rows as well, and they say so.
            let Ok(PollInfo { info, flight_descriptor, .. }) = polled else { return };
            let endpoint = info.and_then(|info| info.endpoint.into_iter().next());
            if let Some(progress) = endpoint.and_then(|endpoint| Progress::decode(endpoint.app_metadata).ok()) {
                sender.send_replace(progress.into());
            }
            match flight_descriptor {
                Some(next) => descriptor = next,
                None => return,
            }
        }
    });
    receiver
}

/// The hosts that hold parts of a result: one connection to each, or none where that failed once.
struct Hosts {
    options: RemoteOptions,
    channels: tokio::sync::Mutex<HashMap<String, Option<FlightServiceClient<Channel>>>>,
}

impl Hosts {
    async fn client(&self, uri: &str) -> Option<FlightServiceClient<Channel>> {
        let mut channels = self.channels.lock().await;
        if let Some(known) = channels.get(uri) {
            return known.clone();
        }
        let options = RemoteOptions { url: uri.to_owned(), ..self.options.clone() };
        // The certificates of hosts bear one name, wherever they are.
        let connected = match endpoint(&options, Some(CLUSTER_NAME)) {
            Ok(endpoint) => endpoint.connect_timeout(HOST_CONNECT_TIMEOUT).connect().await.ok(),
            Err(_) => None,
        };
        let client = connected.map(|channel| FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX));
        channels.insert(uri.to_owned(), client.clone());
        client
    }
}

/// An endpoint of a result.
struct Part {
    endpoint: FlightEndpoint,
    server: FlightClient,
    hosts: Arc<Hosts>,
    /// When its result was there.
    started: Instant,
}

type Batches = BoxStream<'static, Result<RecordBatch, FlightError>>;

impl Part {
    /// Its rows, from the first of its locations that answers. `server` gives them where there is no other, or none answers.
    async fn open(mut self) -> Result<Batches, FlightError> {
        if self.endpoint.expiration_time.is_some() && self.started.elapsed() > RENEW_AFTER {
            let renewal = RenewFlightEndpointRequest::new(self.endpoint.clone());
            // An expired one says so when it is fetched.
            if let Ok(renewed) = self.server.renew_flight_endpoint(renewal).await {
                self.endpoint = renewed;
            }
        }
        let Some(ticket) = self.endpoint.ticket.clone() else { return Ok(stream::empty().boxed()) };
        let elsewhere = self.endpoint.location.iter().filter(|location| !location.uri.starts_with(SAME_CONNECTION));
        for location in elsewhere {
            let Some(host) = self.hosts.client(&location.uri).await else { continue };
            if let Ok(rows) = FlightClient::new_from_inner(host).do_get(ticket.clone()).await {
                return Ok(ahead(rows.boxed()));
            }
        }
        Ok(self.server.do_get(ticket).await?.boxed())
    }
}

/// `rows`, read by a task of their own for as long as anybody wants them.
fn ahead(mut rows: Batches) -> Batches {
    let (sender, receiver) = tokio::sync::mpsc::channel(BATCHES_AHEAD);
    tokio::spawn(async move {
        while let Some(batch) = rows.next().await {
            if sender.send(batch).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// Tells the server that nobody will fetch the rest, unless all was fetched.
struct CancelOnDrop(Option<(FlightClient, FlightInfo)>);

impl CancelOnDrop {
    fn new(client: FlightClient, info: FlightInfo) -> Self {
        Self(Some((client, info)))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let (Some((mut client, info)), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { client.cancel_flight_info(CancelFlightInfoRequest::new(info)).await });
        }
    }
}

/// `name`: what the certificate says instead of the address.
fn endpoint(options: &RemoteOptions, name: Option<&str>) -> Result<Endpoint, WireError> {
    let url = &options.url;
    let invalid = |reason: String| WireError::new(ErrorKind::InvalidQuery, format!("--connect {url}: {reason}"));
    let (scheme, authority) = url.split_once("://").unwrap_or(("grpc", url));
    let authority = authority.trim_end_matches('/');
    let is_tls = match scheme {
        "grpc" | "grpc+tcp" => false,
        "grpc+tls" => true,
        _ => {
            return Err(invalid(
                "give grpc://host:port, or grpc+tls://host:port for a server with a certificate".into(),
            ));
        }
    };
    let address = format!("{}://{authority}", if is_tls { "https" } else { "http" });
    let endpoint = Endpoint::from_shared(address).map_err(|error| invalid(innermost(&error)))?;
    if endpoint.uri().port().is_none() {
        return Err(invalid(
            "the port is missing: give grpc://host:port; `onward serve` takes 50051 by default".into(),
        ));
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT);
    if !is_tls {
        return Ok(endpoint);
    }
    let authorities = match &options.ca_file {
        Some(path) => path.clone(),
        None => system_authorities()
            .ok_or_else(|| invalid("no certificates of this system found: give --ca-file".into()))?,
    };
    let pem = std::fs::read(&authorities).map_err(|error| {
        WireError::new(ErrorKind::NotFound, format!("cannot read {}: {error}", authorities.display()))
    })?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    if let Some(name) = name {
        tls = tls.domain_name(name);
    }
    endpoint.tls_config(tls).map_err(|error| invalid(innermost(&error)))
}

fn system_authorities() -> Option<PathBuf> {
    let set = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    set.into_iter().chain(SYSTEM_AUTHORITIES.map(PathBuf::from)).find(|path| path.is_file())
}

/// The server's error, with the kind it had there.
fn explain(error: &FlightError) -> WireError {
    match error {
        FlightError::Tonic(status) => from_status(status),
        error => WireError::new(ErrorKind::Internal, format!("the server's answer cannot be read: {error}")),
    }
}

fn from_status(status: &Status) -> WireError {
    let kinds = [
        ErrorKind::InvalidQuery,
        ErrorKind::NotFound,
        ErrorKind::Denied,
        ErrorKind::ResourceExhausted,
        ErrorKind::Unavailable,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];
    let named = status.metadata().get(ERROR_KIND_HEADER).and_then(|name| name.to_str().ok());
    // Made on this side: no server says what it is that broke.
    if let (None, Some(cause)) = (named, std::error::Error::source(status)) {
        let message = format!("the connection to the server was lost: {}", innermost(cause));
        return WireError::new(ErrorKind::Unavailable, message);
    }
    let kind = kinds.into_iter().find(|kind| Some(format!("{kind:?}").as_str()) == named);
    // A server of another make sends no kind.
    let kind = kind.unwrap_or(match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::FailedPrecondition => ErrorKind::InvalidQuery,
        Code::NotFound => ErrorKind::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::Cancelled | Code::DeadlineExceeded => ErrorKind::Cancelled,
        _ => ErrorKind::Internal,
    });
    let advice = match status.code() {
        Code::Unauthenticated => " (give the server's token in ONWARD_TOKEN or --token-file)",
        _ => "",
    };
    WireError::new(kind, format!("{}{advice}", status.message()))
}

/// The cause that says something: tonic's own message is "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

//! The listening server: refuses to be exposed by accident, serves, drains.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use onward_coordinator::{Coordinator, SessionOptions};
use onward_wire::Config;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::auth::Auth;
use crate::connection::Incoming;
use crate::error::EndpointError;
use crate::front::Front;
use crate::metadata::Metadata;
use crate::prepared::PreparedStatements;
use crate::results::Results;
use crate::service::Service;
use crate::session::Sessions;

/// Where a server listens and whom it answers.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// File with the token that callers must know; `None` = anyone may call.
    pub token_file: Option<PathBuf>,
    /// Certificate and key; `None` = plain text.
    pub tls: Option<TlsFiles>,
    /// Listen on any address without token and TLS.
    pub insecure: bool,
    /// Local files that statements can name must lie below one of these.
    pub allow_paths: Vec<PathBuf>,
    /// Limits: sessions, prepared statements, retention, message size, drain.
    pub config: Config,
}

/// A server's certificate, both files in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Default for ServerOptions {
    /// 127.0.0.1:50051, no token, plain text, files below the current directory.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            token_file: None,
            tls: None,
            insecure: false,
            allow_paths: std::env::current_dir().into_iter().collect(),
            config: Config::default(),
        }
    }
}

/// What a client may have sent before the server reads on, per call and per connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Frames of client data (bound parameters).
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Calls at once on one connection.
const MAX_CALLS_PER_CONNECTION: u32 = 1_000;
/// A peer that does not answer a ping in time is gone: its statements are cancelled.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// After a drain, what is left of calls gets this long to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that listens. See [`FlightServer::serve`].
pub struct FlightServer {
    listener: TcpListener,
    address: SocketAddr,
    front: Front,
    service: Arc<Service>,
    tls: Option<ServerTlsConfig>,
    config: Config,
}

impl FlightServer {
    /// Binds the address; clients can connect from now on and are answered once [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// [`EndpointError::Exposed`] for an address that other machines can reach without token and TLS files or
    /// `insecure`; the others when a file cannot be read or the address is taken.
    pub async fn bind(options: ServerOptions, coordinator: Arc<Coordinator>) -> Result<Self, EndpointError> {
        refuse_exposure(&options)?;
        let auth = options.token_file.as_deref().map_or_else(|| Ok(Auth::open()), Auth::from_file)?;
        let tls = options.tls.as_ref().map(read_tls).transpose()?;
        let listen = |source| EndpointError::Listen { listen: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let config = options.config;
        let session_options = SessionOptions { allowed_paths: Some(options.allow_paths), ..SessionOptions::default() };
        let idle_timeout = Duration::from_millis(config.session_idle_timeout_ms);
        let metadata = Metadata::new().map_err(|error| EndpointError::Internal(error.message().to_owned()))?;
        let service = Arc::new(Service {
            sessions: Arc::new(Sessions::new(coordinator.clone(), session_options, idle_timeout)),
            results: Results::new(coordinator, Duration::from_millis(config.result_retention_ms)),
            prepared: PreparedStatements::new(config.max_prepared_statements as usize),
            metadata,
            draining: CancellationToken::new(),
        });
        let front = Front::new(service.clone(), auth);
        Ok(Self { listener, address, front, service, tls, config })
    }

    /// The address it listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready, then drains: statements that run or wait to be fetched get
    /// `drain_timeout_ms`, new ones are refused as Unavailable. Connections are closed when it returns.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), EndpointError> {
        let Self { listener, address, front, service, tls, config } = self;
        let failed = |source| EndpointError::Serve { listen: address, source };
        let mut server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(MAX_FRAME_BYTES)
            .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
        if let Some(tls) = tls {
            server = server.tls_config(tls).map_err(failed)?;
        }
        let (sessions, results) = (service.sessions.clone(), service.results.clone());
        let on_close = move |connection| {
            if let Some(client) = sessions.connection_closed(connection) {
                results.client_gone(&client);
            }
        };
        let incoming = Incoming::new(listener, Arc::new(on_close));
        let flight = FlightServiceServer::new(front)
            .max_decoding_message_size(usize::try_from(config.max_message_bytes).unwrap_or(usize::MAX))
            .max_encoding_message_size(usize::MAX);

        let (drained, stop) = (CancellationToken::new(), CancellationToken::new());
        let _stop_janitor = stop.clone().drop_guard();
        tokio::spawn(clean_up(Arc::downgrade(&service), config.clone(), stop));
        let until_drained = drained.clone();
        let serving = server.serve_with_incoming_shutdown(flight, incoming, until_drained.cancelled_owned());
        let draining = async {
            shutdown.await;
            service.draining.cancel();
            let drain = Duration::from_millis(config.drain_timeout_ms);
            if tokio::time::timeout(drain, service.results.drained()).await.is_err() {
                tracing::warn!(drain_timeout_ms = config.drain_timeout_ms, "statements still run: they are cancelled");
            }
            drained.cancel();
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        tokio::select! {
            served = serving => served.map_err(failed),
            () = draining => Ok(()),
        }
    }
}

/// Ends what nobody wants any more, a few times per the shortest of the timeouts.
async fn clean_up(service: Weak<Service>, config: Config, stop: CancellationToken) {
    let shortest_ms = config.result_retention_ms.min(config.session_idle_timeout_ms);
    let period = Duration::from_millis((shortest_ms / 4).clamp(20, 10_000));
    while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        let Some(service) = service.upgrade() else { return };
        service.results.expire();
        service.sessions.close_idle();
        service.prepared.close_orphans();
    }
}

/// An address that others can reach needs both a token and TLS, or the user's word that this is meant.
fn refuse_exposure(options: &ServerOptions) -> Result<(), EndpointError> {
    let missing = match (&options.token_file, &options.tls) {
        _ if options.insecure || options.listen.ip().is_loopback() => return Ok(()),
        (Some(_), Some(_)) => return Ok(()),
        (None, Some(_)) => "--token-file",
        (Some(_), None) => "--tls-cert and --tls-key",
        (None, None) => "--token-file, --tls-cert and --tls-key",
    };
    Err(EndpointError::Exposed { listen: options.listen, missing: missing.to_owned() })
}

fn read_tls(files: &TlsFiles) -> Result<ServerTlsConfig, EndpointError> {
    let read = |what, path: &PathBuf| {
        std::fs::read(path).map_err(|source| EndpointError::Read { what, path: path.clone(), source })
    };
    let identity = Identity::from_pem(read("the certificate", &files.cert)?, read("the private key", &files.key)?);
    let tls = ServerTlsConfig::new().identity(identity);
    // Building a server is what parses the files: a broken certificate must not wait for the first client.
    match Server::builder().tls_config(tls.clone()) {
        Ok(_) => Ok(tls),
        Err(source) => Err(EndpointError::Tls { cert: files.cert.clone(), key: files.key.clone(), source }),
    }
}

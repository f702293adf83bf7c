//! The listening server: refuses to be exposed by accident, serves, drains.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use onward_coordinator::{Coordinator, SessionOptions};
use onward_wire::{Config, WireError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, Server, ServerTlsConfig};

use crate::auth::Auth;
use crate::connection::Incoming;
use crate::error::EndpointError;
use crate::front::Front;
use crate::kept;
use crate::metadata::Metadata;
use crate::prepared::PreparedStatements;
use crate::relay::Peer;
use crate::results::Results;
use crate::service::Service;
use crate::session::Sessions;
use crate::switch::{Answers, Route, Switch};

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
    /// The authorities of other coordinators' certificates; `None`: those in `cert`.
    pub ca: Option<PathBuf>,
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
/// When a coordinator hands over: what queries answered is fetched within this time, or not.
const RESULTS_TIMEOUT: Duration = Duration::from_secs(5);
/// What writes answered is kept so long for clients, when a coordinator hands over.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);
/// After a drain, what is left of calls gets this long to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that listens. See [`FlightServer::serve`].
pub struct FlightServer {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<ServerTlsConfig>,
    config: Config,
    role: Role,
}

/// What a server does with calls: it answers them for a coordinator that leads, or hands them on to one that does. Cheap to clone.
#[derive(Clone)]
pub struct Role {
    switch: Switch,
    auth: Arc<Auth>,
    session_options: SessionOptions,
    config: Config,
    /// For the way to another coordinator.
    tls: Option<ClientTlsConfig>,
}

impl FlightServer {
    /// Binds the address; clients can connect from now on and are answered once [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// [`EndpointError::Exposed`] for an address that other machines can reach without token and TLS files or
    /// `insecure`; the others when a file cannot be read or the address is taken.
    pub async fn bind(options: ServerOptions, coordinator: Arc<Coordinator>) -> Result<Self, EndpointError> {
        let server = Self::listen(options, false).await?;
        server.role.lead(coordinator).await?;
        Ok(server)
    }

    /// As [`Self::bind`], for one of several coordinators. Calls wait until its [`Role`] says who leads.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub async fn bind_shared(options: ServerOptions) -> Result<Self, EndpointError> {
        Self::listen(options, true).await
    }

    async fn listen(options: ServerOptions, is_shared: bool) -> Result<Self, EndpointError> {
        refuse_exposure(&options)?;
        let auth = options.token_file.as_deref().map_or_else(|| Ok(Auth::open()), Auth::from_file)?;
        let tls = options.tls.as_ref().map(read_tls).transpose()?;
        let peers = options.tls.as_ref().map(read_peer_tls).transpose()?;
        let listen = |source| EndpointError::Listen { listen: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (auth, config) = (Arc::new(auth), options.config);
        let role = Role {
            switch: Switch::new(Arc::clone(&auth), is_shared, &config),
            auth,
            session_options: SessionOptions { allowed_paths: Some(options.allow_paths), ..SessionOptions::default() },
            config: config.clone(),
            tls: peers,
        };
        Ok(Self { listener, address, tls, config, role })
    }

    /// The address it listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it does with calls.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Serves until `shutdown` is ready, then drains: statements that run or wait to be fetched get
    /// `drain_timeout_ms`, new ones are refused as Unavailable. Connections are closed when it returns.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), EndpointError> {
        let Self { listener, address, tls, config, role } = self;
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
        let switch = role.switch.clone();
        let on_close = move |connection, secret| switch.connection_closed(connection, secret);
        let incoming = Incoming::new(listener, Arc::new(on_close));
        let drained = CancellationToken::new();
        let until_drained = drained.clone();
        let serving =
            server.serve_with_incoming_shutdown(role.switch.clone(), incoming, until_drained.cancelled_owned());
        let draining = async {
            shutdown.await;
            if let Some(answers) = role.switch.answers() {
                answers.1.draining.cancel();
                drain(&answers.1, config.drain_timeout_ms).await;
            }
            role.switch.ends();
            drained.cancel();
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        tokio::select! {
            served = serving => served.map_err(failed),
            () = draining => Ok(()),
        }
    }
}

/// Statements that run or wait to be fetched get some time.
async fn drain(service: &Service, drain_timeout_ms: u64) {
    let drain = Duration::from_millis(drain_timeout_ms);
    if tokio::time::timeout(drain, service.results.drained()).await.is_err() {
        tracing::warn!(drain_timeout_ms, "statements still run: they are cancelled");
    }
}

impl Role {
    /// Calls are answered here, by this coordinator.
    ///
    /// # Errors
    /// When sessions of the coordinator before this one cannot be read.
    pub async fn lead(&self, coordinator: Arc<Coordinator>) -> Result<(), EndpointError> {
        let config = &self.config;
        let idle_timeout = Duration::from_millis(config.session_idle_timeout_ms);
        let metadata = Metadata::new().map_err(|error| EndpointError::Internal(error.message().to_owned()))?;
        let sessions = Sessions::new(coordinator.clone(), self.session_options.clone(), idle_timeout);
        if let Some(state) = coordinator.state() {
            sessions.take_over(kept::read(state).await.map_err(|error| EndpointError::Internal(error.to_string()))?);
        }
        let service = Arc::new(Service {
            sessions: Arc::new(sessions),
            results: Results::new(coordinator, Duration::from_millis(config.result_retention_ms)),
            prepared: PreparedStatements::new(config.max_prepared_statements as usize),
            metadata,
            draining: CancellationToken::new(),
        });
        tokio::spawn(clean_up(Arc::downgrade(&service), config.clone()));
        let front = Front::new(service.clone(), Arc::clone(&self.auth));
        let flight = FlightServiceServer::new(front)
            .max_decoding_message_size(usize::try_from(config.max_message_bytes).unwrap_or(usize::MAX))
            .max_encoding_message_size(usize::MAX);
        self.switch.set(Route::Here(Answers(flight, service)));
        Ok(())
    }

    /// Resolves when no call was handed on to another coordinator for `quiet`.
    pub async fn handed_on(&self, quiet: Duration) {
        self.switch.handed_on(quiet).await;
    }

    /// New statements wait for the next leader; resolves when what runs here is over, or after `drain_timeout_ms`.
    pub async fn hand_over(&self) {
        let Some(answers) = self.switch.answers() else { return };
        self.switch.set(Route::HandsOver(answers.clone()));
        let results = Arc::clone(&answers.1.results);
        let quiet = async {
            // Calls that came before start what they came for.
            self.switch.answered().await;
            answers.1.draining.cancel();
            results.worked().await;
            // A client that is there fetches soon; one that is not, or found another coordinator, keeps nobody waiting.
            if tokio::time::timeout(RESULTS_TIMEOUT, results.drained()).await.is_err() {
                results.sent().await;
            }
        };
        let drain_timeout_ms = self.config.drain_timeout_ms;
        if tokio::time::timeout(Duration::from_millis(drain_timeout_ms), quiet).await.is_err() {
            tracing::warn!(drain_timeout_ms, "statements still run: they end with this leadership");
        }
        // A client that was told of a write asks for what it answered, or does not.
        let _ = tokio::time::timeout(FETCH_TIMEOUT, results.fetched()).await;
    }

    /// Why nobody may lead, as far as is known: calls that wait in vain for a leader say it.
    pub fn explain(&self, trouble: Option<String>) {
        self.switch.explain(trouble);
    }

    /// Calls go to the coordinator at `leader`, or wait while nobody is known to lead.
    ///
    /// # Errors
    /// When the address is none, or wants TLS and there are no certificates here.
    pub fn follow(&self, leader: Option<&str>) -> Result<(), WireError> {
        let peer = leader.map(|leader| Peer::new(leader, self.tls.as_ref()).map(Arc::new)).transpose()?;
        self.switch.set(peer.map_or(Route::Nowhere, Route::Elsewhere));
        Ok(())
    }
}

/// Ends what nobody wants any more, a few times per the shortest of the timeouts.
async fn clean_up(service: Weak<Service>, config: Config) {
    let shortest_ms = config.result_retention_ms.min(config.session_idle_timeout_ms);
    let period = Duration::from_millis((shortest_ms / 4).clamp(20, 10_000));
    loop {
        tokio::time::sleep(period).await;
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

/// Coordinators know each other by the authorities of `ca`, or by the certificates they show themselves.
fn read_peer_tls(files: &TlsFiles) -> Result<ClientTlsConfig, EndpointError> {
    let path = files.ca.as_ref().unwrap_or(&files.cert);
    let read = std::fs::read(path);
    let ca = read.map_err(|source| EndpointError::Read { what: "the certificate", path: path.clone(), source })?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)))
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

//! The listener that hosts come to: to join a coordinator that leads, or to hear who does.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::FlightData;
use futures::StreamExt;
use onward_executor::host::{Exchange, MemberStream, serve_exchange};
use onward_shuffle::flight::{ClusterTls, parse_address};
use onward_wire::cluster::{Leader, ToMember};
use onward_wire::{Config, ErrorKind, WireError};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::engine::Engine;

/// Told to who shows no certificate.
pub(crate) const UNKNOWN: &str = "only hosts with a certificate of this cluster may join: set cluster_dir on them";

/// Where hosts join.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where hosts reach it; `None`: the address it listens on.
    pub advertise: Option<String>,
    /// Listen in plain text on an address that other machines reach.
    pub insecure: bool,
}

/// A bound address that hosts come to: it stays when the coordinator begins to lead, or leads no longer.
pub struct ClusterListener {
    listener: std::net::TcpListener,
    address: SocketAddr,
    url: String,
    tls: Option<ClusterTls>,
}

/// Somebody answers hosts.
pub(crate) struct ClusterServer {
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// Answers hosts for a coordinator that does not lead: it tells who does.
pub struct StandbyServer(ClusterServer);

/// Plain text is for loopback addresses, unless the user says otherwise.
///
/// # Errors
/// Of kind Denied, with what to do.
pub fn refuse_exposure(listen: SocketAddr, config: &Config, insecure: bool) -> Result<(), WireError> {
    if listen.ip().is_loopback() || insecure || !config.cluster_dir.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{listen} can be reached by other machines: make certificates with `onward tls init DIR` and set cluster_dir to \
         DIR on every host, or pass --insecure"
    );
    Err(WireError::new(ErrorKind::Denied, message))
}

impl ClusterListener {
    /// Listens. Hosts that come wait until somebody answers them.
    ///
    /// # Errors
    /// When the address is taken, or reachable by others without certificates.
    pub async fn bind(config: &Config, options: ClusterOptions) -> Result<Self, WireError> {
        let ClusterOptions { listen, advertise, insecure } = options;
        refuse_exposure(listen, config, insecure)?;
        match &advertise {
            Some(advertise) => drop(parse_address(advertise)?),
            None if listen.ip().is_unspecified() => {
                let message = format!("{listen} is no address that hosts can come to: give --cluster-advertise, too");
                return Err(WireError::new(ErrorKind::InvalidQuery, message));
            }
            None => {}
        }
        let tls = ClusterTls::from_config(config)?;
        let failed = |error| {
            let message = format!("cannot listen on {listen}: {error}; --cluster-listen takes another address");
            WireError::new(ErrorKind::Unavailable, message)
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "grpc+tls" } else { "grpc" };
        let url = advertise.unwrap_or_else(|| format!("{scheme}://{address}"));
        Ok(Self { listener: listener.into_std().map_err(failed)?, address, url, tls })
    }

    /// Its address, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where hosts join.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Who comes while nobody answers waits in the kernel's queue, which all copies share.
    fn listen(&self) -> Result<TcpListener, WireError> {
        let copy = self.listener.try_clone().and_then(TcpListener::from_std);
        let address = self.address;
        copy.map_err(|error| WireError::new(ErrorKind::Unavailable, format!("cannot listen on {address}: {error}")))
    }

    /// Tells hosts who leads, and whenever that changes.
    ///
    /// # Errors
    /// When this process has no descriptors left.
    pub fn stand_by(&self, leader: watch::Receiver<Leader>, config: &Config) -> Result<StandbyServer, WireError> {
        let (listener, tls, stop) = (self.listen()?, self.tls.clone(), CancellationToken::new());
        let (until, max_message_bytes) = (stop.clone(), config.max_message_bytes);
        let serving = async move {
            let exchange = Arc::new(Standby(leader));
            serve_exchange(listener, tls.as_ref(), exchange, max_message_bytes, until.cancelled_owned()).await
        };
        Ok(StandbyServer(ClusterServer::run(self.address, stop, serving)))
    }
}

impl StandbyServer {
    /// Ends it, and the streams of hosts with it: they ask again.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

struct Standby(watch::Receiver<Leader>);

impl Exchange for Standby {
    fn exchange(
        &self,
        messages: Streaming<FlightData>,
        is_known: bool,
    ) -> Pin<Box<dyn Future<Output = Result<MemberStream, WireError>> + Send + '_>> {
        let answer = match is_known {
            true => Ok(announce(self.0.clone(), messages)),
            false => Err(WireError::new(ErrorKind::Denied, UNKNOWN)),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// Says who leads, at once and whenever that changes. A host that hears that has said all it has to say; what it said is held, since a
/// stream of which one half is dropped ends.
pub(crate) fn announce(leader: watch::Receiver<Leader>, said: Streaming<FlightData>) -> MemberStream {
    let say = move |leader: Leader| {
        let _held = &said;
        let message = ToMember { epoch: leader.epoch, ..leader.into() };
        Ok(FlightData { app_metadata: message.encode_to_vec().into(), ..FlightData::default() })
    };
    // A stream ends with the server, not because nothing changes any more.
    WatchStream::new(leader).map(say).chain(futures::stream::pending()).boxed()
}

impl ClusterServer {
    /// Lets hosts join a coordinator that leads.
    pub(crate) fn start(engine: &Engine, listener: &ClusterListener) -> Result<Self, WireError> {
        engine.set_address(listener.url.clone());
        let (accepted, tls, stop) = (listener.listen()?, listener.tls.clone(), CancellationToken::new());
        let (data_plane, door, until) = (engine.host().data_plane().clone(), engine.door(), stop.clone());
        let serving =
            async move { data_plane.serve(accepted, tls.as_ref(), Some(door), until.cancelled_owned()).await };
        Ok(Self::run(listener.address, stop, serving))
    }

    fn run(
        address: SocketAddr,
        stop: CancellationToken,
        serving: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    ) -> Self {
        let serving = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%address, %error, "hosts cannot join any more");
            }
        });
        Self { stop, serving }
    }

    /// Ends it. Streams of hosts end with it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // A graceful shutdown waits for streams, and those of hosts have no end.
        self.serving.abort();
        // It was aborted: that is its end.
        let _ = self.serving.await;
    }
}

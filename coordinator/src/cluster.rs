//! The listener that hosts join at.

use std::net::SocketAddr;

use onward_shuffle::flight::{ClusterTls, parse_address};
use onward_wire::{Config, ErrorKind, WireError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

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

/// A running listener.
pub(crate) struct ClusterServer {
    address: SocketAddr,
    url: String,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

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

impl ClusterServer {
    pub(crate) async fn start(engine: &Engine, config: &Config, options: ClusterOptions) -> Result<Self, WireError> {
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
        let failed = |error| WireError::new(ErrorKind::Unavailable, format!("cannot listen on {listen}: {error}"));
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "grpc+tls" } else { "grpc" };
        let url = advertise.unwrap_or_else(|| format!("{scheme}://{address}"));
        engine.set_address(url.clone());
        let stop = CancellationToken::new();
        let (data_plane, door, until) = (engine.host().data_plane().clone(), engine.door(), stop.clone());
        let serving = tokio::spawn(async move {
            let served = data_plane.serve(listener, tls.as_ref(), Some(door), until.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%address, %error, "hosts cannot join any more");
            }
        });
        Ok(Self { address, url, stop, serving })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where hosts join.
    pub(crate) fn url(&self) -> &str {
        &self.url
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

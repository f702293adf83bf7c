//! A stand-in for an API server and the cluster behind it: HTTP on this machine, and containers that are its processes.
//!
//! It takes pods of one namespace, [`NAMESPACE`], as strictly as API servers take them: unknown fields, invalid names, quantities and
//! mounts are refused, and so is what the Pod Security Standard `restricted` forbids. Versions, watches, graceful deletion, quotas and the
//! wording of refusals are those of Kubernetes 1.33.

mod api;
mod cluster;
mod kubelet;
mod validity;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub(super) use self::cluster::{Cluster, Fault};

/// The one that there is.
pub(super) const NAMESPACE: &str = "queries";

/// An API server that serves until it is dropped.
#[derive(Debug)]
pub(super) struct Standin {
    pub(super) cluster: Arc<Cluster>,
    pub(super) address: SocketAddr,
    serving: AbortHandle,
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Standin {
    /// `tls`: what it proves with who it is.
    pub(super) async fn start(tls: Option<TlsAcceptor>) -> Self {
        let cluster = Arc::new(Cluster::new());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = tokio::spawn(serve(listener, Arc::clone(&cluster), tls)).abort_handle();
        Self { cluster, address, serving }
    }
}

async fn serve(listener: TcpListener, cluster: Arc<Cluster>, tls: Option<TlsAcceptor>) {
    // Connections end with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (cluster, tls) = (Arc::clone(&cluster), tls.clone());
        connections.spawn(async move {
            match tls {
                None => answer(stream, cluster).await,
                // Those that do not trust it go away.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream, cluster).await;
                    }
                }
            }
        });
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, cluster: Arc<Cluster>) {
    let service = service_fn(|request| api::answer(Arc::clone(&cluster), request));
    // Connections that tests cut end with errors.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

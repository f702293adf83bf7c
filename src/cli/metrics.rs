//! `--metrics-listen`: what is wanted and what is there, for whatever scales hosts and watches the server.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | gauges in the Prometheus text format; all are 0 at a coordinator that does not lead |
//! | `/healthz` | 200 while the process answers |
//! | `/leads` | 200 at a coordinator that leads, else 503 |
//!
//! Plain HTTP without a token: the figures name no query and no user.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use onward_coordinator::Coordinator;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::Failure;

/// Connections at once; more wait.
const MOST_CONNECTIONS: usize = 64;
/// A connection ends after this long: scrapers open another one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The coordinator of this process, while it leads.
pub(super) type Current = watch::Sender<Option<Arc<Coordinator>>>;

/// Serves until the handle is dropped.
pub(super) async fn serve(listen: SocketAddr, current: &Current) -> Result<AbortOnDropHandle<()>, Failure> {
    let taken = |error| Failure::Message(format!("--metrics-listen: cannot listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(taken)?;
    tracing::info!(address = %listener.local_addr().map_err(taken)?, "metrics");
    let current = current.subscribe();
    Ok(AbortOnDropHandle::new(tokio::spawn(accept(listener, current))))
}

async fn accept(listener: TcpListener, current: watch::Receiver<Option<Arc<Coordinator>>>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // It is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let current = current.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let coordinator = current.borrow().clone();
                async move { Ok::<_, Infallible>(answer(&request, coordinator.as_deref()).await) }
            });
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // Who came is gone, or took too long.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
            drop(place);
        });
    }
}

async fn answer(request: &Request<Incoming>, coordinator: Option<&Coordinator>) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, metrics(coordinator).await),
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/leads" if coordinator.is_some() => (StatusCode::OK, "yes\n".to_owned()),
        "/leads" => (StatusCode::SERVICE_UNAVAILABLE, "no\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /leads\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let plain = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, plain);
    response
}

async fn metrics(coordinator: Option<&Coordinator>) -> String {
    let (demand, hosts) = match coordinator {
        Some(coordinator) => coordinator.demand().await,
        None => Default::default(),
    };
    let gauges = [
        (
            "functions_wanted",
            "Functions that would all have work now, if hosts had room for them.",
            demand.wanted_functions,
        ),
        ("functions", "Functions that are alive or starting.", demand.functions),
        ("idle_functions", "Functions that have nothing to do.", demand.idle_functions),
        ("queued_tasks", "Tasks that could start and wait for a function.", demand.waiting_tasks),
        ("running_queries", "Queries that run on functions.", demand.running_queries),
        ("queued_queries", "Queries that wait for a place.", demand.queued_queries),
        ("hosts", "Hosts that joined.", hosts),
        ("leads", "1 at the coordinator that leads.", usize::from(coordinator.is_some())),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        // A String takes what it is given.
        let _ = writeln!(text, "# HELP onward_{name} {help}\n# TYPE onward_{name} gauge\nonward_{name} {value}");
    }
    text
}

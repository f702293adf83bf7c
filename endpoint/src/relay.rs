//! The way to the coordinator that leads, for calls that came to another one.
//!
//! What a client sends goes on as it is, and so does what comes back. Nothing is handed to a leader that does not answer a ping. One that
//! is replaced and still does so hands over: it answers what it was handed. One that does not is lost, and so are calls that it had, with
//! a retryable error.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full, Limited};
use onward_shuffle::flight::parse_address;
use onward_wire::{ErrorKind, WireError};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use tonic::codegen::{Bytes, Service};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::session::SESSION_HEADER;
use crate::status;

/// Until a leader accepts a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A leader that does not answer a ping for this long is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the server itself takes at once: see `server`.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Header of a call that another coordinator handed on.
pub(crate) const HANDED_ON: &str = "x-onward-handed-on";
/// Calls whose clients go on sending.
const STREAMING: [&str; 3] = ["/DoPut", "/DoExchange", "/Handshake"];
/// What a coordinator answers at once, whoever leads: who is asked is there.
pub(crate) const PING: &str = "/onward.Coordinator/Ping";
/// It is there when it answered within this time.
const PING_TIMEOUT: Duration = Duration::from_millis(300);
/// A leader that was heard of so lately is not asked whether it is there.
const LATELY: Duration = Duration::from_millis(100);
/// One that was replaced, and is there, goes on answering what it was handed for so long at most.
const HAND_OVER: Duration = Duration::from_secs(60);
/// Rows that one sent which is not there are handed on for this long.
const ROWS_GRACE: Duration = Duration::from_secs(1);

/// Another coordinator, which leads.
pub(crate) struct Peer {
    url: String,
    endpoint: Endpoint,
    channel: OnceCell<Channel>,
    /// Why it could not be reached, the last time.
    failure: Mutex<Option<String>>,
    /// When it answered last.
    heard: Mutex<Option<Instant>>,
    /// It answers no more.
    is_silent: CancellationToken,
    /// It sends no more.
    is_over: CancellationToken,
}

/// A call that is handed on.
pub(crate) enum Call {
    /// It is all there: it can be sent again where it was not sent.
    Whole(Request<Bytes>),
    /// The client still sends; `None`: it went out once, and cannot again.
    Streaming(Option<Request<Body>>),
}

/// Why a call was not answered.
pub(crate) enum Relayed {
    /// It never left: it can be sent elsewhere.
    NotSent,
    /// It may have been carried out.
    Lost(Status),
}

impl Call {
    /// Takes what the client sends, but for what has no end, or is more than `most_bytes`.
    pub(crate) async fn of(request: Request<Body>, most_bytes: usize) -> Result<Self, Status> {
        if STREAMING.iter().any(|call| request.uri().path().ends_with(call)) {
            return Ok(Self::Streaming(Some(request)));
        }
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, most_bytes).collect().await;
        let body =
            body.map_err(|error| Status::resource_exhausted(format!("the call is cut off or too large: {error}")))?;
        Ok(Self::Whole(Request::from_parts(parts, body.to_bytes())))
    }

    /// What is sent now.
    pub(crate) fn next(&mut self) -> Option<Request<Body>> {
        match self {
            Self::Whole(call) => {
                let mut request = Request::new(Body::new(Full::new(call.body().clone())));
                *request.method_mut() = call.method().clone();
                *request.uri_mut() = call.uri().clone();
                *request.version_mut() = call.version();
                *request.headers_mut() = call.headers().clone();
                Some(request)
            }
            Self::Streaming(request) => {
                let mut request = request.take()?;
                // What was known of the client's connection means nothing there.
                request.extensions_mut().clear();
                Some(request)
            }
        }
    }
}

/// An error with what caused it.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// Nothing of a call has left, or the other end closed the connection and said that it had not looked at it.
fn is_unsent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let is_unreachable = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
            matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        });
        // What it had looked at it answers before it closes.
        let is_unseen = cause.downcast_ref::<h2::Error>().is_some_and(|error| error.is_go_away() && error.is_remote());
        let is_canceled = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        is_unreachable || is_unseen || is_canceled
    })
}

impl Peer {
    /// Connects to nobody yet. `tls` is for an address that wants it.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn new(url: &str, tls: Option<&ClientTlsConfig>) -> Result<Self, WireError> {
        let malformed = |why: String| WireError::new(ErrorKind::InvalidQuery, format!("{url}: {why}"));
        let (place, is_tls) = parse_address(url)?;
        let scheme = if is_tls { "https" } else { "http" };
        let endpoint =
            Endpoint::from_shared(format!("{scheme}://{place}")).map_err(|error| malformed(error.to_string()))?;
        let endpoint = match (is_tls, tls) {
            (false, _) => endpoint,
            (true, Some(tls)) => endpoint.tls_config(tls.clone()).map_err(|error| malformed(error.to_string()))?,
            (true, None) => return Err(malformed("it wants TLS, and this coordinator has no certificate".to_owned())),
        };
        let endpoint = endpoint
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let (is_silent, is_over) = (CancellationToken::new(), CancellationToken::new());
        let (channel, failure) = (OnceCell::new(), Mutex::default());
        let heard = Mutex::default();
        Ok(Self { url: url.to_owned(), endpoint, channel, failure, heard, is_silent, is_over })
    }

    /// Another one leads now. One that hands over is there, and answers what it was handed, or has the next one answer; who was lost does
    /// not.
    pub(crate) fn is_replaced(&self) {
        let (is_silent, is_over, channel) = (self.is_silent.clone(), self.is_over.clone(), self.channel.get().cloned());
        tokio::spawn(async move {
            let answering = async {
                let Some(channel) = channel else { return };
                while let Ok(Ok(())) = tokio::time::timeout(PING_TIMEOUT, ping(channel.clone())).await {
                    tokio::time::sleep(PING_TIMEOUT).await;
                }
            };
            // Past that time it is done.
            let _ = tokio::time::timeout(HAND_OVER, answering).await;
            is_silent.cancel();
            tokio::time::sleep(ROWS_GRACE).await;
            is_over.cancel();
        });
    }

    /// Why it could not be reached, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Has the leader answer a call.
    pub(crate) async fn relay(&self, call: &mut Call) -> Result<Response<Body>, Relayed> {
        let connect = async || {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.endpoint.connect()).await;
            connected.map_err(|_| "it does not answer".to_owned())?.map_err(|error| causes(&error))
        };
        let unreached = |why: String| {
            *self.failure.lock() = Some(format!("{}: {why}", self.url));
            Relayed::NotSent
        };
        let mut channel = self.channel.get_or_try_init(connect).await.map_err(unreached)?.clone();
        // Nothing is handed to one that is not there: it may carry it out when it is again.
        if self.heard.lock().is_none_or(|at| at.elapsed() > LATELY) {
            let is_there = tokio::select! {
                answer = tokio::time::timeout(CONNECT_TIMEOUT, ping(channel.clone())) => answer.ok(),
                () = self.is_silent.cancelled() => None,
            };
            let is_there = is_there.unwrap_or_else(|| Err("it does not answer".to_owned()));
            is_there.map_err(unreached)?;
            *self.heard.lock() = Some(Instant::now());
        }
        let again = || self.lost("it does not answer any more");
        let mut request = call.next().ok_or_else(|| Relayed::Lost(again()))?;
        request.headers_mut().insert(HANDED_ON, HeaderValue::from_static("1"));
        let answered = async {
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        };
        let answered = tokio::select! {
            answered = answered => answered.map_err(|error| match is_unsent(&error) {
                true => unreached(causes(&error)),
                false => Relayed::Lost(self.lost(&error.to_string())),
            }),
            () = self.is_silent.cancelled() => Err(Relayed::Lost(self.lost("another coordinator leads now"))),
        };
        let response = answered?;
        *self.heard.lock() = Some(Instant::now());
        let lost = self.lost("its answer was cut off");
        Ok(response.map(|body| {
            Body::new(Cut { body, is_over: Box::pin(self.is_over.clone().cancelled_owned()), lost: Some(lost) })
        }))
    }

    /// A client's connection is gone, and its session with it.
    pub(crate) async fn close_session(&self, session: &str, authorization: Option<HeaderValue>) {
        let Some(channel) = self.channel.get() else { return };
        let mut client = arrow_flight::flight_service_client::FlightServiceClient::new(channel.clone());
        let mut request = tonic::Request::new(arrow_flight::Action::new(crate::actions::CLOSE_SESSION, Bytes::new()));
        let metadata = request.metadata_mut().as_mut();
        if let Ok(session) = HeaderValue::from_str(session) {
            metadata.insert(SESSION_HEADER, session);
        }
        if let Some(authorization) = authorization {
            metadata.insert("authorization", authorization);
        }
        // If it does not hear of it, the session ends when it was idle for long enough.
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, client.do_action(request)).await;
    }

    fn lost(&self, why: &str) -> Status {
        let message = format!(
            "the coordinator that leads, {}, was lost while it answered: {why}. Run it again; a write may have been carried out",
            self.url
        );
        status::new(ErrorKind::Unavailable, message, None)
    }
}

/// Resolves when the coordinator at the other end answers, whatever it says; an error when it cannot be reached.
async fn ping(mut channel: Channel) -> Result<(), String> {
    let mut request = Request::new(Body::new(Full::new(Bytes::from_static(&[0; 5]))));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PING);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let answered = async {
        std::future::poll_fn(|context| channel.poll_ready(context)).await?;
        channel.call(request).await
    };
    answered.await.map(drop).map_err(|error| causes(&error))
}

/// An answer that ends with an error when who sends it is replaced.
struct Cut {
    body: Body,
    is_over: Pin<Box<WaitForCancellationFutureOwned>>,
    lost: Option<Status>,
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.lost.is_none() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(frame) => return Poll::Ready(frame),
            Poll::Pending => match self.is_over.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => {}
            },
        }
        Poll::Ready(self.lost.take().map(|lost| {
            let mut trailers = HeaderMap::new();
            lost.add_header(&mut trailers)?;
            Ok(Frame::trailers(trailers))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.lost.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! A proxy over HTTP between any client and a real S3 server (moto, s3s-fs): it gives the server S3's latency and bandwidth,
//! writes down what was asked and how many bytes went, and breaks what it is told to break.
//!
//! ```text
//!   client --- request ---> log ---> a fault is planned for it? ---- yes: 503, silence
//!                                               | no
//!                                               v
//!                                        the real server, at once
//!                                               |
//!   client <-- paced body, maybe cut -- first byte not before 15 ms
//! ```
//!
//! What the client says reaches the server as it was said, the Host header too: signatures hold (path-style URLs).
//! Every connection of a client has one of its own to the server.

// Tests and benches use a part of it each.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::try_unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::Instant;

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Answer = Result<hyper::Response<Body>, io::Error>;

/// How fast the store behind the proxy seems to be.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// No response begins earlier after its request.
    pub first_byte: Duration,
    /// Bandwidth of a body; every request is a stream of its own.
    pub stream_bytes_per_second: u64,
}

impl Model {
    /// Reading S3 from a machine in its region.
    pub const S3: Self = Self { first_byte: Duration::from_millis(15), stream_bytes_per_second: 150_000_000 };

    /// As fast as the server is.
    pub const NONE: Self = Self { first_byte: Duration::ZERO, stream_bytes_per_second: u64::MAX };
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes of an object.
    Get,
    /// Size and version of an object.
    Head,
    /// Names and versions of objects.
    List,
    /// An object, or a part of one.
    Put,
    /// The beginning and the end of an upload.
    Post,
    /// Anything else.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::List => "LIST",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Other => "other",
        })
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What for.
    pub kind: Kind,
    /// Path and query.
    pub target: String,
    /// The Range header.
    pub range: Option<String>,
    /// Bytes of its body and of the body of its answer, as far as they went.
    bytes: Arc<AtomicU64>,
}

impl Asked {
    /// Bytes of bodies, both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    fn of(request: &hyper::Request<Incoming>) -> Self {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let kind = match *request.method() {
            Method::GET if target.contains("list-type=") => Kind::List,
            Method::GET => Kind::Get,
            Method::HEAD => Kind::Head,
            Method::PUT => Kind::Put,
            Method::POST => Kind::Post,
            _ => Kind::Other,
        };
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let body = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or_default();
        let range = text(header::RANGE).map(str::to_owned);
        Self { kind, target, range, bytes: Arc::new(AtomicU64::new(body)) }
    }
}

/// Requests and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies, both ways.
    pub bytes: u64,
}

/// Requests and bytes by kind.
pub fn count(asked: &[Asked]) -> BTreeMap<Kind, Count> {
    let mut counts = BTreeMap::<Kind, Count>::new();
    for request in asked {
        let count = counts.entry(request.kind).or_default();
        count.requests += 1;
        count.bytes += request.bytes();
    }
    counts
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// 503 SlowDown, as S3 says it.
    SlowDown,
    /// The connection is reset after that many bytes of the body.
    Reset(u64),
    /// The connection is closed in order after that many bytes of a body that was announced longer.
    Short(u64),
    /// Nothing is answered.
    Silence,
}

struct Planned {
    fault: Fault,
    matches: Box<dyn Fn(&Asked) -> bool + Send>,
    left: usize,
    done: usize,
}

/// The proxy, which runs on threads of its own until it is dropped.
pub struct S3Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    server: SocketAddr,
    model: Model,
    log: Mutex<Vec<Asked>>,
    plan: Mutex<Vec<Planned>>,
}

impl S3Proxy {
    /// Listens on a free port of 127.0.0.1, for the server at `server`.
    pub fn start(server: SocketAddr, model: Model) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { server, model, log: Mutex::default(), plan: Mutex::default() });
        let listening = shared.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(listening.clone(), stream));
            }
        });
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` requests that match meet `fault`, unless an earlier plan that is not used up has them.
    pub fn plan(&self, fault: Fault, times: usize, matches: impl Fn(&Asked) -> bool + Send + 'static) {
        self.shared.plan().push(Planned { fault, matches: Box::new(matches), left: times, done: 0 });
    }

    /// Forgets the plans; how many requests met each of them, in the order in which they were made.
    pub fn heal(&self) -> Vec<usize> {
        self.shared.plan().drain(..).map(|planned| planned.done).collect()
    }

    /// The requests since the last call. Bytes of answers that still run are counted on.
    pub fn take_log(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.log())
    }
}

impl Drop for S3Proxy {
    fn drop(&mut self) {
        // Who waits for an answer gets none: connections close.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.log.lock().expect("nobody panics with the log in hand")
    }

    fn plan(&self) -> MutexGuard<'_, Vec<Planned>> {
        self.plan.lock().expect("nobody panics with the plan in hand")
    }

    fn fault(&self, asked: &Asked) -> Option<Fault> {
        let mut plan = self.plan();
        let planned = plan.iter_mut().find(|planned| planned.left > 0 && (planned.matches)(asked))?;
        planned.left -= 1;
        planned.done += 1;
        Some(planned.fault)
    }
}

/// One connection of a client.
struct Connection {
    shared: Arc<Shared>,
    /// To the server, for one request after the other; `None` before the first.
    upstream: tokio::sync::Mutex<Option<SendRequest<Incoming>>>,
    /// It ends with a reset.
    is_reset: AtomicBool,
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    drop(stream.set_nodelay(true));
    let connection = Connection { shared, upstream: tokio::sync::Mutex::default(), is_reset: AtomicBool::new(false) };
    let connection = Arc::new(connection);
    let answering = connection.clone();
    let service = hyper::service::service_fn(move |request| {
        let connection = answering.clone();
        Box::pin(async move { answer(&connection, request).await }) as Pin<Box<dyn Future<Output = Answer> + Send>>
    });
    let mut serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // It fails when the client goes, and when a body is cut: both end the connection.
    drop(std::future::poll_fn(|context| serving.poll_without_shutdown(context)).await);
    let stream = serving.into_parts().io.into_inner();
    if connection.is_reset.load(Relaxed) {
        drop(stream.set_zero_linger());
    }
}

async fn answer(connection: &Arc<Connection>, request: hyper::Request<Incoming>) -> Answer {
    let (shared, began) = (&connection.shared, Instant::now());
    let asked = Asked::of(&request);
    shared.log().push(asked.clone());
    let cut = match shared.fault(&asked) {
        Some(Fault::SlowDown) => return slow_down(),
        Some(Fault::Silence) => return std::future::pending().await,
        Some(Fault::Reset(after)) => Some(Cut { after, is_reset: true }),
        Some(Fault::Short(after)) => Some(Cut { after, is_reset: false }),
        None => None,
    };
    let response = forward(connection, request).await?;
    if !shared.model.first_byte.is_zero() {
        tokio::time::sleep_until(began + shared.model.first_byte).await;
    }
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    // They speak of the connection to the server.
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    let sending = Sending { body, asked, sent: 0, began: Instant::now(), cut, connection: connection.clone() };
    let body = StreamBody::new(try_unfold(sending, Sending::next)).boxed_unsync();
    Ok(hyper::Response::from_parts(head, body))
}

/// Sends the request to the server, over a new connection when there is none that is open.
async fn forward(
    connection: &Connection,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Incoming>, io::Error> {
    let mut upstream = connection.upstream.lock().await;
    let is_open = match upstream.as_mut() {
        Some(sender) => sender.ready().await.is_ok(),
        None => false,
    };
    if !is_open {
        let stream = TcpStream::connect(connection.shared.server).await?;
        stream.set_nodelay(true)?;
        let (sender, driving) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(driving);
        *upstream = Some(sender);
    }
    let sender = upstream.as_mut().ok_or_else(|| io::Error::other("no connection to the server"))?;
    sender.send_request(request).await.map_err(io::Error::other)
}

fn slow_down() -> Answer {
    let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request \
                rate.</Message><RequestId>0</RequestId></Error>";
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    let mut response = hyper::Response::new(body);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(response)
}

/// Where a body ends early.
#[derive(Clone, Copy)]
struct Cut {
    after: u64,
    is_reset: bool,
}

/// A body on its way to the client.
struct Sending {
    body: Incoming,
    asked: Asked,
    sent: u64,
    began: Instant,
    cut: Option<Cut>,
    connection: Arc<Connection>,
}

impl Sending {
    async fn next(mut self) -> Result<Option<(Frame<Bytes>, Self)>, io::Error> {
        if let Some(cut) = self.cut
            && self.sent >= cut.after
        {
            // What was given so far is flushed while this waits.
            tokio::task::yield_now().await;
            self.connection.is_reset.store(cut.is_reset, Relaxed);
            return match cut.is_reset {
                true => Err(io::ErrorKind::ConnectionReset.into()),
                false => Ok(None),
            };
        }
        while let Some(frame) = self.body.frame().await {
            let Ok(mut data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            if let Some(cut) = self.cut {
                data.truncate(usize::try_from(cut.after - self.sent).unwrap_or(usize::MAX));
            }
            self.sent += data.len() as u64;
            self.asked.bytes.fetch_add(data.len() as u64, Relaxed);
            let rate = self.connection.shared.model.stream_bytes_per_second;
            if rate < u64::MAX {
                let due = Duration::from_secs_f64(self.sent as f64 / rate as f64);
                tokio::time::sleep_until(self.began + due).await;
            }
            return Ok(Some((Frame::data(data), self)));
        }
        Ok(None)
    }
}

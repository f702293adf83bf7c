//! Requests to etcd: to one of its servers after the other, until one answers.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tonic::client::Grpc;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::StateError;
use crate::backoff::Backoff;
use crate::error::Fault;
use crate::limits::{MAX_ANSWER_BYTES, MAX_PREFIX_BYTES, PING_INTERVAL, PING_TIMEOUT};
use crate::message::{AuthenticateRequest, Call, TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::trust::Trust;

/// Where etcd is, and how it is used.
#[derive(Clone)]
pub struct StateOptions {
    /// Its servers: `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// What all keys begin with: `/onward/NAME`. Two clusters must not have the same.
    pub prefix: String,
    /// Name and password, where etcd asks for them.
    pub user: Option<(String, String)>,
    /// Whom to trust and as whom to come, where an endpoint is `https`.
    pub tls: Option<Tls>,
    /// The time of a request, over all servers that are tried.
    pub timeout: Duration,
    /// How long etcd waits for a sign of a leader; in whole seconds, rounded up. etcd makes it 2 s at least, by default.
    pub lease_ttl: Duration,
}

impl fmt::Debug for StateOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, prefix, user, tls, timeout, lease_ttl } = self;
        formatter
            .debug_struct("StateOptions")
            .field("endpoints", endpoints)
            .field("prefix", prefix)
            .field("user", &user.as_ref().map(|(name, _)| name))
            .field("tls", tls)
            .field("timeout", timeout)
            .field("lease_ttl", lease_ttl)
            .finish()
    }
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Certificates of the authorities that servers' certificates come from.
    pub ca: PathBuf,
    /// Our certificate and its private key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// etcd, and where in it. Clones share connections.
#[derive(Clone, Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: StateOptions,
    servers: Vec<Server>,
    /// The one that answered last.
    current: AtomicUsize,
    token: Mutex<Option<AsciiMetadataValue>>,
    /// Where all of it goes on.
    runtime: Handle,
}

#[derive(Debug)]
struct Server {
    url: String,
    channel: Channel,
    /// Where it has a certificate.
    trust: Option<(Uri, Arc<Trust>)>,
}

impl Etcd {
    /// Contacts nobody yet. To be called in a runtime of Tokio whose threads nobody keeps busy for long: what is kept alive is kept so there.
    ///
    /// # Errors
    /// [`StateError::Invalid`]: an option that cannot be, or a file that cannot be read.
    pub fn new(options: StateOptions) -> Result<Self, StateError> {
        let is_prefix = options.prefix.starts_with('/') && !options.prefix.ends_with('/');
        if !is_prefix || options.prefix.len() > MAX_PREFIX_BYTES {
            let message = format!("`{}` is no prefix of keys: write /onward/NAME", options.prefix);
            return Err(StateError::Invalid(message));
        }
        if options.endpoints.is_empty() {
            return Err(StateError::Invalid("etcd_endpoints: there is none in it".to_owned()));
        }
        if options.lease_ttl.is_zero() || options.timeout.is_zero() {
            return Err(StateError::Invalid("leader_lease_ms: it is 0, and a lease takes time".to_owned()));
        }
        let tls = options.tls.as_ref().map(|files| Trust::read(files).map(Arc::new)).transpose()?;
        let servers = options.endpoints.iter().map(|url| Server::new(url, tls.as_ref(), options.timeout));
        let servers = servers.collect::<Result<_, _>>()?;
        let shared = Shared {
            options,
            servers,
            current: AtomicUsize::new(0),
            token: Mutex::default(),
            runtime: Handle::current(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Does something in the background.
    pub(crate) fn spawn<F: Future<Output: Send> + Send + 'static>(&self, task: F) -> JoinHandle<F::Output> {
        self.shared.runtime.spawn(task)
    }

    /// The time of a request.
    pub(crate) fn timeout(&self) -> Duration {
        self.shared.options.timeout
    }

    /// The time of a lease that is asked for, in seconds.
    pub(crate) fn lease_ttl_s(&self) -> i64 {
        let ttl = self.shared.options.lease_ttl;
        i64::try_from(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).unwrap_or(i64::MAX)
    }

    /// A key of ours.
    pub(crate) fn key(&self, rest: &str) -> Vec<u8> {
        format!("{}/{rest}", self.shared.options.prefix).into_bytes()
    }

    /// Asks, again and again until somebody answers or the time is over: every request of this crate can be repeated.
    pub(crate) async fn call<Q: Call>(&self, request: &Q) -> Result<Q::Answer, Fault> {
        self.call_within(request, self.timeout()).await
    }

    /// See [`Self::call`].
    pub(crate) async fn call_within<Q: Call>(&self, request: &Q, time: Duration) -> Result<Q::Answer, Fault> {
        let deadline = Instant::now() + time;
        let mut backoff = Backoff::new();
        let (mut tries, mut has_new_token, mut refusal) = (0, false, None);
        loop {
            tries += 1;
            let fault = match self.call_once(request, deadline.min(Instant::now() + self.share(time))).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            match &fault {
                Fault::Token(_) if !has_new_token && self.shared.options.user.is_some() => {
                    has_new_token = true;
                    self.forget_token();
                    continue;
                }
                Fault::Unavailable(_) => {}
                _ => return Err(fault),
            }
            // The first round may have failed because connections were lost.
            if tries == 2 * self.shared.servers.len() {
                let mut refusals = timeout_at(deadline, self.refusals()).await.unwrap_or_default();
                let is_hopeless = refusals.len() == self.shared.servers.len();
                refusal = refusals.pop();
                if let Some(refusal) = refusal.take_if(|_| is_hopeless) {
                    return Err(Fault::Untrusted(refusal));
                }
            }
            // When all were asked once more.
            let is_round = tries % self.shared.servers.len() == 0;
            let wait = if is_round { backoff.next() } else { Duration::ZERO };
            if Instant::now() + wait >= deadline {
                return Err(refusal.map_or(fault, Fault::Unavailable));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks one server, once. When it does not answer the next request goes to another one.
    async fn call_once<Q: Call>(&self, request: &Q, deadline: Instant) -> Result<Q::Answer, Fault> {
        let (at, server) = self.current();
        let asking = async {
            let metadata = self.metadata(server).await?;
            server.unary(request.clone(), metadata).await
        };
        let silent = |_| Err(Fault::Unavailable(format!("{}: no answer in time", server.url)));
        let answer = timeout_at(deadline, asking).await.unwrap_or_else(silent);
        if let Err(Fault::Unavailable(_)) = answer {
            self.leave(at);
        }
        answer
    }

    /// Asks each server once: why none of them answered.
    pub(crate) async fn greet(&self) -> Option<Fault> {
        let mut silent = None;
        for _ in &self.shared.servers {
            match self.call_once(&TxnRequest::default(), Instant::now() + self.share(self.timeout())).await {
                Err(fault @ Fault::Unavailable(_)) => silent = Some(fault),
                // What it refuses, it answers.
                Ok(_) | Err(_) => return None,
            }
        }
        silent
    }

    /// Opens a watch: what comes are its answers, until something breaks.
    pub(crate) async fn watch(&self, create: WatchCreateRequest) -> Result<Watch<'_>, Fault> {
        let (at, server) = self.current();
        let opening = async {
            let metadata = self.metadata(server).await?;
            server.watch(create, metadata).await
        };
        let stream = match timeout_at(Instant::now() + self.share(self.timeout()), opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Fault::Unavailable(format!("{}: no answer in time", server.url))),
        };
        if stream.is_err() {
            self.leave(at);
        }
        Ok(Watch { etcd: self, at, stream: stream? })
    }

    /// The next request asks for a new one.
    pub(crate) fn forget_token(&self) {
        *self.shared.token.lock() = None;
    }

    fn current(&self) -> (usize, &Server) {
        let at = self.shared.current.load(Ordering::Relaxed);
        (at, &self.shared.servers[at])
    }

    /// This one did not answer. Somebody else may have found that too.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.shared.servers.len();
        let _ = self.shared.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The time of one server: each gets its turn, and one that is alone is asked twice.
    fn share(&self, time: Duration) -> Duration {
        let turns = self.shared.servers.len().max(2);
        time / u32::try_from(turns).unwrap_or(u32::MAX)
    }

    /// Why servers and we do not trust each other, of those where that is so.
    async fn refusals(&self) -> Vec<String> {
        let asking = self.shared.servers.iter().map(Server::refusal);
        futures::future::join_all(asking).await.into_iter().flatten().collect()
    }

    /// What goes with a request: who we are, and that a server without its cluster does not answer.
    async fn metadata(&self, server: &Server) -> Result<MetadataMap, Fault> {
        let mut metadata = MetadataMap::new();
        metadata.insert("hasleader", AsciiMetadataValue::from_static("true"));
        let Some((name, password)) = &self.shared.options.user else { return Ok(metadata) };
        let known = self.shared.token.lock().clone();
        let token = match known {
            Some(token) => token,
            None => {
                let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
                let answer = match server.unary(request, metadata.clone()).await {
                    // It asks nobody who they are.
                    Err(Fault::Invalid(message)) if message.contains("authentication is not enabled") => {
                        return Ok(metadata);
                    }
                    answer => answer?,
                };
                let malformed = |_| Fault::Invalid(format!("{}: a token that cannot be sent", server.url));
                let mut token: AsciiMetadataValue = answer.token.parse().map_err(malformed)?;
                // Not shown by `Debug`.
                token.set_sensitive(true);
                *self.shared.token.lock() = Some(token.clone());
                token
            }
        };
        metadata.insert("token", token);
        Ok(metadata)
    }
}

/// An open watch.
pub(crate) struct Watch<'a> {
    etcd: &'a Etcd,
    at: usize,
    stream: Streaming<WatchResponse>,
}

impl Watch<'_> {
    /// What comes next. After an error nothing does.
    pub(crate) async fn next(&mut self) -> Result<WatchResponse, Fault> {
        let server = &self.etcd.shared.servers[self.at];
        let fault = match self.stream.message().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => Fault::Unavailable(format!("{}: the watch ended", server.url)),
            Err(status) => server.fault(&status),
        };
        self.etcd.leave(self.at);
        Err(fault)
    }
}

impl Server {
    fn new(url: &str, trust: Option<&Arc<Trust>>, timeout: Duration) -> Result<Self, StateError> {
        let malformed = || StateError::Invalid(format!("`{url}` is no endpoint of etcd: write http(s)://HOST:PORT"));
        let is_tls = url.starts_with("https://");
        if !is_tls && !url.starts_with("http://") {
            return Err(malformed());
        }
        let mut endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| malformed())?;
        if is_tls {
            let Some(trust) = trust else {
                return Err(StateError::Invalid(format!("{url} needs etcd_ca: the authorities (PEM) to trust")));
            };
            let refused = |error| StateError::Invalid(format!("etcd_ca, etcd_cert, etcd_key: for {url}: {error}"));
            endpoint = endpoint.tls_config(trust.config()).map_err(refused)?;
        }
        let endpoint = endpoint
            .tcp_nodelay(true)
            .connect_timeout(timeout)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let trust = trust.filter(|_| is_tls).map(|trust| (endpoint.uri().clone(), Arc::clone(trust)));
        Ok(Self { url: url.to_owned(), channel: endpoint.connect_lazy(), trust })
    }

    async fn refusal(&self) -> Option<String> {
        let (uri, trust) = self.trust.as_ref()?;
        Some(format!("{}: {}", self.url, trust.refusal(uri).await?))
    }

    async fn client(&self) -> Result<Grpc<Channel>, Fault> {
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        client.ready().await.map_err(|error| self.unavailable(&error))?;
        Ok(client)
    }

    async fn unary<Q: Call>(&self, request: Q, metadata: MetadataMap) -> Result<Q::Answer, Fault> {
        let (path, codec) = (PathAndQuery::from_static(Q::PATH), ProstCodec::<Q, Q::Answer>::default());
        let request = Request::from_parts(metadata, Default::default(), request);
        let answer = self.client().await?.unary(request, path, codec).await;
        match answer.map(tonic::Response::into_inner) {
            Ok(answer) if Q::is_answer(&answer) => Ok(answer),
            Ok(_) => Err(self.is_another("its answer is empty")),
            Err(status) => Err(self.fault(&status)),
        }
    }

    async fn watch(
        &self,
        create: WatchCreateRequest,
        metadata: MetadataMap,
    ) -> Result<Streaming<WatchResponse>, Fault> {
        let (path, codec) = (PathAndQuery::from_static(WatchRequest::PATH), ProstCodec::default());
        let first = WatchRequest { create: Some(create) };
        // A stream of requests that ended would end the watch.
        let requests = futures::stream::iter([first]).chain(futures::stream::pending());
        let request = Request::from_parts(metadata, Default::default(), requests);
        let answer = self.client().await?.streaming(request, path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.fault(&status))
    }

    fn unavailable(&self, error: &dyn std::error::Error) -> Fault {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Fault::Unavailable(format!("{}: {innermost}", self.url))
    }

    /// Somebody else listens there.
    fn is_another(&self, why: &str) -> Fault {
        Fault::Invalid(format!("etcd_endpoints: {}: it answers, but not as etcd does ({why})", self.url))
    }

    /// What an error means. Codes decide; where etcd gives one code to different errors, its text does.
    fn fault(&self, status: &Status) -> Fault {
        let text = match status.message() {
            "" => status.code().description(),
            text => text,
        };
        let message = format!("{}: {text}", self.url);
        match status.code() {
            Code::Unauthenticated => Fault::Token(message),
            Code::InvalidArgument if text.contains("revision of auth store is old") => Fault::Token(message),
            Code::PermissionDenied => Fault::Denied(message),
            Code::InvalidArgument if text.contains("authentication failed") || text.contains("user name is empty") => {
                Fault::Denied(message)
            }
            Code::NotFound => Fault::NotFound(message),
            // Ours begin otherwise: those are of a message that is too long.
            Code::OutOfRange if text.starts_with("etcdserver") => Fault::Compacted(message),
            Code::OutOfRange => Fault::AnswerTooLarge(message),
            Code::Unimplemented => self.is_another(&format!("grpc status {:?}: {text}", status.code())),
            Code::InvalidArgument | Code::FailedPrecondition => Fault::Invalid(message),
            _ => match std::error::Error::source(status) {
                Some(source) => self.unavailable(source),
                None => Fault::Unavailable(message),
            },
        }
    }
}

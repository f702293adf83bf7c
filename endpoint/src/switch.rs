//! Where calls go: to this coordinator while it leads, else to the one that does.
//!
//! ```text
//!   call --> Switch --leads--------> Front of this coordinator
//!              |  \--hands over----> Front, if the call is about something that runs; else it waits
//!              |---elsewhere-------> the same call to the coordinator that leads (`relay`)
//!              +---nobody leads----> waits, up to `failover_wait_ms`
//! ```
//!
//! A client may therefore be connected to any coordinator, and notices a new leader only by the queries that the old one was
//! running. A call that was handed to a leader which is lost then is not sent again: it may have had an effect.
//!
//! Two coordinators that each take the other one for the leader do not hand a call to and fro: one that was handed on waits for what is
//! known later, for a second at most.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use onward_wire::{Config, ErrorKind};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::codegen::{BoxFuture, Service as Tower};
use tonic::metadata::MetadataMap;

use crate::auth::{Auth, basic_user_of};
use crate::connection::{ConnectionId, connection_of, peer_of, secret_of};
use crate::front::Front;
use crate::handle::Handle;
use crate::relay::{Call, HANDED_ON, PING, Peer, Relayed};
use crate::service::Service;
use crate::session::{SESSION_COOKIE, SESSION_HEADER, USER_HEADER, connection_session};
use crate::status;

/// Calls about what runs already, as long as a coordinator hands over to another one.
const OF_RUNNING: [&str; 3] = ["/DoGet", "/PollFlightInfo", "/DoAction"];
const HANDSHAKE: &str = "/Handshake";
const AUTHORIZATION: &str = "authorization";
/// The leader may be starting.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);
/// Who handed a call on took this coordinator for the leader, which it may be about to be. If it is not by then, the call goes on.
const BEFORE_NEXT_HOP: Duration = Duration::from_secs(1);

/// Where calls go now.
#[derive(Clone)]
pub(crate) enum Route {
    /// This coordinator leads.
    Here(Answers),
    /// It will lead no longer: what runs comes to its end.
    HandsOver(Answers),
    /// Another one leads.
    Elsewhere(Arc<Peer>),
    /// Nobody is known to lead.
    Nowhere,
}

/// A call that is being answered.
struct Answering(watch::Sender<usize>);

impl Answering {
    fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Who answers calls here.
#[derive(Clone)]
pub(crate) struct Answers(pub(crate) FlightServiceServer<Front>, pub(crate) Arc<Service>);

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub(crate) struct Switch {
    route: watch::Sender<Route>,
    /// Why nobody may lead, as far as is known.
    trouble: Arc<Mutex<Option<String>>>,
    auth: Arc<Auth>,
    /// There are several coordinators.
    is_shared: bool,
    wait: Duration,
    /// Of a message.
    most_bytes: usize,
    /// Calls that are being answered here.
    answering: watch::Sender<usize>,
    /// Calls that another one is answering.
    relaying: watch::Sender<usize>,
    is_ending: Arc<AtomicBool>,
    /// Connections with calls that went elsewhere, and what those were allowed by.
    relayed: Arc<Mutex<HashMap<ConnectionId, Option<HeaderValue>>>>,
}

impl Switch {
    /// Calls wait up to `failover_wait_ms` for somebody who leads.
    pub(crate) fn new(auth: Arc<Auth>, is_shared: bool, config: &Config) -> Self {
        let wait = Duration::from_millis(config.failover_wait_ms);
        let most_bytes = usize::try_from(config.max_message_bytes).unwrap_or(usize::MAX);
        let (route, answering, relayed) = (watch::Sender::new(Route::Nowhere), watch::Sender::new(0), Arc::default());
        let ((is_ending, trouble), relaying) = (Default::default(), watch::Sender::new(0));
        Self { route, trouble, auth, is_shared, wait, most_bytes, answering, relaying, is_ending, relayed }
    }

    /// From now on calls go there.
    pub(crate) fn set(&self, route: Route) {
        if let Route::Elsewhere(peer) = self.route.send_replace(route) {
            peer.is_replaced();
        }
    }

    /// What calls that wait in vain say besides.
    pub(crate) fn explain(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }

    /// Who answers here, if anybody.
    pub(crate) fn answers(&self) -> Option<Answers> {
        match &*self.route.borrow() {
            Route::Here(answers) | Route::HandsOver(answers) => Some(answers.clone()),
            Route::Elsewhere(_) | Route::Nowhere => None,
        }
    }

    /// From now on connections are closed by this side: what clients have elsewhere stays.
    pub(crate) fn ends(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// A client's connection is gone, and its session with it.
    pub(crate) fn connection_closed(&self, connection: ConnectionId, secret: Option<Handle>) {
        let authorization = self.relayed.lock().remove(&connection);
        let route = self.route.borrow().clone();
        match (route, authorization, secret) {
            (Route::Here(service) | Route::HandsOver(service), ..) => {
                if let Some(client) = service.1.sessions.connection_closed(connection, secret) {
                    service.1.results.client_gone(&client);
                }
            }
            (Route::Elsewhere(peer), Some(authorization), Some(secret)) if !self.is_ending.load(Ordering::Relaxed) => {
                tokio::spawn(async move { peer.close_session(&connection_session(secret), authorization).await });
            }
            _ => {}
        }
    }

    async fn route(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        if request.uri().path() == PING {
            return Ok(Status::ok("").into_http());
        }
        if self.is_shared {
            name_session(&mut request);
        }
        let mut until = Instant::now() + self.wait;
        let mut route = self.route.subscribe();
        let mut is_checked = false;
        // What is known now who handed it on may know better.
        let mut must_wait = request.headers().contains_key(HANDED_ON);
        loop {
            let now = route.borrow_and_update().clone();
            let path = request.uri().path();
            match now {
                Route::Here(answers) => return self.answer(answers, request).await,
                Route::HandsOver(answers) if OF_RUNNING.iter().any(|call| path.ends_with(call)) => {
                    return self.answer(answers, request).await;
                }
                // A handshake brings its token in the first message.
                _ if !is_checked && !path.ends_with(HANDSHAKE) => {
                    self.auth.check(&MetadataMap::from_headers(request.headers().clone()))?;
                    is_checked = true;
                    continue;
                }
                Route::Elsewhere(_) if must_wait => {
                    must_wait = false;
                    // Whether it changes or not.
                    let _ = tokio::time::timeout(BEFORE_NEXT_HOP, route.changed()).await;
                    continue;
                }
                Route::Elsewhere(peer) => {
                    if let Some(connection) = connection_of(request.extensions()) {
                        self.relayed.lock().insert(connection, request.headers().get(AUTHORIZATION).cloned());
                    }
                    return self.relay(request, peer, until).await;
                }
                // What runs may take its time.
                Route::HandsOver(_) => until = until.max(Instant::now() + self.wait),
                Route::Nowhere => {}
            }
            must_wait = false;
            self.changed(&mut route, until).await?;
        }
    }

    /// A call that goes to another coordinator, or to the one after that, as long as none got it.
    async fn relay(&self, request: Request<Body>, first: Arc<Peer>, until: Instant) -> Result<Response<Body>, Status> {
        let _relaying = Answering::begin(&self.relaying);
        let mut call = Call::of(request, self.most_bytes).await?;
        let mut route = self.route.subscribe();
        let mut now = Route::Elsewhere(first);
        loop {
            match now {
                Route::Elsewhere(peer) => match peer.relay(&mut call).await {
                    Ok(response) => return Ok(response),
                    Err(Relayed::Lost(status)) => return Err(status),
                    Err(Relayed::NotSent) => {}
                },
                Route::Here(answers) => {
                    let again =
                        || status::new(ErrorKind::Unavailable, "another coordinator leads now: try again", None);
                    return self.answer(answers, call.next().ok_or_else(again)?).await;
                }
                Route::HandsOver(_) | Route::Nowhere => {}
            }
            self.changed(&mut route, until).await?;
            now = route.borrow_and_update().clone();
        }
    }

    async fn answer(&self, answers: Answers, request: Request<Body>) -> Result<Response<Body>, Status> {
        let _answering = Answering::begin(&self.answering);
        let mut front = answers.0;
        match front.call(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }

    /// Resolves when no call is being answered. Rows that are being sent are not waited for.
    pub(crate) async fn answered(&self) {
        // An error: there is no sender, so nothing is answered.
        let _ = self.answering.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Resolves when no call was handed on for `quiet`: clients had the time to ask for what those answered.
    pub(crate) async fn handed_on(&self, quiet: Duration) {
        let mut relaying = self.relaying.subscribe();
        // An error: there is no sender, so nothing is handed on.
        while relaying.wait_for(|count| *count == 0).await.is_ok() {
            match tokio::time::timeout(quiet, relaying.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Waits for another leader, or until it is worth another try.
    async fn changed(&self, route: &mut watch::Receiver<Route>, until: Instant) -> Result<(), Status> {
        let next = async {
            tokio::select! {
                // An error: the server ends, and this call with it.
                _ = route.changed() => {}
                () = tokio::time::sleep(BETWEEN_TRIES) => {}
            }
        };
        tokio::time::timeout_at(until, next).await.map_err(|_| {
            let failure = match &*self.route.borrow() {
                Route::Elsewhere(peer) => peer.failure(),
                _ => None,
            };
            let message = unreached(self.wait, [failure, self.trouble.lock().clone()]);
            status::new(ErrorKind::Unavailable, message, None)
        })
    }
}

fn unreached(wait: Duration, why: [Option<String>; 2]) -> String {
    let why: Vec<_> = why.into_iter().flatten().collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
    format!("no coordinator that leads was reached in {} ms (failover_wait_ms){why}: try again", wait.as_millis())
}

/// The session of a connection is known by a name that goes with its calls to whoever leads, and so is its user.
fn name_session(request: &mut Request<Body>) {
    let headers = request.headers();
    let has_cookie = headers.get_all("cookie").iter().any(|cookie| {
        let cookie = cookie.to_str().unwrap_or_default();
        cookie.split(';').any(|cookie| cookie.trim().starts_with(SESSION_COOKIE))
    });
    let (secret, peer) = (secret_of(request.extensions()), peer_of(request.extensions()));
    let is_named = has_cookie || headers.contains_key(SESSION_HEADER);
    if let (false, Some(secret)) = (is_named, secret) {
        insert(request.headers_mut(), SESSION_HEADER, &connection_session(secret));
    }
    let has_user = request.headers().contains_key(USER_HEADER) || basic_user_of(request.headers()).is_some();
    if let (false, Some(peer)) = (has_user, peer) {
        insert(request.headers_mut(), USER_HEADER, &peer.to_string());
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

impl Tower<Request<Body>> for Switch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let switch = self.clone();
        Box::pin(async move { Ok(switch.route(request).await.unwrap_or_else(Status::into_http)) })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Who handed it on takes this coordinator for the leader, and this one takes another one for it: one of them is about to know better.
    #[tokio::test]
    async fn a_call_that_was_handed_on_goes_on_by_what_is_known_later() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("grpc://{}", listener.local_addr().unwrap());
        let elsewhere = || Route::Elsewhere(Arc::new(Peer::new(&url, None).unwrap()));
        let config = Config { failover_wait_ms: 0, ..Config::default() };
        let switch = Switch::new(Arc::new(Auth::open()), true, &config);
        let mut call = Request::new(Body::empty());
        *call.uri_mut() = "/arrow.flight.protocol.FlightService/GetFlightInfo".parse().unwrap();
        let mut handed_on = Request::new(Body::empty());
        *handed_on.uri_mut() = call.uri().clone();
        handed_on.headers_mut().insert(HANDED_ON, HeaderValue::from_static("1"));

        switch.set(elsewhere());
        let mut waiting = Box::pin(switch.route(handed_on));
        assert!((&mut waiting).now_or_never().is_none());
        switch.set(Route::Nowhere);
        let refused = waiting.await.expect_err("nobody leads");
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        assert!(listener.accept().now_or_never().is_none(), "it went to and fro");

        switch.set(elsewhere());
        tokio::select! {
            answer = switch.route(call) => panic!("nobody answers: {:?}", answer.map(|answer| answer.status())),
            connected = listener.accept() => drop(connected.unwrap()),
        }
    }

    #[test]
    fn a_call_that_waited_in_vain_says_all_that_is_known() {
        let said = |failure: Option<&str>, trouble: Option<&str>| {
            unreached(Duration::from_secs(1), [failure.map(str::to_owned), trouble.map(str::to_owned)])
        };
        let (begin, end) = ("no coordinator that leads was reached in 1000 ms (failover_wait_ms)", ": try again");
        assert_eq!(said(None, None), format!("{begin}{end}"));
        assert_eq!(said(None, Some("etcd does not answer")), format!("{begin} (etcd does not answer){end}"));
        assert_eq!(said(Some("a: refused"), Some("b")), format!("{begin} (a: refused; b){end}"));
    }
}

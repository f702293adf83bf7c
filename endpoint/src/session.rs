//! Which session a call belongs to.
//!
//! ```text
//!   x-onward-session: NAME        -> the session of that name (the client makes the name up; a UUID is a good one)
//!   cookie: arrow_flight_session_id=ID  -> the session that this cookie was set for
//!   neither                       -> the session of the connection, so `SET` lasts as long as the connection
//! ```
//!
//! The first call of a session is answered with its cookie, so a client that keeps cookies (JDBC; ADBC with
//! `adbc.flight.sql.rpc.with_cookie_middleware`) keeps its session across connections. A session whose cookie was never
//! used ends with its connection; any session ends after `session_idle_timeout_ms` without a call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward_coordinator::{Coordinator, Session, SessionOptions};
use parking_lot::Mutex;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use crate::auth::basic_user;
use crate::connection::{ConnectionId, connection_of, peer_of};
use crate::handle::Handle;
use crate::status;

/// Header that names a session.
pub const SESSION_HEADER: &str = "x-onward-session";
/// Header that names a user, for sessions that begin with the call; without it the user of Basic credentials, or the address of the client.
pub const USER_HEADER: &str = "x-onward-user";
/// Cookie that names a session.
pub const SESSION_COOKIE: &str = "arrow_flight_session_id";
/// Longest name a client can make up for its session, in bytes.
const MAX_SESSION_NAME_BYTES: usize = 256;
/// Longest name of a user; the rest is left out.
const MAX_USER_CHARACTERS: usize = 128;

/// One client's session, and when it was used last.
pub(crate) struct ClientSession {
    /// The coordinator's part: settings, temporary state.
    pub(crate) session: Arc<Session>,
    key: Key,
    cookie: Handle,
    /// Some call came by cookie or name, so the session outlives its connection.
    is_kept: AtomicBool,
    /// Its client said so, or its connection is gone.
    is_closed: AtomicBool,
    /// Milliseconds since the server started.
    used_ms: AtomicU64,
}

/// What finds a session when no cookie does.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Connection(ConnectionId),
    Name(String),
    /// A call without connection (in-process transports): its own session, found by cookie only.
    Cookie(Handle),
}

/// The session of a call, and the cookie to answer with when the session is new.
pub(crate) struct Resolved {
    /// The session.
    pub(crate) client: Arc<ClientSession>,
    /// Value of a `set-cookie` header.
    pub(crate) set_cookie: Option<String>,
}

/// All sessions of the endpoint. Bounded by the coordinator's `max_sessions`.
pub(crate) struct Sessions {
    coordinator: Arc<Coordinator>,
    options: SessionOptions,
    idle_timeout: Duration,
    started: Instant,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_key: HashMap<Key, Arc<ClientSession>>,
    by_cookie: HashMap<Handle, Arc<ClientSession>>,
}

impl Sessions {
    /// No session yet; each will be opened with `options`.
    pub(crate) fn new(coordinator: Arc<Coordinator>, options: SessionOptions, idle_timeout: Duration) -> Self {
        Self { coordinator, options, idle_timeout, started: Instant::now(), open: Mutex::default() }
    }

    /// The session of a call; a new one when there is none.
    pub(crate) fn resolve(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<Resolved, Status> {
        let name = session_name(metadata)?;
        let mut open = self.open.lock();
        let cookie = cookies(metadata).find_map(|cookie| open.by_cookie.get(&cookie).cloned());
        if let (None, Some(client)) = (&name, cookie) {
            client.is_kept.store(true, Ordering::Relaxed);
            self.touch(&client);
            return Ok(Resolved { client, set_cookie: None });
        }
        let handle = Handle::random()?;
        let is_named = name.is_some();
        let key = match (name, connection_of(extensions)) {
            (Some(name), _) => Key::Name(name),
            (None, Some(connection)) => Key::Connection(connection),
            (None, None) => Key::Cookie(handle),
        };
        if let Some(client) = open.by_key.get(&key) {
            self.touch(client);
            return Ok(Resolved { client: client.clone(), set_cookie: None });
        }
        let options = SessionOptions { user: user_of(metadata, extensions).into(), ..self.options.clone() };
        let session = self.coordinator.session(options).map_err(|error| status::from_query_error(&error))?;
        let client = Arc::new(ClientSession {
            session,
            key: key.clone(),
            cookie: handle,
            is_kept: AtomicBool::new(is_named),
            is_closed: AtomicBool::new(false),
            used_ms: AtomicU64::new(self.now_ms()),
        });
        open.by_cookie.insert(handle, client.clone());
        open.by_key.insert(key, client.clone());
        let set_cookie = Some(format!("{SESSION_COOKIE}={handle}; HttpOnly; SameSite=Strict"));
        Ok(Resolved { client, set_cookie })
    }

    /// Ends a session at its client's wish.
    pub(crate) fn close(&self, client: &ClientSession) {
        self.open.lock().remove(client);
        client.is_closed.store(true, Ordering::SeqCst);
    }

    /// A connection is gone: so is its session, which this gives, unless the client knows it by cookie.
    pub(crate) fn connection_closed(&self, connection: ConnectionId) -> Option<Arc<ClientSession>> {
        let key = Key::Connection(connection);
        let mut open = self.open.lock();
        let client = open.by_key.remove(&key)?;
        if client.is_kept.load(Ordering::Relaxed) {
            return None;
        }
        open.by_cookie.remove(&client.cookie);
        client.is_closed.store(true, Ordering::SeqCst);
        Some(client)
    }

    /// Ends sessions without a call for `session_idle_timeout_ms`. One that a call or a result holds is not idle.
    pub(crate) fn close_idle(&self) {
        let now = self.now_ms();
        let idle_ms = u64::try_from(self.idle_timeout.as_millis()).unwrap_or(u64::MAX);
        let mut open = self.open.lock();
        let is_idle = |client: &Arc<ClientSession>, owners: usize| {
            now.saturating_sub(client.used_ms.load(Ordering::Relaxed)) >= idle_ms && Arc::strong_count(client) <= owners
        };
        let idle: Vec<_> = (open.by_cookie.values())
            .filter(|client| is_idle(client, 1 + usize::from(open.by_key.contains_key(&client.key))))
            .cloned()
            .collect();
        for client in idle {
            open.remove(&client);
        }
    }

    fn touch(&self, client: &ClientSession) {
        client.used_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Open {
    fn remove(&mut self, client: &ClientSession) {
        self.by_cookie.remove(&client.cookie);
        self.by_key.remove(&client.key);
    }
}

impl ClientSession {
    /// Its client is gone: nobody will fetch what it started.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Value of the `set-cookie` header that makes the client forget this session.
    pub(crate) fn expired_cookie() -> String {
        format!("{SESSION_COOKIE}=; Max-Age=0")
    }
}

/// Whose session it is: what [`USER_HEADER`] says, else the user of Basic credentials, else the client's address. Nobody checks
/// it: it decides who shares places and functions with whom, and gives no rights.
fn user_of(metadata: &MetadataMap, extensions: &Extensions) -> String {
    let header = metadata.get(USER_HEADER).and_then(|header| header.to_str().ok()).map(str::trim);
    let named = header.map(str::to_owned).or_else(|| basic_user(metadata));
    let named = named.filter(|user| !user.is_empty()).or_else(|| peer_of(extensions).map(|peer| peer.to_string()));
    named.unwrap_or_default().chars().take(MAX_USER_CHARACTERS).collect()
}

fn session_name(metadata: &MetadataMap) -> Result<Option<String>, Status> {
    let Some(header) = metadata.get(SESSION_HEADER) else { return Ok(None) };
    match header.to_str() {
        Ok(name) if !name.is_empty() && name.len() <= MAX_SESSION_NAME_BYTES => Ok(Some(name.to_owned())),
        _ => Err(Status::invalid_argument(format!(
            "{SESSION_HEADER} must be 1 to {MAX_SESSION_NAME_BYTES} printable ASCII characters"
        ))),
    }
}

/// The session cookies of a call. Clients may send several headers, and several cookies in each.
fn cookies(metadata: &MetadataMap) -> impl Iterator<Item = Handle> {
    (metadata.get_all("cookie").iter())
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix(SESSION_COOKIE)?.strip_prefix('='))
        .filter_map(|value| Handle::parse(value.trim_matches('"').as_bytes()))
}

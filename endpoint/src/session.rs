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

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use onward_coordinator::{Coordinator, Session, SessionOptions};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use crate::auth::basic_user;
use crate::connection::{ConnectionId, connection_of, peer_of};
use crate::handle::Handle;
use crate::kept::{self, Found, SessionRecord};
use crate::status;

/// Header that names a session.
pub const SESSION_HEADER: &str = "x-onward-session";
/// Header that names a user, for sessions that begin with the call; without it the user of Basic credentials, or the address of the client.
pub const USER_HEADER: &str = "x-onward-user";
/// Cookie that names a session.
pub const SESSION_COOKIE: &str = "arrow_flight_session_id";
/// Of several coordinators, one names the session of a connection so: whoever leads knows it by that.
const CONNECTION_SESSION: &str = "connection-";
/// Longest name a client can make up for its session, in bytes.
const MAX_SESSION_NAME_BYTES: usize = 256;
/// Longest name of a user; the rest is left out.
const MAX_USER_CHARACTERS: usize = 128;

/// One client's session, and when it was used last.
pub(crate) struct ClientSession {
    /// The coordinator's part: settings, temporary state.
    pub(crate) session: Arc<Session>,
    key: Key,
    pub(crate) cookie: Handle,
    user: Arc<str>,
    /// As it is kept for other coordinators; `None`: it is not.
    kept: tokio::sync::Mutex<Option<Vec<u8>>>,
    /// Its prepared statements that are kept.
    statements: Mutex<HashSet<Handle>>,
    /// What the coordinator before this one kept, until it is restored.
    restoring: OnceCell<()>,
    record: SessionRecord,
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
    /// Of the coordinator before this one: nobody has called for them yet.
    found: Found,
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
        for found in open.found_for(name.as_deref(), cookies(metadata)) {
            self.reopen(&mut open, found)?;
        }
        let cookie = cookies(metadata).find_map(|cookie| open.by_cookie.get(&cookie).cloned());
        if let (None, Some(client)) = (&name, cookie) {
            client.is_kept.store(true, Ordering::Relaxed);
            self.touch(&client);
            return Ok(Resolved { client, set_cookie: None });
        }
        let handle = Handle::random()?;
        let is_named = name.as_deref().is_some_and(|name| !name.starts_with(CONNECTION_SESSION));
        let key = match (name, connection_of(extensions)) {
            (Some(name), _) => Key::Name(name),
            (None, Some(connection)) => Key::Connection(connection),
            (None, None) => Key::Cookie(handle),
        };
        if let Some(client) = open.by_key.get(&key) {
            self.touch(client);
            return Ok(Resolved { client: client.clone(), set_cookie: None });
        }
        let record = SessionRecord { user: user_of(metadata, extensions), ..SessionRecord::default() };
        let client = self.begin(&mut open, key, handle, is_named, record)?;
        let set_cookie = Some(format!("{SESSION_COOKIE}={handle}; HttpOnly; SameSite=Strict"));
        Ok(Resolved { client, set_cookie })
    }

    fn begin(
        &self,
        open: &mut Open,
        key: Key,
        cookie: Handle,
        is_kept: bool,
        record: SessionRecord,
    ) -> Result<Arc<ClientSession>, Status> {
        let user: Arc<str> = record.user.as_str().into();
        let options = SessionOptions { user: Arc::clone(&user), ..self.options.clone() };
        let session = self.coordinator.session(options).map_err(|error| status::from_query_error(&error))?;
        let client = Arc::new(ClientSession {
            session,
            key: key.clone(),
            cookie,
            user,
            kept: tokio::sync::Mutex::default(),
            statements: Mutex::default(),
            restoring: OnceCell::new(),
            record,
            is_kept: AtomicBool::new(is_kept),
            is_closed: AtomicBool::new(false),
            used_ms: AtomicU64::new(self.now_ms()),
        });
        open.by_cookie.insert(cookie, client.clone());
        open.by_key.insert(key, client.clone());
        Ok(client)
    }

    /// Opens a session that the coordinator before this one had.
    fn reopen(&self, open: &mut Open, cookie: Handle) -> Result<(), Status> {
        let Some(record) = open.found.sessions.remove(&cookie) else { return Ok(()) };
        let key = record.name.clone().map_or(Key::Cookie(cookie), Key::Name);
        let kept = serde_json::to_vec(&record).ok();
        let client = match self.begin(open, key, cookie, true, record.clone()) {
            Ok(client) => client,
            Err(refused) => {
                open.found.sessions.insert(cookie, record);
                return Err(refused);
            }
        };
        record.restore(&client.session);
        let statements = open.found.statements.iter().filter(|(_, (of, _))| *of == cookie);
        client.statements.lock().extend(statements.map(|(handle, _)| *handle));
        // Nobody else has it yet.
        if let Ok(mut before) = client.kept.try_lock() {
            *before = kept;
        }
        Ok(())
    }

    /// Sessions and prepared statements of the coordinator before this one.
    pub(crate) fn take_over(&self, found: Found) {
        self.open.lock().found = found;
    }

    /// The session and the text of a prepared statement of the coordinator before this one.
    pub(crate) fn statement_found(&self, handle: Handle) -> Result<Option<(Arc<ClientSession>, String)>, Status> {
        let mut open = self.open.lock();
        let Some((cookie, text)) = open.found.statements.get(&handle).cloned() else { return Ok(None) };
        self.reopen(&mut open, cookie)?;
        Ok(open.by_cookie.get(&cookie).map(|client| (Arc::clone(client), text)))
    }

    /// It is there again.
    pub(crate) fn statement_restored(&self, handle: Handle) {
        self.open.lock().found.statements.remove(&handle);
    }

    /// Keeps what a call changed, for the coordinator after this one; nothing when there is none.
    pub(crate) async fn keep(&self, client: &ClientSession) -> Result<(), Status> {
        self.keep_if(client, |record| !record.is_plain()).await
    }

    async fn keep_if(
        &self,
        client: &ClientSession,
        is_worth_it: impl FnOnce(&SessionRecord) -> bool,
    ) -> Result<(), Status> {
        let Some(state) = self.coordinator.state() else { return Ok(()) };
        let mut kept = client.kept.lock().await;
        let name = match &client.key {
            Key::Name(name) => Some(name.clone()),
            Key::Connection(_) | Key::Cookie(_) => None,
        };
        let record = SessionRecord::of(name, &client.user, &client.session);
        if kept.is_none() && !is_worth_it(&record) {
            return Ok(());
        }
        let record = serde_json::to_vec(&record).map_err(|error| Status::internal(error.to_string()))?;
        if kept.as_ref() != Some(&record) {
            kept::write(state, client.cookie, record.clone()).await?;
            *kept = Some(record);
        }
        Ok(())
    }

    /// Keeps a prepared statement, and the session that it belongs to.
    pub(crate) async fn keep_statement(&self, client: &ClientSession, handle: Handle, sql: &str) -> Result<(), Status> {
        let Some(state) = self.coordinator.state() else { return Ok(()) };
        self.keep_if(client, |_| true).await?;
        kept::write_statement(state, client.cookie, handle, sql).await?;
        client.statements.lock().insert(handle);
        Ok(())
    }

    /// A prepared statement was closed.
    pub(crate) fn forget_statement(&self, client: &ClientSession, handle: Handle) {
        if let Some(state) = self.coordinator.state()
            && client.statements.lock().remove(&handle)
        {
            kept::forget(state, client.cookie, false, vec![handle]);
        }
    }

    /// A session ended.
    fn forget(&self, client: &ClientSession) {
        let statements = client.statements.lock().drain().collect();
        if let Some(state) = self.coordinator.state() {
            let with_session = client.kept.try_lock().is_ok_and(|kept| kept.is_some());
            kept::forget(state, client.cookie, with_session, statements);
        }
    }

    /// Ends a session at its client's wish.
    pub(crate) fn close(&self, client: &ClientSession) {
        self.open.lock().remove(client);
        client.is_closed.store(true, Ordering::SeqCst);
        self.forget(client);
    }

    /// A connection is gone: so is its session, which this gives, unless the client knows it by cookie.
    pub(crate) fn connection_closed(
        &self,
        connection: ConnectionId,
        secret: Option<Handle>,
    ) -> Option<Arc<ClientSession>> {
        let named = secret.map(|secret| Key::Name(connection_session(secret)));
        let mut open = self.open.lock();
        let by_name = named.and_then(|name| open.by_key.remove(&name));
        let client = by_name.or_else(|| open.by_key.remove(&Key::Connection(connection)))?;
        if client.is_kept.load(Ordering::Relaxed) {
            return None;
        }
        open.by_cookie.remove(&client.cookie);
        client.is_closed.store(true, Ordering::SeqCst);
        self.forget(&client);
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
            self.forget(&client);
        }
        // Nobody called for these.
        if now >= idle_ms
            && let Some(state) = self.coordinator.state()
        {
            let found = std::mem::take(&mut open.found);
            let mut by_session: HashMap<Handle, Vec<Handle>> = HashMap::new();
            for (handle, (cookie, _)) in &found.statements {
                by_session.entry(*cookie).or_default().push(*handle);
            }
            for cookie in found.sessions.keys() {
                kept::forget(state, *cookie, true, by_session.remove(cookie).unwrap_or_default());
            }
            // Of sessions that are open: somebody may still come for them.
            let is_open = |cookie: &Handle| open.by_cookie.contains_key(cookie);
            open.found.statements = found.statements.into_iter().filter(|(_, (cookie, _))| is_open(cookie)).collect();
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
    /// Sessions of the coordinator before this one that a call is for.
    fn found_for(&self, name: Option<&str>, cookies: impl Iterator<Item = Handle>) -> Vec<Handle> {
        let is_named = |record: &SessionRecord| name.is_some() && record.name.as_deref() == name;
        let named = self.found.sessions.iter().filter(|(_, record)| is_named(record)).map(|(cookie, _)| *cookie);
        named.chain(cookies).filter(|cookie| self.found.sessions.contains_key(cookie)).collect()
    }

    fn remove(&mut self, client: &ClientSession) {
        self.by_cookie.remove(&client.cookie);
        self.by_key.remove(&client.key);
    }
}

impl ClientSession {
    /// Resolves when it is what it was at the coordinator before this one.
    pub(crate) async fn restored(&self) {
        let restore = async || {
            for statement in self.record.named() {
                let run = async { self.session.execute(statement).await?.stream.try_for_each(async |_| Ok(())).await };
                if let Err(error) = run.await {
                    tracing::warn!(%error, "a statement of PREPARE is gone");
                }
            }
        };
        self.restoring.get_or_init(restore).await;
    }

    /// Its client is gone: nobody will fetch what it started.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Value of the `set-cookie` header that makes the client forget this session.
    pub(crate) fn expired_cookie() -> String {
        format!("{SESSION_COOKIE}=; Max-Age=0")
    }
}

/// The name of a connection's session.
pub(crate) fn connection_session(secret: Handle) -> String {
    format!("{CONNECTION_SESSION}{secret}")
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

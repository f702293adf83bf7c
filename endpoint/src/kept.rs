//! What of sessions outlives a coordinator that is one of several: settings and prepared statements.
//!
//! ```text
//!   sessions/COOKIE             name, user, settings that are not those of a new session, statements of PREPARE
//!   prepared/COOKIE/HANDLE      the text of a prepared statement
//! ```
//!
//! It is written before the call that changed it is answered. The next leader reads all of it, and opens a session when a call comes for
//! it. What is not kept: values that are bound to a statement, and results.

use std::collections::{BTreeMap, HashMap};

use onward_coordinator::Session;
use onward_state::{Change, Fenced, StateError};
use onward_wire::ErrorKind;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::handle::Handle;
use crate::status;

const SESSIONS: &str = "sessions/";
const PREPARED: &str = "prepared/";

/// A session, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    /// The name that its client made up.
    pub(crate) name: Option<String>,
    pub(crate) user: String,
    pub(crate) settings: BTreeMap<String, Option<String>>,
    pub(crate) named: Vec<String>,
}

/// All sessions that a coordinator before this one kept.
#[derive(Default)]
pub(crate) struct Found {
    /// By cookie.
    pub(crate) sessions: HashMap<Handle, SessionRecord>,
    /// Cookie and text, by handle.
    pub(crate) statements: HashMap<Handle, (Handle, String)>,
}

impl SessionRecord {
    /// Of a session as it is now.
    pub(crate) fn of(name: Option<String>, user: &str, session: &Session) -> Self {
        let (settings, named) = (session.changed_settings(), session.named_statements());
        Self { name, user: user.to_owned(), settings, named }
    }

    /// A new session of the same client would be the same.
    pub(crate) fn is_plain(&self) -> bool {
        self.settings.is_empty() && self.named.is_empty()
    }

    /// Makes a new session what this one was.
    pub(crate) fn restore(&self, session: &Session) {
        for (name, error) in session.restore_settings(&self.settings) {
            tracing::warn!(name, error, "a setting of a session is not what it was");
        }
    }

    /// Statements of PREPARE, which take time.
    pub(crate) fn named(&self) -> &[String] {
        &self.named
    }
}

/// Reads all there is. What cannot be understood is left where it is: an older version wrote it, or a newer one.
pub(crate) async fn read(state: &Fenced) -> Result<Found, StateError> {
    let mut found = Found::default();
    for (key, value) in state.list(SESSIONS).await? {
        let cookie = Handle::parse(&key.as_bytes()[SESSIONS.len()..]);
        match (cookie, serde_json::from_slice(&value)) {
            (Some(cookie), Ok(record)) => drop(found.sessions.insert(cookie, record)),
            _ => tracing::warn!(key, "no session that this version knows"),
        }
    }
    for (key, text) in state.list(PREPARED).await? {
        let handles = key[PREPARED.len()..].split_once('/');
        let handles = handles.and_then(|(one, two)| Handle::parse(one.as_bytes()).zip(Handle::parse(two.as_bytes())));
        match (handles, String::from_utf8(text)) {
            (Some((cookie, handle)), Ok(text)) => drop(found.statements.insert(handle, (cookie, text))),
            _ => tracing::warn!(key, "no prepared statement that this version knows"),
        }
    }
    Ok(found)
}

/// Keeps a session.
pub(crate) async fn write(state: &Fenced, cookie: Handle, record: Vec<u8>) -> Result<(), Status> {
    change(state, vec![Change::Put { key: format!("{SESSIONS}{cookie}"), value: record }]).await
}

/// Keeps a prepared statement.
pub(crate) async fn write_statement(state: &Fenced, cookie: Handle, handle: Handle, sql: &str) -> Result<(), Status> {
    let value = sql.as_bytes().to_vec();
    change(state, vec![Change::Put { key: format!("{PREPARED}{cookie}/{handle}"), value }]).await
}

/// Forgets a session, or nothing but some statements of it. It takes its time; what is not forgotten now is when the next leader finds
/// it idle.
pub(crate) fn forget(state: &Fenced, cookie: Handle, with_session: bool, statements: Vec<Handle>) {
    let session = with_session.then(|| format!("{SESSIONS}{cookie}"));
    let statements = statements.into_iter().map(|handle| format!("{PREPARED}{cookie}/{handle}"));
    let changes: Vec<_> = session.into_iter().chain(statements).map(|key| Change::Delete { key }).collect();
    if changes.is_empty() {
        return;
    }
    let state = state.clone();
    tokio::spawn(async move {
        if let Err(error) = state.write_in_order(changes).await {
            tracing::debug!(%error, "a session that ended is still kept");
        }
    });
}

async fn change(state: &Fenced, changes: Vec<Change>) -> Result<(), Status> {
    state.write(changes).await.map_err(|error| match error {
        StateError::TooLarge { .. } => {
            status::new(ErrorKind::ResourceExhausted, format!("the session cannot be kept: {error}"), None)
        }
        error => {
            status::new(ErrorKind::Unavailable, format!("the session could not be kept: {error}: try again"), None)
        }
    })
}

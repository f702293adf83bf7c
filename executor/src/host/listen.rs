//! Accepts functions: version, token and process id are checked before anything else is said.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use onward_wire::message::{Hello, RequestFailed, ToFunction, ToHost, to_host};
use onward_wire::{ENGINE_VERSION, ErrorKind, FunctionId, WireError};
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use crate::socket::{self, Receiver, Sender, SocketError};

/// Handshakes at a time. Only processes of this user reach the socket; the bound is for those that never say hello.
const MAX_HANDSHAKES: usize = 128;

/// A function that said hello with the right version and token.
pub(super) struct Arrived {
    pub(super) sender: Sender<ToFunction>,
    pub(super) receiver: Receiver<ToHost>,
    pub(super) flusher: socket::Flusher,
    /// Its process, as the kernel says.
    pub(super) pid: Option<i32>,
}

/// Tokens of functions that were launched and have not arrived.
#[derive(Default)]
pub(super) struct Expected {
    by_token: Mutex<HashMap<String, (FunctionId, oneshot::Sender<Arrival>)>>,
}

/// A function that arrived, or why it was refused.
pub(super) type Arrival = Result<Arrived, String>;

impl Expected {
    /// Awaits the function that brings `token`: its connection, or why it was refused.
    pub(super) fn expect(&self, token: String, function: FunctionId) -> oneshot::Receiver<Arrival> {
        let (arrived, arrival) = oneshot::channel();
        self.by_token.lock().insert(token, (function, arrived));
        arrival
    }

    /// A token is good once, and only while its function starts.
    pub(super) fn forget(&self, token: &str) {
        self.by_token.lock().remove(token);
    }
}

/// Accepts until it is dropped.
pub(super) async fn accept(listener: UnixListener, expected: Arc<Expected>, timeout: Duration, max_message_bytes: u64) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let expected = Arc::clone(&expected);
                tokio::spawn(async move {
                    let _permit = permit;
                    if tokio::time::timeout(timeout, handshake(stream, &expected, max_message_bytes)).await.is_err() {
                        tracing::warn!("a process connected to the host and did not say hello");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would only fail again.
                tracing::error!(%error, "the host cannot accept functions");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn handshake(stream: UnixStream, expected: &Expected, max_message_bytes: u64) {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let (sender, flusher, mut receiver) = socket::split::<ToFunction, ToHost>(stream, max_message_bytes);
    let hello = match receiver.receive().await {
        Ok((ToHost { body: Some(to_host::Body::Hello(hello)) }, _)) => hello,
        Ok(_) => return refuse(&sender, "a function's first message must be Hello"),
        Err(SocketError::Closed) => return,
        Err(error) => return refuse(&sender, &error.to_string()),
    };
    let Some((function, arrived)) = expected.by_token.lock().remove(&hello.token) else {
        tracing::warn!(?pid, "refused a process whose token the host did not issue");
        return refuse(&sender, "the host did not issue this token");
    };
    let arrival = match check(&hello) {
        Ok(()) => Ok(Arrived { sender, receiver, flusher, pid }),
        Err(reason) => {
            refuse(&sender, &reason);
            Err(reason)
        }
    };
    if arrived.send(arrival).is_err() {
        tracing::debug!(%function, "a function arrived after its host gave up on it");
    }
}

fn check(hello: &Hello) -> Result<(), String> {
    if hello.engine_version == ENGINE_VERSION {
        return Ok(());
    }
    Err(format!(
        "the function is onward {}, its host is onward {ENGINE_VERSION}: both must run the same version",
        hello.engine_version
    ))
}

/// Tells the function why it may not join (request 0 is no request) and hangs up.
pub(super) fn refuse(sender: &Sender<ToFunction>, reason: &str) {
    let error = WireError { is_retryable: false, ..WireError::new(ErrorKind::Denied, reason) };
    // The peer may be gone already; the connection ends either way.
    let _ = sender.try_send(RequestFailed { request: 0, error }, vec![]);
    sender.close();
}

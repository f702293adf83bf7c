//! The first words of a function: its version is checked before anything else is said.

use onward_wire::message::{Hello, RequestFailed, ToFunction, ToHost, to_host};
use onward_wire::{ENGINE_VERSION, ErrorKind, WireError};
use tokio::net::UnixStream;

use crate::socket::{self, Receiver, Sender};

/// A function that said hello with the right version.
pub(super) struct Arrived {
    pub(super) sender: Sender<ToFunction>,
    pub(super) receiver: Receiver<ToHost>,
    pub(super) flusher: socket::Flusher,
}

/// Waits for the hello of the function at the other end; `Err` says why it is refused.
pub(super) async fn handshake(stream: UnixStream, max_message_bytes: u64) -> Result<Arrived, String> {
    let (sender, flusher, mut receiver) = socket::split::<ToFunction, ToHost>(stream, max_message_bytes);
    let said = match receiver.receive().await {
        Ok((ToHost { body: Some(to_host::Body::Hello(hello)) }, _)) => check(&hello),
        Ok(_) => Err("a function's first message must be Hello".to_owned()),
        Err(error) => Err(format!("it ended before it was ready: {error}")),
    };
    match said {
        Ok(()) => Ok(Arrived { sender, receiver, flusher }),
        Err(reason) => {
            refuse(&sender, &reason);
            Err(reason)
        }
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
fn refuse(sender: &Sender<ToFunction>, reason: &str) {
    let error = WireError { is_retryable: false, ..WireError::new(ErrorKind::Denied, reason) };
    // The peer may be gone already; the connection ends either way.
    let _ = sender.try_send(RequestFailed { request: 0, error }, vec![]);
    sender.close();
}

#[cfg(test)]
mod tests {
    use onward_wire::message::to_function;

    use super::*;

    /// A function of another version gets a clear no and nothing else.
    #[tokio::test]
    async fn another_version_is_refused() {
        let (ours, its) = UnixStream::pair().unwrap();
        let (sender, _flusher, mut receiver) = socket::split::<ToHost, ToFunction>(its, 1 << 20);
        sender.try_send(Hello { engine_version: "0.0.0-other".to_owned() }, vec![]).unwrap();
        let refused = handshake(ours, 1 << 20).await.err().unwrap();
        assert!(refused.contains("same version"), "{refused}");
        match receiver.receive().await.unwrap().0.body {
            Some(to_function::Body::RequestFailed(failed)) => assert_eq!(failed.error.message, refused),
            other => panic!("{other:?}"),
        }
    }
}

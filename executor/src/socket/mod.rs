//! Frames with descriptors over a Unix stream socket.
//!
//! ```text
//!   u32 LE length | prost message        descriptors (SCM_RIGHTS) ride on the frame's first byte
//! ```
//!
//! Sending tries the socket at once, on the caller's thread, and only what does not fit is left to a task: a small
//! message costs one system call and no thread hop. What waits is bounded in bytes and in messages.
//!
//! Guarantees: a frame arrives whole, with exactly the descriptors its message announces, or the connection ends with
//! an error; every received descriptor is close-on-exec; nothing larger than the agreed limit is ever buffered.

mod receive;
mod send;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use onward_wire::message::{self, MAX_DESCRIPTORS};
use tokio::net::UnixStream;

pub use receive::Receiver;
pub use send::{Flusher, Sender};

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The other side is gone.
    #[error("the connection was closed")]
    Closed,
    /// The other side went away in the middle of a frame.
    #[error("the connection was closed in the middle of a message ({received} of {expected} bytes)")]
    Torn {
        /// Bytes that arrived.
        received: usize,
        /// Bytes of the frame.
        expected: usize,
    },
    /// A frame is larger than both sides agreed.
    #[error("a message of {bytes} bytes is over the limit of {limit} bytes: raise max_message_bytes")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// `max_message_bytes`.
        limit: u64,
    },
    /// The other side does not read: what waits for it reached its bound.
    #[error("the other side does not read its socket: {bytes} bytes in {messages} messages wait")]
    Full {
        /// Bytes that wait.
        bytes: usize,
        /// Messages that wait.
        messages: usize,
    },
    /// Descriptors are missing, or there are some that no message announced.
    #[error("a message came with {received} descriptors instead of {expected}")]
    Descriptors {
        /// Those that came.
        received: usize,
        /// Those its message announces.
        expected: usize,
    },
    /// The bytes are not a message.
    #[error("a message could not be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The system call failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// A message of the protocol.
pub trait Message: prost::Message + Default {
    /// Descriptors that ride on it.
    fn descriptors(&self) -> usize;
}

impl Message for message::ToHost {
    fn descriptors(&self) -> usize {
        0
    }
}

impl Message for message::ToFunction {
    fn descriptors(&self) -> usize {
        match &self.body {
            Some(message::to_function::Body::SegmentOpened(_) | message::to_function::Body::RangesRead(_)) => 1,
            Some(message::to_function::Body::FileOpened(opened)) => usize::from(opened.errno == 0),
            Some(message::to_function::Body::SegmentsMapped(mapped)) => mapped.segments.len(),
            Some(message::to_function::Body::ColumnsFound(found)) => {
                found.columns.iter().filter(|column| column.segment.is_some()).count()
            }
            _ => 0,
        }
    }
}

/// Splits a connected stream into its two directions. The [`Flusher`] must be driven (spawned) for messages to leave
/// that the socket did not take at once.
pub fn split<S: Message, R: Message>(stream: UnixStream, max_message_bytes: u64) -> (Sender<S>, Flusher, Receiver<R>) {
    let stream = Arc::new(stream);
    let (sender, flusher) = send::channel(Arc::clone(&stream), max_message_bytes);
    (sender, flusher, Receiver::new(stream, max_message_bytes))
}

/// A received message and its descriptors.
pub type Received<M> = (M, Vec<OwnedFd>);

/// Control-message space for the most descriptors of one message.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

#[cfg(test)]
mod tests;

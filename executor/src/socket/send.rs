//! The sending direction.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use onward_wire::message::MAX_DESCRIPTORS;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::{CONTROL_BYTES, Message, SocketError};

/// Messages that may wait for the other side to read.
const MAX_WAITING_MESSAGES: usize = 4096;

/// The kernel refuses more descriptors in flight than the process may have open; they drain as the peer reads, and
/// nothing tells when.
const DESCRIPTORS_IN_FLIGHT_RETRY: Duration = Duration::from_millis(1);

/// Sends messages, in order, from any thread.
pub struct Sender<M> {
    shared: Arc<Shared>,
    message: PhantomData<fn(M)>,
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), message: PhantomData }
    }
}

/// Writes what the socket did not take at once. Ends when the connection fails or is closed.
pub struct Flusher {
    shared: Arc<Shared>,
}

struct Shared {
    stream: Arc<UnixStream>,
    max_message_bytes: AtomicU64,
    queue: Mutex<Queue>,
    /// The queue became non-empty, or closed: for the flusher.
    work: Notify,
    /// The queue became shorter, or closed: for senders that wait.
    room: Notify,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    is_closed: bool,
}

struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

pub(super) fn channel<M>(stream: Arc<UnixStream>, max_message_bytes: u64) -> (Sender<M>, Flusher) {
    let shared = Arc::new(Shared {
        stream,
        max_message_bytes: AtomicU64::new(max_message_bytes),
        queue: Mutex::new(Queue::default()),
        work: Notify::new(),
        room: Notify::new(),
    });
    (Sender { shared: Arc::clone(&shared), message: PhantomData }, Flusher { shared })
}

impl<M: Message> Sender<M> {
    /// Sends `message` now or queues it; never waits.
    ///
    /// Errors with [`SocketError::Full`] when the other side has not read for long: the connection is as good as lost.
    pub fn try_send(&self, message: impl Into<M>, descriptors: Vec<OwnedFd>) -> Result<(), SocketError> {
        let frame = self.frame(message.into(), descriptors)?;
        self.shared.push(frame).map_err(|(_, error)| error)
    }

    /// Sends `message`, waiting for room while the other side reads.
    pub async fn send(&self, message: impl Into<M>, descriptors: Vec<OwnedFd>) -> Result<(), SocketError> {
        let mut frame = self.frame(message.into(), descriptors)?;
        loop {
            // Registered before the attempt, so that room made in between is not missed.
            let room = self.shared.room.notified();
            match self.shared.push(frame) {
                Ok(()) => return Ok(()),
                Err((back, SocketError::Full { .. })) => frame = back,
                Err((_, error)) => return Err(error),
            }
            room.await;
        }
    }

    /// Changes the largest message, once both sides agreed on another.
    pub fn set_limit(&self, max_message_bytes: u64) {
        self.shared.max_message_bytes.store(max_message_bytes, Relaxed);
    }

    /// Ends both directions: the peer reads the end, waiting senders get [`SocketError::Closed`].
    pub fn close(&self) {
        self.shared.close();
    }

    fn frame(&self, message: M, descriptors: Vec<OwnedFd>) -> Result<Frame, SocketError> {
        let (length, limit) = (message.encoded_len(), self.shared.max_message_bytes.load(Relaxed));
        let expected = message.descriptors();
        if descriptors.len() != expected || expected > MAX_DESCRIPTORS {
            return Err(SocketError::Descriptors { received: descriptors.len(), expected });
        }
        let too_large = SocketError::TooLarge { bytes: length as u64, limit };
        if length as u64 > limit {
            return Err(too_large);
        }
        let prefix = u32::try_from(length).map_err(|_| too_large)?.to_le_bytes();
        let mut bytes = Vec::with_capacity(prefix.len() + length);
        bytes.extend_from_slice(&prefix);
        message.encode_raw(&mut bytes);
        Ok(Frame { bytes, sent: 0, descriptors })
    }
}

impl Shared {
    /// Writes the frame at once when nothing waits before it, else queues it. Gives it back when it has no room.
    fn push(&self, mut frame: Frame) -> Result<(), (Frame, SocketError)> {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return Err((frame, SocketError::Closed));
        }
        if queue.frames.is_empty() {
            match frame.write(self.stream.as_fd()) {
                Ok(()) => return Ok(()),
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    drop(queue);
                    self.close();
                    return Err((frame, closed_or(error)));
                }
            }
        } else if queue.bytes as u64 + frame.bytes.len() as u64 > self.max_message_bytes.load(Relaxed)
            || queue.frames.len() >= MAX_WAITING_MESSAGES
        {
            let full = SocketError::Full { bytes: queue.bytes, messages: queue.frames.len() };
            return Err((frame, full));
        }
        queue.bytes += frame.bytes.len();
        queue.frames.push_back(frame);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// Writes as much of the queue as the socket takes. `Ok` = all of it.
    fn flush(&self) -> io::Result<()> {
        let mut queue = self.queue.lock();
        while let Some(frame) = queue.frames.front_mut() {
            frame.write(self.stream.as_fd())?;
            let written = frame.bytes.len();
            queue.frames.pop_front();
            queue.bytes -= written;
            self.room.notify_waiters();
        }
        Ok(())
    }

    fn close(&self) {
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        queue.frames.clear();
        queue.bytes = 0;
        drop(queue);
        // An error means that the socket is closed already.
        let _ = rustix::net::shutdown(self.stream.as_fd(), rustix::net::Shutdown::Both);
        self.room.notify_waiters();
        self.work.notify_one();
    }
}

impl Frame {
    /// Writes the rest of the frame. Descriptors leave with its first byte.
    fn write(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            let borrowed: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let rest = IoSlice::new(&self.bytes[self.sent..]);
            match rustix::net::sendmsg(socket, &[rest], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(bytes) => {
                    self.sent += bytes;
                    self.descriptors.clear();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Flusher {
    /// Runs until the connection is closed or fails.
    pub async fn run(self) -> Result<(), SocketError> {
        let shared = self.shared;
        loop {
            shared.work.notified().await;
            loop {
                if shared.queue.lock().is_closed {
                    return Ok(());
                }
                match shared.stream.try_io(Interest::WRITABLE, || shared.flush()) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => shared.stream.writable().await?,
                    Err(error) if is_transient(&error) => tokio::time::sleep(DESCRIPTORS_IN_FLIGHT_RETRY).await,
                    Err(error) => {
                        shared.close();
                        return Err(closed_or(error));
                    }
                }
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || Errno::from_io_error(error) == Some(Errno::TOOMANYREFS)
}

fn closed_or(error: io::Error) -> SocketError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => SocketError::Closed,
        _ => error.into(),
    }
}

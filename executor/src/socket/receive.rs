//! The receiving direction.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use onward_wire::message::MAX_DESCRIPTORS;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::{CONTROL_BYTES, Message, Received, SocketError};

/// Small frames share one read; a larger one gets a buffer of its own, so that the bytes inside it are never copied.
const BUFFER_BYTES: usize = 64 << 10;
/// Length prefix of a frame.
const PREFIX_BYTES: usize = 4;
/// Descriptors that arrived before the frame they belong to was read whole. Many small frames fit one read.
const MAX_WAITING_DESCRIPTORS: usize = 64 * MAX_DESCRIPTORS;

/// Receives messages. Cancel-safe: what arrived stays in the receiver.
pub struct Receiver<M> {
    stream: Arc<UnixStream>,
    max_message_bytes: u64,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    large: Option<LargeFrame>,
    descriptors: VecDeque<OwnedFd>,
    message: PhantomData<fn() -> M>,
}

/// A frame that does not fit the shared buffer.
struct LargeFrame {
    body: BytesMut,
    filled: usize,
}

impl<M: Message> Receiver<M> {
    pub(super) fn new(stream: Arc<UnixStream>, max_message_bytes: u64) -> Self {
        Self {
            stream,
            max_message_bytes,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            large: None,
            descriptors: VecDeque::new(),
            message: PhantomData,
        }
    }

    /// Changes the largest message, once both sides agreed on another.
    pub fn set_limit(&mut self, max_message_bytes: u64) {
        self.max_message_bytes = max_message_bytes;
    }

    /// The next message; `Closed` at the end of the stream between two frames.
    pub async fn receive(&mut self) -> Result<Received<M>, SocketError> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return self.decode(frame);
            }
            match self.stream.try_io(Interest::READABLE, || {
                read_some(
                    &self.stream,
                    match &mut self.large {
                        Some(large) => &mut large.body[large.filled..],
                        None => &mut self.buffer[self.end..],
                    },
                    &mut self.descriptors,
                )
            }) {
                Ok(0) => return Err(self.end_of_stream()),
                Ok(bytes) => match &mut self.large {
                    Some(large) => large.filled += bytes,
                    None => self.end += bytes,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(self.end_of_stream()),
                Err(error) => return Err(error.into()),
            }
            if self.descriptors.len() > MAX_WAITING_DESCRIPTORS {
                return Err(SocketError::Descriptors { received: self.descriptors.len(), expected: MAX_DESCRIPTORS });
            }
        }
    }

    /// The next whole frame that is buffered; moves a frame that cannot fit into a buffer of its own.
    fn next_frame(&mut self) -> Result<Option<Bytes>, SocketError> {
        if let Some(large) = self.large.take() {
            if large.filled < large.body.len() {
                self.large = Some(large);
                return Ok(None);
            }
            return Ok(Some(large.body.freeze()));
        }
        let buffered = &self.buffer[self.start..self.end];
        let Some((prefix, body)) = buffered.split_first_chunk::<PREFIX_BYTES>() else {
            self.make_room();
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length as u64 > self.max_message_bytes {
            return Err(SocketError::TooLarge { bytes: length as u64, limit: self.max_message_bytes });
        }
        if body.len() >= length {
            let frame = Bytes::copy_from_slice(&body[..length]);
            self.start += PREFIX_BYTES + length;
            return Ok(Some(frame));
        }
        if PREFIX_BYTES + length <= BUFFER_BYTES / 2 {
            self.make_room();
            return Ok(None);
        }
        let mut own = BytesMut::zeroed(length);
        own[..body.len()].copy_from_slice(body);
        self.large = Some(LargeFrame { body: own, filled: body.len() });
        (self.start, self.end) = (0, 0);
        Ok(None)
    }

    /// Moves the beginning of a frame to the front of the buffer, so that its rest fits behind it.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }

    fn decode(&mut self, frame: Bytes) -> Result<Received<M>, SocketError> {
        let message = M::decode(frame)?;
        let expected = message.descriptors();
        if expected > self.descriptors.len() {
            return Err(SocketError::Descriptors { received: self.descriptors.len(), expected });
        }
        let descriptors = self.descriptors.drain(..expected).collect();
        if self.start == self.end && self.large.is_none() && !self.descriptors.is_empty() {
            return Err(SocketError::Descriptors { received: expected + self.descriptors.len(), expected });
        }
        Ok((message, descriptors))
    }

    fn end_of_stream(&self) -> SocketError {
        match &self.large {
            Some(large) => SocketError::Torn { received: large.filled, expected: large.body.len() },
            None if self.start == self.end => SocketError::Closed,
            None => {
                let buffered = &self.buffer[self.start..self.end];
                let expected =
                    buffered.first_chunk().map_or(PREFIX_BYTES, |prefix| u32::from_le_bytes(*prefix) as usize);
                SocketError::Torn { received: buffered.len().saturating_sub(PREFIX_BYTES), expected }
            }
        }
    }
}

/// One `recvmsg`: bytes into `target`, descriptors behind those that wait.
fn read_some(stream: &UnixStream, target: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match rustix::net::recvmsg(stream.as_fd(), &mut [IoSliceMut::new(target)], &mut control, flags) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("descriptors were lost on the way: this process has too many files open"));
    }
    Ok(received.bytes)
}

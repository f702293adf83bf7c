//! The zygote: a small, warm process from which functions are forked.
//!
//! ```text
//!   host -- exec, control socket as standard input --> zygote: functions of SQL are built, one thread, no runtime
//!        -- Fork(id), the function's socket ---------> fork --> function: that socket, and no other of the host's descriptors
//!        <- Forked(id, pid), pidfd -------------------
//!        -- Reap(id) --------------------------------> wait: the host saw by the pidfd that it ended
//!        <- Reaped(id, status) -----------------------
//! ```
//!
//! The host execs it, since a host has threads and memory that a fork must not copy. It ends with its host: by the end of the
//! control socket, or, when it hangs, by the parent-death signal; and functions end with it. It draws no random number, since
//! all functions would draw the same ones after it.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, waitpid};

use crate::function::{self, Registry};
use crate::sandbox;

/// Bytes of a message: what, which function, a number.
const MESSAGE_BYTES: usize = 24;

/// A message on the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Fork a function; its socket rides along.
    Fork {
        /// Of the host's choice.
        id: u64,
    },
    /// It runs; its pidfd rides along.
    Forked { id: u64, pid: u32 },
    /// It could not be forked.
    Failed { id: u64, errno: i32 },
    /// It has ended: say how.
    Reap { id: u64 },
    /// It is gone, with this wait status.
    Reaped { id: u64, status: i32 },
}

impl Control {
    fn encode(self) -> [u8; MESSAGE_BYTES] {
        let (kind, id, value) = match self {
            Self::Fork { id } => (0, id, 0),
            Self::Forked { id, pid } => (1, id, u64::from(pid)),
            Self::Failed { id, errno } => (2, id, errno as u64),
            Self::Reap { id } => (3, id, 0),
            Self::Reaped { id, status } => (4, id, status as u64),
        };
        let mut bytes = [0; MESSAGE_BYTES];
        for (at, word) in [kind, id, value].into_iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Option<Self> {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[at * 8 + byte]));
        let (id, value) = (word(1), word(2));
        Some(match word(0) {
            0 => Self::Fork { id },
            1 => Self::Forked { id, pid: u32::try_from(value).ok()? },
            2 => Self::Failed { id, errno: value as i32 },
            3 => Self::Reap { id },
            4 => Self::Reaped { id, status: value as i32 },
            _ => return None,
        })
    }

    /// Sends it, with a descriptor where it has one.
    pub(crate) fn send(self, socket: BorrowedFd<'_>, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let (mut space, bytes) = ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], self.encode());
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(file) = &file {
            ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(file)));
        }
        rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// The next message and its descriptor; `None` when the other side is gone.
    pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Self, Option<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let (mut ancillary, mut bytes) = (RecvAncillaryBuffer::new(&mut space), [0; MESSAGE_BYTES]);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut files = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let file = files.next().and_then(|mut files| files.next());
        let is_whole = received.bytes == MESSAGE_BYTES && !received.flags.contains(ReturnFlags::CTRUNC);
        let message = if is_whole { Self::decode(&bytes) } else { None };
        let torn = || io::Error::new(io::ErrorKind::InvalidData, "a message on the control socket that is none");
        Ok(Some((message.ok_or_else(torn)?, file)))
    }
}

/// `main` of the zygote that functions are forked from.
pub fn run() -> ExitCode {
    crate::host::raise_descriptor_limit();
    let registry = Registry::build();
    sandbox::prepare();
    fork_on_request(|socket| function::run(socket, registry))
}

/// `main` of a zygote whose children do `child`: the control socket is its standard input.
pub fn fork_on_request<E: std::fmt::Display>(child: impl FnOnce(UnixStream) -> Result<(), E>) -> ExitCode {
    die_with_parent();
    match serve(io::stdin().as_fd(), child) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onward zygote: {error}; it is started by its host");
            ExitCode::FAILURE
        }
    }
}

/// Ends when the host is gone.
fn serve<E: std::fmt::Display>(
    control: BorrowedFd<'_>,
    child: impl FnOnce(UnixStream) -> Result<(), E>,
) -> io::Result<()> {
    let mut pids: HashMap<u64, Pid> = HashMap::new();
    while let Some((message, file)) = Control::receive(control)? {
        match (message, file) {
            (Control::Fork { id }, Some(socket)) => match fork() {
                Ok(None) => become_function(socket, child),
                Ok(Some(pid)) => {
                    pids.insert(id, pid);
                    // It is not waited for before the host asks, so the number is still its own.
                    match pidfd_open(pid, PidfdFlags::empty()) {
                        Ok(file) => {
                            let pid = pid.as_raw_nonzero().get().unsigned_abs();
                            Control::Forked { id, pid }.send(control, Some(file.as_fd()))?;
                        }
                        Err(error) => {
                            let _ = rustix::process::kill_process(pid, Signal::KILL);
                            let _ = waitpid(Some(pid), WaitOptions::empty());
                            pids.remove(&id);
                            Control::Failed { id, errno: error.raw_os_error() }.send(control, None)?;
                        }
                    }
                }
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or_default();
                    Control::Failed { id, errno }.send(control, None)?;
                }
            },
            (Control::Reap { id }, None) => {
                let Some(pid) = pids.remove(&id) else { continue };
                let waited = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
                let status = waited.ok().flatten().map_or(0, |(_, status)| status.as_raw());
                Control::Reaped { id, status }.send(control, None)?;
            }
            (message, _) => return Err(io::Error::other(format!("{message:?} is not for a zygote"))),
        }
    }
    Ok(())
}

/// `None` in the child.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so no lock is held by one that the child does not have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// The child becomes a function, and ends as one.
fn become_function<E: std::fmt::Display>(socket: OwnedFd, child: impl FnOnce(UnixStream) -> Result<(), E>) -> ! {
    die_with_parent();
    let code = isolate().map_err(|error| format!("it cannot be isolated: {error}"));
    let code =
        code.and_then(|()| sandbox::drop_privileges().map_err(|error| format!("it cannot be confined: {error}")));
    let code = code.and_then(|()| child(UnixStream::from(socket)).map_err(|error| error.to_string()));
    if let Err(error) = &code {
        eprintln!("onward function: {error}");
    }
    std::process::exit(i32::from(code.is_err()))
}

/// Takes what it has of the zygote's: the control socket, and the process group, so that no signal of a terminal reaches it.
fn isolate() -> io::Result<()> {
    // SAFETY: both are descriptors of this process, which has one thread.
    if unsafe { libc::dup2(libc::STDOUT_FILENO, libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::process::setpgid(None, None)?;
    // When the machine runs out of memory a function is the cheapest to lose: its attempts run again. An error leaves the
    // kernel's own choice.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    Ok(())
}

/// Asks the kernel to end this process with the one that started it.
fn die_with_parent() {
    // An error leaves the closed connection as the sign that it is gone.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_their_descriptors_arrive() {
        let (one, other) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let messages = [
            Control::Fork { id: 1 },
            Control::Forked { id: u64::MAX, pid: 77 },
            Control::Failed { id: 3, errno: 11 },
            Control::Reap { id: 4 },
            Control::Reaped { id: 5, status: -1 },
        ];
        for (at, message) in messages.into_iter().enumerate() {
            message.send(one.as_fd(), (at < 2).then(|| one.as_fd())).unwrap();
            let (received, file) = Control::receive(other.as_fd()).unwrap().unwrap();
            assert_eq!((received, file.is_some()), (message, at < 2));
        }
        rustix::net::send(&one, b"nonsense", SendFlags::empty()).unwrap();
        assert!(Control::receive(other.as_fd()).is_err());
        drop(one);
        assert!(Control::receive(other.as_fd()).unwrap().is_none());
    }
}

//! Starts function processes: a zygote forks them (see [`crate::zygote`]). This module is the only place that knows how a process
//! comes to be.
//!
//! Zygotes are started by one thread that lives as long as the host: the kernel's parent-death signal, by which a zygote ends with
//! its host, fires when the *thread* that started it ends. One that is gone, and its functions with it, is replaced when the next
//! function is to start.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::zygote::Control;

/// A zygote says how a function ended as soon as it is asked, unless it is stopped.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts functions. Its zygote, and with it all of them, ends when it is dropped.
#[derive(Debug)]
pub(super) struct Launcher {
    starts: mpsc::Sender<oneshot::Sender<io::Result<(Child, OwnedFd)>>>,
    zygote: tokio::sync::Mutex<Option<Arc<Zygote>>>,
    last: AtomicU64,
}

impl Launcher {
    /// Zygotes run `PROGRAM zygote`. The thread starts; the first zygote does with the first function.
    pub(super) fn start(program: PathBuf, handle: Handle) -> io::Result<Self> {
        let (starts, asked) = mpsc::channel::<oneshot::Sender<_>>();
        std::thread::Builder::new().name("onward-launch".to_owned()).spawn(move || {
            let _runtime = handle.enter();
            for reply in asked {
                // A caller that is gone drops the child, and a dropped child is killed.
                let _ = reply.send(start_zygote(&program));
            }
        })?;
        Ok(Self { starts, zygote: tokio::sync::Mutex::default(), last: AtomicU64::new(0) })
    }

    /// Starts the zygote, so that the first function need not wait for it. Errors come again with that.
    pub(super) async fn warm_up(&self) {
        if let Err(error) = self.zygote().await {
            tracing::debug!(%error, "no zygote");
        }
    }

    /// Starts a process that has `socket`. It is killed when its [`Process`] is dropped.
    pub(super) async fn launch(&self, socket: UnixStream) -> io::Result<Process> {
        self.zygote().await?.fork(self.last.fetch_add(1, Ordering::Relaxed), socket).await
    }

    /// The zygote does not answer: the next function gets another one.
    pub(super) async fn replace_zygote(&self) {
        *self.zygote.lock().await = None;
    }

    /// Ends the zygote, once its functions are gone, and waits for it.
    pub(super) async fn end(&self) {
        let zygote = self.zygote.lock().await.take();
        if let Some(zygote) = zygote.and_then(Arc::into_inner) {
            // An error means that it is gone.
            let _ = rustix::net::shutdown(zygote.link.control.get_ref(), Shutdown::Both);
            let _ = zygote.reader.await;
        }
    }

    async fn zygote(&self) -> io::Result<Arc<Zygote>> {
        let mut current = self.zygote.lock().await;
        if let Some(zygote) = current.as_ref().filter(|zygote| !zygote.link.waiting.lock().is_gone) {
            return Ok(Arc::clone(zygote));
        }
        let (reply, started) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts zygotes is gone");
        self.starts.send(reply).map_err(|_| gone())?;
        let (process, control) = started.await.map_err(|_| gone())??;
        let link = Arc::new(ZygoteLink {
            control: register(control, Interest::READABLE | Interest::WRITABLE)?,
            waiting: Mutex::default(),
        });
        let reader = AbortOnDropHandle::new(tokio::spawn(read(Arc::clone(&link), process)));
        let zygote = Arc::new(Zygote { link, reader });
        *current = Some(Arc::clone(&zygote));
        Ok(zygote)
    }
}

fn start_zygote(program: &PathBuf) -> io::Result<(Child, OwnedFd)> {
    let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let child = Command::new(program)
        .arg("zygote")
        .stdin(Stdio::from(its))
        // A client's Ctrl-C goes to the terminal's foreground group: it must cancel the query, not kill functions.
        .process_group(0)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, ours))
}

/// A zygote that runs. Its process is killed when this is dropped.
#[derive(Debug)]
struct Zygote {
    link: Arc<ZygoteLink>,
    reader: AbortOnDropHandle<()>,
}

/// The way to a zygote, and who waits for its answers.
#[derive(Debug)]
struct ZygoteLink {
    control: AsyncFd<OwnedFd>,
    waiting: Mutex<Waiting>,
}

/// Who waits for an answer.
#[derive(Debug, Default)]
struct Waiting {
    is_gone: bool,
    forks: HashMap<u64, oneshot::Sender<io::Result<(u32, OwnedFd)>>>,
    ends: HashMap<u64, oneshot::Sender<ExitStatus>>,
}

impl Zygote {
    async fn fork(self: Arc<Self>, id: u64, socket: UnixStream) -> io::Result<Process> {
        let (pid, file) = self.link.fork(id, socket).await?;
        Ok(Process { id, pid, pidfd: Some(register(file, Interest::READABLE)?), zygote: self })
    }
}

impl ZygoteLink {
    async fn fork(&self, id: u64, socket: UnixStream) -> io::Result<(u32, OwnedFd)> {
        let (reply, forked) = oneshot::channel();
        self.await_answer(|waiting| drop(waiting.forks.insert(id, reply)))?;
        match self.send(Control::Fork { id }, Some(socket)).await {
            Ok(()) => forked.await.map_err(|_| gone())?,
            // Why it is gone is known soon.
            Err(error) => match tokio::time::timeout(REAP_TIMEOUT, forked).await {
                Ok(Ok(answer)) => answer,
                _ => Err(error),
            },
        }
    }

    /// How a process that has ended did so; `None` when the zygote does not say.
    async fn reap(&self, id: u64) -> Option<ExitStatus> {
        let (reply, reaped) = oneshot::channel();
        self.await_answer(|waiting| drop(waiting.ends.insert(id, reply))).ok()?;
        let answered = async {
            self.send(Control::Reap { id }, None).await.ok()?;
            reaped.await.ok()
        };
        tokio::time::timeout(REAP_TIMEOUT, answered).await.ok().flatten()
    }

    fn await_answer(&self, wait: impl FnOnce(&mut Waiting)) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.is_gone {
            return Err(gone());
        }
        wait(&mut waiting);
        Ok(())
    }

    async fn send(&self, message: Control, socket: Option<UnixStream>) -> io::Result<()> {
        let file = socket.as_ref().map(AsFd::as_fd);
        self.control.async_io(Interest::WRITABLE, |control| message.send(control.as_fd(), file)).await
    }

    fn answered(&self, message: Control, file: Option<OwnedFd>) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        // Whoever asked may be gone: a pidfd that nobody wants is closed, its process ends with its socket.
        match (message, file) {
            (Control::Forked { id, pid }, Some(file)) => {
                waiting.forks.remove(&id).map(|reply| reply.send(Ok((pid, file))));
            }
            (Control::Failed { id, errno }, _) => {
                waiting.forks.remove(&id).map(|reply| reply.send(Err(io::Error::from_raw_os_error(errno))));
            }
            (Control::Reaped { id, status }, _) => {
                waiting.ends.remove(&id).map(|reply| reply.send(ExitStatus::from_raw(status)));
            }
            (message, _) => return Err(io::Error::other(format!("{message:?} is not for a host"))),
        }
        Ok(())
    }

    /// Whoever waits hears that it is gone, with `reason`.
    fn end(&self, reason: &str) {
        let mut waiting = self.waiting.lock();
        waiting.is_gone = true;
        waiting.ends.clear();
        for (_, reply) in waiting.forks.drain() {
            let _ = reply.send(Err(io::Error::other(reason)));
        }
    }
}

fn register(file: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and the same, for as long as it lives.
    unsafe { AsyncFd::register_with_interest(file, interest) }.map_err(io::Error::from)
}

fn gone() -> io::Error {
    io::Error::other("the zygote, from which functions are forked, is gone")
}

/// Hands out a zygote's answers until it is gone.
async fn read(zygote: Arc<ZygoteLink>, mut process: Child) {
    let reason = loop {
        let received = zygote.control.async_io(Interest::READABLE, |control| Control::receive(control.as_fd())).await;
        match received {
            Ok(Some((message, file))) => {
                if let Err(error) = zygote.answered(message, file) {
                    break error.to_string();
                }
            }
            Ok(None) => break "it ended".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    let _ = process.start_kill();
    let status = process.wait().await;
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let reason = format!("the zygote, from which functions are forked: {reason}; {status}");
    tracing::debug!(reason, "a zygote is gone");
    zygote.end(&reason);
}

/// A process that a zygote forked. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    id: u64,
    pid: u32,
    /// Until it is reaped.
    pidfd: Option<AsyncFd<OwnedFd>>,
    zygote: Arc<Zygote>,
}

impl Process {
    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Another descriptor of it.
    pub(super) fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.as_ref().ok_or_else(gone)?.get_ref().try_clone()
    }

    /// Resolves, with how it ended, when it has: then nothing of it is mapped any more.
    pub(super) async fn wait(&mut self) -> String {
        let Some(pidfd) = &self.pidfd else { return "it has ended".to_owned() };
        if let Err(error) = pidfd.readable().await {
            return format!("its end is unknown: {error}");
        }
        let status = self.zygote.link.reap(self.id).await;
        self.pidfd = None;
        match status {
            Some(status) if status.signal() == Some(libc::SIGSYS) => {
                format!("{status}: it made a system call that functions may not make")
            }
            Some(status) => status.to_string(),
            None => "how it ended is unknown".to_owned(),
        }
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            // An error means that it is gone.
            let _ = pidfd_send_signal(pidfd.get_ref(), Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // The zygote is asked to wait for it as soon as it is over, so that nothing is left of it.
        if let (Some(pidfd), Ok(runtime)) = (self.pidfd.take(), Handle::try_current()) {
            let (id, zygote) = (self.id, Arc::clone(&self.zygote));
            runtime.spawn(async move {
                let _ = pidfd.readable().await;
                zygote.link.reap(id).await;
            });
        }
    }
}

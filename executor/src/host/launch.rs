//! Starts function processes.
//!
//! A function is `PROGRAM function --socket PATH` with its one-time token in the environment. This module is the only
//! place that knows how a process comes to be: forking from a warmed zygote replaces [`spawn`] and nothing else.
//!
//! Processes are started by one thread that lives as long as the host: the kernel's parent-death signal, by which a
//! function ends with its host, fires when the *thread* that started it ends. No closure runs between fork and exec, so
//! that the standard library can use `posix_spawn`: a plain fork copies the page tables of a host with gigabytes mapped.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::TOKEN_VARIABLE;

/// What a function process is started with.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) token: String,
}

type Request = (Launch, oneshot::Sender<io::Result<Child>>);

/// The thread that starts processes. Ends when dropped.
#[derive(Debug)]
pub(super) struct Launcher {
    requests: mpsc::Sender<Request>,
}

impl Launcher {
    /// Starts the thread. Processes are waited for on the runtime of `handle`.
    pub(super) fn start(handle: Handle) -> io::Result<Self> {
        let (requests, received) = mpsc::channel::<Request>();
        std::thread::Builder::new().name("onward-launch".to_owned()).spawn(move || {
            let _runtime = handle.enter();
            for (launch, reply) in received {
                // A caller that is gone drops the child, and a dropped child is killed.
                let _ = reply.send(spawn(&launch));
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts a process. It is killed when its [`Child`] is dropped.
    pub(super) async fn launch(&self, launch: Launch) -> io::Result<Child> {
        let (reply, started) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts functions is gone");
        self.requests.send((launch, reply)).map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

fn spawn(launch: &Launch) -> io::Result<Child> {
    Command::new(&launch.program)
        .arg("function")
        .arg("--socket")
        .arg(&launch.socket)
        .env(TOKEN_VARIABLE, &launch.token)
        .stdin(Stdio::null())
        // A client's Ctrl-C goes to the terminal's foreground group: it must cancel the query, not kill functions.
        .process_group(0)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

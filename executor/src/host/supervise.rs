//! The life of one function, from launch to the last file it held.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use onward_wire::FunctionId;
use onward_wire::message::Welcome;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::function::Function;
use super::handshake::{Arrived, handshake};
use super::launch::Process;
use super::watchdog::takes_too_much;
use super::{HostEvent, Shared, resident, send_shutdown};

/// A function that was told to leave, or whose socket is closed, has this long before it is killed.
const LEAVE_GRACE: Duration = Duration::from_secs(1);
/// A host without functions for this long gives its program's pages back.
const IDLE_BEFORE_UNMAP: Duration = Duration::from_secs(10);
/// Time for a process whose socket closed to show how it ended.
const EXIT_GRACE: Duration = Duration::from_millis(100);

/// Runs `function` until it is gone. Its last act is [`HostEvent::FunctionLost`].
pub(super) async fn supervise(host: Arc<Shared>, function: Arc<Function>) {
    let id = function.id;
    let spill = host.directory.path().join(id.to_string());
    let reason = match run(&host, &function, &spill).await {
        Ok(reason) | Err(reason) => function.reason_or(reason),
    };
    // Freeing the blocks of large spills takes a while.
    let _ = tokio::task::spawn_blocking(move || remove_spills(id, &spill)).await;
    tracing::debug!(function = %id, reason, "a function is gone");
    {
        // Whoever sees that it is gone has its last event before them.
        let mut functions = host.functions.lock();
        functions.remove(&id);
        host.emit(HostEvent::FunctionLost { function: id, reason });
        if functions.is_empty() {
            host.runtime.spawn(unmap_when_idle(Arc::downgrade(&host)));
        }
    }
    host.ended.notify_waiters();
}

/// Not at once: the next query would map the same pages again.
async fn unmap_when_idle(host: Weak<Shared>) {
    tokio::time::sleep(IDLE_BEFORE_UNMAP).await;
    let is_idle = host.upgrade().is_some_and(|host| host.functions.lock().is_empty());
    if is_idle {
        // It says itself what came of it.
        let _ = tokio::task::spawn_blocking(resident::unmap_program).await;
    }
}

fn remove_spills(id: FunctionId, spill: &Path) {
    if let Err(error) = fs::remove_dir_all(spill)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(function = %id, path = %spill.display(), %error, "a function's spills could not be removed");
    }
}

/// Launches the process, serves it, and returns, with the reason, when it is reaped.
async fn run(host: &Shared, function: &Arc<Function>, spill: &Path) -> Result<String, String> {
    fs::DirBuilder::new().mode(0o700).create(spill).map_err(|error| format!("{}: {error}", spill.display()))?;
    let not_started = |error: io::Error| format!("it could not be started: {error}");
    let (ours, its) = std::os::unix::net::UnixStream::pair().map_err(not_started)?;
    ours.set_nonblocking(true).map_err(not_started)?;
    let ours = UnixStream::from_std(ours).map_err(not_started)?;
    let timeout = Duration::from_millis(host.config.function_start_timeout_ms);
    let launched = tokio::select! {
        launched = host.launcher.launch(its) => launched.map_err(not_started),
        () = tokio::time::sleep(timeout) => {
            host.launcher.replace_zygote().await;
            Err(format!("it was not ready after {} ms", timeout.as_millis()))
        }
        () = function.leaving() => Err("it was stopped".to_owned()),
        () = function.killed() => Err("it was killed".to_owned()),
    };
    let mut process = launched?;
    function.set_process(process.pidfd().map_err(not_started)?);
    let arrived = tokio::select! {
        arrived = handshake(ours, host.config.max_message_bytes) => arrived,
        () = tokio::time::sleep(timeout) => Err(format!("it was not ready after {} ms", timeout.as_millis())),
        () = function.leaving() => Err("it was stopped".to_owned()),
        () = function.killed() => Err("it was killed".to_owned()),
    };
    match arrived {
        Ok(arrived) => Ok(serve(host, function, &mut process, spill, arrived).await),
        Err(reason) => Ok(format!("{reason}; {}", reap(&mut process, EXIT_GRACE).await)),
    }
}

/// Serves the connection until it ends, reaps the process, and only then takes back what it held.
async fn serve(
    host: &Shared,
    function: &Arc<Function>,
    process: &mut Process,
    spill: &Path,
    arrived: Arrived,
) -> String {
    let Arrived { sender, mut receiver, flusher, .. } = arrived;
    let _flusher = AbortOnDropHandle::new(tokio::spawn(flusher.run()));
    let mut connection = Connection::new(host, Arc::clone(function), sender.clone());
    let reason = match sender.try_send(welcome(host, function, spill), vec![]) {
        Err(error) => format!("it could not be welcomed: {error}"),
        Ok(()) => {
            function.set_sender(sender.clone());
            host.emit(HostEvent::FunctionReady { function: function.id, pid: process.pid() });
            let silence = Duration::from_millis(host.config.function_silence_timeout_ms);
            let serving = async {
                loop {
                    let received = tokio::select! {
                        received = receiver.receive() => received,
                        () = falls_silent(function, silence) => {
                            return format!("it worked and said nothing for {} ms", silence.as_millis());
                        }
                    };
                    match received {
                        Ok((message, _)) => {
                            if let Err(reason) = connection.handle(message).await {
                                return reason;
                            }
                        }
                        Err(error) => return error.to_string(),
                    }
                }
            };
            tokio::select! {
                reason = serving => reason,
                () = function.killed() => "it was killed".to_owned(),
                reason = takes_too_much(function, process.pid()) => {
                    process.kill();
                    reason
                }
                () = overstays(function) => format!("it had not left after {} ms", LEAVE_GRACE.as_millis()),
            }
        }
    };
    sender.close();
    let status = reap(process, EXIT_GRACE).await;
    connection.take_back().await;
    format!("{reason}; {status}")
}

/// Resolves when the function has had work for all of `silence`. A working function reports its progress many times a
/// second from a thread that runs no operator: one that does not is stopped (a debugger, a frozen cgroup) or stuck.
async fn falls_silent(function: &Function, silence: Duration) {
    let heard = Instant::now();
    loop {
        tokio::time::sleep(silence).await;
        if function.working_since().is_some_and(|since| since.max(heard).elapsed() >= silence) {
            return;
        }
    }
}

/// Resolves when the function was told to leave and its time to do so is over.
async fn overstays(function: &Function) {
    function.leaving().await;
    send_shutdown(function);
    tokio::time::sleep(LEAVE_GRACE).await;
}

/// Waits `grace` for the process to end by itself, kills it, and waits for it: afterwards none of its mappings is left.
async fn reap(process: &mut Process, grace: Duration) -> String {
    if let Ok(status) = tokio::time::timeout(grace, process.wait()).await {
        return status;
    }
    process.kill();
    process.wait().await
}

fn welcome(host: &Shared, function: &Function, spill: &Path) -> Welcome {
    let config = &host.config;
    Welcome {
        function: function.id.0,
        vcpus: u32::try_from(function.vcpus).unwrap_or(u32::MAX),
        memory_bytes: function.memory_bytes,
        spill_dir: spill.to_string_lossy().into_owned(),
        spill_bytes: config.function_spill_bytes,
        inline_attempt_bytes: config.inline_attempt_bytes,
        flush_bytes: config.flush_bytes,
        max_message_bytes: config.max_message_bytes,
        reads_ranges: host.ranges.is_some(),
        host: host.neighbours.id().0,
        fetch_bytes: config.fetch_bytes,
    }
}

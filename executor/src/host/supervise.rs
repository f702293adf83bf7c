//! The life of one function, from launch to the last file it held.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onward_wire::FunctionId;
use onward_wire::message::Welcome;
use tokio::process::Child;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::function::Function;
use super::launch::Launch;
use super::listen::{Arrived, refuse};
use super::{HostEvent, Shared, send_shutdown, socket_in};

/// A function that was told to leave, or whose socket is closed, has this long before it is killed.
const LEAVE_GRACE: Duration = Duration::from_secs(1);
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
    }
    host.ended.notify_waiters();
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
    let token = random_token().map_err(|error| format!("no random token: {error}"))?;
    let arrival = host.expected.expect(token.clone(), function.id);
    let launch =
        Launch { program: host.program.clone(), socket: socket_in(host.directory.path()), token: token.clone() };
    let launched = host.launcher.launch(launch).await;
    let mut child = launched.map_err(|error| {
        host.expected.forget(&token);
        format!("`{}` could not be started: {error}", host.program.display())
    })?;
    let pid = child.id().unwrap_or_default();
    function.set_process(pid);

    let timeout = Duration::from_millis(host.config.function_start_timeout_ms);
    let arrived = tokio::select! {
        arrival = arrival => arrival.unwrap_or_else(|_| Err("the host shuts down".to_owned())),
        status = child.wait() => Err(format!("it ended before it was ready: {}", describe(status))),
        () = tokio::time::sleep(timeout) => Err(format!("it was not ready after {} ms", timeout.as_millis())),
        () = function.leaving() => Err("it was stopped".to_owned()),
        () = function.killed() => Err("it was killed".to_owned()),
    };
    host.expected.forget(&token);
    let reason = match arrived {
        Ok(arrived) if arrived.pid.is_none_or(|peer| u32::try_from(peer) == Ok(pid)) => {
            serve(host, function, &mut child, pid, spill, arrived).await
        }
        Ok(arrived) => {
            refuse(&arrived.sender, "this token belongs to another process");
            "another process used its token".to_owned()
        }
        Err(reason) => {
            reap(&mut child, Duration::ZERO).await;
            reason
        }
    };
    Ok(reason)
}

/// Serves the connection until it ends, reaps the process, and only then takes back what it held.
async fn serve(
    host: &Shared,
    function: &Arc<Function>,
    child: &mut Child,
    pid: u32,
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
            host.emit(HostEvent::FunctionReady { function: function.id, pid });
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
                () = overstays(function) => format!("it had not left after {} ms", LEAVE_GRACE.as_millis()),
            }
        }
    };
    sender.close();
    let status = reap(child, EXIT_GRACE).await;
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
async fn reap(child: &mut Child, grace: Duration) -> String {
    let status = match within(grace, child.wait()).await {
        Some(status) => status,
        None => {
            // An error means that it ended in between.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    describe(status)
}

async fn within<T>(grace: Duration, future: impl Future<Output = T>) -> Option<T> {
    match grace.is_zero() {
        true => None,
        false => tokio::time::timeout(grace, future).await.ok(),
    }
}

fn describe(status: io::Result<std::process::ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its end is unknown: {error}"),
    }
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

/// 128 random bits in hexadecimal, from the kernel: a token must not be guessable from another.
fn random_token() -> io::Result<String> {
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

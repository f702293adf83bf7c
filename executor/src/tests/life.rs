//! Functions come and go, and leave nothing behind.

use onward_wire::FunctionId;
use onward_wire::message::{Hello, ToFunction, ToHost, to_function};
use tokio::net::UnixStream;

use super::*;
use crate::socket::{self, SocketError};

/// Start, ready, told to leave, gone: with the exit of a process that ended by itself.
#[tokio::test]
async fn a_function_starts_and_leaves() {
    let mut fixture = Fixture::new();
    let pid = fixture.start(1, 1).await;
    assert!(is_alive(pid));
    fixture.host.stop_function(FunctionId(1));
    let (function, reason) = fixture.lost().await;
    assert_eq!(function, FunctionId(1));
    assert!(reason.contains("exit status: 0"), "{reason}");
    assert!(!is_alive(pid));
    fixture.end().await;
}

/// Shutdown ends every function, those that are starting too.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_leaves_no_process() {
    let mut fixture = Fixture::new();
    let pids = [fixture.start(1, 1).await, fixture.start(2, 1).await];
    fixture.host.start_function(FunctionId(3), 1, 1 << 20);
    fixture.host.shutdown().await;
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    let mut lost = Vec::new();
    while let Ok(event) = fixture.events.try_recv() {
        if let HostEvent::FunctionLost { function, .. } = event {
            lost.push(function.0);
        }
    }
    lost.sort_unstable();
    assert_eq!(lost, [1, 2, 3]);
    fixture.host.start_function(FunctionId(4), 1, 1 << 20);
    assert_eq!(fixture.lost().await.0, FunctionId(4), "a host that shut down starts nothing");
    fixture.end().await;
}

/// A host that is dropped without shutdown takes its functions with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_host_kills_its_functions() {
    let mut fixture = Fixture::new();
    let pid = fixture.start(1, 1).await;
    let Fixture { host, mut events, root } = fixture;
    drop(host);
    while let Some(event) = events.recv().await {
        assert!(matches!(event, HostEvent::FunctionLost { .. }));
    }
    assert!(!is_alive(pid));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

/// A stopped process does not react to anything but a kill; the host does not wait for it for ever.
#[tokio::test]
async fn a_stopped_function_that_shall_leave_is_killed() {
    let mut fixture = Fixture::new();
    let pid = fixture.start(1, 1).await;
    stop(pid).await;
    fixture.host.stop_function(FunctionId(1));
    let (_, reason) = fixture.lost().await;
    assert!(reason.contains("had not left") && reason.contains("signal: 9"), "{reason}");
    assert!(!is_alive(pid));
    fixture.end().await;
}

/// Programs that are missing, that fail, and that never say hello are lost functions with a reason, not hangs.
#[tokio::test]
async fn a_function_that_does_not_start_is_lost_with_a_reason() {
    let programs = tempfile::tempdir().unwrap();
    let fails = write_program(programs.path().join("fails"), "#!/bin/sh\nexit 3\n");
    let sleeps = write_program(programs.path().join("sleeps"), "#!/bin/sh\nexec sleep 1000\n");
    let missing = programs.path().join("missing");
    for (program, expected) in [(missing, "could not be started"), (fails, "exit status: 3"), (sleeps, "not ready")] {
        let timeout = if expected == "not ready" { 50 } else { 60_000 };
        let mut fixture = Fixture::with(program, |config| config.function_start_timeout_ms = timeout);
        fixture.host.start_function(FunctionId(1), 1, 1 << 20);
        let (_, reason) = fixture.lost().await;
        assert!(reason.contains(expected), "{reason}");
        fixture.end().await;
    }
}

/// Says hello to the host of `fixture` as another process would.
async fn hello(fixture: &Fixture, engine_version: &str, token: &str) -> Result<ToFunction, SocketError> {
    let directory = std::fs::read_dir(fixture.root.path()).unwrap().map(|entry| entry.unwrap().path());
    let directory = directory.into_iter().find(|path| path.join("socket").exists()).expect("a host's directory");
    let stream = UnixStream::connect(directory.join("socket")).await.unwrap();
    let (sender, _flusher, mut receiver) = socket::split::<ToHost, ToFunction>(stream, 1 << 20);
    let hello = Hello { engine_version: engine_version.to_owned(), token: token.to_owned(), pid: 1 };
    sender.try_send(hello, vec![])?;
    receiver.receive().await.map(|(message, _)| message)
}

fn refusal(message: ToFunction) -> String {
    match message.body {
        Some(to_function::Body::RequestFailed(failed)) => failed.error.message,
        other => panic!("{other:?}"),
    }
}

/// A process without the token, of another version, or with a stolen token gets a clear no and nothing else.
#[tokio::test]
async fn strangers_are_refused() {
    let programs = tempfile::tempdir().unwrap();
    let token_file = programs.path().join("token");
    let script = format!(
        "#!/bin/sh\necho $ONWARD_FUNCTION_TOKEN > '{0}.new'; mv '{0}.new' '{0}'\nexec sleep 1000\n",
        token_file.display()
    );
    let leaks = write_program(programs.path().join("leaks"), &script);
    for (version, expected) in [(onward_wire::ENGINE_VERSION, "another process"), ("0.0.0-other", "same version")] {
        let mut fixture = Fixture::with(leaks.clone(), |_| {});
        let message = hello(&fixture, onward_wire::ENGINE_VERSION, "guessed").await.unwrap();
        assert!(refusal(message).contains("did not issue"));

        fixture.host.start_function(FunctionId(1), 1, 1 << 20);
        let token = loop {
            match std::fs::read_to_string(&token_file) {
                Ok(token) => break token.trim().to_owned(),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        std::fs::remove_file(&token_file).unwrap();
        let message = hello(&fixture, version, &token).await.unwrap();
        let refused = refusal(message);
        assert!(refused.contains(expected), "{refused}");
        let (_, reason) = fixture.lost().await;
        assert!(reason.contains(expected), "{reason}");
        fixture.end().await;
    }
}

//! Functions come and go, and leave nothing behind.

use onward_wire::FunctionId;

use super::*;

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

/// The parent of a process.
fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).and_then(|parent| parent.parse().ok()).unwrap()
}

/// Functions end with the zygote that they were forked from; the next one is forked from another.
#[tokio::test]
async fn a_zygote_that_is_killed_takes_its_functions_with_it_and_is_replaced() {
    let mut fixture = Fixture::new();
    let pid = fixture.start(1, 1).await;
    let zygote = parent(pid);
    assert_eq!(parent(zygote), std::process::id());
    signal(zygote, rustix::process::Signal::KILL);
    let (function, _) = fixture.lost().await;
    assert_eq!(function, FunctionId(1));
    assert!(!is_alive(pid));
    let pid = fixture.start(2, 1).await;
    assert_ne!(parent(pid), zygote);
    fixture.end().await;
}

/// A zygote that does not answer is replaced, too.
#[tokio::test]
async fn a_zygote_that_is_stopped_is_replaced() {
    let mut fixture = Fixture::with(program(), |config| config.function_start_timeout_ms = 500);
    let pid = fixture.start(1, 1).await;
    stop(parent(pid)).await;
    fixture.host.start_function(FunctionId(2), 1, 1 << 20);
    let (function, reason) = fixture.lost().await;
    assert_eq!(function, FunctionId(2));
    assert!(reason.contains("not ready"), "{reason}");
    fixture.start(3, 1).await;
    signal(parent(pid), rustix::process::Signal::CONT);
    fixture.end().await;
}

/// Nothing was drawn before the fork that functions would all draw after it.
#[tokio::test]
async fn no_two_functions_draw_the_same_random_numbers() {
    let mut fixture = Fixture::new();
    let drawn = plan("select value, random(), uuid() from range(0, 3)", 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    let mut outputs = std::collections::HashSet::new();
    for function in 1..=3 {
        fixture.start(function, 1).await;
        fixture.host.define_stage(FunctionId(function), stage.define(&drawn));
        fixture.host.run_attempt(FunctionId(function), stage.run(0, function as u32, &[0], vec![], 1 << 16));
        let done = fixture.prepared().await;
        assert_eq!(done.output.rows(), 3);
        assert!(outputs.insert(done.output.inline), "function {function} drew what another one did");
    }
    fixture.end().await;
}

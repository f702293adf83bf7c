//! The host with functions of the real binary (`onward zygote`). What they do in every situation is tested in the
//! executor crate, whose test executable is its own zygote; here is what only the binary can show.

use std::sync::Arc;

use onward_executor::host::{Host, HostEvent, HostOptions};
use onward_planner::codec;
use onward_shuffle::flight::GrantKey;
use onward_wire::message::{DefineStage, OutputKind, OutputSpec, RunAttempt};
use onward_wire::{Config, FunctionId, QueryId, StageId};
use tokio::sync::mpsc;

/// The binary's hidden `zygote` command is what the host launches: its children run attempts, and a kill in mid-attempt is one
/// lost function that leaves nothing.
#[tokio::test]
async fn the_binary_is_a_function_and_a_killed_one_leaves_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().to_str().expect("a path").to_owned();
    // The endless attempt writes until it is killed: a test that hangs must not fill the disk.
    let segment_disk_bytes = 2 << 30;
    let config = Config { segment_dir: path.clone(), spill_dir: path, segment_disk_bytes, ..crate::support::config() };
    let (events, mut received) = mpsc::unbounded_channel();
    let program = env!("CARGO_BIN_EXE_onward").into();
    let (uploads, key) = (Arc::default(), GrantKey::random().expect("a key"));
    let options = HostOptions { config: Arc::new(config), program, uploads, stores: Arc::default(), ranges: None, key };
    let host = Host::start(options, events).expect("a host");
    let function = FunctionId(1);
    host.start_function(function, 1, 64 << 20);
    let Some(HostEvent::FunctionReady { pid, .. }) = received.recv().await else { panic!("no function") };

    let config = datafusion::prelude::SessionConfig::new().with_target_partitions(1);
    let context = datafusion::prelude::SessionContext::new_with_config(config);
    for (stage, rows, is_endless) in [(0, 1_000_u64, false), (1, 1_000_000_000_000, true)] {
        let sql = format!("select value, concat('text ', value) from range(0, {rows})");
        let plan = context.sql(&sql).await.expect("a query").create_physical_plan().await.expect("a plan");
        let plan = codec::encode(&plan, &onward_executor::function::extensions()).expect("an encoded plan");
        let output = OutputSpec { kind: OutputKind::Preserve as i32, partitions: 1 };
        host.define_stage(function, DefineStage { query: 1, stage, plan, output, ..DefineStage::default() });
        let attempt = StageId::new(QueryId(1), stage).task(0).attempt(0).into();
        host.run_attempt(
            function,
            RunAttempt { attempt, partitions: vec![0], inputs: vec![], inline_bytes: 0, filters: vec![] },
        );
        if is_endless {
            while host.store().usage().segments < 2 {
                tokio::task::yield_now().await;
            }
            let process = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
            rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("a kill");
        }
        loop {
            match received.recv().await.expect("an event") {
                HostEvent::Progress { .. } | HostEvent::AttemptEnded { .. } => {}
                HostEvent::Prepared { done, .. } if !is_endless => {
                    assert_eq!(done.output.rows(), rows);
                    break host.remove_segments(&[done.output.segments[0].id()]);
                }
                HostEvent::FunctionLost { reason, .. } if is_endless => break assert!(reason.contains("signal: 9")),
                other => panic!("{other:?}"),
            }
        }
    }
    let usage = host.store().usage();
    assert_eq!((usage.segments, usage.leases), (0, 0), "{usage:?}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    host.shutdown().await;
    drop(host);
    assert_eq!(std::fs::read_dir(root.path()).expect("the directory").count(), 0);
}

//! The host with real function processes.
//!
//! The test executable is its own zygote: [`zygote_process`] is `main` of one when it is started by the script that [`program`]
//! writes.

mod attempts;
mod figures;
mod hostile;
mod life;
mod loss;
mod queries;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use datafusion::physical_plan::ExecutionPlan;
use onward_planner::codec;
use onward_shuffle::flight::GrantKey;
use onward_wire::exchange::StageInputs;
use onward_wire::message::{AttemptDone, DefineStage, OutputKind, OutputSpec, RunAttempt};
use onward_wire::{AttemptId, Config, FunctionId, QueryId, StageId, WireError};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{Host, HostEvent, HostOptions};

const ZYGOTE_VARIABLE: &str = "ONWARD_TEST_ZYGOTE";
/// Longer than anything here takes on a busy machine; a hang fails instead of blocking.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: `main` of a zygote when the host of another test launched this executable.
#[test]
#[ignore = "it is the main function of other tests' zygotes"]
fn zygote_process() {
    if std::env::var_os(ZYGOTE_VARIABLE).is_some() {
        let code = crate::zygote::run();
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

/// A program that the host can launch as `PROGRAM zygote`. With one thread for tests, that test runs on the main one.
fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| zygote_of("zygote_process")).clone()
}

/// A program that runs `test`, which is `main` of a zygote.
fn zygote_of(test: &str) -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{ZYGOTE_VARIABLE}=1 exec '{}' --exact tests::{test} --ignored --nocapture --test-threads=1\n",
        executable.display()
    );
    write_program(executable.with_extension(format!("{}.sh", test.replace("::", "-"))), &script)
}

/// Written aside and renamed: a file that is open for writing cannot be executed.
fn write_program(path: PathBuf, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&aside, script).unwrap();
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    path
}

/// A host with directories of its own.
struct Fixture {
    host: Arc<Host>,
    events: mpsc::UnboundedReceiver<HostEvent>,
    root: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with(program(), |_| {})
    }

    fn with(program: PathBuf, change: impl FnOnce(&mut Config)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_str().unwrap().to_owned();
        let mut config = Config {
            segment_dir: path.clone(),
            spill_dir: path,
            segment_memory_bytes: 256 << 20,
            // Endless attempts write until they are stopped: a test that hangs must not fill the disk.
            segment_disk_bytes: 2 << 30,
            function_start_timeout_ms: 60_000,
            ..Config::default()
        };
        change(&mut config);
        let (events, received) = mpsc::unbounded_channel();
        let host = Host::start(
            HostOptions {
                config: Arc::new(config),
                program,
                uploads: Arc::default(),
                stores: Arc::default(),
                ranges: None,
                key: GrantKey::random().unwrap(),
            },
            events,
        )
        .unwrap();
        Self { host, events: received, root }
    }

    /// The next event that is neither progress nor the end of an attempt that was answered.
    async fn event(&mut self) -> HostEvent {
        loop {
            match self.any_event().await {
                HostEvent::Progress { .. } | HostEvent::AttemptEnded { .. } => {}
                event => return event,
            }
        }
    }

    async fn any_event(&mut self) -> HostEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("a host")
    }

    /// Starts a function and waits for it; gives its process id.
    async fn start(&mut self, id: u64, vcpus: usize) -> u32 {
        self.host.start_function(FunctionId(id), vcpus, 256 << 20);
        match self.event().await {
            HostEvent::FunctionReady { function, pid } if function == FunctionId(id) => pid,
            other => panic!("{other:?}"),
        }
    }

    async fn lost(&mut self) -> (FunctionId, String) {
        match self.event().await {
            HostEvent::FunctionLost { function, reason } => (function, reason),
            other => panic!("{other:?}"),
        }
    }

    async fn prepared(&mut self) -> AttemptDone {
        match self.event().await {
            HostEvent::Prepared { done, .. } => done,
            other => panic!("{other:?}"),
        }
    }

    async fn failed(&mut self) -> (AttemptId, WireError) {
        match self.event().await {
            HostEvent::AttemptFailed { attempt, error, .. } => (attempt, error),
            other => panic!("{other:?}"),
        }
    }

    /// Ends the host and checks that nothing of it is left: no file, no directory, no segment.
    async fn end(self) {
        self.host.shutdown().await;
        assert_eq!(self.host.functions(), []);
        assert_eq!(self.host.store().usage().leases, 0);
        drop(self.host);
        let left: Vec<_> = std::fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [] as [PathBuf; 0]);
    }
}

/// One stage of one query, for tests that run it directly.
#[derive(Clone, Copy)]
struct Stage {
    id: StageId,
    kind: OutputKind,
    partitions: u32,
}

impl Stage {
    fn new(query: u64, stage: u32, kind: OutputKind, partitions: u32) -> Self {
        Self { id: StageId::new(QueryId(query), stage), kind, partitions }
    }

    fn define(self, plan: &Arc<dyn ExecutionPlan>) -> DefineStage {
        DefineStage {
            query: self.id.query.0,
            stage: self.id.stage,
            plan: codec::encode(plan, &crate::function::extensions()).unwrap(),
            settings: vec![],
            stores: vec![],
            output: OutputSpec { kind: self.kind as i32, partitions: self.partitions },
            objects: onward_cache::scan::tags_of(plan).unwrap(),
            cache: onward_wire::message::CacheUse::On as i32,
            sketches: vec![],
            writes: String::new(),
        }
    }

    fn attempt(self, task: u32, attempt: u32) -> AttemptId {
        self.id.task(task).attempt(attempt)
    }

    fn run(self, task: u32, attempt: u32, partitions: &[u32], inputs: Vec<StageInputs>, inline: u64) -> RunAttempt {
        let attempt = self.attempt(task, attempt).into();
        RunAttempt { attempt, partitions: partitions.to_vec(), inputs, inline_bytes: inline, filters: vec![] }
    }
}

/// DataFusion's physical plan of `sql` with `partitions` partitions.
async fn plan(sql: &str, partitions: usize) -> Arc<dyn ExecutionPlan> {
    let config = onward_planner::session::session_config(partitions, Default::default());
    let state = onward_planner::session::session_state_builder(config, Arc::default()).build();
    let context = datafusion::prelude::SessionContext::new_with_state(state);
    context.sql(sql).await.unwrap().create_physical_plan().await.unwrap()
}

/// A query that no test waits for the end of.
const ENDLESS: &str = "select count(*) from range(0, 1000000000000) where value % 7 = 3";

fn is_alive(pid: u32) -> bool {
    // A zombie has a directory too, but no executable.
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Stops a process and waits until every thread of it stands still.
async fn stop(pid: u32) {
    signal(pid, rustix::process::Signal::STOP);
    let is_stopped = |stat: String| stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'));
    loop {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut states = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")));
        if states.all(|stat| stat.is_ok_and(is_stopped)) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

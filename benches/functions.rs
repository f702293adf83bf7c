//! What a function costs: its start, a task, its memory.
//!
//! `cargo bench --bench functions`
//!
//! Others report, of cold starts: 18 to 22 ms for Rust on AWS Lambda; hundreds of us for Dandelion, which has no engine in it; 125 ms to
//! boot Firecracker.
//!
//! | line | mark |
//! | --- | --- |
//! | cold: from the request to the first task done, engine loaded, one at a time | p50 <= 5 ms, p99 <= 20 ms |
//! | warm: an empty task, from the order to its output | p50 <= 200 us, p99 <= 1 ms |
//! | 0 -> 200 functions, each of which did a task | <= 2 s |
//! | memory of a function that did a task and is idle, private (PSS) | <= 15 MiB |
//! | memory of the zygote, PSS | <= 64 MiB |
//!
//! A task is accepted when the function says so by its answer: an empty task runs whole within the cold line.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use onward_executor::host::{Host, HostEvent, HostOptions};
use onward_planner::codec;
use onward_shuffle::flight::GrantKey;
use onward_wire::message::{DefineStage, OutputKind, OutputSpec, RunAttempt};
use onward_wire::{Config, FunctionId, QueryId, StageId};
use support::{BoxError, conditions, load, median, milliseconds, percentile};
use tokio::sync::mpsc::UnboundedReceiver;

/// Measures functions.
#[derive(Parser)]
struct Options {
    /// Functions that are started one at a time
    #[arg(long, default_value_t = 300)]
    starts: u64,
    /// Empty tasks
    #[arg(long, default_value_t = 5_000)]
    tasks: u32,
    /// Functions that are started at once
    #[arg(long, default_value_t = 200)]
    burst: u64,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

struct Bench {
    host: Arc<Host>,
    events: UnboundedReceiver<HostEvent>,
    stage: DefineStage,
    last: u64,
}

fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    println!("{}\n\n| what | p50 | p99 | mark |\n| --- | --- | --- | --- |", conditions());
    // As a coordinator runs its driver: as a task.
    tokio::runtime::Runtime::new()?.block_on(async { tokio::spawn(run(options)).await? })?;
    println!("\n{} after", load());
    Ok(())
}

async fn run(options: Options) -> Result<(), BoxError> {
    let root = tempfile::tempdir()?;
    let config = Config {
        spill_dir: root.path().to_string_lossy().into_owned(),
        max_functions: options.burst as u32 + 1,
        ..Config::default()
    };
    let (events, received) = tokio::sync::mpsc::unbounded_channel();
    let (uploads, key) = (Arc::default(), GrantKey::random()?);
    let program = env!("CARGO_BIN_EXE_onward").into();
    let host = Host::start(
        HostOptions { config: Arc::new(config), program, uploads, stores: Arc::default(), ranges: None, key },
        events,
    )?;
    let mut bench = Bench { host, events: received, stage: empty_stage().await?, last: 0 };

    let (mut ready, mut accepted) = (Vec::new(), Vec::new());
    for start in 0..=options.starts {
        let began = Instant::now();
        let (function, _) = bench.start().await?;
        let is_ready = milliseconds(began.elapsed());
        bench.task(function, 0).await?;
        if start > 0 {
            // The first one waited for the zygote.
            ready.push(is_ready);
            accepted.push(milliseconds(began.elapsed()));
        }
        bench.stop(function).await?;
    }
    row("cold start, ready", &ready, "ms", "");
    row("cold start, first task done", &accepted, "ms", "5 ms, 20 ms");

    let (function, pid) = bench.start().await?;
    let mut warm = Vec::new();
    for task in 0..options.tasks + 100 {
        let began = Instant::now();
        bench.task(function, task).await?;
        if task >= 100 {
            warm.push(milliseconds(began.elapsed()) * 1e3);
        }
    }
    row("warm, an empty task", &warm, "us", "200 us, 1000 us");
    let zygote = parent(pid)?;
    bench.stop(function).await?;

    let began = Instant::now();
    let (first, mut pids, mut done) = (bench.last + 1, Vec::new(), 0);
    for _ in 0..options.burst {
        bench.request();
    }
    while done < options.burst {
        match bench.event().await? {
            HostEvent::FunctionReady { function, pid } => {
                pids.push(pid);
                bench.order(function, 0);
            }
            HostEvent::Prepared { .. } => done += 1,
            other => return Err(format!("no output: {other:?}").into()),
        }
    }
    let elapsed = began.elapsed();
    println!("| 0 -> {} functions that each did a task | {:.2} s | | 2 s |", options.burst, elapsed.as_secs_f64());
    let private = pids.iter().map(|pid| Ok(memory(*pid)?.0)).collect::<Result<Vec<_>, BoxError>>()?;
    let shares = pids.iter().map(|pid| Ok(memory(*pid)?.1)).collect::<Result<Vec<_>, BoxError>>()?;
    row("an idle function, private memory", &private, "MiB", "15 MiB");
    row("an idle function, PSS", &shares, "MiB", "");
    let (private, share) = memory(zygote)?;
    println!("| the zygote, PSS (private) | {share:.1} MiB ({private:.1}) | | 64 MiB |");
    for function in first..=bench.last {
        bench.host.stop_function(FunctionId(function));
    }
    bench.host.shutdown().await;
    Ok(())
}

impl Bench {
    fn request(&mut self) {
        self.last += 1;
        self.host.start_function(FunctionId(self.last), 1, 256 << 20);
    }

    async fn start(&mut self) -> Result<(FunctionId, u32), BoxError> {
        self.request();
        self.ready().await
    }

    async fn ready(&mut self) -> Result<(FunctionId, u32), BoxError> {
        match self.event().await? {
            HostEvent::FunctionReady { function, pid } => Ok((function, pid)),
            other => Err(format!("no function: {other:?}").into()),
        }
    }

    fn order(&mut self, function: FunctionId, task: u32) {
        if task == 0 {
            self.host.define_stage(function, self.stage.clone());
        }
        let attempt = StageId::new(QueryId(1), 0).task(task).attempt(function.0 as u32).into();
        let (partitions, inputs, filters) = (vec![0], vec![], vec![]);
        self.host.run_attempt(function, RunAttempt { attempt, partitions, inputs, inline_bytes: 1 << 16, filters });
    }

    async fn task(&mut self, function: FunctionId, task: u32) -> Result<(), BoxError> {
        self.order(function, task);
        match self.event().await? {
            HostEvent::Prepared { .. } => Ok(()),
            other => Err(format!("no output: {other:?}").into()),
        }
    }

    async fn stop(&mut self, function: FunctionId) -> Result<(), BoxError> {
        self.host.stop_function(function);
        match self.event().await? {
            HostEvent::FunctionLost { .. } => Ok(()),
            other => Err(format!("it does not leave: {other:?}").into()),
        }
    }

    /// The next event that says something.
    async fn event(&mut self) -> Result<HostEvent, BoxError> {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), self.events.recv()).await?.ok_or("no host")?;
            if !matches!(event, HostEvent::Progress { .. } | HostEvent::AttemptEnded { .. }) {
                return Ok(event);
            }
        }
    }
}

async fn empty_stage() -> Result<DefineStage, BoxError> {
    let plan: Arc<dyn ExecutionPlan> = SessionContext::new().sql("select 1").await?.create_physical_plan().await?;
    let plan = codec::encode(&plan, &onward_executor::function::extensions())?;
    let output = OutputSpec { kind: OutputKind::Preserve as i32, partitions: 1 };
    Ok(DefineStage { query: 1, plan, output, ..DefineStage::default() })
}

fn row(what: &str, samples: &[f64], unit: &str, mark: &str) {
    let (p50, p99) = (median(samples), percentile(samples, 0.99));
    println!("| {what} | {p50:.2} {unit} | {p99:.2} {unit} | {mark} |");
}

fn parent(pid: u32) -> Result<u32, BoxError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).ok_or("no parent")?;
    Ok(parent.trim().parse()?)
}

/// Private and proportional memory of a process, in MiB.
fn memory(pid: u32) -> Result<(f64, f64), BoxError> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    Ok((of("Private_Clean:") + of("Private_Dirty:"), of("Pss:")))
}

//! All-to-all with many small partitions: what an exchange costs when nothing in it is large.
//!
//! `cargo bench --bench exchange_scale`
//!
//! - 1,000 producers by 1,000 partitions through the whole system, two functions, in 1 GiB of memory for everything (see
//!   benches/limit_memory.py): time, peak memory, and the most descriptors that any process had at once.
//! - 1,000 x 1,000 and 10,000 x 10,000 in the coordinator alone: its state machine with functions that answer at once
//!   (nothing is computed, no network): CPU per task, and what it keeps per partition; and what a host's index costs to ask,
//!   for segments of so many partitions.

mod support;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use onward_coordinator::scheduler::{
    Command, Event, FunctionShape, PartitionSizes, QuerySpec, Scheduler, SchedulerLimits, StageSpec,
};
use onward_segment::{ImageWriter, MappedSegment};
use onward_wire::message::{AttemptOutput, PartitionStats, SegmentRef};
use onward_wire::{Config, FunctionId, HostId, QueryId};
use support::{BoxError, conditions, load};

/// Measures it.
#[derive(Parser)]
struct Options {
    /// Producers and partitions of the simulation
    #[arg(long, default_value_t = 10_000)]
    simulated: usize,
    /// Only the simulation
    #[arg(long)]
    simulation: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    println!("{}\n", conditions());
    if !options.simulation {
        real()?;
    }
    println!("\n| producers x partitions | coordinator CPU per task | kept per partition | index look-up |");
    println!("| --- | --- | --- | --- |");
    for count in [100, 1_000, options.simulated] {
        simulate(count)?;
    }
    println!("\n{} after", load());
    Ok(())
}

/// 1,000 files, a task for each, 1,000 partitions and a task for each of them.
fn real() -> Result<(), BoxError> {
    let root = tempfile::tempdir()?;
    let (table, script) = (root.path().join("table"), root.path().join("script.sql"));
    let binary = env!("CARGO_BIN_EXE_onward");
    let table = table.display();
    let make = format!(
        "COPY (SELECT value % 1000 AS f, value * 7919 % 1000003 AS k FROM generate_series(1, 2000000)) TO '{table}/' \
         STORED AS PARQUET PARTITIONED BY (f)"
    );
    if !Process::new(binary).args(["sql", "-c", &make]).stdout(Stdio::null()).status()?.success() {
        return Err("the table could not be made".into());
    }
    let sql = format!(
        "SET onward.functions = 2; SET onward.tasks = 1000; SET datafusion.execution.target_partitions = 1000; \
         SET onward.cache = false;\n\
         CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{table}/';\n\
         SELECT count(*) = 1000003 AND sum(n) = 2000000 AS is_right FROM (SELECT k, count(*) n FROM t GROUP BY k);\n\
         SELECT tasks, attempts, functions_used, exchange_bytes FROM system.queries WHERE tasks > 100;\n"
    );
    fs::write(&script, sql)?;
    println!("1,000 producers x 1,000 partitions, 2 functions, limit 1 GiB for everything:");
    let limited = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/limit_memory.py");
    let mut command = Process::new("python3");
    command.arg(limited).args(["1GiB", binary, "sql", "-f"]).arg(&script);
    let mut child = command.spawn()?;
    let (ended, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| -> Result<(), BoxError> {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(descriptors(binary), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let status = child.wait();
        ended.store(true, Ordering::Relaxed);
        if status?.success() { Ok(()) } else { Err("the query failed".into()) }
    })?;
    println!("most descriptors of one process, sampled every 20 ms: {}", most.load(Ordering::Relaxed));
    Ok(())
}

/// The most open files of any process of `binary`.
fn descriptors(binary: &str) -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = processes.filter(|path| fs::read_link(path.join("exe")).is_ok_and(|exe| exe == Path::new(binary)));
    ours.filter_map(|path| Some(fs::read_dir(path.join("fd")).ok()?.count())).max().unwrap_or(0)
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedstat.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn simulate(count: usize) -> Result<(), BoxError> {
    let limits = SchedulerLimits { max_functions: 64, total_vcpus: 64, ..SchedulerLimits::from(&Config::default()) };
    let mut scheduler = Scheduler::new(limits);
    let tasks = || (0..count as u32).map(|task| vec![task]).collect::<Vec<_>>();
    let stage = |inputs| StageSpec { inputs, tasks: tasks(), ..StageSpec::default() };
    let spec = QuerySpec {
        query: QueryId(1),
        user: "".into(),
        queue: "".into(),
        functions: 64,
        shape: FunctionShape { vcpus: 1, memory_bytes: 1 << 20, class: 0 },
        timeout_ms: None,
        first_attempt: 0,
        task_bytes: 0,
        split_bytes: 0,
        task_lives: 0,
        starts_early: true,
        stages: vec![stage(vec![]), stage(vec![0])],
    };
    let stats: Vec<PartitionStats> =
        (0..count as u32).map(|partition| PartitionStats { partition, rows: 2, bytes: 640 }).collect();
    let kept = PartitionSizes::new(&stats).memory_bytes() as f64 / count as f64;
    let (mut waiting, mut segment, mut told) = (VecDeque::from([Event::SubmitQuery(spec)]), 0_u64, 0_usize);
    let mut spent = Duration::ZERO;
    let begun = Instant::now();
    while let Some(event) = waiting.pop_front() {
        let before = cpu();
        let commands = scheduler.handle(0, event);
        spent += cpu() - before;
        for command in commands {
            match command {
                Command::StartFunction { function, .. } => waiting.push_back(Event::FunctionReady { function }),
                Command::RunAttempt { function, attempt, inputs, .. } => {
                    let mut output = AttemptOutput::default();
                    if attempt.task.stage.stage == 0 {
                        segment += 1;
                        output.segments.push(SegmentRef { segment, length_bytes: 1, rows: 2 * count as u64 });
                        output.partitions.clone_from(&stats);
                    } else {
                        // What the driver does for the message to the function.
                        let before = cpu();
                        let read = [attempt.task.task];
                        let inputs = inputs.iter().flat_map(|input| &input.attempts);
                        told += inputs.map(|input| input.input(Some(&read)).output.partitions.len()).sum::<usize>();
                        spent += cpu() - before;
                    }
                    let function = FunctionId(function.0);
                    waiting.push_back(Event::Prepared { function, host: HostId::EMBEDDED, attempt, output });
                }
                Command::QueryFailed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }
    if told != count * count {
        return Err(format!("{told} partitions were read instead of {}", count * count).into());
    }
    let per_task = spent.as_secs_f64() * 1e6 / (2 * count) as f64;
    let look_up = look_up(count)?;
    println!(
        "| {count} x {count} | {per_task:.0} us ({:.1} s in all) | {kept:.2} B | {look_up:.0} ns |",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Asking a segment of `count` partitions for one of them.
fn look_up(count: usize) -> Result<f64, BoxError> {
    const LOOK_UPS: u32 = 1_000_000;
    let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1, 2])) as _)])?;
    let mut writer = ImageWriter::create(batch.schema())?;
    (0..count as u32).try_for_each(|partition| writer.append(partition, &batch))?;
    let segment = MappedSegment::from_image(writer.finish()?.1)?;
    let (begun, mut rows) = (Instant::now(), 0);
    for at in 0..LOOK_UPS {
        let partition = at.wrapping_mul(2_654_435_761) % count as u32;
        rows += segment.entries(partition).map(|entry| entry.rows).sum::<u64>();
    }
    assert_eq!(rows, u64::from(LOOK_UPS) * 2);
    Ok(begun.elapsed().as_nanos() as f64 / f64::from(LOOK_UPS))
}

//! One coordinator with a thousand hosts: what it takes to lead them, and where it ends.
//!
//! `cargo bench --bench coordinator_scale`
//!
//! The real state machine on a virtual clock and a virtual network: hosts of ten functions each, queries that arrive at random, each of
//! a stage of scans and a stage that reads all of them. Whatever is said is encoded and decoded as it is on the wire, and arrives
//! after the network's delay. Functions compute nothing; they take as long as the workload says. CPU is measured where it is real:
//! in the state machine and in the coding of messages. Not in it: sockets, TLS, grants, planning, results.
//!
//! The rate is doubled until a second of virtual time takes more than a second of CPU: one thread owns the state machine.

mod support;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs;
use std::time::Duration;

use clap::Parser;
use onward_coordinator::scheduler::{Command, Event, FunctionShape, QuerySpec, Scheduler, SchedulerLimits, StageSpec};
use onward_wire::cluster::{Order, Report, StartFunction, ToCoordinator, ToMember, order, report, to_coordinator};
use onward_wire::exchange::StageInputs;
use onward_wire::message::{AttemptDone, AttemptOutput, PartitionStats, RunAttempt, SegmentRef};
use onward_wire::{AttemptId, Config, FunctionId, HostId, QueryId};
use prost::Message;
use support::{BoxError, conditions, load};

/// Measures it.
#[derive(Parser)]
struct Options {
    /// Hosts
    #[arg(long, default_value_t = 1_000)]
    hosts: u32,
    /// Functions of each
    #[arg(long, default_value_t = 10)]
    functions_per_host: u32,
    /// Tasks of a query
    #[arg(long, default_value_t = 1_000)]
    tasks: u32,
    /// Queries a second to begin with
    #[arg(long, default_value_t = 1.562_5)]
    rate: f64,
    /// Mean milliseconds of a task
    #[arg(long, default_value_t = 50.0)]
    task_ms: f64,
    /// Median milliseconds of a message's way
    #[arg(long, default_value_t = 0.5)]
    network_ms: f64,
    /// Virtual seconds of a run
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seed of arrivals and times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    println!("{}\n", conditions());
    let Options { hosts, functions_per_host, tasks, task_ms, network_ms, seconds, .. } = options;
    println!(
        "{hosts} hosts, {functions_per_host} functions each; queries of {tasks} tasks of {task_ms} ms; network {network_ms} ms; \
         {seconds} virtual seconds\n"
    );
    println!(
        "| queries/s | CPU s per virtual s | of it state machine | CPU per task | messages/s | MB/s | done, p50, p99 of latency | most \
         functions | memory |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut rate = options.rate;
    loop {
        let load = World::new(&options, rate).run()?;
        if load > 1.0 || rate >= 100.0 * options.rate {
            break;
        }
        rate *= 2.0;
    }
    println!("\n{} after", load());
    Ok(())
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedstat.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// Memory of this process, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

/// What arrives at the coordinator, and when. Of what arrives at the same time the first comes first.
enum Arrival {
    /// A client's query.
    Query,
    /// A host's message, as it is sent.
    Message(Vec<u8>),
    /// The state machine's own clock.
    Tick,
}

struct World<'a> {
    options: &'a Options,
    rate: f64,
    scheduler: Scheduler,
    random: fastrand::Rng,
    now_us: u64,
    order: u64,
    /// By time and order.
    arrivals: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: HashMap<u64, Arrival>,
    places: HashMap<FunctionId, HostId>,
    begun_us: HashMap<QueryId, u64>,
    latencies_us: Vec<u64>,
    queries: u64,
    segments: u64,
    tasks: u64,
    messages: u64,
    bytes: u64,
    most_functions: usize,
    functions: usize,
    /// CPU of the state machine, and of coding.
    deciding: Duration,
    coding: Duration,
}

impl<'a> World<'a> {
    fn new(options: &'a Options, rate: f64) -> Self {
        let limits = SchedulerLimits {
            is_reserve: true,
            max_running_queries: 10_000,
            max_queued_queries: 100_000,
            max_functions_per_query: 0,
            max_functions_per_user: 0,
            function_start_burst: 10_000,
            function_starts_per_second: 0,
            function_idle_timeout_ms: 60_000,
            ..SchedulerLimits::from(&Config::default())
        };
        Self {
            options,
            rate,
            scheduler: Scheduler::new(limits),
            random: fastrand::Rng::with_seed(options.seed),
            now_us: 0,
            order: 0,
            arrivals: BinaryHeap::new(),
            waiting: HashMap::new(),
            places: HashMap::new(),
            begun_us: HashMap::new(),
            latencies_us: Vec::new(),
            queries: 0,
            segments: 0,
            tasks: 0,
            messages: 0,
            bytes: 0,
            most_functions: 0,
            functions: 0,
            deciding: Duration::ZERO,
            coding: Duration::ZERO,
        }
    }

    /// Runs, prints a line, and gives the CPU seconds of a virtual second.
    fn run(mut self) -> Result<f64, BoxError> {
        let before = resident();
        for host in 1..=self.options.hosts {
            let max_functions = self.options.functions_per_host as usize;
            let vcpus = self.options.functions_per_host;
            self.handle(Event::HostJoined { host: HostId(host), vcpus, max_functions, classes: vec![] })?;
        }
        (self.deciding, self.coding, self.messages, self.bytes) = Default::default();
        let (end_us, mut most_memory) = ((self.options.seconds * 1e6) as u64, before);
        self.arrive_in(0, Arrival::Query);
        while let Some(Reverse((at_us, order))) = self.arrivals.pop() {
            if at_us > end_us {
                break;
            }
            self.now_us = at_us;
            match self.waiting.remove(&order) {
                Some(Arrival::Query) => {
                    let between = (-(1.0 - self.random.f64()).ln() / self.rate * 1e6) as u64;
                    self.arrive_in(between, Arrival::Query);
                    self.submit()?;
                }
                Some(Arrival::Message(message)) => self.hear(&message)?,
                Some(Arrival::Tick) => self.handle(Event::Tick)?,
                None => {}
            }
            if order % 65_536 == 0 {
                most_memory = most_memory.max(resident());
            }
        }
        let most_memory = most_memory.max(resident()) - before;
        let seconds = self.options.seconds;
        let load = (self.deciding + self.coding).as_secs_f64() / seconds;
        self.latencies_us.sort_unstable();
        let done = self.latencies_us.len();
        let latency = |part: f64| match done {
            0 => f64::NAN,
            _ => self.latencies_us[((done - 1) as f64 * part) as usize] as f64 / 1e3,
        };
        println!(
            "| {} | {load:.2} | {:.2} | {:.1} us | {:.0} | {:.1} | {done} of {}, {:.0} ms, {:.0} ms | {} | {} MiB |",
            self.rate,
            self.deciding.as_secs_f64() / seconds,
            load * seconds * 1e6 / self.tasks.max(1) as f64,
            self.messages as f64 / seconds,
            self.bytes as f64 / seconds / 1e6,
            self.queries,
            latency(0.5),
            latency(0.99),
            self.most_functions,
            most_memory >> 20,
        );
        Ok(load)
    }

    fn arrive_in(&mut self, after_us: u64, arrival: Arrival) {
        self.order += 1;
        self.arrivals.push(Reverse((self.now_us + after_us, self.order)));
        self.waiting.insert(self.order, arrival);
    }

    /// The way of a message: once in a hundred ten times as long.
    fn way_us(&mut self) -> u64 {
        let usual = self.options.network_ms * 1e3 * (0.5 + self.random.f64());
        (if self.random.u32(..100) == 0 { usual * 10.0 } else { usual }) as u64
    }

    fn submit(&mut self) -> Result<(), BoxError> {
        self.queries += 1;
        let query = QueryId(self.queries);
        self.begun_us.insert(query, self.now_us);
        let tasks = |count: u32| (0..count).map(|task| vec![task]).collect::<Vec<_>>();
        let scans = self.options.tasks * 9 / 10;
        let functions = self.options.hosts * self.options.functions_per_host;
        let spec = QuerySpec {
            query,
            user: format!("user {}", self.queries % 100).into(),
            queue: "".into(),
            functions: self.options.tasks.min(functions) as usize,
            shape: FunctionShape { vcpus: 1, memory_bytes: 1 << 30, class: 0 },
            timeout_ms: None,
            first_attempt: 0,
            task_bytes: 0,
            split_bytes: 0,
            task_lives: 0,
            starts_early: false,
            stages: vec![
                StageSpec { tasks: tasks(scans), ..StageSpec::default() },
                StageSpec { inputs: vec![0], tasks: tasks(self.options.tasks - scans), ..StageSpec::default() },
            ],
        };
        self.handle(Event::SubmitQuery(spec))
    }

    /// A host's message arrives.
    fn hear(&mut self, message: &[u8]) -> Result<(), BoxError> {
        let before = cpu();
        let message = ToCoordinator::decode(message)?;
        self.coding += cpu() - before;
        match message.body {
            Some(to_coordinator::Body::FunctionReady(ready)) => {
                self.handle(Event::FunctionReady { function: FunctionId(ready.function) })
            }
            Some(to_coordinator::Body::Report(Report {
                function, body: Some(report::Body::Prepared(done)), ..
            })) => {
                let function = FunctionId(function);
                let (host, attempt) = (self.places[&function], AttemptId::from(done.attempt));
                self.handle(Event::Prepared { function, host, attempt, output: done.output })
            }
            other => Err(format!("{other:?}").into()),
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), BoxError> {
        let before = cpu();
        let commands = self.scheduler.handle(self.now_us / 1_000, event);
        let wakeup = self.scheduler.next_wakeup();
        self.deciding += cpu() - before;
        for command in commands {
            self.carry_out(command)?;
        }
        if let Some(at_ms) = wakeup {
            let after_us = (at_ms * 1_000).saturating_sub(self.now_us);
            // Far ones are asked for again.
            if after_us < 1_000_000 {
                self.arrive_in(after_us, Arrival::Tick);
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) -> Result<(), BoxError> {
        match command {
            Command::StartFunction { function, host, shape } => {
                self.places.insert(function, host);
                self.functions += 1;
                self.most_functions = self.most_functions.max(self.functions);
                let FunctionShape { vcpus, memory_bytes, .. } = shape;
                self.say(StartFunction { function: function.0, vcpus, memory_bytes }.into());
                let ready = onward_wire::cluster::FunctionReady { function: function.0, pid: 1 };
                self.answer_in(5_000, ready.into());
            }
            Command::StopFunction { function } => {
                self.functions -= 1;
                self.say(onward_wire::cluster::StopFunction { function: function.0 }.into());
            }
            Command::RunAttempt { function, attempt, partitions, inputs, inline_bytes, .. } => {
                let before = cpu();
                let told = |input: &onward_coordinator::scheduler::StageOutput| StageInputs {
                    stage: input.stage,
                    attempts: input.attempts.iter().map(|attempt| attempt.input(Some(&partitions))).collect(),
                    ..StageInputs::default()
                };
                let inputs = inputs.iter().map(told).collect();
                let run = RunAttempt { attempt: attempt.into(), partitions, inputs, inline_bytes, filters: vec![] };
                self.coding += cpu() - before;
                self.say(Order { function: function.0, body: Some(order::Body::RunAttempt(run)) }.into());
                self.tasks += 1;
                let task_us = (self.options.task_ms * 1e3 * (0.5 + self.random.f64())) as u64;
                let mut output = AttemptOutput::default();
                self.segments += 1;
                output.segments.push(SegmentRef { segment: self.segments, length_bytes: 1 << 20, rows: 10_000 });
                if attempt.task.stage.stage == 0 {
                    let partitions = self.options.tasks - self.options.tasks * 9 / 10;
                    let stats = |partition| PartitionStats { partition, rows: 100, bytes: 10_000 };
                    output.partitions = (0..partitions).map(stats).collect();
                }
                let done = AttemptDone { attempt: attempt.into(), output, ..AttemptDone::default() };
                let report = Report { function: function.0, body: Some(report::Body::Prepared(done)), host: None };
                self.answer_in(task_us, report.into());
            }
            Command::QueryDone { query, .. } => {
                let begun = self.begun_us.remove(&query).unwrap_or(self.now_us);
                self.latencies_us.push(self.now_us - begun);
                self.handle(Event::ResultReleased { query })?;
            }
            Command::QueryFailed { error, .. } => return Err(error.into()),
            Command::ReleaseSegments(segments) => {
                let segments = segments.into_iter().map(|(_, segment)| segment.0).collect();
                self.say(onward_wire::cluster::RemoveSegments { segments }.into());
            }
            _ => {}
        }
        Ok(())
    }

    /// A message leaves for a host.
    fn say(&mut self, message: ToMember) {
        let before = cpu();
        let message = message.encode_to_vec();
        self.coding += cpu() - before;
        self.messages += 1;
        self.bytes += message.len() as u64;
    }

    /// A host's answer, some time after it heard.
    fn answer_in(&mut self, after_us: u64, message: ToCoordinator) {
        let message = message.encode_to_vec();
        self.messages += 1;
        self.bytes += message.len() as u64;
        let after_us = self.way_us() + after_us + self.way_us();
        self.arrive_in(after_us, Arrival::Message(message));
    }
}

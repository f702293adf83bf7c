//! One coordinator with a thousand hosts: what it takes to lead them, and where it ends.
//!
//! `cargo bench --bench coordinator_scale`
//!
//! The real state machine on a virtual clock and a virtual network: hosts of ten functions each, queries that arrive at random, each of
//! a stage of scans and a stage that reads all of them. Whatever is said is encoded and decoded as it is on the wire, and arrives
//! after the network's delay. Functions compute nothing; they take as long as the workload says. CPU is measured where it is real, and
//! the virtual clock goes on by it: one thread owns the state machine and encodes what it says; what arrives meanwhile waits, and is
//! then decided on together, as in the coordinator. Other threads decode. Not in it: sockets, TLS, grants, planning, results.
//!
//! The rate is doubled until that thread is busy all the time.

mod support;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::fs;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use cpu_time::ThreadTime;
use onward_coordinator::scheduler::{
    Command, Event, FunctionShape, MOST_AT_ONCE, QuerySpec, Scheduler, SchedulerLimits, StageSpec,
};
use onward_wire::cluster::{
    AwaitQueryEnd, Order, QueryEnded, RemoveSegments, Report, StartFunction, StopFunction, ToCoordinator, ToMember,
    order, report, to_coordinator,
};
use onward_wire::message::{
    AttemptDone, AttemptOutput, DefineStage, ForgetQuery, PartitionStats, RunAttempt, SegmentRef,
};
use onward_wire::{AttemptId, Config, FunctionId, HostId, QueryId, StageId};
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
        "| queries/s | leading thread: busy, of it state machine | decoding, CPU s per s | CPU per task: state machine, all | \
         events per decision | messages/s | MB/s | done, p50, p99 of latency | most functions | memory |"
    );
    println!("|{}", " --- |".repeat(10));
    let mut rate = options.rate;
    let mut most = None;
    while World::new(&options, rate).run()? < SATURATED && rate < 1_000.0 * options.rate {
        most = Some(rate);
        rate *= 2.0;
    }
    match most {
        Some(most) => {
            println!("\nThe most that it kept up with: {most} queries/s, {} tasks/s", most * f64::from(tasks))
        }
        None => println!("\nIt did not keep up with any"),
    }
    println!("{} after", load());
    Ok(())
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

/// The leading thread is busy for this part of the time: it does not keep up.
const SATURATED: f64 = 0.95;

/// A plan of a stage, in bytes.
const PLAN: [u8; 4_096] = [7; 4_096];

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
    /// Where a query ran.
    hosts: HashMap<QueryId, BTreeSet<HostId>>,
    begun_us: HashMap<QueryId, u64>,
    latencies_us: Vec<u64>,
    queries: u64,
    segments: u64,
    tasks: u64,
    messages: u64,
    bytes: u64,
    most_functions: usize,
    functions: usize,
    decisions: u64,
    events: u64,
    /// When the leading thread has nothing to do, and when it is to look at its clock.
    free_us: u64,
    tick_us: Option<u64>,
    /// CPU of the state machine, and of coding.
    deciding: Duration,
    encoding: Duration,
    decoding: Duration,
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
            hosts: HashMap::new(),
            begun_us: HashMap::new(),
            latencies_us: Vec::new(),
            queries: 0,
            segments: 0,
            tasks: 0,
            messages: 0,
            bytes: 0,
            most_functions: 0,
            functions: 0,
            decisions: 0,
            events: 0,
            free_us: 0,
            tick_us: None,
            deciding: Duration::ZERO,
            encoding: Duration::ZERO,
            decoding: Duration::ZERO,
        }
    }

    /// Runs, prints a line, and gives the part of the time for which the leading thread was busy.
    fn run(mut self) -> Result<f64, BoxError> {
        let before = resident();
        let max_functions = self.options.functions_per_host as usize;
        let vcpus = self.options.functions_per_host;
        let joined = |host| Event::HostJoined { host: HostId(host), vcpus, max_functions, classes: vec![] };
        self.scheduler.handle_all(0, (1..=self.options.hosts).map(joined));
        let (end_us, mut most_memory) = ((self.options.seconds * 1e6) as u64, before);
        self.arrive_in(0, Arrival::Query);
        while let Some(Reverse((at_us, order))) = self.arrivals.peek().copied() {
            self.now_us = at_us.max(self.free_us);
            if self.now_us > end_us {
                break;
            }
            let events = self.arrived()?;
            self.decide(events)?;
            if order % 64 == 0 {
                most_memory = most_memory.max(resident());
            }
        }
        let most_memory = most_memory.max(resident()) - before;
        let seconds = self.options.seconds;
        let busy = (self.deciding + self.encoding).as_secs_f64() / seconds;
        self.latencies_us.sort_unstable();
        let done = self.latencies_us.len();
        let latency = |part: f64| match done {
            0 => f64::NAN,
            _ => self.latencies_us[((done - 1) as f64 * part) as usize] as f64 / 1e3,
        };
        let per_task = |cpu: Duration| cpu.as_secs_f64() * 1e6 / self.tasks.max(1) as f64;
        println!(
            "| {} | {busy:.2}, {:.2} | {:.2} | {:.1}, {:.1} us | {:.1} | {:.0} | {:.1} | {done} of {}, {:.0} ms, {:.0} ms | {} | {} MiB |",
            self.rate,
            self.deciding.as_secs_f64() / seconds,
            self.decoding.as_secs_f64() / seconds,
            per_task(self.deciding),
            per_task(self.deciding + self.encoding + self.decoding),
            self.events as f64 / self.decisions.max(1) as f64,
            self.messages as f64 / seconds,
            self.bytes as f64 / seconds / 1e6,
            self.queries,
            latency(0.5),
            latency(0.99),
            self.most_functions,
            most_memory >> 20,
        );
        Ok(busy)
    }

    /// What has arrived by now.
    fn arrived(&mut self) -> Result<Vec<Event>, BoxError> {
        let (mut events, mut messages) = (Vec::new(), Vec::new());
        while let Some(Reverse((at_us, order))) = self.arrivals.peek().copied()
            && at_us <= self.now_us
            && events.len() + messages.len() < MOST_AT_ONCE
        {
            self.arrivals.pop();
            match self.waiting.remove(&order) {
                Some(Arrival::Query) => {
                    let between = (-(1.0 - self.random.f64()).ln() / self.rate * 1e6) as u64;
                    self.arrive_at(at_us + between, Arrival::Query);
                    events.push(self.query(at_us));
                }
                Some(Arrival::Message(message)) => messages.push(message),
                Some(Arrival::Tick) => {
                    self.tick_us = None;
                    events.push(Event::Tick);
                }
                None => {}
            }
        }
        let before = ThreadTime::now();
        let messages: Vec<_> = messages.iter().map(|message| ToCoordinator::decode(&**message)).collect();
        self.decoding += before.elapsed();
        for message in messages {
            events.extend(self.hear(message?)?);
        }
        Ok(events)
    }

    /// The leading thread decides on what happened, and says what follows from it.
    fn decide(&mut self, mut events: Vec<Event>) -> Result<(), BoxError> {
        while !events.is_empty() {
            (self.decisions, self.events) = (self.decisions + 1, self.events + events.len() as u64);
            let before = ThreadTime::now();
            let commands = self.scheduler.handle_all(self.now_us / 1_000, events);
            let decided = before.elapsed();
            let mut said = Said::default();
            commands.iter().for_each(|command| self.say(command, &mut said));
            let busy = before.elapsed();
            (self.deciding, self.encoding) = (self.deciding + decided, self.encoding + busy - decided);
            (self.messages, self.bytes) = (self.messages + said.messages, self.bytes + said.bytes);
            self.now_us += busy.as_micros() as u64;
            events = Vec::new();
            for command in commands {
                events.extend(self.carry_out(command)?);
            }
        }
        self.free_us = self.now_us;
        let before = ThreadTime::now();
        let wakeup = self.scheduler.next_wakeup();
        self.deciding += before.elapsed();
        if let Some(at_ms) = wakeup {
            let at_us = (at_ms * 1_000).max(self.now_us);
            if self.tick_us.is_none_or(|tick_us| at_us < tick_us) {
                self.tick_us = Some(at_us);
                self.arrive_at(at_us, Arrival::Tick);
            }
        }
        Ok(())
    }

    fn arrive_in(&mut self, after_us: u64, arrival: Arrival) {
        self.arrive_at(self.now_us + after_us, arrival);
    }

    fn arrive_at(&mut self, at_us: u64, arrival: Arrival) {
        self.order += 1;
        self.arrivals.push(Reverse((at_us, self.order)));
        self.waiting.insert(self.order, arrival);
    }

    /// The way of a message: once in a hundred ten times as long.
    fn way_us(&mut self) -> u64 {
        let usual = self.options.network_ms * 1e3 * (0.5 + self.random.f64());
        (if self.random.u32(..100) == 0 { usual * 10.0 } else { usual }) as u64
    }

    /// A client asks at `at_us`.
    fn query(&mut self, at_us: u64) -> Event {
        self.queries += 1;
        let query = QueryId(self.queries);
        self.begun_us.insert(query, at_us);
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
        Event::SubmitQuery(spec)
    }

    /// A host's message.
    fn hear(&mut self, message: ToCoordinator) -> Result<Option<Event>, BoxError> {
        match message.body {
            Some(to_coordinator::Body::FunctionReady(ready)) => {
                Ok(Some(Event::FunctionReady { function: FunctionId(ready.function) }))
            }
            Some(to_coordinator::Body::QueryEnded(_)) => Ok(None),
            Some(to_coordinator::Body::Report(Report {
                function, body: Some(report::Body::Prepared(done)), ..
            })) => {
                let function = FunctionId(function);
                let (host, attempt) = (self.places[&function], AttemptId::from(done.attempt));
                Ok(Some(Event::Prepared { function, host, attempt, output: done.output }))
            }
            other => Err(format!("{other:?}").into()),
        }
    }

    /// What hosts are told of a command.
    fn say(&self, command: &Command, said: &mut Said) {
        match command {
            Command::StartFunction { function, shape, .. } => {
                let FunctionShape { vcpus, memory_bytes, .. } = *shape;
                said.say(StartFunction { function: function.0, vcpus, memory_bytes });
            }
            Command::StopFunction { function } => said.say(StopFunction { function: function.0 }),
            Command::RunAttempt { function, attempt, partitions, inputs, inline_bytes, .. } => {
                let order = |body| Order { function: function.0, body: Some(body) };
                let StageId { query, stage } = attempt.task.stage;
                // A function runs one task of a stage.
                let plan = Bytes::from_static(&PLAN);
                said.say(order(order::Body::DefineStage(DefineStage {
                    query: query.0,
                    stage,
                    plan,
                    ..DefineStage::default()
                })));
                said.say(order(order::Body::RunAttempt(RunAttempt {
                    attempt: (*attempt).into(),
                    partitions: partitions.clone(),
                    inputs: inputs.iter().map(|input| input.told_afar(partitions)).collect(),
                    inline_bytes: *inline_bytes,
                    filters: vec![],
                })));
            }
            Command::ReleaseSegments(segments) => {
                let mut by_host: BTreeMap<HostId, Vec<u64>> = BTreeMap::new();
                segments.iter().for_each(|(host, segment)| by_host.entry(*host).or_default().push(segment.0));
                by_host.into_values().for_each(|segments| said.say(RemoveSegments { segments }));
            }
            Command::QueryDone { query, .. } => {
                for host in self.hosts.get(query).into_iter().flatten() {
                    said.say(ForgetQuery { query: query.0, kept: vec![] });
                    said.say(AwaitQueryEnd { request: u64::from(host.0) << 32, query: query.0 });
                }
            }
            _ => {}
        }
    }

    /// What hosts and clients make of a command, and what happens because of it at once.
    fn carry_out(&mut self, command: Command) -> Result<Option<Event>, BoxError> {
        match command {
            Command::StartFunction { function, host, .. } => {
                self.places.insert(function, host);
                self.functions += 1;
                self.most_functions = self.most_functions.max(self.functions);
                let ready = onward_wire::cluster::FunctionReady { function: function.0, pid: 1 };
                self.answer_in(5_000, ready.into());
            }
            Command::StopFunction { .. } => self.functions -= 1,
            Command::RunAttempt { function, attempt, .. } => {
                self.tasks += 1;
                self.hosts.entry(attempt.query()).or_default().insert(self.places[&function]);
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
                for _ in self.hosts.remove(&query).unwrap_or_default() {
                    self.answer_in(0, QueryEnded { request: 1 << 32 }.into());
                }
                return Ok(Some(Event::ResultReleased { query }));
            }
            Command::QueryFailed { error, .. } => return Err(error.into()),
            _ => {}
        }
        Ok(None)
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

/// What was said.
#[derive(Default)]
struct Said {
    messages: u64,
    bytes: u64,
}

impl Said {
    fn say(&mut self, message: impl Into<ToMember>) {
        self.messages += 1;
        self.bytes += message.into().encode_to_vec().len() as u64;
    }
}

//! The scheduler on a virtual clock: functions that compute for as long as a workload says, and cost what AWS asks.

pub mod plot;
pub mod report;
pub mod workload;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;
use onward_coordinator::scheduler::{Command, Event, FunctionShape, QuerySpec, Scheduler, SchedulerLimits, StageSpec};
use onward_wire::message::AttemptOutput;
use onward_wire::{AttemptId, Config, FunctionId, HostId, QueryId};

use workload::{Query, Workload, log_normal};

/// Functions that a host has at most.
const HOST_FUNCTIONS: usize = 128;

/// Hands a task to a function that is there, in microseconds.
const DISPATCH_US: u64 = 300;

/// What is compared and what it costs.
#[derive(Clone, Copy, Debug)]
pub struct Assumptions {
    /// Median time until a function that is started says hello.
    pub cold_start_ms: f64,
    /// Memory of a function with one vCPU.
    pub function_gib: f64,
    /// A GiB of a function's memory for a second, in US dollars.
    pub gib_second: f64,
    /// A million attempts.
    pub million_requests: f64,
    /// A virtual machine for an hour.
    pub vm_hour: f64,
    /// Functions with one vCPU on it.
    pub vm_functions: usize,
    /// Functions that the elastic fleet has at most.
    pub most_functions: usize,
    /// Seed of all that is random.
    pub seed: u64,
}

/// How many functions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fleet {
    /// From none to as many as there is work for.
    Elastic,
    /// Always so many.
    Fixed(usize),
}

/// What a period took.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From arrival to the last row, ascending, in microseconds.
    pub latency_us: Vec<u64>,
    /// From arrival to the first attempt, ascending.
    pub wait_us: Vec<u64>,
    /// Functions that were started.
    pub starts: u64,
    /// Attempts that ran.
    pub attempts: u64,
    /// Functions that ran an attempt, times seconds.
    pub busy_seconds: f64,
    /// Functions that were there, times seconds.
    pub alive_seconds: f64,
    /// Of each minute, the most functions alive.
    pub alive: Vec<usize>,
    /// Of each minute, the queries that arrived.
    pub arrivals: Vec<usize>,
    /// How long the period was, in seconds.
    pub seconds: u64,
}

impl Outcome {
    /// US dollars for the period.
    pub fn cost(&self, fleet: Fleet, assumed: &Assumptions) -> f64 {
        match fleet {
            Fleet::Elastic => {
                self.busy_seconds * assumed.function_gib * assumed.gib_second
                    + self.attempts as f64 / 1e6 * assumed.million_requests
            }
            Fleet::Fixed(functions) => {
                functions.div_ceil(assumed.vm_functions) as f64 * assumed.vm_hour * self.seconds as f64 / 3_600.0
            }
        }
    }
}

/// The value that `percent` of the sorted values do not exceed.
pub fn percentile(sorted: &[u64], percent: f64) -> u64 {
    let at = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0)
}

/// Something that happens by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Ready(FunctionId),
    Done(FunctionId, HostId, AttemptId),
}

struct Simulation<'a> {
    scheduler: Scheduler,
    queries: &'a [Query],
    /// When, the how manieth, what.
    due: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    counted: u64,
    now_us: u64,
    /// Host, and since when it is there.
    functions: BTreeMap<FunctionId, (HostId, u64)>,
    has_run: Vec<bool>,
    assumed: &'a Assumptions,
    rng: Rng,
    outcome: Outcome,
    /// A query that takes longer is slow.
    slow_us: u64,
    /// Slow queries that are left before the rest is not of interest.
    slow_left: usize,
}

/// Plays `queries` to their end. The same seed gives the same outcome.
pub fn simulate(queries: &[Query], workload: &Workload, fleet: Fleet, assumed: &Assumptions) -> Outcome {
    simulate_while(queries, workload, fleet, assumed, u64::MAX)
}

/// The same, until more than 1 % of the queries took longer than `slow_us`.
fn simulate_while(
    queries: &[Query],
    workload: &Workload,
    fleet: Fleet,
    assumed: &Assumptions,
    slow_us: u64,
) -> Outcome {
    let functions = match fleet {
        Fleet::Elastic => assumed.most_functions,
        Fleet::Fixed(functions) => functions,
    };
    let shape = FunctionShape { vcpus: 1, memory_bytes: 1, class: 0 };
    let mut limits = SchedulerLimits {
        is_reserve: true,
        max_running_queries: 128,
        max_queued_queries: usize::MAX,
        queue_timeout_ms: 0,
        function_lifetime_ms: 0,
        warm_shape: shape,
        ..SchedulerLimits::from(&Config::default())
    };
    if fleet != Fleet::Elastic {
        // They are there before the period begins, and stay.
        (limits.warm_functions, limits.function_starts_per_second) = (functions, 0);
    }
    let minutes = workload.seconds.div_ceil(60) as usize;
    let mut simulation = Simulation {
        scheduler: Scheduler::new(limits),
        queries,
        due: BinaryHeap::new(),
        counted: 0,
        now_us: 0,
        functions: BTreeMap::new(),
        has_run: vec![false; queries.len()],
        assumed,
        rng: Rng::with_seed(assumed.seed),
        outcome: Outcome {
            alive: vec![0; minutes],
            arrivals: vec![0; minutes],
            seconds: workload.seconds,
            ..Outcome::default()
        },
        slow_us,
        slow_left: queries.len() / 100 + 1,
    };
    for first in (0..functions).step_by(HOST_FUNCTIONS) {
        let max_functions = HOST_FUNCTIONS.min(functions - first);
        let (host, vcpus) = (HostId(1 + (first / HOST_FUNCTIONS) as u32), max_functions as u32);
        simulation.handle(Event::HostJoined { host, vcpus, max_functions, classes: vec![] });
    }
    simulation.run(shape);
    let end_us = simulation.now_us.max(workload.seconds * 1_000_000);
    let mut outcome = simulation.outcome;
    outcome.alive_seconds +=
        simulation.functions.values().map(|(_, since_us)| (end_us - since_us) as f64 / 1e6).sum::<f64>();
    outcome.latency_us.sort_unstable();
    outcome.wait_us.sort_unstable();
    outcome
}

impl Simulation<'_> {
    fn run(&mut self, shape: FunctionShape) {
        let mut arrivals = self.queries.iter().enumerate().peekable();
        loop {
            let wakeup_us = self.scheduler.next_wakeup().map(|at_ms| (at_ms * 1_000).max(self.now_us));
            let due_us = self.due.peek().map(|Reverse((at_us, ..))| *at_us);
            let arrival_us = arrivals.peek().map(|(_, query)| query.at_us);
            let Some(next_us) = wakeup_us.into_iter().chain(due_us).chain(arrival_us).min() else { return };
            if due_us.is_none() && arrival_us.is_none() && self.outcome.latency_us.len() == self.queries.len() {
                return;
            }
            if self.slow_left == 0 && self.slow_us < u64::MAX {
                return;
            }
            self.now_us = next_us;
            if due_us == Some(next_us) {
                let Some(Reverse((.., happening))) = self.due.pop() else { return };
                self.handle(match happening {
                    Happening::Ready(function) => Event::FunctionReady { function },
                    Happening::Done(function, host, attempt) => {
                        Event::Prepared { function, host, attempt, output: AttemptOutput::default() }
                    }
                });
            } else if arrival_us == Some(next_us)
                && let Some((id, query)) = arrivals.next()
            {
                let minute = (next_us / 60_000_000) as usize;
                self.outcome.arrivals[minute] += 1;
                self.handle(Event::SubmitQuery(spec(id, query, shape)));
            } else {
                self.handle(Event::Tick);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        for command in self.scheduler.handle(self.now_us / 1_000, event) {
            match command {
                Command::StartFunction { function, host, .. } => {
                    self.functions.insert(function, (host, self.now_us));
                    self.outcome.starts += 1;
                    let start_us = log_normal(&mut self.rng, self.assumed.cold_start_ms * 1e3, 0.3) as u64;
                    self.after(start_us, Happening::Ready(function));
                    self.note_alive();
                }
                Command::StopFunction { function } => {
                    self.note_alive();
                    if let Some((_, since_us)) = self.functions.remove(&function) {
                        self.outcome.alive_seconds += (self.now_us - since_us) as f64 / 1e6;
                    }
                }
                Command::RunAttempt { function, attempt, .. } => {
                    let id = attempt.query().0 as usize;
                    let query = &self.queries[id];
                    let task_us = query.stages[attempt.task.stage.stage as usize][attempt.task.task as usize];
                    if !std::mem::replace(&mut self.has_run[id], true) {
                        self.outcome.wait_us.push(self.now_us - query.at_us);
                    }
                    self.outcome.attempts += 1;
                    self.outcome.busy_seconds += (task_us + DISPATCH_US) as f64 / 1e6;
                    let host = self.functions[&function].0;
                    self.after(DISPATCH_US + task_us, Happening::Done(function, host, attempt));
                }
                Command::QueryDone { query, .. } => {
                    let latency_us = self.now_us - self.queries[query.0 as usize].at_us;
                    self.outcome.latency_us.push(latency_us);
                    self.slow_left = self.slow_left.saturating_sub(usize::from(latency_us > self.slow_us));
                }
                Command::QueryFailed { query, error, .. } => panic!("{query} failed: {error}"),
                _ => {}
            }
        }
    }

    fn after(&mut self, wait_us: u64, happening: Happening) {
        self.counted += 1;
        self.due.push(Reverse((self.now_us + wait_us, self.counted, happening)));
    }

    fn note_alive(&mut self) {
        let minute = (self.now_us / 60_000_000) as usize;
        if let Some(most) = self.outcome.alive.get_mut(minute) {
            *most = (*most).max(self.functions.len());
        }
    }
}

fn spec(id: usize, query: &Query, shape: FunctionShape) -> QuerySpec {
    let stage = |(position, tasks): (u32, &Vec<u64>)| StageSpec {
        inputs: position.checked_sub(1).into_iter().collect(),
        tasks: (0..tasks.len() as u32).map(|task| vec![task]).collect(),
        ..StageSpec::default()
    };
    QuerySpec {
        query: QueryId(id as u64),
        user: "".into(),
        queue: "".into(),
        functions: query.stages[0].len(),
        shape,
        timeout_ms: None,
        first_attempt: 0,
        task_bytes: 0,
        split_bytes: 0,
        task_lives: 0,
        starts_early: false,
        stages: (0..).zip(&query.stages).map(stage).collect(),
    }
}

/// The elastic fleet beside the smallest fixed one that is as fast.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Queries a minute.
    pub per_minute: f64,
    /// Latency that 99 % do not exceed, of the elastic fleet, in microseconds.
    pub p99_us: u64,
    /// US dollars a day.
    pub elastic: f64,
    /// Functions of the fixed fleet; `None` where even the most are not as fast.
    pub functions: Option<usize>,
    /// US dollars a day of the fixed fleet.
    pub fixed: f64,
    /// Of the fixed fleet, the part of the time that it works.
    pub utilisation: f64,
}

/// Looks for the smallest fixed fleet whose p99 latency is at most the elastic one's, give or take 5 %.
pub fn compare(workload: &Workload, assumed: &Assumptions) -> Comparison {
    let queries = workload.queries(assumed.seed);
    let elastic = simulate(&queries, workload, Fleet::Elastic, assumed);
    let p99_us = percentile(&elastic.latency_us, 99.0);
    let is_enough = |functions: usize| {
        let slow_us = p99_us + p99_us / 20;
        let fixed = simulate_while(&queries, workload, Fleet::Fixed(functions), assumed, slow_us);
        fixed.latency_us.len() == queries.len() && percentile(&fixed.latency_us, 99.0) <= slow_us
    };
    let step = assumed.vm_functions;
    let busy = elastic.busy_seconds / workload.seconds as f64;
    let (mut low, mut high) = (busy as usize / step, assumed.most_functions / step);
    let mut found = None;
    // Fewer functions than work on average are never enough; within a tenth is near enough.
    while high > low + low / 10 {
        // Sizes are tried by their ratio: most fleets are far smaller than the largest.
        let middle = ((low.max(1) as f64 * high as f64).sqrt() as usize).clamp(low, high - 1);
        if is_enough(middle.max(1) * step) {
            (high, found) = (middle, Some(middle.max(1) * step));
        } else {
            low = middle + 1;
        }
    }
    let most = assumed.most_functions / step * step;
    let functions = found.or_else(|| is_enough(most).then_some(most));
    let days = 86_400.0 / workload.seconds as f64;
    Comparison {
        per_minute: queries.len() as f64 * 60.0 / workload.seconds as f64,
        p99_us,
        elastic: elastic.cost(Fleet::Elastic, assumed) * days,
        functions,
        fixed: functions.map_or(f64::NAN, |functions| elastic.cost(Fleet::Fixed(functions), assumed) * days),
        utilisation: functions.map_or(f64::NAN, |functions| busy / functions as f64),
    }
}

/// Where the costs of neighbours cross: queries a minute, and the utilisation of the fixed fleet there.
pub fn break_even(swept: &[Comparison]) -> Option<(f64, f64)> {
    swept.windows(2).find_map(|pair| {
        let ratio = |of: &Comparison| (of.elastic / of.fixed).ln();
        let (before, after) = (ratio(&pair[0]), ratio(&pair[1]));
        let is_crossed = before <= 0.0 && after > 0.0;
        let part = is_crossed.then(|| before / (before - after))?;
        let rate = pair[0].per_minute * (pair[1].per_minute / pair[0].per_minute).powf(part);
        Some((rate, pair[0].utilisation + part * (pair[1].utilisation - pair[0].utilisation)))
    })
}

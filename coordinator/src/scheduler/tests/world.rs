//! A host and clients without processes: carries out commands and checks that each is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onward_wire::exchange::InputAttempt;
use onward_wire::message::{AttemptOutput, PartitionStats, SegmentRef};
use onward_wire::{AttemptId, ErrorKind, FunctionId, HostId, QueryId, SegmentId, StageId, TaskId, WireError};

use super::ledger::Ledger;
use crate::scheduler::{
    Command, EVICTION_IDLE_MS, Event, FunctionShape, QuerySpec, QueryStats, Scheduler, SchedulerLimits, StageOutput,
    StageSpec,
};

pub fn limits() -> SchedulerLimits {
    SchedulerLimits {
        max_functions: 8,
        total_vcpus: 4,
        is_reserve: false,
        max_attempts: 3,
        max_running_queries: 4,
        max_queued_queries: 4,
        queue_timeout_ms: 0,
        queues: BTreeMap::new(),
        max_running_queries_per_user: 0,
        max_functions_per_query: 0,
        max_functions_per_user: 0,
        function_start_burst: 1_000,
        function_starts_per_second: 100,
        warm_functions: 0,
        warm_shape: FunctionShape { vcpus: 1, memory_bytes: 1, class: 0 },
        classes: vec![],
        function_idle_timeout_ms: 1_000,
        function_lifetime_ms: 0,
        cancel_grace_ms: 100,
        runtime_filter_wait_ms: 300,
        inline_attempt_bytes: 64,
        inline_exchange_bytes: 128,
        inline_query_bytes: 256,
    }
}

/// Stages as (inputs, number of tasks); task `i` runs partition `i`.
pub fn query(id: u64, functions: usize, stages: &[(&[u32], u32)]) -> QuerySpec {
    let stages = stages.iter().map(|(inputs, tasks)| StageSpec {
        inputs: inputs.to_vec(),
        tasks: (0..*tasks).map(|task| vec![task]).collect(),
        may_coalesce: true,
        ..StageSpec::default()
    });
    let shape = FunctionShape { vcpus: 1, memory_bytes: 1, class: 0 };
    QuerySpec {
        query: QueryId(id),
        user: "".into(),
        queue: "".into(),
        functions,
        shape,
        timeout_ms: None,
        first_attempt: 0,
        task_bytes: 0,
        split_bytes: 0,
        task_lives: 0,
        starts_early: false,
        stages: stages.collect(),
    }
}

impl QuerySpec {
    /// Its stages may get other tasks than they have here.
    fn adapts(&self) -> bool {
        self.task_bytes > 0 || self.split_bytes > 0
    }
}

pub fn lost() -> WireError {
    WireError::new(ErrorKind::Unavailable, "lost")
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Doing {
    Starting,
    Nothing,
    Running {
        attempt: AttemptId,
        inline_bytes: u64,
        cancelled_ms: Option<u64>,
    },
    /// The attempt failed and runs on.
    Ending {
        attempt: AttemptId,
        since_ms: u64,
    },
}

#[derive(Debug)]
pub enum End {
    Done,
    Failed(WireError),
}

#[derive(Debug)]
pub struct SimQuery {
    pub spec: QuerySpec,
    pub started: bool,
    pub end: Option<(End, QueryStats)>,
    pub committed: BTreeMap<TaskId, (AttemptId, AttemptOutput)>,
    attempts: BTreeMap<TaskId, u32>,
    used: BTreeMap<StageId, BTreeSet<FunctionId>>,
}

#[derive(Debug)]
pub struct World {
    pub scheduler: Scheduler,
    pub limits: SchedulerLimits,
    pub now_ms: u64,
    /// Events that the scheduler hears of together; `None`: of each at once.
    pub held: Option<Vec<Event>>,
    /// Attempts whose end it heard of with the events that led to the commands.
    pub just_ended: BTreeSet<AttemptId>,
    pub functions: BTreeMap<FunctionId, (FunctionShape, Doing)>,
    pub queries: BTreeMap<QueryId, SimQuery>,
    /// Starts that failed in a row, by host.
    failed_starts: BTreeMap<HostId, u32>,
    /// Attempts whose function is gone, with what they may have produced.
    pub given_up: Vec<(FunctionId, AttemptId, u64)>,
    /// Segments that were reported: by which attempt, and whether they were released or lost.
    pub segments: BTreeMap<SegmentId, (AttemptId, bool)>,
    /// vCPUs, the most functions.
    pub hosts: BTreeMap<HostId, (u32, usize)>,
    pub places: BTreeMap<FunctionId, HostId>,
    /// When functions said hello.
    births: BTreeMap<FunctionId, u64>,
    pub holders: BTreeMap<SegmentId, HostId>,
    last_host: u32,
    /// What was committed may be made again.
    has_lost_hosts: bool,
    prepared: BTreeMap<AttemptId, AttemptOutput>,
    /// What attempts were told of inputs of which more follow.
    open: BTreeMap<AttemptId, BTreeMap<u32, Vec<InputAttempt>>>,
    pub ledger: Ledger,
}

impl World {
    pub fn new(limits: SchedulerLimits) -> Self {
        let mut ledger = Ledger::default();
        ledger.classes.insert(HostId::EMBEDDED, limits.classes.clone());
        ledger.reserve = limits.is_reserve.then_some(HostId::EMBEDDED);
        Self {
            scheduler: Scheduler::new(limits.clone()),
            hosts: BTreeMap::from([(HostId::EMBEDDED, (limits.total_vcpus, limits.max_functions))]),
            places: BTreeMap::new(),
            births: BTreeMap::new(),
            holders: BTreeMap::new(),
            last_host: 0,
            has_lost_hosts: false,
            limits,
            now_ms: 0,
            held: None,
            just_ended: BTreeSet::new(),
            functions: BTreeMap::new(),
            queries: BTreeMap::new(),
            failed_starts: BTreeMap::new(),
            given_up: Vec::new(),
            segments: BTreeMap::new(),
            prepared: BTreeMap::new(),
            open: BTreeMap::new(),
            ledger,
        }
    }

    pub fn submit(&mut self, spec: QuerySpec) -> Vec<Command> {
        let (attempts, used, committed) = Default::default();
        let query = SimQuery { spec: spec.clone(), started: false, end: None, committed, attempts, used };
        self.queries.insert(spec.query, query);
        self.send(Event::SubmitQuery(spec))
    }

    pub fn join(&mut self, vcpus: u32, max_functions: usize) -> HostId {
        self.join_for(vcpus, max_functions, vec![])
    }

    pub fn join_for(&mut self, vcpus: u32, max_functions: usize, classes: Vec<u16>) -> HostId {
        self.last_host += 1;
        let host = HostId(self.last_host);
        self.hosts.insert(host, (vcpus, max_functions));
        self.ledger.classes.insert(host, classes.clone());
        self.send(Event::HostJoined { host, vcpus, max_functions, classes });
        host
    }

    pub fn place(&self, function: FunctionId) -> HostId {
        self.places[&function]
    }

    pub fn lose_host(&mut self, host: HostId) -> Vec<Command> {
        self.hosts.remove(&host);
        self.ledger.classes.remove(&host);
        self.has_lost_hosts |= self.ledger.leaving.remove(&host) != Some(true);
        let places = &self.places;
        for function in self.functions.keys().filter(|function| places[*function] == host) {
            self.ledger.remove(*function);
        }
        self.functions.retain(|function, _| places[function] != host);
        self.given_up.retain(|(function, ..)| places[function] != host);
        let lost = self.holders.iter().filter(|(_, holder)| **holder == host).map(|(segment, _)| *segment);
        for segment in lost.collect::<Vec<_>>() {
            self.segments.get_mut(&segment).expect("known").1 = true;
        }
        self.send(Event::HostLost { host, reason: "unplugged".to_owned() })
    }

    pub fn ready(&mut self, function: FunctionId) -> Vec<Command> {
        self.functions.get_mut(&function).expect("known").1 = Doing::Nothing;
        self.births.insert(function, self.now_ms);
        self.ledger.idle_since.insert(function, self.now_ms);
        self.failed_starts.remove(&self.places[&function]);
        self.send(Event::FunctionReady { function })
    }

    pub fn lose(&mut self, function: FunctionId) -> Vec<Command> {
        self.ledger.remove(function);
        match self.functions.remove(&function).expect("known").1 {
            Doing::Starting => *self.failed_starts.entry(self.places[&function]).or_default() += 1,
            Doing::Running { attempt, inline_bytes, .. } => self.given_up.push((function, attempt, inline_bytes)),
            Doing::Nothing | Doing::Ending { .. } => {}
        }
        self.send(Event::FunctionLost { function, reason: "killed".to_owned() })
    }

    /// The attempt that `function` runs succeeds: inline when that is allowed and asked for, else with `segments` files.
    pub fn finish(&mut self, function: FunctionId, segments: u64) -> Vec<Command> {
        let (_, doing) = self.functions.get_mut(&function).expect("known");
        let Doing::Running { attempt, inline_bytes, .. } = *doing else { panic!("{function} runs nothing") };
        *doing = Doing::Nothing;
        self.ledger.idle_since.insert(function, self.now_ms);
        self.prepare(function, attempt, inline_bytes, segments)
    }

    pub fn prepare(&mut self, function: FunctionId, attempt: AttemptId, inline: u64, segments: u64) -> Vec<Command> {
        let mut output = AttemptOutput::default();
        if segments == 0 {
            output.inline = vec![0; inline as usize].into();
        }
        for _ in 0..segments {
            let segment = self.segments.len() as u64;
            self.segments.insert(SegmentId(segment), (attempt, false));
            self.holders.insert(SegmentId(segment), self.places[&function]);
            output.segments.push(SegmentRef { segment, length_bytes: 1, rows: 1 });
        }
        output.partitions.push(PartitionStats { partition: 0, rows: 1, bytes: 100 });
        self.prepared.insert(attempt, output.clone());
        let host = self.places[&function];
        self.send(Event::Prepared { function, host, attempt, output })
    }

    pub fn fail(&mut self, function: FunctionId, error: WireError) -> Vec<Command> {
        let (_, doing) = self.functions.get_mut(&function).expect("known");
        let Doing::Running { attempt, .. } = *doing else { panic!("{function} runs nothing") };
        *doing = Doing::Nothing;
        self.ledger.idle_since.insert(function, self.now_ms);
        self.send(Event::AttemptFailed { function, attempt, error, has_ended: true })
    }

    /// The attempt that `function` runs fails, and an operator of it does not notice.
    pub fn fail_and_run_on(&mut self, function: FunctionId, error: WireError) -> Vec<Command> {
        let since_ms = self.now_ms;
        let (_, doing) = self.functions.get_mut(&function).expect("known");
        let Doing::Running { attempt, cancelled_ms, .. } = *doing else { panic!("{function} runs nothing") };
        *doing = Doing::Ending { attempt, since_ms: cancelled_ms.unwrap_or(since_ms) };
        self.send(Event::AttemptFailed { function, attempt, error, has_ended: false })
    }

    /// The attempt that ran on in `function` has ended.
    pub fn end_attempt(&mut self, function: FunctionId) -> Vec<Command> {
        let (_, doing) = self.functions.get_mut(&function).expect("known");
        let Doing::Ending { attempt, .. } = *doing else { panic!("nothing runs on in {function}") };
        *doing = Doing::Nothing;
        self.ledger.idle_since.insert(function, self.now_ms);
        self.send(Event::AttemptEnded { function, attempt })
    }

    /// Functions whose attempt failed and runs on.
    pub fn ending(&self) -> impl Iterator<Item = FunctionId> + '_ {
        let ending = self.functions.iter().filter(|(_, (_, doing))| matches!(doing, Doing::Ending { .. }));
        ending.map(|(function, _)| *function)
    }

    pub fn running(&self) -> impl Iterator<Item = (FunctionId, AttemptId)> + '_ {
        self.functions.iter().filter_map(|(function, (_, doing))| match doing {
            Doing::Running { attempt, .. } => Some((*function, *attempt)),
            _ => None,
        })
    }

    /// Those of them that know all of their inputs: the others end before that only if they want no more rows.
    pub fn finishing(&self) -> impl Iterator<Item = (FunctionId, AttemptId)> + '_ {
        self.running().filter(|(_, attempt)| self.open.get(attempt).is_none_or(BTreeMap::is_empty))
    }

    /// What an attempt is told of an input: it follows on what it was told, and in the end it is all.
    fn check_told(&mut self, attempt: AttemptId, input: &StageOutput) {
        let stage = StageId::new(attempt.query(), input.stage);
        let mut known = self.open.entry(attempt).or_default().remove(&input.stage).unwrap_or_default();
        known.extend(input.attempts.iter().map(|committed| committed.input(None)));
        if !input.is_open {
            return self.check_output(stage, &known);
        }
        let query = &self.queries[&attempt.query()];
        let tasks = query.spec.stages[input.stage as usize].tasks.len() as u32;
        let runs = |task: u32| self.running().any(|(_, attempt)| attempt.task == stage.task(task));
        let is_known = |task: &u32| query.committed.contains_key(&stage.task(*task));
        // What counts as committed here may be undone there, and a stage have other tasks.
        let is_sure = !self.has_lost_hosts && !query.spec.adapts();
        let first = (0..tasks).take_while(is_known).count();
        assert!(!is_sure || first == known.len(), "all that can be known of {stage} is told");
        assert!(!is_sure || (0..tasks).all(|task| is_known(&task) || runs(task)), "what is missing of {stage} runs");
        self.check_read(query, &known);
        self.open.entry(attempt).or_default().insert(input.stage, known);
    }

    pub fn check(&mut self, command: &Command) {
        match command {
            Command::StartFunction { function, host, shape } => {
                let known = self.functions.insert(*function, (*shape, Doing::Starting));
                assert!(known.is_none(), "{function} is used twice");
                self.places.insert(*function, *host);
                let owner = self.scheduler.pool.owner_of(*function);
                self.ledger.start((*function, *host, *shape), owner, self.now_ms, &self.limits);
                let there = self.functions.keys().filter(|function| self.places[function] == *host).count();
                assert!(there <= self.hosts[host].1, "too many functions on {host}");
            }
            Command::StopFunction { function } => match self.remove(*function) {
                Doing::Running { attempt, inline_bytes, cancelled_ms } => {
                    if !self.is_over(*function) {
                        let cancelled_ms = cancelled_ms.expect("a function that works is not stopped");
                        assert!(self.now_ms >= cancelled_ms + self.limits.cancel_grace_ms, "stopped before its grace");
                    }
                    self.given_up.push((*function, attempt, inline_bytes));
                }
                Doing::Ending { .. } if self.is_over(*function) => {}
                Doing::Ending { since_ms, .. } => {
                    assert!(self.now_ms >= since_ms + self.limits.cancel_grace_ms, "stopped before its grace");
                }
                doing => assert_eq!(doing, Doing::Nothing),
            },
            Command::StageReplaced { query, stage } => {
                let spec = &mut self.queries.get_mut(query).expect("known").spec;
                let other = spec.stages[*stage as usize].alternative.take().expect("it has another plan");
                spec.stages[other.spares as usize].tasks.clear();
                spec.stages[other.spares as usize].inputs.clear();
                (spec.stages[*stage as usize].inputs, spec.stages[*stage as usize].tasks) = (other.inputs, other.tasks);
            }
            Command::StageCompleted { query, stage, attempts } => {
                let query = &self.queries[query];
                let known = query.committed.values().filter(|(attempt, _)| attempt.task.stage.stage == *stage);
                let known: BTreeSet<_> = known.map(|(attempt, _)| *attempt).collect();
                assert!(attempts.iter().all(|attempt| known.contains(attempt)), "only committed attempts count");
            }
            Command::RunAttempt { function, attempt, partitions, inputs, inline_bytes, .. } => {
                self.check_run(*function, *attempt, partitions);
                let query = &self.queries[&attempt.query()];
                let stage = &query.spec.stages[attempt.task.stage.stage as usize];
                assert_eq!(inputs.iter().map(|input| input.stage).collect::<Vec<_>>(), stage.inputs);
                inputs.iter().for_each(|input| self.check_told(*attempt, input));
                let doing = Doing::Running { attempt: *attempt, inline_bytes: *inline_bytes, cancelled_ms: None };
                self.functions.get_mut(function).expect("known").1 = doing;
                self.check_inline(attempt.query());
            }
            Command::MoreInputs { function, attempt, inputs, .. } => {
                let (_, doing) = self.functions[function];
                let is_running =
                    |doing| matches!(doing, Doing::Running { attempt: a, cancelled_ms: None, .. } if a == *attempt);
                assert!(is_running(doing) || self.just_ended.contains(attempt), "{attempt} does not run");
                inputs.iter().for_each(|input| {
                    assert!(self.open[attempt].contains_key(&input.stage), "{attempt} knows all of {}", input.stage);
                    self.check_told(*attempt, input);
                });
            }
            Command::CancelAttempt { attempt, .. } if self.just_ended.contains(attempt) => {}
            Command::CancelAttempt { function, attempt } => {
                let now_ms = self.now_ms;
                let Some((_, Doing::Running { attempt: running, cancelled_ms, .. })) = self.functions.get_mut(function)
                else {
                    panic!("{attempt} does not run")
                };
                assert_eq!((*running, *cancelled_ms), (*attempt, None), "cancelled once, where it runs");
                *cancelled_ms = Some(now_ms);
            }
            Command::AttemptCommitted { attempt } => {
                let output = self.prepared.get(attempt).expect("only prepared output is committed").clone();
                let query = self.queries.get_mut(&attempt.query()).expect("known");
                let known = query.committed.insert(attempt.task, (*attempt, output));
                assert!(known.is_none() || self.has_lost_hosts, "{} is committed twice", attempt.task);
            }
            Command::ReleaseSegments(segments) => {
                for (host, segment) in segments {
                    assert_eq!(self.holders.get(segment), Some(host));
                    let (attempt, released) = self.segments.get_mut(segment).expect("only reported segments");
                    assert!(!*released, "{segment} is released twice");
                    *released = true;
                    let attempt = *attempt;
                    assert!(self.has_lost_hosts || !self.is_needed(attempt), "{segment} of {attempt} is still needed");
                }
            }
            Command::LetHostGo { host } => self.check_let_go(*host),
            Command::QueryQueued { query, position, queued } => {
                assert!(!self.queries[query].started && position <= queued);
                self.ledger.wait(*query, &self.queries[query].spec.queue, *position);
            }
            Command::QueuePosition { query, position } => self.ledger.position(*query, *position),
            Command::QueryStarted { query } => {
                self.failed_starts.clear();
                let started = self.queries.get_mut(query).expect("known");
                started.started = true;
                self.ledger.begin(*query, &started.spec.queue, &started.spec.user, &self.limits);
                let running = self.queries.values().filter(|query| query.started && query.end.is_none()).count();
                assert!(running <= self.limits.max_running_queries, "too many queries run");
            }
            Command::QueryDone { query, result, stats } => {
                let last = self.queries[query].spec.stages.len() as u32 - 1;
                self.check_output(StageId::new(*query, last), result);
                assert_eq!(stats.tasks, stats.tasks_committed);
                self.end(*query, End::Done, stats);
            }
            Command::QueryFailed { query, error, stats } => self.end(*query, End::Failed(error.clone()), stats),
        }
    }

    fn remove(&mut self, function: FunctionId) -> Doing {
        self.ledger.remove(function);
        self.functions.remove(&function).expect("known").1
    }

    fn end(&mut self, query: QueryId, end: End, stats: &QueryStats) {
        let known = self.queries.get_mut(&query).expect("known").end.replace((end, stats.clone()));
        assert!(known.is_none(), "{query} ends twice");
        self.ledger.end(query);
    }

    /// Its lifetime is over.
    fn is_over(&self, function: FunctionId) -> bool {
        let lifetime_ms = self.limits.function_lifetime_ms;
        lifetime_ms > 0 && self.now_ms >= self.births[&function] + lifetime_ms
    }

    fn check_run(&mut self, function: FunctionId, attempt: AttemptId, partitions: &[u32]) {
        let (shape, doing) = self.functions[&function];
        assert_eq!(doing, Doing::Nothing, "one attempt at a time");
        let is_offered = self.ledger.offers(self.places[&function], shape.class);
        assert!(is_offered, "{function} is on a host that leaves, or is spared");
        let lifetime_ms = self.limits.function_lifetime_ms;
        let is_old = lifetime_ms > 0 && self.now_ms >= self.births[&function] + lifetime_ms - lifetime_ms / 4;
        assert!(!is_old, "{function} takes no task in the end of its life");
        let own = self.functions.values().filter(|(_, doing)| {
            matches!(doing, Doing::Running { attempt: running, cancelled_ms: None, .. } if running.query() == attempt.query())
        });
        let own = own.count();
        let query = self.queries.get_mut(&attempt.query()).expect("known");
        assert!(query.started && query.end.is_none(), "{} does not run", attempt.query());
        let stage = &query.spec.stages[attempt.task.stage.stage as usize];
        assert_eq!(shape, stage.shape.unwrap_or(query.spec.shape));
        let user = Arc::clone(&query.spec.user);
        let next = query.attempts.entry(attempt.task).or_default();
        assert_eq!(attempt.attempt, *next, "attempts count from 0");
        *next += 1;
        let stage = &query.spec.stages[attempt.task.stage.stage as usize];
        assert!(query.spec.adapts() || partitions == stage.tasks[attempt.task.task as usize]);
        let used = query.used.entry(attempt.task.stage).or_default();
        let starting = self.functions.values().filter(|function| **function == (shape, Doing::Starting)).count();
        let is_spread = used.len() + starting >= query.spec.functions.min(stage.tasks.len());
        if attempt.attempt == 0 && used.contains(&function) && !is_spread {
            // Allowed when no other function will come: none of the shape is there but for starting ones, which other
            // tasks wait for, and none can be started.
            let most = self.limits.max_functions_per_user;
            // Nor does a user who has as many as may be wait for those that work for others.
            let is_at_limit = most > 0 && self.ledger.owned_by(&user) >= most;
            let has_other = self.functions.iter().any(|(id, (other, doing))| {
                let may_come = *doing == Doing::Nothing || !is_at_limit || self.ledger.owns(&user, *id);
                *other == shape && *doing != Doing::Starting && !used.contains(id) && may_come
            });
            let may_start =
                self.ledger.has_token(self.now_ms, &self.limits) && (most == 0 || self.ledger.owned_by(&user) < most);
            let can_start = self.hosts.iter().any(|(host, (_, most))| {
                let there = self.functions.iter().filter(|(function, _)| self.places[*function] == *host);
                let since_ms = |function| self.ledger.idle_since[function];
                let is_other = |(id, (other, doing)): (_, &(FunctionShape, Doing))| {
                    *other != shape && *doing == Doing::Nothing && since_ms(id) + EVICTION_IDLE_MS <= self.now_ms
                };
                let has_room = there.clone().count() < *most || there.clone().any(is_other);
                let failed = self.failed_starts.get(host).copied().unwrap_or(0);
                may_start && has_room && failed < self.limits.max_attempts && self.ledger.offers(*host, shape.class)
            });
            assert!(!has_other && !can_start, "{attempt} doubles up on {function}");
        }
        used.insert(function);
        let is_busy = |doing: &Doing| matches!(doing, Doing::Running { .. } | Doing::Ending { .. });
        let busy = self.functions.values().filter(|(_, doing)| is_busy(doing));
        let vcpus: u32 = busy.map(|(shape, _)| shape.vcpus).sum();
        let total_vcpus: u32 = self.hosts.values().map(|(vcpus, _)| vcpus).sum();
        let vcpu_limit = total_vcpus.max(shape.vcpus * query.spec.functions as u32);
        assert!(own == 0 || own < query.spec.functions, "{own} attempts at once");
        let of_user = self.functions.iter().filter(|(id, (_, doing))| is_busy(doing) && self.ledger.owns(&user, **id));
        let of_user: u32 = of_user.map(|(_, (shape, _))| shape.vcpus).sum();
        let is_share = of_user + shape.vcpus <= total_vcpus / self.ledger.users().max(1) as u32;
        assert!(own == 0 || is_share || vcpus + shape.vcpus <= vcpu_limit, "{vcpus} vCPUs are busy");
        self.ledger.run(function, &user);
    }

    /// `attempts` are the committed ones of all tasks of the stage, in order, and can be read.
    fn check_output(&self, stage: StageId, attempts: &[InputAttempt]) {
        let query = &self.queries[&stage.query];
        let tasks = query.spec.stages[stage.stage as usize].tasks.len() as u32;
        let is_cut = query.spec.stages[stage.stage as usize].enough_rows.is_some() || query.spec.adapts();
        assert!(is_cut || attempts.len() as u32 == tasks, "every task of {stage} once");
        self.check_read(query, attempts);
    }

    fn check_read(&self, query: &SimQuery, attempts: &[InputAttempt]) {
        for input in attempts {
            let (attempt, output) = &query.committed[&AttemptId::from(input.attempt).task];
            assert_eq!((AttemptId::from(input.attempt), &input.output.segments), (*attempt, &output.segments));
            assert!(
                output.segments.iter().all(|segment| !self.segments[&segment.id()].1),
                "a released segment is read"
            );
        }
    }

    /// Whether somebody may still read what `attempt` wrote.
    fn is_needed(&self, attempt: AttemptId) -> bool {
        let query = &self.queries[&attempt.query()];
        let is_committed = query.committed.get(&attempt.task).is_some_and(|(committed, _)| *committed == attempt);
        is_committed && query.end.is_none() && self.is_read(query, attempt.task.stage.stage)
    }

    fn is_read(&self, query: &SimQuery, stage: u32) -> bool {
        let is_complete = |consumer: u32| {
            let id = StageId::new(query.spec.query, consumer);
            let spec = &query.spec.stages[consumer as usize];
            let mut tasks = (0..spec.tasks.len() as u32).map(|task| query.committed.get(&id.task(task)));
            let rows: u64 = tasks.clone().flatten().map(|(_, output)| output.rows()).sum();
            tasks.all(|committed| committed.is_some()) || spec.enough_rows.is_some_and(|enough| rows >= enough)
        };
        let consumers = (0..).zip(&query.spec.stages).filter(|(_, spec)| spec.inputs.contains(&stage));
        let consumers: Vec<u32> = consumers.map(|(id, _)| id).collect();
        let is_last = stage as usize + 1 == query.spec.stages.len();
        // A failing query releases before it says so; all is complete when it is done.
        let is_over = !query.started || self.scheduler.stats(query.spec.query).is_none();
        // What started early may be complete before its inputs are: these are not made then.
        let reads = |consumer: &u32| !is_complete(*consumer) && self.is_read(query, *consumer);
        !is_over && (is_last || consumers.is_empty() || consumers.iter().any(reads))
    }

    fn check_inline(&self, id: QueryId) {
        if self.has_lost_hosts {
            // What counts as committed here may be undone there.
            return;
        }
        let query = &self.queries[&id];
        let mut of_query = 0;
        for stage in 0..query.spec.stages.len() as u32 {
            let committed = query.committed.values().filter(|(attempt, _)| attempt.task.stage.stage == stage);
            let committed: u64 = committed.map(|(_, output)| output.inline.len() as u64).sum();
            let running = self.functions.values().map(|(_, doing)| match doing {
                Doing::Running { attempt, inline_bytes, cancelled_ms: None }
                    if attempt.task.stage == StageId::new(id, stage)
                        && !query.committed.contains_key(&attempt.task) =>
                {
                    *inline_bytes
                }
                _ => 0,
            });
            let of_stage = running.sum::<u64>() + if self.is_read(query, stage) { committed } else { 0 };
            assert!(of_stage <= self.limits.inline_exchange_bytes, "{of_stage} inline bytes in stage {stage}");
            of_query += of_stage;
        }
        assert!(of_query <= self.limits.inline_query_bytes, "{of_query} inline bytes");
    }
}

//! The task that owns the scheduler.

mod commands;
mod members;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use onward_cache::OpenUploads;
use onward_executor::host::HostEvent;
use onward_wire::message::AttemptDone;
use onward_wire::{AttemptId, Config, FunctionId, HostId, QueryId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::door::{Joining, MemberEvent};
use super::fleet::{Capacity, Fleet};
use super::running::{Ending, Query};
use super::{Request, Wanted};
use crate::scheduler::{Event, MOST_AT_ONCE, Scheduler, SchedulerLimits};
use crate::system::History;
use crate::term::{Term, leads_no_longer};

pub(super) struct Driver {
    scheduler: Scheduler,
    /// Events that the scheduler has not heard of. Those that commands cause wait until all commands that came with them were carried
    /// out: the scheduler has counted on those already.
    events: Vec<Event>,
    /// Queries of which there is something to tell.
    changed: BTreeSet<QueryId>,
    fleet: Fleet,
    uploads: Arc<OpenUploads>,
    capacity: watch::Sender<Capacity>,
    heartbeat: Duration,
    grant_lifetime_ms: u64,
    started: Instant,
    queries: HashMap<QueryId, Query>,
    ending: HashMap<QueryId, Ending>,
    /// Who was asked to say when a query has ended there.
    end_requests: HashMap<u64, (QueryId, HostId)>,
    last_end_request: u64,
    /// Functions that have run nothing.
    unused: HashSet<FunctionId>,
    history: Arc<History>,
    term: Term,
}

/// What the driver does next.
enum Next {
    Request(Request),
    Host(HostId, HostEvent),
    Member(HostId, MemberEvent),
    Beat,
    Tick,
}

impl Driver {
    pub(super) fn new(
        fleet: Fleet,
        config: &Config,
        uploads: Arc<OpenUploads>,
        capacity: watch::Sender<Capacity>,
        history: Arc<History>,
        term: Term,
    ) -> Self {
        Self {
            scheduler: Scheduler::new(SchedulerLimits { classes: Capacity::of(config).classes, ..config.into() }),
            events: Vec::new(),
            changed: BTreeSet::new(),
            fleet,
            uploads,
            capacity,
            heartbeat: Duration::from_millis(config.heartbeat_ms.max(10)),
            grant_lifetime_ms: config.grant_lifetime_ms,
            started: Instant::now(),
            queries: HashMap::new(),
            ending: HashMap::new(),
            end_requests: HashMap::new(),
            last_end_request: 0,
            unused: HashSet::new(),
            history,
            term,
        }
    }

    /// Runs until the last [`super::Engine`] handle is gone.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<Request>,
        mut events: mpsc::UnboundedReceiver<HostEvent>,
        mut said: mpsc::Receiver<(HostId, MemberEvent)>,
    ) {
        let mut beats = tokio::time::interval(self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wakeup = self.scheduler.next_wakeup().map(|at_ms| self.started + Duration::from_millis(at_ms));
            let next = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => Next::Request(request),
                    None => return,
                },
                Some(event) = events.recv() => Next::Host(HostId::EMBEDDED, event),
                Some((host, event)) = said.recv() => Next::Member(host, event),
                _ = beats.tick(), if self.fleet.has_members() => Next::Beat,
                () = sleep_until(wakeup) => Next::Tick,
                () = self.term.deposed.cancelled() => Next::Tick,
            };
            // A process that was stopped for long gives no command when it goes on.
            if !self.term.is_valid() {
                return self.disband();
            }
            self.take_in(next);
            // What came meanwhile is decided on together: the more there is to do, the less often.
            for _ in 0..MOST_AT_ONCE / 3 {
                let more = [
                    said.try_recv().ok().map(|(host, event)| Next::Member(host, event)),
                    events.try_recv().ok().map(|event| Next::Host(HostId::EMBEDDED, event)),
                    requests.try_recv().ok().map(Next::Request),
                ];
                if more.iter().all(Option::is_none) {
                    break;
                }
                more.into_iter().flatten().for_each(|next| self.take_in(next));
            }
            self.decide();
            self.lose_lost();
        }
    }

    /// Hosts that could not be told what was decided are lost, which leads to more decisions.
    fn lose_lost(&mut self) {
        loop {
            let lost = self.fleet.take_lost();
            if lost.is_empty() {
                return;
            }
            lost.into_iter().for_each(|(host, reason)| self.lose_host(host, reason));
            self.decide();
        }
    }

    fn take_in(&mut self, next: Next) {
        match next {
            Next::Request(request) => self.on_request(request),
            Next::Host(host, event) => self.on_host_event(host, event),
            Next::Member(host, event) => self.on_member_event(host, event),
            Next::Beat => self.fleet.beat(),
            Next::Tick => self.handle(Event::Tick),
        }
    }

    /// Another coordinator leads: no command is given any more. Hosts see their streams end.
    fn disband(self) {
        tracing::warn!(epoch = self.term.epoch, queries = self.queries.len(), "this coordinator leads no longer");
        self.term.deposed.cancel();
        for query in self.queries.into_values() {
            // Nobody may wait for it.
            let _ = query.reply.send(Err(leads_no_longer()));
        }
    }

    fn forget_function(&mut self, function: FunctionId) {
        self.unused.remove(&function);
        for query in self.queries.values_mut() {
            query.account.lose(function);
            query.running.retain(|_, (place, _)| *place != function);
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Submit(submission, reply) => {
                let (spec, query) = Query::new(*submission, reply);
                self.queries.insert(spec.query, query);
                self.handle(Event::SubmitQuery(spec));
            }
            Request::Cancel(query, reason) => self.handle(Event::CancelQuery { query, reason }),
            Request::AwaitEnd(query, waiting) => {
                if let Some(query) = self.queries.get_mut(&query) {
                    query.waiting.push(waiting);
                } else if let Some(ending) = self.ending.get_mut(&query) {
                    ending.waiting.push(waiting);
                }
            }
            Request::ReleaseResult(query) => self.handle(Event::ResultReleased { query }),
            Request::Join(joining) => {
                let Joining { join, say, reply } = *joining;
                let (vcpus, max_functions) = (join.vcpus.max(1), join.max_functions as usize);
                let (name, address) = (join.name.clone(), join.address.clone());
                let classes = self.fleet.classes_of(&join);
                // One that is there again before its old stream was seen to end.
                for (before, reason) in self.fleet.at_address(&address) {
                    self.lose_host(before, reason);
                }
                let version = join.engine_version.clone();
                let host = self.fleet.join(join, say);
                tracing::info!(%host, name, address, vcpus, version, "a host joined");
                self.capacity.send_replace(self.fleet.capacity());
                // A host whose stream ended meanwhile says so.
                let _ = reply.send(host);
                // One of another version runs no plan of this one: it waits for a coordinator of its own.
                if self.fleet.is_ours(host) {
                    self.handle(Event::HostJoined { host, vcpus, max_functions, classes });
                }
            }
            Request::Wanted(reply) => {
                let joined = self.fleet.names().map(|(host, name)| (name, self.scheduler.functions_on(host) > 0));
                let demand = self.scheduler.demand();
                // Who asked may have ended.
                let _ = reply.send(Wanted { demand, joined: joined.collect() });
            }
            Request::TellToLeave(name, told) => {
                self.fleet.tell_to_leave(&name);
                drop(told);
            }
            Request::SetAddress(address) => self.fleet.set_address(address),
            Request::ShutDown(told) => {
                self.fleet.shut_down();
                drop(told);
            }
        }
    }

    fn on_host_event(&mut self, host: HostId, event: HostEvent) {
        match event {
            HostEvent::FunctionReady { function, pid } => {
                tracing::debug!(%function, pid, "function is ready");
                // One that is kept warm is nobody's cold start.
                if !self.scheduler.is_spare(function) {
                    self.unused.insert(function);
                }
                self.handle(Event::FunctionReady { function });
            }
            HostEvent::FunctionLost { function, reason } => {
                tracing::info!(%function, reason, "function was lost");
                self.forget_function(function);
                self.fleet.forget_function(function);
                self.handle(Event::FunctionLost { function, reason });
            }
            HostEvent::Progress { function, progress } => {
                let attempt = AttemptId::from(progress.attempt);
                if let Some(query) = self.queries.get_mut(&attempt.query()) {
                    query.running.insert(attempt, (function, progress));
                    self.changed.insert(attempt.query());
                }
            }
            HostEvent::Prepared { function, done } => self.on_prepared(function, host, done),
            HostEvent::AttemptFailed { function, attempt, error, has_ended } => {
                tracing::debug!(%attempt, %function, %error, "attempt failed");
                if let Some(query) = self.queries.get_mut(&attempt.query()) {
                    query.running.remove(&attempt);
                    query.account.end(attempt);
                    query.filters.end(attempt, Vec::new());
                }
                self.handle(Event::AttemptFailed { function, attempt, error, has_ended });
            }
            HostEvent::AttemptEnded { function, attempt } => self.handle(Event::AttemptEnded { function, attempt }),
        }
    }

    fn on_prepared(&mut self, function: FunctionId, host: HostId, mut done: AttemptDone) {
        let attempt = AttemptId::from(done.attempt);
        if let Some(query) = self.queries.get_mut(&attempt.query()) {
            query.running.remove(&attempt);
            query.account.end(attempt);
            query.filters.end(attempt, std::mem::take(&mut done.sketches));
            if let Some(metrics) = query.metrics.get_mut(attempt.task.stage.stage as usize) {
                metrics.add(&done);
            }
            query.requests.add(&done.requests);
            query.cache.add(&done);
        }
        self.handle(Event::Prepared { function, host, attempt, output: done.output });
        self.changed.insert(attempt.query());
    }

    /// The scheduler hears of it with the next decision.
    fn handle(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Has the scheduler decide on what happened.
    fn decide(&mut self) {
        while !self.events.is_empty() {
            let (now_ms, events) = (self.started.elapsed().as_millis() as u64, std::mem::take(&mut self.events));
            for command in self.scheduler.handle_all(now_ms, events) {
                self.carry_out(command);
            }
        }
        for query in std::mem::take(&mut self.changed) {
            self.publish_progress(query);
        }
    }

    fn publish_progress(&self, id: QueryId) {
        if let (Some(query), Some(stats)) = (self.queries.get(&id), self.scheduler.stats(id)) {
            query.publish_progress(&stats);
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::task::{Context, Wake, Waker};

    use futures::FutureExt;
    use onward_executor::host::{Host, HostOptions};
    use onward_shuffle::flight::GrantKey;
    use onward_wire::message::{AttemptOutput, DefineStage, Progress};
    use onward_wire::{SegmentId, StageId};
    use tempfile::TempDir;
    use tokio::sync::oneshot;

    use super::*;
    use crate::api::QueryProgress;
    use crate::engine::Submission;
    use crate::engine::outcome::Outcome;
    use crate::scheduler::{FunctionShape, QuerySpec, StageSpec};

    const FUNCTION: FunctionId = FunctionId(1);

    /// A driver whose functions exist in its events only.
    fn driver(config: Config) -> (Driver, TempDir) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_str().unwrap().to_owned();
        let config = Config { segment_dir: path.clone(), spill_dir: path, ..config };
        let (events, _) = mpsc::unbounded_channel();
        let (config, key) = (Arc::new(config), GrantKey::random().unwrap());
        let (uploads, program) = (Arc::<OpenUploads>::default(), "/nonexistent".into());
        let options = HostOptions {
            config: Arc::clone(&config),
            program,
            uploads: Arc::clone(&uploads),
            stores: Arc::default(),
            ranges: None,
            key: key.clone(),
        };
        let fleet = Fleet::new(
            Host::start(options, events).unwrap(),
            Arc::clone(&config),
            key,
            Arc::default(),
            &Term::default(),
        );
        let capacity = watch::Sender::new(Capacity::of(&config));
        (Driver::new(fleet, &config, uploads, capacity, Arc::default(), Term::default()), root)
    }

    /// A query of one task: who hears of its end, and how far it is.
    fn submit(
        driver: &mut Driver,
        query: u64,
        timeout_ms: Option<u64>,
    ) -> (oneshot::Receiver<Result<Outcome, onward_wire::WireError>>, watch::Receiver<QueryProgress>) {
        let shape = FunctionShape { vcpus: 1, memory_bytes: 1, class: 0 };
        let stages = vec![StageSpec { tasks: vec![vec![0]], ..StageSpec::default() }];
        let spec = QuerySpec {
            query: QueryId(query),
            user: "".into(),
            queue: "".into(),
            functions: 1,
            shape,
            timeout_ms,
            first_attempt: 0,
            task_bytes: 0,
            split_bytes: 0,
            task_lives: 0,
            starts_early: true,
            stages,
        };
        let (progress, watcher) = watch::channel(QueryProgress::default());
        let (reply, outcome) = oneshot::channel();
        let stages = vec![DefineStage { query, ..DefineStage::default() }];
        hear(
            driver,
            Next::Request(Request::Submit(
                Box::new(Submission {
                    spec,
                    stages,
                    filters: vec![],
                    alternatives: vec![],
                    reads: Box::new(|_, _| Ok(Default::default())),
                    prices: BTreeMap::new(),
                    progress,
                }),
                reply,
            )),
        );
        (outcome, watcher)
    }

    fn hear(driver: &mut Driver, next: Next) {
        driver.take_in(next);
        driver.decide();
    }

    fn attempt(query: u64) -> AttemptId {
        StageId::new(QueryId(query), 0).task(0).attempt(0)
    }

    fn done(query: u64, segments: &[SegmentId]) -> HostEvent {
        let segment = |id: &SegmentId| onward_wire::message::SegmentRef { segment: id.0, length_bytes: 1, rows: 1 };
        let output = AttemptOutput { segments: segments.iter().map(segment).collect(), ..AttemptOutput::default() };
        let done = AttemptDone { attempt: attempt(query).into(), output, ..AttemptDone::default() };
        HostEvent::Prepared { function: FUNCTION, done }
    }

    /// Wakes nobody, but lets `until` pass.
    struct Dawdler {
        until: Instant,
    }

    impl Wake for Dawdler {
        fn wake(self: Arc<Self>) {
            while Instant::now() < self.until {
                std::hint::spin_loop();
            }
        }
    }

    /// A client that is gone makes an event of its query's end. The commands that came with that end are carried out
    /// before what follows from it: an attempt is sent before it is cancelled.
    #[tokio::test]
    async fn commands_are_carried_out_before_the_events_they_cause() {
        let (mut driver, _root) = driver(Config { max_running_queries: 1, ..Config::default() });
        let (gone, mut first) = submit(&mut driver, 1, None);
        drop(gone);
        hear(&mut driver, Next::Host(HostId::EMBEDDED, HostEvent::FunctionReady { function: FUNCTION, pid: 1 }));
        // The second query waits for the place of the first, and its time is up while the end of the first is told.
        let (mut outcome, mut second) = submit(&mut driver, 2, Some(200));
        let waker = Waker::from(Arc::new(Dawdler { until: Instant::now() + Duration::from_millis(250) }));
        first.borrow_and_update();
        let mut told = Box::pin(first.changed());
        assert!(told.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        hear(&mut driver, Next::Host(HostId::EMBEDDED, done(1, &[])));
        assert!(second.changed().await.is_ok(), "its attempt was sent before it was ended");
        assert!(outcome.try_recv().unwrap().is_err(), "then its time was up");
    }

    /// What an attempt had done is not counted when it is lost with its function.
    #[tokio::test]
    async fn progress_of_a_lost_function_is_forgotten() {
        let (mut driver, _root) = driver(Config::default());
        let (_outcome, progress) = submit(&mut driver, 1, None);
        hear(&mut driver, Next::Host(HostId::EMBEDDED, HostEvent::FunctionReady { function: FUNCTION, pid: 1 }));
        let reported = Progress { attempt: attempt(1).into(), rows: 5, bytes: 50, elapsed_us: 1 };
        hear(&mut driver, Next::Host(HostId::EMBEDDED, HostEvent::Progress { function: FUNCTION, progress: reported }));
        assert_eq!(progress.borrow().rows, 5);
        hear(
            &mut driver,
            Next::Host(HostId::EMBEDDED, HostEvent::FunctionLost { function: FUNCTION, reason: "killed".to_owned() }),
        );
        driver.publish_progress(QueryId(1));
        assert_eq!(progress.borrow().rows, 0);
    }

    /// Whoever waits for the end of a query hears of it when no attempt of it is started any more.
    #[tokio::test]
    async fn the_end_of_a_query_is_told_to_those_who_wait() {
        let (mut driver, _root) = driver(Config::default());
        let (_outcome, _progress) = submit(&mut driver, 1, None);
        let (waiting, mut over) = oneshot::channel();
        hear(&mut driver, Next::Request(Request::AwaitEnd(QueryId(1), waiting)));
        assert!((&mut over).now_or_never().is_none());
        hear(
            &mut driver,
            Next::Request(Request::Cancel(
                QueryId(1),
                onward_wire::WireError::new(onward_wire::ErrorKind::Cancelled, "bye"),
            )),
        );
        assert!(over.now_or_never().is_some());
        let (waiting, over) = oneshot::channel();
        hear(&mut driver, Next::Request(Request::AwaitEnd(QueryId(1), waiting)));
        assert!(over.now_or_never().is_some(), "it was over before");
    }
}

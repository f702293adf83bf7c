//! Anything in any order.

use std::sync::Arc;

use onward_wire::{ErrorKind, HostId, QueryId, WireError};
use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{Doing, End, World, limits, lost};
use crate::scheduler::{AlternativeSpec, Event, FunctionShape, QuerySpec, QueueLimits, SchedulerLimits, StageSpec};

#[derive(Clone, Debug)]
enum Action {
    Submit,
    Ready(Index),
    LoseFunction(Index),
    Finish(Index, u64),
    FailRetryable(Index, bool),
    FailForGood(Index),
    FailAndRunOn(Index, bool),
    EndAttempt(Index),
    ReportLate(Index, u64),
    RepeatReport(Index),
    Cancel(Index),
    ReleaseResult(Index),
    Join(u32, usize, Vec<u16>),
    LoseHost(Index),
    Leave(Index),
    /// Hosts that were let go are gone.
    Go,
    Wait(u64),
    /// The scheduler hears of what follows together.
    Hold,
    Release,
}

fn action() -> impl Strategy<Value = Action> {
    use Action::*;
    prop_oneof![
        3 => Just(Submit),
        6 => any::<Index>().prop_map(Ready),
        2 => any::<Index>().prop_map(LoseFunction),
        12 => (any::<Index>(), 0..3u64).prop_map(|(index, segments)| Finish(index, segments)),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(index, counts)| FailRetryable(index, counts)),
        1 => any::<Index>().prop_map(FailForGood),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(index, counts)| FailAndRunOn(index, counts)),
        2 => any::<Index>().prop_map(EndAttempt),
        2 => (any::<Index>(), 0..3u64).prop_map(|(index, segments)| ReportLate(index, segments)),
        1 => any::<Index>().prop_map(RepeatReport),
        1 => any::<Index>().prop_map(Cancel),
        2 => any::<Index>().prop_map(ReleaseResult),
        1 => (1..4u32, 1..4usize, classes()).prop_map(|(vcpus, functions, classes)| Join(vcpus, functions, classes)),
        1 => any::<Index>().prop_map(LoseHost),
        1 => any::<Index>().prop_map(Leave),
        1 => Just(Go),
        2 => (0..800u64).prop_map(Wait),
        2 => Just(Hold),
        2 => Just(Release),
    ]
}

/// What a host offers.
fn classes() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![3 => Just(vec![]), 1 => Just(vec![0]), 1 => Just(vec![0, 1]), 1 => Just(vec![1])]
}

fn stage_shape() -> impl Strategy<Value = Option<FunctionShape>> {
    let shape = (1..3u32, prop_oneof![3 => Just(0), 1 => Just(1_u16)]);
    prop::option::weighted(0.3, shape.prop_map(|(vcpus, class)| FunctionShape { vcpus, memory_bytes: 1, class }))
}

fn stages() -> impl Strategy<Value = Vec<StageSpec>> {
    let stage = (prop::collection::vec(any::<Index>(), 0..3), 0..6u32, stage_shape());
    prop::collection::vec(stage, 1..6).prop_map(|stages| {
        let stage = |(position, (inputs, tasks, shape)): (usize, (Vec<Index>, u32, _))| {
            let inputs = inputs.into_iter().filter(|_| position > 0).map(|input| input.index(position) as u32);
            let mut inputs: Vec<_> = inputs.collect();
            inputs.sort_unstable();
            inputs.dedup();
            let is_indeterminate = tasks % 3 == 2;
            let splittable = inputs.first().copied().filter(|_| tasks % 2 == 0);
            let enough_rows = (tasks % 4 == 3).then_some(2);
            StageSpec {
                inputs,
                tasks: (0..tasks).map(|task| vec![task]).collect(),
                enough_rows,
                is_indeterminate,
                may_coalesce: true,
                is_broadcast: tasks % 5 == 4,
                splittable,
                shape,
                ..StageSpec::default()
            }
        };
        let mut stages: Vec<StageSpec> = stages.into_iter().enumerate().map(stage).collect();
        for at in 2..stages.len() {
            may_be_replaced(&mut stages, at);
        }
        stages
    })
}

/// A stage of two inputs, of which only it reads the second, has another plan: the first input is small in one case in two.
fn may_be_replaced(stages: &mut [StageSpec], at: usize) {
    let [when, spares] = stages[at].inputs[..] else { return };
    let readers = stages.iter().filter(|stage| stage.inputs.contains(&spares)).count();
    let is_free = stages[spares as usize].enough_rows.is_none() && !stages[spares as usize].inputs.contains(&when);
    if readers != 1 || !is_free {
        return;
    }
    let mut inputs = stages[spares as usize].inputs.clone();
    inputs.push(when);
    inputs.sort_unstable();
    stages[at].filter_sources = vec![];
    stages[spares as usize].filter_sources = vec![when];
    let (most_bytes, most_rows, tasks) = (200, 100, stages[spares as usize].tasks.clone());
    stages[at].alternative = Some(AlternativeSpec { when, most_bytes, most_rows, spares, inputs, tasks });
}

fn queries() -> impl Strategy<Value = Vec<QuerySpec>> {
    let user = prop::sample::select(vec!["", "ann", "bob"]);
    let queue = prop_oneof![6 => Just(""), 3 => Just("etl"), 1 => Just("closed"), 1 => Just("nowhere")];
    let timeout_ms = prop::option::weighted(0.2, 1..5_000u64);
    let query = (1..5usize, 1..3u32, timeout_ms, any::<bool>(), any::<bool>(), stages(), user, queue);
    prop::collection::vec(query, 1..8).prop_map(|queries| {
        let query = |(id, (functions, vcpus, timeout_ms, starts_early, splits, stages, user, queue)): (
            _,
            (_, _, _, _, _, _, &str, &str),
        )| {
            let shape = FunctionShape { vcpus, memory_bytes: 1, class: 0 };
            let (first_attempt, task_bytes, split_bytes) = (0, 0, if splits { 60 } else { 0 });
            let task_lives = if starts_early { 2 } else { 0 };
            let query = QueryId(id);
            QuerySpec {
                query,
                user: Arc::from(user),
                queue: Arc::from(queue),
                functions,
                shape,
                timeout_ms,
                first_attempt,
                task_bytes,
                split_bytes,
                starts_early,
                task_lives,
                stages,
            }
        };
        (1..).zip(queries).map(query).collect()
    })
}

fn some_limits() -> impl Strategy<Value = SchedulerLimits> {
    let lifetime_ms = prop_oneof![2 => Just(0), 1 => 100..2_000u64];
    let places = (1..4usize, 0..4usize, 0..3usize, prop_oneof![2 => Just(0), 1 => 200..3_000u64]);
    let etl = (1..3usize, 0..3usize, prop_oneof![2 => Just(0), 1 => 200..3_000u64]);
    let etl = etl.prop_map(|(max_running, max_queued, timeout_ms)| QueueLimits { max_running, max_queued, timeout_ms });
    let starts = (prop_oneof![2 => Just(1_000), 1 => 1..6u64], prop_oneof![1 => Just(0), 3 => 10..100u64]);
    let shape = stage_shape().prop_map(|shape| shape.unwrap_or(limits().warm_shape));
    let warm = (prop_oneof![2 => Just(0), 1 => 1..4usize], shape);
    let functions = (1..7usize, 0..4usize, 0..6usize);
    (functions, 1..5u32, 1..4u32, places, etl, lifetime_ms, starts, warm, classes(), any::<bool>()).prop_map(
        |limited| {
            let (functions, vcpus, attempts, places, etl, function_lifetime_ms, starts, warm, classes, is_reserve) =
                limited;
            let (max_functions, max_functions_per_user, max_functions_per_query) = functions;
            let (max_running_queries, max_queued_queries, max_running_queries_per_user, queue_timeout_ms) = places;
            SchedulerLimits {
                function_lifetime_ms,
                max_functions,
                max_functions_per_user,
                max_functions_per_query,
                total_vcpus: vcpus,
                max_attempts: attempts,
                max_running_queries,
                max_queued_queries,
                max_running_queries_per_user,
                queue_timeout_ms,
                queues: [("etl".to_owned(), etl), ("closed".to_owned(), QueueLimits::default())].into(),
                function_start_burst: starts.0,
                function_starts_per_second: starts.1,
                warm_functions: warm.0,
                warm_shape: warm.1,
                classes,
                is_reserve,
                ..limits()
            }
        },
    )
}

fn pick<T>(index: Index, from: impl Iterator<Item = T>) -> Option<T> {
    let mut from: Vec<T> = from.collect();
    if from.is_empty() { None } else { Some(from.swap_remove(index.index(from.len()))) }
}

fn starting(world: &World) -> impl Iterator<Item = onward_wire::FunctionId> + '_ {
    world.functions.iter().filter(|(_, (_, doing))| *doing == Doing::Starting).map(|(id, _)| *id)
}

fn act(world: &mut World, action: Action, queries: &mut Vec<QuerySpec>) {
    use Action::{EndAttempt, Finish, Hold, Ready, ReleaseResult, ReportLate, Submit};
    let may_wait =
        matches!(action, Submit | Ready(_) | Finish(..) | EndAttempt(_) | ReportLate(..) | ReleaseResult(_) | Hold);
    if !may_wait {
        world.release();
    }
    match action {
        Action::Submit => {
            if let Some(spec) = queries.pop() {
                world.submit(spec);
            }
        }
        Action::Ready(index) => {
            if let Some(function) = pick(index, starting(world)) {
                world.ready(function);
            }
        }
        Action::LoseFunction(index) => {
            if let Some(function) = pick(index, world.functions.keys().copied()) {
                world.lose(function);
            }
        }
        Action::Finish(index, segments) => {
            if let Some((function, _)) = pick(index, world.running()) {
                world.finish(function, segments);
            }
        }
        Action::FailRetryable(index, counts_as_failure) => {
            if let Some((function, _)) = pick(index, world.running()) {
                world.fail(function, WireError { counts_as_failure, ..lost() });
            }
        }
        Action::FailForGood(index) => {
            if let Some((function, _)) = pick(index, world.running()) {
                world.fail(function, WireError::new(ErrorKind::InvalidQuery, "division by zero"));
            }
        }
        Action::FailAndRunOn(index, counts_as_failure) => {
            if let Some((function, _)) = pick(index, world.running()) {
                world.fail_and_run_on(function, WireError { counts_as_failure, ..lost() });
            }
        }
        Action::EndAttempt(index) => {
            if let Some(function) = pick(index, world.ending()) {
                world.end_attempt(function);
            }
        }
        Action::ReportLate(index, segments) => {
            if !world.given_up.is_empty() {
                let position = index.index(world.given_up.len());
                let (function, attempt, inline) = world.given_up.swap_remove(position);
                world.prepare(function, attempt, inline, segments);
            }
        }
        Action::RepeatReport(index) => {
            let running = world.queries.values().filter(|query| query.started && query.end.is_none());
            let committed = pick(index, running.flat_map(|query| query.committed.values().cloned()));
            if let Some((attempt, output)) = committed {
                let (function, host) = (onward_wire::FunctionId(0), HostId::EMBEDDED);
                world.send(Event::Prepared { function, host, attempt, output });
            }
        }
        Action::Cancel(index) => {
            if let Some(query) = pick(index, world.queries.keys().copied()) {
                let reason = WireError::new(ErrorKind::Cancelled, "cancelled by the user");
                world.send(Event::CancelQuery { query, reason });
            }
        }
        Action::ReleaseResult(index) => {
            if let Some(query) = pick(index, world.queries.keys().copied()) {
                world.send(Event::ResultReleased { query });
            }
        }
        Action::Join(vcpus, functions, classes) => {
            if world.hosts.len() < 4 {
                world.join_for(vcpus, functions, classes);
            }
        }
        Action::Leave(index) => {
            if let Some(host) = pick(index, world.hosts.keys().copied().filter(|host| *host != HostId::EMBEDDED)) {
                world.leave(host);
            }
        }
        Action::Go => world.go(),
        Action::LoseHost(index) => {
            // The coordinator's own is lost with the coordinator.
            if let Some(host) = pick(index, world.hosts.keys().copied().filter(|host| *host != HostId::EMBEDDED)) {
                world.lose_host(host);
            }
        }
        Action::Hold => world.hold(),
        Action::Release => {}
        Action::Wait(ms) => {
            world.now_ms += ms;
            world.send(Event::Tick);
        }
    }
}

/// From here on nothing goes wrong: everything must come to an end by itself.
pub fn settle(world: &mut World) {
    let steps = 3_000;
    for step in 0.. {
        assert!(step < steps, "it does not end: {world:#?}");
        if world.queries.values().all(|query| query.end.is_some()) {
            // Warm functions come and go for ever.
            return;
        }
        let function = starting(world).next();
        let (running, ending) = (world.finishing().next(), world.ending().next());
        if let Some(function) = function {
            world.ready(function);
        } else if let Some(function) = ending {
            world.end_attempt(function);
        } else if let Some((function, _)) = running {
            world.finish(function, 1);
        } else if let Some(due) = world.scheduler.next_wakeup().filter(|due| *due <= world.now_ms + 300) {
            // A stage that waits for what it need not read.
            world.now_ms = world.now_ms.max(due);
            world.send(Event::Tick);
        } else {
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every query ends, all functions leave, every segment is released once; `World` checks each command on the way.
    #[test]
    fn everything_ends_and_nothing_leaks(
        limits in some_limits(),
        mut queries in queries(),
        actions in prop::collection::vec(action(), 0..200),
    ) {
        let (warm, warm_shape) = (limits.warm_functions, limits.warm_shape);
        // Where functions die and starts have a rate, they may all be gone until the next may start.
        let gaps = limits.function_lifetime_ms > 0 && limits.function_starts_per_second > 0;
        let mut world = World::new(limits);
        for action in actions {
            act(&mut world, action, &mut queries);
        }
        world.release();
        while let Some(spec) = queries.pop() {
            world.submit(spec);
        }
        settle(&mut world);
        for (function, attempt, inline) in std::mem::take(&mut world.given_up) {
            world.prepare(function, attempt, inline, 1);
        }
        prop_assert!(world.queries.values().all(|query| query.end.is_some()), "a query hangs: {:#?}", world);
        for query in world.queries.keys().copied().collect::<Vec<_>>() {
            world.send(Event::ResultReleased { query });
        }
        prop_assert!(world.segments.values().all(|(_, released)| *released), "segments leak: {:#?}", world.segments);
        // Warm functions that grow old are replaced for ever.
        let mut most_warm = 0;
        for step in 0..100 {
            world.go();
            if step >= 50 {
                most_warm = most_warm.max(world.functions.len());
            }
            for function in starting(&world).collect::<Vec<_>>() {
                world.ready(function);
            }
            let Some(due) = world.scheduler.next_wakeup() else { break };
            prop_assert!(due > world.now_ms, "a tick that is due does nothing");
            world.now_ms = due;
            world.send(Event::Tick);
        }
        world.go();
        prop_assert!(world.ledger.leaving.is_empty(), "a host waits to leave: {:?}", world.ledger);
        let hosts = world.hosts.iter().filter(|(host, _)| world.ledger.offers(**host, warm_shape.class));
        let room = hosts.map(|(_, (_, most))| *most).sum::<usize>();
        let (there, wanted) = (world.functions.len(), warm.min(room));
        prop_assert!(there <= wanted, "functions stay: {:?}", world.functions);
        prop_assert!(there == wanted || gaps && most_warm > 0, "warm functions are not replaced: {:?}", world.functions);
        prop_assert!(world.functions.values().all(|(shape, _)| *shape == warm_shape));
        prop_assert_eq!(world.scheduler.functions(), world.functions.len());
        prop_assert_eq!(world.scheduler.queries(), (0, 0));
    }

    /// Without faults and with room for all functions, every stage runs on as many functions as it can.
    #[test]
    fn stages_spread_over_all_functions(mut queries in queries(), order in prop::collection::vec(any::<Index>(), 300)) {
        let mut world = World::new(SchedulerLimits { max_functions: 64, max_running_queries: 8, ..limits() });
        queries.iter_mut().for_each(|query| (query.timeout_ms, query.queue) = (None, "".into()));
        // A stage that ends early may do with fewer functions.
        queries.iter_mut().flat_map(|query| &mut query.stages).for_each(|stage| {
            (stage.enough_rows, stage.alternative) = (None, None);
            stage.filter_sources.clear();
        });
        let specs = queries.clone();
        queries.drain(..).for_each(|query| { world.submit(query); });
        for index in order {
            act(&mut world, Action::Ready(index), &mut queries);
            act(&mut world, Action::Finish(index, 1), &mut queries);
        }
        settle(&mut world);
        for spec in specs {
            let Some((End::Done, stats)) = &world.queries[&spec.query].end else { panic!("{} failed", spec.query) };
            let spread = spec.stages.iter().map(|stage| stage.tasks.len().min(spec.functions) as u64);
            for (functions, expected) in stats.functions_per_stage.iter().zip(spread) {
                prop_assert!(*functions >= expected, "{} functions instead of {}", functions, expected);
            }
            prop_assert_eq!(stats.attempts, stats.tasks);
        }
    }
}

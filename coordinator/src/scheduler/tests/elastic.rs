//! Places, users, starts, warm functions, classes of hosts.

use std::collections::BTreeMap;

use onward_wire::{ErrorKind, FunctionId, HostId, QueryId, WireError};

use super::cases::{error, finish_all, runs, warm};
use super::world::{Doing, End, World, limits, query};
use crate::scheduler::{
    Command, Demand, EVICTION_IDLE_MS, Event, FunctionShape, QuerySpec, QueueLimits, SchedulerLimits,
};

const NONE: [u64; 0] = [];

const SHAPE: FunctionShape = FunctionShape { vcpus: 1, memory_bytes: 1, class: 0 };
const OTHER: FunctionShape = FunctionShape { memory_bytes: 2, ..SHAPE };

fn of(user: &str, spec: QuerySpec) -> QuerySpec {
    QuerySpec { user: user.into(), ..spec }
}

fn starts(commands: &[Command]) -> Vec<(FunctionId, HostId, FunctionShape)> {
    let start = |command: &Command| match command {
        Command::StartFunction { function, host, shape } => Some((*function, *host, *shape)),
        _ => None,
    };
    commands.iter().filter_map(start).collect()
}

fn begun(commands: &[Command]) -> Vec<u64> {
    let begun = |command: &Command| match command {
        Command::QueryStarted { query } => Some(query.0),
        _ => None,
    };
    commands.iter().filter_map(begun).collect()
}

fn ready_all(world: &mut World) {
    let starting: Vec<_> =
        world.functions.iter().filter(|(_, (_, doing))| *doing == Doing::Starting).map(|(id, _)| *id).collect();
    starting.into_iter().for_each(|function| drop(world.ready(function)));
}

fn tick(world: &mut World, now_ms: u64) -> Vec<Command> {
    world.now_ms = now_ms;
    world.send(Event::Tick)
}

fn cancel(world: &mut World, query: u64) -> Vec<Command> {
    let reason = WireError::new(ErrorKind::Cancelled, "bye");
    world.send(Event::CancelQuery { query: QueryId(query), reason })
}

#[test]
fn what_never_fits_is_refused_with_the_reason() {
    let etl = QueueLimits { max_running: 1, max_queued: 1, timeout_ms: 0 };
    let queues = BTreeMap::from([("etl".to_owned(), etl), ("closed".to_owned(), QueueLimits::default())]);
    let limited = SchedulerLimits { queues, max_functions_per_query: 3, classes: vec![0], ..limits() };
    let mut world = World::new(limited);
    let simple = |id| query(id, 1, &[(&[], 1)]);
    let stage = |id, shape| {
        let mut spec = simple(id);
        spec.stages[0].shape = Some(shape);
        spec
    };
    let cases = [
        (QuerySpec { queue: "elt".into(), ..simple(1) }, ErrorKind::InvalidQuery, "closed, etl"),
        (QuerySpec { queue: "closed".into(), ..simple(2) }, ErrorKind::ResourceExhausted, "queues.closed.max_running"),
        (query(3, 4, &[(&[], 1)]), ErrorKind::ResourceExhausted, "max_functions_per_query"),
        (stage(4, FunctionShape { vcpus: 5, ..SHAPE }), ErrorKind::ResourceExhausted, "has 4 (vcpus)"),
        (stage(5, FunctionShape { class: 7, ..SHAPE }), ErrorKind::ResourceExhausted, "no host offers"),
    ];
    for (spec, kind, message) in cases {
        let id = spec.query.0;
        assert_eq!(begun(&world.submit(spec)), NONE);
        assert_eq!(error(&world, id).kind(), kind);
        assert!(error(&world, id).message.contains(message), "{}", error(&world, id));
    }
}

#[test]
fn a_query_that_waited_too_long_fails_and_says_where() {
    let mut world = World::new(SchedulerLimits { max_running_queries: 1, queue_timeout_ms: 700, ..limits() });
    world.submit(query(1, 1, &[(&[], 1)]));
    world.submit(query(2, 1, &[(&[], 1)]));
    assert_eq!(world.scheduler.next_wakeup(), Some(700));
    tick(&mut world, 699);
    assert!(world.queries[&QueryId(2)].end.is_none());
    tick(&mut world, 700);
    assert_eq!(error(&world, 2).kind(), ErrorKind::ResourceExhausted);
    let message = &error(&world, 2).message;
    assert!(message.contains("700 ms") && message.contains("queue_timeout_ms"), "{message}");
}

/// Who runs the fewest queries is next; clients hear of their positions, and of changes only.
#[test]
fn a_place_goes_to_the_user_who_has_the_fewest() {
    let mut world = World::new(SchedulerLimits { max_running_queries: 2, ..limits() });
    for id in 1..=2 {
        world.submit(of("ann", query(id, 1, &[(&[], 1)])));
    }
    let queued = |query, position, queued| Command::QueryQueued { query: QueryId(query), position, queued };
    let moved = |query, position| Command::QueuePosition { query: QueryId(query), position };
    assert_eq!(world.submit(of("ann", query(3, 1, &[(&[], 1)]))), [queued(3, 1, 1)]);
    assert_eq!(world.submit(of("ann", query(4, 1, &[(&[], 1)]))), [queued(4, 2, 2)]);
    let commands = world.submit(of("bob", query(5, 1, &[(&[], 1)])));
    assert_eq!(commands, [queued(5, 1, 3), moved(3, 2), moved(4, 3)]);
    let commands = cancel(&mut world, 1);
    assert_eq!(begun(&commands), [5]);
    assert!(commands.ends_with(&[moved(3, 1), moved(4, 2)]), "{commands:?}");
    assert_eq!(begun(&cancel(&mut world, 5)), [3], "first in, first out");
}

/// Whatever came first, and whoever had a place last.
#[test]
fn the_number_of_queries_counts_before_the_time_of_the_last_place() {
    let mut world = World::new(SchedulerLimits { max_running_queries: 4, ..limits() });
    for (id, user) in [(1, "bob"), (2, "bob"), (3, "bob"), (4, "ann"), (5, "bob"), (6, "ann")] {
        world.submit(of(user, query(id, 1, &[(&[], 1)])));
    }
    assert_eq!(begun(&cancel(&mut world, 1)), [6]);
}

#[test]
fn of_users_with_as_many_queries_the_one_that_waits_the_longest_is_next() {
    let mut world = World::new(SchedulerLimits { max_running_queries: 3, ..limits() });
    for (id, user) in [(1, "bob"), (2, "ann"), (3, "cid"), (4, "ann"), (5, "bob")] {
        world.submit(of(user, query(id, 1, &[(&[], 1)])));
    }
    assert_eq!(begun(&cancel(&mut world, 3)), [5]);
}

#[test]
fn a_queue_has_its_own_places_and_all_share_the_others() {
    let etl = QueueLimits { max_running: 1, max_queued: 4, timeout_ms: 0 };
    let queues = BTreeMap::from([("etl".to_owned(), etl)]);
    let mut world = World::new(SchedulerLimits { max_running_queries: 2, queues, ..limits() });
    let etl = |id| QuerySpec { queue: "etl".into(), ..query(id, 1, &[(&[], 1)]) };
    assert_eq!(begun(&world.submit(etl(1))), [1]);
    assert_eq!(begun(&world.submit(etl(2))), NONE, "its place is taken");
    assert_eq!(begun(&world.submit(query(3, 1, &[(&[], 1)]))), [3]);
    assert_eq!(begun(&world.submit(query(4, 1, &[(&[], 1)]))), NONE, "all places are taken");
    assert_eq!(begun(&cancel(&mut world, 3)), [4]);
    assert_eq!(begun(&cancel(&mut world, 1)), [2]);
}

#[test]
fn a_user_has_so_many_places() {
    let mut world = World::new(SchedulerLimits { max_running_queries_per_user: 1, ..limits() });
    assert_eq!(begun(&world.submit(of("ann", query(1, 1, &[(&[], 1)])))), [1]);
    assert_eq!(begun(&world.submit(of("ann", query(2, 1, &[(&[], 1)])))), NONE);
    assert_eq!(begun(&world.submit(of("bob", query(3, 1, &[(&[], 1)])))), [3]);
    assert_eq!(begun(&cancel(&mut world, 1)), [2]);
}

/// Of the attempts that run, how many are of one user with one query while another one has ten.
fn share_of_one_query(vcpus: u32, functions: usize) -> f64 {
    let limited = SchedulerLimits { max_functions: 32, total_vcpus: vcpus, max_running_queries: 16, ..limits() };
    let mut world = World::new(limited);
    for id in 1..=10 {
        world.submit(of("ann", query(id, functions, &[(&[], 400)])));
    }
    world.submit(of("bob", query(11, functions, &[(&[], 400)])));
    let (mut of_bob, mut all) = (0, 0);
    for round in 0..20 {
        ready_all(&mut world);
        for (function, attempt) in world.running().collect::<Vec<_>>() {
            if round >= 5 {
                (of_bob, all) = (of_bob + u32::from(attempt.query() == QueryId(11)), all + 1);
            }
            world.finish(function, 1);
        }
    }
    f64::from(of_bob) / f64::from(all)
}

#[test]
fn users_share_functions_evenly_however_many_queries_they_run() {
    let share = share_of_one_query(32, 16);
    assert!((0.4..=0.6).contains(&share), "{share}");
}

/// Each of ten queries may run something on eight vCPUs. The other user's one has that user's half of them all the same.
#[test]
fn many_queries_of_a_user_leave_others_their_vcpus() {
    let share = share_of_one_query(8, 4);
    assert!((0.2..=0.4).contains(&share), "{share}");
}

#[test]
fn functions_start_at_a_limited_rate() {
    let limited = SchedulerLimits { function_start_burst: 3, function_starts_per_second: 10, ..limits() };
    let mut world = World::new(SchedulerLimits { max_functions: 64, total_vcpus: 64, ..limited });
    assert_eq!(starts(&world.submit(query(1, 8, &[(&[], 8)]))).len(), 3);
    assert_eq!(world.scheduler.next_wakeup(), Some(100), "the next token");
    assert_eq!(tick(&mut world, 99), []);
    assert_eq!(starts(&tick(&mut world, 100)).len(), 1);
    assert_eq!(starts(&tick(&mut world, 400)).len(), 3);
    let last = world.scheduler.next_wakeup().expect("one task has no function");
    assert_eq!((last, starts(&tick(&mut world, last)).len()), (500, 1));
    assert_eq!(world.scheduler.next_wakeup(), None, "nothing waits for a token");
}

#[test]
fn a_user_at_the_limit_gets_idle_functions_only() {
    let mut world = warm(2, SchedulerLimits { max_functions_per_user: 2, ..limits() });
    let commands = world.submit(of("ann", query(2, 8, &[(&[], 8)])));
    assert_eq!((runs(&commands).len(), starts(&commands).len()), (2, 0), "those of another user, and no new ones");
    let commands = world.submit(of("bob", query(3, 1, &[(&[], 1)])));
    assert_eq!(starts(&commands).len(), 1);
    ready_all(&mut world);
    cancel(&mut world, 2);
    finish_all(&mut world);
    // Its functions have another shape: one of them makes room, though there is room.
    let commands = world.submit(of("ann", QuerySpec { shape: OTHER, ..query(4, 1, &[(&[], 1)]) }));
    assert_eq!(commands[1], Command::StopFunction { function: FunctionId(1) });
    assert_eq!(starts(&commands)[0].2, OTHER);
}

/// Its own functions have run the stage, and those of another user, which have not, are no help: they work for long.
#[test]
fn a_user_at_the_limit_does_not_wait_for_functions_of_others() {
    let mut world = World::new(SchedulerLimits { max_functions_per_user: 2, total_vcpus: 8, ..limits() });
    world.submit(of("bob", query(1, 2, &[(&[], 2)])));
    ready_all(&mut world);
    world.submit(of("ann", query(2, 4, &[(&[], 4)])));
    ready_all(&mut world);
    let of_ann = |world: &World| {
        let ran = world.running().filter(|(_, attempt)| attempt.query() == QueryId(2));
        ran.map(|(function, attempt)| (function, attempt.task.task)).collect::<Vec<_>>()
    };
    let first = of_ann(&world);
    assert_eq!(first.len(), 2);
    first.iter().for_each(|(function, _)| drop(world.finish(*function, 1)));
    let second = of_ann(&world);
    assert_eq!(second.len(), 2, "the other tasks run where the first ones did: {first:?}, {second:?}");
}

#[test]
fn warm_functions_are_there_before_and_after_queries() {
    let mut world = World::new(SchedulerLimits { warm_functions: 2, function_lifetime_ms: 40_000, ..limits() });
    assert_eq!(world.scheduler.next_wakeup(), Some(0));
    assert_eq!(starts(&world.send(Event::Tick)).len(), 2);
    ready_all(&mut world);
    assert!(world.functions.keys().all(|function| world.scheduler.is_spare(*function)), "nobody's cold starts");
    let commands = world.submit(query(1, 3, &[(&[], 3)]));
    assert_eq!(runs(&commands).len(), 2, "no cold start");
    assert!(starts(&commands).iter().all(|(function, ..)| !world.scheduler.is_spare(*function)));
    ready_all(&mut world);
    finish_all(&mut world);
    let wakeup = world.scheduler.next_wakeup();
    assert_eq!(wakeup, Some(limits().function_idle_timeout_ms));
    assert!(matches!(tick(&mut world, 1_000)[..], [Command::StopFunction { .. }]), "one is past their number");
    assert_eq!(tick(&mut world, 20_000), []);
    assert_eq!(world.functions.len(), 2);
    // They are replaced when they are old.
    assert_eq!(world.scheduler.next_wakeup(), Some(30_000));
    assert_eq!(starts(&tick(&mut world, 30_000)).len(), 2);
}

#[test]
fn warm_functions_that_do_not_start_are_tried_again_later_and_later() {
    let mut world = World::new(SchedulerLimits { warm_functions: 1, ..limits() });
    world.send(Event::Tick);
    let mut waits = Vec::new();
    for _ in 0..9 {
        let function = *world.functions.keys().next().expect("it starts");
        assert_eq!(world.lose(function), []);
        let due = world.scheduler.next_wakeup().expect("another try");
        waits.push(due - world.now_ms);
        tick(&mut world, due);
    }
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 64_000, 64_000]);
}

/// Two users' queries of different shapes take turns in a pool that has room for one of each: nothing is started for that once
/// both have theirs.
#[test]
fn queries_of_two_shapes_do_not_drive_out_each_others_functions() {
    let mut world = World::new(SchedulerLimits { max_functions: 2, ..limits() });
    let mut started = Vec::new();
    for id in 1..100 {
        let shape = if id % 2 == 0 { SHAPE } else { OTHER };
        world.submit(QuerySpec { shape, ..query(id, 2, &[(&[], 4)]) });
        while world.queries[&QueryId(id)].end.is_none() {
            world.now_ms += 10;
            ready_all(&mut world);
            finish_all(&mut world);
        }
        world.send(Event::ResultReleased { query: QueryId(id) });
        started.push(world.ledger.starts.len());
    }
    assert!(started[98] <= 3, "{started:?}");
}

#[test]
fn a_function_makes_room_once_it_was_idle_for_a_while() {
    let mut world = World::new(SchedulerLimits { max_functions: 2, ..limits() });
    world.submit(QuerySpec { shape: OTHER, ..query(1, 1, &[(&[], 1)]) });
    world.submit(query(2, 2, &[(&[], 2)]));
    ready_all(&mut world);
    let (function, _) = world.running().find(|(_, attempt)| attempt.query() == QueryId(1)).expect("it runs");
    world.now_ms = 5;
    assert_eq!(starts(&world.finish(function, 1)), [], "the other query has a function to work on");
    assert_eq!(world.scheduler.next_wakeup(), Some(5 + EVICTION_IDLE_MS));
    let commands = tick(&mut world, 5 + EVICTION_IDLE_MS);
    assert_eq!((&commands[0], starts(&commands)[0].2), (&Command::StopFunction { function }, SHAPE));
}

#[test]
fn a_stage_runs_on_functions_of_its_class() {
    let mut world = World::new(SchedulerLimits { classes: vec![0], ..limits() });
    let host = world.join_for(2, 4, vec![7]);
    let mut spec = query(1, 2, &[(&[], 2), (&[0], 2)]);
    let large = FunctionShape { vcpus: 2, memory_bytes: 9, class: 7 };
    spec.stages[1].shape = Some(large);
    let commands = world.submit(spec);
    assert!(starts(&commands).iter().all(|(_, at, shape)| (*at, *shape) == (HostId::EMBEDDED, SHAPE)));
    ready_all(&mut world);
    let functions: Vec<_> = world.running().map(|(function, _)| function).collect();
    let commands: Vec<_> = functions.into_iter().flat_map(|function| world.finish(function, 1)).collect();
    assert!(starts(&commands).iter().all(|(_, at, shape)| (*at, *shape) == (host, large)));
    assert!(!starts(&commands).is_empty());
    // Nobody else offers it.
    world.lose_host(host);
    assert_eq!(error(&world, 1).kind(), ErrorKind::Unavailable);
    assert!(error(&world, 1).message.contains("class 7"), "{}", error(&world, 1));
}

/// A query may wait for its place while the only host for it leaves: it hears of that when it starts, not never.
#[test]
fn a_query_that_starts_after_its_hosts_left_fails() {
    let mut world = World::new(SchedulerLimits { classes: vec![0], max_running_queries: 1, ..limits() });
    let host = world.join_for(2, 2, vec![7]);
    world.submit(query(1, 1, &[(&[], 1)]));
    world.submit(QuerySpec { shape: FunctionShape { class: 7, ..SHAPE }, ..query(2, 1, &[(&[], 1)]) });
    world.submit(QuerySpec { shape: FunctionShape { class: 7, ..SHAPE }, ..query(3, 1, &[(&[], 1)]) });
    world.lose_host(host);
    cancel(&mut world, 1);
    for query in [2, 3] {
        assert!(error(&world, query).message.contains("class 7"), "{}", error(&world, query));
    }
}

#[test]
fn demand_says_what_would_have_work() {
    let limited = SchedulerLimits { max_functions_per_user: 3, max_running_queries: 2, warm_functions: 1, ..limits() };
    let mut world = World::new(limited);
    assert_eq!(world.scheduler.demand(), Demand { wanted_functions: 1, ..Demand::default() });
    world.submit(of("ann", query(1, 4, &[(&[], 9), (&[0], 9)])));
    world.submit(of("bob", query(2, 2, &[(&[], 1)])));
    world.submit(of("bob", query(3, 2, &[(&[], 1)])));
    let demand = world.scheduler.demand();
    assert_eq!((demand.running_queries, demand.queued_queries, demand.waiting_tasks), (2, 1, 10));
    assert_eq!(demand.wanted_functions, 3 + 1);
    assert!(!matches!(world.queries[&QueryId(1)].end, Some((End::Failed(_), _))));
}

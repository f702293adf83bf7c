//! Situations worth a name.

use onward_wire::{ErrorKind, FunctionId, HostId, QueryId, StageId, WireError};

use super::placing::{clustered, starts};
use super::world::{Doing, End, World, limits, lost, query};
use crate::scheduler::{AlternativeSpec, Command, Event, FunctionShape, QuerySpec, SchedulerLimits};

/// Starts `functions` functions by running a query on them.
pub fn warm(functions: usize, limits: SchedulerLimits) -> World {
    let mut world = World::new(limits);
    world.submit(query(1, functions, &[(&[], functions as u32)]));
    for function in world.functions.keys().copied().collect::<Vec<_>>() {
        world.ready(function);
    }
    finish_all(&mut world);
    assert!(world.queries[&QueryId(1)].end.is_some());
    world.send(Event::ResultReleased { query: QueryId(1) });
    world
}

pub fn finish_all(world: &mut World) {
    for (function, _) in world.running().collect::<Vec<_>>() {
        world.finish(function, 1);
    }
}

pub fn error(world: &World, query: u64) -> &WireError {
    match &world.queries[&QueryId(query)].end {
        Some((End::Failed(error), _)) => error,
        end => panic!("expected an error, not {end:?}"),
    }
}

pub fn runs(commands: &[Command]) -> Vec<(FunctionId, u32)> {
    let run = |command: &Command| match command {
        Command::RunAttempt { function, attempt, .. } => Some((*function, attempt.task.task)),
        _ => None,
    };
    commands.iter().filter_map(run).collect()
}

#[test]
fn a_warm_query_starts_at_once_and_reuses_functions() {
    let mut world = warm(2, limits());
    let commands = world.submit(query(2, 2, &[(&[], 2), (&[0], 1)]));
    assert_eq!(runs(&commands), [(FunctionId(1), 0), (FunctionId(2), 1)]);
    world.finish(FunctionId(1), 1);
    assert_eq!(runs(&world.finish(FunctionId(2), 1)), [(FunctionId(1), 0)], "the consumer waits for both producers");
    let commands = world.finish(FunctionId(1), 1);
    assert!(matches!(&commands[..], [.., Command::QueryDone { result, .. }] if result.len() == 1));
}

/// A user's error is the user's: no second try, and the other attempts stop.
#[test]
fn a_user_error_ends_the_query_at_once() {
    let mut world = warm(2, limits());
    world.submit(query(2, 2, &[(&[], 2)]));
    let commands = world.fail(FunctionId(1), WireError::new(ErrorKind::InvalidQuery, "division by zero"));
    let attempt = StageId::new(QueryId(2), 0).task(1).attempt(0);
    assert_eq!(commands[0], Command::CancelAttempt { function: FunctionId(2), attempt });
    assert_eq!(error(&world, 2).message, "division by zero");
}

/// A query that is planned again keeps its id. What its first plan's attempts say late is about other versions of its files.
#[test]
fn outcomes_of_a_first_plan_are_none_of_the_second_ones() {
    let mut world = warm(2, limits());
    world.submit(query(2, 2, &[(&[], 2)]));
    let late = StageId::new(QueryId(2), 0).task(1).attempt(0);
    world.fail(FunctionId(1), WireError::stale("s3://b/t"));
    assert!(error(&world, 2).is_stale);
    let spec = QuerySpec { first_attempt: 1_000, ..query(2, 2, &[(&[], 2)]) };
    world.scheduler.handle(world.now_ms, Event::SubmitQuery(spec));
    for error in [WireError::new(ErrorKind::Cancelled, "late"), WireError::stale("late")] {
        let function = FunctionId(2);
        let event = Event::AttemptFailed { function, attempt: late, error, has_ended: true };
        let commands = world.scheduler.handle(world.now_ms, event);
        let is_end = |command: &Command| matches!(command, Command::QueryFailed { .. } | Command::QueryDone { .. });
        assert!(!commands.iter().any(is_end), "{commands:?}");
    }
    let output = onward_wire::message::AttemptOutput::default();
    let commands = world.scheduler.handle(
        world.now_ms,
        Event::Prepared { function: FunctionId(2), host: HostId::EMBEDDED, attempt: late, output },
    );
    assert!(!commands.iter().any(|command| matches!(command, Command::AttemptCommitted { .. })), "{commands:?}");
}

#[test]
fn a_task_is_lost_only_so_often() {
    let mut world = warm(1, limits());
    world.submit(query(2, 1, &[(&[], 1)]));
    for _ in 0..limits().max_attempts {
        assert!(world.queries[&QueryId(2)].end.is_none());
        let (function, _) = world.running().next().expect("it is tried again");
        world.lose(function);
        for function in world.functions.keys().copied().collect::<Vec<_>>() {
            world.ready(function);
        }
    }
    assert_eq!(error(&world, 2).kind(), ErrorKind::Unavailable);
    assert!(error(&world, 2).message.contains("q-0002/s0/t0"), "{}", error(&world, 2));
}

#[test]
fn functions_that_do_not_start_fail_the_query_with_the_reason() {
    let mut world = World::new(limits());
    world.submit(query(1, 2, &[(&[], 2)]));
    while let Some(function) = world.functions.keys().next().copied() {
        world.lose(function);
    }
    assert_eq!(error(&world, 1).kind(), ErrorKind::Unavailable);
    assert!(error(&world, 1).message.contains("killed"), "{}", error(&world, 1));
}

#[test]
fn past_the_queue_queries_are_refused() {
    let mut world = World::new(SchedulerLimits { max_running_queries: 1, max_queued_queries: 1, ..limits() });
    for id in 1..=3 {
        world.submit(query(id, 1, &[(&[], 1)]));
    }
    assert_eq!(error(&world, 3).kind(), ErrorKind::ResourceExhausted);
    let reason = WireError::new(ErrorKind::Cancelled, "bye");
    let commands = world.send(Event::CancelQuery { query: QueryId(1), reason });
    assert!(commands.contains(&Command::QueryStarted { query: QueryId(2) }));
}

/// A statement timeout ends the query, and a function that does not obey is stopped.
#[test]
fn timeouts_end_queries_and_deaf_functions() {
    let mut world = warm(1, limits());
    world.submit(QuerySpec { timeout_ms: Some(50), ..query(2, 1, &[(&[], 1)]) });
    assert_eq!(world.scheduler.next_wakeup(), Some(50));
    world.now_ms = 50;
    world.send(Event::Tick);
    assert_eq!(error(&world, 2).kind(), ErrorKind::Cancelled);
    world.now_ms += limits().cancel_grace_ms;
    assert_eq!(world.scheduler.next_wakeup(), Some(world.now_ms));
    assert_eq!(world.send(Event::Tick), [Command::StopFunction { function: FunctionId(1) }]);
}

/// A world where a cancelled attempt of query 2 runs on in the only function, and query 3 waits for it.
fn a_cancelled_attempt_runs_on() -> (World, FunctionId) {
    let mut world = warm(1, SchedulerLimits { max_functions: 1, ..limits() });
    world.submit(query(2, 1, &[(&[], 1)]));
    let (function, _) = world.running().next().expect("it runs");
    let reason = WireError::new(ErrorKind::Cancelled, "bye");
    world.send(Event::CancelQuery { query: QueryId(2), reason: reason.clone() });
    assert_eq!(world.fail_and_run_on(function, reason), []);
    let commands = world.submit(query(3, 1, &[(&[], 1)]));
    assert_eq!(commands, [Command::QueryStarted { query: QueryId(3) }], "it waits");
    (world, function)
}

#[test]
fn a_function_is_free_once_its_cancelled_attempt_has_ended() {
    let (mut world, function) = a_cancelled_attempt_runs_on();
    assert_eq!(runs(&world.end_attempt(function)), [(function, 0)]);
}

/// A cancelled attempt that does not yield costs no other query a try: its function is stopped alone.
#[test]
fn a_function_whose_cancelled_attempt_does_not_end_takes_no_other_attempt_with_it() {
    let (mut world, function) = a_cancelled_attempt_runs_on();
    world.now_ms += limits().cancel_grace_ms;
    assert_eq!(world.scheduler.next_wakeup(), Some(world.now_ms));
    let commands = world.send(Event::Tick);
    let next = FunctionId(function.0 + 1);
    assert_eq!(commands[0], Command::StopFunction { function });
    assert!(matches!(&commands[1..], [Command::StartFunction { function, .. }] if *function == next), "{commands:?}");
    world.ready(next);
    world.finish(next, 1);
    let Some((End::Done, stats)) = &world.queries[&QueryId(3)].end else { panic!("it is done") };
    assert_eq!(stats.attempts, 1, "no try of it was lost");
}

/// The same for an attempt that failed by itself while one of its operators runs on.
#[test]
fn a_function_where_a_failed_attempt_runs_on_takes_nothing_new() {
    let mut world = warm(1, SchedulerLimits { max_functions: 1, ..limits() });
    world.submit(query(2, 1, &[(&[], 1)]));
    let (function, _) = world.running().next().expect("it runs");
    assert_eq!(world.fail_and_run_on(function, lost()), []);
    assert_eq!(runs(&world.end_attempt(function)), [(function, 0)], "the next try");
}

#[test]
fn idle_functions_make_room_for_another_shape() {
    let mut world = warm(2, SchedulerLimits { max_functions: 2, ..limits() });
    let shape = FunctionShape { vcpus: 2, memory_bytes: 1, class: 0 };
    let commands = world.submit(QuerySpec { shape, ..query(2, 1, &[(&[], 1)]) });
    let (stopped, function) = (FunctionId(1), FunctionId(3));
    assert_eq!(
        commands[1..],
        [
            Command::StopFunction { function: stopped },
            Command::StartFunction { function, host: HostId::EMBEDDED, shape }
        ]
    );
}

/// A long query with many tasks leaves the next free function to the query that came later.
#[test]
fn queries_take_turns() {
    let mut world = warm(2, SchedulerLimits { max_functions: 2, total_vcpus: 2, ..limits() });
    world.submit(query(2, 2, &[(&[], 100)]));
    world.submit(query(3, 2, &[(&[], 1)]));
    let mut commands = Vec::new();
    for function in [FunctionId(1), FunctionId(2)] {
        commands.extend(world.finish(function, 1));
    }
    let attempt = StageId::new(QueryId(3), 0).task(0).attempt(0);
    let is_run = |command: &Command| matches!(command, Command::RunAttempt { attempt: run, .. } if *run == attempt);
    assert!(commands.iter().any(is_run), "{commands:?}");
}

/// The output of an attempt that was given up for lost still counts when it turns up first.
#[test]
fn the_first_output_wins() {
    let mut world = warm(2, limits());
    world.submit(query(2, 1, &[(&[], 1)]));
    let (function, attempt) = world.running().next().expect("it runs");
    let commands = world.lose(function);
    let (second, retry) = (runs(&commands)[0].0, attempt.task.attempt(1));
    let commands = world.prepare(function, attempt, 0, 1);
    assert_eq!(
        commands[..3],
        [
            Command::AttemptCommitted { attempt },
            Command::StageCompleted { query: QueryId(2), stage: 0, attempts: vec![attempt] },
            Command::CancelAttempt { function: second, attempt: retry }
        ]
    );
    let commands = world.finish(second, 1);
    assert!(matches!(&commands[..], [Command::ReleaseSegments(_)]), "the second output is void: {commands:?}");
}

/// An uncounted failure (a function told to leave) is tried again for longer, yet not for ever.
#[test]
fn everything_has_a_limit() {
    let mut world = warm(1, limits());
    world.submit(query(2, 1, &[(&[], 1)]));
    let mut tries = 0;
    while world.queries[&QueryId(2)].end.is_none() {
        let running = world.running().next();
        if let Some((function, _)) = running {
            tries += 1;
            world.fail(function, WireError { counts_as_failure: false, ..lost() });
        } else {
            let function = *world.functions.keys().last().expect("one is starting");
            world.ready(function);
        }
    }
    assert!(tries > limits().max_attempts && tries < 100, "{tries}");
}

#[test]
fn inline_output_stays_within_the_exchange() {
    let mut world = warm(3, limits());
    let commands = world.submit(query(2, 3, &[(&[], 3), (&[0], 1)]));
    let granted: Vec<_> = commands
        .iter()
        .filter_map(|command| match command {
            Command::RunAttempt { inline_bytes, .. } => Some(*inline_bytes),
            _ => None,
        })
        .collect();
    assert_eq!(granted, [64, 64, 0]);
}

pub fn ready_all(world: &mut World) {
    let is_starting = |doing: &Doing| *doing == Doing::Starting;
    let starting = world.functions.iter().filter(|(_, (_, doing))| is_starting(doing)).map(|(function, _)| *function);
    for function in starting.collect::<Vec<_>>() {
        world.ready(function);
    }
}

/// Its output is made again, with what that read and was let go; what lies elsewhere stays.
#[test]
fn the_output_of_a_lost_host_is_made_again() {
    let mut world = clustered();
    world.submit(query(1, 2, &[(&[], 2), (&[0], 2), (&[1], 1)]));
    ready_all(&mut world);
    finish_all(&mut world);
    finish_all(&mut world);
    let reading: Vec<_> = world.running().collect();
    assert!(matches!(reading[..], [(_, attempt)] if attempt.task.stage.stage == 2), "{reading:?}");
    world.lose_host(HostId(2));
    ready_all(&mut world);
    let again = |world: &World, stage: u32| {
        let ran = |attempt: &onward_wire::AttemptId| attempt.task.stage.stage == stage && attempt.attempt == 1;
        world.running().filter(|(_, attempt)| ran(attempt)).count()
    };
    assert_eq!((again(&world, 0), again(&world, 1), again(&world, 2)), (2, 0, 0), "all of stage 0 was let go");
    finish_all(&mut world);
    ready_all(&mut world);
    assert_eq!((again(&world, 1), again(&world, 2)), (1, 0), "half of stage 1 is on the other host");
    super::random::settle(&mut world);
    let end = &world.queries[&QueryId(1)].end;
    assert!(matches!(end, Some((End::Done, _))), "{end:?}");
    world.send(Event::ResultReleased { query: QueryId(1) });
    assert!(world.segments.values().all(|(_, released)| *released));
}

/// A LIMIT that is satisfied stops who works for it, and who waits to.
#[test]
fn enough_rows_end_a_stage() {
    let mut world = warm(2, limits());
    let mut spec = query(2, 2, &[(&[], 6), (&[0], 1)]);
    spec.stages[0].enough_rows = Some(2);
    world.submit(spec);
    world.finish(FunctionId(1), 1);
    let commands = world.finish(FunctionId(2), 1);
    let cancelled = |command: &Command| matches!(command, Command::CancelAttempt { function: FunctionId(1), .. });
    assert!(commands.iter().any(cancelled), "the third task runs in vain: {commands:?}");
    world.fail(FunctionId(1), WireError::new(ErrorKind::Cancelled, "as told"));
    let (_, attempt) = world.running().next().expect("the consumer");
    assert_eq!(attempt.task.stage.stage, 1);
    super::random::settle(&mut world);
    assert!(matches!(world.queries[&QueryId(2)].end, Some((End::Done, _))));
}

/// Tasks are planned before anybody knows how little there is to read.
#[test]
fn small_inputs_are_read_by_fewer_tasks() {
    for (task_bytes, tasks) in [(0, 4), (100, 2), (150, 2), (1_000, 1)] {
        let mut world = warm(2, limits());
        let spec = QuerySpec { task_bytes, ..query(2, 2, &[(&[], 2), (&[0], 4)]) };
        world.scheduler.handle(world.now_ms, Event::SubmitQuery(spec));
        let mut partitions = Vec::new();
        for task in 0..2 {
            let attempt = StageId::new(QueryId(2), 0).task(task).attempt(0);
            let output = onward_wire::message::AttemptOutput {
                partitions: vec![onward_wire::message::PartitionStats { partition: 0, rows: 1, bytes: 100 }],
                ..Default::default()
            };
            let (function, host) = (FunctionId(u64::from(task) + 1), HostId::EMBEDDED);
            let commands = world.scheduler.handle(world.now_ms, Event::Prepared { function, host, attempt, output });
            partitions.extend(commands.into_iter().filter_map(|command| match command {
                Command::RunAttempt { partitions, .. } => Some(partitions),
                _ => None,
            }));
        }
        let stats = world.scheduler.stats(QueryId(2)).expect("it runs");
        assert_eq!(stats.tasks, 2 + tasks, "{task_bytes} bytes each: {partitions:?}");
        let whole: Vec<u32> = (0..4).collect();
        assert!(tasks > 1 || partitions == [whole], "{partitions:?}");
    }
}

/// Tasks that were spared because of another one's rows are not spared when those rows are lost.
#[test]
fn spared_tasks_run_when_the_rows_that_spared_them_are_lost() {
    let mut world = clustered();
    let mut spec = query(1, 2, &[(&[], 4), (&[0], 1)]);
    spec.stages[0].enough_rows = Some(1);
    world.submit(spec);
    ready_all(&mut world);
    let (function, _) = world.running().next().expect("a task");
    world.finish(function, 1);
    assert_eq!(world.scheduler.stats(QueryId(1)).expect("it runs").tasks_committed, 4, "one row is enough");
    world.lose_host(world.place(function));
    assert_eq!(world.scheduler.stats(QueryId(1)).expect("it runs").tasks_committed, 0);
    super::random::settle(&mut world);
    assert!(matches!(world.queries[&QueryId(1)].end, Some((End::Done, _))));
}

/// A build side of two tasks, a probe side of two, and what joins them: a broadcast if the build side has at most 150 bytes.
fn join(most_bytes: u64, split_bytes: u64) -> QuerySpec {
    let mut spec = query(2, 2, &[(&[], 2), (&[], 2), (&[0, 1], 2)]);
    spec.split_bytes = split_bytes;
    spec.stages[2].splittable = Some(1);
    spec.stages[1].may_coalesce = false;
    spec.stages[2].alternative = Some(AlternativeSpec {
        when: 0,
        most_bytes,
        most_rows: 10,
        spares: 1,
        inputs: vec![0],
        tasks: vec![vec![0], vec![1], vec![2]],
    });
    spec
}

pub fn ended_well(world: &World) -> &crate::scheduler::QueryStats {
    match &world.queries[&QueryId(2)].end {
        Some((End::Done, stats)) => stats,
        end => panic!("{end:?}"),
    }
}

/// The side that is spared does not start before the other one is known, and not at all when that is small.
#[test]
fn a_join_whose_build_side_turns_out_small_runs_its_other_plan() {
    let mut world = warm(2, limits());
    let commands = world.submit(join(200, 0));
    assert_eq!(runs(&commands).len(), 2);
    assert!(runs(&world.finish(FunctionId(1), 1)).is_empty(), "the probe side waits");
    let commands = world.finish(FunctionId(2), 1);
    assert!(commands.contains(&Command::StageReplaced { query: QueryId(2), stage: 2 }), "{commands:?}");
    while world.running().next().is_some() {
        finish_all(&mut world);
    }
    let stats = ended_well(&world);
    assert_eq!((stats.attempts, stats.functions_per_stage.as_slice()), (5, &[2, 0, 2][..]));
}

#[test]
fn a_join_whose_build_side_is_not_small_runs_as_planned() {
    let mut world = warm(2, limits());
    world.submit(join(199, 0));
    while world.running().next().is_some() {
        finish_all(&mut world);
    }
    assert_eq!((ended_well(&world).attempts, &ended_well(&world).functions_per_stage), (6, &vec![2, 2, 2]));
}

/// Every task of the probe side gives 100 bytes of partition 0 in three segments: it is read by several tasks, a part each.
#[test]
fn a_partition_that_is_far_larger_is_read_by_several_tasks() {
    let mut world = warm(2, limits());
    world.submit(join(0, 60));
    let mut shares = Vec::new();
    loop {
        let Some((function, _)) = world.running().next() else { break };
        for command in world.finish(function, 3) {
            if let Command::RunAttempt { attempt, share, partitions, .. } = command
                && attempt.task.stage.stage == 2
            {
                shares.push((partitions, share.map(|share| (share.input, share.part, share.parts))));
            }
        }
    }
    ended_well(&world);
    let part = |part| (vec![0], Some((1, part, 4)));
    assert_eq!(shares, [part(0), part(1), part(2), part(3), (vec![1], None)]);
}

/// A stage that could start waits for runtime filters, but not for ever.
#[test]
fn a_stage_waits_for_runtime_filters_for_a_while() {
    let mut world = warm(2, limits());
    let mut spec = query(2, 2, &[(&[], 1), (&[], 2), (&[0, 1], 1)]);
    spec.stages[1].filter_sources = vec![0];
    assert_eq!(runs(&world.submit(spec.clone())).len(), 1);
    assert_eq!(world.scheduler.next_wakeup(), Some(world.now_ms + limits().runtime_filter_wait_ms));
    world.now_ms += limits().runtime_filter_wait_ms;
    assert_eq!(runs(&world.send(Event::Tick)).len(), 1, "it waited long enough");
    world.send(Event::CancelQuery { query: QueryId(2), reason: lost() });

    let mut world = warm(2, limits());
    world.submit(spec);
    let (function, _) = world.running().next().expect("the source runs");
    assert_eq!(runs(&world.finish(function, 1)).len(), 2, "what it waited for is there");
}

/// A scan is not for the size of a broadcast to cut down.
#[test]
fn a_stage_that_reads_tables_keeps_its_tasks() {
    for may_coalesce in [true, false] {
        let mut world = warm(2, limits());
        let mut spec = query(2, 2, &[(&[], 1), (&[0], 4)]);
        spec.task_bytes = 1_000;
        spec.stages[1].may_coalesce = may_coalesce;
        world.submit(spec);
        while world.running().next().is_some() {
            finish_all(&mut world);
        }
        assert_eq!(ended_well(&world).attempts, if may_coalesce { 2 } else { 5 });
    }
}

/// In the last quarter of its life a function takes nothing new; at its end, what it runs is tried again elsewhere, however often.
#[test]
fn a_function_leaves_when_it_is_old() {
    let limits = || SchedulerLimits { function_lifetime_ms: 400, max_attempts: 1, ..limits() };
    let mut world = warm(1, limits());
    world.now_ms += 299;
    assert!(world.send(Event::Tick).is_empty());
    assert_eq!(world.scheduler.next_wakeup(), Some(300));
    world.now_ms += 1;
    let commands = world.send(Event::Tick);
    assert!(matches!(commands[..], [Command::StopFunction { .. }]), "it had nothing to do: {commands:?}");

    let mut world = warm(1, limits());
    world.now_ms += 299;
    assert_eq!(runs(&world.submit(query(2, 1, &[(&[], 2)]))).len(), 1);
    let (old, _) = world.running().next().expect("it runs");
    world.now_ms += 1;
    let commands = world.finish(old, 1);
    assert!(commands.contains(&Command::StopFunction { function: old }), "it finished, and leaves: {commands:?}");
    assert_eq!(starts(&commands).len(), 1, "another one takes the next task");
    for _ in 0..3 {
        ready_all(&mut world);
        let (function, attempt) = world.running().next().expect("it runs");
        world.now_ms += 400;
        let commands = world.send(Event::Tick);
        assert!(commands.contains(&Command::StopFunction { function }), "{attempt} took too long: {commands:?}");
    }
    ready_all(&mut world);
    finish_all(&mut world);
    ended_well(&world);
}

/// A task that outlives so many functions ends its query with an error that is worth another plan.
#[test]
fn a_task_that_outlives_functions_is_worth_smaller_ones() {
    let mut world = warm(1, SchedulerLimits { function_lifetime_ms: 400, max_attempts: 1, ..limits() });
    world.submit(QuerySpec { task_lives: 2, ..query(2, 1, &[(&[], 1)]) });
    for _ in 0..2 {
        ready_all(&mut world);
        assert_eq!(world.running().count(), 1);
        world.now_ms += 400;
        world.send(Event::Tick);
    }
    let error = error(&world, 2);
    assert!(error.is_too_long && !error.is_retryable, "{error:?}");
}

//! Stages that start on a part of their input.

use onward_wire::FunctionId;

use super::cases::{ended_well, finish_all, ready_all, runs, warm};
use super::world::{World, limits, lost, query};
use crate::scheduler::{Command, StageOutput};

/// A stage of two tasks, and one of one task that reads it and may start early, on two functions: the task whose output is there
/// ran on the first of the two.
fn early(finished: usize) -> (World, FunctionId, FunctionId, Vec<Command>) {
    let mut world = warm(2, limits());
    let mut spec = query(2, 2, &[(&[], 2), (&[0], 1)]);
    spec.starts_early = true;
    world.submit(spec);
    let running: Vec<_> = world.running().map(|(function, _)| function).collect();
    let (done, other) = (running[finished], running[1 - finished]);
    let commands = world.finish(done, 1);
    (world, done, other, commands)
}

#[test]
fn a_stage_starts_on_what_is_there_where_a_function_is_free() {
    let (mut world, free, other, commands) = early(0);
    let told = |inputs: &[StageOutput]| inputs.iter().map(|i| (i.attempts.len(), i.is_open)).collect::<Vec<_>>();
    let started = commands.iter().find_map(|command| match command {
        Command::RunAttempt { function, attempt, inputs, .. } => {
            Some((*function, attempt.task.stage.stage, told(inputs)))
        }
        _ => None,
    });
    assert_eq!(started, Some((free, 1, vec![(1, true)])));
    let more = world.finish(other, 1).into_iter().find_map(|command| match command {
        Command::MoreInputs { function, inputs, .. } => Some((function, told(&inputs))),
        _ => None,
    });
    assert_eq!(more, Some((free, vec![(1, false)])));
    finish_all(&mut world);
    assert_eq!(ended_well(&world).attempts, 3);
}

/// Rows come in the order of tasks, so what comes first must be there.
#[test]
fn a_stage_does_not_start_on_what_comes_second() {
    let (_, _, _, commands) = early(1);
    assert!(runs(&commands).is_empty());
}

#[test]
fn what_started_early_makes_room_for_what_it_waits_for() {
    let (mut world, free, other, _) = early(0);
    let commands = world.lose(other);
    assert!(
        commands.iter().any(|command| matches!(command, Command::CancelAttempt { function, .. } if *function == free))
    );
    world.fail(free, lost());
    while world.running().next().is_some() {
        ready_all(&mut world);
        finish_all(&mut world);
    }
    ended_well(&world);
}

#[test]
fn what_started_early_and_wants_no_more_rows_stops_its_input() {
    let (mut world, free, other, _) = early(0);
    let commands = world.finish(free, 1);
    ended_well(&world);
    assert!(
        commands.iter().any(|command| matches!(command, Command::CancelAttempt { function, .. } if *function == other))
    );
}

/// With a few bytes there its tasks could still become fewer.
#[test]
fn a_stage_whose_tasks_may_change_waits_for_all_of_its_input() {
    for (task_bytes, starts) in [(60, 1), (1_000, 0)] {
        let mut world = warm(3, limits());
        let mut spec = query(2, 3, &[(&[], 3), (&[0], 2)]);
        (spec.task_bytes, spec.starts_early) = (task_bytes, true);
        world.submit(spec);
        let (function, _) = world.running().next().expect("all run");
        assert_eq!(runs(&world.finish(function, 1)).len(), starts);
    }
}

//! Where functions start, and which of them a task goes to.

use onward_wire::{HostId, QueryId};

use super::cases::{finish_all, ready_all, runs};
use super::world::{Doing, End, World, limits, query};
use crate::scheduler::{Command, SchedulerLimits};

/// A world with two hosts besides the coordinator's own, which only runs functions while there is no other.
pub fn clustered() -> World {
    let mut world = World::new(SchedulerLimits { is_reserve: true, ..limits() });
    world.hosts.clear();
    world.join(2, 4);
    world.join(2, 4);
    world
}

pub fn starts(commands: &[Command]) -> Vec<u32> {
    let host = |command: &Command| match command {
        Command::StartFunction { host, .. } => Some(host.0),
        _ => None,
    };
    commands.iter().filter_map(host).collect()
}

#[test]
fn functions_are_spread_over_hosts_and_scans_meet_theirs_again() {
    let mut world = clustered();
    assert_eq!(starts(&world.submit(query(1, 4, &[(&[], 4)]))), [1, 2, 1, 2]);
    ready_all(&mut world);
    let places = |world: &World| {
        let mut running: Vec<_> = world.running().map(|(function, attempt)| (attempt.task.task, function)).collect();
        running.sort_unstable();
        running.into_iter().map(|(_, function)| function.0 % 2).collect::<Vec<_>>()
    };
    assert_eq!(places(&world), [1, 0, 1, 0], "functions 1 and 3 are on the first host");
    finish_all(&mut world);
    world.submit(query(2, 2, &[(&[], 2)]));
    assert_eq!(places(&world), [1, 0]);
}

/// Four failed starts in a row are the host's trouble, not the cluster's.
#[test]
fn a_host_where_nothing_starts_is_left_out() {
    let mut world = clustered();
    world.submit(query(1, 2, &[(&[], 2)]));
    for _ in 0..10 {
        let starting = world.functions.iter().filter(|(_, (_, doing))| *doing == Doing::Starting);
        let starting: Vec<_> = starting.map(|(function, _)| *function).collect();
        for function in starting {
            match world.place(function) {
                HostId(1) => world.lose(function),
                _ => world.ready(function),
            };
        }
    }
    super::random::settle(&mut world);
    let end = &world.queries[&QueryId(1)].end;
    assert!(matches!(end, Some((End::Done, _))), "{end:?}");
}

/// What would be crowded on its own host goes to a function that is free on another one, and none is started there.
#[test]
fn what_is_crowded_goes_to_a_function_that_is_free_elsewhere() {
    let mut world = World::new(SchedulerLimits { total_vcpus: 1, ..limits() });
    world.submit(query(1, 2, &[(&[], 2)]));
    ready_all(&mut world);
    let other = world.join(1, 8);
    world.submit(query(2, 1, &[(&[], 1)]));
    ready_all(&mut world);
    while world.running().next().is_some() {
        finish_all(&mut world);
    }
    assert_eq!(
        world.functions.keys().map(|function| world.place(*function) == other).collect::<Vec<_>>(),
        [false, false, true]
    );

    // Both would best run on the first host, which has two functions, and one vCPU.
    world.submit(query(3, 1, &[(&[], 1)]));
    world.submit(query(4, 1, &[(&[], 1)]));
    let mut places: Vec<_> = world.running().map(|(function, _)| world.place(function) == other).collect();
    places.sort_unstable();
    assert_eq!(places, [false, true]);
    assert_eq!(world.functions.len(), 3, "none is started");
}

/// An idle function is not left for one that would be started in the place of another idle one, on the same crowded host: two
/// queries of different shapes did that to each other for ever.
#[test]
fn a_host_where_nothing_starts_has_no_room_for_what_is_crowded() {
    let mut world = World::new(SchedulerLimits { max_functions: 3, total_vcpus: 1, max_attempts: 1, ..limits() });
    let mut first = query(1, 1, &[(&[], 1)]);
    first.shape.vcpus = 2;
    world.submit(first);
    ready_all(&mut world);
    finish_all(&mut world);

    let other = world.join(3, 1);
    world.submit(query(2, 2, &[(&[], 2)]));
    let there = world.functions.keys().copied().find(|function| world.place(*function) == other);
    world.lose(there.expect("one starts on each host"));
    let starting: Vec<_> =
        world.functions.iter().filter(|(_, (_, doing))| *doing == Doing::Starting).map(|(id, _)| *id).collect();
    let [one, two] = starting[..] else { panic!("two start here now: {starting:?}") };
    assert_eq!(runs(&world.ready(one)).len(), 1);
    assert_eq!(runs(&world.ready(two)).len(), 1, "it shares the vCPU: no other is to be had");
}

//! Hosts that leave in good order.

use onward_wire::{HostId, QueryId};

use super::cases::{ended_well, finish_all, ready_all, runs};
use super::world::{World, limits, query};
use crate::scheduler::{Command, Event, SchedulerLimits};

impl World {
    /// Nothing runs there, and nobody needs what lies there.
    pub fn check_let_go(&mut self, host: HostId) {
        assert_eq!(self.ledger.leaving.insert(host, true), Some(false), "{host} wants to leave, and is told once");
        assert!(self.functions.keys().all(|function| self.places[function] != host), "{host} has functions");
        for (segment, _) in self.holders.iter().filter(|(_, holder)| **holder == host) {
            assert!(self.segments[segment].1, "{segment} lies on {host}");
        }
        self.given_up.retain(|(function, ..)| self.places[function] != host);
    }

    pub fn leave(&mut self, host: HostId) -> Vec<Command> {
        self.ledger.leaving.entry(host).or_insert(false);
        self.send(Event::HostLeaves { host })
    }

    /// Hosts that may leave do.
    pub fn go(&mut self) {
        let gone: Vec<HostId> = self.ledger.leaving.iter().filter(|(_, may)| **may).map(|(host, _)| *host).collect();
        gone.into_iter().for_each(|host| drop(self.lose_host(host)));
    }
}

fn lets_go(commands: &[Command], host: HostId) -> bool {
    commands.contains(&Command::LetHostGo { host })
}

/// What runs ends there, what comes then runs elsewhere, and what was written is read before the host goes: nothing runs twice.
#[test]
fn a_host_that_leaves_ends_what_it_runs_and_keeps_what_is_read() {
    let mut world = World::new(SchedulerLimits { is_reserve: true, ..limits() });
    let (first, second) = (world.join(2, 2), world.join(2, 2));
    world.submit(query(2, 2, &[(&[], 2), (&[0], 2)]));
    ready_all(&mut world);
    let running: Vec<_> = world.running().collect();
    assert_eq!(running.len(), 2);
    assert!(!lets_go(&world.leave(first), first), "it runs a task");
    let other = world.join(2, 2);
    for (function, _) in running {
        assert!(!lets_go(&world.finish(function, 1), first), "its output is to be read");
    }
    ready_all(&mut world);
    assert!(world.running().all(|(function, _)| world.place(function) != first));
    finish_all(&mut world);
    assert_eq!(ended_well(&world).attempts, 4, "on {second} and {other}");
    assert!(world.ledger.leaving[&first], "nobody reads it any more");
    world.go();
}

/// Rows that a client has not fetched stay until they are released.
#[test]
fn a_host_keeps_results_until_they_are_fetched() {
    let mut world = World::new(SchedulerLimits { is_reserve: true, ..limits() });
    let host = world.join(2, 2);
    assert_eq!(runs(&world.submit(query(2, 1, &[(&[], 1)]))).len(), 0);
    ready_all(&mut world);
    finish_all(&mut world);
    ended_well(&world);
    assert!(!lets_go(&world.leave(host), host));
    assert!(lets_go(&world.send(Event::ResultReleased { query: QueryId(2) }), host));
    assert!(!lets_go(&world.leave(host), host), "it was told");
}

/// The coordinator's own host, kept in reserve, takes over when the last other one leaves; one that comes back is a new one.
#[test]
fn when_the_last_host_leaves_the_reserve_works() {
    let mut world = World::new(SchedulerLimits { is_reserve: true, ..limits() });
    let host = world.join(2, 2);
    assert!(lets_go(&world.leave(host), host), "it had nothing to do");
    world.submit(query(2, 1, &[(&[], 1)]));
    ready_all(&mut world);
    assert!(world.running().all(|(function, _)| world.place(function) == HostId::EMBEDDED));
    world.go();
    finish_all(&mut world);
    ended_well(&world);
}

/// What the reserve started while it was alone takes no task any more once a host has joined, idle or not.
#[test]
fn functions_of_the_reserve_go_when_a_host_joins() {
    let mut world = World::new(SchedulerLimits { is_reserve: true, ..limits() });
    world.submit(query(2, 1, &[(&[], 1)]));
    ready_all(&mut world);
    finish_all(&mut world);
    world.submit(query(3, 1, &[(&[], 1)]));
    assert_eq!(world.running().count(), 1, "a function that was there");
    let host = world.join(2, 2);
    world.submit(query(4, 1, &[(&[], 1)]));
    finish_all(&mut world);
    ready_all(&mut world);
    assert!(world.functions.keys().all(|function| world.place(*function) == host), "{:?}", world.functions);
    finish_all(&mut world);
    world.submit(query(5, 1, &[(&[], 1)]));
    assert!(world.running().count() == 1 && world.running().all(|(function, _)| world.place(function) == host));
}

//! What hosts say that joined, and what follows when one is gone.

use onward_cache::paths::store_path;
use onward_executor::host::HostEvent;
use onward_wire::{ErrorKind, HostId, QueryId, WireError};

use super::super::door::MemberEvent;
use super::Driver;
use crate::scheduler::Event;

impl Driver {
    pub(super) fn on_member_event(&mut self, host: HostId, event: MemberEvent) {
        if !self.fleet.heard(host) {
            // What it said before it was given up.
            return;
        }
        match event {
            MemberEvent::Host(event) if self.fleet.place_of(event.function()) == host => {
                self.on_host_event(host, event)
            }
            // Of a function that this coordinator did not start there.
            MemberEvent::Host(_) => {}
            MemberEvent::Given(function, home, done) if self.fleet.is_there(home) => {
                self.on_prepared(function, home, *done);
            }
            MemberEvent::Given(function, home, done) => {
                let message = format!("host {home}, which the output was given to, is gone");
                let (attempt, error) = (done.attempt.into(), WireError::new(ErrorKind::Unavailable, message));
                self.on_host_event(host, HostEvent::AttemptFailed { function, attempt, error, has_ended: true });
            }
            MemberEvent::Heartbeat(heartbeat) => self.fleet.record_heartbeat(host, heartbeat),
            MemberEvent::Upload(query, path, upload) => match store_path(&path) {
                Ok(path) => self.uploads.note(query, path, upload),
                Err(error) => tracing::warn!(%host, %query, %error, "an upload to no object"),
            },
            MemberEvent::QueryEnded(request) => self.ended(request),
            MemberEvent::Leaving => {
                tracing::info!(%host, "a host wants to leave");
                self.fleet.leaves(host);
                self.capacity.send_replace(self.fleet.capacity());
                match self.fleet.is_ours(host) {
                    true => self.handle(Event::HostLeaves { host }),
                    false => self.fleet.let_go(host),
                }
            }
            MemberEvent::Deposed(by) => {
                tracing::warn!(%host, epoch = self.term.epoch, by, "a host refused a command: another coordinator leads");
                if by > self.term.epoch {
                    self.term.deposed.cancel();
                }
            }
            MemberEvent::Left(reason) => self.lose_host(host, reason),
        }
    }

    /// A host is gone, and with it its functions and what it held.
    pub(super) fn lose_host(&mut self, host: HostId, reason: String) {
        let (was_let_go, is_ours) = (self.fleet.was_let_go(host), self.fleet.is_ours(host));
        let is_leaving = self.fleet.is_leaving(host);
        let Some(functions) = self.fleet.leave(host) else { return };
        match was_let_go || is_leaving && functions.is_empty() {
            true => tracing::info!(%host, "a host left"),
            false => tracing::warn!(%host, reason, functions = functions.len(), "a host was lost"),
        }
        for function in functions {
            self.forget_function(function);
        }
        self.capacity.send_replace(self.fleet.capacity());
        let there = |(request, (_, on)): (&u64, &(QueryId, HostId))| (*on == host).then_some(*request);
        let requests: Vec<u64> = self.end_requests.iter().filter_map(there).collect();
        requests.into_iter().for_each(|request| self.ended(request));
        if is_ours {
            self.handle(Event::HostLost { host, reason });
        }
    }

    /// A host has nothing more to do for a query that is over.
    pub(super) fn ended(&mut self, request: u64) {
        let Some((query, _)) = self.end_requests.remove(&request) else { return };
        if let Some(ending) = self.ending.get_mut(&query) {
            ending.open -= 1;
            if ending.open == 0 {
                self.ending.remove(&query);
            }
        }
    }
}

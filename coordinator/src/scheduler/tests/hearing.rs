//! How the scheduler hears of what happens: of each event at once, or of several together.

use super::world::{Doing, World};
use crate::scheduler::{Command, Event};

impl World {
    /// From here on, events of everyday wait for [`Self::release`] or the next other one.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    pub fn release(&mut self) {
        let Some(events) = self.held.take() else { return };
        let ended = |event: &Event| match event {
            Event::Prepared { attempt, .. } => Some(*attempt),
            _ => None,
        };
        self.just_ended = events.iter().filter_map(ended).collect();
        self.handle(events);
        self.just_ended.clear();
    }

    pub fn send(&mut self, event: Event) -> Vec<Command> {
        use Event::{AttemptEnded, FunctionReady, Prepared, ResultReleased, SubmitQuery};
        let is_everyday = matches!(
            event,
            FunctionReady { .. } | Prepared { .. } | AttemptEnded { .. } | SubmitQuery(_) | ResultReleased { .. }
        );
        if let Some(held) = self.held.as_mut().filter(|_| is_everyday) {
            held.push(event);
            return vec![];
        }
        self.release();
        self.handle(vec![event])
    }

    fn handle(&mut self, events: Vec<Event>) -> Vec<Command> {
        let commands = self.scheduler.handle_all(self.now_ms, events);
        for command in &commands {
            self.check(command);
        }
        self.ledger.check_positions();
        let demand = self.scheduler.demand();
        let idle = self.functions.values().filter(|(_, doing)| *doing == Doing::Nothing).count();
        assert_eq!((demand.functions, demand.idle_functions), (self.functions.len(), idle));
        assert!(demand.wanted_functions >= self.limits.warm_functions);
        commands
    }
}

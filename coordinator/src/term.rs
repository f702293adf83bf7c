//! [`Term`]: that this coordinator leads, and for how long.

use std::fmt;
use std::sync::Arc;

use onward_state::Announcement;
use onward_wire::cluster::Leader;
use onward_wire::{ErrorKind, WireError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A coordinator's time as the leader. One that is alone leads for ever, with the epoch 0.
#[derive(Clone)]
pub struct Term {
    /// What the coordinator is announced as; empty: it is alone.
    pub own: Announcement,
    /// Grows from leader to leader: what hosts know a deposed one by.
    pub epoch: u64,
    /// It still leads, as far as this machine's clock tells. Asked before each command: cheap.
    pub is_valid: Arc<dyn Fn() -> bool + Send + Sync>,
    /// What hosts are told that ask who leads.
    pub leader: watch::Receiver<Leader>,
    /// All coordinators there are, as far as is known: this one may be missing for a moment. Empty: it is alone.
    pub coordinators: watch::Receiver<Vec<Announcement>>,
    /// Cancelled when a host has heard of a later leader.
    pub deposed: CancellationToken,
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term").field("epoch", &self.epoch).field("is_valid", &(self.is_valid)()).finish_non_exhaustive()
    }
}

impl Default for Term {
    /// Of a coordinator that is alone.
    fn default() -> Self {
        let (_, leader) = watch::channel(Leader::default());
        let (_, coordinators) = watch::channel(Vec::new());
        Self {
            own: Announcement::default(),
            epoch: 0,
            is_valid: Arc::new(|| true),
            leader,
            coordinators,
            deposed: CancellationToken::new(),
        }
    }
}

impl Term {
    /// There may be other coordinators: what was started for this one is there for the next.
    pub fn is_shared(&self) -> bool {
        self.epoch > 0
    }

    /// It leads.
    pub fn is_valid(&self) -> bool {
        (self.is_valid)() && !self.deposed.is_cancelled()
    }
}

/// What queries fail with whose coordinator leads no longer: another one can run them.
pub(crate) fn leads_no_longer() -> WireError {
    let message = "this coordinator leads no longer, and the query ended with that: run it again";
    WireError::new(ErrorKind::Unavailable, message)
}

//! [`Stopper`]: whether a statement may still be ended.
//!
//! ```text
//!   running --stop--> stopped       it has no effect: whatever it did is taken back
//!      |
//!      +----commit--> committing    it cannot be stopped any more: what it answers is what came of it
//! ```

use std::sync::Arc;

use onward_wire::error::WireError;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Ends one statement from outside: cancel, timeout, shutdown. Clones end the same statement; the first reason wins.
#[derive(Clone, Debug, Default)]
pub struct Stopper {
    token: CancellationToken,
    phase: Arc<Mutex<Phase>>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Running,
    Stopped(WireError),
    Committing,
}

impl Stopper {
    /// Ends the statement with `reason`. False: it is committing, or has committed, and cannot be ended.
    pub fn stop(&self, reason: WireError) -> bool {
        let mut phase = self.phase.lock();
        match *phase {
            Phase::Running => *phase = Phase::Stopped(reason),
            Phase::Stopped(_) => {}
            Phase::Committing => return false,
        }
        drop(phase);
        self.token.cancel();
        true
    }

    /// From now on the statement cannot be stopped.
    ///
    /// # Errors
    /// Why it was stopped before: it must have no effect.
    pub fn commit(&self) -> Result<(), WireError> {
        let mut phase = self.phase.lock();
        if let Phase::Stopped(reason) = &*phase {
            return Err(reason.clone());
        }
        *phase = Phase::Committing;
        Ok(())
    }

    /// Resolves when it was stopped; never when it commits.
    pub fn stopped(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// Why it was stopped.
    pub fn reason(&self) -> Option<WireError> {
        match &*self.phase.lock() {
            Phase::Stopped(reason) => Some(reason.clone()),
            Phase::Running | Phase::Committing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use onward_wire::ErrorKind;

    use super::*;

    fn reason(text: &str) -> WireError {
        WireError::new(ErrorKind::Cancelled, text)
    }

    #[test]
    fn a_statement_is_stopped_or_commits_and_never_both() {
        let stopped = Stopper::default();
        assert!(stopped.stop(reason("first")) && stopped.stop(reason("second")));
        assert_eq!(stopped.commit(), Err(reason("first")));

        let committing = Stopper::default();
        committing.commit().unwrap();
        assert!(!committing.stop(reason("late")));
        assert_eq!((committing.reason(), committing.token.is_cancelled()), (None, false));
    }
}

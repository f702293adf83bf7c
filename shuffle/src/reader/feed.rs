//! [`InputFeed`]: what a task knows of the output that it reads.

use std::sync::Arc;

use onward_wire::exchange::StageInputs;
use tokio::sync::watch;

/// The output of one producer stage, as far as it is known: all of it, or the first attempts and then those that follow, in task
/// order, until it is [closed](StageInputs::is_open).
#[derive(Debug)]
pub struct InputFeed {
    stage: u32,
    known: watch::Sender<Known>,
}

#[derive(Debug)]
struct Known {
    parts: Vec<Arc<StageInputs>>,
    is_open: bool,
}

impl InputFeed {
    /// What is known at the start.
    pub fn new(inputs: StageInputs) -> Arc<Self> {
        let (stage, is_open) = (inputs.stage, inputs.is_open);
        let known = Known { parts: vec![Arc::new(inputs)], is_open };
        Arc::new(Self { stage, known: watch::Sender::new(known) })
    }

    /// The producer stage.
    pub fn stage(&self) -> u32 {
        self.stage
    }

    /// What follows on what was known. Nothing follows on all.
    pub fn add(&self, more: StageInputs) {
        self.known.send_if_modified(|known| {
            let was_open = known.is_open;
            if was_open {
                known.is_open = more.is_open;
                known.parts.push(Arc::new(more));
            }
            was_open
        });
    }

    /// Attempts that are known.
    pub(super) fn attempts(&self) -> usize {
        self.known.borrow().parts.iter().map(|part| part.attempts.len()).sum()
    }

    /// The part at position `at`, waiting for it if need be; `None` behind the last one.
    pub(super) async fn part(&self, at: usize) -> Option<Arc<StageInputs>> {
        let mut watcher = self.known.subscribe();
        let known = watcher.wait_for(|known| known.parts.len() > at || !known.is_open).await.ok()?;
        known.parts.get(at).cloned()
    }
}

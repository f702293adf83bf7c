//! [`Listing`]: a statement for as long as anybody works for it, and its end, exactly once.

use std::sync::Arc;

use onward_wire::QueryId;
use parking_lot::Mutex;

use super::stopper::Stopper;
use crate::system::{History, QueryState};

/// What to do when a statement ended: forget its stopper, cancel its attempts, release its segments.
pub type Cleanup = Box<dyn FnOnce() + Send>;

/// A statement that is listed as running. Whoever works for it holds it: planning, the stream of its rows, a commit. Its
/// first end is the one that is recorded; when the last holder is gone without one, its client went away, and it ends.
pub struct Listing {
    query: QueryId,
    stopper: Stopper,
    history: Arc<History>,
    cleanup: Mutex<Option<Cleanup>>,
}

impl Listing {
    /// Lists `query`, which `history` knows, until its end, when `cleanup` is run.
    pub fn new(query: QueryId, stopper: Stopper, history: Arc<History>, cleanup: Cleanup) -> Arc<Self> {
        Arc::new(Self { query, stopper, history, cleanup: Mutex::new(Some(cleanup)) })
    }

    /// Its id.
    pub fn query(&self) -> QueryId {
        self.query
    }

    /// Ends it from outside.
    pub fn stopper(&self) -> &Stopper {
        &self.stopper
    }

    /// It gave more rows.
    pub fn add_rows(&self, rows: usize) {
        self.history.update(self.query, |record| record.rows += rows as u64);
    }

    /// Records how it ends; its clean-up is still to come.
    pub fn record(&self, state: QueryState) {
        self.history.end(self.query, state);
    }

    /// Ends it.
    pub fn end(&self, state: QueryState) {
        let cleanup = self.cleanup.lock().take();
        if let Some(cleanup) = cleanup {
            self.record(state);
            cleanup();
        }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.end(QueryState::Cancelled("its client went away before it ended".to_owned()));
    }
}

//! Whose work a task is: everything that runs for an attempt keeps it alive, so that its end is the end of the last thread
//! that works for it, and not only of those that this crate started.
//!
//! ```text
//!   attempt --of--> partition tasks --spawn (DataFusion)--> repartitioning, sorting, writing of files ...
//!      ^                 |                                        |
//!      +-----------------+----------------------------------------+   each holds the attempt until it is dropped
//! ```

use std::any::Any;
use std::future::Future;
use std::sync::Arc;

use datafusion::common::runtime::{JoinSetTracer, set_join_set_tracer};
use futures::future::BoxFuture;

use super::attempt::Attempt;

tokio::task_local! {
    static ATTEMPT: Arc<Attempt>;
}

/// Runs `work` for `attempt`, with everything that DataFusion spawns for it.
pub(super) fn of<T>(attempt: Arc<Attempt>, work: impl Future<Output = T>) -> impl Future<Output = T> {
    ATTEMPT.scope(attempt, work)
}

/// From now on a task that DataFusion spawns works for the attempt of the task that spawned it.
pub(super) fn follow_spawned_tasks() {
    // An error means that this was done before: tests run several functions in one process.
    let _ = set_join_set_tracer(&Follow);
}

struct Follow;

impl JoinSetTracer for Follow {
    fn trace_future(&self, future: BoxFuture<'static, Box<dyn Any + Send>>) -> BoxFuture<'static, Box<dyn Any + Send>> {
        match ATTEMPT.try_with(Arc::clone) {
            Ok(attempt) => Box::pin(ATTEMPT.scope(attempt, future)),
            Err(_) => future,
        }
    }

    fn trace_block(
        &self,
        work: Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>,
    ) -> Box<dyn FnOnce() -> Box<dyn Any + Send> + Send> {
        match ATTEMPT.try_with(Arc::clone) {
            Ok(attempt) => Box::new(move || ATTEMPT.sync_scope(attempt, work)),
            Err(_) => work,
        }
    }
}

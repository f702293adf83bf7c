//! The end of a query, exactly once: whatever ends it first (its last row, an error, a cancel, a timeout, a client that
//! drops the stream) is recorded, and the rest of the query is cleaned up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use futures::{FutureExt, Stream, StreamExt};
use onward_wire::error::WireError;
use onward_wire::{ErrorKind, QueryId, panics};
use parking_lot::Mutex;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::api::{QueryError, ResultStream};
use crate::system::{History, QueryState};

/// Ends one query from outside: cancel, timeout, shutdown. Clones end the same query; the first reason wins.
#[derive(Clone, Debug, Default)]
pub struct Stopper {
    token: CancellationToken,
    reason: Arc<Mutex<Option<WireError>>>,
}

impl Stopper {
    /// Ends the query with `reason`; nothing when it is being ended already.
    pub fn stop(&self, reason: WireError) {
        self.reason.lock().get_or_insert(reason);
        self.token.cancel();
    }

    /// Resolves when `stop` was called.
    pub fn stopped(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// Why the query was ended.
    pub fn reason(&self) -> WireError {
        let reason = self.reason.lock().clone();
        reason.unwrap_or_else(|| WireError::new(ErrorKind::Cancelled, "the query was cancelled"))
    }
}

/// What to do when a query ended: forget its stopper, release its segments.
pub type Cleanup = Box<dyn FnOnce() + Send>;

struct GuardedStream {
    rows: ResultStream,
    query: QueryId,
    stopper: Stopper,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    deadline: Option<Pin<Box<Sleep>>>,
    history: Arc<History>,
    cleanup: Option<Cleanup>,
}

/// The rows of `query`: they end at the first error or after `timeout_ms`; the end is recorded and the clean-up runs exactly once, at the latest
/// when the stream is dropped.
pub fn guard(
    rows: ResultStream,
    query: QueryId,
    stopper: Stopper,
    timeout_ms: Option<u64>,
    history: Arc<History>,
    cleanup: Cleanup,
) -> ResultStream {
    let stopped = Box::pin(stopper.stopped());
    let deadline = timeout_ms.map(|timeout_ms| Box::pin(tokio::time::sleep(Duration::from_millis(timeout_ms))));
    Box::pin(GuardedStream { rows, query, stopper, stopped, deadline, history, cleanup: Some(cleanup) })
}

impl GuardedStream {
    fn end(&mut self, state: QueryState) {
        if let Some(cleanup) = self.cleanup.take() {
            self.history.end(self.query, state);
            // What the plan still holds (files, spills, mapped segments) goes before the query counts as cleaned up.
            self.rows = Box::pin(futures::stream::empty());
            cleanup();
        }
    }

    fn fail(&mut self, error: WireError) -> QueryError {
        self.end(QueryState::Failed(error.message.clone()));
        QueryError { error, query: Some(self.query) }
    }
}

impl Stream for GuardedStream {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.cleanup.is_none() {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.poll_unpin(cx).is_ready()) {
            self.stopper.stop(WireError::new(
                ErrorKind::Cancelled,
                "the statement took longer than its timeout (onward.statement_timeout_ms)",
            ));
        }
        if self.stopped.poll_unpin(cx).is_ready() {
            let reason = self.stopper.reason();
            return Poll::Ready(Some(Err(self.fail(reason))));
        }
        let next = panics::catch(|| self.rows.poll_next_unpin(cx));
        let next = next.unwrap_or_else(|error| Poll::Ready(Some(Err(QueryError { error, query: Some(self.query) }))));
        match futures::ready!(next) {
            Some(Ok(batch)) => {
                self.history.update(self.query, |record| record.rows += batch.num_rows() as u64);
                Poll::Ready(Some(Ok(batch)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(self.fail(error.error)))),
            None => {
                self.end(QueryState::Done);
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for GuardedStream {
    fn drop(&mut self) {
        self.end(QueryState::Failed("the client dropped the result before its end".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::system::QueryRecord;

    fn guarded(rows: ResultStream) -> (ResultStream, Stopper, Arc<AtomicUsize>) {
        let (stopper, history, cleaned) =
            (Stopper::default(), Arc::new(History::default()), Arc::<AtomicUsize>::default());
        history.begin(QueryRecord::new(QueryId(1), "select 1"));
        let count = Arc::clone(&cleaned);
        let cleanup = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (guard(rows, QueryId(1), stopper.clone(), None, history, cleanup), stopper, cleaned)
    }

    #[tokio::test]
    async fn a_stopped_query_ends_with_the_first_reason_and_is_cleaned_up_once() {
        let (mut rows, stopper, cleaned) = guarded(Box::pin(futures::stream::pending()));
        stopper.stop(WireError::new(ErrorKind::Cancelled, "first"));
        stopper.stop(WireError::new(ErrorKind::Cancelled, "second"));
        let error = rows.next().await.expect("an item").expect_err("an error");
        assert_eq!(error.error.message, "first");
        assert!(rows.next().await.is_none());
        drop(rows);
        assert_eq!(cleaned.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_panic_of_an_operator_is_the_querys_error() {
        let (mut rows, _, cleaned) = guarded(Box::pin(futures::stream::poll_fn(|_| panic!("an operator broke"))));
        let error = rows.next().await.expect("an item").expect_err("an error");
        assert!(error.error.message.contains("an operator broke"));
        assert!(rows.next().await.is_none());
        assert_eq!(cleaned.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_dropped_stream_is_cleaned_up() {
        let (rows, _, cleaned) = guarded(Box::pin(futures::stream::pending()));
        drop(rows);
        assert_eq!(cleaned.load(Ordering::Relaxed), 1);
    }
}

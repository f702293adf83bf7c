//! The rows of a statement: they end with its last row, an error, a cancel, a timeout, or a client that drops them,
//! whatever comes first, and the rest of the statement is cleaned up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use datafusion::arrow::array::RecordBatch;
use futures::{FutureExt, Stream, StreamExt};
use onward_wire::error::WireError;
use onward_wire::{ErrorKind, panics};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::listing::Listing;
use crate::api::{QueryError, ResultStream};
use crate::scheduler::TIMED_OUT;
use crate::system::QueryState;

struct GuardedStream {
    /// Before the listing: what the plan still holds (files, spills, mapped segments) goes before the statement counts
    /// as over.
    rows: ResultStream,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// `None` after the end. A commit holds it too: dropped while that runs, the statement ends with the commit.
    listing: Option<Arc<Listing>>,
}

/// The rows of a listed statement. They end at the first error or at `deadline`, unless the statement is committing then.
pub fn guard(rows: ResultStream, listing: Arc<Listing>, deadline: Option<Instant>) -> ResultStream {
    let stopped = Box::pin(listing.stopper().stopped());
    let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
    Box::pin(GuardedStream { rows, stopped, deadline, listing: Some(listing) })
}

/// What a statement ends with at its deadline.
pub fn timed_out() -> WireError {
    WireError::new(ErrorKind::Cancelled, TIMED_OUT)
}

impl GuardedStream {
    fn end(&mut self, state: QueryState) {
        if let Some(listing) = self.listing.take() {
            listing.record(state.clone());
            self.rows = Box::pin(futures::stream::empty());
            listing.end(state);
        }
    }

    fn fail(&mut self, error: WireError) -> QueryError {
        let query = self.listing.as_ref().map(|listing| listing.query());
        self.end(QueryState::of(&error));
        QueryError { error, query }
    }
}

impl Stream for GuardedStream {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(listing) = self.listing.clone() else { return Poll::Ready(None) };
        if self.deadline.as_mut().is_some_and(|deadline| deadline.poll_unpin(cx).is_ready()) {
            self.deadline = None;
            // Refused while it commits: then the commit's result is the answer.
            listing.stopper().stop(timed_out());
        }
        if self.stopped.poll_unpin(cx).is_ready()
            && let Some(reason) = listing.stopper().reason()
        {
            return Poll::Ready(Some(Err(self.fail(reason))));
        }
        let next = panics::catch(|| self.rows.poll_next_unpin(cx));
        let next = next.unwrap_or_else(|error| Poll::Ready(Some(Err(QueryError { error, query: None }))));
        match futures::ready!(next) {
            Some(Ok(batch)) => {
                listing.add_rows(batch.num_rows());
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use onward_wire::QueryId;

    use super::*;
    use crate::engine::Stopper;
    use crate::system::{History, QueryRecord};

    /// A listing, and how often it was cleaned up.
    fn listed() -> (Arc<Listing>, Arc<AtomicUsize>) {
        let (history, cleaned) = (Arc::new(History::default()), Arc::<AtomicUsize>::default());
        history.begin(QueryRecord::new(QueryId(1), "select 1"));
        let count = Arc::clone(&cleaned);
        let cleanup = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (Listing::new(QueryId(1), Stopper::default(), history, cleanup), cleaned)
    }

    fn guarded(rows: ResultStream) -> (ResultStream, Stopper, Arc<AtomicUsize>) {
        let (listing, cleaned) = listed();
        let stopper = listing.stopper().clone();
        (guard(rows, listing, None), stopper, cleaned)
    }

    #[tokio::test]
    async fn a_stopped_query_ends_with_the_first_reason_and_is_cleaned_up_once() {
        let (mut rows, stopper, cleaned) = guarded(Box::pin(futures::stream::pending()));
        stopper.stop(WireError::new(ErrorKind::Cancelled, "first"));
        stopper.stop(WireError::new(ErrorKind::Cancelled, "second"));
        let error = rows.next().await.expect("an item").expect_err("an error");
        assert_eq!((error.error.message.as_str(), error.query), ("first", Some(QueryId(1))));
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

    /// A statement is over at its deadline, however it waits; one that commits is over when it has committed.
    #[tokio::test]
    async fn a_deadline_ends_a_statement_that_does_not_commit() {
        let late = Some(Instant::now());
        let (listing, _) = listed();
        let mut rows = guard(Box::pin(futures::stream::pending()), listing, late);
        assert_eq!(rows.next().await.expect("an item").expect_err("an error").error, timed_out());

        let (listing, cleaned) = listed();
        listing.stopper().commit().unwrap();
        let mut rows = guard(Box::pin(futures::stream::empty()), listing, late);
        assert!(rows.next().await.is_none());
        assert_eq!(cleaned.load(Ordering::Relaxed), 1);
    }

    /// Whoever still works for a statement, a commit, ends it: not the client that dropped its rows meanwhile.
    #[test]
    fn a_stream_that_is_dropped_during_a_commit_leaves_the_end_to_it() {
        let (listing, cleaned) = listed();
        let committing = Arc::clone(&listing);
        committing.stopper().commit().unwrap();
        drop(guard(Box::pin(futures::stream::pending()), listing, None));
        assert_eq!(cleaned.load(Ordering::Relaxed), 0);
        committing.end(QueryState::Done);
        drop(committing);
        assert_eq!(cleaned.load(Ordering::Relaxed), 1);
    }
}

//! Writes that are told to end before, while and after they commit: the answer is what came of them.

use futures::TryStreamExt;
use onward_wire::ErrorKind;
use tokio::task::JoinHandle;

use super::{Fixture, Gate, assert_over, count};
use crate::{Execution, QueryError};
use datafusion::arrow::array::RecordBatch;

const COPY: &str = "copy (values (1), (2)) to 's3://bucket/x.parquet'";

fn read(execution: Execution) -> JoinHandle<Result<Vec<RecordBatch>, QueryError>> {
    tokio::spawn(execution.stream.try_collect())
}

/// A cancel during the commit is refused, and the statement answers with what it wrote.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_commits_is_not_cancelled() {
    let f = Fixture::with(Gate::Completions).await;
    let execution = f.session.execute(COPY).await.unwrap();
    let (query, answer) = (execution.query, read(execution));
    f.store.arrival().await;
    assert!(!f.coordinator.cancel(query), "its rows will be visible");
    f.store.open();
    assert_eq!(count(&answer.await.unwrap().unwrap()), 2);
    assert_eq!(f.store.objects().await, ["x.parquet"]);
    assert_eq!(f.end("copy").await, ("done".to_owned(), None));
    assert_over(&f.coordinator, query);
}

/// A cancel that was accepted means that nothing will be visible, and that nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_cancelled_has_no_effect() {
    let f = Fixture::with(Gate::Parts).await;
    let execution = f.session.execute(COPY).await.unwrap();
    let (query, answer) = (execution.query, read(execution));
    f.store.arrival().await;
    assert!(f.coordinator.cancel(query));
    f.store.open();
    assert_eq!(answer.await.unwrap().unwrap_err().error.kind(), ErrorKind::Cancelled);
    f.coordinator.resources.stores().uploads().settled().await;
    assert_eq!(f.store.objects().await, [] as [&str; 0]);
    assert_eq!(f.end("copy").await.0, "cancelled");
}

/// A client that goes away during the commit cannot stop it half-way: it is listed until it is done, and as done.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_goes_on_without_its_client() {
    let f = Fixture::with(Gate::Completions).await;
    let answer = read(f.session.execute(COPY).await.unwrap());
    f.store.arrival().await;
    answer.abort();
    assert!(answer.await.unwrap_err().is_cancelled());
    assert_eq!(f.listed("copy").await, [("running".to_owned(), None)]);
    f.store.open();
    assert_eq!(f.end("copy").await, ("done".to_owned(), None));
    assert_eq!(f.store.objects().await, ["x.parquet"]);
}

/// A shutdown that ends all statements waits for those that commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_a_commit() {
    let f = Fixture::with(Gate::Completions).await;
    let answer = read(f.session.execute(COPY).await.unwrap());
    f.store.arrival().await;
    let mut ending = Box::pin(f.coordinator.shutdown(std::time::Duration::ZERO));
    assert!(futures::poll!(&mut ending).is_pending());
    f.store.open();
    ending.await;
    assert_eq!(f.store.objects().await, ["x.parquet"]);
    assert_eq!(count(&answer.await.unwrap().unwrap()), 2);
}

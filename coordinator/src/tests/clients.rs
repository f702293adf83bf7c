//! Clients that go away.

use futures::StreamExt;
use onward_wire::ErrorKind;

use super::{Fixture, Gate, assert_over};

/// Planning reads footers: a client that goes away meanwhile, by dropping the future, ends its statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_during_planning_ends_its_statement() {
    let f = Fixture::with(Gate::Reads).await;
    let session = f.session.clone();
    let planning =
        tokio::spawn(async move { session.execute("select * from 's3://bucket/x.parquet'").await.map(drop) });
    f.store.arrival().await;
    assert_eq!(f.listed("x.parquet").await, [("running".to_owned(), None)]);
    planning.abort();
    assert!(planning.await.unwrap_err().is_cancelled());
    let (state, error) = f.end("x.parquet").await;
    assert_eq!(state, "cancelled");
    assert!(error.as_ref().is_some_and(|error| error.contains("went away")), "{error:?}");
    // A drain has nothing to wait for.
    tokio::time::timeout(super::PATIENCE, f.coordinator.shutdown(10 * super::PATIENCE)).await.expect("a drain");
}

/// Planning has the deadline of its statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_planning() {
    let f = Fixture::with(Gate::Reads).await;
    let deadline = Some(std::time::Instant::now());
    let error = f.session.execute_until("select * from 's3://bucket/x.parquet'", deadline).await.err().unwrap();
    assert_eq!(error.error.kind(), ErrorKind::Cancelled);
    assert_over(&f.coordinator, error.query.unwrap());
}

/// EXPLAIN ANALYZE runs like the query it explains: its id is known at once, and dropping its stream ends it.
#[tokio::test(flavor = "multi_thread")]
async fn an_explained_query_is_cancelled_like_any_other() {
    let f = Fixture::with(Gate::Reads).await;
    let endless = "explain analyze select sum(value) from generate_series(1, 9000000000000000)";
    let explained = f.session.execute(endless).await.unwrap();
    let query = explained.query;
    assert!(f.coordinator.cancel(query));
    let mut stream = explained.stream;
    assert_eq!(stream.next().await.unwrap().unwrap_err().error.kind(), ErrorKind::Cancelled);

    let explained = f.session.execute(endless).await.unwrap();
    let (query, mut stream) = (explained.query, explained.stream);
    let working = tokio::spawn(async move { stream.next().await.is_some() });
    working.abort();
    assert!(working.await.unwrap_err().is_cancelled());
    assert_over(&f.coordinator, query);
    assert_eq!(f.listed("explain").await.iter().filter(|(state, _)| state == "running").count(), 0);

    let text = f.rows("explain analyze select 1").await;
    assert_eq!(text[0].num_rows(), 1);
}

/// A definition has had its effect when its rows come: whoever drops them does not make it a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_done_whether_or_not_its_answer_is_read() {
    let f = Fixture::with(Gate::Reads).await;
    let created = f.session.execute("create view v as select 1").await.unwrap();
    assert!(!f.coordinator.cancel(created.query), "it cannot be cancelled any more");
    drop(created);
    assert_eq!(f.listed("create view").await, [("done".to_owned(), None)]);
}

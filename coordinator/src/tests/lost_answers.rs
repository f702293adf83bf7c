//! Stores that complete an upload and do not say so, and stores that say so truly.

use std::sync::atomic::Ordering;

use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutPayload};

use super::{Completion, Fixture, Gate, count};
use crate::QueryError;

/// Two objects, completed in this order.
const TWO: &str =
    "copy (select * from (values (1, 'a'), (2, 'b')) t(v, k)) to 's3://bucket/out/' stored as csv partitioned by (k)";
const ONE: &str = "copy (select 1 as v) to 's3://bucket/x.csv'";

async fn copy(f: &Fixture, sql: &str, completions: &[Completion]) -> Result<u64, QueryError> {
    f.store.completions.lock().extend(completions);
    let rows = f.session.execute(sql).await?.stream.try_collect::<Vec<_>>().await.map(|rows| count(&rows));
    f.coordinator.resources.stores().uploads().settled().await;
    rows
}

async fn text(f: &Fixture, path: &str) -> String {
    let bytes = f.store.memory.get(&path.into()).await.unwrap().bytes().await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An object that is there was written, whatever its store said: the statement succeeds, and is not to be repeated.
#[tokio::test]
async fn an_object_whose_completion_lost_its_answer_is_part_of_the_write() {
    let f = Fixture::with(Gate::Nothing).await;
    let written = copy(&f, TWO, &[Completion::Happens, Completion::LosesItsAnswer]).await.unwrap();
    assert_eq!((written, f.store.objects().await.len()), (2, 2));
    assert_eq!(copy(&f, ONE, &[Completion::LosesItsAnswer]).await.unwrap(), 1);
    assert_eq!(text(&f, "x.csv").await, "v\n1\n");
}

/// A completion that failed takes the objects before it with it.
#[tokio::test]
async fn a_completion_that_failed_leaves_no_object() {
    let f = Fixture::with(Gate::Nothing).await;
    let error = copy(&f, TWO, &[Completion::Happens, Completion::Fails]).await.unwrap_err();
    assert!(error.error.message.contains("the connection was lost"), "{error}");
    assert_eq!(f.store.objects().await, [] as [&str; 0]);
    copy(&f, ONE, &[Completion::Fails]).await.unwrap_err();
    assert_eq!(f.store.objects().await, [] as [&str; 0]);
}

/// An object that was there before is not taken for the new one, which has its size.
#[tokio::test]
async fn an_old_object_of_the_same_name_stays_when_the_new_one_fails() {
    let f = Fixture::with(Gate::Nothing).await;
    f.store.memory.put(&"x.csv".into(), PutPayload::from_static(b"w\n2\n")).await.unwrap();
    copy(&f, ONE, &[Completion::Fails]).await.unwrap_err();
    assert_eq!(text(&f, "x.csv").await, "w\n2\n");
    copy(&f, ONE, &[Completion::LosesItsAnswer]).await.unwrap();
    assert_eq!(text(&f, "x.csv").await, "v\n1\n");
}

/// Where the store does not even tell what it has, objects that can only be ours are deleted, and an object that may be
/// somebody else's is named.
#[tokio::test]
async fn what_nobody_can_know_is_deleted_or_told() {
    let f = Fixture::with(Gate::Nothing).await;
    f.store.is_blind.store(true, Ordering::Relaxed);
    copy(&f, TWO, &[Completion::Happens, Completion::LosesItsAnswer]).await.unwrap_err();
    assert_eq!(f.store.objects().await, [] as [&str; 0]);
    let error = copy(&f, ONE, &[Completion::LosesItsAnswer]).await.unwrap_err();
    assert!(error.error.message.contains("whether it has `x.csv`"), "{error}");
}

//! Object stores: an in-memory one in place of S3.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use onward_cache::StoreHandle;
use url::Url;

use super::Fixture;
use crate::session::Work;

pub(super) fn with_bucket() -> (Fixture, Arc<InMemory>) {
    let f = Fixture::new();
    let memory = Arc::new(InMemory::new());
    let handle = StoreHandle { store: memory.clone(), multipart: Some(memory.clone()), is_local: false };
    f.session.shared().stores().register_handle(&Url::parse("s3://bucket").unwrap(), handle);
    (f, memory)
}

async fn objects(memory: &InMemory) -> Vec<String> {
    memory.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap()
}

#[tokio::test]
async fn uploads_are_visible_after_the_commit_and_read_back() {
    let (f, memory) = with_bucket();
    let statement = f.session.plan("copy (values (1), (2)) to 's3://bucket/dir/x.parquet'").await.unwrap();
    let Work::Write(mut write) = f.session.work(statement, None).await.unwrap() else { panic!("COPY is a write") };
    write.begin(onward_wire::QueryId(1)).unwrap();
    for batch in super::collect_plan(&f.session, write.plan()).await.unwrap() {
        write.add(&batch).unwrap();
    }
    assert_eq!(objects(&memory).await, [] as [&str; 0], "nothing is visible before the commit");
    assert_eq!(write.commit().await.unwrap(), 2);
    assert_eq!(objects(&memory).await, ["dir/x.parquet"]);
    assert_eq!(f.rows("select sum(column1) from 's3://bucket/dir/x.parquet'").await, ["3"]);
    assert_eq!(f.rows("select sum(column1) from 's3://bucket/d*/*.parquet'").await, ["3"]);
    memory.delete(&"dir/x.parquet".into()).await.unwrap();
    assert!(f.error("select * from 's3://bucket/dir/x.parquet'").await.message.contains("s3://bucket/dir/x.parquet"));
}

/// A function that has not heard of the end of its query begins one more upload: it is taken back with the others.
#[tokio::test]
async fn an_upload_that_begins_after_the_end_of_its_write_is_taken_back() {
    let (f, memory) = with_bucket();
    let statement = f.session.plan("copy (values (1)) to 's3://bucket/x.parquet'").await.unwrap();
    let Work::Write(mut write) = f.session.work(statement, None).await.unwrap() else { panic!("COPY is a write") };
    write.begin(onward_wire::QueryId(1)).unwrap();
    let worker = write.worker();
    drop(write);
    let (path, uploads) = (Path::from("x.parquet"), f.session.shared().stores().uploads());
    let upload = memory.create_multipart(&path).await.unwrap();
    uploads.note(onward_wire::QueryId(1), path.clone(), upload.clone());
    drop(worker);
    uploads.settled().await;
    memory.put_part(&path, &upload, 0, PutPayload::new()).await.expect_err("it was aborted");
}

#[tokio::test]
async fn external_tables_in_a_bucket_take_inserts_and_hide_credentials() {
    let (f, memory) = with_bucket();
    f.run("copy (select 1 as a, 'x' as k) to 's3://bucket/t/' stored as parquet partitioned by (k)").await.unwrap();
    f.run("create external table t stored as parquet location 's3://bucket/t/'").await.unwrap();
    assert_eq!(f.rows("insert into t values (2, 'y')").await, ["1"]);
    assert_eq!(f.rows("select a, k from t order by a").await, ["1|x", "2|y"]);
    assert!(objects(&memory).await.iter().all(|name| name.contains("/k=")), "{:?}", objects(&memory).await);
    let options = "'aws.secret_access_key' 'hush', 'aws.access_key_id' 'id', 'aws.endpoint' 'http://127.0.0.1:1'";
    f.run(&format!("create external table u (a int) stored as csv location 's3://other/u.csv' options ({options})"))
        .await
        .unwrap();
    let shown = f.rows("show create table u").await.join("");
    assert!(shown.contains("aws.secret_access_key") && !shown.contains("hush"), "{shown}");
    assert!(!format!("{:?}", f.session.shared()).contains("hush"));
    let f = f.restart();
    let spec = f.session.shared().stores().spec(&Url::parse("s3://other").unwrap()).unwrap();
    assert!(spec.options.is_empty(), "the store is set up when the table is used");
    f.run("describe u").await.unwrap();
    let spec = f.session.shared().stores().spec(&Url::parse("s3://other").unwrap()).unwrap();
    assert_eq!(spec.options.len(), 3, "a restart keeps the options");
}

#[tokio::test]
async fn requests_are_counted_by_purpose() {
    let (f, _) = with_bucket();
    let before = f.session.store_requests();
    f.run("copy (values (1), (2)) to 's3://bucket/x.parquet'").await.unwrap();
    f.rows("select sum(column1) from 's3://bucket/x.parquet'").await;
    let after = f.session.store_requests();
    assert!(
        after.table > before.table && after.write > before.write && after.table_bytes > before.table_bytes,
        "{after:?}"
    );
    assert_eq!(after.intermediate, 0, "nothing but tables and what the user asked for");
}

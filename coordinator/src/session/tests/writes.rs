//! COPY and INSERT into files: what appears, when, and what never does.

use onward_wire::ErrorKind;

use super::{Fixture, kind, tree};
use crate::session::Work;
use crate::write::Write;

/// The write of a statement, begun.
async fn begin(f: &Fixture, sql: &str) -> Write {
    let statement = f.session.plan(sql).await.unwrap();
    let Work::Write(mut write) = f.session.work(statement, None).await.unwrap() else { panic!("{sql} is a write") };
    write.begin(onward_wire::QueryId(1)).unwrap();
    *write
}

/// Staging directories that the journal remembers.
fn remembered(f: &Fixture) -> usize {
    tree(&f.root.path().join("data/writes")).len()
}

#[tokio::test]
async fn a_single_file_keeps_the_order_and_replaces_the_old_one() {
    let f = Fixture::new();
    f.run("copy (select * from generate_series(1, 5000) as t(v) order by v desc) to 'x.csv'").await.unwrap();
    let text = std::fs::read_to_string(f.path("x.csv")).unwrap();
    let values: Vec<i64> = text.lines().skip(1).map(|line| line.parse().unwrap()).collect();
    assert!(values.len() == 5000 && values.is_sorted_by(|a, b| a >= b));
    f.run("copy (select 1 as w) to 'x.csv' options (has_header false)").await.unwrap();
    assert_eq!(std::fs::read_to_string(f.path("x.csv")).unwrap(), "1\n");
    assert_eq!(f.tree(), ["x.csv"]);
}

#[tokio::test]
async fn a_directory_gets_files_that_read_back_and_is_not_added_to() {
    let f = Fixture::new();
    assert_eq!(
        f.rows("copy (select * from generate_series(1, 100) as t(v)) to 'out/' stored as parquet").await,
        ["100"]
    );
    assert_eq!(f.rows("select count(*), sum(v) from 'out/'").await, ["100|5050"]);
    let error = f.error("copy (select 1 as v) to 'out/' stored as parquet").await;
    assert!(error.message.contains("not empty"), "{error}");
    assert_eq!(f.rows("copy (select 1 as v where false) to 'none/' stored as parquet").await, ["0"]);
    assert_eq!(f.rows("select v from 'none/'").await, [] as [&str; 0], "columns of an empty result are kept");
}

#[tokio::test]
async fn partitions_become_directories() {
    let f = Fixture::new();
    let sql = "copy (select column1 as a, column2 as k, column3 as l from (values (1, 'x', 1), (2, 'y', 1), (3, 'x', 2))) to 'out' stored as csv partitioned by (k, l)";
    assert_eq!(f.rows(sql).await, ["3"]);
    let directories: Vec<_> = f.tree().into_iter().filter(|name| name.ends_with('/')).collect();
    assert_eq!(directories, ["out/", "out/k=x/", "out/k=x/l=1/", "out/k=x/l=2/", "out/k=y/", "out/k=y/l=1/"]);
    assert_eq!(f.rows("select a, k, l from 'out/' order by a").await, ["1|x|1", "2|y|1", "3|x|2"]);
}

/// DataFusion's writer files a NULL under whatever value lies under it.
#[tokio::test]
async fn a_null_by_which_rows_are_partitioned_is_refused() {
    let f = Fixture::new();
    for value in ["column1", "arrow_cast(column1, 'Utf8')"] {
        let sql = format!(
            "copy (select {value} as k, 1 as a from (values (3), (NULL))) to 'out' stored as csv partitioned by (k)"
        );
        let error = f.error(&sql).await;
        assert!(error.message.contains("NULL in `k`") && error.message.contains("coalesce"), "{error}");
    }
    assert_eq!(f.tree(), [] as [&str; 0]);
}

/// A table without rows is created while its statement is planned: EXPLAIN of it must not get there.
#[tokio::test]
async fn explain_of_a_definition_has_no_effect() {
    let f = Fixture::new();
    for explain in ["explain", "explain analyze"] {
        let error = f.error(&format!("{explain} create table t (a int)")).await;
        assert!(kind(&error) == ErrorKind::InvalidQuery && error.message.contains("without a plan"), "{error}");
    }
    assert_eq!(kind(&f.error("select * from t").await), ErrorKind::NotFound);
}

#[tokio::test]
async fn nothing_is_left_of_a_write_that_failed_or_was_dropped() {
    let f = Fixture::new();
    f.write("x.csv", "old\n");
    let before = f.tree();
    f.error("copy (select 1 / (column1 - 1) as a from (values (2), (1))) to 'x.csv'").await;
    f.error("copy (select 1 / (column1 - 1) as a from (values (2), (1))) to 'new/dir/x.csv'").await;
    f.error("copy (select 1 / (column1 - 1) as a, column1 as k from (values (2), (1))) to 'new/' stored as csv partitioned by (k)").await;
    assert_eq!(f.tree(), before);
    let statement = f.session.plan("copy (values (1)) to 'new/x.csv'").await.unwrap();
    let Work::Write(mut write) = f.session.work(statement, None).await.unwrap() else { panic!("COPY is a write") };
    write.begin(onward_wire::QueryId(1)).unwrap();
    for batch in super::collect_plan(&f.session, write.plan()).await.unwrap() {
        write.add(&batch).unwrap();
    }
    assert!(f.tree().iter().any(|name| name.contains(".onward-")), "files are staged next to their target");
    assert_eq!(f.rows("select count(*) from 'x.csv'").await, ["0"]);
    drop(write);
    assert_eq!(f.tree(), before);
    assert_eq!(std::fs::read_to_string(f.path("x.csv")).unwrap(), "old\n");
}

#[tokio::test]
async fn a_late_attempt_cannot_bring_a_dead_write_back() {
    let f = Fixture::new();
    let statement = f.session.plan("copy (values (1)) to 'x.csv'").await.unwrap();
    let Work::Write(mut write) = f.session.work(statement, None).await.unwrap() else { panic!("COPY is a write") };
    write.begin(onward_wire::QueryId(1)).unwrap();
    let plan = write.plan().clone();
    drop(write);
    let error = super::collect_plan(&f.session, &plan).await.unwrap_err();
    assert_eq!(onward_planner::error::classify(&error).kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!(f.tree(), [] as [&str; 0]);
}

/// Functions may still write when their query is over: the directory they write to goes when the last of them is done,
/// and the journal remembers it until then.
#[tokio::test]
async fn what_was_staged_is_removed_when_nobody_works_for_the_write_any_more() {
    let f = Fixture::new();
    let write = begin(&f, "copy (values (1)) to 'new/x.csv'").await;
    let (worker, plan) = (write.worker(), write.plan().clone());
    drop(write);
    // It has not heard of the end.
    super::collect_plan(&f.session, &plan).await.unwrap();
    let staged = f.tree().into_iter().filter(|name| name.contains("/.onward-") && !name.ends_with('/'));
    assert_eq!((staged.count(), remembered(&f)), (1, 1));
    drop(worker);
    f.session.shared().stores().uploads().settled().await;
    assert_eq!((f.tree(), remembered(&f)), (vec![], 0));
}

/// An attempt that lost its race does not hold up the answer of the statement, and leaves nothing.
#[tokio::test]
async fn a_commit_is_answered_while_an_attempt_that_lost_runs_on() {
    let f = Fixture::new();
    let mut write = begin(&f, "copy (values (1)) to 'x.csv'").await;
    for batch in super::collect_plan(&f.session, write.plan()).await.unwrap() {
        write.add(&batch).unwrap();
    }
    let worker = write.worker();
    assert_eq!(write.commit().await.unwrap(), 1);
    assert_eq!((f.tree().len(), remembered(&f)), (2, 1), "the file and the staging directory: {:?}", f.tree());
    drop(worker);
    f.session.shared().stores().uploads().settled().await;
    assert_eq!((f.tree(), remembered(&f)), (vec!["x.csv".to_owned()], 0));
}

/// What could not be removed is remembered for the next start.
#[tokio::test]
async fn a_staging_directory_that_stays_is_not_forgotten() {
    let f = Fixture::new();
    let write = begin(&f, "copy (values (1)) to 'x.csv'").await;
    let staging = f.path("").join(f.tree()[0].trim_end_matches('/'));
    std::fs::remove_dir(&staging).unwrap();
    std::fs::write(&staging, "not a directory any more").unwrap();
    drop(write);
    assert_eq!((f.tree().len(), remembered(&f)), (1, 1));
    std::fs::remove_file(&staging).unwrap();
    std::fs::create_dir(&staging).unwrap();
    let f = f.restart();
    assert_eq!((f.tree(), remembered(&f)), (vec![], 0));
}

#[tokio::test]
async fn inserts_add_files_to_a_directory_and_say_why_they_cannot() {
    let f = Fixture::new();
    f.write("d/a.csv", "a,b\n1,x\n");
    f.run("create external table t stored as csv location 'd/'").await.unwrap();
    assert_eq!(f.rows("insert into t values (2, 'y'), (3, null)").await, ["2"]);
    assert_eq!(f.rows("select * from t order by a").await, ["1|x", "2|y", "3|"]);
    f.run("create external table one stored as csv location 'd/a.csv'").await.unwrap();
    assert!(f.error("insert into one values (2, 'y')").await.message.contains("single file"));
    f.run("create view v as select * from t").await.unwrap();
    assert!(f.error("insert into v values (2, 'y')").await.message.contains("view"));
    let error = f.error("insert into t values (1)").await;
    assert!(kind(&error) == ErrorKind::InvalidQuery && error.message.contains("expected 2"), "{error}");
    assert_eq!(kind(&f.error("insert into nowhere values (1)").await), ErrorKind::NotFound);
    assert_eq!(kind(&f.error("copy (select 1) to 'http://127.0.0.1:1/x.csv'").await), ErrorKind::InvalidQuery);
}

#[tokio::test]
async fn wrong_options_and_formats_are_refused_before_anything_is_written() {
    let f = Fixture::new();
    let error = f.error("copy (select 1) to 'x.parquet' options (compresion zstd)").await;
    assert!(error.message.contains("did you mean `compression`"), "{error}");
    let error = f.error("copy (select 1) to 'x'").await;
    assert!(error.message.contains("STORED AS"), "{error}");
    assert_eq!(f.tree(), [] as [&str; 0]);
}

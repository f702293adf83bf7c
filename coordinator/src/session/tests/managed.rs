//! CREATE TABLE, INSERT INTO, DROP TABLE.

use super::{Fixture, collect_plan, lines, tree};
use crate::catalog::durable;
use crate::session::Work;
use crate::write::Write;

#[tokio::test]
async fn a_table_is_created_filled_kept_and_dropped() {
    let f = Fixture::new();
    assert_eq!(
        f.rows("create table t as select column1 as a, column2 as b from (values (1, 'x'), (2, null))").await,
        ["2"]
    );
    assert_eq!(f.rows("insert into t values (3, 'z')").await, ["1"]);
    assert_eq!(f.rows("insert into t (b) select b from t where a = 3").await, ["1"]);
    let f = f.restart();
    assert_eq!(f.rows("select * from t order by a nulls last").await, ["1|x", "2|", "3|z", "|z"]);
    assert_eq!(f.rows("insert overwrite t select 7, 'only'").await, ["1"]);
    assert_eq!(f.rows("select * from t").await, ["7|only"]);
    f.run("drop table t").await.unwrap();
    assert_eq!(tree(&f.root.path().join("data/tables")), [] as [&str; 0]);
    assert_eq!(tree(&f.root.path().join("data/writes")), [] as [&str; 0]);
}

#[tokio::test]
async fn declared_columns_defaults_and_not_null_hold() {
    let f = Fixture::new();
    assert_eq!(f.rows("create table t (a int not null, b text default 'none')").await, ["0"]);
    assert_eq!(f.rows("select * from t").await, [] as [&str; 0]);
    f.run("insert into t (a) values (1)").await.unwrap();
    let f = f.restart();
    f.run("insert into t values (2, 'two')").await.unwrap();
    assert_eq!(f.rows("select * from t order by a").await, ["1|none", "2|two"]);
    let error = f.error("insert into t select nullif(1, 1), 'x'").await;
    assert!(error.message.contains("`a`") || error.message.contains("'a'"), "{error}");
    assert_eq!(f.rows("select count(*) from t").await, ["2"]);
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_kept_or_replaced() {
    let f = Fixture::new();
    f.run("create table t as select 1 as a").await.unwrap();
    assert!(f.error("create table t as select 2 as a").await.message.contains("exists"));
    assert_eq!(f.rows("create table if not exists t as select 2 as a").await, ["0"]);
    assert_eq!(f.rows("select a from t").await, ["1"]);
    assert_eq!(
        f.rows("create or replace table t as select a + 1 as b from t").await,
        ["1"],
        "it may read what it replaces"
    );
    assert_eq!(f.rows("select b from t").await, ["2"]);
    assert_eq!(std::fs::read_dir(f.root.path().join("data/tables")).unwrap().count(), 1, "the old files are gone");
}

#[tokio::test]
async fn a_failed_statement_leaves_no_table_and_no_files() {
    let f = Fixture::new();
    let error = f.error("create table t as select 1 / (column1 - 1) as a from (values (1), (2))").await;
    assert!(error.message.to_lowercase().contains("divide"), "{error}");
    assert_eq!(tree(&f.root.path().join("data/tables")), [] as [&str; 0]);
    f.run("create table t as select 1 as a").await.unwrap();
    let before = tree(&f.root.path().join("data"));
    f.error("insert into t select 1 / (column1 - 1) from (values (1), (2))").await;
    assert_eq!(tree(&f.root.path().join("data")), before);
}

/// What takes the files of table `t` away.
const ENDS: [&str; 4] = [
    "drop table t",
    "insert overwrite t select 7",
    "create or replace table t as select 'x' as b",
    "drop schema public_too cascade",
];

/// A plan that reads `t`, made before `end`.
async fn planned_before(f: &Fixture, end: &str) -> datafusion::logical_expr::LogicalPlan {
    let schema = if end.starts_with("drop schema") { "public_too" } else { "public" };
    f.run("create schema if not exists public_too").await.unwrap();
    f.run(&format!("create table {schema}.t as select 1 as a")).await.unwrap();
    f.run(&format!("insert into {schema}.t values (2)")).await.unwrap();
    f.run(&format!("create view v as select a from {schema}.t")).await.unwrap();
    let sql = format!("select sum(t.a + v.a) from {schema}.t join v on t.a = v.a");
    let statement = f.session.plan(&sql).await.unwrap();
    let Work::Query(plan) = f.session.work(statement, None).await.unwrap() else { panic!("SELECT is a query") };
    f.run(end).await.unwrap();
    plan
}

fn parts(f: &Fixture) -> usize {
    tree(&f.root.path().join("data/tables")).iter().filter(|path| path.ends_with(".parquet")).count()
}

#[tokio::test]
async fn a_query_reads_the_files_it_was_planned_with_and_they_go_with_it() {
    for end in ENDS {
        let f = Fixture::new();
        let plan = planned_before(&f, end).await;
        let left = if end.starts_with("drop") { 0 } else { 1 };
        assert_eq!(parts(&f), 2 + left, "{end}");
        for _ in 0..2 {
            assert_eq!(lines(&collect_plan(&f.session, &plan).await.unwrap()), ["6"], "{end}");
        }
        let copy = plan.clone();
        drop(plan);
        assert_eq!(parts(&f), 2 + left, "{end}: there is another reader");
        drop(copy);
        assert_eq!(parts(&f), left, "{end}");
        if left == 0 {
            assert_eq!(tree(&f.root.path().join("data/tables")), [] as [&str; 0], "{end}");
        }
    }
}

#[tokio::test]
async fn what_a_crashed_reader_kept_goes_at_the_next_start() {
    for end in ENDS {
        let f = Fixture::new();
        let left = if end.starts_with("drop") { 0 } else { 1 };
        std::mem::forget(planned_before(&f, end).await);
        assert_eq!(parts(&f), 2 + left, "{end}");
        let f = f.restart();
        assert_eq!(parts(&f), left, "{end}");
    }
}

#[tokio::test]
async fn a_table_may_be_overwritten_from_itself() {
    let f = Fixture::new();
    f.run("create table t as select 1 as a").await.unwrap();
    for _ in 0..3 {
        assert_eq!(f.rows("insert overwrite t select a + 1 from t").await, ["1"]);
    }
    assert_eq!(f.rows("select a from t").await, ["4"]);
    assert_eq!(parts(&f), 1);
}

/// A write whose rows are all staged.
async fn staged(f: &Fixture, sql: &str) -> Write {
    let statement = f.session.plan(sql).await.unwrap();
    let Work::Write(mut write) = f.session.work(statement, None).await.unwrap() else { panic!("{sql} is a write") };
    write.begin(onward_wire::QueryId(1)).unwrap();
    for batch in collect_plan(&f.session, write.plan()).await.unwrap() {
        write.add(&batch).unwrap();
    }
    *write
}

#[tokio::test]
async fn the_slower_of_two_creations_says_that_it_wrote_nothing_and_leaves_nothing() {
    let f = Fixture::new();
    let sql = "create table if not exists t as select * from generate_series(1, 5) as s(a)";
    let (one, two) = (staged(&f, sql).await, staged(&f, &sql.replace("(1, 5)", "(1, 3)")).await);
    assert_eq!(two.commit().await.unwrap(), 3);
    let before = tree(&f.root.path().join("data/tables")).into_iter().filter(|path| path.contains(".parquet"));
    let before: Vec<_> = before.collect();
    assert_eq!(one.commit().await.unwrap(), 0);
    assert_eq!(f.rows("select count(*) from t").await, ["3"]);
    let after = tree(&f.root.path().join("data/tables"));
    assert_eq!(after.len(), 3, "one table, one part, one file: {after:?}");
    assert!(before.iter().all(|path| after.contains(path)), "{after:?}");
    let (one, two) = (sql.replace("if not exists t", "u"), sql.replace("if not exists t", "u"));
    let (one, two) = (staged(&f, &one).await, staged(&f, &two).await);
    assert_eq!(two.commit().await.unwrap(), 5);
    assert!(one.commit().await.unwrap_err().to_string().contains("exists"));
    assert_eq!(tree(&f.root.path().join("data/tables")).len(), 6);
}

/// A name that is not on the disk when power fails is a table without its rows.
#[tokio::test]
async fn files_and_directories_are_synced_before_the_catalog_names_them() {
    let f = Fixture::new();
    let data = f.root.path().join("data").canonicalize().unwrap();
    let statements = [
        "create table t as select 1 as a",
        "insert into t values (2), (3)",
        "insert overwrite t select 4",
        "create table u as select 1 as a where false",
    ];
    for sql in statements {
        durable::log::take(&data);
        f.run(sql).await.unwrap();
        let synced = durable::log::take(&data);
        let [files @ .., part, table, tables, catalog, root] = synced.as_slice() else { panic!("{sql}: {synced:?}") };
        assert_eq!(files.len(), usize::from(!sql.contains("false")), "{sql}: {synced:?}");
        assert!(files.iter().all(|file| file.starts_with(part)), "{sql}: {synced:?}");
        assert!(part.starts_with(table) && table.starts_with("tables/"), "{sql}: {synced:?}");
        assert_eq!((tables.as_str(), catalog.as_str(), root.as_str()), ("tables", "catalog.json", ""), "{sql}");
    }
}

#[tokio::test]
async fn empty_results_make_empty_tables_with_their_columns() {
    let f = Fixture::new();
    assert_eq!(f.rows("create table t as select 1 as a, 'x' as b where false").await, ["0"]);
    let f = f.restart();
    assert_eq!(f.rows("select * from t").await, [] as [&str; 0]);
    assert_eq!(f.rows("select column_name from information_schema.columns where table_name = 't'").await, ["a", "b"]);
}

#[tokio::test]
async fn types_survive_the_way_to_disk_and_back() {
    let f = Fixture::new();
    let columns = [
        ("i", "cast(-5 as smallint)"),
        ("d", "cast(12.34 as decimal(15,2))"),
        ("s", "'héllo'"),
        ("t", "timestamp '2024-02-29 12:34:56.789'"),
        ("z", "date '0001-01-01'"),
        ("l", "[1, null, 3]"),
        ("r", "{'x': 1, 'y': 'two'}"),
        ("b", "x'00ff'"),
        ("n", "null"),
        ("f", "cast('nan' as double)"),
    ];
    let select: Vec<_> = columns.iter().map(|(name, expr)| format!("{expr} as {name}")).collect();
    let select = format!("select {}", select.join(", "));
    f.run(&format!("create table t as {select}")).await.unwrap();
    let types: Vec<_> = columns.iter().map(|(name, _)| format!("arrow_typeof({name})")).collect();
    let types = types.join(", ");
    assert_eq!(f.rows("select * from t").await, f.rows(&select).await);
    assert_eq!(
        f.rows(&format!("select {types} from t")).await,
        f.rows(&format!("select {types} from ({select})")).await
    );
}

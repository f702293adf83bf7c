//! Settings, prepared statements, parameters, and what is refused.

use datafusion::common::{ParamValues, ScalarValue};
use onward_planner::error::classify;
use onward_wire::{ErrorKind, WireError};

use super::{Fixture, kind, lines, run, run_statement};
use crate::session::PreparedStatement;

#[tokio::test]
async fn settings_are_set_shown_and_reset_per_session() {
    let f = Fixture::new();
    f.run("set onward.functions = 3").await.unwrap();
    assert_eq!(f.rows("show onward.functions").await, ["onward.functions|3"]);
    f.run("set datafusion.execution.batch_size = 100").await.unwrap();
    f.run("reset datafusion.execution.batch_size").await.unwrap();
    assert_eq!(f.rows("show datafusion.execution.batch_size").await, ["datafusion.execution.batch_size|8192"]);
    let error = f.error("set datafusion.runtime.list_files_cache_limit = '1M'").await;
    assert!(kind(&error) == ErrorKind::InvalidQuery && error.message.contains("whole process"), "{error}");
    assert_eq!(kind(&f.error("set onward.nonsense = 1").await), ErrorKind::InvalidQuery);
}

#[tokio::test]
async fn parameters_are_inferred_in_order_and_bound() {
    let f = Fixture::new();
    f.run("create table t (a int, b text)").await.unwrap();
    f.run("insert into t values (1, 'x'), (2, 'y')").await.unwrap();
    let statement = f.session.plan("select b from t where a = ? and b <> ? limit ?").await.unwrap();
    let types: Vec<_> =
        statement.parameters.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    assert_eq!(types.len(), 3);
    assert_eq!(types[0], "$1 Int32");
    assert!(types[1].starts_with("$2 Utf8"), "{types:?}");
    let values =
        ParamValues::from(vec![ScalarValue::Int32(Some(2)), ScalarValue::from("q"), ScalarValue::Int64(Some(5))]);
    assert_eq!(
        lines(&run(&f.session, "select b from t where a = ? and b <> ? limit ?", Some(values)).await.unwrap()),
        ["y"]
    );
    let insert = ParamValues::from(vec![ScalarValue::Int32(Some(3)), ScalarValue::from("z")]);
    assert_eq!(lines(&run(&f.session, "insert into t values ($1, $2)", Some(insert)).await.unwrap()), ["1"]);
    let error = f.error("select $1 + 1").await;
    assert!(error.message.contains("$1"), "{error}");
}

/// Values are bound in the order in which the `?` are written, which is not the order of the syntax tree.
#[tokio::test]
async fn question_marks_are_bound_in_the_order_of_the_text() {
    let f = Fixture::new();
    f.run("create table t as select value as a from range(0, 20)").await.unwrap();
    for (sql, values, expected) in [
        ("select a from t order by a offset ? limit ?", [3, 2], "3 4"),
        ("select a from t order by a limit ? offset ?", [2, 3], "3 4"),
        ("with c as (select a from t where a > ?) select a from c where a < ?", [15, 18], "16 17"),
        ("select case when a = ? then 1 else 0 end from t where a in (7, ?) order by 1", [7, 8], "0 1"),
        ("select (select max(a) - ? from t) from t where a = ?", [4, 0], "15"),
        ("select x from (values (?), (?)) as v (x)", [2, 1], "2 1"),
    ] {
        let values = ParamValues::from(values.map(|value| ScalarValue::Int64(Some(value))).to_vec());
        let rows = run(&f.session, sql, Some(values)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(lines(&rows).join(" "), expected, "{sql}");
    }
    let error = f.error("select a from t where a = ? and a < $2").await;
    assert!(kind(&error) == ErrorKind::InvalidQuery && error.message.contains("one kind"), "{error}");
}

#[tokio::test]
async fn sql_prepare_execute_and_deallocate_work() {
    let f = Fixture::new();
    f.run("prepare p(int) as select $1 + 1 as b").await.unwrap();
    let statement = f.session.plan("execute p(4)").await.unwrap();
    assert!(statement.is_query && statement.schema.fields().len() == 1);
    assert_eq!(f.rows("execute p(4)").await, ["5"]);
    assert_eq!(f.rows("execute p(1 + 2)").await, ["4"]);
    assert_eq!(f.rows("explain execute p(4)").await, ["5"]);
    assert!(f.error("execute p").await.message.contains("expects 1"));
    assert!(f.error("prepare p(int) as select $1").await.message.contains("already exists"));
    assert!(f.error("prepare q as execute q").await.message.contains("not supported"));
    f.run("deallocate p").await.unwrap();
    assert!(f.error("execute p(4)").await.message.contains("'p'"));
    assert!(f.error("deallocate p").await.message.contains("'p'"));
}

/// What runs a prepared statement twice, with `change` between: by PREPARE and EXECUTE, and by a client's handle.
async fn prepared_twice(f: &Fixture, sql: &str, change: &[&str]) -> [Result<Vec<String>, WireError>; 2] {
    let prepared = f.session.prepare(sql).await.unwrap();
    f.run(&format!("prepare again as {sql}")).await.unwrap();
    let before = f.rows("execute again").await;
    assert_eq!(handled(f, &prepared).await.unwrap(), before, "{sql}");
    for statement in change {
        f.run(statement).await.unwrap();
    }
    let named = f.run("execute again").await.map(|rows| lines(&rows)).map_err(|error| classify(&error));
    f.run("deallocate again").await.unwrap();
    [named, handled(f, &prepared).await]
}

async fn handled(f: &Fixture, prepared: &PreparedStatement) -> Result<Vec<String>, WireError> {
    let run = async {
        let statement = f.session.plan_prepared(prepared).await?;
        run_statement(&f.session, statement, Some(ParamValues::List(vec![]))).await
    };
    run.await.map(|rows| lines(&rows)).map_err(|error| classify(&error))
}

#[tokio::test]
async fn a_prepared_statement_sees_what_was_written_since() {
    let f = Fixture::new();
    f.run("create table m as select 1 as a").await.unwrap();
    f.run("create view v as select a from m").await.unwrap();
    f.run("copy (select 1 as a) to 'd/1.parquet'").await.unwrap();
    f.run("create external table e stored as parquet location 'd/'").await.unwrap();
    let cases: [(&str, &[&str], &str); 7] = [
        ("select sum(a) from m", &["insert into m values (10)"], "11"),
        ("select sum(a) from v", &["insert into m values (100)"], "111"),
        ("select sum(a) from m", &["insert overwrite m select 7"], "7"),
        ("select sum(a) from m", &["drop table m", "create table m as select 8 as a"], "8"),
        ("select sum(a) from v", &["create or replace view v as select a + 1 as a from m"], "9"),
        ("select sum(a) from e", &["copy (select 2 as a) to 'd/2.parquet'"], "3"),
        ("select sum(a) from 'd/'", &["copy (select 4 as a) to 'd/4.parquet'"], "7"),
    ];
    for (sql, change, expected) in cases {
        for rows in prepared_twice(&f, sql, change).await {
            assert_eq!(rows.unwrap(), [expected], "{sql} after {change:?}");
        }
    }
    let insert = f.session.prepare("insert into m select max(a) + 1 from m").await.unwrap();
    for _ in 0..3 {
        assert_eq!(handled(&f, &insert).await.unwrap(), ["1"]);
    }
    assert_eq!(f.rows("select sum(a), max(a) from m").await, ["38|11"]);
}

#[tokio::test]
async fn a_prepared_statement_whose_columns_changed_says_so() {
    let f = Fixture::new();
    f.run("create table m as select 1 as a").await.unwrap();
    f.run("copy (select 1 as a) to 'x.parquet'").await.unwrap();
    let replaced: &[&str] = &["create or replace table m as select 'one' as a, 2 as b"];
    let overwritten: &[&str] = &["copy (select 'one' as a) to 'x.parquet'"];
    for (sql, change) in [("select * from m", replaced), ("select a from 'x.parquet'", overwritten)] {
        for rows in prepared_twice(&f, sql, change).await {
            let error = rows.unwrap_err();
            assert_eq!(kind(&error), ErrorKind::InvalidQuery);
            assert!(
                error.message.contains("changed since it was prepared") && error.message.contains("a Int64"),
                "{error}"
            );
        }
    }
    for rows in prepared_twice(&f, "select count(*) from m", &["drop table m"]).await {
        assert_eq!(kind(&rows.unwrap_err()), ErrorKind::NotFound);
    }
    f.run("create table m (a int)").await.unwrap();
    let insert = f.session.prepare("insert into m values ($1)").await.unwrap();
    f.run("create or replace table m (a varchar)").await.unwrap();
    let error = handled(&f, &insert).await.unwrap_err();
    assert!(error.message.contains("parameters") && error.message.contains("prepare it again"), "{error}");
}

#[tokio::test]
async fn a_session_prepares_so_many_statements_and_no_more() {
    let Fixture { root, session } = Fixture::new();
    let f = Fixture { root, session: session.with_prepared_limit(2) };
    f.run("prepare a as select 1").await.unwrap();
    f.run("prepare b as select 2").await.unwrap();
    let error = f.error("prepare c as select 3").await;
    assert!(kind(&error) == ErrorKind::ResourceExhausted && error.message.contains("DEALLOCATE"), "{error}");
    f.run("deallocate a").await.unwrap();
    f.run("prepare c as select 3").await.unwrap();
}

#[tokio::test]
async fn one_text_is_one_statement() {
    let f = Fixture::new();
    assert_eq!(f.rows("select 1;").await, ["1"]);
    assert!(f.error("select 1; select 2").await.message.contains("one by one"));
    assert!(f.error("  -- nothing\n").await.message.contains("no statement"));
    let error = f.error("selec 1").await;
    assert!(kind(&error) == ErrorKind::InvalidQuery && error.message.contains("Line: 1"), "{error}");
    for sql in ["begin", "create database x", "create temporary view v as select 1", "delete from t where a = 1"] {
        assert_eq!(
            kind(&f.error(sql).await),
            if sql.starts_with("delete") { ErrorKind::NotFound } else { ErrorKind::InvalidQuery },
            "{sql}"
        );
    }
}

#[tokio::test]
async fn statements_say_what_they_give_before_they_run() {
    let f = Fixture::new();
    f.run("create table t (a int)").await.unwrap();
    for (sql, is_query, columns) in [
        ("select 1 as x, 2 as y", true, 2),
        ("show tables", true, 4),
        ("explain select 1", true, 2),
        ("insert into t values (1)", false, 1),
        ("copy t to 'x.csv'", false, 1),
        ("create table u as select 1 as a", false, 1),
        ("create view v as select 1 as a", false, 0),
        ("set onward.functions = 1", false, 0),
    ] {
        let statement = f.session.plan(sql).await.unwrap();
        assert_eq!((statement.is_query, statement.schema.fields().len()), (is_query, columns), "{sql}");
    }
    assert_eq!(f.rows("select * from t").await, [] as [&str; 0], "planning has no effect");
}

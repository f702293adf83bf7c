//! CREATE EXTERNAL TABLE: what is inferred, declared, refused, and kept.

use onward_wire::ErrorKind;

use super::{Fixture, kind};

#[tokio::test]
async fn a_restart_keeps_tables_views_and_schemas() {
    let f = Fixture::new();
    f.write("t.csv", "a,b\n1,x\n2,y\n");
    f.run("create schema s2").await.unwrap();
    f.run("create external table t stored as csv location 't.csv'").await.unwrap();
    f.run("create external table s2.u (a int, c text) stored as csv location 't.csv' options (has_header true)")
        .await
        .unwrap();
    f.run("create view v as select b from t where a = 2").await.unwrap();
    let f = f.restart();
    assert_eq!(f.rows("select * from t order by a").await, ["1|x", "2|y"]);
    assert_eq!(f.rows("select c from s2.u order by a").await, ["x", "y"]);
    assert_eq!(f.rows("select * from v").await, ["y"]);
    f.run("drop view v").await.unwrap();
    f.run("drop table t").await.unwrap();
    f.run("drop schema s2 cascade").await.unwrap();
    let f = f.restart();
    assert_eq!(kind(&f.error("select * from t").await), ErrorKind::NotFound);
    assert_eq!(kind(&f.error("select * from s2.u").await), ErrorKind::NotFound);
    assert!(f.path("t.csv").exists(), "dropping an external table leaves its files");
}

#[tokio::test]
async fn every_format_and_compression_reads_back_what_was_written() {
    let f = Fixture::new();
    for file in ["x.parquet", "x.csv", "x.csv.gz", "x.tsv", "x.json", "x.ndjson.zst", "x.arrow"] {
        let sql = format!("copy (select 1 as a, 'q,\"z' as b union all select 2, null) to '{file}'");
        assert_eq!(f.rows(&sql).await, ["2"], "{file}");
        let rows = f.rows(&format!("select a, b from '{file}' order by a")).await;
        assert_eq!(rows, ["1|q,\"z", "2|"], "{file}");
    }
}

/// DataFusion splits any large file of JSON into ranges of bytes, and then cannot read a range of an array.
#[tokio::test]
async fn a_file_with_one_json_array_is_not_split() {
    let f = Fixture::new();
    let objects: Vec<_> = (0..500).map(|id| format!("{{\"id\": {id},\n \"half\": {}}}", f64::from(id) / 2.0)).collect();
    f.write("t.json", &format!("[{}]", objects.join(",\n")));
    f.run("set datafusion.optimizer.repartition_file_min_size = 1").await.unwrap();
    f.run("create external table t stored as json location 't.json' options ('format.newline_delimited' 'false')")
        .await
        .unwrap();
    assert_eq!(f.rows("select count(*), sum(id), max(half) from t where id >= 100").await, ["400|119800|249.5"]);
    assert_eq!(f.rows("select half from t where id = 7").await, ["3.5"]);
}

/// The commonest JSON that is no NDJSON: the error says how it is read, and does not quote all of it.
#[tokio::test]
async fn an_array_that_is_read_as_lines_says_how_to_read_it() {
    let f = Fixture::new();
    for text in ["[{\"a\": 1}, {\"a\": 2}]", "\n[\n {\"a\": 1,\n \"b\": 2}]"] {
        f.write("t.json", text);
        for sql in ["select * from 't.json'", "create external table t stored as json location 't.json'"] {
            let error = f.error(sql).await;
            assert!(error.message.contains("'format.newline_delimited' 'false'"), "{error}");
        }
    }
    f.write("t.json", "{\"a\": [1]}\n{\"a\":");
    assert!(!f.error("select * from 't.json'").await.message.contains("newline_delimited"));
}

/// Rows that were written otherwise than they are read would spoil a table.
#[tokio::test]
async fn files_that_can_be_read_only_are_not_written() {
    let f = Fixture::new();
    for (file, text, options) in [
        ("json/a.json", "[{\"a\": 1}]", "'format.newline_delimited' 'false'"),
        ("csv/a.csv", "a;1;", "'format.terminator' ';', 'format.has_header' 'true'"),
    ] {
        f.write(file, text);
        let (format, _) = file.split_once('/').unwrap();
        let stored = format!("stored as {format} location '{format}/' options ({options})");
        let sql = format!("create external table {format} (a int) {stored}");
        f.run(&sql).await.unwrap();
        let copy = format!("copy (select 2 as a) to 'x.{format}' options ({options})");
        for write in [format!("insert into {format} values (2)"), copy] {
            let error = f.error(&write).await;
            assert!(kind(&error) == ErrorKind::InvalidQuery && error.message.contains("not be written"), "{error}");
        }
        assert_eq!(f.rows(&format!("select a from {format}")).await, ["1"]);
    }
}

#[tokio::test]
async fn hive_partitions_are_columns_and_are_pruned() {
    let f = Fixture::new();
    for (year, value) in [(2023, 1), (2024, 2)] {
        f.write(&format!("d/year={year}/a.csv"), &format!("v\n{value}\n"));
    }
    f.run("create external table declared (v int, year int) stored as csv partitioned by (year) location 'd/' options (has_header true)").await.unwrap();
    f.run("create external table inferred stored as csv location 'd/'").await.unwrap();
    assert_eq!(f.rows("select v, year + 1 from declared order by v").await, ["1|2024", "2|2025"]);
    assert_eq!(f.rows("select v from inferred where year = '2024'").await, ["2"]);
    assert_eq!(f.rows("select v, year from 'd/' order by v").await, ["1|2023", "2|2024"]);
    let error = f.error("create external table bad (v int) stored as csv partitioned by (year) location 'd/'").await;
    assert!(error.message.contains("`year`"), "{error}");
}

#[tokio::test]
async fn locations_may_be_patterns_directories_and_several_files() {
    let f = Fixture::new();
    for (name, value) in [("d/a1.csv", 1), ("d/a2.csv", 2), ("d/b.csv", 3), ("d/sub/a.csv", 4), ("d/_SUCCESS", 9)] {
        f.write(name, &format!("v\n{value}\n"));
    }
    let count = async |location: &str| f.rows(&format!("select sum(v) from '{location}'")).await[0].clone();
    assert_eq!(count("d/").await, "6");
    assert_eq!(count("d").await, "6");
    assert_eq!(count("d/a*.csv").await, "3");
    assert_eq!(count("d/**/a*.csv").await, "7");
    assert_eq!(count("d/*/a.csv").await, "4");
    f.run("create external table two stored as csv location ('d/a1.csv', 'd/b.csv')").await.unwrap();
    assert_eq!(f.rows("select sum(v) from two").await, ["4"]);
}

#[tokio::test]
async fn a_declared_order_is_used_and_kept() {
    let f = Fixture::new();
    f.write("t.csv", "a,b\n1,x\n2,y\n");
    f.run("create external table t (a int, b text) stored as csv with order (a asc, b desc) location 't.csv' options (has_header true)").await.unwrap();
    let f = f.restart();
    let plan = f.rows("explain format indent select * from t order by a").await.join("\n");
    assert!(plan.contains("output_ordering") && !plan.contains("SortExec"), "{plan}");
    let error = f.error("create external table u (a int) stored as csv with order (z) location 't.csv'").await;
    assert!(error.message.contains('z'), "{error}");
}

#[tokio::test]
async fn errors_name_the_file_and_what_to_do() {
    let f = Fixture::new();
    f.write("lineitem.csv", "a\n1\n");
    f.write("bad.parquet", "this is not parquet at all");
    f.write("mixed/a.json", "{\"x\": 1}\n");
    f.write("mixed/b.json", "{\"x\": \"one\"}\n");
    let error = f.error("select * from 'lineitm.csv'").await;
    assert_eq!(kind(&error), ErrorKind::NotFound);
    assert!(error.message.contains("lineitm.csv") && error.message.contains("did you mean `lineitem.csv`"), "{error}");
    let error = f.error("select * from 'nothing*.csv'").await;
    assert!(kind(&error) == ErrorKind::NotFound && error.message.contains("nothing*.csv"), "{error}");
    f.write("hidden/.a.csv", "a\n1\n");
    let error = f.error("select * from 'hidden/'").await;
    assert!(kind(&error) == ErrorKind::NotFound && error.message.contains("hidden ones are not read"), "{error}");
    let error = f.error("select * from 'bad.parquet'").await;
    assert!(kind(&error) == ErrorKind::InvalidQuery && error.message.contains("bad.parquet"), "{error}");
    let error = f.error("create external table t stored as csv location 'lineitem.csv' options (delimeter ';')").await;
    assert!(error.message.contains("did you mean `delimiter`"), "{error}");
    let error = f.error("create external table t stored as parket location 'lineitem.csv'").await;
    assert!(error.message.contains("did you mean `parquet`"), "{error}");
    let error = f.error("select * from linetem").await;
    assert!(kind(&error) == ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn parquet_files_that_disagree_are_named_with_the_column() {
    let f = Fixture::new();
    f.run("copy (select 1 as id, 'x' as name) to 'p/a.parquet'").await.unwrap();
    f.run("copy (select 1 as id, true as name) to 'p/b.parquet'").await.unwrap();
    let error = f.error("select * from 'p/'").await;
    for part in ["`name`", "a.parquet", "b.parquet", "Boolean"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    assert_eq!(kind(&error), ErrorKind::InvalidQuery);
}

#[tokio::test]
async fn names_are_refused_replaced_or_kept_as_the_statement_says() {
    let f = Fixture::new();
    f.write("a.csv", "a\n1\n");
    f.write("b.csv", "b\n2\n");
    f.run("create external table t stored as csv location 'a.csv'").await.unwrap();
    assert!(f.error("create external table t stored as csv location 'b.csv'").await.message.contains("exists"));
    f.run("create external table if not exists t stored as csv location 'b.csv'").await.unwrap();
    assert_eq!(f.rows("select a from t").await, ["1"]);
    f.run("create or replace external table t stored as csv location 'b.csv'").await.unwrap();
    assert_eq!(f.rows("select b from t").await, ["2"]);
    assert!(f.error("drop view t").await.message.contains("DROP TABLE"));
    assert!(f.error("create or replace view t as select 1").await.message.contains("is a table"));
}

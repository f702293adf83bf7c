//! Never stale: what the files hold now is what queries see.

use onward_wire::ErrorKind;

use super::{Fixture, kind};

#[tokio::test]
async fn overwritten_appended_and_removed_files_are_seen_by_the_next_query() {
    let f = Fixture::new();
    f.run("copy (select 1 as a) to 'd/one.parquet'").await.unwrap();
    f.run("create external table t stored as parquet location 'd/'").await.unwrap();
    let sum = async || f.rows("select sum(a), count(*) from t").await[0].clone();
    assert_eq!(sum().await, "1|1");
    // The same size, quickly: only the version tells.
    for value in 2..8 {
        f.run(&format!("copy (select {value} as a) to 'd/one.parquet'")).await.unwrap();
        assert_eq!(sum().await, format!("{value}|1"));
        assert_eq!(f.rows("select a from 'd/one.parquet'").await, [value.to_string()]);
    }
    f.run("copy (select 10 as a) to 'd/two.parquet'").await.unwrap();
    assert_eq!(sum().await, "17|2");
    std::fs::remove_file(f.path("d/one.parquet")).unwrap();
    assert_eq!(sum().await, "10|1");
    std::fs::remove_file(f.path("d/two.parquet")).unwrap();
    assert_eq!(sum().await, "|0", "an empty directory is an empty table");
}

#[tokio::test]
async fn overwriting_in_place_with_the_same_size_and_time_is_noticed_by_etag() {
    let f = Fixture::new();
    f.run("copy (select 1 as a) to 'x.parquet'").await.unwrap();
    f.run("copy (select 2 as a) to 'y.parquet'").await.unwrap();
    f.run("create external table t stored as parquet location 'x.parquet'").await.unwrap();
    assert_eq!(f.rows("select min(a) from t").await, ["1"]);
    let time = std::fs::metadata(f.path("x.parquet")).unwrap().modified().unwrap();
    std::fs::File::options().write(true).open(f.path("y.parquet")).unwrap().set_modified(time).unwrap();
    std::fs::rename(f.path("y.parquet"), f.path("x.parquet")).unwrap();
    assert_eq!(f.rows("select min(a) from t").await, ["2"]);
}

#[tokio::test]
async fn a_table_whose_file_is_gone_is_an_error_not_empty() {
    let f = Fixture::new();
    f.run("copy (select 1 as a) to 'x.parquet'").await.unwrap();
    f.run("create external table t stored as parquet location 'x.parquet'").await.unwrap();
    std::fs::remove_file(f.path("x.parquet")).unwrap();
    let error = f.error("select * from t").await;
    assert!(kind(&error) == ErrorKind::NotFound && error.message.contains("x.parquet"), "{error}");
}

#[tokio::test]
async fn a_file_that_became_corrupt_is_named() {
    let f = Fixture::new();
    f.run("copy (select 1 as a) to 'd/x.parquet'").await.unwrap();
    f.run("create external table t stored as parquet location 'd/'").await.unwrap();
    f.write("d/broken.parquet", "PAR1 but no more");
    let error = f.error("select * from t").await;
    assert!(error.message.contains("broken.parquet"), "{error}");
    assert_eq!(kind(&error), ErrorKind::InvalidQuery);
}

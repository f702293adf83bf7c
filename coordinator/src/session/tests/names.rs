//! Names of files, directories and partitions with every character that some form of a path encodes.

use std::path::Path;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

use super::stores::with_bucket;
use super::{Fixture, lines};

/// In file names; each of them is another file.
const NAMES: [&str; 16] = [
    "a b", "a%20b", "50%", "a#1x", "a?b", "a~b", "[x]", "{y}", "*", "a+b", "it's", "häß漢", "k=v", "a\\b", "\"q\"",
    "<>|^`",
];

/// DataFusion's patterns skip parts with `=`: they are partitions.
fn is_matched(name: &str) -> bool {
    !name.contains('=')
}

/// In values only.
const SLASHES: [&str; 3] = ["a/b", "..", "a%2Fb"];

fn values() -> impl Iterator<Item = (usize, &'static str)> {
    NAMES.into_iter().chain(SLASHES).enumerate()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The rows `(i, k)` of all values.
fn select() -> String {
    let rows: Vec<_> = values().map(|(i, k)| format!("({i}, {})", quoted(k))).collect();
    format!("select column1 as i, column2 as k from (values {})", rows.join(", "))
}

/// `i|k`, in order of `i`, each row `times`.
fn expected(times: usize) -> Vec<String> {
    values().flat_map(|(i, k)| std::iter::repeat_n(format!("{i}|{k}"), times)).collect()
}

/// What DataFusion reads.
async fn datafusion_reads(context: &SessionContext, location: &str) -> Vec<String> {
    let create = format!(
        "create external table t (i bigint, k varchar) stored as parquet partitioned by (k) location {}",
        quoted(location)
    );
    context.sql(&create).await.unwrap();
    let batches = context.sql("select i, k from t order by i").await.unwrap().collect().await.unwrap();
    lines(&batches)
}

/// Partitions by all values, at `location`, which `datafusion` reads as well.
async fn check_partitions(f: &Fixture, location: &str, datafusion: &SessionContext) {
    f.run(&format!("copy ({}) to '{location}' stored as parquet partitioned by (k)", select())).await.unwrap();
    assert_eq!(f.rows(&format!("select i, k from '{location}' order by i")).await, expected(1));
    f.run(&format!("create external table inferred stored as parquet location '{location}'")).await.unwrap();
    f.run(&format!(
        "create external table declared (i bigint, k varchar) stored as parquet partitioned by (k) location '{location}'"
    ))
    .await
    .unwrap();
    assert_eq!(f.rows(&format!("insert into declared {}", select())).await, [values().count().to_string()]);
    for table in ["inferred", "declared"] {
        assert_eq!(f.rows(&format!("select i, k from {table} order by i")).await, expected(2), "{table}");
        for (i, k) in values() {
            let rows = f.rows(&format!("select i from {table} where k = {}", quoted(k))).await;
            assert_eq!(rows, [i.to_string(), i.to_string()], "{k} in {table}");
        }
    }
    assert_eq!(datafusion_reads(datafusion, location).await, expected(2));
}

#[tokio::test]
async fn partitions_of_awkward_values_are_read_as_they_were_written() {
    let f = Fixture::new();
    check_partitions(&f, &format!("{}/", f.path("out").display()), &SessionContext::new()).await;
    let directories = f.tree().into_iter().filter(|name| name.ends_with('/')).count();
    assert_eq!(directories, 1 + values().count(), "a value is one directory, and two values are two: {:?}", f.tree());
    for directory in ["k=a b", "k=a%2520b", "k=a%2Fb", "k=a%252Fb"] {
        assert!(f.path("out").join(directory).is_dir(), "{directory} is how DataFusion names it: {:?}", f.tree());
    }
}

/// Spark and Hive encode fewer characters than DataFusion, whose pruning lists only the directory that it would have named.
#[tokio::test]
async fn partitions_that_others_named_are_found_by_a_filter() {
    let f = Fixture::new();
    let files =
        [("k=a~b", "a~b"), ("k=a%7Eb", "a~b"), ("k=a b", "a b"), ("k=a%20b", "a b"), ("k=[x]", "[x]"), ("k=ü", "ü")];
    for (i, (directory, _)) in files.iter().enumerate() {
        f.write(&format!("d/{directory}/x.csv"), &format!("i\n{i}\n"));
        f.write(&format!("e/größe {directory}/x.csv"), &format!("i\n{i}\n"));
    }
    f.run("create external table t stored as csv location 'd/'").await.unwrap();
    for (_, value) in files {
        let of_value = files.iter().enumerate().filter(|(_, (_, other))| *other == value);
        let of_value: Vec<_> = of_value.map(|(i, _)| i.to_string()).collect();
        assert_eq!(f.rows(&format!("select i from t where k = '{value}' order by i")).await, of_value, "{value}");
        assert_eq!(
            f.rows(&format!("select i from t where '{value}' = k and i >= 0 order by i")).await,
            of_value,
            "{value}"
        );
        let rows = f.rows(&format!("select i from 'e/' where \"größe k\" = '{value}' order by i")).await;
        assert_eq!(rows, of_value, "{value}, in a column that is encoded itself");
    }
}

#[tokio::test]
async fn a_column_with_any_letters_is_a_partition() {
    let f = Fixture::new();
    f.run("copy (select 1 as i, 'ß/x' as größe) to 'd' stored as csv partitioned by (größe)").await.unwrap();
    f.write("e/%41 b=1/x.csv", "i\n1\n");
    f.run("create external table t (i int, größe varchar) stored as csv partitioned by (größe) location 'd/'")
        .await
        .unwrap();
    f.run("create external table u stored as csv location 'e/'").await.unwrap();
    f.run("insert into t values (2, 'ß/x')").await.unwrap();
    f.run("insert into u values (2, '1')").await.unwrap();
    assert_eq!(f.rows("select i, größe from t order by i").await, ["1|ß/x", "2|ß/x"]);
    assert_eq!(f.rows("select i, \"%41 b\" from u order by i").await, ["1|1", "2|1"]);
    f.write("x/a%2Fb=1/x.csv", "i\n1\n");
    let error = f.error("copy (select 1 as i, 2 as \"a=b\") to 'no' stored as csv partitioned by (\"a=b\")").await;
    assert!(error.message.contains("a=b"), "{error}");
}

#[tokio::test]
async fn files_and_directories_of_any_name_are_written_listed_and_read() {
    let f = Fixture::new();
    for (i, name) in NAMES.into_iter().enumerate() {
        let (directory, file) = (format!("d {name}"), format!("d {name}/f {name}.parquet"));
        f.run(&format!("copy (select {i} as i) to {}", quoted(&file))).await.unwrap();
        assert!(f.path(&file).is_file(), "{file}: {:?}", f.tree());
        let rows = [i.to_string()];
        assert_eq!(f.rows(&format!("select i from {}", quoted(&file))).await, rows, "the file {file}");
        let slash = quoted(&format!("{directory}/"));
        assert_eq!(f.rows(&format!("select i from {slash}")).await, rows, "the directory {directory}");
        let glob = quoted(&format!("{directory}/{}", if is_matched(name) { "*.parquet" } else { "" }));
        assert_eq!(f.rows(&format!("select i from {glob}")).await, rows, "the pattern {glob}");
        let url = Url::from_file_path(f.path(&file)).unwrap().to_string().replace('[', "%5B").replace('*', "%2A");
        assert_eq!(f.rows(&format!("select i from {}", quoted(&url))).await, rows, "the URL {url}");
        for (table, location) in [("by_directory", &slash), ("by_file", &quoted(&file)), ("by_glob", &glob)] {
            f.run(&format!("create external table {table}{i} stored as parquet location {location}")).await.unwrap();
        }
        f.run(&format!("insert into by_directory{i} values ({i})")).await.unwrap();
    }
    // All of them at once, and after a restart.
    assert_eq!(f.tree().iter().filter(|name| name.ends_with('/')).count(), NAMES.len());
    let f = f.restart();
    for (i, name) in NAMES.into_iter().enumerate() {
        for (table, rows) in [("by_directory", 2), ("by_file", 1), ("by_glob", 2)] {
            let counted = f.rows(&format!("select min(i), max(i), count(*) from {table}{i}")).await;
            assert_eq!(counted, [format!("{i}|{i}|{rows}")], "{name} in {table}");
        }
    }
    let matched = NAMES.into_iter().filter(|name| is_matched(name)).count();
    assert_eq!(f.rows("select count(*) from 'd?*/f *.parquet'").await, [matched.to_string()]);
    let context = SessionContext::new();
    // DataFusion takes the file `f k=v.parquet` for a partition; see `is_matched`.
    for (i, name) in NAMES.into_iter().enumerate().filter(|(_, name)| is_matched(name)) {
        let url = Url::from_directory_path(f.path(&format!("d {name}"))).unwrap();
        context
            .sql(&format!("create external table t{i} stored as parquet location {}", quoted(url.as_str())))
            .await
            .unwrap();
        let batches = context.sql(&format!("select i from t{i}")).await.unwrap().collect().await.unwrap();
        assert_eq!(lines(&batches), [i.to_string(), i.to_string()], "DataFusion reads the same of {name}");
    }
}

#[tokio::test]
async fn new_directories_may_have_the_characters_of_patterns() {
    let f = Fixture::new();
    f.run("copy (select 1 as i) to 'new[1]*?/' stored as csv").await.unwrap();
    f.run("copy (select 2 as i) to 'x?[1]*.csv'").await.unwrap();
    assert_eq!(f.rows("select i from 'new[1]*?/'").await, ["1"]);
    assert_eq!(f.rows("select i from 'x?[1]*.csv'").await, ["2"]);
    f.run("copy (select 3 as i) to 'xyz1.csv'").await.unwrap();
    assert_eq!(f.rows("select i from 'x?[1]*.csv'").await, ["2"], "a file that is there is meant");
    assert_eq!(f.rows("select i from 'x??1.csv'").await, ["3"]);
}

#[tokio::test]
async fn a_data_directory_may_have_any_name() {
    let f = Fixture::below("a b%20[1]*?#~{}'ü");
    f.run("create table t as select 1 as a").await.unwrap();
    f.run("insert into t values (2)").await.unwrap();
    let f = f.restart();
    assert_eq!(f.rows("select a from t order by a").await, ["1", "2"]);
    f.run("drop table t").await.unwrap();
    assert_eq!(super::tree(&f.root.path().join("data/tables")), [] as [&str; 0]);
}

#[tokio::test]
async fn partitions_and_objects_of_a_bucket_keep_their_names() {
    let (f, memory) = with_bucket();
    let datafusion = SessionContext::new();
    let bucket = Url::parse("s3://bucket").unwrap();
    datafusion.register_object_store(&bucket, Arc::clone(&memory) as Arc<dyn ObjectStore>);
    check_partitions(&f, "s3://bucket/out/", &datafusion).await;
    let keys = |memory: Arc<InMemory>| async move {
        let objects: Vec<_> = memory.list(None).try_collect().await.unwrap();
        objects.into_iter().map(|object| object.location.to_string()).collect::<Vec<_>>()
    };
    let directories: std::collections::BTreeSet<_> =
        keys(Arc::clone(&memory)).await.iter().map(|key| parent(key)).collect();
    assert_eq!(directories.len(), values().count(), "{directories:?}");
    assert!(directories.contains("out/k=a%2Fb") && directories.contains("out/k=a%252Fb"), "{directories:?}");

    for (i, name) in NAMES.into_iter().enumerate() {
        // Percent-encoded, as URLs are; of the rest only `*`, `?` and `[` have to be, where they would make a pattern.
        let encoded = name.replace('%', "%25").replace('*', "%2A").replace('?', "%3F").replace('[', "%5B");
        let (key, url) = (format!("n/{name}/{name}.parquet"), format!("s3://bucket/n/{encoded}/{encoded}.parquet"));
        f.run(&format!("copy (select {i} as i) to {}", quoted(&url))).await.unwrap();
        assert!(keys(Arc::clone(&memory)).await.contains(&key), "{key}: {:?}", keys(Arc::clone(&memory)).await);
        assert_eq!(f.rows(&format!("select i from {}", quoted(&url))).await, [i.to_string()], "{url}");
        let in_any = format!("s3://bucket/n/*/{encoded}.parquet");
        for pattern in [format!("s3://bucket/n/{encoded}/"), if is_matched(name) { in_any } else { url.clone() }] {
            assert_eq!(f.rows(&format!("select i from {}", quoted(&pattern))).await, [i.to_string()], "{pattern}");
        }
        f.run(&format!("create external table n{i} stored as parquet location {}", quoted(&parent_url(&url))))
            .await
            .unwrap();
        f.run(&format!("insert into n{i} values ({i})")).await.unwrap();
        assert_eq!(f.rows(&format!("select i from n{i}")).await, [i.to_string(), i.to_string()], "{url}");
    }
}

fn parent(key: &str) -> String {
    Path::new(key).parent().unwrap().display().to_string()
}

fn parent_url(url: &str) -> String {
    format!("{}/", url.rsplit_once('/').unwrap().0)
}

//! Bytes of remote objects: read once, kept over restarts, never of an older version.

use super::Workspace;
use super::stores::Bucket;

const COPY: &str = "copy (select value as id, value % 3 as k, repeat(md5(value::varchar), 4) as s \
                    from generate_series(1, 20000)) to 's3://tables/t/$.parquet' stored as parquet";
const TABLE: &str = "create external table t stored as parquet location 's3://tables/t/'";
const GROUPS: &str = "select k, count(*) as n, sum(id) as i, max(length(s)) as m from t group by k order by k";
const EXPECTED: &str = "k,n,i,m\n0,13332,133326666,128\n1,13334,133340000,128\n2,13334,133353334,128\n";

/// Requests that read an object's bytes.
fn reads(requests: &[String]) -> Vec<&String> {
    requests.iter().filter(|request| request.starts_with("GET /tables/t/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_started_again_reads_no_object_a_second_time() {
    let workspace = Workspace::new();
    let bucket = Bucket::start(&workspace).await;
    for copy in ["0", "1"] {
        bucket.run(&workspace, &["-c", &COPY.replace('$', copy)]).expect_success();
    }
    let run = |functions: &str, sql: &str| {
        bucket.run(&workspace, &["--data-dir", "data", "--functions", functions, "-c", sql]).expect_success()
    };
    run("1", TABLE);
    assert_eq!(run("2", GROUPS), EXPECTED);
    bucket.requests();
    // Every command is a process: host and functions of the one before are gone.
    for functions in ["1", "2", "4", "auto"] {
        assert_eq!(run(functions, GROUPS), EXPECTED, "{functions}");
        let requests = bucket.requests();
        assert!(!requests.is_empty(), "versions are looked at");
        assert_eq!(reads(&requests), [] as [&String; 0], "{functions}");
    }
    let explained = run("1", &format!("explain analyze {GROUPS}"));
    assert!(explained.contains("from the range tier"), "{explained}");
    let kept = bucket.run(
        &workspace,
        &[
            "--data-dir",
            "data",
            "--functions",
            "1",
            "-c",
            GROUPS,
            "-c",
            "select object, hits > 0 as h from system.cache where tier = 'disk' order by object",
        ],
    );
    let kept = kept.expect_success();
    assert!(kept.ends_with("object,h\ns3://tables/t/0.parquet,true\ns3://tables/t/1.parquet,true\n"), "{kept}");

    // Another version is another object.
    let other = COPY.replace('$', "1").replace("value % 3", "value % 1");
    bucket.run(&workspace, &["-c", &other]).expect_success();
    bucket.requests();
    assert!(run("2", GROUPS).starts_with("k,n,i,m\n0,26666,"));
    let requests = bucket.requests();
    let read = reads(&requests);
    assert!(!read.is_empty() && read.iter().all(|request| request.starts_with("GET /tables/t/1.parquet")), "{read:?}");
    workspace.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn text_files_are_kept_too_and_nothing_is_where_it_is_switched_off() {
    let workspace = Workspace::new();
    let bucket = Bucket::start(&workspace).await;
    let copy = COPY.replace("$.parquet", "$.csv").replace("stored as parquet", "stored as csv").replace('$', "0");
    bucket.run(&workspace, &["-c", &copy]).expect_success();
    let table = TABLE.replace("parquet", "csv");
    bucket.run(&workspace, &["--data-dir", "data", "-c", &table]).expect_success();
    let run = |functions: &str, more: &[&str]| {
        let arguments = [&["--data-dir", "data", "--functions", functions, "-c"], more].concat();
        bucket.run(&workspace, &arguments).expect_success()
    };
    let rows = run("1", &[GROUPS]);
    bucket.requests();
    assert_eq!(run("2", &[GROUPS]), rows);
    assert_eq!(reads(&bucket.requests()), [] as [&String; 0]);
    let off = run("2", &["set onward.cache = false", "-c", GROUPS]);
    assert!(off.ends_with(&rows), "{off}");
    assert!(!reads(&bucket.requests()).is_empty());
    workspace.assert_nothing_left();
}

//! A store that fails, for a while or for good, at any point of a request: what can be had by trying again is had, and
//! anything else is an error that names the table's location, says what happened, and is Unavailable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use onward_coordinator::{Coordinator, CoordinatorOptions, Session, SessionOptions};
use onward_wire::{Config, ErrorKind, WireError};

use super::stores::{Bucket, SECRET};
use super::{PATIENCE, Ran, Workspace};
use crate::support::s3_proxy::{Asked, Fault, Kind, Model, S3Proxy};

const GROUPS: &str = "select k, count(*) as n, sum(id) as s, sum(length(v)) as l from t group by k order by k";
const EXPECTED: &str = "k,n,s,l\n0,26666,533346666,853312\n1,26668,533373334,853376\n2,26666,533320000,853312\n";

/// A bucket behind a proxy, with two files of a table `t` in `s3://tables/t/`: larger than what is read of a file to see its
/// footer, so that functions read as well.
struct Faulty {
    workspace: Workspace,
    bucket: Bucket,
    proxy: S3Proxy,
}

impl Faulty {
    async fn start() -> Self {
        let workspace = Workspace::new();
        let bucket = Bucket::start(&workspace).await;
        let server = bucket.address.trim_start_matches("http://").parse().expect("an address");
        let proxy = S3Proxy::start(server, Model::NONE).expect("a proxy");
        for file in ["a", "b"] {
            let rows = "select value as id, value % 3 as k, md5(value::varchar) as v from generate_series(1, 40000)";
            let copy = format!("copy ({rows}) to 's3://tables/t/{file}.parquet' stored as parquet");
            bucket.run(&workspace, &["-c", &copy]).expect_success();
        }
        Self { workspace, bucket, proxy }
    }

    fn run(&self, functions: &str, sql: &str) -> Ran {
        self.run_in("data", functions, sql)
    }

    fn run_in(&self, data_dir: &str, functions: &str, sql: &str) -> Ran {
        // Where all tests run with functions that die young: a store that does not answer is waited for longer.
        let lives = ["--set", "function_lifetime_ms=900000"];
        let arguments = ["sql", "--quiet", "--format", "csv", "--data-dir", data_dir, "--functions", functions];
        let ran = self.workspace.run(&[&arguments[..], &lives, &["-c", sql]].concat());
        assert!(!format!("{ran:?}").contains(SECRET), "{ran:?}");
        ran
    }

    /// The statement that makes `name`, whose files are read through the proxy.
    fn table(&self, name: &str, location: &str, options: &str) -> String {
        format!(
            "create external table {name} stored as parquet location '{location}' options ('aws.endpoint' '{}', \
             'aws.region' 'us-east-1', 'aws.access_key_id' 'id', 'aws.secret_access_key' '{SECRET}', {options})",
            self.proxy.url()
        )
    }

    /// A session of an engine in this process, which tells the kinds of errors.
    async fn session(&self, functions: u32, options: &str) -> (Arc<Coordinator>, Arc<Session>) {
        let spill_dir = self.workspace.path("spill").display().to_string();
        let config = Config {
            segment_dir: spill_dir.clone(),
            spill_dir,
            segment_memory_bytes: 16 << 20,
            segment_disk_bytes: 64 << 20,
            cache_memory_bytes: 16 << 20,
            vcpus: 2,
            ..crate::support::config()
        };
        let function_program = Some(env!("CARGO_BIN_EXE_onward").into());
        let options_of = CoordinatorOptions { config, function_program, ..CoordinatorOptions::default() };
        let coordinator = Coordinator::start(options_of).await.expect("a coordinator");
        let session = coordinator.session(SessionOptions::default()).expect("a session");
        execute(&session, &self.table("t", "s3://tables/t/", options)).await.expect("a table");
        execute(&session, &format!("set onward.functions = {functions}")).await.expect("a setting");
        (coordinator, session)
    }
}

async fn execute(session: &Arc<Session>, sql: &str) -> Result<usize, WireError> {
    let execution = session.execute(sql).await.map_err(|error| error.error)?;
    let batches: Vec<_> = execution.stream.try_collect().await.map_err(|error| error.error)?;
    Ok(batches.iter().map(|batch| batch.num_rows()).sum())
}

fn is(kind: Kind) -> impl Fn(&Asked) -> bool + Send + Copy + 'static {
    move |asked| asked.kind == kind
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_a_while_is_asked_for_again_and_has_the_same_rows() {
    let faulty = Faulty::start().await;
    let options = "'aws.max_retries' '3'";
    let table = faulty.table("t", "s3://tables/t/", options);
    for functions in ["auto", "2"] {
        for (number, fault) in [Fault::SlowDown, Fault::Reset(100), Fault::Short(100)].into_iter().enumerate() {
            for kind in [Kind::List, Kind::Get] {
                // A data directory of its own: nothing of the files is on this machine.
                let data_dir = format!("data-{functions}-{number}-{kind}");
                faulty.run_in(&data_dir, "auto", &table).expect_success();
                faulty.proxy.plan(fault, 2, is(kind));
                let rows = faulty.run_in(&data_dir, functions, GROUPS).expect_success();
                assert_eq!(rows, EXPECTED, "{fault:?}, {kind}, {functions}");
                assert_eq!(faulty.proxy.heal(), [2], "{fault:?} was met twice by a {kind}, {functions}");
            }
        }
    }
    faulty.run("auto", &faulty.table("f", "s3://tables/t/a.parquet", options)).expect_success();
    faulty.proxy.plan(Fault::SlowDown, 2, is(Kind::Head));
    assert_eq!(faulty.run("2", "select count(*) as n from f").expect_success(), "n\n40000\n");
    assert_eq!(faulty.proxy.heal(), [2], "a HEAD was refused twice");
    faulty.workspace.assert_nothing_left();
}

/// For good, before the query is planned and while functions read: there are two tries of each request.
#[tokio::test(flavor = "multi_thread")]
async fn what_stays_broken_is_an_error_that_names_the_location_and_what_happened() {
    let faulty = Faulty::start().await;
    let (coordinator, session) = faulty.session(2, "'aws.max_retries' '1', 'aws.timeout' '1s'").await;
    for (fault, said) in [
        (Fault::SlowDown, "503 Service Unavailable: SlowDown: Please reduce your request rate."),
        (Fault::Reset(100), "the connection to the store broke"),
        (Fault::Short(100), "the connection to the store broke"),
    ] {
        for kind in [Kind::List, Kind::Get] {
            faulty.proxy.plan(fault, usize::MAX, is(kind));
            let error = execute(&session, GROUPS).await.expect_err("a broken store");
            let met = faulty.proxy.heal();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}, {kind}: {error}");
            for part in ["`s3://tables/t/", said] {
                assert!(error.message.contains(part), "{fault:?}, {kind}: {part} is not in {error}");
            }
            assert!(!error.message.contains(SECRET) && !error.message.contains("<Error>"), "{error}");
            // Of a task there are four attempts, each of two tries, and there are two files.
            assert!((2..=16).contains(&met[0]), "{fault:?}, {kind}: {met:?}");
        }
    }
    assert_eq!(execute(&session, GROUPS).await.expect("the store is well again"), 3);
    drop(session);
    coordinator.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_waited_for_as_long_as_the_options_say() {
    let faulty = Faulty::start().await;
    let options = "'aws.max_retries' '1', 'aws.timeout' '1s'";
    let table = faulty.table("t", "s3://tables/t/", options);
    for kind in [Kind::List, Kind::Get] {
        let data_dirs = [format!("once-{kind}"), format!("always-{kind}")];
        for data_dir in &data_dirs {
            faulty.run_in(data_dir, "auto", &table).expect_success();
        }
        faulty.proxy.plan(Fault::Silence, 1, is(kind));
        assert_eq!(faulty.run_in(&data_dirs[0], "2", GROUPS).expect_success(), EXPECTED, "{kind}");
        assert_eq!(faulty.proxy.heal(), [1]);
        faulty.proxy.plan(Fault::Silence, usize::MAX, is(kind));
        let began = Instant::now();
        let ran = faulty.run_in(&data_dirs[1], "2", GROUPS);
        ran.expect_error(&["s3://tables/t/", "`timeout`", "at most 1 retries"]);
        assert!(began.elapsed() < PATIENCE, "two tries of a second, four attempts");
        faulty.proxy.heal();
    }
    faulty.workspace.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_where_nobody_listens_is_named() {
    let faulty = Faulty::start().await;
    faulty.run("auto", &faulty.table("t", "s3://tables/t/", "'aws.max_retries' '1'")).expect_success();
    let Faulty { workspace, bucket, proxy } = faulty;
    let table = Faulty { workspace, bucket, proxy };
    let sql =
        table.table("d", "s3://deaf/t/", "'aws.max_retries' '1'").replace(&table.proxy.url(), "http://127.0.0.1:1");
    table.run("auto", &sql).expect_error(&["s3://deaf/t/", "cannot be connected to", "refused"]);
    table.workspace.assert_nothing_left();
}

/// Who may read a file behind http is told in its URL, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_files_behind_http_have_no_password() {
    let faulty = Faulty::start().await;
    let url = faulty.proxy.url().replace("http://", &format!("http://user:{SECRET}@"));
    let sql = format!(
        "create external table h stored as parquet location '{url}/tables/t/a.parquet' options ('http.max_retries' '0')"
    );
    for fault in [Fault::SlowDown, Fault::Reset(100)] {
        faulty.proxy.plan(fault, usize::MAX, |_| true);
        faulty.run("auto", &sql).expect_error(&["/tables/t/a.parquet"]);
        faulty.proxy.heal();
    }
    faulty.run("auto", &sql.replace("a.parquet", "missing.parquet")).expect_error(&["missing.parquet"]);
    faulty.workspace.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_store_refuses_for_a_while_succeeds_and_for_good_leaves_nothing() {
    let faulty = Faulty::start().await;
    let options = "'aws.max_retries' '2'";
    faulty.run("auto", &faulty.table("w", "s3://tables/t/", options)).expect_success();
    let insert = "insert into w select id + 40000, k, v from w where id > 39900";
    faulty.proxy.plan(Fault::SlowDown, 2, is(Kind::Put));
    faulty.run("2", insert).expect_success();
    assert_eq!(faulty.proxy.heal(), [2]);
    assert_eq!(faulty.run("auto", "select count(*) as n from w").expect_success(), "n\n80200\n");
    for kind in [Kind::Put, Kind::Post] {
        // An upload is begun, given parts, and completed. Parts and completion are refused.
        faulty
            .proxy
            .plan(Fault::SlowDown, usize::MAX, move |asked| asked.kind == kind && asked.target.contains("uploadId="));
        faulty.run("2", insert).expect_error(&["s3://tables/t/", "SlowDown"]);
        assert!(faulty.proxy.heal()[0] > 0, "a {kind} was refused");
        assert_eq!(faulty.run("auto", "select count(*) as n from w").expect_success(), "n\n80200\n");
        let uploads = faulty.bucket.get("/tables?uploads");
        assert!(uploads.contains("ListMultipartUploadsResult") && !uploads.contains("<Upload>"), "{uploads}");
    }
    faulty.workspace.assert_nothing_left();
}

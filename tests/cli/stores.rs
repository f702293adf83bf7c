//! Tables in a bucket and behind http, read and written by function processes: what is asked of the server, what is
//! left of writes, and what errors say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Ran, Workspace};
use crate::flight::python::{python, python_dir};

/// Never to be seen in anything that Onward prints.
pub(super) const SECRET: &str = "hush-hush";

/// An S3 server with one bucket, `tables`, whose objects are also public files behind http.
pub(super) struct Bucket {
    server: Child,
    /// `http://127.0.0.1:PORT`.
    pub(super) address: String,
    log: PathBuf,
}

impl Bucket {
    pub(super) async fn start(workspace: &Workspace) -> Self {
        let log = workspace.path("requests");
        let mut command = Command::new(python().await);
        command.arg(python_dir().join("s3_server.py")).arg(&log).arg("tables");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().expect("the server");
        let mut address = String::new();
        BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut address).expect("a line");
        assert!(address.starts_with("http://"), "the S3 server did not start");
        Self { server, address: address.trim_end().to_owned(), log }
    }

    /// Runs SQL with the credentials of the bucket in the environment.
    pub(super) fn run(&self, workspace: &Workspace, arguments: &[&str]) -> Ran {
        let mut command = workspace.onward(&[&["sql", "--quiet", "--format", "csv"], arguments].concat());
        command.env("AWS_ENDPOINT", &self.address).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", SECRET);
        let ran = Ran::of(command);
        assert!(!format!("{ran:?}").contains(SECRET), "{ran:?}");
        ran
    }

    /// The requests since the last call.
    pub(super) fn requests(&self) -> Vec<String> {
        let log = std::fs::OpenOptions::new().read(true).write(true).open(&self.log).expect("a log");
        let text = std::io::read_to_string(&log).expect("text");
        log.set_len(0).expect("a file");
        text.lines().map(str::to_owned).collect()
    }

    /// What the server answers to an anonymous GET.
    pub(super) fn get(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(self.address.trim_start_matches("http://")).expect("it listens");
        write!(connection, "GET {path} HTTP/1.0\r\n\r\n").expect("a request");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // It ends with its input; should it not, it is ended.
        drop(self.server.stdin.take());
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

const COPY: &str = "copy (select value as id, value % 3 as k from generate_series(1, 1000)) to 's3://tables/t/' \
                    stored as parquet";
const TABLE: &str = "create external table t stored as parquet location 's3://tables/t/'";
const GROUPS: &str = "select k, count(*) as n, sum(id) as s from t group by k order by k";

#[tokio::test(flavor = "multi_thread")]
async fn functions_read_a_bucket_and_only_read_it() {
    let workspace = Workspace::new();
    let bucket = Bucket::start(&workspace).await;
    for copy in 0..3 {
        let to = format!("'s3://tables/t/{copy}.parquet'");
        bucket.run(&workspace, &["-c", &COPY.replace("'s3://tables/t/'", &to)]).expect_success();
    }
    bucket.run(&workspace, &["--data-dir", "data", "-c", TABLE]).expect_success();
    bucket.requests();
    for functions in ["auto", "1", "2", "4"] {
        let groups = bucket.run(&workspace, &["--data-dir", "data", "--functions", functions, "-c", GROUPS]);
        assert_eq!(groups.expect_success(), "k,n,s\n0,999,500499\n1,1002,501501\n2,999,499500\n", "{functions}");
        let requests = bucket.requests();
        let reads = requests.iter().filter(|request| request.starts_with("GET ") || request.starts_with("HEAD "));
        assert!(!requests.is_empty() && reads.count() == requests.len(), "a query only reads: {requests:?}");
    }
    workspace.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_a_bucket_appears_whole_or_not_at_all() {
    let workspace = Workspace::new();
    let bucket = Bucket::start(&workspace).await;
    // A series is made by one task, which cannot be cut to fit a short life.
    let live = "function_lifetime_ms=600000";
    let run = |sql: &str| bucket.run(&workspace, &["--data-dir", "data", "--functions", "2", "--set", live, "-c", sql]);
    run(COPY).expect_success();
    run(TABLE).expect_success();
    run("insert into t select id + 1000, k from t").expect_success();
    assert_eq!(run("select count(*) as n, max(id) as m from t").expect_success(), "n,m\n2000,2000\n");

    // Large enough that parts are uploaded long before the last row fails.
    let rows = "select value as id, repeat(md5(value::varchar), 8) as k, 1 / (400000 - value) as x";
    let bad = format!("copy ({rows} from generate_series(1, 400000)) to 's3://tables/bad/' stored as csv");
    bucket.requests();
    run(&bad).expect_error(&["ivide by zero"]);
    let requests = bucket.requests();
    let parts = requests.iter().filter(|request| request.contains("partNumber=")).count();
    assert!(parts > 0, "the error came after parts were uploaded: {requests:?}");
    let listing = bucket.get("/tables?list-type=2&prefix=bad");
    assert!(listing.contains("<KeyCount>0</KeyCount>"), "{listing}");
    let uploads = bucket.get("/tables?uploads");
    assert!(uploads.contains("ListMultipartUploadsResult") && !uploads.contains("<Upload>"), "{uploads}");
    workspace.assert_nothing_left();
}

/// Names are encoded once on their way from a value to a key, whoever says them: an upload that is completed or taken back
/// under another name stays open, and is paid for.
#[tokio::test(flavor = "multi_thread")]
async fn awkward_names_in_a_bucket_are_kept_and_leave_no_upload() {
    let workspace = Workspace::new();
    let bucket = Bucket::start(&workspace).await;
    let run = |sql: &str| bucket.run(&workspace, &["--data-dir", "data", "--functions", "2", "-c", sql]);
    let values = [
        "a b", "a%20b", "50%", "a#1x", "a?b", "a~b", "[x]", "{y}", "*", "a+b", "it's", "häß漢", "k=v", "a/b", "a%2Fb",
        "..",
    ];
    let rows: Vec<_> =
        (values.iter().enumerate()).map(|(i, k)| format!("({i}, '{}')", k.replace('\'', "''"))).collect();
    let rows = format!("select column1 as i, column2 as k from (values {})", rows.join(", "));
    run(&format!("copy ({rows}) to 's3://tables/odd/' stored as parquet partitioned by (k)")).expect_success();
    run("create external table odd stored as parquet location 's3://tables/odd/'").expect_success();
    run(&format!("insert into odd {rows}")).expect_success();
    assert_uploads_end_where_they_began(&bucket.requests());
    let expected: String = (values.iter().enumerate()).map(|(i, k)| format!("{i},{k},2\n")).collect();
    let counted = run("select i, k, count(*) as n from odd group by i, k order by i").expect_success();
    assert_eq!(counted, format!("i,k,n\n{expected}"));
    assert_eq!(run("select count(*) as n from odd where k = 'a%20b'").expect_success(), "n\n2\n");
    assert_eq!(run("select count(*) as n from odd where k = 'a~b'").expect_success(), "n\n2\n");

    run("copy (select 7 as i) to 's3://tables/dir ~#1/50%25 [é]{}*.parquet'").expect_success();
    let read = run("select i from 's3://tables/dir ~#1/50%25 %5Bé]{}%2A.parquet'").expect_success();
    assert_eq!(read, "i\n7\n");
    run("select * from 's3://tables/dir ~#1/50%25 [é]{}*.parquet'").expect_error(&["%5B"]);

    let bad = "select repeat(md5(value::varchar), 8) as v, 1 / (400000 - value) as x, 'a/b ~%20ü[' as k";
    let bad = format!(
        "copy ({bad} from generate_series(1, 400000)) to 's3://tables/bad~ %/' stored as csv partitioned by (k)"
    );
    bucket.requests();
    run(&bad).expect_error(&["ivide by zero"]);
    let requests = bucket.requests();
    assert!(requests.iter().any(|request| request.contains("partNumber=")), "uploads were begun: {requests:?}");
    assert_uploads_end_where_they_began(&requests);
    let uploads = bucket.get("/tables?uploads");
    assert!(uploads.contains("ListMultipartUploadsResult") && !uploads.contains("<Upload>"), "{uploads}");
    workspace.assert_nothing_left();
}

/// Of each upload there are parts and one end, all under one name. (This server would find the upload by its id alone.)
fn assert_uploads_end_where_they_began(requests: &[String]) {
    let mut uploads = std::collections::BTreeMap::<&str, Vec<(&str, &str)>>::new();
    for request in requests {
        let Some((method, path)) = request.split_once(' ') else { panic!("{request}") };
        let Some((key, query)) = path.split_once('?') else { continue };
        if let Some(id) = query.split('&').find_map(|parameter| parameter.strip_prefix("uploadId=")) {
            uploads.entry(id).or_default().push((method, key));
        }
    }
    assert!(!uploads.is_empty(), "{requests:?}");
    for (id, of_upload) in uploads {
        assert!(of_upload.iter().all(|(_, key)| *key == of_upload[0].1), "{id}: {of_upload:?}");
        let ends = of_upload.iter().filter(|(method, _)| matches!(*method, "POST" | "DELETE"));
        assert_eq!(ends.count(), 1, "{id}: {of_upload:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_behind_http_are_tables() {
    let workspace = Workspace::new();
    let bucket = Bucket::start(&workspace).await;
    bucket.run(&workspace, &["-c", &COPY.replace("/t/'", "/t.parquet'")]).expect_success();
    let url = format!("{}/tables/t.parquet", bucket.address);
    let create = format!("create external table t stored as parquet location '{url}'");
    workspace.sql(&create, &["--data-dir", "data"]);
    for functions in ["auto", "2"] {
        let groups = workspace.sql(GROUPS, &["--data-dir", "data", "--functions", functions, "--format", "csv"]);
        assert_eq!(groups, "k,n,s\n0,333,166833\n1,334,167167\n2,333,166500\n");
        let bare = format!("select count(*) as n from '{url}'");
        assert_eq!(workspace.sql(&bare, &["--functions", functions, "--format", "csv"]), "n\n1000\n");
    }
    let nothing = url.replace("t.parquet", "u.parquet");
    workspace.run(&["sql", "-c", &format!("select * from '{nothing}'")]).expect_error(&["u.parquet"]);
    workspace.run(&["sql", "-c", &format!("copy (select 1) to '{nothing}'")]).expect_error(&["u.parquet"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_bucket_name_it_and_no_secret() {
    let workspace = Workspace::new();
    let bucket = Bucket::start(&workspace).await;
    let run = |sql: &str| bucket.run(&workspace, &["--data-dir", "data", "-c", sql]);
    run("select * from 's3://nowhere/t.parquet'").expect_error(&["s3://nowhere/t.parquet"]);
    run("copy (select 1 as a) to 's3://nowhere/t.parquet'").expect_error(&["nowhere"]);
    let options = format!("'aws.endpoint' 'http://127.0.0.1:1', 'aws.secret_access_key' '{SECRET}'");
    let deaf = format!(
        "create external table d stored as parquet location 's3://deaf/t.parquet' options ({options}, \
                        'aws.access_key_id' 'id', 'aws.region' 'us-east-1')"
    );
    run(&deaf).expect_error(&["s3://deaf"]);
}

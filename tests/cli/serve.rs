//! `onward serve`: ready line, drain, second signal, data directory, token and TLS.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use super::signals::send;
use super::{ENDLESS, PATIENCE, Ran, Workspace, entries};

/// A server that said it is ready.
pub struct Server {
    child: Child,
    /// Where to connect to, as the ready line has it.
    pub url: String,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Server {
    /// Starts `onward serve` on a free port.
    pub fn start(workspace: &Workspace, arguments: &[&str]) -> Self {
        let mut command = workspace.onward(&["serve", "--listen", "127.0.0.1:0"]);
        let mut child =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let Some(rest) = line.strip_prefix(&format!("onward {} ready on ", env!("CARGO_PKG_VERSION"))) else {
            let mut said = String::new();
            stderr.read_to_string(&mut said).expect("text");
            panic!("no ready line but {line:?}; {said}");
        };
        let url = rest.split(' ').next().expect("a URL").to_owned();
        Self { child, url, stdout, stderr }
    }

    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// Waits until the log has `text`.
    fn wait_for_log(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).expect("text") > 0, "the server ended and did not say {text}");
        }
    }

    /// The end of the process: its exit code and the rest of what it said.
    pub fn wait(mut self) -> Ran {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stderr.read_to_string(&mut stderr).expect("text");
        self.stdout.read_to_string(&mut stdout).expect("text");
        Ran { code: self.child.wait().expect("an end").code(), stdout, stderr }
    }

    pub fn stop(self) {
        self.signal(Signal::TERM);
        let ran = self.wait();
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Of a test that failed. One that was waited for is gone.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client whose statement runs on the server.
fn start_client(workspace: &Workspace, server: &Server, sql: &str) -> Child {
    let arguments = ["sql", "--quiet", "--format", "csv", "--connect", &server.url, "-c", sql];
    let command = &mut workspace.onward(&arguments);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a client");
    // This statement and that one.
    let running = "select count(*) as n from system.queries where state = 'running'";
    let count = || workspace.sql(running, &["--format", "csv", "--connect", &server.url]);
    let deadline = Instant::now() + PATIENCE;
    while count() != "n\n2\n" && client.try_wait().expect("a child").is_none() {
        assert!(Instant::now() < deadline, "the statement never ran");
    }
    client
}

#[test]
fn a_server_is_ready_when_it_says_so_and_its_data_directory_is_its_own() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &["--data-dir", "data"]);
    let remote = |server: &Server, sql: &str| {
        workspace.sql(sql, &["--format", "csv", "--connect", &server.url, "--functions", "2"])
    };
    remote(&server, "create table t as select value as a from generate_series(1, 1000)");
    assert_eq!(remote(&server, "select sum(a) as s from t"), "s\n500500\n");

    let second = workspace.run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", "data", "--log", "off"]);
    second.expect_error(&["data"]);
    workspace.run(&["sql", "--data-dir", "data", "-c", "select 1 from t"]).expect_error(&["data"]);
    server.stop();

    let server = Server::start(&workspace, &["--data-dir", "data"]);
    assert_eq!(remote(&server, "select count(*) as n from t"), "n\n1000\n", "a restart keeps tables");
    let remote_error = workspace.run(&["sql", "--connect", &server.url, "-c", "select nope from t"]);
    let local_error = |server: Server| {
        server.stop();
        workspace.run(&["sql", "--data-dir", "data", "-c", "select nope from t"])
    };
    assert_eq!(remote_error.stderr, local_error(server).stderr, "a server's error is the engine's");
    workspace.assert_nothing_left();
}

#[test]
fn sigterm_lets_running_statements_end_and_refuses_new_ones() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &["--set", "drain_timeout_ms=600000"]);
    // A few seconds, which is enough to be seen; nothing here depends on it.
    let client = start_client(&workspace, &server, "select sum(value) as s from generate_series(1, 2000000000)");
    server.signal(Signal::TERM);
    server.wait_for_log("draining");
    workspace.run(&["sql", "--connect", &server.url, "-c", "select 1"]).expect_error(&[]);
    let ran = Ran::from(client.wait_with_output().expect("an end"));
    assert_eq!(ran.expect_success(), "s\n2000000001000000000\n");
    assert_eq!(server.wait().code, Some(0));
    workspace.assert_nothing_left();
}

/// What a killed server left in memory and on disk is gone as soon as the next one is ready, long before it needs a function.
#[test]
fn the_next_server_removes_what_a_killed_one_left() {
    let workspace = Workspace::new();
    let segments = workspace.path("segments");
    let arguments = ["--set", &format!("segment_dir={}", segments.display())];
    let mut server = Server::start(&workspace, &arguments);
    let connect = ["--connect", &server.url, "--functions", "2"];
    workspace.sql("select sum(value) from generate_series(1, 1000)", &connect);
    server.child.kill().expect("it runs");
    server.child.wait().expect("it ends");
    let left =
        || -> Vec<_> { [&segments, &workspace.path("spill")].into_iter().flat_map(|dir| entries(dir)).collect() };
    let before = left();
    assert!(before.len() >= 3, "segments in memory and on disk, and the host's directory: {before:?}");
    let client = workspace.run(&["sql", "--connect", &server.url, "-c", "select 1"]);
    client.expect_error(&["onward serve"]);

    let server = Server::start(&workspace, &arguments);
    let still: Vec<_> = left().into_iter().filter(|path| before.contains(path)).collect();
    assert_eq!(still, Vec::<std::path::PathBuf>::new());
    server.stop();
    assert_eq!(left(), Vec::<std::path::PathBuf>::new());
}

/// A statement that runs when its server dies ends with an error that says so.
#[test]
fn a_client_says_that_its_server_is_gone() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[]);
    let client = start_client(&workspace, &server, ENDLESS);
    server.child.kill().expect("it runs");
    server.child.wait().expect("it ends");
    Ran::from(client.wait_with_output().expect("an end")).expect_error(&["the connection to the server was lost"]);
}

#[test]
fn a_drain_ends_after_its_time_and_a_second_signal_ends_it_at_once() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &["--set", "drain_timeout_ms=1"]);
    let client = start_client(&workspace, &server, ENDLESS);
    server.stop();
    Ran::from(client.wait_with_output().expect("an end")).expect_error(&[]);

    let mut server = Server::start(&workspace, &["--set", "drain_timeout_ms=600000"]);
    let client = start_client(&workspace, &server, ENDLESS);
    server.signal(Signal::TERM);
    server.wait_for_log("draining");
    server.signal(Signal::INT);
    assert_eq!(server.wait().code, Some(1));
    Ran::from(client.wait_with_output().expect("an end")).expect_error(&[]);
    workspace.assert_nothing_left();
}

#[test]
fn a_server_with_token_and_certificate_answers_who_has_both() {
    let workspace = Workspace::new();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a key");
    std::fs::write(workspace.path("cert.pem"), made.cert.pem()).expect("a file");
    std::fs::write(workspace.path("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    std::fs::write(workspace.path("token"), "s3cret\n").expect("a file");
    let server =
        Server::start(&workspace, &["--token-file", "token", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    assert!(server.url.starts_with("grpc+tls://"), "{}", server.url);
    let base = ["sql", "--quiet", "--format", "csv", "--connect", &server.url, "-c", "select 1 as a"];
    let run = |more: &[&str]| workspace.run(&[&base[..], more].concat());
    assert_eq!(run(&["--ca-file", "cert.pem", "--token-file", "token"]).expect_success(), "a\n1\n");
    run(&["--ca-file", "cert.pem"]).expect_error(&["ONWARD_TOKEN"]);
    run(&["--token-file", "token"]).expect_error(&["grpc+tls://"]);
    server.stop();
    let exposed = workspace.run(&["serve", "--listen", "0.0.0.0:0", "--log", "off"]);
    exposed.expect_error(&["--token-file", "--insecure"]);
}

#[test]
fn files_outside_the_allowed_directories_are_refused() {
    let workspace = Workspace::new();
    workspace.parquet("t.parquet", 10);
    std::fs::create_dir(workspace.path("open")).expect("a directory");
    std::fs::copy(workspace.path("t.parquet"), workspace.path("open/t.parquet")).expect("a copy");
    let server = Server::start(&workspace, &["--allow-path", "open"]);
    let count = |path: &str| {
        let sql = format!("select count(*) as n from '{}'", workspace.path(path).display());
        workspace.run(&["sql", "--quiet", "--format", "csv", "--connect", &server.url, "-c", &sql])
    };
    assert_eq!(count("open/t.parquet").expect_success(), "n\n10\n");
    count("t.parquet").expect_error(&["t.parquet", "--allow-path"]);
    server.stop();
}

//! Several coordinators: one leads, another one takes over, and nobody is told anything wrong meanwhile.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use datafusion::arrow::array::RecordBatch;
use futures::TryStreamExt;
use onward_endpoint::SESSION_HEADER;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::flight::server::text;
use crate::support::coordinators::Coordinators;

pub(super) const BINARY: &str = env!("CARGO_BIN_EXE_onward");
/// However slow the machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn start(count: usize, settings: &[&str]) -> Option<Coordinators> {
    match Coordinators::start(Path::new(BINARY), count, settings) {
        Ok(coordinators) => Some(coordinators),
        Err(why) => {
            eprintln!("skipped: no etcd here, so nothing was tested with one: {why}");
            None
        }
    }
}

/// A client that is connected to one coordinator.
pub(super) struct Client {
    sql: FlightSqlServiceClient<Channel>,
}

impl Client {
    async fn connect(url: &str) -> Option<Self> {
        let url = url.replace("grpc://", "http://");
        let channel = Endpoint::from_shared(url).expect("an address").connect().await.ok()?;
        Some(Self { sql: FlightSqlServiceClient::new(channel) })
    }

    /// Its session is the one of that name, and no longer that of its connection, which tonic replaces without a word.
    fn in_session(mut self, name: &str) -> Self {
        self.sql.set_header(SESSION_HEADER, name);
        self
    }

    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, FlightError> {
        let info = self.sql.execute(sql.to_owned(), None).await?;
        let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
        self.sql.do_get(ticket).await?.try_collect().await
    }

    pub(super) async fn rows(&mut self, sql: &str) -> Vec<String> {
        text(&self.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")))
    }
}

pub(super) async fn client(url: &str) -> Client {
    Client::connect(url).await.expect("it listens")
}

/// Where the coordinator is that leads, whoever is asked.
pub(super) async fn leader(coordinators: &Coordinators) -> usize {
    let mut asked = client(&coordinators.processes[0].url).await;
    let name = asked.rows("SELECT name FROM system.coordinators WHERE leads").await.remove(0);
    coordinators.processes.iter().position(|process| process.url == name).expect("one of them")
}

/// An error that says: try again.
pub(super) fn is_retryable(error: &FlightError) -> bool {
    match error {
        FlightError::Tonic(status) => {
            // A connection that ends in the middle of an answer has no status of its own.
            let is_cut = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled)
                && std::error::Error::source(&**status).is_some();
            status.code() == Code::Unavailable || is_cut
        }
        _ => false,
    }
}

/// A call that the server had not looked at when it closed the connection: clients of gRPC send it again by themselves, and tonic does
/// not.
fn is_unsent(error: &FlightError) -> bool {
    let FlightError::Tonic(status) = error else { return false };
    let mut causes = std::iter::successors(std::error::Error::source(&**status), |error| error.source());
    causes.any(|cause| {
        let is_unseen = cause.downcast_ref::<h2::Error>().is_some_and(|error| error.is_go_away() && error.is_remote());
        is_unseen || cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
    })
}

/// Whoever is asked, who leads answers; what one defines the others know.
#[tokio::test(flavor = "multi_thread")]
async fn any_coordinator_answers_for_the_one_that_leads() {
    let Some(coordinators) = start(3, &[]) else { return };
    let mut clients = Vec::new();
    for process in &coordinators.processes {
        clients.push(client(&process.url).await);
    }
    clients[0].rows("CREATE TABLE t AS SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS t(k, v)").await;
    for client in &mut clients {
        assert_eq!(client.rows("SELECT k, v FROM t ORDER BY k").await, ["1|a", "2|b"]);
        // A session is one of its connection, whoever answers.
        client.rows("SET datafusion.execution.batch_size = 17").await;
        let set = "SELECT value FROM information_schema.df_settings WHERE name = 'datafusion.execution.batch_size'";
        assert_eq!(client.rows(set).await, ["17"]);
    }
    let leaders = clients[1].rows("SELECT count(*) FROM system.coordinators WHERE leads").await;
    assert_eq!(leaders, ["1"]);
    let error = clients[2].query("SELECT nothing FROM t").await.expect_err("no such column");
    assert!(matches!(&error, FlightError::Tonic(status) if status.code() == Code::InvalidArgument), "{error}");
}

/// Tables, settings, prepared statements and the history are there after the leader was killed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_coordinator_knew_survives_it() {
    let Some(mut coordinators) = start(2, &[]) else { return };
    let first = leader(&coordinators).await;
    let standby = 1 - first;
    // Connected to the other one, which stays.
    let mut session = client(&coordinators.processes[standby].url).await;
    session.rows("CREATE SCHEMA kept").await;
    session.rows("CREATE TABLE kept.t AS SELECT value AS k FROM generate_series(1, 100)").await;
    session.rows("CREATE VIEW v AS SELECT sum(k) AS s FROM kept.t").await;
    session.rows("SET onward.functions = 2").await;
    session.rows("PREPARE more AS SELECT $1 + s FROM v").await;
    let mut prepared =
        session.sql.prepare("SELECT count(*) FROM kept.t".to_owned(), None).await.expect("it is planned");
    // They are written a moment after they ended: at least the first ones are when the last one is.
    for _ in 0..20 {
        session.rows("SELECT s AS remembered FROM v").await;
    }
    session.rows("CREATE VIEW w AS SELECT 1 AS one").await;

    coordinators.processes[first].signal(Signal::KILL);
    coordinators.processes[first].wait();

    assert_eq!(session.rows("SELECT s FROM v").await, ["5050"]);
    assert_eq!(session.rows("EXECUTE more(7)").await, ["5057"]);
    let set = "SELECT value FROM information_schema.df_settings WHERE name = 'onward.functions'";
    assert_eq!(session.rows(set).await, ["2"]);
    let info = prepared.execute().await.expect("it is known");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let counted: Vec<RecordBatch> = session.sql.do_get(ticket).await.expect("rows").try_collect().await.expect("rows");
    assert_eq!(text(&counted), ["100"]);
    let history =
        "SELECT count(*) > 0 FROM system.queries WHERE sql = 'SELECT s AS remembered FROM v' AND state = 'done'";
    assert_eq!(session.rows(history).await, ["true"]);
    session.rows("INSERT INTO kept.t VALUES (1000)").await;
    assert_eq!(session.rows("SELECT s FROM v").await, ["6050"]);
    coordinators.processes.remove(first);
    assert_eq!(leader(&coordinators).await, 0);
}

/// What clients of a cluster saw while something happened to it.
#[derive(Default)]
struct Seen {
    answers: u64,
    /// Retryable errors.
    failures: Vec<String>,
    /// Ids whose INSERT was answered.
    inserted: Vec<u64>,
}

impl Seen {
    fn failed(&mut self, sql: &str, error: &FlightError) {
        assert!(is_retryable(error), "{sql}: {error:?}");
        if !is_unsent(error) {
            self.failures.push(format!("{sql}: {error:?}"));
        }
    }
}

/// Queries and writes, one after the other, until told to stop. A client whose connection fails goes to the next coordinator.
async fn work(urls: Arc<Vec<String>>, number: usize, stop: Arc<AtomicBool>) -> Seen {
    let (mut seen, mut at, mut id) = (Seen::default(), number, number as u64 * 1_000_000);
    // Half of the readers run on functions, small as their queries are. That is said once.
    let mut to_set = (!number.is_multiple_of(2)).then_some("SET onward.functions = 2");
    let mut connected: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let client = match &mut connected {
            Some(client) => client,
            None => {
                at += 1;
                let Some(client) = Client::connect(&urls[at % urls.len()]).await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                connected.insert(client.in_session(&format!("client-{number}")))
            }
        };
        if let Some(set) = to_set {
            match client.query(set).await {
                Ok(_) => to_set = None,
                Err(error) => {
                    seen.failed(set, &error);
                    connected = None;
                    continue;
                }
            }
        }
        id += 1;
        let is_write = number.is_multiple_of(8);
        let sql = match is_write {
            true => format!("INSERT INTO log VALUES ({id})"),
            false => "SELECT count(*), sum(k), min(v) FROM t WHERE k % 3 = 0".to_owned(),
        };
        match client.query(&sql).await {
            Ok(_) if is_write => seen.inserted.push(id),
            Ok(rows) => {
                assert_eq!(text(&rows), ["333|166833|v102"]);
                seen.answers += 1;
            }
            Err(error) => {
                seen.failed(&sql, &error);
                connected = None;
            }
        }
    }
    seen
}

async fn define(coordinators: &Coordinators) {
    let mut client = client(&coordinators.processes[0].url).await;
    let table = "CREATE TABLE t AS SELECT value AS k, 'v' || value AS v FROM generate_series(1, 1000)";
    client.rows(table).await;
    client.rows("CREATE TABLE log (id BIGINT)").await;
}

/// Every INSERT that was answered is there once, and none is there twice.
async fn check_log(url: &str, seen: &[Seen]) {
    let rows = client(url).await.rows("SELECT id FROM log").await;
    let mut ids: Vec<u64> = rows.iter().map(|id| id.parse().expect("a number")).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "a row is there twice");
    for id in seen.iter().flat_map(|seen| &seen.inserted) {
        assert!(ids.binary_search(id).is_ok(), "{id} was answered and is lost");
    }
}

/// Clients at work.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    fn start(urls: Vec<String>, clients: usize) -> Self {
        let (urls, stop) = (Arc::new(urls), Arc::new(AtomicBool::new(false)));
        let client = |number| tokio::spawn(work(Arc::clone(&urls), number, Arc::clone(&stop)));
        let clients = (0..clients).map(client).collect();
        Self { stop, clients }
    }

    async fn end(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Vec::new();
        for client in self.clients {
            seen.push(tokio::time::timeout(PATIENCE, client).await.expect("it hangs").expect("no panic"));
        }
        seen
    }

    /// No query failed, and the log is right.
    async fn end_well(self, url: &str) {
        let seen = self.end().await;
        let failures: Vec<&String> = seen.iter().flat_map(|seen| &seen.failures).collect();
        assert!(failures.is_empty(), "{failures:#?}");
        check_log(url, &seen).await;
    }
}

/// Works until `disturb` is done and for some answers more.
async fn disturbed(coordinators: &Coordinators, clients: usize, disturb: impl AsyncFnOnce()) -> Vec<Seen> {
    let load = Load::start(coordinators.urls(), clients);
    disturb().await;
    load.end().await
}

/// Resolves when a coordinator other than `before` leads; its name.
pub(super) async fn led_by_another(url: &str, before: &str) -> String {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let looking = async {
        loop {
            looks.tick().await;
            let Some(mut client) = Client::connect(url).await else { continue };
            let Ok(rows) = client.query("SELECT name FROM system.coordinators WHERE leads").await else { continue };
            if let [name] = text(&rows).as_slice()
                && name != before
            {
                return name.clone();
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("another one leads in time")
}

/// Killed in the middle of queries and writes: clients see retryable errors only, and no row is lost or there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_killed_under_load() {
    let Some(coordinators) = start(2, &[]) else { return };
    define(&coordinators).await;
    let first = leader(&coordinators).await;
    let (old, other) = (coordinators.processes[first].url.clone(), coordinators.processes[1 - first].url.clone());
    let seen = disturbed(&coordinators, 16, async || {
        coordinators.processes[first].signal(Signal::KILL);
        led_by_another(&other, &old).await;
    })
    .await;
    assert!(seen.iter().map(|seen| seen.answers).sum::<u64>() > 0);
    check_log(&other, &seen).await;
}

/// Stopped past its lease, and then going on: it answers nothing any more itself, and nothing that it does counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_is_deposed_when_it_goes_on() {
    let Some(coordinators) = start(2, &[]) else { return };
    define(&coordinators).await;
    let first = leader(&coordinators).await;
    let (old, other) = (coordinators.processes[first].url.clone(), coordinators.processes[1 - first].url.clone());
    let seen = disturbed(&coordinators, 16, async || {
        coordinators.processes[first].signal(Signal::STOP);
        let new = led_by_another(&other, &old).await;
        assert_eq!(new, other);
        coordinators.processes[first].signal(Signal::CONT);
        // It hands calls on to the one that leads.
        assert_eq!(led_by_another(&old, &old).await, other);
    })
    .await;
    check_log(&old, &seen).await;
    check_log(&other, &seen).await;
}

/// Rows that a client asked for and does not fetch are waited for some seconds, not for `drain_timeout_ms`, whoever would make them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_fetches_do_not_keep_a_leader() {
    let Some(coordinators) = start(2, &["drain_timeout_ms=600000"]) else { return };
    define(&coordinators).await;
    let first = leader(&coordinators).await;
    let (old, other) = (coordinators.processes[first].url.clone(), coordinators.processes[1 - first].url.clone());
    let mut asks = client(&other).await;
    for functions in ["1", "2"] {
        asks.rows(&format!("SET onward.functions = {functions}")).await;
        asks.sql.execute("SELECT k FROM t ORDER BY v".to_owned(), None).await.expect("it is planned");
    }
    coordinators.processes[first].signal(Signal::TERM);
    assert_eq!(led_by_another(&other, &old).await, other);
}

/// One address for all coordinators, as a load balancer gives it: a connection goes to the first one that takes it.
async fn balance(targets: Arc<Mutex<Vec<String>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("grpc://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let targets = targets.lock().clone();
            tokio::spawn(async move {
                for target in targets {
                    if let Ok(mut server) = TcpStream::connect(target.trim_start_matches("grpc://")).await {
                        // Whichever end is gone.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        return;
                    }
                }
            });
        }
    });
    url
}

/// One more coordinator, and the first one is told to end.
fn replace_first(coordinators: &mut Coordinators, targets: &Mutex<Vec<String>>) {
    coordinators.add();
    let mut first = coordinators.processes.remove(0);
    *targets.lock() = coordinators.urls();
    first.signal(Signal::TERM);
    assert!(tokio::task::block_in_place(|| first.wait()), "it ends well");
}

/// Hosts and coordinators are replaced, one by one, each told to end: no query fails.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_restarted_and_no_query_fails() {
    let Some(mut coordinators) = start(2, &["coordinator_functions=false", "heartbeat_ms=50"]) else { return };
    let mut hosts = vec![host(&coordinators), host(&coordinators)];
    define(&coordinators).await;
    let targets = Arc::new(Mutex::new(coordinators.urls()));
    let url = balance(Arc::clone(&targets)).await;
    let load = Load::start(vec![url.clone()], 8);
    for _ in 0..2 {
        hosts.push(host(&coordinators));
        joined(&url, 3).await;
        hosts.remove(0).terminate();
    }
    for _ in 0..2 {
        replace_first(&mut coordinators, &targets);
        joined(&url, 2).await;
    }
    load.end_well(&url).await;
}

/// The binary as the next version would be: nothing but its number differs, 9.1.0 for 0.1.0; and that.
fn next_version(coordinators: &Coordinators) -> (PathBuf, String) {
    let now = env!("CARGO_PKG_VERSION");
    // Compilers make a number of the first four bytes of a text.
    let (before, after) = (&now[..4], format!("9{}", &now[1..4]));
    let path = coordinators.root.path().join("onward-next");
    // By another process: a file that this one had open for writing is busy while any thread of it starts a program.
    let script = "LC_ALL=C sed \"s/$2/$3/g\" \"$0\" > \"$1\" && chmod +x \"$1\"";
    let (before, mut sh) = (before.replace('.', "[.]"), Command::new("sh"));
    sh.args(["-c", script, BINARY]).arg(&path).args([&before, &after]);
    assert!(tokio::task::block_in_place(|| sh.status()).expect("there is a shell").success());
    (path, format!("9{}", &now[1..]))
}

/// Hosts of the next version join, coordinators of it take over, and those of the version before end: no query fails, and work goes to
/// hosts of the version that leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_replaces_another_and_no_query_fails() {
    let Some(mut coordinators) = start(2, &["coordinator_functions=false", "heartbeat_ms=50"]) else { return };
    let old = [host(&coordinators), host(&coordinators)];
    define(&coordinators).await;
    let targets = Arc::new(Mutex::new(coordinators.urls()));
    let url = balance(Arc::clone(&targets)).await;
    joined(&url, 2).await;
    let load = Load::start(vec![url.clone()], 8);
    let now = env!("CARGO_PKG_VERSION");
    let (binary, next) = next_version(&coordinators);
    coordinators.binary = binary;
    let _new = [host(&coordinators), host(&coordinators)];
    joined(&url, 4).await;
    let at_work = "SELECT DISTINCT version FROM system.hosts WHERE functions > 0 AND host <> 'h-0'";
    let mut asks = client(&url).await;
    until("they work", async || asks.rows(at_work).await == [now]).await;
    for _ in 0..2 {
        replace_first(&mut coordinators, &targets);
        joined(&url, 4).await;
    }
    let mut asks = client(&url).await;
    assert_eq!(asks.rows("SELECT DISTINCT version FROM system.coordinators").await, [next.as_str()]);
    old.into_iter().for_each(HostProcess::terminate);
    joined(&url, 2).await;
    until("the new ones work", async || asks.rows(at_work).await == [next.as_str()]).await;
    load.end_well(&url).await;
}

/// Asks until the answer is wanted.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let looking = async {
        loop {
            looks.tick().await;
            if is_so().await {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Resolves when so many hosts have joined.
async fn joined(url: &str, count: usize) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let mut seen = "nothing".to_owned();
    let looking = async {
        let mut client = client(url).await;
        loop {
            looks.tick().await;
            match client.query("SELECT host, name, version, state FROM system.hosts WHERE host <> 'h-0'").await {
                Ok(rows) if text(&rows).len() == count => return,
                Ok(rows) => seen = format!("{:?}", text(&rows)),
                Err(error) => {
                    seen = error.to_string();
                    client = Client::connect(url).await.expect("somebody takes it");
                }
            }
        }
    };
    if tokio::time::timeout(PATIENCE, looking).await.is_err() {
        panic!("{count} hosts have not joined in time: {seen}");
    }
}

/// A host of the coordinators.
struct HostProcess(Child);

fn host(coordinators: &Coordinators) -> HostProcess {
    let mut command = Command::new(&coordinators.binary);
    command.args(["host", "--join", &coordinators.join(), "--advertise", "127.0.0.1:0", "--log", "warn"]);
    command.arg("--spill-dir").arg(coordinators.root.path()).stdin(Stdio::null()).stdout(Stdio::null());
    HostProcess(command.spawn().expect("the binary starts"))
}

impl HostProcess {
    fn terminate(mut self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), Signal::TERM).expect("a child");
        assert!(tokio::task::block_in_place(|| self.0.wait()).expect("it ends").success());
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        // An error says that it was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

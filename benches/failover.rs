//! A leader that is killed, stopped or told to end under many clients: how long until the next one answers, and what clients saw.
//!
//! `cargo bench --bench failover`
//!
//! Two coordinators of the real binary over an etcd of their own (Debian's etcd-server; its shortest lease is 2 s), and two hosts. The
//! clients are connected to both, in turn, and ask small queries of one function, one after the other; every eighth writes a row.
//! A client whose query fails as retryable goes to the other coordinator. Measured from the signal to the first answer of the new
//! leader, as a client of the other coordinator sees it. Every answer is compared, and at the end every row whose INSERT was answered
//! is looked for.
//!
//! Beside it: "Serverless Computing: One Step Forward, Two Steps Back" (CIDR 2019) elected a leader among 1,000 Lambdas through
//! DynamoDB in 16.7 s a round.

mod support;

#[path = "../tests/support/coordinators.rs"]
mod coordinators;
#[path = "../tests/support/etcd.rs"]
mod etcd;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use clap::Parser;
use coordinators::Coordinators;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use rustix::process::Signal;
use support::{BoxError, conditions, load};
use tonic::transport::{Channel, Endpoint};

/// Measures it.
#[derive(Parser)]
struct Options {
    /// Clients
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Times that each is done
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

const SETTLE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    println!("{}\n", conditions());
    println!("{} clients, {} rounds each; seconds from the signal\n", options.clients, options.rounds);
    println!(
        "| the leader is | first answer of the new leader: median, all | answers | retryable errors | other errors | lost or doubled rows |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for (name, signal) in [("killed", Signal::KILL), ("stopped", Signal::STOP), ("told to end", Signal::TERM)] {
        let mut all = Vec::new();
        let mut seen = Seen::default();
        for _ in 0..options.rounds {
            let round = round(options.clients, signal).await?;
            all.push(round.first_answer);
            seen.add(&round);
        }
        let mut sorted = all.clone();
        sorted.sort();
        let shown: Vec<String> = all.iter().map(|first| format!("{:.2}", first.as_secs_f64())).collect();
        println!(
            "| {name} | {:.2}: {} | {} | {} | {} | {} |",
            sorted[sorted.len() / 2].as_secs_f64(),
            shown.join(", "),
            seen.answers,
            seen.retryable,
            seen.other.iter().map(|(what, count)| format!("{count} x {what}")).collect::<Vec<_>>().join(", "),
            seen.lost
        );
    }
    println!("\nthe paper's round of election: 16.7 s\n{} after", load());
    Ok(())
}

/// What clients saw in a round.
#[derive(Default)]
struct Seen {
    first_answer: Duration,
    answers: u64,
    retryable: u64,
    other: BTreeMap<String, u64>,
    lost: usize,
}

impl Seen {
    fn add(&mut self, round: &Self) {
        self.answers += round.answers;
        self.retryable += round.retryable;
        self.lost += round.lost;
        for (what, count) in &round.other {
            *self.other.entry(what.clone()).or_default() += count;
        }
    }
}

struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn host(binary: &Path, coordinators: &Coordinators) -> Result<Host, BoxError> {
    let mut command = Command::new(binary);
    command.args(["host", "--join", &coordinators.join(), "--advertise", "127.0.0.1:0", "--log", "error"]);
    command.arg("--spill-dir").arg(coordinators.root.path()).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Host(command.spawn()?))
}

type Client = FlightSqlServiceClient<Channel>;

async fn connect(url: &str) -> Result<Client, BoxError> {
    let channel = Endpoint::from_shared(url.replace("grpc://", "http://"))?.connect().await?;
    Ok(FlightSqlServiceClient::new(channel))
}

async fn query(client: &mut Client, sql: &str) -> Result<Vec<RecordBatch>, FlightError> {
    let info = client.execute(sql.to_owned(), None).await?;
    let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.clone());
    let ticket = ticket.ok_or_else(|| FlightError::protocol("no ticket"))?;
    client.do_get(ticket).await?.try_collect().await
}

/// Who leads, as the coordinator at `url` says.
async fn leader(url: &str) -> Result<String, BoxError> {
    let rows = query(&mut connect(url).await?, "SELECT name FROM system.coordinators WHERE leads").await?;
    let first = rows.iter().find(|batch| batch.num_rows() > 0).ok_or("nobody leads")?;
    Ok(first.column(0).as_string::<i32>().value(0).to_owned())
}

struct Shared {
    urls: Vec<String>,
    stop: AtomicBool,
}

#[derive(Default)]
struct Worked {
    answers: u64,
    retryable: u64,
    other: BTreeMap<String, u64>,
    inserted: Vec<i64>,
}

async fn work(shared: Arc<Shared>, number: usize) -> Worked {
    let (mut worked, mut at, mut id) = (Worked::default(), number, number as i64 * 1_000_000);
    let mut connected = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let client = match &mut connected {
            Some(client) => client,
            None => {
                at += 1;
                match connect(&shared.urls[at % shared.urls.len()]).await {
                    Ok(client) => connected.insert(client),
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    }
                }
            }
        };
        id += 1;
        let is_write = number.is_multiple_of(8);
        let sql = match is_write {
            true => format!("INSERT INTO log VALUES ({id})"),
            false => "SELECT sum(k) FROM t WHERE k % 3 = 0".to_owned(),
        };
        match query(client, &sql).await {
            Ok(rows) => {
                worked.answers += 1;
                if is_write {
                    worked.inserted.push(id);
                } else if rows.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0)).sum::<i64>()
                    != 166_833
                {
                    *worked.other.entry("wrong answer".to_owned()).or_default() += 1;
                }
            }
            Err(error) => {
                connected = None;
                match &error {
                    FlightError::Tonic(status) if status.code() == tonic::Code::Unavailable => worked.retryable += 1,
                    // The connection ended: what every client of gRPC takes for retryable.
                    FlightError::Tonic(status) if std::error::Error::source(&**status).is_some() => {
                        worked.retryable += 1
                    }
                    other => *worked.other.entry(other.to_string()).or_default() += 1,
                }
            }
        }
    }
    worked
}

async fn round(clients: usize, signal: Signal) -> Result<Seen, BoxError> {
    let binary = Path::new(env!("CARGO_BIN_EXE_onward"));
    let mut coordinators = Coordinators::start(binary, 2, &[])?;
    let _hosts = [host(binary, &coordinators)?, host(binary, &coordinators)?];
    let urls = coordinators.urls();
    let mut client = connect(&urls[0]).await?;
    query(&mut client, "CREATE TABLE t AS SELECT value AS k FROM generate_series(1, 1000)").await?;
    query(&mut client, "CREATE TABLE log (id BIGINT)").await?;
    let before = leader(&urls[0]).await?;
    let leading = urls.iter().position(|url| *url == before).ok_or("the leader is none of them")?;
    let other = urls[1 - leading].clone();
    let shared = Arc::new(Shared { urls, stop: AtomicBool::new(false) });
    let working: Vec<_> = (0..clients).map(|number| tokio::spawn(work(Arc::clone(&shared), number))).collect();
    tokio::time::sleep(SETTLE).await;
    let begun = Instant::now();
    coordinators.processes[leading].signal(signal);
    // What a coordinator that is told to end still answers itself is not the new leader's.
    let led = async {
        loop {
            if leader(&other).await.is_ok_and(|now| now == other) {
                return begun.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let first_answer = tokio::time::timeout(PATIENCE, led).await;
    let first_answer = first_answer.map_err(|_| format!("the other one does not lead:\n{}", coordinators.logs()))?;
    tokio::time::sleep(SETTLE).await;
    if signal == Signal::STOP {
        coordinators.processes[leading].signal(Signal::CONT);
        tokio::time::sleep(SETTLE).await;
    }
    shared.stop.store(true, Ordering::Relaxed);
    let mut seen = Seen { first_answer, ..Seen::default() };
    let mut inserted = Vec::new();
    for worked in working {
        let worked = tokio::time::timeout(PATIENCE, worked).await??;
        seen.answers += worked.answers;
        seen.retryable += worked.retryable;
        for (what, count) in worked.other {
            *seen.other.entry(what).or_default() += count;
        }
        inserted.extend(worked.inserted);
    }
    let rows = query(&mut connect(&other).await?, "SELECT id FROM log").await?;
    let mut ids: Vec<i64> =
        rows.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    ids.sort_unstable();
    let doubled = ids.windows(2).filter(|pair| pair[0] == pair[1]).count();
    seen.lost = doubled + inserted.iter().filter(|id| ids.binary_search(id).is_err()).count();
    if signal == Signal::TERM && !coordinators.processes[leading].wait() {
        *seen.other.entry("it did not end well".to_owned()).or_default() += 1;
    }
    Ok(seen)
}

//! Several hosts: processes of the real binary that join a coordinator, on loopback addresses and in network namespaces.

mod available;
mod fencing;
mod hosts;
mod inherited;
mod lambda;
mod provided;
mod results;
mod upgrade;

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use futures::TryStreamExt;
use onward_coordinator::Session;
use onward_tpch::{Client, Dataset, Functions, GenerateOptions, RunOptions};
use onward_wire::Config;

use self::hosts::Hosts;
use crate::oracle::rows::cells;
use crate::oracle::single::Engine;
use crate::oracle::{single, tables};
use crate::slt;
use crate::support::network::Network;

async fn rows(session: &Arc<Session>, sql: &str) -> Vec<Vec<String>> {
    let (_, batches) = session.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    cells(&batches).expect("rows that can be shown")
}

async fn expected(data: &std::path::Path, sql: &str) -> Vec<Vec<String>> {
    let context = single::single_process();
    for definition in tables::definitions(data) {
        Engine::run(&context, &definition).await.expect("a table");
    }
    cells(&Engine::run(&context, sql).await.expect("it runs").1).expect("rows that can be shown")
}

/// Small enough that the test tables take every way between hosts: inline, one segment, many segments, many requests.
fn small() -> Config {
    Config {
        inline_attempt_bytes: 2 << 10,
        inline_exchange_bytes: 6 << 10,
        inline_query_bytes: 16 << 10,
        flush_bytes: 4 << 10,
        fetch_bytes: 10 << 10,
        skewed_partition_bytes: 1 << 10,
        vcpus: 2,
        memory_bytes: 1 << 30,
        ..crate::support::config()
    }
}

const JOIN: &str =
    "SELECT a.grp, count(*), sum(b.id) FROM nums a JOIN nums b ON a.day = b.day GROUP BY a.grp ORDER BY 1";

/// Its build side tells the probe side what it need not send.
const FILTERED: &str = "SELECT a.grp, count(*), sum(b.id) FROM nums a JOIN nums b ON a.day = b.day WHERE a.id % 3 = 1 \
                        AND b.val IN (SELECT val FROM nums GROUP BY val HAVING count(*) > 1) GROUP BY a.grp ORDER BY 1";

/// The test tables, in a directory and in the catalog.
async fn define(hosts: &Hosts) -> PathBuf {
    let data = hosts.root.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    tables::write_all(&data).await;
    let session = hosts.session(&[]).await;
    for definition in tables::definitions(&data) {
        session.run(&definition).await.unwrap_or_else(|error| panic!("{definition}: {error}"));
    }
    data
}

/// Rows are those of one process, bytes go from host to host, and nothing is left of them when the query is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_runs_over_the_hosts_that_joined() {
    let hosts = Hosts::start(None, 2, small()).await;
    let data = define(&hosts).await;
    let session = hosts.session(&["SET onward.functions = 4", "SET datafusion.execution.batch_size = 7"]).await;
    assert_eq!(rows(&session, JOIN).await, expected(&data, JOIN).await);
    let used = "SELECT functions_used FROM system.queries WHERE functions_used IS NOT NULL ORDER BY 1 DESC LIMIT 1";
    assert_eq!(rows(&session, used).await, [["4"]]);
    // Heartbeats come in their own time.
    let (mut fetched, mut segments) = (0, 1);
    while fetched == 0 || segments > 0 {
        let sql = "SELECT sum(fetched_bytes), sum(segments) FROM system.hosts WHERE host <> 'h-0'";
        let seen = rows(&session, sql).await;
        (fetched, segments) = (seen[0][0].parse::<u64>().unwrap_or(0), seen[0][1].parse::<u64>().unwrap_or(1));
    }
    let there = rows(&session, "SELECT host, vcpus FROM system.hosts ORDER BY 1").await;
    assert_eq!(there, [["h-0", "2"], ["h-1", "2"], ["h-2", "2"]]);
    hosts.stop().await;
}

/// A host brings a broadcast here once, however many of its functions read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_crosses_to_a_host_once() {
    let config = Config { inline_attempt_bytes: 0, fetch_bytes: 1 << 20, vcpus: 4, ..small() };
    let hosts = Hosts::start(None, 2, config).await;
    let data = define(&hosts).await;
    let session = hosts.session(&["SET onward.functions = 8"]).await;
    let sql = "SELECT count(*), count(b.txt), sum(b.val), max(b.at) FROM nums a JOIN nums b ON a.id = b.id";
    let planned = rows(&session, &format!("EXPLAIN {sql}")).await[0].join(" ");
    assert!(planned.contains("output: broadcast"), "{planned}");
    assert_eq!(rows(&session, sql).await, expected(&data, sql).await);
    let exchanged = format!("SELECT exchange_bytes FROM system.queries WHERE sql = '{sql}'");
    let exchanged: u64 = rows(&session, &exchanged).await[0][0].parse().expect("a number");
    // Heartbeats come in their own time: the query's segments are gone with the last of them.
    let fetched = loop {
        let sql = "SELECT sum(fetched_bytes), sum(segments) FROM system.hosts WHERE host <> 'h-0'";
        let seen = rows(&session, sql).await;
        match (seen[0][0].parse::<u64>(), seen[0][1].as_str()) {
            (Ok(fetched), "0") if fetched > 0 => break fetched,
            _ => {}
        }
    };
    // Each host has half of it. Eight functions would fetch four times as much.
    assert!(fetched < exchanged * 3 / 2, "{fetched} of {exchanged}");
    hosts.stop().await;
}

/// A host that is killed takes its part of every exchange with it; the query ends with the right rows all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_outlives_a_host_that_is_killed() {
    let mut hosts = Hosts::start(None, 3, small()).await;
    let data = define(&hosts).await;
    let session = hosts.session(&["SET onward.functions = 6", "SET datafusion.execution.batch_size = 7"]).await;
    for (victim, sql) in [(0, JOIN), (1, FILTERED)] {
        let right = expected(&data, sql).await;
        let execution = session.execute(sql).await.expect("it is planned");
        let mut progress = execution.progress.clone();
        // Some tasks are done, and their output lies on all hosts; others are to come.
        progress.wait_for(|progress| progress.tasks_done > 2 + victim).await.expect("it runs");
        hosts.processes[victim as usize].kill();
        let batches: Vec<RecordBatch> = execution.stream.try_collect().await.expect("it ends well");
        assert_eq!(cells(&batches).expect("rows"), right);
        hosts.add(None);
    }
    let there = rows(&session, "SELECT count(*) FROM system.hosts").await;
    assert_eq!(there, [["4"]], "the killed ones are gone, new ones are there");
    hosts.stop().await;
}

/// A host that nobody can reach works like any other: its output goes to one that can be reached.
#[tokio::test(flavor = "multi_thread")]
async fn an_outbound_host_gives_its_output_away() {
    let mut hosts = Hosts::start(None, 1, small()).await;
    hosts.add_outbound(None);
    gives_away(&hosts, "SET onward.functions = 4").await;
    hosts.stop().await;
}

async fn gives_away(hosts: &Hosts, functions: &str) {
    let data = define(hosts).await;
    let session = hosts.session(&[functions, "SET datafusion.execution.batch_size = 7"]).await;
    assert_eq!(rows(&session, JOIN).await, expected(&data, JOIN).await);
    // Heartbeats come in their own time.
    loop {
        let sql = "SELECT min(fetched_bytes), sum(segments) FROM system.hosts WHERE host <> 'h-0' AND address IS NULL";
        let seen = rows(&session, sql).await;
        if seen[0][0] != "0" && seen[0][1] == "0" {
            break;
        }
    }
    let all = "SELECT sum(segments) FROM system.hosts WHERE host <> 'h-0'";
    while rows(&session, all).await != [["0"]] {}
}

/// Behind a firewall that drops whatever comes in, and listening on nothing.
#[test]
fn functions_behind_a_firewall_only_dial_out() {
    let network = match Network::new(3).and_then(|network| network.drop_inbound(3).map(|()| network)) {
        Ok(network) => network,
        Err(why) => return eprintln!("skipped: no network namespace with a firewall here: {why}"),
    };
    network.enter(1);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        let root = tempfile::tempdir().expect("a directory");
        let mut hosts = Hosts::start(Some(&network), 2, Config { cluster_dir: certificates(&root), ..small() }).await;
        let behind = hosts.add_outbound(Some((&network, 3)));
        assert_eq!(behind.listens_on(), [] as [String; 0]);
        let knock = std::net::TcpStream::connect_timeout(
            &format!("{}:22", Network::address(3)).parse().expect("an address"),
            std::time::Duration::from_millis(200),
        );
        assert_eq!(knock.expect_err("a firewall").kind(), std::io::ErrorKind::TimedOut, "dropped, not refused");
        gives_away(&hosts, "SET onward.functions = 3").await;
        hosts.stop().await;
    });
}

/// What `onward tls init` makes.
fn certificates(root: &tempfile::TempDir) -> String {
    let dir = root.path().join("certificates");
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_onward")).args(["tls", "init"]).arg(&dir).output();
    assert!(made.expect("the binary runs").status.success());
    dir.to_string_lossy().into_owned()
}

/// With certificates hosts talk TLS, and one that has none of this cluster is not let in.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_decide_who_joins() {
    let roots = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let [ours, other] = roots.each_ref().map(certificates);
    let hosts = Hosts::start(None, 2, Config { cluster_dir: ours, ..small() }).await;
    let data = define(&hosts).await;
    assert!(hosts.processes[0].ready.contains("grpc+tls://"), "{}", hosts.processes[0].ready);
    let session = hosts.session(&["SET onward.functions = 2"]).await;
    assert_eq!(rows(&session, JOIN).await, expected(&data, JOIN).await);

    let join = |url: &str, dir: &str| {
        let mut command = std::process::Command::new("timeout");
        command.args(["5", env!("CARGO_BIN_EXE_onward"), "host", "--join", url, "--advertise", "127.0.0.1:0"]);
        let ran = command.arg("--set").arg(format!("cluster_dir={dir}")).output().expect("the binary runs");
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (code, said) = join(&hosts.join, "");
    assert!(code == Some(1) && said.contains("set cluster_dir"), "{code:?} {said}");
    // Neither trusts the other: it is refused as often as it tries.
    let (code, said) = join(&hosts.join, &other);
    assert!(code != Some(0) && said.contains("certificate"), "{code:?} {said}");
    assert_eq!(rows(&session, "SELECT count(*) FROM system.hosts").await, [["3"]]);
    hosts.stop().await;
}

/// The corpus and the 22 queries of TPC-H at scale 1, over four hosts with certificates in namespaces of their own.
#[test]
fn four_hosts_in_namespaces_give_the_rows_of_one_process() {
    let network = match Network::new(4) {
        Ok(network) => network,
        Err(why) => {
            eprintln!("skipped: no network namespaces here, so nothing was tested over several hosts: {why}");
            return;
        }
    };
    eprintln!("four hosts on one switch, links of {}", network.shaping);
    network.enter(1);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(over_namespaces(&network));
}

async fn over_namespaces(network: &Network) {
    let root = tempfile::tempdir().expect("a directory");
    let config = Config { cluster_dir: certificates(&root), ..small() };
    let hosts = Hosts::start(Some(network), 4, config.clone()).await;
    let data = define(&hosts).await;
    for (settings, name) in [
        (vec!["SET onward.functions = 4", "SET datafusion.execution.batch_size = 7"], "four functions"),
        (vec!["SET onward.functions = 1"], "one function"),
    ] {
        for file in slt::files() {
            let session = hosts.session(&settings).await;
            let ran = slt::database::run(&file, session, &data).await;
            ran.unwrap_or_else(|error| panic!("{} with {name}: {error}", file.display()));
        }
    }
    hosts.stop().await;

    let defaults = Config { vcpus: 1, memory_bytes: 4 << 30, ..crate::support::config() };
    let hosts = Hosts::start(Some(network), 4, Config { cluster_dir: config.cluster_dir, ..defaults }).await;
    verify_tpch(&hosts, 1.0).await;
    hosts.stop().await;
}

/// The queries of TPC-H, on four functions, all with the right answers.
async fn verify_tpch(hosts: &Hosts, scale: f64) {
    let dataset = GenerateOptions::new(scale, Dataset::default_dir(scale));
    let dataset = tokio::task::spawn_blocking(move || Dataset::open_or_generate(&dataset)).await;
    let dataset = dataset.expect("no panic").expect("data");
    let server = onward_endpoint::ServerOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        allow_paths: vec![dataset.dir.clone()],
        ..onward_endpoint::ServerOptions::default()
    };
    let server = onward_endpoint::FlightServer::bind(server, Arc::clone(&hosts.coordinator)).await.expect("a port");
    let url = format!("http://{}", server.local_addr());
    let serving = tokio::spawn(server.serve(std::future::pending()));
    let mut client = Client::connect(&url).await.expect("it listens");
    let options = RunOptions { functions: Functions::Exactly(4), verify: true, ..RunOptions::default() };
    let report = onward_tpch::run(&mut client, &dataset, &options).await.expect("tables are registered");
    assert!(report.is_success(), "{report}");
    eprintln!("{report}");
    drop(client);
    serving.abort();
}

//! Hosts that a provider starts when queries want them.

use onward_wire::Config;

use super::hosts::Hosts;
use super::{JOIN, define, expected, rows, small, verify_tpch};
use crate::support::slurm::Slurm;

/// Of hosts that were started: names, and what they have done.
pub const STARTED: &str = "SELECT name FROM system.hosts WHERE name LIKE 'onward-test-%' ORDER BY 1";
pub const WORKED: &str = "SELECT count(*) FROM system.hosts WHERE name LIKE 'onward-test-%' AND functions > 0";

pub fn provided(config: Config) -> Config {
    Config {
        provider: "process".to_owned(),
        cluster_name: format!("test-{:08x}", fastrand::u32(..)),
        provider_arguments: "--advertise auto --log warn".to_owned(),
        provider_interval_ms: 50,
        max_hosts: 2,
        host_vcpus: 2,
        host_memory_bytes: 1 << 30,
        host_idle_timeout_ms: 300,
        function_idle_timeout_ms: 300,
        heartbeat_ms: 50,
        ..config
    }
}

/// Processes with the cluster's name on their command line.
fn processes(cluster: &str) -> usize {
    let of_cluster = |pid: &str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("onward-{cluster}-"))
    };
    let entries = std::fs::read_dir("/proc").expect("procfs");
    entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(of_cluster)).count()
}

/// The first query runs at once, on the coordinator; hosts join for the next ones, and leave when nothing is to do.
#[tokio::test(flavor = "multi_thread")]
async fn processes_come_with_queries_and_leave_without() {
    let hosts = Hosts::start(None, 0, provided(small())).await;
    let cluster = hosts.config.cluster_name.clone();
    let data = define(&hosts).await;
    let right = expected(&data, JOIN).await;
    let session = hosts.session(&["SET onward.functions = 4"]).await;
    assert_eq!(processes(&cluster), 0);
    let mut worked = 0;
    while worked == 0 {
        assert_eq!(rows(&session, JOIN).await, right);
        worked = rows(&session, WORKED).await[0][0].parse().expect("a number");
    }
    while !rows(&session, STARTED).await.is_empty() || processes(&cluster) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rows(&session, JOIN).await, right);
    hosts.stop().await;
    while processes(&cluster) > 0 {
        tokio::task::yield_now().await;
    }
}

/// A host that is told to leave ends what it runs; another one takes over, and no task runs twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_leaves_in_mid_query_costs_nothing() {
    let config = Config { function_lifetime_ms: 900_000, heartbeat_ms: 50, ..small() };
    let mut hosts = Hosts::start(None, 2, config).await;
    let data = define(&hosts).await;
    let right = expected(&data, JOIN).await;
    let settings = ["SET onward.functions = 4", "SET onward.tasks = 12"];
    let session = hosts.session(&settings).await;
    let running = tokio::spawn(async move {
        let mut all = Vec::new();
        for _ in 0..20 {
            all.push(rows(&session, JOIN).await);
        }
        all
    });
    let watcher = hosts.session(&[]).await;
    while rows(&watcher, "SELECT count(*) FROM system.hosts WHERE host <> 'h-0' AND functions > 0").await[0][0] != "2" {
        tokio::task::yield_now().await;
    }
    hosts.add(None);
    tokio::task::block_in_place(|| hosts.processes[0].terminate());
    for ran in running.await.expect("no panic") {
        assert_eq!(ran, right);
    }
    let twice = "SELECT coalesce(sum(attempts - tasks), 0) FROM system.queries WHERE functions > 1";
    assert_eq!(rows(&watcher, twice).await, [["0"]]);
    hosts.stop().await;
}

/// All queries of TPC-H on hosts that are jobs of Slurm, and one that `scancel` kills.
#[test]
fn hosts_are_jobs_of_slurm() {
    let slurm = match Slurm::start(8) {
        Ok(slurm) => slurm,
        Err(why) => {
            eprintln!("skipped: no Slurm here, so nothing was tested with one: {why}");
            return;
        }
    };
    tokio::runtime::Runtime::new().expect("threads").block_on(over_slurm(&slurm));
}

async fn over_slurm(slurm: &Slurm) {
    let conf = slurm.config().display().to_string();
    let config = Config {
        provider: "command".to_owned(),
        provider_start: format!(
            "env SLURM_CONF={conf} sbatch --job-name={{name}} --cpus-per-task={{vcpus}} --mem={{memory_mib}}M --output=/dev/null \
             --wrap 'exec {{command}}'"
        ),
        provider_stop: format!("env SLURM_CONF={conf} scancel --name={{name}}"),
        provider_list: format!("env SLURM_CONF={conf} squeue --noheader --format='%j %T'"),
        provider_interval_ms: 200,
        min_hosts: 2,
        host_memory_bytes: 4 << 30,
        vcpus: 2,
        ..provided(crate::support::config())
    };
    let hosts = Hosts::start(None, 0, config).await;
    let session = hosts.session(&[]).await;
    while rows(&session, STARTED).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    verify_tpch(&hosts, 1.0).await;

    // One job is killed; what it held is made again, and another host comes.
    let sql = "SELECT l_returnflag, count(*), sum(l_quantity) FROM lineitem GROUP BY 1 ORDER BY 1";
    let query = hosts.session(&["SET onward.functions = 4"]).await;
    let right = rows(&query, sql).await;
    let before = rows(&session, STARTED).await;
    slurm.command("scancel", &["--signal=KILL", "--batch", &format!("--name={}", before[0][0])]);
    loop {
        assert_eq!(rows(&query, sql).await, right);
        let now = rows(&session, STARTED).await;
        if now.len() == 2 && !now.contains(&before[0]) {
            break;
        }
    }
    hosts.stop().await;
    while slurm.command("squeue", &["--noheader", "--format=%j"]).contains("onward-test-") {}
}

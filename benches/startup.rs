//! What the first answer costs: whole processes, and one forced task.
//!
//! `cargo bench --bench startup`
//!
//! | line | mark |
//! | --- | --- |
//! | `onward sql -c "select 1"`, whole process | <= 60 ms |
//! | first query on a bare Parquet file, whole process | <= 200 ms more than single-process DataFusion |
//! | forced one-task query over Flight SQL, p50 | <= 4 ms |
//! | TPC-H SF0.1 on 4 functions, columns cached: with no function alive, more than with warm ones | <= 30 ms |

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use datafusion::prelude::{SessionConfig, SessionContext};
use onward_tpch::{Dataset, GenerateOptions, Table, queries};
use support::{BoxError, Server, conditions, cores, kill_functions, load, median, milliseconds, percentile};

/// Processes started per line.
const STARTS: usize = 15;
/// Queries of the one-task line, after as many warm-ups as a new connection may need.
const QUERIES: usize = 200;
const WARM_UPS: usize = 20;
/// Queries of the lines about functions that are not there.
const FROM_ZERO: [u8; 3] = [1, 3, 6];
/// First argument of the process that plays plain DataFusion.
const PLAIN: &str = "plain-datafusion";

fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if let [first, sql] = arguments.as_slice()
        && first == PLAIN
    {
        return runtime.block_on(run_plain(sql));
    }
    println!("{}", conditions());
    let dataset = Dataset::open_or_generate(&GenerateOptions::new(1.0, Dataset::default_dir(1.0)))?;
    let onward = env!("CARGO_BIN_EXE_onward");
    let plain = std::env::current_exe()?;

    report("onward sql -c \"select 1\", process", &starts(Path::new(onward), &["sql", "-c", "select 1"])?);
    report("DataFusion \"select 1\", process", &starts(&plain, &[PLAIN, "select 1"])?);
    let sql = format!("select count(*), sum(l_extendedprice) from '{}'", dataset.location(Table::LineItem)?);
    let ours = starts(Path::new(onward), &["sql", "-c", &sql])?;
    let theirs = starts(&plain, &[PLAIN, &sql])?;
    report("onward, first query on SF1 lineitem, process", &ours);
    report("DataFusion, the same, process", &theirs);
    println!("{:<48} {:>8.1} ms more", "", median(&ours) - median(&theirs));
    report("forced one-task query, Flight SQL", &runtime.block_on(one_task(&dataset))?);
    let dataset = Dataset::open_or_generate(&GenerateOptions::new(0.1, Dataset::default_dir(0.1)))?;
    for query in FROM_ZERO {
        let (zero, warm) = runtime.block_on(from_zero(&dataset, query))?;
        report(&format!("SF0.1 Q{query}, 4 functions, none alive"), &zero);
        report(&format!("SF0.1 Q{query}, 4 functions, warm"), &warm);
        println!("{:<48} {:>8.1} ms more", "", median(&zero) - median(&warm));
    }
    println!("{} at the end", load());
    Ok(())
}

/// Plain DataFusion on bare files, printing as `onward sql` does.
async fn run_plain(sql: &str) -> Result<(), BoxError> {
    let config = SessionConfig::new().with_target_partitions(cores());
    let context = SessionContext::new_with_config(config).enable_url_table();
    context.sql(sql).await?.show().await?;
    Ok(())
}

/// Milliseconds of whole processes, from spawn to exit. The first, which may read the binary from disk, does not count.
fn starts(program: &Path, arguments: &[&str]) -> Result<Vec<f64>, BoxError> {
    let mut runs_ms = Vec::new();
    for _ in 0..=STARTS {
        let start = Instant::now();
        let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        runs_ms.push(milliseconds(start.elapsed()));
        if !status.success() {
            return Err(format!("{} {arguments:?}: {status}", program.display()).into());
        }
    }
    runs_ms.remove(0);
    Ok(runs_ms)
}

/// Milliseconds of a small query that must go through one function, from a client that is connected.
async fn one_task(dataset: &Dataset) -> Result<Vec<f64>, BoxError> {
    let server = Server::start(&dataset.dir).await?;
    let mut client = server.connect().await?;
    for statement in dataset.registration()? {
        client.update(&statement).await?;
    }
    client.update("SET onward.functions = 1").await?;
    let mut runs_ms = Vec::new();
    for run in 0..WARM_UPS + QUERIES {
        let start = Instant::now();
        client.query("select n_regionkey, count(*) from nation group by n_regionkey").await?;
        if run >= WARM_UPS {
            runs_ms.push(milliseconds(start.elapsed()));
        }
    }
    drop(client);
    server.stop().await;
    Ok(runs_ms)
}

/// Milliseconds of a query when no function is alive, and right after that, when all are.
async fn from_zero(dataset: &Dataset, query: u8) -> Result<(Vec<f64>, Vec<f64>), BoxError> {
    let server = Server::start(&dataset.dir).await?;
    let mut client = server.connect().await?;
    for statement in dataset.registration()? {
        client.update(&statement).await?;
    }
    client.update("SET onward.functions = 4").await?;
    let sql = queries::sql(query, dataset.scale);
    client.query(&sql).await?;
    let (mut zero, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        kill_functions()?;
        // The host notices, and takes back what they held.
        tokio::time::sleep(Duration::from_millis(200)).await;
        for runs_ms in [&mut zero, &mut warm] {
            let start = Instant::now();
            client.query(&sql).await?;
            runs_ms.push(milliseconds(start.elapsed()));
        }
    }
    drop(client);
    server.stop().await;
    Ok((zero, warm))
}

fn report(line: &str, runs_ms: &[f64]) {
    let (p50, p90) = (median(runs_ms), percentile(runs_ms, 0.9));
    let min = percentile(runs_ms, 0.0);
    println!("{line:<48} {p50:>8.1} ms p50 {p90:>8.1} p90 {min:>8.1} min");
}

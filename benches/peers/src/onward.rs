//! Onward: `onward tpch run`, which starts server and functions, runs the queries over Flight SQL and checks their rows.

use serde_json::Value;
use tokio::process::Command;

use crate::report::{Answer, Run};
use crate::servers::text;
use crate::{BoxError, RunArgs};

/// Runs the queries.
pub async fn run(args: &RunArgs, has_cache: bool) -> Result<Vec<Answer>, BoxError> {
    let report = std::env::temp_dir().join(format!("onward-peers-{}.json", std::process::id()));
    let queries = args.queries.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new(&args.onward);
    command
        .args(["tpch", "run", "--verify", "--scale", &args.scale.to_string()])
        .args(["--data", text(&args.data)?, "--queries", &queries, "--iterations", &args.iterations.to_string()])
        .args(["--functions", &args.workers.to_string()])
        .args(["--set", &format!("vcpus={}", args.workers * args.threads)])
        .args(["--json", text(&report)?])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true);
    if !has_cache {
        command.arg("--no-cache");
    }
    // Queries that failed are in the report.
    command.status().await?;
    let read = std::fs::read(&report);
    let _ = std::fs::remove_file(&report);
    let report: Value = serde_json::from_slice(&read?)?;
    let queries = report["queries"].as_array().ok_or("the report of onward has no queries")?;
    queries.iter().map(answer).collect()
}

fn answer(query: &Value) -> Result<Answer, BoxError> {
    let number = query["query"].as_u64().ok_or("a query of the report has no number")?;
    let rows = query["rows"].as_u64().unwrap_or_default();
    let times = query["runs_ms"].as_array().into_iter().flatten().filter_map(Value::as_f64);
    let error = match (query["error"].as_str(), query["verified"].as_bool()) {
        (Some(error), _) => Some(error.to_owned()),
        (None, Some(true)) => None,
        (None, _) => Some("its rows were not verified".to_owned()),
    };
    Ok(Answer { query: number as u8, runs: times.map(|ms| Run { ms, rows, checksum: None }).collect(), error })
}

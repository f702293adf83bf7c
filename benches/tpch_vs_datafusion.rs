//! The 22 queries on Onward against single-process DataFusion: same run, same files, same threads, same allocator,
//! interleaved query by query, so that a busy moment of the machine hits both.
//!
//! `cargo bench --bench tpch_vs_datafusion -- --scale 1 --functions 1,2,4 --iterations 3`
//!
//! Onward answers through its Flight SQL endpoint, so its times have everything a client sees: without its column cache, or with
//! `--warm` also with it, after one run of each query that is not counted. DataFusion has its defaults and one partition per
//! core, and its rows stay in the process. `--duckdb` adds DuckDB on the same files and on its own tables.
//!
//! `cargo bench --bench tpch_vs_datafusion -- --functions 1 --warm --duckdb`

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use clap::Parser;
use onward_tpch::{Client, Dataset, Oracle, queries};
use support::{BoxError, Server, conditions, cores, load, median, milliseconds};

/// Compares Onward with single-process DataFusion.
#[derive(Parser)]
struct Options {
    /// Scale factor
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Numbers of functions to compare
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    functions: Vec<u32>,
    /// Runs of each query on each side; medians are compared
    #[arg(long, default_value_t = 3)]
    iterations: usize,
    /// `all`, or numbers as in 1,6,10-12
    #[arg(long, default_value = "all")]
    queries: String,
    /// Directory of the data, made when missing
    #[arg(long)]
    data: Option<PathBuf>,
    /// Also with the column cache, warm
    #[arg(long)]
    warm: bool,
    /// Only with the column cache
    #[arg(long)]
    only_warm: bool,
    /// Also DuckDB, on the same files and on its own tables
    #[arg(long)]
    duckdb: bool,
    /// Files per table, when the data is made
    #[arg(long, default_value_t = 1)]
    parts: u32,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// One side of the comparison.
struct Side {
    name: String,
    /// Per query, its runs in milliseconds.
    runs_ms: Vec<Vec<f64>>,
}

/// Onward with a fixed number of functions, on a server of its own, so that functions of another number are not in its way.
struct Onward {
    server: Server,
    client: Client,
}

impl Onward {
    async fn start(dataset: &Dataset, functions: u32, is_warm: bool) -> Result<Self, BoxError> {
        let server = Server::start(&dataset.dir).await?;
        let mut client = server.connect().await?;
        for statement in dataset.registration()? {
            client.update(&statement).await?;
        }
        client.update(&format!("SET onward.functions = {functions}")).await?;
        client.update(&format!("SET onward.cache = {is_warm}")).await?;
        Ok(Self { server, client })
    }
}

/// DuckDB in a Python process.
struct DuckDb {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Its tables and spills: they go with it, however it ends.
    _home: tempfile::TempDir,
}

impl DuckDb {
    fn start(dataset: &Dataset, kind: &str) -> Result<Self, BoxError> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/duckdb_side.py");
        let home = tempfile::tempdir()?;
        let mut process = Command::new("python3")
            .env("TMPDIR", home.path())
            .args([script, &dataset.dir.to_string_lossy(), kind, &cores().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("python3 cannot be started: {error}"))?;
        let (Some(questions), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("python3 has no pipes".into());
        };
        let mut duckdb = Self { process, questions, answers: BufReader::new(answers), _home: home };
        let ready = duckdb.answer()?;
        println!("DuckDB {} ({kind})", ready["ready"]);
        Ok(duckdb)
    }

    /// Milliseconds and rows.
    fn run(&mut self, sql: &str) -> Result<(f64, usize), BoxError> {
        writeln!(self.questions, "{}", serde_json::json!({ "sql": sql }))?;
        let answer = self.answer()?;
        match (answer["ms"].as_f64(), answer["rows"].as_u64()) {
            (Some(ms), Some(rows)) => Ok((ms, rows as usize)),
            _ => Err(format!("DuckDB answered {answer}").into()),
        }
    }

    fn answer(&mut self) -> Result<serde_json::Value, BoxError> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err("the DuckDB process ended; what it said is above".into()),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    let numbers = queries::parse_selection(&options.queries)?;
    let dataset = support::dataset(options.scale, options.parts, options.data.clone())?;
    println!("TPC-H scale {} in {}, {} iterations", options.scale, dataset.dir.display(), options.iterations);
    println!("{}", conditions());

    let oracle = Oracle::new(&dataset, cores()).await?;
    let mut sides = vec![Side { name: "DataFusion".to_owned(), runs_ms: vec![Vec::new(); numbers.len()] }];
    let mut engines = Vec::new();
    let mut add = |name: String| sides.push(Side { name, runs_ms: vec![Vec::new(); numbers.len()] });
    for functions in &options.functions {
        if !options.only_warm {
            engines.push((Onward::start(&dataset, *functions, false).await?, false));
            add(format!("onward {functions}"));
        }
        if options.warm || options.only_warm {
            engines.push((Onward::start(&dataset, *functions, true).await?, true));
            add(format!("warm {functions}"));
        }
    }
    let mut duckdbs = Vec::new();
    if options.duckdb {
        for kind in ["parquet", "own"] {
            duckdbs.push(DuckDb::start(&dataset, kind)?);
            add(format!("duck {kind}"));
        }
    }
    // What is warm has run every query once.
    for number in &numbers {
        let sql = queries::sql(*number, options.scale);
        for (engine, _) in engines.iter_mut().filter(|(_, is_warm)| *is_warm) {
            engine.client.query(&sql).await.map_err(|error| format!("Q{number}: {error}"))?;
        }
    }
    for (at, number) in numbers.iter().copied().enumerate() {
        let sql = queries::sql(number, options.scale);
        for _ in 0..options.iterations {
            let start = Instant::now();
            let expected: usize = oracle.run(&sql).await?.iter().map(|batch| batch.num_rows()).sum();
            sides[0].runs_ms[at].push(milliseconds(start.elapsed()));
            for ((engine, _), side) in engines.iter_mut().zip(&mut sides[1..]) {
                let start = Instant::now();
                let rows =
                    engine.client.query(&sql).await.map_err(|error| format!("Q{number}, {}: {error}", side.name))?;
                side.runs_ms[at].push(milliseconds(start.elapsed()));
                let found: usize = rows.batches.iter().map(|batch| batch.num_rows()).sum();
                if found != expected {
                    return Err(format!("Q{number}, {}: {found} rows, not {expected}", side.name).into());
                }
            }
            let count = engines.len();
            for (duckdb, side) in duckdbs.iter_mut().zip(&mut sides[1 + count..]) {
                side.runs_ms[at].push(duckdb.run(&sql)?.0);
            }
        }
        if at == 0 {
            print_header(&sides);
        }
        let medians: Vec<f64> = sides.iter().map(|side| median(&side.runs_ms[at])).collect();
        print_row(&format!("Q{number}"), &medians);
    }
    let totals: Vec<f64> = sides.iter().map(|side| side.runs_ms.iter().map(|runs| median(runs)).sum()).collect();
    print_row("total", &totals);
    println!("{} at the end", load());
    for (engine, _) in engines {
        drop(engine.client);
        engine.server.stop().await;
    }
    Ok(())
}

fn print_header(sides: &[Side]) {
    let names = sides[1..].iter().map(|side| format!("{:>12} {:>6}", side.name, "x"));
    println!("{:<6} {:>12} {}", "ms", sides[0].name, names.collect::<String>());
}

fn print_row(name: &str, medians: &[f64]) {
    let others = medians[1..].iter().map(|onward| format!("{onward:>12.1} {:>6.2}", onward / medians[0]));
    println!("{name:<6} {:>12.1} {}", medians[0], others.collect::<String>());
}

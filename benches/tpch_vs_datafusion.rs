//! The 22 queries on Onward against single-process DataFusion: same run, same files, same threads, same allocator,
//! interleaved query by query, so that a busy moment of the machine hits both.
//!
//! `cargo bench --bench tpch_vs_datafusion -- --scale 1 --functions 1,2,4 --iterations 3`
//!
//! Onward answers through its Flight SQL endpoint, without a cache, so its times have everything a client sees.
//! DataFusion has its defaults and one partition per core, and its rows stay in the process.

mod support;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use onward_tpch::{Client, Dataset, GenerateOptions, Oracle, queries};
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
    async fn start(dataset: &Dataset, functions: u32) -> Result<Self, BoxError> {
        let server = Server::start(&dataset.dir).await?;
        let mut client = server.connect().await?;
        for statement in dataset.registration()? {
            client.update(&statement).await?;
        }
        client.update(&format!("SET onward.functions = {functions}")).await?;
        Ok(Self { server, client })
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    let numbers = queries::parse_selection(&options.queries)?;
    let out = options.data.clone().unwrap_or_else(|| Dataset::default_dir(options.scale));
    let data = GenerateOptions { parts: options.parts, progress: true, ..GenerateOptions::new(options.scale, out) };
    let dataset = Dataset::open_or_generate(&data)?;
    println!("TPC-H scale {} in {}, {} iterations", options.scale, dataset.dir.display(), options.iterations);
    println!("{}", conditions());

    let oracle = Oracle::new(&dataset, cores()).await?;
    let mut sides = vec![Side { name: "DataFusion".to_owned(), runs_ms: vec![Vec::new(); numbers.len()] }];
    let mut engines = Vec::new();
    for functions in &options.functions {
        engines.push(Onward::start(&dataset, *functions).await?);
        sides.push(Side { name: format!("onward {functions}"), runs_ms: vec![Vec::new(); numbers.len()] });
    }
    for (at, number) in numbers.iter().copied().enumerate() {
        let sql = queries::sql(number, options.scale);
        for _ in 0..options.iterations {
            let start = Instant::now();
            let expected: usize = oracle.run(&sql).await?.iter().map(|batch| batch.num_rows()).sum();
            sides[0].runs_ms[at].push(milliseconds(start.elapsed()));
            for (engine, side) in engines.iter_mut().zip(&mut sides[1..]) {
                let start = Instant::now();
                let rows =
                    engine.client.query(&sql).await.map_err(|error| format!("Q{number}, {}: {error}", side.name))?;
                side.runs_ms[at].push(milliseconds(start.elapsed()));
                let found: usize = rows.batches.iter().map(|batch| batch.num_rows()).sum();
                if found != expected {
                    return Err(format!("Q{number}, {}: {found} rows, not {expected}", side.name).into());
                }
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
    for engine in engines {
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

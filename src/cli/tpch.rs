//! `onward tpch`: the wiring; the work is in [`onward_tpch`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, Subcommand};
use onward_coordinator::{Coordinator, CoordinatorOptions};
use onward_endpoint::{FlightServer, ServerOptions};
use onward_tpch::{Client, Dataset, Functions, GenerateOptions, Report, RunOptions, queries};
use onward_wire::Config;

use super::global::GlobalArgs;
use super::{Failure, INTERRUPTED, runtime};
use crate::client::until_listening;
use crate::shell::Interrupts;

#[derive(Debug, Subcommand)]
pub(super) enum TpchCommand {
    /// Make the tables as Parquet files: dbgen's rows
    Gen(GenArgs),
    /// Run the queries through server, planner, functions and exchange; print a report
    Run(RunArgs),
}

#[derive(Debug, Args)]
pub(super) struct GenArgs {
    /// Scale factor: 1 is 6 million lineitems, 0.35 GB of Parquet
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Directory to write into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Files per table
    #[arg(long, default_value_t = 1, value_name = "N")]
    parts: u32,
}

const RUN_HELP: &str = "\
Examples:
  onward tpch run --scale 1 --verify
  onward tpch run --scale 1 --functions 4 --verify --connect grpc://127.0.0.1:50051
  onward tpch run --scale 10 --functions 2 --queries 1,6,18 --iterations 3 --json report.json

Exit code 1 when a query failed or was wrong.";

#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub(super) struct RunArgs {
    /// Scale factor
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Directory with the tables; made when missing [default: below ~/.cache/onward/tpch]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Run on a server that is there instead of one of its own; it must be able to read the files
    #[arg(long, value_name = "URL")]
    connect: Option<String>,
    /// Try again for so long while nobody listens there: a server that is being started [default: 0]
    #[arg(long, value_name = "SECONDS", requires = "connect")]
    wait: Option<u64>,
    /// Which queries: all, or numbers such as 1,6,18
    #[arg(long, default_value = "all", value_name = "LIST", value_parser = Selection::parse)]
    queries: Selection,
    /// Runs of each query
    #[arg(long, default_value_t = 1, value_name = "N")]
    iterations: u32,
    /// Read every table from its files in every run, and keep no columns
    #[arg(long)]
    no_cache: bool,
    /// Compare the rows with the committed answers, or with single-process DataFusion where there are none
    #[arg(long)]
    verify: bool,
    /// Write the report as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Selection(Vec<u8>);

impl Selection {
    fn parse(text: &str) -> Result<Self, String> {
        queries::parse_selection(text).map(Self).map_err(|error| error.to_string())
    }
}

pub(super) fn run(global: &GlobalArgs, command: TpchCommand) -> Result<(), Failure> {
    global.start_log("warn")?;
    let runtime = runtime()?;
    let done = match command {
        TpchCommand::Gen(args) => {
            let options = GenerateOptions { parts: args.parts, ..GenerateOptions::new(args.scale, args.out) };
            runtime.block_on(generate(options, |options| onward_tpch::generate(options).map(drop)))
        }
        TpchCommand::Run(args) => {
            let config = global.config()?;
            runtime.block_on(run_queries(config, args))
        }
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Makes data on a thread of its own; Ctrl-C stops it and leaves nothing behind.
async fn generate<T: Send + 'static>(
    mut options: GenerateOptions,
    make: impl FnOnce(&GenerateOptions) -> onward_tpch::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    options.progress = true;
    let cancelled = options.cancelled.clone();
    let mut interrupts = Interrupts::listen()?;
    let mut making = tokio::task::spawn_blocking(move || make(&options));
    let made = tokio::select! {
        made = &mut making => made,
        () = interrupts.next() => {
            cancelled.store(true, Ordering::Relaxed);
            making.await
        }
    };
    match made? {
        Err(onward_tpch::Error::Cancelled) => {
            eprintln!("cancelled");
            Err(Failure::Code(INTERRUPTED))
        }
        made => Ok(made?),
    }
}

async fn run_queries(config: Config, args: RunArgs) -> Result<(), Failure> {
    let out = args.data.unwrap_or_else(|| Dataset::default_dir(args.scale));
    let dataset = generate(GenerateOptions::new(args.scale, out), Dataset::open_or_generate).await?;
    let functions = match config.functions {
        0 => Functions::Auto,
        count => Functions::Exactly(count),
    };
    let options = RunOptions {
        queries: args.queries.0,
        iterations: args.iterations,
        functions,
        cache: !args.no_cache,
        verify: args.verify,
        progress: true,
    };
    let mut interrupts = Interrupts::listen()?;
    let wait = Duration::from_secs(args.wait.unwrap_or(0));
    let report = tokio::select! {
        report = run_on(args.connect, wait, config, &dataset, &options) => report?,
        () = interrupts.next() => {
            eprintln!("cancelled");
            return Err(Failure::Code(INTERRUPTED));
        }
    };
    println!("{report}");
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, json)
            .map_err(|error| Failure::Message(format!("cannot write {}: {error}", path.display())))?;
    }
    if report.is_success() { Ok(()) } else { Err(Failure::Code(1)) }
}

async fn run_on(
    server: Option<String>,
    wait: Duration,
    config: Config,
    dataset: &Dataset,
    options: &RunOptions,
) -> Result<Report, Failure> {
    let Some(url) = server else { return through_server(config, dataset, options).await };
    until_listening(&url, wait).await;
    let url = url.strip_prefix("grpc://").map_or(url.clone(), |place| format!("http://{place}"));
    let mut client = Client::connect(&url).await?;
    Ok(onward_tpch::run(&mut client, dataset, options).await?)
}

/// A server on a free loopback port, in this process, and its client: the way of any other query.
async fn through_server(config: Config, dataset: &Dataset, options: &RunOptions) -> Result<Report, Failure> {
    let coordinator =
        Coordinator::start(CoordinatorOptions { config: config.clone(), ..CoordinatorOptions::default() }).await?;
    coordinator.warm_up().await?;
    let report = serve_and_run(&coordinator, config, dataset, options).await;
    coordinator.shutdown(Duration::ZERO).await;
    report
}

async fn serve_and_run(
    coordinator: &Arc<Coordinator>,
    config: Config,
    dataset: &Dataset,
    options: &RunOptions,
) -> Result<Report, Failure> {
    let listen = ([127, 0, 0, 1], 0).into();
    let server = ServerOptions { listen, allow_paths: vec![dataset.dir.clone()], config, ..ServerOptions::default() };
    let server = FlightServer::bind(server, coordinator.clone()).await?;
    let url = format!("http://{}", server.local_addr());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));
    let report = async {
        let mut client = Client::connect(&url).await?;
        Ok::<_, Failure>(onward_tpch::run(&mut client, dataset, options).await?)
    };
    let report = report.await;
    drop(stop);
    serving.await??;
    report
}

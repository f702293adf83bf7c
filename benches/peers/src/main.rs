//! TPC-H on Onward, Ballista, datafusion-distributed and single-process DataFusion: the same files, as many worker processes
//! and threads each, one after the other on this machine.
//!
//! ```text
//! peers run ---> servers of an engine (children: workers, scheduler) <--- client (a child): one line per run of a query
//! ```
//!
//! Every engine has its own way of configuration, and keeps its defaults but for what is said in its module.

mod ballista;
mod datafusion_alone;
mod distributed;
mod onward;
mod report;
mod servers;
mod tpch;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Ballista's executor has it, and Onward.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Anything may go wrong, and is printed.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare
    Run(RunArgs),
    /// A Ballista scheduler, until it is killed
    #[command(hide = true)]
    BallistaScheduler { port: u16 },
    /// A Ballista executor, until it is killed
    #[command(hide = true)]
    BallistaExecutor { scheduler: u16, port: u16, grpc_port: u16, threads: usize, work_dir: PathBuf },
    /// A worker of datafusion-distributed, until it is killed
    #[command(hide = true)]
    DistributedWorker { port: u16 },
    /// Runs queries and prints `query run milliseconds rows checksum` or `query run error message`
    #[command(hide = true)]
    Client(ClientArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// Scale factor of the data
    #[arg(long, default_value_t = 10.0)]
    scale: f64,
    /// The tables, as `onward tpch gen` makes them
    #[arg(long)]
    data: PathBuf,
    /// Binary of Onward
    #[arg(long)]
    onward: PathBuf,
    /// Worker processes of each engine
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Threads of each worker process
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Runs of each query; the median counts
    #[arg(long, default_value_t = 3)]
    iterations: usize,
    /// Partitions that Ballista cuts an exchange into
    #[arg(long, default_value_t = 8)]
    ballista_partitions: usize,
    /// Which queries
    #[arg(long, value_delimiter = ',', default_values_t = 1..=22)]
    queries: Vec<u8>,
    /// Which engines
    #[arg(long, value_delimiter = ',', default_values = ["datafusion", "onward-no-cache", "onward", "distributed", "ballista"])]
    engines: Vec<Engine>,
}

#[derive(clap::Args)]
struct ClientArgs {
    engine: Engine,
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    iterations: usize,
    /// Of each worker, or for DataFusion of the process
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    partitions: usize,
    #[arg(long, value_delimiter = ',')]
    queries: Vec<u8>,
    /// Of the scheduler or the workers
    #[arg(long, value_delimiter = ',')]
    ports: Vec<u16>,
}

/// What runs the queries.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// In one process, with as many threads as the others have in all
    Datafusion,
    /// Every run reads the files
    OnwardNoCache,
    /// As it comes: later runs find columns in memory
    Onward,
    Distributed,
    Ballista,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Datafusion => "DataFusion, one process",
            Self::OnwardNoCache => "Onward, no column cache",
            Self::Onward => "Onward",
            Self::Distributed => "datafusion-distributed 4.0.0",
            Self::Ballista => "Ballista 55.0.0",
        }
    }
}

fn main() -> Result<(), BoxError> {
    let command = Cli::parse().command;
    let threads = match &command {
        Command::BallistaExecutor { threads, .. } => *threads,
        // The threads of a worker of datafusion-distributed are those of its runtime.
        Command::DistributedWorker { .. } => servers::threads_told()?,
        Command::Client(args) => args.threads,
        Command::Run(_) | Command::BallistaScheduler { .. } => 2,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_stack_size(32 << 20)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => report::run(args).await,
            Command::BallistaScheduler { port } => ballista::scheduler(port).await,
            Command::BallistaExecutor { scheduler, port, grpc_port, threads, work_dir } => {
                ballista::executor(scheduler, port, grpc_port, threads, work_dir).await
            }
            Command::DistributedWorker { port } => distributed::worker(port).await,
            Command::Client(args) => tpch::client(args).await,
        }
    })
}

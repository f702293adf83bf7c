//! The command line: what each subcommand takes, and who does it.

mod available;
mod global;
mod host;
mod lambda;
mod metrics;
mod serve;
mod settings;
mod sql;
mod tls;
mod tpch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::global::GlobalArgs;

const AFTER_HELP: &str = "\
Examples:
  onward sql -c \"select * from 'lineitem.parquet' limit 5\"   query a file, start nothing by hand
  onward sql                                                 a shell; \\? lists its commands
  onward serve --data-dir ./data                             Arrow Flight SQL on 127.0.0.1:50051
  onward sql --connect grpc://127.0.0.1:50051                a shell on that server
  onward tpch run --scale 1 --verify                         make TPC-H data, run the 22 queries, check them

Settings come from flags, then ONWARD_<NAME> variables, then --config FILE, then defaults; `onward config` lists them.";

/// A serverless SQL engine: functions come and go in milliseconds, state stays in shared memory.
#[derive(Debug, Parser)]
#[command(name = "onward", version, propagate_version = true, after_help = AFTER_HELP, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run SQL: a shell, or statements from -c, -f or standard input
    Sql(sql::SqlArgs),
    /// Serve Arrow Flight SQL
    Serve(serve::ServeArgs),
    /// Join a coordinator and run functions for it
    Host(host::HostArgs),
    /// Run as a function of AWS Lambda: each invocation is a host
    #[command(after_help = lambda::AFTER_HELP)]
    Lambda,
    /// Make the certificates of a cluster
    #[command(subcommand)]
    Tls(tls::TlsCommand),
    /// Make TPC-H data; run and verify the 22 queries
    #[command(subcommand)]
    Tpch(tpch::TpchCommand),
    /// Print all settings, as a file that --config takes
    Config,
    /// Runs as the process that functions are forked from: started by a host, never by a user.
    #[command(hide = true)]
    Zygote,
}

/// Why a command ended badly: what `main` prints and returns.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Printed as `error: ...`; exit code 1.
    Message(String),
    /// Everything was said already; this is the exit code.
    Code(u8),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Message(error.to_string())
    }
}

/// Exit code of a run that Ctrl-C ended, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Parses the arguments and runs the command. No runtime exists before the command is known: a function builds its own.
///
/// Exit codes: 0 success, 1 the work failed, 2 the arguments are wrong, 130 interrupted.
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    onward_wire::panics::log_caught(|thread| thread.starts_with("onward"));
    let done = match command {
        Command::Zygote => return onward_executor::zygote::run(),
        Command::Sql(args) => sql::run(&global, args),
        Command::Serve(args) => serve::run(&global, args),
        Command::Host(args) => host::run(&global, args),
        Command::Lambda => lambda::run(&global),
        Command::Tls(command) => tls::run(command),
        Command::Tpch(command) => tpch::run(&global, command),
        Command::Config => settings::run(&global),
    };
    onward_coordinator::end_threads();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Code(code)) => ExitCode::from(code),
        Err(Failure::Message(message)) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The runtime of the commands that have one.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("onward").build()?)
}

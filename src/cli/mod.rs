//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A serverless SQL engine: functions come and go, state stays.
#[derive(Debug, Parser)]
#[command(name = "onward", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs as a function process: started by a host, never by a user.
    #[command(hide = true)]
    Function {
        /// The host's Unix socket.
        #[arg(long)]
        socket: PathBuf,
    },
}

/// Parses the arguments and runs the command. No runtime exists before the command is known: a function builds its own.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        // Command::Function { socket } => onward_executor::function::run_from_env(&socket),
        Command::Function { .. } => ExitCode::FAILURE,
    }
}

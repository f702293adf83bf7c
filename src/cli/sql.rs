//! `onward sql`.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use onward_coordinator::CoordinatorOptions;

use super::global::GlobalArgs;
use super::{Failure, INTERRUPTED, runtime};
use crate::client::{Client, Embedded, Remote, RemoteOptions, until_listening};
use crate::output::{Format, OutputError, Target};
use crate::repl::{self, Repl};
use crate::shell::{self, Display, Interrupts, RunError, report, statements};

const AFTER_HELP: &str = "\
Examples:
  onward sql -c \"select count(*) from 'lineitem.parquet'\"
  onward sql -c \"select * from 'orders.parquet'\" --format csv > orders.csv
  onward sql -f report.sql --format parquet --output report.parquet
  echo 'select 1' | onward sql
  onward sql --data-dir ./data          tables made here are there next time
  onward sql --connect grpc://127.0.0.1:50051

Without -c and -f, SQL is read from standard input; a terminal there gets a shell.
A script stops at its first error with exit code 1.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct SqlArgs {
    /// SQL to run, one or more statements; may be repeated
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    commands: Vec<String>,
    /// File with SQL to run, after all -c; may be repeated
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How results are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write results into a file, which appears when all statements are done
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Run on a server instead: grpc://host:port or grpc+tls://host:port
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    connect: Option<String>,
    /// Try again for so long while nobody listens there: a server that is being started [default: 0]
    #[arg(long, value_name = "SECONDS", requires = "connect")]
    wait: Option<u64>,
    /// File with the server's token; ONWARD_TOKEN may hold the token itself
    #[arg(long, value_name = "FILE", requires = "connect")]
    token_file: Option<PathBuf>,
    /// Authorities that may sign the server's certificate (PEM) [default: the system's]
    #[arg(long, value_name = "FILE", requires = "connect")]
    ca_file: Option<PathBuf>,
    /// Keep the catalog and tables here [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print how long each statement took, to standard error
    #[arg(long)]
    timing: bool,
    /// Print results only: no row counts, no progress
    #[arg(short, long, conflicts_with = "timing")]
    quiet: bool,
}

/// A piece of SQL and what to call it in errors.
struct Script {
    name: Option<String>,
    text: String,
}

pub(super) fn run(global: &GlobalArgs, args: SqlArgs) -> Result<(), Failure> {
    global.start_log("warn")?;
    let config = global.config()?;
    let scripts = read_scripts(&args)?;
    let target = match &args.output {
        Some(path) => Target::file(path)?,
        None => Target::stdout(),
    };
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let interrupts = Interrupts::listen()?;
        let client = connect(&args, global, config).await?;
        let display =
            Display { format: args.format, target, is_talkative: !args.quiet, asks_cost: args.timing, max_rows: None };
        Ok::<_, Failure>((client, display, interrupts))
    });
    let (client, mut display, mut interrupts) = done?;
    let client = std::sync::Arc::new(client);
    let done = match scripts {
        Some(scripts) => runtime.block_on(run_scripts(&client, &scripts, &display, &mut interrupts, args.timing)),
        None => {
            display.max_rows = matches!(args.format, Format::Table).then_some(repl::MAX_ROWS);
            display.asks_cost = !args.quiet;
            let options = repl::Options { timing: !args.quiet, server: args.connect.clone() };
            Repl::new(client.clone(), display, interrupts, options)?.run(&runtime)
        }
    };
    runtime.block_on(client.close());
    done
}

/// The SQL to run; `None` asks for a shell.
fn read_scripts(args: &SqlArgs) -> Result<Option<Vec<Script>>, Failure> {
    let mut scripts: Vec<Script> = args.commands.iter().map(|text| Script { name: None, text: text.clone() }).collect();
    for path in &args.files {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| Failure::Message(format!("cannot read {name}: {error}")))?;
        scripts.push(Script { name: Some(name), text });
    }
    if scripts.is_empty() {
        if std::io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Failure::Message(format!("cannot read SQL from standard input: {error}")))?;
        scripts.push(Script { name: Some("standard input".to_owned()), text });
    }
    Ok(Some(scripts))
}

async fn connect(args: &SqlArgs, global: &GlobalArgs, config: onward_wire::Config) -> Result<Client, Failure> {
    let Some(url) = &args.connect else {
        let data_dir = args.data_dir.clone();
        let options = CoordinatorOptions { config, data_dir, ..CoordinatorOptions::default() };
        return Ok(Client::Embedded(Box::new(Embedded::new(options))));
    };
    let token = match &args.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::Message(format!("cannot read the token file {}: {error}", path.display())))?;
            Some(text.trim().to_owned())
        }
        None => std::env::var("ONWARD_TOKEN").ok().filter(|token| !token.is_empty()),
    };
    let follows_progress = !args.quiet && std::io::stderr().is_terminal();
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok().filter(|user| !user.is_empty());
    let options = RemoteOptions { url: url.clone(), token, ca_file: args.ca_file.clone(), user, follows_progress };
    until_listening(url, Duration::from_secs(args.wait.unwrap_or(0))).await;
    let client = Client::Remote(Box::new(Remote::connect(&options).await?));
    if let Some(functions) = global.forced_functions() {
        client.collect(&format!("SET onward.functions = {functions}")).await?;
    }
    Ok(client)
}

async fn run_scripts(
    client: &Client,
    scripts: &[Script],
    display: &Display,
    interrupts: &mut Interrupts,
    timing: bool,
) -> Result<(), Failure> {
    for script in scripts {
        for statement in statements::split(&script.text).0 {
            let summary = match shell::run(client, &statement.text, display, interrupts).await {
                Ok(summary) => summary,
                // The reader of a pipe has seen enough, as `head` does.
                Err(RunError::Output(OutputError::Closed)) => return Ok(()),
                Err(error @ (RunError::Interrupted | RunError::Abandoned)) => {
                    eprintln!("{error}");
                    return Err(Failure::Code(INTERRUPTED));
                }
                Err(RunError::Query(error)) => {
                    let message = report::describe(&error, &statement, script.name.as_deref());
                    return Err(Failure::Message(message));
                }
                Err(RunError::Output(error)) => return Err(error.into()),
            };
            if timing {
                eprintln!("{}", summary.timing());
            }
        }
    }
    match display.target.commit() {
        Err(OutputError::Closed) => Ok(()),
        done => Ok(done?),
    }
}

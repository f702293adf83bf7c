//! Statements from text to printed results: what the shell, `-c`, `-f` and standard input share.

mod interrupt;
mod progress;
pub mod report;
pub mod statements;

use std::time::{Duration, Instant};

use futures::StreamExt;
use onward_coordinator::accounting::QueryCost;
use onward_wire::{ErrorKind, WireError};

pub use self::interrupt::Interrupts;
use self::progress::ProgressLine;
use crate::client::Client;
use crate::output::{self, Format, OutputError, Target};

/// How results are shown.
pub struct Display {
    /// Their format.
    pub format: Format,
    /// Where they go.
    pub target: Target,
    /// Say how many rows there were, show progress.
    pub is_talkative: bool,
    /// Ask what statements took and cost.
    pub asks_cost: bool,
    /// Rows printed before the rest is left out, with a note; `None` prints all.
    pub max_rows: Option<usize>,
}

/// A statement that went well.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Rows it gave.
    pub rows: usize,
    /// There were more, and they were left out.
    pub is_cut: bool,
    /// From sending it to its last row.
    pub elapsed: Duration,
    /// What it took and cost, where that was asked for and is known.
    pub cost: Option<QueryCost>,
}

impl Summary {
    /// The line below the rows.
    pub fn timing(&self) -> String {
        let cost = self.cost.as_ref().map(|cost| format!(" ({cost})")).unwrap_or_default();
        format!("Time: {:.3} ms{cost}", self.elapsed.as_secs_f64() * 1e3)
    }
}

/// A statement that went wrong.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine said so.
    #[error("{0}")]
    Query(WireError),
    /// Its rows could not be written.
    #[error("{0}")]
    Output(#[from] OutputError),
    /// Ctrl-C: it had no effect.
    #[error("cancelled")]
    Interrupted,
    /// Ctrl-C while a server ran a statement that writes: it may have committed before it heard of that.
    #[error("cancelled, unless the server had committed it already: look before you run it again")]
    Abandoned,
}

/// Runs one statement and prints its rows. An interrupt ends the statement, here and on every function, unless that commits
/// what it wrote: then it runs to its end, which is what is told.
///
/// # Errors
/// [`RunError`]. What was printed until then stays.
pub async fn run(
    client: &Client,
    sql: &str,
    display: &Display,
    interrupts: &mut Interrupts,
) -> Result<Summary, RunError> {
    interrupts.forget();
    let line = ProgressLine::new(display.is_talkative);
    let started = Instant::now();
    tracing::debug!(sql, "sent");
    let executed = tokio::select! {
        executed = client.execute(sql) => executed,
        () = interrupts.next() => match client.is_remote() && statements::may_write(sql) {
            true => return Err(RunError::Abandoned),
            false => return Err(RunError::Interrupted),
        },
        () = line.follow(None) => unreachable!("the line is drawn until it is dropped"),
    };
    let mut running = executed.map_err(RunError::Query)?;
    let mut rows = 0;
    let mut is_cut = false;
    let mut writer = None;
    if !running.schema.fields().is_empty() {
        writer = Some(output::open(display.format, running.schema.clone(), &display.target, display.is_talkative)?);
    }
    loop {
        let batch = tokio::select! {
            // A flood of batches must not hide the interrupt.
            biased;
            () = interrupts.next() => match running.cancel().await {
                true => return Err(RunError::Interrupted),
                false => continue,
            },
            batch = running.stream.next() => batch,
            () = line.follow(running.progress.clone()) => None,
        };
        let Some(batch) = batch else { break };
        let batch = batch.map_err(RunError::Query)?;
        let room = display.max_rows.map_or(usize::MAX, |max| max - rows);
        is_cut = batch.num_rows() > room;
        let shown = if is_cut { batch.slice(0, room) } else { batch };
        rows += shown.num_rows();
        if let Some(writer) = &mut writer {
            line.clear();
            writer.write(&shown)?;
        }
        if is_cut {
            break;
        }
    }
    line.clear();
    let elapsed = started.elapsed();
    let cost = if display.asks_cost { running.cost().await } else { None };
    drop(running);
    match writer {
        Some(writer) => writer.finish()?,
        None => acknowledge(display)?,
    }
    Ok(Summary { rows, is_cut, elapsed, cost })
}

/// Statements without rows say that they worked, to people only.
fn acknowledge(display: &Display) -> Result<(), OutputError> {
    use std::io::Write;

    if display.is_talkative && matches!(display.format, Format::Table | Format::Vertical) {
        let mut out = &display.target;
        out.write_all(b"OK\n").and_then(|()| out.flush()).map_err(|error| display.target.describe(error))?;
    }
    Ok(())
}

impl RunError {
    /// The engine cancelled it, or the user did.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Interrupted | Self::Abandoned => true,
            Self::Query(error) => error.kind() == ErrorKind::Cancelled,
            Self::Output(_) => false,
        }
    }
}

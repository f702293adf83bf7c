//! Runs the queries through the whole system, as a client of its Flight SQL endpoint, and verifies their rows.

mod client;
mod report;
mod statistics;

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Serialize, Serializer};

pub use self::client::{Client, Rows};
pub use self::report::{QueryReport, Report, Statistics};

use crate::answers::{self, Answer};
use crate::compare::{self, Comparison};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::oracle::Oracle;
use crate::queries;

/// How many functions a query gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Functions {
    /// The planner chooses.
    #[default]
    Auto,
    /// Every stage that can be split that often runs on this many.
    Exactly(u32),
}

impl FromStr for Functions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u32>() {
            Ok(count) if count > 0 => Ok(Self::Exactly(count)),
            _ if text.eq_ignore_ascii_case("auto") => Ok(Self::Auto),
            _ => Err(format!("`{text}` is neither `auto` nor a number of functions from 1 on")),
        }
    }
}

impl fmt::Display for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(count) => count.fmt(f),
        }
    }
}

impl Serialize for Functions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Exactly(count) => serializer.serialize_u32(*count),
        }
    }
}

/// What to run and how.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Query numbers, see [`queries::parse_selection`].
    pub queries: Vec<u8>,
    /// Runs of each query, at least 1. There is no warm-up: the first run is reported like the others.
    pub iterations: u32,
    /// Functions per query.
    pub functions: Functions,
    /// Read and fill the column cache.
    pub cache: bool,
    /// Compare the rows with the committed answer, or with single-process DataFusion where none is committed.
    pub verify: bool,
    /// Show on standard error, when it is a terminal, what runs.
    pub progress: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        let queries = (1..=queries::COUNT).collect();
        Self { queries, iterations: 1, functions: Functions::Auto, cache: true, verify: false, progress: false }
    }
}

/// Registers the tables of `dataset` with the server, replacing tables of these names, and runs the queries. The server
/// must be able to read the files.
///
/// # Errors
/// When the tables cannot be registered, functions not be set, or an answer not be made. A query that fails or is wrong
/// is no error: see [`Report::is_success`].
pub async fn run(client: &mut Client, dataset: &Dataset, options: &RunOptions) -> Result<Report> {
    if options.iterations == 0 || options.queries.is_empty() {
        return Err(Error::Invalid("give at least one query and one iteration".to_owned()));
    }
    for statement in dataset.registration()? {
        client.update(&statement).await?;
    }
    let functions = match options.functions {
        Functions::Auto => 0,
        Functions::Exactly(count) => count,
    };
    client.update(&format!("SET onward.functions = {functions}")).await?;
    client.update(&format!("SET onward.cache = {}", options.cache)).await?;
    let bar = progress_bar(options);
    let answers = if options.verify { right_answers(dataset, options, &bar).await? } else { HashMap::new() };
    let mut queries = Vec::new();
    for number in options.queries.iter().copied() {
        let answer = answers.get(&number);
        let report = run_query(client, number, dataset.scale, answer, options.iterations, &bar).await;
        if !report.is_success() {
            bar.println(format!("Q{number}: {}", report.error.as_deref().unwrap_or("wrong")));
        }
        queries.push(report);
    }
    bar.finish_and_clear();
    let engine_version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Report { scale: dataset.scale, functions: options.functions, engine_version, queries })
}

async fn run_query(
    client: &mut Client,
    number: u8,
    scale: f64,
    answer: Option<&Answer>,
    iterations: u32,
    bar: &ProgressBar,
) -> QueryReport {
    let sql = queries::sql(number, scale);
    let mut report = QueryReport { query: number, ..QueryReport::default() };
    for iteration in 1..=iterations {
        bar.set_message(format!("Q{number}, run {iteration} of {iterations}"));
        let start = Instant::now();
        let rows = match client.query(&sql).await {
            Ok(rows) => rows,
            Err(message) => {
                report.error = Some(message);
                break;
            }
        };
        report.runs_ms.push(milliseconds(start.elapsed()));
        report.rows = rows.batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if let Some(answer) = answer {
            judge_rows(&mut report, &rows, answer);
        }
        bar.inc(1);
        if iteration == iterations || !report.is_success() {
            report.set_statistics(statistics::fetch(client, &rows.query_id).await);
        }
        if !report.is_success() {
            break;
        }
    }
    report
}

fn judge_rows(report: &mut QueryReport, rows: &Rows, answer: &Answer) {
    let found = match compare::rows_of(&rows.batches) {
        Ok(cells) => compare::compare(report.query, &cells, answer),
        Err(error) => Comparison::Wrong(error.to_string()),
    };
    report.verified = Some(found.is_right());
    match found {
        Comparison::Exact => {}
        Comparison::Within(place) => report.inexact = Some(place),
        Comparison::Wrong(place) => report.error = Some(place),
    }
}

/// The answers of all queries, by number: before the first of them runs, so that single-process DataFusion, which knows no
/// limit, does not take the memory that the engine was given.
async fn right_answers(dataset: &Dataset, options: &RunOptions, bar: &ProgressBar) -> Result<HashMap<u8, Answer>> {
    let mut answers = HashMap::new();
    let mut oracle = None;
    for number in options.queries.iter().copied() {
        if let Some(answer) = answers::committed(number, dataset.scale)? {
            answers.insert(number, answer);
            continue;
        }
        bar.set_message(format!("answer of Q{number}, by single-process DataFusion"));
        let oracle = match &oracle {
            Some(oracle) => oracle,
            None => {
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                oracle.insert(Oracle::new(dataset, threads).await?)
            }
        };
        answers.insert(number, oracle.answer(number).await?);
    }
    Ok(answers)
}

fn progress_bar(options: &RunOptions) -> ProgressBar {
    let runs = options.queries.len() as u64 * u64::from(options.iterations);
    let shown = options.progress && std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} runs, {elapsed}");
    let bar = ProgressBar::with_draw_target(Some(runs), target);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn milliseconds(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_auto_or_a_number() {
        assert_eq!("AUTO".parse(), Ok(Functions::Auto));
        assert_eq!("4".parse(), Ok(Functions::Exactly(4)));
        for wrong in ["0", "-1", "two", ""] {
            assert!(wrong.parse::<Functions>().is_err(), "{wrong}");
        }
    }
}

//! EXPLAIN ANALYZE: the stages with what a run measured, merged over all attempts.

use std::fmt::Write;
use std::time::Duration;

use onward_wire::message::{AttemptDone, OperatorMetrics, StoreRequests};

use super::{class_line, count, operators, sizing_line, stage_line};
use crate::graph::{Stage, StageGraph};
use crate::sizing::display_bytes;

/// What the finished attempts of one stage did, in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageRun {
    /// Attempts that finished.
    pub attempts: u32,
    /// Attempts that began before all of their input was there.
    pub early: u32,
    /// Rows they wrote.
    pub rows: u64,
    /// Bytes they wrote.
    pub bytes: u64,
    /// Their durations, added up.
    pub elapsed_us: u64,
    /// The longest of their durations.
    pub longest_us: u64,
    /// The largest peak of operator memory.
    pub peak_memory_bytes: u64,
    /// Bytes spilled to local disk.
    pub spilled_bytes: u64,
    /// Requests to object stores.
    pub requests: StoreRequests,
    /// By operator, in pre-order of the plan the functions ran.
    pub operators: Vec<OperatorMetrics>,
}

impl StageRun {
    /// Adds an attempt: values of the same operator and name are summed.
    pub fn add(&mut self, done: &AttemptDone) {
        self.attempts += 1;
        self.rows += done.output.rows();
        self.bytes += done.output.bytes();
        self.elapsed_us += done.elapsed_us;
        self.longest_us = self.longest_us.max(done.elapsed_us);
        self.peak_memory_bytes = self.peak_memory_bytes.max(done.peak_memory_bytes);
        self.spilled_bytes += done.spilled_bytes;
        self.requests.add(&done.requests);
        if self.operators.len() < done.operators.len() {
            self.operators.resize_with(done.operators.len(), OperatorMetrics::default);
        }
        for (total, operator) in self.operators.iter_mut().zip(&done.operators) {
            for metric in &operator.values {
                match total.values.iter_mut().find(|known| known.name == metric.name) {
                    Some(known) => known.value = known.value.saturating_add(metric.value),
                    None => total.values.push(metric.clone()),
                }
            }
        }
    }
}

/// The stages of `graph` as EXPLAIN shows them, with `runs` (one per stage, in order) beside estimates and operators.
pub fn analyze(graph: &StageGraph, runs: &[StageRun], elapsed: Duration) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", sizing_line(&graph.sizing));
    let _ = writeln!(out, "elapsed: {elapsed:.1?}");
    for (position, stage) in graph.stages.iter().enumerate() {
        let run = runs.get(position).cloned().unwrap_or_default();
        let _ = writeln!(out, "{}", stage_line(stage, stage.id == graph.result().id));
        if let Some(class) = class_line(stage) {
            let _ = writeln!(out, "  {class}");
        }
        let _ = writeln!(out, "  {}", run_line(stage, &run));
        let lines = operators(&stage.plan);
        // The root is the partition writer: functions run what is below it.
        let skipped = usize::from(stage.is_repartitioned() && run.operators.len() + 1 == lines.len());
        for (index, (depth, line)) in lines.into_iter().enumerate() {
            let metrics = index.checked_sub(skipped).and_then(|index| run.operators.get(index)).map(metrics_text);
            let metrics = metrics.unwrap_or_default();
            let _ = writeln!(out, "{:indent$}{line}{metrics}", "", indent = 4 + 2 * depth);
        }
    }
    out
}

fn run_line(stage: &Stage, run: &StageRun) -> String {
    let mut line = format!(
        "{}, {:.1?} in all, {:.1?} the longest; wrote {}, {}",
        count(u64::from(run.attempts), "attempt"),
        Duration::from_micros(run.elapsed_us),
        Duration::from_micros(run.longest_us),
        count(run.rows, "row"),
        display_bytes(run.bytes),
    );
    if let Some(rows) = stage.estimate.rows {
        let _ = write!(line, " (estimated {})", count(rows, "row"));
    }
    if run.early > 0 {
        let _ = write!(line, "; {} began early", run.early);
    }
    let requests = &run.requests;
    if requests.table > 0 {
        let (bytes, requests) = (display_bytes(requests.table_bytes), count(requests.table, "request"));
        let _ = write!(line, "; read {bytes} of tables in {requests}");
    }
    if requests.range_bytes > 0 {
        let _ = write!(line, "; {} from the range tier", display_bytes(requests.range_bytes));
    }
    if run.peak_memory_bytes > 0 {
        let _ = write!(line, "; memory {}", display_bytes(run.peak_memory_bytes));
    }
    if run.spilled_bytes > 0 {
        let _ = write!(line, "; spilled {}", display_bytes(run.spilled_bytes));
    }
    line
}

fn metrics_text(operator: &OperatorMetrics) -> String {
    let values: Vec<String> = operator
        .values
        .iter()
        .map(|metric| format!("{}={}", metric.name, value_text(&metric.name, metric.value)))
        .collect();
    if values.is_empty() { String::new() } else { format!(", metrics=[{}]", values.join(", ")) }
}

/// DataFusion's names tell the unit: times are in nanoseconds, sizes in bytes.
fn value_text(name: &str, value: u64) -> String {
    if name.contains("elapsed") || name.contains("time") {
        format!("{:.1?}", Duration::from_nanos(value))
    } else if name.contains("bytes") || name.contains("mem_used") {
        display_bytes(value)
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use onward_wire::message::{AttemptOutput, Metric, PartitionStats, StoreRequests};
    use onward_wire::{QueryId, StageId};

    use super::*;

    #[test]
    fn metrics_are_merged_over_attempts() {
        let attempt = |number, rows| AttemptDone {
            attempt: StageId::new(QueryId(1), 0).task(number).attempt(0).into(),
            output: AttemptOutput {
                partitions: vec![PartitionStats { partition: 0, rows, bytes: 8 * rows }],
                ..AttemptOutput::default()
            },
            operators: vec![OperatorMetrics {
                values: vec![
                    Metric { name: "output_rows".to_owned(), value: rows },
                    Metric { name: "elapsed_compute".to_owned(), value: 1_500 },
                ],
            }],
            requests: StoreRequests::default(),
            elapsed_us: 10 * rows,
            peak_memory_bytes: rows,
            spilled_bytes: 0,
            sketches: vec![],
        };
        let mut run = StageRun::default();
        run.add(&attempt(0, 3));
        run.add(&attempt(1, 4));
        assert_eq!((run.attempts, run.rows, run.bytes, run.elapsed_us, run.longest_us), (2, 7, 56, 70, 40));
        assert_eq!(metrics_text(&run.operators[0]), ", metrics=[output_rows=7, elapsed_compute=3.0µs]");
    }
}

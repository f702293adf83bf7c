//! EXPLAIN: a query's stages as text ([`text`]), as a graph for graphviz ([`dot`]), and with the metrics of a run
//! ([`analyze`]).

mod analyze;
mod dot;
mod text;

use std::fmt::Write;
use std::sync::Arc;

use datafusion::physical_plan::{ExecutionPlan, displayable};
use onward_wire::message::OutputKind;

pub use analyze::{StageRun, analyze};
pub use dot::dot;
pub use text::text;

use crate::graph::{Alternative, Estimate, Sizing, Stage};
use crate::sizing::display_bytes;

/// The operators of a plan in pre-order, each with its depth and its line.
fn operators(plan: &Arc<dyn ExecutionPlan>) -> Vec<(usize, String)> {
    fn visit(plan: &Arc<dyn ExecutionPlan>, depth: usize, lines: &mut Vec<(usize, String)>) {
        lines.push((depth, displayable(plan.as_ref()).one_line().to_string().trim_end().to_owned()));
        for child in plan.children() {
            visit(child, depth + 1, lines);
        }
    }
    let mut lines = Vec::new();
    visit(plan, 0, &mut lines);
    lines
}

/// `4 functions, 1 thread each: forced by onward.functions`.
fn sizing_line(sizing: &Sizing) -> String {
    format!(
        "{}, {} each: {}",
        count(sizing.functions as u64, "function"),
        count(sizing.threads as u64, "thread"),
        sizing.reason
    )
}

/// `stage 2 (result): 4 tasks over 8 partitions, reads stages 0, 1`.
fn stage_line(stage: &Stage, is_result: bool) -> String {
    let partitions: usize = stage.tasks.iter().map(Vec::len).sum();
    let mut line = format!(
        "stage {}{}: {} over {}",
        stage.id,
        if is_result { " (result)" } else { "" },
        count(stage.tasks.len() as u64, "task"),
        count(partitions as u64, "partition"),
    );
    let inputs: Vec<String> = stage.inputs.iter().map(u32::to_string).collect();
    if !inputs.is_empty() {
        let _ = write!(line, ", reads stage{} {}", if inputs.len() == 1 { "" } else { "s" }, inputs.join(", "));
    }
    line
}

/// `class big: memory-bound, a task keeps about 1.2 GiB, ...`.
fn class_line(stage: &Stage) -> Option<String> {
    let choice = stage.class.as_ref()?;
    Some(format!("class {}: {}", choice.class.name, choice.reason))
}

/// `by hash over 8 partitions, about 1500 rows, 12.0 KiB`.
fn output_line(stage: &Stage, is_result: bool) -> String {
    let mut line = match stage.output {
        _ if is_result => count(stage.output_partitions as u64, "partition"),
        OutputKind::Hash => format!("by hash over {}", count(stage.output_partitions as u64, "partition")),
        OutputKind::RoundRobin => format!("in turns over {}", count(stage.output_partitions as u64, "partition")),
        OutputKind::Preserve => format!("{} as they are", count(stage.output_partitions as u64, "partition")),
        OutputKind::Single => "broadcast".to_owned(),
    };
    line.push_str(&estimate_text(stage.estimate));
    let filters: Vec<String> = stage.key_sources.iter().map(|source| source.filter.to_string()).collect();
    if !filters.is_empty() {
        let _ = write!(line, ", keys of RuntimeFilter {}", filters.join(", "));
    }
    line
}

/// `if stage 0 gives at most 64.0 MiB and 1000 rows: stage 1 is not run, and its rows are joined where they are made`.
fn alternative_line(alternative: &Alternative) -> String {
    format!(
        "if stage {} gives at most {} and {}: stage {} is not run, its rows are joined where they are made",
        alternative.when,
        display_bytes(alternative.most_bytes),
        count(alternative.most_rows, "row"),
        alternative.spares,
    )
}

fn estimate_text(estimate: Estimate) -> String {
    match (estimate.rows, estimate.bytes) {
        (Some(rows), Some(bytes)) => format!(", about {}, {}", count(rows, "row"), display_bytes(bytes)),
        (Some(rows), None) => format!(", about {}", count(rows, "row")),
        (None, Some(bytes)) => format!(", about {}", display_bytes(bytes)),
        (None, None) => String::new(),
    }
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

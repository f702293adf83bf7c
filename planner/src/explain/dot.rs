//! EXPLAIN (FORMAT dot).

use std::fmt::Write;

use onward_wire::message::OutputKind;

use super::{count, operators, output_line, sizing_line, stage_line};
use crate::graph::Stage;
use crate::plan::Planned;

/// The stages as a graph for graphviz: a box per stage with its operators, an edge per exchange. Draw it with
/// `dot -Tsvg`.
pub fn dot(planned: &Planned) -> String {
    let mut out = String::from("digraph query {\n  rankdir=BT;\n  node [shape=box, fontname=monospace];\n");
    match planned {
        Planned::Coordinator { plan, reason } => {
            let lines = operators(plan).into_iter().map(|(depth, line)| "  ".repeat(depth) + &line);
            let _ = writeln!(out, "  coordinator [label=\"{}\"];", label(format!("coordinator: {reason}"), lines));
        }
        Planned::Stages(graph) => {
            let _ = writeln!(out, "  label=\"{}\";", escape(&sizing_line(&graph.sizing)));
            for stage in &graph.stages {
                let title = stage_line(stage, stage.id == graph.result().id);
                let lines = operators(&stage.plan).into_iter().map(|(depth, line)| "  ".repeat(depth) + &line);
                let _ = writeln!(out, "  s{} [label=\"{}\"];", stage.id, label(title, lines));
            }
            for stage in &graph.stages {
                for input in &stage.inputs {
                    let producer = &graph.stages[*input as usize];
                    let _ = writeln!(out, "  s{input} -> s{} [label=\"{}\"];", stage.id, escape(&edge(producer)));
                }
            }
            let result = graph.result();
            let _ = writeln!(out, "  result [shape=plaintext];");
            let _ = writeln!(out, "  s{} -> result [label=\"{}\"];", result.id, escape(&output_line(result, true)));
        }
    }
    out.push_str("}\n");
    out
}

fn edge(producer: &Stage) -> String {
    match producer.output {
        OutputKind::Hash => format!("hash {}", producer.output_partitions),
        OutputKind::RoundRobin => format!("round-robin {}", producer.output_partitions),
        OutputKind::Preserve => count(producer.output_partitions as u64, "partition"),
        OutputKind::Single => "broadcast".to_owned(),
    }
}

/// Left-aligned lines. Long ones are cut: a plan's line may hold a file list.
fn label(title: String, lines: impl Iterator<Item = String>) -> String {
    const WIDTH: usize = 100;
    let cut = |line: String| match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    };
    std::iter::once(title).chain(lines).map(|line| escape(&cut(line)) + "\\l").collect()
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

//! EXPLAIN as text.

use std::fmt::Write;

use super::{alternative_line, class_line, operators, output_line, sizing_line, stage_line};
use crate::plan::Planned;

/// The stages in the order they run, each with its tasks, its output, its estimated size and its plan; before them the
/// number of functions and why. A query that runs in the coordinator shows DataFusion's plan and the reason.
pub fn text(planned: &Planned) -> String {
    let mut out = String::new();
    let graph = match planned {
        Planned::Stages(graph) => graph,
        Planned::Coordinator { plan, reason } => {
            let _ = writeln!(out, "coordinator: {reason}");
            for (depth, line) in operators(plan) {
                let _ = writeln!(out, "{:indent$}{line}", "", indent = 2 + 2 * depth);
            }
            return out;
        }
    };
    let _ = writeln!(out, "{}", sizing_line(&graph.sizing));
    for stage in &graph.stages {
        let is_result = stage.id == graph.result().id;
        let _ = writeln!(out, "{}", stage_line(stage, is_result));
        if let Some(class) = class_line(stage) {
            let _ = writeln!(out, "  {class}");
        }
        let _ = writeln!(out, "  output: {}", output_line(stage, is_result));
        if let Some(alternative) = &stage.alternative {
            let _ = writeln!(out, "  {}", alternative_line(alternative));
        }
        for (depth, line) in operators(&stage.plan) {
            let _ = writeln!(out, "{:indent$}{line}", "", indent = 4 + 2 * depth);
        }
    }
    out
}

//! What an attempt's operators measured.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;
use onward_wire::message::{Metric, OperatorMetrics};

/// Metrics of every operator of `planned`, the stage's plan, in pre-order. `ran` is what this attempt ran: the same
/// tree, but where a task runs nothing of a union's child the subtree is one empty leaf, and counts as not measured.
pub(super) fn collect(planned: &Arc<dyn ExecutionPlan>, ran: &Arc<dyn ExecutionPlan>) -> Vec<OperatorMetrics> {
    let mut operators = Vec::new();
    visit(planned, Some(ran), &mut operators);
    operators
}

fn visit(planned: &Arc<dyn ExecutionPlan>, ran: Option<&Arc<dyn ExecutionPlan>>, operators: &mut Vec<OperatorMetrics>) {
    operators.push(ran.map_or_else(OperatorMetrics::default, |ran| OperatorMetrics { values: values(ran) }));
    let children = ran.map_or_else(Vec::new, |ran| ran.children());
    let planned_children = planned.children();
    let is_same_shape = children.len() == planned_children.len();
    for (i, child) in planned_children.into_iter().enumerate() {
        visit(child, children.get(i).copied().filter(|_| is_same_shape), operators);
    }
}

/// An operator's metrics summed over its partitions. Points in time have no sum and stay behind.
fn values(plan: &Arc<dyn ExecutionPlan>) -> Vec<Metric> {
    let Some(metrics) = plan.metrics() else { return vec![] };
    let mut values: Vec<Metric> = Vec::new();
    let mut add = |name: &str, value: usize| match values.iter_mut().find(|metric| metric.name == name) {
        Some(metric) => metric.value += value as u64,
        None => values.push(Metric { name: name.to_owned(), value: value as u64 }),
    };
    for metric in metrics.iter() {
        match metric.value() {
            MetricValue::StartTimestamp(_) | MetricValue::EndTimestamp(_) => {}
            MetricValue::PruningMetrics { name, pruning_metrics } => {
                add(&format!("{name}.pruned"), pruning_metrics.pruned());
                add(&format!("{name}.matched"), pruning_metrics.matched());
            }
            MetricValue::Ratio { name, ratio_metrics } => {
                add(&format!("{name}.part"), ratio_metrics.part());
                add(&format!("{name}.total"), ratio_metrics.total());
            }
            value => add(value.name(), value.as_usize()),
        }
    }
    values
}

/// Bytes that the operators spilled.
pub(super) fn spilled_bytes(operators: &[OperatorMetrics]) -> u64 {
    let spilled = |metric: &&Metric| metric.name == "spilled_bytes";
    operators.iter().flat_map(|operator| &operator.values).filter(spilled).map(|metric| metric.value).sum()
}

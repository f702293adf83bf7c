//! Worker classes: which kind of function a stage runs in.
//!
//! | a stage is | when | what it wants |
//! | --- | --- | --- |
//! | memory-bound | a task keeps 64 MiB or more of build sides, groups, sorted rows, or nobody knows | the cheapest that holds it |
//! | scan-bound | it reads tables, and keeps little | the cheapest vCPUs |
//! | exchange-bound | the rest | the cheapest vCPUs |
//!
//! What a class costs for a stage is its price over its vCPUs: work takes as many vCPU seconds wherever it runs, unless it has to
//! spill. Where no class holds what a task keeps, the one with the most memory spills the least.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, config_err};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::WindowAggExec;

use crate::graph::{Stage, StageGraph};
use crate::sizing::{display_bytes, estimate};
use crate::stage_input::StageInputExec;

/// Less does not matter for where a task runs.
const LITTLE_BYTES: u64 = 64 << 20;
/// A hash table takes about as much again as the rows in it.
const OVERHEAD: u64 = 2;

/// A kind of function that hosts offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerClass {
    /// Its name.
    pub name: String,
    /// Its number in the scheduler; not 0.
    pub id: u16,
    /// Threads of a function; at least 1.
    pub vcpus: u32,
    /// Memory of its operators.
    pub memory_bytes: u64,
    /// A second of a function, in billionths of a US dollar.
    pub nanousd_per_second: u64,
}

impl WorkerClass {
    fn nanousd_per_vcpu_second(&self) -> u64 {
        self.nanousd_per_second / u64::from(self.vcpus.max(1))
    }
}

/// The class of a stage, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassChoice {
    /// The class.
    pub class: WorkerClass,
    /// One line for EXPLAIN.
    pub reason: String,
}

/// Gives each stage the class that costs least for it, or the one that the session wants. Without classes nothing changes.
///
/// # Errors
/// When the session wants a class that no host offers.
pub fn choose_classes(graph: &mut StageGraph, classes: &[WorkerClass], pinned: &str) -> Result<()> {
    let wanted = match (pinned, classes) {
        ("", []) => return Ok(()),
        ("", _) => None,
        (name, _) => match classes.iter().find(|class| class.name == name) {
            Some(class) => Some(class),
            None => {
                let known: Vec<_> = classes.iter().map(|class| class.name.as_str()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return config_err!(
                    "no host offers the worker class `{name}` (onward.class), which takes one with its labels and vCPUs; there is: \
                     {known}"
                );
            }
        },
    };
    let estimates: Vec<_> = graph.stages.iter().map(|stage| stage.estimate.bytes).collect();
    for stage in &mut graph.stages {
        stage.class = Some(match wanted {
            Some(class) => ClassChoice { class: class.clone(), reason: "pinned by onward.class".to_owned() },
            None => choose(stage, classes, &estimates),
        });
    }
    Ok(())
}

fn choose(stage: &Stage, classes: &[WorkerClass], estimates: &[Option<u64>]) -> ClassChoice {
    let kept = kept_bytes(&stage.plan, stage.tasks.len(), estimates);
    let cheapest = |classes: &mut dyn Iterator<Item = &WorkerClass>| {
        classes.min_by_key(|class| (class.nanousd_per_vcpu_second(), class.memory_bytes, class.id)).cloned()
    };
    let price = |class: &WorkerClass| format!("{:.1} µ$ a vCPU second", class.nanousd_per_vcpu_second() as f64 / 1e3);
    let largest = || classes.iter().max_by_key(|class| (class.memory_bytes, u16::MAX - class.id)).cloned();
    let (class, reason) = match kept {
        Kept::Bytes(bytes) if bytes < LITTLE_BYTES => {
            let bound = if stage.reads_tables { "scan-bound" } else { "exchange-bound" };
            let class = cheapest(&mut classes.iter());
            let reason = class.as_ref().map(|class| format!("{bound}, cheapest at {}", price(class)));
            (class, reason)
        }
        Kept::Bytes(bytes) => {
            let keeps = format!("memory-bound, a task keeps about {}", display_bytes(bytes));
            match cheapest(&mut classes.iter().filter(|class| class.memory_bytes >= bytes)) {
                Some(class) => {
                    let memory = display_bytes(class.memory_bytes);
                    let reason = format!("{keeps}, cheapest that holds it in its {memory}, at {}", price(&class));
                    (Some(class), Some(reason))
                }
                None => (largest(), Some(format!("{keeps}, which no class holds: most memory"))),
            }
        }
        Kept::Unknown => (largest(), Some("memory-bound, how much it keeps is not known: most memory".to_owned())),
    };
    // There is a class: whoever calls this has some.
    let class = class.unwrap_or_else(|| classes[0].clone());
    ClassChoice { class, reason: reason.unwrap_or_default() }
}

/// What operators of a task keep at once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    Bytes(u64),
    Unknown,
}

/// Bytes that `plan` gives: by its statistics, else at most what the stages give that it reads.
fn given_bytes(plan: &Arc<dyn ExecutionPlan>, estimates: &[Option<u64>]) -> Option<u64> {
    if let Some(bytes) = estimate(plan).bytes {
        return Some(bytes);
    }
    let mut given = Some(0_u64);
    // It cannot fail: the closure does not.
    let _ = plan.apply(|node| {
        if node.children().is_empty() {
            let input = node.downcast_ref::<StageInputExec>();
            let bytes = input.and_then(|input| estimates.get(input.stage() as usize).copied().flatten());
            given = given.zip(bytes).map(|(given, bytes)| given.saturating_add(bytes));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    given
}

fn kept_bytes(plan: &Arc<dyn ExecutionPlan>, tasks: usize, estimates: &[Option<u64>]) -> Kept {
    let share = tasks.max(1) as u64;
    let (mut bytes, mut is_known) = (0_u64, true);
    let mut keep = |kept: &Arc<dyn ExecutionPlan>, share: u64| match given_bytes(kept, estimates) {
        Some(kept) => bytes = bytes.saturating_add(kept / share * OVERHEAD),
        None => is_known = false,
    };
    // It cannot fail: the closure does not.
    let _ = plan.apply(|node| {
        if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            let is_shared = *join.partition_mode() == PartitionMode::CollectLeft;
            keep(join.left(), if is_shared { 1 } else { share });
        } else if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            keep(join.left(), 1);
        } else if let Some(join) = node.downcast_ref::<CrossJoinExec>() {
            keep(join.left(), 1);
        } else if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
            // A partial one gives its groups on when it has many.
            if *aggregate.mode() != AggregateMode::Partial && !aggregate.group_expr().is_empty() {
                keep(node, share);
            }
        } else if let Some(sort) = node.downcast_ref::<SortExec>() {
            if sort.fetch().is_none() {
                keep(sort.input(), share);
            }
        } else if let Some(window) = node.downcast_ref::<WindowAggExec>() {
            keep(window.input(), share);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if is_known { Kept::Bytes(bytes) } else { Kept::Unknown }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::session::{OnwardOptions, session_config, session_state_builder};
    use crate::{PlanRequest, Planned, plan_query};

    fn class(id: u16, vcpus: u32, memory_bytes: u64, nanousd_per_second: u64) -> WorkerClass {
        WorkerClass { name: format!("c{id}"), id, vcpus, memory_bytes, nanousd_per_second }
    }

    async fn graph(sql: &str) -> StageGraph {
        let config = session_config(2, OnwardOptions::default());
        let state = session_state_builder(config, Arc::default()).build();
        let context = SessionContext::new_with_state(state);
        let plan = context.sql(sql).await.expect("a query").into_unoptimized_plan();
        let request = PlanRequest {
            functions: Some(2),
            vcpus: 2,
            hosts: 1,
            bytes_per_function: 1 << 30,
            bytes_per_host: 1 << 28,
            tiny_query_bytes: 0,
            max_functions: 8,
            skewed_bytes: 0,
            task_bytes: 0,
            finer: 1,
        };
        match plan_query(&context.state(), &plan, &request).await.expect("a plan") {
            Planned::Stages(graph) => graph,
            Planned::Coordinator { reason, .. } => panic!("{reason}"),
        }
    }

    #[tokio::test]
    async fn a_stage_that_keeps_much_gets_memory_and_others_the_cheapest_vcpus() {
        // 20 M rows of 8 bytes are sorted whole: 160 MB, twice for what sorting takes.
        let mut sorted = graph("select value from range(0, 20000000) order by value % 7, value").await;
        let mut light = graph("select sum(value) from range(0, 20000000)").await;
        let (small, big) = (class(1, 1, 128 << 20, 10), class(2, 4, 8 << 30, 100));
        for graph in [&mut sorted, &mut light] {
            choose_classes(graph, &[small.clone(), big.clone()], "").expect("classes");
        }
        let of = |graph: &StageGraph| {
            let stages = graph.stages.iter().filter_map(|stage| stage.class.clone());
            stages.map(|choice| (choice.class.id, choice.reason)).collect::<Vec<_>>()
        };
        let (sorted, light) = (of(&sorted), of(&light));
        assert!(light.iter().all(|(id, reason)| *id == 1 && reason.contains("cheapest at")), "{light:?}");
        assert!(sorted.iter().any(|(id, reason)| *id == 2 && reason.contains("memory-bound")), "{sorted:?}");
    }

    #[tokio::test]
    async fn a_pinned_class_is_used_and_an_unknown_one_is_an_error() {
        let mut graph = graph("select sum(value) from range(0, 1000)").await;
        let classes = [class(1, 1, 1 << 30, 10), class(2, 4, 8 << 30, 100)];
        choose_classes(&mut graph, &classes, "c2").expect("a class");
        assert!(graph.stages.iter().all(|stage| stage.class.as_ref().is_some_and(|choice| choice.class.id == 2)));
        let error = choose_classes(&mut graph, &classes, "c3").expect_err("no class").to_string();
        assert!(error.contains("c3") && error.contains("c1, c2"), "{error}");
        let error = choose_classes(&mut graph, &[], "c3").expect_err("no class").to_string();
        assert!(error.contains("none"), "{error}");
        let mut plain = graph.clone();
        plain.stages.iter_mut().for_each(|stage| stage.class = None);
        choose_classes(&mut plain, &[], "").expect("nothing");
        assert!(plain.stages.iter().all(|stage| stage.class.is_none()));
    }
}
